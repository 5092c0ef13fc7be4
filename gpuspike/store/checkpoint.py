"""Checkpoints: one .npz file of arrays with a JSON header inside; no pickle, written atomically.

The archive keeps a CRC-32 of the header and of every array, which is verified when they are read.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, OutputError
from gpuspike.reading import opened
from gpuspike.strangers import unpack, write_new

FORMAT = 1
"""Version of the file's layout; a reader refuses one that it does not know."""

_HEADER = "header"


class UnknownFormatError(DataError):
    """A checkpoint of another version of gpuspike: whole, but not to be read by this one."""


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at a path is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(
    path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any], *, keep_previous: bool = True
) -> None:
    """Writes a checkpoint and keeps the one before.

    At every moment one of the two files is whole; the new one is on the disk before it gets its name.

    Args:
        arrays: by name, `header` excepted.
        header: JSON values.
        keep_previous: False for a file of a user's own, which has no one before: only its kind is written
            over.

    Raises:
        OutputError: the file cannot be written, or something else would be lost.
    """
    if not keep_previous:
        _keep(path, header.get("kind", "checkpoint"))
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} holds objects, which would have to be pickled")
    text = json.dumps({"format": FORMAT, "arrays": sorted(arrays), **header})
    partial = path.with_name(path.name + ".partial")
    try:
        content = io.BytesIO()  # one write of it all takes half the time of the archive's many
        np.savez(content, **{_HEADER: np.array(text)}, **arrays)  # type: ignore[arg-type]
        with write_new(partial, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if keep_previous:
            _rotate(partial, path)
        else:
            os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None


def _keep(path: Path, kind: str) -> None:
    """Refuses to write over a file of another kind."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with suppress(DataError):
        if load(path)[1].get("kind", "checkpoint") == kind:
            return
    raise OutputError(f"{path} is there already and holds no {kind}: it would be lost; take another name")


def _rotate(partial: Path, path: Path) -> None:
    """Gives a finished file its name. Between the two steps the one before is all that there is to read."""
    older = previous(path)
    kept = path.is_file()
    if kept:
        os.replace(path, older)
    try:
        os.replace(partial, path)
    except BaseException:
        if kept:
            with suppress(OSError):
                os.replace(older, path)
        raise


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads a checkpoint.

    Returns:
        The arrays by name, and the header.

    Raises:
        DataError: no such file, a damaged one, or one of an unknown format.
    """
    try:
        with opened(path) as file:
            arrays = unpack(file)
        if _HEADER not in arrays:
            raise DataError("it lacks a header, as files that gpuspike saves have")
        header = json.loads(str(arrays.pop(_HEADER)))
    except FileNotFoundError:
        raise DataError(f"no checkpoint at {path}") from None
    except Exception as error:  # a damaged archive raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise UnknownFormatError(f"{path} has checkpoint format {found!r}, expected {FORMAT}")
    if header.pop("arrays", None) != sorted(arrays):
        raise DataError(f"{path} is not a readable checkpoint: it lacks arrays that it had when written")
    return arrays, header


def recover(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any], str | None]:
    """Reads the newest checkpoint that is whole: the one at a path, or else the one before it.

    Returns:
        The arrays by name, the header, and why it is the one before; None if it is not.

    Raises:
        DataError: neither can be read, or the newest is of an unknown format.
    """
    try:
        return *load(path), None
    except UnknownFormatError:
        raise
    except DataError as error:
        try:
            arrays, header = load(previous(path))
        except DataError:
            raise error from None
        return arrays, header, f"{error}; going on from the one before, {previous(path).name}"


def set_aside(path: Path) -> None:
    """Puts the checkpoint before in the place of one that cannot be read, which is kept under another name.

    The next `save` would otherwise push the whole one out for the damaged one.

    Raises:
        OutputError: a file cannot be renamed.
    """
    try:
        if path.exists():
            os.replace(path, path.with_name(f"{path.stem}.unreadable{path.suffix}"))
        os.replace(previous(path), path)
    except OSError as error:
        raise OutputError(f"cannot set {path} aside: {error.strerror or error}") from None
