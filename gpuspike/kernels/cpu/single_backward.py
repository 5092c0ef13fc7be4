"""Gradients of neurons with an order of events, or time constants, of their own (Numba).

The notation is that of `gpuspike.kernels.cpu.single`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.own_taus_events import fraction
from gpuspike.kernels.cpu.single_forward import CAPACITANCE, LANES, MEM, RATE, SLOW, SYN
from gpuspike.kernels.cpu.solve import exp_vectorised
from gpuspike.kernels.cpu.team import enter, leave, tasks

_NEAR = 0.5
"""Differences of the rates, times the delay, below which f is a series."""


@njit(error_model="numpy")
def _bend(s, own, other):
    """dK/d(own) for s > 0, with `own` and `other` the two rates."""
    z = (other - own) * s
    if abs(z) > _NEAR:
        return ((math.exp(-own * s) - math.exp(-other * s)) / (other - own) - s * math.exp(-own * s)) / (
            other - own
        )
    # f(z) = sum_n (-z)^n/(n + 2)!
    term, total = 0.5, 0.5
    for n in range(3, 18):
        term *= -z / n
        total += term
    return -s * s * math.exp(-own * s) * total


@njit(error_model="numpy")
def _enter(first, n, t_out, slope, grad, table, gate, share):
    """Of a block of neurons of one sample, their spikes and dL/dT/(C u'); -inf and 0 where there is no gradient.

    Returns:
        Whether any has one.
    """
    found = False
    for m in range(LANES):
        gate[m], share[m] = -math.inf, 0.0
        j = first + m
        if m < n and slope[j] > 0.0 and t_out[j] < math.inf and grad[j] != 0.0:
            gate[m], share[m] = t_out[j], np.float64(grad[j]) / (np.float64(slope[j]) * table[CAPACITANCE, j])
            found = True
    return found


@njit(error_model="numpy")
def _look_back(time, delays, first, n, gate, past):
    """How long before their spikes an input reached a block of neurons; 0 for those that it did not matter to."""
    for m in range(n):
        past[m] = max(gate[m] - np.float64(time + delays[first + m]), 0.0)


@njit(error_model="numpy", fastmath={"contract"})
def _kernels(past, slow, rate, kernel, slope):
    """K and K' of a block of neurons; 0 where `past` is."""
    for m in range(LANES):
        kernel[m] = exp_vectorised(-past[m] * slow[m])
    for m in range(LANES):
        slope[m] = exp_vectorised(-past[m] * rate[m])
    for m in range(LANES):
        keep, turn = kernel[m], slope[m]
        kernel[m] = keep * (past[m] * fraction(past[m] * rate[m], turn))
        slope[m] = keep * turn - kernel[m] * slow[m] if past[m] > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def learn_job(
    control, is_caller, n_tasks, n_pieces, t_in, weights, delays, table, t_out, slope, grad, active, limit, with_taus,
    weights_grad, delays_grad, taus
):  # fmt: skip
    """Gradients of what each neuron has for itself; `taus` by ln tau."""
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    n_pre, n_blocks = t_in.shape[2], (n_post + LANES - 1) // LANES
    gate, share, most = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    slow, rate, mem, syn = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    past, steep, kernels = np.zeros(LANES), np.empty(LANES), np.empty((n_pre, LANES))
    for task in tasks(control, n_tasks, n_pieces):
        r, first = task // n_blocks, task % n_blocks * LANES
        n = min(LANES, n_post - first)
        weights_grad[r, :, first : first + n] = 0.0
        delays_grad[r, :, first : first + n] = 0.0
        taus[:, r, first : first + n] = 0.0
        if not active[r]:
            continue
        for m in range(LANES):
            j = first + min(m, n - 1)
            slow[m], rate[m] = 1.0 / table[SLOW, r, j], table[RATE, r, j]
            mem[m], syn[m] = table[MEM, r, j], table[SYN, r, j]
        for b in range(n_batch):
            if not _enter(first, n, t_out[r, b], slope[r, b], grad[r, b], table[:, r], gate, share):
                continue
            times = t_in[r if t_in.shape[0] > 1 else 0, b]
            most[:] = 0.0
            for i in range(n_pre):
                kernel = kernels[i]
                if not times[i] < math.inf:
                    kernel[:] = 0.0
                    continue
                _look_back(times[i], delays[r, i], first, n, gate, past)
                _kernels(past, slow, rate, kernel, steep)
                for m in range(LANES):
                    kernel[m] *= -share[m]
                for m in range(LANES):
                    most[m] = max(most[m], abs(kernel[m]))
                for m in range(n):
                    delays_grad[r, i, first + m] += share[m] * weights[r, i, first + m] * steep[m]
                if with_taus:
                    for m in range(n):
                        if past[m] > 0.0:
                            pull = share[m] * weights[r, i, first + m]
                            taus[0, r, first + m] += pull * mem[m] * _bend(past[m], mem[m], syn[m])
                            taus[1, r, first + m] += pull * syn[m] * _bend(past[m], syn[m], mem[m])
            for i in range(n_pre):
                for m in range(n):
                    weights_grad[r, i, first + m] += kernels[i, m] if most[m] <= limit else 0.0
    return leave(control, is_caller, n_pieces)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def times_job(
    control, is_caller, n_tasks, n_pieces, t_in, weights, delays, table, t_out, slope, grad, active, out
):
    """Gradient of the times at which inputs leave."""
    enter(control, is_caller)
    n_batch, n_post = t_out.shape[1:]
    n_pre = t_in.shape[2]
    gate, share, past = np.empty(LANES), np.empty(LANES), np.zeros(LANES)
    kernel, steep, slow, rate = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    total = np.empty(n_pre)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        times = t_in[r if t_in.shape[0] > 1 else 0, b]
        total[:] = 0.0
        for first in range(0, n_post if active[r] else 0, LANES):
            n = min(LANES, n_post - first)
            if not _enter(first, n, t_out[r, b], slope[r, b], grad[r, b], table[:, r], gate, share):
                continue
            for m in range(LANES):
                j = first + min(m, n - 1)
                slow[m], rate[m] = 1.0 / table[SLOW, r, j], table[RATE, r, j]
            for i in range(n_pre):
                if times[i] < math.inf:
                    _look_back(times[i], delays[r, i], first, n, gate, past)
                    _kernels(past, slow, rate, kernel, steep)
                    for m in range(n):
                        total[i] += share[m] * weights[r, i, first + m] * steep[m]
        out[r, b] = total
    return leave(control, is_caller, n_pieces)
