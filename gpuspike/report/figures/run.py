"""Figures of a run: learning curves, the plane of the samples, spike times, membranes.

Each function takes plain numbers and returns a Figure one column wide; `save` writes it as PDF
and PNG. Matplotlib is imported at the first figure; pyplot and displays are never touched.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.names import IN_LEGEND, NO_GLYPH, as_texts, letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILION, SKY, GREY = "#D55E00", "#56B4E9", "#666666"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY)
"""Okabe and Ito, Color Universal Design (2008), less the yellow that fades on white."""

TIME_UNITS = {"tau_syn": r"$\tau_{syn}$", "tau_mem": r"$\tau_{mem}$"}
MAX_HIDDEN_TRACES = 30
LEAST_ERROR = 1e-7
"""In per cent: what is less is no sample's, but the rounding of an accuracy summed batch by batch."""
LEGEND_ROOM = 62
"""`letters` of a legend that stand side by side; what a column takes beside its own is `LEGEND_MARK`."""
LEGEND_MARK = 6

STYLE: dict[str, Any] = {
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 7.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.0),
    **{"legend.title_fontsize": 7.0, "figure.labelsize": 7.5, "ytick.minor.width": 0.35},
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.5),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("legend.columnspacing", "legend.handlelength"), 1.4),
    **{
        "legend.borderaxespad": 0.2,
        "lines.linewidth": 1.1,
        "mathtext.default": "regular",
        "text.usetex": False,
    },
    # Type 42 keeps the text in a PDF selectable, which journals ask for.
    "pdf.fonttype": 42,
}


ENDINGS = (".pdf", ".png")
"""Of the files of a figure."""


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """This module's look, as a decorator too; the caller's settings stay as they were."""
    with lazy_matplotlib().rc_context(STYLE):
        yield


def new_figure(height: float) -> Figure:
    """An empty figure, a journal's column (3.5 inches) wide, on an Agg canvas."""
    figure = lazy_matplotlib().figure.Figure(figsize=(3.5, height), layout="constrained")
    return lazy_matplotlib().backends.backend_agg.FigureCanvasAgg(figure).figure


@styled()
def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `figure` as folder/name.pdf (vector) and folder/name.png (300 dpi); both paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    pdf, png = (Path(folder, f"{name}{ending}") for ending in ENDINGS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_GLYPH, UserWarning)
            # The first layout does not know the ticks yet; without a date, equal numbers give equal files.
            if figure.axes and (layout := figure.get_layout_engine()) is not None:
                layout.execute(figure)
                layout.execute(figure)
            figure.set_layout_engine("none")  # laid out: saving need not do it again, twice a file
            # In memory first: a disk that is full is then told in its own words, not in those of a PDF's
            # stream that cannot be closed.
            formats: dict[Path, dict[str, Any]] = {
                pdf: {"dpi": 400, "metadata": {"CreationDate": None}},
                png: {"dpi": 300},
            }
            for path, options in formats.items():
                made = io.BytesIO()
                figure.savefig(made, format=path.suffix[1:], facecolor="white", **options)
                path.write_bytes(made.getbuffer())
    except BaseException:
        for part in (pdf, png):  # half a figure, as a full disk leaves it
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise
    return pdf, png


def look_of(index: int) -> dict[str, Any]:
    """Colour of class `index`, and a dashed line from where the palette starts over."""
    style = ("-", "--", ":")[index // len(PALETTE) % 3]
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": style}


def legend_of(figure: Figure, handles: Sequence[Any], **look: Any) -> None:
    """A legend that is read row by row, of up to five columns as the names have room."""
    names = [handle.get_label() for handle in handles]
    columns = _columns(names)
    by_column = [handle for column in range(columns) for handle in handles[column::columns]]
    figure.legend(handles=by_column, ncols=columns, **look)


def _columns(names: Sequence[str]) -> int:
    def takes(count: int) -> float:
        return sum(LEGEND_MARK + max(map(letters, names[k::count]), default=0) for k in range(count))

    return next((count for count in (5, 4, 3, 2) if takes(count) <= LEGEND_ROOM), 1)


def legend_height(names: Sequence[str]) -> float:
    """Inches that a legend of classes takes beyond its first two rows."""
    return 0.14 * max(-(-len(names) // _columns(as_texts(names, IN_LEGEND))) - 2, 0)


def legend_of_classes(figure: Figure, class_names: Sequence[str]) -> None:
    """One line a class, above the panels."""
    line, names = lazy_matplotlib().lines.Line2D, as_texts(class_names, IN_LEGEND)
    handles = [line([], [], label=name, **look_of(k)) for k, name in enumerate(names)]
    legend_of(figure, handles, title="output neuron", loc="outside upper center")


def _over_replicas(rows: Sequence[Any]) -> Floats:
    """One row an epoch, a list over replicas or None, as (n_epoch, n_replica) with nan."""
    lists = [[] if row is None else list(row) for row in rows]
    values = np.full((len(lists), max((len(row) for row in lists), default=0)), np.nan)
    for epoch, row in enumerate(lists):
        values[epoch, : len(row)] = [math.nan if value is None else value for value in row]
    values[~np.isfinite(values)] = np.nan
    return values


def _draw_band(axes: Axes, epochs: Floats, values: Floats, floor: float = -math.inf, **line: Any) -> None:
    """Mean of (n_epoch, n_replica) `values` as a line, their range as a band, without nan.

    Args:
        floor: of a log axis, its bottom: a mean of 0 is a gap of the line, a band ends there.
    """
    known = np.isfinite(values).any(axis=1)
    x, y = epochs[known], values[known]
    if not len(x):
        return
    mean = _mean_of_known(y)
    shown = (mean > 0) | (floor < 0)
    axes.plot(x, np.where(shown, mean, np.nan), marker="o" if len(x) <= 20 else "", ms=2.5, **line)
    if y.shape[1] > 1:
        band = {"alpha": 0.2, "linewidth": 1.5 if len(x) == 1 else 0, "color": line["color"]}
        axes.fill_between(x, np.maximum(np.nanmin(y, axis=1), floor), np.nanmax(y, axis=1), shown, **band)
    beside = np.concatenate([[False], shown, [False]])
    alone = shown & ~beside[:-2] & ~beside[2:]
    if len(x) > 20 and alone.any():  # what stands between two gaps is no line
        axes.plot(x[alone], mean[alone], ".", ms=2, color=line["color"])


def _draw_errors(axes: Axes, epochs: Floats, errors: Mapping[str, tuple[Floats, str]]) -> None:
    """Errors in per cent of each split, with its colour, on a log axis; those of 0 as marks at its bottom."""
    mean = {split: _mean_of_known(values) for split, (values, _) in errors.items()}
    found = [*(values for values, _ in errors.values()), *mean.values()]
    mistakes = np.concatenate([values[values > 0] for values in found])
    # Less than a factor of five would leave the axis with hardly a number on it.
    low, high = (mistakes.min(), mistakes.max()) if mistakes.size else (10.0, 10.0)
    middle, spread = math.sqrt(low * high), max(1.2 * math.sqrt(high / low), 2.3)
    bottom, top = middle / spread, min(middle * spread, 105)
    none = {split: values == 0 for split, values in mean.items()}
    if any(each.any() for each in none.values()):  # whose marks stand below the curves
        bottom *= (bottom / top) ** 0.14
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    for number, (split, (values, colour)) in enumerate(errors.items()):
        _draw_band(axes, epochs, values, bottom, color=colour, label=split)
        if none[split].any():
            x, look = epochs[none[split]], {"ms": 2.5, "mew": 0, "transform": axes.get_xaxis_transform()}
            axes.plot(x, np.full(len(x), 0.03 + 0.06 * number), "v", color=colour, **look)
    if any(each.any() for each in none.values()):
        axes.plot([], [], "v", ms=2.5, mew=0, color=GREY, label="no error")
    ticker, subs = lazy_matplotlib().ticker, (1, 2, 5) if spread < 17 else (1,)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _mean_of_known(values: Floats) -> Floats:
    """(n_epoch,) mean over replicas, without nan; nan where there is nothing else."""
    known = np.isfinite(values)
    n = known.sum(axis=1)
    return np.where(n > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(n, 1), np.nan)


@styled()
def learning_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Error, loss, silent neurons and bumped steps of every epoch.

    Args:
        records: one an epoch, with "epoch"; "train_loss", "train_accuracy", "validation_loss",
            "validation_accuracy", "bump_fraction" (n_replica,); "silent_fraction" (n_layer,
            n_replica). Accuracies and fractions in 0..1; None and nan are not drawn, and epochs without an
            error are marks below the curve.
    """
    figure = new_figure(height=4.6)
    error, loss, share = figure.subplots(3, 1, sharex=True, height_ratios=(1.25, 1, 1))
    epochs = np.array([record.get("epoch", i) for i, record in enumerate(records)], dtype=float)

    def column(key: str) -> Floats:
        return _over_replicas([record.get(key) for record in records])

    errors = {}
    for split, colour in (("train", BLUE), ("validation", VERMILION)):
        wrong = 100 * (1 - column(f"{split}_accuracy"))
        wrong[wrong < LEAST_ERROR] = 0.0  # records of before accuracies were counted
        errors[split] = wrong, colour
        _draw_band(loss, epochs, column(f"{split}_loss"), color=colour, label=split)
    _draw_errors(error, epochs, errors)
    layers = [record.get("silent_fraction") or () for record in records]
    n_layer = max((len(rows) for rows in layers), default=0)
    for k in range(n_layer):
        silent = _over_replicas([rows[k] if k < len(rows) else None for rows in layers])
        label = "silent, output" if k == n_layer - 1 else f"silent, hidden {k + 1}"
        colour = PURPLE if k == n_layer - 1 else (GREEN, ORANGE, SKY, BLUE, VERMILION)[k % 5]
        _draw_band(share, epochs, 100 * silent, color=colour, label=label)
    bumped = 100 * column("bump_fraction")
    _draw_band(share, epochs, bumped, color=GREY, label="bumped steps", dashes=(1, 1))

    share.set(xlabel="epoch", xmargin=0.01, ylim=(0, max(share.get_ylim()[1], 1.0)))
    share.xaxis.set_major_locator(lazy_matplotlib().ticker.MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    for axes, name in ((error, "error (%)"), (loss, "loss"), (share, "share (%)")):
        axes.set_ylabel(name)
        if axes.lines:  # above the panel, where no curve runs
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.0)
    if (n_replica := column("train_accuracy").shape[1]) > 1:
        share.set_xlabel(f"epoch; mean and range of {n_replica} replicas")
    figure.align_ylabels()
    return figure


@styled()
def plane(
    grid_xy: ArrayLike,
    grid_class: ArrayLike,
    samples_xy: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    accuracy: float,
    class_names: Sequence[str],
    borders: Sequence[tuple[float, float, float, float, float]] = (),
    *,
    disc: bool = False,
) -> Figure:
    """The unit square as the network divides it, the true boundaries, and the test samples.

    Args:
        grid_xy: (n, n, 2) points of a regular grid, in either index order.
        grid_class: (n, n) class answered there, -1 undecided.
        samples_xy: (m, 2) test samples.
        labels: (m,) their true classes.
        predictions: (m,) the classes answered; what differs from the label gets a ring.
        accuracy: on the test samples, 0..1.
        borders: arcs (x, y, diameter, first and last angle in degrees) to draw.
        disc: show the answers within the circle of diameter 1 only.
    """
    mpl, class_names = lazy_matplotlib(), as_texts(class_names, IN_LEGEND)
    grid, answered = np.asarray(grid_xy, dtype=float), np.asarray(grid_class, dtype=int)
    samples, truth = np.asarray(samples_xy, dtype=float).reshape(-1, 2), np.asarray(labels)
    wrong = truth != np.asarray(predictions)
    figure, ticks, limits = new_figure(height=3.75), (0, 0.5, 1), (-0.02, 1.02)
    axes = figure.subplots(subplot_kw={"aspect": "equal", "xlabel": "x", "ylabel": "y"})
    axes.set(xlim=limits, ylim=limits, xticks=ticks, yticks=ticks)
    colours = [PALETTE[k % len(PALETTE)] for k in range(len(class_names))]
    full = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    # The last row is what class -1 picks: undecided.
    regions = np.vstack([0.68 + 0.32 * full, np.full((1, 3), 0.88)])[answered]
    mesh = axes.pcolormesh(grid[..., 0], grid[..., 1], regions, shading="nearest", rasterized=True)
    if disc:
        mesh.set_clip_path(mpl.patches.Circle((0.5, 0.5), 0.5, transform=axes.transData))
    for x, y, width, start, end in borders:
        arc = mpl.patches.Arc((x, y), width, width, theta1=start, theta2=end, edgecolor="0.15")
        axes.add_patch(arc).set(linewidth=0.6, zorder=3)
    size = float(np.clip(5000 / max(len(samples), 1), 3, 10))
    for k, name in enumerate(class_names):
        axes.scatter(*samples[truth == k].T, s=size, c=colours[k], lw=0, zorder=4, label=name)
    ring = {"facecolors": "none", "edgecolors": "k", "linewidths": 0.7, "zorder": 5}
    axes.scatter(*samples[wrong].T, s=6 * size, label="misclassified", **ring)
    if -1 in answered:
        axes.scatter([], [], s=25, marker="s", color="0.88", label="undecided")
    place = {"loc": "outside lower center", "handletextpad": 0.2, "columnspacing": 0.8}
    legend_of(figure, axes.get_legend_handles_labels()[0], **place)
    axes.set_title(f"accuracy {100 * accuracy:.1f} %, {wrong.sum()} of {len(truth)} misclassified")
    return figure


@styled()
def membrane_traces(
    times: ArrayLike,
    membranes: Sequence[ArrayLike],
    spikes: Sequence[ArrayLike],
    t_in: ArrayLike,
    threshold: float,
    class_names: Sequence[str],
    label: int,
    unit: str = "tau_syn",
) -> Figure:
    """One sample on its way through the network: input spikes, hidden layers, output layer.

    A trace ends with its spike. At most 30 traces of a hidden layer are drawn, grey where silent;
    the marks above them are the spikes of the whole layer.

    Args:
        times: (n_t,) in `unit`.
        membranes: a layer each (n_t, n_neuron), in the threshold's unit; nan is not drawn.
        spikes: a layer each (n_neuron,) in `unit`; inf is a silent neuron.
        t_in: (n_pre,) input spikes in `unit`; inf is no spike.
        threshold: potential at which a neuron spikes.
        label: true class of the sample.
    """
    clock, inputs = np.asarray(times, dtype=float), np.asarray(t_in, dtype=float)
    n_layer, ends = len(membranes), [*inputs[np.isfinite(inputs)]]
    height, pad = 1.25 * (n_layer + 1) + legend_height(class_names), 0.03 * (clock[-1] - clock[0])
    figure = new_figure(height)
    raster, *panels = figure.subplots(n_layer + 1, sharex=True, height_ratios=[0.4] + [1] * n_layer)
    mark = float(np.clip(60 / max(len(inputs), 1), 1.5, 8))
    raster.plot(inputs, np.arange(len(inputs)), "|", color="0.2", ms=mark, mew=0.7)
    raster.set(ylabel="input", yticks=[], ylim=(-0.7, max(len(inputs), 1) - 0.3))
    for layer, axes in enumerate(panels):
        fired = np.asarray(spikes[layer], dtype=float)
        # What the equation gives after the one spike is not part of the model.
        trace = np.where(clock[:, None] > fired, np.nan, np.asarray(membranes[layer], dtype=float))
        axes.axhline(threshold, color="0.2", linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
        is_output = layer == n_layer - 1
        n_shown = len(fired) if is_output else min(len(fired), MAX_HIDDEN_TRACES)
        shown = np.linspace(0, len(fired) - 1, n_shown).round().astype(int)
        for k in shown:
            look = {"color": BLUE if np.isfinite(fired[k]) else "0.6", "lw": 0.5, "alpha": 0.7}
            if is_output:
                look = look_of(k) | {"lw": 1.5 if k == label else 0.9, "zorder": 3 + (k == label)}
                axes.plot(fired[k], threshold, "v", ms=4.5, **look)
            axes.plot(clock, trace[:, k], **look)
        spoken, span = fired[np.isfinite(fired)], axes.get_xaxis_transform()
        if not is_output:
            axes.vlines(spoken, 0.91, 1.0, transform=span, color=BLUE, linewidth=0.6)
        hidden = f"hidden {layer + 1}\n({n_shown} of {len(fired)})"
        axes.set_ylabel("output" if is_output else hidden)
        drawn = np.isfinite(trace[:, shown])
        ends, known = [*ends, *clock[drawn.any(axis=1)], *spoken], trace[:, shown][drawn]
        start = known[0] if known.size else threshold - 1.0
        rise = threshold - start or 1.0
        # Deep inhibition may leave the panel, or the rise to the threshold would be flat.
        lowest = max(known.min(initial=start), start - 2 * rise) - 0.1 * rise
        axes.set_ylim(lowest, threshold + 0.35 * rise)
        axes.set_yticks([start, threshold], [f"{start:.3g}", f"{threshold:.3g}"])
    panels[-1].set_xlim(clock[0], min(clock[-1], max(ends, default=clock[-1]) + pad))
    panels[-1].set_xlabel(f"time ({TIME_UNITS.get(unit, unit)})")
    answer = np.asarray(spikes[-1], dtype=float)
    names = as_texts(class_names, IN_LEGEND)
    first = names[int(answer.argmin())] if np.isfinite(answer).any() else "none"
    told = f"sample of class {names[label]}, first spike: {first}"
    raster.set_title(
        told if letters(told) <= 44 else told.replace(", first spike", ",\nfirst spike"), loc="left"
    )
    legend_of_classes(figure, class_names)
    figure.align_ylabels()
    return figure
