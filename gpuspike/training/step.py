"""What a training step is: its rule, what makes the steps of an epoch, what a resumed run needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError, together
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites
from gpuspike.training.bumping import Bumping
from gpuspike.training.evaluation import Evaluation, Labelled, evaluate
from gpuspike.training.losses import Loss
from gpuspike.training.optimizers import Descent

Array = NDArray[Any]


@dataclass(frozen=True)
class TrainingRule:
    """How a step is made.

    Attributes:
        batch_size: samples a step; the last batch of an epoch may be smaller.
        trials: times that each of them is presented in it.
        evaluation_batch_size: samples a forward pass when evaluating.
        max_weight_grad: limit of |dL/dw| for one (sample, neuron), of a share of it for a trial of it;
            inf for none.
        bump_replaces_step: skip the gradient step of a batch that was bumped, as in the paper.
        input_noise: standard deviation of the noise on input times; times before 0 are reflected there.
        augment: changes the samples of a batch before the noise comes, if given.
    """

    batch_size: int
    evaluation_batch_size: int
    max_weight_grad: float = float("inf")
    bump_replaces_step: bool = True
    input_noise: float = 0.0
    augment: RandomShift | RandomWarp | WithOpposites | None = None
    trials: int = 1

    @property
    def presented(self) -> int:
        """Presentations a step."""
        return self.batch_size * self.trials

    @property
    def limit(self) -> float:
        """Of |dL/dw| for one presentation to a neuron."""
        return float(self.max_weight_grad) / self.trials

    @property
    def keeps_inputs(self) -> bool:
        """Whether training sees the same input times every epoch."""
        return self.augment is None and self.input_noise == 0.0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("batch_size", "evaluation_batch_size", "trials")
            if getattr(self, name) < 1
        ]
        if not self.max_weight_grad > 0.0:
            wrong.append(f"max_weight_grad must be positive, got {self.max_weight_grad!r}")
        if not 0.0 <= self.input_noise < float("inf"):
            wrong.append(f"input_noise must be 0 or more, got {self.input_noise!r}")
        if wrong:
            raise together(map(ValueRangeError, wrong))


class StepKind(NamedTuple):
    """Which step a training has.

    Attributes:
        name: "device" (kernels only, replayed as a graph), "compiled" (one job on the CPU) or "piecewise"
            (kernel by kernel, for what neither of them has).
        reason: why "piecewise", the slower one; None for the others.
    """

    name: str
    reason: str | None = None

    def __str__(self) -> str:
        """For a reader."""
        return self.name if self.reason is None else f"piecewise, since {self.reason}"


class Step(Protocol):
    """What makes the steps of an epoch: on the host, or on a device with arrays of its own."""

    @property
    def kind(self) -> StepKind:
        """Which one it is."""
        ...

    def begin(
        self,
        train: Labelled,
        order: NDArray[np.int64],
        epoch: int,
        learning_rate: float,
        progress: float = 1.0,
    ) -> None:
        """An epoch begins.

        Args:
            order: (n_replica, n_presented) in which each replica takes the samples.
            epoch: counted from 0.
            progress: how far the training is, from 0 to 1, for a loss that goes along.
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


def training_state(parameters: Parameters, descent: Descent, bumping: Bumping) -> dict[str, Array]:
    """All arrays that a resumed run would need, by name; not copied."""
    arrays = parameters.arrays()
    arrays |= {f"optimizer_{name}": a for name, a in descent.state().items()}
    return arrays | bumping.state()


class HostStep:
    """What steps on the trainer's own arrays have in common; arguments as for `trainer.Trainer`."""

    def __init__(
        self,
        network: Machine,
        examined: Machine,
        learnt: Parameters | Sequence[Array],
        loss: Loss,
        descent: Descent,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
    ) -> None:
        self._network, self._examined, self._loss = network, examined, loss
        self._parameters = Parameters.of(learnt)
        self._weights = self._parameters.weights
        self._descent, self._bumping, self._rule, self._seeds = descent, bumping, rule, seeds

    def begin(
        self,
        train: Labelled,
        order: NDArray[np.int64],
        epoch: int,
        learning_rate: float,
        progress: float = 1.0,
    ) -> None:
        """See `Step.begin`."""
        self._loss_now = self._loss.at(progress)
        self._train, self._order, self._epoch, self._learning_rate = train, order, epoch, learning_rate

    def evaluate(self, data: Labelled) -> Evaluation:
        """See `Step.evaluate`."""
        examined = self._examined.having(self._parameters)
        return evaluate(examined, self._weights, data, self._loss, self._rule.evaluation_batch_size)

    def pull(self) -> None:
        """Nothing: there are no other arrays."""

    def push(self) -> None:
        """Nothing: there are no other arrays."""
