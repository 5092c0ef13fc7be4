"""Convolutions in PyTorch: the layers of `gs.Network`, its spike times and its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.errors import ConfigError, DtypeError, ShapeError, ValueRangeError

torch = pytest.importorskip("torch", reason="needs the extra torch")
gst: Any = pytest.importorskip("gpuspike.torch")

SHAPE = (7, 6, 2)
PLANS: dict[str, list[Any]] = {
    "one map": [{"conv": 1, "kernel": 3}, 3],
    "pooled": [{"conv": 4, "kernel": 3}, {"pool": 2}, 3],
    "pooled, with a rest": [{"conv": 3, "kernel": 2}, {"pool": 4}, 3],
    "strides": [{"conv": 4, "kernel": 3, "stride": 2}, 3],
    "silent padding": [{"conv": 4, "kernel": 3, "padding": 2}, {"pool": 3}, 3],
    "late padding": [{"conv": 4, "kernel": 3, "padding": 1, "pad_time": 1.5}, 3],
    "two of them": [{"conv": 4, "kernel": 3}, {"pool": 2}, {"conv": 5, "kernel": 2}, 3],
}


def network(plan: list[Any], **options: Any) -> Any:
    """With bias spikes and weights that leave some neurons silent."""
    n_layer = sum(not (isinstance(entry, dict) and "pool" in entry) for entry in plan)
    bias = [[0.4], *[[]] * (n_layer - 1)]
    return gs.Network([list(SHAPE), *plan], bias, seed=3, backend="cpu", **options)


def times(*lead: int, dtype: Any = np.float64) -> Any:
    """Spike times with ties and silence."""
    rng = np.random.default_rng(1)
    t_in = np.round(rng.uniform(0.0, 2.0, (*lead, math.prod(SHAPE))), 1)
    t_in[rng.random(t_in.shape) < 0.3] = np.inf
    return t_in.astype(dtype)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_spike_times_are_those_of_the_network(plan: list[Any]) -> None:
    net, t_in = network(plan), times(5)
    t_out = gst.layers_of(net)(torch.from_numpy(t_in)).detach().numpy()
    assert np.isfinite(t_out).any()
    np.testing.assert_allclose(t_out, net(t_in), rtol=1e-12)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_gradients_are_those_of_the_network(plan: list[Any]) -> None:
    net, t_in = network(plan), times(5)
    model, given = gst.layers_of(net), torch.from_numpy(t_in).requires_grad_()
    t_out = model(given)
    t_out_grad = torch.from_numpy(np.random.default_rng(2).normal(size=tuple(t_out.shape)))
    t_out.backward(t_out_grad)
    architecture, weights = net.architecture, net.parameters.weights
    states = architecture.forward(weights, architecture.receive(t_in[None]))
    grads = architecture.backward(
        net.parameters, states, t_out_grad.numpy()[None], active=np.ones(1, np.bool_), max_weight_grad=np.inf
    )
    for layer, grad in zip(model, grads, strict=True):
        scale = np.abs(grad.weights).max()
        np.testing.assert_allclose(
            layer.weights.grad.numpy(), grad.weights[0], rtol=1e-10, atol=1e-12 * scale
        )
    assert (given.grad[torch.isinf(given)] == 0.0).all()


def test_gradients_hold_against_differences() -> None:
    torch.manual_seed(0)
    layer = gst.FirstSpikesConv2d(
        (4, 4), 2, 2, pool=2, bias_times=[0.1], weight_mean=1.0, weight_std=0.3
    ).double()
    t_in = torch.rand(3, 16, dtype=torch.float64, requires_grad=True)

    def spikes(t: Any, weights: Any) -> Any:
        return torch.func.functional_call(layer, {"weights": weights}, (t,)).clamp(max=9.0)

    assert torch.autograd.gradcheck(spikes, (t_in, layer.weights), atol=1e-5)


def test_replicas_are_layers_side_by_side() -> None:
    net, t_in = network(PLANS["two of them"], replicas=3), times(3, 5)
    model = gst.layers_of(net)
    t_out = model(torch.from_numpy(t_in))
    assert t_out.shape == (3, 5, 3)
    for r in range(3):
        alone = gst.layers_of(network(PLANS["two of them"]))
        with torch.no_grad():
            for layer, one in zip(model, alone, strict=True):
                one.weights.copy_(layer.weights[r])
        assert torch.equal(alone(torch.from_numpy(t_in[r])), t_out[r])
    assert model(torch.from_numpy(t_in[0])).shape == (3, 5, 3)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_model_becomes_the_network_again(plan: list[Any]) -> None:
    net, t_in = network(plan), times(5)
    again = gst.network_of(gst.layers_of(net), backend="cpu")
    np.testing.assert_array_equal(again(t_in), net(t_in))
    assert again.sizes == net.sizes


def test_images_of_torch_s_go_in_and_come_out() -> None:
    layer = gst.FirstSpikesConv2d(SHAPE, 5, 3)
    image = torch.rand(2, SHAPE[2], *SHAPE[:2])
    flat = image.permute(0, 2, 3, 1).flatten(1)
    maps = layer(flat).unflatten(1, layer.out_shape).permute(0, 3, 1, 2)
    assert maps.shape == (2, 5, 5, 4)
    one = gst.first_spikes(image[0, :, 1:4, 2:5].permute(1, 2, 0).reshape(1, -1), layer.weights, layer.neuron)
    assert torch.equal(maps[0, :, 1, 2], one[0])


def test_it_learns_and_is_woken() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(gst.FirstSpikesConv2d(SHAPE, 4, 3, pool=2), gst.FirstSpikes(16, 3)).double()
    with torch.no_grad():
        model[0].weights.sub_(0.5)  # nearly all are silent
    bumping, optimizer = gst.Bumping(model), torch.optim.Adam(model.parameters(), lr=0.01)
    t_in, labels = torch.from_numpy(times(60)), torch.arange(60) % 3
    loss, losses, chosen = gst.TTFSCrossEntropy(), [], set()
    for _ in range(60):
        optimizer.zero_grad()
        found = loss(model(t_in), labels)
        found.backward()
        optimizer.step()
        chosen |= set(bumping.step())
        losses.append(found.item())
    assert 0 in chosen
    assert losses[-1] < 0.7 * max(losses)


def test_what_it_keeps_is_one_plain_parameter() -> None:
    torch.manual_seed(1)
    layer, other = (gst.FirstSpikesConv2d(SHAPE, 4, 3, bias_times=[0.2]) for _ in range(2))
    assert list(layer.state_dict()) == ["weights"]
    assert layer.weights.shape == (19, 4)
    assert not torch.equal(layer.weights, other.weights)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer.weights, other.weights)
    layer.reset_parameters()
    assert not torch.equal(layer.weights, other.weights)
    assert "4 maps of 3x3" in repr(layer)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueRangeError, match="does not fit"):
        gst.FirstSpikesConv2d((4, 4), 2, 5)
    layer = gst.FirstSpikesConv2d((4, 4), 2, 3)
    with pytest.raises(ShapeError, match=r"t_in must be \(\.\.\., n_in\) = \(\.\.\., 16\), got \(3, 15\)"):
        layer(torch.rand(3, 15))
    with pytest.raises(
        ShapeError, match="shape must be rows, columns and perhaps channels of an image, got 36"
    ):
        gst.FirstSpikesConv2d(36, 2, 3)
    with pytest.raises(
        DtypeError, match=r"dtype must be torch\.float32 or torch\.float64, got torch\.float16"
    ):
        gst.FirstSpikesConv2d((4, 4), 2, 3, dtype=torch.float16)
    turned = torch.nn.Sequential(gst.FirstSpikesConv2d((5, 10), 2, 2), gst.FirstSpikesConv2d((9, 4, 2), 3, 3))
    with pytest.raises(ShapeError, match=r"layer 1 must see .*, \(4, 9, 2\), got an image of \(9, 4, 2\)"):
        gst.network_of(turned)
    flat = torch.nn.Sequential(gst.FirstSpikes(4, 16), gst.FirstSpikesConv2d((4, 4), 3, 3))
    with pytest.raises(ShapeError, match=r"layer 1 must see .*, 16 neurons, got an image of \(4, 4, 1\)"):
        gst.network_of(flat)
    with pytest.raises(ConfigError, match="convolutions of PyTorch learn no delays, got dendritic"):
        gst.layers_of(gs.Network([[4, 4], {"conv": 2, "kernel": 3}, 3], delays="dendritic", backend="cpu"))


def test_it_compiles_whole() -> None:
    torch._dynamo.reset()
    model = gst.layers_of(network(PLANS["two of them"]))
    t_in = torch.from_numpy(times(5))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(t_in), model(t_in))
    grads = []
    for one in (compiled, model):
        model.zero_grad()
        one(t_in).clamp(max=5.0).sum().backward()
        grads.append([layer.weights.grad.clone() for layer in model])
    for of_compiled, plain in zip(*grads, strict=True):
        torch.testing.assert_close(of_compiled, plain)
