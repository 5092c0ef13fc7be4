"""MNIST and data sets in its format, 28x28 or shrunk to 16x16; prepared once, then mapped from the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from gpuspike.datasets.files import IdxFile, Source, obtain, place
from gpuspike.datasets.samples import Samples
from gpuspike.datasets.splits import Dataset, Split
from gpuspike.errors import DataError, ValueRangeError, together

IMAGE_SIZES = (28, 16)
"""Pixels a side."""


@dataclass(frozen=True)
class Images(Samples):
    """A data set in MNIST's format as a configuration asks for it; which, a subclass says.

    Attributes:
        image_size: pixels a side: 28, or 16 shrunk from the central 24.
    """

    n_train: int = 50_000
    n_validation: int = 10_000
    n_test: int = 10_000
    image_size: int = 28

    source: ClassVar[Source]

    @property
    def image_side(self) -> int | None:
        """See `Samples.image_side`."""
        return self.image_size if self.image_size in IMAGE_SIZES else None

    def load(self) -> Dataset:
        """See `load_images`."""
        return load_images(self.source, self.image_size, self.n_train, self.n_validation, self.n_test)


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
    first = source.train_images.shape[0] - source.n_validation
    wrong: list[str] = []
    if size not in IMAGE_SIZES:
        wrong.append(f"image_size must be one of {', '.join(map(str, IMAGE_SIZES))}, got {size}")
    for name, wanted, held in (
        ("n_train", n_train, first),
        ("n_validation", n_validation, source.n_validation),
        ("n_test", n_test, source.test_images.shape[0]),
    ):
        if wanted < 1:
            wrong.append(f"{name} must be at least 1, got {wanted}")
        elif wanted > held:
            wrong.append(f"{name} must be at most {held}, all that {source.name} has, got {wanted}")
    if wrong:
        raise together(map(ValueRangeError, wrong))
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
        stem = f"{source.name}_{hashlib.sha256(raw).hexdigest()[:32]}_{size}_"
        for path in sorted((cache / "prepared").glob(f"{stem}*.npy")):
            ready = _mapped(path, shape, file, size)
            if ready is not None:
                return ready
        images = file.decode(raw)
        pixels = (images if size == 28 else shrink(images)).reshape(shape)
        path = cache / "prepared" / f"{stem}{_digest(pixels)[:32]}.npy"
        try:
            place(path, lambda stream: np.save(stream, pixels))
        except OSError:
            return pixels
        ready = _mapped(path, shape, file, size)
        return pixels if ready is None else ready

    return obtain(source, file, cache, prepare)


def _mapped(path: Path, shape: tuple[int, ...], file: IdxFile, size: int) -> NDArray[np.uint8] | None:
    """The prepared images of a file; None where it is not there or does not hold what it should.

    The pixels must be those that its name tells of, and where the published ones are known, those.
    """
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
        return None
    if not path.stem.endswith(f"_{_digest(pixels)[:32]}"):
        return None
    if size == 28 and file.content is not None:
        return pixels if _digest(pixels, file.header) == file.content else None
    if size == 16 and file.shrunk is not None:
        return pixels if _digest(pixels) == file.shrunk else None
    return pixels


def _digest(pixels: NDArray[np.uint8], head: bytes = b"") -> str:
    """sha256 of some bytes and the pixels."""
    found = hashlib.sha256(head)
    found.update(pixels.data)
    return found.hexdigest()
