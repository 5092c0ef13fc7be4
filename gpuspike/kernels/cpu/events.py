"""One sample's events on the CPU: what the sweep needs of them, and neurons taken through them one by one (Numba).

The notation is that of `gpuspike.kernels.cpu.forward`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import EQUAL, GENERAL, GROUPS_FROM
from gpuspike.kernels.cpu.arrays import bare
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.simd_patches import LANES, equal_events
from gpuspike.kernels.cpu.solve import anchored, exp_vectorised, moved, rise, solve

FLAT = 0.02
"""Slope of a crossing, in (threshold - leak)/tau_fast, below which float32 sums are not enough: their error of some
1e-6 is divided by the slope to give that of the time."""

EACH, TOGETHER, FOLDED = range(3)
"""What a sample's events are: single inputs; groups of simultaneous ones; and the last of these what the others leave."""

WHAT, COUNT, HEAD = range(3)
"""What is told of a sample's events, in one row: what they are, how many, and from HEAD on each one's end in the order."""

AN_EVENT, A_GROUP = 5, 6
"""What meeting an event and a group cost, in additions of a row of weights."""

FOLD_WITHIN = 3.0
"""Time, in tau_slow, from the first event to the last within which the last may be what the others leave. The rounding of
the sum over these then counts e^3 as much at most as it does in the sums p and q anyhow."""


@njit(error_model="numpy", fastmath={"contract"})
def next_stops(
    n_lanes,
    samples,
    lanes,
    base,
    count,
    p,
    q,
    times,
    order,
    events,
    starts,
    growth,
    position,
    coefficients,
    all_inputs,
    weights,
    factor,
    mode,
    tau_slow,
    tau_fast,
    rate,
):
    """Carries neurons on from the event at which the tangent test has stopped them to the next.

    Needed where the test let them through and no crossing followed: rare where events are dense, short where they
    are few. Arrays come whole, with the samples' numbers: a view of every row would cost more than the work.

    Args:
        samples, lanes: (n_lanes,) the neurons, these counted from neuron `base` of the layer; in place, those that
            stop again.
        count, p, q: (n_samples, neurons) event of the stop and the sums there, updated; the rest as in `prepare`.
        all_inputs: (whole vectors,) sums over all inputs.
        factor: (n_samples, neurons) of their thresholds, or None.

    Returns:
        How many stop again.
    """
    again = 0
    for m in range(n_lanes):
        b, j = samples[m], lanes[m]
        n_events, folded = events[b, COUNT], events[b, WHAT] == FOLDED
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
            if folded and k == n_events - 1:
                others = weights.dtype.type(0.0)
                for i in range(events[b, HEAD + k - 1] if k else 0):
                    others += weights[order[b, i], base + j]
                w = all_inputs[base + j] - others
            else:
                w = weights.dtype.type(0.0)
                for i in range(events[b, HEAD + k - 1] if k else 0, events[b, HEAD + k]):
                    w += weights[order[b, i], base + j]
            p_sum += w * p.dtype.type(growth[b, k])
            q_sum += w * q.dtype.type(growth[b, k] * position[b, k])
            bound = coefficients[3, b, k]
            if factor is not None:
                bound *= factor[b, j]
            if coefficients[2, b, k] * p_sum - q_sum >= bound:
                p[b, j], q[b, j], count[b, j] = p_sum, q_sum, k
                samples[again], lanes[again] = b, j
                again += 1
                break
    return again


@njit(error_model="numpy", fastmath={"contract"})
def polish(
    n_lanes,
    samples,
    lanes,
    base,
    count,
    room,
    times,
    order,
    events,
    starts,
    growth,
    position,
    weights,
    drive,
    factor,
    mode,
    tau_slow,
    tau_fast,
    rate,
    delay,
    slope,
):
    """Solves flat crossings again, from sums in float64.

    Args:
        samples, lanes: (n_lanes,) the neurons, these counted from neuron `base` of the layer.
        room, delay, slope: (n_lanes,) as for `solve_equal`; the last two are corrected.
    """
    for m in range(n_lanes):
        if not slope[m] * tau_fast < FLAT or delay[m] == math.inf:
            continue
        b, j = samples[m], lanes[m]
        ends = events[b, HEAD:]
        p_sum, q_sum = 0.0, 0.0
        segment = 0
        last = np.int64(count[b, j])
        for k in range(last + 1):
            if k == starts[b, segment + 1]:
                gap = times[b, k] - times[b, starts[b, segment]]
                p_sum, q_sum = moved(p_sum, q_sum, gap, mode, tau_slow, tau_fast, rate)
                segment += 1
            w = 0.0
            for i in range(ends[k - 1] if k else 0, ends[k]):
                w += weights[order[b, i], base + j]
            term = w * growth[b, k]
            p_sum += term
            q_sum += term * position[b, k]
        height = drive
        if factor is not None:
            height *= factor[b, j]
        pull, v = anchored(p_sum, q_sum, growth[b, last], position[b, last], height, rate)
        s = solve(v, pull, room[m], mode, tau_slow, tau_fast, rate)
        if s < math.inf:  # else float32 has the last word on whether there is a spike
            delay[m] = s
            slope[m] = pull * math.exp(-s / tau_slow) - 1.0 / tau_fast


@njit(error_model="numpy", fastmath={"contract"})
def _segment(times, known, growth, position, a1, a2, c1, c2, drive, mode, rate_slow, rate_fast, rate):
    """`prepare` for the events of one segment, but for the last one's test.

    Where `growth` is known, from whatever time on, it is made that from the anchor; `known` is None where it is not.

    Arrays are the segment's parts of rows: loops that begin at 0 vectorise, others do not.
    """
    n, anchor = times.size, times[0]
    scale = 1.0 if known is None else 1.0 / growth[0]
    if mode == EQUAL:
        for k in range(n):
            x = times[k] - anchor
            if known is None:
                a = exp_vectorised(x * rate_slow)
            else:
                a = growth[k] * scale
            growth[k], position[k] = a, x
            a1[k], a2[k] = a, a * x
    else:
        if mode == GENERAL:
            for k in range(n):  # d may be small: expm1 keeps its digits
                position[k] = math.expm1(rate * (times[k] - anchor)) / rate
        else:
            for k in range(n):
                position[k] = (exp_vectorised(rate * (times[k] - anchor)) - 1.0) / rate
        for k in range(n):
            if known is None:
                a = exp_vectorised((times[k] - anchor) * rate_slow)
            else:
                a = growth[k] * scale
            growth[k] = a
            a1[k], a2[k] = a, a * position[k]
    for k in range(n - 1):
        x, x_next = position[k], position[k + 1]
        bound = drive * growth[k] * (1.0 + rate * x + (x_next - x) * rate_fast)
        c1[k] = x_next
        # Of simultaneous events, only the last one closes a causal set.
        c2[k] = bound if times[k + 1] > times[k] else math.inf


@njit(error_model="numpy")
def _first_at(t_in, order, t, n):
    """How many of a sample's first n spikes, in their order, come before t."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if t_in[order[middle]] < t:
            low = middle + 1
        else:
            high = middle
    return low


@njit(error_model="numpy")
def fold_within(c):
    """Longest time from the first event to the last within which the last may be folded; `c` are the `Constants`."""
    return min(FOLD_WITHIN * c.tau_slow, c.reach * c.tau_fast)  # one anchor, too


@njit(error_model="numpy")
def grouped(t_in, order, widest, may_group, times, events):
    """Tells a sample's events: groups of simultaneous inputs where that is less work, else each input by itself.

    The choice depends on the sample's times alone.

    Args:
        t_in, order: (n_pre,) spike times and the order that sorts them.
        widest: longest time from the first event to the last for which the last may be folded, see below.
        may_group: else each input is by itself.
        times: (n_pre + 1,) out: of each event, inf at the end.
        events: (HEAD + n_pre,) out, see `WHAT`. FOLDED: the last event's weights are the sum over all inputs less that
            over the others. An input that never spikes is in no sum, and its weight must not cost one digits: then
            nothing is folded.

    Returns:
        How many there are.
    """
    n_pre = t_in.size
    n = _first_at(t_in, order, math.inf, n_pre)
    events[WHAT], events[COUNT] = EACH, n
    if n == 0:
        times[0] = math.inf
        return 0
    ends = events[HEAD:]
    latest = t_in[order[n - 1]]
    may_group = may_group and n_pre >= GROUPS_FROM
    early = _first_at(t_in, order, latest, n) if may_group else n - 1
    # In float64, as the anchors are set.
    folds = may_group and n == n_pre and n - early > early and np.float64(latest) - t_in[order[0]] <= widest
    for k in range(early):
        times[k] = t_in[order[k]]
    times[early] = latest
    n_events = 1
    for k in range(early):
        n_events += 1 if times[k] < times[k + 1] else 0
    n_rows = early if folds else n
    together = may_group and n_rows + A_GROUP * n_events < AN_EVENT * n
    if together:
        g = 0
        for k in range(early):
            times[g], ends[g] = times[k], k + 1
            g += 1 if times[k] < times[k + 1] else 0
        times[g], ends[g] = latest, n
    else:
        n_events = n
        for k in range(early + 1, n):
            times[k] = latest
        for k in range(n):
            ends[k] = k + 1
    times[n_events] = math.inf
    events[COUNT] = n_events
    if together:
        events[WHAT] = FOLDED if folds else TOGETHER
    return n_events


@njit(error_model="numpy", fastmath={"contract"})
def anchor_events(b, count, known, constants, mode, room):
    """Sets anchors among `count` events of a sample, and finds what the sweep and the solution need of each.

    Args:
        b: the sample;  known: see `_segment`; the rest as for `prepare`. Behind the events' times there is one more.
    """
    tau_slow, tau_fast, rate, drive = constants.tau_slow, constants.tau_fast, constants.rate, constants.drive
    times, starts, coefficients = room[0][b], room[1][b], room[3]
    growth, position = room[2][0, b], room[2][1, b]
    c1, c2 = coefficients[2, b], coefficients[3, b]
    rate_slow, rate_fast, far = 1.0 / tau_slow, 1.0 / tau_fast, constants.reach * tau_fast
    segments = 0
    first = 0
    while first < count:
        anchor = times[first]
        last = first + 1
        if times[count - 1] - anchor <= far:
            last = count
        else:
            while last < count and times[last] - anchor <= far:
                last += 1
        starts[segments] = first
        segments += 1
        alone = False
        if known is not None:
            alone = mode == EQUAL and first == 0 and last == count
        if alone:
            rows = times.ctypes.data, growth.ctypes.data, position.ctypes.data, coefficients[0, b].ctypes.data
            n_vectors, kind = (count + LANES - 1) // LANES, coefficients.dtype.type(0.0)
            equal_events(
                kind, rows, coefficients.strides[0], n_vectors, anchor, 1.0 / growth[0], drive, rate_fast
            )
        else:
            _segment(
                times[first:last], known, growth[first:last], position[first:last],
                coefficients[0, b, first:last], coefficients[1, b, first:last], c1[first:last], c2[first:last],
                drive, mode, rate_slow, rate_fast, rate,
            )  # fmt: skip
        k = last - 1
        x = position[k]
        x_next = rise(min(times[last] - anchor, 1e3 * tau_fast), mode, rate)
        c1[k] = x_next
        c2[k] = drive * growth[k] * (1.0 + rate * x + (x_next - x) * rate_fast)
        first = last
    starts[segments] = count
    room[4][b] = segments


@njit(error_model="numpy")
def bare_room(room):
    """`neurons.room_to_prepare` of bare arrays."""
    return bare(room[0]), bare(room[1]), bare(room[2]), bare(room[3]), bare(room[4])


@njit(error_model="numpy")
def prepare(t_in, order, widest, may_group, constants, mode, events, room):
    """What the sweep and the solution need of every event of some samples.

    Args:
        t_in, order: (n_samples, n_pre) spike times and the order that sorts them.
        widest, may_group: see `grouped`.
        constants: `Constants`, of which `reach` is the longest time from an anchor, in tau_fast, before a new one is set.
        events: (n_samples, HEAD + n_pre) out, see `grouped`.
        room: `neurons.room_to_prepare`, out, rows of
            times: of each event, inf at the end;
            starts: first event of each anchored segment, then the number of events;
            growth, position: a and E of each event relative to its segment's anchor;
            a1, a2, c1, c2: of `sweep`;
            n_segments.
    """
    room = bare_room(room)
    for b in range(len(t_in)):
        count = grouped(t_in[b], order[b], widest, may_group, room[0][b], events[b])
        anchor_events(b, count, None, constants, mode, room)


@njit(error_model="numpy")
def prepare_sorted(b, n, known, constants, mode, events, room):
    """`prepare` for one sample whose inputs are taken one by one, and whose times stand in their order already.

    Args:
        b: the sample, of which `room` has the times of n spikes.
        known: None, or anything where it also has how a spike of each time has grown, from whatever time on.
    """
    room[0][b, n] = math.inf
    events[b, WHAT], events[b, COUNT] = EACH, n
    for k in range(n):
        events[b, HEAD + k] = k + 1
    anchor_events(b, n, known, constants, mode, room)
