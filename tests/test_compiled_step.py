"""The training step as one compiled job: bit for bit what the same step does piecewise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import FIGURES, Run, Setup, assert_same_runs, each_variant

from gpuspike.datasets.encoding import pixel_latency
from gpuspike.errors import DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.network.layers import Moment
from gpuspike.network.network import Architecture, Machine
from gpuspike.neuron import LIF
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.substrate.files import FileChip
from gpuspike.training.augmentation import RandomShift, RandomWarp
from gpuspike.training.bumping import Bumping
from gpuspike.training.compiled import ChipStep, CompiledStep, compiled_step, why_by_pieces
from gpuspike.training.evaluation import Labelled
from gpuspike.training.fit import Recipe, make_trainer, step_kind
from gpuspike.training.losses import Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import SGD, Adam, Descent, Optimizer
from gpuspike.training.schedule import Schedule
from gpuspike.training.step import StepKind, TrainingRule
from gpuspike.training.trainer import Trainer
from gpuspike.training.waking import Waking


@dataclass(frozen=True)
class Task:
    """A network of any shape, on a chip or none, that learns to tell which group of inputs is early."""

    sizes: tuple[int, ...] = (33, 40, 3)
    bias: tuple[tuple[float, ...], ...] | None = None
    neuron: LIF = field(default_factory=LIF)
    dtype: Any = np.float32
    seeds: tuple[int, ...] = (3, 4)
    batch_size: int = 16
    n_train: int = 70
    mean: float = 0.12
    max_silent: float = 0.3
    replaces: bool = True
    noise: float = 0.0
    shift: int = 0
    bent: float = 0.0
    limit: float = 0.2
    targeted: bool = True
    sort: bool = False
    substrate: Substrate | None = None
    gradient: str = "nominal"
    waking: float = 0.0
    trials: int = 1

    def machine(self) -> Machine:
        bias = self.bias or ((),) * (len(self.sizes) - 1)
        network = Architecture.build(self.sizes, bias, self.neuron, load("cpu"))
        if self.substrate is None:
            return network
        chip = EmulatedChip(self.substrate, network.layers, network.kernels, self.seeds)
        return OnChip(network, chip, self.gradient)

    def labelled(self) -> Labelled:
        rng = np.random.default_rng(0)
        n_in, n_class = self.sizes[0], self.sizes[-1]
        labels = rng.integers(n_class, size=self.n_train)
        t_in = rng.uniform(0.0, 2.0, (self.n_train, n_in))
        t_in[np.arange(n_in) % n_class == labels[:, None]] *= 0.3
        t_in[rng.random(t_in.shape) < 0.1] = np.inf
        machine: Any = self.machine()
        return Labelled(machine.receive(t_in[None].astype(self.dtype), sort=self.sort), labels)

    def trainer(self, *, compiled: bool) -> Trainer:
        machine: Any = self.machine()
        network = machine.network if isinstance(machine, OnChip) else machine
        means = [self.mean, *(3.0 / n for n in self.sizes[1:-1])]
        stds = [0.5 / np.sqrt(n) for n in self.sizes[:-1]]
        weights = network.initial_weights(self.seeds, means, stds, self.dtype)
        loss, descent = (
            TTFSCrossEntropy(kernels=network.kernels),
            Descent(Adam(), weights, network.kernels),
        )
        bumps = (self.max_silent,) * (len(self.sizes) - 1), 0.002, len(self.seeds), True, self.targeted
        bumping = Bumping(*bumps)
        if self.waking:
            bumping = Waking(*bumps, self.waking)
            chip = machine.chip if isinstance(machine, OnChip) else None
            end = chip.substrate.clock.last if isinstance(chip, EmulatedChip) else np.inf
            bumping.watch(machine.layers, end)
        side, augment = int(np.sqrt(self.sizes[0])), None
        if self.bent:
            times = pixel_latency(255.0, 0.0, 2.0, silent_black=False)
            augment = RandomWarp(side, times, self.shift, 30.0, 0.2, 0.1, self.bent, True)
        elif self.shift:
            augment = RandomShift(side, self.shift, 1.9)
        rule = TrainingRule(self.batch_size, 33, self.limit, self.replaces, self.noise, augment, self.trials)
        parts = (machine, machine, weights, loss, descent, bumping, rule, self.seeds)
        step = None
        if compiled:
            assert why_by_pieces(machine, loss, Adam(), rule, len(self.seeds)) is None
            step = compiled_step(*parts)
        schedule = Schedule(0.01, "step", step_size=2, gamma=0.5)
        return Trainer(machine, weights, loss, descent, schedule, bumping, rule, self.seeds, step=step)

    def trained(self, *, compiled: bool, n_epochs: int = 3) -> Run:
        trainer, data = self.trainer(compiled=compiled), self.labelled()
        return trainer, list(trainer.train(data, data, n_epochs))


def assert_same(task: Task) -> Run:
    """Compiled or not, the same bits; the compiled run."""
    a, b = task.trained(compiled=True), task.trained(compiled=False)
    for r in range(len(task.seeds)):
        assert_same_runs(a, b, r, r)
    assert not np.isnan(a[1][-1].train_loss).any()
    return a


IDEAL = {
    "as it comes": Task(),
    "double, tau_mem = 2 tau_syn": Task(neuron=LIF(2.0, 1.0), dtype=np.float64),
    "any ratio": Task(neuron=LIF(1.5, 1.0), n_train=20),
    "non-leaky": Task(neuron=LIF(float("inf"), 1.0), n_train=20),
    "other units": Task(neuron=LIF(1.0, 1.0, threshold=0.7, leak=-0.2, capacitance=0.5)),
    "biases": Task(bias=((0.3, 0.9), (0.4,))),
    "deep": Task(sizes=(31, 129, 33, 20, 4), bias=((), (0.5,), (), (0.1, 0.2))),
    "wide tail": Task(sizes=(65, 113, 17), seeds=(7,)),
    "one input, one neuron": Task(sizes=(1, 1, 1), mean=2.0),
    "noise": Task(noise=0.2),
    "order known": Task(sort=True),
    "order not known, times kept": Task(sort=False, n_train=33),
    "shifts": Task(sizes=(36, 20, 3), shift=2, noise=0.1),
    "warps": Task(sizes=(36, 20, 3), shift=1, bent=0.5, noise=0.1),
    "warps, double, more inputs than pixels": Task(sizes=(26, 20, 3), bent=1.0, dtype=np.float64, seeds=(3,)),
    "bumped": Task(mean=0.02, max_silent=0.05),
    "bumped, with a step": Task(mean=0.02, max_silent=0.05, replaces=False),
    "bumped, all neurons": Task(mean=0.02, max_silent=0.05, targeted=False),
    "one batch": Task(batch_size=70),
    "a rest of one sample": Task(batch_size=23),
    "no limit": Task(limit=float("inf")),
    "trials": Task(noise=0.2, trials=3),
    "trials, a rest, order known": Task(sort=True, trials=2, batch_size=23),
    "trials, warps": Task(sizes=(36, 20, 3), shift=1, bent=0.5, noise=0.1, trials=2),
    "waking": Task(mean=0.02, max_silent=0.5, waking=3.0),
    "waking, deep": Task(
        sizes=(31, 129, 33, 4), mean=0.03, max_silent=0.2, waking=3.0, bias=((), (0.5,), ())
    ),
    "waking, any ratio, in float64": Task(
        neuron=LIF(1.5, 0.8, 0.7, -0.2, 0.5), mean=0.01, max_silent=0.5, waking=30.0, dtype=np.float64
    ),
    "waking, a long window": Task(neuron=LIF(0.1, 0.1), mean=0.3, max_silent=0.0, waking=1.0),
    "a long window": Task(neuron=LIF(0.1, 0.1), mean=0.6),
}


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, id=name, marks=[pytest.mark.slow] if name.startswith("warps, ") else [])
        for name, task in IDEAL.items()
    ],
)
def test_one_job_gives_the_bits_of_many(task: Task) -> None:
    trainer, records = assert_same(task)
    assert isinstance(trainer.step, CompiledStep)
    if isinstance(trainer.bumping, Waking):
        assert max(share.max() for share in trainer.bumping.share) > task.max_silent
    elif task.max_silent < 0.1:
        assert sum(record.bump_fraction.sum() for record in records) > 0.0


CHIP = Substrate(
    weight_max=(0.8,), weight_bits=5, threshold_shift=0.05, threshold_std=0.1, threshold_noise=0.05,
    spike_jitter=0.02, trial_end=3.0,
)  # fmt: skip
DAMAGED = replace(CHIP, gain_std=0.1, dead_synapses=0.05, stuck_synapses=0.05, dead_neurons=0.2)
CHIPS = {
    "nominal": Task(substrate=CHIP),
    "nominal, noise and biases": Task(substrate=CHIP, noise=0.1, bias=((0.3,), (0.4, 3.5)), dtype=np.float64),
    "nominal, damaged": Task(substrate=DAMAGED, max_silent=0.05),
    "nominal, deep": Task(substrate=DAMAGED, sizes=(31, 70, 20, 3)),
    "exact": Task(substrate=CHIP, gradient="exact"),
    "exact, damaged": Task(substrate=DAMAGED, gradient="exact", dtype=np.float64),
    "exact, same neurons": Task(substrate=Substrate(weight_bits=6, weight_max=(0.8,)), gradient="exact"),
    "exact, always on": Task(substrate=replace(CHIP, threshold_std=0.6), gradient="exact"),
    "nominal, waking": Task(substrate=DAMAGED, max_silent=0.5, waking=3.0),
    "waking, an early end": Task(substrate=replace(CHIP, trial_end=1.2), max_silent=0.1, waking=3.0),
    "trials": Task(substrate=CHIP, trials=3),
    "exact, trials": Task(substrate=DAMAGED, gradient="exact", trials=2),
    "weights only": Task(substrate=Substrate(weight_lsb=0.05), sort=True),
    "an early end": Task(substrate=replace(CHIP, trial_end=1.2), sort=True),
    "other units": Task(substrate=CHIP, neuron=LIF(2.0, 1.0, 0.7, -0.2, 0.5), gradient="exact"),
}


@pytest.mark.parametrize("task", CHIPS.values(), ids=CHIPS.keys())
def test_a_chip_answers_in_the_same_job_with_the_same_bits(task: Task) -> None:
    trainer, _ = assert_same(task)
    assert isinstance(trainer.step, ChipStep)


@each_variant
def test_it_takes_the_place_of_the_step_that_it_knows(setup: Setup) -> None:
    there = replace(setup, backend="cpu")
    trainer = there.trainer()
    parts = (trainer.network, trainer.network, trainer.weights, there.made_loss(), trainer.descent)
    trainer.step = compiled_step(*parts, trainer.bumping, trainer._rule, there.seeds)
    records = trainer.train(there.labelled(0, there.n_train), there.labelled(1, 40), 3)
    assert_same_runs((trainer, list(records)), there.trained())


@pytest.mark.parametrize("compiled", [True, False])
def test_trials_that_do_not_differ_are_one(compiled: bool) -> None:
    task = Task(dtype=np.float64, limit=float("inf"))
    (one, told), (many, told_again) = (
        each.trained(compiled=compiled) for each in (task, replace(task, trials=4))
    )
    for w, again in zip(one.weights, many.weights, strict=True):
        np.testing.assert_allclose(again, w, rtol=1e-9, atol=1e-9)
    for record, again in zip(told, told_again, strict=True):
        np.testing.assert_allclose(again.train_loss, record.train_loss, rtol=1e-9)
        np.testing.assert_allclose(again.train_accuracy, record.train_accuracy, rtol=1e-12)
        np.testing.assert_allclose(again.silent_fraction, record.silent_fraction, rtol=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
def test_trials_on_a_chip_differ(compiled: bool) -> None:
    task = Task(substrate=Substrate(spike_jitter=0.1))
    one, many = (each.trained(compiled=compiled)[0] for each in (task, replace(task, trials=4)))
    assert not np.allclose(one.weights[0], many.weights[0], rtol=1e-3)


def test_a_replica_is_the_run_of_its_seed_alone() -> None:
    for task in (Task(noise=0.1), Task(substrate=CHIP)):
        both = task.trained(compiled=True)
        for r, seed in enumerate(task.seeds):
            assert_same_runs(both, replace(task, seeds=(seed,)).trained(compiled=True), r, 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(sizes=(129, 65, 3), noise=0.1)
    usual = task.trained(compiled=True)
    monkeypatch.setenv("NUMBA_NUM_THREADS", str(threads))
    assert_same_runs(task.trained(compiled=True), usual)


def test_a_stopped_run_goes_on_as_if_it_had_not_been() -> None:
    task = Task(mean=0.02, max_silent=0.05, noise=0.1)
    data = task.labelled()
    whole, records = task.trained(compiled=True, n_epochs=4)
    first, second = task.trainer(compiled=True), task.trainer(compiled=True)
    begun = list(first.train(data, data, 2))
    kept = {name: array.copy() for name, array in first.state().items()}
    list(second.train(data, data, 1))  # has been somewhere else
    second.restore(kept, 2)
    assert_same_runs((second, begun + list(second.train(data, data, 4))), (whole, records))


def test_figures_are_those_of_the_epoch_so_far() -> None:
    task, n_batches = Task(max_silent=0.05, mean=0.05), 5
    told: dict[bool, list[Any]] = {}
    for compiled in (True, False):
        trainer, data = task.trainer(compiled=compiled), task.labelled()
        step = trainer.step
        step.begin(data, np.stack([np.arange(70)] * 2), 0, 0.01)
        told[compiled] = [step.figures().copy()]
        for number in range(n_batches):
            step.batch(number)
            told[compiled].append(step.figures().copy())
        np.testing.assert_array_equal(told[compiled][0], 0.0)
    np.testing.assert_array_equal(told[True], told[False])
    assert len(FIGURES) + 1 == told[True][0].shape[0]


@pytest.mark.parametrize("compiled", [True, False])
def test_an_accuracy_is_a_count_of_samples(compiled: bool) -> None:
    task = Task(n_train=71, batch_size=13, trials=3)
    trainer, data = task.trainer(compiled=compiled), task.labelled()
    for record in trainer.train(data, None, 4):
        summed, n = trainer.step.figures()[1], 71 * 3
        np.testing.assert_array_equal(record.train_accuracy, np.rint(summed * n) / n)
        np.testing.assert_allclose(record.train_accuracy, summed, rtol=1e-12)


def test_a_label_that_no_neuron_has_is_refused_before_the_epoch() -> None:
    task = Task()
    data = task.labelled()
    wrong = Labelled(data.received, data.labels + 1)
    with pytest.raises(ValueRangeError, match="labels must lie from 0 to 2, got 1 to 3"):
        next(iter(task.trainer(compiled=True).train(wrong, data, 1)))


@pytest.mark.parametrize(
    ("n_in", "dtype", "error", "message"),
    [
        (20, np.float32, ShapeError, r"t_in must be \(70, 33\), got shape \(70, 20\)"),
        (33, np.float64, DtypeError, "t_in must be float32 like the weights, got float64"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_the_epoch(
    n_in: int, dtype: Any, error: type[Exception], message: str
) -> None:
    task = Task()
    wrong = replace(task, sizes=(n_in, 40, 3), dtype=dtype).labelled()
    with pytest.raises(error, match=message):
        next(iter(task.trainer(compiled=True).train(wrong, wrong, 1)))


def test_weights_that_are_changed_between_batches_are_taken_over() -> None:
    task, states = Task(mean=0.02, max_silent=0.05), []
    for compiled in (True, False):
        trainer, data = task.trainer(compiled=compiled), task.labelled()
        step = trainer.step
        step.begin(data, np.stack([np.arange(70)] * 2), 0, 0.01)
        for number in range(3):
            step.batch(number)
            trainer.weights[0] *= 1.1
            step.push()
        step.pull()
        states.append((*trainer.state().values(), step.figures()))
    for ours, theirs in zip(*states, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def reason(
    task: Task,
    *,
    loss: Loss | None = None,
    optimizer: type[Optimizer] = Adam,
    machine: Machine | None = None,
) -> str | None:
    """Why these parts have no compiled step; None where they have one."""
    trainer = task.trainer(compiled=False)
    parts = (machine or trainer.network, loss or TTFSCrossEntropy(), optimizer(), trainer._rule)
    return why_by_pieces(*parts, len(task.seeds))


class SignSGD(SGD):
    """An optimiser without a compiled row."""

    @staticmethod
    def compiled() -> None:
        """There is none."""


class Earliest(TimeMSE):
    """A loss without a compiled row."""

    @staticmethod
    def compiled() -> None:
        """There is none."""


def test_what_it_does_not_know_is_left_to_the_step_by_pieces_with_the_reason() -> None:
    task = Task()
    assert reason(task) is None
    assert reason(task, optimizer=SGD, loss=TimeMSE()) is None
    assert reason(task, optimizer=SignSGD) == "the optimiser SignSGD has no compiled row"
    assert reason(task, loss=Earliest()) == "the loss Earliest has no compiled row"
    uneven = replace(task, neuron=LIF(1.0, 1.0, np.full((2, 40), 1.1)), sizes=(33, 40))
    assert reason(uneven) == "neurons with constants of their own are not in the compiled step"
    reference = Architecture.build(task.sizes, ((), ()), task.neuron, load("reference"))
    assert reason(task, machine=reference) == "only backend=cpu has a compiled step"


@pytest.mark.parametrize("key", ["input_jitter", "lost_inputs", "lost_spikes", "time_grid"])
def test_chips_that_do_more_are_left_to_the_step_by_pieces(key: str) -> None:
    task = Task(substrate=replace(CHIP, **{key: 0.1}))
    assert reason(task) == f"substrate.{key} is not in the compiled step"


def test_neurons_with_time_constants_of_their_own_are_left_to_the_step_by_pieces() -> None:
    told = "neurons with time constants of their own are not in the compiled step"
    assert reason(Task(substrate=replace(CHIP, tau_mem_std=0.05))) == told


def test_one_chip_for_more_replicas_is_left_to_the_step_by_pieces() -> None:
    task = Task(substrate=CHIP)
    assert reason(task, machine=replace(task, seeds=(3,)).machine()) == "2 replicas share 1 chip"


def test_chips_that_change_are_left_to_the_step_by_pieces() -> None:
    task = Task(substrate=CHIP)
    machine: Any = task.machine()

    def another(moment: Moment) -> EmulatedChip:
        return machine.chip

    machine.fresh = another
    assert reason(task, machine=machine) == "each step meets a new chip (substrate.new_chip=step)"


def test_a_machine_of_another_kind_is_left_to_the_step_by_pieces() -> None:
    class Stranger:
        """Something that answers in a network's place."""

        layers, kernels = Task().machine().layers, load("cpu")

    machine: Any = Stranger()
    assert reason(Task(), machine=machine) == "a Stranger is not in the compiled step"


def test_hardware_is_left_to_the_step_by_pieces(tmp_path: Path) -> None:
    task = Task(substrate=CHIP, seeds=(3,))
    machine: Any = task.machine()
    machine.chip = FileChip(tmp_path, machine.layers, CHIP)
    assert reason(task, machine=machine) == "the chip is not emulated, but a FileChip"


def test_fewer_samples_than_threads_are_left_to_the_step_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(batch_size=2, seeds=(3,))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert reason(task) == "a step has fewer samples, 2, than there are threads, 3"
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    assert reason(task) is None


def test_a_trainer_has_the_fastest_step_that_there_is_for_its_parts() -> None:
    kinds = []
    for task in (Task(), Task(substrate=CHIP), Task(substrate=replace(CHIP, time_grid=0.1))):
        machine, recipe = task.machine(), Recipe(batch_size=16).suited(task.neuron)
        network = machine.network if isinstance(machine, OnChip) else machine
        weights = network.initial_weights(task.seeds, [0.1, 0.1], [0.1, 0.1], task.dtype)
        loss, rule = recipe.make_loss(network.kernels, 1.0), recipe.make_rule(1.0)
        parts = (network, machine, machine, weights, recipe, loss, rule, task.seeds)
        kinds.append(make_trainer(*parts, on_device=False).step.kind)
        known = step_kind(machine, loss, Adam(), rule, len(task.seeds), on_device=False)
        assert known == kinds[-1]
    told = "substrate.time_grid is not in the compiled step"
    assert kinds == [("compiled", None), ("compiled", None), ("piecewise", told)]
    assert [str(kind) for kind in kinds] == ["compiled", "compiled", f"piecewise, since {told}"]
    assert step_kind(machine, loss, Adam(), rule, 2, on_device=True) == StepKind("device")


def test_a_step_that_somebody_chose_says_so() -> None:
    kind = Task().trainer(compiled=False).step.kind
    assert str(kind) == "piecewise, since no other step was asked for"
