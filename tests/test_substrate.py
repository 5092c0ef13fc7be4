"""The emulated chip: what is off changes nothing, what is on has its statistics, and what is learnt on it."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import test_trials
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, GpuspikeError, ValueRangeError
from gpuspike.kernels import LayerState, cpu, load
from gpuspike.network.layers import EVALUATION, Layer, LayerInput, Moment
from gpuspike.network.network import Architecture
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose
from gpuspike.substrate import EmulatedChip, OnChip, Substrate, gradient_angles, silicon
from gpuspike.substrate.distortions.weights import Weights
from gpuspike.training.losses import TTFSCrossEntropy

Array = NDArray[Any]

SIZES, BIAS_TIMES = (4, 12, 3), ((0.9,), (0.9, 1.4))
SEEDS = (17, 18)
N_BATCH = 7
STD = 5.0
"""Standard deviations that a mean, a deviation or a share may be off."""

WIDTHS = {
    "gain_std": 0.2, "dead_synapses": 0.2, "stuck_synapses": 0.2, "dead_neurons": 0.2, "threshold_std": 0.2,
    "tau_mem_std": 0.2, "tau_syn_std": 0.2, "input_jitter": 0.1, "lost_inputs": 0.2, "threshold_noise": 0.2,
    "spike_jitter": 0.1, "lost_spikes": 0.2,
}  # fmt: skip
"""Everything that is drawn, and a width at which it is felt."""

each_drawn = pytest.mark.parametrize("name", WIDTHS)

EVERYTHING = Substrate(
    **WIDTHS, weight_max=(3.0, 2.0), weight_lsb=0.05, threshold_shift=0.1, tau_mem_shift=0.2,
    tau_syn_shift=-0.1, time_grid=0.02, trial_end=2.5,
)  # fmt: skip


def substrate(**values: Any) -> Substrate:
    """With a range that no weight of these tests meets, which stuck weights need."""
    return Substrate(**({"weight_max": (8.0,)} | values))


def make_network(
    sizes: tuple[int, ...] = SIZES, bias: Any = BIAS_TIMES, neuron: LIF | None = None, backend: str = "cpu"
) -> Architecture:
    return Architecture.build(sizes, bias, neuron or LIF(), load(backend))


def make_weights(network: Architecture, n_chip: int = 2, dtype: Any = np.float64) -> list[Array]:
    """Weights that leave some hidden neurons silent."""
    n_layer = len(network.layers)
    return network.initial_weights(range(5, 5 + n_chip), [0.9] * n_layer, [0.8] * n_layer, dtype)


def make_inputs(network: Architecture, n_replica: int = 1, dtype: Any = np.float64) -> LayerInput:
    """Times from 0.15 to 2, a silent input among them."""
    t_in = np.random.default_rng(11).uniform(0.15, 2.0, (n_replica, N_BATCH, network.layers[0].n_in))
    t_in[:, 3, -1] = math.inf
    return network.receive(t_in.astype(dtype))


def emulate(
    network: Architecture, spec: Substrate, moment: Moment | None = None, seeds: tuple[int, ...] = SEEDS
) -> tuple[EmulatedChip, list[LayerState]]:
    """Chips, and what a batch does on them."""
    chip = EmulatedChip(spec, network.layers, network.kernels, seeds)
    states = chip.states(
        make_weights(network, len(seeds)), make_inputs(network, len(seeds)), moment or Moment()
    )
    return chip, states


def assert_same(states: list[LayerState], expected: list[LayerState]) -> None:
    """Bit for bit."""
    for state, other in zip(states, expected, strict=True):
        for name in ("t_in", "t_out", "t_cross", "slope"):
            np.testing.assert_array_equal(getattr(state, name), getattr(other, name), err_msg=name)


def no_draw(*_: Any, **__: Any) -> Any:
    raise AssertionError("random numbers were drawn")


# --- what is off ---------------------------------------------------------------


def test_the_tests_know_all_that_is_drawn() -> None:
    kinds = {kind.removesuffix("_again") for kind in silicon.KINDS} - {"stuck_at"}
    once = {name.removesuffix("_std") for name in WIDTHS} & kinds
    trials = {Purpose[name.upper()] for name in WIDTHS if name.upper() in Purpose.__members__}
    assert once == kinds
    assert trials == set(Purpose) - {
        Purpose.WEIGHTS, Purpose.SHUFFLE, Purpose.INPUT_NOISE, Purpose.AUGMENTATION, Purpose.CHIP,
        Purpose.DELAYS, Purpose.OWN_TRIALS,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tau_mem", [1.0, 2.0, math.inf, 1.5])
def test_a_chip_that_does_nothing_is_the_network_bit_for_bit_and_draws_nothing(
    tau_mem: float, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silicon, "stream", no_draw)
    monkeypatch.setattr(cpu, "normals", no_draw)
    network = make_network(neuron=LIF(tau_mem))
    weights, received = make_weights(network, dtype=dtype), make_inputs(network, dtype=dtype)
    expected = network.forward(weights, received)
    for spec in (Substrate(), substrate(), Substrate(trial_end=1e9), Substrate(weight_lsb=0.0)):
        machine = OnChip(network, EmulatedChip(spec, network.layers, network.kernels, SEEDS), "exact")
        states = machine.forward(weights, received)
        assert_same(states, expected)
        grad = np.ones_like(states[-1].t_out)
        options: dict[str, Any] = {"active": np.ones(2, np.bool_), "max_weight_grad": math.inf}
        for mine, theirs in zip(
            machine.backward(weights, states, grad.copy(), **options).weights,
            network.backward(weights, expected, grad.copy(), **options).weights,
            strict=True,
        ):
            np.testing.assert_array_equal(mine, theirs)


@each_drawn
def test_nothing_is_drawn_for_what_is_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone asks for its own numbers only, and at width 0 for none."""
    asked: set[Any] = set()
    draw, normals = silicon.Dice.once, cpu.normals

    def once(dice: silicon.Dice, kind: str, *rest: Any, **more: Any) -> Array:
        asked.add(kind)
        return draw(dice, kind, *rest, **more)

    def each_trial(like: Array, seeds: Any, purpose: Any, *rest: Any) -> Array:
        asked.add(purpose)
        return normals(like, seeds, purpose, *rest)

    monkeypatch.setattr(silicon.Dice, "once", once)
    monkeypatch.setattr(cpu, "normals", each_trial)
    network = make_network()
    emulate(network, substrate(**{name: 0.0}))
    assert asked == set()
    emulate(network, substrate(**{name: WIDTHS[name]}))
    own = {"stuck_synapses", "stuck_at"} if name == "stuck_synapses" else {name.removesuffix("_std")}
    assert asked == ({Purpose[name.upper()]} if name.upper() in Purpose.__members__ else own)


@each_drawn
def test_a_vanishing_width_is_nearly_nothing_and_a_real_one_is_felt(name: str) -> None:
    network = make_network()
    ideal = network.forward(make_weights(network), make_inputs(network, 2))
    _, nearly = emulate(network, substrate(**{name: 1e-12}))
    _, felt = emulate(network, substrate(**{name: WIDTHS[name]}))
    for state, other in zip(nearly, ideal, strict=True):
        np.testing.assert_allclose(state.t_out, other.t_out, rtol=0.0, atol=1e-9)
    assert any(not np.allclose(a.t_out, b.t_out, rtol=0, atol=1e-3) for a, b in zip(felt, ideal, strict=True))


def test_an_infinite_time_constant_has_no_spread_and_keeps_its_kernels() -> None:
    network = make_network(neuron=LIF(tau_mem=math.inf))
    chip, states = emulate(network, substrate(tau_mem_std=0.3, tau_mem_shift=0.1))
    assert chip.neurons[0].uniform
    expected = network.forward(make_weights(network), make_inputs(network, 2))
    assert_same(states, expected)


# --- statistics ----------------------------------------------------------------


def assert_normal(numbers: Array, mean: float, std: float) -> None:
    assert numbers.mean() == pytest.approx(mean, abs=STD * std / math.sqrt(numbers.size))
    assert numbers.std() == pytest.approx(std, abs=STD * std / math.sqrt(2.0 * numbers.size))


def assert_share(mask: Array, share: float) -> None:
    assert mask.mean() == pytest.approx(share, abs=STD * math.sqrt(share * (1.0 - share) / mask.size))


def drawn(**values: Any) -> dict[str, Array]:
    """What two chips of a wide layer, with another behind it, come to."""
    network = make_network((100, 150, 3), ((), ()), LIF(1.5, 1.0, threshold=1.2, leak=0.2))
    return EmulatedChip(substrate(**values), network.layers, network.kernels, SEEDS).arrays()


def test_what_is_drawn_once_a_chip_has_its_mean_its_deviation_and_its_share() -> None:
    assert drawn() == {}
    assert_normal(drawn(gain_std=0.2)["gain_0"], 1.0, 0.2)
    assert_normal(drawn(threshold_std=0.1, threshold_shift=0.3)["threshold_0"], 1.5, 0.1)
    assert_normal(drawn(tau_mem_std=0.1, tau_mem_shift=-0.4)["tau_mem_0"], 1.1, 0.1)
    assert_normal(drawn(tau_syn_std=0.1, tau_syn_shift=0.5)["tau_syn_0"], 1.5, 0.1)
    assert_share(drawn(dead_synapses=0.1)["gain_0"] == 0.0, 0.1)
    dead = drawn(dead_neurons=0.1)
    assert ((dead["gain_0"] == 0.0).any(axis=1) == (dead["gain_0"] == 0.0).all(axis=1)).all()
    assert_share((dead["gain_0"] == 0.0).all(axis=1), 0.1)
    assert "gain_1" not in dead, "a class is given a neuron that works"
    stuck = drawn(stuck_synapses=0.3, weight_lsb=0.5)["stuck_0"]
    at = stuck[np.isfinite(stuck)]
    assert_share(np.isfinite(stuck), 0.3)
    np.testing.assert_array_equal(at, np.round(2.0 * at) / 2.0)
    assert at.mean() == pytest.approx(0.0, abs=STD * 8.0 / math.sqrt(3.0 * at.size))
    assert at.std() == pytest.approx(8.0 / math.sqrt(3.0), rel=0.02)
    assert {name: array.shape for name, array in drawn(threshold_std=0.1, gain_std=0.1).items()} == {
        "gain_0": (2, 100, 150), "gain_1": (2, 150, 3), "threshold_0": (2, 150), "threshold_1": (2, 3),
    }  # fmt: skip


def charge(n_batch: int = 200, **values: Any) -> tuple[Array, LayerState]:
    """500 neurons without leak and one input each batch at 0.5: the time tells the threshold.

    Returns:
        (2, n_batch, 500) potentials at which they crossed, and the state.
    """
    network = make_network((1, 500), ((0.25,),), LIF(tau_mem=math.inf))
    chip = EmulatedChip(substrate(**values), network.layers, network.kernels, SEEDS)
    weights = [np.concatenate([np.full((2, 1, 500), 4.0), np.zeros((2, 1, 500))], axis=1)]
    (state,) = chip.states(weights, network.receive(np.full((1, n_batch, 1), 0.5)), Moment())
    return 4.0 * -np.expm1(-(state.t_cross - state.t_in[..., :1])), state


def test_what_is_drawn_in_each_trial_has_its_mean_its_deviation_and_its_share() -> None:
    potential, state = charge(threshold_noise=0.1)
    assert_normal(potential, 1.0, 0.1)
    np.testing.assert_array_equal(state.t_out, state.t_cross)
    assert abs(np.corrcoef(potential[0].ravel(), potential[1].ravel())[0, 1]) < 0.02
    _, state = charge(spike_jitter=0.05)
    assert_normal(state.t_out - state.t_cross, 0.0, 0.05)
    _, state = charge(lost_spikes=0.1)
    assert_share(np.isinf(state.t_out), 0.1)
    assert np.isfinite(state.t_cross).all()
    assert set(np.unique(state.t_out)) == {state.t_cross[0, 0, 0], np.inf}
    for lost in (0.0, 1.0):
        assert np.isinf(charge(4, lost_spikes=lost)[1].t_out).mean() == lost

    network = make_network((400, 1), ((0.25,),))
    weights = [np.zeros((2, 401, 1))]
    received = network.receive(np.full((1, 100, 400), 0.5))
    for values, check in (
        ({"input_jitter": 0.1}, lambda t: assert_normal(t, 0.5, 0.1)),
        ({"lost_inputs": 0.1}, lambda t: assert_share(np.isinf(t), 0.1)),
    ):
        chip = EmulatedChip(substrate(**values), network.layers, network.kernels, SEEDS)
        t_in = chip.states(weights, received, Moment())[0].t_in
        check(t_in[..., :400])
        assert (t_in[..., 400] == 0.25).all(), "bias spikes stay"
        assert (t_in[0] != t_in[1]).any(), "each chip has its own"
    chip = EmulatedChip(substrate(input_jitter=1.0), network.layers, network.kernels, SEEDS)
    assert chip.states(weights, received, Moment())[0].t_in.min() >= 0.0


def test_ticks_and_the_end_of_the_trial() -> None:
    network = make_network()
    _, states = emulate(network, Substrate(time_grid=0.25, trial_end=1.6))
    for state in states:
        for times in (state.t_in, state.t_out):
            seen = times[np.isfinite(times)]
            np.testing.assert_array_equal(seen, np.round(seen * 4.0) / 4.0)
            assert seen.max() == 1.5
        late = np.isfinite(state.t_cross) & np.isinf(state.t_out)
        assert (state.t_cross[late] > 1.5).all()
        on_time = np.isfinite(state.t_out)
        waited = state.t_out[on_time] - state.t_cross[on_time]
        assert (waited.min() > -1e-3) & (waited.max() < 0.25)
    assert (states[0].t_in[..., -1] == 1.0).all(), "the bias spike of 0.9"
    assert (states[1].t_in[..., -2:] == (1.0, 1.5)).all()
    # 3 * 0.1 lies behind 0.3 by a rounding.
    for dtype in (np.float32, np.float64):
        last = EmulatedChip(Substrate(time_grid=0.1, trial_end=0.3), network.layers, network.kernels, [0])
        times = network.receive(np.full((1, 1, 4), 0.3, dtype))
        t_in = last.states([w[:1].astype(dtype) for w in make_weights(network)], times, Moment())[0].t_in
        np.testing.assert_allclose(t_in[0, 0, :4], 0.3, rtol=1e-6)


# --- order, addresses, replicas --------------------------------------------------


def test_weights_are_programmed_then_multiplied_then_stuck() -> None:
    network = make_network()
    chip, _ = emulate(network, EVERYTHING)
    weights, kept = make_weights(network), chip.arrays()
    for number, w in enumerate(weights):
        most, gain, stuck = (3.0, 2.0)[number], kept[f"gain_{number}"], kept[f"stuck_{number}"]
        written = np.rint(np.clip(w, -most, most) / 0.05) * 0.05
        np.testing.assert_allclose(chip.program(weights)[number], written, rtol=0.0, atol=1e-12)
        expected = np.where(np.isnan(stuck), written * gain, stuck)
        np.testing.assert_allclose(chip.effective(weights)[number], expected, rtol=0.0, atol=1e-12)
        assert ((gain == 0.0) & ~np.isnan(stuck)).any(), "a dead synapse may be stuck"
        pulled = chip.pull_back([np.ones_like(w) for w in weights])[number]
        np.testing.assert_array_equal(pulled, np.where(np.isnan(stuck), gain, 0.0))
    lonely = (kept["gain_0"] == 0.0).all(axis=1)
    assert lonely.any()
    assert np.isnan(kept["stuck_0"]).all(axis=1)[lonely].all(), "no stuck synapse wakes a dead neuron"


def test_spikes_are_moved_lost_seen_and_cut_in_this_order() -> None:
    network, moment = make_network(), Moment(3, 1)
    chip, states = emulate(network, EVERYTHING, moment)
    kernels, end = network.kernels, 2.5

    def seen(times: Array) -> Array:
        ticks = np.ceil(times / 0.02 - 1e-3) * 0.02
        return np.where(ticks > end + 1e-9, np.inf, ticks)

    level = -0.8416212335729143  # below which a fifth of all normal numbers lies
    like = np.empty((2, N_BATCH, 4))
    t_in = make_inputs(network, 2).t_in
    jitter = kernels.normals(like, SEEDS, Purpose.INPUT_JITTER, 0, *moment)
    lost = kernels.normals(like, SEEDS, Purpose.LOST_INPUTS, 0, *moment) < level
    arrived = np.where(lost, np.inf, np.abs(t_in[..., :4] + 0.1 * jitter))
    expected = seen(np.concatenate([arrived, t_in[..., 4:]], axis=2))
    np.testing.assert_allclose(states[0].t_in, expected, rtol=0.0, atol=1e-12)
    for number, state in enumerate(states):
        like = np.empty_like(state.t_out)
        jitter = kernels.normals(like, SEEDS, Purpose.SPIKE_JITTER, number, *moment)
        lost = kernels.normals(like, SEEDS, Purpose.LOST_SPIKES, number, *moment) < level
        sent = np.where(lost, np.inf, np.maximum(state.t_cross + 0.1 * jitter, 0.0))
        np.testing.assert_allclose(state.t_out, seen(sent), rtol=0.0, atol=1e-12)
        noise = kernels.normals(like, SEEDS, Purpose.THRESHOLD_NOISE, number, *moment)
        threshold = np.broadcast_to(chip.neurons[number].threshold[:, None] + 0.2 * noise, state.t_out.shape)
        for r, b, j in zip(*np.nonzero(np.isfinite(state.t_cross) & (state.slope > 0.0)), strict=True):
            one = chip.neurons[number].of(r, j)
            w = chip.effective(make_weights(network))[number][r, :, j]
            u = w @ one.kernel(state.t_cross[r, b, j] - state.t_in[r, b])
            assert u == pytest.approx(threshold[r, b, j], abs=1e-9)


def test_a_chip_is_the_same_alone_among_others_and_under_another_network() -> None:
    network, moment = make_network(), Moment(2, 5)
    chip, states = emulate(network, EVERYTHING, moment, (3, 17, 2**32 - 1))
    weights, received = make_weights(network, 3), make_inputs(network, 3)
    alone = EmulatedChip(EVERYTHING, network.layers, network.kernels, [17])
    part = LayerInput(received.t_in[1:2], None if received.order is None else received.order[1:2])
    for state, single in zip(states, alone.states([w[1:2] for w in weights], part, moment), strict=True):
        np.testing.assert_array_equal(state.t_out[1], single.t_out[0])
        np.testing.assert_array_equal(state.slope[1], single.slope[0])
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array[0], chip.arrays()[name][1], err_msg=name)
    deeper = make_network((*SIZES[:2], 9, 3), (*BIAS_TIMES, ()))
    spec = dataclasses.replace(EVERYTHING, weight_max=(3.0,))
    under = EmulatedChip(spec, deeper.layers, deeper.kernels, [17]).arrays()
    for name in ("gain_0", "stuck_0", "threshold_0", "tau_mem_0", "tau_syn_0"):
        np.testing.assert_array_equal(under[name], alone.arrays()[name], err_msg=name)
    assert (chip.arrays()["threshold_0"][0] != chip.arrays()["threshold_0"][1]).all()


def test_how_an_evaluation_is_cut_into_batches_changes_nothing() -> None:
    network = make_network()
    chip, whole = emulate(network, EVERYTHING)
    weights, received = make_weights(network), make_inputs(network, 2)
    for first, last in ((0, 1), (1, 5), (5, 7)):
        states = chip.states(weights, received.part(first, last), Moment(first=first))
        for state, other in zip(states, whole, strict=True):
            np.testing.assert_array_equal(state.t_out, other.t_out[:, first:last])
    again = emulate(network, EVERYTHING)[1]
    assert_same(again, whole)
    _, other_batch = emulate(network, EVERYTHING, Moment(0, 0))
    assert (other_batch[0].t_in != whole[0].t_in).any()


def test_the_two_backends_emulate_alike() -> None:
    spec = dataclasses.replace(EVERYTHING, time_grid=0.0)  # at a tick's edge float32 noise decides
    ours, oracle = (emulate(make_network(backend=b), spec)[1] for b in ("cpu", "reference"))
    for state, expected in zip(ours, oracle, strict=True):
        np.testing.assert_allclose(state.t_out, expected.t_out, rtol=0.0, atol=1e-4)


# --- draws that leave the physics -------------------------------------------------


def test_time_constants_at_or_below_0_are_drawn_again_and_counted() -> None:
    network = make_network((5, 300, 3), ((), ()))
    spec = Substrate(tau_mem_std=0.6, tau_syn_std=0.6)

    def make(*seeds: int) -> EmulatedChip:
        return EmulatedChip(spec, network.layers, network.kernels, seeds)

    both = make(*SEEDS)
    again = both.counts["time_constants_drawn_again"]
    assert all(array.min() > 0.0 for array in both.arrays().values())
    assert again == sum(make(seed).counts["time_constants_drawn_again"] for seed in SEEDS)
    share = 0.0478  # of normal numbers below -1/0.6; those drawn again may have to be drawn again
    assert again == pytest.approx(2 * 2 * 303 * share / (1.0 - share), rel=0.5)


@pytest.mark.parametrize("tau_syn_std", [0.0, 0.1])
def test_neurons_whose_threshold_lies_at_or_below_the_leak_are_always_on(tau_syn_std: float) -> None:
    network = make_network()
    spec = Substrate(threshold_shift=-0.9, threshold_std=0.3, tau_syn_std=tau_syn_std)
    chip, states = emulate(network, spec)
    on = [chip.arrays()[f"always_on_{number}"] for number in range(2)]
    assert chip.counts["neurons_always_on"] == sum(int(mask.sum()) for mask in on)
    assert 0.1 < on[0].mean() < 0.7
    for mask, state in zip(on, states, strict=True):
        every = np.broadcast_to(mask[:, None], state.t_out.shape)
        assert (state.t_out[every] == 0.0).all()
        assert (state.slope[every] == 0.0).all()
        assert (state.t_out[~every] > 0.0).all()
    assert emulate(network, Substrate(threshold_shift=-1.0))[0].counts["neurons_always_on"] == 2 * 15


def test_a_dead_neuron_is_silent_whatever_its_threshold_and_its_synapses_do() -> None:
    network = make_network()
    spec = substrate(
        dead_neurons=0.4, threshold_shift=-0.9, threshold_std=0.5, threshold_noise=0.5, stuck_synapses=0.5
    )
    chip, states = emulate(network, spec)
    dead = (chip.arrays()["gain_0"] == 0.0).all(axis=1)
    assert 0.1 < dead.mean() < 0.7
    assert np.isinf(states[0].t_out[np.broadcast_to(dead[:, None], states[0].t_out.shape)]).all()
    assert not (chip.arrays()["always_on_0"] & dead).any()
    np.testing.assert_array_equal(chip.dead_fraction, [dead.mean(axis=1), [0.0, 0.0]])
    assert chip.counts["neurons_always_on"] == sum(
        int(array.sum()) for name, array in chip.arrays().items() if name.startswith("always_on")
    )


@pytest.mark.parametrize("kind", ["tau_mem", "tau_syn"])
@pytest.mark.parametrize("std", [0.0, 0.1])
def test_a_shift_that_leaves_no_time_constant_is_refused(kind: str, std: float) -> None:
    with pytest.raises(
        ValueRangeError, match=rf"^substrate.{kind}_shift must leave {kind} positive, got -1.5"
    ):
        emulate(make_network(), Substrate(**{f"{kind}_shift": -1.5, f"{kind}_std": std}))


# --- what a chip can hold ----------------------------------------------------------

weights_of_any_size = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30)


@given(
    values=weights_of_any_size,
    most=st.floats(0.1, 50.0),
    bits=st.integers(2, 16),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_weights_on_a_grid_of_bits(values: list[float], most: float, bits: int, dtype: Any) -> None:
    spec = Substrate(weight_max=(most,), weight_bits=bits)
    weights = np.array(values, dtype)
    held, step = spec.programmed(weights, 0), most / (2 ** (bits - 1) - 1)
    assert held.dtype == dtype
    assert_on_grid(spec, weights, held, step, most)


@given(
    values=weights_of_any_size,
    most=st.floats(0.1, 50.0),
    ratio=st.floats(1e-4, 1.0),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_weights_on_a_grid_of_steps(values: list[float], most: float, ratio: float, dtype: Any) -> None:
    spec = Substrate(weight_max=(most,), weight_lsb=most * ratio)
    weights = np.array(values, dtype)
    last = math.floor(1.0 / ratio * (1.0 + 1e-9)) * most * ratio
    assert_on_grid(spec, weights, spec.programmed(weights, 0), most * ratio, last)


def assert_on_grid(spec: Substrate, weights: Array, held: Array, step: float, most: float) -> None:
    """On the grid, in the range, the nearest such, and there to stay."""
    rounding = 8.0 * float(np.finfo(weights.dtype).eps)
    number = held.astype(np.float64) / step
    np.testing.assert_allclose(number, np.round(number), rtol=rounding, atol=0.0)
    assert (np.abs(held) <= most * (1.0 + rounding)).all()
    off = np.abs(held - np.clip(weights.astype(np.float64), -most, most))
    assert (off <= step * 0.5 + most * rounding).all()
    np.testing.assert_array_equal(spec.programmed(held, 0), held)
    np.testing.assert_array_equal(spec.programmed(-weights, 0), -held)


def test_grids_and_ranges_by_layer_and_none_at_all() -> None:
    weights = np.array([-3.0, -0.26, 0.0, 0.26, 3.0])
    assert Substrate().programmed(weights, 0) is weights
    np.testing.assert_array_equal(Substrate(weight_lsb=0.5).programmed(weights, 1), [-3, -0.5, 0, 0.5, 3])
    two = Substrate(weight_max=(1.0, 2.0))
    assert [two.programmed(weights, number).max() for number in (0, 1)] == [1.0, 2.0]
    one = Substrate(weight_max=(1.0,), weight_bits=2)
    assert one.most(5) == 1.0
    assert Weights(weight_max=(1.0,), weight_bits=2).step(5) == 1.0
    np.testing.assert_array_equal(one.programmed(weights, 5), [-1.0, 0.0, 0.0, 0.0, 1.0])
    bss2 = Substrate(weight_max=(2.1,), weight_lsb=1.0 / 30.0)
    assert bss2.programmed(np.array([9.0]), 0)[0] * 30.0 == pytest.approx(63.0)
    held = [weights.copy(), weights.copy()]
    two.limit(held)
    assert [np.abs(w).max() for w in held] == [1.0, 2.0]
    network = make_network()
    machine = OnChip(network, EmulatedChip(two, network.layers, network.kernels, [0]))
    heavy = [5.0 * w for w in make_weights(network, 1)]
    machine.after_step(heavy)
    assert [np.abs(w).max() for w in heavy] == [1.0, 2.0]
    network.after_step(heavy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_fan_in": 13}, "a neuron on X has at most 13 inputs, got a layer with 14: 1 too many, "
            "which no number of chips like this one changes; "
            "substrate.max_fan_in=0 emulates a chip with room for it"),
        ({"max_neurons": 7, "max_synapses": 50}, "X has 7 neurons, got a network with 15, "
            "as many as 3 chips have: 8 too many; X has 50 synapses, got a network with 102, as many as "
            "3 chips have: 52 too many; substrate.max_neurons=0 substrate.max_synapses=0 "
            "emulates a chip with room for it"),
        ({"weight_max": (1.0,) * 3}, "substrate.weight_max must have one entry, or one for each of the 2 "
            "layers, got 3"),
        ({"max_fan_in": 14, "max_neurons": 15, "max_synapses": 102, "weight_max": (1.0, 2.0)}, ""),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_is_told_what_is_missing(values: dict[str, Any], message: str) -> None:
    spec, layers = Substrate(name="X", **values), make_network().layers
    if not message:
        spec.check_fit(layers)
        return
    with pytest.raises(ConfigError) as caught:
        spec.check_fit(layers)
    assert str(caught.value) == message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


SHARES = [name for name in WIDTHS if name.startswith(("dead", "stuck", "lost"))]
SPREADS = [name for name in WIDTHS if name not in SHARES]
BAD = [
    *(({name: -0.1}, f"{name} must be 0 or more and finite, got -0.1") for name in SPREADS),
    *(({name: math.inf}, f"{name} must be 0 or more and finite") for name in ("time_grid", "weight_lsb")),
    *(({name: 1.5}, f"{name} must be a share from 0 to 1, got 1.5") for name in SHARES),
    *(({f"max_{name}": -1}, rf"max_{name} must be 0 \(no limit\) or more, got -1") for name in
        ("fan_in", "neurons", "synapses")),
    *(({f"{name}_shift": math.nan}, f"{name}_shift must be finite, got nan") for name in
        ("threshold", "tau_mem", "tau_syn")),
    ({"weight_max": (1.0, 0.0)}, r"weight_max must be positive and finite, got \[1.0, 0.0\]"),
    ({"weight_max": (math.inf,)}, r"weight_max must be positive and finite, got \[inf\]"),
    *(({"weight_bits": n, "weight_max": (1.0,)}, f"weight_bits must be 0 .* or from 2, .*, to 24, got {n}")
        for n in (-1, 1, 25)),
    ({"weight_bits": 4, "weight_lsb": 0.1}, "weight_bits and substrate.weight_lsb both set the grid"),
    ({"weight_bits": 4}, "weight_bits needs a range, substrate.weight_max, got none"),
    ({"stuck_synapses": 0.1}, "stuck_synapses needs a range, substrate.weight_max, got none"),
    ({"weight_max": (2.0, 1.0), "weight_lsb": 1.5}, r"weight_max must be at least one step, .*=1.5, got \["),
    ({"trial_end": 0.0}, "trial_end must be positive, got 0.0"),
    ({"trial_end": math.nan}, "trial_end must be positive, got nan"),
    ({"trial_end": 1.0, "time_grid": 2.0}, "time_grid must not be coarser than the trial, .*=1.0, got 2.0"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda value: str(value)[:60])
def test_values_that_mean_nothing_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueRangeError, match=f"^substrate.{message}") as caught:
        Substrate(**values)
    assert "\n" not in str(caught.value)


# --- gradients ---------------------------------------------------------------------

ACTIVE: dict[str, Any] = {"active": np.ones(2, np.bool_), "max_weight_grad": math.inf}
SCOPES: dict[str, dict[str, float]] = {
    **{name: {name: width} for name, width in WIDTHS.items()},
    "dead and stuck": {"dead_synapses": 0.2, "stuck_synapses": 0.2, "dead_neurons": 0.2, "gain_std": 0.1},
    "shifts": {"threshold_shift": 0.13, "tau_mem_shift": 1.0, "tau_syn_shift": -0.2},
    "no leak": {"threshold_std": 0.1},
    "always on": {"threshold_shift": -0.5, "threshold_std": 0.5},
    "everything": {
        **WIDTHS, "threshold_shift": 0.1, "tau_mem_shift": 0.2, "tau_syn_shift": -0.1, "trial_end": 6.0,
        "lost_spikes": 0.05, "dead_neurons": 0.05,
    },
}  # fmt: skip


@pytest.mark.parametrize("scope", SCOPES)
def test_the_exact_gradient_equals_central_differences_on_the_distorted_chip(scope: str) -> None:
    network = make_network(neuron=LIF(math.inf) if scope == "no leak" else LIF())
    labels = np.random.default_rng(1).integers(3, size=(2, N_BATCH))
    weights, received, moment = make_weights(network), make_inputs(network), Moment(1, 2)
    chip = EmulatedChip(substrate(**SCOPES[scope]), network.layers, network.kernels, SEEDS)
    machine, loss = OnChip(network, chip, "exact"), TTFSCrossEntropy()
    states = machine.forward(weights, received, moment)
    grads = machine.backward(weights, states, loss(states[-1].t_out, labels)[1], **ACTIVE).weights
    ideal = network.forward(weights, received)
    assert not np.allclose(states[-1].t_out, ideal[-1].t_out), "the test needs a chip that is felt"
    step, compared = 1e-6, 0.0
    for number, grad in enumerate(grads):
        difference = np.empty_like(grad)
        for place in np.ndindex(*grad.shape[1:]):
            sides = []
            for sign in (1.0, -1.0):
                moved = [w.copy() for w in weights]
                moved[number][:, *place] += sign * step
                after = machine.forward(moved, received, moment)
                for a, b in zip(after, states, strict=True):
                    assert (np.isinf(a.t_out) == np.isinf(b.t_out)).all(), "a spike appeared: no derivative"
                sides.append(loss(after[-1].t_out, labels)[0].mean(axis=1))
            difference[:, *place] = (sides[0] - sides[1]) / (2.0 * step)
        error = np.abs(grad - difference).max()
        assert error < 2e-6 * max(1.0, np.abs(difference).max())
        compared = max(compared, float(np.abs(difference).max()))
    assert compared > 1e-3


@pytest.mark.parametrize("tau_mem", [1.0, 2.0])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_nominal_gradient_is_its_formula_at_the_chip_s_spikes(tau_mem: float, backend: str) -> None:
    """dT/dw = -k(T - t)/u'(T'), dT/dt = w k'(T - t)/u'(T'); T is the chip's, T' the nominal crossing."""
    neuron = LIF(tau_mem, 1.0, threshold=1.1, leak=0.1)
    network = make_network(neuron=neuron, backend=backend)
    spec = dataclasses.replace(EVERYTHING, lost_spikes=0.05, dead_neurons=0.05)
    chip = EmulatedChip(spec, network.layers, network.kernels, SEEDS)
    machine, weights = OnChip(network, chip), make_weights(network)
    states = machine.forward(weights, make_inputs(network))
    error = np.random.default_rng(2).normal(size=states[-1].t_out.shape)
    grads = machine.backward(weights, states, error.copy(), **ACTIVE).weights
    for number in (1, 0):
        state, w = states[number], chip.program(weights)[number]
        slope = test_trials.published_slopes(state.t_in, w, neuron, state.t_out)
        scale = np.divide(
            error, slope, out=np.zeros_like(error), where=(slope > 0) & np.isfinite(state.t_out)
        )
        assert 0.1 < np.mean(scale != 0.0) < 0.999
        with np.errstate(invalid="ignore"):
            delay = np.nan_to_num(
                state.t_out[:, :, None] - state.t_in[..., None], nan=0.0, posinf=0.0, neginf=0.0
            )
        expected = -np.einsum("rbij,rbj->rij", neuron.kernel(delay), scale)
        # Slopes at the crossing are good to a few 1e-9, more coarsely where the crossing is flat.
        np.testing.assert_allclose(grads[number], expected, rtol=0.0, atol=1e-6 * np.abs(expected).max())
        assert np.abs(expected).max() > 1e-2
        error = np.einsum("rij,rbij,rbj->rbi", w, neuron.kernel_slope(delay), scale)
        error = error[..., : network.layers[number].n_in]


def test_angles_between_gradients() -> None:
    network = make_network()
    weights, received = make_weights(network), make_inputs(network)
    loss, labels = TTFSCrossEntropy(), np.random.default_rng(1).integers(3, size=(2, N_BATCH))

    def angles(spec: Substrate, together: int | None = None) -> Array:
        machine = OnChip(network, EmulatedChip(spec, network.layers, network.kernels, SEEDS))
        return gradient_angles(
            machine, weights, received, lambda t_out, part: loss(t_out, labels[:, part])[1], together
        )

    assert (angles(substrate()) < 1e-6).all()
    small, large = (angles(substrate(threshold_std=std, gain_std=std)) for std in (1e-4, 0.1))
    assert ((small > 1e-6) & (small < 0.1)).all()
    assert ((large > 1.0) & (large < 120.0)).all()
    assert np.isnan(angles(substrate(dead_synapses=1.0))).all(), "no spike, no gradient"
    noisy = substrate(threshold_std=0.1, gain_std=0.1, spike_jitter=0.05)
    for together in (1, 7, N_BATCH, N_BATCH + 1):
        np.testing.assert_allclose(angles(noisy, together), angles(noisy), rtol=1e-9)


def test_modes_that_do_not_exist_are_refused() -> None:
    network = make_network()
    chip, _ = emulate(network, Substrate())
    with pytest.raises(ConfigError, match="must be nominal or exact, got 'ideal'"):
        OnChip(network, chip, "ideal")
    with pytest.raises(ConfigError, match="only an emulated chip has an exact gradient, got a object"):
        OnChip(network, object(), "exact")  # type: ignore[arg-type]


def test_a_fresh_chip_comes_with_each_training_batch_and_stays_for_evaluations() -> None:
    network = make_network()
    weights, received, asked = make_weights(network), make_inputs(network), []

    def fresh(moment: Moment) -> EmulatedChip:
        asked.append(moment)
        return EmulatedChip(EVERYTHING, network.layers, network.kernels, [100 + len(asked), 200])

    machine = OnChip(network, emulate(network, EVERYTHING)[0], "nominal", fresh)
    machine.forward(weights, received)
    assert asked == []
    first = machine.forward(weights, received, Moment(0, 0))
    second = machine.forward(weights, received, Moment(0, 1))
    assert asked == [Moment(0, 0), Moment(0, 1)]
    assert (first[0].t_out[0] != second[0].t_out[0]).any()
    last = machine.chip
    machine.forward(weights, received, Moment(EVALUATION))
    assert machine.chip is last


def test_a_foreign_chip_s_answer_is_checked_and_brought_into_form() -> None:
    network = make_network()
    weights, received = make_weights(network, dtype=np.float32), make_inputs(network, dtype=np.float32)
    truth = network.forward(weights, received)

    class Foreign:
        """Answers in another type and layout, or in another shape."""

        cut = 0

        def program(self, weights: Any) -> list[Array]:
            return list(weights)

        def limit(self, weights: Any) -> None: ...

        def __call__(self, weights: Any, received: LayerInput, moment: Moment) -> list[Array]:
            return [np.asfortranarray(s.t_out[:, self.cut :].astype(np.float64)) for s in truth]

    chip = Foreign()
    machine = OnChip(network, chip)
    states = machine.forward(weights, received)
    for state, expected in zip(states, truth, strict=True):
        np.testing.assert_array_equal(state.t_in, np.broadcast_to(expected.t_in, state.t_in.shape))
        np.testing.assert_array_equal(state.t_out, expected.t_out)
        assert state.t_out.dtype == np.float32
    error = np.ones_like(states[-1].t_out)
    for grad, expected in zip(
        machine.backward(weights, states, error.copy(), **ACTIVE).weights,
        network.backward(weights, truth, error.copy(), **ACTIVE).weights,
        strict=True,
    ):
        np.testing.assert_allclose(grad, expected, rtol=0.0, atol=2e-3 * np.abs(expected).max())
    chip.cut = 1
    with pytest.raises(GpuspikeError, match=r"spikes of layer 0 must be .* = \(2, 7, 12\), got \(2, 6, 12\)"):
        machine.forward(weights, received)


def test_more_layers_than_trials_have_addresses_for_are_refused() -> None:
    layers = [Layer(2, 2, (), LIF())] * 65
    Substrate().check_fit(layers)
    with pytest.raises(ConfigError, match="a chip has at most 64 layers, got 65"):
        Substrate(threshold_noise=0.1).check_fit(layers)
