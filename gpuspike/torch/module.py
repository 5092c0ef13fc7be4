"""A fully connected layer of LIF neurons as a module of PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpuspike.api import checks
from gpuspike.api.network import Network
from gpuspike.errors import DtypeError, ShapeError
from gpuspike.network.delays import DelayRule, kinds_of
from gpuspike.network.initial import typical
from gpuspike.neuron import LIF
from gpuspike.torch.spikes import first_spikes


class SpikingLayer(nn.Module):
    """What layers of LIF neurons have in common."""

    delays: tuple[str, ...] = ()
    delay_rule = DelayRule()

    def _take(
        self,
        bias_times: Sequence[float],
        neuron: LIF | None,
        replicas: int | None,
        moments: tuple[float | None, float | None],
        max_weight_grad: float,
    ) -> None:
        """Keeps what the layers are made with; `moments` are mean and standard deviation of the weights."""
        self.neuron = LIF() if neuron is None else neuron
        self.bias_times = checks.layer_bias(bias_times)
        self.replicas, self.max_weight_grad = replicas, max_weight_grad
        self._moments = moments


class FirstSpikes(SpikingLayer):
    """A fully connected layer of LIF neurons, spike times in and first spike times out.

    Initial weights are those of a layer of `gs.Network`, which says how they are drawn; their seed comes from
    torch's generator, so that `torch.manual_seed` fixes them.

    Args:
        n_in, n_out: neurons before and in the layer.
        bias_times: of spikes that every sample gets in addition, each with its own row of weights.
        neuron: of the layer; None: `gs.LIF()`. Each may have constants of its own, which `gs.first_spikes`
            knows.
        delays: that it learns: "axonal" (one an input, bias spikes too), "dendritic" (one a neuron),
            "synaptic" (one a weight) or a sum of them, "axonal+dendritic".
        delay_rule: their range and form, in the unit of the times; None: up to tau_syn.
        replicas: independent layers side by side; None: one, and no axis for it.
        weight_mean, weight_std: of the initial weights, in place of the rule.
        max_weight_grad: limit of |dL/dw| for one (sample, neuron), see `gs.first_spikes_vjp`.
        device, dtype: of the weights; None: torch's own.

    Attributes:
        weights: (n_in + biases, n_out), the rows of bias spikes last; with replicas a first axis of them.
        axonal_delay, dendritic_delay, synaptic_delay: (n_in + biases), (n_out), or as the weights: free
            numbers, of which `delay_rule` makes delays; those that the layer has.

    Raises:
        ValueRangeError, DtypeError, ConfigError: a size, a time, a dtype or delays that cannot be.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        bias_times: Sequence[float] = (),
        *,
        neuron: LIF | None = None,
        delays: str | Sequence[str] = "none",
        delay_rule: DelayRule | None = None,
        replicas: int | None = None,
        weight_mean: float | None = None,
        weight_std: float | None = None,
        max_weight_grad: float = math.inf,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weights: Tensor
        self.n_in, self.n_out = n_in, n_out
        self._take(bias_times, neuron, replicas, (weight_mean, weight_std), max_weight_grad)
        self.delays, rule = kinds_of(delays), checks.delay_rule(delay_rule, delays)
        self.delay_rule = checks.usual_delays(self.neuron) if rule is None else rule
        dtype = real(dtype)
        for name, drawn in self._drawn().items():
            placed = drawn.to(device=device or torch.get_default_device(), dtype=dtype)
            setattr(self, name, nn.Parameter(placed))

    def reset_parameters(self) -> None:
        """Draws the weights and the delays anew."""
        with torch.no_grad():
            for name, drawn in self._drawn().items():
                getattr(self, name).copy_(drawn)

    def _drawn(self) -> dict[str, Tensor]:
        mean, std = self._moments
        seed = int(torch.randint(2**31, (), device="cpu"))
        neuron = self.neuron if self.neuron.uniform else typical(self.neuron)
        net = Network(
            [self.n_in, self.n_out],
            [self.bias_times],
            seed=seed,
            replicas=1 if self.replicas is None else self.replicas,
            neuron=neuron,
            backend="cpu",
            weight_mean=mean,
            weight_std=std,
            delays=self.delays,
            delay_rule=self.delay_rule if self.delays else None,
        )
        drawn = net.parameters[0].arrays()
        return {name: told(array, self.replicas) for name, array in drawn.items()}

    def forward(self, t_in: Tensor) -> Tensor:
        """First spike times.

        Args:
            t_in: (..., n_in) spike times, inf = no spike. With replicas (n_replica, ..., n_in), or (n_batch,
            n_in)
                that all of them see.

        Returns:
            (..., n_out); with replicas (n_replica, ..., n_out).

        Raises:
            DtypeError, ShapeError, BackendError: what was expected and what was got.
        """
        if t_in.ndim == 0 or t_in.shape[-1] != self.n_in:
            raise ShapeError(f"t_in must be (..., n_in) = (..., {self.n_in}), got {tuple(t_in.shape)}")
        if self.replicas is not None and t_in.ndim == 2:
            t_in = t_in.expand(self.replicas, *t_in.shape)
        if self.bias_times:
            bias = t_in.new_tensor(self.bias_times).expand(*t_in.shape[:-1], len(self.bias_times))
            t_in = torch.cat([t_in, bias], dim=-1)
        if "axonal" in self.delays:
            t_in = t_in + self._between(self._delays("axonal"), t_in)
        synaptic = self._delays("synaptic") if "synaptic" in self.delays else None
        t_out = first_spikes(
            t_in, self.weights, self.neuron, delays=synaptic, max_weight_grad=self.max_weight_grad
        )
        if "dendritic" in self.delays:
            later = t_out + self._between(self._delays("dendritic"), t_out)
            t_out = torch.where(torch.isfinite(t_out), later, torch.inf)  # no gradient of silent neurons
        return t_out

    def entries(self) -> list[Any]:
        """The layer among the sizes of a `gs.Network`."""
        return [self.n_out]

    def learnt(self) -> Iterator[tuple[str, Tensor]]:
        """What the layer learns, by the names in files."""
        yield "weights", self.weights
        for kind in self.delays:
            yield f"{kind}_delay", getattr(self, f"{kind}_delay")

    def _delays(self, kind: str) -> Tensor:
        """Delays of a kind."""
        return delays_of(getattr(self, f"{kind}_delay"), self.delay_rule)

    def _between(self, delays: Tensor, times: Tensor) -> Tensor:
        """Delays of inputs or neurons, with the axes that times have between replicas and those."""
        if self.replicas is None:
            return delays
        return delays.reshape(self.replicas, *[1] * (times.ndim - 2), -1)

    def extra_repr(self) -> str:
        """Sizes and neurons."""
        bias = f", bias_times={self.bias_times}" if self.bias_times else ""
        replicas = "" if self.replicas is None else f", replicas={self.replicas}"
        delays = f", delays={'+'.join(self.delays)!r}" if self.delays else ""
        neuron = self.neuron if self.neuron.uniform else "neurons with constants of their own"
        return f"{self.n_in}, {self.n_out}{bias}{delays}{replicas}, {neuron}"


def delays_of(free: Tensor, rule: DelayRule) -> Tensor:
    """Delays that free numbers stand for, with the gradient that `gs.DelayRule` has."""
    if rule.form == "sigmoid":
        return rule.shift + rule.scale * torch.sigmoid(free)
    clipped = rule.shift + rule.scale * (0.5 + 0.25 * free).clamp(0.0, 1.0)
    return clipped + _LeadingBack.apply(free, 0.25 * rule.scale)


class _LeadingBack(torch.autograd.Function):
    """Zeros, with the gradient that leads free numbers back from behind an end, where `clamp` has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(free: Tensor, slope: float) -> Tensor:
        del slope
        return torch.zeros_like(free)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        free, ctx.slope = inputs
        ctx.save_for_backward(free)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (free,), (grad,) = ctx.saved_tensors, grads
        back = ((free > 2.0) & (grad > 0.0)) | ((free < -2.0) & (grad < 0.0))
        return torch.where(back, ctx.slope * grad, 0.0), None


def real(dtype: torch.dtype | None) -> torch.dtype:
    """The type of a layer's weights, torch's own unless given.

    Raises:
        DtypeError: another one than float32 or float64.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype


def told(array: Any, replicas: int | None) -> Tensor:
    """A network's array as a layer has it: without the axis of replicas where there are none."""
    tensor = torch.from_numpy(array.copy())
    return tensor[0] if replicas is None else tensor
