"""The ReLU network beside which a device's steps are put, on PyTorch's CPU; no test looks at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import yardstick

from gpuspike.kernels.convolution import Convolution

DENSE = [SimpleNamespace(n_in=n_in, n_out=n_out, convolution=None) for n_in, n_out in ((9, 6), (6, 3))]


def maps(shape: tuple[int, int, int], n_maps: int) -> SimpleNamespace:
    layer = Convolution(shape, n_maps, 5, pool=2)
    return SimpleNamespace(n_in=layer.n_in, n_out=layer.n_out, convolution=layer)


DEEP = [
    maps((28, 28, 1), 16),
    maps((12, 12, 16), 32),
    SimpleNamespace(n_in=512, n_out=128, convolution=None),
    SimpleNamespace(n_in=128, n_out=10, convolution=None),
]


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def of_seed(torch: Any, layers: Any = DENSE) -> yardstick.Steps:
    torch.manual_seed(0)
    return yardstick.Steps(torch, layers, 4, device="cpu")


def weights_after(torch: Any, steps: yardstick.Steps, work: Any, count: int = 3) -> Any:
    for number in range(count):
        steps.choose(number)
        work()
    return [weight.detach().clone() for weight in steps.network.parameters()]


@contextmanager
def cuda(replayed: list[Any]) -> Iterator[Any]:
    """A stand-in: a graph does again what was done while it was captured."""

    class Graph:
        def replay(self) -> None:
            replayed[0]()

    stream = SimpleNamespace(wait_stream=lambda _: None)
    yield SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda _: nullcontext(),
        CUDAGraph=Graph,
        graph=lambda _: nullcontext(),
        empty_cache=lambda: None,
        synchronize=lambda: None,
        Event=lambda **_: SimpleNamespace(
            record=lambda: None, synchronize=lambda: None, elapsed_time=lambda _: 3.0
        ),
    )


def test_networks_have_the_layers_of_the_spiking_ones(torch: Any) -> None:
    names = [type(part).__name__ for part in yardstick.network(torch, DEEP)]
    convolution = ["Conv2d", "ReLU", "MaxPool2d"]
    assert names == [*convolution, *convolution, "Flatten", "Linear", "ReLU", "Linear"]
    sizes = [tuple(weight.shape) for weight in yardstick.network(torch, DEEP).parameters()]
    assert sizes[::2] == [(16, 1, 5, 5), (32, 16, 5, 5), (128, 512), (10, 128)]
    assert [type(part).__name__ for part in yardstick.network(torch, DENSE)] == [
        "Flatten", "Linear", "ReLU", "Linear"
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [DENSE, DEEP], ids=["dense", "convolutions"])
def test_a_step_learns_from_the_batch_that_was_chosen(torch: Any, layers: Any) -> None:
    steps = of_seed(torch, layers)
    before = weights_after(torch, steps, steps.work, 0)
    after = weights_after(torch, steps, steps.work, 1)
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    steps.choose(1)
    assert steps._samples.tolist() == steps._order[4:8].tolist()


def test_all_ways_do_the_same_work(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled by a compiler that leaves the operations as they are."""
    steps = of_seed(torch)
    expected = weights_after(torch, steps, yardstick.eager(torch, steps))
    monkeypatch.setattr(yardstick, "COMPILER", "eager")
    steps = of_seed(torch)
    for got, wanted in zip(
        weights_after(torch, steps, yardstick.compiled(torch, steps)), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted)
    steps = of_seed(torch)
    done: list[int] = []
    monkeypatch.setattr(steps, "work", lambda: done.append(1))
    with cuda([lambda: done.append(2)]) as there:
        replay = yardstick.captured(SimpleNamespace(cuda=there), steps)
    replay()
    assert done == [1, 1, 1, 1, 2]  # thrice to warm up, once to be captured


def test_a_way_that_fails_leaves_its_column_empty_and_is_told_once(
    torch: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here\nand a page of why")

    def on_cpu(module: Any, layers: Any, batch: int) -> yardstick.Steps:
        del module
        return steps_of(torch, layers, batch, device="cpu")

    steps_of = yardstick.Steps
    monkeypatch.setattr(yardstick, "Steps", on_cpu)
    monkeypatch.setattr(yardstick, "_known", {})
    monkeypatch.setattr(yardstick, "_told", set())
    ways = {"PyTorch us": yardstick.eager, "compiled us": broken, "graph us": yardstick.eager}
    monkeypatch.setattr(yardstick, "WAYS", ways)
    with cuda([]) as there:
        monkeypatch.setattr(yardstick, "torch_module", lambda: SimpleNamespace(cuda=there))
        for batch in (4, 5):
            found = yardstick.columns(DENSE, batch, 2, 3)
            assert found == {
                "PyTorch us": pytest.approx(1500.0), "compiled us": None, "graph us": pytest.approx(1500.0)
            }  # fmt: skip
        monkeypatch.setattr(yardstick, "torch_module", broken)
        assert yardstick.columns(DENSE, 4, 2, 3) == found  # met before
    assert capsys.readouterr().err == 'no "compiled us": RuntimeError: no compiler here\n'


def test_without_pytorch_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(yardstick, "_known", {})
    monkeypatch.setattr(yardstick.importlib.util, "find_spec", lambda _: None)
    assert set(yardstick.columns(DENSE, 4, 1, 1).values()) == {None}

    def broken() -> Any:
        raise OSError("libcuda is too old")

    monkeypatch.setattr(yardstick, "_known", {})
    monkeypatch.setattr(yardstick, "torch_module", broken)
    assert set(yardstick.columns(DENSE, 4, 1, 1).values()) == {None}
    assert "OSError: libcuda is too old" in capsys.readouterr().err
