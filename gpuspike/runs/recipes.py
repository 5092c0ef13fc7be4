"""The training that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from gpuspike.config.schema import Config, TrainingConfig
from gpuspike.datasets.encoding import pixel_latency
from gpuspike.datasets.splits import Dataset
from gpuspike.errors import ConfigError, GpuspikeError, together
from gpuspike.training.augmentation import (
    CHANGES,
    WARPS,
    RandomShift,
    RandomWarp,
    WithOpposites,
    out_of_range,
)
from gpuspike.training.fit import Recipe, leaf_values
from gpuspike.training.leaf import Leaf
from gpuspike.training.losses import LOSSES, Loss
from gpuspike.training.optimizers import OPTIMIZERS, Optimizer

L = TypeVar("L", bound=Leaf)


def recipe_of(config: Config) -> Recipe:
    """The training that a configuration describes."""
    return replace(frame_of(config), loss=loss_of(config), optimizer=optimizer_of(config))


def frame_of(config: Config) -> Recipe:
    """The same, but with the usual loss and optimiser."""
    values: dict[str, Any] = vars(config.training) | vars(config.optimizer)
    values |= {"schedule": config.optimizer.schedule.value, "silence": config.training.silence.value}
    own = [item.name for item in fields(Recipe) if item.name not in ("loss", "optimizer")]
    return Recipe(**{name: values[name] for name in own})


def loss_of(config: Config) -> Loss:
    """The loss that a configuration describes."""
    return _made(LOSSES[config.training.loss], vars(config.training))


def optimizer_of(config: Config) -> Optimizer:
    """The optimiser that a configuration describes."""
    return _made(OPTIMIZERS[config.optimizer.name], vars(config.optimizer))


def _made(leaf: type[L], values: Mapping[str, Any]) -> L:
    return leaf(**{name: values[name] for name in leaf_values(leaf())})


def warps(training: TrainingConfig) -> bool:
    """Whether training images are turned, zoomed, sheared, bent or mirrored."""
    return any(getattr(training, key) for key in WARPS)


def check_augmentation(config: Config, side: int | None) -> None:
    """Refuses changes of training images that cannot be, all at once.

    Args:
        side: pixels a side of the samples; 0: they are no square images, None: that is not known.

    Raises:
        ConfigError: samples that are no square images of pixels, or inputs that are not theirs alone.
        ValueRangeError: a change that is too large, or negative.
    """
    training, repeats = config.training, config.model.input_repeats
    asked = {key: getattr(training, key) for key in CHANGES if getattr(training, key)}
    wrong: list[GpuspikeError] = [*out_of_range(asked, side or None)]
    given, several = ", ".join(f"training.{key}={value}" for key, value in asked.items()), len(asked) > 1
    if asked and side == 0:
        needs = f"{'need' if several else 'needs'} square images of pixels"
        wrong.append(ConfigError(f"{given} {needs}, got dataset.name={config.dataset.name}"))
    if asked and repeats > 1:
        moves = f"{'move' if several else 'moves'} inputs that are pixels"
        wrong.append(ConfigError(f"{given} {moves}, got model.input_repeats={repeats}"))
    if wrong:
        raise together(wrong)


def augmentation_of(config: Config, dataset: Dataset) -> RandomShift | RandomWarp | WithOpposites | None:
    """How training images are changed, None for not at all; raises as `check_augmentation`."""
    data, training, unit = config.dataset, config.training, config.model.tau_syn
    rows, columns = dataset.image_shape or (0, 0)
    pixels = rows == columns and dataset.train.features.dtype == np.uint8
    check_augmentation(config, rows if pixels else 0)
    if not any(getattr(training, key) for key in CHANGES):
        return None
    early, late, silent = data.t_early * unit, data.t_late * unit, data.silent_black
    times = pixel_latency(data.full_scale, early, late, silent_black=silent)
    if warps(training):
        values = {key: getattr(training, key) for key in WARPS}
        change = RandomWarp(rows, times, training.max_shift, **values)
    else:
        change = RandomShift(rows, training.max_shift, times[0])
    return WithOpposites(change, times) if data.opposites else change
