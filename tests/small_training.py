"""A small training on any backend, and what two of them must share; for tests with a device and without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.kernels import load
from gpuspike.network.delays import DelayRule, learnt
from gpuspike.network.network import Architecture
from gpuspike.network.parameters import Parameters
from gpuspike.network.plan import Maps
from gpuspike.neuron import LIF
from gpuspike.training.augmentation import RandomShift, RandomWarp
from gpuspike.training.bumping import Bumping
from gpuspike.training.device import DeviceStep
from gpuspike.training.evaluation import Labelled
from gpuspike.training.losses import Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import SGD, Adam, Descent, Optimizer
from gpuspike.training.schedule import Schedule
from gpuspike.training.step import TrainingRule
from gpuspike.training.trainer import EpochRecord, Trainer
from gpuspike.training.waking import Waking

Array = NDArray[Any]

FIGURES = ("train_loss", "train_accuracy", "bump_fraction", "silent_fraction")


@dataclass(frozen=True)
class Setup:
    """What the tests vary; the rest is a 9-12-3 network on images of 3 x 3 pixels in three classes."""

    backend: str = "cuda"
    graph: bool = True
    seeds: tuple[int, ...] = (3, 4)
    optimizer: Optimizer = Adam()  # noqa: RUF009
    loss: Loss = TTFSCrossEntropy()  # noqa: RUF009
    dtype: Any = np.float64
    bias: tuple[tuple[float, ...], ...] = ((0.9,), (0.4, 0.9))
    max_silent: tuple[float, float] = (0.3, 0.1)
    bump_replaces_step: bool = True
    input_noise: float = 0.0
    shift: int = 0
    warp: tuple[tuple[str, Any], ...] = ()
    n_train: int = 70
    batch_size: int = 16
    hidden: int | Maps = 12
    waking: float = 0.0
    delays: str = "none"
    delay_form: str = "sigmoid"
    constants: tuple[str, ...] = ()
    neuron: LIF = LIF(2.0, 1.0)  # noqa: RUF009
    frozen: bool = False
    unit: float = 1.0

    def network(self) -> Architecture:
        image = None if isinstance(self.hidden, int) else (3, 3, 1)
        built = Architecture.build((9, self.hidden, 3), self.bias, self.neuron, load(self.backend), image)
        return replace(built, delay_rule=DelayRule(form=self.delay_form))

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
        learnt_too = learnt(self.constants, self.delays)
        parameters = Parameters.of_weights(weights)
        parameters = parameters.training(learnt_too, network.layers, self.seeds, network.delay_rule)
        descent = Descent(self.optimizer, parameters, network.kernels, self.unit, frozen=self.frozen)
        shift = RandomShift(3, self.shift, 1.9) if self.shift else None
        if self.warp:
            shift = RandomWarp(3, np.linspace(2.0, 0.1, 256), max_shift=self.shift, **dict(self.warp))
        rule = TrainingRule(self.batch_size, 33, 0.2, self.bump_replaces_step, self.input_noise, shift)
        bumping = Bumping(self.max_silent, 0.002, len(self.seeds))
        if self.waking:
            bumping = Waking(self.max_silent, 0.002, len(self.seeds), strength=self.waking)
            bumping.watch(network.layers)
        parts = network, parameters, loss, descent
        step = None
        if self.backend == "cuda":
            step = DeviceStep(*parts, bumping, rule, self.seeds, graph=self.graph)
        schedule = Schedule(0.01, "step", step_size=2, gamma=0.5)
        return Trainer(*parts, schedule, bumping, rule, self.seeds, step=step)

    def made_loss(self) -> Loss:
        return replace(self.loss, kernels=load(self.backend))

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
    "sgd, bump and step": Setup(optimizer=SGD(0.9), bump_replaces_step=False),
    "noise": Setup(input_noise=0.1),
    "shifts, no bias": Setup(shift=1, bias=((), ())),
    "shifts and noise, squares": Setup(shift=2, input_noise=0.2, loss=TimeMSE()),
    "warps": Setup(shift=1, warp=(("max_turn", 20.0), ("elastic", 0.3), ("mirror", True))),
    "one batch": Setup(batch_size=70),
}
each_variant = pytest.mark.parametrize("setup", VARIANTS.values(), ids=VARIANTS.keys())

# What a CPU does piecewise, and without bumps.
MAPS = Setup(hidden=Maps(4, 2, padding=1, pad_time=2.0, pool=2), bias=((0.9,), (0.4,)), shift=1)
WAKING = Setup(waking=4.0, max_silent=(0.2, 0.1), bump_replaces_step=False)
DELAYED = Setup(delays="axonal+dendritic+synaptic", bump_replaces_step=False)
CONSTANTS = Setup(constants=("threshold", "tau_mem", "tau_syn"), bump_replaces_step=False)
each_bumped_on_a_device = pytest.mark.parametrize(
    "setup", [*VARIANTS.values(), MAPS], ids=[*VARIANTS, "maps"]
)
each_on_a_device = pytest.mark.parametrize(
    "setup",
    [*VARIANTS.values(), MAPS, WAKING, DELAYED, CONSTANTS],
    ids=[*VARIANTS, "maps", "waking", "delays", "constants"],
)
