"""The documentation's commands: every one of them parses, and the slow test runs them, made small."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from test_accountant import hand_activity

from gpuspike import plugins
from gpuspike.accountant import account, read_prices
from gpuspike.cli.need import read as read_need
from gpuspike.cli.report import read as read_report
from gpuspike.cli.tune import read as read_search
from gpuspike.config.evaluate import as_lists, evaluations
from gpuspike.config.exchange import ExportConfig, ImportConfig, PriceConfig, asked, keyed
from gpuspike.config.schema import jobs, read_substrate
from gpuspike.datasets import FASHION_MNIST, MNIST, load_images
from gpuspike.datasets.files import Source
from gpuspike.errors import DataError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = re.compile(r"(gpuspike-[a-z]+|python scripts/|make |pip |pre-commit )")
SMALL = ["training.epochs=1", "dataset.n_train=300", "dataset.n_validation=60", "dataset.n_test=60"]
MAIN = {"train": "train:train", "evaluate": "train:evaluate", "tune": "tune:tune", "plan": "plan:plan",
        "report": "report:report", "doctor": "doctor:doctor", "export": "exchange:export",
        "import": "exchange:import_", "price": "price:price", "need": "need:need"}  # fmt: skip
EXCHANGE: dict[str, Any] = {"export": ExportConfig, "import": ImportConfig, "price": PriceConfig}
ELSEWHERE = ("tracking.uri", "hydra/launcher=slurm", "tune.storage=postgresql", "hydra.launcher.partition")
"""What needs a cluster or a server."""
UNPRICED = {"loihi2"}
"""Chips whose account has no total, since nobody has published their prices."""


@dataclass(frozen=True)
class Command:
    """A command as a page shows it, without its comment.

    Attributes:
        own_line: it stands in a block of code, to be copied, not within a sentence or a table.
    """

    page: str
    text: str
    own_line: bool

    @property
    def program(self) -> str:
        return self.text.split()[0]

    @property
    def arguments(self) -> list[str]:
        return [word for word in shlex.split(self.text, comments=True)[1:] if word != "..."]


def blocks(text: str) -> list[str]:
    """Blocks of code, indented or fenced, cut at empty lines where they are indented."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^(?: {4}.*)\n)+", rest, flags=re.MULTILINE)
    return fenced + [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in indented]


def commands() -> list[Command]:
    """All commands of all pages, in their order."""
    found = []
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
        for block in blocks(text):
            lines = block.replace("\\\n", " ").splitlines()
            found += [Command(name, line.strip(), True) for line in lines if PROGRAMS.match(line)]
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        found += [Command(name, code, False) for code in inline if PROGRAMS.match(code) and " " in code]
    return list(dict.fromkeys(found))


def files(page: str) -> dict[str, str]:
    """Files that a page shows: blocks whose first line is a comment with their name."""
    shown = {}
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if name := re.match(r"# (\S+/\S+\.yaml|\w+\.py)\n", block):
            shown[name[1]] = block
    return shown


COMMANDS = commands()
each = pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: f"{command.page}: {command.text[:60]}"
)


def filled(arguments: list[str]) -> list[str]:
    """Arguments with folders of this test in the place of names that stand for one."""
    given = []
    for word in arguments:
        word = re.sub(r"outputs/\w+/sweep_DATE_TIME", "prepared_sweep", word)
        word = re.sub(r"outputs/\w+_bss2/DATE_TIME", "prepared_chip_run", word)
        word = re.sub(r"outputs/\w+/(DATE_TIME|\d{4}-[\d_-]+)", "prepared_run", word)
        word = re.sub(r"(?<==)FOLDER$", "prepared_run", word)
        given.append(re.sub(r"^FOLDER$", "prepared_sweep", word))
    return given


def test_the_pages_have_commands() -> None:
    pages = {command.page for command in COMMANDS}
    assert {"README.md", "docs/first_run.md", "docs/own_chip.md", "docs/sweeps.md"} <= pages
    assert len(COMMANDS) > 40


@pytest.fixture
def _no_plugins() -> Iterator[None]:
    """None of a page's parts stays for another test."""
    yield
    plugins.forget_all()


@pytest.mark.usefixtures("_no_plugins")
@each
def test_a_command_parses(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, arguments = command.program, filled(command.arguments)
    if program in ("python", "make", "pip", "pre-commit"):
        check_other(program, arguments)
        return
    if any("hydra/launcher" in word for word in arguments) and util.find_spec("submitit") is None:
        pytest.skip("needs the extra sweep: no launcher to be found")
    name = program.removeprefix("gpuspike-")
    assert name in MAIN, program
    multirun = "-m" in arguments
    overrides = [word for word in arguments if word not in ("-m", "--cfg", "job", "--help")]
    monkeypatch.chdir(tmp_path)
    if any(word.startswith("plugin=") for word in overrides):
        for file, text in files(command.page).items():
            (tmp_path / file).write_text(text)
        overrides = plugins.given(overrides)
    if "--config-dir" in overrides:  # the files are made, and read, by the test that runs it
        at = overrides.index("--config-dir")
        folder = overrides[at + 1]
        chosen = [word for word in overrides[at + 2 :] if word.startswith("substrate=")]
        assert f"{folder}/substrate/{chosen[0].partition('=')[2]}.yaml" in files(command.page)
        overrides = [word for word in overrides[:at] + overrides[at + 2 :] if word not in chosen]
    if name == "evaluate":
        evaluations(as_lists(overrides), multirun)
    elif name == "need":
        if not any(word.startswith("run=") for word in overrides):
            read_need(overrides)
    elif name == "tune":
        write_search(tmp_path, command.page)
        read_search(overrides)
    elif name in ("train", "plan"):
        if any(word.startswith("substrate.prices=") and "/" in word for word in overrides):
            assert files(command.page)
        jobs(overrides, multirun)
    elif name == "report":
        read_report(overrides)
    elif name in EXCHANGE:
        own = {field.name for field in fields(EXCHANGE[name])}
        words = keyed(as_lists(overrides), EXCHANGE[name])
        rest = [word for word in words if word.split("=")[0] not in own]
        asked([word for word in words if word not in rest], multirun, name, EXCHANGE[name])
        jobs(rest, multirun)
    else:
        assert overrides == []


def write_search(folder: Path, page: str) -> None:
    """The search that a page shows, where its command looks for it."""
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.startswith("name: my_search"):
            (folder / "my_search.yaml").write_text(block)


def write_spikes(folder: Path, page: str) -> None:
    """The files of spikes that the last blocks of a page make."""
    shown = [block for block in blocks((ROOT / page).read_text(encoding="utf-8")) if "np.random" in block]
    made = [block for block in blocks((ROOT / page).read_text(encoding="utf-8")) if "np.savez" in block]
    code = "\n".join([*shown, *made])
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )


def write_data(folder: Path) -> None:
    """The data sets that docs/own_data.md makes, and mine.npz."""
    for block in blocks((ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")):
        if "np.savez" in block:
            subprocess.run([sys.executable, "-c", block], cwd=folder, check=True)
    shutil.copy(folder / "order.npz", folder / "mine.npz")


def check_other(program: str, arguments: list[str]) -> None:
    """Scripts and their options, targets of the Makefile and extras are there."""
    if program == "python":
        script = ROOT / arguments[0]
        text = script.read_text(encoding="utf-8")
        for word in arguments[1:]:
            assert not word.startswith("--") or f'"{word}"' in text, f"{script.name} has no {word}"
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{arguments[0]}:", makefile, flags=re.MULTILINE)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for word in arguments[1:]:
            if extra := re.match(r"gpuspike\[(\w+)\]", word):
                assert extra[1] in project["optional-dependencies"]


@pytest.mark.parametrize("page", ["docs/own_chip.md", "docs/substrates.md"])
def test_a_file_that_a_page_shows_can_be_read(page: str, tmp_path: Path) -> None:
    shown = files(page)
    assert shown
    for name, text in shown.items():
        path = tmp_path / Path(name).name
        path.write_text(text)
        if "/substrate/" in name:
            read_substrate(path)
        else:  # a chip whose account is refused shows nobody anything
            prices = read_prices(path)
            told = account(hand_activity(trials=[prices.trial]), prices, ("left", "right"))
            assert (told["refused"], told["does_not_fit"]) == (None, None)
            assert told["energy_per_classification_J"] is not None


def test_the_figures_in_the_repository_are_small() -> None:
    for figure in (ROOT / "docs").glob("*.png"):
        assert figure.stat().st_size < 100_000


def test_lint_before_a_commit_is_the_lint_that_must_pass() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"entry: (.*)", hooks) == ["make lint"]
    assert "\nmake lint\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


# ---- run


def runs_here(command: Command) -> bool:
    """Whether a command can run on a machine alone, without a cluster, a server or an account."""
    if not command.program.startswith("gpuspike-") or "..." in command.text:
        return False
    return not any(word.startswith(ELSEWHERE) for word in command.arguments)


def small(command: Command) -> list[str]:
    """A command's arguments with the overrides that make it small."""
    arguments = filled(command.arguments)
    name = command.program.removeprefix("gpuspike-")
    if name in ("train", "plan") and not any(word.startswith(("resume=", "--")) for word in arguments):
        more = [*SMALL, "training.batch_size=100"]
    elif name == "import" and any(word.startswith("experiment=") for word in arguments):
        more = [*SMALL, "training.batch_size=100"]
    elif name == "train" and "--config-dir" in arguments:
        more = [*SMALL, "training.batch_size=100"]
    elif name == "need":
        more = ["replicas=2", "seeds=2"]
        if not any(word.startswith("run=") for word in arguments):
            more += [*SMALL, "training.batch_size=50"]
    elif name == "tune":
        more = [*SMALL, "tune.trials=1", "replicas=1"]
        if "tune=my_search.yaml" in arguments:
            more.append("training.batch_size=100")
        if "tune=mnist_best" in arguments:
            more.append("dataset.n_train=400")  # of which it takes up to 320 at once
    else:
        more = []
    return arguments + more


def run(folder: Path, program: str, *arguments: str) -> None:
    """Runs one of the commands in a folder."""
    module, function = MAIN[program.removeprefix("gpuspike-")].split(":")
    code = f"import sys; sys.argv[0] = '{program}'; from gpuspike.cli.{module} import {function}"
    code += f"; {function}()"
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = answer.stdout[-2000:] + answer.stderr[-2000:]
    assert answer.returncode == 0, f"{program} {' '.join(arguments)}\n{said}"
    assert "Traceback" not in answer.stderr, said


def has_images(source: Source) -> bool:
    """Whether a data set can be read on this machine."""
    try:
        load_images(source, 28, 1, 1, 1)
    except DataError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS if runs_here(command)}))
def test_the_commands_of_a_page_run_one_after_the_other(page: str, tmp_path: Path) -> None:
    """Commands within sentences, which stand for themselves, come after those of the blocks."""
    (tmp_path / "mine.yaml").write_text((ROOT / "conf" / "prices" / "dynapse.yaml").read_text())
    for name, text in files(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write_search(tmp_path, page)
    mnist = has_images(MNIST)
    there_is = {"fashion_mnist": has_images(FASHION_MNIST), "=mnist": mnist, "my_search": mnist}
    todo = [command for command in COMMANDS if command.page == page and runs_here(command)]
    if page == "docs/exchange.md":
        pytest.importorskip("nir", reason="needs the extra nir")
        write_spikes(tmp_path, page)
    text = " ".join(word for command in todo for word in small(command))
    if "dataset.path=" in text:
        pytest.importorskip("sklearn")
        write_data(tmp_path)
    for folder, *more in (("prepared_run",), ("prepared_chip_run", "experiment=yin_yang_bss2")):
        if folder in text:
            given = [*SMALL, *more, "training.batch_size=100", f"hydra.run.dir={folder}"]
            run(tmp_path, "gpuspike-train", *given)
    if "prepared_sweep" in text:
        sweep = "hydra.sweep.dir=prepared_sweep"
        run(tmp_path, "gpuspike-train", "-m", "seed=0,1", *SMALL, "training.batch_size=100", sweep)
    for number, command in enumerate(todo):
        arguments = small(command)
        if any(word in command.text and not there for word, there in there_is.items()):
            continue
        plain = not any(word.startswith(("hydra.run.dir", "resume=", "--cfg")) for word in arguments)
        if command.program == "gpuspike-train" and plain and "-m" not in arguments:
            arguments.append(f"hydra.run.dir=outputs/command_{number}")
        before = answers(tmp_path)
        run(tmp_path, command.program, *arguments)
        for path in answers(tmp_path).items() - before.items():
            assert refused(path[0]) == [], command.text


def answers(folder: Path) -> dict[Path, int]:
    """What runs and evaluations have left, and when."""
    found = [*folder.rglob("summary.json"), *folder.rglob("evaluations/*.json")]
    return {path: path.stat().st_mtime_ns for path in found}


def refused(path: Path) -> list[str]:
    """Chips that a run's or an evaluation's answer has no total for: to who tries a page, a failure."""
    told = json.loads(path.read_text())
    accounts = told["chips"] if "chips" in told else {told["chip"]["prices"]: told["chip"]}
    return [name for name, chip in accounts.items() if chip["refused"] and name not in UNPRICED]
