"""Adam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.training.optimizers.base import Array, Optimizer


class AdamNumbers(NamedTuple):
    """What the two means take over of the new, and what keeps the division from zero."""

    gain_mean: float
    gain_square: float
    epsilon: float


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam.

        mean   += (1 - beta1) (grad - mean)
        square += (1 - beta2) (grad^2 - square)
        weights -= rate mean/(correction sqrt(square) + epsilon)

    A gradient has the inverse of a weight's unit, and so has epsilon: a training takes it in units of
    tau_fast/(C (threshold - leak)).

    Source: Kingma and Ba, ICLR 2015 (arXiv 1412.6980), algorithm 1.
    """

    STATE = ("mean", "square")
    RATES = ("rate", "correction")
    COUNTS = True
    RATE_UNITS = 1

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= value < 1.0:
                raise ValueRangeError(f"{name} must lie in [0, 1), got {value!r}")
        if not self.epsilon > 0.0:
            raise ValueRangeError(f"epsilon must be positive, got {self.epsilon!r}")

    def numbers(self) -> AdamNumbers:
        """See `Leaf.numbers`."""
        return AdamNumbers(1.0 - self.beta1, 1.0 - self.beta2, self.epsilon)

    def in_unit(self, unit: float) -> Self:
        """See `Optimizer.in_unit`."""
        return replace(self, epsilon=self.epsilon / unit)

    def rates(self, learning_rate: float, count: int) -> tuple[float, ...]:
        """The rate, and the correction of the square's root."""
        return learning_rate / (1.0 - self.beta1**count), 1.0 / math.sqrt(1.0 - self.beta2**count)

    def reference(self, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """See `Optimizer.reference`."""
        (gain_mean, gain_square, epsilon), (rate, correction), (mean, square) = self.numbers(), rates, state
        mean += gain_mean * (grad - mean)
        square += gain_square * (grad * grad - square)
        weights -= rate * mean / (np.sqrt(square) * correction + epsilon)

    @staticmethod
    def compiled() -> Any:
        """See `Leaf.compiled` and `Optimizer`."""
        from numba import njit

        @njit(error_model="numpy", fastmath={"contract"})
        def row(numbers: Any, rates: Any, w: Any, g: Any, state: Any) -> None:
            gain_mean, gain_square, epsilon = numbers
            rate, correction, m, s = rates[0], rates[1], state[0], state[1]
            for i in range(w.size):
                m[i] += gain_mean * (g[i] - m[i])
                s[i] += gain_square * (g[i] * g[i] - s[i])
                w[i] -= rate * m[i] / (w.dtype.type(math.sqrt(s[i])) * correction + epsilon)

        return row

    device = """
        mean += gain_mean * (grad - mean);
        square += gain_square * (grad * grad - square);
        weight -= rate * mean / (correction * sqrt(square) + epsilon);
    """
    device_rates = """
        rate = learning_rate / (1.0 - pow(beta1, count));
        correction = 1.0 / sqrt(1.0 - pow(beta2, count));
    """
