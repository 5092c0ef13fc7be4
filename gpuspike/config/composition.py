"""How a command line becomes plain dataclasses: Hydra's part, for any schema.

The values stand in conf/. Below this module, `config` and the command line nobody sees Hydra or OmegaConf.
"""

from __future__ import annotations

import difflib
import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gpuspike.errors import ConfigError, DataError, GpuspikeError, together
from gpuspike.strangers import no_interpolation, yaml_text

T = TypeVar("T")

MOST_JOBS = 10_000
"""Jobs of a sweep: each is checked before the first one starts."""


def conf_folder() -> Path:
    """Where the YAML files are: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def _suffix(name: Any) -> str:
    """What a run's name adds to its folder's; one that cannot be is refused elsewhere."""
    return f"_{name}" if re.fullmatch(r"[\w.-]+", str(name or "")) else ""


OmegaConf.register_new_resolver("gpuspike.suffix", _suffix, replace=True)


def register(name: str, schema: type[Any]) -> None:
    """Makes a schema known to Hydra."""
    # Hydra copies the store, of which there is one, each time that it looks for a group's options, which is a
    # hundred times and half a second for --help. What is loaded from it is a copy in any case.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    ConfigStore.instance().store(name=name, node=schema)


def typed(cfg: Any, schema: type[T]) -> T:
    """A composed configuration, or plain values, as the dataclass of its schema, without Hydra's own node.

    Raises:
        ConfigError: a missing or mistyped value.
    """
    try:
        # As plain values, so that keys that "+" has added meet the schema again.
        values = OmegaConf.to_container(cfg, enum_to_str=True) if OmegaConf.is_config(cfg) else cfg
        assert isinstance(values, dict)
        values = {key: value for key, value in values.items() if key != "hydra"}
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error) + _hint(error, schema)) from None
    assert isinstance(config, schema)
    return config


def read_yaml(path: Path, *, plain: bool = False) -> DictConfig:
    """A YAML file that holds a mapping.

    Args:
        plain: values must not refer to others, as those of a file of somebody else.

    Raises:
        ConfigError: no such file, or another content.
    """
    try:
        cfg = OmegaConf.load(io.StringIO(yaml_text(path)))
        if plain:
            no_interpolation(OmegaConf.to_container(cfg))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, DataError) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{path} holds no configuration of a run")
    return cfg


def composed(
    overrides: Sequence[str],
    multirun: bool,
    folder: Path,
    name: str,
    schema: type[Any],
    make: Callable[[DictConfig], T],
) -> list[T]:
    """What `make` makes of each configuration that a command line composes; arguments as for `jobs`.

    Args:
        folder, name: of the primary configuration;  schema: its types.
    """
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            if not multirun and (sweep := _own_sweep(name, overrides)):
                overrides, multirun = [*overrides, *sweep], True
            # The loader knows the options that glob(*) stands for.
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            parsed = _parsed(parser, overrides, name)
            choices = [_alternatives(o) if multirun else [o.input_line or ""] for o in parsed]
            for override, alternatives in zip(parsed, choices, strict=True):
                if not alternatives:
                    raise ConfigError(f"{override.input_line} stands for no option at all")
            if (count := math.prod(len(alternatives) for alternatives in choices)) > MOST_JOBS:
                raise ConfigError(f"a sweep has at most {MOST_JOBS} jobs, got {count} or more")
            made = (_made(name, list(chosen), schema, make) for chosen in itertools.product(*choices))
            return list(made)
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error) + _hint(error, schema)) from None
    except (ValueError, TypeError, AttributeError) as error:
        # Hydra lets some mistakes through as plain errors of Python that do not say where.
        raise ConfigError(f"cannot use {' '.join(overrides)}: {one_line(error)}") from None


def _parsed(parser: OverridesParser, overrides: Sequence[str], name: str) -> list[Override]:
    """The overrides of a command line; raises ConfigError for those that are none, all of them."""
    parsed: list[Override] = []
    wrong: list[GpuspikeError] = []
    rest = list(overrides)
    while rest:
        text = rest.pop(0)
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            if "missing EQUAL" not in str(error):
                wrong.append(ConfigError(one_line(error)))
                continue
            value = rest.pop(0) if text.isidentifier() and rest and "=" not in rest[0] else ""
            wrong.append(_no_pair(text, value, _FOLDERS.get(name, "")))
    if wrong:
        raise together(wrong)
    return parsed


def _rank(override: str) -> int:
    """Where an override comes, by what its meaning hangs on: folders that are searched, groups, values."""
    key = override.lstrip("+~").split("=")[0].split("@")[0]
    if key.startswith("hydra."):
        return 0
    return 1 if "." not in key and (conf_folder() / key).is_dir() else 2


_FOLDERS = {"config": "resume", "evaluate": "run"}
"""By the name of a primary configuration, the key of a run's folder."""


def _no_pair(text: str, value: str, folder: str) -> ConfigError:
    """What is wrong with an argument without an equals sign, and what was meant perhaps.

    Args:
        value: what stands behind a key;  folder: the key of a run's folder; "": there is none.
    """
    got = f"values are given as KEY=VALUE, got {text} {value}".rstrip()
    if value:
        return ConfigError(f"{got}; did you mean {text}={value}?")
    if folder and (folder == "run" or "/" in text or Path(text).is_dir()):
        return ConfigError(f"{got}; did you mean {folder}={text}?")
    return ConfigError(got)


def _made(name: str, overrides: list[str], schema: type[Any], make: Callable[[DictConfig], T]) -> T:
    """One configuration; raises ConfigError for all overrides that cannot be, and what the others come to."""
    try:
        cfg = _compose(name, overrides)
    except (HydraException, OmegaConfBaseException) as first:
        good: list[str] = []
        wrong: list[GpuspikeError] = []
        for text in sorted(overrides, key=_rank):
            try:
                _compose(name, [*good, text])
            except (HydraException, OmegaConfBaseException) as error:
                wrong.append(ConfigError(one_line(error) + _hint(error, schema)))
            else:
                good.append(text)
        if not wrong:
            raise first
        try:
            make(_compose(name, good))
        except GpuspikeError as error:
            wrong.append(error)
        raise together(wrong) from None
    return make(cfg)


def _own_sweep(name: str, overrides: Sequence[str]) -> list[str]:
    """What the composed configuration itself sweeps over, as overrides, but for what is given."""
    try:
        hydra = compose(name, overrides=list(overrides), return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException):
        return []  # said again, with its key, where the job is composed
    if hydra.mode is None or hydra.mode.name != "MULTIRUN":
        return []
    given = {override.split("=")[0] for override in overrides}
    return [f"{key}={value}" for key, value in hydra.sweeper.params.items() if key not in given]


def _alternatives(override: Override) -> list[str]:
    if not override.is_sweep_override() or not override.is_discrete_sweep():
        return [override.input_line or ""]
    key = override.get_key_element()
    values = itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1)  # a range may have no end
    return [f"{key}={value}" for value in values]


def _compose(name: str, overrides: list[str]) -> DictConfig:
    cfg = compose(name, overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # what the folder's ${hydra:...} reads
    return cfg


_NOISE = ("full_key:", "object_type=", "reference_type=", "See https://", "Config search path:", "provider=")


_NO_LIST = re.compile(
    r"merging override (?P<key>\S+?)=(?P<value>\S+)\s+Invalid value assigned: \w+ is not a ListConfig"
)
_NO_KEY = re.compile(r"Key '(?P<key>\w+)' not in")
_NO_OPTION = re.compile(r"Could not find '(?P<group>\w+)/(?P<option>[^']*)'")


def _hint(error: Exception, schema: type[Any]) -> str:
    """What was meant perhaps, to be added to an error's words; "" where nobody knows."""
    cause = _cause(error)
    words = " ".join(f"{error} {cause}".split())
    if "hydra/launcher" in words:
        return "; pip install 'gpuspike[sweep]' has them all"
    if found := _NO_LIST.search(words):
        return f"; did you mean {found['key']}=[{found['value']}]?"
    if found := _NO_OPTION.search(words):
        return _other_option(found["group"], found["option"])
    if (found := _NO_KEY.search(words)) and is_dataclass(getattr(cause, "object_type", None)):
        return _other_key(found["key"], str(getattr(cause, "full_key", "") or ""), schema)
    return ""


def _other_key(key: str, place: str, schema: type[Any]) -> str:
    """The key that was meant perhaps, by its dotted name: one of the same group rather than of another."""
    keys = _dotted(schema)
    group = place.rpartition(".")[0]
    near = {dotted.rpartition(".")[2]: dotted for dotted in keys if dotted.rpartition(".")[0] == group}
    for known in (near, {dotted.rpartition(".")[2]: dotted for dotted in reversed(keys)}):
        initials = {"".join(word[0] for word in name.split("_")): name for name in known if "_" in name}
        close = [key if key in known else initials.get(key, "")]
        close = [name for name in close if name] or difflib.get_close_matches(key, known, 1)
        if close:
            return f"; did you mean {known[close[0]]}?"
    return ""


def _other_option(group: str, option: str) -> str:
    """The option of a group that was meant perhaps."""
    if option.endswith((".yaml", ".yml")):
        path = Path(option)
        if path.is_file() and path.parent.name == group:
            return f"; did you mean --config-dir {path.parent.parent} {group}={path.stem}?"
        return f"; a file of yours is FOLDER/{group}/{path.name}: --config-dir FOLDER {group}={path.stem}"
    options = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
    if group == "substrate":  # or by what it is priced as
        prices = {_prices_of(conf_folder() / group / f"{name}.yaml"): name for name in reversed(options)}
        if option in prices:
            return f"; did you mean {group}={prices[option]}, which is priced as {option}?"
    close = difflib.get_close_matches(option, options, 1)
    return f"; did you mean {group}={close[0]}?" if close else ""


def _prices_of(path: Path) -> str:
    return str(OmegaConf.to_container(read_yaml(path)).get("prices", ""))  # type: ignore[union-attr]


def _dotted(schema: Any) -> list[str]:
    """Keys of a configuration, those of its groups by their dotted names."""
    keys = []
    for item in fields(schema):
        made = None if item.default_factory is MISSING else item.default_factory()
        if is_dataclass(made):
            keys += [f"{item.name}.{inner.name}" for inner in fields(made)]
        else:
            keys.append(item.name)
    return keys


def _cause(error: Exception) -> Exception:
    """What OmegaConf said, where an error of Hydra's is about that."""
    cause = error.__cause__ or error.__context__
    return cause if isinstance(cause, OmegaConfBaseException) and isinstance(error, HydraException) else error


def one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's words on one line, with the keys that would have been valid."""
    cause = _cause(error)
    lines = [line.strip() for line in str(cause).splitlines()]
    if cause is not error:
        lines.insert(0, str(error).splitlines()[0].strip())
    node_type = getattr(cause, "object_type", None)
    if any(" not in " in line for line in lines) and is_dataclass(node_type):
        lines.append(f"valid keys: {', '.join(item.name for item in fields(node_type))}")
    lines = [line.rstrip(".") for line in lines if line and not line.startswith(_NOISE)]
    return "; ".join(lines).replace(":; ", ": ").replace("\t", " ")
