"""The script that writes the tables of docs/silence.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def silence(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("silence")


def test_each_case_has_a_folder_of_its_own(silence: ModuleType) -> None:
    cases = [case for _, rows in silence.TABLES.values() for columns in rows.values() for case in columns]
    assert len({silence.name_of(case) for case in cases}) == len(cases) == 18


def test_tables_are_written_from_runs_that_are_there(
    silence: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, rows in silence.TABLES.values():
        for columns in rows.values():
            for case in columns:
                folder = tmp_path / silence.name_of(case)
                folder.mkdir()
                accuracy = {"test": {"mean": 0.95, "std": 0.01, "per_replica": [0.94, 0.96]}}
                (folder / "summary.json").write_text(json.dumps({"accuracy": accuracy}))
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "silence.md").read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):  # again on a page that has its tables
        assert silence.main(["--output", str(tmp_path), "--table", str(page)]) == 0
    row = (
        "| 4-5-3 | 95.00 ± 1.00, at least 94.0 | 95.00 ± 1.00, at least 94.0 | 95.00 ± 1.00, at least 94.0 |"
    )
    assert page.read_text(encoding="utf-8").count(row) == 1
    assert row in capsys.readouterr().out
