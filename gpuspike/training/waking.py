"""Waking by gradient: silent neurons are pulled to their thresholds where they came closest to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels import LayerState
from gpuspike.kernels.trials import awake
from gpuspike.network.layers import Layer
from gpuspike.network.one_layer import PushedPairs
from gpuspike.training.bumping import Bumping

Array = NDArray[Any]


@dataclass
class Waking(Bumping):
    """A gradient for neurons that do not spike, in the place of bumps.

    A silent neuron has no spike time that a gradient could move, but its membrane has a peak. The loss gets

        strength/n_batch sum (threshold - max_t u(t))/(threshold - leak)

    over (sample, neuron) pairs that are silent and should not be, so that by the envelope theorem

        dL/dw_i = -c k(t_peak - t_i),    dL/dt_i = c w_i k'(t_peak - t_i)

    with c = strength/(n_batch (threshold - leak)), the gradient of a spike at t_peak on a membrane of slope
    1/c: the same kernels compute it. Pulled are, of the last layer, the correct neuron where it is silent; of
    the others, a neuron that was silent for more than the share `max_silent` of the last batch, by
    (share - max_silent)/(1 - max_silent) of the strength. Neurons that are silent for some samples are left
    alone: they tell classes apart. A pair whose membrane has crossed the threshold is awake, though a chip
    lose its spike.

    Attributes:
        strength: see above; compare with the steepest gradient of the loss, 1/xi of the cross-entropy.
        end: of a trial.
        share: of each layer (n_replica, n_post) the silent share of the last batch.

    Source: derived above. That silence has no gradient, and bumps instead, are of Goeltz, Kriener et al.,
    Nature Machine Intelligence 3, 823 (2021).
    """

    strength: float = 1.0
    end: float = field(init=False, default=math.inf)
    share: list[NDArray[np.float64]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.strength > 0.0 and math.isfinite(self.strength)):
            raise ValueRangeError(f"waking must be positive and finite, got {self.strength!r}")

    def watch(self, layers: Sequence[Layer], end: float = math.inf) -> None:
        """Begins with layers of which nothing is known yet, in trials that end some time."""
        self.end = end
        self.share = [np.zeros((self.n_replica, layer.n_post)) for layer in layers]

    def of_replicas(self, part: slice) -> Waking:
        """See `Bumping.of_replicas`."""
        own = super().of_replicas(part)
        assert isinstance(own, Waking)
        own.share = [share[part] for share in self.share]
        return own

    def state(self) -> dict[str, Array]:
        """See `Bumping.state`."""
        return super().state() | {f"bump_share_{number}": share for number, share in enumerate(self.share)}

    @property
    def bumped_above(self) -> Sequence[float]:
        """No layer is ever bumped."""
        return [1.0] * len(self.max_silent)

    def pushes(
        self,
        layers: Sequence[Layer],
        states: Sequence[LayerState],
        labels: NDArray[np.int64],
        dead: Sequence[Array | None] = (),
    ) -> list[PushedPairs | None]:
        """Which silent (sample, neuron) pairs of each layer are pulled, and how much.

        Args:
            labels: (n_replica, n_batch).
            dead: (n_replica, n_neurons) of each layer who is dead among those that share weights with others,
                which must not be pulled for them, or on a chip that is not the next batch's; None, or empty:
                nobody is.
        """
        found: list[PushedPairs | None] = []
        for number, (layer, state) in enumerate(zip(layers, states, strict=True)):
            silent = self._asleep(layer, state, dead[number] if dead else None)
            if number + 1 == len(layers):
                wanted = silent & (np.arange(silent.shape[2]) == labels[..., None])
                over = np.ones_like(self.share[number])
            else:
                limit = self.max_silent[number]
                # At a limit of 1 nobody is ever above it.
                over = np.maximum(self.share[number] - limit, 0.0) / max(1.0 - limit, np.finfo(float).tiny)
                wanted = silent & np.tile(over > 0.0, silent.shape[2] // over.shape[1])[:, None]
            if not wanted.any():
                found.append(None)
                continue
            span = np.broadcast_to(layer.neuron.span, over.shape)
            with np.errstate(divide="ignore"):
                slope = labels.shape[1] * span / (self.strength * over)
            found.append(PushedPairs(wanted, slope.astype(state.t_out.dtype)))
        return found

    def _asleep(self, layer: Layer, state: LayerState, dead: Array | None) -> NDArray[np.bool_]:
        """(n_replica, n_batch, n_neurons) whose membranes stay below the threshold; see `trials.awake`."""
        t_heard = state.t_out if layer.convolution is None else state.seen
        return np.isinf(awake(t_heard, state.t_cross, self.end, None if dead is None else dead[:, None]))

    def follow(
        self, layers: Sequence[Layer], states: Sequence[LayerState], dead: Sequence[Array | None] = ()
    ) -> None:
        """Remembers who was silent; see `pushes`."""
        for number, (share, layer, state) in enumerate(zip(self.share, layers, states, strict=True)):
            own = dead[number] if dead else None
            silent = self._asleep(layer, state, own)
            n_samples = silent.shape[1]
            silent = silent.reshape(len(silent), -1, share.shape[1])  # places of a map are like samples
            n = np.full(share.shape, silent.shape[1])
            if own is not None:  # a map of dead neurons alone is not silent
                n -= n_samples * own.reshape(len(own), -1, share.shape[1]).sum(axis=1)
            share[...] = np.count_nonzero(silent, axis=1) / np.maximum(n, 1)
