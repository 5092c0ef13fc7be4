"""Synapses that are stronger or weaker than written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpuspike.substrate.distortions.base import CHIP, Distortion, spread
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class Gain(Distortion):
    """Each synapse's weight is multiplied by 1 + gain_std z; a gain may come out negative."""

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    gain_std: float = spread()

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`."""
        del substrate
        silicon.amplify(1.0 + self.gain_std * silicon.draw("gain", silicon.synapses))
