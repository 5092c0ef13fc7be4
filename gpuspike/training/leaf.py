"""What losses and optimisers have in common: values, an oracle in NumPy, and perhaps a compiled row."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar


class Leaf:
    """A part of a training step that is one file.

    Attributes:
        CONFIG: names of the values that a configuration gives.
    """

    CONFIG: ClassVar[tuple[str, ...]] = ()

    def numbers(self) -> Any:
        """What the compiled row is told: a NamedTuple of floats, of a class that is this leaf's alone."""
        raise NotImplementedError(f"{type(self).__name__} has no numbers")

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
