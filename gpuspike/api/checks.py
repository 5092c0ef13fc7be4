"""What comes in at the door: arrays of spike times and labels, and names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gpuspike.errors import ConfigError, DtypeError, ShapeError, ValueRangeError, extent
from gpuspike.kernels.limits import check_times
from gpuspike.kinds import is_number, whole
from gpuspike.network.delays import DelayRule, kinds_of
from gpuspike.network.layers import Layer
from gpuspike.network.plan import NO_CLASSES, Plan, idle, read_plan
from gpuspike.neuron import LIF

Array = NDArray[Any]


def spike_times(name: str, times: ArrayLike, n_in: int, dtype: DTypeLike) -> Array:
    """(n_samples, n_in) spike times in a network's type; inf = no spike.

    Raises:
        DtypeError: no array of float32 or float64.
        ShapeError: another shape, or no samples.
        ValueRangeError: NaN, -inf, or times that the network's type has no room for.
    """
    array = _array(name, times)
    if array.dtype not in (np.float32, np.float64):
        raise DtypeError(f"{name} must hold spike times as float32 or float64, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != n_in:
        raise ShapeError(f"{name} must be (n_samples, n_inputs) = (n_samples, {n_in}), got {array.shape}")
    if not len(array):
        raise ShapeError(f"{name} must hold at least one sample, got none")
    if np.isnan(array).any() or (array == -np.inf).any():
        raise ValueRangeError(f"{name} must not hold NaN or -inf; no spike is +inf")
    check_times(name, array, dtype=dtype)
    return np.ascontiguousarray(array, dtype)


def one_sample(name: str, times: ArrayLike, n_inputs: int, dtype: np.dtype[Any]) -> Array:
    """(1, n_inputs) spike times of a sample.

    Raises:
        ShapeError, DtypeError, ValueRangeError: as for `spike_times`.
    """
    if (given := np.shape(times)) != (n_inputs,):
        hint = "; t_in[0] is one" if len(given) == 2 else ""
        raise ShapeError(f"{name} must be the times of one, ({n_inputs},), got {given}{hint}")
    return spike_times(name, np.asarray(times)[None], n_inputs, dtype)


def class_labels(name: str, labels: ArrayLike, n_samples: int, n_classes: int) -> NDArray[np.int64]:
    """(n_samples,) labels from 0 to n_classes - 1.

    Raises:
        DtypeError: no array of integers.
        ShapeError: not one for each sample.
        ValueRangeError: a label without an output neuron.
    """
    array = _array(name, labels)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name} must be integers from 0 to {n_classes - 1}, got {array.dtype}")
    if array.shape != (n_samples,):
        raise ShapeError(f"{name} must be one for each of the {n_samples} samples, got shape {array.shape}")
    if array.min() < 0 or array.max() >= n_classes:
        least = int(array.min())
        fits = abs(least) == 1 and int(array.max()) - least == n_classes - 1
        hint = f": {name} {'-' if least > 0 else '+'} {abs(least)} do" if fits else ""
        raise ValueRangeError(
            f"{name} must lie from 0 to {n_classes - 1}, a number for each output neuron, got "
            f"{extent(array)}{hint}"
        )
    return array.astype(np.int64)


def n_classes(layers: Sequence[Layer]) -> int:
    """Neurons of the last layer, of which each stands for a class.

    Raises:
        ConfigError: they are those of maps.
    """
    if layers[-1].convolution is not None:
        raise ConfigError(f"layers of a network that answers {NO_CLASSES}")
    return layers[-1].n_out


def _array(name: str, values: ArrayLike) -> Array:
    if isinstance(values, np.ma.MaskedArray):
        hint = "" if "labels" in name else ": no spike is inf"
        raise DtypeError(f"{name} must not be masked{hint}, got a MaskedArray")
    if hasattr(values, "__cuda_array_interface__"):
        raise DtypeError(f"{name} must be a NumPy array, got one on a device: the network places it itself")
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        if isinstance(values, tuple):  # a split, for example, whose parts were not taken apart
            raise ShapeError(
                f"{name} must be one array, got {len(values)} things of different shapes"
            ) from None
        raise ShapeError(f"{name} must be an array, got {error}") from None


def working_type(dtype: DTypeLike) -> np.dtype[Any]:
    """The type of times and weights.

    Raises:
        DtypeError: another one than float32 and float64.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise DtypeError(f"dtype must be float32 or float64, got {dtype!r}") from None
    if found not in (np.float32, np.float64):
        raise DtypeError(f"dtype must be float32 or float64, got {found}")
    return found


def finite_axis(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """(n,) finite numbers.

    Raises:
        ValueRangeError: something else.
    """
    try:
        array = np.asarray(_array(name, values), np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueRangeError(f"{name} must be one axis of finite numbers, got {values!r:.80}") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        got = f"shape {array.shape}" if array.ndim != 1 else f"{array[~np.isfinite(array)][0]}"
        raise ValueRangeError(f"{name} must be one axis of finite numbers, got {got}")
    return array


def seeds(seed: Any, replicas: Any) -> tuple[int, ...]:
    """Of each replica.

    Raises:
        ValueRangeError: no whole numbers, or ones that generators have no room for.
    """
    first, count = whole("seed", seed, 0), whole("replicas", replicas, 1)
    if first + count > 2**63:
        raise ValueRangeError(f"seed + replicas must be at most 2**63, got seed={seed}")
    return tuple(range(first, first + count))


def read_sizes(sizes: Sequence[Any]) -> tuple[int, tuple[int, int, int] | None, Plan]:
    """Inputs, the image that they are or None, and layers, as `gs.Network` takes them.

    Raises:
        ValueRangeError: something else.
    """
    array = isinstance(sizes, np.ndarray) and sizes.ndim == 1
    if not (array or isinstance(sizes, (list, tuple, range))) or not len(sizes):
        raise ValueRangeError(f"sizes must be those of the layers, inputs first, got {sizes!r}")
    first, image = sizes[0], None
    if isinstance(first, tuple | list):
        if len(first) not in (2, 3):
            raise ValueRangeError(
                f"an image must be (rows, columns) or (rows, columns, channels), got {tuple(first)}"
            )
        rows, columns, channels = [whole("an image's size", size, 1) for size in [*first, 1][:3]]
        image = rows, columns, channels
        first = math.prod(image)
    plan = read_plan(sizes[1:])
    for note in idle(plan):
        warnings.warn(note, stacklevel=4)
    return whole("a layer's size", first, 1), image, plan


def delay_rule(given: DelayRule | None, delays: str | Sequence[str]) -> DelayRule | None:
    """The rule of delays, if one is given.

    Warns:
        UserWarning: one is given, and there are no delays; in the name of who calls the caller.

    Raises:
        ConfigError: something else.
    """
    if not isinstance(given, DelayRule | None):
        raise ConfigError(f"delay_rule must be a gs.DelayRule, got {given!r}")
    if given is not None and not kinds_of(delays):
        warnings.warn(f"delay_rule is read with delays, and delays={delays!r} has none", stacklevel=3)
    return given


def usual_delays(neuron: LIF) -> DelayRule:
    """The rule of delays where none is given: up to tau_syn, or the mean of those of neurons."""
    return DelayRule().timed(float(np.mean(neuron.tau_syn)))


def by_layer(name: str, given: float | Sequence[float] | None, rule: list[float]) -> list[float]:
    """Numbers, one a layer: those of a rule, unless others or one for all are given.

    Raises:
        ValueRangeError: numbers for another count of layers, or not finite.
    """
    if given is None:
        return rule
    one = is_number(given) or (isinstance(given, np.ndarray) and given.ndim == 0)
    values: Any = [given] * len(rule) if one else given
    try:
        numbers = [] if isinstance(values, (str, bytes, Mapping)) else [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != len(rule) or not np.isfinite(numbers).all():
        raise ValueRangeError(
            f"{name} must be a finite number, or one for each of the {len(rule)} layers, got {given!r}"
        )
    return numbers


def bias_spikes(bias_times: Any) -> list[tuple[float, ...]]:
    """Times of bias spikes, a tuple for each layer.

    Raises:
        ValueRangeError: they are not lists of finite times.
    """
    try:
        if isinstance(bias_times, (str, Mapping)):
            raise TypeError
        given = list(bias_times)
        if any(isinstance(times, (str, Mapping)) for times in given):
            raise TypeError
        bias = [tuple(float(t) for t in times) for times in given]
    except (TypeError, ValueError, OverflowError):
        numbers = isinstance(bias_times, list) and all(isinstance(t, (int, float)) for t in bias_times)
        each = f"; did you mean {[[t] for t in bias_times]!r}?" if numbers else ""
        raise ValueRangeError(
            f"bias_times must have a list of times for each layer, got {bias_times!r}{each}"
        ) from None
    if not all(np.isfinite(times).all() for times in bias):
        raise ValueRangeError(f"bias_times must be finite, got {bias_times!r}")
    return bias


def layer_bias(bias_times: Any) -> tuple[float, ...]:
    """Times of the bias spikes of one layer.

    Raises:
        ValueRangeError: they are no list of finite times.
    """
    try:
        return bias_spikes([bias_times])[0]
    except ValueRangeError:
        flat = bias_times[0] if isinstance(bias_times, list | tuple) and len(bias_times) == 1 else bias_times
        meant = [flat] if is_number(flat) else flat
        near = isinstance(meant, list | tuple) and meant != bias_times and all(map(is_number, meant))
        hint = f"; did you mean {list(meant)!r}?" if near else ""
        raise ValueRangeError(
            f"bias_times of a layer must be a list of finite times, got {bias_times!r}{hint}"
        ) from None
