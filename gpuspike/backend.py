"""Which backend computes, and which array module belongs to an array."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gpuspike.errors import BackendError, ConfigError, DtypeError

BACKENDS = ("auto", "cuda", "cpu", "reference")

ORACLE = (
    "backend=reference is the oracle, for checking: it trains about 100 times slower than backend=cpu, as "
    "measured with yin_yang on two cores; backend=auto takes the fastest that there is"
)
"""What is said where the oracle trains."""


@dataclass(frozen=True)
class Backend:
    """A backend that can be used on this machine.

    Attributes:
        name: "cuda", "cpu" (Numba) or "reference" (the oracle: slow, float64 inside).
        device: the device in words, for the report.
        note: why backend=auto takes no device although CuPy is installed; else empty.
        devices: numbers of the CUDA devices that were asked for, of which the first is the current one; else
            none, and it is the current one alone.
    """

    name: str
    device: str
    note: str = ""
    devices: tuple[int, ...] = ()


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
    """Cores this process may use, which a scheduler or a container can make fewer than the machine's."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    job = int(given) if given.isascii() and given.isdigit() else 0
    return min(limit for limit in (cores, job, _container_s_cores()) if limit > 0)


@cache
def _container_s_cores(root: str = "/") -> int:
    """Cores' worth of time that control groups leave this process, rounded up; 0: all there is.

    Source: kernel.org, "Control Group v2", cpu.max; "CFS Bandwidth Control" for version 1.
    """
    limits = []
    for line in _text(f"{root}proc/self/cgroup").splitlines():
        number, controllers, own = [*line.split(":", 2), "", ""][:3]
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        place = f"{root}sys/fs/cgroup" + ("" if number == "0" else "/cpu")
        parts = [part for part in own.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):  # a limit around it holds too
            at = "/".join([place, *parts[:depth]])
            quota, period = [*_text(f"{at}/cpu.max").split(), "", ""][:2]
            if number != "0":
                quota, period = (_text(f"{at}/cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
            if quota.isdigit() and period.isdigit() and int(period):
                limits.append(max(1, -(-int(quota) // int(period))))
    return min(limits, default=0)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def crowded() -> str | None:
    """What to say of more threads than cores, which wait for each other; None if there are not."""
    threads, cores = thread_count(), usable_cores()
    if threads <= cores:
        return None
    return (
        f"NUMBA_NUM_THREADS={threads} is more than the {cores} cores that this process may use, which is "
        f"many times slower than {cores} threads"
    )


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


def select(
    name: str, *, host_only: str = "", devices: str | Sequence[int] | None = None, most: int | None = None
) -> Backend:
    """The backend of that name; "auto" takes the fastest one that this machine can run, which callers print.

    Args:
        host_only: what is asked for and a device cannot, "an emulated chip", so that "auto" asks none.
        devices: numbers of CUDA devices, of which the first becomes the current one, or "all" of them; None:
            the current one, but for what others that were named before have made of it.
        most: of all devices.

    Raises:
        BackendError: an unknown name, a device that is not there or cannot what is asked for, with the reason
            and the remedy. There is no silent fall-back.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    note = ""
    if devices is not None:
        if name not in ("auto", "cuda"):
            raise BackendError(
                f"devices={_told(devices)} needs backend=cuda, got {name}; devices=null leaves them out"
            )
        name = "cuda"
    if host_only and name == "auto":
        name = "cpu"
    if name in ("cuda", "auto"):
        problem = cuda_problem()
        if problem is None and not host_only:
            numbers = () if devices is None else _numbers(devices)[:most]
            _make_current(numbers)
            return Backend("cuda", device_name(*numbers), devices=numbers)
        if problem is None:
            got = "cuda" if devices is None else f"devices={_told(devices)}"
            raise BackendError(
                f"{host_only} needs backend=cpu or reference, got {got}: the device's step knows none yet"
            )
        if name == "cuda":
            raise BackendError(f"backend=cuda needs a CUDA device, got: {problem.text}")
        note = "" if problem.kind == "no CuPy" else problem.text
    device = f"{_cpu_name()}, {usable_cores()} cores"
    return Backend("reference" if name == "reference" else "cpu", device, note)


def cupy_module() -> ModuleType:
    """CuPy, imported now.

    Raises:
        BackendError: it is not installed, or cannot be imported: two different messages.
    """
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        raise BackendError(f"CuPy is not installed: {remedy()}")
    if not _writable(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")):
        os.environ.setdefault("CUPY_CACHE_IN_MEMORY", "1")  # where CuPy cannot keep kernels it would end
    try:
        return importlib.import_module("cupy")
    except Exception as error:  # a broken installation raises what it likes; its own words say most
        raise BackendError(
            f"CuPy is installed but cannot be imported ({_words(error)}): uninstall every cupy package that "
            f"`pip list` shows, then {remedy()}"
        ) from error


def _writable(folder: str) -> bool:
    """Whether a folder can be written, or made."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK)


class Problem(NamedTuple):
    """Why no CUDA device can be used.

    Attributes:
        kind: "no CuPy", "broken CuPy", "no driver", "old driver", "no device" or "unknown".
        text: the reason and the remedy, in one line.
    """

    kind: str
    text: str


def cuda_problem() -> Problem | None:
    """What keeps a CUDA device from being used; None where nothing does."""
    try:
        runtime = cupy_module().cuda.runtime
    except BackendError as error:
        return Problem("broken CuPy" if error.__cause__ else "no CuPy", str(error))
    try:
        count = int(runtime.getDeviceCount())
    except Exception as error:  # CuPy raises many kinds; each one's own words say most
        driver = driver_cuda()
        if driver is None:
            return Problem(
                "no driver",
                f"no NVIDIA driver answers ({_words(error)}): install one for CUDA 12 or newer "
                "(https://www.nvidia.com/drivers); in a container, start it with the host's GPUs",
            )
        built_for = _built_for(runtime)
        if built_for is not None and driver < (built_for, 0):
            has = f"the NVIDIA driver is too old: it serves CUDA {driver[0]}.{driver[1]}"
            has += f", CuPy needs {built_for}"
            if driver[0] >= OLDEST_CUDA:
                return Problem("old driver", f"{has}: uninstall CuPy, then {remedy()}, or update the driver")
            update = f"update the driver to one for CUDA {OLDEST_CUDA} or newer"
            return Problem("old driver", f"{has}: {update}, then {remedy()}")
        if "NoDevice" not in str(error):
            return Problem("unknown", f"CuPy cannot reach a device ({_words(error)}): run gpuspike-doctor")
        count = 0
    if count == 0:
        text = "CuPy finds no CUDA device: see `nvidia-smi`, and CUDA_VISIBLE_DEVICES"
        return Problem("no device", text)
    return None


def device_count() -> int:
    """CUDA devices that this process may use."""
    return 0 if cuda_problem() is not None else int(cupy_module().cuda.runtime.getDeviceCount())


def take_turns(number: int) -> None:
    """Has a job of a number, side by side with others, compute on its one of several devices."""
    if (count := device_count()) > 1:
        _first[:] = [number % count]


_first: list[int] = []
"""The device where what names none computes, once another has been made the current one."""


def _make_current(numbers: Sequence[int]) -> None:
    """Has the first of some devices compute from now on; none: the one that did before any was named."""
    if numbers and not _first:
        _first.append(int(cupy_module().cuda.runtime.getDevice()))
    for number in (*numbers, *_first)[:1]:
        cupy_module().cuda.Device(number).use()


def _numbers(devices: str | Sequence[int]) -> tuple[int, ...]:
    count = device_count()
    if devices == "all":
        return tuple(range(count))
    numbers = tuple(int(number) for number in devices)
    if min(numbers) < 0 or max(numbers) >= count:
        have = f"0 to {count - 1}" if count > 1 else "0 alone"
        raise BackendError(f"devices must be among those of this machine, {have}, got {_told(numbers)}")
    return numbers


def _told(devices: str | Sequence[int]) -> str:
    return devices if isinstance(devices, str) else f"[{','.join(map(str, devices))}]"


def device_name(*numbers: int) -> str:
    """CUDA devices in words: the current one, unless others are given."""
    runtime = cupy_module().cuda.runtime
    numbers = numbers or (int(runtime.getDevice()),)
    each: dict[str, list[int]] = {}
    for number in numbers:
        name = runtime.getDeviceProperties(number)["name"]
        each.setdefault(name.decode() if isinstance(name, bytes) else str(name), []).append(number)
    version = int(runtime.runtimeGetVersion())
    cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
    told = [
        f"{name} (device{'s' if len(of) > 1 else ''} {', '.join(map(str, of))}, {cuda})"
        for name, of in each.items()
    ]
    return ", ".join(told)


OLDEST_CUDA = 12
"""Oldest CUDA for which there is an extra to install."""


def remedy() -> str:
    """The command that installs CuPy for this machine's driver."""
    driver = driver_cuda()
    if driver is None:
        return "pip install 'gpuspike[cuda12]' (or [cuda13], where the driver is for CUDA 13)"
    return f"pip install 'gpuspike[cuda{13 if driver[0] >= 13 else OLDEST_CUDA}]'"


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the installed driver serves, or None where there is no driver to be seen."""
    version = ctypes.c_int(0)
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value > 0:
                return version.value // 1000, version.value % 1000 // 10
        except (OSError, AttributeError):
            continue
    try:
        command = ["nvidia-smi"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def _built_for(runtime: Any) -> int | None:
    """The CUDA generation that CuPy is built for."""
    try:
        return int(runtime.runtimeGetVersion()) // 1000
    except Exception:  # a CuPy without its libraries cannot say
        return None


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def array_module(**arrays: Any) -> ModuleType:
    """The module (NumPy or CuPy) that all the named arrays belong to.

    CuPy is looked at only if the caller has imported it: an array of its cannot exist otherwise.

    Raises:
        DtypeError: something that is no array, a masked one, a matrix, or a mixture of NumPy and CuPy.
    """
    cupy = sys.modules.get("cupy")
    modules: dict[str, ModuleType] = {}
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray):
            raise DtypeError(f"{name} must not be masked: no spike is inf, got a MaskedArray")
        if isinstance(array, np.matrix):  # keeps two axes whatever is asked of it
            raise DtypeError(f"{name} must be a NumPy array, got a matrix; np.asarray({name}) is one")
        if cupy is not None and (isinstance(array, cupy.ndarray) or hasattr(array, "computed_later")):
            modules[name] = cupy
        elif isinstance(array, np.ndarray):
            modules[name] = np
        else:
            raise DtypeError(f"{name} must be a NumPy or CuPy array, got {type(array).__name__}")
    if len(set(modules.values())) > 1:
        kinds = ", ".join(f"{name}: {module.__name__}" for name, module in modules.items())
        raise DtypeError(f"arrays must all be NumPy or all CuPy, got {kinds}")
    return next(iter(modules.values()))
