"""Gradients of random problems against the oracle's, for fuzz.py.

All are given the same spike times, the oracle's in the dtype. What a backend may err by is what spike times
err by, docs/mathematics.md: the sums that k, k' and u' are taken from are rounded, and so are times in units
of tau_fast. Each share of a gradient, g k/u' and g w k'/u', may be off by what these come to; one whose slope
may as well be none, by anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzz_problems import Array, Problems

import gpuspike as gs
from gpuspike.kernels import load, reference
from gpuspike.kernels.constants import reach

ROUNDINGS = 16.0
"""Of the dtype's unit, that a sum may be off by."""
LIKE_TIME = 4.0
"""Of the dtype's unit, that a time may be off by itself."""
GROUPED = 32
"""Inputs from which on the gradients of simultaneous ones are differences of those of the sample's groups."""

TINY = 1024.0
"""Of the dtype's smallest normal numbers: what is lost below them."""

FLOOR = 2.0**14
"""Of the dtype's smallest normal number: kernels take no exponential below e^-708."""

Gradients = dict[str, Array]
"""weights (n_pre, n_post), times (n_batch, n_pre); delays (n_pre, n_post) of single neurons."""


def layers(problems: Problems, t_out: Array, grad: Array) -> Gradients:
    """Of the kernels for layers: the CPU's, or a device's where `problems` is there."""
    by_time, by_weight = gs.first_spikes_vjp(problems.t_in, problems.weights, problems.neuron, t_out, grad)
    return {"weights": by_weight, "times": by_time}


def neuron_by_neuron(problems: Problems, t_out: Array, grad: Array) -> Gradients:
    """Of the CPU's kernels that sort for each neuron."""
    kernels, active = load("cpu").single, np.ones(1, np.bool_)
    delays = np.zeros_like(problems.weights) if problems.delays is None else problems.delays
    given = problems.t_in[None], problems.weights[None], delays[None], problems.neuron, t_out[None]
    slope = kernels.slopes(*given, at_crossing=False)
    weights, by_delay = kernels.learn(*given, slope, grad[None], active=active, max_weight_grad=np.inf)
    times = kernels.times_grad(*given, slope, grad[None], active=active)
    return {"weights": weights[0], "times": times[0], "delays": by_delay[0]}


@dataclass(frozen=True)
class Expected:
    """The oracle's; how far one may be off by the rounding of its own sum, and by that of all it is of."""

    found: Gradients
    rounding: Gradients
    allowed: Gradients


def expected(problems: Problems, t_out: Array, grad: Array) -> Expected:
    """What is to be found for these spike times (n_batch, n_post), and dL/dt_out, both of the dtype."""
    dtype = problems.t_in.dtype
    arriving, weights, spikes = (a.astype(np.float64) for a in (problems.arriving(), problems.weights, t_out))
    g = np.where(np.isfinite(spikes), grad, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore", under="ignore"):
        plain, doubt = _shares(problems, arriving, weights, spikes, g, dtype)
    rounding = {name: ROUNDINGS * float(np.finfo(dtype).eps) / 2.0 * part for name, part in plain.items()}
    return Expected(_oracle(problems, arriving, weights, spikes, g), rounding, doubt)


def _oracle(problems: Problems, arriving: Array, weights: Array, spikes: Array, g: Array) -> Gradients:
    if problems.delays is None:
        given = arriving[None, :, :, 0], weights[None], problems.neuron, spikes[None], g[None]
        times, by_weight = reference.first_spikes_vjp(*given)
        return {"weights": by_weight[0], "times": times[0]}
    found = {name: np.zeros_like(weights) for name in ("weights", "delays")}
    found["times"] = np.zeros(arriving.shape[:2])
    for j in range(weights.shape[1]):
        given = (
            weights[None, :, j, None],
            problems.neuron.of(0, j),
            spikes[None, :, j, None],
            g[None, :, j, None],
        )
        times, by_weight = reference.first_spikes_vjp(arriving[None, :, :, j], *given)
        found["weights"][:, j], found["delays"][:, j] = by_weight[0, :, 0], times[0].sum(0)
        found["times"] += times[0]
    return found


def _summed(by_weight: Array, by_time: Array) -> Gradients:
    """(n_batch, n_pre, n_post) shares, as the gradients add them."""
    return {"weights": by_weight.sum(0), "times": by_time.sum(2), "delays": by_time.sum(0)}


def _shares(
    problems: Problems, arriving: Array, weights: Array, spikes: Array, g: Array, dtype: Any
) -> tuple[Gradients, Gradients]:
    """Sizes of the shares of each gradient added up, and how far these may be off, added up likewise.

    With K(s) = exp(-s/tau_slow) (1 - exp(-d s))/d: k = K/C, C k' = exp(-s/tau_fast) - K/tau_slow, and so on.
    """
    unit = float(np.finfo(dtype).eps) / 2.0
    size, times = np.abs(weights), np.where(np.isfinite(arriving), arriving, 0.0)
    neuron, n_post = problems.neuron, weights.shape[1]
    table = neuron.table(1, n_post)[:, 0]
    slow, fast, span, c = np.maximum(*table[:2]), np.minimum(*table[:2]), table[2] - table[3], table[4]
    rate = np.where(np.isinf(slow), 1.0 / fast, (np.where(np.isinf(slow), fast, slow) - fast) / slow / fast)
    late = (
        LIKE_TIME
        * unit
        * np.maximum(np.abs(times).max(axis=1), np.where(np.isfinite(spikes), np.abs(spikes), 0))
    )
    late = late[:, None]
    past = np.where(np.isfinite(spikes)[:, None], spikes[:, None] - arriving, -np.inf)
    maybe = np.abs(past) <= late  # in the causal set or not
    causal = (past > 0.0) | maybe
    s = np.where(causal, np.maximum(past, 0.0), 0.0)
    decay = np.where(causal, np.exp(-s / slow), 0.0)
    gone = np.where(causal, np.exp(-s / fast), 0.0)
    most = np.minimum(1.0 / rate, reach(dtype) * fast)
    risen = decay * np.where(rate > 0.0, -np.expm1(-rate * s) / np.where(rate > 0.0, rate, 1.0), s)
    bend = np.abs(gone - risen / slow)
    curve = gone / fast + bend / slow
    # What k and k' are before exponentials cancel, and a shift of time.
    least = FLOOR * float(np.finfo(dtype).tiny) * (1.0 + s / fast) / (ROUNDINGS * unit)
    sums = (np.exp(-np.maximum(s - late, 0.0) / slow) + least) * causal
    off_kernel = ROUNDINGS * unit * sums * most + late * (bend + late * curve)
    off_bend = ROUNDINGS * unit * sums * (1.0 + most / fast) + late * curve + np.where(maybe, np.inf, 0.0)
    if weights.shape[0] >= GROUPED:
        off_kernel = np.broadcast_to(off_kernel.max(axis=1, keepdims=True), off_kernel.shape)
    slope = (weights * np.where(past > 0.0, gone - risen / slow, 0.0)).sum(1) / c
    known = (size * (sums * (ROUNDINGS * unit * (1.0 + most / fast)) + late * curve + maybe)).sum(1) / c
    unsure = known + ROUNDINGS * unit * span / fast + late[:, 0] * np.abs(slope) / fast
    steep, left = slope[:, None], np.maximum(slope - unsure, 0.0)[:, None]
    factor, relative = np.abs(g)[:, None] / c, unsure[:, None] / np.where(steep > 0.0, steep, 1.0)
    plain = np.where(left > 0.0, factor / left, 0.0)

    def doubt(value: Array, off: Array) -> Array:
        """Of factor value/slope; where nothing is to be added or no gradient asked for, none."""
        top = factor * (off + value * relative)
        return np.where(top > 0.0, top / left, 0.0)

    return _summed(plain * risen, plain * size * bend), _summed(
        doubt(risen, off_kernel), doubt(size * bend, np.where(size > 0.0, size * off_bend, 0.0))
    )


def outside(found: Gradients, what: Expected, dtype: Any) -> dict[str, tuple[Array, Array]]:
    """By name: which elements differ by more than the rounding of their sums, and which by more than allowed.

    What leaves the dtype is inf; what is below its numbers may be 0.
    """
    info, told = np.finfo(dtype), {}
    for name, expected_ in what.found.items():
        if name not in found:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            ours, theirs = found[name].astype(np.float64), expected_
            off = np.abs(ours - theirs)
            out = {"plain": what.rounding[name], "all": what.allowed[name] + what.rounding[name]}
            beyond = np.isinf(ours) & (np.abs(theirs) + out["all"] >= float(info.max))
            beyond &= (np.sign(ours) == np.sign(theirs)) | (out["all"] > np.abs(theirs))
            small = float(info.tiny) * TINY
            plain, every = (~(off <= out[k] + small) & ~beyond for k in ("plain", "all"))
        told[name] = plain, every | np.isnan(ours)
    return told
