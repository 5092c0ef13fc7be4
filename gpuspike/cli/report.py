"""`gpuspike-report`: the page of a sweep, from its folder."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from gpuspike.cli.train import refuse
from gpuspike.errors import ConfigError, GpuspikeError
from gpuspike.report.sweep_page import write_sweep_report
from gpuspike.store.sweep_folder import FINISHED

HELP = """gpuspike-report makes the page of a sweep, sweep.html in its folder.

    gpuspike-report FOLDER

FOLDER     of a sweep of gpuspike-train or gpuspike-tune, finished or not

The page has a table to sort, accuracy against energy and time, and links to the report of each job. Jobs
that are not finished or cannot be read are listed as such. Run it again for later results."""


def report() -> None:
    """`gpuspike-report`: see README.md."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise ConfigError(f"expected the folder of a sweep, got {' '.join(arguments) or 'nothing'}")
        path, jobs = write_sweep_report(Path(arguments[0]))
    except GpuspikeError as error:
        refuse("gpuspike-report", error)
    console = Console()
    console.print(f"page  {path}", soft_wrap=True, markup=False)
    finished = sum(job.state == FINISHED for job in jobs)
    console.print(f"jobs  {finished} of {len(jobs)} finished", markup=False)
    for job in jobs:
        if job.state != FINISHED:
            name = job.name.encode("utf-8", "replace").decode()  # that of a file may be no text
            console.print(f"      {name}: {job.state}, {job.note}", soft_wrap=True, markup=False)
