"""Files opened for reading: regular ones, since a pipe in their place would be waited for without an end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotAFile(OSError):
    """What is no regular file; in words, without the system's number."""

    def __str__(self) -> str:
        return str(self.strerror)


def opened(path: str | Path) -> BinaryIO:
    """A regular file, open for reading.

    Raises:
        OSError: there is none, or it is a pipe, a device, a folder.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(kind) else "no regular file"
        raise NotAFile(errno.EINVAL, f"it is {what}", str(path))
    return os.fdopen(handle, "rb")


def text_of(path: str | Path) -> str:
    """The text of a regular file.

    Raises:
        OSError: as for `opened`.
        UnicodeDecodeError: it is no text.
    """
    with opened(path) as file:
        return file.read().decode("utf-8").replace("\r\n", "\n")
