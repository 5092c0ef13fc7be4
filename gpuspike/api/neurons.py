"""The neurons of a network: one kind for all layers, or one a layer, each neuron with numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.neuron import LIF


def by_layer(neuron: LIF | Sequence[LIF], sizes: Sequence[int], replicas: int) -> list[LIF]:
    """The neurons of each layer after the inputs.

    Raises:
        ValueRangeError: something else than neurons, or not one for each layer.
        ShapeError: arrays that are not for a layer's neurons.
    """
    n_layers = len(sizes) - 1
    if not isinstance(neuron, LIF | list | tuple):
        raise ValueRangeError(
            f"neuron must be a gs.LIF of numbers, or one gs.LIF a layer, got {neuron!r:.80}"
        )
    neurons = [neuron] * n_layers if isinstance(neuron, LIF) else list(neuron)
    shared = isinstance(neuron, LIF)
    if not all(isinstance(one, LIF) for one in neurons) or (shared and not all(n.uniform for n in neurons)):
        raise ValueRangeError(
            f"neuron must be a gs.LIF of numbers, or one gs.LIF a layer, got {neuron!r:.80}"
        )
    if len(neurons) != n_layers:
        raise ValueRangeError(
            f"neuron must be one gs.LIF for each of the {n_layers} layers, got {len(neurons)}"
        )
    for one, n in zip(neurons, sizes[1:], strict=True):
        one.table(replicas, n)  # refuses arrays of another size
    return neurons


def told(neurons: Sequence[LIF]) -> dict[str, Any] | list[dict[str, Any]]:
    """Neurons as JSON holds them: one mapping where all layers have the same numbers; else one a layer."""
    plain = [{name: np.asarray(v).tolist() for name, v in asdict(neuron).items()} for neuron in neurons]
    return plain[0] if neurons[0].uniform and all(n == neurons[0] for n in neurons) else plain


def of_told(content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> LIF | list[LIF]:
    """What `told` has told."""

    def one(values: Mapping[str, Any]) -> LIF:
        return LIF(**{n: np.array(v, np.float64) if isinstance(v, list) else v for n, v in values.items()})

    return one(content) if isinstance(content, Mapping) else [one(values) for values in content]
