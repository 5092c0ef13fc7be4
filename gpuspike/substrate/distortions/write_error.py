"""Weights that come out beside what was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpuspike.substrate.distortions.base import CHIP, Distortion, spread
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class WriteError(Distortion):
    """A normal number is added to each programmed weight, the same each time that it is written.

    Unlike a gain's, the error does not vanish with the weight: a synapse written to 0 is none no more.
    """

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    write_std: float = spread()

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        silicon.error = self.write_std * silicon.draw("write_std", silicon.synapses)
