"""Trained time constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError
from gpuspike.network.constants.base import TrainedConstant
from gpuspike.network.passes import Pulled
from gpuspike.neuron import LIF

Array = NDArray[Any]


class TauMem(TrainedConstant):
    """The membrane's, as the logarithm of it over the model's; so it stays positive.

    The capacitance stays as it is. For the derivative of a spike time see docs/mathematics.md.
    """

    NEEDS_TAUS: ClassVar[bool] = True
    DEVICE: ClassVar[bool] = True

    @staticmethod
    def neuron(model: LIF, free: Array) -> LIF:
        """See `TrainedConstant.neuron`.

        Raises:
            ConfigError: neurons without a leak, which have no such time constant.
        """
        if np.isinf(model.tau_mem).any():
            raise ConfigError("tau_mem must be finite to be trained, got inf")
        return replace(model, tau_mem=model.tau_mem * np.exp(free.astype(np.float64)))

    @staticmethod
    def gradient(free: Array, model: LIF, neuron: LIF, weights: Array, found: Pulled) -> Array:
        """See `TrainedConstant.gradient`."""
        del weights
        return _by_logarithm(found, 0, model.tau_mem, free, neuron.tau_mem)


class TauSyn(TrainedConstant):
    """The synapses', likewise."""

    NEEDS_TAUS: ClassVar[bool] = True
    DEVICE: ClassVar[bool] = True

    @staticmethod
    def neuron(model: LIF, free: Array) -> LIF:
        """See `TrainedConstant.neuron`."""
        return replace(model, tau_syn=model.tau_syn * np.exp(free.astype(np.float64)))

    @staticmethod
    def gradient(free: Array, model: LIF, neuron: LIF, weights: Array, found: Pulled) -> Array:
        """See `TrainedConstant.gradient`."""
        del weights
        return _by_logarithm(found, 1, model.tau_syn, free, neuron.tau_syn)


def _by_logarithm(found: Pulled, row: int, tau: Any, free: Array, there: Any) -> Array:
    """On a chip the time constant is another one; the way from the free number to it is the model's."""
    assert found.taus is not None
    return np.exp(free.astype(np.float64)) * tau / there * found.taus[row]
