"""How fast the CPU kernels are, held against what the machine's multiply-add units could do.

    python scripts/benchmark.py [--case SUBSTRING] [--repeats N] [--json FILE] [--markdown FILE]

The unit of work is the *pair-event*: one input spike met by one neuron of one sample. It costs two
fused multiply-adds at least (one for each of the two sums that make up a membrane, or for each of
the two products that make up a gradient), so a machine that does F multiply-adds a second can do
F/2 pair-events a second at most. F is measured here, in the same run, by a loop that does nothing
else, with as many threads as the kernels use. It is measured before every case, and the median of all
is the one limit: a shared machine changes its speed while one looks.

Columns:

    spikes       share of the neurons that spike
    ms           median time of one call. The spikes are sorted before: see `sort ms`
    sort ms      median time of sorting the inputs, which a forward pass needs once for all its replicas
    G pairs/s    all pairs, n_batch x n_pre x n_post, over the time. A neuron that spikes early meets
                 only a part of the inputs, and what is never visited counts as done here: this is the
                 number to plan with, and it may pass the limit without any merit of the kernels
    G met/s      only the pairs that cannot be left out: inputs up to the neuron's spike, and all
                 inputs of a neuron that stays silent (in a gradient: none of them). This is the
                 number to judge a kernel by
    k samples/s  samples over the time
    limit, met   both numbers of pairs, as a share of the limit F/2
    peak MiB     the highest resident memory of the process during the case, with the case's own
                 inputs and outputs; where the system cannot reset it, during all cases so far
    pairs MiB    what one array with an entry for every pair would have taken

The cases are the layers of published networks, drawn at random: all inputs spike, at times uniform
over a window of two tau_syn, so that no pair is cheap for want of a spike. `silent`: hardly any neuron
fires, every event is visited and none ends the work early. `late`: about half of the neurons spike
(where the membrane does not leak, nearly all), most of them after most of the inputs, as in a network
before training. `early`: all spike, in the first half of the window, as after training. A gradient
with respect to the inputs cannot be had without that of the weights, so `both gradients` times the
two, and counts every pair twice.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gpuspike import backend
from gpuspike.backend import thread_count
from gpuspike.kernels import load
from gpuspike.kernels.cpu.simd import VECTOR_BYTES, multiply_add, splat
from gpuspike.kernels.cpu.team import PIECES_PER_THREAD
from gpuspike.neuron import LIF

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        kind: "forward", "weights gradient" or "both gradients".
        n_batch, n_pre, n_post: samples, inputs, neurons.
        ratio: tau_mem/tau_syn.
        drive: the mean potential that all inputs leave at the end of the window, in thresholds.
        spread: standard deviation of that potential between neurons, in thresholds.
        activity: the two above, in a word.
        bias: the last input spikes at time 0 in every sample.
        black: share of inputs that spike last, together, as the black pixels of an image.
    """

    kind: str
    n_batch: int
    n_pre: int
    n_post: int
    dtype: str
    ratio: float
    activity: str
    drive: float
    spread: float
    bias: bool = False
    black: float = 0.0

    @property
    def name(self) -> str:
        layer = f"{self.n_pre}->{self.n_post} x {self.n_batch}"
        return f"{self.kind} {layer} {self.dtype} tau {self.ratio:g} {self.activity}"


SILENT: dict[str, Any] = {"activity": "silent", "drive": 0.4, "spread": 0.2}
LATE: dict[str, Any] = {"activity": "late", "drive": 0.95, "spread": 0.2}
EARLY: dict[str, Any] = {"activity": "early", "drive": 5.0, "spread": 1.0}
IMAGE: dict[str, Any] = {"activity": "image", "drive": 2.0, "spread": 2.0, "black": 0.81}
"""What neurons do; `IMAGE` is for devices, with as many black pixels as MNIST's images have."""

CASES = [
    Case("forward", 4000, 784, 350, "float32", 1.0, **SILENT),
    Case("forward", 4000, 784, 350, "float32", 1.0, **LATE),
    Case("forward", 4000, 784, 350, "float32", 1.0, **EARLY),
    Case("forward", 4000, 784, 350, "float64", 1.0, **SILENT),
    Case("forward", 4000, 784, 350, "float64", 1.0, **LATE),
    Case("forward", 4000, 784, 350, "float64", 1.0, **EARLY),
    Case("forward", 4000, 784, 350, "float32", 2.0, **LATE),
    Case("forward", 4000, 784, 350, "float32", math.inf, **LATE),
    Case("forward", 4000, 784, 350, "float32", 1.5, **LATE),
    Case("forward", 4000, 256, 246, "float32", 1.0, **LATE),
    Case("forward", 4000, 256, 246, "float32", 1.0, **EARLY),
    Case("forward", 5000, 5, 120, "float64", 1.0, **LATE, bias=True),
    Case("forward", 5000, 5, 120, "float64", 2.0, **LATE, bias=True),
    Case("forward", 5000, 5, 120, "float64", math.inf, **LATE, bias=True),
    Case("forward", 5000, 5, 120, "float64", 1.5, **LATE, bias=True),
    Case("weights gradient", 4000, 784, 350, "float32", 1.0, **LATE),
    Case("weights gradient", 4000, 784, 350, "float32", 1.0, **EARLY),
    Case("weights gradient", 4000, 784, 350, "float64", 1.0, **LATE),
    Case("weights gradient", 4000, 784, 350, "float32", 2.0, **LATE),
    Case("weights gradient", 4000, 784, 350, "float32", math.inf, **LATE),
    Case("weights gradient", 4000, 784, 350, "float32", 1.5, **LATE),
    Case("both gradients", 4000, 784, 350, "float32", 1.0, **LATE),
    Case("both gradients", 4000, 784, 350, "float32", 1.0, **EARLY),
    Case("both gradients", 4000, 784, 350, "float64", 1.0, **LATE),
    Case("weights gradient", 5000, 120, 3, "float64", 1.0, **LATE),
    Case("both gradients", 5000, 120, 3, "float64", 1.0, **LATE),
]

WINDOW = 2.0
"""Time from the first input to the last, in tau_syn."""

COPY_BYTES = 1 << 28
"""Size of the array that is copied for the memory bandwidth: more than a cache holds."""

CHAINS = 12
"""Independent multiply-adds in flight: more than two units with a latency of four to five need, and no
more than sixteen vector registers hold beside the factors."""

STEPS = 1 << 23
"""Length of those chains: 20 to 50 ms, much more than a thread takes to wake up."""

COLUMNS = (
    "case", "spikes", "ms", "sort ms", "G pairs/s", "G met/s", "k samples/s", "limit", "met",
    "peak MiB", "pairs MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """What was measured of a case; times in seconds, one entry a repeat."""

    case: Case
    seconds: list[float]
    sort_seconds: list[float]
    pairs: int
    met: int | None  # None: not counted
    spiking: float
    peak_bytes: int | None


# --- the machine's limits ----------------------------------------------------


@intrinsic
def _multiply_adds(typingctx, kind, steps):  # type: ignore[no-untyped-def]
    """Runs `CHAINS` chains of `steps` vector multiply-adds side by side; returns a sum of their ends."""
    signature = kind(kind, types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scalar = context.get_value_type(signature.args[0])
        width = VECTOR_BYTES // (4 if isinstance(scalar, ir.FloatType) else 8)
        vector = ir.VectorType(scalar, width)
        # x -> x/2 + start stays between start and 2 start: never subnormal, never inf.
        half = splat(builder, ir.Constant(scalar, 0.5), width)
        start = splat(builder, args[0], width)

        entry = builder.block
        loop, done = builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(ir.IntType(64))
        step.add_incoming(ir.Constant(ir.IntType(64), 0), entry)
        chains = [builder.phi(vector) for _ in range(CHAINS)]
        following = builder.add(step, ir.Constant(ir.IntType(64), 1))
        step.add_incoming(following, loop)
        ends = []
        for number, chain in enumerate(chains):
            # Every chain starts elsewhere: equal ones would be computed only once.
            first = ir.Constant(vector, [float(number + lane) for lane in range(width)])
            chain.add_incoming(first, entry)
            ends.append(multiply_add(builder, vector, chain, half, start))
            chain.add_incoming(ends[-1], loop)
        builder.cbranch(builder.icmp_signed("<", following, args[1]), loop, done)
        builder.position_at_end(done)
        total = ends[0]
        for end in ends[1:]:
            total = builder.fadd(total, end)
        result = ir.Constant(scalar, 0.0)
        for lane in range(width):
            one = builder.extract_element(total, ir.Constant(ir.IntType(32), lane))
            result = builder.fadd(result, one)
        return result

    return signature, codegen


@njit(nogil=True)
def _run_chains(one, steps):  # type: ignore[no-untyped-def]
    return _multiply_adds(one, steps)


def multiply_adds_per_second(dtype: np.dtype[Any]) -> float:
    """Scalar multiply-adds a second of all threads together, cut into pieces as the kernels' work is."""
    one = dtype.type(1.0)
    _run_chains(one, 1)  # compiles
    n_pieces = PIECES_PER_THREAD * thread_count()
    steps = STEPS // PIECES_PER_THREAD

    with ThreadPoolExecutor(thread_count()) as pool:
        taken = _timed(lambda: list(pool.map(lambda _: _run_chains(one, steps), range(n_pieces))))
    return n_pieces * steps * CHAINS * (VECTOR_BYTES // dtype.itemsize) / taken


def copied_bytes_per_second(repeats: int) -> float:
    """Bytes read and written a second, where all threads copy a large array."""
    source = np.ones(COPY_BYTES // 8)
    target = np.empty_like(source)

    parts = list(zip(*(np.array_split(a, thread_count()) for a in (target, source)), strict=True))
    with ThreadPoolExecutor(thread_count()) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(*part), parts))

        copy()  # the system hands out the memory at the first touch
        taken = statistics.median(_timed(copy) for _ in range(repeats))
    return 2 * source.nbytes / taken


# --- a case ------------------------------------------------------------------


def draw(case: Case) -> tuple[Array, Array, LIF]:
    """A random layer of the case's activity.

    Returns:
        t_in (1, n_batch, n_pre), weights (1, n_pre, n_post), neuron.
    """
    rng = np.random.default_rng(0)
    neuron = LIF(tau_mem=case.ratio, tau_syn=1.0)
    t_in = rng.uniform(0.0, WINDOW, (1, case.n_batch, case.n_pre))
    if case.bias:
        t_in[..., -1] = 0.0
    if case.black:
        t_in[rng.random(t_in.shape) < case.black] = WINDOW
    # What one input of weight 1 leaves at the window's end, on average and as a root mean square.
    kernel = neuron.kernel(np.linspace(0.0, WINDOW, 1001))
    mean, square = float(kernel.mean()), float(np.square(kernel).mean())
    weights = rng.normal(
        case.drive / (case.n_pre * mean),
        case.spread / math.sqrt(case.n_pre * square),
        (1, case.n_pre, case.n_post),
    )
    return t_in.astype(case.dtype), weights.astype(case.dtype), neuron


def pairs_met(case: Case, t_in: Array, t_out: Array) -> int:
    """Pairs of an input and a neuron that the neuron's spike leaves no way around."""
    if case.kind != "forward":
        t_out = np.where(np.isfinite(t_out), t_out, -np.inf)
    rows = zip(np.sort(t_in[0], axis=1), t_out[0], strict=True)
    return sum(int(np.searchsorted(row, spikes, side="right").sum()) for row, spikes in rows)


def measure(case: Case, repeats: int) -> Measurement:
    """Runs a case once to warm up, and then `repeats` times by the clock."""
    t_in, weights, neuron = draw(case)
    kernels = load("cpu")
    _reset_peak()
    sort_seconds = [_timed(lambda: kernels.spike_order(t_in)) for _ in range(repeats)]
    order = kernels.spike_order(t_in)
    states = kernels.forward(t_in, order, [weights], [neuron], [()])
    t_out = states[0].t_out
    t_out_grad = np.ones_like(t_out)

    def forward() -> None:
        kernels.forward(t_in, order, [weights], [neuron], [()])

    def backward() -> None:
        kernels.backward(
            states,
            [weights],
            [neuron],
            t_out_grad,
            active=np.ones(1, np.bool_),
            max_weight_grad=math.inf,
            need_t_in_grad=case.kind == "both gradients",
        )

    call = forward if case.kind == "forward" else backward
    call()
    seconds = [_timed(call) for _ in range(repeats)]
    passes = 2 if case.kind == "both gradients" else 1
    return Measurement(
        case,
        seconds,
        sort_seconds if case.kind == "forward" else [],
        passes * case.n_batch * case.n_pre * case.n_post,
        passes * pairs_met(case, t_in, t_out),
        float(np.isfinite(t_out).mean()),
        _peak_bytes(),
    )


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _reset_peak() -> None:
    """Lets the peak of the resident memory start anew; only Linux can, and not in every sandbox."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- the table ---------------------------------------------------------------


def row(measurement: Measurement, limit: float) -> dict[str, Any]:
    """The numbers of one line of the table, by column.

    Args:
        limit: pair-events a second that the multiply-add units could do.
    """
    case = measurement.case
    seconds = statistics.median(measurement.seconds)
    peak, mebi = measurement.peak_bytes, 1 << 20
    sort = measurement.sort_seconds
    pairs = case.n_batch * case.n_pre * case.n_post
    values = (
        case.name,
        measurement.spiking,
        1e3 * seconds,
        1e3 * statistics.median(sort) if sort else None,
        1e-9 * measurement.pairs / seconds,
        None if measurement.met is None else 1e-9 * measurement.met / seconds,
        1e-3 * case.n_batch / seconds,
        measurement.pairs / seconds / limit,
        None if measurement.met is None else measurement.met / seconds / limit,
        None if peak is None else peak / mebi,
        pairs * np.dtype(case.dtype).itemsize / mebi,
    )
    return dict(zip(COLUMNS, values, strict=True))


_FORMATS = {
    "case": "{}",
    "spikes": "{:.0%}",
    "ms": "{:.2f}",
    "sort ms": "{:.2f}",
    "G pairs/s": "{:.2f}",
    "G met/s": "{:.2f}",
    "k samples/s": "{:.1f}",
    "limit": "{:.1%}",
    "met": "{:.1%}",
    "peak MiB": "{:.0f}",
    "pairs MiB": "{:.0f}",
}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    result = Table()
    for column in COLUMNS:
        result.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for values in rows:
        result.add_row(*("-" if v is None else _FORMATS[c].format(v) for c, v in values.items()))
    return result


def markdown(report: dict[str, Any]) -> str:
    """The table of a report, as --json writes it, for a page: the machine, its limits, a row a case."""
    speed = report["multiply_adds_per_s"]
    limits = ", ".join(f"{dtype} {value / 1e9:.0f} G multiply-adds/s" for dtype, value in speed.items())
    lines = [
        f"{report['machine'].split(': ', 1)[1]}, {report['threads']} threads; {limits}, "
        f"copy {report['copy_bytes_per_s'] / 1e9:.0f} GB/s, all measured in the same run.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for case in report["cases"]:
        cells = ("-" if v is None else _FORMATS[c].format(v) for c, v in case["columns"].items())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _for_json(case: Case) -> dict[str, Any]:
    # JSON has no infinite numbers.
    return {"name": case.name, **asdict(case), "ratio": f"{case.ratio:g}"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="How fast the CPU kernels are, against the machine's multiply-add limit."
    )
    parser.add_argument("--case", default="", help="only the cases whose name holds this text")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    cases = [case for case in CASES if options.case in case.name]
    if not cases:
        names = "\n  ".join(case.name for case in CASES)
        parser.error(f"--case must be a part of one of these names, got {options.case!r}:\n  {names}")

    for path in (options.json, options.markdown):
        if path is not None:
            try:
                path.touch()  # now, not after minutes of measuring
            except OSError as error:
                parser.error(f"cannot write {path}: {error.strerror or error}")

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    progress = Console(stderr=True, highlight=False)
    fma: dict[str, list[float]] = {"float32": [], "float64": []}
    measurements = []
    for number, case in enumerate(cases, 1):
        for dtype, speeds in fma.items():
            speeds.extend(multiply_adds_per_second(np.dtype(dtype)) for _ in range(3))
        progress.print(f"{number}/{len(cases)} {case.name}")
        measurements.append(measure(case, options.repeats))
    speed = {dtype: statistics.median(speeds) for dtype, speeds in fma.items()}
    bandwidth = copied_bytes_per_second(options.repeats)  # last: its arrays would be in every peak

    rows = [row(m, speed[m.case.dtype] / 2.0) for m in measurements]
    machine = f"{platform.node()}: {backend.select('cpu').device}"
    n_threads = thread_count()
    console.print(f"{machine}, {n_threads} threads, {VECTOR_BYTES}-byte vectors")
    for dtype, speeds in fma.items():
        low, high = min(speeds), max(speeds)
        console.print(
            f"{dtype}: {speed[dtype] / 1e9:.1f} G multiply-adds/s ({low / 1e9:.1f} to "
            f"{high / 1e9:.1f}), so at most {speed[dtype] / 2e9:.1f} G pair-events/s"
        )
        if high > 1.5 * low:
            console.print("  other work slowed the machine down at times: the shares of it are rough")
    console.print(f"memory: {bandwidth / 1e9:.1f} GB/s read and written by a copy")
    console.print(table(rows))
    report = {
        "machine": machine,
        "threads": n_threads,
        "vector_bytes": VECTOR_BYTES,
        "multiply_adds_per_s": speed,
        "multiply_adds_per_s_all": fma,
        "copy_bytes_per_s": bandwidth,
        "cases": [
            {**asdict(m), "case": _for_json(m.case), "columns": values}
            for m, values in zip(measurements, rows, strict=True)
        ],
    }
    if options.markdown is not None:
        options.markdown.write_text(markdown(report), encoding="utf-8")
    if options.json is not None:
        text = json.dumps(report, indent=2, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
