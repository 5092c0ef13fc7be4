"""Decisions that are found without what comes after them, against full forward passes, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.kernels import load
from gpuspike.network.decision import LOOKED_AT, TOGETHER, decisions
from gpuspike.neuron import LIF

Array = NDArray[Any]


def full(net: gs.Network, t_in: Array) -> tuple[Array, Array]:
    t_out = net(t_in)
    times = t_out.min(axis=-1)
    return np.where(np.isfinite(times), t_out.argmin(axis=-1), -1), times


def same(net: gs.Network, t_in: Array) -> float:
    """Compares, and returns the share of input spikes that were presented."""
    found = decisions(net.machine, net.parameters.weights, t_in)
    classes, times = full(net, t_in)
    np.testing.assert_array_equal(found.classes if net.replicas > 1 else found.classes[0], classes)
    np.testing.assert_array_equal(found.times if net.replicas > 1 else found.times[0], times)
    for one, other in zip(gs.decide(net, t_in), (classes, times), strict=True):
        np.testing.assert_array_equal(one, other)
    return found.presented


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("backend", ["cpu", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tau_mem", [1.0, 2.0, 0.7, np.inf])
def test_decisions_are_those_of_a_full_pass(dtype: str, replicas: int, backend: str, tau_mem: float) -> None:
    n = 1300 if backend == "cpu" else 260
    rng = np.random.default_rng(0)
    net = gs.Network(
        [12, 40, 30, 4], [[0.9], [1.5], []], neuron=LIF(tau_mem, 1.0), seed=3, replicas=replicas, dtype=dtype,
        backend=backend, weight_mean=[0.35, 0.12, 0.12], weight_std=[0.3, 0.15, 0.2],
    )  # fmt: skip
    t_in = rng.uniform(0.0, 3.0, (n, 12)).astype(dtype)
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    t_in[7] = np.inf
    t_in[rng.random(t_in.shape) < 0.3] = 2.5  # ties
    assert same(net, t_in) <= 1.1


@pytest.mark.parametrize(
    "n", [1, 31, LOOKED_AT, LOOKED_AT + 1, LOOKED_AT + TOGETHER, LOOKED_AT + TOGETHER + 1]
)
def test_any_number_of_samples(n: int) -> None:
    net = gs.Network([6, 20, 3], dtype="float32", backend="cpu")
    same(net, np.random.default_rng(n).uniform(0.0, 2.0, (n, 6)).astype(np.float32))


def test_late_spikes_are_not_presented() -> None:
    net = gs.Network([40, 30, 3], dtype="float64", backend="cpu", weight_mean=[0.3, 0.3], weight_std=0.05)
    t_in = np.random.default_rng(1).uniform(0.0, 4.0, (3000, 40))
    assert same(net, t_in) < 0.6


def test_a_network_that_never_answers_and_a_chip_are_presented_whole() -> None:
    t_in = np.random.default_rng(2).uniform(0.0, 2.0, (500, 5))
    silent = gs.Network([5, 4, 3], backend="cpu", weight_mean=-1.0, weight_std=0.1)
    assert same(silent, t_in) == 1.0
    assert (gs.decide(silent, t_in)[0] == -1).all()
    net = gs.Network([5, 30, 3], backend="cpu").on(gs.Chip("bss2"))
    assert same(net, t_in) == 1.0


def test_trained_thresholds_decide(tmp_path: Any) -> None:
    net = gs.Network([5, 30, 3], backend="cpu", trained=["threshold"])
    rng = np.random.default_rng(4)
    for own in net.parameters:
        own.free["threshold"][...] += 0.2 * rng.standard_normal(own.free["threshold"].shape)
    same(net, rng.uniform(0.0, 2.0, (700, 5)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_decide_by_groups(dtype: str) -> None:
    net = gs.Network(
        [300, 40, 5], dtype=dtype, backend="cpu", weight_mean=[0.03, 0.2], weight_std=[0.05, 0.3]
    )
    rng = np.random.default_rng(5)
    t_in = np.round(rng.uniform(0.15, 2.0, (1500, 300)), 2).astype(dtype)
    t_in[rng.random(t_in.shape) < 0.8] = 2.0
    assert same(net, t_in) < 1.1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [0.2, 0.02, 0.004, 0.0])
@pytest.mark.parametrize("sizes", [[300, 90, 5], [33, 129, 17, 3], [31, 4]])
def test_wherever_a_presentation_ends_and_is_looked_at(dtype: str, step: float, sizes: list[int]) -> None:
    """From inputs at few times, whose grouping is plain early, to those where it hangs on the last ones."""
    cpu: Any = load("cpu")
    bias_times: list[list[float]] = [[0.4], *([0.9, 1.3] for _ in sizes[2:])]
    n = len(sizes) - 1
    net = gs.Network(
        sizes, bias_times, dtype=dtype, backend="cpu", replicas=2,
        weight_mean=[8.0 / sizes[0], 0.1, 0.4][:n], weight_std=[12.0 / sizes[0], 0.1, 0.2][:n],
    )  # fmt: skip
    rng = np.random.default_rng(7)
    t_in = rng.uniform(0.0, 2.0, (130, sizes[0] + 1))
    t_in[:, rng.random(t_in.shape[1]) < 0.5] = 1.9
    t_in[:40, 3:5], t_in[100:110] = np.inf, np.inf
    if step:
        t_in = np.ceil(t_in / step) * step
    t_in = t_in.astype(dtype)
    neurons = [layer.neuron for layer in net.machine.layers]
    weights = net.parameters.weights
    whole = cpu.decide(t_in, weights, neurons, bias_times, np.inf)
    state = cpu.forward(np.ascontiguousarray(t_in[None]), None, weights, neurons, bias_times)[-1]
    np.testing.assert_array_equal(whole[1], state.t_out.min(axis=2))
    for until in (0.3, 0.7, 1.1, 1.9, np.inf):
        for looks in ((), (0.2, 0.6, 1.0, 1.4), (1.8,)):
            part = cpu.decide(t_in, weights, neurons, bias_times, until, looks)
            for one, other in zip(part[:2], whole[:2], strict=True):
                np.testing.assert_array_equal(one, other)
    assert (whole[0] >= 0).mean() > 0.3


def test_a_spike_at_the_time_of_the_first_unsolved_one_decides_nothing() -> None:
    """Rounded to float32, both hidden neurons spike at the time of their inputs, and both outputs too."""
    cpu: Any = load("cpu")
    t_in = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1.0))]], np.float32)
    weights = [np.array(w, np.float32) for w in ([[[2.5e7, 0.0], [0.0, 1e12]]], [[[0.0, 1e12], [1e12, 0.0]]])]
    neurons = [LIF(1.0, 1.0)] * 2
    whole = cpu.decide(t_in, weights, neurons, [[], []], np.inf)
    looked_at = cpu.decide(t_in, weights, neurons, [[], []], np.inf, (0.5,))
    for one, other in zip(looked_at[:2], whole[:2], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shift", [1e5, 1e6])
def test_coarse_times_are_decided_as_in_a_full_pass(shift: float) -> None:
    cpu: Any = load("cpu")
    net = gs.Network([40, 60, 10], dtype="float32", backend="cpu", weight_mean=0.2, weight_std=1.0, seed=5)
    t_in = (np.random.default_rng(8).uniform(0.0, 2.0, (4000, 40)) + shift).astype(np.float32)
    weights, neurons = net.parameters.weights, [layer.neuron for layer in net.machine.layers]
    times = full(net, t_in)[1]
    looks = np.quantile(times[np.isfinite(times)], [0.1, 0.3, 0.5, 0.7, 0.9]).astype(np.float32)
    for until in (np.inf, float(looks[-1])):
        found = cpu.decide(t_in, weights, neurons, [[], []], until, looks.tolist())
        for one, other in zip(found[:2], full(net, t_in), strict=True):
            np.testing.assert_array_equal(one[0], other)


def test_a_whole_sample_is_not_presented_again() -> None:
    cpu: Any = load("cpu")
    t_in = np.random.default_rng(9).uniform(0.0, 1.0, (5, 20)).astype(np.float32)
    weights = [np.full((1, 20, 30), -0.1, np.float32), np.full((1, 30, 3), 0.1, np.float32)]
    classes, _, met = cpu.decide(t_in, weights, [LIF(1.0, 1.0)] * 2, [[], []], 1.0)
    assert (classes == -1).all()
    assert met.tolist() == [[[20, 600]] * 5]


def test_bias_spikes_that_come_together_decide_as_in_a_full_pass() -> None:
    """Twenty at once are a group among few hidden spikes, none among many: later ones must not count."""
    bias_times: list[list[float]] = [[], [0.9] * 20]
    cpu: Any = load("cpu")
    net = gs.Network(
        [20, 60, 4],
        bias_times,
        dtype="float32",
        backend="cpu",
        weight_mean=[0.3, 0.1],
        weight_std=[0.2, 0.1],
    )
    t_in = np.random.default_rng(6).uniform(0.0, 3.0, (2000, 20)).astype(np.float32)
    neurons = [layer.neuron for layer in net.machine.layers]
    whole = cpu.decide(t_in, net.parameters.weights, neurons, bias_times, np.inf)
    for until in (0.5, 1.0, 1.5, 2.0, 2.5):
        part = cpu.decide(t_in, net.parameters.weights, neurons, bias_times, until)
        for one, other in zip(part[:2], whole[:2], strict=True):
            np.testing.assert_array_equal(one, other)
    assert np.quantile(whole[1], 0.4) < 1.5  # some are decided before all hidden neurons have spiked
