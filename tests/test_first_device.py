"""The first hour on a device, without one: parts that are done, ended, left out and gone on with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, load_script: Callable[[str], ModuleType]) -> ModuleType:
    module = load_script("first_device")
    monkeypatch.setattr(module, "no_device", lambda: "")
    return module


def part(script: ModuleType, name: str, code: str, minutes: float = 1.0, **more: Any) -> Any:
    return script.Part(name, lambda _: [sys.executable, "-c", code], minutes, **more)


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "first_device.json").read_text())


def test_without_a_device_it_says_why(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "no_device", lambda: "there is none")
    assert script.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "not begun: there is none\n"
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_done_again_and_what_failed_is_told(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    count = f"open({str(tmp_path / 'n')!r}, 'a').write('x')"
    bad = part(script, "bad", "print('it broke'); raise SystemExit(4)")
    alone = part(script, "alone", "", tool="no-such-program")
    monkeypatch.setattr(script, "PARTS", (part(script, "good", count), bad, alone))
    assert script.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "it broke" in said
    assert "left out, there is no no-such-program" in said
    assert "failed: bad" in said
    found = report(tmp_path)
    assert {name: one["state"] for name, one in found.items()} == {
        "good": "passed", "bad": "failed", "alone": "left out"
    }  # fmt: skip
    assert found["bad"]["status"] == 4
    monkeypatch.setattr(script, "PARTS", (script.PARTS[0], part(script, "bad", ""), alone))
    assert script.main(["--out", str(tmp_path)]) == 1
    assert script.main(["--out", str(tmp_path), "--again"]) == 0
    assert (tmp_path / "n").read_text() == "x"
    assert report(tmp_path)["bad"]["state"] == "passed"


def test_a_part_is_ended_after_its_minutes_and_a_training_goes_on(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "PATIENCE", 1.0)
    sleeps = "import time; print('begun', flush=True); time.sleep(600)"
    parts = [
        part(script, "slow", sleeps, 0.02),
        part(script, "train", sleeps, 0.02, resumes=True),
        part(script, "long", "", 9.0),
    ]
    monkeypatch.setattr(script, "PARTS", parts)
    assert script.main(["--out", str(tmp_path), "--minutes", "0.5"]) == 3
    assert "left: train, long; the same command goes on" in capsys.readouterr().out
    assert {name: one["state"] for name, one in report(tmp_path).items()} == {
        "slow": "ended",
        "train": "ended",
    }
    monkeypatch.setattr(
        script, "PARTS", [*parts[:1], part(script, "train", "", resumes=True), part(script, "long", "")]
    )
    assert script.main(["--out", str(tmp_path), "--minutes", "5"]) == 1  # the slow one would need --again
    assert report(tmp_path)["train"]["seconds"] > 1.2  # both calls'


def test_some_parts_alone(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "PARTS", (part(script, "one", ""), part(script, "two", "")))
    assert script.main(["--out", str(tmp_path), "--part", "two"]) == 0
    assert list(report(tmp_path)) == ["two"]


def test_a_training_is_resumed_where_it_has_left_something(script: ModuleType, tmp_path: Path) -> None:
    (training,) = [one for one in script.PARTS if one.name == "train mnist_best"]
    begun = training.command(tmp_path)
    assert begun[3:] == ["experiment=mnist_best", "backend=cuda", f"hydra.run.dir={tmp_path / 'mnist_best'}"]
    (tmp_path / "mnist_best").mkdir()
    (tmp_path / "mnist_best" / "config.yaml").touch()
    assert training.command(tmp_path)[3:] == [f"resume={tmp_path / 'mnist_best'}"]


def test_every_command_is_one(script: ModuleType, tmp_path: Path) -> None:
    for one in script.PARTS:
        command = one.command(tmp_path)
        assert command[0] in (sys.executable, "compute-sanitizer", "ncu")
        files = [text for text in command if text.endswith(".py")]
        assert all(Path(text).is_file() for text in files)
        assert one.minutes < 8.0


def test_the_page_gets_what_was_measured(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (training,) = [one for one in script.PARTS if one.name == "train mnist_best"]
    monkeypatch.setattr(script, "PARTS", (part(script, "installed", "print('devices: one')"), training))
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{script.BEGIN}\n\nold\n\n{script.END}\n\nafter\n")
    (tmp_path / "mnist_best").mkdir()
    told = {
        "accuracy": {"test": {"mean": 0.987}},
        "emulator": {"train_samples_per_s": 1234567.0},
        "run": {"interrupted": False},
    }
    (tmp_path / "mnist_best" / "summary.json").write_text(json.dumps(told))
    (tmp_path / "benchmark.md").write_text("| a |\n")
    (tmp_path / "steps.md").write_text("| PyTorch us |\n")
    given = ["--out", str(tmp_path), "--page", str(page), "--part", "installed"]
    assert script.main(given) == 0
    text = page.read_text()
    assert "old" not in text
    assert "    devices: one" in text
    assert "mnist_best 98.70 %, 1,234,567 samples/s" in text
    assert "| a |\n\n| PyTorch us |" in text
    assert text.startswith("before\n")
    assert text.endswith("\n\nafter\n")
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="must have the lines"):
        script.main(given)


def test_the_documentation_has_the_marks(script: ModuleType) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page.index(script.BEGIN) < page.index(script.END)


def test_versions_are_told(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--installed"]) == 0
    said = capsys.readouterr().out
    assert "python: 3." in said
    assert "numpy: " in said
