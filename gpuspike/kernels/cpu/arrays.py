"""Arrays by their addresses: how a compiled job gets the arrays of any number of layers (Numba).

A tuple of arrays would be compiled anew for every depth of network. Whoever passes an address keeps its array alive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from gpuspike.errors import ShapeError
from gpuspike.kernels.constants import Constants
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.simd import VECTOR_BYTES


def address(array: NDArray[Any] | None) -> int:
    """Where a contiguous array begins; 0 for None.

    Raises:
        ShapeError: an array that is not C-contiguous, which a compiled job would read wrongly.
    """
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ShapeError(f"arrays must be C-contiguous, got shape {array.shape} with strides {array.strides}")
    return array.ctypes.data


def in_vectors(weights: NDArray[Any]) -> NDArray[Any]:
    """The (n_replica, n_pre, n_post) weights in rows of whole vectors, each on a vector's boundary; filled up with 0.

    Rows that lie otherwise straddle two cache lines with each vector, which costs a sweep an eighth more.
    """
    n_replica, n_pre, n_post = weights.shape
    width = VECTOR_BYTES // weights.itemsize
    padded = (n_replica, n_pre, -(-n_post // width) * width)
    room = np.zeros(int(np.prod(padded)) + width, weights.dtype)
    first = -room.ctypes.data % VECTOR_BYTES // weights.itemsize
    aligned = room[first : first + int(np.prod(padded))].reshape(padded)
    aligned[:, :, :n_post] = weights
    return aligned


def _make_pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to the type of the array `like`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


_pointer: Any = intrinsic(_make_pointer)


@njit()
def cube(address, like, n_replica, n_batch, n_neuron):
    """The contiguous (n_replica, n_batch, n_neuron) array of the type of `like` at an address."""
    return carray(_pointer(address, like), (n_replica, n_batch, n_neuron))


@njit()
def row(address, like, n):
    """The contiguous (n,) array of the type of `like` at an address."""
    return carray(_pointer(address, like), (n,))


def bare(array: Any) -> Any:
    """An array that nobody counts the uses of; itself where it is not contiguous, and where nothing is compiled.

    Taking a part of another is an atomic instruction, and giving it back is one, as long as all of a short row's work.
    Whoever takes it keeps the array itself alive, up to `keep`.
    """
    return array


@overload(bare)
def _bare(array):
    if array.layout != "C":
        return lambda array: array
    return lambda array: carray(_pointer(array.ctypes.data, array), array.shape)


@njit()
def keep(arrays):
    """Nothing, later than all else that is done with arrays that are used as `bare` ones, or by their addresses."""
    return len(arrays)


@njit()
def named(row):
    """A layer's `Constants`, from its row in an array of them."""
    return Constants(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8])
