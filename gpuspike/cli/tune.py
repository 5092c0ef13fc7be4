"""`gpuspike-tune`: from the command line and conf/tune to a search."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from gpuspike import plugins
from gpuspike.cli.command import command
from gpuspike.config.files import conf_folder
from gpuspike.config.hints import explained, not_of
from gpuspike.config.keys import key_of
from gpuspike.config.schema import Config, Job, jobs
from gpuspike.errors import ConfigError, together
from gpuspike.screen import LINE, Screen
from gpuspike.strangers import yaml_text

if TYPE_CHECKING:
    import optuna

    from gpuspike.runs.tune import Search

HELP = """gpuspike-tune searches for the values with the best validation accuracy.

    gpuspike-tune [tune=NAME] [tune.KEY=VALUE ...] [KEY=VALUE ...]

tune       a file of conf/tune ({names}), or the path of a YAML file of your own
tune.KEY   trials, storage, name, folder, prune, warm_up_trials, warm_up_epochs, seed, parameters
KEY        any value of gpuspike-train, the same in every trial: replicas=3 training.epochs=30

The same command goes on with a search that was stopped; the same storage on several machines shares one."""
SHOWN = 5
"""Trials in the final table."""


def tune() -> None:
    """`gpuspike-tune`: see README.md."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(names=", ".join(_names())))
        return
    with command("gpuspike-tune", "a trial"):
        _tune(arguments)


def _tune(arguments: Sequence[str]) -> None:
    if util.find_spec("optuna") is None:
        raise ConfigError("gpuspike-tune needs the package optuna: pip install 'gpuspike[sweep]'")
    from gpuspike.runs import tune as tuning
    from gpuspike.runs.experiment import build
    from gpuspike.runs.sweep import check_sweep
    from gpuspike.runs.values import check_values

    search, others = read(plugins.given(arguments))
    tuning.check(search)
    for text in others:
        if (key := key_of(text)) in search.parameters:
            raise ConfigError(f"{key} is searched by tune.parameters, so that no trial would have {text}")
    folder = Path(search.folder or f"outputs/tune/{search.name}")

    def compose(given: Sequence[str]) -> Job:
        (job,) = jobs([*search.overrides, *others, *given], False, check_values)
        return job

    for given in tuning.corners(search):
        job = compose(given)
        build(job.config)
        if job.config.resume is not None:
            raise ConfigError("gpuspike-tune goes on by itself, got resume; leave it out")
    check_sweep(folder)
    console = Screen()
    console.print(f"search   {search.trials} trial{'' if search.trials == 1 else 's'}, {folder}", **LINE)
    study = tuning.tune(search, compose, folder, console)
    _show(study, [*search.overrides, *others], console)


def read(arguments: Sequence[str]) -> tuple[Search, list[str]]:
    """The search that a command line asks for, and the overrides that belong to its trials.

    Raises:
        ConfigError: a file that cannot be read, an unknown key or a mistyped value.
    """
    from gpuspike.runs.tune import Search

    ours = [text for text in arguments if text.startswith(("tune=", "tune."))]
    others = [text for text in arguments if text not in ours]
    for text in arguments:
        if text.startswith("-") or "=" not in text:
            raise ConfigError(f"gpuspike-tune takes KEY=VALUE, got {text}")
        if key_of(text).startswith(("hydra.", "hydra/")):
            raise ConfigError(f"gpuspike-tune has folders of its own, set tune.folder instead of {text}")
        mine = {item.name: f"tune.{item.name}" for item in fields(Search)}
        if text not in ours and (error := not_of(text, mine, Config)):
            raise error
    names = [text.removeprefix("tune=") for text in ours if text.startswith("tune=")]
    name = names[-1] if names else "yin_yang"
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else conf_folder() / "tune" / f"{name}.yaml"
    if own and not path.is_file():
        raise ConfigError(f"tune: there is no file {name}, seen from {Path.cwd()}")
    if not path.is_file():
        raise ConfigError(f"tune must be one of {', '.join(_names())}, or a YAML file, got {name}")
    try:
        dotted = [text.removeprefix("tune.") for text in ours if text.startswith("tune.")]
        of_file = OmegaConf.load(io.StringIO(yaml_text(path)))
        told = OmegaConf.from_dotlist(dotted)
        wrong = [*_misshapen(of_file, name), *_misshapen(told, "the command line")]
        search = None if wrong else OmegaConf.to_object(OmegaConf.merge(Search, of_file, told))
    except Exception as error:  # the YAML reader has errors of its own
        told = explained(error, Search)
        for key in (item.name for item in fields(Search)):
            told = re.sub(rf"^{key}\b|(?<=did you mean ){key}\b", f"tune.{key}", told)
        raise ConfigError(told if told.startswith("tune.") else f"cannot use tune={name}: {told}") from None
    if wrong:
        raise together(map(ConfigError, wrong))
    assert isinstance(search, Search)
    search.overrides = _without_plugins(search.overrides, name)
    return search, others


def _without_plugins(overrides: Sequence[str], name: str) -> list[str]:
    """Overrides of a search's file but for its plug-ins, which the command line must give.

    Raises:
        ConfigError: one that it does not give, or another version of one.
    """
    kept = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") != plugins.KEY:
            kept.append(text)
            continue
        try:
            plugins.require(plugins.files(value), f"tune={name} needs")
        except plugins.NotGivenError as error:
            raise ConfigError(
                f"{error} on the command line, since a file imports nothing by itself"
            ) from None
    return kept


def _misshapen(given: ListConfig | DictConfig, place: str) -> Iterable[str]:
    """What is of another form than a search has, for which OmegaConf's words are those of its own types."""
    values: Any = OmegaConf.to_container(given)
    if not isinstance(values, dict):
        yield f"tune={place} must hold keys and their values, trials: 40 and so on, got {values}"
        return
    for key in ("name", "folder", "storage"):
        if isinstance(text := values.get(key), list | dict):
            yield f"tune.{key} must be text, got {text}"
    overrides, parameters = values.get("overrides", []), values.get("parameters", {})
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        yield f"tune.overrides must be a list of texts, [experiment=yin_yang, replicas=3], got {overrides}"
    if not isinstance(parameters, dict):
        yield f"tune.parameters must have a line for each key that is searched, {_SEARCHED}, got {parameters}"
        return
    for key, item in parameters.items():
        where = f"tune.parameters.{key}"
        if not isinstance(item, dict):
            yield f"{where} must say what is searched, {_SEARCHED}, got {item}"
            continue
        if not isinstance(choices := item.get("choices", []), list | None):
            yield f"{where}.choices must be a list, got {choices}"
        for end in ("low", "high"):
            number = item.get(end)
            if not isinstance(number, float | int | None) or isinstance(number, bool):
                yield f"{where}.{end} must be a number, got {number}"
        for choice in ("log", "integer"):
            if not isinstance(told := item.get(choice, False), bool):
                yield f"{where}.{choice} must be true or false, got {told}"


_SEARCHED = "optimizer.learning_rate: {low: 0.001, high: 0.1} or training.batch_size: {choices: [50, 100]}"


def _names() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "tune").glob("*.yaml"))


def _show(study: optuna.Study, overrides: Sequence[str], console: Console) -> None:
    """The best trials, and the command that trains with the best values."""
    from optuna.trial import TrialState

    from gpuspike.runs.tune import overrides_of

    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: -(trial.value or 0.0))
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    done = f"{len(complete)} trial{'' if len(complete) == 1 else 's'} complete"
    table = Table(title=f"{study.study_name}: {done}, {pruned} pruned")
    table.add_column("trial", justify="right")
    table.add_column("validation accuracy", justify="right")
    table.add_column("values")
    for trial in complete[:SHOWN]:
        values = " ".join(overrides_of(trial))
        table.add_row(str(trial.number), f"{100 * (trial.value or 0.0):.2f} %", values)
    console.print(table)
    if complete:
        both = [*overrides, *overrides_of(complete[0])]
        last = {key_of(text): text for text in both}  # of a key given twice
        console.print(f"gpuspike-train {shlex.join(last.values())}", soft_wrap=True)
