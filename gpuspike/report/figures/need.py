"""Figures of borders: accuracy against a distortion with the value that is too much, and two as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.run import BLUE, GREY, VERMILION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


@styled()
def border(found: Mapping[str, Any], accuracy: float, label: str, split: str, *, whole: bool) -> Figure:
    """Accuracy against the values of a distortion: every seed, the mean, its interval, and the border.

    Args:
        found: an entry "borders" of the answer.
        accuracy: that was asked for.
        label: of the axis;  whole: its values are whole numbers.
    """
    figure = new_figure(height=2.4)
    axes = figure.subplots()
    points = [point for point in found["points"] if point["verdict"] != "refused"]
    values = np.array([point["value"] for point in points])
    means = 100 * np.array([point["mean"] for point in points])
    low, high = 100 * np.array([point["interval"] for point in points]).reshape(-1, 2).T
    axes.fill_between(values, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(values, means, color=BLUE, marker="o", ms=2.5)
    every = [means]
    for value, point in zip(values, points, strict=True):
        seeds = 100 * np.array(point["accuracy"])
        axes.plot(np.full(len(seeds), value), seeds, "_", color=GREY, ms=5, mew=0.7)
        every.append(seeds)
    axes.axhline(100 * accuracy, color=VERMILION, linewidth=0.8, label="asked for")
    axes.axhline(100 * found["off"]["mean"], color=GREY, linestyle="--", linewidth=0.8, label="without it")
    if found["enough"] is not None and found["too_much"] is not None:
        ends = sorted((found["enough"], found["too_much"]))
        axes.axvspan(*ends, color=VERMILION, alpha=0.15, linewidth=0, label="border")
    shown = np.concatenate([*every, low, high, [100 * found["off"]["mean"], 100 * accuracy]])
    room = max(1.0, 0.08 * (shown.max() - shown.min()))
    axes.set_ylim(shown.min() - room, min(101.0, shown.max() + room))
    ticker = lazy_matplotlib().ticker
    if whole:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    elif len(values):
        axes.set_xscale("log")
        ticks = _apart(sorted(set(values)))
        axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel(label)
    axes.set_ylabel(f"{split} accuracy (%)")
    axes.legend(loc="best")
    return figure


def _apart(values: Sequence[float]) -> list[float]:
    """Of ascending positive values those whose names have room on a logarithmic axis, the ends among them."""
    least = np.log(values[-1] / values[0]) / 7
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if np.log(kept[-1] / value) >= least:
            kept.append(value)
    if kept[-1] != values[0]:
        kept[-1] = values[0]
    return kept[::-1]


@styled()
def pair(
    means: Floats,
    values: tuple[Sequence[float], Sequence[float]],
    accuracy: float,
    labels: tuple[str, str],
    split: str,
    undecided: NDArray[np.bool_] | None = None,
) -> Figure:
    """Mean accuracy of two distortions at once, a cell for each pair, and the border as a line.

    Args:
        means: (n_second, n_first) shares, NaN where there is none.
        values: of the first, which goes across, and of the second.
        accuracy: that was asked for.
        undecided: (n_second, n_first) cells whose interval holds that accuracy, which are hatched.
    """
    figure = new_figure(height=2.9)
    axes = figure.subplots()
    shares = 100 * np.ma.masked_invalid(means)
    least = float(shares.min()) if shares.count() else 0.0
    least = min(least, 100 * accuracy - 1)
    image = axes.imshow(shares, origin="lower", aspect="auto", cmap="Blues", vmin=least, vmax=100.0)
    for (row, column), share in np.ndenumerate(100 * means):
        if np.isfinite(share):
            dark = share > (least + 200.0) / 3
            axes.text(
                column, row, f"{share:.1f}", ha="center", va="center", fontsize=6.5,
                color="white" if dark else "black",
            )  # fmt: skip
    if undecided is not None and undecided.any():
        patches = lazy_matplotlib().patches
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": GREY, "hatch": "////", "linewidth": 0}
        for row, column in np.argwhere(undecided):
            axes.add_patch(patches.Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
        told = [patches.Patch(label="undecided", **look)]
        axes.legend(handles=told, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    known = shares.compressed()
    if known.size and min(means.shape) > 1 and known.min() < 100 * accuracy < known.max():
        axes.contour(shares, levels=[100 * accuracy], colors=[VERMILION], linewidths=1.2)
    for axis, own in zip((axes.xaxis, axes.yaxis), values, strict=True):
        axis.set_ticks(np.arange(len(own)), [f"{value:g}" for value in own])
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, label=f"{split} accuracy (%), line: {100 * accuracy:g} %")
    return figure
