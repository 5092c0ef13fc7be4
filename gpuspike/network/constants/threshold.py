"""Trained thresholds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuspike.network.constants.base import TrainedConstant
from gpuspike.network.passes import Pulled
from gpuspike.neuron import LIF

Array = NDArray[Any]


class Threshold(TrainedConstant):
    """The threshold, as the logarithm of its distance from the leak over the model's; so it stays above.

    A membrane's way from the leak is proportional to the weights, so that spike times know a neuron's weights
    and its threshold as a ratio alone, t(w, threshold - leak) = t(w/(threshold - leak), 1), whence

        dL/d log(threshold - leak) = -sum_i w_i dL/dw_i
    """

    DEVICE: ClassVar[bool] = True

    @staticmethod
    def neuron(model: LIF, free: Array) -> LIF:
        """See `TrainedConstant.neuron`."""
        return replace(model, threshold=model.leak + model.span * np.exp(free.astype(np.float64)))

    @staticmethod
    def gradient(free: Array, model: LIF, neuron: LIF, weights: Array, found: Pulled) -> Array:
        """See `TrainedConstant.gradient`."""
        del weights
        assert found.by_scale is not None
        # On a chip the span is another one; the way from the free number to it is the model's.
        share = np.exp(free.astype(np.float64)) * model.span / neuron.span
        return -share * found.by_scale
