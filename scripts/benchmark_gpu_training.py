"""How fast a device makes whole training steps; `benchmark_gpu.py` runs this and prints its table.

A case is an experiment on random images, `mnist` unless it says another: all of a step (the batch taken,
noise, sorting, forward, loss, backward, Adam, bumping). A bumped batch makes its step here too. The
yardstick, where PyTorch with CUDA is installed, is a ReLU network of the same layers, convolutions too, the
same batch and optimiser, of one replica, in the same run: see `yardstick.py`.

Columns:

    step us         by the trainer's own clock, which waits for the device once an epoch, with the shuffle of
                    the epoch: median over the epochs of the mean time of a step
    device us       between events of the device around the queued steps of an epoch, the median likewise:
                    what PyTorch's columns are to be put beside, and what a prediction is of
    samples/s       samples over the first time, of all replicas
    device MiB      what the device's free memory shrank by: data, weights, pools, graph
    PyTorch us      of the ReLU network, between events around queued steps, in its eager mode
    compiled us     the same, network and loss compiled by torch.compile
    graph us        the same, the whole step as one CUDA graph
    target us       what a case is meant to take at most, where there is such a number

A way of PyTorch's that fails leaves its column empty; what it said is printed once.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import yardstick

from gpuspike import backend
from gpuspike.backend import cupy_module
from gpuspike.config.schema import jobs
from gpuspike.kernels.cuda.graph import free_memory
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.training.device import DeviceStep
from gpuspike.training.evaluation import Labelled
from gpuspike.training.trainer import Trainer

INPUTS, STEPS, LEAST_SAMPLES = 784, 100, 8_000
"""Pixels of an image; most steps of an epoch; samples that these steps need not exceed."""


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        overrides: of the experiment.
        target: microseconds of a step.
        inputs: pixels of an image; 0: INPUTS.
        black: share of pixels that are.
        branches: the graph has some; without them it has the same bits.
    """

    name: str
    overrides: tuple[str, ...] = ()
    target: float | None = None
    experiment: str = "mnist"
    inputs: int = 0
    black: float = 0.0
    branches: bool = True


MAPS = (
    "model.layers=[{conv: 16, kernel: 5}, {pool: 2}, {conv: 32, kernel: 5}, {pool: 2}, "
    "{dense: 128}, {dense: 10}]",
    "model.weight_mean=[0.3,0.05,0.05,0.1]",
)

CASES = (
    Case("train 784-350-10, batch 80, kernel by kernel", ("training.cuda_graph=false",)),
    Case("train 784-350-10, batch 80, graph", (), 150.0),
    Case("train 784-350-10, batch 80, no branches", branches=False),
    Case("train 784-350-10, images without noise, batch 80, graph", ("training.input_noise=0",), black=0.81),
    Case("train 784-350-10, batch 80, 64 replicas, graph", ("replicas=64",)),
    Case("train 784-350-10, batch 10,000, graph", ("training.batch_size=10000",)),
    Case(
        "train 784-350-10, images without noise, batch 10,000, graph",
        ("training.input_noise=0", "training.batch_size=10000"),
        black=0.81,
    ),
    Case("train convolutions of 16 and 32 maps, batch 100, graph", MAPS, experiment="mnist_conv"),
    Case("train 256-246-10, batch 50, graph", ("substrate=ideal",), experiment="mnist16_bss2", inputs=256),
    Case(
        "train 4-30-10, delays of synapses, batch 300, graph",
        ("model.delays=synaptic", "model.hidden=[30]", "training.batch_size=300"),
        experiment="yin_yang_best",
        inputs=4,
    ),
    Case(
        "train 256-246-10, thresholds, batch 50, graph",
        ("substrate=ideal", "model.trained=[threshold]"),
        experiment="mnist16_bss2",
        inputs=256,
    ),
    Case(
        "train 256-246-10, thresholds and time constants, batch 50, graph",
        ("substrate=ideal", "model.trained=[threshold,tau_mem,tau_syn]"),
        experiment="mnist16_bss2",
        inputs=256,
    ),
    Case("train 256-246-10 on BrainScaleS-2, batch 50, graph", experiment="mnist16_bss2", inputs=256),
)


@dataclass(frozen=True)
class Prepared:
    """A case's trainer and data.

    Attributes:
        n_steps: of an epoch.
    """

    trainer: Trainer
    train: Labelled
    validation: Labelled
    batch: int
    replicas: int
    n_steps: int


def prepare(case: Case, most_steps: int, least_steps: int = 2) -> Prepared:
    """A case on random images."""
    base = [f"experiment={case.experiment}", "dataset=npz", "backend=cuda", "training.epochs=1000000"]
    base += [
        "training.bump_replaces_step=false",
        "dataset.n_validation=10",
        "dataset.n_test=10",
        *case.overrides,
    ]
    side = math.isqrt(case.inputs or INPUTS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images.npz")
        base += [f"dataset.path={file}"]
        (job,) = jobs([*base, "dataset.n_train=1000000"], False)
        batch = job.config.training.batch_size
        n_steps = max(least_steps, min(most_steps, LEAST_SAMPLES // batch))
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for split, n_samples in (("train", n_steps * batch), ("validation", 10), ("test", 10)):
            pixels = rng.integers(256, size=(n_samples, side, side), dtype=np.uint8)
            if case.black:
                pixels[rng.random(pixels.shape) < case.black] = 0
            arrays[f"{split}_pixels"] = pixels
            arrays[f"{split}_labels"] = np.arange(n_samples) % 10
        np.savez(file, **arrays)
        (job,) = jobs([*base, f"dataset.n_train={n_steps * batch}"], False)
        parts = build(job.config)
    train, validation = (
        Labelled(parts.receive(split.features), split.labels)
        for split in (parts.dataset.train, parts.dataset.splits["validation"])
    )
    trainer = new_trainer(parts)
    if isinstance(trainer.step, DeviceStep):
        trainer.step.lane.branches = case.branches
    return Prepared(trainer, train, validation, batch, job.config.replicas, n_steps)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """One row, by column; None where something was not measured."""
    before = free_memory()
    made = prepare(case, STEPS)
    trainer, batch, n_steps = made.trainer, made.batch, made.n_steps
    records = trainer.train(made.train, made.validation, 2 + repeats)
    seconds = [next(records).train_seconds / n_steps for _ in range(2 + repeats)][2:]
    step = statistics.median(seconds)
    memory = (before - free_memory()) / (1 << 20)  # before PyTorch takes its own
    on_device = device_seconds(trainer, made.train, batch, repeats)
    return {
        "case": case.name,
        "step us": 1e6 * step,
        "device us": None if on_device is None else 1e6 * on_device,
        "samples/s": made.replicas * batch / step,
        "device MiB": memory,
        **yardstick.columns(trainer.network.layers, batch, n_steps, repeats),
        "target us": case.target,
    }


def device_seconds(trainer: Trainer, train: Labelled, batch: int, repeats: int) -> float | None:
    """Of a step, between events around an epoch's; None where several devices share the replicas."""
    step = trainer.step
    if not isinstance(step, DeviceStep):
        return None
    cuda, n_train, n_steps = cupy_module().cuda, len(train), len(train) // batch
    order, found = np.tile(np.arange(n_train), (len(trainer.weights[0]), 1)), []
    for _ in range(repeats):
        start, end = cuda.Event(), cuda.Event()
        step.begin(train, order, trainer.epoch, 1e-3)
        with step.lane.entered():
            start.record()
        for number in range(n_steps):
            step.batch(number)
        with step.lane.entered():
            end.record()
        step.lane.wait()
        found.append(1e-3 * cuda.get_elapsed_time(start, end) / n_steps)
    return statistics.median(found)


FORMATS = {
    "case": "{}", "step us": "{:.1f}", "device us": "{:.1f}", "samples/s": "{:,.0f}", "device MiB": "{:.0f}",
    **dict.fromkeys(yardstick.WAYS, "{:.1f}"), "target us": "{:.0f}",
}  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """A row's numbers in words; "-" for what was not measured."""
    return ["-" if row[column] is None else text.format(row[column]) for column, text in FORMATS.items()]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    result = Table()
    for column in FORMATS:
        result.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for row in rows:
        result.add_row(*cells(row))
    return result


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for a page."""
    lines = [f"| {' | '.join(FORMATS)} |", f"|{'---|' * len(FORMATS)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def report(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows for a JSON file."""
    device = backend.device_name()
    return [{"device": device, **asdict(case), "columns": row} for case, row in zip(cases, rows, strict=True)]
