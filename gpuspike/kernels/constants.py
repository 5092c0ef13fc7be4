"""Neurons with parameters of their own, brought to the form that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpuspike.neuron import LIF

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Own:
    """A layer's parameters where at least one of them is an array.

    Weights over C (threshold - leak) turn neurons of any threshold, leak and capacitance into neurons of
    threshold 1, leak 0 and capacitance 1; only time constants need kernels that carry every neuron's own.

    Attributes:
        unit: the neuron of threshold 1, leak 0 and capacitance 1, with the time constants if they are shared.
        taus: (n_replica, n_post, 2), tau_mem and tau_syn of each neuron, or None where `unit` has them.
        drive, span, capacitance: (n_replica, 1, n_post), C (threshold - leak), threshold - leak, and C.
    """

    unit: LIF
    taus: Array | None
    drive: Array
    span: Array
    capacitance: Array


@lru_cache(maxsize=64)
def own(neuron: LIF, n_replica: int, n_post: int) -> Own:
    """What the kernels need of neurons whose parameters are arrays.

    Raises:
        ShapeError: an array that is not for this many neurons.
    """
    tau_mem, tau_syn, threshold, leak, capacitance = neuron.table(n_replica, n_post)
    shared = neuron.shares_taus
    span = (threshold - leak)[:, None]
    return Own(
        unit=LIF(neuron.tau_mem, neuron.tau_syn) if shared else LIF(),
        taus=None if shared else np.stack([tau_mem, tau_syn], axis=2),
        drive=capacitance[:, None] * span,
        span=span,
        capacitance=capacitance[:, None],
    )
