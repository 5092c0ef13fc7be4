"""Where the YAML files of the configuration are, and how one is read."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gpuspike.errors import ConfigError, DataError
from gpuspike.strangers import no_interpolation, yaml_text


def conf_folder() -> Path:
    """Where the YAML files are: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


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


def not_a_run(folder: Path) -> str:
    """Why a folder is not that of a run, in words, and which is meant perhaps; "" for a folder."""
    if folder.is_dir():
        return ""
    inside = [parent for parent in folder.parents if (parent / "config.yaml").is_file()]
    hint = f"; did you mean its folder, {inside[0]}?" if inside else ""
    return f"{'which is a file' if folder.is_file() else 'which does not exist'}{hint}"


def latest_within(folder: Path) -> str:
    """What to say of a folder that is not a run's, but holds runs: the last one; "" where it holds none."""
    found = [path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/config.yaml")]
    with suppress(OSError):
        last = max(found, key=lambda run: run.stat().st_mtime, default=None)
        return f"; did you mean the latest run in it, {last}?" if last else ""
    return ""
