"""Constants of neurons that a network may learn beside its weights: each is a file, and a line here."""

from __future__ import annotations

from gpuspike.network.constants.base import TrainedConstant as TrainedConstant
from gpuspike.registry import Registry

TRAINED: Registry[type[TrainedConstant]] = Registry(
    "trained constant", {"threshold": "gpuspike.network.constants.threshold:Threshold"}
)
