"""How fast a device makes whole training steps; `benchmark_gpu.py` runs this and prints its table.

A case is an experiment on random images, `mnist` unless it says another: all of a step (the batch taken,
noise, sorting, forward, loss, backward, Adam, bumping) and the shuffle of the epoch, timed by the trainer's
own clock, which waits for the device once an epoch. A bumped batch makes its step here too. The yardstick,
where PyTorch with CUDA is installed, is a ReLU network of the same layers, batch and optimiser in its eager
mode, in the same run; a convolution has none.

Columns:

    step us         median over the epochs of the mean time of a step
    samples/s       samples over that time, of all replicas
    device MiB      what the device's free memory shrank by: data, weights, pools, graph
    PyTorch us      of the ReLU network, one replica
    target us       what a case is meant to take at most, where there is such a number
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from gpuspike import backend
from gpuspike.config.schema import jobs
from gpuspike.kernels.cuda.graph import free_memory
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.training.evaluation import Labelled

INPUTS, STEPS, LEAST_SAMPLES = 784, 100, 8_000
"""Pixels of an image; most steps of an epoch; samples that these steps need not exceed."""


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        overrides: of the experiment.
        target: microseconds of a step.
    """

    name: str
    overrides: tuple[str, ...] = ()
    target: float | None = None
    experiment: str = "mnist"


CASES = (
    Case("train 784-350-10, batch 80, kernel by kernel", ("training.cuda_graph=false",)),
    Case("train 784-350-10, batch 80, graph", (), 150.0),
    Case("train 784-350-10, batch 80, 64 replicas, graph", ("replicas=64",)),
    Case("train 784-350-10, batch 10,000, graph", ("training.batch_size=10000",)),
    Case("train convolutions of 16 and 32 maps, batch 100, graph", experiment="mnist_conv"),
)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """One row, by column; None where something was not measured."""
    base = [f"experiment={case.experiment}", "dataset=npz", "backend=cuda", "training.epochs=1000000"]
    base += [
        "training.bump_replaces_step=false",
        "dataset.n_validation=10",
        "dataset.n_test=10",
        *case.overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images.npz")
        base += [f"dataset.path={file}"]
        (job,) = jobs([*base, "dataset.n_train=1000000"], False)
        batch = job.config.training.batch_size
        n_steps = max(2, min(STEPS, LEAST_SAMPLES // batch))
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for split, n_samples in (("train", n_steps * batch), ("validation", 10), ("test", 10)):
            size = n_samples, math.isqrt(INPUTS), math.isqrt(INPUTS)
            arrays[f"{split}_pixels"] = rng.integers(256, size=size, dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(n_samples) % 10
        np.savez(file, **arrays)
        (job,) = jobs([*base, f"dataset.n_train={n_steps * batch}"], False)
        before = free_memory()
        parts = build(job.config)
    trainer = new_trainer(parts)
    train, validation = (
        Labelled(parts.receive(split.features), split.labels)
        for split in (parts.dataset.train, parts.dataset.splits["validation"])
    )
    records = trainer.train(train, validation, 2 + repeats)
    seconds = [next(records).train_seconds / n_steps for _ in range(2 + repeats)][2:]
    step = statistics.median(seconds)
    layers = [INPUTS, *(layer.n_out for layer in parts.network.layers)]
    peer = None if parts.network.convolves else relu_step(layers, batch, repeats * n_steps)
    return {
        "case": case.name,
        "step us": 1e6 * step,
        "samples/s": job.config.replicas * batch / step,
        "device MiB": (before - free_memory()) / (1 << 20),
        "PyTorch us": None if peer is None else 1e6 * peer,
        "target us": case.target,
    }


def relu_step(layers: Sequence[int], batch: int, n_steps: int) -> float | None:
    """Seconds of a training step of a ReLU network; None without PyTorch for this device."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return None
    parts: list[Any] = []
    for n_in, n_out in itertools.pairwise(layers):
        parts += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    network = torch.nn.Sequential(*parts[:-1]).cuda()
    optimizer = torch.optim.Adam(network.parameters())
    loss = torch.nn.CrossEntropyLoss()
    inputs = torch.rand(10 * batch, layers[0], device="cuda")
    labels = torch.randint(layers[-1], (10 * batch,), device="cuda")
    order = torch.randperm(10 * batch, device="cuda")

    def steps(count: int) -> None:
        for number in range(count):
            samples = order[number % 10 * batch : (number % 10 + 1) * batch]
            optimizer.zero_grad()
            loss(network(inputs[samples]), labels[samples]).backward()
            optimizer.step()
        torch.cuda.synchronize()

    steps(20)
    start = time.perf_counter()
    steps(n_steps)
    return (time.perf_counter() - start) / n_steps


FORMATS = {
    "case": "{}", "step us": "{:.1f}", "samples/s": "{:,.0f}", "device MiB": "{:.0f}", "PyTorch us": "{:.1f}",
    "target us": "{:.0f}",
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
