"""How fast the CUDA kernels are, held against what the device's multiply-add units and memory could do.

    python scripts/benchmark_gpu.py [--case SUBSTRING] [--only kernels|steps] [--repeats N] [--json FILE]
        [--markdown FILE]

Needs a CUDA device; without one it says why and does nothing. Columns and activities are those of
`scripts/benchmark.py`. The limits are measured on the device, in the same run: chains of multiply-adds that
do nothing else, and a copy. Times are the device's own (events), the median of the repeats after a warm-up.

Kinds beside those of the CPU's benchmark:

    inference    decisions of a network 256-246-10 in one launch, of arrays on the device, without a horizon:
                 pairs are those of both layers
    step         the kernels of a training step of 784-350-10: sort, forward, sort, forward, both gradients of
                 the second layer, the weights' gradient of the first. Loss and optimiser are not in it

Whole training steps, kernel by kernel and as a CUDA graph, have a table of their own: see
`benchmark_gpu_training.py`. Where NVIDIA's compiler and disassembler are installed and the device is one that
`predicted.py` knows, what that predicts is put beside what was measured.

`peak MiB` is what the memory pool held, inputs and outputs included. A network's spikes are those of its
first layer.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))  # where the other benchmark is, however this one is started

import benchmark
import benchmark_gpu_training as training
import beside
from benchmark import EARLY, IMAGE, LATE, SILENT, Case, Measurement

from gpuspike import backend
from gpuspike.kernels import cuda
from gpuspike.kernels.cuda import deciding
from gpuspike.kernels.unit import unit as unit_of

CASES = [
    *(Case("forward", 10_000, 784, 350, "float32", 1.0, **how) for how in (SILENT, LATE, EARLY, IMAGE)),
    *(Case("forward", 10_000, 784, 350, "float32", ratio, **LATE) for ratio in (2.0, math.inf, 1.5)),
    Case("forward", 60_000, 784, 350, "float32", 1.0, **LATE),
    Case("forward", 10_000, 784, 350, "float64", 1.0, **LATE),
    *(Case("forward", 80, 784, 350, "float32", 1.0, **how) for how in (LATE, IMAGE)),
    Case("weights gradient", 10_000, 784, 350, "float32", 1.0, **LATE),
    Case("weights gradient", 80, 784, 350, "float32", 1.0, **LATE),
    Case("weights gradient", 10_000, 784, 350, "float64", 1.0, **LATE),
    Case("both gradients", 10_000, 784, 350, "float32", 1.0, **LATE),
    Case("inference", 60_000, 256, 246, "float32", 1.0, **LATE),
    Case("step", 80, 784, 350, "float32", 1.0, **LATE),
]

CLASSES = 10
"""Neurons of the second layer of a network."""

CHAIN = """
T a = start, b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5, g = a + 6, h = a + 7;
const T half = T(0.5);
for (int n = 0; n < steps; ++n) {
    a = a * half + start; b = b * half + start; c = c * half + start; d = d * half + start;
    e = e * half + start; f = f * half + start; g = g * half + start; h = h * half + start;
}
total = a + b + c + d + e + f + g + h
"""
STEPS, THREADS, CHAINS = 1 << 14, 1 << 20, 8


def timed(cupy: Any, call: Callable[[], object]) -> float:
    """Seconds that the device takes."""
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * cupy.cuda.get_elapsed_time(start, end)


def multiply_adds_per_second(cupy: Any, dtype: str) -> float:
    """Of the whole device."""
    kernel = cupy.ElementwiseKernel("T start, int32 steps", "T total", CHAIN, "gpuspike_multiply_adds")
    starts, totals = cupy.ones(THREADS, dtype), cupy.empty(THREADS, dtype)
    steps = STEPS // (1 if dtype == "float32" else 16)  # some devices have few units for float64
    kernel(starts, 1, totals)
    taken = min(timed(cupy, lambda: kernel(starts, steps, totals)) for _ in range(5))
    return THREADS * steps * CHAINS / taken


def copied_bytes_per_second(cupy: Any, n_bytes: int = 1 << 30) -> float:
    """Bytes read and written a second by a copy."""
    source, target = cupy.ones(n_bytes, np.int8), cupy.empty(n_bytes, np.int8)
    cupy.copyto(target, source)
    return 2 * n_bytes / min(timed(cupy, lambda: cupy.copyto(target, source)) for _ in range(5))


def measure(cupy: Any, case: Case, repeats: int) -> Measurement:
    """Runs a case once to compile and warm up, and then `repeats` times by the clock."""
    host_t_in, host_weights, neuron = benchmark.draw(case)
    kernels: Any = cuda
    unit = unit_of(neuron, host_weights)
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        t_in, weights = cupy.asarray(host_t_in), cupy.asarray(host_weights)
        active = cupy.ones(1, np.bool_)
        second = cupy.full((1, case.n_post, CLASSES), 2.0 / case.n_post, case.dtype)

        def backward(inputs: Any, w: Any, activity: Any, grad: Any, need_t_in_grad: bool) -> Any:
            return kernels.backward(
                inputs, w, unit, *activity, grad,
                active=active, max_weight_grad=math.inf, need_t_in_grad=need_t_in_grad,
            )  # fmt: skip

        order = cuda.spike_order(t_in)
        activity = kernels.forward(t_in, order, weights, unit)
        ones = cupy.ones_like(activity[0])
        class_ones = cupy.ones((1, case.n_batch, CLASSES), case.dtype)

        def network() -> tuple[Any, Any]:
            hidden = kernels.forward(t_in, cuda.spike_order(t_in), weights, unit)
            return hidden, kernels.forward(hidden[0], cuda.spike_order(hidden[0]), second, unit)

        def step() -> None:
            hidden, out = network()
            grad, _ = backward(hidden[0], second, out, class_ones, True)
            backward(t_in, weights, hidden, grad, False)

        call: Callable[[], object] = {
            "forward": lambda: kernels.forward(t_in, order, weights, unit),
            "weights gradient": lambda: backward(t_in, weights, activity, ones, False),
            "both gradients": lambda: backward(t_in, weights, activity, ones, True),
            "inference": lambda: deciding.launch(
                t_in[0], [weights, second], [neuron] * 2, [()] * 2, math.inf
            ),
            "step": step,
        }[case.kind]
        call()
        seconds = [timed(cupy, call) for _ in range(repeats)]
        sort = [timed(cupy, lambda: cuda.spike_order(t_in)) for _ in range(repeats)]
        t_out = activity[0].get()
        peak = int(pool.total_bytes())
    first, last = case.n_pre * case.n_post, case.n_post * CLASSES
    pairs = {"both gradients": 2 * first, "inference": first + last, "step": 2 * first + 3 * last}
    met = benchmark.pairs_met(case, host_t_in, t_out) if case.kind not in ("inference", "step") else None
    return Measurement(
        case, seconds, sort if case.kind == "forward" else [], case.n_batch * pairs.get(case.kind, first),
        met * 2 if met is not None and case.kind == "both gradients" else met,
        float(np.isfinite(t_out).mean()), peak,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="How fast the CUDA kernels are, against the device's limits."
    )
    parser.add_argument("--case", default="", help="only the cases whose name holds this text")
    parser.add_argument("--only", choices=("kernels", "steps"), help="kernels alone, or training steps alone")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.case in case.name and options.only != "steps"]
    trained = [case for case in training.CASES if options.case in case.name and options.only != "kernels"]
    if not (cases or trained) or options.repeats < 1:
        names = "\n  ".join(case.name for case in (*CASES, *training.CASES))
        parser.error(f"--repeats must be at least 1 and --case a part of one of these names:\n  {names}")
    problem = backend.cuda_problem()
    if problem is not None:
        print(f"not measured: {problem.text}", file=sys.stderr)
        return 2
    cupy = backend.cupy_module()
    speed = {dtype: multiply_adds_per_second(cupy, dtype) for dtype in ("float32", "float64")}
    bandwidth = copied_bytes_per_second(cupy)
    measurements = [measure(cupy, case, options.repeats) for case in cases]
    rows = [benchmark.row(m, speed[m.case.dtype] / 2.0) for m in measurements]
    steps = [training.measure(case, options.repeats) for case in trained]
    told = beside.predicted(backend.device_name(), options.case)
    taken: dict[str, float | None] = {m.case.name: 1e6 * statistics.median(m.seconds) for m in measurements}
    taken |= {row["case"]: row["device us"] for row in steps}
    report = {
        "machine": f"device: {backend.device_name()}",
        "threads": "all",
        "multiply_adds_per_s": speed,
        "copy_bytes_per_s": bandwidth,
        "cases": [
            {
                **asdict(m),
                "case": {"name": m.case.name, **asdict(m.case), "ratio": f"{m.case.ratio:g}"},
                "columns": r,
            }
            for m, r in zip(measurements, rows, strict=True)
        ],
        "training": training.report(trained, steps),
        "predicted_us": told,
    }
    console = Console(highlight=False, width=160)
    console.print(f"{backend.device_name()}; {bandwidth / 1e9:.0f} GB/s read and written by a copy")
    for dtype, value in speed.items():
        console.print(
            f"{dtype}: {value / 1e12:.2f} T multiply-adds/s, at most {value / 2e12:.2f} T pair-events/s"
        )
    if rows:
        console.print(benchmark.table(rows))
    if steps:
        console.print(training.table(steps))
    if told:
        console.print(beside.table(taken, told))
    if options.markdown is not None:
        parts = [benchmark.markdown(report) if rows else "", training.markdown(steps) if steps else ""]
        parts += [beside.markdown(taken, told) if told else ""]
        text = "\n".join(filter(None, parts))
        options.markdown.write_text(text, encoding="utf-8")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
