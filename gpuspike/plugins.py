"""A user's own parts: Python files named on the command line, which register losses, data sets and the like.

Only who starts a command, or calls `load`, decides what is imported: a configuration says which files a run
used, with a digest of each, and is refused until these are given.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuspike import registry
from gpuspike.errors import ConfigError, together

KEY = "plugin"
"""Of the configuration, and of the command line."""

TRACEBACK = "GPUSPIKE_TRACEBACK"
"""Of the environment: where a plug-in fails, its author is shown the whole traceback."""

ANY = "any"
"""In the place of a digest on a command line: go on with a run that used another version of the file."""

_ENTRY = re.compile(r"(?P<path>.+?)(@(?P<digest>[0-9a-f]{16}|any))?", re.DOTALL)


class NotGivenError(ConfigError):
    """A configuration needs a plug-in that nobody has given, or another version of one."""


class FailedError(ConfigError):
    """A plug-in has failed while it ran."""


@dataclass(frozen=True)
class Plugin:
    """A file of a user's that has been imported.

    Attributes:
        path: as it was given.
        digest: 16 hexadecimal digits of the sha256 of its source.
        parts: what it registered, as (registry, name).
        module: what came of it.
        any_version: stands for another version of itself in runs that used that.
    """

    path: str
    digest: str
    parts: tuple[tuple[registry.Registry[Any], str], ...]
    module: types.ModuleType
    any_version: bool = False

    @property
    def entry(self) -> str:
        """How a configuration names it."""
        return f"{self.path}@{self.digest}"


_loaded: dict[str, Plugin] = {}  # by resolved path


def loaded() -> list[Plugin]:
    """The files that this process has imported, in their order."""
    return list(_loaded.values())


def load(entry: str | Path, folder: Path | None = None) -> Plugin:
    """Imports a file that registers parts; once, unless its source has changed.

    The module's name carries the digest of the source, so that what is compiled and cached for one version is
    never taken for another. Other files of its folder are not found from it.

    Args:
        entry: the file's path; behind it may stand @ and the digest that its source must have.
        folder: where a relative path starts.

    Raises:
        ConfigError: no such file, another digest, an error in it, or nothing registered.
    """
    name, digest = _split(str(entry))
    path = ((folder or Path()) / name).absolute()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the plug-in {name}: {error.strerror or error}") from None
    found = hashlib.sha256(source).hexdigest()[:16]
    if digest not in (None, ANY, found):
        raise ConfigError(f"the plug-in {name} must have the digest {digest}, got {found}")
    key = str(path.resolve())
    before = _loaded.get(key)
    if before is not None and before.digest == found:
        _loaded[key] = replace(before, path=name, any_version=before.any_version or digest == ANY)
        return _loaded[key]
    if before is not None:  # edited since
        _forget(key, before)
    _loaded[key] = _imported(name, path, source, found, digest == ANY)
    return _loaded[key]


def blamed(error: BaseException) -> FailedError | None:
    """That a plug-in has failed while it ran, and where; None where the error is not one of its own.

    Prints the whole traceback for an author who has asked for it, see TRACEBACK.
    """
    files, trace = set(), error.__traceback__
    while trace is not None:
        files.add(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    for plugin in loaded():
        if (place := str(plugin.module.__file__)) in files:
            if os.environ.get(TRACEBACK):
                traceback.print_exception(error)
            return FailedError(f"the plug-in {plugin.path} fails: {_where(error, Path(place))}")
    return None


def forget_all() -> None:
    """Takes back all parts of all files, as if none had been imported."""
    for key, plugin in list(_loaded.items()):
        _forget(key, plugin)


def given(arguments: Sequence[str]) -> list[str]:
    """Imports the files that a command line names, plugin=FILE or plugin=[FILE,FILE].

    Returns:
        The arguments, in which the files stand as a configuration has them: a list, with digests.

    Raises:
        ConfigError: as `load`, of all files that cannot be used.
    """
    result, wrong = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key != KEY or not equals:
            result.append(argument)
            continue
        entries = []
        for name in files(value):
            try:
                entries.append(load(name).entry.replace('"', r"\""))
            except ConfigError as error:
                wrong.append(error)
        result.append(KEY + "=[" + ",".join(f'"{entry}"' for entry in entries) + "]")
    if wrong:
        raise together(wrong)
    return result


def require(entries: Iterable[Any], who: str = "the run used") -> list[str]:
    """Refuses a configuration whose parts are in files that nobody has given.

    Args:
        entries: of the configuration, as `Plugin.entry` has them; without a digest any version will do.
        who: needs them, in words.

    Returns:
        The entries of the files that were given.

    Raises:
        NotGivenError: which files are missing or of another version, and how to give all of them.
    """
    found, lacking, asked, others = [], [], [], False
    for entry in entries:
        name, digest = _split(str(entry))
        same = [plugin for plugin in loaded() if Path(plugin.path).name == Path(name).name]
        fitting = [plugin for plugin in loaded() if plugin.digest == digest]
        fitting += [plugin for plugin in same if plugin.any_version or digest is None]
        if fitting:
            found.append(fitting[0].entry)
            asked.append(fitting[0].path + (f"@{ANY}" if digest not in (None, fitting[0].digest) else ""))
        elif same:
            lacking.append(f"{name} with the digest {digest}, got {same[-1].digest}")
            asked.append(f"{same[-1].path}@{ANY}")
            others = True
        else:
            lacking.append(name + (f" (digest {digest})" if digest else ""))
            asked.append(name)
    if lacking:
        one = len(lacking) == 1
        told = f"{who} the plug-in{'' if one else 's'} {', '.join(lacking)}"
        taken = asked[0] if len(asked) == 1 else f"[{','.join(asked)}]"
        if others:
            raise NotGivenError(f"{told}; {KEY}={taken} takes {'this one' if one else 'these'} all the same")
        raise NotGivenError(f"{told}: give {'it' if one else 'them'} with {KEY}={taken}")
    return found


def _split(entry: str) -> tuple[str, str | None]:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ConfigError(f"{KEY} must be a Python file, got {entry!r}")
    return match["path"], match["digest"]


def files(value: str) -> list[str]:
    """Files of a command line's value: one, or a list, each perhaps in quotes.

    Raises:
        ConfigError: no file.
    """
    inside = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    names = re.findall(r'\s*("(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[^,]+?)\s*(?:,|$)', inside)
    plain = [re.sub(r"\\([\"'])", r"\1", name[1:-1]) if name[0] in "\"'" else name for name in names]
    if not plain or not all(plain):
        raise ConfigError(f"{KEY} must be a Python file or a list of them, got {KEY}={value}")
    return plain


def _imported(name: str, path: Path, source: bytes, digest: str, any_version: bool) -> Plugin:
    stem = re.sub(r"\W", "_", path.stem)
    module = types.ModuleType(f"gpuspike_plugin_{stem}_{digest}")
    module.__file__ = str(path)
    first = len(registry.added)
    sys.modules[module.__name__] = module
    try:
        # Not by an import, whose cached bytecode may be that of a source written in the same second.
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
        if len(registry.added) == first:
            raise ConfigError("it registers no part, with DATASETS.add(name, part) for example")
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        for parts, part in registry.added[first:]:
            parts.remove(part)
        raise ConfigError(f"cannot use the plug-in {name}: {_where(error, path)}") from error
    return Plugin(name, digest, tuple(registry.added[first:]), module, any_version)


def _forget(key: str, plugin: Plugin) -> None:
    for parts, name in plugin.parts:
        parts.remove(name)
    sys.modules.pop(plugin.module.__name__, None)
    del _loaded[key]


def _where(error: BaseException, path: Path) -> str:
    """An error on one line, with the line of the file that it comes from."""
    words = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{error.msg}, line {error.lineno}"
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return f"{kind}{words}" + (f", line {lines[-1]}" if lines else "")
