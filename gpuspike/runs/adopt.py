"""A network from elsewhere as a run that has not trained yet, so that every command works on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.config import fitting
from gpuspike.config.keys import key_of
from gpuspike.config.schema import Config, Dtype, from_values, to_yaml
from gpuspike.errors import ConfigError, together
from gpuspike.network.layers import Layer
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.store import checkpoint, own_data, own_prices, resume
from gpuspike.store.identity import to_values
from gpuspike.store.provenance import provenance_of
from gpuspike.store.run_folder import CHECKPOINT, check_folder, claim

Array = NDArray[Any]

_OF_FILE = (
    "hidden", "layers", "bias_times", "weight_mean", "weight_std", "fires", "spikes_at", "tau_mem", "tau_syn",
    "threshold", "leak", "capacitance", "trained", "delays",
)  # fmt: skip
"""Values of a model that a network from elsewhere has itself."""

_READ = ("input_repeats", "frozen")
"""Those that it has not; there are no delays."""


def refuse_own(overrides: Sequence[str], asked: Config, config: Config) -> None:
    """Refuses values that a file of a network says otherwise; raises ConfigError.

    Args:
        asked: what was typed, composed;  config: with the network in it.
    """
    keys = [key_of(text) for text in overrides]
    typed = {key.removeprefix("model.") for key in keys}
    each = [(name, getattr(asked.model, name), getattr(config.model, name)) for name in _OF_FILE]
    wrong = [
        ConfigError(f"the network's file says model.{name}={own} itself, got {given}")
        for name, given, own in each
        if name in typed and given is not None and given != own
    ]
    wrong += [
        ConfigError(f"{key} is of a run that begins with other networks than the file's, got {text}")
        for key, text in zip(keys, overrides, strict=True)
        if key in ("start", "resume")
    ]
    wrong += [
        ConfigError(f"the run's folder is given as a word, after the network's file, got {text}")
        for key, text in zip(keys, overrides, strict=True)
        if key in ("hydra.run.dir", "hydra.sweep.dir")
    ]
    if wrong:
        raise together(wrong)


def notes_on_model(overrides: Sequence[str], config: Config) -> list[str]:
    """What a group for the model is read for, where one was typed, and what suits the unit of the weights.

    Args:
        config: with the network in it.
    """
    left = " and ".join(f"model.{key}={str(getattr(config.model, key)).lower()}" for key in _READ)
    typed = [text for text in overrides if key_of(text) == "model"]
    notes = [f"{text} is read for {left} alone: the network's file says the rest" for text in typed]
    own = {f"model.{name}" for name in _OF_FILE}
    return notes + fitting.suited_to_unit(own | set(map(key_of, overrides)), config)


def configured(config: Config, layers: Sequence[Layer], weights: Sequence[Array]) -> Config:
    """A run's configuration with another network in it; data, training and chip stay.

    Args:
        weights: of each layer (1, n_pre, n_post).

    Raises:
        ConfigError: neurons that a configuration has no words for, or several replicas.
    """
    neuron = layers[0].neuron
    if not all(layer.neuron == neuron for layer in layers) or not neuron.uniform:
        raise ConfigError(
            "a run's configuration has one neuron for all layers, got a network whose neurons have constants "
            "of their own: write it to an .npz file instead"
        )
    if any(layer.delays is not None for layer in layers):
        raise ConfigError(
            "a run's configuration has no words for delays that come from elsewhere: write the network to an "
            ".npz file instead"
        )
    if any(layer.convolution is not None for layer in layers):
        raise ConfigError(
            "a run's configuration takes convolutions from model.layers, got a network that has them: write "
            "it to an .npz file instead"
        )
    if config.replicas != 1:
        raise ConfigError(f"replicas must be 1, a file has one network, got {config.replicas}")
    tau_syn = float(neuron.tau_syn)
    limits = config.training.max_silent
    if limits is not None and len(limits) != len(layers):
        limits = None
    model = replace(
        config.model,
        hidden=[layer.n_out for layer in layers[:-1]],
        layers=[],
        bias_times=[[time / tau_syn for time in layer.bias_times] for layer in layers],
        weight_mean=[float(w.mean()) for w in weights],
        weight_std=[float(w.std()) for w in weights],
        fires=None,
        spikes_at=None,
        tau_mem=float(neuron.tau_mem),
        tau_syn=tau_syn,
        threshold=float(neuron.threshold),
        leak=float(neuron.leak),
        capacitance=float(neuron.capacitance),
        trained=[],
        delays="none",
    )
    changed = replace(
        config,
        model=model,
        training=replace(config.training, max_silent=limits),
        dtype=Dtype(np.dtype(weights[0].dtype).name),
    )
    return from_values(to_values(changed))


def adopt(config: Config, layers: Sequence[Layer], weights: Sequence[Array], folder: Path, name: str) -> None:
    """Writes a run's folder after no epoch at all; `resume` trains it.

    Args:
        config: of `configured`.
        name: of the experiment.

    Raises:
        GpuspikeError: a network that is not for the run's data, or a folder that cannot be had.
    """
    parts = build(config)
    for layer, own in zip(layers, parts.network.layers, strict=True):
        if (layer.n_in, layer.n_out) != (own.n_in, own.n_out):
            raise ConfigError(
                f"the network must have {parts.network.layers[0].n_in} inputs and "
                f"{parts.network.layers[-1].n_out} outputs, for {parts.dataset.name}, got {layers[0].n_in}-"
                f"{'-'.join(str(one.n_out) for one in layers)}"
            )
    check_folder(folder)
    arrays = new_trainer(parts).state() | {f"weights_{k}": w for k, w in enumerate(weights)}
    provenance = provenance_of(config)
    header = {
        "experiment": name,
        "overrides": [],
        "config": to_values(config),
        "seeds": parts.seeds,
        "chip_seeds": parts.chip_seeds,
        "gpuspike": provenance["gpuspike"],
        "git": provenance["git"],
        "resumed": [],
        "resumptions": [],
        "epoch": 0,
        own_data.DATA: own_data.digests(config),
        own_prices.PRICES: parts.prices.kept(),
        resume.IMAGE: parts.dataset.image_shape,
    }
    claim(folder, to_yaml(config))
    checkpoint.save(folder / CHECKPOINT, arrays, header, keep_previous=False)
