"""A network on several chips, side by side with what others have published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gpuspike.accountant.account import NOTED, TIES_NOTED, UNKNOWN
from gpuspike.report.run_page import NONE, readable
from gpuspike.report.steps import of_steps
from gpuspike.screen import Screen, clean

ASSUMED = ("assumption", "reported, unchecked")
"""Grades of a chip's times that are marked."""

MARKED = "*: the chip's time scale is an assumption, or unchecked"

COLUMNS = ("accuracy", "energy", "evidence", "stopping", "latency", "1/s")
"""Beside the chip's name, as they stand in a table."""

LEAST_READ = 0.00005
"""A share below which `readable` may say 0.00 %."""

LEAST = ("1/s", "latency", "stopping", "accuracy")
"""Columns that a narrow terminal goes without, the first to go first: a figure keeps its evidence."""

LEGEND = (
    "energy: of a whole trial; stopping: if the chip stopped at the decision; "
    "latency: median time to the decision"
)
"""What the columns hold; stands below a table."""

Row = Sequence[str]


def published(path: Path) -> dict[str, Any]:
    """A file of conf/published: "rows", each with its evidence."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def comparison(
    network: str,
    chips: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]] = (),
    width: int = 80,
) -> tuple[Table, list[str]]:
    """A row a chip, and below them the published ones; all for one classification.

    Args:
        network: its layers, as text.
        chips: as `accountant.account` tells of them.
        others: rows of `published`.
        width: characters of a line. What does not fit is left out by `LEAST`, and said in the notes.

    Returns:
        The table and the notes that belong below it.
    """
    sources: list[str] = []
    names = names_apart(chips)
    ours = [(name, *of_chip(chip)[1:]) for name, chip in zip(names, chips, strict=True)]
    theirs = [_of_others(row, sources) for row in others]
    shown, paper = list(COLUMNS), Screen(width=1000)
    table = _table(network, shown, ours, theirs)
    for name in LEAST:
        if Measurement.get(paper, paper.options, table).minimum <= width:
            break
        shown.remove(name)
        table = _table(network, shown, ours, theirs)
    left_out = [name for name in COLUMNS if name not in shown]
    notes = [
        LEGEND,
        *(f"{whose}: {note}" for of_one in NOTES for note, whose in _told(of_one, names, chips).items()),
    ]
    if any(time_mark(chip) for chip in chips):
        notes.append(MARKED)
    if left_out:
        notes.append(f"{width} columns have no room for {', '.join(left_out)}: the answer's file has all")
    notes += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    return table, notes


def _told(
    of_one: Callable[[Mapping[str, Any]], str], names: Sequence[str], chips: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """By each note the chips that it is about."""
    whose: dict[str, list[str]] = {}
    for name, chip in zip(names, chips, strict=True):
        whose.setdefault(of_one(chip), []).append(name)
    return {note: ", ".join(named) for note, named in whose.items() if note}


def names_apart(chips: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of chips, with that of the prices' file where several have the same."""
    names = [chip["name"] for chip in chips]
    return [
        f"{name} ({chip['prices']})" if names.count(name) > 1 else name
        for name, chip in zip(names, chips, strict=True)
    ]


def of_undecided(chip: Mapping[str, Any]) -> str:
    """Which share of the samples has no decision, and what accuracy and latency make of them.

    "" if few, unless the accuracy reads otherwise for those of them that would be right after the trial.
    """
    share, latency = chip["undecided_share"] or 0.0, chip["time_to_decision_s"]
    if share < NOTED and not _lowers_accuracy(chip):
        return ""
    wrong = "all counted as wrong" if share == 1.0 else "counted as wrong"
    if not chip.get("undecided_are_wrong", True):
        wrong = "which the mean over all chips takes as they are decided later"
    timed = "; latency is of the others" if latency is not None and latency["p50"] is not None else ""
    timed = "; so there is no latency" if share == 1.0 else timed
    told = readable(share, "%") if share >= LEAST_READ else f"{100 * share:.1g} %"
    which = "no sample has" if share == 1.0 else f"{told} without"
    return f"{which} a decision within its trial, {wrong}{timed}"


def _lowers_accuracy(chip: Mapping[str, Any]) -> bool:
    """Whether the end of the trial changes the accuracy as it is printed; older accounts do not tell."""
    accuracy, later = chip.get("accuracy"), chip.get("right_after_trial_share") or 0.0
    if accuracy is None or not chip.get("undecided_are_wrong", True):
        return False
    return readable(accuracy, "%") != readable(accuracy + later, "%")


def of_ties(chip: Mapping[str, Any]) -> str:
    """Which share of the samples is decided by a tie, and for whom; "" if few, and where it is not known."""
    share = chip.get("tied_share") or 0.0
    if share < TIES_NOTED:
        return ""
    return f"{readable(share, '%')} decided by a tie of output neurons, for the lowest class of them"


def _table(network: str, shown: Sequence[str], ours: Sequence[Row], theirs: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE, title=f"One classification by {network} on a chip", padding=0)
    table.add_column("chip", overflow="fold")
    for name in shown:
        words = name == "evidence"
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    kept = [0, *(1 + COLUMNS.index(name) for name in shown)]
    for number, row in enumerate((*ours, *theirs)):
        if number == len(ours):
            table.add_section()
        table.add_row(*(Text(clean(row[k])) for k in kept))
    return table


def of_chip(chip: Mapping[str, Any]) -> Row:
    """A chip's row, by `COLUMNS` behind its name."""
    latency, stopping = chip["time_to_decision_s"], chip["until_decision"]["energy_J"]
    energies = "refused", NONE
    if not chip["refused"]:
        energies = tuple(_short(energy, "J") for energy in (chip["energy_per_classification_J"], stopping))
    mark = time_mark(chip)
    return (
        chip["name"],
        readable(chip["accuracy"], "%"),
        energies[0],
        NONE if chip["refused"] else chip["evidence"],
        energies[1],
        NONE if latency is None or latency["p50"] is None else _short(latency["p50"], "s") + mark,
        NONE if chip["samples_per_s"] is None else _short(chip["samples_per_s"]) + mark,
    )


def _of_others(row: Mapping[str, Any], sources: list[str]) -> Row:
    evidence = row["evidence"]
    if evidence not in ASSUMED:
        source = evidence if row["reference"] is None else f"{row['reference']}, in {evidence}"
        if source not in sources:
            sources.append(source)
        evidence = f"[{sources.index(source) + 1}]"
    energy, latency = row["energy_uJ"], row["latency_us"]
    return (
        row["platform"] + ("" if row["network"] is None else f": {row['network']}"),
        NONE if row["accuracy"] is None else f"{row['accuracy']:.1f} %",
        NONE if energy is None else _short(energy * 1e-6, "J"),
        evidence,
        NONE,
        NONE if latency is None else f"{latency} µs",
        readable(row["per_s"]),
    )


def time_mark(chip: Mapping[str, Any]) -> str:
    """What marks times of a chip that nobody has checked."""
    return "*" if chip["seconds_per_sample"] is not None and chip["time_evidence"] in ASSUMED else ""


def _short(value: Any, unit: str = "") -> str:
    """A value or band with three digits, a band on two lines, the unit once where both ends have the same."""
    if not isinstance(value, list | tuple):
        return readable(float(f"{value:.3g}"), unit)
    low, high = (_short(end, unit) for end in value)
    if low == high:
        return low
    (first, _, unit_low), (_, _, unit_high) = low.partition(" "), high.partition(" ")
    return f"{first if unit_low == unit_high else low} to\n{high}"


def of_room(chip: Mapping[str, Any]) -> str:
    """Why a network does not fit a chip, or that nobody can tell; "" where it fits."""
    reason = chip["does_not_fit"] or ""
    return f"whether the network fits is unknown, {reason}" if reason == UNKNOWN else reason


def _of_refusal(chip: Mapping[str, Any]) -> str:
    """Why there is no energy, or no room."""
    return (chip["refused"] or of_room(chip)).removeprefix(f"{chip['name']}: ")


def _of_count(chip: Mapping[str, Any]) -> str:
    """That one chip is not enough; "" where it is."""
    needed = chip["chips_needed"] or 0
    return f"at least {needed} chips" if needed > 1 else ""


NOTES = (_of_refusal, of_undecided, of_ties, of_steps, _of_count)
"""What is said of a chip beside its row, "" where there is nothing to say."""
