"""The same counts under NeuroBench's names, as far as they mean something in a network without time steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuspike.accountant.activity import Activity


def neurobench(activity: Activity, steps: float = 1.0) -> dict[str, Any]:
    """The part "neurobench" of summary.json; numbers are means a sample, until the end of the longest trial.

    Footprint: bytes of the weights. ConnectionSparsity: share of weights that are 0. ActivationSparsity:
    share of (neuron, sample, step) without a spike, hidden and output layers. SynapticOperations:
    Effective_ACs are events at weights other than 0 (a spike multiplies nothing, so Effective_MACs are 0),
    Dense counts every synapse once a step. MembraneUpdates: a membrane changes when an event arrives, so as
    many.

    Args:
        steps: at which a neuron may spike: 1 where it speaks once, else the time steps of a trial.

    Source: names from NeuroBench's harness.
    """
    counts = activity.ended[max(activity.ended)]
    n_synapses, n_neurons = sum(activity.n_synapses), sum(activity.n_neurons[1:])
    events = float(counts.events.sum())
    return {
        "Footprint": activity.weight_bytes,
        "ConnectionSparsity": float(1.0 - np.mean(activity.n_nonzero.sum(axis=1)) / n_synapses),
        "ActivationSparsity": float(1.0 - counts.spikes[1:].sum() / (n_neurons * steps)),
        "SynapticOperations": {
            "Effective_MACs": 0.0,
            "Effective_ACs": events,
            "Dense": float(n_synapses * steps),
        },
        "MembraneUpdates": events,
    }
