"""A pool of threads for work that releases Python's lock.

Numba's own parallel loops wait for every thread to wake up, which costs a time slice whenever the machine is
shared with anybody. Here the caller works too and takes pieces from the same counter, so a thread that comes
late only helps less. Which thread takes a piece never changes what is computed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue
from typing import Any

from gpuspike.backend import usable_cores
from gpuspike.errors import ConfigError

PIECES_PER_THREAD = 4
"""Pieces that the work is cut into for each thread, so that an uneven load evens out."""


def thread_count() -> int:
    """Threads that kernels use: NUMBA_NUM_THREADS if set, else all usable cores.

    Raises:
        ConfigError: NUMBA_NUM_THREADS is no positive number.
    """
    given = os.environ.get("NUMBA_NUM_THREADS")
    if given is None:
        return usable_cores()
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise ConfigError(f"NUMBA_NUM_THREADS must be a positive number, got {given!r}")
    return int(given)


def for_each(work: Callable[[int, int], Any], n_items: int, *, parallel: bool = True) -> None:
    """Calls work(first, last) for pieces that cover range(n_items), on several threads if `parallel`."""
    n_threads = thread_count() if parallel else 1
    n_pieces = min(n_items, n_threads * PIECES_PER_THREAD)
    if n_threads == 1 or n_pieces < 2:
        if n_items:
            work(0, n_items)
        return
    job = _Job(work, n_items, n_pieces)
    jobs = _helpers(n_threads - 1, os.getpid())
    for _ in range(n_threads - 1):
        jobs.put(job)
    job.take_pieces()
    job.wait()


class _Job:
    """Work in pieces; done when the last piece is, whoever has come to help."""

    def __init__(self, work: Callable[[int, int], Any], n_items: int, n_pieces: int) -> None:
        self._work = work
        self._n_items = n_items
        self._n_pieces = n_pieces
        self._taken = itertools.count()
        self._finished = itertools.count(1)
        self._done = threading.Lock()
        self._done.acquire()
        self._error: BaseException | None = None

    def take_pieces(self) -> None:
        # next() on a counter is one step of the interpreter: no two threads get the same piece.
        n_items, n_pieces = self._n_items, self._n_pieces
        while (piece := next(self._taken)) < n_pieces:
            try:
                self._work(piece * n_items // n_pieces, (piece + 1) * n_items // n_pieces)
            except BaseException as error:  # raised by `wait`, in the caller's thread
                self._error = error
            if next(self._finished) == n_pieces:
                self._done.release()

    def wait(self) -> None:
        self._done.acquire()
        if self._error is not None:
            raise self._error


@cache
def _helpers(n_helpers: int, process: int) -> SimpleQueue[_Job]:
    """The queue that the helper threads of this process (a forked child has none of its parent's) serve."""
    jobs: SimpleQueue[_Job] = SimpleQueue()

    def serve() -> None:
        while True:
            jobs.get().take_pieces()

    for number in range(n_helpers):
        threading.Thread(target=serve, name=f"gpuspike-{process}-{number}", daemon=True).start()
    return jobs
