"""LIF: its error messages, and its kernel against the literal formulas and a solver of the ODE."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gpuspike.errors import GpuspikeError, ValueRangeError
from gpuspike.neuron import LIF, NO_SPIKE

FINITE = [
    LIF(),
    LIF(tau_mem=2.0),
    LIF(tau_mem=0.5),
    LIF(tau_mem=3.7, tau_syn=1.3, capacitance=0.2),
    LIF(tau_mem=0.01),
    LIF(tau_mem=1000.0, capacitance=3.0),
    LIF(tau_mem=1.0 + 1e-6),
]
ALL = [*FINITE, LIF(tau_mem=math.inf), LIF(tau_mem=math.inf, tau_syn=0.4, capacitance=2.0)]
DELAYS = np.concatenate([np.geomspace(1e-6, 1e-2, 9), np.linspace(0.02, 12.0, 200)])


def literal_kernel(delay: np.ndarray, neuron: LIF) -> np.ndarray:
    """The textbook formulas, one for each case."""
    tm, ts, c = neuron.tau_mem, neuron.tau_syn, neuron.capacitance
    if math.isinf(tm):
        return ts / c * (1 - np.exp(-delay / ts))
    if tm == ts:
        return delay / c * np.exp(-delay / ts)
    return tm * ts / (tm - ts) * (np.exp(-delay / tm) - np.exp(-delay / ts)) / c


@pytest.mark.parametrize("name", ["tau_mem", "tau_syn", "threshold", "leak", "capacitance"])
@pytest.mark.parametrize("value", ["1", None, True, 1j, [1.0], np.array([True]), np.array(["1"])])
def test_a_parameter_that_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueRangeError, match=f"{name} must be a number or a NumPy array of numbers, got "):
        LIF(**{name: value})


@pytest.mark.parametrize("name", ["tau_mem", "tau_syn", "capacitance"])
@pytest.mark.parametrize("value", [0, -0.0, -1.5, -math.inf, math.nan])
def test_a_parameter_that_is_not_positive_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueRangeError, match=f"{name} must be positive, got {float(value)!r}"):
        LIF(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau_syn", math.inf),
        ("capacitance", math.inf),
        ("threshold", math.inf),
        ("threshold", math.nan),
        ("leak", -math.inf),
        ("leak", math.nan),
    ],
)
def test_a_parameter_that_is_not_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueRangeError, match=f"{name} must be finite, got {value!r}"):
        LIF(**{name: value})


@pytest.mark.parametrize(("threshold", "leak"), [(1.0, 1.0), (-70.0, -65.0), (0, 0)])
def test_a_threshold_at_or_below_the_leak_is_refused(threshold: float, leak: float) -> None:
    message = rf"threshold must exceed leak={float(leak)!r} by a finite amount, got"
    with pytest.raises(ValueRangeError, match=message):
        LIF(threshold=threshold, leak=leak)


def test_the_error_is_both_of_this_package_and_a_value_error() -> None:
    with pytest.raises(GpuspikeError):
        LIF(tau_mem=0)
    with pytest.raises(ValueError, match="tau_mem"):
        LIF(tau_mem=0)


def test_any_real_number_becomes_a_float_and_stays() -> None:
    values: dict[str, Any] = {"tau_mem": np.float32(2.0), "tau_syn": 1, "threshold": np.int64(3)}
    neuron = LIF(**values)
    assert [type(value) for value in dataclasses.astuple(neuron)] == [float] * 5
    assert neuron == LIF(tau_mem=2.0, tau_syn=1.0, threshold=3.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        neuron.leak = 0.5  # type: ignore[misc]


def test_derived_values() -> None:
    neuron = LIF(tau_mem=0.5, tau_syn=2.0, threshold=-50.0, leak=-65.0, capacitance=3.0)
    assert (neuron.tau_fast, neuron.tau_slow) == (0.5, 2.0)
    assert neuron.rate_difference == 1.5
    assert neuron.drive == 45.0
    assert LIF(tau_mem=math.inf, tau_syn=4.0).rate_difference == 0.25
    assert LIF(tau_mem=3.0, tau_syn=3.0).rate_difference == 0.0
    assert math.isinf(NO_SPIKE)
    assert NO_SPIKE > 0


@pytest.mark.parametrize("neuron", ALL, ids=repr)
def test_kernel_is_the_literal_formula(neuron: LIF) -> None:
    # The textbook difference of exponentials itself loses digits as the time constants agree.
    lost = 1e-9 if 0 < neuron.rate_difference < 1e-3 else 1e-13
    scale = neuron.kernel_peak[1]
    expected = literal_kernel(DELAYS, neuron)
    np.testing.assert_allclose(neuron.kernel(DELAYS), expected, rtol=1e-9, atol=lost * scale)


@pytest.mark.parametrize("neuron", ALL, ids=repr)
def test_kernel_solves_the_membrane_equation(neuron: LIF) -> None:
    def change(_: float, state: np.ndarray) -> list[float]:
        u, current = state
        return [-u / neuron.tau_mem + current / neuron.capacitance, -current / neuron.tau_syn]

    times = np.linspace(0.0, 8.0, 41)
    solved = solve_ivp(change, (0.0, 8.0), [0.0, 1.0], "Radau", times, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(neuron.kernel(times), solved.y[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("neuron", ALL, ids=repr)
def test_kernel_slope_is_the_derivative_of_the_kernel(neuron: LIF) -> None:
    delay = DELAYS[DELAYS > 1e-3]
    step = 1e-5 * np.minimum(neuron.tau_fast, delay)
    slope = (neuron.kernel(delay + step) - neuron.kernel(delay - step)) / (2 * step)
    np.testing.assert_allclose(neuron.kernel_slope(delay), slope, rtol=1e-6, atol=1e-8 / neuron.capacitance)


@pytest.mark.parametrize("neuron", ALL, ids=repr)
def test_nothing_happens_before_an_input(neuron: LIF) -> None:
    before = np.array([0.0, -0.0, -1e-300, -3.0, -1e6, -math.inf])
    assert not neuron.kernel(before).any()
    assert not neuron.kernel_slope(before).any()


@pytest.mark.parametrize("neuron", ALL, ids=repr)
def test_kernel_after_a_very_long_time(neuron: LIF) -> None:
    left = neuron.tau_syn / neuron.capacitance if math.isinf(neuron.tau_mem) else 0.0
    for delay in (1e7, 1e300, math.inf):
        assert neuron.kernel(delay) == pytest.approx(left, abs=1e-300)
        assert neuron.kernel_slope(delay) == 0.0


@pytest.mark.parametrize("neuron", ALL, ids=repr)
def test_kernel_is_symmetric_in_the_time_constants_and_keeps_the_shape(neuron: LIF) -> None:
    delay = DELAYS[:24].reshape(2, 3, 4)
    assert neuron.kernel(delay).shape == neuron.kernel_slope(delay).shape == delay.shape
    if math.isfinite(neuron.tau_mem):
        other = dataclasses.replace(neuron, tau_mem=neuron.tau_syn, tau_syn=neuron.tau_mem)
        np.testing.assert_array_equal(neuron.kernel(delay), other.kernel(delay))


@pytest.mark.parametrize("neuron", FINITE, ids=repr)
def test_kernel_peak_is_where_the_slope_vanishes(neuron: LIF) -> None:
    delay, height = neuron.kernel_peak
    assert height == pytest.approx(float(neuron.kernel(delay)), rel=1e-14)
    assert float(neuron.kernel_slope(delay)) == pytest.approx(0.0, abs=1e-9 * height)
    around = delay * np.linspace(0.5, 2.0, 1001)
    assert neuron.kernel(around).max() <= height * (1 + 1e-14)


def test_kernel_peak_in_cases_solved_by_hand() -> None:
    assert LIF(tau_mem=3.0, tau_syn=3.0).kernel_peak == pytest.approx((3.0, 3.0 / math.e))
    assert LIF(tau_mem=2.0, capacitance=4.0).kernel_peak == pytest.approx((2 * math.log(2), 0.125))
    assert LIF(tau_mem=math.inf, tau_syn=3.0, capacitance=2.0).kernel_peak == (math.inf, 1.5)


def test_nearly_equal_time_constants_join_the_equal_ones() -> None:
    equal = LIF(tau_mem=1.0).kernel(DELAYS)
    for excess in (1e-15, 1e-12, 1e-9, 1e-6):
        np.testing.assert_allclose(LIF(tau_mem=1.0 + excess).kernel(DELAYS), equal, rtol=1e-14 + 10 * excess)
