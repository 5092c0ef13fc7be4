"""Emulated chips on the device: the training of the CPU, with every distortion, replayed as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from device_on_cpu import closed, device
from matplotlib.figure import Figure
from rich.console import Console

import gpuspike as gs
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.schema import Config, jobs
from gpuspike.errors import BackendError, DivergedError
from gpuspike.kernels.cuda import call as cuda_call
from gpuspike.kernels.cuda import graph as cuda_graph
from gpuspike.runs import drawing
from gpuspike.runs.evaluate import evaluate
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.planning import memory_of
from gpuspike.runs.population import accuracies
from gpuspike.runs.run import go_on, run
from gpuspike.store import checkpoint
from gpuspike.substrate import FileChip, OnChip
from gpuspike.substrate.distortions import DISTORTIONS
from gpuspike.substrate.distortions.base import TRIAL, Distortion, value
from gpuspike.substrate.silicon import Trials
from gpuspike.training.evaluation import Labelled
from gpuspike.training.fit import step_kind

pytestmark = pytest.mark.usefixtures("cupy")

SMALL = [
    "training.epochs=2", "dataset.n_train=60", "dataset.n_validation=40", "dataset.n_test=40",
    "training.batch_size=16", "model.hidden=[10]", "replicas=2",
]  # fmt: skip
WAKING = ["training.silence=waking", "training.waking=5", "training.max_silent=[0.2,0.0]"]
CHIPS = {
    "bss2": ["substrate=bss2"],
    "ideal gradient": ["substrate=bss2", "substrate.gradient=ideal"],
    "exact gradient": ["substrate=bss2", "substrate.gradient=exact"],
    "new each step": ["substrate=bss2", "substrate.new_chip=step"],
    "taking turns": ["substrate=bss2", "substrate.new_chip=step", "substrate.population=3"],
    "weights": ["substrate=generic_digital", "substrate.time_grid=0"],
    "synapses": [
        "substrate.gain_std=0.2", "substrate.write_std=0.05", "substrate.dead_synapses=0.1",
        "substrate.stuck_synapses=0.1", "substrate.weight_max=[2.0]", "substrate.weight_bits=5",
    ],
    "synapses, exact": [
        "substrate.gain_std=0.2", "substrate.stuck_synapses=0.1", "substrate.weight_max=[2.0]",
        "substrate.gradient=exact",
    ],
    "neurons": [
        "substrate.dead_neurons=0.2", "substrate.threshold_std=0.1", "substrate.threshold_shift=0.05",
    ],
    "always on": ["substrate.threshold_std=0.6"],
    "always on, noisy": ["substrate.threshold_std=0.6", "substrate.threshold_noise=0.1"],
    "time constants": ["substrate.tau_mem_std=0.1", "substrate.tau_syn_std=0.1"],
    "arrivals": ["substrate.input_jitter=0.05", "substrate.lost_inputs=0.1"],
    "trials": ["substrate.threshold_noise=0.05", "substrate.spike_jitter=0.05", "substrate.lost_spikes=0.1"],
    "clock": ["substrate.time_grid=0.1", "substrate.trial_end=3.0"],
    "several trials": ["substrate=bss2", "training.trials=3"],
    "waking": [
        *WAKING, "substrate=bss2", "substrate.lost_spikes=0.1", "substrate.trial_end=2.0",
        "substrate.dead_neurons=0.2",
    ],
    "waking, exact gradient": [
        *WAKING, "substrate=bss2", "substrate.gradient=exact", "substrate.trial_end=2.0",
    ],
    "waking, new each step": [
        *WAKING, "substrate=bss2", "substrate.new_chip=step", "substrate.dead_neurons=0.3",
    ],
    "waking, tau": [
        *WAKING, "substrate.tau_mem_std=0.1", "substrate.time_grid=0.1", "substrate.trial_end=1.5",
    ],
    "ideal, several trials": [
        "substrate.gradient=ideal", "substrate.spike_jitter=0.1", "training.trials=3",
        "training.input_noise=0.1",
    ],
}  # fmt: skip


def config(*given: str) -> Config:
    return jobs([*SMALL, *given], multirun=False)[0].config


def trained(folder: Path, *given: str) -> dict[str, Any]:
    return run(config(*given), "custom", folder, Console(quiet=True))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuspike.runs.run.draw", lambda *_: {})


def labelled(parts: Any) -> tuple[Labelled, Labelled]:
    """Training and validation samples of a run."""
    train, validation = (parts.dataset.splits[name] for name in ("train", "validation"))
    return tuple(Labelled(parts.receive(split.features), split.labels) for split in (train, validation))  # type: ignore[return-value]


def learns(chip: Sequence[str], backend: str) -> tuple[Any, list[Any]]:
    """A trainer after two epochs, and what it says of them."""
    parts = build(config(*chip, f"backend={backend}"))
    trainer = new_trainer(parts)
    return trainer, list(trainer.train(*labelled(parts), 2))


NUMBERS = ("bss2", "jitter", "noise", "lost", "new_chip")
"""What has normal numbers drawn, which both compute in float32, each by its own functions."""


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_a_chip_trains_on_the_device_as_on_the_cpu(chip: Sequence[str]) -> None:
    (ours, told), (theirs, expected) = learns(chip, "cuda"), learns(chip, "cpu")
    assert (ours.step.kind.name, theirs.step.kind.name != "device") == ("device", True)
    # Of two epochs of three full batches and a smaller one, the first full batch runs kernel by kernel.
    assert device.launches.count("graph") == (0 if any("new_chip" in text for text in chip) else 5)
    tolerance: Any = {"rtol": 1e-8, "atol": 1e-12}
    if any(word in text for text in chip for word in NUMBERS):
        tolerance = {"rtol": 1e-5, "atol": 1e-8}
    for got, wanted in zip(told, expected, strict=True):
        for key in ("train_loss", "train_accuracy", "bump_fraction", "silent_fraction"):
            np.testing.assert_allclose(getattr(got, key), getattr(wanted, key), **tolerance, err_msg=key)
        for key in ("loss", "accuracy", "silent_fraction", "t_out"):
            a, b = (getattr(record.validation, key) for record in (got, wanted))
            np.testing.assert_allclose(a, b, **tolerance, err_msg=f"validation {key}")
    state, wanted = ours.state(), theirs.state()
    assert state.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(state[name], array, **tolerance, err_msg=name)


BUSY = ["substrate=bss2", "substrate.lost_inputs=0.05", "substrate.input_jitter=0.02", "dtype=float32"]


each_silence = pytest.mark.parametrize("silence", [[], WAKING], ids=["bumping", "waking"])


@each_silence
def test_a_captured_step_is_the_step_and_a_replica_its_run_alone(silence: list[str]) -> None:
    busy = [*BUSY, *silence]
    together, _ = learns(busy, "cuda")
    assert device.launches.count("graph") == 5
    again, _ = learns([*busy, "training.cuda_graph=false"], "cuda")
    for name, array in together.state().items():
        np.testing.assert_array_equal(again.state()[name], array, err_msg=name)
    for replica in range(2):
        alone, _ = learns([*busy, "replicas=1", f"seed={replica}"], "cuda")
        for name, array in alone.state().items():
            np.testing.assert_array_equal(array[0], together.state()[name][replica], err_msg=name)


def test_an_exact_gradient_of_weights_is_made_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at once more before the update, which alone waits for what goes beside."""
    exact = ["substrate.gain_std=0.2", "substrate.gradient=exact", "replicas=1"]
    expected, _ = learns([*exact, "training.cuda_graph=false"], "cuda")

    def is_same(seed: int) -> bool:
        device.chance.seed(seed)
        try:
            found, _ = learns(exact, "cuda")
        except DivergedError:
            return False
        pairs = [(array, expected.state()[name]) for name, array in found.state().items()]
        return all(np.array_equal(one, other) for one, other in pairs)

    assert all(map(is_same, range(2)))
    monkeypatch.setattr(cuda_graph, "in_order", nullcontext)
    assert not all(map(is_same, range(8)))


@each_silence
def test_a_step_on_a_chip_neither_waits_nor_sends(silence: list[str]) -> None:
    parts = build(config(*BUSY, *silence, "backend=cuda"))
    trainer = new_trainer(parts)
    train, _ = labelled(parts)
    step: Any = trainer.step
    step.begin(train, np.stack([np.arange(60)] * 2), 0, 0.01)
    step.batch(0)
    step.batch(1)
    with closed(library=True):
        step.batch(2)
        step.batch(3)  # a smaller one, kernel by kernel


def test_a_run_on_a_chip_goes_on_on_the_device_and_is_evaluated_there(tmp_path: Path) -> None:
    chip = ["substrate=bss2"]
    ours, theirs = (trained(tmp_path / name, *chip, f"backend={name}") for name in ("cuda", "cpu"))
    assert (ours["emulator"]["backend"], ours["emulator"]["step"]) == ("cuda", "device")
    assert ours["substrate"]["chip_seeds"] == theirs["substrate"]["chip_seeds"]
    for key in ("test_accuracy_without_chip", "gradient_angle_degrees"):
        a, b = (told["substrate"][key]["per_replica"] for told in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for folder in ("cuda", "cpu"):
        asked = ["training.epochs=3", "backend=cuda"]
        longer = go_on(tmp_path / folder, Console(quiet=True), config(*chip, *asked), asked)
        assert (longer["emulator"]["backend"], longer["run"]["epochs_done"]) == ("cuda", 3)
    states = [checkpoint.load(tmp_path / folder / "checkpoint.npz")[0] for folder in ("cuda", "cpu")]
    for name, array in states[0].items():
        np.testing.assert_allclose(array, states[1][name], rtol=1e-5, atol=1e-8, err_msg=name)
    answers = [
        evaluate(
            EvaluateConfig(
                run=str(tmp_path / "cuda"),
                prices=["brainscales2"],
                chips=3,
                backend=config(f"backend={name}").backend,
            ),
            Console(quiet=True),
        )
        for name in ("cuda", "cpu")
    ]
    assert answers[0]["emulator"]["backend"] == "cuda"
    assert (
        answers[0]["population"]["per_replica_and_chip"] == answers[1]["population"]["per_replica_and_chip"]
    )


@dataclass(frozen=True)
class Late(Distortion):
    """Input spikes come late, by a look at values that no captured step can take."""

    scope: ClassVar[str] = TRIAL

    late: float = value(0.0)

    def arrive(self, times: Any, trials: Trials) -> None:
        times += self.late * float(times.max() > 0.0)


def test_a_distortion_that_knows_no_device_is_named_and_auto_takes_the_cpu() -> None:
    assert build(config("substrate=bss2")).backend.name == "cuda"
    DISTORTIONS.add("late", Late)
    try:
        assert build(config("substrate.late=0.1")).backend.name == "cpu"
        with pytest.raises(BackendError, match=r"substrate\.late needs backend=cpu or reference, got cuda"):
            build(config("substrate.late=0.1", "backend=cuda"))
    finally:
        DISTORTIONS.remove("late")


def test_all_of_the_package_s_distortions_know_a_device() -> None:
    assert all(DISTORTIONS[name].device for name in DISTORTIONS)


def test_a_network_in_python_answers_and_learns_on_a_chip_of_the_device() -> None:
    rng = np.random.default_rng(3)
    t_in, labels = rng.uniform(0.0, 2.0, (24, 4)), rng.integers(3, size=24)
    times = np.linspace(0.0, 3.0, 7)
    answers = []
    for backend in ("cuda", "cpu"):
        net = gs.Network([4, 10, 3], [[0.9], [0.9]], seed=2, backend=backend).on(gs.Chip("bss2", seed=5))
        assert net.backend.name == backend
        found = [net(t_in), *net.membranes(t_in[0], times), np.array(net.accuracy(t_in, labels))]
        history = gs.fit(net, t_in, labels, epochs=2, batch_size=8)
        answers.append([*found, np.array(history.train_loss), *net.parameters.weights])
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)


def test_thresholds_of_each_neuron_have_noise_of_their_own() -> None:
    t_in = np.random.default_rng(3).uniform(0.0, 2.0, (24, 4))
    neurons = [gs.LIF(threshold=np.linspace(0.8, 1.2, n)) for n in (10, 3)]
    nets = [gs.Network([4, 10, 3], seed=2, neuron=neurons, backend=name) for name in ("cuda", "cpu")]
    ours, theirs = (net.on(gs.Chip("ideal", threshold_noise=0.1))(t_in) for net in nets)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_chip_that_answers_from_the_host_is_refused_by_name(tmp_path: Path) -> None:
    parts = build(config("backend=cuda"))
    given = parts.loss, parts.recipe.optimizer, parts.rule, 2
    file_chip = FileChip(tmp_path, parts.network.layers, parts.substrate)
    with pytest.raises(BackendError, match="a FileChip has no device step: it needs backend=cpu"):
        step_kind(OnChip(parts.network, file_chip), *given, on_device=True)


def test_a_population_leaves_no_constants_on_the_device() -> None:
    parts = build(config("substrate=bss2", "replicas=1", "backend=cuda"))
    weights = parts.network.initial_weights([0], [0.5, 0.5], [0.5, 0.5], np.float64)
    _, data = labelled(parts)
    accuracies(parts, weights, data, 0, 2)
    kept = cuda_call.on_device.cache_info().currsize
    accuracies(parts, weights, data, 7, 3)
    assert cuda_call.on_device.cache_info().currsize == kept


def test_what_a_chip_keeps_there_is_planned() -> None:
    def planned(*given: str) -> dict[str, int]:
        return memory_of(build(config("backend=cuda", *given))).parts

    synapses = 2 * (5 * 10 + 11 * 3)  # with a bias spike each, two replicas
    assert "emulated chip" not in planned()
    assert planned("substrate.gain_std=0.1")["emulated chip"] == synapses * (4 * 8 + 2 * 8)
    twice = planned("substrate=bss2", "substrate.new_chip=step")
    assert twice["emulated chip"] == 2 * planned("substrate=bss2")["emulated chip"]
    alone, each = planned("substrate.gain_std=0.1"), planned("substrate.input_jitter=0.1")
    name = "activations of an evaluation"
    assert each[name] - alone[name] >= 40 * 5 * (8 + 8), "times and order of the second replica, at least"


def test_figures_of_a_run_on_a_chip_are_drawn_of_what_the_device_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuspike.runs.run.draw", drawing.draw)
    monkeypatch.setattr(drawing, "_plane", lambda *_: Figure())
    trained(tmp_path, "substrate=bss2", "backend=cuda", "training.epochs=1")
    assert (tmp_path / "figures" / "membrane_traces.png").exists()
