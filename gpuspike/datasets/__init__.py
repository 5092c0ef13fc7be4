"""Data sets: samples and class labels, in the splits that publications use; each set is a file."""

from gpuspike.datasets.arrays import load_arrays
from gpuspike.datasets.fashion_mnist import FASHION_MNIST
from gpuspike.datasets.images import IMAGE_SIZES, load_images
from gpuspike.datasets.mnist import MNIST
from gpuspike.datasets.samples import DATASETS, Samples, load_dataset
from gpuspike.datasets.splits import Dataset, Plane, Split
from gpuspike.datasets.yin_yang import YIN_YANG_CLASSES, yin_yang, yin_yang_class, yin_yang_split

__all__ = [
    "DATASETS",
    "FASHION_MNIST",
    "IMAGE_SIZES",
    "MNIST",
    "YIN_YANG_CLASSES",
    "Dataset",
    "Plane",
    "Samples",
    "Split",
    "load_arrays",
    "load_dataset",
    "load_images",
    "yin_yang",
    "yin_yang_class",
    "yin_yang_split",
]
