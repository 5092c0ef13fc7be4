"""Figures of answers: which classes are taken for which, and the images that are misread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from gpuspike.report.figures.names import BESIDE, as_texts, letters
from gpuspike.report.figures.run import TIME_UNITS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, MOST_ROWS = 6, 6
"""Images of the sheet."""
SHORT, WIDE_COLUMNS, LONGEST_THERE = 5, 4, 12
"""`letters` of a name that fit under one of so many; else how many images stand side by side, and letters."""

MOST_FILTERS = 64


@styled()
def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Samples by true class (rows) and answer (columns), shaded by the share of the class's samples.

    Args:
        labels: (m,) true classes.
        predictions: (m,) classes answered; -1 undecided, which gets a column of its own where there are any.
        class_names: of the classes.
    """
    class_names = as_texts(class_names, BESIDE)
    truth, answer, n_class = np.asarray(labels), np.asarray(predictions), len(class_names)
    counts = np.zeros((n_class, n_class + 1), np.int64)
    np.add.at(counts, (truth, np.where(answer < 0, n_class, answer)), 1)
    answers = [*class_names, "none"]
    if not counts[:, n_class].any():
        counts, answers = counts[:, :n_class], answers[:n_class]
    wrong = int(counts.sum() - np.trace(counts))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(height=3.6)
    axes = figure.subplots()
    # The root, or a few mistakes among many right answers would not be seen.
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.4 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=5.5, color=colour)
    longest = max(map(letters, answers))
    turned = {} if longest <= 4 else {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(answers)), answers, **turned)
    axes.set_yticks(range(n_class), class_names)
    axes.tick_params(length=0)
    axes.set(xlabel="answer", ylabel="class")
    for spine in axes.spines.values():
        spine.set_visible(False)
    accuracy = 100 * (1 - wrong / max(len(truth), 1))
    line = "\n" if longest > 7 else " "  # beside long names the matrix is narrower than the title
    axes.set_title(f"accuracy {accuracy:.2f} %,{line}{wrong} of {len(truth)} misclassified")
    return figure


@styled()
def filters(weights: ArrayLike, *, opposites: bool = False) -> Figure:
    """Weights of a convolution's maps, a panel each: red lifts a neuron, blue holds it down.

    Args:
        weights: (rows, columns, channels, n_maps); the mean over several channels is drawn.
        opposites: the second half of the channels are negatives of the first; the means' difference is drawn.
    """
    given = np.asarray(weights, dtype=float)
    half = given.shape[2] // 2 if opposites else given.shape[2]
    mean = given[:, :, :half].mean(axis=2)
    if opposites:
        mean = mean - given[:, :, half:].mean(axis=2)
    n_maps = mean.shape[2]
    shown = min(n_maps, MOST_FILTERS)
    n_column = min(shown, 8)
    n_row = -(-shown // n_column)
    figure = new_figure(height=0.45 + 3.2 / n_column * n_row)
    panels = figure.subplots(n_row, n_column, squeeze=False)
    most = float(np.abs(mean).max()) or 1.0
    image = None
    for k, panel in enumerate(panels.flat):
        panel.set_axis_off()
        if k < shown:
            image = panel.imshow(mean[:, :, k], cmap="RdBu_r", vmin=-most, vmax=most)
    if image is not None:
        bar = figure.colorbar(image, ax=panels, location="bottom", aspect=50, pad=0.03, fraction=0.05)
        bar.set_label("weight of the pixel - weight of its negative" if opposites else "weight")
        bar.outline.set_linewidth(0.5)
    if shown < n_maps:
        figure.suptitle(f"the first {shown} of {n_maps} maps", fontsize=7)
    return figure


@styled()
def misclassified(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    t_out: ArrayLike,
    class_names: Sequence[str],
    unit: str = "tau_syn",
) -> Figure:
    """The first misclassified images, each with its class and its two earliest output spikes.

    Args:
        images: (m, rows, columns) pixels.
        labels: (m,) true classes.
        predictions: (m,) classes answered, -1 undecided.
        t_out: (m, n_class) output spike times in `unit`; inf is a silent neuron.
        class_names: of the classes.
    """
    class_names = as_texts(class_names, LONGEST_THERE)
    columns = COLUMNS if max(map(letters, class_names), default=0) <= SHORT else WIDE_COLUMNS
    truth, pictures, times = np.asarray(labels), np.asarray(images), np.asarray(t_out, dtype=float)
    wrong = np.flatnonzero(truth != np.asarray(predictions))
    shown = wrong[: columns * MOST_ROWS]
    n_row = max(-(-len(shown) // columns), 1)
    # Places of their own, in inches: no name takes an image its room.
    side, words, top = 3.3 / columns, 0.33, 0.24
    figure = new_figure(height := top + (side + words) * n_row)
    figure.set_layout_engine("none")
    places = {"left": 0.02, "right": 0.98, "top": 1 - (top + 0.12) / height, "bottom": 0.21 / height}
    places |= {"wspace": 0.1, "hspace": words / side}
    panels = figure.subplots(n_row, columns, squeeze=False, gridspec_kw=places)
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, sample in zip(panels.flat, shown, strict=False):
        panel.imshow(pictures[sample], cmap="gray_r", vmin=0, vmax=255)
        panel.set_title(class_names[int(truth[sample])], fontsize=6, fontweight="bold", pad=1.5)
        early = np.argsort(times[sample], kind="stable")[:2].tolist()
        spikes = [(class_names[k], times[sample, k]) for k in early if np.isfinite(times[sample, k])]
        note = "\n".join(f"{name}: {time:.3f}" for name, time in spikes) or "no spike"
        panel.text(0.5, -0.04, note, transform=panel.transAxes, ha="center", va="top", fontsize=5)
    name = TIME_UNITS.get(unit, unit)
    told = f"{len(shown)} of {len(wrong)} misclassified; the two earliest spikes ({name})"
    figure.suptitle(told, fontsize=7, y=1 - 0.04 / height, va="top")
    return figure
