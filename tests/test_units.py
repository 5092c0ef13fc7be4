"""Times in the configuration are in units of tau_syn, whatever tau_syn is."""

from __future__ import annotations

import io
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import gpuspike as gs
from gpuspike.cli import need, plan
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.files import conf_folder
from gpuspike.config.schema import jobs
from gpuspike.runs import evaluate, run
from gpuspike.runs.adopt import adopt
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.units import unit_note
from gpuspike.substrate.axes import axis, names
from gpuspike.substrate.unit import POTENTIALS, WEIGHTS, units_of
from gpuspike.training.optimizers import SGD, Adam
from gpuspike.training.optimizers.adamw import AdamW


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


@pytest.mark.parametrize(
    ("optimizer", "delays"), [(Adam(), ()), (AdamW(weight_decay=0.1), ("axonal",)), (SGD(), ())]
)
def test_a_training_in_another_unit_is_the_same_training(optimizer: Any, delays: tuple[str, ...]) -> None:
    # A power of two, so that every number is the same but for its exponent.
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.0, 2.0, (60, 4)), rng.integers(0, 3, 60)
    nets = []
    for unit in (1.0, 2.0**-30):
        net = gs.Network(
            [4, 12, 3], [[0.9 * unit], [0.9 * unit]], neuron=gs.LIF(unit, unit), delays=delays, backend="cpu"
        )
        gs.fit(net, unit * t_in, labels, epochs=3, batch_size=20, optimizer=optimizer)
        nets.append(net)
    one, other = (net.parameters.arrays() for net in nets)
    for name, array in one.items():
        scale = 2.0**30 if name.startswith("weights_") else 1.0
        np.testing.assert_array_equal(other[name], scale * array)


def test_what_suits_weights_of_another_unit_is_told() -> None:
    def notes(*given: str) -> str:
        return " ".join(jobs([*given], multirun=False)[0].notes)

    slow = ["model.tau_syn=10", "model.tau_mem=10"]
    words = "in units of C (threshold - leak)/tau_fast = 0.1, and what they are drawn and trained with is"
    told = notes(*slow)
    assert words in told
    assert told.endswith(
        "in their unit: optimizer.learning_rate=0.0005 training.bump_value=5e-05 training.max_weight_grad=2 "
        "model.weight_mean=[0.15,0.05] model.weight_std=[0.08,0.08]"
    )
    assert jobs(["model.tau_syn=0"], multirun=False)[0].notes == []  # is refused elsewhere
    advised = told.partition("in their unit: ")[2].split()
    assert words not in notes(*slow, *advised) + notes() + notes("model.tau_mem=inf", "model.tau_syn=2")
    own = notes("experiment=own", "dataset=yin_yang", *slow, "training.max_weight_grad=inf", "optimizer=sgd")
    assert own.endswith("in their unit: optimizer.learning_rate=0.0001 training.bump_value=5e-05")


def in_seconds(scale: float) -> gs.Network:
    """A network whose unit of time is another."""
    bias, neuron = [[0.9 * scale], [0.9 * scale]], gs.LIF(scale, scale)
    return gs.Network([4, 12, 3], bias, neuron=neuron, weight_mean=0.8 / scale, weight_std=0.3 / scale)


def notes_of(net: gs.Network, chip: gs.Chip | None, **given: str) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        net.on(chip, **given)
    assert all(note.filename == __file__ for note in told)
    return [str(note.message) for note in told]


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (
            0.01,
            r"bss2 clips \d+ % of the network's weights, and 0 % if they were in its unit: there C .* is 1, "
            r"here 100; weight_max=210 and weight_lsb=3\.3{13} fit it",
        ),
        (
            100.0,
            r"bss2 rounds to 0 \d+ % of .*, here 0\.01; weight_max=0\.021 and weight_lsb=0\.0003{14} fit it",
        ),
    ],
)
def test_weights_in_another_unit_than_a_chip_s_range_are_noted(
    scale: float, words: str, tmp_path: Path
) -> None:
    net = in_seconds(scale)
    with pytest.warns(UserWarning, match=words):
        on_chip = net.on(gs.Chip("bss2"))
    on_chip.save(tmp_path / "net.npz")
    gs.load(tmp_path / "net.npz")  # has been told
    assert notes_of(net, gs.Chip("bss2", weight_max=2.1 / scale, weight_lsb=1 / 30 / scale)) == []
    assert (
        notes_of(net, gs.Chip("bss2", weight_max=[0.1 / scale] * 2, weight_lsb=0.01 / scale)) == []
    )  # as is wished


def test_weights_that_a_chip_clips_in_its_own_unit_are_not_noted() -> None:
    assert notes_of(in_seconds(1.0), gs.Chip("bss2", weight_max=0.1)) == []
    assert notes_of(in_seconds(1.01), gs.Chip("bss2")) == []
    mixed = gs.Network([4, 12, 3], neuron=[gs.LIF(0.01, 0.01), gs.LIF(0.02, 0.02)])
    assert notes_of(mixed, gs.Chip("bss2"))[0].endswith(", here 100, 50 by layer")


@pytest.mark.parametrize("unit", [20.0, 0.02])
def test_thresholds_of_a_chip_in_another_unit_are_noted(unit: float, tmp_path: Path) -> None:
    neuron = gs.LIF(threshold=unit)
    net = gs.Network([4, 12, 3], [[0.9], [0.9]], neuron=neuron, seed=3)
    (note,) = notes_of(net, gs.Chip("bss2"))
    words = f"moves thresholds by what is told for threshold - leak = 1, here {unit:g}; "
    assert words in note
    fits = [f"threshold_shift={0.13 * unit:.4g}", f"threshold_std={0.08 * unit:.4g}"]
    assert note.endswith(f"{', '.join(fits)} and threshold_noise={0.04 * unit:.4g} fit it")
    advised = {name: float(value) for name, value in re.findall(r"(\w+)=([-\d.e+]+)", note)}
    assert set(advised) == {*WEIGHTS, *POTENTIALS}
    fitting = gs.Chip("bss2", seed=1, **advised)
    assert notes_of(net, fitting) == []
    usual = gs.Network([4, 12, 3], [[0.9], [0.9]], seed=3).on(gs.Chip("bss2", seed=1))
    t_in = np.random.default_rng(0).uniform(0.0, 2.0, (20, 4))
    np.testing.assert_allclose(
        net.on(fitting)(t_in), usual(t_in), rtol=0.03
    )  # a step of four digits rounds otherwise
    text = (conf_folder() / "substrate" / "bss2.yaml").read_text()
    for name, value in advised.items():  # in a file, too, which is what gpuspike-evaluate advises
        text = re.sub(
            rf"^{name}: .*$", f"{name}: {[value] if name == 'weight_max' else value}", text, flags=re.M
        )
    (tmp_path / "mine.yaml").write_text(text)
    assert notes_of(net, gs.Chip(tmp_path / "mine.yaml")) == []
    assert notes_of(net, gs.Chip("dynapse"))[0].endswith(f"threshold_std={0.1 * unit:.4g} fit it")


def test_a_search_begins_in_the_unit_of_its_network() -> None:
    units = units_of(gs.LIF(tau_syn=1e-3, threshold=20.0))
    assert axis("weight_bits").in_units(units).changes({"weight_max": ()}, 4) == {
        "weight_lsb": 0, "weight_bits": 4, "weight_max": [60_000.0],
    }  # fmt: skip
    assert axis("weight_range").in_units(units).start == 40_000.0
    assert axis("threshold_spread").in_units(units).grid[0] == pytest.approx(0.4)
    assert axis("mismatch").in_units(units).parts == {
        "threshold_std": 20.0,
        "tau_mem_std": 1.0,
        "tau_syn_std": 1.0,
    }
    for name in names():
        assert axis(name).in_units(units_of(gs.LIF())) == axis(name)


def test_a_run_says_that_its_chip_has_weights_in_another_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ["model.tau_syn=0.01", "model.tau_mem=0.01", "substrate.max_neurons=0"]
    words = "there C (threshold - leak)/tau_syn is 1, here 100; "

    def enough(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for module in (run, evaluate):
        monkeypatch.setattr(module, "prepare_kernels", enough)

    def told(*given: str) -> str:
        console, overrides = Console(file=io.StringIO(), width=500), [*other, *given]
        (job,) = jobs(overrides, multirun=False)
        with pytest.raises(KeyboardInterrupt):
            run.run(job.config, "yin_yang", tmp_path / "run", console, overrides)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert f"{words}substrate.weight_max=210 and substrate.weight_lsb=3.3333333333333 fit it" in told(
        "substrate=bss2"
    )
    own = ["substrate=bss2", "substrate.weight_max=210", "substrate.weight_lsb=3.333"]
    assert words not in told(*own) + told()

    (job,) = jobs(other, multirun=False)
    parts = build(job.config)
    weights = new_trainer(parts).weights
    adopt(job.config, parts.network.layers, weights, tmp_path / "kept", "yin_yang")
    for substrate, noted in (("bss2", True), ("", False)):
        console = Console(file=io.StringIO(), width=500)
        with pytest.raises(KeyboardInterrupt):
            evaluate.evaluate(
                EvaluateConfig(str(tmp_path / "kept"), prices=["odin"], substrate=substrate), console
            )
        assert (words in console.file.getvalue()) == noted  # type: ignore[attr-defined]


def test_a_gradient_of_a_chip_is_noted_where_there_is_none() -> None:
    net = in_seconds(1.0)
    assert notes_of(net, None, gradient="exact") == ["gradient='exact' is of a chip, got no chip"]
    (note,) = notes_of(net, gs.Chip("ideal"), gradient="exact")
    assert note == "gradient='exact' is of a chip, got Chip('ideal', seed=0), which distorts nothing"


def test_advice_is_all_there_is_to_say_and_can_be_typed_back() -> None:
    # Weights that are not in their unit yet would not have been told how coarse a step is for them.
    given = ["substrate=bss2", "model.threshold=0.05", "dataset.n_train=200", "dataset.n_validation=100"]
    (job,) = jobs(given, multirun=False)

    def note(*more: str) -> str:
        parts = build(jobs([*given, *more], multirun=False)[0].config)
        return unit_note(parts, new_trainer(parts).weights, [*given, *more])

    told = note()
    step = next(word for word in told.replace(",", "").split() if word.startswith("substrate.weight_lsb="))
    assert np.isclose(float(step.partition("=")[2]), 0.05 / 30, rtol=1e-13)
    advised = [
        text for each in job.notes for text in re.findall(r"[a-z_.]+=[^ ]+", each.partition("unit: ")[2])
    ]
    advised += re.findall(r"substrate\.[a-z_]+=[0-9.e-]+[0-9]", told)
    assert len(advised) == 5 + 5
    assert note(*advised) == ""


def test_plan_and_need_note_the_unit_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["substrate=bss2", "model.capacitance=20", "dataset.n_train=200", "dataset.n_validation=100"]
    words = "substrate.weight_max=42 and substrate.weight_lsb=0.66666666666667 fit it"
    monkeypatch.setattr("gpuspike.cli.plan._show", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["gpuspike-plan", *given])
    plan.plan()
    assert words in capsys.readouterr().err
    monkeypatch.setattr("gpuspike.runs.need_answer.search", stop)
    asked = ["accuracy=0.5", "distortion=gain_std", f"folder={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["gpuspike-need", *given, *asked])
    with pytest.raises(SystemExit):
        need.need()
    assert words in " ".join(capsys.readouterr().out.split())


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["model.tau_mem=0.02"], "tau_mem=0.02 and tau_syn=1 are 50 times apart"),
        (["model.tau_syn=20"], "tau_mem=1 and tau_syn=20 are 20 times apart"),
        (["model.tau_mem=10"], ""),
        (["model.tau_mem=inf"], ""),
        (["model.tau_mem=0.02", "model.tau_syn=0.001"], ""),
    ],
)
def test_time_constants_that_may_be_in_two_units_are_told(given: list[str], told: str) -> None:
    (job,) = jobs(given, multirun=False)
    found = [note.partition(": ")[2] for note in job.notes if "in one unit of time" in note]
    assert found == [told] * bool(told)
