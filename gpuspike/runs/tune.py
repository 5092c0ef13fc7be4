"""Search for good values with Optuna: trials are jobs of a sweep, pruned by their validation accuracy."""

from __future__ import annotations

import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from gpuspike.config.schema import Job
from gpuspike.errors import ConfigError, DivergedError, GpuspikeError, OutputError
from gpuspike.runs.sweep import run_once
from gpuspike.screen import LINE, discreet
from gpuspike.store import own_data
from gpuspike.store.identity import flat, to_values, within

if TYPE_CHECKING:
    import optuna

HEARTBEAT = 30
"""Seconds between two signs of life of a trial; after four without one, another process takes it over."""

PATIENCE = 10
"""Seconds that a server may take to answer."""

ATTEMPTS = 5
"""At making the tables of a study that other processes begin at the same time."""


SPLIT = "validation"
"""What a search goes by; the test samples are for the end."""


@dataclass
class Parameter:
    """A value to search: one of `choices`, or a number from `low` to `high`."""

    low: float | None = None
    high: float | None = None
    log: bool = False  # even on a logarithmic scale
    integer: bool = False
    choices: list[Any] | None = None


@dataclass
class Search:
    """A study: what is searched, how long, and where its results are kept."""

    name: str  # of the study and of its folder
    parameters: dict[str, Parameter]  # by their key in a configuration
    overrides: list[str] = field(default_factory=list)  # of every trial
    trials: int = 50  # to finish or prune, over all processes that share the study
    folder: str | None = None  # null: outputs/tune/ and the name
    storage: str | None = None  # URL of a database; null: SQLite in the study's folder
    prune: bool = True  # stop a trial that is worse than the median of the others at the same epoch
    warm_up_trials: int = 5  # that are never pruned
    warm_up_epochs: int = 10  # of a trial before it may be pruned
    seed: int | None = None  # of the sampler; null: another one each time


def check(search: Search) -> None:
    """Makes sure that a search can be made.

    Raises:
        ConfigError: a range or number that cannot be used.
    """
    if not search.parameters:
        raise ConfigError("tune.parameters must name a value to search, got none")
    for name in ("trials", "warm_up_trials", "warm_up_epochs"):
        least = 1 if name == "trials" else 0
        if getattr(search, name) < least:
            raise ConfigError(f"tune.{name} must be at least {least}, got {getattr(search, name)}")
    for key, item in search.parameters.items():
        where = f"tune.parameters.{key}"
        if item.choices is not None:
            if not item.choices or item.low is not None or item.high is not None:
                told = {name: value for name, value in vars(item).items() if value not in (None, False)}
                raise ConfigError(f"{where} needs choices, or low and high, got {told}")
            continue
        low, high = item.low, item.high
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"{where} needs choices, or low below high, got low={low} and high={high}")
        if item.log and low <= 0.0:
            raise ConfigError(f"{where} must be positive where log is true, got low={low}")
        if item.integer and not (low.is_integer() and high.is_integer() and (not item.log or low >= 1)):
            raise ConfigError(f"{where} must run between integers, got low={low} and high={high}")


def corners(search: Search) -> list[list[str]]:
    """Overrides that visit both ends or all choices of every parameter, one parameter at a time."""
    first = {key: _ends(item)[0] for key, item in search.parameters.items()}
    return [
        [f"{name}={value if name == key else start}" for name, start in first.items()]
        for key, item in search.parameters.items()
        for value in _ends(item)
    ]


def _ends(item: Parameter) -> list[Any]:
    if item.choices is not None:
        return item.choices
    ends = [item.low or 0.0, item.high or 0.0]
    return [int(end) for end in ends] if item.integer else ends


def tune(
    search: Search, compose: Callable[[Sequence[str]], Job], folder: Path, console: Console
) -> optuna.Study:
    """Runs trials until the study has as many as it should; what is stopped or killed goes on the next time.

    Args:
        compose: makes a job of a trial's overrides.
        folder: the study's.

    Raises:
        GpuspikeError: a storage that cannot be used, or a trial whose folder cannot be written.
        KeyboardInterrupt: the user has stopped a trial.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    study = _open(search, folder)
    finished = bool(study.get_trials(deepcopy=False, states=done))
    _refuse_others(study, search, compose(corners(search)[0]), finished=finished)

    def objective(trial: optuna.Trial) -> float:
        try:
            given = [f"{key}={_suggest(trial, key, item)}" for key, item in search.parameters.items()]
        except ValueError as error:  # the study is an older one, with other choices
            reason = " ".join(str(error).split())
            raise ConfigError(f"the study {search.name} is another one: {reason}; change tune.name") from None
        trial.set_user_attr(_GIVEN, given)
        job = compose(given)

        def watch(line: Mapping[str, Any]) -> None:
            trial.report(float(np.mean(line["validation_accuracy"])), line["epoch"])
            if search.prune and trial.should_prune():
                raise optuna.TrialPruned

        place, label = folder / f"trial_{trial.number}", f"trial {trial.number}  {' '.join(given)}"
        try:
            summary = run_once(
                job.config,
                job.experiment,
                folder,
                place,
                console,
                job.overrides,
                watch,
                label=label,
                split=SPLIT,
            )
        except DivergedError as error:  # no reason to end the search: these values are no good
            console.print(f"trial {trial.number}  {error}", **LINE)
            raise optuna.TrialPruned from None
        if summary["run"]["interrupted"]:
            study.enqueue_trial(trial.params)  # the next search begins with it
            raise KeyboardInterrupt(
                f"in trial {trial.number}; its checkpoint is kept, the same command goes on"
            )
        return float(summary["accuracy"][SPLIT]["mean"])

    def said(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state == TrialState.PRUNED and trial.last_step is not None:
            console.print(f"trial {trial.number}  pruned after epoch {trial.last_step}")

    left = search.trials - len(study.get_trials(deepcopy=False, states=done))
    if left > 0:
        until = optuna.study.MaxTrialsCallback(search.trials, states=done)
        with _speaking_of(search):
            study.optimize(objective, n_trials=left, callbacks=[said, until])
    return study


def overrides_of(trial: optuna.trial.FrozenTrial) -> list[str]:
    """What a trial has given to its run."""
    return trial.user_attrs.get(_GIVEN, [f"{key}={value}" for key, value in trial.params.items()])


_GIVEN = "given"
"""Where a trial keeps that in the study; older ones have not."""

_DIGITS = 5
"""Of a number that is tried: what a reader can take along, and more than a search can tell apart."""


@contextmanager
def _speaking_of(search: Search) -> Iterator[None]:
    """What a database, its driver and its server say, as an error of ours."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except GpuspikeError:
        raise
    except Exception as error:  # where a server fails, Optuna's own clearing up may fail on that
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, SQLAlchemyError):
            inner = inner.__cause__ or inner.__context__
        if inner is None:
            raise
        raise OutputError(
            f"the storage {_address(search)} of the study {search.name} has failed, the same command goes on "
            f"when it is back: {_words(inner)}"
        ) from None


def _words(error: BaseException) -> str:
    """What an error says, without SQLAlchemy's link and the statement that failed."""
    return discreet(" ".join(str(error).split("[SQL:")[0].split("(Background on")[0].split()))


def _address(search: Search) -> str:
    """Where a study is kept, without a password."""
    return "in the study's folder" if search.storage is None else discreet(search.storage)


def _open(search: Search, folder: Path) -> optuna.Study:
    import optuna

    try:
        url, options = search.storage, {}
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            url, options = _in_folder(folder / "study.db")
        else:
            options = _patience(url)
        with warnings.catch_warnings():  # the heartbeat's, which is called experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = _storage(url, options)
        pruner = optuna.pruners.MedianPruner(search.warm_up_trials, search.warm_up_epochs)
        return optuna.create_study(
            storage=storage,
            study_name=search.name,
            sampler=optuna.samplers.TPESampler(seed=search.seed),
            pruner=pruner if search.prune else optuna.pruners.NopPruner(),
            direction="maximize",
            load_if_exists=True,
        )
    except GpuspikeError:
        raise
    except Exception as error:  # a database, its driver and its server have many errors of their own
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = _words(cause or error)
        raise OutputError(
            f"cannot use the storage {_address(search)} of the study {search.name}: {reason}"
        ) from None


def _refuse_others(study: optuna.Study, search: Search, job: Job, *, finished: bool) -> None:
    """Refuses to go on where a finished trial has another of the values that are not searched.

    Raises:
        ConfigError: the first of them that differs.
    """
    apart = ("name", "resume", "tracking", "backend", *search.parameters)
    values = {name: str(value) for name, value in flat(to_values(job.config)) if not within(name, apart)}
    values |= {
        f"dataset.{name} with the content": held for name, held in own_data.digests(job.config).items()
    }
    before = study.user_attrs.get(_VALUES)
    if before is None or not finished:
        study.set_user_attr(_VALUES, values)
        return
    for name, value in values.items():
        if before.get(name, value) != value:
            raise ConfigError(
                f"the study {search.name} has trials of {name}={before[name]}, got {value}: "
                f"give tune.name=... for another one"
            )


_VALUES = "values"
"""Where a study keeps what all its trials have in common; older ones have not."""


def _storage(url: str, options: dict[str, Any]) -> optuna.storages.RDBStorage:
    """The database, with its tables, which another process may be making at the same time."""
    import optuna

    attempt = 1
    while True:
        try:
            return _storage_class()(
                url,
                options,
                heartbeat_interval=HEARTBEAT,
                grace_period=4 * HEARTBEAT,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            )
        except Exception as error:  # each driver has its own for a table that is there already
            if attempt == ATTEMPTS or "already exists" not in f"{error} {error.__cause__}":
                raise
        time.sleep(0.2 * attempt)
        attempt += 1


def _in_folder(path: Path) -> tuple[str, dict[str, Any]]:
    """Address and options of a file, in whose address ?, % and # would have a meaning."""
    place = path.absolute()
    return "sqlite:///study.db", {"creator": lambda: sqlite3.connect(place, check_same_thread=False)}


def _patience(url: str) -> dict[str, Any]:
    """Options with which a server that does not answer is given up, where its driver is one that is known."""
    from sqlalchemy.engine import make_url

    address = make_url(url)
    knows = address.get_driver_name() in ("psycopg", "psycopg2", "pymysql", "mysqldb")
    return {"connect_args": {"connect_timeout": PATIENCE}} if knows and not address.query else {}


def _storage_class() -> type[optuna.storages.RDBStorage]:
    import optuna

    class Storage(optuna.storages.RDBStorage):
        """One whose signs of life, given by a thread of their own, may fail: the trial finds out itself."""

        def record_heartbeat(self, trial_id: int) -> None:
            with suppress(Exception):
                super().record_heartbeat(trial_id)

    return Storage


def _suggest(trial: optuna.Trial, key: str, item: Parameter) -> Any:
    if item.choices is not None:
        return trial.suggest_categorical(key, item.choices)
    low, high = _ends(item)
    if item.integer:
        return trial.suggest_int(key, low, high, log=item.log)
    value = trial.suggest_float(key, low, high, log=item.log)
    # As many more as both ends share.
    shared = math.floor(math.log10(max(abs(low), abs(high)) / (high - low))) if high > low else 0
    return min(max(float(f"{value:.{_DIGITS + max(shared, 0)}g}"), low), high)
