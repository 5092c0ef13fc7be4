"""What distortions write to and draw from: a layer's silicon, its trials, random numbers by address."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.kernels import SAME_TICK, Kernels
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.waiting import computed
from gpuspike.network.delays import Delays
from gpuspike.network.layers import Layer, Moment
from gpuspike.network.unshared import each, together
from gpuspike.neuron import LIF, Parameter
from gpuspike.rng import Purpose, stream

Array = NDArray[Any]

KINDS = (
    "gain", "dead_synapses", "dead_neurons", "stuck_synapses", "stuck_at", "threshold", "tau_mem",
    "tau_mem_again", "tau_syn", "tau_syn_again",
)  # fmt: skip
"""Drawn once a chip, at addresses older than digests: the place in this list, which must never change."""

TRIAL_KINDS = {
    "input_jitter": Purpose.INPUT_JITTER,
    "lost_inputs": Purpose.LOST_INPUTS,
    "threshold_noise": Purpose.THRESHOLD_NOISE,
    "spike_jitter": Purpose.SPIKE_JITTER,
    "lost_spikes": Purpose.LOST_SPIKES,
}
"""Drawn in each trial, for a purpose of their own, which must never change."""


def digest(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Dice:
    """Random numbers of some chips, each at an address: the chip's seed, what it is drawn for, the layer.

    What it is drawn for is a *kind*, a name that no other distortion uses, as its key is. A kind that is not
    in the lists above has an address from its digest, which none of those in the lists can meet.

    Args:
        seeds: of the chips.
        kernels: what draws in trials.
    """

    def __init__(self, seeds: Sequence[int], kernels: Kernels) -> None:
        self.seeds, self._kernels = tuple(seeds), kernels

    def streams(self, kind: str, layer: int) -> Iterator[np.random.Generator]:
        """Of each chip, the generator at this kind's address, for what is drawn once a chip."""
        place = KINDS.index(kind) if kind in KINDS else 1 << 63 | digest(kind)
        return (stream(seed, Purpose.CHIP, layer, place) for seed in self.seeds)

    def once(self, kind: str, layer: int, shape: tuple[int, ...], *, uniform: bool = False) -> Array:
        """(n_chip, *shape) numbers, drawn once a chip: normal ones, or uniform ones from 0 to 1."""
        streams = self.streams(kind, layer)
        return np.stack([s.random(shape) if uniform else s.standard_normal(shape) for s in streams])

    def place(self, array: Array) -> Array:
        """An array of the chips where trials are computed."""
        return self._kernels.place(array)

    def constant(self, values: Array) -> Array:
        """A few numbers where trials are computed, sent to a device once."""
        kernels: Any = self._kernels
        return kernels.constant(values, values.dtype) if self.on_device else values

    def later(self, array: Array, shape: tuple[int, ...] | None = None) -> Array:
        """The array; of a device as one with which arithmetic waits, to be one kernel; see `kernels.waiting`.

        Args:
            shape: that it is repeated to, on a device.
        """
        kernels: Any = self._kernels
        return array if array_module(array=array) is np else kernels.later(array, shape)

    @property
    def on_device(self) -> bool:
        """Whether trials are computed on a device."""
        return hasattr(self._kernels, "constant")

    def normals(self, kind: str, like: Array, layer: int, moment: Moment) -> Array:
        """Normal numbers of the shape (n_chip, n_batch, n) and type of `like`, drawn in each trial."""
        purpose, seeds = TRIAL_KINDS.get(kind, Purpose.OWN_TRIALS), self.seeds
        if purpose is Purpose.OWN_TRIALS:  # a purpose has 8 bits: what tells kinds apart is the seed
            seeds = tuple(digest(f"{kind} {seed}") >> 1 for seed in seeds)  # a device takes 63 bits
        kernels: Any = self._kernels
        draw = kernels.normals_later if self.on_device else kernels.normals
        return draw(like, seeds, purpose, layer, *moment)


@dataclass
class Silicon:
    """One layer on the chips, as it was drawn.

    A synapse comes to (programmed weight + error) * gain, or is stuck.

    Attributes:
        number, layer: which, and the nominal one, a convolution's with all neurons counted by themselves;
            last: whether its spikes are the answer.
        dice: what to draw with.
        counts: draws that left the physics, see `EmulatedChip.counts`.
        distortions: of the chip.
        threshold, tau_mem, tau_syn: of its neurons, a number or (n_chip, n_out).
        error, gain: (n_chip, n_pre, n_out) of each synapse; None for 0 and 1.
        stuck: of the same shape, weights of synapses that obey nobody, NaN where one does; None: all do.
        dead: (n_chip, n_out), which neurons never spike; None where all may.
        always_on: of the same shape, which spike at time 0; None where none does.
        held_delays: of its spikes, as the chip can hold them; None: they take no time.
        delay_spread: by kind, how far its delays lie from these.
        neuron: made of the parameters by `finish`.
        convolution: how programmed weights are shared; a chip has a synapse for each use of one.
    """

    number: int
    layer: Layer
    last: bool
    dice: Dice
    counts: dict[str, int]
    distortions: Sequence[Any] = ()
    threshold: Parameter = field(init=False)
    tau_mem: Parameter = field(init=False)
    tau_syn: Parameter = field(init=False)
    error: Array | None = None
    gain: Array | None = None
    stuck: Array | None = None
    dead: Array | None = None
    always_on: Array | None = None
    held_delays: Delays | None = field(init=False)
    delay_spread: dict[str, Array] = field(default_factory=dict)
    neuron: LIF = field(init=False)
    convolution: Convolution | None = None
    _sent: dict[str, Array] = field(default_factory=dict, init=False, repr=False)
    _spreads: dict[str, tuple[Array, Array]] = field(default_factory=dict, init=False, repr=False)
    _sent_of: tuple[Array | None, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        model = self.neuron = self.layer.neuron
        self.threshold, self.tau_mem, self.tau_syn = model.threshold, model.tau_mem, model.tau_syn
        self.held_delays = self._held(self.layer.delays)

    def _held(self, delays: Delays | None) -> Delays | None:
        """Delays as all distortions let the chip hold them."""
        if delays is None:
            return None
        found = delays.map(lambda _, array: self.dice.later(array))
        for distortion in self.distortions:
            found = found.map(lambda _, array, part=distortion: _cast(part.hold(part.as_given(array)), array))
        return found.map(lambda _, array: computed("held", array))

    def delayed(self, delays: Delays | None) -> Silicon:
        """The same piece of silicon, programmed with other delays."""
        own = copy(self)
        own.layer, own.held_delays = replace(self.layer, delays=delays), self._held(delays)
        return own

    @property
    def n_chip(self) -> int:
        """Chips side by side."""
        return len(self.dice.seeds)

    @property
    def synapses(self) -> tuple[int, int]:
        """(n_pre, n_out)."""
        return self.layer.n_pre, self.layer.n_out

    def draw(self, kind: str, shape: tuple[int, ...], *, uniform: bool = False) -> Array:
        """(n_chip, *shape) numbers of this layer; see `Dice.once`."""
        return self.dice.once(kind, self.number, shape, uniform=uniform)

    def amplify(self, factor: Array) -> None:
        """Multiplies the gains; `factor` fits (n_chip, n_pre, n_out)."""
        self.gain = factor * (np.ones(self.synapses) if self.gain is None else self.gain)

    def finish(self) -> None:
        """Makes neurons of what was drawn; those whose threshold is at or below the leak are always on."""
        model, shape = self.layer.neuron, (self.n_chip, self.layer.n_out)
        low = np.broadcast_to(np.asarray(self.threshold) <= model.leak, shape)
        if low.any():
            self.threshold = np.where(low, model.threshold, self.threshold)
            self.always_on = low if self.dead is None else low & ~self.dead
            self.counts["neurons_always_on"] += int(np.count_nonzero(self.always_on))
        self.neuron = LIF(self.tau_mem, self.tau_syn, self.threshold, model.leak, model.capacitance)

    def effective(self, held: Array) -> Array:
        """What programmed weights come to; of a convolution neuron by neuron, where they differ."""
        if self.convolution is not None and not self._alike:
            held = self.dice.later(each(self.convolution, computed("weights", held)))
        come = held
        if self.error is not None:
            come = (come + self.beside(come, "error")).astype(held.dtype, copy=False)
        if self.gain is not None:
            come = (come * self.beside(come, "gain")).astype(held.dtype, copy=False)
        if self.stuck is not None:
            stuck = self.dice.later(self.beside(held, "stuck"))
            come = np.where(np.isnan(stuck), come, stuck).astype(held.dtype, copy=False)
        return come

    def beside(self, array: Array, name: str) -> Array:
        """An array of the chip where another one is: figures ask for weights on the host."""
        return getattr(self, name) if array_module(array=array) is np else self.there(name)

    def there(self, name: str) -> Array:
        """An array of the chip where trials are computed: itself, or a copy on a device, sent once."""
        drawn = (self.error, self.gain, self.stuck, self.dead, self.always_on)
        if not self._sent_of or any(a is not b for a, b in zip(self._sent_of, drawn, strict=True)):
            self._sent, self._sent_of = {}, drawn
        if name not in self._sent:
            self._sent[name] = self.dice.place(getattr(self, name))
        return self._sent[name]

    def send(self, delays: Sequence[str] = ()) -> None:
        """Sends all that trials and gradients need of the chip to where they are computed.

        Args:
            delays: kinds that spikes have.
        """
        for kind in delays if self.delay_spread else ():
            self._spread(kind)
        for name in dict.fromkeys((*_SYNAPSES, "always_on", self._factor)):
            if getattr(self, name) is not None:
                self.there(name)

    @property
    def unheard(self) -> Array | None:
        """(n_chip, n) who is never heard: the dead, of a pool windows that have no others; None: nobody."""
        if self.dead is None or self.convolution is None:
            return self.dead
        return self.convolution.unheard(self.dead)

    @property
    def _alike(self) -> bool:
        """Whether neurons that share programmed weights are the same."""
        drawn = self.error, self.gain, self.stuck, self.always_on
        return self.neuron.uniform and all(array is None for array in drawn)

    def pull_back(self, grad: Array) -> Array:
        """The gradient of effective weights as that of the programmed ones."""
        if self.gain is not None or self.stuck is not None:
            grad = (self.dice.later(grad) * self.beside(grad, self._factor)).astype(grad.dtype)
            grad = computed("pull", grad)
        return grad if self.convolution is None else together(self.convolution, grad)

    @property
    def delays(self) -> Delays | None:
        """Of its spikes, as the chip has them; none below 0."""
        if self.held_delays is None or not self.delay_spread:
            return self.held_delays

        def there(kind: str, held: Array) -> Array:
            spread = self.delay_spread[kind]
            if array_module(array=held) is not np:
                spread, held = self._spread(kind), self.dice.later(held)
            return computed("delays", np.maximum(held + spread, 0.0).astype(held.dtype))

        return self.held_delays.map(there)

    def _spread(self, kind: str) -> Array:
        """How far delays of a kind lie from what is held, where trials are computed; sent once."""
        own = self.delay_spread[kind]
        if self._spreads.get(kind, (None,))[0] is not own:
            self._spreads[kind] = own, self.dice.place(own)
        return self._spreads[kind][1]

    @property
    def fixed(self) -> list[Array]:
        """Masks (n_chip, n_out), where trials are computed, of neurons whose thresholds these do not move."""
        return [self.there(name) for name in ("dead", "always_on") if getattr(self, name) is not None]

    @property
    def _factor(self) -> str:
        """The name of the pull factor: where no synapse is stuck, the gain's, which is sent in any case."""
        return "gain" if self.stuck is None else "pull_factor"

    @property
    def pull_factor(self) -> Array | None:
        """Derivative (n_chip, n_pre, n_out) of an effective weight by the programmed one; None for 1."""
        if self.stuck is None:
            return self.gain
        return np.isnan(self.stuck) * (1.0 if self.gain is None else self.gain)

    def arrays(self) -> dict[str, Array]:
        """What was drawn, by name."""
        drawn = {name: getattr(self, name) for name in (*_SYNAPSES, "always_on")}
        drawn |= {name: getattr(self.neuron, name) for name in _NEURON}
        drawn |= {f"{kind}_delay_spread": spread for kind, spread in self.delay_spread.items()}
        return {f"{k}_{self.number}": v for k, v in drawn.items() if isinstance(v, np.ndarray)}

    def take(self, arrays: Mapping[str, Array]) -> None:
        """Becomes the layer whose `arrays` were kept, all of which are there."""
        drawn = self.arrays()
        for name in _SYNAPSES:
            at = f"{name}_{self.number}"
            setattr(self, name, arrays[at] if at in drawn else None)
        self.always_on = arrays.get(f"always_on_{self.number}")
        self.delay_spread = {k: arrays[f"{k}_delay_spread_{self.number}"] for k in self.delay_spread}
        kept = {name: arrays[at] for name in _NEURON if (at := f"{name}_{self.number}") in drawn}
        self.neuron = replace(self.neuron, **kept)


_SYNAPSES, _NEURON = ("error", "gain", "stuck", "dead"), ("threshold", "tau_mem", "tau_syn")
"""What is kept of a layer, beside who is always on: names in checkpoints."""


@dataclass(frozen=True)
class Trials:
    """The trials of one batch in one layer, or for the inputs of the first.

    Attributes:
        dice, moment: what to draw with, and when.
        number: of the layer.
        like: (n_chip, n_batch, n) an empty array on the host, of the type of the spike times.
        neuron: the layer's.
        plain: for a distortion that is not the package's: a device's numbers are there, none computed later.
    """

    dice: Dice
    moment: Moment
    number: int
    like: Array
    neuron: LIF
    plain: bool = False

    def normals(self, kind: str) -> Array:
        """A normal number for each neuron, or input, in each trial; see `Dice` for the kind."""
        drawn = self.dice.normals(kind, self.like, self.number, self.moment)
        return computed("normals", drawn) if self.plain else drawn

    def constant(self, values: Array) -> Array:
        """A few numbers of the chips, where trials are computed."""
        return self.dice.constant(values)

    def lost(self, kind: str, share: float) -> NDArray[np.bool_]:
        """Which of many spikes are lost: those whose normal number lies in the tail of that share."""
        level = NormalDist().inv_cdf(share) if 0.0 < share < 1.0 else math.copysign(math.inf, share - 0.5)
        return self.normals(kind) < level


class Clock(NamedTuple):
    """When spikes can be seen.

    Attributes:
        grid: at multiples of it; 0: whenever they come.
        end: not behind it.
    """

    grid: float = 0.0
    end: float = math.inf

    @property
    def last(self) -> float:
        """Time after which no spike is seen: the trial's end, or on a grid the last tick in it."""
        if self.grid == 0.0 or math.isinf(self.end):
            return self.end
        # As ticks are computed: 3 * 0.1 lies behind 0.3.
        return math.floor(self.end / self.grid + SAME_TICK) * self.grid


def _cast(array: Array, like: Array) -> Array:
    """What a distortion returns, in the type of what it was given."""
    return array.astype(like.dtype, copy=False)
