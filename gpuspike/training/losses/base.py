"""What a loss on the output spike times is, and the decision that losses train."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DtypeError, ShapeError, ValueRangeError
from gpuspike.training.leaf import Leaf

Array = NDArray[Any]


@dataclass(frozen=True)
class Loss(Leaf, ABC):
    """A loss of the output spike times: a frozen dataclass with a formula in up to three forms.

    The oracle, `reference`, is enough: training then goes piecewise. With a compiled row the whole step is
    one job on a CPU. The row is called with the numbers, a sample's (n_classes,) spike times, its label, how
    many samples the mean is taken over, and (n_classes,) room for its gradient's share; it returns the loss.
    With a device text it is computed on a GPU, too: by a thread a sample, which knows `t_out`, `label`,
    `n_batch`, `n_class` and `grad` likewise and the numbers as doubles, and returns the loss.

    A configuration has its values under `training`.

    Attributes:
        tau_syn: the unit in which its values have times.
        kernels: the backend that computes it; None: the oracle does.
    """

    tau_syn: float = 1.0
    kernels: Any = field(default=None, compare=False, repr=False, kw_only=True)

    def __call__(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """Loss of every sample, and the gradient of each replica's mean loss.

        Args:
            t_out: (n_replica, n_batch, n_classes) spike times, inf = silent.
            labels: (n_replica or 1, n_batch).

        Returns:
            (n_replica, n_batch) and (n_replica, n_batch, n_classes).

        Raises:
            ShapeError, DtypeError, ValueRangeError: a formula, of a user's own perhaps, returns otherwise.
        """
        if self.kernels is None:
            return self._checked(self.reference(t_out, labels), t_out)
        return self._checked(self.kernels.score(self, t_out, labels), t_out)

    def _checked(self, found: Any, t_out: Array) -> tuple[Array, Array]:
        """What the formula has returned, before kernels read it."""
        name, wanted = f"the loss {type(self).__name__}", (t_out.shape[:2], t_out.shape)
        shapes = tuple(getattr(part, "shape", None) for part in found) if isinstance(found, tuple) else None
        if shapes != wanted:
            got = type(found).__name__ if shapes is None else " and ".join(map(str, shapes))
            raise ShapeError(
                f"{name} must return a tuple of losses {wanted[0]} and gradients {wanted[1]}, got {got}"
            )
        losses, grad = found
        if losses.dtype.kind != "f" or grad.dtype != t_out.dtype:
            raise DtypeError(
                f"{name} must return losses in floats and gradients in {t_out.dtype}, as times are, "
                f"got {losses.dtype} and {grad.dtype}"
            )
        own = not type(self).__module__.startswith("gpuspike.")
        if own and type(grad) is np.ndarray:  # to look into a device's would wait for it
            if np.isnan(losses).any() or not np.isfinite(grad).all():
                raise ValueRangeError(f"{name} must return losses that are numbers and finite gradients")
            grad = np.ascontiguousarray(grad)
        return losses, grad

    def at(self, progress: float) -> Loss:
        """What it is at some point of a training, from 0 to 1: itself, unless it has values that go along."""
        return self

    def matched(self, noise: float) -> Loss:
        """What suits spike times that are known up to a standard deviation, in tau_syn; itself by default."""
        return self

    @abstractmethod
    def reference(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """The formula in NumPy; arguments and answer as when called."""


def require_positive(**values: float) -> None:
    """Refuses a value that is not positive and finite, by its name.

    Raises:
        ValueRangeError: what was got.
    """
    for name, value in values.items():
        if not (value > 0.0 and math.isfinite(value)):
            raise ValueRangeError(f"{name} must be positive and finite, got {value!r}")


def decide(t_out: Array) -> NDArray[np.int64]:
    """The class whose neuron spikes first (last axis); -1 where all are silent, the lowest at a tie."""
    return np.where(np.isfinite(t_out.min(axis=-1)), t_out.argmin(axis=-1), -1)


def tied(t_out: Array) -> NDArray[np.bool_]:
    """Whether several neurons spike first, at one time (last axis), as on a time grid: `decide` picks one."""
    first = t_out.min(axis=-1, keepdims=True)
    return ((t_out == first) & np.isfinite(first)).sum(axis=-1) > 1
