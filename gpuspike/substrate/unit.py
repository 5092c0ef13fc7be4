"""Whether a chip's values are in the unit of the network that comes onto it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.network.layers import Layer
from gpuspike.neuron import LIF
from gpuspike.substrate.spec import Substrate

Array = NDArray[Any]

MUCH = 0.1
"""Share of the weights that a unit alone has to cost before it is told: with the right unit, too, some are
clipped and small ones rounded to 0, which is what the chip does."""


WEIGHTS, POTENTIALS = ("weight_max", "weight_lsb"), ("threshold_shift", "threshold_std", "threshold_noise")
"""Values of a chip in the unit of weights, and in that of potentials; all others are shares or times."""


def units_of(neuron: LIF) -> dict[str, float]:
    """By how much the values of a preset grow that have a unit, for networks of such neurons.

    Presets are told for C (threshold - leak)/tau_syn = 1 and threshold - leak = 1.
    """
    weight = float(np.mean(neuron.drive / np.asarray(neuron.tau_syn)))
    return dict.fromkeys(WEIGHTS, weight) | dict.fromkeys(POTENTIALS, float(np.mean(neuron.span)))


def other_unit(
    substrate: Substrate,
    layers: Sequence[Layer],
    weights: Sequence[Array],
    presets: Mapping[str, Collection[Any]],
    own: Collection[str] = (),
    group: str = "",
    where: str = "",
) -> str:
    """What a chip does to a network in another unit than its values are, in words; "" where it is little.

    Of weights counts how many more are clipped, or rounded to 0, than of the same network in the preset's
    unit; of potentials how far the unit is off.

    Args:
        weights: (n_replica, n_pre, n_post) of each layer.
        presets: of each value that has a unit what the presets have it at; another one is somebody's own, and
            meant as it is.
        own: values of the chip that were given for this network.
        group: before the names of values, "substrate." where they are typed.
        where: behind them, where else they go.
    """
    units = [units_of(layer.neuron) for layer in layers]
    known = {name: getattr(substrate, name, 0) for name in units[0] if name not in own}
    known = {name: value for name, value in known.items() if value and value in presets[name]}
    of_weights = [unit["weight_max"] for unit in units]
    told = []
    other = not all(math.isclose(unit, 1.0, rel_tol=1e-6) for unit in of_weights)
    if other and any(name in known for name in WEIGHTS):
        here = _lost(substrate, weights)
        there = _lost(substrate, [(w / u).astype(w.dtype) for w, u in zip(weights, of_weights, strict=True)])
        told = [
            f"{what} {100 * now:.0f} % of the network's weights, "
            f"and {100 * then:.0f} % if they were in its unit"
            for what, now, then in zip(("clips", "rounds to 0"), here, there, strict=True)
            if now - then >= MUCH
        ]
    if told:
        told = [f"{'; it '.join(told)}: there C (threshold - leak)/tau_syn is 1, here {_shown(of_weights)}"]
    else:
        known = {name: value for name, value in known.items() if name not in WEIGHTS}
    spans = [unit["threshold_std"] for unit in units]
    if any(name in known for name in POTENTIALS) and not all(abs(span - 1.0) < MUCH for span in spans):
        told.append(f"moves thresholds by what is told for threshold - leak = 1, here {_shown(spans)}")
    else:
        known = {name: value for name, value in known.items() if name not in POTENTIALS}
    if not told:
        return ""
    words = f"{substrate.name} {'; it '.join(told)}"
    if any(unit != units[0] for unit in units):
        return f"{words} by layer"
    *most, last = [f"{group}{name}={_scaled(value, units[0][name])}" for name, value in known.items()]
    fits = f"{', '.join(most)} and {last}" if most else last
    return f"{words}; {fits}{where} fit{'' if most else 's'} it"


def _shown(units: Sequence[float]) -> str:
    return ", ".join(dict.fromkeys(f"{unit:.3g}" for unit in units))


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
        return _exactly(value * unit)
    each = [_exactly(one * unit) for one in value]
    return each[0] if len(each) == 1 else f"[{','.join(each)}]"


def _exactly(value: float) -> str:
    """The fewest digits that give a value again when they are typed: 0.03333 is another step than 1/30."""
    return next(
        text
        for digits in range(4, 18)
        if math.isclose(float(text := f"{value:.{digits}g}"), value, rel_tol=1e-14)
    )
