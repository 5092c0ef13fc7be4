"""The table of docs/augmentation.md: made from run files, between its markers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpuspike.config.schema import jobs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> Any:
    """scripts/ablation.py."""
    return load_script("ablation")


def test_each_case_is_a_run(script: Any) -> None:
    for case, overrides in script.CASES.items():
        (job,) = jobs([*script.BASE.split(), *overrides.split()], multirun=False)
        assert job.config.training.epochs == 50, case


def test_the_page_gets_what_the_runs_have(script: Any, tmp_path: Path) -> None:
    for number, case in enumerate(script.CASES):
        folder = script.folder_of(case, tmp_path)
        folder.mkdir()
        found = {split: {"mean": 0.9 + number / 1000} for split in ("train", "validation", "test")}
        (folder / "summary.json").write_text(json.dumps({"accuracy": found}))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ablation -->\nold\n<!-- end of ablation -->\nafter\n")
    assert script.main(["--output", str(tmp_path), "--table", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- ablation -->\n| 784-350-10")
    assert text.endswith("|\n<!-- end of ablation -->\nafter\n")
    assert "| all of it | 90.40 | 90.40 | 90.40 |" in text


def test_the_page_has_the_markers() -> None:
    text = (ROOT / "docs" / "augmentation.md").read_text()
    assert text.count("<!-- ablation -->") == text.count("<!-- end of ablation -->") == 1
