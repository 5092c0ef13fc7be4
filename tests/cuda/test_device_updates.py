"""What a training step does to numbers one by one, on the device: jitter and Adam against the oracle's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_on_cpu import fake

from gpuspike.kernels import cuda, reference
from gpuspike.kernels.bias import with_bias
from gpuspike.rng import Purpose

pytestmark = pytest.mark.usefixtures("cupy")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 33), (2, 5, 64), (1, 0, 3)])
def test_jitter_is_the_reference_s(dtype: Any, sizes: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    times = rng.uniform(0.0, 1.0, sizes).astype(dtype)
    times[rng.random(sizes) < 0.2] = np.inf
    seeds = [5, (1 << 40) + 7, 2**62][: sizes[0]]
    for n_jittered in {0, 1, sizes[2] // 2, sizes[2]}:
        expected, got = times.astype(np.float64), fake(times.copy())
        reference.jitter(expected, n_jittered, 0.3, seeds, Purpose.INPUT_NOISE, 4, 9)
        cuda.jitter(got, n_jittered, 0.3, seeds, Purpose.INPUT_NOISE, 4, 9)
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(got)[..., n_jittered:], times[..., n_jittered:])


def test_bias_spikes_stay_on_the_device() -> None:
    spikes = fake(np.zeros((2, 3, 4), np.float32))
    received = with_bias(spikes, [0.5, 0.25])
    assert received.shape == (2, 3, 6)
    assert received.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(received)[1, 2], [0, 0, 0, 0, 0.5, 0.25])
