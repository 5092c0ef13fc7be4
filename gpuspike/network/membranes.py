"""Membrane potentials over time, for whoever wants to look."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ShapeError
from gpuspike.network.delays import Delays
from gpuspike.network.layers import Layer
from gpuspike.network.unshared import at_position
from gpuspike.neuron import LIF

Array = NDArray[Any]


def of_each_position(layer: Layer, t_in: Array) -> Array:
    """(n_replica, n_positions, n_pre) what the neurons at each position receive; one, but for a convolution.

    Args:
        t_in: (n_replica, n_received).
    """
    if layer.convolution is None:
        return t_in[:, None]
    return layer.convolution.patches(np.ascontiguousarray(t_in)[:, None])


def of_position(layer: Layer, position: int, weights: Array, neuron: LIF) -> tuple[Array, LIF]:
    """Weights (..., n_pre, n_post) and neurons at one of them; on a chip each may have its own."""
    if layer.convolution is None:
        return weights, neuron
    return at_position(layer.convolution, position, weights, neuron)


def of_layer(
    times: Array, layer: Layer, t_in: Array, weights: Array, neuron: LIF, replica: int, delays: Delays | None
) -> Array:
    """`membranes` of all neurons (n_times, n_neurons), those of a convolution position by position.

    Args:
        t_in: (n_received,);  weights: (n_pre, n_post), on a chip perhaps (n_pre, n_neurons).
    """
    found = []
    for position, seen in enumerate(of_each_position(layer, t_in[None])[0]):
        w, there = of_position(layer, position, weights, neuron)
        found.append(membranes(times, seen, w, there, replica, delays))
    return np.hstack(found)


def membranes(
    times: Array, t_in: Array, weights: Array, neuron: LIF, replica: int = 0, delays: Delays | None = None
) -> Array:
    """Potentials of one layer for one sample, as if no neuron ever spiked.

        u_j(t) = leak + sum_i w_ij k(t - t_i - d_ij)

    Args:
        times: (n_times,) at which to look.
        t_in: (n_pre,) spike times that the layer receives, past the axons, bias spikes included; inf = none.
        weights: (n_pre, n_post).
        neuron: of all neurons of the layer.
        replica: which of a neuron's own parameters, and of the delays, count.
        delays: from there to the neurons.

    Returns:
        (n_times, n_post) float64.

    Raises:
        ShapeError: arrays that do not fit each other.
    """
    if np.ndim(times) != 1 or np.shape(t_in) != np.shape(weights)[:1]:
        raise ShapeError(
            f"membranes need (n_times,) times and (n_pre,) inputs for weights {np.shape(weights)}, "
            f"got {np.shape(times)} and {np.shape(t_in)}"
        )
    past, weights = times[:, None] - t_in.astype(np.float64), weights.astype(np.float64)
    between = 0.0 if delays is None else delays.between(replica)
    if neuron.uniform and np.ndim(between) == 0:
        return neuron.leak + np.einsum("tp,pj->tj", neuron.kernel(past), weights)
    to_each = np.broadcast_to(between, weights.shape)
    own = [neuron.of(replica, post) for post in range(weights.shape[1])]
    return np.stack(
        [one.leak + one.kernel(past - to_each[:, post]) @ weights[:, post] for post, one in enumerate(own)],
        axis=1,
    )
