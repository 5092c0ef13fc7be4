"""The page of a sweep: its best run, accuracy against values, energy and time, and a table to sort."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from gpuspike.errors import OutputError
from gpuspike.report.figures.scatter import Point, scatter
from gpuspike.report.figures.swept import against, heat_map
from gpuspike.report.page import NONE, is_number, readable, section, write_page
from gpuspike.report.steps import steps_of_jobs
from gpuspike.report.sweep_results import (
    SEEDS,
    Outcome,
    Typed,
    accuracy,
    in_order,
    outcomes,
    priced,
    ranking,
    spread,
    swept,
    unlike,
)
from gpuspike.report.sweep_table import summary_of
from gpuspike.store.sweep_folder import FINISHED, JobResult, jobs_expected, read_sweep

PAGE = "sweep.html"
Cell = tuple[str, float | str | None]
"""What a cell shows, as HTML, and what it is sorted by; None stands last."""

Column = tuple[str, list[Cell]]

UNIT = re.compile(r"(\d) (%|[mµnp]?[sJ])")
"""Where a line must not end."""

MOST_PANELS = 8
"""Keys that are drawn."""

ENERGY, STOPPING, TIME = "energy per classification", "energy, stopping at the decision", "time to decision"
QUANTITIES = ((ENERGY, "J"), (STOPPING, "J"), (TIME, "s"))
STYLE = """
body { max-width: 78rem; } .jobs { border-collapse: separate; border-spacing: 0; width: 100%; }
.jobs th { vertical-align: bottom; overflow-wrap: normal; padding-right: .7rem; }
.jobs td { overflow-wrap: break-word; padding-right: .7rem; }
.jobs button { font: inherit; text-align: left; color: inherit; background: none;
  border: 0; padding: 0; cursor: pointer; }
.jobs button::after { content: "\\a0\\2195"; opacity: .4; } .jobs [aria-sort] button { color: var(--mark); }
.jobs [aria-sort=ascending] button::after { content: "\\a0\\2191"; opacity: 1; }
.jobs [aria-sort=descending] button::after { content: "\\a0\\2193"; opacity: 1; }
.jobs tr.best td { font-weight: 700; } .jobs tr.shown td { background: var(--card); }
.unfinished, .failed, .damaged, .gone { color: var(--soft); }
.winner-card { background: var(--card); border-left: .35rem solid var(--other); border-radius: .5rem;
  padding: .7rem 1rem; margin: 1rem 0; } .winner-card p { margin: .15rem 0; }
.winner-card b { font-size: 1.5rem; line-height: 1.3; color: var(--other); }
.drawing { width: 100%; height: auto; font-size: 12px; fill: var(--soft); display: block; }
.drawing .grid { stroke: var(--line); fill: none; } .drawing .name { font-size: 10px; fill: var(--ink); }
.point { cursor: pointer; outline: none; } .point path { stroke: var(--mark); stroke-width: 1.5; opacity: .5;
  fill: none; } .line { fill: none; stroke-width: 1.6; } .band { opacity: .16; }
.front { fill: none; stroke: var(--mark); stroke-dasharray: 4 3; }
.point circle { fill: var(--page); stroke: var(--mark); stroke-width: 1.5; } .beaten { opacity: .75; }
.best circle { fill: var(--mark); } .heat rect { fill: var(--mark); } .heat .cell { fill: var(--ink); }
.line0 { --c: #0072b2; } .line1 { --c: #e69f00; } .line2 { --c: #009e73; } .line3 { --c: #cc79a7; }
.line4 { --c: #d55e00; } .line5 { --c: #56b4e9; } .line_other { --c: var(--soft); opacity: .45; }
.line, path[class^=line] { stroke: var(--c); } .band { fill: var(--c); }
[class*=line] circle { fill: var(--c); stroke: var(--c); }
.winner circle { stroke: var(--other); stroke-width: 3; } .heat.winner rect { stroke: var(--other);
  stroke-width: 3; } .point.shown circle, .point:focus-visible circle { fill: var(--other);
  stroke: var(--ink); } .heat.shown rect { stroke: var(--ink); stroke-width: 2; }
.legend span { display: inline-block; margin-right: 1rem; } .legend i { display: inline-block;
  width: 1.2rem; height: .25rem; margin-right: .35rem; vertical-align: middle; background: var(--c); }
#told { position: sticky; bottom: 0; margin: 0; padding: .4rem .8rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; } #told:empty { display: none; }
@media print { .jobs button::after { content: "" !important; } #told { display: none; }
  .jobs { font-size: 8pt; } .jobs td, .jobs th { padding-right: .4rem; } }
"""
NARROW = """@media screen and (max-width: {width}rem) {{ .jobs thead {{ display: none; }}
  .jobs, .jobs tbody, .jobs tr, .jobs td {{ display: block; }} .jobs td {{ border: 0; padding: .1rem 0; }}
  .jobs tr {{ border-bottom: 1px solid var(--line); padding: .5rem 0; }}
  .jobs td::before {{ content: attr(data-label) "\\a0 "; color: var(--soft); font-weight: 400; }} }}
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
  const jobs = point.dataset.jobs.split("/");
  document.querySelectorAll(".shown").forEach(old => old.classList.remove("shown"));
  document.querySelectorAll("[data-jobs]").forEach(one => {
    if (one.dataset.jobs.split("/").some(job => jobs.includes(job))) one.classList.add("shown");
  });
  told.textContent = point.querySelector("title").textContent;
};
document.querySelectorAll(".point").forEach(point => {
  for (const event of ["pointerenter", "focus", "click"]) point.addEventListener(event, () => show(point));
});
"""
AGAIN = "setTimeout(() => location.reload(), {milliseconds});\n"


def write_sweep_report(folder: Path, again: float | None = None) -> tuple[Path, list[JobResult]]:
    """Writes folder/sweep.html from what the jobs have left.

    Args:
        again: seconds after which the page loads itself again, while jobs are not finished; None: never.

    Returns:
        The page, and the jobs in it.

    Raises:
        DataError: no folder of a sweep.
        OutputError: the page cannot be written.
    """
    jobs = read_sweep(folder)
    values, name = swept(jobs), folder.resolve().name
    found, best = outcomes(jobs, values), ranking(jobs)
    listed = in_order(jobs, values)
    columns = _columns(folder, listed, values)
    body = f"""<h1>{escape(name)}</h1>
<p class="soft">{escape(summary_of(jobs, jobs_expected(folder)))}</p>
{"".join(f'<p class="notice">{escape(text)}.</p>' for text in unlike(jobs))}
{_best(folder, best, values)}
{_swept(jobs, values, found, best)}
{_scatters(jobs, values)}
<p id="told" class="screen" role="status"></p>
<h2>Jobs</h2>
{_table(listed, columns, best)}"""
    style = STYLE + NARROW.format(width=min(5.9 * len(columns), 90))
    script = SCRIPT if again is None else SCRIPT + AGAIN.format(milliseconds=round(1000 * again))
    try:
        path = write_page(folder / PAGE, f"{name} - gpuspike", body, style, script)
    except OSError as error:
        raise OutputError(f"cannot write {folder / PAGE}: {error.strerror or error}") from None
    return path, jobs


def _best(folder: Path, best: Sequence[JobResult], values: Mapping[str, Mapping[str, Typed]]) -> str:
    """Which run one would go on with, and the next one."""
    if not best:
        return '<p class="notice">No job has finished yet.</p>'

    def told(job: JobResult) -> tuple[str, str]:
        known = ", ".join(f"{key}={own[job.name][0]}" for key, own in values.items() if job.name in own)
        test, validation = (spread(*accuracy(job, split)) for split in ("test", "validation"))
        return f"test accuracy {test}" + f", validation {validation}" * (validation != NONE), escape(known)

    reached, known = told(best[0])
    lines = [
        "<p>Best run, by validation accuracy</p>"
        f"<p><b>{_link(folder, best[0].name, 'job ')}</b> {reached}</p>",
        f"<p>{known}</p>",
    ]
    if len(best) > 1:
        reached, known = told(best[1])
        lines.append(f'<p class="soft">next: {_link(folder, best[1].name, "job ")} {reached}; {known}</p>')
    return f'<div class="winner-card">{"".join(lines)}</div>'


def _link(folder: Path, name: str, word: str = "") -> str:
    """A job's name, as a link to its report where there is one."""
    if not os.path.isfile(folder / name / "report.html"):
        return escape(word + name)
    return f'<a href="{escape(quote(os.fsencode(name)))}/report.html">{escape(word + name)}</a>'


def _swept(
    jobs: Sequence[JobResult],
    values: Mapping[str, Mapping[str, Typed]],
    found: Sequence[Outcome],
    best: Sequence[JobResult],
) -> str:
    """A panel for each key that took more than one value, and a heat map of two."""
    keys = [key for key in values if len({o.values[key][0] for o in found if key in o.values}) > 1]
    keys = keys[:MOST_PANELS]
    winner = next(o for job in best for o in found if job.name in o.jobs) if keys else None
    if winner is None:
        return ""
    shown = []
    if len(keys) == 2 and (drawing := heat_map(found, keys[0], keys[1], winner)):
        caption = "Mean test accuracy (%) for each pair of values; that of the best run is framed."
        shown.append(f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>")
    for key in keys:
        drawing, legend = against(found, key, winner)
        names = "".join(f'<span class="{style}"><i></i>{escape(text)}</span>' for style, text in legend)
        shown.append(f'<figure>{drawing}<figcaption><div class="legend">{names}</div></figcaption></figure>')
    counts = {len(section(job.summary, "accuracy", "test").get("per_replica") or ()) for job in jobs}
    pooled = [key for key in SEEDS if key in values]
    bands = "replicas" + (f" and {', '.join(pooled)}" if pooled else "")
    note = f"bands go from the lowest to the highest of the {bands}; " if max(counts) > 1 or pooled else ""
    words = f"Means, and the names of the jobs; {note}the best run is ringed. Point at a mark to see more."
    if set(keys) <= set(SEEDS):  # repetitions of the same
        words = words.replace(note, "")
        means = [o.mean for o in found]
        whole = spread(float(np.mean(means)), float(np.std(means, ddof=1)))
        alone = f"{len(means)} runs that differ in {' and '.join(keys)} alone"
        words = f"Dashed: the mean, {whole} over {alone}. {words}"
    return (
        f'<h2>Accuracy against what was swept</h2>\n<div class="figures">{"".join(shown)}</div>'
        f'<p class="soft">{words}</p>'
    )


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


def _scatters(jobs: Sequence[JobResult], values: Mapping[str, Mapping[str, Typed]]) -> str:
    shown, same, chips, prices = [], [], set(), priced(jobs)
    for quantity, unit in QUANTITIES:
        points: list[Point] = []
        for job in jobs:
            band, (mean, std) = _band(_energy(job, quantity)), accuracy(job, "test")
            if job.state != FINISHED or band is None or mean is None:
                continue
            told = [f"job {job.name}: {spread(mean, std)}, {quantity} {readable(list(band), unit)}"]
            told += [f"{key}={own[job.name][0]}" for key, own in values.items() if job.name in own]
            told += [f"prices: {prices[job.name]}"] if prices[job.name].first else []
            points.append(Point(job.name, band, mean, std, ", ".join(told), str(prices[job.name])))
        if not points:
            continue
        evidence = _chips(jobs, quantity)
        if len({point.x for point in points}) == 1:
            same.append(f"{quantity}: {readable(list(points[0].x), unit)} for each job ({evidence})")
            continue
        chips |= {point.chip for point in points}
        caption = f"{len(points)} jobs; evidence: {evidence}."
        figure = scatter(points, quantity, unit)
        shown.append(f"<figure>{figure}<figcaption>{escape(caption)}</figcaption></figure>")
    if not shown and not same:
        return "<p>No job has figures of a chip to draw.</p>"
    text = "<h2>Accuracy against what a chip would need</h2>\n"
    if shown:
        other = "other of the same prices" if len(chips) > 1 else "other"
        text += (
            f'<div class="figures">{"".join(shown)}</div><p class="soft">Filled, and joined by the dashed'
            f" line: jobs that no {other} beats in both. Bars are deviations over replicas and ranges of"
            " prices.</p>"
        )
    same += [note] if (note := steps_of_jobs(section(job.summary, "chip") for job in jobs)) else []
    return text + "".join(f'<p class="soft">{escape(line)}.</p>' for line in same)


def _chips(jobs: Sequence[JobResult], quantity: str) -> str:
    """Names of the chips with the evidence of a quantity."""
    key = "time_evidence" if quantity == TIME else "evidence"
    chips = [section(job.summary, "chip") for job in jobs if job.state == FINISHED]
    known = [
        f"{chip.get('name')} {chip.get(key) or chip.get('evidence')}" for chip in chips if chip.get("name")
    ]
    return "; ".join(dict.fromkeys(known))


def _columns(
    folder: Path, jobs: Sequence[JobResult], values: Mapping[str, Mapping[str, Typed]]
) -> list[Column]:
    """The table column by column, without those that say the same of every job."""
    columns: list[Column] = [("job", [(_link(folder, job.name), job.name) for job in jobs])]
    if any(job.state != FINISHED or job.note for job in jobs):
        states = [f"{job.state}: {job.note}" if job.note else job.state for job in jobs]
        columns.append(("state", [(escape(text), job.state) for text, job in zip(states, jobs, strict=True)]))
    for key, own in values.items():
        known = [own.get(job.name) for job in jobs]
        columns.append((key, [(NONE, None) if typed is None else _typed_cell(typed) for typed in known]))
    for split, name in (("test", "test accuracy"), ("validation", "validation")):
        both = [accuracy(job, split) for job in jobs]
        columns.append((name, [(spread(mean, std), mean) for mean, std in both]))
    prices = priced(jobs)
    if any(each.first for each in prices.values()):
        told = [str(prices.get(job.name, NONE)) for job in jobs]
        columns.append(("prices", [(escape(text), text) for text in told]))
    for quantity, unit in QUANTITIES:
        bands = [_band(_energy(job, quantity)) for job in jobs]
        if len(set(bands) - {None}) > 1:
            columns.append((quantity, [_band_cell(band, unit) for band in bands]))
    walls = [section(job.summary, "emulator").get("wall_s") for job in jobs]
    columns.append(
        ("wall time", [(readable(wall, "s"), wall) if is_number(wall) else (NONE, None) for wall in walls])
    )
    return columns


def _typed_cell(typed: Typed) -> Cell:
    text, value = typed
    return escape(text), value if is_number(value) else text


def _band_cell(band: tuple[float, float] | None, unit: str) -> Cell:
    return (NONE, None) if band is None else (readable(list(band), unit), sum(band) / 2)


def _table(jobs: Sequence[JobResult], columns: Sequence[Column], best: Sequence[JobResult]) -> str:
    rows = []
    for k, job in enumerate(jobs):
        cells = ""
        for name, column in columns:
            text, by = column[k]
            order = "" if by is None else f' data-value="{escape(str(by))}"'
            kept = UNIT.sub(r"\1&nbsp;\2", text)
            cells += f'<td data-label="{escape(name)}"{order}>{kept}</td>'
        style = f"{job.state} best" if best and job is best[0] else job.state
        rows.append(f'<tr class="{style}" data-jobs="{escape(job.name)}">{cells}</tr>')
    head = "".join(
        f'<th scope="col"><button type="button">{_breakable(name)}</button></th>' for name, _ in columns
    )
    inside = "\n".join(rows)
    return (
        f'<div class="wide"><table class="jobs"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{inside}</tbody></table></div>"
    )


def _breakable(key: str) -> str:
    """A key that may go over lines at its dots and lines below."""
    return escape(key).replace(".", ".<wbr>").replace("_", "_<wbr>")
