"""`gpuspike-export` and `gpuspike-import`: networks to NIR files and out of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import hydra
from rich.console import Console

from gpuspike import plugins
from gpuspike.cli.command import command
from gpuspike.cli.train import refuse_dashes
from gpuspike.config.composition import register
from gpuspike.config.exchange import ExportConfig, ImportConfig, asked, keyed, schema_name, unit
from gpuspike.config.files import conf_folder
from gpuspike.config.keys import key_of
from gpuspike.errors import ConfigError, DataError, OutputError
from gpuspike.screen import Screen

T = TypeVar("T")

EXPORT = """gpuspike-export writes a network to a NIR file.

    gpuspike-export RUN FILE time_unit=ms [KEY=VALUE ...]

RUN         folder of a run, or an .npz file of net.save
FILE        to write
time_unit   of the file: s, ms, us, ns or a number of seconds
model_unit  of the network's time, given likewise; left out: numbers stay as they are
dialect     strict, jaxsnn, hxtorch or snntorch: what a spike does to a current there
replica     which network of a run with several

It says what the file cannot say. --cfg job shows all values; -m sweeps. See docs/exchange.md."""

IMPORT = """gpuspike-import makes a network of a NIR file.

    gpuspike-import FILE NET.npz time_unit=ms [KEY=VALUE ...]
    gpuspike-import FILE FOLDER time_unit=ms experiment=yin_yang [KEY=VALUE ...]

FILE         to read
NET.npz      to write, for gs.load in Python, gpuspike-export and gpuspike-price
FOLDER       to write: that of a run which has not trained yet, for gpuspike-evaluate run=FOLDER and
             gpuspike-train resume=FOLDER; its data and training are values of gpuspike-train
time_unit    of the file: s, ms, us, ns or a number of seconds
model_unit   of the network's time, given likewise; left out: numbers stay as they are
dialect      strict, jaxsnn, hxtorch or snntorch: what a spike does to a current there
bias_times   of Input nodes that bring bias spikes: bias_times={bias:[0.9]}
capacitance  that all neurons shall have, weights scaled to it
dtype        float32 or float64

--cfg job shows all values; -m sweeps. See docs/exchange.md."""


def export() -> None:
    """`gpuspike-export`: see docs/exchange.md."""
    carry_out("export", EXPORT, ExportConfig, _export)


def import_() -> None:
    """`gpuspike-import`: see docs/exchange.md."""
    carry_out("import", IMPORT, ImportConfig, _import, others=True)


def carry_out(
    name: str,
    told: str,
    schema: type[T],
    work: Callable[[T, list[str], Console], None],
    *,
    others: bool = False,
    prepare: Callable[[list[str]], list[str]] = list,
) -> None:
    """A command that does one thing for each configuration that its arguments ask for.

    Args:
        name: of the command after gpuspike-, and of its file in conf/exchange.
        told: for --help.
        work: gets a configuration, and values that are not its own.
        others: there may be such values.
        prepare: changes arguments before they are read.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(told)
        return
    own = [item.name for item in fields(schema)]  # type: ignore[arg-type]
    with command(f"gpuspike-{name}", "the network"):
        refuse_dashes(arguments, schema)
        arguments = keyed(prepare(plugins.given(arguments)), schema)
        flags = [a for a in arguments if a.startswith("-")]
        if any(flag not in ("-m", "--multirun") for flag in flags):
            # Flags that only tell (--cfg, --info, ...) are Hydra's.
            sys.argv[1:] = arguments
            register(schema_name(name), schema)
            folder = str((conf_folder() / "exchange").resolve())
            hydra.main(version_base="1.3", config_path=folder, config_name=name)(lambda _: None)()
            return
        values = [a for a in arguments if not a.startswith("-")]
        rest = [a for a in values if key_of(a).split(".")[0] not in own] if others else []
        configs = asked([a for a in values if a not in rest], bool(flags), name, schema)
        for config in configs:
            work(config, rest, Screen())


def _export(config: ExportConfig, rest: list[str], console: Console) -> None:
    from gpuspike.api.files import load
    from gpuspike.api.nir import export_nir
    from gpuspike.exchange.graph import keep_others

    del rest
    time_unit, model_unit = unit("time_unit", config.time_unit), unit("model_unit", config.model_unit)
    assert time_unit is not None
    keep_others(Path(config.file))
    net = load(config.run, backend="cpu")
    notes = export_nir(
        net,
        config.file,
        time_unit=time_unit,
        model_unit=model_unit,
        dialect=config.dialect,
        replica=config.replica,
    )
    _say(console, "file", config.file)
    for note in notes:
        _say(console, "note", note)


def _keep_all_but_networks(path: Path) -> None:
    """Refuses to write over what no import has written, data or a trained network; raises OutputError."""
    from gpuspike.store import checkpoint

    if not path.is_file() or path.stat().st_size == 0:
        return
    with suppress(DataError):
        header = checkpoint.load(path)[1]
        if header.get("kind") == "network" and not header.get("epoch"):
            return
    raise OutputError(
        f"{path} is there already and is no untrained network's file: it would be lost; take another name"
    )


def _import(config: ImportConfig, rest: list[str], console: Console) -> None:
    from gpuspike.api.nir import import_nir

    target = Path(config.to)
    if target.suffix == ".npz" and rest:
        raise ConfigError(f"values of gpuspike-train are for a run's folder, not for {target}, got {rest[0]}")
    time_unit, model_unit = unit("time_unit", config.time_unit), unit("model_unit", config.model_unit)
    assert time_unit is not None
    _keep_all_but_networks(target)
    net = import_nir(
        config.file,
        time_unit=time_unit,
        model_unit=model_unit,
        dialect=config.dialect,
        bias_times=config.bias_times,
        capacitance=config.capacitance,
        dtype=config.dtype,
        backend="cpu",
    )
    if target.suffix == ".npz":
        net.save(target)
    else:
        _to_folder(net, rest, target, console)
    _say(console, "network", repr(net))
    _say(console, "written", str(target))
    _say(console, "note", "its neurons speak once, whatever the file says of a reset")


def _to_folder(net: Any, rest: list[str], folder: Path, console: Console) -> None:
    from gpuspike.config.schema import jobs, notes_of
    from gpuspike.runs.adopt import adopt, configured, notes_on_model, refuse_own

    (job,) = jobs(rest, multirun=False)
    layers, weights = net.architecture.layers, net.parameters.weights
    config = configured(job.config, layers, weights)
    refuse_own(rest, job.config, config)
    adopt(config, layers, weights, folder, job.experiment)
    for note in dict.fromkeys([*notes_on_model(rest, config), *notes_of(config, rest)]):
        _say(console, "note", note)


def _say(console: Console, head: str, text: str) -> None:
    console.print(f"{head:8} {text}", soft_wrap=True, highlight=False)
