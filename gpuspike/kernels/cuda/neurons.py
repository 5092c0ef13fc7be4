"""Neurons whose constants are computed on a device, in each step of a training that learns them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels.constants import MIXED, regime
from gpuspike.kernels.cuda.call import Array, constant, elementwise
from gpuspike.kernels.cuda.lazy import Later, later
from gpuspike.kernels.cuda.single_source import NEURONS
from gpuspike.kernels.unit import Unit
from gpuspike.neuron import LIF


class DeviceLIF(LIF):
    """A layer's neurons, some constants of which are arrays (n_replica, n_post) that are computed later.

    Nobody looks at their numbers: whoever has them computed keeps them physical.
    """

    def __post_init__(self) -> None:
        """Nothing is checked."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def uniform(self) -> bool:
        """They have numbers of their own."""
        return False

    def _own(self, shape: tuple[int, int], dtype: Any) -> _Own:
        known = self._known
        if dtype not in known:
            known[dtype] = _Own.of(self, shape, dtype)
        return known[dtype]

    @cached_property
    def _known(self) -> dict[Any, _Own]:
        return {}

    def unit(self, weights: Array) -> Unit:
        """See `kernels.unit.unit`."""
        own = self._own((len(weights), weights.shape[2]), weights.dtype)
        scale = [
            None if _is_one(value) else factor[:, None]
            for value, factor in zip((self.drive, self.span, self.capacitance), own.factors, strict=True)
        ]
        if self.shares_taus:
            shared = LIF(self.tau_mem, self.tau_syn)
            return Unit(shared, regime(shared), None, *scale)
        return Unit(LIF(), MIXED, own.taus, *scale)

    def rows(self, weights: Array) -> Array:
        """(n_replica, n_post, 4) for the kernels of `single.cu`."""
        return self._own((len(weights), weights.shape[2]), weights.dtype).rows


def neurons_there(model: LIF) -> DeviceLIF:
    """The neurons of a model, some of whose constants are going to be replaced."""
    if isinstance(model, DeviceLIF):
        return model

    def there(value: Any) -> Any:
        return later(constant(value, np.float64)) if isinstance(value, np.ndarray) else value

    values = model.tau_mem, model.tau_syn, model.threshold, model.leak, model.capacitance
    return DeviceLIF(*map(there, values))


def _is_one(value: Any) -> bool:
    return isinstance(value, float) and value == 1.0


class _Own(NamedTuple):
    """What kernels take of such neurons.

    Attributes:
        factors: (n_replica, n_post) each: 1/(C (threshold - leak)), threshold - leak, C.
        taus: (n_replica, n_post, 2) float64, tau_mem and tau_syn.
        rows: (n_replica, n_post, 4) float64, these, threshold - leak, and C.
    """

    factors: tuple[Array, Array, Array]
    taus: Array
    rows: Array

    @classmethod
    def of(cls, neuron: DeviceLIF, shape: tuple[int, int], dtype: Any) -> _Own:
        """Computed now."""
        cupy = cupy_module()
        values = [
            later(value, shape).now("constant")
            if isinstance(value, Later)
            else constant(np.full(shape, value), float)
            for value in (neuron.tau_mem, neuron.tau_syn, neuron.span, neuron.capacitance)
        ]
        factors = tuple(cupy.empty(shape, dtype) for _ in range(3))
        taus, rows = (cupy.empty((*shape, n), np.float64) for n in (2, 4))
        if rows.size:
            elementwise(NEURONS)(*values, *factors, taus, rows)
        return cls(factors, taus, rows)  # type: ignore[arg-type]
