"""Which values of a recipe are read with certain others alone, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

READ_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "step_size": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "waking": ("silence", ("waking",)),
    "bump_value": ("silence", ("bumping",)),
    "bump_exponential": ("silence", ("bumping",)),
    "bump_targeted": ("silence", ("bumping",)),
    "bump_replaces_step": ("silence", ("bumping",)),
    "max_silent": ("silence", ("bumping", "waking")),
    "xi_per_noise": ("match_noise", (True,)),
}
"""Of a value the one that decides, which stands in the same group of a configuration, and what it must be."""


def unread(
    names: Iterable[str], values: Mapping[str, Any]
) -> Iterator[tuple[str, str, tuple[Any, ...], Any]]:
    """Those of some values that nothing reads: each with the one that decides, what that must be, and is.

    Args:
        names: of the values that were given;  values: of the recipe, by name.
    """
    for name in dict.fromkeys(names):
        decides, wanted = READ_WITH.get(name, ("", ()))
        # A part of a user's own may have a value of such a name.
        if decides in values and (got := values[decides]) not in wanted:
            yield name, decides, wanted, got


def notes(names: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """What `unread` finds, each in a line of Python's words; arguments as for it."""
    return [
        f"{name} is read with {decides}={' or '.join(map(repr, wanted))}, got {got!r}"
        for name, decides, wanted, got in unread(names, values)
    ]
