"""The team of threads: every piece is done once, errors reach the caller, several callers get along."""

from __future__ import annotations

import multiprocessing
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numba import njit

from gpuspike.kernels.cpu import team as cpu_team
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take, wait_for


@njit(nogil=True)
def _count(control, is_caller, done):
    enter(control, is_caller)
    while True:
        piece = take(control)
        if piece >= done.size:
            break
        done[piece] += 1
        finish(control)
    return leave(control, is_caller, done.size)


@njit(nogil=True)
def _sum_of_the_first_half(control, is_caller, numbers, sums):
    """The second half of the pieces needs all of the first."""
    enter(control, is_caller)
    half = numbers.size
    while True:
        piece = take(control)
        if piece >= 2 * half:
            break
        if piece < half:
            numbers[piece] = piece
        else:
            wait_for(control, half)
            sums[piece - half] = numbers.sum()
        finish(control)
    return leave(control, is_caller, 2 * half)


@pytest.fixture(params=[1, 2, 5])
def n_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many threads as the team has."""
    monkeypatch.setattr(cpu_team, "thread_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("pause", [0.0, 0.002])
@pytest.mark.parametrize("n_pieces", [0, 1, 2, 7, 1000])
def test_every_piece_is_done_once(n_threads: int, n_pieces: int, pause: float) -> None:
    done = np.zeros(n_pieces, np.int64)
    for turn in range(20):
        run(_count, (done,), parallel=turn % 5 != 4)
        np.testing.assert_array_equal(done, turn + 1)
        time.sleep(pause)  # long enough for helpers to fall asleep


def test_a_piece_may_wait_for_those_before_it(n_threads: int) -> None:
    for n in (1, 3, 100):
        numbers, sums = np.zeros(n, np.int64), np.zeros(n, np.int64)
        run(_sum_of_the_first_half, (numbers, sums))
        np.testing.assert_array_equal(sums, n * (n - 1) // 2)


def test_an_error_reaches_the_caller_and_the_team_goes_on(n_threads: int) -> None:
    def fail(control: Any, is_caller: bool) -> bool:
        if is_caller:
            _count(control, is_caller, np.zeros(1, np.int64))
            while n_threads > 1 and not control[cpu_team._FAILED]:
                time.sleep(0.001)
        else:
            raise MemoryError("a helper has no memory left")
        return False

    if n_threads > 1:
        with pytest.raises(MemoryError, match="a helper has no memory left"):
            run(fail, ())
    with pytest.raises(TypeError):
        run(_count, (None, None, None))
    done = np.zeros(100, np.int64)
    run(_count, (done,))
    assert (done == 1).all()


def test_callers_in_several_threads_share_the_team(n_threads: int) -> None:
    def work(_: int) -> bool:
        done = np.zeros(50, np.int64)
        for _ in range(20):
            run(_count, (done,))
        return bool((done == 20).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


def _in_a_child() -> None:
    done = np.zeros(100, np.int64)
    run(_count, (done,))
    assert (done == 1).all()


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where another test has imported it
def test_a_forked_child_gets_a_team_of_its_own(n_threads: int) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    run(_count, (np.zeros(100, np.int64),))
    child = multiprocessing.get_context("fork").Process(target=_in_a_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0


@njit(nogil=True)
def _second_half_waits(control, is_caller, n_pieces):
    """Helpers wait for a piece that only the caller does."""
    enter(control, is_caller)
    wait_for(control, n_pieces)
    return leave(control, is_caller, n_pieces)


def test_helpers_do_not_wait_for_a_caller_that_has_failed(n_threads: int) -> None:
    def job(control: Any, is_caller: bool) -> bool:
        if is_caller:
            time.sleep(0.01)  # helpers are waiting by now
            raise MemoryError("the caller has no memory left")
        return _second_half_waits(control, is_caller, 1)

    with pytest.raises(MemoryError, match="the caller has no memory left"):
        run(job, ())
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.15, "helpers that spin would use the whole time"
    done = np.zeros(100, np.int64)
    run(_count, (done,))
    assert (done == 1).all()


def test_a_job_lets_its_arrays_go_when_it_is_done(n_threads: int) -> None:
    done, kept = np.zeros(100, np.int64), np.zeros(100)
    references = [weakref.ref(done), weakref.ref(kept)]
    run(_count, (done,), keep=kept)
    run(_count, (np.zeros(100, np.int64),))  # no helper is at the first job any more
    time.sleep(0.05)
    del done, kept
    assert [reference() for reference in references] == [None, None]


@njit(nogil=True)
def _products(control, is_caller, factors, products):
    enter(control, is_caller)
    while True:
        piece = take(control)
        if piece >= products.size:
            break
        products[piece] = factors[0] * factors[1]
        finish(control)
    return leave(control, is_caller, products.size)


def test_numbers_that_underflow_are_zero_within_a_job_and_nowhere_else(n_threads: int) -> None:
    factors = np.array([1e-30, 1e-10], np.float32)
    products = np.ones(50, np.float32)
    run(_products, (factors, products))
    if cpu_team._IS_X86:
        assert (products == 0.0).all()
    assert factors[0] * factors[1] > 0.0, "the caller's arithmetic is as before"

    def fail(control: Any, is_caller: bool) -> bool:
        _products(control, is_caller, factors, products)
        raise MemoryError("too late")

    with pytest.raises(MemoryError):
        run(fail, ())
    assert factors[0] * factors[1] > 0.0
