"""Downloads, from the first mirror that gives what was published."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from urllib.parse import urlsplit

from gpuspike.errors import DataError

TIMEOUT = 30.0
"""Seconds without a byte after which a mirror is given up."""

MOST_BYTES = 1 << 27
"""Larger answers are not what was asked for."""


class DownloadError(DataError):
    """No mirror gave the file; the message says why for each."""


def say(message: str) -> None:
    """A line for the user, beside the command's own output."""
    from gpuspike.screen import Screen

    Screen(stderr=True).print(message, soft_wrap=True, highlight=False)


def fetch(mirrors: Sequence[str], name: str, check: Callable[[bytes], object]) -> bytes:
    """A file's bytes, with a progress bar on a terminal and a line elsewhere.

    Args:
        mirrors: addresses that end with a slash, tried in order.
        check: raises DataError for bytes that are not those of the file; the next mirror is tried then.

    Raises:
        DownloadError: what each mirror did instead.
    """
    reasons: list[str] = []
    for mirror in mirrors:
        if reasons:
            say(f"no {name} from {reasons[-1]}; trying the next mirror")
        try:
            raw = _get(mirror + name)
            check(raw)
            return raw
        except (OSError, HTTPException, DataError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            reasons.append(
                f"{urlsplit(mirror).netloc}: {' '.join(str(reason).split()) or type(error).__name__}"
            )
    raise DownloadError("; ".join(reasons) or "there are no mirrors")


def _get(address: str) -> bytes:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from gpuspike.screen import Screen

    console = Screen(stderr=True)
    if not console.is_terminal:
        say(f"downloading {address}")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    request = urllib.request.Request(address, headers={"User-Agent": "gpuspike"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT) as answer,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress,
    ):
        length = answer.headers.get("Content-Length")
        total = int(length) if length is not None else None
        task = progress.add_task(f"downloading {address}", total=total)
        raw = bytearray()
        while part := answer.read(1 << 16):
            raw += part
            progress.update(task, completed=len(raw))
            if len(raw) > MOST_BYTES:
                raise DataError(f"the answer is longer than {MOST_BYTES} bytes")
    if total is not None and len(raw) != total:
        raise DataError(f"the connection ended after {len(raw)} of {total} bytes")
    return bytes(raw)
