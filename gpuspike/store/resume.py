"""Going on with a stopped run: what its folder holds, and what may differ from then on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from gpuspike import plugins
from gpuspike.config.files import latest_within
from gpuspike.config.keys import key_of
from gpuspike.config.schema import Config, from_values, read_config, to_yaml
from gpuspike.errors import ConfigError, DataError, OutputError
from gpuspike.reading import text_of
from gpuspike.store import checkpoint, own_data, own_prices
from gpuspike.store.identity import differences, flat, to_values, within
from gpuspike.store.run_folder import CHECKPOINT, CONFIG, METRICS, refuse_links, replace_text
from gpuspike.substrate.distortions import DISTORTIONS

FREE = ("resume", "name", "backend", "devices", "tracking", "training.epochs", "training.cuda_graph")
"""Keys that a resumed run may change: none of them says what is computed, except for how long."""

IMAGE = "image"
"""Of a checkpoint's header: (rows, columns) of its samples, None where they are no images."""


@dataclass(frozen=True)
class Stopped:
    """A run as it was found in its folder.

    Attributes:
        config: what to go on with.
        experiment, overrides: as it was started with, with what has changed since in its place.
        epoch: epochs done; 0 if it was stopped before its first checkpoint.
        arrays: its state, None without a checkpoint.
        records: metrics of the epochs done.
        resumed: epochs after which it was resumed before;  resumptions: of these, what is known: date, and
            values that were given.
        given: values that it is resumed with now.
        name: its title until now.
        code: version and commit of what made the checkpoint, None without one.
        damaged: why the newest checkpoint is not the one in use, None if it is.
        date: when it was begun, None where that is not known;  wall_s: what it has taken so far.
        data: digests of the files of a user's own that it is on; none where none were kept.
        doubt: why these may hold other data now, "" where that is known.
        image: (rows, columns) of its samples; None where they are no images, or none were kept.
        prices: what it has kept of its prices, see `own_prices.kept`; nothing where others are asked for.
    """

    config: Config
    experiment: str
    overrides: list[str]
    epoch: int
    arrays: dict[str, NDArray[Any]] | None
    records: list[dict[str, Any]]
    resumed: list[int]
    resumptions: list[dict[str, Any]]
    given: list[str]
    name: str | None
    code: list[Any] | None
    damaged: str | None
    date: str | None
    wall_s: float
    data: dict[str, str]
    doubt: str
    image: tuple[int, ...] | None
    prices: dict[str, Any]


def read(
    folder: Path,
    asked: Config | None = None,
    overrides: Sequence[str] = (),
    begun: tuple[str, Sequence[str]] = ("custom", ()),
) -> Stopped:
    """Looks at a run's folder, writes nothing.

    Args:
        asked: the configuration that a command line composes, if one asks for changes.
        overrides: that command line, for example ["resume=outputs/run", "training.epochs=400"].
        begun: experiment and overrides of a run without a checkpoint, which would have them.

    Raises:
        DataError: the folder holds no run, or a damaged one.
        ConfigError: an override that would change what is computed.
    """
    path = folder / CHECKPOINT
    header: Mapping[str, Any] = {}
    arrays = damaged = None
    if path.exists() or checkpoint.previous(path).exists():
        arrays, header, damaged = checkpoint.recover(path)
    elif not (folder / CONFIG).is_file():
        raise DataError(
            f"resume must be the folder of a run, got {folder}, which holds none{latest_within(folder)}"
        )
    try:
        config = from_values(header["config"]) if header else read_config(folder / CONFIG)
        epoch = int(header["epoch"]) if header else 0
        record = header.get("record")
        if record is not None and record["epoch"] != epoch:
            raise ValueError(f"epoch is {epoch} and {record['epoch']}")
        first, data = config, own_data.kept(header)
        name, given = str(header.get("experiment", begun[0])), list(header.get("overrides", begun[1]))
        if strange := [one for one in given if not isinstance(one, str)]:
            raise TypeError(f"overrides must be texts, got {strange[0]!r:.80}")
        resumed = [int(number) for number in header.get("resumed", ())]
        before = [dict(one) for one in header.get("resumptions", ())]
        date, wall_s = header.get("date"), float(header.get("wall_s", 0.0))
        image = tuple(map(int, header.get(IMAGE) or ())) or None
        code = None
        if header:
            code = [header.get("gpuspike"), header.get("git"), *header["config"].get("plugin", [])]
    except ConfigError:
        raise
    except Exception as error:  # a whole checkpoint of something else
        raise DataError(f"{path} cannot be resumed: {error!r}") from None
    if header and (folder / CONFIG).is_file():
        config = _edited(config, read_config(folder / CONFIG), folder)
    if asked is not None:
        config = _changed(config, asked, overrides, folder)
    records = _records(folder / METRICS, epoch, record)
    config = replace(config, resume=None)
    given = _again(given, overrides, first, config)
    doubt = own_data.change(config, data, first) if header else ""
    others = asked is not None and "substrate.prices" in map(key_of, overrides)
    return Stopped(
        config=config,
        experiment=name,
        overrides=given,
        epoch=epoch,
        arrays=arrays,
        records=records,
        resumed=resumed,
        resumptions=before,
        given=[text for text in overrides if within(key_of(text), _free(first)[1:])],
        name=first.name,
        code=code,
        damaged=damaged,
        date=date,
        wall_s=wall_s,
        data=data,
        doubt=doubt,
        image=image,
        prices={} if others else own_prices.kept(header, folder, config.substrate.prices),
    )


def prepare(stopped: Stopped, folder: Path) -> None:
    """Makes the folder agree with what was found in it, so that the run can go on there.

    Raises:
        OutputError: a file cannot be written.
    """
    refuse_links(folder)
    if stopped.damaged:
        checkpoint.set_aside(folder / CHECKPOINT)
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in stopped.records)
    texts = [(folder / CONFIG, to_yaml(stopped.config)), (folder / METRICS, lines)]
    for path, text in texts:
        try:
            if text and (not path.exists() or text_of(path) != text):
                replace_text(path, text)
            elif not text:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def _records(path: Path, epoch: int, last: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to an epoch; the last one may still have been on its way there."""
    try:
        text = text_of(path) if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a line without its end was cut off
        records = [json.loads(line) for line in whole.splitlines()]
        records = [record for record in records if record["epoch"] <= epoch]
        found = [record["epoch"] for record in records]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if last is not None and len(found) == epoch - 1:
        records, found = [*records, dict(last)], [*found, epoch]
    if len(found) != epoch or found != list(range(1, len(found) + 1)):
        raise DataError(
            f"{path} must have one line for each of the {epoch} epochs done, got {len(found)} lines"
        )
    return records


def _free(kept: Config) -> tuple[str, ...]:
    """Keys that a run may change: files of a user's own may have moved, and prices train nothing."""
    return (*FREE, "substrate.prices", *own_data.keys(kept))


def _edited(kept: Config, written: Config, folder: Path) -> Config:
    """What config.yaml says: where it differs from the checkpoint, somebody has changed it since."""
    for name, (old, new) in differences(kept, written, _free(kept)).items():
        raise ConfigError(
            f"{folder / CONFIG} says {name}={new}, but the checkpoint beside it was made with {old}"
        )
    return _longer(kept, written.training.epochs, written)


def _changed(kept: Config, asked: Config, overrides: Sequence[str], folder: Path) -> Config:
    """The kept configuration with what the command line may change."""
    keys = [key_of(text) for text in overrides]
    if "start" in keys and asked.start is not None and asked.start != kept.start:
        raise ConfigError(
            f"resume={folder} goes on with that run's networks, start={asked.start} begins another run with "
            "others: give one of them"
        )
    asked = replace(asked, plugin=_in_its_order(kept, asked, folder))
    free = _free(kept)
    changes = differences(kept, asked, free)
    for key, text in zip(keys, overrides, strict=True):
        for name, (old, new) in changes.items():
            if key == "experiment" or within(name, (key,)):
                there, here = ("null" if value is None else value for value in (old, new))
                raise ConfigError(
                    f"resume goes on with the configuration of {folder}: {text} would make {name} {here}, "
                    f"which is {there} there; only {', '.join(free[1:])} may change"
                )
    result = kept
    if "training.epochs" in keys:
        result = _longer(kept, asked.training.epochs, kept)
    if "training.cuda_graph" in keys:
        graph = asked.training.cuda_graph
        result = replace(result, training=replace(result.training, cuda_graph=graph))
    if "name" in keys:
        result = replace(result, name=asked.name)
    if "backend" in keys:
        result = replace(result, backend=asked.backend)
    if "devices" in keys:
        result = replace(result, devices=asked.devices)
    if "substrate.prices" in keys:
        result = replace(result, substrate=replace(result.substrate, prices=asked.substrate.prices))
    moved = [name for name in own_data.files_of(kept) if f"dataset.{name}" in keys]
    result = own_data.at(result, {name: getattr(asked.dataset, name) for name in moved}, folder)
    if any(key.split(".")[0] == "tracking" for key in keys):
        result = replace(result, tracking=asked.tracking)
    return result


def refuse_typed(folder: Path, overrides: Sequence[str]) -> None:
    """Refuses values that a run has others of, by what is typed: nothing is composed, as where that fails.

    Raises:
        ConfigError: which, and what may change.
        GpuspikeError: a configuration that cannot be read.
    """
    kept = read_config(folder / CONFIG)
    values, free = dict(flat(to_values(kept))), _free(kept)
    for text in overrides:
        try:
            key, value = key_of(text), yaml.safe_load(text.partition("=")[2])
        except yaml.YAMLError:
            continue
        if key in values and not within(key, free) and values[key] not in (value, [value]):
            raise ConfigError(
                f"resume goes on with the configuration of {folder}: {text} would make it {value}, "
                f"which is {values[key]} there; only {', '.join(free[1:])} may change"
            )


def _in_its_order(kept: Config, asked: Config, folder: Path) -> list[str]:
    """The plug-ins of a command line, in the run's order where they are the same and no order counts.

    Raises:
        ConfigError: another order of distortions, which act in the order in which they were registered.
    """
    if asked.plugin == kept.plugin or sorted(asked.plugin) != sorted(kept.plugin):
        return asked.plugin
    acting = {own.entry for own in plugins.loaded() if any(parts is DISTORTIONS for parts, _ in own.parts)}
    was, got = ([entry for entry in each.plugin if entry in acting] for each in (kept, asked))
    if was != got:
        wanted, found = (",".join(entry.rpartition("@")[0] for entry in each) for each in (was, got))
        raise ConfigError(
            f"resume={folder}: plug-ins with distortions, which act one after the other, must come in the "
            f"order that the run had, {wanted}, got {found}"
        )
    return kept.plugin


def _again(given: Sequence[str], typed: Sequence[str], first: Config, config: Config) -> list[str]:
    """What makes the run as it is now: overrides that it was started with, and what has changed since."""
    told = list(given)
    changes = differences(first, config, ("resume",))
    texts = {key_of(text): text for text in typed if any(within(name, (key_of(text),)) for name in changes)}
    if "training.epochs" in changes:  # which config.yaml may say, too
        texts["training.epochs"] = f"training.epochs={config.training.epochs}"
    for key, text in texts.items():
        told = [text if key_of(old) == key else old for old in told]
        told += [] if text in told else [text]
    return list(dict.fromkeys(told))


def _longer(kept: Config, epochs: int, others: Config) -> Config:
    """`others` with so many epochs, which must be what a longer run from the start would have done."""
    least = kept.training.epochs
    if epochs < least:
        raise ConfigError(
            f"training.epochs of a resumed run may only be raised: at least {least}, got {epochs}"
        )
    if epochs > least and kept.optimizer.schedule.value == "cosine":
        raise ConfigError(
            f"training.epochs must stay {least}, got {epochs}: optimizer.schedule=cosine ends there, and a "
            f"longer run would have had other learning rates from the start"
        )
    return replace(others, training=replace(others.training, epochs=epochs))
