"""Through the layers and back, where spikes take their time between neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial, with_bias
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.network.delays import Delays
from gpuspike.network.layers import LayerInput
from gpuspike.neuron import LIF

Array = NDArray[Any]

PATCH_BYTES = 64 << 20
"""What gathered patches may take: samples are presented so many at a time."""


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

    def plus(self, other: Pulled) -> Pulled:
        """The sum of two."""
        delays = self.delays.map(lambda kind, array: array + getattr(other.delays, kind))
        taus = None if self.taus is None or other.taus is None else self.taus + other.taus
        return Pulled(self.weights + other.weights, delays, taus)


class Push(NamedTuple):
    """What pulls silent neurons of a layer towards their threshold, see `training.waking`.

    Attributes:
        wanted: (n_replica, n_batch, n_neurons) which pairs are pulled.
        slope: (n_replica, n_post) of a membrane at whose peak a spike would have that gradient, were dL/dt 1.
    """

    wanted: NDArray[np.bool_]
    slope: Array

    def applied(
        self, kernels: Kernels, state: LayerState, w: Array, neuron: LIF, delays: Delays | None, grad: Array
    ) -> tuple[LayerState, Array]:
        """A layer's answer and dL/dt where pulled neurons spike at their peaks."""
        own = delays or Delays()
        t_in = state.t_in if own.axonal is None else state.t_in + own.axonal[:, None]
        synapses = None if own.synaptic is None else own.synapses(w)
        t_peak = kernels.single.peaks(t_in, w, synapses, neuron, self.wanted)
        pulled = np.isfinite(t_peak)
        changed = state._replace(
            t_cross=np.where(pulled, t_peak, state.t_cross),
            slope=np.where(pulled, self.slope[:, None], state.slope),
        )
        return changed, np.where(pulled, grad.dtype.type(1.0), grad)


def forward(
    kernels: Kernels,
    received: LayerInput,
    weights: Sequence[Array],
    neurons: Sequence[LIF],
    delays: Sequence[Delays | None],
    bias_times: Sequence[Sequence[float]],
    trials: Sequence[Trial] | None = None,
    convolutions: Sequence[Convolution | None] = (),
) -> list[LayerState]:
    """First spike times of all layers; see `Kernels.forward`, which it is where all is plain.

    A state's input times are those at which spikes have passed the axons; its `t_cross` is when the membrane
    crossed, its `t_out` when the spike has passed the neuron's own delay. Of a convolutional layer the input
    times are those at which spikes are sent, `t_cross` and `slope` of all neurons, `t_out` of what is heard.

    Args:
        convolutions: of each layer; empty: there are none.
    """
    if all(own is None for own in (*delays, *convolutions)):
        return kernels.forward(received.t_in, received.order, weights, neurons, bias_times, trials)
    states: list[LayerState] = []
    t_in, order = received.t_in, received.order
    for number, (w, neuron) in enumerate(zip(weights, neurons, strict=True)):
        if states:
            t_in, order = with_bias(states[-1].t_out, bias_times[number]), None
        trial = None if trials is None else trials[number]
        own, convolution = delays[number], convolutions[number] if convolutions else None
        if convolution is None:
            states.append(_layer(kernels, t_in, order, w, neuron, own, trial))
        else:
            states.append(_convolved(kernels, convolution, t_in, w, neuron, own))
    return states


def _layer(
    kernels: Kernels,
    t_in: Array,
    order: NDArray[np.int64] | None,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    trial: Trial | None = None,
) -> LayerState:
    own = delays or Delays()
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
        return state
    return _neuron_by_neuron(kernels, t_in, w, own.synapses(w), neuron, trial)


def _convolved(
    kernels: Kernels, convolution: Convolution, t_in: Array, w: Array, neuron: LIF, delays: Delays | None
) -> LayerState:
    """What a convolutional layer answers: that of its fan-in on patches, where nothing faster is there."""
    if kernels.convolution is not None and neuron.uniform and delays is None:
        return kernels.convolution.forward(convolution, t_in, w, neuron)
    t_out, t_cross, slope = [], [], []
    flat = (len(w), -1, convolution.n_neurons)
    for part in _chunks(convolution, t_in, w):
        state = _layer(kernels, convolution.patches(t_in[:, part]), None, w, neuron, delays)
        t_out.append(convolution.heard(state.t_out.reshape(flat)))
        t_cross.append(state.t_cross.reshape(flat))
        slope.append(state.slope.reshape(flat))
    joined = (np.concatenate(parts, axis=1) for parts in (t_out, t_cross, slope))
    return LayerState(t_in, np.empty(0, np.int64), *joined)


def _chunks(convolution: Convolution, t_in: Array, w: Array) -> list[slice]:
    """Parts of a batch whose patches, and the order of their spikes, fit into `PATCH_BYTES`."""
    a_sample = (
        len(w) * convolution.n_positions * (w.shape[1] * (2 * w.itemsize + 8) + w.shape[2] * w.itemsize)
    )
    n, n_batch = max(1, PATCH_BYTES // a_sample), t_in.shape[1]
    return [slice(first, min(first + n, n_batch)) for first in range(0, max(n_batch, 1), n)]


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
    convolutions: Sequence[Convolution | None] = (),
    pushes: Sequence[Push | None] = (),
) -> list[Pulled]:
    """Gradients of everything that layers have, from that of the last layer's spike times.

    Args:
        states: of each layer, as `forward` returns them.
        active, max_weight_grad: see `Kernels.backward`.
        taus: time constants are learnt.
        convolutions: as for `forward`.
        pushes: of each layer, where silent neurons are pulled; empty: nowhere.
    """
    limits: dict[str, Any] = {"active": active, "max_weight_grad": max_weight_grad}
    if not taus and all(own is None for own in (*delays, *convolutions, *pushes)):
        _, grads = kernels.backward(states, weights, neurons, t_out_grad, need_t_in_grad=False, **limits)
        return [Pulled(grad) for grad in grads]
    found: list[Pulled] = []
    grad: Any = t_out_grad
    for number in reversed(range(len(weights))):
        state, w, neuron, own = states[number], weights[number], neurons[number], delays[number]
        grad = np.ascontiguousarray(grad[:, :, : state.t_out.shape[2]])  # bias spikes learn no time here
        limits |= {"taus": taus, "further": number > 0}
        convolution = convolutions[number] if convolutions else None
        push = pushes[number] if pushes else None
        if push is not None and convolution is None:
            state, grad = push.applied(kernels, state, w, neuron, own, grad)
        if convolution is None:
            pulled, grad = _pull(kernels, state, w, neuron, own, grad, **limits)
        else:
            pulled, grad = _pull_convolved(kernels, convolution, state, w, neuron, own, grad, **limits)
            if push is not None:
                more, of_inputs = _push_maps(kernels, convolution, state, w, neuron, own, push, **limits)
                pulled, grad = pulled.plus(more), grad if of_inputs is None else grad + of_inputs
        found.append(pulled)
    return found[::-1]


def _pull(
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
        wanted = np.isfinite(state.t_out) & active[:, None, None]
        dendritic = np.where(wanted, grad, 0.0).sum(axis=1, dtype=np.float64)
    further = further or own.axonal is not None
    spikes = state.t_cross, state.slope, grad
    of_weights, synapses = w, None if own.synaptic is None else own.synapses(w)
    if taus or synapses is not None:
        of_weights, synaptic, of_taus = kernels.single.learn(
            state.t_in, w, synapses, neuron, *spikes, with_taus=taus, **limits
        )
    pulled: Any = None
    if synapses is not None:
        if further:
            pulled = kernels.single.times_grad(state.t_in, w, synapses, neuron, *spikes, active=active)
    else:
        synaptic = None
        pulled, (of_weights,) = kernels.backward(
            [state], [w], [neuron], grad, need_t_in_grad=further, **limits
        )
    if own.axonal is not None:
        axonal = pulled.sum(axis=1, dtype=np.float64)
    return Pulled(of_weights, Delays(axonal, dendritic, synaptic), of_taus), pulled


def _pull_convolved(
    kernels: Kernels,
    convolution: Convolution,
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
    """The same of a convolutional layer: sums over its patches, where nothing faster is there."""
    if kernels.convolution is not None and neuron.uniform and delays is None and not taus:
        pulled, of_weights = kernels.convolution.backward(
            convolution, state, w, neuron, grad, need_t_in_grad=further, **limits
        )
        return Pulled(of_weights), pulled

    def spread(part: slice) -> Array:
        # What is heard first of a window does not change with a delay that its neurons share.
        return convolution.spread(grad[:, part], state.t_cross[:, part])

    return _pull_patches(
        kernels, convolution, state, w, neuron, delays, spread, taus=taus, further=further, **limits
    )


def _pull_patches(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    grad: Callable[[slice], Array],
    *,
    further: bool,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """The same on gathered patches, `grad` of all neurons for a part of the samples."""
    own, total, of_inputs = delays or Delays(), None, []
    for part in _chunks(convolution, state.t_in, w):
        t_cross, slope = (a[:, part].reshape(len(w), -1, w.shape[2]) for a in (state.t_cross, state.slope))
        t_in = convolution.patches(state.t_in[:, part])
        if own.axonal is not None:
            t_in = t_in + own.axonal[:, None]
        t_out = t_cross if own.dendritic is None else t_cross + own.dendritic[:, None]
        patches = LayerState(t_in, np.empty(0, np.int64), t_out, *map(np.ascontiguousarray, (t_cross, slope)))
        of_neurons = grad(part).reshape(t_cross.shape)
        pulled, of_patches = _pull(kernels, patches, w, neuron, delays, of_neurons, further=further, **limits)
        total = pulled if total is None else total.plus(pulled)
        if further:
            n_bias = state.t_in.shape[2] - convolution.n_in
            of_inputs.append(convolution.gathered(of_patches, n_bias).astype(w.dtype))
    assert total is not None
    return total, np.concatenate(of_inputs, axis=1) if further else None


def _push_maps(
    kernels: Kernels,
    convolution: Convolution,
    state: LayerState,
    w: Array,
    neuron: LIF,
    delays: Delays | None,
    push: Push,
    **limits: Any,
) -> tuple[Pulled, Any]:
    """What pulled neurons add to the gradients of a convolutional layer."""
    own, t_peak = delays or Delays(), np.empty(push.wanted.shape, w.dtype)
    synapses = None if own.synaptic is None else own.synapses(w)
    for part in _chunks(convolution, state.t_in, w):
        t_in = convolution.patches(state.t_in[:, part])
        if own.axonal is not None:
            t_in = t_in + own.axonal[:, None]
        wanted = push.wanted[:, part].reshape(len(w), -1, w.shape[2])
        t_peak[:, part] = kernels.single.peaks(t_in, w, synapses, neuron, wanted).reshape(
            t_peak[:, part].shape
        )
    slope = np.broadcast_to(np.tile(push.slope, convolution.n_positions)[:, None], t_peak.shape)
    pushed = state._replace(t_cross=t_peak, slope=slope)

    def ones(part: slice) -> Array:
        return np.ones_like(t_peak[:, part])

    return _pull_patches(kernels, convolution, pushed, w, neuron, delays, ones, **limits)


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
