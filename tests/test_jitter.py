"""Jitter of input times: normal, addressed, the same on every backend and with any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.kernels import load
from gpuspike.rng import Purpose, normals

Array = NDArray[Any]
SEEDS = (7, 2**63 - 5)

FROZEN = [-0.75109537, -0.6476002, 2.63877395]
"""First numbers at seed 7, epoch 2, batch 3: never adjusted to the code."""

FROZEN_ON_A_CHIP = [0.71179325, -1.77038472, 0.37924504]
"""Those of a layer's thresholds, seed 7, epoch 2, batch 3, layer 5, sample 11: never adjusted either."""


def jitter(backend: str, times: Array, n_jittered: int, std: float = 1.0, batch: int = 3) -> Array:
    """A jittered copy."""
    times = times.copy()
    load(backend).jitter(times, n_jittered, std, SEEDS[: len(times)], Purpose.INPUT_NOISE, 2, batch)
    return times


def test_the_numbers_of_an_address_never_change() -> None:
    np.testing.assert_allclose(normals(7, Purpose.INPUT_NOISE, 2, 3, 1, 3)[0], FROZEN, rtol=1e-6)
    on_a_chip = normals(7, Purpose.THRESHOLD_NOISE, 2, 3, 1, 3, layer=5, first=11)
    np.testing.assert_allclose(on_a_chip[0], FROZEN_ON_A_CHIP, rtol=1e-6)


def test_the_generator_is_philox_4x32_10() -> None:
    # The known answer of its authors for key 0 and counter 0 begins with the words 6627e8d5 and e169c58d.
    radius = np.sqrt(-2.0 * np.log((0x6627E8D5 + 0.5) / 2**32))
    angle = 2.0 * np.pi * 0xE169C58D / 2**32
    by_hand = [radius * np.cos(angle), radius * np.sin(angle)]
    np.testing.assert_allclose(_normals_of_key_and_counter_zero(), by_hand, rtol=1e-12)


def _normals_of_key_and_counter_zero() -> list[float]:
    numbers = normals(0, 0, 0, 0, 1, 4)  # type: ignore[arg-type]
    return numbers[0, :2].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 31, 33, 129, 1025])
@pytest.mark.parametrize("n_batch", [1, 33])
def test_backends_jitter_alike(dtype: Any, n: int, n_batch: int) -> None:
    times = np.full((2, n_batch, n + 1), 50.0, dtype)
    fast, oracle = (jitter(backend, times, n) for backend in ("cpu", "reference"))
    assert (fast[:, :, n] == 50.0).all(), "bias spikes stay"
    assert (fast[:, :, :n] != 50.0).mean() > 0.99
    np.testing.assert_allclose(fast, oracle, rtol=0.0, atol=1e-5 if dtype == np.float32 else 2e-6)


def test_the_numbers_are_normal_and_independent() -> None:
    n_samples, n = 2000, 785
    z = jitter("cpu", np.full((2, n_samples, n), 50.0), n) - 50.0
    size = z.size
    assert abs(z.mean()) < 5.0 / np.sqrt(size)
    assert abs(z.std() - 1.0) < 5.0 / np.sqrt(2.0 * size)
    assert abs((z**4).mean() - 3.0) < 5.0 * np.sqrt(96.0 / size)
    assert 4.5 < np.abs(z).max() < 6.8
    batches = jitter("cpu", np.full((2, n_samples, n), 50.0), n, batch=4) - 50.0
    for a, b in ((z[0], z[1]), (z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1]), (z, batches)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5.0 / np.sqrt(a.size)


def test_times_before_zero_are_reflected_and_silence_stays() -> None:
    times = np.tile(np.array([0.0, 0.1, np.inf]), (2, 400, 1))
    after = jitter("cpu", times, 3)
    assert after.min() >= 0.0
    assert (after[..., 2] == np.inf).all()
    assert after[..., 0].mean() == pytest.approx(np.sqrt(2.0 / np.pi), rel=0.1)


def test_a_replica_jitters_as_it_would_alone_with_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = np.full((2, 200, 129), 1.0)
    together = jitter("cpu", times, 129)
    for count in (1, 2, 5):
        monkeypatch.setattr("gpuspike.kernels.cpu.team.thread_count", lambda n=count: n)
        np.testing.assert_array_equal(jitter("cpu", times, 129), together)
        np.testing.assert_array_equal(jitter("cpu", times[:1], 129), together[:1])


def test_nothing_is_ordinary() -> None:
    for shape in ((2, 0, 3), (2, 3, 0)):
        jitter("cpu", np.zeros(shape), shape[2])
        jitter("reference", np.zeros(shape), shape[2])
