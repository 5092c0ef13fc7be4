"""Squared distance of the output spikes from target times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.training.losses.base import Array, Loss, require_positive


class TimeMSENumbers(NamedTuple):
    """tau_syn, and the targets of the label's neuron and of the others in the same unit; the penalty."""

    tau_syn: float
    correct: float
    wrong: float
    penalty: float


@dataclass(frozen=True)
class TimeMSE(Loss):
    """Squared distance of the output spikes from target times.

        L = 1/2 sum_n ((t_n - target_n)/tau_syn)^2,   target = t_correct for the label's neuron, else t_wrong

    A silent output neuron adds `silent_penalty` and no gradient.

    Attributes:
        t_correct, t_wrong: target times, in units of tau_syn.
    """

    t_correct: float = 0.5
    t_wrong: float = 1.5
    silent_penalty: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tau_syn=self.tau_syn, silent_penalty=self.silent_penalty)
        if not (math.isfinite(self.t_correct) and math.isfinite(self.t_wrong)):
            raise ValueRangeError(
                f"target times must be finite, got t_correct={self.t_correct!r}, t_wrong={self.t_wrong!r}"
            )
        if not self.t_correct < self.t_wrong:  # the first spike is the answer
            raise ValueRangeError(
                "t_correct must be before t_wrong, "
                f"got t_correct={self.t_correct!r}, t_wrong={self.t_wrong!r}"
            )

    def numbers(self) -> TimeMSENumbers:
        """See `Leaf.numbers`."""
        correct, wrong = self.t_correct * self.tau_syn, self.t_wrong * self.tau_syn
        return TimeMSENumbers(self.tau_syn, correct, wrong, self.silent_penalty)

    def reference(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """See `Loss.reference`."""
        tau_syn, correct, wrong, penalty = self.numbers()
        is_label = np.arange(t_out.shape[2]) == np.asarray(labels)[..., None]
        target = np.where(is_label, correct, wrong)
        spiking = np.isfinite(t_out)
        error = np.where(spiking, t_out, 0.0) - np.where(spiking, target, 0.0)
        error /= tau_syn
        loss = np.where(spiking, 0.5 * error**2, penalty).sum(axis=2)
        grad = error / (tau_syn * t_out.shape[1])
        return loss, grad.astype(t_out.dtype, copy=False)

    @staticmethod
    def compiled() -> Any:
        """See `Leaf.compiled` and `Loss`."""
        from numba import njit

        @njit(error_model="numpy")
        def row(numbers: Any, t_out: Any, label: Any, n_batch: Any, grad: Any) -> Any:
            tau_syn, correct, wrong, penalty = numbers
            total = 0.0
            for n in range(t_out.size):
                t = np.float64(t_out[n])
                if t < math.inf:
                    error = (t - (correct if n == label else wrong)) / tau_syn
                    total += 0.5 * error * error
                    grad[n] = error / (tau_syn * n_batch)
                else:
                    total += penalty
                    grad[n] = 0.0
            return total

        return row

    device = """
        double total = 0.0;
        for (int n = 0; n < n_class; ++n) {
            const double t = t_out[n];
            const bool spikes = t < infinity<double>();
            const double error = spikes ? (t - (n == label ? correct : wrong)) / tau_syn : 0.0;
            total += spikes ? 0.5 * error * error : penalty;
            grad[n] = T(error / (tau_syn * n_batch));
        }
        return total;
    """
