"""gpuspike.torch: the bits of the functions on arrays, and whatever PyTorch does to an operator."""

from __future__ import annotations

import io
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.errors import BackendError, ConfigError, DtypeError, ShapeError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.training.losses import LOSSES

torch = pytest.importorskip("torch", reason="needs the extra torch: no PyTorch to be found")

import gpuspike.torch as gst  # noqa: E402
from gpuspike.torch import arrays as torch_arrays  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    # PyTorch's, about itself
    "ignore:`torch.jit:FutureWarning",
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)

N_BATCH, N_PRE, N_POST = 24, 11, 7
NEURONS = {
    "equal": gs.LIF(),
    "double": gs.LIF(tau_mem=2.0, threshold=0.8),
    "other": gs.LIF(tau_mem=3.3, tau_syn=0.7, leak=-0.2),
    "no leak": gs.LIF(tau_mem=math.inf),
    "own thresholds": gs.LIF(threshold=np.linspace(0.5, 1.5, N_POST)),
    "own time constants": gs.LIF(tau_mem=np.linspace(1.0, 2.0, N_POST)),
}
each_neuron = pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(dtype: str = "float64", replicas: int | None = None, seed: int = 0) -> tuple[Any, Any, Any]:
    """Input times with silent inputs, weights that leave some neurons silent, and a gradient."""
    rng = np.random.default_rng(seed)
    lead = () if replicas is None else (replicas,)
    t_in = rng.uniform(0.0, 2.0, (*lead, N_BATCH, N_PRE))
    t_in[rng.random(t_in.shape) < 0.1] = np.inf
    weights = rng.normal(0.3, 0.5, (*lead, N_PRE, N_POST))
    grad = rng.normal(size=(*lead, N_BATCH, N_POST))
    return t_in.astype(dtype), weights.astype(dtype), grad.astype(dtype)


def tensors(*arrays: Any, grad: bool = True) -> list[Any]:
    return [torch.from_numpy(array.copy()).requires_grad_(grad) for array in arrays]


def finite(t_out: Any) -> Any:
    """A number to be differentiated, of spikes that there are."""
    return torch.where(torch.isfinite(t_out), t_out, 0.0).square().sum()


# ---- the same bits


@each_dtype
@each_neuron
@pytest.mark.parametrize("replicas", [None, 3])
def test_spike_times_and_gradients_are_the_bits_of_the_functions_on_arrays(
    dtype: str, neuron: gs.LIF, replicas: int | None
) -> None:
    t_in, weights, grad = make(dtype, replicas)
    expected, slopes = gs.first_spikes(t_in, weights, neuron, return_slopes=True)
    assert 0.05 < np.isinf(expected).mean() < 0.9
    expected_grads = gs.first_spikes_vjp(t_in, weights, neuron, expected, grad, slopes=slopes)
    t, w = tensors(t_in, weights)
    t_out = gst.first_spikes(t, w, neuron)
    t_out.backward(torch.from_numpy(grad))
    np.testing.assert_array_equal(t_out.detach().numpy(), expected)
    np.testing.assert_array_equal(t.grad.numpy(), expected_grads[0])
    np.testing.assert_array_equal(w.grad.numpy(), expected_grads[1])


def test_a_gradient_that_nobody_needs_is_not_made_and_changes_no_bit_of_the_other() -> None:
    t_in, weights, grad = make()
    t, w = tensors(t_in, weights)
    gst.first_spikes(t, w, gs.LIF()).backward(torch.from_numpy(grad))
    alone = torch.from_numpy(weights).clone().requires_grad_()
    gst.first_spikes(t.detach(), alone, gs.LIF()).backward(torch.from_numpy(grad))
    assert torch.equal(alone.grad, w.grad)
    times = t.detach().clone().requires_grad_()
    gst.first_spikes(times, w.detach(), gs.LIF()).backward(torch.from_numpy(grad))
    assert torch.equal(times.grad, t.grad)


def test_the_guard_of_weights_gradients_is_that_of_the_functions_on_arrays() -> None:
    t_in, weights, grad = make()
    t, w = tensors(t_in, weights)
    t_out = gst.first_spikes(t, w, gs.LIF(), max_weight_grad=0.5)
    t_out.backward(torch.from_numpy(grad))
    times, slopes = gs.first_spikes(t_in, weights, gs.LIF(), return_slopes=True)
    given = t_in, weights, gs.LIF(), times, grad
    expected = gs.first_spikes_vjp(*given, slopes=slopes, max_weight_grad=0.5)
    np.testing.assert_array_equal(w.grad.numpy(), expected[1])
    assert not np.array_equal(expected[1], gs.first_spikes_vjp(*given, slopes=slopes)[1])


@pytest.mark.parametrize("lead", [(), (24,), (2, 12), (2, 3, 4), (0,), (3, 0)])
def test_leading_axes_are_free(lead: tuple[int, ...]) -> None:
    t_in, weights, _ = make()
    n = math.prod(lead)
    t = torch.from_numpy(t_in[:n]).reshape(*lead, N_PRE).requires_grad_()
    w = torch.from_numpy(weights).requires_grad_()
    t_out = gst.first_spikes(t, w, gs.LIF())
    assert t_out.shape == (*lead, N_POST)
    np.testing.assert_array_equal(
        t_out.detach().reshape(n, N_POST).numpy(), gs.first_spikes(t_in[:n], weights, gs.LIF())
    )
    finite(t_out).backward()
    assert t.grad.shape == t.shape


def test_leading_axes_are_free_behind_that_of_replicas() -> None:
    t_in, weights, _ = make(replicas=3)
    t, w = tensors(t_in, weights)
    whole = gst.first_spikes(t, w, gs.LIF())
    assert torch.equal(gst.first_spikes(t.reshape(3, 2, 12, N_PRE), w, gs.LIF()).reshape(whole.shape), whole)
    assert torch.equal(gst.first_spikes(t[:, 0], w, gs.LIF()), whole[:, 0])


def test_memory_on_the_cpu_is_shared() -> None:
    seen: list[Any] = []
    t, w = tensors(*make()[:2])

    def function(times: Any, weights: Any) -> Any:
        seen.extend([times, weights, made := np.empty(3)])
        return made

    made = torch_arrays.on_arrays(function, t, w)
    assert [array.ctypes.data for array in seen] == [t.data_ptr(), w.data_ptr(), made.data_ptr()]


def test_tensors_that_are_not_contiguous_are_as_good() -> None:
    t_in, weights, _ = make()
    t, w = torch.from_numpy(t_in), torch.from_numpy(weights)
    crossed = gst.first_spikes(t.T.contiguous().T, w.T.contiguous().T, gs.LIF())
    assert torch.equal(crossed, gst.first_spikes(t, w, gs.LIF()))


# ---- silent neurons


@pytest.mark.parametrize("incoming", [1.0, math.nan, math.inf, -math.inf])
def test_a_silent_neuron_has_a_gradient_of_exactly_zero(incoming: float) -> None:
    t_in, weights, grad = make()
    weights[:, 2] = -1.0
    t, w = tensors(t_in, weights)
    t_out = gst.first_spikes(t, w, gs.LIF())
    silent = torch.isinf(t_out)
    assert silent[:, 2].all()
    given = torch.from_numpy(grad).clone()
    given[silent] = incoming
    t_out.backward(given)
    times, slopes = gs.first_spikes(t_in, weights, gs.LIF(), return_slopes=True)
    wanted = np.where(silent.numpy(), 0.0, grad)
    expected = gs.first_spikes_vjp(t_in, weights, gs.LIF(), times, wanted, slopes=slopes)
    np.testing.assert_array_equal(t.grad.numpy(), expected[0])
    np.testing.assert_array_equal(w.grad.numpy(), expected[1])
    assert (w.grad[:, 2] == 0.0).all()


@pytest.mark.parametrize("loss", [torch.mean, lambda t: (t**2).mean(), lambda t: (t - t).sum()])
def test_a_loss_that_is_inf_or_nan_leaves_gradients_finite(loss: Callable[[Any], Any]) -> None:
    t, w = tensors(*make()[:2])
    value = loss(gst.first_spikes(t, w, gs.LIF()))
    assert not torch.isfinite(value)
    value.backward()
    assert torch.isfinite(w.grad).all()
    assert torch.isfinite(t.grad).all()


def test_a_gradient_that_is_not_finite_where_a_neuron_spikes_is_refused() -> None:
    t, w = tensors(*make()[:2])
    t_out = gst.first_spikes(t, w, gs.LIF())
    given = torch.zeros_like(t_out)
    given[tuple(torch.isfinite(t_out).nonzero()[0])] = math.nan
    with pytest.raises(ValueRangeError, match="must be finite, got 1 NaN or inf"):
        t_out.backward(given)


# ---- what PyTorch does to operators


def smooth() -> list[Any]:
    """A small layer that spikes, away from where a causal set changes."""
    rng = np.random.default_rng(1)
    t_in = np.sort(rng.uniform(0.0, 1.0, (3, 5)), axis=1) + 0.1 * np.arange(5)
    return tensors(t_in, rng.uniform(1.0, 1.5, (5, 2)))


@each_neuron
def test_gradients_are_those_of_finite_differences(neuron: gs.LIF) -> None:
    if not neuron.uniform:
        neuron = neuron.of(0, 3)
    t, w = smooth()
    assert torch.isfinite(gst.first_spikes(t, w, neuron)).all()
    assert torch.autograd.gradcheck(lambda t, w: gst.first_spikes(t, w, neuron), (t, w))


@pytest.mark.parametrize("of_loss", [False, True])
def test_second_derivatives_are_refused(of_loss: bool) -> None:
    t, w = smooth()
    t_out = gst.first_spikes(t, w, gs.LIF())
    value = gst.TimeMSE()(t_out, torch.tensor([0, 1, 0])) if of_loss else t_out.sum()
    (grad,) = torch.autograd.grad(value, t_out if of_loss else w, create_graph=True)
    with pytest.raises(BackendError, match="has first derivatives in reverse mode, got a second one"):
        grad.sum().backward()
    with pytest.raises(BackendError, match="first_spikes has first derivatives in"):
        torch.autograd.gradgradcheck(lambda t: gst.first_spikes(t, w, gs.LIF()), (t,))
    with pytest.raises(BackendError, match="first_spikes has first derivatives in"):
        torch.func.hessian(lambda w: finite(gst.first_spikes(t, w, gs.LIF())))(w)


def test_forward_mode_is_refused() -> None:
    t, w = smooth()
    with pytest.raises(BackendError, match="got a second one or one in forward mode"):
        torch.func.jvp(lambda t: gst.first_spikes(t, w, gs.LIF()), (t,), (torch.ones_like(t),))


def test_the_first_gradient_is_the_same_where_its_graph_is_kept() -> None:
    t, w = smooth()
    plain = torch.autograd.grad(finite(gst.first_spikes(t, w, gs.LIF())), (t, w))
    kept = torch.autograd.grad(finite(gst.first_spikes(t, w, gs.LIF())), (t, w), create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))


@pytest.mark.parametrize("name", ["equal", "own thresholds"])
@pytest.mark.parametrize("needs_grad", [True, False])
def test_the_operators_keep_what_they_promise(name: str, needs_grad: bool) -> None:
    t, w = tensors(*make()[:2], grad=needs_grad)
    numbers, own = gst.neurons.told(NEURONS[name])
    torch.library.opcheck(torch.ops.gpuspike.first_spikes.default, (t, w, numbers, own, math.inf))
    t_out, slopes = torch.ops.gpuspike.first_spikes(t.detach(), w.detach(), numbers, own, math.inf)
    given = (t.detach(), w.detach(), t_out, slopes, torch.ones_like(t_out), numbers, own, math.inf)
    for need_t_in_grad in (True, False):
        torch.library.opcheck(torch.ops.gpuspike.first_spikes_vjp.default, (*given, need_t_in_grad))
    labels = torch.arange(N_BATCH)[None] % N_POST
    spec = gst.TimeMSE()._spec
    torch.library.opcheck(torch.ops.gpuspike.loss.default, (t_out[None], labels, spec, True))


def test_shapes_alone_go_through() -> None:
    t_out = gst.first_spikes(
        torch.empty(3, 5, 11, device="meta"), torch.empty(11, 7, device="meta"), gs.LIF()
    )
    assert t_out.shape == (3, 5, 7)
    assert t_out.is_meta


@pytest.fixture
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_loss_takes_its_unit_of_time_from_a_model() -> None:
    neuron = gs.LIF(5.0, np.array([4.0, 6.0, 5.0]))
    model = torch.nn.Sequential(gst.FirstSpikes(4, 3, neuron=neuron), gst.FirstSpikes(3, 2))
    assert gst.TTFSCrossEntropy.of(model, xi=0.1).loss == gst.TTFSCrossEntropy(xi=0.1, tau_syn=5.0).loss
    assert gst.TimeMSE.of(model[0], reduction="none").reduction == "none"
    assert gst.FirstSpikeLoss.of(model, "shift_invariant").loss == gst.ShiftInvariant(tau_syn=5.0).loss
    assert gst.FirstSpikeLoss.of(model, "time_mse", tau_syn=2.0).loss.tau_syn == 2.0
    with pytest.raises(ConfigError, match="must have layers of FirstSpikes, got Linear without"):
        gst.TimeMSE.of(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="must have layers of FirstSpikes, got int without"):
        gst.TimeMSE.of(3)  # type: ignore[arg-type]


LOSS = gst.TTFSCrossEntropy()


def training_loss(t: Any, w: Any, neuron: gs.LIF) -> Any:
    return LOSS(gst.first_spikes(t, w, neuron), torch.arange(N_BATCH) % N_POST)


def compiled_like_eager(backend: str) -> None:
    t_in, weights, _ = make()
    compiled = torch.compile(training_loss, fullgraph=True, backend=backend)
    for neuron in NEURONS.values():  # others than the first are met by a graph that is there
        (t, w), (t_again, w_again) = tensors(t_in, weights), tensors(t_in, weights)
        value, again = training_loss(t, w, neuron), compiled(t_again, w_again, neuron)
        value.backward()
        again.backward()
        assert torch.equal(value, again)
        assert torch.equal(t.grad, t_again.grad)
        assert torch.equal(w.grad, w_again.grad)


@pytest.mark.usefixtures("_fresh")
def test_the_compiler_takes_it_in_one_graph() -> None:
    compiled_like_eager("aot_eager")


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh")
def test_what_the_compiler_makes_of_it_has_the_same_bits() -> None:
    compiled_like_eager("inductor")


@pytest.mark.usefixtures("_fresh")
def test_a_compiled_graph_serves_other_batch_sizes_and_refuses_second_derivatives() -> None:
    neuron = gs.LIF()

    def function(t: Any, w: Any) -> Any:
        return gst.first_spikes(t, w, neuron)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    t, w = tensors(*make()[:2])
    for n in (24, 5, 9):
        assert torch.equal(compiled(t[:n], w), function(t[:n], w))
    with pytest.raises(RuntimeError):
        torch.autograd.gradgradcheck(lambda t: compiled(t, w), (t[:2].detach().requires_grad_(),))


@each_neuron
def test_vmap_makes_replicas(neuron: gs.LIF) -> None:
    t_in, weights, grad = make(replicas=3)
    expected, slopes = gs.first_spikes(t_in, weights, neuron, return_slopes=True)
    t, w = tensors(t_in, weights, grad=False)
    mapped = torch.func.vmap(lambda t, w: gst.first_spikes(t, w, neuron))
    np.testing.assert_array_equal(mapped(t, w).numpy(), expected)
    shared = torch.func.vmap(lambda w: gst.first_spikes(t[0], w, neuron))
    np.testing.assert_array_equal(
        shared(w).numpy(), gs.first_spikes(np.broadcast_to(t_in[:1], t_in.shape), weights, neuron)
    )
    last = torch.func.vmap(
        lambda t, w: gst.first_spikes(t, w, neuron), in_dims=(1, 2), out_dims=1
    )  # any axis may be mapped
    np.testing.assert_array_equal(last(t.movedim(0, 1), w.movedim(0, 2)).numpy(), np.moveaxis(expected, 0, 1))
    grads = torch.func.vmap(
        lambda t, w, g: torch.func.vjp(lambda t, w: gst.first_spikes(t, w, neuron), t, w)[1](g)
    )
    found = grads(t, w, torch.from_numpy(grad))
    wanted = gs.first_spikes_vjp(t_in, weights, neuron, expected, grad, slopes=slopes)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


def test_vmap_of_replicas_makes_more_of_them_with_neurons_of_their_own() -> None:
    t_in, weights, _ = make(replicas=6)
    thresholds = np.random.default_rng(0).uniform(0.5, 1.5, (3, N_POST))
    t, w = tensors(t_in, weights, grad=False)
    mapped = torch.func.vmap(lambda t, w: gst.first_spikes(t, w, gs.LIF(threshold=thresholds)))
    found = mapped(t.reshape(2, 3, N_BATCH, N_PRE), w.reshape(2, 3, N_PRE, N_POST))
    expected = gs.first_spikes(t_in, weights, gs.LIF(threshold=np.tile(thresholds, (2, 1))))
    np.testing.assert_array_equal(found.reshape(expected.shape).numpy(), expected)


def test_neurons_of_other_replicas_are_refused() -> None:
    t, w = tensors(*make(replicas=6)[:2], grad=False)
    neuron = gs.LIF(threshold=np.ones((3, N_POST)))
    with pytest.raises(ShapeError, match="threshold must be a number"):
        gst.first_spikes(t, w, neuron)
    with pytest.raises(ShapeError, match="threshold must be a number"):
        torch.func.vmap(lambda t, w: gst.first_spikes(t, w, neuron))(t[:3], w[:3])


def test_the_gradient_of_each_sample_can_be_had() -> None:
    t, w = tensors(*make()[:2], grad=False)

    def loss(w: Any, t: Any) -> Any:
        return finite(gst.first_spikes(t, w, gs.LIF()))

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, t)
    assert each.shape == (N_BATCH, *w.shape)
    torch.testing.assert_close(each.sum(dim=0), torch.func.grad(loss)(w, t))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_keeps_float32_and_raises_what_is_less(half: Any) -> None:
    t, w = (tensor.detach().float() for tensor in tensors(*make()[:2]))
    lowered = w.to(half).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gst.first_spikes(t, w, gs.LIF()), gst.first_spikes(t, w, gs.LIF()))
        t_out = gst.first_spikes(t, lowered, gs.LIF())
        assert gst.first_spikes(t.double(), w.double(), gs.LIF()).dtype == torch.float64
    assert t_out.dtype == torch.float32
    finite(t_out).backward()
    assert lowered.grad.dtype == half
    with pytest.raises(DtypeError, match=r"t_in must be torch.float32 or torch.float64, got torch"):
        gst.first_spikes(t.to(half), lowered, gs.LIF())


LOADER = """
import numpy as np, torch, gpuspike as gs
from torch.utils.data import DataLoader, Dataset
from gpuspike.torch import first_spikes

rng = np.random.default_rng(0)
t, w = torch.from_numpy(rng.uniform(0.0, 2.0, (8, 5))), torch.from_numpy(rng.normal(0.5, 0.5, (5, 3)))

class Encoded(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, number):
        return first_spikes(t[number], w, gs.LIF())

expected = first_spikes(t, w, gs.LIF())  # the team of threads is there before the fork
first_spikes(torch.rand(500, 200), torch.rand(200, 100), gs.LIF())
loader = DataLoader(Encoded(), batch_size=4, num_workers=2, multiprocessing_context="fork")
assert torch.equal(torch.cat(list(loader)), expected)
"""


def test_workers_of_a_data_loader_compute_the_same() -> None:
    subprocess.run([sys.executable, "-c", LOADER], check=True, timeout=300)


DDP = """
import sys
import numpy as np, torch, gpuspike as gs
import torch.distributed as dist
from gpuspike.torch import FirstSpikes, TTFSCrossEntropy

place, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
torch.manual_seed(rank)  # weights are the first process's
model = torch.nn.Sequential(FirstSpikes(4, 20, [0.9]), FirstSpikes(20, 3)).double()
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.Adam(parallel.parameters(), 0.01)
rng = np.random.default_rng(0)
t, y = torch.from_numpy(rng.uniform(0.0, 2.0, (40, 4))), torch.from_numpy(rng.integers(0, 3, 40))
for _ in range(3):
    optimizer.zero_grad()
    TTFSCrossEntropy()(parallel(t[rank::2]), y[rank::2]).backward()
    optimizer.step()
torch.save(model.state_dict(), f"{place}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("needs a PyTorch with torch.distributed")
    command = [sys.executable, "-c", DDP, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE) for rank in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    model = torch.nn.Sequential(gst.FirstSpikes(4, 20, [0.9]), gst.FirstSpikes(20, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    rng = np.random.default_rng(0)
    t, y = torch.from_numpy(rng.uniform(0.0, 2.0, (40, 4))), torch.from_numpy(rng.integers(0, 3, 40))
    for _ in range(3):
        optimizer.zero_grad()
        gst.TTFSCrossEntropy()(model(t), y).backward()
        optimizer.step()
    for name, alone in model.state_dict().items():
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], alone, rtol=1e-9, atol=1e-12)


ENDING = """
import time, numpy as np, torch, gpuspike as gs
from gpuspike.kernels.cpu import team
from gpuspike.torch import first_spikes

helped = team._Job.help

def slowly(job):
    held = [torch.empty(3).numpy() for _ in range(200_000)]  # as if it let go of its arrays just now
    more = helped(job)
    time.sleep(0.1)
    while held:
        held.pop()
    return more

team._Job.help = slowly
first_spikes(torch.rand(500, 200), torch.rand(200, 100), gs.LIF())
"""


def test_a_process_ends_while_helpers_hold_its_tensors() -> None:
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", ENDING]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


# ---- losses


@each_dtype
@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses_have_the_value_and_the_gradient_of_ours(dtype: str, name: str, reduction: str) -> None:
    rng = np.random.default_rng(0)
    t_out = rng.uniform(0.2, 2.0, (40, 3)).astype(dtype)
    t_out[rng.random(t_out.shape) < 0.2] = np.inf
    labels = rng.integers(0, 3, 40)
    losses, grad = LOSSES[name](kernels=load("cpu"))(t_out[None], labels[None])
    (t,) = tensors(t_out)
    value = gst.FirstSpikeLoss(name, reduction=reduction)(t, torch.from_numpy(labels))
    (value if reduction == "mean" else value.mean()).backward()
    assert value.dtype == t.dtype
    if reduction == "mean":
        np.testing.assert_allclose(value.item(), losses.mean(), rtol=1e-6 if dtype == "float32" else 1e-13)
        np.testing.assert_array_equal(t.grad.numpy(), grad[0])
    else:
        np.testing.assert_array_equal(value.detach().numpy(), losses[0])
        np.testing.assert_allclose(t.grad.numpy(), grad[0], rtol=1e-6, atol=1e-15)


def test_losses_have_leading_axes_and_are_mapped() -> None:
    rng = np.random.default_rng(0)
    t = torch.from_numpy(rng.uniform(0.2, 2.0, (5, 8, 3)))
    labels = torch.from_numpy(rng.integers(0, 3, (5, 8)))
    none, mean = gst.TTFSCrossEntropy(xi=0.1, reduction="none"), gst.TTFSCrossEntropy(xi=0.1)
    assert none(t, labels).shape == (5, 8)
    torch.testing.assert_close(mean(t, labels), none(t, labels).mean())
    mapped = torch.func.vmap(torch.func.grad(mean))(t, labels)
    for number in range(5):
        assert torch.equal(mapped[number], torch.func.grad(mean)(t[number], labels[number]))
    assert "xi=0.1" in repr(mean)


def test_losses_are_made_of_ours() -> None:
    ours = LOSSES["time_mse"](t_wrong=2.0, tau_syn=3.0)
    assert gst.FirstSpikeLoss(ours).loss == ours
    assert gst.TimeMSE(t_wrong=2.0, tau_syn=3.0).loss == ours
    assert gst.ShiftInvariant(distance=0.3).loss == LOSSES["shift_invariant"](distance=0.3)


def test_the_decision_is_the_first_spike() -> None:
    t_out = torch.tensor([[2.0, 1.0, 3.0], [math.inf] * 3, [1.0, 0.5, 0.5]])
    classes, times = gst.decide(t_out)
    assert classes.tolist() == [1, -1, 1]
    assert times.tolist() == [1.0, math.inf, 0.5]


# ---- modules


def model_of(replicas: int | None = None) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        gst.FirstSpikes(4, 20, [0.9], replicas=replicas, dtype=torch.float64),
        gst.FirstSpikes(20, 3, [0.5, 0.9], replicas=replicas, dtype=torch.float64),
    )


@pytest.mark.parametrize("replicas", [None, 3])
def test_a_model_is_a_network_and_the_other_way_round(replicas: int | None, tmp_path: Path) -> None:
    model = model_of(replicas)
    net = gst.network_of(model, backend="cpu")
    t_in = np.random.default_rng(0).uniform(0.0, 2.0, (30, 4))
    assert net.sizes == (4, 20, 3)
    np.testing.assert_array_equal(net(t_in), model(torch.from_numpy(t_in)).detach().numpy())
    net.save(tmp_path / "net.npz")
    again = gst.layers_of(gs.load(tmp_path / "net.npz"))
    assert torch.equal(again(torch.from_numpy(t_in)), model(torch.from_numpy(t_in)))
    before = net(t_in)
    with torch.no_grad():
        again[0].weights.zero_()
        model[0].weights.zero_()
    np.testing.assert_array_equal(net(t_in), before)  # weights are copies


def test_a_model_s_network_goes_on_a_chip_and_is_priced_and_trained() -> None:
    net = gst.network_of(model_of(), backend="cpu")
    rng = np.random.default_rng(0)
    t_in, labels = rng.uniform(0.0, 2.0, (60, 4)), rng.integers(0, 3, 60)
    assert net.on(gs.Chip("bss2", seed=1))(t_in).shape == (60, 3)
    assert gs.price(net, t_in, labels, prices="brainscales2").energy_per_classification_J > 0.0
    gs.fit(net, t_in, labels, epochs=1)
    assert net.epoch == 1


def test_what_stands_beside_the_layers_is_not_left_out_of_a_network_silently() -> None:
    class Late(torch.nn.Module):
        def forward(self, t: torch.Tensor) -> torch.Tensor:
            return t + 1.0

    first, last = model_of()
    harmless = torch.nn.ModuleDict({"net": torch.nn.Sequential(first, torch.nn.Dropout(), last)})
    harmless["losses"] = torch.nn.ModuleList([gst.TTFSCrossEntropy(), torch.nn.MSELoss()])
    harmless["none"] = torch.nn.Sequential(torch.nn.Sequential(), torch.nn.ParameterList())
    assert gst.network_of(harmless, backend="cpu").sizes == (4, 20, 3)
    deep = torch.nn.Sequential(torch.nn.Sequential(first, Late()), torch.nn.ReLU(), last)
    with pytest.raises(
        ConfigError, match=r"alone, got model\.0\.1 \(Late\), model\.1 \(ReLU\) beside them; network_of\("
    ):
        gst.network_of(deep)


def test_learnt_thresholds_come_along() -> None:
    net = gs.Network([4, 6, 2], trained=["threshold"], backend="cpu")
    net.parameters[0].free["threshold"][:] = np.linspace(-0.3, 0.3, 6)
    t_in = np.random.default_rng(0).uniform(0.0, 2.0, (30, 4))
    model = gst.layers_of(net)
    np.testing.assert_array_equal(net(t_in), model(torch.from_numpy(t_in)).detach().numpy())
    with pytest.raises(ValueRangeError, match=r"neuron must be a gs\.LIF of numbers"):
        gst.network_of(model[:1])


def test_initial_weights_follow_the_rule_of_networks_and_torch_s_seed() -> None:
    torch.manual_seed(3)
    one = gst.FirstSpikes(400, 100, [0.9], neuron=gs.LIF(threshold=2.0), dtype=torch.float64).weights
    torch.manual_seed(3)
    same = gst.FirstSpikes(400, 100, [0.9], neuron=gs.LIF(threshold=2.0), dtype=torch.float64)
    net = gs.Network([400, 100], [[0.9]], neuron=gs.LIF(threshold=2.0), backend="cpu").parameters.weights[0]
    assert torch.equal(one, same.weights)
    assert one.mean().item() == pytest.approx(net.mean(), rel=0.02)
    assert one.std().item() == pytest.approx(net.std(), rel=0.02)
    same.reset_parameters()
    assert not torch.equal(one, same.weights)
    wide = gst.FirstSpikes(400, 100, weight_mean=1.0, weight_std=0.0)
    assert (wide.weights == 1.0).all()
    assert wide.weights.dtype == torch.float32
    own = gst.FirstSpikes(5, 3, neuron=gs.LIF(threshold=np.array([1.0, 2.0, 3.0])))
    assert own.weights.shape == (5, 3)
    assert "constants of their own" in repr(own)


def test_a_model_is_pickled_and_its_state_loaded() -> None:
    model, t = model_of(), torch.rand(5, 4, dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(model))(t), model(t))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = model_of()
    other[0].reset_parameters()
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(t), model(t))
    assert list(model.state_dict()) == ["0.weights", "1.weights"]
    assert isinstance(model[0].weights, torch.nn.Parameter)
    assert "FirstSpikes(4, 20, bias_times=(0.9,), LIF(" in repr(model)


def test_replicas_are_trained_side_by_side() -> None:
    model = model_of(3)
    t = torch.rand(5, 4, dtype=torch.float64)
    shared = model(t)
    assert shared.shape == (3, 5, 3)
    assert torch.equal(model(t.expand(3, 5, 4)), shared)
    finite(shared[1]).backward()
    assert (model[0].weights.grad[[0, 2]] == 0.0).all()
    assert (model[0].weights.grad[1] != 0.0).any()
    assert "replicas=3" in repr(model)


# ---- a CUDA device, for which a stand-in stands


def test_tensors_on_a_device_are_lent_to_cupy_on_torch_s_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Around:
        def __init__(self, *given: Any) -> None:
            asked.append(given)

        def __enter__(self) -> None:
            asked.append("in")

        def __exit__(self, *_: Any) -> None:
            asked.append("out")

    class Allocator:
        def __init__(self, take: Any, give: Any) -> None:
            self.take, self.give = take, give

        def malloc(self, size: int) -> int:
            return self.take(size, 1)

    class Stream:
        cuda_stream = ptr = 77

    class Cuda:
        Device = ExternalStream = using_allocator = Around
        PythonFunctionAllocator = Allocator
        get_current_stream = Stream

    class Cupy:
        cuda = Cuda

        @staticmethod
        def from_dlpack(tensor: Any) -> Any:
            assert not tensor.requires_grad
            return np.from_dlpack(tensor)

    monkeypatch.setattr(torch_arrays, "cupy_module", lambda: Cupy)
    monkeypatch.setattr(torch_arrays, "device_of", lambda tensor: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream)
    monkeypatch.setattr(torch.cuda, "caching_allocator_alloc", lambda *given: given)
    monkeypatch.setattr(torch.cuda, "caching_allocator_delete", lambda *given: asked.append(given))
    t, w = tensors(*make()[:2])
    kept: list[Any] = []

    def function(times: Any, weights: Any) -> Any:
        assert asked[-3:] == ["in", "in", "in"] or asked[-1] == "in"
        kept.append(times)
        return times + 0.0, None

    found, nothing = torch_arrays.on_arrays(function, t, w)
    assert kept[0].ctypes.data == t.data_ptr()
    assert nothing is None
    assert torch.equal(found, t)
    given = [one for one in asked if isinstance(one, tuple)]
    assert given[:2] == [(1,), (77,)]
    malloc = given[2][0]
    assert malloc(16) == (16, 1, 77)
    malloc.__self__.give(5, 1)
    assert asked[-1] == (5,)


# ---- refused at the door

T, W = torch.zeros(3, 4), torch.zeros(4, 2)
DOOR: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: gst.first_spikes(T.numpy(), W, gs.LIF()), DtypeError, "t_in must be a torch.Tensor, got n"),
    (lambda: gst.first_spikes(T, W.numpy(), gs.LIF()), DtypeError, "weights must be a torch.Tensor, got nd"),
    (lambda: gst.first_spikes(T, W, 1.0), DtypeError, "neuron must be a gpuspike.LIF, got float"),
    (lambda: gst.first_spikes(T.double(), W, gs.LIF()), DtypeError,
     r"weights must be torch.float32 or torch.float64 like t_in \(torch.float64\), got torch.float32"),
    (lambda: gst.first_spikes(T.int(), W, gs.LIF()), DtypeError, "t_in must be torch.float32 .* torch.int32"),
    (lambda: gst.first_spikes(T.half(), W.half(), gs.LIF()), DtypeError, "got torch.float16"),
    (lambda: gst.first_spikes(T, W.to("meta"), gs.LIF()), BackendError,
     "weights must be on the device of t_in, cpu, got meta"),
    (lambda: gst.first_spikes(T, W[0], gs.LIF()), ShapeError, r"weights must be \(n_pre, n_post\) or"),
    (lambda: gst.first_spikes(T, W[:3], gs.LIF()), ShapeError, r"\(..., n_pre\) = \(..., 3\), got \(3, 4\)"),
    (lambda: gst.first_spikes(T[0, 0], W, gs.LIF()), ShapeError, r"\(..., 4\), got \(\)"),
    (lambda: gst.first_spikes(T, W.expand(2, 4, 2), gs.LIF()), ShapeError,
     r"\(n_replica, ..., n_pre\) = \(2, ..., 4\), got \(3, 4\)"),
    (lambda: gst.first_spikes(T * math.nan, W, gs.LIF()), ValueRangeError, "t_in must not hold NaN, got 12"),
    (lambda: gst.first_spikes(T - math.inf, W, gs.LIF()), ValueRangeError, "no spike is \\+inf"),
    (lambda: gst.first_spikes(T, W / 0.0, gs.LIF()), ValueRangeError, "weights must not hold NaN"),
    (lambda: gst.first_spikes(T, W, gs.LIF(), max_weight_grad=0.0), ValueRangeError,
     "max_weight_grad must be positive, got 0.0"),
    (lambda: gst.first_spikes(T, W, gs.LIF(threshold=np.ones(3))), ShapeError, "threshold must be a number"),
    (lambda: gst.FirstSpikes(5, 2)(T), ShapeError, r"t_in must be \(..., n_in\) = \(..., 5\), got \(3, 4\)"),
    (lambda: gst.FirstSpikes(4, 2).half()(T), DtypeError, "weights must be .* got torch.float16"),
    (lambda: gst.FirstSpikes(4, 0), ValueRangeError, "a layer's size must be a whole number"),
    (lambda: gst.FirstSpikes(4, 2, [math.inf]), ValueRangeError, "a list of finite times, got \\[inf\\]"),
    (lambda: gst.FirstSpikes(4, 2, 0.9), ValueRangeError, r"got 0\.9; did you mean \[0\.9\]\?"),  # type: ignore[arg-type]
    (lambda: gst.FirstSpikes(4, 2, [[0.9]]), ValueRangeError, r"did you mean \[0\.9\]\?"),  # type: ignore[list-item]
    (lambda: gst.FirstSpikesConv2d((4, 4), 2, 2, bias_times="9"), ValueRangeError, "got '9'$"),  # type: ignore[arg-type]
    (lambda: gst.network_of([gst.FirstSpikes(4, 2)]), ConfigError, "a torch.nn.Sequential, got list"),
    (lambda: gst.network_of(torch.nn.Linear(3, 2)), ConfigError, "layers of FirstSpikes, got Linear without"),
    (lambda: gst.network_of(torch.nn.Sequential(gst.FirstSpikes(4, 2), gst.FirstSpikes(3, 2))), ShapeError,
     "layer 1 must have 2 inputs, as many as the one before, got 3"),
    (lambda: gst.network_of(torch.nn.Sequential(gst.FirstSpikes(4, 2),
                                                gst.FirstSpikes(2, 2, neuron=gs.LIF(2.0)))), ConfigError,
     "all layers must have one neuron, got another one in layer 1"),
    (lambda: gst.network_of(torch.nn.Sequential(gst.FirstSpikes(4, 2), gst.FirstSpikes(2, 2).double())),
     ConfigError, "all layers must have one dtype, got torch.float64 in layer 1"),
    (lambda: gst.TTFSCrossEntropy(xl=1.0), ConfigError, "ttfs_cross_entropy has no such value: .*'xl'"),
    (lambda: gst.TTFSCrossEntropy(xi=-1.0), ValueRangeError, "xi must be positive"),
    (lambda: gst.FirstSpikeLoss("mse"), ConfigError, "no loss 'mse'"),
    (lambda: gst.TimeMSE(reduction="sum"), ConfigError, "reduction must be one of mean, none, got 'sum'"),
    (lambda: gst.TimeMSE()(T, torch.tensor([0, 1, 4])), ValueRangeError, "from 0 to 3, got 0 to 4"),
    (lambda: gst.TimeMSE()(T, torch.tensor([0, -1, 3])), ValueRangeError, "from 0 to 3, got -1 to 3"),
    (lambda: gst.TimeMSE()(T, torch.tensor([0, 1])), ShapeError, r"\(3, 4\), got \(2,\)"),
    (lambda: gst.TimeMSE()(T, torch.ones(3)), DtypeError, "torch.int64 or torch.int32, got torch.float32"),
    (lambda: gst.TimeMSE()(T, [0, 1, 2]), DtypeError, "torch.int64 or torch.int32, got list"),
    (lambda: gst.TimeMSE()(T, torch.zeros(3, dtype=torch.int64, device="meta")), BackendError,
     "labels must be on the device of t_out, cpu, got meta"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "error", "told"), DOOR, ids=[told[:40] for *_, told in DOOR])
def test_what_cannot_be_is_refused_at_the_door(
    ask: Callable[[], Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        ask()


def test_another_device_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(torch.Tensor):
        device = torch.device("xpu:0")

    with pytest.raises(BackendError, match="t_in must be on the CPU or a CUDA device, got xpu:0"):
        gst.first_spikes(T.as_subclass(Elsewhere), W, gs.LIF())
