"""Training on the device against training on the CPU, step by step and as a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import OutOfMemoryError, closed, default_pool, device, fake
from small_training import Setup, assert_close_runs, assert_same_runs, each_bumped_on_a_device

from gpuspike.errors import DataError
from gpuspike.kernels.cuda import graph as cuda_graph
from gpuspike.kernels.cuda import lazy
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.runs import memory
from gpuspike.training import device as device_module
from gpuspike.training.device import DeviceStep
from gpuspike.training.evaluation import Labelled, evaluate
from gpuspike.training.losses import TimeMSE
from gpuspike.training.optimizers import SGD

pytestmark = pytest.mark.usefixtures("cupy")


@each_bumped_on_a_device
def test_training_on_the_device_is_training_on_the_cpu(setup: Setup) -> None:
    ours, theirs = setup.trained(), replace(setup, backend="cpu").trained()
    # The noise is drawn in float32.
    assert_close_runs(ours, theirs, 1e-3 if setup.input_noise else 1e-8)
    bumped = np.array([record.bump_fraction for record in ours[1]])
    assert bumped.any()
    assert not bumped.all() or setup.batch_size == setup.n_train


def test_in_float32_it_is_the_same_to_rounding() -> None:
    setup = Setup(dtype=np.float32)
    assert_close_runs(setup.trained(1), replace(setup, backend="cpu").trained(1), 2e-4)


@each_bumped_on_a_device
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_a_graph_gives_the_bits_of_its_kernels_launched_one_by_one(setup: Setup, dtype: Any) -> None:
    setup = replace(setup, dtype=dtype)
    replayed = setup.trained()
    n_replayed = device.launches.count("graph")
    device.launches.clear()
    one_by_one = replace(setup, graph=False).trained()
    full = setup.n_train // setup.batch_size
    assert n_replayed == 3 * full - 1
    assert "graph" not in device.launches
    for r in range(2):
        assert_same_runs(replayed, one_by_one, r, r)


@each_bumped_on_a_device
def test_a_replica_is_the_run_of_its_seed_alone(setup: Setup) -> None:
    together = setup.trained(2)
    for r, seed in enumerate(setup.seeds):
        assert_same_runs(together, replace(setup, seeds=(seed,)).trained(2), r, 0)


def test_nothing_crosses_to_the_host_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = DeviceStep.batch
    seen = []

    def closed_batch(step: DeviceStep, number: int) -> None:
        if step._warm is not None:  # constants are sent by the first
            with closed():
                batch(step, number)
            seen.append(number)
        else:
            batch(step, number)

    monkeypatch.setattr(DeviceStep, "batch", closed_batch)
    for graph in (True, False):
        Setup(graph=graph, input_noise=0.1, shift=1).trained(2)
    assert seen == [1, 2, 3, 4, 0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize(
    ("how", "expected"),
    [({}, 19), ({"bias": ((), ())}, 17), ({"bias": ((), ()), "optimizer": SGD(0.9), "loss": TimeMSE()}, 16)],
)
def test_a_step_has_few_launches(how: Any, expected: int) -> None:
    Setup(graph=False, input_noise=0.1, n_train=16, **how).trained(1)
    names = device.launches
    first = next(n for n, name in enumerate(names) if "take" in name)
    last = max(n for n, name in enumerate(names) if "update" in name)
    assert last + 1 - first == expected, names


@pytest.mark.parametrize(("input_noise", "expected"), [(0.0, 1 + 4), (0.1, 2 * 4)])
def test_a_data_set_without_noise_is_sorted_once(input_noise: float, expected: int) -> None:
    trainer = Setup(graph=False, input_noise=input_noise, n_train=64).trainer()
    data = Setup().labelled(1, 64)
    trainer.step.begin(data, np.arange(64)[None].repeat(2, axis=0), 0, 0.01)
    for number in range(4):
        trainer.step.batch(number)
    assert sum("sort_row" in name for name in device.launches) == expected


def test_what_looks_at_the_device_cannot_be_captured(cupy: Any) -> None:
    lane, array = cuda_graph.Lane(), cupy.zeros(3)
    compiles = "would be compiled in a capture"
    for step, words in (
        (array.get, "cannot be captured"),
        (lambda: array + 1.0, compiles),
        (lambda: array.fill(1.0), "cannot be captured"),
        (lambda: cupy.zeros(2), "cannot be captured"),
    ):
        device.busy = ()
        with pytest.raises(AssertionError, match=words):
            lane.capture(step)
        assert device.recorded is None


def test_a_kernel_is_compiled_for_each_number_of_axes() -> None:
    """As CuPy does it, which joins axes that all arrays pass through as one."""
    lane, rows, column = cuda_graph.Lane(), fake(np.ones((3, 4))), fake(np.ones((3, 1)))

    def added(one: Any, other: Any) -> None:
        (lazy.later(one) + other).now("sum")

    lane.run(lambda: added(rows, rows))
    lane.capture(lambda: added(rows.reshape(2, 6), rows.reshape(2, 6)))
    with pytest.raises(AssertionError, match="would be compiled in a capture"):
        lane.capture(lambda: added(rows, column))
    lane.run(lambda: added(rows, column))
    lane.capture(lambda: added(rows, column))
    lane.capture(lambda: added(fake(np.ones((5, 2))), fake(np.ones((5, 1)))))


def test_what_breaks_a_capture_off_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(stream: Any) -> None:
        device.recorded = None
        raise RuntimeError("the capture was invalidated")

    lane = cuda_graph.Lane()
    monkeypatch.setattr(type(lane._stream), "end_capture", broken)

    def step() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        lane.capture(step)
    with pytest.raises(RuntimeError, match="invalidated"):
        lane.capture(lambda: None)


def test_a_graph_whose_memory_went_back_to_the_device_is_captured_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = Setup().trained(3)
    device.launches.clear()
    trainer = Setup().trainer()
    step = trainer.step
    assert isinstance(step, DeviceStep)
    renewed, batch = [], step.batch

    def crowded(number: int) -> None:
        before = step._graph
        if len(renewed) < 2 and before is not None:  # another step finds the device full
            device.refusals = 1
            step._lane.run(lambda: device.empty((1 << 20) + len(renewed), np.int8))
            assert device.refusals == 0
            assert not step._lane.holds(before)
            renewed.append(before)
        batch(number)

    monkeypatch.setattr(step, "batch", crowded)
    setup = Setup()
    records = [*trainer.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 3)]
    assert_same_runs((trainer, records), expected)
    assert len(renewed) == 2
    assert "graph" in device.launches


def test_what_was_given_back_while_a_step_was_captured_is_not_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = Setup().trained(2)
    trainer, made = Setup().trainer(), []
    step = trainer.step
    assert isinstance(step, DeviceStep)
    capture = step._lane.capture

    def crowded(work: Any) -> Any:
        def crowded_work() -> None:
            work()
            if len(made) < 3:  # the last kernel of the step finds the device full
                device.refusals = 1
                device.empty((1 << 20) + len(made), np.int8)

        made.append(capture(crowded_work))
        assert step._lane.holds(made[-1]) is (len(made) > 3)
        return made[-1]

    monkeypatch.setattr(step._lane, "capture", crowded)
    setup = Setup()
    records = [*trainer.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 2)]
    assert_same_runs((trainer, records), expected)
    assert len(made) == 4


def test_a_step_that_finds_no_memory_says_so_and_leaves_nothing_recorded() -> None:
    setup = Setup()
    trainer = setup.trainer()
    device.refusals = 2
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        next(iter(trainer.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 1)))
    assert device.recorded is None


def test_a_lane_gives_its_memory_back() -> None:
    trainer, _ = Setup(n_train=16).trained(1)
    assert isinstance(trainer.step, DeviceStep)
    pool: Any = trainer.step._lane._pool
    assert pool.total_bytes() > 0
    del trainer
    assert pool.total_bytes() == 0


def test_an_evaluation_holds_one_batch_at_a_time() -> None:
    setup, peaks = Setup(), []
    network, n_batch = setup.network(), 200
    weights = [
        network.kernels.place(w) for w in network.initial_weights((3,), (0.6, 0.3), (0.8, 0.5), np.float64)
    ]
    for n_batches in (1, 3):
        data = setup.labelled(5, n_batches * n_batch)
        data = Labelled(data.received.to(network.kernels.place), network.kernels.place(data.labels))
        before = default_pool.peak = default_pool.live
        evaluate(network, weights, data, setup.made_loss(), n_batch)
        peaks.append(default_pool.peak - before)
    answers = n_batch * (3 + 1) * 8 + 15 * 4  # spike times, losses, counts of silent samples
    assert peaks[1] - peaks[0] <= 3 * answers


def test_training_in_two_goes_and_on_two_backends(cupy: Any) -> None:
    setup = Setup(input_noise=0.1)
    whole = setup.trained(4)
    first, records = setup.trained(2)
    arrays = {name: array.copy() for name, array in first.state().items()}
    second = setup.trainer()
    second.restore(arrays, 2)
    records += second.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 4)
    for r in range(2):
        assert_same_runs((second, records), whole, r, r)
    host = replace(setup, backend="cpu").trainer()
    assert {name: (a.shape, a.dtype) for name, a in host.state().items()} == {
        name: (a.shape, a.dtype) for name, a in arrays.items()
    }
    host.restore(arrays, 2)
    records = records[:2] + list(host.train(setup.labelled(0, setup.n_train), setup.labelled(1, 40), 4))
    assert_close_runs((host, records), whole, 1e-3)


def test_another_data_set_gets_another_graph() -> None:
    setup = Setup()
    trainer = setup.trainer()
    validation = setup.labelled(1, 40)
    host = replace(setup, backend="cpu").trainer()
    for n_epochs, (seed, n_train) in enumerate([(0, 70), (5, 48), (6, 48)], start=1):
        data = setup.labelled(seed, n_train)
        ours, theirs = ([*t.train(data, validation, n_epochs)] for t in (trainer, host))
        assert_close_runs((trainer, ours), (host, theirs), 1e-8)


def test_rows_that_the_library_sorts_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Setup().trained(1)
    monkeypatch.setattr(cuda_step, "MOST_SORTED", 9)
    device.launches.clear()
    assert_same_runs(Setup().trained(1), expected)
    assert "graph" not in device.launches


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_warps_are_the_same_however_many_batches_are_drawn_for(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(warp=(("max_turn", 30.0), ("elastic", 0.4)), shift=1)
    expected = setup.trained(2)
    assert expected[0].step._warp.ahead == 5  # type: ignore[attr-defined] - of an epoch's 70 samples
    a_batch = 8 * 2 * setup.batch_size * (6 + 2 * 49)
    monkeypatch.setattr(device_module, "DRAWN", (ahead + 1) * a_batch - 1)
    other = setup.trained(2)
    assert other[0].step._warp.ahead == ahead  # type: ignore[attr-defined]
    assert_same_runs(other, expected)


def test_labels_that_no_neuron_has_are_refused() -> None:
    setup = Setup()
    data = setup.labelled(0, 20)
    bad = Labelled(data.received, np.where(np.arange(20) == 7, 3, data.labels))
    with pytest.raises(DataError, match="labels must lie from 0 to 2, got 0 to 3"):
        next(iter(setup.trainer().train(bad, data, 1)))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_takes_the_memory_that_was_planned(dtype: Any, graph: bool) -> None:
    setup = Setup(dtype=dtype, graph=graph, n_train=400, batch_size=200, input_noise=0.1, shift=1)
    trainer, _ = setup.trained(2)
    assert isinstance(trainer.step, DeviceStep)
    layers = [(layer.n_pre, layer.n_out) for layer in trainer.network.layers]
    planned = memory.plan(layers, 200, 2, dtype)
    lasting = sum(size for name, size in planned.arrays.items() if name.endswith((" weights", "optimiser")))
    small = 2 * 200 * (8 + 8 + 2)  # labels, losses, corners, flags
    assert trainer.step._lane._pool.peak <= planned.total - lasting + small  # type: ignore[attr-defined]
