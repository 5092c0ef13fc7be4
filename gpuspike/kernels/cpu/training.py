"""A stack of layers in training on the CPU: what lasts from step to step, and the steps, each one compiled job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import SAME_TICK, Array, LayerState, Trial
from gpuspike.kernels.constants import Constants
from gpuspike.kernels.cpu.arrays import address, in_vectors
from gpuspike.kernels.cpu.backward_room import room_for_events, tables_of, transpose
from gpuspike.kernels.cpu.forward import PAIRS_WORTH_A_THREAD, check_stack, pair_events, table_row, totals_of
from gpuspike.kernels.cpu.leaves import in_type, job_for
from gpuspike.kernels.cpu.loss import check_labels, in_floats
from gpuspike.kernels.cpu.products import sum_parts
from gpuspike.kernels.cpu.records import Data, Drawn, Noise, Room, Rule, Shift, Told, Wakes, Warp, When
from gpuspike.kernels.cpu.step import step_job
from gpuspike.kernels.cpu.team import run, samples_of_a_piece, settled
from gpuspike.kernels.unit import Unit, on_host, times


class Chip(NamedTuple):
    """Chips that answer in the network's place, one a replica; see `kernels.Trial`.

    Attributes:
        seeds: (n_replica,);  base, factor: of each layer (n_replica, n_post): a threshold's factor in a trial is
            base + factor times a normal number.
        thresholds, delays: of each layer, the address of these numbers and of those of the spikes' delays but for
            epoch and batch, see `rng.normals`; -1 where nothing is drawn.
        jitter: standard deviation of the delays.
        grid, end: on which spikes are seen, and until when.
        units: of each layer, the neurons that answer.
        factors: None: the gradient is the nominal network's; else it is the chip's, and these are of each layer the
            derivatives (n_replica, n_pre, n_post) of its weights by the trainer's, None for 1.
    """

    seeds: NDArray[np.uint64]
    base: Sequence[Array]
    factor: Sequence[Array]
    thresholds: Sequence[int]
    delays: Sequence[int]
    jitter: float
    grid: float
    end: float
    units: Sequence[Unit]
    factors: Sequence[Array | None] | None


class Epoch(NamedTuple):
    """The data of an epoch, which counts from 0, what becomes of them, and a step's machine code by size of batch."""

    data: Data
    told: Told
    number: int
    jobs: dict[int, Any]


class Batch(NamedTuple):
    """Room for batches of one size, what is known by its address there, and how many samples a piece of work has."""

    room: Room
    kept: list[Any]
    piece: int


class Stack:
    """A stack of layers in training: its weights, the optimiser's arrays, and room for a batch, kept from step to step.

    Args:
        weights: of each layer (n_replica, n_pre, n_post);  kept: of each layer, what the optimiser keeps beside them.
            Both are changed in place by `step`.
        bias_times: of each layer.
        modes, constants: of each layer, see `gpuspike.kernels.cpu`.
        gradient_modes, gradient_constants: those that the gradient is taken with, the kernel's peak among them.
        sort: whether each step sorts its input, else the order is known.
        shift: None, or side, most and background of `records.Shift`.
        warp: None, or basis, times, dark and per_level of `records.Warp`, instead.
        chip: what answers, if it is not the network itself.
        wakes: None, or strength, limits and shares of `records.Wakes`.
    """

    def __init__(
        self,
        weights: Sequence[Array],
        kept: Sequence[Sequence[Array]],
        bias_times: Sequence[Sequence[float]],
        modes: Sequence[int],
        constants: Sequence[tuple[float, ...]],
        gradient_modes: Sequence[int],
        gradient_constants: Sequence[tuple[float, ...]],
        rule: Rule,
        noise: Noise,
        sort: bool,
        shift: tuple[int, int, float] | None,
        chip: Chip | None,
        wakes: tuple[float, Sequence[float], Sequence[NDArray[np.float64]]] | None = None,
        warp: tuple[Array, Array, float, float] | None = None,
    ) -> None:
        dtype, self._n_replica = weights[0].dtype, len(weights[0])
        self._weights, self._modes, self._gradient_modes = tuple(weights), modes, gradient_modes
        self._sort, self._chip = sort, chip
        self._rule = rule._replace(loss=in_floats(rule.loss), optimizer=in_type(rule.optimizer, dtype))
        self._job = job_for(step_job, rule.loss, rule.optimizer)
        self._noise = noise._replace(std=dtype.type(noise.std))
        self._shift = Shift(*(shift or (0, 0, 0.0)), np.empty((0, 0, 0), np.int64))
        self._shift = self._shift._replace(background=dtype.type(self._shift.background))
        self._warp = None
        if warp is not None:
            basis, times, dark, per_level = warp
            self._warp = Warp(basis, times.astype(dtype), dark, per_level, np.empty((0, 0, 0)))
        self._constants, self._gradient_constants = np.array(constants), np.array(gradient_constants)
        self._n_biases = [
            0,
            *(len(times) for times in bias_times[1:]),
        ]  # those of the first layer are in t_in
        self._pairs = pair_events(weights)
        self._bias = np.array([time for times in bias_times[1:] for time in times], dtype)
        check_stack(np.empty((1, 0, weights[0].shape[1]), dtype), weights, bias_times)
        self._vectors = [in_vectors(w) for w in weights]
        # As in a forward pass: behind the first layer, only a chip's spikes are taken together.
        self._totals = [
            totals_of(vectors) if chip is not None or number == 0 else None
            for number, vectors in enumerate(self._vectors)
        ]
        self._transposed = [transpose(w) if number else None for number, w in enumerate(weights)]
        self._nominal = [in_vectors(w) for w in weights] if chip is not None and chip.factors is None else []
        factors = [None] * len(weights) if chip is None or chip.factors is None else chip.factors
        follow = (self._vectors, self._transposed, self._totals)
        if chip is not None:  # which is programmed in between
            follow = ([None] * len(weights),) * 3
        each = zip(weights, *follow, factors, kept, strict=True)
        self._updates = np.array([[address(a) for a in (*arrays, *of_layer)] for *arrays, of_layer in each])
        self._kept = kept, factors
        self._told_of_chip = None if chip is None else self._tell(chip)
        self._wakes = None if wakes is None else self._wake(*wakes)
        self._batches: dict[int, Batch] = {}

    def score(self, loss: Any) -> None:
        """Goes on with other numbers of the same loss."""
        self._rule = self._rule._replace(loss=in_floats(loss))

    def _wake(self, strength: float, limits: Sequence[float], shares: Sequence[NDArray[np.float64]]) -> Wakes:
        """What `step_job` is told of silent neurons."""
        self._kept = self._kept, shares
        each = [Constants(*row) for row in self._gradient_constants]
        neurons = [(c.span, c.tau_slow, c.tau_fast, c.rate, c.peak_delay) for c in each]
        places = np.array([address(share) for share in shares])
        end = math.inf if self._chip is None else float(self._chip.end)
        return Wakes(np.array(limits, np.float64), float(strength), places, np.array(neurons), end)

    def _tell(self, chip: Chip) -> Drawn:
        """The chip as `step_job` knows it."""
        dtype, n_layer = self._weights[0].dtype, len(self._weights)
        nominal = self._nominal or [None] * n_layer
        scales = [(None, None)] * n_layer
        if not self._nominal:
            scales = [
                tuple(None if x is None else on_host(x, dtype) for x in (unit.span, unit.capacitance))
                for unit in chip.units
            ]
        numbers = np.array([[chip.grid, chip.end, SAME_TICK]] * n_layer)
        arrays = [np.ascontiguousarray(x, dtype) for x in (*chip.base, *chip.factor)]
        self._kept = self._kept, scales, arrays
        places = [
            [
                address(base),
                address(factor),
                lift,
                delay,
                address(vectors),
                address(span),
                address(capacitance),
            ]
            for base, factor, lift, delay, vectors, (span, capacitance) in zip(
                arrays[:n_layer], arrays[n_layer:], chip.thresholds, chip.delays, nominal, scales, strict=True
            )
        ]
        return Drawn(numbers, chip.seeds, np.array(places), dtype.type(chip.jitter), dtype.type(chip.end))

    def follow(self) -> None:
        """Takes over weights that something else than `step` has changed."""
        for w, vectors, transposed in zip(self._weights, self._vectors, self._transposed, strict=True):
            vectors[:, :, : w.shape[2]] = w
            if transposed is not None:
                transposed[...] = w.swapaxes(1, 2)
        self._add_up()

    def _add_up(self) -> None:
        """Brings the sums over the inputs up to date."""
        for vectors, totals in zip(self._vectors, self._totals, strict=True):
            if totals is not None:
                sum_parts(vectors, totals)

    def program(self, effective: Sequence[Array], believed: Sequence[Array]) -> None:
        """Takes over the weights that the chip has, and those that the gradient is taken of."""
        assert self._chip is not None
        for number, (has, w) in enumerate(zip(effective, believed, strict=True)):
            has = times(has, self._chip.units[number].per_drive)
            self._vectors[number][:, :, : w.shape[2]] = has
            if self._nominal:
                self._nominal[number][:, :, : w.shape[2]] = w
            transposed = self._transposed[number]
            if transposed is not None:
                transposed[...] = w.swapaxes(1, 2)
        self._add_up()

    def epoch(
        self,
        source: Array,
        known: NDArray[np.int64],
        order: NDArray[np.int64],
        labels: NDArray[np.int64],
        number: int,
        n_batches: int,
    ) -> Epoch:
        """Room for an epoch; see `records.Data` for the arguments.

        Raises:
            DtypeError, ShapeError: data that do not fit the network.
            ValueRangeError: a label that no output neuron has.
        """
        n_layer, (n_replica, n_presented), n_samples = len(self._weights), order.shape, len(labels)
        _, n_pre, _ = self._weights[0].shape
        if source.dtype != self._weights[0].dtype:
            raise DtypeError(f"t_in must be {self._weights[0].dtype} like the weights, got {source.dtype}")
        for name, array, expected in (
            ("t_in", source, (n_samples, n_pre)),
            ("labels", labels, (n_samples,)),
            ("order", order, (self._n_replica, n_presented)),
            ("the order of spikes", known, (n_samples if len(known) else 0, n_pre)),
        ):
            if array.shape != expected:
                raise ShapeError(f"{name} must be {expected}, got shape {array.shape}")
        check_labels(labels, self._weights[-1].shape[2])
        data = Data(np.ascontiguousarray(source), known, np.ascontiguousarray(order), labels)
        told = Told(
            np.empty(order.shape, source.dtype),
            np.empty(order.shape, np.bool_),
            np.empty((n_layer, n_replica, n_presented), np.int32),
            np.empty((1 + n_batches, n_replica), np.int64),
            np.empty((1 + n_batches, n_replica)),
        )
        return Epoch(data, told, number, {})

    def _batch(self, n_batch: int) -> Batch:
        found = self._batches.get(n_batch)
        if found is not None:
            return found
        n_replica, dtype = self._n_replica, self._weights[0].dtype
        states, tables, trials = [], [], []
        first_events = room_for_events(n_replica, n_batch, self._weights[0].shape[1])
        for number, w in enumerate(self._weights):
            received = np.empty((n_replica, n_batch, w.shape[1]), dtype)
            t_cross = np.empty((n_replica, n_batch, w.shape[2]), dtype)
            t_out, trial = t_cross, Trial()
            if self._chip is not None:
                t_out, trial = np.empty_like(t_cross), Trial(np.empty_like(t_cross), np.empty_like(t_cross))
            order = np.empty(received.shape, np.int64)
            states.append(LayerState(received, order, t_out, t_cross, np.empty_like(t_cross)))
            sort = self._sort or number > 0
            vectors, n_bias, mode = self._vectors[number], self._n_biases[number], self._modes[number]
            totals, events = self._totals[number], None if number else first_events
            tables.append(table_row(states[-1], vectors, totals, n_bias, mode, sort, trial, events))
            trials.append(trial)
        grad = np.empty_like(states[-1].t_out)
        # The nominal network sees the spikes as they are heard.
        seen = [state._replace(t_cross=state.t_out) for state in states] if self._nominal else states
        if self._wakes is not None:  # where silent neurons get times that nobody hears
            seen = [state._replace(t_cross=np.empty_like(state.t_cross)) for state in states]
        backward_tables, kept = tables_of(
            seen, self._transposed, grad, None, None, self._gradient_modes, first_events
        )
        t_in, order = states[0].t_in, states[0].order
        heard = np.array([[state.t_out.shape[2], address(state.t_out)] for state in states])
        room = Room(t_in, order, grad, heard, backward_tables, np.array(tables))
        batch = Batch(room, [states, trials, kept], samples_of_a_piece(n_replica * n_batch))
        self._batches[n_batch] = batch
        return batch

    def step(
        self,
        epoch: Epoch,
        number: int,
        first: int,
        n_batch: int,
        rates: Sequence[tuple[float, ...]],
        drawn: Array | None = None,
    ) -> None:
        """One step of training, told in `epoch`.

        Args:
            number: of the batch;  first, n_batch: its samples, in the order of the epoch.
            rates: of each replica what the optimiser needs for this step.
            drawn: for the images of the batch, where they are shifted or warped: corners of `records.Shift`, or
                numbers of `records.Warp`.
        """
        batch, dtype, shift, warp = self._batch(n_batch), self._weights[0].dtype, self._shift, self._warp
        if drawn is not None and warp is not None:
            warp = warp._replace(numbers=drawn)
        elif drawn is not None:
            shift = shift._replace(corners=drawn)
        arguments = (
            When(number, first, epoch.number),
            epoch.data,
            batch.room,
            epoch.told,
            shift,
            warp,
            self._noise,
            self._bias,
            self._constants,
            self._gradient_constants,
            self._updates,
            np.array(rates, dtype),
            self._rule,
            self._told_of_chip,
            self._wakes,
            batch.piece,
        )
        if n_batch not in epoch.jobs:
            epoch.jobs[n_batch] = settled(self._job, arguments)
        run(
            epoch.jobs[n_batch],
            arguments,
            keep=(self, batch),
            parallel=self._n_replica * n_batch * self._pairs > PAIRS_WORTH_A_THREAD,
        )
