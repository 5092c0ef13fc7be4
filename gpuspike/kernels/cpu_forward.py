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
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import Array, LayerState, with_bias
from gpuspike.kernels.cpu_arrays import address, cube
from gpuspike.kernels.cpu_events import FLAT, next_stops, polish, prepare
from gpuspike.kernels.cpu_solve import EQUAL, moved, solve, solve_equal
from gpuspike.kernels.cpu_sort import sort_rows, spike_order
from gpuspike.kernels.cpu_team import enter, finish, leave, run, samples_of_a_piece, take
from gpuspike.kernels.simd import VECTOR_BYTES, sweep_1, sweep_2, sweep_4, sweep_6
from gpuspike.kernels.threads import thread_count

SWEEP_EVENTS = 64
"""Events between two looks at whether a tile has any silent neuron left."""

EVENTS_A_SOLUTION = 200
"""Pair-events that solving for one spike time costs, roughly; preparing an event costs a third of that."""

WHOLE = 16
"""Neurons are solved for by this many at once: the few left over would cost as much one by one."""

PAIRS_WORTH_A_THREAD = 200_000
"""Pair-events, some 20 us of work, below which sharing it with another thread does not pay."""


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
    starts = np.empty((n_samples, n_pre + 1), np.int32)
    n_events = np.empty(n_samples, np.int64)
    n_segments = np.empty(n_samples, np.int64)
    prepare(
        t_in, order, drive, mode, tau_slow, tau_fast, rate, reach,
        times, starts, growth, position, coefficients, n_events, n_segments,
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
    n_most = (n_used + WHOLE - 1) // WHOLE * WHOLE
    start, room, v = np.empty(n_most), np.empty(n_most), np.empty(n_most)
    pull, delay, slope = np.empty(n_most), np.empty(n_most), np.empty(n_most)
    a, x = np.empty(n_used), np.empty(n_used)
    for b in range(n_samples):
        last = n_events[b] - 1
        # Most neurons stop once. So all of them first, in order (those that never stopped come out silent), then the
        # few that go on, by their numbers.
        n_stops, first_stop = n_used, True
        while n_stops > 0:
            for m in range(n_stops):
                j = np.uint64(m if first_stop else lanes[m])
                k = np.uint64(max(min(np.int64(count[b, j]), last), 0))
                start[m] = times[b, k]
                room[m] = times[b, k + np.uint64(1)]
                a[m] = growth[b, k] if count[b, j] <= last else math.inf  # which makes the sums 0
                x[m] = position[b, k]
                pull[m] = p[b, j]
                v[m] = q[b, j]
            for m in range(n_stops):
                scale = 1.0 / (a[m] * drive)
                room[m] -= start[m]
                v[m] = (x[m] * pull[m] - v[m]) * scale
                pull[m] *= scale
            if mode != EQUAL:
                for m in range(n_stops):
                    v[m] /= 1.0 + rate * x[m]
            if mode == EQUAL:
                n_whole_stops = (n_stops + WHOLE - 1) // WHOLE * WHOLE
                for m in range(n_stops, n_whole_stops):
                    pull[m] = v[m] = room[m] = 0.0
                solve_equal(v, pull, room, delay, slope, n_whole_stops, tau_fast)
            else:
                for m in range(n_stops):
                    delay[m] = solve(v[m], pull[m], room[m], mode, tau_slow, tau_fast, rate)
                    slope[m] = pull[m] * math.exp(-delay[m] / tau_slow) - 1.0 / tau_fast
            if size == 4:
                flat = 0
                for m in range(n_stops):
                    flat += 1 if (slope[m] * tau_fast < FLAT) & (delay[m] < math.inf) else 0
                if flat > 0:
                    polish(
                        n_stops, lanes, first_stop, b, base, count, room, times, order, starts, growth, position,
                        weights, drive, mode, tau_slow, tau_fast, rate, delay, slope,
                    )  # fmt: skip
            n_missed = 0
            for m in range(n_stops):
                # Where the potential only touches the threshold, the slope is rounding: no gradient.
                steep = (slope[m] * tau_fast > tangent) & (delay[m] < math.inf)
                slope[m] = slope[m] * span if steep else 0.0
                start[m] += delay[m]
                n_missed += 1 if delay[m] == math.inf else 0
            for m in range(n_stops):
                j = base + (m if first_stop else lanes[m])
                t_out[b, j] = start[m]
                slope_out[b, j] = slope[m]
            n_stops_before, n_stops = n_stops, 0
            if n_missed > 0:
                for m in range(n_stops_before):
                    j = m if first_stop else lanes[m]
                    lanes[n_stops] = j
                    n_stops += 1 if (delay[m] == math.inf) & (count[b, j] < last) else 0
                n_stops = next_stops(
                    n_stops, lanes, b, base, count, p, q, times, order, starts, growth, position,
                    coefficients, last + 1, weights, mode, tau_slow, tau_fast, rate,
                )  # fmt: skip
            first_stop = False


@njit(error_model="numpy")
def _receive(spikes, bias, sort, t_in, order):
    """A layer's input for a few samples: the spikes of the layer before, then the bias spikes; sorted if `sort`."""
    n_in = t_in.shape[1] - bias.size
    for b in range(t_in.shape[0] if spikes.size else 0):
        for i in range(n_in):
            t_in[b, i] = spikes[b, i]
        for i in range(bias.size):
            t_in[b, n_in + i] = bias[i]
    if sort:
        sort_rows(t_in, order)


@njit(cache=True, nogil=True, error_model="numpy")
def _forward_job(
    control, is_caller, like, bias, tables, constants, n_replica, n_batch, samples_per_task, n_ranges
):
    """A stack of layers; a piece of work is a few samples of a replica and, of a single layer, a range of its neurons.

    Args:
        like: any array of the working type.
        bias: bias times of all layers, one after the other.
        tables: (n_layer, ...) sizes and addresses, see `_table`;  constants: (n_layer, 7).
    """
    enter(control, is_caller)
    indices = np.empty(0, np.int64)
    nothing = np.empty((0, 0), like.dtype)
    width = VECTOR_BYTES // like.itemsize
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    n_pieces = n_replica * n_chunks * n_ranges
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        r = piece // (n_chunks * n_ranges)
        part = piece % n_ranges
        b0 = (piece // n_ranges) % n_chunks * samples_per_task
        b1 = min(b0 + samples_per_task, n_batch)
        first_bias = 0
        spikes = nothing
        for layer in range(len(tables)):
            n_received, n_pre, n_post, n_bias, mode, sort = tables[layer, :6]
            at_t_in, at_order, at_weights, at_tail, at_t_out, at_slope = tables[layer, 6:]
            r_in = r if n_received > 1 else 0
            t_in = cube(at_t_in, like, n_received, n_batch, n_pre)[r_in, b0:b1]
            order = cube(at_order, indices, n_received, n_batch, n_pre)[r_in, b0:b1]
            t_out = cube(at_t_out, like, n_replica, n_batch, n_post)[r, b0:b1]
            _receive(spikes, bias[first_bias : first_bias + n_bias], sort, t_in, order)
            n_vectors = (n_post + width - 1) // width
            c = constants[layer]
            _forward_task(
                t_in, order, cube(at_weights, like, n_replica, n_pre, n_post)[r],
                cube(at_tail, like, n_replica, n_pre, width)[r],
                part * n_vectors // n_ranges, (part + 1) * n_vectors // n_ranges, n_post // width,
                mode, (c[0], c[1], c[2], c[3], c[4], c[5], c[6]), t_out,
                cube(at_slope, like, n_replica, n_batch, n_post)[r, b0:b1],
            )  # fmt: skip
            first_bias += n_bias
            spikes = t_out
        finish(control)
    return leave(control, is_caller, n_pieces)


def check_stack(t_in: Array, weights: Sequence[Array], bias_times: Sequence[Sequence[float]]) -> None:
    """Refuses arrays that do not fit each other: jobs know them by their addresses.

    Raises:
        DtypeError, ShapeError: what was expected, and what was got.
    """
    n_pre = t_in.shape[2]
    for number, w in enumerate(weights):
        if w.dtype != t_in.dtype:
            raise DtypeError(f"weights of layer {number} must be {t_in.dtype} like t_in, got {w.dtype}")
        if number:
            n_pre = weights[number - 1].shape[2] + len(bias_times[number])
        if w.shape[:2] != (len(weights[0]), n_pre):
            expected = (len(weights[0]), n_pre, "n_post")
            raise ShapeError(f"weights of layer {number} must be {expected}, got shape {w.shape}")
    if len(t_in) not in (1, len(weights[0])):
        raise ShapeError(f"t_in must have 1 or {len(weights[0])} replicas, got {len(t_in)}")


def _table(state: LayerState, weights: Array, tail: Array, n_bias: int, mode: int, sort: bool) -> list[int]:
    """A row of `_forward_job`'s tables."""
    arrays = (state.t_in, state.order, weights, tail, state.t_out, state.slope)
    sizes = [len(state.t_in), *weights.shape[1:], n_bias, mode, int(sort)]
    return sizes + [address(array) for array in arrays]


def forward(
    t_in: Array,
    order: NDArray[np.int64] | None,
    weights: Sequence[Array],
    bias_times: Sequence[Sequence[float]],
    modes: Sequence[int],
    constants: Sequence[tuple[float, ...]],
) -> list[LayerState]:
    """Spike times of a stack of layers, and the membranes' slopes there.

    Args:
        t_in: (n_replica or 1, n_batch, n_pre) spike times.
        order: of the same shape, what sorts them along the last axis; None: not known yet.
        weights: of each layer (n_replica, n_pre, n_post), contiguous.
        bias_times: of each layer but the first, times of the spikes that it gets beside those of the layer before.
        modes, constants: of each layer, see `gpuspike.kernels.cpu`.
    """
    n_replica, n_batch, dtype = len(weights[0]), t_in.shape[1], weights[0].dtype
    check_stack(t_in, weights, bias_times)
    n_threads = thread_count()
    # Enough tasks for all threads; how the work is cut changes no result.
    samples_per_task = samples_of_a_piece(n_replica * n_batch)
    few = n_replica * -(-n_batch // samples_per_task) < n_threads
    empty = n_replica * n_batch == 0 or any(w.size == 0 for w in weights)
    if len(weights) > 1 and (few or empty):
        states: list[LayerState] = []
        for w, times, mode, numbers in zip(weights, bias_times, modes, constants, strict=True):
            if states:
                t_in, order = with_bias(states[-1].t_out, times), None
            states += forward(t_in, order, [w], [times], [mode], [numbers])
        return states
    if order is None and (few or empty or len(t_in) < n_replica):
        order = spike_order(t_in)

    states, tails, sorts = [], [], []
    for w in weights:
        if states:
            t_in, order = np.empty((n_replica, n_batch, w.shape[1]), dtype), None
        sorts.append(order is None)
        if order is None:
            order = np.empty(t_in.shape, np.int64)
        t_out = np.empty((n_replica, n_batch, w.shape[2]), dtype)
        states.append(LayerState(t_in, order, t_out, np.empty_like(t_out)))
        width = VECTOR_BYTES // w.itemsize
        tails.append(np.zeros((n_replica, w.shape[1], width), dtype))
        n_tail = w.shape[2] % width
        tails[-1][:, :, :n_tail] = w[:, :, w.shape[2] - n_tail :]
    if empty:
        states[0].t_out.fill(np.inf)
        states[0].slope.fill(0.0)
        return states
    n_ranges = min(-(-weights[0].shape[2] // (VECTOR_BYTES // dtype.itemsize)), n_threads) if few else 1
    n_biases = [len(times) for times in bias_times]
    bias = np.array([time for times in bias_times[1:] for time in times], dtype)
    n_biases[0] = 0  # those of the first layer are in t_in
    tables = np.array(
        [_table(*layer) for layer in zip(states, weights, tails, n_biases, modes, sorts, strict=True)]
    )
    pairs = sum(w.shape[1] * w.shape[2] + EVENTS_A_SOLUTION * (w.shape[2] + w.shape[1] // 3) for w in weights)
    like = np.empty((0, 0, 0), dtype)
    run(
        _forward_job,
        (like, bias, tables, np.array(constants), n_replica, n_batch, samples_per_task, n_ranges),
        keep=(states, weights, tails),
        parallel=n_replica * n_batch * pairs > PAIRS_WORTH_A_THREAD,
    )
    return states
