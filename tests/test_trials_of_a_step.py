"""Several trials of each sample in a step: the recipe's and the command line's ways to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.errors import ConfigError, GpuspikeError, ValueRangeError
from gpuspike.runs.experiment import build
from gpuspike.runs.values import check_values

SMALL = ["dataset.n_train=60", "dataset.n_validation=20", "dataset.n_test=20", "training.batch_size=25"]


def train_loss(**values: Any) -> Any:
    data = gs.dataset("yin_yang", n_train=300, n_validation=10, n_test=10)
    net = gs.Network([4, 20, 3], bias_times=[[0.9], [0.9]], seed=0, dtype="float64")
    return gs.fit(net, *data.train, epochs=2, batch_size=40, **values).train_loss


@pytest.mark.filterwarnings("ignore:trials=3 presents each sample 3 times alike")
def test_trials_without_noise_are_one_under_the_guard_of_gradients() -> None:
    limit = {"max_weight_grad": 0.01}
    np.testing.assert_allclose(train_loss(trials=3, **limit), train_loss(**limit), rtol=1e-9)
    assert not np.allclose(train_loss(), train_loss(**limit), rtol=1e-4)  # it guards


def test_trials_with_noise_are_several() -> None:
    noisy = train_loss(input_noise=0.1), train_loss(input_noise=0.1, trials=3)
    assert not np.allclose(*noisy, rtol=1e-4)


def test_less_than_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^training\.trials must be at least 1, got 0$"):
        jobs([*SMALL, "training.trials=0"], multirun=False)
    with pytest.raises(ValueRangeError, match="trials must be a whole number, 1 or more, got 0"):
        train_loss(trials=0)
    with pytest.raises(GpuspikeError, match=r"trials must be .*, got 2\.5"):
        train_loss(trials=2.5)
    with pytest.raises(GpuspikeError, match=r"training\.max_weight_grad must be positive, got -1\.0"):
        jobs([*SMALL, "training.trials=4", "training.max_weight_grad=-1"], False, check_values)


def test_a_run_presents_each_sample_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = jobs([*SMALL, "training.trials=4", "substrate=bss2", "backend=cpu"], multirun=False)
    parts = build(job.config)
    assert parts.rule.presented == 100
    assert parts.rule.limit == job.config.training.max_weight_grad / 4
