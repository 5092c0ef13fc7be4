"""Neurons with time constants of their own on the CPU (Numba).

Where neurons share no time constant, a sample's events have no coefficients that all of them could use. The anchor of
each neuron is the event it is at, and moves on with every event: in the notation of `gpuspike.kernels.cpu.forward`

    p -> exp(-D/tau_slow) p,    v -> exp(-D/tau_fast) v + exp(-D/tau_slow) (1 - exp(-d D))/d p

with v the potential, in units of threshold - leak, at the event. The tangent test, multiplied by exp(-d D), takes the
same three exponentials. They make a pair cost some twenty times what it costs neurons that share them. Gradients take
the kernel pair by pair.

Weights are over C (threshold - leak), sums in float64 for either type of input: the rounding of every event is carried
on to the next.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.kernels.constants import EQUAL, GENERAL, tangent
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.solve import exp_vectorised, solve
from gpuspike.kernels.cpu.team import PIECES_PER_THREAD, enter, leave, run, tasks

PAIRS_WORTH_A_THREAD = 50_000
"""Pairs below which waking another thread does not pay."""


@njit(inline="always", error_model="numpy")
def _fraction(y):
    """(1 - exp(-y))/y for y >= 0, free of branches so that loops vectorise."""
    # The remainder of the series is below 1e-17 up to 1/4; beyond that the difference keeps all but two bits.
    series = 1.0
    for n in range(13, 1, -1):
        series = 1.0 - series * y / n
    return series if y < 0.25 else (1.0 - exp_vectorised(-y)) / max(y, 0.25)


@njit(error_model="numpy")
def _membranes(taus, slow, fast, rate):
    """The longer and the shorter time constant of each neuron, and the difference of their rates."""
    for j in range(len(taus)):
        slow[j], fast[j] = max(taus[j, 0], taus[j, 1]), min(taus[j, 0], taus[j, 1])
        rate[j] = (slow[j] - fast[j]) / slow[j] / fast[j] if slow[j] < math.inf else 1.0 / fast[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _forward(
    control, is_caller, n_tasks, n_pieces, t_in, order, weights, taus, lift, tangent, t_out, slope_out
):
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    n_pre = weights.shape[1]
    slow, fast, rate, p, v, keep, turn, shift, high = (
        np.empty(n_post), np.empty(n_post), np.empty(n_post), np.empty(n_post), np.empty(n_post), np.empty(n_post),
        np.empty(n_post), np.empty(n_post), np.ones(n_post),
    )  # fmt: skip
    may_cross = np.empty(n_post, np.bool_)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        _membranes(taus[r], slow, fast, rate)
        left = n_post
        for j in range(n_post):
            p[j] = v[j] = 0.0
            t_out[r, b, j], slope_out[r, b, j] = math.inf, 0.0
            if lift.size > 0:
                high[j] = lift[r, b, j]
                if high[j] <= 0.0:  # always on
                    t_out[r, b, j], high[j] = 0.0, 1.0
                    left -= 1
        for k in range(n_pre):
            i = order[r_in, b, k]
            t = np.float64(t_in[r_in, b, i])
            following = np.float64(t_in[r_in, b, order[r_in, b, k + 1]]) if k + 1 < n_pre else math.inf
            if t == math.inf or left == 0:
                break
            for j in range(n_post):
                p[j] += weights[r, i, j]
            gap = following - t
            if gap == 0.0:
                continue  # of simultaneous events, only the last one closes a causal set
            if gap < math.inf:
                for j in range(n_post):
                    keep[j], turn[j] = exp_vectorised(-gap / slow[j]), exp_vectorised(-rate[j] * gap)
                    shift[j] = gap * _fraction(rate[j] * gap)
                    may_cross[j] = v[j] * turn[j] + shift[j] * (p[j] - high[j] / fast[j]) >= high[j] * turn[j]
            else:
                may_cross[:] = True
            for j in range(n_post):
                if not may_cross[j] or t_out[r, b, j] < math.inf:
                    continue
                mode = EQUAL if rate[j] == 0.0 else GENERAL
                pull = p[j] / high[j]
                delay = solve(v[j] / high[j], pull, gap, mode, slow[j], fast[j], rate[j])
                if delay < math.inf:
                    t_out[r, b, j] = t + delay
                    steep = pull * math.exp(-delay / slow[j]) - 1.0 / fast[j]
                    slope_out[r, b, j] = steep * high[j] if steep * fast[j] > tangent else 0.0
                    left -= 1
            for j in range(n_post):
                v[j] = keep[j] * (turn[j] * v[j] + shift[j] * p[j])
                p[j] *= keep[j]
    return leave(control, is_caller, n_pieces)


@njit(error_model="numpy")
def _kernel(delay, slow, fast, rate):
    """C k(delay) for delay > 0."""
    rises = delay if rate == 0.0 else -math.expm1(-rate * delay) / rate
    return math.exp(-delay / slow) * rises


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(control, is_caller, n_tasks, n_pieces, t_in, weights, taus, tangent, t_out, slope_out):
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    slow, fast, rate = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        _membranes(taus[r], slow, fast, rate)
        for j in range(n_post):
            pull, potential = 0.0, 0.0
            for i in range(times.size):
                delay = np.float64(t_out[r, b, j]) - times[i]
                if 0.0 < delay < math.inf:
                    w = np.float64(weights[r, i, j])
                    pull += w * math.exp(-delay / slow[j])
                    potential += w * _kernel(delay, slow[j], fast[j], rate[j])
            rising = pull - potential / fast[j]
            slope_out[r, b, j] = rising if rising * fast[j] > tangent else 0.0
    return leave(control, is_caller, n_pieces)


@njit(cache=True, nogil=True, error_model="numpy")
def _times_grad(control, is_caller, n_tasks, n_pieces, t_in, weights, taus, t_out, scale, out):
    """out[b, i] = sum_j [t_bi < t_out_bj] w_ij scale_bj C k'(t_out_bj - t_bi)"""
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    slow, fast, rate = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        _membranes(taus[r], slow, fast, rate)
        for i in range(times.size):
            total = 0.0
            for j in range(n_post):
                delay = np.float64(t_out[r, b, j]) - times[i]
                if delay > 0.0 and scale[r, b, j] != 0.0:
                    fall = _kernel(delay, slow[j], fast[j], rate[j]) / slow[j]
                    total += weights[r, i, j] * scale[r, b, j] * (math.exp(-delay / fast[j]) - fall)
            out[r, b, i] = total
    return leave(control, is_caller, n_pieces)


@njit(cache=True, nogil=True, error_model="numpy")
def _weights_grad(control, is_caller, n_tasks, n_pieces, t_in, taus, t_out, scale, limit, out):
    """out[i, j] = -sum_b [t_bi < t_out_bj] scale_bj C k(t_out_bj - t_bi), without the rows that explode."""
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    n_pre = out.shape[1]
    slow, fast, rate = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    column, row = np.empty(n_pre), np.empty(n_pre)
    for task in tasks(control, n_tasks, n_pieces):
        r, j = task // n_post, task % n_post
        r_in = r if t_in.shape[0] > 1 else 0
        _membranes(taus[r], slow, fast, rate)
        column[:] = 0.0
        for b in range(n_batch):
            if scale[r, b, j] == 0.0:
                continue
            largest = 0.0
            for i in range(n_pre):
                delay = np.float64(t_out[r, b, j]) - t_in[r_in, b, i]
                row[i] = scale[r, b, j] * _kernel(delay, slow[j], fast[j], rate[j]) if delay > 0.0 else 0.0
                largest = max(largest, abs(row[i]))
            if largest <= limit:
                column -= row
        out[r, :, j] = column
    return leave(control, is_caller, n_pieces)


def forward(
    t_in: NDArray[Any],
    order: NDArray[np.int64],
    weights: NDArray[Any],
    taus: NDArray[np.float64],
    lift: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """First spike times, and slopes in units of threshold - leak; see `kernels.Kernels.forward`.

    Args:
        weights: (n_replica, n_pre, n_post) over C (threshold - leak).
        taus: (n_replica, n_post, 2), tau_mem and tau_syn of each neuron.
        lift: see `kernels.Trial`.
    """
    high = np.empty((0, 0, 0), weights.dtype) if lift is None else lift
    n_replica, n_pre, n_post = weights.shape
    t_out = np.empty((n_replica, t_in.shape[1], n_post), weights.dtype)
    slope = np.empty_like(t_out)
    arrays = t_in, order, weights, taus, high, tangent(weights.dtype), t_out, slope
    _run(_forward, n_replica * t_in.shape[1], arrays, parallel=t_out.size * n_pre > PAIRS_WORTH_A_THREAD)
    return t_out, slope


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
        weights: (n_replica, n_pre, n_post) as they are.
        slope: times the capacitance.
    """
    heard = active[:, None, None] & (slope > 0) & np.isfinite(t_out)
    scale = np.zeros(t_out.shape)
    np.divide(t_out_grad, slope, out=scale, where=heard, dtype=np.float64)
    weights_grad = np.zeros_like(weights)
    t_in_grad = np.zeros((len(t_out), *t_in.shape[1:]), weights.dtype) if need_t_in_grad else None
    parallel = t_out.size * t_in.shape[2] > PAIRS_WORTH_A_THREAD
    arrays = t_in, taus, t_out, scale, float(max_weight_grad), weights_grad
    _run(_weights_grad, len(weights) * weights.shape[2], arrays, parallel=parallel)
    if t_in_grad is not None:
        arrays = t_in, weights, taus, t_out, scale, t_in_grad
        _run(_times_grad, len(t_out) * t_out.shape[1], arrays, parallel=parallel)
    return t_in_grad, weights_grad


def _run(job: Any, n_tasks: int, arrays: tuple[Any, ...], *, parallel: bool) -> None:
    """All tasks of one of the jobs above."""
    n_pieces = min(n_tasks, PIECES_PER_THREAD * thread_count())
    run(job, (n_tasks, n_pieces, *arrays), parallel=parallel)
