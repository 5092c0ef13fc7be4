"""Convolutional layers on a device: patches are gathered, and are what samples of any layer are.

See `gpuspike.kernels.convolution.ConvolutionKernels`, and `convolution.cu` for the device code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.errors import ShapeError
from gpuspike.kernels import LayerState, cuda
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda.call import Array, check, elementwise
from gpuspike.kernels.unit import unit
from gpuspike.neuron import LIF


def forward(layer: Convolution, t_in: Array, weights: Array, neuron: LIF) -> LayerState:
    """What a layer of neurons that share their constants answers.

    Raises:
        DtypeError, ShapeError, BackendError: an array that is not CuPy's, contiguous and on this device.
    """
    n_batch, n_replica = t_in.shape[1], len(weights)
    patches = _patches(layer, t_in, weights)
    t_cross, slope = cuda.forward(patches, cuda.spike_order(patches), weights, unit(neuron, weights))
    flat = n_replica, n_batch, layer.n_neurons
    t_cross, slope = t_cross.reshape(flat), slope.reshape(flat)
    t_out = t_cross
    if layer.pool > 1:
        t_out = cupy_module().empty((n_replica, n_batch, layer.n_out), t_cross.dtype)
        if t_out.size:
            elementwise(src.HEARD)(*layer.grid, layer.n_maps, layer.pool, t_cross, t_out, size=t_out.size)
    return LayerState(t_in, np.empty(0, np.int64), t_out, t_cross, slope)


def backward(
    layer: Convolution,
    state: LayerState,
    weights: Array,
    neuron: LIF,
    grad: Array,
    *,
    active: Array,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array | None, Array]:
    """Gradients of such a layer. Patches are gathered once more: kept, they would take more than all else."""
    cupy = cupy_module()
    n_replica, n_batch = len(weights), state.t_in.shape[1]
    n_bias = state.t_in.shape[2] - layer.n_in
    check(weights.dtype, {"grad": (grad, (n_replica, n_batch, layer.n_out))})
    if layer.pool > 1:
        of_neurons = cupy.empty((n_replica, n_batch, layer.n_neurons), grad.dtype)
        if of_neurons.size:
            elementwise(src.SPREAD)(
                *layer.grid, layer.n_maps, layer.pool, state.t_cross, grad, of_neurons, size=of_neurons.size
            )
        grad = of_neurons
    samples = n_replica, n_batch * layer.n_positions, layer.n_maps
    of_patches, of_weights = cuda.backward(
        _patches(layer, state.t_in, weights),
        weights,
        unit(neuron, weights),
        *(array.reshape(samples) for array in (state.t_cross, state.slope, grad)),
        active=active,
        max_weight_grad=max_weight_grad,
        need_t_in_grad=need_t_in_grad,
    )
    if of_patches is None:
        return None, of_weights
    t_in_grad = cupy.empty((n_replica, n_batch, layer.n_in + n_bias), of_patches.dtype)
    if t_in_grad.size:
        elementwise(src.GATHERED)(*_image(layer, n_bias), of_patches, t_in_grad, size=t_in_grad.size)
    return t_in_grad, of_weights


def _image(layer: Convolution, n_bias: int) -> tuple[int, ...]:
    return (*layer.shape, layer.kernel, layer.stride, layer.padding, *layer.grid, n_bias)


def _patches(layer: Convolution, t_in: Array, weights: Array) -> Any:
    """(n_replica or 1, n_batch n_positions, n_pre) input times of all patches."""
    n_bias = weights.shape[1] - layer.fan_in
    if n_bias < 0 or weights.shape[2] != layer.n_maps:
        raise ShapeError(
            f"weights must be (n_replica, {layer.fan_in} inputs and bias spikes, {layer.n_maps} maps), "
            f"got {weights.shape}"
        )
    n_in_replicas, n_batch = t_in.shape[:2]
    check(weights.dtype, {"t_in": (t_in, (n_in_replicas, n_batch, layer.n_in + n_bias))})
    shape = n_in_replicas, n_batch * layer.n_positions, weights.shape[1]
    patches = cupy_module().empty(shape, t_in.dtype)
    if patches.size:
        elementwise(src.PATCHES)(
            *_image(layer, n_bias), float(layer.pad_time), t_in, patches, size=patches.size
        )
    return patches
