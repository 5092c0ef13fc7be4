"""A run whose file of prices is gone, or has changed, is read with the prices that it has kept."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import gpuspike as gs
from gpuspike.accountant import of_kept, read_prices
from gpuspike.cli import need, train
from gpuspike.config.schema import conf_folder, jobs
from gpuspike.errors import ConfigError
from gpuspike.runs import run as runs
from gpuspike.runs.sweep import run_once
from gpuspike.store import checkpoint, own_prices

SMALL = [
    "training.epochs=1", "dataset.n_train=200", "dataset.n_validation=100", "dataset.n_test=100",
    "training.max_weight_grad=inf", "substrate=bss2",
]  # fmt: skip
SHIPPED = sorted((conf_folder() / "prices").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def write(path: Path, power: float = 175.0) -> Path:
    content = yaml.safe_load((conf_folder() / "prices" / "brainscales2.yaml").read_text())
    content["all_in"]["value"] = power
    path.write_text(yaml.safe_dump(content | {"name": "mine"}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run beside its prices; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "mine.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "draw", lambda *_: {})
        patch.chdir(folder)
        (job,) = jobs([*SMALL, "substrate.prices=mine.yaml"], multirun=False)
        runs.run(job.config, job.experiment, folder / "run", Console(file=io.StringIO()))
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run's folder, whose file of prices is gone; one stands in another folder."""
    path = finished / "mine.yaml"
    path.unlink(missing_ok=True)
    shutil.copytree(finished / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(finished: Path) -> Path:
    """Where the run's prices were."""
    return finished / "mine.yaml"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command; returns all that it says, in one line."""

    def run(command: Callable[[], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gpuspike", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        command()
        out, err = capsys.readouterr()
        return " ".join((out + err).split())

    return run


def energy(folder: Path) -> float:
    return json.loads((folder / "summary.json").read_text())["chip"]["energy_per_classification_J"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_prices_that_were_kept_are_the_same_prices(path: Path) -> None:
    prices = read_prices(path)
    again = of_kept(json.loads(json.dumps(prices.kept())))
    assert again.kept() == prices.kept()
    assert (again.trial, again.evidence, again.merges) == (prices.trial, prices.evidence, prices.merges)


@pytest.mark.parametrize(
    "told", [{}, {"name": 3}, {"name": "a", "setting": "b", "prices": "c", "numbers": 1}]
)
def test_something_else_is_no_prices(told: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must have all their parts, got"):
        of_kept(told)


def test_an_older_summary_has_kept_them_too(place: Path) -> None:
    chip = json.loads((place / "run" / "summary.json").read_text())["chip"]
    del chip["merges"]
    assert of_kept(chip).kept() == of_kept(chip | {"merges": False}).kept()
    assert of_kept(chip | {"circuits_per_neuron": [1, 2]}).merges


def test_a_run_whose_prices_are_gone_is_evaluated_and_asked(
    place: Path, file: Path, said: Callable[..., str]
) -> None:
    told = said(train.evaluate, "run=run", "prices=loihi")
    assert "Loihi" in told
    assert "no file" not in told  # they are not asked for
    told = said(train.evaluate, "run=run", f"prices={file},loihi")
    assert f"prices: there is no file {file} any more: those that the run has kept are used" in told
    assert "mine" in told
    assert "8.4 µJ" in told
    asked = "accuracy=0.01", "distortion=gain_std", "resolution=4", "replicas=2", "seeds=2"
    assert "answer" in said(need.need, "run=run", *asked)


def test_a_run_whose_prices_are_gone_is_resumed(place: Path, file: Path, said: Callable[..., str]) -> None:
    before = energy(place / "run")
    told = said(train.train, "resume=run", "training.epochs=2")
    assert f"there is no file {file} any more: those that the run has kept are used" in told
    assert "substrate.prices=FILE takes others" in told
    assert energy(place / "run") == before
    write(place / "here.yaml", 350.0)  # given explicitly
    told = said(train.train, "resume=run", "substrate.prices=here.yaml")
    assert "kept" not in told
    assert energy(place / "run") == pytest.approx(2 * before)
    (place / "here.yaml").unlink()  # and so what the run has kept now
    assert "here.yaml any more" in said(train.train, "resume=run")
    assert energy(place / "run") == pytest.approx(2 * before)


def test_prices_that_have_changed_are_told(place: Path, file: Path, said: Callable[..., str]) -> None:
    before = energy(place / "run")
    write(file, 350.0)
    told = said(train.evaluate, "run=run", f"prices={file}")
    assert f"{file} has changed since the run began, and is used as it is now" in told
    assert "16.8 µJ" in told
    told = said(train.train, "resume=run")
    assert "has changed since the run began: those that the run has kept are used" in told
    assert energy(place / "run") == before
    write(file)
    assert "prices:" not in said(train.train, "resume=run")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with shipped prices; not to be changed."""
    folder = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "draw", lambda *_: {})
        (job,) = jobs(SMALL, multirun=False)
        runs.run(job.config, job.experiment, folder / "run", Console(file=io.StringIO()))
    return folder / "run"


def test_shipped_prices_are_there(
    shipped: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, recwarn: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for asked in ([], ["prices=brainscales2"], ["prices=brainscales2,loihi"]):
        told = said(train.evaluate, f"run={shipped}", *asked)
        assert "prices:" not in told
        assert "any more" not in told
        assert "BrainScaleS-2" in told
    net, test = gs.load(shipped), gs.dataset(shipped).test
    for values in ({}, {"prices": "brainscales2"}):
        gs.price(net, test.t_in[:5], test.labels[:5], **values)
    assert not [str(each.message) for each in recwarn if "prices" in str(each.message)]


def test_a_name_that_is_shipped_no_more_is_no_file() -> None:
    kept = read_prices(conf_folder() / "prices" / "loihi.yaml").kept()
    for way in (own_prices.given("older", "older", kept), own_prices.of_run("older", kept, "prices=FILE")):
        assert way[0].kept() == kept
        assert way[1].startswith(
            "prices: none are called older any more: those that the run has kept are used"
        )
    with pytest.raises(ConfigError, match="must be one of"):
        own_prices.given("older", "other", kept)


def test_in_python_they_are_the_runs_too(place: Path, file: Path) -> None:
    net = gs.load(place / "run")
    net.save(place / "net.npz")
    test = gs.dataset(place / "run").test
    for each in (net, gs.load(place / "net.npz")):
        with pytest.warns(UserWarning, match=f"there is no file {file} any more"):
            cost = gs.price(each, test.t_in, test.labels)
        assert cost.summary["name"] == "mine"
    with pytest.raises(ConfigError, match="there is no file"):
        gs.price(net, test.t_in, test.labels, prices=file)


def test_a_run_that_has_kept_none_says_what_is_gone(
    place: Path, file: Path, said: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run" / "summary.json").unlink()
    path = place / "run" / "checkpoint.npz"
    arrays, header = checkpoint.load(path)
    checkpoint.save(path, arrays, {k: v for k, v in header.items() if k != "prices"}, keep_previous=False)
    with pytest.raises(SystemExit):
        said(train.evaluate, "run=run")
    assert f"prices: there is no file {file}, seen from" in capsys.readouterr().err


def test_the_chips_own_prices_are_the_first_row(place: Path, file: Path, said: Callable[..., str]) -> None:
    def rows() -> list[str]:
        return list(json.loads((place / "run" / "evaluations" / "test.json").read_text())["chips"])

    assert "there is no file" in said(train.evaluate, "run=run")  # what it has kept
    assert rows()[:2] == ["mine", "brainscales2"]
    chips = place / "chips"
    chips.mkdir()
    (chips / "tern.yaml").write_text("name: tern\nspike_jitter: 0.01\nprices: tern_events.yaml\n")
    asked = "run=run", f"substrate={chips / 'tern.yaml'}"
    told = said(train.evaluate, *asked, "prices=brainscales2")  # which is there, the chip's own is not
    assert "tern_events" not in told
    write(chips / "tern_events.yaml", 350.0)
    said(train.evaluate, *asked)
    (answer,) = (place / "run" / "evaluations").glob("test_tern.json")
    assert next(iter(json.loads(answer.read_text())["chips"])) == "tern_events"


def test_prices_beside_a_chips_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chips = tmp_path / "conf" / "substrate"
    chips.mkdir(parents=True)
    (chips / "tern.yaml").write_text("name: tern\nspike_jitter: 0.01\nprices: mine.yaml\n")
    write(tmp_path / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    asked = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "substrate=tern"]

    def prices(*given: str) -> list[str]:
        (job,) = jobs([*asked, *given], multirun=False)
        return [job.config.substrate.prices, str(Path(gs.Chip(chips / "tern.yaml").prices).absolute())]

    assert prices() == [str(tmp_path / "mine.yaml")] * 2  # from the shell's folder
    write(chips / "mine.yaml")
    assert prices() == [str(chips / "mine.yaml")] * 2
    assert prices("substrate.prices=mine.yaml")[0] == str(tmp_path / "mine.yaml")  # typed in that folder
    assert prices("substrate.prices=loihi")[0] == "loihi"


def test_a_finished_job_says_that_its_prices_were_others(place: Path, file: Path) -> None:
    def once() -> str:
        console = Console(file=io.StringIO(), width=200)
        (job,) = jobs([*SMALL, f"substrate.prices={file}"], multirun=False)
        run_once(job.config, job.experiment, place / "sweep", place / "sweep" / "0", console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    write(file)
    once()
    assert ", finished before: " in once()
    write(file, 17.5)
    assert f"finished before, priced by other values than {file} has now: " in once()
    file.unlink()
