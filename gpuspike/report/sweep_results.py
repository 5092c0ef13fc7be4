"""What a sweep was for: the values that it went through, and the accuracy that each has come to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuspike.config.keys import key_of
from gpuspike.report.page import NONE, is_number, section
from gpuspike.store.sweep_folder import FINISHED, JobResult, differences

SEEDS = ("seed", "chip_seed")
"""Keys whose values are repetitions of the same, and pooled."""

MOST_NAMES = 8
"""Jobs that a sentence names."""

_NO_VALUES = ("-", "hydra.", "hydra/", "plugin", "name", "tracking")
"""What begins an override that says nothing of what is computed."""

Typed = tuple[str, Any]
"""A value as its user typed it, and as a number where it is one."""


@dataclass(frozen=True)
class Outcome:
    """Jobs that differ in their seeds alone, mostly one.

    Attributes:
        jobs: their names.
        values: of each key that was swept.
        mean, low, high: test accuracies in 0..1 over all replicas.
        told: what to say of it.
    """

    jobs: tuple[str, ...]
    values: Mapping[str, Typed]
    mean: float
    low: float
    high: float
    told: str

    @property
    def name(self) -> str:
        """Of its jobs."""
        return ", ".join(self.jobs)


def swept(jobs: Sequence[JobResult]) -> dict[str, dict[str, Typed]]:
    """By key that was swept, the value of each job that is known, as typed.

    What a command line says counts where it is known, so that a change of a whole group is one key.
    """
    given = {job.name: _given(job) for job in jobs}
    keys = [*dict.fromkeys(key for values in given.values() for key in values)]
    asked = [values for values in given.values() if values]
    if len(jobs) > 1:
        keys = [key for key in keys if len({values.get(key) for values in asked}) > 1]
        keys = keys or differences(jobs)
    return {key: {job.name: typed for job in jobs if (typed := _typed(job, key, given))} for key in keys}


def in_order(jobs: Sequence[JobResult], values: Mapping[str, Mapping[str, Typed]]) -> list[JobResult]:
    """Jobs by the values that were swept, the first key's before the next one's; those unknown stand last."""

    def place(job: JobResult) -> list[tuple[int, float, int]]:
        found = []
        for own in values.values():
            text, value = own.get(job.name, (NONE, None))
            names = list(dict.fromkeys(each for each, _ in own.values()))  # as they come
            kind = 0 if is_number(value) else 1 if text in names else 2
            found.append((kind, float(value) if kind == 0 else 0.0, names.index(text) if kind == 1 else 0))
        return found

    return sorted(jobs, key=place)


def _given(job: JobResult) -> dict[str, str]:
    """Overrides of a job by key."""
    texts = section(job.summary, "run").get("overrides")
    texts = [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    pairs = ((key_of(text), text.partition("=")[2]) for text in texts if "=" in text)
    return {key: value for key, value in pairs if not key.startswith(_NO_VALUES)}


def _typed(job: JobResult, key: str, given: Mapping[str, Mapping[str, str]]) -> Typed | None:
    known = alone(job.config.get(key))
    if key in given[job.name]:
        text = given[job.name][key]
        if known is None:
            return (as_typed(None), None) if text.lower() in ("null", "~", "") else (text, text)
        return text, known
    return (as_typed(job.config[key]), known) if key in job.config else None


def alone(value: Any) -> Any:
    """The number of a list that holds it alone, model.hidden=[5]; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 and is_number(value[0]) else value


def as_typed(value: Any) -> str:
    """A value of the configuration as a command line would have it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))


def accuracy(job: JobResult, split: str) -> tuple[float | None, float | None]:
    """Mean and deviation over the replicas, None where not known."""
    part = section(job.summary, "accuracy", split)
    mean, std = part.get("mean"), part.get("std")
    return (mean if is_number(mean) else None), (std if is_number(std) else None)


def spread(mean: float | None, std: float | None) -> str:
    """An accuracy with its deviation, for a reader."""
    if mean is None:
        return NONE
    return f"{100 * mean:.2f} %" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def ranking(jobs: Sequence[JobResult]) -> list[JobResult]:
    """Finished jobs, the best first: by validation accuracy, which the test split had no part in."""
    known = [job for job in jobs if job.state == FINISHED and accuracy(job, "test")[0] is not None]

    def merit(job: JobResult) -> tuple[float, float]:
        validation, test = (accuracy(job, split)[0] for split in ("validation", "test"))
        return (-1.0 if validation is None else validation), (test or 0.0)

    return sorted(known, key=merit, reverse=True)


def unlike(jobs: Sequence[JobResult]) -> list[str]:
    """What jobs are not alike in though no value says so, in sentences: files that have changed, the code."""
    files: dict[str, dict[str, list[str]]] = {}
    codes: dict[str, list[str]] = {}
    tasks: dict[str, list[str]] = {}
    for job in jobs:
        if "dataset.name" in job.config:
            task = job.config.get("dataset.path") or job.config["dataset.name"]
            tasks.setdefault(str(task), []).append(job.name)
        made = section(job.summary, "provenance")
        for key in ("data", "plugins"):
            entries = made.get(key)
            pairs = [str(entry).rpartition("@") for entry in entries] if isinstance(entries, list) else []
            for path, at, digest in pairs:
                if at:
                    files.setdefault(path, {}).setdefault(digest, []).append(job.name)
        if made.get("gpuspike"):
            commit = f" at {made['git']}" if made.get("git") else ""
            codes.setdefault(f"{made['gpuspike']}{commit}", []).append(job.name)
    each = [("the data set", tasks), *((f"the content of {path}", found) for path, found in files.items())]
    each.append(("gpuspike", codes))
    return [*(_unlike(what, found) for what, found in each if len(found) > 1), *_priced_apart(jobs)]


@dataclass(frozen=True)
class Priced:
    """Prices of some jobs.

    Attributes:
        file: that they are named by.
        first: job of those that had the same values, where the file held others for other jobs; else "".
    """

    file: str
    first: str

    def __str__(self) -> str:
        return f"{self.file} as of job {self.first}" if self.first else self.file


def priced(jobs: Sequence[JobResult]) -> dict[str, Priced]:
    """The prices of each finished job, by its name: the same for jobs whose figures can be compared."""
    finished = [job for job in jobs if job.state == FINISHED]
    words = ("name", "setting", "scope", "merges")
    words = [key for key in words if all(key in section(job.summary, "chip") for job in finished)]
    own = {job.name: _values_of_prices(job, words) for job in finished}
    alike: dict[str, Priced] = {}
    for job in (job for job in jobs if job.name in own):
        chip = section(job.summary, "chip")
        file = job.config.get("substrate.prices") or chip.get("prices") or chip.get("name")
        alike.setdefault(own[job.name], Priced(str(file), job.name))
    files = [prices.file for prices in alike.values()]
    told = {
        values: prices if files.count(prices.file) > 1 else Priced(prices.file, "")
        for values, prices in alike.items()
    }
    return {name: told[values] for name, values in own.items()}


def _values_of_prices(job: JobResult, words: Sequence[str]) -> str:
    """All that a job's figures of a chip are computed from, as a text; its name, where no more is known.

    Args:
        words: keys beside the numbers that all jobs have, as older ones may not.
    """
    chip = section(job.summary, "chip")
    numbers = section(chip, "numbers")
    if not numbers:
        return str(chip.get("prices") or chip.get("name"))
    counted = {
        name: {key: number.get(key) for key in ("value", "unit", "per", "grade")}
        for name, number in numbers.items()
        if isinstance(number, Mapping)
    }
    kept = [chip.get(key) for key in words]
    return json.dumps([kept, counted], sort_keys=True, default=str)


def _priced_apart(jobs: Sequence[JobResult]) -> list[str]:
    """Files of prices that held other values for some of the jobs, in sentences."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, prices in priced(jobs).items():
        if prices.first:
            found.setdefault(prices.file, {}).setdefault(prices.first, []).append(name)
    told = []
    for file, groups in found.items():
        first, *others = groups.values()
        for names in others:
            which = f"job {names[0]} was" if len(names) == 1 else f"jobs {_named(names)} were"
            told.append(
                f"{which} priced by other values of {file} than job {first[0]}: energies and times are "
                "compared among jobs of the same values alone"
            )
    return told


def _unlike(what: str, found: Mapping[str, Sequence[str]]) -> str:
    """What jobs have which of, by name."""
    which = "; ".join(f"{own} for {_named(names)}" for own, names in found.items())
    return f"{what} was not the same for all jobs: {which}. Compare their accuracies with care"


def _named(names: Sequence[str]) -> str:
    """Some jobs by name, few of many."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def outcomes(jobs: Sequence[JobResult], values: Mapping[str, Mapping[str, Typed]]) -> list[Outcome]:
    """Finished jobs, those that differ only in their seeds together."""
    keys = [key for key in values if key not in SEEDS] or list(values)
    groups: dict[tuple[str, ...], list[JobResult]] = {}
    unknown: Typed = (NONE, None)
    known = {job.name for job in ranking(jobs)}
    for job in (job for job in jobs if job.name in known):
        own = tuple(values[key].get(job.name, unknown)[0] for key in keys)
        groups.setdefault(own, []).append(job)
    found = []
    for texts, members in groups.items():
        reached: list[float] = []
        for job in members:
            each = section(job.summary, "accuracy", "test").get("per_replica")
            numbers = [v for v in each if is_number(v)] if isinstance(each, list) else []
            reached += numbers or [value for value in accuracy(job, "test")[:1] if value is not None]
        names = tuple(job.name for job in members)
        mean = float(np.mean([accuracy(job, "test")[0] or 0.0 for job in members]))
        std = float(np.std(reached, ddof=1)) if len(reached) > 1 else None
        what = ", ".join(f"{key}={text}" for key, text in zip(keys, texts, strict=True))
        told = f"job {', '.join(names)}: {spread(mean, std)}, {what}"
        own = {key: values[key].get(members[0].name, unknown) for key in keys}
        found.append(Outcome(names, own, mean, min(reached), max(reached), told))
    return found
