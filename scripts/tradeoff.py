"""Draws accuracy, time to decision and energy against a value that a sweep has varied.

    gpuspike-train -m training.alpha=0,0.005,0.05,0.5 replicas=3
    python scripts/tradeoff.py outputs/yin_yang/sweep_DATE_TIME [--parameter training.alpha] [--output FOLDER]

Reads the summary.json and config.yaml of every run below the folders; writes tradeoff.png, tradeoff.pdf and
tradeoff.json beside the first of them, or to the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gpuspike.report.figures.chips import tradeoff
from gpuspike.report.figures.run import save
from gpuspike.report.run_page import readable


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="of a sweep, or of its runs")
    parser.add_argument("--parameter", default="training.alpha", help="key of the configuration")
    parser.add_argument("--output", type=Path, help="folder of the figure")
    given = parser.parse_args(arguments)
    try:
        runs = read(given.folders, given.parameter)
        output = given.output or given.folders[0]
        output.mkdir(parents=True, exist_ok=True)
        paths = save(tradeoff(runs, given.parameter), output, "tradeoff")
        (output / "tradeoff.json").write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"tradeoff.py: error: {error}", file=sys.stderr)
        return 2
    for run in runs:
        accuracy, time = run["accuracy"][0], run["time_s"] and run["time_s"][0]
        told = f"accuracy {readable(accuracy, '%')}, decided after {readable(time, 's')}"
        print(f"{given.parameter} {run['value']:g}: {told}, energy {readable(run['energy_J'], 'J')}")
    print(*paths, sep="\n")
    return 0


def read(folders: Sequence[Path], parameter: str) -> list[dict[str, Any]]:
    """What `tradeoff` draws, of every run in or below the folders.

    Raises:
        ValueError: fewer than two runs, runs on different chips, or a parameter that is no number.
    """
    found = sorted({path for folder in folders for path in folder.rglob("summary.json")})
    if len(found) < 2:
        raise ValueError(f"a trade-off needs two runs or more, got {len(found)} below {_names(folders)}")
    runs, chips = [], set()
    for path in found:
        summary = json.loads(path.read_text(encoding="utf-8"))
        chip = summary.get("chip") or {}
        if chip.get("prices") is None:
            raise ValueError(f"{path} tells of no chip")
        chips.add(chip["prices"])
        time, accuracy = chip["time_to_decision_s"], summary["accuracy"]["test"]
        runs.append(
            {
                "run": str(path.parent),
                "value": _value(path.parent / "config.yaml", parameter),
                "accuracy": [accuracy["mean"], accuracy["std"]],
                "time_s": None if time is None or time["mean"] is None else [time["mean"], time["p99"]],
                "energy_J": chip["energy_per_classification_J"],
                "energy_stopping_J": chip["until_decision"]["energy_J"],
            }
        )
    if len(chips) > 1:
        raise ValueError(f"the runs must be priced as on one chip, got {', '.join(sorted(chips))}")
    return runs


def _value(path: Path, parameter: str) -> float:
    value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in parameter.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{parameter} must be a number in {path}, got {value!r}")
    return float(value)


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


if __name__ == "__main__":
    sys.exit(main())
