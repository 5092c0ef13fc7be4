"""A step of an optimiser on the CPU, runs of weights on all threads (Numba)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuspike.kernels import Array
from gpuspike.kernels.constants import MOST_ARRAYS
from gpuspike.kernels.cpu.arrays import address
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.leaves import in_type, job_for, optimizer_row, register
from gpuspike.kernels.cpu.normals import NUMBERS_PER_TASK
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take


@njit(cache=True, nogil=True, error_model="numpy")
def _descent_job(control, is_caller, numbers, rates, weights, grad, at):
    """`optimizer_row` for all weights."""
    enter(control, is_caller)
    n = weights.size
    n_pieces = (n + NUMBERS_PER_TASK - 1) // NUMBERS_PER_TASK
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        i0, i1 = piece * NUMBERS_PER_TASK, min((piece + 1) * NUMBERS_PER_TASK, n)
        optimizer_row(numbers, rates, weights[i0:i1], grad[i0:i1], at, weights, (1, n, 1), 0, i0, i1)
        finish(control)
    return leave(control, is_caller, n_pieces)


def descend(
    optimizer: Any, rates: Sequence[float], weights: Array, grad: Array, state: Sequence[Array]
) -> None:
    """One step on one replica's weights of a layer, in place; see `kernels.Kernels.descend`."""
    if optimizer.row() is None:
        return optimizer.reference(rates, weights, grad, *state)
    numbers = in_type(register(optimizer), weights.dtype)
    address(weights)  # refuses one that reshape would copy
    at = np.array([address(array) for array in state] + [0] * (MOST_ARRAYS - len(state)))
    arguments = (numbers, np.array(rates, weights.dtype), weights.reshape(-1), grad.reshape(-1), at)
    parallel = weights.size > 2 * NUMBERS_PER_TASK
    return run(job_for(_descent_job, numbers), arguments, keep=list(state), parallel=parallel)
