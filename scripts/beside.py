"""What was predicted (`predicted.py`) beside what is measured, so that a run on a device tests the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

DEVICES = {"NVIDIA H200": "H200", "NVIDIA H100 80GB HBM3": "H100"}
"""Models by a device's whole name: multiprocessors, clock and memory are those of the SXM boards alone."""

PATIENCE = 120.0
"""Seconds for a prediction: compiling and disassembling takes some ten."""


def predicted(device: str, case: str = "") -> dict[str, float]:
    """Microseconds by case; none where the device has no model, or the tools are not installed.

    A process of its own computes them: it puts another CuPy in the place of the one that measures.
    """
    model = DEVICES.get(device.partition(" (")[0])
    if model is None:
        return {}
    script = str(Path(__file__).with_name("predicted.py"))
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": paths}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "predicted.json")
        command = [sys.executable, script, "--device", model, "--case", case, "--json", str(file)]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"not predicted: {script} took more than {PATIENCE:g} s", file=sys.stderr)
            return {}
        if not file.is_file():
            said = (ended.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
            print(f"not predicted: {said}", file=sys.stderr)
            return {}
        cases = json.loads(file.read_text(encoding="utf-8"))["cases"]
    return {one["case"]: one["predicted"] for one in cases if one["predicted"] is not None}


COLUMNS = ("case", "measured us", "predicted us", "measured/predicted")


def _rows(measured: Mapping[str, float | None], told: Mapping[str, float]) -> list[tuple[str, ...]]:
    return [
        (name, f"{us:,.0f}", f"{told[name]:,.0f}", f"{us / told[name]:.2f}")
        for name, us in measured.items()
        if us is not None and name in told
    ]


def table(measured: Mapping[str, float | None], told: Mapping[str, float]) -> Table:
    """Of the cases that have both."""
    result = Table()
    for column in COLUMNS:
        result.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for row in _rows(measured, told):
        result.add_row(*row)
    return result


def markdown(measured: Mapping[str, float | None], told: Mapping[str, float]) -> str:
    """The same for a page."""
    lines = (COLUMNS, ("---",) * len(COLUMNS), *_rows(measured, told))
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)
