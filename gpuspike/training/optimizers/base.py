"""What an optimiser is, and its descent: the optimiser at work on weights, with what it keeps beside them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError
from gpuspike.kernels.constants import MOST_ARRAYS
from gpuspike.network.parameters import Parameters
from gpuspike.training.leaf import Leaf

Array = NDArray[Any]


@dataclass(frozen=True)
class Optimizer(Leaf, ABC):
    """An optimiser: a frozen dataclass with a formula in up to three forms; `Descent` has its arrays.

    The oracle, `reference`, is enough: training then goes piecewise. With a compiled row the whole step is
    one job on a CPU. The row is called with the numbers and the rates, in the type of the weights, and with
    (n,) weights, gradient and a tuple of what is kept beside them. With a device text a GPU steps, too: a
    thread has one weight, as `weight`, its gradient, as `grad`, what is kept beside it by the names of STATE,
    and the numbers and the rates by theirs, all of the type of the weights.

    A configuration has its values under `optimizer`.

    Attributes:
        STATE: names of the arrays that it keeps beside each of those that it works on, of its shape.
        RATES: names of what `rates` returns.
        COUNTS: whether its rates depend on how many steps a replica has made.
        RATE_UNITS: the power of the weights' unit that a learning rate has: 2 where a step is proportional to
            the gradient, 1 where the gradient's unit cancels.
        device_rates: for the device text what `rates` is in Python: statements that set the RATES of one
            replica from `learning_rate`, `count` where it COUNTS, and the optimiser's values by their names,
            all doubles; None: the one rate is the learning rate.
    """

    STATE: ClassVar[tuple[str, ...]] = ()
    RATES: ClassVar[tuple[str, ...]] = ("rate",)
    COUNTS: ClassVar[bool] = False
    RATE_UNITS: ClassVar[int] = 2
    device_rates: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if len(cls.STATE) > MOST_ARRAYS or len(set(cls.STATE)) < len(cls.STATE):
            raise ConfigError(
                f"the STATE of {cls.__name__} must be at most {MOST_ARRAYS} different names, got {cls.STATE}"
            )
        if "rates" in vars(cls) and "device_rates" not in vars(cls):
            if vars(cls).get("device"):
                raise ConfigError(
                    f"{cls.__name__} has a device text and rates of its own: it needs device_rates"
                )
            cls.device = None

    def rates(self, learning_rate: float, count: int) -> tuple[float, ...]:
        """What a replica's step number `count`, from 1 on, needs besides: always as many floats."""
        return (learning_rate,)

    def in_unit(self, unit: float) -> Self:
        """The same for weights of a unit: values of its own that have one are multiplied with its powers."""
        return self

    @abstractmethod
    def reference(self, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """One step of one replica's weights of a layer and what is kept beside them, in place; in NumPy."""


class Descent:
    """An optimiser at work: its arrays, with the replica axis first, and the steps that were made.

    Args:
        optimizer: the formula.
        learnt: what it works on; a list of arrays is weights alone.
        kernels: the backend that computes it; None: the oracle does.
        unit: of the weights, C (threshold - leak)/tau_fast: a learning rate has powers of it, which the free
            numbers of constants do not have; values of the optimiser are in it, see `Optimizer.in_unit`.
        frozen: weights stay as they are.

    Attributes:
        optimizer: as it works on the weights;  of_numbers: on free numbers, which have no unit.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        learnt: Parameters | Sequence[Array],
        kernels: Any = None,
        unit: float = 1.0,
        *,
        frozen: bool = False,
    ) -> None:
        self.optimizer, self.of_numbers, self.frozen = optimizer.in_unit(unit), optimizer, frozen
        self._unit = unit
        self._kernels = kernels
        parameters = Parameters.of(learnt)
        self._kept = {
            name: tuple(np.zeros(array.shape, array.dtype) for _ in optimizer.STATE)
            for name, array in parameters.arrays().items()
        }
        self.steps = np.zeros(len(parameters.weights[0]), np.int64)

    def of_replicas(self, part: slice) -> Descent:
        """That of some replicas: its arrays are parts of these."""
        own = copy.copy(self)
        own._kept = {name: tuple(array[part] for array in kept) for name, kept in self._kept.items()}
        own.steps = self.steps[part]
        return own

    @property
    def of_weights(self) -> list[tuple[Array, ...]]:
        """What is kept beside the weights of each layer, in the order of `Optimizer.STATE`."""
        return [kept for name, kept in self._kept.items() if name.startswith("weights_")]

    def rate_of_numbers(self, learning_rate: float) -> float:
        """The learning rate of numbers without a unit."""
        return learning_rate / self._unit**self.optimizer.RATE_UNITS

    def rates(self, learning_rate: float) -> list[tuple[float, ...]]:
        """Of each replica's next step, see `Optimizer.rates`."""
        rates = [self.optimizer.rates(learning_rate, int(count) + 1) for count in self.steps]
        if any(len(own) != len(self.optimizer.RATES) for own in rates):
            name, n = type(self.optimizer).__name__, len(self.optimizer.RATES)
            found = sorted({len(own) for own in rates})
            raise ConfigError(f"the rates of {name} must be its RATES, {n} numbers, got {found}")
        return rates

    def step(
        self,
        learnt: Parameters | Sequence[Array],
        grads: Parameters | Sequence[Array],
        learning_rate: float,
        active: NDArray[np.bool_],
    ) -> None:
        """Steps all arrays of the active replicas in place; the others and their state stay as they are."""
        rates = self.rates(learning_rate)
        without_unit = self.rates(self.rate_of_numbers(learning_rate))
        self.count(active)
        arrays, of_arrays = Parameters.of(learnt).arrays(), Parameters.of(grads).arrays()
        for r in np.flatnonzero(active):
            for name, array in arrays.items():
                if self.frozen and name.startswith("weights_"):
                    continue
                kept = [beside[r] for beside in self._kept[name]]
                weights = name.startswith("weights_")
                formula = self.optimizer if weights else self.of_numbers
                own = rates[r] if weights else without_unit[r]
                if self._kernels is None:
                    formula.reference(own, array[r], of_arrays[name][r], *kept)
                else:
                    self._kernels.descend(formula, own, array[r], of_arrays[name][r], kept)

    def count(self, active: NDArray[np.bool_] | bool) -> None:
        """The active replicas have made a step."""
        self.steps += active

    def state(self) -> dict[str, Array]:
        """Its arrays by name, for a checkpoint; not copied."""
        named = {
            f"{state}_{name.removeprefix('weights_')}": kept[k]
            for k, state in enumerate(self.optimizer.STATE)
            for name, kept in self._kept.items()
        }
        return named | ({"steps": self.steps} if self.optimizer.COUNTS else {})
