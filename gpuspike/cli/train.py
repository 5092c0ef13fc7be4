"""Console commands. Each is a Hydra application that refuses bad input in one line, before any work."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig

from gpuspike import plugins
from gpuspike.backend import take_turns
from gpuspike.cli.command import command, refuse, too_large
from gpuspike.cli.words import FLAGS, flags_first, help_head, named_by_time, pinned, placed
from gpuspike.config import schema
from gpuspike.config.composition import beside_chip, register
from gpuspike.config.files import conf_folder, not_a_run
from gpuspike.config.hints import dotted, options
from gpuspike.config.schema import Job, experiment_name, jobs, to_config
from gpuspike.errors import ConfigError, DataError, GpuspikeError
from gpuspike.screen import Screen, line, open_streams, warn


def train() -> None:
    """`gpuspike-train`: see README.md."""
    from gpuspike.cli.cluster import patient
    from gpuspike.store.run_folder import remove_empty, reserve

    with command("gpuspike-train", "the run"):
        refuse_dashes(sys.argv[1:], schema.Config)
        typed = plugins.given(flags_first(sys.argv[1:]))
        sys.argv[1:] = placed(typed)
        around = [f"--config-dir={folder}" for folder in folders_of(typed)]
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(help_head())
        before, sweep, folder = _check(sys.argv[1:])
        if folder is not None and named_by_time(folder, typed):
            folder = reserve(folder)
        if folder is not None:
            key = "hydra.run.dir" if sweep is None else "hydra.sweep.dir"
            sys.argv[1:] = pinned(sys.argv[1:], folder, key)
        if sweep is not None and folder is not None:
            sweep = replace(sweep, folder=folder)
            count = f"{sweep.count} job{'' if sweep.count == 1 else 's'}"
            where = f"sweep    {count}, to follow with gpuspike-report {folder} watch=5"
            Screen().print(where, soft_wrap=True, highlight=False)
        schema.register()
        files, here = [plugin.entry for plugin in plugins.loaded()], Path.cwd()

        def task(cfg: DictConfig) -> float:
            open_streams()  # a launcher's process has its own, and has not imported the plug-ins
            for entry in files:  # given here; what a configuration alone names is not loaded
                plugins.load(entry, here)
            with chdir(here):  # paths are those of whoever typed them, wherever hydra.job.chdir has led
                return _train(cfg, before, sweep, around)

        # Otherwise Hydra would print the traceback of a failed job itself.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        main = hydra.main(version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config")
        cluster = nullcontext()
        if sweep is not None and folder is not None and on_a_cluster():
            cluster = patient(folder)
        try:
            with cluster, _own_words():
                main(task)()
        finally:
            if sweep is not None and sweep.folder is not None:
                _show_sweep(sweep.folder)
            if folder is not None:
                remove_empty(folder, before)


EVALUATE = """gpuspike-evaluate tells what networks of a finished run do, and what chips would need for it.

    gpuspike-evaluate run=FOLDER [KEY=VALUE ...]

run        folder of the run: outputs/yin_yang/DATE_TIME
split      test, validation or train
prices     chips to account for, prices=loihi,odin: names, or YAML files of your own; left out: all there are
substrate  chip that answers, a name ({names}) or a YAML file;
           left out: the run's own
chip_seed  of the first replica's chip; left out: the run's own chips
chips      evaluate every network on so many chips, from chip_seed on, and tell the yield
backend    auto, cuda, cpu or reference
name       of the answer, FOLDER/evaluations/NAME.json; left out: a name for each question
plugin     files with parts of your own that the run used: plugin=my_parts.py
dataset.path   where data of your own are now, if they have moved since the run

--cfg job shows all values; -m sweeps. Nothing is trained."""


def evaluate() -> None:
    """`gpuspike-evaluate`: see README.md."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(EVALUATE.format(names=", ".join(options("substrate"))))
        return
    from gpuspike.config.evaluate import EvaluateConfig, as_lists, evaluations
    from gpuspike.runs.evaluate import evaluate, prepare

    with command("gpuspike-evaluate", "the evaluation"):
        typed = sys.argv[1:]
        refuse_dashes(typed, EvaluateConfig)
        arguments = plugins.given(as_lists(typed))
        flags = [a for a in arguments if a.startswith("-")]
        if any(flag not in ("-m", "--multirun") for flag in flags):
            # Flags that only tell (--help, --cfg, ...) are Hydra's.
            sys.argv[1:] = arguments
            register("evaluate_schema", EvaluateConfig)
            folder = str((conf_folder() / "evaluate").resolve())
            hydra.main(version_base="1.3", config_path=folder, config_name="evaluate")(lambda _: None)()
            return
        configs = evaluations([a for a in arguments if not a.startswith("-")], multirun=bool(flags))
        for config in configs:  # all of them before any work
            prepare(config)
        for config in configs:
            evaluate(config, Screen(), typed)


def refuse_dashes(arguments: Sequence[str], schema: type[Any]) -> None:
    """Refuses values that are given like flags, and flags that there are not.

    Args:
        schema: of the command's configuration.

    Raises:
        ConfigError: which is it, and how it is given.
    """
    keys = [item.name for item in fields(schema)]
    for number, argument in enumerate(arguments):
        key, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("--"):
            continue
        following = arguments[number + 1 : number + 2]
        if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
            value = following[0]
        if key.split(".")[0] in (*keys, "experiment"):  # Hydra has a flag --experimental-rerun
            argument += f" {value}" if value and not equals else ""
            raise ConfigError(f"values are given without dashes: {key}={value or 'VALUE'}, got {argument}")
        if f"--{key}" not in FLAGS and sum(each.startswith(f"--{key}") for each in FLAGS) != 1:
            leaves = {name.rpartition(".")[2]: name for name in reversed(dotted(schema))}
            flag = get_close_matches(f"--{key}", FLAGS, 1)
            close = get_close_matches(key, leaves, 1) if key in leaves or not flag else []
            meant = f"{leaves[close[0]]}={value or 'VALUE'}" if close else "".join(flag)
            raise ConfigError(f"there is no flag --{key}" + (f"; did you mean {meant}?" if meant else ""))


@dataclass(frozen=True)
class Sweep:
    """Jobs that a command line asks for together.

    Attributes:
        folder: of all of them; None where each experiment has its own.
        keys: that they differ in.
        count: of jobs.
    """

    folder: Path | None
    keys: frozenset[str]
    count: int

    def label(self, number: int, overrides: Sequence[str]) -> str:
        """What a job is called on the screen."""
        own = [text for text in overrides if text.partition("=")[0] in self.keys]
        return f"job {number} ({number + 1} of {self.count})  {' '.join(own)}".rstrip()


_WAYS = {
    "-m": ("-m", "--multirun"),
    "--run": ("-r", "--run"),
    "--cfg": ("-c", "--cfg"),
    "--info": ("-i", "--info"),
}
"""Flags of which Hydra takes one, and how they are typed."""


def _check(arguments: Sequence[str]) -> tuple[set[Path], Sweep | None, Path | None]:
    """Checks all jobs of a command line; leaves Hydra's own flags (--help, --cfg, ...) to Hydra.

    Returns:
        The folders around the jobs' outputs that are there already, the sweep if it is one, and where all
        of it goes, if that is one folder.
    """
    from gpuspike.runs.experiment import build
    from gpuspike.runs.run import resumable
    from gpuspike.runs.sweep import check_sweep
    from gpuspike.runs.values import check_values
    from gpuspike.store import own_data, resume
    from gpuspike.store.run_folder import check_folder, check_writable, existing, locked

    before = existing(Path())
    arguments = searching(arguments)
    flags = [a for a in arguments if a.startswith("-")]
    ways = [way for way, names in _WAYS.items() if any(f.partition("=")[0] in names for f in flags)]
    if len(ways) > 1:
        raise ConfigError(f"one of {', '.join(_WAYS)} at a time, got {' and '.join(ways)}")
    if any(flag not in ("-m", "--multirun") for flag in flags):
        return before, None, None
    values = [a for a in arguments if not a.startswith("-")]
    try:
        asked = jobs(values, bool(flags), check_values)
    except GpuspikeError:  # of a configuration without the run's values: what the run has may say more
        for folder in (a.partition("=")[2] for a in values if a.startswith("resume=")):
            if Path(folder, "config.yaml").is_file():
                resume.refuse_typed(Path(folder), values)
        raise
    for job in asked:
        if job.config.resume is not None:
            if elsewhere := [a for a in arguments if a.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]:
                raise ConfigError(f"resume goes on in the run's own folder, got {elsewhere[0]}: leave it out")
            if why := not_a_run(Path(job.config.resume)):
                raise ConfigError(f"resume must be the folder of a run, got {job.config.resume}, {why}")
            check_writable(Path(job.config.resume))
            with locked(Path(job.config.resume)):
                stopped = resume.read(Path(job.config.resume), job.config, job.overrides)
                own_data.refuse_others(stopped.config, stopped.data, Path(job.config.resume))
                resumable(stopped)
            continue
        build(job.config)
        check_sweep(job.folder) if job.sweep else check_folder(job.folder)
        before |= existing(job.folder)
    if not flags:
        notes = [f"{a} is of a sweep: -m begins one" for a in arguments if a.startswith("hydra.sweep.dir=")]
        asked = [replace(job, notes=[*job.notes, *notes]) for job in asked]
    tell("gpuspike-train", asked)
    if not asked or asked[0].config.resume is not None:
        return before, None, None
    if not asked[0].sweep:
        return before, None, asked[0].folder
    given = [set(job.overrides) for job in asked]
    differing = set().union(*given) - set.intersection(*given)
    keys = frozenset(text.partition("=")[0] for text in differing)
    together = len({job.folder.parent for job in asked}) == 1
    folder = asked[0].folder if together else None
    return before, Sweep(folder, keys, len(asked)), folder


def on_a_cluster() -> bool:
    """Whether SLURM runs the jobs of the sweep that has just been checked."""
    return str(HydraConfig.get().launcher.get("_target_")).endswith(".SlurmLauncher")


def searching(arguments: Sequence[str]) -> list[str]:
    """Arguments in which Hydra's --config-dir FOLDER is the override that it stands for.

    Raises:
        ConfigError: no such folder.
    """
    result, rest = [], list(arguments)
    while rest:
        flag, equals, folder = rest.pop(0).partition("=")
        if flag not in ("--config-dir", "-cd") or not (equals or rest):
            result.append(flag + equals + folder)
            continue
        folder = folder if equals else rest.pop(0)
        if not Path(folder).is_dir():
            raise ConfigError(f"{flag} must be a folder, got {folder}, which is none")
        result.append(f"{_SEARCHED}{Path(folder).absolute()}]")
    return result


_SEARCHED = "hydra.searchpath=[file://"


def folders_of(arguments: Sequence[str]) -> list[str]:
    """Folders that --config-dir names, as whole paths."""
    found = [text for text in searching(arguments) if text.startswith(_SEARCHED)]
    return [text.removeprefix(_SEARCHED).removesuffix("]") for text in found]


def tell(name: str, asked: Sequence[Job]) -> None:
    """Says what may not be meant, once for all jobs."""
    for note in dict.fromkeys(note for job in asked for note in job.notes):
        print(f"{name}: note: {line(note)}", file=sys.stderr)


@contextmanager
def _own_words() -> Iterator[None]:
    """Keeps Hydra from a line of its own about a failed job, of which ours has told already."""
    usual: Any = JobReturn.return_value

    def told(job: JobReturn) -> Any:
        if job.status is JobStatus.FAILED:
            raise job._return_value
        return usual.fget(job)

    setattr(JobReturn, "return_value", property(told, usual.fset))  # noqa: B010
    try:
        yield
    finally:
        setattr(JobReturn, "return_value", usual)  # noqa: B010


def _show_sweep(folder: Path) -> None:
    """The best jobs of a sweep and the way to its page; nothing where no job has left anything."""
    from gpuspike.report.sweep_page import write_sweep_report
    from gpuspike.report.sweep_results import unlike
    from gpuspike.report.sweep_table import sweep_table
    from gpuspike.store.sweep_folder import FINISHED, jobs_expected

    with suppress(DataError):
        path, found = write_sweep_report(folder)
        console = Screen()
        for text in unlike(found):
            warn(text, console)
        if any(job.state == FINISHED for job in found):
            console.print(sweep_table(found, jobs_expected(folder), console.width))
        console.print(f"page     {path}", soft_wrap=True, highlight=False)


def _train(cfg: DictConfig, before: set[Path], together: Sweep | None, around: Sequence[str]) -> float:
    """One job; returns the mean validation accuracy, for sweepers.

    Args:
        before: folders that were there before Hydra made the job's.
        together: the sweep that it is part of.
        around: of the command line, what its overrides need: folders with files of one's own.
    """
    from gpuspike.runs.run import go_on, run
    from gpuspike.runs.sweep import run_once
    from gpuspike.store.run_folder import remove_empty

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        given = list(hydra_config.overrides.task)
        overrides = [*around, *given]
        config, console = to_config(beside_chip(cfg)), Screen()
        launcher = hydra_config.runtime.choices.get("hydra/launcher")
        side_by_side = launcher == "parallel" and hydra_config.mode is RunMode.MULTIRUN
        if side_by_side and config.backend.value in ("auto", "cuda"):
            take_turns(int(hydra_config.job.num))
        if config.resume is not None:
            summary = go_on(Path(config.resume), console, config, given)
        elif hydra_config.mode is RunMode.MULTIRUN:
            sweep = Path(hydra_config.runtime.cwd) / hydra_config.sweep.dir
            number = int(hydra_config.job.num)
            summary = run_once(
                config,
                experiment_name(config),
                sweep,
                folder,
                console,
                overrides,
                label=together.label(number, given) if together else "",
                of=together.count if together else None,
                live=hydra_config.runtime.choices.get("hydra/launcher") == "basic",
            )
        else:
            summary = run(config, experiment_name(config), folder, console, overrides)
    except Exception as error:
        if isinstance(error, MemoryError):
            error = too_large("the run", error)
        elif not isinstance(error, GpuspikeError):
            if (told := plugins.blamed(error)) is None:
                raise
            error = told
        if hydra_config.mode is not RunMode.MULTIRUN:
            refuse("gpuspike-train", error)  # here, since Hydra would print a line of its own
        print(f"gpuspike-train: job {hydra_config.job.num} failed: {line(str(error))}", file=sys.stderr)
        raise error from None  # Hydra keeps it until the other jobs are done
    except KeyboardInterrupt as stop:
        place = Path(cfg.get("resume") or folder)
        if stop.args or not any(place.glob("checkpoint*.npz")):
            raise
        raise KeyboardInterrupt(f"before its end; {_kept(place)}") from None
    finally:
        remove_empty(folder, before)  # the one that Hydra made, if nothing was written to it
    if summary["run"]["interrupted"]:
        done = summary["run"]["epochs_done"]
        raise KeyboardInterrupt(f"after epoch {done}; {_kept(config.resume or folder)}")
    return float(summary["accuracy"]["validation"]["mean"])


def _kept(folder: str | Path) -> str:
    """That a run can go on, and how."""
    config = HydraConfig.get()
    more = f"gpuspike-train {shlex.quote(f'resume={folder}')}"
    if config.mode is RunMode.MULTIRUN:
        more = f"the same command with {shlex.quote(f'hydra.sweep.dir={config.sweep.dir}')}"
    return f"its checkpoint is kept, {more} goes on"
