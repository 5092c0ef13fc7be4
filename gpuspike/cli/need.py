"""`gpuspike-need`: what a chip may do to a network that has to reach an accuracy."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from gpuspike import plugins
from gpuspike.cli.command import command
from gpuspike.cli.train import refuse_dashes, searching, tell
from gpuspike.config.fitting import OF_A_CHIP
from gpuspike.config.hints import not_of
from gpuspike.config.need import NeedConfig, question
from gpuspike.config.schema import Config, from_values, jobs, read_config
from gpuspike.errors import ConfigError, GpuspikeError, together
from gpuspike.screen import Screen
from gpuspike.store import own_data
from gpuspike.store.identity import to_values
from gpuspike.substrate.axes import names

HELP = """gpuspike-need finds how many bits, how much mismatch, what jitter a chip may have.

    gpuspike-need accuracy=0.95 distortion=weight_bits [KEY=VALUE ...]
    gpuspike-need accuracy=0.95 distortion=weight_bits,weight_range map=true [KEY=VALUE ...]

accuracy    to be reached, a share
distortion  whose border is searched, or several of them:
{names}
train       loop: on the chip that answers; population: on others of its kind; none: without a chip
run         a finished run, whose networks are examined instead
split       test or validation
replicas    seeds that train at once, each on a chip of its own; while a value is undecided, as many are added
seeds       most seeds of a value
resolution  a border is known when the value that is too much is so many times the one that is not
map         a map of two distortions; values=[[2,3,4],[1,2,3]] gives their values
folder      where all of it is kept; the same command goes on there, and what is known is not computed again
KEY         any value of gpuspike-train: experiment=yin_yang_best; with run=: backend, chip_seed,
            and dataset.path, where data of your own are now, if they have moved since the run

See docs/need.md."""

_INDENT = " " * 12

WITH_RUN = ("backend", "chip_seed", "plugin")
"""Values that a finished run may be asked with."""


def need() -> None:
    """`gpuspike-need`: see docs/need.md."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        listed = textwrap.wrap(", ".join(names()), 106, initial_indent=_INDENT, subsequent_indent=_INDENT)
        print(HELP.format(names="\n".join(listed)))
        return
    with command("gpuspike-need", "a training"):
        _need(arguments)


def read(arguments: Sequence[str]) -> tuple[NeedConfig, Config, str]:
    """What a command line asks for: the question, what is trained or was, and the experiment's name.

    Raises:
        GpuspikeError: a typo, an impossible value, or no such run.
    """
    own = [item.name for item in fields(NeedConfig)]
    refuse_dashes(arguments, NeedConfig)
    given = searching(plugins.given(arguments))
    for text in given:
        if text.startswith("-") or "=" not in text:
            raise ConfigError(f"gpuspike-need takes KEY=VALUE, got {text}")
        if text.startswith("chips="):
            raise ConfigError(
                f"chips is of gpuspike-evaluate: here each of replicas=5 networks has a chip, and up to "
                f"seeds=20 at a value, got {text}"
            )
    others = [text for text in given if text.partition("=")[0] not in own]
    strange = [error for text in others if (error := not_of(text, {name: name for name in own}, Config))]
    from gpuspike.runs.values import check_values

    try:
        asked = question([text for text in given if text not in others])
    except ConfigError as error:
        raise together([error, *(strange or _mistakes_of(others, check_values))]) from None
    if strange:
        raise together(strange)
    if asked.run:
        if any(text.startswith("train=") for text in given):  # loop too, which would be the usual
            raise ConfigError(
                f"train={asked.train.value} trains, run={asked.run} is trained: leave one of them out"
            )
        return asked, _of_run(Path(asked.run), others), asked.run
    found = jobs([*others, f"replicas={asked.replicas}"], False, check_values)
    if len(found) != 1:
        raise ConfigError(f"gpuspike-need asks of one experiment, got a sweep of {len(found)}")
    (job,) = found
    if job.config.resume is not None:
        raise ConfigError("gpuspike-need goes on by itself, got resume; leave it out")
    # A distortion makes a chip of what has none.
    notes = [note for note in job.notes if asked.train.value == "none" or OF_A_CHIP not in note]
    tell("gpuspike-need", [replace(job, notes=notes)])
    return asked, job.config, job.experiment


def _mistakes_of(others: Sequence[str], check: Callable[[Config], None]) -> list[GpuspikeError]:
    """What is wrong with values of a training, where the question is wrong already."""
    try:
        jobs(others, False, check)
    except GpuspikeError as error:
        return [error]
    return []


def _of_run(folder: Path, others: Sequence[str]) -> Config:
    """A run's configuration, with what the command line may change."""
    run = read_config(folder / "config.yaml")
    values, moved = to_values(run) | {"devices": None}, {}
    may = (*WITH_RUN, *own_data.keys(run))
    for text in others:
        key, _, value = text.partition("=")
        if key not in may:
            raise ConfigError(f"run={folder} has its own values, but for {', '.join(may)}; got {text}")
        if key not in WITH_RUN:
            moved[key.removeprefix("dataset.")] = value.strip("'\"")
        elif key != "plugin":
            values[key] = value
    config = own_data.at(from_values(values), moved, folder)
    own_data.require(config, folder)
    return config


def _need(arguments: Sequence[str]) -> None:
    asked, config, experiment = read(arguments)
    from gpuspike.runs.need_answer import answer

    answer(asked, config, experiment, Screen(), arguments)
