"""The stand-in for a device's threads: what a race or a barrier that some miss looks like there."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device_on_cpu import SHIM
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

N_THREADS = 96

KERNELS = """
#include "{shim}"
__global__ void neighbours(int* out) {
    __shared__ int seen[96];
    seen[threadIdx.x] = int(threadIdx.x);
    BARRIER
    out[threadIdx.x] = seen[(threadIdx.x + 1) % 96];
    __syncthreads();
    seen[threadIdx.x] = -1;
}
__global__ void some_leave(int* out) {
    if (threadIdx.x < 40) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void some_lanes_leave(int* out) {
    if (threadIdx.x == 40) return;
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void warps(int* out) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = int(threadIdx.x);
    for (int turn = 0; turn <= warp; ++turn) {  // warps wait at barriers of their own
        sum = int(threadIdx.x);
        for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    }
    const unsigned odd = __ballot_sync(0xffffffffu, lane % 2 == 1);
    out[threadIdx.x] = sum + __shfl_sync(0xffffffffu, lane, 7) + (odd == 0xaaaaaaaau ? 1000 : 0);
}
__global__ void behind(int* out) {
    out[threadIdx.x] = shim::room[threadIdx.x] = 1;  // the launch tells of 64 bytes
}
extern "C" int run(int which, void** args) {
    void (*kernels[])(int*) = {neighbours, some_leave, some_lanes_leave, warps, behind};
    return shim::launch(kernels[which], 1, 96, 64, args, "i");
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], tuple[int, NDArray[Any]]]:
    """Runs the kernel of a number, with a barrier or without."""
    folder = tmp_path_factory.mktemp("shim")
    libraries: dict[str, ctypes.CDLL] = {}

    def call(which: int, barrier: str = "__syncthreads();") -> tuple[int, NDArray[Any]]:
        if barrier not in libraries:
            unit, built = folder / f"{len(libraries)}.cpp", folder / f"{len(libraries)}.so"
            unit.write_text(KERNELS.replace("{shim}", str(SHIM)).replace("BARRIER", barrier))
            subprocess.run(
                ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", str(unit), "-o", str(built)], check=True
            )
            libraries[barrier] = ctypes.CDLL(str(built))
        out = np.full(N_THREADS, -2, np.int32)
        pointer = ctypes.c_void_p(out.ctypes.data)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(pointer))
        return libraries[barrier].run(which, arguments), out

    return call


def test_a_race_shows_in_the_numbers(run: Any) -> None:
    expected = (np.arange(N_THREADS) + 1) % N_THREADS
    for _ in range(5):
        status, out = run(0)
        assert status == 0
        np.testing.assert_array_equal(out, expected)
    racing = [run(0, "")[1] for _ in range(5)]
    assert all((out != expected).any() for out in racing)
    assert len({out.tobytes() for out in racing}) > 1  # in another order each time


@pytest.mark.parametrize("which", [1, 2])
def test_a_barrier_that_some_threads_miss_is_told(run: Any, which: int) -> None:
    assert run(which)[0] == 2


def test_the_lanes_of_a_warp_see_each_other(run: Any) -> None:
    status, out = run(3)
    assert status == 0
    sums = np.arange(N_THREADS).reshape(3, 32).sum(axis=1)
    np.testing.assert_array_equal(out, np.repeat(sums, 32) + 7 + 1000)


def test_more_shared_memory_than_was_told_of_is_told(run: Any) -> None:
    assert run(4)[0] == 3
