"""First spikes of neurons with time constants of their own: sums taken from event to event, crossings solved for (Numba).

The notation is that of `gpuspike.kernels.cpu.own_taus`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import EQUAL, GENERAL
from gpuspike.kernels.cpu.arrays import bare, keep
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import FLAT
from gpuspike.kernels.cpu.own_taus_events import (
    ANEW,
    LAST,
    TIE,
    anew,
    fill,
    fraction,
    membranes,
    prepare,
    vectors,
)
from gpuspike.kernels.cpu.own_taus_solve import SCRATCH, crossings
from gpuspike.kernels.cpu.simd_own_taus import (
    HIGH,
    LANES,
    N_ROWS,
    P,
    V,
    advance_3,
    advance_6,
    advance_12,
    gather,
    lowest_bit,
)  # fmt: skip
from gpuspike.kernels.cpu.solve import exp_vectorised, rise, solve
from gpuspike.kernels.cpu.sort import sort_row, sort_space
from gpuspike.kernels.cpu.team import enter, leave, tasks


@njit(error_model="numpy")
def _may_cross(table, lane, new, p, v, height, next_height, gap, slow, fast, rate):
    """Whether a neuron that may cross before the next event does.

    Args:
        p, v: its sums at the event, the event's own weight included;  height, next_height: its thresholds there and
            at the next event.
        new: the rows with its sums at the next event, of which its weight is not yet a part.
    """
    v_next = table[V + new, lane]
    if v >= height or v_next >= next_height:
        return True
    pull, potential = np.float64(p / height), np.float64(v / height)
    if not pull > fast:
        return False  # it has no peak as high as that
    # It still rises at the next event. Behind a very long gap, sums are 0 or too small to have digits.
    digits = abs(v_next) > (1e-30 if table.itemsize == 4 else 1e-290)
    if digits and table[P + new, lane] > fast * v_next:
        return False
    mode = EQUAL if rate == 0.0 else GENERAL
    if potential + rise(gap, mode, rate) * (pull - fast) < 1.0:
        return False
    return solve(potential, pull, gap, mode, 1.0 / slow, 1.0 / fast, rate) < math.inf


@njit(error_model="numpy")
def _sweep(
    events, count, order, weights, first, n, table, slow, fast, rate, half, widest, fast_least, found, n_found
):
    """Takes a block of neurons through a sample's events.

    Args:
        events: t, scale and kind of each of `count`, see `prepare`.
        order: of the inputs;  weights: (n_pre, whole vectors).
        first, n: the block's first neuron, and how many there are.
        table: of the block, with thresholds.
        found: out: neuron, event, v, p, room of each that crosses, or does so perhaps after the last
            event; v and p in units of its threshold.
        n_found: how many there are already.

    Returns:
        n_found, updated.
    """
    t, scale, kind = events
    lanes, stops, v_found, p_found, room = found
    one, w_one = table.dtype.type(1.0), weights.dtype.type(1.0)
    n_vectors, place = vectors(n, table), table.ctypes.data
    everybody = np.int64(-1) if n == LANES else (np.int64(1) << n) - 1
    table[P : P + 2] = 0.0
    table[V : V + 2] = 0.0
    silent, now = n, 0
    for m in range(n):
        silent -= 1 if table[HIGH, m] == math.inf else 0
    for k in range(count):
        if silent == 0:
            break
        what, gap = kind[k], t[k + 1] - t[k]
        row = weights.ctypes.data + order[k] * weights.strides[0] + first * weights.itemsize
        swing = widest * gap
        # Above (exp(d D) - 1)/d of every neuron, where polynomials serve.
        reach = gap * (1.0 + swing * (0.5 + 0.25 * swing))
        numbers = (
            table.dtype.type(scale[k]), table.dtype.type(half * gap), table.dtype.type(gap), table.dtype.type(reach),
            table.dtype.type(scale[k] * (1.0 + reach * fast_least)),
        )  # fmt: skip
        new = 1 - now
        arrived = what > 0
        if what == 3:
            bits = advance_3(one, w_one, numbers, place, row, new, n_vectors)
        elif what == 6:
            bits = advance_6(one, w_one, numbers, place, row, new, n_vectors)
        elif what == 12:
            bits = advance_12(one, w_one, numbers, place, row, new, n_vectors)
        else:
            gather(one, w_one, numbers, place, row, now, n_vectors)
            if what == TIE:
                continue
            bits = everybody
            if what == ANEW:
                anew(table, now, new, n, slow[first:], rate[first:], gap, scale[k])
        next_scale = 1.0 if what == ANEW else scale[k + 1]
        while bits != 0:
            m = lowest_bit(bits)
            bits &= bits - 1
            high = table[HIGH, m]
            if high == math.inf:
                continue
            j = first + m
            p, v = np.float64(table[P + now, m]), np.float64(table[V + now, m])
            if arrived == 1:
                p += weights[order[k], j] * scale[k]
            height = high * scale[k]
            if what == LAST:
                crosses = v >= height or p > fast[j] * height
            else:
                crosses = _may_cross(
                    table, m, new, p, v, height, high * next_scale, gap, slow[j], fast[j], rate[j]
                )
            if crosses:
                lanes[n_found], stops[n_found], room[n_found] = j, k, gap
                v_found[n_found], p_found[n_found] = v / height, p / height
                n_found += 1
                table[HIGH, m] = math.inf
                silent -= 1
        now = new
    return n_found


@njit(error_model="numpy", fastmath={"contract"})
def _polished(t, last, order, weights, height, room, slow, fast, rate, delay, steep):
    """The delay from event `last` to a flat crossing, and the slope there, from sums in float64.

    Args:
        weights: (n_pre,) of the neuron;  delay, steep: from other sums.
    """
    p, v = np.empty(last + 1), np.empty(last + 1)
    for k in range(last + 1):
        p[k] = weights[order[k]] / height
    for k in range(last + 1):
        p[k] *= exp_vectorised((t[k] - t[last]) * slow)
    for k in range(last + 1):
        age = t[last] - t[k]
        v[k] = p[k] * (age * fraction(rate * age, exp_vectorised(-rate * age)))
    pull, potential = p.sum(), v.sum()
    again = solve(potential, pull, room, EQUAL if rate == 0.0 else GENERAL, 1.0 / slow, 1.0 / fast, rate)
    if again == math.inf:  # float32 has the last word on whether there is a spike
        return delay, steep
    return again, pull * math.exp(-again * slow) - fast


@njit(error_model="numpy")
def _hear(spikes, trial, r, b, t_out):
    """Spike times as whoever listens gets them; see `kernels.Trial`.

    Args:
        trial: delays (n_replica, n_batch, n_post) or an empty array; grid, end, tolerance of the grid.
    """
    delay, grid, end, same_tick = trial
    zero = spikes.dtype.type(0.0)
    for j in range(spikes.size):
        t = spikes[j]
        if delay.size > 0:
            t = max(t + delay[r, b, j], min(t, zero))
        if grid > 0.0:
            t = t_out.dtype.type(np.ceil(t / grid - same_tick) * grid)
        t_out[j] = t if t <= end else math.inf


@njit(error_model="numpy")
def _send(t_out, bias, times, order, space):
    """A sample's input of the next layer: the spikes and that layer's bias spikes, and their order."""
    for j in range(t_out.size):
        times[j] = t_out[j]
    for i in range(bias.size):
        times[t_out.size + i] = bias[i]
    sort_row(times, order, space)


@njit(cache=True, nogil=True, error_model="numpy")
def forward_job(
    control, is_caller, n_tasks, n_pieces, t_in, order, weights, taus, lift, tangent, t_cross, slope, trial, t_out, bias,
    t_next, order_next,
):  # fmt: skip
    """A layer's spikes and slopes, and the next layer's input unless that is empty; see `own_taus.forward`."""
    enter(control, is_caller)
    t_in, order, weights, lift, t_out = bare(t_in), bare(order), bare(weights), bare(lift), bare(t_out)
    t_cross, slope, t_next, order_next = bare(t_cross), bare(slope), bare(t_next), bare(order_next)
    n_batch, n_post = t_cross.shape[1:]
    n_pre = weights.shape[1]
    n_blocks = (n_post + LANES - 1) // LANES
    rooms = (
        np.zeros((n_blocks, N_ROWS, LANES), t_cross.dtype), np.empty((11, n_post)), np.empty((3, n_pre + 1)),
        np.empty(n_pre + 1, np.int64), np.empty((3, n_post), np.int64), np.empty((SCRATCH, n_post)),
    )  # fmt: skip
    tables, numbers, of_events, kind = bare(rooms[0]), bare(rooms[1]), bare(rooms[2]), bare(rooms[3])
    slow, fast, rate, t, base, scale = (
        numbers[8], numbers[9], numbers[10], of_events[0], of_events[1], of_events[2],
    )  # fmt: skip
    lanes, stops, place = bare(rooms[4])[0], bare(rooms[4])[1], bare(rooms[4])[2]
    scratch = bare(rooms[5])
    v, p, room, own_slow, own_fast, own_rate, delay, steep = (
        numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7],
    )  # fmt: skip
    n_next = t_next.shape[2]
    space = sort_space(n_next, t_next)
    precise = t_cross.itemsize == 8
    enough = 1e-16 if precise else 1e-9
    held, centre, half, widest, fast_least = -1, 0.0, 0.0, 0.0, 0.0
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        ranks = order[r_in, b]
        if r != held:
            centre, half, widest, fast_least = membranes(taus[r], slow, fast, rate)
            for block in range(n_blocks):
                first = block * LANES
                fill(tables[block], first, min(LANES, n_post - first), slow, fast, rate, centre, half)
            held = r
        count = prepare(t_in[r_in, b], ranks, centre, half, precise, t, base, scale, kind)
        n_found = 0
        for block in range(n_blocks):
            first = block * LANES
            n = min(LANES, n_post - first)
            table = tables[block]
            table[HIGH] = math.inf
            for m in range(n):
                t_cross[r, b, first + m], slope[r, b, first + m] = math.inf, 0.0
                table[HIGH, m] = 1.0
                if lift.size > 0:
                    high = lift[r, b, first + m]
                    if high <= 0.0:  # always on
                        t_cross[r, b, first + m], high = 0.0, math.inf
                    table[HIGH, m] = high
            n_found = _sweep(
                (t, scale, kind), count, ranks, weights[r], first, n, table, slow, fast, rate, half, widest,
                fast_least, (lanes, stops, v, p, room), n_found,
            )  # fmt: skip
        for m in range(n_found):
            j = lanes[m]
            own_slow[m], own_fast[m], own_rate[m] = slow[j], fast[j], rate[j]
        crossings(n_found, v, p, room, own_slow, own_fast, own_rate, delay, steep, enough, scratch, place)
        for m in range(n_found):
            if delay[m] < math.inf:
                j = lanes[m]
                high = np.float64(lift[r, b, j]) if lift.size > 0 else 1.0
                if not precise and steep[m] < FLAT * fast[j]:
                    delay[m], steep[m] = _polished(
                        t, stops[m], ranks, weights[r, :, j], high, room[m], slow[j], fast[j], rate[j], delay[m],
                        steep[m],
                    )  # fmt: skip
                t_cross[r, b, j] = t[stops[m]] + delay[m]
                slope[r, b, j] = steep[m] * high if steep[m] > tangent * fast[j] else 0.0
        if t_out.size > 0:
            _hear(t_cross[r, b], trial, r, b, t_out[r, b])
        if n_next > 0:
            _send(
                t_out[r, b] if t_out.size > 0 else t_cross[r, b], bias, t_next[r, b], order_next[r, b], space
            )
    keep(rooms)
    return leave(control, is_caller, n_pieces)
