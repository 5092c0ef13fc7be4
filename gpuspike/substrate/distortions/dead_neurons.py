"""Neurons that never spike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpuspike.substrate.distortions.base import CHIP, Distortion, share
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class DeadNeurons(Distortion):
    """A share of the hidden neurons never spikes, whatever else is drawn; a class is given one that works."""

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    dead_neurons: float = share()

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        if silicon.last:
            return
        silicon.dead = silicon.draw("dead_neurons", (silicon.layer.n_out,), uniform=True) < self.dead_neurons
        silicon.amplify(~silicon.dead[:, None])
