"""The figures: what they show, where they must not break, and what they must leave alone."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from gpuspike.datasets import YIN_YANG_CLASSES
from gpuspike.datasets.yin_yang import BORDERS
from gpuspike.neuron import LIF
from gpuspike.report.figures import histograms
from gpuspike.report.figures import images as image_plots
from gpuspike.report.figures import names as font_names
from gpuspike.report.figures import run as plots
from gpuspike.report.figures import samples as raster_plots
from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.silence import silence


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def records(n_epoch: int, n_replica: int, **changes: Any) -> list[dict[str, Any]]:
    """One record an epoch, learning slowly; `changes` replace single values of every record."""
    rng = np.random.default_rng(0)

    def replicas(value: float) -> list[float]:
        return list(value * rng.uniform(0.9, 1.1, n_replica))

    return [
        {
            "epoch": epoch,
            "train_loss": replicas(1 / epoch),
            "train_accuracy": replicas(0.9 - 0.5 / epoch),
            "validation_loss": replicas(1.1 / epoch),
            "validation_accuracy": replicas(0.9 - 0.6 / epoch),
            "silent_fraction": [replicas(0.5), replicas(0.1)],
            "bump_fraction": replicas(0.3),
            "learning_rate": 0.005,
        }
        | changes
        for epoch in range(1, n_epoch + 1)
    ]


def true_class(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Classes of the Yin-Yang data set: 0 yin, 1 yang, 2 dot."""
    right, left = np.hypot(x - 0.75, y - 0.5), np.hypot(x - 0.25, y - 0.5)
    first = (right <= 0.1) | ((left > 0.1) & (left <= 0.25)) | ((y > 0.5) & (right > 0.25))
    return np.where((right < 0.1) | (left < 0.1), 2, first.astype(np.int64))


def plane(n: int = 60, indexing: str = "xy") -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing=indexing)
    return np.stack([x, y], axis=-1), true_class(x, y)


def yin_yang_plane(*arguments: Any) -> Any:
    return plots.plane(*arguments, YIN_YANG_CLASSES, BORDERS, disc=True)


def pixels(figure: Any) -> NDArray[np.float64]:
    """The figure as drawn, (height, width, RGB) in 0..1."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba(), dtype=float)[..., :3] / 255


def test_save_writes_pdf_and_png(tmp_path: Path) -> None:
    written = plots.save(plots.learning_curves(records(3, 2)), tmp_path / "new", "curves")
    assert written == (tmp_path / "new" / "curves.pdf", tmp_path / "new" / "curves.png")
    assert written[0].read_bytes().startswith(b"%PDF")
    png = written[1].read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 3.5 * 300


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    first = plots.save(plots.learning_curves(records(3, 2)), tmp_path, "first")
    second = plots.save(plots.learning_curves(records(3, 2)), tmp_path, "second")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_matplotlib_is_lazy_and_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from gpuspike.report.figures import histograms
from gpuspike.report.figures import images as image_plots
from gpuspike.datasets import YIN_YANG_CLASSES
from gpuspike.datasets.yin_yang import BORDERS
from gpuspike.report.figures import run as plots
from gpuspike.report.figures import samples as raster_plots
assert "matplotlib" not in sys.modules
import matplotlib
before = {{key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}}
plots.save(plots.learning_curves([{{"epoch": 0}}]), Path({str(tmp_path)!r}), "curves")
assert "matplotlib.pyplot" not in sys.modules
assert before == {{key: matplotlib.rcParams[key] for key in before}}
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(("n_epoch", "n_replica"), [(1, 1), (1, 10), (30, 1), (300, 10)])
def test_learning_curves_draw_a_band_over_replicas(n_epoch: int, n_replica: int) -> None:
    figure = plots.learning_curves(records(n_epoch, n_replica))
    pixels(figure)
    error, _, share = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 3]
    bands = [len(axes.collections) for axes in figure.axes]
    assert bands == ([2, 2, 3] if n_replica > 1 else [0, 0, 0])
    assert error.get_yscale() == "log"
    assert error.get_ylim()[1] <= 105
    assert share.get_ylim()[0] == 0
    assert all(tick == int(tick) for tick in share.get_xticks())
    labels = [text.get_text() for text in share.get_legend().get_texts()]
    assert labels == ["silent, hidden 1", "silent, output", "bumped steps"]


def test_learning_curves_show_mean_and_range() -> None:
    figure = plots.learning_curves(records(2, 3, train_accuracy=[0.8, 0.9, 0.95]))
    error = figure.axes[0]
    np.testing.assert_allclose(error.lines[0].get_ydata(), 100 * (0.2 + 0.1 + 0.05) / 3)
    band = error.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [5, 20])


def test_learning_curves_leave_out_what_is_unknown() -> None:
    rows = records(6, 2)
    rows[1]["train_loss"] = None
    rows[2]["train_loss"] = [None, math.nan]
    rows[3]["train_loss"] = [math.inf, 0.5]
    for row in rows:
        del row["validation_loss"]
        row["silent_fraction"] = None
    figure = plots.learning_curves(rows)
    pixels(figure)
    (line,) = figure.axes[1].lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 4, 5, 6])
    assert line.get_ydata()[1] == 0.5
    assert len(figure.axes[2].lines) == 1


@pytest.mark.parametrize("n_replica", [1, 3])
@pytest.mark.parametrize("n_epoch", [6, 33])
def test_learning_curves_mark_epochs_without_an_error(n_epoch: int, n_replica: int) -> None:
    rows = records(n_epoch, n_replica, train_accuracy=[0.99] * n_replica)
    # As sums over batches have been written: neither is an error.
    for number, sum_ in ((2, 1.0000000000000002), (4, 0.9999999999999996), (5, 1.0)):
        rows[number]["train_accuracy"] = [sum_] * n_replica
    figure = plots.learning_curves(rows)
    pixels(figure)
    error = figure.axes[0]
    assert error.get_ylim()[0] > 0.1
    line = np.asarray(error.lines[0].get_ydata())
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(line)), [2, 4, 5])
    (marks,) = [line for line in error.lines if line.get_marker() == "v" and len(line.get_xdata())]
    np.testing.assert_array_equal(marks.get_xdata(), [3, 5, 6])
    assert marks.get_transform() == error.get_xaxis_transform()
    lone = [line.get_xdata() for line in error.lines if line.get_marker() == "."]
    assert [list(x) for x in lone] == ([[4]] if n_epoch > 20 else [])  # between two gaps
    assert error.get_legend().get_texts()[-1].get_text() == "no error"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        records(4, 1, train_accuracy=[1.0], validation_accuracy=[1.0]),
        records(4, 2, train_loss=[math.nan] * 2, validation_loss=None),
        records(4, 1, silent_fraction=[[1.0], [1.0]], bump_fraction=[1.0], train_accuracy=[0.0]),
    ],
)
def test_learning_curves_of_odd_runs(rows: list[dict[str, Any]]) -> None:
    assert np.ptp(pixels(plots.learning_curves(rows))) > 0.5


@pytest.mark.parametrize("indexing", ["xy", "ij"])
def test_the_plane_shows_its_regions_inside_the_circle_only(indexing: str) -> None:
    grid, answered = plane(indexing=indexing)
    answered = np.where((grid[..., 0] > 0.8) & (np.abs(grid[..., 1] - 0.5) < 0.1), -1, answered)
    none = np.zeros(0, dtype=int)
    figure = yin_yang_plane(grid, answered, np.zeros((0, 2)), none, none, math.nan)
    image, axes = pixels(figure), figure.axes[0]

    def colour(x: float, y: float) -> NDArray[np.float64]:
        column, row = axes.transData.transform((x, y))
        return image[image.shape[0] - 1 - int(row), int(column)]

    blue, orange, green = (
        0.68 + 0.32 * np.array(to_rgba(plots.PALETTE[k])[:3]) for k in range(3)
    )  # fmt: skip
    np.testing.assert_allclose(colour(0.5, 0.9), orange, atol=0.01)
    np.testing.assert_allclose(colour(0.5, 0.1), blue, atol=0.01)
    np.testing.assert_allclose(colour(0.25, 0.5), green, atol=0.01)
    np.testing.assert_allclose(colour(0.95, 0.5), 0.88, atol=0.01)
    for corner in ((0.05, 0.05), (0.95, 0.05), (0.05, 0.95), (0.95, 0.95)):
        np.testing.assert_array_equal(colour(*corner), 1.0)


def test_the_drawn_boundaries_are_where_the_class_changes() -> None:
    grid, answered = plane(10)
    figure = yin_yang_plane(grid, answered, np.zeros((0, 2)), [], [], 1.0)
    big, *inner = figure.axes[0].patches
    assert (big.center, big.width) == ((0.5, 0.5), 1.0)
    assert len(inner) == 4
    for arc in inner:
        degrees = np.linspace(arc.theta1, arc.theta2, 50)[1:-1]
        towards = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        centre, radius = np.array(arc.center)[:, None], arc.width / 2
        inside = true_class(*(centre + (radius - 1e-6) * towards))
        outside = true_class(*(centre + (radius + 1e-6) * towards))
        assert (inside != outside).all()


def test_the_plane_rings_the_misclassified() -> None:
    grid, answered = plane(20)
    rng = np.random.default_rng(1)
    samples = 0.5 + 0.3 * rng.uniform(-1, 1, (200, 2))
    labels = true_class(*samples.T)
    predictions = labels.copy()
    predictions[:7] = -1
    figure = yin_yang_plane(grid, answered, samples, labels, predictions, 0.965)
    pixels(figure)
    axes = figure.axes[0]
    assert axes.get_title() == "accuracy 96.5 %, 7 of 200 misclassified"
    drawn = {entry.get_label(): entry.get_offsets() for entry in axes.collections[1:]}
    np.testing.assert_allclose(drawn["misclassified"], samples[:7])
    for k, name in enumerate(YIN_YANG_CLASSES):
        np.testing.assert_allclose(drawn[name], samples[labels == k])
    assert "undecided" not in drawn


@pytest.mark.parametrize("n_class", [1, 3, 5, 10])
def test_spike_time_histograms_count_every_spike_and_every_silence(n_class: int) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, n_class, 400)
    times = rng.gamma(3.0, 1.0, (400, n_class))
    times[rng.random(times.shape) < 0.2] = np.inf
    names = [f"class {k}" for k in range(n_class)]
    figure = histograms.spike_time_histograms(times, labels, names)
    pixels(figure)
    assert len(figure.axes) == n_class
    for label, axes in enumerate(figure.axes):
        own = times[labels == label]
        outlines = [patch for patch in axes.patches if not patch.get_fill()]
        (filled,) = [patch for patch in axes.patches if patch.get_fill()]
        others = np.delete(own, label, axis=1)
        drawn = others if n_class <= histograms.MOST_PANELS else others.min(axis=1)
        expected = np.isfinite(own[:, label]).sum() + np.isfinite(drawn).sum()
        assert sum(patch.get_data().values.sum() for patch in outlines) == expected
        assert filled.get_data().values.sum() == np.isfinite(own[:, label]).sum()
        assert filled.get_facecolor()[:3] == to_rgba(plots.PALETTE[label % 7])[:3]
        silent = np.isinf(own).sum(axis=0)
        note = axes.texts[0].get_text().replace("\n", ", ")
        others = f"others {silent.sum() - silent[label]} of {len(own) * (n_class - 1)}"
        assert note == f"silent: own {silent[label]} of {len(own)}, {others}"


@pytest.mark.parametrize(
    "times", [np.full((5, 3), np.inf), np.full((5, 3), 2.0), np.zeros((0, 3))]
)  # fmt: skip
def test_spike_time_histograms_of_odd_samples(times: NDArray[np.float64]) -> None:
    labels = np.zeros(len(times), dtype=int)
    figure = histograms.spike_time_histograms(times, labels, YIN_YANG_CLASSES, unit="us")
    pixels(figure)
    assert "(us)" in figure.get_supxlabel()
    low, high = figure.axes[0].get_xlim()
    assert low < high


def network(n_pre: int, n_hidden: int, scale: float) -> dict[str, Any]:
    """One sample through two layers, potentials on a grid, their first crossings as spikes."""
    rng = np.random.default_rng(3)
    neuron, times = LIF(), np.linspace(0.0, 6.0, 200)
    spikes = [rng.uniform(0.0, 2.0, n_pre)]
    membranes = []
    for n_post in (n_hidden, 3):
        heard = np.where(np.isfinite(spikes[-1]), spikes[-1], 1e9)
        weights = scale * rng.normal(1.0, 1.0, (len(heard), n_post)) / len(heard)
        potential = neuron.kernel(times[:, None] - heard) @ weights
        above = potential >= neuron.threshold
        spikes.append(np.where(above.any(axis=0), times[above.argmax(axis=0)], np.inf))
        membranes.append(potential)
    return {
        "times": times,
        "membranes": membranes,
        "spikes": spikes[1:],
        "t_in": spikes[0],
        "threshold": neuron.threshold,
        "class_names": YIN_YANG_CLASSES,
        "label": 1,
    }


@pytest.mark.parametrize("n_hidden", [8, 120])
def test_membrane_traces_end_at_the_spike(n_hidden: int) -> None:
    sample = network(5, n_hidden, 6.0)
    figure = plots.membrane_traces(**sample)
    pixels(figure)
    raster, hidden, output = figure.axes
    assert len(raster.lines[0].get_xdata()) == 5
    assert len(hidden.lines) == 1 + min(n_hidden, plots.MAX_HIDDEN_TRACES)
    assert len(hidden.collections[0].get_segments()) == np.isfinite(sample["spikes"][0]).sum()
    markers = [line for line in output.lines if line.get_marker() == "v"]
    traces = [line for line in output.lines[1:] if line.get_marker() != "v"]
    assert len(markers) == len(traces) == 3
    assert np.isfinite(sample["spikes"][1]).any()
    for k, (marker, trace) in enumerate(zip(markers, traces, strict=True)):
        spike = sample["spikes"][1][k]
        assert marker.get_xdata()[0] == spike
        assert trace.get_color() == marker.get_color() == plots.PALETTE[k]
        known = np.isfinite(trace.get_ydata())
        assert trace.get_xdata()[known].max() <= spike
    first = YIN_YANG_CLASSES[int(sample["spikes"][1].argmin())]
    assert raster.get_title(loc="left") == f"sample of class yang, first spike: {first}"


def test_membrane_traces_of_a_silent_network() -> None:
    sample = network(5, 4, 0.0)
    sample["membranes"] = [np.full_like(entry, np.nan) for entry in sample["membranes"]]
    sample["t_in"][:] = np.inf
    figure = plots.membrane_traces(**sample)
    pixels(figure)
    assert figure.axes[0].get_title(loc="left").endswith("first spike: none")


def test_membrane_traces_of_one_layer_and_deep_inhibition() -> None:
    sample = network(5, 4, -50.0)
    sample |= {"membranes": sample["membranes"][:1], "spikes": sample["spikes"][:1]}
    sample |= {"class_names": ["a", "b", "c", "d"]}
    figure = plots.membrane_traces(**sample)
    pixels(figure)
    assert len(figure.axes) == 2
    assert figure.axes[1].get_ylim()[0] >= -2.2


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_confusion_matrix_counts_every_sample() -> None:
    labels, answers = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 0])
    (axes,) = image_plots.confusion_matrix(labels, answers, "abc").axes
    assert texts(axes) == ["1", "1", "1", "2", "1"]
    assert axes.get_title() == "accuracy 50.00 %, 3 of 6 misclassified"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("n_class", [1, 3, 10])
def test_the_confusion_matrix_has_a_column_for_no_answer(n_class: int) -> None:
    names = [f"a long name {k}" for k in range(n_class)]
    figure = image_plots.confusion_matrix(np.arange(n_class), np.full(n_class, -1), names)
    (axes,) = figure.axes
    assert texts(axes) == ["1"] * n_class
    assert axes.get_xticklabels()[-1].get_text() == "none"
    assert axes.get_title().startswith("accuracy 0.00 %")
    pixels(figure)


def test_the_sheet_shows_the_misclassified_and_what_decided() -> None:
    images = np.zeros((4, 5, 5), np.uint8)
    images[2] = 255
    times = np.array([[0.1, 0.2, 0.3], [np.inf] * 3, [0.5, 0.25, np.inf], [np.inf, np.inf, 1.0]])
    figure = image_plots.misclassified(images, [0, 1, 0, 1], [0, -1, 1, 2], times, "abc")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["b", "a", "b"]
    assert [texts(axes) for axes in shown] == [["no spike"], ["b: 0.250\na: 0.500"], ["c: 1.000"]]
    assert shown[1].images[0].get_array().min() == 255
    assert figure.get_suptitle().startswith("3 of 3 misclassified")


@pytest.mark.parametrize("n_wrong", [0, 1, 36, 100])
def test_the_sheet_of_any_number_of_mistakes(n_wrong: int) -> None:
    n = n_wrong + 1
    answers = np.r_[np.ones(n_wrong, np.int64), 0]
    figure = image_plots.misclassified(
        np.zeros((n, 16, 16)), np.zeros(n, int), answers, np.ones((n, 2)), "ab"
    )
    assert sum(bool(axes.images) for axes in figure.axes) == min(n_wrong, 36)
    pixels(figure)


@pytest.mark.parametrize(("n_sample", "n_class", "shape"), [(6, 3, (2, 3)), (10, 10, (2, 5)), (1, 2, (1, 1))])
def test_the_raster_has_a_panel_a_sample_and_a_mark_a_spike(
    n_sample: int, n_class: int, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    samples = [[rng.uniform(0, 2, n) for n in (7, 40, 30, n_class)] for _ in range(n_sample)]
    samples[0][1][:5] = np.inf
    samples[0][3][0] = np.inf
    names = [f"class {k}" for k in range(n_class)]
    figure = raster_plots.spike_raster(samples, [k % n_class for k in range(n_sample)], names)
    figure.canvas.draw()
    assert len(figure.axes) == n_sample
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    marks = [len(np.flatnonzero(np.isfinite(line.get_xdata()))) for line in figure.axes[0].lines]
    assert marks[:2] == [7, 35]
    (outputs,) = figure.axes[0].collections
    assert len(outputs.get_offsets()) == n_class - 1
    first = int(np.argmin(samples[0][3]))
    line = ",\n" if n_sample > 1 else ", "  # panels side by side have no room for both on one
    expected = names[0] if first == 0 else f"{names[0]}{line}not {names[first]}"
    assert figure.axes[0].get_title() == expected
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "input\n(7)", "hidden 1\n(40)", "hidden 2\n(30)", f"output\n({n_class})",
    ]  # fmt: skip


def test_the_raster_of_a_silent_sample() -> None:
    silent = [np.full(n, np.inf) for n in (4, 8, 3)]
    figure = raster_plots.spike_raster([silent], [2], YIN_YANG_CLASSES)
    figure.canvas.draw()
    assert figure.axes[0].get_title() == "dot, none"


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
FASHION += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
LONG_NAMES = {
    "fashion": FASHION,
    "fifteen": tuple(f"letters_fiftee{k}" for k in range(10)),
    "twenty-nine": ("a class of twenty-nine letters", *(f"digit {k}" for k in range(1, 10))),
    "three": ("a class of twenty-nine letters", "yang", "dot"),
    "wide": (*(f"{k}WWWWWWWWW" for k in range(5)), *(f"{k}" + "\u5f35\u6587\u5b57" * 4 for k in range(5))),
    "three, wide": tuple(f"{k}{'W' * 30}" for k in range(3)),
}


def of_names(names: tuple[str, ...]) -> dict[str, Any]:
    """Each figure that names classes."""
    rng, n = np.random.default_rng(0), len(names)
    labels = np.arange(20 * n) % n
    t_out = rng.gamma(3.0, 0.5, (len(labels), n)) + 0.3
    answers, clock = t_out.argmin(axis=1), np.linspace(0, 3, 9)
    images, shares = np.zeros((len(labels), 8, 6)), [rng.random((n, 120))]
    spikes = [[rng.random(48), t_out[k]] for k in range(min(2 * n, 10))]
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 5)]), -1)
    plane_of = grid, np.zeros((5, 5)), t_out[:, :2], labels, answers, 0.5
    trace = [np.zeros((9, n))], t_out[:1], t_out[0], 1.0
    return {
        "sheet": image_plots.misclassified(images, labels, answers, t_out, names),
        "confusion": image_plots.confusion_matrix(labels, answers, names),
        "silence": silence(shares, names, [{k: k for k in range(1, 13)}]),
        "raster": raster_plots.spike_raster(spikes, list(labels[: len(spikes)]), names),
        "histograms": histograms.spike_time_histograms(t_out, labels, names),
        "membranes": plots.membrane_traces(clock, *trace, names, 0),
        "plane": plots.plane(*plane_of, names),
    }


@pytest.mark.parametrize(
    "case", [*list(LONG_NAMES)[:-1], pytest.param("three, wide", marks=pytest.mark.slow)]
)
def test_names_of_classes_stay_within_the_figure_and_apart(case: str, tmp_path: Path) -> None:
    warnings.filterwarnings("ignore", plots.NO_GLYPH, UserWarning)
    for name, figure in of_names(LONG_NAMES[case]).items():
        plots.save(figure, tmp_path, name)
        figure.canvas.draw()
        paper, drawn = figure.bbox, figure.canvas.get_renderer()
        titles = [each for axes in figure.axes for each in (axes.title, axes._left_title) if each.get_text()]
        notes = [text for axes in figure.axes for text in axes.texts] if name == "sheet" else []
        boxes = [text.get_window_extent(drawn) for text in (*titles, *notes)]
        assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k]), name
        boxes += [legend.get_window_extent(drawn) for legend in figure.legends]
        if name in ("confusion", "silence"):
            axes = figure.axes[0]
            ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
            boxes += [each.get_window_extent(drawn) for each in ticks]
        for box in boxes:
            assert min(box.x0, box.y0, paper.x1 - box.x1, paper.y1 - box.y1) > -2, (name, box)
        for axes in figure.axes:
            assert not axes.images or min(axes.bbox.width, axes.bbox.height) > 0.3 * figure.dpi, name


def test_letters_that_no_font_has_are_told_and_others_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = lazy_matplotlib().font_manager
    entry = next(f for f in manager.fontManager.ttflist if f.name == "DejaVu Sans" and f.weight == 400)
    private = "\U0010fff0"
    monkeypatch.setattr(manager.fontManager, "ttflist", [entry])
    assert font_names.boxes(["yin", "µ, ± and a space"]) == ""
    told = font_names.boxes(["yin", private])
    assert f"no installed font has {private} of the names of classes" in told
    assert "\n" not in told

    class Font:
        def __init__(self, path: str) -> None:
            self.path = path

        def get_charmap(self) -> dict[int, int]:
            return {ord(private): 1} if self.path == "other" else dict.fromkeys(map(ord, "yin"), 1)

    other = type("Entry", (), {"name": "Other Sans", "fname": "other"})()
    monkeypatch.setattr(manager.fontManager, "ttflist", [other])
    monkeypatch.setattr(manager, "get_font", Font)
    families, lacking = font_names.fonts(["yin", private])
    assert families[-1] == "Other Sans"
    assert lacking == ""
