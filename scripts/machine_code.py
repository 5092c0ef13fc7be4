"""What the device's hot loops cost: instructions a pair-event, counted in the machine code.

    python scripts/machine_code.py [--arch 80 90] [--markdown FILE]

Needs no device: NVIDIA's compiler and disassembler come as wheels (pip install nvidia-cuda-nvrtc-cu12
nvidia-cuda-nvdisasm). A loop is the shortest way round that has all multiply-adds of its pairs: what a warp
goes through where no neuron is near its threshold. Loads of a tile into shared memory are counted once a
round.

Columns:

    a pair       instructions, of all kinds
    of it        multiply-adds of the type of the sums, loads from global and from shared memory, the rest
    registers    a thread
    limit        pair-events/s of float32 if an H100 SXM issued an instruction in every cycle (NVIDIA's data
                 sheet has 67 TFLOPS of float32: 33.5 T multiply-adds/s), or a load in every fourth, as it has
                 a quarter as many load units
"""

from __future__ import annotations

import argparse
import heapq
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import nvrtc

from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.cuda import source as src

FLOAT, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)

LANES_A_SECOND = 67e12 / 2
"""Multiply-adds of an H100 SXM in float32, or other instructions of as many lanes; see above."""


@dataclass(frozen=True)
class Case:
    """A loop of a kernel.

    Attributes:
        pairs: in one round;  multiply_adds: in one round.
        sums: whether it has additions in place of them.
    """

    name: str
    instance: str
    pairs: int
    multiply_adds: int
    sums: bool = False


def _forward(dtype: np.dtype, per_thread: int, pairs: int, lifted: bool = False) -> Case:  # type: ignore[type-arg]
    name = f"forward, {dtype}, {per_thread} a thread{', lifted thresholds' if lifted else ''}"
    return Case(name, src.forward_instance(dtype, EQUAL, per_thread, lifted), pairs, 3 * pairs)


CASES = (
    _forward(FLOAT, 1, 16),
    _forward(FLOAT, 2, 16),
    _forward(FLOAT, 2, 16, lifted=True),
    _forward(DOUBLE, 1, 8),
    _forward(DOUBLE, 2, 8),
    Case("weights gradient, float32", src.block_kernels(FLOAT, EQUAL)["weights_gradient"], 128, 128),
    Case("input times' gradient, float32", src.block_kernels(FLOAT, EQUAL)["times_gradient"], 256, 512),
    Case("decisions, float32, 2 a thread", src.decision_instance(FLOAT, EQUAL), 16, 48),
    *(
        Case(
            f"weights alone, float32, {n} a thread",
            src.forward_instance(FLOAT, EQUAL, n, False),
            16,
            16,
            True,
        )
        for n in (1, 2)
    ),
)

KINDS = {"loads": r"LDG?\b", "shared": r"LDS\b"}


@dataclass(frozen=True)
class Count:
    """What a round of a loop has."""

    instructions: int
    kinds: dict[str, int]
    registers: int


def disassembler() -> str | None:
    """NVIDIA's, from the path or its wheel."""
    wheels = (file for folder in nvrtc.folders() for file in folder.glob("bin/nvdisasm"))
    return shutil.which("nvdisasm") or next(map(str, wheels), None)


def machine_code(instance: str, arch: int) -> tuple[str, int]:
    """An instance's text, and its registers.

    Raises:
        SystemExit: what is not installed, or what the compiler says.
    """
    library, program = nvrtc.compiler_for(arch), disassembler()
    if library is None or program is None:
        raise SystemExit(
            f"{'a compiler that knows sm_' + str(arch) if library is None else 'nvdisasm'} is not installed: "
            "pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm"
        )
    options = [*src.OPTIONS, f"--gpu-architecture=sm_{arch}", "--ptxas-options=-v"]
    compiled = nvrtc.compile_text(library, src.source(), options, [instance])
    if not compiled.ok:
        raise SystemExit(compiled.log)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.cubin)
        file.flush()
        Path(program).chmod(0o755)  # a wheel may come without
        answer = subprocess.run([program, "-c", file.name], capture_output=True, text=True, check=True)
    name = re.search(r"::(\w+)", instance)[1]  # type: ignore[index]
    ((_, _, registers),) = (used for kernel, used in compiled.resources.items() if name in kernel)
    (part,) = (part for part in answer.stdout.split("//--------------------- .text.") if name in part[:200])
    return part, registers


@dataclass
class Block:
    """Instructions that go one after the other, and the blocks that may follow."""

    instructions: list[str]
    following: list[int]


def blocks(text: str) -> list[Block]:
    """The blocks of a disassembled kernel."""
    found, at, jumps = [Block([], [])], {}, []
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            if found[-1].instructions:
                found.append(Block([], []))
            at[label[1]] = len(found) - 1
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            word = instruction[1]
            found[-1].instructions.append(word)
            if re.search(r"\b(BRA|EXIT|RET)\b", word):
                if target := re.search(r"BRA.*\((\.L_x_\d+)\)", word):
                    jumps.append((len(found) - 1, target[1]))
                found.append(Block([], []))
    for source, target in jumps:
        found[source].following.append(at[target])
    for number, block in enumerate(found[:-1]):
        last = block.instructions[-1] if block.instructions else ""
        always = re.match(r"(BRA|EXIT|RET)\b", last) and not re.match(r"BRA\s+!?U?P", last)
        if not always:
            block.following.append(number + 1)
    return found


def _rounds(found: list[Block], start: int) -> Iterator[list[int]]:
    """Shortest ways from a block back to it through each other block."""

    def ways(first: int, following: list[list[int]]) -> dict[int, tuple[int, list[int]]]:
        done: dict[int, tuple[int, list[int]]] = {}
        queue = [(0, first, [first])]
        while queue:
            length, here, way = heapq.heappop(queue)
            if here in done:
                continue
            done[here] = (length, way)
            for other in following[here]:
                heapq.heappush(queue, (length + len(found[other].instructions), other, [*way, other]))
        return done

    forth = [block.following for block in found]
    back: list[list[int]] = [[] for _ in found]
    for number, block in enumerate(found):
        for other in block.following:
            back[other].append(number)
    there, home = ways(start, forth), ways(start, back)
    for middle in there.keys() & home.keys():
        if middle != start or start in forth[start]:
            yield [*there[middle][1], *reversed(home[middle][1])][:-1] if middle != start else [start]


def hot_loop(text: str, multiply_adds: int, word: str = "FFMA") -> list[str]:
    """Instructions of the shortest round with so many multiply-adds; one or two may stand before the loop."""
    found = blocks(text)

    def size(instructions: list[str]) -> int:
        return sum(bool(re.search(rf"\b{word}\b", each)) for each in instructions)

    starts = [n for n, block in enumerate(found) if size(block.instructions) >= multiply_adds // 4]
    rounds = [
        [word for number in dict.fromkeys(way) for word in found[number].instructions]
        for start in starts
        for way in _rounds(found, start)
    ]
    fitting = [way for way in rounds if size(way) >= 7 * multiply_adds // 8]
    if not fitting:
        raise SystemExit(f"no loop has {multiply_adds} multiply-adds")
    return min(fitting, key=len)


def count(case: Case, arch: int) -> Count:
    """A case's loop for an architecture."""
    text, registers = machine_code(case.instance, arch)
    word = "FFMA" if "float" in case.instance else "DFMA"
    loop = hot_loop(text, case.multiply_adds, word.replace("FMA", "ADD") if case.sums else word)
    patterns = {"multiply-adds": rf"\b{word}\b"} | KINDS
    kinds = {kind: sum(bool(re.search(pattern, each)) for each in loop) for kind, pattern in patterns.items()}
    return Count(len(loop), kinds, registers)


COLUMNS = ("loop", "device", "a pair", "multiply-adds", "loads", "shared", "other", "registers", "limit")


def row(case: Case, arch: int) -> tuple[str, ...]:
    """One line of the table."""
    counted = count(case, arch)
    kinds = [number / case.pairs for number in counted.kinds.values()]
    a_pair = counted.instructions / case.pairs
    busiest = max(a_pair, 4.0 * (kinds[1] + kinds[2]))
    limit = f"{LANES_A_SECOND / busiest / 1e12:.1f} T/s" if arch == 90 and "float64" not in case.name else "-"
    numbers = [f"{number:.2f}" for number in (a_pair, *kinds, a_pair - sum(kinds))]
    return case.name, f"sm_{arch}", *numbers, str(counted.registers), limit


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", default=[80, 90], choices=(75, 80, 86, 89, 90, 100, 120),
        help="generations of devices",
    )  # fmt: skip
    parser.add_argument("--case", default="", help="only loops whose name contains this")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.case in case.name]
    if not cases:
        parser.error(f"--case must be a part of a loop's name, got {options.case!r}")
    rows = [row(case, arch) for case in cases for arch in options.arch]
    table = Table(title="instructions a pair-event")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("loop", "device") else "right", no_wrap=True)
    for values in rows:
        table.add_row(*values)
    Console(highlight=False, width=140).print(table)
    if options.markdown is not None:
        lines = [f"| {' | '.join(values)} |" for values in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
