"""What a network did on a split: spikes, deliveries and decision times, counted while it is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import LayerState, load
from gpuspike.network.layers import Layer
from gpuspike.training.losses import decide, tied

Array = NDArray[Any]

STRIDE = 32
"""Every so manieth sample gives the course of the counts over time, which takes longer than the counts."""

STEPS_PER_TAU = 20
"""Resolution of that course."""


_LATE = 1.0 + 1e-6
"""What comes at the end of a trial is in it, though its time may have been rounded up."""


def within(t: Any, trial: float) -> Any:
    """Which times [tau_syn] lie in a trial of that length."""
    return t <= trial * _LATE


@dataclass(frozen=True)
class Counts:
    """Means over samples and replicas. The last axes, if any, are those of what was counted: grid times.

    Attributes:
        spikes: (n_layer + 1, ...) of the inputs, of each hidden layer and of the outputs.
        bias_spikes: (n_layer, ...) that each layer received, those of a padding that spikes among them.
        events: (n_layer, ...) synaptic events: each spike as often as it has a target, that is, a weight
            other than 0; bias spikes included.
        bias_events: (n_layer, ...) those of bias spikes alone.
    """

    spikes: Array
    bias_spikes: Array
    events: Array
    bias_events: Array


@dataclass(frozen=True)
class Activity:
    """What a network did on a split. Times are in tau_syn.

    Attributes:
        n_neurons: inputs, neurons of each hidden layer, outputs.
        fan_in: inputs of a neuron of each layer, bias spikes included: of a convolution those of a patch.
        n_synapses: of each layer, a weight as often as neurons share it;  n_nonzero: (n_replica, n_layer)
            those other than 0.
        weight_bytes: of one replica, shared ones once.
        t_decision: (n_replica, n_samples) first output spike, inf without one.
        correct: (n_replica, n_samples) whether the first output spike is the label's.
        tied: (n_replica, n_samples) whether several output neurons spike first, at one time, or have the most
            spikes where these decide: the lowest is the answer.
        labels: (n_samples,).
        ended, decided: by trial length, the counts until the trial's end, and until the decision if that is
            earlier.
        grid: (n_time,) 0 to the longest trial.
        course_ended, course_decided: the counts up to each of these times if every sample runs until then,
            and if each stops at its decision; from every STRIDE-th sample, scaled to the counts of all.
    """

    n_neurons: tuple[int, ...]
    fan_in: tuple[int, ...]
    n_synapses: tuple[int, ...]
    n_nonzero: Array
    weight_bytes: int
    t_decision: Array
    correct: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    labels: NDArray[np.int64]
    ended: dict[float, Counts]
    decided: dict[float, Counts]
    grid: Array
    course_ended: Counts
    course_decided: Counts


@cache
def _kernels() -> ModuleType:
    load("cpu")  # says where compiled code is kept
    from gpuspike.accountant import counting

    return counting


class Counter:
    """Watches an evaluation: pass it to `evaluation.evaluate` as `on_batch`, then ask for the `activity`.

    Args:
        layers: of the network.
        weights: of each layer (n_replica, n_pre, n_post), as the chip has them: those of 0 are no synapses.
        n_samples: of the split.
        trials: lengths of a trial [tau_syn] until which to count: those of the chips of interest.
        tau_syn: the network's, in its unit of time.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        weights: Sequence[Array],
        n_samples: int,
        trials: Sequence[float],
        tau_syn: float = 1.0,
    ) -> None:
        self._layers, self._weights = tuple(layers), weights
        self._tau_syn = tau_syn
        self._trials = sorted(set(trials))
        dtype, n_replica = weights[0].dtype, len(weights[0])
        self._n_samples = n_samples
        self._ends = np.array([trial * _LATE * tau_syn for trial in self._trials], dtype)
        self._steps_per_unit = dtype.type(STEPS_PER_TAU / tau_syn)
        self._n_step = int(np.ceil(self._trials[-1] * STEPS_PER_TAU)) + 1
        # A padding that spikes is one more input, as often as it has places.
        self._border = [
            0 if (maps := layer.convolution) is None or maps.pad_time == np.inf else maps.border
            for layer in layers
        ]
        received = [layer.n_received + (n > 0) for layer, n in zip(layers, self._border, strict=True)]
        sizes = [*received, layers[-1].n_out]
        # Of windows the earliest spike alone goes on; the others are spikes for all that.
        self._pooled = [k for k, layer in enumerate(layers) if layer.n_neurons != layer.n_out]
        sizes += [layers[k].n_neurons for k in self._pooled]

        def zeros(n: int) -> list[Array]:
            return [np.zeros((2, n_replica, n, size), np.int32) for size in sizes]

        self._totals = zeros(len(self._trials))
        self._course = zeros(self._n_step + 1)  # and one for what comes later
        self._n_sampled = len(range(0, n_samples, STRIDE))

    def __call__(self, first: int, last: int, states: Sequence[LayerState]) -> None:
        """Counts a batch.

        Args:
            first, last: samples of the split, the last one not included.
            states: of each layer.
        """
        kernels, t_out = _kernels(), states[-1].t_out
        t_decision = np.empty(t_out.shape[:2], t_out.dtype)
        kernels.earliest(t_out, t_decision)
        times = [state.t_in for state in states]
        for k, layer in enumerate(self._layers):
            if self._border[k] and (maps := layer.convolution) is not None:
                around = np.full((*times[k].shape[:2], 1), maps.pad_time, times[k].dtype)
                times[k] = np.concatenate([times[k], around], axis=2)
        times += [t_out, *(states[k].seen for k in self._pooled)]
        grid = first, STRIDE, self._steps_per_unit
        for spikes, totals, course in zip(times, self._totals, self._course, strict=True):
            kernels.count(spikes, t_decision, self._ends, totals, *grid, course)

    def activity(self, t_out: Array, labels: NDArray[np.int64]) -> Activity:
        """What was counted, after the last batch.

        Args:
            t_out: (n_replica, n_samples, n_classes) output spikes of the whole split.
            labels: (n_samples,).
        """
        ended, decided = (self._means([c[which] for c in self._totals], self._n_samples) for which in (0, 1))
        grid = np.minimum(np.arange(self._n_step) / STEPS_PER_TAU, self._trials[-1])
        courses = [
            self._means([np.cumsum(c[which], axis=1)[:, :-1] for c in self._course], self._n_sampled)
            for which in (0, 1)
        ]
        layers = self._layers
        return Activity(
            n_neurons=(layers[0].n_in, *(layer.n_neurons for layer in layers)),
            fan_in=tuple(layer.n_pre for layer in layers),
            n_synapses=tuple(layer.n_pre * layer.n_neurons for layer in layers),
            n_nonzero=np.stack([fan_out.sum(axis=1) for fan_out in self._fan_outs()], axis=1),
            weight_bytes=sum(weights[0].nbytes for weights in self._weights),
            t_decision=t_out.min(axis=2).astype(np.float64) / self._tau_syn,
            correct=decide(t_out) == labels,
            tied=tied(t_out),
            labels=labels,
            ended={trial: _pick(ended, k) for k, trial in enumerate(self._trials)},
            decided={trial: _pick(decided, k) for k, trial in enumerate(self._trials)},
            grid=grid,
            course_ended=_scaled(courses[0], _pick(ended, -1)),
            course_decided=_scaled(courses[1], _pick(decided, -1)),
        )

    def _fan_outs(self) -> list[Array]:
        """For each layer (n_replica, n_received): targets of each input, at all positions of a weight.

        Those of a padding that spikes, all its places together, stand last.
        """
        targets = [np.count_nonzero(weights, axis=2) for weights in self._weights]
        return [
            own if (maps := layer.convolution) is None else maps.reached(own)[:, : layer.n_received + (n > 0)]
            for own, layer, n in zip(targets, self._layers, self._border, strict=True)
        ]

    def _means(self, totals: Sequence[Array], n_samples: int) -> Counts:
        """Means a sample from each neuron's totals, (n_replica, n, n_neuron) of each population."""
        own, bias, events, bias_events = [], [], [], []
        fan_outs = self._fan_outs()
        for number, total in enumerate(totals):
            mean = total.mean(axis=0, dtype=np.float64) / n_samples
            if number > len(fan_outs):  # what the next layer hears of these has been counted as its input
                own[self._pooled[number - len(fan_outs) - 1] + 1] = mean.sum(axis=1)
                continue
            if number == len(fan_outs):
                own.append(mean.sum(axis=1))
                continue
            n_in = self._layers[number].n_in
            reached = (total * fan_outs[number][:, None]).mean(axis=0, dtype=np.float64) / n_samples
            own.append(mean[:, :n_in].sum(axis=1))
            if self._border[number]:
                mean[:, -1] *= self._border[number]
            bias.append(mean[:, n_in:].sum(axis=1))
            events.append(reached.sum(axis=1))
            bias_events.append(reached[:, n_in:].sum(axis=1))
        return Counts(np.array(own), np.array(bias), np.array(events), np.array(bias_events))


def _pick(counts: Counts, k: int) -> Counts:
    return Counts(
        counts.spikes[:, k], counts.bias_spikes[:, k], counts.events[:, k], counts.bias_events[:, k]
    )


def _scaled(course: Counts, total: Counts) -> Counts:
    """A course whose last entry is the total."""

    def scale(part: Array, whole: Array) -> Array:
        last = part[:, -1]
        return part * np.divide(whole, last, out=np.ones_like(whole), where=last > 0)[:, None]

    return Counts(
        scale(course.spikes, total.spikes),
        scale(course.bias_spikes, total.bias_spikes),
        scale(course.events, total.events),
        scale(course.bias_events, total.bias_events),
    )
