"""Values with units, as price files write them: read into SI, refused in any other dimension."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError

Band = NDArray[np.float64]
"""(2,) lowest and highest value; twice the same where the evidence is a single number."""

Dimension = Literal["energy", "power", "time", "model time", "count"]

_PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_BASES: dict[Dimension, str] = {"energy": "J", "power": "W", "time": "s"}

UNITS: dict[Dimension, dict[str, float]] = {
    **{
        dimension: {prefix + base: factor for prefix, factor in _PREFIXES.items()}
        for dimension, base in _BASES.items()
    },
    "model time": {"tau_syn": 1.0},
    "count": {"1": 1.0},
}
"""What a unit is worth in J, W, s, tau_syn or 1, by dimension."""

LEAST, MOST = 1e-30, 1e30
"""Of a value, in its unit, that is not 0: no chip is so cheap or so dear, and products of it stay numbers."""


def _is_number(value: Any) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def band(where: str, value: Any, unit: Any, dimension: Dimension) -> Band:
    """A value or a range [low, high] in SI.

    Args:
        where: of what, for the error.
        value: a number of 0 or more, or a list of two such, the lower first.
        unit: its text: a prefix of f, p, n, u, m, k or none before J, W or s; tau_syn; 1.

    Raises:
        ConfigError: no such value, or no unit of this dimension.
    """
    units = UNITS[dimension]
    if not isinstance(unit, str) or unit not in units:
        raise ConfigError(f"{where}: the unit must be one of {', '.join(units)} ({dimension}), got {unit!r}")
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or not all(_is_number(end) and end >= 0.0 for end in ends) or ends[0] > ends[1]:
        raise ConfigError(
            f"{where}: the value must be a number of 0 or more, [low, high] or null (unknown), "
            f"got {value!r:.60}"
        )
    if not all(end == 0.0 or LEAST <= end <= MOST for end in ends):
        raise ConfigError(f"{where}: a value must be 0 or from {LEAST:g} to {MOST:g}, got {value!r:.60}")
    # Divided where the unit is a small one: 175 mW is 0.175 W then, not 0.17500000000000002.
    factor = units[unit]
    return np.array(ends, np.float64) / round(1.0 / factor) if factor < 1.0 else np.array(ends) * factor


def plain_band(values: Band | None) -> float | list[float] | None:
    """A band as JSON holds it: one number where both ends agree, [low, high] otherwise."""
    if values is None:
        return None
    low, high = (float(value) for value in values)
    return low if low == high else [low, high]
