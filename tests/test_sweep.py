"""Sweeps: each job once, whatever happens in between, here, side by side and as a cluster would run them."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpuspike.cli import report
from gpuspike.config.schema import Config, jobs
from gpuspike.errors import ConfigError, DataError
from gpuspike.report.sweep_table import sweep_table
from gpuspike.runs import run as runs
from gpuspike.runs import sweep
from gpuspike.runs.progress import MetricsFile
from gpuspike.store import checkpoint
from gpuspike.store.sweep_folder import differences, read_sweep

SMALL = ["backend=cpu", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]


def small(*overrides: str) -> Config:
    """The configuration of a small run."""
    (job,) = jobs([*SMALL, "training.epochs=4", *overrides], multirun=False)
    return job.config


def once(folder: Path, number: int, *overrides: str) -> tuple[dict[str, Any], str]:
    """A job of the sweep in a folder: its summary, and what it said."""
    screen = io.StringIO()
    console = Console(file=screen, width=500)
    given = small(*overrides)
    return sweep.run_once(given, "test", folder, folder / str(number), console, overrides), screen.getvalue()


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def stop_at(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C in an epoch."""
    write = MetricsFile.write

    def stop(self: MetricsFile, line: dict[str, Any]) -> None:
        if line["epoch"] == epoch:
            signal.raise_signal(signal.SIGINT)
        write(self, line)

    monkeypatch.setattr(MetricsFile, "write", stop)


def test_a_finished_job_is_skipped_wherever_it_stands_in_the_sweep(tmp_path: Path) -> None:
    first, _ = once(tmp_path, 0, "seed=3")
    again, said = once(tmp_path, 7, "seed=3")
    assert again == first
    assert said.startswith("job 7  test ")
    assert said.strip().endswith(f"finished before: {tmp_path / '0'}")
    assert said.count("\n") == 1
    assert not (tmp_path / "7").exists()


def test_what_only_watches_a_job_does_not_make_it_another(tmp_path: Path) -> None:
    once(tmp_path, 0)
    assert "finished before" in once(tmp_path, 1, "tracking.project=other")[1]


def test_another_job_under_the_same_number_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    once(tmp_path, 0, "seed=0")
    before = (tmp_path / "0" / "summary.json").read_bytes()
    once(tmp_path, 0, "seed=1")
    (other,) = tmp_path.glob("0-*")
    assert json.loads((other / "summary.json").read_text())["provenance"]["seed"] == 1
    assert (tmp_path / "0" / "summary.json").read_bytes() == before
    assert str(other) in once(tmp_path, 5, "seed=1")[1]


def test_a_stopped_job_goes_on_and_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert once(tmp_path / "stopped", 0)[0]["run"]["interrupted"]
    summary, said = once(tmp_path / "stopped", 1)
    assert "resumed" in said
    assert summary["run"]["resumed"] == [2]
    expected, _ = once(tmp_path / "whole", 0)
    assert summary["accuracy"] == expected["accuracy"]
    arrays, _ = checkpoint.load(tmp_path / "stopped" / "0" / "checkpoint.npz")
    whole, _ = checkpoint.load(tmp_path / "whole" / "0" / "checkpoint.npz")
    assert all(arrays[name].tobytes() == whole[name].tobytes() for name in whole)
    assert "finished before" in once(tmp_path / "stopped", 0)[1]


def test_a_job_killed_before_its_first_checkpoint_keeps_its_name(tmp_path: Path) -> None:
    once(tmp_path, 0, "seed=3")
    for path in [*(tmp_path / "0").glob("*.npz"), *(tmp_path / "0").glob("*.json*")]:
        path.unlink()
    summary, _ = once(tmp_path, 0, "seed=3")
    assert (summary["run"]["experiment"], summary["run"]["overrides"]) == ("test", ["seed=3"])


def test_a_finished_job_whose_folder_is_gone_is_run_again(tmp_path: Path) -> None:
    once(tmp_path, 0)
    shutil.rmtree(tmp_path / "0")
    assert "finished before" not in once(tmp_path, 0)[1]
    assert (tmp_path / "0" / "summary.json").exists()


def test_a_failed_job_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs.report, "write_report", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(OSError, match="disk full"):
            once(tmp_path, 0)
    assert "resumed" in once(tmp_path, 0)[1]
    assert "finished before" in once(tmp_path, 0)[1]


def test_a_failed_job_is_known_by_its_values_where_it_has_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once(tmp_path, 0, "seed=0")

    def fails(*_: Any, **__: Any) -> None:
        raise ConfigError("no such luck")

    monkeypatch.setattr(sweep, "run", fails)
    with pytest.raises(ConfigError):
        once(tmp_path, 1, "seed=1")
    shutil.rmtree(tmp_path / "1", ignore_errors=True)
    good, bad = read_sweep(tmp_path)
    assert (bad.name, bad.state, bad.note, bad.config["seed"]) == ("1", "failed", "no such luck", 1)
    assert differences([good, bad]) == ["seed"]
    screen = Console(file=io.StringIO(), width=100)
    screen.print(sweep_table([good, bad]))
    assert screen.file.getvalue().split()[-5:] == ["1", "1", "failed", "-", "-"]  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "argv", ["gpuspike-report", str(tmp_path)])
    report.report()
    assert "1 seed=1: failed, no such luck" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"folder": "0"}', "[" * 9999, "\0"])
def test_a_damaged_mark_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    once(tmp_path, 0)
    (mark,) = (tmp_path / "jobs").iterdir()
    mark.write_text(text)
    with pytest.raises(DataError, match="cannot be read") as caught:
        once(tmp_path, 0)
    assert "\n" not in str(caught.value)
    assert mark.read_text() == text


# ---- the command


def command() -> str:
    """The installed gpuspike-train beside this Python."""
    found = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert found
    return found


def train(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder until it ends."""
    return subprocess.run(
        [command(), *arguments], cwd=place, capture_output=True, text=True, timeout=600, check=False
    )


def finished(folder: Path) -> dict[str, bytes]:
    """The summaries of a sweep's finished jobs, by folder."""
    marks = [json.loads(path.read_text()) for path in (folder / "jobs").glob("*.json")]
    return {
        mark["folder"]: (folder / mark["folder"] / "summary.json").read_bytes()
        for mark in marks
        if mark["finished"]
    }


def test_a_job_that_fails_does_not_stop_the_others_and_is_run_again(tmp_path: Path) -> None:
    given = ["-m", *SMALL, "training.epochs=1", "seed=0,1,2", "hydra.sweep.dir=swept"]
    assert train(tmp_path, *given).returncode == 0
    marks = {json.loads(path.read_text())["folder"]: path for path in (tmp_path / "swept" / "jobs").iterdir()}
    whole = marks["1"].read_text()
    marks["1"].write_text("damaged")
    shutil.rmtree(tmp_path / "swept" / "2")
    answer = train(tmp_path, *given)
    assert answer.returncode == 2
    assert "gpuspike-train: job 1 failed: " in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("gpuspike-train: error: ")
    assert "Error executing job" not in answer.stderr
    assert "Traceback" not in answer.stderr
    assert (tmp_path / "swept" / "2" / "summary.json").exists(), "the job after the failed one was run"
    marks["1"].write_text(whole.replace("true", "false"))
    answer = train(tmp_path, *given)
    assert answer.returncode == 0
    assert answer.stdout.count("finished before") == 2
    assert finished(tmp_path / "swept").keys() == {"0", "1", "2"}


@pytest.mark.parametrize("launcher", ["submitit_local", pytest.param("parallel", marks=pytest.mark.slow)])
def test_a_launcher_runs_the_jobs_and_skips_the_finished_ones(tmp_path: Path, launcher: str) -> None:
    pytest.importorskip("submitit", reason="needs the extra sweep")
    given = [*SMALL, "training.epochs=2", f"hydra/launcher={launcher}", "hydra.sweep.dir=swept"]
    answer = train(tmp_path, "-m", *given, "seed=0,1")
    assert answer.returncode == 0, answer.stderr
    before = finished(tmp_path / "swept")
    assert before.keys() == {"0", "1"}
    answer = train(tmp_path, "-m", *given, "seed=0,1,2")
    assert answer.returncode == 0, answer.stderr
    after = finished(tmp_path / "swept")
    assert after.keys() == {"0", "1", "2"}
    assert before.items() <= after.items()
    reference, _ = once(tmp_path / "reference", 0, "training.epochs=2", "seed=2")
    assert json.loads(after["2"])["accuracy"] == reference["accuracy"]


def test_the_launcher_for_a_cluster_asks_for_a_gpu_and_comes_back_after_a_timeout() -> None:
    pytest.importorskip("submitit", reason="needs the extra sweep")
    answer = subprocess.run(
        [command(), "--cfg", "hydra", "--package", "hydra.launcher", "hydra/launcher=slurm"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SlurmLauncher" in answer.stdout
    for line in ("gpus_per_node: 1", "max_num_timeout: 10", "timeout_min: 240"):
        assert line in answer.stdout


def test_a_launcher_that_is_not_installed_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'gpuspike\[sweep\]'") as caught:
        jobs(["hydra/launcher=nowhere"], multirun=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_forty_jobs_interrupted_and_repeated_run_once_each(tmp_path: Path) -> None:
    luck = random.Random(3)
    seeds = ",".join(map(str, range(40)))
    given = ["-m", *SMALL, "training.epochs=3", f"seed={seeds}", "hydra.sweep.dir=swept"]
    done: dict[str, bytes] = {}
    starts = 0
    while True:
        process = subprocess.Popen(
            [command(), *given], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        starts += 1
        if starts <= 4:
            target = len(done) + luck.randint(3, 8)
            while process.poll() is None and len(finished_marks(tmp_path / "swept")) < target:
                time.sleep(0.01)
            time.sleep(luck.uniform(0.0, 1.5))
            process.kill()
        output, _ = process.communicate(timeout=600)
        now = finished(tmp_path / "swept")
        assert done.items() <= now.items(), "no finished job was touched again"
        assert output.count("finished before") <= len(done) + 1
        done = now
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert starts == 5
    assert len(done) == 40
    assert {json.loads(summary)["provenance"]["seed"] for summary in done.values()} == set(range(40))
    assert {path.name for path in (tmp_path / "swept").iterdir() if path.is_dir()} == {
        *map(str, range(40)),
        "jobs",
    }


def finished_marks(folder: Path) -> list[Path]:
    """Marks that say finished, while they are being written."""
    return [path for path in (folder / "jobs").glob("*.json") if "true" in path.read_text()]
