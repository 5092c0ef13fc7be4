"""A chip in numbers: its limits and its distortions, each of which is off at the value it has here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.kernels import SAME_TICK
from gpuspike.network.layers import Layer

Array = NDArray[Any]

MOST_LAYERS = 64
"""Layers whose trials have addresses of their own, see `rng.normals`."""


@dataclass(frozen=True)
class Substrate:
    """What a kind of chip does to a network, in the order in which it does it.

    Weights and potentials are in the model's units, times in its unit of time. Spreads and noises are
    standard deviations of normal numbers; shares are probabilities.

    1. weights, without chance: clipped to +-weight_max, rounded to multiples of a step;
    2. weights, drawn once a chip: times a gain of mean 1; dead synapses weigh nothing; stuck ones weigh what
       they like, evenly over the range; a dead neuron never spikes (the last layer gets living ones);
    3. neurons, drawn once a chip: threshold and time constants, about a mean that may be shifted;
    4. inputs, in each trial: jitter (reflected at 0), losses, time grid, end of the trial;
    5. thresholds, in each trial: noise;
    6. spikes, each for itself: jitter (not before 0), losses, time grid, end of the trial.

    Bias spikes, which the chip makes itself, know of all that only the time grid and the end of the trial.

    Attributes:
        name: of the preset.
        max_fan_in, max_neurons, max_synapses: what one chip has room for; 0: no limit.
        weight_max: largest |weight|, one for all layers or one each; empty: no limit.
        weight_bits: bits of a weight with its sign: 2^(bits - 1) - 1 steps up to weight_max; 0: no grid.
        weight_lsb: the step itself, instead of bits; 0: no grid.
        gain_std: of each synapse's gain.
        dead_synapses, stuck_synapses, dead_neurons: shares.
        threshold_shift, tau_mem_shift, tau_syn_shift: of the chip's mean from the model's value.
        threshold_std, tau_mem_std, tau_syn_std: from neuron to neuron. A neuron whose threshold is drawn at
            or below its leak is always on and spikes at time 0; a time constant at or below 0 is drawn again.
        input_jitter, lost_inputs: of input spikes.
        threshold_noise: from trial to trial.
        spike_jitter, lost_spikes: of the neurons' spikes.
        time_grid: spikes are seen at the next multiple of it.
        trial_end: spikes behind it are not seen; inf: never.

    Raises:
        ValueRangeError: a value that means nothing, or two that contradict each other, by their names.
    """

    name: str = "ideal"
    max_fan_in: int = 0
    max_neurons: int = 0
    max_synapses: int = 0
    weight_max: tuple[float, ...] = ()
    weight_bits: int = 0
    weight_lsb: float = 0.0
    gain_std: float = 0.0
    dead_synapses: float = 0.0
    stuck_synapses: float = 0.0
    dead_neurons: float = 0.0
    threshold_shift: float = 0.0
    threshold_std: float = 0.0
    tau_mem_shift: float = 0.0
    tau_mem_std: float = 0.0
    tau_syn_shift: float = 0.0
    tau_syn_std: float = 0.0
    input_jitter: float = 0.0
    lost_inputs: float = 0.0
    threshold_noise: float = 0.0
    spike_jitter: float = 0.0
    lost_spikes: float = 0.0
    time_grid: float = 0.0
    trial_end: float = math.inf

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith(("_std", "_jitter", "_noise", "_grid", "_lsb")) and not 0.0 <= value < math.inf:
                raise ValueRangeError(f"substrate.{name} must be 0 or more and finite, got {value!r}")
            if name.startswith(("dead_", "stuck_", "lost_")) and not 0.0 <= value <= 1.0:
                raise ValueRangeError(f"substrate.{name} must be a share from 0 to 1, got {value!r}")
            if name.startswith("max_") and value < 0:
                raise ValueRangeError(f"substrate.{name} must be 0 (no limit) or more, got {value!r}")
            if name.endswith("_shift") and not math.isfinite(value):
                raise ValueRangeError(f"substrate.{name} must be finite, got {value!r}")
        if not all(0.0 < most < math.inf for most in self.weight_max):
            raise ValueRangeError(
                f"substrate.weight_max must be positive and finite, got {list(self.weight_max)}"
            )
        if self.weight_bits and not 2 <= self.weight_bits <= 24:
            raise ValueRangeError(
                "substrate.weight_bits must be 0 (no grid) or from 2, sign included, to 24, "
                f"got {self.weight_bits}"
            )
        if self.weight_bits and self.weight_lsb:
            raise ValueRangeError(
                "substrate.weight_bits and substrate.weight_lsb both set the grid: one of them must be 0, "
                f"got {self.weight_bits} and {self.weight_lsb!r}"
            )
        for name in ("weight_bits", "stuck_synapses"):
            if getattr(self, name) and not self.weight_max:
                raise ValueRangeError(f"substrate.{name} needs a range, substrate.weight_max, got none")
        if self.weight_max and self.weight_lsb > min(self.weight_max):
            raise ValueRangeError(
                f"substrate.weight_max must be at least one step, substrate.weight_lsb={self.weight_lsb!r}, "
                f"got {list(self.weight_max)}"
            )
        if not self.trial_end > 0.0:
            raise ValueRangeError(f"substrate.trial_end must be positive, got {self.trial_end!r}")
        if self.time_grid > self.trial_end:
            raise ValueRangeError(
                "substrate.time_grid must not be coarser than the trial, "
                f"substrate.trial_end={self.trial_end!r}, got {self.time_grid!r}"
            )

    @property
    def ideal(self) -> bool:
        """Whether nothing at all is distorted."""
        limits = ("name", "max_fan_in", "max_neurons", "max_synapses")
        return all(getattr(self, f.name) == f.default for f in fields(self) if f.name not in limits)

    @property
    def last_seen(self) -> float:
        """Time after which no spike is seen: the trial's end, or on a grid the last tick in it."""
        if self.time_grid == 0.0 or math.isinf(self.trial_end):
            return self.trial_end
        # As ticks are computed: 3 * 0.1 lies behind 0.3.
        return math.floor(self.trial_end / self.time_grid + SAME_TICK) * self.time_grid

    @property
    def changes_by_trial(self) -> bool:
        """Whether there is more to a neuron's spike than its membrane's crossing of a fixed threshold."""
        chance = max(self.threshold_noise, self.spike_jitter, self.lost_spikes)
        return chance > 0.0 or self.time_grid > 0.0 or self.trial_end < math.inf

    def most(self, layer: int) -> float:
        """Largest |weight| of a layer; inf without a limit."""
        if not self.weight_max:
            return math.inf
        return self.weight_max[layer if len(self.weight_max) > 1 else 0]

    def step(self, layer: int) -> float:
        """Distance of a layer's weights on their grid; 0 without a grid."""
        return self.most(layer) / (2 ** (self.weight_bits - 1) - 1) if self.weight_bits else self.weight_lsb

    def limit(self, weights: Sequence[Array]) -> None:
        """Clips the weights of all layers to their range, in place."""
        for number, w in enumerate(weights):
            if (most := self.most(number)) < math.inf:
                np.clip(w, -most, most, out=w)

    def programmed(self, weights: Array, layer: int) -> Array:
        """A layer's weights as the chip can hold them: clipped, then rounded; or the same array."""
        most, step = self.most(layer), self.step(layer)
        if step == 0.0:
            return weights if most == math.inf else np.clip(weights, -most, most)
        steps = weights * weights.dtype.type(1.0 / step)
        np.rint(steps, out=steps)
        if most < math.inf:  # the last step that still lies in the range
            last = math.floor(most / step * (1.0 + 1e-9))
            np.clip(steps, -last, last, out=steps)
        steps *= weights.dtype.type(step)
        return steps

    def check_fit(self, layers: Sequence[Layer]) -> None:
        """Makes sure that a network has room on one chip.

        Raises:
            ConfigError: what is missing, and how many chips would have it.
        """
        if len(self.weight_max) not in (0, 1, len(layers)):
            raise ConfigError(
                f"substrate.weight_max must have one entry, or one for each of the {len(layers)} layers, "
                f"got {len(self.weight_max)}"
            )
        if len(layers) > MOST_LAYERS and not self.ideal:
            raise ConfigError(f"a chip has at most {MOST_LAYERS} layers, got {len(layers)}")
        fan_in = max(layer.n_pre for layer in layers)
        if self.max_fan_in and fan_in > self.max_fan_in:
            raise ConfigError(
                f"a neuron on {self.name} has at most {self.max_fan_in} inputs, got a layer with {fan_in}: "
                f"{fan_in - self.max_fan_in} too many, which no number of chips changes"
            )
        for what, most, needed in (
            ("neurons", self.max_neurons, sum(layer.n_out for layer in layers)),
            ("synapses", self.max_synapses, sum(layer.n_pre * layer.n_out for layer in layers)),
        ):
            if most and needed > most:
                raise ConfigError(
                    f"{self.name} has {most} {what}, got a network with {needed}: {needed - most} too many, "
                    f"as many as {-(-needed // most)} chips have"
                )
