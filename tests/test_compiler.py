"""Pieces of jobs: compiled with the jobs, called from Python too."""

from __future__ import annotations

import gc
import io
import signal
import weakref
from typing import Any

import numba
import pytest
from numba.core import types
from rich.console import Console

from gpuspike.config.schema import jobs
from gpuspike.kernels.cpu import compiler
from gpuspike.kernels.cpu.compiler import compiling, njit
from gpuspike.runs import rehearsal
from gpuspike.runs.experiment import build
from gpuspike.runs.memory import uncollected


def _inverse(x, power):
    """A function of two arguments, the second of which callers may know."""
    if x == 0.0:
        raise ValueError("no inverse")
    return (1.0 / x) ** power


@pytest.fixture
def piece() -> Any:
    return njit()(_inverse)


def test_this_numba_is_one_whose_steps_are_known() -> None:
    assert compiler.IS_KNOWN


def test_a_piece_works_in_jobs_and_from_python(piece: Any) -> None:
    @numba.njit
    def job(x, power):
        return piece(x, power) + 1.0

    assert job(4.0, 2) == 1.0 + 0.25**2
    (result,) = piece.overloads.values()
    assert isinstance(result.library, compiler.Piece)
    assert piece(4.0, 2) == 0.25**2  # as Numba compiles it: its machine code exists only then
    assert job(2.0, 1) == 1.5
    assert len(piece.overloads) == 1


def test_pieces_are_made_of_pieces(piece: Any) -> None:
    @njit(error_model="numpy")
    def outer(x):
        return piece(x, 1) + piece(x, 2)

    @numba.njit
    def job(x):
        return outer(x)

    assert job(2.0) == 0.75
    assert outer(2.0) == 0.75


def test_constants_have_no_code_of_their_own(piece: Any) -> None:
    @numba.njit
    def job(x, power):
        return piece(x, 1) + piece(x, 2) + piece(x, power=power)

    assert job(2.0, 3) == 0.875
    assert list(piece.overloads) == [(types.float64, types.int64)]


@pytest.mark.parametrize("quick_first", [False, True])
def test_a_piece_is_the_same_whoever_is_compiled_first(quick_first: bool) -> None:
    """What a function does not say Numba takes from the caller that it is first compiled for."""

    @njit(error_model="numpy")
    def piece(a, b, c):
        return a * b + c

    @numba.njit(error_model="numpy", fastmath={"contract"})
    def quick(a, b, c):
        return piece(a, b, c)

    @numba.njit
    def plain(a, b, c):
        return piece(a, b, c)

    a = 1.0 + 2.0**-30
    rest = -(1.0 + 2.0**-29)  # a * a is 2^-60 more, which its product rounds away
    for job in (quick, plain) if quick_first else (plain, quick):
        assert job(a, a, rest) == 0.0
    (result,) = piece.overloads.values()
    assert "fmul double" in result.library.get_llvm_str()


def test_what_a_piece_raises_reaches_python(piece: Any) -> None:
    @numba.njit
    def job(x):
        return piece(x, 1)

    for function in (job, lambda x: piece(x, 1)):
        with pytest.raises(ValueError, match="no inverse"):
            function(0.0)


def test_a_numba_with_other_steps_compiles_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "IS_KNOWN", False)
    piece: Any = njit()(_inverse)

    @numba.njit
    def job(x):
        return piece(x, 1)

    assert job(2.0) == piece(2.0, 1) == 0.5
    assert not any(isinstance(result.library, compiler.Piece) for result in piece.overloads.values())


def test_garbage_is_searched_for_again_after_compiling() -> None:
    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert gc.isenabled()
    gc.disable()  # the caller's wish
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_made_unsearched_is_old_and_still_found_to_be_garbage() -> None:
    class Circle:
        pass

    gc.collect()
    with uncollected(lasting=True):
        circle = Circle()
        circle.itself = circle  # type: ignore[attr-defined]
        known = weakref.ref(circle)
        del circle
    gc.collect(1)
    assert known() is not None
    gc.collect()
    assert known() is None
    assert gc.get_freeze_count() == 0


def test_compiling_is_told_once_and_only_where_there_is_any(piece: Any) -> None:
    @numba.njit
    def job(x):
        return piece(x, 1) + piece(x, 2)

    told: list[int] = []
    for _ in range(2):  # the second time it is there
        with compiling(lambda: told.append(1)):
            assert job(2.0) == 0.75
    assert told == [1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dtype=float32"], "and answers in float32"),
        (["substrate=bss2"], "and answers in float64, on an emulated chip"),
        (
            ["substrate.tau_syn_std=0.1"],
            "and answers in float64, on an emulated chip, with time constants of their own",
        ),
    ],
)
def test_a_run_says_what_it_compiles_before_it_does(
    overrides: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs([*overrides, "backend=cpu"], multirun=False)
    page = io.StringIO()
    said: list[str] = []

    def compiled() -> None:
        numba.njit(lambda x: x + 1.0)(1.0)
        said.append(page.getvalue())

    monkeypatch.setattr(rehearsal, "_on_the_host", lambda parts: ((compiled,), ()))
    rehearsal.prepare_kernels(build(job.config), Console(file=page))  # no terminal
    words = f"training (adam, ttfs_cross_entropy, bumping) {words}"
    line = f"kernels  compiling those for {words}, once for each such kind on a machine: up to a minute"
    assert said[0].startswith(line)
    page = io.StringIO()
    monkeypatch.setattr(rehearsal, "_on_the_host", lambda parts: ((lambda: None,), ()))
    rehearsal.prepare_kernels(build(job.config), Console(file=page))
    assert page.getvalue() == ""


def test_ctrl_c_while_kernels_are_compiled_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs(["backend=cpu"], multirun=False)
    page, done = io.StringIO(), []

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append(page.getvalue())

    monkeypatch.setattr(rehearsal, "_on_the_host", lambda parts: ((interrupted, lambda: done.append("")), ()))
    with pytest.raises(KeyboardInterrupt):
        rehearsal.prepare_kernels(build(job.config), Console(file=page))
    assert done == ["kernels  stops when this one is compiled; Ctrl-C again stops at once\n"]


def test_more_threads_than_cores_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpuspike.backend.usable_cores", lambda: 1)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    (job,) = jobs(["backend=cpu", "dataset.n_train=300"], multirun=False)
    screen = io.StringIO()
    rehearsal.prepare_kernels(build(job.config), Console(file=screen, width=200))
    assert "warning  NUMBA_NUM_THREADS=2 is more than the 1 cores" in screen.getvalue()
