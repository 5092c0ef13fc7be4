"""Decisions on a device, in one launch: to the bit those of its own forward pass, the CPU's to rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from device_on_cpu import device, fake
from numpy.typing import NDArray
from test_kernels import TOLERANCE

import gpuspike as gs
from gpuspike.errors import DtypeError
from gpuspike.kernels import cuda, load
from gpuspike.kernels.cuda import deciding
from gpuspike.network.decision import decisions
from gpuspike.neuron import LIF

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("cupy")

NEURONS = {
    "equal": LIF(1.0, 1.0),
    "double": LIF(2.0, 1.0, 0.7, -0.2, 1.5),
    "non-leaky": LIF(math.inf, 1.0),
    "general": LIF(1.0, 3.1),
}
each_neuron = pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS.keys())
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Net:
    """A network whose neurons spike early, late and not at all, and samples for it."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        neuron: LIF,
        dtype: Any,
        n_samples: int = 5,
        bias: tuple[tuple[float, ...], ...] | None = None,
        window: float = 3.0,
        replicas: int = 2,
    ) -> None:
        rng = np.random.default_rng(sum(sizes))
        self.neurons, self.bias = [neuron] * (len(sizes) - 1), bias or ((),) * (len(sizes) - 1)
        needed = np.mean(neuron.drive) / (LIF(neuron.tau_mem, neuron.tau_syn).kernel_peak[1])
        self.weights = []
        for n_in, n_post, late in zip(sizes[:-1], sizes[1:], self.bias, strict=True):
            n_pre = n_in + len(late)
            drawn = rng.normal(3.0 / n_pre, 5.0 / n_pre, (replicas, n_pre, n_post))
            self.weights.append((needed * drawn).astype(dtype))
        t_in = rng.uniform(0.0, window, (n_samples, sizes[0]))
        t_in[rng.random(t_in.shape) < 0.2] = 0.3 * window  # ties
        t_in[rng.random(t_in.shape) < 0.2] = np.inf
        t_in[1:2] = np.inf  # a sample without any spike
        first = np.broadcast_to(np.array(self.bias[0]), (n_samples, len(self.bias[0])))
        self.t_in, self.inputs = (
            np.concatenate([t_in, first], axis=1).astype(dtype),
            np.isfinite(t_in).sum(axis=1),
        )

    def passed(self) -> tuple[Array, Array, int]:
        """Classes, times and pair-events of the device's forward pass."""
        there = [fake(w) for w in self.weights]
        states = load("cuda").forward(fake(self.t_in[None]), None, there, self.neurons, self.bias)
        t_out = np.asarray(states[-1].t_out)
        times, met = t_out.min(axis=2), 0
        for state, w in zip(states, self.weights, strict=True):
            spikes = np.isfinite(np.asarray(state.t_in)).sum() * (len(w) // len(state.t_in))
            met += int(spikes) * w.shape[2]
        return np.where(np.isfinite(times), t_out.argmin(axis=2), -1), times, met

    def decided(self, until: float, kernels: Any = cuda, place: Any = fake) -> tuple[Array, Array, Array]:
        weights = [place(w) for w in self.weights]
        return kernels.decide(place(self.t_in), weights, self.neurons, self.bias, until)

    def check(self, *horizons: float) -> float:
        """Compares with the pass; returns the share of its pair-events met with the first horizon."""
        assert cuda.decides(self.weights, self.neurons)
        classes, times, met = self.passed()
        shares = []
        for until in (*horizons, math.inf):
            device.launches.clear()
            found = self.decided(until)
            launched = [name.split("::")[-1].split("<")[0] for name in device.launches if "gpuspike" in name]
            expected = ["gpuspike_parts_" + str(self.t_in.dtype), "first_decisions"]
            assert launched == (expected if len(self.t_in) else [])
            np.testing.assert_array_equal(found[0], classes)
            assert found[1].tobytes() == times.tobytes()
            shares.append(found[2][..., 1].sum() / max(met, 1))
            assert (found[2][..., 0] <= self.inputs).all()
        assert shares[-1] == (1.0 if met else 0.0)
        assert (found[2][..., 0] == self.inputs).all()
        assert max(shares) <= 1.0
        return shares[0]


@each_neuron
@each_dtype
def test_decisions_are_those_of_the_device_s_own_pass(neuron: LIF, dtype: Any) -> None:
    net = Net((33, 70, 31, 5), neuron, dtype, bias=((0.9,), (1.5, 0.2), (math.inf, 2.0)))
    _, times, _ = net.passed()
    some = float(np.quantile(times[np.isfinite(times)], 0.6))
    assert net.check(some, 0.0, 0.9) < 0.99


SIZES = {
    "one of all": (1, 1, 1),
    "narrow": (31, 10, 10, 1),
    "wide": (129, 350, 10),
    "one layer": (33, 33),
    "many classes": (65, 1, 100),
    "as large as fits": (1000, 65, 3),
}


@each_dtype
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_any_sizes(sizes: tuple[int, ...], dtype: Any) -> None:
    if sizes[0] == 1000 and dtype == np.float64:
        assert not cuda.decides(Net(sizes, NEURONS["equal"], dtype).weights, [NEURONS["equal"]] * 2)
        return
    Net(sizes, NEURONS["general"], dtype, n_samples=2).check(1.0)


@pytest.mark.parametrize("n_samples", [0, 1, pytest.param(80, marks=pytest.mark.slow)])
def test_any_number_of_samples_and_replicas(n_samples: int) -> None:
    for replicas in (1, 3):
        Net((9, 40, 3), NEURONS["double"], np.float32, n_samples, replicas=replicas).check(1.2)


@each_dtype
@pytest.mark.parametrize("window", [30.0, 10_000.0])
def test_a_window_of_many_anchors_goes_on_in_the_middle_of_one(window: float, dtype: Any) -> None:
    net = Net((40, 33, 4), NEURONS["non-leaky"], dtype, 4, window=window)
    net.check(*(share * window for share in (0.1, 0.32, 0.5)))


def test_thresholds_of_their_own() -> None:
    rng = np.random.default_rng(0)
    net = Net((20, 33, 5), LIF(2.0, 1.0), np.float32)
    net.neurons = [LIF(2.0, 1.0, threshold=rng.uniform(0.7, 1.3, n)) for n in (33, 5)]
    net.check(1.0, 2.0)


def test_flat_crossings_are_looked_at_again() -> None:
    """Membranes that just reach the threshold: float32 alone would be off by far more than its last digit."""
    neuron = NEURONS["equal"]
    net = Net((2, 70, 4), neuron, np.float32, 5)
    net.t_in[:] = [[0.5, math.inf], [0.5, 0.9], [0.5, 1.4], [0.5, 1.6], [math.inf, 0.1]]
    net.inputs = np.isfinite(net.t_in).sum(axis=1)
    net.weights[0][:] = math.e * (1.0 + 1e-5 * np.linspace(-1.0, 1.0, 70))
    net.weights[0][:, 1] = 1e-3
    net.weights[1][:] = np.linspace(0.05, 0.2, 4)
    net.check(0.5, 1.4)


@each_neuron
@each_dtype
def test_the_cpu_decides_alike(neuron: LIF, dtype: Any) -> None:
    net, exact = Net((33, 70, 5), neuron, dtype, 20, bias=((0.9,), (1.5,))), dtype == np.float64
    tolerance = TOLERANCE["spike time, tau_syn" if exact else "float32 spike time, tau_syn"]
    theirs, ours = net.decided(1.5, load("cpu"), np.asarray), net.decided(1.5)
    np.testing.assert_array_equal(np.isfinite(ours[1]), np.isfinite(theirs[1]))
    spiking = np.isfinite(ours[1])
    assert 0.5 < spiking.mean() < 1.0
    np.testing.assert_allclose(ours[1][spiking], theirs[1][spiking], rtol=0.0, atol=tolerance)
    assert (ours[0] != theirs[0]).mean() <= (0.0 if exact else 0.02)  # two that are as good as tied
    assert (ours[2] <= theirs[2]).all()  # which presents samples again that are not decided
    for got, wanted in zip(
        net.decided(math.inf)[2].T, net.decided(math.inf, load("cpu"), np.asarray)[2].T, strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def use_all() -> None:
    """A little of everything, for who watches memory."""
    for neuron in NEURONS.values():
        for dtype in (np.float32, np.float64):
            for sizes in SIZES.values():
                if sizes[0] < 1000:
                    Net(sizes, neuron, dtype, 2).check(0.9)


def test_what_a_block_cannot_take_is_passed_as_before() -> None:
    rng = np.random.default_rng(0)
    equal, double = NEURONS["equal"], LIF(2.0, 1.0)
    own = [LIF(tau_mem=rng.uniform(0.8, 2.0, n)) for n in (4, 3)]
    for sizes, neurons in (
        ([2000, 4, 3], [equal] * 2),
        ([6, 4, 3], [equal, double]),
        ([6, 4, 3], own),
    ):
        net = gs.Network(
            sizes, neuron=neurons, backend="cuda", weight_mean=[3.0 / sizes[0], 1.0], dtype="float32"
        )
        t_in = rng.uniform(0.0, 2.0, (3, sizes[0])).astype(np.float32)
        assert not cuda.decides(net.parameters.weights, neurons)
        device.launches.clear()
        classes, times = gs.decide(net, t_in)
        assert not any("first_decisions" in name for name in device.launches)
        t_out = net(t_in)
        assert times.tobytes() == t_out.min(axis=1).tobytes()
        np.testing.assert_array_equal(classes, np.where(np.isfinite(times), t_out.argmin(axis=1), -1))


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_network_decides_in_two_launches_a_part(replicas: int) -> None:
    bias = [[0.9], [0.9]]
    nets = [
        gs.Network(
            [5, 40, 3], bias, replicas=replicas, seed=2, backend=name, weight_mean=[1.0, 0.3], dtype="float64"
        )
        for name in ("cuda", "cpu")
    ]
    t_in = np.random.default_rng(1).uniform(0.0, 3.0, (210, 5))
    device.launches.clear()
    found = decisions(nets[0].machine, nets[0].parameters.weights, t_in)
    assert [name for name in device.launches if "gpuspike" in name] == [
        "gpuspike_parts_float64",
        "gpuspike::first_decisions<double, 0>",
    ] * 2  # those looked at first, and the others
    t_out = nets[0](t_in)
    times = t_out.min(axis=-1).reshape(found.times.shape)
    assert found.times.tobytes() == times.tobytes()
    np.testing.assert_allclose(
        found.times, decisions(nets[1].machine, nets[1].parameters.weights, t_in).times, rtol=1e-10
    )
    assert 0.0 < found.presented <= 1.0


def test_arrays_that_a_kernel_would_read_wrongly_are_refused() -> None:
    net = Net((5, 4, 3), NEURONS["equal"], np.float32)
    there = [fake(net.weights[0]), fake(net.weights[1].astype(np.float64))]
    with pytest.raises(DtypeError, match=r"weights\[1\] must be float32, got float64"):
        deciding.launch(fake(net.t_in), there, net.neurons, net.bias, 1.0)


@pytest.mark.parametrize(("n_hidden", "fits"), [(661, True), (662, False), (672, False)])
def test_what_the_kernel_has_of_its_own_is_room_too(n_hidden: int, fits: bool) -> None:
    weights = [np.empty((1, 1024, n_hidden), np.float32), np.empty((1, n_hidden, 10), np.float32)]
    assert deciding.decides(weights, [LIF(), LIF()]) == fits
