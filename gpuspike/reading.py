"""Files opened for reading: regular ones, since a pipe in their place would be waited for without an end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def opened(path: str | Path) -> BinaryIO:
    """A regular file, open for reading.

    Raises:
        OSError: there is none, or it is a pipe, a device, a folder.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def text_of(path: str | Path) -> str:
    """The text of a regular file.

    Raises:
        OSError: as for `opened`.
        UnicodeDecodeError: it is no text.
    """
    with opened(path) as file:
        return file.read().decode("utf-8").replace("\r\n", "\n")
