"""One run from configuration to report: glue, in the order in which values flow."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gpuspike import checkpoint, chip_plots, plots, report
from gpuspike.accountant import Counter, neurobench
from gpuspike.config import Config, to_yaml
from gpuspike.drawing import draw
from gpuspike.errors import OutputError
from gpuspike.experiment import Experiment, build, new_trainer
from gpuspike.kernels import LayerState
from gpuspike.measure import Measured, measure, on_chip
from gpuspike.rng import Purpose
from gpuspike.tracking import MetricsFile, ProgressDisplay, plain, record_line
from gpuspike.trainer import Labelled, Trainer

Array = NDArray[Any]


def check_folder(folder: Path) -> None:
    """Makes sure that a run can be written to a folder, without creating it.

    Raises:
        OutputError: the folder holds a run already, or nothing can be written there.
    """
    try:
        used = (folder / "config.yaml").exists() or any(folder.glob("*/config.yaml"))
        ancestor = folder.absolute()
        while not ancestor.exists():
            ancestor = ancestor.parent
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        raise OutputError(
            f"the output folder must be writable, got {folder}: {error.strerror or error}"
        ) from None
    if used:
        raise _used(folder)


def _used(folder: Path) -> OutputError:
    return OutputError(f"the output folder must be new, got {folder}, which holds a run")


def existing(folder: Path) -> set[Path]:
    """Those of a folder and the folders around it that are there."""
    folder = folder.absolute()
    return {place for place in (folder, *folder.parents) if os.path.lexists(place)}


def remove_empty(folder: Path, keep: set[Path]) -> None:
    """Removes a folder and the ones around it as far as they are empty and not to be kept."""
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        if place in keep:
            return
        try:
            place.rmdir()
        except OSError:
            return


def run(
    config: Config, experiment: str, folder: Path, console: Console, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains, evaluates, draws and reports.

    Args:
        experiment: its name, for the report.
        folder: where the run is written; must not hold a run.
        overrides: what the command line changed, for the summary.

    Returns:
        The summary that summary.json holds.

    Raises:
        GpuspikeError: bad input, before anything is written.
        KeyboardInterrupt: again, if the run was interrupted before its first epoch was over.
    """
    parts = build(config)
    check_folder(folder)
    before = existing(folder)
    _claim(folder, to_yaml(config))
    try:
        return _run(parts, experiment, folder, console, overrides)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write the run to {folder}: {error.strerror or error}") from None
    finally:
        if not (folder / "checkpoint.npz").exists():  # nothing is worth keeping
            _remove(folder, before)


def _run(
    parts: Experiment, experiment: str, folder: Path, console: Console, overrides: Sequence[str]
) -> dict[str, Any]:
    start = time.perf_counter()
    config = parts.config
    origin = provenance(config)  # now: the code may be another one by the time that training ends
    _say_what_runs(parts, experiment, folder, console)
    prepare_kernels(parts, console)
    data = {
        name: Labelled(
            parts.network.receive(
                parts.encode(split.features),
                # Training alone sees the same times often enough for their order to be worth its memory.
                sort=name == "train" and parts.rule.keeps_inputs,
            ),
            split.labels,
        )
        for name, split in parts.dataset.splits.items()
    }
    trainer = new_trainer(parts)
    records, interrupted = _train(parts, trainer, data, folder, console)
    if not records:
        raise KeyboardInterrupt("before the first epoch was over; nothing was saved")

    weights = _kept_weights(folder / "checkpoint.npz", len(parts.network.layers))
    measured = measure(parts, parts.network, weights, data, "test", [parts.prices])
    results = measured.results
    summary = _summary(parts, experiment, records, measured, interrupted)
    summary |= on_chip(parts, measured, parts.prices) | {"neurobench": neurobench(measured.activity)}
    summary |= {"provenance": origin}
    summary["run"]["overrides"] = list(overrides)
    with console.status("drawing figures"):
        draw(parts, weights, data["test"], results["test"], records, folder / "figures")
        curve = chip_plots.anytime(summary["anytime"], summary["chip"]["name"])
        plots.save(curve, folder / "figures", "anytime")
    summary["emulator"]["wall_s"] = time.perf_counter() - start
    summary = plain(summary)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    report.write_report(folder, experiment, summary, records, to_yaml(config))
    console.print(report.final_table(summary))
    if (chip := report.chip_table(summary["chip"])) is not None:
        console.print(chip)
    console.print(f"report   {folder / 'report.html'}", soft_wrap=True)
    console.print(f"figures  {folder / 'figures'}", soft_wrap=True)
    return summary


def _say_what_runs(parts: Experiment, experiment: str, folder: Path, console: Console) -> None:
    config = parts.config
    chosen = " (chosen by backend=auto)" if config.backend.value == "auto" else ""
    replicas = f"{config.replicas} replica" + ("s" if config.replicas > 1 else "")
    sizes = parts.network.sizes
    console.print(f"[bold]{experiment}[/bold]  {sizes}, {replicas}, seed {config.seed}, {config.dtype.value}")
    console.print(f"backend  {parts.backend.name}{chosen}: {parts.backend.device}", soft_wrap=True)
    console.print(f"folder   {folder}", soft_wrap=True)


def prepare_kernels(parts: Experiment, console: Console, *, training: bool = True) -> None:
    """Runs each kernel once on nothing much, so that compiling is neither silent nor timed as the work.

    Args:
        training: those that only training needs, too.
    """
    start = time.perf_counter()
    network, dtype, everybody = parts.network, parts.config.dtype.value, np.ones(1, np.bool_)
    weights = [np.ones((1, layer.n_pre, layer.n_out), dtype) for layer in network.layers]
    t_in = np.zeros((1, 1, network.layers[0].n_in), dtype)
    states: list[LayerState] = []

    def backward() -> None:
        t_out_grad = np.zeros_like(states[-1].t_out)
        network.backward(weights, states, t_out_grad, active=everybody, max_weight_grad=1.0)

    with (
        console.status("preparing kernels (the first run on a machine compiles them: up to half a minute)"),
        _StopRequest() as stop,  # the compiler loses an interruption that comes at the wrong moment
    ):
        evaluating = (
            lambda: states.extend(network.forward(weights, network.receive(t_in))),
            lambda: parts.loss(states[-1].t_out, np.zeros((1, 1), np.int64)),
            lambda: Counter(network.layers, weights, 1, [1.0])(0, 1, states),
        )
        learning = (
            backward,
            lambda: network.kernels.jitter(t_in, t_in.shape[2], 1.0, [0], Purpose.INPUT_NOISE, 0, 0),
            lambda: parts.make_optimizer(weights).step(weights, weights, 1.0, everybody),
        )
        for prepare in evaluating + (learning if training else ()):
            prepare()
            if stop.asked:
                raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    if seconds > 2.0:
        console.print(f"kernels  compiled in {seconds:.0f} s, kept for later runs")


def _claim(folder: Path, config: str) -> None:
    """Makes the folder this run's: of two runs that want it, one gets it and the other is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "config.yaml", "x", encoding="utf-8") as file:
            file.write(config)
    except FileExistsError:
        raise _used(folder) from None
    except OSError as error:
        raise OutputError(f"cannot write the run to {folder}: {error.strerror or error}") from None


def _remove(folder: Path, keep: set[Path]) -> None:
    """Removes what a run without a single epoch has written."""
    with suppress(OSError):
        (folder / "config.yaml").unlink()
    remove_empty(folder, keep)


class _StopRequest:
    """Turns Ctrl-C into a request that is met between two batches, never while a file is written.

    A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _StopRequest:
        # Only the main thread may set handlers; elsewhere the program around us handles Ctrl-C.
        self._ours = threading.current_thread() is threading.main_thread()
        if self._ours:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _train(
    parts: Experiment, trainer: Trainer, data: dict[str, Labelled], folder: Path, console: Console
) -> tuple[list[dict[str, Any]], bool]:
    """Trains and keeps the books; returns the records and whether the user stopped it."""
    n_epochs = parts.config.training.epochs
    metrics = MetricsFile(folder / "metrics.jsonl")
    records: list[dict[str, Any]] = []
    interrupted = False
    with _StopRequest() as stop, ProgressDisplay(console, n_epochs) as display:

        def on_batch(done: int, total: int) -> None:
            if stop.asked:
                raise KeyboardInterrupt
            display.batch(trainer.epoch, done, total)

        try:
            for record in trainer.train(data["train"], data["validation"], n_epochs, on_batch):
                header = {
                    "epoch": record.epoch,
                    "config": plain(_values(parts.config)),
                    "seeds": parts.seeds,
                    "gpuspike": metadata.version("gpuspike"),
                }
                checkpoint.save(folder / "checkpoint.npz", trainer.state(), header)
                line = record_line(record)
                metrics.write(line)
                records.append(line)
                display.epoch(record)
                if stop.asked:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and records:
        console.print(f"stopped by the user; epoch {records[-1]['epoch']} is the last one kept")
    return records, interrupted


def _values(config: Config) -> dict[str, Any]:
    return asdict(config, dict_factory=lambda items: {k: getattr(v, "value", v) for k, v in items})


def _kept_weights(path: Path, n_layers: int) -> list[Array]:
    """The weights of the last full epoch, from its checkpoint: a stopped run is already within the next."""
    arrays, _ = checkpoint.load(path)
    return [arrays[f"weights_{number}"] for number in range(n_layers)]


def _summary(
    parts: Experiment,
    experiment: str,
    records: list[dict[str, Any]],
    measured: Measured,
    interrupted: bool,
) -> dict[str, Any]:
    def statistics(values: Array) -> dict[str, Any]:
        # The deviation over seeds is that of a sample, as papers report it; one seed has none.
        std = values.std(ddof=1) if len(values) > 1 else None
        return {"mean": values.mean(), "std": std, "per_replica": values}

    config, results = parts.config, measured.results
    speeds = [record["train_samples_per_s"] for record in records]
    return {
        "accuracy": {name: statistics(result.accuracy) for name, result in results.items()},
        "loss": {name: statistics(result.loss) for name, result in results.items()},
        "silent_fraction": {name: result.silent_fraction for name, result in results.items()},
        "emulator": {
            "backend": parts.backend.name,
            "device": parts.backend.device,
            "train_samples_per_s": float(np.median(speeds)),
            **measured.speed,
            "wall_s": None,
        },
        "run": {
            "experiment": experiment,
            "epochs": config.training.epochs,
            "epochs_done": records[-1]["epoch"],
            "interrupted": interrupted,
            "dtype": config.dtype.value,
        },
    }  # fmt: skip


def provenance(config: Config) -> dict[str, Any]:
    """What a run was made with."""
    return {
        "gpuspike": metadata.version("gpuspike"),
        "git": _git_revision(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": metadata.version("numba"),
        "cupy": _cupy_version(),
        "seed": config.seed,
        "replicas": config.replicas,
    }


def _cupy_version() -> str | None:
    """CuPy's version without importing it; its wheels go by many names (cupy-cuda12x, ...)."""
    if util.find_spec("cupy") is None:
        return None
    names = metadata.packages_distributions().get("cupy", [])
    return metadata.version(names[0]) if names else "unknown"


def _git_revision() -> str | None:
    """Commit of the checkout that the package runs from, "+" added where it was changed; None elsewhere."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
