"""Bias spikes: inputs at fixed times, behind those that are received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from gpuspike.backend import array_module

Array = NDArray[Any]


def with_bias(spikes: Array, bias_times: Sequence[float]) -> Array:
    """(n_replica, n_batch, n) spike times with bias spikes at the end, the same for every sample."""
    if not bias_times:
        return spikes
    xp = array_module(spikes=spikes)
    bias = xp.broadcast_to(xp.asarray(bias_times, spikes.dtype), (*spikes.shape[:2], len(bias_times)))
    return xp.concatenate([spikes, bias], axis=2)


def without_bias(t_in_grad: Array, n_spikes: int) -> Array:
    """The first (n_replica, n_batch, n_spikes) of gradients of input times, contiguous."""
    return t_in_grad if t_in_grad.shape[2] == n_spikes else t_in_grad[:, :, :n_spikes].copy()
