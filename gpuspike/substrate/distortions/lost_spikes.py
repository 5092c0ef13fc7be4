"""Spikes that are lost on their way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpuspike.substrate.distortions.base import SPIKE, Array, Distortion, share
from gpuspike.substrate.silicon import Trials


@dataclass(frozen=True)
class LostSpikes(Distortion):
    """A share of the neurons' spikes is lost."""

    scope: ClassVar[str] = SPIKE
    device: ClassVar[bool] = True

    lost_spikes: float = share()

    def delay(self, delay: Array | None, trials: Trials) -> Array | None:
        """See `Distortion.delay`."""
        lost = trials.lost("lost_spikes", self.lost_spikes)
        return np.where(lost, np.inf, 0.0 if delay is None else delay).astype(trials.like.dtype)
