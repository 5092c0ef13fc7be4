"""What an optimiser is: numbers, arrays of its own beside the weights, and a formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuspike.training.leaf import Leaf

Array = NDArray[Any]


class Optimizer(Leaf):
    """An optimiser with its state, arrays with the replica axis first; its formula in up to three forms.

    The oracle, `reference`, is enough: training then goes by pieces. With a compiled row the whole step is
    one job on a CPU. The row is called with the numbers and the rates, in the type of the weights, and with
    (n,) weights, gradient and a tuple of what is kept beside them.

    Args:
        weights: of each layer (n_replica, n_pre, n_post).
        kernels: the backend that computes it; None: the oracle does.

    Attributes:
        CONFIG: values that a configuration gives, under `optimizer`.
        STATE: names of the arrays that it keeps beside each layer's weights, of their shape; at most three.
        COUNTS: whether its formula needs to know how many steps each replica has made.
    """

    STATE: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[bool] = False

    def __init__(self, weights: Sequence[Array], kernels: Any = None) -> None:
        self._kernels = kernels
        self.arrays = [tuple(np.zeros(w.shape, w.dtype) for _ in self.STATE) for w in weights]
        self.steps = np.zeros(len(weights[0]), np.int64)

    def rates(self, learning_rate: float) -> list[tuple[float, ...]]:
        """What each replica's next step needs besides, the same number of floats for each."""
        return [(learning_rate,)] * len(self.steps)

    @staticmethod
    def reference(numbers: Any, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """One step of one replica's weights of a layer and what is kept beside them, in place; in NumPy."""
        raise NotImplementedError("an optimiser needs a formula")

    def step(
        self,
        weights: Sequence[Array],
        grads: Sequence[Array],
        learning_rate: float,
        active: NDArray[np.bool_],
    ) -> None:
        """Steps the weights of the active replicas in place; the others and their state stay as they are."""
        rates, numbers = self.rates(learning_rate), self.numbers()
        self.count(active)
        for r in np.flatnonzero(active):
            for w, grad, arrays in zip(weights, grads, self.arrays, strict=True):
                of_replica = [array[r] for array in arrays]
                if self._kernels is None:
                    self.reference(numbers, rates[r], w[r], grad[r], *of_replica)
                else:
                    self._kernels.descend(self, rates[r], w[r], grad[r], of_replica)

    def count(self, active: NDArray[np.bool_] | bool) -> None:
        """The active replicas have made a step."""
        self.steps += active

    def state(self) -> dict[str, Array]:
        """Its arrays by name, for a checkpoint; not copied."""
        named = {
            f"{name}_{number}": arrays[k]
            for k, name in enumerate(self.STATE)
            for number, arrays in enumerate(self.arrays)
        }
        return named | ({"steps": self.steps} if self.COUNTS else {})
