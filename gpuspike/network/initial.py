"""How large weights should be before anything is learnt: a rule from the number of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gpuspike.network.layers import Layer
from gpuspike.neuron import LIF

MEAN, DEVIATION = 4.0, 0.5
"""Of initial weights, in what all inputs together need to lift a neuron to its threshold."""


def from_fan_in(layers: Sequence[Layer]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of initial weights, by layer, with which a layer's size does not matter.

    With n = inputs and bias spikes of a neuron, and w1 = (threshold - leak)/(largest value of the kernel),
    the weight of a single input that just reaches the threshold,

        mean = 4 w1/n,    standard deviation = w1/(2 sqrt(n))

    so that in the mean a quarter of its inputs, coming together, make a neuron spike.

    Where neurons differ, they are taken for their mean.
    """
    neurons = [typical(layer.neuron) for layer in layers]
    single = [float(neuron.span) / neuron.kernel_peak[1] for neuron in neurons]
    means = [MEAN * w / layer.n_pre for w, layer in zip(single, layers, strict=True)]
    return means, [DEVIATION * w / layer.n_pre**0.5 for w, layer in zip(single, layers, strict=True)]


def typical(neuron: LIF) -> LIF:
    """A neuron of numbers in the place of many: each constant's mean, of finite time constants."""

    def mean(value: Any) -> float:
        array = np.asarray(value, np.float64)
        finite = array[np.isfinite(array)]
        return float(finite.mean()) if finite.size else float(array.flat[0])

    return neuron if neuron.uniform else LIF(**{name: mean(value) for name, value in asdict(neuron).items()})
