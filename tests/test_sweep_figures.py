"""Accuracy against swept values: where values stand, what is pooled, the best run, what is a front."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import test_sweep_report

from gpuspike.report.figures.axes import LEFT, RIGHT, WIDTH, Values
from gpuspike.report.figures.scatter import Point, front
from gpuspike.report.figures.swept import against, heat_map
from gpuspike.report.sweep_page import write_sweep_report
from gpuspike.report.sweep_results import as_typed, outcomes, ranking, swept
from gpuspike.store.sweep_folder import read_sweep

INF = float("inf")


@pytest.mark.parametrize(
    ("values", "logarithmic", "order"),
    [
        ([0.001, 0.01, 0.1], True, "0.001 0.01 0.1"),
        ([0.0005, 0.02, 0.002, 0.005], True, "0.0005 0.002 0.005 0.02"),
        ([1, 2, 3, 4], False, "1 2 3 4"),
        ([0.5, 0.25, 1.0], True, "0.25 0.5 1.0"),
        ([1.0, 2.0], False, "1.0 2.0"),
        ([0.0, 0.001, 0.01, 0.1, INF], True, "0.0 0.001 0.01 0.1 inf"),
        ([1, INF, 2], False, "1 2 inf"),
        ([[120], [60, 60]], False, "[120] [60,60]"),
        (["adam", "sgd"], False, "adam sgd"),
        ([True, False], False, "true false"),
    ],
)
def test_values_stand_in_order_and_on_the_scale_that_they_have(
    values: list[object], logarithmic: bool, order: str
) -> None:
    axis = Values(values, [as_typed(value) for value in values])
    assert axis.logarithmic == logarithmic
    places = [axis.at(text) for text in order.split()]
    assert places == sorted(places)
    assert len(set(places)) == len(values)
    assert all(LEFT <= place <= WIDTH - RIGHT for place in places)


def test_ratios_are_even_on_a_logarithmic_axis() -> None:
    axis = Values([0.001, 0.01, 0.1], ["a", "b", "c"])
    assert axis.at("b") - axis.at("a") == pytest.approx(axis.at("c") - axis.at("b"))


def sweep(folder: Path) -> Path:
    """Two rates with two seeds each, by their command lines."""
    for k, (rate, seed, accuracy) in enumerate(
        [("1e-2", 0, 0.9), ("1e-2", 1, 0.94), ("inf", 0, 0.8), ("inf", 1, 0.7)]
    ):
        summary = test_sweep_report.job(
            folder, f"{k}", accuracy, seed=seed, optimizer={"learning_rate": float(rate)}
        )
        summary["run"]["overrides"] = [f"optimizer.learning_rate={rate}", f"seed={seed}", "replicas=2"]
        summary["accuracy"]["test"]["per_replica"] = [accuracy - 0.01, accuracy + 0.01]
        (folder / f"{k}" / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_sweep_of_seeds_is_points_and_their_mean(tmp_path: Path) -> None:
    for k, reached in enumerate((0.90, 0.92, 0.97)):
        test_sweep_report.job(tmp_path, f"{k}", reached, seed=k)
    page = write_sweep_report(tmp_path)[0].read_text(encoding="utf-8")
    drawing = page.split("Accuracy against what was swept")[1].split("</figure>")[0]
    assert drawing.count('class="line ') == drawing.count("stroke-dasharray") == 1
    assert "band" not in drawing
    assert "Dashed: the mean, 93.00 ± 3.61 % over 3 runs that differ in seed alone." in page


def test_seeds_are_pooled_and_values_are_as_typed(tmp_path: Path) -> None:
    jobs = read_sweep(sweep(tmp_path))
    values = swept(jobs)
    assert list(values) == ["optimizer.learning_rate", "seed"]
    one, other = outcomes(jobs, values)
    assert (one.name, one.values["optimizer.learning_rate"]) == ("0, 1", ("1e-2", 0.01))
    assert (one.mean, one.low, one.high) == pytest.approx((0.92, 0.89, 0.95))
    assert other.values["optimizer.learning_rate"] == ("inf", INF)
    assert [job.name for job in ranking(jobs)] == ["1", "0", "2", "3"]
    page = write_sweep_report(tmp_path)[0].read_text()
    assert "optimizer.learning_rate=1e-2" in page
    assert ">inf<" in page
    assert "Infinity" not in page


def test_a_number_alone_in_a_list_is_a_number(tmp_path: Path) -> None:
    for k, hidden in enumerate(([5], [40], [10])):
        test_sweep_report.job(tmp_path, f"{k}", 0.9 + 0.01 * k, model={"hidden": hidden})
    jobs = read_sweep(tmp_path)
    values = swept(jobs)
    assert values["model.hidden"] == {"0": ("[5]", 5), "1": ("[40]", 40), "2": ("[10]", 10)}
    typed = list(values["model.hidden"].values())
    axis = Values([value for _, value in typed], [text for text, _ in typed])
    assert axis.numeric
    assert axis.at("[5]") < axis.at("[10]") < axis.at("[40]")


def test_a_line_for_each_choice_of_the_others_and_a_heat_map_of_two(tmp_path: Path) -> None:
    for k in range(6):
        test_sweep_report.job(
            tmp_path, f"{k}", 0.9 + 0.01 * k, seed=k % 3, optimizer={"learning_rate": 0.1 * (k // 3)}
        )
    jobs = read_sweep(tmp_path)
    values = {key.replace("seed", "training.xi"): own for key, own in swept(jobs).items()}
    found = outcomes(jobs, values)
    drawing, legend = against(found, "optimizer.learning_rate", found[-1])
    assert drawing.count("<circle") == 6
    assert drawing.count("winner") == 1
    assert [text for _, text in legend] == ["training.xi=0", "training.xi=1", "training.xi=2"]
    cells = heat_map(found, "training.xi", "optimizer.learning_rate", found[-1])
    assert cells is not None
    assert cells.count("<rect") == 6
    assert "95.0" in cells
    assert heat_map(found[:3], "training.xi", "optimizer.learning_rate", found[0]) is None


def test_names_are_not_joined_by_lines_and_chips_not_by_a_front(tmp_path: Path) -> None:
    for k, chip in enumerate(("bss2", "bss2", "loihi", "loihi")):
        summary = test_sweep_report.job(
            tmp_path, f"{k}", 0.9 + 0.01 * k, substrate={"name": chip}, dtype=f"float{32 + 32 * (k % 2)}"
        )
        summary["chip"] |= {"prices": chip, "energy_per_classification_J": 1e-6 * (k + 1)}
        summary["accuracy"]["test"]["per_replica"] = [0.8, 0.85 + 0.01 * k]
        (tmp_path / f"{k}" / "summary.json").write_text(json.dumps(summary))
    jobs = read_sweep(tmp_path)
    found = outcomes(jobs, swept(jobs))
    drawing, _ = against(found, "substrate.name", found[-1])
    assert drawing.count("<circle") == 4
    assert 'class="line ' not in drawing
    assert "polygon" not in drawing
    page = write_sweep_report(tmp_path)[0].read_text()
    energy = page.split("Accuracy against what a chip would need")[1].split("</figure>")[0]
    fronts = re.findall(r'class="front" d="([^"]*)"', energy)
    assert [way.count("L") for way in fronts] == [1, 1]  # 0 and 1, 2 and 3, and none from chip to chip
    assert "jobs that no other of the same prices beats in both" in page


def test_the_front_is_what_no_other_beats_in_both() -> None:
    told = [("a", 1.0, 0.5), ("b", 2.0, 0.9), ("c", 2.0, 0.7), ("d", 3.0, 0.8), ("e", 4.0, 0.95)]
    points = [Point(name, (x, x), y, None, "") for name, x, y in told]
    assert [point.job for point in front(points)] == ["a", "b", "e"]
