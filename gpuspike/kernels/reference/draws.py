"""What a training step does besides the neurons, in plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike import rng
from gpuspike.kernels.bias import with_bias, without_bias
from gpuspike.rng import Purpose

__all__ = ["count_silent", "descend", "jitter", "normals", "place", "score", "with_bias", "without_bias"]


def jitter(
    times: NDArray[Any],
    n_jittered: int,
    std: float,
    seeds: Sequence[int],
    purpose: int,
    epoch: int,
    batch: int,
) -> None:
    """See `kernels.Kernels.jitter`."""
    for r, seed in enumerate(seeds):
        noise = rng.normals(seed, Purpose(purpose), epoch, batch, times.shape[1], n_jittered)
        jittered = times[r, :, :n_jittered]
        jittered[:] = np.abs(jittered + std * noise)


def normals(
    like: NDArray[Any],
    seeds: Sequence[int],
    purpose: int,
    layer: int,
    epoch: int,
    batch: int,
    first: int,
) -> NDArray[Any]:
    """Normal numbers of the shape of `like`; see `kernels.Kernels.normals`."""
    n_batch, n = like.shape[1:]
    drawn = [rng.normals(seed, Purpose(purpose), epoch, batch, n_batch, n, layer, first) for seed in seeds]
    return np.stack(drawn).astype(like.dtype)


def score(loss: Any, t_out: NDArray[Any], labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """See `kernels.Kernels.score`."""
    return loss.reference(t_out, labels)


def descend(
    optimizer: Any,
    rates: Sequence[float],
    weights: NDArray[Any],
    grad: NDArray[Any],
    state: Sequence[NDArray[Any]],
) -> None:
    """See `kernels.Kernels.descend`."""
    optimizer.reference(rates, weights, grad, *state)


def count_silent(t_out: NDArray[Any]) -> NDArray[np.int64]:
    """See `kernels.Kernels.count_silent`: one number a replica."""
    # Counted replica by replica: a sum over a mask would first turn it into numbers.
    return np.array([[np.count_nonzero(np.isinf(part))] for part in t_out])


def place(array: NDArray[Any]) -> NDArray[Any]:
    """See `kernels.Kernels.place`."""
    return array
