"""From features to the spike times that a network is given, as a configuration says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.config.schema import Config, DatasetConfig
from gpuspike.datasets import Dataset
from gpuspike.datasets import samples as data_sets
from gpuspike.datasets.encoding import latency, pixel_latency
from gpuspike.errors import ConfigError

Array = NDArray[Any]


def dataset_of(config: DatasetConfig) -> Dataset:
    """The data set that a configuration names.

    Raises:
        ConfigError: opposites of spike times.
    """
    found = data_sets.load(data_sets.named(config.name, vars(config)))
    if config.opposites and found.spike_times:
        raise ConfigError(
            f"opposites=true needs values in [0, 1] or pixels, and the data set {found.name} has spike times"
        )
    return found


def inputs_of_value(config: Config) -> int:
    """Inputs that a feature is sent to."""
    return config.model.input_repeats * (2 if config.dataset.opposites else 1)


def encoded(
    features: Array, data: DatasetConfig, unit: float, dtype: str, *, times: bool, repeats: int = 1
) -> Array:
    """(n_samples, n_features) features or pixels as (n_samples, n) spike times, those of a feature together.

    Args:
        data: says how: with opposites each value v is followed by 1 - v, and a pixel by its negative.
        unit: tau_syn, in the network's unit of time.
        times: the features are spike times already, in tau_syn.
        repeats: how often each of them comes.
    """
    early, late = data.t_early * unit, data.t_late * unit
    if times:
        found = (features * unit).astype(dtype)
    elif features.dtype == np.uint8:
        table = pixel_latency(data.full_scale, early, late, silent_black=data.silent_black).astype(dtype)
        found = np.stack([table, table[::-1]], axis=1)[features] if data.opposites else table[features]
    else:
        both = np.stack([features, 1.0 - features], axis=-1) if data.opposites else features
        found = latency(both, early, late).astype(dtype)
    if found.ndim > features.ndim:  # the opposites
        found = found.reshape(len(features), 2 * features.shape[1])
    return found if repeats == 1 else np.repeat(found, repeats, axis=1)
