"""Odd machines: folders that are gone, links to nowhere, pipes in place of files, runs of one second."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpuspike.accountant import read_prices
from gpuspike.cli.words import named_by_time, pinned
from gpuspike.datasets.arrays import load_arrays
from gpuspike.errors import ConfigError, DataError, GpuspikeError, OutputError
from gpuspike.reading import opened, text_of
from gpuspike.store import checkpoint, resume
from gpuspike.store.run_folder import check_folder, remove_empty, reserve
from gpuspike.store.sweep_folder import read_sweep

SMALL = ["training.epochs=1", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
PROGRAMS = (
    "train -m seed=0,1",
    "train",
    "evaluate run=x",
    "plan",
    "tune",
    "report x",
    "export x y",
    "price x",
    "import x y",
)


def program(name: str) -> str:
    found = shutil.which(f"gpuspike-{name}", path=str(Path(sys.executable).parent))
    assert found
    return found


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("train"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", PROGRAMS)
def test_a_working_folder_that_is_gone_is_said_in_one_line(tmp_path: Path, words: str) -> None:
    name, *arguments = words.split()
    command = [
        "sh",
        "-c",
        'cd "$1"; rmdir "$1"; shift; exec "$@"',
        "sh",
        str(tmp_path),
        program(name),
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gpuspike-{name}: error: the working folder must exist, got one that has been deleted: "
        "No such file or directory\n"
    )


def test_a_link_to_nowhere_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(OutputError, match=r"link, a link to nowhere$"):
            check_folder(folder)
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    """A run's and a sweep's folder whose files are pipes that nobody writes to."""
    for place in (tmp_path, tmp_path / "0"):
        place.mkdir(exist_ok=True)
        for name in (
            "config.yaml",
            "metrics.jsonl",
            "summary.json",
            "checkpoint.npz",
            "prices.yaml",
            "data.npz",
        ):
            os.mkfifo(place / name)
    return tmp_path


def test_pipes_are_no_files(pipes: Path) -> None:
    for read in (opened, text_of):
        for path in (pipes / "summary.json", Path("/dev/zero"), pipes):
            with pytest.raises(OSError, match=r"it is a folder|it is no regular file|Is a directory"):
                read(path)
    with pytest.raises(DataError, match="it is no regular file"):
        checkpoint.load(pipes / "checkpoint.npz")
    with pytest.raises(ConfigError, match="it is no regular file"):
        read_prices(pipes / "prices.yaml")
    with pytest.raises(DataError):
        load_arrays(pipes / "data.npz", 1, 1, 1)
    with pytest.raises(DataError):
        resume.read(pipes)
    (pipes / "config.yaml").unlink()
    (job,) = read_sweep(pipes)
    assert (job.state, job.note) == ("damaged", "summary.json cannot be read; config.yaml cannot be read")


def test_a_pipe_among_the_files_of_a_run_is_refused(pipes: Path) -> None:
    (pipes / "checkpoint.npz").unlink()
    with pytest.raises(GpuspikeError):
        resume.read(pipes)


def test_text_is_read_as_python_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("a\r\nß\n".encode())
    assert text_of(tmp_path / "a") == "a\nß\n"


def test_folders_named_by_the_clock_are_told_from_others() -> None:
    by_time = Path("outputs/x/2026-01-02_03-04-05")
    assert named_by_time(by_time, ["seed=1"])
    assert named_by_time(by_time.with_name("sweep_2026-01-02_03-04-05_first"), ["name=first"])
    assert not named_by_time(by_time, [f"hydra.run.dir={by_time}"])
    assert not named_by_time(Path("outputs/robustness/gain"), [])
    assert pinned(["a=1", "hydra.run.dir=${x}"], Path("it's"), "hydra.run.dir") == [
        "a=1",
        r"hydra.run.dir='it\'s'",
    ]


def test_a_folder_is_nobody_else_s(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "now"
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda _: reserve(folder), range(24)))
    assert {place.name for place in places} == {"now", *(f"now_{k}" for k in range(2, 25))}
    for place in places:
        remove_empty(place, {tmp_path})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write the run to .*file"):
        reserve(tmp_path / "file" / "now")


def test_runs_of_one_second_have_a_folder_each(tmp_path: Path) -> None:
    for second in range(60):  # those of the next minute are there already
        name = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(time.time() + second))
        (tmp_path / "outputs" / "yin_yang" / name).mkdir(parents=True)
    done = train(tmp_path, *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    (summary,) = tmp_path.glob("outputs/yin_yang/*/summary.json")
    assert summary.parent.name.endswith("_2")


def test_paths_are_those_of_whoever_typed_them(tmp_path: Path) -> None:
    done = train(tmp_path, *SMALL, "hydra.job.chdir=true", "hydra.run.dir=out", "substrate.prices=mine.yaml")
    assert "mine.yaml" in done.stderr
    prices = Path(__file__).parent.parent / "conf" / "prices" / "loihi2.yaml"
    shutil.copy(prices, tmp_path / "mine.yaml")
    done = train(tmp_path, *SMALL, "hydra.job.chdir=true", "hydra.run.dir=out", "substrate.prices=mine.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["run"]["epochs_done"] == 1


def test_a_pipe_in_the_place_of_config_yaml_is_not_waited_for(tmp_path: Path) -> None:
    done = train(tmp_path, *SMALL, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "run" / "config.yaml").unlink()
    os.mkfifo(tmp_path / "run" / "config.yaml")
    done = train(tmp_path, "resume=run")
    assert done.returncode == 2
    assert "config.yaml: it is no regular file" in done.stderr
