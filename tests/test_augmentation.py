"""Random shifts move whole images by whole pixels, drawn by address, and leave bias spikes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.training.augmentation import RandomShift

SIDE, MOST, BLACK = 5, 2, 2.0


def images(n_replica: int, n_batch: int) -> NDArray[Any]:
    """Distinct times, and a bias spike at the end."""
    times = np.random.default_rng(0).uniform(0.1, 1.9, (n_replica, n_batch, SIDE * SIDE + 1))
    times[..., -1] = 0.9
    return times


def shifted(image: NDArray[Any], down: int, right: int) -> NDArray[Any]:
    """One image, pixel by pixel."""
    out = np.full((SIDE, SIDE), BLACK)
    for row in range(SIDE):
        for column in range(SIDE):
            if 0 <= row - down < SIDE and 0 <= column - right < SIDE:
                out[row, column] = image[row - down, column - right]
    return out


def test_each_image_is_moved_by_whole_pixels_and_black_comes_in() -> None:
    before = images(2, 200)
    after = before.copy()
    RandomShift(SIDE, MOST, BLACK)(after, [1, 2], 3, 4)
    assert (after[..., -1] == 0.9).all()
    seen = set()
    steps = range(-MOST, MOST + 1)
    for old, new in zip(before.reshape(-1, SIDE**2 + 1), after.reshape(-1, SIDE**2 + 1), strict=True):
        image = old[:-1].reshape(SIDE, SIDE)
        found = [
            (down, right)
            for down in steps
            for right in steps
            if (shifted(image, down, right) == new[:-1].reshape(SIDE, SIDE)).all()
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == len(steps) ** 2, "every shift is drawn"


def test_a_replica_is_shifted_as_alone_and_each_batch_anew() -> None:
    shift = RandomShift(SIDE, MOST, BLACK)

    def after(seeds: list[int], epoch: int = 0, batch: int = 0) -> NDArray[Any]:
        times = np.repeat(images(1, 50), len(seeds), axis=0)
        shift(times, seeds, epoch, batch)
        return times

    together = after([5, 6])
    np.testing.assert_array_equal(together[1:], after([6]))
    assert (together[0] != together[1]).any()
    for other in (after([5, 6], epoch=1), after([5, 6], batch=1)):
        assert (other != together).any()


@pytest.mark.parametrize("most", [0, -1, 5])
def test_an_impossible_shift_is_refused(most: int) -> None:
    with pytest.raises(ValueRangeError, match=f"between 1 and 4 pixels, got {most}"):
        RandomShift(SIDE, most, BLACK)


def test_only_images_are_shifted() -> None:
    from gpuspike.config.schema import jobs
    from gpuspike.runs.experiment import build

    (job,) = jobs(["training.max_shift=1"], False)
    with pytest.raises(
        ConfigError, match=r"training\.max_shift needs square images of pixels, got dataset\.name=yin_yang"
    ):
        build(job.config)
