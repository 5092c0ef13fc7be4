"""How a training is made: its recipe in plain values, and the trainer with the fastest step for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.kernels import Kernels
from gpuspike.network.network import Architecture, Machine
from gpuspike.neuron import LIF
from gpuspike.training.augmentation import RandomShift
from gpuspike.training.bumping import Bumping
from gpuspike.training.compiled import CompiledStep, compiled_step
from gpuspike.training.device import DeviceStep
from gpuspike.training.losses import Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import SGD, Adam, Optimizer
from gpuspike.training.schedule import Schedule
from gpuspike.training.trainer import Trainer, TrainingRule

Array = NDArray[Any]

LOSSES = ("ttfs_cross_entropy", "time_mse")
OPTIMIZERS = ("adam", "sgd")

HIDDEN_SILENT, OUTPUT_SILENT = 0.3, 0.05
"""Silent fractions above which a hidden layer and the last one are bumped, unless given."""


@dataclass(frozen=True)
class Recipe:
    """A training in plain values; times in tau_syn.

    learning_rate, bump_value and max_weight_grad are in units of the weights. Where they are None, `suited`
    to a neuron makes them 0.005, 0.0005 and 0.2 in units of C (threshold - leak)/tau_fast.

    Attributes:
        epochs: of the training.
        batch_size: samples a step.
        evaluation_batch_size: samples a forward pass where nothing is trained; changes memory and speed only.
        learning_rate: of the first epoch;  schedule: "constant", "step" or "cosine", see `schedule.Schedule`;
            step_size, gamma: of "step".
        optimizer: one of OPTIMIZERS;  beta1, beta2, epsilon: of "adam";  momentum: of "sgd".
        loss: one of LOSSES;  xi, alpha, beta: of "ttfs_cross_entropy";  t_correct, t_wrong: of "time_mse".
        max_silent: for each layer the silent fraction above which it is bumped, see `bumping.Bumping`; None:
            HIDDEN_SILENT, and OUTPUT_SILENT for the last one.
        bump_value, bump_exponential, bump_targeted: how it is bumped.
        bump_replaces_step: a bumped batch makes no gradient step, as in the paper.
        max_weight_grad: limit of |dL/dw| for one (sample, neuron); inf for none.
        input_noise: standard deviation of the noise on input times.
        cuda_graph: a device replays its step as a graph; changes nothing but speed.
    """

    epochs: int = 100
    batch_size: int = 100
    evaluation_batch_size: int = 1000
    learning_rate: float | None = None
    schedule: str = "constant"
    step_size: int = 20
    gamma: float = 0.95
    optimizer: str = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.0
    loss: str = "ttfs_cross_entropy"
    xi: float = 0.05
    alpha: float = 0.005
    beta: float = 1.0
    t_correct: float = 0.5
    t_wrong: float = 1.5
    max_silent: Sequence[float] | None = None
    bump_value: float | None = None
    bump_exponential: bool = True
    bump_targeted: bool = True
    bump_replaces_step: bool = False
    max_weight_grad: float | None = None
    input_noise: float = 0.0
    cuda_graph: bool = True

    def suited(self, neuron: LIF) -> Recipe:
        """The same with numbers that suit a neuron of numbers where none are given."""
        unit = float(neuron.drive) / neuron.tau_fast
        # A loss has no unit, so that a gradient has the inverse of a weight's.
        rate = 0.005 * unit if self.optimizer == "adam" else 0.005 * unit**2
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            bump_value=0.0005 * unit if self.bump_value is None else self.bump_value,
            max_weight_grad=0.2 / unit if self.max_weight_grad is None else self.max_weight_grad,
        )

    def make_loss(self, kernels: Kernels, tau_syn: float) -> Loss:
        """The loss, computed by a backend.

        Raises:
            ConfigError: an unknown loss.
            ValueRangeError: a value that it cannot have.
        """
        if self.loss == "time_mse":
            return TimeMSE(tau_syn, self.t_correct, self.t_wrong, kernels=kernels)
        if self.loss == "ttfs_cross_entropy":
            return TTFSCrossEntropy(tau_syn, self.xi, self.alpha, self.beta, kernels=kernels)
        raise ConfigError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")

    def make_optimizer(self, weights: Sequence[Array], kernels: Kernels) -> Optimizer:
        """The optimiser of some weights.

        Raises:
            ConfigError: an unknown optimiser.
            ValueRangeError: a value that it cannot have.
        """
        if self.optimizer == "sgd":
            return SGD(weights, momentum=self.momentum)
        if self.optimizer == "adam":
            return Adam(weights, kernels, self.beta1, self.beta2, self.epsilon)
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")

    def make_bumping(self, n_layer: int, n_replica: int) -> Bumping:
        """What wakes silent neurons.

        Raises:
            ValueRangeError: a value that it cannot have, or limits for another number of layers.
        """
        limits = self.max_silent
        if limits is None:
            limits = [*[HIDDEN_SILENT] * (n_layer - 1), OUTPUT_SILENT]
        if len(limits) != n_layer:
            raise ValueRangeError(
                f"max_silent needs one entry for each of the {n_layer} layers after the inputs, "
                f"got {len(limits)}"
            )
        return Bumping(limits, _given(self.bump_value), n_replica, self.bump_exponential, self.bump_targeted)

    def make_rule(self, tau_syn: float, augment: RandomShift | None = None) -> TrainingRule:
        """How a step is made.

        Raises:
            ValueRangeError: a value that it cannot have.
        """
        return TrainingRule(
            batch_size=self.batch_size,
            evaluation_batch_size=self.evaluation_batch_size,
            max_weight_grad=_given(self.max_weight_grad),
            bump_replaces_step=self.bump_replaces_step,
            input_noise=self.input_noise * tau_syn,
            augment=augment,
        )

    def make_schedule(self) -> Schedule:
        """The learning rate by epoch.

        Raises:
            ValueRangeError: a value that it cannot have.
        """
        return Schedule(_given(self.learning_rate), self.schedule, self.step_size, self.gamma, self.epochs)


def _given(value: float | None) -> float:
    if value is None:
        raise ValueRangeError("a recipe without its numbers must be suited to a neuron first")
    return value


@dataclass(frozen=True)
class _Later(Schedule):
    """A schedule that begins with a later epoch."""

    first_epoch: int = 0

    def at(self, epoch: int) -> float:
        return super().at(epoch - self.first_epoch)


def make_trainer(
    architecture: Architecture,
    trained: Machine,
    examined: Machine,
    weights: list[Array],
    recipe: Recipe,
    loss: Loss,
    rule: TrainingRule,
    seeds: Sequence[int],
    *,
    on_device: bool,
    first_epoch: int = 0,
) -> Trainer:
    """A trainer with the fastest step that there is for its parts: `step_name` says which.

    Args:
        architecture: the network without a chip.
        trained: what the gradient is taken of;  examined: what is validated.
        weights: for each layer (n_replica, n_pre, n_post); trained in place.
        loss, rule: of the recipe, `make_loss` and `make_rule`.
        seeds: of the replicas.
        on_device: the backend is a device, whose steps stay there.
        first_epoch: with which the schedule of the learning rate begins.

    Raises:
        GpuspikeError: a value of the recipe that cannot be used.
    """
    schedule = _Later(**vars(recipe.make_schedule()), first_epoch=first_epoch)
    optimizer = recipe.make_optimizer(weights, architecture.kernels)
    bumping = recipe.make_bumping(len(weights), len(seeds))
    parts = (weights, loss, optimizer, bumping, rule, seeds)
    if on_device:
        step = DeviceStep(architecture, *parts, graph=recipe.cuda_graph)
    else:
        step = compiled_step(trained, examined, *parts)
    return Trainer(trained, weights, loss, optimizer, schedule, bumping, rule, seeds, examined, step)


def step_name(trainer: Trainer) -> str:
    """What makes a trainer's steps.

    Returns:
        "device" (kernels only, replayed as a graph), "compiled" (one job on the CPU) or "piecewise" (kernel
        by kernel, for what neither of them has).
    """
    if isinstance(trainer.step, DeviceStep):
        return "device"
    return "compiled" if isinstance(trainer.step, CompiledStep) else "piecewise"
