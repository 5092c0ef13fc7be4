"""Arrays that are computed later: the bits of one operation after the other, in one launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import device_on_cpu
import numpy as np
import nvrtc
import pytest
from device_on_cpu import device, fake
from test_device_chips import learns
from test_nvrtc import cupy_code_compiles, loop

from gpuspike.kernels import cuda, load
from gpuspike.kernels.cuda import lazy
from gpuspike.kernels.cuda import source as src
from gpuspike.kernels.waiting import computed, kept
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose
from gpuspike.substrate import EmulatedChip, Substrate
from gpuspike.substrate.distortions import DISTORTIONS
from gpuspike.substrate.distortions.base import TRIAL, Distortion, value
from gpuspike.substrate.silicon import Trials

stands_in = pytest.mark.usefixtures("cupy")
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

HARD = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-30, 3.3e7, np.inf, -np.inf, np.nan]


def every_operation(x: Any, y: Any, gain: Any, fixed: Any) -> list[Any]:
    """What `lazy` knows, of arrays of any kind."""
    rounded = x * x.dtype.type(30.0)
    np.rint(rounded, out=rounded)
    np.clip(rounded, -63, 63, out=rounded)
    rounded *= x.dtype.type(1.0 / 30.0)
    moved = np.abs(y + 0.3 * x)
    moved += y
    ticks = np.ceil(moved.astype(np.float64) / 0.1 - 1e-3) * 0.1
    return [
        rounded,
        moved,
        np.where(moved > 2.0, np.inf, ticks).astype(x.dtype, copy=False),
        (x * gain - 0.1).astype(x.dtype),
        np.where(np.isnan(gain), x, gain).astype(x.dtype),
        np.where(fixed, 0.0, y),
        np.where(x < 0.5, np.inf, 0.0).astype(x.dtype),
        -y,
        np.where((x < 0.5) & (y > 0.5) | (x > 2.0), x, 1.0).astype(x.dtype),
        np.maximum(x + y, np.minimum(x, 0.0)),
    ]


@stands_in
@each_dtype
def test_an_exponential_is_numpy_s_but_for_rounding(dtype: Any) -> None:
    x = np.linspace(-20.0, 20.0, 33).astype(dtype)
    found = computed("exp", np.exp(lazy.later(fake(x))))
    np.testing.assert_allclose(np.asarray(found), np.exp(x), rtol=4 * np.finfo(dtype).eps)


@stands_in
@each_dtype
def test_each_operation_has_the_bits_of_numpy_s(dtype: Any) -> None:
    x, y = (fake(np.array(part, dtype)) for part in np.meshgrid(HARD, HARD))
    gain = fake(np.linspace(-1.0, 2.0, len(HARD)) + np.where(np.arange(len(HARD)) == 3, np.nan, 0.0))
    fixed = fake(np.arange(len(HARD)) % 3 == 0)[:, None]
    with np.errstate(all="ignore"):
        expected = every_operation(*map(np.asarray, (x, y, gain, fixed)))
    later = every_operation(lazy.later(x), lazy.later(y), lazy.later(gain), lazy.later(fixed))
    for number, (one, wanted) in enumerate(zip(later, expected, strict=True)):
        assert (one.shape, one.dtype, len(one)) == (wanted.shape, wanted.dtype, len(wanted))
        device.launches.clear()
        got = np.asarray(one.now("test"))
        assert len(device.launches) == 1
        np.testing.assert_array_equal(got, wanted, err_msg=str(number))
        if number < len(later) - 1:  # the larger one of 0 and -0 may be either
            zero = wanted == 0
            np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(wanted[zero]), str(number))
        assert one.now("again") is one.now("again")
    np.testing.assert_array_equal(np.asarray(x), np.meshgrid(HARD, HARD)[0].astype(dtype))


@stands_in
@each_dtype
def test_normal_numbers_are_those_that_are_drawn_at_once(dtype: Any) -> None:
    like, clock = np.empty((2, 3, 9), dtype), fake(np.array([4, 2]))
    for n, moment in ((9, (4, 2)), (5, (clock, clock))):
        own = like[:, :, :n]
        at = own, (5, 2**60), Purpose.SPIKE_JITTER, 1, *moment, 7 if moment[0] is not clock else 0
        got = np.asarray((2.0 * lazy.normals(*at)).now("test"))
        np.testing.assert_array_equal(got, 2.0 * np.asarray(cuda.normals(*at)))


@stands_in
def test_what_is_kept_comes_with_whatever_needs_it_first() -> None:
    x = fake(np.arange(6.0).reshape(1, 2, 3))
    held = kept(lazy.later(x) * 2.0)
    alone = kept(lazy.later(fake(np.array([[[3.0]]]))) + 1.0)  # of another shape: computed twice
    device.launches.clear()
    np.testing.assert_array_equal(np.asarray((held * alone).now("test")), np.asarray(x) * 8.0)
    assert isinstance(held.now("held"), device_on_cpu.FakeArray)
    assert len(device.launches) == 1
    np.testing.assert_array_equal(np.asarray(held.now("held")), np.asarray(x) * 2.0)
    np.testing.assert_array_equal(np.asarray(alone.now("alone")), [[[4.0]]])
    assert kept(x) is computed("x", x) is lazy.later(x).now("x") is x


@stands_in
def test_numbers_go_where_they_are_wanted_and_are_repeated() -> None:
    x, room = fake(np.arange(3.0)[None]), fake(np.zeros((2, 5)))
    later = lazy.later(x, (2, 3))
    later[...] = later + 1.0
    later.now("test", into=room[:, 1:4])
    np.testing.assert_array_equal(np.asarray(room), [[0.0, 1.0, 2.0, 3.0, 0.0]] * 2)
    with pytest.raises(AssertionError, match="only all of an array"):
        later[0] = 1.0
    with pytest.raises(TypeError):
        np.sum(later)
    with pytest.raises(TypeError):
        np.tan(later)


# --- chips ----------------------------------------------------------

EVERYTHING = {
    "weight_max": (2.0,), "weight_bits": 6, "write_std": 0.01, "gain_std": 0.1, "dead_synapses": 0.1,
    "dead_neurons": 0.1, "stuck_synapses": 0.1, "threshold_std": 0.6, "input_jitter": 0.1, "lost_inputs": 0.1,
    "threshold_noise": 0.1, "spike_jitter": 0.1, "lost_spikes": 0.1, "time_grid": 0.1, "trial_end": 3.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def written(library: Any) -> list[src.Elementwise]:
    """The kernels that a chip's steps and answers have written, with every distortion."""
    found: dict[src.Elementwise, None] = {}

    def noted(kernel: src.Elementwise) -> Any:
        found[kernel] = None
        return lambda *_: None

    with pytest.MonkeyPatch.context() as patched, device_on_cpu.installed(library) as cupy:
        patched.setattr(lazy, "elementwise", noted)
        clock = fake(np.array([0, 0]))
        for dtype in (np.float32, np.float64):
            layers = [Layer(n, m, (), LIF(threshold=np.full(m, 0.9))) for n, m in ((4, 6), (6, 3))]
            chip = EmulatedChip(Substrate(**EVERYTHING), layers, load("cuda"), (1, 2))
            weights = [cupy.zeros((2, layer.n_pre, layer.n_out), dtype) for layer in layers]
            received = LayerInput(cupy.zeros((1, 5, 4), dtype), None)
            chip.states(weights, received, Moment(clock, clock), chip.programming(weights))
            chip.states(weights, received, Moment())
            chip.pull_back(weights)
    return list(found)


@pytest.mark.skipif(not nvrtc.compilers(), reason="NVIDIA's compiler is not installed")
@pytest.mark.parametrize(
    "arch", [*(pytest.param(arch, marks=pytest.mark.slow) for arch in (70, 80, 100)), 90]
)
def test_what_is_written_compiles_silently_and_spills_nothing(
    arch: int, written: list[src.Elementwise]
) -> None:
    library = nvrtc.compiler_for(arch)
    if library is None:
        pytest.skip(f"no installed compiler knows sm_{arch}")
    assert {kernel.name.split("_")[2] for kernel in written} == {
        "inputs", "lift", "weights", "heard", "slope", "pull",
    }  # fmt: skip
    (preamble,) = {kernel.preamble for kernel in written}
    text = preamble + "".join(loop(kernel, "float32") for kernel in written)
    options = [*src.OPTIONS, f"--gpu-architecture=sm_{arch}", "--ptxas-options=-v"]
    compiled = nvrtc.compile_text(library, text, options, [])
    assert compiled.ok, compiled.log
    messages = [line for line in compiled.log.splitlines() if "error" in line or "warning" in line]
    assert [line for line in messages if "Architectures prior to" not in line] == []
    assert len(compiled.resources) == len(written)
    assert {name: used for name, used in compiled.resources.items() if used[1]} == {}


@pytest.mark.skipif(not nvrtc.compilers(), reason="NVIDIA's compiler is not installed")
def test_what_cupy_makes_of_it_compiles_silently(written: list[src.Elementwise]) -> None:
    for kernel in written[:5]:
        cupy_code_compiles(kernel, "float32")


@dataclass(frozen=True)
class Own(Distortion):
    """A user's, at every hook, with what CuPy's arrays have and those that are computed later have not."""

    scope: ClassVar[str] = TRIAL
    device: ClassVar[bool] = True

    packaged: ClassVar[bool] = False  # as of a file that is not the package's
    strange: float = value(0.0)

    def program(self, weights: Any, layer: int) -> Any:
        return np.where(weights.copy() > 0.0, weights, weights * 0.9) * (1.0 + layer)

    def arrive(self, times: Any, trials: Trials) -> None:
        times[...] = np.where(np.isnan(times) | (trials.normals("strange") > 2.0), np.inf, times.copy())

    def lift(self, trials: Trials) -> Any:
        return self.strange * trials.normals("strange").copy()

    def delay(self, delay: Any, trials: Trials) -> Any:
        own = 0.1 * self.strange * np.abs(trials.normals("strange").copy())
        return own if delay is None else delay.copy() + own


@stands_in
@pytest.mark.parametrize(
    "beside", [[], ["substrate=bss2", "substrate.input_jitter=0.05", "substrate.lost_spikes=0.1"]]
)
def test_a_user_s_distortion_is_given_plain_arrays(beside: list[str]) -> None:
    DISTORTIONS.add("strange", Own)
    try:
        (ours, told), (theirs, expected) = (
            learns([*beside, "substrate.strange=0.05"], name) for name in ("cuda", "cpu")
        )
    finally:
        DISTORTIONS.remove("strange")
    assert ours.step.kind.name == "device"
    for name, array in theirs.state().items():
        np.testing.assert_allclose(ours.state()[name], array, rtol=1e-5, atol=1e-8, err_msg=name)
    for got, wanted in zip(told, expected, strict=True):
        np.testing.assert_allclose(got.validation.t_out, wanted.validation.t_out, rtol=1e-5)
