"""Counts from the spikes of any simulator: tensors or event lists, and what they are connected to.

Nothing here knows how the spikes came about. Neurons may spike as often as they like.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.accountant.activity import Activity, Counts
from gpuspike.accountant.prices import Number, Prices
from gpuspike.errors import DtypeError, ShapeError, ValueRangeError, extent

Array = NDArray[Any]

MOST_BINS = 2000
"""Steps of the course of the counts over time."""

EVENTS = ("sample", "neuron", "time")


@dataclass(frozen=True)
class Spikes:
    """What one population did, one entry a spike, or several at one time.

    Attributes:
        n_neurons: of the population; None: not said.
        sample, neuron: of each entry;  time: the end of its time step;  number: of spikes.
    """

    n_neurons: int | None
    sample: NDArray[np.int64]
    neuron: NDArray[np.int64]
    time: Array
    number: Array


@dataclass(frozen=True)
class Synapses:
    """What the spikes of a population reach.

    Attributes:
        fan_out: (n_pre,) targets of each neuron.
        n_post: neurons that they lie on; None: not said.
        n_weights: places for a synapse;  bytes: of their weights.
    """

    fan_out: NDArray[np.int64]
    n_post: int | None
    n_weights: int
    bytes: int


def read_spikes(
    name: str, given: Any, duration: float | None, n_samples: int | None
) -> tuple[Spikes, float, int]:
    """Spikes as users have them, with the length of a trial in time steps and the number of samples.

    Args:
        name: for errors.
        given: (time, sample, neuron) numbers of spikes, as an array or a tensor; or a mapping with an array
            each for "sample", "neuron" and "time", one entry a spike, times in time steps from 0.
        duration, n_samples: of event lists, which do not say it; of tensors, what they must agree with; None:
            anything.

    Raises:
        DtypeError, ShapeError, ValueRangeError: what was expected and what was got.
    """
    if isinstance(given, Mapping):
        return _events(name, given, duration, n_samples)
    array = as_array(name, given)
    if array.ndim != 3 or not array.size:
        raise ShapeError(f"{name} must be (time, sample, neuron), got shape {array.shape}")
    n_steps, n, n_neurons = array.shape
    if n_samples is not None and n != n_samples:
        raise ShapeError(f"{name} must have {n_samples} samples, as others or n_samples say, got {n}")
    if duration is not None and n_steps != duration:
        raise ShapeError(
            f"{name} must have {duration:g} time steps, as others or duration say, got {n_steps}"
        )
    step, sample, neuron = np.nonzero(array)
    number = np.asarray(array[step, sample, neuron], np.float64)
    if not ((number > 0) & (number % 1 == 0) & np.isfinite(number)).all():
        wrong = number[~((number > 0) & (number % 1 == 0) & np.isfinite(number))]
        raise ValueRangeError(
            f"{name} must hold numbers of spikes, whole and 0 or more, got {wrong[0]:g}; what is no spike "
            "has no price on these chips"
        )
    return Spikes(n_neurons, sample, neuron, step + 1.0, number), float(n_steps), n


def as_array(name: str, given: Any) -> Array:
    """An array on the host, of a tensor of PyTorch too, on a device or with gradients.

    Raises:
        DtypeError: no numbers.
    """
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    elif hasattr(given, "__cuda_array_interface__"):
        given = given.get()
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(f"{name} must be an array, got {error}") from None
    if array.dtype.kind not in "biuf":
        raise DtypeError(f"{name} must hold numbers, got {array.dtype}")
    return array


def _events(
    name: str, given: Mapping[str, Any], duration: float | None, n_samples: int | None
) -> tuple[Spikes, float, int]:
    if set(given) - {"n_neurons"} != set(EVENTS):
        raise ValueRangeError(
            f"{name} must have {', '.join(EVENTS)}, and n_neurons if you like, got {', '.join(given)}"
        )
    if duration is None or n_samples is None:
        raise ValueRangeError(f"{name} is a list of events, which needs duration and n_samples, got none")
    sample, neuron, time = (as_array(f"{name}, {key}", given[key]) for key in EVENTS)
    if sample.ndim != 1 or not sample.shape == neuron.shape == time.shape:
        raise ShapeError(
            f"{name} must have one sample, neuron and time a spike, got {sample.shape}, {neuron.shape}, "
            f"{time.shape}"
        )
    n_neurons = given.get("n_neurons")
    for key, values, n in (("sample", sample, n_samples), ("neuron", neuron, n_neurons)):
        if values.size and (
            values.dtype.kind not in "iu" or values.min() < 0 or (n is not None and values.max() >= n)
        ):
            raise ValueRangeError(
                f"{name}, {key} must be whole numbers from 0{'' if n is None else f' to {n - 1}'}"
            )
    if time.size and not ((time >= 0) & (time <= duration)).all():
        raise ValueRangeError(f"{name}, time must lie from 0 to {duration!r}, got {extent(time)}")
    spikes = Spikes(
        n_neurons,
        sample.astype(np.int64),
        neuron.astype(np.int64),
        time.astype(np.float64),
        np.ones(len(time)),
    )
    return spikes, float(duration), n_samples


def read_synapses(name: str, given: Any) -> Synapses:
    """Synapses as users have them.

    Args:
        given: (n_pre, n_post) as a tuple: every neuron with every one; a matrix of that shape, whose zeros
            are no synapses; or (n_pre,) numbers of targets.

    Raises:
        DtypeError, ShapeError, ValueRangeError: what was expected and what was got.
    """
    if isinstance(given, tuple):
        if len(given) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in given):
            raise ShapeError(f"{name} must be (n_pre, n_post), two positive sizes, got {given!r}")
        n_pre, n_post = (int(n) for n in given)
        return Synapses(np.full(n_pre, n_post), n_post, n_pre * n_post, 4 * n_pre * n_post)
    array = as_array(name, given)
    if not np.isfinite(array).all():
        raise ValueRangeError(f"{name} must be finite")
    if array.ndim == 2 and array.size:
        return Synapses(np.count_nonzero(array, axis=1), array.shape[1], array.size, array.nbytes)
    if array.ndim == 1 and array.size:
        if (array < 0).any() or (array % 1 != 0).any():
            raise ValueRangeError(f"{name} of one axis must be numbers of targets, whole and 0 or more")
        fan_out = array.astype(np.int64)
        return Synapses(fan_out, None, int(fan_out.sum()), 4 * int(fan_out.sum()))
    raise ShapeError(
        f"{name} must be (n_pre, n_post), a matrix of that shape, or (n_pre,) targets, got {array.shape}"
    )


@dataclass(frozen=True)
class Recording:
    """Spikes of a network's populations, and what connects each to the next.

    Attributes:
        populations: inputs, hidden layers, outputs, as (spikes, number of neurons).
        synapses: from each to the next.
        bias: of each layer, further inputs with synapses of their own.
        duration: of a trial, in time steps.
    """

    populations: Sequence[tuple[Spikes, int]]
    synapses: Sequence[Synapses]
    bias: Sequence[Sequence[tuple[Spikes, Synapses]]]
    duration: float
    n_samples: int

    @property
    def steps(self) -> float:
        """Times of a trial at which a neuron may spike: 1 where none speaks twice, else its time steps."""
        for spikes, n in self.populations[1:]:
            pairs = np.unique(spikes.sample * n + spikes.neuron)
            if len(pairs) < len(spikes.sample) or spikes.number.max(initial=0.0) > 1.0:
                return self.duration
        return 1.0


def recording(
    spikes: Sequence[Any],
    synapses: Sequence[Any] | None,
    duration: float | None,
    n_samples: int | None,
    bias: Sequence[Sequence[tuple[str, Any, Any]]] = (),
    names: Sequence[str] = (),
) -> Recording:
    """A network's spikes and synapses, checked against each other.

    Args:
        spikes, synapses: see `read_spikes` and `read_synapses`; None: every neuron with every one of the
            next.
        bias: of each layer the further inputs: name, spikes, synapses.
        names: of the populations, for errors.

    Raises:
        DtypeError, ShapeError, ValueRangeError: what was expected and what was got.
    """
    if len(spikes) < 2:
        raise ShapeError(f"spikes must be those of the inputs and of one layer or more, got {len(spikes)}")
    if synapses is not None and len(synapses) != len(spikes) - 1:
        raise ShapeError(
            f"synapses must be {len(spikes) - 1}, one between each two populations, got {len(synapses)}"
        )
    told = list(names) or [f"spikes[{k}]" for k in range(len(spikes))]
    for value, name, least in ((duration, "duration", 0.0), (n_samples, "n_samples", 0)):
        if value is not None and not least < value < np.inf:
            raise ValueRangeError(f"{name} must be positive, got {value!r}")
    read = []
    for name, given in zip(told, spikes, strict=True):
        own, duration, n_samples = read_spikes(name, given, duration, n_samples)
        read.append(own)
    extra = []
    for layer in bias:
        extra.append([])
        for name, given, between in layer:
            own, duration, n_samples = read_spikes(name, given, duration, n_samples)
            extra[-1].append((own, read_synapses(name, between)))
            _fits(name, own, extra[-1][-1][1])
    assert duration is not None
    assert n_samples is not None
    if synapses is None:
        sizes = [_said(name, own.n_neurons) for name, own in zip(told, read, strict=True)]
        synapses = list(itertools.pairwise(sizes))
    links = [read_synapses(f"synapses[{k}]", given) for k, given in enumerate(synapses)]
    sizes = []
    for k, own in enumerate(read):
        _fits(told[k], own, links[k]) if k < len(links) else None
        known = [own.n_neurons] if k == len(links) else [len(links[k].fan_out)]
        known += [] if k == 0 else [links[k - 1].n_post]
        said = {n for n in known if n is not None}
        if len(said) > 1:
            raise ShapeError(
                f"{told[k]} must be as many neurons as synapses lead to, got "
                f"{' and '.join(map(str, sorted(said)))}"
            )
        sizes.append(_said(told[k], said.pop() if said else None))
        if own.neuron.size and own.neuron.max() >= sizes[-1]:
            raise ValueRangeError(
                f"{told[k]} must be spikes of {sizes[-1]} neurons, got one of neuron {own.neuron.max()}"
            )
    populations = list(zip(read, sizes, strict=True))
    return Recording(populations, links, extra or [[] for _ in links], duration, n_samples)


def _said(name: str, n: int | None) -> int:
    if n is None:
        raise ShapeError(f"{name} must say its n_neurons, or synapses must")
    return n


def _fits(name: str, spikes: Spikes, synapses: Synapses) -> None:
    if spikes.n_neurons is not None and spikes.n_neurons != len(synapses.fan_out):
        raise ShapeError(
            f"{name} must be {len(synapses.fan_out)} neurons, as its synapses have it (n_pre first), got "
            f"{spikes.n_neurons}"
        )


def activity(made: Recording, labels: NDArray[np.int64] | None, first: bool, tau_syn: float) -> Activity:
    """Counts of a recording.

    Args:
        labels: (n_samples,), None: not known, and nothing is right.
        first: the first output spike decides, when it comes; else the most output spikes, when the trial is
            over.
        tau_syn: in time steps.
    """
    outputs, n_out = made.populations[-1]
    duration = made.duration / tau_syn
    earliest = np.full((made.n_samples, n_out), np.inf)
    np.minimum.at(earliest, (outputs.sample, outputs.neuron), outputs.time)
    totals = np.zeros((made.n_samples, n_out))
    np.add.at(totals, (outputs.sample, outputs.neuron), outputs.number)
    merit = -earliest if first else totals
    best = merit.max(axis=1, keepdims=True)
    answers = merit.argmax(axis=1)
    decision = earliest.min(axis=1) if first else np.where(totals.any(axis=1), made.duration, np.inf)
    correct = np.zeros(made.n_samples, np.bool_) if labels is None else answers == labels
    stop = np.minimum(decision, made.duration)
    n_bins = min(int(np.ceil(made.duration)), MOST_BINS)

    def course(spikes: Spikes, weight: Array | None, until: Array) -> Array:
        """(n_bins + 1,) counts up to each time of the grid, a sample."""
        number = spikes.number if weight is None else spikes.number * weight[spikes.neuron]
        bins = np.ceil(spikes.time / made.duration * n_bins * (1.0 - 1e-12)).astype(np.int64)
        kept = spikes.time <= until[spikes.sample]
        return np.cumsum(np.bincount(bins[kept], number[kept], n_bins + 1)) / made.n_samples

    def counts(until: Array) -> Counts:
        own = [course(spikes, None, until) for spikes, _ in made.populations]
        events = [
            course(s, link.fan_out, until)
            for (s, _), link in zip(made.populations[:-1], made.synapses, strict=True)
        ]
        none = np.zeros(n_bins + 1)
        bias = [sum((course(s, None, until) for s, _ in layer), none) for layer in made.bias]
        reached = [sum((course(s, link.fan_out, until) for s, link in layer), none) for layer in made.bias]
        return Counts(np.array(own), np.array(bias), np.add(events, reached), np.array(reached))

    ended, decided = counts(np.full(made.n_samples, made.duration)), counts(stop)
    links = [
        [link, *(extra for _, extra in layer)] for link, layer in zip(made.synapses, made.bias, strict=True)
    ]
    n_neurons = tuple(n for _, n in made.populations)
    n_bias = tuple(sum(len(link.fan_out) for _, link in layer) for layer in made.bias)
    return Activity(
        n_neurons=n_neurons,
        fan_in=tuple(before + bias for before, bias in zip(n_neurons[:-1], n_bias, strict=True)),
        n_synapses=tuple(sum(link.n_weights for link in layer) for layer in links),
        n_nonzero=np.array([[sum(int(link.fan_out.sum()) for link in layer) for layer in links]]),
        weight_bytes=sum(link.bytes for layer in links for link in layer),
        t_decision=decision[None] / tau_syn,
        correct=correct[None],
        tied=(((merit == best).sum(axis=1) > 1) & np.isfinite(decision))[None],
        labels=np.full(made.n_samples, -1) if labels is None else labels,
        ended={duration: _last(ended)},
        decided={duration: _last(decided)},
        grid=np.linspace(0.0, duration, n_bins + 1),
        course_ended=ended,
        course_decided=decided,
    )


def _last(counts: Counts) -> Counts:
    return Counts(*(getattr(counts, name)[:, -1] for name in Counts.__dataclass_fields__))


def for_recording(prices: Prices, duration: float, tau_syn: float | None) -> Prices:
    """A chip's prices for spikes that have time steps of their own.

    A clocked chip makes each of them one of its own. One that is not needs to know how long a time step is,
    in synaptic time constants of the network; without it its time is not known.

    Args:
        duration: of a trial;  tau_syn: both in time steps.
    """
    unit = 1.0 if tau_syn is None else float(tau_syn)

    def stated(value: float, name: str, source: str) -> Number:
        return Number(np.array([value, value]), value, name, source, "stated")

    times = dict(prices.times) | {"trial": stated(duration / unit, "tau_syn", "the spikes that were given")}
    if prices.clocked:
        times["steps_per_tau_syn"] = stated(unit, "1", "a time step of the given spikes is one of the chip's")
    elif tau_syn is None:
        times["tau_syn"] = replace(times["tau_syn"], band=None, value=None)
    return replace(prices, times=times)
