"""A loss on spike times on the CPU, with its gradient, sample by sample (Numba)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import Array
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.leaves import job_for, loss_row, register
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take

SPIKES_PER_TASK = 1 << 12
"""Output spikes of one piece of work."""


@njit(error_model="numpy")
def winner(t_out):
    """The first of a sample's spikes, the lowest of those at once. Numba's `argmin` takes it half a second to compile."""
    first = 0
    for n in range(1, t_out.size):
        if t_out[n] < t_out[first]:
            first = n
    return first


@njit(cache=True, nogil=True, error_model="numpy")
def _score_job(control, is_caller, numbers, t_out, labels, samples_per_task, loss, grad):
    """`loss_row` for all samples."""
    enter(control, is_caller)
    n_replica, n_batch = t_out.shape[:2]
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    while True:
        piece = take(control)
        if piece >= n_replica * n_chunks:
            break
        r, first = piece // n_chunks, piece % n_chunks * samples_per_task
        r_label = r if labels.shape[0] > 1 else 0
        for b in range(first, min(first + samples_per_task, n_batch)):
            loss[r, b] = loss_row(numbers, t_out[r, b], labels[r_label, b], n_batch, grad[r, b])
        finish(control)
    return leave(control, is_caller, n_replica * n_chunks)


def check_labels(labels: NDArray[np.int64], n_classes: int) -> None:
    """Refuses labels that no output neuron has: compiled kernels would read beyond the spike times.

    Raises:
        ValueRangeError: what was expected, and what was got.
    """
    if not (0 <= labels.min(initial=0) and labels.max(initial=0) < max(n_classes, 1)):
        raise ValueRangeError(
            f"labels must lie from 0 to {n_classes - 1}, got {labels.min()} to {labels.max()}"
        )


def score(loss: Any, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
    """Loss of every sample, and the gradient of each replica's mean; see `kernels.Kernels.score`."""
    check_labels(labels, t_out.shape[2])
    if loss.row() is None:
        return loss.reference(t_out, labels)
    losses, grad = np.empty(t_out.shape[:2], t_out.dtype), np.empty_like(t_out)
    if losses.size:
        numbers = in_floats(register(loss))
        n_samples = max(1, SPIKES_PER_TASK // t_out.shape[2])
        arguments = (numbers, t_out, labels, n_samples, losses, grad)
        run(job_for(_score_job, numbers), arguments, parallel=t_out.size > 2 * SPIKES_PER_TASK)
    return losses, grad


def in_floats(numbers: Any) -> Any:
    """The same numbers, all of them floats: an integer among them would be another type to compile for."""
    return type(numbers)(*(float(x) for x in numbers))
