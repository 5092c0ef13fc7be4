"""Times in the configuration are in units of tau_syn, whatever tau_syn is."""

from __future__ import annotations

import numpy as np

from gpuspike.config.schema import jobs
from gpuspike.runs.experiment import build, new_trainer


def test_a_network_in_another_unit_of_time_is_the_same_network() -> None:
    # Twice the time constants and the capacitance: the same potentials, twice as late, to the last bit.
    small = ["dataset.n_train=200", "dataset.n_validation=50", "dataset.n_test=50"]
    slow = ["model.tau_syn=2", "model.tau_mem=2", "model.capacitance=2"]
    outputs, losses = [], []
    for overrides in (small, [*small, *slow]):
        parts = build(jobs(overrides, multirun=False)[0].config)
        received = parts.network.receive(parts.encode(parts.dataset.test.features))
        outputs.append(parts.network.forward(new_trainer(parts).weights, received)[-1].t_out)
        losses.append(parts.loss(outputs[-1], parts.dataset.test.labels[None])[0])
    assert np.isfinite(outputs[0]).any()
    np.testing.assert_array_equal(outputs[1], 2.0 * outputs[0])
    np.testing.assert_array_equal(losses[1], losses[0])
