"""The units of time in files, and how a network's own one stands to them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np

from gpuspike.errors import ValueRangeError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

Unit = str | float
"""A name in `SECONDS`, or seconds."""


def seconds(name: str, unit: Unit | None) -> float:
    """A unit of time in seconds.

    Raises:
        ValueRangeError: no such unit.
    """
    if isinstance(unit, str) and unit in SECONDS:
        return SECONDS[unit]
    if isinstance(unit, bool) or not isinstance(unit, Real) or not 0.0 < float(unit) < np.inf:
        raise ValueRangeError(f"{name} must be {', '.join(SECONDS)} or a number of seconds, got {unit!r}")
    return float(unit)


def as_given(unit: float) -> str:
    """A unit as users give it: its name, or a number of seconds."""
    return next((name for name, known in SECONDS.items() if known == unit), repr(unit))


@dataclass(frozen=True)
class Scale:
    """Between a network and a file.

    Attributes:
        unit: of times in the file [s].
        one: unit of the network's time, in that of the file; exactly 1 where they are the same.
    """

    unit: float
    one: float

    @classmethod
    def of(cls, time_unit: Unit | None, model_unit: Unit | None) -> Scale:
        """Of units as users give them.

        Args:
            time_unit: of the file;  model_unit: of the network; None: the file's.

        Raises:
            ValueRangeError: no such unit.
        """
        unit = seconds("time_unit", time_unit)
        return cls(unit, 1.0 if model_unit is None else seconds("model_unit", model_unit) / unit)
