"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpuspike.errors import ValueRangeError
from gpuspike.training.optimizers.base import Array, Optimizer


class SGDNumbers(NamedTuple):
    """The share of its velocity that a weight keeps."""

    momentum: float


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum v + g, w -= learning_rate v."""

    STATE = ("velocity",)

    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.momentum < 1.0:
            raise ValueRangeError(f"momentum must lie in [0, 1), got {self.momentum!r}")

    def numbers(self) -> SGDNumbers:
        """See `Leaf.numbers`."""
        return SGDNumbers(self.momentum)

    def reference(self, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """See `Optimizer.reference`."""
        (velocity,) = state
        velocity *= self.momentum
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

    device = """
        velocity = momentum * velocity + grad;
        weight -= rate * velocity;
    """
