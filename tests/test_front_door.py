"""`import gpuspike as gs`: what a user gets without a command line, and what is refused at the door."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.api import files
from gpuspike.api.kept import ALONE
from gpuspike.cli.train import train
from gpuspike.config.composition import typed
from gpuspike.config.files import conf_folder
from gpuspike.config.schema import dataset_config, dataset_values, jobs
from gpuspike.datasets import DATASETS
from gpuspike.errors import (
    BackendError,
    ConfigError,
    DataError,
    DtypeError,
    OutputError,
    ShapeError,
    ValueRangeError,
)
from gpuspike.kernels import first_spikes
from gpuspike.runs.adopt import adopt
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.measure import measure, on_chip
from gpuspike.store import checkpoint
from gpuspike.training.evaluation import Labelled
from gpuspike.training.fit import Recipe

Array = NDArray[Any]


def make_data(n: int = 120, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Three classes: whose input comes first. Some inputs do not come at all."""
    rng = np.random.default_rng(seed)
    t_in = rng.uniform(0.2, 2.0, (n, 4))
    labels = t_in[:, :3].argmin(axis=1)
    t_in[rng.random(n) < 0.1, 3] = np.inf
    return t_in, labels


def make(**change: Any) -> gs.Network:
    given: dict[str, Any] = {"bias_times": [[0.9], []], "seed": 3, "backend": "cpu"} | change
    return gs.Network(given.pop("sizes", [4, 20, 3]), **given)


def trained(epochs: int = 4, **change: Any) -> gs.Network:
    net = make(**change)
    gs.fit(net, *make_data(), epochs=epochs, batch_size=30)
    return net


def same_weights(one: gs.Network, other: gs.Network) -> bool:
    arrays = other.parameters.arrays()
    return all(np.array_equal(a, arrays[name]) for name, a in one.parameters.arrays().items())


# ---- a network and its answers


def test_a_network_answers_as_first_spikes_do() -> None:
    net, (t_in, _) = make(), make_data()
    hidden = first_spikes(
        np.hstack([t_in, np.full((len(t_in), 1), 0.9)]), net.parameters.weights[0][0], gs.LIF()
    )
    output = first_spikes(hidden, net.parameters.weights[1][0], gs.LIF())
    np.testing.assert_array_equal(net(t_in, layers=True)[0], hidden)
    np.testing.assert_array_equal(net(t_in), output)
    classes, times = gs.decide(net, t_in)
    np.testing.assert_array_equal(times, output.min(axis=1))
    assert set(classes) <= {-1, 0, 1, 2}
    assert (classes == -1).sum() == np.isinf(times).sum()


def test_replicas_are_the_networks_of_the_seeds_that_follow() -> None:
    three, (t_in, labels) = trained(replicas=3), make_data()
    assert three(t_in).shape == (3, 120, 3)
    assert [layer.shape for layer in three(t_in, layers=True)] == [(3, 120, 20), (3, 120, 3)]
    assert gs.decide(three, t_in)[0].shape == (3, 120)
    last = trained(seed=5)
    np.testing.assert_array_equal(three(t_in)[2], last(t_in))
    assert three.accuracy(t_in, labels)[2] == last.accuracy(t_in, labels)  # type: ignore[index]


def test_answers_do_not_depend_on_how_many_are_asked_at_once() -> None:
    net = trained().on(gs.Chip("bss2", seed=2))
    t_in, _ = make_data(1500)
    np.testing.assert_array_equal(net(t_in)[:700], net(t_in[:700]))


def test_weights_may_be_drawn_by_a_rule_of_one_s_own() -> None:
    net = make(weight_mean=[1.0, 2.0], weight_std=0.0)
    assert [float(w.min()) for w in net.parameters.weights] == [1.0, 2.0]
    assert [float(w.max()) for w in net.parameters.weights] == [1.0, 2.0]


@pytest.mark.parametrize("n_in", [20, 2000])
def test_the_rule_for_initial_weights_takes_a_quarter_of_the_inputs(n_in: int) -> None:
    neuron = gs.LIF(tau_mem=2.0, threshold=3.0, leak=1.0, capacitance=0.5)
    weights = gs.Network([n_in, 400, 2], neuron=neuron, backend="cpu").parameters.weights[0]
    reaching = (3.0 - 1.0) / neuron.kernel_peak[1]
    assert weights.mean() == pytest.approx(4 * reaching / n_in, rel=0.1)
    assert weights.std() == pytest.approx(0.5 * reaching / n_in**0.5, rel=0.1)


@pytest.mark.parametrize(
    "neuron",
    [gs.LIF(), gs.LIF(tau_mem=np.inf), gs.LIF(0.01, 0.01, threshold=20.0, leak=-50.0, capacitance=3.0)],
    ids=["usual", "no leak", "other units"],
)
def test_digits_train_with_nothing_but_defaults(neuron: gs.LIF) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    unit = neuron.tau_syn
    t_in = np.where(pixels > 0.0, gs.latency(1.0 - pixels / 16.0, 0.15, 2.0), np.inf) * unit
    net = gs.Network([64, 60, 10], [[0.9 * unit]] * 2, neuron=neuron, backend="cpu")
    history = gs.fit(net, t_in[:1400], labels[:1400], epochs=12)
    assert history.step == "compiled"
    assert net.accuracy(t_in[1400:], labels[1400:]) > 0.88


def test_membranes_meet_the_threshold_where_neurons_spike() -> None:
    net, (t_in, _) = trained(), make_data()
    for layer, spikes in enumerate(net(t_in[:1], layers=True)):
        for neuron, time in enumerate(spikes[0]):
            before = net.membranes(t_in[0], np.linspace(0.0, min(time, 9.0) - 1e-6, 200))[layer][:, neuron]
            assert before.max() < 1.0 + 1e-6
            if np.isfinite(time):
                at = net.membranes(t_in[0], np.array([time]))[layer][0, neuron]
                assert at == pytest.approx(1.0, abs=1e-9)


def test_membranes_on_a_chip_are_the_chip_s() -> None:
    chip = gs.Chip(tau_mem_std=0.1, gain_std=0.2, threshold_std=0.05, seed=4)
    net, (t_in, _) = trained(replicas=2).on(chip), make_data()
    spikes = net(t_in[:1], layers=True)[1][:, 0]
    emulated = net.machine.chip  # type: ignore[attr-defined]
    for replica, neuron in np.argwhere(np.isfinite(spikes)):
        time = spikes[replica, neuron]
        at = net.membranes(t_in[0], np.array([time]))[1][replica, 0, neuron]
        assert at == pytest.approx(emulated.neurons[1].of(replica, neuron).threshold, abs=1e-9)


# ---- training


def test_training_is_that_of_the_command_line() -> None:
    (job,) = jobs(["backend=cpu", "training.epochs=2", "dataset.n_train=300", "replicas=2"], False)
    parts = build(job.config)
    trainer = new_trainer(parts)
    received = {name: parts.receive(split.features) for name, split in parts.dataset.splits.items()}
    split = parts.dataset.splits
    records = list(
        trainer.train(
            Labelled(received["train"], split["train"].labels),
            Labelled(received["validation"], split["validation"].labels),
            2,
        )
    )
    data = gs.dataset("yin_yang", n_train=300)
    model = job.config.model
    net = gs.Network(
        [4, 120, 3], model.bias_times, replicas=2, backend="cpu",
        weight_mean=model.weight_mean, weight_std=model.weight_std,
    )  # fmt: skip
    history = gs.fit(net, *data.train, validation=data.validation, recipe=parts.recipe)
    for own, run in zip(net.parameters.weights, trainer.weights, strict=True):
        np.testing.assert_array_equal(own, run)
    np.testing.assert_array_equal(history.train_loss, [record.train_loss for record in records])
    np.testing.assert_array_equal(
        history.validation_accuracy, [r.validation.accuracy for r in records if r.validation]
    )


@pytest.mark.parametrize("chip", [None, gs.Chip("bss2", seed=17)], ids=["no chip", "bss2"])
def test_training_goes_on_where_it_ended(chip: gs.Chip | None, tmp_path: Path) -> None:
    at_once, parted = make().on(chip), make().on(chip)
    data = make_data()
    gs.fit(at_once, *data, epochs=5, batch_size=30, input_noise=0.1)
    gs.fit(parted, *data, epochs=2, batch_size=30, input_noise=0.1)
    parted.save(tmp_path / "net.npz")
    parted = gs.load(tmp_path / "net.npz")
    history = gs.fit(parted, *data, epochs=3, recipe=parted.recipe)
    assert same_weights(at_once, parted)
    assert list(history.epoch) == [3, 4, 5]
    np.testing.assert_array_equal(parted.history.train_loss, at_once.history.train_loss)
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]


def test_another_optimiser_begins_anew_and_a_schedule_with_each_training() -> None:
    net, data = trained(), make_data()
    history = gs.fit(net, *data, epochs=2, optimizer="sgd", schedule="cosine", learning_rate=0.01)
    np.testing.assert_allclose(history.learning_rate, [0.01, 0.005])
    assert {name.rstrip("01") for name in net.state} == {"optimizer_velocity_", "bump_layer", "bump_size"}


def test_the_step_is_told(tmp_path: Path) -> None:
    net, data = make(), make_data()
    assert gs.fit(net, *data, epochs=1, batch_size=30).step == "compiled"
    assert gs.fit(net, *data, epochs=1, batch_size=30, loss="time_mse").step == "compiled"
    chip = net.on(gs.Chip(time_grid=0.05))
    history = gs.fit(chip, *data, epochs=1, batch_size=30)
    told = "substrate.time_grid is not in the compiled step"
    assert (history.step, history.step_reason) == ("piecewise", told)
    assert "piecewise step" in repr(chip.history)
    chip.save(tmp_path / "chip.npz")
    kept = gs.load(tmp_path / "chip.npz")
    assert (kept.history.step, kept.history.step_reason) == ("piecewise", told)
    assert gs.fit(kept.on(None), *data, epochs=1, batch_size=30).step_reason is None


def test_a_history_can_be_read() -> None:
    net, data, seen = make(replicas=2), make_data(), []
    empty = net.history
    history = gs.fit(net, *data, validation=make_data(50, 1), epochs=3, on_epoch=seen.append)
    assert len(history) == len(seen) == 3
    assert history.silent_fraction.shape == (3, 2, 2)
    assert history.train_accuracy.shape == history.validation_loss.shape == (3, 2)
    assert repr(history).startswith("History(epochs 1 to 3, 2 replicas: train ")
    assert "validation" in repr(history)
    assert repr(empty) == "History(no epochs, 2 replicas)"
    # The time to compile kernels is none of the steps'.
    speeds = dataclasses.replace(history, train_samples_per_s=np.array([5.0, 900.0, 1100.0]))
    assert repr(speeds).endswith(" step, 1,000 samples/s)")
    assert repr(dataclasses.replace(speeds, train_samples_per_s=np.array([5.0]))).endswith(" step)")
    none = gs.fit(net, *data, epochs=1)
    assert np.isnan(none.validation_loss).all()
    assert "validation" not in repr(none)


def test_an_interrupted_training_leaves_the_last_whole_epoch() -> None:
    net, data = make(), make_data()

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gs.fit(net, *data, epochs=9, batch_size=30, on_epoch=stop)
    assert (net.epoch, len(net.history)) == (2, 2)
    gs.fit(net, *data, epochs=2, batch_size=30)
    assert same_weights(net, trained(4))


# ---- chips


def test_a_chip_answers_and_the_network_is_left_alone() -> None:
    net, (t_in, _) = trained(), make_data()
    before = net(t_in)
    on = net.on(gs.Chip("bss2", seed=17))
    assert not np.array_equal(on(t_in), before)
    gs.fit(on, *make_data(), epochs=2)
    np.testing.assert_array_equal(net(t_in), before)
    assert repr(on).endswith("on Chip('bss2', seed=17, drawn)")
    assert on.on(None).chip is None
    assert same_weights(on.on(None), on)


@pytest.mark.parametrize(
    ("chip", "told"),
    [
        (gs.Chip(), "Chip('ideal', seed=0)"),
        (gs.Chip(weight_max=2, weight_bits=4), "Chip('ideal', seed=0, weight_max=[2.0], weight_bits=4)"),
        (gs.Chip("bss2", seed=3), "Chip('bss2', seed=3)"),
        (gs.Chip("bss2", max_fan_in=0), "Chip('bss2', seed=0, max_fan_in=0)"),
    ],
)
def test_a_chip_says_what_it_has_of_its_own(chip: gs.Chip, told: str) -> None:
    assert repr(chip) == told
    assert eval(told, {"Chip": gs.Chip}).values == chip.values
    drawn = gs.Network([2, 3], backend="cpu").on(chip).chip
    assert repr(drawn) == (f"{told[:-1]}, drawn)" if drawn is not None and drawn.drawn else told)


def test_a_chip_without_room_tells_the_one_that_has_it(tmp_path: Path) -> None:
    net = gs.Network([300, 3], backend="cpu")
    with pytest.raises(ConfigError) as caught:
        net.on(gs.Chip("bss2"))
    wide = "gs.Chip('bss2', seed=0, max_fan_in=0, max_neurons=0, max_synapses=0)"
    assert str(caught.value).endswith(f"; {wide} emulates a chip with room for it")
    assert net.on(eval(wide, {"gs": gs})).chip is not None
    (tmp_path / "mine.yaml").write_text("name: mine\nprices: loihi\nmax_neurons: 2\n")
    with pytest.raises(ConfigError, match=r"; gs\.Chip\(FILE, max_neurons=0\) emulates"):
        net.on(gs.Chip(tmp_path / "mine.yaml"))


def test_a_chip_of_ones_own_file_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nprices: loihi\ngain_std: 0.1\n")
    assert repr(gs.Chip(tmp_path / "mine.yaml")) == "Chip('mine', seed=0)"
    with pytest.raises(DataError, match=r"path must be a chip's file, got .*, which does not exist"):
        gs.Chip.load(tmp_path / "none.npz")


def test_what_is_no_chip_is_refused() -> None:
    net = gs.Network([4, 5, 3])
    with pytest.raises(ConfigError, match=r"got str; did you mean gs\.Chip\('bss2'\)\?"):
        net.on("bss2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a chip is made of a name, or a YAML file, and values"):
        gs.Chip(3)  # type: ignore[arg-type]


def test_the_gradient_on_a_chip_is_chosen() -> None:
    learnt = {}
    for gradient in ("nominal", "exact", "ideal"):
        on = make().on(gs.Chip("bss2", seed=17), gradient=gradient)
        gs.fit(on, *make_data(), validation=make_data(50, 1), epochs=2)
        learnt[gradient] = on
    assert not same_weights(learnt["nominal"], learnt["exact"])
    plain = make()
    gs.fit(plain, *make_data(), epochs=2)
    assert same_weights(learnt["ideal"], plain)
    t_in, labels = make_data(50, 1)
    assert learnt["ideal"].history.validation_accuracy[-1] == learnt["ideal"].accuracy(t_in, labels)


def test_a_piece_of_silicon_is_saved(tmp_path: Path) -> None:
    net, (t_in, _) = trained(), make_data()
    on = net.on(gs.Chip("bss2", seed=17, gain_std=0.1, weight_bits=5, weight_lsb=0))
    assert on.chip is not None
    on.chip.save(tmp_path / "chip.npz")
    chip = gs.Chip.load(tmp_path / "chip.npz")
    assert (chip.seed, chip.values) == (17, on.chip.values)
    np.testing.assert_array_equal(net.on(chip)(t_in), on(t_in))
    with pytest.raises(ShapeError, match="drawn for another network"):
        make(sizes=[4, 21, 3]).on(chip)
    with pytest.raises(DataError, match="must hold a network, got a chip"):
        gs.load(tmp_path / "chip.npz")


def test_a_chip_of_a_file_and_of_values(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nweight_max: [1.5]\nweight_bits: 4\nspike_jitter: 0.02\n")
    chip = gs.Chip(file, weight_max=2.0)
    assert chip.substrate(0.5).spike_jitter == pytest.approx(0.01), "times are in tau_syn"
    assert chip.substrate(1.0).weight_max == (2.0,)
    both = "weight_bits and substrate.weight_lsb both set the grid: one of them must be 0, got 4 and 0.0333"
    with pytest.raises(ValueRangeError, match=both):
        gs.Chip("bss2", weight_bits=4)
    assert gs.Chip("bss2", weight_bits=4, weight_lsb=0).values["weight_bits"] == 4


# ---- prices


@pytest.mark.parametrize("prices", ["brainscales2", "loihi2"])
def test_a_price_is_that_of_a_run(prices: str) -> None:
    small = [
        "dataset.n_train=200",
        "dataset.n_validation=10",
        "dataset.n_test=90",
        f"substrate.prices={prices}",
    ]
    (job,) = jobs(["backend=cpu", *small], False)
    parts = build(job.config)
    weights = new_trainer(parts).weights
    samples = parts.dataset.test
    data = {"test": Labelled(parts.receive(samples.features), samples.labels)}
    measured = measure(parts, parts.network, weights, data, "test", [parts.prices])
    run = on_chip(parts, measured, parts.prices)
    model = job.config.model
    net = gs.Network(
        [4, 120, 3], model.bias_times, weight_mean=model.weight_mean, weight_std=model.weight_std
    )
    split = gs.dataset("yin_yang", n_train=200, n_test=90).test
    cost = gs.price(net, *split, prices=prices, class_names=parts.dataset.class_names)
    shared = {name: run["chip"][name] for name in cost.summary}
    assert cost.summary == shared
    assert (cost.summary["in_steps"] is None) == (prices == "brainscales2")
    assert cost.anytime.keys() == run["anytime"].keys()
    assert cost.energy_per_classification_J == run["chip"]["energy_per_classification_J"]
    assert cost.time_to_decision_s == run["chip"]["time_to_decision_s"]
    assert (f"({cost.evidence})" in repr(cost)) == (cost.refused is None)


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        ("brainscales2", "Cost(BrainScaleS-2, 2 chips: accuracy"),
        ("odin", "Cost(ODIN does not hold it, a neuron has 400 inputs, the chip's have 256: accuracy"),
    ],
)
def test_a_price_says_how_many_chips_it_is_of(prices: str, words: str) -> None:
    net = gs.Network([400, 200, 3], weight_mean=0.1)
    t_in = np.random.default_rng(0).uniform(0.15, 2.0, (2, 400))
    assert repr(gs.price(net, t_in, [0, 1], prices)).startswith(words)


def test_prices_of_one_s_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    shipped = Path(gs.__file__).parents[1] / "conf" / "prices" / "brainscales2.yaml"
    own.write_text(shipped.read_text())
    assert gs.price(make(), *make_data(), prices=own).summary["prices"] == "own"


def test_a_network_is_priced_as_its_chip_or_its_run(tmp_path: Path) -> None:
    net, data = make(), make_data()

    def priced(net: gs.Network) -> str:
        return gs.price(net, *data).summary["prices"]

    assert priced(net) == "brainscales2"
    assert [priced(net.on(gs.Chip(kind))) for kind in ("loihi", "generic_digital")] == [
        "loihi",
        "digital_45nm",
    ]
    assert gs.price(net.on(gs.Chip("loihi")), *data, prices="odin").summary["prices"] == "odin"
    (job,) = jobs(["substrate.prices=odin"], multirun=False)
    parts = build(job.config)
    adopt(job.config, parts.network.layers, new_trainer(parts).weights, tmp_path / "run", "yin_yang")
    (again := gs.load(tmp_path / "run")).save(tmp_path / "net.npz")
    assert priced(again) == priced(gs.load(tmp_path / "net.npz")) == "odin"
    assert priced(again.on(gs.Chip("bss2"))) == "brainscales2"
    again.provenance["prices"] = "gone.yaml"
    with pytest.raises(
        ConfigError, match=r"no file gone\.yaml, .*; the run that the network comes from names th"
    ):
        priced(again)


# ---- files


def test_a_network_survives_files_pickles_and_copies(tmp_path: Path) -> None:
    neuron = gs.LIF(tau_mem=np.inf, threshold=0.8)
    chip = gs.Chip("bss2", seed=9, threshold_shift=0.1, threshold_std=0.06, threshold_noise=0.03)
    net = trained(neuron=neuron, replicas=2, dtype="float32").on(chip, gradient="exact")
    net.save(tmp_path / "net.npz")
    t_in, _ = make_data()
    for again in (gs.load(tmp_path / "net.npz"), pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        np.testing.assert_array_equal(again(t_in), net(t_in))
        assert (again.sizes, again.seeds, again.dtype, again.neuron) == (
            net.sizes,
            net.seeds,
            net.dtype,
            neuron,
        )
        assert (again.recipe, again.gradient, again.epoch) == (net.recipe, "exact", 4)
        assert repr(again) == repr(net)
        np.testing.assert_array_equal(again.history.train_loss, net.history.train_loss)
    assert gs.load(tmp_path / "net.npz").provenance["numpy"] == np.__version__
    assert gs.load(tmp_path / "net.npz", backend="reference").backend.name == "reference"


def test_files_that_hold_no_network_are_refused(tmp_path: Path) -> None:
    net = trained()
    with pytest.raises(DataError, match=r"none.npz, which does not exist"):
        gs.load(tmp_path / "none.npz")
    arrays, header = net.__getstate__()
    checkpoint.save(tmp_path / "other.npz", arrays | {"weights_1": np.ones(3)}, header, keep_previous=False)
    with pytest.raises(DataError, match=r"other.npz: weights_1 must be \(1, 20, 3\), got \(3,\)"):
        gs.load(tmp_path / "other.npz")
    checkpoint.save(tmp_path / "run.npz", arrays, {"config": {}}, keep_previous=False)
    with pytest.raises(DataError, match="got a checkpoint of a run: load its folder"):
        gs.load(tmp_path / "run.npz")
    checkpoint.save(tmp_path / "odd.npz", arrays, {"kind": "network"}, keep_previous=False)
    with pytest.raises(DataError, match="holds no network of this version: KeyError"):
        gs.load(tmp_path / "odd.npz")
    net.save(tmp_path / "net.npz")
    with pytest.raises(DataError, match="must hold a chip, got a network"):
        gs.Chip.load(tmp_path / "net.npz")
    with pytest.raises(DataError, match="holds none"):
        gs.load(tmp_path)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on a chip, with another tau_syn and repeated inputs."""
    folder = tmp_path_factory.mktemp("run") / "run"
    small = ["training.epochs=2", "dataset.n_train=300", "dataset.n_validation=60", "dataset.n_test=60"]
    more = ["model.tau_syn=0.5", "model.tau_mem=0.5", "model.input_repeats=2", "replicas=2", "substrate=bss2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["gpuspike-train", *small, *more, "chip_seed=17", f"hydra.run.dir={folder}"]
        )
        train()
    return folder


def test_a_run_s_folder_opens_as_a_network(run_folder: Path) -> None:
    net, data = gs.load(run_folder), gs.dataset(run_folder)
    summary = json.loads((run_folder / "summary.json").read_text())
    assert net.sizes == (8, 120, 3)
    np.testing.assert_array_equal(net.accuracy(*data.test), summary["accuracy"]["test"]["per_replica"])
    cost = gs.price(net, *data.test)
    assert cost.energy_per_classification_J == pytest.approx(summary["chip"]["energy_per_classification_J"])
    assert cost.time_to_decision_s["mean"] == pytest.approx(  # type: ignore[index]
        summary["chip"]["time_to_decision_s"]["mean"]
    )
    assert net.provenance == summary["provenance"] | {"prices": "brainscales2"}
    assert net.chip is not None
    assert (net.chip.name, net.chip.seed) == ("bss2", 17)
    assert list(net.history.epoch) == [1, 2]
    before = sorted(path.name for path in run_folder.iterdir())
    gs.fit(net, *data.train, validation=data.validation, recipe=net.recipe, epochs=1)
    assert net.epoch == 3
    assert sorted(path.name for path in run_folder.iterdir()) == before


def test_a_stopped_run_opens_too(run_folder: Path, tmp_path: Path) -> None:
    for name in ("checkpoint.npz", "config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    net = gs.load(tmp_path)
    assert net.epoch == 2
    assert net.provenance["seed"] == 0
    assert gs.load(tmp_path, backend="reference").backend.name == "reference"
    (tmp_path / "checkpoint.npz").rename(tmp_path / "checkpoint.previous.npz")
    (tmp_path / "checkpoint.npz").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="going on from the one before"):
        gs.load(tmp_path)
    (tmp_path / "checkpoint.npz").unlink()
    (tmp_path / "checkpoint.previous.npz").unlink()
    with pytest.raises(DataError, match="stopped before its first one"):
        gs.load(tmp_path)


# ---- data


def test_a_named_data_set_is_encoded_as_the_experiments_do() -> None:
    data = gs.dataset("yin_yang", n_train=10, n_validation=5, n_test=5, dtype="float32")
    assert data.train.t_in.shape == (10, 4)
    assert data.train.t_in.dtype == np.float32
    assert 0.15 <= data.train.t_in.min() < data.train.t_in.max() <= 2.0
    assert repr(data) == "Data(yin_yang: 10 + 5 + 5 samples, 4 inputs, 3 classes)"


@pytest.mark.parametrize("name", [*DATASETS, "mnist16"])
def test_a_data_set_has_the_values_that_the_command_line_gives_it(name: str) -> None:
    sizes = {"n_train": 200, "n_validation": 50, "n_test": 50}
    given = [f"dataset.{key}={value}" for key, value in sizes.items()]
    (job,) = jobs([f"dataset={name}", *given], multirun=False)
    assert typed(dataset_values(name) | sizes, type(dataset_config())) == job.config.dataset


def test_a_file_of_one_s_own_is_a_data_set(tmp_path: Path) -> None:
    t_in, labels = make_data(20)
    parts = {f"{name}_times": t_in for name in ("train", "validation", "test")}
    parts |= {f"{name}_labels": labels for name in ("train", "validation", "test")}
    np.savez(tmp_path / "mine.npz", **parts)  # type: ignore[arg-type]
    path = str(tmp_path / "mine.npz")
    data = gs.dataset("npz", path=path, n_train=20, n_validation=20, n_test=20)
    np.testing.assert_array_equal(data.test.t_in, t_in)


# ---- refused at the door

DOOR: list[tuple[Any, type[Exception], str]] = [
    (lambda net, t, y: net(t[0]), ShapeError, r"t_in must be .* \(n_samples, 4\), got \(4,\)"),
    (lambda net, t, y: net(t[:, :3]), ShapeError, r"\(n_samples, 4\), got \(120, 3\)"),
    (lambda net, t, y: net(t[:0]), ShapeError, "at least one sample, got none"),
    (lambda net, t, y: net(np.ones((5, 4), int)), DtypeError, "float32 or float64, got int64"),
    (lambda net, t, y: net(t > 1), DtypeError, "float32 or float64, got bool"),
    (lambda net, t, y: net([[1.0], [1.0, 2.0]]), ShapeError, "t_in must be an array, got"),
    (lambda net, t, y: net(np.ma.masked_array(t)), DtypeError, "must not be masked"),
    (lambda net, t, y: net(np.where(t > 1, np.nan, t)), ValueRangeError, "must not hold NaN or -inf"),
    (lambda net, t, y: net(np.where(t > 1, -np.inf, t)), ValueRangeError, "must not hold NaN or -inf"),
    (lambda net, t, y: gs.fit(net, t, y[1:]), ShapeError, "one for each of the 120 samples"),
    (lambda net, t, y: gs.fit(net, t, y * 1.0), DtypeError, "integers from 0 to 2, got float64"),
    (lambda net, t, y: gs.fit(net, t, y == 1), DtypeError, "labels must be integers from 0 to 2, got bool"),
    (lambda net, t, y: gs.fit(net, t, y + 1), ValueRangeError, "from 0 to 2, .* got 1 to 3"),
    (lambda net, t, y: gs.fit(net, t, y - 1), ValueRangeError, "from 0 to 2, .* got -1 to 1"),
    (lambda net, t, y: gs.fit(net, t, y, validation=t), ShapeError, "validation must be two arrays"),
    (lambda net, t, y: gs.fit(net, t, y, validation=(t, y, y)), ShapeError, "labels, got a tuple of 3"),
    (lambda net, t, y: gs.fit(net, t, y, validation=(t, y[1:])), ShapeError, "validation labels must be one"),
    (lambda net, t, y: gs.fit(net, t, y, validation=(t[:, 1:], y)), ShapeError, "validation times must be"),
    (lambda net, t, y: gs.fit(net, t, y, epochs=0), ValueRangeError, "epochs must be a whole"),
    (lambda net, t, y: gs.Recipe(epochs=-1), ValueRangeError, "epochs must be a whole number, 1 or more"),
    (lambda net, t, y: gs.fit(net, t, y, epochs=1.5), ValueRangeError, "epochs must be a whole number"),
    (lambda net, t, y: gs.fit(net, t, y, batch_size=0), ValueRangeError, "batch_size must be a whole number"),
    (lambda net, t, y: gs.fit(net, t, y, learning_rate="fast"), ValueRangeError, "rate must be a number"),
    (lambda net, t, y: gs.fit(net, t, y, xi="hot"), ValueRangeError, "xi must be a number, got 'hot'"),
    (lambda net, t, y: gs.fit(net, t, y, match_noise="no"), ValueRangeError, "must be True or False, got"),
    (lambda net, t, y: gs.fit(net, t, y, max_silent=[0.1, "a"]), ValueRangeError, "a list of numbers"),
    (lambda net, t, y: gs.dataset("yin_yang", n=5), ConfigError, "yin_yang 'n'; there .*opposites, turned$"),
    (lambda net, t, y: gs.fit(net, t, y, learning=1), ConfigError, "did you mean learning_rate?"),
    (lambda net, t, y: gs.fit(net, t, y, learning_rate=-1.0), ValueRangeError, "rate must be positive"),
    (lambda net, t, y: gs.fit(net, t, y, optimizer="lion"), ConfigError, "no optimizer 'lion'; there are"),
    (lambda net, t, y: gs.fit(net, t, y, loss="mse"), ConfigError, "no loss 'mse'; there are ttfs_cross"),
    (lambda net, t, y: gs.fit(net, t, y, max_silent=[0.1]), ValueRangeError, "each of the 2 layers"),
    (lambda net, t, y: gs.price(net, t, y, prices="brainscale2"), ConfigError, "did you mean brainscales2?"),
    (lambda net, t, y: gs.price(net, t, y, class_names=["a"]), ValueRangeError, "class_names must be 3"),
    (lambda net, t, y: net.accuracy(t, y[:3]), ShapeError, "one for each of the 120 samples"),
    (lambda net, t, y: net.membranes(t[:1], [1.0]), ShapeError, "sample must be"),
    (lambda net, t, y: net.membranes(t[0], [np.nan]), ValueRangeError, "times must be one axis of finite"),
    (lambda net, t, y: net.on(gs.Chip("bss2"), gradient="ideall"), ConfigError, "nominal, exact, ideal, got"),
    (lambda net, t, y: gs.Chip("bss1"), ConfigError, "no chip 'bss1'; there are .*mean bss2?"),
    (lambda net, t, y: gs.Chip("brainscales2"), ConfigError, "did you mean 'bss2', which is priced so?"),
    (lambda net, t, y: gs.Chip("bss2", weight_bit=4), ConfigError, "did you mean weight_bits?"),
    (lambda net, t, y: gs.Chip("bss2", weight_bits="four"), ConfigError, "four"),
    (lambda net, t, y: gs.Chip("bss2", weight_bits=40), ValueRangeError, "weight_bits must be"),
    (lambda net, t, y: gs.Chip("bss2", seed=-1), ValueRangeError, "seed of a chip must be a whole number"),
    (lambda net, t, y: gs.Chip("bss2", seed=2**32), ConfigError, "at most 4294967295"),
    (lambda net, t, y: gs.Chip("bss2").save("c.npz"), ConfigError, "got one not drawn yet"),
    (lambda net, t, y: gs.dataset("yinyang"), ConfigError, "no data set 'yinyang'; .*mean yin_yang?"),
    (lambda net, t, y: gs.dataset("yin_yang", train=3), ConfigError, "did you mean n_train?"),
    (lambda net, t, y: gs.dataset("npz", path="x.npz"), DataError, "got 'x.npz', which is not there"),
    (lambda net, t, y: gs.dataset("yin_yang", n_test=None), ConfigError, "n_test must be given: the data"),
    (lambda net, t, y: gs.dataset("yin_yang", n_train=0), ValueRangeError, "n_train must be at least 1"),
    (lambda net, t, y: gs.dataset("yin_yang", dtype="int8"), DtypeError, "dtype must be float32 or float64"),
    (lambda net, t, y: make(sizes=[4]), ValueRangeError, "two or more positive numbers"),
    (lambda net, t, y: make(sizes=[4, 0, 3]), ValueRangeError, "a layer's size must be a whole number"),
    (lambda net, t, y: make(sizes=[4, 2.5, 3]), ValueRangeError, "a layer's size must be a whole number"),
    (lambda net, t, y: make(bias_times=[[0.9]] * 3), ValueRangeError, "one list for each of the 2 layers"),
    (lambda net, t, y: make(bias_times=[0.9, 0.9]), ValueRangeError, r"did you mean \[\[0.9\], \[0.9\]\]"),
    (lambda net, t, y: make(bias_times=[[np.inf], []]), ValueRangeError, "bias_times must be finite"),
    (lambda net, t, y: make(seed=-1), ValueRangeError, "seed must be a whole number, 0 or more"),
    (lambda net, t, y: make(replicas=0), ValueRangeError, "replicas must be a whole number, 1 or more"),
    (lambda net, t, y: make(dtype="float16"), DtypeError, "float32 or float64, got float16"),
    (lambda net, t, y: make(dtype="real"), DtypeError, "float32 or float64, got 'real'"),
    (lambda net, t, y: make(backend="gpu"), BackendError, "backend must be one of"),
    (lambda net, t, y: make(neuron=gs.LIF(threshold=np.ones(3))), ValueRangeError, "a gs.LIF of numbers"),
    (lambda net, t, y: make(weight_std=-1.0), ValueRangeError, "weight_std must be 0 or more"),
    (lambda net, t, y: make(weight_mean=[1.0]), ValueRangeError, "each of the 2 layers"),
    (lambda net, t, y: make(weight_mean=np.nan), ValueRangeError, "weight_mean must be a finite number"),
    (lambda net, t, y: make(sizes=[400, 20, 3]).on(gs.Chip("bss2")), ConfigError, "at most 256 inputs"),
]  # fmt: skip


def test_a_chip_whose_prices_are_not_there_is_refused(tmp_path: Path) -> None:
    text = (conf_folder() / "substrate" / "bss2.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("prices: brainscales2", "prices: loihi3"))
    with pytest.raises(ConfigError, match=r"prices must be one of .*, got 'loihi3'; did you mean loihi2?\?"):
        gs.Chip(tmp_path / "mine.yaml")
    assert gs.Chip(Path("loihi")).name == "loihi"


@pytest.mark.parametrize(("ask", "error", "told"), DOOR, ids=[told[:40] for *_, told in DOOR])
def test_what_cannot_be_is_refused_at_the_door(ask: Any, error: type[Exception], told: str) -> None:
    net = make()
    with pytest.raises(error, match=told):
        ask(net, *make_data())
    assert net.epoch == 0
    assert same_weights(net, make())


def test_an_array_on_a_device_is_refused() -> None:
    class OnDevice:
        __cuda_array_interface__ = None

    with pytest.raises(DtypeError, match="must be a NumPy array, got one on a device"):
        make()(OnDevice())  # type: ignore[arg-type]


def test_a_new_chip_each_step_is_no_piece_of_silicon(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("name: new\nspike_jitter: 0.1\nnew_chip: step\n")
    with pytest.raises(ConfigError, match="one piece of silicon, got new_chip=step"):
        gs.Chip(file)


def test_a_recipe_without_numbers_is_suited_first() -> None:
    with pytest.raises(ValueRangeError, match="suited to a neuron first"):
        Recipe().make_schedule()


def test_importing_is_light() -> None:
    code = (
        "import gpuspike, sys; gpuspike.__all__;"
        "print([name for name in sys.modules if name.startswith('gpuspike.')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for room in ("api", "config", "training", "network", "store", "runs"):
        assert f"gpuspike.{room}" not in answer.stdout


def test_what_no_recipe_has_of_a_run_is_told_when_it_goes_on(run_folder: Path, tmp_path: Path) -> None:
    given = ["experiment=mnist", "substrate=bss2", "substrate.new_chip=step", "training.max_shift=2"]
    (job,) = jobs(given, multirun=False)
    assert files._alone(job.config) == ["training.max_shift=2", "substrate.new_chip=step"]
    assert ALONE not in gs.load(run_folder).provenance
    data, net = gs.dataset(run_folder), gs.load(run_folder)
    net.provenance[ALONE] = files._alone(job.config)
    net.save(tmp_path / "net.npz")
    told = "gs.fit does not go on with training.max_shift=2, substrate.new_chip=step of the run"
    with pytest.warns(UserWarning, match=told):
        gs.fit(gs.load(tmp_path / "net.npz"), *data.train, recipe=net.recipe, epochs=1)


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    net, data = gs.Network([4, 3, 2]), tmp_path / "digits.npz"
    np.savez(data, train_times=np.zeros((2, 4)))
    before = data.read_bytes()
    on_chip = net.on(gs.Chip("bss2"))
    assert on_chip.chip is not None
    for save in (net.save, on_chip.chip.save):
        with pytest.raises(
            OutputError, match=r"digits.npz is there already and holds no (network|chip): it would"
        ):
            save(data)
    assert data.read_bytes() == before
    for _ in range(2):  # a network over a network
        net.save(tmp_path / "net.npz")
    with pytest.raises(OutputError, match="holds no chip"):
        on_chip.chip.save(tmp_path / "net.npz")


def test_no_nir_file_is_written_over_data(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    data = tmp_path / "digits.npz"
    np.savez(data, train_times=np.zeros((2, 4)))
    before = data.read_bytes()
    with pytest.raises(OutputError, match="is not a NIR file: it would be lost"):
        gs.export_nir(gs.Network([4, 3, 2]), data, time_unit="s")
    with pytest.raises(OutputError, match="is not a NIR file: it would be lost"):
        gs.write_nir_spikes(data, {"input": np.zeros((2, 4))}, time_unit="s")
    assert data.read_bytes() == before


@pytest.mark.parametrize("name", [3, None])
def test_what_is_no_name_of_a_data_set_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=f"name must be that of a data set, or a run's folder, got {name}"):
        gs.dataset(name)
