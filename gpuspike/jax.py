"""First spikes in JAX: a function with exact gradients, on the CPU (extra `jax`).

Kernels are called from XLA's programs with the memory of its arrays, which they read and never write.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

if find_spec("jax") is None:
    raise ModuleNotFoundError("gpuspike.jax needs JAX: pip install 'gpuspike[jax]'", name="jax")

import jax
import jax.ffi
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from numpy.typing import NDArray

from gpuspike import kernels
from gpuspike.api.frameworks import plain, pull_back, repeated, rows_of, unplain
from gpuspike.api.xla import handler, version_of
from gpuspike.errors import BackendError, DtypeError
from gpuspike.neuron import LIF

__all__ = ["first_spikes"]


def first_spikes(t_in: Array, weights: Array, neuron: LIF, *, max_weight_grad: float = math.inf) -> Array:
    """`gs.first_spikes` with its gradients as a function of JAX's.

    Spike times and gradients are, to the bit, those of `gs.first_spikes` and, given the slopes that it
    returns, `gs.first_spikes_vjp`, in float32 and, with `jax_enable_x64`, in float64. A neuron that stays
    silent has a gradient of exactly 0, whatever the gradient of its time is, NaN and inf included. It goes
    through `jax.jit`, `jax.grad` and `jax.vmap`, which makes replicas of what it maps. There are first
    derivatives in reverse mode only.

    Args:
        t_in: (..., n_pre) input spike times, inf = no spike; with replicas (n_replica, ..., n_pre).
        weights: (n_pre, n_post) or (n_replica, n_pre, n_post).
        neuron: parameters, times in the unit of `t_in`; under `jax.jit` not an argument, or a static one.
        max_weight_grad: see `gs.first_spikes_vjp`.

    Returns:
        (..., n_post) or (n_replica, ..., n_post) spike times, inf where the neuron stays silent.

    Raises:
        DtypeError, ShapeError, BackendError: what was expected and what was got; another device than the CPU
            is refused. Values (times, weights, constants) are met by a compiled program: JAX then raises its
            JaxRuntimeError, or a ValueError, with the message.
    """
    for name, array in (("t_in", t_in), ("weights", weights)):
        if not isinstance(array, Array):
            raise DtypeError(f"{name} must be a jax.Array, got {type(array).__name__}")
        like = "" if name == "t_in" else f" like t_in ({t_in.dtype})"
        if array.dtype != t_in.dtype or array.dtype not in (jnp.float32, jnp.float64):
            raise DtypeError(f"{name} must be float32 or float64{like}, got {array.dtype}")
        _refuse_devices(name, array)
    rows = t_in.reshape(rows_of(t_in.shape, weights.shape, neuron, max_weight_grad))
    found: Any = _first_spikes(rows, weights, neuron, float(max_weight_grad))
    return found[0].reshape(*t_in.shape[:-1], weights.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _first_spikes(t_in: Array, weights: Array, neuron: LIF, max_weight_grad: float) -> tuple[Array, Array]:
    """Spike times, and slopes, for their gradient only."""
    del max_weight_grad
    each = jax.ShapeDtypeStruct((*t_in.shape[:-1], weights.shape[-1]), t_in.dtype)
    t_out, slopes = _called("spikes", [each, each], neuron, t_in, weights)
    return t_out, slopes


def _forward(
    t_in: Any, weights: Any, neuron: LIF, max_weight_grad: float
) -> tuple[tuple[Array, Array], tuple[Any, ...]]:
    found: Any = _first_spikes(t_in.value, weights.value, neuron, max_weight_grad)
    return found, (t_in.value, weights.value, *found, () if t_in.perturbed else None)


def _backward(
    neuron: LIF, max_weight_grad: float, kept: tuple[Any, ...], grads: tuple[Any, Any]
) -> tuple[Array | None, Array]:
    *arrays, needed = kept
    t_out_grad, _ = grads
    if isinstance(t_out_grad, SymbolicZero):
        t_out_grad = jnp.zeros_like(arrays[2])
    found: Any = _gradients(*arrays, t_out_grad, neuron, max_weight_grad, needed is not None)
    return found if needed is not None else (None, found[0])


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _gradients(
    t_in: Array,
    weights: Array,
    t_out: Array,
    slopes: Array,
    t_out_grad: Array,
    neuron: LIF,
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[Array, ...]:
    """Of the inputs, if needed, and of the weights."""

    needed = (t_in, weights) if need_t_in_grad else (weights,)
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in needed]
    options: Any = {"max_weight_grad": max_weight_grad, "need_t_in_grad": need_t_in_grad}
    return tuple(_called("gradients", shapes, neuron, t_in, weights, t_out, slopes, t_out_grad, **options))


def _refuse(*_: Any) -> Any:
    raise BackendError("first_spikes has first derivatives in reverse mode, got a second one")


_first_spikes.defvjp(_forward, _backward, symbolic_zeros=True)
_gradients.defvjp(lambda *given: (_gradients(*given), None), _refuse)


def _called(what: str, shapes: Any, neuron: LIF, *arrays: Array, **options: Any) -> Any:
    """A target on neurons and arrays in a program for the CPU; others have no translation of it.

    All that the target must know stands in the program, which may be kept and run by another process.
    """
    spec = json.dumps([what, plain(neuron), arrays[0].ndim, options])

    def called(*arrays: Array) -> Any:
        return jax.ffi.ffi_call(TARGET, shapes, vmap_method="broadcast_all")(*arrays, spec=spec)

    return jax.lax.platform_dependent(*arrays, cpu=called)


@lru_cache(maxsize=256)
def _read(spec: bytes) -> tuple[Any, LIF, int, dict[str, Any]]:
    what, constants, n_axes, options = json.loads(spec)
    return FUNCTIONS[what], unplain(constants), n_axes, options


def _answer(spec: bytes, given: list[NDArray[Any]], results: list[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """What a target answers, in the results' memory or elsewhere.

    Axes that `vmap` has put in front become replicas, or more of them.
    """
    function, neuron, n_axes, options = _read(spec)
    mapped = given[0].shape[: given[0].ndim - n_axes]
    if not mapped:
        return function(neuron, *given, results=results, **options)
    stacked, places = ([array.reshape(-1, *array.shape[-2:]) for array in some] for some in (given, results))
    found = function(repeated(neuron, math.prod(mapped)), *stacked, results=places, **options)
    return tuple(array.reshape(*given[0].shape[:-2], *array.shape[1:]) for array in found)


def _spikes(neuron: LIF, times: NDArray[Any], weights: NDArray[Any], **_: Any) -> tuple[NDArray[Any], ...]:
    return kernels.first_spikes(times, weights, neuron, return_slopes=True)


def _pulled(
    neuron: LIF,
    times: NDArray[Any],
    weights: NDArray[Any],
    *given: NDArray[Any],
    results: list[NDArray[Any]],
    **options: Any,
) -> tuple[NDArray[Any], ...]:
    found = pull_back(times, weights, neuron, *given, into=results[-1], **options)
    return tuple(grad for grad in found if grad is not None)


TARGET, FUNCTIONS = "gpuspike_first_spikes", {"spikes": _spikes, "gradients": _pulled}
_HANDLER = handler(_answer, version_of(jax.ffi.include_dir()))
jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_HANDLER), platform="cpu")


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
