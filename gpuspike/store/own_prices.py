"""The prices that a run was told with: as it has kept them, and what has become of their file since."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuspike.accountant import Prices, find, of_kept, read_prices
from gpuspike.config.files import conf_folder
from gpuspike.errors import ConfigError
from gpuspike.reading import text_of
from gpuspike.store.run_folder import SUMMARY

PRICES = "prices"
"""Of a checkpoint's header: all of a run's prices, see `Prices.kept`."""


def kept(header: Mapping[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """What a run has kept of its prices: its summary, which they are told in, or its checkpoint before that.

    Args:
        header: of its checkpoint.
        name: of the prices in its configuration now.

    Returns:
        Nothing where neither tells, and where its config.yaml has been given other prices since.
    """
    told = header.get(PRICES)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError):
        told = of_kept(json.loads(text_of(folder / SUMMARY))["chip"]).kept()
    if not isinstance(told, dict):
        return {}
    begun = header.get("config", {}).get("substrate", {}).get("prices", name)
    others = begun != name and (
        (is_file(name) and Path(name).is_file()) or told.get(PRICES) != Path(name).stem
    )
    return {} if others else told


def of_run(name: str, told: Mapping[str, Any], way: str) -> tuple[Prices, str]:
    """A run's prices, and in words what has become of their file; "" where it is as it was.

    A user's own file may be gone, or have changed since: then what the run has kept counts, which its figures
    are of. Shipped prices are today's.

    Args:
        name: of the prices, or path of their file.
        told: what `kept` returns.
        way: how others are given, "prices=FILE".

    Raises:
        ConfigError: the prices cannot be read, and the run has kept none.
    """
    own = _own(told)
    try:
        now = read_prices(find(name, conf_folder() / "prices"))
    except ConfigError as error:
        if own is None:
            raise
        return (
            own,
            f"prices: {_lost(name) or error}: those that the run has kept are used, {way} takes others",
        )
    if own is None or own.kept() == now.kept() or not is_file(name):
        return now, ""
    return own, (
        f"prices: {name} has changed since the run began: those that the run has kept are used, "
        f"{way} takes the file"
    )


def given(name: str, of: str, told: Mapping[str, Any]) -> tuple[Prices, str]:
    """Prices that are asked for by name, and what there is to say where they are the run's own.

    Args:
        name: as it is given;  of: the name that the run has for its own.
        told: what `kept` returns.

    Raises:
        ConfigError: no such prices, and not those that the run has kept.
    """
    own = _own(told) if os.path.abspath(name) == os.path.abspath(of) else None
    if own is not None and (lost := _lost(name)):
        return own, f"prices: {lost}: those that the run has kept are used"
    now = read_prices(find(name, conf_folder() / "prices"))
    if own is None or own.kept() == now.kept():
        return now, ""
    return now, (
        f"prices: {name} has changed since the run began, and is used as it is now: the run's own figures "
        "are of what it held then"
    )


def is_file(name: str) -> bool:
    """Whether prices are named by a user's own file."""
    return name.endswith((".yaml", ".yml"))


def _lost(name: str) -> str:
    """In words, that what a run's prices are named by is there no more; "" where it is."""
    if is_file(name):
        return "" if Path(name).is_file() else f"there is no file {name} any more"
    return "" if (conf_folder() / "prices" / f"{name}.yaml").is_file() else f"none are called {name} any more"


def _own(told: Mapping[str, Any]) -> Prices | None:
    """What a run has kept; None where that is nothing, or nothing that can be read."""
    try:
        return of_kept(told) if told else None
    except ConfigError:
        return None
