"""What an answer is worth that is asked for early: accuracy, decisions and energy by the time one listens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.accountant.account import Clock, Use, energy_terms, overhead
from gpuspike.accountant.activity import Activity, Counts, within
from gpuspike.accountant.prices import Prices
from gpuspike.errors import PriceError

Array = NDArray[Any]


def anytime(activity: Activity, prices: Prices) -> dict[str, Any]:
    """The part "anytime" of summary.json: one entry for each time at which one may stop listening.

    Returns:
        "time_tau" and "time_s" (None where the chip's time is not known), from 0 to the end of the trial; the
        shares "decided" and "accuracy" of samples that have an answer by then, and the right one; "energy_J"
        if every sample runs until then, and "energy_stopping_J" if each stops at its decision, or then.
        Energies are numbers or [low, high], None where a price is missing.
    """
    clock = Clock(prices)
    known = within(activity.grid, prices.trial)
    grid = activity.grid[known]
    ticks = clock.ticks(grid)
    right = np.where(activity.correct, activity.t_decision, np.inf)
    seconds = clock.seconds(ticks)
    return {
        "time_tau": grid,
        "time_s": None if seconds is None else _plain(seconds),
        "decided": _share_until(activity.t_decision, grid),
        "accuracy": _share_until(right, grid),
        "energy_J": _energy(activity, prices, clock, _part(activity.course_ended, known), ticks),
        "energy_stopping_J": _energy(
            activity,
            prices,
            clock,
            _part(activity.course_decided, known),
            _mean_minimum(clock.ticks(activity.t_decision), ticks),
        ),
    }


def _share_until(times: Array, grid: Array) -> Array:
    return np.searchsorted(np.sort(times, axis=None), grid, side="right") / times.size


def _mean_minimum(times: Array, limits: Array) -> Array:
    """Mean over all times of min(time, limit), for each limit."""
    ordered = np.sort(times, axis=None)
    earlier = np.searchsorted(ordered, limits, side="right")
    total = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(ordered), ordered, 0.0))])
    return (total[earlier] + (times.size - earlier) * limits) / times.size


def _part(counts: Counts, known: NDArray[np.bool_]) -> Counts:
    return Counts(*(getattr(counts, name)[:, known] for name in Counts.__dataclass_fields__))


def _energy(activity: Activity, prices: Prices, clock: Clock, counts: Counts, ticks: Array) -> Any:
    seconds = clock.seconds(ticks)
    use = Use(counts, clock.steps(ticks), None if seconds is None else seconds + overhead(prices)[:, None])
    try:
        return _plain(sum(energy_terms(use, activity, prices).values(), np.zeros((2, len(ticks)))))
    except PriceError:
        return None


def _plain(bands: Array) -> Array:
    """(2, n) bands as n numbers, or n pairs where their ends differ."""
    return bands[0] if np.array_equal(bands[0], bands[1]) else bands.T
