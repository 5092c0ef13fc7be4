"""The CUDA kernels on a device, against the oracle and the CPU. `pytest -m gpu --require-gpu` wants one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_per_neuron
import test_trials
from numpy.typing import NDArray
from small_training import Setup, assert_close_runs, assert_same_runs, each_on_a_device
from test_kernels import (
    TOLERANCE,
    assert_close,
    assert_same_bits,
    assert_same_spikes,
    each_dtype,
    each_ratio,
    each_window,
    network,
    plain,
    realistic,
    scaled,
)
from test_trials import each_kind

import gpuspike
from gpuspike import backend
from gpuspike.errors import BackendError, ShapeError
from gpuspike.kernels import Trial, cuda, load, reference
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.kernels.unit import unit as unit_of
from gpuspike.neuron import LIF
from gpuspike.training.device import DeviceStep

Array = NDArray[Any]

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy, with a device that can be used."""
    problem = backend.cuda_problem()
    if problem is not None:
        (pytest.fail if request.config.getoption("--require-gpu") else pytest.skip)(problem.text)
    return backend.cupy_module()


def forward(cupy: Any, t_in: Array, weights: Array, neuron: LIF) -> tuple[Any, Any]:
    on_device = cupy.asarray(t_in)
    unit = unit_of(neuron, weights)
    return cuda.forward(on_device, cuda.spike_order(on_device), cupy.asarray(weights), unit)


def gradients(cupy: Any, t_in: Array, weights: Array, neuron: LIF, t_out: Any, grad: Array) -> list[Array]:
    kernels, unit = cuda, unit_of(neuron, weights)
    t_in, weights, grad = (cupy.asarray(array) for array in (t_in, weights, grad))
    slope = kernels.slopes(t_in, weights, unit, t_out)
    active = cupy.ones(len(weights), np.bool_)
    grads = kernels.backward(
        t_in, weights, unit, t_out, slope, grad, active=active, max_weight_grad=3.0, need_t_in_grad=True
    )
    return [array.get() for array in grads if array is not None]


@each_ratio
@each_window
def test_the_device_agrees_with_the_oracle(cupy: Any, ratio: float, window: float) -> None:
    neuron = scaled(ratio)
    for seed, sizes in enumerate([(3, 31, 129), (67, 129, 33), (1, 1025, 1), (33, 1, 65)]):
        t_in, weights = network(neuron, seed, *sizes, window, n_replica=2)
        t_out, slope = forward(cupy, t_in, weights, neuron)
        expected = reference.first_spikes(t_in, weights, neuron)
        assert_same_spikes(t_out.get(), expected, neuron, TOLERANCE["spike time, tau_syn"])
        unit = (neuron.threshold - neuron.leak) / neuron.tau_fast
        exact = reference.slopes(t_in, weights, neuron, t_out.get()) / unit
        np.testing.assert_allclose(slope.get() / unit, exact, rtol=1e-9, atol=TOLERANCE["slope"])
        grad = np.random.default_rng(seed).normal(size=t_out.shape)
        wanted = reference.first_spikes_vjp(t_in, weights, neuron, t_out.get(), grad, 3.0)
        for got, exact_grad in zip(gradients(cupy, t_in, weights, neuron, t_out, grad), wanted, strict=True):
            assert_close(got, exact_grad, TOLERANCE["gradient"])


@pytest.mark.parametrize("kind", ["levels", "taus", "both"])
@each_window
def test_neurons_with_parameters_of_their_own(cupy: Any, kind: str, window: float) -> None:
    test_per_neuron.check_against_the_oracle(load("cuda"), cupy.asarray, kind, window)


@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 3.7])
@pytest.mark.parametrize("window", [2.0, 30.0, 10_000.0])
def test_float32(cupy: Any, ratio: float, window: float) -> None:
    neuron = plain(ratio)
    t_in, weights = realistic(neuron, 7, 40, window)
    expected = reference.first_spikes(t_in, weights, neuron)
    t_out = forward(cupy, t_in, weights, neuron)[0].get()
    both = np.isfinite(t_out) & np.isfinite(expected)
    flips = np.count_nonzero(np.isfinite(t_out) != np.isfinite(expected))
    assert flips < TOLERANCE["float32 flips"] * expected.size
    ulp = np.spacing(np.abs(expected[both]).astype(np.float32)).astype(np.float64)
    bound = np.maximum(TOLERANCE["float32 spike time, tau_syn"], TOLERANCE["float32 ulps"] * ulp)
    error = np.abs(t_out[both].astype(np.float64) - expected[both])
    assert np.mean(error <= bound) >= TOLERANCE["float32 share"]


@each_dtype
@pytest.mark.parametrize("window", [4.0, 10_000.0])
def test_the_same_bits_every_time(cupy: Any, dtype: Any, window: float) -> None:
    neuron = scaled(3.7)
    t_in, weights = network(neuron, 1, 500, 129, 70, window, n_replica=2, dtype=dtype)
    grad = np.ones((2, 500, 70), dtype)
    first: list[Array] = []
    for _ in range(3):
        t_out, slope = forward(cupy, t_in, weights, neuron)
        arrays = [t_out.get(), slope.get(), *gradients(cupy, t_in, weights, neuron, t_out, grad)]
        for got, wanted in zip(arrays, first or arrays, strict=True):
            assert_same_bits(got, wanted)
        first = arrays


@each_kind
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_trials_agree_with_the_oracle(cupy: Any, kind: str, window: float) -> None:
    test_trials.check_against_the_oracle("cuda", cupy.asarray, kind, window)


@pytest.mark.parametrize("kind", ["equal", "general", "levels", "both"])
@pytest.mark.parametrize("n_batch", [1, 9])
def test_layers_hear_what_the_layer_before_sends(cupy: Any, kind: str, n_batch: int) -> None:
    test_trials.check_two_layers("cuda", cupy.asarray, kind, n_batch)


@each_kind
@each_dtype
def test_trials_that_do_nothing_change_no_bit(cupy: Any, kind: str, dtype: Any) -> None:
    neuron, t_in, weights = test_trials.layer(kind, 2, n_batch=500, n_pre=129, dtype=dtype)
    nothing = Trial(np.ones_like(test_trials.of_shape(t_in, weights)))
    states = [
        test_trials.forward(t_in, weights, neuron, trial, "cuda", cupy.asarray) for trial in (None, nothing)
    ]
    test_trials.assert_same(*states)


@each_kind
def test_float32_trials(cupy: Any, kind: str) -> None:
    neuron, t_in, weights = test_trials.layer(kind, 4, n_batch=12, n_pre=65, dtype=np.float32)
    trial = test_trials.trial(test_trials.of_shape(t_in, weights), 4)
    ours = test_trials.forward(t_in, weights, neuron, trial, "cuda", cupy.asarray).t_cross
    oracle = test_trials.forward(t_in, weights, neuron, trial, "reference").t_cross
    both = np.isfinite(ours) & np.isfinite(oracle)
    assert np.count_nonzero(np.isfinite(ours) != np.isfinite(oracle)) <= 1e-3 * ours.size
    assert np.mean(np.abs(ours[both] - oracle[both]) <= 1e-4) >= 0.999


@each_kind
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_slopes_at_the_crossing_agree_with_the_oracle(cupy: Any, kind: str, window: float) -> None:
    test_trials.check_slopes_at_the_crossing("cuda", cupy.asarray, kind, window)


@each_kind
@each_dtype
def test_at_its_own_spikes_a_neuron_s_slopes_are_those_of_the_forward_pass(
    cupy: Any, kind: str, dtype: Any
) -> None:
    neuron, t_in, weights = test_trials.layer(kind, 10, n_batch=17, dtype=dtype)
    state = test_trials.forward(t_in, weights, neuron, None, "cuda", cupy.asarray)
    slope = test_trials.crossing_slopes(t_in, weights, neuron, state.t_out, "cuda", cupy.asarray)
    atol = test_trials.TOLERANCE["slope at the crossing"] if dtype == np.float64 else 3e-3
    np.testing.assert_allclose(slope, state.slope / test_trials.unit_of_slope(neuron), rtol=0.0, atol=atol)


@each_dtype
@test_trials.each_number
@test_trials.each_batch
@test_trials.each_epoch
def test_the_device_draws_the_documented_numbers(
    cupy: Any, dtype: Any, n: int, n_batch: int, epoch: int
) -> None:
    test_trials.check_the_documented_numbers("cuda", cupy.asarray, dtype, n, n_batch, epoch)


def test_public_functions_agree_with_the_cpu(cupy: Any) -> None:
    t_in, weights = (array[0] for array in network(plain(2.0), 1, 65, 129, 70, 4.0))
    t_out = gpuspike.first_spikes(cupy.asarray(t_in), cupy.asarray(weights), plain(2.0))
    assert isinstance(t_out, cupy.ndarray)
    expected = gpuspike.first_spikes(t_in, weights, plain(2.0))
    assert_same_spikes(t_out.get(), expected, plain(2.0), 1e-10)
    ones = np.ones_like(expected)
    grads = gpuspike.first_spikes_vjp(
        cupy.asarray(t_in), cupy.asarray(weights), plain(2.0), cupy.asarray(expected), cupy.asarray(ones)
    )
    wanted = gpuspike.first_spikes_vjp(t_in, weights, plain(2.0), expected, ones)
    for got, exact in zip(grads, wanted, strict=True):
        assert_close(got.get(), exact, TOLERANCE["gradient"])
    strided = cupy.asarray(np.asfortranarray(t_in), order="F")
    assert_same_bits(gpuspike.first_spikes(strided, cupy.asarray(weights), plain(2.0)).get(), t_out.get())


def test_arrays_that_a_kernel_would_read_wrongly_are_refused(cupy: Any) -> None:
    t_in, weights = network(plain(2.0), 1, 5, 33, 31, 4.0)
    strided = cupy.asarray(np.swapaxes(weights, 1, 2)).swapaxes(1, 2)
    order = cuda.spike_order(cupy.asarray(t_in))
    with pytest.raises(ShapeError, match="weights must be C-contiguous"):
        cuda.forward(cupy.asarray(t_in), order, strided, unit_of(plain(2.0), weights))
    if cupy.cuda.runtime.getDeviceCount() < 2:
        return
    with cupy.cuda.Device(1):
        foreign = cupy.asarray(weights)
    with pytest.raises(BackendError, match="weights must be on the current device, 0, got device 1"):
        cuda.forward(cupy.asarray(t_in), order, foreign, unit_of(plain(2.0), weights))


def test_a_large_step_stays_within_half_a_gibibyte(cupy: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    rng = cupy.random.default_rng(0)
    with cupy.cuda.using_allocator(pool.malloc):
        t_in = 2.0 * rng.random((1, 10_000, 784), dtype=np.float32)
        weights = (0.004 + 0.01 * rng.standard_normal((1, 784, 350), dtype=np.float32)).astype(np.float32)
        kernels, unit = cuda, unit_of(plain(1.0), weights)
        order = cuda.spike_order(t_in)
        t_out, slope = kernels.forward(t_in, order, weights, unit)
        kernels.backward(
            t_in, weights, unit, t_out, slope, cupy.ones_like(t_out),
            active=cupy.ones(1, np.bool_), max_weight_grad=1e3, need_t_in_grad=False,
        )  # fmt: skip
        cupy.cuda.Device().synchronize()
        assert bool(cupy.isfinite(t_out).any())
        assert pool.total_bytes() < 0.5 * (1 << 30)


# --- decisions ----------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 3.7])
def test_decisions_of_one_launch_are_those_of_a_full_pass(cupy: Any, dtype: Any, ratio: float) -> None:
    neurons, bias = [plain(ratio)] * 3, [[], [0.9], [1.5, 0.2]]
    rng = np.random.default_rng(0)
    t_in = np.round(rng.uniform(0.0, 3.0, (500, 129)), 2).astype(dtype)
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    sizes, height = [(129, 246), (247, 33), (35, 10)], plain(ratio).kernel_peak[1]
    weights = [(rng.normal(3.0, 5.0, (2, *size)) / (size[0] * height)).astype(dtype) for size in sizes]
    there = [cupy.asarray(w) for w in weights]
    assert cuda.decides(weights, neurons)
    t_out = load("cuda").forward(cupy.asarray(t_in[None]), None, there, neurons, bias)[-1].t_out.get()
    expected = np.where(np.isfinite(t_out.min(axis=2)), t_out.argmin(axis=2), -1)
    assert (expected >= 0).mean() > 0.5
    for until in (0.5, 1.2, 2.0, math.inf):
        classes, times, _ = cuda.decide(cupy.asarray(t_in), there, neurons, bias, until)
        np.testing.assert_array_equal(classes, expected)
        assert_same_bits(times, t_out.min(axis=2))


# --- training ----------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("n", [1, 5, 33, 784, cuda_step.MOST_SORTED, cuda_step.MOST_SORTED + 1])
def test_rows_are_sorted_as_numpy_does(cupy: Any, n: int, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    times = np.round(rng.uniform(0.0, 2.0, (2, 30, n)), 2).astype(dtype)
    times[rng.random(times.shape) < 0.2] = np.inf
    order = cuda.spike_order(cupy.asarray(times)).get()
    np.testing.assert_array_equal(order, np.argsort(times, axis=-1, kind="stable"))


@each_on_a_device
def test_training_is_the_cpu_s_to_rounding(cupy: Any, setup: Setup) -> None:
    ours, theirs = setup.trained(), replace(setup, backend="cpu").trained()
    assert_close_runs(ours, theirs, 1e-3 if setup.input_noise else 1e-7)  # the noise is drawn in float32


@each_on_a_device
@each_dtype
def test_training_gives_the_same_bits_twice_with_a_graph_and_without(
    cupy: Any, setup: Setup, dtype: Any
) -> None:
    setup = replace(setup, dtype=dtype)
    first = setup.trained()
    step = first[0].step
    assert isinstance(step, DeviceStep)
    assert step._graph is not None
    for other in (setup.trained(), replace(setup, graph=False).trained()):
        for r in range(2):
            assert_same_runs(first, other, r, r)


@each_on_a_device
def test_a_replica_is_the_run_of_its_seed_alone(cupy: Any, setup: Setup) -> None:
    together = setup.trained()
    for r, seed in enumerate(setup.seeds):
        assert_same_runs(together, replace(setup, seeds=(seed,)).trained(), r, 0)


def test_a_run_stopped_on_the_device_goes_on_there_and_on_the_cpu(cupy: Any) -> None:
    setup = Setup(input_noise=0.1)
    whole = setup.trained(4)
    first, records = setup.trained(2)
    arrays = {name: array.copy() for name, array in first.state().items()}
    for backend_name in ("cuda", "cpu"):
        second = replace(setup, backend=backend_name).trainer()
        second.restore(arrays, 2)
        data = setup.labelled(0, setup.n_train), setup.labelled(1, 40)
        run = second, [*records, *second.train(*data, 4)]
        if backend_name == "cpu":
            assert_close_runs(run, whole, 1e-3)
            continue
        for r in range(2):
            assert_same_runs(run, whole, r, r)


def test_two_trainings_beside_each_other_do_not_touch_each_other(cupy: Any) -> None:
    setup = Setup(n_train=64)
    alone = setup.trained(3)
    data = setup.labelled(0, 64), setup.labelled(1, 40)
    pairs = [(trainer, trainer.train(*data, 3)) for trainer in (setup.trainer(), setup.trainer())]
    records = [[next(run) for _, run in pairs] for _ in range(3)]
    for number, (trainer, _) in enumerate(pairs):
        for r in range(2):
            assert_same_runs((trainer, [epoch[number] for epoch in records]), alone, r, r)
