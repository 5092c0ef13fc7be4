"""What a run draws of a network on a chip is the chip's; and how new figures take the places of old ones."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuspike.config.schema import jobs
from gpuspike.network.network import answer
from gpuspike.runs import drawing
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.training.evaluation import Labelled, evaluate

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


def figures_of(parts: Any, folder: Path) -> dict[str, str]:
    """Those of an untrained network."""
    weights, split = new_trainer(parts).weights, parts.dataset.test
    test = Labelled(parts.network.receive(parts.encode(split.features)), split.labels)
    result = evaluate(parts.network, weights, test, parts.loss, 20)
    return drawing.draw(parts, weights, test, result, [], folder, {})


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_new_figures_take_the_old_ones_places_together(
    error: type[BaseException] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, folder = build(jobs(["dataset.n_test=20"], multirun=False)[0].config), tmp_path / "figures"
    folder.mkdir()
    for name in ("spike_raster", "learning_curves", "somebody_s"):
        (folder / f"{name}.png").write_text("old")
    made: list[str] = []

    def saved(_figure: Any, place: Path, name: str) -> None:
        made.append(name)
        if name == "learning_curves":
            raise ValueError("no records")
        if error is not None and len(made) == 3:
            raise error
        place.mkdir(exist_ok=True)
        for ending in (".pdf", ".png"):
            (place / f"{name}{ending}").write_text("new")

    monkeypatch.setattr(drawing.plots, "save", saved)
    monkeypatch.setattr(drawing, "second_process", lambda _: None)
    for what in ("plots", "histograms", "chip_plots", "image_plots", "raster_plots", "silence_plots"):
        monkeypatch.setattr(drawing, what, Plots(getattr(drawing, what)))
    with nullcontext() if error is None else pytest.raises(error):
        missing = figures_of(parts, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]
    there = {path.name: path.read_text() for path in folder.iterdir()}
    if error is None:
        assert missing["learning_curves"] == "ValueError: no records"
        assert "learning_curves.png" not in there
        assert there["spike_raster.png"] == there["spike_raster.pdf"] == "new"
        assert there["somebody_s.png"] == "old"
    else:
        assert there == dict.fromkeys(("spike_raster.png", "learning_curves.png", "somebody_s.png"), "old")


def test_figures_that_find_no_place_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file")
    assert "FileExistsError" in str(drawing._moved(tmp_path, tmp_path / "figures", "plane"))


class Plots:
    """A module whose figures are nothing, but for what saves them."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        kept = getattr(self._module, name)
        return kept if name == "save" or not callable(kept) else lambda *_, **__: None
