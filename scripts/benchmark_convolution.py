"""How fast convolutional layers are, beside the fully connected layer of their fan-in on each patch.

    python scripts/benchmark_convolution.py [--case SUBSTRING] [--repeats N]

Both compute the same spikes from the same weights: the fully connected layer is given each position's patch
as a sample, gathered before the clock starts, and sorts it. Gradients are those of the spikes that are heard,
with respect to weights and times. The two take turns.

Columns:

    ms, dense ms    median times of a call
    G pairs/s       pair-events over the time: samples x positions x fan-in x maps, as of the dense layer
    ratio           dense over ours: above 1 the convolution is faster
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpuspike import LIF
from gpuspike.backend import select, thread_count
from gpuspike.kernels import LayerState, load
from gpuspike.kernels.convolution import Convolution
from gpuspike.network.initial import from_fan_in
from gpuspike.network.layers import Layer


@dataclass(frozen=True)
class Case:
    """A layer, and what share of its inputs spike together, last, as an image's background does."""

    name: str
    layer: Convolution
    background: float = 0.0


CASES = (
    Case("28x28, 16 maps of 5x5, pooled", Convolution((28, 28, 1), 16, 5, pool=2)),
    Case("the same, 4 in 5 pixels black", Convolution((28, 28, 1), 16, 5, pool=2), 0.8),
    Case("12x12x16, 32 maps of 5x5, pooled", Convolution((12, 12, 16), 32, 5, pool=2)),
    Case("14x14x32, 64 maps of 3x3", Convolution((14, 14, 32), 64, 3, padding=1)),
)
N_BATCH, NEURON = 100, LIF()


def calls(case: Case) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Ours and the dense layer's, forth and back."""
    layer, kernels, r = case.layer, load("cpu"), np.random.default_rng(0)
    assert kernels.convolution is not None
    ours, everybody = kernels.convolution, np.ones(1, np.bool_)
    t_in = r.uniform(0.15, 2.0, (1, N_BATCH, layer.n_in)).astype(np.float32)
    rows, columns, _ = layer.shape
    image = t_in.reshape(N_BATCH, rows, columns, -1)
    edge = 0.5 * (1.0 - (1.0 - case.background) ** 0.5)  # a frame, within which there is something to see
    y, x = round(edge * rows), round(edge * columns)
    if case.background:
        image[:, :y], image[:, rows - y :], image[:, :, :x], image[:, :, columns - x :] = (2.0,) * 4
    (mean,), (std,) = from_fan_in([Layer(layer.n_in, layer.n_out, (), NEURON, convolution=layer)])
    weights = r.normal(mean, std, (1, layer.fan_in, layer.n_maps)).astype(np.float32)
    patches = layer.patches(t_in)
    state = ours.forward(layer, t_in, weights, NEURON)
    (dense,) = kernels.forward(patches, None, [weights], [NEURON], [()])
    grad = r.normal(size=state.t_out.shape).astype(np.float32)
    spread = layer.spread(grad, state.t_cross).reshape(dense.t_out.shape)
    options: dict[str, Any] = {"active": everybody, "max_weight_grad": np.inf, "need_t_in_grad": True}
    known = LayerState(patches, np.empty(0, np.int64), dense.t_out, dense.t_cross, dense.slope)
    return {
        "forward": (
            lambda: ours.forward(layer, t_in, weights, NEURON),
            lambda: kernels.forward(patches, None, [weights], [NEURON], [()]),
        ),
        "gradients": (
            lambda: ours.backward(layer, state, weights, NEURON, grad, **options),
            lambda: kernels.backward([known], [weights], [NEURON], spread, **options),
        ),
    }


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    cases = [case for case in CASES if options.case in case.name]
    if not cases:
        names = "\n  ".join(case.name for case in CASES)
        parser.error(f"--case must be a part of one of these names, got {options.case!r}:\n  {names}")
    table = Table(title=f"{platform.node()}: {select('cpu').device}, {thread_count()} threads, float32")
    for column in ("layer", "pass", "ms", "dense ms", "G pairs/s", "ratio"):
        table.add_column(column, justify="left" if column in ("layer", "pass") else "right", no_wrap=True)
    for case in cases:
        pairs = N_BATCH * case.layer.n_neurons * case.layer.fan_in
        for name, (ours, dense) in calls(case).items():
            ours(), dense()
            both = [(timed(ours), timed(dense)) for _ in range(options.repeats)]
            own, other = (statistics.median(times) for times in zip(*both, strict=True))
            ratio = statistics.median(theirs / mine for mine, theirs in both)
            speed = pairs / own / 1e9
            table.add_row(
                case.name, name, f"{1e3 * own:.1f}", f"{1e3 * other:.1f}", f"{speed:.2f}", f"{ratio:.2f}"
            )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)


if __name__ == "__main__":
    main()
