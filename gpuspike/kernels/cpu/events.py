"""One sample's events on the CPU: what the sweep needs of them, and neurons taken through them one by one (Numba).

The notation is that of `gpuspike.kernels.cpu.forward`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import EQUAL, GENERAL
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.solve import anchored, exp_vectorised, moved, rise, solve

FLAT = 0.02
"""Slope of a crossing, in (threshold - leak)/tau_fast, below which float32 sums are not enough: their error of some
1e-6 is divided by the slope to give that of the time."""


@njit(error_model="numpy", fastmath={"contract"})
def next_stops(
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
    factor,
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
        count, p, q: (n_samples, neurons) event of the stop and the sums there, updated; the rest as in `prepare`.
        factor: (n_samples, neurons) of their thresholds, or None.

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
            bound = coefficients[3, b, k]
            if factor is not None:
                bound *= factor[b, j]
            if coefficients[2, b, k] * p_sum - q_sum >= bound:
                p[b, j], q[b, j], count[b, j] = p_sum, q_sum, k
                lanes[again] = j
                again += 1
                break
    return again


@njit(error_model="numpy", fastmath={"contract"})
def polish(
    n_lanes,
    lanes,
    all_lanes,
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
    factor,
    mode,
    tau_slow,
    tau_fast,
    rate,
    delay,
    slope,
):
    """Solves the flat crossings of sample `b` again, from sums in float64.

    Args:
        lanes: (n_lanes,) the neurons, counted from neuron `base` of the layer; unless `all_lanes`, in order.
        room, delay, slope: (n_lanes,) as for `solve_equal`; the last two are corrected.
    """
    for m in range(n_lanes):
        if not slope[m] * tau_fast < FLAT or delay[m] == math.inf:
            continue
        p_sum, q_sum = 0.0, 0.0
        segment = 0
        j = m if all_lanes else lanes[m]
        last = np.int64(count[b, j])
        for k in range(last + 1):
            if k == starts[b, segment + 1]:
                gap = times[b, k] - times[b, starts[b, segment]]
                p_sum, q_sum = moved(p_sum, q_sum, gap, mode, tau_slow, tau_fast, rate)
                segment += 1
            term = weights[order[b, k], base + j] * growth[b, k]
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
def _segment(times, growth, position, a1, a2, c1, c2, drive, mode, rate_slow, rate_fast, rate):
    """`prepare` for the events of one segment, but for the last one's test.

    Arrays are the segment's parts of rows: loops that begin at 0 vectorise, others do not.
    """
    n, anchor = times.size, times[0]
    if mode == EQUAL:
        for k in range(n):
            x = times[k] - anchor
            a = exp_vectorised(x * rate_slow)
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
            a = exp_vectorised((times[k] - anchor) * rate_slow)
            growth[k] = a
            a1[k], a2[k] = a, a * position[k]
    for k in range(n - 1):
        x, x_next = position[k], position[k + 1]
        bound = drive * growth[k] * (1.0 + rate * x + (x_next - x) * rate_fast)
        c1[k] = x_next
        # Of simultaneous events, only the last one closes a causal set.
        c2[k] = bound if times[k + 1] > times[k] else math.inf


@njit(error_model="numpy", fastmath={"contract"})
def prepare(
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
        coefficients: (4, n_samples, n_pre) out, in the working type: a1, a2, c1, c2 of `sweep`.
        n_events, n_segments: (n_samples,) out.
    """
    n_samples, n_pre = t_in.shape
    rate_slow, rate_fast = 1.0 / tau_slow, 1.0 / tau_fast
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
            _segment(
                times[b, first:last], growth[b, first:last], position[b, first:last],
                coefficients[0, b, first:last], coefficients[1, b, first:last],
                coefficients[2, b, first:last], coefficients[3, b, first:last],
                drive, mode, rate_slow, rate_fast, rate,
            )  # fmt: skip
            k = last - 1
            x = position[b, k]
            x_next = rise(min(times[b, last] - anchor, 1e3 * tau_fast), mode, rate)
            coefficients[2, b, k] = x_next
            coefficients[3, b, k] = drive * growth[b, k] * (1.0 + rate * x + (x_next - x) * rate_fast)
            first = last
        starts[b, segments] = count
        n_events[b], n_segments[b] = count, segments
