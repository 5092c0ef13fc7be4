"""What a training step does beside the neurons, on a device: see `step.cu`, and `device` for who calls it.

Arguments are checked and cast here. Nothing waits for the device, and everything is a launch of a kernel, so
that a step can be captured as a CUDA graph; only rows longer than MOST_SORTED are sorted by the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.errors import ShapeError
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda import step_source as step_src
from gpuspike.kernels.cuda.call import Array, block_kernel, check, constant, elementwise

MOST_SORTED = 2048
"""Inputs of a row that one block sorts, as in `step.cu`."""

N_AFFINE = 6
"""Numbers of an image's affine map, before those of its elastic field, as in `step.cu`."""

STEP_THREADS, COUNTED = 128, 32
"""Threads of a block, and neurons that one of `count_silent` has, as in `step.cu`."""


# --- spikes ----------------------------------------------------------


def place(array: Array) -> Array:
    """The array on the current device; see `kernels.Kernels.place`."""
    return cupy_module().asarray(array)


def sorts_by_itself(n_pre: int) -> bool:
    """Whether a row of so many inputs is sorted by a kernel, not by the library."""
    return n_pre <= MOST_SORTED


def spike_order(t_in: Array) -> Array:
    """The order that sorts each sample's spikes by time, silent inputs last: (..., n_pre), int64."""
    cupy = cupy_module()
    if not t_in.size:
        return cupy.empty(t_in.shape, np.int64)
    n_pre = t_in.shape[-1]
    if not sorts_by_itself(n_pre):
        return cupy.argsort(t_in, axis=-1)  # stable, and like NumPy's puts inf behind every number
    check(t_in.dtype, {"t_in": (t_in, t_in.shape)})
    order = cupy.empty(t_in.shape, np.int64)
    padded = 1 << (n_pre - 1).bit_length()
    block_kernel("sort_row", t_in.dtype, src.NO_REGIME)(
        (t_in.size // n_pre,), (min(256, max(32, padded // 2)),),
        (np.int32(n_pre), np.int32(padded), t_in, order),
    )  # fmt: skip
    return order


def with_bias(spikes: Array, bias_times: Sequence[float]) -> Array:
    """(n_replica, n_batch, n) spike times with bias spikes at the end; see `kernels.with_bias`."""
    if not bias_times:
        return spikes
    n_spikes = spikes.shape[2]
    everything = cupy_module().empty((*spikes.shape[:2], n_spikes + len(bias_times)), spikes.dtype)
    check(spikes.dtype, {"spikes": (spikes, spikes.shape)})
    if everything.size:
        bias = constant(bias_times, spikes.dtype, lasting=True)
        elementwise(step_src.APPEND)(n_spikes, everything.shape[2], spikes, bias, everything)
    return everything


def without_bias(t_in_grad: Array, n_spikes: int) -> Array:
    """The first (n_replica, n_batch, n_spikes) of gradients of input times, contiguous."""
    n_all = t_in_grad.shape[2]
    if n_all == n_spikes:
        return t_in_grad
    check(t_in_grad.dtype, {"t_in_grad": (t_in_grad, t_in_grad.shape)})
    first = cupy_module().empty((*t_in_grad.shape[:2], n_spikes), t_in_grad.dtype)
    if first.size:
        elementwise(step_src.CUT)(n_all, n_spikes, t_in_grad, first)
    return first


# --- the batch ----------------------------------------------------------


class Shift(NamedTuple):
    """Random shifts of images, as `augmentation.RandomShift` says; side 0: none."""

    side: int = 0
    most: int = 0
    background: float = 0.0
    purpose: int = 0


class Warp(NamedTuple):
    """Random warps of images, as `augmentation.RandomWarp` says.

    Attributes:
        dark, per_level: the level of a time is (dark - time) per_level.
        basis: (side, knots) float64;  levels: (256,) times of the pixel levels, of the data's type.
        numbers: (n_replica, ahead full, n) float64, of the images of `ahead` batches.
    """

    dark: float
    per_level: float
    basis: Array
    levels: Array
    numbers: Array
    ahead: int


class Batches(NamedTuple):
    """A data set on the device, and the order in which an epoch takes its samples.

    Attributes:
        t_in: (1, n_train, n_pre);  labels: (n_train,).
        sorted: what sorts the rows of `t_in`, of its shape, where batches see them as they are; else None.
        order: (n_replica, n_presented), each sample as often as a step has trials of it.
        clock: (2,) epoch, and number of the batch.
        seeds: (n_replica,).
        full: presentations in a full batch.
    """

    t_in: Array
    sorted: Array | None
    labels: Array
    order: Array
    clock: Array
    seeds: Array
    full: int


def take(batches: Batches, n_batch: int, shift: Shift) -> tuple[Array, Array | None, Array]:
    """Input times (n_replica, n_batch, n_pre), what sorts them if known, and labels of the clock's batch."""
    cupy = cupy_module()
    _, n_train, n_pre = batches.t_in.shape
    n_replica, n_presented = batches.order.shape
    check(np.int64, {
        "labels": (batches.labels, (n_train,)), "order": (batches.order, (n_replica, n_presented)),
        "clock": (batches.clock, (2,)), "seeds": (batches.seeds, (n_replica,)),
    })  # fmt: skip
    check(batches.t_in.dtype, {"t_in": (batches.t_in, (1, n_train, n_pre))})
    corners = cupy.empty((n_replica, 2, n_batch) if shift.side else (1, 1, 1), np.int32)
    if shift.side:
        block_kernel("draw_corners", batches.t_in.dtype, src.NO_REGIME)(
            (n_replica,), (STEP_THREADS,),
            (
                np.int32(n_batch), np.int32(2 * shift.most + 1), np.int32(shift.purpose), batches.seeds,
                batches.clock, corners,
            ),
        )  # fmt: skip
    t_in = cupy.empty((n_replica, n_batch, n_pre), batches.t_in.dtype)
    known = batches.sorted is not None
    order = cupy.empty(t_in.shape if known else (1, 1, 1), np.int64)
    if known:
        check(np.int64, {"sorted": (batches.sorted, batches.t_in.shape)})
    labels = cupy.empty((n_replica, n_batch), np.int64)
    elementwise(step_src.TAKE)(
        n_presented, batches.full, n_batch, n_pre, shift.side, shift.most, shift.background, int(known),
        batches.clock, batches.order, corners, batches.t_in, batches.sorted if known else order,
        batches.labels, t_in, order, labels, size=t_in.size,
    )  # fmt: skip
    return t_in, order if known else None, labels


def take_warped(batches: Batches, n_batch: int, warp: Warp) -> tuple[Array, Array]:
    """Input times of warped images (n_replica, n_batch, n_pre), and labels, of the clock's batch."""
    cupy = cupy_module()
    _, n_train, n_pre = batches.t_in.shape
    n_replica, n_presented = batches.order.shape
    side, knots = warp.basis.shape
    n_numbers = warp.numbers.shape[2]
    check(np.int64, {
        "labels": (batches.labels, (n_train,)), "order": (batches.order, (n_replica, n_presented)),
        "clock": (batches.clock, (2,)),
    })  # fmt: skip
    check(np.float64, {
        "basis": (warp.basis, (side, knots)),
        "numbers": (warp.numbers, (n_replica, warp.ahead * batches.full, N_AFFINE + 2 * knots**2)),
    })  # fmt: skip
    check(batches.t_in.dtype, {"t_in": (batches.t_in, (1, n_train, n_pre)), "levels": (warp.levels, (256,))})
    t_in = cupy.empty((n_replica, n_batch, n_pre), batches.t_in.dtype)
    labels = cupy.empty((n_replica, n_batch), np.int64)
    elementwise(step_src.TAKE_WARPED)(
        n_presented, batches.full, n_batch, n_pre, side, knots, n_numbers, warp.ahead, warp.dark,
        warp.per_level, batches.clock, batches.order, warp.numbers, warp.basis, warp.levels, batches.t_in,
        batches.labels, t_in, labels, size=t_in.size,
    )  # fmt: skip
    return t_in, labels


def jitter_now(times: Array, n_jittered: int, std: float, seeds: Array, purpose: int, clock: Array) -> None:
    """Jitter of the clock's batch, in place; see `kernels.Kernels.jitter`."""
    n_replica, n_batch, n_pre = times.shape
    check(times.dtype, {"times": (times, times.shape)})
    if not 0 <= n_jittered <= n_pre:
        raise ShapeError(f"jitter needs at most {n_pre} inputs, got {n_jittered}")
    check(np.int64, {"seeds": (seeds, (n_replica,)), "clock": (clock, (2,))})
    size = n_replica * n_batch * -(-n_jittered // 4)
    if size:
        elementwise(step_src.JITTER)(
            n_batch, n_pre, n_jittered, std, seeds, int(purpose) << 24, clock, times, size=size
        )


def normals_now(out: Array, seeds: Array, first_block: int, clock: Array) -> None:
    """Normal numbers of the clock's batch, into (n_replica, n_batch, n); see `kernels.Kernels.normals`."""
    n_replica, n_batch, n = out.shape
    check(out.dtype, {"out": (out, out.shape)})
    check(np.int64, {"seeds": (seeds, (n_replica,)), "clock": (clock, (2,))})
    if out.size:
        size = n_replica * n_batch * -(-n // 4)
        elementwise(step_src.NORMALS)(n_batch, n, n, 1.0, seeds, first_block, clock, out, size=size)


# --- the loss ----------------------------------------------------------


def score(loss: Any, t_out: Array, labels: Array) -> tuple[Array, Array]:
    """Loss of every sample, and its gradient; see `kernels.Kernels.score`. Labels are trusted to be classes.

    Raises:
        BackendError: a loss that has no device text.
    """
    cupy, numbers = cupy_module(), loss.numbers()
    kernel = step_src.loss_kernel(type(loss), numbers._fields)
    n_replica, n_batch, n_class = t_out.shape
    check(t_out.dtype, {"t_out": (t_out, t_out.shape)})
    check(np.int64, {"labels": (labels, (1 if len(labels) == 1 else n_replica, n_batch))})
    losses, grad = cupy.empty((n_replica, n_batch), t_out.dtype), cupy.empty(t_out.shape, t_out.dtype)
    if losses.size:
        elementwise(kernel)(
            n_batch, n_class, labels.size, *numbers, labels, t_out, losses, grad, size=losses.size
        )
    return losses, grad


# --- figures and bumping ----------------------------------------------------------


def count_silent(t_out: Array, silent: Array | None = None, first: int = 0) -> Array:
    """(n_replica, n_post) samples in which each neuron is silent; see `kernels.Kernels.count_silent`.

    Args:
        silent: (n_replica, n_all), where the counts go from neuron `first` on; new unless given.
    """
    n_replica, n_batch, n_post = t_out.shape
    counts: Any = cupy_module().empty((n_replica, n_post), np.int32) if silent is None else silent
    check(t_out.dtype, {"t_out": (t_out, t_out.shape)})
    check(np.int32, {"silent": (counts, (n_replica, counts.shape[1]))})
    if t_out.size:
        block_kernel("count_silent", t_out.dtype, src.NO_REGIME)(
            (n_replica * -(-n_post // COUNTED),), (STEP_THREADS,),
            (*map(np.int32, (n_batch, n_post, first, counts.shape[1])), t_out, counts),
        )  # fmt: skip
    return counts


class Judgement(NamedTuple):
    """Where `judge` reads the rule of bumping, and leaves what it finds; see there.

    Attributes:
        ends: (n_layer,) int32, the first neuron behind each layer, and max_silent: (n_layer,) float64.
        dead: (n_layer, n_replica) float64, share of (sample, neuron) pairs that can never spike.
        value, most: first and largest bump;  exponential: whether bumps double.
        replaces: whether a bumped batch takes no step.
        layer: (n_replica,) int64, the layer bumped last, and size: float64, the bump it got.
        active: (n_replica,) whether the weights take a step.
        totals: (3 + n_layer, n_replica) float64, added to: loss, accuracy, bumps, silent fractions.
        clock: as of `Batches`; goes on to the next batch.
    """

    ends: Array
    max_silent: Array
    dead: Array
    value: float
    most: float
    exponential: bool
    replaces: bool
    layer: Array
    size: Array
    active: Array
    totals: Array
    clock: Array


def judge(at: Judgement, silent: Array, labels: Array, t_out: Array, losses: Array, share: float) -> None:
    """A batch's figures, and what follows from them for the weights, replica by replica.

    Args:
        silent: (n_replica, n_all) of all layers;  losses: (n_replica, n_batch).
        share: of the epoch's samples that the batch has.
    """
    n_replica, n_batch, n_class = t_out.shape
    n_layer, n_all = len(at.ends), silent.shape[1]
    check(np.int32, {"ends": (at.ends, (n_layer,)), "silent": (silent, (n_replica, n_all))})
    check(np.int64, {"layer": (at.layer, (n_replica,)), "labels": (labels, (n_replica, n_batch))})
    check(np.int64, {"clock": (at.clock, (2,))})
    check(np.bool_, {"active": (at.active, (n_replica,))})
    check(np.float64, {
        "max_silent": (at.max_silent, (n_layer,)), "dead": (at.dead, (n_layer, n_replica)),
        "size": (at.size, (n_replica,)), "totals": (at.totals, (3 + n_layer, n_replica)),
    })  # fmt: skip
    check(t_out.dtype, {"t_out": (t_out, t_out.shape), "losses": (losses, (n_replica, n_batch))})
    block_kernel("judge", t_out.dtype, src.NO_REGIME)(
        (n_replica,), (STEP_THREADS,),
        (
            *map(np.int32, (n_replica, n_batch, n_class, n_layer, n_all)),
            *map(np.float64, (share, at.value, at.most)), np.int32(at.exponential), np.int32(at.replaces),
            at.ends, at.max_silent, at.dead, silent, labels, t_out, losses, at.layer, at.size, at.active,
            at.totals, at.clock,
        ),
    )  # fmt: skip


def bump(
    weights: Array, number: int, first: int, n_places: int, targeted: bool, at: Judgement, silent: Array
) -> None:
    """Raises the weights (n_replica, n_pre, n_post) of layer `number` where it is the one to be bumped.

    Args:
        first: the layer's first neuron in `silent`;  n_places: at which its neurons share their weights.
        targeted: only weights onto neurons that were silent in some sample.
        at, silent: as for `judge`.
    """
    _, n_pre, n_post = weights.shape
    check(weights.dtype, {"weights": (weights, weights.shape)})
    elementwise(step_src.BUMP)(
        number, n_pre, n_post, n_places, int(targeted), first, silent.shape[1], at.layer, at.size, silent,
        weights, size=weights.size,
    )  # fmt: skip


# --- the optimiser ----------------------------------------------------------


def descend(
    optimizer: Any, rates: Sequence[float], weights: Array, grad: Array, state: Sequence[Array]
) -> None:
    """One step on one replica's arrays, in place; see `kernels.Kernels.descend`.

    Raises:
        BackendError: an optimiser that has no device text.
    """
    there = [cupy_module().asarray(np.array([rate], np.float64)) for rate in rates]
    _descend(optimizer, weights.size, constant([True], np.bool_), there, weights, grad, state)


def descend_active(
    optimizer: Any,
    weights: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[Sequence[Array]],
    steps: Array | None,
    learning_rate: Array,
    active: Array,
) -> None:
    """One step of the active replicas, in place; see `gpuspike.training.optimizers.Optimizer`.

    Args:
        weights, grads: of each layer (n_replica, n_pre, n_post);  states: of each layer the arrays of STATE.
        steps: (n_replica,) int64, counted on where active; None where the optimiser does not count.
        learning_rate: (1,) float64;  active: (n_replica,).

    Raises:
        BackendError: an optimiser that has no device text.
    """
    n_replica, rates = len(active), [learning_rate]
    check(np.bool_, {"active": (active, (n_replica,))})
    check(np.float64, {"learning_rate": (learning_rate, (1,))})
    check(np.int64, {} if steps is None else {"steps": (steps, (n_replica,))})
    values = {name: float(value) for name, value in vars(optimizer).items() if isinstance(value, Real)}
    kernel = step_src.rates_kernel(type(optimizer), tuple(values))
    if kernel is not None:
        rates = [cupy_module().empty(n_replica, np.float64) for _ in optimizer.RATES]
        counted = () if steps is None else (steps,)
        elementwise(kernel)(*values.values(), learning_rate, active, *counted, *rates)
    for w, grad, state in zip(weights, grads, states, strict=True):
        _descend(optimizer, w.size // n_replica, active, rates, w, grad, state)


def _descend(
    optimizer: Any,
    n_weights: int,
    active: Array,
    rates: Sequence[Array],
    weights: Array,
    grad: Array,
    state: Sequence[Array],
) -> None:
    numbers = optimizer.numbers()
    kernel = step_src.descent_kernel(type(optimizer), numbers._fields)
    arrays = {"weights": weights, "grad": grad, **dict(zip(optimizer.STATE, state, strict=True))}
    check(weights.dtype, {name: (array, weights.shape) for name, array in arrays.items()})
    if weights.size:
        elementwise(kernel)(n_weights, *numbers, active, *rates, grad, weights, *state)
