"""A user's own parts in files: imported when a command names them, and never because a run folder does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gpuspike as gs
from gpuspike import plugins, registry
from gpuspike.cli import tune as cli_tune
from gpuspike.config.schema import from_values, jobs, read_config, to_yaml
from gpuspike.datasets import DATASETS, load_dataset
from gpuspike.errors import ConfigError, GpuspikeError
from gpuspike.runs.experiment import build
from gpuspike.store import resume
from gpuspike.store.identity import fingerprint, to_values
from gpuspike.store.sweep_folder import read_sweep
from gpuspike.training.losses import LOSSES

ROOT = Path(__file__).parents[1]

SOURCE = '''
from dataclasses import dataclass

import numpy as np

from gpuspike.datasets import DATASETS, Dataset, Samples, Split


@dataclass(frozen=True)
class Sides(Samples):
    """Points left and right of a border."""

    n_train: int = 60
    n_validation: int = 20
    n_test: int = 20
    border: float = 0.5

    def load(self) -> Dataset:
        sizes = (self.n_train, self.n_validation, self.n_test)
        return Dataset("sides", *(self.split(n, seed) for seed, n in enumerate(sizes)), ("left", "right"))

    def split(self, n: int, seed: int) -> Split:
        x = np.random.default_rng(seed).uniform(0.0, 1.0, (n, 2))
        return Split(np.concatenate([x, 1.0 - x], axis=1), (x[:, 0] > self.border).astype(np.int64))


DATASETS.add("sides", Sides)
'''
GIVEN = ["dataset=sides", "training.epochs=1", "training.batch_size=20", "backend=cpu"]


@pytest.fixture(autouse=True)
def _no_plugin_of_another_test() -> Iterator[None]:
    yield
    plugins.forget_all()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with a plug-in."""
    (tmp_path / "sides.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    module, function = {
        "train": ("train", "train"), "evaluate": ("train", "evaluate"), "plan": ("plan", "plan"),
        "tune": ("tune", "tune"), "report": ("report", "report"),
    }[program]  # fmt: skip
    code = f"import sys; sys.argv[0] = 'gpuspike-{program}'; from gpuspike.cli.{module} import {function}"
    return subprocess.run(
        [sys.executable, "-c", f"{code}; {function}()", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeeds(folder: Path, program: str, *arguments: str) -> str:
    """What a command prints that must end well."""
    answer = command(folder, program, *arguments)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def refused(folder: Path, program: str, *arguments: str) -> str:
    """The one line that a command must be refused with."""
    answer = command(folder, program, *arguments)
    assert answer.returncode == 2, answer.stdout[-2000:] + answer.stderr[-2000:]
    (line,) = answer.stderr.splitlines()
    return line.removeprefix(f"gpuspike-{program}: error: ")


# ---- loading


def test_a_file_registers_its_parts_once(folder: Path) -> None:
    plugin = plugins.load("sides.py")
    assert plugins.load(folder / "sides.py").module is plugin.module
    assert plugin.module.__name__ == f"gpuspike_plugin_sides_{plugin.digest}"
    assert sys.modules[plugin.module.__name__] is plugin.module
    assert DATASETS["sides"] is plugin.module.Sides
    assert [(parts.kind, name) for parts, name in plugin.parts] == [("data set", "sides")]
    assert not list(folder.glob("__pycache__"))


def test_an_edited_file_replaces_what_it_registered_before(folder: Path) -> None:
    old = plugins.load("sides.py")
    stamp = os.stat("sides.py")
    Path("sides.py").write_text(SOURCE.replace("border: float = 0.5", "border: float = 0.7"))
    os.utime("sides.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as if written in the same moment
    new = plugins.load("sides.py")
    assert new.digest != old.digest
    assert DATASETS["sides"](1, 1, 1).border == 0.7  # type: ignore[attr-defined]
    assert old.module.__name__ not in sys.modules
    assert [plugin.digest for plugin in plugins.loaded()] == [new.digest]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def", r"^cannot use the plug-in bad\.py: invalid syntax, line 1$"),
        ("\nx = 1 / 0", r"^cannot use the plug-in bad\.py: ZeroDivisionError: division by zero, line 2$"),
        ("import nothing_like_it", r"ModuleNotFoundError: No module named 'nothing_like_it', line 1$"),
        ("raise SystemExit(3)", r"bad\.py: SystemExit: 3, line 1$"),
        ("x = 1", r"bad\.py: it registers no part, with DATASETS\.add\(name, part\) for example"),
        ("\0", r"cannot use the plug-in bad\.py: "),
        (SOURCE.replace('"sides"', '"mnist"'), r"bad\.py: there is a data set 'mnist' already, line 27$"),
        (SOURCE.replace('add("sides"', 'add("my sides"'), r"must be an identifier, got 'my sides', line 27$"),
        (
            SOURCE.replace("(Samples)", ""),
            r"the data set sides must be a subclass of gpuspike\.datasets\.samples\.S",
        ),
        (SOURCE.replace("def load", "def lod"), r"the data set sides must define load, line 27$"),
        (
            SOURCE.replace("(frozen=True)", "(order=True)"),
            "cannot inherit non-frozen dataclass from a frozen",
        ),
        (
            SOURCE.replace("@dataclass(frozen=True)", ""),
            r"sides must be a @dataclass\(frozen=True\), got a c",
        ),
    ],
)
def test_an_error_in_a_file_is_one_line_and_leaves_nothing(source: str, message: str, folder: Path) -> None:
    (folder / "bad.py").write_text(source)
    names, modules = list(DATASETS), set(sys.modules)
    with pytest.raises(ConfigError, match=message) as error:
        plugins.load("bad.py")
    assert "\n" not in str(error.value)
    assert list(DATASETS) == names
    assert not {name for name in set(sys.modules) - modules if name.startswith("gpuspike_plugin")}
    assert not plugins.loaded()
    assert not registry.added


def test_a_part_registered_before_an_error_is_taken_back(folder: Path) -> None:
    (folder / "bad.py").write_text(SOURCE + "\nraise ValueError('too\\nlate')\n")
    with pytest.raises(ConfigError, match=r"ValueError: too late, line 29$"):
        plugins.load("bad.py")
    assert "sides" not in DATASETS


def test_a_value_needs_a_default_and_a_type_that_a_configuration_knows(folder: Path) -> None:
    text = SOURCE.replace("    border: float = 0.5", "    border: float")
    for size in ("n_train: int = 60", "n_validation: int = 20", "n_test: int = 20"):
        text = text.replace(f"    {size}\n", "")
    (folder / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match="the value border of the data set sides needs a default, got none"):
        plugins.load("bad.py")
    (folder / "bad.py").write_text(SOURCE.replace("border: float", "border: np.ndarray"))
    plugins.load("bad.py")
    with pytest.raises(ConfigError, match="the value border of the data set sides: Unexpected type"):
        jobs([], multirun=False)


def test_two_parts_may_share_a_value_but_not_disagree_about_it(folder: Path) -> None:
    plugins.load("sides.py")
    (folder / "more.py").write_text(SOURCE.replace('"sides"', '"more"'))
    plugins.load("more.py")
    jobs([], multirun=False)
    (folder / "more.py").write_text(SOURCE.replace('"sides"', '"more"').replace("= 0.5", "= 0.6"))
    plugins.load("more.py")
    message = (
        "the value border of the data set more must have another name: the data set sides has it with the "
        "default 0.5, not 0.6"
    )
    with pytest.raises(ConfigError, match=message):
        jobs([], multirun=False)


def test_files_that_are_not_there_or_are_others_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read the plug-in none\.py: No such file or directory$"):
        plugins.load("none.py")
    with pytest.raises(ConfigError, match=r"^cannot read the plug-in \.: Is a directory$"):
        plugins.load(".")
    digest = plugins.load("sides.py").digest
    assert plugins.load(f"sides.py@{digest}").digest == digest
    message = f"^the plug-in sides.py must have the digest 0123456789abcdef, got {digest}$"
    with pytest.raises(ConfigError, match=message):
        plugins.load("sides.py@0123456789abcdef")


@pytest.mark.parametrize("value", ["", "[]", "[,]", "''"])
def test_a_command_line_must_name_a_file(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^plugin must be a Python file or a list of them, got plugin="):
        plugins.given([f"plugin={value}"])


@pytest.mark.parametrize("name", ["sides.py", "my sides.py", "si,des.py", 'si"des.py', "si@des.py"])
def test_a_file_s_name_may_be_an_odd_one(name: str, folder: Path) -> None:
    (folder / name).write_text(SOURCE)
    quoted = '"' + name.replace('"', r"\"") + '"'
    arguments = plugins.given(["seed=3", f"plugin={quoted}"])
    assert arguments[0] == "seed=3"
    assert plugins.given(arguments) == arguments
    (job,) = jobs([*arguments, *GIVEN], multirun=False)
    assert job.config.plugin == [f"{name}@{plugins.loaded()[0].digest}"]


# ---- what a configuration says of it


def test_a_part_s_values_are_the_configuration_s(folder: Path) -> None:
    arguments = plugins.given(["plugin=sides.py"])
    (job,) = jobs([*arguments, *GIVEN, "dataset.border=0.25"], multirun=False)
    config = job.config
    assert (config.dataset.name, config.dataset.n_train, config.dataset.border) == ("sides", 60, 0.25)  # type: ignore[attr-defined]
    assert from_values(json.loads(json.dumps(to_values(config)))) == config
    (folder / "config.yaml").write_text(to_yaml(config))
    assert read_config(folder / "config.yaml") == config
    with pytest.raises(ConfigError, match=r"dataset\.border|border"):
        jobs([*arguments, *GIVEN, "dataset.border=left"], multirun=False)


def test_a_value_may_be_a_list(folder: Path) -> None:
    text = SOURCE.replace("border: float = 0.5", "borders: list[float] = field(default_factory=list)")
    text = text.replace("import dataclass", "import dataclass, field").replace(
        "self.border", "self.borders[1]"
    )
    (folder / "lists.py").write_text(text)
    (job,) = jobs([*plugins.given(["plugin=lists.py"]), *GIVEN, "dataset.borders=[0.1,0.6]"], multirun=False)
    assert from_values(to_values(job.config)) == job.config
    assert build(job.config).dataset is build(job.config).dataset  # made once
    x = build(job.config).dataset.train
    assert ((x.features[:, 0] > 0.6) == x.labels).all()


@pytest.mark.usefixtures("folder")
def test_python_knows_the_data_set_as_the_command_line_does() -> None:
    with pytest.raises(ConfigError, match="there is no data set 'sides'"):
        gs.dataset("sides")
    plugins.load("sides.py")
    (job,) = jobs([*GIVEN, "dataset.border=0.7", "dataset.t_late=1.5"], multirun=False)
    parts, data = build(job.config), gs.dataset("sides", border=0.7, t_late=1.5)
    np.testing.assert_array_equal(data.train.t_in, parts.encode(parts.dataset.train.features)[0])
    np.testing.assert_array_equal(data.test.labels, parts.dataset.test.labels)
    assert repr(data) == "Data(sides: 60 + 20 + 20 samples, 4 inputs, 2 classes)"


@pytest.mark.parametrize("lasting", [True, False])
def test_samples_that_do_not_last_are_made_anew(lasting: bool, folder: Path) -> None:
    text = SOURCE.replace("    border:", f"    lasting: ClassVar[bool] = {lasting}\n    border:")
    (folder / "sides.py").write_text("from typing import ClassVar\n" + text)
    plugins.load("sides.py")
    assert (load_dataset("sides") is load_dataset("sides")) == lasting


def test_a_plug_in_does_not_change_the_name_of_a_run_that_does_not_use_it(folder: Path) -> None:
    (before,) = jobs([], multirun=False)
    (folder / "sides.py").write_text(SOURCE.replace("border: float = 0.5", "border: float = float('inf')"))
    plugins.load("sides.py")
    (after,) = jobs([], multirun=False)
    assert fingerprint(after.config) == fingerprint(before.config) == "c8c1834c20839e40"
    names = set()
    for text in (SOURCE, SOURCE + "# edited"):
        (folder / "sides.py").write_text(text)
        (job,) = jobs([*plugins.given(["plugin=sides.py"]), *GIVEN], multirun=False)
        names.add(fingerprint(job.config))
    assert len(names) == 2


def test_a_configuration_never_imports_what_it_names(folder: Path) -> None:
    (job,) = jobs([*plugins.given(["plugin=sides.py"]), *GIVEN], multirun=False)
    values, digest = to_values(job.config), plugins.loaded()[0].digest
    (folder / "config.yaml").write_text(to_yaml(job.config))
    plugins.forget_all()
    message = rf"^the run used the plug-in sides.py \(digest {digest}\): give it with plugin=sides.py$"
    for read in (lambda: from_values(values), lambda: read_config(folder / "config.yaml")):
        with pytest.raises(ConfigError, match=message):
            read()
    with pytest.raises(
        ConfigError, match=r"^the run used the plug-in sides.py: give it with plugin=sides.py$"
    ):
        jobs(["plugin=[sides.py]"], multirun=False)
    assert not plugins.loaded()
    (folder / "elsewhere").mkdir()
    (folder / "sides.py").rename(folder / "elsewhere" / "mine.py")
    plugins.load("elsewhere/mine.py")
    assert from_values(values).plugin == [f"elsewhere/mine.py@{digest}"]


def test_another_version_is_refused_unless_it_is_asked_for(folder: Path) -> None:
    (job,) = jobs([*plugins.given(["plugin=sides.py"]), *GIVEN], multirun=False)
    values, old = to_values(job.config), plugins.loaded()[0].digest
    Path("sides.py").write_text(SOURCE + "# edited\n")
    new = plugins.load("sides.py").digest
    message = (
        f"^the run used the plug-in sides.py with the digest {old}, got {new}; "
        "plugin=sides.py@any takes this one all the same$"
    )
    with pytest.raises(ConfigError, match=message):
        from_values(values)
    plugins.load("sides.py@any")
    assert from_values(values).plugin == [f"sides.py@{new}"]


def test_all_files_that_cannot_be_used_are_told_at_once(folder: Path) -> None:
    (folder / "wrong.py").write_text("raise ValueError('no')\n")
    message = (
        r"^3 mistakes: \(1\) cannot read the plug-in a\.py: No such file or directory; \(2\) cannot use the "
        r"plug-in wrong\.py: ValueError: no, line 1; \(3\) cannot read the plug-in b\.py: No such"
    )
    with pytest.raises(ConfigError, match=message):
        plugins.given(["plugin=[a.py,sides.py,wrong.py]", "plugin=b.py"])


def test_all_files_that_a_run_used_are_told_at_once(folder: Path) -> None:
    digest, other = plugins.load("sides.py").digest, "0123456789abcdef"
    wanted = [f"a.py@{other}", f"sides.py@{digest}", "b.py"]
    told = rf"^the run used the plug-ins a\.py \(digest {other}\), "
    way = r"b\.py: give them with plugin=\[a\.py,sides\.py,b\.py\]$"
    with pytest.raises(plugins.NotGivenError, match=told + way):
        plugins.require(wanted)
    wanted[1] = f"sides.py@{other}"
    told += rf"sides\.py with the digest {other}, got {digest}, "
    way = r"b\.py; plugin=\[a\.py,sides\.py@any,b\.py\] takes these all the same$"
    with pytest.raises(plugins.NotGivenError, match=told + way):
        plugins.require(wanted)
    told = r"^the run used the plug-in b\.py: give it with plugin=\[sides\.py@any,b\.py\]$"
    plugins.load("sides.py@any")
    with pytest.raises(plugins.NotGivenError, match=told):
        plugins.require(wanted[1:])


# ---- commands


def test_a_run_with_a_plug_in_is_resumed_and_evaluated_with_it_alone(folder: Path) -> None:
    succeeds(folder, "train", "plugin=sides.py", *GIVEN, "hydra.run.dir=run")
    digest = plugins.load("sides.py").digest
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["provenance"]["plugins"] == [f"sides.py@{digest}"]
    assert f"- sides.py@{digest}\n" in (folder / "run" / "config.yaml").read_text()
    wanted = f"the run used the plug-in sides.py (digest {digest}): give it with plugin=sides.py"
    # What would be imported, were it looked for, says so.
    (folder / "mine").mkdir()
    (folder / "sides.py").rename(folder / "mine" / "sides.py")
    (folder / "sides.py").write_text("open('imported', 'w').close()\n" + SOURCE)
    assert refused(folder, "train", "resume=run", "training.epochs=2") == wanted
    assert refused(folder, "evaluate", "run=run") == wanted
    assert not (folder / "imported").exists()
    succeeds(folder, "train", "resume=run", "training.epochs=2", "plugin=mine/sides.py")
    assert "test accuracy" in succeeds(folder, "evaluate", "run=run", "plugin=mine/sides.py")
    assert "with the digest" in refused(folder, "evaluate", "run=run", "plugin=sides.py")
    said = succeeds(folder, "train", "resume=run", "training.epochs=3", "plugin=sides.py@any")
    assert "begun with another gpuspike" in said
    assert "mine/sides.py@" not in (folder / "run" / "config.yaml").read_text()


DISTORTION = """
from dataclasses import dataclass
from typing import ClassVar

from gpuspike.substrate.distortions import DISTORTIONS, TRIAL, Distortion, spread


@dataclass(frozen=True)
class NAME(Distortion):
    scope: ClassVar[str] = TRIAL
    NAME: float = spread()

    def lift(self, trials):
        return self.NAME * trials.normals("NAME")


DISTORTIONS.add("NAME", NAME)
"""


def test_plug_ins_of_a_resumed_run_may_come_in_another_order_unless_they_act_in_it(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(DISTORTION.replace("NAME", name))
    (folder / "run").mkdir()
    (job,) = jobs(plugins.given(["plugin=[sides.py,one.py,two.py]", *GIVEN]), False)
    (folder / "run" / "config.yaml").write_text(to_yaml(job.config))

    def resumed(order: str) -> resume.Stopped:
        plugins.forget_all()
        again = [*plugins.given([f"plugin=[{order}]"]), "training.epochs=3"]
        (job,) = jobs([*GIVEN, *again], False)
        return resume.read(folder / "run", job.config, again)

    assert resumed("one.py,two.py,sides.py").config.plugin == job.config.plugin
    with pytest.raises(ConfigError, match=r"in the order that the run had, one\.py,two\.py, got two\.py,one"):
        resumed("sides.py,two.py,one.py")


def test_a_configuration_folder_that_somebody_sent_imports_nothing(folder: Path) -> None:
    (folder / "sent" / "experiment").mkdir(parents=True)
    (folder / "sent" / "experiment" / "evil.yaml").write_text("# @package _global_\nplugin: [sides.py]\n")
    (folder / "sides.py").write_text("open('imported', 'w').close()\n" + SOURCE)
    line = refused(folder, "train", "--config-dir", "sent", "experiment=evil")
    assert line.endswith("give it with plugin=sides.py")
    (folder / "search.yaml").write_text(
        "name: s\noverrides: ['plugin=[sides.py]']\nparameters: {seed: {low: 0, high: 1, integer: true}}\n"
    )
    line = refused(folder, "tune", "tune=search.yaml", "tune.trials=1")
    assert line == (
        "tune=search.yaml needs the plug-in sides.py: give it with plugin=sides.py on the command line, "
        "since a file imports nothing by itself"
    )
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.slow), "parallel"])
def test_every_process_of_a_sweep_has_the_parts(launcher: str, folder: Path) -> None:
    if launcher == "parallel":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    given = ["plugin=sides.py", *GIVEN, "dataset.border=0.4,0.6", "hydra.sweep.dir=sweep"]
    succeeds(folder, "train", "-m", *given, f"hydra/launcher={launcher}")
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("sweep/*/summary.json"))]
    assert len(found) == 2
    assert "2 of 2 finished" in succeeds(folder, "report", "sweep")
    if launcher == "basic":
        again = succeeds(folder, "train", "-m", *given)
        assert again.count("finished before") == 2


def test_a_plan_and_a_search_have_the_parts(folder: Path) -> None:
    assert "an epoch of 3 steps" in succeeds(folder, "plan", "plugin=sides.py", *GIVEN)
    pytest.importorskip("optuna")
    (folder / "search.yaml").write_text("name: s\nparameters: {dataset.border: {low: 0.3, high: 0.7}}\n")
    said = succeeds(folder, "tune", "tune=search.yaml", "tune.trials=1", "plugin=sides.py", *GIVEN)
    assert "1 trial complete" in said


@pytest.mark.parametrize("named", ["plugin=sides.py", "'plugin=[sides.py]'", "plugin=elsewhere/sides.py"])
def test_a_search_s_file_may_name_the_plug_in_that_the_command_line_gives(named: str, folder: Path) -> None:
    (folder / "search.yaml").write_text(
        f"name: s\noverrides: [{named}, dataset=sides, dataset.border=0.4]\n"
        "parameters: {seed: {low: 0, high: 1, integer: true}}\n"
    )
    with pytest.raises(ConfigError, match="needs the plug-in"):
        cli_tune.read(["tune=search.yaml"])
    search, others = cli_tune.read(plugins.given(["tune=search.yaml", "plugin=sides.py"]))
    assert search.overrides == ["dataset=sides", "dataset.border=0.4"]
    (job,) = jobs([*GIVEN, *search.overrides, *others], False)
    assert job.config.dataset.border == 0.4
    assert job.config.plugin == [plugins.loaded()[0].entry]


@pytest.mark.parametrize("program", ["train", "evaluate", "plan", "tune"])
def test_a_command_refuses_a_bad_plug_in_in_one_line(program: str, folder: Path) -> None:
    assert refused(folder, program, "plugin=none.py").startswith("cannot read the plug-in none.py: ")


WIDE = """
from dataclasses import dataclass

import numpy as np

from gpuspike.training.losses import LOSSES, Loss


@dataclass(frozen=True)
class Wide(Loss):
    width: float = 1.0

    def reference(self, t_out, labels):
        if self.width > 2.0:
            raise ValueError("too wide")
        loss, grad = np.zeros(t_out.shape[:2]), np.zeros_like(t_out)
        return RETURNED


LOSSES.add("wide", Wide)
"""
USUAL = (
    "training.epochs=1",
    "training.batch_size=20",
    "dataset.n_train=60",
    "dataset.n_validation=20",
    "dataset.n_test=20",
)


@pytest.mark.slow  # half a minute of a core
def test_a_plug_in_that_fails_while_it_runs_is_told_in_one_line_and_the_sweep_goes_on(folder: Path) -> None:
    (folder / "wide.py").write_text(WIDE.replace("RETURNED", "loss, grad"))
    given = ["plugin=wide.py", "training.loss=wide", *USUAL]
    words = "the plug-in wide.py fails: ValueError: too wide, line 15"
    told = refused(folder, "train", *given, "training.width=3")
    assert told.endswith(f"{words}; GPUSPIKE_TRACEBACK=1 shows how it came there")
    swept = command(folder, "train", "-m", *given, "training.width=1,3,2", "hydra.sweep.dir=sweep")
    assert swept.returncode == 2
    assert "Traceback" not in swept.stderr
    assert f"job 1 failed: {words}" in swept.stderr
    states = {job.name: (job.state, job.note) for job in read_sweep(folder / "sweep")}
    assert states == {"0": ("finished", ""), "1": ("failed", words), "2": ("finished", "")}
    (folder / "wide.py").write_text(WIDE.replace("RETURNED", "loss, grad").replace("2.0", "4.0"))
    succeeds(folder, "train", "-m", *given, "training.width=1,3,2", "hydra.sweep.dir=sweep")
    assert {job.name: job.state for job in read_sweep(folder / "sweep")}["1"] == "finished"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (
            "loss, np.ascontiguousarray(grad[..., :2])",
            r"a tuple .*, got \(1, 60\) and \(1, 60, 2\)",
        ),
        ("loss.mean(), grad", r"a tuple of losses \(1, 60\) and gradients .*, got \(\) and \(1, 60, 3\)"),
        ("loss", "a tuple of losses .*, got ndarray"),
        (
            "loss, grad.astype('float32')",
            "losses in floats and gradients in float64, .*, got float64 and float32",
        ),
        ("loss * np.nan, grad", "losses that are numbers and finite gradients"),
        ("loss, grad + np.nan", "losses that are numbers and finite gradients"),
    ],
)
def test_what_a_loss_of_one_s_own_returns_is_checked(returned: str, words: str, folder: Path) -> None:
    (folder / "wide.py").write_text(WIDE.replace("RETURNED", returned))
    plugins.load("wide.py")
    loss = LOSSES["wide"]()
    with pytest.raises(GpuspikeError, match=f"the loss Wide must return {words}"):
        loss(np.ones((1, 60, 3)), np.zeros((1, 60), np.int64))


def test_the_author_of_a_plug_in_may_see_how_it_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wide.py").write_text(WIDE.replace("RETURNED", "loss, grad"))
    plugins.load("wide.py")

    def failed() -> plugins.FailedError | None:
        try:
            LOSSES["wide"](width=3.0)(np.ones((1, 60, 3)), np.zeros((1, 60), np.int64))
        except ValueError as error:
            return plugins.blamed(error)
        return None

    assert str(failed()).endswith("ValueError: too wide, line 15")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(plugins.TRACEBACK, "1")
    assert str(failed()).endswith("ValueError: too wide, line 15")
    assert "Traceback" in capsys.readouterr().err


def test_a_gradient_of_one_s_own_need_not_lie_in_one_piece(folder: Path) -> None:
    (folder / "wide.py").write_text(WIDE.replace("RETURNED", "loss, np.zeros((1, 60, 6))[..., ::2]"))
    plugins.load("wide.py")
    _, grad = LOSSES["wide"]()(np.ones((1, 60, 3)), np.zeros((1, 60), np.int64))
    assert grad.flags.c_contiguous


def test_a_mistake_where_a_part_is_made_is_the_plug_in_s(folder: Path) -> None:
    made = "    width: float = 1.0\n\n    def __post_init__(self):\n        self.widht\n"
    (folder / "wide.py").write_text(WIDE.replace("    width: float = 1.0\n", made))
    told = refused(folder, "train", "plugin=wide.py", "training.loss=wide", *USUAL)
    assert told.startswith("the plug-in wide.py fails: AttributeError: ")
    assert "line 14; " in told
    (folder / "wide.py").write_text(WIDE.replace("width", "batch_size"))
    told = refused(folder, "train", "plugin=wide.py", "training.loss=wide", *USUAL)
    assert told.endswith("the value batch_size of the loss wide must have another name: it is taken")
    (folder / "wide.py").write_text(WIDE.replace("RETURNED", "loss, grad"))
    succeeds(folder, "train", "plugin=wide.py", "training.loss=wide", *USUAL, "hydra.run.dir=run")
    with pytest.raises(plugins.NotGivenError, match=r"in Python gpuspike\.plugins\.load\(FILE\) before"):
        gs.load("run")
