"""What holds for every constant that neurons can learn: its gradient, its way through training and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_docs import run

import gpuspike as gs
from gpuspike.config.schema import jobs
from gpuspike.errors import BackendError, GpuspikeError
from gpuspike.kernels import load
from gpuspike.network.constants import TRAINED
from gpuspike.network.network import Architecture, Machine
from gpuspike.network.parameters import Parameters
from gpuspike.neuron import LIF
from gpuspike.runs.experiment import build
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.losses import TTFSCrossEntropy

Array = NDArray[Any]

each_constant = pytest.mark.parametrize("name", list(TRAINED))
NEURON = LIF(tau_mem=1.3, tau_syn=0.8, threshold=1.2, leak=0.1, capacitance=1.1)
FEW = ["training.epochs=2", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]


def network(backend: str = "reference") -> tuple[Architecture, list[Array]]:
    made = Architecture.build((5, 7, 3), ((0.9,), ()), NEURON, load(backend))
    return made, made.initial_weights([1, 2], (1.5, 1.0), (0.8, 0.6), "float64")


def moved(name: str, weights: list[Array], layers: Any) -> Parameters:
    """Parameters that are no longer where they began."""
    parameters = Parameters.of_weights(weights).training([name], layers)
    rng = np.random.default_rng(4)
    for own in parameters:
        own.free[name][...] += 0.1 * rng.standard_normal(own.free[name].shape)
    return parameters


@each_constant
def test_a_constant_begins_as_the_model_has_it(name: str) -> None:
    made, weights = network()
    parameters = Parameters.of_weights(weights).training([name], made.layers)
    assert list(parameters.arrays()) == ["weights_0", "weights_1", f"{name}_0", f"{name}_1"]
    t_in = np.random.default_rng(0).uniform(0.1, 2.0, (1, 20, 5))
    nominal = made.forward(weights, made.receive(t_in))
    having = made.having(parameters).forward(weights, made.receive(t_in))
    for one, other in zip(nominal, having, strict=True):
        np.testing.assert_allclose(other.t_out, one.t_out, rtol=1e-13)
    assert made.having(Parameters.of_weights(weights)) is made


@each_constant
@pytest.mark.parametrize("on", [pytest.param("reference", marks=pytest.mark.slow), "cpu", "a chip, exact"])
def test_its_gradient_is_the_loss_s_slope(name: str, on: str) -> None:
    made, weights = network("cpu" if on == "cpu" else "reference")
    machine: Machine = made
    if on == "a chip, exact":
        substrate = Substrate(weight_max=(9.0,), gain_std=0.1, threshold_std=0.1, stuck_synapses=0.1)
        machine = OnChip(made, EmulatedChip(substrate, made.layers, made.kernels, [3, 4]), "exact")
    parameters = moved(name, weights, made.layers)
    rng = np.random.default_rng(0)
    received = made.receive(rng.uniform(0.1, 2.0, (1, 6, 5)))
    labels, loss = rng.integers(3, size=(2, 6)), TTFSCrossEntropy(0.8)

    def value(replica: int) -> float:
        states = machine.having(parameters).forward(weights, received)
        return float(loss(states[-1].t_out, labels)[0][replica].mean())

    here = machine.having(parameters)
    states = here.forward(weights, received)
    found = here.backward(
        parameters,
        states,
        loss(states[-1].t_out, labels)[1],
        active=np.ones(2, np.bool_),
        max_weight_grad=np.inf,
    )
    some = 0
    for own, gradient in zip(parameters, found, strict=True):
        free = own.free[name]
        for place in np.ndindex(*free.shape):
            before = free[place]
            slopes = []
            for step in (1e-6, -1e-6):
                free[place] = before + step
                slopes.append(value(place[0]))
            free[place] = before
            slope = (slopes[0] - slopes[1]) / 2e-6
            assert gradient.free[name][place] == pytest.approx(slope, rel=2e-5, abs=2e-8)
            some += slope != 0.0
    assert some > 10


@pytest.mark.parametrize(
    ("name", "substrate"),
    [
        pytest.param(
            name, substrate, marks=[] if (name, substrate) == ("threshold", "bss2") else pytest.mark.slow
        )
        for name in TRAINED
        for substrate in ("ideal", "bss2")
    ],
)
def test_a_run_learns_it_and_goes_on_bit_for_bit(name: str, substrate: str, tmp_path: Path) -> None:
    asked = [f"model.trained=[{name}]", f"substrate={substrate}", "replicas=2", "backend=cpu", *FEW]
    run(tmp_path, "gpuspike-train", *asked, "training.epochs=3", "hydra.run.dir=whole")
    run(tmp_path, "gpuspike-train", *asked, "hydra.run.dir=parts")
    run(tmp_path, "gpuspike-train", "resume=parts", "training.epochs=3")
    run(tmp_path, "gpuspike-evaluate", "run=parts")
    with (
        np.load(tmp_path / "whole" / "checkpoint.npz") as one,
        np.load(tmp_path / "parts" / "checkpoint.npz") as other,
    ):
        for array in (f"{name}_0", f"{name}_1", "weights_0", f"optimizer_mean_{name}_1"):
            np.testing.assert_array_equal(one[array], other[array])
        assert np.ptp(one[f"{name}_0"]) > 0.0
        assert one[f"{name}_0"].shape == (2, 120)
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["emulator"]["step_reason"] == f"the compiled step trains weights alone, not {name}"
    said = json.loads((tmp_path / "parts" / "evaluations" / "test.json").read_text())
    assert said["accuracy"]["per_replica"] == summary["accuracy"]["test"]["per_replica"]
    net = gs.load(tmp_path / "whole")
    data = gs.dataset(tmp_path / "whole")
    np.testing.assert_allclose(net.accuracy(*data.test), summary["accuracy"]["test"]["per_replica"])


@each_constant
def test_a_network_learns_it_is_saved_and_goes_on(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    t_in, labels = rng.uniform(0.1, 2.0, (60, 4)), rng.integers(3, size=60)
    net = gs.Network([4, 12, 3], trained=[name], backend="cpu")
    history = gs.fit(net, t_in, labels, epochs=2, batch_size=20)
    assert (history.step, name in str(history.step_reason)) == ("piecewise", True)
    net.save(tmp_path / "net.npz")
    again = gs.load(tmp_path / "net.npz")
    for one in (net, again):
        gs.fit(one, t_in, labels, epochs=1, batch_size=20)
    for key, array in net.parameters.arrays().items():
        np.testing.assert_array_equal(array, again.parameters.arrays()[key], err_msg=key)
    assert np.ptp(net.parameters[0].free[name]) > 0.0
    np.testing.assert_array_equal(net(t_in), again(t_in))
    on_chip = net.on(gs.Chip("bss2"))
    assert on_chip(t_in).shape == (60, 3)


def test_what_cannot_be_trained_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GpuspikeError, match=r"no trained constant 'treshold'; .* mean threshold"):
        build(jobs(["model.trained=[treshold]"], multirun=False)[0].config)
    with pytest.raises(GpuspikeError, match="there is no trained constant 'leak'"):
        gs.Network([2, 2], trained=["leak"])
    monkeypatch.setattr("gpuspike.backend.cuda_problem", lambda: None)
    monkeypatch.setattr(TRAINED["threshold"], "DEVICE", False)  # as is one of a user's own
    with pytest.raises(BackendError, match="training threshold needs backend=cpu or reference, got cuda"):
        gs.Network([2, 2], trained=["threshold", "tau_mem"], backend="cuda")
    asked = ["model.trained=[tau_mem]", "backend=cuda", "substrate=bss2"]
    with pytest.raises(BackendError, match="training tau_mem on a chip needs backend=cpu or reference"):
        build(jobs(asked, multirun=False)[0].config)


@each_constant
def test_a_kept_chip_that_is_drawn_otherwise_today_is_refused(name: str) -> None:
    made, weights = network()
    substrate = Substrate(weight_max=(9.0,), gain_std=0.1)
    chip = EmulatedChip(substrate, made.layers, made.kernels, [3, 4])
    arrays = {key: array.copy() for key, array in chip.arrays().items()}
    parameters = moved(name, weights, made.layers)
    chip.take(arrays)
    assert OnChip(made, chip).having(parameters).layers[0].neuron != NEURON
    arrays["gain_0"][0, 0, 0] += 0.1
    chip.take(arrays)
    with pytest.raises(GpuspikeError, match="a kept chip must be one that its seed still draws"):
        OnChip(made, chip).having(parameters)


@each_constant
def test_having_is_what_was_learnt_and_not_added_to_it(name: str) -> None:
    made, weights = network()
    parameters = moved(name, weights, made.layers)
    once = made.having(parameters)
    assert once.having(parameters).layers == once.layers
    assert once.models == made.models


@each_constant
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_another_unit_of_the_weights_changes_nothing(name: str, optimizer: str) -> None:
    rng = np.random.default_rng(1)
    t_in, labels = rng.uniform(0.1, 2.0, (60, 4)), rng.integers(3, size=60)
    found = []
    for threshold in (1.0, 64.0):
        net = gs.Network([4, 12, 3], trained=[name], neuron=LIF(threshold=threshold), backend="cpu")
        gs.fit(net, t_in, labels, epochs=3, batch_size=20, optimizer=optimizer, max_silent=[1.0, 1.0])
        found.append([net.parameters.weights[0] / threshold, net.parameters[0].free[name], net(t_in)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)  # Adam has an epsilon
    assert np.ptp(found[0][1]) > 0.0


def test_another_optimiser_begins_anew() -> None:
    rng = np.random.default_rng(1)
    t_in, labels = rng.uniform(0.1, 2.0, (60, 4)), rng.integers(3, size=60)
    net, anew = gs.Network([4, 12, 3], backend="cpu"), gs.Network([4, 12, 3], backend="cpu")
    for one in (net, anew):
        gs.fit(one, t_in, labels, epochs=1, optimizer="adam")
    anew.state = {}
    for one in (net, anew):
        gs.fit(one, t_in, labels, epochs=1, optimizer="adamw")
    for one, other in zip(net.parameters.weights, anew.parameters.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_exact_gradient_where_thresholds_change_from_trial_to_trial_is_refused() -> None:
    net = gs.Network([4, 12, 3], backend="cpu", trained=["threshold"])
    chip = net.on(gs.Chip("bss2"), gradient="exact")
    t_in, labels = np.full((6, 4), 0.5), np.zeros(6, np.int64)
    with pytest.raises(GpuspikeError, match=r"no exact gradient .*substrate\.threshold_noise"):
        gs.fit(chip, t_in, labels)


@pytest.mark.parametrize("trained", ["threshold", ["threshold", "threshold"]])
def test_constants_are_a_list_of_different_names(trained: Any) -> None:
    with pytest.raises(GpuspikeError, match="must be a list of different names, got"):
        gs.Network([2, 2], trained=trained)
