"""The training step on several CUDA devices: each has a share of the replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import cupy_module
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.training.bumping import Bumping
from gpuspike.training.device import DeviceStep
from gpuspike.training.evaluation import Evaluation, Labelled
from gpuspike.training.losses import Loss
from gpuspike.training.optimizers import Descent
from gpuspike.training.step import StepKind, TrainingRule

Array = NDArray[Any]


@dataclass(frozen=True)
class Share:
    """What one of several devices trains.

    Attributes:
        device: its number.
        replicas: those of all, in one piece.
        trained, examined: the network of these replicas, see `fit.make_trainer`.
    """

    device: int
    replicas: slice
    trained: Machine
    examined: Machine


def shared(devices: Sequence[int], n_replica: int) -> list[tuple[int, slice]]:
    """The replicas of each device, as even as can be; devices that none are left for have none."""
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(n_replica), len(devices))])
    parts = [slice(int(first), int(last)) for first, last in zip([0, *ends], ends, strict=False)]
    return [one for one in zip(devices, parts, strict=True) if one[1].start < one[1].stop]


class DevicesStep:
    """A `DeviceStep` on each device, for its share of the replicas; arguments as there.

    Every replica has the bits that it would have alone, on its device. The host asks one device after the
    other and waits for none of them within an epoch, so that they compute at the same time; where each step
    has a chip of its own, it waits until that has been sent.
    """

    kind = StepKind("device")

    def __init__(
        self,
        shares: Sequence[Share],
        learnt: Parameters,
        loss: Loss,
        descent: Descent,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
        *,
        graph: bool = True,
    ) -> None:
        self._shares = shares
        self._steps: list[DeviceStep] = []
        for share in shares:
            part = share.replicas
            with self._on(share):
                step = DeviceStep(
                    share.trained,
                    learnt.map(lambda array, part=part: array[part]),
                    loss,
                    descent.of_replicas(part),
                    bumping.of_replicas(part),
                    rule,
                    seeds[part],
                    examined=share.examined,
                    graph=graph,
                )
            self._steps.append(step)

    @staticmethod
    def _on(share: Share) -> Any:
        return cupy_module().cuda.Device(share.device)

    def _each(self, ask: Callable[[DeviceStep, Share], Any]) -> list[Any]:
        """What each step answers, on its device."""
        answers = []
        for share, step in zip(self._shares, self._steps, strict=True):
            with self._on(share):
                answers.append(ask(step, share))
        return answers

    def begin(
        self,
        train: Labelled,
        order: NDArray[np.int64],
        epoch: int,
        learning_rate: float,
        progress: float = 1.0,
    ) -> None:
        """See `step.Step.begin`."""
        self._each(
            lambda step, share: step.begin(train, order[share.replicas], epoch, learning_rate, progress)
        )

    def batch(self, number: int) -> None:
        """See `step.Step.batch`."""
        self._each(lambda step, _: step.batch(number))

    def figures(self) -> Array:
        """See `step.Step.figures`."""
        return np.concatenate(self._each(lambda step, _: step.figures()), axis=1)

    def evaluate(self, data: Labelled) -> Evaluation:
        """See `step.Step.evaluate`."""
        answers = iter(self._each(lambda step, _: step.begin_evaluation(data)))
        parts: list[Evaluation] = self._each(lambda *_: next(answers)())
        return Evaluation(
            loss=np.concatenate([part.loss for part in parts]),
            accuracy=np.concatenate([part.accuracy for part in parts]),
            silent_fraction=np.concatenate([part.silent_fraction for part in parts], axis=1),
            t_out=np.concatenate([part.t_out for part in parts]),
            seconds=max(part.seconds for part in parts),
            never_spiking=[
                np.concatenate(each) for each in zip(*(part.never_spiking for part in parts), strict=True)
            ],
        )

    def pull(self) -> None:
        """See `step.Step.pull`."""
        self._each(lambda step, _: step.pull())

    def push(self) -> None:
        """See `step.Step.push`."""
        self._each(lambda step, _: step.push())
