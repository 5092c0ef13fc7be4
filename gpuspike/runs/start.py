"""A run that begins with the networks of another one, instead of networks that are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpuspike.config.schema import Config, read_config
from gpuspike.errors import ConfigError, of_key
from gpuspike.network.delays import learnt
from gpuspike.network.layers import Layer
from gpuspike.network.parameters import Parameters
from gpuspike.store import checkpoint
from gpuspike.store.run_folder import CHECKPOINT, CONFIG


def check_start(config: Config, layers: Sequence[Layer]) -> None:
    """Makes sure that the networks of `config.start` can be what a run begins with.

    Raises:
        GpuspikeError: no such run, another network, or one whose constants would be lost.
    """
    _begun(config, layers)


def begin_with(parameters: Parameters, config: Config, layers: Sequence[Layer]) -> None:
    """Puts the networks of `config.start` in the place of those that were drawn.

    A single network is that of every replica. Constants and delays that the other run has not learnt begin as
    they would have.

    Raises:
        GpuspikeError: as `check_start`.
    """
    begun = _begun(config, layers).arrays()
    for name, array in parameters.arrays().items():
        if name in begun:
            array[...] = begun[name]


def _begun(config: Config, layers: Sequence[Layer]) -> Parameters:
    folder = Path(str(config.start))
    try:
        before = read_config(folder / CONFIG)
    except ConfigError as error:
        raise of_key("start", error) from None
    trained, now = (learnt(each.model.trained, each.model.delays) for each in (before, config))
    if lost := [name for name in trained if name not in now]:
        raise ConfigError(
            f"start={folder} has learnt {', '.join(lost)}, which this run would lose: model.trained and "
            "model.delays must name all that it has"
        )
    if before.replicas not in (1, config.replicas):
        raise ConfigError(
            f"start={folder} must have one network, or one for each of the {config.replicas} replicas, "
            f"got {before.replicas}; replicas={before.replicas} takes all of them"
        )
    for name in ("tau_mem", "tau_syn", "threshold", "leak", "capacitance"):
        there, here = getattr(before.model, name), getattr(config.model, name)
        if not np.isclose(there, here, rtol=1e-12, atol=0.0):
            raise ConfigError(f"start={folder} has neurons of model.{name}={there}, this run has {here}")
    arrays, _ = checkpoint.load(folder / CHECKPOINT)
    place = f"start={folder} must have the network of this run"
    return Parameters.from_arrays(arrays, layers, before.replicas, before.dtype.value, place, trained)
