"""Gradients of first spikes as frameworks ask for them, which have kept what the forward pass was given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.errors import ValueRangeError
from gpuspike.kernels import LayerState, load
from gpuspike.neuron import LIF

Array = NDArray[Any]


def pull_back(
    t_in: Array,
    weights: Array,
    neuron: LIF,
    t_out: Array,
    t_out_grad: Array,
    *,
    max_weight_grad: float = math.inf,
    need_t_in_grad: bool = True,
) -> tuple[Array | None, Array]:
    """The bits of `gs.first_spikes_vjp`, without the inputs' gradient where nobody needs it.

    Args:
        t_in, weights: as `gs.first_spikes` has taken them;  t_out: its answer.
        t_out_grad: ignored where `t_out` is inf.

    Returns:
        (t_in_grad or None, weights_grad).

    Raises:
        ValueRangeError: a gradient that is not finite where the neuron spikes.
    """
    xp = array_module(t_in=t_in, weights=weights, t_out=t_out, t_out_grad=t_out_grad)
    wrong = int((~xp.isfinite(t_out_grad) & xp.isfinite(t_out)).sum())
    if wrong:
        raise ValueRangeError(f"the gradient of spike times must be finite, got {wrong} NaN or inf")
    arrays = [t_in, weights, t_out, t_out_grad]
    if xp is np:
        arrays = [np.require(array, requirements=["C", "A", "W"]) for array in arrays]
    else:
        arrays = [xp.ascontiguousarray(array) for array in arrays]
    t_in, weights, t_out, t_out_grad = arrays
    replicas = t_in.ndim == 3
    if not replicas:
        t_in, weights, t_out, t_out_grad = t_in[None], weights[None], t_out[None], t_out_grad[None]
    kernels = load("cpu" if xp is np else "cuda")
    slope = kernels.slopes(t_in, weights, neuron, t_out)
    t_in_grad, (weights_grad,) = kernels.backward(
        [LayerState(t_in, np.empty(0, np.int64), t_out, t_out, slope)],
        [weights],
        [neuron],
        t_out_grad,
        active=np.ones(len(weights), np.bool_),
        max_weight_grad=max_weight_grad,
        need_t_in_grad=need_t_in_grad,
    )
    if replicas:
        return t_in_grad, weights_grad
    return None if t_in_grad is None else t_in_grad[0], weights_grad[0]
