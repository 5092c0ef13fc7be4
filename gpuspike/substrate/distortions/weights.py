"""The weights that a chip can hold: a range and a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.network.layers import Layer
from gpuspike.substrate.distortions.base import NO_CHANCE, Array, Distortion, spread, value

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate


BITS = (2, 24)
"""Of a weight, its sign included: the fewest and the most; a float32 has no more."""


@dataclass(frozen=True)
class Weights(Distortion):
    """Weights are clipped to +-weight_max, then rounded to multiples of a step.

    Attributes:
        weight_max: largest |weight|, one for all layers or one each; empty: no limit.
        weight_bits: bits of a weight with its sign: 2^(bits - 1) - 1 steps up to weight_max; 0: no grid.
        weight_lsb: the step itself, instead of bits; 0: no grid.
    """

    scope: ClassVar[str] = NO_CHANCE
    compiled: ClassVar[bool] = True
    device: ClassVar[bool] = True

    weight_max: tuple[float, ...] = value((), less_is_worse=True)
    weight_bits: int = value(0, less_is_worse=True)
    weight_lsb: float = spread()

    def check(self, substrate: Substrate) -> None:
        """See `Distortion.check`."""
        del substrate
        if not all(0.0 < most < math.inf for most in self.weight_max):
            raise ValueRangeError(
                f"substrate.weight_max must be positive and finite, got {list(self.weight_max)}"
            )
        if self.weight_bits and not BITS[0] <= self.weight_bits <= BITS[1]:
            raise ValueRangeError(
                f"substrate.weight_bits must be 0 (no grid) or from {BITS[0]}, sign included, to {BITS[1]}, "
                f"got {self.weight_bits}"
            )
        if self.weight_bits and self.weight_lsb:
            raise ValueRangeError(
                "substrate.weight_bits and substrate.weight_lsb both set the grid: one of them must be 0, "
                f"got {self.weight_bits} and {self.weight_lsb!r}; with substrate.weight_lsb=0 bits do"
            )
        if self.weight_bits and not self.weight_max:
            raise ValueRangeError("substrate.weight_bits needs a range, substrate.weight_max, got none")
        if self.weight_max and self.weight_lsb > min(self.weight_max):
            raise ValueRangeError(
                f"substrate.weight_max must be at least one step, substrate.weight_lsb={self.weight_lsb!r}, "
                f"got {list(self.weight_max)}"
            )

    def check_fit(self, layers: Sequence[Layer]) -> None:
        """See `Distortion.check_fit`."""
        if len(self.weight_max) not in (0, 1, len(layers)):
            raise ConfigError(
                f"substrate.weight_max must have one entry, or one for each of the {len(layers)} layers, "
                f"got {len(self.weight_max)}"
            )

    def most(self, layer: int) -> float:
        """See `Distortion.most`."""
        if not self.weight_max:
            return math.inf
        return self.weight_max[layer if len(self.weight_max) > 1 else 0]

    def step(self, layer: int) -> float:
        """Distance of a layer's weights on their grid; 0 without a grid."""
        return self.most(layer) / (2 ** (self.weight_bits - 1) - 1) if self.weight_bits else self.weight_lsb

    def program(self, weights: Array, layer: int) -> Array:
        """See `Distortion.program`."""
        most, step = self.most(layer), self.step(layer)
        if step == 0.0:
            return weights if most == math.inf else np.clip(weights, -most, most)
        steps = weights * weights.dtype.type(1.0 / step)
        np.rint(steps, out=steps)
        if most < math.inf:  # the last step that still lies in the range
            last = math.floor(most / step * (1.0 + 1e-9))
            np.clip(steps, -last, last, out=steps)
        steps *= weights.dtype.type(step)
        return steps
