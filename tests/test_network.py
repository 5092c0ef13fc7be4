"""A network is its layers one after the other: forward, backward, and where its weights come from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.errors import GpuspikeError, ValueRangeError
from gpuspike.kernels import LayerState, first_spikes, load
from gpuspike.network.network import Architecture
from gpuspike.neuron import LIF
from gpuspike.training.losses import TTFSCrossEntropy

Array = NDArray[Any]

SIZES = (4, 12, 3)
BIAS_TIMES = ((0.9,), (0.9, 1.4))
N_REPLICA = 2
N_BATCH = 7

RATIOS = [1.0, 2.0, math.inf, 3.7]
each_ratio = pytest.mark.parametrize("ratio", RATIOS)
"""tau_mem/tau_syn: the three closed forms and the general case."""

TOLERANCE = {
    # Of the largest entry. A central difference over 2e-6 of a loss near 1 leaves 1e-10 of rounding, and flat
    # crossings add curvature.
    "difference": 1e-6,
    # The two backends sum the same terms in another order.
    "backends": 1e-9,
}


def make_network(ratio: float = 1.0, backend: str = "cpu") -> Architecture:
    """4-12-3 with one bias spike on the hidden layer and two on the output."""
    return Architecture.build(SIZES, BIAS_TIMES, LIF(tau_mem=ratio, tau_syn=1.0), load(backend))


def make_weights(network: Architecture, dtype: Any = np.float64) -> list[Array]:
    """Weights of two replicas that leave some hidden neurons silent."""
    return network.initial_weights([5, 6], [0.6, 0.5], [0.9, 0.7], dtype)


def make_inputs(n_replica: int = N_REPLICA, dtype: Any = np.float64) -> tuple[Array, NDArray[np.int64]]:
    """Input times, one of which is silent, and labels."""
    rng = np.random.default_rng(11)
    t_in = rng.uniform(0.15, 2.0, (n_replica, N_BATCH, SIZES[0]))
    t_in[:, 3, 2] = math.inf
    return t_in.astype(dtype), rng.integers(SIZES[-1], size=(n_replica, N_BATCH))


def backward(
    network: Architecture, weights: list[Array], t_in: Array, labels: NDArray[np.int64], **change: Any
) -> tuple[list[LayerState], list[Array]]:
    """Activities and the gradients of each replica's mean loss."""
    seen = network.forward(weights, network.receive(t_in))
    _, t_out_grad = TTFSCrossEntropy()(seen[-1].t_out, labels)
    options: dict[str, Any] = {"active": np.ones(len(weights[0]), np.bool_), "max_weight_grad": math.inf}
    return seen, network.backward(weights, seen, t_out_grad, **(options | change)).weights


def with_bias(t_in: Array, bias_times: tuple[float, ...]) -> Array:
    """The input times with a column for each bias spike, written out."""
    columns = [np.full((*t_in.shape[:-1], 1), t, t_in.dtype) for t in bias_times]
    return np.concatenate([t_in, *columns], axis=-1)


@each_ratio
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward_is_first_spikes_layer_by_layer_with_bias_columns_appended(ratio: float, dtype: Any) -> None:
    network = make_network(ratio)
    weights = make_weights(network, dtype)
    t_in, _ = make_inputs(dtype=dtype)
    neuron = LIF(tau_mem=ratio)
    hidden = first_spikes(with_bias(t_in, BIAS_TIMES[0]), weights[0], neuron)
    output = first_spikes(with_bias(hidden, BIAS_TIMES[1]), weights[1], neuron)
    seen = network.forward(weights, network.receive(t_in))
    np.testing.assert_array_equal(seen[0].t_out, hidden)
    np.testing.assert_array_equal(seen[1].t_out, output)
    assert 0.0 < np.isinf(hidden).mean() < 0.9, "the test needs silent hidden neurons, and spiking ones"
    assert seen[1].t_out.dtype == dtype


def test_a_layer_without_bias_spikes_gets_its_inputs_alone() -> None:
    network = Architecture.build(SIZES, ((), ()), LIF(), load("cpu"))
    weights = make_weights(network)
    t_in, _ = make_inputs()
    assert [w.shape for w in weights] == [(2, 4, 12), (2, 12, 3)]
    seen = network.forward(weights, network.receive(t_in))
    hidden = first_spikes(t_in, weights[0], LIF())
    np.testing.assert_array_equal(seen[1].t_out, first_spikes(hidden, weights[1], LIF()))


def test_inputs_shared_by_the_replicas_give_the_same_bits_as_copies() -> None:
    network = make_network()
    weights = make_weights(network)
    t_in, _ = make_inputs(n_replica=1)
    shared = network.forward(weights, network.receive(t_in))
    copied = network.forward(weights, network.receive(np.repeat(t_in, N_REPLICA, axis=0)))
    for a, b in zip(shared, copied, strict=True):
        np.testing.assert_array_equal(a.t_out, b.t_out)
        np.testing.assert_array_equal(a.slope, b.slope)


@each_ratio
def test_backward_equals_central_differences_of_the_loss_through_both_layers(ratio: float) -> None:
    network = make_network(ratio)
    weights = make_weights(network)
    t_in, labels = make_inputs()
    received = network.receive(t_in)
    loss = TTFSCrossEntropy()
    seen, grads = backward(network, weights, t_in, labels)
    step = 1e-6
    for layer, grad in enumerate(grads):
        assert grad.shape == weights[layer].shape
        difference = np.empty_like(grad)
        for place in np.ndindex(*grad.shape[1:]):
            sides = []
            for sign in (1.0, -1.0):
                moved = [w.copy() for w in weights]
                moved[layer][:, *place] += sign * step
                after = network.forward(moved, received)
                for a, b in zip(after, seen, strict=True):
                    assert (np.isinf(a.t_out) == np.isinf(b.t_out)).all(), "a spike appeared: no derivative"
                sides.append(loss(after[-1].t_out, labels)[0].mean(axis=1))
            difference[:, *place] = (sides[0] - sides[1]) / (2.0 * step)
        assert np.abs(difference).max() > 1e-3
        error = np.abs(grad - difference).max() / np.abs(difference).max()
        assert error < TOLERANCE["difference"]


@each_ratio
def test_the_reference_network_and_the_cpu_network_agree(ratio: float) -> None:
    t_in, labels = make_inputs()
    results = []
    for backend in ("reference", "cpu"):
        network = make_network(ratio, backend)
        results.append(backward(network, make_weights(network), t_in, labels))
    for oracle, seen in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(np.isinf(seen.t_out), np.isinf(oracle.t_out))
        np.testing.assert_allclose(seen.t_out, oracle.t_out, rtol=0, atol=TOLERANCE["backends"])
        np.testing.assert_allclose(seen.slope, oracle.slope, rtol=0, atol=TOLERANCE["backends"])
    for oracle_grad, grad in zip(results[0][1], results[1][1], strict=True):
        tolerance = TOLERANCE["backends"] * np.abs(oracle_grad).max()
        np.testing.assert_allclose(grad, oracle_grad, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_inactive_replica_gets_no_gradient_and_changes_nobody_else_s(backend: str) -> None:
    network = make_network(backend=backend)
    weights = make_weights(network)
    t_in, labels = make_inputs()
    _, everybody = backward(network, weights, t_in, labels)
    _, some = backward(network, weights, t_in, labels, active=np.array([False, True]))
    for all_grads, grad in zip(everybody, some, strict=True):
        np.testing.assert_array_equal(grad[0], np.zeros_like(grad[0]))
        np.testing.assert_array_equal(grad[1], all_grads[1])
        assert (grad[1] != 0.0).any()


def test_a_replica_is_computed_as_if_alone_bit_for_bit() -> None:
    network = make_network()
    weights = make_weights(network)
    t_in, labels = make_inputs()
    seen, grads = backward(network, weights, t_in, labels)
    for r in range(N_REPLICA):
        one = slice(r, r + 1)
        seen_alone, grads_alone = backward(network, [w[one] for w in weights], t_in[one], labels[one])
        for a, b in zip(seen, seen_alone, strict=True):
            np.testing.assert_array_equal(a.t_out[r], b.t_out[0])
        for grad, grad_alone in zip(grads, grads_alone, strict=True):
            np.testing.assert_array_equal(grad[r], grad_alone[0])


def test_initial_weights_of_a_replica_are_those_of_its_seed_alone() -> None:
    network = make_network()
    together = network.initial_weights([17, 18, 19], [1.5, 0.5], [0.8, 0.3], np.float64)
    for r, seed in enumerate((17, 18, 19)):
        alone = network.initial_weights([seed], [1.5, 0.5], [0.8, 0.3], np.float64)
        for w, w_alone in zip(together, alone, strict=True):
            np.testing.assert_array_equal(w[r], w_alone[0])
    assert (together[0][0] != together[0][1]).all()


def test_the_layers_do_not_share_their_random_numbers() -> None:
    network = Architecture.build((5, 5, 5), ((), ()), LIF(), load("cpu"))
    first, second = network.initial_weights([3], [0.0, 0.0], [1.0, 1.0], np.float64)
    assert (first != second).all()


def test_initial_weights_have_the_mean_and_deviation_of_their_layer() -> None:
    network = Architecture.build((200, 200, 200), ((0.9,), (0.9,)), LIF(), load("cpu"))
    weights = network.initial_weights([1], [1.5, -0.5], [0.8, 0.1], np.float64)
    for w, mean, std in zip(weights, (1.5, -0.5), (0.8, 0.1), strict=True):
        # 40,000 numbers: five standard deviations of their mean and of their deviation.
        assert w.mean() == pytest.approx(mean, abs=5 * std / 200)
        assert w.std() == pytest.approx(std, abs=5 * std / 200)


def test_initial_weights_in_float32_are_the_rounded_float64_ones() -> None:
    network = make_network()
    for w32, w64 in zip(make_weights(network, np.float32), make_weights(network), strict=True):
        assert w32.dtype == np.float32
        np.testing.assert_array_equal(w32, w64.astype(np.float32))


def test_initial_weights_have_a_row_for_every_input_and_bias_spike() -> None:
    assert [w.shape for w in make_weights(make_network())] == [(2, 5, 12), (2, 14, 3)]


@pytest.mark.parametrize("sizes", [(), (4,), (4, 0), (0, 3), (4, -1, 3)], ids=repr)
def test_layer_sizes_that_make_no_network_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueRangeError, match="two or more positive numbers, got") as caught:
        Architecture.build(sizes, [()] * max(len(sizes) - 1, 0), LIF(), load("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_lists", [0, 1, 3])
def test_bias_times_for_another_number_of_layers_are_refused(n_lists: int) -> None:
    with pytest.raises(ValueRangeError, match=f"each of the 2 layers, got {n_lists}"):
        Architecture.build(SIZES, [(0.9,)] * n_lists, LIF(), load("cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [np.asfortranarray(w[0]), w[1]], "arrays must be C-contiguous"),
        (
            lambda w: [w[0].astype(np.float32), w[1]],
            "layer 0 must be float64 like t_in, got float32",
        ),
        (lambda w: [w[0][:, :-1].copy(), w[1]], r"weights of layer 0 must be \(2, 5, 'n_post'\), got shape"),
        (lambda w: [w[0], w[1][:, 1:].copy()], r"weights of layer 1 must be \(2, 14, 'n_post'\), got shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    network = make_network()
    t_in, _ = make_inputs()
    with pytest.raises(GpuspikeError, match=message):
        network.forward(change(make_weights(network)), network.receive(t_in))


def test_labels_that_are_no_classes_are_refused() -> None:
    t_out = np.ones((1, 2, 3))
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(ValueRangeError, match="labels must lie from 0 to 2, got"):
            load("cpu").score(TTFSCrossEntropy(), t_out, np.array([labels]))
