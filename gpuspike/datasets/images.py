"""MNIST and data sets in its format, 28x28 or shrunk to 16x16; prepared once, then mapped from the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from gpuspike.datasets.files import IdxFile, Source, obtain, place
from gpuspike.datasets.splits import Dataset, Split, check_sizes
from gpuspike.errors import DataError, ValueRangeError

IMAGE_SIZES = (28, 16)
"""Pixels a side."""

MNIST = Source(
    name="mnist",
    class_names=tuple("0123456789"),
    train_images=IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        content="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
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


def shrink(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 28, 28) images as (n, 16, 16): the central 24x24 pixels, resized bilinearly with antialiasing.

    It is Pillow's resize, which rounds to whole pixel values, as the paper's public code has it.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021), and its public code.
    """
    from PIL import Image

    small = np.empty((len(images), 16, 16), np.uint8)
    for before, after in zip(images, small, strict=True):
        centre = Image.fromarray(before[2:26, 2:26])
        after[:] = np.asarray(centre.resize((16, 16), Image.Resampling.BILINEAR))
    return small


def load_images(
    source: Source,
    size: int = 28,
    n_train: int = 50_000,
    n_validation: int = 10_000,
    n_test: int = 10_000,
    cache: Path | None = None,
) -> Dataset:
    """A data set of images; a split smaller than the published one holds its first samples.

    Args:
        size: pixels a side, 28 or 16.
        cache: folder for downloads and prepared images; the user's cache if not given.

    Returns:
        Splits of uint8 pixels, 0 black to 255 white, n_features = size * size.

    Raises:
        ValueRangeError: another size, or splits without samples or with more than there are.
        DataError: which file or folder, what is wrong, and what to do.
    """
    if size not in IMAGE_SIZES:
        raise ValueRangeError(f"image_size must be one of {', '.join(map(str, IMAGE_SIZES))}, got {size}")
    check_sizes(n_train, n_validation, n_test)
    first = source.train_images.shape[0] - source.n_validation
    for name, wanted, held in (
        ("n_train", n_train, first),
        ("n_validation", n_validation, source.n_validation),
        ("n_test", n_test, source.test_images.shape[0]),
    ):
        if wanted > held:
            raise ValueRangeError(f"{name} must be at most {held}, all that {source.name} has, got {wanted}")
    folder = cache or user_cache_path("gpuspike") / "datasets"
    images = _images(source, source.train_images, size, folder)
    labels = _labels(source, source.train_labels, folder)
    test_images = _images(source, source.test_images, size, folder)
    test_labels = _labels(source, source.test_labels, folder)
    return Dataset(
        source.name,
        Split(images[:n_train], labels[:n_train]),
        Split(images[first : first + n_validation], labels[first : first + n_validation]),
        Split(test_images[:n_test], test_labels[:n_test]),
        source.class_names,
        (size, size),
    )


def _labels(source: Source, file: IdxFile, cache: Path) -> NDArray[np.int64]:
    n_class = len(source.class_names)

    def decode(raw: bytes) -> NDArray[np.uint8]:
        labels = file.decode(raw)
        if labels.max(initial=0) >= n_class:
            raise DataError(f"expected labels below {n_class}, got {labels.max()}")
        return labels

    return obtain(source, file, cache, decode).astype(np.int64)


def _images(source: Source, file: IdxFile, size: int, cache: Path) -> NDArray[np.uint8]:
    """(n, size * size) pixels, mapped from the cache; in memory where the cache cannot be written."""
    shape = (file.shape[0], size * size)

    def prepare(raw: bytes) -> NDArray[np.uint8]:
        path = cache / "prepared" / f"{source.name}_{hashlib.sha256(raw).hexdigest()[:32]}_{size}.npy"
        ready = _mapped(path, shape)
        if ready is not None:
            return ready
        images = file.decode(raw)
        pixels = (images if size == 28 else shrink(images)).reshape(shape)
        try:
            place(path, lambda stream: np.save(stream, pixels))
        except OSError:
            return pixels
        ready = _mapped(path, shape)
        return pixels if ready is None else ready

    return obtain(source, file, cache, prepare)


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The prepared images of a file; None where it is not there or not whole."""
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None
