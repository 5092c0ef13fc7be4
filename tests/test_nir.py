"""NIR: networks that come back as they went, files of other tools, and what is refused by the node's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.errors import (
    BackendError,
    ConfigError,
    DataError,
    GpuspikeError,
    OutputError,
    ShapeError,
    ValueRangeError,
)
from gpuspike.exchange import graph as graphs
from gpuspike.exchange.maps import Signal, _conv2d

nir: Any = pytest.importorskip("nir", reason="needs the nir package")
h5py: Any = pytest.importorskip("h5py", reason="needs the h5py package")

Array = NDArray[Any]

DIALECTS = ("strict", "jaxsnn", "hxtorch", "snntorch")
NEURONS = [
    gs.LIF(),
    gs.LIF(tau_mem=2.0),
    gs.LIF(tau_mem=3.3, tau_syn=1.7, threshold=0.8, leak=0.1, capacitance=1.3),
    gs.LIF(tau_mem=np.inf, tau_syn=0.7, leak=-0.2, capacitance=1.7),
]


def samples(n_in: int = 4, n: int = 40) -> Array:
    t_in = np.random.default_rng(0).uniform(0.1, 2.0, (n, n_in))
    t_in[::7, 0] = np.inf
    return t_in


def make(**change: Any) -> gs.Network:
    given: dict[str, Any] = {"bias_times": [[0.9], [0.9, 1.1]], "seed": 3, "backend": "cpu"} | change
    return gs.Network(given.pop("sizes", [4, 12, 3]), **given)


def same_times(one: Array, other: Array, tolerance: float = 1e-12) -> None:
    assert np.array_equal(np.isfinite(one), np.isfinite(other))
    known = np.isfinite(one)
    assert known.any()
    assert np.abs(one[known] - other[known]).max() <= tolerance


# ---- there and back


@pytest.mark.parametrize(("unit", "own"), [("ms", None), ("s", 1e-5), ("ms", "us"), (0.02, 6e-6)])
@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: f"tau_mem {neuron.tau_mem}")
def test_a_network_comes_back_to_the_last_bit(
    neuron: gs.LIF, unit: str | float, own: str | float | None, tmp_path: Path
) -> None:
    net, path = make(neuron=neuron), tmp_path / "net.nir"
    gs.export_nir(net, path, time_unit=unit, model_unit=own)
    back = gs.import_nir(path, time_unit=unit, model_unit=own, backend="cpu")
    for w, again in zip(net.parameters.weights, back.parameters.weights, strict=True):
        assert np.array_equal(w, again)
    bias = [layer.bias_times for layer in back.architecture.layers]
    assert bias == [pytest.approx([0.9], rel=1e-14), pytest.approx([0.9, 1.1], rel=1e-14)]
    assert back.neuron.uniform
    same_times(net(samples()), back(samples()))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("neuron", NEURONS[:3], ids=lambda neuron: f"tau_mem {neuron.tau_mem}")
def test_every_dialect_comes_back_as_the_same_network(neuron: gs.LIF, dialect: str, tmp_path: Path) -> None:
    net, path = make(neuron=neuron), tmp_path / "net.nir"
    gs.export_nir(net, path, time_unit="s", model_unit=1e-5, dialect=dialect)
    back = gs.import_nir(path, time_unit="s", model_unit=1e-5, dialect=dialect, backend="cpu")
    same_times(net(samples()), back(samples()))
    node = nir.read(path).nodes["lif_0"]
    if dialect == "jaxsnn":
        assert (node.r == 1.0).all()
        assert (node.w_in == 1.0).all()
    if dialect == "snntorch":
        assert np.allclose(node.r, node.tau_mem / 1e-4)
        assert np.allclose(node.w_in, node.tau_syn / 1e-4)
        assert (node.v_leak == 0.0).all()


def test_float32_and_thresholds_of_their_own_come_back(tmp_path: Path) -> None:
    net, path = make(trained=["threshold"], dtype="float32"), tmp_path / "net.nir"
    rng = np.random.default_rng(1)
    for layer in net.parameters:
        layer.free["threshold"][:] = rng.normal(0.0, 0.1, layer.free["threshold"].shape)
    gs.export_nir(net, path, time_unit="ms")
    back = gs.import_nir(path, time_unit="ms", backend="cpu")
    assert back.dtype == np.float32
    assert np.ptp(back.neuron.threshold) > 0
    t_in = samples().astype(np.float32)
    same_times(net(t_in), back(t_in), 1e-6)
    with pytest.raises(ConfigError, match="jaxsnn reads layers of equal neurons alone"):
        gs.export_nir(net, path, time_unit="ms", dialect="jaxsnn")
    gs.export_nir(net, path, time_unit="ms", dialect="snntorch")
    assert np.unique(nir.read(path).nodes["lif_0"].v_threshold).size == 1
    same_times(net(t_in), gs.import_nir(path, time_unit="ms", dialect="snntorch", backend="cpu")(t_in), 1e-5)


def test_each_layer_and_each_neuron_may_have_constants_of_its_own(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(2), tmp_path / "net.nir"
    neurons = [
        gs.LIF(tau_mem=rng.uniform(1.0, 3.0, 12), tau_syn=rng.uniform(0.5, 1.0, 12), capacitance=0.8),
        gs.LIF(tau_mem=1.5, threshold=np.array([0.7, 0.8, 0.9])),
    ]
    net = make(neuron=neurons)
    gs.export_nir(net, path, time_unit="us")
    back = gs.import_nir(path, time_unit="us", backend="cpu")
    same_times(net(samples()), back(samples()))
    back.save(tmp_path / "net.npz")
    again = gs.load(tmp_path / "net.npz")
    assert np.array_equal(again(samples()), back(samples()))
    assert again.tau_syn == pytest.approx(np.mean(neurons[0].tau_syn))


def test_what_a_file_cannot_say_is_said(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    assert len(gs.export_nir(make(bias_times=None), path, time_unit="ms")) == 1
    notes = gs.export_nir(make().on(gs.Chip("bss2")), path, time_unit="ms", dialect="jaxsnn")
    assert "silence each neuron after its first spike" in notes[0]
    assert "bias_0, bias_1" in notes[1]
    assert "one Input node alone" in notes[2]
    assert "not the chip" in notes[3]


def test_one_of_several_networks(tmp_path: Path) -> None:
    net, path = make(replicas=2), tmp_path / "net.nir"
    with pytest.raises(ConfigError, match="replica must say which of 2"):
        gs.export_nir(net, path, time_unit="ms")
    with pytest.raises(ValueRangeError, match="replica must be below 2, got 2"):
        gs.export_nir(net, path, time_unit="ms", replica=2)
    gs.export_nir(net, path, time_unit="ms", replica=1)
    back = gs.import_nir(path, time_unit="ms", backend="cpu")
    assert np.array_equal(back.parameters.weights[0][0], net.parameters.weights[0][1])


def test_a_file_s_own_words_are_not_contradicted(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    gs.export_nir(make(), path, time_unit="ms")
    with pytest.raises(DataError, match=r"written with time_unit=ms, got s"):
        gs.import_nir(path, time_unit="s")
    with pytest.raises(DataError, match="written with dialect=strict, got jaxsnn"):
        gs.import_nir(path, time_unit="ms", dialect="jaxsnn")


@pytest.mark.parametrize("unit", ["min", 0.0, -1.0, None, True, "1e-3"])
def test_a_unit_is_a_unit(unit: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueRangeError, match="time_unit must be s, ms, us, ns or a number of seconds"):
        gs.export_nir(make(), tmp_path / "net.nir", time_unit=unit)
    with pytest.raises(ValueRangeError, match=r"time_unit must be|model_unit must be"):
        gs.import_nir("nothing.nir", time_unit="s", model_unit=unit or "h")


def test_other_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="dialect must be one of strict, jaxsnn, hxtorch, snntorch, got 'norse'"
    ):
        gs.export_nir(make(), tmp_path / "net.nir", time_unit="ms", dialect="norse")
    with pytest.raises(ConfigError, match="dialect jaxsnn has no neurons without a leak"):
        gs.export_nir(make(neuron=NEURONS[3]), tmp_path / "net.nir", time_unit="ms", dialect="jaxsnn")
    mixed = gs.LIF(tau_mem=np.array([1.0, np.inf, 1.0]))
    net = make(sizes=[4, 3], bias_times=None, neuron=[mixed])
    with pytest.raises(ConfigError, match="by different nodes"):
        gs.export_nir(net, tmp_path / "net.nir", time_unit="ms")
    with pytest.raises(OutputError, match="cannot write"):
        gs.export_nir(make(), tmp_path / "no" / "net.nir", time_unit="ms")
    with pytest.raises(ValueRangeError, match="capacitance must be positive"):
        gs.import_nir("x", time_unit="s", capacitance=0.0)


# ---- what other tools write


def cuba(n: int = 3, **change: Any) -> Any:
    values = {
        "tau_mem": 2.0,
        "tau_syn": 1.0,
        "r": 1.0,
        "v_leak": 0.0,
        "v_threshold": 1.0,
        "w_in": 1.0,
    } | change
    return nir.CubaLIF(**{k: v if np.ndim(v) else np.full(n, v) for k, v in values.items()})


def simple(**change: Any) -> dict[str, Any]:
    """Nodes of a small network, some of them others."""
    weight = np.random.default_rng(0).uniform(0.5, 1.0, (3, 4))
    nodes = {
        "input": nir.Input(input_type=np.array([4])),
        "fc": nir.Linear(weight=weight),
        "lif": cuba(),
        "output": nir.Output(output_type=np.array([3])),
    }
    return nodes | change


ROW = [("input", "fc"), ("fc", "lif"), ("lif", "output")]


def graph(nodes: dict[str, Any] | None = None, edges: Any = None) -> Any:
    """Nodes and edges as a graph that the nir package does not check."""
    return nir.NIRGraph(nodes or simple(), ROW if edges is None else edges, type_check=False)


def load(source: Any, **change: Any) -> gs.Network:
    return gs.import_nir(source, **({"time_unit": "s", "backend": "cpu"} | change))


def test_the_equation_as_it_stands() -> None:
    """Against small time steps of NIR's two equations, with every constant other than 1."""
    node = cuba(tau_mem=0.02, tau_syn=0.005, r=3.0, v_leak=0.1, v_threshold=1.3, w_in=0.008)
    t_in = np.array([[0.001, 0.002, 0.004, np.inf]])
    net = load(graph(simple(lif=node)))
    dt, jump = 1e-6, node.w_in[0] / node.tau_syn[0]
    weight = simple()["fc"].weight
    current, v, spikes = np.zeros(3), np.full(3, 0.1), np.full(3, np.inf)
    for step in range(15_000):
        arriving = np.isclose(t_in[0], step * dt, atol=dt / 2)
        current += jump * weight @ arriving
        v += dt / node.tau_mem * (node.v_leak - v + node.r * current)
        current -= dt / node.tau_syn * current
        spikes[(v >= node.v_threshold) & np.isinf(spikes)] = (step + 1) * dt
    assert np.isfinite(spikes).all()
    assert np.abs(net(t_in)[0] - spikes).max() < 5e-6


@pytest.mark.parametrize(
    ("dialect", "capacitance"),
    [
        ("strict", 0.02 * 0.005 / (3.0 * 0.5)),
        ("hxtorch", 0.02 / 3.0),
        ("snntorch", 0.02 / 3.0 * 0.005 / (0.5 * 1e-4)),
    ],
)
def test_a_dialect_is_a_factor(dialect: str, capacitance: float) -> None:
    node = cuba(tau_mem=0.02, tau_syn=0.005, r=3.0, w_in=0.5)
    net = load(graph(simple(lif=node)), dialect=dialect)
    assert net.neuron.capacitance == pytest.approx(capacitance, rel=1e-14)
    one = load(graph(simple(lif=node)), dialect=dialect, capacitance=1.0)
    assert one.neuron.capacitance == 1.0
    assert np.allclose(one.parameters.weights[0], net.parameters.weights[0] / capacitance)
    t_in = samples() / 100
    net.parameters.weights[0][:] *= 300
    one.parameters.weights[0][:] *= 300
    same_times(net(t_in), one(t_in), 1e-15)


def test_seconds_and_milliseconds_are_one_network() -> None:
    seconds = load(graph(simple(lif=cuba(tau_mem=0.02, tau_syn=0.01))), model_unit=0.01)
    milli = load(graph(simple(lif=cuba(tau_mem=20.0, tau_syn=10.0))), time_unit="ms", model_unit="ms")
    assert seconds.neuron.tau_mem == pytest.approx(2.0, rel=1e-14)
    assert milli.neuron.tau_mem == 20.0
    # A spike's jump is w_in W/tau_syn a unit of time, and r/tau_mem likewise.
    assert milli.neuron.capacitance == 200.0
    assert seconds.neuron.capacitance == pytest.approx(0.02, rel=1e-12)


def test_numbers_for_arrays_and_files_without_a_reset(tmp_path: Path) -> None:
    expected = load(graph())(samples())
    path = tmp_path / "old.nir"
    nir.write(path, graph())
    with h5py.File(path, "r+") as file:
        node = file["node/nodes/lif"]
        for name in ("v_reset", "w_in"):
            del node[name]
        for name in ("tau_mem", "tau_syn", "r", "v_leak"):
            del node[name]
            node[name] = {"tau_mem": 2.0, "tau_syn": 1.0, "r": 1.0, "v_leak": 0.0}[name]
        node["metadata/colour"] = "blue"
    assert np.array_equal(load(path)(samples()), expected)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/lif/v_threshold"]
        file["node/nodes/lif/v_threshold"] = np.ones(1)
    assert np.array_equal(load(path)(samples()), expected)  # a size that only the weights tell


def test_an_affine_map_without_a_bias_a_scale_and_none_at_all() -> None:
    expected = load(graph())(samples())
    weight = simple()["fc"].weight
    assert np.array_equal(load(graph(simple(fc=nir.Affine(weight, np.zeros(3)))))(samples()), expected)
    halved = simple(fc=nir.Linear(weight / 2), twice=nir.Scale(np.full(3, 2.0)))
    edges = [("input", "fc"), ("fc", "twice"), ("twice", "lif"), ("lif", "output")]
    assert np.array_equal(load(graph(halved, edges))(samples()), expected)
    before = simple(fc=nir.Linear(weight / 2), twice=nir.Scale(np.full(4, 2.0)))
    edges = [("input", "twice"), ("twice", "fc"), ("fc", "lif"), ("lif", "output")]
    assert np.array_equal(load(graph(before, edges))(samples()), expected)
    nodes = simple(lif=cuba(4))
    del nodes["fc"]
    straight = load(graph(nodes, [("input", "lif"), ("lif", "output")]))
    assert np.array_equal(straight.parameters.weights[0][0], np.eye(4))


def test_two_ways_to_one_layer_add_up() -> None:
    weight = simple()["fc"].weight
    nodes = simple(fc=nir.Linear(weight / 2), other=nir.Linear(weight / 2))
    net = load(graph(nodes, [*ROW, ("input", "other"), ("other", "lif")]))
    assert np.array_equal(net.parameters.weights[0][0], weight.T)


def test_graphs_within_a_graph_are_laid_flat() -> None:
    inner = nir.NIRGraph(
        {
            "input": nir.Input(np.array([4])),
            "fc": simple()["fc"],
            "lif": cuba(),
            "output": nir.Output(np.array([3])),
        },
        ROW,
    )
    nodes = {"input": nir.Input(np.array([4])), "block": inner, "output": nir.Output(np.array([3]))}
    net = load(nir.NIRGraph(nodes, [("input", "block"), ("block", "output")]))
    assert np.array_equal(net(samples()), load(graph())(samples()))


def convolution(**change: Any) -> Any:
    rng = np.random.default_rng(4)
    values = {"input_shape": None, "weight": rng.normal(0.3, 0.2, (4, 2, 3, 3)), "stride": 1, "padding": 0,
              "dilation": 1, "groups": 1, "bias": np.zeros(4)} | change  # fmt: skip
    return nir.Conv2d(**values)


def by_hand(
    weight: Array, image: Array, stride: int, pad: tuple[int, int], dilation: int, groups: int
) -> Array:
    """A convolution by its definition."""
    n_out, n_in, rows, columns = weight.shape
    padded = np.pad(image, ((0, 0), pad, pad))
    size = [
        (n - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip(padded.shape[1:], (rows, columns), strict=True)
    ]
    out = np.zeros((n_out, *size))
    for o in range(n_out):
        first = o // (n_out // groups) * n_in
        for y in range(size[0]):
            for x in range(size[1]):
                for i in range(n_in):
                    for r in range(rows):
                        for c in range(columns):
                            pixel = padded[first + i, y * stride + r * dilation, x * stride + c * dilation]
                            out[o, y, x] += weight[o, i, r, c] * pixel
    return out


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (1, 0, 1, 2), (1, "same", 2, 1), (2, "valid", 1, 2)],
)
def test_a_convolution_is_the_matrix_that_it_stands_for(
    stride: int, padding: int | str, dilation: int, groups: int
) -> None:
    rng = np.random.default_rng(5)
    weight, image = rng.normal(size=(4, 2 // groups, 3, 3)), rng.normal(size=(2, 7, 6))
    values = {"weight": weight, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    made = _conv2d(graphs.Node("conv", "Conv2d", values), Signal(84, (2, 7, 6)))
    pad = {"same": (dilation, dilation), "valid": (0, 0)}.get(padding, (padding, padding))  # type: ignore[call-overload]
    expected = by_hand(weight, image, stride, pad, dilation, groups)
    assert made.shape == expected.shape
    assert np.allclose(image.ravel() @ made.weights, expected.ravel(), atol=1e-13)
    assert set(np.unique(made.weights)) <= {0.0, *weight.ravel()}  # to the bit


def test_a_convolutional_network_runs(tmp_path: Path) -> None:
    nodes = {
        "input": nir.Input(np.array([2, 6, 6])),
        "conv": convolution(),
        "lif1": cuba(tau_mem=np.full((4, 4, 4), 2.0), tau_syn=np.ones((4, 4, 4)), r=np.ones((4, 4, 4)),
                     v_leak=np.zeros((4, 4, 4)), v_threshold=np.ones((4, 4, 4)), w_in=np.ones((4, 4, 4))),
        "flat": nir.Flatten(np.array([4, 4, 4]), 0, -1),
        "fc": nir.Linear(np.random.default_rng(0).normal(0.1, 0.1, (3, 64))),
        "lif2": cuba(),
        "output": nir.Output(np.array([3])),
    }  # fmt: skip
    edges = list(zip(list(nodes)[:-1], list(nodes)[1:], strict=True))
    path = tmp_path / "conv.nir"
    nir.write(path, nir.NIRGraph(nodes, edges))
    net = load(path)
    assert net.sizes == (72, 64, 3)
    t_in = samples(72)
    hidden, _ = net(t_in, layers=True)
    weights = net.parameters.weights[0][0]
    expected = gs.first_spikes(t_in, weights, gs.LIF(tau_mem=2.0, capacitance=2.0))
    assert np.array_equal(hidden, expected)
    labels = np.arange(40) % 3
    gs.fit(net, t_in, labels, epochs=1, batch_size=20)
    assert np.isfinite(net.parameters.weights[0]).all()


def test_delays_of_zero_are_none() -> None:
    nodes = simple(axonal=nir.Delay(np.zeros(4)), dendritic=nir.Delay(np.zeros(3)))
    edges = [
        ("input", "axonal"),
        ("axonal", "fc"),
        ("fc", "dendritic"),
        ("dendritic", "lif"),
        ("lif", "output"),
    ]
    assert np.array_equal(load(graph(nodes, edges))(samples()), load(graph())(samples()))


@pytest.mark.parametrize("delays", ["axonal", "dendritic", "axonal+dendritic"])
@pytest.mark.parametrize("neuron", [NEURONS[0], gs.LIF(np.inf)], ids=["leaky", "endless"])
def test_delays_come_back(delays: str, neuron: gs.LIF, tmp_path: Path) -> None:
    net, path = make(delays=delays, neuron=neuron), tmp_path / "net.nir"
    gs.export_nir(net, path, time_unit="ms", model_unit=1e-5)
    back = gs.import_nir(path, time_unit="ms", model_unit=1e-5, backend="cpu")
    same_times(net(samples()), back(samples()))
    for one, other in zip(net.architecture.layers, back.architecture.layers, strict=True):
        assert one.delays is not None
        assert other.delays is not None
        for kind, own in one.delays.items():
            np.testing.assert_allclose(getattr(other.delays, kind), own, rtol=1e-12, atol=1e-13)


def test_delays_that_nir_has_no_words_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got a network with delays of its synapses"):
        gs.export_nir(make(delays="synaptic"), tmp_path / "net.nir", time_unit="ms")
    nodes = simple(
        bias=nir.Input(np.array([2])), push=nir.Linear(np.full((3, 2), 0.2)), late=nir.Delay(np.full(3, 0.1))
    )
    edges = [*ROW, ("bias", "push"), ("push", "late"), ("late", "lif")]
    with pytest.raises(
        DataError, match=r"behind the weights of 'lif' must be the same .* got other delays from 'late'"
    ):
        load(graph(nodes, edges), bias_times={"bias": [0.5, 1.0]})


def test_bias_spikes_come_from_input_nodes_with_times() -> None:
    nodes = simple(bias=nir.Input(np.array([2])), push=nir.Linear(np.full((3, 2), 0.2)))
    edges = [*ROW, ("bias", "push"), ("push", "lif")]
    net = load(graph(nodes, edges), bias_times={"bias": [0.5, 1.0]})
    assert net.architecture.layers[0].bias_times == (0.5, 1.0)
    assert net.sizes == (4, 3)
    with pytest.raises(DataError, match="bias_times must have the times of the others, got none for 'bias'"):
        load(graph(nodes, edges))
    with pytest.raises(DataError, match="Input node 'bias' must have 2 finite times of bias spikes, got 1"):
        load(graph(nodes, edges), bias_times={"bias": [0.5]})
    with pytest.raises(DataError, match="bias spikes must be those of Input nodes, bias, input, got 'lif'"):
        load(graph(nodes, edges), bias_times={"bias": [0.5, 1.0], "lif": [0.0]})


# ---- an imported network is one like any other


def test_an_imported_network_is_put_on_a_chip_priced_and_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    t_in, labels = samples(), np.arange(40) % 3
    lif = cuba(tau_mem=rng.uniform(1.0, 3.0, 3), r=rng.uniform(1.0, 2.0, 3))
    net = load(graph(simple(lif=lif)), capacitance=1.0)
    on_chip = net.on(gs.Chip("bss2", seed=3, tau_mem_std=1.0, weight_bits=6, weight_lsb=0, weight_max=3.0))
    assert on_chip(t_in).shape == (40, 3)
    cost = gs.price(on_chip, t_in, labels, prices="loihi")
    assert cost.energy_per_classification_J is not None
    assert gs.fit(on_chip, t_in, labels, epochs=2, batch_size=10).step == "piecewise"
    in_the_loop = net.on(
        gs.Chip("bss2", seed=3, weight_bits=6, weight_lsb=0, weight_max=3.0), gradient="exact"
    )
    assert gs.fit(in_the_loop, t_in, labels, epochs=2, batch_size=10).step == "piecewise"
    assert gs.fit(net, t_in, labels, epochs=2, batch_size=10).step == "piecewise"
    uniform = load(graph())
    assert gs.fit(uniform, t_in, labels, epochs=2, batch_size=10).step == "compiled"


# ---- refused, by the node's name

Change = Callable[[], Any]
REFUSED: dict[str, tuple[Change, str]] = {
    "a bias": (
        lambda: graph(simple(fc=nir.Affine(simple()["fc"].weight, np.ones(3)))),
        "Affine node 'fc' must have bias 0",
    ),
    "no synapse": (
        lambda: graph(simple(lif=nir.LIF(np.ones(3), np.ones(3), np.zeros(3), np.ones(3)))),
        "LIF node 'lif' cannot be run: it has no synapse",
    ),
    "no spikes": (
        lambda: graph(simple(lif=nir.CubaLI(np.ones(3), np.ones(3), np.ones(3), np.zeros(3)))),
        "CubaLI node 'lif' cannot be run: it never spikes",
    ),
    "another map": (
        lambda: graph(simple(fc=nir.Threshold(np.ones(4)))),
        "Threshold node 'fc' cannot be run",
    ),
    "IF alone": (
        lambda: graph(simple(lif=nir.IF(np.ones(3), np.ones(3)))),
        "IF node 'lif' must follow an LI node",
    ),
    "recurrent, flat": (
        lambda: graph(simple(back=nir.Linear(np.eye(3))), [*ROW, ("lif", "back"), ("back", "lif")]),
        "CubaLIF node 'lif' must not be recurrent",
    ),
    "recurrent, by two layers": (
        lambda: graph(
            simple(fc2=nir.Linear(np.eye(3)), lif2=cuba(), back=nir.Linear(np.eye(3))),
            [
                ("input", "fc"),
                ("fc", "lif"),
                ("lif", "fc2"),
                ("fc2", "lif2"),
                ("lif2", "back"),
                ("back", "lif"),
                ("lif2", "output"),
            ],
        ),
        "got spikes of lif and lif2 that come back",
    ),
    "recurrent, nested": (
        lambda: graph(
            simple(
                lif=nir.NIRGraph(
                    {
                        "input": nir.Input(np.array([3])),
                        "lif": cuba(),
                        "w_rec": nir.Linear(np.eye(3)),
                        "output": nir.Output(np.array([3])),
                    },
                    [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
                )
            )
        ),
        r"CubaLIF node 'lif.lif' must not be recurrent",
    ),
    "a circle without a neuron": (
        lambda: graph(simple(a=nir.Scale(np.ones(3))), [*ROW, ("fc", "a"), ("a", "a")]),
        "Scale node 'a' is in a circle without a neuron",
    ),
    "a delay between two maps": (
        lambda: graph(
            simple(slow=nir.Delay(np.full(3, 0.1)), fc2=nir.Linear(np.eye(3))),
            [("input", "fc"), ("fc", "slow"), ("slow", "fc2"), ("fc2", "lif"), ("lif", "output")],
        ),
        "Linear node 'fc2' must not follow the delays of 'slow'",
    ),
    "a delay behind the last layer": (
        lambda: graph(
            simple(slow=nir.Delay(np.full(3, 0.1))), [*ROW[:2], ("lif", "slow"), ("slow", "output")]
        ),
        "Delay node 'slow' must lead to neurons",
    ),
    "a negative delay": (
        lambda: graph(
            simple(slow=nir.Delay(np.full(4, -0.1))), [("input", "slow"), ("slow", "fc"), *ROW[1:]]
        ),
        "Delay node 'slow': delay must be one or 4 finite numbers of 0 or more",
    ),
    "weights of another size": (
        lambda: graph(simple(fc=nir.Linear(np.ones((3, 5))))),
        r"Linear node 'fc': weight must be \(n_post, n_pre\) = \(n_post, 4\), got \(3, 5\)",
    ),
    "NaN": (
        lambda: graph(simple(fc=nir.Linear(np.full((3, 4), np.nan)))),
        "Linear node 'fc': weight must not hold NaN",
    ),
    "inf": (
        lambda: graph(simple(fc=nir.Linear(np.full((3, 4), np.inf)))),
        "Linear node 'fc': weight must be finite",
    ),
    "text": (
        lambda: graph(simple(fc=nir.Linear(np.full((3, 4), "a")))),
        "Linear node 'fc': weight must be numbers",
    ),
    "neurons of another size": (
        lambda: graph(simple(lif=cuba(2))),
        r"CubaLIF node 'lif': tau_syn must be one or 3 numbers, got shape \(2,\)",
    ),
    "a threshold below the leak": (
        lambda: graph(simple(lif=cuba(v_leak=2.0))),
        r"CubaLIF node 'lif': threshold must exceed leak=",
    ),
    "a time constant of 0": (
        lambda: graph(simple(lif=cuba(tau_syn=0.0))),
        "CubaLIF node 'lif': tau_syn must be positive and finite",
    ),
    "a negative resistance": (
        lambda: graph(simple(lif=cuba(r=-1.0))),
        "CubaLIF node 'lif': r must be positive and finite",
    ),
    "a synapse with a current": (
        lambda: graph(
            simple(syn=nir.LI(np.ones(3), np.ones(3), np.ones(3)), lif=nir.IF(np.ones(3), np.ones(3))),
            [("input", "fc"), ("fc", "syn"), ("syn", "lif"), ("lif", "output")],
        ),
        "LI node 'syn' must rest at v_leak = 0",
    ),
    "a map behind a synapse": (
        lambda: graph(
            simple(
                syn=nir.LI(np.ones(3), np.ones(3), np.zeros(3)),
                fc2=nir.Linear(np.eye(3)),
                lif=nir.IF(np.ones(3), np.ones(3)),
            ),
            [
                ("input", "fc"),
                ("fc", "syn"),
                ("syn", "fc2"),
                ("syn", "lif"),
                ("fc2", "lif"),
                ("lif", "output"),
            ],
        ),
        "LI node 'syn' must lead to IF neurons alone, got Linear node 'fc2'",
    ),
    "a readout without neurons": (
        lambda: graph(simple(fc2=nir.Linear(np.ones((2, 3)))), [*ROW[:2], ("lif", "fc2"), ("fc2", "output")]),
        "Linear node 'fc2' must lead to neurons, got Output node 'output'",
    ),
    "an edge to nowhere": (
        lambda: graph(edges=[*ROW, ("lif", "gone")]),
        "an edge from 'lif' to 'gone' has no node 'gone'",
    ),
    "a node without an edge": (
        lambda: graph(simple(lost=cuba())),
        "CubaLIF node 'lost' must get something from an Input node",
    ),
    "a dead end": (
        lambda: graph(simple(end=nir.Scale(np.ones(3))), [*ROW, ("lif", "end")]),
        "Scale node 'end' must lead somewhere",
    ),
    "a shortcut": (
        lambda: graph(
            simple(fc2=nir.Linear(np.eye(3)), lif2=cuba(), skip=nir.Linear(np.ones((3, 4)))),
            [
                *ROW[:2],
                ("lif", "fc2"),
                ("fc2", "lif2"),
                ("lif2", "output"),
                ("input", "skip"),
                ("skip", "lif2"),
            ],
        ),
        "Input node 'input' must lead to one layer, got lif.? and lif.?",
    ),
    "a fork": (
        lambda: graph(
            simple(a=cuba(), b=cuba()),
            [*ROW[:2], ("lif", "a"), ("lif", "b"), ("a", "output")],
        ),
        "CubaLIF node 'lif' must stand in one row of layers, got a and b behind it",
    ),
    "an output too early": (
        lambda: graph(
            simple(fc2=nir.Linear(np.eye(3)), lif2=cuba()), [*ROW, ("lif", "fc2"), ("fc2", "lif2")]
        ),
        "Output node 'output' must follow the last layer, 'lif2', got 'lif'",
    ),
    "two outputs": (
        lambda: graph(simple(more=nir.Output(np.array([3]))), [*ROW, ("lif", "more")]),
        "there must be one Output node",
    ),
    "no neurons": (
        lambda: graph({"input": nir.Input(np.array([4])), "fc": nir.Scale(np.ones(4))}, [("input", "fc")]),
        "Scale node 'fc' must lead somewhere",
    ),
    "an image of unknown shape": (
        lambda: graph(simple(input=nir.Input(np.array([72])), fc=convolution())),
        r"Conv2d node 'fc' needs an input of \(2, rows, columns\), got \(72,\)",
    ),
    "a convolution with a bias": (
        lambda: graph(simple(input=nir.Input(np.array([2, 6, 6])), fc=convolution(bias=np.ones(4)))),
        "Conv2d node 'fc' must have bias 0",
    ),
    "a kernel that is too large": (
        lambda: graph(simple(input=nir.Input(np.array([2, 2, 2])), fc=convolution())),
        "Conv2d node 'fc' must leave an output",
    ),
    "a convolution that fills the memory": (
        lambda: graph(simple(input=nir.Input(np.array([2, 9000, 9000])), fc=convolution())),
        "Conv2d node 'fc' must unroll into at most",
    ),
    "an input without a size": (
        lambda: graph(simple(input=nir.Input(np.array([0])))),
        "Input node 'input': shape must be one or more positive sizes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_by_name(case: str, tmp_path: Path) -> None:
    made, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        load(made())


def test_a_dialect_refuses_what_it_does_not_know() -> None:
    with pytest.raises(DataError, match="CubaLIF node 'lif': the dialect jaxsnn knows r = 1 alone"):
        load(graph(simple(lif=cuba(r=2.0))), dialect="jaxsnn")
    nodes = simple(syn=nir.LI(np.ones(3), np.ones(3), np.zeros(3)), lif=nir.IF(np.ones(3), np.ones(3)))
    edges = [("input", "fc"), ("fc", "syn"), ("syn", "lif"), ("lif", "output")]
    assert np.isinf(load(graph(nodes, edges)).neuron.tau_mem)
    with pytest.raises(DataError, match="the dialect hxtorch knows CubaLIF alone, strict has both"):
        load(graph(nodes, edges), dialect="hxtorch")


def test_a_broken_file_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.nir"
    with pytest.raises(DataError, match="no NIR file at"):
        load(path)
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(DataError, match="is not a readable NIR file") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(DataError, match="without the group 'node'"):
        load(path)
    with h5py.File(path, "w") as file:
        file["node/type"] = "Linear"
    with pytest.raises(DataError, match="must hold a NIRGraph, got 'Linear'"):
        load(path)
    with h5py.File(path, "w") as file:
        file["node/type"] = "NIRGraph"
    with pytest.raises(DataError, match="must have nodes"):
        load(path)
    with h5py.File(path, "w") as file:
        file["node/type"], file["node/edges"] = "NIRGraph", np.array([1, 2])
        file["node/nodes/a/type"] = "Linear"
    with pytest.raises(DataError, match="must be pairs of names"):
        load(path)
    with h5py.File(path, "w") as file:
        file["node/type"] = "NIRGraph"
        file["node/nodes/inner/type"] = "NIRGraph"
        file["node/nodes/inner/nodes"] = h5py.SoftLink("/node/nodes")
    with pytest.raises(DataError, match=r"lie more than 150 deep|contain each other"):
        load(path)
    with h5py.File(path, "w") as file:
        file["node/type"] = "NIRGraph"
        file.create_dataset("node/nodes/fc/weight", (1 << 20, 1 << 20), np.float32, chunks=(1024, 1024))
    with pytest.raises(DataError, match="must have at most 2147483648 bytes"):
        load(path)
    whole = tmp_path / "whole.nir"
    nir.write(whole, graph())
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):  # bytes changed anywhere: refused in a line, or read, never anything else
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 12):
            damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        told = ""
        try:
            load(path)
        except GpuspikeError as error:
            told = str(error)
        assert "\n" not in told


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(DataError, match=r"a NIR file or a nir.NIRGraph is expected, got 3"):
        load(3)


def test_without_the_package_one_is_told_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(BackendError, match=r"pip install 'gpuspike\[nir\]'"):
        load("net.nir")


# ---- spikes


def test_spike_times_go_to_events_and_back(tmp_path: Path) -> None:
    path, t_in = tmp_path / "spikes.nir", samples()
    out = make()(t_in)
    gs.write_nir_spikes(path, {"input": t_in, "lif_1": out}, time_unit=1e-5)
    found = gs.read_nir_spikes(path, time_unit=1e-5)
    assert list(found) == ["input", "lif_1"]
    assert np.allclose(found["input"], t_in, rtol=1e-14, atol=0)
    same_times(found["lif_1"], out, 1e-14)
    data = nir.read_data(str(path)).nodes["input"].observables["spikes"]
    assert data.n_neurons == 4
    assert data.time[1, 0] == t_in[1].min() * 1e-5
    assert data.idx[0, -1] == -1
    assert np.isinf(data.time[0, -1])


def events(idx: Any, time: Any, n: int = 3, t_max: float = 1.0) -> Any:
    return nir.EventData(np.array(idx), np.array(time, float), n, t_max)


def write_events(path: Path, data: Any) -> None:
    nir.write_data(path, nir.NIRGraphData({"lif": nir.NIRNodeData({"spikes": data})}))


def test_events_of_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "spikes.nir"
    write_events(
        path, events([[2, 0, 0, -1], [1, 1, -1, -1]], [[0.1, 0.2, 2.0, 2.0], [0.3, 2.0, np.inf, np.inf]])
    )
    with h5py.File(path, "r+") as file:  # a graph within the graph
        inner = file["nodes"].create_group("block")
        inner.attrs["__type__"] = "NIRGraphData"
        file.copy(file["nodes/lif"], inner.create_group("nodes"), "lif")
    found = gs.read_nir_spikes(path, time_unit="ms")  # later than t_max is no event
    assert np.allclose(found["lif"], [[200.0, np.inf, 100.0], [np.inf, 300.0, np.inf]])
    assert np.array_equal(found["block.lif"], found["lif"])
    write_events(path, events([[1, 1]], [[0.2, 0.1]]))
    with pytest.raises(DataError, match="node 'lif': a neuron spikes more than once in a sample"):
        gs.read_nir_spikes(path, time_unit="s")
    assert gs.read_nir_spikes(path, time_unit="s", first=True)["lif"][0, 1] == 0.1
    write_events(path, nir.TimeGriddedData(np.array([[[False, True], [False, True]]]), 0.1))
    with pytest.raises(DataError, match="spikes more than once"):
        gs.read_nir_spikes(path, time_unit="s")
    assert np.array_equal(gs.read_nir_spikes(path, time_unit="s", first=True)["lif"], [[np.inf, 0.0]])


def test_events_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spikes.nir"
    with pytest.raises(DataError, match="no NIRData file at"):
        gs.read_nir_spikes(path, time_unit="s")
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a readable NIRData file"):
        gs.read_nir_spikes(path, time_unit="s")
    for data, message in (
        (events([[3]], [[0.1]]), "must have events of its 3 neurons"),
        (events([[0]], [[-0.1]]), "must have events of its 3 neurons"),
        (events([[0]], [[np.nan]]), "must have .* whole numbers and times"),
        (
            nir.ValuedEventData(np.array([[0]]), np.array([[0.1]]), 3, 1.0, np.array([[2.0]])),
            "got events with values",
        ),
    ):
        write_events(path, data)
        with pytest.raises(DataError, match=message):
            gs.read_nir_spikes(path, time_unit="s")
    nir.write_data(
        path,
        nir.NIRGraphData({"lif": nir.NIRNodeData({"voltage": nir.TimeGriddedData(np.ones((1, 1, 1)), 1.0)})}),
    )
    with pytest.raises(DataError, match="must have spikes of at least one node"):
        gs.read_nir_spikes(path, time_unit="s")
    with pytest.raises(ShapeError, match=r"spikes of 'a' must be \(n_samples, n_neurons\)"):
        gs.write_nir_spikes(path, {"a": np.ones(3)}, time_unit="s")
    with pytest.raises(ValueRangeError, match="spikes of 'a' must be 0 or later"):
        gs.write_nir_spikes(path, {"a": -np.ones((1, 3))}, time_unit="s")
    with pytest.raises(ValueRangeError, match="t_max must not come before a spike of 'a'"):
        gs.write_nir_spikes(path, {"a": np.ones((1, 3))}, time_unit="s", t_max=0.5)
    with pytest.raises(OutputError, match="cannot write"):
        gs.write_nir_spikes(tmp_path / "no" / "x", {"a": np.ones((1, 3))}, time_unit="s")
