"""A few samples of one layer on the CPU: events prepared, neurons swept, crossings solved for (Numba).

The notation is that of `gpuspike.kernels.cpu.forward`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.cpu.arrays import bare, keep
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import COUNT, FLAT, bare_room, fold_within, next_stops, polish, prepare
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_patches import LANES
from gpuspike.kernels.cpu.simd_picks import LANES as PICKED
from gpuspike.kernels.cpu.simd_picks import PICKS, stopped_between
from gpuspike.kernels.cpu.solve import solve, solve_equal
from gpuspike.kernels.cpu.sweep import room_of_stops, sweep_prepared

WHOLE = 16
"""Neurons are solved for by this many at once: the few left over would cost as much one by one."""

NARROW, AT_ONCE = 64, 256
"""Neurons up to which a layer has those of several samples solved for together; and how many, at least."""


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


@njit(error_model="numpy")
def _stopped(count, sample, n_used, first, end, lanes, n_stops):
    """Puts a sample's neurons that stopped from event `first` to before event `end` behind n_stops others.

    Returns:
        How many there are then.
    """
    if first >= end:
        return n_stops
    start = 0
    if PICKS:
        row = count.ctypes.data + 4 * sample * count.shape[1]
        n_vectors, out = np.int64(n_used // PICKED), lanes.ctypes.data + 4 * n_stops
        n_stops += stopped_between(row, n_vectors, first, end, out)
        start = n_used // PICKED * PICKED
    for j in range(start, n_used):
        lanes[n_stops] = j
        n_stops += 1 if (count[sample, j] >= first) & (count[sample, j] < end) else 0
    return n_stops


@njit(error_model="numpy", fastmath={"contract"})
def solve_stopped(
    order,
    weights,
    all_inputs,
    first_vector,
    n_used,
    mode,
    constants,
    events,
    prepared,
    factor,
    stops,
    between,
    t_cross,
    slope_out,
):
    """Solves for the crossings of neurons that the sweep has stopped.

    Args:
        n_used: neurons in the range that begins with `first_vector`.
        stops: what `sweep.sweep_prepared` has told.
        between: (2, n_samples) the event from which on, and that before which, stopped neurons are solved for. Where the
            first is 0, all neurons that are not count as silent.
        The rest is that of `solve_prepared`.
    """
    tau_slow, tau_fast, rate, drive, span, _, tangent, _, _ = constants
    n_samples = len(order)
    order, events = bare(order), bare(events)
    times, starts, planes, coefficients, _ = bare_room(prepared)
    growth, position = planes[0], planes[1]
    p, q, count = bare(stops[0])[0], bare(stops[0])[1], bare(stops[1])
    size = weights.itemsize
    base = first_vector * (VECTOR_BYTES // size)

    # Crossings are solved for many at once. Of a narrow layer those of one sample after the other, as many as there is
    # room for; of a wide one a sample's, and where most of its neurons stop all of them, in order, which vectorises
    # (those that never stopped come out silent).
    n_most = (max(n_used, AT_ONCE) + WHOLE - 1) // WHOLE * WHOLE
    room, numbers = np.empty((9, n_most)), np.empty((3, n_most + WHOLE), np.int32)
    start, gap, v = bare(room)[0], bare(room)[1], bare(room)[2]
    pull, delay, slope = bare(room)[3], bare(room)[4], bare(room)[5]
    a, x, high = bare(room)[6], bare(room)[7], bare(room)[8]
    samples, lanes, again = bare(numbers)[0], bare(numbers)[1], bare(numbers)[2:]
    n_stops = np.int64(0)
    for sample in range(n_samples):
        n_events = np.int32(events[sample, COUNT])
        first, end = np.int32(between[0, sample]), np.int32(between[1, sample])
        in_order = False
        if n_used > NARROW and first == 0 and end == n_events:
            n_stopped = np.int32(0)
            for j in range(n_used):
                n_stopped += np.int32(count[sample, j] < n_events)
            in_order = 2 * n_stopped >= n_used
        if in_order:
            n_stops = np.int64(n_used)
        else:
            if first == 0:
                b = np.uint64(sample)  # which spares asking whether numbers are negative, here and below
                for j in range(np.uint64(base), np.uint64(base + n_used)):
                    t_cross[b, j], slope_out[b, j] = math.inf, 0.0
            n_before = n_stops
            n_stops = _stopped(count, sample, n_used, first, end, lanes, n_stops)
            for m in range(n_before, n_stops):
                samples[m] = sample
            if n_used <= NARROW and sample + 1 < n_samples and n_stops + n_used <= n_most:
                continue
        while n_stops > 0:
            if in_order:
                b, never = np.uint64(sample), np.uint32(n_events)
                growth[b, never], position[b, never] = math.inf, 0.0  # which makes the sums 0
                for m in range(np.uint64(n_stops)):
                    k = np.uint64(min(np.uint32(count[b, m]), never))
                    start[m], gap[m] = times[b, k], times[b, k + np.uint64(1)]
                    a[m], x[m] = growth[b, k], position[b, k]
                for m in range(np.uint64(n_stops)):
                    pull[m], v[m] = p[b, m], q[b, m]
                    if factor is not None:
                        high[m] = factor[b, m]
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
                b = np.uint64(sample)
                for m in range(np.uint64(n_stops)):
                    t_cross[b, np.uint64(base) + m], slope_out[b, np.uint64(base) + m] = start[m], slope[m]
            else:
                for m in range(n_stops):
                    b, j = np.uint64(samples[m]), np.uint64(base + lanes[m])
                    t_cross[b, j], slope_out[b, j] = start[m], slope[m]
            n_before, n_stops = n_stops, np.int64(0)  # a plain 0 has what follows compiled for 0 too
            if n_missed > 0:
                if in_order:
                    for m in range(np.uint64(n_before)):
                        own = count[np.uint64(sample), m]
                        again[np.uint64(0), m] = own if delay[m] == math.inf else n_events
                    last = n_events - np.int32(1)  # one who stops there meets no event any more
                    n_stops = _stopped(again, 0, n_before, np.int32(0), last, lanes, n_stops)
                    samples[:n_stops] = sample
                else:
                    for m in range(n_before):
                        b, j = samples[m], lanes[m]
                        samples[n_stops], lanes[n_stops] = b, j
                        b, j = np.uint64(b), np.uint64(j)
                        n_stops += 1 if (delay[m] == math.inf) & (count[b, j] + 1 < events[b, COUNT]) else 0
                n_stops = next_stops(
                    n_stops, samples, lanes, base, count, p, q, times, order, events, starts, growth, position,
                    coefficients, all_inputs, weights, factor, mode, tau_slow, tau_fast, rate,
                )  # fmt: skip
            in_order = False
    keep((stops, prepared, room, numbers))


@njit(error_model="numpy")
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
        order: (n_samples or more, n) the order that sorts each sample's spikes.
        weights: (n_pre, whole vectors), see `arrays.in_vectors`.
        all_inputs: (whole vectors,) sums over the inputs' weights, or empty: none are taken together.
        first_vector, end_vector: the neurons' range, in vectors.
        constants: `Constants`.
        events: (n_samples, HEAD + n_pre), see `events.grouped`.
        prepared: `room_to_prepare`, of as many samples or more.
        factor: None, or (n_samples, lanes) factors of the thresholds.
        t_cross, slope_out: (n_samples, n_post) out.
    """
    n_samples, n_post = t_cross.shape
    order = bare(order)[:n_samples]  # whose length tells the others how many there are
    width = VECTOR_BYTES // weights.itemsize
    n_lanes = (end_vector - first_vector) * width
    n_used = min(n_lanes, n_post - first_vector * width)
    stops = room_of_stops(n_samples, n_lanes, weights)
    sweep_prepared(
        order, weights, all_inputs, first_vector, end_vector, n_used, mode, constants, events, prepared, factor, stops
    )  # fmt: skip
    between = np.zeros((2, n_samples), np.int32)
    between[1] = events[:n_samples, COUNT]
    solve_stopped(
        order, weights, all_inputs, first_vector, n_used, mode, constants, events, prepared, factor, stops, between,
        t_cross, slope_out,
    )  # fmt: skip


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
    events,
    trial,
    t_out,
    t_cross,
    slope_out,
):
    """A few samples of one replica, a range of its neurons.

    Args:
        t_in, order: (n_samples, n_pre) spike times and the order that sorts them.
        events: (n_samples, HEAD + n_pre) out, see `events.grouped`.
        trial: what `kernels.Trial` tells of the samples, arrays (n_samples, n_post) and numbers; or None, and then
            `t_cross` alone is written to. Each is compiled for itself: an ideal network pays nothing.
        t_out, t_cross, slope_out: (n_samples, n_post) out; the other arguments as for `solve_prepared`.
    """
    room = room_to_prepare(len(t_in), t_in.shape[1], weights)
    prepare(
        bare(t_in), bare(order), fold_within(constants), all_inputs.size > 0, constants, mode, bare(events), room,
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
