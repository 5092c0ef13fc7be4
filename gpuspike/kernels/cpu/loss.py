"""The loss on spike times on the CPU, with its gradient, sample by sample (Numba)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import Array
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take

SPIKES_PER_TASK = 1 << 12
"""Output spikes of one piece of work."""


@njit(error_model="numpy")
def cross_entropy_row(t_out, label, n_batch, unit, late, alpha, penalty, grad):
    """The loss of one sample; its share of the gradient of the mean over `n_batch`, into `grad`."""
    n_class = t_out.size
    t_label = np.float64(t_out[label])
    if t_label == math.inf:
        grad[:] = 0.0
        return penalty
    last = math.log(np.finfo(t_out.dtype).max) - 1.0
    t_first, total = math.inf, 0.0
    for n in range(n_class):
        t_first = min(t_first, np.float64(t_out[n]))
    for n in range(n_class):
        total += math.exp((t_first - t_out[n]) / unit)
    early = alpha * math.exp(min(t_label / late, last)) if alpha > 0.0 else 0.0
    for n in range(n_class):
        share = math.exp((t_first - t_out[n]) / unit)
        pull = 1.0 / unit + early / late if n == label else 0.0
        grad[n] = (pull - share / (total * unit)) / n_batch
    return math.log(total) + (t_label - t_first) / unit + early


@njit(cache=True, nogil=True, error_model="numpy")
def _cross_entropy_job(
    control, is_caller, t_out, labels, unit, late, alpha, penalty, samples_per_task, loss, grad
):
    """`cross_entropy_row` for all samples."""
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
            label = labels[r_label, b]
            loss[r, b] = cross_entropy_row(
                t_out[r, b], label, n_batch, unit, late, alpha, penalty, grad[r, b]
            )
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


def cross_entropy(
    t_out: Array, labels: NDArray[np.int64], unit: float, late: float, alpha: float, penalty: float
) -> tuple[Array, Array]:
    """Loss of every sample, and the gradient of each replica's mean; see
    `kernels.Kernels.cross_entropy`.

    Args:
        t_out: (n_replica, n_batch, n_classes);  labels: (n_replica or 1, n_batch).
        unit, late: xi and beta in the unit of time;  alpha, penalty: as there.
    """
    loss, grad = np.empty(t_out.shape[:2], t_out.dtype), np.empty_like(t_out)
    check_labels(labels, t_out.shape[2])
    if loss.size:
        n_samples = max(1, SPIKES_PER_TASK // t_out.shape[2])
        arguments = (t_out, labels, unit, late, alpha, penalty, n_samples, loss, grad)
        run(_cross_entropy_job, arguments, parallel=t_out.size > 2 * SPIKES_PER_TASK)
    return loss, grad
