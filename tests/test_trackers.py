"""Dashboards: what they are told can be read back, and their failures never stop a run."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuspike.config.schema import Config, TrackerName, jobs
from gpuspike.errors import ConfigError
from gpuspike.runs import dashboards as trackers
from gpuspike.runs import run as runs
from gpuspike.runs import tracking
from gpuspike.runs.progress import MetricsFile

SMALL = ["backend=cpu", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
FIGURES = {
    "learning_curves", "plane", "spike_time_histograms", "spike_raster", "confusion_matrix",
    "membrane_traces", "anytime", "silence",
}  # fmt: skip


def small(*overrides: str) -> Config:
    """The configuration of a small run."""
    (job,) = jobs([*SMALL, "training.epochs=4", *overrides], multirun=False)
    return job.config


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(place: Path, *arguments: str, **environment: str) -> str:
    """Runs the command in a folder and returns what it said; W&B's own folders are kept out of the home."""
    command = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert command
    homes = {f"WANDB_{name}_DIR": str(place / "home" / name) for name in ("DATA", "CACHE", "CONFIG")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    answer = subprocess.run(
        [command, *arguments],
        cwd=place,
        env=clean | homes | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return answer.stdout


# ---- Weights & Biases, read back from its offline files


def entries(path: Path) -> Iterator[bytes]:
    """Records of a LevelDB log, which is what an offline run of W&B is, behind seven bytes of its own.

    A block of 32 KiB holds pieces with a header of checksum (4 bytes), length (2) and kind (1): a whole
    record, its first, a middle or its last piece.
    """
    content, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


READER = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record
from google.protobuf.json_format import MessageToDict
for line in sys.stdin:
    record = Record()
    record.ParseFromString(bytes.fromhex(line))
    print(json.dumps(MessageToDict(record, preserving_proto_field_name=True)))
"""


def read_back(path: Path) -> list[dict[str, Any]]:
    """All records of an offline run; by another process, as W&B would warn its way through this one."""
    text = "\n".join(entry.hex() for entry in entries(path))
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER], input=text, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in answer.stdout.splitlines()]


def items(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """W&B's lists of keys and JSON values as a mapping."""
    return {
        part.get("key") or "/".join(part.get("nested_key", ())): json.loads(part["value_json"])
        for part in parts
    }


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, Any]]]]:
    """A run of two replicas that was made longer once, and W&B's records of both parts."""
    pytest.importorskip("wandb", reason="needs the extra wandb")
    place = tmp_path_factory.mktemp("wandb")
    folder = place / "run"
    given = ["tracking=wandb", "tracking.mode=offline", "tracking.group=mice", "tracking.tags=[a,b]"]
    train(place, *SMALL, *given, "replicas=2", "training.epochs=3", f"hydra.run.dir={folder}")
    said = train(place, f"resume={folder}", "training.epochs=5")
    assert "wandb sync" in said
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2
    return folder, [read_back(path) for path in files]


def kept(part: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Records of one kind."""
    return [record[kind] for record in part if kind in record]


def history(part: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What was logged, by step."""
    steps: dict[int, dict[str, Any]] = {}
    for record in kept(part, "history"):
        values = items(record["item"])
        steps.setdefault(int(record["step"]["num"]), {}).update(values)
    return steps


def test_a_resumed_run_goes_on_under_the_same_id(tracked: tuple[Path, list[Any]]) -> None:
    folder, parts = tracked
    ids = {run["run_id"] for part in parts for run in kept(part, "run")}
    assert ids == {trackers.run_id(small("replicas=2"), folder)}
    assert [sorted(step for step in history(part) if step) for part in parts] == [[1, 2, 3], [1, 2, 3, 4, 5]]


def test_the_run_has_its_group_tags_and_resolved_configuration(tracked: tuple[Path, list[Any]]) -> None:
    folder, parts = tracked
    run = kept(parts[0], "run")[0]
    assert (run["project"], run["run_group"], sorted(run["tags"])) == ("gpuspike", "mice", ["a", "b"])
    assert run["display_name"] == f"yin_yang/{folder.name}"
    config = items([update for record in kept(parts[0], "run") for update in record["config"]["update"]])
    assert config["dataset"]["n_train"] == 300
    assert config["training"]["xi"] == 0.2
    assert (config["replicas"], config["dtype"]) == (2, "float64")


def test_every_epoch_is_there_as_mean_and_spread_over_the_replicas(tracked: tuple[Path, list[Any]]) -> None:
    folder, parts = tracked
    steps = {step: values for part in parts for step, values in history(part).items()}
    for record in records(folder):
        logged = steps[record["epoch"]]
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            split, what = name.split("_")
            assert logged[f"{what}/{split}"] == pytest.approx(np.mean(record[name]))
            assert logged[f"{what}_std/{split}"] == pytest.approx(np.std(record[name], ddof=1))
        assert logged["steps/learning_rate"] == record["learning_rate"]
        assert logged["epoch"] == record["epoch"]
        assert logged["silent/layer_2"] == pytest.approx(np.mean(record["silent_fraction"][1]))


def test_summary_figures_table_and_checkpoint_are_there(tracked: tuple[Path, list[Any]]) -> None:
    folder, parts = tracked
    summary = json.loads((folder / "summary.json").read_text())
    told = items([item for record in kept(parts[1], "summary") for item in record.get("update", ())])
    assert told["final/test_accuracy"] == summary["accuracy"]["test"]["mean"]
    ours = {name for name in told if not name.startswith(("_", "figures/", "replicas"))}
    assert len(ours) < 30, "curves and few numbers, not all of summary.json"
    configured = [update for record in kept(parts[1], "config") for update in record.get("update", ())]
    assert items(configured)["provenance"]["chip evidence"] == "derived"
    last = history(parts[1])[5]
    assert {name.split("/")[1] for name in last if name.startswith("figures/")} == FIGURES
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/replicas_5_*.json")
    written = json.loads(table.read_text())
    assert written["columns"] == ["replica", "seed", "train accuracy", "validation accuracy", "test accuracy"]
    assert [row[:2] for row in written["data"]] == [[0, 0], [1, 1]]
    assert [row[4] for row in written["data"]] == summary["accuracy"]["test"]["per_replica"]
    (artifact,) = (found for found in kept(parts[1], "artifact") if found["type"] == "model")
    assert (artifact["name"], artifact["type"]) == (
        f"checkpoint-{kept(parts[1], 'run')[0]['run_id']}",
        "model",
    )
    (content,) = artifact["manifest"]["contents"]
    assert content["path"] == "checkpoint.npz"
    assert int(content["size"]) == (folder / "checkpoint.npz").stat().st_size


def test_a_run_without_network_or_account_warns_once_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    said = train(tmp_path, *SMALL, "training.epochs=2", "tracking=wandb", "hydra.run.dir=run")
    assert said.count("warning  tracking=wandb is left out, ") == 1
    assert len(records(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "report.html").exists()


# ---- TensorBoard, read back with its own reader


def test_tensorboard_has_every_epoch_once_after_a_kill_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    folder = tmp_path / "run"
    given = ["tracking=tensorboard", "replicas=2", "training.epochs=4", f"hydra.run.dir={folder}"]
    train(tmp_path, *SMALL, *given)
    # As after a kill between the third and the fourth epoch's checkpoint, before half of it was written.
    (folder / "checkpoint.previous.npz").replace(folder / "checkpoint.npz")
    (written,) = (folder / "tensorboard").iterdir()
    written.write_bytes(written.read_bytes()[:600])
    train(tmp_path, f"resume={folder}")
    reader = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "found = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}).Reload()\n"
        "tags = found.Tags()\n"
        "scalars = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags['scalars']}\n"
        "plugins = list(found.summary_metadata)\n"
        "print(json.dumps([scalars, tags['images'], tags['tensors'], plugins]))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", reader, str(folder / "tensorboard")],
        capture_output=True,
        text=True,
        check=True,
    )
    scalars, images, texts, compared = json.loads(answer.stdout)
    for name, tag in (("train_loss", "loss/train"), ("validation_accuracy", "accuracy/validation")):
        expected = [(record["epoch"], np.mean(record[name])) for record in records(folder)]
        np.testing.assert_allclose(scalars[tag], expected, rtol=1e-6)
        assert len(scalars[tag.replace("/", "_std/")]) == 4
    summary = json.loads((folder / "summary.json").read_text())
    np.testing.assert_allclose(
        scalars["final/test_accuracy"][-1][1], summary["accuracy"]["test"]["mean"], rtol=1e-6
    )
    single = {tag for tag, points in scalars.items() if {step for step, _ in points} == {4}}
    few = "test_accuracy energy_per_classification_J energy_stopping_at_decision_J time_to_decision_s"
    assert single == {f"final/{name}" for name in few.split()}
    assert "_hparams_/experiment" in compared, "runs compare by value"
    assert {name.removeprefix("figures/") for name in images} == FIGURES
    assert {f"{name}/text_summary" for name in ("replicas", "config", "provenance")} <= set(texts)


# ---- failures


class Broken:
    """A tracker that fails in one of its methods, and remembers whether it was closed."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.closed = 0

    def _call(self, name: str) -> None:
        if name == self.method:
            raise OSError(28, "No space\nleft on device")

    def start(self, *_: object) -> str:
        """Fails if asked to."""
        self._call("start")
        return "somewhere"

    def known(self) -> range:
        """Nothing."""
        return range(0)

    def log(self, *_: object) -> None:
        """Fails if asked to."""
        self._call("log")

    def finish(self, *_: object) -> None:
        """Fails if asked to."""
        self._call("finish")

    def close(self, *_: object) -> None:
        """Fails if asked to."""
        self.closed += 1
        self._call("close")


@pytest.fixture
def servers() -> Iterator[dict[str, str]]:
    """Addresses of a server that refuses, one that takes a connection and says nothing, one that answers."""
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        answering = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
        answering.RequestHandlerClass.log_message = lambda *_: None
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        ports = {"refuses": closed.getsockname()[1], "silent": silent.getsockname()[1]}
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()} | {
            "not found": f"http://127.0.0.1:{answering.server_port}/nothing"
        }
        answering.shutdown()
        answering.server_close()
        tracking.unreachable.cache_clear()


def test_a_server_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, servers: dict[str, str]) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    start = time.monotonic()
    assert "refused" in str(tracking.unreachable(servers["refuses"]))
    assert tracking.unreachable(servers["not found"]) is None
    for _ in range(3):
        assert tracking.unreachable(servers["silent"]) in ("no answer within 1 s", "timed out")
    assert time.monotonic() - start < 2.5


def test_a_sweep_without_its_server_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: dict[str, str]
) -> None:
    monkeypatch.setattr(runs, "draw", lambda *_: {})
    monkeypatch.setattr(trackers, "check", lambda _: None)
    monkeypatch.setenv("WANDB_BASE_URL", servers["refuses"])
    said = []
    for seed in range(3):
        screen = io.StringIO()
        config = small("tracking=wandb", f"seed={seed}")
        runs.run(config, "test", tmp_path / str(seed), Console(file=screen, width=500))
        said.append([line for line in screen.getvalue().splitlines() if "tracking" in line])
    assert [len(lines) for lines in said] == [1, 1, 1]
    assert ["warning" in lines[0] for lines in said] == [True, False, False]
    assert f"left out, {servers['refuses']} does not answer" in said[0][0]


def test_a_dashboard_gets_the_epochs_that_it_lacks(tmp_path: Path) -> None:
    class Half(Broken):
        def __init__(self) -> None:
            super().__init__("never")
            self.logged: list[int] = []

        def known(self) -> range:
            return range(2)

        def log(self, figures: Any, epoch: int) -> None:  # type: ignore[override]
            assert figures
            self.logged.append(epoch)

    half = Half()
    follower = tracking.Tracking(small(), Console(file=io.StringIO()))
    follower._tracker = half
    follower.start("test", tmp_path, [{"epoch": k, "train_loss": [1.0]} for k in (1, 2, 3)])
    assert half.logged == [2, 3]


def test_addresses_are_those_that_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked = {
        "tracking=wandb": "https://api.wandb.ai",
        "tracking=wandb tracking.mode=offline": None,
        "tracking=mlflow tracking.uri=http://here:5000": "http://here:5000",
        "tracking=mlflow tracking.uri=runs": None,
        "tracking=tensorboard": None,
        "": None,
    }
    for words, server in asked.items():
        assert trackers.address(small(*words.split())) == server


@pytest.mark.parametrize("method", ["start", "log", "finish", "close"])
def test_a_tracker_that_fails_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    broken, screen = Broken(method), io.StringIO()
    monkeypatch.setattr(runs, "draw", lambda *_: {})
    monkeypatch.setattr(trackers, "check", lambda _: None)
    monkeypatch.setattr(tracking, "unreachable", lambda _: None)
    monkeypatch.setitem(trackers.MAKERS, TrackerName.wandb, lambda: broken)
    summary = runs.run(small("tracking=wandb"), "test", tmp_path / "run", Console(file=screen, width=500))
    said = [line for line in screen.getvalue().splitlines() if "warning" in line]
    assert len(said) == 1
    assert "tracking=wandb failed" in said[0]
    assert "No space left on device" in said[0]
    assert summary["run"]["epochs_done"] == len(records(tmp_path / "run")) == 4
    assert broken.closed >= 1, "the next job of a sweep must not find it open"


def test_a_run_without_a_single_epoch_leaves_nothing_of_its_tracker_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writer(Broken):
        def start(self, config: Config, experiment: str, folder: Path, *_: object) -> str:
            """Leaves a file."""
            (folder / "wandb").mkdir()
            (folder / "wandb" / "file").write_text("")
            return "there"

    def stop(*_: object) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(trackers, "check", lambda _: None)
    monkeypatch.setattr("gpuspike.training.trainer.Trainer.train", stop)
    monkeypatch.setitem(trackers.MAKERS, TrackerName.wandb, lambda: Writer("never"))
    with pytest.raises(KeyboardInterrupt):
        runs.run(small("tracking=wandb"), "test", tmp_path / "run", Console(file=io.StringIO()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install 'gpuspike\[{name}\]'"):
        trackers.check(small(f"tracking={name}"))
    trackers.check(small())


# ---- what they are told


def test_lines_become_means_deviations_and_layers() -> None:
    line = {
        "epoch": 3,
        "train_loss": [1.0, 3.0],
        "validation_loss": [2.0],
        "bump_fraction": [None, 1.0],
        "silent_fraction": [[0.0, 0.5], [None, None]],
    }
    assert trackers.epoch_figures(line) == {
        "loss/train": 2.0,
        "loss_std/train": pytest.approx(2.0**0.5),
        "loss/validation": 2.0,
        "steps/bumped": 1.0,
        "silent/layer_1": 0.25,
        "silent_std/layer_1": pytest.approx(0.125**0.5),
    }


def test_bands_have_two_ends_and_what_is_not_known_is_left_out() -> None:
    summary = {
        "accuracy": {"test": {"mean": 0.9}},
        "chip": {"energy_per_classification_J": [1e-6, 2e-6], "until_decision": None},
    }
    assert trackers.final_figures(summary) == {
        "final/test_accuracy": 0.9,
        "final/energy_per_classification_J_low": 1e-6,
        "final/energy_per_classification_J_high": 2e-6,
    }


def test_runs_are_compared_by_what_was_typed_and_a_few_more() -> None:
    given = ["model.hidden=[12]", "model.tau_mem=inf", "tracking.project=mine", "experiment=yin_yang"]
    values = trackers.compared(small(*given), {"run": {"overrides": given}})
    assert set(values) == {*trackers.COMPARED, "model.hidden", "model.tau_mem"} - {"name"}  # there is none
    assert (values["model.hidden"], values["model.tau_mem"]) == ("[12]", "inf")


def test_the_id_of_a_run_is_that_of_its_physics_and_its_folder(tmp_path: Path) -> None:
    here = trackers.run_id(small(), tmp_path / "sweep" / "0")
    same = ("training.epochs=9", "backend=reference", "tracking.project=other")
    assert {trackers.run_id(small(change), tmp_path / "sweep" / "0") for change in same} == {here}
    others = {trackers.run_id(small("seed=1"), tmp_path / "sweep" / "0")}
    others |= {trackers.run_id(small(), tmp_path / name / "0") for name in ("swept", "again")}
    assert len(others | {here}) == 4


def test_tracking_may_be_changed_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "draw", lambda *_: {})

    def stop(self: MetricsFile, line: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.run(small(), "test", tmp_path / "run", Console(file=io.StringIO()))
    given = [f"resume={tmp_path / 'run'}", "tracking=wandb", "tracking.project=mine"]
    (job,) = jobs(given, multirun=False)
    tracking = runs.resume.read(tmp_path / "run", job.config, given).config.tracking
    assert (tracking.name, tracking.project) == (TrackerName.wandb, "mine")
