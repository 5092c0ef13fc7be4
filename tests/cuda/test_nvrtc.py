"""Every instance of every kernel compiled for every generation of devices, without one."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import device_on_cpu
import numpy as np
import nvrtc
import pytest

from gpuspike.kernels import cuda
from gpuspike.kernels.cuda import deciding
from gpuspike.kernels.cuda import source as src

DTYPES = ("float32", "float64")
HOT = ("first_spike", "first_decisions", "weights_gradient", "times_gradient")
INSTANCES = device_on_cpu.INSTANCES

pytestmark = pytest.mark.skipif(
    not nvrtc.compilers(), reason="NVIDIA's compiler is not installed: pip install nvidia-cuda-nvrtc-cu12"
)


def loop(kernel: src.Elementwise, dtype: str) -> str:
    """The operation in a kernel for plain pointers."""
    threads = "long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x"
    return (
        device_on_cpu.elementwise_code(kernel, dtype)
        .replace('extern "C" void', 'extern "C" __global__ void')
        .replace("ptrdiff_t i = 0", threads)
        .replace("++i", "i += (long long)gridDim.x * blockDim.x")
    )


@pytest.mark.parametrize(
    "arch", [*(pytest.param(arch, marks=pytest.mark.slow) for arch in (70, 80, 100)), 90]
)
def test_every_instance_compiles_without_a_warning_and_no_register_spills(arch: int) -> None:
    library = nvrtc.compiler_for(arch)
    if library is None:
        pytest.skip(f"no installed compiler knows sm_{arch}")
    text = src.source() + "".join(
        loop(kernel, dtype) for kernel in device_on_cpu.ELEMENTWISE for dtype in DTYPES
    )
    options = [*src.OPTIONS, f"--gpu-architecture=sm_{arch}"]
    compiled = nvrtc.compile_text(library, text, [*options, "--ptxas-options=-v"], INSTANCES)
    assert compiled.ok, compiled.log
    messages = [line for line in compiled.log.splitlines() if "error" in line or "warning" in line]
    messages = [line for line in messages if "Architectures prior to" not in line]  # sm_70's age
    assert messages == []
    resources = compiled.resources
    assert len(resources) == len(INSTANCES) + len(DTYPES) * len(device_on_cpu.ELEMENTWISE)
    assert {name: used for name, used in resources.items() if used[1]} == {}  # spilled bytes
    own = [
        int(re.search(r"(\d+) bytes smem", part)[1])  # type: ignore[index]
        for part in compiled.log.split("Compiling entry function '")
        if "first_decisions" in part.split("'")[0]
    ]
    assert own
    assert max(own) + deciding.ROOM <= 48 << 10  # what a block gets without being asked for more
    hot = {name: used for name, used in resources.items() if any(part in name for part in HOT)}
    assert len(hot) == len(device_on_cpu.FORWARD) + len(device_on_cpu.DECISIONS) + 2 * (2 + 2 * 5)
    assert {name: used for name, used in hot.items() if used[0]} == {}  # bytes of stack
    # Enough for four blocks of a forward pass on a multiprocessor: each warp has 16 loads on their way.
    forward = {name: used for name, used in hot.items() if "first_spikesIf" in name}
    assert len(forward) == len(device_on_cpu.FORWARD) // 2
    assert 0 < max(used[2] for used in forward.values()) <= 65536 // (4 * cuda.FORWARD_THREADS)
    decided = [used[2] for name, used in hot.items() if "first_decisionsIf" in name]
    assert 0 < max(decided) <= 65536 // (3 * src.LANES * deciding.MOST_WARPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", device_on_cpu.ELEMENTWISE, ids=lambda kernel: kernel.name)
def test_each_elementwise_kernel_alone_compiles_silently(kernel: src.Elementwise, dtype: str) -> None:
    library = nvrtc.compiler_for(80)
    assert library is not None
    options = [*src.OPTIONS, "--gpu-architecture=compute_80"]
    compiled = nvrtc.compile_text(library, src.source() + loop(kernel, dtype), options, [])
    assert compiled.ok
    assert compiled.log == ""


def cupy_code(kernel: src.Elementwise, dtype: str) -> str:
    """What the installed CuPy would compile for contiguous arrays, by its own generator."""
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    maker: Any = importlib.import_module("cupy._core._kernel")
    if not hasattr(maker, "_get_elementwise_kernel_code"):
        pytest.skip("this CuPy writes kernels in a way of its own")
    built = cupy.ElementwiseKernel(
        kernel.in_params, kernel.out_params, kernel.operation, kernel.name, preamble=kernel.preamble
    )
    array, scalar, indexer = 1, 3, 2
    infos = []
    for text in (kernel.in_params, kernel.out_params):
        for raw, kind, name in device_on_cpu.parameters(text):
            is_array = text is kernel.out_params or device_on_cpu.is_array(kernel, raw, name)
            kind = np.dtype(dtype if kind == "T" else kind).type
            infos.append(
                maker._ArgInfo(array, cupy.ndarray, kind, 1, True, True)
                if is_array
                else maker._ArgInfo(scalar, object, kind, 0, True, True)
            )
    infos.append(maker._ArgInfo(indexer, object, None, 1, True, True))
    types = maker._TypeMap((("T", np.dtype(dtype).type),))
    return maker._get_elementwise_kernel_code(
        tuple(infos), types, built.params, kernel.operation, kernel.name, kernel.preamble, "", "", src.OPTIONS
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", device_on_cpu.ELEMENTWISE, ids=lambda kernel: kernel.name)
def test_what_cupy_writes_around_an_operation_compiles_silently(kernel: src.Elementwise, dtype: str) -> None:
    cupy_code_compiles(kernel, dtype)


def cupy_code_compiles(kernel: src.Elementwise, dtype: str) -> None:
    """Makes sure of that, for one device."""
    code = cupy_code(kernel, dtype)
    cupy = importlib.import_module("cupy")
    headers = Path(cupy.__file__).parent / "_core" / "include"
    places = [folder / "include" for folder in nvrtc.folders()]
    cuda = [p for p in (*places, Path("/usr/local/cuda/include")) if (p / "cuda_fp16.h").exists()]
    if not cuda:
        pytest.skip("CUDA's headers, which CuPy's include, are not installed")
    library = nvrtc.compiler_for(80)
    assert library is not None
    bundled = headers / "cupy" / "_cccl"
    includes = [headers, *(bundled / name for name in ("libcudacxx", "thrust", "cub")), cuda[0]]
    options = [*src.OPTIONS, "--gpu-architecture=compute_80", *(f"-I{folder}" for folder in includes)]
    compiled = nvrtc.compile_text(library, "#include <cupy/carray.cuh>\n" + code, options, [])
    assert compiled.ok, compiled.log
    assert compiled.log == ""
