"""The kernels that a call launches, and with which sizes: noted down by a CuPy that computes nothing.

Needs no device, no CuPy and no compiler: the package's own code runs, and says what it would have launched.
Arrays have shapes, types and memory that nobody has touched; CuPy's own elementwise operations, of an
emulated chip, are computed and noted. For a process of its own: gpuspike's compiled kernels are forgotten.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from gpuspike import backend
from gpuspike.kernels.cuda import call as cuda_call


@dataclass(frozen=True)
class Launch:
    """One of a kernel.

    Attributes:
        name: an instance's in full, or that of an elementwise kernel; "cupy" where it is CuPy's own.
        grid, block: threads are grid times block; of an elementwise kernel 128 a block, as CuPy has it.
        numbers: whole ones among the arguments, in order.
        n_bytes: of all its arrays, each once.
        itemsize: of the type of its sums.
        beside: in a graph it is part of a branch.
        waits: number of the launch, or -1: of none, that it comes behind on the other side, too.
    """

    name: str
    grid: int
    block: int
    numbers: tuple[int, ...]
    n_bytes: int
    itemsize: int
    beside: bool = False
    waits: int = -1


_noted: list[Launch] = []
ELEMENTWISE_THREADS = 128


def _note(name: str, grid: int, block: int, arguments: tuple[Any, ...]) -> None:
    arrays = {id(a): a for a in arguments if isinstance(a, np.ndarray)}.values()
    numbers = tuple(int(a) for a in arguments if isinstance(a, int | np.integer))
    real = [a.dtype.itemsize for a in arrays if a.dtype.kind == "f"]
    n_bytes = sum(a.nbytes for a in arrays)
    launch = Launch(name, grid, block, numbers, n_bytes, min(real, default=4))
    _noted.append(replace(launch, **_Stream.edges()))


def _blocks(size: int) -> int:
    return -(-size // ELEMENTWISE_THREADS)


class Array(np.ndarray):
    """An array "on a device"."""

    device = SimpleNamespace(id=0)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        answer = _computed(getattr(ufunc, method), inputs, options)
        if out is None:
            return answer
        np.copyto(_plain(out[0]), _plain(answer), casting="unsafe")
        return out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.broadcast_to:
            return function(np.asarray(args[0]), *args[1:], **kwargs).view(Array)
        return _computed(function, args, kwargs)

    def astype(self, dtype: Any, *_: Any, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return _computed(lambda array: array.astype(dtype), (self,), {})

    def copy(self, *_: Any) -> Any:
        return _computed(np.array, (self,), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        _note("cupy", _blocks(self.size), ELEMENTWISE_THREADS, (self, value))

    def fill(self, value: Any) -> None:
        _note("cupy", _blocks(self.size), ELEMENTWISE_THREADS, (self,))

    def get(self) -> Any:
        return np.asarray(self).view(np.ndarray)

    def set(self, array: Any) -> None:
        assert (array.shape, array.dtype) == (self.shape, self.dtype)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.view(np.ndarray) if isinstance(value, Array) else value


def _computed(function: Any, inputs: Any, options: Any) -> Any:
    """An operation of CuPy's own: one launch."""
    with np.errstate(all="ignore"):
        answer = function(*map(_plain, inputs), **{name: _plain(one) for name, one in options.items()})
    if not isinstance(answer, np.ndarray):
        answer = np.asarray(answer)
    _note("cupy", _blocks(answer.size), ELEMENTWISE_THREADS, (*inputs, answer))
    return answer.view(Array)


class _Elementwise:
    def __init__(self, in_params: str, out_params: str, operation: str, name: str, **_: Any) -> None:
        self._name, words = name, [text.split() for text in f"{in_params},{out_params}".split(",")]
        self._raw = [one[0] == "raw" for one in words]

    def __call__(self, *arguments: Any, size: int | None = None) -> None:
        if size is None:
            pairs = zip(arguments, self._raw, strict=True)
            size = max(a.size for a, raw in pairs if not raw and isinstance(a, Array))
        _note(self._name, _blocks(size), ELEMENTWISE_THREADS, arguments)


class _Module:
    def __init__(self, **_: Any) -> None:
        pass

    def get_function(self, name: str) -> Any:
        return lambda grid, block, arguments, **_: _note(name, int(grid[0]), int(block[0]), arguments)


class _Scope:
    """A stream, a graph, a device or an event: whatever is asked of it is done."""

    mem_info, id, used = (64 << 30, 80 << 30), 0, 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> _Scope:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: 0


class _Event:
    """A place behind the last launch of a stream."""

    behind = -1

    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Stream(_Scope):
    """One of a capture: that which began it, or a branch's."""

    current: ClassVar[list[_Stream]] = []
    captured: ClassVar[_Stream | None] = None
    last = waits = -1

    def __enter__(self) -> _Stream:
        self.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def begin_capture(self) -> None:
        _Stream.captured = self

    def end_capture(self) -> _Scope:
        _Stream.captured = None
        return _Scope()

    def record(self, event: _Event) -> None:
        event.behind = self.last

    def wait_event(self, event: _Event) -> None:
        self.waits = event.behind

    @classmethod
    def edges(cls) -> dict[str, Any]:
        """Of the next launch."""
        if cls.captured is None:
            return {}
        own = cls.current[-1]
        waits, own.waits, own.last = own.waits, -1, len(_noted)
        return {"beside": own is not cls.captured, "waits": waits}


def _module() -> ModuleType:
    cupy = ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)

    def made(function: Any) -> Any:
        return lambda *args, **options: np.ascontiguousarray(function(*args, **options)).view(Array)

    def asarray(array: Any, dtype: Any = None) -> Any:
        return array if isinstance(array, Array) else np.ascontiguousarray(array, dtype).view(Array)

    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        getDeviceProperties=lambda _: {"name": b"none"},
        runtimeGetVersion=lambda: 12090,
    )
    for name in ("zeros", "ones", "full", "empty", "concatenate", "ascontiguousarray"):
        setattr(cupy, name, made(getattr(np, name)))
    for name in ("zeros_like", "ones_like", "empty_like"):
        setattr(cupy, name, lambda array: np.empty(array.shape, array.dtype).view(Array))
    for name in ("isnan", "isinf", "isfinite", "where", "maximum", "minimum", "ceil", "repeat"):
        function = getattr(np, name)
        setattr(cupy, name, lambda *a, _function=function, **o: _computed(_function, a, o))
    vars(cupy).update(
        asarray=asarray, ndarray=Array, ElementwiseKernel=_Elementwise, RawModule=_Module, __version__="0.0",
        argsort=lambda array, axis: _computed(np.argsort, (array,), {"axis": axis}),
        broadcast_to=lambda array, shape: np.broadcast_to(np.asarray(array), shape).view(Array),
        get_default_memory_pool=_Scope,
        cuda=SimpleNamespace(
            Device=_Scope, Stream=_Stream, MemoryPool=_Scope, Event=_Event, runtime=runtime,
            get_elapsed_time=lambda *_: 1.0, get_current_stream=_Scope,
            using_allocator=lambda _: nullcontext(),
        ),
    )  # fmt: skip
    return cupy


@contextmanager
def noted() -> Iterator[tuple[ModuleType, list[Launch]]]:
    """A CuPy, in the place of any other, and what has been launched on it."""
    before, cupy = sys.modules.get("cupy"), _module()
    sys.modules["cupy"] = cupy
    backend._first.clear()
    _noted.clear()
    try:
        cuda_call.forget()
        yield cupy, _noted
    finally:
        cuda_call.forget()
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
