"""One piece of silicon, emulated: drawn from its seed; each trial on it draws the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, ValueRangeError
from gpuspike.kernels import SAME_TICK, Kernels, LayerState, Trial
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.neuron import LIF, Parameter
from gpuspike.rng import Purpose, stream
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


class EmulatedChip:
    """Chips of one kind, one on each place of the replica axis.

    Attributes:
        seeds: of the chips. Each of a chip's numbers has an address of its own: chip 17 is the same alone,
            among a hundred others, and under a network of more layers.
        neurons: of each layer.
        counts: draws that left the physics: time constants drawn again, neurons that are always on.

    Raises:
        ValueRangeError: a shift that leaves no time constant.
    """

    def __init__(
        self, substrate: Substrate, layers: Sequence[Layer], kernels: Kernels, seeds: Sequence[int]
    ) -> None:
        self.substrate = substrate
        self.seeds = tuple(seeds)
        self.counts = {"time_constants_drawn_again": 0, "neurons_always_on": 0}
        self._layers, self._kernels = tuple(layers), kernels
        self._dead = [self._dead_neurons(number) for number in range(len(layers))]
        self._gains = [self._gain(number) for number in range(len(layers))]
        self._stuck = [self._stuck_weights(number) for number in range(len(layers))]
        self._always_on: list[Array | None] = [None] * len(layers)
        self.neurons = [self._neuron(number) for number in range(len(layers))]

    def _draw(self, kind: str, layer: int, shape: tuple[int, ...], *, uniform: bool = False) -> Array:
        """(n_chip, *shape) numbers at this kind's address: normal ones, or uniform ones from 0 to 1."""
        streams = (stream(seed, Purpose.CHIP, layer, _KINDS.index(kind)) for seed in self.seeds)
        return np.stack([s.random(shape) if uniform else s.standard_normal(shape) for s in streams])

    def _dead_neurons(self, number: int) -> Array | None:
        """(n_chip, n_out), which neurons never spike; None where all may."""
        layer, share = self._layers[number], self.substrate.dead_neurons
        if not share or layer is self._layers[-1]:  # a class is given a neuron that works
            return None
        return self._draw("dead_neurons", number, (layer.n_out,), uniform=True) < share

    def _gain(self, number: int) -> Array | None:
        """Factor of each synapse, 0 for what is dead; None where all are 1."""
        layer, substrate, dead = self._layers[number], self.substrate, self._dead[number]
        shape, gain = (layer.n_pre, layer.n_out), None
        if substrate.gain_std:
            gain = 1.0 + substrate.gain_std * self._draw("gain", number, shape)
        if substrate.dead_synapses:
            lives = self._draw("dead_synapses", number, shape, uniform=True) >= substrate.dead_synapses
            gain = lives * (1.0 if gain is None else gain)
        if dead is not None:
            gain = ~dead[:, None] * (np.ones(shape) if gain is None else gain)
        return gain

    def _stuck_weights(self, number: int) -> Array | None:
        """What each synapse weighs whatever is written to it, NaN where it obeys; None where all do."""
        layer, share = self._layers[number], self.substrate.stuck_synapses
        if not share:
            return None
        shape = (layer.n_pre, layer.n_out)
        at = self._draw("stuck_synapses", number, shape, uniform=True) < share
        anywhere = 2.0 * self._draw("stuck_at", number, shape, uniform=True) - 1.0
        stuck = self.substrate.programmed(anywhere * self.substrate.most(number), number)
        dead = self._dead[number]  # which no synapse could wake
        return np.where(at if dead is None else at & ~dead[:, None], stuck, np.nan)

    def _neuron(self, number: int) -> LIF:
        layer, substrate, dead = self._layers[number], self.substrate, self._dead[number]
        model, shape = layer.neuron, (len(self.seeds), layer.n_out)

        def positive(kind: str, value: Parameter, shift: float, std: float) -> Parameter:
            if not np.all(value + shift > 0.0):
                raise ValueRangeError(
                    f"substrate.{kind}_shift must leave {kind} positive, got {shift!r} on {value!r}"
                )
            if not std or np.all(np.isinf(value)):  # a spread of infinity is none
                return value + shift
            drawn = value + shift + std * self._draw(kind, number, (layer.n_out,))
            # Those of each chip go on with that chip's own numbers.
            for row, seed in zip(drawn, self.seeds, strict=True):
                again = stream(seed, Purpose.CHIP, number, _KINDS.index(f"{kind}_again"))
                while (wrong := row <= 0.0).any():
                    self.counts["time_constants_drawn_again"] += int(wrong.sum())
                    row[wrong] = value + shift + std * again.standard_normal(int(wrong.sum()))
            return drawn

        threshold = model.threshold + substrate.threshold_shift
        if substrate.threshold_std:
            threshold = np.broadcast_to(threshold, shape) + substrate.threshold_std * self._draw(
                "threshold", number, (layer.n_out,)
            )
        low = np.broadcast_to(np.asarray(threshold) <= model.leak, shape)
        if low.any():
            threshold = np.where(low, model.threshold, threshold)
            on = low if dead is None else low & ~dead
            self._always_on[number] = on
            self.counts["neurons_always_on"] += int(np.count_nonzero(on))
        return LIF(
            positive("tau_mem", model.tau_mem, substrate.tau_mem_shift, substrate.tau_mem_std),
            positive("tau_syn", model.tau_syn, substrate.tau_syn_shift, substrate.tau_syn_std),
            threshold,
            model.leak,
            model.capacitance,
        )

    @property
    def dead_fraction(self) -> Array:
        """(n_layer, n_chip) shares of dead neurons."""
        none = np.zeros(len(self.seeds))
        return np.stack([none if dead is None else dead.mean(axis=1) for dead in self._dead])

    def program(self, weights: Sequence[Array]) -> list[Array]:
        """Weights as the chip can hold them; see `Chip.program`."""
        return [self.substrate.programmed(w, number) for number, w in enumerate(weights)]

    def limit(self, weights: Sequence[Array]) -> None:
        """Keeps weights in range; see `Chip.limit`."""
        self.substrate.limit(weights)

    def effective(self, weights: Sequence[Array]) -> list[Array]:
        """What the programmed weights come to on the chip: gains, dead and stuck synapses."""
        come = []
        for w, gain, stuck in zip(self.program(weights), self._gains, self._stuck, strict=True):
            come.append(w if gain is None else (w * gain).astype(w.dtype))
            if stuck is not None:
                come[-1] = np.where(np.isnan(stuck), come[-1], stuck).astype(w.dtype)
        return come

    def pull_back(self, grads: Sequence[Array]) -> list[Array]:
        """Gradients of the effective weights as those of the programmed ones."""
        return [
            grad if factor is None else (grad * factor).astype(grad.dtype)
            for grad, factor in zip(grads, self.pull_factors(), strict=True)
        ]

    def pull_factors(self) -> list[Array | None]:
        """Derivatives (n_chip, n_pre, n_out) of the effective weights by the programmed ones; None for 1."""
        factors = []
        for gain, stuck in zip(self._gains, self._stuck, strict=True):
            factors.append(gain if stuck is None else np.isnan(stuck) * (1.0 if gain is None else gain))
        return factors

    @property
    def draws_alone(self) -> bool:
        """Whether trials draw nothing but thresholds and delays, and neurons share their time constants."""
        substrate = self.substrate
        more = substrate.input_jitter or substrate.lost_inputs or substrate.lost_spikes or substrate.time_grid
        return not more and all(neuron.shares_taus for neuron in self.neurons)

    def thresholds(self, number: int, dtype: Any) -> tuple[Array, Array]:
        """(n_chip, n_out) base and factor: a trial's threshold is the chip's times base + factor * normal.

        No noise reaches dead neurons, nor those that are always on.
        """
        shape = (len(self.seeds), self._layers[number].n_out)
        base, factor = np.ones(shape, dtype), np.zeros(shape, dtype)
        if self.substrate.threshold_noise:
            factor[:] = dtype.type(self.substrate.threshold_noise) / np.asarray(
                self.neurons[number].span, dtype
            )
        if (dead := self._dead[number]) is not None:
            factor[dead] = 0.0
        if (on := self._always_on[number]) is not None:
            base[on], factor[on] = -1.0, 0.0
        return base, factor

    def bias_times(self) -> list[tuple[float, ...]]:
        """Of each layer, when its bias spikes come on the chip."""
        return [self._on_grid(layer.bias_times) for layer in self._layers]

    def states(self, weights: Sequence[Array], received: LayerInput, moment: Moment) -> list[LayerState]:
        """What happens on the chip, its membranes' own crossings included.

        Args:
            weights: as the trainer has them, (n_chip, n_pre, n_post) of each layer.
            received: (n_chip or 1, n_batch, n_pre) input spikes.
            moment: address of the trials' randomness.
        """
        received = self._arriving(received, moment)
        n_batch, dtype, trials = received.t_in.shape[1], weights[0].dtype, None
        if self.substrate.changes_by_trial or any(on is not None for on in self._always_on):
            trials = [self._trial(number, n_batch, dtype, moment) for number in range(len(self._layers))]
        return self._kernels.forward(
            received.t_in,
            received.order,
            self.effective(weights),
            self.neurons,
            self.bias_times(),  # those of the first layer are in the input already
            trials,
        )

    def __call__(self, weights: Sequence[Array], received: LayerInput, moment: Moment) -> list[Array]:
        """Spike times of every layer; see `Chip`."""
        return [state.t_out for state in self.states(weights, received, moment)]

    def arrays(self) -> dict[str, Array]:
        """What was drawn, by name: the chip as a thing that can be kept."""
        kept: dict[str, Array] = {}
        for number, neuron in enumerate(self.neurons):
            drawn: Mapping[str, Any] = {
                "gain": self._gains[number],
                "stuck": self._stuck[number],
                "dead": self._dead[number],
                "always_on": self._always_on[number],
                "threshold": neuron.threshold,
                "tau_mem": neuron.tau_mem,
                "tau_syn": neuron.tau_syn,
            }
            kept |= {f"{k}_{number}": v for k, v in drawn.items() if isinstance(v, np.ndarray)}
        return kept

    def take(self, arrays: Mapping[str, Array]) -> None:
        """Becomes the chip whose `arrays` were kept, whatever today's generators draw from its seed.

        Raises:
            DataError: an array that this kind of chip would have is missing or of another shape.
        """
        drawn = {name: own for name, own in self.arrays().items() if not name.startswith("always_on")}
        for name, own in drawn.items():
            found = arrays.get(name, np.empty(0))
            if found.shape != own.shape:
                raise DataError(f"a kept chip must have {name} of shape {own.shape}, got {found.shape}")
        for number, neuron in enumerate(self.neurons):
            kept = {kind: arrays[f"{kind}_{number}"] for kind in _KEPT if f"{kind}_{number}" in drawn}
            self._gains[number], self._stuck[number] = kept.pop("gain", None), kept.pop("stuck", None)
            self._dead[number] = kept.pop("dead", None)
            self._always_on[number] = arrays.get(f"always_on_{number}")
            self.neurons[number] = replace(neuron, **kept)

    def _normals(self, like: Array, purpose: Purpose, layer: int, moment: Moment) -> Array:
        return self._kernels.normals(like, self.seeds, purpose, layer, *moment)

    def _arriving(self, received: LayerInput, moment: Moment) -> LayerInput:
        """Input spikes as they arrive at the chip."""
        substrate, n_in, t_in = self.substrate, self._layers[0].n_in, received.t_in
        if substrate.input_jitter or substrate.lost_inputs:  # each chip has its own
            t_in = np.repeat(t_in, len(self.seeds), axis=0) if len(t_in) < len(self.seeds) else t_in.copy()
            inputs = t_in[:, :, :n_in]
            like = np.empty(inputs.shape, t_in.dtype)
            if substrate.input_jitter:
                jitter = substrate.input_jitter * self._normals(like, Purpose.INPUT_JITTER, 0, moment)
                np.abs(inputs + jitter, out=inputs)
            if substrate.lost_inputs:
                inputs[self._lost(like, Purpose.LOST_INPUTS, 0, substrate.lost_inputs, moment)] = np.inf
        if substrate.time_grid:
            t_in = self._ticks(t_in).astype(t_in.dtype)
        late = (t_in > substrate.last_seen) & (t_in < np.inf)
        if late.any():
            t_in = np.where(late, np.inf, t_in).astype(t_in.dtype)
        return received if t_in is received.t_in else LayerInput(t_in, None)

    def _ticks(self, times: Array) -> Array:
        grid = self.substrate.time_grid
        return np.ceil(times.astype(np.float64) / grid - SAME_TICK) * grid

    def _on_grid(self, bias_times: Sequence[float]) -> tuple[float, ...]:
        times = np.asarray(bias_times, np.float64)
        if self.substrate.time_grid:
            times = self._ticks(times)
        return tuple(np.where(times > self.substrate.last_seen, np.inf, times).tolist())

    def _trial(self, number: int, n_batch: int, dtype: Any, moment: Moment) -> Trial:
        """What the trials of a batch draw for one layer."""
        substrate, on, lift, delay = self.substrate, self._always_on[number], None, None
        like = np.empty((len(self.seeds), n_batch, self._layers[number].n_out), dtype)
        if substrate.threshold_noise or on is not None:
            base, factor = (x[:, None] for x in self.thresholds(number, like.dtype))
            lift = np.broadcast_to(base, like.shape)
            if substrate.threshold_noise:
                lift = self._normals(like, Purpose.THRESHOLD_NOISE, number, moment)
                lift *= factor
                lift += base
        if substrate.spike_jitter:
            delay = self._normals(like, Purpose.SPIKE_JITTER, number, moment)
            delay *= dtype.type(substrate.spike_jitter)
        if substrate.lost_spikes:
            lost = self._lost(like, Purpose.LOST_SPIKES, number, substrate.lost_spikes, moment)
            delay = np.where(lost, np.inf, 0.0 if delay is None else delay).astype(dtype)
        return Trial(lift, delay, substrate.time_grid, substrate.last_seen)

    def _lost(self, like: Array, purpose: Purpose, layer: int, share: float, moment: Moment) -> Array:
        """Which of many spikes are lost: those whose normal number lies in the tail of that share."""
        level = NormalDist().inv_cdf(share) if 0.0 < share < 1.0 else math.copysign(math.inf, share - 0.5)
        return self._normals(like, purpose, layer, moment) < level


_KINDS = (
    "gain", "dead_synapses", "dead_neurons", "stuck_synapses", "stuck_at", "threshold", "tau_mem",
    "tau_mem_again", "tau_syn", "tau_syn_again",
)  # fmt: skip
"""What is drawn once a chip; the place in this list is part of the address and must never change."""

_KEPT = ("gain", "stuck", "dead", "threshold", "tau_mem", "tau_syn")
"""What is kept of a layer, beside who is always on."""
