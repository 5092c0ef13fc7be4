"""The training step kernel by kernel: the oracle of the others, and the step of all that they do not know."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.network.layers import LayerInput, Moment
from gpuspike.rng import Purpose
from gpuspike.training.bumping import NO_LAYER, unheard
from gpuspike.training.evaluation import Labelled, silent_fraction
from gpuspike.training.losses import decide
from gpuspike.training.step import HostStep, StepKind
from gpuspike.training.waking import Waking

Array = NDArray[Any]


class PiecewiseStep(HostStep):
    """A step of which each part is called by itself.

    Args:
        parts: as for `trainer.Trainer`.
        reason: why no other step is taken, see `StepKind`.
    """

    def __init__(self, *parts: Any, reason: str = "no other step was asked for") -> None:
        super().__init__(*parts)
        self.kind = StepKind("piecewise", reason)

    def begin(
        self,
        train: Labelled,
        order: NDArray[np.int64],
        epoch: int,
        learning_rate: float,
        progress: float = 1.0,
    ) -> None:
        """See `Step.begin`."""
        super().begin(train, order, epoch, learning_rate, progress)
        self._totals = np.zeros((3 + len(self._weights), len(self._seeds)))

    def batch(self, number: int) -> None:
        """See `Step.batch`."""
        rule, train = self._rule, self._train
        samples = self._order[:, number * rule.presented : (number + 1) * rule.presented]
        received = train.received.take(samples, with_order=rule.keeps_inputs)
        if rule.augment is not None:
            rule.augment(received.t_in, self._seeds, self._epoch, number, self._network.kernels)
        if rule.input_noise:
            # The bias spikes, which the chip makes itself, stay where they are.
            n_in, purpose = self._network.layers[0].n_in, Purpose.INPUT_NOISE
            self._network.kernels.jitter(
                received.t_in, n_in, rule.input_noise, self._seeds, purpose, self._epoch, number
            )
        figures = self._step(received, train.labels[samples], Moment(self._epoch, number))
        self._totals += figures * (samples.shape[1] / self._order.shape[1])

    def _step(self, received: LayerInput, labels: NDArray[np.int64], moment: Moment) -> Array:
        """One batch; returns rows of loss, accuracy, bumped, silent fraction by layer, by replica."""
        parameters, weights = self._parameters, self._weights
        network = self._network.having(parameters)
        activities = network.forward(weights, received, moment)
        t_out = activities[-1].t_out
        loss, t_out_grad = self._loss_now(t_out, labels)
        silent, dead = silent_fraction(activities), network.dead_maps
        # Nobody wakes the dead: counted, they would have a layer bumped for ever.
        chosen = self._bumping.choose(silent - network.dead_fraction)
        bumped = chosen != NO_LAYER
        active = ~bumped if self._rule.bump_replaces_step else np.ones_like(bumped)
        if active.any():
            waking = self._bumping if isinstance(self._bumping, Waking) else None
            grads = network.backward(
                parameters,
                activities,
                t_out_grad,
                active=active,
                max_weight_grad=self._rule.limit,
                pushes=() if waking is None else waking.pushes(network.layers, activities, labels, dead),
            )
            if waking is not None:
                waking.follow(network.layers, activities, dead)
            self._descent.step(parameters, grads, self._learning_rate, active)
        self._bumping.apply(weights, activities, chosen, unheard(network.layers, dead))
        network.after_step(weights)
        accuracy = (decide(t_out) == labels).mean(axis=1)
        return np.vstack([loss.mean(axis=1), accuracy, bumped, silent])

    def figures(self) -> Array:
        """See `Step.figures`."""
        return self._totals
