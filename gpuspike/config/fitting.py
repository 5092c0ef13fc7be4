"""Which options of the groups were made for each other, by the experiments that take them together."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from gpuspike.config.files import conf_folder
from gpuspike.config.keys import key_of
from gpuspike.errors import GpuspikeError
from gpuspike.network.plan import idle, read_plan
from gpuspike.neuron import LIF, of_values, weight_unit
from gpuspike.registry import Registry
from gpuspike.substrate.spec import Substrate, keys
from gpuspike.substrate.unit import POTENTIALS, WEIGHTS
from gpuspike.training import when_read
from gpuspike.training.augmentation import CHANGES
from gpuspike.training.optimizers import OPTIMIZERS

OWN = "own"
"""The experiment for data of one's own."""


@cache
def experiments() -> dict[str, dict[str, str]]:
    """Of each experiment the options that it takes of the groups dataset, model and training."""
    folder = conf_folder()
    usual = _defaults(folder / "config.yaml")
    return {
        path.stem: usual | _taken(folder / "experiment", path.stem)
        for path in sorted((folder / "experiment").glob("*.yaml"))
    }


def _taken(folder: Path, name: str) -> dict[str, str]:
    """Options of an experiment and of those that it begins with."""
    taken: dict[str, str] = {}
    for entry in yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]:
        if isinstance(entry, str):
            taken |= {} if entry == "_self_" else _taken(folder, entry)
        else:
            ((key, option),) = entry.items()
            taken[str(key).removeprefix("override /")] = str(option)
    return taken


def _defaults(path: Path) -> dict[str, str]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
    return {key: str(option) for entry in entries if isinstance(entry, dict) for key, option in entry.items()}


def title(choices: Mapping[str, Any], data: str, path: str) -> str:
    """What a run is called: its experiment; or its data, where the experiment is for others, or for any.

    Args:
        choices: of the groups.
        data: name of the data set;  path: of its file, "" without one.
    """
    name = str(choices.get("experiment") or "custom").removesuffix(".yaml")
    known = experiments().get(name)
    if known is None or (name != OWN and known["dataset"] == choices.get("dataset")):
        return name
    return Path(path).stem or (name if known["dataset"] == choices.get("dataset") else data)


def _place(experiment: Any, option: Any, data: Any, path: Any) -> str:
    """The folder under outputs/ for runs of an experiment, or of other data than it was made for."""
    name = str(experiment or "custom").removesuffix(".yaml")
    if name == OWN:
        return name
    told = title({"experiment": name, "dataset": option}, str(data), str(path or ""))
    return told if re.fullmatch(r"[\w./-]+", told) else str(data)


OmegaConf.register_new_resolver("gpuspike.place", _place, replace=True)


def misfits(choices: Mapping[str, Any], *, suited: bool) -> list[str]:
    """What may not be meant: a network or a rule that was made for other data, and the experiment that fits.

    Args:
        choices: of the groups.
        suited: initial weights come from the number of inputs, and suit any data.
    """
    known = experiments()
    data, name = str(choices.get("dataset")), str(choices.get("experiment")).removesuffix(".yaml")
    chip = _for_chip(str(choices.get("substrate")), data, name)
    strange = []
    for group in ("model", "training"):
        option = str(choices.get(group))
        users = {taken["dataset"] for taken in known.values() if taken[group] == option}
        if users and data not in users and option != OWN and not (group == "model" and suited):
            strange.append(f"{group}={option}")
    if not strange or (name not in known and name != "None"):
        return chip
    fit = [key for key in sorted(known, key=lambda key: (key != data, key)) if known[key]["dataset"] == data]
    better = f"experiment={fit[0]}" if fit else f"experiment={OWN} dataset={data}"
    return [
        f"dataset={data} is trained with {' and '.join(strange)}, made for other data; {better} has a "
        "network and a rule for it"
    ]


def _for_chip(chip: str, data: str, name: str) -> list[str]:
    """That an experiment was made for a chip that another one is asked on; none for its neighbours."""
    known, usual = experiments(), _defaults(conf_folder() / "config.yaml")["substrate"]
    fit = [key for key, taken in known.items() if (taken["dataset"], taken["substrate"]) == (data, chip)]
    if chip == usual or name not in known or not fit or known[name]["substrate"] == chip:
        return []
    made = " or ".join(f"experiment={key}" for key in fit)
    return [f"{name} was not made for substrate={chip}; {made} {'were' if len(fit) > 1 else 'was'}"]


def without_chip(substrate: Any) -> bool:
    """Whether a kind of chip distorts nothing, whatever it is called."""
    return not _distortions(substrate)


def _distortions(substrate: Any, usual: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys of a kind of chip that are not as usual; None: at their defaults, which distort nothing."""
    usual = usual or {}
    values = {key: (getattr(substrate, key), usual.get(key, field.default)) for key, _, field in keys()}
    as_default = {key: tuple(v) if isinstance(v, list) else v for key, (v, _) in values.items()}
    return {
        key: value
        for key, (value, default) in values.items()
        if as_default[key] != (tuple(default) if isinstance(default, list) else default)
    }


def chip_label(substrate: Any) -> str:
    """What a kind of chip is called, with the values that are others than those of the preset of its name."""
    name, preset = str(substrate.name), _preset(str(substrate.name))
    altered = _distortions(substrate, preset)
    if preset is None or not altered:
        return name
    told = (f"{key}={v.value if isinstance(v, Enum) else v}" for key, v in altered.items())
    return f"{name}{' with' if name == 'ideal' else ', altered:'} {', '.join(told)}"


@cache
def _preset(name: str) -> Mapping[str, Any] | None:
    """What the shipped chip of a name has in its file; None where there is no such chip."""
    path = conf_folder() / "substrate" / f"{name}.yaml"
    if "/" in name or not path.is_file():
        return None
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def preset_values() -> dict[str, set[Any]]:
    """Values of the kinds of chips that are shipped, by key, of what has a unit of its own."""
    found: dict[str, set[Any]] = {key: set() for key in (*WEIGHTS, *POTENTIALS)}
    for path in sorted((conf_folder() / "substrate").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in found.keys() & values.keys():
            value = values[key]
            found[key].add(tuple(value) if isinstance(value, list) else value)
    return found


OF_A_CHIP = "is of a chip, and substrate="


def aimless(config: Any) -> list[str]:
    """What is asked of a chip where there is none: its seed, or trials, which would be one and the same."""
    notes, training, model, substrate = [], config.training, config.model, config.substrate
    with suppress(GpuspikeError):  # what is wrong with layers is told elsewhere
        notes += [f"model.layers: {text}" for text in idle(read_plan(model.layers))]
    if model.delays in ("", "none"):
        usual = {f.name: f.default for f in fields(model) if f.name.startswith("delay_")}
        given = [f"model.{key}={getattr(model, key)}" for key, v in usual.items() if getattr(model, key) != v]
        notes += [f"{text} is of delays, and model.delays={model.delays} has none" for text in given]
    if training.match_noise and (why := _noiseless(substrate)):
        notes.append(f"training.match_noise=true has no noise to match: {why}")
    if not without_chip(substrate):
        if substrate.gradient.value == "ideal" and substrate.new_chip.value == "step":
            notes.append(
                "substrate.new_chip=step is of a training on chips, and with substrate.gradient=ideal "
                "training is without a chip"
            )
        return notes
    for key, value in (("gradient", "exact"), ("new_chip", "step")):
        if getattr(substrate, key).value == value:
            notes.append(f"substrate.{key}={value} {OF_A_CHIP}{substrate.name} has none")
    if config.chip_seed is not None:
        notes.append(f"chip_seed={config.chip_seed} {OF_A_CHIP}{config.substrate.name} has none")
    random = ("input_noise", *CHANGES)
    if training.trials <= 1 or any(getattr(training, name) for name in random):
        return notes
    return [
        *notes,
        f"training.trials={training.trials} presents each sample {training.trials} times alike: nothing is "
        "random without a chip, training.input_noise or images that are shifted or warped",
    ]


def sharper(config: Any) -> list[str]:
    """That a loss tells times apart which the chip does not; docs/silence.md has the rule for what fits."""
    training, substrate, xi = config.training, config.substrate, getattr(config.training, "xi", None)
    if training.match_noise or training.loss != "ttfs_cross_entropy" or xi is None or _noiseless(substrate):
        return []
    coarse = [
        f"substrate.{key}={value:g}"
        for key in ("time_grid", "spike_jitter")
        if isinstance(value := getattr(substrate, key, 0.0), int | float) and value > xi
    ]
    if not coarse:
        return []
    with suppress(GpuspikeError, TypeError):  # what is wrong with either is told elsewhere
        noise = Substrate.from_values(vars(substrate), 1.0).time_noise
        fits = math.hypot(xi, training.xi_per_noise * noise)
        are = "are" if len(coarse) > 1 else "is"
        return [
            f"{' and '.join(coarse)} {are} coarser than the times that training.xi={xi:g} tells apart: "
            f"training.match_noise=true has xi={fits:.2g}, which suits this noise; more is milder still"
        ]
    return []


def _noiseless(substrate: Any) -> str:
    """Why spike times of a training have no noise; "" where they have, or a chip is refused elsewhere."""
    if substrate.gradient.value == "ideal":
        return "with substrate.gradient=ideal training is without a chip"
    with suppress(GpuspikeError, TypeError):
        noise = Substrate.from_values(vars(substrate), 1.0).time_noise
        return "" if noise else f"substrate={substrate.name} neither jitters spikes nor has it a time grid"
    return ""


def unread(overrides: Sequence[str], config: Any) -> list[str]:
    """What was typed and nothing reads, since another value has it so."""
    notes = []
    for key in dict.fromkeys(map(key_of, overrides)):
        group, _, name = key.partition(".")
        if group in ("training", "optimizer"):
            values = {key: getattr(v, "value", v) for key, v in vars(getattr(config, group)).items()}
            for _, decides, wanted, got in when_read.unread([name], values):
                meant = " or ".join(map(_typed, wanted))
                notes.append(f"{key} is read with {group}.{decides}={meant}, got {_typed(got)}")
        if key in _DRAWN and config.start is not None:
            notes.append(f"{key} is of networks that are drawn, and start={config.start} has its own")
    return notes


OTHER_UNIT = 3.0
"""The factor from which on another unit of the weights is noted."""


def suited_to_unit(typed: Collection[str], config: Any) -> list[str]:
    """What suits a training where neurons put its weights in another unit.

    Args:
        typed: keys of values that were given for these neurons, the constants of which are among them.
    """
    model, training, rate = config.model, config.training, "optimizer.learning_rate"
    constants = [item.name for item in fields(LIF)]
    if not any(f"model.{name}" in typed for name in constants):
        return []
    try:
        unit = weight_unit(of_values(model))
    except GpuspikeError:  # told elsewhere
        return []
    if 1.0 / OTHER_UNIT < unit < OTHER_UNIT:
        return []
    values: dict[str, float | list[float]] = {
        rate: config.optimizer.learning_rate * unit ** OPTIMIZERS[config.optimizer.name].RATE_UNITS,
        "training.bump_value": training.bump_value * unit,
        "training.max_weight_grad": training.max_weight_grad / unit,
    }
    for name in ("weight_mean", "weight_std"):
        if config.start is None and model.fires is None and (own := getattr(model, name)) is not None:
            values[f"model.{name}"] = [value * unit for value in own]
    told = " ".join(
        f"{key}=[{','.join(f'{each:.4g}' for each in value)}]"
        if isinstance(value, list)
        else f"{key}={value:.4g}"
        for key, value in values.items()
        if key not in typed and value != math.inf
    )
    if not told:
        return []
    return [
        f"weights of these neurons are in units of C (threshold - leak)/tau_fast = {unit:.4g}, and what they "
        f"are drawn and trained with is meant for 1; as much in their unit: {told}"
    ]


def far_apart(typed: Collection[str], model: Any) -> list[str]:
    """That one of the two time constants was typed and lies far from the other: in another unit, perhaps."""
    given = [f"model.{name}" for name in ("tau_mem", "tau_syn") if f"model.{name}" in typed]
    tau_mem, tau_syn = model.tau_mem, model.tau_syn
    if len(given) != 1 or not (0.0 < tau_syn < math.inf and 0.0 < tau_mem < math.inf):
        return []
    if 0.1 <= tau_mem / tau_syn <= 10.0:
        return []
    return [
        f"{given[0]} is in one unit of time with the other: tau_mem={tau_mem:g} and tau_syn={tau_syn:g} are "
        f"{max(tau_mem / tau_syn, tau_syn / tau_mem):.3g} times apart"
    ]


_DRAWN = ("model.weight_mean", "model.weight_std", "model.fires", "model.spikes_at")
"""Values of networks in the beginning, unless a run begins with those of another one."""


def _typed(value: Any) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def undelayed(overrides: Sequence[str], delays: str) -> list[str]:
    """What was typed of a chip's delays where the network has none."""
    if delays not in ("", "none"):
        return []
    typed = [text.lstrip("+") for text in overrides if key_of(text).startswith("substrate.delay_")]
    return [f"{text} is of delays, and model.delays={delays} has none" for text in typed]


def unused(overrides: Sequence[str], **chosen: tuple[Registry[Any], str]) -> list[str]:
    """What was typed for a part that is not the chosen one, and that nothing will read.

    Args:
        overrides: of the command line.
        chosen: of each group its parts, and the name of the chosen one.
    """
    notes = []
    for key in dict.fromkeys(map(key_of, overrides)):
        group, _, name = key.partition(".")
        if group not in chosen:
            continue
        parts, part = chosen[group]
        owners = [each for each in parts if name in {item.name for item in fields(parts[each])}]
        if owners and part not in owners:
            hint = f"; experiment={OWN} takes data of your own" if key == "dataset.path" else ""
            notes.append(f"{key} is read by {', '.join(owners)}, not by the {parts.kind} {part}{hint}")
    return notes
