"""A whole training step on the CPU as one compiled job (Numba).

First a few samples at a time go all the way: taken from the data set, jittered, sorted, forward, loss and back to
the factors of their gradients. Then, after all of them, a few rows of weights at a time: their gradient, Adam, bumps.
Nothing in between asks Python, no thread waits but once, and what a piece of work has written it reads again from its
cache. An emulated chip draws its trials there too. The pieces are those of `forward`, `slopes`,
`backward`, `normals` and of the leaves: the numbers are theirs.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.cpu.arrays import bare, cube, keep
from gpuspike.kernels.cpu.backward import (
    backward_piece,
    groups_piece,
    n_group_pieces,
    weights_of_piece,
    weights_piece,
)
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.forward import forward_piece
from gpuspike.kernels.cpu.images import shift_image, warp_image, warp_room
from gpuspike.kernels.cpu.leaves import loss_row, optimizer_row
from gpuspike.kernels.cpu.loss import winner
from gpuspike.kernels.cpu.normals import jitter_row
from gpuspike.kernels.cpu.products import WEIGHT_PARTS, inputs_of_part, sum_inputs
from gpuspike.kernels.cpu.records import (
    BASE,
    CAPACITANCE,
    DELAYS,
    FACTOR,
    KEPT,
    NOMINAL,
    PULL,
    SPAN,
    THRESHOLDS,
    TOTALS,
    TRANSPOSED,
    VECTORS,
    WEIGHTS,
)
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.slopes import slopes_of_samples
from gpuspike.kernels.cpu.team import enter, finish, leave, take, wait_for
from gpuspike.kernels.cpu.waking import count, listen, wake


@njit(error_model="numpy", process="first")
def _present(r, b0, b1, when, data, shift, warp, noise, room, words, numbers):
    """Samples b0 to b1 of a batch of replica r as the first layer gets them."""
    # Outside of loops, and bare: each look into a record counts references, and each row of an array, which takes longer
    # than what is done with it. Whoever has called the job keeps them.
    source, known, samples = (
        bare(data.source),
        bare(data.known),
        bare(data.order)[r, when.first : when.first + b1],
    )
    corners = bare(shift.corners)
    t_in, orders, std, seed = bare(room.t_in)[r], bare(room.order)[r], noise.std, noise.seeds[r]
    to_warp = warp_room(warp)
    for b in range(b0, b1):
        sample, times = samples[b], t_in[b]
        if warp is not None:
            warp_image(source[sample], warp, warp.numbers[r, b], to_warp, times)
        elif corners.shape[0] > 0:
            shift_image(source[sample], shift, corners[r, 0, b], corners[r, 1, b], times)
        else:
            for i in range(times.size):
                times[i] = source[sample, i]
        if known.shape[0] > 0:
            order = orders[b]
            for i in range(times.size):
                order[i] = known[sample, i]
        if std > 0.0:
            jitter_row(
                times, noise.n_jittered, std, True, seed, noise.first_block, b, when.epoch, when.number, words, numbers
            )  # fmt: skip


@njit(error_model="numpy", process="second")
def _score(r, b0, b1, when, data, told, room, constants, rule):
    """Samples b0 to b1 of replica r, their layers' spikes given: who is silent, the loss, and its gradient's factors."""
    heard, t_out_grad, first = room.heard, room.t_out_grad, when.first
    n_replica, n_batch, n_class = t_out_grad.shape
    for layer in range(len(heard)):
        n_post, at_t_out = heard[layer]
        t_out, silent = cube(at_t_out, t_out_grad, n_replica, n_batch, n_post)[r], told.silent[layer, r]
        for b in range(b0, b1):
            count = np.int32(0)
            for t in t_out[b]:
                count += np.int32(t == math.inf)
            silent[first + b] = count
    t_out = cube(heard[len(heard) - 1, 1], t_out_grad, n_replica, n_batch, n_class)[r]
    labels, samples, correct = bare(data.labels), bare(data.order)[r], bare(told.correct)[r]
    losses, grads = bare(told.losses)[r], bare(t_out_grad)[r]
    for b in range(b0, b1):
        label, answer = labels[samples[first + b]], winner(t_out[b])
        correct[first + b] = answer == label and t_out[b, answer] < math.inf
        losses[first + b] = loss_row(rule.loss, t_out[b], label, n_batch, grads[b])
    everybody = np.empty(n_replica, np.bool_)
    everybody[:] = True
    backward_piece(
        r * n_batch + b0, r * n_batch + b1, t_out_grad, room.backward, constants, everybody, rule.max_weight_grad,
        n_batch, True,
    )  # fmt: skip


@njit(error_model="numpy")
def _judge(r, when, n_batch, told, heard, bumps):
    """The first layer of replica r that is silent too often, -1 for none, and its bump; see `training.bumping`."""
    for layer in range(len(heard)):
        total, silent = 0, told.silent[layer, r]
        for b in range(when.first, when.first + n_batch):
            total += silent[b]
        # Nobody wakes the dead: counted, they would have a layer bumped for ever.
        if total / (n_batch * heard[layer, 0]) - bumps.dead[layer, r] > bumps.max_silent[layer]:
            again = bumps.exponential and told.chosen[when.number, r] == layer
            return layer, min(2.0 * told.sizes[when.number, r], bumps.most) if again else bumps.value
    return -1, bumps.value


@njit(error_model="numpy")
def _descend(r, i0, i1, like, table, constants, update, rule, n_replica, n_batch, rates, space):
    """Gradient of, and the optimiser's step on, the weights of inputs i0 to i1."""
    n_pre, n_post = table[1], table[2]
    n = (i1 - i0) * n_post
    grad = space[:n]  # which stays in this core's cache
    weights_piece(r, i0, i1, like, table, constants, n_replica, n_batch, grad.reshape(i1 - i0, n_post))
    if update[PULL] != 0:
        factor = cube(update[PULL], np.empty(0), n_replica, n_pre, n_post)[r, i0:i1].reshape(n)
        for i in range(n):
            grad[i] = grad[i] * factor[i]
    weights = cube(update[WEIGHTS], like, n_replica, n_pre, n_post)[r, i0:i1].reshape(n)
    optimizer_row(
        rule.optimizer, rates[r], weights, grad, update[KEPT:], like, (n_replica, n_pre, n_post), r, i0, i1
    )  # fmt: skip


@njit(error_model="numpy")
def _bump(weights, t_out, size, targeted):
    """Adds `size` to the weights onto neurons that were silent for a sample, or onto all."""
    n_post = weights.shape[1]
    bump = np.empty(n_post, weights.dtype)
    bump[:] = 0.0 if targeted else size
    for b in range(len(t_out) if targeted else 0):
        for j in range(n_post):
            bump[j] = weights.dtype.type(size) if t_out[b, j] == math.inf else bump[j]
    for i in range(len(weights)):
        for j in range(n_post):
            weights[i, j] += bump[j]


@njit(error_model="numpy")
def _copy(r, part, i0, i1, weights, like, table, update, n_replica):
    """Brings the other layouts of the weights of inputs i0 to i1, and their sum, up to date, where there are any."""
    n_pre, n_post = table[1], table[2]
    width = VECTOR_BYTES // like.itemsize
    if update[VECTORS] != 0:
        n_lanes = (n_post + width - 1) // width * width
        vectors = cube(update[VECTORS], like, n_replica, n_pre, n_lanes)[r, i0:i1]
        for i in range(i1 - i0):
            for j in range(n_post):
                vectors[i, j] = weights[i, j]
        if update[TOTALS] != 0:
            sum_inputs(vectors, cube(update[TOTALS], like, n_replica, WEIGHT_PARTS, n_lanes)[r, part])
    if update[TRANSPOSED] != 0:
        transposed = cube(update[TRANSPOSED], like, n_replica, n_post, n_pre)[r]
        for j in range(n_post):
            for i in range(i1 - i0):
                transposed[j, i0 + i] = weights[i, j]


@njit(error_model="numpy", process="second")
def _learn(piece, when, told, room, constants, updates, rates, rule, wakes, space):
    """One piece of the weights: gradient, step, bump, and their range."""
    like = room.t_out_grad
    n_replica, n_batch, _ = like.shape
    layer, r, part = weights_of_piece(piece, n_replica)
    table, update = room.backward[layer], updates[layer]
    n_pre, n_post = table[1], table[2]
    i0, i1 = inputs_of_part(n_pre, part, WEIGHT_PARTS)
    bumped, size = _judge(r, when, n_batch, told, room.heard, rule.bumps)
    if layer == 0 and part == 0:
        told.chosen[when.number + 1, r], told.sizes[when.number + 1, r] = bumped, size
    if bumped < 0 or not rule.bumps.replaces_step:
        _descend(r, i0, i1, like, table, constants[layer], update, rule, n_replica, n_batch, rates, space)
    if wakes is not None and part == 0:
        count(r, layer, room, wakes, like)
    weights = cube(update[WEIGHTS], like, n_replica, n_pre, n_post)[r, i0:i1]
    if bumped == layer:
        t_out = cube(room.heard[layer, 1], like, n_replica, n_batch, n_post)[r]
        _bump(weights, t_out, size, rule.bumps.targeted)
    most = like.dtype.type(rule.most_weight[layer])
    if most < math.inf:
        for i in range(i1 - i0):
            for j in range(n_post):
                weights[i, j] = min(max(weights[i, j], -most), most)
    _copy(r, part, i0, i1, weights, like, table, update, n_replica)


@njit(error_model="numpy")
def _space(tables, like):
    """Room for the gradient of the largest piece of the weights."""
    largest = 0
    for table in tables:
        for part in range(WEIGHT_PARTS):
            i0, i1 = inputs_of_part(table[1], part, WEIGHT_PARTS)
            largest = max(largest, (i1 - i0) * table[2])
    return np.empty(largest, like.dtype)


@njit(error_model="numpy", process="first")
def _draw(r, b0, b1, when, chip, tables, n_batch, like):
    """What a chip draws for samples b0 to b1: each neuron's threshold and each spike's delay; see `kernels.Trial`."""
    n_replica = len(chip.seeds)
    for layer in range(len(tables)):
        n_post, at_lift, at_delay = tables[layer, 2], tables[layer, 12], tables[layer, 13]
        thresholds, delays = chip.layers[layer, THRESHOLDS], chip.layers[layer, DELAYS]
        base = cube(chip.layers[layer, BASE], like, 1, n_replica, n_post)[0, r]
        factor = cube(chip.layers[layer, FACTOR], like, 1, n_replica, n_post)[0, r]
        lift = cube(at_lift, like, n_replica, n_batch, n_post)[r]
        delay = cube(at_delay, like, n_replica, n_batch, n_post)[r]
        n_block, seed, std, epoch, batch = (
            (n_post + 3) // 4,
            chip.seeds[r],
            chip.jitter,
            when.epoch,
            when.number,
        )
        drawn = np.empty((4, n_block), np.uint32), np.empty((4, n_block), np.float32)
        words, numbers = bare(drawn[0]), bare(drawn[1])
        for b in range(b0, b1):
            lift[b] = 0.0
            if thresholds >= 0:
                one = like.dtype.type(1.0)
                jitter_row(lift[b], n_post, one, False, seed, thresholds, b, epoch, batch, words, numbers)
            for j in range(n_post):
                lift[b, j] = lift[b, j] * factor[j] + base[j]
            delay[b] = 0.0
            if delays >= 0:
                jitter_row(delay[b], n_post, std, False, seed, delays, b, epoch, batch, words, numbers)
        keep(drawn)


@njit(error_model="numpy", process="second")
def _observe(r, b0, b1, chip, tables, constants, n_batch, like):
    """The membranes' slopes that the gradient needs, of samples b0 to b1 whose spikes a chip has given."""
    n_replica, width = len(chip.seeds), VECTOR_BYTES // like.itemsize
    for layer in range(len(tables)):
        n_received, n_pre, n_post, mode = tables[layer, :4]
        slope = cube(tables[layer, 7], like, n_replica, n_batch, n_post)
        if chip.layers[layer, NOMINAL] != 0:
            n_lanes = (n_post + width - 1) // width * width
            slopes_of_samples(
                r * n_batch + b0, r * n_batch + b1, like,
                cube(tables[layer, 5], like, n_received, n_batch, n_pre),
                cube(chip.layers[layer, NOMINAL], like, n_replica, n_pre, n_lanes),
                cube(tables[layer, 6], like, n_replica, n_batch, n_post),
                True, mode, constants[layer], slope,
            )  # fmt: skip
        elif chip.layers[layer, SPAN] != 0:
            span = cube(chip.layers[layer, SPAN], like, 1, n_replica, n_post)[0, r]
            capacitance = cube(chip.layers[layer, CAPACITANCE], like, 1, n_replica, n_post)[0, r]
            for b in range(b0, b1):
                for j in range(n_post):
                    slope[r, b, j] = (slope[r, b, j] * span[j]) * capacitance[j]


@njit(error_model="numpy")
def _vectors_of(room, chip, like):
    """Of each layer the address of the weights that the gradient is of, in whole vectors, and how many columns those are."""
    width = VECTOR_BYTES // like.itemsize
    found = np.empty((len(room.backward), 2), np.int64)
    for layer in range(len(found)):
        found[layer, 0] = room.forward[layer, 8] if chip is None else chip.layers[layer, NOMINAL]
        found[layer, 1] = (room.backward[layer, 2] + width - 1) // width * width
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def step_job(
    control,
    is_caller,
    when,
    data,
    room,
    told,
    shift,
    warp,
    noise,
    bias,
    constants,
    constants_and_peaks,
    updates,
    rates,
    rule,
    chip,
    wakes,
    samples_per_task,
):
    """Samples, then weights; see `training.Stack.step` and the records of `records`.

    Args:
        warp: None, or `records.Warp`, instead of shifts.
        bias: bias times of all layers but the first, one after the other.
        constants, constants_and_peaks: of each layer, of the neurons that answer and of those of the gradient.
        updates: of each layer addresses, see `records.WEIGHTS`;  rates: (n_replica, n) of the optimiser.
        chip: None, or `records.Drawn`. Each is compiled for itself: an ideal network pays nothing.
        wakes: None, or `records.Wakes`; likewise.
    """
    enter(control, is_caller)
    t_in = room.t_in
    n_replica, n_batch, _ = t_in.shape
    n_block = (noise.n_jittered + 3) // 4
    drawn = np.empty((4, n_block), np.uint32), np.empty((4, n_block), np.float32)
    words, numbers = bare(drawn[0]), bare(drawn[1])
    space = _space(room.backward, t_in)
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    n_sample_pieces = n_replica * n_chunks
    n_gathered = n_sample_pieces + n_group_pieces(room.backward, n_replica)
    n_pieces = n_gathered + len(room.backward) * n_replica * WEIGHT_PARTS
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        if piece < n_sample_pieces:
            r, b0 = piece // n_chunks, piece % n_chunks * samples_per_task
            b1 = min(b0 + samples_per_task, n_batch)
            _present(r, b0, b1, when, data, shift, warp, noise, room, words, numbers)
            if chip is None:
                forward_piece(
                    r, b0, b1, 0, 1, t_in, bias, room.forward, constants, None, n_replica, n_batch
                )  # fmt: skip
            else:
                for b in range(b0, b1):
                    for i in range(t_in.shape[2]):
                        t_in[r, b, i] = t_in[r, b, i] if t_in[r, b, i] <= chip.end else math.inf
                _draw(r, b0, b1, when, chip, room.forward, n_batch, t_in)
                forward_piece(
                    r, b0, b1, 0, 1, t_in, bias, room.forward, constants, chip.trials, n_replica, n_batch
                )  # fmt: skip
                if wakes is not None:
                    listen(r, b0, b1, room, t_in)
                _observe(r, b0, b1, chip, room.backward, constants_and_peaks, n_batch, t_in)
            if wakes is not None:
                if chip is None:
                    listen(r, b0, b1, room, t_in)
                wake(r, b0, b1, when, data, room, _vectors_of(room, chip, t_in), wakes, t_in)
            _score(r, b0, b1, when, data, told, room, constants_and_peaks, rule)
        else:
            # A weight's gradient is a sum over all samples; nothing is learnt from half of them.
            if not wait_for(control, n_sample_pieces if piece < n_gathered else n_gathered):
                break
            if piece < n_gathered:
                groups_piece(piece - n_sample_pieces, t_in, room.backward[0], n_replica, n_batch)
                finish(control)
                continue
            _learn(
                piece - n_gathered, when, told, room, constants_and_peaks, updates, rates, rule, wakes, space
            )  # fmt: skip
        finish(control)
    keep(drawn)
    return leave(control, is_caller, n_pieces)
