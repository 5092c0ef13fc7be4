"""Losses on the output spike times: each is a file, and a line here."""

from __future__ import annotations

from gpuspike.registry import Registry, extends
from gpuspike.training.losses.base import Loss as Loss
from gpuspike.training.losses.base import decide as decide
from gpuspike.training.losses.base import tied as tied
from gpuspike.training.losses.cross_entropy import TTFSCrossEntropy as TTFSCrossEntropy
from gpuspike.training.losses.time_mse import TimeMSE as TimeMSE

LOSSES: Registry[type[Loss]] = Registry(
    "loss",
    {
        "ttfs_cross_entropy": "gpuspike.training.losses.cross_entropy:TTFSCrossEntropy",
        "time_mse": "gpuspike.training.losses.time_mse:TimeMSE",
        "shift_invariant": "gpuspike.training.losses.shift_invariant:ShiftInvariant",
    },
    extends("loss", Loss),
)
