"""Constants of neurons that a network may learn beside its weights: each is a file, and a line here."""

from __future__ import annotations

from gpuspike.network.constants.base import TrainedConstant as TrainedConstant
from gpuspike.registry import Registry

_HERE = "gpuspike.network.constants"

TRAINED: Registry[type[TrainedConstant]] = Registry(
    "trained constant",
    {
        "threshold": f"{_HERE}.threshold:Threshold",
        "tau_mem": f"{_HERE}.time_constants:TauMem",
        "tau_syn": f"{_HERE}.time_constants:TauSyn",
    },
)
