"""The CUDA backend without a GPU: its device code built by g++, and a module that stands for CuPy.

The stand-in keeps arrays in the computer's memory and runs kernels as shim.h says. It is strict where CuPy
and the driver are silent: every argument's type is compared with the kernel's, work on one stream must be
waited for before another touches anything, and a graph may hold no memory that is not its own or kept alive.
A graph's launches run in any order that its edges leave, and what is given back while it is captured is
somebody else's from there on.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.machinery
import os
import random
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import gpuspike
from gpuspike.kernels.cuda import single_source as single_src
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda import step_source as step_src
from gpuspike.training.losses import LOSSES, Loss
from gpuspike.training.optimizers import OPTIMIZERS, Optimizer


def loss_kernels(loss: Loss) -> list[src.Elementwise]:
    """The kernel of a loss, if it has a device text."""
    return [step_src.loss_kernel(type(loss), loss.numbers()._fields)] if loss.device else []


def optimizer_kernels(optimizer: Optimizer) -> list[src.Elementwise]:
    """The kernels of an optimiser, if it has a device text."""
    if not optimizer.device:
        return []
    rates = step_src.rates_kernel(type(optimizer), tuple(vars(optimizer)))
    numbers = optimizer.numbers()._fields
    steps = [step_src.update_kernel(type(optimizer), numbers, n + 1) for n in range(step_src.LAYERS_AT_ONCE)]
    return steps if rates is None else [rates, *steps]


PACKAGE = Path(gpuspike.__file__).parent
SHIM = Path(__file__).with_name("shim.h")
C_TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "bool": "bool"}
ELEMENTWISE = [
    *(make(regime) for make in (src.prepare_kernel, src.slopes_kernel) for regime in range(5)),
    *(src.slopes_kernel(regime, at_crossing=True) for regime in range(5)),
    *(src.mixed_kernel(lifted) for lifted in (False, True)),
    src.sum_kernel(),
    *(src.normals_kernel(jitter) for jitter in (False, True)),
    *src.MAPS,
    *single_src.SINGLE,
    src.WAKE,
    src.SHARE,
    src.PARTS_OF_LAYERS,
    *step_src.ALL,
    *(kernel for name in LOSSES for kernel in loss_kernels(LOSSES[name]())),
    *(kernel for name in OPTIMIZERS for kernel in optimizer_kernels(OPTIMIZERS[name]())),
]
REGIMES = (src.NO_REGIME, *range(5))
FORWARD = [
    src.forward_instance(np.dtype(dtype), regime, per_thread, lifted)
    for dtype in ("float32", "float64")
    for regime in range(4)
    for per_thread in (1, src.NEURONS_A_THREAD)
    for lifted in (False, True)
]
DECISIONS = [
    src.decision_instance(np.dtype(dtype), regime) for dtype in ("float32", "float64") for regime in range(4)
]
INSTANCES = [
    *FORWARD,
    *DECISIONS,
    *dict.fromkeys(
        name
        for dtype in ("float32", "float64")
        for regime in REGIMES
        for name in src.block_kernels(np.dtype(dtype), regime).values()
    ),
]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def parameters(text: str) -> list[tuple[bool, str, str]]:
    """(raw?, dtype or "T", name) of each parameter in the notation of ElementwiseKernel."""
    words = [part.split() for part in text.split(",")]
    return [(part[0] == "raw", part[-2], part[-1]) for part in words]


def is_array(kernel: src.Elementwise, raw: bool, name: str) -> bool:
    """Whether an input is an array; in texts that are not written as the program runs, all others are raw."""
    return raw or (kernel.written and name.startswith("x"))


def elementwise_code(kernel: src.Elementwise, dtype: str) -> str:
    """A loop over `i` around the operation, as CuPy writes one, for plain pointers."""
    arguments, inside = ["long long shim_size"], ""
    for text, const in ((kernel.in_params, "const "), (kernel.out_params, "")):
        for raw, kind, name in parameters(text):
            c_type = C_TYPES[dtype if kind == "T" else kind]
            if raw:
                arguments.append(f"{const}{c_type}* {name}")
            elif const and not is_array(kernel, raw, name):
                arguments.append(f"{c_type} {name}")
            else:
                arguments.append(f"{const}{c_type}* shim_{name}")
                inside += f"{const}{c_type}& {name} = shim_{name}[i]; "
    return (
        f'extern "C" void {kernel.name}_{dtype}({", ".join(arguments)}) {{\n'
        f"  [[maybe_unused]] typedef {C_TYPES[dtype]} T;\n"
        f"  for (ptrdiff_t i = 0; i < shim_size; ++i) {{ {inside}{kernel.operation}; }}\n}}\n"
    )


def symbol(instance: str) -> str:
    """A C name for an instance of a template."""
    return "".join(c if c.isalnum() else "_" for c in instance)


def translation_unit(kernels: Sequence[src.Elementwise], instances: Sequence[str]) -> str:
    """The unmodified device code between the shim and an entry for every kernel."""
    parts = [f'#include "{SHIM}"\n', src.source()]
    for dtype in ("float32", "float64"):
        parts += [elementwise_code(kernel, dtype) for kernel in kernels]
    parts += [
        f'extern "C" int {symbol(instance)}(unsigned grid, unsigned block, unsigned shared, '
        "void** args, const char* codes) "
        f"{{ return shim::launch({instance}, grid, block, shared, args, codes); }}\n"
        for instance in instances
    ]
    return "\n".join(parts)


SMALL_SHIM = """#include <cmath>
#define __host__
#define __device__
#define __forceinline__ inline
using namespace std;
"""
"""All that a kernel needs that is written as the program runs: it has no threads that meet."""


def built_now(folder: Path, kernel: src.Elementwise) -> Any:
    """The library of a kernel that the program has written."""
    text = SMALL_SHIM + kernel.preamble + elementwise_code(kernel, "float32")
    library = folder / f"{kernel.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        own = folder / f"{library.stem}-{os.getpid()}"
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-x", "c++"]
        subprocess.run([*command, "-", "-o", str(own)], check=True, input=text.encode())
        own.replace(library)
    return ctypes.CDLL(str(library))


def build(
    folder: Path,
    *options: str,
    kernels: Sequence[src.Elementwise] = ELEMENTWISE,
    instances: Sequence[str] = INSTANCES,
) -> Path:
    """Path of the shared library; built anew only where the code or the options have changed."""
    text = translation_unit(kernels, instances)
    digest = hashlib.sha256("\n".join([text, SHIM.read_text(), *options]).encode()).hexdigest()[:16]
    library = folder / f"device-{digest}.so"
    if not library.exists():
        own = f"device-{digest}-{os.getpid()}"  # another process may be building it, too
        unit, built = folder / f"{own}.cpp", folder / f"{own}.so"
        unit.write_text(text)
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        command += ["-Wno-unknown-pragmas", *options, str(unit), "-o", str(built)]
        subprocess.run(command, check=True)
        built.replace(library)
    return library


# --- the device ----------------------------------------------------------


class Device:
    """What the devices are doing; all of it but a capture is the current one's.

    Attributes:
        count: of the devices;  current: the one that is used.
        recorded: what is being captured, or None.
        closed: whether the host may neither look nor send anything, nor launch what is not a kernel of ours,
            or of CuPy's where captures_library says so.
        stream: the current stream, None for the default one;  busy: the one with work nobody has waited for.
        launches: kernels and graphs launched.
        chance: what chooses among the orders in which a graph may run.
        refusals: how many of the next blocks of memory there is no room for.
    """

    recorded: FakeCapture | None = None
    closed = captures_library = False
    empty: Any = None  # makes an array in the current pool
    count, current, refusals = 1, 0, 0
    pool: FakeMemoryPool
    launches: list[str]

    def __init__(self) -> None:
        self._streams: dict[int, FakeStream | None] = {}
        self._busy: dict[int, Any] = {}
        self.chance = random.Random(0)

    @property
    def stream(self) -> FakeStream | None:
        return self._streams.get(self.current)

    @stream.setter
    def stream(self, stream: FakeStream | None) -> None:
        self._streams[self.current] = stream

    @property
    def busy(self) -> Any:
        return self._busy.get(self.current, ())

    @busy.setter
    def busy(self, stream: Any) -> None:
        self._busy[self.current] = stream

    def reset(self) -> None:
        """As a new process finds them: one of them, and nothing done."""
        self.recorded, self.count, self.current, self.refusals = None, 1, 0, 0
        self._streams.clear()
        self._busy.clear()
        self.launches.clear()
        self.chance.seed(0)

    def work(self, what: str) -> None:
        """Something is asked of the device that is no kernel of ours."""
        assert self.recorded is None, f"{what} cannot be captured"
        assert not self.closed, f"{what} in a step"
        self.touch()

    def touch(self) -> None:
        """The current stream uses memory; branches of a capture run where its graph will."""
        stream = self.stream if self.recorded is None else self.recorded.stream
        assert self.busy in ((), stream), "another stream's work was not waited for"
        self.busy = stream

    def launch(
        self,
        name: str,
        run: Callable[[], None],
        arrays: list[FakeArray],
        ready: set[str],
        variant: object = None,
    ) -> None:
        """Runs a kernel, or notes it down in a capture.

        Args:
            ready: what has been compiled;  variant: see there.
        """
        self.touch()
        assert all(array.device_id == self.current for array in arrays), f"{name} reads another device"
        here = f"{name} {variant} on {self.current}"
        if self.recorded is None:
            ready.add(here)
            self.launches.append(name)
            run()
            return
        assert here in ready, f"{name} would be compiled in a capture"
        used = [owner(array) for array in arrays]
        others = [weakref.ref(one) for one in used if getattr(one, "pool", None) != id(self.pool)]
        self.recorded.add(self.stream, run, others)


device = Device()


@contextlib.contextmanager
def closed(*, library: bool = False) -> Iterator[None]:
    """Nothing but kernels of ours may run in here, and nothing may cross to the host or from there.

    Args:
        library: CuPy's elementwise kernels may run as well, as on an emulated chip.
    """
    device.closed, device.captures_library = True, library
    try:
        yield
    finally:
        device.closed = device.captures_library = False


class FakeDevice:
    """One of them, for a while (`with`) or from now on (`use`)."""

    mem_info = (64 << 30, 80 << 30)

    def __init__(self, number: int | None = None) -> None:
        self.id = device.current if number is None else number
        assert 0 <= self.id < device.count, "no such device"

    def __enter__(self) -> FakeDevice:
        self.before, device.current = device.current, self.id
        return self

    def __exit__(self, *_: object) -> None:
        device.current = self.before

    def use(self) -> None:
        device.current = self.id


class FakeStream:
    def __init__(self, *, non_blocking: bool) -> None:
        self.non_blocking, self.device_id = non_blocking, device.current

    def __enter__(self) -> FakeStream:
        assert self.device_id == device.current, "a stream of another device"
        self.before, device.stream = device.stream, self
        return self

    def __exit__(self, *_: object) -> None:
        device.stream = self.before

    def synchronize(self) -> None:
        assert device.recorded is None
        assert not device.closed, "waiting in a step"
        assert self.device_id == device.current, "a stream of another device"
        if device.busy is self:
            device.busy = ()

    def begin_capture(self) -> None:
        assert device.stream is self
        assert self.non_blocking
        assert device.recorded is None
        assert device.pool is not default_pool, "a graph needs memory of its own"
        device.recorded = FakeCapture(self)
        self.given_back = device.pool.given_back

    def end_capture(self) -> FakeGraph:
        assert device.recorded is not None
        recorded, device.recorded = device.recorded, None
        assert recorded.stream is self
        recorded.check_joined()
        return FakeGraph(recorded.nodes, weakref.ref(device.pool), self.given_back)

    def record(self, event: FakeEvent) -> None:
        event.record(self)

    def wait_event(self, event: FakeEvent) -> None:
        assert device.recorded is not None, "the edges that are known here are those of a graph"
        assert event.capture is device.recorded, "an event that was not recorded in this capture"
        last = device.recorded.last
        last[self] = last.get(self, frozenset()) | event.behind


class FakeEvent:
    """A point in a stream's work; one that is captured knows what comes before."""

    capture: FakeCapture | None = None
    behind: frozenset[int] = frozenset()

    def __init__(self, *, disable_timing: bool = False) -> None:
        self.timed = not disable_timing

    def record(self, stream: FakeStream | None = None) -> None:
        self.capture = device.recorded
        if self.capture is not None:
            assert not self.timed
            self.behind = self.capture.last[stream or device.stream]

    def synchronize(self) -> None:
        pass


@dataclass(frozen=True)
class Node:
    """Of a graph.

    Attributes:
        others: memory that it uses and the graph does not keep;  behind: numbers of the nodes before it.
    """

    run: Callable[[], None]
    others: list[Any]
    behind: frozenset[int]


class FakeCapture:
    """Launches, and which of them each comes behind.

    Attributes:
        stream: whose work is captured.
        last: of each stream that takes part, what its next launch comes behind.
    """

    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream
        self.nodes: list[Node] = []
        self.last: dict[Any, frozenset[int]] = {stream: frozenset()}

    def add(self, stream: Any, run: Callable[[], None], others: Sequence[Any] = ()) -> None:
        assert stream in self.last, "a launch on a stream that takes no part in the capture"
        self.nodes.append(Node(run, list(others), self.last[stream]))
        self.last[stream] = frozenset({len(self.nodes) - 1})

    def check_joined(self) -> None:
        """As the driver does."""
        found: set[int] = set()
        left = [*self.last[self.stream]]
        while left:
            number = left.pop()
            left += self.nodes[number].behind - found
            found.add(number)
        assert len(found) == len(self.nodes), "a branch was not joined before the end of the capture"


class FakeGraph:
    def __init__(self, nodes: list[Node], pool: Any, given_back: int) -> None:
        self.nodes, self.pool, self.device_id = nodes, pool, device.current
        self.given_back = given_back

    def launch(self, stream: FakeStream | None = None) -> None:
        assert stream in (None, device.stream)
        assert self.device_id == device.current, "a graph of another device"
        assert device.recorded is None
        assert self.pool() is not None, "the graph's memory is gone"
        assert self.pool().given_back == self.given_back, "the graph's memory was given back"
        device.touch()
        device.launches.append("graph")
        for node in self.ordered():
            assert all(other() is not None for other in node.others), "memory that a graph uses was freed"
            node.run()

    def ordered(self) -> Iterator[Node]:
        """One of the orders that the edges leave: branches as early as can be, as late, or anyhow."""
        early = device.chance.choice((0.0, 0.5, 1.0))
        missing = [len(node.behind) for node in self.nodes]
        followers: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for before in node.behind:
                followers[before].append(number)
        ready = [number for number, n in enumerate(missing) if n == 0]
        while ready:
            chosen = ready.pop(0 if device.chance.random() < early else -1)
            yield self.nodes[chosen]
            for number in followers[chosen]:
                missing[number] -= 1
                if missing[number] == 0:
                    ready.append(number)
            ready.sort()


class OutOfMemoryError(Exception):
    """There is no room for a block."""


class FakeMemory:
    """A block from the driver."""

    def __init__(self, size: int) -> None:
        if device.refusals:
            device.refusals -= 1
            raise OutOfMemoryError(f"out of memory: {size} bytes")
        self.storage = (ctypes.c_byte * size)()


class FakeMemoryPool:
    """Hands freed memory out again, as it is: full of somebody else's numbers.

    Attributes:
        given_back: how often free blocks went back to the driver.
    """

    def __init__(self, allocator: Any = None) -> None:
        self.free: dict[tuple[int, int], list[Any]] = {}  # by device and size
        self.held = self.live = self.peak = self.given_back = 0
        self.allocator = allocator or (lambda size: SimpleNamespace(mem=FakeMemory(size)))

    def malloc(self, size: int, kind: Any = np.int8) -> Any:
        """Memory of so many bytes, for numbers of a kind."""
        if not self.free.get((device.current, size)):
            try:
                block = self.allocator(size)
            except OutOfMemoryError:  # as CuPy does
                self.free_all_blocks()
                block = self.allocator(size)
            self.held += size
            self.free.setdefault((device.current, size), []).append(block.mem.storage)
        storage = self.free[device.current, size].pop()
        lease = (ctypes.c_byte * size).from_buffer(storage)
        weakref.finalize(lease, self.give_back, storage, device.current, kind)
        self.live += size
        self.peak = max(self.peak, self.live)
        lease.pool, lease.storage = id(self), storage
        return lease

    def give_back(self, storage: Any, number: int, kind: Any) -> None:
        """It is the next one's, whoever asks; of what a graph uses, behind what its stream was given before.

        CuPy's pool hands memory out for the stream that it was taken on, which is the captured one: a branch
        allocates nothing.
        """
        self.live -= len(storage)
        self.free.setdefault((number, len(storage)), []).append(storage)
        if device.recorded is not None and device.pool is self and number == device.current:
            device.recorded.add(device.recorded.stream, lambda: spoil(storage, kind))

    def total_bytes(self) -> int:
        return self.held

    def free_all_blocks(self) -> None:
        """Those of the current device, as CuPy does."""
        self.given_back += 1
        for number, size in list(self.free):
            if number == device.current:
                self.held -= size * len(self.free.pop((number, size)))


def spoil(storage: Any, kind: Any) -> None:
    """Fills memory with somebody else's numbers."""
    kind = np.dtype(kind)
    array = np.frombuffer(storage, np.int8)[: len(storage) // kind.itemsize * kind.itemsize].view(kind)
    array[...] = 1 if kind == np.bool_ else 77 if kind.kind == "i" else np.nan


default_pool = FakeMemoryPool()
device.pool, device.launches = default_pool, []


@contextlib.contextmanager
def using_allocator(allocator: Any) -> Iterator[None]:
    before, device.pool = device.pool, allocator.__self__
    try:
        yield
    finally:
        device.pool = before


def owner(array: Any) -> Any:
    """Whose memory an array has."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def loose(array: Any) -> np.ndarray:
    """The numbers of an array, which hold no memory of a pool's: a kernel knows an address, and no more."""
    storage = getattr(owner(array), "storage", None)
    if storage is None:
        return np.asarray(array)
    first = array.ctypes.data - ctypes.addressof(storage)
    return np.ndarray(array.shape, array.dtype, storage, first, array.strides)


# --- a module that stands for CuPy ----------------------------------------------------------


class FakeArray(np.ndarray):
    """An array "on a device": no NumPy array as far as gpuspike can see, though it is one underneath."""

    device_id = 0

    def __array_finalize__(self, other: Any) -> None:
        self.device_id = getattr(other, "device_id", device.current)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__":  # a sum over an axis may take memory of its own
            device.work(ufunc.__name__)
            answer = getattr(ufunc, method)(*map(plain, inputs), **options)
            return fake(answer) if isinstance(answer, np.ndarray) else answer
        return library_kernel(ufunc, inputs, options, out[0] if out is not None else None)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """NumPy's functions, which CuPy answers: those that are one kernel of its own."""
        if function is np.clip:
            return library_kernel(function, args, {}, kwargs.get("out"))
        if function is np.broadcast_to:
            return np.broadcast_to(np.asarray(args[0]), *args[1:], **kwargs).view(FakeArray)
        if function in (np.where, np.repeat, np.isnan):
            return library_kernel(function, args, kwargs, None)
        device.work(function.__name__)
        return super().__array_function__(function, types, args, kwargs)

    def astype(self, dtype: Any, *_: Any, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return library_kernel(
            lambda array: array.astype(dtype), (self,), {}, None, f"astype_{np.dtype(dtype)}"
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        if key is not ...:
            device.work("assignment")
            super().__setitem__(key, value)
            return
        target = loose(self)
        library_kernel(lambda array: np.copyto(target, array), (value,), {}, self, "assignment")

    def copy(self, *_: Any) -> Any:
        return library_kernel(np.array, (self,), {}, None, "copy")

    def fill(self, value: Any) -> None:
        device.work("fill")
        super().fill(value)

    def get(self) -> np.ndarray:
        device.work("a look at an array")
        assert self.device_id == device.current, "a look at another device"
        device.busy = ()
        return np.array(self)

    def set(self, array: Any) -> None:
        device.work("sending an array")
        assert self.device_id == device.current, "sending to another device"
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (self.dtype, self.shape)
        assert self.flags.c_contiguous
        np.copyto(np.asarray(self), array)

    @property
    def device(self) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(id=self.device_id)


def plain(array: Any) -> Any:
    """What NumPy computes with. CuPy takes no array of NumPy's; tests may give some."""
    if type(array) is np.ndarray and array.ndim:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename == __file__:
            frame = frame.f_back
        assert PACKAGE not in Path(frame.f_code.co_filename).parents, "CuPy takes no NumPy array"
    return loose(array) if isinstance(array, FakeArray) else array


def library_kernel(function: Any, inputs: Any, options: Any, out: Any, name: str = "") -> Any:
    """An elementwise kernel of CuPy's own: one launch, which a capture records.

    In a capture nothing is computed; its array has the memory that the graph will write to.
    """
    options = {key: plain(value) for key, value in options.items()}
    plainly = [plain(one) for one in inputs]

    def computed() -> Any:
        with np.errstate(all="ignore"):
            return function(*plainly, **options)

    if name == "assignment":
        run = computed
    else:
        if out is None:
            like = computed()
            out = device.empty(like.shape, like.dtype)
        target = loose(out)

        def run() -> None:
            np.copyto(target, computed())

    kinds = "_".join(str(getattr(one, "dtype", type(one).__name__)) for one in inputs)
    arrays = [one for one in (*inputs, *options.values(), out) if isinstance(one, FakeArray)]
    assert not device.closed or device.captures_library, f"{name or function.__name__} in a step"
    try:
        own = variant(arrays, [False] * len(arrays), out.shape)
    except ValueError:  # repeated: not one loop over all
        own = variant(arrays, [True] * len(arrays), ())
    device.launch(f"cupy_{name or function.__name__}_{kinds}", run, arrays, _ready, own)
    return out


def fake(array: Any) -> FakeArray:
    return np.ascontiguousarray(array).view(FakeArray)


_ready: set[str] = set()


def variant(arrays: Sequence[Any], raw: Sequence[bool], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """What CuPy compiles an elementwise kernel for, beside types: axes of its arrays, and who is contiguous.

    Arrays that are not raw are broadcast, and lose axes of one entry and those that all of them pass through
    as one (`_reduce_dims` in CuPy's _kernel.pyx); raw ones keep theirs.

    Args:
        arrays: its arguments that are arrays;  raw: which of them are;  shape: of its loop.
    """
    spread = [np.broadcast_to(np.asarray(a), shape) for a, own in zip(arrays, raw, strict=True) if not own]
    axes: list[int] = []  # the last one of each group that stays
    for axis in range(len(shape)):
        if shape[axis] == 1:
            continue
        if axes and all(a.strides[axes[-1]] == a.strides[axis] * shape[axis] for a in spread):
            axes[-1] = axis
        else:
            axes.append(axis)
    alone = [len(axes) == 0 or (len(axes) == 1 and a.strides[axes[0]] == a.itemsize) for a in spread]
    whole = [one or a.flags.c_contiguous for one, a in zip(alone, spread, strict=True)]
    own = [(a.ndim, bool(a.flags.c_contiguous)) for a, is_raw in zip(arrays, raw, strict=True) if is_raw]
    return len(axes), tuple(whole), tuple(own)


class FakeElementwiseKernel:
    def __init__(self, in_params: str, out_params: str, operation: str, name: str, **other: Any) -> None:
        assert set(other) == {"preamble", "options"}
        written = other["preamble"] != src.source()
        self.kernel = src.Elementwise(name, in_params, out_params, operation, written)
        assert other["preamble"] == self.kernel.preamble
        if written and self.kernel not in _kernels:
            _kernels[self.kernel] = built_now(Path(_library._name).parent, self.kernel)
        assert self.kernel in _kernels

    def _written(self, args: tuple[Any, ...]) -> None:
        """Launches a kernel whose arrays are broadcast, as CuPy does it: of any strides."""
        wanted = [*parameters(self.kernel.in_params), *parameters(self.kernel.out_params)]
        n_in = len(parameters(self.kernel.in_params))
        shape = args[n_in].shape
        arrays = [arg for arg in args if isinstance(arg, FakeArray)]
        for number, (arg, (raw, kind, name)) in enumerate(zip(args, wanted, strict=True)):
            assert isinstance(arg, FakeArray) == (number >= n_in or is_array(self.kernel, raw, name)), name
            assert not isinstance(arg, FakeArray) or arg.dtype.name == kind, name
            assert number < n_in or arg.shape == shape, name
        function = getattr(_kernels[self.kernel], f"{self.kernel.name}_float32")
        plainly = [loose(arg) if isinstance(arg, FakeArray) else arg for arg in args]

        def run() -> None:
            passed: list[Any] = [ctypes.c_longlong(int(np.prod(shape)))]
            there = []
            for number, (arg, (raw, kind, _)) in enumerate(zip(plainly, wanted, strict=True)):
                if not isinstance(arg, np.ndarray):
                    make = {"int32": ctypes.c_int, "int64": ctypes.c_longlong, "float64": ctypes.c_double}
                    passed.append(make[kind](arg))
                    continue
                spread = arg if raw or number >= n_in else np.broadcast_to(arg, shape)
                there.append(np.array(spread, order="C"))  # of its own: outputs may lie apart
                passed.append(ctypes.c_void_p(there[-1].ctypes.data))
            function(*passed)
            for arg, array in zip(plainly[n_in:], there[-len(plainly[n_in:]) :], strict=True):
                np.copyto(arg, array)

        raws = [raw for arg, (raw, _, _) in zip(args, wanted, strict=True) if isinstance(arg, FakeArray)]
        device.launch(self.kernel.name, run, arrays, _ready, variant(arrays, raws, shape))

    def __call__(self, *args: Any, size: int | None = None) -> None:
        if self.kernel.written:
            self._written(args)
            return
        wanted = [*parameters(self.kernel.in_params), *parameters(self.kernel.out_params)]
        n_in = len(parameters(self.kernel.in_params))
        assert len(args) == len(wanted), f"{self.kernel.name} takes {len(wanted)} arguments, got {len(args)}"
        real, passed, arrays, given = "", [], [], size
        raws: list[bool] = []
        for number, (arg, (raw, kind, name)) in enumerate(zip(args, wanted, strict=True)):
            if not raw and number < n_in:
                make = {"int32": ctypes.c_int, "int64": ctypes.c_longlong, "float64": ctypes.c_double}[kind]
                assert kind == "float64" or int(arg) == make(int(arg)).value
                passed.append(make(arg))
                continue
            assert isinstance(arg, FakeArray), name
            assert arg.flags.c_contiguous, name
            if kind == "T":
                real = real or arg.dtype.name
            assert arg.dtype.name == (real if kind == "T" else kind), name
            passed.append(ctypes.c_void_p(arg.ctypes.data))
            arrays.append(arg)
            raws.append(raw)
            if not raw:
                assert given is None, "CuPy takes a size only where all arrays are raw"
                assert size in (None, arg.size), name
                size = arg.size
        assert size is not None
        symbol_name = f"{self.kernel.name}_{real or 'float32'}"
        function, n_threads = getattr(_kernels[self.kernel], symbol_name), ctypes.c_longlong(size)
        loop = next((a.shape for a, raw in zip(arrays, raws, strict=True) if not raw), (size,))
        own = variant(arrays, raws, loop)
        device.launch(symbol_name, lambda: function(n_threads, *passed), arrays, _ready, own)


class FakeRawModule:
    def __init__(self, *, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        assert code == src.source()
        assert options == src.OPTIONS
        self.names = name_expressions

    def get_function(self, name: str) -> Any:
        assert name in self.names
        function = getattr(_library, symbol(name))

        def launch(
            grid: tuple[int], block: tuple[int], args: tuple[Any, ...], *, shared_mem: int = 0
        ) -> None:
            codes, values, arrays = "", [], []
            for arg in args:
                if isinstance(arg, FakeArray):
                    assert arg.flags.c_contiguous
                    codes += {"float32": "f", "float64": "d", "bool": "?", "int32": "i", "int64": "q"}[
                        arg.dtype.name
                    ]
                    values.append(ctypes.c_void_p(arg.ctypes.data))
                    arrays.append(arg)
                else:  # a Python number's type would be CuPy's guess
                    assert isinstance(arg, (np.int32, np.float64)), type(arg)
                    codes += "I" if isinstance(arg, np.int32) else "D"
                    values.append(np.ctypeslib.as_ctypes_type(arg.dtype)(arg))
            assert 0 < grid[0] < 1 << 31

            def run() -> None:
                pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
                told = ctypes.c_char_p(codes.encode())
                answer = function(grid[0], block[0], shared_mem, pointers, told)
                assert answer != 1, f"{name} was called with {codes}, which are not its arguments' types"
                assert answer != 2, f"some threads of {name} met a barrier that others did not"
                assert answer != 3, f"{name} needs more shared memory than {shared_mem} bytes"

            device.launch(name, run, arrays, _ready)

        return launch


_library: Any = None
_kernels: dict[src.Elementwise, Any] = {}


def add(folder: Path, kernels: Sequence[src.Elementwise]) -> None:
    """Builds kernels of leaves that are in no registry, for the module that is installed."""
    known = {kernel.name for kernel in _kernels}
    assert not known & {kernel.name for kernel in kernels}, "two kernels of one name"
    _kernels.update(dict.fromkeys(kernels, ctypes.CDLL(str(build(folder, kernels=kernels, instances=())))))


def module(library: Path) -> ModuleType:
    """A module `cupy` whose kernels are those of the library."""
    global _library, _kernels  # noqa: PLW0603 - one library a process, as there is one device
    _library = ctypes.CDLL(str(library))
    _kernels = dict.fromkeys(ELEMENTWISE, _library)
    cupy = ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    makers = ("zeros", "zeros_like", "ones", "full", "broadcast_to", "concatenate")

    def poisoned(shape: Any, dtype: Any) -> FakeArray:
        """Memory as a device hands it out: full of somebody else's numbers."""
        dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        captured = device.recorded
        assert captured is None or device.pool is not default_pool
        assert captured is None or captured.stream is device.stream, "memory is taken in a branch"
        array = (
            np.frombuffer(device.pool.malloc(max(size, 1), dtype), np.int8)[:size].view(dtype).reshape(shape)
        )
        if device.recorded is None:
            array.fill(1 if array.dtype == np.bool_ else 77 if array.dtype.kind == "i" else np.nan)
        return array.view(FakeArray)

    def made_by(function: Any) -> Any:
        def make(*args: Any, **options: Any) -> FakeArray:
            device.work(function.__name__)
            return fake(function(*args, **options))

        return make

    def asarray(array: Any, dtype: Any = None) -> FakeArray:
        if isinstance(array, FakeArray):
            return array
        assert device.stream is None or device.pool is default_pool, (
            "what is sent may outlive a training's own memory"
        )
        return made_by(np.array)(array, dtype)

    def of_device_arrays(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> FakeArray:
            assert all(np.isscalar(arg) or isinstance(arg, FakeArray) for arg in args), (
                "CuPy takes no NumPy array"
            )
            return library_kernel(function, args, options, None)

        return call

    for name in makers:
        setattr(cupy, name, made_by(getattr(np, name)))
    vars(cupy).update(
        empty=poisoned,
        asarray=asarray,
        empty_like=lambda array: poisoned(array.shape, array.dtype),
        argsort=made_by(lambda array, axis: np.argsort(np.asarray(array), axis=axis, kind="stable")),
        ascontiguousarray=made_by(np.ascontiguousarray),
        ndarray=FakeArray,
        ElementwiseKernel=FakeElementwiseKernel,
        RawModule=FakeRawModule,
        cuda=SimpleNamespace(
            Device=FakeDevice,
            runtime=SimpleNamespace(
                getDeviceCount=lambda: device.count,
                getDevice=lambda: device.current,
                getDeviceProperties=lambda _: {"name": b"a stand-in"},
                runtimeGetVersion=lambda: 12090,
            ),
            Stream=FakeStream,
            Event=FakeEvent,
            get_elapsed_time=lambda *_: 1.0,
            MemoryPool=FakeMemoryPool,
            Memory=FakeMemory,
            MemoryPointer=lambda mem, offset: SimpleNamespace(mem=mem),
            using_allocator=using_allocator,
            get_current_stream=lambda: device.stream or FakeStream(non_blocking=False),
        ),
        get_default_memory_pool=lambda: default_pool,
        __version__="0.0",
    )
    for name in ("isnan", "isinf", "isfinite", "where", "maximum", "minimum", "ceil", "repeat"):
        setattr(cupy, name, of_device_arrays(getattr(np, name)))
    device.empty = poisoned
    return cupy


@contextlib.contextmanager
def installed(library: Path) -> Iterator[ModuleType]:
    """The stand-in in CuPy's place, and gpuspike's kernels bound to it."""
    from gpuspike import backend
    from gpuspike.kernels.cuda import call as cuda_call

    before = sys.modules.get("cupy")
    cupy = sys.modules["cupy"] = module(library)
    device.pool = default_pool
    device.reset()
    backend._first.clear()
    try:
        cuda_call.forget()
        yield cupy
    finally:
        cuda_call.forget()
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
