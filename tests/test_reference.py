"""The oracle against what does not depend on it: hand-solved cases, grids, integrators."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gpuspike.kernels.reference import (
    SLOPE_FLOOR,
    first_spikes,
    first_spikes_vjp,
    membrane,
    slopes,
)
from gpuspike.neuron import LIF

RATIOS = [1.0, 2.0, math.inf, 0.5, 3.7, 1.0 + 1e-6, 0.01, 1000.0]
EPS = float(np.finfo(np.float64).eps)

each_ratio = pytest.mark.parametrize("ratio", RATIOS)


def random_network(
    neuron: LIF,
    seed: int,
    n_replica: int = 2,
    n_batch: int = 4,
    n_pre: int = 25,
    n_post: int = 12,
    window: float = 4.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of which some are silent, and weights of both signs that fire about half the time."""
    rng = np.random.default_rng(seed)
    t_in = rng.uniform(-1.0, window - 1.0, (n_replica, n_batch, n_pre)) * neuron.tau_syn
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    unit = (neuron.threshold - neuron.leak) / neuron.kernel_peak[1]
    mean = rng.uniform(-0.02, 0.25, (n_replica, 1, n_post))
    weights = unit * (mean + rng.normal(0.0, 0.25, (n_replica, n_pre, n_post)))
    weights[rng.random(weights.shape) < 0.1] = 0.0
    return t_in, weights


def one(times: list[float], weights: list[float], neuron: LIF) -> float:
    """The spike time of a single neuron."""
    t_in = np.array(times, dtype=np.float64).reshape(1, 1, -1)
    return float(first_spikes(t_in, np.array(weights).reshape(1, -1, 1), neuron)[0, 0, 0])


def horizon(neuron: LIF) -> float:
    """Long enough after the last input for a crossing still to come."""
    peak = neuron.kernel_peak[0]
    return 3.0 * peak if math.isfinite(peak) else 40.0 * neuron.tau_syn


# --- solved by hand ----------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0 + 1e-9, 1.5, 4.0, 1e3, 1e12])
def test_one_input_to_a_non_leaky_neuron(weight: float) -> None:
    neuron = LIF(tau_mem=math.inf, tau_syn=2.0, threshold=3.0, capacitance=0.5)
    scaled = weight * 3.0 * 0.5 / 2.0
    assert one([0.0], [scaled], neuron) == pytest.approx(-2.0 * math.log1p(-1.0 / weight), rel=1e-7)


def test_one_input_with_twice_the_synaptic_time_constant() -> None:
    # x^2 - x + theta/(2 w) = 0 for x = exp(-s/2), here with x = 3/4 and 1/4.
    neuron = LIF(tau_mem=2.0, tau_syn=1.0)
    weight = 1.0 / (2.0 * 0.75 * 0.25)
    assert one([7.0], [weight], neuron) == pytest.approx(7.0 - 2.0 * math.log(0.75), rel=1e-15)


def test_one_input_with_equal_time_constants() -> None:
    # w s exp(-s) = theta, solved by s = 0.3 and by one later, downward crossing.
    neuron = LIF()
    assert one([0.0], [math.exp(0.3) / 0.3], neuron) == pytest.approx(0.3, rel=1e-14)


@each_ratio
def test_one_input_made_to_cross_at_a_chosen_delay(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio, tau_syn=1.0, threshold=0.7, leak=0.2)
    peak = neuron.kernel_peak[0] if math.isfinite(ratio) else 5.0
    for delay in peak * np.array([1e-9, 1e-3, 0.1, 0.5, 0.9]):
        weight = 0.5 / float(neuron.kernel(delay))
        assert one([0.0], [weight], neuron) == pytest.approx(delay, rel=1e-12)
        assert one([-0.25], [weight], neuron) == pytest.approx(delay - 0.25, abs=1e-11)


def test_a_late_spike_of_a_non_leaky_neuron_is_not_cut_off() -> None:
    # The potential creeps up to 1 + 2^-40, so the threshold is met after 27.7 time constants.
    spike = one([0.0, 1.0], [0.0, 1.0 + 2.0**-40], LIF(tau_mem=math.inf))
    assert spike == pytest.approx(1.0 + math.log1p(2.0**40), rel=1e-5)
    assert one([0.0], [1.0], LIF(tau_mem=math.inf)) == math.inf


def test_the_earlier_of_two_crossings_wins() -> None:
    neuron = LIF()
    weight = math.exp(0.3) / 0.3
    assert one([0.0, 10.0], [weight, weight], neuron) == pytest.approx(0.3, rel=1e-14)
    assert one([0.0, 10.0], [1.0, weight], neuron) == pytest.approx(10.3, rel=1e-4)


# --- the membrane on a fine grid ---------------------------------------------


@each_ratio
@pytest.mark.parametrize("variant", ["plain", "scaled"])
def test_no_crossing_before_the_spike_and_the_threshold_at_it(ratio: float, variant: str) -> None:
    neuron = LIF(tau_mem=ratio)
    if variant == "scaled":
        neuron = LIF(0.4 * ratio, 0.4, threshold=-50.0, leak=-65.0, capacitance=7.0)
    level = neuron.threshold - neuron.leak
    t_in, weights = random_network(neuron, seed=1)
    t_out = first_spikes(t_in, weights, neuron)
    assert 0.2 < np.isfinite(t_out).mean() < 0.95
    for replica, sample in np.ndindex(*t_out.shape[:2]):
        t, w, spike = t_in[replica, sample], weights[replica], t_out[replica, sample]
        fired = np.isfinite(spike)
        last = t[np.isfinite(t)].max() + horizon(neuron)
        grid = np.linspace(t[np.isfinite(t)].min(), last, 12_000)
        u = (membrane(grid, t, w, neuron) - neuron.leak) / level
        assert np.where(grid[:, None] < spike, u, 0.0).max() < 1.0 + 1e-12
        # Rounding grows with the potentials that cancel each other, not with their sum.
        terms = np.abs(w) * neuron.kernel(np.where(fired, spike, -np.inf) - t[:, None])
        at_spike = np.diag(membrane(spike[fired], t, w[:, fired], neuron)) - neuron.threshold
        assert np.all(np.abs(at_spike) <= 1e-14 * (1 + np.abs(neuron.leak) + terms.sum(0)[fired]))


def euler_spike(t_in: np.ndarray, weights: np.ndarray, neuron: LIF, step: float) -> np.ndarray:
    """First crossings of the forward-Euler membrane, interpolated; inputs must lie on the steps."""
    arrival = np.round(t_in / step).astype(int)
    current = np.zeros(weights.shape[1])
    u = np.zeros(weights.shape[1])
    level = neuron.threshold - neuron.leak
    spike = np.full(weights.shape[1], np.inf)
    for k in range(arrival.max() + int(min(horizon(neuron), 15.0) / step)):
        current = current + weights[arrival == k].sum(axis=0)
        change = step * (current / neuron.capacitance - u / neuron.tau_mem)
        first = (u + change >= level) & np.isinf(spike)
        spike[first] = step * (k + (level - u[first]) / change[first])
        u = u + change
        current = current * (1 - step / neuron.tau_syn)
    return spike


@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 0.5, 3.7])
def test_euler_steps_converge_to_the_spike_times_with_first_order(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio, threshold=2.0, leak=0.5, capacitance=1.5)
    rng = np.random.default_rng(5)
    coarse = 1.0 / 256
    t_in = rng.integers(0, 512, 12) * coarse
    unit = (neuron.threshold - neuron.leak) / neuron.kernel_peak[1]
    weights = rng.normal(0.35, 0.3, (12, 10)) * unit
    exact = first_spikes(t_in[None, None], weights[None], neuron)[0, 0]
    assert np.isfinite(exact).sum() >= 5
    fired = np.isfinite(exact)
    errors = [
        np.abs(euler_spike(t_in, weights, neuron, coarse / refine)[fired] - exact[fired]).mean()
        for refine in (4, 8, 16)
    ]
    assert errors[-1] < 1e-3
    for wide, narrow in itertools.pairwise(errors):
        assert wide / narrow == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 0.5, 3.7, 1.0 + 1e-6])
def test_an_adaptive_integrator_finds_the_same_spike(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio, threshold=1.3, leak=-0.4, capacitance=0.8)
    t_in, weights = random_network(neuron, seed=3, n_replica=1, n_batch=4, n_pre=8, n_post=1)
    t_out = first_spikes(t_in, weights, neuron)

    def change(_: float, state: np.ndarray) -> list[float]:
        u, current = state
        drive = current / neuron.capacitance
        return [(neuron.leak - u) / neuron.tau_mem + drive, -current / neuron.tau_syn]

    def over(_: float, state: np.ndarray) -> float:
        return float(state[0] - neuron.threshold)

    over.terminal = True  # type: ignore[attr-defined]
    over.direction = 1  # type: ignore[attr-defined]
    for sample in range(4):
        order = np.argsort(t_in[0, sample])
        times = t_in[0, sample, order]
        order, times = order[np.isfinite(times)], times[np.isfinite(times)]
        state, found = np.array([neuron.leak, 0.0]), math.inf
        ends = [*times[1:], times[-1] + horizon(neuron)]
        for start, end, i in zip(times, ends, order, strict=True):
            state = state + np.array([0.0, weights[0, i, 0]])
            run = solve_ivp(change, (start, end), state, events=over, rtol=1e-10, atol=1e-12)
            if run.t_events[0].size:
                found = run.t_events[0][0]
                break
            state = run.y[:, -1]
        assert t_out[0, sample, 0] == pytest.approx(found, abs=1e-7)


def test_membrane_adds_the_leak_and_ignores_what_comes_later() -> None:
    neuron = LIF(tau_mem=2.0, threshold=-50.0, leak=-65.0)
    u = membrane([-1.0, 0.0, 1.0, 5.0], [0.0, 2.0, np.inf], [[3.0], [-1.0], [9.0]], neuron)
    assert u.shape == (4, 1)
    expected = 3.0 * neuron.kernel(5.0) - neuron.kernel(3.0) - 65.0
    early = 3.0 * neuron.kernel(1.0) - 65.0
    np.testing.assert_allclose(u[:, 0], np.stack([-65.0, -65.0, early, expected]))


# --- awkward inputs ----------------------------------------------------------


@each_ratio
def test_a_window_of_ten_thousand_time_constants(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    rng = np.random.default_rng(11)
    early, _ = random_network(neuron, seed=7, n_replica=1, n_post=1)
    t_in = np.concatenate([early, early + 10_000.0, rng.uniform(0, 1e4, early.shape)], axis=2)
    unit = 1.0 / neuron.kernel_peak[1]
    weights = unit * rng.normal(0.1, 0.25, (1, t_in.shape[2], 40))
    weights[:, : early.shape[2]] *= 0.01
    t_out = first_spikes(t_in, weights, neuron)
    fired = np.isfinite(t_out)
    assert fired.any()
    assert (t_out[fired] > 100.0).any()
    for sample in range(t_in.shape[1]):
        spike, t = t_out[0, sample], t_in[0, sample]
        ok = np.isfinite(spike)
        reached = np.diag(membrane(spike[ok], t, weights[0][:, ok], neuron))
        np.testing.assert_allclose(reached, 1.0, atol=1e-10)
        grid = np.linspace(-1.0, 10_020.0, 8_000)
        u = membrane(grid, t, weights[0], neuron)
        assert np.where(grid[:, None] < spike, u, 0.0).max() < 1.0 + 1e-12


@pytest.mark.parametrize("ratio", [1.0, 2.0, 0.5, 3.7])
def test_inputs_long_ago_are_forgotten(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=2)
    alone = first_spikes(t_in, weights, neuron)
    old = np.zeros((*t_in.shape[:2], 1)) - 10_000.0
    both = np.concatenate([old, t_in], axis=2)
    heavy = np.concatenate([np.full((2, 1, 12), -50.0), weights], axis=1)
    np.testing.assert_allclose(first_spikes(both, heavy, neuron), alone, rtol=1e-12)


@each_ratio
def test_simultaneous_inputs_act_as_one_with_the_summed_weight(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=4)
    t_in = np.round(t_in, 1)
    t_tied = np.concatenate([t_in, t_in, t_in], axis=2)
    shares = np.random.default_rng(0).normal(0.0, 2.0, (2, *weights.shape))
    parts = np.concatenate([*shares, weights - shares.sum(axis=0)], axis=1)
    merged = first_spikes(t_in, weights, neuron)
    np.testing.assert_allclose(first_spikes(t_tied, parts, neuron), merged, rtol=1e-6)


def test_a_tie_of_opposite_weights_does_nothing() -> None:
    neuron = LIF()
    assert one([0.0, 0.0], [50.0, -50.0], neuron) == math.inf
    assert one([0.0, 0.0, 1.0], [50.0, -50.0, 8.0], neuron) == one([1.0], [8.0], neuron)


@each_ratio
def test_a_tie_is_one_input_even_where_the_delay_of_its_part_rounds_to_zero(ratio: float) -> None:
    assert one([1e9, 1e9], [1e12, -2e12], LIF(tau_mem=ratio)) == math.inf
    assert one([1e9, 1e9], [-1e12, 2e12], LIF(tau_mem=ratio)) == 1e9


@each_ratio
def test_silent_inputs_and_zero_weights_act_as_absent_ones(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=6, n_replica=1, n_batch=1)
    heard = np.isfinite(t_in[0, 0])
    full = first_spikes(t_in, weights, neuron)
    np.testing.assert_allclose(full, first_spikes(t_in[:, :, heard], weights[:, heard], neuron), rtol=1e-13)
    more = np.concatenate([t_in, np.linspace(-2, 4, 7).reshape(1, 1, -1)], axis=2)
    none = np.concatenate([weights, np.zeros((1, 7, 12))], axis=1)
    np.testing.assert_allclose(first_spikes(more, none, neuron), full, rtol=1e-12)


@each_ratio
def test_empty_and_silent_networks(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    for shape in ((1, 3, 0, 2), (1, 0, 4, 2), (0, 3, 4, 2), (2, 3, 4, 0), (2, 3, 4, 2)):
        n_replica, n_batch, n_pre, n_post = shape
        t_in = np.full((n_replica, n_batch, n_pre), np.inf)
        weights = np.full((n_replica, n_pre, n_post), 100.0)
        t_out = first_spikes(t_in, weights, neuron)
        assert t_out.shape == (n_replica, n_batch, n_post)
        assert np.all(t_out == np.inf)
        grad = np.full(t_out.shape, np.nan)
        t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad, 0.2)
        assert t_in_grad.shape == t_in.shape
        assert weights_grad.shape == weights.shape
        assert not t_in_grad.any()
        assert not weights_grad.any()


@each_ratio
def test_inhibition_alone_never_fires(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=8)
    assert np.all(np.isinf(first_spikes(t_in, -1e6 * np.abs(weights), neuron)))


@each_ratio
def test_an_input_at_the_very_moment_of_the_spike_does_not_lose_it(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=9, n_replica=1, n_batch=40, n_post=1)
    t_out = first_spikes(t_in, weights, neuron)
    t_in, t_out = t_in[:, np.isfinite(t_out[0, :, 0])], t_out[:, np.isfinite(t_out[0, :, 0])]
    assert t_out.size > 10
    for weight in (0.0, 1.0, 50.0):
        more = np.concatenate([weights, np.full((1, 1, 1), weight)], axis=1)
        for when in (t_out, np.nextafter(t_out, np.inf), np.nextafter(t_out, -np.inf)):
            again = first_spikes(np.concatenate([t_in, when], axis=2), more, neuron)
            np.testing.assert_allclose(again, t_out, atol=1e-8)


def test_a_crossing_that_rounding_moved_past_the_next_input_is_kept() -> None:
    # After its spike a neuron is above the threshold; whatever comes then, the spike stays.
    neuron = LIF(tau_mem=math.inf)
    spike = one([0.0], [1.5], neuron)
    for weight in (-1e3, -1.0, 0.0, 1e3):
        assert one([0.0, spike + 1e-15], [1.5, weight], neuron) == pytest.approx(spike, rel=1e-14)


@each_ratio
def test_extreme_weights_and_gaps_stay_finite_or_silent(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in = np.array([-1e9, -1e9, -3.0, 0.0, 1e-12, 2.0, 1e9, np.inf]).reshape(1, 1, -1)
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (1, 8, 50)) * 10.0 ** rng.uniform(-12, 12, (1, 8, 50))
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        t_out = first_spikes(t_in, weights, neuron)
        grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out))
    assert not np.isnan(t_out).any()
    assert np.isfinite(t_out).any()
    assert all(np.isfinite(grad).all() for grad in grads)


# --- symmetries --------------------------------------------------------------


@each_ratio
def test_a_shift_in_time_shifts_the_spikes(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=12)
    shifted = first_spikes(t_in - 8.0, weights, neuron)
    np.testing.assert_allclose(shifted, first_spikes(t_in, weights, neuron) - 8.0, atol=1e-9)


@each_ratio
def test_the_unit_of_time_does_not_matter(ratio: float) -> None:
    # The kernel is a time over a capacitance, so weights go with the inverse of the unit.
    t_in, weights = random_network(LIF(tau_mem=ratio), seed=13)
    t_out = first_spikes(t_in, weights, LIF(tau_mem=ratio))
    for unit in (1e-6, 0.37, 1e3):
        neuron = LIF(tau_mem=ratio * unit, tau_syn=unit)
        scaled = first_spikes(t_in * unit, weights / unit, neuron)
        np.testing.assert_allclose(scaled / unit, t_out, atol=1e-9)


@each_ratio
def test_leak_threshold_and_capacitance_rescale_the_weights(ratio: float) -> None:
    plain = LIF(tau_mem=ratio)
    t_in, weights = random_network(plain, seed=14)
    t_out = first_spikes(t_in, weights, plain)
    shifted = dataclasses.replace(plain, threshold=-64.0, leak=-65.0)
    np.testing.assert_allclose(first_spikes(t_in, weights, shifted), t_out, rtol=1e-13)
    higher = dataclasses.replace(plain, threshold=6.0, leak=1.0, capacitance=0.3)
    np.testing.assert_allclose(first_spikes(t_in, 1.5 * weights, higher), t_out, atol=1e-9)


@each_ratio
def test_the_order_of_inputs_samples_and_neurons_does_not_matter(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=15)
    t_out = first_spikes(t_in, weights, neuron)
    rng = np.random.default_rng(1)
    pre, batch, post = (rng.permutation(n) for n in (25, 4, 12))
    moved = first_spikes(t_in[:, batch][:, :, pre], weights[:, pre][:, :, post], neuron)
    np.testing.assert_allclose(moved, t_out[:, batch][:, :, post], rtol=1e-12)


def test_replicas_are_independent_networks() -> None:
    neuron = LIF(tau_mem=3.7)
    t_in, weights = random_network(neuron, seed=16, n_replica=3)
    t_out = first_spikes(t_in, weights, neuron)
    grad = np.random.default_rng(0).normal(size=t_out.shape)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    for r in range(3):
        part = slice(r, r + 1)
        np.testing.assert_array_equal(first_spikes(t_in[part], weights[part], neuron), t_out[part])
        alone = first_spikes_vjp(t_in[part], weights[part], neuron, t_out[part], grad[part])
        np.testing.assert_array_equal(alone[0], t_in_grad[part])
        np.testing.assert_array_equal(alone[1], weights_grad[part])


def test_neighbouring_ratios_agree_with_the_closed_forms() -> None:
    for ratio, near in ((1.0, 1.0 + 1e-9), (2.0, 2.0 + 1e-9), (math.inf, 1e12)):
        t_in, weights = random_network(LIF(tau_mem=ratio), seed=17)
        closed = first_spikes(t_in, weights, LIF(tau_mem=ratio))
        np.testing.assert_allclose(first_spikes(t_in, weights, LIF(tau_mem=near)), closed, rtol=1e-6)


def test_lower_precision_is_computed_in_double() -> None:
    neuron = LIF(tau_mem=2.0)
    t_in, weights = (a.astype(np.float32) for a in random_network(neuron, seed=18))
    t_out = first_spikes(t_in, weights, neuron)
    assert t_out.dtype == np.float64
    np.testing.assert_array_equal(t_out, first_spikes(t_in.astype(float), weights.astype(float), neuron))
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out, dtype=np.float32))
    assert [grad.dtype for grad in grads] == [np.float64] * 2


# --- tangents ----------------------------------------------------------------


@each_ratio
def test_a_tangential_input_never_gives_nan(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    touching = 1.0 / neuron.kernel_peak[1]
    ulps = np.arange(-8, 9)
    weights = (touching * (1 + ulps * EPS)).reshape(1, 1, -1)
    t_in = np.full((1, 1, 1), 0.5)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        t_out = first_spikes(t_in, weights, neuron)
        slope = slopes(t_in, weights, neuron, t_out)
        grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out))
    assert not np.isnan(t_out).any()
    assert np.isinf(t_out[0, 0, 0])
    assert np.isfinite(t_out[0, 0, -1])
    assert np.all(slope[np.isinf(t_out)] == 0)
    assert all(np.isfinite(grad).all() for grad in grads)
    if math.isfinite(ratio):
        peak = 0.5 + neuron.kernel_peak[0]
        np.testing.assert_allclose(t_out[np.isfinite(t_out)], peak, rtol=1e-6)


def test_a_slope_that_is_flat_or_falling_gives_no_gradient() -> None:
    neuron = LIF(tau_mem=2.0, tau_syn=0.5, threshold=1.2, leak=0.2)
    t_in, weights = np.zeros((1, 1, 1)), np.full((1, 1, 4), 5.0)
    peak = neuron.kernel_peak[0]
    # Spike times that a distorted neuron may have: at the peak, after it, on the rise, none.
    t_out = np.array([peak, 2 * peak, 0.5 * peak, np.inf]).reshape(1, 1, 4)
    slope = slopes(t_in, weights, neuron, t_out)[0, 0]
    assert list(slope > 0) == [False, False, True, False]
    assert slope[2] == pytest.approx(5.0 * float(neuron.kernel_slope(0.5 * peak)), rel=1e-15)
    assert np.all(slope[[0, 1, 3]] == 0.0)
    grad = np.array([np.nan, 1.0, 1.0, np.inf]).reshape(1, 1, 4)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    assert t_in_grad[0, 0, 0] == pytest.approx(1.0, rel=1e-14)
    assert list(weights_grad[0, 0] != 0) == [False, False, True, False]


def test_the_slope_floor_is_in_units_of_threshold_over_the_fast_time_constant() -> None:
    neuron = LIF(tau_mem=math.inf, tau_syn=0.5, threshold=3.0, leak=1.0)
    floor = SLOPE_FLOOR * 2.0 / 0.5
    t_out = np.ones((1, 1, 2))
    weights = floor * np.array([0.99, 1.01]).reshape(1, 1, 2) / neuron.kernel_slope(1.0)
    slope = slopes(np.zeros((1, 1, 1)), weights, neuron, t_out)[0, 0]
    assert slope[0] == 0.0
    assert slope[1] == pytest.approx(1.01 * floor)


# --- gradients ---------------------------------------------------------------


def well_placed(t_in: np.ndarray, weights: np.ndarray, neuron: LIF, t_out: np.ndarray) -> np.ndarray:
    """Pairs that spike steeply and far from any input, so that finite differences are valid."""
    slope = slopes(t_in, weights, neuron, t_out) * neuron.tau_fast
    steep = slope > 0.05 * (neuron.threshold - neuron.leak)
    spike = np.where(np.isfinite(t_out), t_out, 0.0)
    distance = np.abs(spike[:, :, None, :] - t_in[:, :, :, None]).min(axis=2)
    return steep & (distance > 1e-3 * neuron.tau_fast)


@each_ratio
def test_gradients_agree_with_central_differences(ratio: float) -> None:
    neuron = LIF(0.8 * ratio, 0.8, threshold=1.5, leak=0.25, capacitance=1.3)
    t_in, weights = random_network(neuron, 21, n_replica=1, n_batch=3, n_pre=8, n_post=8)
    weights *= 2.0
    t_out = first_spikes(t_in, weights, neuron)
    use = well_placed(t_in, weights, neuron, t_out)
    assert use.sum() >= 4
    rng = np.random.default_rng(0)
    grad = np.where(use, rng.normal(size=t_out.shape), 0.0)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)

    def loss(t: np.ndarray, w: np.ndarray) -> float:
        return float(np.sum(grad[use] * first_spikes(t, w, neuron)[use]))

    for array, exact, step in ((t_in, t_in_grad, 1e-5), (weights, weights_grad, 1e-5)):
        step *= neuron.tau_fast if array is t_in else np.abs(weights).max()
        for index in np.ndindex(*array.shape):
            if np.isinf(array[index]):
                assert exact[index] == 0
                continue
            losses = []
            for sign in (1, -1):
                moved = array.copy()
                moved[index] += sign * step
                losses.append(loss(*((moved, weights) if array is t_in else (t_in, moved))))
            numeric = (losses[0] - losses[1]) / (2 * step)
            assert exact[index] == pytest.approx(numeric, rel=1e-6, abs=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_gradients_agree_with_the_published_closed_forms(ratio: float) -> None:
    # Goeltz, Kriener et al. (2021), for tau_syn = 1 and C = 1, in their variables.
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=22, n_replica=1, n_batch=1, n_post=30)
    t_out = first_spikes(t_in, weights, neuron)
    use = np.isfinite(t_out[0, 0])
    assert use.sum() > 5
    t = t_in[0, 0]
    for j in np.flatnonzero(use):
        spike, w = t_out[0, 0, j], weights[0, :, j]
        causal = t < spike
        rise = np.exp(np.where(causal, t, -np.inf))
        a_1, c = np.sum(w * rise), 1.0 / ratio
        if ratio == 1.0:
            b = np.sum((w * rise)[causal] * t[causal])
            scale = -1.0 / (a_1 * (1.0 + b / a_1 - spike))
            by_weight = scale * rise * np.where(causal, spike - t, 0.0)
            by_time = scale * w * rise * np.where(causal, spike - t - 1.0, 0.0)
        else:
            half = np.sqrt(rise)
            s = math.sqrt(np.sum(w * half) ** 2 - 4.0 * a_1 * c)
            first = (1.0 + c / s * math.exp(spike / 2.0)) * rise / a_1
            by_weight, by_time = 2.0 * (first - half / s), w * (2.0 * first - half / s)
        grad = np.zeros_like(t_out)
        grad[0, 0, j] = 1.0
        t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
        scale = np.abs(by_weight).max()
        np.testing.assert_allclose(weights_grad[0, :, j], by_weight, rtol=1e-8, atol=1e-8 * scale)
        scale = np.abs(by_time).max()
        np.testing.assert_allclose(t_in_grad[0, 0], by_time, rtol=1e-8, atol=1e-8 * scale)


@each_ratio
def test_a_common_shift_of_the_inputs_moves_the_spike_as_far(ratio: float) -> None:
    neuron = LIF(tau_mem=ratio)
    t_in, weights = random_network(neuron, seed=23, n_replica=1, n_batch=3, n_post=1)
    t_out = first_spikes(t_in, weights, neuron)
    use = slopes(t_in, weights, neuron, t_out) > 1e-6
    assert use.any()
    t_in_grad, _ = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out))
    np.testing.assert_allclose(t_in_grad.sum(axis=2)[use[:, :, 0]], 1.0, rtol=1e-9)


def test_inputs_outside_of_the_causal_set_get_no_gradient() -> None:
    neuron = LIF()
    t_in = np.array([0.0, 0.3, 0.2, np.inf, 5.0]).reshape(1, 1, 5)
    weights = np.full((1, 5, 1), 4.0)
    t_out = np.full((1, 1, 1), 0.3)
    grads = first_spikes_vjp(t_in, weights, neuron, t_out, np.ones((1, 1, 1)))
    for grad in (grads[0].ravel(), grads[1].ravel()):
        assert list(grad != 0) == [True, False, True, False, False]


def test_exploding_pairs_add_nothing_to_the_gradient_of_the_weights() -> None:
    neuron = LIF(tau_mem=2.0)
    t_in, weights = random_network(neuron, seed=24, n_batch=6)
    t_out = first_spikes(t_in, weights, neuron)
    grad = np.random.default_rng(2).normal(size=t_out.shape)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, grad)
    limit, zeroed = 0.5, 0
    expected = np.zeros_like(weights)
    for r, b, j in zip(*np.nonzero(np.isfinite(t_out)), strict=True):
        single = np.zeros_like(grad)
        single[r, b, j] = grad[r, b, j]
        share = first_spikes_vjp(t_in, weights, neuron, t_out, single)[1]
        if np.abs(share).max() > limit:
            zeroed += 1
        else:
            expected += share
    assert 0 < zeroed < np.isfinite(t_out).sum()
    limited = first_spikes_vjp(t_in, weights, neuron, t_out, grad, max_weight_grad=limit)
    np.testing.assert_array_equal(limited[0], t_in_grad)
    np.testing.assert_allclose(limited[1], expected, rtol=1e-12, atol=1e-14)
    assert np.abs(weights_grad - expected).max() > limit
