"""First spikes in JAX: a function with exact gradients, on the CPU (extra `jax`).

Kernels are called back from XLA's programs with the memory of its arrays, which they read and never write.
"""

from __future__ import annotations

import math
from functools import partial
from importlib.util import find_spec
from typing import Any

if find_spec("jax") is None:
    raise ModuleNotFoundError("gpuspike.jax needs JAX: pip install 'gpuspike[jax]'", name="jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from numpy.typing import NDArray

from gpuspike import kernels
from gpuspike.api.frameworks import pull_back, repeated, rows_of
from gpuspike.errors import BackendError, DtypeError
from gpuspike.neuron import LIF

__all__ = ["first_spikes"]


def first_spikes(t_in: Array, weights: Array, neuron: LIF, *, max_weight_grad: float = math.inf) -> Array:
    """`gs.first_spikes` with its gradients as a function of JAX's.

    Spike times and gradients are, to the bit, those of `gs.first_spikes` and `gs.first_spikes_vjp`, in
    float32 and, with `jax_enable_x64`, in float64. A neuron that stays silent has a gradient of exactly 0,
    whatever the gradient of its time is, NaN and inf included. It goes through `jax.jit`, `jax.grad` and
    `jax.vmap`, which makes replicas of what it maps. There are first derivatives in reverse mode only.

    Args:
        t_in: (..., n_pre) input spike times, inf = no spike; with replicas (n_replica, ..., n_pre).
        weights: (n_pre, n_post) or (n_replica, n_pre, n_post).
        neuron: parameters, times in the unit of `t_in`; under `jax.jit` not an argument, or a static one.
        max_weight_grad: see `gs.first_spikes_vjp`.

    Returns:
        (..., n_post) or (n_replica, ..., n_post) spike times, inf where the neuron stays silent.

    Raises:
        DtypeError, ShapeError, ValueRangeError, BackendError: what was expected and what was got; another
        device than
            the CPU is refused. Values that a compiled program meets are refused with JAX's JaxRuntimeError,
            which has the message.
    """
    for name, array in (("t_in", t_in), ("weights", weights)):
        if not isinstance(array, Array):
            raise DtypeError(f"{name} must be a jax.Array, got {type(array).__name__}")
        like = "" if name == "t_in" else f" like t_in ({t_in.dtype})"
        if array.dtype != t_in.dtype or array.dtype not in (jnp.float32, jnp.float64):
            raise DtypeError(f"{name} must be float32 or float64{like}, got {array.dtype}")
        _refuse_devices(name, array)
    rows = t_in.reshape(rows_of(t_in.shape, weights.shape, neuron, max_weight_grad))
    t_out: Any = _first_spikes(rows, weights, neuron, float(max_weight_grad))
    return t_out.reshape(*t_in.shape[:-1], weights.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _first_spikes(t_in: Array, weights: Array, neuron: LIF, max_weight_grad: float) -> Array:
    del max_weight_grad
    shape = (*t_in.shape[:-1], weights.shape[-1])

    def spikes(neuron: LIF, times: NDArray[Any], w: NDArray[Any]) -> NDArray[Any]:
        return kernels.first_spikes(times, w, neuron)

    return _called(spikes, jax.ShapeDtypeStruct(shape, t_in.dtype), neuron, t_in, weights)


def _forward(
    t_in: Any, weights: Any, neuron: LIF, max_weight_grad: float
) -> tuple[Array, tuple[Array, Array, Array, tuple[()] | None]]:
    t_out: Any = _first_spikes(t_in.value, weights.value, neuron, max_weight_grad)
    return t_out, (t_in.value, weights.value, t_out, () if t_in.perturbed else None)


def _backward(
    neuron: LIF, max_weight_grad: float, kept: tuple[Any, ...], t_out_grad: Any
) -> tuple[Array | None, Array]:
    *arrays, needed = kept
    if isinstance(t_out_grad, SymbolicZero):
        t_out_grad = jnp.zeros_like(arrays[2])
    found: Any = _gradients(*arrays, t_out_grad, neuron, max_weight_grad, needed is not None)
    return found if needed is not None else (None, found[0])


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _gradients(
    t_in: Array,
    weights: Array,
    t_out: Array,
    t_out_grad: Array,
    neuron: LIF,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array, ...]:
    """Of the inputs, if needed, and of the weights."""

    def gradients(neuron: LIF, times: NDArray[Any], w: NDArray[Any], *given: NDArray[Any]) -> Any:
        options: Any = {"max_weight_grad": max_weight_grad, "need_t_in_grad": need_t_in_grad}
        found = pull_back(times, w, neuron, *given, **options)
        return tuple(grad for grad in found if grad is not None)

    needed = (t_in, weights) if need_t_in_grad else (weights,)
    shapes = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in needed)
    return _called(gradients, shapes, neuron, t_in, weights, t_out, t_out_grad)


def _refuse(*_: Any) -> Any:
    raise BackendError("first_spikes has first derivatives in reverse mode, got a second one")


_first_spikes.defvjp(_forward, _backward, symbolic_zeros=True)
_gradients.defvjp(lambda *given: (_gradients(*given), None), _refuse)


def _called(function: Any, shapes: Any, neuron: LIF, *arrays: Array) -> Any:
    """A function of neurons and NumPy arrays in a program for the CPU; others have no translation of it."""
    n_axes = arrays[0].ndim

    def host(*arrays: Any) -> Any:
        """Makes the axes that `vmap` has put in front replicas, or more of them."""
        given = [np.asarray(array) for array in arrays]
        mapped = given[0].shape[: given[0].ndim - n_axes]
        if not mapped:
            return function(neuron, *given)
        stacked = [array.reshape(-1, *array.shape[-2:]) for array in given]
        found = function(repeated(neuron, math.prod(mapped)), *stacked)

        def unstacked(array: NDArray[Any]) -> NDArray[Any]:
            return array.reshape(*given[0].shape[:-2], *array.shape[1:])

        return tuple(map(unstacked, found)) if isinstance(found, tuple) else unstacked(found)

    def called(*arrays: Array) -> Any:
        return jax.pure_callback(host, shapes, *arrays, vmap_method="broadcast_all")

    return jax.lax.platform_dependent(*arrays, cpu=called)


def _refuse_devices(name: str, array: Array) -> None:
    """Refuses what is not on the CPU: nothing is copied there in silence.

    Raises:
        BackendError: where it is.
    """
    if isinstance(array, Tracer):
        chosen: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
        places = {getattr(chosen, "platform", chosen) or jax.default_backend()}
    else:
        places = {device.platform for device in array.devices()}
    if places != {"cpu"}:
        raise BackendError(
            f"{name} must be on the CPU, gpuspike.jax computes there only, got {', '.join(places)}"
        )
