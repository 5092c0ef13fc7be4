"""The masked rank-2 products that the gradients are, on the CPU (Numba).

The notation is that of `gpuspike.kernels.cpu_backward`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuspike.kernels.cpu_solve import EQUAL

NARROW = 16
"""Neurons of a layer below which its weights' gradient is vectorised over the inputs instead."""

SAMPLES_PER_BLOCK = 64
"""Samples whose coefficients stay in the second-level cache while the weights pass by."""


@njit(error_model="numpy")
def kernel(delay, mode, tau_slow, tau_fast, rate):
    """C k(delay) for delay > 0."""
    if mode == EQUAL:
        return math.exp(-delay / tau_slow) * delay
    return math.exp(-delay / tau_slow) * -math.expm1(-rate * delay) / rate


@njit(error_model="numpy", fastmath={"contract"})
def weight_products(first, last, n_parts, t_in, active, mode, constants, short, gate, g, a1, a2, p1, p2, out):
    """out[i, j] = sum_b [t_bi < gate_bj] (p1_bj a1_bi + p2_bj a2_bi), four inputs at a time."""
    n_batch, n_post = gate.shape[1:]
    n_pre = out.shape[1]
    tau_slow, tau_fast, rate = constants[:3]
    n_blocks = (n_pre + 3) // 4
    for task in range(first, last):
        r, part = task // n_parts, task % n_parts
        if not active[r]:
            continue
        r_in = r if t_in.shape[0] > 1 else 0
        zero = a1.dtype.type(0.0)
        if n_post < NARROW:
            i0, i1 = 4 * (part * n_blocks // n_parts), min(4 * ((part + 1) * n_blocks // n_parts), n_pre)
            _narrow(r, i0, i1, t_in, short, gate, a1, a2, p1, p2, out)
        for b0 in range(0, n_batch if n_post >= NARROW else 0, SAMPLES_PER_BLOCK):
            b1 = min(b0 + SAMPLES_PER_BLOCK, n_batch)
            for block in range(part * n_blocks // n_parts, (part + 1) * n_blocks // n_parts):
                i = 4 * block
                if i + 4 <= n_pre:
                    out0, out1, out2, out3 = out[r, i], out[r, i + 1], out[r, i + 2], out[r, i + 3]
                    for b in range(b0, b1):
                        if not short[r, b]:
                            continue
                        t0, t1 = t_in[r_in, b, i], t_in[r_in, b, i + 1]
                        t2, t3 = t_in[r_in, b, i + 2], t_in[r_in, b, i + 3]
                        u0, u1, u2, u3 = (
                            a1[r, b, i],
                            a1[r, b, i + 1],
                            a1[r, b, i + 2],
                            a1[r, b, i + 3],
                        )
                        v0, v1, v2, v3 = (
                            a2[r, b, i],
                            a2[r, b, i + 1],
                            a2[r, b, i + 2],
                            a2[r, b, i + 3],
                        )
                        for j in range(n_post):
                            t, x, y = gate[r, b, j], p1[r, b, j], p2[r, b, j]
                            out0[j] += x * u0 + y * v0 if t0 < t else zero
                            out1[j] += x * u1 + y * v1 if t1 < t else zero
                            out2[j] += x * u2 + y * v2 if t2 < t else zero
                            out3[j] += x * u3 + y * v3 if t3 < t else zero
                else:
                    for i in range(4 * block, n_pre):
                        for b in range(b0, b1):
                            if not short[r, b]:
                                continue
                            t0, u0, v0 = t_in[r_in, b, i], a1[r, b, i], a2[r, b, i]
                            for j in range(n_post):
                                term = p1[r, b, j] * u0 + p2[r, b, j] * v0
                                out[r, i, j] += term if t0 < gate[r, b, j] else zero
        for b in range(n_batch):
            if short[r, b]:
                continue
            for i in range(
                4 * (part * n_blocks // n_parts), min(4 * ((part + 1) * n_blocks // n_parts), n_pre)
            ):
                for j in range(n_post):
                    delay = np.float64(gate[r, b, j]) - t_in[r_in, b, i]
                    if delay > 0.0:
                        out[r, i, j] += g[r, b, j] * kernel(delay, mode, tau_slow, tau_fast, rate)


@njit(error_model="numpy", fastmath={"contract"})
def _narrow(r, i0, i1, t_in, short, gate, a1, a2, p1, p2, out):
    """The same sum for inputs i0 to i1 of replica r, vectorised over these: for layers of few neurons."""
    n_batch, n_post = gate.shape[1:]
    r_in = r if t_in.shape[0] > 1 else 0
    zero = a1.dtype.type(0.0)
    sums = np.zeros((n_post, i1 - i0), out.dtype)
    for b in range(n_batch):
        if not short[r, b]:
            continue
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
