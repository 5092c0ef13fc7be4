"""Whether a chip's range of weights is in the unit of the network that comes onto it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.network.layers import Layer
from gpuspike.substrate.spec import Substrate

Array = NDArray[Any]

MUCH = 0.1
"""Share of the weights that a unit alone has to cost before it is told: with the right unit, too, some are
clipped and small ones rounded to 0, which is what the chip does."""


def other_unit(
    substrate: Substrate,
    layers: Sequence[Layer],
    weights: Sequence[Array],
    own: Collection[str] = (),
    group: str = "",
) -> str:
    """What a chip loses of weights since they are in another unit than its range, in words; "" where little.

    A range and a step are told for neurons with C (threshold - leak)/tau_syn = 1, as all presets are. What
    counts is how many more weights are clipped, or rounded to 0, than of the same network in that unit.

    Args:
        weights: (n_replica, n_pre, n_post) of each layer.
        own: values of the chip that were given for this network.
        group: before the names of values, "substrate." where they are typed.
    """
    values = {
        "weight_max": getattr(substrate, "weight_max", ()),
        "weight_lsb": getattr(substrate, "weight_lsb", 0),
    }
    known = {name: value for name, value in values.items() if value}
    units = [float(np.mean(layer.neuron.drive / np.asarray(layer.neuron.tau_syn))) for layer in layers]
    if set(known) <= set(own) or all(math.isclose(unit, 1.0, rel_tol=1e-6) for unit in units):
        return ""
    here = _lost(substrate, weights)
    there = _lost(substrate, [(w / unit).astype(w.dtype) for w, unit in zip(weights, units, strict=True)])
    told = [
        f"{what} {100 * now:.0f} % of the network's weights, and {100 * then:.0f} % if they were in its unit"
        for what, now, then in zip(("clips", "rounds to 0"), here, there, strict=True)
        if now - then >= MUCH
    ]
    if not told:
        return ""
    shown = dict.fromkeys(f"{unit:.3g}" for unit in units)
    words = f"{substrate.name} {'; it '.join(told)}: there C (threshold - leak)/tau_syn is 1, here "
    if len(shown) > 1:
        return f"{words}{', '.join(shown)} by layer"
    fits = " and ".join(f"{group}{name}={_scaled(value, units[0])}" for name, value in known.items())
    return f"{words}{next(iter(shown))}; {fits} fit{'' if len(known) > 1 else 's'} it"


def _lost(substrate: Substrate, weights: Sequence[Array]) -> tuple[float, float]:
    """Shares of the weights that are clipped, and that are rounded to 0."""
    clipped = rounded = total = 0
    for number, w in enumerate(weights):
        clipped += int((abs(w) > substrate.most(number) * (1.0 + 1e-6)).sum())
        rounded += int(((substrate.programmed(w, number) == 0.0) & (w != 0.0)).sum())
        total += w.size
    return clipped / total, rounded / total


def _scaled(value: Any, unit: float) -> str:
    """A value in another unit, as it is typed."""
    if not isinstance(value, tuple):
        return f"{value * unit:.4g}"
    each = [f"{one * unit:.4g}" for one in value]
    return each[0] if len(each) == 1 else f"[{','.join(each)}]"
