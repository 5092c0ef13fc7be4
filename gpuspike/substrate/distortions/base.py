"""What a distortion is: values that a user sets, their checks, and what the chip asks it to do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.kernels.waiting import computed
from gpuspike.network.layers import Layer
from gpuspike.substrate.silicon import Clock, Silicon, Trials

if TYPE_CHECKING:
    from gpuspike.substrate.spec import Substrate

Array = NDArray[Any]

CHIP, TRIAL, SPIKE, NO_CHANCE = "once a chip", "in each trial", "for each spike", "never"
"""When a distortion is drawn: its scope."""

HOOKS = ("most", "program", "hold", "draw", "arrive", "lift", "delay", "clock")
"""What a distortion may do to a chip."""


@dataclass(frozen=True)
class Distortion:
    """One thing that a chip does to a network; each field is a key `substrate.<field>`.

    A distortion whose values are all at their defaults is off: nothing of it is asked, drawn or changed. The
    chip goes through these hooks one after the other, at each through the distortions that are on, in the
    order of their registry:

        program            weights, as the chip can hold them, without chance
        hold               delays that a network learns, likewise
        draw               once a chip, each layer: what becomes of its synapses and neurons
        arrive             in each trial: input spikes on their way to the first layer
        lift               in each trial: thresholds
        delay              in each trial: a layer's spikes on their way to whoever listens
        clock              when input spikes, spikes and bias spikes are seen, the last that happens to them

    Attributes:
        scope: when it is drawn.
        compiled: whether the compiled training step does it too. It has what `program` and `draw` make of
            weights and neurons, unless these have time constants of their own, and what the package's own
            threshold noise, spike jitter and end of the trial do. A chip that does more is trained on by the
            piecewise step, which goes through all hooks.
        device: whether its hooks take a device's arrays as they take NumPy's: `program`, `hold`, `arrive`,
            `lift` and `delay` with NumPy's functions, which CuPy answers, and without a look at a value; what
            they add of their own is `trials.constant(array)`. A chip with another one is trained on by the
            CPU. The package's own are given arrays there that are computed later, see `kernels.cuda.lazy`, to
            be one kernel together; they keep to the operations that those know.
    """

    scope: ClassVar[str]
    compiled: ClassVar[bool] = False
    device: ClassVar[bool] = False

    @property
    def active(self) -> bool:
        """Whether any value differs from its default."""
        return any(getattr(self, f.name) != f.default for f in dataclasses.fields(self))

    def __str__(self) -> str:
        """Its keys that are on."""
        on = (f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default)
        return ", ".join(f"substrate.{key}" for key in on)

    @property
    def packaged(self) -> bool:
        """Whether it is the package's: a user's is given a device's arrays as they are."""
        return type(self).__module__.startswith("gpuspike.")

    def as_given(self, array: Array) -> Array:
        """The array as the distortion is given it: only the package's get one that is computed later."""
        return array if self.packaged else computed("before", array)

    def does(self, hook: str) -> bool:
        """Whether it has something to do there."""
        return getattr(type(self), hook) is not getattr(Distortion, hook)

    def check_rules(self) -> None:
        """Makes sure of each value by its rule; raises ValueRangeError."""
        for f in dataclasses.fields(self):
            if rule := f.metadata.get("rule"):
                rule(f.name, getattr(self, f.name))

    def check(self, substrate: Substrate) -> None:
        """Makes sure that values, each of which keeps its rule, do not contradict each other.

        Args:
            substrate: all values of the chip, those of other distortions among them.

        Raises:
            ValueRangeError: what was expected, and what was got, by the key.
        """

    def check_fit(self, layers: Sequence[Layer]) -> None:
        """Makes sure that the values fit the layers of a network; raises ConfigError."""

    def check_window(self, window: float, unit: float) -> None:
        """Makes sure that the values suit the times of the inputs; raises ConfigError.

        Args:
            window: from the earliest to the latest input;  unit: what the user calls 1.
        """

    def time_noise(self) -> float:
        """Standard deviation of what it adds to the times of spikes, as far as nobody can know it."""
        return 0.0

    def most(self, layer: int) -> float:
        """Largest |weight| of a layer, which the trainer's weights are kept to."""
        del layer
        return math.inf

    def program(self, weights: Array, layer: int) -> Array:
        """A layer's weights (n_chip, n_pre, n_out) as the chip can hold them; a new array, or the same."""
        del layer
        return weights

    def hold(self, delays: Array) -> Array:
        """Delays of one kind as the chip can hold them; a new array, or the same."""
        return delays

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        """Draws what is drawn once a chip, into the layer's silicon."""

    def arrive(self, times: Array, trials: Trials) -> None:
        """Changes input spike times (n_chip, n_batch, n_in) in place; inf: none arrives."""

    def lift(self, trials: Trials) -> Array | None:
        """What is added to thresholds (n_chip, n_batch, n_out), in units of threshold - leak: a new array."""

    def delay(self, delay: Array | None, trials: Trials) -> Array | None:
        """Delays (n_chip, n_batch, n_out) of spikes by this and what came before; None: 0; inf: lost."""
        del trials
        return delay

    def clock(self, clock: Clock) -> Clock:
        """When spikes are seen, by this and what came before."""
        return clock


def _spread(name: str, value: float) -> None:
    if not 0.0 <= value < math.inf:
        raise ValueRangeError(f"substrate.{name} must be 0 or more and finite, got {value!r}")


SHARES = (0.0, 1.0)
"""The least and the largest."""


def _share(name: str, value: float) -> None:
    if not SHARES[0] <= value <= SHARES[1]:
        raise ValueRangeError(f"substrate.{name} must be a share from 0 to 1, got {value!r}")


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueRangeError(f"substrate.{name} must be finite, got {value!r}")


def value(
    default: Any,
    *,
    time: bool = False,
    rule: Callable[[str, Any], None] | None = None,
    less_is_worse: bool = False,
    ends: tuple[float, float] | None = None,
) -> Any:
    """A value: off at its default.

    Args:
        time: given in tau_syn by users; distortions see it in the model's unit.
        rule: called with name and value, raises ValueRangeError.
        less_is_worse: the network suffers as the value falls, as that of a range; for a search of its border.
        ends: the least and the largest value that such a search tries.
    """
    told = {"time": time, "rule": rule, "less_is_worse": less_is_worse, "ends": ends}
    return dataclasses.field(default=default, metadata=told)


def spread(*, time: bool = False) -> Any:
    """A standard deviation, or another width from 0 on; off at 0."""
    return value(0.0, time=time, rule=_spread)


def share() -> Any:
    """A probability; off at 0."""
    return value(0.0, rule=_share, ends=SHARES)


def shift(*, time: bool = False) -> Any:
    """A difference of either sign; off at 0."""
    return value(0.0, time=time, rule=_finite)
