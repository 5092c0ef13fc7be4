"""`gpuspike-report`: the page of a sweep, from its folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gpuspike.cli.command import command
from gpuspike.errors import ConfigError
from gpuspike.report.sweep_page import write_sweep_report
from gpuspike.report.sweep_results import swept, unlike
from gpuspike.report.sweep_table import sweep_table, values_of
from gpuspike.screen import Screen, line, warn
from gpuspike.store.run_folder import in_use
from gpuspike.store.sweep_folder import FINISHED, JobResult, jobs_expected

HELP = """gpuspike-report makes the page of a sweep, sweep.html in its folder.

    gpuspike-report FOLDER [watch=SECONDS]

FOLDER     of a sweep of gpuspike-train or gpuspike-tune, finished or not
watch      follow a sweep that runs: make the page again every so many seconds until all jobs are finished,
           none runs any more, or Ctrl-C; an open page loads itself again

The page has the best run at the top, accuracy against each value that was swept, against energy and against
time, a table to sort, and links to the report of each job. Jobs that are not finished or cannot be read are
listed as such."""

SHORTEST = 1.0
"""Seconds between two pages, at least: reading many jobs takes its time."""

LOOKS = 2
"""At a folder in which nothing runs, before it is believed: between two jobs nothing does for a moment."""


def report() -> None:
    """`gpuspike-report`: see README.md."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    with command("gpuspike-report", "the page"):
        folder, seconds = read(arguments)
        console = Screen()
        path, jobs = write_sweep_report(folder, seconds)
        console.print(f"page  {path}", soft_wrap=True)
        if seconds is not None:
            try:
                jobs = _follow(folder, seconds, jobs, console)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("while it followed; the page stays as it is") from None
        console.print(f"jobs  {_count(folder, jobs)}")
        values = swept(jobs)
        for job in jobs:
            if job.state != FINISHED:
                own = " ".join(f"{key}={text}" for key, text in values_of(job, values).items())
                told = f"{job.name}{f' {own}' if own else ''}: {job.state}, {job.note}"
                console.print(f"      {line(told)}", soft_wrap=True)
        for text in unlike(jobs):
            warn(text, console)
        if any(job.state == FINISHED for job in jobs):
            console.print(sweep_table(jobs, width=console.width))


def read(arguments: Sequence[str]) -> tuple[Path, float | None]:
    """The folder, and the seconds of `watch`.

    Raises:
        ConfigError: something else, or seconds that cannot be waited.
    """
    watch = [text for text in arguments if text.startswith("watch=")]
    folders = [text for text in arguments if text not in watch]
    if len(folders) != 1 or len(watch) > 1 or folders[0].startswith("-"):
        spaced = "watch" in arguments or "=" in arguments or any(text.endswith("=") for text in arguments)
        hint = "; values are given without spaces: watch=5" if spaced else ""
        if other := [text for text in folders if "=" in text and not Path(text).exists()]:
            hint = f"; there is no {other[0].partition('=')[0]}, there is watch=SECONDS"
        raise ConfigError(f"expected the folder of a sweep, got {' '.join(arguments) or 'nothing'}{hint}")
    if not watch:
        return Path(folders[0]), None
    text = watch[0].removeprefix("watch=")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds < 1e6:
        raise ConfigError(f"watch must be a number of seconds, at least {SHORTEST:g}, got {text}")
    return Path(folders[0]), seconds


def _follow(folder: Path, seconds: float, jobs: list[JobResult], console: Console) -> list[JobResult]:
    """Makes the page again until all jobs are finished, or none runs; the last does not load itself again."""
    told, idle = "", 0
    while not _over(folder, jobs):
        if (now := _count(folder, jobs)) != told:
            console.print(f"jobs  {now}")
            told = now
        idle = 0 if in_use(folder) else idle + 1
        if idle > LOOKS:
            console.print("watch ends: no job runs any more; the sweep's own command goes on with it")
            break
        time.sleep(seconds)
        _, jobs = write_sweep_report(folder, seconds)
    return write_sweep_report(folder)[1]


def _over(folder: Path, jobs: Sequence[JobResult]) -> bool:
    expected = jobs_expected(folder) or len(jobs)
    return sum(job.state == FINISHED for job in jobs) >= expected


def _count(folder: Path, jobs: Sequence[JobResult]) -> str:
    finished = sum(job.state == FINISHED for job in jobs)
    return f"{finished} of {max(len(jobs), jobs_expected(folder) or 0)} finished"
