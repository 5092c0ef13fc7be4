"""Adam with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.training.optimizers.adam import Adam
from gpuspike.training.optimizers.base import Array


class AdamWNumbers(NamedTuple):
    """Adam's, and the share of a weight that decays at a learning rate of 1."""

    gain_mean: float
    gain_square: float
    epsilon: float
    weight_decay: float


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam, after the weights have shrunk by themselves: weights -= learning_rate weight_decay weights.

    A learning rate is in units of the weights, so that weight_decay is in units of their inverse, in a
    training of tau_fast/(C (threshold - leak)). The free numbers of trained constants shrink too, towards
    the model's constants.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (arXiv 1711.05101).
    """

    RATES = ("rate", "correction", "bare_rate")

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueRangeError(f"weight_decay must be 0 or more, got {self.weight_decay!r}")

    def numbers(self) -> Any:
        """See `Leaf.numbers`."""
        return AdamWNumbers(*super().numbers(), self.weight_decay)

    def in_unit(self, unit: float) -> Self:
        """See `Optimizer.in_unit`."""
        return replace(super().in_unit(unit), weight_decay=self.weight_decay / unit)

    def rates(self, learning_rate: float, count: int) -> tuple[float, ...]:
        """Adam's two, and the learning rate."""
        return *super().rates(learning_rate, count), learning_rate

    def reference(self, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """See `Optimizer.reference`."""
        gain_mean, gain_square, epsilon, weight_decay = self.numbers()
        (rate, correction, learning_rate), (mean, square) = rates, state
        mean += gain_mean * (grad - mean)
        square += gain_square * (grad * grad - square)
        weights -= learning_rate * weight_decay * weights
        weights -= rate * mean / (np.sqrt(square) * correction + epsilon)

    @staticmethod
    def compiled() -> Any:
        """See `Leaf.compiled` and `Optimizer`."""
        from numba import njit

        @njit(error_model="numpy", fastmath={"contract"})
        def row(numbers: Any, rates: Any, w: Any, g: Any, state: Any) -> None:
            gain_mean, gain_square, epsilon, weight_decay = numbers
            rate, correction, learning_rate = rates[0], rates[1], rates[2]
            m, s = state[0], state[1]
            for i in range(w.size):
                m[i] += gain_mean * (g[i] - m[i])
                s[i] += gain_square * (g[i] * g[i] - s[i])
                w[i] -= learning_rate * weight_decay * w[i]
                w[i] -= rate * m[i] / (w.dtype.type(math.sqrt(s[i])) * correction + epsilon)

        return row

    device = f"weight -= bare_rate * weight_decay * weight; {Adam.device}"
    device_rates = f"{Adam.device_rates} bare_rate = learning_rate;"
