"""Arguments KEY=VALUE by their keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OVERRIDE = re.compile(r"\+{0,2}(hydra/)?[\w.]+(@[\w.:]+)?=", re.ASCII)
"""What an argument begins with that sets a value; a folder may have an equals sign too."""


def key_of(override: str) -> str:
    """Which key or group an override sets: training.epochs of +training.epochs=3."""
    return override.split("=", 1)[0].strip().lstrip("+~").split("@")[0]


def twice(arguments: Sequence[str]) -> list[str]:
    """What is to be said of keys that a command line sets more than once, of which the last counts."""
    given: dict[str, list[str]] = {}
    for text in filter(_OVERRIDE.match, arguments):
        given.setdefault(key_of(text), []).append(text.partition("=")[2])
    return [
        f"{key} is given {'twice' if len(values) == 2 else f'{len(values)} times'}; "
        f"the last, {values[-1] or 'without a value'}, counts"
        for key, values in given.items()
        if len(values) > 1
    ]
