"""Losses and optimisers by their device texts, registered ones and a user's own, against their oracles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import device_on_cpu
import numpy as np
import pytest
from device_on_cpu import closed, fake
from numpy.typing import NDArray
from small_training import Setup, assert_close_runs
from test_device_step import each_dtype, spikes
from test_docs import files

from gpuspike import plugins
from gpuspike.errors import BackendError, ConfigError, DtypeError, ShapeError
from gpuspike.kernels import load
from gpuspike.kernels.cuda import update as cuda_update
from gpuspike.training.fit import step_kind
from gpuspike.training.losses import LOSSES, Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import OPTIMIZERS, SGD, Adam, Descent, Optimizer
from gpuspike.training.step import TrainingRule

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("cupy")


class LatenessNumbers(NamedTuple):
    """The unit of time and the penalty."""

    tau_syn: float
    penalty: float


@dataclass(frozen=True)
class Lateness(Loss):
    """A user's loss: how late the label's neuron spikes, squared."""

    penalty: float = 3.0

    def numbers(self) -> LatenessNumbers:
        """See `Leaf.numbers`."""
        return LatenessNumbers(self.tau_syn, self.penalty)

    def reference(self, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """See `Loss.reference`."""
        is_label = np.arange(t_out.shape[2]) == labels[..., None]
        t = np.where(is_label & np.isfinite(t_out), t_out, 0.0) / self.tau_syn
        silent = (is_label & np.isinf(t_out)).any(axis=2)
        grad = t / (self.tau_syn * t_out.shape[1])
        return np.where(silent, self.penalty, 0.5 * (t**2).sum(axis=2)), grad.astype(t_out.dtype)

    device = """
        const double t = double(t_out[label]) / tau_syn;
        const bool silent = !(t < infinity<double>());
        for (int n = 0; n < n_class; ++n) grad[n] = T(n == label && !silent ? t / (tau_syn * n_batch) : 0.0);
        return silent ? penalty : 0.5 * t * t;
    """


class ScaledNumbers(NamedTuple):
    """The share of its own that the mean square keeps."""

    keep: float


@dataclass(frozen=True)
class Scaled(Optimizer):
    """A user's optimiser: gradients over their root mean square, with a slow start."""

    STATE = ("square",)
    COUNTS = True
    RATE_UNITS = 1

    keep: float = 0.9
    n_slow: int = 4

    def numbers(self) -> ScaledNumbers:
        """See `Leaf.numbers`."""
        return ScaledNumbers(self.keep)

    def rates(self, learning_rate: float, count: int) -> tuple[float, ...]:
        """See `Optimizer.rates`."""
        return (learning_rate * min(1.0, count / self.n_slow),)

    def reference(self, rates: Sequence[float], weights: Array, grad: Array, *state: Array) -> None:
        """See `Optimizer.reference`."""
        (square,) = state
        square *= self.keep
        square += (1.0 - self.keep) * grad * grad
        weights -= rates[0] * grad / (np.sqrt(square) + 1e-3)

    device = """
        square = keep * square + (T(1) - keep) * grad * grad;
        weight -= rate * grad / (sqrt(square) + T(1e-3));
    """
    device_rates = "rate = learning_rate * smaller(1.0, count / n_slow);"


class Mute(Lateness):
    """A loss without a device text."""

    device = None


class Still(Scaled):
    """An optimiser without a device text."""

    device = None


@pytest.fixture(autouse=True)
def own(cupy: Any, library: Path) -> None:
    """A user's leaves, which no registry knows."""
    kernels = [*device_on_cpu.loss_kernels(Lateness()), *device_on_cpu.optimizer_kernels(Scaled())]
    device_on_cpu.add(library.parent, kernels)


EVERY_LOSS: dict[str, Loss] = {
    **{name: LOSSES[name]() for name in LOSSES if LOSSES[name].device},
    "cross entropy": TTFSCrossEntropy(0.7, 0.2, 0.005, 0.9, 100.0),
    "no early spikes": TTFSCrossEntropy(alpha=0.0),
    "steep early spikes": TTFSCrossEntropy(beta=0.05),
    "squares": TimeMSE(0.7, 0.5, 1.5, 50.0),
    "own": Lateness(0.7),
}
EVERY_OPTIMIZER: dict[str, Optimizer] = {
    **{name: OPTIMIZERS[name]() for name in OPTIMIZERS if OPTIMIZERS[name].device},
    "adam, other values": Adam(0.8, 0.99, 1e-7),
    "sgd with momentum": SGD(0.9),
    "own": Scaled(),
}
each_loss = pytest.mark.parametrize("loss", EVERY_LOSS.values(), ids=EVERY_LOSS.keys())
each_optimizer = pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER.values(), ids=EVERY_OPTIMIZER.keys())


@each_dtype
@pytest.mark.parametrize("shared", [True, False])
@each_loss
def test_losses_are_the_reference_s(loss: Loss, shared: bool, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    t_out = spikes(rng, (3, 40, 5), dtype)
    t_out[0, 0], t_out[1, 1] = np.inf, 3e3
    labels = rng.integers(5, size=(1 if shared else 3, 40))
    wanted = loss.reference(t_out.astype(np.float64), labels)
    ours = replace(loss, kernels=load("cuda"))
    with closed():
        got = ours(fake(t_out), fake(labels))
    held = wanted[0] < 1e30  # past what float32 holds, the exponential is clipped
    for found, exact in zip(got, wanted, strict=True):
        assert found.dtype == dtype
        assert np.isfinite(np.asarray(found)).all()
        tolerance = 2e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(np.asarray(found)[held], exact[held], rtol=tolerance, atol=tolerance)
    assert ours(fake(t_out[:, :0]), fake(labels[:, :0]))[0].size == 0


@each_dtype
def test_an_exponential_is_clipped_where_the_reference_does(dtype: Any) -> None:
    t_out = np.array([[[1e6, 1e6]]], dtype)
    loss = TTFSCrossEntropy(alpha=1e-9)
    (wanted, _), (got, _) = (loss.reference(t_out, np.array([[0]])), load("cuda").score(
        loss, fake(t_out), fake(np.array([[0]]))
    ))  # fmt: skip
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-6 if dtype == np.float32 else 1e-13)


def tolerances(dtype: Any) -> dict[str, float]:
    return {"rtol": 2e-5 if dtype == np.float32 else 1e-12, "atol": 1e-7}


@each_dtype
@each_optimizer
def test_optimisers_step_the_active_replicas_as_the_reference_does(optimizer: Optimizer, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    weights = [rng.normal(size=(3, n, 7)).astype(dtype) for n in (5, 2)]
    ours, rate = [fake(w.copy()) for w in weights], fake(np.array([0.01]))
    descent = Descent(optimizer, weights)
    state = {key: fake(array.copy()) for key, array in descent.state().items()}
    no_bumps, rates = cuda_update.no_bumps(3, 2), cuda_update.room_for_rates(optimizer, rate, 3)
    kept = [[state[f"{name}_{number}"] for name in optimizer.STATE] for number in range(2)]
    for step in range(6):
        grads = [rng.normal(size=w.shape).astype(dtype) for w in weights]
        active = np.array([True, step % 2 == 1, step > 3])
        descent.step(weights, grads, 0.01, active)
        theirs, mask = [fake(grad) for grad in grads], fake(active)
        with closed():
            cuda_update.find_rates(optimizer, rates, state.get("steps"), rate, mask)
            cuda_update.descend_active(optimizer, ours, theirs, kept, rates, mask, no_bumps)
    pairs = [*zip(ours, weights, strict=True), *((state[key], a) for key, a in descent.state().items())]
    for got, expected in pairs:
        np.testing.assert_allclose(np.asarray(got), expected, **tolerances(dtype))


@each_dtype
@each_optimizer
def test_one_replica_s_arrays_step_as_the_reference_s(optimizer: Optimizer, dtype: Any) -> None:
    rng = np.random.default_rng(7)
    weights, grad, *state = (
        rng.uniform(0.1, 1.0, (5, 7)).astype(dtype) for _ in range(2 + len(optimizer.STATE))
    )
    ours = [fake(array.copy()) for array in (weights, grad, *state)]
    rates = optimizer.rates(0.01, 3)
    optimizer.reference(rates, weights, grad, *state)
    load("cuda").descend(optimizer, rates, ours[0], ours[1], ours[2:])
    for got, expected in zip(ours, (weights, grad, *state), strict=True):
        np.testing.assert_allclose(np.asarray(got), expected, **tolerances(dtype))
    nothing = [fake(array[:0]) for array in (weights, grad, *state)]
    load("cuda").descend(optimizer, rates, nothing[0], nothing[1], nothing[2:])


@each_loss
def test_a_loss_trains_on_the_device_as_on_the_cpu(loss: Loss) -> None:
    setup = Setup(loss=loss)
    assert_close_runs(setup.trained(2), replace(setup, backend="cpu").trained(2), 1e-8)


def test_the_loss_in_the_guide_is_its_reference_s(library: Path, tmp_path: Path) -> None:
    for name in ("margin.py", "margin_fast.py"):
        (tmp_path / name).write_text(files("docs/extend.md")[name])
        plugins.load(str(tmp_path / name))
    try:
        loss = LOSSES["margin_fast"](tau_syn=0.7)
    finally:
        plugins.forget_all()
    device_on_cpu.add(library.parent, device_on_cpu.loss_kernels(loss))
    t_out = spikes(np.random.default_rng(8), (2, 200, 4), np.float64)
    labels = np.random.default_rng(9).integers(4, size=(2, 200))
    got = load("cuda").score(loss, fake(t_out), fake(labels))
    for found, expected in zip(got, loss.reference(t_out, labels), strict=True):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12, atol=1e-15)


@each_optimizer
def test_an_optimiser_trains_on_the_device_as_on_the_cpu(optimizer: Optimizer) -> None:
    setup = Setup(optimizer=optimizer)
    assert_close_runs(setup.trained(2), replace(setup, backend="cpu").trained(2), 1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": Mute()}, "the loss Mute has no device text: it needs backend=cpu"),
        ({"optimizer": Still()}, "the optimiser Still has no device text: it needs backend=cpu"),
    ],
)
def test_a_leaf_without_a_device_text_is_refused_before_any_work(change: Any, message: str) -> None:
    setup = Setup(**change)
    replace(setup, backend="cpu").trained(1)
    device_on_cpu.device.launches.clear()
    with pytest.raises(BackendError, match=message):
        setup.trainer()
    assert device_on_cpu.device.launches == []


def test_the_kind_of_step_is_refused_too() -> None:
    setup = Setup()
    parts = setup.network(), Mute(), setup.optimizer, TrainingRule(1, 1), 2
    with pytest.raises(BackendError, match="the loss Mute has no device text"):
        step_kind(*parts, on_device=True)
    assert step_kind(parts[0], setup.loss, *parts[2:], on_device=True).name == "device"


def test_its_kernels_are_refused_too() -> None:
    kernels, one = load("cuda"), [fake(np.ones((2, 3))) for _ in range(3)]
    with pytest.raises(BackendError, match="the loss Mute has no device text"):
        kernels.score(Mute(), fake(np.ones((1, 2, 3))), fake(np.zeros((1, 2), np.int64)))
    with pytest.raises(BackendError, match="the optimiser Still has no device text"):
        kernels.descend(Still(), (0.1,), one[0], one[1], one[2:])


def test_rates_of_its_own_need_a_device_text_too() -> None:
    def slower(optimizer: SGD, learning_rate: float, count: int) -> tuple[float, ...]:
        return (learning_rate / count,)

    own = {"rates": slower, "COUNTS": True}
    assert type("Slow", (SGD,), own).device is None
    with pytest.raises(
        ConfigError, match="Slow has a device text and rates of its own: it needs device_rates"
    ):
        type("Slow", (SGD,), {**own, "device": SGD.device})


def test_arrays_that_a_kernel_would_read_wrongly_are_refused() -> None:
    kernels, t_out = load("cuda"), fake(np.ones((2, 3, 4)))
    with pytest.raises(ShapeError, match=r"labels must have shape \(2, 3\), got \(2, 4\)"):
        kernels.score(TimeMSE(), t_out, fake(np.zeros((2, 4), np.int64)))
    with pytest.raises(DtypeError, match="labels must be int64, got int32"):
        kernels.score(TimeMSE(), t_out, fake(np.zeros((2, 3), np.int32)))
    with pytest.raises(ShapeError, match=r"velocity must have shape \(3, 4\), got \(2, 4\)"):
        kernels.descend(SGD(), (0.1,), t_out[0], t_out[1], [t_out[0, :2]])
