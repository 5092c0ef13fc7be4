"""First spike times with 60 digits: what the oracle is held against."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

from gpuspike.neuron import LIF

Array = NDArray[Any]

DIGITS = 60


def kernel_exactly(s: Any, neuron: LIF) -> Any:
    """k(s) in mpmath's numbers, for s > 0."""
    fast, slow = mpmath.mpf(neuron.tau_fast), mpmath.mpf(neuron.tau_slow)
    c = mpmath.mpf(float(neuron.capacitance))
    if fast == slow:
        return s * mpmath.exp(-s / fast) / c
    rate = 1 / fast if mpmath.isinf(slow) else 1 / fast - 1 / slow
    return ((1 if mpmath.isinf(slow) else mpmath.exp(-s / slow)) - mpmath.exp(-s / fast)) / rate / c


def first_spike_exactly(t_in: Array, weights: Array, neuron: LIF) -> float:
    """The first spike time of one neuron: event after event, by halving up to the peak between two.

    Args:
        t_in: (n_pre,) input spike times, inf = no spike;  weights: (n_pre,).
        neuron: of numbers.

    Returns:
        The time, rounded once; inf where the neuron stays silent.
    """
    with mpmath.workdps(DIGITS):
        known = np.isfinite(t_in)
        pairs = sorted(zip(t_in[known].tolist(), weights[known].tolist(), strict=True))
        level = mpmath.mpf(float(neuron.threshold)) - mpmath.mpf(float(neuron.leak))
        mem, syn = mpmath.mpf(float(neuron.tau_mem)), mpmath.mpf(float(neuron.tau_syn))
        fast, slow = mpmath.mpf(neuron.tau_fast), mpmath.mpf(neuron.tau_slow)
        rate = mpmath.mpf(0) if fast == slow else 1 / fast - (0 if mpmath.isinf(slow) else 1 / slow)
        leaky = 0 if mpmath.isinf(mem) else 1 / mem
        c = mpmath.mpf(float(neuron.capacitance))
        u = i = now = mpmath.mpf(0)
        for n, (t, w) in enumerate(pairs):
            t = mpmath.mpf(t)
            if n:
                u, i = (
                    u * mpmath.exp(-(t - now) * leaky)
                    + (i * kernel_exactly(t - now, neuron) if t > now else 0),
                    i * mpmath.exp(-(t - now) / syn),
                )
            now, i = t, i + mpmath.mpf(w)
            room = mpmath.mpf(pairs[n + 1][0]) - now if n + 1 < len(pairs) else mpmath.inf
            if room == 0:
                continue

            def potential(s: Any, u: Any = u, i: Any = i) -> Any:
                return u * mpmath.exp(-s * leaky) + (i * kernel_exactly(s, neuron) if s > 0 else 0)

            if u >= level:
                return float(now)
            top = _peak(u, i / c, fast, slow, rate, leaky)
            top = min(top, room) if top is not None else None
            if top is None:
                continue
            if mpmath.isinf(top):  # creeps up for ever: a time by which all but 60 digits are there
                if leaky == 0 and u + i / c * fast <= level:
                    continue
                top = fast * DIGITS * 3
            if potential(top) < level:
                continue
            low, high = mpmath.mpf(0), top
            for _ in range(4 * DIGITS):
                middle = (low + high) / 2
                low, high = (low, middle) if potential(middle) >= level else (middle, high)
            return float(now + high)
        return float("inf")


def _peak(u: Any, drive: Any, fast: Any, slow: Any, rate: Any, leaky: Any) -> Any:
    """Delay of the membrane's peak, None where it falls at once; inf where it only creeps up."""
    slope = drive - u * leaky
    if slope <= 0:
        return None
    if mpmath.isinf(slow):
        return mpmath.inf
    a = drive + u * (1 / slow - leaky)
    if a <= 0:
        return None
    risen = fast * slope / a
    if rate == 0:
        return risen
    rest = 1 - rate * risen
    return mpmath.inf if rest <= 0 else -mpmath.log(rest) / rate
