"""Training: one record an epoch, on all replicas at once. Knows no logger, file or screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.augmentation import RandomShift
from gpuspike.bumping import NO_LAYER, Bumping
from gpuspike.errors import DataError, ValueRangeError
from gpuspike.kernels import LayerState
from gpuspike.layers import LayerInput, Moment
from gpuspike.losses import Loss, decide
from gpuspike.network import Machine
from gpuspike.optim import Optimizer, Schedule
from gpuspike.rng import Purpose, stream

Array = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """A split as the network sees it.

    Attributes:
        received: first layer's input, shared by the replicas: (1, n_samples, n_pre).
        labels: (n_samples,).
    """

    received: LayerInput
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Evaluation:
    """Result of one pass over a split.

    Attributes:
        loss, accuracy: (n_replica,).
        silent_fraction: (n_layer, n_replica) share of (sample, neuron) pairs without a spike.
        t_out: (n_replica, n_samples, n_classes) output spike times.
        seconds: wall time of the pass.
    """

    loss: Array
    accuracy: Array
    silent_fraction: Array
    t_out: Array
    seconds: float


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: training figures are means over its batches, taken before each step.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy, bump_fraction: (n_replica,).
        silent_fraction: (n_layer, n_replica), of the training batches.
        validation: evaluation after the epoch.
        train_seconds: time spent in training steps.
        train_samples_per_s: over all replicas.
    """

    epoch: int
    learning_rate: float
    train_loss: Array
    train_accuracy: Array
    bump_fraction: Array
    silent_fraction: Array
    validation: Evaluation
    train_seconds: float
    train_samples_per_s: float


@dataclass(frozen=True)
class TrainingRule:
    """How a step is made.

    Attributes:
        batch_size: samples a step; the last batch of an epoch may be smaller.
        evaluation_batch_size: samples a forward pass when evaluating.
        max_weight_grad: limit of |dL/dw| for one (sample, neuron); inf for none.
        bump_replaces_step: skip the gradient step of a batch that was bumped, as in the paper.
        input_noise: standard deviation of the noise on input times; times before 0 are reflected there.
        augment: changes the samples of a batch before the noise comes, if given.
    """

    batch_size: int
    evaluation_batch_size: int
    max_weight_grad: float = float("inf")
    bump_replaces_step: bool = True
    input_noise: float = 0.0
    augment: RandomShift | None = None

    @property
    def keeps_inputs(self) -> bool:
        """Whether training sees the same input times every epoch."""
        return self.augment is None and self.input_noise == 0.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluation_batch_size"):
            if getattr(self, name) < 1:
                raise ValueRangeError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.max_weight_grad > 0.0:
            raise ValueRangeError(f"max_weight_grad must be positive, got {self.max_weight_grad!r}")
        if not 0.0 <= self.input_noise < float("inf"):
            raise ValueRangeError(f"input_noise must be 0 or more, got {self.input_noise!r}")


def silent_fraction(activities: Sequence[LayerState]) -> Array:
    """(n_layer, n_replica) share of (sample, neuron) pairs without a spike."""
    # Counted replica by replica: a sum over a mask would first turn it into numbers.
    silent = [np.isinf(activity.t_out) for activity in activities]
    return np.array([[np.count_nonzero(part) / part.size for part in mask] for mask in silent])


def evaluate(
    network: Machine,
    weights: Sequence[Array],
    data: Labelled,
    loss: Loss,
    batch_size: int,
    on_batch: Callable[[int, int, Sequence[LayerState]], None] | None = None,
) -> Evaluation:
    """Loss, accuracy and activity on a whole split, in batches.

    Args:
        on_batch: called after each batch with its first sample, the one after its last, the layers' states.
    """
    start = time.perf_counter()
    losses, outputs = [], []
    silent = np.zeros((len(network.layers), len(weights[0])))
    for first in range(0, len(data), batch_size):
        last = min(first + batch_size, len(data))
        activities = network.forward(weights, data.received.part(first, last), Moment(first=first))
        outputs.append(activities[-1].t_out)
        losses.append(loss(outputs[-1], data.labels[None, first:last])[0])
        silent += silent_fraction(activities) * (last - first)
        if on_batch is not None:
            on_batch(first, last, activities)
    t_out = np.concatenate(outputs, axis=1)
    correct = decide(t_out) == data.labels
    return Evaluation(
        loss=np.concatenate(losses, axis=1).mean(axis=1),
        accuracy=correct.mean(axis=1),
        silent_fraction=silent / len(data),
        t_out=t_out,
        seconds=time.perf_counter() - start,
    )


class Trainer:
    """Trains all replicas of a network side by side; replica r is the run of seed `seeds[r]` alone.

    Attributes:
        weights: for each layer (n_replica, n_pre, n_out); changed in place by training.
        epoch: epochs done.
        network: what is trained;  examined: what is validated, the same unless given.
    """

    def __init__(
        self,
        network: Machine,
        weights: list[Array],
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
        examined: Machine | None = None,
    ) -> None:
        self.network = network
        self.examined = examined or network
        self.weights = weights
        self.optimizer = optimizer
        self.bumping = bumping
        self.epoch = 0
        self._loss = loss
        self._schedule = schedule
        self._rule = rule
        self._seeds = tuple(seeds)

    def state(self) -> dict[str, Array]:
        """All arrays that a resumed run would need, by name; not copied."""
        arrays = {f"weights_{i}": w for i, w in enumerate(self.weights)}
        arrays |= {f"optimizer_{name}": a for name, a in self.optimizer.state().items()}
        return arrays | {"bump_layer": self.bumping.layer, "bump_size": self.bumping.size}

    def restore(self, arrays: Mapping[str, Array], epoch: int) -> None:
        """Takes over the state of a run that was stopped after an epoch.

        Everything random is drawn by its address in the run, so that nothing else has to be restored.

        Args:
            arrays: by name, as `state` gives them; others are ignored.

        Raises:
            DataError: an array is missing, or is not of this network's shape and dtype.
        """
        own = self.state()
        for name, array in own.items():
            found = arrays.get(name)
            if found is None or (found.shape, found.dtype) != (array.shape, array.dtype):
                got = "none" if found is None else f"{found.dtype} {found.shape}"
                raise DataError(f"the checkpoint must hold {name} as {array.dtype} {array.shape}, got {got}")
        for name, array in own.items():
            array[...] = arrays[name]
        self.epoch = epoch

    def train(
        self,
        train: Labelled,
        validation: Labelled,
        n_epochs: int,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Iterator[EpochRecord]:
        """Trains until `n_epochs` epochs are done and yields a record after each.

        Args:
            on_batch: called after each batch with (batches done, batches in the epoch).
        """
        rule = self._rule
        n_batches = -(-len(train) // rule.batch_size)
        while self.epoch < n_epochs:
            start = time.perf_counter()
            learning_rate = self._schedule.at(self.epoch)
            order = np.stack(
                [stream(s, Purpose.SHUFFLE, self.epoch).permutation(len(train)) for s in self._seeds]
            )
            totals = np.zeros((3 + len(self.weights), len(self._seeds)))
            for batch in range(n_batches):
                samples = order[:, batch * rule.batch_size : (batch + 1) * rule.batch_size]
                received = train.received.take(samples, with_order=rule.keeps_inputs)
                if rule.augment is not None:
                    rule.augment(received.t_in, self._seeds, self.epoch, batch)
                if rule.input_noise:
                    # The bias spikes, which the chip makes itself, stay where they are.
                    self.network.kernels.jitter(
                        received.t_in,
                        self.network.layers[0].n_in,
                        rule.input_noise,
                        self._seeds,
                        Purpose.INPUT_NOISE,
                        self.epoch,
                        batch,
                    )
                moment = Moment(self.epoch, batch)
                figures = self._step(received, train.labels[samples], learning_rate, moment)
                totals += figures * (samples.shape[1] / len(train))
                if on_batch is not None:
                    on_batch(batch + 1, n_batches)
            seconds = time.perf_counter() - start
            self.epoch += 1
            yield EpochRecord(
                epoch=self.epoch,
                learning_rate=learning_rate,
                train_loss=totals[0],
                train_accuracy=totals[1],
                bump_fraction=totals[2],
                silent_fraction=totals[3:],
                validation=evaluate(
                    self.examined,
                    self.weights,
                    validation,
                    self._loss,
                    rule.evaluation_batch_size,
                ),
                train_seconds=seconds,
                train_samples_per_s=len(self._seeds) * len(train) / seconds,
            )

    def _step(
        self, received: LayerInput, labels: NDArray[np.int64], learning_rate: float, moment: Moment
    ) -> Array:
        """One batch; returns rows of loss, accuracy, bumped, silent fraction by layer, by replica."""
        activities = self.network.forward(self.weights, received, moment)
        t_out = activities[-1].t_out
        loss, t_out_grad = self._loss(t_out, labels)
        silent = silent_fraction(activities)
        # Nobody wakes the dead: counted, they would have a layer bumped for ever.
        chosen = self.bumping.choose(silent - self.network.dead_fraction)
        bumped = chosen != NO_LAYER
        active = ~bumped if self._rule.bump_replaces_step else np.ones_like(bumped)
        if active.any():
            grads = self.network.backward(
                self.weights,
                activities,
                t_out_grad,
                active=active,
                max_weight_grad=self._rule.max_weight_grad,
            )
            self.optimizer.step(self.weights, grads, learning_rate, active)
        self.bumping.apply(self.weights, activities, chosen)
        self.network.after_step(self.weights)
        accuracy = (decide(t_out) == labels).mean(axis=1)
        return np.vstack([loss.mean(axis=1), accuracy, bumped, silent])
