"""What `gpuspike-train` says of itself, and where a run that has a name goes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from gpuspike.config.files import conf_folder
from gpuspike.config.schema import parts_of

HEAD = """gpuspike-train trains a network of neurons that speak once, and writes a report.

    gpuspike-train                                              # Yin-Yang, the paper's network
    gpuspike-train experiment=mnist replicas=3 name=first       # three seeds side by side, and a name
    gpuspike-train -m optimizer.learning_rate=0.002,0.005,0.01  # a sweep: a job for each value

Any value can be given as KEY=VALUE, any group as GROUP=NAME; both are listed below. resume=FOLDER goes on
with a stopped run, dataset.path=FILE beside it where data of your own have moved. --cfg job prints the values
of a run and starts nothing, --hydra-help tells other flags.

Experiments, each experiment=NAME:
"""

GROUPS, PRICES = ("dataset", "model", "optimizer", "training", "substrate", "tracking"), "substrate.prices"
"""What a run is composed of, and the key that names the prices of a chip."""

LONGEST = 78
"""Characters of an experiment's description."""


def help_head() -> str:
    """Examples, and the experiments with the first lines of their files."""
    folder = conf_folder() / "experiment"
    files = [path for path in sorted(folder.rglob("*.yaml")) if path.stem != "base"]
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {_first_words(path.read_text('utf-8'))}" for name, path in names.items()]
    return HEAD + "\n".join([*lines, "", "Groups, each GROUP=NAME:", "", *_groups()]) + "\n"


def _groups() -> list[str]:
    """Groups that a run has, with their names."""
    folder, lines = conf_folder(), []
    for key in (*GROUPS, PRICES):
        files = folder / key.rpartition(".")[2]
        own = {path.stem for path in files.glob("*.yaml")}
        line = f"  {key}: {', '.join(sorted(own | parts_of(key)))}"
        lines += textwrap.wrap(line, 106, subsequent_indent="    ", initial_indent="")
    return lines


def _first_words(text: str) -> str:
    """The first line of the comment that a file begins with."""
    comment = [line for line in text.splitlines() if line.startswith("#") and not line.startswith("# @")]
    first = comment[0].lstrip("# ").rstrip(".") if comment else ""
    return first if len(first) <= LONGEST else first[:LONGEST].rpartition(" ")[0] + " ..."


_OPTIONS = {flag: each.nargs for each in get_args_parser()._actions for flag in each.option_strings}
FLAGS = [flag for flag in _OPTIONS if flag.startswith("--")]
"""Hydra's, which it takes for any beginning of them that no other has."""

_WITH_A_VALUE = [flag for flag, count in _OPTIONS.items() if count is None]
"""Of Hydra's flags those that take a value behind a space."""


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Arguments with Hydra's flags before all values: argparse refuses values on both sides of one."""
    flags, values, rest = [], [], list(arguments)
    while rest:
        text = rest.pop(0)
        if not text.startswith("-"):
            values.append(text)
            continue
        flags.append(text)
        long = text.startswith("--") and "=" not in text
        takes = text in _WITH_A_VALUE or (long and any(flag.startswith(text) for flag in _WITH_A_VALUE))
        if rest and (takes or (text == "--info" and "=" not in rest[0])):
            flags.append(rest.pop(0))
    return [*flags, *values]


def placed(arguments: Sequence[str]) -> list[str]:
    """Arguments of a sweep over names or data, which has one folder all the same, unless they say where."""
    keys = ("name=", "dataset=", "dataset.name=", "dataset.path=")
    swept = any(text.startswith(keys) and "," in text for text in arguments)
    several = any(flag in arguments for flag in ("-m", "--multirun"))
    if not (swept and several) or any(text.startswith("hydra.sweep.dir=") for text in arguments):
        return list(arguments)
    where = "outputs/${hydra:runtime.choices.experiment}/sweep_${now:%Y-%m-%d}_${now:%H-%M-%S}"
    return [*arguments, f"hydra.sweep.dir={where}"]


_BY_TIME = re.compile(r"(sweep_)?\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_.*)?")


def named_by_time(folder: Path, arguments: Sequence[str]) -> bool:
    """Whether nobody but the clock has chosen a run's folder."""
    own = any(text.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for text in arguments)
    return not own and _BY_TIME.fullmatch(folder.name) is not None


def pinned(arguments: Sequence[str], folder: Path, key: str = "hydra.sweep.dir") -> list[str]:
    """Arguments that say where a sweep or run goes: where it was checked, since the name may have a time."""
    if any(text.startswith(f"{key}=") and "${" not in text for text in arguments):
        return list(arguments)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [*(text for text in arguments if not text.startswith(f"{key}=")), f"{key}='{quoted}'"]
