"""Checkpoints: one .npz file of arrays with a JSON header inside; no pickle, written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, OutputError

FORMAT = 1
"""Version of the file's layout; a reader refuses one that it does not know."""

_HEADER = "header"


def save(path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Writes a checkpoint; whoever reads the path finds the old file or the new one, never half of one.

    Args:
        arrays: by name, `header` excepted.
        header: JSON values.

    Raises:
        OutputError: the file cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} holds objects, which would have to be pickled")
    text = json.dumps({"format": FORMAT, "arrays": sorted(arrays), **header})
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **{_HEADER: np.array(text), **arrays})  # type: ignore[arg-type]
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads a checkpoint.

    Returns:
        The arrays by name, and the header.

    Raises:
        DataError: no such file, a damaged one, or one of an unknown format.
    """
    try:
        with open(path, "rb") as file:
            arrays = _read(file)
        header = json.loads(str(arrays.pop(_HEADER)))
    except FileNotFoundError:
        raise DataError(f"no checkpoint at {path}") from None
    except Exception as error:  # a damaged archive raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise DataError(f"{path} has checkpoint format {found!r}, expected {FORMAT}")
    if header.pop("arrays", None) != sorted(arrays):
        raise DataError(f"{path} is not a readable checkpoint: it lacks arrays that it had when written")
    return arrays, header


def _read(file: BinaryIO) -> dict[str, NDArray[Any]]:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds a single array")
    with archive:
        return {name: archive[name] for name in archive.files}
