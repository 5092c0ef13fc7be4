"""Runs that begin with another run's networks, thresholds learnt alone, and chips that take turns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuspike.config.schema import jobs
from gpuspike.errors import ConfigError, DataError, errors_of, of_key, together
from gpuspike.network.layers import Moment
from gpuspike.runs import run as runs
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.store import checkpoint
from gpuspike.store.identity import fingerprint
from gpuspike.substrate import OnChip
from gpuspike.training.evaluation import Labelled

SMALL = [
    "experiment=yin_yang_bss2", "backend=cpu", "model.hidden=[30]", "training.epochs=2",
    "model.weight_mean=[0.3,0.3]",
    "dataset.n_train=300", "dataset.n_validation=60", "dataset.n_test=60", "dataset.turned=false",
]  # fmt: skip
THRESHOLDS = ["model.trained=[threshold]", "model.frozen=true"]


def config(*given: str) -> Any:
    """A small run on a chip."""
    (job,) = jobs([*SMALL, *given], multirun=False)
    return job.config


def finished(folder: Path, *given: str) -> Path:
    """The folder of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "draw", lambda *_: {})
        runs.run(config(*given), "test", folder, Console(file=io.StringIO()))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one network."""
    return finished(tmp_path_factory.mktemp("one") / "run")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two networks with thresholds of their own."""
    return finished(tmp_path_factory.mktemp("two") / "run", "replicas=2", "model.trained=[threshold]")


def kept(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoint.npz")[0]


def test_a_single_network_begins_every_replica(one: Path) -> None:
    trainer = new_trainer(build(config(f"start={one}", "replicas=3", "seed=5", "chip_seed=17", *THRESHOLDS)))
    for number, weights in enumerate(trainer.weights):
        np.testing.assert_array_equal(weights, np.repeat(kept(one)[f"weights_{number}"], 3, axis=0))
    assert not any(layer.free["threshold"].any() for layer in trainer.parameters)


def test_each_replica_begins_with_its_own(two: Path) -> None:
    again = build(config(f"start={two}", "replicas=2", "dtype=float32", "model.trained=[tau_syn,threshold]"))
    found = new_trainer(again).parameters.arrays()
    for name in ("weights_0", "weights_1", "threshold_0", "threshold_1"):
        np.testing.assert_array_equal(found[name], kept(two)[name].astype(np.float32))
    assert not found["tau_syn_0"].any()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["replicas=3", "model.trained=[threshold]"], "or one for each of the 3 replicas, got 2"),
        (["replicas=2"], "has learnt threshold, which this run would lose"),
        (
            ["replicas=2", "model.trained=[threshold]", "model.tau_mem=2.0"],
            "has neurons of model.tau_mem=1.0, this run has 2.0",
        ),
    ],
)  # fmt: skip
def test_networks_that_a_run_cannot_begin_with_are_refused(two: Path, given: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config(f"start={two}", *given))
    assert words in str(caught.value)


def test_each_mistake_of_a_run_to_begin_with_is_told_by_its_key() -> None:
    two = together([ConfigError("seed must be 0 or more, got -1"), DataError("no samples")])
    told = errors_of(of_key("start", two))
    assert [(type(each), str(each)) for each in told] == [
        (ConfigError, "start: seed must be 0 or more, got -1"),
        (DataError, "start: no samples"),
    ]


def test_another_network_or_no_run_is_refused(one: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must have the network of this run: weights_0 must be .*got"):
        build(config(f"start={one}", "model.hidden=[31]"))
    with pytest.raises(ConfigError, match=r"^start: no run at"):
        build(config(f"start={tmp_path}"))


def test_a_run_that_began_so_is_evaluated_without_it(one: Path, tmp_path: Path) -> None:
    folder = finished(tmp_path / "later", f"start={one}", "chip_seed=4")
    assert build(config("start=nowhere"), to_train=False).config.start == str(Path("nowhere").absolute())
    assert (folder / "summary.json").is_file()
    assert f"start: {one}" in (folder / "config.yaml").read_text()


def test_tuning_to_a_chip_goes_on_from_where_the_network_was(one: Path) -> None:
    """One epoch at no learning rate to speak of: the networks are as good as they were."""
    parts = build(config(f"start={one}", "optimizer.learning_rate=1e-12", "training.max_silent=[1,1]"))
    trainer = new_trainer(parts)
    split = parts.dataset.test
    data = Labelled(parts.receive(split.features), split.labels)
    (record,) = trainer.train(data, data, 1)
    first = new_trainer(build(config(f"start={one}"))).step.evaluate(data)
    np.testing.assert_allclose(record.validation.accuracy, first.accuracy, atol=0.02)  # type: ignore[union-attr]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_weights_keep_every_bit_and_thresholds_move(one: Path, optimizer: str) -> None:
    parts = build(config(f"start={one}", f"optimizer={optimizer}", "training.max_silent=[0,0]", *THRESHOLDS))
    trainer = new_trainer(parts)
    before = [w.copy() for w in trainer.weights]
    split = parts.dataset.train
    list(trainer.train(Labelled(parts.receive(split.features), split.labels), None, 2))
    for own, then in zip(trainer.weights, before, strict=True):
        np.testing.assert_array_equal(own, then)
    assert all(layer.free["threshold"].any() for layer in trainer.parameters)


def test_frozen_weights_need_something_else_to_learn() -> None:
    with pytest.raises(ConfigError, match=r"so that model\.trained or model\.delays must name .*got neither"):
        config("model.frozen=true")
    config("model.frozen=true", "model.delays=axonal")


def test_chips_of_a_population_take_turns() -> None:
    parts = build(config("substrate.new_chip=step", "substrate.population=2", "replicas=2", "seed=3"))
    machine = parts.trained_machine()
    assert isinstance(machine, OnChip)
    assert machine.fresh is not None
    seeds = [machine.fresh(Moment(epoch, batch)).seeds for epoch in range(2) for batch in range(3)]
    assert seeds[0] == (3 + (1 << 32), 4 + (1 << 32))
    assert seeds[0] == seeds[2] == seeds[4] != seeds[1] == seeds[3] == seeds[5]
    anew = build(config("substrate.new_chip=step")).trained_machine()
    assert isinstance(anew, OnChip)
    assert anew.fresh is not None
    assert len({anew.fresh(Moment(epoch, batch)).seeds for epoch in range(2) for batch in range(3)}) == 6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["substrate.population=-1"], "substrate.population must be 0 (no chip comes again) or more, got -1"),
        (["substrate.population=4"], "take turns where substrate.new_chip=step, got substrate.new_chip=run"),
    ],
)  # fmt: skip
def test_a_population_that_cannot_be_is_refused(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*given)
    assert words in str(caught.value)


def test_runs_that_use_none_of_it_are_called_as_before() -> None:
    plain = fingerprint(config())
    each = [config("start=there"), config(*THRESHOLDS), config("model.trained=[threshold]")]
    assert len({plain, *map(fingerprint, each)}) == 4
