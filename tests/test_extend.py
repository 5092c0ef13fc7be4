"""docs/extend.md: what the page shows does what it says, from the command line and from Python."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_docs import files, run

from gpuspike import plugins, registry
from gpuspike.config.schema import jobs
from gpuspike.datasets import load_dataset
from gpuspike.runs.experiment import build

PAGE = "docs/extend.md"
TEXT = (Path(__file__).parents[1] / PAGE).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the page shows; their parts are gone afterwards."""
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    plugins.forget_all()
    for parts, name in list(registry.added):
        parts.remove(name)
    for name in files(PAGE):
        sys.modules.pop(Path(name).stem, None)


def trained(folder: Path, *arguments: str) -> dict[str, float]:
    """Test and training accuracy of a run in a process of its own."""
    run(folder, "gpuspike-train", *arguments, "backend=cpu", "hydra.run.dir=run")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return {split: summary["accuracy"][split]["mean"] for split in ("train", "test")}


def test_the_data_set_is_learnt_and_drawn(folder: Path) -> None:
    accuracy = trained(folder, "plugin=moons.py", "dataset=moons", "training.epochs=30")
    assert accuracy["test"] > 0.93
    assert (folder / "run" / "figures" / "plane.png").is_file()


def test_the_data_set_is_loaded_from_python(folder: Path) -> None:
    (snippet,) = re.findall(r"```python\n(import moons\n.*?)```", TEXT, flags=re.DOTALL)
    scope: dict[str, object] = {}
    exec(snippet, scope)
    data = load_dataset("moons", n_train=200, noise=0.05)
    assert scope["data"] is data
    assert data.train.features.shape == (200, 4)
    (job,) = jobs(["dataset=moons", "dataset.n_train=200"], multirun=False)
    assert build(job.config).dataset.class_names == ("upper", "lower")


def test_loading_the_file_from_python_does_what_the_command_does() -> None:
    entry = plugins.load("moons.py").entry
    assert plugins.given(["plugin=moons.py"]) == [f'plugin=["{entry}"]']
    importlib.invalidate_caches()
    with pytest.raises(Exception, match="there is a data set 'moons' already"):
        importlib.import_module("moons")


def test_the_distortion_delays_the_share_of_inputs_that_it_should(folder: Path) -> None:
    plugins.load("slow_inputs.py")
    given = ["substrate.slow_inputs=0.3", "substrate.slow_by=0.25", "model.tau_syn=2.0", "backend=reference"]
    (job,) = jobs(given, multirun=False)
    parts = build(job.config)
    times = parts.encode(parts.dataset.test.features[:500])
    received = parts.network.receive(times)
    weights = parts.network.initial_weights([0], [1.5, 0.5], [0.8, 0.8], "float64")
    arrived = parts.on_chip([0]).forward(weights, received)[0].t_in[:, :, : times.shape[2]]
    delays = arrived - times
    slow = delays > 0.1
    assert slow.mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(delays[slow], 0.5)
    np.testing.assert_allclose(delays[~slow], 0.0)


def test_the_distortion_is_trained_on(folder: Path) -> None:
    few = [
        "training.epochs=10",
        "training.batch_size=30",
        "dataset.n_train=600",
        "dataset.n_test=200",
        "dataset.n_validation=100",
    ]
    accuracy = trained(folder, "plugin=slow_inputs.py", "substrate.slow_inputs=0.1", *few)
    assert accuracy["test"] > 0.4
    assert "slow_inputs: 0.1\n" in (folder / "run" / "config.yaml").read_text()
