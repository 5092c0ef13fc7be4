"""Delays that lie about what was programmed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpuspike.network.delays import KINDS, shape
from gpuspike.substrate.distortions.base import CHIP, Distortion, spread
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class DelaySpread(Distortion):
    """A normal number is added to each delay, which does not come below 0 by it.

    It is drawn under a network without delays, too: a chip is the same under all of them.
    """

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    delay_std: float = spread(time=True)

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        n_pre, n_out = silicon.synapses
        silicon.delay_spread = {
            kind: self.delay_std * silicon.draw(f"{kind}_delay", shape(kind, 1, n_pre, n_out)[1:])
            for kind in KINDS
        }
