"""The CPU backend: Numba kernels on NumPy arrays, compiled once a machine and cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array, LayerState, Trial, layerwise
from gpuspike.kernels.bias import with_bias as with_bias
from gpuspike.kernels.bias import without_bias as without_bias
from gpuspike.kernels.constants import regime
from gpuspike.kernels.cpu import backward as _backward
from gpuspike.kernels.cpu import beside as _beside
from gpuspike.kernels.cpu import compiler as _compiler
from gpuspike.kernels.cpu import convolution as convolution
from gpuspike.kernels.cpu import deciding as _deciding
from gpuspike.kernels.cpu import descent as _descent
from gpuspike.kernels.cpu import forward as _forward
from gpuspike.kernels.cpu import images as _images
from gpuspike.kernels.cpu import leaves as _leaves
from gpuspike.kernels.cpu import loss as _loss
from gpuspike.kernels.cpu import normals as _update
from gpuspike.kernels.cpu import own_taus as _own_taus
from gpuspike.kernels.cpu import records as _records
from gpuspike.kernels.cpu import single as single
from gpuspike.kernels.cpu import slopes as _slopes
from gpuspike.kernels.cpu import sort as _sort
from gpuspike.kernels.cpu import training as _training
from gpuspike.kernels.reference import draws as reference_step
from gpuspike.kernels.unit import AnyNeurons, Unit, times, unit
from gpuspike.neuron import LIF

compiling, with_second_process = _compiler.compiling, _beside.offered
spike_order = _sort.spike_order
jitter, normals = _update.jitter, _update.normals
score, descend = _loss.score, _descent.descend
warp = _images.warp
count_silent, place = reference_step.count_silent, reference_step.place


class _OneByOne:
    """Layer after layer, where neurons have time constants of their own; see `layerwise.LayerKernels`."""

    def backward(
        self,
        t_in: Array,
        weights: Array,
        unit: Unit,
        t_out: Array,
        slope: Array,
        t_out_grad: Array,
        *,
        order: NDArray[np.int64],
        **options: Any,
    ) -> tuple[Array | None, Array]:
        if unit.taus is not None:
            return _own_taus.backward(t_in, order, weights, unit.taus, t_out, slope, t_out_grad, **options)
        state = LayerState(t_in, order, t_out, t_out, slope)
        t_in_grad, (grad,) = _backward.backward([state], [weights], [unit], t_out_grad, **options)
        return t_in_grad, grad


_one_by_one = layerwise.Stack(cast(Any, _OneByOne()))


class _Stack:
    """A stack of layers, in one job where neurons of each share their time constants."""

    def forward(
        self,
        t_in: Array,
        order: NDArray[np.int64] | None,
        weights: Sequence[Array],
        units: Sequence[Unit],
        bias_times: Sequence[Sequence[float]],
        trials: Sequence[Trial] | None = None,
    ) -> list[LayerState]:
        if all(unit.taus is None for unit in units):
            return _forward.forward(t_in, order, weights, units, bias_times, trials)
        states: list[LayerState] = []
        for number, (w, one) in enumerate(zip(weights, units, strict=True)):
            trial = None if trials is None else trials[number]
            following = bias_times[number + 1] if number + 1 < len(weights) else None
            if one.taus is not None:
                state, t_in, order = _own_taus.forward(t_in, order, w, one.taus, trial, following)
            else:
                trial = None if trial is None else [trial]
                (state,) = _forward.forward(t_in, order, [w], [one], [()], trial, deeper=True)
                t_in, order = with_bias(state.t_out, following or ()), None
            states.append(state)
        return states

    def backward(
        self,
        states: Sequence[LayerState],
        weights: Sequence[Array],
        units: Sequence[Unit],
        t_out_grad: Array,
        **options: Any,
    ) -> tuple[Array | None, list[Array]]:
        shared = all(unit.taus is None for unit in units)
        backward = _backward.backward if shared else _one_by_one.backward
        return backward(states, weights, units, t_out_grad, **options)

    def slopes(self, t_in: Array, weights: Array, unit: Unit, t_out: Array) -> Array:
        if unit.taus is not None:
            return _own_taus.slopes(t_in, weights, unit.taus, t_out)
        return _slopes.slopes(t_in, weights, unit, t_out, at_crossing=False)

    def crossing_slopes(self, t_in: Array, weights: Array, unit: Unit, t_out: Array) -> Array:
        if unit.taus is not None:
            # Weights are in units of what a threshold needs here, as are slopes.
            neuron = LIF(unit.taus[..., 0], unit.taus[..., 1])
            return single.slopes(t_in, weights, None, neuron, t_out, at_crossing=True)
        return _slopes.slopes(t_in, weights, unit, t_out, at_crossing=True)


_neurons = AnyNeurons(_Stack())
forward, slopes, crossing_slopes = _neurons.forward, _neurons.slopes, _neurons.crossing_slopes
backward = _neurons.backward


def decides(weights: Sequence[Array], neurons: Sequence[LIF]) -> bool:
    """Whether `decide` takes a network: the neurons of each layer share their time constants."""
    del weights
    return all(neuron.shares_taus for neuron in neurons)


def decide(
    t_in: Array,
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    bias_times: Sequence[Sequence[float]],
    until: float,
    looks: Sequence[float] = (),
) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
    """The first output spikes, with inputs presented up to a time, and again, whole, where that did not decide.

    Args:
        t_in: (n_samples, n_pre) the first layer's input, its bias spikes included.
        weights: of each layer (n_replica, n_pre, n_post);  neurons: that share their time constants, in each layer.
        looks: increasing times. The first layer's neurons that stop by then are solved for, and whether their spikes
            decide is looked at, before those that stop later are. They change speed alone.

    Returns:
        (n_replica, n_samples) classes, -1 for none, and times; and (n_replica, n_samples, 2) how many input spikes were
        presented and how many pair-events met.
    """
    units = [unit(neuron, w) for neuron, w in zip(neurons, weights, strict=True)]
    scaled = [times(w, one.per_drive) for w, one in zip(weights, units, strict=True)]
    return _deciding.decide(t_in, scaled, units, bias_times, until, looks)


Chip, Noise, Rule, Bumps = _training.Chip, _records.Noise, _records.Rule, _records.Bumps
register_leaf = _leaves.register


def training(
    weights: Sequence[Array],
    kept: Sequence[Sequence[Array]],
    rule: Any,
    noise: Any,
    *,
    sort: bool,
    shift: tuple[int, int, float] | None = None,
    warp: tuple[Array, Array, float, float] | None = None,
    neurons: Sequence[LIF],
    bias_times: Sequence[Sequence[float]],
    answering: Sequence[LIF] | None = None,
    chip: Any = None,
    wakes: tuple[float, Sequence[float], Sequence[Array]] | None = None,
) -> Any:
    """A stack of layers whose training step is one job, see `training.Stack`.

    Args:
        kept: of each layer, what the optimiser keeps beside its weights.
        shift: side, largest shift and background of images that are shifted at random, see `records.Shift`.
        warp: spline, times, darkest time and levels in a unit of time of images that are warped at random instead, see
            `records.Warp`.
        neurons: that the gradient is taken of;  answering: those of the chip, if there is one. Those of a
            layer share their time constants.
        chip: without its units.
        wakes: strength, limits and shares of `records.Wakes`, where silent neurons are pulled.
    """
    dtype = weights[0].dtype
    answering = neurons if answering is None else answering
    answer = [unit(neuron, w) for neuron, w in zip(answering, weights, strict=True)]
    if chip is not None:
        chip = chip._replace(units=answer)
    exact = chip is not None and chip.factors is not None
    learn = answer if exact else [Unit(neuron, regime(neuron)) for neuron in neurons]
    return _training.Stack(
        weights,
        kept,
        bias_times,
        [one.regime for one in answer],
        [one.constants(dtype) for one in answer],
        [one.regime for one in learn],
        [one.constants(dtype) for one in learn],
        rule,
        noise,
        sort,
        shift,
        chip,
        wakes,
        warp,
    )
