"""The data sets: the published samples bit for bit, and labels that follow from the geometry."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from test_images import fill, tiny

from gpuspike.datasets import (
    DATASETS,
    YIN_YANG_CLASSES,
    Samples,
    Split,
    images,
    load_dataset,
    yin_yang,
    yin_yang_class,
    yin_yang_split,
)
from gpuspike.datasets.images import Images
from gpuspike.datasets.samples import named
from gpuspike.errors import ConfigError, ValueRangeError

PUBLISHED = {
    "train": (
        42,
        5000,
        "f5a4054d56f2a058f8250fba7ff9720458e1625db7af78a295e45701745b2228",
        "534d12acda4f9dbc7208a99d3646115a4aa7d74ca31d6d23f822079a568559b7",
    ),
    "validation": (
        41,
        1000,
        "5eac358bdf2122763dce3703a79f3005e56e46a4db25ec329a07333d0f7b8093",
        "5a4c2f605814a620f514c1091f10441ce562cd81e902ce701b3cf94ae7576f7d",
    ),
    "test": (
        40,
        1000,
        "7bab3ed668ed4992679cff6339fe21bfe7d0c921ddc6187eaa3bc6ef34b888d7",
        "daa0f8f4e3b37b1ddec2afee22f09afb768f0e575f3f568e7469f1ebc6af73c1",
    ),
}
"""Seed, size and sha256 of the published samples (float64, C order) and labels (int64)."""

each_split = pytest.mark.parametrize("name", PUBLISHED)


def published_folder() -> Path:
    """The folder of the published files; the test is skipped where they are not at hand."""
    root = os.environ.get("GPUSPIKE_DATA")
    if not root:
        pytest.skip("GPUSPIKE_DATA is not set: no published samples to compare with")
    folder = Path(root) / "yin_yang"
    if not any(folder.glob("*.npy")):
        pytest.skip("GPUSPIKE_DATA holds no yin_yang/*.npy")
    return folder


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    """The data set in its published size."""
    return yin_yang().splits


@each_split
def test_default_splits_have_the_published_checksums(splits: dict[str, Split], name: str) -> None:
    _, size, samples, labels = PUBLISHED[name]
    split = splits[name]
    assert len(split) == size
    assert split.features.dtype == np.float64
    assert split.labels.dtype == np.int64
    assert hashlib.sha256(np.ascontiguousarray(split.features).tobytes()).hexdigest() == samples
    assert hashlib.sha256(np.ascontiguousarray(split.labels).tobytes()).hexdigest() == labels


@each_split
def test_default_splits_equal_the_published_files(splits: dict[str, Split], name: str) -> None:
    folder = published_folder()
    np.testing.assert_array_equal(splits[name].features, np.load(folder / f"{name}_samples.npy"))
    np.testing.assert_array_equal(splits[name].labels, np.load(folder / f"{name}_labels.npy"))


@each_split
def test_a_smaller_split_is_a_prefix_of_the_published_one(splits: dict[str, Split], name: str) -> None:
    seed = PUBLISHED[name][0]
    small = yin_yang_split(17, seed)
    np.testing.assert_array_equal(small.features, splits[name].features[:17])
    np.testing.assert_array_equal(small.labels, splits[name].labels[:17])


@each_split
def test_labels_are_the_classes_of_their_points(splits: dict[str, Split], name: str) -> None:
    x, y = splits[name].features[:, 0], splits[name].features[:, 1]
    np.testing.assert_array_equal(splits[name].labels, yin_yang_class(x, y))


@each_split
def test_features_are_a_point_in_the_circle_and_its_mirror_image(splits: dict[str, Split], name: str) -> None:
    features = splits[name].features
    assert features.shape[1] == 4
    np.testing.assert_array_equal(features[:, 2:], 1.0 - features[:, :2])
    assert np.hypot(features[:, 0] - 0.5, features[:, 1] - 0.5).max() <= 0.5
    assert features.min() >= 0.0
    assert features.max() <= 1.0


@each_split
def test_classes_are_about_equally_frequent(splits: dict[str, Split], name: str) -> None:
    share = np.bincount(splits[name].labels, minlength=3) / len(splits[name])
    # Each class is drawn with probability 1/3: five standard deviations of the smallest split.
    np.testing.assert_allclose(share, 1.0 / 3.0, atol=0.075)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.5, 2),  # the two dots' centres
        (0.75, 0.5, 2),
        (0.25, 0.65, 1),  # around the left dot: the head
        (0.25, 0.35, 1),
        (0.75, 0.65, 0),  # around the right dot: the other's head
        (0.75, 0.35, 0),
        (0.5, 0.95, 1),
        (0.5, 0.05, 0),
    ],
)
def test_points_of_the_picture_have_the_class_one_sees(x: float, y: float, expected: int) -> None:
    assert yin_yang_class(np.array(x), np.array(y)) == expected


def test_turning_the_picture_by_half_a_turn_swaps_yin_and_yang() -> None:
    axis = np.linspace(0.01, 0.99, 64)  # no point on a border
    x, y = np.meshgrid(axis, axis)
    inside = np.hypot(x - 0.5, y - 0.5) < 0.5
    x, y = x[inside], y[inside]
    turned = yin_yang_class(1.0 - x, 1.0 - y)
    np.testing.assert_array_equal(yin_yang_class(x, y), np.where(turned == 2, 2, 1 - turned))


def test_turned_training_samples_follow_the_others() -> None:
    data, plain = yin_yang(20, 5, 6, turned=True), yin_yang(20, 5, 6)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(data.splits[name].features, plain.splits[name].features)
    assert len(data.train) == 40
    np.testing.assert_array_equal(data.train.features[:20], plain.train.features)
    np.testing.assert_array_equal(data.train.labels[:20], plain.train.labels)
    x, y, *opposite = data.train.features[20:].T
    np.testing.assert_allclose([x, y], 1.0 - plain.train.features[:, :2].T, rtol=0, atol=0)
    np.testing.assert_allclose(opposite, [1.0 - x, 1.0 - y], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(data.train.labels[20:], yin_yang_class(x, y))


def test_the_splits_do_not_share_samples(splits: dict[str, Split]) -> None:
    points = np.concatenate([split.features for split in splits.values()])
    assert len(np.unique(points, axis=0)) == len(points)


def test_the_data_set_knows_its_name_classes_and_features() -> None:
    data = yin_yang(3, 2, 1)
    assert (data.name, data.n_features, data.class_names) == ("yin_yang", 4, YIN_YANG_CLASSES)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 3,
        "validation": 2,
        "test": 1,
    }


# --- every registered one ------------------------------------------------------

SIZES = {"n_train": 12, "n_validation": 7, "n_test": 5}


@pytest.fixture(params=list(DATASETS))
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Samples:
    """A registered data set in small, with files made here where it reads some."""
    part, values = DATASETS[request.param], dict(SIZES)
    if issubclass(part, Images):
        monkeypatch.setattr(part, "source", tiny())
        monkeypatch.setenv("GPUSPIKE_DATA", str(fill(tmp_path / "data")))
        monkeypatch.setattr(images, "user_cache_path", lambda _: tmp_path / "cache")
    if part is DATASETS["npz"]:
        rng = np.random.default_rng(0)
        names = [name.removeprefix("n_") for name in SIZES]
        arrays = {f"{name}_times": rng.uniform(0.0, 2.0, (12, 3)) for name in names}
        arrays |= {f"{name}_labels": np.arange(12) % 4 for name in names}
        np.savez(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
        values["path"] = str(tmp_path / "own.npz")
    return named(request.param, values)


def test_splits_have_the_samples_that_were_asked_for_of_classes_that_there_are(small: Samples) -> None:
    data = small.load()
    assert [len(split) for split in data.splits.values()] == list(SIZES.values())
    for split in data.splits.values():
        assert split.features.shape == (len(split), data.n_features)
        assert split.labels.shape == (len(split),)
        assert split.labels.dtype == np.int64
        assert split.labels.min() >= 0
        assert split.labels.max() < len(data.class_names)
        assert split.features.dtype in (np.uint8, np.float64)
        assert not np.isnan(split.features).any()
        assert split.features.min() > -np.inf
        if not data.spike_times and split.features.dtype == np.float64:
            assert 0.0 <= split.features.min() <= split.features.max() <= 1.0


def test_the_same_values_give_the_same_samples(small: Samples) -> None:
    same = dataclasses.replace(small)
    assert (same, hash(same)) == (small, hash(small))
    for one, other in zip(small.load().splits.values(), same.load().splits.values(), strict=True):
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("size", [0, -5])
def test_an_empty_split_is_refused_by_name(small: Samples, name: str, size: int) -> None:
    with pytest.raises(ValueRangeError, match=f"^{name} must be at least 1, got {size}$"):
        dataclasses.replace(small, **{name: size}).load()


def test_a_data_set_is_loaded_by_its_name() -> None:
    data = load_dataset("yin_yang", n_train=30)
    assert [len(split) for split in data.splits.values()] == [30, 1000, 1000]
    np.testing.assert_array_equal(data.train.features, yin_yang_split(30, 42).features)
    assert load_dataset("yin_yang", n_train=30) is data
    with pytest.raises(ConfigError, match=r"there is no data set 'yinyang'; .*did you mean yin_yang"):
        load_dataset("yinyang")
    message = "the data set yin_yang has no value noise; it has n_train, n_validation, n_test"
    with pytest.raises(ConfigError, match=message):
        load_dataset("yin_yang", noise=0.1)


def test_the_borders_of_the_plane_are_where_its_class_changes() -> None:
    plane = load_dataset("yin_yang", n_train=30).plane
    assert plane is not None
    assert plane.disc
    points = np.array([[0.3, 0.4], [0.5, 0.9]])
    np.testing.assert_array_equal(plane.features(points), [[0.3, 0.4, 0.7, 0.6], [0.5, 0.9, 0.5, 1.0 - 0.9]])
    for x, y, width, start, end in plane.borders[1:]:
        angle = np.radians(np.linspace(start, end, 50)[1:-1])
        for_both = [
            yin_yang_class(x + (width / 2 + step) * np.cos(angle), y + (width / 2 + step) * np.sin(angle))
            for step in (-1e-6, 1e-6)
        ]
        assert (for_both[0] != for_both[1]).all()
