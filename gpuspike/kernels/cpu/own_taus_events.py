"""What neurons with time constants of their own make of the time between two events (Numba).

The notation is that of `gpuspike.kernels.cpu.own_taus`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.cpu.compiler import njit
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


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def fraction_series(y):
    """(1 - exp(-y))/y for y from 0 to 1/4, where the rest of the series is below 1e-17."""
    series = -1.0 / 479001600.0
    series = series * y + 1.0 / 39916800.0
    series = series * y - 1.0 / 3628800.0
    series = series * y + 1.0 / 362880.0
    series = series * y - 1.0 / 40320.0
    series = series * y + 1.0 / 5040.0
    series = series * y - 1.0 / 720.0
    series = series * y + 1.0 / 120.0
    series = series * y - 1.0 / 24.0
    series = series * y + 1.0 / 6.0
    series = series * y - 0.5
    return series * y + 1.0


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def fraction(y, turned):
    """(1 - exp(-y))/y for y >= 0, free of branches so that loops vectorise; `turned` is exp(-y)."""
    # Beyond 1/4 the difference keeps all but two bits.
    return fraction_series(y) if y < 0.25 else (1.0 - turned) / max(y, 0.25)


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


@njit(error_model="numpy", fastmath={"nnan", "nsz"})
def _longest(t, n):
    """The longest of n gaps. No time is NaN, which lets the loop vectorise."""
    following = t[1:]
    longest = 0.0
    for k in range(n):
        longest = max(longest, following[k] - t[k])
    return longest


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
    # Loops that have no branch and begin at 0 vectorise; there is always room for one event more.
    following = t[1:]
    longest = _longest(t, count - 1)
    low, upper = (0.0, SHORT) if precise else (SHORT, MEDIUM)
    for k in range(count):
        gap = following[k] - t[k]
        y = half * gap
        degree = _LOW if y <= low else _MIDDLE if y <= upper else _HIGH
        kind[k] = degree if gap > 0.0 else TIE
    anchor = t[0]
    for k in range(count):
        base[k] = anchor
    if half * longest > LONG or centre * (t[max(count, 1) - 1] - anchor) > FAR:
        for k in range(count - 1):
            if half * (t[k + 1] - t[k]) > LONG or centre * (t[k + 1] - anchor) > FAR:
                kind[k] = ANEW if kind[k] != TIE else TIE
                anchor = t[k + 1]
            base[k + 1] = anchor
    if count > 0:
        kind[count - 1] = LAST
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
