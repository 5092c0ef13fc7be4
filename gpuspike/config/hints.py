"""What is said of an argument or a value that Hydra or OmegaConf refuse: expected, got, and meant perhaps."""

from __future__ import annotations

import difflib
import enum
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException, ValidationError

from gpuspike.config.files import conf_folder, read_yaml
from gpuspike.config.keys import key_of
from gpuspike.errors import ConfigError
from gpuspike.kinds import is_number
from gpuspike.registry import initials

GROUPS = ("experiment", "dataset", "model", "optimizer", "training", "substrate", "tracking")
"""Of a run: what is given as GROUP=NAME."""

_NOISE = ("full_key:", "object_type=", "reference_type=", "See https://", "Config search path:", "provider=")

_NO_LIST = re.compile(
    r"merging override (?P<key>\S+?)=(?P<value>\S+)\s+Invalid value assigned: \w+ is not a ListConfig"
)
_NO_KEY = re.compile(r"Key '(?P<key>\w+)' not in")
_NO_OPTION = re.compile(r"Could not find '(?P<group>\w+)/(?P<option>[^']*)'")
_NO_GROUP = re.compile(r"Could not override '(?P<key>[^']+)'")
_INTO_VALUE = re.compile(r"merging override (?P<key>[\w]+)\.\S+=")
_MISSING = re.compile(r"has missing mandatory value: (?P<key>[\w.]+)")
_VALUE = re.compile(r"alue '(?P<value>.*?)'(?: \(\w+\)| of type| for field|,| is)")


def explained(error: Exception, schema: type[Any], text: str = "") -> str:
    """One line about what was expected, what was got, and what was meant perhaps.

    Args:
        text: the override that is refused, where it is known.
    """
    cause = cause_of(error)
    words = " ".join(f"{error} {cause}".split())
    key, equals, value = text.lstrip("+~").partition("=")
    if "hydra/launcher" in words:
        return one_line(error) + "; pip install 'gpuspike[sweep]' has them all"
    if found := _NO_OPTION.search(words):
        return _no_option(error, found["group"], found["option"])
    if (found := _NO_KEY.search(words)) and is_dataclass(kind := getattr(cause, "object_type", None)):
        place = str(getattr(cause, "full_key", "") or found["key"])
        valid = ", ".join([*_experiment(kind), *(item.name for item in fields(kind))])
        hint = (_other_group(key, value, schema) if equals else "") or _other_key(found["key"], place, schema)
        return f"there is no key {place}; valid keys: {valid}{hint}"
    found = _NO_GROUP.search(words)  # there are such files, but no such group of a run
    group = found["key"] if found else key if equals and "is not a subclass of" in words else ""
    if keys := ", ".join(name for name in dotted(schema) if group and name.startswith(f"{group}.")):
        return f"{group} is no key, {keys} is, got {text or group}{_other_group(group, value, schema)}"
    if found:
        hint = _other_group(found["key"], value, schema) or _other_key(found["key"], found["key"], schema)
        valid = ", ".join([*_experiment(schema), *(item.name for item in fields(schema))])
        return f"there is no key {found['key']}; valid keys: {valid}{hint}"
    if (found := _INTO_VALUE.search(words)) and found["key"] in dotted(schema):
        expected = _expected(schema, found["key"])
        if found["key"] == "substrate":  # elsewhere a group
            return (
                f"{text or found[0]} changes a value, which substrate=NAME has no room for here: a YAML "
                "file of yours has all of them, substrate=FILE.yaml"
            )
        return f"{found['key']} must be {expected}, which has no keys here, got {text or found[0]}"
    if found := _MISSING.search(words):
        return f"{found['key']} must be given, got none"
    if isinstance(cause, (ValidationError, ConfigTypeError)):
        full = key if equals else str(getattr(cause, "full_key", "") or "").partition("[")[0]
        if (expected := _expected(schema, full)) and (equals or (found := _VALUE.search(words))):
            got = value if equals else found["value"]  # type: ignore[index]
            hint = ""
            if (found := _NO_LIST.search(words)) and _fits(found["value"], expected):
                hint = f"; did you mean {found['key']}=[{found['value']}]?"
            elif "number" in expected and "list" not in expected and got.lower() in _INFINITY:
                hint = f"; did you mean {full}=inf?"
            elif _SECONDS.fullmatch(got) and full.startswith(("dataset.", "substrate.", "training.")):
                hint = "; times are plain numbers, of tau_syn"
            return f"{full} must be {expected}, got {'nothing' if got in ('', 'None') else got}{hint}"
    if equals and isinstance(cause, OverflowError):
        return f"{key} must be a number below 1.8e308, got {value:.12}... of {len(value)} digits"
    if equals and "Ambiguous value" in words:
        meant = f"did you mean {key}=[{value}]?" if _expected(schema, key).startswith("a list") else ""
        meant = meant or f"-m {text} is a sweep, a job for each; \"{key}='{value}'\" is one text"
        return f"{key} must be one value, got {value}; {meant}"
    if key in GROUPS and equals and (conf_folder() / key).is_dir() and "must be a string or a list" in words:
        return f"{key} must be one of {', '.join(options(key))}, got {value}"
    return one_line(error)


def options(group: str, folder: str = "") -> list[str]:
    """Names of a group's files, or of those in one of its folders: FOLDER/NAME."""
    place = conf_folder() / group
    found = (place / folder).glob("*.yaml")
    return sorted(path.relative_to(place).with_suffix("").as_posix() for path in found if path.stem != BASE)


def folders(group: str) -> list[str]:
    """Folders of a group's files."""
    return sorted(path.name for path in (conf_folder() / group).glob("*/"))


BASE = "base"
"""The file of a folder that is there for the others of it."""


def not_of(text: str, own: Mapping[str, str], schema: Any) -> ConfigError | None:
    """That a command has no such key, and which of its own was meant perhaps; None: a run's was meant.

    Args:
        text: KEY=VALUE.
        own: keys of the command that are no run's, by what a user may type.
    """
    key = key_of(text)
    first = key.partition(".")[0]
    known = {*GROUPS, "hydra", *(item.name for item in fields(schema))}
    if first in known or first.partition("/")[0] in known:
        return None
    mine = list(dict.fromkeys(own.values()))
    close = difflib.get_close_matches(key, own, 1, 0.75)
    if not close and (_other_key(key, key, schema) or difflib.get_close_matches(first, known, 1)):
        return None  # a run's key was meant, which is told with its own keys
    hint = f"; did you mean {own[close[0]]}?" if close else ""
    return ConfigError(f"there is no key {key}; valid keys: {', '.join(mine)}, and those of a run{hint}")


def _experiment(kind: Any) -> list[str]:
    """The group that is no key of a run's configuration, and comes first on its command line."""
    return ["experiment"] if "model" in {item.name for item in fields(kind)} else []


def dotted(schema: Any) -> list[str]:
    """Keys of a configuration, those of its groups by their dotted names."""
    return list(_types(schema))


def named(text: str, schema: Any) -> set[str]:
    """The keys that a message speaks of."""
    found = set()
    for key in dotted(schema):
        plain = rf"(?<![\w.]){re.escape(key)}(?![\w.])"
        if re.search(plain if "." in key else rf"^{re.escape(key)}\b|{plain}(?==)", text):
            found.add(key)
    return found


def _types(schema: Any) -> dict[str, Any]:
    """Of each key its type."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(schema)
    for item in fields(schema):
        made = None if item.default_factory is MISSING else item.default_factory()
        if is_dataclass(made):
            inner = typing.get_type_hints(type(made))
            inner |= {each.name: list[float] for each in fields(made) if ONE_OR_MANY in each.metadata}
            found |= {f"{item.name}.{each.name}": inner[each.name] for each in fields(made)}
        else:
            found[item.name] = hints[item.name]
    return found


def _expected(schema: Any, key: str) -> str:
    """What a key takes, in words; "" for one that is none."""
    hint = _types(schema).get(key)
    return "" if hint is None else _words(hint)


_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", Any: "a value"}
_SECONDS = re.compile(r"[-+\d.]+(e[-+]?\d+)? ?[munp\u00b5\u03bc]?s")
_INFINITY = (".inf", "infty", "infinite", "infinity", "oo", "\u221e")
"""What is typed for what YAML calls .inf and Hydra inf."""

_NUMBERS = {"a list of integers": int, "a list of numbers": float}


def _fits(value: str, expected: str) -> bool:
    """Whether a list of a value is what is expected, as far as that is told by its text."""
    try:
        _NUMBERS.get(expected.removesuffix(" or null"), str)(value)
    except ValueError:
        return False
    return True


_MANY = {int: "integers", float: "numbers", str: "texts", bool: "true or false", Any: "values"}


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join([*(_words(each) for each in inner if each is not type(None)), "null"])
    if origin is list:
        if inner[0] == list[Any]:  # that of `model.bias_times`, whose numbers may be whole
            return "a list of lists of numbers"
        if typing.get_origin(inner[0]) is list:
            return f"a list of {_words(inner[0]).replace('a list', 'lists', 1)}"
        return f"a list of {_MANY.get(inner[0], 'mappings')}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"one of {', '.join(each.name for each in hint)}"
    return _KINDS.get(hint, "a mapping")


def texts(values: Mapping[str, Any], schema: type[Any]) -> Iterable[str]:
    """What is wrong with texts in the place of numbers, which OmegaConf would read as a file's."""
    hints = typing.get_type_hints(schema)
    for key, value in values.items():
        kinds = typing.get_args(hints[key]) or (hints[key],)
        if isinstance(value, str) and {int, float, bool} & set(kinds):
            yield f"{key} must be {_words(hints[key])}, got {value!r}"


ONE_OR_MANY = "one or many"
"""In the metadata of a field: it takes a number, for one of it, or a list of numbers."""


def listed(config: Any) -> None:
    """Makes one number a list of it where a list of numbers is taken, and whole numbers floats there."""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            listed(value)
        elif ONE_OR_MANY in item.metadata:
            many = [_number(each) for each in (value if isinstance(value, list) else [value])]
            if all(is_number(each) for each in many):
                setattr(config, item.name, [float(each) for each in many])


def _number(value: Any) -> Any:
    """A text that is a number as one: a run's own configuration has inf as such."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def nested(config: Any, place: str = "") -> Iterable[str]:
    """What is wrong with lists that hold something else than they should, which OmegaConf lets through."""
    hints = typing.get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        if is_dataclass(value):
            yield from nested(value, f"{place}{item.name}.")
        elif ONE_OR_MANY in item.metadata:
            if not isinstance(value, list) or not all(is_number(each) for each in value):
                got = "nothing" if value is None else repr(value)
                yield f"{place}{item.name} must be a number or a list of numbers, got {got}"
        elif (
            isinstance(value, list)
            and hint is not Any
            and "list[list" not in str(hint)
            and "list[dict" not in str(hint)
        ):
            if "list[typing.Any" not in str(hint) and any(isinstance(each, (list, dict)) for each in value):
                yield f"{place}{item.name} must be {_words(hint)}, got {value}"


def _other_group(key: str, value: str, schema: Any) -> str:
    """The group that was meant perhaps, alone or before one of its keys."""
    first, dot, rest = key.partition(".")
    own = {item.name for item in fields(schema)}
    if (elsewhere := _ELSEWHERE.get(key)) and "model" in own:
        return f"; {key} is {elsewhere}'s"
    if "run" in own and first in GROUPS:
        return f"; {first} is the run's own, gpuspike-train trains another"
    if "model" not in own:
        return ""
    for group in difflib.get_close_matches(first, GROUPS, 1):
        if (not dot and value in {*options(group)} | {""}) or (not dot and first != group):
            return f"; did you mean {group}={value or 'NAME'}?"
        if f"{group}.{rest}" in dotted(schema) and first != group:
            return f"; did you mean {group}.{rest}?"
    return ""


def _other_key(key: str, place: str, schema: type[Any]) -> str:
    """The key that was meant perhaps, by its dotted name: one of the same group rather than of another."""
    keys = dotted(schema)
    group = place.rpartition(".")[0]
    near = {name.rpartition(".")[2]: name for name in keys if name.rpartition(".")[0] == group}
    everywhere = {name.rpartition(".")[2]: name for name in reversed(keys)}
    for known in (everywhere,) if key in everywhere else (near, everywhere):
        close = [key if key in known else initials(known).get(key, "")]
        close = [name for name in close if name] or difflib.get_close_matches(key, known, 1)
        if close:
            return f"; did you mean {known[close[0]]}?"
    return ""


def _no_option(error: Exception, group: str, option: str) -> str:
    """That a group has no such option, and which was meant perhaps."""
    found = re.search(
        r"Available options in '[^']*':(?P<names>.*?)(?:Config search path|$)", str(error), re.S
    )
    names = ", ".join(found["names"].split()) if found else ", ".join(options(group))
    if option and (inside := options(group, option)):
        return f"{group}={option} is a folder; there are {', '.join(inside)}"
    if (place := option.partition("/")[0]) in folders(group):
        names = ", ".join(options(group, place))
    own = ", or yours with plugin=FILE.py" if group in ("dataset", "optimizer") else ""
    own = ", or yours with --config-dir FOLDER" if group == "substrate" else own
    return f"there is no {group}={option or QUOTES}; there are {names}{own}{_other_option(group, option)}"


_ELSEWHERE = {"run": "gpuspike-evaluate", "chips": "gpuspike-evaluate", "split": "gpuspike-evaluate"}
"""Keys of other commands, by which a run's are not meant."""

QUOTES = "''"
"""How no text is shown."""


def _other_option(group: str, option: str) -> str:
    """The option of a group that was meant perhaps."""
    if option.endswith((".yaml", ".yml")):
        path = Path(option)
        if path.is_file() and path.parent.name == group:
            return f"; did you mean --config-dir {path.parent.parent} {group}={path.stem}?"
        return f"; a file of yours is FOLDER/{group}/{path.name}: --config-dir FOLDER {group}={path.stem}"
    known = options(group)
    if group != "experiment" and option in options("experiment"):
        return f"; did you mean experiment={option}?"
    if group == "substrate" and (near := priced_as(option)):
        return f"; did you mean {group}={near}, which is priced as {option}?"
    inside = [name for folder in folders(group) for name in options(group, folder)]
    close = difflib.get_close_matches(option, [*known, *inside], 1)
    if not close:  # or one of a folder, by its own name
        own = {name.rpartition("/")[2]: name for name in inside}
        close = [own[name] for name in difflib.get_close_matches(option, own, 1)]
    return f"; did you mean {group}={close[0]}?" if close else ""


def priced_as(prices: str) -> str:
    """The chip that is priced so; "" for none."""
    known = {_prices_of(conf_folder() / "substrate" / f"{n}.yaml"): n for n in reversed(options("substrate"))}
    return known.get(prices, "")


def _prices_of(path: Path) -> str:
    return str(OmegaConf.to_container(read_yaml(path)).get("prices", ""))  # type: ignore[union-attr]


def cause_of(error: Exception) -> Exception:
    """What OmegaConf said, where an error of Hydra's is about that."""
    cause = error.__cause__ or error.__context__
    return cause if isinstance(cause, OmegaConfBaseException) and isinstance(error, HydraException) else error


def one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's words on one line, with the keys that would have been valid."""
    cause = cause_of(error)
    lines = [line.strip() for line in str(cause).splitlines()]
    if cause is not error:
        lines.insert(0, str(error).splitlines()[0].strip())
    node_type = getattr(cause, "object_type", None)
    if any(" not in " in line for line in lines) and is_dataclass(node_type):
        lines.append(f"valid keys: {', '.join(item.name for item in fields(node_type))}")
    lines = [line.rstrip(".") for line in lines if line and not line.startswith(_NOISE)]
    return "; ".join(lines).replace(":; ", ": ").replace("\t", " ")
