"""A network on many chips: each is the chip that it is alone, and the yield is as counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import binomtest

from gpuspike.config.schema import jobs
from gpuspike.errors import DataError
from gpuspike.report.evaluation_page import population_lines
from gpuspike.runs import population
from gpuspike.runs.experiment import Experiment, build, new_trainer
from gpuspike.runs.progress import plain
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.evaluation import Labelled, evaluate

SMALL = ["experiment=yin_yang_bss2", "model.hidden=[12]", "dataset.n_test=40", "replicas=2", "seed=3"]


@pytest.fixture(scope="module")
def parts() -> Experiment:
    """Two small networks for the chip, not trained."""
    (job,) = jobs(SMALL, multirun=False)
    return build(job.config)


@pytest.fixture(scope="module")
def data(parts: Experiment) -> Labelled:
    """The test split."""
    test = parts.dataset.test
    return Labelled(parts.network.receive(parts.encode(test.features)), test.labels)


@pytest.mark.parametrize("most", [1, 5_000, 1 << 22])
def test_how_chips_are_taken_together_changes_nothing(
    parts: Experiment, data: Labelled, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = new_trainer(parts).weights
    monkeypatch.setattr(population, "MOST_SPIKES", most)
    reached = population.accuracies(parts, weights, data, 7, 3)
    for replica in range(2):
        for chip in range(3):
            alone = parts.on_chip([7 + chip])
            own = [w[replica : replica + 1] for w in weights]
            assert reached[replica, chip] == evaluate(alone, own, data, parts.loss, 11).accuracy[0]


def test_the_yield_counted_by_hand() -> None:
    told = population.yields(np.array([[0.5, 0.9, 0.7, 0.8], [0.4, 0.6, 1.0, 0.8]]))
    assert told["chips"] == 4
    assert told["mean"] == pytest.approx(0.7125)
    assert (told["worst"], told["median"], told["best"]) == (0.4, pytest.approx(0.75), 1.0)
    # The chips' means over replicas are 0.45, 0.75, 0.85, 0.8; Student's quantile for three degrees is 3.182.
    reach = 3.182446 * np.std([0.45, 0.75, 0.85, 0.8], ddof=1) / 2
    assert told["mean_interval"] == pytest.approx([0.7125 - reach, 0.7125 + reach], rel=2e-3)
    assert told["yield"]["1"] == pytest.approx(0.45)  # all four
    assert told["yield"]["0.75"] == pytest.approx(0.75)
    assert told["yield"]["0.5"] == pytest.approx(0.8)
    assert told["yield"]["0.1"] == pytest.approx(0.85)
    assert told["yield_interval"]["0.75"] == list(population.share_interval(3, 4))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 19, 999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9875, 0.999])
def test_student_s_quantile_is_scipy_s(freedom: int, confidence: float) -> None:
    quantile = float(stdtrit(freedom, 0.5 + confidence / 2))
    assert population.student(freedom, confidence) == pytest.approx(quantile, rel=1e-9)


@pytest.mark.parametrize(
    ("count", "of"), [(0, 5), (3, 4), (1, 1), (100, 100), (99, 100), (50, 100), (990, 1000)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_share_is_scipy_s(count: int, of: int, confidence: float) -> None:
    known = binomtest(count, of).proportion_ci(confidence, "exact")
    assert population.share_interval(count, of, confidence) == pytest.approx(
        (known.low, known.high), abs=1e-9
    )


def test_a_band_is_the_interval_of_each_count() -> None:
    ends = population.band(4)
    assert ends[:, 0].tolist() == [1, 2, 3, 4]
    assert ends[2, 1:].tolist() == list(population.share_interval(3, 4))
    assert population.band(1000).shape == (100, 3)


def test_one_chip_has_no_deviation() -> None:
    assert population.yields(np.array([[0.5]]))["mean_interval"] is None
    assert population.yields(np.array([[0.5]]))["std"] is None


EVERYTHING = Substrate(
    weight_max=(2.0,),
    gain_std=0.1,
    dead_synapses=0.1,
    stuck_synapses=0.1,
    dead_neurons=0.2,
    threshold_std=0.5,
    tau_mem_std=0.2,
    tau_syn_std=0.2,
)


def test_a_kept_chip_is_the_one_that_was_drawn(parts: Experiment, data: Labelled, tmp_path: Path) -> None:
    network, weights = parts.network, new_trainer(parts).weights
    first, other = (
        EmulatedChip(EVERYTHING, network.layers, network.kernels, seeds) for seeds in ([0, 1], [5, 6])
    )
    np.savez(tmp_path / "chip.npz", **first.arrays())  # pyright: ignore[reportArgumentType]
    with np.load(tmp_path / "chip.npz") as kept:
        other.take(kept)
    for machine, again in zip(
        OnChip(network, first).forward(weights, data.received),
        OnChip(network, other).forward(weights, data.received),
        strict=True,
    ):
        np.testing.assert_array_equal(machine.t_out, again.t_out)


def test_a_kept_chip_that_does_not_fit_is_refused(parts: Experiment) -> None:
    chip = EmulatedChip(EVERYTHING, parts.network.layers, parts.network.kernels, [0, 1])
    arrays = chip.arrays()
    gain = arrays.pop("gain_0")
    with pytest.raises(DataError, match=r"must have gain_0 of shape \(2, 25, 12\), got \(0,\)"):
        chip.take(arrays)
    with pytest.raises(DataError, match=r"must have gain_0 of shape \(2, 25, 12\), got \(1, 25, 12\)"):
        chip.take(arrays | {"gain_0": gain[:1]})


SEEN = "what training was on, not unseen, and so nothing is told of all such chips"


@pytest.mark.parametrize(
    ("trained_on", "words"),
    [
        ([5], [f"chip 5 is {SEEN}: chip_seed=6 leaves it out"]),
        ([4, 5, 6], [f"chips 5 to 6 are {SEEN}: chip_seed=7 leaves them out"]),
        ([4], []),
        ([], []),
    ],
)
def test_chips_that_training_has_seen_are_told(trained_on: list[int], words: list[str]) -> None:
    asked = {"chips": 3, "first_seed": 5, "per_replica_and_chip": [[0.5] * 3], "trained_on": trained_on}
    assert population_lines(asked) == ["chips 5 to 7", *words, "these chips answer alike: one is enough"]


@pytest.mark.parametrize("seen", [False, True])
def test_all_such_chips_are_told_of_by_unseen_ones_alone(seen: bool) -> None:
    told = population.yields(np.array([[0.5, 0.7, 0.8]])) | {"first_seed": 5}
    lines = population_lines(plain(told | {"trained_on": [7] if seen else [4, 8]}))
    assert any("the mean over all such chips lies between" in line for line in lines) != seen
    assert sum(line.endswith("% of all such chips") for line in lines) == (0 if seen else 3)
    assert sum("of 3 reach" in line for line in lines) == 3
    assert (f"chip 7 is {SEEN}: chip_seed=8 leaves it out" in lines) == seen


def test_chips_that_answer_alike_are_said_to() -> None:
    alike = {"chips": 3, "first_seed": 5, "per_replica_and_chip": [[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]]}
    assert population_lines(alike) == [
        "chips 5 to 7, each with the networks of 2 replicas",
        "these chips answer alike: one is enough",
    ]


def test_an_interval_of_shares_lies_among_shares() -> None:
    assert population.mean_interval(np.array([0.1, 0.9])) == [0.0, 1.0]


def test_what_several_counts_reach_is_told_of_the_most_chips() -> None:
    told = population.yields(np.array([[0.5, 0.5, 0.5, 0.8, 0.2]]))
    lines = population_lines(told | {"first_seed": 0})
    assert sum("reach 50.00 %" in line for line in lines) == 1
    assert any(line.strip().startswith("4 of 5 reach 50.00 %") for line in lines)
