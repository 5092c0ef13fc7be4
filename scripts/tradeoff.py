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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from gpuspike.report.figures.chips import tradeoff
from gpuspike.report.figures.run import save
from gpuspike.report.run_page import readable
from gpuspike.report.steps import steps_of_jobs
from gpuspike.report.sweep_results import alone

NO_VALUES = ("seed", "chip_seed", "name", "backend", "devices", "resume", "plugin", "substrate.name")
"""Keys, and tracking.*, in which runs of one sweep may differ beside the value that was swept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="of a sweep, or of its runs")
    parser.add_argument("--parameter", help="key of the configuration; left out: what varies")
    parser.add_argument("--output", type=Path, help="folder of the figure")
    given = parser.parse_args(arguments)
    try:
        parameter = given.parameter or swept(given.folders)
        runs = read(given.folders, parameter)
        output = given.output or given.folders[0]
        output.mkdir(parents=True, exist_ok=True)
        paths = save(tradeoff(runs, parameter), output, "tradeoff")
        (output / "tradeoff.json").write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"tradeoff.py: error: {error}", file=sys.stderr)
        return 2
    for run in runs:
        accuracy, time = run["accuracy"][0], run["time_s"] and run["time_s"][0]
        told = f"accuracy {readable(accuracy, '%')}, decided after {readable(time, 's')}"
        print(f"{parameter} {run['value']:g}: {told}, energy {readable(run['energy_J'], 'J')}")
    if note := steps_of_jobs(runs):
        print(f"note: {note}")
    print(*paths, sep="\n")
    return 0


def swept(folders: Sequence[Path]) -> str:
    """The one number that runs in or below the folders differ in.

    Raises:
        ValueError: several, or none.
    """
    found = _varying(folders)
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"the runs must differ in one number of their config.yaml, got {', '.join(found) or 'none'}"
    )


def _runs(folders: Sequence[Path]) -> list[Path]:
    """The summary.json of every run; raises ValueError for fewer than two."""
    found = sorted({path for folder in folders for path in folder.rglob("summary.json")})
    if len(found) < 2:
        raise ValueError(f"a trade-off needs two runs or more, got {len(found)} below {_names(folders)}")
    return found


def _differing(folders: Sequence[Path]) -> dict[str, list[Any]]:
    """By key in which the runs' configurations differ, but for `NO_VALUES`, the value of each."""
    texts = [(path.parent / "config.yaml").read_text(encoding="utf-8") for path in _runs(folders)]
    configs = [dict(_flat(yaml.safe_load(text))) for text in texts]
    # A key that an older run does not have is none that was swept.
    keys = [key for key in configs[0] if all(key in config for config in configs)]
    keys = [key for key in keys if key not in NO_VALUES and not key.startswith("tracking.")]
    values = {key: [config[key] for config in configs] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _varying(folders: Sequence[Path]) -> list[str]:
    """Those keys whose values are numbers, alone in a list perhaps."""
    return [key for key, values in _differing(folders).items() if all(map(_is_number, values))]


def _flat(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", alone(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read(folders: Sequence[Path], parameter: str) -> list[dict[str, Any]]:
    """What `tradeoff` draws, of every run in or below the folders.

    Raises:
        ValueError: fewer than two runs, runs on different chips or that differ in another value too, or a
            parameter that is no number or the same in all of them.
    """
    found = _runs(folders)
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
                "between_steps_share": chip.get("between_steps_share"),
                "in_steps": chip.get("in_steps"),
                "time_s": None if time is None or time["mean"] is None else [time["mean"], time["p99"]],
                "energy_J": chip["energy_per_classification_J"],
                "energy_stopping_J": chip["until_decision"]["energy_J"],
            }
        )
    if len({run["value"] for run in runs}) < 2:
        varied = ", ".join(_varying(folders)) or "nothing"
        got = f"{runs[0]['value']:g} in all of them"
        raise ValueError(f"{parameter} must vary between the runs, got {got}; what varies is {varied}")
    if others := [key for key in _differing(folders) if key != parameter]:
        raise ValueError(f"the runs must differ in {parameter} alone, got {', '.join(others)} beside it")
    if len(chips) > 1:
        raise ValueError(f"the runs must be priced as on one chip, got {', '.join(sorted(chips))}")
    return runs


def _value(path: Path, parameter: str) -> float:
    value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in parameter.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    value = alone(value)
    if not _is_number(value):
        raise ValueError(f"{parameter} must be a number in {path}, got {value!r}")
    return float(value)


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


if __name__ == "__main__":
    sys.exit(main())
