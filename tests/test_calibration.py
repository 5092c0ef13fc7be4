"""Initial weights that are measured: layers spike as often, and as early, as is wished."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import load
from gpuspike.network.calibration import calibrated, silent_pairs
from gpuspike.network.network import Architecture, answer
from gpuspike.network.plan import read_plan
from gpuspike.neuron import LIF
from gpuspike.substrate import EmulatedChip, OnChip, Substrate

T_IN = np.random.default_rng(4).uniform(0.0, 2.0, (1, 150, 25))


def shares(machine: Any, weights: list[Any], received: Any) -> list[Any]:
    states = answer(machine, weights, received)
    return [
        1.0 - silent_pairs(layer, state).mean(axis=(1, 2))
        for layer, state in zip(machine.layers, states, strict=True)
    ]


@pytest.mark.parametrize("neuron", [LIF(), LIF(2.0, 1.0, 0.7, -0.2, 0.5), LIF(4.0, 1.0)])
@pytest.mark.parametrize("sizes", [(25, 40, 3), (25, 60, 30, 20, 4), (25, 300, 5)])
def test_layers_spike_as_often_as_is_wished(neuron: LIF, sizes: tuple[int, ...]) -> None:
    bias = ((0.5,), *[()] * (len(sizes) - 2))
    network = Architecture.build(sizes, bias, neuron, load("cpu"))
    received = network.receive(T_IN)
    weights = calibrated(network, received, [3, 4], [0.7] * len(bias), None, np.float64)
    for share in shares(network, weights, received):
        np.testing.assert_allclose(share, 0.7, atol=0.05)
    alone = calibrated(network, received, [4], [0.7] * len(bias), None, np.float64)
    for both, one in zip(weights, alone, strict=True):
        np.testing.assert_array_equal(both[1], one[0])


def test_and_as_early() -> None:
    network = Architecture.build((25, 80, 30), ((), ()), LIF(), load("cpu"))
    received, delays = network.receive(T_IN), []
    for wished in (0.4, 0.8):
        weights = calibrated(network, received, [1], [0.6, 0.6], [wished] * 2, np.float64)
        states = network.forward(weights, received)
        for state in states:
            heard, sent = (times[np.isfinite(times)] for times in (state.t_in, state.t_out))
            delays.append(np.median(sent) - np.median(heard))
    assert delays == pytest.approx([0.4, 0.4, 0.8, 0.8], abs=0.15)


def test_on_a_chip_and_with_shared_weights() -> None:
    network = Architecture.build((25, 60, 3), ((), ()), LIF(), load("cpu"))
    substrate = Substrate(threshold_std=0.2, weight_lsb=0.03, weight_max=(2.0,), dead_neurons=0.1)
    chip = OnChip(network, EmulatedChip(substrate, network.layers, network.kernels, [7]), "nominal")
    received = network.receive(T_IN)
    weights = calibrated(chip, received, [7], [0.6, 0.6], None, np.float64)
    for share in shares(chip, weights, received):
        np.testing.assert_allclose(share, 0.6, atol=0.08)
    plan = read_plan([{"conv": 6, "kernel": 2}, {"pool": 2}, {"dense": 10}])
    maps = Architecture.build((25, *plan), ((), ()), LIF(), load("cpu"), image=(5, 5, 1))
    received = maps.receive(T_IN)
    weights = calibrated(maps, received, [7], [0.5, 0.6], None, np.float64)
    for share, wished in zip(shares(maps, weights, received), (0.5, 0.6), strict=True):
        np.testing.assert_allclose(share, wished, atol=0.08)


def test_what_cannot_be_is_refused() -> None:
    network = Architecture.build((25, 6, 3), ((), ()), LIF(), load("cpu"))
    received = network.receive(T_IN)
    with pytest.raises(ValueRangeError, match="fires must have 2 values, one a layer, got 1"):
        calibrated(network, received, [0], [0.5], None, np.float64)
    with pytest.raises(ValueRangeError, match=r"fires must lie between 0 and 1, got \[0.5, 1.0\]"):
        calibrated(network, received, [0], [0.5, 1.0], None, np.float64)
