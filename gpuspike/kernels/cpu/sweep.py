"""Neurons of one layer taken through a few samples' events, up to where they may spike (Numba).

The notation is that of `gpuspike.kernels.cpu.forward`.
"""

from __future__ import annotations

import numpy as np

from gpuspike.kernels.cpu.arrays import bare
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import EACH, FOLDED, HEAD, WHAT, bare_room
from gpuspike.kernels.cpu.simd import VECTOR_BYTES, sweep_1, sweep_2, sweep_4, sweep_6
from gpuspike.kernels.cpu.simd_groups import groups_1, groups_4, groups_6
from gpuspike.kernels.cpu.solve import moved


@njit(error_model="numpy")
def _sweep_tile(n_vectors, kind, tile, row, events, state, factor, k_first, n_events):
    if n_vectors == 6:
        return sweep_6(kind, tile, row, events, state, factor, k_first, n_events)
    if n_vectors == 4:
        return sweep_4(kind, tile, row, events, state, factor, k_first, n_events)
    if n_vectors == 2:
        return sweep_2(kind, tile, row, events, state, factor, k_first, n_events)
    return sweep_1(kind, tile, row, events, state, factor, k_first, n_events)


@njit(error_model="numpy")
def _sweep_groups(n_vectors, width, kind, tile, row, events, state, factor, groups, all_inputs):
    if n_vectors == 6:
        return groups_6(kind, tile, row, events, state, factor, groups, all_inputs)
    if n_vectors == 4:
        return groups_4(kind, tile, row, events, state, factor, groups, all_inputs)
    left = 0
    for v in range(n_vectors):  # rarely more than one
        at = v * VECTOR_BYTES
        here = (state[0] + at, state[1] + at, state[2] + 4 * v * width, state[3] + at)
        total = all_inputs + at if all_inputs else 0
        left |= groups_1(kind, tile + at, row, events, here, factor, groups, total)
    return left


@njit(error_model="numpy")
def room_of_stops(n_samples, n_lanes, like):
    """What `sweep_prepared` tells of each neuron: its sums p and q, and the event at which it stopped."""
    return np.empty((2, n_samples, n_lanes), like.dtype), np.empty((n_samples, n_lanes), np.int32)


@njit(error_model="numpy", fastmath={"contract"})
def sweep_prepared(
    order,
    weights,
    all_inputs,
    first_vector,
    end_vector,
    n_used,
    mode,
    constants,
    events,
    prepared,
    factor,
    stops,
):
    """Takes neurons through the events of some samples, each to the one behind which it may spike.

    Args:
        n_used: neurons in the range, the rest of the last vector being nobody's lanes.
        stops: `room_of_stops` of the range, for as many samples or more, out. The event of a neuron that never stops is
            their number.
        The rest is that of `neurons.solve_prepared`.
    """
    tau_slow, tau_fast, rate = constants.tau_slow, constants.tau_fast, constants.rate
    order, events = bare(order), bare(events)
    times, starts, _, coefficients, n_segments = bare_room(prepared)
    p, q, count = bare(stops[0])[0], bare(stops[0])[1], bare(stops[1])
    n_samples, n_lanes = len(order), count.shape[1]
    p[:n_samples], q[:n_samples], count[:n_samples, :n_used] = 0.0, 0.0, 0
    count[:n_samples, n_used:] = -1  # frozen from the start: nobody's lanes would never stop
    kind = weights.dtype.type(0.0)
    size = weights.itemsize
    width = VECTOR_BYTES // size

    # Addresses, taken once: a view of every row would cost more than a short row's sweep.
    row, weights_data = weights.strides[0], weights.ctypes.data
    order_row, order_data = order.strides[0], order.ctypes.data
    p_data, q_data, count_data = p.ctypes.data, q.ctypes.data, count.ctypes.data
    coefficients_data, plane, row_of_events = (
        coefficients.ctypes.data,
        coefficients.strides[0],
        coefficients.strides[1],
    )
    events_data, events_row, all_data = events.ctypes.data, events.strides[0], all_inputs.ctypes.data
    vector = first_vector
    while vector < end_vector:
        left = end_vector - vector
        n_vectors = 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1
        tile = weights_data + vector * VECTOR_BYTES
        lane = (vector - first_vector) * width
        for b in range(n_samples):
            at = b * n_lanes + lane
            lifted = 0 if factor is None else factor.ctypes.data + size * at
            state = (p_data + size * at, q_data + size * at, count_data + 4 * at, lifted)
            at_order, at_event = order_data + b * order_row, coefficients_data + b * row_of_events
            for segment in range(n_segments[b]):
                k = np.int64(starts[b, segment])
                end = np.int64(starts[b, segment + 1])
                if segment > 0:
                    gap = times[b, k] - times[b, starts[b, segment - 1]]
                    for j in range(lane, lane + n_vectors * width):
                        if count[b, j] == k:  # still swept
                            p[b, j], q[b, j] = moved(p[b, j], q[b, j], gap, mode, tau_slow, tau_fast, rate)
                what = events[b, WHAT]
                event = at_event if what != EACH else at_event + size * k
                of_event = (event, event + plane, event + 2 * plane, event + 3 * plane)
                if what == EACH:
                    single = (at_order + 8 * k, *of_event)
                    silent = _sweep_tile(n_vectors, kind, tile, row, single, state, factor, k, end - k) != 0
                else:
                    groups = (at_order, events_data + b * events_row + 4 * HEAD, *of_event)
                    total = all_data + vector * VECTOR_BYTES if what == FOLDED else 0
                    silent = _sweep_groups(
                        n_vectors, width, kind, tile, row, groups, state, factor, (k, end), total,
                    ) != 0  # fmt: skip
                if not silent:
                    break
        vector += n_vectors
