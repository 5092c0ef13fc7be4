"""Chips that no training has met: what a network is worth on a hundred of them, and what tuning to one adds.

    python scripts/unseen_chips.py [--output outputs/unseen] [--table docs/unseen_chips.md]

Trains each experiment below in four ways, asks every network of a hundred chips of other seeds, then goes on
with network r on the r-th of them: with all weights in the loop, and with thresholds alone. Runs are kept in
--output, and found there again; a stopped one goes on. Draws EXPERIMENT_unseen.png and .pdf.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.schema import jobs
from gpuspike.errors import GpuspikeError
from gpuspike.report.figures import run as plots
from gpuspike.runs.evaluate import evaluate
from gpuspike.runs.population import band, share_interval
from gpuspike.runs.progress import duration
from gpuspike.runs.sweep import run_once
from gpuspike.store.identity import fingerprint

FIRST_CHIP, N_CHIPS = 1000, 100
"""Seeds of the unseen chips; trainings have chips of their replicas' seeds, from 0 on."""


@dataclass(frozen=True)
class Setup:
    """An experiment on BSS-2.

    Attributes:
        network: for a reader.
        common: overrides of all its trainings;  population: of those on many chips, beside them.
        tuned: overrides of a training that goes on with a network on one chip.
        thresholds: of one that learns thresholds alone, beside `tuned`.
        asked: accuracy whose yield is told.
    """

    experiment: str
    network: str
    common: Sequence[str]
    tuned: Sequence[str]
    thresholds: Sequence[str]
    asked: float
    population: Sequence[str] = ()


SETUPS = (
    Setup(
        "yin_yang_bss2",
        "4-120-3 on Yin-Yang",
        ["replicas=10"],
        ["training.epochs=20", "optimizer.learning_rate=0.002"],
        ["optimizer.learning_rate=0.003"],
        0.92,
        ["training.xi=0.07", "training.batch_size=50"],  # as experiment=yin_yang_unseen
    ),
    Setup(
        "mnist16_bss2",
        "256-246-10 on 16x16 MNIST",
        ["replicas=5"],
        ["training.epochs=2", "optimizer.learning_rate=0.0005"],
        ["optimizer.learning_rate=0.005"],
        0.97,
    ),
)

TRAININGS = {
    "without a chip": ["substrate.gradient=ideal"],
    "on one chip": [],
    "on 16 chips": ["substrate.new_chip=step", "substrate.population=16"],
    "on a new chip each step": ["substrate.new_chip=step"],
}
"""What a network has learnt from before it meets an unseen chip, as overrides."""

TUNED = ("in the loop", "thresholds")
THRESHOLDS = ["model.trained=[threshold]", "model.frozen=true"]


class Series:
    """The runs of one experiment in a folder."""

    def __init__(self, setup: Setup, folder: Path, more: Sequence[str], console: Console) -> None:
        self.setup, self._more, self._console = setup, more, console
        self._folder = folder / setup.experiment

    def run(self, name: str, overrides: Sequence[str]) -> tuple[Path, dict[str, Any]]:
        """A run's folder and its summary."""
        many = self.setup.population if "substrate.new_chip=step" in overrides else ()
        given = [f"experiment={self.setup.experiment}", *self.setup.common, *many, *self._more, *overrides]
        (job,) = jobs(given, multirun=False)
        place = self._folder / f"{name.replace(' ', '_')}_{fingerprint(job.config)[:8]}"
        summary = run_once(
            job.config,
            job.experiment,
            self._folder,
            place,
            self._console,
            given,
            label=f"{self.setup.experiment} {name}",
        )
        if summary["run"]["interrupted"]:
            raise KeyboardInterrupt
        return place, summary

    def on_unseen(self, place: Path) -> np.ndarray[Any, Any]:
        """(n_replica, N_CHIPS) accuracies of a run's networks."""
        name = f"unseen_{FIRST_CHIP}_{N_CHIPS}"
        path = place / "evaluations" / f"{name}.json"
        if not path.is_file():
            asked = EvaluateConfig(
                run=str(place), chips=N_CHIPS, chip_seed=FIRST_CHIP, prices=["brainscales2"], name=name
            )
            evaluate(asked, Console(file=io.StringIO()))
        answer = json.loads(path.read_text(encoding="utf-8"))
        return np.array(answer["population"]["per_replica_and_chip"])

    def tuned(self, name: str, place: Path, more: Sequence[str]) -> dict[str, Any]:
        """What tuning a run's networks to the first unseen chips comes to, a chip a network."""
        chip = [f"start={place}", f"chip_seed={FIRST_CHIP}", *self.setup.tuned, *more]
        _, summary = self.run(name, chip)
        return {
            "accuracy": summary["accuracy"]["test"]["per_replica"],
            "wall_s": summary["emulator"]["wall_s"],
        }

    def row(self, name: str, overrides: Sequence[str]) -> dict[str, Any]:
        """All that is told of one way of training."""
        start = time.perf_counter()
        place, summary = self.run(name, overrides)
        reached = self.on_unseen(place)
        own = np.arange(len(reached))
        samples = summary["run"]["dataset"]
        return {
            "training": name,
            "reached": reached.tolist(),
            "own": summary["accuracy"]["test"],
            "as they are": reached[own, own].tolist(),
            "in the loop": self.tuned(f"{name}, tuned", place, []),
            "thresholds": self.tuned(f"{name}, thresholds", place, [*THRESHOLDS, *self.setup.thresholds]),
            "wall_s": summary["emulator"]["wall_s"],
            "here_s": time.perf_counter() - start,
            "revision": summary["provenance"]["git"],
            "seconds_per_sample": summary["chip"]["seconds_per_sample"],
            "dataset": samples,
        }


def percent(values: Any) -> str:
    """Mean and deviation."""
    shares = 100 * np.asarray(values)
    return f"{shares.mean():.2f} ± {shares.std(ddof=1):.2f}" if shares.size > 1 else f"{shares.mean():.2f}"


def lines(setup: Setup, rows: Sequence[dict[str, Any]]) -> list[str]:
    """An experiment's part of the page."""
    n_networks = len(rows[0]["reached"])
    (epochs,) = (text.partition("=")[2] for text in setup.tuned if text.startswith("training.epochs="))
    told = [
        f"## {setup.network}",
        "",
        f"![Yield of {setup.network}]({setup.experiment}_unseen.png)",
        "",
        f"{n_networks} networks a row, `experiment={setup.experiment}`; test accuracy in %, "
        f"mean and deviation. Runs of commit {' and '.join(sorted({str(row['revision']) for row in rows}))}.",
        "",
        f"| trained | own chips | {N_CHIPS} unseen chips | median | worst "
        f"| chips with {100 * setup.asked:g} % "
        f"| {n_networks} of them | after {epochs} epochs on it | thresholds alone |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reached = np.array(row["reached"])
        enough = int(np.median((reached >= setup.asked).sum(axis=1)))
        low, high = share_interval(enough, reached.shape[1])
        share = f"{100 * enough / reached.shape[1]:.0f} ({100 * low:.0f} to {100 * high:.0f})"
        tuned = [f"{percent(row[k]['accuracy'])}, worst {100 * min(row[k]['accuracy']):.2f}"
                 for k in ("in the loop", "thresholds")]  # fmt: skip
        cells = [
            row["training"],
            percent(row["own"]["per_replica"]),
            percent(reached),
            f"{100 * np.median(reached):.2f}",
            f"{100 * reached.min():.2f}",
            share,
            f"{percent(row['as they are'])}, worst {100 * min(row['as they are']):.2f}",
            *tuned,
        ]
        told.append(f"| {' | '.join(cells)} |")
    wall = "; ".join(f"{row['training']} {duration(row['wall_s'])}" for row in rows)
    after = "; ".join(
        f"{row['training']} {' and '.join(duration(row[kind]['wall_s']) for kind in TUNED)}" for row in rows
    )
    return [
        *told,
        "",
        f"Wall time of the trainings of {n_networks} networks: {wall}. Of tuning them: {after}.",
        "",
    ]


def page(found: Sequence[tuple[Setup, list[dict[str, Any]]]], before: str = "") -> str:
    """The table as Markdown; of experiments that are not asked for, what the page before has."""
    new = {setup.network: lines(setup, rows) for setup, rows in found}
    old = {part.partition("\n")[0]: f"## {part}".split("\n") for part in before.split("\n## ")[1:]}
    head = [
        "# Chips that were never seen",
        "",
        f"What a network is worth on {N_CHIPS} pieces of the emulated BrainScaleS-2 that no training has met",
        f"(chip seeds {FIRST_CHIP} to {FIRST_CHIP + N_CHIPS - 1}; trainings have those from 0 on), by what",
        "it was trained on, and what tuning network r to the r-th of them adds: all weights in the loop, or",
        "each neuron's threshold alone (`model.frozen=true model.trained=[threshold]`). The share of chips",
        "is that of the median network, with the 95 % interval for all chips of the kind (Clopper and",
        "Pearson); figures show the first network of each row, with that interval.",
        "",
        "Written by `python scripts/unseen_chips.py --table docs/unseen_chips.md`; with `--only` what is",
        "said of other experiments stays.",
        "",
    ]
    parts = [new.get(setup.network, old.get(setup.network, [])) for setup in SETUPS]
    return "\n".join(["\n".join(head), *("\n".join(part).rstrip() + "\n" for part in parts if part)])


@plots.styled()
def draw(setup: Setup, rows: Sequence[dict[str, Any]], folder: Path, name: str) -> None:
    """Yield curves of the first network of each row, with their bands."""
    figure = plots.new_figure(height=2.6)
    axes = figure.subplots()
    for row, color in zip(rows, plots.PALETTE, strict=False):
        best_first = 100 * -np.sort(-np.array(row["reached"][0]))
        counts = np.arange(1, len(best_first) + 1)
        axes.step(best_first, 100 * counts / len(counts), where="pre", color=color, label=row["training"])
        ends = band(len(counts))
        axes.fill_between(
            best_first[ends[:, 0].astype(int) - 1], 100 * ends[:, 1], 100 * ends[:, 2],
            step="pre", color=color, alpha=0.15, linewidth=0,
        )  # fmt: skip
    axes.axvline(100 * setup.asked, color="0.6", linewidth=0.8, linestyle="--")
    axes.set_xlabel(f"test accuracy (%), {setup.network}")
    axes.set_ylabel("chips that reach it (%)")
    axes.set_ylim(0, 103)
    axes.legend(loc="lower left", title="trained")
    plots.save(figure, folder, name)


def main() -> None:
    """Runs what is missing, then draws and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [setup.experiment for setup in SETUPS]
    parser.add_argument("--output", type=Path, default=Path("outputs/unseen"))
    parser.add_argument("--only", nargs="+", choices=names, help="these experiments alone")
    parser.add_argument("--table", type=Path, help="write the page to this file, figures beside it")
    parser.add_argument("overrides", nargs="*", default=[], help="of every run: training.epochs=5 ...")
    arguments = parser.parse_args()
    console, found = Console(), []
    try:
        for setup in SETUPS:
            if arguments.only and setup.experiment not in arguments.only:
                continue
            series = Series(setup, arguments.output, arguments.overrides, console)
            rows = [series.row(name, overrides) for name, overrides in TRAININGS.items()]
            found.append((setup, rows))
            place = arguments.output / f"{setup.experiment}.json"
            place.write_text(json.dumps(rows) + "\n", encoding="utf-8")
            folder = arguments.table.parent if arguments.table else arguments.output
            draw(setup, rows, folder, f"{setup.experiment}_unseen")
    except GpuspikeError as error:
        sys.exit(f"unseen_chips.py: error: {error}")
    kept = arguments.table and arguments.table.is_file()
    text = page(found, arguments.table.read_text(encoding="utf-8") if kept else "")
    print(text)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
