"""Arrays that a device is to compute later, for whoever may be given one: see `kernels.cuda.lazy`."""

from __future__ import annotations

from typing import Any

from gpuspike.kernels import Array


def computed(label: str, array: Array) -> Array:
    """The array, if it is one that a device is to compute later computed now.

    Args:
        label: a word for what is computed.
    """
    waiting: Any = array
    return waiting.now(label) if hasattr(waiting, "computed_later") else array


def later(kernels: Any, array: Array) -> Array:
    """The array, of a device as one with which arithmetic waits, to be one kernel.

    Args:
        kernels: of the backend where it is.
    """
    return kernels.later(array) if hasattr(kernels, "later") else array


def kept(array: Array) -> Array:
    """The array, if it is computed later one that is written down by whatever computes it first."""
    waiting: Any = array
    return waiting.keep() if hasattr(waiting, "computed_later") else array
