"""Resuming: a stopped run goes on to the same bits as one that was never stopped, however it was stopped."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuspike.cli.train import train
from gpuspike.config.schema import Config, jobs, read_config, to_yaml
from gpuspike.errors import ConfigError, DataError, GpuspikeError, OutputError
from gpuspike.runs import run as runs
from gpuspike.runs.progress import MetricsFile
from gpuspike.store import checkpoint, resume
from gpuspike.store.identity import to_values
from gpuspike.store.run_folder import locked

SMALL = ["backend=cpu", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
EPOCHS = 6
VARIANTS = {
    "adam": ["replicas=2"],
    "sgd with a cosine": ["optimizer=sgd", "optimizer.schedule=cosine", "training.bump_replaces_step=false"],
    "chips": ["replicas=2", "substrate=bss2", "substrate.new_chip=step", "substrate.lost_inputs=0.1"],
    "noise": ["training.input_noise=0.2", "dtype=float32", "optimizer.step_size=2"],
}
ACCURACIES = ("accuracy", "loss", "silent_fraction")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def small(*overrides: str) -> Config:
    """The configuration of a small run."""
    (job,) = jobs([*SMALL, f"training.epochs={EPOCHS}", *overrides], multirun=False)
    return job.config


def quiet() -> Console:
    """A console that nobody reads."""
    return Console(file=io.StringIO())


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the speed, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "train_samples_per_s"} for line in lines]


def assert_same(folder: Path, reference: Path) -> None:
    """Weights, optimiser, bumping, metrics and results of two finished runs are equal in every bit."""
    arrays, header = checkpoint.load(folder / "checkpoint.npz")
    expected, expected_header = checkpoint.load(reference / "checkpoint.npz")
    assert header["epoch"] == expected_header["epoch"]
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        assert array.tobytes() == expected[name].tobytes(), name
    assert records(folder) == records(reference)
    summaries = [json.loads((place / "summary.json").read_text()) for place in (folder, reference)]
    assert [summaries[0][key] for key in ACCURACIES] == [summaries[1][key] for key in ACCURACIES]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a run that nobody stopped, for given overrides."""
    done: dict[tuple[str, ...], Path] = {}

    def folder(*overrides: str) -> Path:
        if overrides not in done:
            done[overrides] = tmp_path_factory.mktemp("reference") / "run"
            runs.run(small(*overrides), "test", done[overrides], quiet())
        return done[overrides]

    return folder


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Folder of a run that Ctrl-C stopped after three epochs."""

    def folder(*overrides: str) -> Path:
        write = MetricsFile.write

        def stop(self: MetricsFile, line: dict[str, Any]) -> None:
            if line["epoch"] == 3:
                signal.raise_signal(signal.SIGINT)
            write(self, line)

        with monkeypatch.context() as patch:
            patch.setattr(MetricsFile, "write", stop)
            runs.run(small(*overrides), "test", tmp_path / "run", quiet(), ["an=override"])
        return tmp_path / "run"

    return folder


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_ends_with_the_bits_of_one_never_stopped(
    overrides: list[str], stopped: Callable[..., Path], never_stopped: Callable[..., Path]
) -> None:
    folder = stopped(*overrides)
    summary = runs.go_on(folder, quiet())
    assert_same(folder, never_stopped(*overrides))
    assert summary["run"]["resumed"] == [3]
    assert summary["run"]["epochs_done"] == EPOCHS
    assert summary["run"]["interrupted"] is False
    assert (summary["run"]["experiment"], summary["run"]["overrides"]) == ("test", ["an=override"])


def test_a_run_can_be_made_longer_and_equals_one_that_was_as_long_from_the_start(
    tmp_path: Path, never_stopped: Callable[..., Path]
) -> None:
    given = ["training.epochs=4", "seed=0"]
    runs.run(small("training.epochs=4"), "test", tmp_path / "run", quiet(), given)
    asked = [f"resume={tmp_path / 'run'}", f"training.epochs={EPOCHS}"]
    summary = runs.go_on(tmp_path / "run", quiet(), small(), asked)
    assert summary["run"]["overrides"] == [f"training.epochs={EPOCHS}", "seed=0"]
    command = f"gpuspike-train training.epochs={EPOCHS} seed=0<"
    assert command in (tmp_path / "run" / "report.html").read_text()
    assert_same(tmp_path / "run", never_stopped())
    assert f"epochs: {EPOCHS}" in (tmp_path / "run" / "config.yaml").read_text()
    assert not (tmp_path / "run" / "checkpoint.unreadable.npz").exists()


def test_a_run_whose_training_is_over_is_evaluated_again(
    tmp_path: Path, never_stopped: Callable[..., Path]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(never_stopped(), folder)
    (folder / "summary.json").unlink()
    runs.go_on(folder, quiet())
    assert_same(folder, never_stopped())


# ---- what a kill or a disk may leave


def cut_checkpoint(folder: Path) -> None:
    """A checkpoint whose end never reached the disk."""
    path = folder / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-300])


def between_the_renames(folder: Path) -> None:
    """The moment at which the checkpoint has been moved away and the new one is not there yet."""
    (folder / "checkpoint.npz").rename(folder / "checkpoint.npz.partial")


def no_last_line(folder: Path) -> None:
    """The checkpoint was written, the metrics were not."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))


def half_a_line(folder: Path) -> None:
    """The metrics were being written."""
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-40])


def no_config(folder: Path) -> None:
    """Somebody has tidied up; the checkpoint has the configuration too."""
    (folder / "config.yaml").unlink()


def before_the_first_checkpoint(folder: Path) -> None:
    """Nothing but the configuration, and a line of an epoch whose checkpoint is missing."""
    for path in folder.glob("checkpoint*"):
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [cut_checkpoint, between_the_renames, no_last_line, half_a_line, no_config, before_the_first_checkpoint],
    ids=lambda function: function.__name__,
)
def test_whatever_a_stop_has_left_the_resumed_run_has_the_same_bits(
    damage: Callable[[Path], None], stopped: Callable[..., Path], never_stopped: Callable[..., Path]
) -> None:
    folder = stopped()
    damage(folder)
    runs.go_on(folder, quiet())
    assert_same(folder, never_stopped())
    assert (folder / "config.yaml").read_text() == to_yaml(small())


def test_an_unreadable_checkpoint_is_said_and_kept_aside(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    cut_checkpoint(folder)
    damaged = (folder / "checkpoint.npz").read_bytes()
    screen = io.StringIO()
    runs.go_on(folder, Console(file=screen))
    said = " ".join(screen.getvalue().split())
    assert "not a readable checkpoint" in said
    assert "going on from the one before, checkpoint.previous.npz" in said
    assert f"resumed after epoch 2, {EPOCHS - 2} to go" in said
    assert (folder / "checkpoint.unreadable.npz").read_bytes() == damaged


def test_another_version_of_the_code_is_said(
    stopped: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped()
    provenance_of = runs.provenance_of
    monkeypatch.setattr(runs, "provenance_of", lambda config: provenance_of(config) | {"gpuspike": "99"})
    screen = io.StringIO()
    runs.go_on(folder, Console(file=screen))
    assert "begun with another gpuspike" in screen.getvalue()


def test_a_resumed_run_was_begun_when_it_was_and_has_taken_all_of_its_time(
    stopped: Callable[..., Path],
) -> None:
    folder = stopped()
    arrays, header = checkpoint.load(folder / "checkpoint.npz")
    checkpoint.save(
        folder / "checkpoint.npz", arrays, {**header, "date": "2020-01-01 00:00", "wall_s": 1000.0}
    )
    summary = runs.go_on(folder, quiet())
    assert summary["run"]["date"] == "2020-01-01 00:00"
    assert 1000.0 < summary["emulator"]["wall_s"] < 2000.0
    again = runs.go_on(folder, quiet())  # which trains nothing
    assert again["run"]["date"] == "2020-01-01 00:00"
    assert again["emulator"]["wall_s"] > 1000.0
    older = {key: value for key, value in header.items() if key not in ("date", "wall_s")}
    checkpoint.save(folder / "checkpoint.npz", arrays, older)
    assert runs.go_on(folder, quiet())["run"]["date"] is None, "when it was begun nobody knows"


def test_the_checkpoint_before_is_kept(stopped: Callable[..., Path]) -> None:
    _, header = checkpoint.load(checkpoint.previous(stopped() / "checkpoint.npz"))
    assert header["epoch"] == 2


# ---- what is refused, and changes nothing


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(folder: Path, error: type[GpuspikeError], *overrides: str) -> str:
    """The one line with which resuming is refused."""
    before = contents(folder)
    (job,) = jobs([f"resume={folder}", *overrides], multirun=False)
    with pytest.raises(error) as caught:
        runs.go_on(folder, quiet(), job.config, [f"resume={folder}", *overrides])
    assert contents(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1", ["seed=1", "seed 1", "0 there"]),
        ("optimizer.learning_rate=0.1", ["optimizer.learning_rate 0.1", "0.005 there"]),
        ("optimizer=sgd", ["optimizer=sgd", "optimizer.name sgd", "adam there"]),
        ("experiment=mnist", ["experiment=mnist", "dataset.name mnist", "yin_yang there"]),
        ("dataset.n_train=5000", ["dataset.n_train 5000", "300 there"]),
        ("model.tau_mem=inf", ["model.tau_mem inf", "1.0 there"]),
        ("dtype=float32", ["dtype float32", "float64 there"]),
        ("training.epochs=5", ["training.epochs", "at least 6", "5"]),
    ],
)
def test_an_override_that_would_change_the_run_is_refused_by_its_name(
    override: str, words: list[str], stopped: Callable[..., Path]
) -> None:
    line = refusal(stopped(), ConfigError, override)
    assert all(word in line for word in words), line


def test_what_cannot_be_without_the_run_is_refused_as_a_change_of_it(
    stopped: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped("substrate.weight_bits=5", "substrate.weight_max=3")
    other = f"of {folder}: substrate.weight_bits=4 would make it 4, which is 5 there"
    same = "needs a range, substrate.weight_max"  # what is wrong is told
    for override, words in (("substrate.weight_bits=4", other), ("substrate.weight_bits=5", same)):
        monkeypatch.setattr(sys, "argv", ["gpuspike-train", f"resume={folder}", override])
        with pytest.raises(SystemExit):
            train()
        assert words in " ".join(capsys.readouterr().err.split())


def test_overrides_that_the_run_was_started_with_may_be_repeated(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    again = [f"resume={folder}", *SMALL, f"training.epochs={EPOCHS}", "seed=0"]
    (job,) = jobs(again, multirun=False)
    assert resume.read(folder, job.config, again).epoch == 3


def test_a_cosine_cannot_be_made_longer(stopped: Callable[..., Path]) -> None:
    folder = stopped(*VARIANTS["sgd with a cosine"])
    assert "cosine" in refusal(folder, ConfigError, "training.epochs=9")


def test_the_backend_may_change(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    given = [f"resume={folder}", "backend=reference"]
    (job,) = jobs(given, multirun=False)
    assert resume.read(folder, job.config, given).config.backend.value == "reference"


def test_the_readme_names_what_may_change() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    part = text.split("### Stopping and resuming")[1].split("###")[0].split("A checkpoint is")[0]
    named = set(re.findall(r"`([a-z_.]+)`", part))
    mine = replace(small(), dataset=replace(small().dataset, name="npz"))
    assert named == {*resume._free(mine)} - {"resume"}


def test_a_resumed_run_says_when_and_with_what(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    given = [
        f"resume={folder}",
        "name=other",
        "training.cuda_graph=false",
        "substrate.prices=loihi",
        "seed=0",
    ]
    (job,) = jobs(given, multirun=False)
    console = quiet()
    summary = runs.go_on(folder, console, job.config, given)
    (told,) = summary["run"]["resumptions"]
    assert (told["epoch"], told["given"]) == (3, given[1:-1])
    said = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "name=other is the title from now on, the folder stays" in said
    page = (folder / "report.html").read_text()
    assert f"after epoch 3, {told['date']}, name=other training.cuda_graph=false" in page
    assert read_config(folder / "config.yaml").training.cuda_graph is False
    again = resume.read(folder)
    assert (again.resumptions, again.given) == ([told], [])


def test_a_changed_config_file_is_refused_unless_it_asks_for_more_epochs(
    stopped: Callable[..., Path],
) -> None:
    folder = stopped()
    path = folder / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("learning_rate: 0.005", "learning_rate: 0.1"))
    assert "optimizer.learning_rate=0.1" in refusal(folder, ConfigError)
    path.write_text("not: [yaml")
    refusal(folder, ConfigError)
    path.write_text(text.replace(f"epochs: {EPOCHS}", "epochs: 9"))
    assert resume.read(folder).config.training.epochs == 9


def test_metrics_that_lack_an_epoch_are_refused(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    assert "each of the 3 epochs" in refusal(folder, DataError)
    path.write_text("nonsense\n" + "".join(lines[1:]))
    refusal(folder, DataError)


def test_a_checkpoint_of_another_format_is_refused_and_not_skipped(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    content = io.BytesIO()
    np.savez(content, header=np.array(json.dumps({"format": 99})))
    (folder / "checkpoint.npz").write_bytes(content.getvalue())
    assert "format 99" in refusal(folder, DataError)


def test_two_damaged_checkpoints_are_refused(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    for path in folder.glob("checkpoint*.npz"):
        path.write_bytes(b"")
    refusal(folder, DataError)


@pytest.mark.parametrize("change", ["missing", "shape", "dtype"])
def test_a_checkpoint_of_another_network_is_refused(change: str, stopped: Callable[..., Path]) -> None:
    folder = stopped()
    path = folder / "checkpoint.npz"
    arrays, header = checkpoint.load(path)
    if change == "missing":
        del arrays["weights_1"]
    else:
        weights = arrays["weights_1"]
        arrays["weights_1"] = weights[:, 1:] if change == "shape" else weights.astype(np.float32)
    header.pop("format")
    checkpoint.save(path, arrays, header)
    assert "weights_1" in refusal(folder, DataError)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "which holds none" in refusal(tmp_path, DataError)


def test_a_run_that_has_not_ended_cannot_be_resumed(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    with locked(folder):
        assert "has not ended" in refusal(folder, OutputError)


def test_values_survive_the_header_with_infinities() -> None:
    config = small("model.tau_mem=inf", "training.max_weight_grad=inf")
    values = json.loads(json.dumps(to_values(config), allow_nan=False))
    assert resume.from_values(values) == config


# ---- real processes, really killed


def command() -> str:
    """The installed gpuspike-train beside this Python."""
    found = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert found
    return found


def size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def kill_until_done(place: Path, given: list[str], kills: int, luck: random.Random) -> list[int]:
    """Starts a run, kills it at random moments of its training and resumes it.

    Returns:
        The epoch that each kill left in a checkpoint; 0 where it came before the first one.
    """
    folder = place / "run"
    metrics = folder / "metrics.jsonl"
    left: list[int] = []
    arguments = [*given, f"hydra.run.dir={folder}"]
    while True:
        before, epoch = size(metrics), len(records(folder)) if metrics.exists() else 0
        process = subprocess.Popen(
            [command(), *arguments], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if len(left) < kills:
            while process.poll() is None and size(metrics) <= before:
                time.sleep(0.001)
            time.sleep(luck.uniform(0.0, 0.05))
            process.kill()
        _, stderr = process.communicate(timeout=600)
        if process.returncode == 0:
            return left
        assert process.returncode == -signal.SIGKILL, stderr
        found = resume.read(folder)
        assert found.damaged is None or "no checkpoint at" in found.damaged, "never a corrupt file"
        whole = [line for line in metrics.read_text().splitlines() if line.endswith("}")]
        assert found.epoch >= len(whole) - 1, "at most one epoch is lost"
        assert found.epoch >= epoch
        left.append(found.epoch)
        arguments = [f"resume={folder}"]


def test_a_run_killed_three_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    given = [*SMALL, "training.epochs=120"]
    reference = tmp_path / "reference"
    subprocess.run([command(), *given, f"hydra.run.dir={reference}"], capture_output=True, check=True)
    left = kill_until_done(tmp_path, given, 3, random.Random(1))
    assert len(left) == 3
    assert_same(tmp_path / "run", reference)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # One that was killed before it had written a checkpoint of its own left no trace: it counts once.
    assert summary["run"]["resumed"] == sorted(set(left))


@pytest.mark.slow
def test_a_hundred_kills_leave_no_corrupt_checkpoint_and_the_same_bits(tmp_path: Path) -> None:
    # Epochs so short that most kills fall into the writing of a checkpoint or a line.
    given = [*SMALL, "dataset.n_train=150", "training.epochs=3000"]
    reference = tmp_path / "reference"
    subprocess.run([command(), *given, f"hydra.run.dir={reference}"], capture_output=True, check=True)
    assert len(kill_until_done(tmp_path, given, 100, random.Random(2))) == 100
    assert_same(tmp_path / "run", reference)
