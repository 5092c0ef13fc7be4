"""A data set of one's own: what the file holds is what the network sees; anything else is refused by name."""

from __future__ import annotations

import copy
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import gpuspike as gs
from gpuspike.cli.train import train
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.schema import conf_folder, jobs, read_config
from gpuspike.datasets import load_arrays
from gpuspike.datasets.splits import unlikely
from gpuspike.errors import ConfigError, DataError
from gpuspike.runs.evaluate import evaluate
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.progress import say_what_runs
from gpuspike.store.identity import fingerprint

SIZES = {"train": 6, "validation": 3, "test": 4}


def arrays(kind: str = "values", shape: tuple[int, ...] = (5,)) -> dict[str, Any]:
    """What a file holds."""
    rng = np.random.default_rng(1)
    found: dict[str, Any] = {}
    for split, n in SIZES.items():
        samples = rng.random((n, *shape))
        found[f"{split}_{kind}"] = (255 * samples).astype(np.uint8) if kind == "pixels" else samples
        found[f"{split}_labels"] = np.arange(n) % 3
    return found


def write(folder: Path, found: dict[str, Any]) -> Path:
    """The file."""
    path = folder / "mine.npz"
    np.savez(path, **found)
    return path


@pytest.mark.parametrize(
    ("kind", "shape"), [("values", (5,)), ("times", (5,)), ("pixels", (5,)), ("pixels", (2, 3))]
)
def test_the_file_is_what_the_network_sees(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    found = arrays(kind, shape)
    data = load_arrays(write(tmp_path, found), 5, 3, 4)
    assert data.class_names == ("0", "1", "2")
    assert data.image_shape == (shape if len(shape) == 2 else None)
    assert data.spike_times == (kind == "times")
    np.testing.assert_array_equal(data.train.features, found[f"train_{kind}"][:5].reshape(5, -1))
    np.testing.assert_array_equal(data.test.labels, found["test_labels"])


def test_spike_times_reach_the_first_layer_as_they_are(tmp_path: Path) -> None:
    found = arrays("times")
    found["train_times"][0, 0] = np.inf
    path = write(tmp_path, found | {"class_names": ["a", "b", "c"]})
    sizes = [f"dataset.n_{split}={n}" for split, n in SIZES.items()]
    overrides = ["dataset=npz", f"dataset.path={path}", *sizes, "training.batch_size=2", "model.tau_syn=2.0"]
    (job,) = jobs([*overrides, "model.input_repeats=2"], multirun=False)
    parts = build(job.config)
    times = parts.encode(parts.dataset.train.features)
    np.testing.assert_array_equal(times[0], 2.0 * np.repeat(found["train_times"], 2, axis=1))
    assert parts.dataset.class_names == ("a", "b", "c")
    assert parts.network.sizes == "10-120-3"


def changed(**values: Any) -> dict[str, Any]:
    """A file with some arrays replaced, or left out (None)."""
    return {name: array for name, array in (arrays() | values).items() if array is not None}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (changed(train_values=None), "must hold one of train_times or train_pixels or train_values, got"),
        (changed(train_times=np.ones((6, 5))), "must hold one of"),
        (changed(test_labels=None), "must hold test_labels, got"),
        (changed(test_values=None), "must hold test_values, got"),
        (changed(test_values=np.ones((4, 6))), "alike in all splits, got (4, 6)"),
        (changed(train_values=np.ones(6)), "got (6,)"),
        (changed(train_values=np.ones((6, 5), np.int64)), "must be floats, got int64"),
        (changed(train_labels=np.zeros(6)), "must be (6,) integers, got (6,) float64"),
        (changed(train_labels=np.zeros(6)), "got (6,) float64: train_labels.astype(int) does"),
        (changed(test_labels=np.eye(3)[[0, 1, 2, 0]]), "got (4, 3) float64: test_labels.argmax(axis=1) does"),
        (
            changed(classnames=["a", "b", "c"]),
            "classnames, which nothing reads: did you mean class_names?",
        ),
        (changed(train_labels=np.zeros(5, int)), "must be (6,) integers, got (5,) int64"),
        (changed(train_labels=[1, 2, 3, 1, 2, 3]), "count classes from 0, got 1 to 3: labels - 1 do"),
        (changed(train_labels=np.full(6, -1)), "must count classes from 0, got -1: labels + 1 do"),
        (changed(test_labels=np.full(4, 3)), "must lie from 0 to 2, got 3"),
        (changed(class_names=["only"]), "must lie from 0 to 0, since class_names has 1, got 0 to 2"),
        (changed(validation_values=np.full((3, 5), 2.0)), "must lie in [0, 1], got 2"),
        (changed(validation_values=np.full((3, 5), np.nan)), "must lie in [0, 1], got 15 NaN"),
        (arrays("times") | {"test_times": np.full((4, 5), np.nan)}, "must not hold NaN or -inf"),
        (
            arrays("pixels") | {"test_pixels": np.ones((4, 5))},
            "must be uint8, levels from 0 to 255, got float64",
        ),
        (
            arrays("values") | {"test_pixels": np.ones((4, 5), np.uint8)},
            "must hold values alone, as train_values, got test_pixels beside them",
        ),
        (changed(train_values=np.array([{}] * 6)), "is not a readable .npz file"),
        (
            changed(train_labels=np.array(["a"] * 6, dtype=object)),
            "train_labels must hold numbers or texts, got an array of objects: train_labels.astype(...)",
        ),
        (
            changed(train_labels=np.array(list("abcabc"))),
            "<U1: np.unique(all_labels, return_inverse=True) gives class_names and numbers",
        ),
        (
            arrays("times") | {"train_times": np.full((6, 5), np.inf)},
            "must hold spikes, got inf alone, which is none",
        ),
    ],
)
def test_a_file_that_is_not_like_that_is_refused(found: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_arrays(write(tmp_path, found), 6, 3, 4)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_of_times_of_another_unit_is_told() -> None:
    times = np.ones((10, 10))
    times.flat[:6] = 25.0  # 6 of 99
    times[9, 9] = np.inf
    late = "6 % of the training spikes come after 20 tau_syn: are the times in another unit?"
    assert unlikely(times) == unlikely(3.0 * times, 3.0) == late
    assert unlikely(times, 1.0, 25.0) == late
    unseen = (
        "6 % of the training spikes come after 8 tau_syn, when the chip's trial has ended, and are not seen: "
        "are the times in another unit?"
    )
    assert unlikely(times, 1.0, 8.0) == unlikely(3.0 * times, 3.0, 24.0) == unseen
    times.flat[:2] = 1.0  # 4 of 99 are anybody's
    assert not unlikely(times, 1.0, 8.0)
    times = np.minimum(times, 9.0)
    times[5] = 9.0
    net = gs.Network([10, 2], neuron=gs.LIF(3.0, 3.0), backend="cpu").on(gs.Chip("bss2"))
    told = r"^15 % of .* after 8 tau_syn, when the chip's trial has ended, .*; tau_syn of the network is 3$"
    with pytest.warns(UserWarning, match=told):
        gs.fit(net, 3.0 * times, np.arange(10) % 2, epochs=1, silence="none")


@pytest.mark.parametrize(
    ("factor", "unit", "words"),
    [
        (1.0, 1.0, ""),
        (1000.0, 1.0, "half of the training spikes come after 1e+03 tau_syn: are the times in another unit?"),
        (1000.0, 100.0, ""),
        (np.inf, 1.0, "no training sample has a spike: none tells its class"),
    ],
)
def test_times_of_another_unit_are_told(factor: float, unit: float, words: str) -> None:
    times = np.ones((4, 3)) * factor
    times[0, 0] = np.inf
    assert unlikely(times, unit) == words
    net = gs.Network([3, 2], neuron=gs.LIF(tau_mem=unit, tau_syn=unit), backend="cpu")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gs.fit(net, times, np.array([0, 1, 0, 1]), epochs=1, silence="none")
    assert [str(note.message).partition("; tau_syn")[0] for note in told] == ([words] if words else [])


def test_values_of_an_encoding_that_nothing_reads_are_told(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"^full_scale is of pixels, and the data set yin_yang has values in"
    ):
        gs.dataset("yin_yang", n_train=5, n_validation=5, n_test=5, full_scale=300.0)
    times = load_arrays(write(tmp_path, arrays("times")))
    assert times.unread(["dataset.t_late", "dataset.n_train"]) == [
        f"dataset.t_late is of pixels or values, and the data set {times.name} has spike times"
    ]
    assert load_arrays(write(tmp_path, arrays("pixels"))).unread(["silent_black", "t_late"]) == []
    given = ["experiment=yin_yang", "dataset.n_train=150", "dataset.silent_black=true", "backend=cpu"]
    (job,) = jobs(given, multirun=False)
    screen = Console(file=io.StringIO(), width=300)
    say_what_runs(build(job.config), "yin_yang", tmp_path, screen, job.overrides)
    assert "dataset.silent_black is of pixels, and the data" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_on_times_of_another_unit_says_so(tmp_path: Path) -> None:
    found = arrays("times")
    for path, factor, expected in (("fits.npz", 1.0, 0), ("late.npz", 1e3, 1)):
        late = {key: array * factor for key, array in found.items() if key.endswith("_times")}
        np.savez(tmp_path / path, **found | late)  # type: ignore[arg-type]
        given = ["experiment=own", f"dataset.path={tmp_path / path}", "training.batch_size=2", "backend=cpu"]
        (job,) = jobs(given, multirun=False)
        screen = Console(file=io.StringIO(), width=300)
        say_what_runs(build(job.config), "own", tmp_path, screen)
        assert screen.file.getvalue().count("; those of a file are of tau_syn") == expected  # type: ignore[attr-defined]


def test_more_samples_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^n_test must not exceed the 4 samples of .*, got 5"):
        load_arrays(write(tmp_path, arrays()), 6, 3, 5)


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which is not there"):
        load_arrays(tmp_path / "none.npz", 1, 1, 1)
    with pytest.raises(DataError, match=r"is not a readable \.npz file: it is a folder$"):
        load_arrays(tmp_path, 1, 1, 1)
    path = write(tmp_path, arrays())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"is not a readable \.npz file"):
        load_arrays(path, 1, 1, 1)


def test_without_its_path_the_group_is_refused() -> None:
    (job,) = jobs(["dataset=npz"], multirun=False)
    with pytest.raises(ConfigError, match=r"dataset\.path must be an \.npz file, got none"):
        build(job.config)


@pytest.mark.parametrize(("shape", "square"), [((2, 3), False), ((3, 3), True)])
def test_images_of_ones_own_are_shifted_if_they_are_square(
    shape: tuple[int, int], square: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, arrays("pixels", shape))
    sizes = [f"dataset.n_{split}={n}" for split, n in SIZES.items()]
    given = ["dataset=npz", f"dataset.path={path}", *sizes, "training.batch_size=2", "training.max_shift=1"]
    (job,) = jobs(given, multirun=False)
    if square:
        augment = build(job.config).rule.augment
        assert augment is not None
        assert augment.side == 3
        return
    with pytest.raises(
        ConfigError, match=r"max_shift=. needs square images of pixels, got dataset\.name=npz"
    ):
        build(job.config)


def test_sizes_of_the_splits_come_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, arrays())
    given = ["experiment=own", f"dataset.path={path}", "training.batch_size=2"]
    (job,) = jobs([*given, "dataset.n_test=2"], multirun=False)
    assert (job.config.dataset.n_train, job.config.dataset.n_test) == (None, 2)
    data = build(job.config).config.dataset  # as a run keeps them
    assert (data.n_train, data.n_validation, data.n_test) == (6, 3, 2)
    assert [len(split.labels) for split in load_arrays(path).splits.values()] == [6, 3, 4]
    found = gs.dataset("npz", path=str(path))
    assert [len(split.labels) for split in (found.train, found.validation, found.test)] == [6, 3, 4]
    (job,) = jobs([*given[:2]], multirun=False)
    with pytest.raises(ConfigError, match=r"batch_size must not exceed the 6 training samples, got 50"):
        build(job.config)


def test_a_split_without_samples_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, changed(test_values=np.ones((0, 5)), test_labels=np.zeros(0, int)))
    with pytest.raises(DataError, match=r"test_values in .* must hold a sample at least, got none"):
        load_arrays(path)


def test_a_run_s_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is kept as it holds everywhere: of data, and of prices."""
    write(tmp_path, arrays())
    (tmp_path / "prices.yaml").write_text((conf_folder() / "prices" / "odin.yaml").read_text())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    small = ["training.epochs=1", "training.batch_size=2", "model.hidden=[5]", "backend=cpu"]
    files = ["dataset.path=mine.npz", "substrate.prices=prices.yaml"]
    monkeypatch.setattr("sys.argv", ["gpuspike-train", "experiment=own", *files, *small, "hydra.run.dir=run"])
    train()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = read_config(Path("../run/config.yaml"))
    assert config.dataset.path == str(tmp_path / "mine.npz")  # type: ignore[attr-defined]
    assert config.substrate.prices == str(tmp_path / "prices.yaml")
    assert evaluate(EvaluateConfig("../run", prices=["odin"], name="test"), Console(quiet=True))["accuracy"]
    assert len(gs.dataset("../run").test.labels) == 4
    assert gs.load("../run").sizes == (5, 5, 3)
    assert json.loads(Path("../run/summary.json").read_text())["run"]["experiment"] == "mine"


def test_a_sweep_that_was_begun_with_a_relative_path_knows_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (one,) = jobs(["experiment=own", "dataset.path=mine.npz"], multirun=False)
    (other,) = jobs(["experiment=own", f"dataset.path={tmp_path}/mine.npz"], multirun=False)
    before = copy.deepcopy(one.config)
    before.dataset.path = "mine.npz"  # type: ignore[attr-defined]
    assert fingerprint(one.config) == fingerprint(other.config) == fingerprint(before)
    (far,) = jobs(["experiment=own", "dataset.path=/elsewhere/mine.npz"], multirun=False)
    assert fingerprint(far.config) != fingerprint(one.config)


def test_every_width_and_depth_starts_alive_by_the_rule(tmp_path: Path) -> None:
    """Initial weights follow from the number of inputs, as those of gs.Network do, to the bit."""
    path = write(tmp_path, arrays(shape=(40,)))
    given = ["experiment=own", f"dataset.path={path}", "training.batch_size=2", "backend=cpu"]
    for hidden in ([], [7], [300, 20], [10, 10, 10]):
        (job,) = jobs([*given, f"model.hidden={hidden}".replace(" ", "")], multirun=False)
        parts = build(job.config)
        weights = new_trainer(parts).parameters.weights
        net = gs.Network([40, *hidden, 3], bias_times=[[0.9]] * (len(hidden) + 1), backend="cpu")
        for a, b in zip(weights, net.parameters.weights, strict=True):
            np.testing.assert_array_equal(a, b)
        spikes = net(np.random.default_rng(0).uniform(0.15, 2.0, (100, 40)))
        assert np.isfinite(spikes).mean() > 0.5


def test_digits_reach_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's first snippet and its first command."""
    pytest.importorskip("sklearn")
    page = (conf_folder().parent / "docs" / "own_data.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)[0], {})
    (command, *_) = re.findall(r"^    (gpuspike-train .*)$", page, flags=re.MULTILINE)
    monkeypatch.setattr("sys.argv", [*command.split(), "backend=cpu", "hydra.run.dir=run"])
    monkeypatch.setattr("gpuspike.runs.run.draw", lambda *_: {})
    train()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"]["test"]["mean"] > 0.93
    assert summary["run"]["experiment"] == "digits"
    assert summary["emulator"]["wall_s"] < 60.0
