"""Optimisers and learning-rate schedules; they step only the replicas that are asked to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import Kernels

Array = NDArray[Any]


class Optimizer(Protocol):
    """An optimiser with its state, arrays with the replica axis first."""

    def step(
        self,
        weights: Sequence[Array],
        grads: Sequence[Array],
        learning_rate: float,
        active: NDArray[np.bool_],
    ) -> None:
        """Steps the weights of the active replicas in place; the others and their state stay as they are."""
        ...

    def state(self) -> dict[str, Array]:
        """Its arrays by name, for a checkpoint; not copied."""
        ...


class Adam:
    """Adam.

    Source: Kingma and Ba, ICLR 2015 (arXiv 1412.6980), algorithm 1.
    """

    def __init__(
        self,
        weights: Sequence[Array],
        kernels: Kernels,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0.0 <= value < 1.0:
                raise ValueRangeError(f"{name} must lie in [0, 1), got {value!r}")
        if not epsilon > 0.0:
            raise ValueRangeError(f"epsilon must be positive, got {epsilon!r}")
        self._kernels = kernels
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self._mean = [np.zeros(w.shape, w.dtype) for w in weights]
        self._square = [np.zeros(w.shape, w.dtype) for w in weights]
        self._steps = np.zeros(len(weights[0]), np.int64)

    def step(
        self,
        weights: Sequence[Array],
        grads: Sequence[Array],
        learning_rate: float,
        active: NDArray[np.bool_],
    ) -> None:
        """See `Optimizer.step`."""
        rates = self.rates(learning_rate)
        self._steps += active
        for r in np.flatnonzero(active):
            rate, correction = rates[r]
            for w, grad, mean, square in zip(weights, grads, self._mean, self._square, strict=True):
                self._kernels.adam(
                    w[r],
                    grad[r],
                    mean[r],
                    square[r],
                    self.beta1,
                    self.beta2,
                    rate,
                    correction,
                    self.epsilon,
                )

    def rates(self, learning_rate: float) -> list[tuple[float, float]]:
        """Of each replica's next step, the rate and the correction that `kernels.Kernels.adam` takes."""
        counts = [int(count) + 1 for count in self._steps]
        return [
            (learning_rate / (1.0 - self.beta1**count), 1.0 / math.sqrt(1.0 - self.beta2**count))
            for count in counts
        ]

    def state(self) -> dict[str, Array]:
        """See `Optimizer.state`."""
        arrays = {f"mean_{i}": m for i, m in enumerate(self._mean)}
        return arrays | {f"square_{i}": s for i, s in enumerate(self._square)} | {"steps": self._steps}


class SGD:
    """Stochastic gradient descent with momentum: v = momentum v + g, w -= learning_rate v."""

    def __init__(self, weights: Sequence[Array], momentum: float = 0.0) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueRangeError(f"momentum must lie in [0, 1), got {momentum!r}")
        self.momentum = momentum
        self._velocity = [np.zeros(w.shape, w.dtype) for w in weights]

    def step(
        self,
        weights: Sequence[Array],
        grads: Sequence[Array],
        learning_rate: float,
        active: NDArray[np.bool_],
    ) -> None:
        """See `Optimizer.step`."""
        for r in np.flatnonzero(active):
            for w, grad, velocity in zip(weights, grads, self._velocity, strict=True):
                velocity[r] *= self.momentum
                velocity[r] += grad[r]
                w[r] -= learning_rate * velocity[r]

    def state(self) -> dict[str, Array]:
        """See `Optimizer.state`."""
        return {f"velocity_{i}": v for i, v in enumerate(self._velocity)}


@dataclass(frozen=True)
class Schedule:
    """Learning rate by epoch.

    Attributes:
        learning_rate: at the first epoch.
        kind: "constant"; "step" (times gamma every `step_size` epochs); "cosine" (half a cosine down to 0).
        n_epochs: length of the cosine.
    """

    learning_rate: float
    kind: str = "constant"
    step_size: int = 20
    gamma: float = 0.95
    n_epochs: int = 1

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0.0 and math.isfinite(self.learning_rate)):
            raise ValueRangeError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if self.kind not in ("constant", "step", "cosine"):
            raise ValueRangeError(f"schedule must be constant, step or cosine, got {self.kind!r}")
        if self.step_size < 1:
            raise ValueRangeError(f"step_size must be at least 1, got {self.step_size}")
        if self.n_epochs < 1:
            raise ValueRangeError(f"n_epochs must be at least 1, got {self.n_epochs}")
        if not 0.0 < self.gamma <= 1.0:
            raise ValueRangeError(f"gamma must lie in (0, 1], got {self.gamma!r}")

    def at(self, epoch: int) -> float:
        """Learning rate in an epoch, counted from 0."""
        if self.kind == "step":
            return self.learning_rate * self.gamma ** (epoch // self.step_size)
        if self.kind == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / self.n_epochs))
        return self.learning_rate
