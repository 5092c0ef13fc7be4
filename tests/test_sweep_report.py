"""The page of a sweep: every job in it whatever its state, bands and unknown figures, nothing unescaped."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import test_report
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuspike.cli import report as cli_report
from gpuspike.errors import DataError, OutputError
from gpuspike.report.figures.axes import job_name
from gpuspike.report.figures.scatter import Point, scatter
from gpuspike.report.sweep_page import ENERGY, write_sweep_report
from gpuspike.report.sweep_results import unlike
from gpuspike.report.sweep_table import sweep_table
from gpuspike.screen import Screen
from gpuspike.store.run_folder import used
from gpuspike.store.sweep_folder import JobResult, differences, read_sweep

HOSTILE = test_report.HOSTILE


def job(sweep: Path, name: str, accuracy: float = 0.9, energy: Any = 8.4e-6, **values: Any) -> dict[str, Any]:
    """Writes what a finished job leaves; returns its summary."""
    folder = sweep / name
    folder.mkdir(parents=True)
    config = {"optimizer": {"learning_rate": 0.005}, "training": {"epochs": 3}, "seed": 0} | values
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    summary = test_report.summary(2)
    for split in summary["accuracy"].values():
        split |= {"mean": accuracy, "std": 0.01}
    summary["chip"] = test_report.CHIP | {"energy_per_classification_J": energy}
    summary["chip"] |= {"until_decision": {"energy_J": 1e-6}, "time_evidence": "stated"}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "report.html").write_text("a report")
    return summary


def sweep_of(folder: Path) -> Path:
    """A sweep with jobs of every kind."""
    job(folder, "0", 0.95, 8.4e-6, optimizer={"learning_rate": 0.01})
    job(folder, "1", 0.97, [1e-7, 5e-7], optimizer={"learning_rate": 0.002})
    job(folder, "2", 0.91, None)
    job(folder, "10", 0.99, 3e-6, optimizer={"learning_rate": 0.02, "name": HOSTILE})
    (folder / "3").mkdir()
    (folder / "3" / "config.yaml").write_text("training: {epochs: 7}\n")
    (folder / "3" / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"ep')
    job(folder, "4")
    (folder / "4" / "summary.json").write_text('{"accuracy": ')
    (folder / "jobs").mkdir()
    for name in ("0", "5"):
        (folder / "jobs" / f"{name}.json").write_text(json.dumps({"folder": name, "finished": True}))
    (folder / "jobs" / "6.json").write_text("[")
    return folder


def test_every_job_is_listed_with_its_state(tmp_path: Path) -> None:
    jobs = read_sweep(sweep_of(tmp_path))
    assert [(job.name, job.state, job.note) for job in jobs] == [
        ("0", "finished", ""),
        ("1", "finished", ""),
        ("2", "finished", ""),
        ("3", "unfinished", "2 of 7 epochs"),
        ("4", "damaged", "summary.json cannot be read"),
        ("5", "gone", "its folder is not there"),
        ("10", "finished", ""),
    ]
    assert differences(jobs[:3]) == ["optimizer.learning_rate"]


def test_the_page_has_a_row_a_job_and_only_what_differs(tmp_path: Path) -> None:
    path, _ = write_sweep_report(sweep_of(tmp_path))
    text = path.read_text(encoding="utf-8").replace("&nbsp;", " ")
    page = test_report.Page(text.split("<script>")[0] + "</body></html>")
    rows = page.rows[1:]  # without the head and, where they link, the jobs' names
    head = page.text.split("Jobs")[1]
    assert "optimizer.learning_rate" in head
    assert "dataset" not in head
    # A row each, the finished ones against both keys, and those whose energy is known.
    assert [name for name, _ in page.attributes].count("data-jobs") == 7 + 2 * 4 + 3
    assert "energy, stopping at the decision: 1 µJ for each job (BrainScaleS-2 measured)" in page.text
    assert rows[0][:2] == ["finished", "0.002"]
    assert "100 nJ to 500 nJ" in rows[0]
    assert [value for name, value in page.attributes if name == "href"] == [
        "10/report.html", "1/report.html",  # the best and the next
        "1/report.html", "2/report.html", "4/report.html", "0/report.html", "10/report.html",  # by the rate
    ]  # fmt: skip
    assert "7 jobs: 4 finished, 1 unfinished, 1 damaged, 1 gone" in page.text


def test_no_word_of_a_terminal_s_table_is_broken(tmp_path: Path) -> None:
    job(tmp_path, "0", training={"epochs": 60, "waking": 3.5}, model={"delay_spread": 0.25})
    job(tmp_path, "1", optimizer={"learning_rate": 0.0123456789}, model={"delay_spread": 1.0})
    jobs = read_sweep(tmp_path)
    for width in (80, 100, 200):
        screen = Screen(file=io.StringIO(), width=width)
        screen.print(sweep_table(jobs, width=width))
        told = screen.file.getvalue()  # type: ignore[attr-defined]
        assert "90.00 ± 1.00 %" in told
        assert max(map(len, told.splitlines())) <= width
        for word in ("epochs", "delay_spread", "learning_rate", "0.0123456789"):
            assert word in told
        assert ("delay_spread=0.25" in told) == (width < 100)


def test_the_page_asks_for_nothing_and_escapes_everything(tmp_path: Path) -> None:
    path, _ = write_sweep_report(sweep_of(tmp_path / HOSTILE.replace("/", "")))
    text = path.read_text(encoding="utf-8")
    assert text.count("<script") == 1
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_a_folder_whose_name_is_no_text_is_listed_and_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"a\xff #1")
    try:
        job(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes names that are text only")
    (tmp_path / name / "summary.json").unlink()
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(tmp_path)])
    cli_report.report()
    assert "a? #1: unfinished" in capsys.readouterr().out
    assert 'href="a%FF%20%231/report.html"' in (tmp_path / "sweep.html").read_text()


def test_an_interrupted_job_is_not_finished_and_not_drawn(tmp_path: Path) -> None:
    summary = job(tmp_path, "0")
    summary["run"]["interrupted"] = True
    (tmp_path / "0" / "summary.json").write_text(json.dumps(summary))
    path, jobs = write_sweep_report(tmp_path)
    assert [(job.state, job.note) for job in jobs] == [("unfinished", "0 of 3 epochs")]
    assert "No job has figures" in path.read_text()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mean", "std", "name", "energy_J", "evidence", "p50", "test"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    accuracy=json_values,
    chip=st.dictionaries(
        st.sampled_from([*test_report.CHIP, "until_decision", "time_evidence"]), json_values
    ),
    config=st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()),
    others=st.fixed_dictionaries({"run": json_values, "emulator": json_values}),
)
def test_no_summary_breaks_the_page(
    tmp_path_factory: pytest.TempPathFactory, accuracy: Any, chip: Any, config: bytes, others: Any
) -> None:
    sweep = tmp_path_factory.mktemp("sweep")
    job(sweep, "0")
    job(sweep, "1")
    (sweep / "1" / "config.yaml").write_bytes(config)
    (sweep / "1" / "summary.json").write_text(json.dumps({"accuracy": accuracy, "chip": chip} | others))
    path, jobs = write_sweep_report(sweep)
    assert jobs[0].state == "finished"
    test_report.Page(path.read_text(encoding="utf-8").split("<script>")[0] + "</body></html>")


def test_a_scatter_has_a_point_a_job_inside_of_its_frame() -> None:
    for x in (1e-9, 1.0), (5e-6, 5e-6), (0.0, 1e-6):
        points = [Point(f"{k}", (value, 1.2 * value), k / 2, 0.6, "told") for k, value in enumerate(x)]
        drawing = scatter(points, "energy", "J")
        assert drawing.count("<circle") == 2
        numbers = [float(part.split('"')[0]) for part in drawing.split('cx="')[1:]]
        assert all(58 <= number <= 406 for number in numbers)


@pytest.mark.parametrize("kind", ["nothing", "none", "run", "empty", "file", "two"])
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path, "0")
    (tmp_path / "empty").mkdir()
    given = {
        "nothing": [],
        "none": [str(tmp_path / "none")],
        "run": [str(tmp_path / "0")],
        "empty": [str(tmp_path / "empty")],
        "file": [str(tmp_path / "0" / "summary.json")],
        "two": [str(tmp_path), str(tmp_path)],
    }[kind]
    monkeypatch.setattr("sys.argv", ["gpuspike-report", *given])
    with pytest.raises(SystemExit) as stop:
        cli_report.report()
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gpuspike-report: error: ")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.rglob("sweep.html"))


def test_the_command_says_what_it_wrote_and_what_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(sweep_of(tmp_path))])
    cli_report.report()
    said = capsys.readouterr().out
    assert f"page  {tmp_path / 'sweep.html'}" in said
    assert "4 of 7 finished" in said
    assert "3 training.epochs=7: unfinished, 2 of 7 epochs" in said


def test_a_running_sweep_is_followed_until_all_its_jobs_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").mkdir()
    job(tmp_path, "0")
    (tmp_path / "jobs" / "a.json").write_text('{"folder": "0", "finished": true, "of": 2}')
    pages = []

    def wait(seconds: float) -> None:
        assert seconds == 3
        pages.append((tmp_path / "sweep.html").read_text())
        job(tmp_path, "1", 0.95)

    monkeypatch.setattr(cli_report.time, "sleep", wait)
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(tmp_path), "watch=3"])
    with used(tmp_path):
        cli_report.report()
    said = capsys.readouterr().out
    assert "1 of 2 finished" in said
    assert "2 of 2 finished" in said
    assert "95.00" in said
    assert "setTimeout(() => location.reload(), 3000)" in pages[0]
    assert "1 of 2" in pages[0]
    assert "reload" not in (tmp_path / "sweep.html").read_text()


def test_a_sweep_of_which_no_job_runs_any_more_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").mkdir()
    job(tmp_path, "0")
    (tmp_path / "jobs" / "a.json").write_text('{"folder": "0", "finished": true, "of": 2}')
    (tmp_path / "jobs" / "b.json").write_text('{"folder": "1", "finished": false, "of": 2}')
    waits: list[float] = []
    running = used(tmp_path)
    running.__enter__()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            running.__exit__(None, None, None)

    monkeypatch.setattr(cli_report.time, "sleep", wait)
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(tmp_path), "watch=3"])
    cli_report.report()
    said = capsys.readouterr().out
    assert len(waits) == 4 + cli_report.LOOKS
    assert said.count("watch ends: no job runs any more") == 1
    assert "1: gone, its folder is not there" in said
    assert "reload" not in (tmp_path / "sweep.html").read_text()


@pytest.mark.parametrize("text", ["0", "often", "nan", "-3", "inf"])
def test_seconds_that_cannot_be_waited_are_refused(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path, "0")
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(tmp_path), f"watch={text}"])
    with pytest.raises(SystemExit):
        cli_report.report()
    assert f"watch must be a number of seconds, at least 1, got {text}" in capsys.readouterr().err


def test_a_name_at_the_right_edge_stands_left_of_its_mark() -> None:
    assert 'text-anchor="start"' in job_name("3-0123abcd", 100.0, 50.0)
    assert 'x="394.0" y="45.0" text-anchor="end">3-0123abcd</text>' in job_name("3-0123abcd", 400.0, 50.0)
    assert 'text-anchor="start"' in job_name("3", 400.0, 50.0)


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(tmp_path, "0")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_sweep_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0"]


def test_a_run_is_not_taken_for_a_sweep(tmp_path: Path) -> None:
    job(tmp_path, "0")
    with pytest.raises(DataError, match=r"expected the folder of a sweep, got that of a run: .*report\.html"):
        read_sweep(tmp_path / "0")


def test_a_value_typed_as_null_is_the_same_as_one_left_out(tmp_path: Path) -> None:
    for name, typed in (("0", ["model.weight_mean=null", "seed=1"]), ("1", ["seed=2"])):
        told = job(tmp_path, name, model={"weight_mean": None}, seed=int(name) + 1)
        told["run"]["overrides"] = typed
        (tmp_path / name / "summary.json").write_text(json.dumps(told))
    page, _ = write_sweep_report(tmp_path)
    assert page.name == "sweep.html"


def test_the_folder_of_a_run_is_refused_with_what_there_is_to_do(tmp_path: Path) -> None:
    job(tmp_path, "0")
    with pytest.raises(DataError, match=r"got that of a run: .*, see its report\.html"):
        read_sweep(tmp_path / "0")
    (tmp_path / "0" / "report.html").unlink()
    with pytest.raises(DataError, match=r"gpuspike-train resume=.* goes on with it"):
        read_sweep(tmp_path / "0")


def made(folder: Path, name: str, **provenance: Any) -> None:
    """A job that was made with this."""
    summary = job(folder, name)
    (folder / name / "summary.json").write_text(json.dumps(summary | {"provenance": provenance}))


def test_jobs_of_changed_data_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"gpuspike": "1.0", "git": "a"}
    for number in range(10):
        made(tmp_path, str(number), data=["/my <data>.npz@00", "/other.npz@00"], plugins=["p.py@1"], **usual)
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(tmp_path)])
    cli_report.report()
    assert "not the same" not in capsys.readouterr().out + (tmp_path / "sweep.html").read_text()
    made(
        tmp_path,
        "10",
        data=["/my <data>.npz@11", "/third.npz@22"],
        plugins=["p.py@1"],
        gpuspike="1.1",
        git=None,
    )
    made(tmp_path, "11", data="?", plugins=None)
    cli_report.report()
    told = " ".join(capsys.readouterr().out.split())
    words = "the content of /my <data>.npz was not the same for all jobs: "
    which = "00 for 0, 1, 2, 3, 4, 5, 6, 7 and 2 more; 11 for 10"
    assert f"warning {words}{which}. Compare their accuracies with care" in told
    assert "warning gpuspike was not the same for all jobs: 1.0 at a for 0, " in told
    assert told.count("warning") == 2
    page = (tmp_path / "sweep.html").read_text()
    assert page.count('<p class="notice">') == 2
    assert "the content of /my &lt;data&gt;.npz was not the same" in page


def test_jobs_of_other_prices_of_one_file_are_told_and_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def priced(name: str, power: float, energy: float, accuracy: float, source: str = "a guess") -> None:
        summary = job(tmp_path, name, accuracy, energy, substrate={"prices": "my/<tern>.yaml"})
        number = {"value": power, "unit": "mW", "grade": "assumed", "per": "chip", "source": source}
        summary["chip"] |= {"prices": "tern", "numbers": {"all_in": number}}
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))

    priced("0", 175.0, 8e-6, 0.95)
    priced("1", 175.0, 7e-6, 0.90, source="another word for it")
    monkeypatch.setattr("sys.argv", ["gpuspike-report", str(tmp_path)])
    cli_report.report()
    assert "other values" not in capsys.readouterr().out + (tmp_path / "sweep.html").read_text()
    for name, energy, accuracy in (("2", 2e-6, 0.91), ("3", 1e-6, 0.97)):
        priced(name, 17.5, energy, accuracy)
    cli_report.report()
    told = " ".join(capsys.readouterr().out.split())
    assert "warning jobs 2, 3 were priced by other values of my/<tern>.yaml than job 0: energies" in told
    page = (tmp_path / "sweep.html").read_text()
    assert "jobs 2, 3 were priced by other values of my/&lt;tern&gt;.yaml than job 0" in page
    assert page.count("my/&lt;tern&gt;.yaml as of job 2</td>") == 2
    drawn = page.split(f'aria-label="Test accuracy against {ENERGY}')[-1].split("</svg>")[0]
    best = re.findall('class="point best" tabindex="0" data-jobs="(.)"', drawn)
    assert sorted(best) == ["0", "1", "3"]  # a front for each: job 3 does not beat the first two


def test_jobs_of_several_data_sets_are_told_apart() -> None:
    values = [("0", "npz", "a.npz"), ("1", "npz", "b.npz"), ("2", "mnist", "")]
    several = [
        JobResult(name, "finished", config={"dataset.name": data, "dataset.path": path})
        for name, data, path in values
    ]
    (told,) = unlike(several)
    assert told.startswith(
        "the data set was not the same for all jobs: a.npz for 0; b.npz for 1; mnist for 2"
    )
    assert unlike(several[:1]) == []
