"""What a spike of weight W does to a neuron's current, as NIR says it and as tools write and read it.

NIR's CubaLIF is

    tau_syn dI/dt = -I + w_in S,     tau_mem dv/dt = (v_leak - v) + r I,     S = sum_i W_i delta(t - t_i)

so that a spike adds J = j W to I, j = w_in/tau_syn, and dv/dt gets g I, g = r/tau_mem. `gpuspike.LIF` has
jumps of the weights themselves and 1/C before the current: the two are the same neuron where C = 1/(j g).
Tools have another j or g:

    strict     j = w_in/tau_syn       g = r/tau_mem   the equation
    jaxsnn     j = 1                  g = 1/tau_mem   knows no w_in, and no r but 1
    hxtorch    j = 1                  g = r/tau_mem   knows no w_in
    snntorch   j = w_in dt/tau_syn    g = r/tau_mem   a spike lasts a step, dt = 1e-4 s; so in SpikingJelly

Sources: the documentation of NIR; public code of jaxsnn 0.3, hxtorch, snnTorch 1.0 and SpikingJelly 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import ConfigError, DataError
from gpuspike.exchange.graph import Node
from gpuspike.exchange.units import Scale
from gpuspike.neuron import LIF

Array = NDArray[Any]

DIALECTS = ("strict", "jaxsnn", "hxtorch", "snntorch")

SNNTORCH_STEP = 1e-4
"""Seconds of a time step that snnTorch writes and expects."""

RUN = ("CubaLIF", "IF")
"""Kinds of nodes that this package's neurons are; an IF behind an LI."""


def check(dialect: str) -> str:
    """A dialect that there is.

    Raises:
        ConfigError: another one.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"dialect must be one of {', '.join(DIALECTS)}, got {dialect!r}")
    return dialect


def neuron_of(node: Node, synapse: Node | None, dialect: str, scale: Scale) -> LIF:
    """The neurons of a layer, for weights as the file has them.

    Numbers where all neurons have the same, else (n,) arrays.

    Args:
        node: a CubaLIF, or an IF behind `synapse`, an LI, which is the neuron without a leak.

    Raises:
        DataError: neurons that cannot be run, by the node's name.
    """
    if node.kind == "IF":
        if synapse is None:
            raise DataError(f"{node} must follow an LI node, its synapses, got none")
        if dialect != "strict":
            raise DataError(
                f"{node} behind {synapse}: the dialect {dialect} knows CubaLIF alone, strict has both"
            )
        tau = _positive(synapse, "tau", "tau_syn")
        if synapse.array("v_leak", usual=0.0).any():
            raise DataError(f"{synapse} must rest at v_leak = 0, got another: a current that never ends")
        capacitance = tau / _positive(synapse, "r") / _positive(node, "r")
        return _made(node, {
            "tau_mem": np.asarray(np.inf),
            "tau_syn": tau / scale.one,
            "threshold": node.array("v_threshold"),
            "leak": np.asarray(0.0),
            "capacitance": capacitance / scale.one,
        })  # fmt: skip
    tau_mem, tau_syn = _positive(node, "tau_mem"), _positive(node, "tau_syn")
    r, w_in = _positive(node, "r", usual=1.0), _positive(node, "w_in", usual=1.0)
    if dialect == "jaxsnn" and (r != 1.0).any():
        raise DataError(f"{node}: the dialect jaxsnn knows r = 1 alone, got another")
    jump = {"strict": tau_syn / w_in, "snntorch": tau_syn / (w_in * SNNTORCH_STEP / scale.unit)}
    inverse = jump.get(dialect, np.asarray(1.0)) * (tau_mem / r)
    return _made(node, {
        "tau_mem": tau_mem / scale.one,
        "tau_syn": tau_syn / scale.one,
        "threshold": node.array("v_threshold"),
        "leak": node.array("v_leak", usual=0.0),
        "capacitance": inverse / scale.one,
    })  # fmt: skip


def _positive(node: Node, name: str, told: str = "", usual: float | None = None) -> Array:
    array = node.array(name, usual=usual).astype(np.float64)
    if not ((array > 0.0) & np.isfinite(array)).all():
        of = f" (the {told})" if told else ""
        raise DataError(f"{node}: {name}{of} must be positive and finite, got {array.tolist()!s:.60}")
    return array


def _made(node: Node, values: dict[str, Array]) -> LIF:
    arrays = {name: np.asarray(value, np.float64).ravel() for name, value in values.items()}
    if all((array == array[0]).all() for array in arrays.values()):
        parameters: dict[str, Any] = {name: float(array[0]) for name, array in arrays.items()}
    else:
        parameters = {n: float(a[0]) if (a == a[0]).all() else a for n, a in arrays.items()}
    try:
        return LIF(**parameters)
    except (ValueError, TypeError) as error:
        raise DataError(f"{node}: {error}") from None


@dataclass(frozen=True)
class Written:
    """A layer as a file says it.

    Attributes:
        values: of its CubaLIF, or of its IF;  synapse: of the LI before that, or None.
        factor: (n,) what its weights are multiplied by; all 1 where they are written as they are.
    """

    values: dict[str, Array]
    synapse: dict[str, Array] | None
    factor: Array


def written(neuron: LIF, n: int, dialect: str, scale: Scale, layer: str) -> Written:
    """How the neurons of a layer are said; arrays of (n,).

    Args:
        layer: its name, for errors.

    Raises:
        ConfigError: neurons that the dialect has no words for.
    """
    tau_mem, tau_syn, threshold, leak, capacitance = neuron.table(1, n)[:, 0]
    tau_mem, tau_syn, capacitance = (array * scale.one for array in (tau_mem, tau_syn, capacitance))
    ones = np.ones(n)
    without = np.isinf(tau_mem)
    if without.any():
        if dialect != "strict":
            raise ConfigError(f"{layer}: the dialect {dialect} has no neurons without a leak, strict has")
        if not without.all():
            raise ConfigError(
                f"{layer}: NIR says neurons with and without a leak by different nodes, got both in one layer"
            )
        synapse = {"tau": tau_syn, "r": tau_syn.copy(), "v_leak": np.zeros(n)}
        fires = {"r": 1.0 / capacitance, "v_threshold": threshold - leak, "v_reset": np.zeros(n)}
        return Written(fires, synapse, ones)
    r, w_in, factor = tau_mem / capacitance, ones, ones
    if dialect == "strict":
        w_in = tau_syn.copy()
    elif dialect == "jaxsnn":
        r, factor = ones, tau_mem / capacitance
    elif dialect == "snntorch":
        step = SNNTORCH_STEP / scale.unit
        r, w_in, factor = tau_mem / step, tau_syn / step, step / capacitance
        threshold, leak = threshold - leak, np.zeros(n)
        if np.ptp(threshold) > 0:  # snnTorch reads one threshold
            factor, threshold = factor / threshold, ones
    if dialect in ("jaxsnn", "hxtorch") and any(
        np.ptp(v) > 0 for v in (tau_mem, tau_syn, threshold, leak, r)
    ):
        raise ConfigError(
            f"{layer}: {dialect} reads layers of equal neurons alone, got neurons with constants of their own"
        )
    values = {
        "tau_mem": tau_mem,
        "tau_syn": tau_syn,
        "r": r,
        "v_leak": leak,
        "v_threshold": threshold,
        "v_reset": leak.copy(),
        "w_in": w_in,
    }
    return Written(values, None, factor)
