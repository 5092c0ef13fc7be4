"""A data set of one's own: an .npz file of spike times, pixels or values, with labels."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets.samples import Samples
from gpuspike.datasets.splits import Dataset, Split, check_sizes
from gpuspike.errors import ConfigError, DataError, DtypeError, extent
from gpuspike.reading import opened
from gpuspike.strangers import names_of, unpack

KINDS = ("times", "pixels", "values")
"""Spike times in tau_syn, from 0 on, inf = no spike; uint8 pixels; numbers in [0, 1]."""

MOST_CLASSES = 100_000
"""Of a data set that does not name them."""

MOST_TIME = 1e12
"""Of a spike, in tau_syn."""


@dataclass(frozen=True)
class Npz(Samples):
    """An .npz file as a configuration asks for it.

    Attributes:
        n_train, n_validation, n_test: the first samples of each split; None: all of them.
        path: of the file.
    """

    n_train: int | None = None  # type: ignore[assignment]
    n_validation: int | None = None  # type: ignore[assignment]
    n_test: int | None = None  # type: ignore[assignment]
    path: str = ""

    lasting: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ("path",)

    def load(self) -> Dataset:
        """See `load_arrays`."""
        if not self.path:
            raise ConfigError("path must be an .npz file, got none")
        return load_arrays(Path(self.path), self.n_train, self.n_validation, self.n_test)


def load_arrays(
    path: Path, n_train: int | None = None, n_validation: int | None = None, n_test: int | None = None
) -> Dataset:
    """The data set in an .npz file: all samples of each split, or the first ones.

    For each split, train, validation and test, the file holds `<split>_labels`, (n_samples,) integers from 0,
    and one of `<split>_times`, `<split>_pixels` and `<split>_values`, the same kind for all: (n_samples,
    n_inputs), or (n_samples, n_rows, n_columns). It may hold `class_names`, a text for each label.

    Raises:
        DataError: a file that is missing, damaged or not like that: what was expected and what was got.
        ValueRangeError: a split without samples.
    """
    check_sizes(*(1 if size is None else size for size in (n_train, n_validation, n_test)))
    if not path.exists():
        raise DataError(f"path must be an .npz file, got {str(path)!r}, which is not there")
    arrays = read_npz(path)
    found = [kind for kind in KINDS if f"train_{kind}" in arrays]
    if len(found) != 1:
        wanted = " or ".join(f"train_{kind}" for kind in KINDS)
        raise DataError(f"{path} must hold one of {wanted}, got {', '.join(sorted(arrays)) or 'nothing'}")
    (kind,) = found
    others = [f"{split}_{each}" for split in ("validation", "test") for each in KINDS if each != kind]
    if strange := [name for name in others if name in arrays]:
        raise DataError(
            f"{path} must hold {kind} alone, as train_{kind}, got {', '.join(strange)} beside them"
        )
    if "class_names" not in arrays and (close := get_close_matches("class_names", arrays, 1, 0.8)):
        raise DataError(f"{path} holds {close[0]}, which nothing reads: did you mean class_names?")
    if "class_names" in arrays:
        try:
            names = names_of(f"class_names in {path}", arrays["class_names"])
        except DtypeError as error:
            raise DataError(str(error)) from None
    else:
        labels = arrays.get("train_labels", np.empty(0))
        most = max(0, int(labels.max())) if labels.size and labels.dtype.kind in "iu" else 0
        if most >= MOST_CLASSES:
            raise DataError(
                f"train_labels in {path} must be below {MOST_CLASSES}, an output neuron each, got {most}"
            )
        if most and (least := int(labels.min())) > 0:
            raise DataError(
                f"train_labels in {path} must count classes from 0, got {extent(labels)}: labels - {least} do"
            )
        names = tuple(str(label) for label in range(most + 1))
    sizes = {"train": n_train, "validation": n_validation, "test": n_test}
    shape = arrays[f"train_{kind}"].shape[1:]
    splits = {name: _split(path, arrays, name, kind, shape, size, len(names)) for name, size in sizes.items()}
    image = (int(shape[0]), int(shape[1])) if kind == "pixels" and len(shape) == 2 else None
    return Dataset(
        path.stem,
        splits["train"],
        splits["validation"],
        splits["test"],
        names,
        image_shape=image,
        spike_times=kind == "times",
    )


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file.

    Raises:
        DataError: a file that is missing or damaged.
    """
    try:
        with opened(path) as file:
            return unpack(file)
    except FileNotFoundError:
        raise DataError(f"no {path}") from None
    except Exception as error:  # a damaged archive raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable .npz file: {reason}") from None


def _split(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    name: str,
    kind: str,
    shape: tuple[int, ...],
    size: int | None,
    n_classes: int,
) -> Split:
    """One split, checked."""
    for key in (f"{name}_{kind}", f"{name}_labels"):
        if key not in arrays:
            raise DataError(f"{path} must hold {key}, got {', '.join(sorted(arrays))}")
    samples, labels = arrays[f"{name}_{kind}"], arrays[f"{name}_labels"]
    if samples.ndim not in (2, 3) or samples.shape[1:] != shape or 0 in shape:
        raise DataError(
            f"{name}_{kind} in {path} must be (n_samples, n_inputs) or (n_samples, n_rows, n_columns), "
            f"alike in all splits, got {samples.shape}"
            + "; images with channels go as n_inputs, or as their mean"
            * (samples.ndim == 4)
        )
    if samples.dtype.kind != "f" if kind != "pixels" else samples.dtype != np.uint8:
        wanted = "uint8, levels from 0 to 255" if kind == "pixels" else "floats"
        raise DataError(f"{name}_{kind} in {path} must be {wanted}, got {samples.dtype}")
    if labels.shape != samples.shape[:1] or labels.dtype.kind not in "iu":
        hint, numbers = "", labels.dtype.kind in "fiub"
        small = numbers and labels.size and 0 <= labels.min() and labels.max() < MOST_CLASSES
        if labels.shape == samples.shape[:1] and small and (labels == labels.round()).all():
            hint = f": {name}_labels.astype(int) does"
        elif labels.ndim == 2 and len(labels) == len(samples) and labels.shape[1] > 1 and small:
            ones = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
            hint = f": {name}_labels.argmax(axis=1) does" if ones else ""
        elif labels.shape == samples.shape[:1] and labels.dtype.kind in "US":
            hint = ": np.unique(all_labels, return_inverse=True) gives class_names and numbers"
        raise DataError(
            f"{name}_labels in {path} must be {samples.shape[:1]} integers, got {labels.shape} "
            f"{labels.dtype}{hint}"
        )
    size = len(samples) if size is None else size
    if size == 0:
        raise DataError(f"{name}_{kind} in {path} must hold a sample at least, got none")
    if len(samples) < size:
        raise DataError(f"n_{name} must not exceed the {len(samples)} samples of {path}, got {size}")
    samples, labels = samples[:size].reshape(size, -1), labels[:size]
    if labels.min() < 0 or labels.max() >= n_classes:
        named = f", since class_names has {n_classes}" if "class_names" in arrays else ""
        least = int(labels.min())
        if least < 0 and not named:  # how many classes there are is then not known from the labels either
            raise DataError(
                f"{name}_labels in {path} must count classes from 0, got {extent(labels)}: "
                f"labels + {-least} do"
            )
        raise DataError(
            f"{name}_labels in {path} must lie from 0 to {n_classes - 1}{named}, got {extent(labels)}"
        )
    if kind == "times":
        if np.isnan(samples).any() or (samples == -np.inf).any():
            raise DataError(f"{name}_times in {path} must not hold NaN or -inf; no spike is +inf")
        latest = float(samples.max(where=np.isfinite(samples), initial=0.0))
        if name == "train" and not np.isfinite(samples).any():
            raise DataError(f"train_times in {path} must hold spikes, got inf alone, which is none")
        if latest > MOST_TIME:
            raise DataError(
                f"{name}_times in {path} must be at most {MOST_TIME:g} tau_syn, or inf, got {latest:g}"
            )
        if samples.min() < 0.0:
            raise DataError(
                f"{name}_times in {path} must be 0 or later, when a trial begins, got {float(samples.min())}"
            )
    if kind == "values" and not (samples.min() >= 0.0 and samples.max() <= 1.0):
        raise DataError(f"{name}_values in {path} must lie in [0, 1], got {extent(samples)}")
    return Split(samples if kind == "pixels" else samples.astype(np.float64), labels.astype(np.int64))
