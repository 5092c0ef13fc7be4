"""Silent neurons in a training step on a device: which are pulled to their thresholds; see `waking.cu`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.kernels import Kernels, LayerState
from gpuspike.kernels.constants import MIXED
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cuda import lazy
from gpuspike.kernels.cuda import single_source as single_src
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.kernels.cuda.call import Array, Call, check, constant, elementwise
from gpuspike.kernels.cuda.single import Layer
from gpuspike.kernels.trials import awake
from gpuspike.kernels.unit import unit
from gpuspike.kernels.waiting import computed
from gpuspike.neuron import LIF


class Pull(NamedTuple):
    """What pulls silent neurons of a layer to their thresholds; see `network.one_layer.Push`.

    Attributes:
        awake: (n_replica, n_batch, n_neurons) inf of who may be pulled, see `trials.awake`.
        span: threshold - leak of the layer's neurons, without a chip: of each, or of all.
        labels: (n_replica, n_batch);  share: (n_replica, n_post) float64, silent in the last batch.
        strength, limit: see `gpuspike.training.waking`;  is_last: the layer is the output.
        dead: (n_replica, n_neurons) on the host, of whom nothing is wanted; None: nobody.
    """

    awake: Array
    span: Any
    labels: Array
    share: Array
    strength: float
    limit: float
    is_last: bool
    dead: Any = None

    @classmethod
    def of(
        cls,
        state: LayerState,
        end: float,
        span: Any,
        labels: Array,
        share: Array,
        strength: float,
        limit: float,
        is_last: bool,
        dead: Any = None,
    ) -> Pull:
        """That of a layer that has answered, in trials that end some time; the rest as above."""
        heard = state.t_out if state.t_out.shape == state.t_cross.shape else state.seen
        t_heard: Any = lazy.later(heard)
        t_cross: Any = t_heard if state.t_cross is heard else lazy.later(state.t_cross)
        gone: Any = None if dead is None else lazy.later(constant(dead[:, None], np.bool_))
        asleep = computed("awake", awake(t_heard, t_cross, end, gone))
        return cls(asleep, span, labels, share, strength, limit, is_last, dead)

    def applied(
        self,
        kernels: Kernels,
        state: LayerState,
        w: Array,
        neuron: LIF,
        delays: Any,
        grad: Array,
        convolution: Convolution | None = None,
    ) -> tuple[LayerState, Array]:
        """The answer where pulled neurons spike at their peaks, with slopes that are negative; and dL/dt."""
        cupy, own = cupy_module(), unit(neuron, w)
        axonal, synaptic = (None, None) if delays is None else (delays.axonal, delays.synaptic)
        t_in = state.t_in
        if convolution is not None:
            t_in = convolution.patches(t_in)
            if axonal is not None:  # of other layers, inputs have passed the axons
                t_in = (lazy.later(t_in) + axonal[:, None]).now("arriving")
        call = Call.of(t_in, w, own)
        of_pairs = {"awake": self.awake, "t_cross": state.t_cross, "slope": state.slope}
        of_pairs = {name: array.reshape(call.out_shape) for name, array in of_pairs.items()}
        check(call.dtype, {name: (array, call.out_shape) for name, array in of_pairs.items()})
        places = 1 if convolution is None else convolution.n_positions
        check(np.int64, {"labels": (self.labels, (call.n_replica, call.n_batch // places))})
        check(np.float64, {"share": (self.share, (call.n_replica, call.n_post))})
        seen, pull = (cupy.empty(state.t_cross.shape, call.dtype) for _ in range(2))
        if not seen.size:
            return state, grad
        rule = places, int(self.is_last)
        numbers = self._spans((call.n_replica, call.n_post)), self.share, self.labels
        if synaptic is not None:
            layer = Layer.of(t_in, w, synaptic, neuron)
            for n_pairs, sizes, *room in layer.parts():
                elementwise(single_src.WAKE_SINGLE)(
                    *sizes, *rule, self.strength, self.limit, layer.neurons, *numbers, t_in, w, synaptic,
                    *of_pairs.values(), *room, seen, pull, size=n_pairs,
                )  # fmt: skip
        else:
            known = convolution is None and state.order.shape == t_in.shape
            order = state.order if known else cuda_step.spike_order(t_in)
            check(np.int64, {"order": (order, t_in.shape)})
            elementwise(src.WAKE)(
                call.n_in_replicas, call.n_batch, call.n_pre, call.n_post, *rule, int(own.regime == MIXED),
                *call.constants[:3], self.strength, self.limit, call.own_taus(), *numbers, t_in, order, w,
                *of_pairs.values(), seen, pull, size=seen.size,
            )  # fmt: skip
        heard = state.t_seen if convolution is None else state.seen  # of which the pools have the earliest
        return state._replace(t_cross=seen, slope=pull, t_seen=heard), grad

    def _spans(self, shape: tuple[int, int]) -> Array:
        """The neurons' own, where kernels read them."""
        if isinstance(self.span, lazy.Later):
            return lazy.later(self.span, shape).now("span")
        return constant(np.broadcast_to(np.asarray(self.span, np.float64), shape), np.float64)

    def follow(self, t_out: Array, silent: Array, first: int) -> None:
        """Remembers which share of the batch each neuron was asleep for, in `share`.

        Args:
            t_out: of the layer, whose silence `step.count_all` has counted in `silent`, (n_replica, n_all),
                from `first` on.
        """
        n_replica, n_post = self.share.shape
        rows = self.awake.reshape(n_replica, -1, n_post)  # places of a map are like samples
        if self.awake is not t_out or rows.shape != t_out.shape:
            silent, first = cuda_step.count_silent(rows), 0
        check(np.float64, {"share": (self.share, self.share.shape)})
        check(np.int32, {"silent": (silent, (n_replica, silent.shape[1]))})
        n_batch, places = t_out.shape[1], self.awake.shape[2] // n_post
        alive = np.full(self.share.shape, places)
        if self.dead is not None:
            alive = (~self.dead).reshape(n_replica, places, n_post).sum(axis=1)
        alive = constant(alive, np.int32, lasting=self.dead is None)
        if self.share.size:
            elementwise(src.SHARE)(n_post, first, silent.shape[1], n_batch, alive, silent, self.share)
