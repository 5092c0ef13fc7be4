"""What a run was made with."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from gpuspike.config.schema import Config
from gpuspike.store import own_data


def provenance_of(config: Config) -> dict[str, Any]:
    """Versions of the code and of what it stands on, seeds of a run, and its data if they are a user's."""
    made = provenance(config.seed, config.replicas, config.plugin)
    return made | ({"data": data} if (data := own_data.entries(config)) else {})


def provenance(seed: int, replicas: int, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Versions of the code and of what it stands on, and the seeds."""
    return {
        "gpuspike": _own_version(),
        "git": git_revision(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": metadata.version("numba"),
        "cupy": _cupy_version(),
        "plugins": list(plugins),
        "seed": seed,
        "replicas": replicas,
    }


def _own_version() -> str:
    """The package's version; that of a checkout is not known where nothing is installed."""
    try:
        return metadata.version("gpuspike")
    except metadata.PackageNotFoundError:
        return "not installed"


def _cupy_version() -> str | None:
    """CuPy's version without importing it; its wheels go by many names (cupy-cuda12x, ...)."""
    if util.find_spec("cupy") is None:
        return None
    names = metadata.packages_distributions().get("cupy", [])
    return metadata.version(names[0]) if names else "unknown"


def git_revision() -> str | None:
    """Commit of the checkout that the package runs from, "+" added where it was changed; None elsewhere."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
