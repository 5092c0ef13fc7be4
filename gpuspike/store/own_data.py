"""The files of a user's own that a run is on: what they held when it began, and where they are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuspike.config.schema import Config
from gpuspike.datasets import DATASETS, content
from gpuspike.errors import ConfigError, DataError

DATA = "data"
"""Of a checkpoint's header: digests of the files, by the value of the data set that is their path."""


def files_of(config: Config) -> tuple[str, ...]:
    """Values of a run's data set that are paths; none where its data are nobody's own."""
    return tuple(DATASETS[config.dataset.name].files)


def keys(config: Config) -> tuple[str, ...]:
    """The same as they are given: dataset.path."""
    return tuple(f"dataset.{name}" for name in files_of(config))


def digests(config: Config) -> dict[str, str]:
    """What the files hold now, see `content.digests`."""
    return content.digests(config.dataset.name, vars(config.dataset))


def entries(config: Config) -> list[str]:
    """Files and their digests, as a plug-in's entry has both."""
    return [f"{getattr(config.dataset, name)}@{digest}" for name, digest in digests(config).items()]


def kept(header: Mapping[str, Any]) -> dict[str, str]:
    """The digests that a checkpoint has; none of a run that was begun before there were any."""
    found = header.get(DATA)
    return {str(key): str(digest) for key, digest in found.items()} if isinstance(found, dict) else {}


def at(config: Config, given: Mapping[str, str], run: Path) -> Config:
    """The same with its files elsewhere.

    Args:
        given: paths, by the data set's value; "": where it was.

    Raises:
        ConfigError: a run whose data set has no such file.
    """
    places = {name: path for name, path in given.items() if path}
    for name, path in places.items():
        if name not in files_of(config):
            raise ConfigError(
                f"dataset.{name}={path} is where data of one's own are, and {run} is on {config.dataset.name}"
            )
    absolute = {name: str(Path(path).absolute()) for name, path in places.items()}
    return replace(config, dataset=replace(config.dataset, **absolute))


def require(config: Config, run: Path, told: str = "dataset.{name}=FILE says where they are now") -> None:
    """Makes sure that a run's files are there.

    Args:
        told: the way out, of a value's name.

    Raises:
        DataError: which is not, and the way out.
    """
    for name in files_of(config):
        path = getattr(config.dataset, name)
        if path and not Path(path).exists():
            raise DataError(
                f"the data of {run} must be at {path}, where nothing is: {told.format(name=name)}"
            )


def change(config: Config, before: Mapping[str, str], first: Config | None = None) -> str:
    """What has become of a run's data since it began, in words; "" where they are as they were.

    Args:
        before: the digests that were kept.
        first: the run's configuration as it began; None: there are no data to compare.
    """
    now = digests(config)
    for name in files_of(config):
        path, old, new = getattr(config.dataset, name), before.get(name), now.get(name)
        if old and old != new:
            words = f"its content was {old}, and is {new}" if new else "it is no file now"
            return f"dataset.{name}={path} has changed since the run began: {words}"
        if not old and first is not None and path != getattr(first.dataset, name):
            return f"dataset.{name}={path} may be other data than the run's, which has kept no digest of them"
    return ""


def refuse_others(config: Config, before: Mapping[str, str], run: Path) -> None:
    """Refuses to go on with a run whose data are gone, or others.

    Raises:
        DataError: which file, and what has become of it.
    """
    require(config, run)
    if words := change(config, before):
        raise DataError(f"{words}; a run goes on with the data that it began with, others are for a new one")
