"""Data of one's own that change or move: old numbers are not told as new ones, and a way on is named."""

from __future__ import annotations

import copy
import io
import json
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import gpuspike as gs
from gpuspike import plugins
from gpuspike.cli import train as cli
from gpuspike.cli.need import read as read_need
from gpuspike.config.evaluate import EvaluateConfig, data_config
from gpuspike.config.schema import Config, jobs, read_config
from gpuspike.datasets import content
from gpuspike.errors import ConfigError, DataError
from gpuspike.runs import run as runs
from gpuspike.runs import tune
from gpuspike.runs.adopt import adopt
from gpuspike.runs.bench import Bench, Training
from gpuspike.runs.evaluate import evaluate
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.progress import MetricsFile
from gpuspike.runs.sweep import run_once
from gpuspike.store import checkpoint, resume
from gpuspike.store.identity import fingerprint

SMALL = ["experiment=own", "backend=cpu", "model.hidden=[6]", "training.batch_size=10", "training.epochs=3"]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def write(path: Path, seed: int = 0) -> Path:
    """A file of two classes; another seed makes another of the same size."""
    rng, arrays = np.random.default_rng(seed), {}
    for split, n in (("train", 40), ("validation", 20), ("test", 20)):
        arrays[f"{split}_values"] = rng.random((n, 4))
        arrays[f"{split}_labels"] = (arrays[f"{split}_values"][:, 0] > 0.5).astype(int)
    np.savez(path, **arrays)
    return path


def config_of(path: Path, *given: str) -> Config:
    """A small training on a file."""
    (job,) = jobs([*SMALL, f"dataset.path={path}", *given], multirun=False)
    return job.config


def console() -> Console:
    return Console(file=io.StringIO(), width=500)


def said(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The file that runs begin with."""
    return write(tmp_path / "mine.npz")


@pytest.fixture
def stopped(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a run on it that Ctrl-C stopped after two epochs."""
    save = MetricsFile.write

    def stop(self: MetricsFile, line: dict[str, Any]) -> None:
        if line["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)
        save(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", stop)
        runs.run(config_of(data), "own", tmp_path / "run", console())
    return tmp_path / "run"


def of_before(folder: Path) -> Path:
    """The run as a version left it that kept no digest."""
    arrays, header = checkpoint.load(folder / "checkpoint.npz")
    del header["data"], header["format"]
    checkpoint.save(folder / "checkpoint.npz", arrays, header, keep_previous=False)
    (folder / "checkpoint.previous.npz").unlink()
    return folder


def go_on(folder: Path, *given: str) -> str:
    """Resumes a run; what it said."""
    overrides, screen = [f"resume={folder}", *given], console()
    (job,) = jobs(overrides, multirun=False)
    runs.go_on(folder, screen, job.config, overrides)
    return said(screen)


# ---- what a file holds


def test_a_digest_is_of_the_content_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = write(tmp_path / "a.npz"), []
    sha256 = content.hashlib.sha256
    counting = SimpleNamespace(sha256=lambda: [read.append(1), sha256()][1])
    monkeypatch.setattr(content, "hashlib", counting)
    monkeypatch.setattr(content, "SETTLED", -1)
    first = content.digests("npz", {"path": str(path)})
    assert first == content.digests("npz", {"path": str(path)}) == {"path": first["path"]}
    assert len(first["path"]) == 16
    assert len(read) == 1
    path.write_bytes(path.read_bytes() + b"!")
    assert content.digests("npz", {"path": str(path)}) != first
    assert len(read) == 2


def test_a_file_that_was_written_just_now_is_read_again(tmp_path: Path) -> None:
    """Two changes within one tick of a file system's clock would look like one."""
    path = write(tmp_path / "a.npz")
    content.digests("npz", {"path": str(path)})
    now = path.stat()
    assert (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) not in content._known


@pytest.mark.parametrize("path", ["", "nowhere.npz", "."])
def test_what_is_no_file_has_no_digest(path: str) -> None:
    assert content.digests("npz", {"path": path}) == {}


def test_content_is_part_of_what_a_result_is_known_by_and_of_no_other_data(data: Path) -> None:
    config = config_of(data)
    first, bare = fingerprint(config), fingerprint(config, data=False)
    write(data, 1)
    assert fingerprint(config) != first
    assert fingerprint(config, data=False) == bare != first
    write(data)
    assert fingerprint(config) == first
    data.unlink()
    assert fingerprint(config) == bare
    for given in (["experiment=mnist"], []):
        (job,) = jobs(given, multirun=False)
        assert fingerprint(job.config) == fingerprint(job.config, data=False)


# ---- sweeps, searches, gpuspike-need


def test_a_job_of_a_sweep_is_run_again_on_other_content_only(tmp_path: Path, data: Path) -> None:
    def once() -> str:
        screen = console()
        run_once(config_of(data, "training.epochs=1"), "own", tmp_path / "s", tmp_path / "s" / "0", screen)
        return said(screen)

    assert "finished before" not in once()
    assert "finished before" in once()
    write(data, 1)
    assert ", in " in once()
    assert "finished before" in once()
    write(data)
    assert once().strip().endswith(f"finished before: {tmp_path / 's' / '0'}")
    first, second = (
        json.loads(path.read_text()) for path in sorted((tmp_path / "s").glob("0*/summary.json"))
    )
    assert first["provenance"]["data"] != second["provenance"]["data"]


def test_a_study_of_other_content_is_refused(data: Path) -> None:
    kept: dict[str, Any] = {}
    study: Any = SimpleNamespace(user_attrs=kept, set_user_attr=kept.__setitem__)
    search = tune.Search("mine", {"seed": tune.Parameter(choices=[0, 1])})
    job: Any = SimpleNamespace(config=config_of(data))
    tune._refuse_others(study, search, job, finished=False)
    tune._refuse_others(study, search, job, finished=True)
    write(data, 1)
    with pytest.raises(
        ConfigError, match=r"has trials of dataset\.path with the content=\w{16}, got \w{16}: "
    ):
        tune._refuse_others(study, search, job, finished=True)


def test_a_kept_point_is_computed_again_on_other_content(tmp_path: Path, data: Path) -> None:
    def kept(training: Training) -> bool:
        bench = Bench(config_of(data, "training.epochs=1"), training, tmp_path / "need", console())
        return bench.examined({"spike_jitter": 0.01}, 1, "test").kept

    for training in (Training.LOOP, Training.NONE):
        write(data)
        assert [kept(training), kept(training)] == [False, True]
        write(data, 1)
        assert [kept(training), kept(training)] == [False, True]
    assert len(list((tmp_path / "need" / "networks").glob("*.npz"))) == 2


# ---- a run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_not_resumed_on_other_content(
    stopped: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data, 1)
    before = files(stopped)
    with pytest.raises(DataError, match=r"^dataset\.path=.*mine\.npz has changed since the run began: its "):
        go_on(stopped)
    monkeypatch.setattr(sys, "argv", ["gpuspike-train", f"resume={stopped}"])
    with pytest.raises(SystemExit) as stop:
        cli.train()
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"gpuspike-train: error: dataset.path={data} has changed since the run began: ")
    assert err.count("\n") == 1
    assert out == ""
    assert files(stopped) == before
    write(data)
    assert "resumed  after epoch 2" in go_on(stopped)


def test_a_run_whose_file_has_moved_goes_on_where_it_is_said_to_be(
    stopped: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = tmp_path / "never"
    runs.run(config_of(data), "own", never, console())
    (tmp_path / "new").mkdir()
    shutil.move(data, tmp_path / "new" / "moved.npz")
    with pytest.raises(DataError, match=r"must be at .*mine\.npz, where nothing is: dataset\.path=FILE says"):
        go_on(stopped)
    with pytest.raises(DataError, match=r"dataset\.path=.*other\.npz has changed since the run began"):
        go_on(stopped, f"dataset.path={write(tmp_path / 'other.npz', 1)}")
    monkeypatch.chdir(tmp_path / "new")
    overrides = [f"resume={stopped}", "dataset.path=moved.npz"]
    (job,) = jobs(overrides, multirun=False)
    assert job.notes == []
    told = go_on(stopped, "dataset.path=moved.npz")
    assert "warning" not in told
    arrays, header = checkpoint.load(stopped / "checkpoint.npz")
    expected, before = checkpoint.load(never / "checkpoint.npz")
    assert header["data"] == before["data"]
    assert all(array.tobytes() == expected[name].tobytes() for name, array in arrays.items())
    monkeypatch.chdir(tmp_path)
    kept: Any = read_config(stopped / "config.yaml").dataset
    assert kept.path == str(tmp_path / "new" / "moved.npz")
    assert resume.read(stopped).config.dataset == kept
    assert "resumed  after epoch 3" in go_on(stopped)


def test_a_move_that_no_checkpoint_has_seen_is_believed(stopped: Path, data: Path, tmp_path: Path) -> None:
    """As a run leaves it that was killed in its first epoch after the move."""
    path = stopped / "config.yaml"
    moved = write(tmp_path / "moved.npz")
    path.write_text(path.read_text().replace(str(data), str(moved)))
    data.unlink()
    assert resume.read(stopped).config.dataset.path == str(moved)  # type: ignore[attr-defined]
    assert "resumed  after epoch 2" in go_on(stopped)


def test_a_run_that_kept_no_digest_goes_on_and_says_what_is_not_known(
    stopped: Path, data: Path, tmp_path: Path
) -> None:
    of_before(stopped)
    write(data, 1)
    shutil.copytree(stopped, tmp_path / "moved")
    assert "dataset.path" not in go_on(stopped)
    assert checkpoint.load(stopped / "checkpoint.npz")[1]["data"]
    words = "may be other data than the run's, which has kept no digest of them"
    assert words in go_on(tmp_path / "moved", f"dataset.path={shutil.copy(data, tmp_path / 'new.npz')}")


def test_a_run_on_other_data_takes_no_file(tmp_path: Path) -> None:
    sizes = [f"dataset.n_{split}=60" for split in ("train", "validation", "test")]
    (job,) = jobs(["training.epochs=1", "training.batch_size=20", *sizes], multirun=False)
    runs.run(job.config, "yin_yang", tmp_path / "run", console())
    assert "data" not in json.loads((tmp_path / "run" / "summary.json").read_text())["provenance"]
    with pytest.raises(ConfigError, match=r"dataset\.path=new\.npz would make dataset\.path new\.npz"):
        go_on(tmp_path / "run", "dataset.path=new.npz")
    with pytest.raises(ConfigError, match=r"but for backend, chip_seed, plugin; got dataset\.path=new\.npz"):
        read_need(
            ["accuracy=0.5", "distortion=spike_jitter", f"run={tmp_path / 'run'}", "dataset.path=new.npz"]
        )


def ask(folder: Path, path: str = "", **given: Any) -> tuple[dict[str, Any], str]:
    """An evaluation's answer, and what it said."""
    screen, where = console(), data_config()
    where.path = path
    return evaluate(EvaluateConfig(str(folder), prices=["odin"], dataset=where, **given), screen), said(
        screen
    )


def test_data_of_another_width_are_told_from_a_wrong_checkpoint(stopped: Path, tmp_path: Path) -> None:
    wide, rng = tmp_path / "wide.npz", np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        arrays |= {f"{split}_values": rng.random((40, 6)), f"{split}_labels": np.arange(40) % 2}
    np.savez(wide, **arrays)
    with pytest.raises(DataError, match=r"dataset.path=.*wide.npz must have the 4 inputs of .*, got 6"):
        ask(stopped, str(wide))


def test_an_evaluation_on_other_content_says_so_and_replaces_no_answer(stopped: Path, data: Path) -> None:
    first, told = ask(stopped)
    assert "dataset.path" not in told
    assert "data" not in first["question"]
    write(data, 1)
    other, told = ask(stopped)
    assert f"warning  dataset.path={data} has changed since the run began: its content was " in told
    assert other["provenance"]["data"] == other["question"]["data"] != first["provenance"]["data"]
    (note,) = other["notes"]
    assert note.startswith(f"dataset.path={data} has changed since the run began: its content was ")
    assert first["notes"] == []
    place = stopped / "evaluations"
    assert f'<p class="notice">{note}</p>' in (place / "test_odin_other_data.html").read_text()
    assert {path.stem for path in place.glob("*.json")} == {"test_odin", "test_odin_other_data"}
    assert "dataset.path" not in ask(of_before(stopped))[1]


def test_a_run_whose_file_has_moved_opens_in_python(stopped: Path, data: Path, tmp_path: Path) -> None:
    before = gs.dataset(stopped)
    new = shutil.move(data, tmp_path / "new.npz")
    assert gs.load(stopped).epoch == 2
    with pytest.raises(DataError) as told:
        gs.dataset(stopped)
    words = "where nothing is: path=FILE says where they are now"
    assert str(told.value) == f"the data of {stopped} must be at {data}, {words}"
    np.testing.assert_array_equal(gs.dataset(stopped, path=str(new)).test.t_in, before.test.t_in)
    write(new, 1)
    changed = rf"^path={new} has changed since the run began: its content was \w+, and is \w+$"
    with pytest.warns(UserWarning, match=changed) as note:
        gs.dataset(stopped, path=str(new))
    assert note[0].filename == __file__
    with pytest.raises(DataError, match=r"^path must be an \.npz file, got 'gone\.npz', which is not there$"):
        gs.dataset("npz", path="gone.npz")


def test_a_convolutional_run_opens_without_its_data(tmp_path: Path) -> None:
    path, rng = tmp_path / "mine.npz", np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        arrays[f"{split}_pixels"] = rng.integers(0, 256, (20, 6, 8)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.arange(20) % 2
    np.savez(path, **arrays)
    layers = "model.layers=[{conv: 2, kernel: 3},{pool: 2},{dense: 2}]"
    config = config_of(path, layers, "model.hidden=[]", "model.bias_times=[[0.9]]")
    parts = build(config)
    trainer = new_trainer(parts)
    adopt(config, parts.network.layers, trainer.weights, tmp_path / "run", "own")
    shutil.move(path, tmp_path / "new.npz")
    opened = gs.load(tmp_path / "run")
    assert opened.architecture.sizes == parts.network.sizes
    arrays, header = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert header.pop("image") == [6, 8]
    del header["format"]  # as of a version that kept no size
    checkpoint.save(tmp_path / "run" / "checkpoint.npz", arrays, header, keep_previous=False)
    with pytest.raises(DataError) as told:
        gs.load(tmp_path / "run")
    place = f"the data of {tmp_path / 'run'} must be at {path}, where nothing is: dataset.path in "
    ends = f"{tmp_path / 'run' / 'config.yaml'} says where they are now, for the size of their images"
    assert str(told.value) == place + ends
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace(str(path), str(tmp_path / "new.npz")))
    assert gs.load(tmp_path / "run").architecture.sizes == parts.network.sizes


@pytest.mark.parametrize("old", [False, True])
def test_a_run_whose_file_has_moved_is_evaluated(
    old: bool, stopped: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = ask(stopped)
    if old:
        of_before(stopped)
    shutil.move(data, tmp_path / "new.npz")
    with pytest.raises(DataError, match=r"must be at .*mine\.npz, where nothing is: dataset\.path=FILE says"):
        ask(stopped)
    monkeypatch.chdir(tmp_path)
    again, told = ask(stopped, "new.npz")
    assert again["accuracy"] == first["accuracy"]
    assert ("may be other data than the run's" in told) == old
    monkeypatch.setattr(sys, "argv", ["gpuspike-evaluate", f"run={stopped}", "dataset.path=new.npz"])
    cli.evaluate()
    assert gs.load(stopped).sizes == (4, 6, 2)  # asks for no data


def test_the_borders_of_a_run_are_found_where_its_file_is_now(
    stopped: Path, data: Path, tmp_path: Path
) -> None:
    usual = ["accuracy=0.5", "distortion=spike_jitter", f"run={stopped}", "backend=cpu"]

    def bench(*given: str) -> Bench:
        return Bench(read_need([*usual, *given])[1], Training.RUN, tmp_path / "need", console(), run=stopped)

    changes = {"spike_jitter": 0.01}
    assert bench().note == ""
    first = bench().examined(changes, 2, "test")
    write(data, 1)
    assert bench().note.startswith(f"dataset.path={data} has changed since the run began: ")
    assert not bench().examined(changes, 2, "test").kept
    data.unlink()
    with pytest.raises(DataError, match=r"where nothing is: dataset\.path=FILE says where they are now"):
        read_need(usual)
    moved = bench(f"dataset.path={write(tmp_path / 'new data.npz')}")
    assert moved.note == ""
    np.testing.assert_array_equal(moved.examined(changes, 2, "test").accuracy, first.accuracy)


SHELF = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from gpuspike.datasets import DATASETS, Samples, load_arrays
from pathlib import Path

@dataclass(frozen=True)
class Shelf(Samples):
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    shelf: str = ""
    lasting: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ("shelf",)

    def load(self):
        return load_arrays(Path(self.shelf), self.n_train, self.n_validation, self.n_test)

DATASETS.add("shelf", Shelf)
"""


def test_the_file_of_a_plug_in_s_data_set_is_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelf.py").write_text(SHELF)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.npz")
    try:
        own = [*SMALL, "dataset=shelf", "dataset.shelf=mine.npz", *plugins.given(["plugin=shelf.py"])]
        (job,) = jobs(own, multirun=False)
        before = copy.deepcopy(job.config)
        runs.run(job.config, "own", tmp_path / "run", console())
        shutil.move("mine.npz", "new.npz")
        assert fingerprint(before) == fingerprint(before, data=False)
        given = ["plugin=shelf.py", "run=run", "dataset.shelf=new.npz", "prices=odin"]
        monkeypatch.setattr(sys, "argv", ["gpuspike-evaluate", *given])
        cli.evaluate()
        assert "resumed  after epoch 3" in go_on(tmp_path / "run", "dataset.shelf=new.npz")
        write(tmp_path / "new.npz", 1)
        with pytest.raises(DataError, match=r"^dataset\.shelf=.*new\.npz has changed since the run began"):
            go_on(tmp_path / "run")
    finally:
        plugins.forget_all()


def test_the_words_are_the_same_for_each_way(stopped: Path, data: Path) -> None:
    """Both commands read the same header; a strange one is as none."""
    arrays, header = checkpoint.load(stopped / "checkpoint.npz")
    del header["format"]
    checkpoint.save(stopped / "checkpoint.npz", arrays, header | {"data": ["?"]})
    write(data, 1)
    assert "dataset.path" not in ask(stopped)[1]
    assert "resumed  after epoch 2" in go_on(stopped)
