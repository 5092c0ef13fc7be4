"""Neurons with time constants of their own on the CPU (Numba).

Where neurons share no time constant, a sample's events have no coefficients that all of them could use. The anchor of
each neuron is the event it is at, and moves on with every event: in the notation of `gpuspike.kernels.cpu.forward`

    p -> keep(D) p,    v -> fade(D) v + shift(D) p
    keep(D) = exp(-D/tau_slow),    fade(D) = exp(-D/tau_fast),    shift(D) = C k(D) = (keep(D) - fade(D))/d

with v the potential at the event and D the time to the next one. These three are functions of a neuron and of a
gap. Relative to exp(-c D), with c the centre of all neurons' rates 1/tau, they are polynomials of few terms, since
chips have time constants that differ by percents and events that follow each other soon: with y = D h, h the largest
distance of a rate from c, a = (1/tau_slow - c)/h and b = (1/tau_fast - c)/h between -1 and 1

    keep = 1 + sum_n (-a y)^n/n!,    shift = D (1 + sum_n (-y)^n h_n(a, b)/(n + 1)!),    fade = keep - d shift
    h_n(a, b) = sum_m a^m b^(n - m)

of 3, 6 or 12 terms, by the gap; no difference cancels, be the two constants equal or not. So a pair takes some
17 multiply-adds, vectorised over neurons, where 2 are enough for neurons that share their constants. exp(c t) goes
into weights and thresholds, event by event. Long gaps take the exponentials themselves, and set a new anchor.

Gradients go the same way back: from the last event before its spike, where C k(T - t) and exp(-(T - t)/tau_slow) begin,
each neuron is taken from event to event by the same polynomials.

Weights are over C (threshold - leak).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.kernels import SAME_TICK, LayerState, Trial
from gpuspike.kernels.constants import tangent
from gpuspike.kernels.cpu.arrays import in_vectors
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.own_taus_backward import times_grad_job, weights_grad_job
from gpuspike.kernels.cpu.own_taus_events import kernel, membranes
from gpuspike.kernels.cpu.own_taus_forward import forward_job
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_own_taus import LANES
from gpuspike.kernels.cpu.sort import spike_order
from gpuspike.kernels.cpu.team import PIECES_PER_THREAD, enter, leave, run, tasks
from gpuspike.kernels.trials import check_trial

PAIRS_WORTH_A_THREAD = 20_000
"""Pairs below which waking another thread does not pay."""

MOST_PARTS = 4
"""Parts of the samples that the weights' gradient of a narrow layer is summed over, one by one, for as many threads."""


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(control, is_caller, n_tasks, n_pieces, t_in, weights, taus, tangent, t_out, slope_out):
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    slow, fast, rate = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        membranes(taus[r], slow, fast, rate)
        for j in range(n_post):
            pull, potential = 0.0, 0.0
            for i in range(times.size):
                delay = np.float64(t_out[r, b, j]) - times[i]
                if 0.0 < delay < math.inf:
                    w = np.float64(weights[r, i, j])
                    pull += w * math.exp(-delay * slow[j])
                    potential += w * kernel(delay, slow[j], rate[j])
            rising = pull - potential * fast[j]
            slope_out[r, b, j] = rising if rising > tangent * fast[j] else 0.0
    return leave(control, is_caller, n_pieces)


def _rows(weights: NDArray[Any]) -> NDArray[Any]:
    """The weights in rows of whole vectors; themselves where they are that already."""
    whole = weights.shape[2] * weights.itemsize % VECTOR_BYTES == 0 and weights.flags.c_contiguous
    return weights if whole else in_vectors(weights)


def forward(
    t_in: NDArray[Any],
    order: NDArray[np.int64] | None,
    weights: NDArray[Any],
    taus: NDArray[np.float64],
    trial: Trial | None,
    bias_times: Sequence[float] | None,
) -> tuple[LayerState, NDArray[Any], NDArray[np.int64]]:
    """What a layer answers, its slopes in units of threshold - leak, and with it the next layer's input.

    Args:
        order: that sorts the inputs; None: not known yet.
        weights: (n_replica, n_pre, n_post) over C (threshold - leak).
        taus: (n_replica, n_post, 2), tau_mem and tau_syn of each neuron.
        trial: see `kernels.Trial`, where a chip interferes.
        bias_times: of the next layer, None where there is none.

    Returns:
        (the layer's state, spikes and bias spikes for the next layer, the order that sorts them).
    """
    n_replica, n_pre, n_post = weights.shape
    n_batch, dtype = t_in.shape[1], weights.dtype
    if order is None:
        order = spike_order(t_in)
    t_cross = np.empty((n_replica, n_batch, n_post), dtype)
    slope, nothing = np.empty_like(t_cross), np.empty((0, 0, 0), dtype)
    t_out, lift, delay, grid, end = nothing, nothing, nothing, 0.0, math.inf
    if trial is not None:
        check_trial(trial, t_cross.shape, dtype)
        t_out, grid, end = np.empty_like(t_cross), float(trial.grid), float(trial.end)
        lift, delay = (
            nothing if array is None else np.ascontiguousarray(array) for array in (trial.lift, trial.delay)
        )
    n_next = 0 if bias_times is None else n_post + len(bias_times)
    t_next, order_next = (np.empty((n_replica, n_batch, n_next), kind) for kind in (dtype, np.int64))
    bias = np.array([] if bias_times is None else bias_times, dtype)
    _run(
        forward_job,
        n_replica * n_batch,
        (
            t_in, order, _rows(weights), taus, lift, tangent(dtype), t_cross, slope, (delay, grid, end, SAME_TICK),
            t_out, bias, t_next, order_next,
        ),
        parallel=t_cross.size * n_pre > PAIRS_WORTH_A_THREAD,
    )  # fmt: skip
    heard = t_cross if trial is None else t_out
    return LayerState(t_in, order, heard, t_cross, slope), t_next, order_next


def slopes(
    t_in: NDArray[Any], weights: NDArray[Any], taus: NDArray[np.float64], t_out: NDArray[Any]
) -> NDArray[Any]:
    """Slopes at given spike times in units of threshold - leak; arguments as for `forward`."""
    slope = np.zeros_like(t_out)
    arrays = t_in, weights, taus, tangent(weights.dtype), t_out, slope
    parallel = t_out.size * t_in.shape[2] > PAIRS_WORTH_A_THREAD
    _run(_slopes, len(t_out) * t_out.shape[1], arrays, parallel=parallel)
    return slope


def backward(
    t_in: NDArray[Any],
    order: NDArray[np.int64],
    weights: NDArray[Any],
    taus: NDArray[np.float64],
    t_out: NDArray[Any],
    slope: NDArray[Any],
    t_out_grad: NDArray[Any],
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Gradients; see `kernels.Kernels.backward`.

    Args:
        order: that sorts the inputs; empty where nobody knows it.
        weights: (n_replica, n_pre, n_post) as they are.
        slope: times the capacitance.
    """
    n_replica, n_pre, n_post = weights.shape
    n_batch = t_out.shape[1]
    if order.shape != t_in.shape:
        order = spike_order(t_in)
    like = np.empty(0, weights.dtype)
    n_blocks = -(-n_post // LANES)
    n_parts = max(1, MOST_PARTS // max(n_blocks, 1))
    parts = np.empty((n_replica, n_parts, n_pre, n_post), weights.dtype)
    t_in_grad = np.zeros((n_replica, *t_in.shape[1:]), weights.dtype) if need_t_in_grad else None
    parallel = t_out.size * n_pre > PAIRS_WORTH_A_THREAD
    # A gradient without the bias spikes' part is a view: another layout would be another compiled job.
    spikes = t_out, slope, np.ascontiguousarray(t_out_grad), active
    arrays = like, t_in, order, taus, *spikes, float(max_weight_grad), parts
    _run(weights_grad_job, n_replica * n_parts * n_blocks, arrays, parallel=parallel)
    if t_in_grad is not None:
        arrays = like, t_in, order, _rows(weights), taus, *spikes, t_in_grad
        _run(times_grad_job, n_replica * n_batch, arrays, parallel=parallel)
    return t_in_grad, parts.sum(axis=1) if n_parts > 1 else parts[:, 0]


def _run(job: Any, n_tasks: int, arrays: tuple[Any, ...], *, parallel: bool) -> None:
    """All tasks of one of the jobs above."""
    n_pieces = min(n_tasks, PIECES_PER_THREAD * thread_count())
    run(job, (n_tasks, n_pieces, *arrays), parallel=parallel)
