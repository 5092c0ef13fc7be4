"""The accountant: counts against plain Python, prices by hand, and what must not change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.accountant import (
    Activity,
    Counter,
    Counts,
    Prices,
    account,
    anytime,
    energy_terms,
    find,
    fit,
    neurobench,
    read_prices,
)
from gpuspike.accountant import activity as activities
from gpuspike.accountant.account import Clock, Use, hops
from gpuspike.config.schema import conf_folder
from gpuspike.errors import PriceError
from gpuspike.kernels import LayerState, load
from gpuspike.network.network import Architecture
from gpuspike.neuron import LIF
from gpuspike.training.evaluation import Labelled, evaluate
from gpuspike.training.losses import TTFSCrossEntropy

Array = NDArray[Any]
INF = math.inf
FOLDER = conf_folder() / "prices"
DOC = Path(__file__).parents[1] / "docs" / "accounting.md"


@cache
def chip(name: str = "brainscales2") -> Prices:
    return read_prices(FOLDER / f"{name}.yaml")


# ---- the network of docs/accounting.md: two inputs, a bias spike, three hidden neurons, two outputs

INPUTS = [[0.2, 1.3], [0.5, INF], [0.3, 0.4], [0.1, 0.1]]
BIAS = 0.9
HIDDEN = [[0.6, 1.0, INF], [1.2, INF, 2.0], [0.7, 0.7, 0.8], [0.5, 0.5, 0.5]]
OUTPUTS = [[1.0, 1.4], [INF, INF], [9.0, INF], [0.75, 0.75]]
LABELS = [0, 1, 0, 1]
WEIGHTS = [
    np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0], [0.1, 0.1, 0.1]]),  # inputs and bias to hidden
    np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 2.0]]),  # hidden to output
]


def hand_network() -> Architecture:
    return Architecture.build((2, 3, 2), [[BIAS], []], LIF(), load("reference"))


def states_of(times: Sequence[Array]) -> list[LayerState]:
    """Layer states of given spike times: what each layer receives, and the outputs last."""
    nothing: Any = None
    following = [*times[1:-1], times[-1]]
    return [
        LayerState(t_in, nothing, t_out, t_out, nothing)
        for t_in, t_out in zip(times[:-1], following, strict=True)
    ]


def hand_activity(dtype: Any = np.float64, trials: Sequence[float] = (8.0,), unit: float = 1.0) -> Activity:
    bias = np.full((4, 1), BIAS)
    times = [
        (unit * np.asarray(part)).astype(dtype)[None]
        for part in (np.hstack([INPUTS, bias]), np.array(HIDDEN), np.array(OUTPUTS))
    ]
    weights = [w.astype(dtype)[None] for w in WEIGHTS]
    counter = Counter(hand_network().layers, weights, 4, trials, unit)
    counter(0, 4, states_of(times))
    return counter.activity(times[-1], np.array(LABELS))


def test_the_counts_of_the_small_network_are_those_made_by_hand() -> None:
    activity = hand_activity()
    ended, decided = activity.ended[8.0], activity.decided[8.0]
    np.testing.assert_array_equal(ended.spikes, [7 / 4, 10 / 4, 4 / 4])
    np.testing.assert_array_equal(ended.bias_spikes, [4 / 4, 0])
    np.testing.assert_array_equal(ended.events, [30 / 4, 17 / 4])
    np.testing.assert_array_equal(ended.bias_events, [12 / 4, 0])
    np.testing.assert_array_equal(decided.spikes, [6 / 4, 10 / 4, 3 / 4])
    np.testing.assert_array_equal(decided.bias_spikes, [3 / 4, 0])
    np.testing.assert_array_equal(decided.events, [25 / 4, 17 / 4])
    np.testing.assert_array_equal(decided.bias_events, [9 / 4, 0])
    np.testing.assert_array_equal(activity.t_decision, [[1.0, INF, 9.0, 0.75]])
    np.testing.assert_array_equal(activity.correct, [[True, False, True, False]])


def test_decisions_between_the_steps_of_a_clocked_chip_are_counted() -> None:
    """The two that decide do so at 0.75 and 1 tau_syn."""

    def between(name: str) -> float:
        prices = read_prices(find(name, conf_folder() / "prices"))
        return account(hand_activity(np.float32, (prices.trial,)), prices, ["a", "b"])["between_steps_share"]

    assert between("loihi") == 0.25  # ten steps a tau_syn
    assert between("brainscales2") == 0.0


@pytest.mark.parametrize("unit", [1.0, 2.0**-10])
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_accuracy_in_steps_is_that_of_an_emulated_grid(unit: float, replicas: int) -> None:
    """Whatever the unit of time. Without a clock and on a chip there is none to tell."""
    rng = np.random.default_rng(3)
    t_in, labels = rng.uniform(0.0, 2.0, (200, 5)) * unit, rng.integers(0, 3, 200)
    neuron = LIF(tau_mem=unit, tau_syn=unit, capacitance=unit)
    net = gs.Network([5, 12, 3], seed=4, neuron=neuron, replicas=replicas)
    cost, right = gs.price(net, t_in, labels, "loihi"), net.on(gs.Chip(time_grid=0.1)).accuracy(t_in, labels)
    assert 0.0 < cost.summary["between_steps_share"] <= 1.0
    assert cost.summary["in_steps"]["accuracy"] == pytest.approx(np.mean(right), rel=1e-14)
    assert cost.accuracy != cost.summary["in_steps"]["accuracy"]
    assert f"of exact spike times, {100 * np.mean(right):.2f} % in its time steps" in repr(cost)
    clocked = gs.price(net.on(gs.Chip(time_grid=0.1)), t_in, labels, "loihi").summary
    for name, told in cost.summary["in_steps"].items():
        assert told == pytest.approx(clocked[name], rel=1e-12)
    assert gs.price(net, t_in, labels, "brainscales2").summary["in_steps"] is None
    for chip, between in ((gs.Chip(time_grid=0.1), 0.0), (gs.Chip(spike_jitter=0.1), 1.0)):
        summary = gs.price(net.on(chip), t_in, labels, "loihi").summary
        assert summary["in_steps"] is None
        assert (summary["between_steps_share"] > 0.0) == (between > 0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("trial", "n_steps"), [(0.3, 3), (1.1, 11), (1.15, 12), (1.2, 12), (1.4, 14), (8, 80)]
)
def test_a_clocked_trial_ends_with_its_last_step(
    trial: float, n_steps: int, dtype: str, tmp_path: Path
) -> None:
    """Though its time is rounded up, and whatever part of the step the trial takes."""
    content = yaml.safe_load(find("loihi", conf_folder() / "prices").read_text(encoding="utf-8"))
    content["time"]["trial"]["value"] = trial
    file = tmp_path / "short.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    prices = read_prices(file)
    assert Clock(prices).ticks(prices.trial) == n_steps
    net = gs.Network([5, 12, 3], seed=4, dtype=dtype).on(gs.Chip(time_grid=0.1))
    rng = np.random.default_rng(3)
    t_in, labels = rng.uniform(0.0, trial / 2, (200, 5)), rng.integers(0, 3, 200)
    first = np.reshape(net(t_in), (200, 3)).astype(float)
    heard = np.round(first.min(axis=1) * 10) <= n_steps
    told = gs.price(net, t_in, labels, file)
    assert told.summary["undecided_share"] == pytest.approx(1.0 - heard.mean())
    assert told.accuracy == pytest.approx((heard & (first.argmin(axis=1) == labels)).mean())
    assert told.summary["spikes_per_sample"]["output"] == pytest.approx(
        (np.round(first * 10) <= n_steps).sum() / 200
    )


def test_the_small_network_on_brainscales2_by_hand() -> None:
    told = account(hand_activity(), chip(), ["a", "b"])
    assert told["energy_per_classification_J"] == pytest.approx(175e-3 * 48e-6, rel=1e-14)
    assert told["samples_per_s"] == pytest.approx(1 / 48e-6)
    assert told["seconds_per_sample_terms"] == {"trial": pytest.approx(48e-6)}
    # Two of four samples decide within the trial: one has no output spike, one has it too late.
    assert told["undecided_share"] == 0.5
    assert told["right_after_trial_share"] == 0.25, "the third sample's"
    assert told["tied_share"] == 0.25  # of the last one both outputs spike at 0.75
    assert told["accuracy"] == 0.25
    assert told["time_to_decision_tau"] == {"mean": 0.875, "p50": 0.875, "p99": pytest.approx(0.9975)}
    assert told["time_to_decision_s"]["mean"] == pytest.approx(0.875 * 6e-6)
    assert told["slowest_class"] == {"class": "a", "mean_s": pytest.approx(6e-6)}
    until = told["until_decision"]
    assert until["seconds"] == pytest.approx((1 + 8 + 8 + 0.75) / 4 * 6e-6)
    assert until["energy_J"] == pytest.approx(175e-3 * 26.625e-6)
    assert told["energy_delay_product_Js"] == pytest.approx(8.4e-6 * 48e-6)
    assert (told["chips_needed"], told["chip_share"]) == (1, 5 / 512)
    assert told["spikes_per_sample"] == {"input": 1.75, "bias": 1.0, "hidden": 2.5, "output": 1.0}
    assert told["synaptic_events_per_sample"] == 11.75
    assert told["until_end"]["time_steps"] is None


def test_the_small_network_on_loihi_by_hand() -> None:
    told = account(hand_activity(), chip("loihi"), ["a", "b"])
    end, until = told["until_end"], told["until_decision"]
    assert (end["time_steps"], until["time_steps"]) == (80, (10 + 80 + 80 + 8) / 4)
    assert (end["neuron_updates"], until["neuron_updates"]) == (400, 5 * 44.5)
    # One core a layer, both in one tile: 1.75 + 1 into the first, 2.5 into the second, 1 out.
    assert (end["messages"], end["hops"]) == (6.25, 0.0)
    terms = end["energy_terms_J"]
    assert terms["synaptic_events"] == pytest.approx(11.75 * 23.6e-12)
    assert terms["neuron_updates"] == pytest.approx([400 * 52e-12, 400 * 81e-12])
    assert terms["messages"] == pytest.approx(6.25 * 1.7e-12)
    assert terms["hops"] == 0.0
    assert terms["static"] == pytest.approx(0.104 * 80e-3)
    low = sum(value[0] if isinstance(value, list) else value for value in terms.values())
    high = sum(value[1] if isinstance(value, list) else value for value in terms.values())
    assert told["energy_per_classification_J"] == pytest.approx([low, high])
    # A decision at 0.75 tau_syn is one at the eighth step.
    assert told["time_to_decision_s"]["mean"] == pytest.approx(9e-3)
    assert until["energy_terms_J"]["static"] == pytest.approx(0.104 * 44.5e-3)


def test_every_figure_of_the_documentation_is_what_the_code_says() -> None:
    activity, text = hand_activity(), DOC.read_text(encoding="utf-8")
    analog, loihi = (account(activity, chip(name), ["a", "b"]) for name in ("brainscales2", "loihi"))
    until = analog["until_decision"]
    terms = loihi["until_end"]["energy_terms_J"]
    ended, decided = activity.ended[8.0], activity.decided[8.0]
    for figure in (
        f"| input spikes | {ended.spikes[0]:g} | {decided.spikes[0]:g} |",
        f"| bias spikes | {ended.bias_spikes[0]:g} | {decided.bias_spikes[0]:g} |",
        f"| hidden spikes | {ended.spikes[1]:g} | {decided.spikes[1]:g} |",
        f"| output spikes | {ended.spikes[2]:g} | {decided.spikes[2]:g} |",
        f"| synaptic events, hidden layer | {ended.events[0]:g} | {decided.events[0]:g} |",
        f"| synaptic events, output layer | {ended.events[1]:g} | {decided.events[1]:g} |",
        f"{1e6 * analog['energy_per_classification_J']:.1f} µJ",
        f"{analog['samples_per_s']:,.0f} samples/s",
        f"{1e6 * until['seconds']:.3f} µs",
        f"{1e6 * until['energy_J']:.3f} µJ",
        f"{1e6 * analog['time_to_decision_s']['mean']:.2f} µs",
        f"{100 * analog['undecided_share']:.0f} %",
        f"{1e12 * terms['synaptic_events']:.1f} pJ",
        f"{1e9 * terms['neuron_updates'][0]:.1f} to {1e9 * terms['neuron_updates'][1]:.1f} nJ",
        f"{1e12 * terms['messages']:.3f} pJ",
        f"{1e3 * terms['static']:.2f} mJ",
        f"{loihi['until_decision']['time_steps']:.1f} steps",
    ):
        assert figure in text, figure


# ---- counts from scratch


def count_by_hand(
    spikes: Sequence[Array], n_own: Sequence[int], weights: Sequence[Array], trial: float
) -> list[list[float]]:
    """Mean counts of one replica in plain Python, one loop for each thing that is said in the documentation.

    Args:
        spikes: for each layer (n_samples, n_pre), bias spikes last, and the outputs.

    Returns:
        Until the end and until the decision: spikes by population, then bias spikes, events and bias events
        by layer.
    """
    n_samples, n_layer = len(spikes[0]), len(weights)
    answers = []
    for stops_at_decision in (False, True):
        own = [0] * (n_layer + 1)
        bias, events, bias_events = [0] * n_layer, [0] * n_layer, [0] * n_layer
        for b in range(n_samples):
            end = trial
            if stops_at_decision:
                for t in spikes[-1][b]:
                    end = min(end, t)
            for p, times in enumerate(spikes):
                for i, t in enumerate(times[b]):
                    if t > end:
                        continue
                    if i < n_own[p]:
                        own[p] += 1
                    else:
                        bias[p] += 1
                    for w in weights[p][i] if p < n_layer else ():
                        if w != 0.0:
                            events[p] += 1
                            bias_events[p] += i >= n_own[p]
        answers.append([n / n_samples for n in (*own, *bias, *events, *bias_events)])
    return answers


def flat(counts: Counts) -> list[float]:
    return [float(n) for part in fields(counts) for n in getattr(counts, part.name)]


def real_network(
    dtype: Any = np.float32, n_replica: int = 2
) -> tuple[Architecture, list[Array], Labelled, Any, Array]:
    """A two-layer network with simultaneous inputs, silent neurons and undecided samples."""
    rng = np.random.default_rng(7)
    network = Architecture.build((6, 9, 3), [[0.9, 0.9], [0.4]], LIF(), load("cpu"))
    weights = [
        rng.normal(mean, 0.8, (n_replica, layer.n_pre, layer.n_out))
        for layer, mean in zip(network.layers, (0.4, 0.35), strict=True)
    ]
    weights = [np.round(w, 0 if k else 1).astype(dtype) for k, w in enumerate(weights)]
    t_in = np.round(rng.uniform(0.0, 2.0, (1, 97, 6)), 1).astype(dtype)  # many are simultaneous
    t_in[rng.random(t_in.shape) < 0.3] = INF
    data = Labelled(network.receive(t_in), rng.integers(0, 3, 97))
    return network, weights, data, TTFSCrossEntropy(kernels=network.kernels), t_in


def counted(
    network: Architecture,
    weights: list[Array],
    data: Labelled,
    loss: Any,
    batch: int,
    trials: Sequence[float],
) -> Activity:
    counter = Counter(network.layers, weights, len(data), trials)
    result = evaluate(network, weights, data, loss, batch, counter)
    return counter.activity(result.t_out, data.labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_replica", [1, 2])
def test_the_counts_of_a_simulated_network_equal_those_of_plain_python(dtype: Any, n_replica: int) -> None:
    network, weights, data, loss, _ = real_network(dtype, n_replica)
    trials = (1.0, 8.0)
    activity = counted(network, weights, data, loss, 40, trials)
    states = network.forward(weights, data.received)
    populations = [*(state.t_in for state in states), states[-1].t_out]
    assert np.isinf(activity.t_decision).any(), "undecided samples"
    assert np.isinf(populations[1]).any(), "silent neurons"
    assert any((w == 0.0).any() for w in weights), "weights of zero"
    for trial in trials:
        by_replica = [
            count_by_hand(
                [p[r if len(p) > 1 else 0] for p in populations], (6, 9, 3), [w[r] for w in weights], trial
            )
            for r in range(n_replica)
        ]
        ended, decided = np.mean(by_replica, axis=0)
        np.testing.assert_allclose(flat(activity.ended[trial]), ended, rtol=1e-13)
        np.testing.assert_allclose(flat(activity.decided[trial]), decided, rtol=1e-13)


def test_the_course_of_the_counts_ends_at_the_counts_and_agrees_with_plain_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activities, "STRIDE", 1)
    network, weights, data, loss, _ = real_network(np.float64, 1)
    activity = counted(network, weights, data, loss, 40, (2.0,))
    states = network.forward(weights, data.received)
    spikes = [*(state.t_in[0] for state in states), states[-1].t_out[0]]
    for k in (0, 7, 20, 33, 40):
        # Half a step aside of the simultaneous inputs, whose times are rounded where they meet the grid.
        t = activity.grid[k] + (1e-9 if k else 0.0)
        by_hand = count_by_hand(spikes, (6, 9, 3), [w[0] for w in weights], t)
        for course, expected in zip((activity.course_ended, activity.course_decided), by_hand, strict=True):
            at = Counts(*(getattr(course, part.name)[:, k] for part in fields(course)))
            np.testing.assert_allclose(flat(at), expected, rtol=1e-12)


# ---- what must not change the counts


def assert_same(one: Activity, other: Activity) -> None:
    for trial in one.ended:
        np.testing.assert_allclose(flat(one.ended[trial]), flat(other.ended[trial]), rtol=1e-12)
        np.testing.assert_allclose(flat(one.decided[trial]), flat(other.decided[trial]), rtol=1e-12)
    for course, same in (
        (one.course_ended, other.course_ended),
        (one.course_decided, other.course_decided),
    ):
        np.testing.assert_allclose(course.events, same.events, rtol=1e-12)
    np.testing.assert_array_equal(one.t_decision, other.t_decision)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 97))
def test_the_size_of_the_batches_changes_nothing(batch: int) -> None:
    network, weights, data, loss, _ = real_network()
    assert_same(
        counted(network, weights, data, loss, batch, (8.0,)),
        counted(network, weights, data, loss, 97, (8.0,)),
    )


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(9)), st.permutations(range(6)))
def test_the_order_of_the_neurons_changes_nothing(hidden: list[int], inputs: list[int]) -> None:
    network, weights, data, loss, t_in = real_network()
    rows = [*inputs, 6, 7]
    other = [weights[0][:, rows][:, :, hidden], weights[1][:, [*hidden, 9]]]
    other = [np.ascontiguousarray(w) for w in other]
    shuffled = Labelled(network.receive(np.ascontiguousarray(t_in[:, :, inputs])), data.labels)
    one = counted(network, weights, data, loss, 97, (8.0,))
    permuted = counted(network, other, shuffled, loss, 97, (8.0,))
    # Sums in another order may move a spike by a rounding; decisions within one of each other count the same.
    np.testing.assert_allclose(one.t_decision, permuted.t_decision, rtol=1e-4)
    np.testing.assert_allclose(flat(one.ended[8.0]), flat(permuted.ended[8.0]), rtol=0.02)


times = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, 9.0, INF]), min_size=7, max_size=7),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(times, st.sampled_from([0.25, 1.0, 8.0]), st.sampled_from([1.0, 4.0]))
def test_what_holds_of_all_spike_times(rows: list[list[float]], trial: float, unit: float) -> None:
    array = np.array(rows)[None]
    bias = np.full((1, len(rows), 1), BIAS)
    populations = [np.concatenate([array[:, :, :2], bias], 2), array[:, :, 2:5], array[:, :, 5:]]
    weights = [w[None] for w in WEIGHTS]
    found = []
    for scale in (1.0, unit):
        scaled = [np.ascontiguousarray(scale * p) for p in populations]
        counter = Counter(hand_network().layers, weights, len(rows), (trial,), scale)
        counter(0, len(rows), states_of(scaled))
        found.append(counter.activity(scaled[-1], np.zeros(len(rows), np.int64)))
    ended, decided = flat(found[0].ended[trial]), flat(found[0].decided[trial])
    assert all(until <= end for until, end in zip(decided, ended, strict=True))
    by_hand = count_by_hand([p[0] for p in populations], (2, 3, 2), WEIGHTS, trial)
    np.testing.assert_allclose([ended, decided], by_hand, rtol=1e-13)
    assert_same(*found)


# ---- prices


def use(counts: Counts | None = None, **changes: Any) -> Use:
    base = Use(counts or hand_activity().ended[8.0], 80.0, np.full(2, 0.08))
    return replace(base, **changes)


def test_a_missing_price_is_named_and_nothing_is_totalled() -> None:
    with pytest.raises(PriceError) as caught:
        energy_terms(use(), hand_activity(), chip("loihi2"))
    expected = "Loihi 2: no price is known for synaptic_events, neuron_updates, static"
    assert str(caught.value) == expected
    told = account(hand_activity(), chip("loihi2"), ["a", "b"])
    assert told["refused"] == expected
    assert told["energy_per_classification_J"] is None
    assert told["energy_terms_J"] is None
    assert told["time_to_decision_s"] is None
    assert told["seconds_per_sample"] is None
    assert told["samples_per_s"] is None
    assert told["synaptic_events_per_sample"] == 11.75, "counts need no prices"
    assert anytime(hand_activity(), chip("loihi2"))["energy_J"] is None


def test_power_without_time_is_refused() -> None:
    with pytest.raises(PriceError, match="neurons is charged by the neuron, but its time is not known"):
        energy_terms(use(seconds=None), hand_activity(), chip("spinnaker"))


def test_power_of_a_chip_that_the_network_does_not_fit_is_refused() -> None:
    wide = replace(hand_activity(), n_neurons=(100, 3, 2), fan_in=(101, 4))
    prices = replace(chip(), merges=False, capacity=chip("dynapse").capacity)
    with pytest.raises(PriceError, match=r"by the chip, but a neuron has 101 inputs, the chip's have 64"):
        energy_terms(use(), wide, prices)
    with pytest.raises(PriceError, match=r"by the chip, but its capacity\.neurons is not known"):
        energy_terms(use(), wide, replace(chip(), capacity={}))


def test_an_all_in_price_by_the_event_is_the_whole_account() -> None:
    told = account(hand_activity(), chip("truenorth"), ["a", "b"])
    assert told["energy_terms_J"] == {"all_in": pytest.approx(11.75 * 26e-12)}
    assert told["energy_per_classification_J"] == pytest.approx(11.75 * 26e-12)


def test_what_is_charged_by_the_time_is_known_as_well_as_the_time() -> None:
    assert (chip("spinnaker").evidence, chip("spinnaker").time_evidence) == ("assumption", "assumption")
    assert chip("brainscales2").evidence == "derived"  # with times that are stated
    by_event = replace(
        chip("spinnaker"), items=[item for item in chip("spinnaker").items if item.per == "spike"]
    )
    assert (by_event.evidence, by_event.time_evidence) == ("measured", "assumption")


def test_spinnaker_is_charged_for_its_board_and_its_neurons_by_the_time() -> None:
    terms = account(hand_activity(), chip("spinnaker"), ["a", "b"])["energy_terms_J"]
    assert terms["idle"] == pytest.approx(2.67 * 0.08)
    assert terms["neurons"] == pytest.approx(5 * 89.6e-6 * 0.08)
    assert terms["spikes"] == pytest.approx([6.25 * 10.0e-9, 6.25 * 10.4e-9])
    assert terms["synaptic_events"] == pytest.approx([11.75 * 7.5e-9, 11.75 * 9.6e-9])


@pytest.mark.parametrize(
    ("n_neurons", "fan_ins", "chips", "share", "circuits"),
    [
        ((256, 246, 10), (256, 246), 1, 1.0, (2, 2)),  # the paper's network fills the chip exactly
        ((4, 120, 3), (5, 121), 1, 123 / 512, (1, 1)),
        ((784, 350, 10), (784, 350), 5, (350 * 7 + 10 * 3) / (5 * 512), (7, 3)),
    ],
)
def test_chips_of_joined_circuits(
    n_neurons: tuple[int, ...], fan_ins: tuple[int, ...], chips: int, share: float, circuits: tuple[int, ...]
) -> None:
    where = fit(chip(), n_neurons, fan_ins)
    assert (where.chips, where.share, where.reason, where.circuits) == (chips, share, "", circuits)


def test_a_price_that_is_the_trial_s_whatever_the_network_is_told_as_such() -> None:
    def told(name: str) -> bool:
        prices = chip(name)
        return account(hand_activity(trials=[prices.trial]), prices, ("a", "b"))["energy_is_the_trials"]

    assert told("brainscales2")
    assert not any(told(name) for name in ("loihi", "truenorth", "odin", "digital_45nm"))


def test_cores_and_the_way_between_them() -> None:
    assert fit(chip("loihi"), (784, 1025, 10), (784, 1025)).cores == (2, 1)
    assert hops(4, 4) == 0.0
    # Mean distance between two of 2 x 2 tiles, every ordered pair and itself: (4 * 0 + 8 * 1 + 4 * 2) / 16.
    assert hops(5, 4) == pytest.approx(1.0)
    ways = [abs(a - c) + abs(b - d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
    assert hops(33, 4) == pytest.approx(np.mean(ways))


def test_a_clock_rounds_up_to_its_steps_and_leaves_steps_alone() -> None:
    ticks = Clock(chip("loihi")).ticks(np.array([0.0, 0.05, 0.1, 0.3, 0.7, 0.70001, INF]))
    np.testing.assert_array_equal(ticks, [0, 1, 1, 3, 7, 8, INF])
    on_a_step = (np.arange(81) * 0.1).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(Clock(chip("loihi")).ticks(on_a_step), np.arange(81))


def test_a_split_without_any_decision_is_no_error() -> None:
    activity = hand_activity()
    silent = replace(activity, t_decision=np.full((1, 4), INF), correct=np.zeros((1, 4), bool))
    told = account(silent, chip(), ["a", "b"])
    assert told["undecided_share"] == 1.0
    assert told["time_to_decision_s"] == {"mean": None, "p50": None, "p99": None}
    assert told["slowest_class"] is None
    assert told["until_decision"]["seconds"] == told["until_end"]["seconds"]


def test_reset_and_transfer_take_time_and_power() -> None:
    reset = replace(chip().times["trial"], band=np.full(2, 2e-6))
    told = account(hand_activity(), replace(chip(), times={**chip().times, "reset": reset}), ["a", "b"])
    assert told["seconds_per_sample_terms"] == {"trial": pytest.approx(48e-6), "reset": 2e-6}
    assert told["seconds_per_sample"] == pytest.approx(50e-6)
    assert told["energy_per_classification_J"] == pytest.approx(0.175 * 50e-6)


# ---- the anytime curve and NeuroBench


def test_the_anytime_curve_of_the_small_network() -> None:
    curve = anytime(hand_activity(), chip())
    at = {round(float(t), 2): k for k, t in enumerate(curve["time_tau"])}
    assert curve["time_tau"][-1] == 8.0
    assert curve["time_s"][-1] == pytest.approx(48e-6)
    for t, decided, right in ((0.7, 0, 0), (0.75, 1, 0), (0.95, 1, 0), (1.0, 2, 1), (8.0, 2, 1)):
        assert curve["decided"][at[t]] == decided / 4
        assert curve["accuracy"][at[t]] == right / 4
    assert curve["energy_J"][at[1.0]] == pytest.approx(0.175 * 6e-6)
    assert curve["energy_stopping_J"][at[1.0]] == pytest.approx(0.175 * 6e-6 * 3.75 / 4)
    until = account(hand_activity(), chip(), ["a", "b"])["until_decision"]
    assert curve["energy_stopping_J"][-1] == pytest.approx(until["energy_J"])


@pytest.mark.parametrize("name", ["brainscales2", "brainscales2_2022", "loihi", "spinnaker", "truenorth"])
def test_the_anytime_curve_rises_to_the_account(name: str) -> None:
    network, weights, data, loss, _ = real_network()
    prices = chip(name)
    activity = counted(network, weights, data, loss, 40, (prices.trial,))
    curve, told = anytime(activity, prices), account(activity, prices, ["a", "b", "c"])
    np.testing.assert_allclose(curve["energy_J"][-1], told["energy_per_classification_J"])
    np.testing.assert_allclose(curve["energy_stopping_J"][-1], told["until_decision"]["energy_J"])
    assert curve["accuracy"][-1] == pytest.approx(told["accuracy"])
    assert curve["decided"][-1] == pytest.approx(1.0 - told["undecided_share"])
    for key in ("decided", "accuracy", "energy_J", "energy_stopping_J"):
        assert (np.diff(curve[key], axis=0) >= -1e-18).all(), key


def test_neurobench_s_names_hold_the_same_counts() -> None:
    told = neurobench(hand_activity())
    assert told == {
        "Footprint": (9 + 6) * 8,
        "ConnectionSparsity": pytest.approx(2 / 15),
        "ActivationSparsity": pytest.approx(1 - 3.5 / 5),
        "SynapticOperations": {"Effective_MACs": 0.0, "Effective_ACs": 11.75, "Dense": 15.0},
        "MembraneUpdates": 11.75,
    }
