"""What losses and optimisers have in common: values, an oracle in NumPy, and perhaps faster forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from gpuspike.errors import ConfigError
from gpuspike.kinds import take_kinds


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
        take_kinds(self)

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
        """The formula as a Numba function; None: there is none, and training goes piecewise."""
        return None

    @classmethod
    def row(cls) -> Any:
        """`compiled`, made once."""
        return _row(cls)


@cache
def _row(leaf: type[Leaf]) -> Any:
    return None if leaf.compiled is None else leaf.compiled()
