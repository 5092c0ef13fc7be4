"""What every data set is: three splits of samples with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError, together


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        features: (n_samples, n_features) float64 in [0, 1], or uint8 pixels, possibly mapped from a file; or
            spike times, where the data set says so.
        labels: (n_samples,) int64 class of each sample.
    """

    features: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Plane:
    """How to draw a data set whose samples are points of the unit square, their first two features.

    Attributes:
        features: (n, 2) points as (n, n_features) features.
        borders: between the classes, arcs (x, y, diameter, first and last angle in degrees).
        disc: samples lie within the circle of diameter 1 alone.
    """

    features: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    borders: tuple[tuple[float, float, float, float, float], ...] = ()
    disc: bool = False


@dataclass(frozen=True)
class Dataset:
    """A data set in its three splits.

    Attributes:
        image_shape: (rows, columns) of a sample that is an image, else None.
        spike_times: the features are spike times already, in tau_syn, inf = no spike.
        plane: how the answers over the plane are drawn, if the samples are points of one.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    image_shape: tuple[int, int] | None = None
    spike_times: bool = False
    plane: Plane | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def untaught(self) -> list[str]:
        """Names of classes without a training sample."""
        taught = set(np.unique(self.train.labels).tolist())
        return [name for number, name in enumerate(self.class_names) if number not in taught]

    def unread(self, names: Iterable[str]) -> list[str]:
        """What nothing reads of some values of an encoding, in sentences; the names as they are typed."""
        pixels = self.train.features.dtype == np.uint8
        has = "spike times" if self.spike_times else "pixels" if pixels else "values in [0, 1]"
        found = []
        for name in dict.fromkeys(names):
            key = name.rpartition(".")[2]
            if key in ("full_scale", "silent_black") and (self.spike_times or not pixels):
                found.append(f"{name} is of pixels, and the data set {self.name} has {has}")
            if key in ("t_early", "t_late") and self.spike_times:
                found.append(f"{name} is of pixels or values, and the data set {self.name} has {has}")
            if key == "opposites" and self._has_opposites:
                found.append(f"{name} may give inputs twice: the data set {self.name} has 1 - v for each v")
        return found

    @property
    def _has_opposites(self) -> bool:
        """Whether each of a few features comes with its opposite, as those of Yin-Yang do."""
        first = self.train.features[:50]
        if self.spike_times or first.dtype == np.uint8 or not first.size or first.shape[1] > 64:
            return False
        pairs = np.abs(first[:, :, None] + first[:, None, :] - 1.0) < 1e-9
        return bool(np.all(np.any(np.all(pairs, axis=0), axis=1)))

    @property
    def n_features(self) -> int:
        """Values of a sample."""
        return self.train.features.shape[1]


LATE = 20.0
"""Synaptic time constants after which hardly anybody's spikes begin."""


STRAY = 0.05
"""Share of the spikes that may come later than that, or after a trial's end, before it is told."""


def unlikely(times: NDArray[Any], tau_syn: float = 1.0, end: float = np.inf) -> str:
    """What may be wrong with a training's spike times, in words; "" where nothing is.

    Args:
        times: (n_samples, n_inputs), inf = no spike;  tau_syn: in their unit.
        end: of a trial on the chip under the network, in their unit.
    """
    first = times[:1000]
    known = first[np.isfinite(first)] / tau_syn
    if not known.size:
        return "" if np.isfinite(times).any() else "no training sample has a spike: none tells its class"
    end /= tau_syn
    if (middle := float(np.median(known))) > LATE:
        told = f"half of the training spikes come after {middle:.3g} tau_syn"
    elif (unseen := float(np.mean(known > end))) > STRAY:
        told = f"{100 * unseen:.0f} % of the training spikes come after {end:g} tau_syn, "
        told += "when the chip's trial has ended, and are not seen"
    elif (late := float(np.mean(known > LATE))) > STRAY:
        told = f"{100 * late:.0f} % of the training spikes come after {LATE:g} tau_syn"
    else:
        return ""
    return f"{told}: are the times in another unit?"


def too_few(n_train: int, batch_size: int) -> str:
    """What is said of a batch of more samples than there are, in words that follow its name."""
    return f"must not exceed the {n_train} training samples, got {batch_size}"


def check_sizes(n_train: int, n_validation: int, n_test: int) -> None:
    """Refuses a split without samples.

    Raises:
        ValueRangeError: the split's name, what was expected and what was got.
    """
    sizes = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}
    if wrong := [f"{name} must be at least 1, got {size}" for name, size in sizes.items() if size < 1]:
        raise together(map(ValueRangeError, wrong))
