"""Weight bumping: what wakes neurons that are silent too often, since silence has no gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import LayerState
from gpuspike.network.layers import Layer

Array = NDArray[Any]

NO_LAYER = -1

MOST_BUMPED = 2.0**20
"""Where doubling ends: weights that a chip clips would be bumped for ever."""


@dataclass
class Bumping:
    """The paper's rule, replica by replica.

    The first layer in which more than `max_silent[layer]` of all (sample, neuron) pairs stay silent is
    bumped: every weight onto a neuron that was silent for any sample (or onto all neurons, if not
    `targeted`) grows by `value`. If the
    same layer is bumped in consecutive batches, the bump doubles each time (`exponential`).

    Attributes:
        max_silent: allowed silent fraction by layer, in [0, 1].
        value: first bump.
        layer: (n_replica,) layer bumped in the last batch, NO_LAYER for none.
        size: (n_replica,) the bump it got.

    Source: public code of Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021).
    """

    max_silent: Sequence[float]
    value: float
    n_replica: int
    exponential: bool = True
    targeted: bool = True
    layer: NDArray[np.int64] = field(init=False)
    size: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        for number, limit in enumerate(self.max_silent):
            if not 0.0 <= limit <= 1.0:
                raise ValueRangeError(f"max_silent of layer {number} must lie in [0, 1], got {limit!r}")
        if not (self.value > 0.0 and math.isfinite(self.value)):
            raise ValueRangeError(f"the bump value must be positive and finite, got {self.value!r}")
        self.layer = np.full(self.n_replica, NO_LAYER)
        self.size = np.full(self.n_replica, self.value)

    def of_replicas(self, part: slice) -> Bumping:
        """That of some replicas: its arrays are parts of these."""
        own = copy.copy(self)
        own.layer, own.size = self.layer[part], self.size[part]
        own.n_replica = len(own.layer)
        return own

    @property
    def bumped_above(self) -> Sequence[float]:
        """Of each layer the silent fraction above which it is bumped."""
        return self.max_silent

    @property
    def most(self) -> float:
        """The largest bump."""
        return MOST_BUMPED * self.value

    def state(self) -> dict[str, Array]:
        """What a resumed run would need, by name; not copied."""
        return {"bump_layer": self.layer, "bump_size": self.size}

    def choose(self, silent_fraction: Array) -> NDArray[np.int64]:
        """(n_replica,) the layer to bump in this batch, NO_LAYER for none.

        Args:
            silent_fraction: (n_layer, n_replica).
        """
        over = silent_fraction > np.asarray(self.bumped_above)[:, None]
        return np.where(over.any(axis=0), over.argmax(axis=0), NO_LAYER)

    def apply(
        self,
        weights: Sequence[Array],
        activities: Sequence[LayerState],
        chosen: NDArray[np.int64],
        unheard: Sequence[NDArray[np.bool_] | None] = (),
    ) -> None:
        """Bumps the chosen layers' weights in place and remembers what was bumped.

        Args:
            unheard: (n_replica, n_out) of each layer who is dead among those that share weights with others;
                None, or empty: nobody is.
        """
        repeated = self.exponential & (chosen == self.layer) & (chosen != NO_LAYER)
        self.size = np.where(repeated, np.minimum(2.0 * self.size, self.most), self.value)
        self.layer = chosen
        for r in np.flatnonzero(chosen != NO_LAYER):
            number = chosen[r]
            silent = np.isinf(activities[number].t_out[r]).any(axis=0)
            if unheard and (dead := unheard[number]) is not None:
                silent = silent & ~dead[r]
            # Maps of a convolutional layer: what a weight moves is silent where any of its neurons is.
            silent = silent.reshape(-1, weights[number].shape[2]).any(axis=0)
            bump = self.size[r] * (silent if self.targeted else np.ones_like(silent))
            weights[number][r] += bump.astype(weights[number].dtype)


def unheard(layers: Sequence[Layer], dead: Sequence[Array | None]) -> list[NDArray[np.bool_] | None]:
    """(n_replica, n_out) of each convolution of whose neurons all are dead, which no bump wakes.

    Args:
        dead: of each layer (n_replica, n_neurons), or None.
    """
    return [
        None if own is None or layer.convolution is None else layer.convolution.unheard(own)
        for layer, own in zip(layers, dead, strict=True)
    ]


BUMPS_IN_VAIN = 100
"""Steps in a row, each of them bumped, after which bumping is taken for one that never ends."""


@dataclass
class BumpWatch:
    """Notices a training that bumps for ever: lost spikes, or those that an earlier decision makes needless.

    Attributes:
        n_batches: of an epoch.
    """

    n_batches: int
    _steps: Any = field(init=False, default=0)
    _told: bool = field(init=False, default=False)

    def after(self, bumped: Array, silent: Array, max_silent: Sequence[float]) -> str:
        """What a user should know after an epoch, once; "" for nothing.

        Args:
            bumped: (n_replica,) share of the epoch's steps.
            silent: (n_layer, n_replica) share of pairs, without those of dead neurons.
            max_silent: of each layer, see `Bumping`.
        """
        always = bumped > 1.0 - 1e-9  # a sum of batches
        self._steps = np.where(always, self._steps + self.n_batches, 0)
        replica = int(self._steps.argmax())
        steps = self._steps[replica]
        if self._told or steps < BUMPS_IN_VAIN:
            return ""
        self._told = True
        over = silent[:, replica] - np.asarray(max_silent)
        layer = int(over.argmax())
        of = f" of replica {replica}" if len(bumped) > 1 else ""
        share, limit = 100 * silent[layer, replica], 100 * max_silent[layer]
        which = f"{share:.1f} % of layer {layer} is silent, more than max_silent allows ({limit:g} %)"
        return (
            f"all of the last {steps} steps{of} were bumped in vain: "
            f"{which if share > limit else 'one layer or another is silent'}. Larger weights do not bring "
            f"back lost spikes: allow more, or take silence=waking (docs/silence.md)"
        )
