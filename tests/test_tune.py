"""Searching: trials in a study that outlives its processes, pruned, continued and shared."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpuspike.cli import tune as cli_tune
from gpuspike.config.schema import Job, jobs
from gpuspike.errors import ConfigError, OutputError
from gpuspike.runs import run as runs
from gpuspike.runs import tune as tuning
from gpuspike.runs.progress import MetricsFile
from gpuspike.runs.tune import Parameter, Search, check, corners, overrides_of, tune

optuna = pytest.importorskip("optuna", reason="needs the extra sweep")

SIZES = ["dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
SMALL = ["backend=cpu", *SIZES, "training.epochs=3"]
RATE = {"optimizer.learning_rate": Parameter(low=0.001, high=0.03, log=True)}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def compose(given: Sequence[str]) -> Job:
    """A small trial."""
    (job,) = jobs([*SMALL, *given], multirun=False)
    return job


def search(**changes: Any) -> Search:
    """A search over the learning rate."""
    return Search(**{"name": "mice", "parameters": RATE, "trials": 3, "prune": False, "seed": 1} | changes)


def found(what: Search, folder: Path) -> Any:
    """The study after a search."""
    return tune(what, compose, folder, Console(file=io.StringIO()))


def test_a_search_finds_what_its_trials_reached_and_keeps_their_runs(tmp_path: Path) -> None:
    study = found(search(), tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    for trial in study.trials:
        summary = json.loads((tmp_path / f"trial_{trial.number}" / "summary.json").read_text())
        assert trial.value == summary["accuracy"]["validation"]["mean"]
        assert list(trial.intermediate_values) == [1, 2, 3]
        (given,) = overrides_of(trial)
        assert summary["run"]["overrides"][-1] == given
        rate = given.partition("=")[2]
        assert len(rate.strip("0.")) <= 5
        assert float(rate) == pytest.approx(trial.params["optimizer.learning_rate"], rel=5e-5)
        assert f"learning_rate: {rate}" in (tmp_path / f"trial_{trial.number}" / "config.yaml").read_text()
    assert study.best_value == max(trial.value for trial in study.trials)


def test_a_number_that_is_shortened_stays_within_its_ends(tmp_path: Path) -> None:
    space = {"optimizer.learning_rate": Parameter(low=0.00123456, high=0.00123458)}
    study = found(search(parameters=space, trials=4), tmp_path)
    tried = [float(overrides_of(trial)[0].partition("=")[2]) for trial in study.trials]
    assert all(0.00123456 <= value <= 0.00123458 for value in tried)
    assert len(set(tried)) == 4


def test_a_search_goes_on_up_to_its_number_of_trials(tmp_path: Path) -> None:
    found(search(trials=2), tmp_path)
    assert len(found(search(trials=4), tmp_path).trials) == 4
    assert len(found(search(trials=4), tmp_path).trials) == 4


def test_trials_of_other_values_are_not_mixed(tmp_path: Path) -> None:
    found(search(trials=1), tmp_path)

    def other(given: Sequence[str]) -> Job:
        (job,) = jobs([*SMALL, "training.batch_size=20", *given], multirun=False)
        return job

    told = (
        r"^the study mice has trials of training\.batch_size=\d+, got 20: give tune\.name=\.\.\. for another"
    )
    with pytest.raises(ConfigError, match=told):
        tune(search(trials=2), other, tmp_path, Console(file=io.StringIO()))
    assert len(found(search(trials=2), tmp_path).trials) == 2


def test_choices_and_integers_are_what_they_were_given_as(tmp_path: Path) -> None:
    space = {
        "training.batch_size": Parameter(low=50, high=100, integer=True),
        "optimizer": Parameter(choices=["adam", "sgd"]),
        "training.bump_replaces_step": Parameter(choices=[True, False]),
    }
    for trial in found(search(parameters=space), tmp_path).trials:
        assert isinstance(trial.params["training.batch_size"], int)
        assert trial.params["optimizer"] in ("adam", "sgd")


def test_a_trial_worse_than_the_median_is_pruned_and_counts(tmp_path: Path) -> None:
    def rates(low: float, high: float, trials: int) -> Search:
        space = {"optimizer.learning_rate": Parameter(low=low, high=high)}
        return search(parameters=space, trials=trials, prune=True, warm_up_trials=1, warm_up_epochs=2)

    def longer(given: Sequence[str]) -> Job:
        return compose(["training.epochs=12", "training.xi=0.02", *given])

    for what in (rates(0.02, 0.03, 1), rates(1e-6, 2e-6, 2), rates(1e-6, 2e-6, 2)):
        study = tune(what, longer, tmp_path, Console(file=io.StringIO()))
    good, bad = study.trials
    assert (good.state.name, bad.state.name) == ("COMPLETE", "PRUNED")
    assert bad.value < good.intermediate_values[bad.last_step]
    assert bad.last_step < 12
    assert (tmp_path / "trial_1" / "checkpoint.npz").exists()
    assert not (tmp_path / "trial_1" / "summary.json").exists()


def test_a_trial_stopped_by_the_user_goes_on_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MetricsFile.write

    def stop(self: MetricsFile, line: dict[str, Any]) -> None:
        if line["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)
        write(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", stop)
        with pytest.raises(KeyboardInterrupt, match="trial 0"):
            found(search(trials=1), tmp_path)
    study = found(search(trials=1), tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
    summary = json.loads((tmp_path / "trial_0" / "summary.json").read_text())
    assert summary["run"]["resumed"] == [2], "in the folder where it was stopped"
    assert not (tmp_path / "trial_1").exists()


@pytest.mark.slow
def test_a_trial_whose_process_died_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "HEARTBEAT", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dead = tuning._open(search(), tmp_path)
        rate = optuna.distributions.FloatDistribution(0.001, 0.03, log=True)
        trial = dead.ask({"optimizer.learning_rate": rate})
        dead._storage.record_heartbeat(trial._trial_id)
        time.sleep(6.0)
        study = found(search(trials=1), tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {}}, ["tune.parameters", "none"]),
        ({"trials": 0}, ["tune.trials", "at least 1", "0"]),
        ({"warm_up_epochs": -1}, ["tune.warm_up_epochs", "-1"]),
        ({"parameters": {"seed": Parameter()}}, ["seed", "low below high", "None"]),
        ({"parameters": {"seed": Parameter(low=2, high=1)}}, ["seed", "low=2"]),
        ({"parameters": {"seed": Parameter(low=0, high=float("inf"))}}, ["seed", "inf"]),
        ({"parameters": {"seed": Parameter(low=0.0, high=1, log=True)}}, ["seed", "positive"]),
        ({"parameters": {"seed": Parameter(low=0.5, high=2, integer=True)}}, ["seed", "integers", "0.5"]),
        ({"parameters": {"seed": Parameter(choices=[])}}, ["seed", "choices"]),
        ({"parameters": {"seed": Parameter(choices=[1], low=1)}}, ["seed", "choices"]),
    ],
    ids=repr,
)
def test_a_search_that_cannot_be_made_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(search(**changes))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_both_ends_of_every_parameter_are_tried_before_any_work() -> None:
    space = {
        "seed": Parameter(low=1, high=3, integer=True),
        "dtype": Parameter(choices=["float32", "float64"]),
    }
    assert corners(search(parameters=space)) == [
        ["seed=1", "dtype=float32"],
        ["seed=3", "dtype=float32"],
        ["seed=1", "dtype=float32"],
        ["seed=1", "dtype=float64"],
    ]


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/none/study.db"])
def test_a_storage_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(OutputError, match="cannot use the storage") as caught:
        found(search(storage=url), tmp_path / "study")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+nonsense://me:hush@127.0.0.1:1/studies",
        "mysql+pymysql://me:hush%40x@127.0.0.1:1/studies?charset=utf8",
        "sqlite:////proc/none/study.db?password=hush",
        "me:hush@nowhere",
        "nonsense://me:hush@x@127.0.0.1/studies",
    ],
)
def test_no_password_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(OutputError, match="cannot use the storage") as caught:
        found(search(storage=url), tmp_path)
    assert "hush" not in str(caught.value).replace("me:hush@nowhere", "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["what?", "50%", "a#b", "{x}", "%20", "a b"])
def test_a_study_is_in_its_folder_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    found(search(trials=1), place)
    assert len(found(search(trials=1), place).trials) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (place / "study.db").stat().st_size > 10_000


def test_tables_that_another_process_makes_at_the_same_time_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], tuning._storage_class()

    def late(*given: Any, **options: Any) -> Any:
        made.append(given)
        if len(made) < 3:
            raise RuntimeError("UniqueViolation: Key (typname)=(studydirection, 2200) already exists.")
        return make(*given, **options)

    monkeypatch.setattr(tuning, "_storage_class", lambda: late)
    assert len(found(search(trials=1), tmp_path).trials) == 1
    assert len(made) == 3
    made.clear()
    monkeypatch.setattr(tuning, "ATTEMPTS", 1)
    with pytest.raises(OutputError, match=r"cannot use the storage in the study's folder .* already exists"):
        found(search(trials=1), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_goes_away_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.exc import OperationalError

    gone = OperationalError("UPDATE trials", {}, Exception("server closed the connection"))
    report = optuna.Trial.report

    def lost(self: Any, value: float, step: int) -> None:
        report(self, value, step)
        for name in ("set_trial_state_values", "record_heartbeat", "get_trial"):
            monkeypatch.setattr(optuna.storages.RDBStorage, name, fail)

    def fail(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from gone

    monkeypatch.setattr(optuna.Trial, "report", lost)
    with pytest.raises(OutputError) as caught:
        found(search(trials=1), tmp_path)
    told = "the storage in the study's folder of the study mice has failed, the same command goes on when it"
    assert str(caught.value) == f"{told} is back: (builtins.Exception) server closed the connection"
    assert capsys.readouterr().err == ""


def test_another_space_under_the_same_name_is_refused(tmp_path: Path) -> None:
    found(search(parameters={"dtype": Parameter(choices=["float64"])}, trials=1), tmp_path)
    with pytest.raises(ConfigError, match=r"change tune\.name"):
        found(search(parameters={"dtype": Parameter(choices=["float64", "float32"])}, trials=2), tmp_path)


# ---- the command line


def test_the_command_line_changes_the_search_and_its_trials() -> None:
    what, others = cli_tune.read(["tune=yin_yang", "tune.trials=7", "seed=3", "tune.storage=sqlite:///a.db"])
    assert (what.name, what.trials, what.storage) == ("yin_yang", 7, "sqlite:///a.db")
    assert others == ["seed=3"]
    assert what.parameters["optimizer.learning_rate"] == Parameter(low=0.001, high=0.03, log=True)


def test_a_file_of_one_s_own_is_a_search(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nparameters:\n  seed: {low: 0, high: 9, integer: true}\n")
    assert cli_tune.read([f"tune={path}"])[0].parameters == {"seed": Parameter(low=0, high=9, integer=True)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune=none"], "tune must be one of"),
        (["tune.trals=3"], "did you mean tune.trials?"),
        (["tune.trials=many"], "tune.trials must be an integer, got many"),
        (["tune.name="], "tune.name must be text, got nothing"),
        (["trials=3"], "there is no key trials; valid keys: tune.name, tune.parameters,"),
        (["trials=3"], "and those of a run; did you mean tune.trials?"),
        (["-m"], "gpuspike-tune takes KEY=VALUE, got -m"),
        (["seed"], "gpuspike-tune takes KEY=VALUE, got seed"),
        (["tune=/proc/none.yaml"], "tune: there is no file /proc/none.yaml, seen from /"),
        (["hydra.run.dir=x"], "set tune.folder instead of hydra.run.dir=x"),
        (["++hydra.run.dir=x"], "set tune.folder"),
        (["hydra/launcher=joblib"], "set tune.folder"),
    ],
    ids=repr,
)
def test_a_command_line_that_cannot_be_read_is_refused_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli_tune.read(arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must hold keys and their values, trials: 40 and so on, got ['a', 'b']"),
        ("name: [a]\n", "tune.name must be text, got ['a']"),
        ("overrides: experiment=yin_yang\n", "tune.overrides must be a list of texts, [experiment=yin_yang"),
        (
            "overrides: [{experiment: yin_yang}]\n",
            "a list of texts, [experiment=yin_yang, replicas=3], got [{",
        ),
        (
            "parameters: [seed]\n",
            "tune.parameters must have a line for each key that is searched, optimizer.",
        ),
        (
            "parameters: {seed: 3}\n",
            "tune.parameters.seed must say what is searched, optimizer.learning_rate: {",
        ),
        ("parameters: {seed: {choices: 3}}\n", "tune.parameters.seed.choices must be a list, got 3"),
        ("parameters: {seed: {low: a, high: 1e-1}}\n", "tune.parameters.seed.low must be a number, got a"),
        (
            "parameters: {seed: {low: 0, high: true}}\n",
            "tune.parameters.seed.high must be a number, got True",
        ),
        ("parameters: {seed: {log: maybe}}\n", "tune.parameters.seed.log must be true or false, got maybe"),
        ("parameters: {seed: {lo: 1}}\n", "there is no key parameters.seed.lo; valid keys: low, high, log"),
    ],
    ids=repr,
)
def test_a_file_of_another_form_is_refused_with_the_form(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        cli_tune.read([f"tune={path}"])
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["epochs=3", "epxeriment=mnist", "+seed=3", "optimizer@x=sgd"])
def test_keys_of_a_run_are_left_to_its_own_refusal(text: str) -> None:
    assert cli_tune.read([text])[1] == [text]


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts gpuspike-tune on small trials."""
    command = shutil.which("gpuspike-tune", path=str(Path(sys.executable).parent))
    assert command, "gpuspike-tune is not installed beside this Python: pip install -e ."

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [command, "replicas=1", *SMALL, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_bad_input_ends_with_code_2_and_one_line_and_leaves_nothing(
    tmp_path: Path, run_command: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nparameters:\n  optimizer.learning_rat: {low: 0.1, high: 0.2}\n")
    process = run_command(f"tune={path}")
    stdout, stderr = process.communicate(timeout=600)
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith("gpuspike-tune: error: ")
    assert "learning_rat" in stderr
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_may_be_killed(
    tmp_path: Path, run_command: Callable[..., subprocess.Popen[str]]
) -> None:
    database = f"tune.storage=sqlite:///{tmp_path / 'shared.db'}"
    given = [database, "tune.trials=4", "tune.prune=false"]
    folder = tmp_path / "outputs" / "tune" / "yin_yang"
    killed = run_command(*given, "training.epochs=100000")
    while killed.poll() is None and not (folder / "trial_0" / "checkpoint.npz").exists():
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    both = [run_command(*given) for _ in range(2)]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [stderr for _, stderr in said] == ["", ""]
    assert "gpuspike-train experiment=yin_yang" in said[0][0]
    study = optuna.load_study(study_name="yin_yang", storage=f"sqlite:///{tmp_path / 'shared.db'}")
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert 4 <= len(complete) <= 5, "both may have begun the last one"
    assert len({trial.params["optimizer.learning_rate"] for trial in complete}) == len(complete)


def test_a_trial_that_diverges_is_pruned_and_the_search_goes_on(tmp_path: Path) -> None:
    """By kind: one bad guess of a search must not cost the others."""
    rates = {"optimizer.learning_rate": Parameter(choices=[0.01, 1e300])}
    screen = io.StringIO()
    study = tune(search(parameters=rates, trials=4), compose, tmp_path, Console(file=screen, width=300))
    states = {trial.params["optimizer.learning_rate"]: trial.state.name for trial in study.trials}
    assert states == {0.01: "COMPLETE", 1e300: "PRUNED"}
    assert "training diverges in epoch 1" in screen.getvalue()
