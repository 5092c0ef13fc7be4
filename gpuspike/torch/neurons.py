"""A neuron's constants as operators know them: numbers, and a tensor where neurons have their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gpuspike.neuron import LIF


def told(neuron: LIF) -> tuple[list[float], Tensor | None]:
    """The five constants, NaN where neurons have their own; and these, (n, n_replica or 1, n_post or 1)."""
    values = neuron.tau_mem, neuron.tau_syn, neuron.threshold, neuron.leak, neuron.capacitance
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if not arrays:
        return [float(value) for value in values], None
    numbers = [math.nan if isinstance(value, np.ndarray) else float(value) for value in values]
    rows = [value if value.ndim == 2 else value[None] for value in arrays]
    return numbers, torch.from_numpy(np.stack(np.broadcast_arrays(*rows)))


def neuron_of(numbers: Sequence[float], own: Tensor | None) -> LIF:
    """The neuron that was told."""
    if own is None:
        return _of_numbers(tuple(numbers))
    rows = iter(own.numpy())
    return LIF(*(next(rows) if math.isnan(number) else number for number in numbers))


@lru_cache(maxsize=256)
def _of_numbers(numbers: tuple[float, ...]) -> LIF:
    return LIF(*numbers)


def repeated_own(n: int, own: Tensor | None) -> Tensor | None:
    """Neurons' own constants for n times as many replicas."""
    return own if own is None or own.shape[1] == 1 else own.repeat(1, n, 1)
