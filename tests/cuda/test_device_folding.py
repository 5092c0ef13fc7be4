"""Last inputs that spike together, on the device: what the others leave of the sum over all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import device, fake
from numpy.typing import NDArray
from small_training import Setup, assert_close_runs, assert_same_runs
from test_device_code import assert_exact, assert_gradients, forward, neuron_kernel
from test_device_deciding import Net
from test_groups import SHAPES, image_like, some_weights
from test_kernels import TOLERANCE, assert_same_bits

from gpuspike.kernels import cuda, load, reference
from gpuspike.kernels.constants import GROUPS_FROM, constants
from gpuspike.kernels.cpu.events import FOLD_WITHIN
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda.call import elementwise
from gpuspike.kernels.unit import unit as unit_of
from gpuspike.network.network import Architecture
from gpuspike.neuron import LIF
from gpuspike.training.evaluation import Labelled

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("cupy")

FOLDED = -1
each_ratio = pytest.mark.parametrize("ratio", [1.0, 2.0, math.inf, 0.5, 3.7])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def folded_from(t_in: Array, neuron: LIF | None = None) -> Array:
    """Of each sample the first event that is folded, or -1."""
    neuron = LIF() if neuron is None else neuron
    (n_batch, n_pre), dtype = t_in.shape[1:], t_in.dtype
    weights = np.zeros((1, n_pre, 1), dtype)
    t_in, unit, c = fake(t_in), unit_of(neuron, weights), constants(neuron, dtype)
    ends = fake(np.full((n_batch, n_pre), 77, np.int32))
    n = n_batch * n_pre
    elementwise(src.prepare_kernel(unit.regime))(
        n, n_batch, n_pre, 1, 0, n_batch, *c[:3], c.drive, c.reach, t_in, cuda.spike_order(t_in),
        fake(weights), fake(np.empty(n, dtype)), fake(np.empty(n, np.int32)), ends,
        fake(np.empty((n, 4), dtype)), fake(np.empty((n, 3), dtype)), fake(np.empty(1, dtype)), size=n,
    )  # fmt: skip
    folded, device.busy = np.asarray(ends) == FOLDED, ()
    assert (folded.sum(axis=1) <= 1).all()
    return np.where(folded.any(axis=1), folded.argmax(axis=1), -1)


def test_what_is_folded() -> None:
    image = image_like(784, 5, "image")
    np.testing.assert_array_equal(folded_from(image), (image[0] < 2.0).sum(axis=1))
    assert (folded_from(image_like(64, 5, "all at once")) == 0).all()
    for shape in ("half silent", "mostly silent"):  # whose weights must cost no digits
        assert (folded_from(image_like(784, 5, shape)) == -1).all()
    assert (folded_from(image_like(GROUPS_FROM - 1, 5, "all at once")) == -1).all()
    assert (folded_from(np.full((1, 2, 50), np.inf)) == -1).all()
    half = np.linspace(0.0, 2.0, 50)[None, None]
    for n_early, expected in ((24, 24), (25, -1), (49, -1)):
        assert folded_from(np.where(np.arange(50) < n_early, half, 2.0))[0] == expected
    late = image_like(784, 5, "image")
    late[late == 2.0] = 0.15 + FOLD_WITHIN + 0.1
    assert (folded_from(late) == -1).all()
    assert (folded_from(late, LIF(2.0, 1.0)) > 0).all()
    assert (folded_from(late.astype(np.float32) * 2, LIF(math.inf, 1.0)) == -1).all()  # two anchors


@each_ratio
@pytest.mark.parametrize("shape", SHAPES)
def test_spike_times_slopes_and_gradients_are_exact(shape: str, ratio: float) -> None:
    for n_pre, n_post in ((31, 33), (32, 1), (33, 31), (129, 33)):
        t_in, weights = image_like(n_pre, 3, shape), some_weights(n_pre, n_post)
        t_out = assert_exact(t_in, weights, LIF(ratio, 1.0))
        assert_gradients(t_in, weights, LIF(ratio, 1.0), t_out, np.ones_like(t_out))


@pytest.mark.parametrize("n_pre", [784, pytest.param(1025, marks=pytest.mark.slow)])
def test_an_image_is_exact(n_pre: int) -> None:
    t_out = assert_exact(image_like(n_pre, 3, "image"), some_weights(n_pre, 40), LIF())
    assert 0.2 < np.isfinite(t_out).mean() < 1.0


def test_neurons_that_spike_behind_the_last_inputs_and_go_on_before_them() -> None:
    """Both ways past them: held there, or let go by a solution just before."""
    t_in = np.full((1, 1, 64), 1.0)
    t_in[..., :5] = np.linspace(0.0, 0.9, 5)
    weights = np.full((1, 64, 129), 0.03) * np.linspace(0.5, 2.0, 129)
    weights[:, :5] = np.linspace(0.0, 1.2, 129)[::-1]
    t_out = assert_exact(t_in, weights, LIF())
    assert (t_out > 1.0).any()
    assert (t_out < 1.0).any()


@pytest.mark.parametrize("tau_mem", [2.0, 3.7, math.inf])
@pytest.mark.parametrize("first", [0.3, 0.15, 0.05])
def test_last_inputs_at_the_reach_of_an_anchor(tau_mem: float, first: float) -> None:
    t_in = np.full((1, 1, 784), np.float32(first) + np.float32(4.0), np.float32)
    t_in[..., :50], t_in[..., 50:100] = first, 0.5
    weights, neuron = np.full((1, 784, 20), 0.004, np.float32), LIF(tau_mem, 1.0)
    expected = reference.first_spikes(t_in, weights, neuron)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(forward(t_in, weights, neuron)[0], expected, rtol=0.0, atol=1e-4)


def test_weights_of_silent_inputs_cost_no_digits() -> None:
    t_in, weights = np.ones((1, 1, 64), np.float32), np.full((1, 64, 5), 0.1, np.float32)
    t_in[..., 40:] = np.inf
    weights[:, 40:] = np.random.default_rng(0).uniform(-1e6, 1e6, (24, 5))
    expected = reference.first_spikes(t_in, weights, LIF())
    np.testing.assert_allclose(forward(t_in, weights, LIF())[0], expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_folding_costs_no_digits_in_float32(scale: float) -> None:
    """Also where the others' weights are far larger: their rounding is in the sums p and q anyhow."""
    t_in, weights = image_like(784, 12, "image"), some_weights(784, 64)
    weights[:, (t_in[0] < 2.0).mean(axis=0) > 0.2] *= scale
    apart = t_in + np.linspace(0.0, 4e-4, 784)
    errors = []
    for times in (t_in, apart):  # the latter one by one
        rough = times.astype(np.float32), weights.astype(np.float32)
        assert ((folded_from(rough[0]) >= 0) == (times is t_in)).all()
        right = load("cpu").forward(
            rough[0].astype(np.float64), None, [rough[1].astype(np.float64)], [LIF()], [()]
        )[0]
        found, slope = forward(*rough, LIF())
        both = (right.slope > 0.2) & (slope > 0.2)
        errors.append(np.abs(found[both] - right.t_out[both]))
    assert max(np.quantile(error, 0.999) for error in errors) < TOLERANCE["float32 spike time, tau_syn"]
    assert np.quantile(errors[0], 0.999) < 2.0 * np.quantile(errors[1], 0.999) + 1e-6


def test_flat_crossings_behind_the_last_inputs_are_solved_from_sums_in_float64() -> None:
    t_in = image_like(129, 1, "image", np.float32)
    weights = np.random.default_rng(2).normal(0.01, 0.02, (1, 129, 96))
    ages = np.maximum(np.linspace(0.0, 8.0, 8001)[:, None] - t_in[0, 0], 0.0).astype(np.float64)
    weights *= (1.0 + 3e-6) / (neuron_kernel(ages, LIF()) @ weights[0]).max(
        axis=0
    )  # just above the threshold
    weights = weights.astype(np.float32)
    t_out, slope = forward(t_in, weights, LIF())
    oracle = t_in.astype(np.float64), weights.astype(np.float64), LIF()
    exact = reference.first_spikes(*oracle)
    flat = np.isfinite(t_out) & (exact > 2.0) & np.isfinite(exact)
    assert np.count_nonzero(flat) > 40
    assert np.abs(t_out - exact)[flat].max() < 2e-6
    np.testing.assert_allclose(slope[flat], reference.slopes(*oracle, exact)[flat], rtol=1e-2)


@each_dtype
def test_replicas_neurons_a_thread_and_parts_of_a_batch_change_no_bit(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    t_in = image_like(129, 9, "image", dtype)
    weights = np.concatenate([some_weights(129, 70, dtype, seed) for seed in range(2)])
    t_out, slope = forward(t_in, weights, LIF())
    for r in range(2):
        assert_same_bits(forward(t_in, weights[r : r + 1], LIF())[0][0], t_out[r])
        assert_same_bits(forward(t_in[:, 2:3], weights[r : r + 1], LIF())[0][0], t_out[r, 2:3])
    with monkeypatch.context() as patched:
        patched.setattr(src, "neurons_a_thread", lambda *_: src.NEURONS_A_THREAD)
        device.launches.clear()
        for got, wanted in zip(forward(t_in, weights, LIF()), (t_out, slope), strict=True):
            assert_same_bits(got, wanted)
        assert any(", 2, false>" in name for name in device.launches)
    monkeypatch.setattr(cuda, "WORKSPACE", 20_000)
    assert_same_bits(forward(t_in, weights, LIF())[0], t_out)


@each_dtype
def test_lifted_thresholds(dtype: Any) -> None:
    t_in, weights = image_like(129, 3, "image"), some_weights(129, 33)
    lift = np.random.default_rng(4).normal(1.0, 0.2, (1, 3, 33))
    lift[0, 0, 0] = -0.1  # always on
    arrays = [fake(array.astype(dtype)) for array in (t_in, weights, lift)]
    order, unit = cuda.spike_order(arrays[0]), unit_of(LIF(), weights)
    found = np.asarray(cuda.forward(arrays[0], order, arrays[1], unit, arrays[2])[0])
    for b, j in np.ndindex(3, 33):
        expected = 0.0
        if lift[0, b, j] > 0.0:
            one = reference.first_spikes(t_in[:, b : b + 1], weights[:, :, j : j + 1] / lift[0, b, j], LIF())
            expected = one[0, 0, 0]
        np.testing.assert_allclose(
            found[0, b, j], expected, rtol=0.0, atol=1e-10 if dtype == np.float64 else 1e-4
        )


# --- decisions ----------------------------------------------------------


def seeing_images(neuron: LIF, dtype: Any, n_samples: int = 6) -> Net:
    net = Net((70, 65, 4), neuron, dtype, n_samples, bias=((0.9,), (0.4,)))
    net.t_in[:, :70], net.inputs = image_like(70, n_samples, "image", dtype)[0], np.full(n_samples, 70)
    assert (folded_from(net.t_in[None], neuron) > 0).all()
    return net


@each_dtype
@pytest.mark.parametrize("neuron", [LIF(), LIF(2.0, 1.0, 0.7, -0.2, 1.5)], ids=["equal", "double"])
def test_decisions_are_those_of_the_device_s_own_pass(neuron: LIF, dtype: Any) -> None:
    seeing_images(neuron, dtype).check(0.5, 1.9, 2.0, 2.3)


def use_all() -> None:
    """A little of everything, for who watches memory."""
    for dtype in (np.float32, np.float64):
        seeing_images(LIF(), dtype, 2).check(1.9)


@each_dtype
def test_decisions_of_hidden_spikes_that_come_together(dtype: Any) -> None:
    """The layer behind knows them all, and can take none of them before it knows that nothing follows."""
    net = Net((3, 40, 5), LIF(), dtype, 4, replicas=1)
    net.t_in[:], net.inputs = [[0.1, 0.5, late] for late in (0.6, 1.5, 2.5, 4.0)], np.full(4, 3)
    net.weights[0][:] = np.array([2.0, 2.0, 0.5])[:, None]
    net.weights[0][:, :2, ::9] = 4.5
    net.weights[1][:] = np.linspace(0.02, 0.12, 5)
    (hidden, _) = load("cuda").forward(
        fake(net.t_in[None]), None, [fake(w) for w in net.weights], net.neurons, net.bias
    )
    assert (folded_from(np.asarray(hidden.t_out)) == 5).all()
    net.check(0.2, 0.7, 1.6, 2.6)


# --- training ----------------------------------------------------------


@dataclass(frozen=True)
class Images(Setup):
    """36 inputs, of which most are black and spike last."""

    bias: tuple[tuple[float, ...], ...] = ((0.9,), (0.4, 0.9))
    n_train: int = 40

    def network(self) -> Architecture:
        return Architecture.build((36, 12, 3), self.bias, LIF(2.0, 1.0), load(self.backend), None)

    def labelled(self, seed: int, n_samples: int) -> Labelled:
        rng = np.random.default_rng(seed)
        labels = rng.integers(3, size=n_samples)
        t_in = np.full((n_samples, 36), 2.0)
        t_in[:, :12] = np.round(rng.uniform(0.1, 2.0, (n_samples, 12)), 1)
        t_in[np.arange(n_samples), labels] = 0.1
        return Labelled(self.network().receive(t_in[None].astype(self.dtype), sort=False), labels)


def test_training_is_that_on_the_cpu_its_graph_that_of_kernels_and_replicas_stand_alone() -> None:
    setup = Images()
    assert (folded_from(np.asarray(setup.labelled(0, 5).received.t_in)) >= 0).all()
    ours = setup.trained(2)
    assert "graph" in device.launches
    assert_close_runs(ours, replace(setup, backend="cpu").trained(2), 1e-8)
    one_by_one = replace(setup, graph=False).trained(2)
    alone = replace(setup, seeds=setup.seeds[1:]).trained(2)
    for r in range(2):
        assert_same_runs(ours, one_by_one, r, r)
    assert_same_runs(ours, alone, 1, 0)
