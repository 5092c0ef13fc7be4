"""Through the layers and back, where spikes take their time between neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial, with_bias
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.network.delays import Delays
from gpuspike.network.layers import LayerInput
from gpuspike.neuron import LIF

Array = NDArray[Any]


class Pulled(NamedTuple):
    """Gradients of the loss with respect to what a layer has.

    Attributes:
        weights: (n_replica, n_pre, n_post).
        delays: of the kinds that it has.
        taus: (2, n_replica, n_post) by ln(tau_mem) and ln(tau_syn); None where nobody asked.
    """

    weights: Array
    delays: Delays = Delays()
    taus: Array | None = None


def forward(
    kernels: Kernels,
    received: LayerInput,
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    delays: Sequence[Delays | None],
    bias_times: Sequence[Sequence[float]],
    trials: Sequence[Trial] | None = None,
) -> list[LayerState]:
    """First spike times of all layers; see `Kernels.forward`, which it is where there are no delays.

    A state's input times are those at which spikes have passed the axons; its `t_cross` is when the membrane
    crossed, its `t_out` when the spike has passed the neuron's own delay.
    """
    if all(own is None for own in delays):
        return kernels.forward(received.t_in, received.order, weights, neurons, bias_times, trials)
    states: list[LayerState] = []
    t_in, order = received.t_in, received.order
    for number, (w, neuron) in enumerate(zip(weights, neurons, strict=True)):
        if states:
            t_in, order = with_bias(states[-1].t_out, bias_times[number]), None
        own, trial = delays[number] or Delays(), None if trials is None else trials[number]
        if own.axonal is not None:
            t_in, order = t_in + own.axonal[:, None], None
        if own.dendritic is not None:
            trial = trial or Trial()
            later = np.broadcast_to(own.dendritic[:, None], (len(w), t_in.shape[1], w.shape[2]))
            later = later.copy() if trial.delay is None else later + trial.delay
            trial = trial._replace(delay=later)
        if own.synaptic is None:
            alone = None if trial is None else [trial]
            (state,) = kernels.forward(t_in, order, [w], [neuron], [()], alone)
        else:
            state = _neuron_by_neuron(kernels, t_in, w, own.synapses(w), neuron, trial)
        states.append(state)
    return states


def _neuron_by_neuron(
    kernels: Kernels, t_in: Array, weights: Array, delays: Array, neuron: LIF, trial: Trial | None
) -> LayerState:
    if trial is None:
        t_cross, slope = kernels.single.forward(t_in, weights, delays, neuron)
        return LayerState(t_in, np.empty(0, np.int64), t_cross, t_cross, slope)
    check_trial(trial, (len(weights), t_in.shape[1], weights.shape[2]), weights.dtype)
    t_cross, slope = kernels.single.forward(t_in, weights, delays, neuron, trial.lift)
    t_out = heard(t_cross, trial)
    return LayerState(t_in, np.empty(0, np.int64), t_out, t_cross, slope)


def backward(
    kernels: Kernels,
    states: Sequence[LayerState],
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    delays: Sequence[Delays | None],
    t_out_grad: Array,
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    taus: bool = False,
) -> list[Pulled]:
    """Gradients of everything that layers have, from that of the last layer's spike times.

    Args:
        states: of each layer, as `forward` returns them.
        active, max_weight_grad: see `Kernels.backward`.
        taus: time constants are learnt.
    """
    limits: dict[str, Any] = {"active": active, "max_weight_grad": max_weight_grad}
    if not taus and all(own is None for own in delays):
        _, grads = kernels.backward(states, weights, neurons, t_out_grad, need_t_in_grad=False, **limits)
        return [Pulled(grad) for grad in grads]
    found: list[Pulled] = []
    grad: Any = t_out_grad
    for number in reversed(range(len(weights))):
        state, w, neuron, own = states[number], weights[number], neurons[number], delays[number] or Delays()
        grad = np.ascontiguousarray(grad[:, :, : w.shape[2]])  # bias spikes learn no time here
        dendritic = axonal = synaptic = of_taus = None
        if own.dendritic is not None:
            wanted = np.isfinite(state.t_out) & active[:, None, None]
            dendritic = np.where(wanted, grad, 0.0).sum(axis=1, dtype=np.float64)
        further = number > 0 or own.axonal is not None
        spikes = state.t_cross, state.slope, grad
        of_weights, synapses = w, None if own.synaptic is None else own.synapses(w)
        if taus or synapses is not None:
            of_weights, synaptic, of_taus = kernels.single.learn(
                state.t_in, w, synapses, neuron, *spikes, with_taus=taus, **limits
            )
        if synapses is not None:
            if further:
                grad = kernels.single.times_grad(state.t_in, w, synapses, neuron, *spikes, active=active)
        else:
            synaptic = None
            grad, (of_weights,) = kernels.backward(
                [state], [w], [neuron], grad, need_t_in_grad=further, **limits
            )
        if own.axonal is not None:
            axonal = grad.sum(axis=1, dtype=np.float64)
        found.append(Pulled(of_weights, Delays(axonal, dendritic, synaptic), of_taus))
    return found[::-1]


def as_own(
    kernels: Kernels, state: LayerState, weights: Array, neuron: LIF, delays: Delays | None
) -> LayerState:
    """Somebody's answer as if it were the layer's own, with the slopes where its membranes would cross."""
    own = delays or Delays()
    t_cross = state.t_out if own.dendritic is None else state.t_out - own.dendritic[:, None]
    if own.synaptic is None:
        slope = kernels.crossing_slopes(state.t_in, weights, neuron, t_cross)
    else:
        slope = kernels.single.slopes(
            state.t_in, weights, own.synapses(weights), neuron, t_cross, at_crossing=True
        )
    return state._replace(t_cross=t_cross, slope=slope)
