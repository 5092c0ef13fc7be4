"""What a training step does besides the neurons, in plain NumPy: noise, the optimiser, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike import rng
from gpuspike.kernels import with_bias
from gpuspike.rng import Purpose

__all__ = ["adam", "count_silent", "cross_entropy", "jitter", "normals", "place", "time_mse", "with_bias"]


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
) -> tuple[NDArray[Any], NDArray[Any]]:
    """See `kernels.Kernels.cross_entropy`."""
    is_label = np.arange(t_out.shape[2]) == labels[..., None]
    t_label = np.where(is_label, t_out, 0.0).sum(axis=2, keepdims=True)
    answered = np.isfinite(t_label)
    t_label[~answered] = 0.0
    t_first = np.where(answered, t_out.min(axis=2, keepdims=True), 0.0)
    share = np.exp(np.where(answered, t_first - t_out, 0.0) * (1.0 / unit))
    total = share.sum(axis=2, keepdims=True)
    # Past the largest exponential the term stays there, and finite.
    last = float(np.log(np.finfo(t_out.dtype).max)) - 1.0
    early = alpha * np.exp(np.minimum(t_label / late, last)) if alpha else 0.0 * t_label
    loss = np.log(total) + (t_label - t_first) / unit + early
    grad = is_label * (1.0 / unit + early / late) - share / (unit * total)
    grad *= answered / t_out.shape[1]
    return np.where(answered, loss, penalty)[..., 0], grad.astype(t_out.dtype, copy=False)


def time_mse(
    t_out: NDArray[Any],
    labels: NDArray[np.int64],
    tau_syn: float,
    correct: float,
    wrong: float,
    penalty: float,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """See `kernels.Kernels.time_mse`."""
    is_label = np.arange(t_out.shape[2]) == np.asarray(labels)[..., None]
    target = np.where(is_label, correct, wrong)
    spiking = np.isfinite(t_out)
    error = np.where(spiking, t_out, 0.0) - np.where(spiking, target, 0.0)
    error /= tau_syn
    loss = np.where(spiking, 0.5 * error**2, penalty).sum(axis=2)
    grad = error / (tau_syn * t_out.shape[1])
    return loss, grad.astype(t_out.dtype, copy=False)


def count_silent(t_out: NDArray[Any]) -> NDArray[np.int64]:
    """See `kernels.Kernels.count_silent`: one number a replica."""
    # Counted replica by replica: a sum over a mask would first turn it into numbers.
    return np.array([[np.count_nonzero(np.isinf(part))] for part in t_out])


def place(array: NDArray[Any]) -> NDArray[Any]:
    """See `kernels.Kernels.place`."""
    return array


def without_bias(t_in_grad: NDArray[Any], n_spikes: int) -> NDArray[Any]:
    """The gradients of the first `n_spikes` input times, contiguous."""
    return t_in_grad[:, :, :n_spikes].copy()
