"""What the GPU that emulates draws, where its driver tells (NVML, package nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from gpuspike.backend import cupy_module


class GpuEnergy:
    """Joules that a GPU has drawn between entering and leaving, other users' work included.

    Attributes:
        joules: None where nothing can be read: another backend, no NVML, or a GPU without an energy counter.
    """

    def __init__(self, backend: str) -> None:
        self.joules: float | None = None
        self._read = _counter() if backend == "cuda" else None

    def __enter__(self) -> GpuEnergy:
        self._before = None if self._read is None else self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._read is not None and self._before is not None:
            after = self._read()
            self.joules = None if after is None else after - self._before


def _counter() -> Callable[[], float | None] | None:
    """Reads the joules that the device in use has drawn since its driver was loaded."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        # NVML counts all devices of the machine, CUDA those that it may see: the bus tells them apart.
        bus = cupy_module().cuda.Device().pci_bus_id
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus.encode())
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # a missing package, driver, permission or counter: each says so in its own way
        return None

    def read() -> float | None:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000.0  # mJ
        except pynvml.NVMLError:
            return None

    return read
