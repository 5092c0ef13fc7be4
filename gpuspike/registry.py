"""Losses, optimisers, distortions, data sets by their names: each a file, and a line in a registry."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Generic, TypeVar

from gpuspike.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by their names, imported when they are first asked for.

    Args:
        kind: what they are, in the singular, as errors call them.
        parts: of each name the part's module and the part's own name there, "package.module:Part".
        check: raises ConfigError for a part of a user's own that cannot be one, given its name and itself.
    """

    def __init__(
        self, kind: str, parts: Mapping[str, str], check: Callable[[str, Any], None] | None = None
    ) -> None:
        self.kind = kind
        self._check = check
        self._places = dict(parts)
        self._parts: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        """Names, in the order in which they were registered."""
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> T:
        """The part of that name.

        Raises:
            ConfigError: there is none; which there are, and which is meant perhaps.
        """
        one_of(self.kind, name, self)
        if name not in self._parts:
            module, _, part = self._places[name].partition(":")
            self._parts[name] = getattr(importlib.import_module(module), part)
        return self._parts[name]

    def add(self, name: str, part: T) -> T:
        """Registers a part of a user's own; one that is defined anew, as in a notebook, takes its place.

        Raises:
            ConfigError: the name is no identifier or another part's, or the part cannot be one.
        """
        if not name.isidentifier():
            raise ConfigError(f"the name of a {self.kind} must be an identifier, got {name!r}")
        if name in self and not _same(self._parts.get(name), part):
            raise ConfigError(f"there is a {self.kind} {name!r} already")
        if self._check is not None:
            self._check(name, part)
        if name not in self:
            added.append((self, name))
        self._places[name], self._parts[name] = "", part
        return part

    def remove(self, name: str) -> None:
        """Takes back a part that was added."""
        added.remove((self, name))
        del self._places[name], self._parts[name]


def initials(names: Iterable[str]) -> dict[str, str]:
    """By what is typed for short, lr, a name of several words."""
    return {"".join(word[:1] for word in name.split("_")): name for name in names if "_" in name}


def one_of(kind: str, name: str, known: Iterable[str]) -> str:
    """The name again, if it is known.

    Raises:
        ConfigError: it is not; which are, and which is meant perhaps.
    """
    names = list(known)
    if name not in names:
        raise ConfigError(f"there is no {kind} {name!r}; there are {', '.join(names)}{meant(name, names)}")
    return name


def meant(name: str, names: Collection[str]) -> str:
    """The end of a sentence: which of the names is meant perhaps; nothing where none is near."""
    close = difflib.get_close_matches(str(name), names, 1)
    close = close or [known for short, known in initials(names).items() if short == name]
    close = close or [known for known in names if len(str(name)) > 1 and str(name) in known]
    return f"; did you mean {close[0]}?" if close else ""


def extends(kind: str, base: type, needed: Collection[str] = ()) -> Callable[[str, Any], None]:
    """A registry's check: parts are frozen dataclasses that extend a base, each value with a default.

    Args:
        kind: of the registry.
        needed: fields that need no default.
    """

    def check(name: str, part: Any) -> None:
        if not (isinstance(part, type) and issubclass(part, base) and is_dataclass(part)):
            place = f"{base.__module__}.{base.__name__}"
            raise ConfigError(f"the {kind} {name} must be a subclass of {place}, got {part!r}")
        if missing := getattr(part, "__abstractmethods__", None):
            raise ConfigError(f"the {kind} {name} must define {', '.join(sorted(missing))}")
        if "__dataclass_params__" not in vars(part):
            raise ConfigError(f"the {kind} {name} must be a @dataclass(frozen=True), got a class that is not")
        for item in fields(part):
            if item.name not in needed and item.default is MISSING and item.default_factory is MISSING:
                raise ConfigError(f"the value {item.name} of the {kind} {name} needs a default, got none")

    return check


added: list[tuple[Registry[Any], str]] = []
"""Users' own parts in all registries, in the order in which they came."""


def _same(known: Any, part: Any) -> bool:
    """Whether a part is the known one, or the same piece of a user's source, run again."""
    if known is None or known is part:
        return known is part
    place = getattr(known, "__module__", None), getattr(known, "__qualname__", None)
    return None not in place and place == (
        getattr(part, "__module__", None),
        getattr(part, "__qualname__", None),
    )
