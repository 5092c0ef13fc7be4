"""What a chip may do: axes, the search on accuracies that are known, what is kept, and the whole command."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console
from test_distortions import borrow

from gpuspike import plugins
from gpuspike.cli.need import read
from gpuspike.config.need import NeedConfig, question
from gpuspike.config.schema import jobs, substrate_config
from gpuspike.errors import ConfigError, DataError, GpuspikeError, OutputError, ValueRangeError
from gpuspike.report.figures import need as plots
from gpuspike.report.need_page import rows
from gpuspike.runs import bench as benches
from gpuspike.runs import need as search_module
from gpuspike.runs import need_answer
from gpuspike.runs import run as runs
from gpuspike.runs.bench import Bench, Reached, Training
from gpuspike.runs.need import (
    MISSED,
    REACHED,
    REFUSED,
    UNDECIDED,
    Border,
    Point,
    Question,
    decide,
    draw_map,
    examine,
    search,
)
from gpuspike.runs.need_answer import answer
from gpuspike.substrate import distortions
from gpuspike.substrate.axes import NAMED, Axis, axis, names
from gpuspike.substrate.silicon import Trials
from gpuspike.substrate.spec import Substrate, keys

SIZES = ["dataset.n_train=300", "dataset.n_validation=60", "dataset.n_test=80", "model.hidden=[20]"]
SMALL = ["experiment=yin_yang_best", "backend=cpu", *SIZES, "training.epochs=3"]
USUAL = ["accuracy=0.5", "distortion=spike_jitter"]


def config(*given: str) -> Any:
    """A small training."""
    (job,) = jobs([*SMALL, *given], multirun=False)
    return job.config


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


# ---- axes


@pytest.mark.parametrize("name", names())
def test_every_axis_makes_a_substrate_and_leaves_what_it_needs_where_it_is_off(
    name: str,
) -> None:
    one, present = axis(name), vars(substrate_config())
    assert {key for key, _, _ in keys()} >= set(one.parts)
    Substrate.from_values(present | {"name": "x"} | one.changes(present, one.start), 1.0)
    for value in one.grid:
        Substrate.from_values(present | {"name": "x"} | one.changes(present, value), 1.0)
    off = present | {"name": "x"} | one.changes(present, None)
    assert Substrate.from_values(off, 1.0).ideal == (not one.needs)


def test_an_axis_sets_what_it_says() -> None:
    present = vars(substrate_config())
    assert axis("tau_spread").changes(present, 0.2) == {"tau_mem_std": 0.2, "tau_syn_std": 0.2}
    assert axis("weight_max").changes(present, 2.0) == {"weight_max": [2.0]}
    assert axis("weight_max").name == "weight_max"
    assert axis("-threshold_shift").changes(present, 0.2) == {"threshold_shift": -0.2}
    bits = axis("weight_bits")
    assert bits.changes(present, 4.0) == {"weight_lsb": 0.0, "weight_bits": 4, "weight_max": [3.0]}
    ranged = present | {"weight_max": [2.1], "weight_lsb": 0.1}
    assert bits.changes(ranged, 4.0) == {"weight_lsb": 0.0, "weight_bits": 4}
    assert bits.changes(ranged, None) == {"weight_lsb": 0.0, "weight_bits": 0}
    assert (bits.told(None), bits.told(4.0)) == ("off", "4")


def test_directions_come_from_the_leaves() -> None:
    less = {name for name in names() if axis(name).less_is_worse}
    assert less == {"weight_bits", "weight_range", "trial_end", "delay_max"}
    assert axis("delay_max").label == r"delay max ($\tau_{syn}$)"
    assert set(NAMED) <= set(names())


def test_a_share_is_searched_up_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {name for name in names() if axis(name).ends == (0.0, 1.0)}
    assert shares == {"stuck_synapses", "dead_synapses", "dead_neurons", "lost_inputs", "lost_spikes"}
    assert axis("gain_std").ends == (0.0, math.inf)
    assert axis("weight_bits").ends == (2, 24)

    @dataclass(frozen=True)
    class Swapped(distortions.Distortion):
        scope: ClassVar[str] = distortions.SPIKE
        swapped: float = distortions.share()
        swapped_far: float = distortions.value(0.0, ends=(1.0, 3.0))

        def arrive(self, times: Any, trials: Trials) -> None:
            times += self.swapped + self.swapped_far

    borrow(monkeypatch)
    distortions.DISTORTIONS.add("swapped", Swapped)
    assert axis("swapped").ends == (0.0, 1.0)
    assert (axis("swapped_far").ends, axis("swapped_far").start) == ((1.0, 3.0), 1.0)


def test_an_unknown_axis_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"there is no distortion 'weight_bit'; .*did you mean weight_bits\?"
    ):
        axis("weight_bit")


# ---- the question


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["accuracy=95"], "accuracy must be a share above 0 and below 1, got 95, 95 % is 0.95"),
        (["accuracy=1.0"], "accuracy must be a share above 0 and below 1, got 1"),
        (["distortion=[]"], "distortion must name what a chip may do, distortion=weight_bits for example"),
        (["distortion=jiter"], "there is no distortion 'jiter'"),
        (["distortion=gain_std,gain_std"], "distortion must name different ones, got gain_std, gain_std"),
        (["split=train"], "split must be test or validation, got train, which the networks have learnt"),
        (["replicas=1"], "replicas must be from 2, which have a spread, to 1000, got 1"),
        (["seeds=3"], "seeds must be from replicas=5 to 1000, got 3"),
        (["resolution=1"], "resolution must be above 1 and at most 4, got 1"),
        (["map=true"], "map=true draws two distortions, got 1"),
        (["values=[[1,2],[3,4]]"], "values must be two lists of different numbers, two at least"),
        (["run=there", "train=none"], "train=none trains, run=there is trained: leave one of them out"),
        (["train=never"], "train"),
        (["split=tst"], "split"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_is_refused_in_one_line(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        question([*USUAL, *given])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", ["[[1,2]]", "[[1],[2,3]]", "[[1,1],[2,3]]", "[[a,b],[2,3]]", "[1,2]"])
def test_values_of_a_map_are_two_lists_of_numbers(values: str) -> None:
    with pytest.raises(ConfigError, match="values must be two lists"):
        question(["accuracy=0.5", "distortion=weight_bits,spike_jitter", "map=true", f"values={values}"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["-m", *USUAL], "gpuspike-need takes KEY=VALUE, got -m"),
        (["weight_bits", *USUAL], "gpuspike-need takes KEY=VALUE, got weight_bits"),
        (["--accuracy=0.9", "distortion=gain_std"], "values are given without dashes: accuracy=0.9"),
        ([*USUAL, "resume=somewhere"], "gpuspike-need goes on by itself, got resume; leave it out"),
        ([*USUAL, "experiment=robustness/spike_jitter"], "asks of one experiment, got a sweep of 5"),
        ([*USUAL, "training.epoch=3"], "epoch"),
        (["acuracy=0.9", "distortion=gain_std"], "and those of a run; did you mean accuracy?"),
        ([*USUAL, "zebra=1"], "there is no key zebra; valid keys: accuracy, distortion,"),
        ([*USUAL, "run=nowhere"], "no run at nowhere"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_is_refused(given: list[str], words: str) -> None:
    with pytest.raises(GpuspikeError) as caught:
        read(given)
    assert words in str(caught.value)


def test_a_command_line_goes_to_the_question_and_to_the_training() -> None:
    asked, made, experiment = read([*SMALL, *USUAL, "replicas=3", "train=population", "seed=7"])
    assert (asked.distortion, asked.train.value, asked.replicas) == (["spike_jitter"], "population", 3)
    assert (made.seed, made.replicas, made.training.epochs, experiment) == (7, 3, 3, "yin_yang_best")


# ---- the search, on a bench whose accuracies are known


class Known:
    """A bench whose networks lose what the distortion takes, and spread a little."""

    def __init__(self, mean: Any, spread: float = 0.002, least: float = 0.0, most: float = np.inf) -> None:
        self.config = SimpleNamespace(substrate=substrate_config())
        self.asked: list[tuple[float | None, int]] = []
        self._mean, self._spread, self._least, self._most = mean, spread, least, most
        self.kept = False

    def check(self, changes: Mapping[str, Any]) -> None:
        value = self._value(changes)
        if value is not None and not self._least <= value <= self._most:
            raise ValueRangeError(f"{value} cannot be")

    def examined(self, changes: Mapping[str, Any], count: int, split: str, label: str = "") -> Reached:
        assert split == "test"
        assert label
        value = self._value(changes)
        self.asked.append((value, count))
        noise = self._spread * np.random.default_rng(0).standard_normal(1000)[:count]
        return Reached(self._mean(value) + noise - noise.mean(), 1.0, self.kept)

    @staticmethod
    def _value(changes: Mapping[str, Any]) -> float | None:
        for key in ("spike_jitter", "weight_bits", "lost_inputs"):
            if key in changes:
                return float(changes[key]) or None
        return changes["weight_max"][0] if changes.get("weight_max") else None


ASKED = Question(accuracy=0.9, replicas=5, seeds=20, resolution=1.1, split="test")


def found(bench: Any, name: str, asked: Question = ASKED) -> Border:
    return search(bench, axis(name), asked, lambda *_: None)


def test_the_search_for_a_share_ends_at_1() -> None:
    border = found(Known(lambda value: 0.95, most=1.0), "lost_inputs")
    assert [point.value for point in border.points] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert (border.enough, border.too_much) == (1.0, None)
    border = found(Known(lambda value: 0.95 if value is None or value < 1.0 else 0.1), "lost_inputs")
    assert max(point.value or 0.0 for point in border.points) == border.too_much == 1.0


@pytest.mark.parametrize("at", [0.003, 0.05, 0.1, 0.37, 5.0])
def test_the_search_finds_a_border_that_is_known(at: float) -> None:
    bench = Known(lambda value: 0.95 if value is None else 0.95 - 0.05 * value / at)
    border = found(bench, "spike_jitter")
    assert border.enough is not None
    assert border.too_much is not None
    assert border.enough < at < border.too_much * 1.02
    assert (
        border.too_much / border.enough < 1.25
    )  # what is undecided about the border is believed to be too much
    assert [point.value for point in border.points] == sorted(p.value for p in border.points)  # type: ignore
    assert len(border.points) <= 14


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7, 11])
def test_the_search_finds_the_least_bits(bits: int) -> None:
    near = 0.95 - 1e-6  # of the accuracy without it, not the same
    bench = Known(lambda value: 0.95 if value is None else near if value >= bits else 0.8, least=2, most=24)
    border = found(bench, "weight_bits")
    assert border.enough == bits
    assert border.too_much == (bits - 1 if bits > 2 else None)
    assert all(float(value).is_integer() for value, _ in bench.asked if value)
    words = f"{bits - 1} is too little" if bits > 2 else "and no value that is not has been found"
    assert border.told() == f"weight_bits: {bits} is borne, {words}"


def test_the_search_ends_where_no_chip_can_be_milder() -> None:
    bench = Known(lambda value: 0.95 if value is None or value >= 20 else 0.8, least=2, most=24)
    border = found(bench, "weight_bits")
    assert border.enough is not None
    assert border.too_much is not None
    assert border.too_much < 20 <= border.enough <= 1.1 * border.too_much
    none = found(Known(lambda value: 0.95 if value is None else 0.8, least=2, most=24), "weight_bits")
    assert none.told() == "weight_bits: 24 is too little, and no value that is borne has been found"
    assert [point.value for point in none.points] == [4, 8, 16, 24]
    assert all(point.verdict != REFUSED for point in [*none.points, *border.points])


def test_what_changes_nothing_is_not_called_borne() -> None:
    border = found(Known(lambda value: 0.95), "spike_jitter")
    words = f"spike_jitter: it changes nothing here, not a bit of the accuracy at {len(border.points)} values"
    assert border.told() == words


def test_an_accuracy_that_rises_is_told() -> None:
    falls = found(Known(lambda value: 0.95 - 0.5 * (value or 0.0)), "spike_jitter")
    assert falls.rises(1000) == ""
    helps = found(Known(lambda value: 0.92 if value is None else 0.98 - 0.5 * value), "spike_jitter")
    assert helps.rises(300) == ""  # other samples would move it as far
    assert helps.rises(10_000) == (
        f"; but accuracy does not only fall: 92.00 % at off, "
        f"{98 - 50 * helps.points[0].value:.2f} % at {helps.points[0].value:g}: there may be other borders"  # type: ignore[operator]
    )
    known = {4: 0.85, 8: 0.8}
    bits = found(Known(lambda value: known.get(value, 0.95), least=2, most=24), "weight_bits")
    assert ": 80.00 % at 8, 85.00 % at 4" in bits.rises(1000)


def test_what_was_known_before_is_told_as_kept() -> None:
    bench = Known(lambda value: 0.9)
    assert not examine(bench, [axis("spike_jitter")], [0.1], ASKED).kept  # type: ignore[arg-type]
    bench.kept = True
    assert examine(bench, [axis("spike_jitter")], [0.1], ASKED).kept  # type: ignore[arg-type]


def test_what_a_distortion_needs_is_there_where_it_is_off() -> None:
    clipped = Known(lambda value: 0.8)  # whatever the bits, as weights within the range have it
    border = found(clipped, "weight_bits")
    assert border.points == []
    assert border.told() == "weight_bits: not even without it is the accuracy reached"
    unsure = Border(axis("weight_bits"), Point(None, UNDECIDED, np.zeros(4)), [], None, None)
    assert unsure.told().endswith("certainly reached; more than 4 seeds may settle it")
    assert unsure.told("chips").endswith("more than 4 chips may settle it")
    assert axis("weight_bits").changes(vars(substrate_config()), None)["weight_max"] == [3.0]


def test_what_the_range_alone_costs_is_told() -> None:
    border = found(Known(lambda value: 0.926), "weight_bits")
    added, alone = {"weight_max": [3.0]}, Reached(np.array([0.98, 0.98]), 0.0)
    told = need_answer._alone(border, alone, added)
    assert told == "; weight_max=[3.0] alone has 92.60 %, and 98.00 without it"
    assert need_answer._alone(border, Reached(border.off.accuracy, 0.0), added) == ""


def test_the_search_finds_a_least_range() -> None:
    border = found(Known(lambda value: 0.95 if value is None or value > 0.7 else 0.5), "weight_range")
    assert border.too_much is not None
    assert border.enough is not None
    assert border.too_much <= 0.7 < border.enough
    assert border.enough / border.too_much <= 1.11


def test_what_no_value_reaches_and_what_every_value_does() -> None:
    none = found(Known(lambda value: 0.95 if value is None else 0.5), "spike_jitter")
    assert (none.enough, len(none.points)) == (None, 9)
    assert none.told().startswith(
        "spike_jitter: 0.00039 is too much, and no value that is borne has been found"
    )
    every = found(Known(lambda value: 0.95 - 1e-6 * (value or 0.0)), "spike_jitter")
    assert (every.too_much, every.enough) == (None, 25.6)
    assert every.told() == "spike_jitter: 25.6 is borne, and no value that is not has been found"
    bounded = found(Known(lambda value: 0.95, most=1.0), "spike_jitter")
    assert bounded.told().endswith("is no value that a chip can have")
    assert bounded.enough is not None
    assert 0.9 < bounded.enough <= 1.0


def test_a_network_that_fails_without_the_distortion_is_not_searched() -> None:
    border = found(Known(lambda value: 0.8), "spike_jitter")
    assert border.points == []
    assert border.told() == "spike_jitter: not even without it is the accuracy reached"
    near = found(Known(lambda value: 0.9, 0.01), "spike_jitter")
    words = "not even without it is the accuracy certainly reached; more than 20 seeds may settle it"
    assert near.told() == f"spike_jitter: {words}"


def test_seeds_are_added_while_a_value_is_undecided_up_to_the_budget() -> None:
    bench = Known(lambda value: 0.9)
    point = examine(bench, [axis("spike_jitter")], [0.1], ASKED)  # type: ignore[arg-type]
    assert point.verdict == UNDECIDED
    assert bench.asked == [(0.1, 5), (0.1, 10), (0.1, 15), (0.1, 20)]
    bench = Known(lambda value: 0.9)
    asked = Question(0.9, 4, 6, 1.1, "test")
    assert examine(bench, [axis("spike_jitter")], [0.1], asked).verdict == UNDECIDED  # type: ignore[arg-type]
    assert bench.asked == [(0.1, 4), (0.1, 6)]
    alone = Known(lambda value: 0.9)
    examine(alone, [axis("spike_jitter")], [0.1], ASKED, decided=False)  # type: ignore[arg-type]
    assert alone.asked == [(0.1, 5)]


def test_the_verdict_is_right_as_often_as_it_says() -> None:
    """A mean at the accuracy itself: looked at four times, it is called something in at most 5 % of cases."""
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(2000):
        seeds = 0.9 + 0.01 * rng.standard_normal(20)
        verdicts = [decide(seeds[:count], ASKED, ASKED.looks)[0] for count in (5, 10, 15, 20)]
        wrong += any(verdict != UNDECIDED for verdict in verdicts)
    assert 0.01 < wrong / 2000 < 0.05
    verdict, (low, high) = decide(np.array([0.95, 0.96, 0.94]), ASKED, 1)
    reach = 4.302652729911275 * 0.01 / np.sqrt(3)
    assert (low, high) == pytest.approx((0.95 - reach, 0.95 + reach), rel=1e-9)
    assert verdict == REACHED
    assert decide(np.array([0.5, 0.6, 0.55]), ASKED, 1)[0] == MISSED


def test_a_map_has_a_row_for_each_value_of_the_second() -> None:
    bench, said = Known(lambda value: 0.95, least=3), []
    axes = axis("weight_bits"), axis("spike_jitter")
    drawn = draw_map(bench, axes, ([6, 3], [0.2, 0.1, 0.05]), ASKED, lambda pair, _: said.append(pair))  # type: ignore[arg-type]
    assert drawn.values == ([3.0, 6.0], [0.05, 0.1, 0.2])
    assert [len(row) for row in drawn.points] == [2, 2, 2]
    assert said[:3] == [(3.0, 0.05), (6.0, 0.05), (3.0, 0.1)]
    assert [point["value"] for point in drawn.plain()["points"]] == [list(pair) for pair in said]
    refused = [point for row in drawn.points for point in row if point.verdict == REFUSED]
    assert len(refused) == 6  # the bench takes the jitter for the value, which is below its least
    assert np.isnan(drawn.means()).all()


def test_rows_of_a_page() -> None:
    told = rows(
        [
            {"value": None, "verdict": REACHED, "mean": 0.95, "interval": [0.94, 0.96]}
            | {"accuracy": [0.94, 0.96, 0.95]},
            {
                "value": 0.1,
                "verdict": REACHED,
                "mean": 0.95,
                "interval": [0.95, 0.95],
                "accuracy": [0.95] * 5,
            },
            {"value": [2, 0.1], "verdict": REFUSED, "reason": "no"},
        ]
    )
    assert told == [
        ("off", "3", "95.00 %", "94.00 % to 96.00 %", "reached"),
        ("0.1", "5, all alike", "95.00 %", "95.00 % to 95.00 %", "reached"),
        ("2, 0.1", "-", "-", "-", "refused: no"),
    ]


def test_figures_of_borders_and_maps() -> None:
    off = {"value": None, "mean": 0.95}
    points = [
        {"value": v, "verdict": "reached", "mean": m, "interval": [m - 0.01, m + 0.01], "accuracy": [m, m]}
        for v, m in ((0.1, 0.95), (0.2, 0.9))
    ]
    refused = {"value": 0.4, "verdict": REFUSED, "reason": "no"}
    found = {"off": off, "points": [*points, refused], "enough": 0.1, "too_much": 0.2}
    drawn = plots.border(found, 0.92, "jitter", "test", whole=False).axes[0]
    assert drawn.get_xscale() == "log"
    labels = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert labels == ["asked for", "without it", "border"]
    alone = {"off": off, "points": [], "enough": None, "too_much": None}
    assert plots.border(alone, 0.92, "bits", "test", whole=True).axes[0].get_xlim()
    means = np.array([[0.8, 0.95], [0.7, np.nan]])
    pair = plots.pair(means, ([2, 3], [0.1, 0.2]), 0.9, ("bits", "jitter"), "test").axes[0]
    assert [text.get_text() for text in pair.texts] == ["80.0", "95.0", "70.0"]
    contours = [c for c in pair.collections if type(c).__name__ == "QuadContourSet"]
    assert len(contours) == 1
    assert not plots.pair(means - 0.5, ([2, 3], [0.1, 0.2]), 0.9, ("a", "b"), "test").axes[0].collections
    unsure = np.array([[False, True], [False, False]])
    hatched = plots.pair(means, ([2, 3], [0.1, 0.2]), 0.9, ("bits", "jitter"), "test", unsure).axes[0]
    assert [patch.get_xy() for patch in hatched.patches] == [(0.5, -0.5)]
    assert [text.get_text() for text in hatched.get_legend().get_texts()] == ["undecided"]
    assert pair.get_legend() is None
    nothing = np.full((2, 2), np.nan)
    assert not plots.pair(nothing, ([2, 3], [0.1, 0.2]), 0.9, ("a", "b"), "test").axes[0].texts


# ---- the bench


def counted(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds of each training from now on."""
    seeds: list[list[int]] = []
    train = benches.Bench._train

    def watched(self: Bench, parts: Any, label: str) -> Any:
        seeds.append(parts.seeds)
        return train(self, parts, label)

    monkeypatch.setattr(Bench, "_train", watched)
    return seeds


@pytest.mark.parametrize("training", [Training.LOOP, Training.POPULATION, Training.NONE])
def test_seeds_are_computed_once_and_how_many_at_once_changes_nothing(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = axis("mismatch").changes(vars(config().substrate), 0.1)
    seeds = counted(monkeypatch)
    some = Bench(config("seed=3"), training, tmp_path / "some", quiet(), together=2)
    first = some.examined(changes, 2, "test")
    three = some.examined(changes, 3, "test").accuracy
    assert seeds == [[3, 4], [5]]
    np.testing.assert_array_equal(three[:2], first.accuracy)
    again = Bench(config("seed=3"), training, tmp_path / "some", quiet(), together=7)
    np.testing.assert_array_equal(again.examined(changes, 3, "test").accuracy, three)
    assert again.examined(changes, 3, "validation").accuracy.shape == (3,)
    assert len(seeds) == 2
    at_once = Bench(config("seed=3"), training, tmp_path / "once", quiet(), together=3)
    np.testing.assert_array_equal(at_once.examined(changes, 3, "test").accuracy, three)
    assert len(set(three)) > 1


def test_networks_without_a_chip_are_trained_once_for_all_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = counted(monkeypatch)
    bench = Bench(config("substrate.spike_jitter=0.01"), Training.NONE, tmp_path, quiet(), together=2)
    one, present = axis("threshold_std"), vars(bench.config.substrate)
    far = bench.examined(one.changes(present, 0.5), 2, "test").accuracy
    off = bench.examined(one.changes(present, None), 2, "test").accuracy
    assert seeds == [[0, 1]]
    assert off.mean() > far.mean()


def test_trainings_differ(tmp_path: Path) -> None:
    changes = {"threshold_std": 0.3}
    each = [
        Bench(config("training.epochs=15"), training, tmp_path, quiet(), together=2)
        .examined(changes, 2, "test")
        .accuracy.tolist()
        for training in (Training.LOOP, Training.POPULATION, Training.NONE)
    ]
    assert len({tuple(one) for one in each}) == 3
    assert len(list((tmp_path / "points").glob("*.json"))) == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two networks."""
    folder = tmp_path_factory.mktemp("need") / "run"
    patch = pytest.MonkeyPatch()
    patch.setattr(runs, "draw", lambda *_: {})
    runs.run(config("replicas=2"), "test", folder, quiet())
    patch.undo()
    return folder


def test_a_run_s_networks_are_examined_chip_by_chip(run: Path, tmp_path: Path) -> None:
    asked, made, experiment = read([*USUAL, f"run={run}", "chip_seed=11", "backend=cpu"])
    assert (experiment, made.chip_seed, made.replicas) == (str(run), 11, 2)
    bench = Bench(made, Training.RUN, tmp_path, quiet(), run=run, together=2)
    changes = axis("threshold_std").changes(vars(made.substrate), 0.2)
    three = bench.examined(changes, 3, "test").accuracy
    later = Bench(read([*USUAL, f"run={run}", "chip_seed=13"])[1], Training.RUN, tmp_path, quiet(), run=run)
    assert later.examined(changes, 1, "test").accuracy[0] == three[2]
    off = bench.examined({"threshold_std": 0.0}, 2, "test").accuracy
    told = json.loads((run / "summary.json").read_text())["accuracy"]["test"]["mean"]
    assert off.tolist() == [pytest.approx(told)] * 2
    assert asked.run == str(run)


@pytest.mark.parametrize("text", ["seed=4", "training.epochs=5", "substrate.spike_jitter=0.1"])
def test_a_run_keeps_its_values(run: Path, text: str) -> None:
    with pytest.raises(
        ConfigError, match="has its own values, but for backend, chip_seed, plugin; got " + text
    ):
        read([*USUAL, f"run={run}", text])


def test_a_run_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(DataError, match="no checkpoint"):
        Bench(config(), Training.RUN, tmp_path / "out", quiet(), run=tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"accuracy": [{"test": 2}], "seconds": 1}', '{"accuracy": []}'])
def test_a_damaged_point_is_refused(text: str, tmp_path: Path) -> None:
    bench = Bench(config(), Training.LOOP, tmp_path, quiet(), together=2)
    (tmp_path / "points").mkdir()
    path = tmp_path / "points" / f"{bench._name(bench._examined({}))}.json"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot be read, remove it to compute it again"):
        bench.examined({}, 2, "test")


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "points").write_text("")
    bench = Bench(config(), Training.LOOP, tmp_path, quiet(), together=2)
    with pytest.raises((OutputError, DataError), match="points"):
        bench.examined({}, 2, "test")


# ---- the answer


def ask(folder: Path, *given: str) -> tuple[dict[str, Any], str]:
    """The whole command but for its process; the answer and the screen."""
    asked, made, experiment = read([*SMALL, f"folder={folder}", "replicas=2", "seeds=4", *given])
    console = quiet()
    told = answer(asked, made, experiment, console, given)
    return told, console.file.getvalue()  # type: ignore[attr-defined]


def test_an_answer_has_a_table_a_file_figures_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "MOST_STEPS", 2)
    given = ["accuracy=0.05", "distortion=weight_bits,dead_neurons", "train=none", "training.epochs=15"]
    told, screen = ask(tmp_path, *given)
    stem = "weight_bits_dead_neurons_none_5"
    assert json.loads((tmp_path / f"{stem}.json").read_text()) == told
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"{stem}_weight_bits.png",
        f"{stem}_dead_neurons.png",
    }
    page = (tmp_path / f"{stem}.html").read_text()
    for border in told["borders"]:
        assert border["told"] in screen
        assert border["told"] in page
        assert border["off"]["seeds"] >= 2
    assert told["question"]["split"] == "test"
    assert told["wall_s"] > 0
    assert "networks trained without a chip; test split; 2 to 4 seeds a value" in screen
    seeds = counted(monkeypatch)
    again, screen = ask(tmp_path, *given)
    assert seeds == []
    assert screen.count(", kept") == sum(1 + len(border["points"]) for border in told["borders"])
    assert [b["points"] for b in again["borders"]] == [b["points"] for b in told["borders"]]
    told, _ = ask(tmp_path, *given, "split=validation")
    assert (tmp_path / f"{stem}_validation.json").is_file()


def test_another_question_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(need_answer, "drawn", lambda *_: {})
    monkeypatch.setattr(Bench, "examined", lambda *_: Reached(np.zeros(2), 0.0))
    given = ["accuracy=0.65", "distortion=spike_jitter", "substrate.gain_std=0.1", "chip_seed=7"]
    told, _ = ask(tmp_path, *given)
    asked = told["question"]
    assert (asked["substrate"], asked["chip_seed"], asked["epochs"], asked["n_train"]) == (
        "ideal with gain_std=0.1", 7, 3, 600,  # 300, and each of them turned
    )  # fmt: skip
    page = (tmp_path / "spike_jitter_loop_65.html").read_text()
    assert "ideal with gain_std=0.1" in page
    assert f"<td>{told['command']}</td>" in page
    assert told["command"].startswith("gpuspike-need accuracy=0.65 ")
    ask(tmp_path, *given, "backend=reference")  # the same question
    assert len(list(tmp_path.glob("*.json"))) == 1
    others = ["substrate.gain_std=0.2", "chip_seed=8", "training.epochs=4", "seeds=6", "replicas=3"]
    for text in others:
        ask(tmp_path, *given, text)
        ask(tmp_path, *given, text)
    assert len(list(tmp_path.glob("spike_jitter_loop_65_*.json"))) == len(others)
    assert json.loads((tmp_path / "spike_jitter_loop_65.json").read_text())["question"] == asked


def test_a_map_is_drawn(tmp_path: Path) -> None:
    told, screen = ask(
        tmp_path, "accuracy=0.4", "distortion=weight_bits,weight_range", "map=true", "train=none",
        "values=[[2,6],[1,4]]",
    )  # fmt: skip
    assert [point["value"] for point in told["map"]["points"]] == [[2, 1], [6, 1], [2, 4], [6, 4]]
    assert (tmp_path / "map_weight_bits_weight_range_none_40_map.png").is_file()
    assert "- is certainly below 40 %, ? is undecided" in screen
    page = (tmp_path / "map_weight_bits_weight_range_none_40.html").read_text()
    assert "<th>weight_bits, weight_range</th>" in page


def test_the_direction_of_a_distortion_that_has_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0 or more .* got -0.1; did you mean distortion=spike_jitter"):
        ask(tmp_path, "accuracy=0.5", "distortion=-spike_jitter")


@pytest.mark.parametrize("name", ["lost_inputs", "dead_neurons", "stuck_synapses"])
def test_a_negative_share_is_refused_with_the_question(name: str) -> None:
    told = f"{name} has no negative numbers: it lies from 0 to 1, got distortion=-{name}; did you mean {name}"
    with pytest.raises(ConfigError, match=told):
        question(["accuracy=0.5", f"distortion=-{name}"])


def test_a_search_that_is_stopped_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "examine", stopped)
    with pytest.raises(KeyboardInterrupt, match=f"kept in {tmp_path}, the same command goes on"):
        ask(tmp_path, "accuracy=0.5", "distortion=spike_jitter")


def test_what_no_chip_can_have_is_refused_before_any_work(tmp_path: Path) -> None:
    asked, made, experiment = read([*USUAL, *SMALL, "substrate.max_neurons=3", f"folder={tmp_path / 'out'}"])
    with pytest.raises(ConfigError, match="has 3 neurons, got a network with 23"):
        answer(asked, made, experiment, quiet())
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    code = "from gpuspike.cli.need import need; need()"
    done = subprocess.run(
        [sys.executable, "-c", code, "accuracy=95", "distortion=weight_bits"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpuspike-need: error: accuracy must be a share")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_usual_values_are_those_of_the_schema() -> None:
    told = question(USUAL)
    assert vars(told) == vars(NeedConfig(accuracy=0.5, distortion=["spike_jitter"]))
    assert plugins.loaded() == []
    assert isinstance(axis("gain_std"), Axis)
