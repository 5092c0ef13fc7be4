"""gpuspike-doctor says what is wrong and what helps, and its exit code tells whether something is broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuspike import backend
from gpuspike.backend import Problem
from gpuspike.cli import doctor
from gpuspike.kernels import cache


def examine() -> tuple[int, str]:
    """Exit code, and what is printed, on one line."""
    console = Console(file=io.StringIO(), width=400)
    code = doctor.main(console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backend, "cuda_problem", lambda: Problem("no CuPy", "CuPy is not installed: pip install x")
    )
    monkeypatch.setattr(backend, "driver_cuda", lambda: (12, 4))


def test_a_machine_without_a_gpu_is_healthy() -> None:
    code, said = examine()
    assert code == 0
    for words in ("gpuspike", "python", "numpy", "numba", "serves CUDA 12.4", "agree with the oracle to"):
        assert words in said
    assert "│ CuPy is not installed: pip install x" in said
    assert "NumPy arrays on the CPU; training" in " ".join(said.split())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("broken CuPy", 1), ("old driver", 1), ("unknown", 1), ("no driver", 0), ("no device", 0)],
)
def test_each_problem_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, kind: str, expected: int
) -> None:
    text = "because; pip install 'gpuspike[cuda12]'"
    monkeypatch.setattr(backend, "cuda_problem", lambda: Problem(kind, text))
    code, said = examine()
    assert code == expected
    assert f"{kind}: {text}" in said
    assert ("Something installed is broken" in said) == bool(expected)


def test_a_device_is_compared_with_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "cuda_problem", lambda: None)
    monkeypatch.setattr(backend, "device_count", lambda: 1)
    monkeypatch.setattr(backend, "device_name", lambda *_: "A Device (device 0, CUDA 12.9)")

    class Cupy:
        asarray = staticmethod(np.asarray)

    monkeypatch.setattr(backend, "cupy_module", lambda: Cupy)
    code, said = examine()
    assert code == 0
    assert "A Device (device 0, CUDA 12.9)" in said
    assert said.count("agree with the oracle to") == 2
    assert "CuPy arrays on the device" in " ".join(said.split())


def test_wrong_numbers_and_kernels_that_do_not_compile_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "first_spikes", lambda t_in, weights, neuron: np.ones((1, 8, 16)))
    code, said = examine()
    assert code == 1
    assert "differ from the oracle" in said

    def fail(*_: Any) -> Any:
        raise RuntimeError("kernels.cu(1): error:\n nothing [works]")

    monkeypatch.setattr(doctor, "first_spikes", fail)
    code, said = examine()
    assert code == 1
    assert "broken: RuntimeError: kernels.cu(1): error: nothing [works]" in said


def test_where_kernels_are_kept_and_what_is_wrong_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_compare", lambda _: 0.0)
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    code, said = examine()
    assert (code, "kept kernels" in said, f"{tmp_path}" in said) == (0, True, True)
    (tmp_path / "a.nbi").write_bytes(b"")
    assert f"{tmp_path}; damaged, to be compiled again: 1" in examine()[1]
    monkeypatch.setattr(cache, "_problems", ["/x: No space left on device"])
    code, said = examine()
    assert code == 0
    assert "compiled again by each run, since /x: No space left on device; NUMBA_CACHE_DIR=FOLDER" in said


def test_every_cupy_package_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        version = "13.4.0"

        def __init__(self, name: str) -> None:
            self.metadata = {"Name": name}

    names = ("numpy", "cupy-cuda12x", "cupy-cuda11x")
    monkeypatch.setattr("importlib.metadata.distributions", lambda: [Distribution(name) for name in names])
    assert "cupy-cuda11x 13.4.0, cupy-cuda12x 13.4.0" in examine()[1]
