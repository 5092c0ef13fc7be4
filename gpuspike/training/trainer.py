"""Training: one record an epoch, on all replicas at once. Knows no logger, file or screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, DivergedError, ValueRangeError
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.rng import Purpose, stream
from gpuspike.training.bumping import Bumping, BumpWatch
from gpuspike.training.evaluation import Evaluation, Labelled
from gpuspike.training.losses import Loss
from gpuspike.training.optimizers import Descent
from gpuspike.training.piecewise import PiecewiseStep
from gpuspike.training.schedule import Schedule
from gpuspike.training.step import Step, TrainingRule, training_state

Array = NDArray[Any]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: training figures are means over its batches, taken before each step.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy, bump_fraction: (n_replica,); the accuracy is a count of presented samples,
            each `trials` times, over their number.
        silent_fraction: (n_layer, n_replica), of the training batches.
        validation: evaluation after the epoch, None where nothing is validated.
        train_seconds: time spent in training steps.
        train_samples_per_s: over all replicas.
        warning: what a user should know, see `bumping.BumpWatch`; "" for nothing.
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
    warning: str = ""


class Trainer:
    """Trains all replicas of a network side by side; replica r is the run of seed `seeds[r]` alone.

    Attributes:
        parameters: what is learnt, changed in place by training; given a list of arrays, weights alone.
        epoch: epochs done.
        network: what is trained;  examined: what is validated, the same unless given.
        step: what makes the steps, from the same parts; kernel by kernel unless given.
    """

    def __init__(
        self,
        network: Machine,
        learnt: Parameters | Sequence[Array],
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
        self.parameters = Parameters.of(learnt)
        self.descent = descent
        self.bumping = bumping
        self.epoch = 0
        self._schedule = schedule
        self._rule = rule
        self._seeds = tuple(seeds)
        self.step: Step = step or PiecewiseStep(
            network, self.examined, self.parameters, loss, descent, bumping, rule, self._seeds
        )

    @property
    def weights(self) -> list[Array]:
        """For each layer (n_replica, n_pre, n_out); not copied."""
        return self.parameters.weights

    def state(self) -> dict[str, Array]:
        """All arrays that a resumed run would need, by name; not copied."""
        self.step.pull()
        return training_state(self.parameters, self.descent, self.bumping)

    def restore(self, arrays: Mapping[str, Array], epoch: int) -> None:
        """Takes over the state of a run that was stopped after an epoch.

        Everything random is drawn by its address in the run, so that nothing else has to be restored.

        Args:
            arrays: by name, as `state` gives them; others are ignored.

        Raises:
            DataError: an array is missing, is not of this network's shape and dtype, or holds NaN or inf.
        """
        own = self.state()
        for name, array in own.items():
            found = arrays.get(name)
            if found is None or (found.shape, found.dtype) != (array.shape, array.dtype):
                got = "none" if found is None else f"{found.dtype} {found.shape}"
                raise DataError(f"the checkpoint must hold {name} as {array.dtype} {array.shape}, got {got}")
            if not np.isfinite(found).all():
                wrong = int(np.count_nonzero(~np.isfinite(found)))
                raise DataError(f"the checkpoint must hold finite {name}, got {wrong} NaN or inf")
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

        Raises:
            DivergedError: an epoch has led to numbers whose arithmetic would leave their dtype.
        """
        n_batches = -(-len(train) // self._rule.batch_size)
        watch = BumpWatch(n_batches)
        while self.epoch < n_epochs:
            start = time.perf_counter()
            learning_rate = self._schedule.at(self.epoch)
            order = np.stack(
                [stream(s, Purpose.SHUFFLE, self.epoch).permutation(len(train)) for s in self._seeds]
            )
            order = order.repeat(self._rule.trials, axis=1)
            self.step.begin(train, order, self.epoch, learning_rate, self._schedule.progress(self.epoch))
            for batch in range(n_batches):
                self.step.batch(batch)
                if on_batch is not None:
                    on_batch(batch + 1, n_batches)
            totals = self.step.figures()
            seconds = time.perf_counter() - start
            self.epoch += 1
            self._check(learning_rate)
            silent = totals[3:] - self.network.dead_fraction
            n_presented = order.shape[1]
            yield EpochRecord(
                epoch=self.epoch,
                learning_rate=learning_rate,
                train_loss=totals[0],
                # A count over the samples, of which the sum of the batches' shares has missed some last bits.
                train_accuracy=np.rint(totals[1] * n_presented) / n_presented,
                bump_fraction=totals[2],
                silent_fraction=totals[3:],
                validation=None if validation is None else self.step.evaluate(validation),
                train_seconds=seconds,
                train_samples_per_s=len(self._seeds) * len(train) / seconds,
                warning=watch.after(totals[2], silent, self.bumping.bumped_above),
            )

    def _check(self, learning_rate: float) -> None:
        """Refuses what a later epoch, or whoever reads the checkpoint, could not compute with."""
        self.step.pull()
        try:
            self.parameters.check([layer.neuron for layer in self.network.layers])
        except ValueRangeError as error:
            raise DivergedError(
                f"training diverges in epoch {self.epoch}, with the learning rate {learning_rate:g}: {error}"
            ) from None
