"""Convolutional layers: against the dense layer that they are short for, on every backend, forth and back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.config.checks import n_layers_of
from gpuspike.config.schema import jobs
from gpuspike.errors import BackendError, ConfigError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.kernels.bias import with_bias
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cpu import patches
from gpuspike.network import convolved, passes
from gpuspike.network.layers import LayerInput
from gpuspike.network.network import Architecture
from gpuspike.network.parameters import Parameters
from gpuspike.network.plan import Maps, read_plan, told_plan
from gpuspike.runs.experiment import build

Array = NDArray[Any]

NEURONS = [
    gs.LIF(1.0, 1.0),
    gs.LIF(2.0, 1.0),
    gs.LIF(math.inf, 1.0),
    gs.LIF(1.3, 0.8, threshold=0.9, leak=0.1, capacitance=2.0),
]


def drawn(seed: int, *, silent_padding: bool = True) -> tuple[Convolution, int]:
    """A layer of odd sizes, and how many bias spikes it gets."""
    r = np.random.default_rng(seed)
    kernel = int(r.integers(1, 4))
    rows, columns = (int(n) for n in r.integers(kernel, 9, 2))
    pad_time = math.inf if silent_padding or seed % 2 else 2.0
    layer = Convolution(
        (rows, columns, int(r.integers(1, 4))),
        int(r.integers(1, 35)),
        kernel,
        stride=int(r.integers(1, 3)),
        padding=int(r.integers(0, kernel)),
        pad_time=pad_time,
    )
    layer = dataclasses.replace(layer, pool=int(r.integers(1, min(layer.grid) + 1)))
    return layer, int(r.integers(0, 3))


def inputs(
    layer: Convolution, n_bias: int, seed: int, n_replica: int = 2, n_batch: int = 3
) -> tuple[Array, Array]:
    """Spike times with ties, silence and a blank background, and weights."""
    r = np.random.default_rng(seed)
    late = 2.0 if seed % 3 else 40.0  # a window that no single anchor serves
    t_in = r.uniform(0.0, late, (n_replica, n_batch, layer.n_in))
    t_in[r.random(t_in.shape) < 0.3] = math.inf
    t_in[r.random(t_in.shape) < 0.3] = 1.5
    if seed % 4 == 0:
        t_in[0] = 1.5
    t_in = with_bias(t_in, list(r.uniform(0.0, 1.0, n_bias)))
    scale = 6.0 / math.sqrt(layer.fan_in)
    weights = r.normal(0.6 * scale, scale, (n_replica, layer.fan_in + n_bias, layer.n_maps))
    return t_in, weights


def run(
    backend: str,
    layer: Convolution,
    t_in: Array,
    w: Array,
    neuron: gs.LIF,
    grad: Array,
    limit: float = math.inf,
) -> tuple[Any, Any, Any]:
    """State and gradients of one layer."""
    kernels = load(backend)
    (state,) = passes.forward(
        kernels, LayerInput(t_in, None), [w], [neuron], [None], [()], convolutions=[layer]
    )
    pulled, t_in_grad = convolved.pull_convolved(
        kernels, layer, state, w, neuron, None, grad,
        taus=False, further=True, active=np.ones(len(w), np.bool_), max_weight_grad=limit,
    )  # fmt: skip
    return state, pulled.weights, t_in_grad


def close(got: Array, expected: Array, most: float) -> None:
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    assert np.abs(got - expected).max(initial=0.0) <= most * scale


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_dense_layer_that_it_is_short_for(seed: int) -> None:
    layer, n_bias = drawn(seed)
    t_in, w = inputs(layer, n_bias, seed)
    neuron = NEURONS[seed % 4]
    grad = np.random.default_rng(seed).normal(size=(2, 3, layer.n_out))
    state, w_grad, t_grad = run("cpu", layer, t_in, w, neuron, grad)
    dense, reference = layer.unrolled(w), load("reference")
    (plain,) = reference.forward(t_in, None, [dense], [neuron], [()])
    known = np.isfinite(plain.t_out)
    assert np.array_equal(known, np.isfinite(state.t_cross))
    np.testing.assert_allclose(state.t_cross[known], plain.t_out[known], rtol=0, atol=1e-10)
    heard = layer.heard(plain.t_out)
    assert heard.shape == state.t_out.shape
    np.testing.assert_allclose(state.t_out, heard, rtol=0, atol=1e-10)
    # The same winner of a window, which rounding may choose otherwise between two times that are equal.
    spread = layer.spread(grad, state.t_cross)
    t_expected, (each,) = reference.backward(
        [plain], [dense], [neuron], spread, active=np.ones(2, np.bool_), max_weight_grad=math.inf,
        need_t_in_grad=True,
    )  # fmt: skip
    assert t_expected is not None
    shared = np.zeros_like(w_grad)
    each = each.reshape(2, -1, layer.n_positions, layer.n_maps)
    for position, seen in enumerate(layer.sources(n_bias)):
        for i, k in enumerate(seen):
            if k < each.shape[1]:
                shared[:, i] += each[:, k, position]
    close(w_grad, shared, 1e-10)
    t_expected[:, :, layer.n_in :] = 0.0
    close(t_grad, t_expected, 1e-10)


@pytest.mark.parametrize("seed", range(20, 36))
@pytest.mark.parametrize("limit", [math.inf, 0.5])
def test_kernels_and_gathered_patches_agree(seed: int, limit: float) -> None:
    layer, n_bias = drawn(seed, silent_padding=False)
    t_in, w = inputs(layer, n_bias, seed)
    grad = np.random.default_rng(seed).normal(size=(2, 3, layer.n_out))
    neuron = NEURONS[seed % 4]
    state, w_grad, t_grad = run("cpu", layer, t_in, w, neuron, grad, limit)
    other, w_other, t_other = run("reference", layer, t_in, w, neuron, grad, limit)
    known = np.isfinite(other.t_cross)
    assert np.array_equal(known, np.isfinite(state.t_cross))
    np.testing.assert_allclose(state.t_cross[known], other.t_cross[known], rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.slope, other.slope, rtol=1e-7, atol=1e-8)
    close(w_grad, w_other, 1e-8)
    close(t_grad, t_other, 1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_patches_of_one_neuron_with_constants_of_its_own_take_the_other_way(seed: int) -> None:
    layer, n_bias = drawn(seed)
    t_in, w = inputs(layer, n_bias, seed)
    grad = np.random.default_rng(seed).normal(size=(2, 3, layer.n_out))
    same = gs.LIF(1.0, 1.0, threshold=np.ones((2, layer.n_maps)))
    one, other = (run("cpu", layer, t_in, w, neuron, grad) for neuron in (gs.LIF(1.0, 1.0), same))
    np.testing.assert_allclose(one[0].t_out, other[0].t_out, rtol=0, atol=1e-12)
    close(one[1], other[1], 1e-10)
    close(one[2], other[2], 1e-10)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (31, 2, 1), (3, 33, 2), (5, 5, 129)])
@pytest.mark.parametrize("n_maps", [1, 31, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ugly_sizes(sizes: tuple[int, int, int], n_maps: int, dtype: str) -> None:
    layer = Convolution(sizes, n_maps, min(*sizes[:2], 3), padding=0)
    t_in, w = (a.astype(dtype) for a in inputs(layer, 1, 5, 1, 2))
    grad = np.ones((1, 2, layer.n_out), dtype)
    state, w_grad, t_grad = run("cpu", layer, t_in, w, NEURONS[0], grad)
    other, w_other, t_other = run("reference", layer, t_in, w, NEURONS[0], grad)
    assert state.t_out.shape == (1, 2, layer.n_out)
    assert (w_grad.dtype, t_grad.dtype) == (np.dtype(dtype),) * 2
    known = np.isfinite(other.t_out) & np.isfinite(state.t_out)
    assert (
        known.mean() >= np.isfinite(other.t_out).mean() - 0.01
    )  # in float32 one may just touch the threshold
    if dtype == "float32" and known.any():  # a few flat crossings are further off
        assert np.quantile(np.abs(state.t_out[known] - other.t_out[known]), 0.9) < 1e-5
    if dtype == "float64":
        np.testing.assert_allclose(state.t_out, other.t_out, rtol=0, atol=1e-10)
        close(w_grad, w_other, 1e-8)
        close(t_grad, t_other, 1e-8)


def test_no_samples() -> None:
    layer = Convolution((4, 4, 1), 3, 2, pool=2)
    state, w_grad, t_grad = run(
        "cpu", layer, np.empty((1, 0, 16)), np.ones((1, 4, 3)), NEURONS[0], np.empty((1, 0, 3))
    )
    assert state.t_out.shape == (1, 0, 3)
    assert not w_grad.any()
    assert t_grad.shape == (1, 0, 16)


def network(backend: str = "cpu", dtype: str = "float64", **options: Any) -> gs.Network:
    sizes = [
        (6, 6),
        {"conv": 3, "kernel": 3, "padding": 1, "pad_time": 2.0},
        {"pool": 2},
        {"conv": 4, "kernel": 2},
        3,
    ]
    return gs.Network(sizes, [[], [0.5], [0.9]], backend=backend, dtype=dtype, **options)


@pytest.mark.parametrize(
    ("trained", "delays"),
    [
        ((), "none"),
        (("threshold",), "none"),
        (("tau_mem", "tau_syn"), "none"),
        ((), "axonal+dendritic"),
        ((), "synaptic"),
    ],
)
def test_gradients_are_central_differences(trained: tuple[str, ...], delays: str) -> None:
    net = network(trained=trained, delays=delays, seed=3)
    r = np.random.default_rng(0)
    t_in = r.uniform(0.15, 2.0, (5, 36))
    pull = r.normal(size=(1, 5, 3))

    def loss(parameters: Parameters) -> float:
        machine = net._architecture.having(parameters)
        t_out = machine.forward(parameters.weights, machine.receive(t_in[None]))[-1].t_out
        return float(np.where(np.isfinite(t_out), t_out * pull, 0.0).sum())

    machine = net._architecture.having(net.parameters)
    states = machine.forward(net.parameters.weights, machine.receive(t_in[None]))
    grads = machine.backward(
        net.parameters, states, pull, active=np.ones(1, np.bool_), max_weight_grad=math.inf
    )
    step = 1e-6
    for name, array in net.parameters.arrays().items():
        grad = grads.arrays()[name]
        for at in r.choice(array.size, min(array.size, 12), replace=False):
            place = np.unravel_index(at, array.shape)
            kept, sides = array[place], []
            for sign in (1.0, -1.0):
                array[place] = kept + sign * step
                sides.append(loss(net.parameters))
            array[place] = kept
            expected = (sides[0] - sides[1]) / (2 * step)
            assert abs(grad[place] - expected) <= 1e-6 * max(1.0, float(np.abs(grad).max())), name


def test_a_batch_is_its_parts_and_replicas_are_runs_alone() -> None:
    net = network(replicas=2)
    t_in = np.random.default_rng(0).uniform(0.15, 2.0, (7, 36))
    together = net(t_in, layers=True)
    for k, layer in enumerate(together):
        parts = np.concatenate([net(t_in[:3], layers=True)[k], net(t_in[3:], layers=True)[k]], axis=1)
        assert np.array_equal(layer, parts)
        assert np.array_equal(layer[1], network(seed=1)(t_in, layers=True)[k])


@given(shift=st.floats(0.0, 5.0))
@settings(max_examples=20, deadline=None)
def test_shifted_in_time_it_answers_later(shift: float) -> None:
    net = gs.Network([(5, 5), {"conv": 3, "kernel": 3}, {"pool": 3}, 2], backend="cpu")
    t_in = np.random.default_rng(0).uniform(0.15, 2.0, (4, 25))
    np.testing.assert_allclose(net(t_in + shift), net(t_in) + shift, rtol=0, atol=1e-10)


@pytest.mark.parametrize("neuron", NEURONS)
def test_far_from_time_0_it_answers_as_near_it(neuron: gs.LIF) -> None:
    layer = Convolution((6, 7, 2), 5, 3, pool=2)
    t_in, w = inputs(layer, 1, 1)
    t_in = np.where(t_in == math.inf, math.inf, 0.25 * np.round(4.0 * t_in))
    grad = np.random.default_rng(0).normal(size=(2, 3, layer.n_out))
    near, *near_grads = run("cpu", layer, t_in, w, neuron, grad)
    far, *far_grads = run(
        "cpu", layer, t_in + 128.0, w, neuron, grad
    )  # growths from time 0 would lose digits
    np.testing.assert_allclose(far.t_out, near.t_out + 128.0, rtol=0, atol=1e-10)
    for one, other in zip(near_grads, far_grads, strict=True):
        close(other, one, 1e-8)


@pytest.mark.slow
def test_what_is_compiled_for_less_than_the_processor_has_answers_the_same(tmp_path: Path) -> None:
    script = (
        "import numpy as np, gpuspike as gs\n"
        "net = gs.Network([(6, 6), {'conv': 3, 'kernel': 3}, {'pool': 2}, 2], backend='cpu')\n"
        "print(net(np.random.default_rng(0).uniform(0.15, 2.0, (3, 36))).tolist())\n"
    )
    told = []
    for number, less in enumerate(({}, {"NUMBA_ENABLE_AVX": "0"})):
        own = {**os.environ, **less, "NUMBA_CACHE_DIR": str(tmp_path / str(number))}
        found = subprocess.run(
            [sys.executable, "-c", script], env=own, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr
        told.append(np.array(json.loads(found.stdout.replace("inf", "Infinity"))))
    np.testing.assert_allclose(told[1], told[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("picks", [patches.PICKS, False])
def test_spikes_of_each_patch_are_picked_in_their_order(
    seed: int, picks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, n_bias = drawn(seed, silent_padding=False)
    t_in, _ = inputs(layer, n_bias, seed, 1, 1)
    of, n_pre = patches.sizes(layer), layer.fan_in + n_bias
    expected = layer.patches(t_in)[0]
    names = ("layout", "image_spikes", "slab_spikes", "band_spikes", "strip_spikes", "patch_spikes", "_among")
    parts: dict[str, Any] = {name: getattr(patches, name) for name in names}
    if not picks:  # one by one, as processors do that cannot pick
        monkeypatch.setattr(patches, "PICKS", False)
        parts = {name: getattr(part, "py_func", part) for name, part in parts.items()}
        monkeypatch.setattr(patches, "_among", parts["_among"])
    times = np.empty(patches.n_padded(of) + n_bias)
    patches.pad(t_in[0, 0], layer.pad_time, of, times)
    image, slab, band, strip = patches.room_for_patches(of, n_bias)
    order = np.empty(n_pre + 8, np.int64)
    at, grown = np.empty(n_pre + 16), np.empty(n_pre + 16)
    in_order = np.argsort(times, kind="stable")
    n_image, known = parts["image_spikes"](times, in_order, parts["layout"](of, n_bias), 1.5, image)
    assert known
    n_slab = n_band = n_strip = 0
    for p, patch in enumerate(expected):
        y, x = divmod(p, layer.grid[1])
        if x == 0 and y % patches.rows_together(of) == 0:
            n_slab = parts["slab_spikes"](image, n_image, of, y, slab)
        if x == 0:
            n_band = parts["band_spikes"](slab, n_slab, of, y, band)
        if x % patches.columns_together(of) == 0:
            n_strip = parts["strip_spikes"](band, n_band, of, x, strip)
        n = parts["patch_spikes"](strip, n_strip, of, x, order, at, grown)
        assert n == np.isfinite(patch).sum()
        np.testing.assert_array_equal(order[:n], np.argsort(patch, kind="stable")[:n])
        np.testing.assert_array_equal(at[:n], np.sort(patch)[:n])
        np.testing.assert_allclose(grown[:n], np.exp(at[:n] / 1.5), rtol=1e-14)


def test_an_image_moved_by_the_stride_moves_the_answer() -> None:
    layer = Convolution((8, 8, 2), 5, 3, stride=2)
    t_in, w = inputs(layer, 0, 7, 1, 1)
    moved = np.full_like(t_in, math.inf).reshape(8, 8, 2)
    moved[2:, 2:] = t_in.reshape(8, 8, 2)[:-2, :-2]
    grad = np.zeros((1, 1, layer.n_out))
    here = run("cpu", layer, t_in, w, NEURONS[0], grad)[0].t_out.reshape(3, 3, 5)
    there = run("cpu", layer, moved.reshape(1, 1, -1), w, NEURONS[0], grad)[0].t_out.reshape(3, 3, 5)
    assert np.array_equal(here[:2, :2], there[1:, 1:])


def test_chunks_of_patches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, n_bias = drawn(3)
    t_in, w = inputs(layer, n_bias, 3)
    grad = np.ones((2, 3, layer.n_out))
    whole = run("reference", layer, t_in, w, NEURONS[0], grad)
    monkeypatch.setattr(convolved, "PATCH_BYTES", 1)
    parts = run("reference", layer, t_in, w, NEURONS[0], grad)
    assert np.array_equal(whole[0].t_out, parts[0].t_out)
    close(whole[1], parts[1], 1e-13)
    assert np.array_equal(whole[2], parts[2])


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Convolution((14, 14, 2), 9, 5, pool=2)
    t_in, w = inputs(layer, 1, 1, 1, 40)
    grad = np.ones((1, 40, layer.n_out))
    results = []
    for threads in ("1", "2"):
        monkeypatch.setenv("GPUSPIKE_THREADS", threads)
        state, w_grad, t_grad = run("cpu", layer, t_in, w, NEURONS[0], grad)
        results.append((state.t_out, w_grad, t_grad))
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)


# ---- what is asked for


def test_layers_read_like_a_network_and_come_back() -> None:
    entries = [
        {"conv": 16, "kernel": 5},
        {"pool": 2},
        {"conv": 32, "kernel": 3, "stride": 2, "padding": 1},
        {"dense": 10},
    ]
    plan = read_plan(entries)
    assert plan == [Maps(16, 5, pool=2), Maps(32, 3, stride=2, padding=1), 10]
    assert read_plan(told_plan(plan)) == plan


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"conv": 16}], "needs a kernel"),
        ([{"kernel": 3}], "must have one of conv, pool, dense"),
        ([{"conv": 3, "dense": 2}], "must have one of conv, pool, dense"),
        ([{"pool": 2}], "must stand behind a conv"),
        ([10, {"pool": 2}], "must stand behind a conv"),
        ([{"conv": 0, "kernel": 3}], "whole number from 1, got 0"),
        ([{"conv": 2, "kernel": 2.5}], "kernel in entry 0 of the layers must be a whole number"),
        ([{"conv": 2, "kernel": 2, "padding": -1}], "padding in entry 0 of the layers must be a whole"),
        ([{"conv": 2, "kernel": 2, "size": 1}], "may have kernel, stride, padding, pad_time, got size"),
        ([{"conv": 2, "kernel": 2, "strides": 1}], "got strides; did you mean stride?"),
        ([{"convs": 2, "kernel": 2}], "must have one of conv, pool, dense, .*; did you mean conv?"),
        ([{"dense": 2, "kernel": 2}], "may have nothing else, got kernel"),
        ([{"conv": 2, "kernel": 2, "pad_time": "late"}], "pad_time in entry 0 of the layers must be a time"),
        (["ten"], "must be a whole number from 1, got 'ten'"),
    ],
)  # fmt: skip
def test_other_layers_are_refused(entries: list[Any], words: str) -> None:
    with pytest.raises(ValueRangeError, match=words):
        read_plan(entries)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kernel": 9}, "a kernel of 9 does not fit into 6x6x1"),
        ({"padding": 3}, "padding must be below the kernel, 3"),
        ({"pool": 5}, "pool must be at most 4"),
        ({"stride": 0}, "stride of a convolution must be a whole number from 1, got 0"),
        ({"pad_time": math.nan}, "pad_time must be a time"),
        ({"shape": (6, 6)}, "an image of rows, columns and channels"),
    ],
)
def test_sizes_that_cannot_be_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueRangeError, match=words):
        Convolution(**({"shape": (6, 6, 1), "n_maps": 2, "kernel": 3} | values))


def test_a_convolution_needs_an_image() -> None:
    with pytest.raises(
        ValueRangeError, match="layer 0 is a convolution, which needs rows and columns, got inputs"
    ):
        gs.Network([36, {"conv": 2, "kernel": 3}, 3])
    with pytest.raises(ValueRangeError, match=r"layer 1 is a convolution, .*got the 10 neurons before it"):
        gs.Network([(6, 6), 10, {"conv": 2, "kernel": 3}, 3])
    with pytest.raises(ValueRangeError, match="an image must be"):
        gs.Network([(6,), 3])
    with pytest.raises(ValueRangeError, match="sizes must be those of the layers"):
        gs.Network([])


def test_a_network_is_saved_loaded_and_decides(tmp_path: Any) -> None:
    net = network(replicas=2, dtype="float32")
    t_in = np.random.default_rng(0).uniform(0.15, 2.0, (9, 36)).astype(np.float32)
    assert repr(net).startswith("Network(6x6-3@6x6/2-4@2x2-3, 2 replicas")
    net.save(tmp_path / "net.npz")
    again = gs.load(tmp_path / "net.npz")
    assert np.array_equal(again(t_in), net(t_in))
    classes, times = gs.decide(net, t_in)
    t_out = net(t_in)
    assert np.array_equal(times, t_out.min(axis=2))
    assert np.array_equal(classes, np.where(np.isfinite(times), t_out.argmin(axis=2), -1))
    traces = net.membranes(t_in[0], np.linspace(0.0, 3.0, 7))
    assert [trace.shape for trace in traces] == [(2, 7, 108), (2, 7, 16), (2, 7, 3)]


def test_membranes_cross_where_spikes_are() -> None:
    net = gs.Network([(5, 5), {"conv": 2, "kernel": 3}, 2], backend="cpu", seed=1)
    t_in = np.random.default_rng(0).uniform(0.15, 2.0, (1, 25))
    t_out = net(t_in, layers=True)[0][0]
    known = np.flatnonzero(np.isfinite(t_out))
    assert known.size
    for neuron in known[:4]:
        trace = net.membranes(t_in[0], np.array([t_out[neuron]]))[0]
        assert trace[0, neuron] == pytest.approx(1.0, abs=1e-9)


def test_it_learns() -> None:
    r = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = np.full((200, 8, 8), 2.0)
    for image, label, y, x in zip(images, labels, *r.integers(0, 5, (2, 200)), strict=True):
        image[y : y + 3, x + 1] = 0.2  # an upright bar, or one that lies
        if label:
            image[y : y + 3, x + 1] = 2.0
            image[y + 1, x : x + 3] = 0.2
    net = gs.Network([(8, 8), {"conv": 6, "kernel": 3}, {"pool": 6}, 2], backend="cpu", seed=0)
    history = gs.fit(net, images.reshape(200, -1), labels, epochs=15, batch_size=20, learning_rate=0.02)
    assert history.step == "piecewise"
    assert "neurons that share weights" in str(history.step_reason)
    assert net.accuracy(images.reshape(200, -1), labels) >= 0.95


def test_what_cannot_have_it_refuses_it_by_name(tmp_path: Any) -> None:
    net = network()
    with pytest.raises(BackendError):
        network(backend="cuda")
    pytest.importorskip("nir")
    with pytest.raises(ConfigError, match="NIR has no pooling by the earliest spike"):
        gs.export_nir(net, tmp_path / "net.nir", dialect="strict", time_unit="ms", model_unit=1.0)


def test_the_accountant_counts_a_synapse_for_each_use_of_a_weight() -> None:
    layer = Convolution((4, 4, 1), 2, 3)
    reached = layer.reached(np.full(9, 2))
    assert reached[:-1].reshape(4, 4).tolist() == [[2, 4, 4, 2], [4, 8, 8, 4], [4, 8, 8, 4], [2, 4, 4, 2]]
    architecture = Architecture.build([16, Maps(2, 3), 2], [(), ()], gs.LIF(), load("cpu"), (4, 4, 1))
    assert [own.n_neurons for own in architecture.layers] == [8, 2]
    assert reached[-1] == 0 == layer.border
    assert architecture.layers[0].fan_out.sum() == 4 * 9 * 2


# ---- on a command line


def configured(*overrides: str) -> Any:
    (job,) = jobs([*overrides, "backend=cpu"], multirun=False)
    return job.config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["model.layers=[{conv: 4, kernel: 5}, {dense: 10}]"],
            "model.layers has all layers, got model.hidden=",
        ),
        (
            ["model.hidden=[]", "model.layers=[{conv: 4}, {dense: 10}]"],
            "model.layers: entry 0 .* needs a kernel",
        ),
        (["model.hidden=[]", "model.layers=[{conv: 4, kernel: 5}]"], "must end with a dense layer"),
    ],
)
def test_layers_are_checked_with_the_configuration(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configured("experiment=mnist_best", *overrides, "training.max_silent=null")


def test_a_pool_counts_for_no_layer_in_lists() -> None:
    config = configured("experiment=mnist_conv")
    assert n_layers_of(config.model) == 4
    assert config.model.bias_times == [[], [], [], []]
    with pytest.raises(
        ConfigError, match=r"each of the 4 layers after the inputs, got 2 for training\.max_silent"
    ):
        configured("experiment=mnist_conv", "training.max_silent=[0.5,0.1]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.layers=[{conv: 4, kernel: 3}, {dense: 4}]"], "must end with a dense layer of 3 neurons"),
        (
            ["model.layers=[{conv: 4, kernel: 3}, {dense: 3}]"],
            "layer 0 is a convolution, which needs rows and",
        ),
    ],
)
def test_layers_are_checked_against_the_data(overrides: list[str], words: str) -> None:
    values = ["experiment=yin_yang", "model.hidden=[]", "training.max_silent=null", "model.bias_times=[[]]"]
    config = configured(*values, *overrides, "model.weight_mean=null", "model.weight_std=null")
    with pytest.raises((ConfigError, ValueRangeError), match=words):
        build(config)


def test_a_network_that_ends_with_maps_has_no_classes() -> None:
    net, t_in = gs.Network([(4, 4), {"conv": 2, "kernel": 2}, {"pool": 3}], backend="cpu"), np.zeros((3, 16))
    assert net(t_in).shape == (3, 2), "spikes, as of a layer"
    labels = np.zeros(3, int)
    for asks in (
        lambda: gs.decide(net, t_in),
        lambda: net.accuracy(t_in, labels),
        lambda: gs.price(net, t_in, labels),
        lambda: gs.fit(net, t_in, labels, epochs=1),
    ):
        with pytest.raises(
            ConfigError, match="must end with a dense layer of one neuron a class, got a conv"
        ):
            asks()


@pytest.mark.parametrize(
    ("sizes", "chips", "circuits"),
    [
        ([{"conv": 4, "kernel": 4, "stride": 4}, {"conv": 4, "kernel": 3}, 10], 1, [1, 1, 1]),
        ([{"conv": 8, "kernel": 5}, {"pool": 2}, 10], 10, [1, 9]),  # 2 x 1152 rows of 256
        (
            [{"conv": 16, "kernel": 5}, {"pool": 2}, {"conv": 32, "kernel": 5}, {"pool": 2}, 128, 10],
            36, [1, 4, 4, 1],
        ),
    ],
)  # fmt: skip
def test_a_neuron_of_a_convolution_has_the_inputs_of_a_patch_on_a_chip(
    sizes: list[Any], chips: int, circuits: list[int]
) -> None:
    r = np.random.default_rng(0)
    cost = gs.price(gs.Network([(28, 28), *sizes]), r.random((2, 784)), np.arange(2))
    assert (cost.summary["chips_needed"], cost.summary["circuits_per_neuron"]) == (chips, circuits)
    assert cost.energy_per_classification_J == pytest.approx(chips * 8.4e-6)


def test_a_padding_that_spikes_is_priced_as_a_border_of_inputs() -> None:
    padded = gs.Network([(6, 6), {"conv": 4, "kernel": 3, "padding": 1, "pad_time": 2.0}, 3], seed=0)
    bordered = gs.Network([(8, 8), {"conv": 4, "kernel": 3}, 3], seed=0)
    t_in = np.random.default_rng(0).uniform(0.1, 1.9, (5, 6, 6))
    around = np.pad(t_in, ((0, 0), (1, 1), (1, 1)), constant_values=2.0)
    labels = np.arange(5) % 3
    costs = [
        gs.price(net, times.reshape(5, -1), labels, "truenorth")
        for net, times in ((padded, t_in), (bordered, around))
    ]
    assert np.array_equal(padded(t_in.reshape(5, -1)), bordered(around.reshape(5, -1)))
    assert costs[0].energy_per_classification_J == pytest.approx(
        costs[1].energy_per_classification_J, rel=1e-12
    )
    assert padded.architecture.layers[0].convolution.border == 8 * 8 - 6 * 6  # type: ignore[union-attr]
