"""The masked rank-2 products that the gradients are, on the CPU (Numba).

The notation is that of `gpuspike.kernels.cpu.backward`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import COUNT, EACH, FOLDED, HEAD, WHAT
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_groups import SUM_VECTORS, scatter_sums
from gpuspike.kernels.cpu.simd_products import (
    TILE_INPUTS,
    TILE_VECTORS,
    pack_1,
    pack_inputs,
    pack_wide,
    products_1,
    products_wide,
)

NARROW = 16
"""Neurons of a layer below which its weights' gradient is vectorised over the inputs instead."""

WEIGHT_PARTS = 8
"""Ranges of inputs that the weights of a replica are cut into, for as many threads."""

SAMPLES_PER_BLOCK = 96
"""Samples whose factors for a tile's neurons stay in the first-level cache while the inputs' pass by."""


@njit(error_model="numpy", fastmath={"contract"})
def kernel(delay, mode, c):
    """C k(delay) for delay > 0; `c` are the `Constants`."""
    if mode == EQUAL:
        return math.exp(-delay / c.tau_slow) * delay
    return math.exp(-delay / c.tau_slow) * -math.expm1(-c.rate * delay) / c.rate


@njit(error_model="numpy")
def inputs_of_part(n_pre, part, n_parts):
    """The first input of one of `n_parts` parts of the weights, and the one after its last: whole tiles."""
    n_tiles = (n_pre + TILE_INPUTS - 1) // TILE_INPUTS
    i0 = TILE_INPUTS * (part * n_tiles // n_parts)
    return i0, min(TILE_INPUTS * ((part + 1) * n_tiles // n_parts), n_pre)


@njit(error_model="numpy")
def sum_inputs(weights, out):
    """out[j] = sum_i weights[i, j], one input after the other."""
    for j in range(out.size):
        out[j] = 0.0
    for i in range(len(weights)):
        row = weights[i]
        for j in range(out.size):
            out[j] += row[j]


@njit(cache=True, error_model="numpy")
def sum_parts(weights, out):
    """(n_replica, WEIGHT_PARTS, n_post) sums over the inputs of each part of (n_replica, n_pre, n_post) weights."""
    for r in range(len(weights)):
        for part in range(WEIGHT_PARTS):
            i0, i1 = inputs_of_part(weights.shape[1], part, WEIGHT_PARTS)
            sum_inputs(weights[r, i0:i1], out[r, part])


@njit(error_model="numpy", fastmath={"contract"})
def weight_products(i0, i1, t_in, mode, c, short, single, gate, g, a1, a2, x, p, out):
    """out[i - i0, j] = sum_b [t_bi < gate_bj] p_bj (a2_bi - x_bj a1_bi) for inputs i0 to i1; p is 0 where not short.

    Only samples are summed over whose events are `single` inputs.
    """
    n_batch, n_post = gate.shape
    if n_post < NARROW:
        _narrow(i0, i1, t_in, single, gate, a1, a2, x, p, out)
    else:
        _wide(i0, i1, t_in, single, gate, a1, a2, x, p, out)
    for b in range(n_batch):
        if short[b]:
            continue
        for i in range(i0, i1):
            for j in range(n_post):
                delay = np.float64(gate[b, j]) - t_in[b, i]
                if delay > 0.0:
                    out[i - i0, j] += g[b, j] * kernel(delay, mode, c)


@njit(error_model="numpy", fastmath={"contract"})
def _pack_inputs(i0, i1, t_in, a1, a2, packed):
    """(n_tiles, n_samples, 3, TILE_INPUTS) times and factors of inputs i0 to i1, tile by tile."""
    kind, far = packed.dtype.type(0.0), packed.dtype.type(math.inf)
    n_whole = (i1 - i0) // TILE_INPUTS
    at, size = i0 * packed.itemsize, TILE_INPUTS * packed.itemsize
    for b in range(packed.shape[1]):
        place = packed[0, b].ctypes.data
        for times in (t_in, a1, a2):
            # A row's tiles one after the other: other threads have written it, and it comes in streams.
            pack_inputs(kind, times[b].ctypes.data + at, size, place, packed.strides[0], n_whole)
            place += size
    for tile in range(n_whole, len(packed)):
        for b in range(packed.shape[1]):
            for c in range(TILE_INPUTS):
                i = i0 + tile * TILE_INPUTS + c
                packed[tile, b, 0, c] = t_in[b, i] if i < i1 else far  # which is never causal
                packed[tile, b, 1, c] = a1[b, i] if i < i1 else kind
                packed[tile, b, 2, c] = a2[b, i] if i < i1 else kind


@njit(error_model="numpy", fastmath={"contract"})
def _wide(i0, i1, t_in, single, gate, a1, a2, x, p, out):
    """The sum for inputs i0 to i1 of a replica, vectorised over neurons.

    Vectors of a last few neurons read on into the next row, or the next array of `backward.tables_of`; nobody
    reads their sums.
    """
    kind = out.dtype.type(0.0)
    n_batch, n_post = gate.shape
    width = VECTOR_BYTES // out.itemsize
    n_vectors = (n_post + width - 1) // width
    n_tiles = (i1 - i0 + TILE_INPUTS - 1) // TILE_INPUTS
    most = min(n_batch, SAMPLES_PER_BLOCK)
    pre = np.empty(n_tiles * most * 3 * TILE_INPUTS, out.dtype)
    post = np.empty(most * 3 * TILE_VECTORS * width, out.dtype)
    sums = np.empty((n_tiles * TILE_INPUTS, n_vectors * width), out.dtype)
    pre_data, sums_data, sums_row = pre.ctypes.data, sums.ctypes.data, sums.strides[0]
    row = gate.strides[0]
    for b0 in range(0, n_batch, SAMPLES_PER_BLOCK):
        n = min(SAMPLES_PER_BLOCK, n_batch - b0)
        inputs = pre[: n_tiles * n * 3 * TILE_INPUTS].reshape(n_tiles, n, 3, TILE_INPUTS)
        _pack_inputs(i0, i1, t_in[b0 : b0 + n], a1[b0 : b0 + n], a2[b0 : b0 + n], inputs)
        vector = 0
        while vector < n_vectors:
            post_data = post.ctypes.data  # here: an array that is used no more but by its address is freed
            wide = n_vectors - vector >= TILE_VECTORS
            block = VECTOR_BYTES * (TILE_VECTORS if wide else 1)
            place = post_data
            for array in (gate, x, p):
                at = array.ctypes.data + b0 * row + vector * VECTOR_BYTES
                if wide:
                    pack_wide(kind, at, row, place, 3 * block, n)
                else:
                    pack_1(kind, at, row, place, 3 * block, n)
                place += block
            n_lanes = block // out.itemsize
            for b in range(n):
                if not single[b0 + b]:
                    for lane in range(n_lanes):
                        post[3 * b * n_lanes + lane] = -math.inf  # the gates
            total = sums_data + vector * VECTOR_BYTES
            for tile in range(n_tiles):
                pre_tile = pre_data + tile * inputs.strides[0]
                if wide:
                    products_wide(kind, pre_tile, post_data, total, sums_row, n, b0 == 0)
                else:
                    products_1(kind, pre_tile, post_data, total, sums_row, n, b0 == 0)
                total += TILE_INPUTS * sums_row
            vector += TILE_VECTORS if wide else 1
    for i in range(i1 - i0):
        for j in range(n_post):
            out[i, j] = sums[i, j]


@njit(error_model="numpy", fastmath={"contract"})
def _narrow(i0, i1, t_in, single, gate, a1, a2, x, p, out):
    """The same sum, vectorised over the inputs: for layers of few neurons."""
    n_batch, n_post = gate.shape
    zero = a1.dtype.type(0.0)
    sums = np.zeros((n_post, i1 - i0), out.dtype)
    for b in range(n_batch):
        times, u, v = t_in[b, i0:i1], a1[b, i0:i1], a2[b, i0:i1]
        for j in range(n_post):
            t, x_j, p_j = gate[b, j], x[b, j], p[b, j]
            if t == -math.inf or not single[b]:
                continue
            row = sums[j]
            for i in range(i1 - i0):
                row[i] += p_j * (v[i] - x_j * u[i]) if times[i] < t else zero
    for i in range(i1 - i0):
        for j in range(n_post):
            out[i, j] = sums[j, i]


@njit(error_model="numpy")
def group_sums(first_block, end_block, order, events, gate, x, p, a1, a2, t, sums):
    """sums[i, j] = sum_b [t_bg < gate_bj] p_bj (a2_bg - x_bj a1_bg), with g the group of input i in sample b.

    Args:
        first_block, end_block: the neurons' range, in blocks of SUM_VECTORS vectors.
        order, events, t, a1, a2: of the inputs and their groups, see `events.WHAT`; samples without groups add nothing.
        gate, x, p: (n_batch, n_post);  sums: (n_pre, whole vectors) out, in this range.
    """
    kind, size, n_lanes = sums.dtype.type(0.0), sums.itemsize, sums.shape[1]
    n_batch, n_pre = order.shape
    grouped = 0
    for b in range(n_batch):
        grouped += events[b, WHAT] != EACH
    if grouped == 0:
        return
    n_block = SUM_VECTORS * VECTOR_BYTES // size
    near = np.empty((n_pre, n_block), sums.dtype)  # which stays in the cache
    neurons = np.empty((4, n_block), sums.dtype)
    # Addresses, taken once: a view of a row costs more than what is done with it.
    near_data, row = near.ctypes.data, near.strides[0]
    at, plane = neurons.ctypes.data, neurons.strides[0]
    of_neurons = (at, at + plane, at + 2 * plane, at + 3 * plane)
    order_data, events_data, events_row = order.ctypes.data, events.ctypes.data, events.strides[0]
    t_data, a1_data, a2_data = t.ctypes.data, a1.ctypes.data, a2.ctypes.data
    for block in range(first_block, end_block):
        j0 = block * n_block
        n_here = min(n_lanes - j0, n_block)
        n_used = min(gate.shape[1] - j0, n_here)
        near[:] = 0.0
        neurons[:] = 0.0
        neurons[0] = -math.inf
        for b in range(n_batch):
            if events[b, WHAT] == EACH:
                continue
            for j in range(n_used):
                neurons[0, j] = gate[b, j0 + j]
            for j in range(n_used):
                neurons[1, j] = x[b, j0 + j]
            for j in range(n_used):
                neurons[2, j] = p[b, j0 + j]
            ends, of_sample = events_data + b * events_row + 4 * HEAD, size * b * n_pre
            groups = (
                order_data + 8 * b * n_pre, ends, t_data + of_sample, a1_data + of_sample,
                a2_data + of_sample,
            )  # fmt: skip
            n_events, folded = np.int64(events[b, COUNT]), events[b, WHAT] == FOLDED
            scatter_sums(kind, near_data, row, groups, of_neurons, n_events, folded)
        of_all = neurons[3, :n_here].copy()
        for i in range(n_pre):
            row_out, row_in = sums[i, j0 : j0 + n_here], near[i]
            for j in range(n_here):
                row_out[j] = row_in[j] + of_all[j]


@njit(error_model="numpy", fastmath={"contract"})
def input_products(first, last, t_in, weights_t, active, mode, c, short, gate, a1, a2, q1, q2, out):
    """out[b, i] = sum_j [t_bi < gate_bj] w_ij (q1_bj a1_bi + q2_bj a2_bi), vectorised over the inputs."""
    n_batch, n_post = gate.shape[1:]
    n_pre = out.shape[2]
    for task in range(first, last):
        r, b = task // n_batch, task % n_batch
        if not active[r]:
            continue
        r_in = r if t_in.shape[0] > 1 else 0
        times, grad = t_in[r_in, b], out[r, b]
        zero = a1.dtype.type(0.0)
        if short[r, b]:
            sum1 = np.zeros(n_pre, out.dtype)
            sum2 = np.zeros(n_pre, out.dtype)
            for j in range(n_post):
                t, x, y = gate[r, b, j], q1[r, b, j], q2[r, b, j]
                if t == -math.inf:
                    continue
                row = weights_t[r, j]
                for i in range(n_pre):
                    w = row[i] if times[i] < t else zero
                    sum1[i] += w * x
                    sum2[i] += w * y
            for i in range(n_pre):
                grad[i] = sum1[i] * a1[r, b, i] + sum2[i] * a2[r, b, i]
        else:
            for i in range(n_pre):
                total = 0.0
                for j in range(n_post):
                    delay = np.float64(gate[r, b, j]) - times[i]
                    if delay > 0.0:
                        fall = kernel(delay, mode, c) / c.tau_slow
                        bend = math.exp(-delay / c.tau_fast) - fall
                        total += weights_t[r, j, i] * q1[r, b, j] * bend
                grad[i] = total
