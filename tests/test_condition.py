"""How exact a spike time can be: its condition, tangencies, the oracle and 60 digits, and the fuzz itself."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.kernels import reference

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

exact: Any = importlib.import_module("exact")
fuzz: Any = importlib.import_module("fuzz")

INF = math.inf


def problem(times: list[float], weights: list[float], neuron: gs.LIF, dtype: Any = np.float64) -> Any:
    """One neuron of one sample."""
    return fuzz.Problems(np.array([times], dtype), np.array(weights, dtype)[:, None], neuron)


@pytest.mark.parametrize("tau_mem", [1.0, 2.0, 3.0, 0.25, 1.0 + 1e-9, INF])
@pytest.mark.parametrize("tau_syn", [1.0, 0.1])
def test_sixty_digits_agree_with_the_oracle(tau_mem: float, tau_syn: float) -> None:
    rng = np.random.default_rng(3)
    neuron = gs.LIF(tau_mem * tau_syn, tau_syn, 1.5, 0.5, 2.0)
    for _ in range(20):
        times = rng.uniform(0, 2, 6) * tau_syn
        times[rng.integers(6)] = rng.choice([INF, times[0]])
        weights = rng.normal(1.0, 2.0, (6, 1)) * float(neuron.drive) / neuron.tau_fast
        expected = reference.first_spikes(times[None, None], weights[None], neuron)[0, 0, 0]
        found = exact.first_spike_exactly(times, weights[:, 0], neuron)
        if math.isfinite(expected) or math.isfinite(found):
            assert found == pytest.approx(expected, rel=1e-11)


def test_one_input_by_hand() -> None:
    assert exact.first_spike_exactly(np.array([1.0]), np.array([2.0]), gs.LIF(INF, 1.0)) == 1.0 + math.log(
        2.0
    )
    assert exact.first_spike_exactly(np.array([INF]), np.array([2.0]), gs.LIF()) == INF
    assert exact.first_spike_exactly(np.array([0.0]), np.array([1.0]), gs.LIF(INF, 1.0)) == INF


MARGINS = [1e-2, 1e-4, 1e-6, 1e-8, 9e-11, 1e-12, 1e-13]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("tau_mem", [1.0, 2.0, 3.0, 1e12, INF])
def test_a_spike_time_is_as_exact_as_its_condition_lets_it(tau_mem: float, margin: float, dtype: Any) -> None:
    """Nearer and nearer to a tangency: the error grows as the mathematics page says, and no faster."""
    neuron = gs.LIF(tau_mem, 1.0)
    weight = (1.0 + margin) / neuron.kernel_peak[1]
    one = problem([0.25], [weight], neuron, dtype)
    found = float(gs.first_spikes(one.t_in, one.weights, neuron)[0, 0])
    expected = exact.first_spike_exactly(one.t_in[0], one.weights[:, 0], neuron)
    low, high = fuzz.bounds(one, found, expected, dtype)
    assert low <= found <= high
    assert low <= expected <= high
    if dtype == np.float64 and margin >= 1e-8 and tau_mem < 1e6:
        # sqrt(2 delta/|u''|) at most, delta of some roundings, |u''| of about 1/tau^2.
        assert abs(found - expected) < 1e-15 / math.sqrt(margin) * 20.0


def test_the_example_of_the_mathematics_page() -> None:
    """tau_mem = 1e12, a margin of 9e-11: 3e-6 off, and that is the rounding of its membrane, not a fault."""
    neuron = gs.LIF(1e12, 1.0)
    one = problem([0.0], [(1.0 + 9e-11) / neuron.kernel_peak[1]], neuron)
    found = float(gs.first_spikes(one.t_in, one.weights, neuron)[0, 0])
    expected = exact.first_spike_exactly(one.t_in[0], one.weights[:, 0], neuron)
    low, high = fuzz.bounds(one, found, expected, np.float64)
    assert low <= found <= high
    assert high - low > 1e-7, "no tolerance of 1e-10 can hold here"
    assert abs(found - expected) < 1e-4


def test_the_yardstick_is_no_excuse() -> None:
    """An answer that is off by what 100 roundings of the threshold make is found out."""

    def wrong(problems: Any) -> Any:
        moved = gs.LIF(3.0, 1.0, threshold=1.0 + 400 * float(np.finfo(problems.t_in.dtype).eps))
        return gs.first_spikes(problems.t_in, problems.weights, moved)

    for dtype in (np.float32, np.float64):
        one = problem([0.0, 0.5], [1.5, 1.5], gs.LIF(3.0, 1.0), dtype)
        assert fuzz.unexplained(one, fuzz.layers, dtype) is None
        assert fuzz.unexplained(one, wrong, dtype) is not None
        padded = problem([0.0, 5.0, 0.5, INF], [1.5, 1.0, 1.5, 2.0], gs.LIF(3.0, 1.0), dtype)
        least = fuzz.smaller(padded, lambda p, d=dtype: fuzz.unexplained(p, wrong, d) is not None)
        assert least.t_in.shape[1] < 4


LONG = ("delayed", "own")
"""Families whose kernels take longest to compile."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in sorted(fuzz.FAMILIES)],
)
def test_a_short_fuzz_leaves_nothing_unexplained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = fuzz.argparse.Namespace(seed=1, device=False, exact=5)
    tally = fuzz.run(name, 0, 1, 1500, options)
    assert tally.tried >= 1500
    assert fuzz.table({name: tally}) == 0
    assert " 0 unexplained" in capsys.readouterr().out


def test_unexplained_answers_are_shown_as_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = fuzz.layers
    monkeypatch.setattr(fuzz, "layers", lambda p: layers(p) * (1.0 + 1e-3))
    tally = fuzz.run("plain", 0, 1, 100, fuzz.argparse.Namespace(seed=1, device=False, exact=0))
    assert fuzz.table({"plain": tally}) == 1
    assert "plain, cpu: ('float32', [" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_very_long_gap_hides_no_crossing_of_neurons_with_constants_of_their_own(dtype: Any) -> None:
    """Found by the fuzz: what e^-88 leaves has no digits in float32, and seemed to be rising still."""
    values = (
        0.0011376965285238218,
        0.021394858804032326,
        0.912343759064147,
        -2.0396640437678264,
        0.02750898417755283,
    )
    own = gs.LIF(*(np.array([value]) for value in values))
    gaps = np.concatenate([np.linspace(1.6, 2.4, 400), np.linspace(14.0, 17.0, 400)])
    t_in = np.stack([np.zeros_like(gaps), gaps], axis=1).astype(dtype)
    weights = np.array([[113.76763153076172], [57.12419891357422]], dtype)
    expected = gs.first_spikes(t_in[:1], weights, gs.LIF(*values))
    assert math.isfinite(float(expected[0, 0]))
    np.testing.assert_allclose(
        gs.first_spikes(t_in, weights, own), np.repeat(expected, len(gaps), 0), rtol=1e-5
    )


def test_gradients_are_held_by_what_is_to_be_known_of_them() -> None:
    """The yardstick of the fuzz lets the kernels pass, and nobody who is off by 400 roundings."""
    rng = np.random.default_rng(5)
    for name in ("plain", "own", "wide"):
        for dtype in (np.float32, np.float64):
            given = fuzz.FAMILIES[name](rng).cast(dtype)
            t_out = fuzz.oracle(given).astype(dtype)
            grad = np.ones_like(t_out)
            what = fuzz.fuzz_gradients.expected(given, t_out, grad)
            found = fuzz.fuzz_gradients.layers(given, t_out, grad)
            off = fuzz.fuzz_gradients.outside(found, what, dtype)
            assert not any(every.any() for _, every in off.values())
            wrong = {key: value * (1.0 + 1e5 * np.finfo(dtype).eps) for key, value in found.items()}
            for plain, every in fuzz.fuzz_gradients.outside(wrong, what, dtype).values():
                assert plain.any()
                assert every.mean() > 0.3
            found["weights"][0, 0] = math.nan
            assert fuzz.fuzz_gradients.outside(found, what, dtype)["weights"][1][0, 0]


def test_wrong_gradients_are_shown_as_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = fuzz.fuzz_gradients.layers
    monkeypatch.setattr(
        fuzz.fuzz_gradients, "layers", lambda *given: {k: v * 1.01 for k, v in right(*given).items()}
    )
    tally = fuzz.run("plain", 0, 1, 100, fuzz.argparse.Namespace(seed=1, device=False, exact=0))
    assert fuzz.table({"plain": tally}) == 1
    assert "plain, cpu, gradients: ('float32', [" in capsys.readouterr().out


@pytest.mark.parametrize("own", [False, True])
def test_an_input_of_long_ago_has_no_gradient_but_what_the_dtype_cannot_tell_from_none(own: bool) -> None:
    """Found by the fuzz: e^-8300 is e^-708 to the kernels, and what comes of it stays below 1e-300."""
    values = (2.753788196076117, 2.753788196076117, 1.0, 0.0, 1.0)
    neuron = gs.LIF(*(np.array([value]) for value in values)) if own else gs.LIF(*values)
    t_in = np.array([[347.57928702825745, 23202.264936751817]])
    weights = np.array([[-4.876854146121516], [2.0139393374207475]])
    t_out = gs.first_spikes(t_in, weights, neuron)
    by_time, by_weight = gs.first_spikes_vjp(t_in, weights, neuron, t_out, np.ones_like(t_out))
    assert abs(by_time[0, 0]) < 1e-300
    assert abs(by_weight[0, 0]) < 1e-300
    assert by_time[0, 1] == pytest.approx(1.0, rel=1e-11)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_workers_of_the_fuzz_end_with_it(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "fuzz.py"
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen([sys.executable, script, "--jobs", "2"], stdout=out, stderr=out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 60.0

    def alive(number: str) -> bool:
        return (
            Path(f"/proc/{number}").exists()
            and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]
        )

    workers: list[str] = []
    while len(workers) < 2:
        assert time.monotonic() < end
        found = children.read_text().split()
        workers = [n for n in found if "spawn_main" in Path(f"/proc/{n}/cmdline").read_text()]
        time.sleep(0.1)
    time.sleep(2.0)
    process.kill()
    process.wait()
    while any(alive(number) for number in workers):
        assert time.monotonic() < end, "still there"
        time.sleep(0.2)
