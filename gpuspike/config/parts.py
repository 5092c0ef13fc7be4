"""Values of parts that go by a name: each part declares its own, and a group's schema is all of them."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpuspike.config.files import conf_folder, read_yaml
from gpuspike.config.hints import ONE_OR_MANY, one_line
from gpuspike.errors import ConfigError
from gpuspike.registry import Registry, one_of

T = TypeVar("T")


def group(base: type[T], parts: Registry[Any], kind: type | None = None) -> type[T]:
    """The schema of a group: the values that stand in its base, and those that the parts declare.

    Args:
        parts: dataclasses; of their fields those count that the base does not have.
        kind: a dataclass that all parts extend, whose fields are not a user's to set.

    Raises:
        ConfigError: parts that disagree about a value, or a value of a type that a configuration cannot have.
    """
    left_out = None if kind is None else tuple(item.name for item in fields(kind))
    return _group(base, parts.kind, tuple((name, parts[name]) for name in parts), left_out)


@functools.lru_cache(maxsize=32)
def _group(base: Any, kind: str, parts: tuple[tuple[str, Any], ...], left_out: tuple[str, ...] | None) -> Any:
    fixed = {*(left_out or ()), *(item.name for item in fields(base))}
    found: dict[str, tuple[str, Any, Field[Any]]] = {}
    for name, part in parts:
        hints = typing.get_type_hints(part)
        for item in fields(part):
            if item.name in fixed:
                if (
                    left_out is not None and item.name not in left_out
                ):  # a value of the group's own, which says something else
                    raise ConfigError(
                        f"the value {item.name} of the {kind} {name} must have another name: it is taken"
                    )
                continue
            first, hint, known = found.setdefault(item.name, (name, hints[item.name], item))
            if (hint, _default(known)) != (hints[item.name], _default(item)):
                raise ConfigError(
                    f"the value {item.name} of the {kind} {name} must have another name: the {kind} {first} "
                    f"has it with the default {_default(known)!r}, not {_default(item)!r}"
                )
    own = []
    for name, (_, hint, item) in found.items():
        # OmegaConf has no type for a number or a list of them.
        hint, about = (Any, {ONE_OR_MANY: True}) if hint == tuple[float, ...] else (hint, {})
        if item.default is not MISSING:
            own.append((name, hint, field(default=item.default, metadata=about)))
        else:
            own.append((name, hint, field(default_factory=item.default_factory, metadata=about)))  # type: ignore[arg-type]
    for name, hint, value in own:
        try:
            OmegaConf.structured(make_dataclass("Value", [(name, hint, value)]))
        except OmegaConfBaseException as error:
            raise ConfigError(f"the value {name} of the {kind} {found[name][0]}: {one_line(error)}") from None
    return make_dataclass(base.__name__, own, bases=(base,))


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def own_defaults(config: Any) -> dict[str, Any]:
    """Defaults of the values that parts have brought to a configuration's groups, by dotted name."""
    result = {}
    for item in fields(config):
        extended = type(getattr(config, item.name))
        base = extended.__bases__[0]
        if is_dataclass(base):
            fixed = {value.name for value in fields(base)}
            own = {value.name: _default(value) for value in fields(extended) if value.name not in fixed}
            result |= {f"{item.name}.{name}": value for name, value in own.items()}
    return result


_offered: set[tuple[str, str]] = set()
"""Options that are in Hydra's store, by group and name."""


def offer(folder: str, parts: Registry[Any], more: Mapping[str, Any]) -> None:
    """Lets a command line choose parts that have no YAML file: a group's option with the part's own defaults.

    Args:
        folder: the group.
        more: defaults of values that the parts do not have.
    """
    store = ConfigStore.instance()
    for name in [own for group, own in _offered if group == folder and own not in parts]:
        _offered.remove((folder, name))  # of a plug-in that is gone
        store.repo[folder].pop(f"{name}.yaml", None)
    for name in parts:
        if not _file(folder, name).is_file():
            store.store(group=folder, name=name, node=_own_option(name, parts[name], more))
            _offered.add((folder, name))


def option(folder: str, name: str, parts: Registry[Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group's option: those of its YAML file, or of the part that has none; as for `offer`.

    Raises:
        ConfigError: neither is there.
    """
    files = sorted(path.stem for path in (conf_folder() / folder).glob("*.yaml"))
    one_of(parts.kind, name, dict.fromkeys([*files, *parts]))
    if name not in files:
        return _own_option(name, parts[name], more)
    return dict(OmegaConf.to_container(read_yaml(_file(folder, name))))  # type: ignore[arg-type]


def _file(folder: str, name: str) -> Path:
    return conf_folder() / folder / f"{name}.yaml"


def _own_option(name: str, part: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    own = {item.name: _default(item) for item in fields(part)}
    return {"name": name, **more, **{key: value for key, value in own.items() if value is not MISSING}}
