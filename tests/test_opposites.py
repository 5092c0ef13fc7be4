"""Inputs that tell the opposite of each value: small values, and dark pixels, spike early there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.cli.train import train
from gpuspike.config.schema import jobs
from gpuspike.datasets.encoding import pixel_latency
from gpuspike.errors import ConfigError
from gpuspike.report.figures import images as image_plots
from gpuspike.runs.experiment import build
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites

OWN = ["experiment=own", "training.batch_size=6", "training.epochs=2", "model.hidden=[7]", "backend=cpu"]
SIDE = 6
CHANGES = ["training.max_shift=1", "training.elastic=0.5", "training.mirror=true"]


def file(folder: Path, kind: str, shape: tuple[int, ...] = (5,)) -> Path:
    """A data set of one's own."""
    rng, found = np.random.default_rng(1), {}
    for split, n in {"train": 12, "validation": 6, "test": 6}.items():
        samples = rng.random((n, *shape))
        found[f"{split}_{kind}"] = (255 * samples).astype(np.uint8) if kind == "pixels" else samples
        found[f"{split}_labels"] = np.arange(n) % 3
    np.savez(folder / "mine.npz", **found)
    return folder / "mine.npz"


def parts(path: Path, *more: str) -> Any:
    (job,) = jobs([*OWN, f"dataset.path={path}", "dataset.opposites=true", *more], multirun=False)
    return build(job.config)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("silent", [False, True])
def test_each_pixel_comes_with_its_negative(tmp_path: Path, repeats: int, silent: bool) -> None:
    path = file(tmp_path, "pixels")
    more = [f"model.input_repeats={repeats}", f"dataset.silent_black={silent}", "model.tau_syn=2"]
    there = parts(path, *more)
    assert there.network.layers[0].n_in == 10 * repeats
    pixels = there.dataset.test.features
    table = 2.0 * pixel_latency(256.0, 0.15, 2.0, silent_black=silent)
    got = there.encode(pixels)[0].reshape(6, 5, 2, repeats)
    for repeat in range(repeats):
        np.testing.assert_allclose(got[:, :, 0, repeat], table[pixels], rtol=1e-15)
        np.testing.assert_allclose(got[:, :, 1, repeat], table[255 - pixels], rtol=1e-15)


def test_each_value_comes_with_what_it_lacks_to_one(tmp_path: Path) -> None:
    there = parts(file(tmp_path, "values"))
    values = there.dataset.test.features
    got = there.encode(values)[0].reshape(6, 5, 2)
    np.testing.assert_allclose(got[:, :, 0], 0.15 + 1.85 * values, rtol=1e-15)
    np.testing.assert_allclose(got[:, :, 1], 2.0 - 1.85 * values, rtol=1e-14)
    assert there.encode(values[:0]).shape == (1, 0, 10)
    data = gs.dataset("npz", path=str(tmp_path / "mine.npz"), opposites=True)
    np.testing.assert_array_equal(data.test.t_in, there.encode(values)[0].astype(np.float64))


def test_spike_times_have_no_opposites(tmp_path: Path) -> None:
    path = file(tmp_path, "times")
    words = "opposites=true needs values in .0, 1. or pixels, and the data set mine has spike times"
    with pytest.raises(ConfigError, match=f"dataset.{words}"):
        parts(path)
    with pytest.raises(ConfigError, match=words):
        gs.dataset("npz", path=str(path), opposites=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("silent", [False, True])
def test_negatives_follow_images_that_change(dtype: str, silent: bool) -> None:
    table = pixel_latency(256.0, 0.15, 1.0, silent_black=silent)
    levels = np.random.default_rng(0).integers(0, 256, (2, 5, SIDE**2))
    levels[0] = np.where(levels[0] < 90, 0, levels[0])
    times = table.astype(dtype)
    for change in (RandomShift(SIDE, 2, table[0]), RandomWarp(SIDE, table, 1, 9.0, 0.1, 0.1, 0.5, True)):
        pixels, bias = times[levels], np.full((2, 5, 1), 0.3, dtype)
        both = np.concatenate([np.stack([pixels, times[255 - levels]], -1).reshape(2, 5, -1), bias], axis=2)
        change(pixels, [3, 4], 1, 2)
        WithOpposites(change, table)(both, [3, 4], 1, 2)
        np.testing.assert_array_equal(both[:, :, :-1:2], pixels)
        changed = 255 - np.searchsorted(times[::-1], pixels)
        np.testing.assert_array_equal(times[changed], pixels)
        np.testing.assert_array_equal(both[:, :, 1:-1:2], times[255 - changed])
        np.testing.assert_array_equal(both[:, :, -1:], bias)


def test_which_step_changes_them_is_told(tmp_path: Path) -> None:
    path = file(tmp_path, "pixels", (SIDE, SIDE))
    assert parts(path).step_kind().name == "compiled"
    kind = parts(path, *CHANGES).step_kind()
    assert kind.name == "piecewise"
    assert kind.reason == "images that change together with their negatives are not in the compiled step"


def test_a_run_with_opposites_is_loaded_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*given: str) -> None:
        monkeypatch.setattr("sys.argv", ["gpuspike-train", *given])
        train()

    monkeypatch.chdir(tmp_path)
    path = file(tmp_path, "pixels", (SIDE, SIDE))
    layers = "model.layers=[{conv:2,kernel:3},{pool:2},{dense:3}]"
    given = [*OWN, f"dataset.path={path}", "dataset.opposites=true", "model.hidden=[]", *CHANGES, layers]
    asked(*given, "hydra.run.dir=whole")
    first = ["training.epochs=1" if text == "training.epochs=2" else text for text in given]
    asked(*first, "hydra.run.dir=halves")
    asked("resume=halves", "training.epochs=2")
    data = gs.dataset("whole")
    assert data.test.t_in.shape == (6, 2 * SIDE**2)
    answers = [gs.load(folder)(data.test.t_in) for folder in ("whole", "halves")]
    assert answers[0].shape == (6, 3)
    np.testing.assert_array_equal(*answers)
    assert (tmp_path / "whole" / "figures" / "filters.png").exists()


def test_filters_of_opposites_are_drawn_as_their_difference() -> None:
    weights = np.zeros((3, 3, 4, 2))
    weights[:, :, :2], weights[:, :, 2:] = 1.0, 0.25
    figure = image_plots.filters(weights, opposites=True)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.full((3, 3), 0.75))
    assert figure.axes[-1].get_xlabel() == "weight of the pixel - weight of its negative"


def test_opposites_that_the_data_have_already_are_told(tmp_path: Path) -> None:
    sizes = {"n_train": 20, "n_validation": 5, "n_test": 5}
    with pytest.warns(UserWarning, match="opposites may give inputs twice: the data set yin_yang has 1 - v"):
        gs.dataset("yin_yang", **sizes, opposites=True)
    for kind in ("values", "pixels"):
        found = parts(file(tmp_path, kind)).dataset
        assert found.unread(["dataset.opposites"]) == []
