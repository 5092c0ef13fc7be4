"""Branches of a step's graph: in any order that they leave, the bits of the kernels launched one by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from device_on_cpu import device, fake
from small_training import MAPS, WAKING, Run, Setup, assert_same_runs

from gpuspike.errors import DivergedError
from gpuspike.kernels.cuda import graph as cuda_graph
from gpuspike.kernels.cuda import source as src
from gpuspike.runs import memory

pytestmark = pytest.mark.usefixtures("cupy")

SMALL = Setup(bump_replaces_step=False, n_train=48, seeds=(3,))
ORDERS = 4


def in_some_order(setup: Setup, seed: int) -> Run:
    """Trained, the launches of a graph in an order that the seed chooses."""
    device.launches.clear()
    device.chance.seed(seed)
    return setup.trained(2)


def one_by_one(setup: Setup) -> Run:
    return in_some_order(replace(setup, graph=False), 0)


def finds_it(expected: Run) -> bool:
    """Whether what is wrong shows in one of a few orders, or is told."""
    for seed in range(2 * ORDERS):
        try:
            assert_same_runs(in_some_order(SMALL, seed), expected)
        except (AssertionError, DivergedError):
            return True
        assert "graph" in device.launches
    return False


@pytest.mark.parametrize(
    "setup",
    [
        SMALL,
        Setup(n_train=48),
        replace(WAKING, n_train=48),
        pytest.param(replace(MAPS, bump_replaces_step=False, n_train=48), marks=pytest.mark.slow),
        replace(SMALL, n_train=260, batch_size=130),
    ],
    ids=["figures beside", "bumps that replace steps", "waking", "maps", "sums of parts"],
)
def test_the_order_of_branches_changes_no_bit(setup: Setup) -> None:
    expected = one_by_one(setup)
    for seed in range(ORDERS):
        run = in_some_order(setup, seed)
        assert "graph" in device.launches
        for r in range(len(setup.seeds)):
            assert_same_runs(run, expected, r, r)


def changed(monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., Any]) -> None:
    """A method of lanes calls another with itself, which is given what stood there."""
    before = getattr(cuda_graph.Lane, name)
    monkeypatch.setattr(cuda_graph.Lane, name, lambda lane, *given: instead(before, lane, *given))


def test_a_branch_that_is_not_joined_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = one_by_one(SMALL)
    with monkeypatch.context() as patch:  # only before the capture ends: the weights do not wait
        patch.setattr(cuda_graph, "joined", lambda: None)
        assert finds_it(expected)

    def unjoined(_: Any, lane: cuda_graph.Lane) -> None:
        lane._kept = []

    changed(monkeypatch, "_join", unjoined)
    with pytest.raises(AssertionError, match="a branch was not joined before the end of the capture"):
        in_some_order(SMALL, 0)
    assert device.recorded is None


def test_an_array_that_is_not_kept_for_a_branch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = one_by_one(SMALL)
    changed(monkeypatch, "_beside", lambda before, lane, _: before(lane, ()))
    assert finds_it(expected)


def test_a_branch_that_begins_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = one_by_one(SMALL)

    @contextmanager
    def early(before: Any, lane: cuda_graph.Lane, arrays: Any) -> Any:
        record = lane._stream.record
        if lane._forked:  # the second fork has the first one's edge
            lane._stream.record = lambda event: None
        with before(lane, arrays):
            lane._stream.record = record
            yield

    changed(monkeypatch, "_beside", early)
    assert finds_it(expected)


def test_a_branch_takes_no_memory(cupy: Any) -> None:
    lane, array = cuda_graph.Lane(), fake(np.zeros(3, np.float32))

    def step() -> None:
        made = cupy.empty(3, np.float32)
        with cuda_graph.beside(made):
            np.add(array, array, out=made)
            cupy.empty(3, np.float32)

    lane.run(step)
    with pytest.raises(AssertionError, match="memory is taken in a branch"):
        lane.capture(step)
    assert device.recorded is None
    assert lane._kept == []


def test_what_breaks_a_branch_off_is_raised(cupy: Any) -> None:
    lane, array = cuda_graph.Lane(), fake(np.zeros(3, np.float32))

    def step(*, breaks: bool) -> None:
        made = cupy.empty(3, np.float32)
        with cuda_graph.beside(made), cuda_graph.beside():  # one in another is the same
            np.add(array, array, out=made)
            if breaks:
                raise ValueError("why")

    lane.run(lambda: step(breaks=False))
    for work in (lane.run, lane.capture):
        with pytest.raises(ValueError, match="why"):
            work(lambda: step(breaks=True))
        assert (lane._kept, lane._forked, device.recorded) == ([], False, None)
    lane.replay(lane.capture(lambda: step(breaks=False)))


def test_the_edges_of_a_graph() -> None:
    lane = cuda_graph.Lane()
    array, out = (fake(np.zeros(3, np.float32)) for _ in range(2))

    def added() -> None:
        np.add(array, array, out=out)

    def step() -> None:
        added()
        for _ in range(2):
            with cuda_graph.beside(out):
                added()
            added()
        with cuda_graph.in_order(), cuda_graph.beside(out):
            added()
        cuda_graph.joined()
        added()

    step()  # outside of a lane
    device.busy = ()
    lane.run(step)

    def edges() -> list[set[int]]:
        return [set(node.behind) for node in lane.capture(step).graph.nodes]

    assert edges() == [set(), {0}, {0}, {1, 2}, {2}, {4}, {3, 5}]
    lane.branches = False
    assert edges() == [set(), {0}, {1}, {2}, {3}, {4}, {5}]


def test_what_leaves_no_room_does_not_go_beside() -> None:
    assert src.goes_beside(1, 350, 10, 80)  # six blocks
    assert not src.goes_beside(64, 350, 10, 80)
    assert not src.goes_beside(1, 350, 10, 10_000)  # cut into 510
    assert not src.goes_beside(1, 784, 350, 80)


@pytest.mark.parametrize("hidden", [pytest.param(12, marks=pytest.mark.slow), 33])
def test_what_branches_keep_was_planned(hidden: int) -> None:
    setup = Setup(hidden=hidden, bump_replaces_step=False, n_train=400, batch_size=129)
    trainer, _ = setup.trained(1)
    layers = [(layer.n_pre, layer.n_out) for layer in trainer.network.layers]
    planned = memory.plan(layers, 129, 2, np.float64)
    lasting = sum(size for name, size in planned.arrays.items() if name.endswith((" weights", "optimiser")))
    small = 2 * 129 * (8 + 8 + 2)  # labels, losses, flags
    peak = trainer.step._lane._pool.peak  # type: ignore[attr-defined]
    assert peak <= planned.total - lasting + small
