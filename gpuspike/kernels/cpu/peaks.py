"""When membranes that never spike are highest (Numba).

From event to event with the potential v and the sum p anchored there, in the notation of `gpuspike.kernels.cpu.single`,

    v(s) = exp(-s/tau_slow) (exp(-d s) v + (1 - exp(-d s))/d p),    v'(0) = p - v/tau_fast

A membrane that rises has its maximum where v' = 0: in x = E(s) = (exp(d s) - 1)/d, at

    x = tau_slow (1 - v/(tau_fast p))    with p > 0

if no event comes before. Of few neurons in few samples anybody wants to know it; their highest maximum is found by
looking at the sign of v' before and after each event, and at a maximum itself only where that changes.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.single_forward import FAST, PEAK, RATE, SLOW
from gpuspike.kernels.cpu.team import enter, leave, tasks

FAR = 60.0
"""After the last event, in tau_fast, the latest peak that is told: a membrane without a leak never comes down."""

EVENT, KEEP, TURN, RISE = range(4)
"""Of each event its time, and to the next one exp(-D/tau_slow), exp(-d D) and (1 - exp(-d D))/d."""


@njit(error_model="numpy")
def told_events(t, order, slow, rate, events):
    """Fills (4, n_pre) `events` with what `highest` needs; returns how many inputs spike at all.

    Args:
        order: (n_pre,) sorts the times `t`, silent inputs last.
    """
    n = 0
    while n < t.size and t[order[n]] < math.inf:
        events[EVENT, n] = t[order[n]]
        n += 1
    for m in range(n - 1):
        gap = events[EVENT, m + 1] - events[EVENT, m]
        turn = math.exp(-rate * gap)
        events[KEEP, m], events[TURN, m] = math.exp(-gap / slow), turn
        events[RISE, m] = gap if rate == 0.0 else -math.expm1(-rate * gap) / rate
    return n


@njit(error_model="numpy")
def _top(v, p, slow, fast, rate, longest):
    """Delay from an event to the maximum of a membrane that rises there, and the potential then."""
    s = longest
    if p > 0.0 and slow < math.inf:
        x = slow * (1.0 - v / (fast * p))
        s = min(longest, x if rate == 0.0 else math.log1p(rate * x) / rate)
    risen = s if rate == 0.0 else -math.expm1(-rate * s) / rate
    return s, math.exp(-s / slow) * (math.exp(-rate * s) * v + risen * p)


@njit(error_model="numpy", fastmath={"contract"})
def highest(events, order, n, weights, j, slow, fast, rate, peak):
    """When the membrane of neuron j is highest; where it never rises above the leak, when its last input is felt most.

    Args:
        events: see `told_events`, `n` of them;  weights: (n_pre, n_post).
        peak: delay of the kernel's maximum.
    """
    if n == 0:
        return math.inf
    best, found = 0.0, math.inf
    v, p, v0, p0, rose = 0.0, 0.0, 0.0, 0.0, False
    for m in range(n):
        if rose and not p - v / fast > 0.0:  # it came down again before this event
            s, top = _top(v0, p0, slow, fast, rate, events[EVENT, m] - events[EVENT, m - 1])
            if top > best:
                best, found = top, events[EVENT, m - 1] + s
        rising = p - v / fast > 0.0
        p += np.float64(weights[order[m], j])
        rose = p - v / fast > 0.0
        if rising and not rose and v > best:
            best, found = v, events[EVENT, m]
        v0, p0 = v, p
        if m + 1 < n:
            v = events[KEEP, m] * (events[TURN, m] * v + events[RISE, m] * p)
            p *= events[KEEP, m]
    last = events[EVENT, n - 1]
    if rose:
        s, top = _top(v0, p0, slow, fast, rate, FAR * fast)
        if top > best:
            best, found = top, last + s
    return found if best > 0.0 else last + min(peak, FAR * fast)


@njit(cache=True, nogil=True, error_model="numpy")
def peaks_job(control, is_caller, n_tasks, n_pieces, t_in, order, weights, delays, table, wanted, t_peak):
    """Peaks of the wanted neurons of a sample a task.

    Args:
        order: sorts t_in;  delays: (n_replica, n_pre, n_post), or none of them where inputs come when they spike.
        table: (9, n_replica, n_post), see `single_forward.SPAN`.
        wanted, t_peak: (n_replica, n_batch, n_post);  t_peak: out, inf where nobody wants it.
    """
    enter(control, is_caller)
    n_batch, n_pre = t_in.shape[1:]
    events, arriving = np.empty((4, n_pre)), np.empty(n_pre, t_in.dtype)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        own, known, slow_before, rate_before = order[r_in, b], -1, 0.0, 0.0
        for j in range(t_peak.shape[2]):
            t_peak[r, b, j] = math.inf
            if not wanted[r, b, j]:
                continue
            slow, fast, rate = table[SLOW, r, j], table[FAST, r, j], table[RATE, r, j]
            if delays.shape[0] > 0:
                for i in range(n_pre):
                    arriving[i] = t_in[r_in, b, i] + delays[r, i, j]
                own = np.argsort(arriving, kind="mergesort")
                known = told_events(arriving, own, slow, rate, events)
            elif known < 0 or slow != slow_before or rate != rate_before:
                known = told_events(t_in[r_in, b], own, slow, rate, events)
                slow_before, rate_before = slow, rate
            t_peak[r, b, j] = highest(
                events, own, known, weights[r], j, slow, fast, rate, table[PEAK, r, j]
            )  # fmt: skip
    return leave(control, is_caller, n_pieces)
