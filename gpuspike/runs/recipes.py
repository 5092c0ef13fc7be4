"""The training that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from gpuspike.config.schema import Config
from gpuspike.training.fit import Recipe, leaf_values
from gpuspike.training.leaf import Leaf
from gpuspike.training.losses import LOSSES
from gpuspike.training.optimizers import OPTIMIZERS

L = TypeVar("L", bound=Leaf)


def recipe_of(config: Config) -> Recipe:
    """The training that a configuration describes."""
    training, optimizer = vars(config.training), vars(config.optimizer)
    values: dict[str, Any] = training | optimizer | {"schedule": config.optimizer.schedule.value}
    values["silence"] = config.training.silence.value
    values["loss"] = _made(LOSSES[config.training.loss], training)
    values["optimizer"] = _made(OPTIMIZERS[config.optimizer.name], optimizer)
    return Recipe(**{field.name: values[field.name] for field in fields(Recipe)})


def _made(leaf: type[L], values: Mapping[str, Any]) -> L:
    return leaf(**{name: values[name] for name in leaf_values(leaf())})
