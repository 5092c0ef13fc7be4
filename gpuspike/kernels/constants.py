"""The numbers that kernels take of a layer's neurons, and the limits that all backends share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpuspike.neuron import LIF

EQUAL, DOUBLE, NON_LEAKY, GENERAL, MIXED = range(5)
"""Regimes of the crossing equation, as in `lif.cuh`: tau_slow/tau_fast is 1, 2, infinite, or anything
else; or the neurons of a layer have time constants of their own."""

GROUPS_FROM = 32
"""Inputs of a layer from which kernels look for those that spike together."""

MOST_ARRAYS = 3
"""Arrays that an optimiser keeps beside each of those that it works on, at most."""


class Constants(NamedTuple):
    """What kernels know of neurons that share their parameters.

    Attributes:
        tau_slow, tau_fast, rate: the time constants, and 1/tau_fast - 1/tau_slow.
        drive, span: C (threshold - leak), and threshold - leak.
        reach: see `reach`;  tangent: see `tangent`.
        peak, peak_delay: the kernel's maximum times C, and when it is.
    """

    tau_slow: float
    tau_fast: float
    rate: float
    drive: float
    span: float
    reach: float
    tangent: float
    peak: float
    peak_delay: float


def regime(neuron: LIF) -> int:
    """The regime of neurons that share their time constants."""
    if neuron.tau_slow == neuron.tau_fast:
        return EQUAL
    if neuron.tau_slow == 2.0 * neuron.tau_fast:
        return DOUBLE
    return NON_LEAKY if np.isinf(neuron.tau_slow) else GENERAL


def tangent(dtype: Any) -> float:
    """Slope, in (threshold - leak)/tau_fast, up to which a crossing is tangential."""
    return 16.0 * float(np.finfo(dtype).eps)


def reach(dtype: Any) -> float:
    """Longest time from an anchor, in tau_fast, before it moves on.

    The sums grow with the distance from the anchor, and lose digits with it.
    """
    return 4.0 if dtype == np.float32 else 8.0


@lru_cache(maxsize=256)
def constants(neuron: LIF, dtype: np.dtype[Any]) -> Constants:
    """Those of a neuron of numbers, for kernels of that type."""
    peak_delay, height = neuron.kernel_peak
    return Constants(
        neuron.tau_slow,
        neuron.tau_fast,
        neuron.rate_difference,
        float(neuron.drive),
        float(neuron.span),
        reach(dtype),
        tangent(dtype),
        height * float(neuron.capacitance),
        peak_delay,
    )
