"""The torture's own short part: the first case of each kind. `make torture` has them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def torture(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("torture")


@pytest.mark.slow
def test_the_first_case_of_each_kind_holds(torture: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--short"]) == 0, capsys.readouterr().out
    assert "lost" in capsys.readouterr().out


def test_a_lost_case_is_told(torture: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "program", lambda name: f"/bin/{name}")

    def outcome(*words: str, hang: float = 60.0, **changes: object) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        return torture.outcome(torture.Case("kind", "name", words, **changes), place, hang)

    assert outcome("true") == ""
    assert outcome("true", after=lambda _: False).startswith("the folder is not as it should be")
    assert outcome("false").startswith("exit code 1")
    assert outcome("echo", "Traceback (most recent call last)").startswith("a traceback")
    assert outcome("echo", "me:hush@host") == "a password: b'me:hush@host\\n'"
    assert outcome("printf", "\x1b[2J") == "a command to the terminal"
    assert outcome("sh", "-c", "for i in 1 2 3 4; do echo $i >&2; done; exit 2").startswith(
        "more than a line"
    )
    assert outcome("sleep", "30", hang=0.5) == "still running after 0.5 s"
    assert outcome("ls", "/proc/self", output="/dev/full", codes=(2,)) == ""
    assert outcome("pwd", prepare=torture.gone, codes=(1,)) == ""


def test_every_kind_has_cases_with_names_of_their_own(torture: ModuleType, tmp_path: Path) -> None:
    cases = list(torture.cases(tmp_path, {"refuses": 1, "says nothing": 2}, tmp_path))
    names = [(case.kind, case.name) for case in cases]
    assert len(set(names)) == len(names) > 130
    assert {case.kind for case in cases} == {
        "encodings", "words of users", "damaged files", "hostile files", "machines", "full disks", "servers",
        "damaged caches", "kills",
    }  # fmt: skip


def test_cases_of_each_kind_take_turns_at_once_and_are_counted(
    torture: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        torture.Case(kind, f"{kind} {k}", ("true",)) for kind, n in (("a", 4), ("b", 2)) for k in range(n)
    ]
    assert [case.name for case in torture.in_turn(made)] == ["a 0", "b 0", "a 1", "a 2", "b 1", "a 3"]
    monkeypatch.setattr(torture, "program", lambda name: f"/bin/{name}")
    table = torture.Table(end=torture.time.monotonic() + 100.0)
    for number, case in enumerate([*made, torture.Case("b", "wrong", ("false",))]):
        table.try_out(case, tmp_path / str(number))
    table.end = 0.0
    table.try_out(made[0], tmp_path / "late")
    table.show()
    lines = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert ["a", "4", "4", "0"] in lines
    assert ["b", "3", "2", "1"] in lines
    assert ["all", "7", "6", "1"] in lines
    assert table.skipped == 1
    assert not list(tmp_path.iterdir())
