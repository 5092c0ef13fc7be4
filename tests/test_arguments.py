"""What callers hand over by mistake is refused in clear words; NumPy's numbers are taken like Python's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.backend import ORACLE
from gpuspike.cli import tune
from gpuspike.cli.command import command
from gpuspike.config import hints
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.schema import jobs
from gpuspike.errors import (
    ConfigError,
    DataError,
    DtypeError,
    GpuspikeError,
    OutputError,
    ShapeError,
    ValueRangeError,
)
from gpuspike.exchange import events
from gpuspike.exchange.graph import keep_others
from gpuspike.plugins import NotGivenError
from gpuspike.substrate.axes import axis
from gpuspike.substrate.distortions import DISTORTIONS, TRIAL, Distortion, share
from gpuspike.training.leaf import Leaf
from gpuspike.training.losses import LOSSES, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import OPTIMIZERS, SGD, Adam

RNG = np.random.default_rng(0)
T_IN, LABELS = RNG.random((20, 4)), RNG.integers(0, 3, 20)


def network(**options: Any) -> gs.Network:
    return gs.Network([4, 5, 3], **options)


NUMPY_S = {
    "epochs": np.int64(1), "batch_size": np.int64(10), "trials": np.int32(2), "input_noise": np.float32(0.1),
    "bump_targeted": np.True_,
    "learning_rate": np.float32(0.01), "xi": np.float32(0.1), "beta1": np.float32(0.8),
    "max_silent": np.array([0.3, 0.1]),
}  # fmt: skip


def test_a_recipe_whose_parts_are_not_there_is_refused_until_they_are(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class SoftGap(TimeMSE):
        compiled = Leaf.compiled  # none: nothing is compiled for it

    @dataclass(frozen=True)
    class Lion(SGD):
        compiled = Leaf.compiled

    net = network(neuron=gs.LIF(5.0, 5.0))
    LOSSES.add("soft_gap", SoftGap)
    OPTIMIZERS.add("lion", Lion)
    try:
        gs.fit(net, T_IN, LABELS, epochs=1, loss="soft_gap", optimizer=Lion(momentum=0.5), t_correct=0.8)
        net.save(tmp_path / "net.npz")
    finally:
        LOSSES.remove("soft_gap")
        OPTIMIZERS.remove("lion")
    lacking = (
        "the training used the loss soft_gap and the optimizer lion, which nobody has registered: "
        r"import what does, or call gpuspike.plugins.load\(FILE\)"
    )
    with pytest.warns(UserWarning, match=f"net.npz: {lacking}; until then the network answers") as told:
        lost = gs.load(tmp_path / "net.npz")
    assert len(told) == 1
    assert told[0].filename == __file__
    np.testing.assert_array_equal(lost(T_IN), net(T_IN))
    with pytest.raises(NotGivenError, match=lacking):
        print(lost.recipe)
    assert gs.price(lost, T_IN, LABELS, prices="brainscales2").summary["name"]
    lost.save(tmp_path / "again.npz")  # which loses nothing
    with pytest.warns(UserWarning, match=lacking):
        again = gs.load(tmp_path / "again.npz")
    gs.fit(lost, T_IN, LABELS, epochs=1)  # with another optimiser, and so without the state of that
    assert lost.recipe is not None
    assert isinstance(lost.recipe.optimizer, Adam)
    LOSSES.add("soft_gap", SoftGap)
    OPTIMIZERS.add("lion", Lion)
    try:
        assert again.recipe == net.recipe
        for each in (net, again):
            gs.fit(each, T_IN, LABELS, epochs=1, recipe=net.recipe)
        np.testing.assert_array_equal(again(T_IN), net(T_IN))
    finally:
        LOSSES.remove("soft_gap")
        OPTIMIZERS.remove("lion")


def test_a_recipe_that_is_kept_has_the_loss_that_trained(tmp_path: Path) -> None:
    in_ms, plain = network(neuron=gs.LIF(5.0, 5.0)), network()
    gs.fit(in_ms, 5.0 * T_IN, LABELS, epochs=1, xi=0.1)
    assert in_ms.recipe is not None
    assert in_ms.recipe.loss == TTFSCrossEntropy(xi=0.1, tau_syn=5.0)
    in_ms.save(tmp_path / "net.npz")
    assert gs.load(tmp_path / "net.npz").recipe == in_ms.recipe
    rate = gs.Recipe().suited(plain.neuron).learning_rate
    again = network()
    gs.fit(plain, T_IN, LABELS, epochs=1, xi=0.1)
    gs.fit(again, T_IN, LABELS, epochs=1, recipe=in_ms.recipe, learning_rate=rate, bump_value=None,
           max_weight_grad=None)  # fmt: skip
    assert again.recipe == plain.recipe
    np.testing.assert_array_equal(again(T_IN), plain(T_IN))


def test_a_network_trained_with_numpy_s_numbers_is_saved(tmp_path: Path) -> None:
    net = network(delays="axonal", delay_rule=gs.DelayRule(np.float32(0.1), np.int64(1)))
    gs.fit(net, T_IN, LABELS, **NUMPY_S)
    net.save(tmp_path / "net.npz")
    again = gs.load(tmp_path / "net.npz")
    assert again.recipe == net.recipe
    np.testing.assert_array_equal(again(T_IN), net(T_IN))
    gs.fit(net, T_IN, LABELS, epochs=1, max_silent=range(2), learning_rate=Fraction(1, 100))
    net.save(tmp_path / "net.npz")
    assert hash(gs.Recipe(max_silent=(np.float64(0.3), 0.1))) == hash(gs.Recipe(max_silent=(0.3, 0.1)))


def test_what_was_got_is_told_with_what_would_do() -> None:
    for labels, words in ((LABELS + 1, "got 1 to 3: labels - 1 do"), (LABELS - 1, r"labels \+ 1 do")):
        with pytest.raises(ValueRangeError, match=words):
            gs.fit(network(), T_IN, labels, epochs=1)
    with pytest.raises(ShapeError, match="two arrays, spike times and labels, got ndarray"):
        gs.fit(network(), T_IN, LABELS, epochs=1, validation=T_IN)
    with pytest.raises(ConfigError, match=r"got 'threshold': \['threshold'\] is one"):
        network(trained="threshold")
    with pytest.raises(ValueRangeError, match=r"got 2 NaN among 0\.5"):
        gs.latency(np.array([0.5, np.nan, np.nan]), 0.0, 1.0)


def test_a_pad_time_without_padding_is_told() -> None:
    layers = [(6, 6), {"conv": 2, "kernel": 3, "pad_time": 0.5}, 3]
    with pytest.warns(UserWarning, match=r"pad_time=0\.5 of layer 1 is of a padding, and there is none"):
        gs.Network(layers)


def test_a_value_that_a_data_set_reads_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"patterns 'seed'; there are .*; did you mean pattern_seed"):
        gs.dataset("patterns", seed=3)
    with pytest.raises(ConfigError, match=r"the data set yin_yang 'seed'; there are [a-z_, ]*$"):
        gs.dataset("yin_yang", seed=3)


def test_a_network_is_loaded_from_a_path_only() -> None:
    with pytest.raises(DataError, match="got 3"):
        gs.load(3)  # type: ignore[arg-type]


def test_chips_and_data_sets_take_numpy_s_numbers() -> None:
    for std in np.linspace(0.0, 0.2, 3):
        assert gs.Chip(gain_std=std).values["gain_std"] == std
    chip = gs.Chip("generic_digital", weight_bits=np.int64(4), weight_max=np.float32(1.0), seed=np.int64(3))
    assert (chip.values["weight_bits"], chip.values["weight_max"]) == (4, [1.0])
    assert gs.Chip("bss2", weight_max=np.array([1.0, 2.0])).values["weight_max"] == [1.0, 2.0]
    data = gs.dataset("yin_yang", n_train=np.int64(100), t_late=np.float64(1.5))
    assert (len(data.train.labels), data.train.t_in.max() <= 1.5) == (100, True)
    with pytest.raises(ConfigError, match=r"dataset.jitter is read by patterns, not by .* yin_yang"):
        gs.dataset("yin_yang", jitter=0.5)


def test_float32_times_without_a_spike_are_no_reason_to_warn() -> None:
    times = T_IN.astype(np.float32)
    times[0, 0] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert network()(times).shape == (20, 3)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"sizes": 4}, ValueRangeError, "sizes must be those of the layers"),
        ({"sizes": None}, ValueRangeError, "sizes must be those of the layers"),
        ({"sizes": {4: 3}}, ValueRangeError, "sizes must be those of the layers"),
        ({"replicas": -1}, ValueRangeError, "replicas must be a whole number, 1 or more, got -1"),
        ({"replicas": 2.0}, ValueRangeError, "replicas must be a whole number"),
        ({"seed": 2**64}, ValueRangeError, "whole number below 2"),
        ({"seed": 2**63 - 1, "replicas": 2}, ValueRangeError, "at most 2"),
        ({"weight_mean": "12"}, ValueRangeError, "weight_mean must be a finite number"),
        ({"weight_mean": [None, 1]}, ValueRangeError, "weight_mean must be a finite number"),
        ({"weight_std": [[1], [2]]}, ValueRangeError, "weight_std must be a finite number"),
        ({"weight_std": True}, ValueRangeError, "weight_std must be a finite number"),
        ({"bias_times": "12"}, ValueRangeError, "bias_times must have a list of times for each layer"),
        ({"bias_times": [["a"], []]}, ValueRangeError, "bias_times must have a list"),
        ({"weight_mean": {0.5: 1, 1.0: 2}}, ValueRangeError, "weight_mean must be a finite number"),
        ({"sizes": np.array(3)}, ValueRangeError, "sizes must be those of the layers"),
        ({"bias_times": {"9": 1}}, ValueRangeError, "bias_times must have a list"),
        ({"bias_times": [[-1e39], []], "dtype": "float32"}, ValueRangeError, "bias_times must lie within"),
        ({"neuron": 0}, ValueRangeError, "neuron must be a gs.LIF"),
        ({"neuron": gs.LIF}, ValueRangeError, "neuron must be a gs.LIF"),
        ({"trained": None}, ConfigError, "must be a list of different names, got None"),
        ({"trained": [["threshold"]]}, ConfigError, "must be a list of different names"),
        ({"delay_rule": "clipped"}, ConfigError, "delay_rule must be a gs.DelayRule, got 'clipped'"),
    ],
)
def test_what_no_network_is_made_of(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    options = dict(given)
    sizes, bias = options.pop("sizes", [4, 5, 3]), options.pop("bias_times", None)
    with pytest.raises(kind, match=words):
        gs.Network(sizes, bias, **options)


def test_one_list_of_bias_times_stands_for_all_layers() -> None:
    with pytest.raises(ValueRangeError, match=r"did you mean \[\[0\.9\]\]\?"):
        gs.Network([4, 5, 3], bias_times=[0.9])
    net = gs.Network([4, 5, 3], bias_times=[[0.9]])
    assert [layer.bias_times for layer in net.architecture.layers] == [(0.9,), (0.9,)]


def test_bias_times_may_come_one_by_one() -> None:
    net = gs.Network([4, 5, 3], ([0.9] for _ in range(2)))  # type: ignore[arg-type]
    assert [layer.bias_times for layer in net.architecture.layers] == [(0.9,), (0.9,)]


def test_means_may_be_numpy_s() -> None:
    for mean in (np.float32(0.5), np.int64(1), np.array(0.5)):
        assert network(weight_mean=mean, weight_std=0.0).parameters.weights[0][0, 0, 0] == mean


ASKED: list[Callable[[gs.Network, Path], Any]] = [
    lambda net, _: net(T_IN),
    lambda net, _: net.accuracy(T_IN, LABELS),
    lambda net, _: net.membranes(T_IN[0], [1.0]),
    lambda net, _: gs.decide(net, T_IN),
    lambda net, _: gs.price(net, T_IN, LABELS),
    lambda net, _: gs.fit(net, T_IN, LABELS, epochs=1),
    lambda net, _: net.on(gs.Chip("bss2")),
    lambda net, folder: net.save(folder / "net.npz"),
]


@pytest.mark.parametrize("ask", ASKED)
def test_weights_that_are_none_are_refused_by_all_who_use_them(
    ask: Callable[[gs.Network, Path], Any], tmp_path: Path
) -> None:
    net = network()
    net.parameters.weights[0][0, 1, 2] = np.nan
    with pytest.raises(ValueRangeError, match=r"^weights_0 must not hold NaN, got 1 of them"):
        ask(net, tmp_path)
    net = network()
    net.parameters = net.parameters.with_weights([np.ones((1, 4, 7)), np.ones((1, 7, 3))])
    words = r"weights of this network must be \(1, 4, 5\) float64, .*, got \(1, 4, 7\) float64, "
    with pytest.raises(ValueRangeError, match=words):
        ask(net, tmp_path)
    net.parameters = gs.Network([4, 3]).parameters
    with pytest.raises(ValueRangeError, match="weights of this network must be"):
        ask(net, tmp_path)
    net.parameters = network(dtype="float32").parameters
    with pytest.raises(ValueRangeError, match=r"float64, got \(1, 4, 5\) float32"):
        ask(net, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda net: gs.decide(None, T_IN), ConfigError, "net must be a gs.Network, got None"),
        (lambda net: gs.fit(None, T_IN, LABELS), ConfigError, "net must be a gs.Network, got None"),
        (lambda net: gs.price("a", T_IN, LABELS), ConfigError, "net must be a gs.Network, got 'a'"),
        (lambda net: gs.fit(net, T_IN, LABELS, recipe={}), ConfigError, "recipe must be a gs.Recipe, got {}"),
        (lambda net: gs.fit(net, T_IN, LABELS, on_epoch=3), ConfigError, "on_epoch must be a function"),
        (lambda net: net.membranes(T_IN[0], "a"), ValueRangeError, "finite numbers, got 'a'"),
        (lambda net: net.membranes(T_IN[0], [np.nan]), ValueRangeError, "finite numbers, got nan"),
        (lambda net: net.accuracy(T_IN, np.ma.masked_array(LABELS)), DtypeError, "not be masked, got"),
        (lambda net: gs.first_spikes(T_IN.view(np.matrix), np.ones((4, 2)), gs.LIF()), DtypeError,
         r"t_in must be a NumPy array, got a matrix; np\.asarray\(t_in\) is one"),
        (lambda net: gs.first_spikes(T_IN, np.ones((4, 2)).view(np.matrix), gs.LIF()), DtypeError,
         "weights must be a NumPy array, got a matrix"),
        (lambda net: gs.latency(None, 0.1, 2), ValueRangeError, "must be numbers to be encoded, got object"),
        (lambda net: gs.latency([0.5j], 0.1, 2), ValueRangeError, "numbers to be encoded, got complex128"),
        (lambda net: gs.latency([[1], [1, 2]], 0.1, 2), ValueRangeError, "must be an array of numbers"),
        (lambda net: gs.latency([0.5], "a", 2), ValueRangeError, "must be finite numbers, got t_early='a'"),
        (lambda net: gs.latency([0.5], 0, np.inf), ValueRangeError, "must be finite numbers"),
        (lambda net: gs.latency([0.5], -1e308, 1e308), ValueRangeError, "must be finite numbers"),
        (lambda net: gs.latency(np.ma.masked_array([0.5]), 0, 1), ValueRangeError, "must not be masked"),
        (lambda net: gs.price_spikes(None), ConfigError, "spikes must be a list of populations"),
        (lambda net: gs.price_spikes([T_IN[None]] * 2, tau_syn="a"), ValueRangeError, "tau_syn must be a"),
        (lambda net: gs.price_spikes([T_IN[None]] * 2, duration="a"), ValueRangeError, "duration must be a"),
        (lambda net: gs.price_spikes([T_IN[None]] * 2, n_samples=0.5), ValueRangeError, "n_samples must"),
    ],
)  # fmt: skip
def test_what_is_no_answerable_question(ask: Any, kind: type[GpuspikeError], words: str) -> None:
    with pytest.raises(kind, match=words):
        ask(network())


@pytest.mark.parametrize(
    ("spikes", "t_max", "kind", "words"),
    [
        ({"a": T_IN}, np.nan, ValueRangeError, "t_max must be 0 or more and finite, got nan"),
        ({"a": T_IN}, "a", ValueRangeError, "t_max must be 0 or more"),
        ({"a/b": T_IN}, None, ValueRangeError, "must not have a /, got 'a/b'"),
        ({}, None, ShapeError, "spikes must be times by a node's name"),
        (None, None, ShapeError, "spikes must be times by a node's name"),
        ({"a": T_IN * 1j}, None, ShapeError, r"\(n_samples, n_neurons\) numbers"),
        ({"a": np.ma.masked_array(T_IN)}, None, ShapeError, r"\(n_samples, n_neurons\) numbers"),
    ],
)
def test_events_that_nobody_could_read_are_not_written(
    spikes: Any, t_max: Any, kind: type[GpuspikeError], words: str, tmp_path: Path
) -> None:
    pytest.importorskip("nir")
    with pytest.raises(kind, match=words):
        events.write_nir_spikes(tmp_path / "a.nir", spikes, time_unit="s", t_max=t_max)
    assert list(tmp_path.iterdir()) == []


def test_costs_are_told_apart_by_who_they_are() -> None:
    one, other = (gs.price(network(), T_IN, LABELS) for _ in range(2))
    assert one != other
    assert len({one, other, one}) == 2


def test_a_classifier_answers_with_the_earliest_whatever_its_temperature() -> None:
    made = gs.FirstSpikeClassifier(6, epochs=1, dtype="float64", random_state=0).fit(T_IN, LABELS)
    wanted = made.classes_[made.spike_times(T_IN).argmin(axis=1)]
    made.xi = 1e20
    np.testing.assert_array_equal(made.predict(T_IN), wanted)


# --- the command line ----------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["model.bias_times=[[x],[0.9]]"], "must be a list of lists of numbers, got"),
        (["model.bias_times=[[true],[0.9]]"], "must be a list of lists of numbers, got"),
        (["model.bias_times=[0.9]"], "must be a list of lists of numbers, got"),
        (["model.bias_times=[[-1],[]]"], "bias_times must be finite and 0 or later"),
        (["dataset.t_early=-5"], "t_early must be 0 or later, when a trial begins, got -5"),
        (["chips=5"], "chips is gpuspike-evaluate's"),
        (["run=outputs"], "run is gpuspike-evaluate's"),
    ],
)
def test_what_no_run_can_have(given: list[str], words: str) -> None:
    from gpuspike.runs.values import check_values

    with pytest.raises(ConfigError, match=words):
        jobs(given, False, check_values)


def test_whole_numbers_are_numbers_in_lists_of_lists() -> None:
    ones = [jobs([f"model.bias_times=[[{one}],[0.9]]"], False)[0].config for one in ("1", "1.0")]
    assert ones[0] == ones[1]
    assert ones[0].model.bias_times == [[1.0], [0.9]]


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (["substrate.new_chip=step"], "substrate.new_chip=step is of a chip, and substrate=ideal has none"),
        (["substrate.gradient=exact"], "substrate.gradient=exact is of a chip, and substrate=ideal has none"),
        (["model.delay_scale=2"], "model.delay_scale=2.0 is of delays, and model.delays=none has none"),
        (["model.delay_scale=2", "model.delays=axonal"], None),
        (["substrate.delay_std=0.1"], "substrate.delay_std=0.1 is of delays, and model.delays=none has none"),
        (["substrate.delay_std=0.1", "model.delays=axonal"], None),
        (["experiment=yin_yang_bss2", "substrate.gradient=exact", "training.epochs=2"], None),
    ],
)
def test_what_is_not_read_is_said(given: list[str], note: str | None) -> None:
    assert list(jobs(given, False)[0].notes) == ([] if note is None else [note])


@pytest.mark.parametrize(
    ("given", "notes"),
    [
        (["training.xi=5", "training.xi=10"], ["training.xi is given twice; the last, 10, counts"]),
        (["seed=1", "model=own", "+seed=2", "seed=3"], ["seed is given 3 times; the last, 3, counts"]),
        (["-m", "seed=1,2", "seed=3,4"], ["seed is given twice; the last, 3,4, counts"]),
        (["hydra/launcher=basic", "hydra/launcher=parallel", "hydra.run.dir=a", "hydra.sweep.dir=a"],
         ["hydra/launcher is given twice; the last, parallel, counts"]),
        (["-m", "seed=1,2", "model.tau_mem=2", "model=own", "training.epochs=2"], []),
        (["~name", "+name=x", "outputs/a=1/x", "outputs/a=1/y", "--cfg=job", "--cfg=job"], []),
        ([], []),
    ],
)  # fmt: skip
def test_keys_that_are_given_twice_are_noted_by_every_command(
    given: list[str], notes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpuspike-any", *given])
    with command("gpuspike-any", "it"):
        pass
    assert capsys.readouterr().err.splitlines() == [f"gpuspike-any: note: {note}" for note in notes]


def test_of_a_key_given_twice_the_last_counts() -> None:
    (job,) = jobs(
        ["training.epochs=5", "experiment=mnist", "training.epochs=10", "experiment=yin_yang"], False
    )
    assert (job.config.training.epochs, job.experiment) == (10, "yin_yang")
    assert len(jobs(["seed=1,2", "seed=3"], True)) == 2


def test_a_training_by_the_oracle_is_noted() -> None:
    (job,) = jobs(["backend=reference"], False)
    assert list(job.notes) == [ORACLE]
    net = gs.Network([4, 3], backend="reference")
    with pytest.warns(UserWarning, match=r"backend=reference is the oracle.*100 times slower.*backend=auto"):
        gs.fit(net, T_IN, LABELS, epochs=1)


def test_a_batch_of_more_samples_than_there_are_is_noted_in_the_same_words() -> None:
    words = "batch_size must not exceed the 20 training samples, got 21"
    with pytest.raises(ConfigError, match=rf"training\.{words} with dataset\.n_train=20"):
        jobs(["dataset.n_train=20", "training.batch_size=21"], False)
    turned = ["dataset.n_train=20", "dataset.turned=true"]  # each sample comes twice
    jobs([*turned, "training.batch_size=40"], False)
    with pytest.raises(ConfigError, match=r"exceed the 40 training samples, got 41 with dataset\.n_train=20"):
        jobs([*turned, "training.batch_size=41"], False)
    for asked in ({"batch_size": 21}, {"recipe": gs.Recipe(batch_size=21)}):
        with pytest.warns(UserWarning, match=f"^{words}: each step takes all of them$"):
            gs.fit(network(), T_IN, LABELS, epochs=1, **asked)
    with warnings.catch_warnings():  # of what nobody has asked for
        warnings.simplefilter("error")
        gs.fit(network(), T_IN, LABELS, epochs=1)
        gs.fit(network(), T_IN, LABELS, epochs=1, batch_size=20)
        gs.FirstSpikeClassifier(3, epochs=1).fit(T_IN, LABELS)
    with pytest.warns(UserWarning, match="batch_size must not exceed the 20 training samples, got 60"):
        gs.FirstSpikeClassifier(3, epochs=1, batch_size=60).fit(T_IN, LABELS)


def test_a_search_takes_no_value_for_what_it_searches() -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate is searched by tune.parameters, .*=0.1"):
        tune._tune(["optimizer.learning_rate=0.1"])


@pytest.mark.parametrize("name", ["weight_bits", "weight_range", "trial_end"])
def test_a_distortion_without_negative_numbers_has_one_direction(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no negative numbers, .* did you mean {name}?"):
        axis(f"-{name}")


def test_texts_are_no_numbers_of_a_chip_or_of_data() -> None:
    with pytest.raises(ConfigError, match="weight_bits must be an integer, got '4'"):
        gs.Chip("bss2", weight_bits="4")
    with pytest.raises(ConfigError, match="n_train must be an integer or null, got '3'"):
        gs.dataset("yin_yang", n_train="3")


@dataclass(frozen=True)
class Idle(Distortion):
    """Its hook is misspelt."""

    scope: ClassVar[str] = TRIAL

    idle: float = share()

    def arive(self, times: Any, trials: Any) -> None:
        times += 1.0


@dataclass(frozen=True)
class Lawless(Distortion):
    """It has no scope."""

    lawless: float = share()

    def arrive(self, times: Any, trials: Any) -> None:
        times[...] = np.nan


@dataclass(frozen=True)
class Wild(Lawless):
    """It makes times that are none."""

    scope: ClassVar[str] = TRIAL


def test_a_distortion_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"idle must have one of the hooks .*arrive.*, got none"):
        DISTORTIONS.add("idle", Idle)
    with pytest.raises(ConfigError, match="lawless must have a scope: CHIP, TRIAL"):
        DISTORTIONS.add("lawless", Lawless)


def test_a_distortion_that_makes_nan_is_refused() -> None:
    DISTORTIONS.add("wild", Wild)
    try:
        with pytest.raises(ValueRangeError, match=r"arrive of the distortion Wild must make .*, got 80 NaN"):
            network().on(gs.Chip(lawless=0.5))(T_IN)
    finally:
        DISTORTIONS.remove("wild")


def test_no_file_of_another_kind_is_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "mine.npz"
    mine.write_bytes(b"PK mine")
    with pytest.raises(
        OutputError, match=r"mine.npz is there already and is not a NIR file: it would be lost"
    ):
        keep_others(mine)
    mine.write_bytes(b"\x89HDF mine")
    keep_others(mine)
    keep_others(tmp_path / "new.nir")


@pytest.mark.parametrize(
    "words", ["Could not override 'dataset'. No match in the defaults list.", "str is not a subclass of"]
)
def test_a_group_of_trainings_is_told_the_same_whatever_hydra_says(words: str) -> None:
    told = hints.explained(Exception(words), EvaluateConfig, "dataset=mnist")
    assert told.startswith("dataset is no key, dataset.path is, got dataset=mnist")
