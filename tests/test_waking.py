"""Peaks of membranes, and the gradient that wakes silent neurons."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.api.fit import _noise as fit_noise
from gpuspike.errors import ValueRangeError
from gpuspike.kernels import load, reference
from gpuspike.network.delays import Delays
from gpuspike.network.layers import LayerInput, Moment
from gpuspike.network.network import Architecture
from gpuspike.network.one_layer import PushedPairs, answered
from gpuspike.network.plan import read_plan
from gpuspike.neuron import LIF
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.fit import Recipe, step_kind
from gpuspike.training.losses import TTFSCrossEntropy
from gpuspike.training.optimizers import Adam
from gpuspike.training.step import TrainingRule
from gpuspike.training.waking import Waking
from gpuspike.training.when_read import READ_WITH, unread

BACKENDS = ("reference", "cpu")
RNG = np.random.default_rng(5)
EACH = RNG.uniform(0.5, 2.0, (4, 9))
NEURONS = {
    "equal": LIF(),
    "double": LIF(2.0, 1.0),
    "any ratio, other units": LIF(0.7, 1.9, threshold=0.7, leak=-0.2, capacitance=0.5),
    "non-leaky": LIF(float("inf"), 1.0),
    "each its own": LIF(EACH[0], EACH[1], EACH[2], 0.0, EACH[3]),
}


def problem(n_pre: int = 31) -> tuple[Any, Any]:
    rng = np.random.default_rng(n_pre)
    t_in = rng.uniform(0.0, 3.0, (2, 5, n_pre))
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    t_in[0, 1] = np.inf  # nothing comes
    t_in[1, 1] = 1.0  # all at once
    t_in[0, 2] = np.round(t_in[0, 2], 1)  # some together
    t_in[0, 3] += np.where(rng.random(n_pre) < 0.5, 50.0, 0.0)  # far apart
    weights = rng.normal(0.0, 0.3, (2, n_pre, 9))
    weights[:, :, 3] = -np.abs(weights[:, :, 3])  # never above the leak
    return t_in, weights


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS.keys())
@pytest.mark.parametrize("n_pre", [1, 31])
@pytest.mark.parametrize("delayed", [False, True])
def test_both_find_the_peak_and_nothing_is_higher(neuron: LIF, n_pre: int, delayed: bool) -> None:
    t_in, weights = problem(n_pre)
    delays = np.random.default_rng(1).uniform(0.0, 1.0, weights.shape) if delayed else None
    wanted = np.random.default_rng(2).random((2, 5, 9)) < 0.7
    ours, theirs = (load(name).single.peaks(t_in, weights, delays, neuron, wanted) for name in BACKENDS[::-1])
    np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=1e-10)
    assert np.isinf(ours[~wanted]).all()
    assert np.isinf(ours[0, 1]).all()
    for r, b, j in zip(*np.nonzero(np.isfinite(ours)), strict=True):
        one, arriving = neuron.of(r, j), t_in[r, b] if delays is None else t_in[r, b] + delays[r, :, j]
        grid = np.append(np.linspace(0.0, 80.0, 4000), ours[r, b, j])
        u = reference.membrane(grid, arriving, weights[r, :, j, None], one)[:, 0] - one.leak
        assert u[-1] >= u.max() - 1e-12 or u.max() <= 0.0
        if u.max() <= 0.0:  # every input is heard
            assert ours[r, b, j] > arriving[np.isfinite(arriving)].max()


def penalty(network: Architecture, weights: list[Any], t_in: Any, labels: Any, waking: Waking) -> float:
    """What `Waking` adds to the loss, from membranes on a fine grid."""
    states = network.forward(weights, network.receive(t_in))
    total = 0.0
    for layer, state, w, push in zip(
        network.layers, states, weights, waking.pushes(network.layers, states, labels), strict=True
    ):
        if push is None:
            continue
        t_peak = load("reference").single.peaks(state.t_in, w, None, layer.neuron, push.wanted)
        for r, b, j in zip(*np.nonzero(push.wanted), strict=True):
            one = layer.neuron.of(r, j)
            heard = np.minimum(state.t_in[r, b], 1e9)  # an inf would be subtracted from a time
            u = reference.membrane([t_peak[r, b, j]], heard, w[r, :, j, None], one)[0, 0]
            total += (one.threshold - u) / push.slope[r, j]
    return total


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("neuron", [NEURONS["equal"], NEURONS["any ratio, other units"]])
def test_the_gradient_is_that_of_the_distance_to_the_threshold(backend: str, neuron: LIF) -> None:
    network = Architecture.build((12, 7, 3), ((0.4,), ()), neuron, load(backend))
    rng = np.random.default_rng(8)
    t_in, labels = rng.uniform(0.0, 2.0, (1, 6, 12)), rng.integers(3, size=(1, 6))
    unit = float(neuron.drive) / neuron.tau_fast
    weights = [unit * rng.normal(mean, 0.1, (1, *s)) for mean, s in ((0.14, (13, 7)), (0.05, (7, 3)))]
    waking = Waking((0.0, 0.0), 1.0, 1, strength=2.0)
    waking.watch(network.layers)
    states = network.forward(weights, network.receive(t_in))
    waking.follow(network.layers, states)
    pushes = waking.pushes(network.layers, states, labels)
    assert all(push is not None for push in pushes)
    found = network.backward(
        weights, states, np.zeros_like(states[-1].t_out), active=np.ones(1, np.bool_), max_weight_grad=np.inf,
        pushes=pushes,
    )  # fmt: skip
    step = 1e-6 * unit
    for number in range(2):
        for _ in range(6):
            i, j = rng.integers(weights[number].shape[1]), rng.integers(weights[number].shape[2])
            sides = []
            for sign in (1.0, -1.0):
                moved = [w.copy() for w in weights]
                moved[number][0, i, j] += sign * step
                sides.append(penalty(network, moved, t_in, labels, waking))
            slope = (sides[0] - sides[1]) / (2.0 * step)
            assert found.weights[number][0, i, j] == pytest.approx(slope, rel=1e-5, abs=1e-7 / unit)


def test_maps_are_pulled_as_one_neuron_for_each_place() -> None:
    """A convolution is pulled as its unrolled dense layer is, summed over what shares a weight."""
    kernels = load("cpu")
    plan, image = read_plan([{"conv": 3, "kernel": 2}, {"dense": 2}]), (3, 3, 1)
    network = Architecture.build((9, *plan), ((), ()), LIF(), kernels, image=image)
    rng = np.random.default_rng(2)
    t_in, labels = rng.uniform(0.0, 2.0, (1, 5, 9)), rng.integers(2, size=(1, 5))
    weights = [rng.normal(0.3, 0.3, (1, layer.n_pre, layer.n_post)) for layer in network.layers]
    waking = Waking((0.0, 0.0), 1.0, 1, strength=1.0)
    waking.watch(network.layers)
    states = network.forward(weights, network.receive(t_in))
    waking.follow(network.layers, states)
    pushes = waking.pushes(network.layers, states, labels)
    assert pushes[0] is not None
    options: Any = {"active": np.ones(1, np.bool_), "max_weight_grad": np.inf}
    grad = np.zeros_like(states[-1].t_out)
    found = network.backward(weights, states, grad, pushes=[pushes[0], None], **options).weights[0]
    convolution = network.layers[0].convolution
    assert convolution is not None
    wanted = pushes[0].wanted.reshape(1, 5, convolution.n_positions, 3)
    expected = np.zeros_like(found)
    for b, place, j in zip(*np.nonzero(wanted[0]), strict=True):
        arriving = convolution.patches(t_in[:, b, None])[0, place]
        column = weights[0][0, :, j]
        at = load("reference").single.peaks(
            arriving[None, None], column[None, :, None], None, LIF(), np.ones((1, 1, 1), np.bool_)
        )
        expected[0, :, j] -= LIF().kernel(at[0, 0, 0] - arriving) / pushes[0].slope[0, j]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kinds", ["axonal", "synaptic", "axonal+dendritic+synaptic"])
def test_a_peak_waits_for_what_is_delayed(kinds: str) -> None:
    t_in, weights = problem()
    n_replica, n_pre, n_post = weights.shape
    shapes = {"axonal": (n_replica, n_pre), "dendritic": (n_replica, n_post), "synaptic": weights.shape}
    rng, kernels = np.random.default_rng(0), load("cpu")
    delays = Delays(**{kind: rng.uniform(0.0, 1.0, shapes[kind]) for kind in kinds.split("+")})
    state = answered(kernels, t_in, None, 0.2 * weights, LIF(), delays)
    silent = np.isinf(state.t_out)
    assert silent.any()
    pairs = PushedPairs(silent, np.ones((n_replica, n_post)))
    pushed, _ = pairs.applied(kernels, state, 0.2 * weights, LIF(), delays, state.slope)
    arriving = t_in if delays.axonal is None else t_in + delays.axonal[:, None]
    peaks = kernels.single.peaks(arriving, 0.2 * weights, delays.synaptic, LIF(), silent)
    np.testing.assert_array_equal(pushed.t_cross, np.where(np.isfinite(peaks), peaks, state.t_cross))


def test_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueRangeError, match=r"waking must be positive and finite, got 0\.0"):
        Waking((0.5,), 0.1, 1, strength=0.0)
    with pytest.raises(ValueRangeError, match="silence must be bumping, waking, none, got 'sleep'"):
        Recipe(silence="sleep", bump_value=0.1).make_bumping(2, 1)
    network = Architecture.build((3, 2), ((),), LIF(), load("cpu"))
    parts = network, TTFSCrossEntropy(), Adam(), TrainingRule(10, 10), 2
    assert step_kind(*parts, on_device=True, wakes=True).name == "device"
    chip = EmulatedChip(Substrate("x", spike_jitter=0.1), network.layers, network.kernels, [0])
    assert step_kind(OnChip(network, chip), *parts[1:], on_device=True, wakes=True).name == "device"
    *parts, _, _ = parts
    assert step_kind(*parts, TrainingRule(10, 10, trials=2), 2, on_device=True).name == "device"


def test_none_wakes_nobody() -> None:
    bumping = Recipe(silence="none", bump_value=0.1).make_bumping(2, 1)
    assert bumping.choose(np.ones((2, 1))).tolist() == [-1]


def test_a_value_that_nothing_reads_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.0, 2.0, (20, 4)), np.arange(20) % 3
    for value, words in (
        ({"waking": 50.0}, "waking is read with silence='waking', got 'bumping'"),
        ({"gamma": 0.5}, "gamma is read with schedule='step', got 'constant'"),
        ({"step_size": 5}, "step_size is read with schedule='step', got 'constant'"),
        ({"xi_per_noise": 2.0}, "xi_per_noise is read with match_noise=True, got False"),
        (
            {"silence": "waking", "bump_targeted": False},
            "bump_targeted is read with silence='bumping', got 'w",
        ),
        (
            {"silence": "none", "max_silent": [1, 1]},
            "max_silent is read with silence='bumping' or 'waking', g",
        ),
    ):
        with pytest.warns(UserWarning, match=words) as told:
            gs.fit(gs.Network([4, 5, 3], backend="cpu"), t_in, labels, epochs=1, **value)
        assert [note.filename for note in told] == [__file__]
        with pytest.warns(UserWarning, match=words):
            gs.Recipe().changed(**value)
    assert gs.Recipe(waking=50.0).changed(epochs=3).waking == 50.0  # which was not given here
    assert gs.Recipe(silence="waking").changed(waking=50.0).waking == 50.0


def test_the_table_of_what_is_read_names_values_that_there_are() -> None:
    known = {item.name for item in fields(gs.Recipe)}
    for name, (decides, _) in READ_WITH.items():
        assert {name, decides} <= known | {"xi_per_noise"}


@pytest.mark.slow  # half a minute of a core, most of it compiling
def test_a_network_in_python_is_woken_and_matched_to_its_chip() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.0, 2.0, (60, 8)), np.arange(60) % 3
    recipe = gs.Recipe(epochs=2, batch_size=20, silence="waking", waking=10.0, match_noise=True)
    on_chip = gs.Network([8, 20, 3]).on(gs.Chip(spike_jitter=0.1, seed=1))
    assert fit_noise(on_chip) == pytest.approx(0.1)
    assert fit_noise(gs.Network([8, 20, 3])) == 0.0
    once, twice = (gs.Network([8, 20, 3]).on(gs.Chip(spike_jitter=0.1, seed=1)) for _ in range(2))
    gs.fit(once, t_in, labels, recipe=recipe.changed(epochs=2))
    gs.fit(twice, t_in, labels, recipe=recipe.changed(epochs=1))
    gs.fit(twice, t_in, labels, recipe=recipe.changed(epochs=1))
    for one, other in zip(once.parameters.weights, twice.parameters.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(name.startswith("bump_share") for name in twice.state)


def test_a_limit_of_one_pulls_no_hidden_neuron() -> None:
    network = Architecture.build((12, 7, 3), ((), ()), LIF(), load("cpu"))
    waking = Waking((1.0, 1.0), 1.0, 1, strength=1.0)
    waking.watch(network.layers)
    weights = [np.full((1, layer.n_pre, layer.n_post), 1e-3) for layer in network.layers]
    states = network.forward(weights, network.receive(np.ones((1, 4, 12))))
    waking.follow(network.layers, states)
    pushes = waking.pushes(network.layers, states, np.zeros((1, 4), np.int64))
    assert pushes[0] is None
    assert pushes[1] is not None


def test_a_spike_that_a_chip_loses_wakes_nobody() -> None:
    """Its membrane has crossed: pulled again and again, weights would grow without end."""
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.0, 1.0, (300, 4))
    labels = (t_in[:, 0] > t_in[:, 1]).astype(int) + (t_in[:, 2] > 0.6)
    net = gs.Network([4, 30, 3], [[0.9], [0.9]], seed=0, backend="cpu")
    net = net.on(gs.Chip("ideal", seed=3, lost_spikes=0.3))
    gs.fit(net, t_in, labels, epochs=60, batch_size=30, silence="waking", waking=5.0)
    assert np.abs(net.parameters.weights[-1]).mean() < 1.0


def test_a_spike_that_comes_too_late_is_pulled() -> None:
    net = gs.Network([4, 30, 3], [[0.9], [0.9]], seed=0, backend="cpu", weight_mean=[0.6, 0.1])
    t_in = np.random.default_rng(0).uniform(0.0, 1.0, (300, 4))
    net = net.on(gs.Chip("ideal", seed=3, trial_end=1.0))
    before = np.isinf(net(t_in)).mean()
    history = gs.fit(net, t_in, np.arange(300) % 3, epochs=60, batch_size=30, silence="waking", waking=5.0)
    assert history.step == "compiled"
    assert np.isinf(net(t_in)).mean() < 0.5 * before


def test_who_is_dead_on_one_chip_is_not_woken_for_it_on_the_next() -> None:
    network = Architecture.build([4, 6, 3], [[], []], LIF(), load("cpu"))
    weights = [np.full((1, 4, 6), 2.0), np.full((1, 6, 3), 2.0)]  # all spike
    received = LayerInput(np.full((1, 5, 4), 0.1), None)

    def chip(seed: int) -> EmulatedChip:
        return EmulatedChip(Substrate(dead_neurons=0.5), network.layers, network.kernels, [seed])

    first, second = 0, 1
    fixed = OnChip(network, chip(first))
    fresh = OnChip(network, chip(first), fresh=lambda moment: chip(second if moment.batch else first))
    (gone, _), (later, _) = chip(first).dead_neurons, chip(second).dead_neurons
    assert gone is not None
    assert later is not None
    assert (gone & ~later).any()
    for machine in (fixed, fresh):
        waking = Waking([0.9, 0.0], 0.1, 1)
        waking.watch(network.layers)
        states = machine.forward(weights, received, Moment(epoch=0, batch=0))
        waking.follow(network.layers, states, machine.dead_maps)
        np.testing.assert_array_equal(waking.share[0], gone.astype(float) * (machine is fixed))
    states = fresh.forward(weights, received, Moment(epoch=0, batch=1))
    pushes = waking.pushes(network.layers, states, np.zeros((1, 5), np.int64), fresh.dead_maps)
    assert pushes[0] is None


def test_a_value_of_a_part_of_one_s_own_may_have_any_name() -> None:
    values = {"gamma": 3.0, "loss": "focal"}  # of the training, beside which no schedule stands
    assert list(unread(["gamma", "waking", "xi"], values)) == []


def test_what_is_asked_of_a_chip_s_noise_without_any_is_warned_of() -> None:
    net = gs.Network([4, 5, 3], backend="cpu", weight_mean=1.0)
    t_in, labels = np.random.default_rng(0).random((6, 4)), [0, 1, 2, 0, 1, 2]
    with pytest.warns(UserWarning, match="match_noise has no noise to match"):
        gs.fit(net, t_in, labels, epochs=1, match_noise=True)
    with pytest.warns(UserWarning, match="trials=2 presents each sample 2 times alike"):
        gs.fit(net, t_in, labels, epochs=1, trials=2)
    gs.fit(net, t_in, labels, epochs=1, trials=2, input_noise=0.1)
    gs.fit(net.on(gs.Chip(spike_jitter=0.1)), t_in, labels, epochs=1, trials=2, match_noise=True)
