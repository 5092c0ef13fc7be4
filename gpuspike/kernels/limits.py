"""What each dtype has room for: neurons and weights whose arithmetic would leave it are refused, by name."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.errors import ValueRangeError
from gpuspike.neuron import LIF

Array = NDArray[Any]


class _Room(NamedTuple):
    """Largest numbers of one dtype; what stands for a neuron may also be as small as 1 by it.

    Half of a dtype's exponents belong to the sums that kernels make: exponentials of up to e^8 relative to an
    anchor, products with times, squares in the crossing's equation.

    Attributes:
        scale: of the shorter time constant, of threshold - leak and of C.
        drive: of C (threshold - leak).
        sums: of all weights of a neuron together, also times the shorter time constant or by C.
        pull: the same by C (threshold - leak)/(shorter time constant).
        time: of spike times.
    """

    scale: float
    drive: float
    sums: float
    pull: float
    time: float


_ROOMS = {
    np.dtype(np.float32): _Room(1e18, 1e24, 1e30, 1e18, 1e30),
    np.dtype(np.float64): _Room(1e75, 1e100, 1e250, 1e150, 1e150),
}


@lru_cache(maxsize=256)
def largest_sum(neuron: LIF, dtype: Any) -> float:
    """The most that the weights of a neuron may come to, all together, in a dtype; of many neurons the least.

    Raises:
        ValueRangeError: a neuron that the dtype has no room for.
    """
    dtype = np.dtype(dtype)
    room = _ROOMS[dtype]
    fast = np.minimum(neuron.tau_mem, neuron.tau_syn)
    for name, value, largest in (
        ("the shorter of tau_mem and tau_syn", fast, room.scale),
        ("threshold - leak", neuron.span, room.scale),
        ("capacitance", neuron.capacitance, room.scale),
        ("capacitance (threshold - leak)", neuron.drive, room.drive),
    ):
        values = np.asarray(value)
        wrong = values[~((values >= 1.0 / largest) & (values <= largest))]
        if wrong.size:
            raise ValueRangeError(
                f"{name} must lie between {1.0 / largest:g} and {largest:g} in {dtype}, got {wrong[0]:.8g}; "
                f"choose other units"
            )
    most = np.minimum(room.sums * np.minimum(1.0, neuron.capacitance), room.sums / np.maximum(1.0, fast))
    return float(np.min(np.minimum(most, room.pull * np.asarray(neuron.drive) / fast), initial=np.inf))


def check_weights(name: str, weights: Array, neuron: LIF) -> None:
    """Refuses weights, (..., n_pre, n_post), whose sums would leave their dtype, NaN and inf among them.

    Raises:
        ValueRangeError: such weights, or neurons that the dtype has no room for.
    """
    limit = largest_sum(neuron, weights.dtype)
    n_pre, xp = weights.shape[-2], array_module(weights=weights)
    if xp is np:
        with np.errstate(all="ignore"):
            square = float(np.dot(flat := weights.ravel(), flat))
        if n_pre * square**0.5 <= limit:
            return  # a bound in one pass, without a copy: each call of a network asks
    largest = float(abs(weights).max()) if weights.size else 0.0
    if n_pre * largest <= limit:
        return
    if count := int(xp.isnan(weights).sum()):
        raise ValueRangeError(f"{name} must not hold NaN, got {count} of them")
    if count := int(xp.isinf(weights).sum()):
        raise ValueRangeError(f"{name} must be finite, got {count} inf")
    raise ValueRangeError(
        f"{name} must lie within {limit / n_pre:.3g} from 0: sums of {n_pre} leave {weights.dtype} "
        f"by C (threshold - leak) and the time constants, got one of size {largest:.3g}"
    )


def check_times(name: str, times: Array, slack: float = 1.0, dtype: Any = None) -> None:
    """Refuses spike times whose differences would leave their dtype, NaN and -inf among them.

    Args:
        slack: answers to the largest input times come a little later than these.
        dtype: what they will be computed in; their own unless given.

    Raises:
        ValueRangeError: such times.
    """
    dtype = times.dtype if dtype is None else np.dtype(dtype)
    xp = array_module(times=times)
    # NumPy compares with what the times' own type can hold.
    largest = min(slack * _ROOMS[dtype].time, float(np.finfo(times.dtype).max))
    if not times.size or (float(times.min()) >= -largest and float(times.max()) <= largest):
        return
    if count := int(xp.isnan(times).sum()):
        raise ValueRangeError(f"{name} must not hold NaN, got {count} of them")
    if bool((times == -np.inf).any()):
        raise ValueRangeError(f"{name} must not hold -inf; no spike is +inf")
    wrong = xp.isfinite(times) & (abs(times) > largest)
    if bool(wrong.any()):
        raise ValueRangeError(
            f"{name} must lie within {largest:g} from 0 in {dtype}, or be inf (no spike), "
            f"got {float(times[wrong][0]):g}"
        )


def check_gradient(t_out: Array, t_out_grad: Array) -> None:
    """Refuses a gradient that is not finite where neurons spike.

    Raises:
        ValueRangeError: such a gradient.
    """
    xp = array_module(t_out=t_out)
    spikes = xp.isfinite(t_out)
    if count := int((xp.isnan(t_out_grad) & spikes).sum()):
        raise ValueRangeError(f"t_out_grad must not hold NaN, got {count} of them")
    if count := int((xp.isinf(t_out_grad) & spikes).sum()):
        raise ValueRangeError(f"t_out_grad must be finite, got {count} inf")


Pull = Callable[[Array, float], tuple[Array | None, ...]]
"""Gradients of some arrays, None for those nobody wants, from that of spike times and `max_weight_grad`."""


def pulled(pull: Pull, t_out_grad: Array, max_weight_grad: float) -> tuple[Array | None, ...]:
    """Gradients that are never NaN: one that its dtype cannot hold is inf, with its sign.

    They are linear in the gradient of spike times. Where one is not finite, which a sum of two products that
    overflow may be though it is none, all are taken once more of a gradient by a power of two.
    """
    found = pull(t_out_grad, max_weight_grad)
    xp = array_module(t_out_grad=t_out_grad)
    wrong = [None if one is None else ~xp.isfinite(one) for one in found]
    step = 60 if t_out_grad.dtype == np.float32 else 500
    shift = 0
    while shift < 4 * step and any(one is not None and bool(one.any()) for one in wrong):
        shift += step
        limit = max(math.ldexp(max_weight_grad, -shift), sys.float_info.min)
        small = pull(_scaled(t_out_grad, -shift // step, step), limit)
        if all(one is None or bool(xp.isfinite(one).all()) for one in small):
            with np.errstate(over="ignore"):
                again = [None if one is None else _scaled(one, shift // step, step) for one in small]
            return tuple(
                old if new is None else xp.where(bad, new, old)
                for old, new, bad in zip(found, again, wrong, strict=True)
            )
    return found


def pull(
    kernels: Any,
    state: Any,
    weights: Array,
    neuron: LIF,
    t_out_grad: Array,
    *,
    max_weight_grad: float,
    need_t_in_grad: bool = True,
    memory: dict[str, Any] | None = None,
) -> tuple[Array | None, Array]:
    """`Kernels.backward` of one layer, without NaN where gradients leave their dtype; see `pulled`.

    Args:
        kernels, state: of a backend; `kernels.Kernels` and `kernels.LayerState`.
        memory: what a backend takes of its caller's, by name.
    """
    memories = iter([memory or {}])

    def back(grad: Array, limit: float) -> tuple[Array | None, Array]:
        t_in_grad, (weights_grad,) = kernels.backward(
            [state],
            [weights],
            [neuron],
            grad,
            active=np.ones(len(weights), np.bool_),
            max_weight_grad=limit,
            need_t_in_grad=need_t_in_grad,
            **next(memories, {}),  # what is computed once more must not overwrite the first answer
        )
        return t_in_grad, weights_grad

    t_in_grad, weights_grad = pulled(back, t_out_grad, max_weight_grad)
    return t_in_grad, cast(Array, weights_grad)


def _scaled(array: Array, times: int, step: int) -> Array:
    """An array by 2^step, so many times over; down where `times` is negative."""
    factor = array.dtype.type(2.0 ** (step if times > 0 else -step))
    for _ in range(abs(times)):
        array = array * factor
    return array
