"""Input spikes that come early or late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpuspike.substrate.distortions.base import TRIAL, Array, Distortion, spread
from gpuspike.substrate.silicon import Trials


@dataclass(frozen=True)
class InputJitter(Distortion):
    """A normal number is added to the time of each input spike; times before 0 are reflected there."""

    scope: ClassVar[str] = TRIAL
    device: ClassVar[bool] = True

    input_jitter: float = spread(time=True)

    def arrive(self, times: Array, trials: Trials) -> None:
        """See `Distortion.arrive`."""
        np.abs(times + self.input_jitter * trials.normals("input_jitter"), out=times)
