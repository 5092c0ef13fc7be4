"""Runs on an emulated chip: from the command line to the summary; replicas, seeds, presets, and bad input."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_cli
import yaml
from numpy.typing import NDArray
from rich.console import Console

from gpuspike.config.fitting import chip_label
from gpuspike.config.schema import Config, conf_folder, jobs, read_substrate
from gpuspike.errors import GpuspikeError
from gpuspike.network.layers import Moment
from gpuspike.network.network import Architecture
from gpuspike.runs import run as runs
from gpuspike.runs.experiment import Experiment, build, new_trainer
from gpuspike.store import checkpoint
from gpuspike.substrate import EmulatedChip, OnChip, Substrate

Array = NDArray[Any]

CHIP = ["experiment=yin_yang_bss2", "backend=cpu", "model.hidden=[30]", "model.weight_mean=[0.3,0.3]"]
SMALL = ["training.epochs=2", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
DISTORTED = [
    "substrate.gain_std=0.1", "substrate.tau_syn_std=0.1", "substrate.input_jitter=0.05",
    "substrate.lost_spikes=0.02", "substrate.lost_inputs=0.02", "substrate.stuck_synapses=0.02",
    "substrate.dead_synapses=0.05", "substrate.dead_neurons=0.05", "substrate.time_grid=0.01",
]  # fmt: skip
PRESETS = sorted(file.stem for file in (conf_folder() / "substrate").glob("*.yaml"))
DOCS = conf_folder().parent / "docs" / "substrates.md"


def config(*overrides: str) -> Config:
    """The configuration of a single run."""
    (job,) = jobs(overrides, multirun=False)
    return job.config


def run(folder: Path, *overrides: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Checkpoint and summary of a small run."""
    summary = runs.run(config(*CHIP, *SMALL, *overrides), "test", folder, Console(file=io.StringIO()))
    return checkpoint.load(folder / "checkpoint.npz")[0], summary


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of a small run."""
    monkeypatch.setattr(runs, "draw", lambda *_: {})


def test_the_command_trains_on_the_chip_and_leaves_a_whole_run(tmp_path: Path) -> None:
    answer = test_cli.train(tmp_path, "experiment=yin_yang_bss2", *SMALL, "hydra.run.dir=run", "replicas=2")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert "20-120-3" in answer.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for split in test_cli.SPLITS:
        assert 0.2 < summary["accuracy"][split]["mean"] <= 1.0
    arrays, header = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert header["config"]["substrate"]["name"] == "bss2"
    assert header["config"]["chip_seed"] is None
    assert (arrays["weights_0"].shape, arrays["weights_1"].shape) == ((2, 25, 120), (2, 120, 3))
    assert all(np.abs(arrays[f"weights_{n}"]).max() <= 2.1 for n in range(2))
    figures = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert test_cli.FIGURES <= figures


@pytest.mark.usefixtures("no_figures")
def test_a_run_by_pieces_says_why_before_it_trains(tmp_path: Path) -> None:
    screen = io.StringIO()
    asked = config(*CHIP, *SMALL, "substrate.time_grid=0.05")
    summary = runs.run(asked, "test", tmp_path / "run", Console(file=screen))
    told = "substrate.time_grid is not in the compiled step"
    assert screen.getvalue().index(f"\nstep     piecewise, since {told}\n") < screen.getvalue().index(
        "epoch 2/2"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["emulator"] == summary["emulator"]
    assert (summary["emulator"]["step"], summary["emulator"]["step_reason"]) == ("piecewise", told)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "mode",
    [[], [*DISTORTED, "substrate.new_chip=step"], [*DISTORTED, "substrate.gradient=exact", "chip_seed=9"]],
    ids=["bss2", "another chip each step", "exact"],
)
def test_a_replica_on_its_chip_is_the_run_of_its_seed_alone_bit_for_bit(
    tmp_path: Path, mode: list[str]
) -> None:
    together, summary = run(tmp_path / "both", "seed=3", "replicas=2", *mode)
    assert max(summary["silent_fraction"]["train"][-1]) < 0.5, "the test needs a network that learns"
    alone_mode = [word.replace("chip_seed=9", "chip_seed=10") for word in mode]
    alone, summary_alone = run(tmp_path / "alone", "seed=4", *alone_mode)
    for name, array in alone.items():
        np.testing.assert_array_equal(array[0], together[name][1], err_msg=name)
    for key in ("accuracy", "loss"):
        for split in test_cli.SPLITS:
            expected = summary[key][split]["per_replica"][1]
            assert summary_alone[key][split]["per_replica"][0] == expected


@pytest.mark.usefixtures("no_figures")
def test_an_ideal_gradient_trains_the_ideal_network_and_examines_it_on_the_chip(tmp_path: Path) -> None:
    on_chip, summary = run(tmp_path / "chip", "substrate.gradient=ideal")
    ideal, ideal_summary = run(tmp_path / "ideal", "substrate=ideal")
    for name, array in ideal.items():
        np.testing.assert_array_equal(array, on_chip[name], err_msg=name)
    assert summary["loss"]["test"]["mean"] != ideal_summary["loss"]["test"]["mean"]


@pytest.mark.usefixtures("no_figures")
def test_dead_neurons_have_no_layer_bumped(tmp_path: Path) -> None:
    """Of the living ones fewer are silent than training.max_silent allows; of all, more."""
    arrays, summary = run(
        tmp_path / "run", "substrate=ideal", "substrate.dead_neurons=0.6", "training.epochs=10"
    )
    assert summary["silent_fraction"]["train"][0][0] > 0.5
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["bump_fraction"] == [0.0]
    assert np.abs(arrays["weights_0"]).max() < 3.0


def test_chips_have_the_seeds_of_their_replicas_unless_given() -> None:
    assert build(config(*CHIP, "seed=5", "replicas=3")).chip_seeds == [5, 6, 7]
    assert build(config(*CHIP, "seed=5", "replicas=3", "chip_seed=90")).chip_seeds == [90, 91, 92]
    assert build(config(*CHIP, f"seed={2**32 - 1}", "replicas=2")).chip_seeds == [2**32 - 1, 0]
    own, given = (build(config(*CHIP, *more)) for more in (["seed=90"], ["seed=5", "chip_seed=90"]))
    arrays = [parts.chip(parts.chip_seeds).arrays() for parts in (own, given)]
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])


def test_a_population_draws_a_chip_a_batch_and_examines_the_run_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = build(config(*CHIP, *SMALL, "replicas=2", "substrate.new_chip=step"))
    asked: list[tuple[int, ...]] = []
    chip = Experiment.chip
    monkeypatch.setattr(
        Experiment, "chip", lambda self, seeds: asked.append(tuple(seeds)) or chip(self, seeds)
    )
    trainer = new_trainer(parts)
    assert set(asked) == {(0, 1)}
    assert isinstance(trainer.examined, OnChip)
    assert trainer.examined.fresh is None
    assert trainer.examined.chip.seeds == (0, 1)  # type: ignore[attr-defined]
    asked.clear()
    machine = trainer.network
    assert isinstance(machine, OnChip)
    assert machine.fresh is not None
    moments = [Moment(epoch, batch) for epoch in range(2) for batch in range(3)]
    seeds = {machine.fresh(moment).seeds for moment in moments}
    assert len(seeds) == len(asked) == 6
    assert {seed % 2**32 for pair in seeds for seed in pair} == {0, 1}
    assert len({seed for pair in seeds for seed in pair} | {0, 1}) == 14, "nor the run's own"


def test_an_ideal_substrate_is_the_network_itself() -> None:
    parts = build(config(*CHIP, "substrate=ideal"))
    assert isinstance(parts.trained_machine(), Architecture)
    assert new_trainer(parts).examined is parts.network


def test_times_are_in_tau_syn_and_values_are_repeated() -> None:
    parts = build(config(*CHIP, "model.tau_syn=2", "substrate.tau_mem_std=0.1", "model.input_repeats=3"))
    found = parts.substrate
    assert (found.spike_jitter, found.trial_end, found.tau_mem_std) == (0.02, 16.0, 0.2)
    assert (found.threshold_shift, found.threshold_std, found.threshold_noise) == (0.13, 0.08, 0.04)
    t_in = parts.encode(np.array([[0.0, 0.25, 0.5, 1.0]]))
    np.testing.assert_allclose(t_in[0, 0], 2.0 * np.repeat([0.15, 0.6125, 1.075, 2.0], 3))
    assert parts.network.layers[0].n_in == 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["substrate=bss3"], "bss3"),
        (["substrate.gradient=none"], "gradient"),
        (["substrate.new_chip=never"], "new_chip"),
        (["substrate.gain=0.1"], "gain_std"),
        (["chip_seed=-1"], "chip_seed must be at least 0, got -1"),
        ([f"chip_seed={2**32}"], r"chip_seed \+ replicas must stay below 2\*\*32, got chip_seed="),
        (["model.input_repeats=0"], "model.input_repeats must be at least 1, got 0"),
        (["substrate.weight_lsb=3"], r"weight_max must be at least one step, .*=3.0, got \[2.1\]"),
        (["substrate.weight_bits=4"], "substrate.weight_bits and substrate.weight_lsb both set the grid"),
        (["substrate.weight_max=[]", "substrate.stuck_synapses=0.1"], "stuck_synapses needs a range"),
        (["substrate.weight_max=[1,2,3]"], "one entry, or one for each of the 2 layers, got 3"),
        (["substrate.time_grid=2"], "coarser than the window of the inputs, 1.85 tau_syn, got 2"),
        (["substrate.time_grid=9"], "time_grid must not be coarser than the trial"),
        (["substrate.tau_mem_shift=-2"], "tau_mem_shift must leave tau_mem positive, got -2.0 on 1.0"),
        (["substrate.dead_neurons=2"], "dead_neurons must be a share from 0 to 1, got 2.0"),
        (["model.hidden=[300]"], "on bss2 has at most 256 inputs, got a layer with 300: 44 too many"),
        (["model.hidden=[255]"], "got a network with 258, as many as 2 chips have: 2 too many"),
        (["substrate=dynapse", "model.hidden=[120]"], "a neuron on dynapse has at most 64 inputs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_no_chip_can_do_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(GpuspikeError, match=message) as caught:
        build(config(*CHIP, *overrides))
    assert "\n" not in str(caught.value)


def test_the_command_refuses_a_network_that_does_not_fit(tmp_path: Path) -> None:
    line = test_cli.assert_refused(tmp_path, "experiment=yin_yang_bss2", "model.hidden=[300]")
    assert "a neuron on bss2 has at most 256 inputs, got a layer with 300: 44 too many" in line
    assert "bss2 has 256 neurons, got a network with 303" in line
    zeros = line.rpartition("; ")[2].split(" emulates")[0].split()
    parts = build(config("experiment=yin_yang_bss2", "model.hidden=[300]", "backend=cpu", *zeros))
    assert parts.network.sizes == "20-300-3"


# --- presets --------------------------------------------------------------------


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((conf_folder() / "substrate" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_chips(name: str) -> None:
    parts = build(config(f"substrate={name}", "model.hidden=[40]", "backend=cpu"))
    assert parts.substrate.name == name
    assert parts.substrate.ideal == (name == "ideal")
    chip = EmulatedChip(parts.substrate, parts.network.layers, parts.network.kernels, [0])
    assert not set(chip.counts.values()) - {0}


def test_the_preset_of_brainscales_2_has_the_published_numbers() -> None:
    values = preset("bss2")
    assert values["weight_max"] == [2.1]
    assert values["weight_lsb"] == pytest.approx(1.0 / 30.0, rel=1e-15)
    assert Substrate(weight_max=(2.1,), weight_lsb=values["weight_lsb"]).programmed(
        np.array([9.0]), 0
    ) == pytest.approx(63 / 30)
    assert values["trial_end"] * 6.0 == 48.0  # us
    spreads = ("threshold_shift", "threshold_std", "threshold_noise", "spike_jitter")
    assert [values[name] for name in spreads] == [0.13, 0.08, 0.04, 0.01]


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_a_preset_is_on_the_page_with_its_source(name: str) -> None:
    text = DOCS.read_text(encoding="utf-8")
    section = text[text.index(f"### `{name}`") :].split("\n### ")[0].split("\n## ")[0]
    rows = {
        cells[0].strip("` "): cells[1:]
        for cells in (line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `"))
    }
    numbers = {key: value for key, value in preset(name).items() if key not in ("name", "prices")}
    assert rows.keys() == numbers.keys()
    for key, value in numbers.items():
        (value,) = value if isinstance(value, list) else (value,)
        assert eval(rows[key][0], {}) == pytest.approx(value, rel=1e-12), key
        assert any(grade in rows[key][1] for grade in ("read", "second-hand", "derived", "assumption")), key


@pytest.mark.parametrize(
    "path", sorted((conf_folder() / "substrate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_an_altered_chip_is_called_so(path: Path) -> None:
    chip = read_substrate(path)
    assert chip_label(chip) == path.stem
    between = " with" if path.stem == "ideal" else ", altered:"
    assert chip_label(replace(chip, dead_neurons=0.25)) == f"{path.stem}{between} dead_neurons=0.25"
    assert chip_label(replace(chip, name="mine", dead_neurons=0.25)) == "mine"
