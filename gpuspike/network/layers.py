"""What a fully connected layer of LIF neurons is, and what the first one receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels.convolution import Convolution
from gpuspike.network.delays import Delays
from gpuspike.neuron import LIF

Array = NDArray[Any]


EVALUATION = 2**32 - 1
"""Stands for the epoch where nothing is trained: every evaluation of a chip draws the same trials."""


class Moment(NamedTuple):
    """When a batch is presented, which is the address of what a chip draws for its trials.

    Attributes:
        epoch, batch: of a training; in an evaluation the batches are not counted, so that how they are cut
            changes nothing.
        first: number of the first sample.
    """

    epoch: int = EVALUATION
    batch: int = 0
    first: int = 0


@dataclass(frozen=True)
class LayerInput:
    """What the first layer receives, bias spikes included.

    Attributes:
        t_in: (n_replica or 1, n_batch, n_pre) spike times.
        order: of the same shape, what sorts them; None: left to the forward pass.
    """

    t_in: Array
    order: NDArray[np.int64] | None

    def take(self, samples: NDArray[np.int64], *, with_order: bool = True) -> LayerInput:
        """A copy of the samples (n_replica, n_batch) of an input that all replicas share, each its own.

        Args:
            with_order: False where the times are going to change.
        """
        order = self.order[0][samples] if with_order and self.order is not None else None
        return LayerInput(self.t_in[0][samples], order)

    def part(self, first: int, last: int) -> LayerInput:
        """Samples `first` to `last` (not included)."""
        t_in, order = self.t_in[:, first:last], None if self.order is None else self.order[:, first:last]
        return LayerInput(_contiguous(t_in), None if order is None else _contiguous(order))

    def to(self, place: Callable[[Array], Array]) -> LayerInput:
        """The same in arrays of another place."""
        return LayerInput(place(self.t_in), None if self.order is None else place(self.order))


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy()


@dataclass(frozen=True)
class Layer:
    """Sizes and constants of a layer; its weights are passed in.

    Attributes:
        n_in, n_out: spikes that it receives, at most, and that are heard of it.
        bias_times: times of spikes that every sample gets in addition, each with its own row of weights.
        neuron: parameters of all its neurons.
        delays: of its spikes; None: they take no time.
        convolution: how its neurons share weights; None: each has its own, from every input.
    """

    n_in: int
    n_out: int
    bias_times: tuple[float, ...]
    neuron: LIF
    delays: Delays | None = None
    convolution: Convolution | None = None

    @property
    def n_received(self) -> int:
        """Inputs and bias spikes."""
        return self.n_in + len(self.bias_times)

    @property
    def n_pre(self) -> int:
        """Rows of the weights: inputs and bias spikes of a neuron."""
        fan_in = self.n_in if self.convolution is None else self.convolution.fan_in
        return fan_in + len(self.bias_times)

    @property
    def n_post(self) -> int:
        """Columns of the weights: neurons, or maps whose neurons share theirs."""
        return self.n_out if self.convolution is None else self.convolution.n_maps

    @property
    def n_neurons(self) -> int:
        """Neurons in the layer."""
        return self.n_out if self.convolution is None else self.convolution.n_neurons

    @property
    def n_places(self) -> int:
        """Positions at which its neurons share their weights; 1: nowhere."""
        return 1 if self.convolution is None else self.convolution.n_positions

    @property
    def fan_out(self) -> NDArray[np.int64]:
        """(n_received,) neurons that each input and bias spike reaches."""
        if self.convolution is None:
            return np.full(self.n_received, self.n_out)
        return self.convolution.reached(np.full(self.n_pre, self.n_post))[:-1]

    def of_replica(self, replica: int) -> Layer:
        """The layer of one replica, for weights of its own."""
        delays = None if self.delays is None else self.delays.of_replica(replica)
        return replace(self, neuron=self.neuron.of_replica(replica), delays=delays)
