"""The training step on a CPU as one compiled job, where the machine, the loss and the optimiser have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.network.network import Architecture, Machine
from gpuspike.network.parameters import Parameters
from gpuspike.rng import LAYER_BLOCKS, Purpose
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites, drawn
from gpuspike.training.bumping import NO_LAYER, Bumping
from gpuspike.training.evaluation import Labelled
from gpuspike.training.losses import Loss
from gpuspike.training.optimizers import Descent, Optimizer
from gpuspike.training.step import HostStep, StepKind, TrainingRule
from gpuspike.training.waking import Waking

Array = NDArray[Any]


def why_by_pieces(
    machine: Machine,
    loss: Loss,
    optimizer: Optimizer,
    rule: TrainingRule,
    n_replica: int,
    trained: Sequence[str] = (),
    *,
    wakes: bool = False,
) -> str | None:
    """Why there is no compiled step for some parts, in words for their user; None where there is one.

    Nothing is compiled to find out.

    Args:
        trained: constants of the neurons that are learnt beside the weights.
        wakes: silent neurons are pulled to their thresholds.
    """
    if trained:
        return f"the compiled step trains weights alone, not {', '.join(trained)}"
    if any(layer.convolution is not None for layer in machine.layers):
        return "neurons that share weights are not in the compiled step"
    if not hasattr(machine.kernels, "training"):
        return "only backend=cpu has a compiled step"
    if not (isinstance(loss, Loss) and loss.row()):
        return f"the loss {type(loss).__name__} has no compiled row"
    if not optimizer.row():
        return f"the optimiser {type(optimizer).__name__} has no compiled row"
    if not all(layer.neuron.uniform for layer in machine.layers):
        return "neurons with constants of their own are not in the compiled step"
    if wakes and isinstance(machine, OnChip) and machine.exact is not None:
        return "silence=waking with the chip's own gradient is not in the compiled step"
    if not isinstance(machine, Architecture) and (reason := _why_not_on(machine, n_replica)):
        return reason
    if isinstance(rule.augment, WithOpposites):
        return "images that change together with their negatives are not in the compiled step"
    samples, threads = n_replica * rule.presented, thread_count()
    if samples < threads:  # which then share the neurons of a sample
        return f"a step has fewer samples, {samples}, than there are threads, {threads}"
    return None


def _why_not_on(machine: Machine, n_replica: int) -> str | None:
    """The same of a chip that answers."""
    if not isinstance(machine, OnChip):
        return f"a {type(machine).__name__} is not in the compiled step"
    if machine.fresh is not None:
        return "each step meets a new chip (substrate.new_chip=step)"
    chip = machine.chip
    if not isinstance(chip, EmulatedChip):
        return f"the chip is not emulated, but a {type(chip).__name__}"
    if len(chip.seeds) != n_replica:
        return f"{n_replica} replicas share {len(chip.seeds)} chip" + "s" * (len(chip.seeds) > 1)
    return chip.why_by_pieces()


def compiled_step(machine: Machine, *parts: Any) -> CompiledStep:
    """The step of a `PiecewiseStep` of these parts as one job, where `why_by_pieces` knows no reason."""
    return CompiledStep(machine, *parts) if isinstance(machine, Architecture) else ChipStep(machine, *parts)


class CompiledStep(HostStep):
    """What `PiecewiseStep` does, to the bit, with no return to Python within a batch; arguments as there.

    It holds the arrays of a batch, and copies of the weights in other layouts: whoever changes the weights
    in the middle of an epoch calls `push`.
    """

    kind = StepKind("compiled")

    def __init__(
        self,
        machine: Machine,
        examined: Machine,
        learnt: Parameters | Sequence[Array],
        loss: Loss,
        descent: Descent,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
    ) -> None:
        super().__init__(machine, examined, learnt, loss, descent, bumping, rule, seeds)
        kernels: Any = machine.kernels
        weights, n_layer = self._weights, len(self._weights)
        self._drawn: list[Array] = []
        self._sorted: tuple[Labelled, Array] | None = None
        self._at: Any = None  # the epoch
        dead = np.broadcast_to(np.asarray(machine.dead_fraction, np.float64), (n_layer, len(seeds)))
        optimizer, augment = descent.optimizer, rule.augment
        told_loss, told_optimizer = kernels.register_leaf(loss), kernels.register_leaf(optimizer)
        self._stack = kernels.training(
            weights,
            descent.of_weights,
            kernels.Rule(
                loss=told_loss,
                optimizer=told_optimizer,
                max_weight_grad=rule.limit,
                bumps=kernels.Bumps(
                    max_silent=np.broadcast_to(np.asarray(bumping.bumped_above, np.float64), n_layer).copy(),
                    dead=dead.copy(),
                    replaces_step=rule.bump_replaces_step,
                    value=float(bumping.value),
                    most=float(bumping.most),
                    exponential=bumping.exponential,
                    targeted=bumping.targeted,
                ),
                most_weight=np.array([self._most(number) for number in range(n_layer)]),
            ),
            kernels.Noise(
                n_jittered=machine.layers[0].n_in,
                std=rule.input_noise,
                seeds=np.array(seeds, np.uint64),
                first_block=int(Purpose.INPUT_NOISE) << 24,
            ),
            sort=not rule.keeps_inputs,
            shift=(augment.side, augment.most, augment.background)
            if isinstance(augment, RandomShift)
            else None,
            warp=(augment.basis, augment.times, *augment.scale())
            if isinstance(augment, RandomWarp)
            else None,
            wakes=(bumping.strength, bumping.max_silent, bumping.share)
            if isinstance(bumping, Waking)
            else None,
            **self._neurons(),
        )

    def _neurons(self) -> dict[str, Any]:
        """What the kernels are told of the neurons, and of a chip."""
        layers = self._network.layers
        return {
            "neurons": [layer.neuron for layer in layers],
            "bias_times": [layer.bias_times for layer in layers],
        }

    def _most(self, number: int) -> float:
        """The largest weight that a layer can have."""
        return np.inf

    def begin(
        self,
        train: Labelled,
        order: NDArray[np.int64],
        epoch: int,
        learning_rate: float,
        progress: float = 1.0,
    ) -> None:
        """See `Step.begin`."""
        super().begin(train, order, epoch, learning_rate, progress)
        self._stack.score(self._network.kernels.register_leaf(self._loss_now))  # type: ignore[attr-defined]
        n_batches = -(-order.shape[1] // self._rule.presented)
        known = self._known_order(train)
        self._at = self._stack.epoch(train.received.t_in[0], known, order, train.labels, epoch, n_batches)
        self._done = 0  # batches of the epoch
        self._drawn = []  # before as much is drawn again
        self._drawn = self._draw(n_batches)
        self.push()

    def _draw(self, n_batches: int) -> list[Array]:
        """Of all batches, how images are shifted or warped: drawn between steps it takes thrice as long."""
        rule = self._rule
        if not isinstance(rule.augment, RandomShift | RandomWarp):
            return []
        sizes = np.full(n_batches, rule.presented)
        sizes[-1] = self._order.shape[1] - (n_batches - 1) * rule.presented
        return drawn(rule.augment, self._seeds, self._epoch, 0, sizes)

    def _known_order(self, train: Labelled) -> NDArray[np.int64]:
        """(n_samples, n_pre) what sorts each sample's spikes, where no noise moves them; else none."""
        received = train.received
        if not self._rule.keeps_inputs:
            return np.empty((0, received.t_in.shape[2]), np.int64)
        if received.order is not None:
            return received.order[0]
        if self._sorted is None or self._sorted[0] is not train:
            self._sorted = train, self._network.kernels.spike_order(received.t_in)
        return self._sorted[1][0]

    def batch(self, number: int) -> None:
        """See `Step.batch`."""
        epoch, rule, bumping = self._at, self._rule, self._bumping
        first = number * rule.presented
        n_batch = min(rule.presented, self._order.shape[1] - first)
        drawn = self._drawn[number] if self._drawn else None
        rates = self._descent.rates(self._learning_rate)
        self._stack.step(epoch, number, first, n_batch, rates, drawn)
        self._done = number + 1
        bumping.layer[...], bumping.size[...] = epoch.told.chosen[self._done], epoch.told.sizes[self._done]
        self._descent.count(bumping.layer == NO_LAYER if rule.bump_replaces_step else True)

    def figures(self) -> Array:
        """See `Step.figures`."""
        told, n_presented, size = self._at.told, self._order.shape[1], self._rule.presented
        if not self._done:
            return np.zeros((3 + len(self._weights), len(self._seeds)))
        ends = np.minimum(size * np.arange(1, self._done + 1), n_presented)
        sizes = np.diff(ends, prepend=0)
        n_out = np.array([[[layer.n_out]] for layer in self._network.layers])
        loss, correct = _means(told.losses, ends, size), _means(told.correct, ends, size)
        silent = np.add.reduceat(told.silent[:, :, : ends[-1]], ends - sizes, axis=2) / (sizes * n_out)
        bumped = told.chosen[1 : self._done + 1].T != NO_LAYER
        rows = np.stack([loss, correct, bumped, *silent]) * (sizes / n_presented)
        return np.add.accumulate(rows, axis=2)[..., -1]  # one after the other, as `PiecewiseStep` adds them

    def push(self) -> None:
        """See `Step.push`."""
        self._stack.follow()
        if self._at is not None:
            told = self._at.told
            told.chosen[self._done], told.sizes[self._done] = (
                self._bumping.layer,
                self._bumping.size,
            )


class ChipStep(CompiledStep):
    """The same where an emulated chip answers: it is programmed through Python."""

    _network: OnChip

    @property
    def _chip(self) -> EmulatedChip:
        assert isinstance(self._network.chip, EmulatedChip)
        return self._network.chip

    def _neurons(self) -> dict[str, Any]:
        machine, chip, substrate = self._network, self._chip, self._chip.substrate
        kernels: Any = machine.kernels
        layers = range(len(machine.layers))
        thresholds = [chip.thresholds(number, self._weights[0].dtype) for number in layers]

        def address(purpose: Purpose, drawn: float) -> list[int]:
            return [(int(purpose) << 24) + number * LAYER_BLOCKS if drawn else -1 for number in layers]

        return {
            "neurons": machine.believed(self._weights)[1],
            "bias_times": chip.bias_times(),
            "answering": chip.neurons,
            "chip": kernels.Chip(
                seeds=np.array(chip.seeds, np.uint64),
                base=[base for base, _ in thresholds],
                factor=[factor for _, factor in thresholds],
                thresholds=address(Purpose.THRESHOLD_NOISE, substrate.threshold_noise),
                delays=address(Purpose.SPIKE_JITTER, substrate.spike_jitter),
                jitter=substrate.spike_jitter,
                grid=substrate.time_grid,
                end=substrate.clock.last,
                units=(),
                factors=None if machine.exact is None else chip.pull_factors(),
            ),
        }

    def _most(self, number: int) -> float:
        return self._chip.substrate.most(number)

    def batch(self, number: int) -> None:
        """See `Step.batch`."""
        self._stack.program(*self._network.programmed(self._weights))
        super().batch(number)


def _means(values: Array, ends: NDArray[np.int64], size: int) -> Array:
    """(n_replica, n_batches) means of each batch's samples; all of that size, but for a last smaller one."""
    whole = len(ends) if ends[-1] == size * len(ends) else len(ends) - 1
    means = values[:, : whole * size].reshape(len(values), whole, size).mean(axis=2)
    rest = values[:, whole * size : ends[-1]]
    return np.hstack([means, rest.mean(axis=1, keepdims=True)]) if rest.size else means
