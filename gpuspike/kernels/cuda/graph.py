"""A stream and memory of a training's own, and its step as a CUDA graph, which may have branches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from gpuspike.backend import cupy_module


def free_memory(device: int | None = None) -> int:
    """Bytes of a device, the current one unless given, that can still be had, by a lane's pool too."""
    cupy = cupy_module()
    there = cupy.cuda.Device() if device is None else cupy.cuda.Device(device)
    with there:
        cupy.get_default_memory_pool().free_all_blocks()
        free, _ = there.mem_info
    return int(free)


def _emptied(pool: Any, device: int) -> None:
    with cupy_module().cuda.Device(device):
        pool.free_all_blocks()


class _Driver:
    """What a pool has its blocks from; counts how often there were none left.

    CuPy's pool then gives back all blocks that nobody has at the moment, and asks again.
    """

    def __init__(self) -> None:
        self.refusals = 0

    def __call__(self, size: int) -> Any:
        cuda = cupy_module().cuda
        try:
            return cuda.MemoryPointer(cuda.Memory(size), 0)
        except Exception:
            self.refusals += 1
            raise


class Captured(NamedTuple):
    """A step as a graph, and how often its lane had been out of memory before it was captured."""

    graph: Any
    refusals: int


class Lane:
    """Where a training's work runs: in one order, on a stream that waits for no other.

    Its steps take their memory from a pool that serves nothing else, so that a graph, which writes to the
    addresses of the step it was captured from, never meets an array of somebody else. A step leaves no array
    behind: the next one, launched or replayed, may have its memory.

    A graph has the branches that its step asks for, see `beside`. Launched one by one the same kernels run in
    one order: the host is what such a step waits for.

    Attributes:
        branches: whether graphs have any; to compare times, it changes nothing but speed.
    """

    def __init__(self) -> None:
        cupy = cupy_module()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._driver = _Driver()
        self._pool = cupy.cuda.MemoryPool(self._driver)
        self.branches = True
        self._side = cupy.cuda.Stream(non_blocking=True)  # where branches are captured; nothing else is there
        self._forks, self._joins = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self._capturing = self._aside = self._forked = False
        self._kept: list[Any] = []
        # CuPy 14 never gives back the blocks of a pool that nobody has any more; asked to, it does so for
        # the current device alone.
        weakref.finalize(self, _emptied, self._pool, cupy.cuda.Device().id).atexit = False

    @property
    def refusals(self) -> int:
        """How often the device had no memory left for it; free blocks were given back then."""
        return self._driver.refusals

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is asked of the device in here runs on this lane."""
        with self._stream:
            yield

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """A step is in here: on the lane's stream, in its memory."""
        with self._stream, cupy_module().cuda.using_allocator(self._pool.malloc):
            before = _LANE.set(self)
            try:
                yield
            finally:
                _LANE.reset(before)
                self._kept, self._forked = [], False  # of a step that something has broken off

    def run(self, step: Callable[[], None]) -> None:
        """Launches a step's kernels one by one."""
        with self._stepping():
            step()

    def capture(self, step: Callable[[], None]) -> Captured:
        """The step as a graph, to be given to `replay`; nothing runs yet.

        Args:
            step: kernels only, each of which has run before: capturing must neither compile nor wait. What it
                raises is raised.
        """
        before = self.refusals
        with self._stepping():
            self._stream.begin_capture()
            self._capturing = True
            try:
                step()
                self._join()
            except BaseException:
                with suppress(Exception):  # a capture that something has broken off says that, and no more
                    self._join()
                with suppress(Exception):
                    self._stream.end_capture()
                raise
            finally:
                self._capturing = False
            return Captured(self._stream.end_capture(), before)

    def holds(self, captured: Captured) -> bool:
        """Whether the memory that a captured step writes to is still this lane's: none was given back."""
        return captured.refusals == self.refusals

    def replay(self, captured: Captured) -> None:
        """Launches a captured step whose memory the lane holds."""
        with self._stream:
            captured.graph.launch()

    def wait(self) -> None:
        """Until everything on this lane is done."""
        self._stream.synchronize()

    @contextmanager
    def _beside(self, arrays: tuple[Any, ...]) -> Iterator[None]:
        if not self.branches:
            yield
            return
        # Of steps that are not captured, too: these are to take the memory that a capture will want.
        self._kept += arrays
        if not self._capturing or self._aside:
            yield
            return
        self._stream.record(self._forks)
        self._side.wait_event(self._forks)
        self._aside = self._forked = True
        try:
            with self._side:
                yield
        finally:
            self._aside = False

    def _join(self) -> None:
        forked, self._forked = self._forked, False
        if forked:
            self._side.record(self._joins)
            self._stream.wait_event(self._joins)
        self._kept = []  # not before: what takes their memory now comes behind the branch


_LANE: ContextVar[Lane | None] = ContextVar("lane", default=None)
"""The lane one of whose steps is being made."""


@contextmanager
def beside(*arrays: Any) -> Iterator[None]:
    """What is launched in here is a branch of the step's graph, behind all that was launched before.

    The rest of the step does not wait for it until it is `joined`. Branches come one behind the other. Where
    no step is captured, everything runs in the order in which it is launched.

    Args:
        arrays: all that the branch reads or writes and the step has made. They are kept until the branch is
            joined: a pool would hand their memory out to the kernels beside. For the same reason nothing is
            to be allocated in here, but before.
    """
    lane = _LANE.get()
    if lane is None:
        yield
    else:
        with lane._beside(arrays):
            yield


def joined() -> None:
    """What is launched from here on comes behind what went `beside`."""
    lane = _LANE.get()
    if lane is not None:
        lane._join()


@contextmanager
def in_order() -> Iterator[None]:
    """Nothing goes `beside` in here: somebody looks at it before it is `joined`."""
    before = _LANE.set(None)
    try:
        yield
    finally:
        _LANE.reset(before)
