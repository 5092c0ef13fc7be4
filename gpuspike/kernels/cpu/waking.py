"""Silent neurons in a training step: which are pulled to their thresholds, and from which peaks (Numba).

See `gpuspike.training.waking` for the rule, and `gpuspike.kernels.cpu.backward` for what becomes of it.
"""

from __future__ import annotations

import math

import numpy as np

from gpuspike.kernels.cpu.arrays import cube
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.peaks import highest, told_events


@njit(error_model="numpy")
def listen(r, b0, b1, room, like):
    """Copies the spikes of samples b0 to b1, as they are heard, to where the gradient looks for them."""
    n_replica, n_batch, _ = like.shape
    for layer in range(len(room.heard)):
        n_post, at_t_out = room.heard[layer]
        t_out = cube(at_t_out, like, n_replica, n_batch, n_post)[r]
        seen = cube(room.backward[layer, 6], like, n_replica, n_batch, n_post)[r]
        for b in range(b0, b1):
            for j in range(n_post):
                seen[b, j] = t_out[b, j]


@njit(error_model="numpy")
def _awake(t_cross, end):
    return t_cross < math.inf and t_cross <= end


@njit(error_model="numpy", process="second")
def wake(r, b0, b1, when, data, room, weights, wakes, like):
    """Of samples b0 to b1, gives pulled neurons their peaks as spike times and a slope that is negative.

    Args:
        weights: of each layer the address of (n_replica, n_pre, whole vectors), and how many columns these are.
    """
    n_replica, n_batch, _ = like.shape
    labels, samples = data.labels, data.order[r]
    for layer in range(len(room.heard)):
        n_received, n_pre, n_post = room.backward[layer, :3]
        r_in, is_last = r if n_received > 1 else 0, layer + 1 == len(room.heard)
        t_in = cube(room.backward[layer, 5], like, n_received, n_batch, n_pre)[r_in]
        order = cube(room.backward[layer, 15], np.empty(0, np.int64), n_received, n_batch, n_pre)[r_in]
        seen = cube(room.backward[layer, 6], like, n_replica, n_batch, n_post)[r]
        crossed = cube(room.forward[layer, 9], like, n_replica, n_batch, n_post)[r]
        slope = cube(room.backward[layer, 7], like, n_replica, n_batch, n_post)[r]
        w = cube(weights[layer, 0], like, n_replica, n_pre, weights[layer, 1])[r]
        share = cube(wakes.share[layer], np.empty(0), 1, n_replica, n_post)[0, r]
        span, slow, fast, rate, peak = wakes.neurons[layer]
        limit, events = wakes.limits[layer], np.empty((4, n_pre))
        for b in range(b0, b1):
            known = -1
            for j in range(n_post):
                if seen[b, j] < math.inf or _awake(crossed[b, j], wakes.end):
                    continue
                over = 1.0
                if is_last:
                    if j != labels[samples[when.first + b]]:
                        continue
                else:
                    if not share[j] > limit:
                        continue
                    over = (share[j] - limit) / (1.0 - limit)
                if known < 0:
                    known = told_events(t_in[b], order[b], slow, rate, events)
                at = like.dtype.type(highest(events, order[b], known, w, j, slow, fast, rate, peak))
                if at < math.inf:
                    seen[b, j] = at
                    slope[b, j] = -like.dtype.type(n_batch * span / (wakes.strength * over))


@njit(error_model="numpy")
def count(r, layer, room, wakes, like):
    """Remembers which share of the batch each neuron of a layer was silent for."""
    n_replica, n_batch, _ = like.shape
    n_post, at_t_out = room.heard[layer]
    crossed = cube(room.forward[layer, 9], like, n_replica, n_batch, n_post)[r]
    t_out = cube(at_t_out, like, n_replica, n_batch, n_post)[r]
    share = cube(wakes.share[layer], np.empty(0), 1, n_replica, n_post)[0, r]
    for j in range(n_post):
        silent = 0
        for b in range(n_batch):
            silent += 1 if t_out[b, j] == math.inf and not _awake(crossed[b, j], wakes.end) else 0
        share[j] = silent / n_batch
