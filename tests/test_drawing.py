"""What a run draws of a network on a chip is the chip's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuspike.config.schema import jobs
from gpuspike.network.network import answer
from gpuspike.runs import drawing
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.training.evaluation import Labelled

QUIET = ["substrate.threshold_noise=0", "substrate.spike_jitter=0", "substrate.input_jitter=0"]


def test_membranes_on_a_chip_cross_the_threshold_where_the_chip_s_neurons_spike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ["experiment=yin_yang_bss2", "model.hidden=[12]", "dataset.n_test=20", "seed=3", *QUIET]
    (job,) = jobs(given, multirun=False)
    parts = build(job.config)
    weights = new_trainer(parts).weights
    split = parts.dataset.test
    test = Labelled(parts.network.receive(parts.encode(split.features)), split.labels)
    on_chip = answer(parts.on_chip(parts.chip_seeds[:1]), weights, test.received)
    nominal = answer(parts.network, weights, test.received)
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        drawing.plots,
        "membrane_traces",
        lambda times, traces, spikes, *_: drawn.update(times=times, traces=traces, spikes=spikes),
    )
    t_out = on_chip[-1].t_out[0].astype(np.float64) / parts.config.model.tau_syn
    drawing._membranes(parts, weights, test, t_out)
    hidden = drawn["spikes"][0]
    assert any(np.array_equal(hidden, state) for state in on_chip[0].t_out[0].astype(float))
    assert not any(np.array_equal(hidden, state) for state in nominal[0].t_out[0].astype(float))
    step = drawn["times"][1] - drawn["times"][0]
    for traces, spikes in zip(drawn["traces"], drawn["spikes"], strict=True):
        for trace, spike in zip(traces.T, spikes, strict=True):
            if not np.isfinite(spike) or spike == 0:
                continue
            k = int(np.searchsorted(drawn["times"], spike))
            slope = np.abs(np.diff(trace[k - 2 : k + 2])).max() / step
            assert abs(trace[k] - parts.config.model.threshold) <= 2 * slope * step + 0.02
