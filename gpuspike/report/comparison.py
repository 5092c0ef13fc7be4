"""A network on several chips, side by side with what others have published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from gpuspike.report.run_page import NONE, readable

ASSUMED = ("assumption", "reported, unchecked")
"""Grades of a chip's times that are marked."""

Row = Sequence[str]


def published(path: Path) -> dict[str, Any]:
    """A file of conf/published: "rows", each with its evidence."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def comparison(
    network: str, chips: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] = ()
) -> tuple[Table, list[str]]:
    """A row a chip, and below them the published ones; all for one classification.

    Args:
        network: its layers, as text.
        chips: as `accountant.account` tells of them.
        others: rows of `published`.

    Returns:
        The table and the notes that belong below it.
    """
    table = Table(box=SIMPLE, title=f"One classification by {network} on a chip", padding=(0, 1, 0, 0))
    table.add_column("chip", min_width=16)
    for head in ("accuracy", "energy", "stopping", "latency", "1/s"):
        table.add_column(head, justify="right", min_width=max(7, len(head)))
    table.add_column("evidence", min_width=10)
    for chip in chips:
        table.add_row(*map(Text, _of_chip(chip)))
    sources: list[str] = []
    for number, row in enumerate(others):
        if number == 0:
            table.add_section()
        table.add_row(*map(Text, _of_others(row, sources)))
    notes = [
        "energy: of a whole trial; stopping: if the chip stopped at the decision; latency: median time to the"
        " decision",
        *(chip["refused"] for chip in chips if chip["refused"]),
        *(
            f"{chip['name']}: {chip['does_not_fit']}"
            for chip in chips
            if chip["does_not_fit"] and not chip["refused"]
        ),
    ]
    notes += [
        f"{chip['name']}: at least {chip['chips_needed']} chips"
        for chip in chips
        if (chip["chips_needed"] or 0) > 1
    ]
    if any(_time_mark(chip) for chip in chips):
        notes.append("*: the chip's time scale is an assumption, or unchecked")
    notes += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    return table, notes


def _of_chip(chip: Mapping[str, Any]) -> Row:
    latency, stopping = chip["time_to_decision_s"], chip["until_decision"]["energy_J"]
    energies = ("refused", NONE) if chip["refused"] else (chip["energy_per_classification_J"], stopping)
    mark = _time_mark(chip)
    return (
        chip["name"],
        readable(chip["accuracy"], "%"),
        *(energy if isinstance(energy, str) else _short(energy, "J") for energy in energies),
        NONE if latency is None else _short(latency["p50"], "s") + mark,
        NONE if chip["samples_per_s"] is None else _short(chip["samples_per_s"]) + mark,
        NONE if chip["refused"] else chip["evidence"],
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
        NONE,
        NONE if latency is None else f"{latency} µs",
        readable(row["per_s"]),
        evidence,
    )


def _time_mark(chip: Mapping[str, Any]) -> str:
    return "*" if chip["seconds_per_sample"] is not None and chip["time_evidence"] in ASSUMED else ""


def _short(value: Any, unit: str = "") -> str:
    """A value or band with three digits, the unit once where both ends have the same."""
    if not isinstance(value, list | tuple):
        return readable(float(f"{value:.3g}"), unit)
    low, high = (_short(end, unit) for end in value)
    if low == high:
        return low
    (first, _, unit_low), (_, _, unit_high) = low.partition(" "), high.partition(" ")
    return f"{first if unit_low == unit_high else low} to {high}"
