"""Neurons of any threshold, leak and capacitance, brought to the unit neurons that kernels know, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array, LayerState, Trial
from gpuspike.kernels.constants import MIXED, Constants, constants, regime
from gpuspike.kernels.waiting import computed, later
from gpuspike.neuron import LIF


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer's neurons as kernels take them.

    Weights over C (threshold - leak) turn neurons of any threshold, leak and capacitance into neurons of
    threshold 1, leak 0 and capacitance 1. Numbers that all neurons share cost no pass over the weights: they
    are among the constants. Only time constants need kernels that carry every neuron's own.

    Attributes:
        neuron: whose constants the kernels take: numbers.
        regime: see `constants`; MIXED where `neuron` does not have the time constants.
        taus: (n_replica, n_post, 2), tau_mem and tau_syn of each neuron, where they share none.
        per_drive, span, capacitance: (n_replica, 1, n_post), 1/(C (threshold - leak)), threshold - leak, and
            C of each neuron; None where `neuron` has them.
    """

    neuron: LIF
    regime: int
    taus: NDArray[np.float64] | None = None
    per_drive: NDArray[np.float64] | None = None
    span: NDArray[np.float64] | None = None
    capacitance: NDArray[np.float64] | None = None

    def constants(self, dtype: Any) -> Constants:
        """For kernels of that type."""
        return constants(self.neuron, np.dtype(dtype))


def unit(neuron: LIF, weights: Array) -> Unit:
    """The neurons of a layer of those weights, (n_replica, n_pre, n_post).

    Raises:
        ShapeError: an array that is not for this many neurons.
    """
    own: Any = neuron
    if hasattr(own, "unit"):  # a device's, whose constants are computed there
        return own.unit(weights)
    return _uniform(neuron) if neuron.uniform else _own(neuron, len(weights), weights.shape[2])


@lru_cache(maxsize=256)
def _uniform(neuron: LIF) -> Unit:
    return Unit(neuron, regime(neuron))


@lru_cache(maxsize=64)
def _own(neuron: LIF, n_replica: int, n_post: int) -> Unit:
    tau_mem, tau_syn, threshold, leak, capacitance = neuron.table(n_replica, n_post)
    span, capacitance = (threshold - leak)[:, None], capacitance[:, None]
    scale = 1.0 / (capacitance * span), span, capacitance
    if neuron.shares_taus:
        shared = LIF(neuron.tau_mem, neuron.tau_syn)
        return Unit(shared, regime(shared), None, *scale)
    return Unit(LIF(), MIXED, np.stack([tau_mem, tau_syn], axis=2), *scale)


def on_host(values: NDArray[np.float64], dtype: Any) -> Array:
    """Parameters as an array of a type; of that of the CPU, which has them already."""
    return values.astype(dtype)


def times(
    array: Array,
    factor: NDArray[np.float64] | None,
    constant: Callable[[NDArray[np.float64], Any], Array] = on_host,
) -> Array:
    """The array by a factor of each neuron, as a `Unit` has it; itself for None."""
    return array if factor is None else array * constant(factor, array.dtype)


class AnyNeurons:
    """Makes kernels for any neurons of ones that take a layer's `Unit` in their place; see `kernels.Kernels`.

    Args:
        kernels: what knows no neurons is theirs.
        constant: parameters as a backend's array of a type, sent there once.
    """

    def __init__(self, kernels: Any, constant: Callable[[NDArray[np.float64], Any], Array] = on_host) -> None:
        self._kernels, self._constant = kernels, constant

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def _times(self, label: str, array: Array, factor: NDArray[np.float64] | None) -> Array:
        """`times`, computed now where a device waits with it, under such a name."""
        if factor is not None:
            array = later(self._kernels, array) * self._constant(factor, array.dtype)
        return computed(label, array)

    def forward(
        self,
        t_in: Array,
        order: NDArray[np.int64] | None,
        weights: Sequence[Array],
        neurons: Sequence[LIF],
        bias_times: Sequence[Sequence[float]],
        trials: Sequence[Trial] | None = None,
    ) -> list[LayerState]:
        """See `Kernels.forward`."""
        units = [unit(neuron, w) for neuron, w in zip(neurons, weights, strict=True)]
        weights = [self._times("weights", w, one.per_drive) for w, one in zip(weights, units, strict=True)]
        states = self._kernels.forward(t_in, order, weights, units, bias_times, trials)
        if trials is not None and not any(trial.slopes for trial in trials):
            return states
        return [
            s._replace(slope=self._times("slope", s.slope, one.span))
            for s, one in zip(states, units, strict=True)
        ]

    def slopes(self, t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
        """See `Kernels.slopes`."""
        one = unit(neuron, weights)
        slope = self._kernels.slopes(t_in, self._times("weights", weights, one.per_drive), one, t_out)
        return self._times("slope", slope, one.span)

    def crossing_slopes(self, t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
        """See `Kernels.crossing_slopes`."""
        one = unit(neuron, weights)
        slope = self._kernels.crossing_slopes(
            t_in, self._times("weights", weights, one.per_drive), one, t_out
        )
        return self._times("slope", slope, one.span)

    def backward(
        self,
        states: Sequence[LayerState],
        weights: Sequence[Array],
        neurons: Sequence[LIF],
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
        **memory: Any,
    ) -> tuple[Array | None, list[Array]]:
        """See `Kernels.backward`; `memory` is for a backend that takes its caller's."""
        units = [unit(neuron, w) for neuron, w in zip(neurons, weights, strict=True)]
        # The product with the slope is all that the capacitance is needed for.
        states = [
            s._replace(slope=self._times("slope", s.slope, one.capacitance))
            for s, one in zip(states, units, strict=True)
        ]
        return self._kernels.backward(
            states,
            weights,
            units,
            t_out_grad,
            active=active,
            max_weight_grad=max_weight_grad,
            need_t_in_grad=need_t_in_grad,
            **memory,
        )
