"""A real cluster of this machine: jobs that are cancelled, refused, left alone, asked for again, requeued.

Needs Debian's slurm-wlm and munge, and to be root; `tests/test_cluster.py` has what needs neither.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="needs the extra sweep")

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
LIMIT = 300.0
"""Seconds for anything here, on a busy machine."""
ENDLESS = "training.epochs=1000000"
HERE = [
    "-m", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1", "hydra.sweep.dir=swept", "backend=cpu", "dataset.n_train=300",
    "dataset.n_validation=100", "dataset.n_test=100",
]  # fmt: skip
CONF = """ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000
PartitionName=main Nodes=ALL Default=YES State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "getuid")
        or os.getuid() != 0
        or any(shutil.which(name, path=PATH) is None for name in PROGRAMS),
        reason="needs slurm-wlm and munge, and to be root",
    ),
]


def wait_until(true: Callable[[], bool], running: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, "has not come true"
        assert running is None or running.poll() is None, running.communicate()[1]
        time.sleep(0.2)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster, which the programs find by SLURM_CONF."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    cores = max(2, os.cpu_count() or 1)
    conf = CONF.format(
        host=socket.gethostname().split(".")[0], folder=folder, ports=free_ports(), cores=cores
    )
    (folder / "slurm.conf").write_text(conf)
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}"
        for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
    ]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        # A shell's background ignores it, and so would all that is started here.
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PATH", PATH)
        for command in (["munged", "-F", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D", "-c"]):
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait, LIMIT)
            stack.callback(process.terminate)
            if command[0] == "munged":
                wait_until((folder / "munge.socket").exists)
        wait_until(lambda: "idle" in said("sinfo", "--noheader", "--format=%T"))
        stack.callback(wait_until, lambda: not jobs())
        stack.callback(said, "scancel", "--me")
        yield


def jobs(state: str = "") -> list[str]:
    """Numbers of the jobs that are not over, or are in a state."""
    lines = said("squeue", "--me", "--array", "--noheader", "--format=%i %T").splitlines()
    return [line.split()[0] for line in lines if line.endswith(state) and "COMPLETING" not in line]


@pytest.fixture
def begin(slurm: None, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command, in the test's folder; what it leaves behind is cancelled."""
    program = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert program
    started = []

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [program, *HERE, *words],
                cwd=tmp_path,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    said("scancel", "--me")
    wait_until(lambda: not jobs())


def errors(text: str) -> list[str]:
    """Lines of standard error, without a traceback among them."""
    assert "Traceback" not in text
    return text.strip().splitlines()


def test_a_cancelled_job_costs_itself_alone(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    waiting = begin("training.epochs=2,1000000")
    wait_until((tmp_path / "swept" / "0" / "summary.json").exists, waiting)
    wait_until((tmp_path / "swept" / "1" / "checkpoint.npz").exists, waiting)
    wait_until(lambda: len(jobs()) == 1)
    (number,) = jobs()
    said("scancel", number)
    out, err = waiting.communicate(timeout=LIMIT)
    assert waiting.returncode == 2, err
    told = [line for line in errors(err) if "failed" in line]
    assert told[0].startswith(f"gpuspike-train: job 1 failed: job 1 was {number} on the cluster, which ended")
    assert "cancelled" in told[0]
    assert "1 finished" in out


def test_jobs_run_on_and_the_same_command_waits_for_them(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    waiting = begin(ENDLESS, "seed=0,1")
    wait_until(lambda: all((tmp_path / "swept" / n / "checkpoint.npz").exists() for n in "01"), waiting)
    numbers = jobs()
    assert len(numbers) == 2
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=LIMIT)
    assert waiting.returncode == 130
    assert f"jobs run on: scancel {numbers[0].partition('_')[0]} cancels them" in errors(err)[-1]
    assert jobs() == numbers

    again = begin(ENDLESS, "seed=0,1")
    notes = tmp_path / "swept" / ".submitit" / "jobs.json"
    before = notes.stat().st_mtime_ns
    wait_until(lambda: notes.stat().st_mtime_ns != before, again)
    assert jobs() == numbers, "nothing is submitted twice"
    said("scancel", "--me")
    _, err = again.communicate(timeout=LIMIT)
    assert again.returncode == 2
    assert sum(line.startswith("gpuspike-train: job ") for line in errors(err)) == 2


def test_a_refused_submission_is_one_line(begin: Callable[..., subprocess.Popen[str]]) -> None:
    refused = begin("training.epochs=2", "seed=0,1", "hydra.launcher.gpus_per_node=1")
    _, err = refused.communicate(timeout=LIMIT)
    assert refused.returncode == 2
    assert errors(err)[-1].startswith("gpuspike-train: error: the cluster refuses the jobs: sbatch: error: ")
    assert jobs() == []


def test_a_requeued_job_goes_on_and_says_so_in_few_lines(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    waiting = begin("training.epochs=20000", "seed=3")
    run = tmp_path / "swept" / "0"
    wait_until((run / "checkpoint.npz").exists, waiting)
    (number,) = jobs()
    said("scancel", "--signal=USR2", number)
    wait_until(lambda: not jobs("RUNNING"))

    def n_lines() -> int:
        logs = (tmp_path / "swept" / ".submitit").glob("*/*log*")
        return sum(len(path.read_text().splitlines()) for path in logs)

    reached = len((run / "metrics.jsonl").read_text().splitlines())
    wait_until(lambda: bool(jobs("RUNNING")))
    wait_until(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > reached + 1)
    assert n_lines() < 60
    said("scancel", "--me")
    waiting.communicate(timeout=LIMIT)
    epochs = [
        int(line.split('"epoch": ')[1].split(",")[0])
        for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]
    ]
    assert epochs == list(range(1, len(epochs) + 1)), "each epoch once"
