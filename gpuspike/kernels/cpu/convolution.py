"""Convolutional layers on the CPU, patch by patch where they lie (Numba).

A piece of work is one sample. Forward, its spikes are sorted once (see `patches`), and a few patches at a time are
picked and solved for in a cache, as `forward` does with samples, to rounding. A patch without structure, all of whose
inputs spike together (an image's background), is solved for once a sample. Backward, only spikes that are heard have a
gradient; the inputs' factors are made once a sample, for all the patches that an input is part of. The notation is that
of `gpuspike.kernels.cpu.backward`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array, LayerState
from gpuspike.kernels.constants import EQUAL
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cpu.arrays import bare, in_vectors, keep, named
from gpuspike.kernels.cpu.backward_room import transpose
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.events import HEAD, bare_room, prepare_sorted
from gpuspike.kernels.cpu.neurons import room_to_prepare, solve_prepared
from gpuspike.kernels.cpu.patches import (
    band_spikes,
    bared,
    columns_together,
    corner,
    crop,
    image_spikes,
    layout,
    n_padded,
    pack,
    pad,
    patch_spikes,
    room_for_patches,
    rows_together,
    sizes,
    slab_spikes,
    strip_spikes,
    wide,
)
from gpuspike.kernels.cpu.products import kernel
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.simd_patches import LANES
from gpuspike.kernels.cpu.slopes import input_terms, window
from gpuspike.kernels.cpu.solve import exp_vectorised, rise
from gpuspike.kernels.cpu.sort import finite_range, sort_row, sort_space
from gpuspike.kernels.cpu.team import enter, leave, run, tasks
from gpuspike.kernels.unit import unit
from gpuspike.neuron import LIF

PATCHES = 16
"""Patches that are solved for together: what they need stays in the second-level cache."""

PARTS = 16
"""Ranges of samples whose weight gradients are added up by themselves, in the type of the weights."""


@njit(error_model="numpy")
def _hear(cross, of, out):
    """The earliest spikes of windows; (rows, columns, n_maps) of (positions, n_maps)."""
    pool = of.pool
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for j in range(out.shape[2]):
                out[y, x, j] = math.inf
            for dy in range(pool):
                for dx in range(pool):
                    row = cross[(y * pool + dy) * of.grid_columns + x * pool + dx]
                    for j in range(out.shape[2]):
                        out[y, x, j] = min(out[y, x, j], row[j])


@njit(cache=True, nogil=True, error_model="numpy")
def _forward_job(
    control, is_caller, n_tasks, n_pieces, t_in, weights, around, sizes, mode, row, t_cross, slope, t_out
):  # fmt: skip
    """Spike times of a layer.

    Args:
        t_in: (n_replica or 1, n_batch, n_received);  weights: (n_replica, n_pre, whole vectors).
        around: the time of the padding;  sizes: `patches.Sizes`;  row: of `Constants`.
        t_cross, slope: (n_replica, n_batch, n_positions, n_maps);  t_out: (n_replica, n_batch, rows, columns, n_maps).
    """
    enter(control, is_caller)
    t_cross, slope, t_out = bare(t_cross), bare(slope), bare(t_out)
    n_batch, n_positions, n_maps = t_cross.shape[1:]
    n_pre, n_vectors = weights.shape[1], weights.shape[2] * weights.itemsize // VECTOR_BYTES
    c, nothing = named(row), np.empty(0, weights.dtype)
    n_bias = t_in.shape[2] - sizes.rows * sizes.columns * sizes.channels
    times = np.empty(n_padded(sizes) + n_bias, t_in.dtype)
    in_order, space = np.empty(times.size, np.int64), sort_space(times.size, times)
    told, spikes = layout(sizes, n_bias), room_for_patches(sizes, n_bias)
    image, slab, band, strip = bared(spikes[0]), bared(spikes[1]), bared(spikes[2]), bared(spikes[3])
    tall, across = rows_together(sizes), columns_together(sizes)
    room = (
        np.empty((PATCHES, n_pre + LANES), np.int64), np.empty((PATCHES, HEAD + n_pre), np.int32),
        np.empty((2, PATCHES, n_maps), t_in.dtype), np.empty(PATCHES, np.int64), np.empty(n_positions, np.int64),
    )  # fmt: skip
    order, events, place, blank = bare(room[0]), bare(room[1]), bare(room[3]), bare(room[4])
    cross, rises = bare(room[2])[0], bare(room[2])[1]
    room_of_events = room_to_prepare(PATCHES, n_pre, weights)
    prepared = bare_room(room_of_events)
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        pad(t_in[r if t_in.shape[0] > 1 else 0, b], around, sizes, times)
        sort_row(times, in_order, space)
        n_image, known = image_spikes(times, in_order, told, c.tau_slow, image)
        n_blank, first_blank, blank_time, n_slab, n_band, n_strip = 0, -1, 0.0, 0, 0, 0
        of_sample, slope_of_sample = t_cross[r, b], slope[r, b]
        n = 0
        for p in range(n_positions):
            y, x = p // sizes.grid_columns, p % sizes.grid_columns
            if x == 0 and y % tall == 0:
                n_slab = slab_spikes(image, n_image, sizes, y, slab)
            if x == 0:
                n_band = band_spikes(slab, n_slab, sizes, y, band)
            if x % across == 0:
                n_strip = strip_spikes(band, n_band, sizes, x, strip)
            own = prepared[0][n]
            n_spikes = patch_spikes(strip, n_strip, sizes, x, order[n], own, prepared[2][0, n])
            is_blank = n_spikes == 0 or (n_spikes == n_pre and own[0] == own[n_spikes - 1])
            at = own[0] if n_spikes > 0 else math.inf
            if is_blank and first_blank >= 0 and at == blank_time:
                blank[n_blank] = p
                n_blank += 1
            else:
                if is_blank and first_blank < 0:
                    first_blank, blank_time = p, at
                if known:
                    prepare_sorted(n, n_spikes, known, c, mode, events, prepared)
                else:
                    prepare_sorted(n, n_spikes, None, c, mode, events, prepared)
                place[n] = p
                n += 1
            if n == PATCHES or (n > 0 and p + 1 == n_positions):
                solve_prepared(
                    order, weights[r], nothing, 0, n_vectors, mode, c, events, prepared, None, cross[:n], rises[:n],
                )  # fmt: skip
                for m in range(np.uint64(n)):  # which spares asking whether numbers are negative
                    p_of = np.uint64(place[m])
                    for j in range(
                        np.uint64(n_maps)
                    ):  # an assignment of rows takes longer than short ones' copying
                        of_sample[p_of, j], slope_of_sample[p_of, j] = cross[m, j], rises[m, j]
                n = 0
        for m in range(n_blank):
            t_cross[r, b, blank[m]], slope[r, b, blank[m]] = (
                t_cross[r, b, first_blank],
                slope[r, b, first_blank],
            )
        if sizes.pool > 1:
            _hear(t_cross[r, b], sizes, t_out[r, b])
    keep((room, room_of_events, spikes))
    return leave(control, is_caller, n_pieces)


def forward(layer: Convolution, t_in: Array, weights: Array, neuron: LIF) -> LayerState:
    """What a layer of neurons that share their constants answers; see `convolution.ConvolutionKernels`."""
    n_replica, n_batch, dtype = len(weights), t_in.shape[1], weights.dtype
    own = unit(neuron, weights)
    t_in = np.ascontiguousarray(t_in)
    t_cross = np.empty((n_replica, n_batch, layer.n_positions, layer.n_maps), dtype)
    slope = np.empty_like(t_cross)
    t_out = np.empty((n_replica, n_batch, *layer.out_shape), dtype) if layer.pool > 1 else t_cross[:, :, None]
    arrays = (
        t_in, in_vectors(weights), dtype.type(layer.pad_time), sizes(layer), own.regime,
        np.array(own.constants(dtype)), t_cross, slope, t_out,
    )  # fmt: skip
    n_tasks = n_replica * n_batch
    run(_forward_job, (n_tasks, n_tasks, *arrays))
    flat = (n_replica, n_batch, layer.n_neurons)
    t_cross, slope = t_cross.reshape(flat), slope.reshape(flat)
    t_out = t_out.reshape(n_replica, n_batch, layer.n_out) if layer.pool > 1 else t_cross
    return LayerState(t_in, np.empty(0, np.int64), t_out, t_cross, slope)


@njit(error_model="numpy")
def _steepest(times, sources, around, t, mode, c):
    """The largest C k(t - t_i) of a patch."""
    most = 0.0
    for i in range(sources.size):
        k = sources[i]
        delay = np.float64(t) - (times[k] if k < times.size else around)
        if delay > 0.0:
            most = max(most, kernel(delay, mode, c))
    return most


@njit(error_model="numpy", fastmath={"contract"})
def _pull_pairs(
    times, source, around, t, scale, weight_scale, weights, mode, c, weights_grad, times_grad, further
):
    """`_pull` of one neuron by the kernel itself, pair by pair: where the window is too long for one anchor."""
    for i in range(source.size):
        k = source[i]
        delay = np.float64(t) - (times[k] if k < times.size else around)
        if delay > 0.0:
            own = kernel(delay, mode, c)
            weights_grad[i] -= weight_scale * own
            if further and k < times.size:
                bend = math.exp(-delay / c.tau_fast) - own / c.tau_slow
                times_grad[k] += weights[i] * scale * bend


@njit(error_model="numpy", fastmath={"contract"})
def _pull(t, p, x, times, a1, a2, weights_grad):
    """Adds [t_i < t] p (a2_i - x a1_i)."""
    zero = a1.dtype.type(0.0)
    for i in range(times.size):
        weights_grad[i] += p * (a2[i] - x * a1[i]) if times[i] < t else zero


@njit(error_model="numpy", fastmath={"contract"})
def _pull_times(t, q1, q2, times, a1, a2, weights, times_grad):
    """Adds [t_i < t] w_i (q1 a1_i + q2 a2_i)."""
    zero = a1.dtype.type(0.0)
    for i in range(times.size):
        times_grad[i] += weights[i] * (q1 * a1[i] + q2 * a2[i]) if times[i] < t else zero


@njit(error_model="numpy")
def _first_of(cross, of, y, x, places):
    """Of each map, the position whose spike is heard of a window: the first of its earliest."""
    corner = (y * of.grid_columns + x) * of.pool
    places[:] = corner
    for dy in range(of.pool):
        for dx in range(of.pool):
            p = corner + dy * of.grid_columns + dx
            for j in range(places.size):
                places[j] = p if cross[p, j] < cross[places[j], j] else places[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _backward_job(
    control, is_caller, n_tasks, n_pieces, t_in, weights_t, around, sources, sizes, mode, row, t_cross, slope, grad,
    active, limit, further, weights_grad, times_grad,
):  # fmt: skip
    """Gradients of a layer.

    Args:
        weights_t: (n_replica, n_maps, n_pre);  the rest as for `_forward_job`.
        t_cross, slope: (n_replica, n_batch, n_positions, n_maps);  grad: (n_replica, n_batch, rows, columns, n_maps).
        further: whether `times_grad` (n_replica, n_batch, n_received) is asked for.
        weights_grad: (n_replica, PARTS, n_maps, n_pre), 0 before.
    """
    enter(control, is_caller)
    c = named(row)
    capacitance = c.drive / c.span
    rate_slow, rate_fast = 1.0 / c.tau_slow, 1.0 / c.tau_fast
    t_in, weights_t, weights_grad, times_grad = (
        bare(t_in),
        bare(weights_t),
        bare(weights_grad),
        bare(times_grad),
    )
    t_cross, slope, grad = bare(t_cross), bare(slope), bare(grad)
    n_batch, n_received = t_in.shape[1:]
    n_image, n_seen = (
        sizes.rows * sizes.columns * sizes.channels,
        sizes.kernel * sizes.kernel * sizes.channels,
    )
    n_around, n_bias, run_length = n_padded(sizes), n_received - n_image, sizes.kernel * sizes.channels
    # A patch is `kernel` runs of the padded image, and the bias spikes.
    n_maps, n_pre = weights_t.shape[1:]
    rooms = (
        np.empty((4, n_around + n_bias), t_in.dtype), np.empty((3, n_pre), t_in.dtype),
        np.empty((2, n_maps), np.int64), np.empty((3, n_maps)), np.empty(n_maps, t_in.dtype),
    )  # fmt: skip
    room, patch = bare(rooms[0]), bare(rooms[1])
    times, a1, a2, of_times = room[0], room[1], room[2], room[3]
    places, maps = bare(rooms[2])[0], bare(rooms[2])[1]
    scale, far, decay = bare(rooms[3])[0], bare(rooms[3])[1], bare(rooms[3])[2]
    strength = bare(rooms[4])
    packs = run_length * times.itemsize < VECTOR_BYTES  # short runs are gathered first
    for task in tasks(control, n_tasks, n_pieces):
        r, part = task // PARTS, task % PARTS
        total = weights_grad[r, part]
        if not active[r]:
            continue
        for b in range(part * n_batch // PARTS, (part + 1) * n_batch // PARTS):
            received = t_in[r if t_in.shape[0] > 1 else 0, b]
            pad(received, around, sizes, times)
            anchor = np.float64(finite_range(times)[0])
            latest, short = window(anchor, t_cross[r, b].ravel(), c)
            input_terms(times, anchor, latest if short else -math.inf, mode, c, a1, a2)
            of_times[:] = 0.0
            cross, steep = t_cross[r, b], slope[r, b]
            for window_ in range(grad.shape[2] * grad.shape[3]):
                wy, wx = window_ // grad.shape[3], window_ % grad.shape[3]
                pulled = grad[r, b, wy, wx]
                _first_of(cross, sizes, wy, wx, places)
                n = 0
                for j in range(n_maps):
                    t, rising = cross[places[j], j], steep[places[j], j]
                    maps[n] = j
                    n += 1 if (pulled[j] != 0.0) & (rising > 0.0) & (t < math.inf) else 0
                for m in range(n):
                    j = maps[m]
                    delay = np.float64(cross[places[j], j]) - anchor
                    scale[m] = pulled[j] / (steep[places[j], j] * capacitance)
                    far[m] = delay if mode == EQUAL else rise(delay, mode, c.rate)
                    decay[m] = delay
                for m in range(n):
                    decay[m] = exp_vectorised(-decay[m] * rate_fast)
                for m in range(n):
                    j = maps[m]
                    place, t = places[j], cross[places[j], j]
                    for_weights = scale[m]
                    if (
                        abs(for_weights) * c.peak > limit
                        and abs(for_weights) * _steepest(received, sources[place], around, t, mode, c) > limit
                    ):
                        for_weights = 0.0
                    if not short:
                        _pull_pairs(
                            received, sources[place], around, t, scale[m], for_weights, weights_t[r, j], mode, c,
                            total[j], of_times, further,
                        )  # fmt: skip
                        continue
                    kind = times.dtype.type
                    p, x = kind(decay[m] * for_weights), kind(far[m])
                    q1, q2 = (
                        kind(decay[m] * scale[m] * (1.0 - far[m] * rate_slow)),
                        kind(decay[m] * scale[m] * rate_fast),
                    )
                    if packs:
                        strength[m] = p
                        if not further:
                            continue
                    first = corner(sizes, place)
                    for k in range(sizes.kernel + 1):
                        at, w0, n_run = first + k * wide(sizes), k * run_length, run_length
                        if k == sizes.kernel:
                            at, w0, n_run = n_around, n_seen, n_bias
                        end, w1 = at + n_run, w0 + n_run
                        if not packs:
                            _pull(t, p, x, times[at:end], a1[at:end], a2[at:end], total[j, w0:w1])
                        if further:
                            _pull_times(
                                t, q1, q2, times[at:end], a1[at:end], a2[at:end], weights_t[r, j, w0:w1],
                                of_times[at:end],
                            )  # fmt: skip
                if packs and short:
                    for dy in range(sizes.pool):
                        for dx in range(sizes.pool):
                            place = (wy * sizes.grid_columns + wx) * sizes.pool + dy * sizes.grid_columns + dx
                            waiting = True
                            for m in range(n):
                                j = maps[m]
                                if places[j] != place:
                                    continue
                                if waiting:
                                    for k in range(3):
                                        pack(room[k], sizes, corner(sizes, place), patch[k])
                                    waiting = False
                                x = times.dtype.type(far[m])
                                _pull(cross[place, j], strength[m], x, patch[0], patch[1], patch[2], total[j])
            if further:
                out = times_grad[r, b]
                if short:
                    crop(of_times, sizes, out[:n_image])
                else:
                    out[:n_image] = of_times[:n_image]
                out[n_image:] = 0.0
    keep(rooms)
    return leave(control, is_caller, n_pieces)


def backward(
    layer: Convolution,
    state: LayerState,
    weights: Array,
    neuron: LIF,
    grad: Array,
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array | None, Array]:
    """Gradients of such a layer; see `convolution.ConvolutionKernels`."""
    n_replica, n_batch, dtype = len(weights), state.t_in.shape[1], weights.dtype
    n_bias, own = state.t_in.shape[2] - layer.n_in, unit(neuron, weights)
    by_position = (n_replica, n_batch, layer.n_positions, layer.n_maps)
    weights_grad = np.zeros((n_replica, PARTS, layer.n_maps, weights.shape[1]), dtype)
    n_times = n_batch if need_t_in_grad else 0
    times_grad = np.zeros((n_replica, n_times, state.t_in.shape[2]), dtype)
    n_tasks = n_replica * PARTS
    arrays = (
        state.t_in, transpose(weights), dtype.type(layer.pad_time), layer.sources(n_bias),
        sizes(layer), own.regime, np.array(own.constants(dtype)),
        np.ascontiguousarray(state.t_cross).reshape(by_position), np.ascontiguousarray(state.slope).reshape(by_position),
        np.ascontiguousarray(grad).reshape(n_replica, n_batch, *layer.out_shape), active, float(max_weight_grad),
        need_t_in_grad, weights_grad, times_grad,
    )  # fmt: skip
    run(_backward_job, (n_tasks, n_tasks, *arrays))
    total = weights_grad.sum(axis=1, dtype=np.float64).astype(dtype)
    return times_grad if need_t_in_grad else None, np.ascontiguousarray(total.swapaxes(1, 2))
