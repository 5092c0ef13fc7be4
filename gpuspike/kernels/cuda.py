"""The CUDA backend's neurons. Kernels are launched, through CuPy, in this file and those of names like it.

What is compiled is said in `cuda_source`; the rest of a training step is in `cuda_step`. Every argument is
checked and cast here, since a kernel cannot. Nothing waits for the device, and every sum is added up in one
fixed order: the same input, the same bits.

CuPy compiles with -ftz=true: float32 numbers below 1e-38 count as 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuspike.backend import cupy_module
from gpuspike.errors import DtypeError, ShapeError
from gpuspike.kernels import cuda_source as src
from gpuspike.kernels import cuda_step
from gpuspike.kernels.cuda_launch import Array, refuse_foreign
from gpuspike.kernels.cuda_launch import block_kernel as _block_kernel
from gpuspike.kernels.cuda_launch import check as _check
from gpuspike.kernels.cuda_launch import elementwise as _elementwise
from gpuspike.kernels.cuda_launch import on_device as _on_device
from gpuspike.kernels.per_neuron import Own, own
from gpuspike.kernels.stack import unavailable
from gpuspike.neuron import LIF

__all__ = ["backward", "crossing_slopes", "forward", "refuse_foreign", "slopes"]

spike_order, with_bias, without_bias = cuda_step.spike_order, cuda_step.with_bias, cuda_step.without_bias
jitter, adam, place = cuda_step.jitter, cuda_step.adam, cuda_step.place
cross_entropy, time_mse, count_silent = cuda_step.cross_entropy, cuda_step.time_mse, cuda_step.count_silent

WORKSPACE = 128 << 20
"""Bytes that the events of a forward pass may take; a larger batch passes through in such parts."""

SAMPLE_THREADS = 128
TILE_THREADS = 256
"""Shapes of blocks, as in `ttfs.cu`."""


@dataclass(frozen=True)
class _Call:
    """Sizes and constants of one call, in the types that kernels take."""

    neuron: LIF
    dtype: np.dtype[Any]
    n_in_replicas: int
    n_replica: int
    n_batch: int
    n_pre: int
    n_post: int
    own: Own | None

    @classmethod
    def of(cls, t_in: Array, weights: Array, neuron: LIF) -> _Call:
        cupy = cupy_module()
        if not isinstance(t_in, cupy.ndarray) or not isinstance(weights, cupy.ndarray):
            kinds = f"{type(t_in).__name__} and {type(weights).__name__}"
            raise DtypeError(f"t_in and weights must be CuPy arrays, got {kinds}")
        if weights.dtype not in (np.float32, np.float64):
            raise DtypeError(f"weights must be float32 or float64, got {weights.dtype}")
        if t_in.ndim != 3 or weights.ndim != 3:
            raise ShapeError(
                f"t_in and weights must have 3 axes, got shapes {t_in.shape} and {weights.shape}"
            )
        n_replica, n_pre, n_post = weights.shape
        n_in_replicas, n_batch = t_in.shape[:2]
        if n_pre * n_post >= 1 << 31:
            raise ShapeError(f"one replica must have fewer than 2**31 weights, got {n_pre} x {n_post}")
        if n_in_replicas not in (1, n_replica):
            raise ShapeError(f"t_in must have 1 or {n_replica} replicas, got {n_in_replicas}")
        _check(
            weights.dtype,
            {"t_in": (t_in, (n_in_replicas, n_batch, n_pre)), "weights": (weights, weights.shape)},
        )
        parameters = None if neuron.uniform else own(neuron, n_replica, n_post)
        return cls(
            neuron, np.dtype(weights.dtype), n_in_replicas, n_replica, n_batch, n_pre, n_post, parameters
        )

    @property
    def empty(self) -> bool:
        return 0 in (self.n_replica, self.n_batch, self.n_pre, self.n_post)

    @property
    def unit(self) -> LIF:
        """The neuron whose constants the kernels take."""
        return self.neuron if self.own is None else self.own.unit

    @property
    def regime(self) -> int:
        if self.own is not None and self.own.taus is not None:
            return src.MIXED
        slow, fast = self.unit.tau_slow, self.unit.tau_fast
        if slow == fast:
            return src.EQUAL
        if slow == 2.0 * fast:
            return src.DOUBLE
        return src.NON_LEAKY if math.isinf(slow) else src.GENERAL

    @property
    def taus(self) -> tuple[float, float, float]:
        return self.unit.tau_slow, self.unit.tau_fast, self.unit.rate_difference

    @property
    def tangent(self) -> float:
        return 16.0 * float(np.finfo(self.dtype).eps)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        return self.n_replica, self.n_batch, self.n_post

    def own_taus(self) -> Array:
        """(n_replica, n_post, 2) time constants on the device; a stand-in where all neurons share them."""
        if self.own is None or self.own.taus is None:
            return _on_device(b"\0" * 16, "float64", (1, 1, 2), cupy_module().cuda.Device().id)
        return self._own("taus", np.dtype(np.float64))

    def own_factor(self, name: str) -> Array:
        """`drive`, `span` or `capacitance` of every neuron, (n_replica, 1, n_post)."""
        return self._own(name, self.dtype)

    def _own(self, name: str, dtype: np.dtype[Any]) -> Array:
        values = getattr(self.own, name).astype(dtype)
        return _on_device(values.tobytes(), dtype.name, values.shape, cupy_module().cuda.Device().id)


def _parts(call: _Call, rows: int, bytes_an_entry: int) -> list[tuple[int, int]]:
    """(first sample, samples) of each part of a batch whose workspace stays within WORKSPACE."""
    most = max(1, WORKSPACE // max(1, rows * call.n_pre * bytes_an_entry))
    return [(first, min(most, call.n_batch - first)) for first in range(0, call.n_batch, most)]


# --- the protocol ----------------------------------------------------------


def forward(
    t_in: Array, order: Array, weights: Array, neuron: LIF, lift: Array | None = None
) -> tuple[Array, Array]:
    """First spike times and the membrane's slope there; see `kernels.Kernels.forward`.

    Raises:
        DtypeError, ShapeError, BackendError: an array not CuPy's, contiguous, on this device; a `lift`.
    """
    if lift is not None:
        unavailable("a threshold that changes by trial")()
    cupy = cupy_module()
    call = _Call.of(t_in, weights, neuron)
    _check(np.int64, {"order": (order, t_in.shape)})
    t_out = cupy.empty(call.out_shape, call.dtype)
    slope = cupy.empty(call.out_shape, call.dtype)
    if call.empty:
        t_out.fill(np.inf)
        slope.fill(0.0)
        return t_out, slope
    if call.own is not None:
        weights = weights / call.own_factor("drive")
    drive, span = (1.0, 1.0) if call.own is not None else (call.unit.drive, call.unit.span)
    mixed, real = call.regime == src.MIXED, call.dtype.itemsize
    for first, n_samples in _parts(call, call.n_in_replicas, src.event_bytes(real)):
        n_events = call.n_in_replicas * n_samples * call.n_pre
        times = cupy.empty(n_events, call.dtype)
        rows = cupy.empty(n_events, np.int32)
        rest = 1 if mixed else n_events  # times and rows are all that neurons apart can share
        ends = cupy.empty(rest, np.int32)
        events = cupy.empty((rest, 4), call.dtype)
        carries = cupy.empty((rest, 3), call.dtype)
        exact = cupy.empty((rest, 2), np.float64)
        reach = 4.0 if real == 4 else 8.0
        _elementwise(src.prepare_kernel(call.regime))(
            call.n_batch, call.n_pre, call.n_post, first, n_samples, *call.taus, drive, reach, t_in, order,
            times, rows, ends, events, carries, exact, size=n_events,
        )  # fmt: skip
        width = min(32, call.n_post)
        sizes = (call.n_in_replicas, call.n_batch, call.n_pre, call.n_post, first, n_samples)
        n_threads = call.n_replica * n_samples * -(-call.n_post // width) * width
        if mixed:
            _elementwise(src.mixed_kernel())(
                width, *sizes, call.tangent, weights, call.own_taus(), times, rows, t_out, slope,
                size=n_threads,
            )  # fmt: skip
        else:
            _elementwise(src.forward_kernel(call.regime))(
                width, *sizes, *call.taus, drive, span, call.tangent, weights,
                times, rows, ends, events, carries, exact, t_out, slope, size=n_threads,
            )  # fmt: skip
    if call.own is not None:
        slope *= call.own_factor("span")
    return t_out, slope


def slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
    """Slope of the membrane at given spike times; see `kernels.Kernels.slopes`."""
    cupy = cupy_module()
    call = _Call.of(t_in, weights, neuron)
    _check(call.dtype, {"t_out": (t_out, call.out_shape)})
    slope = cupy.zeros(call.out_shape, call.dtype)
    if call.empty:
        return slope
    if call.own is not None:
        weights = weights / call.own_factor("drive")
    drive, span = (1.0, 1.0) if call.own is not None else (call.unit.drive, call.unit.span)
    mixed = call.regime == src.MIXED
    for first, n_samples in _parts(call, call.n_replica, 16):
        sizes = (call.n_in_replicas, call.n_batch, call.n_pre, call.n_post, first, n_samples)
        rows = 1 if mixed else call.n_replica * n_samples
        anchors, wide = cupy.empty(rows, np.float64), cupy.empty(rows, np.bool_)
        a1, a2 = (cupy.empty((rows, 1 if mixed else call.n_pre), np.float64) for _ in range(2))
        if not mixed:
            _block_kernel("sample_windows", call.dtype, call.regime)(
                (rows,), (SAMPLE_THREADS,),
                (*map(np.int32, sizes), *map(np.float64, call.taus), t_in, t_out, anchors, wide, a1, a2),
            )  # fmt: skip
        _elementwise(src.slopes_kernel(call.regime))(
            *sizes, *call.taus, drive, span, call.tangent, t_in, weights, call.own_taus(), t_out,
            anchors, wide, a1, a2, slope, size=call.n_replica * n_samples * call.n_post,
        )  # fmt: skip
    if call.own is not None:
        slope *= call.own_factor("span")
    return slope


crossing_slopes = unavailable("training on a chip's spikes")


def backward(
    t_in: Array,
    weights: Array,
    neuron: LIF,
    t_out: Array,
    slope: Array,
    t_out_grad: Array,
    *,
    active: Array,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array | None, Array]:
    """Gradients by the implicit function theorem; see `kernels.Kernels.backward`.

    Args:
        active: (n_replica,) on the device; a NumPy array is sent there.
    """
    cupy = cupy_module()
    call = _Call.of(t_in, weights, neuron)
    active = cupy.asarray(active)
    _check(np.bool_, {"active": (active, (call.n_replica,))})
    by_neuron = {"t_out": t_out, "slope": slope, "t_out_grad": t_out_grad}
    _check(call.dtype, {name: (array, call.out_shape) for name, array in by_neuron.items()})
    in_shape = (call.n_replica, call.n_batch, call.n_pre)
    if call.empty:
        t_in_grad = cupy.zeros(in_shape, call.dtype) if need_t_in_grad else None
        return t_in_grad, cupy.zeros_like(weights)
    if call.own is not None:  # the product with the slope is all that a kernel needs the capacitance for
        slope = slope * call.own_factor("capacitance")
    capacitance = call.unit.capacitance
    mixed, taus = call.regime == src.MIXED, call.own_taus()
    constants = tuple(map(np.float64, call.taus))
    wide = cupy.empty((call.n_replica, call.n_batch), np.bool_)
    a1, a2 = (cupy.empty((1, 1, 1) if mixed else in_shape, call.dtype) for _ in range(2))
    gate, p1, p2, q1, q2 = (cupy.empty(call.out_shape, call.dtype) for _ in range(5))
    sizes = tuple(map(np.int32, (call.n_in_replicas, call.n_batch, call.n_pre, call.n_post)))
    _block_kernel("gradient_terms", call.dtype, call.regime)(
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
    _block_kernel("weights_gradient", call.dtype, call.regime)(
        (blocks * n_splits,), (TILE_THREADS,),
        (
            np.int32(call.n_replica), *sizes, np.int32(n_splits), *constants, taus, active, t_in, wide,
            a1, a2, gate, p1, p2, parts,
        ),
    )  # fmt: skip
    weights_grad = parts[0]
    if n_splits > 1:
        weights_grad = cupy.empty_like(weights)
        _elementwise(src.sum_kernel())(parts, n_splits, weights.size, weights_grad)
    if not need_t_in_grad:
        return None, weights_grad
    t_in_grad = cupy.empty(in_shape, call.dtype)
    _block_kernel("times_gradient", call.dtype, call.regime)(
        (call.n_replica * tiles_b * tiles_i,), (TILE_THREADS,),
        (*sizes, *constants, taus, active, t_in, weights, wide, a1, a2, gate, q1, q2, t_in_grad),
    )  # fmt: skip
    return t_in_grad, weights_grad
