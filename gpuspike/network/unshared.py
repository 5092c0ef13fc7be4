"""A convolution whose neurons share nothing: on a chip each has synapses, and errors, of its own.

Positions of the kernel stand on the replica axis of the kernels, each with its weights and its neurons.
Arrays of all neurons count them position by position, the maps of a position side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial
from gpuspike.kernels.convolution import Convolution, elsewhere
from gpuspike.network.layers import Layer
from gpuspike.neuron import LIF

Array = NDArray[Any]


def unshared(layer: Layer) -> Layer:
    """A layer's neurons, each counted by itself, as a layer of their fan-in; of others the layer itself."""
    convolution = layer.convolution
    if convolution is None:
        return layer

    def everywhere(value: Array) -> Array:
        return np.tile(np.broadcast_to(value, (*value.shape[:-1], layer.n_post)), convolution.n_positions)

    neuron = _of_neurons(layer.neuron, everywhere)
    return Layer(convolution.fan_in, convolution.n_neurons, layer.bias_times, neuron)


def each(convolution: Convolution, w: Array) -> Array:
    """(n_replica, n_pre, n_neurons) of weights that maps share, or that are so already."""
    if w.shape[2] == convolution.n_neurons:
        return w
    n, there = convolution.n_positions, elsewhere(w)
    return there.tiled(w, n) if there else np.tile(w, n)


def together(convolution: Convolution, grad: Array) -> Array:
    """(n_replica, n_pre, n_maps) sums over what shares a weight, or what are such sums already."""
    if grad.shape[2] == convolution.n_maps:
        return grad
    if there := elsewhere(grad):
        return there.summed(grad, convolution.n_positions)
    by_position = grad.reshape(*grad.shape[:2], convolution.n_positions, convolution.n_maps)
    return by_position.sum(axis=2, dtype=np.float64).astype(grad.dtype)


def at_position(convolution: Convolution, position: int, w: Array, neuron: LIF) -> tuple[Array, LIF]:
    """Weights (..., n_pre, n_maps) and neurons there, of those that maps share or of all neurons'."""
    n_maps, n_neurons = convolution.n_maps, convolution.n_neurons
    if w.shape[-1] == n_maps:
        return w, neuron
    own = slice(position * n_maps, (position + 1) * n_maps)
    return w[..., own], _of_neurons(
        neuron, lambda value: np.broadcast_to(value, (*value.shape[:-1], n_neurons))[..., own]
    )


def forward(
    kernels: Kernels, convolution: Convolution, t_in: Array, w: Array, neuron: LIF, lift: Array | None
) -> tuple[Array, Array]:
    """When membranes cross their thresholds, and their slopes there, (n_replica, n_batch, n_neurons) both.

    Args:
        t_in: (n_replica or 1, n_batch, n_received).
        w: (n_replica, n_pre, n_maps or n_neurons).
        neuron: one for all, or constants (n_neurons,) or (n_replica, n_neurons).
        lift: (n_replica, n_batch, n_neurons), see `Trial`.
    """
    n_replica, by = len(w), _Positions(convolution)
    (state,) = kernels.forward(
        by.patches(t_in, n_replica),
        None,
        [by.split(each(convolution, w))],
        [by.neuron(neuron, n_replica)],
        [()],
        None if lift is None else [Trial(by.split(lift))],
    )
    return by.joined(state.t_cross), by.joined(state.slope)


def backward(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    grad: Array,
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array | None, Array]:
    """Gradients of the input times (if needed) and of each neuron's weights, (n_replica, n_pre, n_neurons).

    Args:
        state: the layer's answer.
        grad: (n_replica, n_batch, n_neurons) of the times at which its spikes are seen.
        active, max_weight_grad: see `Kernels.backward`.
    """
    n_replica, by = len(w), _Positions(convolution)
    patches = by.patches(state.t_in, n_replica)
    t_cross, slope = by.split(state.t_cross), by.split(state.slope)
    of_patches, (of_weights,) = kernels.backward(
        [LayerState(patches, np.empty(0, np.int64), t_cross, t_cross, slope)],
        [by.split(each(convolution, w))],
        [by.neuron(neuron, n_replica)],
        by.split(grad),
        active=_repeated(active, convolution.n_positions),
        max_weight_grad=max_weight_grad,
        need_t_in_grad=need_t_in_grad,
    )
    of_weights = by.joined(of_weights)
    if of_patches is None:
        return None, of_weights
    n_bias, image_by_image = state.t_in.shape[2] - convolution.n_in, by.joined(of_patches)
    taken = image_by_image.reshape(n_replica, -1, w.shape[1])
    return convolution.gathered(taken, n_bias).astype(w.dtype, copy=False), of_weights


class _Positions:
    """Between an axis of replicas and one of replicas and positions."""

    def __init__(self, convolution: Convolution) -> None:
        self._convolution, self._n = convolution, convolution.n_positions

    def split(self, array: Array) -> Array:
        """(n_replica n_positions, n_batch, n) of (n_replica, n_batch, n_positions n); of weights n_pre so."""
        n_replica, n_batch, n = array.shape
        by_position = swapped(array.reshape(n_replica, n_batch, self._n, n // self._n))
        return by_position.reshape(-1, n_batch, n // self._n)

    def joined(self, array: Array) -> Array:
        """The other way."""
        _, n_batch, n = array.shape
        return swapped(array.reshape(-1, self._n, n_batch, n)).reshape(-1, n_batch, self._n * n)

    def patches(self, t_in: Array, n_replica: int) -> Array:
        """(n_replica n_positions, n_batch, n_pre) what is received at each position."""
        taken = self._convolution.patches(t_in)
        found = self.split(taken.reshape(len(t_in), t_in.shape[1], -1))
        if len(t_in) == n_replica:
            return found
        return _repeated(found.reshape(1, -1), n_replica).reshape(-1, *found.shape[1:])

    def neuron(self, neuron: LIF, n_replica: int) -> LIF:
        """The neurons at each position."""
        shape = n_replica, self._convolution.n_neurons
        return _of_neurons(
            neuron, lambda value: np.broadcast_to(value, shape).reshape(n_replica * self._n, -1)
        )


def swapped(array: Array) -> Array:
    """(n, b, a, k) of (n, a, b, k), contiguous."""
    there = elsewhere(array)
    return there.swapped(array) if there else np.ascontiguousarray(array.swapaxes(1, 2))


def _repeated(array: Array, n: int) -> Array:
    """Each entry of the first axis n times."""
    there = elsewhere(array)
    return there.repeated(array, n) if there else np.repeat(array, n, axis=0)


def _of_neurons(neuron: LIF, change: Any) -> LIF:
    values = neuron.tau_mem, neuron.tau_syn, neuron.threshold, neuron.leak, neuron.capacitance
    return LIF(*(change(value) if isinstance(value, np.ndarray) else value for value in values))
