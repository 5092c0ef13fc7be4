"""Data sets: samples and class labels, in the splits that publications use."""

from gpuspike.datasets.arrays import load_arrays
from gpuspike.datasets.images import FASHION_MNIST, IMAGE_SIZES, MNIST, load_images
from gpuspike.datasets.splits import Dataset, Split
from gpuspike.datasets.yin_yang import YIN_YANG_CLASSES, yin_yang, yin_yang_class, yin_yang_split

__all__ = [
    "FASHION_MNIST",
    "IMAGE_SIZES",
    "MNIST",
    "YIN_YANG_CLASSES",
    "Dataset",
    "Split",
    "load_arrays",
    "load_images",
    "yin_yang",
    "yin_yang_class",
    "yin_yang_split",
]
