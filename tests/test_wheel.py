"""What a wheel must hold besides the modules."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_device_code_and_the_configuration_are_in_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "kernels/cuda/draws.cuh",
        "kernels/cuda/lif.cuh",
        "kernels/cuda/step.cu",
        "kernels/cuda/events.cu",
        "kernels/cuda/forward.cu",
        "kernels/cuda/ttfs.cu",
        "kernels/cuda/__init__.py",
        "conf/config.yaml",
        "conf/evaluate/evaluate.yaml",
        "conf/exchange/price.yaml",
        "conf/need/need.yaml",
        "conf/prices/brainscales2.yaml",
        "conf/published/mnist.yaml",
        "py.typed",
    ):
        assert f"gpuspike/{name}" in names
    scripts = next(name for name in names if name.endswith("entry_points.txt"))
    for command in ("doctor", "evaluate", "export", "import", "plan", "price", "report", "train", "tune"):
        assert f"gpuspike-{command} =" in zipfile.ZipFile(wheel).read(scripts).decode()
