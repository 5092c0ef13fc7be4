"""Dashboards beside the run's own files, each behind what `gpuspike.runs.tracking` asks of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from importlib import util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gpuspike.config.keys import key_of
from gpuspike.config.schema import Config, TrackerName, TrackingMode, to_yaml
from gpuspike.errors import ConfigError
from gpuspike.screen import discreet
from gpuspike.store.identity import fingerprint, flat, to_values, within
from gpuspike.store.resume import FREE

LIBRARIES = {TrackerName.wandb: "wandb", TrackerName.tensorboard: "tensorboardX"}
LIBRARIES |= {TrackerName.mlflow: "mlflow"}
TAGS = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "silent_fraction": "silent",
    "never_spiking": "never_spiking",
    "bump_fraction": "steps/bumped",
    "learning_rate": "steps/learning_rate",
    "train_samples_per_s": "speed/train_samples_per_s",
}
"""Names of metrics.jsonl by what a dashboard puts side by side."""

COMPARED = ("name", "seed", "replicas", "optimizer.learning_rate", "training.epochs")
"""Values by which runs are compared, beside those that the command line gave."""

PATIENCE = 10.0
"""Seconds that a service may keep a run waiting for one answer."""


class Tracker(Protocol):
    """What can follow a run. It may raise anything: `Tracking` keeps that from the run."""

    def start(self, config: Config, experiment: str, folder: Path, run_id: str, epoch: int) -> str:
        """Begins, or goes on after an epoch of the run of that id; returns where to look, for the user."""
        ...

    def known(self) -> Collection[int]:
        """Epochs of the run that it has from before."""
        ...

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """One epoch, as `epoch_figures` gives it."""
        ...

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path], checkpoint: Path) -> None:
        """What the run has come to: summary.json, its pictures (PNG) and its last checkpoint."""
        ...

    def close(self, error: BaseException | None) -> None:
        """The run is over, well or with an error."""
        ...


def check(config: Config) -> None:
    """Makes sure that the library of the chosen tracker is installed, without importing it.

    Raises:
        ConfigError: it is not, or it has no server.
    """
    library = LIBRARIES.get(config.tracking.name)
    if library is not None and util.find_spec(library) is None:
        name = config.tracking.name.value
        raise ConfigError(f"tracking={name} needs the package {library}: pip install 'gpuspike[{name}]'")
    if config.tracking.name is TrackerName.mlflow and not mlflow_uri(config):
        raise ConfigError(
            "tracking=mlflow needs tracking.uri, a server's, tracking.uri=http://localhost:5000 for "
            "example, or the variable MLFLOW_TRACKING_URI, got neither"
        )


def mlflow_uri(config: Config) -> str | None:
    """Where MLflow keeps runs; None where nobody says it."""
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def address(config: Config) -> str | None:
    """Of the server that a tracker asks over HTTP; None: it asks none."""
    tracking = config.tracking
    if tracking.name is TrackerName.wandb and tracking.mode is TrackingMode.online:
        return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    uri = mlflow_uri(config) if tracking.name is TrackerName.mlflow else None
    return uri if uri is not None and uri.startswith(("http://", "https://")) else None


def run_id(config: Config, folder: Path) -> str:
    """A name for a run that stays the same when it is resumed, with more epochs or on another backend too.

    The folder's own name may be as plain as a job's number, so the one around it counts as well.
    """
    place = "/".join(folder.absolute().parts[-2:])
    return hashlib.sha256(f"{fingerprint(config, FREE, data=False)} {place}".encode()).hexdigest()[:16]


def epoch_figures(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl as single numbers under `TAGS`: means over the replicas.

    Their deviations have groups of their own, "loss_std/train" beside "loss/train".
    """
    numbers: dict[str, float] = {}

    def add(tag: str, value: Any) -> None:
        values = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
        group, _, name = tag.partition("/")
        if values:
            numbers[tag] = float(np.mean(values))
        if len(values) > 1:
            numbers[f"{group}_std/{name}"] = float(np.std(values, ddof=1))

    for name, value in line.items():
        tag = TAGS.get(name, f"other/{name}")
        if name == "never_spiking":  # neurons by their numbers, of each layer and replica
            value = [[len(neurons) for neurons in layer] for layer in value]
        if isinstance(value, list) and value and isinstance(value[0], list):
            for layer, part in enumerate(value, start=1):
                add(f"{tag}/layer_{layer}", part)
        elif name != "epoch":
            add(tag, value)
    return numbers


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """What the run has come to, in the few numbers that runs are compared by; bands as their two ends."""
    chip = summary["chip"]
    known = {
        "test_accuracy": summary["accuracy"]["test"]["mean"],
        "energy_per_classification_J": chip.get("energy_per_classification_J"),
        "energy_stopping_at_decision_J": (chip.get("until_decision") or {}).get("energy_J"),
        "time_to_decision_s": (chip.get("time_to_decision_s") or {}).get("mean"),
    }
    numbers: dict[str, float] = {}
    for name, value in known.items():
        if isinstance(value, list | tuple):
            numbers |= {f"final/{name}_low": float(value[0]), f"final/{name}_high": float(value[1])}
        elif value is not None:
            numbers[f"final/{name}"] = float(value)
    return numbers


def compared(config: Config, summary: Mapping[str, Any]) -> dict[str, float | str | bool]:
    """Values of the configuration by dotted name: those of `COMPARED`, and those that were typed."""
    values = dict(flat(to_values(config)))
    typed = [key_of(text) for text in summary["run"].get("overrides", ())]
    names = [name for name in dict.fromkeys((*COMPARED, *typed)) if values.get(name) is not None]
    names = [name for name in names if not within(name, ("resume", "tracking"))]
    return {
        name: value if isinstance(value := values[name], float | int | str) else str(value) for name in names
    }


def origin(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Where the numbers come from: code, versions, device, the chip and the evidence for it, the command."""
    chip, emulator, run = summary["chip"], summary["emulator"], summary["run"]
    return {
        **summary["provenance"],
        **{name: emulator.get(name) for name in ("backend", "device", "step")},
        **{f"chip {name}": chip.get(name) for name in ("name", "evidence", "time_evidence")},
        "overrides": " ".join(run.get("overrides", ())),
    }


def replica_table(summary: Mapping[str, Any]) -> tuple[list[str | int], list[Any]]:
    """Columns and rows of a table with a row for each replica: its seed and its accuracies."""
    splits = list(summary["accuracy"])
    accuracies = [summary["accuracy"][split]["per_replica"] for split in splits]
    seed = summary["provenance"]["seed"]
    rows = [[r, seed + r, *row] for r, row in enumerate(zip(*accuracies, strict=True))]
    return ["replica", "seed", *(f"{split} accuracy" for split in splits)], rows


class WandbTracker:
    """Weights & Biases. Source: docs.wandb.ai, "wandb.init", "Resume a run"."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def start(self, config: Config, experiment: str, folder: Path, run_id: str, epoch: int) -> str:
        """See `Tracker.start`."""
        import wandb

        tracking = config.tracking
        # As a context: the jobs of a sweep share a process, and each must end its own run.
        self._run = self._stack.enter_context(
            wandb.init(
                project=tracking.project,
                entity=tracking.entity,
                group=tracking.group or experiment,
                tags=tracking.tags,
                name=config.name or f"{experiment}/{folder.name}",
                id=run_id,
                resume="allow",
                mode=tracking.mode.value,
                dir=folder,
                config=to_values(config),
                # Our own line says where to look; a progress bar is nothing to record.
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    login_timeout=PATIENCE,
                    init_timeout=PATIENCE,
                    finish_timeout=PATIENCE,
                ),
            )
        )
        self._run.define_metric("*", step_metric="epoch")
        if tracking.mode is TrackingMode.offline:
            return f"offline: wandb sync {Path(self._run.dir).parent}"
        return str(self._run.url)

    def known(self) -> Collection[int]:
        """See `Tracker.known`."""
        return range(int(self._run.step))

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """See `Tracker.log`."""
        self._run.log({"epoch": epoch, **figures}, step=epoch)

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path], checkpoint: Path) -> None:
        """See `Tracker.finish`."""
        import wandb

        columns, rows = replica_table(summary)
        epoch = summary["run"]["epochs_done"]
        pictures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
        self._run.log({**pictures, "replicas": wandb.Table(columns=columns, data=rows)}, step=epoch)
        self._run.summary.update(final_figures(summary))
        self._run.config.update({"provenance": origin(summary)}, allow_val_change=True)
        artifact = wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"epoch": epoch})
        artifact.add_file(str(checkpoint))
        self._run.log_artifact(artifact)

    def close(self, error: BaseException | None) -> None:
        """See `Tracker.close`."""
        self._stack.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


class TensorboardTracker:
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, config: Config, experiment: str, folder: Path, run_id: str, epoch: int) -> str:
        """See `Tracker.start`."""
        from tensorboardX import SummaryWriter

        place = folder / "tensorboard"
        self._config = config
        self._writer = SummaryWriter(str(place), purge_step=1 if place.exists() else None)
        self._writer.add_text("config", f"```yaml\n{discreet(to_yaml(config))}```", epoch)
        return f"tensorboard --logdir {place}"

    def known(self) -> Collection[int]:
        """See `Tracker.known`. A killed run's last epochs may not have reached the file: all come again."""
        return ()

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """See `Tracker.log`."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path], checkpoint: Path) -> None:
        """See `Tracker.finish`."""
        from PIL import Image
        from tensorboardX.summary import hparams

        epoch = summary["run"]["epochs_done"]
        for path in figures:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(f"figures/{path.stem}", pixels, epoch, dataformats="HWC")
        columns, rows = replica_table(summary)
        self._writer.add_text("replicas", _markdown(columns, rows), epoch)
        self._writer.add_text("provenance", _markdown(["", "value"], list(origin(summary).items())), epoch)
        # Runs are compared by scalars of their own folder only: these few have but one point.
        final = final_figures(summary)
        for name, value in final.items():
            self._writer.add_scalar(name, value, epoch)
        metrics = {**final, "accuracy/validation": 0.0, "loss/validation": 0.0}
        for part in hparams(compared(self._config, summary), metrics):
            self._writer.file_writer.add_summary(part)

    def close(self, error: BaseException | None) -> None:
        """See `Tracker.close`."""
        if self._writer is not None:
            self._writer.close()


def _markdown(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


class MlflowTracker:
    """A run on an MLflow server, in an experiment of its name. Source: mlflow.org, "MLflow Tracking"."""

    def __init__(self) -> None:
        self._client: Any = None

    def start(self, config: Config, experiment: str, folder: Path, run_id: str, epoch: int) -> str:
        """See `Tracker.start`."""
        import mlflow.entities

        uri = str(mlflow_uri(config))
        # Otherwise a server that is not there would be asked again for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        place = client.create_experiment(experiment) if found is None else found.experiment_id
        # MLflow makes its own ids: ours is a tag, by which a resumed run is found again.
        if begun := client.search_runs([place], f"tags.gpuspike_run = '{run_id}'", max_results=1):
            self._run = begun[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            tags = {"gpuspike_run": run_id, "mlflow.runName": f"{experiment}/{folder.name}"}
            self._run = client.create_run(place, tags=tags).info.run_id
            params = [
                mlflow.entities.Param(name, discreet(str(value))) for name, value in flat(to_values(config))
            ]
            for first in range(0, len(params), 100):  # as many as a server takes at once
                client.log_batch(self._run, params=params[first : first + 100])
            client.log_text(self._run, discreet(to_yaml(config)), "config.yaml")
        self._client = client
        return f"{uri}/#/experiments/{place}/runs/{self._run}" if uri.startswith("http") else uri

    def known(self) -> Collection[int]:
        """See `Tracker.known`."""
        return {point.step for point in self._client.get_metric_history(self._run, TAGS["learning_rate"])}

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        """See `Tracker.log`."""
        import mlflow.entities

        now = int(1000 * time.time())
        made = mlflow.entities.Metric
        self._client.log_batch(self._run, [made(name, v, now, epoch) for name, v in figures.items()])

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path], checkpoint: Path) -> None:
        """See `Tracker.finish`."""
        self.log(final_figures(summary), summary["run"]["epochs_done"])
        for name, value in origin(summary).items():
            self._client.set_tag(self._run, name, str(value))
        replicas = dict(zip(("columns", "data"), replica_table(summary), strict=True))
        self._client.log_dict(self._run, replicas, "replicas.json")
        for path in figures:
            self._client.log_artifact(self._run, str(path), "figures")
        self._client.log_artifact(self._run, str(checkpoint))

    def close(self, error: BaseException | None) -> None:
        """See `Tracker.close`."""
        if self._client is not None:
            self._client.set_terminated(self._run, "FINISHED" if error is None else "FAILED")


MAKERS: dict[TrackerName, Callable[[], Tracker]] = {
    TrackerName.wandb: WandbTracker,
    TrackerName.tensorboard: TensorboardTracker,
    TrackerName.mlflow: MlflowTracker,
}
