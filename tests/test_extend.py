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
from gpuspike.errors import GpuspikeError
from gpuspike.kernels import load
from gpuspike.runs.experiment import build
from gpuspike.training.losses import LOSSES

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
    accuracy = trained(folder, "plugin=moons.py", "experiment=own", "dataset=moons", "training.epochs=30")
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


@pytest.mark.slow  # its row is compiled into a step of its own; its gradient is tested below
def test_the_loss_is_trained_with_and_fast_with_a_row(folder: Path) -> None:
    few = ["training.epochs=10", "dataset.n_train=1000", "training.batch_size=50"]
    slow = trained(folder, "plugin=margin.py", "training.loss=margin", *few)
    assert slow["test"] > 0.7
    (folder / "run").rename(folder / "slow")
    fast = trained(
        folder, "plugin=[margin.py,margin_fast.py]", "training.loss=margin_fast", "training.margin=0.3", *few
    )
    assert fast["test"] == pytest.approx(slow["test"], abs=0.02)
    assert "margin: 0.3\n" in (folder / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["margin", "margin_fast"])
def test_the_loss_s_gradient_is_its_own(folder: Path, name: str) -> None:
    plugins.load("margin.py")
    plugins.load("margin_fast.py")
    kernels = load("cpu")
    loss = LOSSES[name](tau_syn=0.5, kernels=kernels)
    rng = np.random.default_rng(0)
    t_out, labels = rng.uniform(0.1, 1.0, (2, 7, 4)), rng.integers(4, size=(2, 7))
    t_out[0, :3, 1] = t_out[1, 2] = np.inf
    values, grad = loss(t_out, labels)
    oracle, oracle_grad = LOSSES["margin"](tau_syn=0.5)(t_out, labels)
    np.testing.assert_allclose(values, oracle, rtol=1e-12)
    np.testing.assert_allclose(grad, oracle_grad, rtol=1e-12)
    for place in np.argwhere(np.isfinite(t_out)):
        moved = [t_out.copy(), t_out.copy()]
        moved[0][tuple(place)] += 1e-6
        moved[1][tuple(place)] -= 1e-6
        up, down = (loss(times, labels)[0][place[0]].mean() for times in moved)
        assert grad[tuple(place)] == pytest.approx((up - down) / 2e-6, abs=1e-6)


@pytest.mark.slow
def test_the_optimiser_is_trained_with_and_stopped_and_gone_on_with(folder: Path) -> None:
    asked = ["plugin=signs.py", "optimizer=signs", "optimizer.memory=0.95", "optimizer.learning_rate=0.002"]
    few = ["dataset.n_train=1000", "training.batch_size=50"]
    accuracy = trained(folder, *asked, *few, "training.epochs=20")
    assert accuracy["test"] > 0.8
    (folder / "run").rename(folder / "whole")
    trained(folder, *asked, *few, "training.epochs=10")
    run(folder, "gpuspike-train", "plugin=signs.py", "resume=run", "training.epochs=20", "backend=cpu")
    np.testing.assert_array_equal(*(weights(folder / name) for name in ("run", "whole")))


def weights(run_folder: Path) -> np.ndarray:
    """The last layer's, after the training."""
    with np.load(run_folder / "checkpoint.npz") as arrays:
        assert "optimizer_mean_0" in arrays
        return arrays["weights_1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["training.loss=margin"], "there is no loss 'margin'"),
        (["plugin=signs.py", "optimizer=signs", "optimizer.memory=1.5"], "memory must lie in"),
        (["optimizer=signs"], "signs"),  # whatever was imported before
        (["plugin=margin.py", "training.loss=margin", "training.margin=wide"], "training.margin"),
    ],
)
def test_what_the_page_s_parts_cannot_use_is_refused(folder: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(GpuspikeError, match=words):
        build(jobs(plugins.given(arguments), multirun=False)[0].config)
