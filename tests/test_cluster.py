"""Jobs on a cluster: one that is cancelled, a cluster that refuses, a command that is repeated."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuspike.cli import cluster
from gpuspike.config.schema import jobs
from gpuspike.errors import ConfigError, OutputError

submitit = pytest.importorskip("submitit", reason="needs the extra sweep")
SMALL = ["training.epochs=1", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]


class FakeJob:
    """A job that ends as it is told to."""

    def __init__(self, number: int, end: BaseException | None = None, state: str = "CANCELLED by 0") -> None:
        self.job_id, self.state = f"17_{number}", state
        self.paths = SimpleNamespace(folder=Path("there"), stderr=Path("there/17_err"))
        self.end = end

    def results(self) -> list[Any]:
        """Its number, or its end."""
        if self.end is not None:
            raise self.end
        return [self.job_id]


def uncompleted(text: str = "Job 17 has not produced any output\nmany\nlines") -> Exception:
    return submitit.core.utils.UncompletedJobError(text)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("CANCELLED by 0", "cancelled by 0"),
        ("OUT_OF_MEMORY", "out_of_memory"),
        ("COMPLETED", "Job 17 has not"),
    ],
)
def test_a_job_that_ends_badly_is_its_own_result(
    capsys: pytest.CaptureFixture[str], state: str, reason: str
) -> None:
    waited = [
        cluster.Awaited(job, k, ["seed=1"], ["17_0", "17_1"])
        for k, job in enumerate([FakeJob(0, uncompleted(), state), FakeJob(1)])
    ]
    results = [one.results()[0] for one in waited]
    assert results[1] == "17_1"
    said = capsys.readouterr().err
    assert said.startswith("gpuspike-train: job 0 failed: job 0 was 17_0 on the cluster, which ended without")
    assert reason in said
    assert said.count("\n") == 1
    with pytest.raises(OutputError, match="see there/17_err; the same command goes on with it"):
        _ = results[0].return_value


def test_whoever_stops_waiting_is_told_that_jobs_run_on() -> None:
    job = cluster.Awaited(FakeJob(0, KeyboardInterrupt()), 0, [], ["17_0", "17_1", "18_0"])
    with pytest.raises(KeyboardInterrupt, match="jobs run on: scancel 17 18 cancels them, the same command"):
        job.results()


def test_a_repeated_command_waits_for_the_jobs_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[list[Any]] = []

    class Executor:
        def map_array(self, function: Any, *columns: Any) -> list[FakeJob]:
            rows = list(zip(*columns, strict=True))
            submitted.append([row[0] for row in rows])
            return [FakeJob(row[2]) for row in rows]

    (tmp_path / ".submitit").mkdir()
    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    alive = {"17_0"}
    monkeypatch.setattr(cluster, "_alive", lambda job: job.job_id in alive)

    def ask(*seeds: int) -> list[str]:
        columns = [[f"seed={seed}"] for seed in seeds], ["dir"] * len(seeds), range(len(seeds))
        with cluster.patient(tmp_path):
            return [str(job._job.job_id) for job in submitit.AutoExecutor().map_array(print, *columns)]

    assert ask(0, 1) == ["17_0", "17_1"]
    assert ask(1, 0) == ["17_0", "17_0"]  # the first is new, and gets the number of its place
    assert submitted == [[["seed=0"], ["seed=1"]], [["seed=1"]]]
    (tmp_path / ".submitit" / "jobs.json").write_text("{")
    assert ask(0) == ["17_0"]
    assert len(submitted) == 3
    assert submitit.AutoExecutor is Executor


def programs(folder: Path, **texts: str) -> dict[str, str]:
    """An environment with these programs of SLURM."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    return os.environ | {"PATH": str(folder)}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, 'no cluster takes jobs here: Could not detect "srun", are you indeed on a slurm cluster?'),
        (
            {
                "srun": "exit 0",
                "sbatch": "echo 'sbatch: error: Batch job submission failed: no GPU' >&2; exit 1",
            },
            "the cluster refuses the jobs: sbatch: error: Batch job submission failed: no GPU",
        ),
    ],
)
def test_a_cluster_that_takes_no_jobs_is_said_in_one_line(
    tmp_path: Path, texts: dict[str, str], words: str
) -> None:
    command = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert command
    given = ["-m", "hydra/launcher=slurm", "seed=0,1", *SMALL, "hydra.sweep.dir=swept"]
    environment = programs(tmp_path / "bin", **texts)
    done = subprocess.run(
        [command, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"gpuspike-train: error: {words}"
    assert "Traceback" not in done.stderr


def test_a_job_must_have_time_to_begin() -> None:
    given = ["hydra/launcher=slurm", "seed=0,1", "hydra.launcher.timeout_min=3"]
    assert len(jobs(given, multirun=True)) == 2
    with pytest.raises(ConfigError, match=r"timeout_min must be at least 4, .*signal_delay_s=150, got 3"):
        jobs([*given, "hydra.launcher.signal_delay_s=150"], multirun=True)


def test_a_cluster_without_accounts_is_asked_for_its_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
    queue = "echo '17_0|RUNNING|n1'; echo '17_1|CANCELLED|n1'; echo '18|PENDING|'"
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", sacct=accounts, squeue=queue)["PATH"])
    watcher = cluster._watcher()
    for name in ("17_0", "17_1", "17_2", "18"):
        watcher.register_job(name)
    states = [watcher.get_state(name, mode="force") for name in ("17_0", "17_1", "17_2", "18")]
    assert states == ["RUNNING", "CANCELLED", "COMPLETED", "PENDING"]
    assert [watcher.is_done(name, mode="cache") for name in ("17_1", "17_2")] == [True, True]
    accounts = "echo 'JobID|State|NodeList'; echo '17_0|TIMEOUT|n1'"
    (tmp_path / "bin" / "sacct").write_text(f"#!/bin/sh\n{accounts}\n")
    watcher.update()
    assert watcher.get_state("17_0", mode="cache") == "TIMEOUT"
    (tmp_path / "bin" / "sacct").unlink()
    (tmp_path / "bin" / "squeue").unlink()
    watcher.update()
    assert watcher.get_state("18", mode="cache") == "PENDING", "what was known last"
    assert capsys.readouterr() == ("", "")
