"""Two processes compile one job."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba import types
from numba.core.bytecode import FunctionIdentity
from numba.extending import overload

from gpuspike import forks
from gpuspike.kernels.cpu import beside
from gpuspike.kernels.cpu.compiler import _First, compiling, njit, pieces, shared

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no second process")
TYPES = (types.float64[::1], types.float64)


@njit(error_model="numpy")
def _half(x):
    return 0.5 * x


@njit(error_model="numpy", process="first")
def _fill(numbers, value):
    for i in range(numbers.size):
        numbers[i] = _half(value) + i


@njit(error_model="numpy", process="second")
def _largest(numbers):
    found = np.empty(1, np.bool_)  # Numba's functions have numbers of their own in each process
    found[0] = False
    best = -math.inf
    for x in numbers:
        best, found[0] = max(best, _half(x)), True
    return best if found[0] else math.nan


_rows: dict[type, Any] = {}


def value_of(numbers, x):
    """What numbers of a class stand for, as a loss's row."""
    raise TypeError("compiled code only")


@overload(value_of, jit_options={"error_model": "numpy"})
def _value_of(numbers, x):
    row = _rows[numbers.instance_class]
    return lambda numbers, x: row(numbers, x)  # noqa: PLW0108


@njit(error_model="numpy", process="second")
def _long(told, numbers):
    """Too long to be a part of its job: it keeps its name."""
    total = 0.0
    for x in numbers:
        for k in range(3):
            if x > k:
                total += math.exp(-x) * value_of(told, x) + math.sin(total)
            else:
                total -= math.log(1 + x * x) * value_of(told, x)
        if total > 1e3:
            total = math.sqrt(total) * math.atan(total)
        if total < -1e3:
            total = -math.sqrt(-total) * math.atan(total) + math.cosh(x / 100)
    for x in numbers:
        for k in range(5):
            if x > 2 * k:
                total += math.exp(-3 * x) * value_of(told, x) + math.tan(total) * 1e-9
            else:
                total -= math.log(2 + x * x) * value_of(told, x) * 1e-9
    return total


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "thread_count", lambda: 2)
    for piece in (_half, _fill, _largest, _long):
        monkeypatch.setattr(piece, "overloads", type(piece.overloads)())


def new_job() -> Any:
    @numba.njit(error_model="numpy")
    def job(numbers, value):
        _fill(numbers, value)
        return _largest(numbers)

    return job


def is_right(job: Any) -> bool:
    return job(np.empty(33), 3.0) == 0.5 * (1.5 + 32)


def number_of(piece: Any) -> int:
    (result,) = piece.overloads.values()
    return int(result.fndesc.unique_name.rpartition("$")[2])


def came_from_the_other(piece: Any) -> bool:
    """Numbers of the other process are far off those of this one."""
    return abs(number_of(piece) - next(FunctionIdentity._unique_ids)) > 1_000_000  # type: ignore[attr-defined]


def is_tidy() -> bool:
    return shared.wait is None and not shared.only_second and not beside._begun and not beside._offered


@linux
def test_a_job_is_put_together_of_what_two_processes_compiled(tmp_path: Path) -> None:
    job, there = new_job(), tmp_path / "there"

    def more() -> None:
        there.write_text(f"{os.getpid()} {is_right(job)} {came_from_the_other(_fill)}")

    with beside.offered([more]) as join:
        beside.compiled(job, TYPES)
        join()
        process, right, from_the_other = there.read_text().split()
    assert is_right(job)
    assert is_tidy()
    assert not came_from_the_other(_fill)
    assert came_from_the_other(_largest)
    assert int(process) != os.getpid()
    assert (right, from_the_other) == ("True", "True")


def test_classes_of_one_name_are_told_apart_in_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of two files of losses, or of one that was changed: each job has its own code."""
    answers, jobs = [], []  # a job that is no longer used takes its names along
    for value in (1.0, 2.0, 3.0):

        class Numbers(NamedTuple):
            size: float

        file: Any = ModuleType(f"losses_{value:g}")
        file.Numbers, Numbers.__module__, Numbers.__qualname__ = Numbers, file.__name__, "Numbers"
        monkeypatch.setitem(sys.modules, file.__name__, file)

        @njit(error_model="numpy")
        def row(numbers, x, value=value):
            return value

        _rows[Numbers] = row

        @numba.njit(error_model="numpy")
        def job(told, numbers):
            _fill(numbers, 1.0)
            return _long(told, numbers) + 1e-30 * _long(told, numbers)

        told, numbers = Numbers(1.0), np.empty(2)
        with beside.offered([]):
            beside.compiled(job, (numba.typeof(told), types.float64[::1]))
        answers.append(job(told, numbers))
        jobs.append(job)
    np.testing.assert_allclose(answers, [0.338296, 0.521999, 0.44782], rtol=1e-4)
    numbers = [result.fndesc.unique_name for result in _long.overloads.values()]
    assert len(set(numbers)) == 3


def _alone() -> None:
    job = new_job()
    with beside.offered([]):
        beside.compiled(job, TYPES)
    assert is_right(job)
    assert is_tidy()
    assert not came_from_the_other(_fill)
    assert not came_from_the_other(_largest)


def test_one_thread_compiles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "thread_count", lambda: 1)
    _alone()


def test_without_an_offer_there_is_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a fork"))
    job = new_job()
    beside.compiled(job, TYPES)
    assert is_right(job)


def test_what_is_compiled_or_kept_needs_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a fork"))
    job, kept = new_job(), new_job()
    job.compile(TYPES)
    kept._cache.has = lambda *_: True
    with beside.offered([]):
        beside.compiled(job, TYPES)
        beside.compiled(kept, TYPES)
    assert is_right(job)
    assert is_right(kept)


def test_a_machine_that_gives_no_process_has_one_do_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", no_process)
    _alone()


@pytest.mark.parametrize(
    "end",
    [
        lambda *_: os.kill(os.getpid(), signal.SIGKILL),
        lambda *_: os._exit(1),
        lambda *_: 1 // 0,
    ],
    ids=["killed", "gone", "failed"],
)
def test_a_process_that_comes_to_nothing_is_done_without(
    end: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_compile_pieces", end)
    _alone()


def test_half_a_message_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = beside._made
    monkeypatch.setattr(beside, "_made", lambda *known: made(*known)[:-100])
    _alone()


@linux
def test_the_other_process_does_not_outlive_an_interruption(tmp_path: Path) -> None:
    there = tmp_path / "there"

    def for_ever() -> None:
        there.write_text(str(os.getpid()))
        signal.pause()

    def interrupted() -> None:
        with beside.offered([for_ever]):
            beside.compiled(new_job(), TYPES)
            for _ in range(600):
                if there.exists() and there.read_text():
                    raise KeyboardInterrupt
                time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert is_tidy()
    with pytest.raises(ProcessLookupError):
        os.kill(int(there.read_text()), 0)


def test_a_job_that_asks_for_nothing_waits_for_nothing() -> None:
    @numba.njit(error_model="numpy")
    def job(numbers, value):
        _fill(numbers, value)
        return numbers[0]

    start = time.monotonic()
    with beside.offered([signal.pause]) as join:
        beside.compiled(job, TYPES)
        join()
    assert time.monotonic() - start < forks.PATIENCE / 2
    assert is_tidy()


def test_only_this_process_says_that_it_compiles() -> None:
    said: list[int] = []
    with compiling(lambda: said.append(os.getpid())), beside.offered([]):
        beside.compiled(new_job(), TYPES)
    assert said == [os.getpid()]
    listener = _First(lambda: said.append(0))
    listener._process += 1
    listener.on_start(None)
    assert said == [os.getpid()]


def test_what_the_step_is_made_of_is_shared() -> None:
    from gpuspike.kernels.cpu import step

    marked = {name.rpartition(".")[2]: piece.process for name, piece in pieces.items() if piece.process}
    marked = {name: process for name, process in marked.items() if name in vars(step)}
    assert marked == {
        "_present": "first",
        "_draw": "first",
        "forward_piece": "first",
        "_observe": "second",
        "_score": "second",
        "wake": "second",
        "groups_piece": "second",
        "_learn": "second",
    }


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["yin_yang", "yin_yang_bss2"])
def test_a_run_has_the_same_bits_however_it_was_compiled(experiment: str, tmp_path: Path) -> None:
    weights = []
    for threads in "12":
        folder = tmp_path / threads
        names = {"NUMBA_CACHE_DIR": str(tmp_path / f"kernels{threads}"), "NUMBA_NUM_THREADS": threads}
        code = "from gpuspike.cli.train import train; train()"
        keys = [f"experiment={experiment}", "training.epochs=1", f"hydra.run.dir={folder}"]
        subprocess.run([sys.executable, "-c", code, *keys], env=os.environ | names, check=True)
        with np.load(folder / "checkpoint.npz") as kept:
            weights.append({name: kept[name] for name in kept.files if name != "header"})
    assert list(weights[0]) == list(weights[1])
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])
