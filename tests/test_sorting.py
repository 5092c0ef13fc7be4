"""Spikes are sorted sample by sample: stable, silent inputs last, whatever their times look like."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpuspike.kernels import load
from gpuspike.kernels.cpu import sort

Array = NDArray[Any]
BACKENDS = ("cpu", "reference")

RNG = np.random.default_rng(3)
TIMES: dict[str, Callable[[int], Array]] = {
    "uniform": lambda n: RNG.uniform(0.15, 2.0, n),
    "all the same": lambda n: np.full(n, 0.9),
    "few values": lambda n: RNG.integers(0, 3, n) / 2.0,
    "silent": lambda n: np.full(n, math.inf),
    "some silent": lambda n: np.where(RNG.random(n) < 0.4, math.inf, RNG.normal(size=n)),
    "mostly silent": lambda n: np.where(RNG.random(n) < 0.8, math.inf, RNG.uniform(size=n)),
    "many last and silent": lambda n: RNG.choice([0.3, 1.1, 2.0, math.inf], n, p=[0.2, 0.1, 0.4, 0.3]),
    "sorted": lambda n: np.arange(n) * 0.1,
    "backwards": lambda n: -np.arange(n) * 0.1,
    "one far away": lambda n: np.append(RNG.uniform(0.0, 1.0, n)[1:], 1e6) if n else np.empty(0),
    "over many scales": lambda n: 10.0 ** RNG.uniform(-30.0, 30.0, n),
    "neighbours": lambda n: np.float32(1.0) + np.float32(1.2e-7) * RNG.integers(0, 5, n),
    "subnormal": lambda n: 1e-44 * RNG.integers(0, 9, n),
    "as far apart as can be": lambda n: RNG.choice([-3e38, 0.0, 3e38], n),
    "too far apart in float64": lambda n: RNG.choice([-1.7e308, 1.0, 2.0, 1.7e308], n),
}


def _within(t: Array, limit: float) -> Array:
    """The finite times within limits."""
    return np.where(np.isinf(t), t, t.clip(-limit, limit))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 31, 33, 129, 1025])
@pytest.mark.parametrize("kind", list(TIMES))
def test_the_order_is_the_stable_one(backend: str, dtype: Any, n: int, kind: str) -> None:
    limit = np.finfo(dtype).max
    t_in = np.stack([[_within(TIMES[kind](n), limit) for _ in range(3)]])
    t_in = t_in.astype(dtype)
    expected = np.argsort(t_in, axis=-1, kind="stable")
    order = load(backend).spike_order(t_in)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(order, expected)


@given(st.lists(st.floats(allow_nan=False, width=32).filter(lambda t: t > -math.inf), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_times_are_sorted(times: list[float]) -> None:
    t_in = np.array([[times]], np.float32).reshape(1, 1, len(times))
    order = load("cpu").spike_order(t_in)
    np.testing.assert_array_equal(order, np.argsort(t_in, axis=-1, kind="stable"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 31, 33, 129, 1025])
@pytest.mark.parametrize("picks", [sort.PICKS, False])
def test_times_before_a_bound_are_told_from_the_others(
    dtype: Any, n: int, picks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sort, "PICKS", picks)
    split: Any = sort.split if picks else getattr(sort.split, "py_func", sort.split)
    for drawn in TIMES.values():
        times = _within(drawn(n), np.finfo(dtype).max).astype(dtype)
        space = sort.sort_space(n, times)
        for bound in (dtype(0.9), dtype(math.inf)):
            before = times < bound
            n_early, following = split(times, bound, space)
            np.testing.assert_array_equal(space[3][:n_early], times[before])
            np.testing.assert_array_equal(space[4][:n_early], np.flatnonzero(before))
            np.testing.assert_array_equal(space[5][: n - n_early], np.flatnonzero(~before))
            assert following == min(times[~before], default=math.inf)


def test_many_samples_are_sorted_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    t_in = RNG.uniform(size=(2, 300, 129))
    expected = np.argsort(t_in, axis=-1, kind="stable")
    for count in (1, 2, 5):
        monkeypatch.setattr("gpuspike.kernels.cpu.team.thread_count", lambda n=count: n)
        monkeypatch.setattr(sys.modules["gpuspike.kernels.cpu.forward"], "thread_count", lambda n=count: n)
        np.testing.assert_array_equal(load("cpu").spike_order(t_in), expected)
