"""The sweep of Weights & Biases on docs/sweeps.md: its agent's call, made here without W&B's server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuspike.config.schema import jobs
from gpuspike.runs.dashboards import epoch_figures

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
CHOSEN = {"optimizer.learning_rate": 0.0025, "training.batch_size": 50, "training.bump_replaces_step": True}
SMALL = ["training.epochs=1", "dataset.n_train=200", "dataset.n_validation=50", "dataset.n_test=50"]


def sweep() -> dict[str, Any]:
    """The file that the page shows."""
    found = re.search(r"^```yaml\n(# sweep.yaml.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def call() -> list[str]:
    """The command line that W&B's agent would make of chosen values, by W&B's own rules."""
    utils: Any = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="needs the extra wandb")
    file = sweep()
    macros = utils.create_sweep_command_args({"args": {name: {"value": v} for name, v in CHOSEN.items()}})
    macros |= {"program": [file["program"]], "env": ["/usr/bin/env"]}
    words = []
    for part in utils.create_sweep_command(list(file["command"])):
        words += macros[part[2:-1]] if part.startswith("${") else [part]
    return words


def test_the_agent_s_call_is_one_of_gpuspike_train() -> None:
    words = call()
    assert words[:2] == ["/usr/bin/env", "gpuspike-train"]
    (job,) = jobs(words[2:], multirun=False)
    assert job.config.optimizer.learning_rate == 0.0025
    assert job.config.training.batch_size == 50
    assert job.config.training.bump_replaces_step is True
    assert job.config.replicas == 3
    assert set(CHOSEN) == set(sweep()["parameters"])


def test_the_sweep_looks_at_a_figure_that_a_run_tells() -> None:
    line = {"epoch": 1, "validation_accuracy": [0.5], "train_accuracy": [0.5]}
    assert sweep()["metric"]["name"] in epoch_figures(line)


@pytest.mark.slow
def test_the_agent_s_call_trains_a_run_of_the_sweep(tmp_path: Path) -> None:
    words = call()
    program = shutil.which(words[1], path=str(Path(sys.executable).parent))
    assert program
    agent = {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "abc123",
        "WANDB_RUN_ID": "run77",
        "WANDB_PROJECT": "p",
    }
    subprocess.run(
        [words[0], program, *words[2:], "tracking.mode=offline", *SMALL, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=os.environ | agent,
        capture_output=True,
        check=True,
        timeout=300,
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["run"]["epochs_done"] == 1
    (place,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert place.name.endswith("run77")  # W&B's own id, by which it knows the run of its sweep
