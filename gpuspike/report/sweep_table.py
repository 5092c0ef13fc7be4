"""The jobs of a sweep as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gpuspike.report.page import NONE, readable, section
from gpuspike.report.sweep_results import Typed, accuracy, ranking, spread, swept
from gpuspike.screen import Screen
from gpuspike.store.sweep_folder import FAILED, JobResult

MOST_ROWS = 20
"""Jobs that a terminal shows."""


def sweep_table(jobs: Sequence[JobResult], expected: int | None = None, width: int = 80) -> Table:
    """The jobs of a sweep for a terminal, the best first, then those that failed; of many, the best.

    Args:
        expected: jobs that it will have, where that is known.
        width: characters of a line; values whose columns it has no room for stand in one, with their names.
    """
    values, best, paper = swept(jobs), ranking(jobs), Screen(width=1000)
    failed = [job for job in jobs if job.state == FAILED]
    name_of = {key: key.rpartition(".")[2] for key in values}

    def made(columns: Sequence[str], cells: Callable[[dict[str, str]], list[str]]) -> Table:
        table = Table(title=summary_of(jobs, expected), box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("job", no_wrap=True)
        for name in columns:
            table.add_column(name, overflow="fold")
        for name in ("test accuracy", "validation", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        for job in best[:MOST_ROWS]:
            own = values_of(job, values)
            reached = [spread(*accuracy(job, split)) for split in ("test", "validation")]
            wall = readable(section(job.summary, "emulator").get("wall_s"), "s")
            style = "bold" if job is best[0] else None
            table.add_row(*map(Text, [job.name, *cells(own), *reached, wall]), style=style)
        for job in failed[: max(MOST_ROWS - len(best), 1)]:
            table.add_row(
                *map(Text, [job.name, *cells(values_of(job, values)), FAILED, NONE, NONE]), style="dim"
            )
        return table

    table = made(list(name_of.values()), lambda own: [own.get(key, NONE) for key in values])
    if Measurement.get(paper, paper.options, table).maximum > width:
        table = made(["values"], lambda own: [", ".join(f"{name_of[key]}={own[key]}" for key in own)])
    if len(best) > MOST_ROWS:
        table.caption = f"{len(best) - MOST_ROWS} more are on the page"
    return table


def values_of(job: JobResult, values: Mapping[str, Mapping[str, Typed]]) -> dict[str, str]:
    """What a job has of the values that were swept, as typed."""
    return {key: known[job.name][0] for key, known in values.items() if job.name in known}


def summary_of(jobs: Sequence[JobResult], expected: int | None = None) -> str:
    """How many jobs of which experiments are in which state."""
    states = dict.fromkeys(job.state for job in jobs)
    counts = [f"{sum(job.state == state for job in jobs)} {state}" for state in states]
    experiments = dict.fromkeys(
        str(e) for job in jobs if (e := section(job.summary, "run").get("experiment"))
    )
    begun = f"{len(jobs)} of {expected}" if (expected or 0) > len(jobs) else f"{len(jobs)}"
    plural = "" if begun == "1" else "s"
    return ", ".join([*experiments, f"{begun} job{plural}: {', '.join(counts)}"])
