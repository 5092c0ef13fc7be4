"""Delays of spikes between neurons: of an input, of a neuron, of a synapse, and how training moves them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.kinds import is_number, plain
from gpuspike.registry import one_of

Array = NDArray[Any]

KINDS = ("axonal", "dendritic", "synaptic")
"""Which delays a layer may have: one an input, one a neuron, one a synapse."""

FORMS = ("sigmoid", "clipped")
"""How a free number becomes a delay."""


@dataclass(frozen=True, eq=False)
class Delays:
    """Delays of a layer, or gradients of the loss with respect to them; times in the network's unit.

    Input i reaches neuron j at t_i + axonal_i + synaptic_ij + dendritic_j, bias spikes like others. What all
    inputs of a neuron have in common delays its spike by as much: so the last of the three is added there.

    Attributes:
        axonal: (n_replica, n_pre) of each input;  dendritic: (n_replica, n_post) of each neuron;
        synaptic: (n_replica, n_pre, n_post) of each weight; None: there are none.
    """

    axonal: Array | None = None
    dendritic: Array | None = None
    synaptic: Array | None = None

    def items(self) -> Iterator[tuple[str, Array]]:
        """Those that there are, by kind."""
        for item in fields(self):
            if (array := getattr(self, item.name)) is not None:
                yield item.name, array

    def map(self, function: Any) -> Delays:
        """The same with each array replaced by what function(kind, array) makes of it."""
        return Delays(**{kind: function(kind, array) for kind, array in self.items()})

    def synapses(self, weights: Array) -> Array:
        """The synaptic delays, one for each weight: a network on many chips has one set for all."""
        assert self.synaptic is not None
        same = self.synaptic.shape == weights.shape  # kernels take no array that only looks like many
        return self.synaptic if same else np.broadcast_to(self.synaptic, weights.shape).copy()

    def to(self, place: Callable[[Array], Array]) -> Delays:
        """The same where kernels compute, see `Kernels.place`."""
        return self.map(lambda _, array: place(array))

    def of_replica(self, replica: int) -> Delays:
        """Those of one replica, with that axis still there."""
        return self.map(lambda _, array: array[replica : replica + 1])

    def between(self, replica: int) -> Array | float:
        """Delays of one replica but for the axonal, (n_pre, n_post) or of fewer axes."""
        total: Array | float = 0.0
        if self.synaptic is not None:
            total = self.synaptic[replica]
        return total if self.dendritic is None else total + self.dendritic[replica]


@dataclass(frozen=True)
class DelayRule:
    """From free numbers to delays between `shift` and `shift + scale`; a free number of 0 is the middle.

        sigmoid  shift + scale/(1 + exp(-p))
        clipped  shift + scale min(max(1/2 + p/4, 0), 1), which begins with the same slope; behind an end only
                 a gradient that leads back counts

    Attributes:
        shift, scale: times, in the network's unit: the least delay, and how much longer the longest is.
        form: "sigmoid" or "clipped".
        spread: standard deviation of the free numbers when training begins.

    Raises:
        ValueRangeError: a delay below 0, a range without width, a spread below 0.
        ConfigError: another form.

    Source: DelGrad's public code, for the sigmoid and where it begins.
    """

    shift: float = 0.0
    scale: float = 1.0
    form: str = "sigmoid"
    spread: float = 0.25

    def __post_init__(self) -> None:
        one_of("form of delays", self.form, FORMS)
        for name, least in (("shift", 0.0), ("scale", math.ulp(0.0)), ("spread", 0.0)):
            given = getattr(self, name)
            if not is_number(given) or not least <= given < math.inf:
                expected = "0 or more" if least == 0.0 else "above 0"
                raise ValueRangeError(f"the {name} of delays must be {expected} and finite, got {given!r}")
            object.__setattr__(self, name, plain(given))

    def of(self, free: Array) -> Array:
        """Delays that free numbers stand for, of their type."""
        return (self.shift + self.scale * self._share(free)).astype(free.dtype)

    def free(self, delays: Array) -> Array:
        """Free numbers that stand for delays within the range, where the form is "clipped"."""
        return 4.0 * ((delays - self.shift) / self.scale - 0.5)

    def pull(self, free: Array, grad: Array) -> Array:
        """The gradient of the free numbers, from that of the delays."""
        if self.form == "sigmoid":
            share = self._share(free)
            slope = share * (1.0 - share)
        else:
            # A step goes against the gradient.
            slope = np.where(((free < 2.0) | (grad > 0.0)) & ((free > -2.0) | (grad < 0.0)), 0.25, 0.0)
        return (self.scale * slope * grad).astype(free.dtype)

    def timed(self, unit: float) -> DelayRule:
        """The same with times that were given in another unit."""
        return replace(self, shift=self.shift * unit, scale=self.scale * unit)

    def _share(self, free: Array) -> Array:
        free = free.astype(np.float64)
        if self.form == "sigmoid":
            return 1.0 / (1.0 + np.exp(-np.clip(free, -700.0, 700.0)))
        return np.clip(0.5 + 0.25 * free, 0.0, 1.0)


USUAL = DelayRule()
"""Delays up to 1."""


def shape(kind: str, n_replica: int, n_pre: int, n_post: int) -> tuple[int, ...]:
    """Of a layer's delays of one kind."""
    return {
        "axonal": (n_replica, n_pre),
        "dendritic": (n_replica, n_post),
        "synaptic": (n_replica, n_pre, n_post),
    }[kind]


def name_of(kind: str) -> str:
    """What files, and lists of what is trained, call delays of a kind."""
    return f"{kind}_delay"


DELAYS = {name_of(kind): kind for kind in KINDS}
"""Kinds by these names."""


def kinds_of(asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """Kinds out of "none", "axonal", "axonal+dendritic" or a list of them.

    Raises:
        ConfigError: another kind, or one twice.
    """
    if isinstance(asked, str):
        asked = asked.split("+")
    if not isinstance(asked, Sequence | None):
        raise ConfigError(f"delays must be a sum of {', '.join(KINDS)}, or none, got {asked!r}")
    given = [kind.strip() if isinstance(kind, str) else kind for kind in asked or ()]
    given = [] if given in (["none"], [""]) else given
    for kind in given:
        one_of("kind of delays", kind, KINDS)
    if len(set(given)) < len(given):
        raise ConfigError(f"delays must be of different kinds, got {'+'.join(given)!r}")
    return tuple(kind for kind in KINDS if kind in given)


def learnt(constants: Sequence[str], kinds: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of all that a network learns beside its weights: constants, then delays; see `kinds_of`."""
    texts = isinstance(constants, list | tuple) and all(isinstance(name, str) for name in constants)
    if not texts:
        hint = f": [{constants!r}] is one" if isinstance(constants, str) else ""
        raise ConfigError(
            f"constants to be trained must be a list of different names, got {constants!r}{hint}"
        )
    for name in constants:
        if name in DELAYS:
            raise ConfigError(f"{name} is asked for as delays: {DELAYS[name]}, got it among the constants")
    return (*constants, *(name_of(kind) for kind in kinds_of(kinds)))
