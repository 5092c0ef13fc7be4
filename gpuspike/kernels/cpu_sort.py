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


@njit(error_model="numpy", fastmath={"nnan", "nsz"})
def finite_range(times):
    """The least and the largest of the finite times; inf and -inf if there is none.

    Four at a time: LLVM does not vectorise a minimum, and each waits for the one before.
    """
    inf = times.dtype.type(math.inf)
    low0 = low1 = low2 = low3 = inf
    high0 = high1 = high2 = high3 = -inf
    n = times.size
    for i in range(0, n - 3, 4):
        t0, t1, t2, t3 = times[i], times[i + 1], times[i + 2], times[i + 3]
        low0, low1, low2, low3 = min(low0, t0), min(low1, t1), min(low2, t2), min(low3, t3)
        high0, high1 = max(high0, t0 if t0 < inf else -inf), max(high1, t1 if t1 < inf else -inf)
        high2, high3 = max(high2, t2 if t2 < inf else -inf), max(high3, t3 if t3 < inf else -inf)
    for i in range(n // 4 * 4, n):
        low0, high0 = min(low0, times[i]), max(high0, times[i] if times[i] < inf else -inf)
    return min(low0, low1, low2, low3), max(high0, high1, high2, high3)


@njit(error_model="numpy", fastmath={"nnan", "nsz"})
def _place(times, origin, scale, n_buckets, bucket):
    """The bucket of each time: evenly over the finite ones, one more for inf."""
    last, inf = times.dtype.type(n_buckets - 1), times.dtype.type(math.inf)
    for i in range(times.size):
        # A scale of 0 says that the times cannot be told apart, or that their spread is infinite.
        place = np.int32(min((times[i] - origin) * scale, last)) if scale > 0 else np.int32(0)
        bucket[i] = place if times[i] < inf else np.int32(n_buckets)


@njit(error_model="numpy")
def _insert(times, order, most):
    """Sorts times, and the order with them, that are nearly sorted; False if that takes more than `most` steps."""
    left = most
    for k in range(1, times.size):
        t = times[k]
        if times[k - 1] > t:
            i, m = order[k], k
            while m > 0 and times[m - 1] > t:
                times[m] = times[m - 1]
                order[m] = order[m - 1]
                m -= 1
            times[m] = t
            order[m] = i
            left -= k - m
            if left < 0:
                return False
    return True


@njit(error_model="numpy")
def sort_row(times, order, bucket, heads, ahead):
    """The order that sorts one sample's spikes by time, silent inputs (inf) last.

    Args:
        times: (n,) spike times.
        order: (n,) out.
        bucket, heads, ahead: (n,) and (BUCKETS n + 2,) int32 and (n,) like `times`, space to work in.
    """
    n = times.size
    earliest, latest = finite_range(times)
    n_buckets = BUCKETS * n
    spread = np.float64(latest) - earliest
    zero = times.dtype.type(0.0)
    scale = times.dtype.type(n_buckets / spread) if TINY < spread < math.inf else zero
    _place(times, earliest if earliest < math.inf else zero, scale, n_buckets, bucket)
    for b in range(n_buckets + 2):
        heads[b] = 0
    for i in range(n):
        heads[np.uint32(bucket[i]) + np.uint32(1)] += np.int32(1)
    total = np.int32(0)
    for b in range(n_buckets + 1):
        total += heads[b]
        heads[b] = total
    for i in range(n):
        b = np.uint32(bucket[i])
        k = np.uint32(heads[b])
        order[k], ahead[k] = i, times[i]
        heads[b] += np.int32(1)
    if not _insert(ahead, order, WORTHWHILE * n):
        order[:] = np.argsort(times, kind="mergesort")


@njit(error_model="numpy")
def sort_rows(times, order):
    """`sort_row` for every row of (n_rows, n) `times`."""
    n = times.shape[1]
    bucket = np.empty(n, np.int32)
    heads = np.empty(BUCKETS * n + 2, np.int32)
    ahead = np.empty(n, times.dtype)
    for b in range(times.shape[0]):
        sort_row(times[b], order[b], bucket, heads, ahead)


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
