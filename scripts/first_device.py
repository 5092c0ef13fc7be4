"""The first hour on a CUDA device, in calls of minutes: tests, benchmark, accuracy, sanitizers, profile.

    python scripts/first_device.py [--out FOLDER] [--minutes N] [--part NAME ...] [--again] [--page FILE]

Each part is a command with a time limit of its own. What came of it stands in FOLDER/first_device.json as
soon as it is known, its output beside that. A call begins no part whose limit goes beyond its minutes; the
same command, called again, goes on with what is left, trainings too, until nothing is. --again does what has
not passed once more, --page writes what was measured into a page of the documentation, between two marks.

Needs no installation of the package: the repository is put before everything else that Python would import.
The status is 0 when all has passed, 1 where a part has failed, 3 where some are left, 2 without a device.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- measured on a device, by scripts/first_device.py -->", "<!-- end of what was measured -->"
PATIENCE = 20.0
"""Seconds in which an ended training may keep its last epoch."""
TAIL = 40
"""Lines of a part's output that are kept in the report."""


@dataclass(frozen=True)
class Part:
    """One thing to be done.

    Attributes:
        command: in the repository's root, given the folder of the report.
        minutes: after which it is ended.
        tool: a program that it needs; without it the part is left out.
        resumes: what an ended one has done is not lost: it is begun again without --again.
    """

    name: str
    command: Callable[[Path], list[str]]
    minutes: float
    tool: str = ""
    resumes: bool = False


def _python(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda out: [sys.executable, *(text.replace("{out}", str(out)) for text in arguments)]


def _called(module: str, name: str, *arguments: str) -> list[str]:
    """A command of the package, which need not be installed."""
    return ["-c", f"import sys; from {module} import {name}; sys.exit({name}())", *arguments]


def _tests(*more: str) -> list[str]:
    asked = ["-m", "gpu", "--require-gpu", "-q", "-p", "no:cacheprovider", *more]
    return ["-m", "pytest", *asked, str(ROOT / "tests" / "test_gpu.py")]


SHORT = " or ".join(
    [
        "float32", "same_bits", "rows_are_sorted", "parameters_of_their_own", "public_functions",
        "slopes_at_the_crossing", "the_documented_numbers",
        "(training_is and (adam or sgd or noise or warps or maps or waking))",
    ]
)  # fmt: skip
"""Tests that between them launch kernels of each kind: a sanitizer is some 50 times slower."""


def _sanitized(tool: str) -> Part:
    def command(out: Path) -> list[str]:
        del out
        checked = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
        return [*checked, sys.executable, *_tests("-x", "-k", SHORT)]

    return Part(tool, command, 7.0, tool="compute-sanitizer")


def _training(experiment: str, minutes: float, *values: str) -> Part:
    def command(out: Path) -> list[str]:
        folder = out / experiment
        if (folder / "config.yaml").is_file():
            given = [f"resume={folder}"]
        else:
            given = [f"experiment={experiment}", "backend=cuda", f"hydra.run.dir={folder}", *values]
        return [sys.executable, *_called("gpuspike.cli.train", "train", *given)]

    return Part(f"train {experiment}", command, minutes, resumes=True)


BENCHMARK = str(ROOT / "scripts" / "benchmark_gpu.py")


def _benchmark(name: str, only: str) -> Part:
    files = "--json", f"{{out}}/{name}.json", "--markdown", f"{{out}}/{name}.md"
    return Part(name, _python(BENCHMARK, "--only", only, *files), 7.0)


TABLES = ("benchmark", "steps")
"""Parts whose tables the page shows."""

PARTS = (
    Part("installed", _python(str(Path(__file__).resolve()), "--installed"), 1.0),
    Part("doctor", _python(*_called("gpuspike.cli.doctor", "doctor")), 2.0),
    Part("tests", _python(*_tests()), 7.0),
    _benchmark("benchmark", "kernels"),
    _benchmark("steps", "steps"),  # PyTorch's compiler takes its time
    _training("mnist_best", 5.0),
    _training("mnist16_bss2", 5.0),
    _training("mnist_conv", 7.0),
    *(_sanitized(tool) for tool in ("memcheck", "racecheck", "initcheck")),
    Part(
        "profile",
        lambda out: [
            "ncu", "--section", "SpeedOfLight", "--section", "LaunchStats", "--section", "Occupancy",
            "--launch-count", "40", "--csv", "--log-file", str(out / "profile.csv"),
            sys.executable, BENCHMARK, "--case", "784", "--repeats", "1",
        ],
        7.0,
        tool="ncu",
    ),
)  # fmt: skip


# --- what is done ----------------------------------------------------------


def run(part: Part, out: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Does a part, and tells what came of it.

    Args:
        known: what came of it before.
    """
    if part.tool and shutil.which(part.tool) is None:
        return {"state": "left out", "reason": f"there is no {part.tool}"}
    command, log = part.command(out), out / f"{part.name.replace(' ', '_')}.log"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(60.0 * part.minutes)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as ended:
            os.killpg(process.pid, signal.SIGINT if part.resumes else signal.SIGKILL)
            try:
                process.wait(PATIENCE)  # a training keeps its last epoch
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if isinstance(ended, KeyboardInterrupt):
                raise
            status = None
    state = "passed" if status == 0 else "ended" if status is None else "failed"
    return {
        "state": state,
        "status": status,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": known.get("seconds", 0.0) * part.resumes + time.monotonic() - start,
        "command": shlex.join(command),
        "tail": log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:],
    }


def is_left(part: Part, known: dict[str, Any], again: bool) -> bool:
    """Whether it is to be begun."""
    state = known.get("state")
    return state is None or (state == "ended" and part.resumes) or (again and state != "passed")


def work(out: Path, minutes: float, wanted: Sequence[str], again: bool) -> dict[str, dict[str, Any]]:
    """Does what is left, as far as the minutes go; returns what is known of each part."""
    report = out / "first_device.json"
    known: dict[str, dict[str, Any]] = json.loads(report.read_text()) if report.is_file() else {}
    deadline, begun = time.monotonic() + 60.0 * minutes, False
    for part in PARTS:
        if (wanted and part.name not in wanted) or not is_left(part, known.get(part.name, {}), again):
            continue
        if begun and time.monotonic() + 60.0 * part.minutes > deadline:  # each call does something
            print(f"{part.name:20} left: it may take {part.minutes:g} minutes", flush=True)
            continue
        begun = True
        print(f"{part.name:20} ", end="", flush=True)
        known[part.name] = found = run(part, out, known.get(part.name, {}))
        partial = report.with_suffix(".tmp")
        partial.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        partial.replace(report)
        told = found.get("reason") or f"{found['seconds']:.0f} s"
        print(f"{found['state']}, {told}", flush=True)
        for line in found["tail"][-8:] if found["state"] == "failed" else ():
            print(f"    {line}", flush=True)
    return known


# --- what is told ----------------------------------------------------------


def installed() -> dict[str, Any]:
    """Versions of what a device's figures hang on."""
    names = ("gpuspike", "cupy-cuda13x", "cupy-cuda12x", "numpy", "numba", "torch", "jax")
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if shutil.which("nvidia-smi"):
        asked = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
        found["devices"] = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True, check=False
        ).stdout.splitlines()
    return found


def accuracy(out: Path, name: str) -> str:
    """What a training has reached, for the page; "" where it has not ended."""
    try:
        told = json.loads((out / name / "summary.json").read_text(encoding="utf-8"))
        reached, speed = told["accuracy"]["test"]["mean"], told["emulator"]["train_samples_per_s"]
        ended = told["run"]["interrupted"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return "" if ended else f"{name} {100 * reached:.2f} %, {speed:,.0f} samples/s"


def written(out: Path, known: dict[str, dict[str, Any]]) -> str:
    """What was measured, for a page."""
    states = ", ".join(f"{name} {one['state']}" for name, one in known.items())
    trained = [part.name.removeprefix("train ") for part in PARTS if part.name.startswith("train ")]
    reached = "; ".join(filter(None, (accuracy(out, name) for name in trained)))
    there = "\n".join(f"    {line}" for line in known.get("installed", {}).get("tail", []))
    tables = [out / f"{name}.md" for name in TABLES]
    dates = " and ".join(sorted({one["date"] for one in known.values() if "date" in one}))
    parts = [f"Measured on {dates}:", there, f"Parts: {states}."]
    parts += [f"Test accuracy, one seed: {reached}."] if reached else []
    parts += [table.read_text(encoding="utf-8").strip() for table in tables if table.is_file()]
    return "\n\n".join(parts)


def write_page(page: Path, text: str) -> None:
    """Puts the text between the page's marks.

    Raises:
        SystemExit: a page without them.
    """
    before, mark, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"{page} must have the lines {BEGIN} and {END}, got a page without")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def no_device() -> str:
    """Why nothing can be done; "" where there is a device."""
    if importlib.util.find_spec("gpuspike") is None:
        sys.path.insert(0, str(ROOT))
    from gpuspike import backend

    problem = backend.cuda_problem()
    return "" if problem is None else problem.text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="The first hour on a CUDA device, in calls of a few minutes."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/first_device"), help="where everything is kept"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call")
    parser.add_argument("--part", action="append", default=[], choices=[part.name for part in PARTS])
    parser.add_argument("--again", action="store_true", help="failed parts once more")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write what was measured there, too")
    parser.add_argument("--installed", action="store_true", help="print versions, and nothing else")
    options = parser.parse_args(arguments)
    if options.installed:
        print("\n".join(f"{name}: {value}" for name, value in installed().items()))
        return 0
    if problem := no_device():
        print(f"not begun: {problem}", file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    known = work(out, options.minutes, options.part, options.again)
    if options.page is not None:
        write_page(options.page, written(out, known))
    parts = [part for part in PARTS if not options.part or part.name in options.part]
    left = [part.name for part in parts if is_left(part, known.get(part.name, {}), False)]
    failed = [part.name for part in parts if known.get(part.name, {}).get("state") in ("failed", "ended")]
    print(f"{out / 'first_device.json'}")
    if failed:
        print(f"failed: {', '.join(failed)}; their output is in {out}, --again does them once more")
    if left:
        print(f"left: {', '.join(left)}; the same command goes on")
    return 3 if left else 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs is ended with its caller
    sys.exit(main())
