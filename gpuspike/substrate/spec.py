"""A chip in numbers: what it has room for, and its distortions, each of which is off at its default."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.network.delays import DELAYS
from gpuspike.network.layers import Layer
from gpuspike.substrate.distortions import DISTORTIONS, Distortion
from gpuspike.substrate.silicon import Clock

Array = NDArray[Any]

MOST_LAYERS = 64
"""Layers whose trials have addresses of their own, see `rng.normals`."""

_OTHERS: tuple[str, ...] = (
    "name",
    "prices",
    "max_fan_in",
    "max_neurons",
    "max_synapses",
    "gradient",
    "new_chip",
    "population",
)
"""Keys of a substrate that are no distortion's."""


class NoRoom(ConfigError):
    """A network has no room on a chip; the way out is that of a training's command line.

    Args:
        lacking: what is missing.
        limits: keys that are limits of the chip, and at 0 none.
        way: what has them at 0; None: their keys do.
    """

    def __init__(self, lacking: str, limits: Sequence[str], way: str | None = None) -> None:
        way = " ".join(f"substrate.{name}=0" for name in limits) if way is None else way
        super().__init__(f"{lacking}; {way} emulates a chip with room for it")
        self.lacking, self.limits, self.way = lacking, list(limits), way

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process may have raised it."""
        return NoRoom, (self.lacking, self.limits, self.way)

    def by(self, way: str) -> NoRoom:
        """The same with another way out."""
        return NoRoom(self.lacking, self.limits, way)


@dataclass(frozen=True)
class Substrate:
    """What a kind of chip does to a network: `Substrate(name="mine", weight_max=(2.0,), spike_jitter=0.01)`.

    Its values are those below and the fields of all registered distortions, `distortions.DISTORTIONS`, whose
    docstrings explain them; docs/substrates.md has them all on one page. Weights and potentials are in the
    model's units, times in its unit of time. What a chip does, it does in this order:

    1. weights are programmed, without chance;
    2. once a chip, its synapses and its neurons are drawn;
    3. in each trial, input spikes arrive, thresholds are lifted, spikes are delayed or lost;
    4. input spikes and spikes are seen on the time grid, until the end of the trial.

    Within each of them the order is that of the registry. Bias spikes, which the chip makes itself, know of
    the third and fourth only the time grid and the end of the trial.

    Attributes:
        name: of the preset.
        max_fan_in, max_neurons, max_synapses: what one chip has room for; 0: no limit.

    Raises:
        ValueRangeError: a value that means nothing, or two that contradict each other, by their names.
        ConfigError: registered distortions that use a key twice.
        TypeError: a key that no distortion has.
    """

    name: str = "ideal"
    max_fan_in: int = 0
    max_neurons: int = 0
    max_synapses: int = 0

    if TYPE_CHECKING:  # the keys of distortions, a user's own among them

        def __init__(self, **values: Any) -> None: ...
        def __getattr__(self, key: str) -> Any: ...

    def __new__(cls, *_: Any, **__: Any) -> Substrate:
        """A substrate with the keys of the distortions that are registered by now."""
        return object.__new__(_with_keys(registered()) if cls is Substrate else cls)

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies in another process, whose registry may have made its own class."""
        return _remade, ({f.name: getattr(self, f.name) for f in fields(self)},)

    def __post_init__(self) -> None:
        for f in fields(Substrate):
            limit = getattr(self, f.name)
            if f.name.startswith("max_") and limit < 0:
                raise ValueRangeError(f"substrate.{f.name} must be 0 (no limit) or more, got {limit!r}")
        made = [
            part(**{f.name: getattr(self, f.name, f.default) for f in fields(part)}) for part in registered()
        ]
        for distortion in made:
            distortion.check_rules()
        object.__setattr__(self, "_on", tuple(distortion for distortion in made if distortion.active))
        for distortion in made:
            distortion.check(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], unit: float) -> Substrate:
        """Of values as users give them, times in `unit` (tau_syn); names of something else are left."""
        own = {f.name: values[f.name] for f in fields(Substrate)}
        for key, _, f in keys():
            given = values[key]
            if f.metadata.get("time"):
                given = given * unit
            own[key] = tuple(given) if isinstance(given, list) else given
        return cls(**own)

    @property
    def distortions(self) -> tuple[Distortion, ...]:
        """Those that are on, in their order."""
        return self._on

    def doing(self, hook: str) -> list[Distortion]:
        """Those that are on and have something to do at a hook, in their order."""
        return [distortion for distortion in self._on if distortion.does(hook)]

    @property
    def ideal(self) -> bool:
        """Whether nothing at all is distorted."""
        return not self._on

    @property
    def time_noise(self) -> float:
        """Standard deviation of what nobody can know of a spike's time in a trial."""
        return math.hypot(*(distortion.time_noise() for distortion in self._on))

    @cached_property
    def clock(self) -> Clock:
        """When spikes are seen."""
        clock = Clock()
        for distortion in self._on:
            clock = distortion.clock(clock)
        return clock

    @property
    def host_only(self) -> str:
        """What keeps the chip from a device, in words; "" where nothing does."""
        return ", ".join(str(distortion) for distortion in self._on if not distortion.device)

    def most(self, layer: int) -> float:
        """Largest |weight| of a layer; inf without a limit."""
        return min((distortion.most(layer) for distortion in self._on), default=math.inf)

    def limit(self, weights: Sequence[Array]) -> None:
        """Clips the weights of all layers to their range, in place."""
        for number, w in enumerate(weights):
            if (most := self.most(number)) < math.inf:
                np.clip(w, -most, most, out=w)

    def programmed(self, weights: Array, layer: int) -> Array:
        """A layer's weights as the chip can hold them: clipped, then rounded; or the same array."""
        for distortion in self._on:
            held = distortion.program(distortion.as_given(weights), layer)
            weights = held.astype(weights.dtype, copy=False)
        return weights

    def check_window(self, window: float, unit: float) -> None:
        """Makes sure that the chip can follow the inputs; see `Distortion.check_window`.

        Raises:
            ConfigError: what was expected, and what was got.
        """
        for distortion in self._on:
            distortion.check_window(window, unit)

    def check_fit(self, layers: Sequence[Layer], trained: Sequence[str] = ()) -> None:
        """Makes sure that a network has room on one chip.

        Args:
            trained: what is learnt beside weights, see `delays.learnt`.

        Raises:
            NoRoom: what is missing, and how many chips would have it.
            ConfigError: what no chip can have.
        """
        for distortion in self._on:
            distortion.check_fit(layers)
        convolves = any(layer.convolution is not None for layer in layers)
        if convolves and not self.ideal and set(trained) & set(DELAYS):
            raise ConfigError("a convolution with delays has no emulated chip: model.delays=none has one")
        if len(layers) > MOST_LAYERS and not self.ideal:
            raise ConfigError(f"a chip has at most {MOST_LAYERS} layers, got {len(layers)}")
        fan_in = max(layer.n_pre for layer in layers)
        lacking: list[str] = []
        if self.max_fan_in and fan_in > self.max_fan_in:
            lacking.append(
                f"a neuron on {self.name} has at most {self.max_fan_in} inputs, got a layer with {fan_in}: "
                f"{fan_in - self.max_fan_in} too many, which no number of chips like this one changes"
            )
        for what, most, needed in (
            ("neurons", self.max_neurons, sum(layer.n_neurons for layer in layers)),
            ("synapses", self.max_synapses, sum(layer.n_pre * layer.n_neurons for layer in layers)),
        ):
            if most and needed > most:
                lacking.append(
                    f"{self.name} has {most} {what}, got a network with {needed}, "
                    f"as many as {-(-needed // most)} chips have: {needed - most} too many"
                )
        if lacking:
            limits = [f.name for f in fields(Substrate) if f.name.startswith("max_")]
            raise NoRoom("; ".join(lacking), [name for name in limits if getattr(self, name)])


def keys() -> Iterator[tuple[str, Any, Field[Any]]]:
    """Key, type and field of every value of the distortions that are registered by now, in their order.

    Raises:
        ConfigError: a key that two distortions use, or that says something else of a substrate.
    """
    owners: dict[str, str] = dict.fromkeys(_OTHERS, "every substrate")
    for name in DISTORTIONS:
        part = DISTORTIONS[name]
        types = get_type_hints(part)
        for f in fields(part):
            if f.name in owners:
                raise ConfigError(f"the distortion {name} has the key {f.name}, which {owners[f.name]} has")
            if f.default is MISSING:
                raise ConfigError(
                    f"{f.name} of the distortion {name} must have a default, at which it is off"
                )
            owners[f.name] = f"the distortion {name}"
            yield f.name, types[f.name], f


def registered() -> tuple[type[Distortion], ...]:
    """The distortions that are registered by now, in their order."""
    return tuple(DISTORTIONS[name] for name in DISTORTIONS)


@lru_cache(maxsize=4)
def _with_keys(parts: tuple[type[Distortion], ...]) -> type[Substrate]:
    """`Substrate` with the keys of those distortions."""
    del parts  # which `keys` knows
    own = [(key, kind, field(default=f.default)) for key, kind, f in keys()]
    names = {"__module__": __name__, "__doc__": Substrate.__doc__}
    return make_dataclass("Substrate", own, bases=(Substrate,), frozen=True, namespace=names)


def _remade(values: dict[str, Any]) -> Substrate:
    return Substrate(**values)
