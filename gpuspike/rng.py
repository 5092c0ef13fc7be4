"""Counter-based randomness: every draw has an address, so nothing depends on what was drawn before."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; part of its address, so the numbers must never change."""

    WEIGHTS = 1
    SHUFFLE = 2
    INPUT_NOISE = 3
    AUGMENTATION = 4
    CHIP = 5
    INPUT_JITTER = 6
    LOST_INPUTS = 7
    THRESHOLD_NOISE = 8
    SPIKE_JITTER = 9
    LOST_SPIKES = 10
    DELAYS = 11
    OWN_TRIALS = 255


def stream(seed: int, purpose: Purpose, first: int = 0, second: int = 0) -> np.random.Generator:
    """The generator at one address.

    A replica, a resumed run or a repeated batch gets the numbers that it would have drawn alone.

    Args:
        seed: of the replica, 0 or more.
        first, second: where in the run, for example (epoch, batch) or (layer, 0).

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x64).
    """
    # The first two words of the counter run along the stream itself.
    return np.random.Generator(np.random.Philox(key=[seed, int(purpose)], counter=[0, 0, second, first]))


def restart(generator: np.random.Generator, first: int, second: int) -> np.random.Generator:
    """Moves a generator of `stream` to another address of its seed and purpose, sooner than one is made."""
    bits = generator.bit_generator
    state: Any = bits.state
    state["state"]["counter"][:] = (0, 0, second, first)
    state["buffer_pos"], state["has_uint32"], state["uinteger"] = 4, 0, 0  # nothing is left of the last draw
    bits.state = state
    return generator


LAYER_BLOCKS = 1 << 18
"""Blocks of four numbers that a layer may draw for a sample: a million neurons."""


def normals(
    seed: int,
    purpose: Purpose,
    epoch: int,
    batch: int,
    n_samples: int,
    n: int,
    layer: int = 0,
    first: int = 0,
) -> NDArray[np.float64]:
    """(n_samples, n) normal numbers as every backend draws them, of one replica's batch.

    Number i of a sample is word i // m of block i % m, with m = ceil(n/4) blocks a sample. A block is
    Philox 4x32-10 of the key (seed's low and high 32 bits) and the counter (2^24 purpose + 2^18 layer +
    block, first + sample, batch, epoch). Words 0 and 1 give the normals 0 and 1, words 2 and 3 the normals
    2 and 3, by

        sqrt(-2 ln((word_0 + 1/2)/2^32)) (cos, sin)(2 pi word_1/2^32)

    Backends compute this in float32: they agree to its rounding.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Box and Muller,
    Annals of Mathematical Statistics 29, 610 (1958).
    """
    n_blocks = -(-n // 4)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    words = np.empty((4, n_samples, n_blocks), np.uint64)
    words[0] = (int(purpose) << 24) + layer * LAYER_BLOCKS + np.arange(n_blocks)
    words[1] = first + np.arange(n_samples)[:, None]
    words[2], words[3] = batch, epoch
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for turn in range(10):
        k0, k1 = (np.uint64((k + turn * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        p0, p1 = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = np.stack([(p1 >> half) ^ words[1] ^ k0, p1 & low, (p0 >> half) ^ words[3] ^ k1, p0 & low])
    radius = np.sqrt(-2.0 * np.log((words[::2] + 0.5) * 2.0**-32))
    angle = 2.0 * np.pi * 2.0**-32 * words[1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)  # (2, 2, sample, block)
    return pairs.reshape(4, n_samples, n_blocks).swapaxes(0, 1).reshape(n_samples, 4 * n_blocks)[:, :n]


_WEYL = (0x9E3779B9, 0xBB67AE85)
"""What Philox adds to its key every round."""
