"""Spike patterns with jitter: what is fixed, what is drawn, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpuspike.config.schema import jobs
from gpuspike.datasets import load_dataset
from gpuspike.datasets.patterns import Patterns
from gpuspike.errors import Mistakes, ValueRangeError
from gpuspike.runs.experiment import build


def test_without_noise_every_sample_is_its_pattern() -> None:
    data = Patterns(300, 40, 50, jitter=0.0, lost=0.0).load()
    patterns = {label: data.train.features[data.train.labels == label][0] for label in range(5)}
    assert data.class_names == ("pattern 0", "pattern 1", "pattern 2", "pattern 3", "pattern 4")
    assert data.spike_times
    for split in data.splits.values():
        for times, label in zip(split.features, split.labels, strict=True):
            np.testing.assert_array_equal(times, patterns[label])
    times = np.stack(list(patterns.values()))
    assert times.shape == (5, 40)
    assert times.min() >= 0.0
    assert times.max() <= 2.0


def test_spikes_move_and_get_lost_as_often_as_asked() -> None:
    exact = Patterns(4000, 1, 1, jitter=0.0, lost=0.0).load().train
    noisy = Patterns(4000, 1, 1, jitter=0.1, lost=0.25).load().train
    np.testing.assert_array_equal(noisy.labels, exact.labels)
    there = np.isfinite(noisy.features)
    assert 1.0 - there.mean() == pytest.approx(0.25, abs=0.005)
    far = there & (exact.features > 0.5)  # from where nothing is cut
    moved = (noisy.features - exact.features)[far]
    assert moved.std() == pytest.approx(0.1, rel=0.02)
    assert moved.mean() == pytest.approx(0.0, abs=0.002)
    assert noisy.features.min() == 0.0


def test_splits_and_seeds_draw_their_own() -> None:
    data, other = Patterns(50, 50, 50).load(), Patterns(50, 50, 50, pattern_seed=1).load()
    drawn = [data.train, data.validation, data.test, other.train]
    assert len({split.features.tobytes() for split in drawn}) == 4
    np.testing.assert_array_equal(Patterns(50, 50, 50).load().train.features, data.train.features)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.n_inputs=0", r"dataset\.n_inputs must be at least 1, got 0"),
        ("dataset.n_patterns=1", r"dataset\.n_patterns must be at least 2, got 1"),
        ("dataset.pattern_seed=-1", r"dataset\.pattern_seed must be at least 0, got -1"),
        ("dataset.jitter=-0.1", r"dataset\.jitter must be finite and 0 or more"),
        ("dataset.jitter=nan", r"dataset\.jitter must be finite and 0 or more"),
        ("dataset.lost=1.0", r"^dataset\.lost must be at least 0 and below 1, got 1\.0$"),
    ],
)
def test_what_no_pattern_can_have_is_refused(override: str, message: str) -> None:
    (job,) = jobs(["dataset=patterns", override], multirun=False)
    with pytest.raises(ValueRangeError, match=message):
        build(job.config)


def test_all_that_no_pattern_can_have_is_told_at_once() -> None:
    wrong = {"n_inputs": 0, "jitter": -1.0, "lost": 1.0}
    (job,) = jobs(["dataset=patterns", *(f"dataset.{k}={v}" for k, v in wrong.items())], multirun=False)
    with pytest.raises(
        Mistakes, match=r"^3 mistakes: \(1\) dataset\.n_inputs must be .*dataset\.lost must be"
    ):
        build(job.config)
    with pytest.raises(
        Mistakes, match=r"^2 mistakes: \(1\) image_size must be .* \(2\) n_test must be at most"
    ):
        load_dataset("mnist", image_size=13, n_test=10_001)


def test_the_group_s_values_are_the_data_set_s_own() -> None:
    (job,) = jobs(["dataset=patterns", "dataset.n_inputs=7", "dataset.n_patterns=3"], multirun=False)
    parts = build(job.config)
    assert parts.network.sizes == "7-120-3"
    (plain,) = jobs(["dataset=patterns"], multirun=False)
    defaults = Patterns()
    assert all(getattr(plain.config.dataset, name) == value for name, value in vars(defaults).items())
