"""One trained network on many pieces of silicon: what share of them reaches which accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.runs.experiment import Experiment
from gpuspike.training.evaluation import Labelled, evaluate

Array = NDArray[Any]

MOST_SPIKES = 1 << 22
"""Spike times of inputs and neurons, over all chips, that an evaluation holds at once."""

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
    together = max(1, min(n_chips, MOST_SPIKES // per_sample))
    batch = max(1, min(len(data), MOST_SPIKES // (per_sample * together)))
    reached = np.empty((len(weights[0]), n_chips))
    for first in range(0, n_chips, together):
        seeds = range(first_seed + first, first_seed + min(first + together, n_chips))
        for replica, row in enumerate(reached):
            machine = parts.of_replica(replica).on_chip(seeds)
            same = [np.repeat(w[replica : replica + 1], len(seeds), axis=0) for w in weights]
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
        reaches, mean over replicas.
    """
    best_first = -np.sort(-reached, axis=1)
    n_chips = reached.shape[1]
    curve = {f"{share:g}": float(best_first[:, int(np.ceil(share * n_chips)) - 1].mean()) for share in SHARES}
    return {
        "chips": n_chips,
        "mean": float(reached.mean()),
        "std": float(reached.std(ddof=1)) if reached.size > 1 else None,
        "median": float(np.median(reached)),
        "worst": float(reached.min()),
        "best": float(reached.max()),
        "mean_interval": _interval(reached.mean(axis=0)),
        "yield": curve,
        "per_replica_and_chip": reached,
    }


def _interval(values: Array) -> list[float] | None:
    """Where the mean of what these are a sample of lies, with 95 %."""
    if len(values) < 2:
        return None
    reach = student(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean() - reach), float(values.mean() + reach)]


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, to 0.13 %.

    Source: closed forms for one and two degrees of freedom, else Abramowitz and Stegun, eq. (26.7.5).
    """
    if freedom <= 2:
        return (12.7062047, 4.3026527)[freedom - 1]
    z = 1.9599639845
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**k for k, term in enumerate(terms))
