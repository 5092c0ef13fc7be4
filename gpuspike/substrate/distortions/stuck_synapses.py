"""Synapses that do not hold what is written to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.substrate.distortions.base import CHIP, Distortion, share
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class StuckSynapses(Distortion):
    """A share of the synapses weighs what it likes, evenly over the range and on the grid, without a gain."""

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    stuck_synapses: float = share()

    def check(self, substrate: Substrate) -> None:
        """See `Distortion.check`."""
        if self.stuck_synapses and substrate.most(0) == np.inf:
            raise ValueRangeError("substrate.stuck_synapses needs a range, substrate.weight_max, got none")

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        number = silicon.number
        at = silicon.draw("stuck_synapses", silicon.synapses, uniform=True) < self.stuck_synapses
        anywhere = 2.0 * silicon.draw("stuck_at", silicon.synapses, uniform=True) - 1.0
        stuck = substrate.programmed(anywhere * substrate.most(number), number)
        dead = silicon.dead  # which no synapse could wake
        silicon.stuck = np.where(at if dead is None else at & ~dead[:, None], stuck, np.nan)
