"""A pool of threads for work that releases Python's lock.

Numba's own parallel loops wait for every thread to wake up, which costs a time slice whenever the machine is
shared with anybody. Here the caller works too and takes pieces from the same counter, so a thread that comes
late only helps less. Which thread takes a piece never changes what is computed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from gpuspike.backend import usable_cores

PIECES_PER_THREAD = 4
"""Pieces that the work is cut into for each thread, so that an uneven load evens out."""


def thread_count() -> int:
    """Threads that kernels use: NUMBA_NUM_THREADS if set, else all usable cores."""
    return max(1, int(os.environ.get("NUMBA_NUM_THREADS", usable_cores())))


@lru_cache(maxsize=1)
def _pool(n_helpers: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_helpers, thread_name_prefix="gpuspike")


def for_each(work: Callable[[int, int], Any], n_items: int, *, parallel: bool = True) -> None:
    """Calls work(first, last) for pieces that cover range(n_items), on several threads if `parallel`."""
    n_threads = thread_count() if parallel else 1
    n_pieces = min(n_items, n_threads * PIECES_PER_THREAD)
    if n_threads == 1 or n_pieces < 2:
        if n_items:
            work(0, n_items)
        return
    pieces = itertools.count()

    def take_pieces() -> None:
        # next() on a counter is one step of the interpreter: no two threads get the same piece.
        while (piece := next(pieces)) < n_pieces:
            work(piece * n_items // n_pieces, (piece + 1) * n_items // n_pieces)

    # A forked child does not inherit threads: the process is part of the pool's name.
    pool = _pool(n_threads - 1, os.getpid())
    helpers = [pool.submit(take_pieces) for _ in range(n_threads - 1)]
    try:
        take_pieces()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()
