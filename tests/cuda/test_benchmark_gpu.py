"""The device's benchmark runs every kind of case on the stand-in for CuPy; no test looks at a time."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
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
    cupy.ones_like = lambda array: cupy.ones(array.shape, array.dtype)
    monkeypatch.setattr(script.backend, "cuda_problem", lambda: None)
    monkeypatch.setattr(script.backend, "device_name", lambda: "a device")
    monkeypatch.setattr(script, "multiply_adds_per_second", lambda *_: 1e12)
    monkeypatch.setattr(script, "copied_bytes_per_second", lambda *_: 1e12)
    kinds = {case.kind for case in script.CASES}
    small = [script.Case(kind, 70, 33, 65, "float32", 1.0, **script.LATE) for kind in sorted(kinds)]
    monkeypatch.setattr(script, "CASES", small)
    monkeypatch.setattr(script.training, "INPUTS", 9)
    monkeypatch.setattr(script.training, "STEPS", 3)
    monkeypatch.setattr(script.training.yardstick, "torch_module", lambda: None)
    steps = [
        replace(case, overrides=(*case.overrides, "model.hidden=[4]", "training.batch_size=6"))
        for case in script.training.CASES
        if "replicas" not in case.name and case.experiment == "mnist"
    ]
    small_maps = ("[{conv: 2, kernel: 2}, {dense: 10}]", "[[]]", "[0.3,0.1]", "[0.6,0.2]", "[0.5,0.05]")
    keys = (
        "model.layers",
        "model.bias_times",
        "model.weight_mean",
        "model.weight_std",
        "training.max_silent",
    )
    maps = [f"{key}={value}" for key, value in zip(keys, small_maps, strict=True)]
    steps += [
        replace(case, overrides=(*maps, "training.batch_size=6"))
        for case in script.training.CASES
        if case.experiment == "mnist_conv"
    ]
    steps += [
        replace(case, overrides=(*case.overrides, "training.batch_size=6"))
        for case in script.training.CASES
        if case.experiment == "yin_yang_best"
    ]
    monkeypatch.setattr(script.training, "CASES", steps)
    file, page = tmp_path / "gpu.json", tmp_path / "gpu.md"
    assert script.main(["--repeats", "2", "--json", str(file), "--markdown", str(page)]) == 0
    report = json.loads(file.read_text())
    assert {case["case"]["kind"] for case in report["cases"]} == kinds
    assert all(len(case["seconds"]) == 2 for case in report["cases"])
    said, written = capsys.readouterr().out, page.read_text()
    assert all(case.name in said and case.name in written for case in (*small, *steps))
    for case in report["training"]:
        assert case["columns"]["step us"] > 0.0
        assert case["columns"]["device us"] > 0.0
        assert all(case["columns"][column] is None for column in script.training.yardstick.WAYS)
    assert " - |" in written
