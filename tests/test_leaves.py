"""What holds for every loss and every optimiser that is registered, with its usual values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.config.schema import optimizer_config, training_config
from gpuspike.errors import ConfigError
from gpuspike.kernels import load
from gpuspike.training.losses import LOSSES, Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import OPTIMIZERS, SGD, Descent, Optimizer

Array = NDArray[Any]

each_loss = pytest.mark.parametrize("name", list(LOSSES))
each_optimizer = pytest.mark.parametrize("name", list(OPTIMIZERS))
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def answers(n_replica: int, n_batch: int, n_classes: int, silent: float = 0.2) -> tuple[Array, Array]:
    """Spike times, some of which do not come, and labels."""
    rng = np.random.default_rng([n_replica, n_batch, n_classes])
    t_out = rng.uniform(0.2, 2.5, (n_replica, n_batch, n_classes))
    t_out[rng.random(t_out.shape) < silent] = math.inf
    return t_out, rng.integers(n_classes, size=(n_replica, n_batch))


@each_loss
@pytest.mark.parametrize("tau_syn", [1.0, 0.3])
def test_the_gradient_is_that_of_each_replica_s_mean_loss(name: str, tau_syn: float) -> None:
    loss = LOSSES[name](tau_syn=tau_syn)
    t_out, labels = answers(2, 5, 4, silent=0.0)
    _, grad = loss(t_out * tau_syn, labels)
    step = 1e-6
    for place in np.ndindex(*t_out.shape):
        moved = [t_out * tau_syn, t_out * tau_syn]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (loss(times, labels)[0][place[0]].mean() for times in moved)
        assert grad[place] == pytest.approx((up - down) / (2.0 * step), rel=2e-6, abs=1e-8)


@each_loss
def test_a_unit_of_time_changes_no_loss(name: str) -> None:
    t_out, labels = answers(2, 33, 4)
    values, grad = LOSSES[name]()(t_out, labels)
    in_other_units, grad_there = LOSSES[name](tau_syn=1e-3)(t_out * 1e-3, labels)
    np.testing.assert_allclose(in_other_units, values, rtol=1e-12)
    np.testing.assert_allclose(grad_there * 1e-3, grad, rtol=1e-11, atol=1e-14)


@each_loss
def test_silence_has_a_finite_loss_and_no_gradient(name: str) -> None:
    t_out = np.full((1, 3, 4), math.inf)
    values, grad = LOSSES[name]()(t_out, np.array([[0, 1, 3]]))
    assert np.isfinite(values).all()
    assert (values > 0.0).all()
    assert not grad.any()


@each_loss
@each_dtype
@pytest.mark.parametrize("shape", [(1, 0, 3), (1, 1, 2), (3, 31, 10), (2, 33, 3), (1, 1025, 10)])
def test_a_loss_is_the_oracle_s_on_every_backend(name: str, dtype: Any, shape: tuple[int, int, int]) -> None:
    t_out, labels = answers(*shape)
    t_out = t_out.astype(dtype)
    loss = LOSSES[name]()
    expected, expected_grad = loss.reference(t_out, labels)
    rtol = 1e-12 if dtype == np.float64 else 2e-5
    for backend in ("cpu", "reference"):
        for there in (labels, labels[:1]):
            if there is not labels:
                expected, expected_grad = loss.reference(t_out, there)
            values, grad = replace(loss, kernels=load(backend))(t_out, there)
            np.testing.assert_allclose(values, expected, rtol=rtol)
            np.testing.assert_allclose(grad, expected_grad, rtol=rtol, atol=rtol)
            assert grad.dtype == dtype
        expected, expected_grad = loss.reference(t_out, labels)


def problem(dtype: Any) -> tuple[list[Array], list[list[Array]]]:
    """Weights of two layers of three replicas, and ten steps' gradients."""
    rng = np.random.default_rng(3)
    shapes = (3, 33, 31), (3, 31, 1)
    weights = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    return weights, [[rng.normal(size=shape).astype(dtype) for shape in shapes] for _ in range(10)]


@each_optimizer
@each_dtype
def test_an_optimiser_is_the_oracle_s_on_every_backend(name: str, dtype: Any) -> None:
    weights, grads = problem(dtype)
    made = OPTIMIZERS[name]()
    rtol = 1e-12 if dtype == np.float64 else 2e-5
    found = []
    for kernels in (None, load("cpu"), load("reference")):
        copies = [w.copy() for w in weights]
        descent = Descent(made, copies, kernels)
        for number, grad in enumerate(grads):
            descent.step(copies, grad, 0.01, np.array([True, number % 2 == 0, number > 20]))
        found.append([*copies, *descent.state().values()])
    for expected, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(other, expected, rtol=rtol, atol=rtol)
    for w, before in zip(found[0], weights, strict=False):
        assert (w[0] != before[0]).any()
        np.testing.assert_array_equal(w[2], before[2])


@each_optimizer
def test_an_optimiser_finds_the_bottom_of_a_bowl(name: str) -> None:
    w = np.full((1, 4, 2), 3.0)
    descent = Descent(OPTIMIZERS[name](), [w])
    for _ in range(2000):
        descent.step([w], [w - 1.0], 0.01, np.array([True]))
    np.testing.assert_allclose(w, 1.0, atol=0.05)


@each_optimizer
def test_an_optimiser_says_how_much_it_keeps(name: str) -> None:
    part = OPTIMIZERS[name]
    assert len(part.STATE) <= 3
    assert part.RATE_UNITS in (1, 2)
    for count in (1, 1000):
        assert len(part().rates(0.1, count)) == len(part.RATES)


def test_what_cannot_be_one_is_refused_when_it_is_added() -> None:
    class Bare(Loss):
        def reference(self, t_out: Array, labels: Array) -> Any:
            return t_out, labels

    with pytest.raises(ConfigError, match=r"the loss bare must be a @dataclass\(frozen=True\)"):
        LOSSES.add("bare", Bare)
    with pytest.raises(ConfigError, match="the loss none must define reference"):
        LOSSES.add("none", type("Empty", (Loss,), {}))
    with pytest.raises(ConfigError, match=r"the optimizer bare must be a subclass of .*Optimizer, got"):
        OPTIMIZERS.add("bare", Bare)  # type: ignore[arg-type]
    assert Optimizer not in [OPTIMIZERS[name] for name in OPTIMIZERS]


@pytest.mark.parametrize("leaf", [TTFSCrossEntropy, SGD])
def test_a_formula_of_its_own_inherits_no_faster_form_of_another(leaf: Any) -> None:
    assert leaf.row() is not None
    assert leaf.device is not None
    same, other = type("Same", (leaf,), {}), type("Other", (leaf,), {"reference": leaf.reference})
    assert (same.compiled, same.device) == (leaf.compiled, leaf.device)
    assert other.row() is None
    assert other.device is None
    faster = type("Faster", (leaf,), {"reference": leaf.reference, "device": "..."})
    assert faster.device == "..."
    assert faster.row() is None


def test_rates_and_state_that_cannot_be_are_refused() -> None:
    @dataclass(frozen=True)
    class TwoRates(SGD):
        def rates(self, learning_rate: float, count: int) -> tuple[float, ...]:
            return learning_rate, 1.0

    with pytest.raises(ConfigError, match=r"the rates of TwoRates must be its RATES, 1 numbers, got \[2\]"):
        Descent(TwoRates(), [np.ones((1, 2, 2))]).rates(0.1)
    with pytest.raises(ConfigError, match="the STATE of Much must be at most 3 different names"):
        type("Much", (SGD,), {"STATE": ("a", "b", "c", "d")})
    with pytest.raises(ConfigError, match="the STATE of Twice must be at most 3 different names"):
        type("Twice", (SGD,), {"STATE": ("a", "a")})


def test_a_leaf_may_say_none_for_its_row() -> None:
    @dataclass(frozen=True)
    class Bare(SGD):
        compiled = None  # type: ignore[assignment]

    assert Bare().row() is None


def test_a_row_needs_numbers_of_its_own() -> None:
    @dataclass(frozen=True)
    class Still(SGD):
        @staticmethod
        def compiled() -> Any:
            return SGD.compiled()

    weights = [np.ones((1, 2, 2))]
    with pytest.raises(ConfigError, match="the compiled row of Still needs numbers of a class of its own"):
        Descent(Still(), weights, load("cpu")).step(weights, weights, 0.1, np.array([True]))

    @dataclass(frozen=True)
    class Plain(TimeMSE):
        def numbers(self) -> Any:
            return (1.0, 2.0)

    with pytest.raises(ConfigError, match="the numbers of Plain must be a NamedTuple of floats, got"):
        Plain(kernels=load("cpu"))(np.ones((1, 2, 3)), np.zeros((1, 2), np.int64))


@pytest.mark.parametrize(
    ("kind", "value"), [("loss", "epochs"), ("loss", "loss"), ("optimizer", "learning_rate")]
)
def test_a_value_that_the_group_has_already_is_refused(kind: str, value: str) -> None:
    base: Any = TimeMSE if kind == "loss" else SGD
    part = dataclass(frozen=True)(type("Mine", (base,), {"__annotations__": {value: "int"}, value: 7}))
    parts: Any = LOSSES if kind == "loss" else OPTIMIZERS
    parts.add("mine", part)
    try:
        with pytest.raises(ConfigError, match=f"the value {value} of the {kind} mine must have another name"):
            training_config() if kind == "loss" else optimizer_config()
    finally:
        parts.remove("mine")
