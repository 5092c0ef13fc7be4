"""The CUDA backend's neurons. Kernels are launched in this file and in `cuda.step`, through CuPy.

What is compiled is said in `cuda.source`. Every argument is checked (`cuda.call`) and cast here, since no
kernel can. Nothing waits for the device, and every sum is added up in one fixed order: the same input, the
same bits.

CuPy compiles with -ftz=true: float32 numbers below 1e-38 count as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.errors import ShapeError
from gpuspike.kernels.constants import GROUPS_FROM, MIXED
from gpuspike.kernels.cuda import graph, lazy, update
from gpuspike.kernels.cuda import single as single
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.kernels.cuda.call import Array, Call, block_kernel, check, elementwise, forward_kernel
from gpuspike.kernels.cuda.deciding import decide as decide
from gpuspike.kernels.cuda.deciding import decides as decides
from gpuspike.kernels.cuda.neurons import neurons_there as neurons_there
from gpuspike.kernels.unit import Unit
from gpuspike.rng import LAYER_BLOCKS

spike_order, with_bias, without_bias = cuda_step.spike_order, cuda_step.with_bias, cuda_step.without_bias
score, count_silent, descend = cuda_step.score, cuda_step.count_silent, update.descend
place, constant = cuda_step.place, cuda_step.constant
later, normals_later = lazy.later, lazy.normals

WORKSPACE = 128 << 20
"""Bytes that the events of a forward pass may take; a larger batch passes through in such parts."""

FORWARD_THREADS = 128
SAMPLE_THREADS = 128
TILE_THREADS = 256
"""Shapes of blocks, as in `forward.cu` and `ttfs.cu`."""


def _parts(call: Call, rows: int, bytes_an_entry: int) -> list[tuple[int, int]]:
    """(first sample, samples) of each part of a batch whose workspace stays within WORKSPACE."""
    most = max(1, WORKSPACE // max(1, rows * call.n_pre * bytes_an_entry))
    return [(first, min(most, call.n_batch - first)) for first in range(0, call.n_batch, most)]


# --- the protocol ----------------------------------------------------------


def forward(
    t_in: Array, order: Array, weights: Array, unit: Unit, lift: Array | None = None
) -> tuple[Array, Array]:
    """First spike times and the membrane's slope there; see `kernels.Kernels.forward`.

    Raises:
        DtypeError, ShapeError, BackendError: an array that is not CuPy's, contiguous and on this device.
    """
    cupy = cupy_module()
    call = Call.of(t_in, weights, unit)
    check(np.int64, {"order": (order, t_in.shape)})
    t_out = cupy.empty(call.out_shape, call.dtype)
    slope = cupy.empty(call.out_shape, call.dtype)
    lifted, lifts = lift is not None, () if lift is None else (lift,)
    if lift is not None:
        check(call.dtype, {"lift": (lift, call.out_shape)})
    if call.empty:
        t_out.fill(np.inf)
        slope.fill(0.0)
        if lift is not None:
            t_out[lift <= 0.0] = 0.0
        return t_out, slope
    c, regime = call.constants, unit.regime
    mixed, real = regime == MIXED, call.dtype.itemsize
    n_parts = call.n_replica * src.PARTS * call.n_post if call.n_pre >= GROUPS_FROM and not mixed else 0
    parts = cupy.empty(max(1, n_parts), call.dtype)
    for first, n_samples in _parts(call, call.n_in_replicas, src.event_bytes(real)):
        n_events = call.n_in_replicas * n_samples * call.n_pre
        times = cupy.empty(n_events, call.dtype)
        rows = cupy.empty(n_events, np.int32)
        rest = 1 if mixed else n_events  # times and rows are all that neurons apart can share
        ends = cupy.empty(rest, np.int32)
        events = cupy.empty((rest, 4), call.dtype)
        carries = cupy.empty((rest, 3), call.dtype)
        elementwise(src.prepare_kernel(regime))(
            n_events, call.n_batch, call.n_pre, call.n_post, first, n_samples, *c[:3], c.drive, c.reach,
            t_in, order, weights, times, rows, ends, events, carries, parts,
            size=n_events + (n_parts if first == 0 else 0),
        )  # fmt: skip
        width = min(src.LANES, call.n_post)
        sizes = (call.n_in_replicas, call.n_batch, call.n_pre, call.n_post, first, n_samples)
        groups = call.n_replica * n_samples
        if mixed:
            elementwise(src.mixed_kernel(lifted))(
                width, *sizes, c.tangent, weights, call.own_taus(), times, rows, *lifts, t_out, slope,
                size=groups * -(-call.n_post // width) * width,
            )  # fmt: skip
            continue
        per_thread = src.neurons_a_thread(call.n_post, groups * call.n_post)
        n_threads = groups * -(-call.n_post // (width * per_thread)) * width
        forward_kernel(call.dtype, regime, per_thread, lifted)(
            (-(-n_threads // FORWARD_THREADS),), (FORWARD_THREADS,),
            (
                *map(np.int32, (width, call.n_replica, *sizes)),
                *map(np.float64, (*c[:3], c.drive, c.span, c.tangent)),
                weights, parts, times, rows, ends, events, carries, *(lifts or (t_out,)), t_out, slope,
            ),
        )  # fmt: skip
    return t_out, slope


def slopes(t_in: Array, weights: Array, unit: Unit, t_out: Array) -> Array:
    """Slope of the membrane at given spike times; see `kernels.Kernels.slopes`."""
    return _slopes(t_in, weights, unit, t_out, at_crossing=False)


def crossing_slopes(t_in: Array, weights: Array, unit: Unit, t_out: Array) -> Array:
    """Slope where that membrane meets the threshold; see `kernels.Kernels.crossing_slopes`."""
    return _slopes(t_in, weights, unit, t_out, at_crossing=True)


def _slopes(t_in: Array, weights: Array, unit: Unit, t_out: Array, *, at_crossing: bool) -> Array:
    cupy = cupy_module()
    call = Call.of(t_in, weights, unit)
    check(call.dtype, {"t_out": (t_out, call.out_shape)})
    slope = cupy.empty(call.out_shape, call.dtype)
    if call.empty:
        slope.fill(0.0)
        return slope
    c, regime = call.constants, unit.regime
    mixed = regime == MIXED
    factor = call.dtype if at_crossing else np.dtype(np.float64)
    windows = "sample_windows_float" if factor == np.float32 else "sample_windows_double"
    for first, n_samples in _parts(call, call.n_replica, 2 * factor.itemsize):
        sizes = (call.n_in_replicas, call.n_batch, call.n_pre, call.n_post, first, n_samples)
        rows = 1 if mixed else call.n_replica * n_samples
        anchors, wide = cupy.empty(rows, np.float64), cupy.empty(rows, np.bool_)
        a1, a2 = (cupy.empty((rows, 1 if mixed else call.n_pre), factor) for _ in range(2))
        if not mixed:
            block_kernel(windows, call.dtype, regime)(
                (rows,), (SAMPLE_THREADS,),
                (*map(np.int32, sizes), *map(np.float64, c[:3]), t_in, t_out, anchors, wide, a1, a2),
            )  # fmt: skip
        elementwise(src.slopes_kernel(regime, at_crossing))(
            *sizes, *c[:3], c.drive, c.span, c.tangent, t_in, weights, call.own_taus(), t_out,
            anchors, wide, a1, a2, slope, size=call.n_replica * n_samples * call.n_post,
        )  # fmt: skip
    return slope


def backward(
    t_in: Array,
    weights: Array,
    unit: Unit,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    order: Array | None = None,
    active: Array,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array | None, Array]:
    """Gradients by the implicit function theorem; see `kernels.Kernels.backward`.

    In a step's graph the weights' gradient goes `beside` that of the input times, where it leaves room.

    Args:
        order: not needed.
        active: (n_replica,) on the device; a NumPy array is sent there.
    """
    cupy = cupy_module()
    call = Call.of(t_in, weights, unit)
    active = cupy.asarray(active)
    check(np.bool_, {"active": (active, (call.n_replica,))})
    by_neuron = {"t_out": t_out, "slope": slope, "t_out_grad": t_out_grad}
    check(call.dtype, {name: (array, call.out_shape) for name, array in by_neuron.items()})
    in_shape = (call.n_replica, call.n_batch, call.n_pre)
    if call.empty:
        t_in_grad = cupy.zeros(in_shape, call.dtype) if need_t_in_grad else None
        return t_in_grad, cupy.zeros_like(weights)
    capacitance, regime = unit.neuron.capacitance, unit.regime
    mixed, taus = regime == MIXED, call.own_taus()
    constants = tuple(map(np.float64, call.constants[:3]))
    wide = cupy.empty((call.n_replica, call.n_batch), np.bool_)
    a1, a2 = (cupy.empty((1, 1, 1) if mixed else in_shape, call.dtype) for _ in range(2))
    gate, p1, p2, q1, q2 = (cupy.empty(call.out_shape, call.dtype) for _ in range(5))
    sizes = tuple(map(np.int32, (call.n_in_replicas, call.n_batch, call.n_pre, call.n_post)))
    block_kernel("gradient_terms", call.dtype, regime)(
        (call.n_replica * call.n_batch,), (SAMPLE_THREADS,),
        (
            *sizes, *constants, np.float64(capacitance), np.float64(max_weight_grad), taus, active, t_in,
            t_out, slope, t_out_grad, wide, a1, a2, gate, p1, p2, q1, q2,
        ),
    )  # fmt: skip
    tiles_i, tiles_j, tiles_b = (-(-n // src.TILE) for n in (call.n_pre, call.n_post, call.n_batch))
    blocks = call.n_replica * tiles_i * tiles_j
    n_splits = src.gradient_parts(call.n_pre, call.n_post, call.n_batch)
    parts = cupy.empty((n_splits, *weights.shape), call.dtype)
    weights_grad = parts[0] if n_splits == 1 else cupy.empty_like(weights)
    read = (taus, active, t_in, wide, a1, a2, gate, p1, p2)
    aside = need_t_in_grad and src.goes_beside(call.n_replica, call.n_pre, call.n_post, call.n_batch)
    with graph.beside(*read, parts, weights_grad) if aside else nullcontext():
        block_kernel("weights_gradient", call.dtype, regime)(
            (blocks * n_splits,), (TILE_THREADS,),
            (np.int32(call.n_replica), *sizes, np.int32(n_splits), *constants, *read, parts),
        )  # fmt: skip
        if n_splits > 1:
            elementwise(src.sum_kernel())(parts, n_splits, weights.size, weights_grad)
    if not need_t_in_grad:
        return None, weights_grad
    t_in_grad = cupy.empty(in_shape, call.dtype)
    block_kernel("times_gradient", call.dtype, regime)(
        (call.n_replica * tiles_b * tiles_i,), (TILE_THREADS,),
        (*sizes, *constants, taus, active, t_in, weights, wide, a1, a2, gate, q1, q2, t_in_grad),
    )  # fmt: skip
    return t_in_grad, weights_grad


def jitter(
    times: Array, n_jittered: int, std: float, seeds: Sequence[int], purpose: int, epoch: int, batch: int
) -> None:
    """Adds normal jitter to input times, in place; see `kernels.Kernels.jitter`."""
    n_replica, _, n_pre = times.shape
    check(times.dtype, {"times": (times, times.shape)})
    if len(seeds) != n_replica or not 0 <= n_jittered <= n_pre:
        raise ShapeError(
            f"jitter needs {n_replica} seeds and at most {n_pre} inputs, got {len(seeds)} and {n_jittered}"
        )
    _draw(True, times, n_jittered, std, seeds, int(purpose) << 24, 0, epoch, batch)


def normals(
    like: Array, seeds: Sequence[int], purpose: int, layer: int, epoch: Any, batch: Any, first: int
) -> Array:
    """Normal numbers of the shape and type of `like`; see `kernels.Kernels.normals`.

    Args:
        like: of the host or the device: none of its values is looked at.
        epoch, batch: numbers; or both the clock (2,) of a step that is captured, which then has both.
    """
    cupy = cupy_module()
    if len(seeds) != len(like):
        raise ShapeError(f"normal numbers of {len(like)} replicas need as many seeds, got {len(seeds)}")
    out, block = cupy.empty(like.shape, like.dtype), (int(purpose) << 24) + layer * LAYER_BLOCKS
    if isinstance(epoch, cupy.ndarray):
        cuda_step.normals_now(out, constant(seeds, np.int64), block, epoch)
    else:
        _draw(False, out, like.shape[2], 1.0, seeds, block, first, epoch, batch)
    return out


def _draw(
    jitter: bool,
    out: Array,
    n: int,
    std: float,
    seeds: Sequence[int],
    first_block: int,
    first_sample: int,
    epoch: int,
    batch: int,
) -> None:
    n_replica, n_batch, n_row = out.shape
    size = n_replica * n_batch * -(-n // 4)
    if size:
        elementwise(src.normals_kernel(jitter))(
            n_batch, n_row, n, std, constant(seeds, np.int64),
            first_block, first_sample, epoch, batch, out, size=size,
        )  # fmt: skip
