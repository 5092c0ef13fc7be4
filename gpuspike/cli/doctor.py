"""gpuspike-doctor: what is installed, which device is seen, and whether kernels compute what they should."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpuspike import backend
from gpuspike.cli.command import command
from gpuspike.errors import ConfigError
from gpuspike.kernels import first_spikes, first_spikes_vjp, reference
from gpuspike.neuron import LIF
from gpuspike.screen import Screen, open_streams

TOLERANCE = 1e-9
"""Largest difference from the oracle, of times in tau_syn and of gradients as a share of the largest."""

BROKEN = ("broken CuPy", "old driver", "unknown")
"""Problems in which something that is installed does not work; the others just leave the CPU."""


HELP = """gpuspike-doctor tells what is installed, which device is seen, and whether kernels compute rightly.

    gpuspike-doctor

It takes no values, trains nothing, and ends with 1 where something that is installed does not work."""


def doctor() -> int:
    """`gpuspike-doctor`: see README.md."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    with command("gpuspike-doctor", "the doctor"):
        if arguments:
            raise ConfigError(f"gpuspike-doctor takes no values, got {' '.join(arguments)}")
    return main()


def main(console: Console | None = None) -> int:
    """Prints a table; 0 where everything that is installed works, else 1."""
    open_streams()
    console = console or Screen()
    table = Table(title="gpuspike-doctor", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in ("gpuspike", "numpy", "numba", "scipy"):
        table.add_row(name, _version(name))
    table.add_row("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    table.add_row("cupy", ", ".join(_cupy_packages()) or "not installed")
    driver = backend.driver_cuda()
    table.add_row("NVIDIA driver", "none seen" if driver is None else f"serves CUDA {driver[0]}.{driver[1]}")
    code = 0
    table.add_row("cpu", backend.select("cpu").device)
    if (said := backend.crowded()) is not None:
        table.add_row("threads", Text(said, style="yellow"))
    code |= _row(table, "cpu kernels", lambda: _compare(np.asarray))
    table.add_row("kept kernels", _kept())
    problem = backend.cuda_problem()
    if problem is None:
        table.add_row("cuda", backend.device_name(*range(backend.device_count())))
        code |= _row(table, "cuda kernels", lambda: _compare(backend.cupy_module().asarray))
    else:
        colour = "red" if problem.kind in BROKEN else "yellow"
        said = Text.assemble((problem.kind, colour), f": {problem.text}")
        if problem.kind == "no CuPy":  # which the text says too
            said = Text(problem.text, colour)
        table.add_row("cuda", said)
        code |= int(problem.kind in BROKEN)
    console.print(table)
    arrays = "NumPy arrays on the CPU" + ("" if problem else ", CuPy arrays on the device")
    console.print(f"first_spikes computes {arrays}; training runs on the CPU.")
    if code:
        console.print("Something installed is broken.")
    return code


def _row(table: Table, name: str, check: Callable[[], float]) -> int:
    """Adds what a comparison with the oracle gave; 1 if it failed."""
    try:
        difference = check()
    except Exception as error:  # the doctor names what is wrong, whatever it is
        words = " ".join(f"{type(error).__name__}: {error}".split())
        table.add_row(name, Text.assemble(("broken", "red"), f": {words}"))
        return 1
    good = difference <= TOLERANCE
    verdict = ("agree with the oracle", "green") if good else ("differ from the oracle", "red")
    table.add_row(name, Text.assemble("compiled, ", verdict, f" to {difference:.0e}"))
    return 0 if good else 1


def _kept() -> Text:
    """Where compiled kernels are kept, and what is wrong with it: nothing of which stops a run."""
    from gpuspike.kernels import cache

    place, problem, damaged = cache.folder(), cache.problem(), cache.damaged()
    where = "nowhere" if place is None else str(place)
    if problem is not None:
        told = f": compiled again by each run, since {problem}; NUMBA_CACHE_DIR=FOLDER keeps them in another"
        return Text.assemble((where, "yellow"), told)
    if damaged:
        return Text.assemble(where, ("; damaged, to be compiled again: ", "yellow"), str(len(damaged)))
    return Text(where)


def _compare(as_array: Callable[[Any], Any]) -> float:
    """Largest difference of a backend's spike times and gradients from the oracle's, on a small network."""
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.0, 2.0, (1, 8, 40))
    weights = rng.normal(0.15, 0.3, (1, 40, 16))
    worst = 0.0
    for ratio in (1.0, 2.0, np.inf, 3.0):
        neuron = LIF(tau_mem=ratio)
        expected = reference.first_spikes(t_in, weights, neuron)
        ours = as_array(t_in), as_array(weights)
        t_out = first_spikes(*ours, neuron)
        host = _host(t_out)
        if np.isnan(host).any() or not np.array_equal(np.isfinite(host), np.isfinite(expected)):
            return float("inf")
        both = np.isfinite(expected)
        differences = [float(np.abs(host[both] - expected[both]).max(initial=0.0))]
        grads = first_spikes_vjp(*ours, neuron, t_out, as_array(np.ones_like(expected)))
        exact = reference.first_spikes_vjp(t_in, weights, neuron, host, np.ones_like(expected))
        for got, wanted in zip(grads, exact, strict=True):
            differences.append(float(np.abs(_host(got) - wanted).max() / np.abs(wanted).max()))
        if not np.isfinite(differences).all():
            return float("inf")
        worst = max(worst, *differences)
    return worst


def _host(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cupy_packages() -> list[str]:
    """CuPy's wheels go by many names (cupy-cuda12x, ...); two at once do not work."""
    found = {
        f"{distribution.metadata['Name']} {distribution.version}"
        for distribution in metadata.distributions()
        if str(distribution.metadata["Name"]).lower().startswith("cupy")
    }
    return sorted(found)
