"""The unmodified device code and its launcher against the oracle, on a machine without a GPU."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import device_on_cpu
import numpy as np
import pytest
import test_per_neuron
from device_on_cpu import fake
from numpy.typing import NDArray
from test_kernels import (
    RATIOS,
    TOLERANCE,
    assert_close,
    assert_same_bits,
    assert_same_spikes,
    biological,
    each_dtype,
    each_ratio,
    each_window,
    network,
    plain,
    realistic,
    scaled,
)

import gpuspike
from gpuspike.errors import BackendError, DtypeError, GpuspikeError, ShapeError
from gpuspike.kernels import cuda, load, reference
from gpuspike.kernels.cuda import source as cuda_source
from gpuspike.kernels.unit import unit as unit_of
from gpuspike.neuron import LIF

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("cupy")


def forward(t_in: Array, weights: Array, neuron: LIF) -> tuple[Array, Array]:
    t_in = fake(t_in)
    t_out, slope = cuda.forward(t_in, cuda.spike_order(t_in), fake(weights), unit_of(neuron, weights))
    return np.asarray(t_out), np.asarray(slope)


def slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
    return np.asarray(cuda.slopes(fake(t_in), fake(weights), unit_of(neuron, weights), fake(t_out)))


def backward(
    t_in: Array,
    weights: Array,
    neuron: LIF,
    t_out: Array,
    grad: Array,
    limit: float = math.inf,
    active: Any = None,
) -> tuple[Array, Array]:
    slope, unit = slopes(t_in, weights, neuron, t_out), unit_of(neuron, weights)
    active = np.ones(len(weights), np.bool_) if active is None else active
    arrays = [fake(array) for array in (t_in, weights)], [fake(array) for array in (t_out, slope, grad)]
    t_in_grad, weights_grad = cuda.backward(
        *arrays[0], unit, *arrays[1], active=active, max_weight_grad=limit, need_t_in_grad=True
    )
    none, again = cuda.backward(
        *arrays[0], unit, *arrays[1], active=active, max_weight_grad=limit, need_t_in_grad=False
    )
    assert none is None
    assert_same_bits(np.asarray(again), np.asarray(weights_grad))
    assert t_in_grad is not None
    return np.asarray(t_in_grad), np.asarray(weights_grad)


def assert_exact(t_in: Array, weights: Array, neuron: LIF) -> Array:
    t_out, slope = forward(t_in, weights, neuron)
    wide_input = np.broadcast_to(t_in, (len(weights), *t_in.shape[1:]))
    expected = reference.first_spikes(wide_input, weights, neuron)
    late = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    ulps = 8.0 * float(np.spacing(late)) / neuron.tau_syn  # a time of 10,000 has an ulp of 2e-12
    assert_same_spikes(t_out, expected, neuron, 2e-12 + ulps)
    unit = (neuron.threshold - neuron.leak) / neuron.tau_fast
    exact = reference.slopes(wide_input, weights, neuron, t_out) / unit
    np.testing.assert_allclose(slope / unit, exact, rtol=TOLERANCE["slope"], atol=TOLERANCE["slope"])
    again = slopes(t_in, weights, neuron, t_out) / unit
    np.testing.assert_allclose(again, exact, rtol=1e-11, atol=1e-12)
    return t_out


def assert_gradients(
    t_in: Array, weights: Array, neuron: LIF, t_out: Array, grad: Array, limit: float = math.inf
) -> tuple[Array, Array]:
    grads = backward(t_in, weights, neuron, t_out, grad, limit)
    wide_input = np.broadcast_to(t_in, (len(weights), *t_in.shape[1:]))
    expected = reference.first_spikes_vjp(wide_input, weights, neuron, t_out, grad, limit)
    for got, wanted in zip(grads, expected, strict=True):
        assert np.isfinite(got).all()
        assert_close(got, wanted, TOLERANCE["gradient"])
    return grads


# --- float64 ----------------------------------------------------------


@each_ratio
@each_window
@pytest.mark.parametrize("make", [plain, scaled, biological])
def test_spike_times_slopes_and_gradients_are_exact(ratio: float, window: float, make: Any) -> None:
    neuron = make(ratio)
    for seed, sizes in enumerate([(3, 31, 129), (4, 129, 33), (1, 33, 31)]):
        t_in, weights = network(neuron, seed, *sizes, window, n_replica=2)
        t_out = assert_exact(t_in, weights, neuron)
        grad = np.random.default_rng(seed).normal(size=t_out.shape)
        t_in_grad, _ = assert_gradients(t_in, weights, neuron, t_out, grad)
        assert not t_in_grad[np.isinf(t_in)].any()


@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 3.7])
@pytest.mark.parametrize(
    "sizes",
    [
        (0, 31, 33), (33, 0, 31), (31, 33, 0), (1, 1, 1), (129, 1, 33), (31, 31, 1), (1, 129, 1025),
        (1, 1025, 129), (1025, 1, 1), (33, 33, 129), (64, 64, 64), (65, 128, 3),
    ],
    ids=str,
)  # fmt: skip
def test_ugly_sizes(ratio: float, sizes: tuple[int, int, int]) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 5, *sizes, window=4.0)
    t_out = assert_exact(t_in, weights, neuron)
    assert_gradients(t_in, weights, neuron, t_out, np.ones_like(t_out))


@each_ratio
def test_replicas_may_share_their_input(ratio: float) -> None:
    neuron = scaled(ratio)
    for window in (4.0, 10_000.0):
        t_in, _ = network(neuron, 1, 5, 33, 31, window)
        _, weights = network(neuron, 2, 5, 33, 31, window, n_replica=3)
        t_out = assert_exact(t_in, weights, neuron)
        assert_gradients(t_in, weights, neuron, t_out, np.ones_like(t_out), limit=3.0)


@each_ratio
def test_many_inputs_at_one_time(ratio: float) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 7, 5, 129, 33, 2.0)
    assert_exact(np.where(np.isfinite(t_in), np.round(t_in), np.inf), weights, neuron)
    together = np.where(np.isfinite(t_in), -0.25, np.inf)
    assert np.isfinite(assert_exact(together, weights, neuron)).any()


@each_ratio
@each_dtype
def test_silence_in_gives_silence_out(ratio: float, dtype: Any) -> None:
    t_in, weights = np.full((1, 5, 33), np.inf, dtype), np.full((1, 33, 31), 100.0, dtype)
    t_out, slope = forward(t_in, weights, plain(ratio))
    assert_same_bits(t_out, np.full((1, 5, 31), np.inf, dtype))
    assert not slope.any()
    for grad in backward(t_in, weights, plain(ratio), t_out, np.full_like(t_out, np.nan)):
        assert not grad.any()


@each_ratio
def test_inhibition_alone_never_fires(ratio: float) -> None:
    t_in, weights = network(scaled(ratio), 6, 5, 33, 31, 4.0)
    assert np.isinf(forward(t_in, -1e6 * np.abs(weights), scaled(ratio))[0]).all()


@each_ratio
def test_extreme_weights_and_gaps(ratio: float) -> None:
    neuron = plain(ratio)
    t_in = np.array([-1e9, -1e9, -3.0, 0.0, 1e-12, 2.0, 1e9, np.inf]).reshape(1, 1, -1)
    rng = np.random.default_rng(0)
    weights = rng.normal(0.0, 1.0, (1, 8, 50)) * 10.0 ** rng.uniform(-12.0, 12.0, (1, 8, 50))
    t_out, _ = forward(t_in, weights, neuron)
    expected = reference.first_spikes(t_in, weights, neuron)
    np.testing.assert_array_equal(np.isfinite(t_out), np.isfinite(expected))
    np.testing.assert_allclose(t_out, expected, rtol=1e-12, atol=1e-12)
    assert_gradients(t_in, weights, neuron, t_out, np.ones_like(t_out))


def test_next_to_the_branch_point_of_lambert_w_no_digit_is_lost() -> None:
    # One input of weight e (1 + x) reaches the threshold where s exp(-s) = exp(-1)/(1 + x).
    excess = 10.0 ** np.arange(-14.0, 0.0)
    weights = (math.e * (1.0 + excess)).reshape(1, 1, -1)
    t_out, _ = forward(np.zeros((1, 1, 1)), weights, plain(1.0))
    expected = 1.0 - np.sqrt(2.0 * excess) + 2.0 / 3.0 * excess
    assert np.abs(t_out.ravel() - expected)[:6].max() < 3e-8  # the root of the last place of the weight
    assert np.abs(t_out.ravel() * np.exp(1.0 - t_out.ravel()) * (1.0 + excess) - 1.0).max() < 1e-15


# --- float32 ----------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "n_batch", "window"),
    [
        *((ratio, 40, 2.0) for ratio in RATIOS),
        *((ratio, 24, 30.0) for ratio in (1.0, 2.0, math.inf, 3.7, 1000.0)),
        *((ratio, 12, 10_000.0) for ratio in (1.0, 2.0, math.inf, 3.7, 1000.0)),
    ],
)
def test_float32_spike_times_and_gradients(ratio: float, n_batch: int, window: float) -> None:
    neuron = plain(ratio)
    t_in, weights = realistic(neuron, 7, n_batch, window)
    expected = reference.first_spikes(t_in, weights, neuron)
    t_out, slope = forward(t_in, weights, neuron)
    assert t_out.dtype == slope.dtype == np.float32
    both = np.isfinite(t_out) & np.isfinite(expected)
    flips = np.count_nonzero(np.isfinite(t_out) != np.isfinite(expected))
    assert flips < TOLERANCE["float32 flips"] * expected.size
    assert both.mean() > 0.2
    ulp = np.spacing(np.abs(expected[both]).astype(np.float32)).astype(np.float64)
    bound = np.maximum(TOLERANCE["float32 spike time, tau_syn"], TOLERANCE["float32 ulps"] * ulp)
    error = np.abs(t_out[both].astype(np.float64) - expected[both])
    assert np.mean(error <= bound) >= TOLERANCE["float32 share"]
    grad = np.where(slope > 0.05, np.random.default_rng(0).normal(size=t_out.shape), 0.0).astype(np.float32)
    grads = backward(t_in, weights, neuron, t_out, grad)
    exact = reference.first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    for got, wanted in zip(grads, exact, strict=True):
        assert got.dtype == np.float32
        assert_close(got, wanted, 2e-5)


# --- gradients ----------------------------------------------------------


@each_ratio
@each_window
def test_exploding_pairs_are_left_out(ratio: float, window: float) -> None:
    neuron = scaled(ratio)
    t_in, weights = network(neuron, 9, 5, 33, 129, window, n_replica=2)
    t_out, _ = forward(t_in, weights, neuron)
    grad = np.random.default_rng(9).normal(size=t_out.shape)
    t_in_grad, weights_grad = assert_gradients(t_in, weights, neuron, t_out, grad)
    slope = reference.slopes(t_in, weights, neuron, t_out)
    steep = slope > 0
    typical = np.median(np.abs(grad[steep]) / slope[steep]) * neuron.kernel_peak[1]
    limited = assert_gradients(t_in, weights, neuron, t_out, grad, limit=0.5 * float(typical))
    assert_same_bits(limited[0], t_in_grad)
    assert 0 < np.count_nonzero(limited[1]) < np.count_nonzero(weights_grad)
    assert not assert_gradients(t_in, weights, neuron, t_out, grad, limit=1e-300)[1].any()
    assert_same_bits(assert_gradients(t_in, weights, neuron, t_out, grad, limit=1e300)[1], weights_grad)


@each_ratio
def test_gradients_at_spike_times_that_are_not_the_neurons_own(ratio: float) -> None:
    neuron = scaled(ratio)
    for window in (2.0, 30.0, 10_000.0):
        t_in, weights = network(neuron, 10, 5, 33, 129, window, n_replica=2)
        rng = np.random.default_rng(10)
        width = window * neuron.tau_syn
        t_out, _ = forward(t_in, weights, neuron)
        t_out += rng.normal(0.0, 0.1 * neuron.tau_fast, t_out.shape)
        t_out[..., :20] = rng.uniform(-0.6, 0.8, (2, 5, 20)) * width
        t_out[..., 20:40] = t_in[..., :20]
        t_out[..., 40] = np.inf
        t_out[..., 41] = -0.75 * width
        t_out[..., 42] = 1e3 * width
        grad = rng.normal(size=t_out.shape)
        unit = (neuron.threshold - neuron.leak) / neuron.tau_fast
        grad[reference.slopes(t_in, weights, neuron, t_out) < 1e-5 * unit] = 0.0
        grad[np.isinf(t_out)] = np.nan
        assert_gradients(t_in, weights, neuron, t_out, grad)
        assert_gradients(t_in, weights, neuron, t_out, grad, limit=0.1)


@each_ratio
@each_dtype
def test_a_tangential_crossing_gives_exact_zeros(ratio: float, dtype: Any) -> None:
    neuron = plain(ratio)
    delay = neuron.kernel_peak[0] if math.isfinite(ratio) else 45.0 * neuron.tau_syn
    weights = np.full((1, 1, 3), 1.0 / float(neuron.kernel(delay)), dtype)
    weights[0, 0, 0] = np.nextafter(weights[0, 0, 0], dtype(0))
    weights[0, 0, 2] = np.nextafter(weights[0, 0, 2], dtype(np.inf))
    peak = np.full((1, 1, 3), delay, dtype)
    for grad in backward(np.zeros((1, 1, 1), dtype), weights, neuron, peak, np.ones_like(peak)):
        assert_same_bits(grad, np.zeros_like(grad))


@each_ratio
@each_dtype
def test_next_to_a_tangential_crossing_nothing_is_nan(ratio: float, dtype: Any) -> None:
    neuron = plain(ratio)
    ulps = np.arange(-20, 21) * np.finfo(dtype).eps
    weights = ((1.0 + ulps) / neuron.kernel_peak[1]).astype(dtype).reshape(1, 1, -1)
    t_in = np.zeros((1, 1, 1), dtype)
    t_out, slope = forward(t_in, weights, neuron)
    assert not np.isnan(t_out).any()
    assert np.isinf(t_out[0, 0, 0])
    assert np.isfinite(t_out[0, 0, -1])
    assert np.isfinite(slope).all()
    assert not slope[np.isinf(t_out)].any()
    for grad in backward(t_in, weights, neuron, t_out, np.ones_like(t_out)):
        assert np.isfinite(grad).all()


@each_dtype
def test_replicas_that_want_no_gradient_get_zero(dtype: Any) -> None:
    for window in (4.0, 10_000.0):
        t_in, weights = network(scaled(3.7), 3, 70, 33, 31, window, n_replica=3, dtype=dtype)
        t_out, _ = forward(t_in, weights, scaled(3.7))
        grad = np.ones_like(t_out)
        whole = backward(t_in, weights, scaled(3.7), t_out, grad)
        some = backward(t_in, weights, scaled(3.7), t_out, grad, active=np.array([True, False, True]))
        for got, wanted in zip(some, whole, strict=True):
            assert not got[1].any()
            assert_same_bits(got[[0, 2]], wanted[[0, 2]])


# --- what must change no bit ----------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("window", [4.0, 10_000.0])
def test_the_workspace_changes_no_bit(dtype: Any, window: float, monkeypatch: pytest.MonkeyPatch) -> None:
    t_in, weights = network(scaled(3.7), 4, 13, 33, 45, window, n_replica=2, dtype=dtype)
    t_out, slope = forward(t_in, weights, scaled(3.7))
    again = slopes(t_in, weights, scaled(3.7), t_out)
    for budget in (0, 20_000):
        monkeypatch.setattr(cuda, "WORKSPACE", budget)
        parts = forward(t_in, weights, scaled(3.7))
        assert_same_bits(parts[0], t_out)
        assert_same_bits(parts[1], slope)
        assert_same_bits(slopes(t_in, weights, scaled(3.7), t_out), again)


def test_a_batch_summed_in_parts_is_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    for window in (4.0, 10_000.0):
        t_in, weights = network(scaled(2.0), 4, 61, 33, 45, window, n_replica=2)
        t_out, _ = forward(t_in, weights, scaled(2.0))
        monkeypatch.setattr(cuda_source, "SPLIT_SAMPLES", 7)
        grads = assert_gradients(t_in, weights, scaled(2.0), t_out, np.ones_like(t_out))
        assert_same_bits(
            grads[1], assert_gradients(t_in, weights, scaled(2.0), t_out, np.ones_like(t_out))[1]
        )


def test_splitting_a_batch_changes_no_bit() -> None:
    t_in, weights = network(scaled(3.7), 8, 9, 65, 70, 30.0, n_replica=2)
    t_out, slope = forward(t_in, weights, scaled(3.7))
    for part in (slice(0, 4), slice(4, None)):
        times, steepness = forward(t_in[:, part], weights, scaled(3.7))
        assert_same_bits(times, t_out[:, part])
        assert_same_bits(steepness, slope[:, part])


@each_ratio
@each_dtype
@pytest.mark.parametrize("n_post", [64, 65, 129])
def test_the_neurons_of_a_thread_change_no_bit(
    ratio: float, dtype: Any, n_post: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for window, shared in ((4.0, False), (30.0, True)):
        t_in, weights = network(scaled(ratio), 6, 5, 45, n_post, window, n_replica=2, dtype=dtype)
        t_in = fake(t_in[:1] if shared else t_in)
        order, unit = cuda.spike_order(t_in), unit_of(scaled(ratio), weights)
        lift = np.random.default_rng(1).normal(1.0, 0.6, (2, 5, n_post)).astype(dtype)  # some below 0
        for lifts in (None, fake(lift)):
            few = cuda.forward(t_in, order, fake(weights), unit, lifts)
            with monkeypatch.context() as patch:
                patch.setattr(cuda_source, "neurons_a_thread", lambda *_: cuda_source.NEURONS_A_THREAD)
                many = cuda.forward(t_in, order, fake(weights), unit, lifts)
            launched = [name for name in device_on_cpu.device.launches[-3:] if "first_spikes" in name]
            assert f", {cuda_source.NEURONS_A_THREAD}, " in launched[-1]
            for one, other in zip(few, many, strict=True):
                assert_same_bits(np.asarray(one), np.asarray(other))
            assert np.isfinite(few[0]).any()


@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.7, math.inf])
def test_flat_crossings_are_solved_from_sums_in_float64(ratio: float) -> None:
    """Where the slope is 0.002, float32 sums would give the time to 1e-4 at best."""
    neuron, rng = plain(ratio), np.random.default_rng(2)
    t_in = np.sort(rng.uniform(0.0, 3.0, (1, 1, 200))).astype(np.float32)
    weights = rng.normal(0.01, 0.02, (1, 200, 96))
    # Scaled so that the highest potential is just above the threshold; without a leak it is reached slowly.
    ages = np.maximum(np.linspace(0.0, 30.0, 8001)[:, None] - t_in[0, 0], 0.0).astype(np.float64)
    above = 2e-3 if math.isinf(ratio) else 3e-6
    weights *= (1.0 + above) / np.maximum((neuron_kernel(ages, neuron) @ weights[0]).max(axis=0), 0.1)
    weights = weights.astype(np.float32)
    t_out, slope = forward(t_in, weights, neuron)
    oracle = t_in.astype(np.float64), weights.astype(np.float64), neuron
    exact = reference.first_spikes(*oracle)
    flat = np.isfinite(t_out) & np.isfinite(exact)
    flat[flat] = np.abs(reference.slopes(*oracle, exact)[flat] - 0.003) < 0.003
    assert np.count_nonzero(flat) > 10
    assert np.abs(t_out - exact)[flat].max() < 2e-6
    np.testing.assert_allclose(slope[flat], reference.slopes(*oracle, exact)[flat], rtol=1e-2)


def neuron_kernel(age: Array, neuron: LIF) -> Array:
    """The potential that an input of weight 1 makes."""
    slow, fast = neuron.tau_slow, neuron.tau_fast
    if slow == fast:
        return age * np.exp(-age)
    return (np.exp(-age / slow) - np.exp(-age / fast)) / (1.0 / fast - 1.0 / slow)


def test_neurons_are_paired_where_there_are_many_and_few_are_met_twice() -> None:
    many = cuda_source.MANY
    got = [
        cuda_source.neurons_a_thread(n, many) for n in (10, 63, 64, 65, 96, 97, 128, 129, 160, 161, 246, 350)
    ]
    assert got == [1, 1, 2, 1, 1, 2, 2, 1, 1, 2, 2, 2]
    assert cuda_source.neurons_a_thread(350, many - 1) == 1


# --- the launcher ----------------------------------------------------------


def test_public_functions_take_device_arrays() -> None:
    t_in, weights = network(plain(2.0), 1, 5, 33, 31, 4.0)
    t_out = gpuspike.first_spikes(fake(t_in[0]), fake(weights[0]), plain(2.0))
    assert isinstance(t_out, device_on_cpu.FakeArray)
    assert_same_bits(np.asarray(t_out), forward(t_in, weights, plain(2.0))[0][0])
    grads = gpuspike.first_spikes_vjp(
        fake(t_in[0]), fake(weights[0]), plain(2.0), t_out, fake(np.ones((5, 31)))
    )
    expected = backward(t_in, weights, plain(2.0), np.asarray(t_out)[None], np.ones((1, 5, 31)))
    for got, wanted in zip(grads, expected, strict=True):
        assert_same_bits(np.asarray(got), wanted[0])
    strided = fake(np.asfortranarray(t_in[0])).T.copy().T  # copied, like NumPy's
    assert_same_bits(
        np.asarray(gpuspike.first_spikes(strided, fake(weights[0]), plain(2.0))), np.asarray(t_out)
    )


def elsewhere(array: device_on_cpu.FakeArray) -> device_on_cpu.FakeArray:
    array = array.copy()
    array.device_id = 1
    return array


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (elsewhere, BackendError, "must be on the current device, 0, got device 1"),
        (np.asarray, DtypeError, "CuPy array"),
        (lambda a: a.astype(np.float32 if a.dtype == np.float64 else np.int32), DtypeError, "must be "),
        (lambda a: a[..., :-1].copy(), ShapeError, "must have shape"),
        (lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2), ShapeError, "must be C-contiguous"),
    ],
    ids=["device", "module", "dtype", "shape", "strides"],
)
def test_what_a_kernel_would_read_wrongly_is_refused(
    change: Any, error: type[GpuspikeError], message: str
) -> None:
    t_in, weights = (fake(array) for array in network(plain(2.0), 1, 5, 33, 31, 4.0))
    order, unit = cuda.spike_order(t_in), unit_of(plain(2.0), weights)
    t_out, slope = cuda.forward(t_in, order, weights, unit)
    ones = fake(np.ones_like(t_out))
    arrays = {"t_in": t_in, "weights": weights, "t_out": t_out, "slope": slope, "t_out_grad": ones}

    def call(**changed: Any) -> None:
        a = {**arrays, **changed}
        cuda.backward(
            a["t_in"], a["weights"], unit, a["t_out"], a["slope"], a["t_out_grad"],
            active=np.ones(1, np.bool_), max_weight_grad=1.0, need_t_in_grad=True,
        )  # fmt: skip

    call()
    for name, array in arrays.items():
        with pytest.raises(error, match=message):
            call(**{name: change(array)})
    with pytest.raises(error, match=f"order.*{message}|order {message}"):
        cuda.forward(t_in, change(order), weights, unit)


def test_public_functions_refuse_another_device_s_arrays() -> None:
    t_in, weights = (fake(array[0]) for array in network(plain(2.0), 1, 5, 33, 31, 4.0))
    with pytest.raises(BackendError, match="weights must be on the current device, 0, got device 1"):
        gpuspike.first_spikes(t_in, elsewhere(weights), plain(2.0))


# --- neurons with parameters of their own ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["levels", "taus", "both"])
@each_window
def test_neurons_with_parameters_of_their_own(kind: str, window: float) -> None:
    test_per_neuron.check_against_the_oracle(load("cuda"), fake, kind, window)


# --- under the sanitizers ----------------------------------------------------------


SANITIZED = """
import sys
sys.path[:0] = {path!r}
import device_on_cpu, pathlib, test_device_code as t, test_device_training as training
with device_on_cpu.installed(pathlib.Path(sys.argv[1])):
    for dtype in (t.np.float32, t.np.float64):
        other = {{"optimizer": training.SGD(0.9), "loss": training.TimeMSE(), "shift": 1, "input_noise": 0.1}}
        for how in ({{}}, other):
            training.Setup(dtype=dtype, n_train=20, batch_size=7, **how).trained(1)
    for ratio in (1.0, 2.0, t.math.inf, 3.7):
        for window in (4.0, 10_000.0):
            for sizes in ((1, 1, 1), (5, 33, 65), (67, 5, 3)):
                for dtype in (t.np.float32, t.np.float64):
                    t_in, weights = t.network(t.scaled(ratio), 1, *sizes, window, n_replica=2, dtype=dtype)
                    t_out, _ = t.forward(t_in, weights, t.scaled(ratio))
                    t.backward(t_in, weights, t.scaled(ratio), t_out, t.np.ones_like(t_out), 0.5)
    for window in (4.0, 10_000.0):
        t_in, weights = t.test_per_neuron.network(1, 5, 33, window)
        neuron = t.test_per_neuron.neurons("both")
        t_out, _ = t.forward(t_in, weights, neuron)
        t.backward(t_in, weights, neuron, t_out, t.np.ones_like(t_out), 0.5)
    import test_device_deciding, test_device_folding, test_device_trials
    test_device_trials.use_all()
    test_device_deciding.use_all()
    test_device_folding.use_all()
print("clean")
"""


@pytest.mark.slow
def test_the_device_code_is_clean_under_the_sanitizers(library: Path) -> None:
    build = device_on_cpu.build(library.parent, *device_on_cpu.SANITIZERS)
    where = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not all(os.path.isabs(name) for name in where):
        pytest.skip("g++ comes without the address sanitizer's library")
    code = SANITIZED.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "LD_PRELOAD": ":".join(where), "ASAN_OPTIONS": "detect_leaks=0"}
    answer = subprocess.run(
        [sys.executable, "-c", code, str(build)], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.split()[-1] == "clean"
