"""The results page is made from run folders alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("results_table")


def summary(replicas: list[float], experiment: str = "yin_yang", seed: int = 3) -> dict[str, Any]:
    std = None if len(replicas) == 1 else 0.01
    split = {"mean": sum(replicas) / len(replicas), "std": std, "per_replica": replicas}
    return {
        "accuracy": dict.fromkeys(("train", "validation", "test"), split),
        "emulator": {"train_samples_per_s": 123456.7, "wall_s": 8.4, "device": "a processor"},
        "provenance": {"gpuspike": "0.1.0", "git": "abc", "seed": seed, "replicas": len(replicas)},
        "run": {
            "experiment": experiment,
            "epochs_done": 300,
            "dtype": "float64",
            "interrupted": False,
            "overrides": [f"experiment={experiment}", f"seed={seed}", "hydra.run.dir=x"],
        },
    }


def folders(place: Path, *summaries: dict[str, Any]) -> list[str]:
    """Run folders with these summaries."""
    for number, content in enumerate(summaries):
        (place / f"run_{number}").mkdir()
        (place / f"run_{number}" / "summary.json").write_text(json.dumps(content))
    return [str(place / f"run_{number}") for number in range(len(summaries))]


def test_the_page_of_the_clone_is_of_its_own_runs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, summary([0.9]))
    monkeypatch.chdir(tmp_path)
    assert script.main(runs) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"results_table: error: {runs[0]} is not in {script.CLONE}, whose docs/results.md")
    assert "--output PAGE" in told
    assert not list(tmp_path.rglob("results.md"))
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(script, "CLONE", tmp_path)
    assert script.main(runs) == 0
    assert "| yin_yang |" in (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_page_holds_mean_deviation_and_every_seed(script: ModuleType, tmp_path: Path) -> None:
    runs = folders(tmp_path, summary([0.9], "mine"), summary([0.94, 0.96]))
    page = tmp_path / "results.md"
    assert script.main([*runs, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| yin_yang | 300 | 2 | 95.00 ± 1.41 | 95.00 ± 1.41 | 95.00 ± 1.41 |" in text
    assert "| mine | 300 | 1 | 90.00 | 90.00 | 90.00 |  |" in text
    assert "test accuracy by seed: 3: 94.00, 4: 96.00 %" in text
    assert "gpuspike 0.1.0 at abc, float64, a processor" in text
    assert "Again: `gpuspike-train experiment=yin_yang seed=3`" in text
    assert "123,457 |" in text


def test_runs_that_differ_in_their_seeds_only_are_one_row(script: ModuleType, tmp_path: Path) -> None:
    changed = summary([0.5], "mnist", 9)
    changed["run"]["overrides"].append("training.xi=0.1")
    runs = folders(
        tmp_path, summary([0.98], "mnist", 7), summary([0.96, 0.97], "mnist", 3), changed, summary([0.9])
    )
    page = tmp_path / "results.md"
    assert script.main([*runs, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| mnist | 300 | 3 | 97.00 ± 1.00 |" in text
    assert "3: 96.00, 4: 97.00, 7: 98.00 %" in text
    assert "experiment=mnist seed=3`, `gpuspike-train experiment=mnist seed=7`" in text
    assert "| 123,457 |" in text
    assert "| mnist training.xi=0.1 | 300 | 1 | 50.00 | 50.00 | 50.00 |  |" in text, (
        "not the paper's any more"
    )
    assert text.index("| mnist |") < text.index("| mnist training") < text.index("| yin_yang |")


def test_a_seed_that_comes_twice_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, summary([0.98, 0.97], "mnist", 3), summary([0.96], "mnist", 4))
    assert script.main([*runs, "--output", str(tmp_path / "page.md")]) == 2
    assert "mnist has runs with the same seeds: [3, 4, 4]" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_published_figures_stand_beside_ours_with_their_evidence(script: ModuleType, tmp_path: Path) -> None:
    names = ("mnist", "mnist16", "mnist16_small", "mnist16_bss2", "mnist_deep")
    page = tmp_path / "results.md"
    runs = folders(tmp_path, *(summary([0.97], name) for name in names))
    assert script.main([*runs, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| 97.1 ± 0.1 (unchecked); 97.01 |" in text
    assert "| 97.4 ± 0.2 | reported, unchecked |" in text
    assert "| 98.54 | 96.81 | recomputed from the arrays stored with the code, one seed |" in text
    assert "second-hand: Cramer et al." in text
    assert all(f"\n| {name} | " in text.split("## Published figures")[1] for name in names)
    assert "yin_yang" not in text, "what was not run has nothing beside it"


def test_a_folder_without_a_finished_run_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path), "--output", str(tmp_path / "page.md")]) == 2
    assert "is no finished run" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_a_run_on_a_chip_tells_what_the_loop_gains(script: ModuleType, tmp_path: Path) -> None:
    on_chip = summary([0.95, 0.97], "yin_yang_bss2")
    on_chip["substrate"] = {
        "gradient": "nominal",
        "chip_seeds": [0, 1],
        "test_accuracy_without_chip": {"per_replica": [0.78, 0.80]},
        "gradient_angle_degrees": {"per_replica": [30.0, 40.0]},
    }
    page = tmp_path / "results.md"
    runs = folders(tmp_path, on_chip, summary([0.96], "mnist16") | {"substrate": {"name": "ideal"}})
    assert script.main([*runs, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "the same weights without the chip: 79.00 ± 1.41 %" in text
    assert "nominal to exact gradient: 35.00 ± 7.07 degrees" in text
    assert text.count("without the chip") == 1


def test_other_experiments_of_the_page_are_kept(script: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    runs = folders(tmp_path, summary([0.9], "mine"), summary([0.94, 0.96]), summary([0.91], "mine", 5))
    assert script.main([*runs[:2], "--output", str(page)]) == 0
    before = page.read_text(encoding="utf-8")
    assert script.main([runs[2], "--keep", "--output", str(page)]) == 0
    after = page.read_text(encoding="utf-8")
    assert "| mine | 300 | 1 | 91.00 | 91.00 | 91.00 |" in after
    assert "5: 91.00 %" in after
    assert "90.00" not in after
    assert [line for line in before.splitlines() if "yin_yang" in line] == [
        line for line in after.splitlines() if "yin_yang" in line
    ]
    assert script.main([runs[2], "--keep", "--output", str(tmp_path / "none.md")]) == 2
