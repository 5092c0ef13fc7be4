"""Addressed randomness: the same address the same numbers, another address others, for ever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuspike.rng import Purpose, restart, stream

FROZEN_BITS = {
    Purpose.WEIGHTS: [13175769691850529721, 4834229738541971843, 15567954553192097011],
    Purpose.SHUFFLE: [7185938632037355422, 4697881519951256175, 12803972620946133132],
    Purpose.INPUT_NOISE: [13634275110944753519, 2687588103731825140, 10712960892416753291],
    Purpose.AUGMENTATION: [11410937175745198146, 16760797935535216573, 356515897769759145],
    Purpose.CHIP: [5383288749345300027, 16583447865879283561, 6441400324505401186],
    Purpose.INPUT_JITTER: [8502840262910616613, 1225983228821419856, 7512916776405208655],
    Purpose.LOST_INPUTS: [6833826259517501639, 16288414418077936726, 8957065338577590727],
    Purpose.THRESHOLD_NOISE: [7315019670846470591, 8616765546056245353, 2478950024655036585],
    Purpose.SPIKE_JITTER: [374768735560038860, 16048530313592019271, 15336132173203567937],
    Purpose.LOST_SPIKES: [4973187289616794924, 17797736778155569090, 10549033868072627984],
    Purpose.DELAYS: [9434988032201741474, 7365647838494493932, 88957858355080891],
    Purpose.OWN_TRIALS: [6660324571287310068, 14062696559493473593, 10959036544852515415],
}
FROZEN_NORMAL = {
    Purpose.WEIGHTS: [-1.4013755752179868, -0.1501484822715546, 2.0974444092878],
    Purpose.INPUT_NOISE: [-1.2973972244078156, -0.467343003994049, 1.0405296772673285],
    Purpose.CHIP: [0.3541370567709338, -0.26505391425928737, -1.0586230141878226],
}
FROZEN_ORDER = [3, 1, 0, 5, 7, 2, 4, 6]
"""First numbers at seed 7, first 2, second 3. Results hang on them: they are never adjusted to the code."""

each_purpose = pytest.mark.parametrize("purpose", Purpose)


def bits(seed: int, purpose: Purpose, first: int = 0, second: int = 0, n: int = 4) -> list[int]:
    """The first words at an address, before any distribution."""
    return stream(seed, purpose, first, second).bit_generator.random_raw(n).tolist()


def test_every_purpose_is_frozen_here() -> None:
    assert set(FROZEN_BITS) == set(Purpose)


def test_the_numbers_of_the_purposes_never_change() -> None:
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "WEIGHTS": 1,
        "SHUFFLE": 2,
        "INPUT_NOISE": 3,
        "AUGMENTATION": 4,
        "CHIP": 5,
        "INPUT_JITTER": 6,
        "LOST_INPUTS": 7,
        "THRESHOLD_NOISE": 8,
        "SPIKE_JITTER": 9,
        "LOST_SPIKES": 10,
        "DELAYS": 11,
        "OWN_TRIALS": 255,
    }


@each_purpose
def test_the_words_of_a_stream_never_change(purpose: Purpose) -> None:
    assert bits(7, purpose, 2, 3, n=3) == FROZEN_BITS[purpose]


@pytest.mark.parametrize("purpose", FROZEN_NORMAL)
def test_the_normal_numbers_of_a_stream_never_change(purpose: Purpose) -> None:
    numbers = stream(7, purpose, 2, 3).standard_normal(3)
    np.testing.assert_allclose(numbers, FROZEN_NORMAL[purpose], rtol=1e-15)


def test_the_shuffle_of_an_address_never_changes() -> None:
    assert stream(7, Purpose.SHUFFLE, 2, 3).permutation(8).tolist() == FROZEN_ORDER


@each_purpose
def test_the_same_address_gives_the_same_numbers_whatever_was_drawn_before(purpose: Purpose) -> None:
    expected = bits(3, purpose, 5, 1)
    stream(3, purpose, 5, 0).standard_normal(1001)
    stream(3, purpose, 5, 1).standard_normal(1001)
    assert bits(3, purpose, 5, 1) == expected


def test_every_address_has_its_own_numbers() -> None:
    coordinates = (0, 1, 2, 2**32, 2**63 - 1)
    addresses = list(itertools.product(coordinates, Purpose, coordinates, coordinates))
    words = [word for address in addresses for word in bits(*address)]
    # 64-bit words: a chance repetition among a few thousand has odds of 1e-12.
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("step", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "first", "second"])
def test_a_long_stream_never_runs_into_its_neighbour(step: tuple[int, int, int]) -> None:
    here = np.asarray(bits(4, Purpose.SHUFFLE, 4, 4, n=100_000), np.uint64)
    seed, first, second = (4 + s for s in step)
    assert not np.isin(bits(seed, Purpose.SHUFFLE, first, second), here).any()


@pytest.mark.parametrize("step", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "first", "second"])
def test_neighbouring_streams_are_not_correlated(step: tuple[int, int, int]) -> None:
    n = 10_000
    here = stream(4, Purpose.INPUT_NOISE, 4, 4).standard_normal(n)
    seed, first, second = (4 + s for s in step)
    there = stream(seed, Purpose.INPUT_NOISE, first, second).standard_normal(n)
    # Independent columns correlate by 1/sqrt(n) = 0.01: five standard deviations.
    assert abs(np.corrcoef(here, there)[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_every_seed_that_a_run_may_have_gives_a_stream(seed: int) -> None:
    assert np.isfinite(stream(seed, Purpose.WEIGHTS).standard_normal(3)).all()


@pytest.mark.parametrize("seed", [0, 5, 2**63])
def test_a_restarted_generator_is_a_new_one(seed: int) -> None:
    own = stream(seed, Purpose.AUGMENTATION)
    own.integers(3, size=7)  # leaves half a number
    for first, second in ((0, 0), (3, 7), (2**40, 1)):
        new = stream(seed, Purpose.AUGMENTATION, first, second).integers(3, size=(2, 33))
        np.testing.assert_array_equal(restart(own, first, second).integers(3, size=(2, 33)), new)
