"""First output spikes on the CPU, found without what comes after them (Numba).

A few samples at a time go through all layers in the caches of one core, with the inputs that spike up to a horizon; those
that are not decided by then go again, with all of them. See `gpuspike.network.decision` for why that is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array
from gpuspike.kernels.constants import GROUPS_FROM
from gpuspike.kernels.cpu.arrays import address, bare, cube, in_vectors, keep, named, row
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import (
    A_GROUP,
    AN_EVENT,
    COUNT,
    EACH,
    HEAD,
    TOGETHER,
    WHAT,
    anchor_events,
    bare_room,
    fold_within,
    grouped,
)
from gpuspike.kernels.cpu.forward import (
    PAIRS_WORTH_A_THREAD,
    check_stack,
    forward_piece,
    pair_events,
    receive,
    totals_of,
)
from gpuspike.kernels.cpu.loss import winner
from gpuspike.kernels.cpu.neurons import room_to_prepare, solve_stopped
from gpuspike.kernels.cpu.products import WEIGHT_PARTS, sum_inputs
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.sort import bare_space, finite_range, sort_row, sort_space, sort_split, split
from gpuspike.kernels.cpu.sweep import room_of_stops, sweep_prepared
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take
from gpuspike.kernels.unit import Unit

SAMPLES = 16
"""Samples of a piece of work: their arrays stay in the cache."""


@njit(error_model="numpy")
def _are_groups(n_met, n_groups, n_early, n_spikes, folds):
    """Whether `events.grouped` takes a sample's simultaneous inputs together: 1 or 0; -1 where that is not known.

    Args:
        n_met, n_groups: inputs that are presented, at how many times;  n_early: those before the last time.
        n_spikes: of the whole sample;  folds: whether its last group is what the others leave.
    """
    n_rows = n_early if folds else n_spikes
    worth = AN_EVENT * n_spikes - n_rows
    if A_GROUP * (n_groups + n_early - n_met + 1) < worth:  # each other input at a time of its own
        return 1
    return -1 if A_GROUP * (n_groups + 1) < worth else 0


@njit(error_model="numpy")
def _present(b, t_in, until, after, widest, may_group, c, mode, order, events, prepared, space):
    """`events.prepare` of a sample of which nothing is presented after a time, to the bit.

    What comes later is not sorted, but where whether inputs are taken together hangs on it.

    Args:
        b: the number of the sample in `order`, `events` and `prepared`;  t_in: (n_pre,) all its spikes.
        until: the time;  after: the number after it.
        widest, may_group: see `events.grouped`;  c, mode: of the neurons;  space: `sort.sort_space`.

    Returns:
        How many of its spikes are presented, and whether there are others.
    """
    times, of_sample = prepared[0][b], events[b]
    earliest, latest = finite_range(t_in)
    n_spikes, n_early = np.int32(0), np.int32(0)
    for i in range(t_in.size):
        n_spikes += np.int32(t_in[i] < math.inf)
        n_early += np.int32(t_in[i] < latest)
    n_met, following = split(t_in, after, space)
    is_cut = n_met < n_spikes
    groups, n_groups = -1, 0
    if is_cut:
        sort_split(n_met, earliest, until, order[b], space)
        for k in range(n_met):
            times[k] = t_in[order[b, k]]
        times[n_met] = following
        for k in range(n_met):
            n_groups += 1 if times[k] < times[k + 1] else 0
        groups = 0
        if may_group and t_in.size >= GROUPS_FROM:
            folds = n_spikes == t_in.size and n_spikes - n_early > n_early
            folds = folds and np.float64(latest) - earliest <= widest
            groups = _are_groups(n_met, n_groups, n_early, n_spikes, folds)
    met = 0
    if groups < 0:
        sort_row(t_in, order[b], space)
        count = grouped(t_in, order[b], widest, may_group, times, of_sample)
        while met < count and times[met] <= until:
            met += 1
        what = min(of_sample[WHAT], TOGETHER)  # what the others leave is not presented
    else:
        for k in range(n_met):
            times[met], of_sample[HEAD + met] = times[k], k + 1
            met += 1 if times[k] < times[k + 1] or groups == 0 else 0
        what = TOGETHER if groups == 1 else EACH
        count = met + 1  # with the next event, up to which the last one has room
        times[met], times[count] = following, math.inf
    anchor_events(b, min(met + 1, count), None, c, mode, prepared)
    if met < count:
        of_sample[WHAT], of_sample[COUNT] = what, met
        starts, n_segments = prepared[1][b], prepared[4]
        while n_segments[b] > 0 and starts[n_segments[b] - 1] >= met:
            n_segments[b] -= 1
        starts[n_segments[b]] = met
    return n_met, is_cut


@njit(error_model="numpy")
def _heard(tables, r, b, n_replica, first, like):
    """Pair-events of a sample in all layers from the `first` on, bias spikes among them."""
    pairs = 0
    for layer in range(first, len(tables)):
        n_received, n_pre = tables[layer, 0], tables[layer, 1]
        at = ((r if n_received > 1 else 0) * SAMPLES + b) * n_pre
        n_heard = np.int32(0)
        for t in row(tables[layer, 6], like, n_received * SAMPLES * n_pre)[at : at + n_pre]:
            n_heard += np.int32(t < math.inf)
        pairs += n_heard * tables[layer, 2]
    return pairs


@njit(error_model="numpy")
def _answer(t_out):
    """When the first of some neurons spikes, and which one that is, -1 for none."""
    first = winner(t_out)
    return t_out[first], first if t_out[first] < math.inf else -1


@njit(cache=True, nogil=True, error_model="numpy")
def _decide_job(
    control, is_caller, t_in, n_inputs, bias, tables, constants, looks, until, after, classes, times, met
):
    """Decisions of all replicas on (n_samples, n_pre) `t_in`; `classes`, `times`, `met`: (n_replica, n_samples, ...) out."""
    enter(control, is_caller)
    n_samples, n_pre = t_in.shape
    n_replica, n_layers = len(classes), len(tables)
    n_pieces = (n_samples + SAMPLES - 1) // SAMPLES
    # Room for a piece of work, of each layer: spikes in, their order, spikes out, slopes.
    tables = tables.copy()
    n_in, n_out = tables[:, 1].sum(), tables[:, 2].sum()
    inputs = np.empty(n_replica * SAMPLES * n_in, t_in.dtype)
    orders = np.empty(n_replica * SAMPLES * n_in, np.int64)
    outputs = np.empty(2 * n_replica * SAMPLES * n_out, t_in.dtype)
    at_in = at_out = 0
    for layer in range(n_layers):
        size_in, size_out = n_replica * SAMPLES * tables[layer, 1], n_replica * SAMPLES * tables[layer, 2]
        tables[layer, 6] = inputs[at_in:].ctypes.data
        tables[layer, 7] = orders[at_in:].ctypes.data
        tables[layer, 9] = tables[layer, 11] = outputs[at_out:].ctypes.data
        tables[layer, 10] = outputs[at_out + size_out :].ctypes.data
        at_in, at_out = at_in + size_in, at_out + 2 * size_out
    last, n_classes = n_layers - 1, tables[n_layers - 1, 2]
    t_out = cube(tables[last, 11], t_in, n_replica, SAMPLES, n_classes)
    whole = inputs[: SAMPLES * n_pre].reshape(SAMPLES, n_pre)
    order = orders[: SAMPLES * n_pre].reshape(SAMPLES, n_pre)
    # Of the first layer.
    c, mode, n_post = named(constants[0]), tables[0, 4], tables[0, 2]
    n_vectors = (n_post * t_in.itemsize + VECTOR_BYTES - 1) // VECTOR_BYTES
    n_lanes = n_vectors * VECTOR_BYTES // t_in.itemsize
    w = cube(tables[0, 8], t_in, n_replica, n_pre, n_lanes)
    t_cross = cube(tables[0, 9], t_in, n_replica, SAMPLES, n_post)
    slope = cube(tables[0, 10], t_in, n_replica, SAMPLES, n_post)
    may_group = tables[0, 14] != 0
    all_inputs = np.empty(n_lanes if may_group else 0, t_in.dtype)
    rooms = (
        sort_space(n_pre, t_in), room_to_prepare(SAMPLES, n_pre, t_in), room_of_stops(SAMPLES, n_lanes, t_in),
        np.empty((SAMPLES, HEAD + n_pre), np.int32),
    )  # fmt: skip
    space, prepared, stops, events = bare_space(rooms[0]), bare_room(rooms[1]), rooms[2], bare(rooms[3])
    every, order, widest = bare(t_in), bare(order), fold_within(c)
    n_met, is_cut = np.zeros(SAMPLES, np.int64), np.zeros(SAMPLES, np.bool_)
    between = np.empty((2, SAMPLES), np.int32)
    left, again, numbers = np.empty(SAMPLES, np.int64), np.empty(SAMPLES, np.int64), np.arange(SAMPLES)
    in_parts = until < math.inf or looks.size > 1
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        first = piece * SAMPLES
        n = min(SAMPLES, n_samples - first)
        for b in range(n if in_parts else 0):
            n_met[b], is_cut[b] = _present(
                b, every[first + b], until, after, widest, may_group, c, mode, order, events, prepared, space
            )
        for r in range(n_replica):
            n_left, n_again = n if in_parts else 0, 0
            if may_group and in_parts:
                sum_inputs(cube(tables[0, 14], t_in, n_replica, WEIGHT_PARTS, n_lanes)[r], all_inputs)
            if in_parts:
                sweep_prepared(
                    order[:n], w[r], all_inputs, 0, n_vectors, n_post, mode, c, events[:n], prepared, None, stops
                )  # fmt: skip
            for b in range(n_left):
                left[b] = b
                met[r, first + b, 0], met[r, first + b, 1] = n_met[b], n_met[b] * n_post
                for t in every[first + b, n_inputs:]:  # bias spikes are no inputs
                    met[r, first + b, 0] -= 1 if t <= until and t < math.inf else 0
            between[1] = 0
            for look in looks:
                if n_left == 0:
                    break
                between[0] = 1  # and where the second is 0, nobody is solved for, or counted as silent
                for b in left[:n_left]:
                    between[0, b], end = between[1, b], between[1, b]
                    while end < events[b, COUNT] and prepared[0][b, end] <= look:
                        end += 1
                    between[1, b] = end
                solve_stopped(
                    order[:n], w[r], all_inputs, 0, n_post, mode, c, events[:n], prepared, None, stops, between,
                    t_cross[r], slope[r],
                )  # fmt: skip
                if n_layers > 1:
                    heard = cube(tables[1, 6], t_in, n_replica, SAMPLES, tables[1, 1])[r]
                    for m in range(n_left):
                        b = left[m]
                        receive(
                            t_cross[r, b : b + 1], bias[: tables[1, 3]], False, heard[m : m + 1], order[:1]
                        )
                    forward_piece(
                        r, 0, n_left, 0, 1, t_in, bias, tables[1:], constants[1:], None, n_replica, SAMPLES
                    )  # fmt: skip
                n_still = 0
                for m in range(n_left):
                    b, place = left[m], m if n_layers > 1 else left[m]
                    met[r, first + b, 1] += _heard(tables, r, place, n_replica, 1, t_in)
                    times[r, first + b], classes[r, first + b] = _answer(t_out[r, place])
                    # Who stopped at a later event spikes behind it, or together with it: rounding takes what a spike
                    # at its own time would have delayed.
                    end, t = between[1, b], times[r, first + b]
                    if end < events[b, COUNT]:
                        decided = t < prepared[0][b, end]
                    else:
                        decided = t <= until or not is_cut[b]
                    if decided:
                        between[1, b] = 0
                    elif end < events[b, COUNT]:
                        left[n_still] = b
                        n_still += 1
                    else:
                        again[n_again] = b
                        n_again += 1
                        between[1, b] = 0
                n_left = n_still
            # What is presented whole sorts all of `order`, of which the first places, which other replicas read, stay.
            if not in_parts:
                whole[:n] = every[first : first + n]
                forward_piece(r, 0, n, 0, 1, t_in, bias, tables, constants, None, n_replica, SAMPLES)
                again[:n], n_again = numbers[:n], n
                met[r, first : first + n] = 0
            for b in again[:n_again]:
                if in_parts:
                    whole[b] = every[first + b]
                    forward_piece(
                        r, b, b + 1, 0, 1, t_in, bias, tables, constants, None, n_replica, SAMPLES
                    )  # fmt: skip
                times[r, first + b], classes[r, first + b] = _answer(t_out[r, b])
                for i in range(n_inputs):
                    met[r, first + b, 0] += 1 if whole[b, i] < math.inf else 0
                met[r, first + b, 1] += _heard(tables, r, b, n_replica, 0, t_in)
        finish(control)
    inputs[:1], orders[:1], outputs[:1] = 0.0, 0, 0.0  # known by their addresses until here
    keep((rooms, t_in))
    return leave(control, is_caller, n_pieces)


def decide(
    t_in: Array,
    weights: Sequence[Array],
    units: Sequence[Unit],
    bias_times: Sequence[Sequence[float]],
    until: float,
    looks: Sequence[float],
) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
    """See `gpuspike.kernels.cpu.decide`."""
    n_replica, (n_samples, _), dtype = len(weights[0]), t_in.shape, weights[0].dtype
    check_stack(t_in[None], weights, bias_times)
    classes, times = np.full((n_replica, n_samples), -1), np.full((n_replica, n_samples), np.inf, dtype)
    met = np.zeros((n_replica, n_samples, 2), np.int64)
    if any(w.size == 0 for w in weights) or not n_samples:
        return classes, times, met
    n_biases = [0, *(len(times) for times in bias_times[1:])]  # those of the first layer are in t_in
    bias = np.array([time for times in bias_times[1:] for time in times], dtype)
    vectors = [in_vectors(w) for w in weights]
    totals = [totals_of(vectors[0]), *[None] * (len(vectors) - 1)]  # see `forward.forward`
    tables = np.array([
        # The first layer's input is shared by the replicas. The job fills in where its own arrays are.
        [n_replica if layer else 1, w.shape[1], w.shape[2], n_biases[layer], units[layer].regime, 1, 0, 0,
         address(vectors[layer]), 0, 0, 0, 0, 0, address(totals[layer]), 0]
        for layer, w in enumerate(weights)
    ])  # fmt: skip
    when = [time for time in looks if time < until] if len(weights) > 1 else []
    given = np.ascontiguousarray(t_in), t_in.shape[1] - len(bias_times[0])
    network = bias, tables, np.array([unit.constants(dtype) for unit in units])
    end = dtype.type(until)
    run(
        _decide_job,
        (*given, *network, np.array([*when, np.inf], dtype), end, np.nextafter(end, dtype.type(np.inf)), classes, times, met),
        keep=(vectors, totals),
        parallel=n_replica * n_samples * pair_events(weights) > PAIRS_WORTH_A_THREAD,
    )  # fmt: skip
    return classes, times, met
