"""A layer of LIF neurons as a module of PyTorch's, and networks made of such layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gpuspike.api.network import Network
from gpuspike.errors import ConfigError, ShapeError
from gpuspike.network.initial import typical
from gpuspike.network.parameters import Parameters
from gpuspike.neuron import LIF
from gpuspike.torch.spikes import first_spikes


class FirstSpikes(nn.Module):
    """A fully connected layer of LIF neurons, spike times in and first spike times out.

    Initial weights are those of a layer of `gs.Network`, which says how they are drawn; their seed comes from
    torch's generator, so that `torch.manual_seed` fixes them.

    Args:
        n_in, n_out: neurons before and in the layer.
        bias_times: of spikes that every sample gets in addition, each with its own row of weights.
        neuron: of the layer; None: `gs.LIF()`. Each may have constants of its own, which `gs.first_spikes`
        knows. replicas: independent layers side by side; None: one, and no axis for it. weight_mean,
        weight_std: of the initial weights, in place of the rule. max_weight_grad: limit of |dL/dw| for one
        (sample, neuron), see `gs.first_spikes_vjp`. device, dtype: of the weights; None: torch's own.

    Attributes:
        weights: (n_in + biases, n_out), the rows of bias spikes last; with replicas a first axis of them.

    Raises:
        ValueRangeError, DtypeError: a size, a time or a dtype that cannot be.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        bias_times: Sequence[float] = (),
        *,
        neuron: LIF | None = None,
        replicas: int | None = None,
        weight_mean: float | None = None,
        weight_std: float | None = None,
        max_weight_grad: float = math.inf,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_in, self.n_out, self.replicas = n_in, n_out, replicas
        self.neuron = LIF() if neuron is None else neuron
        self.bias_times = tuple(float(time) for time in bias_times)
        self.max_weight_grad = max_weight_grad
        self._moments = weight_mean, weight_std
        drawn = self._drawn()
        dtype = torch.get_default_dtype() if dtype is None else dtype
        self.weights = nn.Parameter(drawn.to(device=device or torch.get_default_device(), dtype=dtype))

    def reset_parameters(self) -> None:
        """Draws the weights anew."""
        with torch.no_grad():
            self.weights.copy_(self._drawn())

    def _drawn(self) -> Tensor:
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
        )
        weights = torch.from_numpy(net.parameters.weights[0])
        return weights[0] if self.replicas is None else weights

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
        return first_spikes(t_in, self.weights, self.neuron, max_weight_grad=self.max_weight_grad)

    def extra_repr(self) -> str:
        """Sizes and neurons."""
        bias = f", bias_times={self.bias_times}" if self.bias_times else ""
        replicas = "" if self.replicas is None else f", replicas={self.replicas}"
        neuron = self.neuron if self.neuron.uniform else "neurons with constants of their own"
        return f"{self.n_in}, {self.n_out}{bias}{replicas}, {neuron}"


KNOWN = {"weights", "threshold", "tau_mem", "tau_syn"}
"""What a layer of a `gs.Network` may have learnt to become a module."""


def layers_of(net: Network, *, max_weight_grad: float = math.inf) -> nn.Sequential:
    """The layers of a `gs.Network` as modules, with copies of its weights.

    Constants of neurons that it has learnt stay as they are. A chip under the network is not part of them.

    Raises:
        ConfigError: the network has learnt what the modules do not have.
    """
    modules = nn.Sequential()
    for layer, learnt in zip(net.architecture.layers, net.parameters, strict=True):
        if unknown := sorted(set(learnt.arrays()) - KNOWN):
            raise ConfigError(
                f"layers of PyTorch have weights and constants of neurons, got {', '.join(unknown)}"
            )
        weights = torch.from_numpy(learnt.weights.copy())
        module = FirstSpikes(
            layer.n_in,
            layer.n_out,
            layer.bias_times,
            neuron=layer.neuron,
            replicas=net.replicas if net.replicas > 1 else None,
            weight_mean=0.0,
            weight_std=0.0,
            max_weight_grad=max_weight_grad,
            dtype=weights.dtype,
        )
        module.weights = nn.Parameter(weights if net.replicas > 1 else weights[0])
        modules.append(module)
    return modules


def network_of(model: nn.Module, *, backend: str = "auto", seed: int = 0) -> Network:
    """The `gs.Network` of a model's layers, in the model's order, with copies of their weights.

    It can be put on a chip, priced, saved, and trained on; what lies between the layers is not part of it.

    Args:
        backend, seed: of the network.

    Raises:
        ConfigError: no `FirstSpikes` in the model, or layers that differ in neuron, replicas or dtype.
        ShapeError: layers of which one does not fit the next.
        ValueRangeError: neurons with constants of their own.
    """
    layers = [module for module in model.modules() if isinstance(module, FirstSpikes)]
    if not layers:
        raise ConfigError(f"a model must have layers of FirstSpikes, got {type(model).__name__} without")
    first = layers[0]
    for number, (before, layer) in enumerate(pairwise(layers), start=1):
        if layer.n_in != before.n_out:
            raise ShapeError(
                f"layer {number} must have {before.n_out} inputs, as many as the one before, got {layer.n_in}"
            )
        for name in ("neuron", "replicas"):
            if getattr(layer, name) != getattr(first, name):
                raise ConfigError(f"all layers must have one {name}, got another one in layer {number}")
        if layer.weights.dtype != first.weights.dtype:
            raise ConfigError(f"all layers must have one dtype, got {layer.weights.dtype} in layer {number}")
    weights = [layer.weights.detach().cpu().numpy().copy() for layer in layers]
    net = Network(
        [first.n_in, *(layer.n_out for layer in layers)],
        [layer.bias_times for layer in layers],
        seed=seed,
        replicas=first.replicas or 1,
        neuron=first.neuron,
        dtype=weights[0].dtype,
        backend=backend,
    )
    net.parameters = Parameters.of_weights([w if w.ndim == 3 else w[None] for w in weights])
    net.parameters.check([first.neuron] * len(layers))
    return net
