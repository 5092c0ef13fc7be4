"""Where compiled kernels are kept for later runs.

A folder that cannot be written, a full disk and a damaged file cost the time of compiling, never a run: what
is kept is checked when it is read, and compiled and kept again where it is not what was written.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from numba.core import config as numba_config
from platformdirs import user_cache_path

SOURCES = ("kernels", "training/losses", "training/optimizers", "accountant/counting.py")
"""What is compiled, in the package. Numba notices a change only in the file of the kernel itself, not in what
it calls: kernels of other sources are in another folder."""

# Numba's own, which are not of its public interface; its types say that they return nothing.
_Base: Any = caching._CacheLocator
_BaseImpl: Any = caching.CompileResultCacheImpl
_BaseFiles: Any = caching.IndexDataCacheFile
_BaseCache: Any = caching.FunctionCache

_problems: list[str] = []
_MARK = 4  # bytes of the checksum before the rest of a file


@cache
def digest() -> str:
    """Of the sources of all kernels."""
    package, found = Path(__file__).parents[1], hashlib.sha256()
    for name in SOURCES:
        place = package / name
        for source in [place] if place.is_file() else sorted(place.rglob("*.py")):
            if source != Path(__file__):
                found.update(source.read_bytes())
    return found.hexdigest()[:16]


@cache
def folder() -> Path | None:
    """Where kernels are kept, the same in each run; None: nowhere, so that each run compiles its own.

    NUMBA_CACHE_DIR, or the user's cache; where that cannot be written, a folder of this user's alone among
    the temporary files, which nobody else can put code into.
    """
    given = numba_config.CACHE_DIR  # type: ignore[attr-defined]
    wanted = Path(given) if given else user_cache_path("gpuspike") / "kernels"
    reason = _unusable(wanted)
    if reason is None:
        return wanted / digest()
    try:
        other = Path(tempfile.gettempdir()) / f"gpuspike-kernels-{_user()}"
        other.mkdir(mode=0o700, exist_ok=True)
        second = _unusable(other) if _own(other) else f"{other} is another user's"
        if second is None:
            return other / digest()
    except OSError as error:
        second = error.strerror or str(error)
    _problems.append(f"{wanted}: {reason}; {second}")
    return None


def _user() -> int | str:
    return os.getuid() if hasattr(os, "getuid") else ""


def _own(place: Path) -> bool:
    """Whether a folder is this user's, and nobody else can write there."""
    found = os.lstat(place)
    return not place.is_symlink() and _user() in ("", found.st_uid) and not found.st_mode & 0o022


def _unusable(place: Path) -> str | None:
    """Why nothing can be kept below a folder."""
    try:
        (place / digest()).mkdir(parents=True, exist_ok=True)
        return None if os.access(place / digest(), os.W_OK) else "not writable"
    except OSError as error:
        return error.strerror or str(error)


def problem() -> str | None:
    """What has kept a kernel of this process from being kept, in words; None: nothing has."""
    return _problems[0] if _problems else None


def told() -> str:
    """What has become of what was compiled, for the user."""
    return "kept for later runs" if problem() is None else f"not kept for later runs: {problem()}"


def damaged() -> list[Path]:
    """Files of the folder that are not what was written; they are made again when they are next asked for."""
    return [path for path in _files() if not _whole(path)]


def _files() -> Iterator[Path]:
    place = folder()
    if place is not None:
        yield from sorted(path for path in place.glob("*.nb[ic]") if path.is_file())


def _whole(path: Path) -> bool:
    try:
        _read(path)
    except (OSError, ValueError):
        return False
    return True


def _read(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        mark, data = file.read(_MARK), file.read()
    if mark != zlib.crc32(data).to_bytes(_MARK, "big"):
        raise ValueError(f"{path} is damaged")
    return data


class _Locator(_Base):
    """The folder above, for every kernel."""

    def __init__(self, function: Any, file: str) -> None:
        self._py_file = file
        self._name = f"{function.__code__.co_firstlineno}-{function.__module__.rpartition('.')[0]}"

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        """See Numba."""
        return cls(function, file)

    def get_cache_path(self) -> str:
        """See Numba."""
        return str(folder())

    def get_source_stamp(self) -> str:
        """See Numba."""
        return digest()

    def get_disambiguator(self) -> str:
        """See Numba."""
        return hashlib.sha256(self._name.encode()).hexdigest()[:8]


class _Compiled(_BaseImpl):
    _locator_classes = [_Locator]  # noqa: RUF012

    def __init__(self, function: Any) -> None:
        given, numba_config.CACHE_LOCATOR_CLASSES = getattr(numba_config, "CACHE_LOCATOR_CLASSES", ""), ""  # type: ignore[attr-defined]
        try:
            super().__init__(function)
        finally:
            numba_config.CACHE_LOCATOR_CLASSES = given  # type: ignore[attr-defined]


class _Files(_BaseFiles):
    """Numba's files, each behind a checksum."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = pickle.loads(_read(self._index_path))
        except FileNotFoundError:
            return {}
        except Exception:  # damaged: what it led to is compiled again
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._put(self._index_path, (self._version, self._source_stamp, overloads))

    def save(self, key: Any, data: Any) -> None:
        """As Numba's, but data lie under a name of their key, not the next free number.

        Of two processes that compile at the same time one would overwrite what the other's index leads to.
        """
        overloads = self._load_index()
        overloads[key] = self._data_name(int(hashlib.sha256(repr(key).encode()).hexdigest()[:15], 16))
        self._save_data(overloads[key], data)
        self._save_index(overloads)

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_read(self._data_path(name)))

    def _save_data(self, name: str, data: Any) -> None:
        self._put(self._data_path(name), data)

    def _put(self, path: str, content: Any) -> None:
        data = self._dump(content)
        with self._open_for_write(path) as file:
            file.write(zlib.crc32(data).to_bytes(_MARK, "big") + data)


class _Kept(_BaseCache):
    """What Numba asks for a kernel and gives one to; it never raises."""

    _impl_class = _Compiled

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, digest())

    def has(self, sig: Any, target_context: Any) -> bool:
        """Whether there is one for these types, as far as can be told without reading it."""
        name = self._cache_file._load_index().get(self._index_key(sig, target_context.codegen()))
        return name is not None and os.path.exists(self._cache_file._data_path(name))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """See Numba."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # damaged, or of a Numba that writes otherwise: compiled again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """See Numba."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _problems.append(f"{self._cache_path}: {error.strerror or error}")


def njit(**options: Any) -> Any:
    """As `numba.njit(cache=True)`, kept in `folder`."""
    plain = numba.njit(**options)

    def declare(function: Any) -> Any:
        dispatcher: Any = plain(function)
        if folder() is not None and hasattr(dispatcher, "py_func"):  # else Numba is told not to compile
            dispatcher._cache = _Kept(function)
        return dispatcher

    return declare
