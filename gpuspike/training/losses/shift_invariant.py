"""Squared distance of the output spikes from where they should be beside the label's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.training.losses.base import Array, Loss, require_positive


class ShiftInvariantNumbers(NamedTuple):
    """tau_syn, the distance in the same unit, and the penalty."""

    tau_syn: float
    distance: float
    penalty: float


@dataclass(frozen=True)
class ShiftInvariant(Loss):
    """Squared distance of the other output spikes from where they should be after the label's.

        L = 1/2 sum_{n != *} ((t_n - t_* - distance)/tau_syn)^2

    A silent neuron of another class adds nothing: it cannot come too early. A sample whose correct neuron is
    silent has the loss `silent_penalty` and no gradient.

    Attributes:
        distance: by which the others should spike later than the label's neuron, in tau_syn.

    Source: the public code of DelGrad, with a distance of 0.2 in software and of 0.3 on BrainScaleS-2.
    """

    distance: float = 0.2
    silent_penalty: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tau_syn=self.tau_syn, silent_penalty=self.silent_penalty, distance=self.distance)

    def numbers(self) -> ShiftInvariantNumbers:
        """See `Leaf.numbers`."""
        return ShiftInvariantNumbers(self.tau_syn, self.distance * self.tau_syn, self.silent_penalty)

    def reference(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """See `Loss.reference`."""
        tau_syn, distance, penalty = self.numbers()
        is_label = np.arange(t_out.shape[2]) == np.asarray(labels)[..., None]
        t_label = np.where(is_label, t_out, 0.0).sum(axis=2, keepdims=True)
        answered = np.isfinite(t_label)
        counted = answered & np.isfinite(t_out) & ~is_label
        error = np.where(counted, t_out, 0.0) - np.where(counted, t_label + distance, 0.0)
        error /= tau_syn
        loss = np.where(answered[..., 0], 0.5 * (error**2).sum(axis=2), penalty)
        grad = error - is_label * error.sum(axis=2, keepdims=True)
        grad /= tau_syn * t_out.shape[1]
        return loss, grad.astype(t_out.dtype, copy=False)

    @staticmethod
    def compiled() -> Any:
        """See `Leaf.compiled` and `Loss`."""
        from numba import njit

        @njit(error_model="numpy")
        def row(numbers: Any, t_out: Any, label: Any, n_batch: Any, grad: Any) -> Any:
            tau_syn, distance, penalty = numbers
            t_label = np.float64(t_out[label])
            if t_label == math.inf:
                grad[:] = 0.0
                return penalty
            total, pull = 0.0, 0.0
            for n in range(t_out.size):
                t = np.float64(t_out[n])
                if n == label or t == math.inf:
                    grad[n] = 0.0
                    continue
                error = (t - (t_label + distance)) / tau_syn
                total += 0.5 * error * error
                pull += error
                grad[n] = error / (tau_syn * n_batch)
            grad[label] = -pull / (tau_syn * n_batch)
            return total

        return row

    device = """
        const double t_label = t_out[label];
        if (!(t_label < infinity<double>())) {
            for (int n = 0; n < n_class; ++n) grad[n] = T(0);
            return penalty;
        }
        double total = 0.0, pull = 0.0;
        for (int n = 0; n < n_class; ++n) {
            const double t = t_out[n];
            const bool counted = n != label && t < infinity<double>();
            const double error = counted ? (t - (t_label + distance)) / tau_syn : 0.0;
            total += 0.5 * error * error;
            pull += error;
            grad[n] = T(error / (tau_syn * n_batch));
        }
        grad[label] = T(-pull / (tau_syn * n_batch));
        return total;
    """
