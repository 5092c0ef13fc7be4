"""Exact, vectorised simulation and training of spiking networks that code with first spike times."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuspike.kernels import first_spikes as first_spikes
from gpuspike.kernels import first_spikes_vjp as first_spikes_vjp
from gpuspike.neuron import LIF as LIF
from gpuspike.neuron import NO_SPIKE as NO_SPIKE

if TYPE_CHECKING:
    from gpuspike.accountant.price import Cost as Cost
    from gpuspike.api.chip import Chip as Chip
    from gpuspike.api.classifier import FirstSpikeClassifier as FirstSpikeClassifier
    from gpuspike.api.data import dataset as dataset
    from gpuspike.api.decide import decide as decide
    from gpuspike.api.files import load as load
    from gpuspike.api.fit import fit as fit
    from gpuspike.api.history import History as History
    from gpuspike.api.network import Network as Network
    from gpuspike.api.nir import export_nir as export_nir
    from gpuspike.api.nir import import_nir as import_nir
    from gpuspike.api.price import price as price
    from gpuspike.api.price import price_spikes as price_spikes
    from gpuspike.datasets.encoding import latency as latency
    from gpuspike.exchange.events import read_nir_spikes as read_nir_spikes
    from gpuspike.exchange.events import write_nir_spikes as write_nir_spikes
    from gpuspike.network.delays import DelayRule as DelayRule
    from gpuspike.network.parameters import Parameters as Parameters
    from gpuspike.training.fit import Recipe as Recipe

_PLACES = {
    "Chip": "gpuspike.api.chip",
    "Cost": "gpuspike.accountant.price",
    "DelayRule": "gpuspike.network.delays",
    "FirstSpikeClassifier": "gpuspike.api.classifier",
    "History": "gpuspike.api.history",
    "Network": "gpuspike.api.network",
    "Parameters": "gpuspike.network.parameters",
    "Recipe": "gpuspike.training.fit",
    "dataset": "gpuspike.api.data",
    "decide": "gpuspike.api.decide",
    "export_nir": "gpuspike.api.nir",
    "fit": "gpuspike.api.fit",
    "import_nir": "gpuspike.api.nir",
    "latency": "gpuspike.datasets.encoding",
    "load": "gpuspike.api.files",
    "price": "gpuspike.api.price",
    "price_spikes": "gpuspike.api.price",
    "read_nir_spikes": "gpuspike.exchange.events",
    "write_nir_spikes": "gpuspike.exchange.events",
}
"""Where the names are that are imported when somebody first asks for them."""

__all__ = ["LIF", "NO_SPIKE", "Chip", "Cost", "DelayRule", "FirstSpikeClassifier", "History", "Network"]
__all__ += [
    "Parameters",
    "Recipe",
    "dataset",
    "decide",
    "export_nir",
    "first_spikes",
    "first_spikes_vjp",
    "fit",
    "import_nir",
    "latency",
    "load",
    "price",
    "price_spikes",
    "read_nir_spikes",
    "write_nir_spikes",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
