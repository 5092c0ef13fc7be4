"""The masked rank-2 products that the gradients are, on the CPU (Numba).

The notation is that of `gpuspike.kernels.cpu_backward`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuspike.kernels.cpu_solve import EQUAL
from gpuspike.kernels.simd import VECTOR_BYTES
from gpuspike.kernels.simd_products import TILE_INPUTS, products_1, products_4, products_most

NARROW = 16
"""Neurons of a layer below which its weights' gradient is vectorised over the inputs instead."""

@njit(error_model="numpy")
def kernel(delay, mode, tau_slow, tau_fast, rate):
    """C k(delay) for delay > 0."""
    if mode == EQUAL:
        return math.exp(-delay / tau_slow) * delay
    return math.exp(-delay / tau_slow) * -math.expm1(-rate * delay) / rate


@njit(error_model="numpy", fastmath={"contract"})
def weight_products(first, last, n_parts, t_in, active, mode, constants, short, gate, g, a1, a2, p1, p2, out):
    """out[i, j] = sum_b [t_bi < gate_bj] (p1_bj a1_bi + p2_bj a2_bi), tile by tile; p1 and p2 are 0 where not short."""
    n_batch, n_post = gate.shape[1:]
    n_pre = out.shape[1]
    tau_slow, tau_fast, rate = constants[:3]
    for task in range(first, last):
        r, part = task // n_parts, task % n_parts
        tile = TILE_INPUTS[0]
        n_tiles = (n_pre + tile - 1) // tile
        i0, i1 = tile * (part * n_tiles // n_parts), min(tile * ((part + 1) * n_tiles // n_parts), n_pre)
        if not active[r]:
            out[r, i0:i1] = 0.0
            continue
        r_in = r if t_in.shape[0] > 1 else 0
        if n_post < NARROW:
            _narrow(r, i0, i1, t_in, gate, a1, a2, p1, p2, out)
        else:
            _wide(i0, i1, t_in[r_in], gate[r], a1[r], a2[r], p1[r], p2[r], out[r])
        for b in range(n_batch):
            if short[r, b]:
                continue
            for i in range(i0, i1):
                for j in range(n_post):
                    delay = np.float64(gate[r, b, j]) - t_in[r_in, b, i]
                    if delay > 0.0:
                        out[r, i, j] += g[r, b, j] * kernel(delay, mode, tau_slow, tau_fast, rate)


@njit(error_model="numpy")
def _wide(i0, i1, t_in, gate, a1, a2, p1, p2, out):
    """The sum for inputs i0 to i1 of a replica, vectorised over neurons: at least a vector of them."""
    kind = out.dtype.type(0.0)
    size = out.itemsize
    n_batch, n_post = gate.shape
    width = VECTOR_BYTES // size
    pre_row = (t_in.strides[0], a1.strides[0], a2.strides[0])
    post_row, out_row = gate.strides[0], out.strides[0]
    for vector in range((n_post + width - 1) // width):
        j = min(vector * width, n_post - width)  # the last one may do some neurons again
        post = (gate.ctypes.data + size * j, p1.ctypes.data + size * j, p2.ctypes.data + size * j)
        i = i0
        while i < i1:
            pre = (t_in.ctypes.data + size * i, a1.ctypes.data + size * i, a2.ctypes.data + size * i)
            tile = out.ctypes.data + out_row * i + size * j
            if i + TILE_INPUTS[0] <= i1:
                products_most(kind, pre, pre_row, post, post_row, tile, out_row, n_batch)
                i += TILE_INPUTS[0]
            elif i + TILE_INPUTS[1] <= i1:
                products_4(kind, pre, pre_row, post, post_row, tile, out_row, n_batch)
                i += TILE_INPUTS[1]
            else:
                products_1(kind, pre, pre_row, post, post_row, tile, out_row, n_batch)
                i += 1


@njit(error_model="numpy", fastmath={"contract"})
def _narrow(r, i0, i1, t_in, gate, a1, a2, p1, p2, out):
    """The same sum for inputs i0 to i1 of replica r, vectorised over these: for layers of few neurons."""
    n_batch, n_post = gate.shape[1:]
    r_in = r if t_in.shape[0] > 1 else 0
    zero = a1.dtype.type(0.0)
    sums = np.zeros((n_post, i1 - i0), out.dtype)
    for b in range(n_batch):
        times, u, v = t_in[r_in, b, i0:i1], a1[r, b, i0:i1], a2[r, b, i0:i1]
        for j in range(n_post):
            t, x, y = gate[r, b, j], p1[r, b, j], p2[r, b, j]
            if t == -math.inf:
                continue
            row = sums[j]
            for i in range(i1 - i0):
                row[i] += x * u[i] + y * v[i] if times[i] < t else zero
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
