"""Slopes of membranes at given spike times, on the CPU; and what the gradients need of a sample's inputs (Numba).

The notation is that of `gpuspike.kernels.cpu.forward` and `gpuspike.kernels.cpu.backward`.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels import Array
from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.cpu.arrays import in_vectors, named
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.forward import PAIRS_WORTH_A_THREAD
from gpuspike.kernels.cpu.products import kernel
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_products import causal_sums_1, causal_sums_4
from gpuspike.kernels.cpu.solve import exp_vectorised, rise, solve, solve_equal
from gpuspike.kernels.cpu.sort import finite_range
from gpuspike.kernels.cpu.team import enter, finish, leave, run, samples_of_a_piece, take
from gpuspike.kernels.unit import Unit

WINDOW = 16.0
"""Longest window, in tau_fast, that one anchor serves: e^16 costs no digits and float32 holds it."""


@njit(error_model="numpy")
def window(earliest, t_out, c):
    """The last of a sample's spikes, and whether one anchor, its earliest input, serves the window up to there."""
    latest = np.float64(finite_range(t_out)[1])
    return latest, latest - earliest <= WINDOW * c.tau_fast


@njit(error_model="numpy", fastmath={"contract"})
def input_terms(times, anchor, end, mode, c, a1, a2):
    """a_i and a_i E(t_i) of inputs at given times, relative to an anchor; those that are not before `end` get any."""
    rate_slow = 1.0 / c.tau_slow
    for i in range(times.size):
        # Inputs behind every spike are in no causal set; 0 keeps their terms finite.
        t = times[i] - anchor if times[i] < end else 0.0
        a1[i] = exp_vectorised(t * rate_slow)
        a2[i] = t
    if mode == EQUAL:
        for i in range(times.size):
            a2[i] *= a1[i]
    else:
        for i in range(times.size):
            a2[i] = a1[i] * rise(np.float64(a2[i]), mode, c.rate)


@njit(error_model="numpy", fastmath={"contract"})
def _slopes_at_crossing(p, v, room, delay, slope, mode, tau_slow, tau_fast, rate):
    """Slopes where membranes, continued to all times, meet the threshold from below; 0 where they do not.

    The potential is 0 where x = -v/p, left of every crossing: from there the crossing is solved for as in the forward
    pass. Where no such time exists the membrane comes down from above.

    Args:
        p, v: (n,) sum p and potential at any time, in units of C (threshold - leak); changed.
        room, delay: (n,) room for work;  slope: (n,) out.
    """
    if mode == EQUAL:
        for j in range(p.size):
            pull = p[j] if p[j] > 0.0 else 1.0
            p[j] = pull * exp_vectorised(v[j] / pull / tau_slow) if p[j] > 0.0 else 0.0
    else:
        for j in range(p.size):
            growth = 1.0 - rate * v[j] / p[j] if p[j] > 0.0 else 0.0
            p[j] = p[j] * math.exp(-math.log(growth) / rate / tau_slow) if growth > 0.0 else 0.0
    for j in range(p.size):
        v[j], room[j] = 0.0, math.inf
    if mode == EQUAL:
        solve_equal(v, p, room, delay, slope, p.size, tau_fast)
        for j in range(p.size):
            slope[j] = slope[j] if delay[j] < math.inf else 0.0
    else:
        for j in range(p.size):
            s = solve(0.0, p[j], math.inf, mode, tau_slow, tau_fast, rate)
            slope[j] = p[j] * math.exp(-s / tau_slow) - 1.0 / tau_fast if s < math.inf else 0.0


@njit(error_model="numpy", fastmath={"contract"})
def _sums(n_early, early, t, a1, a2, gate, weights, p_sum, q_sum):
    """p_sum[j] = sum_m [t[m] < gate[j]] weights[early[m], j] a1[m], and q_sum with a2.

    Args:
        weights: (n_pre, whole vectors);  gate, p_sum, q_sum: at least as many.
    """
    kind, size, n_lanes = p_sum.dtype.type(0.0), p_sum.itemsize, weights.shape[1]
    width = VECTOR_BYTES // size
    events = (early.ctypes.data, t.ctypes.data, a1.ctypes.data, a2.ctypes.data)
    first = 0
    while first < n_lanes:
        at, wide = size * first, first + 4 * width <= n_lanes
        neurons = (gate.ctypes.data + at, p_sum.ctypes.data + at, q_sum.ctypes.data + at)
        if wide:
            causal_sums_4(kind, weights.ctypes.data + at, weights.strides[0], events, neurons, n_early)
        else:
            causal_sums_1(kind, weights.ctypes.data + at, weights.strides[0], events, neurons, n_early)
        first += 4 * width if wide else width


@njit(error_model="numpy", fastmath={"contract"})
def slopes_of_samples(first, last, like, t_in, weights, t_out, at_crossing, mode, row, slope_out):
    """`slopes` of samples first to last, counted over all replicas.

    Args:
        like: any array of the type that sums are taken in.
        t_in: (n_replica or 1, n_batch, n_pre);  weights: (n_replica, n_pre, whole vectors), see `arrays.in_vectors`.
        t_out, slope_out: (n_replica, n_batch, n_post).
        row: of the layer's `Constants`; the other arguments as for `slopes`.
    """
    n_batch, n_post = t_out.shape[1:]
    n_pre = weights.shape[1]
    c = named(row)
    tau_slow, tau_fast, rate, drive, span, _, tangent, _, _ = c
    a1, a2 = np.empty(n_pre, like.dtype), np.empty(n_pre, like.dtype)
    early, t = np.empty(n_pre + 1, np.int64), np.empty(n_pre, like.dtype)
    n_lanes = n_post + VECTOR_BYTES  # whole vectors, whatever their type
    p_sum, q_sum = np.empty(n_lanes, like.dtype), np.empty(n_lanes, like.dtype)
    gate = np.empty(n_lanes, like.dtype)
    gate[:] = -math.inf
    p, q, slope = np.empty(n_post), np.empty(n_post), np.empty(n_post)
    room, wait = np.empty(n_post), np.empty(n_post)
    for task in range(first, last):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        times, spikes = t_in[r_in, b], t_out[r, b]
        for j in range(n_post):
            p[j] = q[j] = 0.0
        anchor = np.float64(finite_range(times)[0])
        latest, short = window(anchor, spikes, c)
        input_terms(times, anchor, latest if short else -math.inf, mode, c, a1, a2)
        n_early = 0
        for i in range(n_pre):
            early[n_early] = i
            n_early += 1 if times[i] < latest else 0
        if short:
            for m in range(n_early):
                t[m], a1[m], a2[m] = times[early[m]], a1[early[m]], a2[early[m]]
            for j in range(n_post):
                gate[j] = spikes[j]
            _sums(n_early, early, t, a1, a2, gate, weights[r], p_sum, q_sum)
        else:  # p is then the slope's own sum and q the potential, both at the spike
            for m in range(n_early):
                i = early[m]
                for j in range(n_post):
                    delay = np.float64(spikes[j]) - times[i]
                    if 0.0 < delay < math.inf:
                        w = np.float64(weights[r, i, j])
                        p[j] += w * math.exp(-delay / tau_slow)
                        q[j] += w * kernel(delay, mode, c)
        # To the sum p and the potential at the spike, in units of C (threshold - leak); 0 where there is none.
        if short:
            for j in range(n_post):
                room[j] = np.float64(spikes[j]) - anchor if spikes[j] < math.inf else 0.0
                p[j] = np.float64(p_sum[j]) * exp_vectorised(-room[j] / tau_slow)
                q[j] = np.float64(q_sum[j]) * exp_vectorised(-room[j] / tau_fast)
            # exp(-t/tau_fast) E(t) = exp(-t/tau_slow) (1 - exp(-d t))/d
            if mode != EQUAL:
                for j in range(n_post):
                    room[j] = -math.expm1(-rate * room[j]) / rate
            for j in range(n_post):
                q[j] = room[j] * p[j] - q[j]
        for j in range(n_post):
            heard = spikes[j] < math.inf
            p[j] = p[j] / drive if heard else 0.0
            q[j] = q[j] / drive if heard else 0.0
        if at_crossing:
            _slopes_at_crossing(p, q, room, wait, slope, mode, tau_slow, tau_fast, rate)
        else:
            for j in range(n_post):
                slope[j] = p[j] - q[j] / tau_fast
        for j in range(n_post):
            steep = slope_out.dtype.type(slope[j] * span)
            slope_out[r, b, j] = steep if (slope[j] * tau_fast > tangent) & (steep < math.inf) else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes_job(
    control,
    is_caller,
    samples_per_task,
    like,
    t_in,
    weights,
    t_out,
    at_crossing,
    mode,
    row,
    slope_out,
):
    enter(control, is_caller)
    n_samples = t_out.shape[0] * t_out.shape[1]
    n_pieces = (n_samples + samples_per_task - 1) // samples_per_task
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        last = min((piece + 1) * samples_per_task, n_samples)
        first = piece * samples_per_task
        slopes_of_samples(first, last, like, t_in, weights, t_out, at_crossing, mode, row, slope_out)
        finish(control)
    return leave(control, is_caller, n_pieces)


def slopes(t_in: Array, weights: Array, unit: Unit, t_out: Array, at_crossing: bool) -> Array:
    """Slope of the membrane that the inputs before given spike times make.

    Args:
        at_crossing: where that membrane meets the threshold, see `kernels.Kernels.crossing_slopes`; else at the
            spike times themselves.
    """
    slope = np.zeros_like(t_out)
    if slope.size:
        n_samples = t_out.shape[0] * t_out.shape[1]
        # A crossing's sums go as in the forward pass, in the working type.
        like = np.empty(0, weights.dtype if at_crossing else np.float64)
        t_in, t_out = np.ascontiguousarray(t_in), np.ascontiguousarray(t_out)
        arrays = (
            t_in,
            in_vectors(weights.astype(like.dtype, copy=False)),
            t_out,
            at_crossing,
            unit.regime,
            np.array(unit.constants(weights.dtype)),
            slope,
        )
        run(
            _slopes_job,
            (samples_of_a_piece(n_samples), like, *arrays),
            parallel=slope.size * t_in.shape[2] > PAIRS_WORTH_A_THREAD,
        )
    return slope
