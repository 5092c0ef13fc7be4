"""Random problems of the kinds that have misled solvers, for fuzz.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import reference
from gpuspike.neuron import LIF

Array = NDArray[Any]


@dataclass(frozen=True)
class Problems:
    """A layer's neurons and samples: (n_batch, n_pre) times, (n_pre, n_post) weights, and delays or None."""

    t_in: Array
    weights: Array
    neuron: LIF
    delays: Array | None = None

    def one(self, b: int, j: int) -> Problems:
        """One neuron of one sample."""
        times = self.t_in[b] if self.delays is None else self.t_in[b] + self.delays[:, j]
        return Problems(times[None], self.weights[:, j, None], self.neuron.of(0, j))

    def arriving(self) -> Array:
        """(n_batch, n_pre, n_post or 1) times at which inputs come, of the dtype."""
        return self.t_in[:, :, None] + (0 if self.delays is None else self.delays)

    def cast(self, dtype: Any) -> Problems:
        """The same in another dtype."""
        delays = None if self.delays is None else self.delays.astype(dtype)
        return replace(self, t_in=self.t_in.astype(dtype), weights=self.weights.astype(dtype), delays=delays)


# ---- families: data alone


def ratio(rng: np.random.Generator) -> tuple[float, float]:
    """A pair of time constants of any regime."""
    kind = rng.integers(8)
    tau = float(10.0 ** rng.uniform(-2, 2))
    other = [tau, 2.0 * tau, np.inf, tau * 10.0 ** rng.uniform(-3, 3), tau / 2.0, tau * 1.5]
    close = [tau * (1.0 + 10.0 ** rng.uniform(-15, -2)), 2.0 * tau * (1.0 - 10.0 ** rng.uniform(-15, -2))]
    return float([*other, *close][kind]), tau


def plain(rng: np.random.Generator) -> Problems:
    """Times and weights of about the size that matters."""
    mem, syn = ratio(rng)
    n_pre, n_batch = rng.integers(1, 30), rng.integers(4, 20)
    # Mostly many neurons of few samples: the oracle takes them together.
    n_post = rng.integers(1, 40) if rng.random() < 0.3 else rng.integers(64, 400)
    neuron = LIF(mem, syn)
    scale = neuron.kernel_peak[1]
    times = rng.uniform(0.0, rng.choice([0.5, 3.0, 20.0]) * neuron.tau_fast, (n_batch, n_pre))
    mean, std = rng.uniform(0.0, 4.0), rng.uniform(0.1, 3.0)
    weights = rng.normal(mean / n_pre, std / np.sqrt(n_pre), (n_pre, n_post)) / scale
    return Problems(times, weights, neuron)


def ties(rng: np.random.Generator) -> Problems:
    """Few different times; all alike sometimes."""
    base = plain(rng)
    values = np.sort(rng.choice(base.t_in.ravel(), rng.integers(1, 5)))
    return replace(base, t_in=rng.choice(values, base.t_in.shape))


def silence(rng: np.random.Generator) -> Problems:
    """Inputs without a spike, weights of 0 and below."""
    base = plain(rng)
    times = np.where(rng.random(base.t_in.shape) < rng.uniform(), np.inf, base.t_in)
    weights = np.where(rng.random(base.weights.shape) < 0.2, 0.0, base.weights - rng.uniform(0, 1))
    return replace(base, t_in=times, weights=weights)


def tangency(rng: np.random.Generator) -> Problems:
    """The last input's peak a little above the threshold, or below."""
    base = plain(rng)
    times, neuron = np.sort(base.t_in, axis=1), base.neuron
    times[:] = times[0]
    age = times[0, -1] - times[0]
    start, current = neuron.kernel(age) @ base.weights, np.exp(-age / neuron.tau_syn) @ base.weights
    peak = reference._peak_delay(start, current, neuron)
    if np.isinf(neuron.tau_mem):
        top = start + current * neuron.tau_syn
    else:
        top = reference._potential(np.maximum(peak, 0.0), start, current, neuron)
    margin = rng.choice([-1.0, 1.0], top.shape) * 10.0 ** rng.uniform(-16, -2, top.shape)
    factor = np.where((top > 0.05) & (current > 0.0), (1.0 + margin) / np.where(top > 0.05, top, 1.0), 1.0)
    return replace(base, t_in=times, weights=base.weights * factor)


def ratios(rng: np.random.Generator) -> Problems:
    """Time constants many orders apart, or nearly equal."""
    base = plain(rng)
    tau = base.neuron.tau_fast
    far = tau * 10.0 ** rng.uniform(2, 12)
    near = tau * (1.0 + 10.0 ** rng.uniform(-16, -6))
    pair = [far if rng.random() < 0.7 else near, tau]
    neuron = LIF(*(pair if rng.random() < 0.5 else pair[::-1]))
    scale = base.neuron.kernel_peak[1] / neuron.kernel_peak[1]
    return replace(base, neuron=neuron, weights=base.weights * scale)


def own(rng: np.random.Generator) -> Problems:
    """Constants of each neuron."""
    base = plain(rng)
    n = base.weights.shape[1]
    shared = rng.random() < 0.3
    pairs = (
        np.array([ratio(rng) for _ in range(n)]).T if not shared else np.array([[base.neuron.tau_mem], [1.0]])
    )
    if shared:
        pairs = np.array([np.full(n, base.neuron.tau_mem), np.full(n, base.neuron.tau_syn)])
    leak, span, c = rng.normal(0, 1, n), 10.0 ** rng.uniform(-2, 2, n), 10.0 ** rng.uniform(-2, 2, n)
    neuron = LIF(pairs[0], pairs[1], leak + span, leak, c)
    peaks = np.array([neuron.of(0, j).kernel_peak[1] for j in range(n)])
    scale = base.neuron.kernel_peak[1] * np.asarray(neuron.span) / peaks
    return replace(base, neuron=neuron, weights=base.weights * scale)


def thresholds(rng: np.random.Generator) -> Problems:
    """Thresholds and capacitances of any size, leaks far from 0."""
    base = plain(rng)
    span, c = float(10.0 ** rng.uniform(-9, 9)), float(10.0 ** rng.uniform(-9, 9))
    leak = float(rng.choice([0.0, rng.normal() * 1e3 * span, -span]))
    neuron = LIF(base.neuron.tau_mem, base.neuron.tau_syn, leak + span, leak, c)
    return replace(base, neuron=neuron, weights=base.weights * float(neuron.drive))


def delayed(rng: np.random.Generator) -> Problems:
    """Delays of synapses."""
    base = plain(rng)
    base = replace(base, weights=base.weights[:, :30], t_in=rng.permuted(np.tile(base.t_in, (4, 1)), axis=0))
    delays = rng.choice([0.0, 1.0], base.weights.shape) * rng.uniform(0, 2, base.weights.shape)
    return replace(base, delays=delays * base.neuron.tau_fast)


def sizes(rng: np.random.Generator) -> Problems:
    """Weights many orders apart."""
    base = plain(rng)
    spread = rng.uniform(0, 12)
    return replace(base, weights=base.weights * 10.0 ** rng.uniform(-spread, spread, base.weights.shape))


def windows(rng: np.random.Generator) -> Problems:
    """Long windows, late beginnings, gaps of a few roundings."""
    base = plain(rng)
    base = replace(base, weights=base.weights * float(rng.choice([1.0, 4.0, len(base.weights)])))
    tau = base.neuron.tau_fast
    times = base.t_in * 10.0 ** rng.uniform(0, 4)
    if rng.random() < 0.5:
        times = base.t_in + tau * rng.normal() * 10.0 ** rng.uniform(0, 6)
    if rng.random() < 0.3:
        times = times[:, :1] * (1.0 + rng.integers(0, 4, times.shape) * float(np.finfo(np.float32).eps))
    return replace(base, t_in=times)


def wide(rng: np.random.Generator) -> Problems:
    """Layers of many inputs, whose simultaneous ones are taken together."""
    base = plain(rng)
    n_pre, n_post, neuron = int(rng.integers(32, 160)), base.weights.shape[1], base.neuron
    times = rng.uniform(0.0, rng.choice([0.5, 3.0]) * neuron.tau_fast, (8, n_pre))
    values = np.sort(rng.choice(times.ravel(), rng.integers(1, 20)))
    if rng.random() < 0.7:
        times = rng.choice(values, times.shape)
        times = np.where(rng.random(times.shape) < rng.uniform(0, 0.9), values[-1], times)
    weights = rng.normal(rng.uniform(0, 4) / n_pre, 2.0 / np.sqrt(n_pre), (n_pre, n_post))
    return Problems(times, weights / neuron.kernel_peak[1], neuron)


FAMILIES: dict[str, Callable[[np.random.Generator], Problems]] = {
    f.__name__: f
    for f in (plain, ties, silence, tangency, ratios, own, thresholds, delayed, sizes, windows, wide)
}
