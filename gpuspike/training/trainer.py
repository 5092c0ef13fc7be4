"""Training: one record an epoch, on all replicas at once. Knows no logger, file or screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, ValueRangeError
from gpuspike.kernels import LayerState, host, on_host
from gpuspike.network.layers import LayerInput, Moment
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.rng import Purpose, stream
from gpuspike.training.augmentation import RandomShift
from gpuspike.training.bumping import NO_LAYER, Bumping
from gpuspike.training.losses import Loss, decide
from gpuspike.training.optimizers import Descent
from gpuspike.training.schedule import Schedule

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
        validation: evaluation after the epoch, None where nothing is validated.
        train_seconds: time spent in training steps.
        train_samples_per_s: over all replicas.
    """

    epoch: int
    learning_rate: float
    train_loss: Array
    train_accuracy: Array
    bump_fraction: Array
    silent_fraction: Array
    validation: Evaluation | None
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
    kernels = network.kernels
    weights = [kernels.place(w) for w in weights]
    losses, outputs, counts = [], [], []
    for first in range(0, len(data), batch_size):
        last = min(first + batch_size, len(data))
        received = data.received.part(first, last).to(kernels.place)
        activities = network.forward(weights, received, Moment(first=first))
        outputs.append(activities[-1].t_out)
        losses.append(loss(outputs[-1], kernels.place(data.labels[None, first:last]))[0])
        counts.append([kernels.count_silent(activity.t_out) for activity in activities])
        if on_batch is not None:
            on_batch(first, last, on_host(activities))
        del received, activities  # which would stand beside those of the next batch
    # Nothing above has waited for a device.
    t_out = np.concatenate([host(part) for part in outputs], axis=1)
    silent = np.zeros((len(network.layers), len(weights[0])))
    for part, of_layers in zip(outputs, counts, strict=True):
        n_samples = part.shape[1]
        pairs = [n_samples * layer.n_out for layer in network.layers]
        silent += (
            np.array([host(c).sum(axis=1) / n for c, n in zip(of_layers, pairs, strict=True)]) * n_samples
        )
    correct = decide(t_out) == host(data.labels)
    return Evaluation(
        loss=np.concatenate([host(part) for part in losses], axis=1).mean(axis=1),
        accuracy=correct.mean(axis=1),
        silent_fraction=silent / len(data),
        t_out=t_out,
        seconds=time.perf_counter() - start,
    )


def training_state(weights: Sequence[Array], descent: Descent, bumping: Bumping) -> dict[str, Array]:
    """All arrays that a resumed run would need, by name; not copied."""
    arrays = Parameters.of_weights(weights).arrays()
    arrays |= {f"optimizer_{name}": a for name, a in descent.state().items()}
    return arrays | {"bump_layer": bumping.layer, "bump_size": bumping.size}


class Step(Protocol):
    """What makes the steps of an epoch: on the host, or on a device with arrays of its own."""

    def begin(self, train: Labelled, order: NDArray[np.int64], epoch: int, learning_rate: float) -> None:
        """An epoch begins.

        Args:
            order: (n_replica, n_train) in which each replica takes the samples.
            epoch: counted from 0.
        """
        ...

    def batch(self, number: int) -> None:
        """One step; the batches of an epoch come in their order."""
        ...

    def figures(self) -> Array:
        """Of the epoch so far, (3 + n_layer, n_replica): loss, accuracy, bumps, silent fraction by layer."""
        ...

    def evaluate(self, data: Labelled) -> Evaluation:
        """The network with its present weights on a split."""
        ...

    def pull(self) -> None:
        """Brings the trainer's arrays up to date."""
        ...

    def push(self) -> None:
        """Takes over what has been written into the trainer's arrays."""
        ...


class HostStep:
    """Steps on the trainer's own arrays; arguments as for `Trainer`."""

    def __init__(
        self,
        network: Machine,
        examined: Machine,
        weights: list[Array],
        loss: Loss,
        descent: Descent,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
    ) -> None:
        self._network, self._examined, self._weights, self._loss = network, examined, weights, loss
        self._descent, self._bumping, self._rule, self._seeds = descent, bumping, rule, seeds

    def begin(self, train: Labelled, order: NDArray[np.int64], epoch: int, learning_rate: float) -> None:
        """See `Step.begin`."""
        self._train, self._order, self._epoch, self._learning_rate = train, order, epoch, learning_rate
        self._totals = np.zeros((3 + len(self._weights), len(self._seeds)))

    def batch(self, number: int) -> None:
        """See `Step.batch`."""
        rule, train = self._rule, self._train
        samples = self._order[:, number * rule.batch_size : (number + 1) * rule.batch_size]
        received = train.received.take(samples, with_order=rule.keeps_inputs)
        if rule.augment is not None:
            rule.augment(received.t_in, self._seeds, self._epoch, number)
        if rule.input_noise:
            # The bias spikes, which the chip makes itself, stay where they are.
            n_in, purpose = self._network.layers[0].n_in, Purpose.INPUT_NOISE
            self._network.kernels.jitter(
                received.t_in, n_in, rule.input_noise, self._seeds, purpose, self._epoch, number
            )
        figures = self._step(received, train.labels[samples], Moment(self._epoch, number))
        self._totals += figures * (samples.shape[1] / len(train))

    def _step(self, received: LayerInput, labels: NDArray[np.int64], moment: Moment) -> Array:
        """One batch; returns rows of loss, accuracy, bumped, silent fraction by layer, by replica."""
        network, weights = self._network, self._weights
        activities = network.forward(weights, received, moment)
        t_out = activities[-1].t_out
        loss, t_out_grad = self._loss(t_out, labels)
        silent = silent_fraction(activities)
        # Nobody wakes the dead: counted, they would have a layer bumped for ever.
        chosen = self._bumping.choose(silent - network.dead_fraction)
        bumped = chosen != NO_LAYER
        active = ~bumped if self._rule.bump_replaces_step else np.ones_like(bumped)
        if active.any():
            grads = network.backward(
                weights, activities, t_out_grad, active=active, max_weight_grad=self._rule.max_weight_grad
            )
            self._descent.step(weights, grads, self._learning_rate, active)
        self._bumping.apply(weights, activities, chosen)
        network.after_step(weights)
        accuracy = (decide(t_out) == labels).mean(axis=1)
        return np.vstack([loss.mean(axis=1), accuracy, bumped, silent])

    def figures(self) -> Array:
        """See `Step.figures`."""
        return self._totals

    def evaluate(self, data: Labelled) -> Evaluation:
        """See `Step.evaluate`."""
        return evaluate(self._examined, self._weights, data, self._loss, self._rule.evaluation_batch_size)

    def pull(self) -> None:
        """Nothing: there are no other arrays."""

    def push(self) -> None:
        """Nothing: there are no other arrays."""


class Trainer:
    """Trains all replicas of a network side by side; replica r is the run of seed `seeds[r]` alone.

    Attributes:
        weights: for each layer (n_replica, n_pre, n_out); changed in place by training.
        epoch: epochs done.
        network: what is trained;  examined: what is validated, the same unless given.
        step: what makes the steps, from the same parts; on the host unless given.
    """

    def __init__(
        self,
        network: Machine,
        weights: list[Array],
        loss: Loss,
        descent: Descent,
        schedule: Schedule,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
        examined: Machine | None = None,
        step: Step | None = None,
    ) -> None:
        self.network = network
        self.examined = examined or network
        self.weights = weights
        self.descent = descent
        self.bumping = bumping
        self.epoch = 0
        self._schedule = schedule
        self._rule = rule
        self._seeds = tuple(seeds)
        self.step: Step = step or HostStep(
            network, self.examined, weights, loss, descent, bumping, rule, self._seeds
        )

    def state(self) -> dict[str, Array]:
        """All arrays that a resumed run would need, by name; not copied."""
        self.step.pull()
        return training_state(self.weights, self.descent, self.bumping)

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
        self.step.push()
        self.epoch = epoch

    def train(
        self,
        train: Labelled,
        validation: Labelled | None,
        n_epochs: int,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Iterator[EpochRecord]:
        """Trains until `n_epochs` epochs are done and yields a record after each.

        Args:
            on_batch: called after each batch with (batches done, batches in the epoch).
        """
        n_batches = -(-len(train) // self._rule.batch_size)
        while self.epoch < n_epochs:
            start = time.perf_counter()
            learning_rate = self._schedule.at(self.epoch)
            order = np.stack(
                [stream(s, Purpose.SHUFFLE, self.epoch).permutation(len(train)) for s in self._seeds]
            )
            self.step.begin(train, order, self.epoch, learning_rate)
            for batch in range(n_batches):
                self.step.batch(batch)
                if on_batch is not None:
                    on_batch(batch + 1, n_batches)
            totals = self.step.figures()
            seconds = time.perf_counter() - start
            self.epoch += 1
            yield EpochRecord(
                epoch=self.epoch,
                learning_rate=learning_rate,
                train_loss=totals[0],
                train_accuracy=totals[1],
                bump_fraction=totals[2],
                silent_fraction=totals[3:],
                validation=None if validation is None else self.step.evaluate(validation),
                train_seconds=seconds,
                train_samples_per_s=len(self._seeds) * len(train) / seconds,
            )
