"""The device's benchmark runs every kind of case on the stand-in for CuPy; no test looks at a time."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("benchmark_gpu")
    finally:
        sys.path.remove(str(SCRIPTS))


def test_without_a_device_it_says_why(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.backend, "cuda_problem", lambda: SimpleNamespace(text="there is none"))
    assert script.main([]) == 2
    assert capsys.readouterr().err == "not measured: there is none\n"


def test_every_kind_of_case_is_measured(
    script: ModuleType,
    cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Pool:
        malloc = None

        def total_bytes(self) -> int:
            return 1 << 20

    cupy.cuda.MemoryPool, cupy.cuda.using_allocator = Pool, contextlib.nullcontext
    cupy.cuda.Event = lambda: SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    cupy.cuda.get_elapsed_time = lambda *_: 1.0
    cupy.ones_like = lambda array: cupy.ones(array.shape, array.dtype)
    monkeypatch.setattr(script.backend, "cuda_problem", lambda: None)
    monkeypatch.setattr(script.backend, "device_name", lambda: "a device")
    monkeypatch.setattr(script, "multiply_adds_per_second", lambda *_: 1e12)
    monkeypatch.setattr(script, "copied_bytes_per_second", lambda *_: 1e12)
    kinds = {case.kind for case in script.CASES}
    small = [script.Case(kind, 70, 33, 65, "float32", 1.0, **script.LATE) for kind in sorted(kinds)]
    monkeypatch.setattr(script, "CASES", small)
    file, page = tmp_path / "gpu.json", tmp_path / "gpu.md"
    assert script.main(["--repeats", "2", "--json", str(file), "--markdown", str(page)]) == 0
    report = json.loads(file.read_text())
    assert {case["case"]["kind"] for case in report["cases"]} == kinds
    assert all(len(case["seconds"]) == 2 for case in report["cases"])
    said, written = capsys.readouterr().out, page.read_text()
    assert all(case.name in said and case.name in written for case in small)
