"""What leaves a dtype: refused at the door, by name; and gradients that overflow without being NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.errors import DataError, ValueRangeError
from gpuspike.kernels import reference
from gpuspike.kernels.limits import largest_sum, pulled
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.store import checkpoint


def oracle(t_in: Any, weights: Any, neuron: gs.LIF) -> Any:
    return reference.first_spikes(t_in[None], weights[None], neuron)[0]


def arrays(times: list[float], weights: list[float], dtype: Any) -> tuple[Any, Any]:
    return np.array([times], dtype), np.array(weights, dtype)[:, None]


OUTSIDE = [
    ([1.0], [2.0], {"threshold": 1e-308}, r"threshold - leak must lie between 1e-75 and 1e\+75 in float64"),
    ([1.0], [1e300], {"threshold": 1e-9}, r"weights must lie within 1e\+141 from 0: sums of 1 "),
    ([1.0, 1.0], [1e308, 1e308], {}, r"weights must lie within 5e\+149 .* got one of size 1e\+308"),
    ([1.0], [2.0], {"capacitance": 1e-300}, "capacitance must lie between 1e-75"),
    ([1.0], [2.0], {"tau_syn": 1e-300}, "the shorter of tau_mem and tau_syn must lie between"),
    ([1.0], [2.0], {"tau_mem": 1e200, "tau_syn": 1e200}, "the shorter of tau_mem and tau_syn must lie"),
    ([1.0], [2.0], {"threshold": 1e60, "capacitance": 1e60}, r"capacitance \(threshold - leak\) must lie"),
]


@pytest.mark.parametrize("function", [gs.first_spikes, oracle])
@pytest.mark.parametrize(("times", "weights", "values", "message"), OUTSIDE)
def test_what_leaves_float64_is_refused(
    function: Callable[..., Any], times: list[float], weights: list[float], values: Any, message: str
) -> None:
    with pytest.raises(ValueRangeError, match=message):
        function(*arrays(times, weights, np.float64), gs.LIF(**({"tau_mem": 3.0} | values)))


@pytest.mark.parametrize(
    ("times", "weights", "values", "message"),
    [
        (
            [1.0],
            [1e-39],
            {"threshold": 1e-40},
            r"threshold - leak must lie between 1e-18 and 1e\+18 in float32",
        ),
        ([1.0], [1e25], {}, r"weights must lie within 1e\+18"),
        ([1e35], [2.0], {}, r"t_in must lie within 1e\+30 from 0 in float32, or be inf"),
        ([-1e35], [2.0], {}, r"t_in must lie within .*, got -1e\+35"),
        ([1.0], [2.0], {"threshold": np.array([1e-30])}, "threshold - leak must lie"),
    ],
)
def test_what_leaves_float32_is_refused(
    times: list[float], weights: list[float], values: Any, message: str
) -> None:
    with pytest.raises(ValueRangeError, match=message):
        gs.first_spikes(*arrays(times, weights, np.float32), gs.LIF(**({"tau_mem": 3.0} | values)))


RATIOS = [1.0, 2.0, 3.0, 0.5, 1.0 + 1e-9, 1e6, math.inf]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("tau_mem", RATIOS)
def test_what_is_just_inside_is_computed(dtype: Any, own: bool, tau_mem: float) -> None:
    """At the corners of what is let in, answers are those of the same problem in ordinary units."""
    edge = 1e-17 if dtype == np.float32 else 1e-74
    times = np.array([[1.0, 1.5, 1.5, 2.5]])
    plain = np.array([[0.4, 2.0], [0.7, 1.0], [-0.2, -0.1], [0.9, -0.5]])
    expected = reference.first_spikes(times[None], plain[None], gs.LIF(tau_mem, 1.0))[0]
    root = math.sqrt(edge)
    for tau, span, c in (
        (1.0, edge, 1.0), (1.0, 1.0 / edge, 1.0), (1.0, 1.0, edge), (1.0, 1.0, 1.0 / edge), (edge, 1.0, 1.0),
        (1.0 / edge, 1.0, 1.0), (root, root, 1.0 / root), (1.0 / root, 1.0 / root, root),
    ):  # fmt: skip
        values = [tau_mem * tau, tau, span, 0.0, c]
        neuron = gs.LIF(*([np.full(2, value) for value in values] if own else values))
        t_in = (times * tau).astype(dtype)
        weights = (plain * (c * span / tau)).astype(dtype)
        found = gs.first_spikes(t_in, weights, neuron)
        np.testing.assert_allclose(found / tau, expected, rtol=2e-6 if dtype == np.float32 else 1e-12)
        grads = gs.first_spikes_vjp(t_in, weights, neuron, found, np.ones_like(found))
        assert not any(np.isnan(grad).any() for grad in grads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tau_mem", RATIOS)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_a_gradient_that_overflows_is_inf_with_its_sign(dtype: Any, tau_mem: float, own: bool) -> None:
    c = 1e-10 if dtype == np.float32 else 1e-60
    neuron = gs.LIF(tau_mem, 1.0, capacitance=np.full(2, c) if own else c)
    t_in = np.array([[1.0, 1.25, 9.0], [0.0, 0.5, 0.75]], dtype)
    weights = np.array([[3, 3], [1, 2], [5, 1]], dtype) * dtype(c)
    t_out = gs.first_spikes(t_in, weights, neuron)
    largest = dtype(np.finfo(dtype).max * 0.5)
    plain = gs.first_spikes_vjp(t_in, weights, neuron, t_out, np.array([[1, -1], [0.25, 0]], dtype))
    for size in (largest, dtype(math.sqrt(float(largest)))):
        wanted = np.array([[1, -1], [0.25, 0]], dtype) * size
        of_times, of_weights = gs.first_spikes_vjp(t_in, weights, neuron, t_out, wanted)
        for found, one in zip((of_times, of_weights), plain, strict=True):
            with np.errstate(over="ignore"):
                np.testing.assert_allclose(found, one * size, rtol=1e-5)
        if size == largest:
            assert np.isinf(of_weights[0]).all()
            np.testing.assert_array_equal(np.sign(of_weights[0]), [-1.0, 1.0])
        args = t_in[None], weights[None], neuron, t_out[None], wanted[None]
        for one, found in zip(reference.first_spikes_vjp(*args), (of_times, of_weights), strict=True):
            with np.errstate(over="ignore"):
                np.testing.assert_allclose(one[0].astype(dtype), found, rtol=1e-5)


def test_what_overflows_on_its_way_alone_is_found_by_a_smaller_gradient() -> None:
    def pull(grad: Any, limit: float) -> tuple[Any, None]:
        with np.errstate(all="ignore"):
            huge = grad * grad.dtype.type(1e30)
            return huge - huge * grad.dtype.type(0.5), None

    found, nothing = pulled(pull, np.array([1.0, 2e8, -1e9], np.float32), math.inf)
    assert nothing is None
    np.testing.assert_allclose(found, [5e29, 1e38, -math.inf], rtol=1e-6)


def test_many_neurons_leave_as_much_as_the_least_of_them() -> None:
    spans = np.array([1.0, 1e-6])
    assert largest_sum(gs.LIF(threshold=spans), np.float64) == pytest.approx(1e144)
    assert largest_sum(gs.LIF(), np.float32) == 1e18


def test_networks_are_refused_where_they_are_made_and_read(tmp_path: Path) -> None:
    with pytest.raises(ValueRangeError, match="threshold - leak must lie between 1e-18"):
        gs.Network([2, 2], neuron=gs.LIF(threshold=1e-30), dtype="float32")
    with pytest.raises(ValueRangeError, match=r"weights_0 must lie within 5e\+149"):
        gs.Network([2, 2], weight_mean=1e200)
    net = gs.Network([2, 2], trained=["threshold"])
    for name, wrong, message in (
        ("weights_0", np.nan, "weights_0 must not hold NaN, got 1 of them"),
        ("weights_0", np.inf, "weights_0 must be finite, got 1 inf"),
        ("weights_0", 1e300, "weights_0 must lie within"),
        ("threshold_0", np.nan, "threshold_0 must be finite, got 1 NaN or inf"),
    ):
        net.save(tmp_path / "net.npz")
        found, header = checkpoint.load(tmp_path / "net.npz")
        found[name].flat[0] = wrong
        checkpoint.save(tmp_path / "net.npz", found, header, keep_previous=False)
        with pytest.raises(DataError, match=message):
            gs.load(tmp_path / "net.npz")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.threshold=1e-80", "threshold - leak must lie between 1e-75"),
        ("model.weight_mean=[1e300,1.0]", "weights_0 must lie within"),
    ],
)
def test_runs_are_refused_before_they_begin(override: str, message: str) -> None:
    (job,) = jobs(["backend=cpu", "dataset.n_train=300", override], multirun=False)
    with pytest.raises(ValueRangeError, match=message):
        new_trainer(build(job.config))


@pytest.mark.parametrize("name", ["weights_0", "optimizer_mean_0"])
def test_a_run_does_not_go_on_from_what_is_not_finite(name: str) -> None:
    (job,) = jobs(["backend=cpu", "dataset.n_train=300"], multirun=False)
    trainer = new_trainer(build(job.config))
    state = {key: array.copy() for key, array in trainer.state().items()}
    state[name].flat[0] = np.inf
    with pytest.raises(DataError, match=f"the checkpoint must hold finite {name}, got 1 NaN or inf"):
        trainer.restore(state, 1)


def test_training_that_diverges_ends_after_the_epoch_that_led_there() -> None:
    t_in = np.random.default_rng(0).uniform(0.0, 1.0, (60, 4))
    net = gs.Network([4, 10, 3], seed=0)
    with pytest.raises(
        ValueRangeError, match=r"diverges in epoch 1, with the learning rate 1e\+300: weights_0"
    ):
        gs.fit(net, t_in, np.arange(60) % 3, epochs=5, learning_rate=1e300)


@pytest.mark.parametrize(("dtype", "late"), [("float64", 1e308), ("float32", 1e39), ("float32", 1e31)])
def test_a_network_takes_no_time_that_its_dtype_has_no_room_for(dtype: str, late: float) -> None:
    """1e39 would become inf in float32: no spike."""
    t_in = np.full((6, 4), 0.5)
    t_in[3, 2] = late
    net = gs.Network([4, 10, 3], seed=0, dtype=dtype)
    labels = np.arange(6) % 3
    asked: list[Callable[[], object]] = [
        lambda: net(t_in),
        lambda: gs.decide(net, t_in),
        lambda: gs.fit(net, t_in, labels, epochs=1),
        lambda: gs.price(net, t_in, labels, prices="brainscales2"),
    ]
    for ask in asked:
        with pytest.raises(ValueRangeError, match=f"must lie within 1e.* from 0 in {dtype}, or be inf"):
            ask()
    t_in[3, 2] = np.inf
    assert np.isfinite(net(t_in)).any()
