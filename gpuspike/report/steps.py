"""What is said of chips that have time steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpuspike.accountant.account import NOTED, TIES_NOTED
from gpuspike.report.page import is_number, readable, section


def in_steps_told(chip: Mapping[str, Any]) -> str:
    """What a network does with its spikes at a clocked chip's time steps; "" where that is not known."""
    clocked = section(chip, "in_steps")
    if not clocked:
        return ""
    told = [f"{readable(clocked.get('accuracy'), '%')}"]
    for key, name, noted in (
        ("tied_share", "decided by a tie", TIES_NOTED),
        ("undecided_share", "without a decision", NOTED),
    ):
        if (clocked.get(key) or 0.0) >= noted:
            told.append(f"{readable(clocked[key], '%')} {name}")
    if is_number(later := section(clocked, "time_to_decision_s").get("p50")):
        told.append(f"median latency {readable(later, 's')}")
    return ", ".join(told)


def of_steps(chip: Mapping[str, Any]) -> str:
    """That a chip's figures are of spike times between its steps, and what they are at these; or ""."""
    if not chip.get("between_steps_share"):
        return ""
    if told := in_steps_told(chip):
        return f"accuracy and latency are those of exact spike times; with spikes at its time steps {told}"
    return "accuracy and latency are those of spike times between its time steps"


def steps_of_jobs(chips: Iterable[Mapping[str, Any]]) -> str:
    """The same of the chips of several runs that are compared, "" where all are as they should be."""
    exact = [chip for chip in chips if chip.get("between_steps_share")]
    if not exact:
        return ""
    clocked = [section(chip, "in_steps").get("accuracy") for chip in exact]
    known = [value for value in clocked if is_number(value)]
    told = "accuracies and times are those of spike times between the chip's time steps"
    if not known:
        return told
    ends = dict.fromkeys(readable(end, "%") for end in (min(known), max(known)))
    return f"{told}; with spikes at these, accuracies are {' to '.join(ends)}"
