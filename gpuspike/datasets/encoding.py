"""From features to spike times."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.errors import ValueRangeError, extent
from gpuspike.kinds import is_number

Times = NDArray[np.float64]


def latency(values: ArrayLike, t_early: float, t_late: float) -> Times:
    """Spike times that grow linearly with the value: `t_early` for 0, `t_late` for 1.

    Args:
        values: any shape, in [0, 1].
        t_early, t_late: in the network's unit of time, t_early < t_late.

    Raises:
        ValueRangeError: values outside of [0, 1], or times that are not finite and increasing.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021); times from its public code.
    """
    both = f"t_early={t_early!r}, t_late={t_late!r}"
    if not (is_number(t_early) and is_number(t_late) and math.isfinite(t_late - t_early)):
        raise ValueRangeError(f"t_early and t_late must be finite numbers, got {both}")
    if t_early >= t_late:
        raise ValueRangeError(f"t_early must lie before t_late, got {both}")
    if isinstance(values, np.ma.MaskedArray):
        raise ValueRangeError("features must not be masked, got a MaskedArray")
    try:
        values = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueRangeError(f"features must be an array of numbers, got {error}") from None
    if values.dtype.kind not in "fiub":
        raise ValueRangeError(f"features must be numbers to be encoded, got {values.dtype}")
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):
        raise ValueRangeError(f"features must lie in [0, 1] to be encoded, got {extent(values)}")
    return t_early + values * (t_late - t_early)


def pixel_latency(full_scale: float, t_early: float, t_late: float, *, silent_black: bool) -> Times:
    """(256,) spike times of the pixel values 0 to 255, the bright early: a table to look pixels up in.

    Args:
        full_scale: pixel value that spikes at `t_early`, 255 or more; a pixel of 0 spikes at `t_late`.
        t_early, t_late: in the network's unit of time, t_early < t_late.
        silent_black: pixels of 0 have no spike (inf).

    Raises:
        ValueRangeError: a scale below 255, or times that are not finite and increasing.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021); scales from its public code.
    """
    if not (math.isfinite(full_scale) and full_scale >= 255.0):
        raise ValueRangeError(f"full_scale must be finite and at least 255, got {full_scale!r}")
    times = latency(1.0 - np.arange(256) / full_scale, t_early, t_late)
    if silent_black:
        times[0] = np.inf
    return times
