"""Convolutions on emulated chips: each neuron by itself in the oracle, gradients against differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.errors import ConfigError
from gpuspike.kernels import load, reference
from gpuspike.kernels.convolution import Convolution
from gpuspike.network.delays import Delays
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.network.network import Architecture
from gpuspike.network.parameters import LayerParameters, Parameters
from gpuspike.neuron import LIF
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.substrate.loop import EXACT, NOMINAL
from gpuspike.training.bumping import Bumping
from gpuspike.training.waking import Waking

Array = NDArray[Any]

DISTORTED = {
    "weights": {"weight_max": (1.5,), "weight_bits": 5},
    "gain": {"gain_std": 0.2},
    "write_error": {"write_std": 0.05},
    "dead_synapses": {"dead_synapses": 0.1},
    "dead_neurons": {"dead_neurons": 0.2},
    "stuck_synapses": {"weight_max": (1.5,), "stuck_synapses": 0.1},
    "threshold": {"threshold_std": 0.2, "threshold_shift": 0.1},
    "always_on": {"threshold_std": 1.0},
    "time_constants": {"tau_mem_std": 0.2, "tau_syn_std": 0.1, "tau_mem_shift": 0.1},
    "threshold_noise": {"threshold_noise": 0.1},
    "spike_jitter": {"spike_jitter": 0.05},
    "lost_spikes": {"lost_spikes": 0.3},
    "time_grid": {"time_grid": 0.4},
    "trial_end": {"trial_end": 2.0},
    "input_jitter": {"input_jitter": 0.05},
    "lost_inputs": {"lost_inputs": 0.2},
    "all": {
        "weight_max": (1.5,), "weight_bits": 6, "gain_std": 0.1, "write_std": 0.02, "dead_synapses": 0.05,
        "dead_neurons": 0.1, "stuck_synapses": 0.02, "threshold_std": 0.1, "tau_mem_std": 0.1,
        "tau_syn_std": 0.05, "threshold_noise": 0.03, "spike_jitter": 0.02, "lost_spikes": 0.05,
        "time_grid": 0.01, "trial_end": 3.0, "input_jitter": 0.02, "lost_inputs": 0.05,
    },
}  # fmt: skip

MAPS = Convolution((5, 6, 2), 3, 3, stride=1, padding=1, pad_time=1.5, pool=2)
MOMENT = Moment(3, 2, 0)


def layers(neuron: LIF | None = None) -> tuple[Layer, ...]:
    """Maps, pooled, and a fully connected layer behind them, each with bias spikes."""
    neuron = neuron or LIF(1.0, 1.0)
    return (
        Layer(MAPS.n_in, MAPS.n_out, (0.9,), neuron, convolution=MAPS),
        Layer(MAPS.n_out, 4, (0.5, 2.0), neuron),
    )


def drawn(
    n_replica: int = 2, n_batch: int = 3, dtype: str = "float64", seed: int = 0
) -> tuple[Array, list[Array]]:
    """Input times, some silent or at once, bias spikes included; weights of both layers."""
    r = np.random.default_rng(seed)
    t_in = r.uniform(0.0, 1.5, (n_replica, n_batch, MAPS.n_in + 1))
    t_in[r.random(t_in.shape) < 0.2] = math.inf
    t_in[:, :, :8] = 1.0
    t_in[..., -1] = 0.9
    weights = [r.normal(0.25, 0.4, (n_replica, 19, 3)), r.normal(0.1, 0.25, (n_replica, MAPS.n_out + 2, 4))]
    return t_in.astype(dtype), [w.astype(dtype) for w in weights]


def chip_of(values: dict[str, Any], seeds: Any = (5, 6), stack: Any = None) -> EmulatedChip:
    return EmulatedChip(Substrate(**values), stack or layers(), load("cpu"), seeds)


def test_the_dead_among_those_that_share_weights_are_nobody_s_business() -> None:
    """They are neither counted as silent, nor pulled, nor bumped."""
    t_in, weights = drawn()
    chip = chip_of({"dead_neurons": 0.8})
    weights = [np.full_like(w, 1.0) for w in weights]
    machine = OnChip(Architecture(layers(), load("cpu")), chip, NOMINAL)
    states = machine.forward(weights, LayerInput(np.minimum(t_in, 2.0), None), MOMENT)
    dead = chip.dead_maps
    assert dead[0] is not None
    assert dead[1] is None
    np.testing.assert_array_equal(
        np.isinf(states[0].seen), np.broadcast_to(dead[0][:, None], states[0].seen.shape)
    )
    silent = np.isinf(states[0].t_out).mean(axis=(1, 2))
    np.testing.assert_allclose(chip.dead_fraction[0], silent)
    waking = Waking([0.0, 0.0], 0.1, 2)
    waking.watch(layers())
    labels = np.zeros((2, 3), np.int64)
    waking.follow(layers(), states, dead)
    assert all((share == 0.0).all() for share in waking.share)
    assert waking.pushes(layers(), states, labels, dead) == [None, None]
    assert waking.pushes(layers(), states, labels) == [None, None], "nobody was silent before"
    waking.follow(layers(), states)
    assert waking.pushes(layers(), states, labels)[0] is not None
    bumped = [w.copy() for w in weights]
    unheard = [MAPS.unheard(dead[0]), None]
    assert unheard[0].any()
    Bumping([0.0, 0.0], 0.1, 2).apply(bumped, states, np.zeros(2, np.int64), unheard)
    np.testing.assert_array_equal(bumped[0], weights[0])


def test_padding_keeps_the_chip_s_time() -> None:
    chip = chip_of({"time_grid": 0.4, "trial_end": 1.7})
    padded, plain = chip.convolutions
    assert padded is not None
    assert plain is None
    assert padded.pad_time == pytest.approx(1.6)
    late = chip_of({"trial_end": 1.2}).convolutions[0]
    assert late is not None
    assert math.isinf(late.pad_time)


def one_by_one(chip: EmulatedChip, w: Array, t_in: Array, n_batch: int) -> tuple[Array, Array, Array]:
    """Crossings and seen times of the maps' neurons, each computed alone by the oracle, and what is heard."""
    silicon = chip._silicon[0]
    come = chip.effective([w, np.zeros((len(w), MAPS.n_out + 2, 4))])[0]
    come = np.tile(come, MAPS.n_positions) if come.shape[2] == 3 else come
    sources = MAPS.sources(1)
    clock, pad_time = chip.substrate.clock, MAPS.pad_time
    if clock.grid:
        pad_time = math.ceil(pad_time / clock.grid - 1e-3) * clock.grid
    pad_time = math.inf if pad_time > clock.last else pad_time
    around = np.concatenate([t_in, np.full((*t_in.shape[:2], 1), pad_time)], axis=2)
    around = np.broadcast_to(around, (len(w), *around.shape[1:]))
    quiet = not any(map(chip.substrate.doing, ("lift", "delay", "clock")))
    trial = None if quiet and silicon.always_on is None else chip._trial(silicon, n_batch, w.dtype, MOMENT)
    t_cross = np.full((len(w), n_batch, MAPS.n_neurons), math.inf)
    for r, j in np.ndindex(len(w), MAPS.n_neurons):
        neuron = silicon.neuron.of(r, j)
        for b in range(n_batch):
            lift = 1.0 if trial is None or trial.lift is None else float(trial.lift[r, b, j])
            if lift <= 0.0:
                t_cross[r, b, j] = 0.0
                continue
            raised = LIF(neuron.tau_mem, neuron.tau_syn, neuron.leak + lift * neuron.span, neuron.leak)
            seen = around[r, b, sources[j // 3]]
            t_cross[r, b, j] = reference.first_spikes(seen[None, None], come[r, None, :, j, None], raised)[
                0, 0, 0
            ]
    t_seen = t_cross.copy()
    if trial is not None:
        if trial.delay is not None:
            t_seen = np.maximum(t_seen + trial.delay, 0.0)
        if trial.grid:
            t_seen = np.ceil(t_seen / trial.grid - 1e-3) * trial.grid
        t_seen[t_seen > trial.end] = math.inf
    rows = t_seen.reshape(len(w), n_batch, 5, 6, 3)[:, :, :4]
    heard = np.stack([rows[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)]).min(axis=0)
    return t_cross, t_seen, heard.reshape(len(w), n_batch, -1)


@pytest.mark.parametrize("name", DISTORTED)
def test_each_neuron_answers_as_the_oracle_says(name: str) -> None:
    t_in, weights = drawn()
    chip = chip_of(DISTORTED[name])
    states = chip.states(weights, LayerInput(t_in, None), MOMENT)
    arrived = states[0].t_in
    t_cross, t_seen, heard = one_by_one(chip, weights[0], arrived, t_in.shape[1])
    np.testing.assert_allclose(states[0].t_cross, t_cross, rtol=1e-10, atol=1e-12)
    if states[0].t_seen is not None:
        np.testing.assert_allclose(states[0].t_seen, t_seen, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(states[0].t_out, heard, rtol=1e-10, atol=1e-12)
    assert 0.1 < np.isfinite(t_cross).mean() < 1.0 or name == "always_on"


SMOOTH = [name for name in DISTORTED if name not in ("weights", "time_grid", "all")]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_exact_gradient_is_that_of_differences(name: str) -> None:
    t_in, weights = drawn(n_replica=1, seed=4)
    machine = OnChip(Architecture(layers(), load("cpu")), chip_of(DISTORTED[name], (5,)), EXACT)
    received = LayerInput(t_in, None)
    r = np.random.default_rng(1)
    states = machine.forward(weights, received, MOMENT)
    pull = r.normal(size=states[-1].t_out.shape)

    def loss(w: list[Array]) -> tuple[float, Any]:
        found = machine.forward(w, received, MOMENT)
        t_out = found[-1].t_out
        which = [np.isfinite(state.t_cross) for state in found]
        return float((pull * np.where(np.isfinite(t_out), t_out, 0.0)).sum()), which

    found = machine.backward(
        weights, states, pull, active=np.ones(1, np.bool_), max_weight_grad=math.inf
    ).weights
    tested = 0
    for layer, (w, grad) in enumerate(zip(weights, found, strict=True)):
        assert grad.shape == w.shape
        for at in r.permutation(w[0].size)[:12]:
            i, j = np.unravel_index(at, w[0].shape)
            ends = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in weights]
                moved[layer][0, i, j] += step
                ends.append(loss(moved))
            if any((a != b).any() for a, b in zip(ends[0][1], ends[1][1], strict=True)):
                continue  # a spike that comes or goes
            tested += 1
            slope = (ends[0][0] - ends[1][0]) / 2e-6
            assert grad[0, i, j] == pytest.approx(slope, rel=2e-5, abs=2e-6)
    assert tested > 12


def test_without_distortions_that_tell_neurons_apart_the_nominal_gradient_is_the_network_s() -> None:
    t_in, weights = drawn()
    network = Architecture(layers(), load("cpu"))
    machine = OnChip(network, chip_of({"weight_max": (50.0,)}), NOMINAL)
    received, active = LayerInput(t_in, None), np.ones(2, np.bool_)
    states, plain = (one.forward(weights, received, MOMENT) for one in (machine, network))
    for ours, theirs in zip(states, plain, strict=True):
        np.testing.assert_array_equal(ours.t_out, theirs.t_out)
    pull = np.random.default_rng(2).normal(size=states[-1].t_out.shape)
    ours, theirs = (
        one.backward(weights, some, pull, active=active, max_weight_grad=math.inf).weights
        for one, some in ((machine, states), (network, plain))
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_the_nominal_gradient_is_that_of_a_layer_of_samples_at_the_chip_s_times() -> None:
    """Of what is heard, in the network's own equations with the programmed weights."""
    t_in, weights = drawn()
    chip = chip_of(DISTORTED["all"])
    machine = OnChip(Architecture(layers(), load("cpu")), chip, NOMINAL)
    states = machine.forward(weights, LayerInput(t_in, None), MOMENT)
    pull = np.random.default_rng(2).normal(size=states[-1].t_out.shape)
    found = machine.backward(weights, states, pull, active=np.ones(2, np.bool_), max_weight_grad=math.inf)
    held, kernels, neuron = chip.program(weights), load("cpu"), LIF(1.0, 1.0)
    behind = states[1]._replace(t_cross=states[1].t_out)
    slope = kernels.crossing_slopes(behind.t_in, held[1], neuron, behind.t_out)
    options: Any = {"active": np.ones(2, np.bool_), "max_weight_grad": math.inf, "need_t_in_grad": True}
    of_times, (of_second,) = kernels.backward(
        [behind._replace(slope=slope)], [held[1]], [neuron], pull, **options
    )
    np.testing.assert_allclose(found.weights[1], of_second, rtol=1e-9, atol=1e-12)
    t_seen = states[0].t_seen
    assert t_seen is not None
    assert of_times is not None
    to_each = MAPS.spread(np.ascontiguousarray(of_times[:, :, : MAPS.n_out]), t_seen)
    rows = (2, -1, 3)
    t_p, t_o = MAPS.patches(states[0].t_in), t_seen.reshape(rows)
    slope = kernels.crossing_slopes(t_p, held[0], neuron, t_o)
    state = states[1]._replace(t_in=t_p, t_out=t_o, t_cross=t_o, slope=slope)
    _, (of_first,) = kernels.backward([state], [held[0]], [neuron], to_each.reshape(rows), **options)
    np.testing.assert_allclose(found.weights[0], of_first, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gradient", [NOMINAL, EXACT])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_replica_on_a_chip_is_its_run_alone(gradient: str, dtype: str) -> None:
    t_in, weights = drawn(3, 5, dtype)
    pull = np.random.default_rng(2).normal(size=(3, 5, 4)).astype(dtype)

    def both(some: slice, seeds: tuple[int, ...]) -> list[Array]:
        machine = OnChip(Architecture(layers(), load("cpu")), chip_of(DISTORTED["all"], seeds), gradient)
        w = [one[some] for one in weights]
        states = machine.forward(w, LayerInput(t_in[some], None), MOMENT)
        grads = machine.backward(
            w, states, pull[some], active=np.ones(len(seeds), np.bool_), max_weight_grad=0.5
        )
        return [*(state.t_out for state in states), *grads.weights]

    together = both(slice(None), (7, 8, 9))
    for replica, seed in enumerate((7, 8, 9)):
        alone = both(slice(replica, replica + 1), (seed,))
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], other[replica])


def test_a_batch_in_parts_answers_as_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    t_in, weights = drawn(2, 7)
    machine = OnChip(Architecture(layers(), load("cpu")), chip_of(DISTORTED["all"]), EXACT)
    pull = np.random.default_rng(2).normal(size=(2, 7, 4))

    def both() -> list[Array]:
        states = machine.forward(weights, LayerInput(t_in, None), MOMENT)
        grads = machine.backward(weights, states, pull, active=np.ones(2, np.bool_), max_weight_grad=0.5)
        return [*(state.t_out for state in states), *grads.weights]

    whole = both()
    monkeypatch.setattr("gpuspike.network.convolved.PATCH_BYTES", 1)
    for one, other in zip(both(), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_chips_can_be_kept() -> None:
    t_in, weights = drawn()
    chip = chip_of(DISTORTED["all"])
    other = chip_of(DISTORTED["all"], (17, 18))
    other.take(chip.arrays())
    other.seeds, other._dice = chip.seeds, chip._dice
    ours, theirs = (one.states(weights, LayerInput(t_in, None), MOMENT) for one in (chip, other))
    np.testing.assert_array_equal(ours[0].t_cross, theirs[0].t_cross)


def test_constants_that_maps_have_learnt_are_those_of_all_their_neurons() -> None:
    thresholds = np.array([[0.8, 1.0, 1.3], [0.7, 1.1, 1.2]])
    t_in, weights = drawn()
    kernels = load("cpu")
    first = Layer(MAPS.n_in, MAPS.n_out, (0.9,), LIF(threshold=thresholds), convolution=MAPS)
    stack = (first, layers()[1])
    plain = Architecture(stack, kernels).forward(weights, LayerInput(t_in, None))
    chip = chip_of({"weight_max": (50.0,)}, stack=stack).states(weights, LayerInput(t_in, None), MOMENT)
    np.testing.assert_allclose(chip[0].t_cross, plain[0].t_cross, rtol=1e-12)


def test_what_no_chip_has_is_refused_by_name() -> None:
    kernels, t_in, weights = load("cpu"), *drawn()
    with pytest.raises(ConfigError, match=r"no emulated chip: model\.delays=none"):
        Substrate(weight_max=(1.0,)).check_fit(layers(), ("axonal_delay",))
    late = Layer(MAPS.n_in, MAPS.n_out, (0.9,), LIF(), Delays(axonal=np.ones((1, 19))), MAPS)
    with pytest.raises(ConfigError, match="a convolution with delays has no emulated chip"):
        chip_of({"weight_max": (1.0,)}, stack=(late, layers()[1]))
    machine = OnChip(Architecture(layers(), kernels), chip_of({"gain_std": 0.1}), EXACT)
    states = machine.forward(weights, LayerInput(t_in, None), MOMENT)
    options: Any = {"active": np.ones(2, np.bool_), "max_weight_grad": 1.0, "pushes": [None, None]}
    with pytest.raises(ConfigError, match="silence=waking has no exact gradient of a convolution"):
        machine.backward(weights, states, np.zeros_like(states[-1].t_out), **options)
    free = ({"threshold": np.zeros((2, n))} for n in (3, 4))
    thresholds = Parameters([LayerParameters(w, own) for w, own in zip(weights, free, strict=True)])
    with pytest.raises(ConfigError, match="threshold has no exact gradient of a convolution on a chip"):
        machine.having(thresholds).backward(
            thresholds,
            states,
            np.zeros_like(states[-1].t_out),
            active=np.ones(2, np.bool_),
            max_weight_grad=1.0,
        )
    with pytest.raises(ConfigError, match="a convolution is trained on emulated chips, got a str"):
        OnChip(Architecture(layers(), kernels), "hardware")  # type: ignore[arg-type]


def test_a_network_of_maps_learns_on_a_chip_that_ruins_it() -> None:
    r = np.random.default_rng(0)
    images, labels = np.full((200, 8, 8), 2.0), r.integers(0, 2, 200)
    for image, label, y, x in zip(images, labels, *r.integers(0, 5, (2, 200)), strict=True):
        image[y : y + 3, x + 1] = 0.2  # an upright bar, or one that lies
        if label:
            image[y : y + 3, x + 1] = 2.0
            image[y + 1, x : x + 3] = 0.2
    flat = images.reshape(200, -1)
    net = gs.Network([(8, 8), {"conv": 6, "kernel": 3}, {"pool": 6}, 2], backend="cpu", seed=0)
    chip = gs.Chip(
        "ideal", weight_max=[4.0], weight_bits=5, threshold_std=0.2, gain_std=0.2, spike_jitter=0.02
    )
    gs.fit(net, flat, labels, epochs=15, batch_size=20, learning_rate=0.02)
    there, ideal = net.on(chip), net.accuracy(flat, labels)
    before = there.accuracy(flat, labels)
    gs.fit(there, flat, labels, epochs=15, batch_size=20, learning_rate=0.02)
    assert ideal >= 0.95
    assert there.accuracy(flat, labels) >= max(0.9, before)
    traces = there.membranes(flat[0], np.linspace(0.0, 3.0, 20))
    assert traces[0].shape == (20, 36 * 6)
