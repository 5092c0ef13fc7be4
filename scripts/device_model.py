"""How long a launch of a kernel takes on a device that is data: the largest of four bounds.

    issue      instructions of all warps that a multiprocessor gets, over those it issues in a clock
    loads      loads of these warps, from cache and shared memory, over those it takes in a clock
    latency    what one warp waits for, one thing after the other, as often as blocks come one after the other
    memory     bytes of the launch's arrays, each once, over the bandwidth of what holds them

Of the hot loops, instructions, loads and registers are counted in the machine code, and how often a warp
leaves the way through no crossing in spike times of such a layer. All other kernels are small beside them;
their instructions are estimates by reading the source, ASSUMED like everything that is said to be so here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from launches import Launch


@dataclass(frozen=True)
class Device:
    """What a prediction is for.

    Attributes:
        multiprocessors: of the device;  clock: Hz;  memory: bytes/s.
        issued, loads: instructions and loads of a warp, a clock and multiprocessor.
        warps, blocks, registers: a multiprocessor has room for.
        cache: bytes of the second-level cache, and cache_speed, bytes/s.
        near, far, wait: clocks until a load from the first- and second-level cache, and a barrier, is there.
        graph, queued: seconds from the end of a kernel to the next one's begin in a graph, and of the host
            for a launch. A kernel that comes behind another branch's, too, takes as long once more.
    """

    name: str
    multiprocessors: int
    clock: float
    memory: float
    issued: float = 4.0  # four schedulers: NVIDIA's white paper on the H100
    loads: float = (
        1.0  # 32 load units (the same), so a warp a clock; ASSUMED for a wide load of one address, too
    )
    warps: int = 64  # NVIDIA's tuning guide for Hopper, and so the next two
    blocks: int = 32
    registers: int = 65536
    cache: float = 50e6  # data sheet
    cache_speed: float = 5.5e12  # ASSUMED, of the order that is measured of reads that hit
    near: float = 40.0  # ASSUMED, of the order that microbenchmarks of Hopper give (arXiv:2402.13499)
    far: float = 260.0  # likewise
    wait: float = 30.0  # ASSUMED
    graph: float = 2e-6  # ASSUMED
    queued: float = 5e-6  # ASSUMED


# Clock: the data sheet's 67 TFLOPS over 132 multiprocessors of 128 multiply-adds. Bandwidths: data sheets.
H100 = Device("H100 SXM", 132, 67e12 / (2 * 132 * 128), 3.35e12)
H200 = Device("H200", 132, 67e12 / (2 * 132 * 128), 4.8e12)


@dataclass(frozen=True)
class Loop:
    """A hot loop as counted.

    Attributes:
        instructions, loads: clocks of each, a pair.
        registers: a thread.
    """

    instructions: float
    loads: float
    registers: int


@dataclass(frozen=True)
class Crossings:
    """What becomes of a warp's neurons.

    Attributes:
        rounds: share of the rounds that are gone through before all have spiked.
        asked: rounds in which one of them spikes.
        folded: share of the rounds in which weights are added up for the last inputs together.
    """

    rounds: float
    asked: float
    folded: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a launch has to do.

    Attributes:
        instructions, loads: of a warp.
        chain: clocks that a block takes where it is alone.
    """

    blocks: int
    warps: int
    instructions: float
    loads: float
    chain: float
    registers: int = 40


BOUNDS = ("issue", "loads", "latency", "memory", "launches")


def seconds(work: Work, n_bytes: float, device: Device) -> dict[str, float]:
    """Each of a launch's bounds."""
    held = device.registers // (32 * work.warps * work.registers)
    together = max(1, min(device.blocks, device.warps // work.warps, held))
    blocks = -(-work.blocks // device.multiprocessors)
    of_one = -(-blocks * work.warps // int(device.issued))  # warps that a scheduler gets
    speed = device.cache_speed if n_bytes <= device.cache else device.memory
    return {
        "issue": of_one * work.instructions / device.clock,
        "loads": blocks * work.warps * work.loads / device.loads / device.clock,
        "latency": -(-blocks // together) * work.chain / device.clock,
        "memory": n_bytes / speed,
    }


@dataclass(frozen=True)
class Schedule:
    """When the launches of a graph run.

    Attributes:
        path: numbers of those that the end waits for, one behind the other, and gaps: seconds between them.
        shared: seconds more, since branches share the multiprocessors.
    """

    path: tuple[int, ...]
    gaps: float
    shared: float


def schedule(launches: Sequence[Launch], bounds: Sequence[dict[str, float]], device: Device) -> Schedule:
    """The longer of branches; or what they issue, load and move, one after the other, if that is longer.

    The latter is as if each had the same multiprocessors: nothing is gained where one alone keeps them busy.
    """
    ends, before, gaps = [], [], []
    last = {False: -1, True: -1}
    for number, (launch, own) in enumerate(zip(launches, bounds, strict=True)):
        behind = max(last[launch.beside], launch.waits, key=lambda one: ends[one] if one >= 0 else 0.0)
        before.append(behind)
        gaps.append(device.graph * (1 + (launch.waits >= 0)))
        ends.append((ends[behind] if behind >= 0 else 0.0) + gaps[-1] + max(own.values()))
        last[launch.beside] = number
    shared, first = 0.0, -1
    for number, launch in enumerate(launches):
        if launch.beside and first < 0:
            first = launch.waits + 1
        elif first >= 0 and not launch.beside and launch.waits >= 0:  # joined
            begun = ends[first - 1] if first else 0.0
            apart = sum(
                max(v for name, v in own.items() if name != "latency") for own in bounds[first:number]
            )
            shared += max(0.0, apart - (ends[before[number]] - begun))
            first = -1
    path, number = [], max(range(len(ends)), key=lambda one: ends[one], default=-1)
    while number >= 0:
        path.append(number)
        number = before[number]
    return Schedule(tuple(path[::-1]), sum(gaps[number] for number in path), shared)


# --- hot loops ----------------------------------------------------------

AGAIN = 130.0, 300.0
"""ASSUMED: instructions of a round in which a neuron comes near its threshold, whose events are looked at
once more, and the clocks that a warp alone takes for them."""

SOLVED = 900.0, 2600.0
"""ASSUMED, likewise: solutions by Newton's method, of all neurons of a warp together, and once more for the
few that do not cross."""

ALONE = {1: (4.56, 2.0), 2: (3.56, 1.5)}
"""Instructions and loads a pair where weights are added up alone, counted for sm_90, by neurons a thread."""

Counted = Callable[[str], Loop]
"""A loop by an instance's name."""

Spiking = Callable[[int, int, int, int], Crossings]
"""Crossings by inputs, neurons, neurons of a warp and events of a round."""


@cache
def cold(warps: int, together: int) -> float:
    """Share of a block's rounds in which one of `together` weights, at least, is new to all its warps.

    Each warp has a sample of its own, which meets the rows of a tile in an order of its own.
    """
    done = (np.arange(1000) + 0.5) / 1000
    return float(np.mean(1.0 - (1.0 - (1.0 - done) ** warps) ** together))


def _forward(launch: Launch, counted: Counted, spiking: Spiking, device: Device) -> Work:
    width, _, _, _, n_pre, n_post = launch.numbers[:6]
    per_thread = int(launch.name.split(",")[2])
    events = 64 // launch.itemsize // per_thread
    loop = counted(launch.name)
    found = spiking(n_pre, n_post, width * per_thread, events)
    rounds = found.rounds * -(-n_pre // events)
    a_round = loop.instructions * events * per_thread
    asked = found.asked * max(1.0, 32 / width)  # narrow tiles: a warp has some of several samples
    weights = device.near + cold(launch.block // 32, events) * (device.far - device.near)
    chain = rounds * (device.far + weights + a_round) + asked * AGAIN[1] + SOLVED[1]
    instructions = rounds * a_round + asked * AGAIN[0] + SOLVED[0]
    loads = rounds * loop.loads * events * per_thread
    if found.folded > 0.0:  # the weights are in the first cache by then; the sum over all is one more round
        again, (a_pair, a_load) = found.folded * -(-n_pre // events) + 1, ALONE[per_thread]
        chain += again * (device.far + device.near + a_pair * events * per_thread)
        instructions += again * a_pair * events * per_thread
        loads += again * a_load * events * per_thread
    return Work(launch.grid, launch.block // 32, instructions, loads, chain, loop.registers)


def _decisions(launch: Launch, counted: Counted, spiking: Spiking, device: Device) -> Work:
    n_inputs, n_neurons, warps = launch.numbers[2], launch.numbers[5], launch.block // 32
    loop, events, at_once = counted(launch.name), n_inputs + n_neurons, 8
    found = spiking(n_inputs, n_neurons, 64, at_once)
    tiles = math.ceil(n_neurons / 64 / warps)  # one after the other by a warp
    rounds = found.rounds * math.ceil(n_inputs / at_once)
    a_round = loop.instructions * at_once * 2
    crossing = [found.asked * again + solved for again, solved in zip(AGAIN, SOLVED, strict=True)]
    # Of the few classes behind, one warp meets all spikes, and the others wait for it.
    last = math.ceil(n_neurons / at_once)
    # Sorting and preparing events of both layers: read off the machine code, an event of one warp.
    before = 32.0 * events / warps
    loads = tiles * rounds * loop.loads * at_once * 2
    chain = tiles * (rounds * (device.near + a_round) + crossing[1]) + 2 * before + 150 * device.wait
    chain += last * (device.near + a_round / 2) + crossing[1]
    instructions = tiles * (rounds * a_round + crossing[0]) + before
    instructions += (last * a_round / 2 + crossing[0]) / warps
    return Work(launch.grid, warps, instructions, loads, chain, loop.registers)


def _tiled(launch: Launch, counted: Counted, rounds: int, pairs: int, waits: int, device: Device) -> Work:
    """A gradient: its warps load a tile together, and then go through it."""
    loop, warps = counted(launch.name), launch.block // 32
    a_round = loop.instructions * pairs
    # Loads stand before a barrier, arithmetic behind it: they do not overlap within a block.
    chain = rounds * (waits * device.far + 2 * device.wait + warps / device.issued * a_round)
    return Work(
        launch.grid, warps, rounds * a_round, rounds * pairs * loop.loads, chain, loop.registers
    )  # fmt: skip


def _weights_gradient(launch: Launch, counted: Counted, _: Spiking, device: Device) -> Work:
    _, _, n_batch, _, _, n_splits = launch.numbers
    return _tiled(launch, counted, math.ceil(n_batch / n_splits / 8), 128, 2, device)


def _times_gradient(launch: Launch, counted: Counted, _: Spiking, device: Device) -> Work:
    return _tiled(launch, counted, math.ceil(launch.numbers[3] / 16), 256, 1, device)


HOT: dict[str, Callable[[Launch, Counted, Spiking, Device], Work]] = {
    "first_spikes": _forward,
    "first_decisions": _decisions,
    "weights_gradient": _weights_gradient,
    "times_gradient": _times_gradient,
}

# --- the others: all numbers ASSUMED ----------------------------------------------------------


def _sort(launch: Launch, device: Device) -> Work:
    n_pre, padded = launch.numbers
    bits = padded.bit_length() - 1
    stages, each = bits * (bits + 1) // 2, math.ceil(padded / 2 / launch.block)
    own = math.ceil(n_pre / launch.block)
    chain = 2 * device.far + stages * (2 * device.wait + device.wait + 26 * each)
    return Work(
        launch.grid, launch.block // 32, stages * (26 * each + 10) + 30 * own, stages * 6 * each, chain
    )  # fmt: skip


def _terms(launch: Launch, device: Device) -> Work:
    _, _, n_pre, n_post = launch.numbers[:4]
    before, behind = math.ceil(n_pre / launch.block), math.ceil(n_post / launch.block)
    # The first input and the last spike, by a tree; exponentials of each input; a spike's factors.
    chain = (before + behind) * device.far / 4 + 8 * 2 * device.wait + before * 200 + behind * 900
    return Work(launch.grid, launch.block // 32, before * 140 + behind * 400 + 150, before * 8.0, chain)


def _windows(launch: Launch, device: Device) -> Work:
    _, _, n_pre, n_post = launch.numbers[:4]
    before, behind = math.ceil(n_pre / launch.block), math.ceil(n_post / launch.block)
    chain = (before + behind) * device.far / 4 + 8 * 2 * device.wait + before * 200
    return Work(launch.grid, launch.block // 32, before * 140 + 150, before * 8.0, chain)


def _count(launch: Launch, device: Device) -> Work:
    rounds = math.ceil(launch.numbers[0] / 4)
    return Work(
        launch.grid, 4, 12.0 * rounds + 60, rounds, device.far * (1 + rounds / 4) + 4 * device.wait
    )  # fmt: skip


def _judge(launch: Launch, device: Device) -> Work:
    _, n_batch, n_class, n_layer, n_all = launch.numbers[:5]
    rounds = math.ceil(n_batch / launch.block), math.ceil(n_all / launch.block)
    chain = (2 + n_layer) * 8 * 2 * device.wait + device.far * (2 + rounds[0] * n_class / 2 + rounds[1] / 2)
    return Work(launch.grid, 4, 12.0 * (n_class * rounds[0] + rounds[1]) + 300, 20.0, chain)


def _corners(launch: Launch, device: Device) -> Work:
    rounds = math.ceil(2 * launch.numbers[0] / launch.block)
    return Work(launch.grid, 4, 150.0 * rounds, rounds, 2 * device.far + 600.0 * rounds)


BLOCKS: dict[str, Callable[[Launch, Device], Work]] = {
    "sort_row": _sort,
    "gradient_terms": _terms,
    "sample_windows": _windows,
    "count_silent": _count,
    "judge": _judge,
    "draw_corners": _corners,
}

THREADS = {
    "take_warped": (900, 20, 4), "take": (450, 9, 3), "jitter_now": (350, 9, 2), "normals_now": (350, 5, 2),
    "prepare": (260, 15, 4), "append": (60, 3, 1), "cut": (60, 3, 1), "loss": (900, 60, 12),
    "rates": (200, 5, 2), "update": (130, 11, 3), "patches": (150, 2, 1),
    "parts": (100, 20, 4),
    "heard": (120, 5, 1), "gathered": (900, 25, 7), "spread": (150, 6, 2), "wake": (600, 30, 30),
    "share": (40, 2, 1), "cupy": (40, 3, 1), "chip_weights": (100, 4, 2), "chip_inputs": (100, 3, 2),
    "chip": (450, 5, 2),
}  # fmt: skip
"""Of elementwise kernels: a thread's instructions, its loads, and how many of these wait for another."""


def _elementwise(launch: Launch, device: Device) -> Work | None:
    name = launch.name.removeprefix("gpuspike_")
    if "slope" in name:
        n_pre = launch.numbers[2]
        return Work(launch.grid, 4, 14.0 * n_pre + 300, 3.0 * n_pre, n_pre * (device.far / 4 + 8) + 800)
    if name == "sum_parts":
        parts = launch.numbers[0]
        return Work(launch.grid, 4, 3.0 * parts + 20, parts, device.far * (1 + parts / 4))
    for key, (instructions, loads, waits) in THREADS.items():
        if name.startswith(key):
            return Work(launch.grid, 4, instructions, loads, waits * device.far + 2.0 * instructions)
    return None


def work_of(launch: Launch, counted: Counted, spiking: Spiking, device: Device) -> Work | None:
    """What a launch has to do; None where nothing is known of its kernel."""
    if "::" not in launch.name:
        return _elementwise(launch, device)
    name = re.search(r"::(\w+)", launch.name)[1]  # type: ignore[index]
    if name in HOT:
        return HOT[name](launch, counted, spiking, device)
    return BLOCKS[name](launch, device) if name in BLOCKS else None


def crossings(
    events: np.ndarray, n_pre: int, neurons: int, together: int, alone: np.ndarray | None = None
) -> Crossings:
    """What becomes of warps, each of so many neurons.

    Args:
        events: (sample, neuron) the event behind which a neuron spikes, n_pre where it does not.
        together: events of a round.
        alone: (sample,) events before the last inputs, which are one; None: all are.
    """
    n_rounds, rounds, asked, folded = -(-n_pre // together), [], [], []
    for sample, n_alone in zip(events, [n_pre] * len(events) if alone is None else alone, strict=True):
        most = -(-n_alone // together)
        for first in range(0, len(sample), neurons):
            own = sample[first : first + neurons]
            rounds.append(min(most, own.max() // together + 1))
            asked.append(len(np.unique(np.minimum(own[own < n_pre], n_alone) // together)))
            folded.append(most if n_alone < n_pre and own.max() >= n_alone else 0)
    return Crossings(
        *(float(np.mean(x)) / n for x, n in ((rounds, n_rounds), (asked, 1), (folded, n_rounds)))
    )
