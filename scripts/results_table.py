"""Writes docs/results.md from finished run folders: what was obtained, with every seed and its provenance.

    python scripts/results_table.py outputs/mnist/RUN outputs/mnist16/RUN ... [--keep] [--output PAGE]

Runs of one experiment, code and machine that differ in nothing but their seeds become one row. Beside it
stand the figures of the publication and of its public code, each with its evidence. With --keep, experiments
of the page that no folder is given for stay there as they are. The page of runs that are not in this clone
goes to --output.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[1]
SPLITS = ("train", "validation", "test")
PAPER = "Göltz, Kriener et al. 2021"
CODE = "its public code"
DELGRAD = "DelGrad's public code"
RECOMPUTED = "recomputed from the arrays stored with the code"
UNCHECKED = "reported, unchecked"


@dataclass(frozen=True)
class Published:
    """Somebody else's figure for an experiment, accuracies in %."""

    experiment: str
    who: str
    train: str
    test: str
    evidence: str


PUBLISHED = (
    Published("yin_yang", PAPER, "96.3 ± 0.7", "95.9 ± 0.7", UNCHECKED),
    Published("yin_yang", CODE, "97.0", "96.0", f"{RECOMPUTED}, one seed"),
    Published("mnist", PAPER, "99.6 ± 0.1", "97.1 ± 0.1", UNCHECKED),
    Published("mnist", CODE, "99.50", "97.01", f"{RECOMPUTED}, one seed; Euler steps of 0.01 tau_syn"),
    Published("mnist16", PAPER, "99.2 ± 0.1", "97.4 ± 0.2", UNCHECKED),
    Published("yin_yang_bss2", f"{PAPER}, on BrainScaleS-2", "95.3 ± 0.7", "95.0 ± 0.9", UNCHECKED),
    Published(
        "mnist16_bss2",
        f"{PAPER}, on BrainScaleS-2",
        "",
        "96.9",
        "second-hand: Cramer et al., PNAS (2022), table 2",
    ),
    Published(
        "mnist16_bss2",
        f"{CODE}, on BrainScaleS-2",
        "",
        "97.13; 97.0 to 97.1",
        "printed in its notebook, one network; at 72 µs a sample, and in five passes at 42 µs",
    ),
    Published("mnist16_small", CODE, "98.54", "96.81", f"{RECOMPUTED}, one seed"),
    Published("yin_yang_delays", DELGRAD, "98.76", "98.2", f"{RECOMPUTED}, one seed, no bias spikes"),
    Published("yin_yang_delays model.delays=axonal", DELGRAD, "98.16", "97.5", f"{RECOMPUTED}, one seed"),
    Published("yin_yang_delays model.delays=none", DELGRAD, "96.84", "96.7", f"{RECOMPUTED}, one seed"),
    Published("yin_yang_few_delays", DELGRAD, "94.90", "95.4", f"{RECOMPUTED}, one seed"),
    Published(
        "yin_yang_bss2_delays", f"{DELGRAD}, on BrainScaleS-2", "91.46", "92.6", f"{RECOMPUTED}, one seed"
    ),
    Published(
        "yin_yang_bss2_delays model.delays=none",
        f"{DELGRAD}, on BrainScaleS-2",
        "84.66",
        "84.9",
        f"{RECOMPUTED}, one seed",
    ),
    Published("mnist_deep", CODE, "99.96 to 99.97", "97.91, 97.87, 98.02", f"{RECOMPUTED}, seeds 1, 2, 3"),
)
"""What to compare with; nothing is listed here as a citation that was not read in the source it names."""


@dataclass(frozen=True)
class Result:
    """Runs of one experiment that differ in their seeds only.

    Attributes:
        summaries: of the runs, by first seed.
        accuracy: by split, a value a seed.
        seeds: of all replicas.
    """

    summaries: tuple[Mapping[str, Any], ...]
    accuracy: Mapping[str, Sequence[float]]
    seeds: tuple[int, ...]

    @property
    def experiment(self) -> str:
        """Its name, with the values that were changed."""
        run = self.summaries[0]["run"]
        return " ".join([run["experiment"], *changes(self.summaries[0])])


def changes(summary: Mapping[str, Any]) -> list[str]:
    """What a command line changed, beside the experiment, the seeds and the folder."""
    ours = ("hydra.", "tracking", "name=", "seed=", "replicas=", "experiment=")
    return sorted(change for change in summary["run"]["overrides"] if not change.startswith(ours))


def collect(summaries: Sequence[Mapping[str, Any]]) -> list[Result]:
    """The runs, those of the same experiment put together, in the order of their first.

    Raises:
        ValueError: a seed comes twice, which would make its result count twice.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for summary in summaries:
        run = summary["run"]
        made = (summary["provenance"]["git"], summary["emulator"]["device"])
        key = (run["experiment"], run["epochs_done"], run["dtype"], *made, *changes(summary))
        groups.setdefault(key, []).append(summary)
    return [_together(sorted(group, key=lambda s: s["provenance"]["seed"])) for group in groups.values()]


def _together(group: Sequence[Mapping[str, Any]]) -> Result:
    seeds = tuple(
        summary["provenance"]["seed"] + replica
        for summary in group
        for replica in range(summary["provenance"]["replicas"])
    )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{group[0]['run']['experiment']} has runs with the same seeds: {sorted(seeds)}")
    accuracy = {
        split: [100 * value for summary in group for value in summary["accuracy"][split]["per_replica"]]
        for split in SPLITS
    }
    return Result(tuple(group), accuracy, seeds)


def percent(values: Sequence[float]) -> str:
    """Mean and, where there is more than one, the deviation of a sample."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def row(result: Result) -> str:
    """An experiment's line of the table."""
    run = result.summaries[0]["run"]
    stopped = any(summary["run"]["interrupted"] for summary in result.summaries)
    emulators = [summary["emulator"] for summary in result.summaries]
    beside = [
        f"{figure.test}{' (unchecked)' if figure.evidence == UNCHECKED else ''}"
        for figure in PUBLISHED
        if figure.experiment == result.experiment
    ]
    cells = (
        result.experiment,
        f"{run['epochs_done']}{' (stopped)' if stopped else ''}",
        str(len(result.seeds)),
        *(percent(result.accuracy[split]) for split in SPLITS),
        "; ".join(beside),
        f"{statistics.fmean(part['train_samples_per_s'] for part in emulators):,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def details(result: Result) -> str:
    """Every seed of an experiment, where the runs came from, and how to make them again."""
    test = result.accuracy["test"]
    by_seed = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(result.seeds, test, strict=True))
    places, commands = dict[str, None](), dict[str, None]()  # in order, without repetition
    for summary in result.summaries:
        provenance, run = summary["provenance"], summary["run"]
        device = summary["emulator"]["device"]
        places[f"gpuspike {provenance['gpuspike']} at {provenance['git']}, {run['dtype']}, {device}"] = None
        given = [change for change in run["overrides"] if not change.startswith(("hydra.", "tracking"))]
        commands[f"`{shlex.join(['gpuspike-train', *given])}`"] = None
    return (
        f"- **{result.experiment}**, test accuracy by seed: {by_seed} %. {on_chip(result)}"
        f"{'; '.join(places)}. Again: {', '.join(commands)}"
    )


def on_chip(result: Result) -> str:
    """What the emulated chip did, in a sentence; empty where there was none."""
    parts = [summary.get("substrate") or {} for summary in result.summaries]
    if not all(part.get("chip_seeds") for part in parts):
        return ""

    def values(key: str) -> list[float]:
        return [value for part in parts for value in part[key]["per_replica"]]

    without = percent([100 * value for value in values("test_accuracy_without_chip")])
    return (
        f"Gradient {parts[0]['gradient']}; the same weights without the chip: {without} %; "
        f"nominal to exact gradient: {percent(values('gradient_angle_degrees'))} degrees. "
    )


def kept(page: str) -> dict[str, tuple[str, str]]:
    """Row and details of each experiment that is on a page already."""
    lines = page.partition("## Published figures")[0].splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    told = {line.split("**")[1]: line for line in lines if line.startswith("- **")}
    return {name: (rows[name], line) for name, line in told.items()}


def page(results: Sequence[Result], before: Mapping[str, tuple[str, str]] | None = None) -> str:
    """The whole page.

    Args:
        before: of experiments, row and details that stay where there is no new result.
    """
    lines_of = dict(before or {})
    lines_of |= {result.experiment: (row(result), details(result)) for result in results}
    names = set(lines_of)
    known = [figure for figure in PUBLISHED if figure.experiment in names]
    lines = [
        "# Results",
        "",
        "Written by `python scripts/results_table.py` from run folders. Accuracies in %,",
        "after the last epoch, mean and deviation (of a sample) over seeds; training samples/s over all",
        "replicas of a run, the median over epochs, low where a machine had other work or gave one thread.",
        "",
        "| experiment | epochs | seeds | train | validation | test | published test | train samples/s |",
        "|---|---|---|---|---|---|---|---|",
        *(line for line, _ in lines_of.values()),
        "",
        *(line for _, line in lines_of.values()),
    ]
    if known:
        lines += [
            "",
            "## Published figures",
            "",
            "| experiment | whose | train | test | evidence |",
            "|---|---|---|---|---|",
            *(f"| {f.experiment} | {f.who} | {f.train} | {f.test} | {f.evidence} |" for f in known),
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the run folders and writes the page."""
    parser = argparse.ArgumentParser(description="Write docs/results.md from finished run folders.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="page; left out: docs/results.md, of runs in this clone")
    parser.add_argument("--keep", action="store_true", help="what the page has of other experiments")
    options = parser.parse_args(arguments)
    if options.output is None:
        elsewhere = [folder for folder in options.folders if not folder.resolve().is_relative_to(CLONE)]
        if elsewhere:
            print(
                f"results_table: error: {elsewhere[0]} is not in {CLONE}, whose docs/results.md is of runs "
                "there: --output PAGE says where the page of others is written",
                file=sys.stderr,
            )
            return 2
        options.output = CLONE / "docs" / "results.md"
    summaries = []
    for folder in options.folders:
        try:
            summaries.append(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
            row(collect(summaries[-1:])[0])
        except (OSError, ValueError, LookupError, TypeError) as error:
            why = "has no summary.json" if isinstance(error, FileNotFoundError) else repr(error)
            print(f"results_table: error: {folder} is no finished run: {why}", file=sys.stderr)
            return 2
    try:
        before = kept(options.output.read_text(encoding="utf-8")) if options.keep else None
        text = page(collect(summaries), before)
        options.output.write_text(text, encoding="utf-8")
    except ValueError as error:
        print(f"results_table: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"results_table: error: cannot read or write {options.output}: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
