"""The training step on a CUDA device: kernels only, replayed as a graph, asked by the host once an epoch.

Where each step has a chip of its own, the host draws it, and the step runs kernel by kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import BackendError, DataError
from gpuspike.kernels import LayerState, host
from gpuspike.kernels.cuda import call as cuda_call
from gpuspike.kernels.cuda import graph as cuda_graph
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.kernels.cuda import step_source as step_src
from gpuspike.kernels.cuda import update as cuda_update
from gpuspike.kernels.cuda import waking as cuda_waking
from gpuspike.network.delays import DELAYS
from gpuspike.network.layers import LayerInput, Moment
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.rng import Purpose
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites, drawn
from gpuspike.training.bumping import Bumping, unheard
from gpuspike.training.device_arrays import DeviceArrays
from gpuspike.training.evaluation import Evaluation, Labelled, begun
from gpuspike.training.losses import Loss
from gpuspike.training.optimizers import Descent, Optimizer
from gpuspike.training.step import StepKind, TrainingRule, training_state
from gpuspike.training.waking import Waking

Array = NDArray[Any]


def refuse_without_text(loss: Loss, optimizer: Optimizer) -> None:
    """Refuses what a device cannot compute.

    Raises:
        BackendError: the loss or the optimiser that has no device text, or a loss that changes.
    """
    if loss.at(0.0) != loss:
        raise BackendError("a device has one loss throughout: set training.xi_start=0, or backend=cpu")
    step_src.device_text("loss", type(loss))
    step_src.device_text("optimiser", type(optimizer))


DRAWN = 64 << 20
"""Bytes of what is drawn for images to be warped, beyond which only one batch is drawn at a time."""


def drawn_ahead(warp: RandomWarp, n_replica: int, presented: int, n_presented: int) -> int:
    """Batches for which it is drawn at a time: as many as `DRAWN` holds, at least one, at most an epoch's."""
    a_batch = 8 * n_replica * presented * warp.n_drawn
    return max(1, min(DRAWN // a_batch, -(-n_presented // presented)))


class DeviceStep:
    """What `piecewise.PiecewiseStep` does, on a device; arguments as there.

    The arrays of the trainer have a twin on the device, which the steps change; `pull` and `push` copy. A
    full batch runs kernel by kernel the first time, is then captured as a graph with branches, and replayed.
    The last, smaller batch of an epoch always runs kernel by kernel: with the same bits.

    Args:
        network: what is trained, with the device's kernels, as has the loss: itself, or on emulated chips.
        examined: what is validated; the same unless given.
        graph: whether full batches are replayed; they are not where a row is left to the library's sort, nor
            where each step has a chip of its own.

    Raises:
        BackendError: a loss or an optimiser that has no device text.
    """

    kind = StepKind("device")

    def __init__(
        self,
        network: Machine,
        learnt: Parameters | Sequence[Array],
        loss: Loss,
        descent: Descent,
        bumping: Bumping,
        rule: TrainingRule,
        seeds: Sequence[int],
        *,
        examined: Machine | None = None,
        graph: bool = True,
    ) -> None:
        refuse_without_text(loss, descent.optimizer)
        self._examined = network if examined is None else examined
        self._fresh = network if isinstance(network, OnChip) and network.fresh is not None else None
        self._network, self._loss, self._rule, self._bumping = network, loss, rule, bumping
        learnt = Parameters.of(learnt)
        self._delays = tuple(DELAYS[name] for name in learnt.trained if name in DELAYS)
        self._twins: dict[str, tuple[Labelled, Labelled]] = {}
        # A chip may have them in another order, and a convolution sorts its patches.
        plain = rule.keeps_inputs and not isinstance(network, OnChip)
        plain = plain and network.layers[0].convolution is None and not self._delays
        sorted_here = network.layers[1 if plain else 0 :]
        self._graphs = (
            graph
            and self._fresh is None
            and all(cuda_step.sorts_by_itself(layer.n_pre) for layer in sorted_here)
        )
        # Gradients of a chip's own weights are looked at once more, and those that constants learn from.
        of_constants = len(self._delays) < len(learnt.trained)
        on_chip = isinstance(network, OnChip) and (network.exact or network.network.convolves)
        self._plain = not (on_chip or of_constants)
        self._graph: cuda_graph.Captured | None = None
        self._warm: int | None = None  # the lane's refusals, where a full batch has run in what it has
        self._batches: cuda_step.Batches | None = None
        self._lane = cuda_graph.Lane()
        sizes = [layer.n_out for layer in network.layers]
        self._first = [0, *np.cumsum(sizes)[:-1].tolist()]
        both = rule.augment if isinstance(rule.augment, WithOpposites) else None
        self._channels = 1 if both is None else 2
        shift = self._change = (
            rule.augment.change if isinstance(rule.augment, WithOpposites) else rule.augment
        )
        self._shift = cuda_step.Shift()
        self._warp: cuda_step.Warp | None = None
        self._host_seeds = seeds
        if isinstance(shift, RandomShift):
            purpose = int(Purpose.AUGMENTATION)
            opposite = 0.0 if both is None else float(both.times[255])
            edges = purpose, self._channels, opposite
            self._shift = cuda_step.Shift(shift.side, shift.most, shift.background, *edges)
        noise = (network.layers[0].n_in, rule.input_noise, int(Purpose.INPUT_NOISE))
        self._noise = cuda_step.Noise(*noise) if rule.input_noise else cuda_step.Noise()
        n_replica, place = len(seeds), self._place
        with self._lane.entered():
            for machine in (network, self._examined):
                if isinstance(machine, OnChip) and isinstance(machine.chip, EmulatedChip):
                    machine.chip.send(self._delays)
            arrays = training_state(learnt, descent, bumping)
            self._arrays = DeviceArrays(arrays, learnt, descent, place)
            self._seeds = place(np.array(seeds, np.int64))
            self._clock = place(np.zeros(2, np.int64))
            self._now = Moment(self._clock, self._clock)  # type: ignore[arg-type]
            self._silent = place(np.zeros((n_replica, sum(sizes)), np.int32))
            self._judgement = cuda_step.Judgement(
                ends=place(np.cumsum(sizes).astype(np.int32)),
                max_silent=place(np.array(bumping.bumped_above, np.float64)),
                dead=place(self._dead(n_replica)),
                value=bumping.value,
                most=bumping.most,
                exponential=bumping.exponential,
                replaces=rule.bump_replaces_step,
                layer=self._arrays["bump_layer"],
                size=self._arrays["bump_size"],
                active=place(np.ones(n_replica, np.bool_)),
                totals=place(np.zeros((3 + len(sizes), n_replica))),
                clock=self._clock,
            )
            self._wanted = self._judgement.active
            if not rule.bump_replaces_step:  # every replica takes a step: nothing waits to be told so
                self._wanted = place(np.ones(n_replica, np.bool_))
        self._lane.wait()

    @property
    def lane(self) -> cuda_graph.Lane:
        """Where its work runs, and where events that time it are recorded."""
        return self._lane

    def _place(self, array: Array) -> Any:
        return self._network.kernels.place(array)

    def _dead(self, n_replica: int) -> Array:
        """(n_layer, n_replica) shares of neurons that no bump would wake."""
        shape = len(self._network.layers), n_replica
        return np.broadcast_to(np.asarray(self._network.dead_fraction, np.float64), shape).copy()

    def pull(self) -> None:
        """See `step.Step.pull`."""
        with self._lane.entered():
            self._arrays.pull()

    def push(self) -> None:
        """See `step.Step.push`."""
        with self._lane.entered():
            self._arrays.push()
        self._lane.wait()

    def begin(
        self,
        train: Labelled,
        order: NDArray[np.int64],
        epoch: int,
        learning_rate: float,
        progress: float = 1.0,
    ) -> None:
        """See `step.Step.begin`."""
        if not self._knows(
            "train", train
        ):  # the graph knows the old arrays' addresses; another size, other kernels
            self._graph, self._warm, self._batches, self._warp = None, None, None, None
        data = self._on_device("train", train)
        with self._lane.entered():
            if self._batches is None:
                t_in, full = data.received.t_in, self._rule.presented
                # Times that no noise moves are sorted once; of a convolution the times of patches would be.
                same = self._rule.keeps_inputs and self._network.layers[0].convolution is None
                same = same and not {"axonal", "synaptic"} & set(self._delays)  # which sort for themselves
                known = self._network.kernels.spike_order(t_in) if same else None
                self._batches = cuda_step.Batches(
                    t_in, known, data.labels, self._place(order), self._clock, self._seeds, full
                )
                if isinstance(self._change, RandomWarp):
                    self._warp = self._make_warp(self._change, order.shape[1], t_in.dtype)
            else:
                self._batches.order.set(order)
            self._epoch = epoch
            self._clock.set(np.array([epoch, 0], np.int64))
            self._arrays.begin(learning_rate)
            self._judgement.totals.set(np.zeros(self._judgement.totals.shape))
        self._lane.wait()  # the host's arrays may go now

    def _make_warp(self, warp: RandomWarp, n_presented: int, dtype: Any) -> cuda_step.Warp:
        """With room for what is drawn."""
        n_replica, full, place = len(self._host_seeds), self._rule.presented, self._place
        ahead = drawn_ahead(warp, n_replica, full, n_presented)
        numbers = np.zeros((n_replica, ahead * full, warp.n_drawn))
        levels = warp.times.astype(dtype)
        arrays = place(warp.basis), place(levels), place(numbers)
        return cuda_step.Warp(*warp.scale(), *arrays, ahead, self._channels)

    def _draw(self, warp: cuda_step.Warp, number: int) -> None:
        """What changes the images of the next batches, drawn by the host while the device works."""
        batches, augment = self._batches, self._change
        assert batches is not None
        assert isinstance(augment, RandomWarp)
        full, n_presented = self._rule.presented, batches.order.shape[1]
        ends = np.minimum(full * np.arange(number, number + warp.ahead + 1), n_presented)
        sizes = [int(n) for n in np.diff(ends) if n]
        found = np.concatenate(drawn(augment, self._host_seeds, self._epoch, number, sizes), axis=1)
        numbers = np.zeros(warp.numbers.shape)
        numbers[:, : found.shape[1]] = found
        with self._lane.entered():
            warp.numbers.set(numbers)
        self._lane.wait()  # the host's array may go now

    def batch(self, number: int) -> None:
        """See `step.Step.batch`."""
        assert self._batches is not None, "begin comes first"
        if self._warp is not None and number % self._warp.ahead == 0:
            self._draw(self._warp, number)
        full, n_presented = self._rule.presented, self._batches.order.shape[1]
        n_batch = min(full, n_presented - number * full)
        lane, before = self._lane, self._lane.refusals
        if self._warm != before:  # what a step needs may have been given back, the graph's memory with it
            self._graph, self._warm = None, None
        if n_batch < full or not self._graphs or self._warm is None:
            if self._fresh is None:
                lane.run(lambda: self._step(n_batch, self._now))
            else:
                self._renewed(self._fresh, n_batch, Moment(self._epoch, number))
            if n_batch == full and lane.refusals == before:
                self._warm = before
            return
        if self._graph is None:
            self._graph = lane.capture(lambda: self._step(full, self._now))
        if lane.holds(self._graph):
            lane.replay(self._graph)
        else:  # there was too little while it was captured
            self._graph = None
            lane.run(lambda: self._step(full, self._now))

    def _renewed(self, machine: OnChip, n_batch: int, moment: Moment) -> None:
        """One batch on a chip of its own, which the host draws, and tells the number of the batch."""
        with self._lane.entered():
            machine.renew(moment)
            if isinstance(machine.chip, EmulatedChip):
                machine.chip.send(self._delays)
            self._judgement.dead.set(self._dead(len(self._judgement.active)))
        self._lane.wait()  # the host's arrays may go now
        with cuda_call.passing():
            self._lane.run(lambda: self._step(n_batch, moment))

    def _step(self, n_batch: int, moment: Moment) -> None:
        """One batch, in the order of `piecewise.PiecewiseStep.batch`; kernels only."""
        network, rule, batches = self._network, self._rule, self._batches
        assert batches is not None
        learnt = self._arrays.parameters
        weights = learnt.weights
        network = network.having(learnt)
        network = network.during(weights) if isinstance(network, OnChip) else network
        if self._warp is None:
            t_in, order, labels = cuda_step.take(batches, n_batch, self._shift, self._noise)
        else:
            order, (t_in, labels) = None, cuda_step.take_warped(batches, n_batch, self._warp)
            cuda_step.jitter_now(t_in, self._noise, self._seeds, self._clock)
        states = network.forward(weights, LayerInput(t_in, order), moment)
        losses, t_out_grad = self._loss(states[-1].t_out, labels)
        self._judge(states, labels, losses, n_batch / batches.order.shape[1])
        pulls = self._pulls(states, labels, network)
        with nullcontext() if self._plain else cuda_graph.in_order():
            grads = network.backward(
                learnt, states, t_out_grad, active=self._wanted, max_weight_grad=rule.limit, pushes=pulls
            )
        cuda_graph.joined()
        for pull, state, first in zip(pulls, states, self._first, strict=bool(pulls)):
            pull.follow(state.t_out, self._silent, first)
        self._descend(grads, network)

    def _judge(self, states: list[LayerState], labels: Any, losses: Any, share: float) -> None:
        """The batch's figures and what follows for the weights, beside the gradients.

        Where a bump replaces a step they come first: of whom it does so no gradient is wanted.
        """
        at, outs = self._judgement, [state.t_out for state in states]
        with nullcontext() if self._rule.bump_replaces_step else cuda_graph.beside(labels, losses, *outs):
            cuda_step.count_all(outs, self._silent)
            cuda_step.judge(at, self._silent, labels, outs[-1], losses, share)
            self._arrays.find_rates(at.active)

    def _pulls(self, states: list[LayerState], labels: Any, network: Machine) -> list[cuda_waking.Pull]:
        """What pulls silent neurons of each layer, as the last batch has it; none unless waking."""
        rule = self._bumping
        if not isinstance(rule, Waking):
            return []
        layers, dead = network.layers, network.dead_maps
        parts = zip(states, layers, self._arrays.named("bump_share"), rule.max_silent, dead, strict=True)
        return [
            cuda_waking.Pull.of(
                state, rule.end, layer.neuron.span, labels, share, rule.strength, limit, state is states[-1],
                dead=own,
            )
            for state, layer, share, limit, own in parts
        ]  # fmt: skip

    def _descend(self, grads: Parameters, machine: Machine) -> None:
        """The optimiser's step, the bumps, and what `Machine.after_step` does, which is a chip's range."""
        chip = machine.chip if isinstance(machine, OnChip) else None
        most = [
            chip.substrate.most(n) if isinstance(chip, EmulatedChip) else math.inf for n in range(len(grads))
        ]
        places = [layer.n_out // layer.n_post for layer in machine.layers]  # of each map
        at, targeted, silent = self._judgement, self._bumping.targeted, self._silent
        gone = unheard(machine.layers, machine.dead_maps)
        if any(own is not None for own in gone):
            shapes = [(len(at.active), layer.n_out) for layer in machine.layers]
            masks = [
                np.zeros(n, np.bool_) if own is None else own for own, n in zip(gone, shapes, strict=True)
            ]
            silent = cuda_step.spared(silent, np.concatenate(masks, axis=1))
        bumps = cuda_update.Bumps(at.layer, at.size, silent, self._first, places, most, targeted)
        self._arrays.descend(grads, at.active, bumps)

    def figures(self) -> Array:
        """See `step.Step.figures`; waits for the device."""
        with self._lane.entered():
            return host(self._judgement.totals)

    def evaluate(self, data: Labelled) -> Evaluation:
        """See `step.Step.evaluate`."""
        return self.begin_evaluation(data)()

    def begin_evaluation(self, data: Labelled) -> Callable[[], Evaluation]:
        """Asks for what `evaluate` returns; the device computes until the answer is called for."""
        there = self._on_device("examined", data)
        with self._lane.entered():
            size = self._rule.evaluation_batch_size
            learnt = self._arrays.parameters
            answer = begun(self._examined.having(learnt), learnt.weights, there, self._loss, size)

        def gathered() -> Evaluation:
            with self._lane.entered():
                return answer()

        return gathered

    def _knows(self, role: str, data: Labelled) -> bool:
        known = self._twins.get(role)
        return known is not None and known[0] is data

    def _on_device(self, role: str, data: Labelled) -> Labelled:
        """A split's twin; the one before in its role is dropped.

        Raises:
            DataError: a label that no output neuron has, where a kernel would read beyond the spike times.
        """
        if self._knows(role, data):
            return self._twins[role][1]
        n_classes = self._network.layers[-1].n_out
        low, high = int(data.labels.min(initial=0)), int(data.labels.max(initial=0))
        if low < 0 or high >= n_classes:
            raise DataError(f"labels must lie from 0 to {n_classes - 1}, got {low} to {high}")
        self._twins.pop(role, None)
        with self._lane.entered():
            received = LayerInput(self._place(data.received.t_in), None)
            twin = Labelled(received, self._place(data.labels))
        self._twins[role] = data, twin
        return twin
