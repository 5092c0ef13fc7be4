"""The CPU kernels against the oracle, and against what must not change the answer."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, first_spikes, first_spikes_vjp, load, reference
from gpuspike.neuron import LIF

Array = NDArray[Any]

RATIOS = [1.0, 2.0, math.inf, 0.5, 3.7, 1.0 + 1e-6, 0.01, 1000.0]
"""tau_mem/tau_syn: the three closed forms, and what lies below, between, next to and far from them."""

WINDOWS = [2.0, 30.0, 10_000.0]
"""Time from the first input to the last, in tau_syn."""

DTYPES = [np.float32, np.float64]

TOLERANCE = {
    # Kernel and oracle sum the same terms in another order and from another anchor: 1e-15 where
    # the crossing is steep, 1e-12 where a non-leaky neuron creeps up to it. A time of 10,000 has
    # an ulp of 2e-12.
    "spike time, tau_syn": 1e-10,
    # In (threshold - leak)/tau_fast. That ulp of the spike time moves the slope too: by 2e-10 of
    # it where tau_fast is 0.01 tau_syn.
    "slope": 1e-9,
    # Of the largest entry. Dividing by the slope of a flat crossing magnifies 1e-16 up to 1e-12.
    "gradient": 1e-9,
    # Of the pair's largest derivative. Five-point differences with a step of 2e-4 are left with
    # 1e-12 of rounding and 1e-9 of curvature at most, on crossings as steep as those compared.
    "difference": 1e-6,
    # The same network with its sums in another order. Like the spike time above.
    "rounding": 1e-10,
    # What users of float32 are promised, in tau_syn. Beyond 100 tau_syn the output itself is coarser
    # than that: 4 ulp of it.
    "float32 spike time, tau_syn": 1e-4,
    "float32 ulps": 4.0,
    # The share of spiking pairs that must keep the above; the rest cross flatly.
    "float32 share": 0.999,
    # The share of pairs that may differ in whether there is a spike at all.
    "float32 flips": 1e-4,
}

each_ratio = pytest.mark.parametrize("ratio", RATIOS)
each_window = pytest.mark.parametrize("window", WINDOWS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


# --- networks ----------------------------------------------------------------


def plain(ratio: float) -> LIF:
    return LIF(tau_mem=ratio, tau_syn=1.0)


def scaled(ratio: float) -> LIF:
    """No parameter is one of the ones that equations drop: 1 or 0."""
    return LIF(0.7 * ratio, 0.7, threshold=1.3, leak=0.2, capacitance=1.6)


def biological(ratio: float) -> LIF:
    """Milliseconds, millivolts, and a leak far from 0."""
    return LIF(5.0 * ratio, 5.0, threshold=-50.0, leak=-65.0, capacitance=0.25)


def network(
    neuron: LIF,
    seed: int,
    n_batch: int,
    n_pre: int,
    n_post: int,
    window: float,
    n_replica: int = 1,
    dtype: type[np.floating[Any]] = np.float64,
) -> tuple[Array, Array]:
    """A network with everything in it: ties, silent inputs, a silent sample, both signs, zeros.

    Times lie on both sides of 0, and the weights are such that a good part of the neurons spikes
    and a good part does not, however many inputs a membrane remembers.

    Returns:
        t_in (n_replica, n_batch, n_pre), weights (n_replica, n_pre, n_post).
    """
    rng = np.random.default_rng(seed)
    t_in = rng.uniform(-0.5, 0.5, (n_replica, n_batch, n_pre))
    t_in = np.where(rng.random(t_in.shape) < 0.2, np.round(4.0 * t_in) / 4.0, t_in)
    t_in *= window * neuron.tau_syn
    t_in[rng.random(t_in.shape) < 0.15] = np.inf
    if n_batch > 2:
        t_in[:, 1] = np.inf
    memory = min(1.0 + neuron.tau_slow / neuron.tau_syn, window) / window
    together = max(1.0, n_pre * memory)
    unit = (neuron.threshold - neuron.leak) / neuron.kernel_peak[1]
    mean = rng.uniform(-0.2, 2.0, (n_replica, 1, n_post)) / together
    deviation = 0.6 / math.sqrt(together)
    weights = unit * (mean + rng.normal(0.0, deviation, (n_replica, n_pre, n_post)))
    weights[rng.random(weights.shape) < 0.1] = 0.0
    return t_in.astype(dtype), weights.astype(dtype)


def oracle(t_in: Array, weights: Array, neuron: LIF) -> Array:
    """(n_replica, n_batch, n_post) spike times in float64, from the very same inputs."""
    return reference.first_spikes(t_in, weights, neuron)


def forward(t_in: Array, weights: Array, neuron: LIF) -> tuple[Array, Array]:
    """Spike times and slopes of the CPU kernels; (n_replica, n_batch, n_post) both."""
    return one_layer(load("cpu"), t_in, weights, neuron)


def one_layer(kernels: Kernels, t_in: Array, weights: Array, neuron: LIF) -> tuple[Array, Array]:
    """Spike times and slopes of a single layer by a backend's kernels."""
    (state,) = kernels.forward(t_in, None, [weights], [neuron], [()])
    return state.t_out, state.slope


def assert_same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def assert_close(actual: Array, expected: Array, tolerance: float) -> None:
    """Within `tolerance` of the largest entry; an empty or all-zero array must match exactly."""
    assert actual.shape == expected.shape
    scale = float(np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * scale)


def assert_same_spikes(actual: Array, expected: Array, neuron: LIF, tolerance: float) -> None:
    """The same neurons spike, at the same times to within `tolerance` tau_syn."""
    assert actual.shape == expected.shape
    flips = np.count_nonzero(np.isfinite(actual) != np.isfinite(expected))
    assert flips == 0, f"{flips} of {expected.size} pairs differ in whether there is a spike"
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * neuron.tau_syn)


def assert_exact(t_in: Array, weights: Array, neuron: LIF) -> Array:
    """Compares spike times and slopes with the oracle; returns the spike times."""
    t_out, slope = forward(t_in, weights, neuron)
    assert t_out.dtype == slope.dtype == t_in.dtype
    expected = oracle(t_in, weights, neuron)
    assert_same_spikes(t_out, expected, neuron, TOLERANCE["spike time, tau_syn"])
    unit = (neuron.threshold - neuron.leak) / neuron.tau_fast
    np.testing.assert_allclose(
        slope / unit,
        reference.slopes(t_in, weights, neuron, t_out) / unit,
        rtol=TOLERANCE["slope"],
        atol=TOLERANCE["slope"],
    )
    return t_out


# --- spike times, float64 ----------------------------------------------------


@each_ratio
@each_window
@pytest.mark.parametrize("make", [plain, scaled, biological])
def test_spike_times_and_slopes_are_exact(ratio: float, window: float, make: Any) -> None:
    neuron = make(ratio)
    fired = []
    for seed, sizes in enumerate([(3, 31, 129), (4, 129, 33), (1, 33, 31)]):
        t_in, weights = network(neuron, seed, *sizes, window, n_replica=2)
        fired.append(np.isfinite(assert_exact(t_in, weights, neuron)).mean())
    assert 0.02 < np.mean(fired) < 0.98


@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 3.7])
@pytest.mark.parametrize(
    "sizes",
    [
        (0, 31, 33),
        (33, 0, 31),
        (31, 33, 0),
        (1, 1, 1),
        (129, 1, 33),
        (31, 31, 1),
        (1, 129, 1025),
        (1, 1025, 129),
        (1025, 1, 1),
        (33, 33, 129),
    ],
    ids=str,
)
def test_ugly_sizes(ratio: float, sizes: tuple[int, int, int]) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 5, *sizes, window=4.0)
    assert_exact(t_in, weights, neuron)
    t_out = first_spikes(t_in[0], weights[0], neuron)
    assert t_out.shape == (sizes[0], sizes[2])
    grads = first_spikes_vjp(t_in[0], weights[0], neuron, t_out, np.ones_like(t_out))
    expected = reference.first_spikes_vjp(t_in, weights, neuron, t_out[None], np.ones_like(t_out)[None])
    for grad, oracles in zip(grads, expected, strict=True):
        assert_close(grad, oracles[0], TOLERANCE["gradient"])


@each_ratio
@each_dtype
def test_silence_in_gives_silence_out(ratio: float, dtype: type[np.floating[Any]]) -> None:
    neuron = plain(ratio)
    t_in = np.full((5, 33), np.inf, dtype)
    weights = np.full((33, 31), 100.0, dtype)
    t_out = first_spikes(t_in, weights, neuron)
    assert_same_bits(t_out, np.full((5, 31), np.inf, dtype))
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.full_like(t_out, np.nan))
    assert_same_bits(grads[0], np.zeros_like(t_in))
    assert_same_bits(grads[1], np.zeros_like(weights))


@each_ratio
def test_inhibition_alone_never_fires(ratio: float) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 6, 5, 33, 31, 4.0)
    assert np.all(np.isinf(first_spikes(t_in, -1e6 * np.abs(weights), neuron)))


@each_ratio
def test_many_inputs_at_one_time(ratio: float) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 7, 5, 129, 33, 2.0)
    t_in = np.where(np.isfinite(t_in), np.round(t_in), np.inf)
    assert_exact(t_in, weights, neuron)
    together = np.where(np.isfinite(t_in), -0.25, np.inf)
    assert np.isfinite(assert_exact(together, weights, neuron)).any()


@each_ratio
def test_extreme_weights_and_gaps(ratio: float) -> None:
    neuron = plain(ratio)
    t_in = np.array([-1e9, -1e9, -3.0, 0.0, 1e-12, 2.0, 1e9, np.inf]).reshape(1, 1, -1)
    rng = np.random.default_rng(0)
    weights = rng.normal(0.0, 1.0, (1, 8, 50)) * 10.0 ** rng.uniform(-12.0, 12.0, (1, 8, 50))
    t_out = first_spikes(t_in, weights, neuron)
    expected = oracle(t_in, weights, neuron)
    np.testing.assert_array_equal(np.isfinite(t_out), np.isfinite(expected))
    np.testing.assert_allclose(t_out, expected, rtol=1e-12, atol=1e-12)
    grad = np.ones_like(t_out)
    expected_grads = reference.first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    for got, wanted in zip(grads, expected_grads, strict=True):
        assert_close(got, wanted, TOLERANCE["gradient"])


def test_a_crossing_that_rounding_moved_past_the_next_input_is_kept() -> None:
    neuron = plain(math.inf)
    spike = float(first_spikes(np.zeros((1, 1)), np.full((1, 1), 1.5), neuron)[0, 0])
    assert spike == pytest.approx(math.log(3.0), rel=1e-15)
    for weight in (-1e3, -1.0, 0.0, 1e3):
        for after in (1e-15, 1e-14, 1e-12):
            following = spike + after
            again = first_spikes(np.array([[0.0, following]]), np.array([[1.5], [weight]]), neuron)
            assert again[0, 0] == pytest.approx(spike, rel=1e-14)


def test_the_oracle_does_not_complain_of_a_current_that_has_died_away() -> None:
    # exp(-720) is subnormal: dividing by it overflows unless that is foreseen.
    t_in = np.array([0.0, 720.0]).reshape(1, 1, 2)
    weights = np.array([0.5, 0.0]).reshape(1, 2, 1)
    assert reference.first_spikes(t_in, weights, plain(math.inf))[0, 0, 0] == np.inf


# --- spike times, float32 ----------------------------------------------------


def realistic(neuron: LIF, seed: int, n_batch: int, window: float) -> tuple[Array, Array]:
    """An ordinary layer, 256 inputs to 128 neurons: most of these spike, early and late ones.

    Returns:
        t_in (1, n_batch, 256), weights (1, 256, 128), both float32.
    """
    rng = np.random.default_rng(seed)
    t_in = rng.uniform(0.0, window * neuron.tau_syn, (1, n_batch, 256))
    t_in[rng.random(t_in.shape) < 0.3] = np.inf
    memory = min(1.0 + neuron.tau_slow / neuron.tau_syn, window) / window
    together = max(1.0, 0.7 * 256 * memory)
    unit = (neuron.threshold - neuron.leak) / neuron.kernel_peak[1]
    weights = unit * rng.normal(1.5 / together, 0.5 / math.sqrt(together), (1, 256, 128))
    return t_in.astype(np.float32), weights.astype(np.float32)


@pytest.mark.parametrize(
    ("ratio", "n_batch", "window"),
    [
        *((ratio, 40, 2.0) for ratio in RATIOS),
        *((ratio, 24, 30.0) for ratio in (1.0, 2.0, math.inf, 3.7, 1000.0)),
        *((ratio, 12, 10_000.0) for ratio in (1.0, 2.0, math.inf, 3.7, 1000.0)),
    ],
)
def test_float32_spike_times(ratio: float, n_batch: int, window: float) -> None:
    neuron = plain(ratio)
    t_in, weights = realistic(neuron, 7, n_batch, window)
    expected = oracle(t_in, weights, neuron)
    t_out = first_spikes(t_in, weights, neuron)
    assert t_out.dtype == np.float32
    spikes, expected_spikes = np.isfinite(t_out), np.isfinite(expected)
    flips = np.count_nonzero(spikes != expected_spikes)
    assert flips < TOLERANCE["float32 flips"] * expected.size
    both = spikes & expected_spikes
    assert both.mean() > 0.2
    ulp = np.spacing(np.abs(expected[both]).astype(np.float32)).astype(np.float64)
    bound = np.maximum(
        TOLERANCE["float32 spike time, tau_syn"] * neuron.tau_syn, TOLERANCE["float32 ulps"] * ulp
    )
    error = np.abs(t_out[both].astype(np.float64) - expected[both])
    good = np.count_nonzero(error <= bound)
    assert good >= TOLERANCE["float32 share"] * error.size, (
        f"{error.size - good} of {error.size} spikes are off by more than the bound, "
        f"the worst by {error.max():.1e}"
    )


@each_dtype
def test_the_dtype_of_the_inputs_is_kept(dtype: type[np.floating[Any]]) -> None:
    neuron = scaled(2.0)
    t_in, weights = network(neuron, 8, 5, 33, 31, 4.0, dtype=dtype)
    t_out = first_spikes(t_in, weights, neuron)
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out))
    assert {array.dtype for array in (t_out, *grads)} == {np.dtype(dtype)}


# --- gradients ---------------------------------------------------------------


def pulled_back(
    t_in: Array, weights: Array, neuron: LIF, t_out: Array, grad: Array, limit: float = math.inf
) -> tuple[Array, Array]:
    """Gradients of the CPU kernels, after a comparison with the oracle's, as those from kept slopes are."""
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, grad, max_weight_grad=limit)
    expected = reference.first_spikes_vjp(t_in, weights, neuron, t_out, grad, limit)
    again, slopes = first_spikes(t_in, weights, neuron, return_slopes=True)
    assert slopes.dtype == again.dtype
    found = [grads]
    if np.array_equal(again, t_out):  # and not what somebody else has answered
        found.append(
            first_spikes_vjp(t_in, weights, neuron, t_out, grad, slopes=slopes, max_weight_grad=limit)
        )
    for each in found:
        for got, wanted in zip(each, expected, strict=True):
            assert np.isfinite(got).all()
            assert_close(got, wanted, TOLERANCE["gradient"])
    return grads


@each_ratio
@each_window
@pytest.mark.parametrize("make", [plain, scaled])
def test_gradients_agree_with_the_oracle(ratio: float, window: float, make: Any) -> None:
    neuron = make(ratio)
    for seed, sizes in enumerate([(5, 31, 33), (4, 129, 31), (3, 33, 129)]):
        t_in, weights = network(neuron, seed, *sizes, window, n_replica=2)
        t_out = first_spikes(t_in, weights, neuron)
        grad = np.random.default_rng(seed).normal(size=t_out.shape)
        t_in_grad, _ = pulled_back(t_in, weights, neuron, t_out, grad)
        assert not t_in_grad[np.isinf(t_in)].any()
        assert not t_in_grad[:, 1].any()  # the silent sample


@each_ratio
@each_window
def test_exploding_pairs_are_left_out(ratio: float, window: float) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 9, 5, 33, 129, window, n_replica=2)
    t_out = first_spikes(t_in, weights, neuron)
    grad = np.random.default_rng(9).normal(size=t_out.shape)
    t_in_grad, weights_grad = pulled_back(t_in, weights, neuron, t_out, grad)
    slope = reference.slopes(t_in, weights, neuron, t_out)
    steep = slope > 0
    typical = np.median(np.abs(grad[steep]) / slope[steep]) * neuron.kernel_peak[1]
    limited = pulled_back(t_in, weights, neuron, t_out, grad, limit=0.5 * float(typical))
    assert_same_bits(limited[0], t_in_grad)
    kept, all_of_it = np.count_nonzero(limited[1]), np.count_nonzero(weights_grad)
    assert 0 < kept < all_of_it
    everything_explodes = pulled_back(t_in, weights, neuron, t_out, grad, limit=1e-300)
    assert_same_bits(everything_explodes[0], t_in_grad)
    nothing_explodes = pulled_back(t_in, weights, neuron, t_out, grad, limit=1e300)
    assert_same_bits(nothing_explodes[1], weights_grad)


@each_ratio
def test_gradients_at_spike_times_that_are_not_the_neurons_own(ratio: float) -> None:
    neuron = scaled(ratio)
    for window in WINDOWS:
        t_in, weights = network(neuron, 10, 5, 33, 129, window, n_replica=2)
        rng = np.random.default_rng(10)
        width = window * neuron.tau_syn
        t_out = first_spikes(t_in, weights, neuron)
        t_out += rng.normal(0.0, 0.1 * neuron.tau_fast, t_out.shape)
        t_out[..., :20] = rng.uniform(-0.6, 0.8, (2, 5, 20)) * width
        t_out[..., 20:40] = t_in[..., :20]  # at an input, which then is not in the causal set
        t_out[..., 40] = np.inf
        t_out[..., 41] = -0.75 * width  # before any input
        t_out[..., 42] = 1e3 * width  # when all is over
        grad = rng.normal(size=t_out.shape)
        # A slope comes out as a difference of two sums, exact to 1e-16 of the threshold over
        # tau_fast; flatter slopes than this keep fewer digits than the tolerance asks for.
        unit = (neuron.threshold - neuron.leak) / neuron.tau_fast
        flat = reference.slopes(t_in, weights, neuron, t_out) < 1e-5 * unit
        assert np.count_nonzero(~flat) > 50
        grad[flat] = 0.0
        grad[np.isinf(t_out)] = np.nan
        pulled_back(t_in, weights, neuron, t_out, grad)
        pulled_back(t_in, weights, neuron, t_out, grad, limit=0.1)


@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 0.5, 3.7])
def test_an_input_at_the_very_moment_of_a_spike_is_not_its_cause(ratio: float) -> None:
    neuron = plain(ratio)
    t_in, weights = np.array([[0.0, 0.3, 0.2, np.inf, 5.0]]), np.full((5, 1), 4.0)
    t_out = np.full((1, 1), 0.3)
    for grad in first_spikes_vjp(t_in, weights, neuron, t_out, np.ones((1, 1))):
        assert list(grad.ravel() != 0) == [True, False, True, False, False]


@each_ratio
@each_dtype
def test_silent_neurons_give_exact_zeros(ratio: float, dtype: type[np.floating[Any]]) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 11, 5, 33, 31, 4.0, dtype=dtype)
    t_out = first_spikes(t_in, weights, neuron)
    silent = np.isinf(t_out)
    assert 0 < np.count_nonzero(silent) < silent.size
    # A loss may have no finite gradient where there is no spike; it must not spread.
    for value in (np.nan, np.inf, -np.inf, 1.0):
        only_silent = np.where(silent, value, 0.0).astype(dtype)
        for grad in first_spikes_vjp(t_in, weights, neuron, t_out, only_silent):
            assert_same_bits(grad, np.zeros_like(grad))


@each_ratio
@each_dtype
def test_a_tangential_crossing_gives_exact_zeros(ratio: float, dtype: type[np.floating[Any]]) -> None:
    neuron = plain(ratio)
    # One input whose potential peaks at the threshold. The non-leaky neuron has no peak, and is as
    # flat as can be told from 0 only after a while.
    delay = neuron.kernel_peak[0] if math.isfinite(ratio) else 45.0 * neuron.tau_syn
    weights = np.full((1, 3), 1.0 / float(neuron.kernel(delay)), dtype)
    weights[0, 0] = np.nextafter(weights[0, 0], dtype(0))
    weights[0, 2] = np.nextafter(weights[0, 2], dtype(np.inf))
    t_in = np.zeros((1, 1), dtype)
    peak = np.full((1, 3), delay, dtype)
    for grad in first_spikes_vjp(t_in, weights, neuron, peak, np.ones_like(peak)):
        assert_same_bits(grad, np.zeros_like(grad))


@each_ratio
@each_dtype
def test_next_to_a_tangential_crossing_nothing_is_nan(ratio: float, dtype: type[np.floating[Any]]) -> None:
    neuron = plain(ratio)
    touching = 1.0 / neuron.kernel_peak[1]
    ulps = np.arange(-20, 21) * np.finfo(dtype).eps
    weights = (touching * (1.0 + ulps)).astype(dtype).reshape(1, 1, -1)
    t_in = np.zeros((1, 1, 1), dtype)
    t_out, slope = forward(t_in, weights, neuron)
    assert not np.isnan(t_out).any()
    assert np.isinf(t_out[0, 0, 0])
    assert np.isfinite(t_out[0, 0, -1])
    assert np.isfinite(slope).all()
    assert not slope[np.isinf(t_out)].any()
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out))
    assert all(np.isfinite(grad).all() for grad in grads)
    flat = reference.slopes(t_in, weights, neuron, t_out) == 0.0
    assert not grads[1][flat].any()
    if math.isfinite(ratio):
        # The time of a peak is known to the square root of the precision only.
        spread = 20.0 * math.sqrt(float(np.finfo(dtype).eps)) * neuron.tau_slow
        assert np.abs(t_out[np.isfinite(t_out)] - neuron.kernel_peak[0]).max() < spread


def jacobians(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> tuple[Array, Array]:
    """Derivatives of every spike, from one call: each spike has a replica of its own.

    Args:
        t_in: (n_batch, n_pre).  weights: (n_pre, n_post).  t_out: (n_batch, n_post).

    Returns:
        dT/dt_in and dT/dweights, (n_batch, n_post, n_pre) both.
    """
    n_batch, n_post = t_out.shape
    n = n_batch * n_post
    one_hot = np.eye(n).reshape(n, n_batch, n_post)
    stack = (np.repeat(array[None], n, axis=0) for array in (t_in, weights, t_out))
    t, w, spikes = stack
    by_time, by_weight = first_spikes_vjp(t, w, neuron, spikes, one_hot)
    b, j = np.divmod(np.arange(n), n_post)
    shape = (n_batch, n_post, t_in.shape[1])
    return by_time[np.arange(n), b].reshape(shape), by_weight[np.arange(n), :, j].reshape(shape)


@each_ratio
@pytest.mark.parametrize("window", [2.0, 30.0])
def test_gradients_agree_with_central_differences(ratio: float, window: float) -> None:
    neuron = scaled(ratio)
    (t_in,), (weights,) = network(neuron, 12, 6, 12, 16, window)
    weights *= 2.0
    t_out = first_spikes(t_in, weights, neuron)
    level = (neuron.threshold - neuron.leak) / neuron.tau_fast
    slope = reference.slopes(t_in[None], weights[None], neuron, t_out[None])[0]
    steep = slope > 0.05 * level
    by_time, by_weight = jacobians(t_in, weights, neuron, t_out)

    def causal(times: Array, spikes: Array) -> Array:
        """(n_batch, n_post, n_pre): which inputs come before which spikes."""
        return times[:, None, :] < spikes[:, :, None]

    compared = 0
    steps = {
        "time": 2e-4 * neuron.tau_fast,
        "weight": 2e-4 * (neuron.threshold - neuron.leak) / neuron.kernel_peak[1],
    }
    for kind, exact in (("time", by_time), ("weight", by_weight)):
        largest = np.abs(exact).max(axis=2)
        for i in range(t_in.shape[1]):
            spikes, use = {}, steep.copy()
            for k in (-2, -1, 1, 2):
                t, w = t_in.copy(), weights.copy()
                if kind == "time":
                    t[:, i] += k * steps[kind]
                else:
                    w[i] += k * steps[kind]
                spikes[k] = first_spikes(t, w, neuron)
                # The spike time has a kink where an input joins or leaves the causal set.
                use &= np.all(causal(t, spikes[k]) == causal(t_in, t_out), axis=2)
            use &= np.isfinite(t_in[:, i, None])
            at = {k: np.where(use, s, 0.0) for k, s in spikes.items()}
            numeric = (8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12.0 * steps[kind])
            error = np.abs(numeric - exact[:, :, i])[use]
            assert np.all(error <= TOLERANCE["difference"] * largest[use])
            compared += np.count_nonzero(use)
    heard = np.count_nonzero(np.isfinite(t_in[:, None, :]) & np.isfinite(t_out)[:, :, None])
    assert heard > 200
    assert compared > 0.8 * 2 * heard


# --- invariances -------------------------------------------------------------


examples = settings(max_examples=20, derandomize=True, deadline=None, database=None)
ratios = st.sampled_from(RATIOS)
windows = st.sampled_from(WINDOWS)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70))


def steep_only(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
    """Spikes that rounding does not move far; the others become inf (no spike).

    A crossing of slope s moves by 1/s of whatever rounding moves the potential by.
    """
    unit = (neuron.threshold - neuron.leak) / neuron.tau_fast
    steep = reference.slopes(t_in, weights, neuron, t_out) > 1e-3 * unit
    return np.where(steep, t_out, np.inf)


@given(ratio=ratios, window=windows, seed=seeds, size=sizes)
@examples
def test_the_order_of_inputs_does_not_matter(
    ratio: float, window: float, seed: int, size: tuple[int, int, int]
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window)
    order = np.random.default_rng(seed).permutation(size[1])
    t_out = first_spikes(t_in, weights, neuron)
    moved = first_spikes(t_in[..., order], weights[:, order], neuron)
    steep = np.isfinite(steep_only(t_in, weights, neuron, t_out))
    assert_same_spikes(moved[steep], t_out[steep], neuron, TOLERANCE["rounding"])
    assert np.count_nonzero(np.isfinite(moved) != np.isfinite(t_out)) == 0


@given(ratio=ratios, window=windows, seed=seeds, size=sizes, shift=st.floats(-100.0, 100.0, width=32))
@examples
def test_a_shift_in_time_shifts_the_spikes(
    ratio: float, window: float, seed: int, size: tuple[int, int, int], shift: float
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window)
    t_out = first_spikes(t_in, weights, neuron)
    moved = first_spikes(t_in + shift, weights, neuron)
    steep = np.isfinite(steep_only(t_in, weights, neuron, t_out))
    assert_same_spikes(moved[steep], t_out[steep] + shift, neuron, TOLERANCE["rounding"])
    assert np.count_nonzero(np.isfinite(moved) != np.isfinite(t_out)) == 0


@given(ratio=ratios, window=windows, dtype=dtypes, seed=seeds, size=sizes, cut=st.integers(0, 40))
@examples
def test_splitting_a_batch_changes_no_bit(
    ratio: float, window: float, dtype: Any, seed: int, size: tuple[int, int, int], cut: int
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window, dtype=dtype)
    t_out, slope = forward(t_in, weights, neuron)
    grad = np.random.default_rng(seed).normal(size=t_out.shape).astype(dtype)
    t_in_grad, _ = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    for part in (slice(0, cut), slice(cut, None), slice(0, 1)):
        times, slopes = forward(t_in[:, part], weights, neuron)
        assert_same_bits(times, t_out[:, part])
        assert_same_bits(slopes, slope[:, part])
        alone, _ = first_spikes_vjp(t_in[:, part], weights, neuron, t_out[:, part], grad[:, part])
        assert_same_bits(alone, t_in_grad[:, part])


@given(ratio=ratios, window=windows, dtype=dtypes, seed=seeds, size=sizes)
@examples
def test_the_order_of_samples_changes_no_bit(
    ratio: float, window: float, dtype: Any, seed: int, size: tuple[int, int, int]
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window, dtype=dtype)
    order = np.random.default_rng(seed).permutation(size[0])
    t_out, slope = forward(t_in, weights, neuron)
    times, slopes = forward(t_in[:, order], weights, neuron)
    assert_same_bits(times, t_out[:, order])
    assert_same_bits(slopes, slope[:, order])


@given(
    ratio=ratios,
    window=windows,
    dtype=dtypes,
    seed=seeds,
    size=sizes,
    power=st.integers(-20, 20).filter(bool),
)
@examples
def test_the_unit_of_time_changes_no_bit(
    ratio: float, window: float, dtype: Any, seed: int, size: tuple[int, int, int], power: int
) -> None:
    # A weight is a potential's rate of change, so it goes with the inverse of the unit.
    neuron, unit = scaled(ratio), 2.0**power
    other = LIF(unit * neuron.tau_mem, unit * neuron.tau_syn, 1.3, 0.2, 1.6)
    t_in, weights = network(neuron, seed, *size, window, dtype=dtype)
    t_out, slope = forward(t_in, weights, neuron)
    assert_units = dtype(unit)
    t_unit, w_unit = t_in * assert_units, weights / assert_units
    times, slopes = forward(t_unit, w_unit, other)
    assert_same_bits(times, t_out * assert_units)
    assert_same_bits(slopes, slope / assert_units)
    if window > 100.0:
        return  # gradients of inputs hundreds of time constants ago are subnormal, and lose bits
    grad = np.random.default_rng(seed).normal(size=t_out.shape).astype(dtype)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    grads = first_spikes_vjp(t_unit, w_unit, other, times, grad)
    assert_same_bits(grads[0], t_in_grad)
    assert_same_bits(grads[1], weights_grad * assert_units**2)


@given(ratio=ratios, window=windows, seed=seeds, size=sizes)
@examples
def test_inputs_at_one_time_are_one_input(
    ratio: float, window: float, seed: int, size: tuple[int, int, int]
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window)
    rng = np.random.default_rng(seed)
    share = rng.uniform(-1.0, 2.0, weights.shape)
    order = rng.permutation(2 * size[1])
    twice = np.concatenate([t_in, t_in], axis=2)[..., order]
    parts = np.concatenate([share * weights, (1.0 - share) * weights], axis=1)[:, order]
    t_out = first_spikes(t_in, weights, neuron)
    split = first_spikes(twice, parts, neuron)
    steep = np.isfinite(steep_only(t_in, weights, neuron, t_out))
    assert_same_spikes(split[steep], t_out[steep], neuron, TOLERANCE["rounding"])
    assert np.count_nonzero(np.isfinite(split) != np.isfinite(t_out)) == 0


@given(ratio=ratios, window=windows, dtype=dtypes, seed=seeds, size=sizes, extra=st.integers(1, 9))
@examples
def test_a_silent_input_changes_no_bit(
    ratio: float, window: float, dtype: Any, seed: int, size: tuple[int, int, int], extra: int
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window, dtype=dtype)
    rng = np.random.default_rng(seed)
    # Among simultaneous inputs the sort is free to choose, and the choice rounds differently.
    t_in = np.where(np.isinf(t_in), t_in, rng.uniform(-1.0, 1.0, t_in.shape)).astype(dtype)
    t_in *= dtype(0.5 * window * neuron.tau_syn)
    where = np.sort(rng.integers(0, size[1] + 1, extra))
    more = np.insert(t_in, where, np.inf, axis=2)
    wider = np.insert(weights, where, dtype(1e3), axis=1)
    t_out, slope = forward(t_in, weights, neuron)
    times, slopes = forward(more, wider, neuron)
    assert_same_bits(times, t_out)
    assert_same_bits(slopes, slope)
    t_in_grad, _ = first_spikes_vjp(more, wider, neuron, t_out, np.ones_like(t_out))
    assert not t_in_grad[np.isinf(more)].any()


@given(ratio=ratios, window=windows, dtype=dtypes, seed=seeds, size=sizes)
@examples
def test_replicas_are_independent_networks(
    ratio: float, window: float, dtype: Any, seed: int, size: tuple[int, int, int]
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, seed, *size, window, n_replica=3, dtype=dtype)
    t_out = first_spikes(t_in, weights, neuron)
    grad = np.random.default_rng(seed).normal(size=t_out.shape).astype(dtype)
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, grad, max_weight_grad=2.0)
    for r in range(3):
        assert_same_bits(first_spikes(t_in[r], weights[r], neuron), t_out[r])
        alone = first_spikes_vjp(t_in[r], weights[r], neuron, t_out[r], grad[r], max_weight_grad=2.0)
        assert_same_bits(alone[0], grads[0][r])
        assert_same_bits(alone[1], grads[1][r])


# --- the same bits, whatever the machine does --------------------------------


def everything(t_in: Array, weights: Array, neuron: LIF) -> tuple[Array, ...]:
    """Spike times, slopes and both gradients."""
    t_out, slope = forward(t_in, weights, neuron)
    grad = np.random.default_rng(0).normal(size=t_out.shape).astype(t_out.dtype)
    return t_out, slope, *first_spikes_vjp(t_in, weights, neuron, t_out, grad)


@each_dtype
@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 3.7])
@pytest.mark.parametrize("size", [(1, 129, 1025), (67, 129, 33), (300, 33, 129)], ids=str)
def test_results_do_not_depend_on_time_or_threads(
    monkeypatch: pytest.MonkeyPatch,
    dtype: type[np.floating[Any]],
    ratio: float,
    size: tuple[int, int, int],
) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 13, *size, 4.0, n_replica=2, dtype=dtype)
    first = everything(t_in, weights, neuron)
    for count in (1, 2, 5):
        monkeypatch.setattr("gpuspike.kernels.cpu.team.thread_count", lambda n=count: n)
        for _ in range(2):
            for again, once in zip(everything(t_in, weights, neuron), first, strict=True):
                assert_same_bits(again, once)


@each_dtype
@pytest.mark.parametrize("n_batch", [1, 50])
def test_a_neuron_does_not_depend_on_its_company(
    monkeypatch: pytest.MonkeyPatch, dtype: type[np.floating[Any]], n_batch: int
) -> None:
    # Few samples are cut between threads by neurons: neurons are then solved in other company.
    rng = np.random.default_rng(5)
    t_in = rng.uniform(0.15, 2.0, (2, n_batch, 5)).astype(dtype)
    weights = rng.normal(1.5, 0.8, (2, 5, 120)).astype(dtype)
    first = forward(t_in, weights, plain(1.0))
    for count in (1, 2, 16, 64):
        monkeypatch.setattr(sys.modules["gpuspike.kernels.cpu.forward"], "thread_count", lambda n=count: n)
        monkeypatch.setattr("gpuspike.kernels.cpu.team.thread_count", lambda n=count: n)
        for r in range(2):
            for alone, together in zip(
                forward(t_in[r : r + 1], weights[r : r + 1], plain(1.0)), first, strict=True
            ):
                assert_same_bits(alone[0], together[r])


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    neuron = scaled(2.0)
    networks = [network(neuron, seed, 67, 129, 33, 4.0, n_replica=2) for seed in range(8)]
    alone = [everything(*arrays, neuron) for arrays in networks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda arrays: everything(*arrays, neuron), networks))
    for results, expected in zip(together, alone, strict=True):
        for got, wanted in zip(results, expected, strict=True):
            assert_same_bits(got, wanted)


@each_dtype
@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read-only", "broadcast"])
def test_results_do_not_depend_on_the_layout(dtype: type[np.floating[Any]], layout: str) -> None:
    neuron = scaled(2.0)
    t_in, weights = network(neuron, 14, 33, 31, 129, 4.0, n_replica=2, dtype=dtype)
    t_in[1], weights[1] = t_in[0], weights[0]
    t_out = first_spikes(t_in, weights, neuron)
    grad = np.random.default_rng(1).normal(size=t_out.shape[1:]).astype(dtype)
    grad = np.stack([grad, grad])
    expected = first_spikes_vjp(t_in, weights, neuron, t_out, grad)

    def laid_out(array: Array) -> Array:
        match layout:
            case "fortran":
                return np.asfortranarray(array)
            case "strided":
                wide = np.full([2 * n for n in array.shape], np.nan, dtype)
                wide[::2, ::2, 1::2] = array
                return wide[::2, ::2, 1::2]
            case "reversed":
                return np.ascontiguousarray(array[:, ::-1, ::-1])[:, ::-1, ::-1]
            case "broadcast":
                return np.broadcast_to(array[0], array.shape)
        array = array.copy()
        array.setflags(write=False)
        return array

    inputs = [laid_out(array) for array in (t_in, weights, t_out, grad)]
    assert_same_bits(first_spikes(inputs[0], inputs[1], neuron), t_out)
    grads = first_spikes_vjp(inputs[0], inputs[1], neuron, inputs[2], inputs[3])
    for got, wanted in zip(grads, expected, strict=True):
        assert_same_bits(got, wanted)
    for after, before in zip(inputs, (t_in, weights, t_out, grad), strict=True):
        assert_same_bits(after, before)


@each_dtype
def test_inputs_are_left_as_they_were(dtype: type[np.floating[Any]]) -> None:
    neuron = scaled(3.7)
    t_in, weights = network(neuron, 15, 33, 31, 129, 30.0, dtype=dtype)
    t_out = first_spikes(t_in, weights, neuron)
    arrays = (t_in, weights, t_out, np.ones_like(t_out))
    copies = [array.copy() for array in arrays]
    first_spikes(t_in, weights, neuron)
    first_spikes_vjp(t_in, weights, neuron, *arrays[2:])
    for array, copy in zip(arrays, copies, strict=True):
        assert_same_bits(array, copy)


# --- the interface of a backend ----------------------------------------------


@each_ratio
def test_backends_answer_alike_on_inputs_that_replicas_share(ratio: float) -> None:
    neuron = scaled(ratio)
    (t_in, *_), weights = network(neuron, 16, 6, 33, 31, 4.0, n_replica=3)
    t_in = t_in[None]
    fast, oracles = load("cpu"), load("reference")
    t_out, slope = one_layer(fast, t_in, weights, neuron)
    expected_t, expected_slope = one_layer(oracles, t_in, weights, neuron)
    assert t_out.shape == slope.shape == (3, 6, 31)
    assert_same_spikes(t_out, expected_t, neuron, TOLERANCE["spike time, tau_syn"])
    assert_close(slope, expected_slope, TOLERANCE["slope"])
    again = fast.slopes(t_in, weights, neuron, t_out)
    assert_close(again, slope, TOLERANCE["slope"])

    own = np.repeat(t_in, 3, axis=0)
    for shared, separate in zip((t_out, slope), forward(own, weights, neuron), strict=True):
        assert_same_bits(shared, separate)

    grad = np.random.default_rng(2).normal(size=t_out.shape)
    active = np.array([True, False, True])
    for need_t_in_grad in (True, False):
        results = [
            kernels.backward(
                [LayerState(t_in, fast.spike_order(t_in), t_out, t_out, slope)],
                [weights],
                [neuron],
                grad,
                active=active,
                max_weight_grad=5.0,
                need_t_in_grad=need_t_in_grad,
            )
            for kernels in (fast, oracles)
        ]
        (t_in_grad, (weights_grad,)), (expected_t_in_grad, (expected_weights_grad,)) = results
        assert weights_grad[0].any()
        assert not weights_grad[1].any()
        assert_close(weights_grad, expected_weights_grad, TOLERANCE["gradient"])
        if not need_t_in_grad:
            assert t_in_grad is None
            assert expected_t_in_grad is None
            continue
        assert t_in_grad is not None
        assert expected_t_in_grad is not None
        assert t_in_grad.shape == (3, 6, 33)  # the replicas' inputs are shared, not their gradients
        assert not t_in_grad[1].any()
        assert_close(t_in_grad, expected_t_in_grad, TOLERANCE["gradient"])


@each_dtype
def test_an_inactive_replica_does_not_touch_the_others(dtype: type[np.floating[Any]]) -> None:
    neuron = scaled(1.0)
    t_in, weights = network(neuron, 17, 33, 31, 129, 4.0, n_replica=3, dtype=dtype)
    kernels = load("cpu")
    states = kernels.forward(t_in, None, [weights], [neuron], [()])
    t_out = states[0].t_out
    grad = np.ones_like(t_out)

    def backward(active: list[bool]) -> tuple[Array | None, Array]:
        t_in_grad, (weights_grad,) = kernels.backward(
            states,
            [weights],
            [neuron],
            grad,
            active=np.array(active),
            max_weight_grad=math.inf,
            need_t_in_grad=True,
        )
        return t_in_grad, weights_grad

    everyone, some, none = (backward(a) for a in ([True] * 3, [False, True, True], [False] * 3))
    for full, part, nothing in zip(everyone, some, none, strict=True):
        assert full is not None
        assert part is not None
        assert nothing is not None
        assert_same_bits(part[1:], full[1:])
        assert not part[0].any()
        assert not nothing.any()


# --- memory ------------------------------------------------------------------


@each_dtype
def test_no_array_has_an_entry_for_every_sample_input_and_neuron(
    dtype: type[np.floating[Any]],
) -> None:
    n_batch, n_pre, n_post = 256, 512, 512
    neuron = plain(2.0)
    t_in, weights = network(neuron, 18, n_batch, n_pre, n_post, 2.0, dtype=dtype)
    everything(t_in[:, :3], weights, neuron)  # compiling is not the network's memory
    tracemalloc.start()
    try:
        everything(t_in, weights, neuron)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # NumPy's arrays; a pair product of the smallest type would take 100 times the unit here.
    unit = (n_batch * (n_pre + n_post) + n_pre * n_post) * np.dtype(dtype).itemsize
    assert peak < 16 * unit


def test_the_kernels_own_scratch_is_small_too() -> None:
    pytest.importorskip("resource")
    script = """
        import resource
        import numpy as np
        from gpuspike.kernels import first_spikes, first_spikes_vjp
        from gpuspike.neuron import LIF

        rng = np.random.default_rng(0)
        t_in = rng.uniform(0.0, 2.0, (256, 512)).astype(np.float32)
        weights = rng.normal(0.005, 0.05, (512, 512)).astype(np.float32)

        def run(n_batch):
            t_out = first_spikes(t_in[:n_batch], weights, LIF())
            first_spikes_vjp(t_in[:n_batch], weights, LIF(), t_out, np.ones_like(t_out))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        before = run(2)
        print(run(256) - before)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    growth = int(output) * (1 if sys.platform == "darwin" else 1024)
    assert growth < 256 * 512 * 512 * 4 / 8, f"peak memory grew by {growth / 2**20:.0f} MiB"


def test_freed_memory_is_not_read() -> None:
    # Where it is, results are wrong only if another thread has taken the memory meanwhile: rarely.
    # glibc can fill what is freed, which makes sure; elsewhere this is one more comparison.
    script = """
        import numpy as np
        from gpuspike.kernels import first_spikes, first_spikes_vjp
        from gpuspike.kernels import reference
        from gpuspike.neuron import LIF

        rng = np.random.default_rng(0)
        t_in = rng.uniform(0.0, 2.0, (1, 8, 784))
        weights = rng.normal(0.002, 0.05, (1, 784, 100))
        for tau_mem in (1.0, np.inf):
            neuron = LIF(tau_mem)
            expected = reference.first_spikes(t_in, weights, neuron)
            grad = np.ones_like(expected)
            expected_grads = reference.first_spikes_vjp(t_in, weights, neuron, expected, grad)
            t_out = first_spikes(t_in, weights, neuron)
            np.testing.assert_allclose(t_out, expected, atol=1e-10)
            grads = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
            for got, wanted in zip(grads, expected_grads):
                np.testing.assert_allclose(got, wanted, atol=1e-6 * np.abs(wanted).max())
    """
    filling = {"MALLOC_PERTURB_": "165", "GLIBC_TUNABLES": "glibc.malloc.perturb=165"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **filling},
    )
    assert result.returncode == 0, result.stderr[-2000:]
