"""Files that somebody else may have written: looked at before they are unpacked, never written through."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, DtypeError
from gpuspike.reading import opened

MOST_TEXT = 1 << 20
"""Bytes of a YAML file."""
MOST_DEEP = 50
"""Brackets and blocks of a YAML file within one another."""
MOST_NODES = 100_000
"""Values of a YAML file, those that stand for others by a name unfolded."""
MOST_UNPACKED, MOST_RATIO = 1 << 30, 200
"""An archive may unpack to so many bytes, or to so many times its size; images shrink to a tenth."""


def yaml_text(path: Path) -> str:
    """The text of a YAML file that is safe to read.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read at all.
        yaml.YAMLError: it is no YAML.
        DataError: it is longer, deeper or unfolds to more than a person writes.
    """
    with opened(path) as file:
        raw = file.read(MOST_TEXT + 1)
    if len(raw) > MOST_TEXT:
        raise DataError(f"a YAML file has {MOST_TEXT} bytes at most, got more")
    text = raw.decode("utf-8")
    look_at_yaml(text)
    return text


@dataclass
class _Open:
    """A mapping or a list of a YAML text that has begun."""

    anchor: str | None
    before: int  # values when it began
    keys: set[str] | None  # of a mapping, None of a list
    at_key: bool = True


def look_at_yaml(text: str) -> None:
    """Goes through the text's marks without making anything of them; raises as `yaml_text`."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    sizes: dict[str, int] = {}
    opened: list[_Open] = []
    count = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.NodeEvent):
            count += sizes.get(event.anchor, 1) if isinstance(event, yaml.AliasEvent) else 1
            if opened and (keys := opened[-1].keys) is not None:
                if opened[-1].at_key and isinstance(event, yaml.ScalarEvent):
                    if event.value in keys and event.value != "<<":
                        raise DataError(
                            f"line {event.start_mark.line + 1}: found duplicate key {event.value}, "
                            "of which only the last would count"
                        )
                    keys.add(event.value)
                opened[-1].at_key = not opened[-1].at_key
            if isinstance(event, yaml.CollectionStartEvent):
                mapping = isinstance(event, yaml.MappingStartEvent)
                opened.append(_Open(event.anchor, count, set() if mapping else None))
                if len(opened) > MOST_DEEP:
                    raise DataError(f"a YAML file is at most {MOST_DEEP} levels deep, got more")
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = opened.pop()
            if ended.anchor is not None:
                sizes[ended.anchor] = count - ended.before + 1
        if count > MOST_NODES:
            raise DataError(f"a YAML file unfolds to {MOST_NODES} values at most, got more")


def no_interpolation(values: Any, key: str = "") -> None:
    """Refuses texts that OmegaConf would replace, by a variable of whoever reads them for example.

    Raises:
        DataError: such a text, and where it is.
    """
    if isinstance(values, Mapping):
        for name, value in values.items():
            no_interpolation(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            no_interpolation(value, f"{key}[{number}]")
    elif isinstance(values, str) and "${" in values:
        raise DataError(f"values must be what they are, not refer to others, got {key}={values!r:.80}")


def unpack(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz archive, whose sizes are looked at before any of it is unpacked.

    Raises:
        ValueError, OSError, zipfile.BadZipFile and more: it is damaged, no archive, or holds objects.
        DataError: it unpacks to far more than it is.
    """
    size = os.fstat(file.fileno()).st_size
    if not zipfile.is_zipfile(file):
        file.seek(0)
        single = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        raise DataError("it holds a single array" if single else "it is no .npz archive")
    file.seek(0)
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > max(MOST_UNPACKED, MOST_RATIO * size):
            raise DataError(f"it would unpack to {total / 1e6:.0f} MB from {size / 1e6:.1f} MB")
        for member in members:
            with archive.open(member) as stream:
                _check_header(member.filename, stream, member.file_size)
        for member in members:
            with archive.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _check_header(name: str, stream: IO[bytes], size: int) -> None:
    """Refuses an array whose header tells of another number of bytes than there are."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise DataError(f"{name} is of the unknown format {version}")
    shape, _, dtype = read[version](stream)
    if dtype.hasobject:
        told = name.removesuffix(".npy")
        raise DataError(
            f"{told} must hold numbers or texts, got an array of objects: {told}.astype(...) makes some"
        )
    expected = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if expected != size - stream.tell():
        raise DataError(f"{name} must hold {expected} bytes, {shape} {dtype}, got {size - stream.tell()}")


def write_new(path: Path, mode: str) -> IO[Any]:
    """Opens a new file for writing: what had its name, a link for example, is removed first."""
    path.unlink(missing_ok=True)
    return open(path, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8")


def names_of(place: str, given: Any) -> tuple[str, ...]:
    """Names of classes: texts, or bytes of UTF-8.

    Raises:
        DtypeError: something else, or half a surrogate pair, which no file can hold.
    """
    names = []
    for name in np.asarray(given).ravel().tolist() if isinstance(given, np.ndarray) else list(given):
        try:
            text = name.decode("utf-8") if isinstance(name, bytes) else str(name)
            text.encode("utf-8")
        except UnicodeError:
            raise DtypeError(f"{place} must be texts that UTF-8 can hold, got {name!r}") from None
        names.append(text)
    return tuple(names)
