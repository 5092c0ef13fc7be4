"""The CUDA backend's device code on the CPU, built once a session."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[2] / "scripts"),
]  # helpers here, networks next door, and what drives NVIDIA's compiler

import device_on_cpu  # noqa: E402


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> Path:
    """The device code as a shared library."""
    if shutil.which("g++") is None:
        pytest.skip("building the device code for the CPU needs g++")
    return device_on_cpu.build(request.config.cache.mkdir("gpuspike_device"))


@pytest.fixture
def cupy(library: Path) -> Iterator[ModuleType]:
    """A stand-in for CuPy that runs the device code on the CPU."""
    with device_on_cpu.installed(library) as module:
        yield module
