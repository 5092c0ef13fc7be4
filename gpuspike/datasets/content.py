"""What the files of a data set hold, as digests: other content under the same name is other data."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuspike.datasets.samples import DATASETS
from gpuspike.reading import opened

SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file has another time than the one before, on any file system."""

_CHUNK = 1 << 20

_known: dict[tuple[int, ...], str] = {}  # by what the system says of a file that has not changed


def digests(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Of each value of a data set that is the path of a file, the digest of what it holds.

    Args:
        name: of the data set;  values: of its configuration.

    Returns:
        Nothing of a path at which there is no regular file.
    """
    files = DATASETS[name].files if name in DATASETS else ()
    found = {key: _digest(Path(values[key])) for key in files if values.get(key)}
    return {key: digest for key, digest in found.items() if digest is not None}


def _digest(path: Path) -> str | None:
    """16 hexadecimal digits of the sha256 of a file, read once for as long as it stays as it is."""
    try:
        with opened(path) as file:
            now = os.fstat(file.fileno())
            mark = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            if mark in _known:
                return _known[mark]
            whole = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                whole.update(chunk)
    except OSError:
        return None
    digest = whole.hexdigest()[:16]
    if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) > SETTLED:  # else a change might not show
        _known[mark] = digest
    return digest
