"""What a training step does beside the neurons, on the device, against what the CPU does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from device_on_cpu import closed, fake

from gpuspike.datasets.encoding import pixel_latency
from gpuspike.errors import ShapeError
from gpuspike.kernels import LayerState, cuda, load
from gpuspike.kernels.cuda import source as cuda_source
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.kernels.cuda.call import block_kernel
from gpuspike.kernels.cuda.update import Bumps, descend_active
from gpuspike.rng import Purpose, stream
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites, drawn
from gpuspike.training.bumping import NO_LAYER, Bumping
from gpuspike.training.losses import decide
from gpuspike.training.optimizers import SGD

pytestmark = pytest.mark.usefixtures("cupy")
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def spikes(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, silent: float = 0.2) -> Any:
    """Spike times with ties and silence among them."""
    times = np.round(rng.uniform(0.0, 2.0, shape), 2).astype(dtype)
    times[rng.random(shape) < silent] = np.inf
    return times


@each_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 5, 31, 32, 33, 257, 785, cuda_step.MOST_SORTED])
def test_rows_are_sorted_as_numpy_does(n: int, dtype: Any) -> None:
    times = spikes(np.random.default_rng(n), (2, 3, n), dtype)
    times[0, 0], times[0, 1, ::2], times[1, 2, : n // 2] = np.inf, 0.0, -0.0
    with closed():
        order = cuda.spike_order(fake(times))
    np.testing.assert_array_equal(np.asarray(order), np.argsort(times, axis=-1, kind="stable"))


def test_rows_that_no_block_can_hold_are_left_to_the_library() -> None:
    assert not cuda_step.sorts_by_itself(cuda_step.MOST_SORTED + 1)
    times = spikes(np.random.default_rng(0), (1, 2, cuda_step.MOST_SORTED + 1), np.float32)
    np.testing.assert_array_equal(np.asarray(cuda.spike_order(fake(times))), times.argsort(kind="stable"))


def test_even_not_a_number_leaves_an_order() -> None:
    times = np.array([[[3.0, np.nan, 1.0, -np.inf, np.inf]]])
    np.testing.assert_array_equal(np.asarray(cuda.spike_order(fake(times))), [[[3, 2, 0, 1, 4]]])


@each_dtype
@pytest.mark.parametrize("n_bias", [0, 1, 3])
def test_bias_spikes_come_and_their_gradients_go(n_bias: int, dtype: Any) -> None:
    times = spikes(np.random.default_rng(1), (2, 3, 4), dtype)
    bias = [0.5, 0.25, -0.75][:n_bias]
    cuda.with_bias(fake(times), bias)  # the constants are there
    with closed():
        everything = cuda.with_bias(fake(times), bias)
        back = cuda.without_bias(everything, 4)
    np.testing.assert_array_equal(np.asarray(everything)[..., 4:], np.broadcast_to(bias, (2, 3, n_bias)))
    np.testing.assert_array_equal(np.asarray(back), times)
    assert cuda.with_bias(fake(times[:, :0]), bias).shape == (2, 0, 4 + n_bias)


def batches(n_replica: int, n_train: int, n_pre: int, full: int, seeds: list[int], dtype: Any) -> Any:
    rng = np.random.default_rng(5)
    order = np.stack([rng.permutation(n_train) for _ in range(n_replica)])
    t_in, labels, clock = (
        spikes(rng, (1, n_train, n_pre), dtype),
        rng.integers(3, size=n_train),
        np.array([4, 1]),
    )
    ordered = np.argsort(t_in, axis=-1, kind="stable")
    return cuda_step.Batches(*map(fake, (t_in, ordered, labels, order, clock, np.array(seeds))), full)


@each_dtype
@pytest.mark.parametrize(("n_batch", "most"), [(1, 0), (7, 0), (7, 1), (7, 3), (3, 4)])
def test_a_batch_is_taken_and_shifted_as_on_the_cpu(n_batch: int, most: int, dtype: Any) -> None:
    seeds = [3, 2**62 + 5]
    of = batches(2, 20, 27, 7, seeds, dtype)
    shift = cuda_step.Shift(5, most, math.inf, Purpose.AUGMENTATION) if most else cuda_step.Shift()
    with closed():
        t_in, order, labels = cuda_step.take(of if not most else of._replace(sorted=None), n_batch, shift)
    samples = np.asarray(of.order)[:, 7 : 7 + n_batch]
    expected = np.asarray(of.t_in)[0][samples]
    if most:
        RandomShift(5, most, math.inf)(expected, seeds, 4, 1)
    np.testing.assert_array_equal(np.asarray(t_in), expected)
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(of.labels)[samples])
    if most:
        assert order is None
    else:
        np.testing.assert_array_equal(np.asarray(order), np.asarray(of.sorted)[0][samples])


@each_dtype
@pytest.mark.parametrize("most", [1, 4])
def test_negatives_are_shifted_as_on_the_cpu(most: int, dtype: Any) -> None:
    side, full, seeds = 5, 7, [3, 2**62 + 5]
    levels = pixel_latency(255.0, 0.2, 1.7, silent_black=False)
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (1, 20, side * side))
    both = levels.astype(dtype)[np.stack([pixels, 255 - pixels], axis=-1).reshape(1, 20, -1)]
    t_in = np.concatenate([both, np.full((1, 20, 2), 0.9, dtype)], axis=2)
    of = batches(2, 20, t_in.shape[2], full, seeds, dtype)._replace(t_in=fake(t_in), sorted=None)
    edges = levels[0], Purpose.AUGMENTATION, 2, levels[255]
    times, _, _ = cuda_step.take(of, full, cuda_step.Shift(side, most, *edges))
    expected = t_in[0][np.asarray(of.order)[:, full : 2 * full]]
    WithOpposites(RandomShift(side, most, levels[0]), levels)(expected, seeds, 4, 1)
    np.testing.assert_array_equal(np.asarray(times), expected)


WARPS: list[dict[str, Any]] = [
    {},
    {"mirror": True},
    {"max_shift": 2},
    {"max_turn": 180.0},
    {"elastic": 1.5},
    {"max_shift": 1, "max_turn": 20.0, "max_zoom": 0.3, "max_shear": 0.4, "elastic": 0.8, "mirror": True},
]


@each_dtype
@pytest.mark.parametrize("silent_black", [False, True])
@pytest.mark.parametrize("values", WARPS, ids=str)
@pytest.mark.parametrize("negatives", [False, True])
def test_a_batch_is_warped_as_on_the_cpu(
    negatives: bool, values: dict[str, Any], silent_black: bool, dtype: Any
) -> None:
    side, full, seeds, ahead = 6, 7, [3, 2**62 + 5], 3
    levels = pixel_latency(255.0, 0.2, 1.7, silent_black=silent_black)
    warp = RandomWarp(side, levels, **values)
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (1, 40, side * side)) * (rng.random((1, 40, side * side)) < 0.7)
    if negatives:
        pixels = np.stack([pixels, 255 - pixels], axis=-1).reshape(1, 40, -1)
    t_in = np.concatenate([levels.astype(dtype)[pixels], np.full((1, 40, 2), 0.9, dtype)], axis=2)
    order = np.stack([rng.permutation(40) for _ in seeds])
    clock, labels = np.array([4, 5]), rng.integers(3, size=40)
    of = cuda_step.Batches(fake(t_in), None, *map(fake, (labels, order, clock, np.array(seeds))), full)
    numbers = np.concatenate(drawn(warp, seeds, 4, 3, [full, full, 5]), axis=1)
    numbers = np.concatenate([numbers, np.zeros((2, 2, warp.n_drawn))], axis=1)
    arrays = map(fake, (warp.basis, levels.astype(dtype), numbers))
    there = cuda_step.Warp(*warp.scale(), *arrays, ahead, 2 if negatives else 1)
    with closed():
        times, told = cuda_step.take_warped(of, 5, there)
    samples = order[:, 35:40]
    expected = t_in[0][samples]
    (WithOpposites(warp, levels) if negatives else warp)(expected, seeds, 4, 5)
    np.testing.assert_array_equal(np.asarray(times), expected)
    np.testing.assert_array_equal(np.asarray(told), labels[samples])


@pytest.mark.parametrize("n_choices", [1, 2, 3, 5, 55, 3 << 29, (1 << 31) - 1])
def test_numbers_are_drawn_as_numpy_draws_them(n_choices: int) -> None:
    seeds, corners = [0, 2**63 - 1], fake(np.empty((2, 2, 150), np.int32))
    block_kernel("draw_corners", np.dtype(np.float32), cuda_source.NO_REGIME)(
        (2,),
        (cuda_step.STEP_THREADS,),
        (
            *map(np.int32, (150, n_choices, Purpose.AUGMENTATION)),
            *map(fake, (np.array(seeds), np.array([7, 9]))),
            corners,
        ),
    )
    for r, seed in enumerate(seeds):
        drawn = stream(seed, Purpose.AUGMENTATION, 7, 9).integers(n_choices, size=(2, 150))
        np.testing.assert_array_equal(np.asarray(corners)[r], drawn)


@each_dtype
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 13, 33), (2, 130, 65)])
def test_silent_samples_are_counted_for_every_neuron(shape: tuple[int, int, int], dtype: Any) -> None:
    t_out = spikes(np.random.default_rng(3), shape, dtype)
    with closed():
        counts = cuda.count_silent(fake(t_out))
    np.testing.assert_array_equal(np.asarray(counts), np.isinf(t_out).sum(axis=1))
    np.testing.assert_array_equal(load("cpu").count_silent(t_out)[:, 0], np.isinf(t_out).sum(axis=(1, 2)))


@each_dtype
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("exponential", [True, False])
@pytest.mark.parametrize("replaces", [True, False])
@pytest.mark.parametrize("dead", [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.3, 0.1), (0.25, 0.0, 0.3))])
def test_bumping_and_figures_are_those_of_the_cpu(
    dead: Any, replaces: bool, exponential: bool, targeted: bool, dtype: Any
) -> None:
    rng = np.random.default_rng(4)
    sizes, n_replica, n_batch = (37, 4), 3, 9
    bumping = Bumping((0.3, 0.25), 0.002, n_replica, exponential, targeted)
    weights = [rng.normal(size=(n_replica, 5, n)).astype(dtype) for n in sizes]
    ours = [fake(w.copy()) for w in weights]
    at = cuda_step.Judgement(
        fake(np.cumsum(sizes).astype(np.int32)), fake(np.array(bumping.max_silent)), fake(np.array(dead)),
        bumping.value, bumping.most, exponential, replaces, fake(bumping.layer.copy()),
        fake(bumping.size.copy()), fake(np.ones(n_replica, np.bool_)), fake(np.zeros((5, n_replica))),
        fake(np.array([4, 0])),
    )  # fmt: skip
    totals, seen, most = np.zeros((5, n_replica)), [], 1.0
    still, rate = [fake(np.zeros_like(w)) for w in weights], fake(np.ones(1))
    for step in range(12):
        silent = [(0.5, 0.1, 0.1), (0.5, 0.5, 0.1)] if step % 4 == 0 else [(0.1, 0.1, 0.5), (0.5, 0.1, 0.5)]
        outputs = [
            np.stack([spikes(rng, (n_batch, n), dtype, share) for share in shares])
            for n, shares in zip(sizes, silent, strict=True)
        ]
        labels, losses = (
            rng.integers(4, size=(n_replica, n_batch)),
            rng.random((n_replica, n_batch)).astype(dtype),
        )
        fractions = np.array([np.isinf(t).mean(axis=(1, 2)) for t in outputs])
        chosen = bumping.choose(fractions - np.array(dead))
        bumping.apply(weights, [LayerState(t, t, t, t, t) for t in outputs], chosen)
        np.clip(weights[1], -most, most, out=weights[1])
        bumped = chosen != NO_LAYER
        accuracy = (decide(outputs[-1]) == labels).mean(axis=1)
        totals += 0.25 * np.vstack([losses.mean(axis=1), accuracy, bumped, fractions])
        seen.append(chosen)
        given = [fake(array) for array in (labels, outputs[1], losses)]
        layers, counts = [fake(t) for t in outputs], fake(np.full((n_replica, 41), 77, np.int32))
        with closed():
            cuda_step.count_all(layers, counts)
            cuda_step.judge(at, counts, *given, 0.25)
            bumps = Bumps(at.layer, at.size, counts, (0, 37), (1, 1), (np.inf, most), targeted)
            descend_active(SGD(0.0), ours, still, [still[:1], still[1:]], [rate], at.active, bumps)
        np.testing.assert_array_equal(np.asarray(at.layer), bumping.layer)
        np.testing.assert_array_equal(np.asarray(at.size), bumping.size)
        np.testing.assert_array_equal(np.asarray(at.active), ~bumped | (not replaces))
    assert len(np.unique(seen)) == 3
    np.testing.assert_allclose(np.asarray(at.totals), totals, rtol=1e-12 if dtype == np.float64 else 1e-6)
    for got, expected in zip(ours, weights, strict=True):
        np.testing.assert_array_equal(np.asarray(got), expected)


def test_jitter_behind_the_inputs_is_refused() -> None:
    of = batches(1, 5, 4, 2, [3], np.float32)
    with pytest.raises(ShapeError, match="jitter needs at most 4 inputs, got 5"):
        cuda_step.jitter_now(fake(np.zeros((1, 2, 4))), cuda_step.Noise(5, 0.1), of.seeds, of.clock)
