"""How fast whole training steps and classifications are, beside a ReLU network of the same shape in PyTorch.

    python scripts/benchmark_training.py [--case SUBSTRING] [--repeats N] [--json FILE] [--markdown FILE]

A case is an experiment of conf/, its network, batch and optimiser, on real images: the data set is found or
downloaded as in a run. A training step is all of it: the batch taken from the data set, shifts and noise,
sorting, forward, loss, backward, Adam (a bumped batch makes its step here too, which the paper's rule leaves
out). The ReLU network, where PyTorch is installed (it is a yardstick, no dependency), has the same layers,
batch size and optimiser, runs eagerly on as many threads in the same run, turn by turn with ours, and takes
its batches from the same samples.

Columns:

    step ms         median time of a step
    samples/s       samples over that time, of all replicas
    PyTorch         samples/s of the ReLU network
    ratio           ours over PyTorch's
    target          the least that a case is meant to reach, in samples/s, where there is one
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpuspike import backend
from gpuspike.backend import thread_count
from gpuspike.config.schema import TrainingConfig, jobs
from gpuspike.network.decision import decisions
from gpuspike.network.layers import Layer
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.training.augmentation import WARPS
from gpuspike.training.evaluation import Labelled, evaluate

N_SAMPLES = 8_000
"""Fewest samples that a case has."""

STEPS, IMAGES_A_PASS = 20, 100
"""Steps, or forward passes of so many images, that are timed together."""

TOGETHER = 1000
"""Images of a pass of the peer's where ours decides on all in one call: its fastest of 100 to 8000."""

EPOCHS = 4
"""Epochs that a network is trained for before it classifies."""

PAUSE = 0.1
"""Seconds between turns: threads of the one that still look out for work would take the other's time."""


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        overrides: the experiment and what is changed in it.
        train: training steps, else classifications.
        target: samples/s to reach.
        decide: decisions alone are asked for, else all spike times.
    """

    name: str
    overrides: tuple[str, ...]
    train: bool
    target: float | None = None
    decide: bool = False


# mnist_best without what its images go through, which the peer does not: its network, with images that stay.
BEST = (
    "experiment=mnist_best",
    *(f"training.{key}={getattr(TrainingConfig, key)}" for key in WARPS),
)

MAPS = (
    "experiment=mnist_conv",
    "model.layers=[{conv: 16, kernel: 5}, {pool: 2}, {conv: 32, kernel: 5}, {pool: 2}, "
    "{dense: 128}, {dense: 10}]",
    "model.weight_mean=[0.3,0.05,0.05,0.1]",
)

# Targets: 540 times the 28 samples/s of the paper's code for training, and what the chip classifies a second.
CASES = (
    Case("train mnist 784-350-10, batch 80", ("experiment=mnist",), True, 15_000),
    Case("train mnist 784-350-10, batch 800", ("experiment=mnist", "training.batch_size=800"), True),
    Case("train mnist_best 784-350-10, batch 80", (*BEST, "training.batch_size=80"), True),
    Case("train mnist_best 784-350-10, batch 800", (*BEST, "training.batch_size=800"), True),
    Case(
        "train mnist_best 784-350-10, warped images, batch 80",
        ("experiment=mnist_best", "training.batch_size=80"),
        True,
    ),
    Case("train mnist16 256-246-10, batch 50", ("experiment=mnist16",), True),
    Case("train mnist_deep 784-400x4-10, batch 80", ("experiment=mnist_deep",), True),
    Case("train mnist_conv 16-32 maps of 5x5, batch 100", MAPS, True),
    Case("all spikes mnist_conv 16-32 maps of 5x5", MAPS, False),
    Case("all spikes mnist 784-350-10", ("experiment=mnist_best",), False),
    Case("classify mnist 784-350-10", ("experiment=mnist_best",), False, decide=True),
    Case("all spikes mnist16 256-246-10", ("experiment=mnist16",), False),
    Case("classify mnist16 256-246-10", ("experiment=mnist16",), False, 20_800, decide=True),
)


@dataclass(frozen=True)
class Measurement:
    """Seconds of each timed step of ours and of PyTorch's (none if it is not installed)."""

    case: Case
    samples_a_step: int
    seconds: list[float]
    peer_seconds: list[float]


@dataclass(frozen=True)
class Task:
    """A case, built.

    Attributes:
        steps: takes STEPS steps; the seconds they took, where it has done more than these.
        samples_a_step: of all replicas;  n_steps: that are timed together.
        layers: of our network.
        inputs, labels: the samples, as numbers from 0 to 1 and classes.
    """

    steps: Callable[[], float | None]
    samples_a_step: int
    layers: Sequence[Layer]
    inputs: Any
    labels: Any
    n_steps: int = STEPS


def build_task(case: Case) -> Task:
    """The case with as many samples as its steps need."""
    overrides = [
        *case.overrides,
        "training.epochs=1000000",
        "backend=cpu",
        "training.bump_replaces_step=false",
    ]
    (job,) = jobs(overrides, False)
    batch_size = job.config.training.batch_size if case.train else IMAGES_A_PASS
    n_samples = max(N_SAMPLES, STEPS * batch_size)
    sizes = [f"dataset.n_train={n_samples}", "dataset.n_validation=1000", "dataset.n_test=1000"]
    (job,) = jobs([*overrides, *sizes], False)
    parts = build(job.config)
    trainer, split = new_trainer(parts), parts.dataset.train
    sort = case.train and parts.rule.keeps_inputs
    data = Labelled(parts.network.receive(parts.encode(split.features), sort=sort), split.labels)
    used = Labelled(data.received.part(0, STEPS * batch_size), data.labels[: STEPS * batch_size])
    one = Labelled(data.received.part(0, 1), data.labels[:1])

    scaled = (split.features / max(split.features.max(), 1)).astype(np.float32)
    yardstick = parts.network.layers, scaled, split.labels

    def train() -> float:
        trainer.epoch = 0
        return next(iter(trainer.train(used, one, 1))).train_seconds  # without the validation

    def classify() -> None:
        evaluate(parts.network, trainer.weights, used, parts.loss, IMAGES_A_PASS)

    def decide() -> None:
        decisions(parts.network, trainer.weights, data.received.t_in[0])

    if case.train:
        for _ in range(3):  # a network that has begun to learn
            train()
        return Task(train, batch_size, *yardstick)
    for _ in trainer.train(data, one, EPOCHS):
        pass
    if case.decide:
        return Task(decide, TOGETHER, *yardstick, n_samples // TOGETHER)
    return Task(classify, batch_size, *yardstick)


def peer(case: Case, task: Task) -> Callable[[], float | None] | None:
    """The same with a ReLU network in PyTorch; None where that is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(thread_count())
    torch.manual_seed(0)
    network = torch.nn.Sequential(*_modules(torch.nn, task.layers)[:-1])
    inputs, labels = torch.from_numpy(task.inputs), torch.from_numpy(task.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss = torch.nn.CrossEntropyLoss()
    size, n_steps = task.samples_a_step, task.n_steps

    def train() -> None:
        order = torch.randperm(size * n_steps) % len(inputs)  # replicas see a sample each
        for step in range(n_steps):
            samples = order[step * size : (step + 1) * size]
            optimizer.zero_grad()
            loss(network(inputs[samples]), labels[samples]).backward()
            optimizer.step()

    def classify() -> None:
        with torch.no_grad():
            for step in range(n_steps):
                network(inputs[step * size : (step + 1) * size]).argmax(dim=1)

    return train if case.train else classify


def _modules(nn: Any, layers: Sequence[Layer]) -> list[Any]:
    """Layers of the same shapes, maximum pools where earliest spikes are heard, and a ReLU behind each."""
    modules: list[Any] = []
    for number, layer in enumerate(layers):
        maps = layer.convolution
        if maps is None:
            modules += [nn.Linear(layer.n_in, layer.n_out), nn.ReLU()]
            continue
        if number == 0:
            modules.append(nn.Unflatten(1, (maps.shape[2], *maps.shape[:2])))
        modules += [nn.Conv2d(maps.shape[2], maps.n_maps, maps.kernel, maps.stride, maps.padding), nn.ReLU()]
        if maps.pool > 1:
            modules.append(nn.MaxPool2d(maps.pool))
        if number + 1 == len(layers) or layers[number + 1].convolution is None:
            modules.append(nn.Flatten())
    return modules


def measure(case: Case, repeats: int) -> Measurement:
    """Ours and the peer's, turn by turn, after one turn each to warm up."""
    task = build_task(case)
    run_peer = peer(case, task)
    seconds: list[float] = []
    peer_seconds: list[float] = []
    for turn in range(repeats + 1):
        for call, times in ((task.steps, seconds), (run_peer, peer_seconds)):
            if call is None:
                continue
            time.sleep(PAUSE)
            start = time.perf_counter()
            seconds_taken = call()
            if turn:
                times.append((seconds_taken or time.perf_counter() - start) / task.n_steps)
    return Measurement(case, task.samples_a_step, seconds, peer_seconds)


COLUMNS = ("case", "step ms", "samples/s", "PyTorch", "ratio", "target")


def row(measurement: Measurement) -> tuple[str, ...]:
    """One line of the table."""
    case, median = measurement.case, statistics.median(measurement.seconds)
    speed = measurement.samples_a_step / median
    theirs = "-"
    ratio = "-"
    if measurement.peer_seconds:
        peer_speed = measurement.samples_a_step / statistics.median(measurement.peer_seconds)
        theirs, ratio = f"{peer_speed:,.0f}", f"{speed / peer_speed:.2f}"
    target = "-" if case.target is None else f"{case.target:,.0f}"
    return case.name, f"{1e3 * median:.2f}", f"{speed:,.0f}", theirs, ratio, target


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    cases = [case for case in CASES if options.case in case.name]
    if not cases:
        names = "\n  ".join(case.name for case in CASES)
        parser.error(f"--case must be a part of one of these names, got {options.case!r}:\n  {names}")
    progress = Console(stderr=True, highlight=False)
    measurements = []
    for number, case in enumerate(cases, 1):
        progress.print(f"{number}/{len(cases)} {case.name}")
        measurements.append(measure(case, options.repeats))
    machine = f"{platform.node()}: {backend.select('cpu').device}, {thread_count()} threads"
    rows = [row(measurement) for measurement in measurements]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    table = Table(title=machine)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for values in rows:
        table.add_row(*values)
    console.print(table)
    if not measurements[0].peer_seconds:
        console.print("PyTorch is not installed: no ratio")
    if options.markdown is not None:
        lines = [f"| {' | '.join(values)} |" for values in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
        options.markdown.write_text(
            "\n".join([machine.split(": ", 1)[1], "", *lines]) + "\n", encoding="utf-8"
        )
    if options.json is not None:
        report = {
            "machine": machine,
            "numpy": np.__version__,
            "measurements": [asdict(measurement) for measurement in measurements],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
