"""docs/python.md: its blocks run one after the other, and what comes out is looked at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuspike.accountant.price import Cost
from gpuspike.cli.train import train

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def run(texts: list[str], names: dict[str, Any]) -> dict[str, Any]:
    for text in texts:
        exec(compile(text, "docs/python.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that the page names, after all of its blocks but those of a run and of scikit-learn."""
    here = [text for text in blocks("docs/python.md") if "DATE_TIME" not in text and "sklearn" not in text]
    assert len(here) == 9
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run(here, {})


def test_ten_lines_lead_from_arrays_to_accuracy_energy_and_decision_time(names: dict[str, Any]) -> None:
    assert len(blocks("docs/python.md")[0].strip().split("\n")) <= 12
    history, data = names["history"], names["data"]
    assert history.step == "compiled"
    assert history.validation_accuracy.shape == (30, 1)
    assert (names["classes"] == data.test.labels).mean() > 0.9
    assert 0.15 < names["times"].mean() < 4.0
    assert names["output"].shape == (500, 3)


def test_arrays_of_one_s_own_train(names: dict[str, Any]) -> None:
    assert names["accuracy"] > 0.85


def test_the_winner_s_membrane_meets_the_threshold_when_it_spikes(names: dict[str, Any]) -> None:
    trace, at, winner = names["output_u"], names["at"], names["winner"]
    assert trace.shape == (301, 3)
    assert names["hidden_u"].shape == (301, 120)
    assert trace[at - 1, winner] < 1.0 <= trace[at, winner]


def test_training_in_the_loop_helps_on_the_chip(names: dict[str, Any]) -> None:
    assert names["after"] > names["before"]
    assert names["on_chip"].chip.values["weight_bits"] == 4
    for name, array in names["on_chip"].chip.drawn.items():
        np.testing.assert_array_equal(names["same"].chip.drawn[name], array)


def test_the_price_is_an_object(names: dict[str, Any]) -> None:
    assert isinstance(names["cost"], Cost)
    assert "Loihi" in repr(names["cost"])
    assert names["cost"].energy_per_classification_J[0] > 0.0


def test_a_saved_network_goes_on(names: dict[str, Any]) -> None:
    assert names["net_again"].epoch == 45
    assert len(names["net_again"].history) == 45
    assert names["on_chip"].epoch == 40


def test_the_folder_of_a_run_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["training.epochs=2", "dataset.n_train=300", "dataset.n_validation=60", "dataset.n_test=60"]
    given = ["gpuspike-train", *small, "backend=cpu", "hydra.run.dir=outputs/yin_yang/DATE_TIME"]
    monkeypatch.setattr("gpuspike.runs.run.draw", lambda *_: {})  # figures would take most of the time
    monkeypatch.setattr("sys.argv", given)
    train()
    (block,) = [text for text in blocks("docs/python.md") if "DATE_TIME" in text]
    names = run(["import gpuspike as gs", block], {})
    assert names["run"].epoch == 4
    assert len(names["data_of_run"].test.labels) == 60


@pytest.mark.slow
def test_the_classifier_of_the_page() -> None:
    pytest.importorskip("sklearn")
    (block,) = [text for text in blocks("docs/python.md") if "sklearn" in text]
    names = run(["import gpuspike as gs", block], {})
    assert names["score"] > 0.93
    assert names["search"].best_score_ > 0.8


def test_what_the_front_page_shows_in_python_runs() -> None:
    texts = [text for text in blocks("README.md") if "gs." in text]
    assert len(texts) == 2
    names = run(texts, {})
    assert names["history"].validation_accuracy[-1, 0] > 0.9
    assert names["weights_grad"].shape == names["weights"].shape


def test_losses_optimisers_and_thresholds_of_one_s_choice_train(names: dict[str, Any]) -> None:
    assert names["mine"].history.step == "compiled"
    assert names["mine"].recipe.loss == names["loss"]
    assert names["more"].history.step_reason == "the compiled step trains weights alone, not threshold"
    assert names["more"].architecture.layers[0].neuron.threshold.shape == (1, 30)
