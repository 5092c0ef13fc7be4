"""The page of a sweep: a table to sort, accuracy against what the chip would need, links to the runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpuspike.errors import OutputError
from gpuspike.report.figures.scatter import Point, scatter
from gpuspike.report.page import NONE, is_number, readable, section, write_page
from gpuspike.store.sweep_folder import FINISHED, JobResult, differences, read_sweep

PAGE = "sweep.html"
Cell = tuple[str, float | str | None]
"""What a cell shows, as HTML, and what it is sorted by; None stands last."""

ENERGY, STOPPING, TIME = "energy per classification", "energy, stopping at the decision", "time to decision"
STYLE = """
body { max-width: 75rem; } .jobs { border-collapse: separate; border-spacing: 0; }
 .jobs th { vertical-align: bottom; overflow-wrap: normal; }
.jobs td { white-space: nowrap; } .jobs td:nth-child(2) { white-space: normal; min-width: 7rem; }
.jobs td:first-child, .jobs th:first-child { position: sticky; left: 0; background: var(--page); }
.jobs button { font: inherit; text-align: left; color: inherit; background: none;
  border: 0; padding: 0; cursor: pointer; }
.jobs button::after { content: "\\a0\\2195"; opacity: .4; } .jobs [aria-sort] button { color: var(--mark); }
.jobs [aria-sort=ascending] button::after { content: "\\a0\\2191"; opacity: 1; }
.jobs [aria-sort=descending] button::after { content: "\\a0\\2193"; opacity: 1; }
.jobs tr.shown td { background: var(--card); } .finished { color: inherit; }
.unfinished, .damaged, .gone { color: var(--soft); }
.scatter { width: 100%; height: auto; font-size: 12px; fill: var(--soft); }
.scatter .grid { stroke: var(--line); fill: none; } .point { cursor: pointer; outline: none; }
.point circle { fill: var(--mark); fill-opacity: .75; stroke: var(--page); }
.point path { stroke: var(--mark); stroke-width: 1.5; opacity: .5; fill: none; }
.point.shown circle, .point:focus-visible circle { fill: #d55e00; fill-opacity: 1; stroke: var(--ink); }
#told { min-height: 3em; position: sticky; bottom: 0; margin: 0; padding: .4rem 0;
  background: var(--page); }
@media print { .jobs button::after { content: "" !important; } #told { display: none; }
  .jobs { font-size: 8pt; } .jobs td, .jobs th { white-space: normal; padding-right: .5rem; } }
"""
SCRIPT = """
"use strict";
const body = document.querySelector(".jobs tbody"), told = document.getElementById("told");
const value = (row, column) => row.cells[column].dataset.value;
document.querySelectorAll(".jobs thead th").forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    document.querySelectorAll(".jobs thead th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const [p, q] = [Number(x), Number(y)];
      const numbers = x !== "" && y !== "" && !Number.isNaN(p) && !Number.isNaN(q);
      return (down ? -1 : 1) * (numbers ? p - q : x.localeCompare(y, "en", { numeric: true }));
    });
    body.append(...rows);
  });
});
const show = point => {
  const job = point.dataset.job;
  document.querySelectorAll(".shown").forEach(old => old.classList.remove("shown"));
  document.querySelectorAll("[data-job]").forEach(one => {
    if (one.dataset.job === job) one.classList.add("shown");
  });
  told.textContent = point.querySelector("title").textContent;
};
document.querySelectorAll(".point").forEach(point => {
  for (const event of ["pointerenter", "focus", "click"]) point.addEventListener(event, () => show(point));
});
"""


def write_sweep_report(folder: Path) -> tuple[Path, list[JobResult]]:
    """Writes folder/sweep.html from what the jobs have left.

    Returns:
        The page, and the jobs in it.

    Raises:
        DataError: no folder of a sweep.
        OutputError: the page cannot be written.
    """
    jobs = read_sweep(folder)
    keys = differences(jobs)
    name = folder.resolve().name
    states = {
        state: sum(job.state == state for job in jobs) for state in dict.fromkeys(j.state for j in jobs)
    }
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    experiments = dict.fromkeys(
        str(e) for job in jobs if (e := section(job.summary, "run").get("experiment"))
    )
    body = f"""<h1>{escape(name)}</h1>
<p class="soft">{escape(", ".join([*experiments, f"{len(jobs)} jobs: {counts}"]))}</p>
{_scatters(jobs, keys)}
<h2>Jobs</h2>
{_table(folder, jobs, keys)}"""
    try:
        path = write_page(folder / PAGE, f"{name} - gpuspike", body, STYLE, SCRIPT)
    except OSError as error:
        raise OutputError(f"cannot write {folder / PAGE}: {error.strerror or error}") from None
    return path, jobs


def _energy(job: JobResult, quantity: str) -> Any:
    """One of the chip's figures of a job, a number or a band; None where it is not known."""
    chip = section(job.summary, "chip")
    if quantity == ENERGY:
        return chip.get("energy_per_classification_J")
    if quantity == STOPPING:
        return section(chip, "until_decision").get("energy_J")
    return section(chip, "time_to_decision_s").get("mean")


def _band(value: Any) -> tuple[float, float] | None:
    """A number or a band as its ends; None for what is neither."""
    ends = value if isinstance(value, list) else [value]
    if not ends or not all(is_number(end) for end in ends):
        return None
    return float(min(ends)), float(max(ends))


def _value(value: Any) -> str:
    """A value of the configuration as a reader would write it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _accuracy(job: JobResult, split: str) -> tuple[float | None, float | None]:
    part = section(job.summary, "accuracy", split)
    mean, std = part.get("mean"), part.get("std")
    return (mean if is_number(mean) else None), (std if is_number(std) else None)


def _spread(mean: float | None, std: float | None) -> str:
    if mean is None:
        return NONE
    return readable(mean, "%") if std is None else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def _scatters(jobs: Sequence[JobResult], keys: Sequence[str]) -> str:
    shown = []
    for quantity, unit in ((ENERGY, "J"), (STOPPING, "J"), (TIME, "s")):
        points = []
        for job in jobs:
            band, (mean, std) = _band(_energy(job, quantity)), _accuracy(job, "test")
            if job.state != FINISHED or band is None or mean is None:
                continue
            values = [f"{key}={_value(job.config[key])}" for key in keys if key in job.config]
            told = [f"job {job.name}: {_spread(mean, std)}, {quantity} {readable(list(band), unit)}", *values]
            points.append(Point(job.name, band, mean, std, ", ".join(told)))
        if not points:
            continue
        caption = f"{len(points)} jobs; evidence: {_chips(jobs, quantity)}."
        if len(points) > 1 and len({point.x for point in points}) == 1:
            caption += f" It is {readable(list(points[0].x), unit)} for all of them."
        figure = scatter(points, quantity, unit)
        shown.append(f"<figure>{figure}<figcaption>{escape(caption)}</figcaption></figure>")
    if not shown:
        return "<p>No job has figures of a chip to draw.</p>"
    hint = "Point at a job to see what it is; bars are deviations over replicas and ranges of prices."
    return f'<div class="figures">{"".join(shown)}</div><p id="told" class="soft" role="status">{hint}</p>'


def _chips(jobs: Sequence[JobResult], quantity: str) -> str:
    """Names of the chips with the evidence of a quantity."""
    key = "time_evidence" if quantity == TIME else "evidence"
    chips = [section(job.summary, "chip") for job in jobs if job.state == FINISHED]
    known = [
        f"{chip.get('name')} {chip.get(key) or chip.get('evidence')}" for chip in chips if chip.get("name")
    ]
    return "; ".join(dict.fromkeys(known))


def _table(folder: Path, jobs: Sequence[JobResult], keys: Sequence[str]) -> str:
    heads = ["job", "state", *keys, "test accuracy", "validation", ENERGY, STOPPING, TIME,
             "evidence", "training samples/s", "wall time"]  # fmt: skip
    rows = []
    for job in jobs:
        cells = ""
        for text, by in _cells(folder, job, keys):
            order = "" if by is None else f' data-value="{escape(str(by))}"'
            cells += f"<td{order}>{text}</td>"
        rows.append(f'<tr class="{job.state}" data-job="{escape(job.name)}">{cells}</tr>')
    head = "".join(
        f'<th scope="col"><button type="button">{_breakable(text)}</button></th>' for text in heads
    )
    inside = "\n".join(rows)
    return (
        f'<div class="wide"><table class="jobs"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{inside}</tbody></table></div>"
    )


def _breakable(key: str) -> str:
    """A key that may go over lines at its dots."""
    return escape(key).replace(".", ".<wbr>")


def _cells(folder: Path, job: JobResult, keys: Sequence[str]) -> list[Cell]:
    """A row of the table, column by column."""
    chip, emulator = section(job.summary, "chip"), section(job.summary, "emulator")
    name, state = escape(job.name), job.state
    if os.path.isfile(folder / job.name / "report.html"):
        name = f'<a href="{escape(quote(os.fsencode(job.name)))}/report.html">{name}</a>'
    cells: list[Cell] = [(name, job.name), (escape(f"{state}: {job.note}" if job.note else state), state)]
    for key in keys:
        known = key in job.config
        text = _value(job.config[key]) if known else NONE
        cells.append((escape(text), text if known else None))
    for split in ("test", "validation"):
        mean, std = _accuracy(job, split)
        cells.append((_spread(mean, std), mean))
    for quantity, unit in ((ENERGY, "J"), (STOPPING, "J"), (TIME, "s")):
        band = _band(_energy(job, quantity))
        text = NONE if band is None else readable(list(band), unit)
        cells.append((text, None if band is None else sum(band) / 2))
    evidence = chip.get("evidence")
    cells.append((escape(str(evidence or NONE)), str(evidence) if evidence else None))
    for value, unit in ((emulator.get("train_samples_per_s"), ""), (emulator.get("wall_s"), "s")):
        cells.append((readable(value, unit), value) if is_number(value) else (NONE, None))
    return cells
