"""Thresholds that differ from the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuspike.substrate.distortions.base import CHIP, Distortion, shift, spread
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class Threshold(Distortion):
    """The chip's mean is shifted, and neurons lie about it; one at or below its leak is always on.

    Attributes:
        threshold_shift: of the mean from the model's value.
        threshold_std: from neuron to neuron.
    """

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    threshold_shift: float = shift()
    threshold_std: float = spread()

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        n_out = silicon.layer.n_out
        silicon.threshold = silicon.threshold + self.threshold_shift
        if self.threshold_std:
            mean = np.broadcast_to(silicon.threshold, (silicon.n_chip, n_out))
            silicon.threshold = mean + self.threshold_std * silicon.draw("threshold", (n_out,))
