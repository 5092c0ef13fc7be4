"""Synapses that weigh nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpuspike.substrate.distortions.base import CHIP, Distortion, share
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class DeadSynapses(Distortion):
    """A share of the synapses weighs nothing, unless a synapse is stuck."""

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    dead_synapses: float = share()

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        silicon.amplify(silicon.draw("dead_synapses", silicon.synapses, uniform=True) >= self.dead_synapses)
