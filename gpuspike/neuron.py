"""The leaky integrate-and-fire neuron: validated parameters and its postsynaptic kernel."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.errors import ShapeError, ValueRangeError

NO_SPIKE = math.inf
"""The spike time of a neuron that stays silent."""

Parameter = float | NDArray[np.float64]
"""One number for all neurons of a layer, or (n_post,) or (n_replica or 1, n_post or 1) numbers."""


@dataclass(frozen=True, eq=False)
class LIF:
    """Parameters of a current-based LIF neuron with exponential synapses.

        C du/dt = -(C/tau_mem) (u - leak) + I(t)
        I(t)    = sum_i w_i H(t - t_i) exp(-(t - t_i)/tau_syn)

    The neuron starts at the leak and speaks once, when u first reaches the threshold. Times are in any one
    unit, the same for both time constants and all spikes.

    Each parameter is a number (an array without axes is one), the same for all neurons of a layer, or a NumPy
    array with a number for each: (n_post,), or (n_replica, n_post), where either of the two axes may also be
    1. Arrays are copied, as float64, and cannot be written to. Two neurons are equal where all their
    parameters are, shapes included.

    Args:
        tau_mem: membrane time constant; inf is the non-leaky neuron.
        tau_syn: synaptic time constant; finite.
        threshold: potential at which the neuron spikes; must lie above the leak.
        leak: resting potential.
        capacitance: membrane capacitance C; the leak conductance is C/tau_mem.

    Raises:
        ValueRangeError: a parameter that is neither a number nor an array of them, not positive where it must
            be, or a threshold that does not exceed the leak.
        ShapeError: arrays that do not fit each other, or have no or more than two axes.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021).
    """

    tau_mem: Parameter = 1.0
    tau_syn: Parameter = 1.0
    threshold: Parameter = 1.0
    leak: Parameter = 0.0
    capacitance: Parameter = 1.0

    def __post_init__(self) -> None:
        for name in _NAMES:
            object.__setattr__(self, name, _parameter(name, getattr(self, name)))
        for name in ("tau_mem", "tau_syn", "capacitance"):
            _refuse(name, "positive", getattr(self, name), lambda values: values > 0)
        for name in ("tau_syn", "threshold", "leak", "capacitance"):
            _refuse(name, "finite", getattr(self, name), np.isfinite)
        try:
            with np.errstate(over="ignore"):
                drive = np.asarray(self.drive)
            np.broadcast_shapes(*(np.shape(value) for value in self._values()))
        except ValueError:
            shapes = {name: np.shape(v) for name, v in zip(_NAMES, self._values(), strict=True) if np.ndim(v)}
            raise ShapeError(f"arrays of parameters must fit each other, got {shapes}") from None
        wrong = ~((np.asarray(self.span) > 0) & np.isfinite(drive))
        if wrong.any():
            at = np.unravel_index(np.flatnonzero(wrong)[0], wrong.shape)
            threshold, leak = (
                float(np.broadcast_to(value, wrong.shape)[at]) if np.ndim(value) else value
                for value in (self.threshold, self.leak)
            )
            raise ValueRangeError(
                f"threshold must exceed leak={leak!r} by a finite amount, got {threshold!r}{_where(at)}"
            )

    def _values(self) -> tuple[Parameter, ...]:
        return self.tau_mem, self.tau_syn, self.threshold, self.leak, self.capacitance

    def _key(self) -> tuple[Any, ...]:
        return tuple((v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in self._values())

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, LIF) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def uniform(self) -> bool:
        """Whether all neurons have the same parameters, each given as one number."""
        return all(isinstance(value, float) for value in self._values())

    @property
    def shares_taus(self) -> bool:
        """Whether all neurons have the same time constants, each given as one number."""
        return isinstance(self.tau_mem, float) and isinstance(self.tau_syn, float)

    def table(self, n_replica: int, n_post: int) -> NDArray[np.float64]:
        """Every neuron's parameters, (5, n_replica, n_post), in the order in which they are declared.

        Raises:
            ShapeError: an array that is not for this many neurons.
        """
        table = np.empty((len(_NAMES), n_replica, n_post))
        for row, name, value in zip(table, _NAMES, self._values(), strict=True):
            try:
                row[...] = value
            except ValueError:
                raise ShapeError(
                    f"{name} must be a number, (n_post,) = ({n_post},) or (n_replica, n_post) = "
                    f"({n_replica}, {n_post}) numbers, got shape {np.shape(value)}"
                ) from None
        return table

    def of(self, replica: int, post: int) -> LIF:
        """One neuron of those that arrays describe, as a LIF of numbers."""

        def pick(value: Parameter) -> float:
            if isinstance(value, float):
                return value
            rows = np.atleast_2d(value)
            return float(rows[replica if len(rows) > 1 else 0, post if rows.shape[1] > 1 else 0])

        return LIF(*(pick(value) for value in self._values()))

    def of_replica(self, replica: int) -> LIF:
        """The neurons of one replica, with that axis still there: (1, n_post) where each has its own."""

        def pick(value: Parameter) -> Parameter:
            own = isinstance(value, np.ndarray) and value.ndim == 2 and len(value) > 1
            return value[replica : replica + 1] if own else value  # type: ignore[index]

        return LIF(*(pick(value) for value in self._values()))

    def _taus(self) -> tuple[float, float]:
        if isinstance(self.tau_mem, float) and isinstance(self.tau_syn, float):
            return self.tau_mem, self.tau_syn
        raise ValueRangeError(
            "one pair of time constants is needed here, got arrays of them: take one neuron with `of`"
        )

    @property
    def span(self) -> Parameter:
        """From leak to threshold."""
        return self.threshold - self.leak

    @property
    def tau_slow(self) -> float:
        """The longer of the two time constants; the kernel is symmetric in them."""
        return max(self._taus())

    @property
    def tau_fast(self) -> float:
        """The shorter of the two time constants; always finite."""
        return min(self._taus())

    @property
    def rate_difference(self) -> float:
        """1/tau_fast - 1/tau_slow, which is 0 where the two are equal."""
        if math.isinf(self.tau_slow):
            return 1.0 / self.tau_fast
        # The difference first: it keeps its digits where the two nearly agree.
        return (self.tau_slow - self.tau_fast) / self.tau_slow / self.tau_fast

    @property
    def drive(self) -> Parameter:
        """Charge from leak to threshold, C (threshold - leak): what a weight is measured against."""
        return self.capacitance * self.span

    @property
    def _one_capacitance(self) -> float:
        if isinstance(self.capacitance, float):
            return self.capacitance
        raise ValueRangeError(
            "one capacitance is needed here, got an array of them: take one neuron with `of`"
        )

    @property
    def kernel_peak(self) -> tuple[float, float]:
        """Delay and height of the kernel's maximum; the delay is inf where tau_mem is inf."""
        if self.rate_difference == 0.0:
            delay = self.tau_fast
        elif math.isinf(self.tau_slow):
            return math.inf, float(self.tau_fast / self._one_capacitance)
        else:
            # log1p keeps the ratio's digits where the time constants nearly agree.
            delay = math.log1p((self.tau_slow - self.tau_fast) / self.tau_fast) / self.rate_difference
        return delay, float(self.kernel(delay))

    def kernel(self, delay: ArrayLike) -> NDArray[np.float64]:
        """Potential that one input of weight 1 leaves after `delay`: k(s), zero for s <= 0.

        k(s) = (1/C) exp(-s/tau_slow) (1 - exp(-d s))/d,    d = 1/tau_fast - 1/tau_slow

        the difference of two exponentials, written so that it stays exact as tau_mem/tau_syn
        goes to 1 (there (1 - exp(-d s))/d -> s).

        Args:
            delay: any shape, in the unit of the time constants.
        """
        # The largest finite number stands for inf, so that no inf * 0 arises in the limit.
        s = np.clip(np.asarray(delay, dtype=np.float64), 0.0, np.finfo(np.float64).max)
        rate = self.rate_difference
        with np.errstate(over="ignore"):
            rise = s if rate == 0.0 else -np.expm1(-rate * s) / rate
            return np.exp(-s / self.tau_slow) * rise / self._one_capacitance

    def kernel_slope(self, delay: ArrayLike) -> NDArray[np.float64]:
        """dk/ds, the slope of `kernel`, zero for s <= 0.

        Args:
            delay: any shape, in the unit of the time constants.
        """
        s = np.asarray(delay, dtype=np.float64)
        with np.errstate(over="ignore"):
            after = np.exp(-np.maximum(s, 0.0) / self.tau_fast) / self._one_capacitance
        return np.where(s > 0, after - self.kernel(s) / self.tau_slow, 0.0)


_NAMES = tuple(field.name for field in dataclasses.fields(LIF))


def _parameter(name: str, value: Any) -> Parameter:
    """A float, or a read-only copy of an array; an array without axes is a number."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and not value.ndim:
        value = value[()]
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.ndim:
        if value.ndim > 2:
            raise ShapeError(f"{name} must be a number or have one or two axes, got shape {value.shape}")
        value = np.array(value, np.float64)
        value.flags.writeable = False
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueRangeError(f"{name} must be a number or a NumPy array of numbers, got {value!r:.60}")
    try:
        return float(value)
    except OverflowError:
        raise ValueRangeError(f"{name} must fit a float64, got {value!r:.20}...") from None


def _refuse(name: str, expected: str, value: Parameter, test: Any) -> None:
    values = np.asarray(value)
    wrong = ~test(values)
    if wrong.any():
        at = np.unravel_index(np.flatnonzero(wrong)[0], wrong.shape)
        raise ValueRangeError(f"{name} must be {expected}, got {float(values[at])!r}{_where(at)}")


def _where(at: tuple[Any, ...]) -> str:
    return f" at {tuple(int(n) for n in at)}" if at else ""


def of_values(values: Any) -> LIF:
    """The neuron whose constants stand in something by their names."""
    return LIF(*(getattr(values, name) for name in _NAMES))


def weight_unit(neuron: LIF) -> float:
    """C (threshold - leak)/tau_fast of neurons; of those with numbers of their own the mean."""
    fast = np.minimum(np.asarray(neuron.tau_mem), np.asarray(neuron.tau_syn))
    return float(neuron.drive) / neuron.tau_fast if neuron.uniform else float((neuron.drive / fast).mean())
