"""A network's layers as a user writes them down, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuspike.errors import ValueRangeError
from gpuspike.kernels.convolution import Convolution
from gpuspike.registry import meant

KEYS = {
    "conv": ("kernel", "stride", "padding", "pad_time"),
    "pool": (),
    "dense": (),
}
"""What an entry may begin with, and what else it may have."""


@dataclass(frozen=True)
class Maps:
    """A convolutional layer before the image that it receives is known; see `Convolution`.

    Attributes:
        pad_time: in whatever unit its writer counts.
    """

    n_maps: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pad_time: float = math.inf
    pool: int = 1

    def over(self, shape: tuple[int, int, int]) -> Convolution:
        """The layer over an image.

        Raises:
            ValueRangeError: it does not fit.
        """
        return Convolution(shape, **vars(self))


Plan = list[int | Maps]
"""Layers after the inputs: how many neurons, or what maps."""


NO_CLASSES = "must end with a dense layer of one neuron a class, got a conv; {dense: 10} behind it has ten"
"""What is said of layers whose last neurons are those of maps, where classes are asked for."""


def read_plan(entries: Sequence[Any]) -> Plan:
    """Layers after the inputs, from numbers of neurons or from entries that read like a network.

        [{conv: 16, kernel: 5}, {pool: 2}, {conv: 32, kernel: 5}, {pool: 2}, {dense: 10}]

    Args:
        entries: `{"conv": maps, "kernel": side}`, also with stride, padding and pad_time (when the inputs
            around the image spike, never unless given); `{"pool": side}` behind it, of whose windows the
            earliest spikes are heard; `{"dense": neurons}`, for which the number alone may stand.

    Raises:
        ValueRangeError: an entry that says something else.
    """
    plan: Plan = []
    for number, entry in enumerate(entries):
        name = f"entry {number} of the layers"
        if not isinstance(entry, Mapping):
            plan.append(_whole("a layer's size", entry))
            continue
        told: dict[str, Any] = {str(key): value for key, value in entry.items()}
        kind = [key for key in told if key in KEYS]
        if len(kind) != 1:
            hint = "" if kind or not told else meant(next(iter(told)), KEYS)
            raise ValueRangeError(f"{name} must have one of {', '.join(KEYS)}, got {_told(told)}{hint}")
        (kind,) = kind
        value, given = told.pop(kind), told
        if unknown := [key for key in given if key not in KEYS[kind]]:
            known = ", ".join(KEYS[kind]) or "nothing else"
            hint = meant(unknown[0], KEYS[kind])
            raise ValueRangeError(f"{name}, {kind}, may have {known}, got {', '.join(unknown)}{hint}")
        value = _whole(f"{kind} in {name}", value)
        if kind == "dense":
            plan.append(value)
        elif kind == "conv":
            if "kernel" not in given:
                raise ValueRangeError(f"{name}, conv, needs a kernel, the side that a neuron sees")
            pad_time = given.pop("pad_time", math.inf)
            if isinstance(pad_time, bool) or not isinstance(pad_time, int | float | np.number):
                raise ValueRangeError(f"pad_time in {name} must be a time, got {pad_time!r}")
            sizes = {key: _whole(f"{key} in {name}", size, key != "padding") for key, size in given.items()}
            plan.append(Maps(value, pad_time=float(pad_time), **sizes))
        else:
            before = plan[-1] if plan else None
            if not isinstance(before, Maps):
                raise ValueRangeError(f"{name}, pool, must stand behind a conv, whose spikes it hears")
            plan[-1] = replace(before, pool=before.pool * value)
    return plan


def idle(plan: Plan) -> list[str]:
    """What of a plan nothing reads, in words."""
    return [
        f"pad_time={layer.pad_time:g} of layer {number} is of a padding, and there is none"
        for number, layer in enumerate(plan, 1)
        if isinstance(layer, Maps) and layer.pad_time != math.inf and not layer.padding
    ]


def timed(plan: Plan, unit: float) -> Plan:
    """The same layers with times in units of which one is `unit` long."""
    return [replace(one, pad_time=one.pad_time * unit) if isinstance(one, Maps) else one for one in plan]


def told_plan(plan: Plan) -> list[Any]:
    """What `read_plan` reads, as plain values."""
    return [entry for layer in plan for entry in _entries(layer)]


def _entries(layer: int | Maps) -> Iterator[Any]:
    if not isinstance(layer, Maps):
        yield layer
        return
    usual = Maps(1, 1)
    own = {key: getattr(layer, key) for key in KEYS["conv"]}
    yield {"conv": layer.n_maps} | {k: v for k, v in own.items() if k == "kernel" or v != getattr(usual, k)}
    if layer.pool > 1:
        yield {"pool": layer.pool}


def _whole(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueRangeError(f"{name} must be a whole number from {int(least)}, got {value!r}")
    return int(value)


def _told(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"
