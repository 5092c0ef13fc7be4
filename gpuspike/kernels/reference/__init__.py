"""The oracle: exact first spikes and their gradients in plain NumPy, clear rather than fast.

It tries every causal set and lets the first valid one win. The state at an input is summed directly
from all inputs before it, so no exponential can overflow, however long the window is. Shapes and
dtypes are checked by the public functions; here every array has its replica and sample axis. SciPy is
imported by what needs it: every backend draws by this package, and would wait a second for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.kernels.limits import check_weights, pulled
from gpuspike.kernels.reference import draws as step
from gpuspike.kernels.reference.arrays import delays, doubles, each, shared
from gpuspike.neuron import LIF, NO_SPIKE

Array = NDArray[np.float64]

jitter, normals, score, descend = step.jitter, step.normals, step.score, step.descend

SLOPE_FLOOR = 16 * float(np.finfo(np.float64).eps)
"""A slope counts as tangential up to this multiple of (threshold - leak)/tau_fast."""


def first_spikes(t_in: ArrayLike, weights: ArrayLike, neuron: LIF) -> Array:
    """First-spike time of every neuron; inf where it stays silent.

    Args:
        t_in: (n_replica, n_batch, n_pre), input spike times in the unit of the time constants;
            inf is no spike.
        weights: (n_replica, n_pre, n_post), synaptic current of one input at its arrival.
        neuron: the parameters, one set for all neurons or one for each.

    Returns:
        (n_replica, n_batch, n_post), in the unit of `t_in`.

    Raises:
        ShapeError: parameters for another number of neurons.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021),
    DOI 10.1038/s42256-021-00388-x: all causal sets, the earliest consistent spike time counts.
    """
    t_in, weights = doubles(t_in, weights)
    check_weights("weights", weights, neuron)
    t_out = np.full((*t_in.shape[:2], weights.shape[2]), NO_SPIKE)
    if not neuron.uniform:
        for r, j, one in each(neuron, weights):
            t_out[r, :, j] = first_spikes(t_in[r, None], weights[r, None, :, j, None], one)[0, :, 0]
        return t_out
    for replica, sample in np.ndindex(*t_in.shape[:2]):
        t = t_in[replica, sample]
        order = np.argsort(t, kind="stable")[: np.count_nonzero(t < NO_SPIKE)]
        if order.size:
            t_out[replica, sample] = _first_spike(t[order], weights[replica][order], neuron)
    return t_out


def slopes(t_in: ArrayLike, weights: ArrayLike, neuron: LIF, t_out: ArrayLike) -> Array:
    """Slope u'(t_out) of the nominal membrane, driven by the causal set t_in < t_out.

    It is exactly 0 where t_out is inf, and where the crossing is tangential: a slope of at most
    SLOPE_FLOOR * (threshold - leak) / tau_fast cannot be told from 0, or points down.

    Args:
        t_in, weights, neuron: as for `first_spikes`.
        t_out: (n_replica, n_batch, n_post), spike times, of this neuron or of a distorted one.

    Returns:
        (n_replica, n_batch, n_post), potential per time.
    """
    t_in, weights, t_out = doubles(t_in, weights, t_out)
    slope = np.zeros(t_out.shape)
    if not neuron.uniform:
        for r, j, one in each(neuron, weights):
            column = weights[r, None, :, j, None]
            slope[r, :, j] = slopes(t_in[r, None], column, one, t_out[r, None, :, j, None])[0, :, 0]
        return slope
    for replica, sample in np.ndindex(*t_out.shape[:2]):
        delay = delays(t_in[replica, sample], t_out[replica, sample])
        slope[replica, sample] = np.sum(weights[replica] * neuron.kernel_slope(delay), axis=0)
    floor = SLOPE_FLOOR * (neuron.threshold - neuron.leak) / neuron.tau_fast
    return np.where(slope > floor, slope, 0.0)


def crossing_slopes(t_in: ArrayLike, weights: ArrayLike, neuron: LIF, t_out: ArrayLike) -> Array:
    """Slope where the membrane that the causal set t_in < t_out makes, at all times, meets the threshold.

    0 where it never does. At the neuron's own spike times the same as `slopes`; at somebody else's, how steep
    the neuron's own spike of that causal set would have been. Arguments and result as for `slopes`.
    """
    t_in, weights, t_out = doubles(t_in, weights, t_out)
    slope = np.zeros(t_out.shape)
    neuron.table(weights.shape[0], weights.shape[2])
    for r, b, j in np.ndindex(t_out.shape):
        one = neuron.of(r, j)
        delay = delays(t_in[r % len(t_in), b], t_out[r, b, j, None])[:, 0]
        causal = delay > 0.0
        potential = float(weights[r, causal, j] @ one.kernel(delay[causal]))
        current = float(weights[r, causal, j] @ np.exp(-delay[causal] / one.tau_syn))
        slope[r, b, j] = _slope_of_crossing(potential, current, one)
    return slope


def _slope_of_crossing(start: float, current: float, neuron: LIF) -> float:
    """Slope of the upward crossing of the membrane that has this state at time 0, at any time; else 0."""
    fast, slow, rate = neuron.tau_fast, neuron.tau_slow, neuron.rate_difference
    level, drive = float(neuron.span), current / float(neuron.capacitance)
    tau_mem, tau_syn = float(neuron.tau_mem), float(neuron.tau_syn)

    def potential(s: float) -> float:
        risen = s if rate == 0.0 else -math.expm1(-rate * s) / rate
        return start * math.exp(-s / tau_mem) + drive * math.exp(-s / slow) * risen

    def slope(s: float) -> float:
        return drive * math.exp(-s / tau_syn) - potential(s) / tau_mem

    from scipy.optimize import brentq

    def root(function: Callable[[float], float], low: float, high: float) -> float:
        return float(brentq(function, low, high, xtol=1e-14))  # type: ignore[arg-type]

    if drive + start * (1.0 / slow - 1.0 / tau_mem) <= 0.0:
        return 0.0  # the membrane has no maximum
    step, far = 0.5 * fast, 600.0 * fast
    peak = 0.0
    while slope(peak) > 0.0 and peak < far:
        peak += step
    while slope(peak) <= 0.0 and peak > -far:
        peak -= step
    if slope(peak) > 0.0 >= slope(peak + step):  # else so long ago that no number holds it
        peak = root(slope, peak, peak + step)
    low = peak - step
    while potential(low) >= level and low > -far:
        low -= step
    if potential(peak) < level or potential(low) >= level:
        return 0.0
    steep = slope(root(lambda s: potential(s) - level, low, peak))
    return steep if steep > SLOPE_FLOOR * level / fast else 0.0


def first_spikes_vjp(
    t_in: ArrayLike,
    weights: ArrayLike,
    neuron: LIF,
    t_out: ArrayLike,
    t_out_grad: ArrayLike,
    max_weight_grad: float = math.inf,
    slope: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Pull a gradient with respect to the spike times back to input times and weights.

        dT/dw_i = -k(T - t_i)/u'(T),    dT/dt_i = w_i k'(T - t_i)/u'(T),    for t_i < T, else 0

    by the implicit function theorem. Silent neurons and tangential crossings give exact zeros.

    Args:
        t_in, weights, neuron, t_out: as for `slopes`.
        t_out_grad: (n_replica, n_batch, n_post), dL/dT; ignored where the neuron is silent.
        max_weight_grad: a (sample, neuron) pair with any |dL/dT dT/dw_i| above this adds nothing
            to the weights' gradient. The input times' gradient is not limited.
        slope: (n_replica, n_batch, n_post), what stands for u'(T), 0 for no gradient; `slopes` of these times
            unless given.

    Returns:
        dL/dt_in (n_replica, n_batch, n_pre) and dL/dweights (n_replica, n_pre, n_post).

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021),
    DOI 10.1038/s42256-021-00388-x, whose closed forms for two ratios are special cases.
    """
    t_in, weights, t_out, t_out_grad = doubles(t_in, weights, t_out, t_out_grad)
    slope = slopes(t_in, weights, neuron, t_out) if slope is None else np.asarray(slope, np.float64)

    def pull(grad: Array, limit: float) -> tuple[Array, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return _pulled(t_in, weights, neuron, t_out, grad, limit, slope)

    found: Any = pulled(pull, t_out_grad, max_weight_grad)
    return found


def _pulled(
    t_in: Array, weights: Array, neuron: LIF, t_out: Array, t_out_grad: Array, limit: float, slope: Array
) -> tuple[Array, Array]:
    """`first_spikes_vjp` as far as float64 holds what it comes by."""
    t_in_grad = np.zeros(t_in.shape)
    weights_grad = np.zeros(weights.shape)
    if not neuron.uniform:
        for r, j, one in each(neuron, weights):
            column, *columns = (a[r, None, :, j, None] for a in (weights, t_out, t_out_grad, slope))
            by_time, by_weight = _pulled(
                t_in[r, None], column, one, columns[0], columns[1], limit, columns[2]
            )
            t_in_grad[r] += by_time[0]
            weights_grad[r, :, j] = by_weight[0, :, 0]
        return t_in_grad, weights_grad
    # A loss may well have no finite gradient at a silent neuron, and 0 * nan would spread.
    heard = (slope > 0) & np.isfinite(t_out)
    factor = np.where(heard, t_out_grad, 0.0) / np.where(heard, slope, 1.0)
    for replica, sample in np.ndindex(*t_out.shape[:2]):
        delay = delays(t_in[replica, sample], t_out[replica, sample])
        scale = factor[replica, sample]
        by_time = weights[replica] * neuron.kernel_slope(delay) * scale
        by_weight = -neuron.kernel(delay) * scale
        explodes = np.abs(by_weight).max(axis=0, initial=0.0) > limit
        t_in_grad[replica, sample] = by_time.sum(axis=1)
        weights_grad[replica] += np.where(explodes, 0.0, by_weight)
    return t_in_grad, weights_grad


def membrane(times: ArrayLike, t_in: ArrayLike, weights: ArrayLike, neuron: LIF) -> Array:
    """Potential of one sample's neurons at the given times, as if none of them ever spiked.

    Args:
        times: (n_times,), in the unit of the time constants.
        t_in: (n_pre,), input spike times; inf is no spike.
        weights: (n_pre, n_post).
        neuron: parameters of all neurons, or (n_post,) of each.

    Returns:
        (n_times, n_post), including the leak.
    """
    times, t_in, weights = doubles(times, t_in, weights)
    if not neuron.uniform:
        columns = [
            membrane(times, t_in, weights[:, j, None], one) for _, j, one in each(neuron, weights[None])
        ]
        return np.concatenate([np.empty((times.size, 0)), *columns], axis=1)
    return neuron.leak + neuron.kernel(times[:, None] - t_in[None, :]) @ weights


def spike_order(t_in: NDArray[Any]) -> NDArray[np.int64]:
    """What sorts each sample's spikes by time; see `kernels.Kernels`."""
    return np.argsort(t_in, axis=-1, kind="stable")


def forward(
    t_in: NDArray[Any],
    order: NDArray[np.int64],
    weights: NDArray[Any],
    neuron: LIF,
    lift: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The oracle as the kernels of one layer (it sorts for itself); see `layerwise.LayerKernels`."""
    t_in = shared(t_in, len(weights))
    if lift is not None:
        return _lifted(t_in, weights, neuron, lift)
    t_out = first_spikes(t_in, weights, neuron)
    slope = slopes(t_in, weights, neuron, t_out)
    return t_out.astype(weights.dtype), slope.astype(weights.dtype)


def _lifted(
    t_in: NDArray[Any], weights: NDArray[Any], neuron: LIF, lift: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """`forward` sample by sample, each a layer of neurons with that sample's thresholds."""
    t_out, slope = np.empty_like(lift), np.empty_like(lift)
    for b in range(lift.shape[1]):
        factor = np.where(lift[:, b] > 0.0, lift[:, b], 1.0)
        raised = replace(neuron, threshold=neuron.leak + np.asarray(neuron.span) * factor)
        t_out[:, b : b + 1], slope[:, b : b + 1] = forward(
            t_in[:, b : b + 1], np.empty(0, np.int64), weights, raised
        )
    on = lift <= 0.0
    return np.where(on, 0.0, t_out).astype(weights.dtype), np.where(on, 0.0, slope).astype(weights.dtype)


def backward(
    t_in: NDArray[Any],
    weights: NDArray[Any],
    neuron: LIF,
    t_out: NDArray[Any],
    slope: NDArray[Any],
    t_out_grad: NDArray[Any],
    *,
    order: NDArray[np.int64] | None = None,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """The oracle as the kernels of one layer, which needs no order; see `layerwise.LayerKernels`."""
    t_in, wanted = shared(t_in, len(weights)), np.where(active[:, None, None], t_out_grad, 0.0)
    t_in_grad, weights_grad = first_spikes_vjp(t_in, weights, neuron, t_out, wanted, max_weight_grad, slope)
    dtype = weights.dtype
    return (t_in_grad.astype(dtype) if need_t_in_grad else None), weights_grad.astype(dtype)


def _first_spike(t: Array, weights: Array, neuron: LIF) -> Array:
    """(n_post,): earliest valid crossing, for finite, sorted t (n,) and its weights (n, n_post)."""
    age = t[:, None] - t[None, :]
    arrived = np.tri(t.size, dtype=bool)
    decay = np.where(arrived, np.exp(-np.maximum(age, 0.0) / neuron.tau_syn), 0.0)
    crossing = t[:, None] + _delay_to_threshold(neuron.kernel(age) @ weights, decay @ weights, neuron)
    t_next = np.append(t[1:], np.inf)
    # Of simultaneous inputs only the last one closes a causal set, even where a short delay rounds
    # to none at all.
    valid = (crossing <= t_next[:, None]) & (t < t_next)[:, None]
    return np.where(valid, crossing, NO_SPIKE).min(axis=0)


def _delay_to_threshold(start: Array, current: Array, neuron: LIF) -> Array:
    """Delay until u reaches the threshold, for u above leak and the current at delay 0, any shape.

    0 where u is there already (a crossing that rounding moved past the next input), inf for never.
    """
    level = neuron.threshold - neuron.leak
    peak = _peak_delay(start, current, neuron)
    delay = np.where(start >= level, 0.0, np.inf)
    if math.isinf(neuron.tau_mem):
        top = start + current * neuron.tau_syn / neuron.capacitance
        crosses = (start < level) & (top > level)
        solve = _solve_logarithm
    else:
        top = _potential(np.maximum(peak, 0.0), start, current, neuron)
        crosses = (start < level) & (peak > 0) & (top >= level)
        closed = {1.0: _solve_lambert, 2.0: _solve_quadratic}
        solve = closed.get(float(neuron.tau_mem / neuron.tau_syn), _bisect)
    peak, start, current = peak[crosses], start[crosses], current[crosses]
    # A closed form may round to just outside of the rising branch, next to either of its ends.
    delay[crosses] = np.clip(solve(peak, start, current, neuron), 0.0, peak)
    return delay


def _potential(delay: Array, start: Array, current: Array, neuron: LIF) -> Array:
    """Potential above leak after `delay` without further input."""
    return start * np.exp(-delay / neuron.tau_mem) + current * neuron.kernel(delay)


def _peak_delay(start: Array, current: Array, neuron: LIF) -> Array:
    """Delay of the maximum of u; -inf where u falls at once or only creeps up towards the leak.

    With d = 1/tau_fast - 1/tau_slow and a = current/C + start (1/tau_slow - 1/tau_mem),

        u(s) = exp(-s/tau_slow) (start + a (1 - exp(-d s))/d),
        u'(s) = 0  where  1 - exp(-d s) = d tau_fast u'(0)/a.
    """
    fast, slow, rate = neuron.tau_fast, neuron.tau_slow, neuron.rate_difference
    drive = current / neuron.capacitance
    slope = drive - start / neuron.tau_mem
    a = drive + start * (1.0 / slow - 1.0 / neuron.tau_mem)
    rest = start * (1.0 - fast / neuron.tau_mem) + fast * drive
    peaks = (slope > 0) & (a > 0) & (rest > 0)
    risen = fast * slope / np.where(peaks, a, np.inf)
    if rate > 0.0:
        # The remainder in its own right where it is small: it vanishes as tau_slow goes to inf.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # a may be subnormal
            remainder = rest / np.where(peaks, a, np.inf) / slow
            exact = np.log(np.where(peaks, remainder, 1.0))
            log = np.where(remainder < 0.5, exact, np.log1p(-np.minimum(rate * risen, 0.75)))
        risen = -log / rate
    return np.where(peaks, risen, -np.inf)


def _solve_lambert(peak: Array, start: Array, current: Array, neuron: LIF) -> Array:
    """tau_mem = tau_syn, the paper's first closed form with the last input as the origin."""
    from scipy.special import lambertw

    height = current * neuron.tau_syn / neuron.capacitance
    z = -(neuron.threshold - neuron.leak) / height * np.exp(-start / height)
    # Complex only by rounding, next to the branch point: the caller knows that the peak is above.
    return -neuron.tau_syn * (start / height + lambertw(z).real)


def _solve_quadratic(peak: Array, start: Array, current: Array, neuron: LIF) -> Array:
    """tau_mem = 2 tau_syn, the paper's second closed form, for y = 1 - exp(-s/tau_mem).

    height y^2 - (height - start) y + level - start = 0; the smaller root is the earlier crossing.
    """
    height = current * neuron.tau_mem / neuron.capacitance
    missing = neuron.threshold - neuron.leak - start
    root = np.sqrt(np.maximum((height - start) ** 2 - 4.0 * height * missing, 0.0))
    return -neuron.tau_mem * np.log1p(-2.0 * missing / (height - start + root))


def _solve_logarithm(peak: Array, start: Array, current: Array, neuron: LIF) -> Array:
    """tau_mem = inf: level - start = (tau_syn current/C) (1 - exp(-s/tau_syn))."""
    height = current * neuron.tau_syn / neuron.capacitance
    missing = neuron.threshold - neuron.leak - start
    with np.errstate(divide="ignore"):
        return -neuron.tau_syn * np.log1p(-np.minimum(missing / height, 1.0))


def _bisect(peak: Array, start: Array, current: Array, neuron: LIF) -> Array:
    """Any other ratio: halve the rising branch until its ends are neighbouring doubles."""
    low, high = np.zeros(peak.shape), peak
    middle = 0.5 * high
    while np.any((low < middle) & (middle < high)):
        above = _potential(middle, start, current, neuron) >= neuron.threshold - neuron.leak
        low, high = np.where(above, low, middle), np.where(above, middle, high)
        middle = low + 0.5 * (high - low)
    return high
