"""Counts times prices: what a chip would need, in seconds and joules. Model time becomes SI here only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.accountant.activity import Activity, Counts, within
from gpuspike.accountant.prices import ALL_IN, Prices
from gpuspike.accountant.units import plain_band
from gpuspike.errors import PriceError

Array = NDArray[Any]


@dataclass(frozen=True)
class Fit:
    """How a network lies on a chip.

    Attributes:
        chips: at least this many; None where the capacity is not known or the network does not fit.
        share: of these chips' neurons that are in use.
        cores: of each layer, None where the chip has none.
        circuits: joined for a neuron of each layer, None where that is not known.
        reason: why `chips` is None.
    """

    chips: int | None
    share: float | None
    cores: tuple[int, ...] | None
    reason: str = ""
    circuits: tuple[int, ...] | None = None


NOTED = 0.005
"""Share of samples without a decision from which on it is noted."""

TIES_NOTED = 0.01
"""Share of samples whose decision is a tie from which on it is noted."""

UNKNOWN = "its capacity.neurons is not known"
"""The reason where nobody can tell whether a network fits."""


def fit(prices: Prices, n_neurons: Sequence[int], fan_ins: Sequence[int]) -> Fit:
    """Counts the chips and cores that a network takes, as if it were packed without loss.

    Args:
        n_neurons: inputs, neurons of each hidden layer, outputs.
        fan_ins: inputs of a neuron of each layer, bias spikes included.
    """
    on_chip = n_neurons[1:]
    core_neurons = prices.number_of("core_neurons")
    cores = None if core_neurons is None else tuple(math.ceil(n / core_neurons) for n in on_chip)
    neurons, fan_in = prices.number_of("neurons"), prices.number_of("fan_in")
    if neurons is None:
        return Fit(None, None, cores, UNKNOWN)
    circuits = [1] * len(on_chip)
    if fan_in is not None:
        rows = [n * (prices.number_of("rows_per_weight") or 1) for n in fan_ins]
        if max(rows) > fan_in and not prices.merges:
            return Fit(None, None, cores, f"a neuron has {max(fan_ins)} inputs, the chip's have {fan_in}")
        circuits = [math.ceil(row / fan_in) for row in rows]
    used = sum(n * c for n, c in zip(on_chip, circuits, strict=True))
    chips = math.ceil(used / neurons)
    known = None if fan_in is None else tuple(circuits)
    return Fit(chips, used / (chips * neurons), cores, circuits=known)


def hops(n_cores: int, cores_per_tile: int) -> float:
    """Mean way between two tiles of a square that holds the cores, in tiles: 2 (n^2 - 1)/(3 n) for n x n."""
    side = math.ceil(math.sqrt(math.ceil(n_cores / cores_per_tile)))
    return 2.0 * (side**2 - 1) / (3.0 * side)


class Clock:
    """From model time to a chip's: to its seconds, and to its time steps if it is clocked."""

    def __init__(self, prices: Prices) -> None:
        self._per_tau = prices.steps_per_tau if prices.clocked else None
        self._unit = prices.times["step" if prices.clocked else "tau_syn"].band

    def ticks(self, t: Any) -> Any:
        """Times [tau_syn] as the chip tells them apart: whole steps, or the same again."""
        if self._per_tau is None:
            return t
        # A time on a step belongs to it, though float32 may have put it a rounding above.
        return np.ceil(np.asarray(t) * self._per_tau * (1.0 - 1e-6))

    def between(self, t: Array) -> NDArray[np.bool_]:
        """Which times [tau_syn] lie between two steps; none without a clock."""
        if self._per_tau is None:
            return np.zeros(t.shape, np.bool_)
        return self.ticks(t) - t * self._per_tau > 1e-4

    def steps(self, ticks: Any) -> Any:
        """Time steps, None where there are none."""
        return None if self._per_tau is None else ticks

    def seconds(self, ticks: Any) -> Array | None:
        """(2, ...) band of seconds; None where the chip's time is not known."""
        return None if self._unit is None else np.multiply.outer(self._unit, ticks)


@dataclass(frozen=True)
class Use:
    """What a sample takes of a chip.

    Attributes:
        counts: spikes and events.
        steps: time steps, None without a clock.
        seconds: (2, ...) that power is drawn, None if not known.
    """

    counts: Counts
    steps: Any
    seconds: Array | None


def quantities(use: Use, activity: Activity, prices: Prices, where: Fit) -> dict[str, Any]:
    """How much of each thing that a chip may charge for a sample takes, by key of `prices.PER`.

    Power is charged for time, which has a band: (2, ...) chip-seconds and neuron-seconds. None: not known.
    """
    counts, n_neurons = use.counts, sum(activity.n_neurons[1:])
    messages = distance = None
    if where.cores is not None:
        # Each layer's inputs go to all of its cores; the outputs leave the chip once.
        copies = [*where.cores, 1]
        messages = sum(spikes * n for spikes, n in zip(counts.spikes, copies, strict=True))
        messages = messages + sum(s * n for s, n in zip(counts.bias_spikes, where.cores, strict=True))
        per_tile = prices.number_of("cores_per_tile")
        distance = None if per_tile is None else messages * hops(sum(where.cores), per_tile)
    return {
        "synaptic_event": counts.events.sum(axis=0),
        "spike": counts.spikes.sum(axis=0) + counts.bias_spikes.sum(axis=0),
        "neuron_spike": counts.spikes[1:].sum(axis=0),
        "message": messages,
        "hop": distance,
        "neuron_update": None if use.steps is None else use.steps * n_neurons,
        "chip": None if use.seconds is None or where.chips is None else use.seconds * where.chips,
        "neuron": None if use.seconds is None else use.seconds * n_neurons,
    }


def overhead(prices: Prices) -> Array:
    """(2,) seconds of a sample in which it is not presented: reset and transfer, as far as they are given."""
    given = (prices.times[key].band for key in ("reset", "transfer") if key in prices.times)
    return sum((band for band in given if band is not None), np.zeros(2))


def energy_terms(use: Use, activity: Activity, prices: Prices) -> dict[str, Array]:
    """Energy of a sample by term, each (2, ...) from the lowest to the highest [J].

    Raises:
        PriceError: terms that are charged and cannot be: no price is known, or not how much of it is used.
    """
    where = fit(prices, activity.n_neurons, activity.fan_in)
    amounts = quantities(use, activity, prices, where)
    missing = [item.name for item in prices.items if item.number.band is None]
    if missing:
        raise PriceError(f"{prices.name}: no price is known for {', '.join(missing)}")
    terms = {}
    for item in prices.items:
        amount, price = amounts[item.per], item.number.band
        assert price is not None
        if amount is None:
            reason = (
                where.reason if item.per == "chip" and use.seconds is not None else "its time is not known"
            )
            raise PriceError(f"{prices.name}: {item.name} is charged by the {item.per}, but {reason}")
        # Times are bands already, counts are not.
        timed = item.per in ("chip", "neuron")
        shape = (2, *(1,) * (np.ndim(amount) - timed))
        terms[item.name] = price.reshape(shape) * amount
    return terms


def _in_steps(activity: Activity | None, clock: Clock, trial: float) -> dict[str, Any] | None:
    if activity is None:
        return None
    decided = within(activity.t_decision, trial)
    t_decided = activity.t_decision[decided]
    return {
        "accuracy": float((activity.correct & decided).mean()),
        "undecided_share": float(1.0 - decided.mean()),
        "tied_share": float((activity.tied & decided).mean()),
        "time_to_decision_s": _in_seconds(clock, _quantiles(clock.ticks(t_decided))),
        "time_to_decision_tau": _quantiles(t_decided),
    }


def account(
    activity: Activity,
    prices: Prices,
    class_names: Sequence[str],
    in_steps: Callable[[], Activity | None] = lambda: None,
) -> dict[str, Any]:
    """What a chip would have needed for a split: the part "chip" of summary.json, see docs/accounting.md.

    Energies are those of whole trials; those until the decision stand under "until_decision". A band is a
    list of two, from low to high. Where a price is missing, energies are None and "refused" says why.

    Args:
        activity: counted with `prices.trial` among the trials.
        in_steps: see `price.cost_of`.
    """
    clock, trial = Clock(prices), prices.trial
    decided = within(activity.t_decision, trial)
    where = fit(prices, activity.n_neurons, activity.fan_in)
    whole = clock.ticks(trial)
    stop = clock.ticks(np.minimum(activity.t_decision, trial)).mean()
    extra = overhead(prices)
    parts = {}
    for name, counts, ticks in (
        ("until_end", activity.ended[trial], whole),
        ("until_decision", activity.decided[trial], stop),
    ):
        seconds = clock.seconds(ticks)
        use = Use(counts, clock.steps(ticks), None if seconds is None else seconds + extra)
        parts[name] = _used(use, activity, prices)
    per_sample = parts["until_end"]["seconds"]
    t_decided = activity.t_decision[decided]
    between = float(clock.between(t_decided).sum() / decided.size)
    return {
        **prices.kept(),
        "time_to_decision_s": _in_seconds(clock, _quantiles(clock.ticks(t_decided))),
        "time_to_decision_tau": _quantiles(t_decided),
        "undecided_share": float(1.0 - decided.mean()),
        "right_after_trial_share": float((activity.correct & ~decided).mean()),
        "tied_share": float((activity.tied & decided).mean()),
        "between_steps_share": between,
        "in_steps": _in_steps(in_steps() if between else None, clock, trial),
        "slowest_class": _slowest(activity, decided, clock, class_names),
        "accuracy": float((activity.correct & decided).mean()),
        "seconds_per_sample": per_sample,
        "seconds_per_sample_terms": {
            "trial": plain_band(clock.seconds(whole)),
            **{
                key: plain_band(prices.times[key].band)
                for key in ("reset", "transfer")
                if key in prices.times
            },
        },
        "samples_per_s": _inverse(per_sample),
        "energy_per_classification_J": parts["until_end"]["energy_J"],
        "energy_terms_J": parts["until_end"]["energy_terms_J"],
        "energy_delay_product_Js": parts["until_end"]["energy_delay_product_Js"],
        "refused": parts["until_end"].pop("refused"),
        "evidence": prices.evidence,
        "time_evidence": prices.time_evidence,
        "spikes_per_sample": parts["until_end"]["spikes_per_sample"],
        "synaptic_events_per_sample": parts["until_end"]["synaptic_events_per_sample"],
        "chips_needed": where.chips,
        "chip_share": where.share,
        "cores": None if where.cores is None else sum(where.cores),
        "does_not_fit": where.reason or None,
        "circuits_per_neuron": None if where.circuits is None else list(where.circuits),
        "energy_is_the_trials": prices.scope == ALL_IN and prices.items[0].per == "chip",
        **{name: {k: v for k, v in part.items() if k != "refused"} for name, part in parts.items()},
    }


def _used(use: Use, activity: Activity, prices: Prices) -> dict[str, Any]:
    """One of the two halves of the account: whole trials, or trials until the decision."""
    terms: dict[str, Array] = {}
    refused = None
    try:
        terms = energy_terms(use, activity, prices)
    except PriceError as error:
        refused = str(error)
    total = sum(terms.values(), np.zeros(2)) if terms else None
    counts = use.counts
    where = fit(prices, activity.n_neurons, activity.fan_in)
    amounts = quantities(use, activity, prices, where)
    hidden = counts.spikes[1:-1]
    by_layer = {f"hidden_{k}": float(n) for k, n in enumerate(hidden, 1)} if len(hidden) > 1 else {}
    return {
        "seconds": plain_band(use.seconds),
        "energy_J": plain_band(total),
        "energy_terms_J": {name: plain_band(term) for name, term in terms.items()} or None,
        "energy_delay_product_Js": None
        if total is None or use.seconds is None
        else plain_band(total * use.seconds),
        "spikes_per_sample": {
            "input": float(counts.spikes[0]),
            "bias": float(counts.bias_spikes.sum()),
            "hidden": float(hidden.sum()),
            **by_layer,
            "output": float(counts.spikes[-1]),
        },
        "synaptic_events_per_sample": float(counts.events.sum()),
        "synaptic_events_by_layer": [float(n) for n in counts.events],
        "bias_events_by_layer": [float(n) for n in counts.bias_events],
        "time_steps": None if use.steps is None else float(use.steps),
        **{
            f"{key}s": None if amounts[key] is None else float(amounts[key])
            for key in ("neuron_update", "message", "hop")
        },
        "refused": refused,
    }


def _quantiles(values: Array) -> dict[str, float | None]:
    """Mean, median and 99th percentile; None where there is nothing."""
    if not values.size:
        return {"mean": None, "p50": None, "p99": None}
    p50, p99 = np.quantile(values, (0.5, 0.99))
    return {"mean": float(values.mean()), "p50": float(p50), "p99": float(p99)}


def _in_seconds(clock: Clock, ticks: Mapping[str, float | None]) -> dict[str, Any] | None:
    known = {name: None if t is None else clock.seconds(t) for name, t in ticks.items()}
    if clock.seconds(0.0) is None:
        return None
    return {name: plain_band(value) for name, value in known.items()}


def _slowest(
    activity: Activity, decided: NDArray[np.bool_], clock: Clock, class_names: Sequence[str]
) -> dict[str, Any] | None:
    """The class whose decided samples take longest in the mean."""
    means = {}
    for label, name in enumerate(class_names):
        chosen = decided & (activity.labels == label)
        if chosen.any():
            means[name] = float(clock.ticks(activity.t_decision[chosen]).mean())
    if not means:
        return None
    name = max(means, key=lambda key: means[key])
    return {"class": name, "mean_s": plain_band(clock.seconds(means[name]))}


def _inverse(seconds: float | list[float] | None) -> float | list[float] | None:
    if isinstance(seconds, list):
        return [1.0 / seconds[1], 1.0 / seconds[0]]
    return None if seconds is None else 1.0 / seconds
