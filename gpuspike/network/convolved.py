"""A convolutional layer and back: by kernels made for it, on patches, or neuron by neuron on a chip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial
from gpuspike.kernels.convolution import Convolution, elsewhere
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.kernels.waiting import computed, later
from gpuspike.network import unshared
from gpuspike.network.delays import Delays
from gpuspike.network.one_layer import Pulled, PushedPairs, answered, arriving, pull
from gpuspike.neuron import LIF

Array = NDArray[Any]

PATCH_BYTES = 64 << 20
"""What gathered patches may take: samples are presented so many at a time."""


def convolved(
    kernels: Kernels,
    convolution: Convolution,
    t_in: Array,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    trial: Trial | None,
) -> LayerState:
    """What a convolutional layer answers, as `_shared` or neurons that share nothing do.

    Args:
        w: (n_replica, n_pre, n_maps), or on a chip (n_replica, n_pre, n_neurons).
        trial: arrays are of all neurons; there are no delays then.
    """
    w, lift = computed("weights", w), None if trial is None else trial.lift
    if lift is None and w.shape[2] == convolution.n_maps:
        state = _shared(kernels, convolution, t_in, w, neuron, delays)
    else:
        parts = [
            unshared.forward(
                kernels, convolution, t_in[:, part], w, neuron, None if lift is None else lift[:, part]
            )
            for part in _chunks(convolution, t_in, w)
        ]
        t_cross, slope = (_joined(some) for some in zip(*parts, strict=True))
        state = LayerState(t_in, np.empty(0, np.int64), convolution.heard(t_cross), t_cross, slope)
    if trial is None:
        return state
    check_trial(trial, state.t_cross.shape, w.dtype)
    t_seen = computed("heard", heard(later(kernels, state.t_cross), trial))
    return state._replace(t_out=convolution.heard(t_seen), t_seen=t_seen)


def _shared(
    kernels: Kernels, convolution: Convolution, t_in: Array, w: Array, neuron: LIF, delays: Delays | None
) -> LayerState:
    """That of the layer of its fan-in on patches, where nothing faster is there."""
    if kernels.convolution is not None and neuron.uniform and delays is None:
        return kernels.convolution.forward(convolution, t_in, w, neuron)
    t_out, t_cross, slope = [], [], []
    flat = (len(w), -1, convolution.n_neurons)
    for part in _chunks(convolution, t_in, w):
        state = answered(kernels, convolution.patches(t_in[:, part]), None, w, neuron, delays)
        t_out.append(convolution.heard(state.t_out.reshape(flat)))
        t_cross.append(state.t_cross.reshape(flat))
        slope.append(state.slope.reshape(flat))
    return LayerState(t_in, np.empty(0, np.int64), *map(_joined, (t_out, t_cross, slope)))


def _chunks(convolution: Convolution, t_in: Array, w: Array) -> list[slice]:
    """Parts of a batch whose patches, and what sorts them, fit into `PATCH_BYTES`; on a device all of it."""
    if elsewhere(t_in):
        return [slice(0, t_in.shape[1])]
    n_maps = convolution.n_maps
    a_sample = len(w) * convolution.n_positions * (w.shape[1] * (2 * w.itemsize + 8) + n_maps * w.itemsize)
    n, n_batch = max(1, PATCH_BYTES // a_sample), t_in.shape[1]
    return [slice(first, min(first + n, n_batch)) for first in range(0, max(n_batch, 1), n)]


def _part(array: Array, part: slice) -> Array:
    """Some samples of an array, contiguous; of one on a device all, as `_chunks` has them."""
    return array if elsewhere(array) else np.ascontiguousarray(array[:, part])


def _joined(parts: Sequence[Array]) -> Array:
    """The whole batch again."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def pull_convolved(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    grad: Array,
    *,
    taus: bool,
    further: bool,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """The same of a convolutional layer: sums over its patches, where nothing faster is there.

    Of neurons that share nothing, gradients of the weights are of each neuron's.
    """
    if w.shape[2] != convolution.n_maps:
        return _pull_unshared(kernels, convolution, state, w, neuron, grad, further=further, **limits)
    plain = neuron.uniform and delays is None and not taus and state.t_seen is None
    if kernels.convolution is not None and plain:
        pulled, of_weights = kernels.convolution.backward(
            convolution, state, w, neuron, grad, need_t_in_grad=further, **limits
        )
        return Pulled(of_weights), pulled

    def spread(part: slice) -> Array:
        if convolution.pool == 1 and state.t_seen is None:  # those of the silent are not looked at
            return _part(grad, part)
        # What is heard first of a window does not change with a delay that its neurons share.
        return convolution.spread(_part(grad, part), _part(state.seen, part))

    return _pull_patches(
        kernels, convolution, state, w, neuron, delays, spread, taus=taus, further=further, **limits
    )


def _pull_unshared(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    grad: Array,
    *,
    further: bool,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """The same of neurons that share nothing, gradients of the weights for each of them."""
    total, of_inputs = None, []
    for part in _chunks(convolution, state.t_in, w):
        t_in, *times, seen = (_part(a, part) for a in (state.t_in, state.t_cross, state.slope, state.seen))
        one = LayerState(t_in, state.order, state.t_out, *times)
        of_neurons = convolution.spread(_part(grad, part), seen)
        pulled, of_weights = unshared.backward(
            kernels, convolution, one, w, neuron, of_neurons, need_t_in_grad=further, **limits
        )
        total = of_weights if total is None else total + of_weights.astype(np.float64)
        of_inputs.append(pulled)
    assert total is not None
    return Pulled(total.astype(w.dtype, copy=False)), _joined(of_inputs) if further else None


def _pull_patches(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    grad: Callable[[slice], Array],
    *,
    further: bool,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """The same on gathered patches, `grad` of all neurons for a part of the samples."""
    own, total, of_inputs = delays or Delays(), None, []
    for part in _chunks(convolution, state.t_in, w):
        by_patch = len(w), -1, w.shape[2]
        t_cross, slope = (_part(a, part).reshape(by_patch) for a in (state.t_cross, state.slope))
        t_in = convolution.patches(state.t_in[:, part])
        if own.axonal is not None:
            t_in = arriving(kernels, t_in, own)
        t_out = t_cross
        if own.dendritic is not None:
            t_out = computed("heard", later(kernels, t_cross) + own.dendritic[:, None])
        patches = LayerState(t_in, np.empty(0, np.int64), t_out, t_cross, slope)
        of_neurons = grad(part).reshape(t_cross.shape)
        pulled, of_patches = pull(kernels, patches, w, neuron, delays, of_neurons, further=further, **limits)
        total = pulled if total is None else total.plus(pulled)
        if further:
            n_bias = state.t_in.shape[2] - convolution.n_in
            of_inputs.append(convolution.gathered(of_patches, n_bias).astype(w.dtype, copy=False))
    assert total is not None
    return total, _joined(of_inputs) if further else None


def push_maps(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    push: PushedPairs,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """What pulled neurons add to the gradients of a convolutional layer."""
    own, t_peak = delays or Delays(), np.empty(push.wanted.shape, w.dtype)
    synapses = None if own.synaptic is None else own.synapses(w)
    for part in _chunks(convolution, state.t_in, w):
        t_in = convolution.patches(state.t_in[:, part])
        if own.axonal is not None:
            t_in = arriving(kernels, t_in, own)
        wanted = push.wanted[:, part].reshape(len(w), -1, w.shape[2])
        t_peak[:, part] = kernels.single.peaks(t_in, w, synapses, neuron, wanted).reshape(
            t_peak[:, part].shape
        )
    slope = np.broadcast_to(np.tile(push.slope, convolution.n_positions)[:, None], t_peak.shape)
    pushed = state._replace(t_cross=t_peak, slope=slope)

    def ones(part: slice) -> Array:
        return np.ones_like(t_peak[:, part])

    return _pull_patches(kernels, convolution, pushed, w, neuron, delays, ones, **limits)


def maps_as_own(
    kernels: Kernels, state: LayerState, weights: Array, neuron: LIF, convolution: Convolution
) -> LayerState:
    """What a chip's neurons answered as if they were the layer's own; see `passes.as_own`."""
    t_cross = state.seen
    slopes = [
        kernels.crossing_slopes(
            convolution.patches(state.t_in[:, part]),
            weights,
            neuron,
            _part(t_cross, part).reshape(len(weights), -1, weights.shape[2]),
        ).reshape(t_cross[:, part].shape)
        for part in _chunks(convolution, state.t_in, weights)
    ]
    return state._replace(t_cross=t_cross, slope=_joined(slopes), t_seen=None)
