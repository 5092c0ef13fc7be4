"""Input spikes that do not arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpuspike.substrate.distortions.base import TRIAL, Array, Distortion, share
from gpuspike.substrate.silicon import Trials


@dataclass(frozen=True)
class LostInputs(Distortion):
    """A share of the input spikes does not arrive."""

    scope: ClassVar[str] = TRIAL
    device: ClassVar[bool] = True

    lost_inputs: float = share()

    def arrive(self, times: Array, trials: Trials) -> None:
        """See `Distortion.arrive`."""
        times[...] = np.where(trials.lost("lost_inputs", self.lost_inputs), np.inf, times)
