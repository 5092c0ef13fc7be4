"""Gradients of the first spike times on the CPU: masked rank-2 products (Numba).

In the coordinates of `gpuspike.kernels.cpu_forward`, with one anchor a sample, the kernel and its slope are sums of
two products, of a function of T and a function of t_i:

    C k(T - t_i)  = e (E(T) a_i - a_i E(t_i)),                          e = exp(-T/tau_fast)
    C k'(T - t_i) = e ((1 - E(T)/tau_slow) a_i + a_i E(t_i)/tau_fast)

so that, with dT/dw_i = -k(T - t_i)/u'(T) and dT/dt_i = w_i k'(T - t_i)/u'(T) (the implicit function theorem), no
number is ever needed for every (sample, input, neuron). Samples whose window is too long for one anchor take the
kernel pair by pair instead.

Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021); the product form is derived above.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuspike.kernels.cpu_forward import PAIRS_WORTH_A_THREAD
from gpuspike.kernels.cpu_solve import EQUAL, exp_vectorised, rise
from gpuspike.kernels.threads import for_each

WINDOW = 16.0
"""Longest window, in tau_fast, that one anchor serves: e^16 costs no digits and float32 holds it."""

WEIGHT_PARTS = 8
"""Ranges of inputs that the weight gradient of a replica is cut into, for as many threads."""

SAMPLES_PER_BLOCK = 64
"""Samples whose coefficients stay in the second-level cache while the weights pass by."""


@njit(error_model="numpy")
def _kernel(delay, mode, tau_slow, tau_fast, rate):
    """C k(delay) for delay > 0."""
    if mode == EQUAL:
        return math.exp(-delay / tau_slow) * delay
    return math.exp(-delay / tau_slow) * -math.expm1(-rate * delay) / rate


@njit(error_model="numpy")
def _input_terms(t_in, t_out, mode, tau_slow, tau_fast, rate, a1, a2):
    """a_i and a_i E(t_i) of one sample's inputs, relative to the sample's first input.

    Returns:
        (anchor, last spike, whether one anchor serves the window).
    """
    anchor, latest = math.inf, -math.inf
    for i in range(t_in.size):
        anchor = min(anchor, t_in[i])
    for j in range(t_out.size):
        if t_out[j] < math.inf:
            latest = max(latest, t_out[j])
    short = latest - anchor <= WINDOW * tau_fast
    end = latest if short else -math.inf
    rate_slow = 1.0 / tau_slow
    for i in range(t_in.size):
        # Inputs behind every spike are in no causal set; 0 keeps their terms finite.
        t = t_in[i] - anchor if t_in[i] < end else 0.0
        a1[i] = exp_vectorised(t * rate_slow)
        a2[i] = t
    if mode == EQUAL:
        for i in range(t_in.size):
            a2[i] *= a1[i]
    else:
        for i in range(t_in.size):
            a2[i] = a1[i] * rise(np.float64(a2[i]), mode, rate)
    return anchor, latest, short


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _slopes(first, last, t_in, weights, t_out, mode, constants, slope_out):
    n_batch, n_post = t_out.shape[1:]
    n_pre = weights.shape[1]
    tau_slow, tau_fast, rate, drive, span, _, tangent = constants
    for task in range(first, last):
        r, b = task // n_batch, task % n_batch
        r_in = r if t_in.shape[0] > 1 else 0
        times, spikes = t_in[r_in, b], t_out[r, b]
        a1 = np.empty(n_pre, np.float64)
        a2 = np.empty(n_pre, np.float64)
        p = np.zeros(n_post, np.float64)
        q = np.zeros(n_post, np.float64)
        anchor, latest, short = _input_terms(times, spikes, mode, tau_slow, tau_fast, rate, a1, a2)
        for i in range(n_pre):
            if not times[i] < latest:
                continue
            if short:
                for j in range(n_post):
                    w = np.float64(weights[r, i, j]) if times[i] < spikes[j] else 0.0
                    p[j] += w * a1[i]
                    q[j] += w * a2[i]
            else:  # p is then the slope's own sum and q the potential, both at the spike
                for j in range(n_post):
                    delay = np.float64(spikes[j]) - times[i]
                    if 0.0 < delay < math.inf:
                        w = np.float64(weights[r, i, j])
                        p[j] += w * math.exp(-delay / tau_slow)
                        q[j] += w * _kernel(delay, mode, tau_slow, tau_fast, rate)
        for j in range(n_post):
            slope_out[r, b, j] = 0.0
            if spikes[j] < math.inf:
                t = spikes[j] - anchor
                if short:
                    pull = p[j] * math.exp(-t / tau_slow)
                    potential = math.exp(-t / tau_fast) * (rise(t, mode, rate) * p[j] - q[j])
                else:
                    pull, potential = p[j], q[j]
                rising = (pull - potential / tau_fast) / drive
                slope_out[r, b, j] = rising * span if rising * tau_fast > tangent else 0.0


def slopes(
    t_in: NDArray[Any],
    weights: NDArray[Any],
    t_out: NDArray[Any],
    mode: int,
    constants: tuple[float, ...],
) -> NDArray[Any]:
    """Slope of the membrane at given spike times, from the inputs before them; see `kernels.Kernels.slopes`."""
    slope = np.zeros_like(t_out)

    def work(first: int, last: int) -> None:
        _slopes(first, last, t_in, weights, t_out, mode, constants, slope)

    n_samples = t_out.shape[0] * t_out.shape[1]
    for_each(work, n_samples, parallel=slope.size * t_in.shape[2] > PAIRS_WORTH_A_THREAD)
    return slope


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _terms(
    first,
    last,
    t_in,
    t_out,
    slope,
    t_out_grad,
    active,
    limit,
    peak,
    mode,
    constants,
    short,
    gate,
    g,
    a1,
    a2,
    p1,
    p2,
    q1,
    q2,
):
    """The factors of the rank-2 products, and the zeroing of exploding rows; all by (replica, sample)."""
    n_batch, n_post = t_out.shape[1:]
    n_pre = t_in.shape[2]
    tau_slow, tau_fast, rate, drive, span, _, _ = constants
    capacitance = drive / span
    rate_slow, rate_fast = 1.0 / tau_slow, 1.0 / tau_fast
    for task in range(first, last):
        r, b = task // n_batch, task % n_batch
        if not active[r]:
            continue
        r_in = r if t_in.shape[0] > 1 else 0
        times, spikes = t_in[r_in, b], t_out[r, b]
        anchor, _, short[r, b] = _input_terms(
            times, spikes, mode, tau_slow, tau_fast, rate, a1[r, b], a2[r, b]
        )
        again = 0
        for j in range(n_post):
            heard = (slope[r, b, j] > 0.0) & (spikes[j] < math.inf) & (t_out_grad[r, b, j] != 0.0)
            gate[r, b, j] = spikes[j] if heard else -math.inf
            scale = np.float64(t_out_grad[r, b, j]) / (slope[r, b, j] * capacitance) if heard else 0.0
            g[r, b, j] = -scale
            q1[r, b, j] = scale
            again += 1 if abs(scale) * peak > limit else 0  # the kernel's peak bounds every |dL/dw|
        if short[r, b]:
            for j in range(n_post):
                t = np.float64(spikes[j]) - anchor if gate[r, b, j] > -math.inf else 0.0
                p1[r, b, j] = t
                p2[r, b, j] = exp_vectorised(-t * rate_fast) * np.float64(q1[r, b, j])
            if mode != EQUAL:
                for j in range(n_post):
                    p1[r, b, j] = rise(np.float64(p1[r, b, j]), mode, rate)
            for j in range(n_post):
                x, decay = p1[r, b, j], p2[r, b, j]
                p1[r, b, j] = -decay * x
                q1[r, b, j] = decay * (1.0 - x * rate_slow)
                q2[r, b, j] = decay * rate_fast
        for j in range(n_post if again > 0 else 0):
            if abs(g[r, b, j]) * peak > limit:  # look closer
                steepest = 0.0
                for i in range(n_pre):
                    if times[i] < spikes[j]:
                        delay = np.float64(spikes[j]) - times[i]
                        steepest = max(steepest, _kernel(delay, mode, tau_slow, tau_fast, rate))
                if abs(g[r, b, j]) * steepest > limit:
                    g[r, b, j] = p1[r, b, j] = p2[r, b, j] = 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _weights_grad(first, last, n_parts, t_in, active, mode, constants, short, gate, g, a1, a2, p1, p2, out):
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
        for b0 in range(0, n_batch, SAMPLES_PER_BLOCK):
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
                        out[r, i, j] += g[r, b, j] * _kernel(delay, mode, tau_slow, tau_fast, rate)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _t_in_grad(first, last, t_in, weights_t, active, mode, constants, short, gate, a1, a2, q1, q2, out):
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
                        fall = _kernel(delay, mode, tau_slow, tau_fast, rate) / tau_slow
                        bend = math.exp(-delay / tau_fast) - fall
                        total += weights_t[r, j, i] * q1[r, b, j] * bend
                grad[i] = total


def backward(
    t_in: NDArray[Any],
    weights: NDArray[Any],
    t_out: NDArray[Any],
    slope: NDArray[Any],
    t_out_grad: NDArray[Any],
    active: NDArray[np.bool_],
    max_weight_grad: float,
    kernel_peak: float,
    need_t_in_grad: bool,
    mode: int,
    constants: tuple[float, ...],
) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Gradients with respect to the input times (where needed) and the weights; see `kernels.Kernels.backward`.

    Args:
        kernel_peak: the kernel's maximum times the capacitance.
        active: (n_replica,) replicas that want a gradient; the others' is zero.
    """
    n_replica, n_batch, n_post = t_out.shape
    n_pre = weights.shape[1]
    dtype = weights.dtype
    weights_grad = np.zeros_like(weights)
    t_in_grad = np.zeros((n_replica, n_batch, n_pre), dtype) if need_t_in_grad else None
    if 0 in (n_replica, n_batch, n_post, n_pre):
        return t_in_grad, weights_grad
    short = np.zeros((n_replica, n_batch), np.bool_)
    a1, a2 = (np.empty((n_replica, n_batch, n_pre), dtype) for _ in range(2))
    gate, g, p1, p2, q1, q2 = (np.empty((n_replica, n_batch, n_post), dtype) for _ in range(6))
    n_parts = min(WEIGHT_PARTS, -(-n_pre // 4))

    def terms(first: int, last: int) -> None:
        _terms(
            first, last, t_in, t_out, slope, t_out_grad, active, max_weight_grad, kernel_peak, mode,
            constants, short, gate, g, a1, a2, p1, p2, q1, q2,
        )  # fmt: skip

    def weights_part(first: int, last: int) -> None:
        _weights_grad(
            first, last, n_parts, t_in, active, mode, constants, short, gate, g, a1, a2, p1, p2,
            weights_grad,
        )  # fmt: skip

    n_active = int(np.count_nonzero(active))
    parallel = n_active * n_batch * n_pre * n_post > PAIRS_WORTH_A_THREAD
    for_each(terms, n_replica * n_batch, parallel=parallel)
    for_each(weights_part, n_replica * n_parts, parallel=parallel)
    if t_in_grad is not None:
        weights_t = np.ascontiguousarray(weights.swapaxes(1, 2))
        t_grad = t_in_grad

        def times_part(first: int, last: int) -> None:
            _t_in_grad(
                first, last, t_in, weights_t, active, mode, constants, short, gate, a1, a2, q1, q2,
                t_grad,
            )  # fmt: skip

        for_each(times_part, n_replica * n_batch, parallel=parallel)
    return t_in_grad, weights_grad
