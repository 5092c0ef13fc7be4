"""Spikes that are seen at ticks only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.substrate.distortions.base import NO_CHANCE, Distortion, spread
from gpuspike.substrate.silicon import Clock

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class TimeGrid(Distortion):
    """Input spikes, spikes and bias spikes are seen at the next multiple of time_grid."""

    scope: ClassVar[str] = NO_CHANCE
    device: ClassVar[bool] = True

    time_grid: float = spread(time=True)

    def time_noise(self) -> float:
        """See `Distortion.time_noise`: a spike comes at any time before its tick."""
        return self.time_grid / math.sqrt(12.0)

    def check(self, substrate: Substrate) -> None:
        """See `Distortion.check`."""
        end = substrate.clock.end
        if self.time_grid > end:
            raise ValueRangeError(
                "substrate.time_grid must not be coarser than the trial, "
                f"substrate.trial_end={end!r}, got {self.time_grid!r}"
            )

    def check_window(self, window: float, unit: float) -> None:
        """See `Distortion.check_window`."""
        if self.time_grid > window:
            raise ConfigError(
                "substrate.time_grid must not be coarser than the window of the inputs, "
                f"{window / unit:g} tau_syn, got {self.time_grid / unit!r}"
            )

    def clock(self, clock: Clock) -> Clock:
        """See `Distortion.clock`."""
        return clock._replace(grid=self.time_grid)
