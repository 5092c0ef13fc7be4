"""What the jobs of a sweep have left: read as far as it can be, so that a damaged job hides no other.

os.path is asked what there is, since a Path raises where a folder may not be entered.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpuspike.errors import DataError
from gpuspike.reading import opened, text_of
from gpuspike.store.run_folder import CONFIG, METRICS, SUMMARY
from gpuspike.strangers import look_at_yaml, yaml_text

JOBS = "jobs"
"""Folder of a sweep with a file for each configuration that was begun: where, and whether it is finished."""

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"
DAMAGED, GONE = "damaged", "gone"


@dataclass(frozen=True)
class JobResult:
    """A job as its folder tells of it.

    Attributes:
        name: of its folder, within the sweep's.
        state: "finished", "unfinished", "failed", "damaged" or "gone".
        note: what is missing or cannot be read; "" where all is well.
        config: its values by dotted key; empty if they cannot be read.
        summary: what its summary.json holds, empty unless finished.
    """

    name: str
    state: str
    note: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


def read_sweep(folder: Path) -> list[JobResult]:
    """The jobs of a sweep, by the numbers in their names.

    Raises:
        DataError: no such folder, or one without runs in it.
    """
    if not os.path.isdir(folder):
        raise DataError(f"the sweep's folder must exist, got {folder}")
    if os.path.isfile(folder / CONFIG):
        told = "see its report.html"
        if not os.path.isfile(folder / "report.html"):
            told = f"gpuspike-train {shlex.quote(f'resume={folder}')} goes on with it"
        raise DataError(f"expected the folder of a sweep, got that of a run: {folder}, {told}")
    try:
        inside = [path for path in folder.iterdir() if os.path.isdir(path) and path.name != JOBS]
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from None
    names = {path.name for path in inside if any(os.path.exists(path / name) for name in (CONFIG, SUMMARY))}
    names |= (marked := _marked(folder)).keys()
    if not names:
        raise DataError(f"the folder must hold the runs of a sweep, got none in {folder}")
    return [_read_job(folder, name, *marked.get(name, ("", {}))) for name in sorted(names, key=_by_number)]


def jobs_expected(folder: Path) -> int | None:
    """How many jobs a sweep will have; None where it does not know itself, as a search does not."""
    counts = []
    for mark in (folder / JOBS).glob("*.json"):
        try:
            count = json.loads(text_of(mark)).get("of")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(count, int):
            counts.append(count)
    return max(counts, default=None)


def differences(jobs: Sequence[JobResult]) -> list[str]:
    """Keys of the configuration in which readable jobs differ, in the configuration's order."""
    configs = [job.config for job in jobs if job.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Sorts "trial_10" behind "trial_9"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _marked(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Folders of the jobs that the sweep has begun, the gone ones too; why one failed or "", and its values.

    Unreadable marks tell nothing.
    """
    names = {}
    marks = sorted((folder / JOBS).glob("*.json"), key=_age)  # a folder's newest counts
    for mark in marks:
        try:
            told = json.loads(text_of(mark))
            name, why = told["folder"], str(told.get("failed", ""))
            look_at_yaml(text := str(told.get("config", "{}")))
            values = _flat(_mapping(yaml.safe_load(text)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        except (yaml.YAMLError, DataError):
            continue
        if isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\\" not in name:
            names[name] = why, values
    return names


def _age(path: Path) -> int:
    """When it was written."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read_job(sweep: Path, name: str, failed: str, values: dict[str, Any]) -> JobResult:
    folder = sweep / name
    if not os.path.isdir(folder):
        return (
            JobResult(name, FAILED, failed, values)
            if failed
            else JobResult(name, GONE, "its folder is not there")
        )
    config: dict[str, Any] = {}
    notes = []
    try:
        config = _flat(_mapping(yaml.safe_load(yaml_text(folder / CONFIG))))
    except (OSError, ValueError, yaml.YAMLError, DataError, RecursionError):
        notes.append(f"{CONFIG} cannot be read")
    if not os.path.exists(folder / SUMMARY):
        notes.insert(0, _progress(folder, config))
        if failed:
            return JobResult(name, FAILED, "; ".join([failed, *notes]), config)
        return JobResult(name, UNFINISHED, "; ".join(notes), config)
    try:
        summary = _mapping(json.loads(text_of(folder / SUMMARY)))
        _mapping(summary["accuracy"])["test"]
    except (OSError, ValueError, KeyError, RecursionError):
        return JobResult(name, DAMAGED, "; ".join([f"{SUMMARY} cannot be read", *notes]), config)
    run = summary.get("run")
    if isinstance(run, Mapping) and run.get("interrupted"):
        return JobResult(name, UNFINISHED, "; ".join([_progress(folder, config), *notes]), config, summary)
    return JobResult(name, FINISHED, "; ".join(notes), config, summary)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a mapping")
    return value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = value if isinstance(value, dict) and value else None
        flat |= {f"{prefix}{key}": value} if inner is None else _flat(inner, f"{prefix}{key}.")
    return flat


def _progress(folder: Path, config: Mapping[str, Any]) -> str:
    """How far a job has come, from the lines of its metrics.jsonl."""
    try:
        with opened(folder / METRICS) as file:
            done = sum(1 for line in file if line.endswith(b"\n"))
    except OSError:
        done = 0
    return f"{done} of {config.get('training.epochs', '?')} epochs"
