"""What lies between two populations of neurons in a NIR graph: maps, unrolled into one matrix, and delays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError
from gpuspike.exchange.graph import MOST_BYTES, Node

Array = NDArray[Any]


@dataclass(frozen=True)
class Signal:
    """What has become of a population's spikes on their way.

    Attributes:
        n_source: neurons that they come from.
        shape: of what arrives.
        matrix: (n_source, n_here), float32 or float64; None: each neuron's own, unchanged.
        axonal: (n_source,) delays before the matrix;  dendritic: (n_here,) behind it; in the file's unit;
            None: none.
        synapse: name of an LI node that the signal has passed, which makes a current of it.
        delayed_by: names of the Delay nodes passed.
    """

    n_source: int
    shape: tuple[int, ...]
    matrix: Array | None = None
    axonal: Array | None = None
    dendritic: Array | None = None
    synapse: str | None = None
    delayed_by: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Numbers that arrive."""
        return int(np.prod(self.shape))

    @property
    def weights(self) -> Array:
        """(n_source, n_here), the matrix, or the identity that stands for none."""
        return np.eye(self.n_source) if self.matrix is None else self.matrix

    def through(self, node: Node, matrix: Array, shape: tuple[int, ...]) -> Signal:
        """The same behind one more matrix (n_here, n_there)."""
        if self.dendritic is not None and self.dendritic.any():
            raise DataError(
                f"{node} must not follow the delays of {self.delayed_by[-1]!r} and a matrix before them"
            )
        both = matrix if self.matrix is None else self.matrix @ matrix
        return replace(self, matrix=both, shape=shape, dendritic=None)


def _linear(node: Node, signal: Signal) -> Signal:
    weight = node.array("weight")
    if weight.ndim != 2 or weight.shape[1] != signal.size or not weight.size:
        raise DataError(
            f"{node}: weight must be (n_post, n_pre) = (n_post, {signal.size}), got {weight.shape}"
        )
    return signal.through(node, _finite(node, "weight", weight).T, (len(weight),))


def _affine(node: Node, signal: Signal) -> Signal:
    _no_bias(node)
    return _linear(node, signal)


def _no_bias(node: Node) -> None:
    if node.array("bias", usual=0.0).any():
        raise DataError(
            f"{node} must have bias 0, got another: it is a constant current, which no spike brings; a bias "
            "spike is an Input node"
        )


def _finite(node: Node, name: str, array: Array) -> Array:
    if not np.isfinite(array).all():
        raise DataError(f"{node}: {name} must be finite")
    return array


def _scale(node: Node, signal: Signal) -> Signal:
    scale = _finite(node, "scale", node.array("scale"))
    if scale.size not in (1, signal.size):
        raise DataError(f"{node}: scale must be one or {signal.size} numbers, got shape {scale.shape}")
    each = np.broadcast_to(scale.ravel(), (signal.size,))
    if signal.matrix is not None:
        return replace(signal, matrix=signal.matrix * each)
    return signal.through(node, np.diag(each), signal.shape)


def _flatten(node: Node, signal: Signal) -> Signal:
    del node  # rows in their order, whichever axes are flattened: the numbers stay where they are
    return replace(signal, shape=(signal.size,))


def _pass(node: Node, signal: Signal) -> Signal:
    del node
    return signal


def _delay(node: Node, signal: Signal) -> Signal:
    delay = node.array("delay")
    if delay.size not in (1, signal.size) or not (np.isfinite(delay) & (delay >= 0)).all():
        raise DataError(
            f"{node}: delay must be one or {signal.size} finite numbers of 0 or more, got shape {delay.shape}"
        )
    each = np.broadcast_to(delay.ravel(), (signal.size,)).astype(np.float64)
    kind = "axonal" if signal.matrix is None else "dendritic"
    before = getattr(signal, kind)
    passed = (*signal.delayed_by, node.name)
    return replace(signal, **{kind: each if before is None else before + each}, delayed_by=passed)


def _conv2d(node: Node, signal: Signal) -> Signal:
    weight = _finite(node, "weight", node.array("weight"))
    _no_bias(node)
    groups = int(node.whole("groups").ravel()[0]) if "groups" in node.values else 1
    if weight.ndim != 4 or groups < 1 or not weight.size or weight.shape[0] % groups:
        raise DataError(
            f"{node}: weight must be (n_out, n_in/groups, rows, columns), got {weight.shape} and {groups} "
            "groups"
        )
    n_in = weight.shape[1] * groups
    shape = signal.shape
    if len(shape) != 3 and node.values.get("input_shape") is not None:
        shape = (n_in, *node.shape("input_shape"))
    if len(shape) != 3 or shape[0] != n_in or int(np.prod(shape)) != signal.size:
        raise DataError(
            f"{node} needs an input of ({n_in}, rows, columns), got {signal.shape}: give its Input that shape"
        )
    matrix, after = _unrolled(node, weight, groups, shape)
    return signal.through(node, matrix, after)


def _unrolled(
    node: Node, weight: Array, groups: int, shape: tuple[int, ...]
) -> tuple[Array, tuple[int, int, int]]:
    """The matrix of a convolution: each weight of it is one of the kernel's, to the bit, or 0."""
    stride, dilation = (_pair(node, name, 1) for name in ("stride", "dilation"))
    kernel = weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = node.values.get("padding", 0)
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise DataError(f"{node}: padding must be 'same', 'valid' or numbers, got {padding!r:.40}")
    if isinstance(padding, str) and padding == "same":
        if stride != (1, 1):
            raise DataError(f"{node}: padding 'same' needs a stride of 1, got {stride}")
        before, around = [r // 2 for r in reach], reach
    else:
        before = [0, 0] if isinstance(padding, str) else list(_pair(node, "padding", 0))
        around = [2 * p for p in before]
    after = [(n + p - r - 1) // s + 1 for n, p, r, s in zip(shape[1:], around, reach, stride, strict=True)]
    if min(after) < 1:
        raise DataError(f"{node} must leave an output, got kernel {kernel} on {shape[1:]}")
    n_out, n_in = weight.shape[0] // groups, weight.shape[1]
    sizes = (*shape, weight.shape[0], *after)
    if np.prod([float(n) for n in sizes]) * weight.itemsize > MOST_BYTES:
        raise DataError(
            f"{node} must unroll into at most {MOST_BYTES} bytes, got {int(np.prod(shape))} x "
            f"{weight.shape[0] * after[0] * after[1]} weights"
        )
    matrix = np.zeros(sizes, weight.dtype)
    places = matrix.transpose(1, 2, 4, 5, 0, 3)  # rows and columns before channels
    out = [np.arange(n) for n in after]
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            at = [
                o * s + k * d - p
                for o, s, k, d, p in zip(out, stride, (row, column), dilation, before, strict=True)
            ]
            inside = [(a >= 0) & (a < n) for a, n in zip(at, shape[1:], strict=True)]
            y, x = np.ix_(at[0][inside[0]], at[1][inside[1]])
            to_y, to_x = np.ix_(out[0][inside[0]], out[1][inside[1]])
            for g in range(groups):
                ins, outs = slice(g * n_in, (g + 1) * n_in), slice(g * n_out, (g + 1) * n_out)
                places[..., ins, outs][y, x, to_y, to_x] = weight[outs, :, row, column].T
    size = int(np.prod(shape))
    return matrix.reshape(size, -1), (weight.shape[0], after[0], after[1])


def _pair(node: Node, name: str, least: int) -> tuple[int, int]:
    values = node.whole(name).ravel() if name in node.values else np.array([max(least, 0)])
    if values.size not in (1, 2) or values.min() < least:
        raise DataError(
            f"{node}: {name} must be one or two numbers of {least} or more, got {values.tolist()}"
        )
    first, second = np.broadcast_to(values, (2,)).tolist()
    return first, second


def _pool(node: Node, signal: Signal) -> Signal:
    """A sum, or mean, over windows of each channel: a convolution whose weights are all the same."""
    if len(signal.shape) != 3:
        raise DataError(f"{node} needs an input of (channels, rows, columns), got {signal.shape}")
    window, channels = _pair(node, "kernel_size", 1), signal.shape[0]
    value = 1.0 if node.kind == "SumPool2d" else 1.0 / (window[0] * window[1])
    weight = np.full((channels, 1, *window), value)
    matrix, after = _unrolled(node, weight, channels, signal.shape)
    return signal.through(node, matrix, after)


MAPS: dict[str, Callable[[Node, Signal], Signal]] = {
    "Linear": _linear,
    "Affine": _affine,
    "Scale": _scale,
    "Conv2d": _conv2d,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
    "Delay": _delay,
    "Door": _pass,
}
"""What each kind of node makes of a signal. A Door is the Input or Output of a graph within the graph."""
