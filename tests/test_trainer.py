"""Training: replicas as if alone, bit for bit; what a step does and does not touch; and that it learns."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.datasets import yin_yang
from gpuspike.datasets.encoding import latency
from gpuspike.errors import ValueRangeError
from gpuspike.kernels import Kernels, LayerState, load
from gpuspike.network.network import Architecture
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose, normals, stream
from gpuspike.training.bumping import NO_LAYER, Bumping
from gpuspike.training.evaluation import Evaluation, Labelled, evaluate, silent_fraction
from gpuspike.training.losses import TTFSCrossEntropy, decide
from gpuspike.training.optimizers import SGD, Adam, Descent
from gpuspike.training.schedule import Schedule
from gpuspike.training.step import TrainingRule
from gpuspike.training.trainer import EpochRecord, Trainer

Array = NDArray[Any]

N_TRAIN, N_VALIDATION = 70, 40
LOSS = TTFSCrossEntropy()
OFF = (1.0, 1.0)
"""Silent fractions above which a layer is bumped: never."""


@dataclass(frozen=True)
class Setup:
    """What the tests vary; the rest is a 4-20-3 network on 70 Yin-Yang samples."""

    seeds: tuple[int, ...] = (3,)
    optimizer: str = "adam"
    learning_rate: float = 0.01
    hidden: int = 20
    n_train: int = N_TRAIN
    batch_size: int = 32
    max_silent: tuple[float, float] = (0.3, 0.0)
    targeted: bool = True
    exponential: bool = True
    bump_replaces_step: bool = True
    max_weight_grad: float = 0.2
    input_noise: float = 0.0
    mean: tuple[float, float] = (0.7, 0.35)
    dtype: Any = np.float64
    kernels: Kernels | None = None

    def labelled(self, split: str) -> Labelled:
        """A split as spike times."""
        data = yin_yang(self.n_train, N_VALIDATION, N_VALIDATION).splits[split]
        t_in = latency(data.features, 0.15, 2.0)[None].astype(self.dtype)
        return Labelled(self.network().receive(t_in), data.labels)

    def network(self) -> Architecture:
        """4-hidden-3 with one bias spike on both layers."""
        return Architecture.build(
            (4, self.hidden, 3), ((0.9,), (0.9,)), LIF(), self.kernels if self.kernels else load("cpu")
        )

    def trainer(self) -> Trainer:
        """A trainer that has not trained yet."""
        network = self.network()
        weights = network.initial_weights(self.seeds, self.mean, (0.8, 0.5), self.dtype)
        descent = Descent(Adam() if self.optimizer == "adam" else SGD(0.9), weights, load("cpu"))
        rule = TrainingRule(
            self.batch_size,
            evaluation_batch_size=16,
            max_weight_grad=self.max_weight_grad,
            bump_replaces_step=self.bump_replaces_step,
            input_noise=self.input_noise,
        )
        bumping = Bumping(self.max_silent, 0.002, len(self.seeds), self.exponential, self.targeted)
        schedule = Schedule(self.learning_rate, "step", step_size=2, gamma=0.5)
        return Trainer(network, weights, LOSS, descent, schedule, bumping, rule, self.seeds)

    def trained(self, n_epochs: int = 4) -> tuple[Trainer, list[EpochRecord]]:
        """The trainer after some epochs, and its records."""
        trainer = self.trainer()
        return trainer, list(trainer.train(self.labelled("train"), self.labelled("validation"), n_epochs))

    def changed(self, **change: Any) -> Setup:
        """The same with other values."""
        return Setup(**(self.__dict__ | change))


def of_replica(value: Any, r: int) -> Any:
    """Replica r of a record's field; layers come before replicas, spike times after."""
    return value[:, r] if value.ndim == 2 else value[r]


def assert_same_evaluation(a: Evaluation, b: Evaluation, r_a: int, r_b: int) -> None:
    """Replica r_a of one equals replica r_b of the other, bit for bit; wall time excepted."""
    for name in ("loss", "accuracy", "silent_fraction", "t_out"):
        expected = of_replica(getattr(b, name), r_b)
        np.testing.assert_array_equal(of_replica(getattr(a, name), r_a), expected, err_msg=name)


def assert_same_run(
    a: tuple[Trainer, list[EpochRecord]], b: tuple[Trainer, list[EpochRecord]], r_a: int = 0, r_b: int = 0
) -> None:
    """Weights, optimiser, bumps and records of replica r_a in one run equal those of r_b in the other."""
    states = a[0].state(), b[0].state()
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array[r_a], states[1][name][r_b], err_msg=name)
    assert len(a[1]) == len(b[1])
    for one, other in zip(a[1], b[1], strict=True):
        assert (one.epoch, one.learning_rate) == (other.epoch, other.learning_rate)
        for name in ("train_loss", "train_accuracy", "bump_fraction", "silent_fraction"):
            expected = of_replica(getattr(other, name), r_b)
            np.testing.assert_array_equal(of_replica(getattr(one, name), r_a), expected, err_msg=name)
        assert_same_evaluation(one.validation, other.validation, r_a, r_b)


VARIANTS = {
    "adam": Setup(),
    "adam, bump and step": Setup(bump_replaces_step=False),
    "sgd": Setup(optimizer="sgd"),
    "sgd, bump and step": Setup(optimizer="sgd", bump_replaces_step=False),
    "adam, noise": Setup(input_noise=0.1),
    "sgd, noise, bump and step": Setup(optimizer="sgd", input_noise=0.1, bump_replaces_step=False),
    "adam, untargeted constant bumps": Setup(targeted=False, exponential=False),
    "adam, float32, noise": Setup(dtype=np.float32, input_noise=0.1),
}
each_variant = pytest.mark.parametrize("setup", VARIANTS.values(), ids=VARIANTS.keys())


@each_variant
def test_a_replica_is_the_run_of_its_seed_alone_bit_for_bit(setup: Setup) -> None:
    together = setup.changed(seeds=(3, 4, 5)).trained()
    bumped = np.array([record.bump_fraction for record in together[1]])
    assert 0.0 < bumped.mean() < 1.0, "the test needs batches with a bump and batches without"
    assert (bumped[:, :1] != bumped[:, 1:]).any(), "the test needs replicas that are bumped apart"
    for r, seed in enumerate((3, 4, 5)):
        assert_same_run(together, setup.changed(seeds=(seed,)).trained(), r, 0)


@each_variant
def test_the_same_run_twice_gives_the_same_bits(setup: Setup) -> None:
    assert_same_run(setup.trained(), setup.trained())


def test_replicas_differ() -> None:
    trainer, _ = Setup(seeds=(3, 4)).trained(1)
    assert all((w[0] != w[1]).any() for w in trainer.weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neither_the_number_of_threads_nor_of_replicas_changes_a_bit_of_shared_work(
    monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    # Large enough that both layers share out their work: some 500,000 pair-events.
    setup = Setup(
        seeds=(3, 4, 5),
        hidden=500,
        n_train=500,
        batch_size=400,
        mean=(0.7, 0.1),
        input_noise=0.1,
        dtype=dtype,
    )
    runs = []
    for n_threads in (1, 2, 3):
        monkeypatch.setenv("NUMBA_NUM_THREADS", str(n_threads))
        runs.append(setup.trained(2))
    for run in runs[1:]:
        for r in range(3):
            assert_same_run(run, runs[0], r, r)
    assert_same_run(runs[0], setup.changed(seeds=(4,)).trained(2), 1, 0)


def test_training_in_two_goes_is_training_in_one() -> None:
    setup = Setup(input_noise=0.1)
    train, validation = setup.labelled("train"), setup.labelled("validation")
    trainer = setup.trainer()
    records = [*trainer.train(train, validation, 2), *trainer.train(train, validation, 4)]
    assert_same_run((trainer, records), setup.trained(4))
    assert list(trainer.train(train, validation, 4)) == []


def test_records_count_epochs_from_one_and_follow_the_schedule() -> None:
    trainer, records = Setup().trained(4)
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert [record.learning_rate for record in records] == [0.01, 0.01, 0.005, 0.005]
    assert trainer.epoch == 4
    for record in records:
        assert record.train_seconds > 0.0
        assert record.train_samples_per_s == pytest.approx(N_TRAIN / record.train_seconds)


def test_the_samples_are_shuffled_anew_each_epoch_and_each_replica_for_itself() -> None:
    recorder = Recorder()
    Setup(seeds=(3, 4), kernels=recorder, batch_size=N_TRAIN, learning_rate=1e-30, max_silent=OFF).trained(2)
    batches = [t for t in recorder.received if t.shape[:2] == (2, N_TRAIN) and t.shape[2] == 5]
    assert len(batches) == 2
    orders = [batch[r, :, :4] for batch in batches for r in range(2)]
    for i, order in enumerate(orders):
        as_sorted = [row[np.lexsort(row.T)] for row in (order, orders[0])]
        np.testing.assert_array_equal(*as_sorted)
        assert all((order != other).any() for other in orders[:i])


def test_on_batch_is_called_after_every_batch_of_every_epoch() -> None:
    setup, calls = Setup(), []
    for _ in setup.trainer().train(
        setup.labelled("train"),
        setup.labelled("validation"),
        2,
        lambda done, total: calls.append((done, total)),
    ):
        pass
    assert calls == [(1, 3), (2, 3), (3, 3)] * 2


@pytest.mark.parametrize("batch_size", [1, 7, 32, N_TRAIN, 1000])
def test_every_sample_counts_once_whatever_the_size_of_the_last_batch(batch_size: int) -> None:
    # The step is far below rounding: the weights stay, so the epoch's means are those of the whole split.
    setup = Setup(
        batch_size=batch_size, max_silent=OFF, optimizer="sgd", learning_rate=1e-30, max_weight_grad=math.inf
    )
    trainer, (record,) = setup.trained(1)
    whole = evaluate(setup.network(), trainer.weights, setup.labelled("train"), LOSS, N_TRAIN)
    np.testing.assert_allclose(record.train_loss, whole.loss, rtol=1e-12)
    np.testing.assert_allclose(record.train_accuracy, whole.accuracy, rtol=1e-12)
    np.testing.assert_allclose(record.silent_fraction, whole.silent_fraction, rtol=1e-12)
    assert record.bump_fraction.tolist() == [0.0]


def test_a_bumped_batch_leaves_the_optimiser_and_all_other_weights_untouched() -> None:
    setup = Setup(seeds=(3, 4), batch_size=N_TRAIN, max_silent=(0.0, 1.0))
    trainer = setup.trainer()
    before = [w.copy() for w in trainer.weights]
    order = np.tile(np.arange(N_TRAIN), (2, 1))
    seen = trainer.network.forward(trainer.weights, setup.labelled("train").received.take(order))
    silent = np.isinf(seen[0].t_out).any(axis=1)
    assert silent.any(axis=1).all()
    list(trainer.train(setup.labelled("train"), setup.labelled("validation"), 1))
    for name, array in trainer.descent.state().items():
        assert (array == 0).all(), name
    np.testing.assert_array_equal(trainer.weights[1], before[1])
    for r in range(2):
        np.testing.assert_array_equal(trainer.weights[0][r], before[0][r] + 0.002 * silent[r])
    assert trainer.bumping.layer.tolist() == [0, 0]


def test_a_bumped_replica_pauses_while_the_others_step() -> None:
    # Seed by seed the hidden layer is silent to a different degree: a limit in between parts them.
    setup = Setup(seeds=(3, 4, 5), batch_size=N_TRAIN, max_silent=OFF)
    trainer = setup.trainer()
    order = np.tile(np.arange(N_TRAIN), (3, 1))
    seen = trainer.network.forward(trainer.weights, setup.labelled("train").received.take(order))
    fractions = silent_fraction(seen)[0]
    limit = float(np.sort(fractions)[1])
    trainer, _ = setup.changed(max_silent=(limit, 1.0)).trained(1)
    bumped = trainer.bumping.layer != NO_LAYER
    np.testing.assert_array_equal(bumped, fractions > limit)
    assert bumped.sum() == 1
    np.testing.assert_array_equal(trainer.descent.state()["steps"], ~bumped)


def test_a_bump_may_come_on_top_of_the_step() -> None:
    setup = Setup(batch_size=N_TRAIN, max_silent=(0.0, 1.0), bump_replaces_step=False)
    both, _ = setup.trained(1)
    step, _ = setup.changed(max_silent=OFF).trained(1)
    bump, _ = setup.changed(bump_replaces_step=True).trained(1)
    assert both.descent.state()["steps"].tolist() == [1]
    start = setup.trainer().weights
    for w, w_step, w_bump, w_start in zip(both.weights, step.weights, bump.weights, start, strict=True):
        np.testing.assert_allclose(w - w_start, (w_step - w_start) + (w_bump - w_start), atol=1e-14)


def rows_of_gradients(
    weights: list[Array], data: Labelled, neuron: LIF, network: Architecture
) -> list[NDArray[np.float64]]:
    """dL/dw of every (sample, neuron) pair of both layers, (n_batch, n_post, n_pre), from the formulas.

    The error that goes back to the hidden layer is never masked by the guard.
    """
    seen = network.forward(weights, data.received)
    _, error = LOSS(seen[-1].t_out, data.labels[None])
    rows = []
    for activity, w in zip(reversed(seen), reversed(weights), strict=True):
        t_in, t_out, slope = activity.t_in[0], activity.t_out[0], activity.slope[0]
        counts = slope > 0.0
        factor = np.where(counts, error[0], 0.0) / np.where(counts, slope, 1.0)
        delay = np.where(counts, t_out, -1.0)[:, :, None] - np.where(np.isinf(t_in), 0.0, t_in)[:, None, :]
        delay = np.where(np.isinf(t_in)[:, None, :], -1.0, delay)
        rows.insert(0, -neuron.kernel(delay) * factor[:, :, None])
        back = neuron.kernel_slope(delay) * w[0].T * factor[:, :, None]
        error = back.sum(axis=1)[None, :, : activity.t_in.shape[2] - 1]
    return rows


def test_the_guard_drops_whole_pairs_whose_gradient_exceeds_it_and_no_others() -> None:
    setup = Setup(optimizer="sgd", learning_rate=1.0, batch_size=N_TRAIN, max_silent=OFF)
    train = setup.labelled("train")
    start = setup.trainer()
    rows = rows_of_gradients(start.weights, train, LIF(), start.network)
    largest = [np.abs(row).max(axis=2) for row in rows]
    for limit in (math.inf, *(float(np.median(x[x > 0.0])) for x in largest)):
        expected = [np.where(x <= limit, row.T, 0.0).sum(axis=2) for x, row in zip_transposed(largest, rows)]
        trainer, _ = setup.changed(max_weight_grad=limit).trained(1)
        for w, w_start, grad in zip(trainer.weights, start.weights, expected, strict=True):
            np.testing.assert_allclose((w_start - w)[0], grad, rtol=1e-9, atol=1e-12)
    for x in largest:
        assert (x > limit).any(), "the test needs pairs that are dropped in both layers"


def zip_transposed(
    largest: list[NDArray[np.float64]], rows: list[NDArray[np.float64]]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The pairs' largest entries as (n_post, n_batch), to stand beside (n_pre, n_post, n_batch)."""
    return [(x.T, row) for x, row in zip(largest, rows, strict=True)]


def test_a_guard_below_every_gradient_stops_learning() -> None:
    setup = Setup(optimizer="sgd", max_silent=OFF, max_weight_grad=1e-300)
    trainer, _ = setup.trained(2)
    for w, start in zip(trainer.weights, setup.trainer().weights, strict=True):
        np.testing.assert_array_equal(w, start)


class Recorder:
    """The CPU's kernels, and a memory of the input times that they were given."""

    def __init__(self) -> None:
        self._kernels = load("cpu")
        self.received: list[Array] = []
        self.slopes = self._kernels.slopes
        self.backward = self._kernels.backward
        self.spike_order = self._kernels.spike_order
        self.jitter, self.descend = self._kernels.jitter, self._kernels.descend
        self.count_silent, self.place = self._kernels.count_silent, self._kernels.place

    def forward(self, t_in: Array, *arguments: Any) -> list[LayerState]:
        """As the CPU's."""
        self.received.append(t_in.copy())
        return self._kernels.forward(t_in, *arguments)


def test_input_noise_jitters_inputs_but_neither_bias_spikes_nor_evaluation() -> None:
    sigma, n_train = 0.3, 2000
    recorder = Recorder()
    setup = Setup(
        seeds=(3, 4), kernels=recorder, n_train=n_train, batch_size=n_train, input_noise=sigma, max_silent=OFF
    )
    setup.trained(2)
    validation = setup.labelled("validation").received.t_in
    first_layer = [t for t in recorder.received if t.shape[2] == 5]
    noisy = [t for t in first_layer if t.shape[1] == n_train]
    assert len(noisy) == 2
    clean = np.sort(setup.labelled("train").received.t_in[0, :, :4], axis=None)
    for t_in in noisy:
        assert (t_in[..., 4] == 0.9).all()
        assert t_in.min() >= 0.0
        assert t_in[..., :4].min() < clean.min(), "some inputs come earlier than any did"
        # Few inputs lie within sigma of 0: the variance of the noise adds to that of the data.
        added = t_in[..., :4].var() - clean.var()
        assert added == pytest.approx(sigma**2, rel=0.15)
    assert (noisy[0] != noisy[1]).any()
    assert (noisy[0][0] != noisy[0][1]).any()
    evaluated = [t for t in first_layer if t.shape[1] != n_train]
    np.testing.assert_array_equal(np.concatenate(evaluated[:3], axis=1), validation)


def test_shuffling_and_noise_come_from_the_address_of_seed_epoch_and_batch() -> None:
    sigma, n_epochs, batch_size = 0.3, 2, 32
    recorder = Recorder()
    setup = Setup(seeds=(3, 8), kernels=recorder, batch_size=batch_size, input_noise=sigma)
    setup.trained(n_epochs)
    clean = setup.labelled("train").received.t_in[0, :, :4]
    expected = []
    for epoch in range(n_epochs):
        orders = [stream(seed, Purpose.SHUFFLE, epoch).permutation(N_TRAIN) for seed in setup.seeds]
        for batch, first in enumerate(range(0, N_TRAIN, batch_size)):
            rows = []
            for seed, order in zip(setup.seeds, orders, strict=True):
                t_in = clean[order[first : first + batch_size]]
                noise = normals(seed, Purpose.INPUT_NOISE, epoch, batch, *t_in.shape)
                rows.append(np.abs(t_in + sigma * noise))
            expected.append(np.stack(rows))
    seen = [t[..., :4] for t in recorder.received if t.shape[0] == 2 and t.shape[2] == 5]
    assert len(seen) == len(expected) == 6
    for t_in, by_hand in zip(seen, expected, strict=True):
        np.testing.assert_allclose(t_in, by_hand, rtol=0.0, atol=1e-6)


def test_the_validation_of_a_record_is_an_evaluation_after_the_epoch() -> None:
    setup = Setup(seeds=(3, 4))
    trainer, records = setup.trained(2)
    again = evaluate(setup.network(), trainer.weights, setup.labelled("validation"), LOSS, 16)
    for r in range(2):
        assert_same_evaluation(records[-1].validation, again, r, r)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_evaluation_does_not_depend_on_its_batch_size(batch_size: int, dtype: Any) -> None:
    setup = Setup(seeds=(3, 4), n_train=300, dtype=dtype)
    weights, data = setup.trainer().weights, setup.labelled("train")
    whole = evaluate(setup.network(), weights, data, LOSS, 300)
    result = evaluate(setup.network(), weights, data, LOSS, batch_size)
    np.testing.assert_array_equal(result.t_out, whole.t_out)
    np.testing.assert_array_equal(result.accuracy, whole.accuracy)
    np.testing.assert_allclose(result.loss, whole.loss, rtol=1e-6)
    np.testing.assert_allclose(result.silent_fraction, whole.silent_fraction, rtol=1e-12)


def test_evaluation_tells_what_the_output_times_say() -> None:
    setup = Setup(seeds=(3, 4))
    data = setup.labelled("train")
    weights = setup.trainer().weights
    result = evaluate(setup.network(), weights, data, LOSS, 16)
    assert result.t_out.shape == (2, N_TRAIN, 3)
    np.testing.assert_array_equal(result.accuracy, (decide(result.t_out) == data.labels).mean(axis=1))
    values, _ = LOSS(result.t_out, data.labels[None])
    np.testing.assert_allclose(result.loss, values.mean(axis=1), rtol=1e-14)
    assert result.silent_fraction.shape == (2, 2)
    np.testing.assert_allclose(
        result.silent_fraction[1], np.isinf(result.t_out).mean(axis=(1, 2)), rtol=1e-14
    )
    assert result.seconds > 0.0


def test_an_evaluation_changes_no_weight() -> None:
    setup = Setup()
    trainer = setup.trainer()
    evaluate(setup.network(), trainer.weights, setup.labelled("train"), LOSS, 16)
    for w, start in zip(trainer.weights, setup.trainer().weights, strict=True):
        np.testing.assert_array_equal(w, start)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_few_epochs_of_yin_yang_learn_far_more_than_chance(dtype: Any) -> None:
    setup = Setup(
        seeds=(0, 1),
        hidden=60,
        n_train=2000,
        batch_size=50,
        mean=(1.5, 0.5),
        learning_rate=0.005,
        dtype=dtype,
    )
    _, records = setup.trained(8)
    assert (records[-1].validation.accuracy > 0.75).all()
    assert (records[-1].train_accuracy > 0.75).all()
    assert (records[-1].train_loss < 0.7 * records[0].train_loss).all()


def test_a_training_step_needs_memory_for_batch_times_neurons_and_weights_not_for_their_product() -> None:
    sizes, n_batch = (300, 300, 10), 200
    network = Architecture.build(sizes, ((), ()), LIF(), load("cpu"))
    weights = network.initial_weights([0], [0.05, 0.05], [0.1, 0.1], np.float64)
    rng = np.random.default_rng(0)
    data = Labelled(network.receive(rng.uniform(0.1, 2.0, (1, n_batch, 300))), rng.integers(10, size=n_batch))
    few = Labelled(data.received.part(0, 1), data.labels[:1])
    trainer = Trainer(
        network, weights, LOSS, Descent(Adam(), weights), Schedule(0.005), Bumping(OFF, 0.001, 1),
        TrainingRule(n_batch, n_batch, max_weight_grad=0.2), (0,),
    )  # fmt: skip
    list(trainer.train(data, few, 1))  # compiles
    tracemalloc.start()
    try:
        list(trainer.train(data, few, 2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    pairs = sum(n_batch * (n_pre + n_post) for n_pre, n_post in itertools.pairwise(sizes))
    synapses = sum(n_pre * n_post for n_pre, n_post in itertools.pairwise(sizes))
    assert peak < 6 * 8 * (pairs + synapses), "six float64 arrays of each kind"


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"evaluation_batch_size": 0},
        {"max_weight_grad": 0.0},
        {"max_weight_grad": math.nan},
        {"input_noise": -0.1},
        {"input_noise": math.inf},
        {"input_noise": math.nan},
    ],
    ids=repr,
)
def test_a_rule_refuses_what_it_cannot_use_by_name(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ValueRangeError, match=f"^{name} must .*got") as caught:
        TrainingRule(**({"batch_size": 1, "evaluation_batch_size": 1} | change))
    assert "\n" not in str(caught.value)
