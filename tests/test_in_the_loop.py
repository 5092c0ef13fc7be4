"""Training on hardware in the loop: another integrator in the chip's place, and a laboratory behind files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.datasets import yin_yang
from gpuspike.datasets.encoding import latency
from gpuspike.errors import ConfigError, DataError, OutputError
from gpuspike.kernels import first_spikes, load
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.network.network import Architecture, Machine
from gpuspike.neuron import LIF
from gpuspike.substrate import FileChip, OnChip, Substrate, files
from gpuspike.training.bumping import Bumping
from gpuspike.training.evaluation import Labelled, evaluate
from gpuspike.training.losses import TTFSCrossEntropy
from gpuspike.training.optimizers import Adam, Descent
from gpuspike.training.schedule import Schedule
from gpuspike.training.step import TrainingRule
from gpuspike.training.trainer import EpochRecord, Trainer

Array = NDArray[Any]

BSS2_WEIGHTS = Substrate(weight_max=(4.0,), weight_lsb=1.0 / 16.0)
"""A grid for the tests' hardware; what else it does is its own business."""


class EulerHardware:
    """A time-stepped chip of other neurons than the nominal ones; shares no code with the emulator.

    du/dt = -u/tau_mem + I, dI/dt = -I/tau_syn + sum_i w_i delta(t - t_i), in steps of 0.01 tau. Thresholds
    and time constants differ from neuron to neuron and on average from 1.
    """

    def __init__(self, sizes: Sequence[int], spread: float, dt: float = 0.01, end: float = 3.5) -> None:
        numbers = np.random.default_rng(3)
        self.dt, self.n_steps = dt, round(end / dt)
        self.threshold, self.tau_mem, self.tau_syn = (
            [1.0 + spread * (mean + numbers.normal(size=n)) for n in sizes] for mean in (1.5, -0.5, 0.5)
        )

    def program(self, weights: Sequence[Array]) -> list[Array]:
        return [BSS2_WEIGHTS.programmed(w, number) for number, w in enumerate(weights)]

    def limit(self, weights: Sequence[Array]) -> None:
        BSS2_WEIGHTS.limit(weights)

    def __call__(self, weights: Sequence[Array], received: LayerInput, moment: Moment) -> list[Array]:
        """One replica; bias spikes of later layers do not exist on this chip."""
        layers = [w[0] for w in self.program(weights)]
        n_batch = received.t_in.shape[1]
        arrives = np.ceil(received.t_in[0] / self.dt)  # steps
        u, current, t_out = (
            [np.full((n_batch, w.shape[1]), value) for w in layers] for value in (0.0, 0.0, np.inf)
        )
        for step in range(self.n_steps):
            spikes = (arrives == step).astype(float)
            for number, w in enumerate(layers):
                current[number] += spikes @ w
                u[number] += self.dt * (current[number] - u[number] / self.tau_mem[number])
                current[number] *= 1.0 - self.dt / self.tau_syn[number]
                fires = (u[number] >= self.threshold[number]) & np.isinf(t_out[number])
                t_out[number][fires] = (step + 1) * self.dt
                spikes = fires.astype(float)
        return [t[None] for t in t_out]


def labelled(network: Architecture, n_train: int) -> list[Labelled]:
    """Small Yin-Yang, training and test."""
    dataset = yin_yang(n_train, 1, 400)
    return [
        Labelled(network.receive(latency(split.features, 0.15, 2.0)[None]), split.labels)
        for split in (dataset.train, dataset.test)
    ]


def make_trainer(
    machine: Machine, network: Architecture, weights: list[Array], n_epochs: int = 60
) -> Trainer:
    return Trainer(
        machine,
        weights,
        TTFSCrossEntropy(),
        Descent(Adam(), weights, network.kernels),
        Schedule(0.01, "cosine", n_epochs=n_epochs),
        Bumping([0.5, 0.1], 0.0005, 1),
        TrainingRule(batch_size=50, evaluation_batch_size=400, max_weight_grad=0.2, bump_replaces_step=False),
        [0],
    )


def train(trainer: Trainer, data: list[Labelled], n_epochs: int) -> list[EpochRecord]:
    return list(trainer.train(*data, trainer.epoch + n_epochs))


def accuracy(machine: Machine, weights: list[Array], data: Labelled) -> float:
    return float(evaluate(machine, weights, data, TTFSCrossEntropy(), 400).accuracy[0])


def test_the_other_hardware_is_the_nominal_network_but_for_its_steps_and_its_neurons() -> None:
    network = Architecture.build((4, 30, 3), ((0.9,), ()), LIF(), load("cpu"))
    weights = network.initial_weights([1], [1.5, 0.5], [0.8, 0.5], np.float64)
    received = network.receive(np.random.default_rng(0).uniform(0.15, 2.0, (1, 20, 4)))
    errors = []
    for dt in (0.01, 0.0025):
        same = EulerHardware((30, 3), 0.0, dt)
        ideal = network.forward(same.program(weights), received)
        pairs = [(t, s.t_out) for t, s in zip(same(weights, received, Moment()), ideal, strict=True)]
        both = [np.isfinite(t) & np.isfinite(s) for t, s in pairs]
        errors.append(np.median([np.abs(t - s)[b].mean() for (t, s), b in zip(pairs, both, strict=True)]))
        assert np.mean([(np.isinf(t) == np.isinf(s)).mean() for t, s in pairs]) > 0.97
    assert errors[0] < 0.02
    assert 2.5 < errors[0] / errors[1] < 6.0, "Euler's error is of first order"


def test_training_in_the_loop_recovers_what_other_hardware_costs() -> None:
    network = Architecture.build((4, 30, 3), ((0.9,), ()), LIF(), load("cpu"))
    data = labelled(network, 600)
    weights = network.initial_weights([1], [1.5, 0.5], [0.8, 0.5], np.float64)
    train(make_trainer(network, network, weights), data, 60)
    machine = OnChip(network, EulerHardware((30, 3), 0.12))
    nominal, before = (accuracy(m, weights, data[1]) for m in (network, machine))
    further = [w.copy() for w in weights]
    train(make_trainer(network, network, further, n_epochs=12), data, 12)
    train(make_trainer(machine, network, weights, n_epochs=12), data, 12)
    without, after = (accuracy(machine, w, data[1]) for w in (further, weights))
    assert nominal > 0.85
    assert max(before, without) < nominal - 0.15, "the test needs hardware that costs accuracy"
    assert after > nominal - 0.07
    assert max(np.abs(w).max() for w in weights) <= 4.0, "the range of the hardware"


# --- a laboratory behind files ----------------------------------------------------


def write(path: Path, **arrays: Any) -> None:
    """As a laboratory does: under another name first."""
    partial = path.with_name(path.name + ".writing")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


@contextmanager
def laboratory(folder: Path, answer: Callable[[dict[str, Array]], dict[str, Array]]) -> Iterator[None]:
    """A thread that answers one request after the other."""
    closed = threading.Event()

    def work() -> None:
        number = 0
        while not closed.is_set():
            question = folder / f"request_{number}.npz"
            if not question.exists():
                time.sleep(0.002)
                continue
            with np.load(question) as archive:
                arrays = {name: archive[name] for name in archive.files}
            write(folder / f"answer_{number}.npz", **answer(arrays))
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()


def run_on(chip: Any, network: Architecture, request: dict[str, Array]) -> dict[str, Array]:
    """What a chip in memory answers to a request in a file."""
    weights = [request[f"weights_{n}"][None] for n in range(len(network.layers))]
    times = chip(weights, LayerInput(request["t_in"][None], None), Moment())
    return {f"t_out_{n}": t[0] for n, t in enumerate(times)}


def make_network() -> Architecture:
    return Architecture.build((4, 10, 3), ((0.9,), ()), LIF(), load("cpu"))


def one_epoch(network: Architecture, chip: Any) -> list[Array]:
    """Weights after an epoch of two batches in the loop."""
    weights = network.initial_weights([1], [1.5, 0.5], [0.8, 0.5], np.float64)
    train(make_trainer(OnChip(network, chip), network, weights), labelled(network, 100), 1)
    return weights


def test_a_laboratory_trains_as_its_hardware_would_in_memory_and_its_recording_again(tmp_path: Path) -> None:
    network, folder = make_network(), tmp_path / "lab" / "run"
    hardware = EulerHardware((10, 3), 0.1)
    expected = one_epoch(network, hardware)
    with laboratory(folder, lambda request: run_on(hardware, network, request)):
        found = one_epoch(network, FileChip(folder, network.layers, BSS2_WEIGHTS))
    again = one_epoch(network, FileChip(folder, network.layers, BSS2_WEIGHTS, patience=1e-3))
    for w, in_files, recorded in zip(expected, found, again, strict=True):
        np.testing.assert_array_equal(in_files, w)
        np.testing.assert_array_equal(recorded, w)
    names = {f"{kind}_{n}.npz" for kind in ("request", "answer") for n in range(3)}
    assert {path.name for path in folder.iterdir()} == names, "two batches and an evaluation; nothing partial"
    with np.load(folder / "request_1.npz") as request:
        assert {name: request[name].shape for name in request.files} == {
            "weights_0": (5, 10), "weights_1": (10, 3), "t_in": (50, 5)
        }  # fmt: skip
        steps = request["weights_0"] * 16.0
        np.testing.assert_array_equal(steps, np.round(steps))


def ask(folder: Path, network: Architecture, shift: float = 0.0, **options: Any) -> list[Array]:
    """One presentation of two samples."""
    weights = network.initial_weights([1], [1.5, 0.5], [0.8, 0.5], np.float64)
    received = network.receive(np.full((1, 2, 4), 0.5 + shift))
    return FileChip(folder, network.layers, Substrate(), **options)(weights, received, Moment())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A folder with one presentation, answered by the network itself."""
    network = make_network()

    def answer(request: dict[str, Array]) -> dict[str, Array]:
        hidden = first_spikes(request["t_in"], request["weights_0"], LIF())
        return {"t_out_0": hidden, "t_out_1": first_spikes(hidden, request["weights_1"], LIF())}

    with laboratory(tmp_path, answer):
        ask(tmp_path, network)
    return tmp_path


def test_a_recording_answers_only_what_it_was_asked(recording: Path) -> None:
    network = make_network()
    assert [t.shape for t in ask(recording, network)] == [(1, 2, 10), (1, 2, 3)]
    with pytest.raises(
        DataError, match="answers another question: t_in of presentation 0 differs from request_0"
    ):
        ask(recording, network, shift=0.25)
    (recording / "request_0.npz").unlink()
    with pytest.raises(DataError, match=r"no .*request_0.npz"):
        ask(recording, network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"t_out_0": a["t_out_0"]}, r"must hold t_out_1, \(2, 3\) floats, got only \['t_out_0'\]"),
        (lambda a: a | {"t_out_0": a["t_out_0"][:1]}, r"must hold t_out_0, \(2, 10\) floats, got \(1, 10\)"),
        (lambda a: a | {"t_out_1": np.ones((2, 3), int)}, r"must hold t_out_1, .* got \(2, 3\) int64"),
        (lambda a: a | {"t_out_1": np.full((2, 3), np.nan)}, r"must not hold NaN or -inf in t_out_1"),
        (lambda a: a | {"t_out_1": np.full((2, 3), -np.inf)}, r"must not hold NaN or -inf in t_out_1"),
        (lambda a: a | {"t_out_0": np.array([[{}]])}, "is not a readable .npz file"),
    ],
)
def test_answers_that_do_not_fit_are_refused(recording: Path, change: Any, message: str) -> None:
    answer = recording / "answer_0.npz"
    with np.load(answer) as archive:
        arrays = {name: archive[name] for name in archive.files}
    write(answer, **change(arrays))
    with pytest.raises(DataError, match=message) as caught:
        ask(recording, make_network())
    assert str(answer) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half an archive"])
def test_a_damaged_answer_is_refused(recording: Path, content: bytes) -> None:
    (recording / "answer_0.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"answer_0.npz is not a readable .npz file: .") as caught:
        ask(recording, make_network())
    assert "\n" not in str(caught.value)


def test_an_answer_that_does_not_come_ends_the_waiting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .*answer_0.npz came within 0.02 s of its request"):
        ask(tmp_path, make_network(), patience=0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["request_0.npz"]


def test_float32_networks_get_float32_times(recording: Path) -> None:
    network = make_network()
    weights = network.initial_weights([1], [1.5, 0.5], [0.8, 0.5], np.float32)
    received = network.receive(np.full((1, 2, 4), 0.5, np.float32))
    write(recording / "request_0.npz", **{f"weights_{n}": w[0] for n, w in enumerate(weights)},
          t_in=received.t_in[0])  # fmt: skip
    times = FileChip(recording, network.layers, Substrate())(weights, received, Moment())
    assert all(t.dtype == np.float32 for t in times)


def test_what_files_cannot_do_is_refused(tmp_path: Path) -> None:
    network = make_network()
    layers: tuple[Layer, ...] = network.layers
    for patience in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="patience of a chip in files must be positive, got"):
            FileChip(tmp_path, layers, Substrate(), patience)
    chip = FileChip(tmp_path, layers, Substrate())
    with pytest.raises(ConfigError, match="only an emulated chip has an exact gradient, got a FileChip"):
        OnChip(network, chip, "exact")
    two = network.initial_weights([1, 2], [1.5, 0.5], [0.8, 0.5], np.float64)
    with pytest.raises(DataError, match="a chip in files has one network, got 2 replicas"):
        chip(two, network.receive(np.ones((1, 2, 4))), Moment())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write the request .*file/request_0.npz"):
        ask(tmp_path / "file", network)
    assert files.LOOK_EVERY_S < 0.1
