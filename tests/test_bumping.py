"""Weight bumping: which layer, which weights, how much, and each replica for itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.errors import ValueRangeError
from gpuspike.kernels import LayerState
from gpuspike.training.bumping import NO_LAYER, Bumping, BumpWatch

Array = NDArray[Any]
INF = math.inf
LIMITS = (0.3, 0.1)
SIZES = ((4, 3), (3, 2))
"""(n_pre, n_out) of both layers."""


def make(n_replica: int = 1, **change: Any) -> Bumping:
    """The rule for two layers, with a first bump of 1/8: sums stay exact."""
    return Bumping(LIMITS, 0.125, n_replica, **change)


def zero_weights(n_replica: int = 1) -> list[Array]:
    """Weights on which each bump can be read off."""
    return [np.zeros((n_replica, *size)) for size in SIZES]


def activities(*silent: Any) -> list[LayerState]:
    """Activities of both layers from (n_replica, n_batch, n_out) masks of silent neurons."""
    nothing = np.zeros((1, 1, 1))
    order = nothing.astype(np.int64)
    times = [np.where(mask, INF, 1.0) for mask in silent]
    return [LayerState(nothing, order, t, t, np.zeros(t.shape)) for t in times]


SOME_SILENT = activities(
    [[[True, False, False], [False, False, True]]],  # neurons 0 and 2 are silent for one sample each
    [[[False, True], [False, True]]],
)


def chosen(*layers: int) -> NDArray[np.int64]:
    """The layer of each replica."""
    return np.array(layers)


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        ((0.0, 0.0), NO_LAYER),
        ((0.31, 0.0), 0),
        ((0.0, 0.11), 1),
        ((0.31, 1.0), 0),
        ((0.3, 0.1), NO_LAYER),
        ((0.3, 0.11), 1),
        ((math.nextafter(0.3, 1.0), 0.1), 0),
        ((1.0, 1.0), 0),
    ],
)
def test_the_first_layer_strictly_above_its_limit_is_chosen(
    fractions: tuple[float, float], expected: int
) -> None:
    assert make().choose(np.array(fractions)[:, None]).tolist() == [expected]


def test_each_replica_s_layer_is_chosen_from_its_own_column() -> None:
    silent = np.array([[0.0, 0.5, 0.0, 0.5], [0.0, 0.5, 0.5, 0.0]])
    assert make(4).choose(silent).tolist() == [NO_LAYER, 0, 1, 0]


def test_a_limit_of_one_never_bumps_and_a_limit_of_zero_bumps_at_any_silence() -> None:
    assert Bumping((1.0,), 0.1, 1).choose(np.array([[1.0]])).tolist() == [NO_LAYER]
    assert Bumping((0.0,), 0.1, 1).choose(np.array([[0.0]])).tolist() == [NO_LAYER]
    assert Bumping((0.0,), 0.1, 1).choose(np.array([[1e-9]])).tolist() == [0]


def test_all_weights_onto_neurons_silent_for_any_sample_are_bumped_and_no_others() -> None:
    weights = zero_weights()
    make().apply(weights, SOME_SILENT, chosen(0))
    np.testing.assert_array_equal(weights[0][0], np.tile([0.125, 0.0, 0.125], (4, 1)))
    np.testing.assert_array_equal(weights[1][0], np.zeros((3, 2)))


def test_an_untargeted_bump_lifts_every_weight_of_the_layer() -> None:
    weights = zero_weights()
    make(targeted=False).apply(weights, SOME_SILENT, chosen(1))
    np.testing.assert_array_equal(weights[0][0], np.zeros((4, 3)))
    np.testing.assert_array_equal(weights[1][0], np.full((3, 2), 0.125))


def bumps(rule: Bumping, *layers: int) -> list[float]:
    """What each batch adds to the weights, given the layer chosen in it."""
    added = []
    for layer in layers:
        weights = zero_weights()
        rule.apply(weights, SOME_SILENT, chosen(layer))
        added.append(max(float(w.max()) for w in weights))
    return added


def test_the_bump_doubles_while_the_same_layer_is_bumped_in_a_row() -> None:
    assert bumps(make(), 0, 0, 0, 0) == [0.125, 0.25, 0.5, 1.0]


def test_another_layer_or_a_quiet_batch_resets_the_bump() -> None:
    assert bumps(make(), 0, 0, 1, 1, 0) == [0.125, 0.25, 0.125, 0.25, 0.125]
    assert bumps(make(), 0, 0, NO_LAYER, 0, 0) == [0.125, 0.25, 0.0, 0.125, 0.25]


def test_a_bump_that_is_not_exponential_stays_the_same() -> None:
    assert bumps(make(exponential=False), 0, 0, 0, 1, 0) == [0.125] * 5


def test_a_batch_without_a_bump_changes_no_weight() -> None:
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(w.shape) for w in zero_weights()]
    before = [w.copy() for w in weights]
    make().apply(weights, SOME_SILENT, chosen(NO_LAYER))
    for w, w_before in zip(weights, before, strict=True):
        np.testing.assert_array_equal(w, w_before)


def test_any_number_of_quiet_batches_keeps_the_size_at_the_first_bump() -> None:
    rule = make()
    weights = zero_weights()
    for _ in range(2000):
        rule.apply(weights, SOME_SILENT, chosen(NO_LAYER))
    assert rule.size.tolist() == [0.125]
    assert bumps(rule, 0) == [0.125]


def test_layer_and_size_tell_what_the_last_batch_got() -> None:
    rule = make(3)
    weights = zero_weights(3)
    silent = np.ones((3, 2, 1), np.bool_)
    everywhere = activities(silent.repeat(3, axis=2), silent.repeat(2, axis=2))
    rule.apply(weights, everywhere, chosen(0, NO_LAYER, 1))
    rule.apply(weights, everywhere, chosen(0, 1, NO_LAYER))
    assert rule.layer.tolist() == [0, 1, NO_LAYER]
    assert rule.size.tolist()[:2] == [0.25, 0.125]


def test_a_replica_is_bumped_as_if_alone() -> None:
    n_replica, n_batches = 4, 12
    rng = np.random.default_rng(8)
    rule, single = make(n_replica), [make() for _ in range(n_replica)]
    weights = zero_weights(n_replica)
    alone = [zero_weights() for _ in range(n_replica)]
    for _ in range(n_batches):
        masks = [rng.random((n_replica, 5, size[1])) < 0.3 for size in SIZES]
        layers = rng.integers(-1, 2, n_replica)
        rule.apply(weights, activities(*masks), layers)
        for r in range(n_replica):
            single[r].apply(alone[r], activities(*(mask[r : r + 1] for mask in masks)), layers[r : r + 1])
    for r in range(n_replica):
        for w, w_alone in zip(weights, alone[r], strict=True):
            np.testing.assert_array_equal(w[r], w_alone[0])
        assert rule.layer[r] == single[r].layer[0]
        assert rule.size[r] == single[r].size[0]
    assert max(w.max() for w in weights) > 0.125


def test_the_dtype_of_the_weights_is_kept() -> None:
    weights = [w.astype(np.float32) for w in zero_weights()]
    make().apply(weights, SOME_SILENT, chosen(0))
    assert weights[0].dtype == np.float32
    assert weights[0][0, 0].tolist() == [0.125, 0.0, 0.125]


@pytest.mark.parametrize("limit", [-0.1, 1.1, math.nan, INF])
def test_a_silent_fraction_outside_of_the_unit_interval_is_refused(limit: float) -> None:
    with pytest.raises(ValueRangeError, match=r"max_silent of layer 1 must lie in \[0, 1\], got"):
        Bumping((0.3, limit), 0.1, 1)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, INF])
def test_a_bump_that_is_not_positive_and_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueRangeError, match=r"bump.* must be positive.*, got"):
        Bumping(LIMITS, value, 1)


def test_a_training_that_bumps_for_ever_is_noticed_once() -> None:
    silent = np.array([[0.2, 0.8], [0.1, 0.1]])
    watch = BumpWatch(n_batches=60)
    assert watch.after(np.array([0.9, 1.0]), silent, [0.5, 0.2]) == "", (
        "a beginning may be bumped for a while"
    )
    told = watch.after(np.array([0.9, 1.0]), silent, [0.5, 0.2])
    assert told.startswith("all of the last 120 steps of replica 1 were bumped in vain: 80.0 % of layer 0")
    assert "max_silent allows (50 %)" in told
    assert watch.after(np.array([1.0, 1.0]), silent, [0.5, 0.2]) == ""


def test_bumps_with_steps_in_between_are_the_rule() -> None:
    watch = BumpWatch(n_batches=60)
    for bumped in (1.0, 0.95, 1.0, 0.95):
        assert watch.after(np.array([bumped]), np.array([[0.9]]), [0.5]) == ""


def test_fit_says_so() -> None:
    t_in = np.random.default_rng(0).uniform(0.0, 1.0, (200, 4))
    net = gs.Network([4, 10, 3], seed=0).on(gs.Chip("ideal", seed=1, lost_spikes=0.9))
    with pytest.warns(RuntimeWarning, match="all of the last 100 steps were bumped in vain"):
        gs.fit(net, t_in, np.arange(200) % 3, epochs=10, batch_size=20)
