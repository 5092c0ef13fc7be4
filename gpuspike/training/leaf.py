"""What losses and optimisers have in common: values, an oracle in NumPy, and perhaps faster forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

from gpuspike.errors import ConfigError, ValueRangeError


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return not isinstance(value, str) and np.ndim(value) == 1 and all(map(_is_number, value))


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a number", _is_number),
    "Sequence[float]": (
        "a list of numbers",
        _are_numbers,
    ),
    "int": ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    "bool": ("True or False", lambda value: isinstance(value, (bool, np.bool_))),
}
"""What a field may hold by its annotation."""


def check_kinds(part: Any) -> None:
    """Refuses texts and the like in those fields of a dataclass that are numbers or truth values.

    Raises:
        ValueRangeError: what was expected and what was got.
    """
    for item in fields(part):
        name, _, other = getattr(item.type, "__name__", str(item.type)).partition(" | ")
        value = getattr(part, item.name)
        if name in _KINDS and not (value is None and other == "None"):
            words, fits = _KINDS[name]
            if not fits(value):
                raise ValueRangeError(f"{item.name} must be {words}, got {value!r}")


@dataclass(frozen=True)
class Leaf:
    """A part of a training step that is one file: a frozen dataclass, whose fields are its values.

    A configuration has those that a leaf declares itself, not those of its kind (`Loss.tau_syn`).

    Attributes:
        device: the formula as statements of CUDA C++, to which the numbers are known by their names, the
            arrays' type as `T`, and the functions of `kernels/cuda/lif.cuh`; None: a device refuses the leaf.
    """

    device: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_kinds(self)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "reference" in vars(cls):  # the faster forms of a base compute the base's formula
            for name in {"compiled", "device"} - vars(cls).keys():
                setattr(cls, name, vars(Leaf)[name])

    def numbers(self) -> Any:
        """What the faster forms are told: a NamedTuple of floats, of a class that is this leaf's alone."""
        raise ConfigError(f"{type(self).__name__} needs numbers for its compiled row or device text")

    @staticmethod
    def compiled() -> Any:
        """The formula as a Numba function; None: there is none, and training goes by pieces."""
        return None

    @classmethod
    def row(cls) -> Any:
        """`compiled`, made once."""
        return _row(cls)


@cache
def _row(leaf: type[Leaf]) -> Any:
    return leaf.compiled()
