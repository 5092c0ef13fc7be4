"""First spike times on the CPU: a sweep through sorted events, then an exact solution (Numba).

One pair of sums serves every ratio of the time constants. With d = 1/tau_fast - 1/tau_slow, times counted from
an anchor and E(t) = (exp(d t) - 1)/d, which goes to t as d goes to 0,

    p = sum_C w_i a_i,   q = sum_C w_i a_i E(t_i),   a_i = exp(t_i/tau_slow)
    C (u(T) - leak) = exp(-T/tau_fast) (E(T) p - q)

so that in x = E(T) the threshold is where the straight line x p - q meets the convex curve
R(x) = C (threshold - leak) exp(T(x)/tau_fast). The tangent of R at an event lies below R: unless the line passes
that tangent before the next event, no crossing can lie between the two. That is the test of the sweep, one
multiply-add and one comparison. Newton's method on a concave difference, started from its left, never overshoots.

Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021), for the model and its closed forms; the
common form for all ratios is derived above.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuspike.kernels.cpu_solve import (
    EQUAL,
    GENERAL,
    anchored,
    exp_vectorised,
    moved,
    rise,
    solve,
    solve_equal,
)
from gpuspike.kernels.simd import VECTOR_BYTES, sweep_1, sweep_2, sweep_4, sweep_6
from gpuspike.kernels.threads import PIECES_PER_THREAD, for_each, thread_count

SWEEP_EVENTS = 64
"""Events between two looks at whether a tile has any silent neuron left."""

FLAT = 0.02
"""Slope of a crossing, in (threshold - leak)/tau_fast, below which float32 sums are not enough: their error of some
1e-6 is divided by the slope to give that of the time."""

SAMPLES_PER_TASK = 16
"""Samples that share a tile's weights while these are in the second-level cache."""

EVENTS_A_SOLUTION = 200
"""Pair-events that solving for one spike time costs, roughly; preparing an event costs a third of that."""

PAIRS_WORTH_A_THREAD = 1_000_000
"""Pair-events, some 80 us of work, below which waking another thread does not pay."""


@njit(error_model="numpy", fastmath={"contract"})
def _next_stops(
    n_lanes,
    lanes,
    b,
    base,
    count,
    p,
    q,
    times,
    order,
    starts,
    growth,
    position,
    coefficients,
    n_events,
    weights,
    mode,
    tau_slow,
    tau_fast,
    rate,
):
    """Carries neurons of sample `b` on from the event at which the tangent test has stopped them to the next.

    Needed where the test let them through and no crossing followed: rare where events are dense, short where they
    are few. Arrays come whole, with the sample's index: a view of every row would cost more than the work.

    Args:
        lanes: (n_lanes,) the neurons, counted from neuron `base` of the layer; in place, those that stop again.
        count, p, q: (n_samples, neurons) event of the stop and the sums there, updated; the rest as in `_prepare`.

    Returns:
        How many stop again.
    """
    again = 0
    for m in range(n_lanes):
        j = lanes[m]
        stopped = np.int64(count[b, j])
        p_sum, q_sum = p[b, j], q[b, j]
        segment = 0
        while starts[b, segment + 1] <= stopped:
            segment += 1
        for k in range(stopped + 1, n_events):
            if k == starts[b, segment + 1]:
                gap = times[b, k] - times[b, starts[b, segment]]
                p_moved, q_moved = moved(p_sum, q_sum, gap, mode, tau_slow, tau_fast, rate)
                p_sum, q_sum = p.dtype.type(p_moved), q.dtype.type(q_moved)
                segment += 1
            w = weights[order[b, k], base + j]
            p_sum += w * p.dtype.type(growth[b, k])
            q_sum += w * q.dtype.type(growth[b, k] * position[b, k])
            if coefficients[2, b, k] * p_sum - q_sum >= coefficients[3, b, k]:
                p[b, j], q[b, j], count[b, j] = p_sum, q_sum, k
                lanes[again] = j
                again += 1
                break
    return again


@njit(error_model="numpy", fastmath={"contract"})
def _polish(
    n_lanes,
    lanes,
    b,
    base,
    count,
    room,
    times,
    order,
    starts,
    growth,
    position,
    weights,
    drive,
    mode,
    tau_slow,
    tau_fast,
    rate,
    delay,
    slope,
):
    """Solves the flat crossings of sample `b` again, from sums in float64.

    Args:
        lanes: (n_lanes,) the neurons, counted from neuron `base` of the layer.
        room, delay, slope: (n_lanes,) as for `solve_equal`; the last two are corrected.
    """
    for m in range(n_lanes):
        if not slope[m] * tau_fast < FLAT or delay[m] == math.inf:
            continue
        p_sum, q_sum = 0.0, 0.0
        segment = 0
        last = np.int64(count[b, lanes[m]])
        for k in range(last + 1):
            if k == starts[b, segment + 1]:
                gap = times[b, k] - times[b, starts[b, segment]]
                p_sum, q_sum = moved(p_sum, q_sum, gap, mode, tau_slow, tau_fast, rate)
                segment += 1
            term = weights[order[b, k], base + lanes[m]] * growth[b, k]
            p_sum += term
            q_sum += term * position[b, k]
        pull, v = anchored(p_sum, q_sum, growth[b, last], position[b, last], drive, rate)
        s = solve(v, pull, room[m], mode, tau_slow, tau_fast, rate)
        if s < math.inf:  # else float32 has the last word on whether there is a spike
            delay[m] = s
            slope[m] = pull * math.exp(-s / tau_slow) - 1.0 / tau_fast


@njit(error_model="numpy", fastmath={"contract"})
def _prepare(
    t_in,
    order,
    drive,
    mode,
    tau_slow,
    tau_fast,
    rate,
    reach,
    times,
    starts,
    growth,
    position,
    pull_unit,
    unit,
    coefficients,
    n_events,
    n_segments,
):
    """What the sweep and the solution need of every event.

    Args:
        t_in, order: (n_samples, n_pre) spike times and the order that sorts them.
        reach: longest time from an anchor, in tau_fast, before a new anchor is set.
        times: (n_samples, n_pre + 1) out: sorted, inf at the end.
        starts: (n_samples, n_pre + 1) out: first event of each anchored segment, then the number of events.
        growth, position: (n_samples, n_pre) out: a and E of each event relative to its segment's anchor.
        pull_unit, unit: (n_samples, n_pre) out: what turns the sum p, and the line x p - q, into the units of
            `solve`.
        coefficients: (4, n_samples, n_pre) out, in the working type: a1, a2, c1, c2 of `sweep`.
        n_events, n_segments: (n_samples,) out.
    """
    n_samples, n_pre = t_in.shape
    rate_slow, rate_fast, step = 1.0 / tau_slow, 1.0 / tau_fast, 0.0 if mode == EQUAL else 1.0 / rate
    for b in range(n_samples):
        for k in range(n_pre):
            times[b, k] = t_in[b, order[b, k]]
        times[b, n_pre] = math.inf
        count = n_pre
        while count > 0 and times[b, count - 1] == math.inf:
            count -= 1
        segments = 0
        first = 0
        while first < count:
            anchor = times[b, first]
            last = first + 1
            if times[b, count - 1] - anchor <= reach * tau_fast:
                last = count
            else:
                while last < count and times[b, last] - anchor <= reach * tau_fast:
                    last += 1
            starts[b, segments] = first
            segments += 1
            for k in range(first, last):
                growth[b, k] = exp_vectorised((times[b, k] - anchor) * rate_slow)
            if mode == EQUAL:
                for k in range(first, last):
                    position[b, k] = times[b, k] - anchor
            elif mode == GENERAL:
                for k in range(first, last):  # d may be small: expm1 keeps its digits
                    position[b, k] = math.expm1(rate * (times[b, k] - anchor)) * step
            else:
                for k in range(first, last):
                    position[b, k] = (exp_vectorised(rate * (times[b, k] - anchor)) - 1.0) * step
            for k in range(first, last):
                a, x = growth[b, k], position[b, k]
                pull_unit[b, k] = 1.0 / (a * drive)
                coefficients[0, b, k] = a
                coefficients[1, b, k] = a * x
            for k in range(first, last):
                unit[b, k] = pull_unit[b, k]
            if mode != EQUAL:
                for k in range(first, last):
                    unit[b, k] /= 1.0 + rate * position[b, k]
            for k in range(first, last - 1):
                a, x, x_next = growth[b, k], position[b, k], position[b, k + 1]
                bound = drive * a * (1.0 + rate * x + (x_next - x) * rate_fast)
                coefficients[2, b, k] = x_next
                # Of simultaneous events, only the last one closes a causal set.
                coefficients[3, b, k] = bound if times[b, k + 1] > times[b, k] else math.inf
            k = last - 1
            a, x = growth[b, k], position[b, k]
            following = times[b, last]
            x_next = rise(min(following - anchor, 1e3 * tau_fast), mode, rate)
            coefficients[2, b, k] = x_next
            coefficients[3, b, k] = drive * a * (1.0 + rate * x + (x_next - x) * rate_fast)
            first = last
        starts[b, segments] = count
        n_events[b], n_segments[b] = count, segments


@njit(error_model="numpy")
def _sweep_tile(n_vectors, kind, tile, tile_last, events, state, k_first, n_events):
    if n_vectors == 6:
        return sweep_6(kind, tile, tile_last, events, state, k_first, n_events)
    if n_vectors == 4:
        return sweep_4(kind, tile, tile_last, events, state, k_first, n_events)
    if n_vectors == 2:
        return sweep_2(kind, tile, tile_last, events, state, k_first, n_events)
    return sweep_1(kind, tile, tile_last, events, state, k_first, n_events)


@njit(error_model="numpy", fastmath={"contract"})
def _forward_task(
    t_in,
    order,
    weights,
    weights_tail,
    first_vector,
    end_vector,
    n_whole,
    mode,
    constants,
    t_out,
    slope_out,
):
    """A few samples of one replica, a range of its neurons; see `forward`.

    Args:
        t_in, order: (n_samples, n_pre) spike times and the order that sorts them.
        weights: (n_pre, n_post);  weights_tail: (n_pre, one vector), the columns past the last whole vector.
        first_vector, end_vector: the neurons' range, in vectors; n_whole vectors lie in `weights` itself.
        t_out, slope_out: (n_samples, n_post).
    """
    tau_slow, tau_fast, rate, drive, span, reach, tangent = constants
    n_samples, n_pre = t_in.shape
    n_post = weights.shape[1]
    kind = weights_tail.dtype.type(0.0)
    size = weights_tail.itemsize
    width = VECTOR_BYTES // size
    base = first_vector * width
    n_lanes = (end_vector - first_vector) * width
    n_used = min(n_lanes, n_post - base)

    p = np.zeros((n_samples, n_lanes), weights.dtype)
    q = np.zeros((n_samples, n_lanes), weights.dtype)
    count = np.zeros((n_samples, n_lanes), np.int32)
    # One array for all four: an array that is used no more except by its address would be freed at once.
    coefficients = np.empty((4, n_samples, n_pre), weights.dtype)
    times = np.empty((n_samples, n_pre + 1), np.float64)
    growth = np.empty((n_samples, n_pre), np.float64)
    position = np.empty((n_samples, n_pre), np.float64)
    pull_unit = np.empty((n_samples, n_pre), np.float64)
    unit = np.empty((n_samples, n_pre), np.float64)
    starts = np.empty((n_samples, n_pre + 1), np.int32)
    n_events = np.empty(n_samples, np.int64)
    n_segments = np.empty(n_samples, np.int64)
    _prepare(
        t_in, order, drive, mode, tau_slow, tau_fast, rate, reach,
        times, starts, growth, position, pull_unit, unit, coefficients, n_events, n_segments,
    )  # fmt: skip

    # Addresses, taken once: a view of every row would cost more than a short row's sweep.
    row, weights_data, tail_data = weights.strides[0], weights.ctypes.data, weights_tail.ctypes.data
    order_row, order_data = order.strides[0], order.ctypes.data
    p_data, q_data, count_data = p.ctypes.data, q.ctypes.data, count.ctypes.data
    coefficients_data, plane = coefficients.ctypes.data, coefficients.strides[0]
    vector = first_vector
    while vector < end_vector:
        left = end_vector - vector
        n_vectors = 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1
        tile = (weights_data + vector * VECTOR_BYTES, row)
        if vector + n_vectors > n_whole:
            tile_last = (tail_data, VECTOR_BYTES)
        else:
            tile_last = (tile[0] + (n_vectors - 1) * VECTOR_BYTES, row)
        lane = (vector - first_vector) * width
        for b in range(n_samples):
            at = b * n_lanes + lane
            state = (p_data + size * at, q_data + size * at, count_data + 4 * at)
            silent = True
            for segment in range(n_segments[b]):
                k = np.int64(starts[b, segment])
                end = np.int64(starts[b, segment + 1])
                if segment > 0:
                    gap = times[b, k] - times[b, starts[b, segment - 1]]
                    for j in range(lane, lane + n_vectors * width):
                        if count[b, j] == k:  # still swept
                            p[b, j], q[b, j] = moved(p[b, j], q[b, j], gap, mode, tau_slow, tau_fast, rate)
                while silent and k < end:
                    run = min(SWEEP_EVENTS, end - k)
                    event = coefficients_data + size * (b * n_pre + k)
                    events = (
                        order_data + b * order_row + 8 * k,
                        event,
                        event + plane,
                        event + 2 * plane,
                        event + 3 * plane,
                    )
                    silent = _sweep_tile(n_vectors, kind, tile, tile_last, events, state, k, run) != 0
                    k += run
                if not silent:
                    break
        vector += n_vectors

    lanes = np.empty(n_used, np.int64)
    start = np.empty(n_used, np.float64)
    room = np.empty(n_used, np.float64)
    v = np.empty(n_used, np.float64)
    pull = np.empty(n_used, np.float64)
    delay = np.empty(n_used, np.float64)
    slope = np.empty(n_used, np.float64)
    for b in range(n_samples):
        last = n_events[b] - 1
        stopped = 0
        for j in range(n_used):
            t_out[b, base + j] = math.inf
            slope_out[b, base + j] = 0.0
            lanes[stopped] = j
            stopped += 1 if count[b, j] <= last else 0
        while stopped > 0:
            for m in range(stopped):
                j = lanes[m]
                k = count[b, j]
                start[m] = times[b, k]
                room[m] = times[b, k + 1] - times[b, k]
                pull[m] = p[b, j] * pull_unit[b, k]
                v[m] = (position[b, k] * p[b, j] - q[b, j]) * unit[b, k]
            if mode == EQUAL:
                solve_equal(v, pull, room, delay, slope, stopped, tau_fast)
            else:
                for m in range(stopped):
                    delay[m] = solve(v[m], pull[m], room[m], mode, tau_slow, tau_fast, rate)
                    slope[m] = pull[m] * math.exp(-delay[m] / tau_slow) - 1.0 / tau_fast
            if size == 4:
                flat = 0
                for m in range(stopped):
                    flat += 1 if (slope[m] * tau_fast < FLAT) & (delay[m] < math.inf) else 0
                if flat > 0:
                    _polish(
                        stopped, lanes, b, base, count, room, times, order, starts, growth, position,
                        weights, drive, mode, tau_slow, tau_fast, rate, delay, slope,
                    )  # fmt: skip
            missed = 0
            for m in range(stopped):
                j = lanes[m]
                t_out[b, base + j] = start[m] + delay[m]
                # Where the potential only touches the threshold, the slope is rounding: no gradient.
                steep = (slope[m] * tau_fast > tangent) & (delay[m] < math.inf)
                slope_out[b, base + j] = slope[m] * span if steep else 0.0
                lanes[missed] = j
                missed += 1 if (delay[m] == math.inf) & (count[b, j] < last) else 0
            stopped = 0
            if missed > 0:
                stopped = _next_stops(
                    missed, lanes, b, base, count, p, q, times, order, starts, growth, position,
                    coefficients, last + 1, weights, mode, tau_slow, tau_fast, rate,
                )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(
    first,
    last,
    t_in,
    order,
    weights,
    weights_tail,
    mode,
    constants,
    samples_per_task,
    n_ranges,
    t_out,
    slope_out,
):
    """Tasks `first` to `last`; a task is a few samples of a replica and a range of its neurons."""
    n_batch, n_post = t_out.shape[1:]
    width = VECTOR_BYTES // weights.itemsize
    n_whole = n_post // width
    n_vectors = (n_post + width - 1) // width
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    for task in range(first, last):
        r = task // (n_chunks * n_ranges)
        chunk = (task // n_ranges) % n_chunks
        part = task % n_ranges
        r_in = r if t_in.shape[0] > 1 else 0
        b0 = chunk * samples_per_task
        b1 = min(b0 + samples_per_task, n_batch)
        _forward_task(
            t_in[r_in, b0:b1], order[r_in, b0:b1], weights[r], weights_tail[r],
            part * n_vectors // n_ranges, (part + 1) * n_vectors // n_ranges, n_whole,
            mode, constants, t_out[r, b0:b1], slope_out[r, b0:b1],
        )  # fmt: skip


def forward(
    t_in: NDArray[Any],
    order: NDArray[np.int64],
    weights: NDArray[Any],
    mode: int,
    constants: tuple[float, ...],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """First spike times and the membrane's slope there.

    Args:
        t_in: (n_replica or 1, n_batch, n_pre) spike times.
        order: of the same shape, what sorts them along the last axis.
        weights: (n_replica, n_pre, n_post), contiguous.
        mode, constants: see `gpuspike.kernels.cpu`.

    Returns:
        t_out, slope: (n_replica, n_batch, n_post); inf and 0 where the neuron stays silent.
    """
    n_replica, n_pre, n_post = weights.shape
    n_batch = t_in.shape[1]
    t_out = np.empty((n_replica, n_batch, n_post), dtype=weights.dtype)
    slope = np.empty_like(t_out)
    if 0 in (n_replica, n_batch, n_post, n_pre):
        t_out.fill(np.inf)
        slope.fill(0.0)
        return t_out, slope
    width = VECTOR_BYTES // weights.itemsize
    n_vectors = -(-n_post // width)
    weights_tail = np.zeros((n_replica, n_pre, width), dtype=weights.dtype)
    weights_tail[:, :, : n_post % width] = weights[:, :, n_post - n_post % width :]
    # Enough tasks for all threads; how the work is cut changes no result.
    n_threads = thread_count()
    share = -(-n_replica * n_batch // (PIECES_PER_THREAD * n_threads))
    samples_per_task = max(1, min(SAMPLES_PER_TASK, share))
    n_tasks = n_replica * -(-n_batch // samples_per_task)
    n_ranges = 1 if n_tasks >= n_threads else min(n_vectors, n_threads)

    def work(first: int, last: int) -> None:
        _forward(
            first, last, t_in, order, weights, weights_tail, mode, constants,
            samples_per_task, n_ranges, t_out, slope,
        )  # fmt: skip

    pairs = n_replica * n_batch * (n_pre * n_post + EVENTS_A_SOLUTION * (n_post + n_pre // 3))
    for_each(work, n_tasks * n_ranges, parallel=pairs > PAIRS_WORTH_A_THREAD)
    return t_out, slope
