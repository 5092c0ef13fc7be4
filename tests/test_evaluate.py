"""gpuspike-evaluate: what it prints and leaves, what it refuses, and that a run's folder stays as it was."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from gpuspike.cli import train as cli
from gpuspike.config.evaluate import EvaluateConfig, as_lists, evaluations
from gpuspike.config.schema import conf_folder, jobs
from gpuspike.report.comparison import LEGEND, comparison, of_steps, of_ties, of_undecided, published
from gpuspike.report.evaluation_page import write_evaluation_page
from gpuspike.report.figures import chips as chip_plots
from gpuspike.report.figures.run import save
from gpuspike.report.steps import steps_of_jobs
from gpuspike.runs import evaluate as evaluation
from gpuspike.runs import gpu_energy
from gpuspike.runs import run as runs
from gpuspike.runs.gpu_energy import GpuEnergy
from gpuspike.runs.progress import plain
from gpuspike.store import checkpoint

SMALL = [
    "training.epochs=2", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100",
    "replicas=2", "training.max_weight_grad=inf",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished run and its summary; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    (job,) = jobs(SMALL, multirun=False)
    summary = runs.run(job.config, job.experiment, folder, Console(file=io.StringIO()))
    return folder, summary


@pytest.fixture
def folder(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpuspike-evaluate", *arguments])
    monkeypatch.setenv("COLUMNS", "100")
    cli.evaluate()


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str
) -> str:
    before = snapshot(folder)
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, *arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("gpuspike-evaluate: error: ")
    assert err.count("\n") == 1
    assert snapshot(folder) == before
    return err


# ---- what it does


def test_it_prints_a_row_a_chip_and_writes_all_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(folder)
    command(monkeypatch, f"run={folder}")
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("BrainScaleS-2", "8.4 µJ", "20,800", "Loihi 2", "refused", "reported,", "unchecked"):
        assert words in out
    assert "Loihi 2: no price is known for synaptic_events, neuron_updates, static" in out
    assert "published" not in out, "there is nothing published on Yin-Yang"
    after = snapshot(folder)
    assert {path: after[path] for path in before} == before
    place = folder / "evaluations"
    assert set(after) - set(before) == {place, place / "test.json", place / "test.html"}
    answer = json.loads((folder / "evaluations" / "test.json").read_text())
    assert set(answer["chips"]) == set(answer["anytime"]) == set(EVERY_CHIP)
    assert answer["chips"]["loihi2"]["energy_per_classification_J"] is None
    assert answer["neurobench"]["SynapticOperations"]["Dense"] == 5 * 120 + 121 * 3
    assert answer["provenance"]["seed"] == 0
    assert answer["samples"] == 100
    assert answer["command"] == f"gpuspike-evaluate run={folder}"
    page = (place / "test.html").read_text()
    for name, text in (
        ("split", "test, 100 samples"),
        ("begun", answer["date"]),
        ("command", answer["command"]),
    ):
        assert f"<td>{name}</td><td>{text}</td>" in page
    assert LEGEND in page
    assert LEGEND in " ".join(out.split())
    older = {key: answer[key] for key in answer if key not in ("samples", "date", "command")}
    page = write_evaluation_page(place / "test.json", older, "5-120-3").read_text()
    assert "<td>split</td><td>test</td>" in page
    assert "<td>command</td>" not in page


@pytest.mark.parametrize("chip", [[], ["substrate=bss2"], ["substrate=bss2", "chips=3"]], ids=" ".join)
def test_a_network_that_never_decides_is_evaluated_too(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chip: list[str],
) -> None:
    arrays, header = checkpoint.load(folder / "checkpoint.npz")
    mute = {name: -abs(array) if "weights" in name else array for name, array in arrays.items()}
    checkpoint.save(folder / "checkpoint.npz", mute, header, keep_previous=False)
    command(monkeypatch, f"run={folder}", "name=mute", *chip)
    out, err = capsys.readouterr()
    assert "accuracy 0.00 %" in out
    assert [line for line in err.splitlines() if not line.startswith("kernels")] == []
    answer = json.loads((folder / "evaluations" / "mute.json").read_text())
    assert answer["accuracy"]["mean"] == 0.0
    for told in answer["chips"].values():
        assert told["undecided_share"] == 1.0
        assert told["time_to_decision_s"] in (None, {"mean": None, "p50": None, "p99": None})


EVERY_CHIP = sorted(file.stem for file in (conf_folder() / "prices").glob("*.yaml"))


def test_it_agrees_with_the_run_s_own_summary(folder: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    (config,) = evaluations([f"run={folder}", "prices=[brainscales2]"], multirun=False)
    answer = evaluation.evaluate(config, Console(file=io.StringIO()))
    summary = finished[1]
    assert answer["accuracy"]["per_replica"] == summary["accuracy"]["test"]["per_replica"]
    ours, theirs = answer["chips"]["brainscales2"], summary["chip"]
    for key in ours.keys() - {"emulator_time_ratio"}:
        assert ours[key] == theirs[key], key
    assert answer["anytime"]["brainscales2"] == summary["anytime"]
    assert answer["neurobench"] == summary["neurobench"]


def test_every_chip_s_account_is_the_same_alone_and_beside_others(folder: Path) -> None:
    together = evaluation.evaluate(
        EvaluateConfig(run=str(folder), prices=EVERY_CHIP, name="all"), Console(file=io.StringIO())
    )
    for name in ("brainscales2_2022", "dynapse"):
        alone = evaluation.evaluate(
            EvaluateConfig(run=str(folder), prices=[name], name=name), Console(file=io.StringIO())
        )
        one, other = alone["chips"][name], together["chips"][name]
        for key in one.keys() - {"emulator_time_ratio"}:
            assert one[key] == other[key], (name, key)


def test_other_splits_and_names_and_files_of_one_s_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine.yaml"
    prices = yaml.safe_load((conf_folder() / "prices" / "brainscales2.yaml").read_text())
    prices["name"], prices["all_in"]["value"] = "Mine [bold]", 350
    own.write_text(yaml.safe_dump(prices))
    command(monkeypatch, f"run={folder}", f"prices={own},loihi", "split=validation", "name=mine")
    assert "Mine [bold]" in capsys.readouterr().out
    answer = json.loads((folder / "evaluations" / "mine.json").read_text())
    assert answer["split"] == "validation"
    assert list(answer["chips"]) == ["mine", "loihi"]
    assert answer["chips"]["mine"]["energy_per_classification_J"] == pytest.approx(16.8e-6)


def test_a_sweep_evaluates_every_split(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "-m", f"run={folder}", "split=test,train", "prices=loihi")
    left = {path.name for path in (folder / "evaluations").glob("*.json")}
    assert left == {"test_loihi.json", "train_loihi.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}, "Hydra leaves nothing"
    capsys.readouterr()


def test_the_command_tells_its_values_and_leaves_nothing(tmp_path: Path) -> None:
    code = "from gpuspike.cli.train import evaluate; evaluate()"
    for flags, told in (
        (["--help"], ("Nothing is trained.",)),
        (["--cfg", "job"], ("- loihi\n", "split: test")),
    ):
        answer = subprocess.run(
            [sys.executable, "-c", code, *flags, "prices=loihi"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr == ""
        assert all(text in answer.stdout for text in told)
        assert "Hydra" not in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_chips_is_no_sweep() -> None:
    given = ["prices=a,b", "prices=a", "prices=[a,b]", "prices=", "run=x,y"]
    assert as_lists(given) == ["prices=[a,b]", "prices=[a]", "prices=[a,b]", "prices=", "run=x,y"]


def test_each_question_has_a_name_and_the_same_one_replaces_its_answer(folder: Path, tmp_path: Path) -> None:
    def names(*asked: str) -> list[str]:
        (config,) = evaluations([f"run={folder}", *asked], multirun=False)
        evaluation.evaluate(config, Console(file=io.StringIO()))
        return sorted(path.stem for path in (folder / "evaluations").glob("*.json"))

    assert names("prices=[loihi]") == names("prices=[loihi]") == ["test_loihi"]
    assert names("prices=[loihi,odin]") == ["test_loihi", "test_loihi+odin"]
    own = tmp_path / "loihi.yaml"
    own.write_text((conf_folder() / "prices" / "loihi.yaml").read_text())
    first = names(f"prices=[{own}]")
    assert len(first) == 3
    own.write_text(own.read_text() + "# edited\n")
    assert len(names(f"prices=[{own}]")) == 4, "it is another chip now"


def test_many_chips_are_told_by_mean_spread_and_figure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, f"run={folder}", "substrate=bss2", "chips=5", "prices=brainscales2")
    said, place = capsys.readouterr().out, folder / "evaluations"
    answer = json.loads((place / "test_bss2_5chips_brainscales2.json").read_text())
    told = answer["population"]
    mean, std = 100 * told["mean"], 100 * told["std"]
    assert f"{mean:.2f} % ± {std:.2f} %, mean and deviation of 2 networks on 5 chips each" in said
    assert "chips 0 to 4, each with the networks of 2 replicas" in said
    assert "what a share of the chips reaches, on each the mean of the 2 networks:" in said
    assert told["trained_on"] == [], "without a chip"
    each = np.array(told["per_replica_and_chip"])
    assert answer["accuracy"] == {
        "mean": pytest.approx(each.mean()),
        "per_replica": pytest.approx(each.mean(axis=1).tolist()),
    }
    assert answer["chips"]["brainscales2"]["accuracy"] == pytest.approx(each.mean())
    assert answer["counted"]["chip_seeds"] == [0, 1]
    assert answer["counted"]["accuracy"]["per_replica"] == pytest.approx([each[0, 0], each[1, 1]])
    for key in ("best", "median", "worst"):
        assert f"{key} {100 * told[key]:.2f} %" in said
    assert told["worst"] <= told["median"] <= told["best"]
    low, high = told["mean_interval"]
    assert low < told["mean"] < high
    assert f"between {100 * low:.2f} % and {100 * high:.2f} %, with 95 %" in said
    assert said.count("of 5 reach") == 5, "no share that five chips cannot tell"
    assert "chips 0 to 1, one a replica" in " ".join(said.split())
    page = (place / "test_bss2_5chips_brainscales2.html").read_text()
    assert "bss2, chips 0 to 4, each with the networks of 2 replicas" in page
    assert "data:image/png" in page
    assert f"{mean:.2f} %" in page
    assert "interval of the share of all such chips" in page
    assert "<th>of all such chips" in page
    assert "the mean over all such chips lies between" in page
    told["trained_on"] = [4]
    page = write_evaluation_page(place / "test_bss2_5chips_brainscales2.json", answer, "5-120-3").read_text()
    assert page.count("all such chips") == 1
    assert "chip 4 is what training was on, not unseen, and so nothing is told of all such chips" in page


# ---- what it refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["split=tst"], ["tst", "train", "validation", "test"]),
        (["splits=test"], ["splits", "split", "prices", "backend"]),
        (["+foo=1"], ["foo"]),
        (["prices=lohi"], ["prices must be one of", "loihi", "'lohi'"]),
        (["prices=loihi,nothing.yaml"], ["prices: there is no file nothing.yaml, seen from"]),
        (["prices=[]"], ["prices must name at least one chip"]),
        (["backend=gpu"], ["gpu", "auto", "cuda", "cpu", "reference"]),
        (["name=../x"], ["name must be that of a file", "'../x'"]),
        (["name=.."], ["name must be that of a file", "'..'"]),
        (["dataset=mnist"], ["dataset is no key, dataset.path is, got dataset=mnist"]),
        (
            ["dataset.n_test=9"],
            ["there is no key dataset.n_test; valid keys: path; dataset is the run's own"],
        ),
        (["dataset.path=x.npz"], ["dataset.path=x.npz is where data of one's own are", "is on yin_yang"]),
        (["run=nowhere"], ["no run at nowhere, which does not exist"]),
        (["run="], ["run must be the folder of a finished run"]),
        (["-m", "split=test,tst"], ["tst"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str],
    words: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = [] if any(text.startswith("run=") for text in arguments) else [f"run={folder}"]
    line = refused(monkeypatch, capsys, folder, *run, *arguments)
    assert all(word in line for word in words), line


def test_a_chip_without_room_is_widened_as_it_is_advised(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = tmp_path / "small.yaml"
    chip.write_text("name: small\nprices: odin\nmax_neurons: 9\nmax_synapses: 100\nspike_jitter: 0.01\n")
    line = refused(monkeypatch, capsys, folder, f"run={folder}", f"substrate={chip}")
    way = "substrate=FILE.yaml with max_neurons: 0, max_synapses: 0 in the chip's file"
    assert line.endswith(f"; {way} emulates a chip with room for it\n")
    chip.write_text("name: small\nprices: odin\nmax_neurons: 0\nmax_synapses: 0\nspike_jitter: 0.01\n")
    command(monkeypatch, f"run={folder}", f"substrate={chip}", "prices=odin")
    assert "on small: test accuracy" in capsys.readouterr().out


def test_no_run_at_all_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "gpuspike-evaluate run=FOLDER, got none" in refused(monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no checkpoint", "no checkpoint at"),
        ("cut checkpoint", "is not a readable checkpoint"),
        ("other network", "does not belong to config.yaml beside it: weights_0 must be (2, 5, 60), got"),
        ("no weights", "weights_1 must be (2, 121, 3), got none"),
        ("cut config", "cannot read"),
        ("list config", "holds no configuration of a run"),
        ("old config", "is not of a run of this version: there is no key speed;"),
        ("prices is a folder", "the answer must be a file, got the folder"),
    ],
)
def test_a_damaged_run_is_refused_and_left_alone(
    damage: str,
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, config = folder / "checkpoint.npz", folder / "config.yaml"
    text = config.read_text()
    if damage == "no checkpoint":
        weights.unlink()
    elif damage == "cut checkpoint":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no weights":
        arrays, header = checkpoint.load(weights)
        del arrays["weights_1"]
        checkpoint.save(weights, arrays, header)
    elif damage == "prices is a folder":
        (folder / "evaluations" / "test.json").mkdir(parents=True)
    else:
        changed = {
            "other network": text.replace("- 120\n", "- 60\n"),
            "cut config": "a: [1\nb: 2",
            "list config": "- a\n",
            "old config": text + "speed: 3\n",
        }
        config.write_text(changed[damage])
    assert words in refused(monkeypatch, capsys, folder, f"run={folder}")


# ---- the comparison


def test_published_rows_stand_below_ours_with_their_evidence(folder: Path) -> None:
    answer = evaluation.evaluate(
        EvaluateConfig(run=str(folder), prices=["brainscales2", "dynapse"], name="x"),
        Console(file=io.StringIO()),
    )
    others = published(conf_folder() / "published" / "mnist.yaml")["rows"]
    table, notes = comparison("4-120-3", list(answer["chips"].values()), others)
    stream = io.StringIO()
    Console(file=stream, width=140, color_system=None).print(table)
    lines = stream.getvalue().splitlines()
    (row,) = [line for line in lines if "96.9 %" in line]
    assert [word in row for word in ("256-246-10", "8.4 µJ", "<10 µs", "21,000", "[7]")] == [True] * 5
    assert "[7] Göltz 2021, in Cramer et al., PNAS 2022, table 2" in notes
    assert sum("reported," in line for line in lines) == 4, "DYNAP-SE and three published rows"
    assert any("DYNAP-SE: a neuron has 121 inputs, the chip's have 64" in note for note in notes)


def of_latency(share: float, p50: float | None, **more: Any) -> str:
    quantiles = None if p50 is None and share < 1.0 else {"p50": p50}
    return of_undecided({"undecided_share": share, "time_to_decision_s": quantiles, **more})


def test_what_is_said_of_samples_without_a_decision_holds() -> None:
    assert of_latency(0.001, 1e-6) == ""
    known = "25.00 % without a decision within its trial, counted as wrong"
    assert of_latency(0.25, 1e-6) == f"{known}; latency is of the others"
    assert of_latency(0.25, None) == known, "a chip whose times are not known"
    none = "no sample has a decision within its trial, all counted as wrong; so there is no latency"
    assert of_latency(1.0, None) == none
    later = "which the mean over all chips takes as they are decided later; so there is no latency"
    assert of_latency(1.0, None, undecided_are_wrong=False).endswith(later)


def test_few_samples_without_a_decision_are_told_where_they_change_the_accuracy() -> None:
    shares = {"accuracy": 0.9, "right_after_trial_share": 0.001}
    assert of_latency(0.001, None, **shares) == "0.10 % without a decision within its trial, counted as wrong"
    assert of_latency(0.001, None, **shares, undecided_are_wrong=False) == "", "the mean over many chips"
    for other in ({"right_after_trial_share": 0.0}, {"right_after_trial_share": 1e-6}, {"accuracy": None}):
        assert of_latency(0.001, None, **(shares | other)) == ""
    at_an_edge = {"accuracy": 0.899949, "right_after_trial_share": 2e-6}
    assert of_latency(2e-6, None, **at_an_edge).startswith("0.0002 % without a decision")


def test_an_accuracy_without_a_chip_s_time_steps_is_told() -> None:
    assert of_steps({}) == of_steps({"between_steps_share": 0.0}) == ""
    chip: dict[str, Any] = {"between_steps_share": 0.5}
    assert of_steps(chip) == "accuracy and latency are those of spike times between its time steps"
    chip["in_steps"] = {"accuracy": 0.767, "tied_share": 0.009, "undecided_share": 0.0}
    exact = "accuracy and latency are those of exact spike times; with spikes at its time steps 76.70 %"
    assert of_steps(chip) == exact
    chip["in_steps"] |= {"tied_share": 0.36, "undecided_share": 0.2, "time_to_decision_s": {"p50": 0.0118}}
    more = ", 36.00 % decided by a tie, 20.00 % without a decision, median latency 11.8 ms"
    assert of_steps(chip) == exact + more


def test_a_sweep_s_accuracies_without_time_steps_are_told() -> None:
    chips: list[dict[str, Any]] = [{}, {"between_steps_share": 0.0}]
    assert steps_of_jobs(chips) == ""
    chips.append({"between_steps_share": 0.5})
    told = "accuracies and times are those of spike times between the chip's time steps"
    assert steps_of_jobs(chips) == told
    chips += [{"between_steps_share": 0.5, "in_steps": {"accuracy": 0.5 + 0.1 * k}} for k in range(2)]
    assert steps_of_jobs(chips) == f"{told}; with spikes at these, accuracies are 50.00 % to 60.00 %"
    assert steps_of_jobs(chips[:4]) == f"{told}; with spikes at these, accuracies are 50.00 %"


def test_ties_are_told_from_a_percent_on() -> None:
    assert of_ties({}) == of_ties({"tied_share": 0.009}) == ""
    told = "35.20 % decided by a tie of output neurons, for the lowest class of them"
    assert of_ties({"tied_share": 0.352}) == told


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_table_is_cut_where_the_evidence_stands(folder: Path, width: int) -> None:
    answer = evaluation.evaluate(
        EvaluateConfig(run=str(folder), prices=EVERY_CHIP, name="x"), Console(file=io.StringIO())
    )
    others = published(conf_folder() / "published" / "mnist.yaml")["rows"]
    table, notes = comparison("784-350-10", list(answer["chips"].values()), others, width)
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    text = stream.getvalue()
    assert "…" not in text
    for word in ("measured", "assumption", "unchecked", "reported,", "derived", "energy", "8.4 µJ"):
        assert word in text, word
    assert ("latency" in text) == (width >= 80)
    assert (f"{width} columns have no room for" in " ".join(notes)) == (width < 80)


def test_the_page_has_the_notes_of_the_terminal(folder: Path) -> None:
    screen = Console(file=io.StringIO(), width=200)
    answer = evaluation.evaluate(EvaluateConfig(run=str(folder), prices=["odin"], name="x"), screen)
    answer["chips"]["odin"]["chips_needed"] = 2
    _, notes = comparison("5-120-3", list(answer["chips"].values()))
    assert "ODIN: at least 2 chips" in notes
    page = write_evaluation_page(folder / "evaluations" / "x.json", answer, "5-120-3").read_text()
    assert "at least 2 chips</td>" in page


def test_what_is_published_and_was_not_read_names_no_source() -> None:
    rows = published(conf_folder() / "published" / "mnist.yaml")["rows"]
    assert len(rows) == 16
    for row in rows:
        assert row["evidence"] in ("Cramer et al., PNAS 2022, table 2", "reported, unchecked")
        assert (row["reference"] is None) == (row["evidence"] == "reported, unchecked")


# ---- figures


@pytest.mark.parametrize("name", ["brainscales2", "dynapse", "loihi2"])
def test_the_anytime_figure_draws_lines_bands_and_no_energy(name: str, folder: Path, tmp_path: Path) -> None:
    answer = evaluation.evaluate(
        EvaluateConfig(run=str(folder), prices=[name], name="x"), Console(file=io.StringIO())
    )
    figure = chip_plots.anytime(answer["anytime"][name], "chip")
    assert len(figure.axes) == (1 if name == "loihi2" else 2)
    assert all(path.stat().st_size > 0 for path in save(figure, tmp_path, "anytime"))


@pytest.fixture(scope="module")
def tradeoff_script(load_script: Callable[[str], types.ModuleType]) -> types.ModuleType:
    return load_script("tradeoff")


def test_the_trade_off_of_two_runs_is_drawn(
    folder: Path, tmp_path: Path, tradeoff_script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "sweep" / "1"))
    shutil.copytree(folder, tmp_path / "sweep" / "0")
    text = (other / "config.yaml").read_text()
    assert "alpha: 0.005" in text
    (other / "config.yaml").write_text(text.replace("alpha: 0.005", "alpha: 0.5"))
    assert tradeoff_script.main([str(tmp_path / "sweep")]) == 0
    assert "training.alpha 0.5: accuracy" in capsys.readouterr().out
    drawn = json.loads((tmp_path / "sweep" / "tradeoff.json").read_text())
    assert sorted(run["value"] for run in drawn) == [0.005, 0.5]
    assert (tmp_path / "sweep" / "tradeoff.png").stat().st_size > 0


def vary(folder: Path, line: str, other: str) -> None:
    """Another value in a run's configuration."""
    text = (folder / "config.yaml").read_text()
    assert line in text
    (folder / "config.yaml").write_text(text.replace(line, other, 1))


def test_the_trade_off_is_against_what_was_swept(
    folder: Path, tmp_path: Path, tradeoff_script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "sweep" / "1"))
    shutil.copytree(folder, tmp_path / "sweep" / "0")
    vary(other, "batch_size: ", "batch_size: 1")
    vary(other, "\nseed: 0", "\nseed: 7")
    assert tradeoff_script.main([str(tmp_path / "sweep")]) == 0
    told = capsys.readouterr().out
    assert told.count("training.batch_size ") == 2
    assert "alpha" not in told


def test_a_number_alone_in_a_list_is_one_that_was_swept(
    folder: Path, tmp_path: Path, tradeoff_script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "sweep" / "1"))
    shutil.copytree(folder, tmp_path / "sweep" / "0")
    config = yaml.safe_load((other / "config.yaml").read_text())
    (hidden,) = config["model"]["hidden"]
    config["model"]["hidden"] = [hidden + 5]
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert tradeoff_script.main([str(tmp_path / "sweep")]) == 0
    told = capsys.readouterr().out
    assert f"model.hidden {hidden}: accuracy" in told
    assert f"model.hidden {hidden + 5}: accuracy" in told


def test_the_trade_off_refuses_what_it_cannot_draw(
    folder: Path, tmp_path: Path, tradeoff_script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for arguments, words in (
        ([str(folder)], "needs two runs or more, got 1 below"),
        ([str(folder), str(other), "--parameter", "training.loss"], "training.loss must be a number in"),
        ([str(folder), str(other), "--parameter", "nothing"], "nothing must be a number in"),
        ([str(folder), str(other)], "the runs must differ in one number of their config.yaml, got none"),
    ):
        assert tradeoff_script.main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    vary(other, "batch_size: ", "batch_size: 1")
    arguments = [str(folder), str(other), "--parameter", "training.alpha"]
    assert tradeoff_script.main(arguments) == 2
    told = "must vary between the runs, got 0.005 in all of them; what varies is training.batch_size"
    assert told in capsys.readouterr().err
    summary = (other / "summary.json").read_text()
    (other / "summary.json").write_text(summary.replace('"prices": "brainscales2"', '"prices": "loihi"'))
    assert tradeoff_script.main([str(folder), str(other), "--parameter", "training.batch_size"]) == 2
    assert "one chip, got brainscales2, loihi" in capsys.readouterr().err
    (other / "summary.json").write_text(summary)
    vary(other, "learning_rate: ", "learning_rate: 1")
    assert tradeoff_script.main([str(folder), str(other)]) == 2
    keys = (
        "must differ in one number of their config.yaml, got optimizer.learning_rate, training.batch_size\n"
    )
    assert keys in capsys.readouterr().err
    vary(other, "loss: ", "loss: other_")
    assert tradeoff_script.main([str(folder), str(other), "--parameter", "training.batch_size"]) == 2
    keys = "must differ in training.batch_size alone, got optimizer.learning_rate, training.loss beside it\n"
    assert keys in capsys.readouterr().err


def test_the_trade_off_draws_the_runs_that_are_known() -> None:
    run = {
        "accuracy": [0.9, None],
        "time_s": [1e-6, 2e-6],
        "energy_J": [1e-6, 3e-6],
        "energy_stopping_J": 1e-6,
    }
    never = run | {"time_s": None, "energy_J": None, "energy_stopping_J": None}
    runs_ = [{**each, "value": value} for value, each in enumerate((run, never, run))]
    _, time, energy = chip_plots.tradeoff(runs_, "training.alpha").axes
    for line, drawn in zip((*time.lines, *energy.lines), (1.0, 2.0, 2.0, 1.0), strict=True):
        np.testing.assert_allclose(line.get_ydata(), [drawn, np.nan, drawn])
    for panel in chip_plots.tradeoff([{**never, "value": 0}, {**never, "value": 1}], "x").axes[1:]:
        assert len(panel.lines) == 0, "nothing is known"


# ---- the emulator's own energy


class Nvml(types.ModuleType):
    """A driver whose GPU draws 1.5 J between two readings."""

    class NVMLError(Exception):
        """What the library raises."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.drawn = 0

    def nvmlInit(self) -> None:
        """Nothing to do."""

    def nvmlDeviceGetHandleByPciBusId(self, bus: bytes) -> str:
        assert bus == b"0000:00:1E.0"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "handle"
        self.drawn += 1500
        return self.drawn


def cupy() -> Any:
    device = types.SimpleNamespace(pci_bus_id="0000:00:1E.0")
    return types.SimpleNamespace(cuda=types.SimpleNamespace(Device=lambda: device))


def test_the_gpu_s_joules_are_read_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setattr(gpu_energy, "cupy_module", cupy)
    with GpuEnergy("cuda") as gpu:
        pass
    assert gpu.joules == 1.5


def test_there_are_no_joules_without_a_gpu_or_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with GpuEnergy("cpu") as gpu:
        pass
    assert gpu.joules is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuEnergy("cuda") as gpu:
        pass
    assert gpu.joules is None


def test_the_ratio_to_the_chip_is_that_of_times_and_energies(folder: Path) -> None:
    (config,) = evaluations([f"run={folder}", "prices=[brainscales2]"], multirun=False)
    answer = evaluation.evaluate(config, Console(file=io.StringIO()))
    chip, speed = answer["chips"]["brainscales2"], answer["emulator"]["inference_samples_per_s"]
    np.testing.assert_allclose(chip["emulator_time_ratio"], 1.0 / speed / 48e-6)
    assert chip["emulator_energy_ratio"] is None
    assert plain(answer) == answer, "it is JSON already"


def test_the_reference_counts_the_same(folder: Path) -> None:
    chips = [
        evaluation.evaluate(config, Console(file=io.StringIO()))["chips"]["loihi"]
        for backend in ("cpu", "reference")
        for config in evaluations([f"run={folder}", "prices=[loihi]", f"backend={backend}"], multirun=False)
    ]
    for key in ("until_end", "until_decision", "time_to_decision_s", "undecided_share"):
        assert chips[0][key] == chips[1][key], key
