"""Spikes that go out early or late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gpuspike.substrate.distortions.base import SPIKE, Array, Distortion, spread
from gpuspike.substrate.silicon import Trials


@dataclass(frozen=True)
class SpikeJitter(Distortion):
    """A normal number is added to a spike's time; no spike comes before 0 by it."""

    scope: ClassVar[str] = SPIKE
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    spike_jitter: float = spread(time=True)

    def time_noise(self) -> float:
        """See `Distortion.time_noise`."""
        return self.spike_jitter

    def delay(self, delay: Array | None, trials: Trials) -> Array | None:
        """See `Distortion.delay`."""
        own = trials.normals("spike_jitter")
        own *= own.dtype.type(self.spike_jitter)
        return own if delay is None else delay + own
