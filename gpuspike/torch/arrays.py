"""Tensors as the arrays that kernels take, and back: the same memory, on torch's current stream."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpuspike.backend import cupy_module
from gpuspike.errors import BackendError, DtypeError

HALF = (torch.float16, torch.bfloat16)

AT_MOST_S = 5.0
"""That the end of a process waits for helpers."""


def on_arrays(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """What a function of arrays answers, an array or several, as tensors.

    It is given NumPy's views of tensors on the CPU, CuPy's of those on a CUDA device. CuPy then computes on
    torch's current stream and takes its memory from torch's allocator, so that nothing waits and no second
    pool holds memory back.

    Raises:
        BackendError: CuPy is not installed, or cannot be imported.
    """
    device = device_of(tensors[0])
    if device.type == "cpu":
        return _tensors(function(*[tensor.detach().numpy() for tensor in tensors]), torch.from_numpy)
    cupy: Any = cupy_module()
    cuda = cupy.cuda
    stream = torch.cuda.current_stream(device).cuda_stream
    allocator = cuda.PythonFunctionAllocator(_allocate, _free)
    with cuda.Device(device.index), cuda.ExternalStream(stream), cuda.using_allocator(allocator.malloc):
        return _tensors(
            function(*[cupy.from_dlpack(tensor.detach()) for tensor in tensors]), torch.from_dlpack
        )


@atexit.register
def _settle() -> None:
    """Waits at exit until no helper of the CPU kernels holds an array that is a tensor's.

    A helper looks out for the next job for a millisecond, with the arrays of the last one in its hands. It
    would let go of them when the interpreter is about to end, and PyTorch aborts a process whose thread does.
    """
    team: Any = sys.modules.get("gpuspike.kernels.cpu.team")
    teams = [] if team is None else [one for (_, pid), one in team._teams.items() if pid == os.getpid()]
    last = time.monotonic() + AT_MOST_S
    while not all(all(one._asleep) for one in teams) and time.monotonic() < last:
        time.sleep(1e-3)


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor is."""
    return tensor.device


def _tensors(found: Any, tensor_of: Callable[[Any], Tensor]) -> Any:
    if isinstance(found, tuple):
        return tuple(None if array is None else tensor_of(array) for array in found)
    return tensor_of(found)


def _allocate(size: int, device: int) -> int:
    stream: Any = cupy_module().cuda.get_current_stream()
    return torch.cuda.caching_allocator_alloc(size, device, stream.ptr)


def _free(pointer: int, device: int) -> None:
    del device
    torch.cuda.caching_allocator_delete(pointer)


def checked(**tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of spike times and weights: of one dtype, on one device.

    Under autocast, half precision becomes float32: autocast chooses that for what it knows to be slow, and
    spike times with three digits would have lost their order. float32 and float64 stay.

    Raises:
        DtypeError, BackendError: what was expected and what was got.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise DtypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    first, *others = tensors
    device = tensors[first].device
    if device.type not in ("cpu", "cuda", "meta"):
        raise BackendError(f"{first} must be on the CPU or a CUDA device, got {device}")
    for name in others:
        if tensors[name].device != device:
            raise BackendError(
                f"{name} must be on the device of {first}, {device}, got {tensors[name].device}"
            )
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        tensors = {name: t.float() if t.dtype in HALF else t for name, t in tensors.items()}
    dtype = tensors[first].dtype
    for name, tensor in tensors.items():
        if tensor.dtype != dtype or dtype not in (torch.float32, torch.float64):
            like = "" if name == first else f" like {first} ({dtype})"
            raise DtypeError(f"{name} must be torch.float32 or torch.float64{like}, got {tensor.dtype}")
    return tuple(tensors.values())
