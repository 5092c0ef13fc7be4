"""Losses on spike times as modules of PyTorch's: the formulas that `gs.fit` trains with, and the decision."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gpuspike.errors import BackendError, ConfigError, DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.torch.arrays import checked, device_of, on_arrays
from gpuspike.torch.convolution import spiking
from gpuspike.torch.operators import Gradients, folded, unfolded, with_gradient
from gpuspike.training.fit import leaf_name, leaf_values
from gpuspike.training.losses import LOSSES, Loss

REDUCTIONS = ("mean", "none")


class FirstSpikeLoss(torch.nn.Module):
    """A loss of `gpuspike.training.losses` on output spike times: its bits, value and gradient.

    A silent neuron has the loss and the gradient that its formula says, which are finite.

    A loss knows no neurons: the unit of its times is `tau_syn`, 1 unless given, which must be that of the
    layers' neurons. `of(model)` takes it from there. Values that are not given are the loss's own: of the
    cross-entropy xi=0.2, where `gs.Recipe` has 0.05.

    Args:
        loss: its name in `LOSSES`, one of a user's own among them, or one of these.
        reduction: "mean" of all samples, or "none": each sample's.
        values: of the loss, in place of its own; `tau_syn` is the unit of its times.

    Raises:
        ConfigError: an unknown loss, value or reduction.
        ValueRangeError: a value that the loss refuses.
    """

    def __init__(self, loss: str | Loss, *, reduction: str = "mean", **values: Any) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ConfigError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        name = loss if isinstance(loss, str) else leaf_name(loss)
        kind = LOSSES[name]
        own = {} if isinstance(loss, str) else leaf_values(loss) | {"tau_syn": loss.tau_syn}
        try:
            self.loss = kind(**(own | values))
        except TypeError as error:
            raise ConfigError(f"the loss {name} has no such value: {error}") from None
        self.reduction = reduction
        told = {key: value for key, value in asdict(self.loss).items() if key != "kernels"}
        self._spec = json.dumps([name, told])

    @classmethod
    def of(cls, model: torch.nn.Module, *loss: str | Loss, **options: Any) -> Self:
        """The same with the `tau_syn` of a model's first layer, as `gs.fit` has it.

        Args:
            model: with layers of FirstSpikes, or one of them; of neurons that differ the mean counts.
            loss: of `FirstSpikeLoss` alone, its name;  options: as for the loss itself.

        Raises:
            ConfigError: a model without such layers, or as the loss itself.
        """
        tau_syn = float(np.mean(spiking(model)[0].neuron.tau_syn))
        return cls(*loss, **{"tau_syn": tau_syn} | options)

    def forward(self, t_out: Tensor, labels: Tensor) -> Tensor:
        """The loss.

        Args:
            t_out: (..., n_classes) spike times, inf = silent.
            labels: (...) integers from 0 to n_classes - 1.

        Returns:
            A number, or with reduction "none" the shape of `labels`.

        Raises:
            DtypeError, ShapeError, ValueRangeError, BackendError: what was expected and what was got.
        """
        (t_out,) = checked(t_out=t_out)
        if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32):
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise DtypeError(f"labels must be a tensor of torch.int64 or torch.int32, got {got}")
        if labels.device != t_out.device:
            raise BackendError(f"labels must be on the device of t_out, {t_out.device}, got {labels.device}")
        if t_out.ndim == 0 or tuple(labels.shape) != tuple(t_out.shape[:-1]):
            raise ShapeError(
                f"labels must be one for each row of t_out, {tuple(t_out.shape)}, got {tuple(labels.shape)}"
            )
        rows = t_out.reshape(1, labels.numel(), t_out.shape[-1])
        mean = self.reduction == "mean"
        value = _differentiable(rows, labels.reshape(1, labels.numel()).long(), self._spec, mean)
        return value.reshape(()) if mean else value.reshape(labels.shape)

    def extra_repr(self) -> str:
        """The loss with its values."""
        return f"{self.loss!r}, reduction={self.reduction!r}"


class TTFSCrossEntropy(FirstSpikeLoss):
    """See `gpuspike.training.losses.TTFSCrossEntropy`; values: xi, alpha, beta, silent_penalty, tau_syn."""

    def __init__(self, *, reduction: str = "mean", **values: Any) -> None:
        super().__init__("ttfs_cross_entropy", reduction=reduction, **values)


class TimeMSE(FirstSpikeLoss):
    """See `gpuspike.training.losses.TimeMSE`; values: t_correct, t_wrong, silent_penalty, tau_syn."""

    def __init__(self, *, reduction: str = "mean", **values: Any) -> None:
        super().__init__("time_mse", reduction=reduction, **values)


class ShiftInvariant(FirstSpikeLoss):
    """See `gpuspike.training.losses.shift_invariant`; values: distance, silent_penalty, tau_syn."""

    def __init__(self, *, reduction: str = "mean", **values: Any) -> None:
        super().__init__("shift_invariant", reduction=reduction, **values)


def decide(t_out: Tensor) -> tuple[Tensor, Tensor]:
    """Classes of the output neurons that spike first, and when.

    Args:
        t_out: (..., n_classes) spike times.

    Returns:
        (...) classes, -1 where no neuron spikes, the lowest at a tie; and (...) times, inf there.
    """
    times = t_out.amin(dim=-1)
    n = t_out.shape[-1]
    numbers = torch.arange(n, device=t_out.device)
    first = torch.where(t_out == times.unsqueeze(-1), numbers, n).amin(dim=-1)
    return torch.where(torch.isfinite(times), first, -1), times


@lru_cache(maxsize=64)
def _made(spec: str, kernels: str) -> Loss:
    name, values = json.loads(spec)
    return LOSSES[name](**values, kernels=load(kernels))


def _scored(t_out: Tensor, labels: Tensor, spec: str) -> tuple[Tensor, Tensor]:
    """Loss of every sample (n_replica, n_batch), and the gradient of each replica's mean."""
    n_classes = t_out.shape[2]
    if labels.numel():
        least, most = (int(edge) for edge in labels.aminmax())
        if least < 0 or most >= n_classes:
            raise ValueRangeError(f"labels must lie from 0 to {n_classes - 1}, got {least} to {most}")
    kernels = "cpu" if device_of(t_out).type == "cpu" else "cuda"
    return on_arrays(_made(spec, kernels), t_out.contiguous(), labels.contiguous())


@torch.library.custom_op(
    "gpuspike::loss",
    mutates_args=(),
    schema="(Tensor t_out, Tensor labels, str spec, bool mean) -> Tensor",
)
def _loss(t_out: Tensor, labels: Tensor, spec: str, mean: bool) -> Tensor:
    """(n_replica,) mean losses, or (n_replica, n_batch) losses."""
    losses, _ = _scored(t_out, labels, spec)
    return (losses.mean(dim=1) if mean else losses).to(t_out.dtype)


@_loss.register_fake
def _(t_out: Tensor, labels: Tensor, spec: str, mean: bool) -> Tensor:
    del spec
    return t_out.new_empty(labels.shape[:1] if mean else labels.shape)


@torch.library.custom_op(
    "gpuspike::loss_vjp",
    mutates_args=(),
    schema="(Tensor t_out, Tensor labels, Tensor value_grad, str spec, bool mean) -> Tensor",
)
def _vjp(t_out: Tensor, labels: Tensor, value_grad: Tensor, spec: str, mean: bool) -> Tensor:
    """(n_replica, n_batch, n_classes)."""
    _, grad = _scored(t_out, labels, spec)
    scale = value_grad[:, None, None] if mean else (value_grad * labels.shape[1])[:, :, None]
    return grad * scale


@_vjp.register_fake
def _(t_out: Tensor, *_: Any) -> Tensor:
    return t_out.new_empty(t_out.shape)


@_loss.register_vmap
def _(
    info: Any, in_dims: tuple[Any, ...], t_out: Tensor, labels: Tensor, spec: str, mean: bool
) -> tuple[Tensor, int]:
    n = info.batch_size
    value = _loss(*folded(n, in_dims, True, t_out, labels), spec, mean)
    return unfolded(n, True, value), 0


@_vjp.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    t_out: Tensor,
    labels: Tensor,
    value_grad: Tensor,
    spec: str,
    mean: bool,
) -> tuple[Tensor, int]:
    n = info.batch_size
    grad = _vjp(*folded(n, in_dims, True, t_out, labels, value_grad), spec, mean)
    return unfolded(n, True, grad), 0


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    t_out, labels, ctx.spec, ctx.mean = inputs
    ctx.save_for_backward(t_out, labels)


def _pull_back(ctx: Any, vjp: Any, value_grad: Tensor) -> Gradients:
    return vjp(*ctx.saved_tensors, value_grad, ctx.spec, ctx.mean), None, None, None


_differentiable = with_gradient("a loss on spike times", _loss, _vjp, _keep, _pull_back)
