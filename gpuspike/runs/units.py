"""Whether a chip's values are in the unit of the network that a command is about to put on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from numpy.typing import NDArray

from gpuspike.config.fitting import preset_values, suited_to_unit
from gpuspike.config.keys import key_of
from gpuspike.runs.experiment import Experiment
from gpuspike.substrate.unit import other_unit, units_of


def unit_note(
    parts: Experiment, weights: Sequence[NDArray[Any]], overrides: Sequence[str], own: Collection[str] = ()
) -> str:
    """What a chip does to a network that has been drawn in another unit than its values are; "" for little.

    Args:
        weights: (n_replica, n_pre, n_post) of each layer, as drawn.
        overrides: that were typed: what they say of the chip is meant as it is.
        own: more values of the chip that are.
    """
    keys, layers = list(map(key_of, overrides)), parts.network.layers
    if any("model.weight_" in note for note in suited_to_unit(keys, parts.config)):
        # It is told how to draw them, and then shall not be told the rest.
        units = [units_of(layer.neuron)["weight_max"] for layer in layers]
        weights = [(w * unit).astype(w.dtype) for w, unit in zip(weights, units, strict=True)]
    typed = {*(key.removeprefix("substrate.") for key in keys), *own}
    return other_unit(parts.substrate, layers, weights, preset_values(), typed, "substrate.")
