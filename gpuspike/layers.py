"""One fully connected layer of LIF neurons, with bias spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, spike_order
from gpuspike.neuron import LIF

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerInput:
    """What a layer receives, bias spikes included.

    Attributes:
        t_in: (n_replica or 1, n_batch, n_pre) spike times.
        order: of the same shape, what sorts them.
    """

    t_in: Array
    order: NDArray[np.int64]

    def take(self, samples: NDArray[np.int64]) -> LayerInput:
        """The samples (n_replica, n_batch) of an input that all replicas share, each replica its own."""
        return LayerInput(self.t_in[0][samples], self.order[0][samples])

    def part(self, first: int, last: int) -> LayerInput:
        """Samples `first` to `last` (not included)."""
        return LayerInput(
            np.ascontiguousarray(self.t_in[:, first:last]),
            np.ascontiguousarray(self.order[:, first:last]),
        )


@dataclass(frozen=True)
class LayerActivity:
    """What the backward pass needs of a layer: O(n_batch (n_pre + n_post)) numbers.

    Attributes:
        received: the layer's input.
        t_out: (n_replica, n_batch, n_post) spike times, inf = silent.
        slope: (n_replica, n_batch, n_post) slope of the membrane there, 0 where silent or tangential.
    """

    received: LayerInput
    t_out: Array
    slope: Array


@dataclass(frozen=True)
class Layer:
    """Sizes and constants of a layer; its weights are passed in.

    Attributes:
        n_in, n_out: neurons before and in the layer.
        bias_times: times of spikes that every sample gets in addition, each with its own row of weights.
        neuron: parameters of all its neurons.
    """

    n_in: int
    n_out: int
    bias_times: tuple[float, ...]
    neuron: LIF

    @property
    def n_pre(self) -> int:
        """Rows of the weights: inputs and bias spikes."""
        return self.n_in + len(self.bias_times)

    def receive(self, t_in: Array) -> LayerInput:
        """Adds the bias spikes to (n_replica, n_batch, n_in) spike times and sorts them."""
        if self.bias_times:
            bias = np.broadcast_to(
                np.asarray(self.bias_times, t_in.dtype), (*t_in.shape[:2], len(self.bias_times))
            )
            t_in = np.concatenate([t_in, bias], axis=2)
        return LayerInput(t_in, spike_order(t_in))

    def forward(self, kernels: Kernels, received: LayerInput, weights: Array) -> LayerActivity:
        """Spike times of the layer; weights (n_replica, n_pre, n_out)."""
        t_out, slope = kernels.forward(received.t_in, received.order, weights, self.neuron)
        return LayerActivity(received, t_out, slope)

    def backward(
        self,
        kernels: Kernels,
        activity: LayerActivity,
        weights: Array,
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
    ) -> tuple[Array | None, Array]:
        """Gradients of the (n_replica, n_batch, n_in) input times, if needed, and of the weights."""
        t_in_grad, weights_grad = kernels.backward(
            activity.received.t_in,
            weights,
            self.neuron,
            activity.t_out,
            activity.slope,
            t_out_grad,
            active=active,
            max_weight_grad=max_weight_grad,
            need_t_in_grad=need_t_in_grad,
        )
        if t_in_grad is not None and self.bias_times:
            t_in_grad = np.ascontiguousarray(t_in_grad[:, :, : self.n_in])
        return t_in_grad, weights_grad
