"""What a call of the CUDA backend's kernels is checked for, what it sends, and how they are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import cupy_module
from gpuspike.errors import BackendError, DtypeError, ShapeError
from gpuspike.kernels.constants import Constants
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.unit import Unit

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

    unit: Unit
    dtype: np.dtype[Any]
    n_in_replicas: int
    n_replica: int
    n_batch: int
    n_pre: int
    n_post: int

    @classmethod
    def of(cls, t_in: Array, weights: Array, unit: Unit) -> Call:
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
        return cls(unit, np.dtype(weights.dtype), n_in_replicas, n_replica, n_batch, n_pre, n_post)

    @property
    def empty(self) -> bool:
        """Whether there is nothing that a kernel could do."""
        return 0 in (self.n_replica, self.n_batch, self.n_pre, self.n_post)

    @property
    def constants(self) -> Constants:
        """Of the neurons, but for time constants that they do not share."""
        return self.unit.constants(self.dtype)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Of the spike times: (n_replica, n_batch, n_post)."""
        return self.n_replica, self.n_batch, self.n_post

    def own_taus(self) -> Array:
        """(n_replica, n_post, 2) time constants on the device; a stand-in where all neurons share them."""
        taus: Any = self.unit.taus
        if isinstance(taus, cupy_module().ndarray):
            return taus
        return constant(np.zeros((1, 1, 2)) if taus is None else taus, np.float64, lasting=taus is None)


def constant(values: Any, dtype: Any, *, lasting: bool = False) -> Array:
    """Parameters on the current device, sent there once.

    Args:
        values: of the host; those of the device are there, of that type.
        lasting: they come again even where others are `passing`.
    """
    if isinstance(values, cupy_module().ndarray):
        return values
    array = np.asarray(values, dtype)
    if _PASSING and not lasting:
        return _sent(array)
    return on_device(array.tobytes(), array.dtype.name, array.shape, cupy_module().cuda.Device().id)


_PASSING: list[bool] = []


@contextmanager
def passing() -> Iterator[None]:
    """Parameters that are sent in here will not come again, as those of a chip of one step: none is kept."""
    _PASSING.append(True)
    try:
        yield
    finally:
        _PASSING.pop()


@cache  # not a bounded one: captured graphs hold the addresses
def on_device(data: bytes, dtype: str, shape: tuple[int, ...], device: int) -> Array:
    """The array with these bytes."""
    del device
    return _sent(np.frombuffer(data, dtype).reshape(shape).copy())


def _sent(array: NDArray[Any]) -> Array:
    """The array in the memory of all: it may outlive the pool of a training."""
    cupy = cupy_module()
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        sent = cupy.asarray(array)
    cupy.cuda.get_current_stream().synchronize()  # other streams will read it
    return sent


# --- how kernels are compiled ----------------------------------------------------------


@cache
def elementwise(kernel: src.Elementwise) -> Any:
    """A kernel that runs one operation a thread; compiled at its first call."""
    return cupy_module().ElementwiseKernel(
        kernel.in_params,
        kernel.out_params,
        kernel.operation,
        kernel.name,
        preamble=kernel.preamble,
        options=src.OPTIONS,
    )


@cache
def block_kernel(name: str, dtype: np.dtype[Any], regime: int) -> Any:
    """A kernel whose threads work together; see `cuda.source.block_kernels`."""
    names = src.block_kernels(dtype, regime)
    return _module(dtype, regime).get_function(names[name])


@cache
def forward_kernel(dtype: np.dtype[Any], regime: int, per_thread: int, lifted: bool) -> Any:
    """See `cuda.source.forward_instance`; compiled by itself: few of them are used together."""
    name = src.forward_instance(dtype, regime, per_thread, lifted)
    return _compiled((name,)).get_function(name)


@cache
def decision_kernel(dtype: np.dtype[Any], regime: int) -> Any:
    """See `cuda.source.decision_instance`; compiled by itself: no training needs it."""
    name = src.decision_instance(dtype, regime)
    return _compiled((name,)).get_function(name)


@cache
def _module(dtype: np.dtype[Any], regime: int) -> Any:
    return _compiled(tuple(src.block_kernels(dtype, regime).values()))


def _compiled(names: tuple[str, ...]) -> Any:
    return cupy_module().RawModule(code=src.source(), options=src.OPTIONS, name_expressions=names)


def forget() -> None:
    """Forgets kernels that were compiled and numbers that lie on a device: another CuPy has none of them."""
    for cached in (elementwise, block_kernel, forward_kernel, decision_kernel, _module, on_device):
        cached.cache_clear()
