"""What wakes layers of PyTorch's that have fallen silent, which no gradient can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gpuspike.errors import ConfigError
from gpuspike.network.network import Array
from gpuspike.torch.convolution import spiking
from gpuspike.training import bumping
from gpuspike.training.fit import Recipe


class Bumping:
    """The rule by which `gs.fit` wakes silent neurons, beside an optimiser of PyTorch's.

        bumping = Bumping(model)
        for ...:
            loss(model(t_in), labels).backward()
            optimizer.step()
            bumping.step()

    It looks at the spikes of the last forward pass of each layer in training mode. The first layer of which
    more than `max_silent` of all (sample, neuron) pairs were silent gets larger weights onto the neurons
    that were silent for any sample; see `gpuspike.training.bumping.Bumping`.

    Args:
        model: with layers of `FirstSpikes`, which are looked at in the model's order.
        max_silent: for each layer the silent fraction that is left alone; None: that of `gs.fit`, 0.3 and
            0.05 for the last one.
        value: of the first bump; None: that of `gs.fit`, which goes by the neurons.
        exponential: a layer that is bumped again gets twice as much.
        targeted: only silent neurons are bumped.

    Raises:
        ConfigError: a model without such layers.
        ValueRangeError: a fraction or a value that cannot be, or fractions for another number of layers.
    """

    def __init__(
        self,
        model: nn.Module,
        max_silent: Sequence[float] | None = None,
        value: float | None = None,
        *,
        exponential: bool = True,
        targeted: bool = True,
    ) -> None:
        self.layers = spiking(model)
        recipe = Recipe(
            max_silent=max_silent, bump_value=value, bump_exponential=exponential, bump_targeted=targeted
        ).suited(self.layers[0].neuron)
        self._rule = recipe.make_bumping(len(self.layers), self.layers[0].replicas or 1)
        self._spikes: list[Tensor | None] = [None] * len(self.layers)
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(self._keeper(number))

    def _keeper(self, number: int) -> Any:
        def keep(layer: nn.Module, _: Any, t_out: Tensor) -> None:
            if layer.training and torch.is_grad_enabled():
                self._spikes[number] = t_out.detach()

        return keep

    def step(self) -> Array:
        """Bumps what has fallen silent, after the optimiser's step.

        Returns:
            (n_replica,) the layer that was bumped, -1 for none.

        Raises:
            ConfigError: no forward pass in training mode since the last step.
        """
        if any(spikes is None for spikes in self._spikes):
            raise ConfigError("a step of Bumping needs a forward pass in training mode before it, got none")
        states, n_replica = [], self._rule.n_replica
        for spikes in self._spikes:
            assert spikes is not None
            states.append(_State(spikes.reshape(n_replica, -1, spikes.shape[-1]).cpu().numpy()))
        self._spikes = [None] * len(self.layers)
        silent = np.array([np.isinf(state.t_out).mean(axis=(1, 2)) for state in states])
        weights = [layer.weights.detach().cpu().numpy().copy() for layer in self.layers]
        chosen = self._rule.choose(silent)
        self._rule.apply([w.reshape(n_replica, *w.shape[-2:]) for w in weights], states, chosen)
        with torch.no_grad():
            for number in set(chosen) - {bumping.NO_LAYER}:
                self.layers[number].weights.copy_(torch.from_numpy(weights[number]))
        return chosen


class _State(NamedTuple):
    """The part of a layer's state that the rule looks at."""

    t_out: Array
