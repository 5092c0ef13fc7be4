"""The decision of a network, found without what comes after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.network.layers import Moment
from gpuspike.network.network import Architecture, Machine, answer

Array = NDArray[Any]

LOOKED_AT = 200
"""Samples that are presented whole, to learn when a network decides."""

TOGETHER = 1000
"""Samples of a forward pass."""

WORTH_IT = 0.6
"""Share of the input spikes, those presented again among them, above which breaking off does not pay."""

QUANTILES = np.array([0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995])
"""Of the times of decisions, those after which a presentation may be broken off."""


class Decisions(NamedTuple):
    """What a network decides.

    Attributes:
        classes: (n_replica, n_samples) of the output neuron that spikes first; -1 where none does, the lowest
            at a tie.
        times: of the same shape, when; inf where none spikes.
        presented: of all input spikes, the share that was presented to find out, those twice counted twice.
    """

    classes: NDArray[np.int64]
    times: Array
    presented: float


def decisions(machine: Machine, weights: Sequence[Array], t_in: Array) -> Decisions:
    """The first output spikes of samples, to the bit those of a full forward pass.

    A neuron's spike at T depends on what comes before T alone. So whatever spikes in an output neuron until a
    time h is known when inputs are presented until h, and a sample whose first output spike comes by then is
    decided. The others are presented again, whole. The time h is one by which nearly all samples of a small
    part are decided, chosen so that the fewest input spikes are presented; it changes speed alone.

    On a chip samples are always presented whole: what it delays may be heard before what came earlier.

    Args:
        weights: of each layer (n_replica, n_pre, n_post).
        t_in: (n_samples, n_inputs) spike times, inf = no spike.
    """
    n_samples, whole = len(t_in), not isinstance(machine, Architecture)
    classes = np.empty((len(weights[0]), n_samples), np.int64)
    times = np.empty(classes.shape, t_in.dtype)
    spikes = np.count_nonzero(t_in < np.inf)
    presented = 0

    def present(samples: slice | NDArray[np.int64], until: float) -> Array:
        """Decides on samples; returns which are decided until then, by all replicas."""
        nonlocal presented
        given = t_in[samples]
        if until < np.inf:
            given = np.where(given <= until, given, np.asarray(np.inf, given.dtype))
        presented += np.count_nonzero(given < np.inf)
        first = samples.start if isinstance(samples, slice) else 0
        t_out = answer(machine, weights, machine.receive(given[None], sort=False), Moment(first=first))[
            -1
        ].t_out
        times[:, samples] = t_out.min(axis=2)
        classes[:, samples] = np.where(np.isfinite(times[:, samples]), t_out.argmin(axis=2), -1)
        return np.all(times[:, samples] <= until, axis=0)

    until = np.inf
    for part in _parts(n_samples, 0 if whole else min(LOOKED_AT, n_samples)):
        decided = present(part, until)
        if until < np.inf and not decided.all():
            present(part.start + np.flatnonzero(~decided), np.inf)
        if part.start == 0 and not whole:
            until = _horizon(t_in[part], times[:, part])
    return Decisions(classes, times, presented / max(spikes, 1))


def _parts(n_samples: int, first: int) -> Iterator[slice]:
    """Samples that are presented together: a first few, if any, then as many at a time as are meant to be."""
    if first:
        yield slice(0, first)
    for start in range(first, n_samples, TOGETHER):
        yield slice(start, min(start + TOGETHER, n_samples))


def _horizon(t_in: Array, decided: Array) -> float:
    """When to break off, from some samples' inputs and their (n_replica, n) decisions; inf: never."""
    last = decided.max(axis=0)
    if not np.isfinite(last).any():
        return np.inf
    candidates = np.quantile(last[np.isfinite(last)], QUANTILES).astype(t_in.dtype)
    spikes = np.sort(t_in[np.isfinite(t_in)])
    early = np.searchsorted(spikes, candidates, side="right") / max(len(spikes), 1)
    again = (last[:, None] > candidates).mean(axis=0)
    best = int(np.argmin(early + again))
    return float(candidates[best]) if early[best] + again[best] < WORTH_IT else np.inf
