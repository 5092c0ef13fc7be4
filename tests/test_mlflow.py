"""MLflow: a run is told to a server on this machine, read back from it, and looked at in a browser."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, chromium

from gpuspike.config.schema import jobs
from gpuspike.errors import ConfigError
from gpuspike.runs import dashboards

SMALL = ["backend=cpu", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]


def test_a_run_without_a_server_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (job,) = jobs(["tracking=mlflow", "tracking.uri=null"], multirun=False)
    with pytest.raises(ConfigError, match=r"needs tracking.uri, a server's, .* got neither"):
        dashboards.check(job.config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    dashboards.check(job.config)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of this test."""
    program = shutil.which("mlflow", path=str(Path(sys.executable).parent))
    if program is None or importlib.util.find_spec("mlflow.server") is None or not has_server():
        pytest.skip("needs the package mlflow, whose server this is")
    place = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{place}/mlflow.db",
        "--artifacts-destination",
        f"{place}/files",
    ]
    with open(place / "log", "w") as log:
        process = subprocess.Popen([program, "server", *given, *stores], cwd=place, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            assert process.poll() is None, (place / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def has_server() -> bool:
    """Whether MLflow is here whole: what only logs has no database and no pages."""
    return all(importlib.util.find_spec(name) is not None for name in ("flask", "sqlalchemy", "fastapi"))


def train(place: Path, *arguments: str, **environment: str) -> str:
    command = shutil.which("gpuspike-train", path=str(Path(sys.executable).parent))
    assert command
    answer = subprocess.run(
        [command, *arguments],
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return answer.stdout


def asked(server: str, call: str, **content: Any) -> dict[str, Any]:
    """What the server answers, asked without MLflow's own library."""
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{call}",
        json.dumps(content).encode() if content else None,
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def tracked(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A run of two replicas that was made longer once; its folder, where to look, and what the server has."""
    place = tmp_path_factory.mktemp("mlflow")
    folder = place / "run"
    given = ["tracking=mlflow", f"tracking.uri={server}", "replicas=2", "training.epochs=2"]
    said = train(place, *SMALL, *given, f"hydra.run.dir={folder}")
    assert "warning" not in said
    again = train(place, f"resume={folder}", "training.epochs=4")
    (where,) = [line.split()[1] for line in said.splitlines() if line.startswith("tracking ")]
    assert where in again  # the same run
    return folder, where, asked(server, f"runs/get?run_id={where.rpartition('/')[2]}")["run"]


@pytest.mark.slow
def test_the_server_has_the_run(server: str, tracked: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, run = tracked
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["run_name"] == "yin_yang/run"
    params = {entry["key"]: entry["value"] for entry in run["data"]["params"]}
    assert params["dataset.n_train"] == "300"
    assert params["replicas"] == "2"
    summary = json.loads((folder / "summary.json").read_text())
    metrics = {entry["key"]: entry["value"] for entry in run["data"]["metrics"]}
    assert metrics["summary/accuracy.test.mean"] == pytest.approx(summary["accuracy"]["test"]["mean"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loss = next(
        name
        for name in metrics
        if "train" in name and "loss" in name and "std" not in name and "summary" not in name
    )
    key = urllib.request.quote(loss, safe="")  # type: ignore[attr-defined]
    course = asked(server, f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={key}")["metrics"]
    expected = {line["epoch"]: np.mean(line["train_loss"]) for line in lines}
    assert {entry["step"]: entry["value"] for entry in course} == pytest.approx(expected)
    files = asked(server, f"artifacts/list?run_id={run['info']['run_id']}")["files"]
    assert {"checkpoint.npz", "config.yaml", "figures", "replicas.json"} <= {file["path"] for file in files}


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_page_of_the_run_shows_it(tracked: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    _, where, _ = tracked
    with Browser(tmp_path / "profile") as page:
        page.call("Page.navigate", url=where)
        text, end = "", time.monotonic() + 60
        while not ("yin_yang/run" in text and "dataset.n_train" in text) and time.monotonic() < end:
            time.sleep(0.5)
            text = page.run("document.body ? document.body.innerText : ''") or ""
        page.screenshot(tmp_path / "page.png")
    assert "yin_yang/run" in text
    assert "dataset.n_train" in text
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_server_that_is_not_there_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    given = ["training.epochs=1", "tracking=mlflow", "tracking.uri=http://127.0.0.1:9", "hydra.run.dir=run"]
    said = train(tmp_path, *SMALL, *given, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert said.count("tracking=mlflow failed") == 1
    assert (tmp_path / "run" / "report.html").exists()
