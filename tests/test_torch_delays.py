"""gpuspike.torch: delays of spikes, and what wakes silent layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.errors import BackendError, ConfigError, DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels import load

torch = pytest.importorskip("torch", reason="needs the extra torch: no PyTorch to be found")

import gpuspike.torch as gst  # noqa: E402
from gpuspike.torch.module import delays_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's, about itself
    "ignore:`torch.jit:FutureWarning",
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)

KINDS = ["axonal", "dendritic", "synaptic", "axonal+dendritic", "axonal+dendritic+synaptic"]
each_kind = pytest.mark.parametrize("kind", KINDS)
NEURONS = {
    "equal": gs.LIF(),
    "other": gs.LIF(tau_mem=3.3, tau_syn=0.7, leak=-0.2),
    "no leak": gs.LIF(tau_mem=math.inf),
    "own": gs.LIF(threshold=np.linspace(0.5, 1.0, 4), tau_mem=np.linspace(1.0, 2.0, 4)),
}
each_neuron = pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)


def make(replicas: int | None = None, dtype: str = "float64") -> list[Any]:
    """Input times with silent inputs, weights and delays."""
    rng = np.random.default_rng(0)
    lead = () if replicas is None else (replicas,)
    t_in = rng.uniform(0.0, 2.0, (*lead, 9, 7))
    t_in[rng.random(t_in.shape) < 0.1] = np.inf
    weights, delays = rng.normal(0.3, 0.5, (*lead, 7, 4)), rng.uniform(0.0, 1.0, (*lead, 7, 4))
    return [torch.from_numpy(array.astype(dtype)) for array in (t_in, weights, delays)]


def finite(t_out: Any) -> Any:
    return torch.where(torch.isfinite(t_out), t_out, 0.0).square().sum()


# ---- the function


@each_neuron
@pytest.mark.parametrize("replicas", [None, 2])
def test_spike_times_and_gradients_are_those_of_the_oracle(neuron: gs.LIF, replicas: int | None) -> None:
    t_in, weights, delays = (tensor.requires_grad_() for tensor in make(replicas))
    t_out = gst.first_spikes(t_in, weights, neuron, delays=delays)
    assert 0.0 < torch.isinf(t_out).double().mean() < 0.9
    finite(t_out).backward()
    arrays = [tensor.detach().numpy() for tensor in (t_in, weights, delays)]
    arrays = arrays if replicas else [array[None] for array in arrays]
    oracle = load("reference").single
    expected, slope = oracle.forward(*arrays, neuron)
    np.testing.assert_allclose(t_out.detach().numpy().reshape(expected.shape), expected, rtol=1e-10)
    grad = np.where(np.isfinite(expected), 2.0 * expected, 0.0)
    given = (*arrays, neuron, expected, slope, grad)
    active: Any = {"active": np.ones(replicas or 1, np.bool_)}
    of_weights, of_delays = oracle.learn(*given, **active, max_weight_grad=math.inf)
    of_times = oracle.times_grad(*given, **active)
    for tensor, wanted in zip((t_in, weights, delays), (of_times, of_weights, of_delays), strict=True):
        np.testing.assert_allclose(tensor.grad.numpy().reshape(wanted.shape), wanted, rtol=1e-8, atol=1e-10)


def test_delays_of_zero_change_nothing() -> None:
    t_in, weights, delays = make()
    t_out = gst.first_spikes(t_in, weights, gs.LIF(), delays=torch.zeros_like(delays))
    torch.testing.assert_close(t_out, gst.first_spikes(t_in, weights, gs.LIF()), rtol=1e-12, atol=0.0)


@each_neuron
def test_gradients_are_those_of_finite_differences(neuron: gs.LIF) -> None:
    rng = np.random.default_rng(1)
    t_in = torch.from_numpy(np.sort(rng.uniform(0.0, 1.0, (3, 5)), axis=1) + 0.1 * np.arange(5))
    weights = torch.from_numpy(rng.uniform(1.0, 1.5, (5, 4)))
    delays = torch.from_numpy(rng.uniform(0.1, 0.6, (5, 4)))
    given = tuple(tensor.requires_grad_() for tensor in (t_in, weights, delays))
    assert torch.isfinite(gst.first_spikes(t_in, weights, neuron, delays=delays)).all()
    assert torch.autograd.gradcheck(lambda t, w, d: gst.first_spikes(t, w, neuron, delays=d), given)
    with pytest.raises(BackendError, match="first_spikes has first derivatives in reverse mode"):
        torch.autograd.gradgradcheck(lambda d: gst.first_spikes(t_in, weights, neuron, delays=d), given[2])


@pytest.mark.parametrize("incoming", [1.0, math.nan, math.inf])
def test_a_silent_neuron_has_a_gradient_of_exactly_zero(incoming: float) -> None:
    t_in, weights, delays = make()
    weights[:, 2] = -1.0
    given = [tensor.requires_grad_() for tensor in (t_in, weights, delays)]
    t_out = gst.first_spikes(t_in, weights, gs.LIF(), delays=delays)
    t_out.backward(torch.where(torch.isinf(t_out), incoming, 1.0).detach())
    assert all(torch.isfinite(tensor.grad).all() for tensor in given)
    assert (delays.grad[:, 2] == 0.0).all()
    assert (weights.grad[:, 2] == 0.0).all()


def test_the_operators_keep_what_they_promise_and_are_mapped_and_compiled() -> None:
    t_in, weights, delays = (tensor.requires_grad_() for tensor in make())
    neuron = gs.LIF()
    numbers, own = gst.neurons.told(neuron)
    told = (t_in, weights, delays, numbers, own, math.inf)
    torch.library.opcheck(torch.ops.gpuspike.delayed_spikes.default, told)
    t_out = gst.first_spikes(t_in, weights, gs.LIF(), delays=delays).detach()
    told = (t_in.detach(), weights.detach(), delays.detach(), t_out, torch.ones_like(t_out))
    torch.library.opcheck(torch.ops.gpuspike.delayed_spikes_vjp.default, (*told, numbers, own, math.inf))
    t_in, weights, delays = make(replicas=3)

    def loss(t: Any, w: Any, d: Any) -> Any:
        return finite(gst.first_spikes(t, w, neuron, delays=d))

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(t_in, weights, delays)
    for number in range(3):
        alone = torch.func.grad(loss, argnums=(0, 1, 2))(t_in[number], weights[number], delays[number])
        assert all(torch.equal(one[number], other) for one, other in zip(mapped, alone, strict=True))
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(t_in, weights, delays), loss(t_in, weights, delays))
    torch._dynamo.reset()
    meta = [tensor.to("meta") for tensor in make()]
    assert gst.first_spikes(*meta[:2], gs.LIF(), delays=meta[2]).shape == (9, 4)


# ---- the layer


def network(kind: str, replicas: int = 1, form: str = "sigmoid", dtype: str = "float64") -> gs.Network:
    rule = gs.DelayRule(shift=0.1, scale=0.8, form=form)
    return gs.Network(
        [4, 9, 3],
        [[0.9], []],
        delays=kind,
        delay_rule=rule,
        replicas=replicas,
        backend="cpu",
        dtype=dtype,
        weight_mean=0.8,
        weight_std=0.8,
    )


@each_kind
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("form", ["sigmoid", "clipped"])
def test_layers_answer_and_learn_as_the_network(kind: str, replicas: int, form: str) -> None:
    net = network(kind, replicas, form)
    if form == "clipped":  # some behind the ends
        for own in net.parameters:
            for free in own.free.values():
                free *= 12.0
    t_in = np.random.default_rng(0).uniform(0.0, 2.0, (20, 4))
    model, architecture = gst.layers_of(net), net.architecture
    t_out = model(torch.from_numpy(t_in))
    np.testing.assert_allclose(t_out.detach().numpy(), net(t_in), rtol=1e-13)
    assert 0.05 < torch.isfinite(t_out).double().mean()
    finite(t_out).backward()
    states = architecture.forward(net.parameters.weights, architecture.receive(t_in[None]))
    told = states[-1].t_out
    grads = architecture.backward(
        net.parameters,
        states,
        np.where(np.isfinite(told), 2.0 * told, 0.0),
        active=np.ones(replicas, np.bool_),
        max_weight_grad=math.inf,
    )
    for layer, wanted in zip(model, grads, strict=True):
        for name, array in wanted.arrays().items():
            found = getattr(layer, name).grad.numpy()
            np.testing.assert_allclose(found.reshape(array.shape), array, rtol=1e-7, atol=1e-9, err_msg=name)


@each_kind
def test_layers_become_the_network_again(kind: str) -> None:
    for net in (network(kind), network(kind, replicas=2, dtype="float32")):
        again = gst.network_of(gst.layers_of(net), backend="cpu")
        assert again.architecture.delay_rule == net.architecture.delay_rule
        assert again.dtype == net.dtype
        found, wanted = again.parameters.arrays(), net.parameters.arrays()
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)


@each_kind
def test_a_layer_s_gradients_are_those_of_finite_differences(kind: str) -> None:
    torch.manual_seed(1)
    layer = gst.FirstSpikes(
        5, 3, [0.2], delays=kind, weight_mean=1.2, weight_std=0.1, delay_rule=gs.DelayRule(scale=0.5)
    ).double()
    t_in = torch.linspace(0.0, 1.0, 5, dtype=torch.float64).repeat(2, 1).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["weights", *(f"{one}_delay" for one in kind.split("+"))]

    def function(t: Any, *own: Any) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, own, strict=True)), (t,))

    own = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    assert torch.isfinite(function(t_in, *own)).all()
    assert torch.autograd.gradcheck(function, (t_in, *own))


def test_delays_begin_as_a_network_s_and_are_told() -> None:
    torch.manual_seed(0)
    layer = gst.FirstSpikes(300, 200, delays="axonal+synaptic", replicas=2)
    assert layer.synaptic_delay.shape == layer.weights.shape == (2, 300, 200)
    assert layer.axonal_delay.shape == (2, 300)
    assert layer.synaptic_delay.std().item() == pytest.approx(gs.DelayRule().spread, rel=0.05)
    assert "delays='axonal+synaptic'" in repr(layer)
    before = layer.axonal_delay.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.axonal_delay, before)


@pytest.mark.parametrize("form", ["sigmoid", "clipped"])
def test_delays_follow_the_rule_of_networks(form: str) -> None:
    rule, free = gs.DelayRule(0.2, 1.5, form), np.array([-9.0, -1.9, 0.0, 0.7, 2.1, 9.0])
    for sign in (1.0, -1.0):
        tensor = torch.from_numpy(free.copy()).requires_grad_()
        delays = delays_of(tensor, rule)
        np.testing.assert_allclose(delays.detach().numpy(), rule.of(free), rtol=1e-14)
        delays.backward(torch.full((6,), sign, dtype=torch.float64))
        np.testing.assert_allclose(tensor.grad.numpy(), rule.pull(free, np.full(6, sign)), rtol=1e-12)


def test_delays_are_learnt() -> None:
    torch.manual_seed(0)
    t_in = torch.tensor([[0.0, 0.3], [0.3, 0.0]], dtype=torch.float64)
    layer = gst.FirstSpikes(2, 1, delays="synaptic", weight_mean=1.5, weight_std=0.0, dtype=torch.float64)
    layer.weights.requires_grad_(False)
    optimizer, wanted = torch.optim.Adam(layer.parameters(), 0.05), torch.tensor([[1.4], [1.2]]).double()
    first = last = 0.0
    for step in range(100):
        optimizer.zero_grad()
        loss = (layer(t_in) - wanted).square().sum()
        loss.backward()
        optimizer.step()
        first, last = (loss.item(), 0.0) if step == 0 else (first, loss.item())
    assert last < 0.05 * first


# ---- silent layers


@pytest.mark.parametrize("replicas", [None, 2])
def test_silent_layers_are_bumped_by_the_rule_of_the_trainer(replicas: int | None) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        gst.FirstSpikes(4, 6, replicas=replicas), gst.FirstSpikes(6, 3, replicas=replicas)
    )
    with torch.no_grad():
        model[0].weights[..., :3] = -0.1  # half of the neurons never spike
    bumping, t_in, above = gst.Bumping(model, value=0.25), torch.rand(8, 4), model[1].weights.detach().clone()
    for size in (0.25, 0.5):
        before = model[0].weights.detach().clone()
        silent = torch.isinf(model[0](t_in)).reshape(-1, 8, 6).any(dim=1)
        model(t_in)
        assert (bumping.step() == 0).all()
        grown = (model[0].weights.detach() - before).reshape(-1, 4, 6)
        torch.testing.assert_close(grown, size * silent[:, None].expand(grown.shape).float())
    assert torch.equal(model[1].weights, above)


def test_layers_that_spike_are_left_alone_and_evaluation_is_not_looked_at() -> None:
    model = torch.nn.Sequential(gst.FirstSpikes(4, 6, weight_mean=2.0, weight_std=0.0))
    bumping, before = gst.Bumping(model), model[0].weights.detach().clone()
    model(torch.rand(8, 4))
    assert bumping.step().tolist() == [-1]
    assert torch.equal(model[0].weights, before)
    with torch.no_grad():
        model(torch.rand(8, 4))
    model.eval()
    model(torch.rand(8, 4))
    with pytest.raises(ConfigError, match="needs a forward pass in training mode before it, got none"):
        bumping.step()


# ---- refused at the door

T, W, D = make()
SILENT = gst.FirstSpikes(4, 2)
DOOR: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: gst.first_spikes(T, W, gs.LIF(), delays=D[:3]), ShapeError,
     r"delays must be of the shape of weights, \(7, 4\), got \(3, 4\)"),
    (lambda: gst.first_spikes(T, W, gs.LIF(), delays=D.numpy()), DtypeError, "must be a torch.Tensor"),
    (lambda: gst.first_spikes(T, W, gs.LIF(), delays=D.float()), DtypeError, "delays must be torch.float32"),
    (lambda: gst.first_spikes(T, W, gs.LIF(), delays=-D), ValueRangeError,
     r"delays must be 0 or more and finite, got -.* \(28 of 28\)"),
    (lambda: gst.first_spikes(T, W, gs.LIF(), delays=D / 0.0), ValueRangeError, "and finite, got inf"),
    (lambda: gst.first_spikes(T * math.nan, W, gs.LIF(), delays=D), ValueRangeError,
     "t_in must hold times or inf, got nan"),
    (lambda: gst.first_spikes(T, W / 0.0, gs.LIF(), delays=D), ValueRangeError, "must be finite, got inf"),
    (lambda: gst.FirstSpikes(4, 2, delays="somatic"), ConfigError, "no kind of delays 'somatic'"),
    (lambda: gst.network_of(torch.nn.Sequential(gst.FirstSpikes(4, 2, delays="axonal"),
                                                gst.FirstSpikes(2, 2))), ConfigError,
     "all layers must have delays of the same kinds, got another one in layer 1"),
    (lambda: gst.Bumping(torch.nn.Linear(3, 2)), ConfigError, "layers of FirstSpikes, got Linear without"),
    (lambda: gst.Bumping(SILENT, [0.1, 0.2]), ValueRangeError, "max_silent needs one entry"),
    (lambda: gst.Bumping(SILENT, [2.0]), ValueRangeError, r"must lie in \[0, 1\], got 2.0"),
    (lambda: gst.Bumping(SILENT, value=-1.0), ValueRangeError, "must be positive and finite, got -1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "error", "told"), DOOR, ids=[told[:40] for *_, told in DOOR])
def test_what_cannot_be_is_refused_at_the_door(
    ask: Callable[[], Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        ask()


def test_a_gradient_that_is_not_finite_where_a_neuron_spikes_is_refused() -> None:
    t_in, weights, delays = make()
    t_out = gst.first_spikes(t_in, weights.requires_grad_(), gs.LIF(), delays=delays)
    with pytest.raises(ValueRangeError, match="must be finite, got"):
        t_out.backward(torch.full_like(t_out, math.nan))


def test_a_rule_of_delays_without_delays_is_noted_in_a_layer_too() -> None:
    with pytest.warns(
        UserWarning, match="delay_rule is read with delays, and delays='none' has none"
    ) as told:
        layer = gst.FirstSpikes(4, 3, delay_rule=gs.DelayRule(scale=2.0))
    assert [note.filename for note in told] == [__file__]
    gst.layers_of(gst.network_of(torch.nn.Sequential(layer)))  # says nothing
