"""Inputs that spike together: groups, and a last one that is what the others leave, against the oracle."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.kernels import LayerState, Trial, first_spikes, first_spikes_vjp, load, reference
from gpuspike.kernels.constants import GROUPS_FROM, constants
from gpuspike.kernels.cpu.events import EACH, FOLD_WITHIN, FOLDED, HEAD, TOGETHER, WHAT
from gpuspike.neuron import LIF

Array = NDArray[Any]

cpu = load("cpu")
events_module: Any = importlib.import_module("gpuspike.kernels.cpu.events")

SIZES = [32, 33, 129, 784, 1025]
SHAPES = {
    "image": (0.8, 0.0),
    "half silent": (0.6, 0.3),
    "mostly silent": (0.3, 0.6),
    "all at once": (1.0, 0.0),
}
"""Share of the inputs that come last together, and of those that never spike."""


def image_like(n_pre: int, n_batch: int, shape: str, dtype: Any = np.float64, seed: int = 0) -> Array:
    """Spike times with a few dozen different values, and a last one that many share."""
    rng = np.random.default_rng(seed)
    t_in = np.round(rng.uniform(0.15, 2.0, (1, n_batch, n_pre)), 1 if n_pre < 200 else 2)
    late, silent = SHAPES[shape]
    drawn = rng.random(t_in.shape)
    t_in[drawn < late] = 2.0
    t_in[drawn > 1.0 - silent] = np.inf
    return t_in.astype(dtype)


def some_weights(n_pre: int, n_post: int, dtype: Any = np.float64, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(3.0 / n_pre, 6.0 / np.sqrt(n_pre), (1, n_pre, n_post)).astype(dtype)


def what(t_in: Array) -> Array:
    """What the events of each sample are."""
    order, n_pre = cpu.spike_order(t_in)[0], t_in.shape[2]
    c = constants(LIF(), t_in.dtype)
    times, told = np.empty(n_pre + 1), np.empty(HEAD + n_pre, np.int32)
    kinds = []
    for sample, its_order in zip(t_in[0], order, strict=True):
        events_module.grouped(sample, its_order, events_module.fold_within(c), True, times, told)
        kinds.append(told[WHAT])
    return np.array(kinds)


def test_what_is_taken_together() -> None:
    assert (what(image_like(784, 5, "image")) == FOLDED).all()
    assert (what(image_like(784, 5, "mostly silent")) == TOGETHER).all()
    rng = np.random.default_rng(0)
    assert (what(rng.uniform(0.0, 2.0, (1, 5, 784))) == EACH).all()
    assert (what(image_like(GROUPS_FROM - 1, 5, "image")) == EACH).all()
    assert (what(np.full((1, 2, 50), np.inf)) == EACH).all()
    # The last group is too far from the first for the others' rounding to be nothing beside it.
    late = image_like(784, 5, "image")
    late[late == 2.0] = 0.15 + FOLD_WITHIN + 0.1
    assert (what(late) == TOGETHER).all()


@pytest.mark.parametrize("tau_mem", [2.0, 3.7, np.inf])
@pytest.mark.parametrize("first", [0.3, 0.15, 0.05])
def test_a_group_at_the_reach_of_an_anchor(tau_mem: float, first: float) -> None:
    """In float32 it is 4 tau_fast from the first event, in float64 a little more: two anchors, no folding."""
    t_in = np.full((1, 1, 784), np.float32(first) + np.float32(4.0), np.float32)
    t_in[..., :50], t_in[..., 50:100] = first, 0.5
    weights = np.full((1, 784, 20), 0.004, np.float32)
    neuron = LIF(tau_mem, 1.0)
    expected = reference.first_spikes(t_in, weights, neuron)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(first_spikes(t_in, weights, neuron), expected, rtol=0.0, atol=1e-4)


def test_weights_of_silent_inputs_cost_no_digits() -> None:
    t_in, weights = np.ones((1, 1, 64), np.float32), np.full((1, 64, 5), 0.1, np.float32)
    t_in[..., 40:] = np.inf
    weights[:, 40:] = np.random.default_rng(0).uniform(-1e6, 1e6, (24, 5))
    expected = reference.first_spikes(t_in, weights, LIF())
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(first_spikes(t_in, weights, LIF()), expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 2.0, np.inf, 0.5, 3.7])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_pre", SIZES)
def test_spike_times_and_gradients_are_exact(n_pre: int, shape: str, ratio: float) -> None:
    neuron = LIF(ratio, 1.0)
    n_post = {32: 1, 33: 31, 129: 33, 784: 20, 1025: 100}[n_pre]
    n_batch = 3 if n_pre > 200 else 9
    t_in, weights = image_like(n_pre, n_batch, shape), some_weights(n_pre, n_post)
    expected = reference.first_spikes(t_in, weights, neuron)
    t_out = first_spikes(t_in, weights, neuron)
    np.testing.assert_array_equal(np.isinf(t_out), np.isinf(expected))
    np.testing.assert_allclose(t_out, expected, rtol=0.0, atol=1e-10)
    grad = np.random.default_rng(2).normal(size=t_out.shape)
    _, found = first_spikes_vjp(t_in, weights, neuron, expected, grad)
    _, gradient = reference.first_spikes_vjp(t_in, weights, neuron, expected, grad)
    np.testing.assert_allclose(found, gradient, rtol=0.0, atol=1e-9 * max(np.abs(gradient).max(), 1e-300))


def states_of(t_in: Array, weights: Array, lift: Array | None = None) -> LayerState:
    trials = None if lift is None else [Trial(lift)]
    (state,) = cpu.forward(t_in, None, [weights], [LIF()], [()], trials)
    return state


def gradient(state: LayerState, weights: Array, grad: Array) -> Array:
    _, (found,) = cpu.backward(
        [state], [weights], [LIF()], grad, active=np.ones(len(weights), bool), max_weight_grad=np.inf,
        need_t_in_grad=False,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_is_the_one_input_by_input(shape: str, dtype: Any) -> None:
    t_in, weights = image_like(784, 150, shape, dtype), some_weights(784, 70, dtype)
    state = states_of(t_in, weights)
    grad = np.random.default_rng(2).normal(size=state.t_out.shape).astype(dtype)
    one_by_one = gradient(state._replace(order=np.empty(0, np.int64)), weights, grad)
    found = gradient(state, weights, grad)
    scale = np.abs(one_by_one).max()
    np.testing.assert_allclose(
        found, one_by_one, rtol=0.0, atol=(3e-6 if dtype == np.float32 else 1e-12) * scale
    )


def test_samples_of_both_kinds_stand_beside_each_other() -> None:
    t_in, weights = image_like(784, 120, "image"), some_weights(784, 40)
    rng = np.random.default_rng(3)
    t_in[0, 5::3] = rng.uniform(0.0, 2.0, t_in[0, 5::3].shape)
    t_in[0, 7] = np.inf
    state = states_of(t_in, weights)
    grad = rng.normal(size=state.t_out.shape)
    one_by_one = gradient(state._replace(order=np.empty(0, np.int64)), weights, grad)
    np.testing.assert_allclose(gradient(state, weights, grad), one_by_one, rtol=0.0, atol=1e-11)
    for b in (0, 5, 7, 8, 119):
        np.testing.assert_array_equal(states_of(t_in[:, b : b + 1], weights).t_out[0, 0], state.t_out[0, b])


def test_a_window_too_long_for_one_anchor() -> None:
    t_in, weights = image_like(64, 20, "half silent"), some_weights(64, 30)
    t_in *= 20.0
    state = states_of(t_in, weights)
    np.testing.assert_allclose(
        state.t_out, reference.first_spikes(t_in, weights, LIF()), rtol=0.0, atol=1e-10
    )
    grad = np.ones_like(state.t_out)
    one_by_one = gradient(state._replace(order=np.empty(0, np.int64)), weights, grad)
    np.testing.assert_allclose(gradient(state, weights, grad), one_by_one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", ["image", "half silent"])
def test_thresholds_of_a_trial(shape: str) -> None:
    t_in, weights = image_like(784, 4, shape), some_weights(784, 33)
    lift = np.random.default_rng(4).normal(1.0, 0.2, (1, 4, 33))
    lift[0, 0, 0] = -0.1  # always on
    found = states_of(t_in, weights, lift).t_cross
    for b, j in np.ndindex(4, 33):
        expected = 0.0
        if lift[0, b, j] > 0.0:
            one = reference.first_spikes(t_in[:, b : b + 1], weights[:, :, j : j + 1] / lift[0, b, j], LIF())
            expected = one[0, 0, 0]
        np.testing.assert_allclose(found[0, b, j], expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_replicas_and_parts_of_a_batch_change_no_bit(dtype: Any) -> None:
    t_in = image_like(300, 70, "image", dtype)
    weights = np.concatenate([some_weights(300, 50, dtype, seed) for seed in range(3)])
    whole = states_of(t_in, weights)
    grad = np.random.default_rng(5).normal(size=whole.t_out.shape).astype(dtype)
    found = gradient(whole, weights, grad)
    for r in range(3):
        alone = states_of(t_in, weights[r : r + 1])
        np.testing.assert_array_equal(alone.t_out[0], whole.t_out[r])
        np.testing.assert_array_equal(gradient(alone, weights[r : r + 1], grad[r : r + 1])[0], found[r])
    for part in (slice(0, 1), slice(1, 34), slice(34, 70)):
        np.testing.assert_array_equal(states_of(t_in[:, part], weights).t_out, whole.t_out[:, part])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_what_the_others_leave_costs_no_digits_in_float32(scale: float) -> None:
    """Also where the others' weights are far larger: their rounding is in the sums p and q anyhow."""
    t_in, weights = image_like(784, 200, "image"), some_weights(784, 40)
    early = (t_in[0] < 2.0).mean(axis=0) > 0.2
    weights[:, early] *= scale
    exact = states_of(t_in, weights)
    rough = states_of(t_in.astype(np.float32), weights.astype(np.float32))
    # Each input a little apart: no groups, and so the sums input by input.
    apart = t_in.astype(np.float32) + np.linspace(0.0, 4e-4, 784, dtype=np.float32)
    assert (what(apart) == EACH).all()
    single, exact_apart = (states_of(apart.astype(d), weights.astype(d)) for d in (np.float32, np.float64))
    errors = []
    for found, right in ((rough, exact), (single, exact_apart)):
        both = (right.slope > 0.2) & np.isfinite(found.t_out) & np.isfinite(right.t_out)
        errors.append(np.abs(found.t_out[both] - right.t_out[both]))
    assert np.quantile(errors[0], 0.999) < 2.0 * np.quantile(errors[1], 0.999) + 1e-6
