"""Losses against their formulas in plain Python and against finite differences, and the decision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.special import ndtr

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import load
from gpuspike.training.losses import TimeMSE, TTFSCrossEntropy, decide, tied
from gpuspike.training.losses.shift_invariant import ShiftInvariant

Array = NDArray[Any]
AnyLoss = TTFSCrossEntropy | TimeMSE
INF = math.inf

COMPILED = load("cpu")
LOSSES: list[AnyLoss] = [
    TTFSCrossEntropy(),
    TTFSCrossEntropy(tau_syn=0.7, xi=0.5, alpha=0.3, beta=2.0),
    TTFSCrossEntropy(alpha=0.0),
    TTFSCrossEntropy(kernels=COMPILED),
    TTFSCrossEntropy(tau_syn=0.7, xi=0.5, alpha=0.3, beta=2.0, kernels=COMPILED),
    TTFSCrossEntropy(alpha=0.0, kernels=COMPILED),
    TimeMSE(),
    TimeMSE(tau_syn=0.7, t_correct=0.2, t_wrong=2.5),
]
each_loss = pytest.mark.parametrize(
    "loss", LOSSES, ids=lambda loss: repr(loss) + " compiled" * bool(getattr(loss, "kernel", None))
)


def ttfs_by_hand(loss: TTFSCrossEntropy, times: list[float], label: int) -> float:
    """log sum_n exp(-(t_n - t_*)/(xi tau)) + alpha exp(t_*/(beta tau)), the penalty if t_* is silent."""
    t_label = times[label]
    if math.isinf(t_label):
        return loss.silent_penalty
    total = 0.0
    for t in times:
        total += math.exp(-(t - t_label) / (loss.xi * loss.tau_syn))
    return math.log(total) + loss.alpha * math.exp(t_label / (loss.beta * loss.tau_syn))


def mse_by_hand(loss: TimeMSE, times: list[float], label: int) -> float:
    """1/2 sum_n ((t_n - target_n)/tau)^2, where each silent neuron adds the penalty instead."""
    total = 0.0
    for n, t in enumerate(times):
        target = (loss.t_correct if n == label else loss.t_wrong) * loss.tau_syn
        total += loss.silent_penalty if math.isinf(t) else 0.5 * ((t - target) / loss.tau_syn) ** 2
    return total


def random_batch(n_replica: int = 3, n_batch: int = 8, n_classes: int = 4) -> tuple[Array, NDArray[np.int64]]:
    """Spike times a quarter of which are silent, one sample silent altogether, labels of every replica."""
    rng = np.random.default_rng(5)
    t_out = rng.uniform(0.1, 2.5, (n_replica, n_batch, n_classes))
    t_out[rng.random(t_out.shape) < 0.25] = INF
    t_out[:, 2] = INF
    labels = rng.integers(n_classes, size=(n_replica, n_batch))
    return t_out, labels


@each_loss
def test_the_loss_of_every_sample_is_the_formula_s(loss: AnyLoss) -> None:
    by_hand: Any = ttfs_by_hand if isinstance(loss, TTFSCrossEntropy) else mse_by_hand
    t_out, labels = random_batch()
    expected = [
        [by_hand(loss, times, label) for times, label in zip(rows, row_labels, strict=True)]
        for rows, row_labels in zip(t_out.tolist(), labels.tolist(), strict=True)
    ]
    values, grad = loss(t_out, labels)
    np.testing.assert_allclose(values, expected, rtol=1e-13)
    assert grad.shape == t_out.shape


def test_three_known_times_give_the_value_worked_out_by_hand() -> None:
    # (1.0, 0.8, 1.2), label 0, xi = 0.2: log(1 + e + 1/e) + 0.005 e.
    values, _ = TTFSCrossEntropy()(np.array([[[1.0, 0.8, 1.2]]]), np.array([[0]]))
    assert values[0, 0] == pytest.approx(math.log(1 + math.e + 1 / math.e) + 0.005 * math.e, rel=1e-14)


@each_loss
def test_the_gradient_is_that_of_each_replica_s_mean_loss(loss: AnyLoss) -> None:
    t_out, labels = random_batch()
    _, grad = loss(t_out, labels)
    step = 1e-6
    for place in np.argwhere(np.isfinite(t_out)):
        up, down = t_out.copy(), t_out.copy()
        up[tuple(place)] += step
        down[tuple(place)] -= step
        r = place[0]
        difference = (loss(up, labels)[0][r].mean() - loss(down, labels)[0][r].mean()) / (2 * step)
        # Rounding of a mean near 100 over the step leaves 1e-8.
        assert grad[tuple(place)] == pytest.approx(difference, rel=1e-6, abs=1e-7)


@each_loss
def test_a_silent_neuron_has_no_gradient_and_no_gradient_is_nan(loss: AnyLoss) -> None:
    t_out, labels = random_batch()
    _, grad = loss(t_out, labels)
    assert np.isfinite(grad).all()
    assert (grad[np.isinf(t_out)] == 0.0).all()


@each_loss
def test_an_all_silent_batch_has_a_finite_loss_and_no_gradient(loss: AnyLoss) -> None:
    values, grad = loss(np.full((2, 3, 4), INF), np.zeros((2, 3), np.int64))
    penalty = loss.silent_penalty * (1 if isinstance(loss, TTFSCrossEntropy) else 4)
    np.testing.assert_array_equal(values, np.full((2, 3), penalty))
    np.testing.assert_array_equal(grad, np.zeros((2, 3, 4)))


def test_a_silent_label_costs_the_penalty_and_pulls_at_nothing() -> None:
    loss = TTFSCrossEntropy(silent_penalty=7.0)
    t_out = np.array([[[INF, 0.5, 0.6], [0.5, 0.6, 0.7]]])
    values, grad = loss(t_out, np.array([[0, 0]]))
    assert values[0, 0] == 7.0
    assert (grad[0, 0] == 0.0).all()
    assert (grad[0, 1] != 0.0).all()


def test_a_softmax_is_the_probability_to_be_first_under_gumbel_s_noise() -> None:
    loss = TTFSCrossEntropy(xi=0.2, alpha=0.0)
    times = np.array([0.9, 1.0, 1.25, 1.6])
    when = np.linspace(-6.0, 4.0, 200_001)  # of the first spike, at any time of which the others are later
    later = np.exp(-np.exp((when[:, None] - times) / loss.xi))  # Gumbel's of minima
    hazard = np.exp((when[:, None] - times) / loss.xi) / loss.xi
    first = trapezoid(hazard * later.prod(axis=1, keepdims=True), when, axis=0)
    values, _ = loss(np.tile(times, (1, 4, 1)), np.arange(4)[None])
    np.testing.assert_allclose(np.exp(-values[0]), first, rtol=1e-9)


@pytest.mark.parametrize(("n", "most"), [(2, 0.023), (3, 0.024), (10, 0.083)])
def test_how_far_the_softmax_is_from_gaussian_noise_of_its_deviation(n: int, most: float) -> None:
    x, share = np.polynomial.hermite_e.hermegauss(101)

    def first(times: Array) -> Array:
        """(m, n) probabilities to be first, times in deviations of the noise."""
        here = times[:, :, None] + x  # of the neuron in question, at each value of its noise
        later = ndtr(times[:, None, :, None] - here[:, :, None])
        later[:, np.arange(n), np.arange(n)] = 1.0
        return later.prod(axis=2) @ share / share.sum()

    rng = np.random.default_rng(0)
    ahead = np.zeros((40, n))
    ahead[:, 0] = -np.linspace(0.1, 4.0, 40)  # one of all, the others together
    times = np.concatenate([ahead, *(rng.uniform(0.0, width, (500, n)) for width in (1.0, 2.0, 4.0))])
    unit = math.sqrt(6.0) / math.pi
    softmax = np.exp(-times / unit) / np.exp(-times / unit).sum(axis=1, keepdims=True)
    assert most - 0.001 < np.abs(first(times) - softmax).max() < most + 0.0005


@pytest.mark.parametrize("loss", [TimeMSE(), ShiftInvariant()], ids=lambda loss: type(loss).__name__)
def test_the_mean_of_a_squared_error_over_noise_is_that_of_the_mean_times_and_a_constant(loss: Any) -> None:
    times, sigma = np.random.default_rng(1).uniform(0.5, 2.0, (1, 5, 3)), 0.1
    labels = np.array([[0, 1, 2, 1, 0]])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T  # whose second moments are those of noise
    found = [loss(times + sigma * each, labels) for each in signs]
    values, grad = loss(times, labels)
    more = np.mean([value for value, _ in found], axis=0) - values
    np.testing.assert_allclose(more, 3 * sigma**2 / 2 if isinstance(loss, TimeMSE) else 2 * sigma**2)
    np.testing.assert_allclose(np.mean([slope for _, slope in found], axis=0), grad, atol=1e-12)


def test_a_mean_squared_error_is_zero_on_its_targets() -> None:
    loss = TimeMSE(tau_syn=2.0, t_correct=0.5, t_wrong=1.5)
    values, grad = loss(np.array([[[3.0, 1.0, 3.0]]]), np.array([[1]]))
    assert values[0, 0] == 0.0
    assert (grad == 0.0).all()


@each_loss
def test_a_step_against_the_gradient_lowers_the_loss(loss: AnyLoss) -> None:
    t_out, labels = random_batch()
    values, grad = loss(t_out, labels)
    lower, _ = loss(t_out - 1e-3 * grad, labels)
    assert (lower.mean(axis=1) < values.mean(axis=1)).all()


@each_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_replica_is_computed_as_if_alone_bit_for_bit(loss: AnyLoss, dtype: Any) -> None:
    t_out, labels = random_batch(n_replica=4, n_batch=37, n_classes=10)
    t_out = t_out.astype(dtype)
    values, grad = loss(t_out, labels)
    for r in range(4):
        alone, grad_alone = loss(t_out[r : r + 1], labels[r : r + 1])
        np.testing.assert_array_equal(values[r], alone[0])
        np.testing.assert_array_equal(grad[r], grad_alone[0])


@each_loss
def test_labels_may_be_shared_by_the_replicas(loss: AnyLoss) -> None:
    t_out, labels = random_batch()
    shared = labels[:1]
    values, grad = loss(t_out, shared)
    expected, expected_grad = loss(t_out, np.repeat(shared, len(t_out), axis=0))
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(grad, expected_grad)


@each_loss
def test_float32_keeps_its_dtype_and_agrees_with_float64(loss: AnyLoss) -> None:
    t_out, labels = random_batch()
    t_out = t_out.astype(np.float32)
    values, grad = loss(t_out, labels)
    exact, exact_grad = loss(t_out.astype(np.float64), labels)
    assert grad.dtype == np.float32
    # Near 0 the loss is the logarithm of a sum near 1, which is known to 1e-7.
    np.testing.assert_allclose(values, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, exact_grad, rtol=1e-4, atol=1e-6)


@each_loss
def test_the_arguments_are_not_changed(loss: AnyLoss) -> None:
    t_out, labels = random_batch()
    before, labels_before = t_out.copy(), labels.copy()
    loss(t_out, labels)
    np.testing.assert_array_equal(t_out, before)
    np.testing.assert_array_equal(labels, labels_before)


@pytest.mark.parametrize("offset", [-1000.0, -10.0, 10.0, 1000.0])
def test_without_the_early_term_only_differences_of_times_matter(offset: float) -> None:
    loss = TTFSCrossEntropy(alpha=0.0)
    t_out, labels = random_batch()
    values, grad = loss(t_out, labels)
    moved, moved_grad = loss(t_out + offset, labels)
    # 1000 + t keeps 13 digits of t, and times are divided by xi = 0.2.
    np.testing.assert_allclose(moved, values, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(moved_grad, grad, rtol=1e-10, atol=1e-11)


def test_a_label_far_behind_the_winner_costs_the_distance() -> None:
    values, grad = TTFSCrossEntropy()(np.array([[[300.0, 0.5]]]), np.array([[0]]))
    assert values[0, 0] == pytest.approx(299.5 / 0.2 + 0.005 * math.exp(300.0), rel=1e-12)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    "change",
    [
        {"tau_syn": 0.0},
        {"tau_syn": INF},
        {"tau_syn": math.nan},
        {"xi": 0.0},
        {"xi": -0.2},
        {"xi": math.nan},
        {"beta": 0.0},
        {"beta": INF},
        {"alpha": -0.1},
        {"alpha": math.nan},
        {"alpha": INF},
    ],
    ids=repr,
)
def test_the_cross_entropy_refuses_what_it_cannot_use_by_name(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(ValueRangeError, match=f"^{name} must be .*got") as caught:
        TTFSCrossEntropy(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"tau_syn": 0.0}, {"tau_syn": -1.0}, {"t_correct": INF}, {"t_wrong": math.nan}], ids=repr
)
def test_the_mean_squared_error_refuses_what_it_cannot_use_by_name(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(ValueRangeError, match=f"{name}.*got|got.*{name}") as caught:
        TimeMSE(**change)
    assert "\n" not in str(caught.value)


def test_a_tie_is_of_spikes_at_one_time() -> None:
    times = np.array([[1.0, 1.0, 2.0], [1.0, 2.0, 2.0], [np.inf, np.inf, np.inf], [3.0, 1.0, 1.0]])
    assert tied(times).tolist() == [True, False, False, True]
    assert not tied(np.ones((2, 0, 1))).size


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.3, 0.2, 0.4], 1),
        ([0.3, 0.3, 0.4], 0),
        ([0.4, 0.3, 0.3], 1),
        ([INF, INF, 0.9], 2),
        ([INF, INF, INF], -1),
        ([0.5, INF, 0.5], 0),
    ],
)
def test_the_first_spike_decides_the_lowest_at_a_tie_nobody_when_all_are_silent(
    times: list[float], expected: int
) -> None:
    assert decide(np.array(times)) == expected


def test_the_decision_runs_over_the_last_axis_of_any_shape() -> None:
    t_out, _ = random_batch()
    decisions = decide(t_out)
    assert decisions.shape == t_out.shape[:-1]
    for place in np.ndindex(*decisions.shape):
        assert decisions[place] == decide(t_out[place])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TimeMSE(t_correct=3.0, t_wrong=1.0), "t_correct must be before t_wrong, got t_correct=3.0"),
        (lambda: TimeMSE(t_correct=1.0, t_wrong=1.0), "t_correct must be before t_wrong"),
        (lambda: ShiftInvariant(distance=-1.0), "distance must be positive and finite, got -1.0"),
    ],
)
def test_no_loss_teaches_the_wrong_neuron_to_come_first(make: Any, told: str) -> None:
    with pytest.raises(ValueRangeError, match=told):
        make()
