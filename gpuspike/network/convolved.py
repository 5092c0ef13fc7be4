"""A convolutional layer and back: by kernels made for it, on patches, or neuron by neuron on a chip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.network import unshared
from gpuspike.network.delays import Delays
from gpuspike.network.one_layer import Pulled, PushedPairs, answered, pull
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
    lift = None if trial is None else trial.lift
    if lift is None and w.shape[2] == convolution.n_maps:
        state = _shared(kernels, convolution, t_in, w, neuron, delays)
    else:
        parts = [
            unshared.forward(
                kernels, convolution, t_in[:, part], w, neuron, None if lift is None else lift[:, part]
            )
            for part in _chunks(convolution, t_in, w)
        ]
        t_cross, slope = (np.concatenate(some, axis=1) for some in zip(*parts, strict=True))
        state = LayerState(t_in, np.empty(0, np.int64), convolution.heard(t_cross), t_cross, slope)
    if trial is None:
        return state
    check_trial(trial, state.t_cross.shape, w.dtype)
    t_seen = heard(state.t_cross, trial)
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
    joined = (np.concatenate(parts, axis=1) for parts in (t_out, t_cross, slope))
    return LayerState(t_in, np.empty(0, np.int64), *joined)


def _chunks(convolution: Convolution, t_in: Array, w: Array) -> list[slice]:
    """Parts of a batch whose patches, and the order of their spikes, fit into `PATCH_BYTES`."""
    n_maps = convolution.n_maps
    a_sample = len(w) * convolution.n_positions * (w.shape[1] * (2 * w.itemsize + 8) + n_maps * w.itemsize)
    n, n_batch = max(1, PATCH_BYTES // a_sample), t_in.shape[1]
    return [slice(first, min(first + n, n_batch)) for first in range(0, max(n_batch, 1), n)]


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
        # What is heard first of a window does not change with a delay that its neurons share.
        return _spread(convolution, grad[:, part], state.seen[:, part])

    return _pull_patches(
        kernels, convolution, state, w, neuron, delays, spread, taus=taus, further=further, **limits
    )


def _spread(convolution: Convolution, grad: Array, t_seen: Array) -> Array:
    """Gradients of what is heard as those of all neurons; what is never seen has none."""
    return np.where(np.isfinite(t_seen), convolution.spread(grad, t_seen), grad.dtype.type(0.0))


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
    total, of_inputs = np.zeros(w.shape), []
    for part in _chunks(convolution, state.t_in, w):
        t_in, *times = (a[:, part] for a in (state.t_in, state.t_cross, state.slope, state.seen))
        one = LayerState(t_in, state.order, state.t_out, *times)
        of_neurons = _spread(convolution, grad[:, part], one.seen)
        pulled, of_weights = unshared.backward(
            kernels, convolution, one, w, neuron, of_neurons, need_t_in_grad=further, **limits
        )
        total += of_weights
        of_inputs.append(pulled)
    return Pulled(total.astype(w.dtype)), np.concatenate(of_inputs, axis=1) if further else None


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
        t_cross, slope = (a[:, part].reshape(len(w), -1, w.shape[2]) for a in (state.t_cross, state.slope))
        t_in = convolution.patches(state.t_in[:, part])
        if own.axonal is not None:
            t_in = t_in + own.axonal[:, None]
        t_out = t_cross if own.dendritic is None else t_cross + own.dendritic[:, None]
        patches = LayerState(t_in, np.empty(0, np.int64), t_out, *map(np.ascontiguousarray, (t_cross, slope)))
        of_neurons = grad(part).reshape(t_cross.shape)
        pulled, of_patches = pull(kernels, patches, w, neuron, delays, of_neurons, further=further, **limits)
        total = pulled if total is None else total.plus(pulled)
        if further:
            n_bias = state.t_in.shape[2] - convolution.n_in
            of_inputs.append(convolution.gathered(of_patches, n_bias).astype(w.dtype))
    assert total is not None
    return total, np.concatenate(of_inputs, axis=1) if further else None


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
            t_in = t_in + own.axonal[:, None]
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
            np.ascontiguousarray(t_cross[:, part]).reshape(len(weights), -1, weights.shape[2]),
        ).reshape(t_cross[:, part].shape)
        for part in _chunks(convolution, state.t_in, weights)
    ]
    return state._replace(t_cross=t_cross, slope=np.concatenate(slopes, axis=1), t_seen=None)
