"""What a convolutional layer looks at: patches of an image, and the earliest spikes of windows.

An image is flattened row by row, pixel by pixel, the channels of a pixel side by side: (rows, columns,
channels). Each position of the kernel is a patch, whose inputs come in that same order, then the bias spikes;
all positions share the weights (n_pre, n_maps). So a convolution is the layer of its fan-in on more samples,
and needs no equations of its own.

Arrays of a device are looked at there, by `cuda.convolution`.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.errors import ValueRangeError
from gpuspike.neuron import LIF

if TYPE_CHECKING:
    from gpuspike.kernels import LayerState

Array = NDArray[Any]


def elsewhere(array: Array) -> Any:
    """What has the functions for arrays like this one: None for one on the host, for which NumPy is there."""
    on_host = array_module(array=array) is np
    return None if on_host else importlib.import_module("gpuspike.kernels.cuda.convolution")


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolutional layer.

    Attributes:
        shape: rows, columns and channels of the image that it receives.
        n_maps: neurons at each position, each with its own weights: the channels of what it answers.
        kernel: rows and columns that a neuron sees.
        stride: from one position to the next.
        padding: rows and columns that are added around the image.
        pad_time: when the inputs there spike; inf: never.
        pool: rows and columns of the windows of which the earliest spike of each map is heard; 1: all are.
            Positions at the end that fill no window are not heard.

    Raises:
        ValueRangeError: sizes that cannot be.
    """

    shape: tuple[int, int, int]
    n_maps: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pad_time: float = math.inf
    pool: int = 1

    def __post_init__(self) -> None:
        least = {"n_maps": 1, "kernel": 1, "stride": 1, "padding": 0, "pool": 1}
        for name, value in least.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < value:
                raise ValueRangeError(
                    f"{name} of a convolution must be a whole number from {value}, got {given!r}"
                )
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueRangeError(
                f"a convolution needs an image of rows, columns and channels, got {self.shape}"
            )
        side = min(self.shape[:2]) + 2 * self.padding
        if self.kernel > side:
            raise ValueRangeError(
                f"a kernel of {self.kernel} does not fit into {_image(self.shape)} with a padding of "
                f"{self.padding}"
            )
        if self.padding >= self.kernel:
            raise ValueRangeError(
                f"padding must be below the kernel, {self.kernel}, or patches see nothing else, "
                f"got {self.padding}"
            )
        if math.isnan(self.pad_time) or self.pad_time == -math.inf:
            raise ValueRangeError(f"pad_time must be a time, or inf for silence, got {self.pad_time!r}")
        if self.pool > min(self.grid):
            raise ValueRangeError(
                f"pool must be at most {min(self.grid)}, the least side of {_image(self.grid)} positions, "
                f"got {self.pool}"
            )

    @property
    def n_in(self) -> int:
        """Inputs of the layer."""
        return math.prod(self.shape)

    @property
    def fan_in(self) -> int:
        """Inputs of a neuron, without bias spikes."""
        return self.kernel**2 * self.shape[2]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of positions."""
        rows, columns, _ = self.shape
        reach = self.kernel - 2 * self.padding
        return (rows - reach) // self.stride + 1, (columns - reach) // self.stride + 1

    @property
    def n_positions(self) -> int:
        """Positions, each with `n_maps` neurons."""
        return math.prod(self.grid)

    @property
    def n_neurons(self) -> int:
        """Neurons of the layer."""
        return self.n_positions * self.n_maps

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of what is heard of it."""
        rows, columns = self.grid
        return rows // self.pool, columns // self.pool, self.n_maps

    @property
    def n_out(self) -> int:
        """Spikes that are heard of it."""
        return math.prod(self.out_shape)

    def sources(self, n_bias: int) -> NDArray[np.int64]:
        """(n_positions, n_pre) where each input of a patch comes from: n_in + n_bias is the padding."""
        return _sources(self, n_bias)

    def patches(self, t_in: Array) -> Array:
        """(n_replica, n_batch n_positions, n_pre) of (n_replica, n_batch, n_in + n_bias) spike times."""
        if there := elsewhere(t_in):
            return there.patches(self, t_in)
        n_replica, n_batch, n_received = t_in.shape
        sources = self.sources(n_received - self.n_in)
        around = np.full((n_replica, n_batch, 1), self.pad_time, t_in.dtype)
        taken = np.take(np.concatenate([t_in, around], axis=2), sources, axis=2)
        return taken.reshape(n_replica, n_batch * len(sources), sources.shape[1])

    def gathered(self, grad: Array, n_bias: int) -> Array:
        """(n_replica, n_batch, n_in + n_bias) sums over patches, made in float64; those of bias spikes are 0.

        Args:
            grad: (n_replica, n_batch n_positions, n_pre).
        """
        if there := elsewhere(grad):
            return there.gathered(self, grad, n_bias)
        sources = self.sources(n_bias)
        each = grad.reshape(len(grad), -1, *sources.shape)
        sums = np.zeros((*each.shape[:2], self.n_in + n_bias + 1))
        for k in range(self.fan_in):  # at which no two positions have the same input, but for the padding
            sums[:, :, sources[:, k]] += each[:, :, :, k]
        sums[:, :, self.n_in :] = 0.0
        return sums[:, :, :-1]

    @property
    def border(self) -> int:
        """Inputs of the padding."""
        rows, columns, channels = self.shape
        return ((rows + 2 * self.padding) * (columns + 2 * self.padding) - rows * columns) * channels

    def reached(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """(..., n_in + n_bias + 1) synapses that an input meets at all positions, and those of all padding.

        Args:
            targets: (..., n_pre) maps that it reaches from each place in a patch.
        """
        sources = self.sources(targets.shape[-1] - self.fan_in)
        n_received = self.n_in + sources.shape[1] - self.fan_in
        sums = np.zeros((*targets.shape[:-1], n_received + 1), np.int64)
        for k in range(sources.shape[1]):
            times = np.bincount(sources[:, k], minlength=n_received + 1)
            sums += times * targets[..., k, None]
        return sums

    def unrolled(self, weights: Array) -> Array:
        """(n_replica, n_in + n_bias, n_neurons) weights of neurons that share none; padding is silent."""
        sources = self.sources(weights.shape[1] - self.fan_in)
        n_received = self.n_in + sources.shape[1] - self.fan_in
        dense = np.zeros((len(weights), n_received + 1, self.n_positions, self.n_maps), weights.dtype)
        for position, seen in enumerate(sources):
            dense[:, seen, position] = weights
        return dense[:, :-1].reshape(len(weights), n_received, self.n_neurons)

    def windows(self, values: Array) -> Array:
        """(n_replica, n_batch, rows, columns, n_maps, pool^2) of (n_replica, n_batch, n_neurons)."""
        rows, columns, n_maps = self.out_shape
        grid, pool = self.grid, self.pool
        image = values.reshape(*values.shape[:2], *grid, n_maps)[:, :, : rows * pool, : columns * pool]
        parts = image.reshape(*values.shape[:2], rows, pool, columns, pool, n_maps)
        return parts.transpose(0, 1, 2, 4, 6, 3, 5).reshape(*parts.shape[:3], columns, n_maps, pool * pool)

    def heard(self, times: Array) -> Array:
        """(n_replica, n_batch, n_out) earliest spikes of the windows; itself where nothing is pooled."""
        if self.pool == 1:
            return times
        if there := elsewhere(times):
            return there.heard(self, times)
        return np.ascontiguousarray(self.windows(times).min(axis=-1)).reshape(*times.shape[:2], self.n_out)

    def unheard(self, dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n_replica, n_out) windows of whose neurons, (n_replica, n_neurons), all are dead."""
        return self.windows(dead[:, None]).all(axis=-1).reshape(len(dead), self.n_out)

    def spread(self, grad: Array, times: Array) -> Array:
        """(n_replica, n_batch, n_neurons) gradients of the spikes that were heard; 0 for all others.

        Args:
            grad: (n_replica, n_batch, n_out).
            times: (n_replica, n_batch, n_neurons), as `heard` got them; at a tie a window's first counts.
        """
        if there := elsewhere(grad):
            return there.spread(self, grad, times)
        spikes, zero = np.isfinite(times), grad.dtype.type(0.0)
        if self.pool == 1:
            return np.where(spikes, grad, zero)
        rows, columns, n_maps = self.out_shape
        lead, pool = grad.shape[:2], self.pool
        first = self.windows(times).argmin(axis=-1)[..., None]
        windows = np.zeros((*first.shape[:-1], pool * pool), grad.dtype)
        np.put_along_axis(windows, first, grad.reshape(*lead, rows, columns, n_maps, 1), axis=-1)
        parts = windows.reshape(*lead, rows, columns, n_maps, pool, pool).transpose(0, 1, 2, 5, 3, 6, 4)
        image = np.zeros((*lead, *self.grid, n_maps), grad.dtype)
        image[:, :, : rows * pool, : columns * pool] = parts.reshape(
            *lead, rows * pool, columns * pool, n_maps
        )
        return np.where(spikes, image.reshape(*lead, self.n_neurons), zero)

    def __str__(self) -> str:
        padded = f" padded by {self.padding}" if self.padding else ""
        pooled = f", the earliest of {self.pool}x{self.pool}" if self.pool > 1 else ""
        by = f" every {self.stride}" if self.stride > 1 else ""
        return f"{self.n_maps} maps of {self.kernel}x{self.kernel}{by}{padded}{pooled}"


class ConvolutionKernels(Protocol):
    """What a backend may provide for convolutional layers of neurons that share their constants.

    Without it patches are gathered, and computed as a layer's samples.
    """

    @staticmethod
    def forward(layer: Convolution, t_in: Array, weights: Array, neuron: LIF) -> LayerState:
        """What a layer answers: of all neurons in `t_cross` and `slope`, of what is heard in `t_out`.

        Args:
            t_in: (n_replica or 1, n_batch, n_in + n_bias);  weights: (n_replica, n_pre, n_maps).
        """
        ...

    @staticmethod
    def backward(
        layer: Convolution,
        state: LayerState,
        weights: Array,
        neuron: LIF,
        grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
    ) -> tuple[Array | None, Array]:
        """Gradients with respect to the input times (if needed) and the weights; see `Kernels.backward`.

        Args:
            state: as `forward` returns it;  grad: (n_replica, n_batch, n_out) of what was heard.
            max_weight_grad: of one (sample, position, map).
        """
        ...


def _image(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


@lru_cache(maxsize=64)
def _sources(layer: Convolution, n_bias: int) -> NDArray[np.int64]:
    rows, columns, channels = layer.shape
    numbers = np.full(
        (rows + 2 * layer.padding, columns + 2 * layer.padding, channels), layer.n_in + n_bias, np.int64
    )
    inside = slice(layer.padding, layer.padding + rows), slice(layer.padding, layer.padding + columns)
    numbers[inside] = np.arange(layer.n_in).reshape(layer.shape)
    size = layer.kernel, layer.kernel
    seen = np.lib.stride_tricks.sliding_window_view(numbers, size, axis=(0, 1))
    seen = seen[:: layer.stride, :: layer.stride].transpose(0, 1, 3, 4, 2).reshape(layer.n_positions, -1)
    bias = np.broadcast_to(layer.n_in + np.arange(n_bias), (layer.n_positions, n_bias))
    sources = np.hstack([seen, bias])
    sources.flags.writeable = False
    return sources
