"""The recipe for a study that machines share, docs/sweeps.md, against a server of PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs the extra sweep")
pytest.importorskip("psycopg", reason="needs psycopg[binary]")

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
FOUND = shutil.which("postgres") or (str(SERVERS[-1]) if SERVERS else None)
LIMIT = 300.0
"""Seconds for anything here, on a busy machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None or not hasattr(os, "getuid"), reason="needs a server of PostgreSQL"),
]


class Server:
    """A server of its own, for the user me with the password hush."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.data = Path(FOUND or "").resolve().parent, folder / "data"
        # PostgreSQL refuses to be root, and has a user of its own where it is installed.
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "postgres", "postgres")
        word = folder / "word"
        word.write_text("hush")
        word.chmod(0o644)
        self.run("initdb", "-D", str(self.data), "-U", "me", "-A", "scram-sha-256", f"--pwfile={word}", "-N")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()
        environment = os.environ | {"PGPASSWORD": "hush"}
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "me", "studies", env=environment)

    def run(self, name: str, *words: str, env: dict[str, str] | None = None) -> None:
        command = [str(self.bin / name), *words]
        done = subprocess.run(
            command, cwd="/", env=env, capture_output=True, text=True, check=False, **self.user
        )  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        where = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(self.port)]
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", self.data, *where], cwd="/", stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, **self.user,
        )  # type: ignore[call-overload] # fmt: skip
        wait_until(self.answers)

    def answers(self) -> bool:
        command = [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self) -> None:
        """At once, as a machine that goes down."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(LIMIT)

    def url(self, word: str = "hush") -> str:
        return f"tune.storage=postgresql+psycopg://me:{word}@127.0.0.1:{self.port}/studies"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # where another user may go
        one = Server(Path(folder))
        try:
            yield one
        finally:
            one.stop()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, "has not come true"
        time.sleep(0.1)


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    program = shutil.which("gpuspike-tune", path=str(Path(sys.executable).parent))
    assert program
    sizes = ["backend=cpu", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
    command = [program, *sizes, *words]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What it has said; one line where it was refused, and never the password."""
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, err
    assert "hush" not in out + err
    assert "Traceback" not in err
    if code == 2:
        assert len(err.splitlines()) == 1, err
    return out + err


def test_the_recipe_of_the_documentation(server: Server, tmp_path: Path) -> None:
    words = (server.url(), "tune.name=recipe", "training.epochs=2")
    both = [begin(tmp_path, *words, "tune.trials=2") for _ in range(2)]
    for process in both:
        ended(process, 0)
    ended(begin(tmp_path, *words, "tune.trials=4"), 0)
    done = [path.parent.name for path in tmp_path.glob("outputs/tune/recipe/trial_*/summary.json")]
    assert 4 <= len(done) <= 5  # two processes may both begin the last trial


def test_a_server_that_stops_is_a_line_and_the_study_goes_on(server: Server, tmp_path: Path) -> None:
    words = (server.url(), "tune.name=stops", "tune.trials=1", "training.epochs=2000")
    process = begin(tmp_path, *words)
    lines = tmp_path / "outputs/tune/stops/trial_0/metrics.jsonl"
    wait_until(lambda: lines.exists() and lines.stat().st_size > 1000)
    server.stop()
    start = time.monotonic()
    told = ended(process, 2)
    assert time.monotonic() - start < 60.0
    assert (
        f"the storage postgresql+psycopg://me:***@127.0.0.1:{server.port}/studies of the study stops" in told
    )
    assert "the same command goes on when it is back" in told
    server.start()
    ended(begin(tmp_path, *words), 0)
    assert list(tmp_path.glob("outputs/tune/stops/trial_*/summary.json"))


def test_one_that_cannot_be_reached_or_does_not_know_the_user(server: Server, tmp_path: Path) -> None:
    wrong = ended(begin(tmp_path, server.url("hush-hush"), "tune.trials=1"), 2)
    assert "password authentication failed" in wrong
    server.stop()
    away = ended(begin(tmp_path, server.url(), "tune.trials=1"), 2)
    assert "cannot use the storage" in away
    assert "refused" in away
    assert list(tmp_path.iterdir()) == []
    server.start()
