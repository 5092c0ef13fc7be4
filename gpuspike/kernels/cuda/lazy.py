"""Arrays that are computed later: what is done to them number by number becomes one kernel.

Such an array takes NumPy's operators and functions as an array does, and notes them down; `Later.now` writes
a kernel that does all of it, and launches it once. So what a chip does is written once, for arrays of any
kind, and costs a device one launch in place of one for each operation.

The bits are those of one operation after the other: each is rounded by itself, in the type that CuPy would
compute it in, in which Python's numbers have none of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda.call import Array, check, constant, elementwise
from gpuspike.rng import LAYER_BLOCKS

C_TYPES = {"float32": "float", "float64": "double", "bool": "bool"}


class _Node:
    """Numbers that are there, or an operation on other nodes, which is done once and changes no more.

    Attributes:
        text: the operation in CUDA C++, of `args` by their places; "" of what is there.
        dtype: None of Python's numbers, which take that of what they meet.
        shape: of the array; () of a number.
        value: the array or the number, or an `_Address`; None before it is computed.
        kept: whether a kernel that needs it writes it down, for another one.
    """

    __slots__ = ("args", "dtype", "kept", "shape", "text", "value")

    def __init__(
        self, text: str, args: tuple[_Node, ...], dtype: Any, shape: tuple[int, ...], value: Any = None
    ) -> None:
        self.text, self.args, self.shape, self.value = text, args, shape, value
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.kept = False


def _node(value: Any) -> _Node:
    """Of whatever stands in an operation."""
    if isinstance(value, Later):
        return value.node
    if isinstance(value, cupy_module().ndarray):
        return _Node("", (), value.dtype, value.shape, value)
    number = _Node("", (), None, (), float(value))
    return _to(number, value.dtype) if isinstance(value, np.generic) else number


def _to(node: _Node, dtype: Any) -> _Node:
    """The same in a type."""
    if node.dtype is not None and node.dtype == dtype:
        return node
    return _Node(f"{C_TYPES[np.dtype(dtype).name]}({{0}})", (node,), dtype, node.shape)


def _done(text: str, args: Sequence[Any], dtype: Any = None, first: int = 0) -> Later:
    """An operation of CuPy's, whose numbers from `first` on are brought to one type.

    Args:
        dtype: of the answer; that of the numbers unless given.
    """
    nodes = [_node(arg) for arg in args]
    known = [node.dtype for node in nodes[first:] if node.dtype is not None]
    common = np.result_type(*known) if known else np.dtype(np.float64)
    nodes[first:] = [_to(node, common) for node in nodes[first:]]
    shape = np.broadcast_shapes(*(node.shape for node in nodes))
    return Later(_Node(text, tuple(nodes), dtype or common, shape))


_UFUNCS: dict[Any, Callable[..., Later]] = {
    np.add: lambda *args: _done("{0} + {1}", args),
    np.subtract: lambda *args: _done("{0} - {1}", args),
    np.multiply: lambda *args: _done("gpuspike::product({0}, {1})", args),
    np.true_divide: lambda *args: _done("{0} / {1}", args),
    np.negative: lambda *args: _done("-{0}", args),
    np.exp: lambda *args: _done("exp({0})", args),
    np.less: lambda *args: _done("{0} < {1}", args, np.bool_),
    np.greater: lambda *args: _done("{0} > {1}", args, np.bool_),
    np.bitwise_and: lambda *args: _done("{0} & {1}", args, np.bool_),
    np.bitwise_or: lambda *args: _done("{0} | {1}", args, np.bool_),
    np.isnan: lambda *args: _done("isnan({0})", args, np.bool_),
    np.rint: lambda *args: _done("rint({0})", args),
    np.ceil: lambda *args: _done("ceil({0})", args),
    np.absolute: lambda *args: _done("fabs({0})", args),
    np.maximum: lambda *args: _done("isnan({0}) ? {0} : isnan({1}) ? {1} : fmax({0}, {1})", args),
    np.minimum: lambda *args: _done("isnan({0}) ? {0} : isnan({1}) ? {1} : fmin({0}, {1})", args),
}

_FUNCTIONS: dict[Any, Callable[..., Later]] = {
    np.clip: lambda *args: _done("{0} < {1} ? {1} : ({0} > {2} ? {2} : {0})", args),
    np.where: lambda *args: _done("{0} ? {1} : {2}", args, first=1),
}


class Later(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of a device that is not computed yet; what changes it in place changes what it will be.

    It takes the operations above. Arrays that it meets must keep their numbers until it is computed.
    """

    computed_later = True
    """See `backend.array_module`."""

    def __init__(self, node: _Node) -> None:
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As of an array."""
        assert self.node.dtype is not None
        return self.node.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def astype(self, dtype: Any, *, copy: bool = True) -> Later:
        """As of an array; there is nothing to copy."""
        del copy
        return Later(_to(self.node, np.dtype(dtype)))

    def __setitem__(self, key: Any, value: Any) -> None:
        assert key is ..., "only all of an array that is computed later can be set"
        self._become(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None) -> Any:
        return self._answer(_UFUNCS.get(ufunc) if method == "__call__" else None, inputs, out and out[0])

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._answer(_FUNCTIONS.get(function), args, kwargs.get("out"))

    def _answer(self, operation: Callable[..., Later] | None, args: Any, out: Later | None) -> Any:
        if operation is None:
            return NotImplemented
        found = operation(*args)
        if out is None:
            return found
        out._become(found)
        return out

    def _become(self, value: Any) -> None:
        node = _to(_node(value), self.dtype)
        self.node = node if node.shape == self.shape else _Node("{0}", (node,), self.dtype, self.shape)

    def keep(self) -> Later:
        """The array itself; a kernel that needs it writes it down, for whoever wants it afterwards."""
        self.node.kept = True
        return self

    def now(self, label: str, into: Array | None = None) -> Any:
        """The array as one of CuPy's, by one launch at most.

        Args:
            label: a word for the kernel's name.
            into: an array of its shape and type that takes the numbers; a new one unless given.
        """
        node = self.node
        if node.text == "" and into is None:
            return node.value
        writer = _Writer()
        name = writer.name(node)
        # What others want of it comes along where it has this shape; else they compute it again.
        others = [(one, writer.name(one)) for one in writer.kept if one is not node]
        wanted = [(node, name), *((one, own) for one, own in others if one.shape == node.shape)]
        outs = [cupy_module().empty(one.shape, one.dtype) for one, _ in wanted[into is not None :]]
        outs = outs if into is None else [into, *outs]
        if outs[0].size:
            elementwise(writer.kernel(label, wanted))(*writer.given, *outs)
        for (one, _), out in zip(wanted, outs, strict=True):
            one.text, one.args, one.value = "", (), out
        return outs[0]


def later(array: Any, shape: tuple[int, ...] | None = None) -> Later:
    """An array of the device as one of those.

    Args:
        shape: that it is repeated to; its own unless given.
    """
    if isinstance(array, Later) and shape in (None, array.shape):
        return array
    node = _node(array)
    return Later(node if shape in (None, node.shape) else _Node("{0}", (node,), node.dtype, shape))


class _Address:
    """Of normal numbers, as `cuda.normals` takes it; the moment is a clock (2,) there, or two numbers."""

    def __init__(self, seeds: Array, block: int, first: int, moment: tuple[Any, ...]) -> None:
        self.seeds, self.block, self.first, self.moment = seeds, block, first, moment


def normals(
    like: Array, seeds: Sequence[int], purpose: int, layer: int, epoch: Any, batch: Any, first: int
) -> Later:
    """What `cuda.normals` makes, later."""
    cupy = cupy_module()
    moment = (epoch,) if isinstance(epoch, cupy.ndarray) else (epoch, batch)
    if len(moment) == 1:
        check(np.int64, {"clock": (epoch, (2,))})
    block = (int(purpose) << 24) + layer * LAYER_BLOCKS
    address = _Address(constant(seeds, np.int64), block, first, moment)
    return Later(_Node("normals", (), like.dtype, like.shape, address))


# --- how a kernel is written ----------------------------------------------------------


class _Writer:
    """A kernel's text, and what it is called with, in the order in which nodes are met."""

    def __init__(self) -> None:
        self.params: list[str] = []
        self.given: list[Any] = []
        self.lines: list[str] = []
        self.kept: list[_Node] = []
        self._names: dict[int, str] = {}

    def _param(self, kind: str, value: Any, letter: str = "a") -> str:
        name = f"{letter}{len(self.params)}"
        self.params.append(f"{kind} {name}")
        self.given.append(value)
        return name

    def name(self, node: _Node) -> str:
        """What stands for a node in the text."""
        if id(node) not in self._names:
            self._names[id(node)] = self._new(node)
        return self._names[id(node)]

    def _new(self, node: _Node) -> str:
        if isinstance(node.value, _Address):
            text = self._normals(node, node.value)
        elif node.value is not None:
            if node.dtype is None:
                return self._param("float64", node.value)
            return self._param(node.dtype.name, node.value, "x")  # an array, of whose entries it gets one
        else:
            text = node.text.format(*map(self.name, node.args))
            if node.kept:
                self.kept.append(node)
        name = f"v{len(self.lines)}"
        assert node.dtype is not None
        self.lines.append(f"const {C_TYPES[node.dtype.name]} {name} = {text};")
        return name

    def _normals(self, node: _Node, at: _Address) -> str:
        _, n_batch, n = node.shape
        names = [self._param("int32", n_batch), self._param("int32", n), self._param("raw int64", at.seeds)]
        seeds = f"&{names.pop()}[0]"
        names += [seeds, self._param("int64", at.block), self._param("int64", at.first)]
        if len(at.moment) == 1:
            clock = self._param("raw int64", at.moment[0])
            names += [f"{clock}[0]", f"{clock}[1]"]
        else:
            names += [self._param("int64", number) for number in at.moment]
        assert node.dtype is not None
        return f"gpuspike::normal_at<{C_TYPES[node.dtype.name]}>(i, {', '.join(names)})"

    def kernel(self, label: str, wanted: Sequence[tuple[_Node, str]]) -> src.Elementwise:
        """What computes some nodes, by their names."""
        outs = [(f"{one.dtype} o{number}", f"o{number} = {own};") for number, (one, own) in enumerate(wanted)]
        text = "\n".join([*self.lines, *(line for _, line in outs)])
        params = ", ".join(self.params), ", ".join(param for param, _ in outs)
        digest = hashlib.sha256("\n".join((*params, text)).encode()).hexdigest()[:12]
        return src.Elementwise(f"gpuspike_chip_{label}_{digest}", *params, text, written=True)
