"""What a training step does to the weights on a device: the optimiser's step, a bump, and a chip's range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels.cuda import step_source as step_src
from gpuspike.kernels.cuda.call import Array, check, constant, elementwise
from gpuspike.kernels.cuda.graph import beside


class Bumps(NamedTuple):
    """What becomes of the weights of each layer after the optimiser's step.

    Attributes:
        layer, size: of `step.Judgement`: the layer that is bumped, and by how much.
        silent: (n_replica, n_all), of `step.count_all`.
        first: each layer's first neuron there, and n_places, at which its neurons share their weights.
        most: largest |weight| of each layer; inf: any.
        targeted: only weights onto neurons that were silent in some sample are bumped.
    """

    layer: Array
    size: Array
    silent: Array
    first: Sequence[int]
    n_places: Sequence[int]
    most: Sequence[float]
    targeted: bool


def no_bumps(n_replica: int, n_layers: int) -> Bumps:
    """What changes no weight."""
    layer, size = (
        constant([value] * n_replica, kind, lasting=True) for value, kind in ((-1, "i8"), (0, "f8"))
    )
    none = constant([[0]] * n_replica, np.int32, lasting=True)
    return Bumps(layer, size, none, [0] * n_layers, [0] * n_layers, [math.inf] * n_layers, False)


def descend(
    optimizer: Any, rates: Sequence[float], weights: Array, grad: Array, state: Sequence[Array]
) -> None:
    """One step on one replica's arrays, in place; see `kernels.Kernels.descend`.

    Raises:
        BackendError: an optimiser that has no device text.
    """
    there = [cupy_module().asarray(np.array([rate], np.float64)) for rate in rates]
    active = constant([True], np.bool_, lasting=True)
    _update(optimizer, active, there, [weights], [grad], [state], 0, no_bumps(1, 1))


def room_for_rates(optimizer: Any, learning_rate: Array, n_replica: int) -> list[Array]:
    """Where `find_rates` leaves what the next step of each replica needs.

    Args:
        learning_rate: (1,) float64, and all that is needed of an optimiser without rates of its own.
    """
    if _rates_kernel(optimizer) is None:
        return [learning_rate]
    return [cupy_module().empty(n_replica, np.float64) for _ in optimizer.RATES]


def find_rates(
    optimizer: Any, rates: Sequence[Array], steps: Array | None, learning_rate: Array, active: Array
) -> None:
    """What the next step of each replica needs, into `rates`; `beside` what else the step does.

    Args:
        rates: of `room_for_rates`, outliving the step.
        steps: (n_replica,) int64, counted on where active; None where the optimiser does not count.
        learning_rate: (1,) float64;  active: (n_replica,).
    """
    kernel, n_replica = _rates_kernel(optimizer), len(active)
    check(np.bool_, {"active": (active, (n_replica,))})
    check(np.float64, {"learning_rate": (learning_rate, (1,))})
    check(np.int64, {} if steps is None else {"steps": (steps, (n_replica,))})
    if kernel is not None:
        check(np.float64, {"rates": (rates[0], (n_replica,))})
        counted = () if steps is None else (steps,)
        with beside():
            elementwise(kernel)(*_values(optimizer).values(), learning_rate, active, *counted, *rates)


def _values(optimizer: Any) -> dict[str, float]:
    return {name: float(value) for name, value in vars(optimizer).items() if isinstance(value, Real)}


def _rates_kernel(optimizer: Any) -> Any:
    return step_src.rates_kernel(type(optimizer), tuple(_values(optimizer)))


def descend_active(
    optimizer: Any,
    weights: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[Sequence[Array]],
    rates: Sequence[Array],
    active: Array,
    bumps: Bumps,
) -> None:
    """One step of the active replicas, then the bumps; see `gpuspike.training.optimizers.Optimizer`.

    Args:
        weights, grads: of each layer (n_replica, n_pre, n_post), the former changed in place.
        states: of each layer the arrays of STATE, changed.
        rates: as `find_rates` leaves them;  active: (n_replica,).
        bumps: what comes after that.

    Raises:
        BackendError: an optimiser that has no device text.
    """
    n_replica, n_layers = len(active), len(weights)
    check(np.bool_, {"active": (active, (n_replica,))})
    check(np.int64, {"layer": (bumps.layer, (n_replica,))})
    check(np.float64, {"size": (bumps.size, (n_replica,))})
    check(np.int32, {"silent": (bumps.silent, (n_replica, bumps.silent.shape[1]))})
    for begin in range(0, n_layers, step_src.LAYERS_AT_ONCE):
        own = slice(begin, begin + step_src.LAYERS_AT_ONCE)
        _update(optimizer, active, rates, weights[own], grads[own], states[own], begin, bumps)


def _update(
    optimizer: Any,
    active: Array,
    rates: Sequence[Array],
    weights: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[Sequence[Array]],
    begin: int,
    bumps: Bumps,
) -> None:
    """Some layers, from number `begin` on."""
    numbers, n_replica, end = optimizer.numbers(), len(active), 0
    layers: list[Any] = []
    arrays: list[Array] = []
    for n, (w, grad, state) in enumerate(zip(weights, grads, states, strict=True), begin):
        named = {"weights": w, "grad": grad, **dict(zip(optimizer.STATE, state, strict=True))}
        check(weights[0].dtype, {name: (array, w.shape) for name, array in named.items()})
        end += w.size
        n_post = w.shape[-1]
        n_pre = w.size // max(1, n_replica * n_post)
        layers += [end, n_pre, n_post, bumps.n_places[n], bumps.first[n], bumps.most[n], grad]
        arrays += [w, *state]
    if end:
        kernel = step_src.update_kernel(type(optimizer), numbers._fields, len(weights))
        elementwise(kernel)(
            *numbers, active, *rates, begin, int(bumps.targeted), bumps.silent.shape[1], bumps.layer,
            bumps.size, bumps.silent, *layers, *arrays, size=end,
        )  # fmt: skip
