"""Delays of inputs, neurons and synapses: exact times and gradients, on chips too, in runs and files."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_docs import run

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.errors import ConfigError, GpuspikeError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.kernels.reference import single as oracle
from gpuspike.network.delays import KINDS, DelayRule, Delays, kinds_of, name_of
from gpuspike.network.network import Architecture, Machine
from gpuspike.network.parameters import Parameters
from gpuspike.neuron import LIF
from gpuspike.runs.experiment import build
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.losses import TTFSCrossEntropy

Array = NDArray[Any]

SUMS = ["axonal", "dendritic", "synaptic", "axonal+dendritic+synaptic"]
each_sum = pytest.mark.parametrize("kinds", SUMS)
NEURONS = {
    "equal": LIF(),
    "double": LIF(2.0, 1.0),
    "non-leaky": LIF(np.inf, 1.0, 0.7),
    "general": LIF(1.37, 0.8, 0.9, -0.1, 1.3),
    "own": LIF(np.array([0.9, 1.0, 1.1, 2.0, 1.0 + 1e-9]), np.array([1.0, 1.0, 0.8, 1.0, 1.0])),
}
FEW = ["training.epochs=2", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}


def layer(
    n_pre: int, n_post: int, dtype: str, n_batch: int = 7, n_replica: int = 2
) -> tuple[Array, Array, Array]:
    """Times with silence and ties, weights, delays."""
    rng = np.random.default_rng(n_pre)
    t_in = rng.uniform(0.0, 2.0, (n_replica, n_batch, n_pre))
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    delays = rng.uniform(0.0, 1.0, (n_replica, n_pre, n_post))
    t_in[:, : n_batch // 2], delays[0] = (
        np.round(4.0 * t_in[:, : n_batch // 2]) / 4.0,
        np.round(4.0 * delays[0]) / 4.0,
    )
    weights = rng.normal(1.2, 1.0, (n_replica, n_pre, n_post)) * 4.0 / np.sqrt(n_pre or 1)
    return tuple(array.astype(dtype) for array in (t_in, weights, delays))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("n_pre", [0, 1, 5, 31, 33, 129])
def test_neurons_with_delays_of_their_synapses_are_the_oracle_s(n_pre: int, neuron: str, dtype: str) -> None:
    ours, one, close = load("cpu").single, NEURONS[neuron], TOLERANCES[dtype]
    t_in, weights, delays = layer(n_pre, 5, dtype)
    lift = np.random.default_rng(1).uniform(0.5, 1.5, (2, 7, 5)).astype(dtype)
    lift[0, 0, 0] = -1.0
    for lifted in (None, lift):
        t, slope = ours.forward(t_in, weights, delays, one, lifted)
        expected, steep = oracle.forward(t_in, weights, delays, one, lifted)
        np.testing.assert_allclose(t, expected, rtol=close, atol=close)
        np.testing.assert_allclose(slope, steep, rtol=30 * close, atol=30 * close)
    t, slope = oracle.forward(t_in, weights, delays, one)
    for at_crossing in (False, True):
        np.testing.assert_allclose(
            ours.slopes(t_in, weights, delays, one, t, at_crossing=at_crossing),
            oracle.slopes(t_in, weights, delays, one, t, at_crossing=at_crossing),
            atol=1e-6 if dtype == "float64" else 2e-2,
        )
    grad, active = np.random.default_rng(2).standard_normal(t.shape).astype(dtype), np.array([True, False])
    given = t_in, weights, delays, one, t, slope, grad
    for limit in (np.inf, 0.5):
        rule: Any = {"active": active, "max_weight_grad": limit}
        found = [*ours.learn(*given, **rule), ours.taus_grad(*given, active=active)]
        expected = [*oracle.learn(*given, **rule), oracle.taus_grad(*given, active=active)]
        for own, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, other, atol=close * max(1.0, np.abs(other).max(initial=0.0)))
    own, other = ours.times_grad(*given, active=active), oracle.times_grad(*given, active=active)
    np.testing.assert_allclose(own, other, atol=close * max(1.0, np.abs(other).max(initial=0.0)))


@pytest.mark.parametrize(
    ("own", "other"), [(1.0, 1.0), (1.0, 0.7), (0.7, 1.0), (1.0, 1.0 + 1e-6), (2.0, 0.1)]
)
def test_the_oracle_s_derivative_by_a_rate_is_the_kernel_s(own: float, other: float) -> None:
    s = np.array([0.01, 0.3, 1.0, 5.0, 20.0])
    ends = [LIF(1.0 / (own + step), 1.0 / other).kernel(s) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(oracle.bend(s, own, other), (ends[0] - ends[1]) / 2e-5, rtol=1e-8, atol=1e-11)


def network(kinds: str, form: str = "sigmoid", backend: str = "cpu") -> tuple[Architecture, Parameters]:
    rule = DelayRule(0.1, 1.0, form, 0.6)
    made = Architecture.build((5, 7, 3), ((0.9,), (0.9,)), LIF(1.3, 0.8, 1.2, 0.1, 1.1), load(backend))
    made = replace(made, delay_rule=rule)
    weights = made.initial_weights([1, 2], (1.5, 1.0), (0.8, 0.6), "float64")
    names = [name_of(kind) for kind in kinds_of(kinds)]
    return made, Parameters.of_weights(weights).training(names, made.layers, [1, 2], rule)


def assert_gradient_is_the_slope(machine: Machine, parameters: Parameters, n_places: int = 6) -> None:
    """Of all arrays, at some places, in float64 to 1e-6."""
    rng = np.random.default_rng(0)
    received = machine.receive(rng.uniform(0.1, 2.0, (1, 12, 5)))
    labels, loss = rng.integers(3, size=(2, 12)), TTFSCrossEntropy(0.8)

    def value(replica: int) -> float:
        states = machine.having(parameters).forward(parameters.weights, received)
        return float(loss(states[-1].t_out, labels)[0][replica].mean())

    here = machine.having(parameters)
    states = here.forward(parameters.weights, received)
    grad = loss(states[-1].t_out, labels)[1]
    found = here.backward(parameters, states, grad, active=np.ones(2, np.bool_), max_weight_grad=np.inf)
    met = 0
    for name, array in parameters.arrays().items():
        for _ in range(n_places):
            place = tuple(int(rng.integers(n)) for n in array.shape)
            before, ends = array[place], []
            for step in (3e-6, -3e-6):
                array[place] = before + step
                ends.append(value(place[0]))
            array[place] = before
            slope = (ends[0] - ends[1]) / 6e-6
            assert found.arrays()[name][place] == pytest.approx(slope, rel=1e-6, abs=3e-9), (name, place)
            met += slope != 0.0
    assert met > n_places * len(parameters.arrays()) // 3


@each_sum
@pytest.mark.parametrize("form", ["sigmoid", "clipped"])
@pytest.mark.parametrize("backend", ["cpu", pytest.param("reference", marks=pytest.mark.slow)])
def test_gradients_are_the_loss_s_slopes(kinds: str, form: str, backend: str) -> None:
    assert_gradient_is_the_slope(*network(kinds, form, backend), n_places=6 if backend == "cpu" else 1)


def test_delays_thresholds_and_time_constants_are_learnt_together() -> None:
    made, delayed = network("axonal+dendritic+synaptic")
    names = [*delayed.trained, "threshold", "tau_mem", "tau_syn"]
    parameters = Parameters.of_weights(delayed.weights).training(names, made.layers, [1, 2], made.delay_rule)
    assert_gradient_is_the_slope(made, parameters)


CHIP = {
    "weight_max": (9.0,), "weight_bits": 12, "gain_std": 0.1, "threshold_std": 0.1, "tau_mem_std": 0.1,
    "tau_syn_std": 0.05, "stuck_synapses": 0.1, "dead_neurons": 0.1, "delay_std": 0.05,
}  # fmt: skip


@each_sum
def test_gradients_of_a_chip_are_its_slopes(kinds: str) -> None:
    made, parameters = network(kinds)
    values = CHIP | {"weight_bits": 0, "trial_end": 40.0, "spike_jitter": 0.05, "input_jitter": 0.02}
    chip = EmulatedChip(Substrate(**values), made.layers, made.kernels, [3, 4])
    assert_gradient_is_the_slope(OnChip(made, chip, "exact"), parameters)


@each_sum
def test_the_nominal_gradient_of_a_perfect_chip_is_the_network_s(kinds: str) -> None:
    made, parameters = network(kinds)
    chip = EmulatedChip(Substrate(trial_end=1e6), made.layers, made.kernels, [3, 4])
    t_in = np.random.default_rng(0).uniform(0.1, 2.0, (1, 12, 5))
    found = []
    for machine in (made, OnChip(made, chip)):
        here = machine.having(parameters)
        states = here.forward(parameters.weights, here.receive(t_in))
        grad = np.where(np.isfinite(states[-1].t_out), 1.0, 0.0)
        found.append(
            here.backward(parameters, states, grad, active=np.ones(2, np.bool_), max_weight_grad=np.inf)
        )
    for name, own in found[0].arrays().items():
        np.testing.assert_allclose(found[1].arrays()[name], own, rtol=1e-7, atol=1e-9)


def test_the_nominal_gradient_looks_through_the_network_s_own_delays() -> None:
    """What the chip delays more than it was told, the nominal network does not know."""
    made, parameters = network("axonal")
    chip = EmulatedChip(Substrate(delay_std=0.3), made.layers, made.kernels, [3, 4])
    machine = OnChip(made, chip).having(parameters)
    states = machine.forward(parameters.weights, machine.receive(np.full((1, 4, 5), 0.5)))
    seen = machine._seen(states)
    nominal = parameters[0].delays(made.delay_rule)
    assert nominal is not None
    assert nominal.axonal is not None
    np.testing.assert_allclose(seen[0].t_in[:, 0, :5], 0.5 + nominal.axonal[:, :5], rtol=1e-12)
    assert not np.allclose(states[0].t_in, seen[0].t_in, atol=0.05)


@each_sum
def test_on_a_chip_with_everything_training_goes_by_the_oracle(kinds: str) -> None:
    found = []
    for backend in ("cpu", "reference"):
        made, parameters = network(kinds, backend=backend)
        values = CHIP | {"time_grid": 0.02, "threshold_noise": 0.02, "lost_spikes": 0.05, "delay_lsb": 0.1}
        machine = OnChip(made, EmulatedChip(Substrate(**values), made.layers, made.kernels, [3, 4])).having(
            parameters
        )
        received = made.receive(np.random.default_rng(0).uniform(0.1, 2.0, (1, 12, 5)))
        states = machine.forward(parameters.weights, received)
        grad = np.where(np.isfinite(states[-1].t_out), 1.0, 0.0)
        active = np.ones(2, np.bool_)
        found.append((states, machine.backward(parameters, states, grad, active=active, max_weight_grad=0.2)))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(one.t_out, other.t_out, rtol=1e-6)
    for name, own in found[0][1].arrays().items():
        np.testing.assert_allclose(own, found[1][1].arrays()[name], rtol=1e-4, atol=1e-6)


def test_delays_that_all_share_are_those_of_one_kind_or_the_other() -> None:
    made, _ = network("axonal")
    rng = np.random.default_rng(3)
    weights = made.initial_weights([1, 2], (1.5, 1.0), (0.8, 0.6), "float64")
    axonal = [rng.uniform(0.0, 1.0, (2, one.n_pre)) for one in made.layers]
    dendritic = [rng.uniform(0.0, 1.0, (2, one.n_out)) for one in made.layers]
    received = made.receive(rng.uniform(0.1, 2.0, (1, 9, 5)))

    def answer(delays: list[Delays]) -> Array:
        layers = tuple(replace(one, delays=own) for one, own in zip(made.layers, delays, strict=True))
        return replace(made, layers=layers).forward(weights, received)[-1].t_out

    both = list(zip(axonal, dendritic, strict=True))
    apart = answer([Delays(a, d) for a, d in both])
    together = answer([Delays(synaptic=a[:, :, None] + d[:, None]) for a, d in both])
    np.testing.assert_allclose(apart, together, rtol=1e-12)
    # A dendritic delay of one layer is an axonal one of the next, but for its bias spikes.
    later = answer([Delays(dendritic=dendritic[0]), Delays(axonal=np.zeros((2, 8)))])
    moved = answer(
        [Delays(dendritic=np.zeros((2, 7))), Delays(axonal=np.pad(dendritic[0], ((0, 0), (0, 1))))]
    )
    np.testing.assert_allclose(later, moved, rtol=1e-12)


def test_a_replica_with_delays_answers_as_alone() -> None:
    made, parameters = network("axonal+dendritic+synaptic")
    whole = made.having(parameters)
    received = made.receive(np.random.default_rng(0).uniform(0.1, 2.0, (1, 12, 5)))
    t_out = whole.forward(parameters.weights, received)[-1].t_out
    for r in range(2):
        alone = whole.of_replica(r).forward([w[r : r + 1] for w in parameters.weights], received)[-1].t_out
        np.testing.assert_array_equal(alone[0], t_out[r])


@each_sum
def test_a_network_decides_remembers_and_is_drawn(kinds: str, tmp_path: Path) -> None:
    net = gs.Network([4, 12, 3], delays=kinds, replicas=2, backend="cpu", delay_rule=gs.DelayRule(0.2, 0.5))
    rng = np.random.default_rng(1)
    t_in, labels = rng.uniform(0.1, 2.0, (60, 4)), rng.integers(3, size=60)
    before = net.parameters.map(np.copy)
    history = gs.fit(net, t_in, labels, epochs=2)
    assert history.step == "piecewise"
    for name, array in net.parameters.arrays().items():
        assert (array != before.arrays()[name]).any(), name
    for own in net.architecture.layers:
        assert own.delays is not None
        for _, delays in own.delays.items():
            assert 0.2 < delays.min()
            assert delays.max() < 0.7
    t_out = net(t_in)
    classes, times = gs.decide(net, t_in)
    np.testing.assert_array_equal(times, t_out.min(axis=2))
    np.testing.assert_array_equal(classes[np.isfinite(times)], t_out.argmin(axis=2)[np.isfinite(times)])
    net.save(tmp_path / "net.npz")
    again = gs.load(tmp_path / "net.npz")
    np.testing.assert_array_equal(again(t_in), t_out)
    once, twice = (gs.fit(n, t_in, labels, epochs=1) for n in (net, again))
    np.testing.assert_array_equal(once.arrays()["train_loss"], twice.arrays()["train_loss"])
    # Membranes meet the threshold when the neuron's spike has passed its own delay.
    spikes = net(t_in[:1], layers=True)[-1][0, 0]
    at = net.membranes(t_in[0], np.where(np.isfinite(spikes), spikes, 0.0))[-1][0]
    for j in np.flatnonzero(np.isfinite(spikes)):
        assert at[j, j] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("kinds", "substrate"),
    [
        pytest.param("axonal", "ideal", marks=pytest.mark.slow),
        pytest.param("dendritic+synaptic", "bss2", marks=pytest.mark.slow),
        pytest.param("axonal", "bss2", marks=pytest.mark.slow),
        ("dendritic+synaptic", "ideal"),
    ],
)
def test_a_run_learns_delays_and_goes_on_bit_for_bit(kinds: str, substrate: str, tmp_path: Path) -> None:
    asked = [f"model.delays={kinds}", "model.hidden=[20]", f"substrate={substrate}", "backend=cpu", *FEW]
    run(tmp_path, "gpuspike-train", *asked, "replicas=2", "training.epochs=3", "hydra.run.dir=whole")
    run(tmp_path, "gpuspike-train", *asked, "replicas=2", "hydra.run.dir=parts")
    run(tmp_path, "gpuspike-train", "resume=parts", "training.epochs=3")
    run(tmp_path, "gpuspike-train", *asked, "seed=1", "training.epochs=3", "hydra.run.dir=alone")
    run(tmp_path, "gpuspike-evaluate", "run=parts")
    files = [np.load(tmp_path / name / "checkpoint.npz") for name in ("whole", "parts", "alone")]
    names = [f"{name_of(kind)}_{number}" for kind, number in itertools.product(kinds_of(kinds), (0, 1))]
    for name in ("weights_0", *names):
        np.testing.assert_array_equal(files[0][name], files[1][name])
        np.testing.assert_array_equal(files[0][name][1:], files[2][name])
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    said = json.loads((tmp_path / "parts" / "evaluations" / "test.json").read_text())
    assert said["accuracy"]["per_replica"] == summary["accuracy"]["test"]["per_replica"]
    net, data = gs.load(tmp_path / "whole"), gs.dataset(tmp_path / "whole")
    np.testing.assert_allclose(net.accuracy(*data.test), summary["accuracy"]["test"]["per_replica"])
    for file in files:
        file.close()


def test_a_chip_clips_rounds_and_spreads_delays() -> None:
    made, parameters = network("axonal+dendritic+synaptic")
    layers = made.having(parameters).layers

    def on(**values: Any) -> Delays:
        (first, _) = EmulatedChip(Substrate(**values), layers, made.kernels, [3, 4]).delays
        assert first is not None
        return first

    own = layers[0].delays
    assert own is not None
    for kind, delays in own.items():
        np.testing.assert_array_equal(
            getattr(on(delay_min=0.5, delay_max=0.7), kind), np.clip(delays, 0.5, 0.7)
        )
        steps = (getattr(on(delay_min=0.05, delay_max=1.0, delay_lsb=0.25), kind) - 0.05) / 0.25
        np.testing.assert_allclose(
            steps, np.rint((np.clip(delays, 0.05, 1.0) - 0.05) / 0.25).clip(0, 3), atol=1e-12
        )
        spread = getattr(on(delay_std=0.1), kind) - delays
        assert 0.02 < spread.std() < 0.2
        assert getattr(on(delay_std=5.0), kind).min() == 0.0
    np.testing.assert_array_equal(on(delay_std=0.1).synaptic, on(delay_std=0.1, delay_min=0.0).synaptic)
    plain = EmulatedChip(Substrate(delay_std=0.1), made.layers, made.kernels, [3])
    assert plain.delays == [None, None]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delay_max": 0.0}, "substrate.delay_max must be positive"),
        (
            {"delay_min": 1.0, "delay_max": 0.5},
            r"delay_max must be substrate.delay_min \(1.0\) or more, got 0.5",
        ),
        ({"delay_lsb": -1.0}, "substrate.delay_lsb must be 0 or more"),
        ({"delay_std": np.nan}, "substrate.delay_std must be 0 or more"),
    ],
)
def test_a_chip_s_delays_must_mean_something(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueRangeError, match=message):
        Substrate(**values)


@pytest.mark.parametrize("std", [0.0, 0.05])
def test_one_network_with_delays_answers_on_many_chips(std: float) -> None:
    made, parameters = network("axonal+dendritic+synaptic")
    having, received = made.having(parameters).of_replica(0), made.receive(np.full((1, 4, 5), 0.5))
    weights = [w[:1] for w in parameters.weights]
    found = []
    for seeds in ([3, 4, 5], [5]):
        chip = EmulatedChip(
            Substrate(weight_max=(9.0,), gain_std=0.1, delay_std=std), having.layers, made.kernels, seeds
        )
        of_all = [np.repeat(w, len(seeds), axis=0) for w in weights]
        found.append(OnChip(having, chip).forward(of_all, received)[-1].t_out)
    np.testing.assert_array_equal(found[0][2], found[1][0])


def test_a_kept_chip_has_its_delays_whatever_the_network_learns(tmp_path: Path) -> None:
    plain, delayed = (gs.Network([4, 3], delays=kind, backend="cpu") for kind in ("none", "synaptic"))
    under = plain.on(gs.Chip("ideal", seed=3, delay_std=0.1))
    assert under.chip is not None
    under.chip.save(tmp_path / "chip.npz")
    chip = gs.Chip.load(tmp_path / "chip.npz")
    t_in = np.random.default_rng(0).uniform(0.1, 2.0, (20, 4))
    np.testing.assert_array_equal(
        delayed.on(chip)(t_in), delayed.on(gs.Chip("ideal", seed=3, delay_std=0.1))(t_in)
    )


def test_the_nominal_gradient_knows_what_is_programmed() -> None:
    """Delays that the chip clips: its spikes come by those, and so do the gradient's causal sets."""
    made, parameters = network("axonal+dendritic")
    chip = EmulatedChip(Substrate(delay_max=0.3, trial_end=1e6), made.layers, made.kernels, [3, 4])
    found = []
    for gradient in ("nominal", "exact"):
        machine = OnChip(made, chip, gradient).having(parameters)
        states = machine.forward(parameters.weights, machine.receive(np.full((1, 4, 5), 0.5)))
        grad = np.where(np.isfinite(states[-1].t_out), 1.0, 0.0)
        found.append(
            machine.backward(parameters, states, grad, active=np.ones(2, np.bool_), max_weight_grad=np.inf)
        )
    for name, own in found[0].arrays().items():
        np.testing.assert_allclose(found[1].arrays()[name], own, rtol=1e-7, atol=1e-9)


def test_kinds_of_delays_are_named() -> None:
    assert kinds_of("none") == kinds_of(None) == kinds_of([]) == ()
    assert kinds_of("synaptic+axonal") == kinds_of(["axonal", "synaptic"]) == ("axonal", "synaptic")
    assert KINDS == ("axonal", "dendritic", "synaptic")
    with pytest.raises(ConfigError, match=r"no kind of delays 'axon'; .* did you mean axonal"):
        kinds_of("axon")
    with pytest.raises(ConfigError, match=r"of different kinds, got 'axonal\+axonal'"):
        kinds_of("axonal+axonal")
    assert kinds_of("axonal + dendritic") == ("axonal", "dendritic")
    with pytest.raises(
        ConfigError, match="delays must be a sum of axonal, dendritic, synaptic, or none, got 3"
    ):
        kinds_of(3)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match="axonal_delay is asked for as delays: axonal, got it among the constants"
    ):
        gs.Network([2, 2], trained=["axonal_delay"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shift": -0.1}, "the shift of delays must be 0 or more and finite, got -0.1"),
        ({"shift": "a"}, "the shift of delays must be 0 or more and finite, got 'a'"),
        ({"scale": 0.0}, "the scale of delays must be above 0 and finite, got 0.0"),
        ({"spread": np.inf}, "the spread of delays must be 0 or more and finite, got inf"),
        (
            {"form": "sigmoidal"},
            "no form of delays 'sigmoidal'; there are sigmoid, clipped; did you mean sigmoid",
        ),
    ],
)
def test_a_rule_must_mean_something(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GpuspikeError, match=message):
        DelayRule(**values)


def test_clipped_delays_come_back() -> None:
    rule, free = DelayRule(0.5, 2.0, "clipped"), np.array([-5.0, -5.0, 0.0, 5.0, 5.0])
    np.testing.assert_array_equal(rule.of(free), [0.5, 0.5, 1.5, 2.5, 2.5])
    np.testing.assert_array_equal(
        rule.pull(free, np.array([1.0, -1.0, 1.0, 1.0, -1.0])), [0.0, -0.5, 0.5, 0.5, 0.0]
    )


def test_unknown_kinds_and_endless_membranes_are_refused_by_name() -> None:
    with pytest.raises(GpuspikeError, match="no kind of delays 'axons'"):
        build(jobs(["model.delays=axons"], multirun=False)[0].config)
    with pytest.raises(ConfigError, match="tau_mem must be finite to be trained, got inf"):
        gs.fit(
            gs.Network([2, 2], trained=["tau_mem"], neuron=LIF(np.inf), backend="cpu"),
            np.ones((3, 2)),
            np.zeros(3, int),
        )


def test_a_rule_of_delays_without_delays_is_noted(tmp_path: Path) -> None:
    words = r"delay_rule is read with delays, and delays='none' has none"
    with pytest.warns(UserWarning, match=words) as told:
        net = gs.Network([4, 3], delay_rule=gs.DelayRule(scale=2.0))
    assert told[0].filename == __file__
    net.save(tmp_path / "net.npz")
    assert gs.load(tmp_path / "net.npz").architecture.delay_rule == gs.DelayRule(scale=2.0)
    with pytest.raises(ConfigError, match=r"delay_rule must be a gs\.DelayRule, got 'clipped'"):
        gs.Network([4, 3], delay_rule="clipped")  # type: ignore[arg-type]
