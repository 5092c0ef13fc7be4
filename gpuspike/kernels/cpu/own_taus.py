"""Neurons with time constants of their own on the CPU (Numba).

Where neurons share no time constant, a sample's events have no coefficients that all of them could use. The anchor of
each neuron is the event it is at, and moves on with every event: in the notation of `gpuspike.kernels.cpu.forward`

    p -> keep(D) p,    v -> fade(D) v + shift(D) p
    keep(D) = exp(-D/tau_slow),    fade(D) = exp(-D/tau_fast),    shift(D) = C k(D) = (keep(D) - fade(D))/d

with v the potential at the event and D the time to the next one. These three are functions of a neuron and of a
gap. Relative to exp(-c D), with c the centre of all neurons' rates 1/tau, they are polynomials of few terms, since
chips have time constants that differ by percents and events that follow each other soon: with y = D h, h the largest
distance of a rate from c, a = (1/tau_slow - c)/h and b = (1/tau_fast - c)/h between -1 and 1

    keep = 1 + sum_n (-a y)^n/n!,    shift = D (1 + sum_n (-y)^n h_n(a, b)/(n + 1)!),    fade = keep - d shift
    h_n(a, b) = sum_m a^m b^(n - m)

of 3, 6 or 12 terms, by the gap; no difference cancels, be the two constants equal or not. So a pair takes some
17 multiply-adds, vectorised over neurons, where 2 are enough for neurons that share their constants. exp(c t) goes
into weights and thresholds, event by event. Long gaps take the exponentials themselves, and set a new anchor.

Gradients go the same way back: from the last event before its spike, where C k(T - t) and exp(-(T - t)/tau_slow) begin,
each neuron is taken from event to event by the same polynomials.

Weights are over C (threshold - leak).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.kernels.constants import EQUAL, GENERAL, tangent
from gpuspike.kernels.cpu import own_taus_backward as _backward
from gpuspike.kernels.cpu.arrays import in_vectors
from gpuspike.kernels.cpu.events import FLAT
from gpuspike.kernels.cpu.own_taus_events import (
    ANEW,
    LAST,
    TIE,
    anew,
    fill,
    fraction,
    kernel,
    membranes,
    prepare,
    vectors,
)  # fmt: skip
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
from gpuspike.kernels.cpu.sort import spike_order
from gpuspike.kernels.cpu.team import PIECES_PER_THREAD, enter, leave, run, tasks

PAIRS_WORTH_A_THREAD = 50_000
"""Pairs below which waking another thread does not pay."""


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
    if table[P + new, lane] >= fast * v_next or not pull > fast:
        return False  # it still rises at the next event, or has no peak as high as that
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


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(
    control, is_caller, n_tasks, n_pieces, like, t_in, order, weights, taus, lift, tangent, t_out, slope_out
):
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    n_pre = weights.shape[1]
    n_blocks = (n_post + LANES - 1) // LANES
    tables = np.zeros((n_blocks, N_ROWS, LANES), like.dtype)
    slow, fast, rate = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    t, base, scale, kind = (
        np.empty(n_pre + 1),
        np.empty(n_pre + 1),
        np.empty(n_pre + 1),
        np.empty(n_pre + 1, np.int64),
    )
    lanes, stops = np.empty(n_post, np.int64), np.empty(n_post, np.int64)
    v, p, room = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    a, b_fast, d, delay, steep = (
        np.empty(n_post),
        np.empty(n_post),
        np.empty(n_post),
        np.empty(n_post),
        np.empty(n_post),
    )
    scratch, place = np.empty((SCRATCH, n_post)), np.empty(n_post, np.int64)
    precise = t_out.itemsize == 8
    held, centre, half, widest, fast_least = -1, 0.0, 0.0, 0.0, 0.0
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        if r != held:
            centre, half, widest, fast_least = membranes(taus[r], slow, fast, rate)
            for block in range(n_blocks):
                first = block * LANES
                fill(tables[block], first, min(LANES, n_post - first), slow, fast, rate, centre, half)
            held = r
        count = prepare(t_in[r_in, b], order[r_in, b], centre, half, precise, t, base, scale, kind)
        n_found = 0
        for block in range(n_blocks):
            first = block * LANES
            n = min(LANES, n_post - first)
            table = tables[block]
            table[HIGH] = math.inf
            for m in range(n):
                t_out[r, b, first + m], slope_out[r, b, first + m] = math.inf, 0.0
                table[HIGH, m] = 1.0
                if lift.size > 0:
                    high = lift[r, b, first + m]
                    if high <= 0.0:  # always on
                        t_out[r, b, first + m], high = 0.0, math.inf
                    table[HIGH, m] = high
            n_found = _sweep(
                (t, scale, kind), count, order[r_in, b], weights[r], first, n, table, slow, fast, rate, half, widest,
                fast_least, (lanes, stops, v, p, room), n_found,
            )  # fmt: skip
        for m in range(n_found):
            j = lanes[m]
            a[m], b_fast[m], d[m] = slow[j], fast[j], rate[j]
        crossings(n_found, v, p, room, a, b_fast, d, delay, steep, 1e-16 if precise else 1e-9, scratch, place)
        for m in range(n_found):
            if delay[m] < math.inf:
                j = lanes[m]
                high = np.float64(lift[r, b, j]) if lift.size > 0 else 1.0
                if not precise and steep[m] < FLAT * fast[j]:
                    delay[m], steep[m] = _polished(
                        t, stops[m], order[r_in, b], weights[r, :, j], high, room[m], slow[j], fast[j], rate[j],
                        delay[m], steep[m],
                    )  # fmt: skip
                t_out[r, b, j] = t[stops[m]] + delay[m]
                slope_out[r, b, j] = steep[m] * high if steep[m] > tangent * fast[j] else 0.0
    return leave(control, is_caller, n_pieces)


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(control, is_caller, n_tasks, n_pieces, t_in, weights, taus, tangent, t_out, slope_out):
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    slow, fast, rate = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        membranes(taus[r], slow, fast, rate)
        for j in range(n_post):
            pull, potential = 0.0, 0.0
            for i in range(times.size):
                delay = np.float64(t_out[r, b, j]) - times[i]
                if 0.0 < delay < math.inf:
                    w = np.float64(weights[r, i, j])
                    pull += w * math.exp(-delay * slow[j])
                    potential += w * kernel(delay, slow[j], rate[j])
            rising = pull - potential * fast[j]
            slope_out[r, b, j] = rising if rising > tangent * fast[j] else 0.0
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
    like = np.empty(0, weights.dtype)
    arrays = like, t_in, order, in_vectors(weights), taus, high, tangent(weights.dtype), t_out, slope
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
    order: NDArray[np.int64],
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
        order: that sorts the inputs; empty where nobody knows it.
        weights: (n_replica, n_pre, n_post) as they are.
        slope: times the capacitance.
    """
    n_replica, n_pre, n_post = weights.shape
    n_batch = t_out.shape[1]
    if order.shape != t_in.shape:
        order = spike_order(t_in)
    like = np.empty(0, weights.dtype)
    weights_grad = np.empty_like(weights)
    t_in_grad = np.zeros((n_replica, *t_in.shape[1:]), weights.dtype) if need_t_in_grad else None
    parallel = t_out.size * n_pre > PAIRS_WORTH_A_THREAD
    spikes = t_out, slope, t_out_grad, active
    arrays = like, t_in, order, taus, *spikes, float(max_weight_grad), weights_grad
    _run(_backward.weights_grad, n_replica * -(-n_post // LANES), arrays, parallel=parallel)
    if t_in_grad is not None:
        arrays = like, t_in, order, in_vectors(weights), taus, *spikes, t_in_grad
        _run(_backward.times_grad, n_replica * n_batch, arrays, parallel=parallel)
    return t_in_grad, weights_grad


def _run(job: Any, n_tasks: int, arrays: tuple[Any, ...], *, parallel: bool) -> None:
    """All tasks of one of the jobs above."""
    n_pieces = min(n_tasks, PIECES_PER_THREAD * thread_count())
    run(job, (n_tasks, n_pieces, *arrays), parallel=parallel)
