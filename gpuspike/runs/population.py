"""One trained network on many pieces of silicon: what share of them reaches which accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels.cuda.call import passing
from gpuspike.runs.experiment import Experiment
from gpuspike.training.evaluation import Labelled, evaluate

Array = NDArray[Any]

MOST_SPIKES = 1 << 22
"""Spike times of inputs and neurons, over all chips, that an evaluation holds at once."""

MOST_SYNAPSES = 1 << 24
"""Synapses of all chips that it holds at once."""

SHARES = (1.0, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1)
"""Shares of the chips whose accuracy is told."""


def accuracies(
    parts: Experiment, weights: Sequence[Array], data: Labelled, first_seed: int, n_chips: int
) -> Array:
    """Accuracy of each replica's network on each chip, (n_replica, n_chips).

    Args:
        weights: (n_replica, n_pre, n_post) of each layer.
        first_seed: of the chips; the others' follow.
    """
    per_sample = sum(layer.n_received + layer.n_neurons for layer in parts.network.layers)
    per_chip = sum(layer.n_pre * layer.n_neurons for layer in parts.network.layers)
    together = max(1, min(n_chips, MOST_SPIKES // per_sample, MOST_SYNAPSES // per_chip))
    batch = max(1, min(len(data), MOST_SPIKES // (per_sample * together)))
    reached, on_device = np.empty((len(weights[0]), n_chips)), parts.backend.name == "cuda"
    for first in range(0, n_chips, together):
        seeds = range(first_seed + first, first_seed + min(first + together, n_chips))
        for replica, row in enumerate(reached):
            machine = parts.of_replica(replica).on_chip(seeds)
            same = [np.repeat(w[replica : replica + 1], len(seeds), axis=0) for w in weights]
            with passing() if on_device else nullcontext():  # these chips do not come again
                result = evaluate(machine, same, data, parts.loss, batch)
            row[first : first + len(seeds)] = result.accuracy
    return reached


def yields(reached: Array) -> dict[str, Any]:
    """What a population of chips is worth: the part "population" of an evaluation.

    Args:
        reached: (n_replica, n_chips) accuracies.

    Returns:
        Number of chips; mean, deviation, median, worst and best over all; every accuracy; the 95 %
        interval of the mean over all chips of the kind, for these networks, after Student (None for one
        chip); and the yield: for each of some shares the accuracy that at least this share of the chips
        reaches, on each chip the mean of the replicas. "yield_interval" has, for each of these shares, the
        95 % interval of the share of all chips of the kind that reach as much, after Clopper and Pearson.
    """
    best_first = -np.sort(-reached.mean(axis=0))
    n_chips = reached.shape[1]
    counts = {f"{share:g}": int(np.ceil(share * n_chips)) for share in SHARES}
    curve = {share: float(best_first[count - 1]) for share, count in counts.items()}
    return {
        "chips": n_chips,
        "mean": float(reached.mean()),
        "std": float(reached.std(ddof=1)) if reached.size > 1 else None,
        "median": float(np.median(reached)),
        "worst": float(reached.min()),
        "best": float(reached.max()),
        "mean_interval": mean_interval(reached.mean(axis=0)),
        "yield": curve,
        "yield_interval": {share: list(share_interval(n, n_chips)) for share, n in counts.items()},
        "per_replica_and_chip": reached,
    }


def share_interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the share of a whole lies of which `count` were found among `of`.

    Source: Clopper and Pearson, Biometrika 26, 404 (1934): the shares for which the tail of the binomial
    distribution that holds the count is half of what is left of the confidence; bisected. It holds for one
    count that was chosen before, and is never too narrow.
    """
    tail = (1.0 - confidence) / 2

    def end(least: int) -> float:
        """The share for which at least so many are found as often as the tail says."""
        logs = np.cumsum(np.log(np.arange(of, 0, -1) / np.arange(1, of + 1)))  # of binomial coefficients
        k = np.arange(least, of + 1)
        coefficients = np.concatenate([[0.0], logs])[k]
        low, high = 0.0, 1.0
        for _ in range(60):
            p = (low + high) / 2
            above = float(np.exp(coefficients + k * math.log(p) + (of - k) * math.log1p(-p)).sum())
            low, high = (p, high) if above < (tail if least == count else 1.0 - tail) else (low, p)
        return (low + high) / 2

    return (0.0 if count == 0 else end(count), 1.0 if count == of else end(count + 1))


def band(n_chips: int) -> Array:
    """(n_counts, 3) counts of chips, a hundred at most, and `share_interval` of each."""
    counts = np.unique(np.linspace(1, n_chips, min(n_chips, 100)).round().astype(int))
    return np.array([[count, *share_interval(int(count), n_chips)] for count in counts])


def mean_interval(values: Array, confidence: float = 0.95) -> list[float] | None:
    """Where the mean of what some shares are a sample of lies, after Student; None for a single one."""
    if len(values) < 2:
        return None
    reach = student(len(values) - 1, confidence) * values.std(ddof=1) / np.sqrt(len(values))
    return [max(0.0, float(values.mean() - reach)), min(1.0, float(values.mean() + reach))]


def student(freedom: int, confidence: float = 0.95) -> float:
    """How far from 0 Student's variable lies at most with a probability.

    Source: the finite sums of Abramowitz and Stegun, eq. (26.7.3) and (26.7.4), bisected.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """Probability of |t| < sqrt(freedom) tan(angle)."""
    odd = freedom % 2
    cos = math.cos(angle)
    term, total = (cos if odd else 1.0), 0.0
    for k in range(2 if odd else 1, freedom, 2):
        total += term
        term *= cos * cos * (k / (k + 1))
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
