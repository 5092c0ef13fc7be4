"""Losses on the output spike times, with their gradients, and the decision they train."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import load

Array = NDArray[Any]


class Loss(Protocol):
    """A loss of the output spike times."""

    def __call__(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """Loss of every sample, and the gradient of each replica's mean loss.

        Args:
            t_out: (n_replica, n_batch, n_classes) spike times, inf = silent.
            labels: (n_replica or 1, n_batch).

        Returns:
            (n_replica, n_batch) and (n_replica, n_batch, n_classes).
        """
        ...


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0.0 and math.isfinite(value)):
            raise ValueRangeError(f"{name} must be positive and finite, got {value!r}")


@dataclass(frozen=True)
class TTFSCrossEntropy:
    """Cross-entropy of a softmax over negative spike times, plus a pull of the correct neuron to early times.

        L = log sum_n exp(-(t_n - t_*)/(xi tau_syn)) + alpha exp(t_*/(beta tau_syn))

    A sample whose correct neuron is silent has the loss `silent_penalty` and no gradient.

    Attributes:
        tau_syn: the unit in which xi and beta are given.
        xi: temperature of the softmax.
        alpha, beta: weight and time scale of the early-spike term.
        kernel: the formula as a backend computes it, `Kernels.cross_entropy`; None: the reference's.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021); penalty from its public code.
    """

    tau_syn: float = 1.0
    xi: float = 0.2
    alpha: float = 0.005
    beta: float = 1.0
    silent_penalty: float = 100.0
    kernel: Callable[..., tuple[Array, Array]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _require_positive(
            tau_syn=self.tau_syn, xi=self.xi, beta=self.beta, silent_penalty=self.silent_penalty
        )
        if not (self.alpha >= 0.0 and math.isfinite(self.alpha)):
            raise ValueRangeError(f"alpha must be 0 or more, got {self.alpha!r}")

    def __call__(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        unit, late = self.xi * self.tau_syn, self.beta * self.tau_syn
        kernel = self.kernel or load("reference").cross_entropy
        return kernel(t_out, labels, unit, late, self.alpha, self.silent_penalty)


@dataclass(frozen=True)
class TimeMSE:
    """Squared distance of the output spikes from target times.

        L = 1/2 sum_n ((t_n - target_n)/tau_syn)^2,   target = t_correct for the label's neuron, else t_wrong

    A silent output neuron adds `silent_penalty` and no gradient.

    Attributes:
        t_correct, t_wrong: target times, in units of tau_syn.
        kernel: the formula as a backend computes it, `Kernels.time_mse`; None: the reference's.
    """

    tau_syn: float = 1.0
    t_correct: float = 0.5
    t_wrong: float = 1.5
    silent_penalty: float = 100.0
    kernel: Callable[..., tuple[Array, Array]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _require_positive(tau_syn=self.tau_syn, silent_penalty=self.silent_penalty)
        if not (math.isfinite(self.t_correct) and math.isfinite(self.t_wrong)):
            raise ValueRangeError(
                f"target times must be finite, got t_correct={self.t_correct!r}, t_wrong={self.t_wrong!r}"
            )

    def __call__(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        correct, wrong = self.t_correct * self.tau_syn, self.t_wrong * self.tau_syn
        kernel = self.kernel or load("reference").time_mse
        return kernel(t_out, labels, self.tau_syn, correct, wrong, self.silent_penalty)


def decide(t_out: Array) -> NDArray[np.int64]:
    """The class whose neuron spikes first (last axis); -1 where all are silent, the lowest at a tie."""
    return np.where(np.isfinite(t_out.min(axis=-1)), t_out.argmin(axis=-1), -1)
