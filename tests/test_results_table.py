"""The results page is made from run folders alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "results_table.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(replicas: list[float]) -> dict[str, Any]:
    std = None if len(replicas) == 1 else 0.01
    split = {"mean": sum(replicas) / len(replicas), "std": std, "per_replica": replicas}
    return {
        "accuracy": dict.fromkeys(("train", "validation", "test"), split),
        "emulator": {"train_samples_per_s": 123456.7, "wall_s": 8.4, "device": "a processor"},
        "provenance": {"gpuspike": "0.1.0", "git": "abc", "seed": 3, "replicas": len(replicas)},
        "run": {
            "experiment": "yin_yang",
            "epochs_done": 300,
            "dtype": "float64",
            "interrupted": False,
            "overrides": ["replicas=2", "hydra.run.dir=x"],
        },
    }


def test_the_page_holds_mean_deviation_and_every_replica(script: ModuleType, tmp_path: Path) -> None:
    for name, replicas in (("one", [0.9]), ("two", [0.94, 0.96])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(summary(replicas)))
    page = tmp_path / "results.md"
    assert script.main([str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| yin_yang | 300 | 2 | 95.00 ± 1.00 | 95.00 ± 1.00 | 95.00 ± 1.00 |" in text
    assert "| yin_yang | 300 | 1 | 90.00 | 90.00 | 90.00 |" in text
    assert "seeds 3 to 4): 94.0, 96.0 %" in text
    assert "unchecked" in text
    assert "Again: `gpuspike-train replicas=2`" in text
    assert "123,457 | 8 |" in text


def test_a_folder_without_a_finished_run_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path), "--output", str(tmp_path / "page.md")]) == 2
    assert "is no finished run" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
