"""Layers whose synapses have delays of their own, on a device; see `single.cu`, and `kernels.SingleKernels`.

Each neuron of each sample sorts its own inputs, in room that serves one part of a batch after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels.constants import tangent
from gpuspike.kernels.cuda import single_source as src
from gpuspike.kernels.cuda.call import Array, Call, check, constant, elementwise
from gpuspike.kernels.cuda.neurons import DeviceLIF
from gpuspike.kernels.unit import unit
from gpuspike.neuron import LIF

WORKSPACE = 128 << 20
"""Bytes that the events of such neurons may take; a larger batch passes through in such parts."""


class Layer(NamedTuple):
    """A layer of such neurons, its arguments checked.

    Attributes:
        neurons: (n_replica, n_post, 4) float64 on the device, see `single.cu`.
    """

    call: Call
    neurons: Array

    @classmethod
    def of(cls, t_in: Array, weights: Array, delays: Array | None, neuron: LIF) -> Layer:
        """One of arrays that fit each other.

        Raises:
            DtypeError, ShapeError, BackendError: what was expected, and what was got.
        """
        call = Call.of(t_in, weights, unit(neuron, weights))
        check(call.dtype, {} if delays is None else {"delays": (delays, weights.shape)})
        if isinstance(neuron, DeviceLIF):
            return cls(call, neuron.rows(weights))
        tau_mem, tau_syn, threshold, leak, capacitance = neuron.table(call.n_replica, call.n_post)
        table = np.stack([tau_mem, tau_syn, threshold - leak, capacitance], axis=2)
        return cls(call, constant(table, np.float64))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """As kernels take them."""
        call = self.call
        return call.n_in_replicas, call.n_batch, call.n_pre, call.n_post

    def parts(self) -> Iterator[tuple[int, tuple[int, ...], Array, Array]]:
        """Of each part of a batch its pairs, the sizes that its kernel takes, and room for events."""
        call = self.call
        a_sample = call.n_replica * call.n_post
        each = max(1, a_sample * call.n_pre * 2 * call.dtype.itemsize)
        most = max(1, WORKSPACE // each)
        room = [
            cupy_module().empty(min(most, call.n_batch) * a_sample * call.n_pre, call.dtype) for _ in "tw"
        ]
        for first in range(0, call.n_batch, most):
            n_samples = min(most, call.n_batch - first)
            n_pairs = n_samples * a_sample
            yield n_pairs, (n_pairs, *self.sizes, first, n_samples), room[0], room[1]


def forward(
    t_in: Array, weights: Array, delays: Array, neuron: LIF, lift: Array | None = None
) -> tuple[Array, Array]:
    """Spike times of neurons with delays of their synapses, and slopes there; see `kernels.SingleKernels`."""
    cupy, layer = cupy_module(), Layer.of(t_in, weights, delays, neuron)
    call, lifts = layer.call, () if lift is None else (lift,)
    check(call.dtype, {} if lift is None else {"lift": (lift, call.out_shape)})
    t_out, slope = (cupy.empty(call.out_shape, call.dtype) for _ in range(2))
    if call.empty:
        t_out.fill(np.inf)
        slope.fill(0.0)
        if lift is not None:
            t_out[lift <= 0.0] = 0.0
        return t_out, slope
    kernel = elementwise(src.single_kernel(lift is not None))
    for n_pairs, sizes, *room in layer.parts():
        kernel(
            *sizes, tangent(call.dtype), layer.neurons, t_in, weights, delays, *lifts, *room, t_out, slope,
            size=n_pairs,
        )  # fmt: skip
    return t_out, slope


def slopes(
    t_in: Array, weights: Array, delays: Array, neuron: LIF, t_out: Array, *, at_crossing: bool
) -> Array:
    """Slopes at given spike times, or where their causal sets would cross; see `kernels.SingleKernels`."""
    cupy, layer = cupy_module(), Layer.of(t_in, weights, delays, neuron)
    call = layer.call
    check(call.dtype, {"t_out": (t_out, call.out_shape)})
    slope = cupy.empty(call.out_shape, call.dtype)
    if call.empty:
        slope.fill(0.0)
        return slope
    elementwise(src.slope_kernel(at_crossing))(
        *layer.sizes, tangent(call.dtype), layer.neurons, t_in, weights, delays, t_out, slope, size=slope.size
    )
    return slope


def learn(
    t_in: Array,
    weights: Array,
    delays: Array,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    active: Array,
    max_weight_grad: float,
) -> tuple[Array, Array]:
    """Gradients of weights and delays; see `kernels.SingleKernels`."""
    cupy, layer = cupy_module(), Layer.of(t_in, weights, delays, neuron)
    call = layer.call
    if call.empty:
        return cupy.zeros(weights.shape, call.dtype), cupy.zeros(weights.shape, np.float64)
    gate, share, kept = _terms(layer, t_in, delays, t_out, slope, t_out_grad, active, max_weight_grad)
    n_parts = src.learnt_parts(call.n_pre, call.n_post, call.n_batch)
    of_weights, of_delays = (cupy.empty((n_parts, *weights.shape), np.float64) for _ in range(2))
    elementwise(src.SINGLE_LEARN)(
        n_parts, call.n_replica, *layer.sizes, layer.neurons, t_in, weights, delays, gate, share, kept,
        of_weights, of_delays, size=of_weights.size,
    )  # fmt: skip
    weights_grad, delays_grad = cupy.empty(weights.shape, call.dtype), cupy.empty(weights.shape, np.float64)
    elementwise(src.SINGLE_SUM)(n_parts, weights.size, of_weights, of_delays, weights_grad, delays_grad)
    return weights_grad, delays_grad


def taus_grad(
    t_in: Array,
    weights: Array,
    delays: Array | None,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    active: Array,
) -> Array:
    """Gradients of the logarithms of the time constants; see `kernels.SingleKernels`."""
    cupy, layer = cupy_module(), Layer.of(t_in, weights, delays, neuron)
    call = layer.call
    out = cupy.empty((2, call.n_replica, call.n_post), np.float64)
    if call.empty:
        out.fill(0.0)
        return out
    gate, share, _ = _terms(layer, t_in, delays, t_out, slope, t_out_grad, active, np.inf)
    n_parts, later = src.taus_parts(call.n_post, call.n_batch), () if delays is None else (delays,)
    parts = cupy.empty((n_parts, *out.shape), np.float64)
    elementwise(src.taus_kernel(delays is not None))(
        n_parts, call.n_replica, *layer.sizes, layer.neurons, t_in, weights, *later, gate, share, parts,
        size=parts.size // 2,
    )  # fmt: skip
    elementwise(src.OVER_PARTS)(n_parts, out.size, parts, out)
    return out


def times_grad(
    t_in: Array,
    weights: Array,
    delays: Array,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    active: Array,
) -> Array:
    """Gradient of the times at which inputs leave; arguments as for `learn`."""
    cupy, layer = cupy_module(), Layer.of(t_in, weights, delays, neuron)
    call = layer.call
    out = cupy.empty((call.n_replica, call.n_batch, call.n_pre), call.dtype)
    if call.empty:
        out.fill(0.0)
        return out
    gate, share, _ = _terms(layer, t_in, delays, t_out, slope, t_out_grad, active, np.inf)
    elementwise(src.SINGLE_TIMES)(
        *layer.sizes, layer.neurons, t_in, weights, delays, gate, share, out, size=out.size
    )
    return out


def _terms(
    layer: Layer,
    t_in: Array,
    delays: Array | None,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    active: Array,
    limit: float,
) -> tuple[Array, Array, Array]:
    """What the gradients need of each spike, see `single.cu`."""
    cupy, call = cupy_module(), layer.call
    active = cupy.asarray(active)
    check(np.bool_, {"active": (active, (call.n_replica,))})
    by_neuron = {"t_out": t_out, "slope": slope, "t_out_grad": t_out_grad}
    check(call.dtype, {name: (array, call.out_shape) for name, array in by_neuron.items()})
    terms = tuple(cupy.empty(call.out_shape, np.float64) for _ in range(3))
    later = () if delays is None else (delays,)
    elementwise(src.terms_kernel(delays is not None))(
        *layer.sizes, float(limit), layer.neurons, active, t_in, *later, t_out, slope, t_out_grad, *terms,
        size=t_out.size,
    )  # fmt: skip
    return terms


def over_samples(grad: Array, times: Array, active: Any) -> Array:
    """(n_replica, n) float64 sums over samples; see `kernels.SingleKernels`."""
    cupy, (n_replica, n_batch, n) = cupy_module(), grad.shape
    active = cupy.asarray(active)
    check(np.bool_, {"active": (active, (n_replica,))})
    check(grad.dtype, {"grad": (grad, grad.shape), "times": (times, grad.shape)})
    total = cupy.empty((n_replica, n), np.float64)
    if total.size:
        elementwise(src.OVER_SAMPLES)(n_batch, n, active, times, grad, total, size=total.size)
    return total


def over_inputs(weights: Array, grad: Array) -> Array:
    """(n_replica, n_post) float64 sums of products; see `kernels.SingleKernels`."""
    n_replica, n_pre, n_post = weights.shape
    check(weights.dtype, {"weights": (weights, weights.shape), "grad": (grad, weights.shape)})
    total = cupy_module().empty((n_replica, n_post), np.float64)
    if total.size:
        elementwise(src.OVER_INPUTS)(n_pre, n_post, weights, grad, total, size=total.size)
    return total
