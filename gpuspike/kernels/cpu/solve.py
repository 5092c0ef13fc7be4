"""Solving for one crossing on the CPU, neuron by neuron or many at once (Numba).

In the coordinates of `gpuspike.kernels.cpu.forward`: the line v + x p, counted from an event and in units of
C (threshold - leak), meets the convex curve R(x) = exp(s(x)/tau_fast), with x = E(s). Newton's method on a concave
difference, started from its left, never overshoots; expanding R to second order makes it exact where
tau_mem = 2 tau_syn (a quadratic) or tau_mem = inf (a straight line), and cubic elsewhere.

Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021), for the model and its closed forms.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import DOUBLE, EQUAL, NON_LEAKY
from gpuspike.kernels.cpu.compiler import njit

_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01  # 32 leading bits of ln 2, so that n * high is exact
_LN2_LOW = 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer and leaves that in the low bits

# Exponents are clamped where their result no longer matters: past exp(60), nothing that a further event adds
# is seen beside it, in either precision, and float32 still holds the number.
_FAR = 60.0


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def exp_vectorised(x):
    """exp(x) in float64 to 1 ulp for |x| < 708 (clamped there), free of branches so that loops vectorise."""
    x = min(max(x, -708.0), 709.0)
    shifted = x * _LOG2E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    # Taylor series; |r| <= ln(2)/2 leaves a remainder of 4e-18.
    y = 1.0 / 6227020800.0
    y = y * r + 1.0 / 479001600.0
    y = y * r + 1.0 / 39916800.0
    y = y * r + 1.0 / 3628800.0
    y = y * r + 1.0 / 362880.0
    y = y * r + 1.0 / 40320.0
    y = y * r + 1.0 / 5040.0
    y = y * r + 1.0 / 720.0
    y = y * r + 1.0 / 120.0
    y = y * r + 1.0 / 24.0
    y = y * r + 1.0 / 6.0
    y = y * r + 0.5
    y = (y * r) * r + r + 1.0
    power = (np.float64(shifted).view(np.int64) << 52) + (1023 << 52)
    return y * np.int64(power).view(np.float64)


@njit(error_model="numpy", fastmath={"contract"})
def rise(t, mode, rate):
    """E(t) = (exp(d t) - 1)/d, the coordinate in which the potential is a straight line."""
    if mode == EQUAL:
        return t
    return math.expm1(min(rate * t, _FAR)) / rate


@njit(error_model="numpy", fastmath={"contract"})
def solve(v, p, room, mode, tau_slow, tau_fast, rate):
    """Delay from an event to the crossing if that lies within `room`, else inf.

    Args:
        v: potential at the event, (u - leak)/(threshold - leak).
        p: sum p anchored at the event, in units of C (threshold - leak).
        room: time to the next event, inf after the last one.
    """
    if v >= 1.0:
        return 0.0  # crossed within rounding before the event
    slope = p - 1.0 / tau_fast
    if not slope > 0.0:
        return math.inf
    if mode == NON_LEAKY:
        s = tau_fast * math.log1p((1.0 - v) / (slope * tau_fast))
        return s if s <= room else math.inf
    if mode == DOUBLE:
        b = 2.0 * slope * tau_fast
        discriminant = b * b - 4.0 * (1.0 - v)
        if discriminant < 0.0:
            return math.inf
        s = 2.0 * tau_fast * math.log1p(2.0 * (1.0 - v) / (b + math.sqrt(discriminant)))
        return s if s <= room else math.inf
    # Expanding R to second order converges faster, and stays left of the crossing where the third derivative of R
    # is not negative.
    bend = 0.0 if tau_slow > 2.0 * tau_fast else 1.0 / (tau_slow * tau_fast)
    x, s, curve, growth = 0.0, 0.0, 1.0, 1.0
    for _ in range(200):
        gap = v + x * p - curve
        slope = p - curve / (growth * tau_fast)
        if gap >= 0.0:
            return s
        if not slope > 0.0:
            return math.inf
        discriminant = slope * slope + 2.0 * gap * bend * curve / (growth * growth)
        if discriminant < 0.0:
            return math.inf
        step = -2.0 * gap / (slope + math.sqrt(discriminant))
        x += step
        s = x if mode == EQUAL else math.log1p(rate * x) / rate
        if s > room:
            return math.inf
        if not step > 1e-16 * x:
            break
        curve = math.exp(s / tau_fast)
        growth = 1.0 if mode == EQUAL else 1.0 + rate * x
    return s


@njit(error_model="numpy", fastmath={"contract"})
def solve_equal(v, p, room, delay, slope, count, tau):
    """`solve` for tau_mem = tau_syn and many neurons at once, vectorised: the same crossing from the same side.

    In y = delay/tau the line v + y p tau meets exp(y). Chebyshev's step, Newton's with the next term of its series,
    still ends left of the crossing and takes one division.

    Args:
        delay, slope: out: delay or inf, and p exp(-delay/tau) - 1/tau.
    """
    for j in range(count):
        # Two steps that need no exponential: one to second order from the event itself, one on a truncated series,
        # which lies below the exponential and so keeps left of the crossing too.
        line = p[j] * tau
        pull = line - 1.0
        discriminant = pull * pull + 2.0 * (v[j] - 1.0)
        y = 2.0 * (1.0 - v[j]) / (pull + math.sqrt(max(discriminant, 0.0)))
        growth = 1.0 / 720.0 + y * (1.0 / 5040.0 + y * (1.0 / 40320.0))
        growth = 1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * growth))
        growth = 1.0 + y + y * y * (0.5 + y * growth)
        gap = v[j] + y * line - growth
        inverse = 1.0 / (line - growth)
        step = -gap * inverse
        step += 0.5 * growth * inverse * step * step
        y += step if (gap < 0.0) & (inverse > 0.0) else 0.0
        reached = (pull > 0.0) & (discriminant >= 0.0) & (y * tau <= room[j])
        delay[j] = 0.0 if v[j] >= 1.0 else y if reached else np.inf
    for j in range(count):
        y = delay[j] if delay[j] < 1e300 else 0.0
        line = p[j] * tau
        growth = exp_vectorised(y)
        gap = v[j] + y * line - growth
        pull = line - growth
        inverse = 1.0 / pull
        step = -gap * inverse
        bend = growth * inverse
        following = y + step + 0.5 * bend * step * step
        below = (delay[j] < 1e300) & (gap < 0.0)
        reached = (pull > 0.0) & (following * tau <= room[j])
        delay[j] = (following if reached else np.inf) if below else delay[j]
        # The step is of third order: about this is left after it.
        rest = bend * (1.0 + bend) * step * step * step
        slope[j] = 0.0 if below & reached & (rest > 1e-16) else 1.0
    # One step for all, then each that needs more by itself: what one neuron gets must not depend on its company.
    for j in range(count):
        if slope[j] == 0.0:
            delay[j] = _approach(v[j], p[j] * tau, delay[j], room[j] / tau)
    rate = 1.0 / tau
    for j in range(count):
        # At the crossing the line is the curve: no exponential.
        y = delay[j] if delay[j] < 1e300 else 0.0
        slope[j] = p[j] / max(v[j] + y * (p[j] * tau), 1.0) - rate
        delay[j] *= tau


@njit(error_model="numpy", fastmath={"contract"})
def _approach(v, line, y, room):
    """Second-order steps from y, left of the crossing, of the line v + y line with exp(y); inf if there is none."""
    for _ in range(200):
        growth = math.exp(y)
        gap = v + y * line - growth
        pull = line - growth
        if gap >= 0.0:
            return y
        discriminant = pull * pull + 2.0 * gap * growth
        if not pull > 0.0 or discriminant < 0.0:
            return math.inf
        step = -2.0 * gap / (pull + math.sqrt(discriminant))
        y += step
        if y > room:
            return math.inf
        if not step > 1e-16 * y:
            return y
    return y


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def anchored(p, q, a, x, drive, rate):
    """A neuron's sums as `solve` takes them: (p anchored at the event, potential there)."""
    scale = 1.0 / (a * drive)
    return p * scale, (x * p - q) * (scale / (1.0 + rate * x))


@njit(inline="always", error_model="numpy")
def moved(p, q, gap, mode, tau_slow, tau_fast, rate):
    """The sums p and q when their anchor moves on by `gap`."""
    shift = -gap if mode == EQUAL else math.expm1(-rate * gap) / rate
    keep = math.exp(-gap / tau_slow)
    return keep * p, math.exp(-gap / tau_fast) * q + keep * shift * p
