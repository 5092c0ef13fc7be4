"""A few samples of one layer on the CPU: events prepared, neurons swept, crossings solved for (Numba).

The notation is that of `gpuspike.kernels.cpu.forward`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.cpu.arrays import bare, keep
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import (
    COUNT,
    EACH,
    FLAT,
    FOLDED,
    HEAD,
    WHAT,
    bare_room,
    fold_within,
    next_stops,
    polish,
    prepare,
)
from gpuspike.kernels.cpu.simd import (
    VECTOR_BYTES,
    sweep_1,
    sweep_2,
    sweep_4,
    sweep_6,
)
from gpuspike.kernels.cpu.simd_groups import groups_1, groups_4, groups_6
from gpuspike.kernels.cpu.simd_patches import LANES
from gpuspike.kernels.cpu.solve import moved, solve, solve_equal

WHOLE = 16
"""Neurons are solved for by this many at once: the few left over would cost as much one by one."""

NARROW, AT_ONCE = 64, 256
"""Neurons up to which a layer has those of several samples solved for together; and how many, at least."""


@njit(error_model="numpy")
def _sweep_tile(n_vectors, kind, tile, row, events, state, factor, k_first, n_events):
    if n_vectors == 6:
        return sweep_6(kind, tile, row, events, state, factor, k_first, n_events)
    if n_vectors == 4:
        return sweep_4(kind, tile, row, events, state, factor, k_first, n_events)
    if n_vectors == 2:
        return sweep_2(kind, tile, row, events, state, factor, k_first, n_events)
    return sweep_1(kind, tile, row, events, state, factor, k_first, n_events)


@njit(error_model="numpy")
def _sweep_groups(n_vectors, width, kind, tile, row, events, state, factor, groups, all_inputs):
    if n_vectors == 6:
        return groups_6(kind, tile, row, events, state, factor, groups, all_inputs)
    if n_vectors == 4:
        return groups_4(kind, tile, row, events, state, factor, groups, all_inputs)
    left = 0
    for v in range(n_vectors):  # rarely more than one
        at = v * VECTOR_BYTES
        here = (state[0] + at, state[1] + at, state[2] + 4 * v * width, state[3] + at)
        total = all_inputs + at if all_inputs else 0
        left |= groups_1(kind, tile + at, row, events, here, factor, groups, total)
    return left


@njit(error_model="numpy")
def _factors(lift, base, n_lanes, kind):
    """(n_samples, n_lanes) factors of the thresholds, 1 where the lane is nobody's or the neuron always on."""
    factor = np.empty((len(lift), n_lanes), kind.dtype)
    factor[:] = 1.0
    for b in range(len(lift)):
        for j in range(min(n_lanes, lift.shape[1] - base)):
            if lift[b, base + j] > 0.0:
                factor[b, j] = lift[b, base + j]
    return factor


@njit(error_model="numpy")
def _interfere(trial, base, n_used, t_out, t_cross, slope):
    """What a chip makes of the crossings of neurons `base` and following; see `kernels.Trial`."""
    lift, delay, grid, end, same_tick = trial
    for b in range(len(t_cross)):
        for j in range(base, base + n_used):
            if not lift[b, j] > 0.0:
                t_cross[b, j] = slope[b, j] = 0.0
            zero = t_cross.dtype.type(0.0)
            t = max(t_cross[b, j] + delay[b, j], min(t_cross[b, j], zero))
            if grid > 0.0:
                t = np.ceil(t / grid - same_tick) * grid
            t_out[b, j] = t if t <= end else math.inf


@njit(error_model="numpy")
def room_to_prepare(n_samples, n_pre, like):
    """What `events.prepare` says of the events of some samples, in this order, of the type of `like` where they have one.

    Rows of times, growths and coefficients have room for a whole vector behind their last number.
    """
    wide = n_pre + LANES
    return (
        np.empty((n_samples, wide), np.float64), np.empty((n_samples, n_pre + 1), np.int32),
        np.empty((2, n_samples, wide), np.float64), np.empty((4, n_samples, wide), like.dtype),
        np.empty(n_samples, np.int64),
    )  # fmt: skip


@njit(error_model="numpy", fastmath={"contract"})
def solve_prepared(
    order,
    weights,
    all_inputs,
    first_vector,
    end_vector,
    mode,
    constants,
    events,
    prepared,
    factor,
    t_cross,
    slope_out,
):
    """`solve_samples`, but for what becomes of the spikes, and with events that are prepared.

    Args:
        order: (n_samples, n) the order that sorts each sample's spikes.
        weights: (n_pre, whole vectors), see `arrays.in_vectors`.
        all_inputs: (whole vectors,) sums over the inputs' weights, or empty: none are taken together.
        first_vector, end_vector: the neurons' range, in vectors.
        constants: `Constants`.
        events: (n_samples, HEAD + n_pre), see `events.grouped`.
        prepared: `room_to_prepare`, of as many samples or more.
        factor: None, or (n_samples, lanes) factors of the thresholds.
        t_cross, slope_out: (n_samples, n_post) out.
    """
    tau_slow, tau_fast, rate, drive, span, _, tangent, _, _ = constants
    n_samples, n_post = t_cross.shape
    order, events = bare(order), bare(events)
    times, starts, planes, coefficients, n_segments = bare_room(prepared)
    growth, position = planes[0], planes[1]
    kind = weights.dtype.type(0.0)
    size = weights.itemsize
    width = VECTOR_BYTES // size
    base = first_vector * width
    n_lanes = (end_vector - first_vector) * width
    n_used = min(n_lanes, n_post - base)

    room = np.zeros((2, n_samples, n_lanes), weights.dtype), np.zeros((n_samples, n_lanes), np.int32)
    p, q, count = bare(room[0])[0], bare(room[0])[1], bare(room[1])
    count[:, n_used:] = -1  # frozen from the start: nobody's lanes would never stop

    # Addresses, taken once: a view of every row would cost more than a short row's sweep.
    row, weights_data = weights.strides[0], weights.ctypes.data
    order_row, order_data = order.strides[0], order.ctypes.data
    p_data, q_data, count_data = p.ctypes.data, q.ctypes.data, count.ctypes.data
    coefficients_data, plane, row_of_events = (
        coefficients.ctypes.data,
        coefficients.strides[0],
        coefficients.strides[1],
    )
    events_data, events_row, all_data = events.ctypes.data, events.strides[0], all_inputs.ctypes.data
    vector = first_vector
    while vector < end_vector:
        left = end_vector - vector
        n_vectors = 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1
        tile = weights_data + vector * VECTOR_BYTES
        lane = (vector - first_vector) * width
        for b in range(n_samples):
            at = b * n_lanes + lane
            lifted = 0 if factor is None else factor.ctypes.data + size * at
            state = (p_data + size * at, q_data + size * at, count_data + 4 * at, lifted)
            at_order, at_event = order_data + b * order_row, coefficients_data + b * row_of_events
            for segment in range(n_segments[b]):
                k = np.int64(starts[b, segment])
                end = np.int64(starts[b, segment + 1])
                if segment > 0:
                    gap = times[b, k] - times[b, starts[b, segment - 1]]
                    for j in range(lane, lane + n_vectors * width):
                        if count[b, j] == k:  # still swept
                            p[b, j], q[b, j] = moved(p[b, j], q[b, j], gap, mode, tau_slow, tau_fast, rate)
                what = events[b, WHAT]
                event = at_event if what != EACH else at_event + size * k
                of_event = (event, event + plane, event + 2 * plane, event + 3 * plane)
                if what == EACH:
                    single = (at_order + 8 * k, *of_event)
                    silent = _sweep_tile(n_vectors, kind, tile, row, single, state, factor, k, end - k) != 0
                else:
                    groups = (at_order, events_data + b * events_row + 4 * HEAD, *of_event)
                    total = all_data + vector * VECTOR_BYTES if what == FOLDED else 0
                    silent = _sweep_groups(
                        n_vectors, width, kind, tile, row, groups, state, factor, (k, end), total,
                    ) != 0  # fmt: skip
                if not silent:
                    break
        vector += n_vectors

    # Crossings are solved for many at once. Of a narrow layer those of one sample after the other, as many as there is
    # room for; of a wide one a sample's, and where most of its neurons stop all of them, in order, which vectorises
    # (those that never stopped come out silent).
    n_most = (max(n_used, AT_ONCE) + WHOLE - 1) // WHOLE * WHOLE
    samples, lanes = np.empty(n_most, np.int64), np.empty(n_most, np.int64)
    start, gap, v = np.empty(n_most), np.empty(n_most), np.empty(n_most)
    pull, delay, slope = np.empty(n_most), np.empty(n_most), np.empty(n_most)
    a, x, high = np.empty(n_most), np.empty(n_most), np.empty(n_most)
    n_stops = np.int64(0)
    for sample in range(n_samples):
        n_events = np.int32(events[sample, COUNT])
        in_order = False
        if n_used > NARROW:
            n_stopped = np.int32(0)
            for j in range(n_used):
                n_stopped += np.int32(count[sample, j] < n_events)
            in_order = 2 * n_stopped >= n_used
        if in_order:
            n_stops = np.int64(n_used)
        else:
            for j in range(n_used):
                t_cross[sample, base + j], slope_out[sample, base + j] = math.inf, 0.0
                samples[n_stops], lanes[n_stops] = sample, j
                n_stops += 1 if count[sample, j] < n_events else 0
            if n_used <= NARROW and sample + 1 < n_samples and n_stops + n_used <= n_most:
                continue
        while n_stops > 0:
            if in_order:
                for m in range(n_stops):
                    stops = count[sample, m] < n_events
                    k = np.uint64(max(min(count[sample, m], n_events - np.int32(1)), np.int32(0)))
                    start[m], gap[m] = times[sample, k], times[sample, k + np.uint64(1)]
                    a[m] = growth[sample, k] if stops else math.inf  # which makes the sums 0
                    x[m] = position[sample, k]
                    pull[m], v[m] = p[sample, m], q[sample, m]
                    if factor is not None:
                        high[m] = factor[sample, m]
            else:
                for m in range(n_stops):
                    b, j = np.uint64(samples[m]), np.uint64(lanes[m])
                    k = np.uint64(count[b, j])
                    start[m], gap[m] = times[b, k], times[b, k + np.uint64(1)]
                    a[m], x[m] = growth[b, k], position[b, k]
                    pull[m], v[m] = p[b, j], q[b, j]
                    if factor is not None:
                        high[m] = factor[b, j]
            for m in range(n_stops):
                scale = 1.0 / (a[m] * drive)
                if factor is not None:
                    scale /= high[m]
                gap[m] -= start[m]
                v[m] = (x[m] * pull[m] - v[m]) * scale
                pull[m] *= scale
            if mode != EQUAL:
                for m in range(n_stops):
                    v[m] /= 1.0 + rate * x[m]
            if mode == EQUAL:
                n_whole_stops = (n_stops + WHOLE - 1) // WHOLE * WHOLE
                for m in range(n_stops, n_whole_stops):
                    pull[m] = v[m] = gap[m] = 0.0
                solve_equal(v, pull, gap, delay, slope, n_whole_stops, tau_fast)
            else:
                for m in range(n_stops):
                    delay[m] = solve(v[m], pull[m], gap[m], mode, tau_slow, tau_fast, rate)
                    slope[m] = pull[m] * math.exp(-delay[m] / tau_slow) - 1.0 / tau_fast
            if size == 4:
                flat = 0
                for m in range(n_stops):
                    flat += 1 if (slope[m] * tau_fast < FLAT) & (delay[m] < math.inf) else 0
                if flat > 0:
                    for m in range(n_stops if in_order else 0):
                        samples[m], lanes[m] = sample, m
                    polish(
                        n_stops, samples, lanes, base, count, gap, times, order, events, starts, growth, position,
                        weights, drive, factor, mode, tau_slow, tau_fast, rate, delay, slope,
                    )  # fmt: skip
            n_missed = 0
            for m in range(n_stops):
                # Where the potential only touches the threshold, the slope is rounding: no gradient.
                steep = (slope[m] * tau_fast > tangent) & (delay[m] < math.inf)
                slope[m] = slope[m] * span if steep else 0.0
                if factor is not None:
                    slope[m] *= high[m]
                start[m] += delay[m]
                n_missed += 1 if delay[m] == math.inf else 0
            if in_order:
                for m in range(n_stops):
                    t_cross[sample, base + m], slope_out[sample, base + m] = start[m], slope[m]
            else:
                for m in range(n_stops):
                    b, j = samples[m], base + lanes[m]
                    t_cross[b, j], slope_out[b, j] = start[m], slope[m]
            n_before, n_stops = n_stops, np.int64(0)  # a plain 0 has what follows compiled for 0 too
            if n_missed > 0:
                for m in range(n_before):
                    b, j = (np.int64(sample), np.int64(m)) if in_order else (samples[m], lanes[m])
                    samples[n_stops], lanes[n_stops] = b, j
                    n_stops += 1 if (delay[m] == math.inf) & (count[b, j] + 1 < events[b, COUNT]) else 0
                n_stops = next_stops(
                    n_stops, samples, lanes, base, count, p, q, times, order, events, starts, growth, position,
                    coefficients, all_inputs, weights, factor, mode, tau_slow, tau_fast, rate,
                )  # fmt: skip
            in_order = False
    keep((room, prepared))


@njit(error_model="numpy")
def solve_samples(
    t_in,
    order,
    weights,
    all_inputs,
    first_vector,
    end_vector,
    mode,
    constants,
    until,
    events,
    trial,
    t_out,
    t_cross,
    slope_out,
):
    """A few samples of one replica, a range of its neurons.

    Args:
        t_in, order: (n_samples, n_pre) spike times and the order that sorts them.
        until: see `events.prepare`;  events: (n_samples, HEAD + n_pre) out.
        trial: what `kernels.Trial` tells of the samples, arrays (n_samples, n_post) and numbers; or None, and then
            `t_cross` alone is written to. Each is compiled for itself: an ideal network pays nothing.
        t_out, t_cross, slope_out: (n_samples, n_post) out; the other arguments as for `solve_prepared`.
    """
    room = room_to_prepare(len(t_in), t_in.shape[1], weights)
    prepare(
        bare(t_in), bare(order), until, fold_within(constants), all_inputs.size > 0, constants, mode, bare(events), room,
    )  # fmt: skip
    if trial is None:
        solve_prepared(
            order, weights, all_inputs, first_vector, end_vector, mode, constants, events, room, None, t_cross, slope_out,
        )  # fmt: skip
    else:
        width = VECTOR_BYTES // weights.itemsize
        base, n_lanes = first_vector * width, (end_vector - first_vector) * width
        factor = _factors(trial[0], base, n_lanes, weights)
        solve_prepared(
            order, weights, all_inputs, first_vector, end_vector, mode, constants, events, room, factor, t_cross,
            slope_out,
        )  # fmt: skip
        _interfere(trial, base, min(n_lanes, t_cross.shape[1] - base), t_out, t_cross, slope_out)
