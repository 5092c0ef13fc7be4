"""Optimisers against scalar recursions, replica by replica, and the learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import load
from gpuspike.training.optimizers import SGD, Adam, Descent
from gpuspike.training.schedule import Schedule

Array = NDArray[Any]

SHAPES = [(3, 4, 2), (3, 2, 5)]
"""Two layers of three replicas."""


def make_weights(dtype: Any = np.float64) -> list[Array]:
    """Weights of both layers."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def make_grads(step: int, dtype: Any = np.float64) -> list[Array]:
    """Gradients of one step, over many orders of magnitude and with zeros, as silent neurons leave them."""
    rng = np.random.default_rng([2, step])
    grads = []
    for shape in SHAPES:
        grad = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, shape)
        grad[:, 0, 0] = 0.0
        grads.append(grad.astype(dtype))
    return grads


def make(kind: str, weights: list[Array]) -> Descent:
    """An optimiser with state."""
    return Descent(Adam() if kind == "adam" else SGD(0.9), weights, load("cpu"))


def copies(arrays: dict[str, Array]) -> dict[str, Array]:
    """The state as it is now."""
    return {name: array.copy() for name, array in arrays.items()}


each_kind = pytest.mark.parametrize("kind", ["adam", "sgd"])
EVERYBODY = np.ones(3, np.bool_)


def adam_by_hand(start: float, grads: list[float], rates: list[float]) -> float:
    """Algorithm 1 of Kingma and Ba, one number at a time."""
    beta1, beta2, epsilon = 0.8, 0.99, 1e-7
    theta, m, v = start, 0.0, 0.0
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        m = beta1 * m + (1.0 - beta1) * g
        v = beta2 * v + (1.0 - beta2) * g * g
        m_hat = m / (1.0 - beta1**t)
        v_hat = v / (1.0 - beta2**t)
        theta -= rate * m_hat / (math.sqrt(v_hat) + epsilon)
    return theta


def sgd_by_hand(start: float, grads: list[float], rates: list[float]) -> float:
    """v = momentum v + g, w -= rate v, one number at a time."""
    momentum = 0.7
    theta, v = start, 0.0
    for g, rate in zip(grads, rates, strict=True):
        v = momentum * v + g
        theta -= rate * v
    return theta


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_many_steps_equal_the_scalar_recursion(kind: str, backend: str) -> None:
    n_steps = 200
    weights = make_weights()
    start = [w.copy() for w in weights]
    by_hand = adam_by_hand if kind == "adam" else sgd_by_hand
    formula = Adam(0.8, 0.99, 1e-7) if kind == "adam" else SGD(momentum=0.7)
    optimizer = Descent(formula, weights, load(backend))
    rates = [0.01 * 0.99**step for step in range(n_steps)]
    history = [make_grads(step) for step in range(n_steps)]
    for grads, rate in zip(history, rates, strict=True):
        optimizer.step(weights, grads, rate, EVERYBODY)
    for layer, shape in enumerate(SHAPES):
        for place in np.ndindex(*shape):
            series = [float(grads[layer][place]) for grads in history]
            expected = by_hand(float(start[layer][place]), series, rates)
            assert weights[layer][place] == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_the_first_adam_step_is_the_learning_rate_in_the_gradient_s_direction() -> None:
    weights = make_weights()
    before = [w.copy() for w in weights]
    grads = make_grads(0)
    Descent(Adam(), weights, load("cpu")).step(weights, grads, 0.25, EVERYBODY)
    for w, w_before, grad in zip(weights, before, grads, strict=True):
        large = np.abs(grad) > 1e-4
        np.testing.assert_allclose((w_before - w)[large], 0.25 * np.sign(grad[large]), rtol=1e-3)


@each_kind
def test_a_weight_without_gradient_stays(kind: str) -> None:
    weights = make_weights()
    before = [w.copy() for w in weights]
    optimizer = make(kind, weights)
    for _ in range(5):
        optimizer.step(weights, [np.zeros_like(w) for w in weights], 0.1, EVERYBODY)
    for w, w_before in zip(weights, before, strict=True):
        np.testing.assert_array_equal(w, w_before)


@each_kind
def test_an_inactive_replica_and_its_state_stay_as_they_are_bit_for_bit(kind: str) -> None:
    weights = make_weights()
    optimizer = make(kind, weights)
    for step in range(3):
        optimizer.step(weights, make_grads(step), 0.1, EVERYBODY)
    before, state_before = [w.copy() for w in weights], copies(optimizer.state())
    active = np.array([True, False, True])
    for step in range(3, 6):
        optimizer.step(weights, make_grads(step), 0.1, active)
    for w, w_before in zip(weights, before, strict=True):
        np.testing.assert_array_equal(w[1], w_before[1])
        assert (w[0] != w_before[0]).any()
        assert (w[2] != w_before[2]).any()
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(array[1], state_before[name][1], err_msg=name)
        assert (array[0] != state_before[name][0]).any(), name


def test_adam_counts_the_steps_of_each_replica() -> None:
    weights = make_weights()
    optimizer = Descent(Adam(), weights, load("cpu"))
    for active in ([True, True, False], [False, True, False], [True, True, False]):
        optimizer.step(weights, make_grads(0), 0.1, np.array(active))
    assert optimizer.state()["steps"].tolist() == [2, 3, 0]


@each_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_replica_steps_as_if_alone_bit_for_bit(kind: str, dtype: Any) -> None:
    weights = make_weights(dtype)
    alone = [w[1:2].copy() for w in weights]
    optimizer, optimizer_alone = make(kind, weights), make(kind, alone)
    for step in range(10):
        # The others' pauses must not show either.
        active = np.array([step % 2 == 0, step % 3 != 0, step % 5 != 0])
        grads = make_grads(step, dtype)
        optimizer.step(weights, grads, 0.01, active)
        optimizer_alone.step(alone, [g[1:2] for g in grads], 0.01, active[1:2])
    for w, w_alone in zip(weights, alone, strict=True):
        np.testing.assert_array_equal(w[1], w_alone[0])
    state_alone = optimizer_alone.state()
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(array[1], state_alone[name][0], err_msg=name)


@each_kind
def test_the_dtype_of_weights_and_state_is_kept(kind: str) -> None:
    weights = make_weights(np.float32)
    optimizer = make(kind, weights)
    optimizer.step(weights, make_grads(0, np.float32), 0.1, EVERYBODY)
    assert {w.dtype for w in weights} == {np.dtype(np.float32)}
    kinds = {array.dtype for name, array in optimizer.state().items() if name != "steps"}
    assert kinds == {np.dtype(np.float32)}


@each_kind
def test_the_gradients_are_not_changed(kind: str) -> None:
    weights, grads = make_weights(), make_grads(0)
    optimizer = make(kind, weights)
    for _ in range(3):
        optimizer.step(weights, grads, 0.1, EVERYBODY)
    for grad, expected in zip(grads, make_grads(0), strict=True):
        np.testing.assert_array_equal(grad, expected)


@each_kind
def test_the_state_has_the_replica_axis_first_and_is_not_a_copy(kind: str) -> None:
    weights = make_weights()
    optimizer = make(kind, weights)
    state = optimizer.state()
    assert all(len(array) == 3 for array in state.values())
    optimizer.step(weights, make_grads(0), 0.1, EVERYBODY)
    assert all((array != 0).any() for array in state.values())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"beta1": 1.0}, "beta1"),
        ({"beta1": -0.1}, "beta1"),
        ({"beta2": 1.0}, "beta2"),
        ({"beta2": math.nan}, "beta2"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1e-8}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
    ],
)
def test_adam_refuses_what_it_cannot_use_by_name(change: dict[str, float], name: str) -> None:
    with pytest.raises(ValueRangeError, match=f"^{name} must .*got") as caught:
        Adam(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("momentum", [1.0, -0.1, math.nan, math.inf])
def test_sgd_refuses_an_impossible_momentum(momentum: float) -> None:
    with pytest.raises(ValueRangeError, match=r"momentum must lie in \[0, 1\), got"):
        SGD(momentum)


@pytest.mark.parametrize("epoch", [0, 1, 19, 20, 299])
def test_a_constant_schedule_never_changes(epoch: int) -> None:
    assert Schedule(0.3).at(epoch) == 0.3


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1.0), (19, 1.0), (20, 0.95), (39, 0.95), (40, 0.95**2), (299, 0.95**14)]
)
def test_a_step_schedule_shrinks_every_step_size_epochs(epoch: int, factor: float) -> None:
    assert Schedule(0.005, "step", step_size=20, gamma=0.95).at(epoch) == pytest.approx(
        0.005 * factor, rel=1e-14
    )


def test_a_cosine_schedule_falls_from_the_learning_rate_towards_zero() -> None:
    schedule = Schedule(0.4, "cosine", n_epochs=8)
    rates = [schedule.at(epoch) for epoch in range(8)]
    assert rates[0] == 0.4
    assert rates[4] == pytest.approx(0.2, rel=1e-14)
    assert rates == sorted(rates, reverse=True)
    assert 0.0 < rates[-1] < 0.02
    assert schedule.at(8) == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"kind": "linear"}, "constant, step or cosine"),
        ({"step_size": 0}, "step_size"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.1}, "gamma"),
        ({"gamma": math.nan}, "gamma"),
        ({"kind": "cosine", "n_epochs": 0}, "n_epochs"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_a_schedule_refuses_what_it_cannot_use_by_name(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueRangeError, match=f"{word}.*got") as caught:
        Schedule(**{"learning_rate": 0.1, **change})
    assert "\n" not in str(caught.value)
