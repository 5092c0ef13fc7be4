"""First spike times on the CPU: a sweep through sorted events, then an exact solution (Numba).

One pair of sums serves every ratio of the time constants. With d = 1/tau_fast - 1/tau_slow, times counted from
an anchor and E(t) = (exp(d t) - 1)/d, which goes to t as d goes to 0,

    p = sum_C w_i a_i,   q = sum_C w_i a_i E(t_i),   a_i = exp(t_i/tau_slow)
    C (u(T) - leak) = exp(-T/tau_fast) (E(T) p - q)

so that in x = E(T) the threshold is where the straight line x p - q meets the convex curve
R(x) = C (threshold - leak) exp(T(x)/tau_fast). The tangent of R at an event lies below R: unless the line passes
that tangent before the next event, no crossing can lie between the two. That is the test of the sweep, one
multiply-add and one comparison. Newton's method on a concave difference, started from its left, never overshoots.

Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021), for the model and its closed forms; the
common form for all ratios is derived above.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import SAME_TICK, Array, LayerState, Trial
from gpuspike.kernels.bias import with_bias
from gpuspike.kernels.constants import GROUPS_FROM
from gpuspike.kernels.cpu.arrays import address, cube, in_vectors, named
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import HEAD
from gpuspike.kernels.cpu.neurons import solve_samples
from gpuspike.kernels.cpu.products import WEIGHT_PARTS, sum_inputs, sum_parts
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.sort import sort_rows, spike_order
from gpuspike.kernels.cpu.team import enter, finish, leave, run, samples_of_a_piece, take
from gpuspike.kernels.trials import check_trial, heard
from gpuspike.kernels.unit import Unit

EVENTS_A_SOLUTION = 200
"""Pair-events that solving for one spike time costs, roughly; preparing an event costs a third of that."""

PAIRS_WORTH_A_THREAD = 200_000
"""Pair-events, some 20 us of work, below which sharing it with another thread does not pay."""


@njit(error_model="numpy")
def receive(spikes, bias, sort, t_in, order):
    """A layer's input for a few samples: the spikes of the layer before, then the bias spikes; sorted if `sort`."""
    n_in = t_in.shape[1] - bias.size
    for b in range(t_in.shape[0] if spikes.size else 0):
        for i in range(n_in):
            t_in[b, i] = spikes[b, i]
        for i in range(bias.size):
            t_in[b, n_in + i] = bias[i]
    if sort:
        sort_rows(t_in, order)


@njit(error_model="numpy", process="first")
def forward_piece(r, b0, b1, part, n_ranges, like, bias, tables, constants, trials, n_replica, n_batch):
    """Samples b0 to b1 of replica r through a stack of layers; of a single layer, one of `n_ranges` of its neurons.

    Args:
        like: any array of the working type.
        bias: bias times of all layers, one after the other.
        tables: (n_layer, ...) sizes and addresses, see `table_row`;  constants: (n_layer, ...) of `Constants`.
        trials: None, or of each layer the numbers of its trials, (n_layer, 3): grid, end, tolerance of the grid.
    """
    indices = np.empty(0, np.int64)
    spikes = np.empty((0, 0), like.dtype)
    width = VECTOR_BYTES // like.itemsize
    first_bias = 0
    for layer in range(len(tables)):
        n_received, n_pre, n_post, n_bias, mode, sort = tables[layer, :6]
        at_t_in, at_order, at_weights, at_t_cross, at_slope = tables[layer, 6:11]
        at_t_out, at_lift, at_delay, at_totals, at_events = tables[layer, 11:]
        r_in = r if n_received > 1 else 0
        t_in = cube(at_t_in, like, n_received, n_batch, n_pre)[r_in, b0:b1]
        order = cube(at_order, indices, n_received, n_batch, n_pre)[r_in, b0:b1]
        t_out = cube(at_t_out, like, n_replica, n_batch, n_post)[r, b0:b1]
        receive(spikes, bias[first_bias : first_bias + n_bias], sort, t_in, order)
        n_vectors = (n_post + width - 1) // width
        first, end = part * n_vectors // n_ranges, (part + 1) * n_vectors // n_ranges
        n_lanes = n_vectors * width
        w = cube(at_weights, like, n_replica, n_pre, n_lanes)[r]
        all_inputs = np.empty(n_lanes if at_totals != 0 else 0, like.dtype)
        if at_totals != 0:
            sum_inputs(cube(at_totals, like, n_replica, WEIGHT_PARTS, n_lanes)[r], all_inputs)
        if at_events != 0:
            events = cube(at_events, np.empty(0, np.int32), n_replica, n_batch, HEAD + n_pre)[r, b0:b1]
        else:
            events = np.empty((b1 - b0, HEAD + n_pre), np.int32)
        t_cross = cube(at_t_cross, like, n_replica, n_batch, n_post)[r, b0:b1]
        slope = cube(at_slope, like, n_replica, n_batch, n_post)[r, b0:b1]
        c = named(constants[layer])
        if trials is None:
            solve_samples(
                t_in, order, w, all_inputs, first, end, mode, c, events, None, t_out, t_cross, slope
            )  # fmt: skip
        else:
            trial = (
                cube(at_lift, like, n_replica, n_batch, n_post)[r, b0:b1],
                cube(at_delay, like, n_replica, n_batch, n_post)[r, b0:b1],
                trials[layer, 0], trials[layer, 1], trials[layer, 2],
            )  # fmt: skip
            solve_samples(
                t_in, order, w, all_inputs, first, end, mode, c, events, trial, t_out, t_cross, slope
            )  # fmt: skip
        first_bias += n_bias
        spikes = t_out


@njit(cache=True, nogil=True, error_model="numpy")
def _forward_job(
    control,
    is_caller,
    like,
    bias,
    tables,
    constants,
    trials,
    n_replica,
    n_batch,
    samples_per_task,
    n_ranges,
):
    """`forward_piece` for all samples, and all ranges of neurons."""
    enter(control, is_caller)
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    n_pieces = n_replica * n_chunks * n_ranges
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        b0 = (piece // n_ranges) % n_chunks * samples_per_task
        forward_piece(
            piece // (n_chunks * n_ranges), b0, min(b0 + samples_per_task, n_batch), piece % n_ranges, n_ranges,
            like, bias, tables, constants, trials, n_replica, n_batch,
        )  # fmt: skip
        finish(control)
    return leave(control, is_caller, n_pieces)


def pair_events(weights: Sequence[Array]) -> int:
    """Pair-events that a sample costs in a stack of layers, its solutions and events counted as some, roughly."""
    return sum(w.shape[1] * w.shape[2] + EVENTS_A_SOLUTION * (w.shape[2] + w.shape[1] // 3) for w in weights)


def check_stack(t_in: Array, weights: Sequence[Array], bias_times: Sequence[Sequence[float]]) -> None:
    """Refuses arrays that do not fit each other: jobs know them by their addresses.

    Raises:
        DtypeError, ShapeError: what was expected, and what was got.
    """
    n_pre = t_in.shape[2]
    for number, w in enumerate(weights):
        if w.dtype != t_in.dtype:
            raise DtypeError(f"weights of layer {number} must be {t_in.dtype} like t_in, got {w.dtype}")
        if number:
            n_pre = weights[number - 1].shape[2] + len(bias_times[number])
        if w.shape[:2] != (len(weights[0]), n_pre):
            expected = (len(weights[0]), n_pre, "n_post")
            raise ShapeError(f"weights of layer {number} must be {expected}, got shape {w.shape}")
    if len(t_in) not in (1, len(weights[0])):
        raise ShapeError(f"t_in must have 1 or {len(weights[0])} replicas, got {len(t_in)}")


def totals_of(vectors: Array) -> Array | None:
    """What `sum_parts` makes of a layer's weights, `in_vectors`; None for a layer that has no use for it."""
    if vectors.shape[1] < GROUPS_FROM:
        return None
    totals = np.empty((len(vectors), WEIGHT_PARTS, vectors.shape[2]), vectors.dtype)
    sum_parts(vectors, totals)
    return totals


def table_row(
    state: LayerState,
    vectors: Array,
    totals: Array | None,
    n_bias: int,
    mode: int,
    sort: bool,
    trial: Trial,
    events: Array | None = None,
) -> list[int]:
    """A row of the tables of `forward_piece`.

    Args:
        vectors: the weights, `in_vectors`;  totals: see `totals_of`.
        events: for `events.Grouped` of each sample, where somebody else wants it, too.
    """
    arrays = (
        state.t_in, state.order, vectors, state.t_cross, state.slope, state.t_out, trial.lift, trial.delay,
        totals, events,
    )  # fmt: skip
    sizes = [len(state.t_in), state.t_in.shape[2], state.t_out.shape[2], n_bias, mode, int(sort)]
    return sizes + [address(array) for array in arrays]


def _whole(trial: Trial, t_out: Array) -> Trial:
    """The trial with all its arrays, contiguous; those that are not given do nothing."""
    check_trial(trial, t_out.shape, t_out.dtype)
    lift, delay = (
        np.full_like(t_out, nothing) if array is None else np.ascontiguousarray(array)
        for array, nothing in ((trial.lift, 1.0), (trial.delay, 0.0))
    )
    return trial._replace(lift=lift, delay=delay)


def _without_input(state: LayerState, trial: Trial) -> LayerState:
    """A layer that nothing reaches: only neurons that are always on spike."""
    check_trial(trial, state.t_out.shape, state.t_out.dtype)
    if trial.lift is not None:
        state.t_cross[trial.lift <= 0.0] = 0.0
    return state._replace(t_out=heard(state.t_cross, trial))


def forward(
    t_in: Array,
    order: NDArray[np.int64] | None,
    weights: Sequence[Array],
    units: Sequence[Unit],
    bias_times: Sequence[Sequence[float]],
    trials: Sequence[Trial] | None = None,
    deeper: bool = False,
) -> list[LayerState]:
    """Spike times of a stack of layers, and the membranes' slopes there.

    Args:
        t_in: (n_replica or 1, n_batch, n_pre) spike times.
        order: of the same shape, what sorts them along the last axis; None: not known yet.
        weights: of each layer (n_replica, n_pre, n_post), contiguous.
        units: of each layer, neurons that share their time constants.
        bias_times: of each layer but the first, times of the spikes that it gets beside those of the layer before.
        trials: of each layer, where a chip interferes.
        deeper: the first of these layers hears neurons. What spikes together there is no longer the same when inputs
            are presented in part only, and then nor would be the sums' rounding: so only a chip's layers, whose spikes come
            in ticks, take them together.
    """
    n_replica, n_batch, dtype = len(weights[0]), t_in.shape[1], weights[0].dtype
    check_stack(t_in, weights, bias_times)
    n_threads = thread_count()
    # Enough tasks for all threads; how the work is cut changes no result.
    samples_per_task = samples_of_a_piece(n_replica * n_batch)
    few = n_replica * -(-n_batch // samples_per_task) < n_threads
    empty = n_replica * n_batch == 0 or any(w.size == 0 for w in weights)
    if len(weights) > 1 and (few or empty):
        states: list[LayerState] = []
        for layer, times in enumerate(bias_times):
            one = slice(layer, layer + 1)
            if states:
                t_in, order = with_bias(states[-1].t_out, times), None
            trial = None if trials is None else trials[one]
            states += forward(
                t_in, order, weights[one], units[one], [times], trial,
                deeper=deeper or bool(states),
            )  # fmt: skip
        return states
    if order is None and (few or empty or len(t_in) < n_replica):
        order = spike_order(t_in)

    states, sorts = [], []
    for w in weights:
        if states:
            t_in, order = np.empty((n_replica, n_batch, w.shape[1]), dtype), None
        sorts.append(order is None)
        if order is None:
            order = np.empty(t_in.shape, np.int64)
        t_cross = np.empty((n_replica, n_batch, w.shape[2]), dtype)
        t_out = t_cross if trials is None else np.empty_like(t_cross)
        states.append(LayerState(t_in, order, t_out, t_cross, np.empty_like(t_cross)))
    if empty:
        states[0].t_cross.fill(np.inf)
        states[0].slope.fill(0.0)
        return states if trials is None else [_without_input(states[0], trials[0])]
    n_ranges = min(-(-weights[0].shape[2] // (VECTOR_BYTES // dtype.itemsize)), n_threads) if few else 1
    n_biases = [len(times) for times in bias_times]
    bias = np.array([time for times in bias_times[1:] for time in times], dtype)
    n_biases[0] = 0  # those of the first layer are in t_in
    numbers = None
    if trials is not None:
        numbers = np.array([[trial.grid, trial.end, SAME_TICK] for trial in trials])
        trials = [_whole(trial, state.t_out) for trial, state in zip(trials, states, strict=True)]
    for w in weights:
        address(w)  # refuses what the gradient and the optimiser would
    vectors = [in_vectors(w) for w in weights]
    grouped = [trials is not None or not (deeper or number) for number in range(len(weights))]
    totals = [totals_of(v) if groups else None for v, groups in zip(vectors, grouped, strict=True)]
    modes = [unit.regime for unit in units]
    constants = np.array([unit.constants(dtype) for unit in units])
    layers = zip(
        states, vectors, totals, n_biases, modes, sorts, trials or [Trial()] * len(weights), strict=True
    )
    tables = np.array([table_row(*layer) for layer in layers])
    pairs = pair_events(weights)
    like = np.empty((0, 0, 0), dtype)
    run(
        _forward_job,
        (like, bias, tables, constants, numbers, n_replica, n_batch, samples_per_task, n_ranges),
        keep=(states, vectors, totals, trials),
        parallel=n_replica * n_batch * pairs > PAIRS_WORTH_A_THREAD,
    )
    return states
