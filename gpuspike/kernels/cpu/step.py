"""A whole training step on the CPU as one compiled job (Numba).

First a few samples at a time go all the way: taken from the data set, jittered, sorted, forward, loss and back to
the factors of their gradients. Then, after all of them, a few rows of weights at a time: their gradient, Adam, bumps.
Nothing in between asks Python, no thread waits but once, and what a piece of work has written it reads again from its
cache. An emulated chip draws its trials there too. The pieces are those of `forward`, `loss`, `slopes`,
`backward` and `normals`: the numbers are theirs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuspike.kernels.cpu.arrays import cube
from gpuspike.kernels.cpu.backward import WEIGHT_PARTS, backward_piece, weights_of_piece, weights_piece
from gpuspike.kernels.cpu.forward import forward_piece
from gpuspike.kernels.cpu.loss import cross_entropy_row
from gpuspike.kernels.cpu.normals import adam_run, jitter_row
from gpuspike.kernels.cpu.products import inputs_of_part
from gpuspike.kernels.cpu.simd import VECTOR_BYTES
from gpuspike.kernels.cpu.slopes import slopes_of_samples
from gpuspike.kernels.cpu.team import enter, finish, leave, take, wait_for


@njit(error_model="numpy")
def _present(r, b, sample, source, known, noise, epoch, batch, times, order, words, numbers):
    """Sample b of a batch of replica r as the first layer gets it; it stands there already if `source` is empty."""
    n_jittered, std, seeds, first_block = noise
    if source.shape[0] > 0:
        for i in range(times.size):
            times[i] = source[sample, i]
    if known.shape[0] > 0:
        for i in range(times.size):
            order[i] = known[sample, i]
    if std > 0.0:
        jitter_row(times, n_jittered, std, True, seeds[r], first_block, b, epoch, batch, words, numbers)


@njit(error_model="numpy")
def _score(r, b0, b1, when, data, told, heard, t_out_grad, tables, constants, rule):
    """Samples b0 to b1 of replica r, their layers' spikes given: who is silent, the loss, and its gradient's factors."""
    _, first, _ = when
    _, _, epoch_order, labels = data
    losses, correct, silent, _, _ = told
    (unit, late, alpha, penalty), limit = rule[:2]
    n_replica, n_batch, n_class = t_out_grad.shape
    for layer in range(len(heard)):
        n_post, at_t_out = heard[layer]
        t_out = cube(at_t_out, t_out_grad, n_replica, n_batch, n_post)[r]
        for b in range(b0, b1):
            count = np.int32(0)
            for t in t_out[b]:
                count += np.int32(t == math.inf)
            silent[layer, r, first + b] = count
    t_out = cube(heard[len(heard) - 1, 1], t_out_grad, n_replica, n_batch, n_class)[r]
    for b in range(b0, b1):
        label, answer = labels[epoch_order[r, first + b]], np.argmin(t_out[b])
        correct[r, first + b] = answer == label and t_out[b, answer] < math.inf
        losses[r, first + b] = cross_entropy_row(
            t_out[b], label, n_batch, unit, late, alpha, penalty, t_out_grad[r, b]
        )
    everybody = np.ones(n_replica, np.bool_)
    backward_piece(
        r * n_batch + b0, r * n_batch + b1, t_out_grad, tables, constants, everybody, limit, n_batch
    )  # fmt: skip


@njit(error_model="numpy")
def _judge(r, when, n_batch, told, heard, rule):
    """The first layer of replica r that is silent too often, -1 for none, and its bump; see `gpuspike.training.bumping`."""
    number, first, _ = when
    _, _, silent, chosen, sizes = told
    _, _, max_silent, dead, (_, value, most, exponential, _), _ = rule
    for layer in range(len(heard)):
        total = 0
        for b in range(first, first + n_batch):
            total += silent[layer, r, b]
        # Nobody wakes the dead: counted, they would have a layer bumped for ever.
        if total / (n_batch * heard[layer, 0]) - dead[layer, r] > max_silent[layer]:
            again = exponential and chosen[number, r] == layer
            return layer, min(2.0 * sizes[number, r], most) if again else value
    return -1, value


@njit(error_model="numpy")
def _descend(r, i0, i1, like, table, constants, update, n_replica, n_batch, rates, gains, room):
    """Gradient of, and Adam on, the weights of inputs i0 to i1."""
    n_pre, n_post = table[1], table[2]
    n = (i1 - i0) * n_post
    grad = room[:n]  # which stays in this core's cache
    weights_piece(r, i0, i1, like, table, constants, n_replica, n_batch, grad.reshape(i1 - i0, n_post))
    if update[5] != 0:
        factor = cube(update[5], np.empty(0), n_replica, n_pre, n_post)[r, i0:i1].reshape(n)
        for i in range(n):
            grad[i] = grad[i] * factor[i]
    weights = cube(update[0], like, n_replica, n_pre, n_post)[r, i0:i1]
    mean = cube(update[1], like, n_replica, n_pre, n_post)[r, i0:i1]
    square = cube(update[2], like, n_replica, n_pre, n_post)[r, i0:i1]
    adam_run(
        weights.reshape(n), grad, mean.reshape(n), square.reshape(n), gains[0], gains[1], rates[r, 0], rates[r, 1],
        gains[2],
    )  # fmt: skip


@njit(error_model="numpy")
def _bump(weights, t_out, size, targeted):
    """Adds `size` to the weights onto neurons that were silent for a sample, or onto all."""
    n_post = weights.shape[1]
    bump = np.full(n_post, 0.0 if targeted else size, weights.dtype)
    for b in range(len(t_out) if targeted else 0):
        for j in range(n_post):
            bump[j] = weights.dtype.type(size) if t_out[b, j] == math.inf else bump[j]
    for i in range(len(weights)):
        for j in range(n_post):
            weights[i, j] += bump[j]


@njit(error_model="numpy")
def _copy(r, i0, i1, weights, like, table, update, n_replica):
    """Brings the other layouts of the weights of inputs i0 to i1 up to date, where there are any."""
    n_pre, n_post = table[1], table[2]
    width = VECTOR_BYTES // like.itemsize
    if update[3] != 0:
        n_lanes = (n_post + width - 1) // width * width
        vectors = cube(update[3], like, n_replica, n_pre, n_lanes)[r, i0:i1]
        for i in range(i1 - i0):
            for j in range(n_post):
                vectors[i, j] = weights[i, j]
    if update[4] != 0:
        transposed = cube(update[4], like, n_replica, n_post, n_pre)[r]
        for j in range(n_post):
            for i in range(i1 - i0):
                transposed[j, i0 + i] = weights[i, j]


@njit(error_model="numpy")
def _learn(piece, when, told, heard, like, tables, constants, update_tables, rates, gains, rule, room):
    """One piece of the weights: gradient, Adam, bump, and their range."""
    n_replica, n_batch, _ = like.shape
    layer, r, part = weights_of_piece(piece, n_replica)
    table, update = tables[layer], update_tables[layer]
    n_pre, n_post = table[1], table[2]
    i0, i1 = inputs_of_part(n_pre, part, WEIGHT_PARTS)
    bump_replaces_step, _, _, _, targeted = rule[4]
    bumped, size = _judge(r, when, n_batch, told, heard, rule)
    if layer == 0 and part == 0:
        told[3][when[0] + 1, r], told[4][when[0] + 1, r] = bumped, size
    if bumped < 0 or not bump_replaces_step:
        _descend(r, i0, i1, like, table, constants[layer], update, n_replica, n_batch, rates, gains, room)
    weights = cube(update[0], like, n_replica, n_pre, n_post)[r, i0:i1]
    if bumped == layer:
        _bump(weights, cube(heard[layer, 1], like, n_replica, n_batch, n_post)[r], size, targeted)
    most = like.dtype.type(rule[5][layer])
    if most < math.inf:
        for i in range(i1 - i0):
            for j in range(n_post):
                weights[i, j] = min(max(weights[i, j], -most), most)
    _copy(r, i0, i1, weights, like, table, update, n_replica)


@njit(error_model="numpy")
def _room(tables, like):
    """Room for the gradient of the largest piece of the weights."""
    largest = 0
    for table in tables:
        for part in range(WEIGHT_PARTS):
            i0, i1 = inputs_of_part(table[1], part, WEIGHT_PARTS)
            largest = max(largest, (i1 - i0) * table[2])
    return np.empty(largest, like.dtype)


@njit(error_model="numpy")
def _draw(r, b0, b1, when, chip, tables, n_batch, like):
    """What a chip draws for samples b0 to b1: each neuron's threshold and each spike's delay; see `kernels.Trial`."""
    number, _, epoch = when
    _, seeds, places, std, _ = chip
    n_replica = len(seeds)
    for layer in range(len(tables)):
        n_post, at_lift, at_delay = tables[layer, 2], tables[layer, 12], tables[layer, 13]
        at_base, at_factor, thresholds, delays = places[layer, :4]
        base = cube(at_base, like, 1, n_replica, n_post)[0, r]
        factor = cube(at_factor, like, 1, n_replica, n_post)[0, r]
        lift = cube(at_lift, like, n_replica, n_batch, n_post)[r]
        delay = cube(at_delay, like, n_replica, n_batch, n_post)[r]
        n_block = (n_post + 3) // 4
        words, numbers = np.empty((4, n_block), np.uint32), np.empty((4, n_block), np.float32)
        for b in range(b0, b1):
            lift[b] = 0.0
            if thresholds >= 0:
                one = like.dtype.type(1.0)
                jitter_row(
                    lift[b], n_post, one, False, seeds[r], thresholds, b, epoch, number, words, numbers
                )
            for j in range(n_post):
                lift[b, j] = lift[b, j] * factor[j] + base[j]
            delay[b] = 0.0
            if delays >= 0:
                jitter_row(delay[b], n_post, std, False, seeds[r], delays, b, epoch, number, words, numbers)


@njit(error_model="numpy")
def _observe(r, b0, b1, chip, tables, constants, n_batch, like):
    """The membranes' slopes that the gradient needs, of samples b0 to b1 whose spikes a chip has given."""
    _, seeds, places, _, _ = chip
    n_replica, width = len(seeds), VECTOR_BYTES // like.itemsize
    for layer in range(len(tables)):
        n_received, n_pre, n_post, mode = tables[layer, :4]
        at_vectors, at_span, at_capacitance = places[layer, 4:7]
        slope = cube(tables[layer, 7], like, n_replica, n_batch, n_post)
        if at_vectors != 0:
            slopes_of_samples(
                r * n_batch + b0, r * n_batch + b1, like,
                cube(tables[layer, 5], like, n_received, n_batch, n_pre),
                cube(at_vectors, like, n_replica, n_pre, (n_post + width - 1) // width * width),
                cube(tables[layer, 6], like, n_replica, n_batch, n_post),
                True, mode, constants[layer], slope,
            )  # fmt: skip
        elif at_span != 0:
            span = cube(at_span, like, 1, n_replica, n_post)[0, r]
            capacitance = cube(at_capacitance, like, 1, n_replica, n_post)[0, r]
            for b in range(b0, b1):
                for j in range(n_post):
                    slope[r, b, j] = (slope[r, b, j] * span[j]) * capacitance[j]


@njit(cache=True, nogil=True, error_model="numpy")
def step_job(
    control,
    is_caller,
    when,
    data,
    room,
    told,
    noise,
    bias,
    constants,
    constants_and_peaks,
    update_tables,
    rates,
    gains,
    rule,
    chip,
    samples_per_task,
):
    """Samples, then weights; see `training.Stack.step`.

    Args:
        when: number of the batch, its first sample in the epoch's order, and the epoch.
        data: source, known, order, labels of `training.Epoch`; an empty source where the batch stands in place.
        room: t_in, order, t_out_grad, heard, backward and forward tables of `training.Batch`.
        told: losses, correct, silent, chosen, sizes of `training.Epoch`.
        noise: `training.Noise`;  rule: `training.Rule` without Adam's numbers.
        rates: (n_replica, 2) Adam's rate and correction;  gains: what it adds of the new, and epsilon.
        chip: None, or the arrays of `training.Chip`. Each is compiled for itself: an ideal network pays nothing.
    """
    enter(control, is_caller)
    number, first, epoch = when
    source, known, epoch_order, _ = data
    t_in, order, t_out_grad, heard, tables, forward_tables = room
    n_replica, n_batch, _ = t_in.shape
    n_block = (noise[0] + 3) // 4
    words, numbers = np.empty((4, n_block), np.uint32), np.empty((4, n_block), np.float32)
    space = _room(tables, t_in)
    n_chunks = (n_batch + samples_per_task - 1) // samples_per_task
    n_sample_pieces = n_replica * n_chunks
    n_pieces = n_sample_pieces + len(tables) * n_replica * WEIGHT_PARTS
    while True:
        piece = take(control)
        if piece >= n_pieces:
            break
        if piece < n_sample_pieces:
            r, b0 = piece // n_chunks, piece % n_chunks * samples_per_task
            b1 = min(b0 + samples_per_task, n_batch)
            for b in range(b0, b1):
                sample = epoch_order[r, first + b]
                _present(
                    r, b, sample, source, known, noise, epoch, number, t_in[r, b], order[r, b], words, numbers
                )  # fmt: skip
            if chip is None:
                forward_piece(
                    r, b0, b1, 0, 1, t_in, bias, forward_tables, constants, None, n_replica, n_batch
                )
            else:
                for b in range(b0, b1):
                    for i in range(t_in.shape[2]):
                        t_in[r, b, i] = t_in[r, b, i] if t_in[r, b, i] <= chip[4] else math.inf
                _draw(r, b0, b1, when, chip, forward_tables, n_batch, t_in)
                forward_piece(
                    r, b0, b1, 0, 1, t_in, bias, forward_tables, constants, chip[0], n_replica, n_batch
                )  # fmt: skip
                _observe(r, b0, b1, chip, tables, constants_and_peaks, n_batch, t_in)
            _score(r, b0, b1, when, data, told, heard, t_out_grad, tables, constants_and_peaks, rule)
        else:
            if not wait_for(control, n_sample_pieces):  # a weight's gradient is a sum over all samples
                break  # nothing is learnt from half of them
            _learn(
                piece - n_sample_pieces, when, told, heard, t_out_grad, tables, constants_and_peaks, update_tables,
                rates, gains, rule, space,
            )  # fmt: skip
        finish(control)
    return leave(control, is_caller, n_pieces)
