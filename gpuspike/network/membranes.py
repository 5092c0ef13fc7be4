"""Membrane potentials over time, for whoever wants to look."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ShapeError
from gpuspike.neuron import LIF

Array = NDArray[Any]


def membranes(times: Array, t_in: Array, weights: Array, neuron: LIF, replica: int = 0) -> Array:
    """Potentials of one layer for one sample, as if no neuron ever spiked.

        u_j(t) = leak + sum_i w_ij k(t - t_i)

    Args:
        times: (n_times,) at which to look.
        t_in: (n_pre,) spike times that the layer receives, bias spikes included; inf = no spike.
        weights: (n_pre, n_post).
        neuron: of all neurons of the layer.
        replica: which of a neuron's own parameters count.

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
    delays, weights = times[:, None] - t_in.astype(np.float64), weights.astype(np.float64)
    if neuron.uniform:
        return neuron.leak + np.einsum("tp,pj->tj", neuron.kernel(delays), weights)
    own = [neuron.of(replica, post) for post in range(weights.shape[1])]
    return np.stack(
        [one.leak + one.kernel(delays) @ weights[:, post] for post, one in enumerate(own)], axis=1
    )
