"""IDX files of image data sets: the user's, the cached or downloaded ones; always verified.

The format: http://yann.lecun.com/exdb/mnist: two zero bytes, the type (8: unsigned byte), the number of
dimensions, each dimension as a big-endian 32-bit number, then the values in C order.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets.download import DownloadError, fetch, say
from gpuspike.errors import DataError
from gpuspike.reading import opened

FOLDER_VARIABLE = "GPUSPIKE_DATA"
"""Environment variable that names a folder with one folder a data set, searched before everything else."""


@dataclass(frozen=True)
class IdxFile:
    """A published file of unsigned bytes.

    Attributes:
        name: without .gz.
        shape: of its values, samples first.
        content: sha256 of the file, uncompressed; None where that is not known.
        shrunk: sha256 of the pixels of the images at 16x16; None where that is not known.
    """

    name: str
    shape: tuple[int, ...]
    content: str | None = None
    shrunk: str | None = None

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names under which copies of the file go round."""
        stems = (self.name, self.name.replace("-idx", ".idx"))
        return tuple(stem + ending for ending in (".gz", "") for stem in stems)

    @property
    def header(self) -> bytes:
        """What the file begins with."""
        return bytes((0, 0, 8, len(self.shape))) + struct.pack(f">{len(self.shape)}I", *self.shape)

    def decode(self, raw: bytes) -> NDArray[np.uint8]:
        """The values of a plain or gzipped file's bytes.

        Raises:
            DataError: what was expected, and what was got.
        """
        header = self.header
        expected = len(header) + int(np.prod(self.shape))
        if raw[:2] == b"\x1f\x8b":
            try:
                with gzip.open(io.BytesIO(raw)) as stream:
                    raw = stream.read(expected + 1)  # a longer file need not be read to its end
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"a damaged .gz file: {error}") from None
        if raw[: len(header)] != header:
            size = " x ".join(map(str, self.shape))
            raise DataError(
                f"expected an IDX file of {size} bytes, got the header {raw[: len(header)].hex()}"
            )
        if len(raw) != expected:
            got = f"{len(raw)}" if len(raw) < expected else "more"
            raise DataError(f"expected {expected} bytes, got {got}")
        if self.content and (got := hashlib.sha256(raw).hexdigest()) != self.content:
            raise DataError(f"expected content of sha256 {self.content[:16]}..., got {got[:16]}...")
        return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(self.shape)


@dataclass(frozen=True)
class Source:
    """A data set of images in four IDX files.

    Attributes:
        name: of the data set and of its folder.
        mirrors: addresses of folders that hold the files with .gz added, in the order to try.
        n_validation: how many of the training file's last samples validate.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: IdxFile
    train_labels: IdxFile
    test_images: IdxFile
    test_labels: IdxFile
    mirrors: tuple[str, ...]
    n_validation: int = 10_000

    @property
    def folders(self) -> tuple[str, ...]:
        """Names under which a folder with its files goes round: with a hyphen it is Debian's."""
        return tuple(dict.fromkeys((self.name, self.name.replace("_", "-"))))


def obtain(
    source: Source, file: IdxFile, cache: Path, decode: Callable[[bytes], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """What a file holds: the user's own copy, else the cached one, else a download, which is then cached.

    Args:
        cache: folder that holds one folder a data set.
        decode: makes the values of a file's bytes, or raises DataError.

    Raises:
        DataError: which file or folder, what is wrong, and what to do.
    """
    own = _own_copy(source, file)
    if own is not None:
        try:
            return decode(_read(own))
        except DataError as error:
            raise DataError(
                f"{own} cannot be used: {error}; replace it, or remove it to have it downloaded"
            ) from None
    path = cache / source.name / f"{file.name}.gz"
    if os.path.exists(path):  # unlike Path.exists, False where the folder cannot be searched
        try:
            return decode(_read(path))
        except DataError as error:
            say(f"{path} cannot be used: {error}; downloading it again")
    try:
        raw = fetch(source.mirrors, path.name, file.decode)
    except DownloadError as error:
        raise DataError(
            f"cannot download {path.name} of {source.name}: {error}; "
            f"put the file into {path.parent}, or {_way_out(source)}"
        ) from None
    try:
        place(path, lambda stream: stream.write(raw))
    except OSError as error:
        lack = f"free {len(raw) / 1e6:.0f} MB" if error.errno == errno.ENOSPC else "make the folder writable"
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; {lack}, or {_way_out(source)}"
        ) from None
    return decode(raw)


def _way_out(source: Source) -> str:
    return f"set {FOLDER_VARIABLE} to a folder that holds it in {source.name}/"


def _own_copy(source: Source, file: IdxFile) -> Path | None:
    """The user's copy of a file, if there is one."""
    given = os.environ.get(FOLDER_VARIABLE)
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{FOLDER_VARIABLE} must name a folder, got {given}, which is none; correct or unset it"
        )
    for place in source.folders:
        try:
            present = os.listdir(folder / place)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{folder / place} cannot be read: {error.strerror or error}") from None
        if own := next((folder / place / name for name in file.spellings if name in present), None):
            return own
    return None


def _read(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror or error}") from None


def place(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that whoever looks finds a whole one or none, however many processes write it.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False
    )
    try:
        with stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(stream.name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(stream.name)
        raise
