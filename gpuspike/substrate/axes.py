"""Distortions as axes of a search: one number, what it sets of a substrate, and which way is worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpuspike.errors import ConfigError
from gpuspike.registry import one_of
from gpuspike.substrate.distortions.weights import BITS
from gpuspike.substrate.spec import keys

_TAU = r" ($\tau_{syn}$)"


@dataclass(frozen=True)
class Axis:
    """One distortion as one number.

    Attributes:
        name: by which it is asked for.
        parts: keys of a substrate, and what the number is multiplied with for each.
        label: for a figure.
        less_is_worse: the network suffers as the number falls: bits, a range.
        whole: a whole number.
        start: where a search begins.
        grid: values of a map, unless others are given.
        needs: keys that have to be on, and what they are where they are not.
        instead: keys that say the same otherwise, which it switches off.
        ends: the least and the largest value that are tried, where they are known; where its key tells
            them, `axis` takes those.
    """

    name: str
    parts: Mapping[str, float]
    label: str
    less_is_worse: bool = False
    whole: bool = False
    start: float = 0.1
    grid: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
    needs: Mapping[str, Any] = field(default_factory=dict)
    instead: tuple[str, ...] = ()
    ends: tuple[float, float] = (0.0, math.inf)

    def changes(self, substrate: Mapping[str, Any], value: float | None) -> dict[str, Any]:
        """What it sets of a substrate.

        Args:
            substrate: values as they are, by key.
            value: None: off.
        """
        defaults: dict[str, Any] = {key: f.default for key, _, f in keys()}
        told = {key: defaults[key] for key in self.instead}
        if value is None:
            told |= {key: defaults[key] for key in self.parts}
        else:
            for key, factor in self.parts.items():
                number = int(value) if self.whole else factor * value
                told[key] = [number] if isinstance(defaults[key], tuple) else number
        # also where it is off: what it needs may cost something by itself
        told |= {key: needed for key, needed in self.needs.items() if not substrate[key]}
        return {key: list(item) if isinstance(item, tuple) else item for key, item in told.items()}

    def in_units(self, units: Mapping[str, float]) -> Axis:
        """The same for a network whose values of these keys are so many times larger, see `unit.units_of`."""
        needs = {
            key: [each * units[key] for each in own] if key in units else own
            for key, own in self.needs.items()
        }
        own = {units.get(key, 1.0) for key in self.parts}
        if len(own) > 1:  # a number for several, which stays a share
            parts = {key: factor * units.get(key, 1.0) for key, factor in self.parts.items()}
            return replace(self, parts=parts, needs=needs)
        (unit,) = own
        if unit == 1.0:
            return replace(self, needs=needs)
        grid = tuple(value * unit for value in self.grid)
        return replace(self, needs=needs, start=self.start * unit, grid=grid)

    def told(self, value: float | None) -> str:
        """A value for a reader."""
        return "off" if value is None else f"{value:g}"


_RANGE = {"weight_max": [3.0]}
"""Where a range is needed and none is given; in units of the weights."""

NAMED = {
    axis.name: axis
    for axis in (
        Axis(
            "weight_range", {"weight_max": 1.0}, "weight range (±)",
            less_is_worse=True, start=2.0, grid=(1.0, 1.5, 2.0, 3.0, 4.0),
        ),
        Axis(
            "weight_bits", {"weight_bits": 1.0}, "weight bits",
            less_is_worse=True, whole=True, start=4, grid=(2, 3, 4, 5, 6), needs=_RANGE,
            instead=("weight_lsb",), ends=BITS,
        ),
        Axis("weight_lsb", {"weight_lsb": 1.0}, "step of the weights", instead=("weight_bits",)),
        Axis("stuck_synapses", {"stuck_synapses": 1.0}, "stuck synapses", needs=_RANGE),
        Axis("tau_ratio", {"tau_mem_shift": 1.0}, r"error of $\tau_{mem}$ ($\tau_{syn}$)"),
        Axis(
            "tau_spread", {"tau_mem_std": 1.0, "tau_syn_std": 1.0}, r"spread of both $\tau$ ($\tau_{syn}$)"
        ),
        Axis("threshold_spread", {"threshold_std": 1.0}, "spread of thresholds"),
        Axis(
            "mismatch",
            {"threshold_std": 1.0, "tau_mem_std": 1.0, "tau_syn_std": 1.0},
            r"mismatch of thresholds and both $\tau$",
        ),
        Axis("spike_jitter", {"spike_jitter": 1.0}, r"spike jitter ($\tau_{syn}$)"),
        Axis("time_grid", {"time_grid": 1.0}, r"time step ($\tau_{syn}$)"),
        Axis("dead_neurons", {"dead_neurons": 1.0}, "dead hidden neurons"),
        Axis(
            "trial_end", {"trial_end": 1.0}, r"end of the trial ($\tau_{syn}$)",
            less_is_worse=True, start=4.0, grid=(2.0, 3.0, 4.0, 6.0, 8.0),
        ),
    )
}  # fmt: skip
"""Axes that are not just a key, or have more to tell than its leaf does."""


def axis(name: str) -> Axis:
    """The axis of a name in `NAMED`, or of any key of a distortion that is a number, a user's own too.

    Args:
        name: with a minus before it, towards negative numbers: "-threshold_shift".

    Raises:
        ConfigError: there is none.
    """
    own = name.removeprefix("-")
    leaves = {key: f for key, _, f in keys()}
    if own == "weight_max":  # the key, which is what weight_range sets
        found = replace(NAMED["weight_range"], name=own)
    elif own not in NAMED:
        leaf = leaves[one_of("distortion", own, names())]
        less = bool(leaf.metadata.get("less_is_worse"))
        label = own.replace("_", " ") + (_TAU if leaf.metadata.get("time") else "")
        found = Axis(own, {own: 1.0}, label, less, start=2.0 if less else 0.1)
        found = replace(found, grid=(0.5, 1.0, 2.0, 4.0)) if less else found
    else:
        found = NAMED[own]
    ends = leaves[next(iter(found.parts))].metadata.get("ends") if len(found.parts) == 1 else None
    if ends:
        start = min(max(found.start, ends[0]), ends[1])
        found = replace(found, ends=ends, start=start)
    if not name.startswith("-"):
        return found
    if found.whole or found.less_is_worse or (ends and ends[0] >= 0.0):
        lies = f": it lies from {ends[0]:g} to {ends[1]:g}" if ends else ""
        raise ConfigError(f"{own} has no negative numbers{lies}, got distortion={name}; did you mean {own}?")
    parts = {key: -factor for key, factor in found.parts.items()}
    return replace(found, name=name, parts=parts, label=f"-{found.label}")


def names() -> list[str]:
    """Of all axes that there are by now."""
    return sorted({*NAMED, *(key for key, _, f in keys() if _is_number(f.default))})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
