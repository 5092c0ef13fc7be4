"""The oracle of neurons with delays of their synapses, and of derivatives by time constants, in plain NumPy.

A neuron with delays of its own is a layer of one neuron whose inputs come when they arrive; a derivative of
its kernel is an integral. See `kernels.SingleKernels` for the arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import reference
from gpuspike.kernels import single as on_host
from gpuspike.kernels.reference.arrays import each
from gpuspike.kernels.reference.peaks import peaks as _peaks
from gpuspike.neuron import LIF

Array = NDArray[Any]

peaks, over_samples, over_inputs = _peaks, on_host.over_samples, on_host.over_inputs

_NODES, _SHARES = (0.5 * x for x in np.polynomial.legendre.leggauss(100))


def forward(
    t_in: Array, weights: Array, delays: Array, neuron: LIF, lift: Array | None = None
) -> tuple[Array, Array]:
    """Spike times and slopes there."""
    t_out = np.empty((len(weights), t_in.shape[1], weights.shape[2]), weights.dtype)
    slope, none = np.empty_like(t_out), np.empty(0, np.int64)
    for r, j, one in each(neuron, weights):
        arriving, own = _arriving(t_in, delays, r, j), weights[r, None, :, j, None]
        lifted = None if lift is None else lift[r, None, :, j, None]
        t, s = reference.forward(arriving, none, own, one, lifted)
        t_out[r, :, j], slope[r, :, j] = t[0, :, 0], s[0, :, 0]
    return t_out, slope


def slopes(
    t_in: Array, weights: Array, delays: Array | None, neuron: LIF, t_out: Array, *, at_crossing: bool
) -> Array:
    """Slopes at given spike times, or where their causal sets would cross."""
    slope, of_layer = np.empty_like(t_out), reference.crossing_slopes if at_crossing else reference.slopes
    for r, j, one in each(neuron, weights):
        arriving, own = _arriving(t_in, delays, r, j), weights[r, None, :, j, None]
        slope[r, :, j] = of_layer(arriving, own, one, t_out[r, None, :, j, None])[0, :, 0]
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
    active: NDArray[np.bool_],
    max_weight_grad: float,
) -> tuple[Array, Array]:
    """Gradients of weights and of delays."""
    weights_grad, delays_grad = np.zeros(weights.shape), np.zeros(weights.shape)
    for r, j, one in each(neuron, weights):
        if not active[r]:
            continue
        arriving = _arriving(t_in, delays, r, j)
        own, at, steep, grad = (a[r, None, :, j, None] for a in (weights, t_out, slope, t_out_grad))
        by_time, by_weight = reference.first_spikes_vjp(arriving, own, one, at, grad, max_weight_grad, steep)
        weights_grad[r, :, j], delays_grad[r, :, j] = by_weight[0, :, 0], by_time[0].sum(axis=0)
    return weights_grad.astype(weights.dtype), delays_grad


def taus_grad(
    t_in: Array,
    weights: Array,
    delays: Array | None,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    active: NDArray[np.bool_],
) -> Array:
    """Gradients of the logarithms of tau_mem and tau_syn."""
    taus = np.zeros((2, len(weights), weights.shape[2]))
    for r, j, one in each(neuron, weights):
        if not active[r]:
            continue
        arriving = _arriving(t_in, delays, r, j)
        own, at, steep, grad = (a[r, None, :, j, None] for a in (weights, t_out, slope, t_out_grad))
        heard = (steep[0] > 0) & np.isfinite(at[0])
        share = np.where(heard, grad[0], 0.0) / np.where(heard, steep[0], 1.0)
        causal = (arriving[0] < at[0]) & heard
        past = np.where(causal, at[0].astype(np.float64) - np.where(causal, arriving[0], 0.0), 0.0)
        mem, syn = 1.0 / float(one.tau_mem), 1.0 / float(one.tau_syn)
        for k, (rate, other) in enumerate(((mem, syn), (syn, mem))):
            by_rate = bend(past, rate, other) / float(one.capacitance)
            taus[k, r, j] = float((share * rate * by_rate * own[0, :, 0]).sum())
    return taus


def times_grad(
    t_in: Array,
    weights: Array,
    delays: Array,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    active: NDArray[np.bool_],
) -> Array:
    """Gradient of the times at which inputs leave."""
    out = np.zeros((len(weights), *t_in.shape[1:]))
    for r, j, one in each(neuron, weights):
        own, *given = (a[r, None, :, j, None] for a in (weights, t_out, t_out_grad, slope))
        if active[r]:
            arriving = _arriving(t_in, delays, r, j)
            by_time, _ = reference.first_spikes_vjp(arriving, own, one, given[0], given[1], slope=given[2])
            out[r] += by_time[0]
    return out.astype(weights.dtype)


def bend(s: Array, own: float, other: float) -> Array:
    """Derivative by the rate `own` of C k(s), integral of exp(-own (s - x) - other x)."""
    x = s[..., None] * (0.5 + _NODES)
    inside = -(s[..., None] - x) * np.exp(-own * (s[..., None] - x) - other * x)
    return s * (inside @ _SHARES)


def _arriving(t_in: Array, delays: Array | None, replica: int, post: int) -> Array:
    """(1, n_batch, n_pre) when the inputs of one neuron arrive."""
    times = t_in[replica if len(t_in) > 1 else 0]
    return (times if delays is None else times + delays[replica, :, post])[None]
