"""A second process beside this one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuspike import forks
from gpuspike.forks import Line, second_process
from gpuspike.runs import drawing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no second process")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "thread_count", lambda: 2)


def started(work: Callable[[Line], object]) -> forks.Second:
    second = second_process(work)
    assert second is not None
    return second


def is_over(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("size", [0, 1, 129, 3_000_000])
def test_each_says_one_thing(size: int) -> None:
    def work(first: Line) -> None:
        first.say(first.heard()[::-1] + str(os.getpid()).encode())

    second = started(work)
    said = bytes(range(256)) * (size // 256 + 1)
    second.say(said[:size])
    heard = second.heard()
    assert heard[:size] == said[:size][::-1]
    assert int(heard[size:]) != os.getpid()
    second.join()
    second.close()
    assert is_over(int(heard[size:]))


def test_it_prints_nothing_and_its_errors_are_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    def work(first: Line) -> None:
        os.write(1, b"heard")
        os.write(2, b"heard")
        raise ValueError("of the second")

    second = started(work)
    assert second.heard() == b""
    second.say(b"nobody hears")
    second.close()
    assert capfd.readouterr() == ("", "")


def test_closing_ends_it(tmp_path: Path) -> None:
    second = started(lambda first: (first.say(str(os.getpid()).encode()), signal.pause()))
    process = int(second.heard())
    second.close()
    second.close()  # twice does nothing
    assert is_over(process)


@pytest.mark.parametrize("wait", [forks.Second.heard, forks.Second.join])
def test_one_that_hangs_is_done_without(
    wait: Callable[[forks.Second], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "PATIENCE", 0.2)
    second = started(lambda _: signal.pause())
    process = second._process
    assert process is not None
    assert wait(second) in (b"", None)
    second.close()
    assert is_over(process)


def test_ctrl_c_is_not_for_it() -> None:
    def work(first: Line) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        first.say(b"alive")

    second = started(work)
    assert second.heard() == b"alive"
    second.close()


def test_one_thread_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "thread_count", lambda: 1)
    assert second_process(lambda _: None) is None


def no_process() -> int:
    raise BlockingIOError


def test_a_full_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", no_process)
    assert second_process(lambda _: None) is None


@pytest.mark.parametrize("how", ["alone", "two", "the other killed", "no room"])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_all_figures_are_drawn_once_and_in_order(
    n: int, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()

    def save(made: Any, folder: Path, name: str) -> None:
        time.sleep(0.02)
        if how == "the other killed" and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        if made % 3 == 1:
            raise OSError("disk is full")
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write("drawn\n")

    monkeypatch.setattr(drawing.plots, "save", save)
    if how == "no room":
        monkeypatch.setattr(os, "fork", no_process)
    figures: Any = {f"figure{k}": lambda k=k: k for k in range(n)}
    missing = drawing.drawn(figures, tmp_path, alone=how == "alone")
    assert list(missing.items()) == [(f"figure{k}", "OSError: disk is full") for k in range(1, n, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"figure{k}" for k in range(n) if k % 3 != 1]
    assert {path.read_text() for path in tmp_path.iterdir()} <= {"drawn\n"}
