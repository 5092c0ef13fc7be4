"""Gradients of the first spike times on the CPU: masked rank-2 products (Numba).

In the coordinates of `gpuspike.kernels.cpu.forward`, with one anchor a sample, the kernel and its slope are sums of
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
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ShapeError
from gpuspike.kernels import Array, LayerState
from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.cpu.arrays import cube, named
from gpuspike.kernels.cpu.backward_room import room_for_events, tables_of, transpose
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import COUNT, EACH, HEAD, WHAT, fold_within, grouped
from gpuspike.kernels.cpu.forward import PAIRS_WORTH_A_THREAD
from gpuspike.kernels.cpu.products import (
    WEIGHT_PARTS,
    group_sums,
    input_products,
    inputs_of_part,
    kernel,
    weight_products,
)
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_groups import SUM_VECTORS
from gpuspike.kernels.cpu.slopes import input_terms, window
from gpuspike.kernels.cpu.solve import exp_vectorised, rise
from gpuspike.kernels.cpu.sort import finite_range
from gpuspike.kernels.cpu.team import enter, finish, leave, run, samples_of_a_piece, take, wait_for
from gpuspike.kernels.unit import Unit

TERMS_A_NEURON = 30
"""Pair-events that an input's or a neuron's factors cost, roughly."""


@njit(error_model="numpy", fastmath={"nnan", "nsz"})
def _around(times, t):
    """The last of a sample's times up to `t`, -inf if there is none, and the first behind it, else inf.

    The kernel rises up to its peak and falls behind it: of all inputs, one of the two next to the peak's delay has
    the largest gradient. No time is NaN, which lets the loop vectorise.
    """
    early, late = times.dtype.type(-math.inf), times.dtype.type(math.inf)
    for i in range(times.size):
        behind = times[i] > t
        early = max(early, times.dtype.type(-math.inf) if behind else times[i])
        late = min(late, times[i] if behind else times.dtype.type(math.inf))
    return early, late


@njit(error_model="numpy", fastmath={"contract"})
def _terms(
    first,
    last,
    t_in,
    order,
    t_out,
    slope,
    t_out_grad,
    active,
    limit,
    mode,
    c,
    short,
    events,
    told,
    gate,
    g,
    a1,
    a2,
    t,
    x,
    p,
    q1,
    q2,
):
    """The factors of the rank-2 products, and the zeroing of exploding rows; all by (replica, sample).

    Where groups of simultaneous inputs are less work, t, a1 and a2 are those of groups, and `events` tells of these;
    `told`: has told already. See `events.grouped`.
    """
    n_batch, n_post = t_out.shape[1:]
    ungrouped = np.empty(t_in.shape[2] + 1)
    widest = fold_within(c)
    capacitance = c.drive / c.span
    rate_slow, rate_fast = 1.0 / c.tau_slow, 1.0 / c.tau_fast
    for task in range(first, last):
        r, b = task // n_batch, task % n_batch
        if not active[r]:
            continue
        r_in = r if t_in.shape[0] > 1 else 0
        times, spikes = t_in[r_in, b], t_out[r, b]
        anchor = np.float64(finite_range(times)[0])
        latest, short[r, b] = window(anchor, spikes, c)
        end = latest if short[r, b] else -math.inf
        if events.size > 0 and not told:
            grouped(times, order[r_in, b], widest, True, ungrouped, events[r, b])
        if events.size > 0 and not short[r, b]:
            events[r, b, WHAT] = EACH
        if events.size > 0 and events[r, b, WHAT] != EACH:
            n = events[r, b, COUNT]
            for k in range(n):
                t[r, b, k] = times[order[r_in, b, events[r, b, HEAD + k] - 1]]
            input_terms(t[r, b, :n], anchor, end, mode, c, a1[r, b], a2[r, b])
        else:
            input_terms(times, anchor, end, mode, c, a1[r, b], a2[r, b])
        again = 0
        for j in range(n_post):
            # A negative slope is that of a silent neuron's peak, see `waking`: as if dL/dt were 1 and the slope positive.
            steep, grad = slope[r, b, j], t_out_grad[r, b, j]
            heard = (spikes[j] < math.inf) & (((steep > 0.0) & (grad != 0.0)) | (steep < 0.0))
            gate[r, b, j] = spikes[j] if heard else -math.inf
            scale = np.float64(grad if steep > 0.0 else -1.0) / (steep * capacitance) if heard else 0.0
            g[r, b, j] = -scale
            q1[r, b, j] = scale
            again += 1 if abs(scale) * c.peak > limit else 0  # the kernel's peak bounds every |dL/dw|
        if short[r, b]:
            for j in range(n_post):
                delay = np.float64(spikes[j]) - anchor if gate[r, b, j] > -math.inf else 0.0
                x[r, b, j] = delay
                p[r, b, j] = exp_vectorised(-delay * rate_fast) * np.float64(q1[r, b, j])
            if mode != EQUAL:
                for j in range(n_post):
                    x[r, b, j] = rise(np.float64(x[r, b, j]), mode, c.rate)
            for j in range(n_post):
                decay = p[r, b, j]
                q1[r, b, j] = decay * (1.0 - x[r, b, j] * rate_slow)
                q2[r, b, j] = decay * rate_fast
        else:
            for j in range(n_post):
                x[r, b, j] = p[r, b, j] = 0.0
        for j in range(n_post if again > 0 else 0):
            if abs(g[r, b, j]) * c.peak > limit:  # look closer
                early, late = _around(times, t_in.dtype.type(spikes[j] - c.peak_delay))
                steepest = 0.0
                if early > -math.inf:
                    delay = np.float64(spikes[j]) - early
                    steepest = kernel(delay, mode, c)
                if late < spikes[j]:
                    delay = np.float64(spikes[j]) - late
                    steepest = max(steepest, kernel(delay, mode, c))
                if abs(g[r, b, j]) * steepest > limit:
                    g[r, b, j] = p[r, b, j] = 0.0


@njit(error_model="numpy")
def factors_of(table, like, n_replica, n_batch):
    """A layer's arrays in both halves of its gradient: t_in, gate, g, x, p, q1, q2, a1, a2, t, short, order, events."""
    n_received, n_pre, n_post = table[:3]
    n_told = HEAD + n_pre if table[16] != 0 else 0
    post = cube(table[9], like, 6 * n_replica, n_batch, n_post)
    pre = cube(table[10], like, 3 * n_replica, n_batch, n_pre)
    return (
        cube(table[5], like, n_received, n_batch, n_pre),
        post[:n_replica], post[n_replica : 2 * n_replica], post[2 * n_replica : 3 * n_replica],
        post[3 * n_replica : 4 * n_replica], post[4 * n_replica : 5 * n_replica], post[5 * n_replica :],
        pre[:n_replica], pre[n_replica : 2 * n_replica], pre[2 * n_replica :],
        cube(table[11], np.empty(0, np.bool_), 1, n_replica, n_batch)[0],
        cube(table[15], np.empty(0, np.int64), n_received, n_batch, n_pre if n_told > 0 else 0),
        cube(table[16], np.empty(0, np.int32), n_replica, n_batch, n_told),
    )  # fmt: skip


@njit(error_model="numpy")
def backward_piece(first, last, like, tables, constants, active, limit, n_batch, told):
    """From the last layer to the first, all but the weights' gradients of samples first to last, over all replicas.

    Args:
        like: any array of the working type.
        tables: (n_layer, ...) sizes and addresses, see `tables_of`;  constants: (n_layer, ...) of `Constants`.
        told: whether the forward pass has told the first layer's events.
    """
    n_replica = len(active)
    for layer in range(len(tables) - 1, -1, -1):
        table, c = tables[layer], named(constants[layer])
        _, n_pre, n_post, mode, n_grad = table[:5]
        at_t_out, at_slope, at_grad, at_weights_t, at_t_in_grad = (
            table[6],
            table[7],
            table[8],
            table[12],
            table[13],
        )
        t_in, gate, g, x, p, q1, q2, a1, a2, t, short, order, events = factors_of(
            table, like, n_replica, n_batch
        )
        _terms(
            first, last, t_in, order, cube(at_t_out, like, n_replica, n_batch, n_post),
            cube(at_slope, like, n_replica, n_batch, n_post), cube(at_grad, like, n_replica, n_batch, n_post),
            active, limit, mode, c, short, events, told, gate, g, a1, a2, t, x, p, q1, q2,
        )  # fmt: skip
        if n_grad > 0:
            input_products(
                first, last, t_in, cube(at_weights_t, like, n_replica, n_post, n_pre), active, mode, c,
                short, gate, a1, a2, q1, q2, cube(at_t_in_grad, like, n_replica, n_batch, n_grad),
            )  # fmt: skip


@njit(error_model="numpy")
def weights_piece(r, i0, i1, like, table, row, n_replica, n_batch, out):
    """The gradient (i1 - i0, n_post) of the weights of inputs i0 to i1 of replica r, of one layer; see `backward_piece`.

    What samples add whose inputs come in groups must be there, see `groups_piece`.
    """
    t_in, gate, g, x, p, _, _, a1, a2, _, short, _, events = factors_of(table, like, n_replica, n_batch)
    times = t_in[r if len(t_in) > 1 else 0]
    n_together = 0
    single = np.ones(n_batch, np.bool_)
    for b in range(n_batch if events.size > 0 else 0):
        single[b] = events[r, b, WHAT] == EACH
        n_together += not single[b]
    if n_together < n_batch:
        weight_products(
            i0, i1, times, table[3], named(row), short[r], single, gate[r], g[r], a1[r], a2[r], x[r], p[r], out
        )  # fmt: skip
    else:
        out[:] = 0.0
    if n_together > 0:
        sums = cube(table[17], like, n_replica, table[1], lanes_of(table[2], like))[r, i0:i1]
        for i in range(i1 - i0):
            for j in range(out.shape[1]):
                out[i, j] += sums[i, j]


@njit(error_model="numpy")
def lanes_of(n_post, like):
    """Neurons of a layer in whole vectors."""
    width = VECTOR_BYTES // like.itemsize
    return (n_post + width - 1) // width * width


@njit(error_model="numpy")
def n_group_pieces(tables, n_replica):
    """Pieces of work that the first layer's groups are."""
    return n_replica * WEIGHT_PARTS if tables[0, 16] != 0 else 0


@njit(error_model="numpy", process="second")
def groups_piece(number, like, table, n_replica, n_batch):
    """What the first layer's samples whose inputs come in groups add to the weights' gradient, for a range of neurons."""
    r, part = number // WEIGHT_PARTS, number % WEIGHT_PARTS
    _, gate, _, x, p, _, _, a1, a2, t, _, order, events = factors_of(table, like, n_replica, n_batch)
    n_lanes = lanes_of(table[2], like)
    sums = cube(table[17], like, n_replica, table[1], n_lanes)[r]
    n_vectors = n_lanes * like.itemsize // VECTOR_BYTES
    n_blocks = (n_vectors + SUM_VECTORS - 1) // SUM_VECTORS
    group_sums(
        part * n_blocks // WEIGHT_PARTS, (part + 1) * n_blocks // WEIGHT_PARTS, order[r if len(order) > 1 else 0],
        events[r], gate[r], x[r], p[r], a1[r], a2[r], t[r], sums,
    )  # fmt: skip


@njit(error_model="numpy")
def weights_of_piece(number, n_replica):
    """Layer, replica and part of a piece of the weights."""
    rest = number % (n_replica * WEIGHT_PARTS)
    return number // (n_replica * WEIGHT_PARTS), rest // WEIGHT_PARTS, rest % WEIGHT_PARTS


@njit(cache=True, nogil=True, error_model="numpy")
def _backward_job(control, is_caller, like, tables, constants, active, limit, n_batch, samples_per_task):
    """`backward_piece` for all samples, from the last layer to the first, then for all weights."""
    enter(control, is_caller)
    n_replica, n_layer = len(active), len(tables)
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    n_sample_pieces = n_replica * n_chunks
    n_gathered = n_sample_pieces + n_group_pieces(tables, n_replica)
    n_pieces = n_gathered + n_layer * n_replica * WEIGHT_PARTS
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        if piece >= n_sample_pieces:  # a weight's gradient is a sum over all samples
            wait_for(control, n_sample_pieces if piece < n_gathered else n_gathered)
        if piece < n_sample_pieces:
            first = piece // n_chunks * n_batch + piece % n_chunks * samples_per_task
            last = min(first + samples_per_task, (piece // n_chunks + 1) * n_batch)
            backward_piece(first, last, like, tables, constants, active, limit, n_batch, False)
        elif piece < n_gathered:
            groups_piece(piece - n_sample_pieces, like, tables[0], n_replica, n_batch)
        else:
            layer, r, part = weights_of_piece(piece - n_gathered, n_replica)
            table = tables[layer]
            n_pre, n_post = table[1], table[2]
            i0, i1 = inputs_of_part(n_pre, part, WEIGHT_PARTS)
            out = cube(table[14], like, n_replica, n_pre, n_post)[r, i0:i1]
            if active[r]:
                weights_piece(r, i0, i1, like, table, constants[layer], n_replica, n_batch, out)
            else:
                out[:] = 0.0
        finish(control)
    return leave(control, is_caller, n_pieces)


def backward(
    states: Sequence[LayerState],
    weights: Sequence[Array],
    units: Sequence[Unit],
    t_out_grad: Array,
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
    into: Sequence[Array] | None = None,
) -> tuple[Array | None, list[Array]]:
    """Gradients with respect to the input times (if needed) and the weights; see `kernels.Kernels.backward`.

    Args:
        units: of each layer, neurons that share their time constants.
        into: of each layer, memory for its weights' gradient.
    """
    n_replica, n_batch, _ = t_out_grad.shape
    dtype = t_out_grad.dtype
    for number, (state, w) in enumerate(zip(states, weights, strict=True)):
        expected = (n_replica, state.t_in.shape[2], state.t_out.shape[2])
        if w.shape != expected or w.dtype != dtype:
            raise ShapeError(f"weights of layer {number} must be {expected} {dtype}, got {w.shape} {w.dtype}")
    n_inputs = states[0].t_in.shape[2] if need_t_in_grad else 0
    t_in_grad = np.zeros((n_replica, n_batch, n_inputs), dtype) if need_t_in_grad else None
    if n_replica * n_batch == 0 or any(w.size == 0 for w in weights):
        return t_in_grad, [np.zeros(w.shape, dtype) for w in weights]
    grads = [np.empty(w.shape, dtype) for w in weights] if into is None else list(into)
    transposed = [transpose(w) if number or need_t_in_grad else None for number, w in enumerate(weights)]
    modes = [unit.regime for unit in units]
    constants = np.array([unit.constants(dtype) for unit in units])
    n_pre = states[0].t_in.shape[2]
    events = None  # an input's own gradient is a sum over its own weights
    if not need_t_in_grad and states[0].order.size:
        events = room_for_events(n_replica, n_batch, n_pre)
    tables, kept = tables_of(states, transposed, t_out_grad, t_in_grad, grads, modes, events)
    n_active = int(np.count_nonzero(active))
    pairs = (
        n_active * n_batch * sum(w.shape[1] * w.shape[2] + TERMS_A_NEURON * sum(w.shape[1:]) for w in weights)
    )
    run(
        _backward_job,
        (
            np.empty((0, 0, 0), dtype), tables, constants, active, max_weight_grad, n_batch,
            samples_of_a_piece(n_replica * n_batch),
        ),
        keep=kept,
        parallel=pairs > PAIRS_WORTH_A_THREAD,
    )  # fmt: skip
    return t_in_grad, grads
