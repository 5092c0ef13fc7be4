"""What losses and optimisers have in common: values, an oracle in NumPy, and perhaps a compiled row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Leaf:
    """A part of a training step that is one file: a frozen dataclass, whose fields are its values.

    A configuration has those that a leaf declares itself, not those of its kind (`Loss.tau_syn`).
    """

    def numbers(self) -> Any:
        """What the compiled row is told: a NamedTuple of floats, of a class that is this leaf's alone."""
        raise TypeError(f"{type(self).__name__} has a compiled row, but no numbers for it")

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
