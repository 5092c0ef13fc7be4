"""Counter-based randomness: every draw has an address, so nothing depends on what was drawn before."""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; part of its address, so the numbers must never change."""

    WEIGHTS = 1
    SHUFFLE = 2
    INPUT_NOISE = 3


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
