"""How kernels are compiled, for the modules that launch them through CuPy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels.cuda import source as src


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
    """A kernel whose threads work together; see `cuda.source.block_kernels`."""
    names = src.block_kernels(dtype, regime)
    return _module(dtype, regime).get_function(names[name])


@cache
def _module(dtype: np.dtype[Any], regime: int) -> Any:
    names = tuple(src.block_kernels(dtype, regime).values())
    return cupy_module().RawModule(code=src.source(), options=src.OPTIONS, name_expressions=names)
