"""The configurations of `gpuspike-export`, `-import` and `-price`; their values stand in conf/exchange."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpuspike.config.composition import composed, register, typed
from gpuspike.config.files import conf_folder
from gpuspike.errors import ConfigError

T = TypeVar("T")


@dataclass
class ExportConfig:
    """One file to write."""

    run: str = ""
    file: str = ""
    time_unit: str = ""
    model_unit: str = ""
    dialect: str = "strict"
    replica: int | None = None


@dataclass
class ImportConfig:
    """One file to read."""

    file: str = ""
    to: str = ""
    time_unit: str = ""
    model_unit: str = ""
    dialect: str = "strict"
    bias_times: dict[str, list[float]] = field(default_factory=dict)
    capacitance: float | None = None
    dtype: str | None = None


@dataclass
class PriceConfig:
    """One recording to price."""

    spikes: str = ""
    synapses: str = ""
    prices: list[str] = field(default_factory=list)
    decision: str = "count"
    tau_syn: float | None = None
    duration: float | None = None
    n_samples: int | None = None
    answer: str = ""


WORDS: dict[type[Any], tuple[str, ...]] = {
    ExportConfig: ("run", "file"),
    ImportConfig: ("file", "to"),
    PriceConfig: ("spikes",),
}
"""Keys that are given as words without the key, in their order; all must be."""


def schema_name(name: str) -> str:
    """As conf/exchange/NAME.yaml asks for it."""
    return f"{name}_schema"


def asked(overrides: Sequence[str], multirun: bool, name: str, schema: type[T]) -> list[T]:
    """What a command line asks for; arguments as for `config.jobs`.

    Args:
        name: of the file in conf/exchange.

    Raises:
        ConfigError: a typo, a wrong type, or a word that is missing.
    """
    register(schema_name(name), schema)

    def made(cfg: Any) -> T:
        config = typed(cfg, schema)
        if missing := [key for key in WORDS[schema] if not getattr(config, key)]:
            words = " ".join(word.upper() for word in WORDS[schema])
            keys = " and ".join(missing)
            raise ConfigError(f"{keys} must be given, gpuspike-{name} {words}, got none")
        return config

    return composed(overrides, multirun, conf_folder() / "exchange", name, schema, made)


_WITH_VALUE = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd")
"""Flags of Hydra's that a word belongs to."""


def keyed(arguments: Sequence[str], schema: type[Any]) -> list[str]:
    """Arguments in which words without a key have the keys that they stand for.

    Raises:
        ConfigError: more words than there are keys.
    """
    left, found = list(WORDS[schema]), []
    for before, argument in itertools.pairwise(["", *arguments]):
        if argument.startswith("-") or "=" in argument or before in _WITH_VALUE:
            found.append(argument)
            continue
        if not left:
            words = " and ".join(WORDS[schema])
            raise ConfigError(f"{words} are given as words, the rest as KEY=VALUE, got {argument}")
        escaped = argument.replace("\\", "\\\\").replace("'", "\\'")
        found.append(f"{left.pop(0)}='{escaped}'")
    return found


def unit(name: str, text: str) -> str | float | None:
    """A unit of time as the commands have it: a name, or a number of seconds; None for no text.

    Raises:
        ConfigError: no text, where one has to be given.
    """
    if not text and name == "time_unit":
        raise ConfigError(
            "time_unit must be given, s, ms, us, ns or a number of seconds: NIR files do not say it, got none"
        )
    try:
        return float(text) if text else None
    except ValueError:
        return text
