"""A network that is trained on what a chip answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, ShapeError
from gpuspike.kernels import Kernels, LayerState, host
from gpuspike.kernels.bias import with_bias
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.waiting import computed, later
from gpuspike.network import passes
from gpuspike.network.constants import TRAINED
from gpuspike.network.delays import DELAYS, Delays
from gpuspike.network.layers import EVALUATION, Layer, LayerInput, Moment
from gpuspike.network.network import Architecture
from gpuspike.network.parameters import Parameters
from gpuspike.neuron import LIF
from gpuspike.substrate.chip import Chip, EmulatedChip, Programmed

Array = NDArray[Any]

NOMINAL, EXACT = "nominal", "exact"


class OnChip:
    """Stands where an `Architecture` does, and lets a chip answer in its place.

    Gradients, with respect to the programmed weights (rounding is passed straight through):

        nominal  the chip's spike times in the network's own equations, the way of training with real hardware
                 in the loop: the slope of the nominal membrane for the observed causal set, 0 where the
                 nominal neuron would not have spiked; a neuron's own delay has one wherever it spikes
        exact    of the emulated chip itself, with its gains, thresholds and time constants

    Attributes:
        network: the nominal one.
        chip: what answers.
        gradient: NOMINAL or EXACT.
        fresh: gives a new chip for each training batch, if given.

    Raises:
        ConfigError: an exact gradient of a chip that is not emulated, whose parameters nobody knows, or a
            convolution on one, which tells nothing of the neurons behind a pool.
    """

    def __init__(
        self,
        network: Architecture,
        chip: Chip,
        gradient: str = NOMINAL,
        fresh: Callable[[Moment], EmulatedChip] | None = None,
    ) -> None:
        if gradient not in (NOMINAL, EXACT):
            raise ConfigError(f"the gradient on a chip must be {NOMINAL} or {EXACT}, got {gradient!r}")
        if gradient == EXACT and not isinstance(chip, EmulatedChip):
            raise ConfigError(f"only an emulated chip has an exact gradient, got a {type(chip).__name__}")
        if network.convolves and not isinstance(chip, EmulatedChip):
            raise ConfigError(f"a convolution is trained on emulated chips, got a {type(chip).__name__}")
        self.network, self.chip, self.gradient, self.fresh = network, chip, gradient, fresh
        self._renewed: Moment | None = None  # what the chip is that of
        self._programmed: Programmed | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The nominal network's."""
        return self.network.layers

    @property
    def kernels(self) -> Kernels:
        """What computes."""
        return self.network.kernels

    def receive(self, t_in: Array, *, sort: bool = True) -> LayerInput:
        """The first layer's input; see `Architecture.receive`."""
        return self.network.receive(t_in, sort=sort)

    def having(self, parameters: Parameters) -> OnChip:
        """The same with the constants that the neurons have learnt, and with what the chip makes of them.

        Raises:
            ConfigError: constants for a chip that is not emulated, or their exact gradient where thresholds
                change from trial to trial, which the weights' gradient does not tell apart.
        """
        if not parameters.trained:
            return self
        if not isinstance(self.chip, EmulatedChip):
            kind = type(self.chip).__name__
            raise ConfigError(
                f"{', '.join(parameters.trained)} can be trained on emulated chips, got a {kind}"
            )
        ratios = [name for name in parameters.trained if name in TRAINED and not TRAINED[name].NEEDS_TAUS]
        if ratios and self.exact is not None and (lifting := self.chip.substrate.doing("lift")):
            name, why = ", ".join(ratios), ", ".join(map(str, lifting))
            raise ConfigError(
                f"{name} has no exact gradient where thresholds change from trial to trial ({why}): "
                "substrate.gradient=nominal has one"
            )
        network = self.network.having(parameters)

        def programmed(chip: EmulatedChip) -> EmulatedChip:
            if all(name in DELAYS for name in parameters.trained):
                return chip.delayed(network.layers)
            return chip.under(network.layers)

        fresh = self.fresh
        anew = None if fresh is None else lambda moment: programmed(fresh(moment))
        own = OnChip(network, programmed(self.chip), self.gradient, anew)
        own._renewed = self._renewed
        return own

    def forward(
        self, weights: Sequence[Array], received: LayerInput, moment: Moment | None = None
    ) -> list[LayerState]:
        """What the chip answers, as `Architecture.forward` tells it.

        Args:
            moment: address of the trials' randomness; those of an evaluation unless given.

        Raises:
            ShapeError: a chip's answer that does not fit the network.
        """
        moment = moment or Moment()
        self.renew(moment)
        if isinstance(self.chip, EmulatedChip):
            return self.chip.states(weights, received, moment, self._programmed)
        states: list[LayerState] = []
        t_in, order = received.t_in, np.empty(0, np.int64)
        for number, t_out in enumerate(self.chip(weights, received, moment)):
            layer, dtype = self.layers[number], weights[0].dtype
            if number:
                t_in = with_bias(states[-1].t_out, layer.bias_times)
            shape = (len(weights[0]), t_in.shape[1], layer.n_out)
            if t_out.shape != shape:
                raise ShapeError(
                    f"the chip's spikes of layer {number} must be (n_replica, n_batch, n_post) = {shape}, "
                    f"got {t_out.shape}"
                )
            t_out = np.ascontiguousarray(t_out, dtype)
            states.append(LayerState(t_in, order, t_out, t_out, np.zeros_like(t_out)))
        return states

    def renew(self, moment: Moment) -> None:
        """Has the chip of a training batch take the place of the one before, where each has its own."""
        if self.fresh is None or moment.epoch == EVALUATION or moment == self._renewed:
            return
        self.chip, self._renewed = self.fresh(moment), moment

    def during(self, weights: Sequence[Array]) -> OnChip:
        """The same for one step, from its forward pass to its gradient: the chip is programmed once.

        Args:
            weights: the trainer's, which do not change before the gradient is known.
        """
        if not isinstance(self.chip, EmulatedChip):
            return self
        own = copy(self)
        # The nominal gradient has slopes of the nominal membranes.
        own._programmed = self.chip.programming(weights, slopes=self.exact is not None)
        return own

    def backward(
        self,
        learnt: Parameters | Sequence[Array],
        states: Sequence[LayerState],
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        pushes: Sequence[passes.Push | None] = (),
    ) -> Parameters:
        """Gradients of all that is learnt, by the mode; see `Architecture.backward`.

        Raises:
            ConfigError: neurons of a convolution to be pulled, or constants of theirs to be learnt, by an
                exact gradient.
        """
        parameters, exact = Parameters.of(learnt), self.exact
        if exact is not None and self.network.convolves and (pushes or parameters.trained):
            names = "silence=waking" if pushes else ", ".join(parameters.trained)
            raise ConfigError(
                f"{names} has no exact gradient of a convolution on a chip: substrate.gradient=nominal is one"
            )
        weights, neurons = self.believed(parameters.weights)
        place, network = self.kernels.place, self.network
        delays = [
            None if own is None else own.to(place)
            for own in (self._known_delays if exact is None else exact.delays)
        ]
        if exact is None:
            states = [
                passes.as_own(self.kernels, state, w, neuron, own, convolution)
                for state, w, neuron, own, convolution in zip(
                    self._seen(states), weights, neurons, delays, self._convolutions, strict=True
                )
            ]
        found = passes.backward(
            self.kernels,
            states,
            weights,
            neurons,
            delays,
            t_out_grad,
            active=active,
            max_weight_grad=max_weight_grad,
            taus=parameters.needs_taus,
            convolutions=self._convolutions,
            pushes=pushes,
        )
        rule = network.delay_rule, self.kernels
        learns = parameters.gradients(found, weights, network.models, neurons, *rule)
        return learns if exact is None else learns.with_weights(exact.pull_back(learns.weights))

    @property
    def _convolutions(self) -> list[Convolution | None]:
        """Of each layer, as the chip has them."""
        chip = self.chip
        if isinstance(chip, EmulatedChip):
            return chip.convolutions
        return [layer.convolution for layer in self.layers]

    @property
    def dead_maps(self) -> list[Array | None]:
        """See `Architecture.dead_maps`; where each batch has a chip of its own, the dead of every layer.

        A neuron that is dead on one chip is not silent on the next: nobody may be woken for it there.
        """
        chip = self.chip
        if not isinstance(chip, EmulatedChip):
            return [None] * len(self.layers)
        return chip.dead_maps if self.fresh is None else chip.dead_neurons

    @property
    def _known_delays(self) -> list[Delays | None]:
        """Of each layer, as far as a trainer knows them."""
        chip = self.chip
        return chip.held_delays if isinstance(chip, EmulatedChip) else [layer.delays for layer in self.layers]

    def _seen(self, states: Sequence[LayerState]) -> list[LayerState]:
        """What the nominal network would have received of the chip's spikes, after known delays."""
        if not isinstance(self.chip, EmulatedChip):
            return list(states)
        seen, place = [], self.kernels.place
        for state, known, there in zip(states, self._known_delays, self.chip.delays, strict=True):
            if known is not there and known is not None and there is not None and known.axonal is not None:
                assert there.axonal is not None
                moved = later(self.kernels, place(known.axonal)[:, None]) - place(there.axonal)[:, None]
                t_in = computed("seen", later(self.kernels, state.t_in) + moved)  # in another order, perhaps
                state = state._replace(t_in=t_in, order=np.empty(0, np.int64))
            seen.append(state)
        return seen

    @property
    def exact(self) -> EmulatedChip | None:
        """The chip that the gradient is of; None where it is the nominal network's."""
        return self.chip if self.gradient == EXACT and isinstance(self.chip, EmulatedChip) else None

    def believed(self, weights: Sequence[Array]) -> tuple[list[Array], list[LIF]]:
        """The weights and the neurons of every layer that the gradient is taken of."""
        exact, known, neurons = self.exact, self._programmed, [layer.neuron for layer in self.layers]
        if known is not None:
            wanted = known.held if exact is None else known.come
            return [computed("weights", w) for w in wanted], neurons if exact is None else exact.neurons
        if exact is not None:
            return exact.effective(weights), exact.neurons
        return self.chip.program(weights), neurons

    def programmed(self, weights: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The weights that an emulated chip answers with, and those that the gradient is taken of.

        Raises:
            ConfigError: a chip that is not emulated, of which nobody knows the former.
        """
        if not isinstance(self.chip, EmulatedChip):
            raise ConfigError(f"only an emulated chip's weights are known, got a {type(self.chip).__name__}")
        held = self.chip.program(weights)
        come = self.chip.come(held)
        return come, held if self.exact is None else come

    @property
    def dead_fraction(self) -> float | Array:
        """(n_layer, n_chip) shares of neurons that never spike, as far as they are known."""
        return self.chip.dead_fraction if isinstance(self.chip, EmulatedChip) else 0.0

    def after_step(self, weights: Sequence[Array]) -> None:
        """Keeps the trainer's weights, in place, in the range that the chip can hold."""
        self.chip.limit(weights)


def gradient_angles(
    machine: OnChip,
    weights: Sequence[Array],
    received: LayerInput,
    error: Callable[[Array, slice], Array],
    together: int | None = None,
) -> Array:
    """(n_replica,) angles between the nominal and the exact gradient of one batch, in degrees.

    NaN where one of the two is 0.

    Args:
        machine: with an emulated chip.
        received: the batch's input.
        error: the gradient of the mean loss of some samples with respect to the last layer's spike times,
            both where kernels compute.
        together: samples whose gradient is taken at once; None: all of them.
    """
    place, n_samples = machine.kernels.place, received.t_in.shape[1]
    weights = [place(w) for w in weights]
    everybody = np.ones(len(weights[0]), np.bool_)
    flat: list[Any] = [0.0, 0.0]
    for first in range(0, n_samples, together or n_samples):
        part = slice(first, min(first + (together or n_samples), n_samples))
        there = received.part(part.start, part.stop).to(place)
        states = machine.forward(weights, there, Moment(first=first))
        t_out_grad, share = error(states[-1].t_out, part), (part.stop - part.start) / n_samples
        for number, mode in enumerate((NOMINAL, EXACT)):
            gradients = OnChip(machine.network, machine.chip, mode).backward(
                weights, states, t_out_grad, active=everybody, max_weight_grad=np.inf
            )
            rows = [host(g).reshape(len(g), -1) for g in gradients.weights]
            flat[number] = flat[number] + share * np.concatenate(rows, axis=1).astype(np.float64)
    lengths = [np.linalg.norm(g, axis=1, keepdims=True) for g in flat]
    # Half the angle by its tangent: a cosine next to 1 would have lost the digits of small angles.
    with np.errstate(invalid="ignore"):
        one, other = (g / length for g, length in zip(flat, lengths, strict=True))
    half = np.arctan2(np.linalg.norm(one - other, axis=1), np.linalg.norm(one + other, axis=1))
    return np.degrees(2.0 * half)
