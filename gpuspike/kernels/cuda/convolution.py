"""Convolutional layers on a device: what `kernels.convolution` and `network.unshared` do there in NumPy.

Patches are gathered, and are what samples of any layer are; see `convolution.cu` for the device code.
"""

from __future__ import annotations

from typing import Any

from gpuspike.backend import cupy_module
from gpuspike.errors import ShapeError
from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cuda import lazy
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.cuda.call import Array, check, elementwise


def patches(layer: Convolution, t_in: Array) -> Array:
    """See `Convolution.patches`.

    Raises:
        ShapeError: fewer spike times than the image has.
        DtypeError, ShapeError, BackendError: an array that is not CuPy's, contiguous and on this device.
    """
    n_images, n_batch, n_received = t_in.shape
    n_bias = n_received - layer.n_in
    if n_bias < 0:
        raise ShapeError(f"t_in must have {layer.n_in} inputs and bias spikes, got shape {t_in.shape}")
    return _made(
        src.PATCHES, (n_images, n_batch * layer.n_positions, layer.fan_in + n_bias), t_in,
        *_image(layer, n_bias), float(layer.pad_time),
    )  # fmt: skip


def gathered(layer: Convolution, grad: Array, n_bias: int) -> Array:
    """See `Convolution.gathered`."""
    shape = len(grad), grad.shape[1] // layer.n_positions, layer.n_in + n_bias
    check(grad.dtype, {"grad": (grad, (len(grad), shape[1] * layer.n_positions, layer.fan_in + n_bias))})
    return _made(src.GATHERED, shape, grad, *_image(layer, n_bias))


def heard(layer: Convolution, times: Array) -> Array:
    """See `Convolution.heard`."""
    check(times.dtype, {"times": (times, (*times.shape[:2], layer.n_neurons))})
    return _made(src.HEARD, (*times.shape[:2], layer.n_out), times, *layer.grid, layer.n_maps, layer.pool)


def spread(layer: Convolution, grad: Array, times: Array) -> Array:
    """See `Convolution.spread`; silence has no gradient."""
    check(grad.dtype, {
        "grad": (grad, (*times.shape[:2], layer.n_out)),
        "times": (times, (*times.shape[:2], layer.n_neurons)),
    })  # fmt: skip
    return _made(src.SPREAD, times.shape, times, *layer.grid, layer.n_maps, layer.pool, last=(grad,))


def swapped(array: Array) -> Array:
    """See `unshared.swapped`."""
    n, a, b, k = array.shape
    return _made(src.SWAPPED, (n, b, a, k), array, a, b, k)


def tiled(w: Array, n: int) -> Array:
    """(..., n k) of (..., k), repeated."""
    return _made(src.TILED, (*w.shape[:-1], n * w.shape[-1]), w, n, w.shape[-1])


def summed(grad: Array, n: int) -> Array:
    """(..., k) of (..., n k), sums made in float64."""
    k = grad.shape[-1] // n
    return _made(src.SUMMED, (*grad.shape[:-1], k), grad, n, k)


def repeated(array: Array, n: int) -> Array:
    """Each entry n times, as `numpy.repeat` has it along the first axis."""
    shape = len(array), n, *array.shape[1:]
    return lazy.later(array[:, None], shape).now("repeated").reshape(-1, *shape[2:])


def _image(layer: Convolution, n_bias: int) -> tuple[int, ...]:
    return (*layer.shape, layer.kernel, layer.stride, layer.padding, *layer.grid, n_bias)


def _made(
    kernel: src.Elementwise, shape: tuple[int, ...], array: Array, *sizes: Any, last: tuple[Array, ...] = ()
) -> Array:
    """What a kernel makes of an array, entry by entry."""
    check(array.dtype, {"array": (array, array.shape)})
    out = cupy_module().empty(shape, array.dtype)
    if out.size:
        elementwise(kernel)(*sizes, array, *last, out, size=out.size)
    return out
