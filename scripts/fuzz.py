"""Random problems on every backend against the oracle, and the oracle against 60 digits.

    python scripts/fuzz.py                         # 10^6 problems, a quarter of an hour
    python scripts/fuzz.py --problems 20000 --device
    python scripts/fuzz.py --only tangency --seed 7

A problem is one neuron of one sample; gradients are those of a batch of them, see fuzz_gradients.py. What a
backend may err by is not a tolerance but the problem's condition (docs/mathematics.md): the dtype's rounding
of what the membrane is summed from moves the threshold up and down by delta, and the backend's spike must lie
between the oracle's for these two. Near a tangency that is a wide range, and a spike may be none. What lies
outside is unexplained; the first such problem of each family and backend is printed as code, with the inputs
that it needs. Ends with 1 where there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fuzz_gradients
import numpy as np
from exact import first_spike_exactly
from fuzz_problems import FAMILIES, Array, Problems

import gpuspike as gs
from gpuspike.backend import usable_cores
from gpuspike.kernels import load, reference
from gpuspike.kernels.constants import reach
from gpuspike.neuron import LIF

ROUNDINGS = 16.0
"""Of the dtype's unit, that a membrane's sums may be off by."""
LIKE_TIME = 4.0
"""Of the dtype's unit, that a time may be off by itself."""

# ---- who answers

Answer = Callable[[Problems], Array]
Pull = Callable[[Problems, Array, Array], fuzz_gradients.Gradients]


def oracle(problems: Problems) -> Array:
    """(n_batch, n_post) spike times of the oracle."""
    t_in, weights = problems.t_in.astype(np.float64), problems.weights.astype(np.float64)
    if problems.delays is None:
        return reference.first_spikes(t_in[None], weights[None], problems.neuron)[0]
    # An input arrives at a time of the dtype.
    arriving = problems.t_in[:, :, None] + problems.delays
    columns = [
        reference.first_spikes(arriving[None, :, :, j].astype(np.float64), weights[None, :, j, None], one)
        for j, one in ((j, problems.neuron.of(0, j)) for j in range(weights.shape[1]))
    ]
    return np.concatenate(columns, axis=2)[0]


def layers(problems: Problems) -> Array:
    """The CPU's kernels for layers."""
    return gs.first_spikes(problems.t_in, problems.weights, problems.neuron)


def neuron_by_neuron(problems: Problems) -> Array:
    """The CPU's kernels that sort for each neuron."""
    delays = np.zeros_like(problems.weights) if problems.delays is None else problems.delays
    args = problems.t_in[None], problems.weights[None], delays[None], problems.neuron
    return load("cpu").single.forward(*args)[0][0]


def on_device(cupy: Any) -> tuple[Answer, Pull]:
    """The device's code, built for this machine."""

    def answer(problems: Problems) -> Array:
        arrays = cupy.asarray(problems.t_in), cupy.asarray(problems.weights)
        return gs.first_spikes(*arrays, problems.neuron).get()

    def pull(problems: Problems, t_out: Array, grad: Array) -> fuzz_gradients.Gradients:
        arrays = map(cupy.asarray, (t_out, grad))
        given = cupy.asarray(problems.t_in), cupy.asarray(problems.weights), problems.neuron
        by_time, by_weight = gs.first_spikes_vjp(*given, *arrays)
        return {"weights": by_weight.get(), "times": by_time.get()}

    return answer, pull


@contextlib.contextmanager
def backends(device: bool) -> Iterator[dict[str, tuple[Answer, Pull]]]:
    """All that can be asked here, for spike times and for gradients."""
    found: dict[str, tuple[Answer, Pull]] = {
        "cpu": (layers, fuzz_gradients.layers),
        "cpu, neuron by neuron": (neuron_by_neuron, fuzz_gradients.neuron_by_neuron),
    }
    if not device:
        yield found
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cuda"))
    import device_on_cpu

    folder = Path(__file__).parents[1] / ".pytest_cache" / "d" / "gpuspike_device"
    folder.mkdir(parents=True, exist_ok=True)
    with device_on_cpu.installed(device_on_cpu.build(folder)) as cupy:
        yield found | {"device (g++)": on_device(cupy)}


# ---- the yardstick


def envelope(problem: Problems, until: float, dtype: Any) -> float:
    """What the membrane of one problem is summed from, up to a time: S of docs/mathematics.md."""
    neuron = problem.neuron
    times, weights = problem.t_in[0].astype(np.float64), np.abs(problem.weights[:, 0].astype(np.float64))
    known = times <= until
    times, weights = times[known], weights[known]
    rate, fast = neuron.rate_difference, neuron.tau_fast
    rise = min(1.0 / rate if rate else np.inf, reach(dtype) * fast) / float(neuron.capacitance)
    order = np.argsort(times)
    most = total = 0.0
    last = times[order[0]] if order.size else 0.0
    for i in order:
        total = total * np.exp((last - times[i]) / neuron.tau_slow) + weights[i]
        last, most = times[i], max(most, total)
    return float(neuron.span) + most * rise


def bounds(problem: Problems, found: float, expected: float, dtype: Any) -> tuple[float, float]:
    """The earliest and the latest answer that the dtype's rounding explains."""
    neuron, unit = problem.neuron, float(np.finfo(dtype).eps) / 2.0
    later = np.inf if not np.isfinite([found, expected]).all() else max(found, expected)
    delta = ROUNDINGS * unit * envelope(problem, later, dtype)
    span = float(neuron.span)
    ends = []
    for moved in (span - delta, span + delta):
        if moved <= 0.0:
            ends.append(-np.inf)
            continue
        one = LIF(neuron.tau_mem, neuron.tau_syn, moved, 0.0, neuron.capacitance)
        ends.append(float(oracle(replace(problem, neuron=one))[0, 0]))
    times = np.abs(problem.t_in[np.isfinite(problem.t_in)]).max(initial=0.0)
    low, high = (LIKE_TIME * unit * max(abs(end), float(times)) if np.isfinite(end) else 0.0 for end in ends)
    return ends[0] - low, ends[1] + high


def suspicious(problems: Problems, found: Array, expected: Array, allowed: Array) -> Array:
    """(n, 2) problems whose answers differ by more than is allowed, or of which one is silent."""
    with np.errstate(invalid="ignore"):
        off = np.abs(found.astype(np.float64) - expected) > allowed
    return np.argwhere(off | (np.isfinite(found) != np.isfinite(expected)) | np.isnan(found))


def allowance(problems: Problems, expected: Array, dtype: Any) -> tuple[Array, Array]:
    """(n_batch, n_post) roundings of the time itself, and what the threshold's own rounding adds: half of it.

    The second is what `bounds` allows at the least, to first order, without solving anything.
    """
    unit, neuron = float(np.finfo(dtype).eps) / 2.0, problems.neuron
    own = 2.0 * unit * np.abs(expected)
    if problems.delays is not None:
        return own, own
    t_in, weights = problems.t_in.astype(np.float64)[None], problems.weights.astype(np.float64)[None]
    slope = reference.slopes(t_in, weights, neuron, expected[None])[0]
    delta = ROUNDINGS * unit * np.broadcast_to(np.asarray(neuron.span), slope.shape)
    return own, own + 0.5 * np.divide(delta, slope, out=np.zeros_like(slope), where=slope > 0.0)


# ---- the run


def told(problem: Problems, found: object, expected: float) -> str:
    """A problem as code."""
    n = problem.neuron
    numbers = ", ".join(repr(float(v)) for v in (n.tau_mem, n.tau_syn, n.threshold, n.leak, n.capacitance))
    kind = problem.t_in.dtype.name
    times, weights = problem.t_in[0].tolist(), problem.weights[:, 0].tolist()
    return f"({kind!r}, {times}, {weights}, LIF({numbers})): {found!r}, oracle {expected!r}".replace(
        "inf", "INF"
    )


def smaller(problem: Problems, fails: Callable[[Problems], bool]) -> Problems:
    """The same failure with as few inputs as there can be."""
    n = 0
    while n < problem.t_in.shape[1] and problem.t_in.shape[1] > 1:
        keep = np.arange(problem.t_in.shape[1]) != n
        less = replace(problem, t_in=problem.t_in[:, keep], weights=problem.weights[keep])
        if fails(less):
            problem = less
        else:
            n += 1
    return problem


def unexplained(problem: Problems, answer: Answer, dtype: Any) -> tuple[float, float] | None:
    """The backend's answer and the oracle's to one problem, None where they agree as far as they can."""
    found, expected = float(answer(problem)[0, 0]), float(oracle(problem)[0, 0])
    if np.isnan(found):
        return found, expected
    low, high = bounds(problem, found, expected, dtype)
    return None if low <= found <= high else (found, expected)


@dataclass
class Tally:
    """Of one family.

    Attributes:
        counts: by backend and dtype, how many were tried, are explained by their condition, and are not.
        examples: of what is not;  worst: answers that differ most, with the oracle's.
    """

    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    worst: list[tuple[float, Problems, float]] = field(default_factory=list)
    tried: int = 0

    def count(self, who: str, dtype: Any, tried: int, explained: int, left: int) -> None:
        """Adds to the counts."""
        now = self.counts.setdefault((who, np.dtype(dtype).name), [0, 0, 0])
        for k, more in enumerate((tried, explained, left)):
            now[k] += more

    def add(self, other: Tally) -> None:
        """Adds another part of the family."""
        for (who, dtype), values in other.counts.items():
            self.count(who, dtype, values[0], values[1], values[2])
        self.examples = other.examples | self.examples
        self.worst += other.worst
        self.tried += other.tried


def as_own(neuron: LIF) -> LIF:
    """A neuron's numbers as constants of its own."""
    numbers = neuron.tau_mem, neuron.tau_syn, neuron.threshold, neuron.leak, neuron.capacitance
    return LIF(*(np.array([number]) for number in numbers))


def look(tally: Tally, name: str, who: str, answer: Answer, problems: Problems, allowed: Any) -> None:
    """Asks one backend."""
    dtype, found, (expected, own, sure) = problems.t_in.dtype, answer(problems), allowed
    explained = left = 0
    explained += len(suspicious(problems, found, expected, own))
    doubtful = suspicious(problems, found, expected, sure)
    uniform = problems.neuron.uniform

    def again(problem: Problems) -> Array:
        """The same kernels: those of neurons with constants of their own where these have been asked."""
        return answer(problem if uniform else replace(problem, neuron=as_own(problem.neuron)))

    for b, j in doubtful:
        one, pair = problems.one(b, j), (float(found[b, j]), float(expected[b, j]))
        low, high = bounds(one, *pair, dtype)
        if not low <= pair[0] <= high:
            left += 1
            if (who, dtype.name) not in tally.examples:
                alone = unexplained(one, again, dtype) is not None
                least = smaller(one, lambda p: unexplained(p, again, dtype) is not None) if alone else one
                shown = unexplained(least, again, dtype) or pair
                tally.examples[who, dtype.name] = f"{name}, {who}: {told(least, *shown)}"
        if dtype == np.float64:
            tally.worst.append((abs(pair[0] - pair[1]), one, pair[1]))
    tally.count(who, dtype, found.size, explained - left, left)


def wrong_alone(one: Problems, pull: Pull) -> fuzz_gradients.Gradients | None:
    """The gradients of one problem's spike time, where they are not the oracle's as far as is to be known."""
    dtype = one.t_in.dtype
    t_out = oracle(one).astype(dtype)
    found, grad = pull(one, t_out, np.ones_like(t_out)), np.ones_like(t_out)
    off = fuzz_gradients.outside(found, fuzz_gradients.expected(one, t_out, grad), dtype)
    return found if any(every.any() for _, every in off.values()) else None


def look_at_gradients(
    tally: Tally, name: str, who: str, pull: Pull, problems: Problems, given: tuple[Array, Array, Any]
) -> None:
    """Asks one backend for those of a batch, each element of each gradient one answer."""
    t_out, grad, what = given
    dtype, uniform = problems.t_in.dtype, problems.neuron.uniform
    off = fuzz_gradients.outside(pull(problems, t_out, grad), what, dtype)
    n, out, left = (
        sum(int(count(*pair)) for pair in off.values())
        for count in (lambda a, _: a.size, lambda a, b: (a | b).sum(), lambda _, b: b.sum())
    )
    tally.count(f"{who}, gradients", dtype, n, out - left, left)
    key = f"{who}, gradients", dtype.name
    if not left or key in tally.examples:
        return

    def again(problem: Problems) -> fuzz_gradients.Gradients | None:
        return wrong_alone(problem if uniform else replace(problem, neuron=as_own(problem.neuron)), pull)

    tally.examples[key] = f"{name}, {key[0]}: {left} of {n} {dtype.name} gradients of a batch, of none alone"
    for b, j in np.argwhere(np.isfinite(t_out)):
        if again(problems.one(b, j)) is not None:
            least = smaller(problems.one(b, j), lambda p: again(p) is not None)
            tally.examples[key] = f"{name}, {key[0]}: {told(least, again(least), oracle(least)[0, 0])}"
            return


def run(name: str, part: int, parts: int, wanted: int, options: argparse.Namespace) -> Tally:
    """Every so manieth batch of a family."""
    tally, number = Tally(), part
    with backends(options.device) as asked:
        while tally.tried < wanted:
            rng = np.random.default_rng([options.seed, list(FAMILIES).index(name), number])
            drawn = FAMILIES[name](rng)
            number += parts
            tally.tried += drawn.t_in.shape[0] * drawn.weights.shape[1]
            for dtype in (np.float32, np.float64):
                problems = drawn.cast(dtype)
                expected = oracle(problems)
                allowed = expected, *allowance(problems, expected, dtype)
                t_out, grad = expected.astype(dtype), rng.normal(size=expected.shape).astype(dtype)
                given = t_out, grad, fuzz_gradients.expected(problems, t_out, grad)
                for who, (answer, pull) in asked.items():
                    if problems.delays is None or answer is neuron_by_neuron:
                        look(tally, name, who, answer, problems, allowed)
                        look_at_gradients(tally, name, who, pull, problems, given)
    tally.worst.sort(key=lambda entry: -entry[0] if np.isfinite(entry[0]) else -np.inf)
    del tally.worst[options.exact // parts + 1 :]
    for _, one, ours in tally.worst:
        exact = first_spike_exactly(one.t_in[0], one.weights[:, 0], one.neuron)
        low, high = bounds(one, exact, ours, np.float64)
        inside = low <= exact <= high
        tally.count("oracle, 60 digits", np.float64, 1, int(inside and exact != ours), int(not inside))
        if not inside:
            tally.examples.setdefault(("oracle", "float64"), f"{name}, exactly: {told(one, exact, ours)}")
    return tally


def end_with_parent(parent: int) -> None:
    """Ends this process once its parent has ended: after a kill nobody waits for its answers."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Runs it, prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(FAMILIES), action="append")
    parser.add_argument("--device", action="store_true", help="also the device's code, built with g++")
    parser.add_argument("--exact", type=int, default=200, help="of the worst of each family, to 60 digits")
    parser.add_argument("--jobs", type=int, default=usable_cores())
    options = parser.parse_args(arguments)
    names, parts = options.only or list(FAMILIES), options.jobs
    wanted = -(-options.problems // len(names) // parts)
    os.environ["NUMBA_NUM_THREADS"] = "1"
    if options.device:
        with backends(True):
            pass  # built once
    tallies = {name: Tally() for name in names}
    with ProcessPoolExecutor(parts, get_context("spawn"), end_with_parent, (os.getpid(),)) as pool:
        for name in names:
            start = time.perf_counter()
            for done in [pool.submit(run, name, k, parts, wanted, options) for k in range(parts)]:
                tallies[name].add(done.result())
            print(
                f"{name}: {tallies[name].tried} problems in {time.perf_counter() - start:.0f} s", flush=True
            )
    return table(tallies)


def table(tallies: dict[str, Tally]) -> int:
    """Prints what came of it; 1 where something is not explained."""
    print(
        f"\n{'family':<12}{'backend':<34}{'dtype':<9}{'tried':>10}{'held':>10}{'explained':>11}{'unexplained':>13}"
    )
    for name, tally in tallies.items():
        for (who, dtype), (n, explained, left) in tally.counts.items():
            print(f"{name:<12}{who:<34}{dtype:<9}{n:>10}{n - explained - left:>10}{explained:>11}{left:>13}")
    counts = [values for tally in tallies.values() for values in tally.counts.values()]
    wrong = sum(values[2] for values in counts)
    problems = sum(tally.tried for tally in tallies.values())
    print(f"{problems} problems, {sum(values[0] for values in counts)} answers, {wrong} unexplained")
    for tally in tallies.values():
        for example in tally.examples.values():
            print(example)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
