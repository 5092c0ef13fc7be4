"""Arrays that the gradients on the CPU are worked out in, and the tables by which compiled jobs find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array, LayerState
from gpuspike.kernels.constants import GROUPS_FROM
from gpuspike.kernels.cpu.arrays import address, in_vectors
from gpuspike.kernels.cpu.events import HEAD


def transpose(weights: Array) -> Array:
    """(n_replica, n_post, n_pre) copy of the weights."""
    return np.ascontiguousarray(weights.swapaxes(1, 2))


def tables_of(
    states: Sequence[LayerState],
    transposed: Sequence[Array | None],
    t_out_grad: Array,
    t_in_grad: Array | None,
    grads: Sequence[Array] | None,
    modes: Sequence[int],
    events: NDArray[np.int32] | None,
) -> tuple[NDArray[np.int64], list[Any]]:
    """The tables of `backward_piece`, and what must be kept as long as they are in use.

    Args:
        transposed: of each layer `transpose(weights)`; of the first None where nobody wants `t_in_grad`.
        t_in_grad, grads: for the results, or None for those that nobody wants there.
        events: of the first layer's inputs, see `room_for_events`; None with `t_in_grad`.
    """
    n_replica, n_batch, _ = t_out_grad.shape
    dtype = t_out_grad.dtype
    tables, kept = [], []
    below: Array | None = t_in_grad
    for number, state in enumerate(states):
        # The gradient of a layer's input times is that of the spikes below; bias spikes have no time to learn.
        above = t_out_grad if number + 1 == len(states) else np.empty(state.t_out.shape, dtype)
        n_grad = 0 if below is None else below.shape[2]
        n_pre, n_post = state.t_in.shape[2], state.t_out.shape[2]
        # gate, g, x, p, q1, q2; where whole vectors of p are read beyond its end, q1 must follow.
        post = np.empty((6 * n_replica, n_batch, n_post), dtype)
        # a1, a2, and of groups t.
        pre = np.empty(((2 if events is None else 3) * n_replica, n_batch, n_pre), dtype)
        short = np.zeros((n_replica, n_batch), np.bool_)
        sums = None if events is None else in_vectors(np.zeros((n_replica, n_pre, n_post), dtype))
        grad = None if grads is None else grads[number]
        arrays = (
            state.t_in,
            state.t_cross,
            state.slope,
            above,
            post,
            pre,
            short,
            transposed[number],
            below,
            grad,
            state.order,
            events,
            sums,
        )
        sizes = [len(state.t_in), n_pre, n_post, modes[number], n_grad]
        tables.append(sizes + [address(array) for array in arrays])
        kept.append(arrays)
        below, events = above, None
    return np.array(tables), kept


def room_for_events(n_replica: int, n_batch: int, n_pre: int) -> NDArray[np.int32] | None:
    """Where `events.grouped` tells the samples' events; None for layers of few inputs, whose groups nobody looks for."""
    return np.zeros((n_replica, n_batch, HEAD + n_pre), np.int32) if n_pre >= GROUPS_FROM else None
