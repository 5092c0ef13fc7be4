"""Which backend is chosen, and what is said where a device cannot be used: each reason has its own words."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpuspike import backend
from gpuspike.errors import BackendError


def fake_cupy(monkeypatch: pytest.MonkeyPatch, count: Any = 1, version: Any = 12090) -> ModuleType:
    """A module `cupy` whose driver answers so; an exception is raised."""

    def answer(value: Any) -> Any:
        def call(*_: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return call

    module = ModuleType("cupy")
    module.__spec__ = importlib.machinery.ModuleSpec("cupy", loader=None)
    runtime = SimpleNamespace(
        getDeviceCount=answer(count),
        runtimeGetVersion=answer(version),
        getDevice=answer(0),
        getDeviceProperties=answer({"name": b"NVIDIA H100 80GB HBM3"}),
    )
    vars(module).update(ndarray=type("ndarray", (), {}), cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


def driver(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int] | None) -> None:
    monkeypatch.setattr(backend, "driver_cuda", lambda: version)


INSUFFICIENT = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is\ninsufficient")


@pytest.mark.parametrize(
    ("version", "extra"),
    [
        (None, r"\[cuda12\]' \(or \[cuda13\]"),
        ((12, 4), r"\[cuda12\]'$"),
        ((13, 0), r"\[cuda13\]'$"),
        ((11, 8), "cuda12"),
    ],
)
def test_without_cupy_the_extra_for_this_driver_is_named(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int] | None, extra: str
) -> None:
    no_cupy(monkeypatch)
    driver(monkeypatch, version)
    with pytest.raises(BackendError, match=rf"got: CuPy is not installed: pip install 'gpuspike.*{extra}"):
        backend.select("cuda")
    chosen = backend.select("auto")
    assert (chosen.name, chosen.note) == ("cpu", "")  # nobody has asked for a device


def test_a_broken_cupy_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, (12, 4))
    fake_cupy(monkeypatch)

    def fail(name: str) -> ModuleType:
        raise ImportError(f"libnvrtc.so.12: cannot open\nshared object file ({name})")

    monkeypatch.setattr("importlib.import_module", fail)
    message = (
        r"CuPy is installed but cannot be imported \(ImportError: libnvrtc.so.12: cannot open shared object"
    )
    with pytest.raises(BackendError, match=rf"{message}.*then pip install 'gpuspike\[cuda12\]'"):
        backend.select("cuda")
    chosen = backend.select("auto")
    assert chosen.name == "cpu"
    assert "cannot be imported" in chosen.note


@pytest.mark.parametrize(("place", "kept"), [("kernels", True), ("file/kernels", False)])
def test_cupy_keeps_kernels_in_memory_where_its_folder_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, kept: bool
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / place))
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY")
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    backend.cupy_module()
    assert ("CUPY_CACHE_IN_MEMORY" in os.environ) != kept


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, count=INSUFFICIENT)
    driver(monkeypatch, None)
    with pytest.raises(
        BackendError, match=r"got: no NVIDIA driver answers \(RuntimeError: cudaErrorInsu.*install one"
    ):
        backend.select("cuda")
    assert "no NVIDIA driver" in backend.select("auto").note


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ((11, 8), "update the driver to one for CUDA 12 or newer, then pip install 'gpuspike"),
        ((12, 4), r"uninstall CuPy, then pip install 'gpuspike\[cuda12\]', or update the driver"),
    ],
)
def test_an_old_driver(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], remedy: str) -> None:
    fake_cupy(monkeypatch, count=INSUFFICIENT, version=13000)
    driver(monkeypatch, version)
    serves = f"{version[0]}.{version[1]}"
    with pytest.raises(
        BackendError, match=rf"driver is too old: it serves CUDA {serves}, CuPy needs 13: {remedy}"
    ):
        backend.select("cuda")


@pytest.mark.parametrize("count", [0, RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")])
def test_a_driver_without_a_device(monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    fake_cupy(monkeypatch, count=count)
    driver(monkeypatch, (12, 9))
    with pytest.raises(BackendError, match="got: CuPy finds no CUDA device: see `nvidia-smi`"):
        backend.select("cuda")


def test_what_nobody_has_foreseen_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, count=RuntimeError("cudaErrorSystemNotReady"), version=RuntimeError("no library"))
    driver(monkeypatch, (12, 9))
    with pytest.raises(
        BackendError, match=r"cannot reach a device \(RuntimeError: cudaErrorSystemNotReady\)"
    ):
        backend.select("cuda")


def test_a_device_is_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch)
    for name in ("cuda", "auto"):
        chosen = backend.select(name)
        assert chosen == backend.Backend("cuda", "NVIDIA H100 80GB HBM3 (device 0, CUDA 12.9)")


def test_every_message_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (None, (11, 8), (12, 4)):
        driver(monkeypatch, version)
        fake_cupy(monkeypatch, count=INSUFFICIENT, version=13000)
        problem = backend.cuda_problem()
        assert problem is not None
        assert "\n" not in problem.text


def test_the_driver_s_version_comes_from_nvidia_smi_where_the_library_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_library(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    said = SimpleNamespace(stdout="| NVIDIA-SMI 550.54  Driver Version: 550.54   CUDA Version: 12.4  |")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    assert backend.driver_cuda() == (12, 4)
    said.stdout = "NVIDIA-SMI has failed"
    assert backend.driver_cuda() is None

    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr("subprocess.run", missing)
    assert backend.driver_cuda() is None


def test_the_driver_s_version_comes_from_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_version(pointer: Any) -> int:
        pointer._obj.value = 13010
        return 0

    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(cuDriverGetVersion=get_version))
    assert backend.driver_cuda() == (13, 1)


# ---- cores


def groups(root: Path, listed: str, files: dict[str, str]) -> str:
    """A file system with these control groups."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(listed)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"{root}/"


@pytest.mark.parametrize(
    ("listed", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a\n", {"a/cpu.max": "1000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/x\n3:memory:/y\n",
            {"cpu/x/cpu.cfs_quota_us": "400000\n", "cpu/x/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000"}, 0),
        ("nonsense\n", {"cpu.max": "what"}, 0),
    ],
)
def test_a_container_s_share_of_the_cores_is_known(
    tmp_path: Path, listed: str, files: dict[str, str], cores: int
) -> None:
    assert backend._container_s_cores(groups(tmp_path, listed, files)) == cores


def test_a_job_s_cores_are_those_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(backend, "_container_s_cores", lambda: 0)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    for given, cores in (("4", 4), ("64", 16), ("", 16), ("0", 16), ("all", 16)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
        assert (backend.usable_cores(), backend.thread_count(), backend.crowded()) == (cores, cores, None)
    monkeypatch.setattr(backend, "_container_s_cores", lambda: 2)
    assert backend.usable_cores() == 2
    monkeypatch.setenv("NUMBA_NUM_THREADS", "16")
    assert str(backend.crowded()).startswith(
        "NUMBA_NUM_THREADS=16 is more than the 2 cores that this process"
    )
