"""Through the layers and back, where spikes take their time between neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Kernels, LayerState, Trial
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.waiting import computed, later
from gpuspike.network.convolved import convolved, maps_as_own, pull_convolved, push_maps
from gpuspike.network.delays import Delays
from gpuspike.network.layers import LayerInput
from gpuspike.network.one_layer import Pulled, Push, PushedPairs, answered, pull
from gpuspike.neuron import LIF

Array = NDArray[Any]


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
            t_in, order = kernels.with_bias(states[-1].t_out, bias_times[number]), None
        trial = None if trials is None else trials[number]
        own, convolution = delays[number], convolutions[number] if convolutions else None
        if convolution is None:
            states.append(answered(kernels, t_in, order, w, neuron, own, trial))
        else:
            states.append(convolved(kernels, convolution, t_in, w, neuron, own, trial))
    return states


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
        grad = kernels.without_bias(grad, state.t_out.shape[2])  # bias spikes learn no time here
        limits |= {"taus": taus, "further": number > 0}
        convolution = convolutions[number] if convolutions else None
        push = pushes[number] if pushes else None
        # The host takes maps' pulls back by themselves, a device with all else.
        maps = push if convolution is not None and isinstance(push, PushedPairs) else None
        if push is not None and maps is None:
            state, grad = push.applied(kernels, state, w, neuron, own, grad, convolution)
        if convolution is None:
            pulled, grad = pull(kernels, state, w, neuron, own, grad, **limits)
        else:
            pulled, grad = pull_convolved(kernels, convolution, state, w, neuron, own, grad, **limits)
            if maps is not None:
                more, of_inputs = push_maps(kernels, convolution, state, w, neuron, own, maps, **limits)
                pulled, grad = pulled.plus(more), grad if of_inputs is None else grad + of_inputs
        found.append(pulled)
    return found[::-1]


def as_own(
    kernels: Kernels,
    state: LayerState,
    weights: Array,
    neuron: LIF,
    delays: Delays | None,
    convolution: Convolution | None = None,
) -> LayerState:
    """Somebody's answer as if it were the layer's own, with the slopes where its membranes would cross."""
    if convolution is not None:
        return maps_as_own(kernels, state, weights, neuron, convolution)
    own = delays or Delays()
    t_cross = state.t_out
    if own.dendritic is not None:
        t_cross = computed("crossed", later(kernels, state.t_out) - own.dendritic[:, None])
    if own.synaptic is None:
        slope = kernels.crossing_slopes(state.t_in, weights, neuron, t_cross)
    else:
        slope = kernels.single.slopes(
            state.t_in, weights, own.synapses(weights), neuron, t_cross, at_crossing=True
        )
    return state._replace(t_cross=t_cross, slope=slope)
