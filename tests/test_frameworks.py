"""Extras that are not installed, the page about both frameworks, and a training in pure PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_python_page import blocks, run

import gpuspike as gs


@pytest.mark.parametrize(("extra", "library"), [("torch", "PyTorch"), ("jax", "JAX")])
def test_an_extra_that_is_not_installed_is_named(extra: str, library: str) -> None:
    code = (
        "import importlib.util as util; find = util.find_spec;"
        f"util.find_spec = lambda name, *more: None if name == '{extra}' else find(name, *more);"
        f"import gpuspike.{extra}"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = f"gpuspike.{extra} needs {library}: pip install 'gpuspike[{extra}]'"
    assert answer.stderr.strip().endswith(f"ModuleNotFoundError: {told}")


def test_what_the_page_shows_in_pytorch_runs() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra torch: no PyTorch to be found")
    texts = [text for text in blocks("docs/frameworks.md") if "jax" not in text]
    assert len(texts) == 6
    names = run(texts[:1], {})
    assert torch.isfinite(names["weights"].grad).all()
    assert names["weights"].grad[2] == 0.0
    run(texts[1:2], names)
    run(texts[5:], names)
    assert names["accuracy"] > 0.6
    assert names["net"].accuracy(*names["data"].test) == pytest.approx(float(names["accuracy"]))
    assert names["cost"].energy_per_classification_J > 0.0
    run(texts[2:3], names)
    assert names["loss_in_ms"].loss.tau_syn == 5.0
    run(texts[3:4], names)
    assert names["heard"].shape == (5, 12, 12, 8)
    run(texts[4:5], names)
    assert names["layer"].synaptic_delay.grad.shape == names["layer"].weights.grad.shape == (5, 30)


def test_what_the_page_shows_in_jax_runs() -> None:
    pytest.importorskip("jax", reason="needs the extra jax: no JAX to be found")
    names = run([text for text in blocks("docs/frameworks.md") if "jax" in text], {})
    arrays = [np.asarray(names[name]) for name in ("t_in", "weights")]
    t_out, slopes = gs.first_spikes(*arrays, names["neuron"], return_slopes=True)
    grads = gs.first_spikes_vjp(*arrays, names["neuron"], t_out, np.ones_like(t_out), slopes=slopes)
    np.testing.assert_array_equal(np.asarray(names["weights_grad"]), grads[1])
    np.testing.assert_array_equal(np.asarray(names["per_network"][0]), t_out)


@pytest.fixture(scope="module")
def benchmark(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """scripts/benchmark_frameworks.py."""
    pytest.importorskip("torch", reason="needs the extra torch: no PyTorch to be found")
    return load_script("benchmark_frameworks")


def test_calls_are_timed(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax", reason="needs the extra jax: no JAX to be found")
    benchmark.overhead(2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == 3 * ["PyTorch"] + 3 * ["JAX"]


@pytest.mark.slow
def test_ten_epochs_of_pure_pytorch_reach_what_our_trainer_reaches(benchmark: ModuleType) -> None:
    data = gs.dataset("yin_yang")
    ours, theirs = (
        np.array([trained(data, seed, 10) for seed in range(5)])
        for trained in (benchmark.by_ours, benchmark.in_pure_torch)
    )
    assert abs(ours.mean() - theirs.mean()) < np.hypot(ours.std(ddof=1), theirs.std(ddof=1))


def test_two_epochs_of_pure_pytorch_learn(benchmark: ModuleType) -> None:
    data: Any = gs.dataset("yin_yang", n_train=2000, n_validation=10, n_test=500)
    assert benchmark.in_pure_torch(data, 0, 4) > 0.6
