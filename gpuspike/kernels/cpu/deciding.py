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
from gpuspike.kernels.cpu.arrays import address, in_vectors, row
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.forward import (
    PAIRS_WORTH_A_THREAD,
    check_stack,
    forward_piece,
    pair_events,
    totals_of,
)
from gpuspike.kernels.cpu.loss import winner
from gpuspike.kernels.cpu.team import enter, finish, leave, run, take
from gpuspike.kernels.unit import Unit

TOGETHER = 16
"""Samples of a piece of work: their arrays stay in the cache."""


@njit(error_model="numpy")
def _met(t_in, n_inputs, until, tables, r, b, n_replica, n_batch, like):
    """Input spikes that were presented, and pair-events of all layers, bias spikes among them."""
    presented = events = 0
    for i in range(t_in.size):
        met = 1 if t_in[i] <= until and t_in[i] < math.inf else 0
        presented += met if i < n_inputs else 0
        events += met
    pairs = events * tables[0, 2]
    for layer in range(1, len(tables)):
        n_heard = tables[layer, 3]
        n_post = tables[layer - 1, 2]
        t_out = row(tables[layer - 1, 11], like, n_replica * n_batch * n_post)
        first = (r * n_batch + b) * n_post
        for t in t_out[first : first + n_post]:
            n_heard += 1 if t < math.inf else 0
        pairs += n_heard * tables[layer, 2]
    return presented, pairs


@njit(cache=True, nogil=True, error_model="numpy")
def _decide_job(control, is_caller, t_in, n_inputs, bias, tables, constants, until, classes, times, met):
    """Decisions of all replicas on (n_samples, n_pre) `t_in`; `classes`, `times`, `met`: (n_replica, n_samples, ...) out."""
    enter(control, is_caller)
    n_samples, n_replica = len(t_in), len(classes)
    n_pieces = (n_samples + TOGETHER - 1) // TOGETHER
    # Room for a piece of work, of each layer: spikes in, their order, spikes out, slopes.
    tables = tables.copy()
    n_in, n_out = tables[:, 1].sum(), tables[:, 2].sum()
    inputs = np.empty(n_replica * TOGETHER * n_in, t_in.dtype)
    orders = np.empty(n_replica * TOGETHER * n_in, np.int64)
    outputs = np.empty(2 * n_replica * TOGETHER * n_out, t_in.dtype)
    at_in = at_out = 0
    for layer in range(len(tables)):
        size_in, size_out = n_replica * TOGETHER * tables[layer, 1], n_replica * TOGETHER * tables[layer, 2]
        tables[layer, 6] = inputs[at_in:].ctypes.data
        tables[layer, 7] = orders[at_in:].ctypes.data
        tables[layer, 9] = tables[layer, 11] = outputs[at_out:].ctypes.data
        tables[layer, 10] = outputs[at_out + size_out :].ctypes.data
        at_in, at_out = at_in + size_in, at_out + 2 * size_out
    last, n_classes = len(tables) - 1, tables[len(tables) - 1, 2]
    t_out = row(tables[last, 11], t_in, n_replica * TOGETHER * n_classes).reshape(
        n_replica, TOGETHER, n_classes
    )
    presented = inputs[: TOGETHER * t_in.shape[1]].reshape(TOGETHER, t_in.shape[1])
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        first = piece * TOGETHER
        n = min(TOGETHER, n_samples - first)
        for b in range(n):
            for i in range(t_in.shape[1]):
                presented[b, i] = t_in[first + b, i]
        for r in range(n_replica):
            forward_piece(r, 0, n, 0, 1, t_in, bias, tables, constants, until, None, n_replica, TOGETHER)
            for b in range(n):
                pairs = np.zeros(2, np.int64)
                pairs[0], pairs[1] = _met(
                    presented[b], n_inputs, until, tables, r, b, n_replica, TOGETHER, t_in
                )
                if until < math.inf and not t_out[r, b, winner(t_out[r, b])] <= until:
                    forward_piece(
                        r, b, b + 1, 0, 1, t_in, bias, tables, constants, math.inf, None, n_replica, TOGETHER
                    )  # fmt: skip
                    again = _met(presented[b], n_inputs, math.inf, tables, r, b, n_replica, TOGETHER, t_in)
                    pairs[0], pairs[1] = pairs[0] + again[0], pairs[1] + again[1]
                answer = winner(t_out[r, b])
                times[r, first + b] = t_out[r, b, answer]
                classes[r, first + b] = answer if t_out[r, b, answer] < math.inf else -1
                met[r, first + b, 0], met[r, first + b, 1] = pairs[0], pairs[1]
        finish(control)
    inputs[:1], orders[:1], outputs[:1] = 0.0, 0, 0.0  # known by their addresses until here
    return leave(control, is_caller, n_pieces)


def decide(
    t_in: Array,
    weights: Sequence[Array],
    units: Sequence[Unit],
    bias_times: Sequence[Sequence[float]],
    until: float,
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
    run(
        _decide_job,
        (
            np.ascontiguousarray(t_in), t_in.shape[1] - len(bias_times[0]), bias, tables, np.array([unit.constants(dtype) for unit in units]),
            float(until), classes, times, met,
        ),
        keep=(vectors, totals),
        parallel=n_replica * n_samples * pair_events(weights) > PAIRS_WORTH_A_THREAD,
    )  # fmt: skip
    return classes, times, met
