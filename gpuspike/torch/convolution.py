"""A convolutional layer of LIF neurons as a module of PyTorch's: the layer of its fan-in, on patches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpuspike.api.network import Network
from gpuspike.errors import ConfigError, ShapeError
from gpuspike.kernels.convolution import Convolution
from gpuspike.network.initial import typical
from gpuspike.network.plan import Maps, told_plan
from gpuspike.neuron import LIF
from gpuspike.torch.module import FirstSpikes, SpikingLayer, real, told
from gpuspike.torch.spikes import first_spikes


class FirstSpikesConv2d(SpikingLayer):
    """Maps of LIF neurons that share their weights, and the earliest spikes of windows of them.

    Samples are flat, as in `gs.Network`: row by row, pixel by pixel, the channels of a pixel side by side. An
    image of PyTorch's, (n_batch, channels, rows, columns), becomes one by `t.permute(0, 2, 3, 1).flatten(1)`,
    and `t.unflatten(1, layer.out_shape).permute(0, 3, 1, 2)` is the way back.

    Args:
        shape: rows, columns and channels of the image; two numbers are an image of one channel.
        n_maps, kernel, stride, padding, pad_time, pool: see `gs.Network` and docs/convolution.md; `pad_time`
            in the unit of the times.
        bias_times: of spikes that every position gets in addition, each with its own row of weights.
        neuron: of the layer; None: `gs.LIF()`. Each map may have constants of its own.
        replicas: independent layers side by side; None: one, and no axis for it.
        weight_mean, weight_std: of the initial weights, in place of the rule of `gs.Network`.
        max_weight_grad: limit of |dL/dw| for one (sample, neuron), see `gs.first_spikes_vjp`.
        device, dtype: of the weights; None: torch's own.

    Attributes:
        weights: (kernel^2 channels + biases, n_maps), the rows of bias spikes last; with replicas a first
            axis of them.
        n_in, n_out: spikes that it receives, and that are heard of it;  out_shape: rows, columns and maps.

    Raises:
        ShapeError, ValueRangeError, DtypeError: a shape, a size, a time or a dtype that cannot be.
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_maps: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        pad_time: float = math.inf,
        pool: int = 1,
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
        if not isinstance(shape, Sequence) or len(shape) not in (2, 3):
            raise ShapeError(f"shape must be rows, columns and perhaps channels of an image, got {shape!r}")
        image: Any = (*shape, 1)[:3]
        self.convolution = Convolution(image, n_maps, kernel, stride, padding, pad_time, pool)
        self.n_in, self.n_out = self.convolution.n_in, self.convolution.n_out
        self.out_shape = self.convolution.out_shape
        self._take(bias_times, neuron, replicas, (weight_mean, weight_std), max_weight_grad)
        self._sources: Tensor
        device = device or torch.get_default_device()
        sources = torch.from_numpy(self.convolution.sources(len(self.bias_times)).copy())
        self.register_buffer("_sources", sources.to(device), persistent=False)
        self.weights = nn.Parameter(self._drawn().to(device=device, dtype=real(dtype)))

    def reset_parameters(self) -> None:
        """Draws the weights anew."""
        with torch.no_grad():
            self.weights.copy_(self._drawn())

    def _drawn(self) -> Tensor:
        mean, std = self._moments
        net = Network(
            [list(self.convolution.shape), *self.entries()],
            [self.bias_times],
            seed=int(torch.randint(2**31, (), device="cpu")),
            replicas=1 if self.replicas is None else self.replicas,
            neuron=self.neuron if self.neuron.uniform else typical(self.neuron),
            backend="cpu",
            weight_mean=mean,
            weight_std=std,
        )
        return told(net.parameters[0].weights, self.replicas)

    def entries(self) -> list[Any]:
        """The layer among the sizes of a `gs.Network`."""
        own = {name: value for name, value in vars(self.convolution).items() if name != "shape"}
        return told_plan([Maps(**own)])

    def learnt(self) -> Iterator[tuple[str, Tensor]]:
        """What the layer learns, by the names in files."""
        yield "weights", self.weights

    def forward(self, t_in: Tensor) -> Tensor:
        """First spike times.

        Args:
            t_in: (..., n_in) spike times, inf = no spike. With replicas (n_replica, ..., n_in), or
                (n_batch, n_in) that all of them see.

        Returns:
            (..., n_out); with replicas (n_replica, ..., n_out). Of a window's earliest spikes the first has
            the gradient.

        Raises:
            DtypeError, ShapeError, BackendError: what was expected and what was got.
        """
        if t_in.ndim == 0 or t_in.shape[-1] != self.n_in:
            raise ShapeError(f"t_in must be (..., n_in) = (..., {self.n_in}), got {tuple(t_in.shape)}")
        if self.replicas is not None and t_in.ndim == 2:
            t_in = t_in.expand(self.replicas, *t_in.shape)
        always = t_in.new_tensor([*self.bias_times, self.convolution.pad_time])
        received = torch.cat([t_in, always.expand(*t_in.shape[:-1], len(always))], dim=-1)
        patches = received[..., self._sources]
        t_out = first_spikes(patches, self.weights, self.neuron, max_weight_grad=self.max_weight_grad)
        return self._heard(t_out).flatten(-3)

    def _heard(self, t_out: Tensor) -> Tensor:
        """(..., rows, columns, n_maps) earliest spikes of windows of (..., n_positions, n_maps)."""
        rows, columns, _ = self.out_shape
        image, pool = t_out.unflatten(-2, self.convolution.grid), self.convolution.pool
        if pool == 1:
            return image
        parts = image[..., : rows * pool, : columns * pool, :]
        parts = parts.unflatten(-2, (columns, pool)).unflatten(-4, (rows, pool))
        windows = parts.transpose(-4, -3).flatten(-3, -2)  # (..., rows, columns, pool^2, n_maps)
        first = windows.argmin(dim=-2, keepdim=True)
        return windows.gather(-2, first).squeeze(-2)

    def extra_repr(self) -> str:
        """Sizes and neurons."""
        bias = f", bias_times={self.bias_times}" if self.bias_times else ""
        replicas = "" if self.replicas is None else f", replicas={self.replicas}"
        neuron = self.neuron if self.neuron.uniform else "neurons with constants of their own"
        return f"{self.convolution.shape}, {self.convolution}{bias}{replicas}, {neuron}"


Spiking = FirstSpikes | FirstSpikesConv2d
"""Layers that spike."""


def spiking(model: nn.Module) -> list[Spiking]:
    """A model's layers that spike, in its order; raises ConfigError for a model without."""
    modules = model.modules() if isinstance(model, nn.Module) else []
    layers = [module for module in modules if isinstance(module, Spiking)]
    if not layers:
        raise ConfigError(f"a model must have layers of FirstSpikes, got {type(model).__name__} without")
    return layers
