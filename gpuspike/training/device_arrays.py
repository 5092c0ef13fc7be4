"""What a training on a device changes: twins of the trainer's arrays, and the optimiser's step on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import host
from gpuspike.kernels.cuda import update as cuda_update
from gpuspike.network.parameters import LayerParameters, Parameters
from gpuspike.training.optimizers import Descent

Array = NDArray[Any]


class DeviceArrays:
    """Arrays that the steps change, on the device, and the same on the host, which `pull` and `push` copy.

    Args:
        arrays: of `step.training_state`.
        learnt: what of them is learnt.
        descent: the optimiser at work on it.
        place: copies an array to the device, see `Kernels.place`.

    Attributes:
        parameters: what is learnt.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        learnt: Parameters,
        descent: Descent,
        place: Callable[[Array], Any],
    ) -> None:
        self._host, self._descent, self._n_layers = arrays, descent, len(learnt)
        self._there = {name: place(array) for name, array in arrays.items()}
        self.parameters = learnt = Parameters(
            [
                LayerParameters(weights, {name: self.named(name)[number] for name in learnt.trained})
                for number, weights in enumerate(self.named("weights"))
            ]
        )
        n_replica = len(learnt.weights[0])
        self._rate, self._rate_of_numbers = (place(np.zeros(1)) for _ in range(2))
        self._rates = cuda_update.room_for_rates(descent.optimizer, self._rate, n_replica)
        self._of_numbers = cuda_update.room_for_rates(descent.of_numbers, self._rate_of_numbers, n_replica)
        self._nobody = place(np.zeros(n_replica, np.bool_))

    def __getitem__(self, name: str) -> Any:
        return self._there[name]

    def named(self, name: str) -> list[Any]:
        """Those of that name, one a layer."""
        return [self._there[f"{name}_{number}"] for number in range(self._n_layers)]

    def pull(self) -> None:
        """Brings the host's up to date."""
        for name, array in self._there.items():
            self._host[name][...] = host(array)

    def push(self) -> None:
        """Takes over the host's."""
        for name, array in self._there.items():
            array.set(self._host[name])

    def begin(self, learning_rate: float) -> None:
        """An epoch of that learning rate begins."""
        self._rate.set(np.array([learning_rate]))
        self._rate_of_numbers.set(np.array([self._descent.rate_of_numbers(learning_rate)]))

    def find_rates(self, active: Any) -> None:
        """What the next step of the active replicas needs, once a step."""
        descent, steps = self._descent, self._there.get("optimizer_steps")
        cuda_update.find_rates(descent.optimizer, self._rates, steps, self._rate, active)
        if self.parameters.trained:  # the step has been counted
            rule = descent.of_numbers, self._of_numbers, steps, self._rate_of_numbers
            cuda_update.find_rates(*rule, self._nobody)

    def descend(self, grads: Parameters, active: Any, bumps: cuda_update.Bumps) -> None:
        """The optimiser's step of the active replicas, and what becomes of the weights after it."""
        descent, own = self._descent, self.parameters
        stepping = self._nobody if descent.frozen else active
        rule = descent.optimizer, own.weights, grads.weights, self._kept("")
        cuda_update.descend_active(*rule, self._rates, stepping, bumps)
        for name in own.trained:
            arrays, of_arrays = ([layer.free[name] for layer in some] for some in (own, grads))
            rule = descent.of_numbers, arrays, of_arrays, self._kept(f"_{name}")
            none = cuda_update.no_bumps(len(active), self._n_layers)
            cuda_update.descend_active(*rule, self._of_numbers, active, none)

    def _kept(self, of: str) -> list[tuple[Any, ...]]:
        """Of each layer what the optimiser keeps beside its weights, or beside what has such a name."""
        kept = [self.named(f"optimizer_{state}{of}") for state in self._descent.optimizer.STATE]
        return [tuple(arrays[number] for arrays in kept) for number in range(self._n_layers)]
