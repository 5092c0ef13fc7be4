"""The memory plan: its bytes are those of the arrays, and what it says fits does."""

from __future__ import annotations

import contextlib
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.runs import memory

MNIST = [(785, 350), (351, 10)]
GIB = 1 << 30


def test_bytes_of_a_small_network_counted_by_hand() -> None:
    planned = memory.plan([(5, 3)], 2, n_replica=4, dtype=np.float64, backend="cpu")
    assert planned.arrays == {
        "layer 1 weights": 4 * 15 * 8,
        "layer 1 input times": 4 * 10 * 8,
        "layer 1 order": 4 * 10 * 8,
        "layer 1 output times and slopes": 2 * 4 * 6 * 8,
        "layer 1 weights' gradient": 4 * 15 * 8,
        "layer 1 optimiser": 2 * 4 * 15 * 8,
        "layer 1 output times' gradient": 4 * 6 * 8,
        "layer 1 backward": 4 * 2 * (2 * 5 + 6 * 3) * 8,
    }
    assert planned.passing == {}
    assert planned.total == sum(planned.arrays.values())


def test_what_is_left_out_is_not_counted() -> None:
    whole = memory.plan(MNIST, 80, n_replica=4)
    forward = memory.plan(MNIST, 80, n_replica=4, training=False)
    assert not any("gradient" in name or "optimiser" in name for name in forward.arrays)
    assert forward.total < whole.total
    shared = memory.plan(MNIST, 80, n_replica=4, shared_input=True)
    assert 4 * shared.arrays["layer 1 input times"] == whole.arrays["layer 1 input times"]
    assert shared.arrays["layer 2 input times"] == whole.arrays["layer 2 input times"]
    assert memory.plan(MNIST, 80, state_arrays=0).arrays["layer 1 optimiser"] == 0


def test_a_large_batch_of_the_mnist_layer_stays_far_below_an_entry_for_every_pair() -> None:
    planned = memory.plan([(784, 350)], 10_000)
    assert planned.total < 0.5 * GIB
    assert 10_000 * 784 * 350 * 4 > 20 * planned.total


def test_the_plan_covers_what_the_launcher_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuspike.kernels import cuda
    from gpuspike.kernels.cuda import call as cuda_call
    from gpuspike.kernels.unit import unit
    from gpuspike.neuron import LIF

    class Array(np.ndarray):
        device = SimpleNamespace(id=0)

    allocated: list[int] = []

    def empty(shape: Any, dtype: Any) -> Array:
        array = np.zeros(shape, dtype).view(Array)
        allocated.append(array.nbytes)
        return array

    fake = SimpleNamespace(
        ndarray=Array,
        empty=empty,
        empty_like=lambda array: empty(array.shape, array.dtype),
        asarray=lambda array: np.asarray(array).view(Array),
        cuda=SimpleNamespace(
            Device=lambda: SimpleNamespace(id=0),
            using_allocator=lambda _: contextlib.nullcontext(),
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
        ),
        get_default_memory_pool=lambda: SimpleNamespace(malloc=None),
    )
    for module in (cuda, cuda_call):
        monkeypatch.setattr(module, "cupy_module", lambda: fake)
    monkeypatch.setattr(cuda, "elementwise", lambda _: lambda *args, **options: None)
    monkeypatch.setattr(cuda, "block_kernel", lambda *_: lambda *args: None)
    monkeypatch.setattr(cuda, "forward_kernel", lambda *_: lambda *args: None)
    cuda_call.on_device.cache_clear()
    n_batch, n_pre, n_post, n_replica = 300, 100, 70, 2
    t_in, weights = (
        empty((n_replica, n_batch, n_pre), np.float32),
        empty((n_replica, n_pre, n_post), np.float32),
    )
    order, grad = empty(t_in.shape, np.int64), empty((n_replica, n_batch, n_post), np.float32)
    planned = memory.plan([(n_pre, n_post)], n_batch, n_replica, state_arrays=0)
    allocated.clear()
    t_out, slope = cuda.forward(t_in, order, weights, unit(LIF(), weights))  # type: ignore[arg-type]
    lasting = t_out.nbytes + slope.nbytes
    assert lasting == planned.arrays["layer 1 output times and slopes"]
    assert sum(allocated) - lasting == planned.passing["layer 1 forward"]
    allocated.clear()
    cuda.backward(
        t_in, weights, unit(LIF(), weights), t_out, slope, grad,
        active=np.ones(n_replica, np.bool_), max_weight_grad=1.0, need_t_in_grad=False,
    )  # fmt: skip
    few = n_replica * n_batch  # one flag a sample
    assert sum(allocated) - weights.nbytes - few == planned.passing["layer 1 backward"]
    cuda_call.on_device.cache_clear()


@pytest.mark.parametrize("backend", ["cuda", "cpu", "reference"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("budget", [1 << 23, 1 << 28, 1 << 34])
def test_the_largest_batch_fits_and_the_next_does_not(backend: str, training: bool, budget: int) -> None:
    options: dict[str, Any] = {"backend": backend, "training": training, "n_replica": 2}
    most = memory.largest_batch(MNIST, budget, **options)
    if most:
        assert memory.plan(MNIST, most, **options).total <= budget
    assert memory.plan(MNIST, most + 1, **options).total > budget


@pytest.mark.parametrize("layers", [MNIST, [(16, 60), (60, 50), (50, 10)]])
def test_a_larger_batch_needs_no_less(layers: list[tuple[int, int]]) -> None:
    """Not even where a weights' gradient no longer runs beside others."""
    totals = [memory.plan(layers, n_batch, 4).total for n_batch in range(1, 6000, 7)]
    assert totals == sorted(totals)


def test_nothing_fits_into_nothing() -> None:
    assert memory.largest_batch(MNIST, 1000) == 0
    with pytest.raises(ConfigError, match=r"one sample's forward pass needs 1\..* MiB, got 1000 B of memory"):
        memory.evaluation_chunk(MNIST, 100, 1000)
    with pytest.raises(ConfigError, match="no batch fits: use fewer replicas or smaller layers"):
        memory.require(MNIST, 80, 1000)


def test_evaluation_is_cut_into_chunks_that_fit() -> None:
    assert memory.evaluation_chunk(MNIST, 10_000, 64 * GIB) == 10_000
    chunk = memory.evaluation_chunk(MNIST, 10_000, GIB // 16)
    assert 0 < chunk < 10_000
    assert memory.plan(MNIST, chunk, training=False).total <= GIB // 16


def test_a_batch_that_cannot_fit_is_refused_with_the_largest_that_does() -> None:
    most = memory.largest_batch(MNIST, GIB)
    assert memory.require(MNIST, most, GIB).total <= GIB
    with pytest.raises(ConfigError) as caught:
        memory.require(MNIST, 1_000_000, GIB)
    message = str(caught.value)
    assert message.startswith("training.batch_size=1000000 needs ")
    assert f"got 1.0 GiB: the largest that fits is {most}" in message
    assert "\n" not in message


@pytest.mark.parametrize("arguments", [([], 1), ([(0, 3)], 1), ([(3, 3)], 0), ([(3, 3)], 1, 0)])
def test_sizes_must_be_positive(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueRangeError, match="must be 1 or more"):
        memory.plan(*arguments)


def test_bytes_in_words() -> None:
    assert [memory.in_words(n) for n in (0, 1023, 1536, 3 << 20, 5 << 40, 5 << 52)] == [
        "0 B", "1023 B", "1.5 KiB", "3.0 MiB", "5.0 TiB", "20480.0 TiB",
    ]  # fmt: skip


def test_the_memory_of_freed_arrays_is_kept_for_the_next_ones() -> None:
    """Counted in page faults: a loop that frees and takes the same arrays makes them once, not every time."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc gives memory back at once and can be told not to")
    code = """
import resource, numpy as np
from gpuspike.runs.memory import keep_freed_memory
keep_freed_memory()
def step():
    return sum(a.size for a in [np.ones(n << 17) for n in (1, 3, 2, 5)])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""
    pages_of_a_step = (11 << 17) * 8 // resource.getpagesize()
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < pages_of_a_step
