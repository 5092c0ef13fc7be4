"""Sorting each sample's spikes on the CPU (Numba): by buckets, stable, as fast as a library's vectorised sort.

It runs inside the forward pass, on the samples that a thread has at hand, and gives the same order on every
processor: simultaneous spikes stay in the order of their inputs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuspike.kernels import Array
from gpuspike.kernels.cpu_team import enter, finish, leave, run, samples_of_a_piece, take

BUCKETS = 4
"""Buckets a spike: about as fast from 2 to 8; more are rarely shared, fewer are sooner summed up."""

WORTHWHILE = 32
"""Steps of the insertion sort per spike, from where a merge sort is better: all spikes in a few buckets."""

WORTH_A_THREAD = 1 << 13
"""Spikes, some 50 us of work, below which sharing them with another thread does not pay."""

TINY = 1e-30
"""Spread of the times below which the width of a bucket could not be told from 0."""


@njit(error_model="numpy")
def sort_row(times, order, bucket, heads):
    """The order that sorts one sample's spikes by time, silent inputs (inf) last.

    Args:
        times: (n,) spike times.
        order: (n,) out.
        bucket, heads: (n,) and (BUCKETS n + 2,) int32, space to work in.
    """
    n = times.size
    earliest, latest = math.inf, -math.inf
    for i in range(n):
        earliest = min(earliest, times[i])
        latest = max(latest, times[i] if times[i] < math.inf else -math.inf)
    # Buckets evenly over the finite times, one more for inf.
    n_buckets = BUCKETS * n
    spread = np.float64(latest) - earliest
    scale = times.dtype.type(n_buckets / spread) if TINY < spread < math.inf else times.dtype.type(0.0)
    origin = times.dtype.type(earliest if earliest < math.inf else 0.0)
    last = times.dtype.type(n_buckets - 1)
    for b in range(n_buckets + 2):
        heads[b] = 0
    for i in range(n):
        place = np.int32(min((times[i] - origin) * scale, last)) if scale > 0 else np.int32(0)
        bucket[i] = place if times[i] < math.inf else np.int32(n_buckets)
    for i in range(n):
        heads[np.uint32(bucket[i]) + np.uint32(1)] += np.int32(1)
    for b in range(n_buckets):
        heads[b + 1] += heads[b]
    for i in range(n):
        b = np.uint32(bucket[i])
        order[np.uint32(heads[b])] = i
        heads[b] += np.int32(1)
    steps = 0
    for k in range(1, n):
        i = order[k]
        m = k
        while m > 0 and times[order[m - 1]] > times[i]:
            order[m] = order[m - 1]
            m -= 1
        order[m] = i
        steps += k - m
        if steps > WORTHWHILE * n:
            order[:] = np.argsort(times, kind="mergesort")
            return


@njit(error_model="numpy")
def sort_rows(times, order):
    """`sort_row` for every row of (n_rows, n) `times`."""
    n = times.shape[1]
    bucket = np.empty(n, np.int32)
    heads = np.empty(BUCKETS * n + 2, np.int32)
    for b in range(times.shape[0]):
        sort_row(times[b], order[b], bucket, heads)


@njit(cache=True, nogil=True, error_model="numpy")
def _order_job(control, is_caller, times, order, rows_per_task):
    enter(control, is_caller)
    n_pieces = (len(times) + rows_per_task - 1) // rows_per_task
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        rows = slice(piece * rows_per_task, min((piece + 1) * rows_per_task, len(times)))
        sort_rows(times[rows], order[rows])
        finish(control)
    return leave(control, is_caller, n_pieces)


def spike_order(t_in: Array) -> NDArray[np.int64]:
    """What sorts each sample's spikes; see `kernels.Kernels.spike_order`."""
    order = np.empty(t_in.shape, np.int64)
    n_pre = t_in.shape[-1]
    if t_in.size:
        rows = (t_in.reshape(-1, n_pre), order.reshape(-1, n_pre))
        n_rows = samples_of_a_piece(len(rows[0]))
        run(_order_job, (*rows, n_rows), parallel=t_in.size > WORTH_A_THREAD)
    return order
