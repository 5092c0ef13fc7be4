"""What neurons with time constants of their own make of the time between two events (Numba).

The notation is that of `gpuspike.kernels.cpu.own_taus`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_own_taus import DEGREES, FAST, KEEP, LANES, RATE, SHIFT, P, V
from gpuspike.kernels.cpu.solve import exp_vectorised

TIE, LAST, ANEW = 0, -1, -2
"""Events that are no gap away from the next; that have none behind them; behind which a new anchor is set. Others have
the degree of the polynomials that lead to the next."""

SHORT, MEDIUM, LONG = 0.02, 0.2, 0.35
"""Largest y of which the polynomials of 3 (for float32), of 6 (there; for float64 up to SHORT) and of 12 terms leave
less than 1e-8, and 3e-16 for float64."""

FAR = 16.0
"""Longest time from an anchor, in 1/c: float32 holds what e^16 makes of any weight."""

_LOW, _MIDDLE, _HIGH = DEGREES


@njit(inline="always", error_model="numpy")
def fraction(y, turned):
    """(1 - exp(-y))/y for y >= 0, free of branches so that loops vectorise; `turned` is exp(-y)."""
    # The remainder of the series is below 1e-17 up to 1/4; beyond that the difference keeps all but two bits.
    series = 1.0
    for n in range(13, 1, -1):
        series = 1.0 - series * y / n
    return series if y < 0.25 else (1.0 - turned) / max(y, 0.25)


@njit(error_model="numpy")
def membranes(taus, slow, fast, rate):
    """1/tau_slow and 1/tau_fast of each neuron and their difference, from (n_post, 2) time constants.

    Returns:
        (the centre of all these rates, their largest distance from it, the largest difference, the least 1/tau_fast).
    """
    least, most = math.inf, 0.0
    widest, fast_least = 0.0, math.inf
    for j in range(len(taus)):
        one, other = 1.0 / taus[j, 0], 1.0 / taus[j, 1]
        slow[j], fast[j] = min(one, other), max(one, other)
        rate[j] = fast[j] - slow[j]
        least, most = min(least, slow[j]), max(most, fast[j])
        widest, fast_least = max(widest, rate[j]), min(fast_least, fast[j])
    centre = 0.5 * (least + most)
    return centre, max(most - centre, centre - least), widest, fast_least


@njit(error_model="numpy")
def fill(table, first, n, slow, fast, rate, centre, half):
    """The table of a block: neurons `first` and following, of which there are `n`."""
    below, above = np.zeros(LANES), np.zeros(LANES)
    term, power, mixed, row = np.ones(LANES), np.ones(LANES), np.ones(LANES), np.empty(LANES)
    table[:] = 0.0
    for m in range(n):
        if half > 0.0:
            below[m], above[m] = (slow[first + m] - centre) / half, (fast[first + m] - centre) / half
        table[RATE, m], table[FAST, m] = rate[first + m], fast[first + m]
    sign = 1.0
    for k in range(_HIGH):
        for m in range(LANES):
            term[m] *= -below[m] / (k + 1)
        for m in range(LANES):
            power[m] *= above[m]
        for m in range(LANES):
            mixed[m] = below[m] * mixed[m] + power[m]
        sign *= -1.0 / (k + 2)
        for m in range(LANES):
            row[m] = sign * mixed[m]
        for m in range(n):
            table[KEEP + k, m], table[SHIFT + k, m] = term[m], row[m]


@njit(error_model="numpy")
def prepare(times, order, centre, half, precise, t, base, scale, kind):
    """A sample's events in their order.

    Args:
        times, order: (n_pre,) spike times and the order that sorts them.
        precise: whether for float64.
        t, base, scale: (n_pre + 1,) out: time, inf at the end; anchor; exp(c (t - anchor)).
        kind: (n_pre + 1,) out.

    Returns:
        How many there are.
    """
    count = 0
    while count < order.size and times[order[count]] < math.inf:
        t[count] = times[order[count]]
        count += 1
    t[count] = math.inf
    anchor = t[0]
    for k in range(count):
        base[k] = anchor
        gap = t[k + 1] - t[k]
        y = half * gap
        if gap == 0.0:
            kind[k] = TIE
        elif k + 1 == count:
            kind[k] = LAST
        elif y > LONG or centre * (t[k + 1] - anchor) > FAR:
            kind[k] = ANEW
            anchor = t[k + 1]
        elif precise:
            kind[k] = _MIDDLE if y <= SHORT else _HIGH
        else:
            kind[k] = _LOW if y <= SHORT else _MIDDLE if y <= MEDIUM else _HIGH
    for k in range(count):
        scale[k] = exp_vectorised(centre * (t[k] - base[k]))
    scale[count] = 1.0
    return count


@njit(error_model="numpy")
def anew(table, old, new, n, slow, rate, gap, scale):
    """The sums of a block's `n` neurons when a long gap has passed, and from a new anchor.

    Args:
        old, new: which rows of p and v are read and written.
        slow, rate: (n,) of the block's neurons.
    """
    keep, turn, shift = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    for m in range(n):
        keep[m] = exp_vectorised(-gap * slow[m])
    for m in range(n):
        turn[m] = exp_vectorised(-gap * rate[m])
    for m in range(n):
        shift[m] = gap * fraction(gap * rate[m], turn[m])
    for m in range(n):
        keep[m] /= scale
        p, v = np.float64(table[P + old, m]), np.float64(table[V + old, m])
        table[P + new, m] = keep[m] * p
        table[V + new, m] = keep[m] * (turn[m] * v + shift[m] * p)


@njit(error_model="numpy")
def kernel(delay, slow, rate):
    """C k(delay) for delay > 0."""
    rises = delay if rate == 0.0 else -math.expm1(-rate * delay) / rate
    return math.exp(-delay * slow) * rises


@njit(error_model="numpy")
def vectors(n, table):
    """Vectors that hold `n` neurons of a block."""
    width = VECTOR_BYTES // table.itemsize
    return (n + width - 1) // width
