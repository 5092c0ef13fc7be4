"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gpuspike.errors import ValueRangeError
from gpuspike.training.optimizers.base import Array, Optimizer


class SGDNumbers(NamedTuple):
    """The share of its velocity that a weight keeps."""

    momentum: float


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum v + g, w -= learning_rate v."""

    CONFIG = ("momentum",)
    STATE = ("velocity",)

    def __init__(self, weights: Sequence[Array], kernels: Any = None, momentum: float = 0.0) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueRangeError(f"momentum must lie in [0, 1), got {momentum!r}")
        self.momentum = momentum
        super().__init__(weights, kernels)

    def numbers(self) -> SGDNumbers:
        """See `Leaf.numbers`."""
        return SGDNumbers(self.momentum)

    @staticmethod
    def reference(numbers: Any, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """See `Optimizer.reference`."""
        (velocity,) = state
        velocity *= numbers.momentum
        velocity += grad
        weights -= rates[0] * velocity

    @staticmethod
    def compiled() -> Any:
        """See `Leaf.compiled` and `Optimizer`."""
        from numba import njit

        @njit(error_model="numpy")
        def row(numbers: Any, rates: Any, w: Any, g: Any, state: Any) -> None:
            momentum, rate, v = numbers.momentum, rates[0], state[0]
            for i in range(w.size):
                v[i] = v[i] * momentum + g[i]
                w[i] -= rate * v[i]

        return row
