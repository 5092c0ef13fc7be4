"""Where compiled jobs call what they do not know: the row of a loss, and that of an optimiser.

A job is told their numbers, NamedTuples of classes of their own, and the class decides which row is compiled into it. The
class is a part of the types that a job is compiled for, so that Numba keeps a job for each pair of leaves on the disk, and
another process finds it there: a function that were passed, or closed over, would be another one in each process.
"""

from __future__ import annotations

import hashlib
import marshal
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba.extending import overload

from gpuspike.errors import ConfigError
from gpuspike.kernels.cpu.arrays import cube
from gpuspike.kernels.cpu.compiler import njit

_rows: dict[type, Any] = {}
_owners: dict[type, Any] = {}  # of each class of numbers, the function that makes the row


def register(leaf: Any) -> Any:
    """Makes the row of a leaf known by the class of its numbers, and returns these.

    Raises:
        ConfigError: numbers that are no NamedTuple, or of a class that is not this row's alone: another row would be
            compiled in its place, or kept on the disk under its name.
    """
    numbers, row, source = leaf.numbers(), leaf.row(), type(leaf).compiled
    kind, name = type(numbers), type(leaf).__name__
    if not (isinstance(numbers, tuple) and hasattr(kind, "_fields")):
        raise ConfigError(f"the numbers of {name} must be a NamedTuple of floats, got {numbers!r}")
    if kind.__module__ != source.__module__ or _owners.setdefault(kind, source) is not source:
        raise ConfigError(
            f"the compiled row of {name} needs numbers of a class of its own, defined beside it, got {kind.__name__}"
        )
    _rows[kind] = (row, len(leaf.STATE)) if hasattr(leaf, "STATE") else row
    return numbers


def in_type(numbers: Any, dtype: np.dtype[Any]) -> Any:
    """The same numbers in the type of a job's arrays."""
    return type(numbers)(*(dtype.type(x) for x in numbers))


def loss_row(numbers, t_out, label, n_batch, grad):
    """A sample's loss, and its share of the gradient of the mean over `n_batch`, into `grad`; see `Loss.compiled`."""
    raise TypeError("compiled code only")


def optimizer_row(numbers, rates, w, g, at, like, shape, r, i0, i1):
    """A step of the weights w of inputs i0 to i1 of replica r; see `Optimizer.compiled`.

    Args:
        at: addresses of the arrays of that shape, and of the type of `like`, that are kept beside the weights.
    """
    raise TypeError("compiled code only")


@overload(loss_row, jit_options={"error_model": "numpy"})
def _loss_row(numbers, t_out, label, n_batch, grad):
    row = _rows[numbers.instance_class]
    return lambda numbers, t_out, label, n_batch, grad: row(numbers, t_out, label, n_batch, grad)  # noqa: PLW0108


@njit(error_model="numpy")
def _run(at, like, shape, r, i0, i1):
    """Rows i0 to i1 of replica r of the array of that shape at an address, one after the other."""
    return cube(at, like, shape[0], shape[1], shape[2])[r, i0:i1].reshape((i1 - i0) * shape[2])


@overload(optimizer_row, jit_options={"error_model": "numpy"})
def _optimizer_row(numbers, rates, w, g, at, like, shape, r, i0, i1):
    row, n_arrays = _rows[numbers.instance_class]

    def none(numbers, rates, w, g, at, like, shape, r, i0, i1):
        row(numbers, rates, w, g, ())

    def one(numbers, rates, w, g, at, like, shape, r, i0, i1):
        row(numbers, rates, w, g, (_run(at[0], like, shape, r, i0, i1),))

    def two(numbers, rates, w, g, at, like, shape, r, i0, i1):
        a, b = _run(at[0], like, shape, r, i0, i1), _run(at[1], like, shape, r, i0, i1)
        row(numbers, rates, w, g, (a, b))

    def three(numbers, rates, w, g, at, like, shape, r, i0, i1):
        a, b = _run(at[0], like, shape, r, i0, i1), _run(at[1], like, shape, r, i0, i1)
        row(numbers, rates, w, g, (a, b, _run(at[2], like, shape, r, i0, i1)))

    return (none, one, two, three)[n_arrays]


def job_for(job: Any, *numbers: Any) -> Any:
    """The job as these leaves get it: a user's have a copy of their own.

    Numba reads all that it has kept of a job at once, and could not where another run's leaves are unknown.
    """
    kinds = tuple(type(n) for n in numbers if not type(n).__module__.startswith("gpuspike."))
    return _own_job(job, kinds) if kinds else job


@cache
def _own_job(job: Any, kinds: tuple[type, ...]) -> Any:
    original = job.py_func
    copy = FunctionType(original.__code__, original.__globals__, original.__name__, original.__defaults__)
    copy.__module__ = original.__module__
    # With what the rows are: an edited one must not be taken for that of before.
    digests = [hashlib.sha256(marshal.dumps(_owners[k].__code__)).hexdigest()[:16] for k in kinds]
    names = [f"{k.__module__}_{k.__qualname__}_{digest}" for k, digest in zip(kinds, digests, strict=True)]
    copy.__qualname__ = "_".join([original.__qualname__, *names])
    return njit(cache=True, nogil=True, error_model="numpy")(copy)
