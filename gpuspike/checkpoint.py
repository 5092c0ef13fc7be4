"""Checkpoints: one .npz file of arrays with a JSON header inside; no pickle, written atomically."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    text = json.dumps({"format": FORMAT, **header})
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, **{_HEADER: np.array(text)}, **arrays)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads a checkpoint.

    Returns:
        The arrays by name, and the header.

    Raises:
        DataError: no such file, a damaged one, or one of an unknown format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop(_HEADER)))
    except FileNotFoundError:
        raise DataError(f"no checkpoint at {path}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable checkpoint: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise DataError(f"{path} has checkpoint format {found!r}, expected {FORMAT}")
    return arrays, header
