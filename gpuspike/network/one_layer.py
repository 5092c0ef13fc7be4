"""One layer and back, where spikes take their time between neurons."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.kernels.waiting import computed, later
from gpuspike.network.delays import Delays
from gpuspike.neuron import LIF

Array = NDArray[Any]


class Pulled(NamedTuple):
    """Gradients of the loss with respect to what a layer has.

    Attributes:
        weights: (n_replica, n_pre, n_post).
        delays: of the kinds that it has.
        taus: (2, n_replica, n_post) by ln(tau_mem) and ln(tau_syn); None where nobody asked.
        by_scale: (n_replica, n_post) by the logarithm of a factor of all of a neuron's weights, sum_i w_i
            dL/dw_i, in float64; None where nobody asked.
    """

    weights: Array
    delays: Delays = Delays()
    taus: Array | None = None
    by_scale: Array | None = None

    def plus(self, other: Pulled) -> Pulled:
        """The sum of two."""
        delays = self.delays.map(lambda kind, array: array + getattr(other.delays, kind))
        taus = None if self.taus is None or other.taus is None else self.taus + other.taus
        return Pulled(self.weights + other.weights, delays, taus)


class Push(Protocol):
    """What pulls silent neurons of a layer towards their threshold, see `training.waking`."""

    def applied(
        self,
        kernels: Kernels,
        state: LayerState,
        w: Array,
        neuron: LIF,
        delays: Delays | None,
        grad: Array,
        convolution: Convolution | None = None,
    ) -> tuple[LayerState, Array]:
        """A layer's answer and dL/dt where pulled neurons spike at their peaks."""
        ...


class PushedPairs(NamedTuple):
    """What pulls silent neurons of a layer towards their threshold, on the host.

    Attributes:
        wanted: (n_replica, n_batch, n_neurons) which pairs are pulled.
        slope: (n_replica, n_post) of a membrane at whose peak a spike would have that gradient, were dL/dt 1.
    """

    wanted: NDArray[np.bool_]
    slope: Array

    def applied(
        self,
        kernels: Kernels,
        state: LayerState,
        w: Array,
        neuron: LIF,
        delays: Delays | None,
        grad: Array,
        convolution: Convolution | None = None,
    ) -> tuple[LayerState, Array]:
        """See `Push.applied`; maps are pulled by `convolved.push_maps`."""
        assert convolution is None
        own = delays or Delays()
        synapses = None if own.synaptic is None else own.synapses(w)
        t_peak = kernels.single.peaks(state.t_in, w, synapses, neuron, self.wanted)
        pulled = np.isfinite(t_peak)
        changed = state._replace(
            t_cross=np.where(pulled, t_peak, state.t_cross),
            slope=np.where(pulled, self.slope[:, None], state.slope),
        )
        return changed, np.where(pulled, grad.dtype.type(1.0), grad)


def arriving(kernels: Kernels, t_in: Array, delays: Delays) -> Array:
    """When spikes have passed the axons, where these have delays."""
    assert delays.axonal is not None
    return computed("arriving", later(kernels, t_in) + delays.axonal[:, None])


def answered(
    kernels: Kernels,
    t_in: Array,
    order: NDArray[np.int64] | None,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    trial: Trial | None = None,
) -> LayerState:
    """What a layer answers, (n_replica, n_batch, n_pre) inputs given."""
    own = delays or Delays()
    if own.axonal is not None:
        t_in, order = arriving(kernels, t_in, own), None
    if own.dendritic is not None:
        trial = trial or Trial()
        late = later(kernels, own.dendritic[:, None], (len(w), t_in.shape[1], w.shape[2]))
        trial = trial._replace(delay=late if trial.delay is None else late + trial.delay)
    if own.synaptic is None:
        alone = None if trial is None else [trial]
        (state,) = kernels.forward(t_in, order, [w], [neuron], [()], alone)
        return state
    w = computed("weights", w)
    return _neuron_by_neuron(kernels, t_in, w, own.synapses(w), neuron, trial)


def _neuron_by_neuron(
    kernels: Kernels, t_in: Array, weights: Array, delays: Array, neuron: LIF, trial: Trial | None
) -> LayerState:
    if trial is None:
        t_cross, slope = kernels.single.forward(t_in, weights, delays, neuron)
        return LayerState(t_in, np.empty(0, np.int64), t_cross, t_cross, slope)
    check_trial(trial, (len(weights), t_in.shape[1], weights.shape[2]), weights.dtype)
    t_cross, slope = kernels.single.forward(t_in, weights, delays, neuron, trial.lift)
    t_out = computed("heard", heard(later(kernels, t_cross), trial))
    return LayerState(t_in, np.empty(0, np.int64), t_out, t_cross, slope)


def pull(
    kernels: Kernels,
    state: LayerState,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    grad: Array,
    *,
    taus: bool,
    further: bool,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """Gradients of what a layer has, and of its input times if they go `further`."""
    own, active = delays or Delays(), limits["active"]
    dendritic = axonal = synaptic = of_taus = None
    if own.dendritic is not None:
        dendritic = kernels.single.over_samples(grad, state.t_out, active)
    further = further or own.axonal is not None
    spikes = state.t_cross, state.slope, grad
    pulled: Any = None
    synapses = None if own.synaptic is None else own.synapses(w)
    if taus:
        of_taus = kernels.single.taus_grad(state.t_in, w, synapses, neuron, *spikes, active=active)
    if synapses is not None:
        of_weights, synaptic = kernels.single.learn(state.t_in, w, synapses, neuron, *spikes, **limits)
        if further:
            pulled = kernels.single.times_grad(state.t_in, w, synapses, neuron, *spikes, active=active)
    else:
        pulled, (of_weights,) = kernels.backward(
            [state], [w], [neuron], grad, need_t_in_grad=further, **limits
        )
    if own.axonal is not None:
        axonal = kernels.single.over_samples(pulled, state.t_in, active)
    return Pulled(of_weights, Delays(axonal, dendritic, synaptic), of_taus), pulled
