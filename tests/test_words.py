"""What the command says of itself, and runs with names: their folders, titles, dashboards and identity."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import test_report
from rich.console import Console

from gpuspike.cli.words import flags_first, help_head, pinned, placed
from gpuspike.config.files import conf_folder
from gpuspike.config.schema import jobs, read_config, to_yaml
from gpuspike.errors import ConfigError
from gpuspike.runs import run as runs
from gpuspike.runs.dashboards import run_id
from gpuspike.store.identity import fingerprint

SMALL = ["backend=cpu", *(f"dataset.n_{part}=100" for part in ("train", "validation", "test"))]
SMALL += ["training.epochs=2", "training.batch_size=50"]
PLACES = {"train": "evaluate train", "doctor": "doctor", "exchange": "export import_"}
PLACES |= {name: name for name in ("need", "plan", "price", "report", "tune")}
COMMANDS = [
    f"from gpuspike.cli.{module} import {name}; {name}()"
    for module, names in PLACES.items()
    for name in names.split()
]
PLACE, WHEN = "outputs/${hydra:runtime.choices.experiment}", "${now:%Y-%m-%d}_${now:%H-%M-%S}"


def config(*given: str) -> Any:
    """The configuration of a small run."""
    (job,) = jobs([*SMALL, *given], multirun=False)
    return job.config


def test_help_begins_with_what_one_types_and_has_every_experiment() -> None:
    lines = help_head().splitlines()
    assert sum(line.startswith("    gpuspike-train") for line in lines[:6]) == 3
    text = "\n".join(lines)
    for path in (conf_folder() / "experiment").glob("*.yaml"):
        assert f"\n  {path.stem} " in text
    assert "mnist_best " in text
    assert all(len(line) <= 110 for line in lines)


def test_each_experiment_is_told_from_all_others() -> None:
    text = help_head().partition("Experiments, each experiment=NAME:\n")[2].partition("\nGroups")[0]
    told = [line.split(None, 1)[1] for line in text.splitlines() if line.strip()]
    assert len(set(told)) == len(told) > 20
    assert not any("..." in words or "same" in words for words in told)


def test_no_command_s_help_speaks_of_what_it_is_built_with() -> None:
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.argv = ['x', '--help']; {command}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("gpuspike-"), done.stdout
        assert not re.search(r"powered|hydra\.cc|foo\.bar", done.stdout, re.IGNORECASE), done.stdout


def test_help_has_the_groups_of_a_run_and_no_others() -> None:
    lines = help_head().splitlines()
    told = lines[lines.index("Groups, each GROUP=NAME:") + 2 :]
    groups = [line.split(":")[0].strip() for line in told if ":" in line]
    assert groups == [
        "dataset",
        "model",
        "optimizer",
        "training",
        "substrate",
        "tracking",
        "substrate.prices",
    ]
    text = "\n".join(lines)
    assert "  optimizer: adam, adamw, sgd" in text
    assert "  substrate.prices: brainscales2, " in text
    assert "tune: " not in text


OWN = """# @package _global_
defaults: [yin_yang]
name: mine
"""


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        (["name=first"], "DATE_first"),
        (["-m", "seed=0,1", "name=b.2"], "sweep_DATE_b.2/0"),
        (["name=first", "hydra.run.dir=here"], "here"),
        (["-m", "name=a,b"], "sweep_DATE/0"),
        (["name=null"], "DATE"),
        ([], "DATE"),
        (["experiment=named"], "DATE_mine"),
        (["experiment=named", "name=other"], "DATE_other"),
        (["-m", "experiment=named", "seed=0,1"], "sweep_DATE_mine/0"),
    ],
)
def test_a_named_run_has_a_folder_of_that_name_unless_it_is_said(
    given: list[str], folder: str, tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "named.yaml").write_text(OWN)
    arguments = [text for text in placed(given) if text != "-m"]
    asked = jobs([*arguments, f"hydra.searchpath=[file://{tmp_path}]"], multirun="-m" in given)
    found = asked[0].folder / "0" if asked[0].sweep else asked[0].folder
    told = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2}", "DATE", found.as_posix())
    experiment = "named" if "experiment=named" in given else "yin_yang"
    assert told.removeprefix(f"{Path().absolute().as_posix()}/") in (folder, f"outputs/{experiment}/{folder}")


def test_the_folder_of_a_named_run_is_beside_those_of_its_experiment() -> None:
    (job,) = jobs(placed(["experiment=yin_yang_best", "name=first"]), multirun=False)
    assert job.folder.parent == Path("outputs/yin_yang_best")
    assert job.folder.name.endswith("_first")


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (["dataset=mnist"], "mnist"),
        (["dataset=patterns"], "patterns"),
        (["experiment=mnist16"], "mnist16"),
        (["experiment=own", "dataset.path=mine.npz"], "own"),
        (["dataset=npz", "dataset.path=mine.npz"], "mine"),
        (["dataset=npz", "dataset.path='my data.npz'"], "npz"),
        (["-m", "dataset=mnist", "seed=0,1"], "mnist"),
        (["-m", "dataset=mnist,patterns"], "yin_yang"),
    ],
)
def test_a_run_on_other_data_than_its_experiment_s_goes_to_a_folder_of_these_data(
    given: list[str], place: str
) -> None:
    several = "-m" in given
    asked = jobs([text for text in placed(given) if text != "-m"], multirun=several)
    assert {job.folder.parent for job in asked} == {Path("outputs") / place}


def test_a_sweep_goes_where_it_was_checked() -> None:
    given = placed(["-m", "seed=0,1", "name=first"])
    assert pinned(given, Path("outputs/it's")) == [
        "-m",
        "seed=0,1",
        "name=first",
        r"hydra.sweep.dir='outputs/it\'s'",
    ]
    (job, _) = jobs(pinned(given[1:], Path("outputs/it's")), multirun=True)
    assert job.folder == Path("outputs/it's")
    assert pinned(["-m", "hydra.sweep.dir=here"], Path("there")) == ["-m", "hydra.sweep.dir=here"]


@pytest.mark.parametrize("name", ["a/b", "a b", "''", "x" * 81])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name must be letters, digits"):
        config(f"name='{name}'" if name != "''" else "name=''")


def test_a_name_makes_no_other_run(tmp_path: Path) -> None:
    assert fingerprint(config("name=first")) == fingerprint(config())
    assert run_id(config("name=first"), tmp_path) == run_id(config(), tmp_path)


def test_a_configuration_from_before_names_is_read(tmp_path: Path) -> None:
    text = to_yaml(config())
    assert "name: null\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("\nname: null\n", "\n"))
    assert read_config(tmp_path / "config.yaml").name is None


def test_a_resumed_run_keeps_its_name_or_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "draw", lambda *_: {})
    folder, screen = tmp_path / "run", io.StringIO()
    summary = runs.run(config("name=first"), "yin_yang", folder, Console(file=screen, width=200))
    assert summary["run"]["name"] == "first"
    assert "first  yin_yang  4-120-3" in screen.getvalue()
    assert "<h1>first</h1>" in (folder / "report.html").read_text()
    for given, name in (([], "first"), (["name=second"], "second")):
        asked = [f"resume={folder}", *given]
        (job,) = jobs(asked, multirun=False)
        stopped = runs.resume.read(folder, job.config, asked)
        assert stopped.config.name == name


def test_the_page_of_a_named_run_tells_its_experiment(tmp_path: Path) -> None:
    values = test_report.summary()
    values["run"]["name"] = "first"
    _, page = test_report.write(tmp_path, "yin_yang", values, [test_report.record()], "")
    assert page.rows[0] == ["experiment", "yin_yang"]


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("seed=1 --config-dir here epochs=2", "--config-dir here seed=1 epochs=2"),
        ("seed=1 -cd here -m epochs=2 --cfg job", "-cd here -m --cfg job seed=1 epochs=2"),
        ("a=1 --config-dir=here --config-d there b=2", "--config-dir=here --config-d there a=1 b=2"),
        ("a=1 --info b=2", "--info a=1 b=2"),
        ("a=1 --info all b=2", "--info all a=1 b=2"),
        ("--help", "--help"),
        ("a=1 --config-dir", "--config-dir a=1"),
        ("", ""),
    ],
)
def test_flags_may_stand_between_values(typed: str, ordered: str) -> None:
    assert " ".join(flags_first(typed.split())) == ordered


def test_flags_of_which_there_is_one_are_told_apart(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from gpuspike.cli.train import train

    monkeypatch.setattr(sys, "argv", ["gpuspike-train", "-m", "training.epochs=1,2", "--cfg", "job"])
    with pytest.raises(SystemExit) as ended:
        train()
    assert ended.value.code == 2
    told = "gpuspike-train: error: one of -m, --run, --cfg, --info at a time, got -m and --cfg\n"
    assert capsys.readouterr().err == told
