"""Optimisers: each is a file, and a line here."""

from __future__ import annotations

from gpuspike.registry import Registry, extends
from gpuspike.training.optimizers.adam import Adam as Adam
from gpuspike.training.optimizers.base import Descent as Descent
from gpuspike.training.optimizers.base import Optimizer as Optimizer
from gpuspike.training.optimizers.sgd import SGD as SGD

OPTIMIZERS: Registry[type[Optimizer]] = Registry(
    "optimizer",
    {
        "adam": "gpuspike.training.optimizers.adam:Adam",
        "sgd": "gpuspike.training.optimizers.sgd:SGD",
        "adamw": "gpuspike.training.optimizers.adamw:AdamW",
    },
    extends("optimizer", Optimizer),
)
