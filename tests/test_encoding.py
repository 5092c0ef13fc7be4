"""Latency coding: linear, exact at both ends, and strict about its range."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuspike.datasets.encoding import latency, pixel_latency
from gpuspike.errors import ValueRangeError


def test_the_ends_of_the_range_get_the_two_times() -> None:
    t = latency(np.array([0.0, 1.0]), 0.15, 2.0)
    assert t[0] == 0.15
    assert t[1] == pytest.approx(2.0, abs=1e-15)


def test_times_grow_linearly_with_the_value() -> None:
    values = np.array([[0.0, 0.25], [0.5, 0.875]])
    # Multiples of 1/8: every product is exact.
    np.testing.assert_array_equal(latency(values, 1.0, 3.0), [[1.0, 1.5], [2.0, 2.75]])


def test_the_paper_encodes_a_value_as_015_plus_185_times_it() -> None:
    values = np.linspace(0.0, 1.0, 11)
    expected = [0.15 + v * 1.85 for v in values.tolist()]
    np.testing.assert_allclose(latency(values, 0.15, 2.0), expected, rtol=1e-15)


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (0, 4), (2, 3, 4)])
def test_any_shape_is_kept_and_stays_float64(shape: tuple[int, ...]) -> None:
    t = latency(np.full(shape, 0.5), 0.0, 1.0)
    assert t.shape == shape
    assert t.dtype == np.float64


def test_the_values_are_not_changed() -> None:
    values = np.array([0.0, 0.3, 1.0])
    latency(values, 0.15, 2.0)
    np.testing.assert_array_equal(values, [0.0, 0.3, 1.0])


@pytest.mark.parametrize("bad", [-1e-9, 1.0 + 1e-9, math.nan, math.inf, -math.inf])
def test_values_outside_of_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(ValueRangeError, match=r"must lie in \[0, 1\].*got") as caught:
        latency(np.array([0.5, bad]), 0.15, 2.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("t_early", "t_late"),
    [(2.0, 0.15), (1.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf), (-math.inf, 0.0)],
)
def test_times_that_do_not_increase_or_are_not_finite_are_refused(t_early: float, t_late: float) -> None:
    with pytest.raises(
        ValueRangeError, match=r"t_early must lie before t_late, got|must be finite numbers, got"
    ) as caught:
        latency(np.zeros((0, 4)), t_early, t_late)
    assert "\n" not in str(caught.value)


def test_pixels_spike_early_where_they_are_bright() -> None:
    table = pixel_latency(255.0, 0.15, 2.0, silent_black=False)
    assert table.shape == (256,)
    assert (table[0], table[255]) == (2.0, 0.15)
    np.testing.assert_array_equal(table, 0.15 + (1.0 - np.arange(256) / 255.0) * (2.0 - 0.15))
    assert pixel_latency(256.0, 0.15, 2.0, silent_black=False)[255] == pytest.approx(0.157, abs=3e-4)


def test_only_black_pixels_can_be_silent() -> None:
    table = pixel_latency(255.0, 0.15, 2.0, silent_black=True)
    assert np.isinf(table[0])
    np.testing.assert_array_equal(table[1:], pixel_latency(255.0, 0.15, 2.0, silent_black=False)[1:])


@pytest.mark.parametrize("full_scale", [254.9, 0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_pixels_exceed_is_refused(full_scale: float) -> None:
    with pytest.raises(ValueRangeError, match="full_scale must be finite and at least 255, got"):
        pixel_latency(full_scale, 0.15, 2.0, silent_black=False)
