"""docs/gallery: notebooks are kept without outputs, stand on the page, and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
NOTEBOOKS = sorted(path.stem for path in GALLERY.glob("*.ipynb"))
NEEDS = {"layer_in_torch": "torch"}
each = pytest.mark.parametrize("name", NOTEBOOKS)

RUN = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=280, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text("utf-8"))["cells"]


@each
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    code = [cell for cell in cells(GALLERY / f"{name}.ipynb") if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_page_shows_all_of_them() -> None:
    page = (GALLERY.parent / "gallery.md").read_text("utf-8")
    assert len(NOTEBOOKS) >= 5
    assert all(f"(gallery/{name}.ipynb)" in page for name in NOTEBOOKS)


@each
def test_a_notebook_runs_and_draws(name: str, tmp_path: Path) -> None:
    for package in ("nbclient", "nbformat", "ipykernel", *filter(None, [NEEDS.get(name)])):
        pytest.importorskip(package, reason=f"needs the {package} package")
    done = tmp_path / "done.ipynb"
    places = filter(None, [str(GALLERY.parents[1]), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "IPYTHONDIR": str(tmp_path / "own")}
    command = [sys.executable, "-c", RUN, str(GALLERY / f"{name}.ipynb"), str(done)]
    answer = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    outputs = [out for cell in cells(done) for out in cell.get("outputs", ())]
    said = [out for out in outputs if out["output_type"] == "stream"]
    assert [out["text"] for out in said if out["name"] == "stderr"] == []
    drawn = sum("image/png" in out.get("data", {}) for out in outputs)
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert 1 <= drawn == len(pictures) // 2
    assert {path.partition(".")[2] for path in pictures} == {"pdf", "png"}
