"""Time constants that differ from the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.neuron import Parameter
from gpuspike.substrate.distortions.base import CHIP, Distortion, shift, spread
from gpuspike.substrate.silicon import Silicon

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


@dataclass(frozen=True)
class TimeConstants(Distortion):
    """The chip's means are shifted, and neurons lie about them; what is drawn at or below 0 is drawn again.

    Attributes:
        tau_mem_shift, tau_syn_shift: of the mean from the model's value; one that leaves none is refused.
        tau_mem_std, tau_syn_std: from neuron to neuron, for which there is no compiled step.
    """

    scope: ClassVar[str] = CHIP
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    tau_mem_shift: float = shift(time=True)
    tau_mem_std: float = spread(time=True)
    tau_syn_shift: float = shift(time=True)
    tau_syn_std: float = spread(time=True)

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """See `Distortion.draw`.

        Raises:
            ValueRangeError: a shift that leaves no time constant.
        """
        del substrate
        silicon.tau_mem = _drawn(silicon, "tau_mem", silicon.tau_mem, self.tau_mem_shift, self.tau_mem_std)
        silicon.tau_syn = _drawn(silicon, "tau_syn", silicon.tau_syn, self.tau_syn_shift, self.tau_syn_std)


def _drawn(silicon: Silicon, kind: str, value: Parameter, shift: float, std: float) -> Parameter:
    """Positive time constants of a layer: the model's value shifted, or numbers about it."""
    if not np.all(value + shift > 0.0):
        raise ValueRangeError(
            f"substrate.{kind}_shift must leave {kind} positive, got {shift!r} on {value!r}"
        )
    if not std or np.all(np.isinf(value)):  # a spread of infinity is none
        return value + shift
    drawn = value + shift + std * silicon.draw(kind, (silicon.layer.n_out,))
    means = np.broadcast_to(value, drawn.shape)
    # Those of each chip go on with that chip's own numbers.
    streams = silicon.dice.streams(f"{kind}_again", silicon.number)
    for row, mean, again in zip(drawn, means, streams, strict=True):
        while (wrong := row <= 0.0).any():
            silicon.counts["time_constants_drawn_again"] += int(wrong.sum())
            row[wrong] = mean[wrong] + shift + std * again.standard_normal(int(wrong.sum()))
    return drawn
