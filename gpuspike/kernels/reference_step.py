"""What a training step does besides the neurons, in plain NumPy: noise, the optimiser, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike import rng
from gpuspike.rng import Purpose


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


def adam(
    weights: NDArray[Any],
    grad: NDArray[Any],
    mean: NDArray[Any],
    square: NDArray[Any],
    keep_mean: float,
    keep_square: float,
    rate: float,
    correction: float,
    epsilon: float,
) -> None:
    """See `kernels.Kernels.adam`."""
    mean += (1.0 - keep_mean) * (grad - mean)
    square += (1.0 - keep_square) * (grad * grad - square)
    weights -= rate * mean / (np.sqrt(square) * correction + epsilon)


def cross_entropy(
    t_out: NDArray[Any],
    labels: NDArray[np.int64],
    unit: float,
    late: float,
    alpha: float,
    penalty: float,
    xp: Any = np,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """See `kernels.Kernels.cross_entropy`.

    Args:
        xp: module of the arrays, NumPy or CuPy.
    """
    is_label = xp.arange(t_out.shape[2]) == labels[..., None]
    t_label = xp.where(is_label, t_out, 0.0).sum(axis=2, keepdims=True)
    answered = xp.isfinite(t_label)
    t_label[~answered] = 0.0
    t_first = xp.where(answered, t_out.min(axis=2, keepdims=True), 0.0)
    share = xp.exp(xp.where(answered, t_first - t_out, 0.0) * (1.0 / unit))
    total = share.sum(axis=2, keepdims=True)
    # Past the largest exponential the term stays there, and finite.
    last = float(np.log(np.finfo(t_out.dtype).max)) - 1.0
    early = alpha * xp.exp(xp.minimum(t_label / late, last)) if alpha else 0.0 * t_label
    loss = xp.log(total) + (t_label - t_first) / unit + early
    grad = is_label * (1.0 / unit + early / late) - share / (unit * total)
    grad *= answered / t_out.shape[1]
    return xp.where(answered, loss, penalty)[..., 0], grad.astype(t_out.dtype, copy=False)
