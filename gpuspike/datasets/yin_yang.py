"""The Yin-Yang data set: points of a picture, and the part of it that they lie in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets.samples import Samples
from gpuspike.datasets.splits import Dataset, Plane, Split, check_sizes

YIN_YANG_CLASSES = ("yin", "yang", "dot")

# The circle; the S, which is the left circle's lower and the right one's upper half; the dots.
BORDERS = (
    (0.5, 0.5, 1.0, 0, 360), (0.25, 0.5, 0.5, 180, 360), (0.75, 0.5, 0.5, 0, 180),
    (0.25, 0.5, 0.2, 0, 360), (0.75, 0.5, 0.2, 0, 360),
)  # fmt: skip


def yin_yang_class(
    x: NDArray[np.float64], y: NDArray[np.float64], r_small: float = 0.1, r_big: float = 0.5
) -> NDArray[np.int64]:
    """Class (0 yin, 1 yang, 2 dot) of points inside the big circle; any shape."""
    right = np.sqrt((x - 1.5 * r_big) ** 2 + (y - r_big) ** 2)
    left = np.sqrt((x - 0.5 * r_big) ** 2 + (y - r_big) ** 2)
    head = (left > r_small) & (left <= 0.5 * r_big)
    body = (y > r_big) & (right > 0.5 * r_big)
    side = (right <= r_small) | head | body
    return np.where((right < r_small) | (left < r_small), 2, side.astype(np.int64))


def yin_yang_split(n_samples: int, seed: int, r_small: float = 0.1, r_big: float = 0.5) -> Split:
    """Samples of the Yin-Yang data set, bit for bit those of the published generator.

    Every sample first draws its class, then points in the square until one falls into that class. Features
    are (x, y, 1 - x, 1 - y).

    Source: Kriener, Goeltz, Petrovici, "The Yin-Yang dataset" (2022); seeds and checksums of the published
    files are in tests/test_datasets.py.
    """
    # The legacy generator, because its stream is what was published.
    rng = np.random.RandomState(seed)
    features = np.empty((n_samples, 4))
    labels = np.empty(n_samples, np.int64)
    for n in range(n_samples):
        labels[n] = rng.randint(3)
        while True:
            x, y = rng.rand(2) * 2.0 * r_big
            if np.sqrt((x - r_big) ** 2 + (y - r_big) ** 2) > r_big:
                continue
            if yin_yang_class(x, y, r_small, r_big) == labels[n]:
                break
        features[n] = x, y, 1.0 - x, 1.0 - y
    return Split(features, labels)


def _with_turned(split: Split) -> Split:
    """A split, then its samples turned by half a turn: the same picture, but that yin is yang."""
    turned = split.features[:, [2, 3, 0, 1]]
    classes = np.array([1, 0, 2])[split.labels]
    return Split(np.concatenate([split.features, turned]), np.concatenate([split.labels, classes]))


def yin_yang(
    n_train: int = 5000, n_validation: int = 1000, n_test: int = 1000, *, turned: bool = False
) -> Dataset:
    """The Yin-Yang data set with the published seeds: 42 (train), 41 (validation), 40 (test).

    Args:
        turned: each training sample comes twice, the second time turned by half a turn.

    Raises:
        ValueRangeError: a split without samples.
    """
    check_sizes(n_train, n_validation, n_test)
    train = yin_yang_split(n_train, 42)
    return Dataset(
        "yin_yang",
        _with_turned(train) if turned else train,
        yin_yang_split(n_validation, 41),
        yin_yang_split(n_test, 40),
        YIN_YANG_CLASSES,
        plane=Plane(_features, BORDERS, disc=True),
    )


def _features(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([points, 1.0 - points], axis=1)


@dataclass(frozen=True)
class YinYang(Samples):
    """The Yin-Yang data set as a configuration asks for it.

    Attributes:
        turned: each of the n_train samples comes twice, then turned by half a turn: yin is yang.
    """

    n_train: int = 5000
    n_validation: int = 1000
    n_test: int = 1000
    turned: bool = False

    @property
    def image_side(self) -> int:
        """See `Samples.image_side`."""
        return 0

    def load(self) -> Dataset:
        """See `yin_yang`."""
        return yin_yang(self.n_train, self.n_validation, self.n_test, turned=self.turned)
