"""Learning rates by epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuspike.errors import ValueRangeError


@dataclass(frozen=True)
class Schedule:
    """Learning rate by epoch.

    Attributes:
        learning_rate: at the first epoch.
        kind: "constant"; "step" (times gamma every `step_size` epochs); "cosine" (half a cosine down to 0).
        n_epochs: length of the cosine.
    """

    learning_rate: float
    kind: str = "constant"
    step_size: int = 20
    gamma: float = 0.95
    n_epochs: int = 1

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0.0 and math.isfinite(self.learning_rate)):
            raise ValueRangeError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if self.kind not in ("constant", "step", "cosine"):
            raise ValueRangeError(f"schedule must be constant, step or cosine, got {self.kind!r}")
        if self.step_size < 1:
            raise ValueRangeError(f"step_size must be at least 1, got {self.step_size}")
        if self.n_epochs < 1:
            raise ValueRangeError(f"n_epochs must be at least 1, got {self.n_epochs}")
        if not 0.0 < self.gamma <= 1.0:
            raise ValueRangeError(f"gamma must lie in (0, 1], got {self.gamma!r}")

    def progress(self, epoch: int) -> float:
        """How far a training is, from 0 to 1."""
        return min(epoch / self.n_epochs, 1.0)

    def at(self, epoch: int) -> float:
        """Learning rate in an epoch, counted from 0."""
        if self.kind == "step":
            return self.learning_rate * self.gamma ** (epoch // self.step_size)
        if self.kind == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / self.n_epochs))
        return self.learning_rate
