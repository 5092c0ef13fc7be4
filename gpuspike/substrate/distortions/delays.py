"""Delays as a chip can have them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.network.delays import KINDS, shape
from gpuspike.substrate.distortions.base import CHIP, Array, Distortion, spread, value
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


def _longest(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueRangeError(f"substrate.{name} must be positive (inf: no limit), got {value!r}")


@dataclass(frozen=True)
class DelayCircuits(Distortion):
    """Delays that a network learns are clipped to the chip's range, rounded to its grid, and lie about that.

    Gradients pass straight through clipping and rounding. No delay is below 0; a network that learns none has
    none on the chip.

    Attributes:
        delay_min, delay_max: range;  delay_lsb: step of the grid, from `delay_min` on.
        delay_std: from one delay to the other, drawn once a chip.
    """

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True

    delay_min: float = spread(time=True)
    delay_max: float = value(math.inf, time=True, rule=_longest)
    delay_lsb: float = spread(time=True)
    delay_std: float = spread(time=True)

    def check(self, substrate: Substrate) -> None:
        """See `Distortion.check`."""
        del substrate
        if self.delay_max < self.delay_min:
            raise ValueRangeError(
                f"substrate.delay_max must be substrate.delay_min ({self.delay_min!r}) or more, "
                f"got {self.delay_max!r}"
            )

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        if self.delay_std:  # of a network without delays, too: a chip is the same under all of them
            (n_pre, n_out), kinds = silicon.synapses, {}
            for kind in KINDS:
                drawn = silicon.draw(f"{kind}_delay", shape(kind, 1, n_pre, n_out)[1:])
                kinds[kind] = self.delay_std * drawn
            silicon.delay_spread = kinds
        if silicon.held_delays is not None:
            silicon.held_delays = silicon.held_delays.map(lambda _, delays: self._held(delays))

    def _held(self, delays: Array) -> Array:
        held = np.clip(delays.astype(np.float64), self.delay_min, self.delay_max)
        if self.delay_lsb:
            steps = np.rint((held - self.delay_min) / self.delay_lsb)
            if self.delay_max < math.inf:
                most = math.floor((self.delay_max - self.delay_min) / self.delay_lsb * (1.0 + 1e-9))
                steps = np.minimum(steps, most)
            held = self.delay_min + self.delay_lsb * steps
        return held.astype(delays.dtype)
