"""Convolutional layers on a device against the oracle, layer by layer; trainings: test_device_training.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from device_on_cpu import closed, device, fake
from test_convolution_chips import DISTORTED, MOMENT, drawn, layers

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import load
from gpuspike.kernels.convolution import Convolution
from gpuspike.network.convolved import convolved, pull_convolved
from gpuspike.network.layers import LayerInput
from gpuspike.network.network import Architecture
from gpuspike.neuron import LIF
from gpuspike.runs.experiment import build
from gpuspike.runs.planning import memory_of
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.substrate.loop import EXACT, NOMINAL

pytestmark = pytest.mark.usefixtures("cupy")

NEURONS = (LIF(1.0, 1.0), LIF(2.0, 1.0, 0.7, -0.2, 1.5), LIF(math.inf, 1.0), LIF(1.0, 3.1))
LAYERS = (
    Convolution((5, 6, 1), 3, 3),
    Convolution((5, 5, 2), 33, 2, stride=2, padding=1, pool=2),
    Convolution((7, 4, 3), 1, 3, padding=2, pad_time=1.5, pool=3),
    Convolution((9, 9, 1), 5, 4, stride=3),
    Convolution((1, 1, 7), 4, 1),
    Convolution((6, 5, 1), 2, 5, padding=4, pad_time=0.3, pool=5),
)


def inputs(layer: Convolution, n_bias: int, n_batch: int, n_in_replicas: int, dtype: Any) -> tuple[Any, ...]:
    """Times with ties and silence, weights that make some neurons silent, and a gradient of what is heard."""
    rng = np.random.default_rng(layer.n_maps)
    t_in = np.round(rng.uniform(0.0, 2.0, (n_in_replicas, n_batch, layer.n_in + n_bias)), 2)
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    weights = rng.normal(3.0 / (layer.fan_in + n_bias), 0.6, (2, layer.fan_in + n_bias, layer.n_maps))
    grad = rng.normal(size=(2, n_batch, layer.n_out))
    return tuple(array.astype(dtype) for array in (t_in, weights, grad))


def run(
    backend: str, layer: Convolution, t_in: Any, w: Any, neuron: LIF, grad: Any, active: Any, limit: float
) -> tuple[Any, Any, Any]:
    kernels = load(backend)
    state = convolved(kernels, layer, t_in, w, neuron, None, None)
    pulled, t_in_grad = pull_convolved(
        kernels, layer, state, w, neuron, None, grad, taus=False, further=True, active=active,
        max_weight_grad=limit,
    )  # fmt: skip
    return state, pulled.weights, t_in_grad


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("n_bias", [0, 2])
@pytest.mark.parametrize(("n_in_replicas", "limit"), [(1, math.inf), (2, 0.5)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_is_the_layer_of_the_oracle(
    layer: Convolution, n_bias: int, n_in_replicas: int, limit: float, dtype: Any
) -> None:
    t_in, w, grad = inputs(layer, n_bias, 3, n_in_replicas, dtype)
    neuron, active = NEURONS[layer.n_maps % 4], np.array([True, limit == math.inf])
    state, w_grad, t_grad = run("reference", layer, t_in, w, neuron, grad, active, limit)
    there = run("cuda", layer, *map(fake, (t_in, w)), neuron, fake(grad), fake(active), limit)
    most = 1e-10 if dtype == np.float64 else 2e-4
    assert np.isfinite(state.t_out).any()
    for name in ("t_out", "t_cross", "slope"):
        ours, theirs = np.asarray(getattr(there[0], name)), getattr(state, name)
        np.testing.assert_allclose(ours, theirs, rtol=most, atol=most, err_msg=name)
    for ours, theirs in ((there[1], w_grad), (there[2], t_grad)):
        scale = max(float(np.abs(theirs).max()), 1e-12)
        assert ours.shape == theirs.shape
        assert np.abs(np.asarray(ours) - theirs).max() <= most * scale
    assert not np.asarray(there[2])[:, :, layer.n_in :].any()


@pytest.mark.parametrize("n_batch", [0, 1, 31, 33])
def test_a_batch_is_its_samples(n_batch: int) -> None:
    layer, neuron, active = LAYERS[1], NEURONS[0], fake(np.ones(2, np.bool_))
    t_in, w, grad = inputs(layer, 1, n_batch, 2, np.float32)
    state, w_grad, t_grad = run("cuda", layer, *map(fake, (t_in, w)), neuron, fake(grad), active, math.inf)
    assert state.t_out.shape == grad.shape
    assert w_grad.shape == w.shape
    for b in range(n_batch):
        part = slice(b, b + 1)
        one = run("cuda", layer, fake(t_in[:, part]), fake(w), neuron, fake(grad[:, part]), active, math.inf)
        np.testing.assert_array_equal(np.asarray(one[0].t_out)[:, 0], np.asarray(state.t_out)[:, b])
        np.testing.assert_array_equal(np.asarray(one[2])[:, 0], np.asarray(t_grad)[:, b])


def test_of_a_tie_the_first_is_heard_and_silence_has_no_gradient() -> None:
    layer = Convolution((2, 2, 1), 1, 1, pool=2)
    t_in = np.array([[[0.5, 0.2, 0.2, np.inf]], [[np.inf] * 4]])
    grad, active = np.ones((2, 1, 1)), np.ones(2, np.bool_)
    arrays = *map(fake, (t_in, np.full((2, 1, 1), 5.0))), NEURONS[0], fake(grad), fake(active)
    state, _, t_grad = run("cuda", layer, *arrays, math.inf)
    assert np.isfinite(np.asarray(state.t_out)).ravel().tolist() == [True, False]
    np.testing.assert_allclose(np.asarray(t_grad)[:, 0], [[0.0, 1.0, 0.0, 0.0], [0.0] * 4], atol=1e-12)


def test_nothing_but_kernels_of_ours_and_nothing_waits() -> None:
    layer, neuron = LAYERS[1], NEURONS[0]
    t_in, w, grad = map(fake, inputs(layer, 1, 5, 2, np.float32))
    active = fake(np.ones(2, np.bool_))
    run("cuda", layer, t_in, w, neuron, grad, active, math.inf)  # constants are sent by the first
    with closed():
        run("cuda", layer, t_in, w, neuron, grad, active, math.inf)


def test_arrays_that_do_not_fit_are_refused() -> None:
    layer, kernels = LAYERS[0], load("cuda")
    t_in, w, _ = inputs(layer, 1, 2, 1, np.float32)
    with pytest.raises(ShapeError, match=r"t_in must have shape \(1, 24, 11\), got \(1, 24, 10\)"):
        convolved(kernels, layer, fake(t_in), fake(np.zeros((2, 11, 3), np.float32)), NEURONS[0], None, None)
    with pytest.raises(ShapeError, match=r"t_in must have 30 inputs and bias spikes, got shape \(1, 2, 29\)"):
        convolved(kernels, layer, fake(t_in[:, :, :29].copy()), fake(w), NEURONS[0], None, None)
    with pytest.raises(DtypeError, match="t_in must be float32, got float64"):
        convolved(kernels, layer, fake(t_in.astype(np.float64)), fake(w), NEURONS[0], None, None)


def small(*more: str) -> list[str]:
    return [
        "experiment=mnist_conv", "backend=cuda", "dataset.n_train=40", "dataset.n_validation=20",
        "dataset.n_test=20", "training.epochs=1", "training.batch_size=10",
        "model.layers=[{conv: 4, kernel: 5}, {pool: 4}, {dense: 10}]", "model.bias_times=[[]]",
        "model.weight_mean=[0.3,0.1]", "model.weight_std=[0.6,0.2]", "training.max_silent=[0.5,0.05]", *more,
    ]  # fmt: skip


def test_a_run_is_built_and_its_memory_is_told() -> None:
    (job,) = jobs(small(), multirun=False)
    parts = build(job.config)
    assert parts.backend.name == "cuda"
    there, here = memory_of(parts).peak, memory_of(build(jobs(small("backend=cpu"), False)[0].config)).peak
    # Gathered patches and what sorts them: 576 patches of 25 inputs a sample, and 12 bytes each.
    assert there > here
    assert there > 10 * 576 * 25 * 12


OFTEN = ("all", "weights")


@pytest.mark.parametrize("gradient", [NOMINAL, EXACT])
@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in DISTORTED]
)
def test_on_a_chip_it_answers_and_pulls_as_on_the_cpu(name: str, gradient: str) -> None:
    t_in, weights = drawn()
    pull, active = np.random.default_rng(2).normal(size=(2, 3, 4)), np.array([True, name != "gain"])
    found = []
    for backend, place in (("cuda", fake), ("cpu", np.asarray)):
        kernels = load(backend)
        chip = EmulatedChip(Substrate(**DISTORTED[name]), layers(), kernels, (5, 6))
        own = [place(w) for w in weights]
        machine = OnChip(Architecture(layers(), kernels), chip, gradient).during(own)
        states = machine.forward(own, LayerInput(place(t_in), None), MOMENT)
        grads = machine.backward(own, states, place(pull), active=place(active), max_weight_grad=0.5).weights
        times = [array for state in states for array in (state.t_out, state.t_cross)]
        found.append([*times, *(states[0].seen, *grads)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-7)


SIZES = [
    (6, 6),
    {"conv": 3, "kernel": 3, "padding": 1, "pad_time": 2.0},
    {"pool": 2},
    {"conv": 4, "kernel": 2},
    3,
]
TRAINED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nominal": (DISTORTED["all"], {}),
    "exact": (DISTORTED["all"], {"gradient": "exact"}),
    "waking": (DISTORTED["all"], {"silence": "waking", "waking": 5.0, "max_silent": [0.2, 0.2, 0.0]}),
    "alike, exact": ({"spike_jitter": 0.05, "lost_spikes": 0.1}, {"gradient": "exact"}),
    "bumping the living": ({"dead_neurons": 0.3, "gain_std": 0.1}, {"max_silent": [0.05, 0.05, 0.0]}),
}


def learnt(values: dict[str, Any], fitted: dict[str, Any], **given: Any) -> gs.Network:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 36)), rng.integers(3, size=30)
    net = gs.Network(SIZES, [[], [0.5], [0.9]], **{"seed": 1, "replicas": 2, "backend": "cuda", **given})
    fitted = dict(fitted)
    chip = gs.Chip("ideal", seed=given.get("seed", 1) + 4, **values)
    net = net.on(chip, gradient=fitted.pop("gradient", "nominal")) if values else net
    gs.fit(net, t_in, labels, epochs=2, batch_size=10, **fitted)
    return net


@pytest.mark.parametrize(
    ("values", "fitted"),
    [
        pytest.param(*given, id=name, marks=pytest.mark.slow if name == "nominal" or "exact" in name else ())
        for name, given in TRAINED.items()
    ],
)
def test_it_trains_on_a_chip_as_on_the_cpu(values: dict[str, Any], fitted: dict[str, Any]) -> None:
    ours, theirs = learnt(values, fitted), learnt(values, fitted, backend="cpu")
    assert ours.history.step == "device"
    for one, other in zip(ours.parameters.weights, theirs.parameters.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_on_a_chip_a_graph_is_its_kernels_and_a_replica_its_run_alone() -> None:
    values, fitted = TRAINED["waking"]
    together = learnt(values, fitted)
    assert "graph" in device.launches
    one_by_one = learnt(values, fitted | {"cuda_graph": False})
    alone = learnt(values, fitted, seed=2, replicas=1)
    for whole, single, kernels in zip(
        *(net.parameters.weights for net in (together, alone, one_by_one)), strict=True
    ):
        np.testing.assert_array_equal(kernels, whole)
        np.testing.assert_array_equal(single[0], whole[1])


def test_from_python_it_answers_and_learns_as_on_the_cpu() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 36)), rng.integers(3, size=30)
    sizes = [
        (6, 6),
        {"conv": 3, "kernel": 3, "padding": 1, "pad_time": 2.0},
        {"pool": 2},
        {"conv": 4, "kernel": 2},
        3,
    ]
    nets = [gs.Network(sizes, [[], [0.5], [0.9]], backend=name, seed=1) for name in ("cuda", "cpu")]
    for net in nets:
        gs.fit(net, t_in, labels, epochs=3, batch_size=10)
    for one, other in zip(*(net.parameters.weights for net in nets), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(nets[0](t_in), nets[1](t_in), rtol=1e-7)
    assert nets[0].history.step == "device"
