"""Spike rasters of single samples; the manner is that of `gpuspike.report.figures.run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from gpuspike.report.figures.run import PALETTE, TIME_UNITS, as_text, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS, COLUMNS = 10, 5
"""Samples of a figure at most, and how many stand side by side."""
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
    class_names = [as_text(name) for name in class_names]
    n_column = min(COLUMNS, len(class_names), len(labels))
    n_row = -(-len(labels) // n_column)
    figure = new_figure(height=0.45 + (2.2 if n_row == 1 else 1.65) * n_row)
    panels = figure.subplots(n_row, n_column, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(labels) :]:
        panel.remove()
    names = _layer_names(len(spikes[0]))
    for axes, layers, label in zip(panels.flat, spikes, labels, strict=False):
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
        right = spoken and first == label
        note = class_names[label] if right else f"{class_names[label]}, not {class_names[first]}"
        note = note if spoken else f"{class_names[label]}, none"
        axes.set_title(note, color=PALETTE[label % len(PALETTE)], fontweight="bold", fontsize=6.5, pad=2)
    middle = [k * (1 + GAP) + 0.5 for k in range(len(names))]
    sizes = [np.size(layer) for layer in spikes[0]]
    panels[0, 0].set_yticks(middle, [f"{name}\n({size})" for name, size in zip(names, sizes, strict=True)])
    panels[0, 0].set_ylim(-GAP, len(names) * (1 + GAP))
    for panel in panels.flat[: len(labels)]:
        panel.tick_params(axis="y", length=0)
    figure.supxlabel(f"time ({TIME_UNITS.get(unit, unit)})")
    return figure


def _layer_names(count: int) -> list[str]:
    """Of the inputs, the hidden layers and the outputs."""
    hidden = [f"hidden {k}" for k in range(1, count - 1)] if count > 3 else ["hidden"] * (count - 2)
    return ["input", *hidden, "output"]
