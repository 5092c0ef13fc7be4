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

from gpuspike.kernels.cpu_events import FLAT, next_stops, polish, prepare
from gpuspike.kernels.cpu_solve import EQUAL, moved, solve, solve_equal
from gpuspike.kernels.simd import VECTOR_BYTES, sweep_1, sweep_2, sweep_4, sweep_6
from gpuspike.kernels.threads import PIECES_PER_THREAD, for_each, thread_count

SWEEP_EVENTS = 64
"""Events between two looks at whether a tile has any silent neuron left."""

SAMPLES_PER_TASK = 16
"""Samples that share a tile's weights while these are in the second-level cache."""

EVENTS_A_SOLUTION = 200
"""Pair-events that solving for one spike time costs, roughly; preparing an event costs a third of that."""

PAIRS_WORTH_A_THREAD = 1_000_000
"""Pair-events, some 80 us of work, below which waking another thread does not pay."""


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
    prepare(
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
                    polish(
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
                stopped = next_stops(
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
