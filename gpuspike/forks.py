"""A second process beside this one, where there is a core for it: a fork, which has all that this one has."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from gpuspike.backend import thread_count

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that this process gets when the one that has made it ends."""

PATIENCE = 60.0
"""Seconds without a word, or an end, after which a second process is ended, and done without."""


class Line:
    """Between two processes; each says one thing, of any length."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def say(self, data: bytes) -> None:
        """Says it, if there is anybody to hear it."""
        with suppress(OSError):
            self._end.sendall(data)
            self._end.shutdown(socket.SHUT_WR)

    def heard(self) -> bytes:
        """What the other one says; nothing, or a part, if it has come to an end."""
        with suppress(OSError), self._end.makefile("rb") as file:
            return file.read()
        return b""

    def close(self) -> None:
        """Nothing more is said or heard."""
        self._end.close()


class Second(Line):
    """A second process, as the first one sees it."""

    def __init__(self, process: int, end: socket.socket) -> None:
        super().__init__(end)
        end.settimeout(PATIENCE)
        self._process: int | None = process

    def join(self) -> None:
        """Waits for its end."""
        last = time.monotonic() + PATIENCE
        while not self._is_over(os.WNOHANG) and time.monotonic() < last:
            time.sleep(0.01)
        self.close()

    def close(self) -> None:
        """Ends it, whatever it does."""
        super().close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            self._is_over(0)

    def _is_over(self, how: int) -> bool:
        if self._process is not None:
            try:
                found, _ = os.waitpid(self._process, how)
            except ChildProcessError:  # somebody else has waited for it
                found = self._process
            self._process = self._process if found == 0 else None
        return self._process is None


def second_process(work: Callable[[Line], object]) -> Second | None:
    """Has another process do some work; None where there is no fork, no second core (or thread), or no room.

    It says nothing to the user, has none of this process's threads, ends with it, and must not use a device.

    Args:
        work: is given the line to this process. What it raises ends the other process in silence.
    """
    # macOS has fork, but not for processes that have used its libraries.
    if sys.platform != "linux" or thread_count() < 2:
        return None
    with suppress(OSError):  # no memory, or too many processes
        ours, theirs = socket.socketpair()
        with ours, theirs, _undisturbed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about threads
            process = os.fork()
            if process == 0:
                _live(work, ours, theirs)
            return Second(process, ours.dup())
    return None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits: at no moment two processes take it for theirs, and none is nobody's."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live(work: Callable[[Line], object], ours: socket.socket, theirs: socket.socket) -> NoReturn:
    """The life of the second process."""
    try:
        ours.close()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):  # what the first one does then is not to be done twice
                signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        sys.stdout = sys.stderr = open(nowhere, "w", encoding="utf-8", closefd=False)  # theirs may have locks
        work(Line(theirs))
    finally:
        os._exit(0)
