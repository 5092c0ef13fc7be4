"""Waking by gradient on a device: peaks as the CPU finds them, and trainings as there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import closed, device, fake
from small_training import MAPS, WAKING, Setup, assert_close_runs, assert_same_runs

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.kernels import load
from gpuspike.kernels.cuda import waking as cuda_waking
from gpuspike.neuron import LIF
from gpuspike.runs.experiment import build, new_trainer

pytestmark = pytest.mark.usefixtures("cupy")

NEURONS = (LIF(1.0, 1.0), LIF(2.0, 1.0, 0.7, -0.2, 1.5), LIF(math.inf, 1.0), LIF(1.0, 3.1), LIF(1.0, 1.1))


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("n_pre", [1, 2, 33, 129])
@pytest.mark.parametrize("n_in_replicas", [1, 2])
def test_silent_neurons_are_highest_where_the_cpu_finds_them(
    neuron: LIF, n_pre: int, n_in_replicas: int
) -> None:
    rng = np.random.default_rng(n_pre)
    n_batch, n_post = 5, 7
    t_in = np.round(rng.uniform(0.0, 3.0, (n_in_replicas, n_batch, n_pre)), 2)
    t_in[rng.random(t_in.shape) < 0.2] = np.inf
    t_in[:, 0] = np.inf  # a sample without any spike
    weights = rng.normal(0.0, 0.3 / math.sqrt(n_pre), (2, n_pre, n_post))
    cpu, cuda = load("cpu"), load("cuda")
    (state,) = cuda.forward(fake(t_in), None, [fake(weights)], [neuron], [()])
    labels, share = rng.integers(n_post, size=(2, n_batch)), rng.random((2, n_post))
    silent = np.isinf(np.asarray(state.t_out))
    assert silent.any()
    peaks = cpu.single.peaks(t_in, weights, None, neuron, silent)
    for is_last in (False, True):
        pull = cuda_waking.Pull.of(state, math.inf, neuron.span, fake(labels), fake(share), 3.0, 0.4, is_last)
        there, _ = pull.applied(cuda, state, fake(weights), neuron, None, state.t_out)
        over = np.ones((2, n_post)) if is_last else np.maximum(share - 0.4, 0.0) / 0.6
        wanted = silent & (over > 0.0)[:, None]
        if is_last:
            wanted &= np.arange(n_post) == labels[..., None]
        wanted &= np.isfinite(peaks)
        expected = np.where(wanted, peaks, np.asarray(state.t_out))
        np.testing.assert_allclose(np.asarray(there.t_cross), expected, rtol=1e-10, atol=1e-12)
        with np.errstate(divide="ignore"):
            pulled = -n_batch * neuron.span / (3.0 * over)
        slope = np.where(wanted, pulled[:, None], np.asarray(state.slope))
        np.testing.assert_allclose(np.asarray(there.slope), slope, rtol=1e-12)


VARIANTS = {
    "adam": WAKING,
    "noise, no bias": replace(WAKING, input_noise=0.1, bias=((), ())),
    "shifts": replace(WAKING, shift=1),
    "one batch": replace(WAKING, batch_size=70),
}
OF_MAPS = replace(MAPS, waking=4.0, max_silent=(0.2, 0.1), bump_replaces_step=False)
each_variant = pytest.mark.parametrize(
    "setup",
    [*VARIANTS.values(), pytest.param(OF_MAPS, marks=pytest.mark.slow)],
    ids=[*VARIANTS, "maps"],
)


@each_variant
def test_training_on_the_device_is_training_on_the_cpu(setup: Setup) -> None:
    ours, theirs = setup.trained(), replace(setup, backend="cpu").trained()
    assert_close_runs(ours, theirs, 1e-3 if setup.input_noise else 1e-8)
    asleep = replace(setup, waking=0.0, max_silent=(1.0, 1.0)).trained()
    assert not np.allclose(ours[0].state()["weights_0"], asleep[0].state()["weights_0"])


@each_variant
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_a_graph_gives_the_bits_of_its_kernels_and_a_replica_is_its_run_alone(
    setup: Setup, dtype: Any
) -> None:
    setup = replace(setup, dtype=dtype)
    replayed = setup.trained()
    assert "graph" in device.launches
    one_by_one = replace(setup, graph=False).trained()
    for r, seed in enumerate(setup.seeds):
        assert_same_runs(replayed, one_by_one, r, r)
        assert_same_runs(replayed, replace(setup, seeds=(seed,)).trained(), r, 0)


def test_nothing_waits_and_nothing_crosses() -> None:
    neuron, rng = NEURONS[0], np.random.default_rng(0)
    t_in, weights = fake(rng.uniform(0.0, 2.0, (1, 3, 4))), fake(rng.normal(0.0, 0.3, (2, 4, 5)))
    (state,) = load("cuda").forward(t_in, None, [weights], [neuron], [()])
    labels, share = fake(np.zeros((2, 3), np.int64)), fake(np.ones((2, 5)))
    silent = fake(np.full((2, 9), 2, np.int32))

    def step() -> None:
        pull = cuda_waking.Pull.of(state, math.inf, neuron.span, labels, share, 1.0, 0.5, False)
        pull.applied(load("cuda"), state, weights, neuron, None, state.t_out)
        pull.follow(state.t_out, silent, 4)

    step()  # constants are sent by the first
    with closed():
        step()
    np.testing.assert_allclose(np.asarray(share), 2 / 3)


def test_neurons_of_their_own_constants_are_woken_as_on_the_cpu() -> None:
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.15, 2.0, (30, 6)), rng.integers(3, size=30)
    hidden = LIF(tau_mem=rng.uniform(0.8, 2.0, 8), threshold=rng.uniform(0.8, 1.2, 8))
    nets = [
        gs.Network([6, 8, 3], neuron=[hidden, LIF()], backend=name, seed=1, weight_mean=0.3, weight_std=0.3)
        for name in ("cuda", "cpu")
    ]
    for net in nets:
        gs.fit(net, t_in, labels, epochs=3, batch_size=10, silence="waking", waking=5.0)
    for one, other in zip(*(net.parameters.weights for net in nets), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


SMALL = [
    "backend=cuda",
    "dataset.n_train=60",
    "dataset.n_validation=20",
    "dataset.n_test=20",
    "training.batch_size=30",
    "training.epochs=1",
]


def test_a_run_that_wakes_is_on_the_device() -> None:
    (job,) = jobs(["experiment=yin_yang_few", *SMALL], multirun=False)
    parts = build(job.config)
    assert parts.backend.name == "cuda"
    assert new_trainer(parts).step.kind.name == "device"
