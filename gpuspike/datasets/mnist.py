"""MNIST: handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gpuspike.datasets.files import IdxFile, Source
from gpuspike.datasets.images import Images

MNIST = Source(
    name="mnist",
    class_names=tuple("0123456789"),
    train_images=IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        content="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        shrunk="9fb6f8c7312f896a0239d5468e940d4c4fbe4a8a2437a57e0d7af5b59b23656b",
    ),
    train_labels=IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        content="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    test_images=IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        content="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        shrunk="049961bd18a69b5341c4de7c3e1eaec728a311c539329ba68be13221461d4ff6",
    ),
    test_labels=IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        content="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
"""LeCun, Cortes, Burges: The MNIST database of handwritten digits (1998)."""


@dataclass(frozen=True)
class Mnist(Images):
    """MNIST as a configuration asks for it."""

    source: ClassVar[Source] = MNIST
