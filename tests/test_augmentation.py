"""Random shifts and warps: where pixels come from, drawn by address; bias spikes are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.datasets.encoding import pixel_latency
from gpuspike.errors import ConfigError, Mistakes, ValueRangeError
from gpuspike.kernels import load
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites

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


@pytest.mark.parametrize("key", ["max_shift", "max_turn", "max_zoom", "max_shear", "elastic", "mirror"])
def test_only_images_are_changed(key: str) -> None:
    from gpuspike.config.schema import jobs
    from gpuspike.runs.experiment import build

    (job,) = jobs([f"training.{key}=1"], False)
    with pytest.raises(
        ConfigError, match=rf"training\.{key}=.* needs square images of pixels, got dataset\.name=yin_yang"
    ):
        build(job.config)


ALL = {"max_shift": 1, "max_turn": 20.0, "max_zoom": 0.2, "max_shear": 0.3, "elastic": 1.0, "mirror": True}
SIZE = 9
TIMES = {silent: pixel_latency(255.0, 0.15, 2.0, silent_black=silent) for silent in (False, True)}


def pictures(n_replica: int, n_batch: int, *, silent: bool = False, dtype: Any = np.float64) -> NDArray[Any]:
    """Spike times of pictures with a black half, and a bias spike at the end."""
    rng = np.random.default_rng(1)
    levels = rng.integers(256, size=(n_replica, n_batch, SIZE * SIZE + 1))
    levels[rng.uniform(size=levels.shape) < 0.5] = 0
    times = TIMES[silent].astype(dtype)[levels]
    times[..., -1] = 0.9
    return times


def warped(warp: RandomWarp, before: NDArray[Any], seed: int = 3) -> NDArray[Any]:
    after = before.copy()
    warp(after, [seed + r for r in range(len(before))], 5, 7)
    return after


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_warp_of_nothing_changes_nothing(silent: bool, dtype: Any) -> None:
    before = pictures(2, 20, silent=silent, dtype=dtype)
    np.testing.assert_array_equal(warped(RandomWarp(SIZE, TIMES[silent]), before), before)


def test_a_warp_that_shifts_is_a_shift() -> None:
    before = pictures(1, 100)
    after = warped(RandomWarp(SIZE, TIMES[False], max_shift=2), before)
    steps = range(-2, 3)
    for old, new in zip(before[0, :, :-1], after[0, :, :-1], strict=True):
        canvas = np.full((SIZE + 4, SIZE + 4), TIMES[False][0])
        canvas[2:-2, 2:-2] = old.reshape(SIZE, SIZE)
        found = [canvas[2 + i : 2 + i + SIZE, 2 + j : 2 + j + SIZE] for i in steps for j in steps]
        assert sum(bool((one == new.reshape(SIZE, SIZE)).all()) for one in found) == 1


def test_a_quarter_turn_turns() -> None:
    class Quarter(RandomWarp):
        def _draw(self, n_batch: int, own: np.random.Generator) -> NDArray[np.float64]:
            middle = (SIZE - 1) / 2  # a row from a column, a column from a row backwards
            return np.tile([middle, middle, 0.0, 1.0, -1.0, 0.0], (n_batch, 1))

    before = pictures(1, 10)
    after = warped(Quarter(SIZE, TIMES[False]), before)
    for old, new in zip(before[0, :, :-1], after[0, :, :-1], strict=True):
        np.testing.assert_array_equal(new.reshape(SIZE, SIZE), np.rot90(old.reshape(SIZE, SIZE)))


def test_half_of_the_images_are_mirrored_and_nothing_else_is_drawn_otherwise() -> None:
    before = pictures(1, 400)
    after = warped(RandomWarp(SIZE, TIMES[False], mirror=True), before)
    images = (each[0, :, :-1].reshape(-1, SIZE, SIZE) for each in (before, after))
    turned = 0
    for old, new in zip(*images, strict=True):
        as_it_was = bool((new == old).all())
        assert as_it_was or (new == old[:, ::-1]).all()
        turned += not as_it_was
    assert 160 < turned < 240  # four deviations
    one = {"max_shift": 1, "max_turn": 20.0, "max_zoom": 0.2, "max_shear": 0.3}
    numbers = [
        RandomWarp(SIZE, TIMES[False], **one, mirror=mirror).draw(50, [np.random.default_rng(0)])
        for mirror in (False, True)
    ]
    np.testing.assert_array_equal(np.abs(numbers[0]), np.abs(numbers[1]))


def test_warped_pixels_are_pixels_and_a_ramp_is_interpolated_on_its_slope() -> None:
    side, times = 28, TIMES[False]
    ramp = np.repeat(np.arange(side)[:, None] * 9, side, axis=1)  # grows with the row
    before = times[ramp].reshape(1, 1, -1).repeat(50, axis=1)
    warp = RandomWarp(side, times, elastic=1.0)
    after = warped(warp, before)
    assert np.isin(after, times).all()
    levels = np.searchsorted(-times, -after).reshape(50, side, side)[:, 5:-5, 5:-5]
    moved = (levels - ramp[5:-5, 5:-5]) / 9
    assert np.sqrt((moved**2).mean()) == pytest.approx(1.0, rel=0.1), (
        "the root of the mean square is as asked"
    )
    steps = np.abs(np.diff(moved, axis=1))
    assert steps.max() < 1.5, "and the field is smooth"


def test_a_silent_black_stays_silent() -> None:
    after = warped(RandomWarp(SIZE, TIMES[True], **ALL), pictures(1, 50, silent=True))
    assert np.isinf(after[..., :-1]).any()
    assert np.isin(after[..., :-1], TIMES[True]).all()
    assert (after[..., -1] == 0.9).all()


def test_a_replica_is_warped_as_alone_and_each_batch_anew() -> None:
    warp = RandomWarp(SIZE, TIMES[False], **ALL)

    def after(seeds: list[int], epoch: int = 0, batch: int = 0) -> NDArray[Any]:
        times = np.repeat(pictures(1, 30), len(seeds), axis=0)
        warp(times, seeds, epoch, batch)
        return times

    together = after([5, 6])
    np.testing.assert_array_equal(together[1:], after([6]))
    assert (together[0] != together[1]).any()
    for other in (after([5, 6], epoch=1), after([5, 6], batch=1)):
        assert (other != together).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("negatives", [False, True])
def test_kernels_warp_to_the_same_bits(dtype: Any, silent: bool, negatives: bool) -> None:
    warp: Any = RandomWarp(SIZE, TIMES[silent], **ALL)
    before = pictures(2, 30, silent=silent, dtype=dtype)
    if negatives:
        levels = np.random.default_rng(2).integers(256, size=(2, 30, SIZE * SIZE))
        both = TIMES[silent].astype(dtype)[np.stack([levels, 255 - levels], axis=-1)]
        before = np.concatenate([both.reshape(2, 30, -1), before[:, :, -1:]], axis=2)
        warp = WithOpposites(warp, TIMES[silent])
    expected, got = before.copy(), before.copy()
    warp(expected, [3, 4], 5, 7)
    warp(got, [3, 4], 5, 7, load("cpu"))
    assert (expected != before).any()
    np.testing.assert_array_equal(got, expected)
    warp(np.empty((2, 0, before.shape[2]), dtype), [3, 4], 5, 7, load("cpu"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_shift": 9}, "max_shift must be between 0 and 8 pixels, got 9"),
        ({"max_turn": -1.0}, "max_turn must be between 0 and 180, got -1.0"),
        ({"max_zoom": 1.0}, "max_zoom must be between 0 and 0.9, got 1.0"),
        ({"max_shear": np.nan}, "max_shear must be between 0 and 1, got nan"),
        ({"elastic": 10.0}, "elastic must be between 0 and 9, got 10.0"),
    ],
)
def test_an_impossible_warp_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueRangeError, match=words):
        RandomWarp(SIZE, TIMES[False], **given)


def test_all_that_is_wrong_with_changes_of_images_is_told_at_once(tmp_path: Path) -> None:
    from gpuspike.config.schema import jobs
    from gpuspike.runs.experiment import build
    from gpuspike.runs.values import check_values

    wild = ["training.max_shift=28", "training.max_turn=-5", "training.elastic=29", "optimizer.gamma=2"]
    with pytest.raises(Mistakes) as told:
        jobs(
            ["experiment=mnist", *wild, "optimizer.schedule=step", "model.input_repeats=2"],
            False,
            check_values,
        )
    assert [str(error) for error in told.value.errors] == [
        "optimizer.gamma must lie in (0, 1], got 2.0",
        "training.max_shift must be between 0 and 27 pixels, got 28",
        "training.max_turn must be between 0 and 180, got -5.0",
        "training.elastic must be between 0 and 28, got 29.0",
        "training.max_shift=28, training.max_turn=-5.0, training.elastic=29.0 move inputs that are pixels, "
        "got model.input_repeats=2",
    ]
    arrays: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        arrays[f"{split}_values"] = np.full((20, 3), 0.5)
        arrays[f"{split}_labels"] = np.arange(20) % 2
    np.savez(tmp_path / "mine.npz", **arrays)
    own = ["experiment=own", f"dataset.path={tmp_path / 'mine.npz'}", "training.batch_size=10"]
    (job,) = jobs([*own, "training.max_shift=50", "training.mirror=true"], False, check_values)
    with pytest.raises(ConfigError) as alone:  # a file tells only when it is read whether it holds images
        build(job.config)
    assert str(alone.value) == (
        "training.max_shift=50, training.mirror=True need square images of pixels, got dataset.name=npz"
    )
    with pytest.raises(
        Mistakes, match=r"^2 mistakes: .*max_turn .*; .*max_zoom must be between 0 and 0\.9, got"
    ):
        RandomWarp(SIDE, TIMES[False], max_turn=181.0, max_zoom=float("nan"))
