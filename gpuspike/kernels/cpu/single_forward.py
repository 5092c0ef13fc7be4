"""Spike times of neurons with an order of events of their own, and slopes there (Numba).

The notation is that of `gpuspike.kernels.cpu.single`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import DOUBLE, EQUAL, GENERAL, NON_LEAKY
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.own_taus_events import fraction
from gpuspike.kernels.cpu.solve import exp_vectorised, solve
from gpuspike.kernels.cpu.team import enter, leave, tasks

LANES = 16
"""Neurons that go through their events together."""

SPAN, CAPACITANCE, SLOW, FAST, RATE, HIGHEST, PEAK, MEM, SYN = range(9)
"""What is known of each neuron: threshold - leak, C, tau_slow, tau_fast, 1/tau_fast - 1/tau_slow, K's maximum and where
it is, 1/tau_mem and 1/tau_syn."""


@njit(error_model="numpy")
def _mode(slow, fast):
    """The regime of one neuron."""
    if slow == fast:
        return EQUAL
    if slow == math.inf:
        return NON_LEAKY
    return DOUBLE if slow == 2.0 * fast else GENERAL


@njit(error_model="numpy")
def _kernel(s, slow, rate):
    """K(s) for s > 0."""
    return math.exp(-s / slow) * (s if rate == 0.0 else -math.expm1(-rate * s) / rate)


@njit(error_model="numpy")
def _exchange(t, w, one, other):
    """Puts the earlier of two events of each neuron first."""
    for m in range(LANES):
        a, b, x, y = t[one, m], t[other, m], w[one, m], w[other, m]
        late = a > b
        t[one, m], t[other, m] = b if late else a, a if late else b
        w[one, m], w[other, m] = y if late else x, x if late else y


@njit(error_model="numpy")
def _sort(t, w, n):
    """Sorts the first n events of each neuron by Batcher's merge exchange, the same comparisons for all of them.

    Source: Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M.
    """
    top = 1
    while 2 * top < n:
        top *= 2
    p = top if n > 1 else 0
    while p > 0:
        q, r, d = top, 0, p
        while True:
            for i in range(n - d):
                if i & p == r:
                    _exchange(t, w, i, i + d)
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


@njit(error_model="numpy", fastmath={"contract"})
def _meet(t, following, w, last, v, p, scale, rows, near, done, gap, turn, rise):
    """Each neuron of a block meets its next event.

    Args:
        t, following, w: (LANES,) its time, that of the one behind it, its weight;  last: there is none behind it.
        v, p: potential and sum at the event;  scale: of weights;  rows: see SPAN.
        near: out: potentials that may reach 1 before what follows;  done: neurons that have spiked.
        gap, turn, rise: out: time in between, exp(-d gap), and K(gap) exp(gap/tau_slow).

    Returns:
        Whether any potential is near.
    """
    for m in range(LANES):
        p[m] += scale[m] * np.float64(w[m])
        gap[m] = np.float64(following[m]) - np.float64(t[m])
    for m in range(LANES):
        turn[m] = exp_vectorised(-gap[m] * rows[RATE, m])
    found = 0
    for m in range(LANES):
        rise[m] = gap[m] * fraction(gap[m] * rows[RATE, m], turn[m])
        # Up to its peak K is below its initial slope's line. Most potentials come nowhere near; and of simultaneous
        # inputs only the last one closes a causal set.
        most = rows[HIGHEST, m] if last else min(rows[HIGHEST, m], rise[m])
        close = (last | (gap[m] > 0.0)) & (max(v[m], 0.0) + max(p[m], 0.0) * most > 0.999) & (not done[m])
        near[m] = close
        found += 1 if close else 0
    return found > 0


@njit(error_model="numpy", fastmath={"contract"})
def _move(v, p, gap, turn, rise, rows):
    """On to the next event."""
    for m in range(LANES):
        keep = exp_vectorised(-gap[m] / rows[SLOW, m])
        v[m] = keep * (turn[m] * v[m] + rise[m] * p[m])
        p[m] *= keep


@njit(cache=True, nogil=True, error_model="numpy")
def forward_job(
    control, is_caller, n_tasks, n_pieces, t_in, weights, delays, table, lift, flat, t_out, slope_out
):
    """Spike times, and slopes there."""
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    n_pre = t_in.shape[2]
    t, w = np.empty((n_pre, LANES), t_in.dtype), np.empty((n_pre, LANES), t_in.dtype)
    rows, scale = np.empty((PEAK + 1, LANES)), np.empty(LANES)
    v, p, gap, turn, rise = (
        np.empty(LANES),
        np.empty(LANES),
        np.empty(LANES),
        np.empty(LANES),
        np.empty(LANES),
    )
    done, near = np.empty(LANES, np.bool_), np.empty(LANES, np.bool_)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        for first in range(0, n_post, LANES):
            n = min(LANES, n_post - first)
            left = 0
            for m in range(LANES):
                j = first + min(m, n - 1)
                for k in range(PEAK + 1):
                    rows[k, m] = table[k, r, j]
                if lift.size > 0:
                    rows[SPAN, m] *= lift[r, b, j]
                done[m] = m >= n or not rows[SPAN, m] > 0.0
                left += 0 if done[m] else 1
                scale[m] = 1.0 / (rows[CAPACITANCE, m] * rows[SPAN, m]) if rows[SPAN, m] > 0.0 else 0.0
                v[m] = p[m] = 0.0
            for m in range(n):  # those that are always on begin with their spike
                t_out[r, b, first + m] = math.inf if rows[SPAN, m] > 0.0 else 0.0
                slope_out[r, b, first + m] = 0.0
            count = 0
            for i in range(n_pre):
                if times[i] < math.inf:
                    for m in range(LANES):
                        j = first + min(m, n - 1)
                        t[count, m], w[count, m] = times[i] + delays[r, i, j], weights[r, i, j]
                    count += 1
            _sort(t, w, count)
            for k in range(count):
                last = k + 1 == count
                found = _meet(
                    t[k], t[k if last else k + 1], w[k], last, v, p, scale, rows, near, done, gap, turn, rise
                )
                if found:
                    for m in range(n):
                        if near[m]:
                            slow, fast, rate = rows[SLOW, m], rows[FAST, m], rows[RATE, m]
                            room = math.inf if last else gap[m]
                            s = solve(v[m], p[m], room, _mode(slow, fast), slow, fast, rate)
                            if s < math.inf:
                                done[m] = True
                                left -= 1
                                at = t_out.dtype.type(t[k, m] + s)
                                steep = p[m] * math.exp(-s / slow) - 1.0 / fast
                                t_out[r, b, first + m] = at
                                rising = steep * fast > flat and at < math.inf
                                slope_out[r, b, first + m] = steep * rows[SPAN, m] if rising else 0.0
                    if left == 0:
                        break
                _move(v, p, gap, turn, rise, rows)
    return leave(control, is_caller, n_pieces)


@njit(error_model="numpy")
def _at_crossing(p, v, slow, fast, rate):
    """Slope where the membrane of this sum and potential, at all times, meets 1 from below; 0 where it never does."""
    if not p > 0.0:
        return 0.0
    mode = _mode(slow, fast)
    # The potential is 0 where x = -v/p, left of every crossing: from there it is solved for.
    if mode == EQUAL:
        p *= math.exp(v / p / slow)
    else:
        growth = 1.0 - rate * v / p
        if not growth > 0.0:
            return 0.0
        p *= math.exp(-math.log(growth) / rate / slow)
    s = solve(0.0, p, math.inf, mode, slow, fast, rate)
    return p * math.exp(-s / slow) - 1.0 / fast if s < math.inf else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def slopes_job(
    control, is_caller, n_tasks, n_pieces, t_in, weights, delays, table, at_crossing, flat, t_out, slope_out
):
    """Slopes at given spike times, or where their causal sets would cross."""
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        for j in range(n_post):
            slope_out[r, b, j] = 0.0
            if not t_out[r, b, j] < math.inf:
                continue
            slow, fast, rate = table[SLOW, r, j], table[FAST, r, j], table[RATE, r, j]
            p = v = 0.0
            for i in range(times.size):
                s = np.float64(t_out[r, b, j]) - np.float64(times[i] + delays[r, i, j])
                if s > 0.0:
                    p += weights[r, i, j] * math.exp(-s / slow)
                    v += weights[r, i, j] * _kernel(s, slow, rate)
            span = table[SPAN, r, j]
            drive = table[CAPACITANCE, r, j] * span
            p, v = p / drive, v / drive
            slope = _at_crossing(p, v, slow, fast, rate) if at_crossing else p - v / fast
            steep = slope_out.dtype.type(slope * span)
            slope_out[r, b, j] = steep if slope * fast > flat and steep < math.inf else 0.0
    return leave(control, is_caller, n_pieces)
