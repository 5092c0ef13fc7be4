"""Delays as a chip can hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.substrate.distortions.base import NO_CHANCE, Array, Distortion, spread, value

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


def _longest(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueRangeError(f"substrate.{name} must be positive (inf: no limit), got {value!r}")


@dataclass(frozen=True)
class DelayRange(Distortion):
    """Delays that a network learns are clipped to the chip's range and rounded to its grid.

    Gradients pass straight through both. A network that learns none has none on the chip.

    Attributes:
        delay_min, delay_max: range;  delay_lsb: step of the grid, from `delay_min` on.
    """

    scope: ClassVar[str] = NO_CHANCE
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    delay_min: float = spread(time=True)
    delay_max: float = value(math.inf, time=True, rule=_longest, less_is_worse=True)
    delay_lsb: float = spread(time=True)

    def check(self, substrate: Substrate) -> None:
        """See `Distortion.check`."""
        del substrate
        if self.delay_max < self.delay_min:
            raise ValueRangeError(
                f"substrate.delay_max must be substrate.delay_min ({self.delay_min!r}) or more, "
                f"got {self.delay_max!r}"
            )

    def hold(self, delays: Array) -> Array:
        """See `Distortion.hold`."""
        held = np.clip(delays.astype(np.float64), self.delay_min, self.delay_max)
        if self.delay_lsb:
            steps = np.rint((held - self.delay_min) / self.delay_lsb)
            if self.delay_max < math.inf:
                most = math.floor((self.delay_max - self.delay_min) / self.delay_lsb * (1.0 + 1e-9))
                steps = np.minimum(steps, most)
            held = self.delay_min + self.delay_lsb * steps
        return held.astype(delays.dtype)
