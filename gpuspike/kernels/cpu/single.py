"""Neuron by neuron on the CPU (Numba): what has no order, or no time constants, that a layer shares.

Where every synapse has a delay of its own, every neuron has its own order of events. A block of neurons gathers what
arrives and sorts it by the same comparisons, side by side; then each goes from event to event with its potential v and
its sum p anchored there, in the notation of `gpuspike.kernels.cpu.forward`,

    p -> exp(-D/tau_slow) p,    v -> exp(-D/tau_fast) v + K(D) p,    K(s) = exp(-s/tau_slow) (1 - exp(-d s))/d

with D the time to the next one. An event takes two exponentials and its part of a sort, where a layer that shares its
events takes two multiply-adds; no array is larger than times or weights.

With a = 1/tau_mem and b = 1/tau_syn, K = (exp(-a s) - exp(-b s))/(b - a), so that

    dK/da = -s^2 exp(-a s) f((b - a) s),    dK/db = -s^2 exp(-b s) f((a - b) s),    f(z) = (z - 1 + exp(-z))/z^2
    dT/d ln(tau_mem) = a sum_i w_i dK/da(T - t_i)/(C u'(T)),    and so for tau_syn, with C as it is

by the implicit function theorem, as for the weights and the times in docs/mathematics.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.kernels import single as on_host
from gpuspike.kernels.constants import tangent
from gpuspike.kernels.cpu.peaks import peaks_job
from gpuspike.kernels.cpu.single_backward import learn_job, times_job
from gpuspike.kernels.cpu.single_forward import LANES, forward_job, slopes_job
from gpuspike.kernels.cpu.sort import spike_order
from gpuspike.kernels.cpu.team import PIECES_PER_THREAD, run
from gpuspike.neuron import LIF

Array = NDArray[Any]

over_samples, over_inputs = on_host.over_samples, on_host.over_inputs

PAIRS_WORTH_A_THREAD = 2_000
"""Pairs below which waking another thread does not pay."""


def _table(neuron: LIF, n_replica: int, n_post: int) -> NDArray[np.float64]:
    """(9, n_replica, n_post), see `single_forward.SPAN`."""
    tau_mem, tau_syn, threshold, leak, capacitance = neuron.table(n_replica, n_post)
    slow, fast = np.maximum(tau_mem, tau_syn), np.minimum(tau_mem, tau_syn)
    endless = np.isinf(slow)
    finite = np.where(endless, fast, slow)
    rate = np.where(endless, 1.0 / fast, (finite - fast) / finite / fast)
    differ = (rate > 0.0) & ~endless
    by = np.where(differ, rate, 1.0)
    peak = np.where(differ, np.log1p((finite - fast) / fast) / by, np.where(endless, np.inf, fast))
    at_peak = np.exp(-np.where(endless, 0.0, peak) / finite)
    highest = np.where(differ, -np.expm1(-by * peak) / by, fast) * at_peak
    rows = threshold - leak, capacitance, slow, fast, rate, highest, peak, 1.0 / tau_mem, 1.0 / tau_syn
    return np.stack(rows)


def _given(delays: Array | None, weights: Array) -> Array:
    return np.zeros_like(weights) if delays is None else np.ascontiguousarray(delays)


def _run(job: Any, n_tasks: int, arrays: tuple[Any, ...], pairs: int) -> None:
    n_pieces = min(n_tasks, PIECES_PER_THREAD * thread_count())
    run(job, (n_tasks, n_pieces, *arrays), parallel=pairs > PAIRS_WORTH_A_THREAD)


def forward(
    t_in: Array, weights: Array, delays: Array, neuron: LIF, lift: Array | None = None
) -> tuple[Array, Array]:
    """Spike times of neurons with delays of their synapses, and slopes there; see `kernels.SingleKernels`."""
    n_replica, _, n_post = weights.shape
    t_out = np.empty((n_replica, t_in.shape[1], n_post), weights.dtype)
    slope = np.empty_like(t_out)
    lift = np.empty((0, 0, 0), weights.dtype) if lift is None else np.ascontiguousarray(lift)
    table = _table(neuron, n_replica, n_post)
    arrays = (
        *map(np.ascontiguousarray, (t_in, weights, delays)), table, lift, tangent(weights.dtype),
        t_out, slope,
    )  # fmt: skip
    _run(forward_job, n_replica * t_in.shape[1], arrays, t_out.size * t_in.shape[2])
    return t_out, slope


def slopes(
    t_in: Array, weights: Array, delays: Array | None, neuron: LIF, t_out: Array, *, at_crossing: bool
) -> Array:
    """Slopes of membranes at given spike times, or where they would cross; see `kernels.SingleKernels`."""
    table, slope = _table(neuron, len(weights), weights.shape[2]), np.empty_like(t_out)
    arrays = (
        *map(np.ascontiguousarray, (t_in, weights)), _given(delays, weights), table, at_crossing,
        tangent(weights.dtype), np.ascontiguousarray(t_out), slope,
    )  # fmt: skip
    _run(slopes_job, t_out.shape[0] * t_out.shape[1], arrays, t_out.size * t_in.shape[2])
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
    """Gradients of weights and delays; see `kernels.SingleKernels`."""
    spikes = t_out, slope, t_out_grad
    weights_grad, delays_grad, _ = _learnt(
        t_in, weights, delays, neuron, *spikes, active, float(max_weight_grad), False
    )
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
    """Gradients of the logarithms of the time constants; see `kernels.SingleKernels`."""
    return _learnt(t_in, weights, delays, neuron, t_out, slope, t_out_grad, active, np.inf, True)[2]


def _learnt(
    t_in: Array,
    weights: Array,
    delays: Array | None,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    active: NDArray[np.bool_],
    limit: float,
    with_taus: bool,
) -> tuple[Array, Array, Array]:
    """Gradients of weights, delays and, where asked for, of the logarithms of time constants; in float64."""
    n_replica, n_pre, n_post = weights.shape
    found = np.empty(weights.shape), np.empty(weights.shape), np.empty((2, n_replica, n_post))
    arrays = (
        *map(np.ascontiguousarray, (t_in, weights)), _given(delays, weights), _table(neuron, n_replica, n_post),
        *map(np.ascontiguousarray, (t_out, slope, t_out_grad)), active, limit, with_taus, *found,
    )  # fmt: skip
    _run(learn_job, n_replica * -(-n_post // LANES), arrays, t_out.size * n_pre)
    return found


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
    """Gradient of the times at which inputs leave for synapses with delays; arguments as for `learn`."""
    n_replica, n_batch = len(weights), t_in.shape[1]
    out = np.empty((n_replica, *t_in.shape[1:]), weights.dtype)
    arrays = (
        *map(np.ascontiguousarray, (t_in, weights, delays)), _table(neuron, n_replica, weights.shape[2]),
        *map(np.ascontiguousarray, (t_out, slope, t_out_grad)), active, out,
    )  # fmt: skip
    _run(times_job, n_replica * n_batch, arrays, t_out.size * t_in.shape[2])
    return out


def peaks(t_in: Array, weights: Array, delays: Array | None, neuron: LIF, wanted: NDArray[np.bool_]) -> Array:
    """When membranes are highest that no spike ends; see `kernels.SingleKernels`."""
    table, t_peak = _table(neuron, len(weights), weights.shape[2]), np.empty(wanted.shape, weights.dtype)
    t_in = np.ascontiguousarray(t_in)
    order = np.empty(t_in.shape, np.int64) if delays is not None else spike_order(t_in)
    delays = np.empty((0, 0, 0), weights.dtype) if delays is None else np.ascontiguousarray(delays)
    arrays = t_in, order, np.ascontiguousarray(weights), delays, table, np.ascontiguousarray(wanted), t_peak
    _run(peaks_job, len(weights) * t_in.shape[1], arrays, int(wanted.sum()) * t_in.shape[2])
    return t_peak
