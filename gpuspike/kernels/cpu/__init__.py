"""The CPU backend: Numba kernels on NumPy arrays, compiled once a machine and cached."""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import config as numba_config
from numpy.typing import NDArray
from platformdirs import user_cache_path

from gpuspike.errors import BackendError
from gpuspike.kernels import Array, LayerState, Trial
from gpuspike.kernels.constants import Own, own
from gpuspike.kernels.layerwise import Stack
from gpuspike.kernels.reference import draws as reference_step
from gpuspike.neuron import LIF


def _cache_folder() -> Path:
    """Where compiled kernels are kept: one folder a version of the sources.

    Numba notices a change only in the file of the kernel itself, not in what the kernel calls; a folder named
    after all the sources never serves stale code.
    """
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in ("kernels", "training/losses", "training/optimizers"):
        for source in sorted((package / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    base = Path(_given or user_cache_path("gpuspike") / "kernels")
    cache = base / digest.hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="gpuspike-kernels-"))


_given = numba_config.CACHE_DIR  # type: ignore[attr-defined]
_cache = str(_cache_folder())
numba_config.CACHE_DIR = _cache  # type: ignore[attr-defined]
try:  # the folder is read when a kernel is declared, that is, while these modules are imported
    _sort = importlib.import_module("gpuspike.kernels.cpu.sort")
    _forward = importlib.import_module("gpuspike.kernels.cpu.forward")
    _loss = importlib.import_module("gpuspike.kernels.cpu.loss")
    _descent = importlib.import_module("gpuspike.kernels.cpu.descent")
    _update = importlib.import_module("gpuspike.kernels.cpu.normals")
    _backward = importlib.import_module("gpuspike.kernels.cpu.backward")
    _mixed = importlib.import_module("gpuspike.kernels.cpu.own_taus")
    _slopes = importlib.import_module("gpuspike.kernels.cpu.slopes")
    _training = importlib.import_module("gpuspike.kernels.cpu.training")
    _leaves = importlib.import_module("gpuspike.kernels.cpu.leaves")
    _records = importlib.import_module("gpuspike.kernels.cpu.records")
    _solve = importlib.import_module("gpuspike.kernels.cpu.solve")
finally:
    numba_config.CACHE_DIR = _given  # type: ignore[attr-defined]


def _regime(neuron: LIF) -> int:
    if neuron.tau_slow == neuron.tau_fast:
        return _solve.EQUAL
    if neuron.tau_slow == 2.0 * neuron.tau_fast:
        return _solve.DOUBLE
    return _solve.NON_LEAKY if np.isinf(neuron.tau_slow) else _solve.GENERAL


@lru_cache(maxsize=256)
def _constants(neuron: LIF, dtype: np.dtype[Any]) -> tuple[float, ...]:
    """(tau_slow, tau_fast, their rate difference, C span, span, anchor reach, tangential slope).

    Anchors move on after 4 (float32) or 8 (float64) tau_fast: the sums grow with the distance from the
    anchor, and lose digits with it.
    """
    reach = 4.0 if dtype == np.float32 else 8.0
    span = float(neuron.span)
    tangent = 16.0 * float(np.finfo(dtype).eps)
    slow, fast = neuron.tau_slow, neuron.tau_fast
    return slow, fast, neuron.rate_difference, float(neuron.drive), span, reach, tangent


@lru_cache(maxsize=256)
def _constants_and_peak(neuron: LIF, dtype: np.dtype[Any]) -> tuple[float, ...]:
    delay, height = neuron.kernel_peak
    return *_constants(neuron, dtype), height * float(neuron.capacitance), delay


spike_order = _sort.spike_order
jitter, normals = _update.jitter, _update.normals
score, descend = _loss.score, _descent.descend
count_silent, place = reference_step.count_silent, reference_step.place


def forward(
    t_in: Array,
    order: NDArray[np.int64] | None,
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    bias_times: Sequence[Sequence[float]],
    trials: Sequence[Trial] | None = None,
) -> list[LayerState]:
    """First spike times of all layers; see `kernels.Kernels.forward`."""
    if not all(neuron.uniform for neuron in neurons):
        units = _units(neurons, weights)
        if units is None:
            return Stack(_OneByOne()).forward(t_in, order, weights, neurons, bias_times, trials)
        weights = [_times(w, 1.0 / unit.drive) for w, unit in zip(weights, units, strict=True)]
        states = forward(t_in, order, weights, [unit.unit for unit in units], bias_times, trials)
        return [s._replace(slope=_times(s.slope, unit.span)) for s, unit in zip(states, units, strict=True)]
    modes = [_regime(neuron) for neuron in neurons]
    constants = [_constants(neuron, t_in.dtype) for neuron in neurons]
    return _forward.forward(t_in, order, weights, bias_times, modes, constants, trials)


def _units(neurons: Sequence[LIF], weights: Sequence[Array]) -> list[Own] | None:
    """All layers' neurons as ones of threshold 1; None where some do not share their time constants."""
    units = [own(neuron, w.shape[0], w.shape[2]) for neuron, w in zip(neurons, weights, strict=True)]
    return None if any(unit.taus is not None for unit in units) else units


def _times(array: Array, factor: NDArray[np.float64]) -> Array:
    return array * factor.astype(array.dtype)


def slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
    """Slope of the membrane at given spike times; see `kernels.Kernels.slopes`."""
    return _some_slopes(t_in, weights, neuron, t_out, at_crossing=False)


def crossing_slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
    """Slope where that membrane meets the threshold; see `kernels.Kernels.crossing_slopes`."""
    return _some_slopes(t_in, weights, neuron, t_out, at_crossing=True)


def _some_slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array, *, at_crossing: bool) -> Array:
    if neuron.uniform:
        mode, constants = _regime(neuron), _constants(neuron, weights.dtype)
        return _slopes.slopes(t_in, weights, t_out, at_crossing, mode, constants)
    one = own(neuron, weights.shape[0], weights.shape[2])
    weights = _times(weights, 1.0 / one.drive)
    if one.taus is None:
        slope = _some_slopes(t_in, weights, one.unit, t_out, at_crossing=at_crossing)
    elif at_crossing:
        raise BackendError(
            "only neurons that share their time constants have slopes at the crossing on a CPU"
        )
    else:
        slope = _mixed.slopes(t_in, weights, one.taus, t_out)
    return _times(slope, one.span)


def backward(
    states: Sequence[LayerState],
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    t_out_grad: Array,
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array | None, list[Array]]:
    """Gradients by the implicit function theorem; see `kernels.Kernels.backward`."""
    if not all(neuron.uniform for neuron in neurons):
        step: Any = Stack(_OneByOne()).backward
        if (units := _units(neurons, weights)) is not None:
            # The product with the slope is all that the capacitance is needed for.
            scaled = [_times(s.slope, unit.capacitance) for s, unit in zip(states, units, strict=True)]
            states = [s._replace(slope=slope) for s, slope in zip(states, scaled, strict=True)]
            step, neurons = backward, [unit.unit for unit in units]
        return step(
            states,
            weights,
            neurons,
            t_out_grad,
            active=active,
            max_weight_grad=max_weight_grad,
            need_t_in_grad=need_t_in_grad,
        )
    dtype = t_out_grad.dtype
    return _backward.backward(
        states,
        weights,
        t_out_grad,
        active,
        max_weight_grad,
        need_t_in_grad,
        [_regime(neuron) for neuron in neurons],
        [_constants_and_peak(neuron, dtype) for neuron in neurons],
    )


Chip, Noise, Rule, Bumps = _training.Chip, _records.Noise, _records.Rule, _records.Bumps
register_leaf = _leaves.register


def training(
    weights: Sequence[Array],
    kept: Sequence[Sequence[Array]],
    rule: Any,
    noise: Any,
    *,
    sort: bool,
    neurons: Sequence[LIF],
    bias_times: Sequence[Sequence[float]],
    answering: Sequence[LIF] | None = None,
    chip: Any = None,
) -> Any:
    """A stack of layers whose training step is one job, see `training.Stack`.

    Args:
        kept: of each layer, what the optimiser keeps beside its weights.
        neurons: that the gradient is taken of;  answering: those of the chip, if there is one. Those of a
            layer share their time constants.
        chip: without its scales.
    """
    dtype = weights[0].dtype
    answering = neurons if answering is None else answering
    if chip is not None and not all(neuron.uniform for neuron in answering):
        units = [own(neuron, w.shape[0], w.shape[2]) for neuron, w in zip(answering, weights, strict=True)]
        shapes = [(w.shape[0], w.shape[2]) for w in weights]
        scale = [
            (1.0 / unit.drive, *(np.broadcast_to(x[:, 0], shape) for x in (unit.span, unit.capacitance)))
            for unit, shape in zip(units, shapes, strict=True)
        ]
        chip, answering = chip._replace(scale=scale), [unit.unit for unit in units]
        neurons = neurons if chip.factors is None else answering
    return _training.Stack(
        weights,
        kept,
        bias_times,
        [_regime(neuron) for neuron in answering],
        [_constants(neuron, dtype) for neuron in answering],
        [_regime(neuron) for neuron in neurons],
        [_constants_and_peak(neuron, dtype) for neuron in neurons],
        rule,
        noise,
        sort,
        chip,
    )


class _OneByOne:
    """Layer after layer, where neurons have parameters of their own; see `stack.LayerKernels`."""

    spike_order, slopes = staticmethod(spike_order), staticmethod(slopes)
    crossing_slopes = staticmethod(crossing_slopes)
    jitter, normals = staticmethod(jitter), staticmethod(normals)
    score, descend = staticmethod(score), staticmethod(descend)

    def forward(
        self,
        t_in: Array,
        order: NDArray[np.int64],
        weights: Array,
        neuron: LIF,
        lift: Array | None = None,
    ) -> tuple[Array, Array]:
        one = own(neuron, weights.shape[0], weights.shape[2])
        if one.taus is None:
            (layer,) = forward(t_in, order, [weights], [neuron], [()], [Trial(lift)])
            return layer.t_cross, layer.slope
        t_out, slope = _mixed.forward(t_in, order, _times(weights, 1.0 / one.drive), one.taus, lift)
        return t_out, _times(slope, one.span)

    def backward(
        self,
        t_in: Array,
        weights: Array,
        neuron: LIF,
        t_out: Array,
        slope: Array,
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
    ) -> tuple[Array | None, Array]:
        if not neuron.uniform:
            one = own(neuron, weights.shape[0], weights.shape[2])
            # The product with the slope is all that the capacitance is needed for.
            slope = _times(slope, one.capacitance)
            if one.taus is not None:
                return _mixed.backward(
                    t_in,
                    weights,
                    one.taus,
                    t_out,
                    slope,
                    t_out_grad,
                    active,
                    max_weight_grad,
                    need_t_in_grad,
                )
            neuron = one.unit
        state = LayerState(t_in, np.empty(0, np.int64), t_out, t_out, slope)
        t_in_grad, (weights_grad,) = backward(
            [state],
            [weights],
            [neuron],
            t_out_grad,
            active=active,
            max_weight_grad=max_weight_grad,
            need_t_in_grad=need_t_in_grad,
        )
        return t_in_grad, weights_grad
