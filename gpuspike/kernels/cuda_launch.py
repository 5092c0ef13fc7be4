"""How kernels are compiled and their arguments checked, for the modules that launch them through CuPy."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.errors import BackendError, DtypeError, ShapeError
from gpuspike.kernels import cuda_source as src

Array = Any
"""A cupy.ndarray: CuPy need not be there when types are checked."""


@cache
def elementwise(kernel: src.Elementwise) -> Any:
    """A kernel that runs one operation a thread; compiled at its first call."""
    return cupy_module().ElementwiseKernel(
        kernel.in_params,
        kernel.out_params,
        kernel.operation,
        kernel.name,
        preamble=src.source(),
        options=src.OPTIONS,
    )


@cache
def block_kernel(name: str, dtype: np.dtype[Any], regime: int) -> Any:
    """A kernel whose threads work together; see `cuda_source.block_kernels`."""
    names = src.block_kernels(dtype, regime)
    return _module(dtype, regime).get_function(names[name])


@cache
def _module(dtype: np.dtype[Any], regime: int) -> Any:
    names = tuple(src.block_kernels(dtype, regime).values())
    return cupy_module().RawModule(code=src.source(), options=src.OPTIONS, name_expressions=names)


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
    """Refuses what a kernel would read wrongly: another module, device, dtype or shape, or strides."""
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


@lru_cache(maxsize=256)
def on_device(data: bytes, dtype: str, shape: tuple[int, ...], device: int) -> Array:
    """Parameters, sent to a device once."""
    del device
    return send(np.frombuffer(data, dtype).reshape(shape))


def send(values: np.ndarray[Any, Any]) -> Array:
    """A copy on the current device, in the memory of all: it may outlive the pool of a training."""
    cupy = cupy_module()
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        return cupy.asarray(values.copy())
