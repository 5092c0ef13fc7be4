"""Figures of what a network would need on a chip; the manner is that of `gpuspike.report.figures.run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.names import as_text
from gpuspike.report.figures.run import BLUE, GREEN, GREY, VERMILION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
SCALES = ((1.0, ""), (1e3, "m"), (1e6, "µ"), (1e9, "n"), (1e12, "p"))


@styled()
def anytime(curve: Mapping[str, Any], chip: str) -> Figure:
    """Share decided, accuracy and energy against the time at which one stops listening.

    Args:
        curve: as `accountant.anytime` returns it; without energies there is no panel for them.
        chip: its name.
    """
    priced = curve["energy_J"] is not None
    figure = new_figure(height=3.6 if priced else 2.1)
    panels = figure.subplots(2 if priced else 1, 1, sharex=True, squeeze=False)[:, 0]
    t, share = np.asarray(curve["time_tau"]), panels[0]
    share.plot(t, 100 * np.asarray(curve["decided"]), color=GREY, label="decided")
    share.plot(t, 100 * np.asarray(curve["accuracy"]), color=BLUE, label="decided and right")
    share.set_ylabel("samples (%)")
    share.set_ylim(0, 103)
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}  # where no curve runs
    above |= {"ncols": 2, "columnspacing": 1.0, "handlelength": 1.2}
    share.legend(**above)
    if priced:
        both = [np.asarray(curve[key], dtype=float) for key in ("energy_J", "energy_stopping_J")]
        shown = t <= _end(curve)
        factor, prefix = _scale(max(float(values[shown].max()) for values in both))
        for values, colour, label in zip(
            both, (VERMILION, GREEN), ("every sample until then", "stopping at the decision"), strict=True
        ):
            _draw_energy(panels[1], t[shown], factor * values[shown], color=colour, label=label)
        panels[1].set_ylabel(f"energy ({prefix}J a sample)")
        panels[1].set_ylim(bottom=0)
        panels[1].legend(**above)
    panels[-1].set_xlim(0, _end(curve))
    panels[-1].set_xlabel(rf"time at which one stops listening ($\tau_{{syn}}$), {as_text(chip)}")
    return figure


def _draw_energy(axes: Axes, t: Floats, energy: Floats, **line: Any) -> None:
    """A line, or the band between the lowest and the highest energy."""
    if energy.ndim == 2:
        axes.fill_between(t, energy[:, 0], energy[:, 1], alpha=0.3, linewidth=0, color=line["color"])
        energy = energy.mean(axis=1)
    axes.plot(t, energy, **line)


def _scale(largest: float) -> tuple[float, str]:
    """What to multiply joules with so that the largest is 1 to 1000, and the prefix of the unit then."""
    return next(((f, p) for f, p in SCALES if largest * f >= 1.0), SCALES[-1])


def _end(curve: Mapping[str, Any]) -> float:
    """A little after the last decision, at most the end of the trial."""
    t, decided = np.asarray(curve["time_tau"]), np.asarray(curve["decided"])
    last = t[np.searchsorted(decided, decided[-1])] if decided[-1] > 0 else t[-1]
    return float(min(t[-1], 1.25 * max(last, t[1])))


@styled()
def tradeoff(runs: Sequence[Mapping[str, Any]], parameter: str) -> Figure:
    """Accuracy, time to decision and energy of runs that differ in one value.

    Args:
        runs: each with "value" of the parameter, "accuracy" (mean, std or None), "time_s" (mean, 99th
            percentile; None where not known), "energy_J" and "energy_stopping_J" (numbers, bands or None).
            What is not known of a run is a gap in its line.
        parameter: its name, for the axis.
    """
    rows = sorted(runs, key=lambda run: run["value"])
    values = np.arange(len(rows))  # evenly spaced: such values go over decades, and 0 is often one of them
    figure = new_figure(height=5.0)
    accuracy, time, energy = figure.subplots(3, 1, sharex=True)
    means, stds = (np.array([run["accuracy"][k] or 0.0 for run in rows]) for k in (0, 1))
    accuracy.errorbar(values, 100 * means, 100 * stds, color=BLUE, marker="o", ms=2.5, capsize=2)
    accuracy.set_ylabel("test accuracy (%)")
    if any(run["time_s"] is not None for run in rows):
        for k, label in enumerate(("mean", "99th percentile")):
            seconds = _known(run["time_s"] and run["time_s"][k] for run in rows)
            time.plot(values, 1e6 * seconds, color=(BLUE, GREY)[k], marker="o", ms=2.5, label=label)
        time.set_ylabel("time to decision (µs)")
        time.set_ylim(bottom=0)
        time.legend()
    both = [_known(run[key] for run in rows) for key in ("energy_J", "energy_stopping_J")]
    if any(np.isfinite(energies).any() for energies in both):
        factor, prefix = _scale(float(np.nanmax(both)))
        for energies, colour, label in zip(
            both, (VERMILION, GREEN), ("whole trials", "stopping at the decision"), strict=True
        ):
            energy.plot(values, factor * energies, color=colour, marker="o", ms=2.5, label=label)
        energy.set_ylabel(f"energy ({prefix}J a sample)")
        energy.set_ylim(bottom=0)
        energy.legend()
    energy.set_xticks(values, [f"{run['value']:g}" for run in rows])
    energy.set_xlabel(as_text(parameter))
    return figure


def _known(values: Iterable[Any]) -> Floats:
    """Numbers, or the middles of bands; nan, which no line is drawn to, where one is not known."""
    return np.array([np.nan if value is None else np.mean(value) for value in values])


@styled()
def yields(reached: Floats, band: Floats | None = None) -> Figure:
    """How many chips have which accuracy, and the share of them that reach one.

    Args:
        reached: (n_replica, n_chips) accuracies in 0..1.
        band: (n_counts, 3) counts of chips, and intervals of the share of all such chips; if known.
    """
    figure = new_figure(height=3.2)
    counts, share = figure.subplots(2, 1, sharex=True)
    values = 100 * reached.ravel()
    counts.hist(values, bins=min(40, max(8, round(values.size**0.5) * 2)), color=BLUE, alpha=0.6)
    mean, median = values.mean(), np.median(values)
    counts.axvline(mean, color=VERMILION, label=f"mean {mean:.2f} %")
    counts.axvline(median, color=GREY, linestyle="--", label=f"median {median:.2f} %")
    counts.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    counts.set_ylabel("chips" if len(reached) == 1 else "networks on chips")
    counts.yaxis.set_major_locator(lazy_matplotlib().ticker.MaxNLocator(integer=True, nbins=5))
    shares = 100 * np.arange(1, reached.shape[1] + 1) / reached.shape[1]
    of_means = -np.sort(-reached.mean(axis=0))
    if band is not None:
        at = 100 * of_means[band[:, 0].astype(int) - 1]
        low, high = 100 * band[:, 1], 100 * band[:, 2]
        share.fill_between(at, low, high, step="pre", color=BLUE, alpha=0.2, linewidth=0)
    for row in reached if len(reached) > 1 else ():
        share.step(100 * -np.sort(-row), shares, where="pre", color=GREY, alpha=0.5, linewidth=0.5)
    share.step(100 * of_means, shares, where="pre", color=BLUE, alpha=0.8)
    share.set_xlabel("accuracy (%)")
    share.set_ylabel("chips that reach it (%)")
    share.set_ylim(0, 103)
    figure.align_ylabels()
    return figure
