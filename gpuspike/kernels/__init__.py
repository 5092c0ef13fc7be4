"""First spike times and their gradients: checked public functions, and the door to each backend's kernels."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol, cast, overload

import numpy as np
from numpy.typing import NDArray

from gpuspike.backend import array_module
from gpuspike.errors import BackendError, DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels.convolution import ConvolutionKernels
from gpuspike.kernels.limits import check_gradient, check_times, check_weights, pull
from gpuspike.kernels.single import SingleKernels
from gpuspike.neuron import LIF

Array = NDArray[Any]


class LayerState(NamedTuple):
    """What a layer has received and answered: O(n_batch (n_pre + n_post)) numbers, all the gradient needs.

    Attributes:
        t_in: (n_replica or 1, n_batch, n_pre) input spike times, bias spikes included; inf = no spike.
        order: of the same shape, what sorts each sample's; empty: a gradient that needs it sorts again.
        t_out: (n_replica, n_batch, n_post) spike times, as whoever listens gets them.
        t_cross: of the same shape, when the membranes crossed the threshold; `t_out` itself unless a chip
            moves or loses spikes on their way.
        slope: of the same shape, the membranes' slopes at `t_cross`; 0 where one is silent or only touches
            the threshold.
        t_seen: of the same shape, when a chip's spikes are seen of which `t_out` has the earliest of windows;
            None where nothing is pooled, or spikes are seen when membranes cross.
    """

    t_in: Array
    order: NDArray[np.int64]
    t_out: Array
    t_cross: Array
    slope: Array
    t_seen: Array | None = None

    @property
    def seen(self) -> Array:
        """When spikes of all neurons are seen, before anything is pooled; of a layer that has maps."""
        return self.t_cross if self.t_seen is None else self.t_seen


class Trial(NamedTuple):
    """What a chip does to one layer in each trial; the values here do nothing.

    In this order: the membrane meets the threshold, its spike is delayed, seen at the next tick, or never.

    Attributes:
        lift: (n_replica, n_batch, n_post) factor of each neuron's (threshold - leak). A neuron whose
            threshold is thereby at or below its leak is always on: it spikes at time 0, without a gradient.
        delay: of the same shape, added to the times of spikes, none of which comes before 0 by it; inf: lost.
        grid: spikes are seen at the next multiple of it; 0: when they come.
        end: spikes behind it are not seen.
        slopes: whether anybody asks for the membranes' slopes; else they may be in any unit.
    """

    lift: Array | None = None
    delay: Array | None = None
    grid: float = 0.0
    end: float = math.inf
    slopes: bool = True


SAME_TICK = 1e-3
"""Share of a tick by which a spike may miss it, by rounding."""


def seen(times: Array, grid: float, end: float) -> Array:
    """Spike times as they are seen: at the next multiple of a grid, if it is not 0; behind the end never."""
    dtype = times.dtype
    if grid == 0.0 and end == math.inf:
        return times
    if grid > 0.0:
        times = np.ceil(times.astype(np.float64) / grid - SAME_TICK) * grid
    return np.where(times > end, np.inf, times).astype(dtype, copy=False)


class Kernels(Protocol):
    """What every backend provides. Arrays are contiguous, of one dtype, and carry the replica axis.

    Layers are stacked: each receives the spikes of the one before and its own bias spikes. The input spikes
    of the first may have a replica axis of length 1, which all replicas then share.
    """

    @property
    def single(self) -> SingleKernels:
        """What computes neuron by neuron; only backends on the host have it."""
        ...

    @property
    def convolution(self) -> ConvolutionKernels | None:
        """What computes convolutional layers without gathering their patches, where a backend has it."""
        ...

    @staticmethod
    def spike_order(t_in: Array) -> NDArray[np.int64]:
        """The order that sorts each sample's spikes by time, silent inputs last; of the shape of `t_in`."""
        ...

    @staticmethod
    def forward(
        t_in: Array,
        order: NDArray[np.int64] | None,
        weights: Sequence[Array],
        neurons: Sequence[LIF],
        bias_times: Sequence[Sequence[float]],
        trials: Sequence[Trial] | None = None,
    ) -> list[LayerState]:
        """First spike times of all layers.

        Args:
            t_in: the first layer's input, its bias spikes included.
            order: `spike_order(t_in)` where the caller has kept it.
            weights, neurons, bias_times: of each layer.
            trials: of each layer, where a chip interferes.
        """
        ...

    @staticmethod
    def slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
        """Slope of the membrane that the inputs before `t_out` make, at `t_out`; 0 where not positive."""
        ...

    @staticmethod
    def crossing_slopes(t_in: Array, weights: Array, neuron: LIF, t_out: Array) -> Array:
        """Slope where the membrane that the inputs before `t_out` make, at all times, would spike; else 0.

        At the neuron's own spike times that is their slope; at somebody else's (a chip's), how steep its own
        spike of that causal set would have been.
        """
        ...

    @staticmethod
    def backward(
        states: Sequence[LayerState],
        weights: Sequence[Array],
        neurons: Sequence[LIF],
        t_out_grad: Array,
        *,
        active: NDArray[np.bool_],
        max_weight_grad: float,
        need_t_in_grad: bool,
    ) -> tuple[Array | None, list[Array]]:
        """Gradients with respect to the first layer's input times (if needed) and all weights.

        Args:
            states: of each layer, as `forward` returns them; the order is not looked at.
            t_out_grad: of the last layer's spike times.
            active: (n_replica,) replicas that want a gradient; the others' is zero.
            max_weight_grad: see `first_spikes_vjp`.
        """
        ...

    @staticmethod
    def jitter(
        times: Array, n_jittered: int, std: float, seeds: Sequence[int], purpose: int, epoch: int, batch: int
    ) -> None:
        """Adds normal jitter to the first inputs' spike times, in place; times before 0 are reflected there.

        Args:
            times: (n_replica, n_batch, n_pre), changed.
            n_jittered: inputs that jitter; those behind them, bias spikes, do not.
            std: standard deviation.
            seeds: of the replicas;  purpose, epoch, batch: the rest of the address, see `rng.normals`.
        """
        ...

    @staticmethod
    def normals(
        like: Array, seeds: Sequence[int], purpose: int, layer: int, epoch: int, batch: int, first: int
    ) -> Array:
        """Normal numbers of mean 0 and deviation 1, of the shape and type of `like`.

        Args:
            like: (n_replica, n_batch, n).
            seeds: of the replicas.
            purpose, layer, epoch, batch: the rest of the address;  first: number of the first sample; see
                `rng.normals`.
        """
        ...

    @staticmethod
    def score(loss: Any, t_out: Array, labels: NDArray[np.int64]) -> tuple[Array, Array]:
        """Loss of every sample (n_replica, n_batch), and the gradient of each replica's mean loss.

        Args:
            loss: its values, and its formula in the form that these kernels compute; see
                `gpuspike.training.losses.Loss`.
            t_out: (n_replica, n_batch, n_classes) spike times;  labels: (n_replica or 1, n_batch).
        """
        ...

    @staticmethod
    def descend(
        optimizer: Any, rates: Sequence[float], weights: Array, grad: Array, state: Sequence[Array]
    ) -> None:
        """One step on one replica's arrays, all of one shape; all but `grad` change in place.

        Args:
            optimizer: its values and its formula, see `gpuspike.training.optimizers.Optimizer`.
            rates: what this step needs besides;  state: what is kept beside the weights.
        """
        ...

    @staticmethod
    def count_silent(t_out: Array) -> Array:
        """How many (sample, neuron) pairs are silent: (n_replica, n), to be added up for each replica."""
        ...

    with_bias: Callable[[Array, Sequence[float]], Array]
    without_bias: Callable[[Array, int], Array]
    """See `gpuspike.kernels.bias`."""

    @staticmethod
    def place(array: Array) -> Array:
        """The array where these kernels compute: itself, or a copy on the device."""
        ...


def host(array: Array) -> NDArray[Any]:
    """The array on the host: itself, or a copy of one on a device, which is waited for."""
    elsewhere: Any = array
    return array if array_module(array=array) is np else elsewhere.get()


def on_host(states: Sequence[LayerState]) -> list[LayerState]:
    """What layers have answered, in arrays on the host; those from a device come without their order."""
    copies: list[LayerState] = []
    for state in states:
        if array_module(t_out=state.t_out) is not np:
            t_out = host(state.t_out)
            t_cross = t_out if state.t_cross is state.t_out else host(state.t_cross)
            order = np.empty(0, np.int64)
            t_seen = None if state.t_seen is None else host(state.t_seen)
            state = LayerState(host(state.t_in), order, t_out, t_cross, host(state.slope), t_seen)
        copies.append(state)
    return copies


def load(name: str) -> Kernels:
    """The kernels of a backend, imported (and with the CPU's, declared to Numba) only now."""
    if name not in ("cuda", "cpu", "reference"):
        raise BackendError(f"kernels exist for the backends cuda, cpu and reference, got {name!r}")
    kernels: Any = importlib.import_module(f"gpuspike.kernels.{name}")
    if name == "reference":
        importlib.import_module("gpuspike.kernels.reference.single")
    if name != "cpu":
        layers = importlib.import_module("gpuspike.kernels.layerwise").Stack(kernels)
        any_neurons = importlib.import_module("gpuspike.kernels.unit").AnyNeurons
        kernels = any_neurons(layers, kernels.constant) if name == "cuda" else layers
    return cast(Kernels, kernels)


@overload
def first_spikes(
    t_in: Array, weights: Array, neuron: LIF, *, return_slopes: Literal[False] = False
) -> Array: ...
@overload
def first_spikes(
    t_in: Array, weights: Array, neuron: LIF, *, return_slopes: Literal[True]
) -> tuple[Array, Array]: ...
def first_spikes(
    t_in: Array, weights: Array, neuron: LIF, *, return_slopes: bool = False
) -> Array | tuple[Array, Array]:
    """Times of the first spikes of LIF neurons, exact to rounding.

    Args:
        t_in: (n_batch, n_pre) or (n_replica, n_batch, n_pre) input spike times; inf = no spike.
        weights: (n_pre, n_post) or (n_replica, n_pre, n_post).
        neuron: parameters, times in the unit of `t_in`.
        return_slopes: also returns the slopes with which membranes cross the threshold, which
            `first_spikes_vjp` would otherwise find by going through all pairs once more.

    Returns:
        (n_batch, n_post) or (n_replica, n_batch, n_post) spike times, inf where the neuron stays silent; the
        same array type and dtype (float32 or float64) as the inputs. NumPy arrays are computed on the CPU,
        CuPy arrays on the current device. Arrays that are not C-contiguous are copied; arrays that are on
        another device are refused. With `return_slopes` a pair: spike times, and slopes of the same shape in
        the unit of the threshold by that of time, 0 where a neuron is silent or only touches its threshold.

    Raises:
        DtypeError, ShapeError, ValueRangeError, BackendError: what was expected and what was got.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021).
    """
    t_in, weights = _checked(neuron, t_in=t_in, weights=weights)
    replicas = t_in.ndim == 3
    if not replicas:
        t_in, weights = t_in[None], weights[None]
    (layer,) = _kernels(t_in).forward(t_in, None, [weights], [neuron], [()])
    t_out, slopes = (layer.t_out, layer.slope) if replicas else (layer.t_out[0], layer.slope[0])
    return (t_out, slopes) if return_slopes else t_out


def first_spikes_vjp(
    t_in: Array,
    weights: Array,
    neuron: LIF,
    t_out: Array,
    t_out_grad: Array,
    *,
    slopes: Array | None = None,
    max_weight_grad: float = math.inf,
) -> tuple[Array, Array]:
    """Pulls a gradient with respect to the spike times back to the inputs and the weights.

    The spike times may be the neuron's own or somebody else's (a chip's): the gradient is that of the neuron
    with the causal set t_in < t_out, and zero where its membrane does not rise at `t_out`.

    Args:
        t_in, weights, neuron: as for `first_spikes`.
        t_out: spike times, as `first_spikes` returns them.
        t_out_grad: dL/dt_out, the shape of `t_out`; ignored where `t_out` is inf.
        slopes: of the membranes at `t_out`, as `first_spikes` returns them; None: computed here, which takes
            about as long as the spike times. The gradients then differ by rounding.
        max_weight_grad: the paper's guard against exploding gradients: where any |dL/dw_i| of one (sample,
            neuron) pair exceeds it, that pair adds nothing to `weights_grad`. `t_in_grad` does not change.

    Returns:
        (t_in_grad, weights_grad), shaped like `t_in` and `weights`.

    Raises:
        DtypeError, ShapeError, ValueRangeError, BackendError: what was expected and what was got.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021); the implicit function theorem.
    """
    given = {"t_in": t_in, "weights": weights, "t_out": t_out, "t_out_grad": t_out_grad}
    arrays = _checked(neuron, **(given if slopes is None else given | {"slopes": slopes}))
    if not isinstance(max_weight_grad, Real) or not max_weight_grad > 0.0:
        raise ValueRangeError(f"max_weight_grad must be positive, got {max_weight_grad!r}")
    replicas = t_in.ndim == 3
    t_in, weights, t_out, t_out_grad, *known = arrays if replicas else [array[None] for array in arrays]
    kernels, limit = _kernels(t_in), float(max_weight_grad)
    slope = known[0] if known else kernels.slopes(t_in, weights, neuron, t_out)
    state = LayerState(t_in, np.empty(0, np.int64), t_out, t_out, slope)
    t_in_grad, weights_grad = pull(kernels, state, weights, neuron, t_out_grad, max_weight_grad=limit)
    assert t_in_grad is not None
    return (t_in_grad, weights_grad) if replicas else (t_in_grad[0], weights_grad[0])


def _kernels(array: Array) -> Kernels:
    return load("cpu" if array_module(array=array) is np else "cuda")


_AXES = {
    "t_in": ("n_batch", "n_pre"),
    "weights": ("n_pre", "n_post"),
    "t_out": ("n_batch", "n_post"),
    "t_out_grad": ("n_batch", "n_post"),
    "slopes": ("n_batch", "n_post"),
}


def _checked(neuron: LIF, **arrays: Array) -> tuple[Array, ...]:
    """The arrays, contiguous; refused if they do not fit each other, hold NaN, or leave their dtype."""
    if not isinstance(neuron, LIF):
        raise DtypeError(f"neuron must be a gpuspike.LIF, got {type(neuron).__name__}")
    xp = array_module(**arrays)
    if xp is not np:
        importlib.import_module("gpuspike.kernels.cuda.call").refuse_foreign(**arrays)
    t_in = arrays["t_in"]
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        if t_in.dtype not in (np.float32, np.float64):
            raise DtypeError(f"t_in must be float32 or float64, got {t_in.dtype}")
        if array.dtype != t_in.dtype:
            raise DtypeError(f"{name} must be {t_in.dtype}, as t_in is, got {array.dtype}")
        if array.ndim not in (2, 3) or array.ndim != t_in.ndim:
            expected = f"{t_in.ndim}, like t_in" if t_in.ndim in (2, 3) else "2 or 3"
            raise ShapeError(f"{name} must have {expected} axes, got shape {array.shape}")
        axes = _AXES[name] if array.ndim == 2 else ("n_replica", *_AXES[name])
        for axis, size in zip(axes, array.shape, strict=True):
            sizes.setdefault(axis, size)
        expected_shape = tuple(sizes[axis] for axis in axes)
        if array.shape != expected_shape:
            raise ShapeError(f"{name} must be ({', '.join(axes)}) = {expected_shape}, got {array.shape}")
    check_times("t_in", t_in)
    check_weights("weights", arrays["weights"], neuron)
    if "t_out" in arrays:
        check_times("t_out", arrays["t_out"], slack=2.0)
        check_gradient(arrays["t_out"], arrays["t_out_grad"])
    if "slopes" in arrays:
        slopes = arrays["slopes"]
        wrong = slopes[~((slopes >= 0.0) & (slopes < np.inf))]
        if wrong.size:
            raise ValueRangeError(
                f"slopes must be finite and 0 or more, as first_spikes returns them, got {float(wrong[0])}"
            )
    if xp is not np:
        return tuple(xp.ascontiguousarray(array) for array in arrays.values())
    return tuple(np.require(array, requirements=["C", "A", "W"]) for array in arrays.values())
