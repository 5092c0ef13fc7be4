"""Times that a device is PREDICTED to take for every case of its benchmark; nothing here is measured.

    python scripts/predicted.py [--device H100] [--case TEXT] [--launches] [--markdown FILE] [--json FILE]

Needs no device: the package's own code says what it launches (`launches.py`), NVIDIA's compiler what a pair
of the hot loops costs (`machine_code.py`, which says what to install), and a model of the device, of data
sheets and assumptions, what a launch takes: the largest of the bounds in `device_model.py`. A case takes the
sum of its launches and of the gaps between them, of a graph's branches the longer one; where the host
launches one by one, that at least. Bounds that hold each other up are not in it, so that a device will
rather take longer.

Columns:

    predicted us    of a call, or of a step
    bound by        what most of it goes to, and its share; "launches" are the gaps
    launches        of a call or a step
    target          what was asked for
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import benchmark
import benchmark_gpu
import benchmark_gpu_training as training
import device_model as model
import launches
import machine_code
from device_model import Counted, Crossings, Device, Loop
from launches import Launch

from gpuspike.kernels import load
from gpuspike.kernels.constants import EQUAL

DEVICES = {"H100": model.H100, "H200": model.H200}
ARCH = 90

FORWARD, STEP, INFERENCE, CHIP = 1e12, 110.0, 20e6, 2.0
"""Asked for: pair-events/s of a forward pass at batch 10,000, microseconds of a step of 784-350-10 at batch
80, images/s of 256-246-10, and a chip's step in steps of the ideal network."""


@dataclass(frozen=True)
class Task:
    """What is predicted.

    Attributes:
        activity, ratio: how neurons spike, see `benchmark.Case`.
        target: microseconds; None where nothing was asked for.
        graph: replayed as one; else launched by the host one by one.
        twice: name of a task whose time it may take twice.
        images: inputs of the layer that sees images, whose black pixels spike last, together; 0: none does.
    """

    name: str
    launches: tuple[Launch, ...]
    target: float | None
    graph: bool
    activity: str = "late"
    ratio: float = 1.0
    twice: str = ""
    images: int = 0


# --- what is launched ----------------------------------------------------------


def _kernel_task(case: benchmark.Case) -> Task:
    """A case of `benchmark_gpu`, whose own code runs, without a number computed."""
    seen: list[tuple[Launch, ...]] = []

    def drawn(of: benchmark.Case) -> Any:
        t_in = np.empty((1, of.n_batch, of.n_pre), of.dtype)
        neuron = benchmark.LIF(tau_mem=of.ratio, tau_syn=1.0)
        return t_in, np.empty((1, of.n_pre, of.n_post), of.dtype), neuron

    with launches.noted() as (cupy, noted):

        def timed(_: Any, call: Any) -> float:
            noted.clear()
            call()
            seen.append(tuple(noted))
            return 1.0

        kept = benchmark.draw, benchmark.pairs_met, benchmark_gpu.timed
        benchmark.draw, benchmark.pairs_met, benchmark_gpu.timed = drawn, lambda *_: None, timed
        try:
            benchmark_gpu.measure(cupy, case, 1)
        finally:
            benchmark.draw, benchmark.pairs_met, benchmark_gpu.timed = kept
    target = None
    if case.kind == "forward" and case.n_batch == 10_000 and case.dtype == "float32":
        target = 1e6 * case.n_batch * case.n_pre * case.n_post / FORWARD
    if case.kind == "inference":
        target = 1e6 * case.n_batch / INFERENCE
    images = case.n_pre if case.black else 0
    return Task(case.name, seen[0], target, False, case.activity, case.ratio, images=images)


def _training_task(case: training.Case) -> Task:
    """A step of a case of `benchmark_gpu_training`."""
    graph = not any("cuda_graph=false" in value for value in case.overrides)
    with launches.noted() as (_, noted):
        _step(case, noted, graph)
        seen = tuple(noted)
        gc.collect()  # a training's memory is given back to this CuPy
    is_step = "784-350-10, batch 80, graph" in case.name
    ideal = case.name.replace(ON_CHIP, "") if ON_CHIP in case.name else ""
    images = (case.inputs or training.INPUTS) if case.black else 0
    return Task(case.name, seen, STEP if is_step else None, graph, twice=ideal, images=images)


ON_CHIP = " on BrainScaleS-2"
"""What the name of a chip's step has beside the ideal network's."""


def _step(case: training.Case, noted: list[Launch], graph: bool) -> None:
    made = training.prepare(case, 1, 1)
    step = made.trainer.step
    step.begin(made.train, np.zeros((made.replicas, 2 * made.batch), np.int64), 0, 0.01)
    for number in range(1 + graph):  # the first runs kernel by kernel, the second is captured
        noted.clear()
        step.batch(number)


def tasks(substring: str = "") -> list[Task]:
    """All that the benchmark measures, of the cases whose name holds a text, and what they are put beside."""
    kernels = [_kernel_task(case) for case in benchmark_gpu.CASES if substring in case.name]
    wanted = [case for case in training.CASES if substring in case.name]
    found = [*kernels, *(_training_task(case) for case in wanted)]
    names = {task.name for task in found}
    beside = [case for case in training.CASES for task in found if case.name == task.twice]
    return found + [_training_task(case) for case in beside if case.name not in names]


# --- what a pair costs ----------------------------------------------------------


def counted(instance: str) -> Loop:
    """A hot loop of the machine code; it is the same for all ratios of the time constants.

    Raises:
        SystemExit: what is not installed.
    """
    return _counted(re.sub(r"<(\w+), \d", rf"<\1, {EQUAL}", instance))


@cache
def _counted(instance: str) -> Loop:
    wide, itemsize = "double" in instance, 8 if "double" in instance else 4
    meets = "first_spikes" in instance or "first_decisions" in instance
    pairs = 64 // itemsize if meets else 128 if "weights" in instance else 256
    adds = pairs * (3 if meets else 1 if "weights" in instance else 2)
    text, registers = machine_code.machine_code(instance, ARCH)
    loop = machine_code.hot_loop(text, adds, "DFMA" if wide else "FFMA")
    # What each thread loads for itself takes as many clocks as 128 bytes pass; one address for all, one.
    clocks = sum(
        2 if re.search(r"LDG\.E\.64|LDS\.128", word) else 1
        for word in loop
        if re.search(r"\bLD[GS]?\b", word)
    )
    # Half as many units for float64: such an instruction takes two clocks of them.
    double = sum(bool(re.search(r"\bD(FMA|ADD|MUL|SETP)\b", word)) for word in loop)
    return Loop(max(len(loop), 2 * double) / pairs, clocks / pairs, registers)


SAMPLES = 16
"""Of a layer whose spikes tell how many rounds are gone through, and in how many of them a neuron spikes."""

KINDS = benchmark.SILENT, benchmark.LATE, benchmark.EARLY, benchmark.IMAGE
ACTIVITIES = {how["activity"]: how for how in KINDS}


@cache
def _spikes(activity: str, ratio: float, n_pre: int, n_post: int) -> tuple[Any, Any]:
    """The event behind which each neuron spikes (SAMPLES, n_post), by the CPU's kernels.

    And events of images before the last inputs, which spike together (SAMPLES,); of others None.
    """
    case = benchmark.Case("forward", SAMPLES, n_pre, n_post, "float32", ratio, **ACTIVITIES[activity])
    t_in, weights, neuron = benchmark.draw(case)
    kernels = load("cpu")
    (state,) = kernels.forward(t_in, kernels.spike_order(t_in), [weights], [neuron], [()])
    rows = zip(np.sort(t_in[0], axis=1), state.t_out[0], strict=True)
    events = [np.where(np.isfinite(own), np.searchsorted(row, own) - 1, n_pre) for row, own in rows]
    return np.stack(events), (t_in[0] < benchmark.WINDOW).sum(axis=1) if case.black else None


@cache
def spiking(activity: str, ratio: float, n_pre: int, n_post: int, neurons: int, together: int) -> Crossings:
    """What becomes of the warps of a layer."""
    events, alone = _spikes(activity, ratio, n_pre, n_post)
    return model.crossings(events, n_pre, neurons, together, alone)


# --- what is predicted ----------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A case's prediction.

    Attributes:
        predicted, target: microseconds; None where no model knows one of its kernels, or none was asked for.
        parts: microseconds by bound.
        unknown: kernels without a model.
    """

    case: str
    predicted: float | None
    parts: dict[str, float]
    n_launches: int
    target: float | None
    unknown: tuple[str, ...] = ()

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        if self.predicted is None:
            return f"no model of {', '.join(self.unknown)}"
        name = max(self.parts, key=lambda one: self.parts[one])
        return f"{name} {100 * self.parts[name] / sum(self.parts.values()):.0f} %"

    @property
    def met(self) -> bool | None:
        """Whether the prediction meets the target."""
        return None if self.target is None or self.predicted is None else self.predicted <= self.target


def of_launch(launch: Launch, task: Task, device: Device, loops: Counted) -> dict[str, float] | None:
    """Seconds of each bound of a launch; None where nothing is known of its kernel."""

    def found(n_pre: int, *others: int) -> Crossings:
        activity = "image" if n_pre == task.images else task.activity
        return spiking(activity, task.ratio, n_pre, *others)

    work = model.work_of(launch, loops, found, device)
    return None if work is None else model.seconds(work, launch.n_bytes, device)


def predict(task: Task, device: Device, loops: Counted = counted) -> Row:
    """A case's time: its launches, one after the other but for branches, and the gaps between them."""
    parts, n_launches = dict.fromkeys(model.BOUNDS, 0.0), len(task.launches)
    known = [of_launch(launch, task, device, loops) for launch in task.launches]
    unknown = [one.name for one, own in zip(task.launches, known, strict=True) if own is None]
    bounds = [own or dict.fromkeys(model.BOUNDS[:-1], 0.0) for own in known]
    found = model.schedule(task.launches, bounds, device)
    for own in (bounds[number] for number in found.path):
        name = max(own, key=lambda one: own[one])
        parts[name] += own[name]
    parts["issue"] += found.shared
    # What the device does in the meantime is hidden behind the host's work, or the other way.
    hosts = 0.0 if task.graph else n_launches * device.queued - sum(parts.values())
    parts["launches"] = max(found.gaps, hosts)
    parts = {name: 1e6 * value for name, value in parts.items()}
    total = None if unknown else sum(parts.values())
    return Row(task.name, total, parts, n_launches, task.target, tuple(dict.fromkeys(unknown)))


def rows(found: Sequence[Task], device: Device, loops: Counted = counted) -> list[Row]:
    """Predictions; those of a chip's steps with the target that the ideal network's time makes."""
    told = {task.name: predict(task, device, loops) for task in found}
    for task in found:
        beside = told.get(task.twice)
        if beside is not None and beside.predicted is not None:
            told[task.name] = replace(told[task.name], target=CHIP * beside.predicted)
    return list(told.values())


COLUMNS = ("case", "predicted us", "bound by", "launches", "target us", "met")


def cells(row: Row) -> tuple[str, ...]:
    """A row in words."""
    time, target = ("-" if value is None else f"{value:,.0f}" for value in (row.predicted, row.target))
    met = {None: "-", True: "yes", False: "**no**"}[row.met]
    return row.case, time, row.bound, str(row.n_launches), target, met


def table(found: Sequence[Row], device: Device) -> Table:
    result = Table(title=f"PREDICTED for one {device.name}, not measured")
    for column in COLUMNS:
        left = column in ("case", "bound by", "met")
        result.add_column(column, justify="left" if left else "right", no_wrap=True)
    for row in found:
        result.add_row(*(text.replace("*", "") for text in cells(row)))
    return result


def markdown(found: Sequence[Row]) -> str:
    """The table for a page."""
    lines = [f"| {' | '.join(values)} |" for values in (COLUMNS, ("---",) * len(COLUMNS), *map(cells, found))]
    return "\n".join(lines) + "\n"


def detail(task: Task, device: Device) -> Table:
    """A case's launches, those of one kernel and size together."""
    result = Table(title=task.name)
    for column in ("kernel", "blocks", "times", *(f"{name} us" for name in model.BOUNDS[:-1])):
        result.add_column(column, justify="left" if column == "kernel" else "right", no_wrap=True)
    for launch, times in Counter(task.launches).items():
        bounds = of_launch(launch, task, device, counted) or {}
        numbers = [f"{1e6 * value:.1f}" for value in bounds.values()]
        name = launch.name.replace("gpuspike", "").strip("_:") + ", beside" * launch.beside
        result.add_row(name, str(launch.grid), str(times), *numbers)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="H100", choices=DEVICES)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--launches", action="store_true", help="each launch's bounds, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    options = parser.parse_args(arguments)
    device = DEVICES[options.device]
    found = tasks(options.case)
    if not found:
        parser.error(f"--case must be a part of a case's name, got {options.case!r}")
    told, console = rows(found, device), Console(highlight=False, width=140)
    for task in found if options.launches else ():
        console.print(detail(task, device))
    console.print(table(told, device))
    if options.markdown is not None:
        options.markdown.write_text(markdown(told), encoding="utf-8")
    if options.json is not None:
        lines = {"device": asdict(device), "cases": [asdict(row) for row in told]}
        options.json.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
