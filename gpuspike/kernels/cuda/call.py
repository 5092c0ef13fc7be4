"""What a call of the CUDA backend's kernels is checked for, and the constants that its kernels take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.errors import BackendError, DtypeError, ShapeError
from gpuspike.kernels.constants import Own, own
from gpuspike.kernels.cuda import source as src
from gpuspike.neuron import LIF

Array = Any
"""A cupy.ndarray: CuPy need not be there when types are checked."""


def refuse_foreign(**arrays: Array) -> None:
    """Refuses arrays on another device than the current one.

    Raises:
        BackendError: the array's name, and both devices.
    """
    device = cupy_module().cuda.Device().id
    for name, array in arrays.items():
        if array.device.id != device:
            raise BackendError(
                f"{name} must be on the current device, {device}, got device {array.device.id}"
            )


def check(dtype: Any, arrays: dict[str, tuple[Array, tuple[int, ...]]]) -> None:
    """Refuses what a kernel would read wrongly: another module, device, dtype or shape, or strides.

    Raises:
        DtypeError, ShapeError, BackendError: what was expected, and what was got.
    """
    cupy = cupy_module()
    for name, (array, shape) in arrays.items():
        if not isinstance(array, cupy.ndarray):
            raise DtypeError(f"{name} must be a CuPy array, got {type(array).__name__}")
        if array.dtype != dtype:
            raise DtypeError(f"{name} must be {np.dtype(dtype)}, got {array.dtype}")
        if array.shape != shape:
            raise ShapeError(f"{name} must have shape {shape}, got {array.shape}")
        refuse_foreign(**{name: array})
        if not array.flags.c_contiguous:
            raise ShapeError(f"{name} must be C-contiguous, got strides {array.strides}")
        if max(shape, default=0) >= 1 << 31:
            raise ShapeError(f"{name} must have axes shorter than 2**31, got shape {shape}")


@dataclass(frozen=True)
class Call:
    """Sizes and constants of one call, in the types that kernels take."""

    neuron: LIF
    dtype: np.dtype[Any]
    n_in_replicas: int
    n_replica: int
    n_batch: int
    n_pre: int
    n_post: int
    own: Own | None

    @classmethod
    def of(cls, t_in: Array, weights: Array, neuron: LIF) -> Call:
        """The sizes of a layer whose arrays fit each other.

        Raises:
            DtypeError, ShapeError, BackendError: what was expected, and what was got.
        """
        cupy = cupy_module()
        if not isinstance(t_in, cupy.ndarray) or not isinstance(weights, cupy.ndarray):
            kinds = f"{type(t_in).__name__} and {type(weights).__name__}"
            raise DtypeError(f"t_in and weights must be CuPy arrays, got {kinds}")
        if weights.dtype not in (np.float32, np.float64):
            raise DtypeError(f"weights must be float32 or float64, got {weights.dtype}")
        if t_in.ndim != 3 or weights.ndim != 3:
            raise ShapeError(
                f"t_in and weights must have 3 axes, got shapes {t_in.shape} and {weights.shape}"
            )
        n_replica, n_pre, n_post = weights.shape
        n_in_replicas, n_batch = t_in.shape[:2]
        if n_pre * n_post >= 1 << 31:
            raise ShapeError(f"one replica must have fewer than 2**31 weights, got {n_pre} x {n_post}")
        if n_in_replicas not in (1, n_replica):
            raise ShapeError(f"t_in must have 1 or {n_replica} replicas, got {n_in_replicas}")
        check(
            weights.dtype,
            {"t_in": (t_in, (n_in_replicas, n_batch, n_pre)), "weights": (weights, weights.shape)},
        )
        parameters = None if neuron.uniform else own(neuron, n_replica, n_post)
        return cls(
            neuron, np.dtype(weights.dtype), n_in_replicas, n_replica, n_batch, n_pre, n_post, parameters
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing that a kernel could do."""
        return 0 in (self.n_replica, self.n_batch, self.n_pre, self.n_post)

    @property
    def unit(self) -> LIF:
        """The neuron whose constants the kernels take."""
        return self.neuron if self.own is None else self.own.unit

    @property
    def regime(self) -> int:
        """The kernels that the time constants need, as in `cuda.source`."""
        if self.own is not None and self.own.taus is not None:
            return src.MIXED
        slow, fast = self.unit.tau_slow, self.unit.tau_fast
        if slow == fast:
            return src.EQUAL
        if slow == 2.0 * fast:
            return src.DOUBLE
        return src.NON_LEAKY if math.isinf(slow) else src.GENERAL

    @property
    def taus(self) -> tuple[float, float, float]:
        """tau_slow, tau_fast and the difference of their rates."""
        return self.unit.tau_slow, self.unit.tau_fast, self.unit.rate_difference

    @property
    def tangent(self) -> float:
        """Slope, in (threshold - leak)/tau_fast, up to which a crossing is tangential."""
        return 16.0 * float(np.finfo(self.dtype).eps)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Of the spike times: (n_replica, n_batch, n_post)."""
        return self.n_replica, self.n_batch, self.n_post

    def own_taus(self) -> Array:
        """(n_replica, n_post, 2) time constants on the device; a stand-in where all neurons share them."""
        if self.own is None or self.own.taus is None:
            return on_device(b"\0" * 16, "float64", (1, 1, 2), cupy_module().cuda.Device().id)
        return self._own("taus", np.dtype(np.float64))

    def own_factor(self, name: str) -> Array:
        """`drive`, `span` or `capacitance` of every neuron, (n_replica, 1, n_post)."""
        return self._own(name, self.dtype)

    def _own(self, name: str, dtype: np.dtype[Any]) -> Array:
        values = getattr(self.own, name).astype(dtype)
        return on_device(values.tobytes(), dtype.name, values.shape, cupy_module().cuda.Device().id)


@cache  # not a bounded one: captured graphs hold the addresses
def on_device(data: bytes, dtype: str, shape: tuple[int, ...], device: int) -> Array:
    """Parameters, sent to a device once."""
    del device
    return send(np.frombuffer(data, dtype).reshape(shape))


def send(values: np.ndarray[Any, Any]) -> Array:
    """A copy on the current device, in the memory of all: it may outlive the pool of a training."""
    cupy = cupy_module()
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        sent = cupy.asarray(values.copy())
    cupy.cuda.get_current_stream().synchronize()  # other streams will read it
    return sent
