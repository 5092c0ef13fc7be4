"""What the oracle's functions do to their arrays first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.neuron import LIF

Array = NDArray[np.float64]


def each(neuron: LIF, weights: Array) -> Iterator[tuple[int, int, LIF]]:
    """(replica, post, its parameters) of all neurons."""
    neuron.table(weights.shape[0], weights.shape[2])
    for r, j in np.ndindex(weights.shape[0], weights.shape[2]):
        yield r, j, neuron.of(r, j)


def shared(t_in: NDArray[Any], n_replica: int) -> NDArray[Any]:
    """Input times with an axis of so many replicas."""
    return np.broadcast_to(t_in, (n_replica, *t_in.shape[1:]))


def doubles(*arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays in float64."""
    return tuple(np.asarray(array, dtype=np.float64) for array in arrays)


def delays(t_in: Array, t_out: Array) -> Array:
    """(n_pre, n_post): time from input to spike; 0 where the input is not in the causal set."""
    causal = (t_in[:, None] < t_out) & np.isfinite(t_out)
    return np.subtract(t_out, t_in[:, None], out=np.zeros(causal.shape), where=causal)
