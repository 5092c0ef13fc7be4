"""What trials do to a layer's spikes, on any backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuspike.backend import array_module
from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import Array, Trial, seen


def check_trial(trial: Trial, shape: tuple[int, ...], dtype: Any) -> None:
    """Refuses arrays that are not like a layer's spike times: compiled kernels would read beyond them.

    Raises:
        DtypeError, ShapeError: what was expected, and what was got.
    """
    for name, array in (("lift", trial.lift), ("delay", trial.delay)):
        if array is not None and array.dtype != dtype:
            raise DtypeError(f"{name} must be {dtype} like the spike times, got {array.dtype}")
        if array is not None and array.shape != shape:
            raise ShapeError(f"{name} must be (n_replica, n_batch, n_post) = {shape}, got {array.shape}")


def awake(t_heard: Array, t_cross: Array, end: float, dead: Array | None) -> Array:
    """inf of each pair whose membrane stays below the threshold while a trial lasts, else a time.

    A spike that a chip loses on its way needs no larger weights.

    Args:
        t_heard, t_cross: (n_replica, n_batch, n_neurons) when spikes are heard, and membranes cross.
        end: of the trial, which a spike behind it has missed.
        dead: (n_replica, 1, n_neurons) of whom nothing is wanted; None: nobody.
    """
    times = t_heard
    if t_cross is not t_heard:
        in_time = t_cross if end == np.inf else np.where(t_cross.astype(np.float64) > end, np.inf, t_cross)
        times = np.minimum(t_heard, in_time)
    return times if dead is None else np.where(dead, 0.0, times).astype(times.dtype, copy=False)


def heard(t_cross: Array, trial: Trial) -> Array:
    """A layer's spikes as whoever listens gets them."""
    times = t_cross
    if trial.delay is not None:
        array_module(t_cross=t_cross, delay=trial.delay)  # which must be of one kind
        times = np.maximum(times + trial.delay, np.minimum(times, 0.0))
    return seen(times, trial.grid, trial.end)
