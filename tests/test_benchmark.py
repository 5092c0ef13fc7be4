"""The benchmark runs, prints what its text promises, and counts correctly; no test looks at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpuspike.kernels import first_spikes


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    module = load_script("benchmark")
    module.COPY_BYTES = 1 << 16
    module.STEPS = 1 << 10
    return module


def test_the_smallest_case_fills_every_column(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    smallest = min(benchmark.CASES, key=lambda case: case.n_batch * case.n_pre * case.n_post)
    file, page = tmp_path / "benchmark.json", tmp_path / "benchmark.md"
    benchmark.main(["--case", smallest.name, "--repeats", "1", "--json", str(file), "--markdown", str(page)])
    output = capsys.readouterr().out
    for column in benchmark.COLUMNS:
        assert f" {column} " in output
        assert column in benchmark.__doc__ or column == "case"
    assert output.count(smallest.name) == 1
    for word in ("multiply-adds/s", "GB/s", "threads"):
        assert word in output

    report = json.loads(file.read_text(encoding="utf-8"))
    assert f"| {smallest.name} |" in page.read_text(encoding="utf-8")
    assert set(report["multiply_adds_per_s"]) == {"float32", "float64"}
    (case,) = report["cases"]
    assert case["case"]["name"] == smallest.name
    assert len(case["seconds"]) == 1
    assert list(case["columns"]) == list(benchmark.COLUMNS)
    passes = 2 if smallest.kind == "both gradients" else 1
    assert case["pairs"] == passes * smallest.n_batch * smallest.n_pre * smallest.n_post
    assert 0 < case["met"] <= case["pairs"]


def test_cases_have_names_of_their_own_and_cover_what_is_promised(benchmark: ModuleType) -> None:
    names = [case.name for case in benchmark.CASES]
    assert len(set(names)) == len(names)
    cases = benchmark.CASES
    assert {case.activity for case in cases} == {"silent", "late", "early"}
    assert {case.ratio for case in cases} == {1.0, 2.0, math.inf, 1.5}
    assert {case.kind for case in cases} == {"forward", "weights gradient", "both gradients"}
    assert {case.dtype for case in cases} == {"float32", "float64"}


@pytest.mark.parametrize("kind", ["forward", "weights gradient"])
@pytest.mark.parametrize("activity", ["SILENT", "LATE", "EARLY"])
def test_pairs_are_counted_up_to_the_spike(benchmark: ModuleType, kind: str, activity: str) -> None:
    drawn_as = getattr(benchmark, activity)
    case = benchmark.Case(kind, 20, 60, 50, "float64", 1.0, **drawn_as, bias=True)
    t_in, weights, neuron = benchmark.draw(case)
    t_out = first_spikes(t_in, weights, neuron)
    assert not t_in[..., -1].any()
    before = t_in[0, :, :, None] <= t_out[0, :, None, :]
    if kind != "forward":
        before &= np.isfinite(t_out[0])[:, None, :]
    assert benchmark.pairs_met(case, t_in, t_out) == np.count_nonzero(before)
    low, high = {"SILENT": (0.0, 0.1), "LATE": (0.25, 0.75), "EARLY": (0.99, 1.0)}[activity]
    assert low <= np.isfinite(t_out).mean() <= high


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--case", "nonsense"], "--case must be a part of one of these names, got 'nonsense'"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_run_is_refused(
    benchmark: ModuleType,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert expected in capsys.readouterr().err
