"""The configuration of `gpuspike-evaluate`; its values stand in conf/evaluate/evaluate.yaml."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuspike.config.composition import composed, conf_folder, register, typed
from gpuspike.config.schema import BackendName
from gpuspike.errors import ConfigError

SCHEMA = "evaluate_schema"


class SplitName(enum.Enum):
    """Parts of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


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


def evaluations(overrides: Sequence[str], multirun: bool) -> list[EvaluateConfig]:
    """The evaluations that a command line asks for; arguments as for `config.jobs`.

    Raises:
        ConfigError: a typo, a wrong type or an impossible value in any of them.
    """
    register(SCHEMA, EvaluateConfig)
    folder = conf_folder() / "evaluate"
    return composed(overrides, multirun, folder, "evaluate", EvaluateConfig, _to_evaluation)


def _to_evaluation(cfg: Any) -> EvaluateConfig:
    config = typed(cfg, EvaluateConfig)
    if not config.run:
        raise ConfigError("run must be the folder of a finished run, gpuspike-evaluate run=FOLDER, got none")
    if not config.prices:
        raise ConfigError("prices must name at least one chip, got none")
    if (config.chip_seed or 0) < 0 or config.chips < 0:
        raise ConfigError(f"chip_seed and chips must be 0 or more, got {config.chip_seed} and {config.chips}")
    if config.name != config.name.strip(". ") or set(config.name) & set("/\\\0"):
        raise ConfigError(f"name must be that of a file, got {config.name!r}")
    return config


def as_lists(arguments: Sequence[str]) -> list[str]:
    """Arguments in which prices=a,b has become prices=[a,b]: a list of chips, not a sweep over them."""
    return [
        f"prices=[{value}]" if key == "prices" and value and not value.startswith("[") else argument
        for argument in arguments
        for key, _, value in [argument.partition("=")]
    ]
