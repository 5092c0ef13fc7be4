"""Arrays that a device is to compute later, for whoever may be given one: see `kernels.cuda.lazy`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuspike.backend import array_module
from gpuspike.kernels import Array
from gpuspike.neuron import LIF


def computed(label: str, array: Array) -> Array:
    """The array, if it is one that a device is to compute later computed now.

    Args:
        label: a word for what is computed.
    """
    waiting: Any = array
    return waiting.now(label) if hasattr(waiting, "computed_later") else array


def later(kernels: Any, array: Array, shape: tuple[int, ...] | None = None) -> Array:
    """The array, of a device as one with which arithmetic waits, to be one kernel.

    Args:
        kernels: of a backend; what they have for a device is not for arrays on the host.
        shape: that it is repeated to; its own unless given.
    """
    if array_module(array=array) is not np:
        return kernels.later(array, shape)
    return array if shape is None else np.broadcast_to(array, shape).copy()


def where(kernels: Any, neuron: LIF, array: Array) -> LIF:
    """The neurons as constants of them can be replaced by such arrays, where an array is on a device."""
    return neuron if array_module(array=array) is np else kernels.neurons_there(neuron)


def kept(array: Array) -> Array:
    """The array, if it is computed later one that is written down by whatever computes it first."""
    waiting: Any = array
    return waiting.keep() if hasattr(waiting, "computed_later") else array
