"""How a command line becomes plain dataclasses: Hydra's part, for any schema.

The values stand in conf/. Below this module, `config` and the command line nobody sees Hydra or OmegaConf.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
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

from gpuspike import plugins
from gpuspike.config.files import conf_folder, read_yaml
from gpuspike.config.hints import GROUPS, dotted, explained, listed, named, nested, one_line
from gpuspike.config.keys import key_of
from gpuspike.config.pairs import parsed
from gpuspike.errors import ConfigError, GpuspikeError, errors_of, together

T = TypeVar("T")

MOST_TOLD = 10
"""Mistakes of different jobs that are told at once."""

MOST_JOBS = 10_000
"""Jobs of a sweep: each is checked before the first one starts."""


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
        raise ConfigError(explained(error, schema)) from None
    assert isinstance(config, schema)
    listed(config)
    if wrong := [ConfigError(text) for text in nested(config)]:
        raise together(wrong)
    return config


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
            # The loader knows the options that glob(*) stands for.
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            keys = {*dotted(schema), *GROUPS}
            read, wrong = parsed(parser, overrides, name, keys.__contains__)
            if sweep := _own_sweep(name, read, multirun):
                read, multirun = [*read, *parser.parse_overrides(sweep)], True
            choices = [_alternatives(o) if multirun else [o.input_line or ""] for o in read]
            for override, alternatives in zip(read, choices, strict=True):
                if not alternatives:
                    raise ConfigError(f"{override.input_line} stands for no option at all")
            if (count := math.prod(len(alternatives) for alternatives in choices)) > MOST_JOBS:
                raise ConfigError(f"a sweep has at most {MOST_JOBS} jobs, got {count} or more")
            made = [partial(_made, name, list(c), schema, make) for c in itertools.product(*choices)]
            if wrong:
                _made(name, [alternatives[0] for alternatives in choices], schema, make, wrong)
            return _all_of(made)
    except GpuspikeError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error, schema)) from None
    except (ValueError, TypeError, AttributeError) as error:
        if told := plugins.blamed(error.__cause__ or error):
            raise told from None
        # Hydra lets some mistakes through as plain errors of Python that do not say where.
        raise ConfigError(f"cannot use {' '.join(overrides)}: {one_line(error)}") from None


def _all_of(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What all of them make; raises ConfigError for all that cannot be, each mistake once."""
    made: list[T] = []
    wrong: dict[str, GpuspikeError] = {}
    for job in jobs:
        try:
            made.append(job())
        except GpuspikeError as error:
            wrong |= {str(each): each for each in errors_of(error) if str(each) not in wrong}
        if len(wrong) >= MOST_TOLD:
            break
    if wrong:
        raise together(list(wrong.values()))
    return made


def _rank(override: str) -> int:
    """Where an override comes, by what its meaning hangs on: folders that are searched, groups, values."""
    key = key_of(override)
    if key.startswith("hydra."):
        return 0
    return 1 if "." not in key and (conf_folder() / key).is_dir() else 2


def _made(
    name: str,
    overrides: list[str],
    schema: type[Any],
    make: Callable[[DictConfig], T],
    unread: Sequence[GpuspikeError] = (),
) -> T:
    """One configuration; raises ConfigError for all overrides that cannot be, and what the others come to.

    Args:
        unread: what is wrong with arguments that are not among the overrides.
    """
    wrong, good = list(unread), overrides
    try:
        cfg = _compose(name, overrides)
    except _REFUSED as first:
        good = []
        for text in sorted(overrides, key=_rank):
            try:
                cfg = _compose(name, [*good, text])
            except _REFUSED as error:
                wrong.append(ConfigError(explained(error, schema, text)))
            else:
                good.append(text)
        if not wrong:
            raise first
        cfg = _compose(name, good)
    if not wrong:
        return make(cfg)
    try:
        make(cfg)
    except GpuspikeError as error:
        wrong += [each for each in errors_of(error) if _certain(each, good, schema)]
    raise together(wrong) from None


_REFUSED = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, OverflowError)
"""Hydra lets some mistakes through as plain errors of Python."""


def _certain(error: GpuspikeError, good: Sequence[str], schema: type[Any]) -> bool:
    """Whether a mistake is one whatever the refused ones were meant to be: of given values alone."""
    about = named(str(error), schema)
    return bool(about) and about <= set(map(key_of, good))


def _own_sweep(name: str, read: Sequence[Override], multirun: bool) -> list[str]:
    """What the composed configuration itself sweeps over, as overrides, but for what is given."""
    one_each = [each for each in read if not (multirun and each.is_sweep_override())]
    try:
        hydra = compose(name, [each.input_line or "" for each in one_each], return_hydra_config=True).hydra
    except _REFUSED:
        return []  # said again, with its key, where the job is composed
    if not multirun and (hydra.mode is None or hydra.mode.name != "MULTIRUN"):
        return []
    given = {each.get_key_element() for each in read}
    return [
        f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items() if key not in given
    ]


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


def beside_chip(cfg: DictConfig) -> DictConfig:
    """What the running Hydra job composes, with prices that a chip's file names found beside it."""
    hydra, prices = HydraConfig.get(), str(cfg.substrate.prices or "")
    if any(key_of(text) == "substrate.prices" for text in hydra.overrides.task):
        return cfg
    for source in hydra.runtime.config_sources:
        file = Path(source.path, "substrate", f"{hydra.runtime.choices.get('substrate')}.yaml")
        if file.is_file():  # the first one is the one that was composed
            if read_yaml(file, plain=True).get("prices") == prices:
                cfg.substrate.prices = beside(prices, file)
            break
    return cfg


def beside(prices: str, file: Path) -> str:
    """A file of prices that a chip's file names: beside that, where there is one, else as it is named."""
    near = file.parent / prices
    return str(near) if prices.endswith((".yaml", ".yml")) and near.is_file() else prices
