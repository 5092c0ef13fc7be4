"""First spikes as an operator of PyTorch's: its gradient, its shapes for the compiler, its rule for `vmap`.

The operators know arrays as `gs.first_spikes` does, with or without an axis of replicas, and a neuron's
constants as numbers; the function above them has the shapes that users have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gpuspike import kernels
from gpuspike.api.frameworks import pull_back, rows_of
from gpuspike.neuron import LIF
from gpuspike.torch.arrays import checked, on_arrays
from gpuspike.torch.delayed import delayed_spikes
from gpuspike.torch.neurons import neuron_of, repeated_own, told
from gpuspike.torch.operators import (
    Gradients,
    folded,
    has_replicas,
    unfolded,
    unwatched,
    with_gradient,
)

Array = NDArray[Any]


def first_spikes(
    t_in: Tensor,
    weights: Tensor,
    neuron: LIF,
    *,
    delays: Tensor | None = None,
    max_weight_grad: float = math.inf,
) -> Tensor:
    """`gs.first_spikes` with its gradients as a function of PyTorch's.

    Spike times and gradients are, to the bit, those of `gs.first_spikes` and, given the slopes that it
    returns, `gs.first_spikes_vjp`. Tensors on the CPU are shared with the kernels and not copied, where they
    are contiguous; those on a CUDA device are shared with CuPy, which computes on torch's current stream. A
    neuron that stays silent has a gradient of exactly 0, whatever the gradient of its time is, NaN and inf
    included.

    It goes through `torch.compile`, `torch.func.grad` and `torch.func.vmap`, which makes replicas of what it
    maps. Under autocast, half precision is raised to float32, which is kept. There are first derivatives
    only.

    Args:
        t_in: (..., n_pre) input spike times, inf = no spike; with replicas (n_replica, ..., n_pre).
        weights: (n_pre, n_post) or (n_replica, n_pre, n_post).
        neuron: parameters, times in the unit of `t_in`.
        delays: of the synapses, of the shape of `weights`, finite and 0 or more: input i reaches neuron j at
            t_in_i + delays_ij. Computed neuron by neuron, on the CPU. None: spikes take no time.
        max_weight_grad: see `gs.first_spikes_vjp`.

    Returns:
        (..., n_post) or (n_replica, ..., n_post) spike times, inf where the neuron stays silent.

    Raises:
        DtypeError, ShapeError, ValueRangeError, BackendError: what was expected and what was got.
    """
    given = {"t_in": t_in, "weights": weights}
    t_in, weights, *own = checked(**given if delays is None else given | {"delays": delays})
    shape = rows_of(t_in.shape, weights.shape, neuron, max_weight_grad)
    together = t_in.ndim != weights.ndim  # axes of samples that are none, or several
    rows = t_in.reshape(shape) if together else t_in
    if own:
        t_out: Any = delayed_spikes(rows, weights, own[0], neuron, max_weight_grad)
    elif unwatched(rows, weights):
        t_out, _ = _Direct.apply(rows, weights, neuron, max_weight_grad)
    else:
        t_out, _ = _differentiable(rows, weights, *told(neuron), float(max_weight_grad))
    return t_out.reshape(*t_in.shape[:-1], weights.shape[-1]) if together else t_out


# ---- spike times


@torch.library.custom_op(
    "gpuspike::first_spikes",
    mutates_args=(),
    schema=(
        "(Tensor t_in, Tensor weights, float[] numbers, Tensor? own, float max_weight_grad) "
        "-> (Tensor, Tensor)"
    ),
)
def _spikes(
    t_in: Tensor, weights: Tensor, numbers: Sequence[float], own: Tensor | None, max_weight_grad: float
) -> tuple[Tensor, Tensor]:
    """Spike times, and slopes for their gradient, as `max_weight_grad` is."""
    del max_weight_grad
    return _computed(t_in, weights, neuron_of(numbers, own))


def _computed(t_in: Tensor, weights: Tensor, neuron: LIF) -> tuple[Tensor, Tensor]:
    def function(times: Array, w: Array) -> tuple[Array, Array]:
        return kernels.first_spikes(times, w, neuron, return_slopes=True)

    return on_arrays(function, t_in, weights)


@_spikes.register_fake
def _(t_in: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (*t_in.shape[:-1], weights.shape[-1])
    return t_in.new_empty(shape), t_in.new_empty(shape)


@_spikes.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    t_in: Tensor,
    weights: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    max_weight_grad: float,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    n, replicas = info.batch_size, has_replicas(weights, in_dims[1])
    tensors = folded(n, in_dims, replicas, t_in, weights)
    found = _spikes(*tensors, numbers, repeated_own(n, own), max_weight_grad)
    t_out, slopes = (unfolded(n, replicas, array) for array in found)
    return (t_out, slopes), (0, 0)


# ---- their gradients


@torch.library.custom_op(
    "gpuspike::first_spikes_vjp",
    mutates_args=(),
    schema=(
        "(Tensor t_in, Tensor weights, Tensor t_out, Tensor slopes, Tensor t_out_grad, float[] numbers, "
        "Tensor? own, float max_weight_grad, bool need_t_in_grad) -> (Tensor, Tensor)"
    ),
)
def _vjp(
    t_in: Tensor,
    weights: Tensor,
    t_out: Tensor,
    slopes: Tensor,
    t_out_grad: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the inputs, empty where nobody needs it, and of the weights."""
    t_in_grad, weights_grad = _computed_gradients(
        t_in, weights, t_out, slopes, t_out_grad, neuron_of(numbers, own), max_weight_grad, need_t_in_grad
    )
    return t_in.new_empty(_nobody_s(t_in)) if t_in_grad is None else t_in_grad, weights_grad


def _computed_gradients(
    t_in: Tensor,
    weights: Tensor,
    t_out: Tensor,
    slopes: Tensor,
    t_out_grad: Tensor,
    neuron: LIF,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Tensor | None, Tensor]:
    def function(times: Array, w: Array, *given: Array) -> tuple[Array | None, Array]:
        options: Any = {"max_weight_grad": max_weight_grad, "need_t_in_grad": need_t_in_grad}
        return pull_back(times, w, neuron, *given, **options)

    return on_arrays(function, t_in, weights, t_out, slopes, t_out_grad)


@_vjp.register_fake
def _(t_in: Tensor, weights: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    need_t_in_grad = others[-1]
    t_in_grad = t_in.new_empty(t_in.shape if need_t_in_grad else _nobody_s(t_in))
    return t_in_grad, weights.new_empty(weights.shape)


def _nobody_s(t_in: Tensor) -> tuple[int, ...]:
    """The shape of a gradient that nobody needs."""
    return (*t_in.shape[:-2], 0, 0)


@_vjp.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    t_in: Tensor,
    weights: Tensor,
    t_out: Tensor,
    slopes: Tensor,
    t_out_grad: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    *options: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    n, replicas = info.batch_size, has_replicas(weights, in_dims[1])
    tensors = folded(n, in_dims, replicas, t_in, weights, t_out, slopes, t_out_grad)
    grads = _vjp(*tensors, numbers, repeated_own(n, own), *options)
    t_in_grad, weights_grad = (unfolded(n, replicas, grad) for grad in grads)
    return (t_in_grad, weights_grad), (0, 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    t_in, weights, ctx.numbers, own, ctx.max_weight_grad = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(t_in, weights, *output, own)


def _pull_back(ctx: Any, vjp: Any, t_out_grad: Tensor, _: Any) -> Gradients:
    *kept, own = ctx.saved_tensors
    need_t_in, need_weights, *_ = ctx.needs_input_grad
    found = vjp(*kept, t_out_grad, ctx.numbers, own, ctx.max_weight_grad, need_t_in)
    return found[0] if need_t_in else None, found[1] if need_weights else None, None, None, None


_differentiable = with_gradient("first_spikes", _spikes, _vjp, _keep, _pull_back)


class _Direct(torch.autograd.Function):
    """The same without operators."""

    @staticmethod
    def forward(
        ctx: Any, t_in: Tensor, weights: Tensor, neuron: LIF, max_weight_grad: float
    ) -> tuple[Tensor, Tensor]:
        t_out, slopes = _computed(t_in, weights, neuron)
        ctx.mark_non_differentiable(slopes)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(t_in, weights, t_out, slopes)
        ctx.neuron, ctx.max_weight_grad = neuron, max_weight_grad
        return t_out, slopes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        if grads[0] is None:
            return None, None, None, None
        t_in, weights, t_out, slopes = ctx.saved_tensors
        given = t_in, weights, t_out, slopes, grads[0]
        need_t_in, need_weights, *_ = ctx.needs_input_grad
        options = ctx.max_weight_grad, need_t_in
        if torch.is_grad_enabled():  # somebody keeps the graph, and could ask for second derivatives
            found: Any = _vjp(*given, *told(ctx.neuron), *options)
        else:
            found = _computed_gradients(*given, ctx.neuron, *options)
        return found[0] if need_t_in else None, found[1] if need_weights else None, None, None
