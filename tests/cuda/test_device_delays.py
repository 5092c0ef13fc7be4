"""Delays on a device: kernels as the CPU and the oracle have them, and trainings as there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import closed, device, fake
from small_training import WAKING, Setup, assert_close_runs, assert_same_runs

import gpuspike as gs
from gpuspike.api.frameworks import delayed_pull_back, delayed_times
from gpuspike.config.schema import jobs
from gpuspike.errors import DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.kernels.cuda import single, single_source
from gpuspike.kernels.cuda import waking as cuda_waking
from gpuspike.network.delays import Delays
from gpuspike.network.plan import Maps
from gpuspike.neuron import LIF
from gpuspike.runs import memory
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.population import accuracies
from gpuspike.training.evaluation import Labelled

pytestmark = pytest.mark.usefixtures("cupy")

OWN = LIF(
    tau_mem=np.array([1.0, 2.0, 0.7, 1.4, 1.0]),
    tau_syn=np.array([1.0, 1.0, 1.1, 0.7, 0.999]),
    threshold=np.array([1.0, 0.8, 1.2, 1.0, 1.0]),
)
NEURONS = (
    LIF(1.0, 1.0),
    LIF(2.0, 1.0, 0.7, -0.2, 1.5),
    LIF(math.inf, 1.0),
    LIF(1.0, 3.1),
    LIF(1.0, 1.1),
    OWN,
)
SIZES = (1, 2, 31, 33, 129)


def case(n_pre: int, *, n_in: int = 1, dtype: Any = np.float64, n_post: int = 5, n_batch: int = 9) -> Any:
    """Inputs with ties and silence, weights and delays of a layer."""
    rng = np.random.default_rng(n_pre)
    t_in = np.round(rng.uniform(0.0, 3.0, (n_in, n_batch, n_pre)), 1)
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    t_in[:, 0] = np.inf  # a sample without any spike
    weights = rng.normal(2.0 / n_pre, 2.0 / math.sqrt(n_pre), (2, n_pre, n_post))
    delays = np.round(rng.uniform(0.0, 1.0, weights.shape), 1)  # of which some arrive together
    return [array.astype(dtype) for array in (t_in, weights, delays)]


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("n_pre", SIZES)
@pytest.mark.parametrize("n_in", [1, 2])
def test_everything_is_what_the_cpu_and_the_oracle_have(neuron: LIF, n_pre: int, n_in: int) -> None:
    t_in, weights, delays = case(n_pre, n_in=n_in)
    arrays = t_in, weights, delays
    there = [fake(array) for array in arrays]
    rng, active = np.random.default_rng(0), np.array([True, True])
    for name in ("cpu", "reference"):
        kernels = load(name).single
        t_out, slope = kernels.forward(*arrays, neuron)
        ours, our_slope = single.forward(*there, neuron)
        np.testing.assert_allclose(np.asarray(ours), t_out, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(np.asarray(our_slope), slope, rtol=1e-7, atol=1e-7)
        somebody_s = t_out + 0.01
        for at_crossing in (False, True):
            wanted = kernels.slopes(*arrays, neuron, somebody_s, at_crossing=at_crossing)
            found = single.slopes(*there, neuron, fake(somebody_s), at_crossing=at_crossing)
            np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-7, atol=1e-8)
        grad = rng.normal(size=t_out.shape)
        state, rule = (t_out, slope, grad), {"active": active, "max_weight_grad": 3.0}
        found = kernels.learn(*arrays, neuron, *state, **rule)
        given = [fake(array) for array in state]
        learnt = single.learn(*there, neuron, *given, **rule)
        for one, other in zip(learnt, found, strict=True):
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-9, atol=1e-11)
        times = kernels.times_grad(*arrays, neuron, *state, active=active)
        of_times = single.times_grad(*there, neuron, *given, active=active)
        np.testing.assert_allclose(np.asarray(of_times), times, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_pre", [2, 33])
def test_float32_is_float64_but_for_rounding(n_pre: int) -> None:
    exact, rounded = case(n_pre), case(n_pre, dtype=np.float32)
    for name, kernels in (("device", single), ("cpu", load("cpu").single)):
        arrays = [fake(a) if name == "device" else a for a in rounded]
        t_out, slope = (np.asarray(a) for a in kernels.forward(*arrays, NEURONS[1]))
        assert t_out.dtype == slope.dtype == np.float32
        expected = load("cpu").single.forward(
            *(a.astype(np.float32).astype(float) for a in exact), NEURONS[1]
        )
        same = slope > 0.1
        assert same.any()
        np.testing.assert_allclose(t_out[same], expected[0][same], rtol=1e-5)


def test_the_limit_drops_what_the_cpu_drops() -> None:
    t_in, weights, delays = case(33)
    cpu, active = load("cpu").single, np.array([True, False])
    t_out, slope = cpu.forward(t_in, weights, delays, LIF())
    grad = np.random.default_rng(1).normal(size=t_out.shape)
    sums = []
    for limit in (0.02, 0.1, math.inf):
        rule: Any = {"active": active, "max_weight_grad": limit}
        found = cpu.learn(t_in, weights, delays, LIF(), t_out, slope, grad, **rule)
        there = [fake(array) for array in (t_in, weights, delays)]
        ours = single.learn(*there, LIF(), *(fake(array) for array in (t_out, slope, grad)), **rule)
        for one, other in zip(ours, found, strict=True):
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-9, atol=1e-12)
            assert not np.asarray(one)[1].any()  # a replica that wants none
        sums.append(np.abs(np.asarray(ours[0])).sum())
    assert sums[0] < sums[1] < sums[2]


def test_parts_of_a_batch_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [fake(array) for array in case(33)]
    whole = [np.asarray(a) for a in single.forward(*there, LIF())]
    monkeypatch.setattr(single, "WORKSPACE", 2 * 2 * 5 * 33 * 16)  # two samples
    for one, other in zip(single.forward(*there, LIF()), whole, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (4, 3, 0)])
def test_nothing_to_do_is_done(shape: tuple[int, int, int]) -> None:
    n_batch, n_pre, n_post = shape
    t_in, weights = fake(np.zeros((1, n_batch, n_pre))), fake(np.zeros((2, n_pre, n_post)))
    t_out, slope = single.forward(t_in, weights, weights, LIF())
    assert t_out.shape == (2, n_batch, n_post)
    assert np.isinf(np.asarray(t_out)).all()
    rule: Any = {"active": np.ones(2, np.bool_)}
    state = t_out, slope, t_out
    learnt = single.learn(t_in, weights, weights, LIF(), *state, max_weight_grad=1.0, **rule)
    assert [a.shape for a in learnt] == [weights.shape] * 2
    assert single.slopes(t_in, weights, weights, LIF(), t_out, at_crossing=True).shape == t_out.shape
    assert single.times_grad(t_in, weights, weights, LIF(), *state, **rule).shape == (2, n_batch, n_pre)


def test_arrays_that_do_not_fit_are_refused() -> None:
    t_in, weights, _ = (fake(array) for array in case(3))
    with pytest.raises(ShapeError, match=r"delays must have shape \(2, 3, 5\), got \(2, 3, 4\)"):
        single.forward(t_in, weights, fake(np.zeros((2, 3, 4))), LIF())
    with pytest.raises(DtypeError, match="delays must be float64, got float32"):
        single.forward(t_in, weights, fake(np.zeros((2, 3, 5), np.float32)), LIF())


@pytest.mark.parametrize("neuron", NEURONS[:3], ids=str)
def test_silent_neurons_are_highest_where_the_cpu_finds_them(neuron: LIF) -> None:
    t_in, weights, delays = case(31, n_in=2)
    weights *= 0.2
    cpu, there = load("cpu").single, [fake(array) for array in (t_in, weights, delays)]
    own = Delays(synaptic=there[2])
    state = gs.network.one_layer.answered(load("cuda"), there[0], None, there[1], neuron, own)
    silent = np.isinf(np.asarray(state.t_out))
    peaks = cpu.peaks(t_in, weights, delays, neuron, silent)
    share, labels = fake(np.full((2, 5), 0.7)), fake(np.zeros((2, 9), np.int64))
    pull = cuda_waking.Pull.of(state, math.inf, neuron.span, labels, share, 3.0, 0.4, False)
    seen, _ = pull.applied(load("cuda"), state, there[1], neuron, own, state.t_out)
    expected = np.where(silent & np.isfinite(peaks), peaks, np.asarray(state.t_out))
    np.testing.assert_allclose(np.asarray(seen.t_cross), expected, rtol=1e-10)
    assert (np.asarray(seen.slope)[silent & np.isfinite(peaks)] < 0.0).all()


KINDS = ("axonal", "dendritic", "synaptic", "axonal+dendritic+synaptic")
VARIANTS = {
    **{kind: Setup(delays=kind, bump_replaces_step=False) for kind in KINDS},
    "clipped": Setup(delays="axonal+synaptic", delay_form="clipped"),
    "waking": replace(WAKING, delays="axonal+synaptic"),
    "noise": Setup(delays="dendritic", input_noise=0.1),
    "frozen": Setup(delays="synaptic", frozen=True),
    "units": Setup(delays="synaptic", unit=3.0),
}
each_variant = pytest.mark.parametrize("setup", VARIANTS.values(), ids=VARIANTS.keys())


@each_variant
def test_training_on_the_device_is_training_on_the_cpu(setup: Setup) -> None:
    ours, theirs = setup.trained(), replace(setup, backend="cpu").trained()
    assert_close_runs(ours, theirs, 1e-3 if setup.input_noise else 1e-8)
    begun, state = setup.trainer().state(), ours[0].state()
    moved = {name for name in state if not np.array_equal(state[name], begun[name])}
    assert {name for name in state if "_delay_" in name} <= moved
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_maps_learn_delays_as_on_the_cpu(kind: str) -> None:
    maps = Maps(4, 2, padding=1, pad_time=2.0, pool=2)
    setup = Setup(hidden=maps, bias=((0.9,), (0.4,)), delays=kind, bump_replaces_step=False)
    assert_close_runs(setup.trained(), replace(setup, backend="cpu").trained(), 1e-8)


def test_nothing_waits_and_nothing_crosses() -> None:
    t_in, weights, delays = (fake(array) for array in case(5))
    active, cuda = fake(np.ones(2, np.bool_)), load("cuda")

    def step() -> None:
        state = cuda.single.forward(t_in, weights, delays, LIF())
        rule: Any = {"active": active}
        spikes = *state, state[0]
        cuda.single.learn(t_in, weights, delays, LIF(), *spikes, max_weight_grad=1.0, **rule)
        cuda.single.over_samples(
            *[cuda.single.times_grad(t_in, weights, delays, LIF(), *spikes, **rule)] * 2, active
        )

    step()  # constants are sent by the first
    with closed():
        step()


def test_a_network_of_the_library_answers_and_learns_there() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 6)), rng.integers(3, size=30)
    nets = [
        gs.Network([6, 8, 3], backend=name, seed=1, delays="axonal+dendritic+synaptic")
        for name in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(nets[0](t_in), nets[1](t_in), rtol=1e-10)
    for net in nets:
        gs.fit(net, t_in, labels, epochs=2, batch_size=10)
    for name, one in nets[0].parameters.arrays().items():
        np.testing.assert_allclose(one, nets[1].parameters.arrays()[name], rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(*(net(t_in, layers=True)[0] for net in nets), rtol=1e-7)


@pytest.mark.parametrize("replicas", [False, True])
def test_arrays_of_frameworks_are_computed_where_they_are(replicas: bool) -> None:
    t_in, weights, delays = case(7)
    arrays = [np.broadcast_to(t_in, (2, *t_in.shape[1:])), 1.0 + weights, delays]
    if not replicas:
        arrays = [array[0] for array in arrays]
    arrays[1] = arrays[1].swapaxes(-1, -2).copy().swapaxes(-1, -2)  # strides of somebody's own
    there = [fake(array) for array in arrays]
    t_out, found = delayed_times(LIF(), *arrays), delayed_times(LIF(), *there)
    assert found.shape == t_out.shape
    assert np.isfinite(t_out).any()
    np.testing.assert_allclose(np.asarray(found), t_out, rtol=1e-10)
    grad = np.random.default_rng(0).normal(size=t_out.shape)
    expected = delayed_pull_back(LIF(), math.inf, *arrays, t_out, grad)
    grads = delayed_pull_back(LIF(), math.inf, *there, fake(t_out), fake(grad))
    for one, other in zip(grads, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-7, atol=1e-9)
    grad[np.isfinite(t_out)] = math.nan
    with pytest.raises(ValueRangeError, match="the gradient of spike times must be finite"):
        delayed_pull_back(LIF(), math.inf, *there, fake(t_out), fake(grad))
    there[2] -= 1.0
    with pytest.raises(ValueRangeError, match="delays must be 0 or more and finite, got -"):
        delayed_times(LIF(), *there)


SMALL = [
    "backend=cuda",
    "dataset.n_train=60",
    "dataset.n_validation=20",
    "dataset.n_test=20",
    "training.batch_size=30",
    "training.epochs=1",
]


@pytest.mark.parametrize("experiment", ["yin_yang_delays", "yin_yang_few_delays"])
def test_the_experiments_are_on_the_device(experiment: str) -> None:
    (job,) = jobs([f"experiment={experiment}", *SMALL], multirun=False)
    assert new_trainer(build(job.config)).step.kind.name == "device"


CHIPS = {
    "bss2": ["experiment=yin_yang_bss2_delays", "model.hidden=[7]"],
    "all kinds": [
        "experiment=yin_yang_bss2_delays", "model.delays=axonal+dendritic+synaptic", "model.hidden=[7]",
    ],
    "exact": ["experiment=yin_yang_bss2_delays", "substrate.gradient=exact", "model.hidden=[7]"],
    "grid": [
        "experiment=yin_yang_bss2_delays", "substrate.delay_lsb=0.1", "substrate.delay_std=0.05",
        "model.delays=axonal+synaptic", "model.hidden=[7]",
    ],
    "a chip a step": [
        "experiment=yin_yang_bss2_delays", "substrate.new_chip=step", "substrate.delay_std=0.05",
        "model.hidden=[7]",
    ],
    "waking": ["experiment=yin_yang_bss2_delays", "training.silence=waking", "model.hidden=[7]"],
}  # fmt: skip


@pytest.mark.parametrize("given", CHIPS.values(), ids=CHIPS.keys())
def test_chips_with_delays_train_as_on_the_cpu(given: list[str]) -> None:
    found = []
    device.launches.clear()
    for backend in ("cuda", "cpu"):
        asked = [*SMALL[1:], f"backend={backend}", "dtype=float64", "training.epochs=2", "replicas=2"]
        (job,) = jobs([*given, *asked], multirun=False)
        parts = build(job.config)
        trainer = new_trainer(parts)
        train, validation = (
            Labelled(parts.receive(split.features), split.labels)
            for split in (parts.dataset.train, parts.dataset.splits["validation"])
        )
        found.append((trainer, list(trainer.train(train, validation, 2))))
    assert found[0][0].step.kind.name == "device"
    assert ("graph" in device.launches) is ("substrate.new_chip=step" not in given)
    assert any("_delay_" in name for name in found[0][0].state())
    assert_close_runs(*found, 1e-6)


def test_a_network_with_delays_goes_on_a_chip() -> None:
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.15, 2.0, (30, 6))
    nets = [
        gs.Network([6, 8, 3], backend=name, seed=1, delays="axonal+dendritic+synaptic").on(gs.Chip("bss2"))
        for name in ("cuda", "cpu")
    ]
    assert nets[0].backend.name == "cuda"
    for one, other in zip(*(net(t_in, layers=True) for net in nets), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_one_network_with_delays_is_asked_of_many_chips(kind: str) -> None:
    found = []
    for backend in ("cuda", "cpu"):
        asked = [
            "experiment=yin_yang_bss2_delays",
            f"model.delays={kind}",
            "model.hidden=[7]",
            "dtype=float64",
        ]
        (job,) = jobs([*asked, *SMALL[1:], f"backend={backend}"], multirun=False)
        parts = build(job.config)
        learnt = new_trainer(parts).parameters
        data = parts.dataset.splits["test"]
        one = Labelled(parts.receive(data.features), data.labels)
        parts, _ = parts.having(learnt, parts.network)
        found.append(accuracies(parts, learnt.weights, one, 3, 4))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("constants", [(), ("threshold", "tau_syn")], ids=["", "constants"])
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_memory_is_planned(kind: str, constants: tuple[str, ...]) -> None:
    setup = Setup(
        hidden=33, bump_replaces_step=False, n_train=400, batch_size=129, delays=kind, constants=constants
    )
    trainer, _ = setup.trained(1)
    layers, names = trainer.network.layers, trainer.parameters.trained
    sizes = [(layer.n_pre, layer.n_out) for layer in layers]
    planned = memory.plan(sizes, 129, 2, np.float64, trained=names)
    lasting = sum(size for name, size in planned.arrays.items() if name.endswith((" weights", "optimiser")))
    numbers = memory.learnt_bytes(layers, names, 129, 33, np.float64, 2)
    small = 2 * 129 * (8 + 8 + 2) + 4096 * len(names)  # labels, losses, flags; constants of a few neurons
    peak = trainer.step._lane._pool.peak  # type: ignore[attr-defined]
    assert peak <= planned.total - lasting + small + numbers


def test_many_replicas_of_few_synapses_are_planned_as_such() -> None:
    asked = ["experiment=yin_yang_delays", "replicas=2000", "training.batch_size=50", "dtype=float32"]
    (job,) = jobs([*asked, "backend=cuda"], multirun=False)
    parts = build(job.config)
    needed = memory.learnt_bytes(parts.network.layers, parts.trained, 50, 1000, np.float32, 2000)
    assert needed < 1 << 29  # sums over three parts of a batch, and twice 128 MiB for events


def test_room_for_sums_does_not_depend_on_replicas() -> None:
    assert single_source.learnt_parts(5, 30, 300) == 18
    assert single_source.learnt_parts(1025, 350, 300) == 1
    assert single_source.learnt_parts(0, 3, 0) == 1


def test_a_clocked_chip_hears_the_same_from_both() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 6)), rng.integers(3, size=30)
    costs = []
    for name in ("cuda", "cpu"):
        net = gs.Network([6, 8, 3], backend=name, seed=1, delays="axonal+dendritic+synaptic")
        costs.append(gs.price(net, t_in, labels, "loihi").summary)
    assert costs[0]["in_steps"] is not None
    assert costs[0]["in_steps"]["accuracy"] == costs[1]["in_steps"]["accuracy"]
    assert costs[0]["energy_per_classification_J"] == pytest.approx(costs[1]["energy_per_classification_J"])
