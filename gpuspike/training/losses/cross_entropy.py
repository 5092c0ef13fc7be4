"""Cross-entropy of a softmax over negative spike times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.training.losses.base import Array, Loss, require_positive

NOISES = 2.5
"""Temperature, in standard deviations of a spike time's noise, that suits it where neurons have few inputs.

A softmax of temperature xi is what a decision on logistic noise is, of deviation pi xi/sqrt(3) = 1.8 xi.
Independent noise of deviation sigma on the last spikes alone makes sqrt(2) sigma of a difference of two:
xi = 0.8 sigma. What hidden spikes bring comes on top, amplified wherever a membrane meets the threshold
at a flat slope: some three times as much in networks trained on Yin-Yang, half as much where a neuron
averages over hundreds of inputs, see docs/silence.md.
"""


class CrossEntropyNumbers(NamedTuple):
    """Temperature and time scale of the early-spike term, in the unit of time; its weight; the penalty."""

    unit: float
    late: float
    alpha: float
    penalty: float


@dataclass(frozen=True)
class TTFSCrossEntropy(Loss):
    """Cross-entropy of a softmax over negative spike times, plus a pull of the correct neuron to early times.

        L = log sum_n exp(-(t_n - t_*)/(xi tau_syn)) + alpha exp(t_*/(beta tau_syn))

    A sample whose correct neuron is silent has the loss `silent_penalty` and no gradient.

    Attributes:
        xi: temperature of the softmax.
        xi_start: the temperature that a training begins with, from which it goes down (or up) by the same
            factor every epoch; 0: it is `xi` throughout.
        alpha, beta: weight and time scale of the early-spike term.
        xi_per_noise: temperature that suits noise of standard deviation 1 on spike times, see `matched`.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021); penalty from its public code.
    """

    xi: float = 0.2
    alpha: float = 0.005
    beta: float = 1.0
    silent_penalty: float = 100.0
    xi_start: float = 0.0
    xi_per_noise: float = NOISES

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tau_syn=self.tau_syn, xi=self.xi, beta=self.beta, silent_penalty=self.silent_penalty)
        if not (self.xi_start >= 0.0 and math.isfinite(self.xi_start)):
            raise ValueRangeError(f"xi_start must be 0 or more, got {self.xi_start!r}")
        if not (self.xi_per_noise >= 0.0 and math.isfinite(self.xi_per_noise)):
            raise ValueRangeError(f"xi_per_noise must be 0 or more, got {self.xi_per_noise!r}")
        if not (self.alpha >= 0.0 and math.isfinite(self.alpha)):
            raise ValueRangeError(f"alpha must be 0 or more, got {self.alpha!r}")

    def at(self, progress: float) -> TTFSCrossEntropy:
        """See `Loss.at`."""
        if self.xi_start == 0.0:
            return self
        return replace(self, xi=self.xi_start * (self.xi / self.xi_start) ** progress, xi_start=0.0)

    def matched(self, noise: float) -> TTFSCrossEntropy:
        """A softmax no colder than the noise: see `NOISES`."""
        warmest = self.xi_per_noise * noise
        start = math.hypot(self.xi_start, warmest) if self.xi_start else 0.0
        return replace(self, xi=math.hypot(self.xi, warmest), xi_start=start)

    def numbers(self) -> CrossEntropyNumbers:
        """See `Leaf.numbers`."""
        unit, late = self.xi * self.tau_syn, self.beta * self.tau_syn
        return CrossEntropyNumbers(unit, late, self.alpha, self.silent_penalty)

    def reference(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """See `Loss.reference`."""
        unit, late, alpha, penalty = self.numbers()
        is_label = np.arange(t_out.shape[2]) == labels[..., None]
        t_label = np.where(is_label, t_out, 0.0).sum(axis=2, keepdims=True)
        answered = np.isfinite(t_label)
        t_label[~answered] = 0.0
        t_first = np.where(answered, t_out.min(axis=2, keepdims=True), 0.0)
        share = np.exp(np.where(answered, t_first - t_out, 0.0) * (1.0 / unit))
        total = share.sum(axis=2, keepdims=True)
        # Past the largest exponential the term stays there, and finite.
        last = float(np.log(np.finfo(t_out.dtype).max)) - 1.0
        early = alpha * np.exp(np.minimum(t_label / late, last)) if alpha else 0.0 * t_label
        loss = np.log(total) + (t_label - t_first) / unit + early
        grad = is_label * (1.0 / unit + early / late) - share / (unit * total)
        grad *= answered / t_out.shape[1]
        return np.where(answered, loss, penalty)[..., 0], grad.astype(t_out.dtype, copy=False)

    @staticmethod
    def compiled() -> Any:
        """See `Leaf.compiled` and `Loss`."""
        from numba import njit

        @njit(error_model="numpy")
        def row(numbers: Any, t_out: Any, label: Any, n_batch: Any, grad: Any) -> Any:
            unit, late, alpha, penalty = numbers
            n_class = t_out.size
            t_label = np.float64(t_out[label])
            if t_label == math.inf:
                grad[:] = 0.0
                return penalty
            last = math.log(np.finfo(t_out.dtype).max) - 1.0
            t_first, total = math.inf, 0.0
            for n in range(n_class):
                t_first = min(t_first, np.float64(t_out[n]))
            for n in range(n_class):
                total += math.exp((t_first - t_out[n]) / unit)
            early = alpha * math.exp(min(t_label / late, last)) if alpha > 0.0 else 0.0
            for n in range(n_class):
                share = math.exp((t_first - t_out[n]) / unit)
                pull = 1.0 / unit + early / late if n == label else 0.0
                grad[n] = (pull - share / (total * unit)) / n_batch
            return math.log(total) + (t_label - t_first) / unit + early

        return row

    device = """
        const double t_label = t_out[label];
        if (!(t_label < infinity<double>())) {
            for (int n = 0; n < n_class; ++n) grad[n] = T(0);
            return penalty;
        }
        const double last = sizeof(T) == 4 ? 87.72283935546875 : 708.782712893384;  // as in `reference`
        double t_first = t_label, total = 0.0;
        for (int n = 0; n < n_class; ++n) t_first = smaller(t_first, double(t_out[n]));
        for (int n = 0; n < n_class; ++n) total += exp((t_first - double(t_out[n])) / unit);
        const double early = alpha > 0.0 ? alpha * exp(smaller(t_label / late, last)) : 0.0;
        const double loss = log(total) + (t_label - t_first) / unit + early;
        for (int n = 0; n < n_class; ++n) {
            const double share = exp((t_first - double(t_out[n])) / unit) / (total * unit);
            grad[n] = T(((n == label ? 1.0 / unit + early / late : 0.0) - share) / n_batch);
        }
        return loss;
    """
