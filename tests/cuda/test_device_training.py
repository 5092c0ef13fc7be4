"""Training on the device against training on the CPU, step by step and as a graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import closed, device
from numpy.typing import NDArray

from gpuspike.augmentation import RandomShift
from gpuspike.bumping import Bumping
from gpuspike.device_step import DeviceStep
from gpuspike.errors import ConfigError, DataError
from gpuspike.kernels import cuda_step, load
from gpuspike.losses import Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.network import Network
from gpuspike.neuron import LIF
from gpuspike.optim import SGD, Adam, Optimizer, Schedule
from gpuspike.trainer import EpochRecord, Labelled, Trainer, TrainingRule

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("cupy")
FIGURES = ("train_loss", "train_accuracy", "bump_fraction", "silent_fraction")


@dataclass(frozen=True)
class Setup:
    """What the tests vary; the rest is a 9-12-3 network on images of 3 x 3 pixels in three classes."""

    backend: str = "cuda"
    graph: bool = True
    seeds: tuple[int, ...] = (3, 4)
    optimizer: str = "adam"
    loss: str = "cross entropy"
    dtype: Any = np.float64
    bias: tuple[tuple[float, ...], ...] = ((0.9,), (0.4, 0.9))
    max_silent: tuple[float, float] = (0.3, 0.1)
    bump_replaces_step: bool = True
    input_noise: float = 0.0
    shift: int = 0
    n_train: int = 70
    batch_size: int = 16

    def network(self) -> Network:
        return Network.build((9, 12, 3), self.bias, LIF(2.0, 1.0), load(self.backend))

    def labelled(self, seed: int, n_samples: int) -> Labelled:
        rng = np.random.default_rng(seed)
        labels = rng.integers(3, size=n_samples)
        t_in = rng.uniform(0.0, 2.0, (n_samples, 9))
        t_in[np.arange(n_samples), labels] *= 0.2
        t_in[rng.random(t_in.shape) < 0.1] = np.inf
        return Labelled(self.network().receive(t_in[None].astype(self.dtype), sort=False), labels)

    def trainer(self) -> Trainer:
        network, loss = self.network(), self.made_loss()
        weights = network.initial_weights(self.seeds, (0.6, 0.3), (0.8, 0.5), self.dtype)
        optimizer: Optimizer = (
            Adam(weights, network.kernels) if self.optimizer == "adam" else SGD(weights, 0.9)
        )
        shift = RandomShift(3, self.shift, 1.9) if self.shift else None
        rule = TrainingRule(self.batch_size, 33, 0.2, self.bump_replaces_step, self.input_noise, shift)
        bumping = Bumping(self.max_silent, 0.002, len(self.seeds))
        parts = network, weights, loss, optimizer
        step = None
        if self.backend == "cuda":
            step = DeviceStep(*parts, bumping, rule, self.seeds, graph=self.graph)
        schedule = Schedule(0.01, "step", step_size=2, gamma=0.5)
        return Trainer(*parts, schedule, bumping, rule, self.seeds, step=step)

    def made_loss(self) -> Loss:
        kernels = load(self.backend)
        if self.loss == "squares":
            return TimeMSE(kernel=kernels.time_mse)
        return TTFSCrossEntropy(kernel=kernels.cross_entropy)

    def trained(self, n_epochs: int = 3) -> tuple[Trainer, list[EpochRecord]]:
        trainer = self.trainer()
        records = trainer.train(self.labelled(0, self.n_train), self.labelled(1, 40), n_epochs)
        return trainer, list(records)


Run = tuple[Trainer, list[EpochRecord]]


def assert_close_runs(a: Run, b: Run, tolerance: float) -> None:
    """Weights, optimiser and records agree to rounding; what was decided on the way agrees exactly."""
    for name, array in a[0].state().items():
        np.testing.assert_allclose(array, b[0].state()[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for one, other in zip(a[1], b[1], strict=True):
        assert (one.epoch, one.learning_rate) == (other.epoch, other.learning_rate)
        for name in FIGURES:
            ours, theirs = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)
        for name in ("loss", "accuracy", "silent_fraction", "t_out"):
            ours, theirs = getattr(one.validation, name), getattr(other.validation, name)
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_runs(a: Run, b: Run, r_a: int = 0, r_b: int = 0) -> None:
    """Replica r_a of one is replica r_b of the other, bit for bit."""
    for name, array in a[0].state().items():
        np.testing.assert_array_equal(array[r_a], b[0].state()[name][r_b], err_msg=name)
    for one, other in zip(a[1], b[1], strict=True):
        for name in FIGURES:
            ours, theirs = getattr(one, name), getattr(other, name)
            np.testing.assert_array_equal(ours[..., r_a], theirs[..., r_b], err_msg=name)
        np.testing.assert_array_equal(one.validation.t_out[r_a], other.validation.t_out[r_b])


VARIANTS = {
    "adam": Setup(),
    "sgd, bump and step": Setup(optimizer="sgd", bump_replaces_step=False),
    "noise": Setup(input_noise=0.1),
    "shifts, no bias": Setup(shift=1, bias=((), ())),
    "shifts and noise, squares": Setup(shift=2, input_noise=0.2, loss="squares"),
    "one batch": Setup(batch_size=70),
}
each_variant = pytest.mark.parametrize("setup", VARIANTS.values(), ids=VARIANTS.keys())


@each_variant
def test_training_on_the_device_is_training_on_the_cpu(setup: Setup) -> None:
    ours, theirs = setup.trained(), replace(setup, backend="cpu").trained()
    # The noise is drawn in float32.
    assert_close_runs(ours, theirs, 1e-3 if setup.input_noise else 1e-8)
    bumped = np.array([record.bump_fraction for record in ours[1]])
    assert bumped.any()
    assert not bumped.all() or setup.batch_size == setup.n_train


def test_in_float32_it_is_the_same_to_rounding() -> None:
    setup = Setup(dtype=np.float32)
    assert_close_runs(setup.trained(1), replace(setup, backend="cpu").trained(1), 2e-4)


@each_variant
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_gives_the_bits_of_its_kernels_launched_one_by_one(setup: Setup, dtype: Any) -> None:
    setup = replace(setup, dtype=dtype)
    replayed = setup.trained()
    n_replayed = device.launches.count("graph")
    device.launches.clear()
    one_by_one = replace(setup, graph=False).trained()
    full = setup.n_train // setup.batch_size
    assert n_replayed == 3 * full - 1
    assert "graph" not in device.launches
    for r in range(2):
        assert_same_runs(replayed, one_by_one, r, r)


@each_variant
def test_a_replica_is_the_run_of_its_seed_alone(setup: Setup) -> None:
    together = setup.trained(2)
    for r, seed in enumerate(setup.seeds):
        assert_same_runs(together, replace(setup, seeds=(seed,)).trained(2), r, 0)


def test_nothing_crosses_to_the_host_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = DeviceStep.batch
    seen = []

    def closed_batch(step: DeviceStep, number: int) -> None:
        if step._warm:  # constants are sent by the first
            with closed():
                batch(step, number)
            seen.append(number)
        else:
            batch(step, number)

    monkeypatch.setattr(DeviceStep, "batch", closed_batch)
    for graph in (True, False):
        Setup(graph=graph, input_noise=0.1, shift=1).trained(2)
    assert seen == [1, 2, 3, 4, 0, 1, 2, 3, 4] * 2


def test_a_step_has_few_launches() -> None:
    Setup(graph=False, input_noise=0.1, n_train=16).trained(1)
    first = next(n for n, name in enumerate(device.launches) if "take" in name)
    step = device.launches[first : 1 + next(n for n, name in enumerate(device.launches) if "advance" in name)]
    assert len(step) == 25, step


def test_training_in_two_goes_and_on_two_backends(cupy: Any) -> None:
    setup = Setup(input_noise=0.1)
    whole = setup.trained(4)
    first, records = setup.trained(2)
    arrays = {name: array.copy() for name, array in first.state().items()}
    second = setup.trainer()
    second.restore(arrays, 2)
    records += second.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 4)
    for r in range(2):
        assert_same_runs((second, records), whole, r, r)
    host = replace(setup, backend="cpu").trainer()
    assert {name: (a.shape, a.dtype) for name, a in host.state().items()} == {
        name: (a.shape, a.dtype) for name, a in arrays.items()
    }
    host.restore(arrays, 2)
    records = records[:2] + list(host.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 4))
    assert_close_runs((host, records), whole, 1e-3)


def test_another_data_set_gets_another_graph() -> None:
    setup = Setup()
    trainer = setup.trainer()
    validation = setup.labelled(1, 40)
    host = replace(setup, backend="cpu").trainer()
    for n_epochs, (seed, n_train) in enumerate([(0, 70), (5, 48), (6, 48)], start=1):
        data = setup.labelled(seed, n_train)
        ours, theirs = ([*t.train(data, validation, n_epochs)] for t in (trainer, host))
        assert_close_runs((trainer, ours), (host, theirs), 1e-8)


def test_rows_that_the_library_sorts_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Setup().trained(1)
    monkeypatch.setattr(cuda_step, "MOST_SORTED", 9)
    device.launches.clear()
    assert_same_runs(Setup().trained(1), expected)
    assert "graph" not in device.launches


def test_labels_that_no_neuron_has_are_refused() -> None:
    setup = Setup()
    data = setup.labelled(0, 20)
    bad = Labelled(data.received, np.where(np.arange(20) == 7, 3, data.labels))
    with pytest.raises(DataError, match="labels must lie from 0 to 2, got 0 to 3"):
        next(iter(setup.trainer().train(bad, data, 1)))


def test_an_optimiser_without_kernels_is_refused() -> None:
    trainer = replace(Setup(), backend="cpu").trainer()
    parts: Any = Setup().network(), trainer.weights, Setup().made_loss(), object()
    with pytest.raises(ConfigError, match="must be Adam or SGD, got object"):
        DeviceStep(*parts, trainer.bumping, TrainingRule(1, 1), (3, 4))
