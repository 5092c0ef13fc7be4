"""How many threads the CPU kernels use."""

from __future__ import annotations

import os

from gpuspike.backend import usable_cores
from gpuspike.errors import ConfigError


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
