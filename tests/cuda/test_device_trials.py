"""What a chip needs of the device, without a GPU: trials, slopes at the crossing, normal numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_trials
from device_on_cpu import FakeArray, fake
from numpy.typing import NDArray
from test_kernels import TOLERANCE, assert_same_bits, assert_same_spikes, network, scaled
from test_trials import (
    N_REPLICA,
    RATIOS,
    check_against_the_oracle,
    check_slopes_at_the_crossing,
    check_the_documented_numbers,
    check_two_layers,
    crossing_slopes,
    each_batch,
    each_dtype,
    each_epoch,
    each_kind,
    each_number,
    layer,
    normals,
    of_shape,
    somebody_else_s_times,
    trial,
    unit_of_slope,
)

from gpuspike.errors import DtypeError, GpuspikeError, ShapeError
from gpuspike.kernels import LayerState, Trial, cuda, load, reference
from gpuspike.kernels.layerwise import heard
from gpuspike.kernels.unit import unit as unit_of
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose

Array = NDArray[Any]

SIZES = [
    (0, 31, 33),
    (33, 0, 31),
    (31, 33, 0),
    (1, 1, 1),
    (129, 1, 33),
    (31, 31, 1),
    (1, 33, 129),
    (3, 129, 31),
]

pytestmark = pytest.mark.usefixtures("cupy")
each_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
each_ratio = pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in ("equal", "general") else pytest.mark.slow) for kind in RATIOS],
)


def forward(t_in: Array, weights: Array, neuron: LIF, trial: Trial | None) -> LayerState:
    return test_trials.forward(t_in, weights, neuron, trial, "cuda", fake)


def some_lift(like: Array) -> Array:
    """Below, at and above 0, next to it, and far above."""
    lift = 1.0 + 0.3 * np.random.default_rng(1).normal(size=like.shape)
    every = np.resize([-1.0, -0.0, 0.0, 1e-6, 1e-4, 1.0, 30.0, 1e6], like.shape)
    return np.where(np.arange(like.shape[2]) % 3 == 0, every, lift).astype(like.dtype)


def use_all() -> None:
    """Every kernel of this file once, for the sanitizers."""
    for kind in (*RATIOS, "levels", "both"):
        for dtype in (np.float32, np.float64):
            for sizes, window in (((1, 1), 4.0), ((5, 33), 4.0), ((3, 7), 10_000.0)):
                neuron, t_in, weights = layer(kind, 1, *sizes, window, dtype)
                t_out = forward(t_in, weights, neuron, trial(of_shape(t_in, weights))).t_out
                crossing_slopes(t_in, weights, neuron, t_out, "cuda", fake)
                normals(t_out.shape, dtype, backend="cuda", wrap=fake)


# --- thresholds, delays, ticks and the end -----------------------------------


@each_kind
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_trials_agree_with_the_oracle(kind: str, window: float) -> None:
    check_against_the_oracle("cuda", fake, kind, window)


@each_ratio
@each_size
def test_lifts_around_zero_and_ugly_sizes(kind: str, sizes: tuple[int, int, int]) -> None:
    # With its leak at 0 the oracle's threshold is as exact as the lift itself.
    neuron = replace(scaled(RATIOS[kind]), leak=0.0)
    t_in, weights = network(neuron, 5, *sizes, 4.0, N_REPLICA)
    for inputs in (t_in, t_in[:1]):  # replicas may share their input
        lift = some_lift(of_shape(inputs, weights))
        ours = forward(inputs, weights, neuron, Trial(lift))
        oracle = test_trials.forward(inputs, weights, neuron, Trial(lift), "reference")
        assert_same_spikes(ours.t_cross, oracle.t_cross, LIF(), TOLERANCE["spike time, tau_syn"])
        unit = np.abs(lift) * neuron.span / neuron.tau_fast + (lift == 0.0)
        # The oracle takes the slope at the rounded spike time: 1e-6 behind an input where the lift is that.
        np.testing.assert_allclose(ours.slope / unit, oracle.slope / unit, rtol=1e-8, atol=1e-9)
        on = lift <= 0.0
        assert_same_bits(ours.t_cross[on], np.zeros(np.count_nonzero(on)))
        assert not ours.slope[on].any()


@each_kind
@each_dtype
def test_a_threshold_as_good_as_at_the_leak_is_met_at_once(kind: str, dtype: Any) -> None:
    neuron, t_in, weights = layer(kind, 3, dtype=dtype)
    lift = np.resize(np.array([1e-12, np.finfo(dtype).eps], dtype), of_shape(t_in, weights).shape)
    ours = forward(t_in, weights, neuron, Trial(lift))
    cpu = test_trials.forward(t_in, weights, neuron, Trial(lift), "cpu")
    assert_same_spikes(ours.t_cross, cpu.t_cross, LIF(), 1e-10 if dtype == np.float64 else 1e-4)
    assert np.isfinite(ours.slope).all()
    assert ours.slope.any()


@each_kind
@each_dtype
def test_trials_that_do_nothing_change_no_bit(kind: str, dtype: Any) -> None:
    neuron, t_in, weights = layer(kind, 2, dtype=dtype)
    ideal = forward(t_in, weights, neuron, None)
    like = of_shape(t_in, weights)
    for nothing in (Trial(), Trial(np.ones_like(like), np.zeros_like(like), 0.0, 1e30)):
        test_trials.assert_same(forward(t_in, weights, neuron, nothing), ideal)


@each_kind
def test_float32_trials(kind: str) -> None:
    neuron, t_in, weights = layer(kind, 4, n_batch=12, n_pre=65, dtype=np.float32)
    interference = trial(of_shape(t_in, weights), 4)
    ours = forward(t_in, weights, neuron, interference)
    oracle = test_trials.forward(t_in, weights, neuron, interference, "reference")
    assert ours.t_cross.dtype == ours.t_out.dtype == ours.slope.dtype == np.float32
    both = np.isfinite(ours.t_cross) & np.isfinite(oracle.t_cross)
    assert np.count_nonzero(np.isfinite(ours.t_cross) != np.isfinite(oracle.t_cross)) <= 1e-3 * both.size
    assert np.mean(np.abs(ours.t_cross[both] - oracle.t_cross[both]) <= 1e-4) >= 0.999
    difference = np.abs(ours.slope - oracle.slope) / unit_of_slope(neuron)
    assert np.mean(difference[both] <= 1e-3) >= 0.999
    np.testing.assert_array_equal(ours.t_out, heard(ours.t_cross, interference))


@pytest.mark.parametrize("kind", ["equal", "general", "taus"])
@each_dtype
def test_cutting_a_batch_changes_no_bit(kind: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    neuron, t_in, weights = layer(kind, 5, n_batch=13, dtype=dtype)
    interference = trial(of_shape(t_in, weights), 5)
    together = forward(t_in, weights, neuron, interference)
    slope = crossing_slopes(t_in, weights, neuron, together.t_out, "cuda", fake)
    for first, last in ((0, 1), (1, 13)):
        lift, delay = (array[:, first:last] for array in (interference.lift, interference.delay))
        part = forward(t_in[:, first:last], weights, neuron, interference._replace(lift=lift, delay=delay))
        for name in ("t_out", "t_cross", "slope"):
            assert_same_bits(getattr(part, name), getattr(together, name)[:, first:last])
    for budget in (0, 20_000):
        monkeypatch.setattr(cuda, "WORKSPACE", budget)
        test_trials.assert_same(forward(t_in, weights, neuron, interference), together)
        again = crossing_slopes(t_in, weights, neuron, together.t_out, "cuda", fake)
        assert_same_bits(again, slope)


@pytest.mark.parametrize("kind", ["equal", "general", "levels", "both"])
@pytest.mark.parametrize("n_batch", [1, 9])
def test_layers_hear_what_the_layer_before_sends(kind: str, n_batch: int) -> None:
    check_two_layers("cuda", fake, kind, n_batch)


@each_dtype
def test_spikes_are_heard_as_on_the_cpu(dtype: Any) -> None:
    """Crossing, delay (not before 0 by it), next tick, end, in device arrays."""
    numbers = np.random.default_rng(0)
    t_cross = numbers.uniform(-0.5, 2.0, (2, 5, 33)).astype(dtype)
    t_cross[numbers.random(t_cross.shape) < 0.2] = np.inf
    whole = trial(t_cross)
    for given in (whole, whole._replace(delay=None), whole._replace(grid=0.0), whole._replace(end=math.inf)):
        got = heard(fake(t_cross), test_trials.placed(given, fake))
        assert isinstance(got, FakeArray)
        assert got.dtype == dtype
        assert_same_bits(np.asarray(got), heard(t_cross, given))


@pytest.mark.parametrize("sizes", [(0, 3), (5, 0), (2, 3)], ids=str)
def test_neurons_that_are_always_on_need_no_input(sizes: tuple[int, int]) -> None:
    for kind in ("equal", "taus"):
        neuron, t_in, weights = layer(kind, 1, *sizes)
        lift = some_lift(of_shape(t_in, weights))
        state = forward(np.full_like(t_in, np.inf), weights, neuron, Trial(lift))
        assert_same_bits(state.t_out, np.where(lift <= 0.0, 0.0, np.inf))
        assert not state.slope.any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (np.asarray, DtypeError, "lift must be a CuPy array, got ndarray"),
        (lambda a: a.swapaxes(1, 2).copy().swapaxes(1, 2), ShapeError, "lift must be C-contiguous"),
        (
            lambda a: a[..., 1:].copy(),
            ShapeError,
            r"lift must be \(n_replica, n_batch, n_post\) = \(2, 4, 45\)",
        ),
        (
            lambda a: a.astype(np.float32),
            DtypeError,
            "lift must be float64 like the spike times, got float32",
        ),
    ],
    ids=["module", "strides", "shape", "dtype"],
)
def test_a_lift_that_a_kernel_would_read_wrongly_is_refused(
    change: Any, error: type[GpuspikeError], message: str
) -> None:
    neuron, t_in, weights = layer("equal", 1)
    lift = change(fake(np.ones_like(of_shape(t_in, weights))))
    with pytest.raises(error, match=message):
        load("cuda").forward(fake(t_in), None, [fake(weights)], [neuron], [()], [Trial(lift)])
    if error is DtypeError:  # the launcher's own check, for whoever asks it
        order = cuda.spike_order(fake(t_in))
        with pytest.raises(error, match="lift must be"):
            cuda.forward(fake(t_in), order, fake(weights), unit_of(neuron, weights), lift)


def test_a_delay_must_be_where_the_spikes_are() -> None:
    t_cross = np.ones((1, 2, 3))
    with pytest.raises(DtypeError, match="must all be NumPy or all CuPy, got t_cross: cupy, delay: numpy"):
        heard(fake(t_cross), Trial(delay=t_cross))


# --- slopes at the crossing ---------------------------------------------------


def within(slope: Array) -> Array:
    """No more than float32 holds: a membrane long past its peak crossed steeply, and has no gradient left."""
    return np.minimum(slope, 1e30)


@each_kind
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_slopes_at_the_crossing_agree_with_the_oracle(kind: str, window: float) -> None:
    check_slopes_at_the_crossing("cuda", fake, kind, window)


@each_kind
@each_dtype
def test_at_its_own_spikes_a_neuron_s_slopes_are_those_of_the_forward_pass(kind: str, dtype: Any) -> None:
    neuron, t_in, weights = layer(kind, 10, n_batch=17, dtype=dtype)
    state = forward(t_in, weights, neuron, None)
    slope = crossing_slopes(t_in, weights, neuron, state.t_out, "cuda", fake)
    atol = test_trials.TOLERANCE["slope at the crossing"] if dtype == np.float64 else 3e-3
    np.testing.assert_allclose(slope, state.slope / unit_of_slope(neuron), rtol=0.0, atol=atol)


@pytest.mark.parametrize("kind", [*RATIOS, "levels"])
def test_slopes_at_the_crossing_of_a_wide_window_are_the_cpu_s(kind: str) -> None:
    neuron, t_in, weights = layer(kind, 13, 9, 65, 10_000.0)
    times = somebody_else_s_times(t_in, weights, neuron)
    slope = crossing_slopes(t_in, weights, neuron, times, "cuda", fake)
    cpu = crossing_slopes(t_in, weights, neuron, times, "cpu")
    np.testing.assert_allclose(within(slope), within(cpu), rtol=1e-8, atol=1e-8)
    assert slope.any()


@each_kind
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_float32_slopes_at_the_crossing(kind: str, window: float) -> None:
    neuron, t_in, weights = layer(kind, 12, 9, 65, window, np.float32)
    times = somebody_else_s_times(t_in, weights, neuron).astype(np.float32)
    slope = crossing_slopes(t_in, weights, neuron, times, "cuda", fake)
    oracle = crossing_slopes(t_in, weights, neuron, times, "reference")
    assert np.mean(np.abs(within(slope) - within(oracle)) <= 1e-3 * (1.0 + within(oracle))) >= 0.999


@each_ratio
@each_dtype
@each_size
def test_slopes_at_the_crossing_of_ugly_sizes(kind: str, dtype: Any, sizes: tuple[int, int, int]) -> None:
    neuron = scaled(RATIOS[kind])
    t_in, weights = network(neuron, 6, *sizes, 4.0, N_REPLICA, dtype)
    times = np.random.default_rng(6).uniform(-1.0, 3.0, of_shape(t_in, weights).shape).astype(dtype)
    for inputs in (t_in, t_in[:1]):
        arrays = fake(inputs), fake(weights), unit_of(neuron, weights), fake(times)
        slope = np.asarray(cuda.crossing_slopes(*arrays))
        assert slope.dtype == dtype
        wide_input = np.broadcast_to(inputs, t_in.shape)
        oracle = reference.crossing_slopes(wide_input, weights, neuron, times)
        atol = test_trials.TOLERANCE["slope at the crossing"] if dtype == np.float64 else 3e-3
        unit = neuron.span / neuron.tau_fast
        np.testing.assert_allclose(within(slope / unit), within(oracle / unit), rtol=1e-4, atol=atol)


@each_dtype
def test_silence_and_extremes_have_no_slope_that_is_no_number(dtype: Any) -> None:
    for ratio in RATIOS.values():
        neuron = scaled(ratio)
        numbers = np.random.default_rng(0)
        t_in = np.array([-1e9, -3.0, 0.0, 1e-12, 2.0, 1e9, np.inf], dtype).reshape(1, 1, -1)
        weights = numbers.normal(size=(1, 7, 50)) * 10.0 ** numbers.uniform(-12.0, 12.0, (1, 7, 50))
        times = np.resize(np.array([-1e30, -2.0, 0.5, 30.0, 1e12, np.inf], dtype), (1, 1, 50))
        for inputs in (t_in, np.full_like(t_in, np.inf)):
            given = fake(weights.astype(dtype))
            slope = cuda.crossing_slopes(fake(inputs), given, unit_of(neuron, given), fake(times))
            assert not np.isnan(np.asarray(slope)).any()
            assert not np.asarray(slope)[np.isinf(times)].any()
        assert not np.asarray(slope).any()


@each_kind
def test_a_chip_s_gradient_is_the_oracle_s(kind: str) -> None:
    """The whole way of training in the loop: a chip's spikes, the slopes at the crossing, the gradient."""
    neuron, t_in, weights = layer(kind, 11)
    times = somebody_else_s_times(t_in, weights, neuron)
    grads, active = [], np.ones(N_REPLICA, np.bool_)
    for backend, put in (("cuda", fake), ("reference", test_trials.same)):
        kernels, arrays = load(backend), [put(array) for array in (t_in, weights, times)]
        slope = kernels.crossing_slopes(arrays[0], arrays[1], neuron, arrays[2])
        state = LayerState(arrays[0], np.empty(0, np.int64), arrays[2], arrays[2], slope)
        _, (grad,) = kernels.backward(
            [state], [arrays[1]], [neuron], put(np.ones_like(times)), active=put(active),
            max_weight_grad=0.5, need_t_in_grad=False,
        )  # fmt: skip
        grads.append(np.asarray(grad))
    # Pairs with a slope next to the limit may be left out on one side only: none is here.
    np.testing.assert_allclose(grads[0], grads[1], rtol=0.0, atol=1e-7 * np.abs(grads[1]).max())
    assert grads[1].any()


# --- normal numbers -----------------------------------------------------------


@each_dtype
@each_number
@each_batch
@each_epoch
def test_the_device_draws_the_documented_numbers(dtype: Any, n: int, n_batch: int, epoch: int) -> None:
    check_the_documented_numbers("cuda", fake, dtype, n, n_batch, epoch)


def test_splitting_a_batch_draws_the_same_numbers() -> None:
    together = normals((2, 37, 9), backend="cuda", wrap=fake)
    for first, last in ((0, 1), (1, 20), (20, 37)):
        part = normals((2, last - first, 9), backend="cuda", wrap=fake, first=first)
        assert_same_bits(part, together[:, first:last])


def test_normal_numbers_need_a_seed_a_replica() -> None:
    address = (Purpose.SPIKE_JITTER, 0, 0, 0, 0)
    with pytest.raises(ShapeError, match="normal numbers of 2 replicas need as many seeds, got 1"):
        cuda.normals(fake(np.zeros((2, 3, 4))), [1], *address)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 0, 5), (2, 3, 0), (2, 3, 1), (2, 37, 9)])
def test_the_clock_draws_what_its_numbers_draw(shape: tuple[int, int, int], dtype: Any) -> None:
    like, clock, seeds = np.empty(shape, dtype), fake(np.array([5, 7])), [3, 2**62 + 1]
    numbers = cuda.normals(like, seeds, Purpose.SPIKE_JITTER, 1, 5, 7, 0)
    assert_same_bits(cuda.normals(like, seeds, Purpose.SPIKE_JITTER, 1, clock, clock, 0), numbers)
