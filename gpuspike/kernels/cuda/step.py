"""What a training step does beside the neurons, on a device: see `step.cu`, and `device` for who calls it.

Arguments are checked and cast here. Nothing waits for the device, and everything is a launch of a kernel, so
that a step can be captured as a CUDA graph; only rows longer than MOST_SORTED are sorted by the library.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Random shifts of images, as `augmentation.RandomShift` says; side 0: none.

    Attributes:
        channels: inputs of a pixel: 2 where its negative follows it;  opposite: the background's.
    """

    side: int = 0
    most: int = 0
    background: float = 0.0
    purpose: int = 0
    channels: int = 1
    opposite: float = 0.0


class Warp(NamedTuple):
    """Random warps of images, as `augmentation.RandomWarp` says.

    Attributes:
        dark, per_level: the level of a time is (dark - time) per_level.
        basis: (side, knots) float64;  levels: (256,) times of the pixel levels, of the data's type.
        numbers: (n_replica, ahead full, n) float64, of the images of `ahead` batches.
        channels: inputs of a pixel, see `Shift`.
    """

    dark: float
    per_level: float
    basis: Array
    levels: Array
    numbers: Array
    ahead: int
    channels: int = 1


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


def take(
    batches: Batches, n_batch: int, shift: Shift, noise: Noise | None = None
) -> tuple[Array, Array | None, Array]:
    """Input times (n_replica, n_batch, n_pre), what sorts them if known, and labels of the clock's batch.

    Raises:
        ShapeError: more inputs to jitter than there are.
    """
    noise = Noise() if noise is None else noise
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
    _check_noise(noise, n_pre)
    elementwise(step_src.TAKE)(
        n_presented, batches.full, n_batch, n_pre, shift.side, shift.channels, shift.most, shift.background,
        shift.opposite, int(known), noise.n if noise.std else 0, noise.std, noise.purpose << 24,
        batches.seeds, batches.clock, batches.order, corners, batches.t_in,
        batches.sorted if known else order, batches.labels, t_in, order, labels, size=t_in.size,
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
        n_presented, batches.full, n_batch, n_pre, side, warp.channels, knots, n_numbers, warp.ahead,
        warp.dark, warp.per_level, batches.clock, batches.order, warp.numbers, warp.basis, warp.levels,
        batches.t_in, batches.labels, t_in, labels, size=t_in.size,
    )  # fmt: skip
    return t_in, labels


class Noise(NamedTuple):
    """Jitter of input times, as `kernels.Kernels.jitter` has it; std 0: none.

    Attributes:
        n: inputs that jitter;  purpose: of its address.
    """

    n: int = 0
    std: float = 0.0
    purpose: int = 0


def _check_noise(noise: Noise, n_pre: int) -> None:
    if not 0 <= noise.n <= n_pre:
        raise ShapeError(f"jitter needs at most {n_pre} inputs, got {noise.n}")


def jitter_now(times: Array, noise: Noise, seeds: Array, clock: Array) -> None:
    """Jitter of the clock's batch, in place; see `kernels.Kernels.jitter`."""
    n_replica, n_batch, n_pre = times.shape
    check(times.dtype, {"times": (times, times.shape)})
    _check_noise(noise, n_pre)
    check(np.int64, {"seeds": (seeds, (n_replica,)), "clock": (clock, (2,))})
    size = n_replica * n_batch * -(-noise.n // 4) if noise.std else 0
    if size:
        elementwise(step_src.JITTER)(
            n_batch, n_pre, noise.n, noise.std, seeds, noise.purpose << 24, clock, times, size=size
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


def count_silent(t_out: Array) -> Array:
    """(n_replica, n_post) samples in which each neuron is silent; see `kernels.Kernels.count_silent`."""
    counts = cupy_module().empty(t_out.shape[::2], np.int32)
    count_all([t_out], counts)
    return counts


def count_all(outs: Sequence[Array], silent: Array) -> None:
    """The same of several layers, two at a time, one behind the other in `silent`, (n_replica, n_all)."""
    n_replica, n_batch, _ = outs[0].shape
    check(np.int32, {"silent": (silent, (n_replica, sum(t_out.shape[2] for t_out in outs)))})
    first = 0
    for number in range(0, len(outs), 2):
        one, other = outs[number], outs[number + 1] if number + 1 < len(outs) else None
        n_one, n_other = one.shape[2], 0 if other is None else other.shape[2]
        for t_out in (one,) if other is None else (one, other):
            check(outs[0].dtype, {"t_out": (t_out, (n_replica, n_batch, t_out.shape[2]))})
        if n_replica * n_batch * (n_one + n_other):
            block_kernel("count_silent", one.dtype, src.NO_REGIME)(
                (n_replica * (-(-n_one // COUNTED) - (-n_other // COUNTED)),), (STEP_THREADS,),
                (
                    *map(np.int32, (n_batch, n_one, n_other, first, silent.shape[1])), one,
                    one if other is None else other, silent,
                ),
            )  # fmt: skip
        first += n_one + n_other


def spared(silent: Array, gone: Any) -> Array:
    """The counts, 0 for neurons that nobody wakes: `gone`, (n_replica, n_all) on the host."""
    check(np.int32, {"silent": (silent, gone.shape)})
    rest = cupy_module().empty(silent.shape, np.int32)
    if rest.size:
        elementwise(step_src.SPARED)(silent, constant(gone, np.bool_), rest)
    return rest


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
