"""The configuration of `gpuspike-need`; its values stand in conf/need/need.yaml."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuspike.config.composition import composed, register, typed
from gpuspike.config.evaluate import SplitName
from gpuspike.config.files import conf_folder
from gpuspike.errors import ConfigError, GpuspikeError, together
from gpuspike.substrate.axes import axis

SCHEMA = "need_schema"

MOST_SEEDS = 1000
"""At one value: more would never end."""


class TrainName(enum.Enum):
    """What a network knows of the chip that it is examined on."""

    loop = "loop"
    population = "population"
    none = "none"


@dataclass
class NeedConfig:
    """One question."""

    accuracy: float = math.nan  # none given
    distortion: list[str] = field(default_factory=list)
    train: TrainName = TrainName.loop
    run: str = ""
    split: SplitName = SplitName.test
    replicas: int = 5
    seeds: int = 20
    resolution: float = 1.1
    map: bool = False
    values: list[Any] = field(default_factory=list)  # two lists of numbers
    folder: str = ""


def question(overrides: Sequence[str]) -> NeedConfig:
    """What a command line asks.

    Args:
        overrides: keys of `NeedConfig` alone; distortion=a,b is distortion=[a,b].

    Raises:
        ConfigError: a wrong type or impossible values, all of them.
    """
    register(SCHEMA, NeedConfig)
    given = [_as_list(text) for text in overrides]
    (config,) = composed(given, False, conf_folder() / "need", "need", NeedConfig, _checked)
    return config


def _as_list(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}=[{value}]" if key == "distortion" and value and not value.startswith("[") else text


def _checked(cfg: Any) -> NeedConfig:
    config = typed(cfg, NeedConfig)
    if mistakes := list(_mistakes(config)):
        raise together(mistakes)
    return config


def _mistakes(config: NeedConfig) -> list[GpuspikeError]:
    found: list[GpuspikeError] = []

    def refuse(text: str) -> None:
        found.append(ConfigError(text))

    if math.isnan(config.accuracy):
        refuse("accuracy must be given, a share: accuracy=0.95 for example, got none")
    elif not 0.0 < config.accuracy < 1.0:
        example = f", {config.accuracy:g} % is {config.accuracy / 100:g}" if 1 < config.accuracy < 100 else ""
        refuse(f"accuracy must be a share above 0 and below 1, got {config.accuracy:g}{example}")
    if not config.distortion:
        refuse("distortion must name what a chip may do, distortion=weight_bits for example, got none")
    for name in config.distortion:
        try:
            axis(name)
        except ConfigError as error:
            found.append(error)
    if len(set(config.distortion)) < len(config.distortion):
        refuse(f"distortion must name different ones, got {', '.join(config.distortion)}")
    if config.split is SplitName.train:
        refuse("split must be test or validation, got train, which the networks have learnt")
    if not 2 <= config.replicas <= MOST_SEEDS:
        refuse(f"replicas must be from 2, which have a spread, to {MOST_SEEDS}, got {config.replicas}")
    if not config.replicas <= config.seeds <= MOST_SEEDS:
        refuse(f"seeds must be from replicas={config.replicas} to {MOST_SEEDS}, got {config.seeds}")
    if not 1.0 < config.resolution <= 4.0:
        refuse(f"resolution must be above 1 and at most 4, got {config.resolution:g}")
    if config.map and len(config.distortion) != 2:
        refuse(f"map=true draws two distortions, got {len(config.distortion)}")
    if config.values and not (config.map and len(config.values) == 2 and all(map(_numbers, config.values))):
        refuse(
            f"values must be two lists of different numbers, two at least, for map=true, got {config.values}"
        )
    if config.run and config.train is not TrainName.loop:
        refuse(f"train={config.train.value} trains, run={config.run} is trained: leave one of them out")
    return found


def _numbers(values: Any) -> bool:
    """Whether it is a list of at least two different numbers."""
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    return numbers and len(set(values)) == len(values) > 1
