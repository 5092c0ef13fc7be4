"""One run from configuration to report: glue, in the order in which values flow."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gpuspike import checkpoint, plots, report
from gpuspike import config as configuration
from gpuspike.backend import Backend, select
from gpuspike.bumping import Bumping
from gpuspike.config import Config, LossName, OptimizerName
from gpuspike.datasets import Dataset, yin_yang, yin_yang_class
from gpuspike.encoding import latency
from gpuspike.errors import ConfigError, OutputError
from gpuspike.kernels import load
from gpuspike.losses import Loss, TimeMSE, TTFSCrossEntropy, decide
from gpuspike.network import Network
from gpuspike.neuron import LIF
from gpuspike.optim import SGD, Adam, Optimizer, Schedule
from gpuspike.tracking import MetricsFile, ProgressDisplay, plain, record_line
from gpuspike.trainer import Evaluation, Labelled, Trainer, TrainingRule, evaluate

Array = NDArray[Any]


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, built and checked; nothing computed yet."""

    config: Config
    backend: Backend
    dataset: Dataset
    network: Network
    loss: Loss
    rule: TrainingRule
    schedule: Schedule
    make_optimizer: Callable[[list[Array]], Optimizer]
    make_bumping: Callable[[], Bumping]

    @property
    def seeds(self) -> list[int]:
        """Seed of each replica."""
        return [self.config.seed + r for r in range(self.config.replicas)]

    def encode(self, features: NDArray[np.float64]) -> Array:
        """(n_samples, n_features) features as (1, n_samples, n_features) spike times."""
        data = self.config.dataset
        return latency(features, data.t_early, data.t_late)[None].astype(self.config.dtype.value)


@lru_cache(maxsize=4)
def _yin_yang(n_train: int, n_validation: int, n_test: int) -> Dataset:
    return yin_yang(n_train, n_validation, n_test)


def build(config: Config) -> Experiment:
    """Builds every part of a run, so that a value that cannot work is refused before any work.

    Raises:
        GpuspikeError: what was expected, and what was got.
    """
    model, training, optimizer, data = config.model, config.training, config.optimizer, config.dataset
    backend = select(config.backend.value)
    dataset = _yin_yang(data.n_train, data.n_validation, data.n_test)
    latency(np.zeros((0, dataset.n_features)), data.t_early, data.t_late)
    neuron = LIF(model.tau_mem, model.tau_syn, model.threshold, model.leak, model.capacitance)
    for key, stds in (("model.weight_std", model.weight_std),):
        if not all(std >= 0.0 and np.isfinite(std) for std in stds):
            raise ConfigError(f"{key} must be 0 or more, got {stds}")
    if not np.isfinite(model.weight_mean).all():
        raise ConfigError(f"model.weight_mean must be finite, got {model.weight_mean}")
    if not all(np.isfinite(times).all() for times in model.bias_times):
        raise ConfigError(f"model.bias_times must be finite, got {model.bias_times}")
    sizes = (dataset.n_features, *model.hidden, len(dataset.class_names))
    network = Network.build(sizes, model.bias_times, neuron, load(backend.name))
    loss: Loss
    if training.loss is LossName.time_mse:
        loss = TimeMSE(model.tau_syn, training.t_correct, training.t_wrong)
    else:
        loss = TTFSCrossEntropy(model.tau_syn, training.xi, training.alpha, training.beta)

    def make_optimizer(weights: list[Array]) -> Optimizer:
        if optimizer.name is OptimizerName.sgd:
            return SGD(weights, optimizer.momentum)
        return Adam(weights, optimizer.beta1, optimizer.beta2, optimizer.epsilon)

    def make_bumping() -> Bumping:
        return Bumping(
            training.max_silent,
            training.bump_value,
            config.replicas,
            training.bump_exponential,
            training.bump_targeted,
        )

    make_bumping()
    make_optimizer([np.zeros((1, 1, 1))])
    return Experiment(
        config=config,
        backend=backend,
        dataset=dataset,
        network=network,
        loss=loss,
        rule=TrainingRule(
            batch_size=training.batch_size,
            evaluation_batch_size=training.evaluation_batch_size,
            max_weight_grad=training.max_weight_grad,
            bump_replaces_step=training.bump_replaces_step,
            input_noise=training.input_noise * model.tau_syn,
            weight_average=training.weight_average,
        ),
        schedule=Schedule(
            optimizer.learning_rate,
            optimizer.schedule.value,
            optimizer.step_size,
            optimizer.gamma,
            training.epochs,
        ),
        make_optimizer=make_optimizer,
        make_bumping=make_bumping,
    )


def check_folder(folder: Path) -> None:
    """Makes sure that a run can be written to a folder, without creating it.

    Raises:
        OutputError: the folder holds a run already, or nothing can be written there.
    """
    if (folder / "config.yaml").exists():
        raise OutputError(f"the output folder must be new, got {folder}, which holds a run")
    ancestor = folder.absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    try:
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        raise OutputError(
            f"the output folder must be writable, got {folder}: {error.strerror or error}"
        ) from None


def run(config: Config, experiment: str, folder: Path, console: Console) -> dict[str, Any]:
    """Trains, evaluates, draws and reports.

    Args:
        experiment: its name, for the report.
        folder: where the run is written; must not hold a run.

    Returns:
        The summary that summary.json holds.

    Raises:
        GpuspikeError: bad input, before anything is written.
        KeyboardInterrupt: again, if the run was interrupted before its first epoch was over.
    """
    start = time.perf_counter()
    parts = build(config)
    check_folder(folder)
    _say_what_runs(parts, experiment, folder, console)
    _prepare_kernels(parts, console)
    data = {
        name: Labelled(parts.network.receive(parts.encode(split.features)), split.labels)
        for name, split in parts.dataset.splits.items()
    }
    trainer = _new_trainer(parts)
    _make_folder(folder)
    (folder / "config.yaml").write_text(configuration.to_yaml(config), encoding="utf-8")
    records, interrupted = _train(parts, trainer, data, folder, console)
    if not records:
        (folder / "config.yaml").unlink()
        folder.rmdir()
        raise KeyboardInterrupt("before the first epoch was over; nothing was saved")

    weights = _evaluated_weights(folder / "checkpoint.npz", len(parts.network.layers))
    results = {
        name: evaluate(parts.network, weights, split, parts.loss, parts.rule.evaluation_batch_size)
        for name, split in data.items()
    }
    summary = _summary(parts, experiment, records, results, interrupted)
    with console.status("drawing figures"):
        _draw(parts, weights, data["test"], results["test"], records, folder / "figures")
    summary["emulator"]["wall_s"] = time.perf_counter() - start
    summary = plain(summary)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    report.write_report(folder, experiment, summary, records, configuration.to_yaml(config))
    console.print(report.final_table(summary))
    console.print(f"report   {folder / 'report.html'}", soft_wrap=True)
    console.print(f"figures  {folder / 'figures'}", soft_wrap=True)
    return summary


def _say_what_runs(parts: Experiment, experiment: str, folder: Path, console: Console) -> None:
    config = parts.config
    layers = parts.network.layers
    sizes = "-".join(str(n) for n in (layers[0].n_in, *(layer.n_out for layer in layers)))
    chosen = " (chosen by backend=auto)" if config.backend.value == "auto" else ""
    replicas = f"{config.replicas} replica" + ("s" if config.replicas > 1 else "")
    console.print(f"[bold]{experiment}[/bold]  {sizes}, {replicas}, seed {config.seed}, {config.dtype.value}")
    console.print(f"backend  {parts.backend.name}{chosen}: {parts.backend.device}", soft_wrap=True)
    console.print(f"folder   {folder}", soft_wrap=True)


def _prepare_kernels(parts: Experiment, console: Console) -> None:
    """Runs each kernel once on nothing much, so that compiling is neither silent nor timed as training."""
    start = time.perf_counter()
    with console.status("preparing kernels (the first run on a machine compiles them: up to half a minute)"):
        weights = [
            np.ones((1, layer.n_pre, layer.n_out), parts.config.dtype.value) for layer in parts.network.layers
        ]
        t_in = np.zeros((1, 1, parts.network.layers[0].n_in), parts.config.dtype.value)
        activities = parts.network.forward(weights, parts.network.receive(t_in))
        parts.network.backward(
            weights,
            activities,
            np.zeros_like(activities[-1].t_out),
            active=np.ones(1, np.bool_),
            max_weight_grad=1.0,
        )
    seconds = time.perf_counter() - start
    if seconds > 2.0:
        console.print(f"kernels  compiled in {seconds:.0f} s, kept for later runs")


def _new_trainer(parts: Experiment) -> Trainer:
    model = parts.config.model
    weights = parts.network.initial_weights(
        parts.seeds, model.weight_mean, model.weight_std, parts.config.dtype.value
    )
    return Trainer(
        parts.network,
        weights,
        parts.loss,
        parts.make_optimizer(weights),
        parts.schedule,
        parts.make_bumping(),
        parts.rule,
        parts.seeds,
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {folder}: {error.strerror or error}") from None


def _train(
    parts: Experiment, trainer: Trainer, data: dict[str, Labelled], folder: Path, console: Console
) -> tuple[list[dict[str, Any]], bool]:
    """Trains and keeps the books; returns the records and whether the user stopped it."""
    n_epochs = parts.config.training.epochs
    metrics = MetricsFile(folder / "metrics.jsonl")
    records: list[dict[str, Any]] = []
    interrupted = False
    with ProgressDisplay(console, n_epochs) as display:

        def on_batch(done: int, total: int) -> None:
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
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and records:
        console.print(f"stopped by the user; epoch {records[-1]['epoch']} is the last one kept")
    return records, interrupted


def _values(config: Config) -> dict[str, Any]:
    return asdict(config, dict_factory=lambda items: {k: getattr(v, "value", v) for k, v in items})


def _evaluated_weights(path: Path, n_layers: int) -> list[Array]:
    """The weights that answer, from the checkpoint of the last full epoch."""
    arrays, _ = checkpoint.load(path)
    kind = "average" if "average_0" in arrays else "weights"
    return [arrays[f"{kind}_{number}"] for number in range(n_layers)]


def _summary(
    parts: Experiment,
    experiment: str,
    records: list[dict[str, Any]],
    results: dict[str, Evaluation],
    interrupted: bool,
) -> dict[str, Any]:
    def statistics(values: Array) -> dict[str, Any]:
        # The deviation over seeds is that of a sample, as papers report it; one seed has none.
        std = values.std(ddof=1) if len(values) > 1 else None
        return {"mean": values.mean(), "std": std, "per_replica": values}

    config = parts.config
    seconds = sum(result.seconds for result in results.values())
    samples = config.replicas * sum(result.t_out.shape[1] for result in results.values())
    speeds = [record["train_samples_per_s"] for record in records]
    return {
        "accuracy": {name: statistics(result.accuracy) for name, result in results.items()},
        "loss": {name: statistics(result.loss) for name, result in results.items()},
        "silent_fraction": {name: result.silent_fraction for name, result in results.items()},
        "chip": dict.fromkeys(
            (
                "name", "time_to_decision_s", "seconds_per_sample", "samples_per_s",
                "energy_per_classification_J", "energy_terms_J", "evidence", "spikes_per_sample",
                "synaptic_events_per_sample",
            )
        ),
        "emulator": {
            "backend": parts.backend.name,
            "device": parts.backend.device,
            "train_samples_per_s": float(np.median(speeds)),
            "inference_samples_per_s": samples / seconds,
            "wall_s": None,
        },
        "provenance": {
            "gpuspike": metadata.version("gpuspike"),
            "git": _git_revision(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": metadata.version("numba"),
            "cupy": metadata.version("cupy") if util.find_spec("cupy") else None,
            "seed": config.seed,
            "replicas": config.replicas,
        },
        "run": {
            "experiment": experiment,
            "epochs": config.training.epochs,
            "epochs_done": records[-1]["epoch"],
            "interrupted": interrupted,
            "dtype": config.dtype.value,
        },
    }  # fmt: skip


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


def _draw(
    parts: Experiment,
    weights: list[Array],
    test: Labelled,
    result: Evaluation,
    records: list[dict[str, Any]],
    folder: Path,
) -> None:
    """Figures of the run; where there are replicas, those of single samples show the first."""
    names = parts.dataset.class_names
    plots.save(plots.learning_curves(records), folder, "learning_curves")
    t_out = result.t_out[0].astype(np.float64)
    plots.save(plots.spike_time_histograms(t_out, test.labels, names), folder, "spike_time_histograms")
    first = [w[:1] for w in weights]
    plots.save(_membranes(parts, first, test, t_out), folder, "membrane_traces")
    if parts.dataset.name == "yin_yang":
        plots.save(_plane(parts, first, test, result), folder, "yin_yang_plane")


def _plane(parts: Experiment, weights: list[Array], test: Labelled, result: Evaluation) -> Any:
    axis = (np.arange(300) + 0.5) / 300
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    points = grid.reshape(-1, 2)
    features = np.concatenate([points, 1.0 - points], axis=1)
    received = parts.network.receive(parts.encode(features))
    answers = evaluate(
        parts.network,
        weights,
        Labelled(received, yin_yang_class(points[:, 0], points[:, 1])),
        parts.loss,
        parts.rule.evaluation_batch_size,
    )
    return plots.yin_yang_plane(
        grid,
        decide(answers.t_out[0]).reshape(grid.shape[:2]),
        parts.dataset.test.features[:, :2],
        test.labels,
        decide(result.t_out[0]),
        float(result.accuracy[0]),
    )


def _membranes(parts: Experiment, weights: list[Array], test: Labelled, t_out: Array) -> Any:
    """Traces of the first test sample that is classified correctly (else of the first)."""
    right = np.flatnonzero(decide(t_out) == test.labels)
    sample = int(right[0]) if right.size else 0
    activities = parts.network.forward(weights, test.received.part(sample, sample + 1))
    inputs = [activity.received.t_in[0, 0].astype(np.float64) for activity in activities]
    spikes = [activity.t_out[0, 0].astype(np.float64) for activity in activities]
    events = np.concatenate([*inputs, *spikes])
    neuron = parts.network.layers[0].neuron
    end = events[np.isfinite(events)].max() + neuron.tau_syn
    times = np.linspace(min(0.0, events.min()), end, 1500)
    membranes = [
        neuron.leak + np.einsum("tp,pj->tj", neuron.kernel(times[:, None] - t_in), w[0].astype(np.float64))
        for t_in, w in zip(inputs, weights, strict=True)
    ]
    return plots.membrane_traces(
        times,
        membranes,
        spikes,
        inputs[0],
        neuron.threshold,
        parts.dataset.class_names,
        int(test.labels[sample]),
    )
