"""Constants that are learnt on a device: gradients as the CPU and the oracle have them, and trainings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import closed, device, fake
from small_training import WAKING, Setup, assert_close_runs, assert_same_runs
from test_device_delays import NEURONS, SIZES, case

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.errors import BackendError
from gpuspike.kernels import load
from gpuspike.kernels.cuda import single, single_source
from gpuspike.kernels.cuda.neurons import neurons_there
from gpuspike.kernels.unit import unit
from gpuspike.network.parameters import LayerParameters
from gpuspike.network.plan import Maps
from gpuspike.neuron import LIF
from gpuspike.runs.experiment import build, new_trainer

pytestmark = pytest.mark.usefixtures("cupy")

NAMES = ("threshold", "tau_mem", "tau_syn")


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("n_pre", SIZES)
@pytest.mark.parametrize("n_in", [1, 2])
@pytest.mark.parametrize("delayed", [False, True])
def test_gradients_of_time_constants_are_the_cpu_s_and_the_oracle_s(
    neuron: LIF, n_pre: int, n_in: int, delayed: bool
) -> None:
    t_in, weights, delays = case(n_pre, n_in=n_in)
    rng, active = np.random.default_rng(0), np.array([True, n_pre != 31])
    for name in ("cpu", "reference"):
        kernels = load(name).single
        state = kernels.forward(t_in, weights, delays if delayed else 0.0 * delays, neuron)
        spikes = (*state, rng.normal(size=state[0].shape))
        given = (t_in, weights, delays if delayed else None, neuron, *spikes)
        wanted = kernels.taus_grad(*given, active=active)
        there = [fake(a) if isinstance(a, np.ndarray) else a for a in given]
        found = np.asarray(single.taus_grad(*there, active=active))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("shape", [(2, 0, 5), (2, 33, 0), (2, 1025, 3), (1, 7, 129)])
def test_products_are_summed_over_inputs(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=shape).astype(np.float32) for _ in "ab")
    found = np.asarray(single.over_inputs(fake(a), fake(b)))
    np.testing.assert_allclose(found, load("cpu").single.over_inputs(a, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (4, 3, 0)])
def test_nothing_to_do_is_done(shape: tuple[int, int, int]) -> None:
    n_batch, n_pre, n_post = shape
    t_in, weights = fake(np.zeros((1, n_batch, n_pre))), fake(np.zeros((2, n_pre, n_post)))
    t_out = fake(np.zeros((2, n_batch, n_post)))
    found = single.taus_grad(t_in, weights, None, LIF(), t_out, t_out, t_out, active=np.ones(2, np.bool_))
    np.testing.assert_array_equal(np.asarray(found), np.zeros((2, 2, n_post)))
    free = fake(np.zeros((2, n_post)))
    own = LayerParameters(weights, {"tau_mem": free}).neuron(LIF(), load("cuda"))
    assert unit(own, weights).taus is not None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[1:2], NAMES], ids="+".join)
@pytest.mark.parametrize("model", NEURONS[:2], ids=str)
def test_neurons_are_those_of_the_host(model: LIF, names: tuple[str, ...], dtype: Any) -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(2, 4, 5)).astype(dtype)
    model = replace(model, threshold=model.threshold * np.array([1.0, 1.1, 1.2, 0.9, 1.0]))
    free = {name: rng.normal(size=(2, 5)).astype(dtype) for name in names}
    ours = LayerParameters(weights, free).neuron(model)
    there = LayerParameters(weights, {name: fake(array) for name, array in free.items()})
    found, wanted = unit(there.neuron(model, load("cuda")), fake(weights)), unit(ours, weights)
    assert (found.regime, found.neuron) == (wanted.regime, wanted.neuron)
    for name in ("taus", "per_drive", "span", "capacitance"):
        one, other = getattr(found, name), getattr(wanted, name)
        if one is None:  # of which all have 1, that kernels know
            assert other is None or (other == 1.0).all()
            continue
        expected = other if name == "taus" else other.astype(dtype)
        np.testing.assert_allclose(np.asarray(one), expected, rtol=4 * np.finfo(one.dtype).eps)


VARIANTS = {
    **{name: Setup(constants=(name,), bump_replaces_step=False) for name in NAMES},
    "all": Setup(constants=NAMES, bump_replaces_step=False),
    "bump and no step": Setup(constants=NAMES),
    "delays": Setup(constants=NAMES, delays="axonal+dendritic+synaptic", bump_replaces_step=False),
    "waking": replace(WAKING, constants=NAMES),
    "waking, delays": replace(WAKING, constants=NAMES, delays="synaptic"),
    "frozen": Setup(constants=("threshold",), frozen=True),
    "own": Setup(constants=NAMES, neuron=LIF(1.0, 1.0, 0.8, -0.3, 1.7), bump_replaces_step=False),
    "units": Setup(constants=NAMES, unit=3.0),
}
each_variant = pytest.mark.parametrize("setup", VARIANTS.values(), ids=VARIANTS.keys())


@each_variant
def test_training_on_the_device_is_training_on_the_cpu(setup: Setup) -> None:
    ours, theirs = setup.trained(), replace(setup, backend="cpu").trained()
    assert_close_runs(ours, theirs, 1e-8)
    begun, state = setup.trainer().state(), ours[0].state()
    moved = {name for name in state if not np.array_equal(state[name], begun[name])}
    assert {f"{name}_{number}" for name in setup.constants for number in (0, 1)} <= moved
    assert ("weights_0" in moved) is not setup.frozen


@each_variant
def test_a_graph_gives_the_bits_of_its_kernels_and_a_replica_is_its_run_alone(setup: Setup) -> None:
    setup = replace(setup, dtype=np.float32)
    replayed = setup.trained()
    assert "graph" in device.launches
    one_by_one = replace(setup, graph=False).trained()
    for r, seed in enumerate(setup.seeds):
        assert_same_runs(replayed, one_by_one, r, r)
        assert_same_runs(replayed, replace(setup, seeds=(seed,)).trained(), r, 0)


def test_maps_learn_constants_as_on_the_cpu() -> None:
    maps = Maps(4, 2, padding=1, pad_time=2.0, pool=2)
    setup = Setup(hidden=maps, bias=((0.9,), (0.4,)), constants=NAMES, bump_replaces_step=False)
    assert_close_runs(setup.trained(), replace(setup, backend="cpu").trained(), 1e-8)


@pytest.mark.parametrize("own", ["threshold", "tau_mem"])
def test_maps_have_constants_of_their_own_as_on_the_cpu(own: str) -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 36)), rng.integers(3, size=30)
    neurons = [LIF(**{own: np.array([1.0, 0.8, 1.3])}), LIF(), LIF()]
    sizes = [(6, 6), {"conv": 3, "kernel": 3}, {"pool": 2}, 8, 3]
    nets = [gs.Network(sizes, backend=name, seed=1, neuron=neurons) for name in ("cuda", "cpu")]
    np.testing.assert_allclose(nets[0](t_in), nets[1](t_in), rtol=1e-10)
    for net in nets:
        gs.fit(net, t_in, labels, epochs=2, batch_size=10)
    for one, other in zip(*(net.parameters.weights for net in nets), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_nothing_waits_and_nothing_crosses() -> None:
    t_in, weights, _ = (fake(array) for array in case(5))
    free = {name: fake(np.zeros((2, 5))) for name in NAMES}
    active, cuda, own = fake(np.ones(2, np.bool_)), load("cuda"), LayerParameters(weights, free)
    network = gs.network.network.Architecture.build((5, 5), ((),), LIF(2.0, 1.0, 0.7), cuda)
    learnt = gs.network.parameters.Parameters([own])

    def step() -> None:
        having = network.having(learnt)
        states = having.forward([weights], gs.network.layers.LayerInput(t_in, None))
        having.backward(learnt, states, states[-1].t_out, active=active, max_weight_grad=1.0)

    step()  # constants are sent by the first
    with closed():
        step()


def test_a_network_of_the_library_learns_there_and_not_on_a_chip() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 6)), rng.integers(3, size=30)
    nets = [gs.Network([6, 8, 3], backend=name, seed=1, trained=NAMES) for name in ("cuda", "cpu")]
    for net in nets:
        gs.fit(net, t_in, labels, epochs=2, batch_size=10)
    for name, one in nets[0].parameters.arrays().items():
        np.testing.assert_allclose(one, nets[1].parameters.arrays()[name], rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(nets[0](t_in), nets[1](t_in), rtol=1e-7)
    message = "training threshold, tau_mem, tau_syn on a chip needs backend=cpu or reference, got cuda"
    with pytest.raises(BackendError, match=message):
        nets[0].on(gs.Chip("bss2"))
    assert gs.Network([6, 8, 3], trained=NAMES).on(gs.Chip("bss2")).backend.name == "cpu"


def test_a_run_of_the_command_line_is_on_the_device() -> None:
    asked = [
        "model.trained=[threshold,tau_mem,tau_syn]", "backend=cuda", "dataset.n_train=60",
        "dataset.n_validation=20", "dataset.n_test=20", "training.batch_size=30", "training.epochs=1",
    ]  # fmt: skip
    (job,) = jobs(asked, multirun=False)
    assert new_trainer(build(job.config)).step.kind.name == "device"


def test_parts_of_a_batch() -> None:
    assert single_source.taus_parts(30, 300) == 64
    assert single_source.taus_parts(30, 9) == 9
    assert single_source.taus_parts(1 << 16, 300) == 2
    assert single_source.taus_parts(0, 0) == 1


def test_neurons_are_themselves_alone() -> None:
    model = LIF(2.0, np.array([1.0, 2.0]))
    there = neurons_there(model)
    assert neurons_there(there) is there
    assert there == there  # noqa: PLR0124
    assert there != neurons_there(model)
    assert len({there, neurons_there(model)}) == 2
    assert not there.uniform
    assert not there.shares_taus
    assert math.isfinite(there.capacitance)
