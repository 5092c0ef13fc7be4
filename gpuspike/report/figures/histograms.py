"""Histograms of output spikes; the manner is that of `gpuspike.report.figures.run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.names import BESIDE, LONGEST, as_texts
from gpuspike.report.figures.run import (
    BLUE,
    TIME_UNITS,
    Floats,
    legend_height,
    legend_of_classes,
    look_of,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 4
"""Classes with a line for each output neuron; of more, the others stand together."""


@styled()
def spike_time_histograms(
    t_out: ArrayLike, labels: ArrayLike, class_names: Sequence[str], unit: str = "tau_syn"
) -> Figure:
    """When the output neurons spike, in one panel for the samples of each class.

    The neuron of the samples' own class is filled. Of many classes the others are drawn together, by their
    earliest spike, and each panel has a height of its own. The silent are counted in every panel.

    Args:
        t_out: (m, n_class) spike times in `unit`; inf is a silent neuron.
        labels: (m,) class of each sample.
    """
    times, truth, n_class = np.asarray(t_out, dtype=float), np.asarray(labels), len(class_names)
    few = n_class <= MOST_PANELS
    names = as_texts(class_names, LONGEST if few else BESIDE)
    bins = np.histogram_bin_edges(times[np.isfinite(times)], bins=60)
    height = 0.75 + (1.15 if few else 0.42) * n_class
    figure = new_figure(height + (legend_height(class_names) if few else 0))
    panels = figure.subplots(n_class, 1, sharex=True, sharey=few, squeeze=False)[:, 0]
    for label, axes in enumerate(panels):
        own = times[truth == label]
        if few:
            for k in range(n_class):
                _draw_counts(axes, own[:, k], bins, filled=k == label, **look_of(k))
        else:
            others = np.delete(own, label, axis=1).min(axis=1)
            _draw_counts(axes, own[:, label], bins, filled=True, color=look_of(label)["color"])
            _draw_counts(axes, others, bins, filled=False, color="0.35")
        silent = (~np.isfinite(own)).sum(axis=0)
        note = f"silent: own {silent[label]} of {len(own)}" + (", " if few else "\n")
        note += f"others {silent.sum() - silent[label]} of {len(own) * (n_class - 1)}"
        axes.annotate(note, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=6 if few else 5)
        if few:
            axes.set_title(names[label], loc="left", fontweight="bold", pad=2)
            axes.yaxis.set_major_locator(lazy_matplotlib().ticker.MaxNLocator(integer=True, nbins=3))
        else:
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="x", length=2.5 if label == n_class - 1 else 0)
            axes.set_ylabel(names[label], rotation=0, ha="right", va="center", fontweight="bold")
    for axes in panels[: 1 if few else n_class]:  # few share one height, which all have drawn by now
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    panels[0].set_xlim(bins[0], bins[-1])
    figure.supxlabel(f"spike time ({TIME_UNITS.get(unit, unit)})")
    if few:
        figure.supylabel("samples")
        legend_of_classes(figure, class_names)
    else:
        patch, line = lazy_matplotlib().patches.Patch, lazy_matplotlib().lines.Line2D
        handles = [
            patch(alpha=0.35, color=BLUE, label="neuron of the class"),
            line([], [], color="0.35", linewidth=0.7, label="earliest of the others"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _draw_counts(axes: Axes, times: Floats, bins: Floats, *, filled: bool, **look: Any) -> None:
    """A histogram of the finite times: its outline, and its area where it is filled."""
    count, _ = np.histogram(times[np.isfinite(times)], bins)
    if not count.any():
        return
    # From the first to the last filled bin: no line along the empty ones.
    first, end = np.flatnonzero(count)[[0, -1]] + [0, 1]
    steps = count[first:end], bins[first : end + 1]
    axes.stairs(*steps, linewidth=1.2 if filled else 0.7, zorder=2 + 2 * filled, **look)
    if filled:
        axes.stairs(*steps, fill=True, color=look["color"], alpha=0.35, zorder=3)
