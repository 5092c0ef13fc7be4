"""The errors a user may meet. Each message is one line: what was expected, and what was got."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class GpuspikeError(Exception):
    """Base of every error that gpuspike raises on purpose."""

    def __str__(self) -> str:
        """In one line whatever a user has typed: line breaks and control characters as Python writes them."""
        text = super().__str__().partition("\n    full_key: ")[0]  # which OmegaConf adds
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(GpuspikeError, ValueError):
    """A configuration value, key or choice that cannot be used."""


class PriceError(ConfigError):
    """A term of an energy account that is charged and has no price."""


class ShapeError(GpuspikeError, ValueError):
    """An array whose shape does not fit."""


class DtypeError(GpuspikeError, TypeError):
    """An array of the wrong type: dtype, or NumPy mixed with CuPy."""


class ValueRangeError(GpuspikeError, ValueError):
    """A number outside of what the physics or the algorithm allows, NaN included."""


class BackendError(GpuspikeError, RuntimeError):
    """A backend or device that was asked for and is not there."""


class DataError(GpuspikeError, RuntimeError):
    """A data set or a file that is missing, damaged or of an unknown format."""


class OutputError(GpuspikeError, OSError):
    """A folder or file that cannot be written."""


def extent(values: Any) -> str:
    """From the least to the largest of an array's numbers, with all digits; how many are NaN, if any."""
    if values.dtype.kind == "f" and (n_nan := int((values != values).sum())):  # noqa: PLR0124 - so is NaN alone
        known = values[values == values]  # noqa: PLR0124
        return f"{n_nan} NaN" + (f" among {extent(known)}" if known.size else "")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        low, high = float(low), float(high)
    return f"{low} to {high}" if low != high else f"{low}"


class DivergedError(ValueRangeError):
    """A training whose numbers have left their dtype's arithmetic."""


class Mistakes(ConfigError):
    """Several errors, told in one line; `errors` has them."""

    def __init__(self, errors: Sequence[GpuspikeError]) -> None:
        self.errors = tuple(errors)
        told = "; ".join(f"({number}) {error}" for number, error in enumerate(errors, 1))
        super().__init__(f"{len(errors)} mistakes: {told}")


def errors_of(error: GpuspikeError) -> tuple[GpuspikeError, ...]:
    """What is told in one line, apart."""
    return error.errors if isinstance(error, Mistakes) else (error,)


def of_key(key: str, error: GpuspikeError) -> GpuspikeError:
    """The same error or errors, with the key that a user gives the value by."""
    return together(type(each)(f"{key}: {each}") for each in errors_of(error))


def of_group(group: str, names: Mapping[str, str], error: GpuspikeError) -> GpuspikeError:
    """The same error or errors, with the names of a part's values as a user gives them.

    Args:
        group: of the keys.
        names: as the part's errors have them, and without the group as a user gives them.
    """
    given = []
    for each in errors_of(error):
        text = str(each)
        for name, key in names.items():
            text = re.sub(rf"^{name}\b(?=[^:.])|(?<![\w.]){name}(?==)", f"{group}.{key}", text)
        given.append(type(each)(text))
    return together(given)


def together(errors: Iterable[GpuspikeError]) -> GpuspikeError:
    """One error of all, each told once: itself where it is alone."""
    each = [one for error in errors for one in errors_of(error)]
    told = list({str(error): error for error in each}.values())
    return told[0] if len(told) == 1 else Mistakes(told)


def check_all(checks: Iterable[Callable[[], object]]) -> None:
    """Makes all checks, and raises what they find, together.

    Raises:
        GpuspikeError: what a check raised; all, in one line, where several did.
    """
    found: list[GpuspikeError] = []
    for check in checks:
        try:
            check()
        except GpuspikeError as error:
            found.append(error)
    if found:
        raise together(found)
