"""Which class a network decides for, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.api import checks
from gpuspike.api.network import Network
from gpuspike.errors import ConfigError
from gpuspike.network.decision import decisions

Array = NDArray[Any]


def require_network(net: Any) -> None:
    """Refuses what is no network; raises ConfigError."""
    if not isinstance(net, Network):
        raise ConfigError(f"net must be a gs.Network, got {net!r:.80}")


def decide(net: Network, t_in: ArrayLike) -> tuple[NDArray[np.int64], Array]:
    """Classes that a network decides for, and when: the output neuron that spikes first.

    A sample is presented until it is decided, no longer: faster than all spike times, `net(t_in)`, and to the
    bit the same. On a chip, and where spikes are delayed, it is presented whole.

    Args:
        t_in: (n_samples, n_inputs) spike times, inf = no spike.

    Returns:
        (n_samples,) classes, -1 where no output neuron spikes, the lowest at a tie; and (n_samples,) times,
        inf there. With a first axis of replicas where there are. On a time grid ties are many:
        `gs.price(...).summary["tied_share"]` is their share.

    Raises:
        ConfigError: a network that ends with a convolution, whose neurons are no classes.
        ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
    """
    require_network(net)
    checks.n_classes(net.architecture.layers)
    t_in = checks.spike_times("t_in", t_in, net.sizes[0], net.dtype)
    found = decisions(net.machine, net.parameters.weights, t_in)
    return (found.classes, found.times) if net.replicas > 1 else (found.classes[0], found.times[0])
