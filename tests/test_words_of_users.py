"""A user's words are text: no markup, no mathematics, no commands to the terminal, in any encoding."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from gpuspike.report.figures import chips, histograms, images, samples
from gpuspike.report.figures import run as plots
from gpuspike.report.figures.names import as_text, letters
from gpuspike.runs.drawing import drawn
from gpuspike.screen import Screen, clean, line

PACKAGE = Path(__file__).parent.parent / "gpuspike"
NAMES = [
    "price_in_$",
    "a$b$c",
    "_hidden",
    "[/b] [red]",
    r"\frac{",
    "\N{CJK UNIFIED IDEOGRAPH-4E2D}",
    "\x1b[2J",
]
SMALL = ["training.epochs=1", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]


def run(
    folder: Path, *arguments: str, program: str = "train", **environment: str
) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a command."""
    found = shutil.which(f"gpuspike-{program}", path=str(Path(sys.executable).parent))
    assert found
    variables = {**os.environ, **environment}
    done = subprocess.run([found, *arguments], cwd=folder, capture_output=True, env=variables, check=False)
    return done.returncode, done.stdout, done.stderr


def test_commands_make_consoles_of_one_kind() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"\bConsole\(", path.read_text(encoding="utf-8").replace("(Console)", "")), path


def test_text_is_no_markup_and_no_command_to_the_terminal() -> None:
    screen = Screen(file=io.StringIO(), width=200)
    table = Table("[b]head", title="[i]title")
    table.add_row("[/b] :smile:")
    for told in ("[old] [/b] \x1b]0;title\x07", table):
        screen.print(told)
    with screen.status("[/b]"):
        pass
    assert isinstance(screen.file, io.StringIO)
    said = screen.file.getvalue()
    for words in (r"[old] [/b] \x1b]0;title\x07", "[b]head", "[i]title", "[/b] :smile:"):
        assert words in said
    assert "\x1b" not in said
    assert clean("a\nb\x9b") == "a\nb\\x9b"
    assert line("a\nb\tc") == "a b c"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hush@host/x", "http://me:***@host/x"),
        ("a://u:p@ss/w@host b://c:d@e", "a://u:***@host b://c:***@e"),
        ("http://host:80/x@y http://me@host", "http://host:80/x@y http://me@host"),
        ("x?user=a&password=hush&b=c", "x?user=a&password=***&b=c"),
    ],
)
def test_passwords_are_not_told(text: str, shown: str) -> None:
    assert clean(text) == line(text) == shown


def test_a_full_disk_under_the_output_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as file:
        screen = Screen(file=file)
        for _ in range(3):
            screen.print("a line")
    assert capfd.readouterr().err.count("the output cannot be written: No space left on device") == 1


@pytest.mark.parametrize("encoding", ["ascii", "gbk", pytest.param("cp932", marks=pytest.mark.slow)])
def test_a_run_ends_well_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    code, out, err = run(tmp_path, *SMALL, "replicas=2", "name='größe'", PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"")
    said = out.decode(encoding)
    assert "e  yin_yang" in said
    assert "test accuracy" in said


@pytest.mark.slow
def test_a_sweep_in_another_encoding_counts_its_jobs_as_finished(tmp_path: Path) -> None:
    code, out, err = run(
        tmp_path, "-m", *SMALL, "seed=0,1", "hydra.sweep.dir='[old]'", PYTHONIOENCODING="ascii"
    )
    assert (code, err) == (0, b"")
    assert b"gpuspike-report [old] watch=5" in out
    assert b"2 of 2 finished" in run(tmp_path, "[old]", program="report", PYTHONIOENCODING="ascii")[1]


def own_data(folder: Path) -> None:
    rng, found = np.random.default_rng(0), {"class_names": np.array(NAMES)}
    for split in ("train", "validation", "test"):
        labels = np.arange(210) % len(NAMES)
        found |= {f"{split}_labels": labels}
        found |= {f"{split}_values": np.clip(rng.random((210, 5)) * 0.2 + labels[:, None] / 10, 0, 1)}
    np.savez(folder / "own.npz", **found)


def test_words_are_shown_as_they_are_in_every_figure(tmp_path: Path) -> None:
    n = len(NAMES)
    t_out = np.random.default_rng(0).random((40, n))
    labels = np.arange(40) % n
    answers = t_out.argmin(1)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 5)]), -1)
    clock = np.linspace(0, 1, 9)
    membranes = [np.zeros((9, n))]
    curve = {"energy_J": None, "time_tau": [0.0, 1.0], "decided": [0.0, 1.0], "accuracy": [0.0, 1.0]}
    figures = {
        "plane": lambda: plots.plane(grid, np.zeros((5, 5)), t_out[:, :2], labels, answers, 0.5, NAMES),
        "membranes": lambda: plots.membrane_traces(clock, membranes, t_out[:1], t_out[0], 1.0, NAMES, 0),
        "histograms": lambda: histograms.spike_time_histograms(t_out, labels, NAMES),
        "confusion": lambda: images.confusion_matrix(labels, answers, NAMES),
        "sheet": lambda: images.misclassified(np.zeros((40, 3, 3)), labels, answers, t_out, NAMES),
        "raster": lambda: samples.spike_raster([[t_out[k], t_out[k]] for k in range(n)], labels[:n], NAMES),
        **{f"anytime {k}": lambda name=name: chips.anytime(curve, name) for k, name in enumerate(NAMES)},
    }
    assert drawn(figures, tmp_path) == {}
    assert len(list(tmp_path.glob("*.png"))) == len(figures)


def test_a_name_is_as_long_as_it_is_drawn() -> None:
    assert as_text("x" * 100 + "end", 10) == "xxxxx…nd"
    assert letters("abcdefghijklmnopqrstuvwxyz") == pytest.approx(26, rel=0.02)
    for wide in ("W" * 31, "\u5f35" * 31):
        assert letters(wide) > 1.5 * len(wide)
        assert 8 < letters(as_text(wide, 10)) <= 10
    assert as_text("i" * 15, 10) == "i" * 15


def test_a_figure_that_cannot_be_made_is_told_and_costs_no_other(tmp_path: Path) -> None:
    def broken() -> plots.Figure:
        figure = plots.new_figure(1.0)
        figure.text(0, 0, r"$\nothing{$")
        return figure

    missing = drawn({"broken": broken, "whole": lambda: plots.new_figure(1.0)}, tmp_path)
    assert list(missing) == ["broken"]
    assert missing["broken"].startswith("ValueError: ")
    assert {path.name for path in tmp_path.iterdir()} == {"whole.png", "whole.pdf"}


def test_half_a_figure_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, data: memoryview) -> int:
        write(path, data if path.suffix == ".pdf" else data[:100])
        if path.suffix == ".png":
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert drawn({"half": lambda: plots.new_figure(1.0)}, tmp_path) == {
        "half": "OSError: [Errno 28] No space left on device"
    }
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_figures_has_its_summary_and_report(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").write_text("in the way")
    code, out, err = run(tmp_path, *SMALL, "hydra.run.dir=out", MPLBACKEND="nonsense")
    assert (code, err) == (0, b"")
    assert out.count(b"warning  no figure ") == 8
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["run"]["epochs_done"] == 1
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_names_of_classes_reach_the_end_of_a_run(tmp_path: Path) -> None:
    own_data(tmp_path)
    given = [
        "dataset=npz",
        "dataset.path=own.npz",
        "experiment=own",
        "training.epochs=1",
        "hydra.run.dir='[out]'",
    ]
    code, out, err = run(tmp_path, *given, MPLBACKEND="nonsense")
    assert (code, err) == (0, b""), err
    told = [line for line in out.splitlines() if b"warning" in line]
    assert all(b"no installed font has" in line for line in told), told
    assert b"/[out]/report.html" in out
    assert len(list((tmp_path / "[out]" / "figures").iterdir())) == 14
