"""Silent neurons in a training step on a device: which are pulled to their thresholds; see `waking.cu`."""

from __future__ import annotations

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels import LayerState
from gpuspike.kernels.constants import MIXED
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda.call import Array, Call, check, constant, elementwise
from gpuspike.kernels.unit import unit
from gpuspike.neuron import LIF


def woken(
    state: LayerState,
    weights: Array,
    neuron: LIF,
    labels: Array,
    share: Array,
    *,
    strength: float,
    limit: float,
    is_last: bool,
) -> LayerState:
    """A layer's answer where pulled neurons spike at their peaks, with slopes that are negative.

    Args:
        labels: (n_replica, n_batch);  share: (n_replica, n_post) float64, silent in the last batch.
        strength, limit: see `gpuspike.training.waking`;  is_last: the layer is the output.
    """
    cupy, own = cupy_module(), unit(neuron, weights)
    call = Call.of(state.t_in, weights, own)
    check(call.dtype, {"t_out": (state.t_out, call.out_shape), "slope": (state.slope, call.out_shape)})
    check(np.int64, {"labels": (labels, (call.n_replica, call.n_batch))})
    check(np.int64, {"order": (state.order, state.t_in.shape)})
    check(np.float64, {"share": (share, (call.n_replica, call.n_post))})
    seen, pull = (cupy.empty(call.out_shape, call.dtype) for _ in range(2))
    if not seen.size:
        return state
    spans = np.broadcast_to(np.asarray(neuron.span, np.float64), (call.n_replica, call.n_post))
    elementwise(src.WAKE)(
        call.n_in_replicas, call.n_batch, call.n_pre, call.n_post, int(is_last), int(own.regime == MIXED),
        *call.constants[:3], strength, limit, call.own_taus(), constant(spans, np.float64), share, labels,
        state.t_in, state.order, weights, state.t_out, state.slope, seen, pull, size=seen.size,
    )  # fmt: skip
    return state._replace(t_cross=seen, slope=pull)


def follow(share: Array, silent: Array, first: int, n_batch: int) -> None:
    """Remembers which share of the batch each neuron of a layer was silent for.

    Args:
        share: (n_replica, n_post) float64, changed;  silent: (n_replica, n_all), of `step.count_silent`.
        first: the layer's first neuron there.
    """
    n_replica, n_post = share.shape
    check(np.float64, {"share": (share, share.shape)})
    check(np.int32, {"silent": (silent, (n_replica, silent.shape[1]))})
    if share.size:
        elementwise(src.SHARE)(n_post, first, silent.shape[1], n_batch, silent, share)
