"""The masked rank-2 products that the gradients are, on the CPU (Numba).

The notation is that of `gpuspike.kernels.cpu_backward`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuspike.kernels.cpu_solve import EQUAL
from gpuspike.kernels.simd import VECTOR_BYTES
from gpuspike.kernels.simd_products import FEW_INPUTS, MOST_INPUTS, products_few, products_most

NARROW = 16
"""Neurons of a layer below which its weights' gradient is vectorised over the inputs instead."""

SAMPLES_PER_BLOCK = 128
"""Samples whose factors, of one tile's inputs, stay in the first-level cache while the neurons pass by."""


@njit(error_model="numpy")
def kernel(delay, mode, tau_slow, tau_fast, rate):
    """C k(delay) for delay > 0."""
    if mode == EQUAL:
        return math.exp(-delay / tau_slow) * delay
    return math.exp(-delay / tau_slow) * -math.expm1(-rate * delay) / rate


@njit(error_model="numpy", fastmath={"contract"})
def weight_products(first, last, n_parts, t_in, active, mode, constants, short, gate, g, a1, a2, x, p, out):
    """out[i, j] = sum_b [t_bi < gate_bj] p_bj (a2_bi - x_bj a1_bi), tile by tile; p is 0 where not short."""
    n_batch, n_post = gate.shape[1:]
    n_pre = out.shape[1]
    tau_slow, tau_fast, rate = constants[:3]
    for task in range(first, last):
        r, part = task // n_parts, task % n_parts
        n_tiles = (n_pre + MOST_INPUTS - 1) // MOST_INPUTS
        i0 = MOST_INPUTS * (part * n_tiles // n_parts)
        i1 = min(MOST_INPUTS * ((part + 1) * n_tiles // n_parts), n_pre)
        if not active[r]:
            out[r, i0:i1] = 0.0
            continue
        r_in = r if t_in.shape[0] > 1 else 0
        if n_post < NARROW:
            _narrow(r, i0, i1, t_in, gate, a1, a2, x, p, out)
        else:
            _wide(i0, i1, t_in[r_in], gate[r], a1[r], a2[r], x[r], p[r], out[r])
        for b in range(n_batch):
            if short[r, b]:
                continue
            for i in range(i0, i1):
                for j in range(n_post):
                    delay = np.float64(gate[r, b, j]) - t_in[r_in, b, i]
                    if delay > 0.0:
                        out[r, i, j] += g[r, b, j] * kernel(delay, mode, tau_slow, tau_fast, rate)


@njit(error_model="numpy")
def _wide(i0, i1, t_in, gate, a1, a2, x, p, out):
    """The sum for inputs i0 to i1 of a replica, vectorised over neurons.

    Vectors of a last few neurons read on into the next row, or the next array of `post`; nobody reads their sums.
    """
    kind, far = out.dtype.type(0.0), t_in.dtype.type(math.inf)
    n_batch, n_post = gate.shape
    width = VECTOR_BYTES // out.itemsize
    n_vectors = (n_post + width - 1) // width
    pre = np.empty((SAMPLES_PER_BLOCK, 3 * MOST_INPUTS), out.dtype)
    sums = np.empty((MOST_INPUTS, n_vectors * width), out.dtype)
    pre_data, sums_data, sums_row, post_row = (
        pre.ctypes.data,
        sums.ctypes.data,
        sums.strides[0],
        gate.strides[0],
    )
    i = i0
    while i < i1:
        tile = MOST_INPUTS if i1 - i >= MOST_INPUTS // 2 else FEW_INPUTS
        n = min(tile, i1 - i)
        for b0 in range(0, n_batch, SAMPLES_PER_BLOCK):
            b1 = min(b0 + SAMPLES_PER_BLOCK, n_batch)
            packed = pre.reshape(-1)[: (b1 - b0) * 3 * tile].reshape(b1 - b0, 3, tile)
            for b in range(b0, b1):
                row = packed[b - b0]
                for c in range(n):
                    row[0, c], row[1, c], row[2, c] = t_in[b, i + c], a1[b, i + c], a2[b, i + c]
                for c in range(n, tile):
                    row[0, c], row[1, c], row[2, c] = far, kind, kind
            for vector in range(n_vectors):
                at = vector * VECTOR_BYTES + b0 * post_row
                post = (gate.ctypes.data + at, x.ctypes.data + at, p.ctypes.data + at)
                total = sums_data + vector * VECTOR_BYTES
                if tile == MOST_INPUTS:
                    products_most(kind, pre_data, post, post_row, total, sums_row, b1 - b0, b0 == 0)
                else:
                    products_few(kind, pre_data, post, post_row, total, sums_row, b1 - b0, b0 == 0)
        for c in range(n):
            for j in range(n_post):
                out[i + c, j] = sums[c, j]
        i += tile


@njit(error_model="numpy", fastmath={"contract"})
def _narrow(r, i0, i1, t_in, gate, a1, a2, x, p, out):
    """The same sum for inputs i0 to i1 of replica r, vectorised over these: for layers of few neurons."""
    n_batch, n_post = gate.shape[1:]
    r_in = r if t_in.shape[0] > 1 else 0
    zero = a1.dtype.type(0.0)
    sums = np.zeros((n_post, i1 - i0), out.dtype)
    for b in range(n_batch):
        times, u, v = t_in[r_in, b, i0:i1], a1[r, b, i0:i1], a2[r, b, i0:i1]
        for j in range(n_post):
            t, x_j, p_j = gate[r, b, j], x[r, b, j], p[r, b, j]
            if t == -math.inf:
                continue
            row = sums[j]
            for i in range(i1 - i0):
                row[i] += p_j * (v[i] - x_j * u[i]) if times[i] < t else zero
    for i in range(i1 - i0):
        for j in range(n_post):
            out[r, i0 + i, j] = sums[j, i]


@njit(error_model="numpy", fastmath={"contract"})
def input_products(first, last, t_in, weights_t, active, mode, constants, short, gate, a1, a2, q1, q2, out):
    """out[b, i] = sum_j [t_bi < gate_bj] w_ij (q1_bj a1_bi + q2_bj a2_bi), vectorised over the inputs."""
    n_batch, n_post = gate.shape[1:]
    n_pre = out.shape[2]
    tau_slow, tau_fast, rate = constants[:3]
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
                        fall = kernel(delay, mode, tau_slow, tau_fast, rate) / tau_slow
                        bend = math.exp(-delay / tau_fast) - fall
                        total += weights_t[r, j, i] * q1[r, b, j] * bend
                grad[i] = total
