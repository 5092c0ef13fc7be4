"""Thresholds that differ from trial to trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpuspike.neuron import LIF
from gpuspike.substrate.distortions.base import TRIAL, Array, Distortion, spread
from gpuspike.substrate.silicon import Trials


@dataclass(frozen=True)
class ThresholdNoise(Distortion):
    """A normal number is added to each neuron's threshold in each trial, but for dead and always-on ones."""

    scope: ClassVar[str] = TRIAL
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    threshold_noise: float = spread()

    def factor(self, neuron: LIF, dtype: Any) -> Array:
        """Deviation of a trial's threshold in units of threshold - leak; of the shape of the latter."""
        return dtype.type(self.threshold_noise) / np.asarray(neuron.span, dtype)

    def lift(self, trials: Trials) -> Array:
        """See `Distortion.lift`."""
        factor = self.factor(trials.neuron, trials.like.dtype)
        lift = trials.normals("threshold_noise")
        if factor.ndim:  # of each neuron, or of each on each chip
            factor = trials.constant(factor[:, None] if factor.ndim > 1 else factor)
        lift *= factor if factor.ndim else factor[()]
        return lift
