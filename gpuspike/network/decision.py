"""The decision of a network, found without what comes after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels.bias import with_bias
from gpuspike.network.layers import Moment
from gpuspike.network.network import Architecture, Machine, answer

Array = NDArray[Any]

LOOKED_AT = 200
"""Samples that are presented whole, to learn when a network decides."""

TOGETHER = 1000
"""Samples of a forward pass."""

IN_A_JOB = 10_000
"""Samples that a compiled job decides on: many beside what it copies first, and Ctrl-C waits for one job."""

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
        pair_events: met in all layers, samples and replicas: spikes presented to a layer by its neurons,
            beyond the first layer as often as these were looked at.
    """

    classes: NDArray[np.int64]
    times: Array
    presented: float
    pair_events: int


LOOK = 0.5
"""Of the times of decisions, the quantile at which it is looked whether a sample is decided."""

MANY, CHEAP = 200, 50
"""A look pays from so many neurons in the first layer on, with up to so many connections behind each."""


class Horizon(NamedTuple):
    """How long samples are presented.

    Attributes:
        until: the last time, inf: whole.
        looks: times at which a sample may be found to be decided; those before it count.
    """

    until: float = np.inf
    looks: tuple[float, ...] = ()


Present = Callable[[Array, Horizon, int], tuple[NDArray[np.int64], Array, NDArray[np.int64]]]
"""Presents (n, n_inputs) samples until a time, and on, or again, whole, those not decided by then.

It is told the first one's number. Returns (n_replica, n) classes and times, and the spikes presented and
pair-events met.
"""


def decisions(machine: Machine, weights: Sequence[Array], t_in: Array, together: int = TOGETHER) -> Decisions:
    """The first output spikes of samples, to the bit those of a full forward pass.

    A neuron's spike at T depends on what comes before T alone. So whatever spikes in an output neuron until a
    time h is known when inputs are presented until h, and a sample whose first output spike comes by then is
    decided. The others are presented again, whole, or go on where a job kept their sums. The time h is one
    by which nearly all samples of a small part are decided, chosen so that the fewest input spikes are
    presented; it changes speed alone.

    On a chip, and where spikes take time between neurons, samples are presented whole: what is delayed may be
    heard after what came later. So they are where neurons share weights.

    Args:
        weights: of each layer (n_replica, n_pre, n_post).
        t_in: (n_samples, n_inputs) spike times, inf = no spike.
        together: samples of a forward pass, where no job decides in less memory.
    """
    delayed = any(layer.delays is not None for layer in machine.layers)
    shares = any(layer.convolution is not None for layer in machine.layers)
    n_samples, whole = len(t_in), delayed or shares or not isinstance(machine, Architecture)
    by_job = _by_job(machine, weights)
    present, together = (by_job, IN_A_JOB) if by_job else (_by_pass(machine, weights), together)
    classes = np.empty((len(weights[0]), n_samples), np.int64)
    times, met = np.empty(classes.shape, t_in.dtype), np.zeros(2, np.int64)
    horizon = Horizon()
    for part in _parts(n_samples, 0 if whole else min(LOOKED_AT, together, n_samples), together):
        classes[:, part], times[:, part], of_part = present(t_in[part], horizon, part.start)
        met += of_part
        if part.start == 0 and not whole:
            horizon = _horizon(t_in[part], times[:, part], weights)
    spikes = np.count_nonzero(t_in < np.inf)
    return Decisions(classes, times, met[0] / max(spikes * len(weights[0]), 1), int(met[1]))


def _by_job(machine: Machine, weights: Sequence[Array]) -> Present | None:
    """By the kernels, in one job, where they have one for this network."""
    kernels: Any = machine.kernels
    neurons = [layer.neuron for layer in machine.layers]
    plain = all(layer.delays is None and layer.convolution is None for layer in machine.layers)
    if not isinstance(machine, Architecture) or not hasattr(kernels, "decide") or not plain:
        return None
    if not kernels.decides(weights, neurons):
        return None
    bias_times, there = [layer.bias_times for layer in machine.layers], [kernels.place(w) for w in weights]

    def present(
        given: Array, horizon: Horizon, first: int
    ) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        del first
        t_in = kernels.place(with_bias(given[None], bias_times[0])[0])
        classes, times, met = kernels.decide(t_in, there, neurons, bias_times, *horizon)
        return classes, times, met.sum(axis=(0, 1))

    return present


def _by_pass(machine: Machine, weights: Sequence[Array]) -> Present:
    """By forward passes."""

    def present(
        given: Array, horizon: Horizon, first: int
    ) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        shown, until = given, horizon.until
        if until < np.inf:
            shown = np.where(given <= until, given, np.asarray(np.inf, given.dtype))
        states = answer(machine, weights, machine.receive(shown[None], sort=False), Moment(first=first))
        t_out = states[-1].t_out
        times = t_out.min(axis=2)
        classes = np.where(np.isfinite(times), t_out.argmin(axis=2), -1)
        n_replica = len(t_out)
        pairs = sum(
            (np.isfinite(state.t_in).sum(axis=(0, 1)) * layer.fan_out).sum() * (n_replica // len(state.t_in))
            for state, layer in zip(states, machine.layers, strict=True)
        )
        met = np.array([n_replica * np.count_nonzero(shown < np.inf), pairs])
        again = np.flatnonzero((times > until).any(axis=0))
        if until < np.inf and again.size:
            classes[:, again], times[:, again], more = present(given[again], Horizon(), first)
            met = met + more
        return classes, times, met

    return present


def _parts(n_samples: int, first: int, together: int) -> Iterator[slice]:
    """Samples that are presented together: a first few, if any, then as many at a time as are meant to be."""
    if first:
        yield slice(0, first)
    for start in range(first, n_samples, max(together, 1)):
        yield slice(start, min(start + together, n_samples))


def _horizon(t_in: Array, decided: Array, weights: Sequence[Array]) -> Horizon:
    """When to look and to break off, from some samples' inputs and their (n_replica, n) decisions."""
    last = decided.max(axis=0)
    if not np.isfinite(last).any():
        return Horizon()
    candidates = np.quantile(last[np.isfinite(last)], QUANTILES).astype(t_in.dtype)
    spikes = np.sort(t_in[np.isfinite(t_in)])
    early = np.searchsorted(spikes, candidates, side="right") / max(len(spikes), 1)
    again = (last[:, None] > candidates).mean(axis=0)
    best = int(np.argmin(early + again))
    until = float(candidates[best]) if early[best] + again[best] < WORTH_IT else np.inf
    n_first, n_behind = weights[0].shape[2], sum(w.shape[1] * w.shape[2] for w in weights[1:])
    pays = n_first >= MANY and n_behind <= CHEAP * n_first
    return Horizon(until, (float(np.quantile(last[np.isfinite(last)], LOOK)),) if pays else ())
