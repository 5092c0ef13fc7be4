"""Which configurations are the same: value by value, and as a short name for a whole one."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gpuspike.config.parts import own_defaults
from gpuspike.config.schema import Config, ModelConfig, TrainingConfig
from gpuspike.datasets import DATASETS, content
from gpuspike.training.augmentation import WARPS


def to_values(config: Config) -> dict[str, Any]:
    """The configuration as values that JSON knows; numbers that are not finite as text."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.value if isinstance(value, enum.Enum) else value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings; lists are values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def within(name: str, scopes: Sequence[str]) -> bool:
    """Whether a dotted name is one of some names, or inside of one."""
    return any(name == scope or name.startswith(scope + ".") for scope in scopes)


def differences(old: Config, new: Config, leave_out: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Old and new value of everything that differs, by dotted name."""
    before, after = dict(flat(to_values(old))), dict(flat(to_values(new)))
    return {
        name: (before[name], after[name])
        for name in before
        if before[name] != after[name] and not within(name, leave_out)
    }


_FIRST = {
    "dataset": "image_size path",
    "optimizer": "beta1 beta2 epsilon momentum",
    "training": "xi alpha beta t_correct t_wrong",
    "substrate": "weight_max weight_bits weight_lsb gain_std dead_synapses stuck_synapses dead_neurons "
    "threshold_shift threshold_std tau_mem_shift tau_mem_std tau_syn_shift tau_syn_std input_jitter "
    "lost_inputs threshold_noise spike_jitter lost_spikes time_grid trial_end",
}
_ALWAYS = {f"{group}.{name}" for group, names in _FIRST.items() for name in names.split()}
"""Values of parts that count whatever they are: by them, sweeps that were begun before know their jobs."""


def fingerprint(
    config: Config, leave_out: Sequence[str] = ("name", "resume", "tracking"), *, data: bool = True
) -> str:
    """16 hexadecimal digits that two configurations share if they agree in all but what is left out.

    Values that parts declare do not count where they are left as they are: one more part in the package, or
    in a plug-in, then changes no run's name. Nor do the devices that share the replicas.

    Args:
        data: files of a user's own count by what they hold, too: other content gives other results.
    """
    unset = {name: _plain(value) for name, value in own_defaults(config).items() if name not in _ALWAYS}
    unset |= {"plugin": [], "model.trained": [], "model.layers": []}
    unset |= {f"training.{key}": getattr(TrainingConfig, key) for key in WARPS}
    unset |= {"training.silence": "bumping", "training.waking": 1.0, "training.match_noise": False}
    unset |= {"training.trials": 1, "dataset.opposites": False}
    unset |= {"model.fires": None, "model.spikes_at": None}
    unset |= {"start": None, "model.frozen": False, "substrate.population": 0}
    unset |= {f"model.{f.name}": f.default for f in fields(ModelConfig) if f.name.startswith("delay")}
    values = {
        name: value
        for name, value in flat(to_values(config))
        if not within(name, (*leave_out, "devices")) and not (name in unset and unset[name] == value)
    }
    for name in ("substrate.prices", *(f"dataset.{file}" for file in DATASETS[config.dataset.name].files)):
        values[name] = _from_here(values[name])
    if data:
        held = content.digests(config.dataset.name, vars(config.dataset))
        values |= {f"dataset.{name}@": digest for name, digest in held.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _from_here(value: str) -> str:
    """A path as it is typed: from the folder that one is in, if it lies in there; sweeps were begun so."""
    path = Path(value)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else value
