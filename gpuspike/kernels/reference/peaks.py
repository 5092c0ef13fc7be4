"""The oracle of membranes' peaks: every local maximum is tried, each found by bisecting the slope."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels.reference.arrays import each
from gpuspike.neuron import LIF

Array = NDArray[Any]


def peaks(t_in: Array, weights: Array, delays: Array | None, neuron: LIF, wanted: NDArray[np.bool_]) -> Array:
    """When membranes that never spike are highest; see `kernels.SingleKernels`."""
    t_peak = np.full(wanted.shape, np.inf)
    for r, j, one in each(neuron, weights):
        arriving = t_in[r if len(t_in) > 1 else 0]
        if delays is not None:
            arriving = arriving + delays[r, :, j]
        for b in np.flatnonzero(wanted[r, :, j]):
            t_peak[r, b, j] = _peak(arriving[b].astype(np.float64), weights[r, :, j].astype(np.float64), one)
    return t_peak.astype(weights.dtype)


def _peak(t: NDArray[np.float64], w: NDArray[np.float64], neuron: LIF) -> float:
    """Of one neuron and sample: the highest local maximum, or what stands for it where none is above leak."""
    from scipy.optimize import brentq

    w, t = w[np.isfinite(t)], t[np.isfinite(t)]
    if not t.size:
        return math.inf

    def potential(at: float) -> float:
        past = at - t
        return float(w[past > 0.0] @ neuron.kernel(past[past > 0.0]))

    def slope(at: float, heard: NDArray[np.bool_]) -> float:
        # Of the causal set that holds from an event on; an input adds its slope the moment it comes.
        past = np.maximum(at - t[heard], 1e-300)
        return float(w[heard] @ neuron.kernel_slope(past))

    events = np.unique(t)
    far = events[-1] + 60.0 * neuron.tau_fast
    best, highest = math.inf, 0.0
    for k, event in enumerate(events):
        following = events[k + 1] if k + 1 < events.size else far
        heard = t <= event
        candidates = [event]
        # Between two events a membrane has one maximum at most.
        if slope(event, heard) > 0.0 and slope(following, heard) < 0.0:
            candidates.append(float(brentq(slope, event, following, (heard,), xtol=1e-13)))  # type: ignore[arg-type]
        elif k + 1 == events.size and slope(event, heard) > 0.0:
            candidates.append(far)
        for at in candidates:
            if (found := potential(at)) > highest:
                best, highest = at, found
    if highest > 0.0:
        return float(best)
    return float(events[-1] + min(neuron.kernel_peak[0], 60.0 * neuron.tau_fast))
