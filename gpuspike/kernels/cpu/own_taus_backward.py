"""Gradients of neurons with time constants of their own: back from spike to input, event by event (Numba).

The notation is that of `gpuspike.kernels.cpu.own_taus`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.cpu.arrays import bare, keep
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.own_taus_events import (
    ANEW,
    anew,
    fill,
    fraction,
    kernel,
    membranes,
    prepare,
    vectors,
)
from gpuspike.kernels.cpu.simd_own_taus import (
    LANES,
    N_ROWS,
    P,
    V,
    bend_0,
    bend_3,
    bend_6,
    bend_12,
    subtract_0,
    subtract_3,
    subtract_6,
    subtract_12,
)  # fmt: skip
from gpuspike.kernels.cpu.solve import exp_vectorised
from gpuspike.kernels.cpu.team import enter, leave, tasks


@njit(error_model="numpy")
def _peaks(slow, fast, rate, peak, highest):
    """When C k(s) of each neuron is largest, and how large."""
    for j in range(len(slow)):
        if rate[j] == 0.0:
            peak[j] = 1.0 / slow[j]
        else:
            peak[j] = math.log(fast[j] / slow[j]) / rate[j] if slow[j] > 0.0 else math.inf
        highest[j] = kernel(peak[j], slow[j], rate[j]) if peak[j] < math.inf else 1.0 / fast[j]


@njit(error_model="numpy")
def _before(t, count, gate):
    """How many of the sorted t[:count] are before `gate`."""
    step, found = 1, 0
    while 2 * step <= count:
        step *= 2
    while step > 0:
        following = found + step
        found = following if following <= count and t[min(following, count) - 1] < gate else found
        step //= 2
    return found


@njit(error_model="numpy")
def _explodes(t, last, gate, grad, limit, slow, rate, peak):
    """Whether grad C k is beyond the limit for any of the inputs up to the `last` one.

    The kernel rises up to its peak and falls behind it: one of the two inputs next to that has the largest gradient.
    """
    k = _before(t, last + 1, gate - peak)
    steepest = kernel(gate - t[k], slow, rate) if k <= last else 0.0
    if k > 0:
        steepest = max(steepest, kernel(gate - t[k - 1], slow, rate))
    return abs(grad) * steepest > limit


@njit(error_model="numpy")
def _begin(t, scale, count, gates, slopes, grads, limit, peaks, n, slow, rate, p, v, heads, following):
    """Where a block's `n` neurons enter on the way back.

    Args:
        gates, slopes, grads: spike times, slopes there and dL/dt of the block;  slow, rate: of the block.
        peaks: see `_peaks`; only looked at where there is a limit.
        p, v: (LANES,) out: sums of each neuron at the event where it enters.
        heads: (count,) out: first neuron that enters at an event, or -1;  following: (LANES,) out: the next one.

    Returns:
        The last event where any enters, or -1.
    """
    delay, turn = np.zeros(LANES), np.empty(LANES)
    latest = -1
    heads[:count] = -1
    for m in range(n):
        p[m] = 0.0
        grad = np.float64(grads[m])
        if not (slopes[m] > 0.0 and gates[m] < math.inf) or grad == 0.0:
            continue
        k = _before(t, count, gates[m]) - 1
        if k < 0:
            continue
        grad /= slopes[m]
        if abs(grad) * peaks[1][m] > limit and _explodes(
            t, k, np.float64(gates[m]), grad, limit, slow[m], rate[m], peaks[0][m]
        ):
            continue
        following[m] = heads[k]
        heads[k] = m
        delay[m] = np.float64(gates[m]) - t[k]
        p[m] = grad / scale[k]
        latest = max(latest, k)
    for m in range(n):
        p[m] *= exp_vectorised(-delay[m] * slow[m])
    for m in range(n):
        turn[m] = exp_vectorised(-delay[m] * rate[m])
    for m in range(n):
        v[m] = p[m] * (delay[m] * fraction(delay[m] * rate[m], turn[m]))
    return latest


@njit(error_model="numpy")
def _subtract(what, kind, weight, numbers, place, row, n_vectors):
    """`subtract` of the degree that an event has."""
    if what == 3:
        return subtract_3(kind, weight, numbers, place, row, n_vectors)
    if what == 6:
        return subtract_6(kind, weight, numbers, place, row, n_vectors)
    if what == 12:
        return subtract_12(kind, weight, numbers, place, row, n_vectors)
    return subtract_0(kind, weight, numbers, place, row, n_vectors)


@njit(error_model="numpy")
def _bend(what, kind, weight, numbers, place, row, n_vectors):
    """`bend` of the degree that an event has."""
    if what == 3:
        return bend_3(kind, weight, numbers, place, row, n_vectors)
    if what == 6:
        return bend_6(kind, weight, numbers, place, row, n_vectors)
    if what == 12:
        return bend_12(kind, weight, numbers, place, row, n_vectors)
    return bend_0(kind, weight, numbers, place, row, n_vectors)


@njit(error_model="numpy")
def _rooms(n_pre, n_post):
    """Room for what a job has of neurons, of events and of a block, to be kept alive; see `_parts`."""
    return (
        np.empty((3, n_post)), np.empty((3, n_pre + 1)), np.empty(n_pre + 1, np.int64), np.empty((2, LANES)),
        np.empty(n_pre, np.int64), np.empty(LANES, np.int64),
    )  # fmt: skip


@njit(error_model="numpy")
def _parts(rooms):
    """slow, fast, rate; t, base, scale, kind; p, v, heads, following."""
    rates, times, of_block = bare(rooms[0]), bare(rooms[1]), bare(rooms[3])
    return (
        rates[0], rates[1], rates[2], times[0], times[1], times[2], bare(rooms[2]), of_block[0], of_block[1],
        bare(rooms[4]), bare(rooms[5]),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def weights_grad_job(
    control, is_caller, n_tasks, n_pieces, like, t_in, order, taus, t_out, slope, grad, active, limit, out
):
    """out[i, j] = -sum_b [t_bi < t_out_bj] grad_bj/slope_bj C k(t_out_bj - t_bi), without the rows that explode.

    Args:
        out: (n_replica, parts, n_pre, n_post), the sum over each part of the samples.
    """
    enter(control, is_caller)
    t_in, order, t_out, slope, grad = bare(t_in), bare(order), bare(t_out), bare(slope), bare(grad)
    n_batch, n_post = t_out.shape[1:]
    n_parts, n_pre = out.shape[1:3]
    n_blocks = (n_post + LANES - 1) // LANES
    table = np.zeros((N_ROWS, LANES), like.dtype)
    sums = np.empty((n_pre, LANES), like.dtype)
    rooms = _rooms(n_pre, n_post)
    slow, fast, rate, t, base, scale, kind, p, v, heads, following = _parts(rooms)
    one, place, row_bytes = like.dtype.type(1.0), table.ctypes.data, LANES * like.itemsize
    for task in tasks(control, n_tasks, n_pieces):
        r, part, first = task // (n_blocks * n_parts), task // n_blocks % n_parts, task % n_blocks * LANES
        samples = range(part * n_batch // n_parts, (part + 1) * n_batch // n_parts if active[r] else 0)
        r_in = r if t_in.shape[0] > 1 else 0
        end = min(first + LANES, n_post)
        n_vectors = vectors(end - first, table)
        centre, half, _, _ = membranes(taus[r], slow, fast, rate)
        fill(table, first, end - first, slow, fast, rate, centre, half)
        peaks = np.zeros(end - first), np.zeros(end - first)
        if limit < math.inf:
            _peaks(slow[first:end], fast[first:end], rate[first:end], *peaks)
        sums[:] = 0.0
        for b in samples:
            ranks = order[r_in, b]
            count = prepare(t_in[r_in, b], ranks, centre, half, out.itemsize == 8, t, base, scale, kind)
            latest = _begin(
                t, scale, count, t_out[r, b, first:end], slope[r, b, first:end], grad[r, b, first:end], limit, peaks,
                end - first, slow[first:end], rate[first:end], p, v, heads, following,
            )  # fmt: skip
            table[P] = 0.0
            table[V] = 0.0
            for k in range(latest, -1, -1):
                row = sums.ctypes.data + ranks[k] * row_bytes
                if k < latest:
                    what, gap = kind[k], t[k + 1] - t[k]
                    numbers = (like.dtype.type(scale[k]), like.dtype.type(half * gap), like.dtype.type(gap))
                    if what == ANEW:
                        anew(table, 0, 0, end - first, slow[first:], rate[first:], gap, scale[k])
                    _subtract(what, one, one, numbers, place, row, n_vectors)
                m = heads[k]
                while m >= 0:
                    table[P, m], table[V, m] = p[m], v[m]
                    sums[ranks[k], m] -= v[m] * scale[k]
                    m = following[m]
        out[r, part, :, first:end] = sums[:, : end - first]
    keep(rooms)
    return leave(control, is_caller, n_pieces)


@njit(cache=True, nogil=True, error_model="numpy")
def times_grad_job(
    control, is_caller, n_tasks, n_pieces, like, t_in, order, weights, taus, t_out, slope, grad, active, out
):
    """out[b, i] = sum_j [t_bi < t_out_bj] w_ij grad_bj/slope_bj C k'(t_out_bj - t_bi)"""
    enter(control, is_caller)
    t_in, order, t_out, slope, grad = bare(t_in), bare(order), bare(t_out), bare(slope), bare(grad)
    n_batch, n_post = t_out.shape[1:]
    n_pre = out.shape[2]
    n_blocks = (n_post + LANES - 1) // LANES
    tables = np.zeros((n_blocks, N_ROWS, LANES), like.dtype)
    rooms = _rooms(n_pre, n_post)
    slow, fast, rate, t, base, scale, kind, p, v, heads, following = _parts(rooms)
    one, w_one = like.dtype.type(1.0), weights.dtype.type(1.0)
    held, centre, half = -1, 0.0, 0.0
    total, peaks = np.empty(n_pre), (np.zeros(LANES), np.zeros(LANES))
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        if r != held:
            centre, half, _, _ = membranes(taus[r], slow, fast, rate)
            for block in range(n_blocks):
                first = block * LANES
                fill(tables[block], first, min(LANES, n_post - first), slow, fast, rate, centre, half)
            held = r
        ranks = order[r_in, b]
        total[:] = 0.0
        count = prepare(t_in[r_in, b], ranks, centre, half, out.itemsize == 8, t, base, scale, kind)
        for block in range(n_blocks if active[r] else 0):
            first, table = block * LANES, tables[block]
            end = min(first + LANES, n_post)
            n_vectors, place = vectors(end - first, table), table.ctypes.data
            latest = _begin(
                t, scale, count, t_out[r, b, first:end], slope[r, b, first:end], grad[r, b, first:end], math.inf, peaks,
                end - first, slow[first:end], rate[first:end], p, v, heads, following,
            )  # fmt: skip
            table[P] = 0.0
            table[V] = 0.0
            for k in range(latest, -1, -1):
                i = ranks[k]
                row = (
                    weights.ctypes.data
                    + r * weights.strides[0]
                    + i * weights.strides[1]
                    + first * weights.itemsize
                )
                if k < latest:
                    what, gap = kind[k], t[k + 1] - t[k]
                    numbers = (like.dtype.type(scale[k]), like.dtype.type(half * gap), like.dtype.type(gap))
                    if what == ANEW:
                        anew(table, 0, 0, end - first, slow[first:], rate[first:], gap, scale[k])
                    total[i] += _bend(what, one, w_one, numbers, place, row, n_vectors)
                m = heads[k]
                while m >= 0:
                    table[P, m], table[V, m] = p[m], v[m]
                    total[i] += weights[r, i, first + m] * (p[m] - fast[first + m] * v[m]) * scale[k]
                    m = following[m]
        out[r, b] = total
    keep(rooms)
    return leave(control, is_caller, n_pieces)
