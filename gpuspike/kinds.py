"""Numbers that a user gives: which are some, and as which they are kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from gpuspike.errors import ValueRangeError


def is_number(value: Any) -> bool:
    """Whether it is one real number that a float can hold, and no truth value."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < sys.float_info.max
    return isinstance(value, Real)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number that is not too small, and that an array can count to.

    Raises:
        ValueRangeError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueRangeError(f"{name} must be a whole number, {least} or more, got {value!r}")
    if value >= 2**63:
        raise ValueRangeError(f"{name} must be a whole number below 2**63, got {value!r:.20}...")
    return int(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple | range | np.ndarray) and all(map(is_number, value))


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a number", is_number),
    "Sequence[float]": ("a list of numbers", _are_numbers),
    "int": ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    "bool": ("True or False", lambda value: isinstance(value, (bool, np.bool_))),
}
"""What a field may hold by its annotation."""


def take_kinds(part: Any) -> None:
    """Makes Python's numbers of a dataclass's fields that are numbers or truth values by their annotations.

    Raises:
        ValueRangeError: a text and the like; what was expected and what was got.
    """
    for item in fields(part):
        name, _, other = getattr(item.type, "__name__", str(item.type)).partition(" | ")
        value = getattr(part, item.name)
        if name in _KINDS and not (value is None and other == "None"):
            words, fits = _KINDS[name]
            if not fits(value):
                raise ValueRangeError(f"{item.name} must be {words}, got {value!r}")
            if (taken := plain(value)) is not value:
                object.__setattr__(part, item.name, taken)


def plain(value: Any) -> Any:
    """Numbers of any kind, arrays and lists of some, as Python's own, which files can hold."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        made = [plain(each) for each in value]
        return tuple(made) if isinstance(value, tuple) else made
    return value
