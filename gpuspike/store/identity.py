"""Which configurations are the same: value by value, and as a short name for a whole one."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gpuspike.config.parts import own_defaults
from gpuspike.config.schema import Config


def to_values(config: Config) -> dict[str, Any]:
    """The configuration as values that JSON knows; numbers that are not finite as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value.value if isinstance(value, enum.Enum) else value

    return plain(asdict(config))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings; lists are values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def within(name: str, scopes: Sequence[str]) -> bool:
    """Whether a dotted name is one of some names, or inside of one."""
    return any(name == scope or name.startswith(scope + ".") for scope in scopes)


def differences(old: Config, new: Config, leave_out: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Old and new value of everything that differs, by dotted name."""
    before, after = dict(flat(to_values(old))), dict(flat(to_values(new)))
    return {
        name: (before[name], after[name])
        for name in before
        if before[name] != after[name] and not within(name, leave_out)
    }


FIRST = ("dataset.image_size", "dataset.path")
"""Values of parts that have always counted: sweeps begun before know their jobs by them."""


def fingerprint(config: Config, leave_out: Sequence[str] = ("resume", "tracking")) -> str:
    """16 hexadecimal digits that two configurations share if they agree in all but what is left out.

    Values that parts declare do not count where they are left as they are: one more part in the package, or
    in a plug-in, then changes no run's name.
    """
    unset = {name: value for name, value in own_defaults(config).items() if name not in FIRST} | {
        "plugin": []
    }
    values = {
        name: value
        for name, value in flat(to_values(config))
        if not within(name, leave_out) and not (name in unset and unset[name] == value)
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
