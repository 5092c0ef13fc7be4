"""What a training step does to numbers one by one, on the CPU: jitter of input times, and Adam (Numba)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpuspike.kernels import Array
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take
from gpuspike.rng import LAYER_BLOCKS

NUMBERS_PER_TASK = 1 << 14
"""Weights or times of one piece of work."""

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@njit(inline="always", error_model="numpy")
def _radius(word):
    """sqrt(-2 ln u) in float32 for u = (word + 1/2)/2^32, free of branches so that loops vectorise."""
    u = (np.float32(word) + np.float32(0.5)) * np.float32(2.0**-32)
    bits = np.float32(u).view(np.int32) - np.int32(
        0x3F3504F3
    )  # of sqrt(1/2): the mantissa comes to lie in [0.71, 1.41)
    exponent = bits >> np.int32(23)
    m = np.int32((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)).view(np.float32)
    # ln m = 2 artanh s by its series, whose next term is below 1e-9.
    s = (m - np.float32(1.0)) / (m + np.float32(1.0))
    z = s * s
    series = np.float32(1.0 / 7.0) + z * np.float32(1.0 / 9.0)
    series = np.float32(1.0 / 5.0) + z * series
    series = np.float32(2.0) + np.float32(2.0) * z * (np.float32(1.0 / 3.0) + z * series)
    log = np.float32(exponent) * np.float32(math.log(2.0)) + s * series
    return np.float32(math.sqrt(max(np.float32(-2.0) * log, np.float32(0.0))))


@njit(inline="always", error_model="numpy")
def _cos_sin(word):
    """Cosine and sine of 2 pi word/2^32 in float32, by their series in the nearest quarter of the circle."""
    quarter = (word + np.uint32(0x20000000)) >> np.uint32(30)
    rest = np.int32(word - (quarter << np.uint32(30)))
    a = np.float32(rest) * np.float32(2.0 * math.pi * 2.0**-32)  # within pi/4 of 0
    z = a * a
    sine = np.float32(-1.0 / 5040.0) + z * np.float32(1.0 / 362880.0)
    sine = a + a * z * (np.float32(-1.0 / 6.0) + z * (np.float32(1.0 / 120.0) + z * sine))
    cosine = np.float32(1.0 / 40320.0) - z * np.float32(1.0 / 3628800.0)
    cosine = np.float32(1.0 / 24.0) + z * (np.float32(-1.0 / 720.0) + z * cosine)
    cosine = np.float32(1.0) + z * (np.float32(-0.5) + z * cosine)
    odd = (quarter & np.uint32(1)) != 0
    x, y = (sine, cosine) if odd else (cosine, sine)
    x = -x if ((quarter + np.uint32(1)) & np.uint32(2)) != 0 else x
    y = -y if (quarter & np.uint32(2)) != 0 else y
    return x, y


@njit(inline="always", error_model="numpy")
def _philox(c0, c1, c2, c3, k0, k1):
    """The four words of Philox 4x32-10 for a counter and a key; in registers, where loops vectorise."""
    for _ in range(10):
        p0, p1 = _M0 * np.uint64(c0), _M1 * np.uint64(c2)
        c0, c1 = np.uint32(p1 >> _HALF) ^ c1 ^ k0, np.uint32(p1 & _LOW)
        c2, c3 = np.uint32(p0 >> _HALF) ^ c3 ^ k1, np.uint32(p0 & _LOW)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@njit(error_model="numpy")
def jitter_row(times, n_jittered, std, reflect, seed, first_block, sample, epoch, batch, words, numbers):
    """Adds one sample's normal numbers to its times; see `gpuspike.rng.normals` for the addresses.

    Args:
        words, numbers: (4, blocks) uint32 and float32, space to work in.
    """
    n_block = words.shape[1]
    seed_low, seed_high = np.uint32(seed & _LOW), np.uint32(seed >> _HALF)
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    start, sample = np.uint32(first_block), np.uint32(sample)
    for m in range(n_block):
        w0[m], w1[m], w2[m], w3[m] = _philox(
            start + np.uint32(m), sample, np.uint32(batch), np.uint32(epoch), seed_low, seed_high
        )
    for pair in range(2):
        for m in range(n_block):
            radius = _radius(words[2 * pair, m])
            x, y = _cos_sin(words[2 * pair + 1, m])
            numbers[2 * pair, m] = radius * x
            numbers[2 * pair + 1, m] = radius * y
    flat = numbers.reshape(4 * n_block)
    for i in range(n_jittered):
        times[i] = abs(times[i] + std * flat[i]) if reflect else times[i] + std * flat[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _jitter_job(
    control,
    is_caller,
    times,
    n_jittered,
    std,
    reflect,
    seeds,
    first_block,
    first_sample,
    epoch,
    batch,
    samples_per_task,
):
    """`jitter_row` for all samples."""
    enter(control, is_caller)
    n_replica, n_batch = times.shape[:2]
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    n_block = (n_jittered + 3) // 4
    words = np.empty((4, n_block), np.uint32)
    numbers = np.empty((4, n_block), np.float32)
    while True:
        piece = take(control)
        if piece >= n_replica * n_chunks:
            break
        r, first = piece // n_chunks, piece % n_chunks * samples_per_task
        for b in range(first, min(first + samples_per_task, n_batch)):
            jitter_row(
                times[r, b], n_jittered, std, reflect, seeds[r], first_block, first_sample + b, epoch, batch,
                words, numbers,
            )  # fmt: skip
        finish(control)
    return leave(control, is_caller, n_replica * n_chunks)


def jitter(
    times: Array, n_jittered: int, std: float, seeds: Sequence[int], purpose: int, epoch: int, batch: int
) -> None:
    """Normal jitter of the first inputs' times, in place; see `kernels.Kernels.jitter`."""
    _add_normals(times, n_jittered, std, True, seeds, purpose, 0, epoch, batch, 0)


def normals(
    like: Array, seeds: Sequence[int], purpose: int, layer: int, epoch: int, batch: int, first: int
) -> Array:
    """Normal numbers of the shape of `like`; see `kernels.Kernels.normals`."""
    out = np.zeros_like(like)
    _add_normals(out, out.shape[2], 1.0, False, seeds, purpose, layer, epoch, batch, first)
    return out


def _add_normals(
    times: Array,
    n: int,
    std: float,
    reflect: bool,
    seeds: Sequence[int],
    purpose: int,
    layer: int,
    epoch: int,
    batch: int,
    first: int,
) -> None:
    if times.size and n:
        arguments = (
            times,
            n,
            times.dtype.type(std),
            reflect,
            np.array(seeds, np.uint64),
            (int(purpose) << 24) + layer * LAYER_BLOCKS,
            first,
            epoch,
            batch,
            max(1, NUMBERS_PER_TASK // 4 // n),
        )
        run(_jitter_job, arguments, parallel=times.size > NUMBERS_PER_TASK)
