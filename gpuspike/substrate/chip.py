"""One piece of silicon, emulated: drawn from its seed; each trial on it draws the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.errors import ConfigError, DataError, ValueRangeError
from gpuspike.kernels import Kernels, LayerState, Trial, seen
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.waiting import computed, kept
from gpuspike.network import passes
from gpuspike.network.delays import Delays
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.network.unshared import unshared
from gpuspike.neuron import LIF
from gpuspike.substrate.distortions import DISTORTIONS, Distortion
from gpuspike.substrate.distortions.threshold_noise import ThresholdNoise
from gpuspike.substrate.silicon import Clock, Dice, Silicon, Trials
from gpuspike.substrate.spec import Substrate

Array = NDArray[Any]


class Chip(Protocol):
    """Whatever answers inputs with spike times: an emulator, a laboratory's hardware, a recording of it."""

    def program(self, weights: Sequence[Array]) -> list[Array]:
        """Weights of every layer as the chip can hold them, (n_replica, n_pre, n_post)."""
        ...

    def limit(self, weights: Sequence[Array]) -> None:
        """Keeps the trainer's weights, in place, in the range that the chip can hold."""
        ...

    def __call__(self, weights: Sequence[Array], received: LayerInput, moment: Moment) -> list[Array]:
        """Spike times of every layer, (n_replica, n_batch, n_post), inf = no spike.

        Args:
            weights: as the trainer has them, not yet programmed.
            received: (n_replica or 1, n_batch, n_pre) input spikes, the first layer's bias spikes at the end.
        """
        ...


class Programmed(NamedTuple):
    """Weights of each layer on a chip, for one step; see `programming`.

    Attributes:
        held: as they are programmed;  come: what they come to.
        slopes: whether the step's gradient needs the slopes of the chip's membranes.
    """

    held: list[Array]
    come: list[Array]
    slopes: bool = True


class EmulatedChip:
    """Chips of one kind, one on each place of the replica axis.

    Attributes:
        seeds: of the chips. Each of a chip's numbers has an address of its own: chip 17 is the same alone,
            among a hundred others, and under a network of more layers.
        counts: draws that left the physics: time constants drawn again, neurons that are always on.

    Raises:
        ValueRangeError: a shift that leaves no time constant.
        ConfigError: a convolution with delays.
    """

    def __init__(
        self, substrate: Substrate, layers: Sequence[Layer], kernels: Kernels, seeds: Sequence[int]
    ) -> None:
        self.substrate = substrate
        self.seeds = tuple(seeds)
        self.counts = {"time_constants_drawn_again": 0, "neurons_always_on": 0}
        self._taken = False
        if any(layer.convolution is not None and layer.delays is not None for layer in layers):
            raise ConfigError("a convolution with delays has no emulated chip")
        self._layers, self._kernels, self._dice = tuple(layers), kernels, Dice(seeds, kernels)
        last, given = len(layers) - 1, (self._dice, self.counts, substrate.distortions)
        self._silicon = [
            Silicon(number, unshared(layer), number == last, *given, convolution=layer.convolution)
            for number, layer in enumerate(layers)
        ]
        for silicon in self._silicon:
            for distortion in substrate.distortions:
                distortion.draw(silicon, substrate)
            silicon.finish()

    def under(self, layers: Sequence[Layer]) -> EmulatedChip:
        """The same pieces of silicon, with what they make of other constants of the neurons.

        Raises:
            ConfigError: a kept chip that its seed draws otherwise today.
        """
        if self._taken:
            own, drawn = self.arrays(), self._anew(self._layers).arrays()
            if own.keys() != drawn.keys() or any(own[k].tobytes() != drawn[k].tobytes() for k in own):
                raise ConfigError(
                    "a kept chip must be one that its seed still draws, to have trained constants"
                )
            self._taken = False
        return self._anew(layers)

    def delayed(self, layers: Sequence[Layer]) -> EmulatedChip:
        """The same pieces of silicon with other delays; what a user's distortion draws may look at them."""
        if not self._dice.on_device and any(not one.packaged for one in self.substrate.doing("draw")):
            return self.under(layers)
        own = copy(self)
        own._layers = tuple(layers)
        own._silicon = [
            silicon.delayed(layer.delays) for silicon, layer in zip(self._silicon, layers, strict=True)
        ]
        return own

    def _anew(self, layers: Sequence[Layer]) -> EmulatedChip:
        return EmulatedChip(self.substrate, layers, self._kernels, self.seeds)

    @property
    def neurons(self) -> list[LIF]:
        """Of each layer."""
        return [silicon.neuron for silicon in self._silicon]

    @property
    def delays(self) -> list[Delays | None]:
        """Of each layer, as the chip has them."""
        return [silicon.delays for silicon in self._silicon]

    @property
    def held_delays(self) -> list[Delays | None]:
        """Of each layer, as the chip can hold them: what a trainer may know of its delays."""
        return [silicon.held_delays for silicon in self._silicon]

    @property
    def dead_fraction(self) -> Array:
        """(n_layer, n_chip) shares of neurons that are dead, of a pool's windows those without another."""
        none = np.zeros(len(self.seeds))
        return np.stack([none if (dead := s.unheard) is None else dead.mean(axis=1) for s in self._silicon])

    @property
    def dead_maps(self) -> list[Array | None]:
        """(n_chip, n_neurons) which neurons of each convolution are dead; None of other layers."""
        return [None if silicon.convolution is None else silicon.dead for silicon in self._silicon]

    @property
    def dead_neurons(self) -> list[Array | None]:
        """(n_chip, n_neurons) which neurons of each layer are dead; None: none are."""
        return [silicon.dead for silicon in self._silicon]

    @property
    def convolutions(self) -> list[Convolution | None]:
        """Of each layer, with padding that spikes when the chip's clock has it seen."""
        clock = self.substrate.clock

        def there(convolution: Convolution) -> Convolution:
            pad_time = seen(np.array([convolution.pad_time]), clock.grid, clock.last)
            return replace(convolution, pad_time=float(pad_time[0]))

        return [own.convolution and there(own.convolution) for own in self._layers]

    def send(self, delays: Sequence[str] = ()) -> None:
        """Sends what was drawn to the device where kernels compute, if it is one: steps then find it.

        Args:
            delays: kinds that spikes have.
        """
        for silicon in self._silicon:
            silicon.send(delays)

    def program(self, weights: Sequence[Array]) -> list[Array]:
        """Weights as the chip can hold them; see `Chip.program`."""
        return [computed("weights", held) for held in self._held(weights)]

    def _held(self, weights: Sequence[Array]) -> list[Array]:
        """The same, of a device computed later."""
        later = self._dice.later
        return [self.substrate.programmed(later(w), number) for number, w in enumerate(weights)]

    def programming(self, weights: Sequence[Array], *, slopes: bool = True) -> Programmed:
        """Weights as they are for one step, of a device computed with whatever needs them first."""
        held = [kept(w) for w in self._held(weights)]
        return Programmed(held, [kept(w) for w in self._come(held)], slopes)

    def limit(self, weights: Sequence[Array]) -> None:
        """Keeps weights in range; see `Chip.limit`."""
        self.substrate.limit(weights)

    def effective(self, weights: Sequence[Array]) -> list[Array]:
        """What the trainer's weights come to: programmed, with errors and gains, dead and stuck synapses."""
        return self.come(self.program(weights))

    def come(self, held: Sequence[Array]) -> list[Array]:
        """What programmed weights come to."""
        return [computed("weights", come) for come in self._come([self._dice.later(w) for w in held])]

    def _come(self, held: Sequence[Array]) -> list[Array]:
        """The same, of a device computed later."""
        return [silicon.effective(w) for silicon, w in zip(self._silicon, held, strict=True)]

    def pull_back(self, grads: Sequence[Array]) -> list[Array]:
        """Gradients of the effective weights as those of the programmed ones."""
        return [silicon.pull_back(grad) for silicon, grad in zip(self._silicon, grads, strict=True)]

    def pull_factors(self) -> list[Array | None]:
        """Derivatives (n_chip, n_pre, n_out) of the effective weights by the programmed ones; None for 1."""
        return [silicon.pull_factor for silicon in self._silicon]

    def why_by_pieces(self) -> str | None:
        """Why the compiled training step cannot have this chip; None where it can."""
        for distortion in self.substrate.distortions:
            doing = {hook: part for hook, part in _DONE_THERE.items() if distortion.does(hook)}
            strange = any(type(distortion) is not DISTORTIONS[part] for part in doing.values())
            if strange or distortion.does("arrive") or not distortion.compiled:
                verb = "are" if ", " in str(distortion) else "is"
                return f"{distortion} {verb} not in the compiled step"
        if not all(neuron.shares_taus for neuron in self.neurons):
            return "neurons with time constants of their own are not in the compiled step"
        return None

    def thresholds(self, number: int, dtype: Any) -> tuple[Array, Array]:
        """(n_chip, n_out) base and factor: a trial's threshold is the chip's times base + factor * normal.

        No noise reaches dead neurons, nor those that are always on.
        """
        silicon = self._silicon[number]
        shape = (len(self.seeds), silicon.layer.n_out)
        factor = np.zeros(shape, dtype)
        for distortion in self.substrate.distortions:
            if isinstance(distortion, ThresholdNoise):
                factor[:] = distortion.factor(silicon.neuron, factor.dtype)
        for fixed in (silicon.dead, silicon.always_on):
            if fixed is not None:
                factor[fixed] = 0.0
        return self._base(silicon, dtype), factor

    def _base(self, silicon: Silicon, dtype: Any) -> Array:
        """The first of the `thresholds`."""
        base = np.ones((len(self.seeds), silicon.layer.n_out), dtype)
        if silicon.always_on is not None:
            base[silicon.always_on] = -1.0
        return base

    def bias_times(self) -> list[tuple[float, ...]]:
        """Of each layer, when its bias spikes come on the chip."""
        grid, last = self.substrate.clock.grid, self.substrate.clock.last
        return [
            tuple(seen(np.array(layer.bias_times, np.float64), grid, last).tolist()) for layer in self._layers
        ]

    def states(
        self,
        weights: Sequence[Array],
        received: LayerInput,
        moment: Moment,
        programmed: Programmed | None = None,
    ) -> list[LayerState]:
        """What happens on the chip, its membranes' own crossings included.

        Args:
            weights: as the trainer has them, (n_chip, n_pre, n_post) of each layer.
            received: (n_chip or 1, n_batch, n_pre) input spikes.
            moment: address of the trials' randomness.
            programmed: what `programming` makes of the weights, where somebody else needs it too.
        """
        received = self._arriving(received, moment)
        n_batch, dtype, trials = received.t_in.shape[1], weights[0].dtype, None
        quiet = self.substrate.clock == Clock() and not any(map(self.substrate.doing, ("lift", "delay")))
        if not quiet or any(silicon.always_on is not None for silicon in self._silicon):
            trials = [self._trial(silicon, n_batch, dtype, moment) for silicon in self._silicon]
        known, place = self.programming(weights) if programmed is None else programmed, self._kernels.place
        if trials is not None and not known.slopes:
            trials = [trial._replace(slopes=False) for trial in trials]
        return passes.forward(
            self._kernels,
            received,
            known.come,
            self.neurons,
            [None if own is None else own.to(place) for own in self.delays],
            self.bias_times(),  # those of the first layer are in the input already
            trials,
            self.convolutions,
        )

    def __call__(self, weights: Sequence[Array], received: LayerInput, moment: Moment) -> list[Array]:
        """Spike times of every layer; see `Chip`."""
        return [state.t_out for state in self.states(weights, received, moment)]

    def arrays(self) -> dict[str, Array]:
        """What was drawn, by name: the chip as a thing that can be kept."""
        kept: dict[str, Array] = {}
        for silicon in self._silicon:
            kept |= silicon.arrays()
        return kept

    def take(self, arrays: Mapping[str, Array]) -> None:
        """Becomes the chip whose `arrays` were kept, whatever today's generators draw from its seed.

        Raises:
            DataError: an array that this kind of chip would have is missing or of another shape.
        """
        for name, own in self.arrays().items():
            found = arrays.get(name, np.empty(0))
            if found.shape != own.shape and not name.startswith("always_on"):
                raise DataError(f"a kept chip must have {name} of shape {own.shape}, got {found.shape}")
        for silicon in self._silicon:
            silicon.take(arrays)
        self._taken = True

    def _arriving(self, received: LayerInput, moment: Moment) -> LayerInput:
        """Input spikes as they arrive at the chip."""
        t_in, clock = received.t_in, self.substrate.clock
        if on_their_way := self.substrate.doing("arrive"):  # each chip has its own
            t_in = self._underway(t_in, on_their_way, moment)
        ends = clock.last < np.inf  # which a device is not asked whether it changes anything
        if clock.grid > 0.0 or (ends and (self._dice.on_device or _ends_some(t_in, clock.last))):
            t_in = seen(self._dice.later(t_in), clock.grid, clock.last)
        t_in = computed("inputs", t_in)
        return received if t_in is received.t_in else LayerInput(t_in, None)

    def _underway(self, t_in: Array, on_their_way: Sequence[Distortion], moment: Moment) -> Array:
        """Input spikes (n_chip, n_batch, n_pre) after what happens to them on their way."""
        n_in, shape = self._layers[0].n_in, (len(self.seeds), *t_in.shape[1:])
        waits = (
            self._dice.on_device
            and n_in == shape[2]
            and all(distortion.packaged for distortion in on_their_way)
        )
        if waits:
            t_in = inputs = self._dice.later(t_in, shape)
        else:  # bias spikes are behind the inputs, which change where they are
            alone = len(t_in) < len(self.seeds)
            t_in = array_module(t_in=t_in).repeat(t_in, len(self.seeds), axis=0) if alone else t_in.copy()
            inputs = t_in[:, :, :n_in]
        like = np.empty(inputs.shape, t_in.dtype)  # of the host: only its shape and type are asked for
        trials = Trials(self._dice, moment, 0, like, self._silicon[0].neuron, plain=not waits)
        for distortion in on_their_way:
            distortion.arrive(inputs, trials)
            _refuse_nan(distortion, "arrive", inputs)
        return t_in

    def _trial(self, silicon: Silicon, n_batch: int, dtype: Any, moment: Moment) -> Trial:
        """What the trials of a batch draw for one layer."""
        clock, lift, delay = self.substrate.clock, None, None
        like = np.empty((len(self.seeds), n_batch, silicon.layer.n_out), dtype)
        trials = Trials(self._dice, moment, silicon.number, like, silicon.neuron)
        later = self._dice.later
        for distortion in self.substrate.doing("lift"):
            own = distortion.lift(trials if distortion.packaged else replace(trials, plain=True))
            _refuse_nan(distortion, "lift", own)
            lift = own if lift is None else later(lift) + own
        if lift is not None or silicon.always_on is not None:
            base = self._dice.constant(self._base(silicon, like.dtype)[:, None])
            if lift is None:
                lift = np.broadcast_to(base, like.shape)
                lift = lift.copy() if self._dice.on_device else lift
            else:
                for fixed in silicon.fixed:
                    lift = np.where(later(fixed[:, None]), 0.0, lift).astype(like.dtype, copy=False)
                lift = later(lift)
                lift += base
        for distortion in self.substrate.doing("delay"):
            if distortion.packaged:
                delay = distortion.delay(None if delay is None else later(delay), trials)
            else:
                before = None if delay is None else computed("before", delay)
                delay = distortion.delay(before, replace(trials, plain=True))
            _refuse_nan(distortion, "delay", delay)
        return Trial(lift if lift is None else computed("lift", lift), delay, clock.grid, clock.last)


def _ends_some(t_in: Array, last: float) -> bool:
    """Whether any of the spikes comes too late."""
    return bool(((t_in > last) & (t_in < np.inf)).any())


_DONE_THERE = {"lift": "threshold_noise", "delay": "spike_jitter", "clock": "trial_end"}
"""What the compiled step does in trials: of each hook one distortion."""


def _refuse_nan(distortion: Distortion, hook: str, array: Array | None) -> None:
    """Refuses NaN that a distortion of a user's own has made, on the host; the package's own make none.

    Raises:
        ValueRangeError: by the distortion's name.
    """
    if distortion.packaged or array is None or array_module(array=array) is not np:
        return
    if count := int(np.isnan(array).sum()):
        name = type(distortion).__name__
        raise ValueRangeError(f"{hook} of the distortion {name} must make numbers or inf, got {count} NaN")
