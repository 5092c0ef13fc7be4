"""Initial weights that are measured, not guessed: each layer spikes as often, and as early, as is wished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import LayerState
from gpuspike.kernels.bias import with_bias
from gpuspike.network.initial import DEVIATION, typical
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.network.network import Architecture, Machine
from gpuspike.rng import Purpose, stream

Array = NDArray[Any]

SAMPLES = 200
"""Samples that are looked at."""

MEANS, DEVIATIONS = (-20.0, 40.0), (0.05, 5.0)
"""What is tried: means in w1/n, deviations in w1/sqrt(n); with w1 a single input reaches the threshold."""

MEAN_STEPS, DEVIATION_STEPS = 16, 8
"""Halvings of these ranges."""

Answer = Callable[[Array], LayerState]


def silent_pairs(layer: Layer, state: LayerState) -> NDArray[np.bool_]:
    """(n_replica, n_batch, n_neurons) who does not spike, maps before anything is pooled."""
    return np.isinf(state.t_out if layer.convolution is None else state.seen)


def calibrated(
    machine: Machine,
    received: LayerInput,
    seeds: Sequence[int],
    fires: Sequence[float],
    spikes_at: Sequence[float] | None,
    dtype: DTypeLike,
) -> list[Array]:
    """Initial weights with which each layer spikes as often as is wished, layer by layer on a batch.

    Weights are normal, as those of `Architecture.initial_weights`: their numbers are the same, their mean and
    deviation are found for each replica by itself. For a given deviation the mean decides how many
    (sample, neuron) pairs spike; with a larger one and that share kept, they spike earlier.

    Args:
        machine: the network, or the network on its chip, which answers.
        received: the first layer's input, one replica's; its first `SAMPLES` samples are looked at.
        fires: of each layer the share of pairs that spike, in (0, 1).
        spikes_at: of each layer the delay from the median of its inputs to that of its spikes, in the unit of
            time, as far as it can be had; None: a deviation of `initial.DEVIATION` w1/sqrt(n).

    Returns:
        For each layer (n_replica, n_pre, n_post).

    Raises:
        ValueRangeError: a share outside (0, 1), or lists for another number of layers.
    """
    layers = machine.layers
    for name, values in (("fires", fires), ("spikes_at", spikes_at)):
        if values is not None and len(values) != len(layers):
            raise ValueRangeError(f"{name} must have {len(layers)} values, one a layer, got {len(values)}")
    if not all(0.0 < share < 1.0 for share in fires):
        raise ValueRangeError(f"fires must lie between 0 and 1, got {list(fires)}")
    part = received.part(0, min(SAMPLES, received.t_in.shape[1]))
    weights = [np.zeros((len(seeds), layer.n_pre, layer.n_post), dtype) for layer in layers]
    t_in = part.t_in
    for number, layer in enumerate(layers):
        answer = _alone(machine, layer, t_in) if isinstance(machine, Architecture) else _among(
            machine, part, weights, number
        )  # fmt: skip
        drawn = np.stack(
            [stream(seed, Purpose.WEIGHTS, number).normal(size=weights[number].shape[1:]) for seed in seeds]
        )
        at = None if spikes_at is None else spikes_at[number]
        weights[number][...] = _search(answer, layer, drawn, fires[number], at, dtype)
        if number + 1 < len(layers):
            t_in = with_bias(answer(weights[number]).t_out, layers[number + 1].bias_times)
    return weights


def _alone(network: Architecture, layer: Layer, t_in: Array) -> Answer:
    """What a layer answers to an input that is known."""
    single = Architecture((layer,), network.kernels)
    received = LayerInput(t_in, network.kernels.spike_order(t_in) if layer.convolution is None else None)
    return lambda w: single.forward([w], received)[0]


def _among(machine: Machine, received: LayerInput, weights: list[Array], number: int) -> Answer:
    """What it answers as one of many, of which those behind it have no weights yet."""

    def answer(w: Array) -> LayerState:
        return machine.forward([*weights[:number], w, *weights[number + 1 :]], received, Moment())[number]

    return answer


def _search(
    answer: Answer, layer: Layer, drawn: Array, fires: float, at: float | None, dtype: DTypeLike
) -> Array:
    neuron, n = typical(layer.neuron), layer.n_pre
    single = float(neuron.span) / neuron.kernel_peak[1]

    def weights(mean: Array, deviation: Array) -> Array:
        drawn_now = drawn * (deviation * single / n**0.5)[:, None, None]
        return (drawn_now + (mean * single / n)[:, None, None]).astype(dtype)

    def mean_for(deviation: Array) -> tuple[Array, LayerState]:
        low, high = (np.full(len(drawn), end) for end in MEANS)
        for _ in range(MEAN_STEPS):
            middle = 0.5 * (low + high)
            share = 1.0 - silent_pairs(layer, answer(weights(middle, deviation))).mean(axis=(1, 2))
            low, high = np.where(share < fires, middle, low), np.where(share < fires, high, middle)
        return high, answer(weights(high, deviation))

    deviation = np.full(len(drawn), DEVIATION)
    if at is not None:
        low, high = (np.full(len(drawn), np.log(end)) for end in DEVIATIONS)
        for _ in range(DEVIATION_STEPS):
            middle = 0.5 * (low + high)
            late = _delay(mean_for(np.exp(middle))[1], len(drawn)) > at
            low, high = np.where(late, middle, low), np.where(late, high, middle)
        deviation = np.exp(0.5 * (low + high))
    return weights(mean_for(deviation)[0], deviation)


def _delay(state: LayerState, n_replica: int) -> NDArray[np.float64]:
    """(n_replica,) from the median of all input spikes to the median of all spikes."""

    def median(times: Array, replica: int) -> float:
        known = times[replica if len(times) > 1 else 0]
        known = known[np.isfinite(known)]
        return float(np.median(known)) if known.size else np.inf

    return np.array([median(state.t_cross, r) - median(state.t_in, r) for r in range(n_replica)])
