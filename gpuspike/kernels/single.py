"""What backends provide for layers that have to be computed neuron by neuron."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.neuron import LIF

Array = NDArray[Any]


class SingleKernels(Protocol):
    """Kernels of layers whose synapses have delays of their own, and of time constants that are learnt.

    Arguments are those of `Kernels`, for one layer, and

        delays: (n_replica, n_pre, n_post) of the synapses; where None is allowed: none has one
        lift: (n_replica, n_batch, n_post), see `Trial`
        slope: u'(t_out), 0 for no gradient

    An input arrives at t_in + delays, rounded to the type of the times. A device has no `peaks`, and
    needs delays but for `taus_grad`.
    """

    @staticmethod
    def forward(
        t_in: Array, weights: Array, delays: Array, neuron: LIF, lift: Array | None = None
    ) -> tuple[Array, Array]:
        """Spike times (n_replica, n_batch, n_post), and the membranes' slopes there."""
        ...

    @staticmethod
    def slopes(
        t_in: Array, weights: Array, delays: Array | None, neuron: LIF, t_out: Array, *, at_crossing: bool
    ) -> Array:
        """Slopes at given spike times; or `Kernels.crossing_slopes`."""
        ...

    @staticmethod
    def learn(
        t_in: Array,
        weights: Array,
        delays: Array,
        neuron: LIF,
        t_out: Array,
        slope: Array,
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
    ) -> tuple[Array, Array]:
        """Gradients of the weights, and of the delays in float64; both (n_replica, n_pre, n_post)."""
        ...

    @staticmethod
    def taus_grad(
        t_in: Array,
        weights: Array,
        delays: Array | None,
        neuron: LIF,
        t_out: Array,
        slope: Array,
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
    ) -> Array:
        """(2, n_replica, n_post) dL/d ln(tau_mem) and dL/d ln(tau_syn), in float64."""
        ...

    @staticmethod
    def times_grad(
        t_in: Array,
        weights: Array,
        delays: Array,
        neuron: LIF,
        t_out: Array,
        slope: Array,
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
    ) -> Array:
        """Gradient of the times at which inputs leave, (n_replica, n_batch, n_pre)."""
        ...

    @staticmethod
    def over_samples(grad: Array, times: Array, active: NDArray[np.bool_]) -> Array:
        """(n_replica, n) sums in float64 of gradients, over the samples whose time is finite.

        Args:
            grad, times: (n_replica, n_batch, n);  active: (n_replica,), the others' sums are 0.
        """
        ...

    @staticmethod
    def over_inputs(weights: Array, grad: Array) -> Array:
        """(n_replica, n_post) sums in float64 of the products of two arrays (n_replica, n_pre, n_post)."""
        ...

    @staticmethod
    def peaks(
        t_in: Array, weights: Array, delays: Array | None, neuron: LIF, wanted: NDArray[np.bool_]
    ) -> Array:
        """When membranes are highest that no spike ends.

        Where one never rises above the leak, when its last input is felt most: every input is heard by then.

        Args:
            wanted: (n_replica, n_batch, n_post) whose peak is asked for.

        Returns:
            (n_replica, n_batch, n_post) times, inf elsewhere and where nothing comes in.
        """
        ...


def over_samples(grad: Array, times: Array, active: NDArray[np.bool_]) -> Array:
    """See `SingleKernels.over_samples`; on the host."""
    return np.where(np.isfinite(times) & active[:, None, None], grad, 0.0).sum(axis=1, dtype=np.float64)


def over_inputs(weights: Array, grad: Array) -> Array:
    """See `SingleKernels.over_inputs`; on the host."""
    return np.einsum("rij,rij->rj", weights, grad, dtype=np.float64)
