"""Whole runs on the device: the commands, what they refuse, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_on_cpu import FakeDevice, device
from matplotlib.figure import Figure
from rich.console import Console

from gpuspike.cli import plan as cli_plan
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.schema import Config, jobs
from gpuspike.errors import BackendError, ConfigError
from gpuspike.runs import drawing
from gpuspike.runs.evaluate import evaluate
from gpuspike.runs.experiment import build
from gpuspike.runs.planning import memory_of, time_of
from gpuspike.runs.run import go_on, run
from gpuspike.store import checkpoint

pytestmark = pytest.mark.usefixtures("cupy")

SMALL = [
    "training.epochs=2", "dataset.n_train=60", "dataset.n_validation=40", "dataset.n_test=40",
    "training.batch_size=16", "model.hidden=[10]", "replicas=2",
]  # fmt: skip


def config(*overrides: str) -> Config:
    return jobs([*SMALL, *overrides], multirun=False)[0].config


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    return run(config(*overrides), "custom", folder, Console(quiet=True))


def with_memory(cupy: Any, free: int) -> None:
    cupy.cuda.Device = type("Device", (FakeDevice,), {"mem_info": (free, 80 << 30)})


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane of 90,000 points would take the stand-in a minute."""
    monkeypatch.setattr("gpuspike.runs.run.draw", lambda *_: {})


def test_a_run_on_the_device_is_the_run_on_the_cpu(tmp_path: Path) -> None:
    ours, theirs = trained(tmp_path / "a", "backend=cuda"), trained(tmp_path / "b", "backend=cpu")
    assert ours["emulator"]["backend"] == "cuda"
    assert ours["emulator"]["device"] == "a stand-in (device 0, CUDA 12.9)"
    assert (ours["emulator"]["step"], theirs["emulator"]["step"]) == ("device", "compiled")
    assert device.launches.count("graph") >= 5
    for split in ("train", "validation", "test"):
        for key in ("accuracy", "loss"):
            a, b = (summary[key][split]["per_replica"] for summary in (ours, theirs))
            np.testing.assert_allclose(a, b, rtol=1e-8)
    assert ours["chip"]["spikes_per_sample"] == theirs["chip"]["spikes_per_sample"]
    arrays, header = checkpoint.load(tmp_path / "a" / "checkpoint.npz")
    wanted, _ = checkpoint.load(tmp_path / "b" / "checkpoint.npz")
    assert header["epoch"] == 2
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-8, atol=1e-12, err_msg=name)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in "ab"]
    assert [json.loads(line).keys() for line in lines[0]] == [json.loads(line).keys() for line in lines[1]]


def test_a_run_with_delays_is_the_run_on_the_cpu_and_goes_on(tmp_path: Path) -> None:
    given = "model.delays=axonal+dendritic+synaptic", "training.bump_replaces_step=false"
    ours = trained(tmp_path / "a", "backend=cuda", *given)
    theirs = trained(tmp_path / "b", "backend=cpu", *given)
    assert ours["emulator"]["step"] == "device"
    for split in ("train", "validation", "test"):
        a, b = (summary["loss"][split]["per_replica"] for summary in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-8)
    trained(tmp_path / "half", "backend=cuda", *given, "training.epochs=1")
    go_on(tmp_path / "half", Console(quiet=True), config("backend=cuda", *given), ["training.epochs=2"])
    arrays, halves = (checkpoint.load(tmp_path / name / "checkpoint.npz")[0] for name in ("a", "half"))
    assert any(name.startswith("optimizer_mean_synaptic_delay") for name in arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(halves[name], array, err_msg=name)


@pytest.mark.parametrize("change", ["training.max_shift=1", "training.mirror=true"])
def test_images_change_with_their_negatives_as_on_the_cpu(tmp_path: Path, change: str) -> None:
    rng, splits = np.random.default_rng(0), {}
    for split, n in {"train": 20, "validation": 6, "test": 6}.items():
        splits[f"{split}_pixels"] = rng.integers(0, 256, (n, 5, 5)).astype(np.uint8)
        splits[f"{split}_labels"] = np.arange(n) % 3
    np.savez(tmp_path / "mine.npz", **splits)
    given = [
        "experiment=own", f"dataset.path={tmp_path / 'mine.npz'}", "dataset.opposites=true",
        "model.hidden=[]", "model.layers=[{conv: 3, kernel: 3}, {pool: 2}, {dense: 3}]",
        "training.batch_size=8", "training.epochs=2", change,
    ]  # fmt: skip
    found = []
    for backend in ("cuda", "cpu"):
        one = jobs([*given, f"backend={backend}"], multirun=False)[0].config
        found.append(run(one, "custom", tmp_path / backend, Console(quiet=True)))
    assert found[0]["emulator"]["step"] == "device"
    for split in ("train", "validation", "test"):
        a, b = (summary["loss"][split]["per_replica"] for summary in found)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_auto_takes_the_device_but_not_for_what_it_does_not_know() -> None:
    assert build(config()).backend.name == "cuda"
    on_chip = "model.trained=[threshold]", "substrate=bss2"
    assert build(config(*on_chip)).backend.name == "cpu"
    message = "training threshold on a chip needs backend=cpu or reference, got cuda"
    with pytest.raises(BackendError, match=message):
        build(config(*on_chip, "backend=cuda"))


def test_a_run_of_the_cpu_goes_on_on_the_device_and_is_evaluated_there(tmp_path: Path) -> None:
    def resumed(name: str, overrides: Sequence[str]) -> dict[str, Any]:
        trained(tmp_path / name, "backend=cpu", "training.epochs=1")
        asked = ["training.epochs=2", *overrides]
        longer = config("backend=cpu", *asked)
        return go_on(tmp_path / name, Console(quiet=True), longer, asked)

    ours, theirs = resumed("a", ["backend=cuda", "training.cuda_graph=false"]), resumed("b", [])
    assert ours["emulator"]["backend"] == "cuda"
    np.testing.assert_allclose(
        ours["loss"]["test"]["per_replica"], theirs["loss"]["test"]["per_replica"], rtol=1e-8
    )
    asked = EvaluateConfig(
        run=str(tmp_path / "a"), prices=["brainscales2"], backend=config("backend=cuda").backend
    )
    answer = evaluate(asked, Console(quiet=True))
    assert answer["emulator"]["backend"] == "cuda"
    np.testing.assert_allclose(answer["loss"]["per_replica"], ours["loss"]["test"]["per_replica"], rtol=1e-12)


def test_a_batch_that_cannot_fit_is_refused_with_the_largest_that_does(cupy: Any) -> None:
    with_memory(cupy, 1 << 20)
    text = r"training.batch_size=60 needs .* of memory, got .*: the largest that fits is \d+"
    with pytest.raises(ConfigError, match=text):
        build(config("training.batch_size=60", "model.hidden=[200]"))
    build(config("training.batch_size=60", "model.hidden=[200]"), to_train=False)
    with_memory(cupy, 1 << 12)
    with pytest.raises(ConfigError, match="no batch fits"):
        build(config())
    with pytest.raises(ConfigError, match="one sample's forward pass needs"):
        build(config(), to_train=False)


def test_an_evaluation_is_cut_into_parts_that_fit(cupy: Any) -> None:
    assert build(config()).rule.evaluation_batch_size == config().training.evaluation_batch_size
    with_memory(cupy, 200_000)
    assert 1 < build(config()).rule.evaluation_batch_size < 1000


def test_what_a_run_will_take_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    parts = build(config())
    needed = memory_of(parts)
    assert needed.peak == sum(needed.parts.values())
    n_pre, item = parts.network.layers[0].n_pre, 8
    data = (60 + 40) * (n_pre * item + 8) + 2 * 60 * 8 + 2 * 40 * 4 * item  # shuffles, answers and losses
    data += 60 * n_pre * 8  # the order of spikes
    assert needed.parts["data: training and validation samples, shuffles, answers, what warps images"] == data
    assert time_of(parts, Console(quiet=True), seconds=0.01).step > 0.0
    cli_plan._show(jobs(SMALL, multirun=False)[0], Console())
    assert "free memory of the device" in capsys.readouterr().out


def test_figures_are_drawn_of_what_the_device_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuspike.runs.run.draw", drawing.draw)
    monkeypatch.setattr(drawing, "_plane", lambda *_: Figure())
    trained(tmp_path, "backend=cuda")
    assert (tmp_path / "figures" / "spike_raster.png").exists()
    assert (tmp_path / "figures" / "membrane_traces.png").exists()
