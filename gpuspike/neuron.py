"""The leaky integrate-and-fire neuron: validated parameters and its postsynaptic kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.errors import ValueRangeError

NO_SPIKE = math.inf
"""The spike time of a neuron that stays silent."""


@dataclass(frozen=True)
class LIF:
    """Parameters of a current-based LIF neuron with exponential synapses.

        C du/dt = -(C/tau_mem) (u - leak) + I(t)
        I(t)    = sum_i w_i H(t - t_i) exp(-(t - t_i)/tau_syn)

    The neuron starts at the leak and speaks once, when u first reaches the threshold. Times are in any one
    unit, the same for both time constants and all spikes.

    Args:
        tau_mem: membrane time constant; inf is the non-leaky neuron.
        tau_syn: synaptic time constant; finite.
        threshold: potential at which the neuron spikes; must lie above the leak.
        leak: resting potential.
        capacitance: membrane capacitance C; the leak conductance is C/tau_mem.

    Raises:
        ValueRangeError: a parameter that is not a number, not positive where it must be, or a threshold that
            does not exceed the leak.

    Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021).
    """

    tau_mem: float = 1.0
    tau_syn: float = 1.0
    threshold: float = 1.0
    leak: float = 0.0
    capacitance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("tau_mem", "tau_syn", "threshold", "leak", "capacitance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueRangeError(f"{name} must be a number, got {value!r}")
            try:
                object.__setattr__(self, name, float(value))
            except OverflowError:
                raise ValueRangeError(f"{name} must fit a float64, got {value!r:.20}...") from None
        for name in ("tau_mem", "tau_syn", "capacitance"):
            if not getattr(self, name) > 0:
                raise ValueRangeError(f"{name} must be positive, got {getattr(self, name)!r}")
        for name in ("tau_syn", "threshold", "leak", "capacitance"):
            if not math.isfinite(getattr(self, name)):
                raise ValueRangeError(f"{name} must be finite, got {getattr(self, name)!r}")
        if not self.threshold > self.leak or not math.isfinite(self.drive):
            raise ValueRangeError(
                f"threshold must exceed the leak ({self.leak!r}) by a finite amount, got {self.threshold!r}"
            )

    @property
    def tau_slow(self) -> float:
        """The longer of the two time constants; the kernel is symmetric in them."""
        return max(self.tau_mem, self.tau_syn)

    @property
    def tau_fast(self) -> float:
        """The shorter of the two time constants; always finite."""
        return min(self.tau_mem, self.tau_syn)

    @property
    def rate_difference(self) -> float:
        """1/tau_fast - 1/tau_slow, which is 0 where the two are equal."""
        if math.isinf(self.tau_slow):
            return 1.0 / self.tau_fast
        # The difference first: it keeps its digits where the two nearly agree.
        return (self.tau_slow - self.tau_fast) / self.tau_slow / self.tau_fast

    @property
    def drive(self) -> float:
        """Charge from leak to threshold, C (threshold - leak): what a weight is measured against."""
        return self.capacitance * (self.threshold - self.leak)

    @property
    def kernel_peak(self) -> tuple[float, float]:
        """Delay and height of the kernel's maximum; the delay is inf where tau_mem is inf."""
        if self.rate_difference == 0.0:
            delay = self.tau_syn
        elif math.isinf(self.tau_slow):
            return math.inf, self.tau_fast / self.capacitance
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
            return np.exp(-s / self.tau_slow) * rise / self.capacitance

    def kernel_slope(self, delay: ArrayLike) -> NDArray[np.float64]:
        """dk/ds, the slope of `kernel`, zero for s <= 0.

        Args:
            delay: any shape, in the unit of the time constants.
        """
        s = np.asarray(delay, dtype=np.float64)
        with np.errstate(over="ignore"):
            after = np.exp(-np.maximum(s, 0.0) / self.tau_fast) / self.capacitance
        return np.where(s > 0, after - self.kernel(s) / self.tau_slow, 0.0)
