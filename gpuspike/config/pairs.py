"""Arguments that should be KEY=VALUE and are not: a space too many, a bracket or a quote too few."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from gpuspike.config.keys import key_of
from gpuspike.errors import ConfigError

FOLDERS = {"config": "resume", "evaluate": "run"}
"""By the name of a primary configuration, the key of a run's folder."""

_KEY = re.compile(r"[\w./@+~-]+")
_SPACED = re.compile(r"\s*(?P<key>[\w./@+~-]+)(?:\s+=\s*|\s*=\s+)(?P<value>.*?)\s*", re.DOTALL)


def parsed(
    parser: OverridesParser, overrides: Sequence[str], name: str, known: Callable[[str], bool]
) -> tuple[list[Override], list[ConfigError]]:
    """The overrides of a command line, and what is wrong with arguments that are none.

    Args:
        name: of the primary configuration;  known: whether a text is a key.
    """
    good: list[Override] = []
    wrong: list[ConfigError] = []
    rest = list(overrides)
    while rest:
        text = rest.pop(0)
        if taken := _apart(text, rest, known):
            meant, count = taken
            given = " ".join([text, *rest[:count]])
            del rest[:count]
            wrong.append(
                ConfigError(
                    f"values are given as KEY=VALUE, without spaces, got {given}; did you mean {meant}?"
                )
            )
            continue
        key, (_, equals, value) = key_of(text), text.partition("=")
        if equals and key in ("hydra.launcher", "hydra.sweeper"):
            wrong.append(
                ConfigError(f"{key} is a group, given as {key.replace('.', '/')}={value}, got {text}")
            )
            continue
        try:
            good += parser.parse_overrides([text])
        except HydraException:
            wrong.append(_unread(text) if "=" in text else _no_pair(text, FOLDERS.get(name, "")))
    return good, wrong


def _apart(text: str, rest: Sequence[str], known: Callable[[str], bool]) -> tuple[str, int] | None:
    """What a pair was meant to be that spaces have torn, and how many of the next arguments belong to it."""
    following = rest[0] if rest else ""
    if _KEY.fullmatch(text):
        if following == "=" and len(rest) > 1 and "=" not in rest[1]:
            return f"{text}={rest[1]}", 2
        if following.startswith("=") and len(following) > 1:
            return text + following, 1
        if known(text) and following and "=" not in following:
            return f"{text}={following}", 1
        return None
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key.strip()):
        return None
    if value[:1] not in ("[", "{", "(") and (count := _more(value, rest)):
        return "".join([text, *rest[:count]]), count
    if key != key.rstrip() and (found := _SPACED.fullmatch(text)):
        return f"{found['key']}={found['value']}", 0
    if not value and following and "=" not in following:
        return text + following, 1
    if value.startswith("[") and value.count("[") > value.count("]"):
        for count in range(1, len(rest) + 1):
            value += rest[count - 1]
            if "=" in rest[count - 1]:
                break
            if value.count("[") == value.count("]"):
                return f"{key}={value}", count
    return None


def _more(value: str, rest: Sequence[str]) -> int:
    """How many of the next arguments go on with values between commas."""
    count = 0
    while rest[count:] and "=" not in rest[count] and (value.endswith(",") or rest[count].startswith(",")):
        value, count = rest[count], count + 1
    return count


def _no_pair(text: str, folder: str) -> ConfigError:
    """What is wrong with an argument without an equals sign, and what was meant perhaps.

    Args:
        folder: the key of a run's folder; "": there is none.
    """
    got = f"values are given as KEY=VALUE, got {text or 'an empty one'}"
    if text and folder and (folder == "run" or "/" in text or Path(text).is_dir()):
        return ConfigError(f"{got}; did you mean {folder}={text}?")
    return ConfigError(got)


def _unread(text: str) -> ConfigError:
    """What is wrong with a pair that the parser cannot read."""
    key, _, value = text.partition("=")
    got = f"got {text}"
    if not _KEY.fullmatch(key) or ".." in key:
        return ConfigError(f"values are given as KEY=VALUE, a key as GROUP.NAME, {got}")
    for opened, closed in ("[]", "{}", "()"):
        if value.count(opened) != value.count(closed):
            return ConfigError(f"{key} must have a {closed} for each {opened}, {got}")
    for quote in "'\"":
        if value.count(quote) % 2:
            return ConfigError(f"{key} must have its quotes in pairs, {got}")
    return ConfigError(
        f"{key} must be plain text, a number or a list, other characters in quotes twice, "
        f"\"{key}='...'\", {got}"
    )
