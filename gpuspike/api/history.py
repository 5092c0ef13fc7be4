"""The course of a training, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.training.step import StepKind
from gpuspike.training.trainer import EpochRecord

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """The epochs of a training in order. Figures of training are means over batches, before each step.

    Attributes:
        epoch: (n_epoch,) counted from 1 over the network's life.
        learning_rate: (n_epoch,).
        train_loss, train_accuracy, bump_fraction: (n_epoch, n_replica).
        validation_loss, validation_accuracy: of the same shape; NaN in epochs without a validation.
        silent_fraction: (n_epoch, n_layer, n_replica) share of (sample, neuron) pairs without a spike.
        train_samples_per_s: (n_epoch,), over all replicas; kernels may be compiled in the first epoch's time.
        step: what made the steps: "compiled", "device" or "piecewise"; "" where a file does not tell.
        step_reason: why "piecewise"; None for the others.
    """

    epoch: NDArray[np.int64]
    learning_rate: Array
    train_loss: Array
    train_accuracy: Array
    bump_fraction: Array
    validation_loss: Array
    validation_accuracy: Array
    silent_fraction: Array
    train_samples_per_s: Array
    step: str = ""
    step_reason: str | None = None

    @classmethod
    def of_lines(cls, lines: Sequence[Mapping[str, Any]], n_layer: int, n_replica: int) -> History:
        """A history of what each epoch says by the names of the attributes; None is NaN."""
        shapes = {"epoch": (), "learning_rate": (), "train_samples_per_s": ()}
        shapes |= {"silent_fraction": (n_layer, n_replica)}
        values: dict[str, Any] = {}
        for name in cls.names():
            shape = shapes.get(name, (n_replica,))
            rows = [np.asarray(line[name], float) for line in lines]
            values[name] = np.array(rows, float).reshape(len(lines), *shape)
        return cls(**values | {"epoch": values["epoch"].astype(np.int64)})

    @classmethod
    def of_records(
        cls, records: Sequence[EpochRecord], n_layer: int, n_replica: int, kind: StepKind
    ) -> History:
        """A history of what a trainer has told."""
        none = np.full(n_replica, np.nan)
        lines = []
        for record in records:
            examined = record.validation
            line = {name: getattr(record, name, None) for name in cls.names()}
            line |= {"validation_loss": none if examined is None else examined.loss}
            line |= {"validation_accuracy": none if examined is None else examined.accuracy}
            lines.append(line)
        history = cls.of_lines(lines, n_layer, n_replica)
        return cls(**history.arrays(), step=kind.name, step_reason=kind.reason)

    @classmethod
    def names(cls) -> list[str]:
        """Of the arrays."""
        return [field.name for field in fields(cls) if not field.name.startswith("step")]

    def arrays(self) -> dict[str, Array]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.names()}

    def __len__(self) -> int:
        return len(self.epoch)

    def __add__(self, later: History) -> History:
        """This one and then the other."""
        arrays = later.arrays()
        joined: Any = {name: np.concatenate([own, arrays[name]]) for name, own in self.arrays().items()}
        return History(**joined, step=later.step, step_reason=later.step_reason)

    def __repr__(self) -> str:
        n_replica = self.train_loss.shape[1]
        replicas = f"{n_replica} replica" + ("s" if n_replica > 1 else "")
        if not len(self):
            return f"History(no epochs, {replicas})"
        told = f"train {100 * self.train_accuracy[-1].mean():.2f} %"
        if not np.isnan(self.validation_accuracy[-1]).any():
            told += f", validation {100 * self.validation_accuracy[-1].mean():.2f} %"
        step = f", {self.step} step" if self.step else ""
        later = self.train_samples_per_s[1:]  # kernels may have been compiled in the first epoch
        speed = f", {np.median(later):,.0f} samples/s" if len(later) else ""
        return f"History(epochs {self.epoch[0]} to {self.epoch[-1]}, {replicas}: {told}{step}{speed})"
