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
        content="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    train_labels=IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        content="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    test_images=IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        content="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    test_labels=IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        content="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
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
