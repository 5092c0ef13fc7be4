"""First spikes where each synapse has a delay of its own, as an operator of PyTorch's with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpuspike.api.frameworks import delayed_pull_back, delayed_times
from gpuspike.errors import ShapeError
from gpuspike.neuron import LIF
from gpuspike.torch.arrays import on_arrays
from gpuspike.torch.neurons import neuron_of, repeated_own, told
from gpuspike.torch.operators import Gradients, folded, has_replicas, unfolded, with_gradient


def delayed_spikes(
    t_in: Tensor, weights: Tensor, delays: Tensor, neuron: LIF, max_weight_grad: float
) -> Tensor:
    """Spike times of a layer with delays of its synapses; see `gpuspike.torch.first_spikes`.

    Args:
        t_in: with one axis for all samples.

    Raises:
        ShapeError: delays of another shape than the weights.
    """
    if delays.shape != weights.shape:
        expected = tuple(weights.shape)
        raise ShapeError(f"delays must be of the shape of weights, {expected}, got {tuple(delays.shape)}")
    return _differentiable(t_in, weights, delays, *told(neuron), float(max_weight_grad))


@torch.library.custom_op(
    "gpuspike::delayed_spikes",
    mutates_args=(),
    schema=(
        "(Tensor t_in, Tensor weights, Tensor delays, float[] numbers, Tensor? own, float max_weight_grad) "
        "-> Tensor"
    ),
)
def _spikes(
    t_in: Tensor,
    weights: Tensor,
    delays: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    max_weight_grad: float,
) -> Tensor:
    """Spike times; `max_weight_grad` is for the gradient."""
    del max_weight_grad
    neuron = neuron_of(numbers, own)
    return on_arrays(lambda *arrays: delayed_times(neuron, *arrays), t_in, weights, delays)


@_spikes.register_fake
def _(t_in: Tensor, weights: Tensor, *_: Any) -> Tensor:
    return t_in.new_empty((*t_in.shape[:-1], weights.shape[-1]))


@_spikes.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    t_in: Tensor,
    weights: Tensor,
    delays: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    max_weight_grad: float,
) -> tuple[Tensor, int]:
    n, replicas = info.batch_size, has_replicas(weights, in_dims[1])
    tensors = folded(n, in_dims, replicas, t_in, weights, delays)
    t_out = _spikes(*tensors, numbers, repeated_own(n, own), max_weight_grad)
    return unfolded(n, replicas, t_out), 0


@torch.library.custom_op(
    "gpuspike::delayed_spikes_vjp",
    mutates_args=(),
    schema=(
        "(Tensor t_in, Tensor weights, Tensor delays, Tensor t_out, Tensor t_out_grad, float[] numbers, "
        "Tensor? own, float max_weight_grad) -> (Tensor, Tensor, Tensor)"
    ),
)
def _vjp(
    t_in: Tensor,
    weights: Tensor,
    delays: Tensor,
    t_out: Tensor,
    t_out_grad: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    max_weight_grad: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the inputs, the weights and the delays."""
    neuron = neuron_of(numbers, own)
    return on_arrays(
        lambda *arrays: delayed_pull_back(neuron, max_weight_grad, *arrays),
        t_in,
        weights,
        delays,
        t_out,
        t_out_grad,
    )


@_vjp.register_fake
def _(t_in: Tensor, weights: Tensor, delays: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return t_in.new_empty(t_in.shape), weights.new_empty(weights.shape), delays.new_empty(delays.shape)


@_vjp.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    t_in: Tensor,
    weights: Tensor,
    delays: Tensor,
    t_out: Tensor,
    t_out_grad: Tensor,
    numbers: Sequence[float],
    own: Tensor | None,
    max_weight_grad: float,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    n, replicas = info.batch_size, has_replicas(weights, in_dims[1])
    tensors = folded(n, in_dims, replicas, t_in, weights, delays, t_out, t_out_grad)
    grads = _vjp(*tensors, numbers, repeated_own(n, own), max_weight_grad)
    return tuple(unfolded(n, replicas, grad) for grad in grads), (0, 0, 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    t_in, weights, delays, ctx.numbers, own, ctx.max_weight_grad = inputs
    ctx.save_for_backward(t_in, weights, delays, output, own)


def _pull_back(ctx: Any, vjp: Any, t_out_grad: Tensor) -> Gradients:
    t_in, weights, delays, t_out, own = ctx.saved_tensors
    found = vjp(t_in, weights, delays, t_out, t_out_grad, ctx.numbers, own, ctx.max_weight_grad)
    needed = ctx.needs_input_grad
    return *(grad if need else None for grad, need in zip(found, needed, strict=False)), None, None, None


_differentiable = with_gradient("first_spikes", _spikes, _vjp, _keep, _pull_back)
