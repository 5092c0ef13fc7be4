"""Decisions on a device: all layers of a network in one launch, a sample in one block; see `deciding.cu`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import cupy_module
from gpuspike.kernels.constants import MIXED
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda.call import Array, Call, check, constant, decision_kernel, elementwise
from gpuspike.kernels.unit import times, unit
from gpuspike.neuron import LIF

MOST_WARPS = 4
"""Of a block, as in `deciding.cu`."""

ROOM = (48 << 10) - 128
"""Bytes of shared memory that every device gives a block, less what the kernel has beside them."""


class Shape(NamedTuple):
    """What a block needs room for.

    Attributes:
        most: events of a layer at most;  padded: filled up to a power of two;  n_all: neurons of all layers.
        room: bytes of shared memory.
    """

    most: int
    padded: int
    n_all: int
    room: int


def _shape(weights: Sequence[Array]) -> Shape:
    most, n_all = max(w.shape[1] for w in weights), sum(w.shape[2] for w in weights)
    padded, real = 1 << (most - 1).bit_length(), weights[0].dtype.itemsize
    # Events and carries; sums and spikes; sorted times with their inputs; ends, and where layers are.
    room = (7 * real + 4) * most + 3 * real * n_all + (real + 4) * padded + 4 * len(weights)
    return Shape(most, padded, n_all, room)


def decides(weights: Sequence[Array], neurons: Sequence[LIF]) -> bool:
    """Whether `decide` takes a network: its layers fit into a block's memory, and are of one regime.

    Args:
        weights: of each layer (n_replica, n_pre, n_post), on the host or the device.
    """
    if not weights or any(w.size == 0 for w in weights):
        return False
    regimes = {unit(neuron, w).regime for neuron, w in zip(neurons, weights, strict=True)}
    return len(regimes) == 1 and MIXED not in regimes and _shape(weights).room <= ROOM


def decide(
    t_in: Array,
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    bias_times: Sequence[Sequence[float]],
    until: float,
    looks: Sequence[float] = (),
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """The first output spikes, with inputs presented up to a time, and the rest where that did not decide.

    Args:
        t_in: (n_samples, n_pre) the first layer's input, its bias spikes included, on the device.
        weights: of each layer (n_replica, n_pre, n_post), on the device;  neurons: see `decides`.
        looks: what processors look at in between; a device does not.

    Returns:
        On the host (n_replica, n_samples) classes, -1 for none, and times; and (n_replica, n_samples, 2) how
        many input spikes were presented and how many pair-events met: none of them twice.

    Raises:
        DtypeError, ShapeError, BackendError: an array that is not CuPy's, contiguous and on this device.
    """
    del looks
    told, decided_at = launch(t_in, weights, neurons, bias_times, until)
    told, decided_at = told.get(), decided_at.get()
    return told[..., 0].copy(), decided_at, told[..., 1:].copy()


def launch(
    t_in: Array,
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    bias_times: Sequence[Sequence[float]],
    until: float,
) -> tuple[Array, Array]:
    """What `decide` returns, on the device: (n_replica, n_samples, 3) all integers, and the times."""
    cupy = cupy_module()
    units = [unit(neuron, w) for neuron, w in zip(neurons, weights, strict=True)]
    call, shape = Call.of(t_in[None], weights[0], units[0]), _shape(weights)
    places, n_received, n_bias, n_neurons, n_weights, n_parts = [], t_in.shape[1], 0, 0, 0, 0
    for number, (w, late) in enumerate(zip(weights, bias_times, strict=True)):
        n_post, own = w.shape[2], len(late) if number else 0  # the first layer's are in t_in
        check(call.dtype, {f"weights[{number}]": (w, (call.n_replica, n_received + own, n_post))})
        a_thread = src.neurons_a_thread(n_post, src.MANY)
        places.append((n_received, own, n_post, a_thread, n_bias, n_neurons, n_weights, n_parts))
        n_received, n_bias, n_neurons = n_post, n_bias + own, n_neurons + n_post
        n_weights, n_parts = n_weights + w.size, n_parts + len(w) * src.PARTS * n_post
    told = cupy.empty((call.n_replica, call.n_batch, 3), np.int64)
    decided_at = cupy.empty((call.n_replica, call.n_batch), call.dtype)
    if call.empty:
        return told, decided_at
    # The last neurons of a tile may not be there: they read on behind the weights, and behind their sums.
    beyond = cupy.zeros(src.LANES * src.NEURONS_A_THREAD, call.dtype)
    parts = cupy.empty(n_parts + src.PARTS * beyond.size, call.dtype)
    scaled = [times(w, one.per_drive, constant) for w, one in zip(weights, units, strict=True)]
    everything = cupy.concatenate([*(w.ravel() for w in scaled), beyond])
    constants = [one.constants(call.dtype) for one in units]
    numbers = [(c.tau_slow, c.tau_fast, c.rate, c.drive, c.reach) for c in constants]
    told_places = constant(places, np.int64, lasting=True)
    elementwise(src.PARTS_OF_LAYERS)(
        len(weights), call.n_replica, told_places, everything, parts, size=parts.size
    )
    bias = [time for late in bias_times[1:] for time in late]
    tiles = max(-(-place[2] // (src.LANES * place[3])) for place in places)
    decision_kernel(call.dtype, units[0].regime)(
        (call.n_replica * call.n_batch,), (src.LANES * min(tiles, MOST_WARPS),),
        (
            *map(np.int32, (call.n_batch, len(weights), t_in.shape[1] - len(bias_times[0]), *shape[:3])),
            np.float64(np.nextafter(until, np.inf)), told_places,
            constant(numbers, np.float64, lasting=True), constant(bias or [0.0], call.dtype, lasting=True),
            t_in, everything, parts, told, decided_at,
        ),
        shared_mem=shape.room,
    )  # fmt: skip
    return told, decided_at
