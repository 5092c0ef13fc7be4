"""Sorting each sample's spikes on the CPU (Numba): by buckets, stable, as fast as a library's vectorised sort.

It runs inside the forward pass, on the samples that a thread has at hand, and gives the same order on every
processor: simultaneous spikes stay in the order of their inputs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array
from gpuspike.kernels.cpu.arrays import bare, keep
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_picks import PICKS, split_vectors
from gpuspike.kernels.cpu.simd_sort import LANES, running_sums, vector_range
from gpuspike.kernels.cpu.team import enter, finish, leave, run, samples_of_a_piece, take

BUCKETS = 4
"""Buckets a spike, at least; their number is a power of two. More are rarely shared, fewer are sooner summed up."""

WORTHWHILE = 32
"""Steps of the insertion sort per spike, from where a merge sort is better: all spikes in a few buckets."""

SPLIT_FROM = 32
"""Inputs from which on those that spike last together, or never, are told from the others first."""

WORTH_A_THREAD = 1 << 13
"""Spikes, some 50 us of work, below which sharing them with another thread does not pay."""

TINY = 1e-30
"""Spread of the times below which the width of a bucket could not be told from 0."""


@njit(error_model="numpy")
def finite_range(times):
    """The least and the largest of the finite times, none of which is NaN; inf and -inf if there is none."""
    width = VECTOR_BYTES // times.itemsize
    inf = times.dtype.type(math.inf)
    low, high = vector_range(inf, times.ctypes.data, np.int64(times.size // width))
    for i in range(times.size // width * width, times.size):
        low, high = min(low, times[i]), max(high, times[i] if times[i] < inf else -inf)
    return low, high


@njit(error_model="numpy")
def bucket_rows(n):
    """Into how many rows of LANES buckets n times are sorted, as a power of 2."""
    power = 0
    while LANES << power < BUCKETS * n:
        power += 1
    return power


@njit(error_model="numpy", fastmath={"nnan", "nsz"})
def _place(times, origin, scale, power, bucket):
    """The bucket of each time: evenly over the finite ones, one more for inf.

    The next bucket of a column lies a row further on, and the first of the next column follows the last of one.
    """
    n_buckets, in_column = np.int32(LANES << power), np.int32((1 << power) - 1)
    last, inf, power = times.dtype.type(n_buckets - 1), times.dtype.type(math.inf), np.int32(power)
    for i in range(times.size):
        # A scale of 0 says that the times cannot be told apart, or that their spread is infinite.
        place = np.int32(min((times[i] - origin) * scale, last)) if scale > 0 else np.int32(0)
        place = (place & in_column) * np.int32(LANES) + (place >> power)
        bucket[i] = place if times[i] < inf else n_buckets


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
def _merge_sort(times, order):
    """The order that sorts times, however they are spread; Numba's own sort takes a second to compile."""
    n = times.size
    merged = np.empty(n, np.int64)
    for k in range(n):
        order[k] = k
    length = 1  # times next to each other that are in order
    while length < n:
        for first in range(0, n, 2 * length):
            middle, end = min(first + length, n), min(first + 2 * length, n)
            i, j = first, middle
            for k in range(first, end):
                if j == end or (i < middle and times[order[i]] <= times[order[j]]):
                    merged[k] = order[i]
                    i += 1
                else:
                    merged[k] = order[j]
                    j += 1
        for k in range(n):
            order[k] = merged[k]
        length *= 2


@njit(error_model="numpy")
def _sort(times, earliest, latest, order, bucket, heads, ahead):
    """The order that sorts spikes by time, silent inputs (inf) last; see `sort_row`.

    Args:
        earliest, latest: the least and the largest finite time.
    """
    n = times.size
    power = bucket_rows(n)
    n_buckets = LANES << power
    spread = np.float64(latest) - earliest
    zero = times.dtype.type(0.0)
    scale = times.dtype.type(n_buckets / spread) if TINY < spread < math.inf else zero
    _place(times, earliest if earliest < math.inf else zero, scale, power, bucket)
    for b in range(n_buckets + 1):
        heads[b] = 0
    for i in range(n):
        heads[np.uint32(bucket[i])] += np.int32(1)
    heads[n_buckets] = running_sums(heads.ctypes.data, np.int64(1 << power))
    for i in range(n):
        b = np.uint32(bucket[i])
        k = np.uint32(heads[b])
        order[k], ahead[k] = i, times[i]
        heads[b] += np.int32(1)
    if not _insert(ahead[:n], order, WORTHWHILE * n):
        _merge_sort(times, order)


@njit(error_model="numpy")
def sort_space(n, like):
    """Room for sorting n times of the type of `like`; see `split` and `sort_row`."""
    return (
        np.empty(n, np.int32), np.empty((LANES << bucket_rows(n)) + 1, np.int32), np.empty(n, like.dtype),
        np.empty(n, like.dtype), np.empty(n + 1, np.int32), np.empty(n + 1, np.int32),
    )  # fmt: skip


@njit(error_model="numpy")
def bare_space(space):
    """`sort_space` of bare arrays."""
    return bare(space[0]), bare(space[1]), bare(space[2]), bare(space[3]), bare(space[4]), bare(space[5])


@njit(error_model="numpy")
def split(times, bound, space):
    """Tells a sample's spikes before `bound` from the others.

    Args:
        times: (n,) spike times, none of which is NaN;  bound: of their type.
        space: `sort_space(n, times)`, whose last three arrays get the times of those before, which they are, and which
            the others are, each in the order of the inputs.

    Returns:
        How many come before, and the earliest time of the others, inf if there is none.
    """
    _, _, _, few, early, rest = space
    first, width = 0, VECTOR_BYTES // times.itemsize
    n_early, following = np.int64(0), times.dtype.type(math.inf)
    if PICKS:
        out = early.ctypes.data, few.ctypes.data, rest.ctypes.data
        n_early, following = split_vectors(bound, times.ctypes.data, np.int64(times.size // width), out)
        first = times.size // width * width
    for i in range(first, times.size):
        t = times[i]
        few[n_early] = t
        early[n_early] = rest[i - n_early] = i
        is_early = 1 if t < bound else 0
        n_early += is_early
        following = t if not is_early and t < following else following
    return n_early, following


@njit(error_model="numpy")
def sort_split(n_early, earliest, latest, order, space):
    """The order that sorts the first spikes of a sample, told from the others by `split`.

    Args:
        n_early: how many;  earliest, latest: times between which they lie.
        order: (n_early or more,) out.
    """
    bucket, heads, ahead, few, early, _ = space
    _sort(few[:n_early], earliest, latest, order[:n_early], bucket, heads, ahead)
    for k in range(n_early):
        order[k] = early[np.uint64(order[k])]


@njit(error_model="numpy")
def sort_row(times, order, space):
    """The order that sorts one sample's spikes by time, silent inputs (inf) last.

    Where many come last together, as the black pixels of an image do, or never, only those before them are sorted.

    Args:
        times: (n,) spike times;  order: (n,) out;  space: `sort_space(n, times)`.
    """
    bucket, heads, ahead, _, _, rest = space
    n = times.size
    earliest, latest = finite_range(times)
    n_silent, n_last = np.int32(0), np.int32(0)
    for i in range(n):
        n_silent += np.int32(times[i] > latest)
        n_last += np.int32(times[i] == latest)
    if n < SPLIT_FROM or n_last + n_silent < n // 4:
        _sort(times, earliest, latest, order, bucket, heads, ahead)
        return
    apart = n_last >= n // 4
    n_early, _ = split(times, latest if apart else times.dtype.type(math.inf), space)
    sort_split(n_early, earliest, latest, order, space)
    if n_silent == 0 or not apart:
        for k in range(n - n_early):
            order[n_early + k] = rest[k]
        return
    at, at_silent = n_early, n - n_silent
    for k in range(n - n_early):
        i = rest[k]
        silent = times[i] > latest
        order[at_silent if silent else at] = i
        at += 0 if silent else 1
        at_silent += 1 if silent else 0


@njit(error_model="numpy")
def sort_rows(times, order):
    """`sort_row` for every row of (n_rows, n) `times`."""
    kept = sort_space(times.shape[1], times)
    times, order, space = bare(times), bare(order), bare_space(kept)
    for b in range(times.shape[0]):
        sort_row(times[b], order[b], space)
    keep(kept)


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
        rows = (np.ascontiguousarray(t_in).reshape(-1, n_pre), order.reshape(-1, n_pre))
        n_rows = samples_of_a_piece(len(rows[0]))
        run(_order_job, (*rows, n_rows), parallel=t_in.size > WORTH_A_THREAD)
    return order
