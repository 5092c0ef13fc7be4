"""What the kernels refuse, and that each refusal says what was expected and what was got."""

from __future__ import annotations

import importlib.machinery
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike import backend
from gpuspike.errors import BackendError, DtypeError, GpuspikeError, ShapeError, ValueRangeError
from gpuspike.kernels import first_spikes, first_spikes_vjp, load
from gpuspike.neuron import LIF

Array = NDArray[Any]
NEURON = LIF(tau_mem=2.0)
NAMES = ["t_in", "weights", "t_out", "t_out_grad"]


def network(**changed: Any) -> dict[str, Any]:
    """Arguments that fit: 2 samples, 3 inputs, 4 neurons; some of them replaced."""
    arrays = {
        "t_in": np.array([[0.0, 0.5, 1.0], [0.25, math.inf, 0.0]]),
        "weights": np.full((3, 4), 2.0),
        "t_out": np.full((2, 4), 1.5),
        "t_out_grad": np.ones((2, 4)),
    }
    return {**arrays, **changed}


def call_forward(**changed: Any) -> None:
    arguments = network(**changed)
    first_spikes(arguments["t_in"], arguments["weights"], arguments.get("neuron", NEURON))


def call_vjp(*, max_weight_grad: Any = math.inf, slopes: Any = None, **changed: Any) -> None:
    arguments = network(**changed)
    first_spikes_vjp(
        arguments["t_in"],
        arguments["weights"],
        arguments.get("neuron", NEURON),
        arguments["t_out"],
        arguments["t_out_grad"],
        slopes=slopes,
        max_weight_grad=max_weight_grad,
    )


def calls(name: str) -> list[Any]:
    """The functions that take the argument of this name."""
    return [call_vjp] if name in ("t_out", "t_out_grad") else [call_forward, call_vjp]


def with_value(name: str, *values: float) -> Array:
    """The argument of this name with its first entries replaced."""
    array = network()[name].copy()
    array.flat[: len(values)] = values
    return array


def test_the_network_itself_is_accepted() -> None:
    call_forward()
    call_vjp()
    call_vjp(t_in=with_value("t_in", math.inf), t_out=with_value("t_out", math.inf))


@pytest.mark.parametrize("wrong", [-1e-9, math.nan, math.inf])
def test_slopes_are_finite_and_not_negative(wrong: float) -> None:
    slopes = np.ones((2, 4))
    call_vjp(slopes=slopes)
    slopes[1, 2] = wrong
    with pytest.raises(ValueRangeError, match=rf"^slopes must be finite and 0 or more.* got {wrong}$"):
        call_vjp(slopes=slopes)


def test_slopes_are_like_spike_times() -> None:
    with pytest.raises(ShapeError, match=r"slopes must be \(n_batch, n_post\) = \(2, 4\), got \(2, 3\)"):
        call_vjp(slopes=np.ones((2, 3)))
    with pytest.raises(DtypeError, match="slopes must be float64, as t_in is, got float32"):
        call_vjp(slopes=np.ones((2, 4), np.float32))


# --- axes and sizes ----------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 2, 3)], ids=str)
def test_the_inputs_must_have_two_or_three_axes(shape: tuple[int, ...]) -> None:
    for call in calls("t_in"):
        with pytest.raises(ShapeError, match="t_in must have 2 or 3 axes, got shape") as caught:
            call(t_in=np.zeros(shape))
        assert str(shape) in str(caught.value)


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_other_arrays_must_have_as_many_axes_as_the_inputs(name: str) -> None:
    stacked = network()[name][None]
    for call in calls(name):
        with pytest.raises(ShapeError, match=rf"{name} must have 2.*t_in.*got shape") as caught:
            call(**{name: stacked})
        assert str(stacked.shape) in str(caught.value)
        with pytest.raises(ShapeError, match=rf"{name} must have 2.*t_in.*got shape"):
            call(**{name: network()[name][0]})


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("weights", (5, 4), r"weights must be \(n_pre, n_post\) = \(3, 4\), got \(5, 4\)"),
        ("t_out", (3, 4), r"t_out must be \(n_batch, n_post\) = \(2, 4\), got \(3, 4\)"),
        ("t_out", (2, 5), r"t_out must be \(n_batch, n_post\) = \(2, 4\), got \(2, 5\)"),
        ("t_out_grad", (2, 1), r"t_out_grad must be \(n_batch, n_post\) = \(2, 4\), got \(2, 1\)"),
    ],
)
def test_sizes_must_fit(name: str, shape: tuple[int, ...], expected: str) -> None:
    for call in calls(name):
        with pytest.raises(ShapeError, match=expected):
            call(**{name: np.ones(shape)})


def test_replicas_must_fit() -> None:
    arrays = {name: np.stack([array, array]) for name, array in network().items()}
    call_vjp(**arrays)
    expected = r"weights must be \(n_replica, n_pre, n_post\) = \(2, 3, 4\), got \(3, 3, 4\)"
    for call in calls("weights"):
        with pytest.raises(ShapeError, match=expected):
            call(**{**arrays, "weights": np.ones((3, 3, 4))})
    expected = r"t_out must be \(n_replica, n_batch, n_post\) = \(2, 2, 4\), got \(1, 2, 4\)"
    with pytest.raises(ShapeError, match=expected):
        call_vjp(**{**arrays, "t_out": np.ones((1, 2, 4))})


# --- types -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.complex128, np.bool_, ">f8", object])
def test_other_dtypes_are_refused(name: str, dtype: Any) -> None:
    other = np.ones(network()[name].shape).astype(dtype)
    for call in calls(name):
        expected = "float32 or float64, got" if name == "t_in" else "float64, as t_in is, got"
        with pytest.raises(DtypeError, match=f"^{name} must be {expected}") as caught:
            call(**{name: other})
        assert str(caught.value).endswith(f"got {other.dtype}")


@pytest.mark.parametrize("name", NAMES[1:])
def test_one_dtype_for_all(name: str) -> None:
    expected = f"^{name} must be float64, as t_in is, got float32$"
    for call in calls(name):
        with pytest.raises(DtypeError, match=expected):
            call(**{name: network()[name].astype(np.float32)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [np.ndarray.tolist, lambda _: None, lambda _: 1.0])
def test_what_is_no_array_is_refused(name: str, make: Any) -> None:
    other = make(network()[name])
    expected = f"{name} must be a NumPy or CuPy array, got {type(other).__name__}"
    for call in calls(name):
        with pytest.raises(DtypeError, match=expected):
            call(**{name: other})


@pytest.mark.parametrize("neuron", [None, 1.0, {"tau_mem": 1.0}, LIF])
def test_the_neuron_must_be_one(neuron: Any) -> None:
    expected = f"neuron must be a gpuspike.LIF, got {type(neuron).__name__}"
    for call in (call_forward, call_vjp):
        with pytest.raises(DtypeError, match=expected):
            call(neuron=neuron)


# --- values ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_refused_and_counted(name: str) -> None:
    for call in calls(name):
        with pytest.raises(ValueRangeError, match=f"{name} must not hold NaN, got 1"):
            call(**{name: with_value(name, math.nan)})
        with pytest.raises(ValueRangeError, match=f"{name} must not hold NaN, got 3"):
            call(**{name: with_value(name, math.nan, math.nan, math.nan, math.inf)})


@pytest.mark.parametrize("name", ["t_in", "t_out"])
def test_a_spike_in_the_infinite_past_is_refused(name: str) -> None:
    for call in calls(name):
        with pytest.raises(ValueRangeError, match=r"must not hold -inf; no spike is \+inf"):
            call(**{name: with_value(name, -math.inf)})


@pytest.mark.parametrize("name", ["weights", "t_out_grad"])
@pytest.mark.parametrize("values", [(math.inf,), (-math.inf,), (math.inf, math.inf)])
def test_infinite_weights_and_gradients_are_refused(name: str, values: tuple[float, ...]) -> None:
    for call in calls(name):
        with pytest.raises(ValueRangeError, match=f"{name} must be finite, got {len(values)} inf"):
            call(**{name: with_value(name, *values)})


@pytest.mark.parametrize("name", NAMES)
def test_infinities_of_both_signs_are_refused_like_one(name: str) -> None:
    # Their sum is NaN, which is not what the arrays hold.
    for call in calls(name):
        with pytest.raises(ValueRangeError, match=f"{name} must (not hold -inf|be finite, got 2)"):
            call(**{name: with_value(name, math.inf, -math.inf)})


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_numbers_are_numbers_of_gradients_alone(name: str) -> None:
    """Sums of them would be inf; only a gradient may be as large, and then says so by being inf."""
    largest = np.finfo(np.float64).max
    for call in calls(name):
        if name == "t_out_grad":
            call(**{name: with_value(name, largest, largest)})
        else:
            with pytest.raises(ValueRangeError, match=f"{name} must lie within .* from 0"):
                call(**{name: with_value(name, largest, largest)})


def test_gradients_of_silent_neurons_may_be_anything() -> None:
    silent = with_value("t_out", math.inf, math.inf, math.inf)
    call_vjp(t_out=silent, t_out_grad=with_value("t_out_grad", math.nan, math.inf, -math.inf))
    with pytest.raises(ValueRangeError, match="t_out_grad must not hold NaN, got 1"):
        call_vjp(
            t_out=silent,
            t_out_grad=with_value("t_out_grad", math.nan, math.inf, -math.inf, math.nan),
        )


@pytest.mark.parametrize("limit", [0, 0.0, -1.0, -math.inf, math.nan])
def test_the_gradients_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(ValueRangeError, match=f"max_weight_grad must be positive, got {limit!r}"):
        call_vjp(max_weight_grad=limit)


# --- array modules and backends ----------------------------------------------


class FakeCupyArray:
    """Stands for a CuPy array on a machine without CuPy: only its type is looked at."""


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `cupy` that has an array type and a driver without devices."""
    module = ModuleType("cupy")
    module.__spec__ = importlib.machinery.ModuleSpec("cupy", loader=None)
    runtime = SimpleNamespace(getDeviceCount=lambda: 0)
    vars(module).update(ndarray=FakeCupyArray, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.usefixtures("fake_cupy")
@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_cupy_are_not_mixed(name: str) -> None:
    for call in calls(name):
        with pytest.raises(DtypeError, match="must all be NumPy or all CuPy, got ") as caught:
            call(**{name: FakeCupyArray()})
        for argument in ["t_in", "weights"] if call is call_forward else NAMES:
            module = "cupy" if argument == name else "numpy"
            assert f"{argument}: {module}" in str(caught.value)


@pytest.mark.parametrize("name", ["", "CPU", "numba", "gpu"])
def test_kernels_of_an_unknown_backend(name: str) -> None:
    with pytest.raises(BackendError, match=f"cuda, cpu and reference.*got '{name}'"):
        load(name)
    expected = f"backend must be one of auto, cuda, cpu, reference, got '{name}'"
    with pytest.raises(BackendError, match=expected):
        backend.select(name)


def test_the_other_backends_name_their_device() -> None:
    assert [backend.select(name).name for name in ("cpu", "reference")] == ["cpu", "reference"]
    for name in ("cpu", "reference"):
        assert backend.select(name).device.endswith(f"{backend.usable_cores()} cores")


# --- the errors themselves ---------------------------------------------------


def test_every_refusal_is_one_line_and_one_family() -> None:
    refused: list[dict[str, Any]] = [
        {"t_in": np.zeros(3)},
        {"weights": np.zeros((1, 1))},
        {"weights": np.zeros((3, 4), np.int32)},
        {"t_in": with_value("t_in", math.nan)},
        {"t_in": [[0.0]]},
        {"neuron": None},
        {"max_weight_grad": -1.0},
    ]
    for changed in refused:
        with pytest.raises(GpuspikeError, match="must") as caught:
            call_vjp(**changed)
        message = str(caught.value)
        assert "\n" not in message
        assert "got" in message
    with pytest.raises(ValueError, match="t_in"):
        call_forward(t_in=np.zeros(3))
    with pytest.raises(TypeError, match="t_in"):
        call_forward(t_in=None)
