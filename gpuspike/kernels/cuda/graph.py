"""A stream and memory of a training's own, and its step as a CUDA graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


class Lane:
    """Where a training's work runs: in one order, on a stream that waits for no other.

    Its steps take their memory from a pool that serves nothing else, so that a graph, which writes to the
    addresses of the step it was captured from, never meets an array of somebody else. A step leaves no array
    behind: the next one, launched or replayed, may have its memory.
    """

    def __init__(self) -> None:
        cupy = cupy_module()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pool = cupy.cuda.MemoryPool()
        # CuPy 14 never gives back the blocks of a pool that nobody has any more; asked to, it does so for
        # the current device alone.
        weakref.finalize(self, _emptied, self._pool, cupy.cuda.Device().id).atexit = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is asked of the device in here runs on this lane."""
        with self._stream:
            yield

    def run(self, step: Callable[[], None]) -> None:
        """Launches a step's kernels one by one."""
        with self._stream, cupy_module().cuda.using_allocator(self._pool.malloc):
            step()

    def capture(self, step: Callable[[], None]) -> Any:
        """The step as a graph, to be given to `replay`; nothing runs yet.

        Args:
            step: kernels only, each of which has run before: capturing must neither compile nor wait.
        """
        with self._stream, cupy_module().cuda.using_allocator(self._pool.malloc):
            self._stream.begin_capture()
            try:
                step()
            finally:
                graph = self._stream.end_capture()
        return graph

    def replay(self, graph: Any) -> None:
        """Launches a captured step."""
        with self._stream:
            graph.launch()

    def wait(self) -> None:
        """Until everything on this lane is done."""
        self._stream.synchronize()
