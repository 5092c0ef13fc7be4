"""What frameworks with gradients of their own need of first spikes: a layer's shapes, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.errors import DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels import LayerState, load
from gpuspike.kernels.limits import pull
from gpuspike.neuron import LIF

Array = NDArray[Any]


def rows_of(t_in: Sequence[int], weights: Sequence[int], neuron: LIF, max_weight_grad: float) -> list[int]:
    """The shape of input times in which `gs.first_spikes` takes them, with one axis for all samples.

    Args:
        t_in: the shape of times that have any number of axes for samples, those of replicas before them.
        weights: the shape of the weights.

    Raises:
        DtypeError, ShapeError, ValueRangeError: what was expected and what was got.
    """
    if not isinstance(neuron, LIF):
        raise DtypeError(f"neuron must be a gpuspike.LIF, got {type(neuron).__name__}")
    if not isinstance(max_weight_grad, Real) or not max_weight_grad > 0.0:
        raise ValueRangeError(f"max_weight_grad must be positive, got {max_weight_grad!r}")
    if len(weights) not in (2, 3):
        raise ShapeError(
            f"weights must be (n_pre, n_post) or (n_replica, n_pre, n_post), got {tuple(weights)}"
        )
    if len(t_in) == 0 or t_in[-1] != weights[-2]:
        raise ShapeError(f"t_in must be (..., n_pre) = (..., {weights[-2]}), got {tuple(t_in)}")
    n = len(weights) - 2
    if n and (len(t_in) == 1 or t_in[0] != weights[0]):
        raise ShapeError(
            f"t_in must be (n_replica, ..., n_pre) = ({weights[0]}, ..., {weights[1]}), got {tuple(t_in)}"
        )
    return [*t_in[:n], math.prod(t_in[n:-1]), t_in[-1]]


def repeated(neuron: LIF, n: int) -> LIF:
    """Neurons of so many times as many replicas, one set of them after the other."""
    if neuron.uniform:
        return neuron

    def tiled(value: Any) -> Any:
        own = isinstance(value, np.ndarray) and value.ndim == 2 and len(value) > 1
        return np.tile(value, (n, 1)) if own else value

    values = neuron.tau_mem, neuron.tau_syn, neuron.threshold, neuron.leak, neuron.capacitance
    return LIF(*(tiled(value) for value in values))


def plain(neuron: LIF) -> list[Any]:
    """A neuron's constants in numbers and lists of them, exact in JSON."""
    values = neuron.tau_mem, neuron.tau_syn, neuron.threshold, neuron.leak, neuron.capacitance
    return [value.tolist() if isinstance(value, np.ndarray) else float(value) for value in values]


def unplain(constants: Sequence[Any]) -> LIF:
    """The neuron that `plain` has told."""
    return LIF(*(np.array(value) if isinstance(value, list) else value for value in constants))


def pull_back(
    t_in: Array,
    weights: Array,
    neuron: LIF,
    t_out: Array,
    slopes: Array,
    t_out_grad: Array,
    *,
    max_weight_grad: float = math.inf,
    need_t_in_grad: bool = True,
    into: Array | None = None,
) -> tuple[Array | None, Array]:
    """The bits of `gs.first_spikes_vjp`, without the inputs' gradient where nobody needs it.

    Args:
        t_in, weights: as `gs.first_spikes` has taken them;  t_out, slopes: its answer.
        t_out_grad: ignored where `t_out` is inf.
        into: contiguous memory for `weights_grad`, which is made there where the kernels can.

    Returns:
        (t_in_grad or None, weights_grad).

    Raises:
        ValueRangeError: a gradient that is not finite where the neuron spikes.
    """
    arrays = [t_in, weights, t_out, slopes, t_out_grad]
    xp = array_module(t_in=t_in, t_out_grad=t_out_grad)
    _refuse_gradients(xp, t_out, t_out_grad)
    if xp is np:
        arrays = [np.require(array, requirements=["C", "A", "W"]) for array in arrays]
    else:
        arrays = [xp.ascontiguousarray(array) for array in arrays]
    replicas = t_in.ndim == 3
    t_in, weights, t_out, slopes, t_out_grad = arrays if replicas else [array[None] for array in arrays]
    kernels = load("cpu" if xp is np else "cuda")
    state = LayerState(t_in, np.empty(0, np.int64), t_out, t_out, slopes)
    options: Any = {"max_weight_grad": float(max_weight_grad), "need_t_in_grad": need_t_in_grad}
    if into is not None and neuron.shares_taus:
        options["memory"] = {"into": [into if replicas else into[None]]}
    t_in_grad, weights_grad = pull(kernels, state, weights, neuron, t_out_grad, **options)
    if replicas:
        return t_in_grad, weights_grad
    return None if t_in_grad is None else t_in_grad[0], weights_grad[0]


def delayed_times(neuron: LIF, t_in: Array, weights: Array, delays: Array) -> Array:
    """Spike times of neurons whose synapses have delays, where the arrays are.

    Args:
        neuron, t_in, weights: as for `gs.first_spikes`;  delays: of the shape of `weights`.

    Returns:
        (n_batch, n_post) or (n_replica, n_batch, n_post).

    Raises:
        ValueRangeError: NaN or -inf among times, weights that are not finite, delays below 0 or not finite.
        ShapeError: constants of other neurons.
    """
    for name, array, wrong in (
        ("t_in must hold times or inf", t_in, ~(t_in > -math.inf)),
        ("weights must be finite", weights, ~np.isfinite(weights)),
        ("delays must be 0 or more and finite", delays, ~((delays >= 0.0) & (delays < math.inf))),
    ):
        if wrong.any():
            raise ValueRangeError(f"{name}, got {array[wrong][0]} ({int(wrong.sum())} of {wrong.size})")
    kernels, arrays = _single(t_in, weights, delays)
    t_out, _ = kernels.forward(*arrays, neuron)
    return t_out if t_in.ndim == 3 else t_out[0]


def _single(*arrays: Array) -> tuple[Any, list[Array]]:
    """Kernels of where arrays are, and these with an axis of replicas."""
    xp = array_module(**{f"array {n}": array for n, array in enumerate(arrays)})
    arrays = tuple(array if array.ndim == 3 else array[None] for array in arrays)
    return load("cpu" if xp is np else "cuda").single, [xp.ascontiguousarray(array) for array in arrays]


def delayed_pull_back(
    neuron: LIF,
    max_weight_grad: float,
    t_in: Array,
    weights: Array,
    delays: Array,
    t_out: Array,
    t_out_grad: Array,
) -> tuple[Array, Array, Array]:
    """Gradients of the inputs, the weights and the delays; see `delayed_times`.

    Raises:
        ValueRangeError: a gradient that is not finite where the neuron spikes.
    """
    _refuse_gradients(array_module(t_in=t_in, t_out_grad=t_out_grad), t_out, t_out_grad)
    replicas = t_in.ndim == 3
    kernels, arrays = _single(t_in, weights, delays, t_out, t_out_grad)
    t_in, weights, delays, t_out, t_out_grad = arrays
    active = np.ones(len(weights), np.bool_)
    slope = kernels.slopes(t_in, weights, delays, neuron, t_out, at_crossing=False)
    given = t_in, weights, delays, neuron, t_out, slope, t_out_grad
    of_weights, of_delays = kernels.learn(*given, active=active, max_weight_grad=max_weight_grad)
    found = kernels.times_grad(*given, active=active), of_weights, of_delays.astype(delays.dtype)
    return found if replicas else (found[0][0], found[1][0], found[2][0])


def _refuse_gradients(xp: Any, t_out: Array, t_out_grad: Array) -> None:
    wrong = int((~xp.isfinite(t_out_grad) & xp.isfinite(t_out)).sum())
    if wrong:
        raise ValueRangeError(f"the gradient of spike times must be finite, got {wrong} NaN or inf")
