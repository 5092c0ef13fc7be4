"""Compiled kernels are kept where that is possible; what is wrong with that costs compiling alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from numba.core import config as numba_config

from gpuspike.kernels import cache


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test's for kernels, and nothing found wrong so far."""
    monkeypatch.setattr(numba_config, "CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(cache, "_problems", [])
    cache.folder.cache_clear()
    yield tmp_path / "kernels"
    cache.folder.cache_clear()


def square(x: int) -> int:
    return x * x


def hits() -> int:
    """Compiles or loads a kernel as a new process would; how many times it was found."""
    kernel: Any = cache.njit(nogil=True)(square)
    assert kernel(3) == 9
    return sum(kernel.stats.cache_hits.values())


def test_a_kernel_is_compiled_once(place: Path) -> None:
    assert hits() == 0
    assert hits() == 1
    assert cache.folder() == place / cache.digest()
    assert len(list(place.glob("*/*"))) == 2
    assert (cache.problem(), cache.damaged(), cache.told()) == (None, [], "kept for later runs")


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: data[4:],
    ],
    ids=["empty", "cut off", "zeros", "a bit", "as Numba writes it"],
)
def test_a_damaged_file_is_compiled_again_and_repaired(
    place: Path, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    assert hits() == 0
    (path,) = place.glob(f"*/*.{kind}")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.damaged() == [path]
    assert hits() == 0
    assert cache.damaged() == []
    assert hits() == 1


def test_a_full_disk_is_named_as_that_of_the_kernels(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._Files, "_open_for_write", full)
    assert hits() == 0
    assert cache.problem() == f"{place / cache.digest()}: No space left on device"
    assert cache.told() == f"not kept for later runs: {cache.problem()}"


def test_a_folder_that_cannot_be_written_is_replaced_by_the_same_one_each_time(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place.write_text("a file in the way")
    assert hits() == 0
    cache.folder.cache_clear()
    assert hits() == 1
    found = cache.folder()
    assert found is not None
    assert found.parent.parent == tmp_path
    assert found.parent.stat().st_mode & 0o777 == 0o700
    assert cache.told() == "kept for later runs"


def test_nobody_else_s_code_is_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place.write_text("a file in the way")
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"gpuspike-kernels-{cache._user()}").symlink_to(tmp_path / "theirs")
    assert hits() == 0
    assert cache.folder() is None
    assert str(cache.problem()).endswith("is another user's")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_nowhere_to_keep_them_is_no_reason_not_to_compute() -> None:
    program = """
import numpy as np
from gpuspike.accountant import counting
from gpuspike.kernels import cache
t = np.empty((1, 1))
counting.earliest(np.array([[[3.0, 2.0]]]), t)
print(t[0, 0], cache.folder(), cache.told())
"""
    nowhere = "/dev/null/x"
    names = ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "TMPDIR")
    changes = dict.fromkeys(names, nowhere)
    code = f"import tempfile; tempfile.tempdir = '{nowhere}'\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("2.0 None not kept for later runs: /dev/null/x: Not a directory; ")


def test_two_processes_that_compile_at_the_same_time_keep_what_is_theirs(tmp_path: Path) -> None:
    one, other = (cache._Files(str(tmp_path), "kernel", "stamp") for _ in range(2))
    seen = other._load_index()  # before the other one has saved
    one.save("of one", 1)
    other._load_index = lambda: seen  # type: ignore[method-assign]
    other.save("of the other", 2)
    for files in (cache._Files(str(tmp_path), "kernel", "stamp"), one):
        assert files.load("of the other") == 2
        assert files.load("of one") in (None, 1)
    one._save_index({"of one": one._data_name(int(hashlib.sha256(b"'of one'").hexdigest()[:15], 16))})
    assert one.load("of one") == 1
