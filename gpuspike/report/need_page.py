"""The page of an answer of `gpuspike-need`: what is borne, what is too much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gpuspike.report.page import NONE, picture, readable, section, table, write_page

CAPTION = (
    "Each seed or chip, the mean, its interval; the line is the accuracy that was asked for, the strip the "
    "border between a value that is borne and one that is not."
)
MAP = (
    "Means; the line is the accuracy that was asked for, straight from cell to cell. Hatched cells are "
    "undecided: their interval holds that accuracy."
)


def rows(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Points as cells, see `head_of`."""
    told = []
    for point in points:
        value = point["value"]
        name = ", ".join(
            f"{one:g}" for one in (value if isinstance(value, list) else [value]) if one is not None
        )
        if point["verdict"] == "refused":
            told.append((name, NONE, NONE, NONE, f"refused: {point['reason']}"))
            continue
        interval = " to ".join(readable(end, "%") for end in point["interval"])
        cells = (looks(point["accuracy"]), readable(point["mean"], "%"), interval, point["verdict"])
        told.append((name or "off", *cells))
    return told


def looks(accuracy: Sequence[float], what: str = "") -> str:
    """How many were looked at, and that it was one in truth: a run's networks on chips that do not differ."""
    n = len(accuracy)
    alike = ", all alike" if n > 1 and len(set(accuracy)) == 1 else ""
    return f"{n} {what}".rstrip() + alike


def repeats(run: str) -> str:
    """What is looked at several times at a value: seeds are trained, a run's networks meet chips."""
    return "chips" if run else "seeds"


def head_of(run: str) -> tuple[str, ...]:
    """Columns of a table of points."""
    return "value", repeats(run), "mean", "interval", "verdict"


def how(answer: Mapping[str, Any]) -> str:
    """How it was found, in words."""
    asked = answer["question"]
    trained = {
        "loop": "networks trained in the loop, each on the chip that it is examined on",
        "population": "networks trained on other chips of the same kind",
        "none": "networks trained without a chip",
        "run": "its networks",
    }[asked["training"]]
    most = "" if answer.get("map") or asked["seeds"] == asked["replicas"] else f" to {asked['seeds']}"
    if asked["run"]:
        networks = asked.get("networks", 1)  # older answers do not say
        whose = (
            f"each with the mean of the run's {networks} networks" if networks > 1 else "the run's network"
        )
        seeds = f"{asked['replicas']}{most} chips a value, {whose}"
    else:
        seeds = f"{asked['replicas']}{most} seeds a value, each on its own chip"
    return (
        f"{answer['experiment']}, {trained}; {asked['split']} split; {seeds}; "
        f"intervals of the mean after Student, with {100 * answer['confidence']:g} % for each value, however "
        "often it was looked at"
    )


def _asked(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked, value by value; older answers do not say all of it."""
    asked = answer["question"]
    first, whose = asked.get("chip_seed"), "of the run" if asked["run"] else "of the training"
    n_train = asked.get("n_train")
    facts = (
        ("experiment", answer["experiment"]),
        ("chip", asked.get("substrate")),
        ("first chip", None if first is None else f"chip_seed={first}"),
        (f"epochs {whose}", asked.get("epochs")),
        (f"training samples {whose}", None if n_train is None else f"{n_train:,}"),
        ("first seed", asked.get("seed")),
        ("at a value at first" if not answer.get("map") else "at a pair", asked["replicas"]),
        ("at a value at most", None if answer.get("map") else asked["seeds"]),
        ("command", answer.get("command")),
    )
    return [(name, str(value)) for name, value in facts if value is not None]


def write_need_page(path: Path, answer: Mapping[str, Any]) -> Path:
    """Writes the page beside an answer, whole or not at all.

    Args:
        path: of the answer; its figures begin with its stem.
    """
    asked = answer["question"]
    names = " and ".join(asked["distortion"])
    body = [
        f'<p class="soft">gpuspike</p><h1 id="top">What {escape(names)} may be for '
        f"{readable(asked['accuracy'], '%')}</h1>",
        f"<p>{escape(how(answer))}.</p>",
        table(_asked(answer)),
    ]
    head, number = head_of(asked["run"]), 0
    for found in answer["borders"]:
        number += 1
        body.append(f'<h2>{escape(found["distortion"])}</h2><p class="notice">{escape(found["told"])}</p>')
        image = path.with_name(f"{path.stem}_{found['distortion']}.png")
        if image.is_file():
            body.append(picture(image, CAPTION, path, number))
        body.append(table(rows([found["off"], *found["points"]]), head, style="cards"))
    if (drawn := answer.get("map")) is not None:
        image = path.with_name(f"{path.stem}_map.png")
        body.append(f"<h2>{escape(' and '.join(drawn['distortions']))}</h2>")
        if image.is_file():
            body.append(picture(image, MAP, path, number + 1))
        body.append(table(rows(drawn["points"]), (", ".join(drawn["distortions"]), *head[1:]), style="cards"))
    body.append(f"<h2>Provenance</h2>\n{table(section(answer, 'provenance').items())}")
    return write_page(path.with_suffix(".html"), f"{names} - gpuspike", "\n".join(body))
