"""The robustness atlas: how accurate Yin-Yang stays on chips with one distortion each.

    python scripts/robustness.py [--output outputs/robustness] [--only weight_bits tau_spread] [--redo]
    python scripts/robustness.py --table docs/robustness.md

Sweeps what conf/experiment/robustness/ names. At every point five networks are trained in the loop, each on a
chip of its own, and five that were trained without a chip are examined on the same chips. Writes one JSON
file a point, skips those that are there, and draws atlas.png and atlas.pdf.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gpuspike.config.schema import Config, Job, jobs
from gpuspike.errors import GpuspikeError
from gpuspike.report.figures import run as plots
from gpuspike.runs.experiment import Experiment, build, new_trainer
from gpuspike.runs.memory import keep_freed_memory
from gpuspike.store.provenance import git_revision
from gpuspike.training.evaluation import Labelled, evaluate


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One distortion: the file that holds its points, what varies there, and what the figure calls it."""

    name: str
    field: str
    label: str


ATLAS = (
    Sweep("weight_range", "weight_max", "weight range (± threshold)"),
    Sweep("weight_bits", "weight_bits", "weight bits (range ± 3)"),
    Sweep("tau_ratio", "tau_mem_shift", r"error of $\tau_{mem}$ ($\tau_{syn}$)"),
    Sweep("tau_spread", "tau_mem_std", r"spread of both $\tau$ ($\tau_{syn}$)"),
    Sweep("threshold_spread", "threshold_std", "spread of thresholds"),
    Sweep("spike_jitter", "spike_jitter", r"spike jitter ($\tau_{syn}$)"),
    Sweep("time_grid", "time_grid", r"time step ($\tau_{syn}$)"),
    Sweep("dead_neurons", "dead_neurons", "dead hidden neurons"),
)
IN_LOOP, EXAMINED = "trained on it", "only examined on it"

Weights = list[Any]


def value_of(config: Config, sweep: Sweep) -> float:
    """Where on its axis a point lies."""
    value = getattr(config.substrate, sweep.field)
    return float(value[0] if isinstance(value, list) else value)


def data_of(parts: Experiment) -> dict[str, Labelled]:
    """The splits as spikes."""
    return {
        name: Labelled(
            parts.network.receive(parts.encode(split.features), sort=name == "train"), split.labels
        )
        for name, split in parts.dataset.splits.items()
    }


def trained(parts: Experiment, data: dict[str, Labelled]) -> tuple[Weights, Any]:
    """Weights after all epochs, and the machine that they are for."""
    trainer = new_trainer(parts)
    nobody = Labelled(data["validation"].received.part(0, 1), data["validation"].labels[:1])
    for _ in trainer.train(data["train"], nobody, parts.config.training.epochs):
        pass
    return trainer.weights, trainer.examined


def accuracy(parts: Experiment, machine: Any, weights: Weights, test: Labelled) -> list[float]:
    """Of each replica, in %."""
    result = evaluate(machine, weights, test, parts.loss, parts.rule.evaluation_batch_size)
    return [100.0 * float(share) for share in result.accuracy]


def point(job: Job, sweep: Sweep, ideal: Weights) -> dict[str, Any]:
    """One point of a sweep, trained and examined."""
    start = time.perf_counter()
    parts = build(job.config)
    data = data_of(parts)
    weights, machine = trained(parts, data)
    return {
        "sweep": sweep.name,
        "value": value_of(job.config, sweep),
        IN_LOOP: accuracy(parts, machine, weights, data["test"]),
        EXAMINED: accuracy(parts, machine, ideal, data["test"]),
        "seeds": parts.seeds,
        "git": git_revision(),
        "seconds": time.perf_counter() - start,
    }


def run(folder: Path, sweeps: Sequence[Sweep], options: Sequence[str], redo: bool) -> None:
    """Computes the points that are not there yet."""
    console = Console()
    ideal: Weights | None = None
    for sweep in sweeps:
        for number, job in enumerate(jobs([f"experiment=robustness/{sweep.name}", *options], multirun=False)):
            path = folder / sweep.name / f"{number}.json"
            if path.exists() and not redo:
                continue
            if ideal is None:
                (base,) = jobs(["experiment=robustness/base", *options], multirun=False)
                parts = build(base.config)
                data = data_of(parts)
                ideal, machine = trained(parts, data)
                write(folder / "ideal.json", {"ideal": accuracy(parts, machine, ideal, data["test"])})
            found = point(job, sweep, ideal)
            write(path, found)
            console.print(
                f"{sweep.name:17} {found['value']:6g}   {IN_LOOP} {statistics.mean(found[IN_LOOP]):5.1f} %   "
                f"{EXAMINED} {statistics.mean(found[EXAMINED]):5.1f} %   {found['seconds']:3.0f} s",
                soft_wrap=True,
            )


def write(path: Path, found: dict[str, Any]) -> None:
    """A point's file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read(folder: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """A sweep's points, by their value."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / sweep.name).glob("*.json")]
    return sorted(found, key=lambda each: each["value"])


@plots.styled()
def draw(folder: Path, sweeps: Sequence[Sweep]) -> None:
    """The figure: a panel a distortion, a box over the seeds at each of its values."""
    matplotlib = plots.lazy_matplotlib()
    n_rows = -(-len(sweeps) // 2)
    figure = matplotlib.figure.Figure(figsize=(7.0, 1.75 * n_rows), layout="constrained")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    ideal = json.loads((folder / "ideal.json").read_text(encoding="utf-8"))["ideal"]
    panels = np.atleast_2d(figure.subplots(n_rows, 2, sharey=True)).ravel()
    for panel, sweep in zip(panels, sweeps, strict=False):
        points = read(folder, sweep)
        places = np.arange(len(points))
        panel.axhline(statistics.mean(ideal), color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        for kind, color, shift in ((IN_LOOP, plots.PALETTE[0], -0.17), (EXAMINED, plots.PALETTE[1], 0.17)):
            boxes = panel.boxplot(
                [found[kind] for found in points],
                positions=places + shift,
                widths=0.28,
                patch_artist=True,
                manage_ticks=False,
                boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.55},
                medianprops={"color": color},
                whiskerprops={"color": color},
                capprops={"color": color},
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": color},
            )
            boxes["boxes"][0].set_label(kind)
        panel.set_xticks(places, [f"{found['value']:g}" for found in points])
        panel.set_xlim(-0.6, len(points) - 0.4)
        panel.set_xlabel(sweep.label)
        panel.set_ylim(0.0, 103.0)
    for panel in panels[::2]:
        panel.set_ylabel("test accuracy (%)")
    for panel in panels[len(sweeps) :]:
        panel.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    plots.save(figure, folder, "atlas")


def table(folder: Path, sweeps: Sequence[Sweep]) -> str:
    """The same numbers as Markdown."""

    def cell(values: Sequence[float]) -> str:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"

    ideal = json.loads((folder / "ideal.json").read_text(encoding="utf-8"))["ideal"]
    points = [(sweep, found) for sweep in sweeps for found in read(folder, sweep)]
    commits = ", ".join(sorted({str(found["git"]) for _, found in points}))
    minutes = sum(found["seconds"] for _, found in points) / 60.0
    lines = [
        "# The robustness atlas",
        "",
        "Test accuracy of 4-120-3 on Yin-Yang in %, mean and deviation over "
        f"{len(ideal)} seeds, each on a chip of its own. Without a chip: {cell(ideal)}.",
        "Written by `python scripts/robustness.py --table docs/robustness.md`, "
        f"from {minutes:.0f} minutes of runs of commit {commits}.",
        "",
        f"| distortion | value | {IN_LOOP} | {EXAMINED} |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {sweep.name} | {found['value']:g} | {cell(found[IN_LOOP])} | {cell(found[EXAMINED])} |"
        for sweep, found in points
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing, then draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/robustness"))
    parser.add_argument(
        "--only", nargs="+", choices=[sweep.name for sweep in ATLAS], help="these sweeps alone"
    )
    parser.add_argument("--redo", action="store_true", help="compute points again that are there")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="of the configuration: training.epochs=5 ..."
    )
    arguments = parser.parse_args()
    sweeps = [sweep for sweep in ATLAS if not arguments.only or sweep.name in arguments.only]
    keep_freed_memory()
    try:
        run(arguments.output, sweeps, arguments.overrides, arguments.redo)
    except GpuspikeError as error:
        sys.exit(f"robustness.py: error: {error}")
    draw(arguments.output, sweeps)
    print(f"figure   {arguments.output / 'atlas.png'}")
    if arguments.table:
        arguments.table.write_text(table(arguments.output, sweeps), encoding="utf-8")
        print(f"table    {arguments.table}")


if __name__ == "__main__":
    main()
