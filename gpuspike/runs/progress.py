"""Where a run's numbers go while it runs: a file that is the truth, and the screen."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from gpuspike.config.composition import key_of
from gpuspike.datasets.splits import unlikely
from gpuspike.errors import OutputError
from gpuspike.runs.experiment import Experiment
from gpuspike.screen import LINE, clean, warn
from gpuspike.training.step import StepKind
from gpuspike.training.trainer import EpochRecord


def say_what_runs(
    parts: Experiment, experiment: str, folder: Path, console: Console, overrides: Sequence[str] = ()
) -> None:
    """Tells which network is trained, on what, and where the run is written.

    Args:
        overrides: what was typed, of which nothing may read some.
    """
    config = parts.config
    chosen = " (chosen by backend=auto)" if config.backend.value == "auto" else ""
    replicas = f"{config.replicas} replica" + ("s" if config.replicas > 1 else "")
    sizes = parts.network.sizes
    title = [(clean(experiment if config.name is None else config.name), "bold")]
    also = "" if config.name is None else f"  {clean(experiment)}"
    what = f"{also}  {sizes}, {replicas}, seed {config.seed}, {config.dtype.value}"
    console.print(Text.assemble(*title, what))
    console.print(f"backend  {parts.backend.name}{chosen}: {parts.backend.device}", **LINE)
    console.print(f"folder   {folder}", **LINE)
    if names := parts.dataset.untaught:
        which = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warn(f"no training sample is of class {which}: nothing teaches such an answer", console)
    end = parts.substrate.clock.last / config.model.tau_syn
    times = parts.dataset.train.features if parts.dataset.spike_times else None
    if times is not None and (strange := unlikely(times, end=end)):
        warn(f"{strange}; those of a file are of tau_syn", console)
    for text in parts.dataset.unread(key for key in map(key_of, overrides) if key.startswith("dataset.")):
        warn(text, console)


def say_step(kind: StepKind, console: Console) -> None:
    """Tells which step a training has, and why a slow one."""
    console.print(f"step     {kind}", **LINE)


def plain(value: Any) -> Any:
    """A value as JSON knows it: arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def record_line(record: EpochRecord) -> dict[str, Any]:
    """One epoch as a line of metrics.jsonl; lists run over replicas, silent_fraction first over layers."""
    assert record.validation is not None, "a run validates"
    return plain(
        {
            "epoch": record.epoch,
            "learning_rate": record.learning_rate,
            "train_loss": record.train_loss,
            "train_accuracy": record.train_accuracy,
            "validation_loss": record.validation.loss,
            "validation_accuracy": record.validation.accuracy,
            "silent_fraction": record.silent_fraction,
            "bump_fraction": record.bump_fraction,
            "never_spiking": [
                [np.flatnonzero(of_replica) for of_replica in layer]
                for layer in record.validation.never_spiking
            ],
            "train_samples_per_s": record.train_samples_per_s,
        }
    )


class MetricsFile:
    """metrics.jsonl: one line an epoch, on disk as soon as the epoch is over."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from None


def duration(seconds: float) -> str:
    """Seconds for a reader: 0.0123 -> "12.3 ms", 5000 -> "1 h 23 min"."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = f"{minutes // 60} h"
    return f"{hours} {minutes % 60} min" if minutes < 6000 else hours


class TimeLeft:
    """How long a training will still take, from the epochs that were seen."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs = n_epochs
        self._first: tuple[int, float] | None = None

    def after(self, epoch: int) -> str:
        """In words, with a comma before them; "" where it is over or nobody knows yet."""
        now = time.monotonic()
        if self._first is None:
            self._first = epoch, now
        begun, then = self._first
        if epoch == begun or epoch >= self.n_epochs:
            return ""
        return f", {duration((now - then) / (epoch - begun) * (self.n_epochs - epoch))} left"


class ProgressDisplay:
    """A bar on a terminal; elsewhere (a log file, a pipe) one line every few seconds, with the time left."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, console: Console, n_epochs: int) -> None:
        self._console = console
        self._n_epochs = n_epochs
        self._next_line = 0.0
        self._left = TimeLeft(n_epochs)
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[n_epochs]}"),
            BarColumn(bar_width=24),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(
            "train", total=n_epochs, epoch=0, n_epochs=n_epochs, figures=""
        )

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def batch(self, epoch: int, done: int, total: int) -> None:
        """Moves the bar within an epoch (counted from 0)."""
        self._progress.update(self._task, completed=epoch + done / total)

    def epoch(self, record: EpochRecord) -> None:
        """Shows a finished epoch: means over the replicas, silent neurons by layer."""
        assert record.validation is not None, "a run validates"
        silent = "/".join(f"{100 * layer.mean():.1f}" for layer in record.silent_fraction)
        loss = record.train_loss.mean()
        figures = (
            f"loss {loss:{'.3f' if abs(loss) < 1e6 else '.3g'}}  "
            f"accuracy {100 * record.train_accuracy.mean():.2f} %  "
            f"validation {100 * record.validation.accuracy.mean():.2f} %  "
            f"silent {silent} %  {record.train_samples_per_s:,.0f} samples/s"
        )
        self._progress.update(self._task, completed=record.epoch, epoch=record.epoch, figures=figures)
        now, left = time.monotonic(), self._left.after(record.epoch)
        last = record.epoch == self._n_epochs
        if not self._console.is_terminal and (last or now >= self._next_line):
            self._next_line = now + self.SECONDS_BETWEEN_LINES
            told = f"epoch {record.epoch}/{self._n_epochs}  {figures}{left}"
            self._console.print(told, soft_wrap=True, highlight=False)
