"""What a data set is in a configuration: values, and how samples come of them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from gpuspike.datasets.splits import Dataset
from gpuspike.errors import ConfigError
from gpuspike.registry import Registry, extends


@dataclass(frozen=True)
class Samples(ABC):
    """A data set as a configuration asks for it.

    A data set is a subclass in a file of its own, again a frozen dataclass. Every field that it adds, with a
    default, is a value of the configuration's group `dataset`: a truth value, a number, a text, or a list.

    Attributes:
        n_train, n_validation, n_test: samples of the three splits. One that has samples of its own, a file's,
            gives them the default None, which stands for all.
    """

    n_train: int
    n_validation: int
    n_test: int

    lasting: ClassVar[bool] = True
    """Whether equal values always give equal samples, which are then made once; a file's may change."""

    files: ClassVar[tuple[str, ...]] = ()
    """Values that are paths: a run keeps them as they hold in any folder."""

    @property
    def image_side(self) -> int | None:
        """Pixels a side of samples that are square images; 0: they are none, None: loading them tells."""
        return None

    @abstractmethod
    def load(self) -> Dataset:
        """The samples.

        Raises:
            GpuspikeError: a value that cannot work: what was expected and what was got.
        """


DATASETS: Registry[type[Samples]] = Registry(
    "data set",
    {
        "yin_yang": "gpuspike.datasets.yin_yang:YinYang",
        "mnist": "gpuspike.datasets.mnist:Mnist",
        "fashion_mnist": "gpuspike.datasets.fashion_mnist:FashionMnist",
        "npz": "gpuspike.datasets.arrays:Npz",
        "patterns": "gpuspike.datasets.patterns:Patterns",
    },
    extends("data set", Samples, ("n_train", "n_validation", "n_test")),
)
"""Data sets by the name that `dataset.name` gives."""


def named(name: str, values: Mapping[str, Any]) -> Samples:
    """A data set by its name, with those of some values that are its own.

    Raises:
        ConfigError: there is none of that name.
    """
    part = DATASETS[name]
    return part(**{item.name: _hashable(values[item.name]) for item in fields(part) if item.name in values})


def load_dataset(name: str, **values: Any) -> Dataset:
    """The samples of a registered data set.

    Args:
        name: in `DATASETS`: load_dataset("patterns", n_train=500, jitter=0.1).
        values: in the place of its defaults.

    Raises:
        ConfigError: no such data set, or a value that it does not have.
        GpuspikeError: as its own `load`.
    """
    known = [item.name for item in fields(DATASETS[name])]
    for key in values:
        if key not in known:
            raise ConfigError(f"the data set {name} has no value {key}; it has {', '.join(known)}")
    return load(named(name, values))


def load(samples: Samples) -> Dataset:
    """The samples of a data set, made once where they last.

    Raises:
        GpuspikeError: as its own `load`.
    """
    return _kept(samples) if samples.lasting else samples.load()


@functools.lru_cache(maxsize=4)
def _kept(samples: Samples) -> Dataset:
    return samples.load()


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value
