"""Neurons with parameters of their own: what LIF accepts, and the CPU kernels against the oracle."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.errors import ShapeError, ValueRangeError
from gpuspike.kernels import Kernels, LayerState, Trial, first_spikes, first_spikes_vjp, load, reference
from gpuspike.kernels.constants import DOUBLE, EQUAL, GENERAL, MIXED, NON_LEAKY
from gpuspike.kernels.unit import AnyNeurons, Unit, unit
from gpuspike.neuron import LIF

Array = NDArray[Any]

WINDOWS = [4.0, 30.0, 10_000.0]
N_REPLICA, N_POST = 2, 45

each_window = pytest.mark.parametrize("window", WINDOWS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def neurons(kind: str, seed: int = 3) -> LIF:
    """45 different neurons in each of two replicas: own levels, own time constants, or both; every regime."""
    rng = np.random.default_rng(seed)
    shape = (N_REPLICA, N_POST)
    tau_mem = 0.7 * rng.uniform(1.2, 5.0, shape)
    tau_mem[:, :5], tau_mem[:, 5:10] = math.inf, 0.7
    tau_mem[:, 10:15], tau_mem[:, 15:20], tau_mem[:, 20:22] = 1.4, 0.1, 0.7 * (1.0 + 1e-6)
    levels = {
        "threshold": rng.uniform(1.1, 1.6, shape),
        "leak": rng.uniform(0.0, 0.4, (1, N_POST)),
        "capacitance": rng.uniform(1.2, 2.0, N_POST),
    }
    taus = {"tau_mem": tau_mem, "tau_syn": np.full((N_REPLICA, 1), 0.7)}
    if kind == "levels":
        return LIF(2.59, 0.7, **levels)
    if kind == "taus":
        return LIF(**taus, threshold=1.3, leak=0.2, capacitance=1.6)
    return LIF(**taus, **levels)


each_kind = pytest.mark.parametrize("kind", ["levels", "taus", "both"])


def network(
    seed: int, n_batch: int, n_pre: int, window: float, dtype: Any = np.float64
) -> tuple[Array, Array]:
    """Ties, silent inputs, a silent sample, zeros, both signs; a part of the neurons spikes.

    Returns:
        t_in (2, n_batch, n_pre), weights (2, n_pre, 45).
    """
    rng = np.random.default_rng(seed)
    t_in = 0.7 * window * rng.uniform(-0.5, 0.5, (N_REPLICA, n_batch, n_pre))
    t_in = np.where(rng.random(t_in.shape) < 0.2, np.round(2.0 * t_in) / 2.0, t_in)
    t_in[rng.random(t_in.shape) < 0.15] = np.inf
    if n_batch > 2:
        t_in[:, 1] = np.inf
    together = max(1.0, n_pre * min(3.0, window) / window)
    mean = 6.0 * rng.uniform(-0.2, 1.0, (N_REPLICA, 1, N_POST)) / together
    weights = mean + rng.normal(0.0, 3.0 / math.sqrt(together), (N_REPLICA, n_pre, N_POST))
    weights[rng.random(weights.shape) < 0.1] = 0.0
    return t_in.astype(dtype), weights.astype(dtype)


def assert_close(actual: Array, expected: Array, tolerance: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * np.abs(expected).max(initial=0.0))


def host(array: Any) -> Array:
    """In the computer's memory, wherever it is."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def check_against_the_oracle(kernels: Kernels, wrap: Any, kind: str, window: float) -> None:
    """Times, slopes and gradients in float64; `wrap` makes the backend's arrays."""
    neuron = neurons(kind)
    active = np.ones(N_REPLICA, np.bool_)
    for seed, sizes in enumerate([(4, 33), (3, 129), (1, 1), (0, 5), (5, 0)]):
        t_in, weights = network(seed, *sizes, window)
        ours = wrap(t_in), wrap(weights)
        (layer,) = kernels.forward(ours[0], None, [ours[1]], [neuron], [()])
        t_out, slope = host(layer.t_out), host(layer.slope)
        expected = reference.first_spikes(t_in, weights, neuron)
        np.testing.assert_array_equal(np.isfinite(t_out), np.isfinite(expected))
        np.testing.assert_allclose(t_out, expected, rtol=0.0, atol=1e-10)
        if weights.shape[1] > 1 and t_out.size:
            assert 0.02 < np.isfinite(t_out).mean() < 0.98
        exact = reference.slopes(t_in, weights, neuron, t_out)
        np.testing.assert_allclose(slope, exact, rtol=1e-9, atol=1e-9)
        again = kernels.slopes(*ours, neuron, wrap(t_out))
        np.testing.assert_allclose(host(again), exact, rtol=1e-11, atol=1e-12)
        grad = np.random.default_rng(seed).normal(size=t_out.shape)
        grad[np.isinf(t_out)] = np.nan
        for limit in (math.inf, 1.0, 1e-300):
            state = LayerState(ours[0], layer.order, wrap(t_out), wrap(t_out), again)
            t_in_grad, (weights_grad,) = kernels.backward(
                [state], [ours[1]], [neuron], wrap(grad), active=wrap(active), max_weight_grad=limit,
                need_t_in_grad=True,
            )  # fmt: skip
            wanted = reference.first_spikes_vjp(t_in, weights, neuron, t_out, grad, limit)
            for got, exact_grad in zip((t_in_grad, weights_grad), wanted, strict=True):
                assert np.isfinite(host(got)).all()
                assert_close(host(got), exact_grad, 1e-9)


@each_kind
@each_window
def test_the_cpu_agrees_with_the_oracle(kind: str, window: float) -> None:
    check_against_the_oracle(load("cpu"), lambda array: array, kind, window)


@each_kind
def test_float32(kind: str) -> None:
    neuron = neurons(kind)
    for window in WINDOWS:
        t_in, weights = network(1, 20, 129, window, np.float32)
        t_out = first_spikes(t_in, weights, neuron)
        expected = reference.first_spikes(t_in, weights, neuron)
        assert t_out.dtype == np.float32
        both = np.isfinite(t_out) & np.isfinite(expected)
        assert np.count_nonzero(np.isfinite(t_out) != np.isfinite(expected)) <= 1e-3 * t_out.size
        ulp = np.spacing(np.abs(expected[both]).astype(np.float32)).astype(np.float64)
        error = np.abs(t_out[both].astype(np.float64) - expected[both])
        assert np.mean(error <= np.maximum(1e-4, 4.0 * ulp)) >= 0.999


def mixed(n_post: int, n_replica: int = 1) -> LIF:
    """Neurons of all regimes side by side, in each vector of a block."""
    rng = np.random.default_rng(n_post)
    some = np.array([math.inf, 0.7, 1.4, 0.1, 0.7 * (1.0 + 1e-6), 0.65, 0.75, 2.9, 200.0])
    tau_mem = rng.choice(some, (n_replica, n_post))
    return LIF(tau_mem, np.where(rng.random(n_post) < 0.2, 0.6, 0.7), 1.3, 0.2, 1.6)


def layer(
    seed: int, sizes: tuple[int, int, int], window: float, n_replica: int = 1, dtype: Any = np.float64
) -> tuple[Array, Array]:
    """As `network`, of any (n_batch, n_pre, n_post); in half of the samples every second time is shared."""
    rng = np.random.default_rng(seed)
    n_batch, n_pre, n_post = sizes
    t_in = 0.7 * window * rng.uniform(-0.5, 0.5, (n_replica, n_batch, n_pre))
    t_in[:, ::2, ::2] = np.round(4.0 * t_in[:, ::2, ::2]) / 4.0
    t_in[rng.random(t_in.shape) < 0.15] = np.inf
    together = max(1.0, n_pre * min(3.0, window) / window)
    weights = rng.normal(3.0 / together, 3.0 / math.sqrt(together), (n_replica, n_pre, n_post))
    return t_in.astype(dtype), weights.astype(dtype)


@pytest.mark.parametrize("window", [0.2, 4.0, 60.0])
@pytest.mark.parametrize(
    "sizes", [(3, 33, 1), (2, 31, 31), (2, 7, 33), (1, 129, 129), (4, 1, 65), (2, 300, 3)], ids=str
)
def test_ugly_sizes_of_every_regime(sizes: tuple[int, int, int], window: float) -> None:
    cpu, neuron = load("cpu"), mixed(sizes[2])
    t_in, weights = layer(5, sizes, window)
    (state,) = cpu.forward(t_in, None, [weights], [neuron], [()])
    expected = reference.first_spikes(t_in, weights, neuron)
    np.testing.assert_array_equal(np.isfinite(state.t_out), np.isfinite(expected))
    np.testing.assert_allclose(state.t_out, expected, rtol=0.0, atol=1e-10)
    slope = reference.slopes(t_in, weights, neuron, state.t_out)
    np.testing.assert_allclose(state.slope, slope, rtol=1e-9, atol=1e-9)
    grad = np.random.default_rng(5).normal(size=expected.shape)
    for limit in (math.inf, 0.3):
        for order in (state.order, np.empty(0, np.int64)):
            t_in_grad, (weights_grad,) = cpu.backward(
                [state._replace(order=order)], [weights], [neuron], grad, active=np.ones(1, np.bool_),
                max_weight_grad=limit, need_t_in_grad=True,
            )  # fmt: skip
            wanted = reference.first_spikes_vjp(t_in, weights, neuron, state.t_out, grad, limit, state.slope)
            assert t_in_grad is not None
            assert_close(t_in_grad, wanted[0], 1e-9)
            assert_close(weights_grad, wanted[1], 1e-9)


@each_dtype
def test_neither_threads_nor_company_change_a_bit(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, n_post = load("cpu"), 77
    neuron = mixed(n_post, 2)
    t_in, weights = layer(6, (20, 129, n_post), 4.0, 2, dtype)
    grad = np.random.default_rng(6).normal(size=(2, 20, n_post)).astype(dtype)

    def arrays(r: slice, b: slice, one: LIF) -> list[Array]:
        (state,) = cpu.forward(t_in[r, b].copy(), None, [weights[r]], [one], [()])
        back = cpu.backward(
            [state], [weights[r]], [one], grad[r, b].copy(), active=np.ones(len(state.t_out), np.bool_),
            max_weight_grad=0.5, need_t_in_grad=True,
        )  # fmt: skip
        return [state.t_out, state.slope, np.asarray(back[0]), back[1][0]]

    everything = slice(None)
    whole = arrays(everything, everything, neuron)
    assert 0.1 < np.isfinite(whole[0]).mean() < 0.9
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        for array, again in zip(whole, arrays(everything, everything, neuron), strict=True):
            np.testing.assert_array_equal(array, again)
    for r in range(2):
        alone = LIF(*neuron.table(2, n_post)[:, r])
        for array, again in zip(whole, arrays(slice(r, r + 1), everything, alone), strict=True):
            np.testing.assert_array_equal(array[r], again[0])
    for b in (slice(0, 7), slice(7, 20)):
        for array, again in zip(whole[:3], arrays(everything, b, neuron)[:3], strict=True):
            np.testing.assert_array_equal(array[:, b], again)


@each_dtype
def test_neurons_that_are_always_on_beside_others(dtype: Any) -> None:
    n_post = 70
    neuron = mixed(n_post)
    t_in, weights = layer(7, (3, 33, n_post), 4.0, dtype=dtype)
    lift = np.random.default_rng(7).uniform(0.7, 1.4, (1, 3, n_post)).astype(dtype)
    lift[:, 0] = 0.0
    lift[:, 1, ::3] = -1.0
    states = [
        load(name).forward(t_in, None, [weights], [neuron], [()], [Trial(lift)])[0]
        for name in ("cpu", "reference")
    ]
    on = lift <= 0.0
    assert not states[0].t_out[on].any()
    assert not states[0].slope[on].any()
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(states[0].t_out, states[1].t_out, rtol=0.0, atol=tolerance)


def test_layers_of_both_kinds_follow_each_other() -> None:
    cpu, reference_kernels = load("cpu"), load("reference")
    rng = np.random.default_rng(8)
    t_in, first = layer(8, (4, 33, 20), 4.0)
    weights = [2.0 * first, rng.normal(1.0, 0.7, (1, 22, 9)), rng.normal(2.0, 0.7, (1, 9, 5))]
    stack = [LIF(1.4, 0.7), mixed(9), LIF(0.7, 0.7)]
    bias = [(), (0.3, 0.9), ()]
    trials = [Trial(grid=0.01), Trial(end=3.0), Trial()]
    for neurons_ in (stack, [mixed(20), LIF(1.4, 0.7), mixed(5)]):
        for each in (None, trials):
            ours = cpu.forward(t_in, None, weights, neurons_, bias, each)
            for state, wanted in zip(
                ours, reference_kernels.forward(t_in, None, weights, neurons_, bias, each), strict=True
            ):
                np.testing.assert_allclose(state.t_in, wanted.t_in, rtol=0.0, atol=1e-9)
                np.testing.assert_allclose(state.t_out, wanted.t_out, rtol=0.0, atol=1e-9)
        assert np.isfinite(ours[-1].t_out).any()


@each_kind
def test_gradients_agree_with_central_differences(kind: str) -> None:
    neuron = neurons(kind)
    t_in, weights = network(5, 4, 12, 4.0)
    weights *= 2.0
    t_out = first_spikes(t_in, weights, neuron)
    steep = reference.slopes(t_in, weights, neuron, t_out) > 0.1
    assert np.count_nonzero(steep) > 50
    rng = np.random.default_rng(0)
    grad = np.where(steep, rng.normal(size=t_out.shape), 0.0)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    compared = 0
    for kind_of_input, exact in (("time", t_in_grad), ("weight", weights_grad)):
        for _ in range(40):
            index = tuple(int(rng.integers(n)) for n in exact.shape)
            if kind_of_input == "time" and np.isinf(t_in[index]):
                continue
            losses, same = {}, True
            for k in (-2, -1, 1, 2):
                t, w = t_in.copy(), weights.copy()
                (t if kind_of_input == "time" else w)[index] += 1e-4 * k
                spikes = first_spikes(t, w, neuron)
                causal = [(a[:, :, None, :] < b[..., None])[steep] for a, b in ((t, spikes), (t_in, t_out))]
                same &= np.array_equal(*causal)
                losses[k] = float((np.where(steep, spikes, 0.0) * grad).sum())
            if same:
                numeric = (8.0 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / 1.2e-3
                assert abs(numeric - exact[index]) <= 1e-6 * np.abs(exact).max()
                compared += 1
    assert compared > 40


def test_arrays_of_one_value_are_the_number() -> None:
    number = LIF(2.59, 0.7, 1.3, 0.2, 1.6)
    t_in, weights = network(1, 4, 33, 4.0)
    t_out = first_spikes(t_in, weights, number)
    for name in ("tau_mem", "threshold", "capacitance"):
        array = dataclasses.replace(number, **{name: np.full(N_POST, getattr(number, name))})
        np.testing.assert_allclose(first_spikes(t_in, weights, array), t_out, rtol=0.0, atol=1e-12)


@each_dtype
def test_replicas_may_share_their_input_and_want_no_gradient(dtype: Any) -> None:
    neuron = neurons("both")
    t_in, weights = network(1, 4, 33, 4.0, dtype)
    cpu, shared = load("cpu"), np.ascontiguousarray(t_in[:1])
    (layer,) = cpu.forward(shared, None, [weights], [neuron], [()])
    twice = np.repeat(shared, 2, axis=0)
    (again,) = cpu.forward(twice, None, [weights], [neuron], [()])
    np.testing.assert_array_equal(layer.t_out, again.t_out)
    t_in_grad, (weights_grad,) = cpu.backward(
        [layer], [weights], [neuron], np.ones_like(layer.t_out),
        active=np.array([True, False]), max_weight_grad=math.inf, need_t_in_grad=True,
    )  # fmt: skip
    assert t_in_grad is not None
    assert t_in_grad.shape == (2, 4, 33)
    assert weights_grad.dtype == dtype
    assert weights_grad[0].any()
    assert not weights_grad[1].any()
    assert not t_in_grad[1].any()


def test_the_oracle_s_membrane_has_every_neuron_s_parameters() -> None:
    neuron = neurons("both")
    t_in, weights = network(1, 4, 33, 4.0)
    t_out = first_spikes(t_in, weights, neuron)
    r, b, j = (int(n[0]) for n in np.nonzero(np.isfinite(t_out)))
    assert r == 0
    replica = LIF(*neuron.table(2, N_POST)[:, r])
    u = reference.membrane(t_out[r, b, j, None], t_in[r, b], weights[r], replica)
    assert u[0, j] == pytest.approx(neuron.table(2, N_POST)[2, r, j], rel=1e-12)


def test_only_numbers_of_every_neuron_cost_a_pass_over_the_arrays() -> None:
    seen: list[Array] = []

    class Inner:
        """Takes whatever it is given for spikes."""

        kind = "inner"

        def slopes(self, t_in: Array, weights: Array, unit: Unit, t_out: Array) -> Array:
            seen.append(weights)
            return np.ones_like(t_out)

    kernels, weights, t_out = AnyNeurons(Inner()), np.ones((2, 5, N_POST)), np.zeros((2, 3, N_POST))
    assert kernels.kind == "inner"  # what knows no neurons is the inner kernels'
    kernels.slopes(t_out, weights, LIF(threshold=3.0), t_out)
    assert seen.pop() is weights
    neuron = neurons("levels")
    slope = kernels.slopes(t_out, weights, neuron, t_out)
    drive, span = (np.broadcast_to(x, (2, N_POST))[:, None] for x in (neuron.drive, neuron.span))
    np.testing.assert_allclose(seen.pop() * drive, weights, rtol=1e-15)
    np.testing.assert_array_equal(slope, np.broadcast_to(span, slope.shape))


@each_dtype
@pytest.mark.parametrize("tau_mem", [0.7, 1.4, math.inf, 2.0])
def test_constants_are_those_of_the_neuron(tau_mem: float, dtype: Any) -> None:
    neuron = LIF(tau_mem, 0.7, 1.3, 0.2, 1.6)
    known = unit(neuron, np.ones((1, 2, 3), dtype))
    c = known.constants(dtype)
    assert known.regime == {0.7: EQUAL, 1.4: DOUBLE, math.inf: NON_LEAKY, 2.0: GENERAL}[tau_mem]
    assert (c.tau_slow, c.tau_fast, c.rate) == (neuron.tau_slow, neuron.tau_fast, neuron.rate_difference)
    assert (c.drive, c.span) == (neuron.drive, neuron.span)
    assert (c.peak_delay, c.peak / 1.6) == pytest.approx(neuron.kernel_peak, rel=1e-15)
    assert c.tangent == 16.0 * np.finfo(dtype).eps
    assert c.reach == (4.0 if dtype == np.float32 else 8.0)
    assert unit(neurons("taus"), np.ones((2, 5, N_POST))).regime == MIXED


# --- what LIF accepts ---------------------------------------------------------


def test_arrays_are_copied_compared_and_kept_as_they_are() -> None:
    threshold = np.array([1.0, 2.0], np.float32)
    neuron = LIF(threshold=threshold)
    threshold[0] = 5.0
    assert not neuron.uniform
    assert LIF().uniform
    assert isinstance(neuron.threshold, np.ndarray)
    assert neuron.threshold.dtype == np.float64
    assert list(neuron.threshold) == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        neuron.threshold[0] = 3.0
    assert neuron == LIF(threshold=np.array([1.0, 2.0])) == pickle.loads(pickle.dumps(neuron))
    assert hash(neuron) == hash(LIF(threshold=np.array([1.0, 2.0])))
    assert neuron != LIF(threshold=np.array([[1.0, 2.0]]))
    assert neuron != LIF()
    assert neuron != 1.0


def test_of_and_table_follow_one_convention() -> None:
    neuron = LIF(
        tau_mem=np.array([[2.0], [3.0]]),
        threshold=np.array([1.0, 2.0, 4.0]),
        leak=np.array([[0.1, 0.2, 0.3]]),
    )
    assert neuron.of(1, 2) == LIF(tau_mem=3.0, threshold=4.0, leak=0.3)
    table = neuron.table(2, 3)
    assert table.shape == (5, 2, 3)
    for r, j in np.ndindex(2, 3):
        assert tuple(table[:, r, j]) == dataclasses.astuple(neuron.of(r, j))


@pytest.mark.parametrize("name", ["tau_mem", "tau_syn", "capacitance", "threshold", "leak"])
def test_each_element_is_checked(name: str) -> None:
    good = {"leak": 0.0}.get(name, 2.0)
    for bad in (math.nan, -math.inf):
        values = np.full((2, 3), good)
        values[1, 2] = bad
        with pytest.raises(ValueRangeError, match=rf"{name} must .* at \(1, 2\)"):
            LIF(**{name: values})
    with pytest.raises(ShapeError, match=f"{name} must be a number or have one or two axes"):
        LIF(**{name: np.full((1, 2, 3), good)})


def test_a_threshold_below_the_leak_is_found_in_arrays() -> None:
    message = r"threshold must exceed leak=0.5 by a finite amount, got 0.25 at \(1,\)"
    with pytest.raises(ValueRangeError, match=message):
        LIF(threshold=np.array([1.0, 0.25]), leak=0.5)
    with pytest.raises(
        ValueRangeError, match=r"must exceed leak=3.0 by a finite amount, got 1.0 at \(0, 1\)"
    ):
        LIF(leak=np.array([[0.0, 3.0]]))


def test_arrays_must_fit_each_other_and_the_layer() -> None:
    with pytest.raises(ShapeError, match=r"must fit each other, got .*threshold.*3.*leak.*2"):
        LIF(threshold=np.full(3, 2.0), leak=np.zeros(2))
    with pytest.raises(ShapeError, match="must fit each other"):
        LIF(tau_mem=np.full(3, 2.0), leak=np.zeros(2))
    t_in, weights = np.zeros((2, 5)), np.ones((5, 4))
    for shape in ((3,), (2, 4)):
        neuron = LIF(capacitance=np.ones(shape))
        expected = r"capacitance must be a number, \(n_post,\) = \(4,\) or .* = \(1, 4\) numbers, got shape"
        for call in (first_spikes, reference.first_spikes):
            arrays = (t_in, weights) if call is first_spikes else (t_in[None], weights[None])
            with pytest.raises(ShapeError, match=expected):
                call(*arrays, neuron)


def test_what_needs_one_neuron_says_so() -> None:
    apart = LIF(tau_mem=np.array([1.0, 2.0]))
    for name in ("tau_slow", "tau_fast", "rate_difference", "kernel_peak"):
        with pytest.raises(ValueRangeError, match="one pair of time constants is needed here"):
            getattr(apart, name)
    with pytest.raises(ValueRangeError, match="one capacitance is needed here"):
        LIF(capacitance=np.ones(2)).kernel(1.0)
