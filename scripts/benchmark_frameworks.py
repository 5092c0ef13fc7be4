"""What first spikes cost through PyTorch and JAX, and what a network trained in pure PyTorch reaches.

    python scripts/benchmark_frameworks.py [--pairs N] [--epochs N] [--seeds N]

The first table is one layer of 784 inputs and 350 neurons with a batch of 80 in float32, forward and both
gradients: by `gs.first_spikes` and `gs.first_spikes_vjp` on NumPy arrays, without and with slopes that are
kept in between, as frameworks keep them, and by a framework. The calls take turns, each first every other
time, and the median of their ratios is told beside the least times: a shared machine changes its speed while
one looks. Freed memory is kept, as a training keeps it: else glibc gives some MiB back to the system after
one call and takes a thousand page faults in another, a tenth of the time of whichever it hits. The last
figure is what a framework takes where kernels answer at once.

The second is Yin-Yang, 4-120-3: `gs.fit`, and the same initial weights trained by a loop of PyTorch's with
its Adam, in batches of 100 with the same loss, guard of gradients and rule that wakes silent neurons.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

import gpuspike as gs
from gpuspike.runs.memory import keep_freed_memory
from gpuspike.torch import Bumping, TTFSCrossEntropy, decide, first_spikes, layers_of

N_BATCH, N_PRE, N_POST = 80, 784, 350


def layer() -> tuple[Any, Any, Any]:
    """Input times over two tau_syn, weights that make every neuron spike early, and a gradient."""
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.0, 2.0, (N_BATCH, N_PRE)).astype(np.float32)
    weights = rng.normal(10.0 / N_PRE, N_PRE**-0.5, (N_PRE, N_POST)).astype(np.float32)
    return t_in, weights, rng.normal(size=(N_BATCH, N_POST)).astype(np.float32)


def on_arrays() -> Callable[[], object]:
    """The call on NumPy arrays."""
    t_in, weights, grad = layer()
    neuron = gs.LIF()
    return lambda: gs.first_spikes_vjp(t_in, weights, neuron, gs.first_spikes(t_in, weights, neuron), grad)


def with_slopes() -> Callable[[], object]:
    """The same with slopes that are kept."""
    t_in, weights, grad = layer()
    neuron = gs.LIF()

    def call() -> object:
        t_out, slopes = gs.first_spikes(t_in, weights, neuron, return_slopes=True)
        return gs.first_spikes_vjp(t_in, weights, neuron, t_out, grad, slopes=slopes)

    return call


def in_torch() -> Callable[[], object]:
    """The same in PyTorch."""
    t, w, grad = (torch.from_numpy(array) for array in layer())
    t.requires_grad_()
    w.requires_grad_()
    neuron = gs.LIF()
    return lambda: torch.autograd.grad(first_spikes(t, w, neuron), (t, w), grad)


def in_jax() -> Callable[[], object]:
    """The same in JAX, compiled."""
    import jax

    from gpuspike.jax import first_spikes as function

    arrays, neuron = [jax.numpy.asarray(array) for array in layer()], gs.LIF()

    @jax.jit
    def both(t: Any, w: Any, grad: Any) -> Any:
        return jax.vjp(lambda t, w: function(t, w, neuron), t, w)[1](grad)

    return lambda: jax.block_until_ready(both(*arrays))


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def overhead(n_pairs: int) -> None:
    """Prints what each framework adds."""
    arrays = {"arrays": on_arrays(), "slopes kept": with_slopes()}
    for name, call in (("PyTorch", in_torch()), ("JAX", in_jax())):
        for other, plain in arrays.items():
            ours, theirs = 1e3 * in_turns(plain, call, n_pairs)
            ratio = 100 * (np.median(theirs / ours) - 1)
            told = f"{name:8} {theirs.min():6.2f} ms, {other:11} {ours.min():6.2f} ms at least"
            print(f"{told}, median of ratios {ratio:+.1f} %")
        print(f"{name:8} {alone(name):6.3f} ms without the kernels")


def in_turns(one: Callable[[], object], other: Callable[[], object], n_pairs: int) -> Any:
    """(2, n_pairs) seconds of two calls, each of which goes first every other time."""
    for _ in range(5):
        one(), other()
    pairs = []
    for number in range(n_pairs):
        first, second = (one, other) if number % 2 else (other, one)
        times = seconds(first), seconds(second)
        pairs.append(times if number % 2 else times[::-1])
    return np.array(pairs).T


def alone(name: str) -> float:
    """Least milliseconds of a call whose kernels answer at once."""
    t_in, weights, _ = layer()
    answer = gs.first_spikes(t_in, weights, gs.LIF(), return_slopes=True)
    module = importlib.import_module("gpuspike.torch.spikes" if name == "PyTorch" else "gpuspike.jax")
    answers: Any = {
        "kernels": SimpleNamespace(first_spikes=lambda *_, **__: answer),
        "pull_back": lambda *_, **__: (np.zeros_like(t_in), np.zeros_like(weights)),
    }
    with mock.patch.multiple(module, **answers):
        call = in_torch() if name == "PyTorch" else in_jax()
        for _ in range(5):
            call()
        return 1e3 * min(seconds(call) for _ in range(200))


def in_pure_torch(data: Any, seed: int, epochs: int) -> float:
    """Test accuracy of a network that a loop of PyTorch's has trained."""
    t_train, labels, t_test, labels_test = (torch.from_numpy(a) for a in (*data.train, *data.test))
    net = gs.Network([4, 120, 3], bias_times=[[0.9], [0.9]], seed=seed)
    model, loss = layers_of(net, max_weight_grad=0.2), TTFSCrossEntropy(xi=0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    bumping, generator = Bumping(model), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(100):
            optimizer.zero_grad()
            loss(model(t_train[batch]), labels[batch]).backward()
            optimizer.step()
            bumping.step()
    with torch.no_grad():
        classes, _ = decide(model(t_test))
    return float((classes == labels_test).double().mean())


def by_ours(data: Any, seed: int, epochs: int) -> float:
    """Test accuracy of the network that `gs.fit` has trained."""
    net = gs.Network([4, 120, 3], bias_times=[[0.9], [0.9]], seed=seed)
    gs.fit(net, *data.train, epochs=epochs)
    return float(net.accuracy(*data.test))


def yin_yang(epochs: int, seeds: int) -> None:
    """Prints the accuracy of both trainings over some seeds."""
    data = gs.dataset("yin_yang")
    for name, trained in (("gs.fit", by_ours), ("PyTorch", in_pure_torch)):
        accuracy = 100 * np.array([trained(data, seed, epochs) for seed in range(seeds)])
        print(f"{name:8} {accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f} % of {len(data.test.labels)}")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    keep_freed_memory()
    overhead(given.pairs)
    yin_yang(given.epochs, given.seeds)


if __name__ == "__main__":
    main()
