"""A feed-forward network of LIF layers: initial weights, forward and backward over all replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import Kernels, LayerState, on_host
from gpuspike.kernels.bias import with_bias
from gpuspike.network import passes
from gpuspike.network.delays import USUAL, DelayRule, Delays
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.network.parameters import Parameters
from gpuspike.network.plan import Maps
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose, stream

Array = NDArray[Any]


@dataclass(frozen=True)
class Architecture:
    """Layers and the kernels that compute them; the weights are passed in, a list of one array a layer.

    Attributes:
        model: neurons of each layer before they have learnt constants of their own; none: they have not.
        delay_rule: what free numbers of delays stand for, where any are learnt.
    """

    layers: tuple[Layer, ...]
    kernels: Kernels
    model: tuple[LIF, ...] = ()
    delay_rule: DelayRule = USUAL

    @classmethod
    def build(
        cls,
        sizes: Sequence[int | Maps],
        bias_times: Sequence[Sequence[float]],
        neuron: LIF | Sequence[LIF],
        kernels: Kernels,
        image: tuple[int, int, int] | None = None,
    ) -> Architecture:
        """A network of the given sizes, inputs first.

        Args:
            sizes: inputs, then neurons by layer, or maps of a convolutional one: (4, 120, 3).
            bias_times: for each layer after the inputs, the times of its bias spikes.
            neuron: of all layers, or one a layer.
            image: rows, columns and channels of the inputs, where they are an image.

        Raises:
            ValueRangeError: fewer than two sizes, a size below 1, bias times for another number of layers, or
                maps that the image before them has no room for.
        """
        told = [size for size in sizes if not isinstance(size, Maps)]
        if len(sizes) < 2 or min(told, default=1) < 1:
            raise ValueRangeError(f"layer sizes must be two or more positive numbers, got {list(sizes)}")
        if len(bias_times) != len(sizes) - 1:
            raise ValueRangeError(
                f"bias_times needs one list for each of the {len(sizes) - 1} layers, got {len(bias_times)}"
            )
        neurons = [neuron] * len(bias_times) if isinstance(neuron, LIF) else neuron
        layers: list[Layer] = []
        n_in: Any = sizes[0]
        for number, (size, times, own) in enumerate(zip(sizes[1:], bias_times, neurons, strict=True)):
            convolution, n_out = None, 0
            if not isinstance(size, Maps):
                n_out = int(size)
            else:
                if image is None:
                    before = "inputs that are no image" if number == 0 else f"the {n_in} neurons before it"
                    raise ValueRangeError(
                        f"layer {number} is a convolution, which needs rows and columns, got {before}"
                    )
                convolution = size.over(image)
                n_out = convolution.n_out
            layers.append(Layer(n_in, n_out, tuple(times), own, convolution=convolution))
            n_in, image = layers[-1].n_out, None if convolution is None else convolution.out_shape
        return cls(tuple(layers), kernels)

    @property
    def sizes(self) -> str:
        """Neurons by layer, inputs first: 4-120-3; of maps number, place and pooling: 28x28-16@24x24/2-10."""
        told = [str(self.layers[0].n_in)]
        if (first := self.layers[0].convolution) is not None:
            told = ["x".join(map(str, first.shape[: 2 if first.shape[2] == 1 else 3]))]
        for layer in self.layers:
            if (maps := layer.convolution) is None:
                told.append(str(layer.n_out))
            else:
                pooled = f"/{maps.pool}" if maps.pool > 1 else ""
                told.append(f"{maps.n_maps}@{maps.grid[0]}x{maps.grid[1]}{pooled}")
        return "-".join(told)

    @property
    def convolves(self) -> bool:
        """Whether neurons of any layer share weights."""
        return any(layer.convolution is not None for layer in self.layers)

    def initial_weights(
        self, seeds: Sequence[int], means: Sequence[float], stds: Sequence[float], dtype: DTypeLike
    ) -> list[Array]:
        """Normally distributed weights, one seed a replica.

        Args:
            seeds: of the replicas.
            means, stds: of each layer's weights, those of its bias spikes included.

        Returns:
            For each layer (n_replica, n_pre, n_post).
        """
        return [
            np.stack(
                [
                    stream(seed, Purpose.WEIGHTS, number).normal(mean, std, (layer.n_pre, layer.n_post))
                    for seed in seeds
                ]
            ).astype(dtype)
            for number, (layer, mean, std) in enumerate(zip(self.layers, means, stds, strict=True))
        ]

    def receive(self, t_in: Array, *, sort: bool = True) -> LayerInput:
        """The first layer's input for (n_replica or 1, n_batch, n_inputs) spike times.

        Args:
            sort: find the order of the spikes now, which pays where the same input comes again.
        """
        t_in = with_bias(t_in, self.layers[0].bias_times)
        return LayerInput(t_in, self.kernels.spike_order(t_in) if sort else None)

    def having(self, parameters: Parameters) -> Architecture:
        """The same network, with the delays and the constants that its neurons have learnt, and no others."""
        if not parameters.trained:
            return self
        each = zip(self.layers, self.models, parameters, strict=True)
        rule, kernels = self.delay_rule, self.kernels
        layers = tuple(
            replace(layer, neuron=own.neuron(model, kernels), delays=own.delays(rule, kernels))
            for layer, model, own in each
        )
        return replace(self, layers=layers, model=self.models)

    @property
    def models(self) -> tuple[LIF, ...]:
        """Of each layer, the neurons before they have learnt anything."""
        return self.model or tuple(layer.neuron for layer in self.layers)

    def of_replica(self, replica: int) -> Architecture:
        """The network of one replica, for weights of its own."""
        return replace(
            self,
            layers=tuple(layer.of_replica(replica) for layer in self.layers),
        )

    def forward(
        self, weights: Sequence[Array], received: LayerInput, moment: Moment | None = None
    ) -> list[LayerState]:
        """Spike times of every layer; the moment changes nothing without a chip."""
        del moment
        return passes.forward(
            self.kernels,
            received,
            weights,
            [layer.neuron for layer in self.layers],
            self._delays,
            [layer.bias_times for layer in self.layers],
            convolutions=[layer.convolution for layer in self.layers],
        )

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
        """Gradients of all that is learnt from that of the last layer's spike times.

        Args:
            learnt: by the network that has it, see `having`; a list of arrays is weights alone.
            t_out_grad: (n_replica, n_batch, n_classes).
            active: (n_replica,) replicas whose gradient is wanted; the others' is zero.
            max_weight_grad: limit of |dL/dw| for one (sample, neuron); see `kernels.first_spikes_vjp`.
            pushes: of each layer, where silent neurons are pulled to their thresholds.
        """
        parameters, neurons = Parameters.of(learnt), [layer.neuron for layer in self.layers]
        found = passes.backward(
            self.kernels,
            states,
            parameters.weights,
            neurons,
            self._delays,
            t_out_grad,
            active=active,
            max_weight_grad=max_weight_grad,
            taus=parameters.needs_taus,
            convolutions=[layer.convolution for layer in self.layers],
            pushes=pushes,
        )
        return parameters.gradients(
            found, parameters.weights, self.models, neurons, self.delay_rule, self.kernels
        )

    @property
    def _delays(self) -> list[Delays | None]:
        """Of each layer, where the kernels compute."""
        place = self.kernels.place
        return [None if layer.delays is None else layer.delays.to(place) for layer in self.layers]

    @property
    def dead_fraction(self) -> float:
        """None of the neurons is dead."""
        return 0.0

    @property
    def dead_maps(self) -> list[Array | None]:
        """Which neurons of each convolution are dead: none of a network's own."""
        return [None] * len(self.layers)

    def after_step(self, weights: Sequence[Array]) -> None:
        """Nothing: what the optimiser leaves is what the network has."""


class Machine(Protocol):
    """What is trained and examined: an `Architecture`, or one on a chip; see there for what it does."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Sizes and constants."""
        ...

    @property
    def kernels(self) -> Kernels:
        """What computes."""
        ...

    def having(self, parameters: Parameters) -> Machine:
        """The same with the constants that its neurons have learnt."""
        ...

    def receive(self, t_in: Array, *, sort: bool = True) -> LayerInput:
        """The first layer's input."""
        ...

    def forward(
        self, weights: Sequence[Array], received: LayerInput, moment: Moment | None = None
    ) -> list[LayerState]:
        """Spike times of every layer."""
        ...

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
        """Gradients of all that is learnt."""
        ...

    @property
    def dead_fraction(self) -> float | Array:
        """(n_layer, n_replica) shares of neurons that never spike, whatever their weights; or one for all."""
        ...

    @property
    def dead_maps(self) -> Sequence[Array | None]:
        """(n_replica, n_neurons) of each layer which neurons that share weights are dead; None: none are."""
        ...

    def after_step(self, weights: Sequence[Array]) -> None:
        """Makes of the weights, in place, what the machine can have."""
        ...


def answer(
    machine: Machine, weights: Sequence[Array], received: LayerInput, moment: Moment | None = None
) -> list[LayerState]:
    """What a machine answers, from arrays on the host and in arrays on the host."""
    place = machine.kernels.place
    return on_host(machine.forward([place(w) for w in weights], received.to(place), moment))
