"""Writes docs/results.md from finished run folders: what was obtained, with every replica and its provenance.

    python scripts/results_table.py outputs/yin_yang/RUN outputs/yin_yang_best/RUN [--output docs/results.md]

The reported figures beside ours are those of the publication; what was not checked against its text says so.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPORTED = {
    "yin_yang": "95.9 ± 0.7 (Göltz, Kriener et al. 2021; reported, unchecked)",
}
"""Test accuracy in % that a publication gives for the experiment, with its evidence."""


def percent(statistics: Mapping[str, Any]) -> str:
    """Mean and, where there are replicas, deviation."""
    mean = f"{100 * statistics['mean']:.2f}"
    return mean if statistics["std"] is None else f"{mean} ± {100 * statistics['std']:.2f}"


def row(summary: Mapping[str, Any]) -> str:
    """A run's line of the table."""
    run, emulator, accuracy = summary["run"], summary["emulator"], summary["accuracy"]
    cells = (
        run["experiment"],
        f"{run['epochs_done']}{' (stopped)' if run['interrupted'] else ''}",
        str(summary["provenance"]["replicas"]),
        *(percent(accuracy[split]) for split in ("train", "validation", "test")),
        REPORTED.get(run["experiment"], ""),
        f"{emulator['train_samples_per_s']:,.0f}",
        f"{emulator['wall_s']:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def details(summary: Mapping[str, Any]) -> str:
    """Every replica of a run, and where it came from."""
    provenance, run = summary["provenance"], summary["run"]
    accuracies = ", ".join(f"{100 * value:.1f}" for value in summary["accuracy"]["test"]["per_replica"])
    seeds = f"seeds {provenance['seed']} to {provenance['seed'] + provenance['replicas'] - 1}"
    changes = [change for change in run["overrides"] if not change.startswith("hydra.")]
    command = ["gpuspike-train", *changes]
    return (
        f"- **{run['experiment']}**, test accuracy by replica ({seeds}): {accuracies} %. "
        f"gpuspike {provenance['gpuspike']} at {provenance['git']}, {run['dtype']}, "
        f"{summary['emulator']['device']}. Again: `{shlex.join(command)}`"
    )


def page(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    head = (
        "# Results\n\n"
        "Written by `python scripts/results_table.py` from run folders. Accuracies in %,\n"
        "after the last epoch, mean and deviation (of a sample) over replicas; samples/s over all.\n\n"
        "| experiment | epochs | replicas | train | validation | test | reported test "
        "| train samples/s | seconds |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    rows = "\n".join(row(summary) for summary in summaries)
    return f"{head}{rows}\n\n" + "\n".join(details(summary) for summary in summaries) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the run folders and writes the page."""
    parser = argparse.ArgumentParser(description="Write docs/results.md from finished run folders.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args(arguments)
    summaries = []
    for folder in options.folders:
        try:
            summaries.append(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
            row(summaries[-1])
        except (OSError, ValueError, LookupError, TypeError) as error:
            print(f"results_table: error: {folder} is no finished run: {error!r}", file=sys.stderr)
            return 2
    try:
        options.output.write_text(page(summaries), encoding="utf-8")
    except OSError as error:
        print(f"results_table: error: cannot write {options.output}: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
