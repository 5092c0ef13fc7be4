"""`gpuspike-plan`: memory and time of a run that `gpuspike-train` would make."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gpuspike import plugins
from gpuspike.cli.command import command
from gpuspike.cli.train import searching, tell
from gpuspike.config.schema import Job, jobs
from gpuspike.errors import ConfigError
from gpuspike.runs.memory import in_words
from gpuspike.screen import LINE, Screen, clean

if TYPE_CHECKING:
    from gpuspike.runs.experiment import Experiment

HELP = """gpuspike-plan tells what a run will need: bytes by array, and an estimated time. It trains nothing.

    gpuspike-plan [-m] [KEY=VALUE ...]

KEY   any value of gpuspike-train; with -m, values of a sweep

The time is that of some steps of the run's own trainer on this machine, multiplied. Nothing is written."""

PROGRAM = 300 << 20
"""Bytes of a run that are not its arrays: 290 MiB measured, with the MNIST network, on Linux."""

REST = 5.0
"""Seconds of a job beside its steps, to begin, for figures and report: 4 to 6 measured on two AMD cores."""


def plan() -> None:
    """`gpuspike-plan`: see README.md."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    with command("gpuspike-plan", "a step"):
        _plan(arguments)


def _plan(arguments: Sequence[str]) -> None:
    from gpuspike.runs.experiment import build
    from gpuspike.runs.memory import keep_freed_memory
    from gpuspike.runs.planning import memory_of, time_of
    from gpuspike.runs.progress import duration
    from gpuspike.runs.values import check_values

    arguments = searching(plugins.given(arguments))
    multirun = bool({"-m", "--multirun"} & set(arguments))
    overrides = [text for text in arguments if text not in ("-m", "--multirun")]
    for text in overrides:
        if text.startswith("-"):
            raise ConfigError(f"gpuspike-plan takes KEY=VALUE and -m, got {text}")
    asked = jobs(overrides, multirun, check_values)
    if any(job.config.resume is not None for job in asked):
        raise ConfigError("gpuspike-plan plans new runs, got resume; leave it out")
    built = [build(job.config) for job in asked]  # all of them before any work
    tell("gpuspike-plan", [_with_units(job, parts) for job, parts in zip(asked, built, strict=True)])
    del built
    keep_freed_memory()
    console = Screen()
    if len(asked) == 1:
        _show(asked[0], console)
        return
    given = [set(job.overrides) for job in asked]
    same = set.intersection(*given)
    table = Table("job", "values", "peak memory", "an epoch", "in all", "step", title="Jobs, estimated")
    total = 0.0
    for number, job in enumerate(asked):
        parts = build(job.config)
        needed, timing = memory_of(parts), time_of(parts, console)
        total += timing.total
        times = duration(timing.epoch), duration(timing.total)
        differing = (text.partition("=") for text in job.overrides if text not in same)
        own = clean("\n".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in differing))
        table.add_row(str(number), own, in_words(needed.peak), *times, str(parts.step_kind()))
    console.print(table)
    whole = duration(total + REST * len(asked))
    console.print(
        f"one after the other: about {whole}, with {REST:.0f} s a job to begin, for figures and report",
        **LINE,
    )


def _with_units(job: Job, parts: Experiment) -> Job:
    """The same with a note where the chip's values are in another unit than the network."""
    from gpuspike.runs.experiment import new_trainer
    from gpuspike.runs.units import unit_note

    if parts.substrate.ideal:
        return job
    note = unit_note(parts, new_trainer(parts).weights, job.overrides)
    return replace(job, notes=[*job.notes, *([note] if note else [])])


def _show(job: Job, console: Console) -> None:
    """Memory and time of one run."""
    from gpuspike.kernels.cuda.graph import free_memory
    from gpuspike.runs.experiment import build
    from gpuspike.runs.planning import memory_of, time_of
    from gpuspike.runs.progress import duration, say_step

    parts = build(job.config)
    config = parts.config
    count = f"{config.replicas} replica" + ("s" if config.replicas > 1 else "")
    told = f"  {parts.network.sizes}, {count}, {config.dtype.value}, batches of {config.training.batch_size}"
    told += f", each sample {config.training.trials} times" if config.training.trials > 1 else ""
    console.print(Text.assemble((clean(job.experiment), "bold"), told))
    say_step(parts.step_kind(), console)
    needed = memory_of(parts)
    table = Table("memory", Column("", justify="right"))
    for name, size in needed.parts.items():
        table.add_row(name, in_words(size))
    table.add_section()
    table.add_row("most at any one time", in_words(needed.peak))
    table.add_row("beside that: Python, libraries, kernels, figures, about", in_words(PROGRAM))
    if parts.backend.name == "cuda":
        table.add_row("free memory of the device", in_words(free_memory()))
    else:
        table.add_row("memory of this machine", in_words(_installed()))
    console.print(table)
    with console.status("timing some steps"):
        timing = time_of(parts, console)
    table = Table("time, estimated", Column("", justify="right"))
    table.add_row("a step", duration(timing.step))
    table.add_row(f"an epoch of {timing.n_steps} steps, and its validation", duration(timing.epoch))
    table.add_row("encoding the data, evaluating at the end", duration(timing.rest))
    table.add_section()
    table.add_row(f"{timing.epochs} epochs", duration(timing.total))
    console.print(table)
    console.print(
        f"From {timing.n_timed} steps of this run's trainer, here and now, on the first samples. Figures and "
        "report take some seconds more; so does compiling the kernels, once."
    )


def _installed() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
