"""The benchmark of whole steps runs on any experiment and says what it promises; no test looks at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark_training.py"


@pytest.fixture
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script on Yin-Yang, which needs no files, and few samples."""
    module = load_script("benchmark_training")
    module.N_SAMPLES, module.STEPS = 900, 3
    module.CASES = (
        module.Case("train yin_yang", ("experiment=yin_yang",), True, 1_000),
        module.Case("classify yin_yang", ("experiment=yin_yang",), False),
    )
    return module


def test_every_case_fills_its_row(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = {"json": tmp_path / "b.json", "markdown": tmp_path / "b.md"}
    benchmark.main(["--repeats", "2", "--json", str(paths["json"]), "--markdown", str(paths["markdown"])])
    printed = capsys.readouterr().out
    for word in ("train yin_yang", "classify yin_yang", "samples/s", "1,000", "threads"):
        assert word in printed
    report = json.loads(paths["json"].read_text())
    assert [len(m["seconds"]) for m in report["measurements"]] == [2, 2]
    assert [m["samples_a_step"] for m in report["measurements"]] == [150, 100]
    lines = paths["markdown"].read_text().splitlines()
    assert lines[2].startswith("| case | step ms |")
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "nonsense"], "--case must be a part of one of these names, got 'nonsense'"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_run_is_refused(
    benchmark: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


def test_the_cases_name_experiments_that_exist() -> None:
    text = SCRIPT.read_text()
    conf = SCRIPT.parents[1] / "conf" / "experiment"
    for name in ("mnist", "mnist_best", "mnist16", "mnist_deep"):
        assert f'"experiment={name}"' in text
        assert (conf / f"{name}.yaml").exists()
