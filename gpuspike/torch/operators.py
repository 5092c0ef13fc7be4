"""What operators have in common: a gradient that is one, too, and a mapped axis that makes replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpuspike.errors import BackendError

Gradients = tuple[Tensor | None, ...]

PLAIN = (Tensor, torch.nn.Parameter)


def unwatched(*tensors: Tensor) -> bool:
    """Whether plain tensors are given and nothing looks on, no compiler, no transform and no mode.

    Then what an operator does can be done without it: PyTorch's ways through an operator take longer than a
    small layer.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or any(type(tensor) not in PLAIN or tensor.is_meta for tensor in tensors)
    )


def with_gradient(
    name: str,
    operator: Any,
    gradient: Any,
    keep: Callable[[Any, tuple[Any, ...], Any], None],
    pull_back: Callable[..., Gradients],
) -> Callable[..., Any]:
    """An operator as a function with first derivatives.

    It comes in two forms. The compiler cannot look into functions within functions, and is given the
    operators themselves; else they are functions, since `torch.func` takes no operator that brings a gradient
    of its own.

    Args:
        name: of the function, for the refusal of second derivatives.
        operator, gradient: custom operators.
        keep: called with a context, the operator's inputs and its output, a tensor or several.
        pull_back: called with that context, the gradient as a function, and the gradient of each output.
    """

    def refuse(*_: Any) -> Gradients:
        raise BackendError(
            f"{name} has first derivatives in reverse mode, got a second one or one in forward mode"
        )

    def pull_back_compiled(ctx: Any, *grads: Tensor) -> Gradients:
        return pull_back(ctx, gradient, *grads)

    class Gradient(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            return gradient(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            del ctx, inputs, output  # there is nothing to keep

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return refuse()

        @staticmethod
        def jvp(ctx: Any, *grads: Any) -> Any:
            return refuse()

    class Function(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            return operator(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            keep(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Gradients:
            # Only who keeps the graph of a gradient can ask for more of it.
            return pull_back(ctx, Gradient.apply if torch.is_grad_enabled() else gradient, *grads)

        @staticmethod
        def jvp(ctx: Any, *grads: Any) -> Any:
            return refuse()

    operator.register_autograd(pull_back_compiled, setup_context=keep)
    gradient.register_autograd(refuse)

    def function(*inputs: Any) -> Any:
        return operator(*inputs) if torch.compiler.is_compiling() else Function.apply(*inputs)

    return function


def has_replicas(weights: Tensor, axis: int | None) -> bool:
    """Whether weights have an axis of replicas beside the one that is mapped."""
    return weights.ndim - (axis is not None) == 3


def folded(n: int, in_dims: tuple[Any, ...], replicas: bool, *tensors: Tensor) -> list[Tensor]:
    """Tensors whose mapped axis, of length n, becomes that of replicas, or part of it if there is one."""
    made = []
    for tensor, axis in zip(tensors, in_dims, strict=False):
        whole = tensor.expand(n, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
        made.append(whole.reshape(n * whole.shape[1], *whole.shape[2:]) if replicas else whole)
    return made


def unfolded(n: int, replicas: bool, tensor: Tensor) -> Tensor:
    """A tensor with its mapped axis first again."""
    return tensor.reshape(n, tensor.shape[0] // n, *tensor.shape[1:]) if replicas else tensor
