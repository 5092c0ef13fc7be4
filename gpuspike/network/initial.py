"""How large weights should be before anything is learnt: a rule from the number of inputs."""

from __future__ import annotations

from collections.abc import Sequence

from gpuspike.network.layers import Layer

MEAN, DEVIATION = 4.0, 0.5
"""Of initial weights, in what all inputs together need to lift a neuron to its threshold."""


def from_fan_in(layers: Sequence[Layer]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of initial weights, by layer, with which a layer's size does not matter.

    With n = inputs and bias spikes of a neuron, and w1 = (threshold - leak)/(largest value of the kernel),
    the weight of a single input that just reaches the threshold,

        mean = 4 w1/n,    standard deviation = w1/(2 sqrt(n))

    so that in the mean a quarter of its inputs, coming together, make a neuron spike.

    Args:
        layers: with neurons whose parameters are numbers.
    """
    single = [float(layer.neuron.span) / layer.neuron.kernel_peak[1] for layer in layers]
    means = [MEAN * w / layer.n_pre for w, layer in zip(single, layers, strict=True)]
    return means, [DEVIATION * w / layer.n_pre**0.5 for w, layer in zip(single, layers, strict=True)]
