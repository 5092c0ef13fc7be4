"""A stream and memory of a training's own, and its step as a CUDA graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    """

    def __init__(self) -> None:
        cupy = cupy_module()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._driver = _Driver()
        self._pool = cupy.cuda.MemoryPool(self._driver)
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

    def run(self, step: Callable[[], None]) -> None:
        """Launches a step's kernels one by one."""
        with self._stream, cupy_module().cuda.using_allocator(self._pool.malloc):
            step()

    def capture(self, step: Callable[[], None]) -> Captured:
        """The step as a graph, to be given to `replay`; nothing runs yet.

        Args:
            step: kernels only, each of which has run before: capturing must neither compile nor wait. What it
                raises is raised.
        """
        before = self.refusals
        with self._stream, cupy_module().cuda.using_allocator(self._pool.malloc):
            self._stream.begin_capture()
            try:
                step()
            except BaseException:
                with suppress(Exception):  # a capture that something has broken off says that, and no more
                    self._stream.end_capture()
                raise
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
