"""Which backend computes, and which array module belongs to an array."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpuspike.errors import BackendError, DtypeError

BACKENDS = ("auto", "cuda", "cpu", "reference")


@dataclass(frozen=True)
class Backend:
    """A backend that can be used on this machine.

    Attributes:
        name: "cpu" (Numba) or "reference" (the oracle: slow, float64 inside).
        device: the device in words, for the report.
    """

    name: str
    device: str


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may use, which a scheduler can make fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def select(name: str) -> Backend:
    """The backend of that name; "auto" takes the fastest one that this machine can run.

    Raises:
        BackendError: an unknown name, or a device that is not there. There is no silent fall-back.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "cuda":
        raise BackendError(
            f"backend=cuda needs a CUDA device and gpuspike's CUDA kernels, got: {_why_no_cuda()}"
        )
    device = f"{_cpu_name()}, {usable_cores()} cores"
    return Backend("reference" if name == "reference" else "cpu", device)


def _why_no_cuda() -> str:
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        cupy = importlib.import_module("cupy")
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # CuPy raises many kinds; each one's own words say most
        return f"CuPy cannot reach a device ({type(error).__name__}: {error})".replace("\n", " ")
    if count == 0:
        return "CuPy finds no CUDA device"
    return f"{count} device(s), but this version has no CUDA kernels: use backend=cpu"


def array_module(**arrays: Any) -> ModuleType:
    """The module (NumPy or CuPy) that all the named arrays belong to.

    CuPy is looked at only if the caller has imported it: an array of its cannot exist otherwise.

    Raises:
        DtypeError: something that is no array, or a mixture of NumPy and CuPy.
    """
    cupy = sys.modules.get("cupy")
    modules: dict[str, ModuleType] = {}
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray):
            raise DtypeError(f"{name} must not be masked: no spike is inf, got a MaskedArray")
        if isinstance(array, np.ndarray):
            modules[name] = np
        elif cupy is not None and isinstance(array, cupy.ndarray):
            modules[name] = cupy
        else:
            raise DtypeError(f"{name} must be a NumPy or CuPy array, got {type(array).__name__}")
    if len(set(modules.values())) > 1:
        kinds = ", ".join(f"{name}: {module.__name__}" for name, module in modules.items())
        raise DtypeError(f"arrays must all be NumPy or all CuPy, got {kinds}")
    return next(iter(modules.values()))
