"""What a chip does to a layer in each trial, on the CPU: against the oracle, and what must not change it."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_kernels
import test_per_neuron
from numpy.typing import NDArray
from scipy.special import lambertw
from test_per_neuron import host

from gpuspike import rng
from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import LayerState, Trial, first_spikes, load
from gpuspike.kernels.bias import with_bias
from gpuspike.kernels.layerwise import heard
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose

Array = NDArray[Any]

N_REPLICA, N_POST = 2, test_per_neuron.N_POST
RATIOS = {"equal": 1.0, "double": 2.0, "no leak": math.inf, "general": 1.5, "fast membrane": 0.4}
OWN = ["levels", "taus", "both"]

TOLERANCE = {
    # As in test_kernels, for the same sums: in tau_syn; in (threshold - leak)/tau_fast; of the largest entry.
    "spike time": test_kernels.TOLERANCE["spike time, tau_syn"],
    "slope": test_kernels.TOLERANCE["slope"],
    "gradient": test_kernels.TOLERANCE["gradient"],
    # The slope goes with the square root of how far the membrane gets beyond the threshold: 1e-15 of the sums
    # moves slopes below 1e-4 by 1e-11 and more.
    "slope at the crossing": 1e-8,
    # Computed in float32: a number next to 0 comes from the logarithm of a number next to 1.
    "normal": 1e-5,
}

each_kind = pytest.mark.parametrize("kind", [*RATIOS, *OWN])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def neurons(kind: str) -> LIF:
    """One neuron for all, no parameter of which is 0 or 1; or 45 different ones in each of two replicas."""
    return test_kernels.scaled(RATIOS[kind]) if kind in RATIOS else test_per_neuron.neurons(kind)


def layer(
    kind: str, seed: int, n_batch: int = 4, n_pre: int = 33, window: float = 4.0, dtype: Any = np.float64
) -> tuple[LIF, Array, Array]:
    """Neurons, input times on both sides of 0 (2, n_batch, n_pre), and weights (2, n_pre, 45)."""
    neuron = neurons(kind)
    if kind in OWN:
        return neuron, *test_per_neuron.network(seed, n_batch, n_pre, window, dtype)
    arrays = test_kernels.network(neuron, seed, n_batch, n_pre, N_POST, window, N_REPLICA, dtype)
    return neuron, *arrays


def trial(like: Array, seed: int = 0, **change: Any) -> Trial:
    """Thresholds far below and above, some neurons always on; delays of both signs, some spikes lost."""
    numbers = np.random.default_rng(seed)
    lift = 1.0 + 0.3 * numbers.normal(size=like.shape)
    lift[numbers.random(like.shape) < 0.05] = -0.1
    lift[numbers.random(like.shape) < 0.02] = 0.0
    delay = 0.3 * numbers.normal(size=like.shape)
    delay[numbers.random(like.shape) < 0.05] = np.inf
    return Trial(lift.astype(like.dtype), delay.astype(like.dtype), 0.1, 1.2)._replace(**change)


def same(array: Array) -> Array:
    return array


def placed(trial: Trial, wrap: Callable[[Array], Any]) -> Trial:
    """A trial whose arrays are where `wrap` puts them."""
    lift, delay = (None if array is None else wrap(array) for array in (trial.lift, trial.delay))
    return trial._replace(lift=lift, delay=delay)


def forward(
    t_in: Array,
    weights: Array,
    neuron: LIF,
    trial: Trial | None,
    backend: str = "cpu",
    wrap: Callable[[Array], Any] = same,
) -> LayerState:
    """A single layer in its trials; None: the ideal one. `wrap` makes the backend's arrays."""
    trials = None if trial is None else [placed(trial, wrap)]
    (state,) = load(backend).forward(wrap(t_in), None, [wrap(weights)], [neuron], [()], trials)
    return LayerState(*map(host, state))


def of_shape(t_in: Array, weights: Array) -> Array:
    """An array like the spike times."""
    return np.empty((len(weights), t_in.shape[1], weights.shape[2]), weights.dtype)


def assert_same(state: LayerState, expected: LayerState) -> None:
    """Bit for bit."""
    for name in ("t_out", "t_cross", "slope"):
        np.testing.assert_array_equal(getattr(state, name), getattr(expected, name), err_msg=name)


def unit_of_slope(neuron: LIF) -> Array | float:
    """(threshold - leak)/tau_fast, by neuron."""
    tau_mem, tau_syn, threshold, leak, _ = neuron.table(N_REPLICA, N_POST)
    return ((threshold - leak) / np.minimum(tau_mem, tau_syn))[:, None]


# --- thresholds, delays, ticks and the end -----------------------------------


def check_against_the_oracle(backend: str, wrap: Callable[[Array], Any], kind: str, window: float) -> None:
    """Crossings, slopes and what is heard, in float64; `wrap` makes the backend's arrays."""
    always_on, silent = 0, []
    for seed, sizes in enumerate([(4, 33), (1, 31), (3, 129), (1, 1), (0, 5), (5, 0)]):
        neuron, t_in, weights = layer(kind, seed, *sizes, window)
        interference = trial(of_shape(t_in, weights), seed)
        ours = forward(t_in, weights, neuron, interference, backend, wrap)
        oracle = forward(t_in, weights, neuron, interference, "reference")
        test_kernels.assert_same_spikes(ours.t_cross, oracle.t_cross, LIF(), TOLERANCE["spike time"])
        unit = unit_of_slope(neuron)
        np.testing.assert_allclose(ours.slope / unit, oracle.slope / unit, rtol=1e-9, atol=TOLERANCE["slope"])
        np.testing.assert_array_equal(ours.t_out, heard(ours.t_cross, interference))
        np.testing.assert_array_equal(oracle.t_out, ours.t_out)
        assert interference.lift is not None
        on = interference.lift <= 0.0
        assert (ours.t_cross[on] == 0.0).all()
        assert (ours.slope[on] == 0.0).all()
        always_on += int(on.sum())
        if weights.shape[1] > 1 and t_in.size:
            silent.append(np.isinf(ours.t_cross[~on]).mean())
    assert always_on > 50
    assert 0.02 < np.mean(silent) < 0.98


@each_kind
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_the_cpu_agrees_with_the_oracle(kind: str, window: float) -> None:
    check_against_the_oracle("cpu", same, kind, window)


@each_kind
def test_a_lifted_threshold_is_another_threshold(kind: str) -> None:
    neuron, t_in, weights = layer(kind, 3)
    lift = np.random.default_rng(1).uniform(0.5, 1.5, (N_REPLICA, 1, N_POST))
    every = np.repeat(lift, t_in.shape[1], axis=1)
    threshold = neuron.leak + neuron.span * lift[:, 0]
    state = forward(t_in, weights, neuron, Trial(every))
    expected = forward(t_in, weights, dataclasses.replace(neuron, threshold=threshold), None)
    test_kernels.assert_same_spikes(state.t_cross, expected.t_out, LIF(), TOLERANCE["spike time"])
    np.testing.assert_allclose(state.slope, expected.slope, rtol=1e-9, atol=1e-9)


@each_kind
@each_dtype
def test_a_trial_that_does_nothing_changes_no_bit(kind: str, dtype: Any) -> None:
    neuron, t_in, weights = layer(kind, 2, n_batch=17, dtype=dtype)
    ideal = forward(t_in, weights, neuron, None)
    like = of_shape(t_in, weights)
    for nothing in (
        Trial(),
        Trial(lift=np.ones_like(like)),
        Trial(delay=np.zeros_like(like)),
        Trial(np.ones_like(like), np.zeros_like(like), 0.0, 1e30),
    ):
        assert_same(forward(t_in, weights, neuron, nothing), ideal)


@each_kind
def test_float32(kind: str) -> None:
    neuron, t_in, weights = layer(kind, 4, n_batch=12, n_pre=65, dtype=np.float32)
    interference = trial(of_shape(t_in, weights), 4)
    ours, oracle = (forward(t_in, weights, neuron, interference, b).t_cross for b in ("cpu", "reference"))
    assert ours.dtype == np.float32
    both = np.isfinite(ours) & np.isfinite(oracle)
    assert np.count_nonzero(np.isfinite(ours) != np.isfinite(oracle)) <= 1e-3 * ours.size
    assert np.mean(np.abs(ours[both] - oracle[both]) <= 1e-4) >= 0.999


@pytest.mark.parametrize("kind", ["equal", "general", "taus"])
@each_dtype
def test_batches_replicas_and_threads_change_no_bit(
    kind: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    neuron, t_in, weights = layer(kind, 5, n_batch=37, dtype=dtype)
    like = of_shape(t_in, weights)
    interference = trial(like, 5)
    together = forward(t_in, weights, neuron, interference)
    names = ("t_out", "t_cross", "slope")
    for count in (1, 2, 5):
        for place in ("forward", "team"):
            module = sys.modules[f"gpuspike.kernels.cpu.{place}"]
            monkeypatch.setattr(module, "thread_count", lambda n=count: n)
        assert_same(forward(t_in, weights, neuron, interference), together)
        for first, last in ((0, 1), (1, 20), (20, 37)):  # a single sample is cut into ranges of neurons
            part = interference._replace(
                lift=interference.lift[:, first:last].copy(), delay=interference.delay[:, first:last].copy()
            )
            state = forward(t_in[:, first:last].copy(), weights, neuron, part)
            for name in names:
                np.testing.assert_array_equal(getattr(state, name), getattr(together, name)[:, first:last])
        for r in range(N_REPLICA):
            one = slice(r, r + 1)
            table = neuron if neuron.uniform else LIF(*neuron.table(N_REPLICA, N_POST)[:, one])
            part = interference._replace(lift=interference.lift[one], delay=interference.delay[one])
            state = forward(t_in[one, :1].copy(), weights[one], table, part._replace(
                lift=part.lift[:, :1].copy(), delay=part.delay[:, :1].copy()
            ))  # fmt: skip
            for name in names:
                np.testing.assert_array_equal(getattr(state, name)[0], getattr(together, name)[r, :1])


def test_a_wide_layer_is_cut_into_ranges_of_neurons_without_changing_a_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neuron = neurons("equal")
    t_in, weights = test_kernels.network(neuron, 1, 1, 65, 533, 4.0)
    interference = trial(of_shape(t_in, weights), 1)
    oracle = forward(t_in, weights, neuron, interference, "reference")
    states = []
    for count in (1, 2, 5):
        monkeypatch.setattr(sys.modules["gpuspike.kernels.cpu.forward"], "thread_count", lambda n=count: n)
        states.append(forward(t_in, weights, neuron, interference))
        assert_same(states[-1], states[0])
    test_kernels.assert_same_spikes(states[0].t_cross, oracle.t_cross, LIF(), TOLERANCE["spike time"])


def check_two_layers(backend: str, wrap: Callable[[Array], Any], kind: str, n_batch: int) -> None:
    """A stack, its trials and its gradients against the oracle; `wrap` makes the backend's arrays."""
    neuron, t_in, weights = layer(kind, 6, n_batch=n_batch)
    second = np.abs(np.random.default_rng(6).normal(0.3, 0.3, (N_REPLICA, N_POST + 2, N_POST)))
    bias = (0.3, 0.7)
    trials = [trial(of_shape(t_in, weights), 6), trial(of_shape(t_in, second), 7, grid=0.0)]
    rest, both = ([neuron, neuron], [(), bias]), [weights, second]
    oracle = load("reference").forward(t_in, None, both, *rest, trials)
    on_device = [placed(one, wrap) for one in trials]
    given = load(backend).forward(wrap(t_in), None, [wrap(w) for w in both], *rest, on_device)
    ours = [LayerState(*map(host, state)) for state in given]
    np.testing.assert_array_equal(ours[1].t_in, with_bias(ours[0].t_out, bias))
    for state, expected in zip(ours, oracle, strict=True):
        test_kernels.assert_same_spikes(state.t_cross, expected.t_cross, LIF(), TOLERANCE["spike time"])
        np.testing.assert_allclose(state.t_out, expected.t_out, rtol=0.0, atol=TOLERANCE["spike time"])
    assert_same(ours[1], forward(ours[1].t_in, second, neuron, trials[1], backend, wrap))
    grad = np.random.default_rng(8).normal(size=ours[1].t_out.shape)
    grads = []
    active = np.ones(N_REPLICA, np.bool_)
    for name, put, states in ((backend, wrap, given), ("reference", same, oracle)):
        first, others = load(name).backward(
            states, [put(w) for w in both], rest[0], put(grad.copy()), active=put(active),
            max_weight_grad=math.inf, need_t_in_grad=True,
        )  # fmt: skip
        grads.append([host(g) for g in (first, *others)])
    for got, wanted in zip(*grads, strict=True):
        test_kernels.assert_close(got, wanted, TOLERANCE["gradient"])
        assert wanted.any()


@pytest.mark.parametrize("kind", ["equal", "general", "levels", "both"])
@pytest.mark.parametrize("n_batch", [1, 9])
def test_layers_hear_what_the_layer_before_sends(kind: str, n_batch: int) -> None:
    check_two_layers("cpu", same, kind, n_batch)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["equal", "taus"])
def test_spikes_come_in_the_documented_order_of_events(backend: str, kind: str) -> None:
    """Crossing, delay (not before 0 by it), next tick, end: written out for each spike."""
    neuron, t_in, weights = layer(kind, 7)
    interference = trial(of_shape(t_in, weights), 7, grid=0.25, end=1.5)
    state = forward(t_in, weights, neuron, interference, backend)
    assert (state.t_cross < 0.0).any(), "the test needs spikes before 0, which stay there"
    for at in np.ndindex(state.t_out.shape):
        t, delay = float(state.t_cross[at]), float(interference.delay[at])
        t = max(t + delay, min(t, 0.0))
        tick = math.ceil(t / 0.25 - 1e-3) * 0.25 if math.isfinite(t) else math.inf
        assert state.t_out[at] == (tick if tick <= 1.5 else math.inf)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@each_dtype
def test_a_spike_on_a_tick_is_seen_at_that_tick(backend: str, dtype: Any) -> None:
    grid = 0.1
    ticks = (grid * np.arange(1, 9)).astype(dtype)
    weights = np.full((1, 1, 1), 1e4, dtype)
    neuron = LIF()
    wait = float(first_spikes(np.zeros((1, 1), dtype), weights[0], neuron)[0, 0])
    t_in = (ticks.astype(np.float64) - wait).astype(dtype).reshape(1, -1, 1)
    state = forward(t_in, weights, neuron, Trial(grid=grid, end=0.5 + 0.5 * grid), backend)
    np.testing.assert_array_equal(state.t_out[0, :, 0], np.where(np.arange(8) < 5, ticks, np.inf))


@pytest.mark.parametrize("kind", ["equal", "taus"])
def test_always_on_neurons_spike_without_any_input_and_have_no_gradient(kind: str) -> None:
    neuron = neurons(kind)
    weights = np.full((N_REPLICA, 3, N_POST), 5.0)
    t_in = np.full((N_REPLICA, 2, 3), np.inf)
    lift = np.where(np.arange(N_POST) % 2, 1.0, -0.5) * np.ones((N_REPLICA, 2, 1))
    for inputs, w in ((t_in, weights), (t_in[:, :, :0], weights[:, :0])):
        for backend in ("cpu", "reference"):
            state = forward(inputs.copy(), w.copy(), neuron, Trial(lift, 0.25 * np.ones_like(lift)), backend)
            np.testing.assert_array_equal(state.t_cross, np.where(lift < 0.0, 0.0, np.inf))
            np.testing.assert_array_equal(state.t_out, np.where(lift < 0.0, 0.25, np.inf))
            assert not state.slope.any()
    # With inputs before time 0 there is something that could be mistaken for a gradient.
    early = np.full((N_REPLICA, 2, 3), -0.5)
    for backend in ("cpu", "reference"):
        state = forward(early, weights, neuron, Trial(lift), backend)
        _, (grad,) = load(backend).backward(
            [state], [weights], [neuron], np.ones_like(lift), active=np.ones(N_REPLICA, np.bool_),
            max_weight_grad=math.inf, need_t_in_grad=False,
        )  # fmt: skip
        assert not grad[..., ::2].any()
        assert grad[..., 1::2].any()


@pytest.mark.parametrize("kind", ["equal", "levels", "taus"])
@pytest.mark.parametrize("name", ["lift", "delay"])
def test_arrays_that_do_not_fit_are_refused(kind: str, name: str) -> None:
    neuron, t_in, weights = layer(kind, 1)
    right = np.ones_like(of_shape(t_in, weights))
    expected = rf"{name} must be \(n_replica, n_batch, n_post\) = \(2, 4, 45\), got"
    for wrong in (right[:1], right[:, :-1], right[..., :-1], right[0]):
        with pytest.raises(ShapeError, match=expected):
            forward(t_in, weights, neuron, Trial(**{name: wrong}))
    with pytest.raises(DtypeError, match=f"{name} must be float64 like the spike times, got float32"):
        forward(t_in, weights, neuron, Trial(**{name: right.astype(np.float32)}))


@pytest.mark.parametrize("kind", ["equal", "taus"])
def test_arrays_of_any_layout_will_do(kind: str) -> None:
    neuron, t_in, weights = layer(kind, 8)
    interference = trial(of_shape(t_in, weights), 8)
    turned = interference._replace(
        lift=np.asfortranarray(interference.lift), delay=np.asfortranarray(interference.delay)
    )
    assert_same(forward(t_in, weights, neuron, turned), forward(t_in, weights, neuron, interference))


# --- slopes at the crossing ---------------------------------------------------


def somebody_else_s_times(t_in: Array, weights: Array, neuron: LIF) -> Array:
    """Spike times as of a chip: the neuron's own ones moved, spikes where it is silent, silence where not."""
    numbers = np.random.default_rng(0)
    times = forward(t_in, weights, neuron, None).t_out
    anywhere = numbers.uniform(-1.0, 3.0, times.shape)
    times = np.where(np.isinf(times), anywhere, times + 0.2 * numbers.normal(size=times.shape))
    times[numbers.random(times.shape) < 0.1] = np.inf
    return times


def crossing_slopes(
    t_in: Array, weights: Array, neuron: LIF, times: Array, backend: str, wrap: Callable[[Array], Any] = same
) -> Array:
    """In units of (threshold - leak)/tau_fast; `wrap` makes the backend's arrays."""
    slope = load(backend).crossing_slopes(wrap(t_in), wrap(weights), neuron, wrap(times))
    return host(slope) / unit_of_slope(neuron)


def check_slopes_at_the_crossing(
    backend: str, wrap: Callable[[Array], Any], kind: str, window: float
) -> None:
    """Against the oracle, in float64; `wrap` makes the backend's arrays."""
    shares = []
    for seed, sizes in enumerate([(3, 33), (1, 31), (2, 65)]):
        neuron, t_in, weights = layer(kind, seed, *sizes, window)
        times = somebody_else_s_times(t_in, weights, neuron)
        ours = crossing_slopes(t_in, weights, neuron, times, backend, wrap)
        oracle = crossing_slopes(t_in, weights, neuron, times, "reference")
        np.testing.assert_allclose(ours, oracle, rtol=1e-8, atol=TOLERANCE["slope at the crossing"])
        assert (ours >= 0.0).all()
        shares.append(np.mean(ours > 0.0))
    assert 0.05 < np.mean(shares) < 0.95


@pytest.mark.parametrize("kind", [*RATIOS, "levels"])
@pytest.mark.parametrize("window", [4.0, 100.0])
def test_slopes_at_the_crossing_agree_with_the_oracle(kind: str, window: float) -> None:
    check_slopes_at_the_crossing("cpu", same, kind, window)


def published_slopes(t_in: Array, weights: Array, neuron: LIF, times: Array) -> Array:
    """Slopes at the crossing by the closed forms: C u' = a_1 (1 + W) exp(-T/tau_s), or s exp(-T/tau_m).

    For tau_m = tau_s and 2 tau_s; the causal set t < times is written out for every neuron.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021).
    """
    tau_m, tau_s, C = neuron.tau_mem, neuron.tau_syn, neuron.capacitance
    c = C / tau_m * neuron.span
    slope = np.zeros_like(times)
    for r, b, j in np.ndindex(times.shape):
        inputs = t_in[r if len(t_in) > 1 else 0, b]
        causal = (inputs < times[r, b, j]) & np.isfinite(times[r, b, j])
        t, w = inputs[causal], weights[r, causal, j]
        a_1, a_2 = np.sum(w * np.exp(t / tau_s)), np.sum(w * np.exp(t / (2.0 * tau_s)))
        if not a_1 > 0.0:
            continue
        if tau_m == tau_s:
            ratio = np.sum(w * t / tau_s * np.exp(t / tau_s)) / a_1
            z = -c / a_1 * np.exp(ratio)
            if z > -1.0 / math.e:
                W = lambertw(z).real
                slope[r, b, j] = a_1 * (1.0 + W) * np.exp(-(ratio - W)) / C
        elif a_2 > 0.0 and (square := a_2**2 - 4.0 * a_1 * c) > 0.0:
            s = math.sqrt(square)
            slope[r, b, j] = s / (C * 2.0 * a_1 / (a_2 + s))
    return slope


@pytest.mark.parametrize("kind", ["equal", "double"])
def test_slopes_at_the_crossing_are_those_of_the_published_closed_forms(kind: str) -> None:
    neuron, t_in, weights = layer(kind, 9)
    times = somebody_else_s_times(t_in, weights, neuron)
    expected = published_slopes(t_in, weights, neuron, times)
    assert 0.1 < np.mean(expected > 0.0) < 0.9
    slope = load("cpu").crossing_slopes(t_in, weights, neuron, times)
    unit = neuron.span / neuron.tau_fast
    np.testing.assert_allclose(
        slope / unit, expected / unit, rtol=1e-8, atol=TOLERANCE["slope at the crossing"]
    )


@pytest.mark.parametrize("kind", [*RATIOS, "levels"])
@each_dtype
def test_at_its_own_spikes_a_neuron_s_slopes_are_those_of_the_forward_pass(kind: str, dtype: Any) -> None:
    neuron, t_in, weights = layer(kind, 10, n_batch=17, dtype=dtype)
    state = forward(t_in, weights, neuron, None)
    for backend in ("cpu", "reference"):
        if backend == "reference" and dtype == np.float32:
            continue  # sums that were rounded to float32 have other crossings
        slope = load(backend).crossing_slopes(t_in, weights, neuron, state.t_out)
        unit = unit_of_slope(neuron)
        assert slope.dtype == (np.float64 if backend == "reference" else dtype)
        atol = TOLERANCE["slope at the crossing"] if dtype == np.float64 else 3e-3
        np.testing.assert_allclose(slope / unit, state.slope / unit, rtol=0.0, atol=atol)


@pytest.mark.parametrize("sizes", [(1, 1), (0, 5), (5, 0), (33, 1)], ids=str)
def test_slopes_at_the_crossing_of_ugly_sizes(sizes: tuple[int, int]) -> None:
    neuron, t_in, weights = layer("general", 0, *sizes)
    times = np.full(of_shape(t_in, weights).shape, 1.0)
    for backend in ("cpu", "reference"):
        assert load(backend).crossing_slopes(t_in, weights, neuron, times).shape == times.shape


def test_slopes_at_the_crossing_of_time_constants_of_their_own_are_the_oracle_s() -> None:
    neuron, t_in, weights = layer("taus", 11)
    times = somebody_else_s_times(t_in, weights, neuron)
    ours, theirs = (load(b).crossing_slopes(t_in, weights, neuron, times) for b in ("cpu", "reference"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert (theirs > 0.0).any()


@pytest.mark.parametrize("kind", ["equal", "general"])
def test_both_backends_take_the_slopes_that_they_are_given(kind: str) -> None:
    """The gradient of somebody else's spikes lies in their slopes alone: no backend may compute its own."""
    neuron, t_in, weights = layer(kind, 11)
    times = somebody_else_s_times(t_in, weights, neuron)
    grads = []
    for backend in ("cpu", "reference"):
        kernels = load(backend)
        slope = kernels.crossing_slopes(t_in, weights, neuron, times)
        state = LayerState(t_in, np.empty(0, np.int64), times, times, slope)
        _, (grad,) = kernels.backward(
            [state], [weights], [neuron], np.ones_like(times), active=np.ones(N_REPLICA, np.bool_),
            max_weight_grad=0.5, need_t_in_grad=False,
        )  # fmt: skip
        grads.append(grad)
    test_kernels.assert_close(grads[0], grads[1], 1e-7)
    assert grads[0].any()


# --- normal numbers -----------------------------------------------------------

SEEDS = (7, 2**63 - 5)


def normals(
    shape: tuple[int, ...],
    dtype: Any = np.float64,
    *,
    backend: str = "cpu",
    wrap: Callable[[Array], Any] = same,
    **address: Any,
) -> Array:
    """Numbers of two replicas at one address; `wrap` makes the backend's arrays."""
    at = {"purpose": Purpose.SPIKE_JITTER, "layer": 3, "epoch": 2, "batch": 5, "first": 0} | address
    return host(load(backend).normals(wrap(np.zeros(shape, dtype)), SEEDS, *at.values()))


def check_the_documented_numbers(
    backend: str, wrap: Callable[[Array], Any], dtype: Any, n: int, n_batch: int, epoch: int
) -> None:
    """Against the definition; `wrap` makes the backend's arrays."""
    numbers = normals((2, n_batch, n), dtype, backend=backend, wrap=wrap, epoch=epoch)
    oracle = normals((2, n_batch, n), dtype, backend="reference", epoch=epoch)
    assert numbers.dtype == oracle.dtype == dtype
    written_out = [rng.normals(s, Purpose.SPIKE_JITTER, epoch, 5, n_batch, n, 3) for s in SEEDS]
    np.testing.assert_array_equal(oracle, np.asarray(written_out, dtype))
    np.testing.assert_allclose(numbers, oracle, rtol=0.0, atol=TOLERANCE["normal"])


each_number = pytest.mark.parametrize("n", [1, 2, 3, 4, 31, 129])
each_batch = pytest.mark.parametrize("n_batch", [0, 1, 33])
each_epoch = pytest.mark.parametrize("epoch", [0, 2**32 - 1])


@each_dtype
@each_number
@each_batch
@each_epoch
def test_backends_draw_the_documented_numbers(dtype: Any, n: int, n_batch: int, epoch: int) -> None:
    check_the_documented_numbers("cpu", same, dtype, n, n_batch, epoch)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_splitting_a_batch_draws_the_same_numbers(backend: str) -> None:
    together = normals((2, 37, 9), backend=backend)
    for first, last in ((0, 1), (1, 20), (20, 37)):
        part = normals((2, last - first, 9), backend=backend, first=first)
        np.testing.assert_array_equal(part, together[:, first:last])


@pytest.mark.parametrize(
    "other",
    [{"purpose": Purpose.THRESHOLD_NOISE}, {"layer": 4}, {"epoch": 3}, {"batch": 6}, {"first": 500}],
    ids=repr,
)
def test_another_address_draws_other_numbers(other: dict[str, Any]) -> None:
    a, b = normals((2, 500, 129)), normals((2, 500, 129), **other)
    assert (a != b).mean() > 0.999
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5.0 / math.sqrt(a.size)
    assert abs(a.mean()) < 5.0 / math.sqrt(a.size)
    assert abs(a.std() - 1.0) < 5.0 / math.sqrt(2.0 * a.size)


@each_dtype
def test_slopes_do_not_depend_on_how_the_weights_lie_in_memory(dtype: Any) -> None:
    """A laboratory's chip may hand over a transposed array, whose rows no address and step describe."""
    numbers = np.random.default_rng(0)
    t_in = numbers.uniform(0.0, 2.0, (1, 4, 20)).astype(dtype)
    weights = numbers.normal(0.3, 0.5, (1, 20, 18)).astype(dtype)
    times = numbers.uniform(2.0, 4.0, (1, 4, 18)).astype(dtype)
    transposed = np.ascontiguousarray(weights.swapaxes(1, 2)).swapaxes(1, 2)
    kernels, neuron = load("cpu"), LIF()
    for slopes in (kernels.slopes, kernels.crossing_slopes):
        np.testing.assert_array_equal(
            slopes(t_in, weights, neuron, times), slopes(t_in, transposed, neuron, times)
        )


def test_a_crossing_too_steep_for_any_number_has_no_slope() -> None:
    """Two inputs that leave nearly no current: the membrane that they make has come down for ages."""
    t_in, times = np.array([[[0.0, 1.0]]]), np.array([[[2.0]]])
    weights = np.array([[[1.0], [-math.exp(-1.0) + 1e-4]]])
    assert load("reference").crossing_slopes(t_in, weights, LIF(), times) == 0.0
    narrow = (array.astype(np.float32) for array in (t_in, weights))
    assert load("cpu").crossing_slopes(*narrow, LIF(), times.astype(np.float32)) == 0.0
