"""gpuspike.jax: the bits of the functions on arrays, through JAX's transformations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.api.frameworks import pull_back
from gpuspike.api.xla import version_of
from gpuspike.errors import BackendError, DtypeError, ShapeError, ValueRangeError

jax = pytest.importorskip("jax", reason="needs the extra jax: no JAX to be found")

import jax.numpy as jnp  # noqa: E402

import gpuspike.jax as gsj  # noqa: E402

N_BATCH, N_PRE, N_POST = 24, 11, 7
NEURONS = {
    "equal": gs.LIF(),
    "double": gs.LIF(tau_mem=2.0, threshold=0.8),
    "no leak": gs.LIF(tau_mem=math.inf),
    "own thresholds": gs.LIF(threshold=np.linspace(0.5, 1.5, N_POST)),
}
each_neuron = pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)


@pytest.fixture(autouse=True, params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """The type of a test's arrays, which JAX has to be told."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def make(dtype: str, replicas: int | None = None) -> tuple[Any, Any, Any]:
    """Input times with silent inputs, weights that leave some neurons silent, and a gradient."""
    rng = np.random.default_rng(0)
    lead = () if replicas is None else (replicas,)
    t_in = rng.uniform(0.0, 2.0, (*lead, N_BATCH, N_PRE))
    t_in[rng.random(t_in.shape) < 0.1] = np.inf
    weights = rng.normal(0.3, 0.5, (*lead, N_PRE, N_POST))
    grad = rng.normal(size=(*lead, N_BATCH, N_POST))
    return t_in.astype(dtype), weights.astype(dtype), grad.astype(dtype)


def finite(t_out: Any) -> Any:
    """A number to be differentiated, of spikes that there are."""
    return jnp.where(jnp.isfinite(t_out), t_out, 0.0).sum()


def vjp(neuron: gs.LIF, **options: Any) -> Callable[..., Any]:
    """Spike times, and gradients with respect to both, from that of the spike times."""

    def function(t_in: Any, weights: Any, grad: Any) -> Any:
        t_out, back = jax.vjp(lambda t, w: gsj.first_spikes(t, w, neuron, **options), t_in, weights)
        return t_out, *back(grad)

    return function


def expected(neuron: gs.LIF, t_in: Any, weights: Any, grad: Any, **options: Any) -> Any:
    t_out, slopes = gs.first_spikes(t_in, weights, neuron, return_slopes=True)
    return t_out, *gs.first_spikes_vjp(t_in, weights, neuron, t_out, grad, slopes=slopes, **options)


def same(found: Any, wanted: Any) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), other)


@each_neuron
@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_spike_times_and_gradients_are_the_bits_of_the_functions_on_arrays(
    dtype: str, neuron: gs.LIF, replicas: int | None, compiled: bool
) -> None:
    arrays = make(dtype, replicas)
    assert 0.05 < np.isinf(gs.first_spikes(*arrays[:2], neuron)).mean() < 0.9
    function = jax.jit(vjp(neuron)) if compiled else vjp(neuron)
    same(function(*map(jnp.asarray, arrays)), expected(neuron, *arrays))


def test_a_gradient_that_nobody_needs_is_not_made_and_changes_no_bit_of_the_other(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[bool] = []

    def watched(*given: Any, need_t_in_grad: bool, **options: Any) -> Any:
        needed.append(need_t_in_grad)
        return pull_back(*given, need_t_in_grad=need_t_in_grad, **options)

    monkeypatch.setattr(gsj, "pull_back", watched)
    t_in, weights, grad = make(dtype)
    t, w, g = map(jnp.asarray, (t_in, weights, grad))
    _, back = jax.vjp(lambda w: gsj.first_spikes(t, w, gs.LIF()), w)
    same(back(g), expected(gs.LIF(), t_in, weights, grad)[2:])
    _, back = jax.vjp(lambda t: gsj.first_spikes(t, w, gs.LIF()), t)
    same(back(g), expected(gs.LIF(), t_in, weights, grad)[1:2])
    assert needed == [False, True]


def test_the_guard_of_weights_gradients_is_that_of_the_functions_on_arrays(dtype: str) -> None:
    arrays = make(dtype)
    found = vjp(gs.LIF(), max_weight_grad=0.5)(*map(jnp.asarray, arrays))
    same(found, expected(gs.LIF(), *arrays, max_weight_grad=0.5))


@each_neuron
@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_makes_replicas(dtype: str, neuron: gs.LIF, compiled: bool) -> None:
    t_in, weights, grad = make(dtype, 3)
    function = jax.vmap(vjp(neuron))
    function = jax.jit(function) if compiled else function
    same(function(*map(jnp.asarray, (t_in, weights, grad))), expected(neuron, t_in, weights, grad))
    shared = jax.vmap(lambda w: gsj.first_spikes(jnp.asarray(t_in[0]), w, neuron))(jnp.asarray(weights))
    together = np.broadcast_to(t_in[:1], t_in.shape)
    np.testing.assert_array_equal(np.asarray(shared), gs.first_spikes(together, weights, neuron))


def test_vmap_of_replicas_makes_more_of_them_with_neurons_of_their_own(dtype: str) -> None:
    t_in, weights, grad = make(dtype, 6)
    thresholds = np.random.default_rng(0).uniform(0.5, 1.5, (3, N_POST))
    split = [jnp.asarray(array).reshape(2, 3, *array.shape[1:]) for array in (t_in, weights, grad)]
    found = jax.vmap(vjp(gs.LIF(threshold=thresholds)))(*split)
    wanted = expected(gs.LIF(threshold=np.tile(thresholds, (2, 1))), t_in, weights, grad)
    same([array.reshape(-1, *array.shape[2:]) for array in found], wanted)


def test_the_gradient_of_each_sample_can_be_had(dtype: str) -> None:
    t, w, _ = map(jnp.asarray, make(dtype))

    def loss(w: Any, t: Any) -> Any:
        return finite(gsj.first_spikes(t, w, gs.LIF()))

    each = jax.vmap(jax.grad(loss), in_axes=(None, 0))(w, t)
    assert each.shape == (N_BATCH, *w.shape)
    np.testing.assert_allclose(each.sum(axis=0), jax.grad(loss)(w, t), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lead", [(), (24,), (2, 12), (2, 3, 4), (0,)])
def test_leading_axes_are_free(dtype: str, lead: tuple[int, ...]) -> None:
    t_in, weights, _ = make(dtype)
    n = math.prod(lead)
    t_out = gsj.first_spikes(jnp.asarray(t_in[:n]).reshape(*lead, N_PRE), jnp.asarray(weights), gs.LIF())
    assert t_out.shape == (*lead, N_POST)
    np.testing.assert_array_equal(t_out.reshape(n, N_POST), gs.first_spikes(t_in[:n], weights, gs.LIF()))


def test_memory_is_that_of_the_program(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    t, w, _ = (jnp.asarray(array) for array in make(dtype))
    seen: list[int] = []

    def spikes(neuron: gs.LIF, *arrays: Any, **_: Any) -> Any:
        seen.extend(array.ctypes.data for array in arrays)
        return gs.first_spikes(*arrays, neuron, return_slopes=True)

    monkeypatch.setitem(gsj.FUNCTIONS, "spikes", spikes)
    gsj._read.cache_clear()
    jax.block_until_ready(jax.jit(lambda t, w: gsj.first_spikes(t, w, gs.LIF()))(t, w))
    gsj._read.cache_clear()
    assert seen == [t.unsafe_buffer_pointer(), w.unsafe_buffer_pointer()]


def test_the_gradient_of_weights_is_made_where_the_program_wants_it(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    pulled = gsj._pulled

    def watched(*given: Any, results: list[Any], **options: Any) -> Any:
        found = pulled(*given, results=results, **options)
        made.append(found[-1].ctypes.data == results[-1].ctypes.data)
        return found

    monkeypatch.setitem(gsj.FUNCTIONS, "gradients", watched)
    gsj._read.cache_clear()
    t, w, grad = (jnp.asarray(array) for array in make(dtype))
    jax.block_until_ready(jax.vjp(lambda t, w: gsj.first_spikes(t, w, gs.LIF()), t, w)[1](grad))
    gsj._read.cache_clear()
    assert made == [True]


def test_whatever_stops_a_function_is_the_program_s_error(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(gsj.FUNCTIONS, "spikes", interrupted)
    gsj._read.cache_clear()
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        jax.block_until_ready(gsj.first_spikes(*map(jnp.asarray, make(dtype)[:2]), gs.LIF()))
    gsj._read.cache_clear()


def test_headers_that_do_not_say_their_version_are_refused(dtype: str, tmp_path: Path) -> None:
    del dtype
    with pytest.raises(BackendError, match=r"c_api.h must say the version of XLA's interface, got none"):
        version_of(str(tmp_path))


def test_inputs_are_never_written(dtype: str) -> None:
    arrays = [jnp.asarray(array) for array in make(dtype)]
    before = [np.array(array) for array in arrays]
    vjp(gs.LIF())(*arrays)
    same(arrays, before)


@pytest.mark.parametrize("incoming", [math.nan, math.inf])
def test_a_silent_neuron_has_a_gradient_of_exactly_zero(dtype: str, incoming: float) -> None:
    t_in, weights, grad = make(dtype)
    silent = np.isinf(gs.first_spikes(t_in, weights, gs.LIF()))
    given = np.where(silent, np.asarray(incoming, dtype), grad)
    found = vjp(gs.LIF())(*map(jnp.asarray, (t_in, weights, given)))
    same(found, expected(gs.LIF(), t_in, weights, np.where(silent, np.asarray(0.0, dtype), grad)))
    mean = jax.grad(lambda w: gsj.first_spikes(jnp.asarray(t_in), w, gs.LIF()).mean())(jnp.asarray(weights))
    assert jnp.isfinite(mean).all()


def test_a_neuron_may_be_a_static_argument(dtype: str) -> None:
    t, w, _ = map(jnp.asarray, make(dtype))
    function = jax.jit(gsj.first_spikes, static_argnums=2)
    for neuron in NEURONS.values():
        np.testing.assert_array_equal(function(t, w, neuron), gsj.first_spikes(t, w, neuron))


def test_derivatives_of_other_kinds_are_refused(dtype: str) -> None:
    t, w, _ = map(jnp.asarray, make(dtype))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda t: gsj.first_spikes(t, w, gs.LIF()), (t,), (t,))
    with pytest.raises(
        BackendError, match="first_spikes has first derivatives in reverse mode, got a second"
    ):
        jax.grad(lambda w: jax.grad(lambda w: finite(gsj.first_spikes(t, w, gs.LIF())))(w).sum())(w)


def test_ten_steps_of_descent_bring_spikes_forward(dtype: str) -> None:
    t_in, _, _ = make(dtype)
    t, w = jnp.asarray(t_in), jnp.full((N_PRE, N_POST), 0.4, dtype)

    @jax.jit
    def step(w: Any) -> Any:
        value, grad = jax.value_and_grad(lambda w: finite(gsj.first_spikes(t, w, gs.LIF())))(w)
        return w - 0.003 * grad, value

    values = []
    for _ in range(10):
        w, value = step(w)
        values.append(float(value))
    assert values[-1] < values[0]


DOOR: list[tuple[Callable[[Any, Any], Any], type[Exception], str]] = [
    (lambda t, w: gsj.first_spikes(np.asarray(t), w, gs.LIF()), DtypeError, "t_in must be a jax.Array"),
    (lambda t, w: gsj.first_spikes(t, np.asarray(w), gs.LIF()), DtypeError, "weights must be a jax.Array"),
    (lambda t, w: gsj.first_spikes(t, w.astype(jnp.float16), gs.LIF()), DtypeError,
     r"weights must be float32 or float64 like t_in \(float\d\d\), got float16"),
    (lambda t, w: gsj.first_spikes(t.astype(int), w, gs.LIF()), DtypeError, "t_in must be float32 or"),
    (lambda t, w: gsj.first_spikes(t, w, 1.0), DtypeError, "neuron must be a gpuspike.LIF, got float"),
    (lambda t, w: gsj.first_spikes(t, w[0], gs.LIF()), ShapeError, r"weights must be \(n_pre, n_post\) or"),
    (lambda t, w: gsj.first_spikes(t, w[:3], gs.LIF()), ShapeError, r"\(..., 3\), got \(24, 11\)"),
    (lambda t, w: gsj.first_spikes(t[0, 0], w, gs.LIF()), ShapeError, r"\(..., 11\), got \(\)"),
    (lambda t, w: gsj.first_spikes(t, jnp.stack([w, w]), gs.LIF()), ShapeError,
     r"\(n_replica, ..., n_pre\) = \(2, ..., 11\), got \(24, 11\)"),
    (lambda t, w: gsj.first_spikes(t, w, gs.LIF(), max_weight_grad=-1.0), ValueRangeError,
     "max_weight_grad must be positive, got -1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "error", "told"), DOOR, ids=[told[:40] for *_, told in DOOR])
def test_what_cannot_be_is_refused_at_the_door(
    dtype: str, ask: Callable[[Any, Any], Any], error: type[Exception], told: str
) -> None:
    t, w, _ = map(jnp.asarray, make(dtype))
    with pytest.raises(error, match=told):
        ask(t, w)


def test_values_that_a_program_meets_are_refused_with_our_message(dtype: str) -> None:
    t, w, _ = map(jnp.asarray, make(dtype))
    with pytest.raises(Exception, match="t_in must not hold NaN, got 24 of them"):
        gsj.first_spikes(t.at[:, 0].set(math.nan), w, gs.LIF()).block_until_ready()


def test_other_devices_are_refused_by_their_name(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    t, w, _ = map(jnp.asarray, make(dtype))
    function = jax.jit(lambda t, w: gsj.first_spikes(t, w, gs.LIF()))
    with pytest.raises(NotImplementedError, match="not found for platform cuda"):
        function.trace(t, w).lower(lowering_platforms=("cuda",))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(
        BackendError, match=r"t_in must be on the CPU, gpuspike.jax computes there only, got gpu"
    ):
        jax.jit(lambda t, w: gsj.first_spikes(t, w, gs.LIF()))(t, w)
    elsewhere = SimpleNamespace(devices=lambda: [SimpleNamespace(platform="tpu")])
    with pytest.raises(BackendError, match=r"weights must be on the CPU, .* got tpu"):
        gsj._refuse_devices("weights", elsewhere)


def test_neurons_of_other_replicas_are_refused(dtype: str) -> None:
    t_in, weights, _ = make(dtype, 6)
    neuron = gs.LIF(threshold=np.ones((3, N_POST)))
    with pytest.raises(Exception, match="threshold must be a number"):
        gsj.first_spikes(jnp.asarray(t_in), jnp.asarray(weights), neuron).block_until_ready()
    mapped = jax.vmap(lambda t, w: gsj.first_spikes(t, w, neuron))
    with pytest.raises(Exception, match="threshold must be a number"):
        mapped(jnp.asarray(t_in[:3]), jnp.asarray(weights[:3])).block_until_ready()
