"""The command itself, in a process of its own: what a run leaves, and what bad input and Ctrl-C do not."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuspike import backend
from gpuspike.config.schema import Config, jobs
from gpuspike.runs import run as runs
from gpuspike.runs.progress import MetricsFile
from gpuspike.store import checkpoint

REPOSITORY = Path(__file__).parent.parent
SMALL = ["training.epochs=2", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
FIGURES = {
    "learning_curves", "plane", "spike_time_histograms", "spike_raster", "confusion_matrix",
    "membrane_traces", "anytime", "silence",
}  # fmt: skip
SPLITS = ("train", "validation", "test")
CHIP = {
    "name", "time_to_decision_s", "seconds_per_sample", "samples_per_s", "energy_per_classification_J",
    "energy_terms_J", "evidence", "spikes_per_sample", "synaptic_events_per_sample",
}  # fmt: skip
LONG = 600.0  # a guard against waiting for ever, not a measure: machines are busy
"""Seconds after which a command that should have ended is taken for stuck."""


def command() -> str:
    """The installed gpuspike-train beside this Python."""
    found = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert found, "gpuspike-train is not installed beside this Python: pip install -e ."
    return found


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder until it ends."""
    return subprocess.run(
        [command(), *arguments], cwd=folder, capture_output=True, text=True, timeout=2 * LONG, check=False
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; none yet where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """All files with their contents, and all folders, below a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# ---- runs that end well


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file are made."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def both(place: Path) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """A run of two replicas and a sweep over their seeds, side by side to save time."""
    arguments = ([*SMALL, "replicas=2"], ["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=swept"])
    with ThreadPoolExecutor() as pool:
        run, sweep = pool.map(lambda given: train(place, *given), arguments)
    return run, sweep


@pytest.fixture(scope="module")
def done(place: Path, both: tuple[Any, Any]) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of the run of two replicas, and what the command said."""
    assert both[0].returncode == 0, both[0].stderr
    (folder,) = (place / "outputs" / "yin_yang").iterdir()
    return folder, both[0]


@pytest.fixture(scope="module")
def swept(place: Path, both: tuple[Any, Any]) -> Path:
    """The folder of the sweep over the two seeds, one replica each."""
    assert both[1].returncode == 0, both[1].stderr
    assert both[1].stderr == ""
    return place / "swept"


@pytest.fixture(scope="module")
def summary(done: tuple[Path, Any]) -> dict[str, Any]:
    """The run's summary.json."""
    return json.loads((done[0] / "summary.json").read_text())


def test_a_run_says_where_it_is_and_nothing_on_stderr(done: tuple[Path, Any]) -> None:
    folder, answer = done
    assert answer.stderr == ""
    assert str(folder) in answer.stdout
    assert str(folder / "report.html") in answer.stdout
    for word in ("yin_yang", "4-120-3", "2 replicas", "seed 0", "epoch 2/2", "test accuracy"):
        assert word in answer.stdout
    assert answer.stdout.index("\nstep     compiled\n") < answer.stdout.index("epoch 1/2")


def test_a_run_leaves_its_files_and_no_others(done: tuple[Path, Any]) -> None:
    folder, _ = done
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "checkpoint.npz",
        "checkpoint.previous.npz",
        "report.html",
        "figures",
    }
    expected = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    assert {path.name for path in (folder / "figures").iterdir()} == expected
    for path in folder.rglob("*"):
        assert path.is_dir() or path.stat().st_size > 0, path
    for path in (folder / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in (folder / "figures").glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF")


def test_metrics_have_a_line_an_epoch_with_a_number_for_each_replica(done: tuple[Path, Any]) -> None:
    records = lines(done[0] / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record.keys() == {
            "epoch", "learning_rate", "train_loss", "train_accuracy", "validation_loss",
            "validation_accuracy", "silent_fraction", "bump_fraction", "never_spiking",
            "train_samples_per_s",
        }  # fmt: skip
        assert record["learning_rate"] == 0.005
        for key in (
            "train_loss",
            "train_accuracy",
            "validation_loss",
            "validation_accuracy",
            "bump_fraction",
        ):
            assert len(record[key]) == 2, key
            assert all(math.isfinite(value) for value in record[key]), key
        assert np.shape(record["silent_fraction"]) == (2, 2), "layers before replicas"
        assert record["train_samples_per_s"] > 0.0


def test_the_summary_has_every_key_of_the_contract(summary: dict[str, Any]) -> None:
    for split in SPLITS:
        accuracy = summary["accuracy"][split]
        per_replica = np.array(accuracy["per_replica"])
        assert per_replica.shape == (2,)
        assert ((per_replica >= 0.0) & (per_replica <= 1.0)).all()
        assert accuracy["mean"] == pytest.approx(per_replica.mean())
        assert accuracy["std"] == pytest.approx(per_replica.std(ddof=1))
    assert summary["chip"].keys() >= CHIP
    assert all(summary["chip"][key] is not None for key in CHIP)
    assert summary["chip"]["energy_per_classification_J"] == pytest.approx(8.4e-6)
    assert summary["chip"]["samples_per_s"] == pytest.approx(20_833, abs=1)
    assert summary["chip"]["time_to_decision_s"].keys() >= {"mean", "p50", "p99"}
    assert summary["neurobench"]["SynapticOperations"]["Dense"] == 5 * 120 + 121 * 3
    assert summary["anytime"]["accuracy"][-1] == pytest.approx(summary["accuracy"]["test"]["mean"])
    emulator = summary["emulator"]
    assert emulator["backend"] == "cpu"
    assert emulator["device"]
    assert emulator["step"] == "compiled"
    assert "step_reason" not in emulator
    for key in ("train_samples_per_s", "inference_samples_per_s", "wall_s"):
        assert emulator[key] > 0.0, key
    assert summary["run"]["epochs_done"] == 2
    assert summary["run"]["interrupted"] is False


def test_the_summary_tells_where_it_came_from(summary: dict[str, Any]) -> None:
    origin = summary["provenance"]
    assert origin.keys() >= {"gpuspike", "git", "python", "numpy", "cupy", "seed", "replicas"}
    assert origin["gpuspike"]
    assert origin["python"] == ".".join(map(str, sys.version_info[:3]))
    assert origin["numpy"] == np.__version__
    assert (origin["seed"], origin["replicas"]) == (0, 2)
    assert origin["git"] is None or len(origin["git"].rstrip("+")) >= 12


def test_the_summary_s_validation_accuracy_is_that_of_the_last_metrics_line(
    done: tuple[Path, Any], summary: dict[str, Any]
) -> None:
    last = lines(done[0] / "metrics.jsonl")[-1]
    assert summary["accuracy"]["validation"]["per_replica"] == last["validation_accuracy"]


def test_the_checkpoint_holds_the_weights_of_the_last_epoch(done: tuple[Path, Any]) -> None:
    arrays, header = checkpoint.load(done[0] / "checkpoint.npz")
    assert header["epoch"] == 2
    assert header["seeds"] == [0, 1]
    assert header["config"]["training"]["epochs"] == 2
    assert arrays["weights_0"].shape == (2, 5, 120)
    assert arrays["weights_1"].shape == (2, 121, 3)


def test_the_saved_configuration_can_be_read_back_and_is_the_same(
    done: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = done
    answer = train(tmp_path, "--config-path", str(folder), "--config-name", "config", "--cfg", "job")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == (folder / "config.yaml").read_text().strip()


def test_the_report_is_one_page_with_the_figures_inside(done: tuple[Path, Any]) -> None:
    page = (done[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert "training:" in page, "the configuration"


def test_a_sweep_has_a_folder_a_job(swept: Path) -> None:
    assert {path.name for path in swept.iterdir() if path.is_dir()} == {"0", "1", "jobs"}
    for number in ("0", "1"):
        assert (swept / number / "report.html").exists()


def test_the_jobs_of_a_sweep_over_seeds_equal_the_replicas_of_one_run_bit_for_bit(
    done: tuple[Path, Any], swept: Path, summary: dict[str, Any]
) -> None:
    together, _ = checkpoint.load(done[0] / "checkpoint.npz")
    records = lines(done[0] / "metrics.jsonl")
    for r in range(2):
        alone, header = checkpoint.load(swept / str(r) / "checkpoint.npz")
        assert header["seeds"] == [r]
        assert alone.keys() == together.keys()
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][r], err_msg=name)
        single = json.loads((swept / str(r) / "summary.json").read_text())
        for split in SPLITS:
            expected = summary["accuracy"][split]["per_replica"][r]
            assert single["accuracy"][split]["per_replica"] == [expected]
            assert single["accuracy"][split]["std"] is None
        for record, record_alone in zip(records, lines(swept / str(r) / "metrics.jsonl"), strict=True):
            for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
                assert record_alone[key] == [record[key][r]], key


# ---- what only tells


def test_help_shows_the_groups_and_the_values_and_leaves_nothing(tmp_path: Path) -> None:
    answer = train(tmp_path, "--help")
    assert answer.returncode == 0
    assert answer.stderr == ""
    for word in ("optimizer: adam, adamw, sgd", "\n  dataset: ", "batch_size: 150", "replicas: 1"):
        assert word in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_shows_the_values_of_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    answer = train(tmp_path, "--cfg", "job", "optimizer=sgd", "training.epochs=7")
    assert answer.returncode == 0
    assert answer.stderr == ""
    for word in ("name: sgd", "epochs: 7", "seed: 0"):
        assert word in answer.stdout
    assert list(tmp_path.iterdir()) == []


# ---- bad input


def assert_refused(folder: Path, *arguments: str) -> str:
    """Exit code 2, one line on stderr, and no trace in the folder; returns the line."""
    before = snapshot(folder)
    answer = train(folder, *arguments)
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.endswith("\n")
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith("gpuspike-train: error: ")
    assert snapshot(folder) == before
    return answer.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["training.epoch=3"], ["epoch", "epochs", "batch_size"]),
        (["optimizer=adm"], ["adm", "adam", "sgd"]),
        (["training.epochs=many"], ["training.epochs", "many"]),
        (["model.tau_syn=0"], ["tau_syn", "positive", "0.0"]),
        (["replicas=0"], ["replicas", "at least 1", "0"]),
        (["training.batch_size=6000"], ["training.batch_size", "5000", "6000"]),
        (["hydra.run.dir=file/run"], ["output folder", "file/run"]),
        (["hydra.run.dir=file"], ["output folder", "file"]),
        (["hydra.run.dir=/proc/run"], ["output folder", "/proc/run"]),
        (["-m", "model.tau_syn=1,0"], ["tau_syn", "positive", "0.0"]),
        (["-m", "seed=0,1", "training.epochs=1,many"], ["training.epochs", "many"]),
        (["model=3"], ["model", "3"]),
        (["substrate.prices=lohi"], ["prices must be one of", "loihi", "'lohi'"]),
        (["substrate.prices=file.yaml"], ["prices: there is no file", "file.yaml, seen from"]),
        (["+traning.epochs=3"], ["traning"]),
        (["-m", "optimizer=glob(nothing*)"], ["optimizer"]),
        (["--multirun", "seed=0,1", "hydra.sweep.dir=file"], ["output folder", "file"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_with_code_2_and_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    # Were it not refused, the run should at least be short.
    short = [] if any("training.epochs=" in text for text in arguments) else ["training.epochs=1"]
    line = assert_refused(tmp_path, *short, *arguments)
    assert all(word in line for word in words), line


@pytest.mark.skipif(backend.cuda_problem() is None, reason="there is a device")
def test_training_on_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    line = assert_refused(tmp_path, "backend=cuda")
    assert "backend=cuda needs a CUDA device, got" in line


def test_a_folder_that_holds_a_run_is_refused_and_kept(done: tuple[Path, Any], place: Path) -> None:
    line = assert_refused(place, *SMALL, f"hydra.run.dir={done[0]}")
    assert "holds a run" in line


def test_a_sweep_into_a_folder_that_holds_a_run_is_refused_and_kept(
    done: tuple[Path, Any], place: Path
) -> None:
    for folder in (done[0], done[0].parent):
        line = assert_refused(place, "-m", *SMALL, "seed=0,1", f"hydra.sweep.dir={folder}")
        assert "holds a run" in line


def test_a_sweep_that_is_finished_is_not_run_again(swept: Path, place: Path) -> None:
    before = {path: content for path, content in snapshot(swept).items() if path.name != "multirun.yaml"}
    answer = train(place, "-m", *SMALL, "seed=1,0", f"hydra.sweep.dir={swept}")
    assert (answer.returncode, answer.stderr) == (0, "")
    said = answer.stdout.splitlines()
    assert said[0] == f"sweep    2 jobs, to follow with gpuspike-report {swept} watch=5"
    for line, own in zip(said[1:3], ("job 0 (1 of 2)  seed=1", "job 1 (2 of 2)  seed=0"), strict=True):
        assert line.startswith(f"{own}  test ")
        assert line.endswith(f"finished before: {swept}/{own[-1]}")
    assert said[-1] == f"page     {swept / 'sweep.html'}"
    after = {path: content for path, content in snapshot(swept).items() if path.name != "multirun.yaml"}
    assert after == before


# ---- Ctrl-C


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits for something that a running process does."""
    end = time.monotonic() + LONG
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in the background, where Ctrl-C reaches it as on a terminal."""
    processes = []
    # A shell may have told its children to ignore Ctrl-C; a terminal's would not.
    listening = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", listening, command(), *arguments],
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[str]) -> str:
    """Presses Ctrl-C, and returns the one line that the command then ends with."""
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LONG)
    assert process.returncode == 130, stderr
    (stderr,) = [line for line in stderr.splitlines(keepends=True) if ": note: " not in line]
    assert stderr.startswith("gpuspike-train: interrupted")
    assert stderr.count("\n") == 1, stderr
    return stderr


def test_ctrl_c_keeps_the_epochs_that_are_done(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    process = started(*SMALL, "training.epochs=100000", "hydra.run.dir=run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, process)
    line = interrupted(process)
    records = lines(metrics)
    arrays, header = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert header["epoch"] == records[-1]["epoch"] == len(records)
    assert arrays["optimizer_steps"][0] > 0
    assert f"epoch {len(records)}" in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["run"]["interrupted"] is True
    assert summary["run"]["epochs_done"] == len(records)
    assert summary["accuracy"]["validation"]["per_replica"] == records[-1]["validation_accuracy"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoint.npz", "checkpoint.previous.npz",
        "report.html", "figures",
    }  # fmt: skip


def test_ctrl_c_within_the_first_epoch_leaves_nothing(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    # A hidden layer so wide that an epoch takes many seconds.
    process = started("model.hidden=[50000]", "training.batch_size=10")
    wait_until(lambda: any(tmp_path.rglob("config.yaml")), process)
    time.sleep(0.5)
    interrupted(process)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_ctrl_c_while_kernels_are_compiled_leaves_nothing(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # An empty cache: compiling is announced, also where nobody sees a terminal.
    process = started(NUMBA_CACHE_DIR=str(tmp_path_factory.mktemp("cache")))
    assert process.stdout is not None
    for said in process.stdout:
        if said.startswith("kernels  compiling those for training ("):
            break
    else:
        pytest.fail("nothing was compiled")
    interrupted(process)
    assert list(tmp_path.rglob("*")) == []


# ---- what takes luck to time, in this process


def small_config(*overrides: str) -> Config:
    """The configuration of a small run."""
    (job,) = jobs([*SMALL, "backend=cpu", *overrides], multirun=False)
    return job.config


def quiet() -> Console:
    """A console that nobody reads."""
    return Console(file=io.StringIO())


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def stop_at(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C when the metrics of an epoch are about to be written."""
    write = MetricsFile.write

    def stop(self: MetricsFile, line: dict[str, Any]) -> None:
        if line["epoch"] == epoch:
            signal.raise_signal(signal.SIGINT)
        write(self, line)

    monkeypatch.setattr(MetricsFile, "write", stop)


@pytest.mark.usefixtures("no_figures")
def test_ctrl_c_between_checkpoint_and_metrics_leaves_the_two_at_one_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 3)
    summary = runs.run(small_config("training.epochs=5"), "test", tmp_path / "run", quiet())
    records = lines(tmp_path / "run" / "metrics.jsonl")
    _, header = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert summary["run"]["interrupted"] is True
    assert header["epoch"] == records[-1]["epoch"] == summary["run"]["epochs_done"]
    assert summary["accuracy"]["validation"]["per_replica"] == records[-1]["validation_accuracy"]


@pytest.mark.usefixtures("no_figures")
def test_ctrl_c_between_the_first_checkpoint_and_its_metrics_ends_as_before_or_after_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 1)
    stopped = False
    try:
        runs.run(small_config(), "test", tmp_path / "run", quiet())
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        assert list(tmp_path.rglob("*")) == []
    else:
        _, header = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
        assert header["epoch"] == lines(tmp_path / "run" / "metrics.jsonl")[-1]["epoch"] == 1


@pytest.mark.usefixtures("no_figures")
def test_ctrl_c_in_the_first_epoch_keeps_what_the_user_had_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuspike.training.trainer.Trainer.train", stop)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        runs.run(small_config(), "test", tmp_path, quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("no_figures")
def test_a_full_disk_ends_with_the_output_error_and_keeps_the_epochs_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savez, calls = np.savez, []

    def fill(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        savez(*args, **kwargs)

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(OSError, match="No space left on device"):
        runs.run(small_config("training.epochs=5"), "test", tmp_path / "run", quiet())
    _, header = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert header["epoch"] == len(lines(tmp_path / "run" / "metrics.jsonl")) == 2


@pytest.mark.usefixtures("no_figures")
def test_a_machine_with_cupy_is_told_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("the real CuPy is installed")
    # As pip leaves it: the module is called cupy, the package is not.
    packages = tmp_path / "packages"
    info = packages / "cupy_cuda12x-13.6.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cupy-cuda12x\nVersion: 13.6.0\n")
    (info / "RECORD").write_text("cupy/__init__.py,,\n")
    (info / "top_level.txt").write_text("cupy\n")
    (packages / "cupy").mkdir()
    (packages / "cupy" / "__init__.py").write_text("__version__ = '13.6.0'\nclass ndarray: ...\n")
    monkeypatch.syspath_prepend(packages)
    try:
        summary = runs.run(small_config(), "test", tmp_path / "run", quiet())
    finally:
        sys.modules.pop("cupy", None)
    assert summary["provenance"]["cupy"] == "13.6.0"


# ---- the wheel


@pytest.mark.slow
def test_the_wheel_holds_the_configuration_and_the_type_marker_and_works(tmp_path: Path) -> None:
    options = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options, "-w", str(tmp_path), "."],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("gpuspike-*.whl")
    inside = tmp_path / "inside"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(inside)
    expected = {
        f"gpuspike/{path.relative_to(REPOSITORY).as_posix()}"
        for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    expected |= {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "gpuspike").rglob("*.py")}
    assert expected | {"gpuspike/py.typed"} <= names
    assert not any(name.endswith((".pyc", ".nbi", ".nbc")) for name in names)
    assert not any(name.startswith(("tests", "scripts", "docs", "outputs")) for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "gpuspike-train = gpuspike.cli.train:train" in (inside / entry_points).read_text()

    # The wheel's own package must come before the checkout's.
    code = "import gpuspike, gpuspike.cli.train as c; print(gpuspike.__file__, flush=True); c.train()"
    answer = subprocess.run(
        [sys.executable, "-c", code, "--cfg", "job"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(inside)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith(str(inside))
    assert "batch_size: 150" in answer.stdout


def test_ctrl_c_before_the_end_says_how_to_go_on(tmp_path: Path) -> None:
    code = """
import sys
from gpuspike.runs import run
def draw(*_): raise KeyboardInterrupt
run.draw = draw
from gpuspike.cli.train import train
train()
"""
    keys = [
        "training.epochs=1",
        "dataset.n_train=150",
        "dataset.n_test=10",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    answer = subprocess.run(
        [sys.executable, "-c", code, *keys], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 130
    more = f"its checkpoint is kept, gpuspike-train resume={tmp_path / 'run'} goes on"
    assert answer.stderr == f"gpuspike-train: interrupted before its end; {more}\n"
