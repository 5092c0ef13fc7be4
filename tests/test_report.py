"""The final table and the report page: every number there, nothing from outside, all escaped."""

from __future__ import annotations

import base64
import copy
import io
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuspike.report import run_page as report
from gpuspike.report.captions import CAPTIONS, captions

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)  # fmt: skip
HOSTILE = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "img", "wbr"}
NO_CHIP = dict.fromkeys(
    [
        "name",
        "time_to_decision_s",
        "seconds_per_sample",
        "samples_per_s",
        "energy_per_classification_J",
        "energy_terms_J",
        "evidence",
        "spikes_per_sample",
        "synaptic_events_per_sample",
    ]
)
CHIP = {
    "name": "BrainScaleS-2",
    "time_to_decision_s": {"mean": 8.3e-6, "p50": 8e-6, "p99": 1.2e-5},
    "seconds_per_sample": 4.8e-5,
    "samples_per_s": 20800.0,
    "energy_per_classification_J": [8.4e-6, 9e-6],
    "energy_terms_J": {"spikes": 2.5e-9, "leak": 0.0},
    "evidence": "measured",
    "spikes_per_sample": {"hidden": 80.25, "output": 3},
    "synaptic_events_per_sample": 840.0,
}


def statistics(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "per_replica": values}


def summary(n_replica: int = 3, **changes: Any) -> dict[str, Any]:
    accuracy = [0.95 + 0.01 * replica for replica in range(n_replica)]
    splits = ("train", "validation", "test")
    base = {
        "accuracy": {split: statistics(accuracy) for split in splits},
        "loss": {split: statistics([0.1] * n_replica) for split in splits},
        "chip": dict(NO_CHIP),
        "emulator": {
            "backend": "cpu",
            "device": "two cores [bold]",
            "train_samples_per_s": 1.2e5,
            "inference_samples_per_s": 3e5,
            "wall_s": 8.1,
        },
        "provenance": {"gpuspike": "0.1.0", "git": None, "cupy": None, "seed": 12345},
        "run": {
            "experiment": "yin_yang",
            "epochs": 300,
            "interrupted": False,
            "dtype": "float64",
        },
    }
    return copy.deepcopy(base) | changes


def record(n_replica: int = 3, **changes: Any) -> dict[str, Any]:
    values = [0.1 * (replica + 1) for replica in range(n_replica)]
    return {
        "epoch": 300,
        "train_loss": values,
        "train_accuracy": values,
        "validation_loss": values,
        "validation_accuracy": values,
        "silent_fraction": [values, values],
        "bump_fraction": [0.0] * n_replica,
        "learning_rate": 0.005,
    } | changes


class Page(HTMLParser):
    """Tags, attributes and text of a page; a tag that is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.images: list[dict[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        self.text += data


def write(folder: Path, *arguments: Any) -> tuple[str, Page]:
    text = report.write_report(folder, *arguments).read_text(encoding="utf-8")
    return text, Page(text)


def shown(table: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120, color_system=None).print(table)
    return stream.getvalue()


def test_captions_are_in_the_words_of_the_data() -> None:
    moons, yin_yang = captions(("upper", "lower"), borders=False), captions(("yin", "yang"), borders=True)
    assert "boundaries" not in moons["plane"]
    assert "over the plane, with the true boundaries. Dots" in yin_yang["plane"]
    assert moons["spike_raster"].endswith("“upper, not lower” is a sample of upper that was taken for lower.")
    assert captions(("alone",), borders=False) == CAPTIONS
    ties = captions(("alone",), borders=False, ties=0.352)["confusion_matrix"]
    assert ties.endswith("Ties of output neurons, 35.2 % of the samples, are answered by the lowest class.")


def test_the_table_holds_accuracies_and_time_to_solution() -> None:
    text = shown(report.final_table(summary()))
    for line in ("train accuracy", "validation accuracy", "test accuracy", "96.00 %", "0.82 %"):
        assert line in text
    for line in ("120,000 samples/s", "300,000 samples/s", "8.1 s", "cpu", "two cores [bold]"):
        assert line in text
    assert "chip" not in text


def test_the_table_of_one_replica_has_no_deviation() -> None:
    lines = shown(report.final_table(summary(1))).splitlines()
    (line,) = [line for line in lines if "test accuracy" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][1:] == ["95.00 %"]


def test_the_table_tells_of_a_chip() -> None:
    text = shown(report.chip_table(CHIP))
    for line in ("BrainScaleS-2", "mean 8.3 µs, p50 8 µs, p99 12 µs", "48 µs", "8.4 µJ to 9 µJ"):
        assert line in text


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(summary())])
def test_an_empty_summary_is_no_error(tmp_path: Path, empty: dict[str, Any]) -> None:
    assert "training" in shown(report.final_table(empty))
    write(tmp_path, "nothing", empty, [], "")


def test_the_page_shows_every_replica_and_the_rest(tmp_path: Path) -> None:
    _, page = write(tmp_path, "yin_yang", summary(), [record()], "seed: 0\nreplicas: 3\n")
    assert ["1", "96.00 %", "96.00 %", "96.00 %"] in page.rows
    assert ["std", "0.82 %", "0.82 %", "0.82 %"] in page.rows
    assert ["mean loss", "0.1", "0.1", "0.1"] in page.rows
    assert ["silent fraction, layer 2", "20.00 %", "10.00 % to 30.00 %"] in page.rows
    assert ["learning rate", "0.005"] in page.rows
    assert ["seed", "12345"] in page.rows
    assert "git" not in page.text, "nothing is shown that is not known"
    assert "seed: 0\nreplicas: 3\n" in page.text
    assert "No chip was emulated: the substrate is ideal." in page.text
    assert "300 epochs, float64, cpu, two cores [bold]" in page.text
    assert "interrupted" not in page.text


def test_the_page_of_one_replica(tmp_path: Path) -> None:
    _, page = write(tmp_path, "yin_yang", summary(1), [record(1)], "")
    assert ["accuracy", "95.00 %", "95.00 %", "95.00 %"] in page.rows
    assert ["loss", "0.1", "0.1", "0.1"] in page.rows
    assert "-" not in {cell for row in page.rows for cell in row}
    assert not {"std", "mean", "range", "replica"} & {cell for row in page.rows for cell in row}
    assert ["train loss", "0.1"] in page.rows
    assert "±" not in page.text


def test_the_page_tells_of_a_chip(tmp_path: Path) -> None:
    _, page = write(tmp_path, "yin_yang", summary(chip=CHIP), [record()], "")
    assert "No chip" not in page.text
    assert ["chip", "BrainScaleS-2"] in page.rows
    assert ["energy by term", "spikes 2.5 nJ, leak 0 J"] in page.rows
    assert ["spikes per sample", "hidden 80.25, output 3"] in page.rows
    assert ["throughput", "20,800 samples/s"] in page.rows
    for text in ("8.4 µJ to 9 µJ", "energy per classification on BrainScaleS-2", "measured", "8.3 µs"):
        assert text in page.text.split("Accuracy")[0]


def test_energy_that_is_the_trial_s_is_told_so_beside_what_tells_networks_apart(tmp_path: Path) -> None:
    chip = CHIP | {"energy_is_the_trials": True, "until_decision": {"energy_J": 1.1e-6}}
    chip |= {"circuits_per_neuron": [7, 3]}
    _, page = write(tmp_path, "yin_yang", summary(chip=chip), [record()], "")
    head = page.text.split("Accuracy")[0]
    assert "energy per classification on BrainScaleS-2: of the trial, for any network" in head
    assert "1.1 µJ" in head
    assert "energy on BrainScaleS-2 if it stopped at the decision" in head
    assert ["circuits joined for a neuron, by layer", "7 3"] in page.rows


def test_a_distorted_ideal_chip_is_one(tmp_path: Path) -> None:
    emulated = {"name": "ideal with gain_std=0.1"}
    for chip in (CHIP | {"substrate": "ideal"}, {}):  # as older runs have it, and without an account
        _, page = write(tmp_path, "yin_yang", summary(chip=chip, substrate=emulated), [record()], "")
        assert "No chip was emulated" not in page.text
    _, page = write(tmp_path, "yin_yang", summary(chip=CHIP, substrate={"name": "ideal"}), [record()], "")
    assert "No chip was emulated" in page.text


def test_the_headline_says_what_its_numbers_rest_on(tmp_path: Path) -> None:
    chip = CHIP | {"energy_per_classification_J": None, "time_evidence": "stated"}
    values = summary(chip=chip, substrate={"name": "bss2"})
    _, page = write(tmp_path, "yin_yang", values, [record()], "")
    headline = page.text.split("Accuracy")[0]
    for text in ("simulated, on an emulated bss2", "no total: a price is not known", "stated"):
        assert text in headline
    _, page = write(tmp_path, "yin_yang", summary(), [record()], "")
    assert "simulated" in page.text
    assert "BrainScaleS" not in page.text


def test_the_page_of_a_run_that_broke_off(tmp_path: Path) -> None:
    values = summary(run={"epochs": 300, "interrupted": True, "dtype": None})
    last = record(train_loss=[math.nan, None, 0.5], validation_loss=None, bump_fraction=[math.nan])
    _, page = write(tmp_path, "yin_yang", values, [record(), last], "")
    assert "interrupted" in page.text
    assert ["train loss", "0.5"] in page.rows
    assert ["validation loss", "-"] in page.rows
    assert ["bump fraction", "-"] in page.rows
    _, page = write(tmp_path, "yin_yang", values, [], "")
    assert "No epoch was finished." in page.text


def test_every_figure_is_embedded_with_a_text(tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    names = [*reversed(report.CAPTIONS), "a_figure_of_mine"]
    for index, name in enumerate(names):
        (figures / f"{name}.png").write_bytes(PIXEL + bytes([index]))
        (figures / f"{name}.pdf").write_bytes(b"%PDF")
    _, page = write(tmp_path, "yin_yang", summary(), [record()], "")
    order = [*report.CAPTIONS, "a_figure_of_mine"]
    assert [image["alt"] for image in page.images] == [
        *report.CAPTIONS.values(),
        "a figure of mine",
    ]
    for name, image in zip(order, page.images, strict=True):
        kind, data = str(image["src"]).split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (figures / f"{name}.png").read_bytes()


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "learning_curves.png").write_bytes(PIXEL)
    text, page = write(tmp_path, "yin_yang", summary(), [record()], "")
    assert "http:" not in text
    assert "https:" not in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert all(str(link).startswith(("data:", "#")) for link in links)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_begins_with_what_the_run_is(tmp_path: Path) -> None:
    values = summary()
    values["run"] |= {
        "network": "4-120-3",
        "dataset": "yin_yang: 5,000 train",
        "date": "2026-01-02 03:04",
        "overrides": ["replicas=3", "tracking.tags=[a, b]"],
        "epochs_done": 20,
    }
    values["provenance"] |= {"replicas": 3}
    _, page = write(tmp_path, "yin_yang", values, [record()], "seed: 0")
    assert page.rows[:6] == [
        ["network", "4-120-3"],
        ["data set", "yin_yang: 5,000 train"],
        ["trained", "20 of 300 epochs, float64, cpu, two cores [bold]"],
        ["seeds", "12345 to 12347, a replica each"],
        ["begun", "2026-01-02 03:04"],
        ["command", "gpuspike-train replicas=3 'tracking.tags=[a, b]'"],
    ]
    heads = ["Accuracy", "Figures", "Chip", "Last epoch", "Provenance", "Configuration"]
    order = [page.text.index(name) for name in heads]
    assert order == sorted(order), "figures before the details of the chip"


def test_a_figure_opens_large_and_links_to_its_pdf(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("a #1.png", "a #1.pdf", "b.png"):
        (tmp_path / "figures" / name).write_bytes(PIXEL)
    _, page = write(tmp_path, "yin_yang", summary(), [record()], "")
    links = [value for name, value in page.attributes if name == "href"]
    assert links == ["#figure_1", "figures/a%20%231.pdf", "#top", "#figure_2", "#top"]


def test_everything_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / '"><script>.png').write_bytes(PIXEL)
    values = summary(chip=CHIP | {"name": HOSTILE, "spikes_per_sample": {HOSTILE: 1.0}})
    values["emulator"]["device"] = HOSTILE
    values["emulator"] |= {"backend": HOSTILE, "step": "piecewise", "step_reason": HOSTILE}
    values["provenance"] = {HOSTILE: HOSTILE}
    values["run"]["dtype"] = HOSTILE
    text, page = write(tmp_path, HOSTILE, values, [record() | {HOSTILE: HOSTILE}], HOSTILE)
    assert "<script" not in text
    assert page.text.count(HOSTILE) >= 10
    assert page.images[0]["alt"] == '"><script>'


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report.write_report(tmp_path, "first", summary(), [record()], "")
    assert os.listdir(tmp_path) == ["report.html"]
    before = path.read_bytes()

    def broken(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="no space left"):
        report.write_report(tmp_path, "second", summary(), [record()], "")
    assert os.listdir(tmp_path) == ["report.html"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "-"),
        (math.nan, "", "-"),
        (math.inf, "s", "-"),
        (0.0, "s", "0 s"),
        (0.99999, "s", "1000 ms"),
        (1e-3, "s", "1 ms"),
        (4.8e-5, "s", "48 µs"),
        (2.345678e-9, "J", "2.346 nJ"),
        (3e-15, "J", "0.003 pJ"),
        (12.345, "J", "12.35 J"),
        (123456.7, "samples/s", "123,457 samples/s"),
        (1234, "", "1,234"),
        (np.float32(0.5), "%", "50.00 %"),
        (0.005, "", "0.005"),
        ([1e-6, 2e-6], "J", "1 µJ to 2 µJ"),
        ({"a": 1.5, "b": None}, "", "a 1.5, b -"),
        ("text", "s", "text"),
    ],
)
def test_numbers_are_written_for_a_reader(value: Any, unit: str, text: str) -> None:
    assert report.readable(value, unit) == text


STEPS = [
    ({"step": "compiled"}, "compiled"),
    ({"step": "piecewise", "step_reason": "it is new"}, "piecewise, since it is new"),
]


@pytest.mark.parametrize(("emulator", "told"), STEPS)
def test_the_page_tells_which_step_the_training_had(
    tmp_path: Path, emulator: dict[str, str], told: str
) -> None:
    values = summary()
    assert "training step" not in write(tmp_path, "older", values, [record()], "")[1].text
    values["emulator"] |= emulator
    assert f"training step {told}" in write(tmp_path, "run", values, [record()], "")[1].text
    assert dict(report._emulator_rows(values))["training step"] == told


@pytest.mark.parametrize(
    ("wall", "text"),
    [(8.1, "8.1 s"), (59.6, "59.6 s"), (119.7, "2 min 0 s"), (7500.0, "125 min 0 s"), (None, "-")],
)
def test_wall_time(wall: float | None, text: str) -> None:
    rows = dict(report._emulator_rows({"emulator": {"wall_s": wall}}))
    assert rows["wall time"] == text
