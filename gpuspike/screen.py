"""What is said to a user: plain text, in whatever the output can show.

Paths, names and classes are words of a user or of a stranger's file. Nothing in them is markup or a command
to the terminal, and a character that an output cannot show costs that character, never the work whose end it
tells.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_LINE = _CONTROLS | {ord("\n"): " ", ord("\t"): " "}
_NEAR = {"±": "+-", "µ": "u", "°": " degrees", "…": "...", "→": "->"}
"""What stands for the characters that gpuspike itself uses."""

_ERRORS = "gpuspike_near"


def _near(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAR.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _near)


_SECRETS = (
    (re.compile(r"(\w://[^\s/:@]*:)(?!\d{1,5}/)\S*(@)"), r"\1***\2"),
    (re.compile(r"((?:password|passwd|pwd|token|api_key|secret)=)[^\s&;,'\"]+", re.IGNORECASE), r"\1***"),
)


def discreet(text: str) -> str:
    """Text without the passwords of the addresses in it."""
    for secret, shown in _SECRETS:
        text = secret.sub(shown, text)
    return text


def clean(text: str) -> str:
    r"""Text that tells no password and whose control characters do nothing: an escape is shown as \x1b."""
    return discreet(text).translate(_CONTROLS)


def line(text: str) -> str:
    """The same on one line."""
    return discreet(text).translate(_LINE)


def open_streams() -> None:
    """Makes standard output and errors take every character, whatever their encoding."""
    for stream in (sys.stdout, sys.stderr):
        # In a notebook or a test they are no files.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors=_ERRORS)


LINE: dict[str, Any] = {"soft_wrap": True, "markup": False}
"""How a line of plain text is printed, by whatever console."""


def warn(text: str, console: Console) -> None:
    """A line that a user should not miss."""
    console.print(Text.assemble(("warning", "yellow"), f"  {line(text)}"), soft_wrap=True)


class Screen(Console):
    """A console that takes text as it is: no markup, no emoji; a full disk under its output ends nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})
        self._lost = False

    def render_str(self, text: str, **options: Any) -> Text:
        """See `rich.console.Console`."""
        return super().render_str(clean(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """See `rich.console.Console`. What cannot be written is left out, and said once on standard error."""
        if self._lost:
            return
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._lost = True
            print(f"gpuspike: warning: the output cannot be written: {error.strerror}", file=sys.stderr)
            _discard(self.file)

    def status(self, status: Any, **options: Any) -> Status:
        """See `rich.console.Console`."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)


def _discard(file: Any) -> None:
    """Lets an output lead nowhere, so that the end of the program does not fail on it."""
    try:
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, file.fileno())
        os.close(handle)
    except (OSError, ValueError, AttributeError):
        return
