"""Spike rasters of single samples; the manner is that of `gpuspike.report.figures.run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.report.figures.names import LONGEST, as_texts, letters
from gpuspike.report.figures.run import PALETTE, TIME_UNITS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS, COLUMNS, FEWER = 10, 5, 4
"""Samples of a figure at most, and how many stand side by side: of longer names than `SHORT`, fewer."""
SHORT = 7
ROOM, WIDTHS = 210, (4.6, 3.5)
"""Points that all titles of a row have, and those of a letter: on one line, and smaller, on two."""
GAP = 0.12
"""Between two layers, whose heights are 1 whatever their number of neurons."""


@styled()
def spike_raster(
    spikes: Sequence[Sequence[ArrayLike]],
    labels: Sequence[int],
    class_names: Sequence[str],
    unit: str = "tau_syn",
) -> Figure:
    """Samples on their way through the network, a panel each: inputs at the bottom, outputs at the top.

    Args:
        spikes: of each sample, of the inputs and each layer, the (n_neuron,) spike times in `unit`; inf is
            no spike.
        labels: true class of each sample.
        class_names: of the classes, which are the output neurons.
    """
    columns = COLUMNS if max(map(letters, class_names)) <= SHORT else FEWER
    n_column = min(columns, len(class_names), len(labels))
    n_row = -(-len(labels) // n_column)
    figure = new_figure(height=0.45 + (2.2 if n_row == 1 else 1.65) * n_row)
    panels = figure.subplots(n_row, n_column, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(labels) :]:
        panel.remove()
    names = _layer_names(len(spikes[0]))
    titles = _titles(
        [np.asarray(layers[-1], dtype=float) for layers in spikes], labels, class_names, n_column
    )
    narrow = any("\n" in title for title in titles)
    look: dict[str, Any] = {"fontweight": "bold", "fontsize": 5 if narrow else 6.5, "pad": 2}
    for axes, layers, label, title in zip(panels.flat, spikes, labels, titles, strict=False):
        for k, layer in enumerate(layers):
            times = np.asarray(layer, dtype=float)
            low = k * (1 + GAP)
            heights = low + (np.arange(len(times)) + 0.5) / len(times)
            if k == len(layers) - 1:
                colours = [PALETTE[j % len(PALETTE)] for j in range(len(times))]
                known = np.isfinite(times)
                shown = [colour for colour, there in zip(colours, known, strict=True) if there]
                size = float(np.clip(60 / len(times), 5, 11))
                axes.scatter(times[known], heights[known], s=size, marker="|", linewidths=1.6, c=shown)
            else:
                size = float(np.clip(90 / len(times), 0.8, 4))
                axes.plot(times, heights, "|", color="0.25", ms=size, mew=0.5)
            if k:
                axes.axhline(low - GAP / 2, color="0.8", linewidth=0.4)
        answer = np.asarray(layers[-1], dtype=float)
        first = int(answer.argmin())
        spoken = bool(np.isfinite(answer[first]))
        if spoken:
            axes.axvline(answer[first], color="0.5", linewidth=0.5, linestyle=(0, (4, 3)), zorder=0)
        axes.set_title(title, color=PALETTE[label % len(PALETTE)], **look)
    middle = [k * (1 + GAP) + 0.5 for k in range(len(names))]
    sizes = [np.size(layer) for layer in spikes[0]]
    panels[0, 0].set_yticks(middle, [f"{name}\n({size})" for name, size in zip(names, sizes, strict=True)])
    panels[0, 0].set_ylim(-GAP, len(names) * (1 + GAP))
    for panel in panels.flat[: len(labels)]:
        panel.tick_params(axis="y", length=0)
    figure.supxlabel(f"time ({TIME_UNITS.get(unit, unit)})")
    return figure


def _titles(
    answers: Sequence[NDArray[np.float64]], labels: Sequence[int], class_names: Sequence[str], n_column: int
) -> list[str]:
    """Class of each sample, and the answer where it is another: below it where there is no room beside it."""
    room = ROOM / n_column
    names = as_texts(class_names, min(int(room / WIDTHS[1]) - len("not "), LONGEST))
    told = []
    for times, label in zip(answers, labels, strict=True):
        first = int(times.argmin())
        other = "none" if not np.isfinite(times[first]) else "" if first == label else f"not {names[first]}"
        told.append([names[label], *filter(None, (other,))])
    narrow = any(WIDTHS[0] * letters(", ".join(words)) > room for words in told)
    return [(",\n" if narrow else ", ").join(words) for words in told]


def _layer_names(count: int) -> list[str]:
    """Of the inputs, the hidden layers and the outputs."""
    hidden = [f"hidden {k}" for k in range(1, count - 1)] if count > 3 else ["hidden"] * (count - 2)
    return ["input", *hidden, "output"]
