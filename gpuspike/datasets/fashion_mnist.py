"""Fashion-MNIST: pieces of clothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gpuspike.datasets.files import IdxFile, Source
from gpuspike.datasets.images import Images

FASHION_MNIST = Source(
    name="fashion_mnist",
    class_names=(
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
    ),
    train_images=IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        archive="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    train_labels=IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        archive="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    test_images=IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        archive="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    test_labels=IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        archive="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)  # fmt: skip
"""Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv 1708.07747 (2017)."""


@dataclass(frozen=True)
class FashionMnist(Images):
    """Fashion-MNIST as a configuration asks for it."""

    source: ClassVar[Source] = FASHION_MNIST
