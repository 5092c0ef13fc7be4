"""A stack of layers for backends whose kernels serve one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array, LayerState, Trial
from gpuspike.kernels.convolution import ConvolutionKernels
from gpuspike.kernels.reference import draws as reference_step
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.kernels.waiting import computed, later


class LayerKernels(Protocol):
    """Kernels for one layer; arguments as in `gpuspike.kernels.Kernels`.

    Its neuron is a `Unit`, but for the reference, which scales for itself.
    """

    def spike_order(self, t_in: Array) -> NDArray[np.int64]:
        """The order that sorts each sample's spikes."""
        ...

    def forward(
        self,
        t_in: Array,
        order: NDArray[np.int64],
        weights: Array,
        neuron: Any,
        lift: Array | None = None,
    ) -> tuple[Array, Array]:
        """Spike times and the membranes' slopes there; (n_replica, n_batch, n_post) both, as is `lift`."""
        ...

    def slopes(self, t_in: Array, weights: Array, neuron: Any, t_out: Array) -> Array:
        """Slope of the membrane at given spike times."""
        ...

    def crossing_slopes(self, t_in: Array, weights: Array, neuron: Any, t_out: Array) -> Array:
        """Slope of the membrane where it would have spiked itself."""
        ...

    def backward(
        self,
        t_in: Array,
        weights: Array,
        neuron: Any,
        t_out: Array,
        slope: Array,
        t_out_grad: Array,
        *,
        order: NDArray[np.int64],
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
    ) -> tuple[Array | None, Array]:
        """Gradients with respect to the input times (if needed) and the weights.

        Args:
            order: that sorts the inputs; empty where nobody knows it.
        """
        ...

    def jitter(
        self,
        times: Array,
        n_jittered: int,
        std: float,
        seeds: Sequence[int],
        purpose: int,
        epoch: int,
        batch: int,
    ) -> None:
        """Adds normal jitter to input times, in place."""
        ...

    def normals(
        self,
        like: Array,
        seeds: Sequence[int],
        purpose: int,
        layer: int,
        epoch: int,
        batch: int,
        first: int,
    ) -> Array:
        """Normal numbers of the shape and type of `like`."""
        ...


class Stack:
    """Takes such kernels from layer to layer; see `gpuspike.kernels.Kernels` for its methods."""

    spike_order: Callable[[Array], NDArray[np.int64]]

    convolution: ConvolutionKernels | None = None  # patches are gathered

    def __init__(self, layer: LayerKernels) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        """What knows no neurons: the layer's, if it keeps its arrays elsewhere; else NumPy's."""
        return getattr(self._layer, name) if hasattr(self._layer, name) else getattr(reference_step, name)

    def forward(
        self,
        t_in: Array,
        order: NDArray[np.int64] | None,
        weights: Sequence[Array],
        neurons: Sequence[Any],
        bias_times: Sequence[Sequence[float]],
        trials: Sequence[Trial] | None = None,
    ) -> list[LayerState]:
        """See `Kernels.forward`."""
        states: list[LayerState] = []
        each = trials or [Trial()] * len(weights)
        for layer_weights, neuron, times, trial in zip(weights, neurons, bias_times, each, strict=True):
            if states:
                t_in, order = self.with_bias(states[-1].t_out, times), None
            if order is None:
                order = self.spike_order(t_in)
            n_replica, _, n_post = layer_weights.shape
            check_trial(trial, (n_replica, t_in.shape[1], n_post), layer_weights.dtype)
            t_cross, slope = self._layer.forward(t_in, order, layer_weights, neuron, trial.lift)
            t_out = computed("heard", heard(later(self._layer, t_cross), trial)) if trials else t_cross
            states.append(LayerState(t_in, order, t_out, t_cross, slope))
        return states

    def backward(
        self,
        states: Sequence[LayerState],
        weights: Sequence[Array],
        neurons: Sequence[Any],
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
    ) -> tuple[Array | None, list[Array]]:
        """See `Kernels.backward`."""
        weights_grads: list[Array] = []
        t_in_grad: Any = t_out_grad
        for number in reversed(range(len(weights))):
            state = states[number]
            # The bias spikes, the last inputs, have no time to learn.
            t_in_grad, weights_grad = self._layer.backward(
                state.t_in,
                weights[number],
                neurons[number],
                state.t_cross,
                state.slope,
                self.without_bias(t_in_grad, state.t_out.shape[2]),
                order=state.order,
                active=active,
                max_weight_grad=max_weight_grad,
                need_t_in_grad=need_t_in_grad or number > 0,
            )
            weights_grads.append(weights_grad)
        return t_in_grad, weights_grads[::-1]
