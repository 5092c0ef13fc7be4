"""The configuration of `gpuspike-evaluate`; its values stand in conf/evaluate/evaluate.yaml."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from gpuspike.config.composition import composed, register, typed
from gpuspike.config.files import conf_folder
from gpuspike.config.schema import BackendName
from gpuspike.datasets import DATASETS
from gpuspike.errors import ConfigError, together

SCHEMA = "evaluate_schema"


class SplitName(enum.Enum):
    """Parts of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


@dataclass
class DataConfig:
    """Where the run's data are now, if they have moved; `data_config` adds the files of other data sets."""

    path: str = ""  # "": where the run says


def data_config() -> DataConfig:
    """The same with the files of all data sets registered by now."""
    names = dict.fromkeys(name for part in DATASETS for name in DATASETS[part].files if name != "path")
    own = [(name, str, field(default="")) for name in names]
    return make_dataclass("DataConfig", own, bases=(DataConfig,))()


@dataclass
class EvaluateConfig:
    """One evaluation."""

    run: str = ""
    split: SplitName = SplitName.test
    prices: list[str] = field(default_factory=list)
    substrate: str = ""
    chip_seed: int | None = None
    chips: int = 0
    backend: BackendName = BackendName.auto
    name: str = ""
    plugin: list[str] = field(default_factory=list)
    dataset: DataConfig = field(default_factory=data_config)


def evaluations(overrides: Sequence[str], multirun: bool) -> list[EvaluateConfig]:
    """The evaluations that a command line asks for; arguments as for `config.jobs`.

    Raises:
        ConfigError: a typo, a wrong type or an impossible value in any of them.
    """
    register(SCHEMA, EvaluateConfig)
    folder = conf_folder() / "evaluate"
    made = functools.partial(_to_evaluation, typed_in=overrides)
    return composed(overrides, multirun, folder, "evaluate", EvaluateConfig, made)


def _to_evaluation(cfg: Any, typed_in: Sequence[str]) -> EvaluateConfig:
    config = typed(cfg, EvaluateConfig)
    if mistakes := [ConfigError(text) for text in _mistakes(config, typed_in)]:
        raise together(mistakes)
    return config


def _mistakes(config: EvaluateConfig, typed_in: Sequence[str]) -> Iterator[str]:
    if not config.run:
        yield "run must be the folder of a finished run, gpuspike-evaluate run=FOLDER, got none"
    if not config.prices:
        yield "prices must name at least one chip, got none"
    if (config.chip_seed or 0) < 0:
        yield f"chip_seed must be 0 or more, got {config.chip_seed}"
    if config.chips < 0 or (config.chips == 0 and "chips=0" in typed_in):
        yield f"chips must be 1 or more, or left out for the run's own chips, got {config.chips}"
    if config.name != config.name.strip(". ") or set(config.name) & set("/\\\0"):
        yield f"name must be that of a file, got {config.name!r}"


def as_lists(arguments: Sequence[str]) -> list[str]:
    """Arguments in which prices=a,b has become prices=[a,b]: a list of chips, not a sweep over them."""
    return [
        f"prices=[{value}]" if key == "prices" and value and not value.startswith("[") else argument
        for argument in arguments
        for key, _, value in [argument.partition("=")]
    ]
