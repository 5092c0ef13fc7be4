"""Energy for anybody's network: spikes of other simulators, at the prices that this package's own pay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.config.files import conf_folder
from gpuspike.errors import ConfigError, DataError, DtypeError, ShapeError, ValueRangeError
from gpuspike.report.comparison import comparison

Array = NDArray[Any]

CHIPS = sorted(path.stem for path in (conf_folder() / "prices").glob("*.yaml"))


def tensors(seed: int = 0, sizes: tuple[int, ...] = (6, 5, 3)) -> list[Array]:
    """Spikes of 20 time steps and 7 samples."""
    rng = np.random.default_rng(seed)
    return [(rng.random((20, 7, n)) < 0.2).astype(np.float32) for n in sizes]


def as_events(tensor: Array) -> dict[str, Any]:
    step, sample, neuron = np.nonzero(tensor)
    return {"sample": sample, "neuron": neuron, "time": step + 1.0}


# ---- the same account


@pytest.mark.parametrize("chip", CHIPS)
def test_spikes_of_our_own_network_cost_what_the_network_costs(chip: str) -> None:
    rng = np.random.default_rng(1)
    net = gs.Network([6, 12, 3], seed=2, backend="cpu")
    net.parameters.weights[1][0, 3, 1] = 0.0
    t_in, labels = rng.uniform(0.1, 2.0, (64, 6)), rng.integers(0, 3, 64)
    own = gs.price(net, t_in, labels, prices=chip)
    steps = own.summary["numbers"].get("time.steps_per_tau_syn", {"value": 1.0})["value"]
    trial = float(own.anytime["time_tau"][-1])
    events = []
    for times in (t_in, *net(t_in, layers=True)):
        sample, neuron = np.nonzero(times <= trial)
        events.append(
            {
                "sample": sample,
                "neuron": neuron,
                "time": times[sample, neuron] * steps,
                "n_neurons": times.shape[1],
            }
        )
    cost = gs.price_spikes(
        events,
        [w[0] for w in net.parameters.weights],
        chip,
        labels=labels,
        decision="first",
        tau_syn=steps,
        duration=trial * steps,
        n_samples=64,
    )
    # SpiNNaker is paid for by time, which is assumed for the one and stated for the other.
    grades = ("stated", "assumption") if chip == "spinnaker" else (own.evidence, own.evidence)
    assert (cost.evidence, own.evidence) == grades
    for name in ("accuracy", "scope", "refused"):
        assert getattr(cost, name) == getattr(own, name)
    for name in ("energy_per_classification_J", "seconds_per_sample"):
        ours, theirs = getattr(own, name), getattr(cost, name)
        assert (ours is None and theirs is None) or np.allclose(ours, theirs, rtol=1e-12)
    for part in ("until_end", "until_decision"):
        ours, theirs = own.summary[part], cost.summary[part]
        assert np.allclose(ours["synaptic_events_by_layer"], theirs["synaptic_events_by_layer"], rtol=1e-12)
        assert ours["spikes_per_sample"] == pytest.approx(theirs["spikes_per_sample"], rel=1e-12)
        if ours["energy_J"] is not None:
            assert np.allclose(ours["energy_J"], theirs["energy_J"], rtol=1e-12)
    assert cost.neurobench == own.neurobench


def test_by_hand() -> None:
    """Two inputs, two outputs, three steps, two samples; Loihi's prices."""
    inputs, outputs = np.zeros((3, 2, 2), int), np.zeros((3, 2, 2), int)
    inputs[0, 0, 0], inputs[2, 0, 1], inputs[1, 1, 1] = 1, 2, 1  # two spikes in one step
    outputs[2, 0, 1], outputs[1, 0, 0], outputs[2, 0, 1] = 2, 1, 2
    cost = gs.price_spikes([inputs, outputs], [np.array([[1.0, 0.0], [0.5, -0.5]])], "loihi", labels=[1, 0])
    # Events: the first input has one target, the second two: 1 + 2 x 2 in the first sample, 2 in the second.
    assert cost.summary["synaptic_events_per_sample"] == 3.5
    assert cost.summary["spikes_per_sample"] == {"input": 2.0, "bias": 0.0, "hidden": 0.0, "output": 1.5}
    terms = cost.energy_terms_J
    assert terms is not None
    assert terms["synaptic_events"] == pytest.approx(3.5 * 23.6e-12)
    assert np.allclose(terms["neuron_updates"], [2 * 3 * 52e-12, 2 * 3 * 81e-12])
    assert terms["messages"] == pytest.approx((2.0 + 1.5) * 1.7e-12)
    assert terms["static"] == pytest.approx(0.104 * 3e-3)
    assert cost.accuracy == 0.5  # the second sample has no output spike: undecided, and counted as wrong
    assert cost.summary["undecided_share"] == 0.5
    assert cost.summary["tied_share"] == 0.0
    even = gs.price_spikes([inputs, outputs + outputs[:, :, ::-1]], [(2, 2)], "loihi", labels=[1, 0])
    assert even.summary["tied_share"] == 0.5
    assert ", 50 % at a tie, for the lowest class" in repr(even)
    assert cost.time_to_decision_s is not None
    assert cost.time_to_decision_s["mean"] == pytest.approx(3e-3)  # the count is known when the trial is over
    first = gs.price_spikes([inputs, outputs], [(2, 2)], "loihi", labels=[1, 0], decision="first")
    assert first.accuracy == 0.0
    assert first.time_to_decision_s is not None
    assert first.time_to_decision_s["mean"] == pytest.approx(2e-3)
    assert first.summary["until_decision"]["spikes_per_sample"]["input"] == 1.0
    assert first.summary["numbers"]["time.steps_per_tau_syn"]["grade"] == "stated"


@pytest.mark.parametrize("chip", CHIPS)
def test_tensors_events_and_fan_outs_cost_the_same(chip: str) -> None:
    rng = np.random.default_rng(3)
    given = tensors()
    weights = [rng.normal(size=(6, 5)) * (rng.random((6, 5)) < 0.5), rng.normal(size=(5, 3))]
    expected = gs.price_spikes(given, weights, chip, tau_syn=5.0)
    events = gs.price_spikes(
        [as_events(t) for t in given], weights, chip, tau_syn=5.0, duration=20, n_samples=7
    )
    targets = [np.count_nonzero(weights[0], axis=1), (5, 3)]
    fans = gs.price_spikes([t.astype(bool) for t in given], targets, chip, tau_syn=5.0)
    for other in (events, fans):
        assert other.energy_per_classification_J == expected.energy_per_classification_J
        assert other.refused == expected.refused
        assert other.summary["spikes_per_sample"] == expected.summary["spikes_per_sample"]
    assert expected.accuracy is None
    assert "accuracy" not in repr(expected)
    assert expected.anytime["accuracy"] is None
    if expected.anytime["energy_J"] is not None and expected.scope == "per_term":
        assert np.allclose(expected.anytime["energy_J"][-1], expected.energy_per_classification_J)


def test_a_chip_without_a_clock_needs_a_time_constant() -> None:
    cost = gs.price_spikes(tensors(), None, "brainscales2")
    assert cost.energy_per_classification_J is None
    assert cost.refused is not None
    assert cost.refused.endswith("but its time is not known; tau_syn, in time steps, would tell it")
    known = gs.price_spikes(tensors(), None, "brainscales2", tau_syn=5.0)  # 4 tau_syn of 6 us at 175 mW
    assert known.energy_per_classification_J == pytest.approx(4 * 6e-6 * 0.175)
    assert known.refused is None


def test_long_trials_have_a_coarser_course() -> None:
    spikes = [np.zeros((5000, 1, 2), np.int8), np.zeros((5000, 1, 2), np.int8)]
    spikes[0][4999, 0, 0] = spikes[1][0, 0, 1] = 1
    cost = gs.price_spikes(spikes, None, "loihi")
    assert len(cost.anytime["time_tau"]) == 2001
    assert cost.summary["until_end"]["time_steps"] == 5000.0


# ---- NIR graphs


def nir_graph() -> Any:
    nir: Any = pytest.importorskip("nir", reason="needs the nir package")
    weight = np.array([[1.0, 0.0, 2.0, 0.0, 1.0, 1.0]] * 4 + [[0.0] * 6])
    nodes = {
        "input": nir.Input(np.array([6])),
        "fc1": nir.Affine(weight, np.zeros(5)),
        "lif1": nir.LIF(np.ones(5), np.ones(5), np.zeros(5), np.ones(5)),
        "fc2": nir.Linear(np.ones((3, 5))),
        "out": nir.IF(np.ones(3), np.ones(3)),
        "output": nir.Output(np.array([3])),
    }
    return nir.NIRGraph(nodes, list(zip(list(nodes)[:-1], list(nodes)[1:], strict=True)))


def test_a_nir_graph_of_any_neurons_says_who_is_connected(tmp_path: Path) -> None:
    graph, given = nir_graph(), tensors()
    expected = gs.price_spikes(given, [graph.nodes["fc1"].weight.T, (5, 3)], "spinnaker2")
    import nir

    nir.write(tmp_path / "net.nir", graph)
    by_name = dict(zip(("out", "input", "lif1"), (given[2], given[0], given[1]), strict=True))
    for cost in (
        gs.price_spikes(given, graph, "spinnaker2"),
        gs.price_spikes(by_name, str(tmp_path / "net.nir"), "spinnaker2"),
    ):
        assert cost.energy_per_classification_J == expected.energy_per_classification_J
    with pytest.raises(ConfigError, match="spikes must be those of 'input', 'lif1', 'out', got 'input'"):
        gs.price_spikes({"input": given[0]}, graph)
    with pytest.raises(ConfigError, match="spikes by name need a NIR graph"):
        gs.price_spikes(by_name, None)
    with pytest.raises(DataError, match="no NIR file"):
        gs.price_spikes(given, tmp_path / "none.nir")


def test_bias_spikes_of_an_exported_network_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    net, path = gs.Network([4, 5, 3], [[0.9], []], backend="cpu", seed=1), tmp_path / "net.nir"
    gs.export_nir(net, path, time_unit="ms")
    t_in = np.random.default_rng(0).uniform(0.1, 2.0, (10, 4))
    hidden, out = net(t_in, layers=True)
    own = gs.price(net, t_in, np.zeros(10, int), prices="loihi")
    spikes = {}
    for name, times in {
        "input": t_in,
        "lif_0": hidden,
        "lif_1": out,
        "bias_0": np.full((10, 1), 0.9),
    }.items():
        sample, neuron = np.nonzero(times <= 8.0)
        spikes[name] = {"sample": sample, "neuron": neuron, "time": times[sample, neuron] * 10}
    given = {
        "duration": 80.0,
        "n_samples": 10,
        "tau_syn": 10.0,
        "decision": "first",
        "labels": np.zeros(10, int),
    }
    cost = gs.price_spikes(spikes, path, "loihi", **given)
    assert cost.summary["spikes_per_sample"] == own.summary["spikes_per_sample"]
    assert cost.energy_per_classification_J == pytest.approx(own.energy_per_classification_J, rel=1e-12)
    with pytest.raises(ConfigError, match="by name where there are bias spikes"):
        gs.price_spikes([spikes[name] for name in ("input", "lif_0", "lif_1")], path, "loihi", **given)


# ---- refused

ONE = np.ones((2, 3, 4))


@pytest.mark.parametrize(
    ("spikes", "more", "error", "message"),
    [
        ([ONE], {}, ShapeError, "spikes must be those of the inputs and of one layer or more, got 1"),
        ([ONE, ONE[0]], {}, ShapeError, r"spikes\[1\] must be \(time, sample, neuron\), got shape \(3, 4\)"),
        (
            [ONE, 0.5 * ONE],
            {},
            ValueRangeError,
            r"spikes\[1\] must hold numbers of spikes, whole and 0 or more, got 0.5",
        ),
        ([ONE, -ONE], {}, ValueRangeError, "got -1"),
        ([ONE, np.full((2, 3, 4), np.nan)], {}, ValueRangeError, r"spikes\[1\] must hold numbers of spikes"),
        ([ONE, np.full((2, 3, 4), "a")], {}, DtypeError, r"spikes\[1\] must hold numbers, got <U1"),
        ([ONE, [[1, 2], [3]]], {}, ShapeError, r"spikes\[1\] must be an array"),
        (
            [ONE, ONE[:, :2]],
            {},
            ShapeError,
            r"spikes\[1\] must have 3 samples, as others or n_samples s",
        ),
        (
            [ONE, ONE[:1]],
            {},
            ShapeError,
            r"spikes\[1\] must have 2 time steps, as others or duration",
        ),
        ([ONE, ONE], {"synapses": [(4, 4), (4, 4)]}, ShapeError, "synapses must be 1, one between each two"),
        (
            [ONE, ONE],
            {"synapses": [(3, 4)]},
            ShapeError,
            r"spikes\[0\] must be 3 neurons, as its synapses have it \(n_pre first\), got 4",
        ),
        (
            [ONE, ONE],
            {"synapses": [np.ones((4, 3))]},
            ShapeError,
            r"spikes\[1\] must be as many neurons as synapses lead to, got 3 and 4",
        ),
        (
            [ONE, ONE],
            {"synapses": [np.ones((4, 3, 2))]},
            ShapeError,
            r"synapses\[0\] must be \(n_pre, n_post\), a matrix",
        ),
        (
            [ONE, ONE],
            {"synapses": [(4, 0)]},
            ShapeError,
            r"synapses\[0\] must be \(n_pre, n_post\), two positive sizes",
        ),
        (
            [ONE, ONE],
            {"synapses": [np.full((4, 4), np.inf)]},
            ValueRangeError,
            r"synapses\[0\] must be finite",
        ),
        ([ONE, ONE], {"synapses": [np.full(4, 1.5)]}, ValueRangeError, "must be numbers of targets"),
        ([ONE, ONE], {"prices": "brain"}, ConfigError, "brain"),
        ([ONE, ONE], {"decision": "last"}, ConfigError, "decision"),
        (
            [ONE, ONE],
            {"tau_syn": 0.0},
            ValueRangeError,
            "tau_syn must be a positive number of time steps, got 0.0",
        ),
        ([ONE, ONE], {"labels": [0, 1, 4]}, ValueRangeError, "labels must lie from 0 to 3"),
        ([ONE, ONE], {"class_names": ["a"]}, ValueRangeError, "class_names must be 4"),
        ([ONE, ONE], {"duration": -1.0}, ValueRangeError, "duration must be positive, got -1.0"),
        (
            [as_events(ONE), as_events(ONE)],
            {},
            ValueRangeError,
            "is a list of events, which needs duration and n_samples",
        ),
        (
            [ONE, {"sample": [0], "time": [1]}],
            {},
            ValueRangeError,
            r"spikes\[1\] must have sample, neuron, time",
        ),
        (
            [ONE, {"sample": [0], "time": [1], "neuron": [0, 1]}],
            {},
            ShapeError,
            "must have one sample, neuron and time a spike",
        ),
        (
            [ONE, {"sample": [0], "time": [3], "neuron": [0]}],
            {},
            ValueRangeError,
            "time must lie from 0 to 2.0, got 3",
        ),
        (
            [ONE, {"sample": [3], "time": [1], "neuron": [0]}],
            {},
            ValueRangeError,
            "sample must be whole numbers from 0 to 2",
        ),
        (
            [ONE, {"sample": [0], "time": [1], "neuron": [9], "n_neurons": 4}],
            {},
            ValueRangeError,
            "neuron must be whole numbers from 0 to 3",
        ),
        (
            [ONE, {"sample": [0], "time": [1], "neuron": [9]}],
            {"synapses": [(4, 4)]},
            ValueRangeError,
            "must be spikes of 4 neurons, got one of neuron 9",
        ),
        (
            [ONE, {"sample": [0], "time": [1], "neuron": [0]}],
            {},
            ShapeError,
            r"spikes\[1\] must say its n_neurons, or synapses must",
        ),
    ],
)
def test_what_cannot_be_priced_is_refused(
    spikes: Any, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gs.price_spikes(spikes, **more)


def test_an_energy_that_is_not_known_says_why() -> None:
    assert ": no energy, since no price is known for " in repr(gs.price_spikes(tensors(), prices="loihi2"))
    told = repr(gs.price_spikes(tensors(), prices="brainscales2"))
    assert "unknown J" not in told
    assert "decided after unknown, 14.3 % at a tie, for the lowest class, unknown a sample)" in told
    assert "tau_syn, in time steps, would tell it" in told


def test_chips_of_one_name_are_told_apart_by_their_files() -> None:
    chip = gs.price_spikes(tensors(), prices="loihi").summary
    table, notes = comparison("6-5-3", [chip, chip | {"prices": "mine", "chips_needed": 2}], width=300)
    assert [str(cell) for cell in table.columns[0].cells] == ["Loihi (loihi)", "Loihi (mine)"]
    assert "Loihi (mine): at least 2 chips" in notes
    table, _ = comparison("6-5-3", [chip], width=300)
    assert [str(cell) for cell in table.columns[0].cells] == ["Loihi"]


def test_a_price_says_which_time_constant_is_the_chip_s() -> None:
    t_in, labels = np.full((4, 3), 0.5), np.zeros(4, np.int64)
    for taus, words in (
        ((2.0, 2.0), ""),
        ((2.0, 1.0), "; the chip's tau_syn stands for the first layer's, 2, "),
    ):
        neurons = [gs.LIF(tau_mem=2.0 * tau, tau_syn=tau) for tau in taus]
        cost = gs.price(gs.Network([3, 4, 2], neuron=neurons, backend="cpu"), t_in, labels)
        assert words in repr(cost)
        assert ("time_unit" in cost.summary) == bool(words)
    assert cost.summary["time_unit"].endswith("where neurons have 1 to 2")


def test_a_network_that_never_decides_says_so() -> None:
    net = gs.Network([2, 3, 2], seed=0)
    for weights in net.parameters.weights:
        weights[...] = -1.0
    t_in = np.ones((4, 2))
    for prices in ("brainscales2", "digital_45nm"):
        assert ", never decided, " in repr(gs.price(net, t_in, np.zeros(4, np.int64), prices=prices))


def test_a_price_says_which_share_never_decides() -> None:
    net = gs.Network([2, 2], seed=0)
    net.parameters.weights[0][...] = 5.0
    t_in = np.array([[1.0, 1.0], [np.inf, np.inf], [1.0, 1.0], [np.inf, np.inf]])
    told = repr(gs.price(net, t_in, np.zeros(4, np.int64), prices="brainscales2"))
    assert re.search(r", decided after [\d.e-]+ s, 50 % never, ", told)


def test_sparsity_of_neurons_that_spike_often_is_a_share() -> None:
    spikes = [np.ones((25, 2, 3)), np.zeros((25, 2, 4))]
    spikes[1][:10] = 1.0  # in ten of 25 time steps
    told = gs.price_spikes(spikes, prices="loihi").neurobench
    assert told["ActivationSparsity"] == pytest.approx(1.0 - 10 / 25)
    assert told["SynapticOperations"]["Dense"] == 25 * 3 * 4
    spikes[1][1:] = 0.0
    assert gs.price_spikes(spikes, prices="loihi").neurobench["ActivationSparsity"] == 0.0
