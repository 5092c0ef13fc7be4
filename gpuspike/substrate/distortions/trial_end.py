"""The end of the trial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gpuspike.errors import ValueRangeError
from gpuspike.substrate.distortions.base import NO_CHANCE, Distortion, value
from gpuspike.substrate.silicon import Clock


def _positive(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueRangeError(f"substrate.{name} must be positive, got {value!r}")


@dataclass(frozen=True)
class TrialEnd(Distortion):
    """Input spikes, spikes and bias spikes behind trial_end are not seen; inf: never."""

    scope: ClassVar[str] = NO_CHANCE
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    trial_end: float = value(math.inf, time=True, rule=_positive, less_is_worse=True)

    def clock(self, clock: Clock) -> Clock:
        """See `Distortion.clock`."""
        return clock._replace(end=self.trial_end)
