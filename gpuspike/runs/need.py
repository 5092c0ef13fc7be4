"""What a chip may do to a network that has to reach an accuracy: borders of distortions, by a search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import GpuspikeError
from gpuspike.runs.bench import Bench
from gpuspike.runs.population import mean_interval
from gpuspike.substrate.axes import Axis

Array = NDArray[Any]

REACHED, MISSED, UNDECIDED, REFUSED = "reached", "missed", "undecided", "refused"
"""What is known of a value: its interval lies above the accuracy, below it, about it; no chip can have it."""

CONFIDENCE = 0.95
"""Of what is said of one value."""

NOISE = 1.0
"""Deviations of an accuracy over other samples between two intervals from which on one has risen."""

MOST_STEPS = 8
"""Doublings, or halvings, in which a border must be found."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        accuracy: to be reached.
        replicas: seeds that are looked at first, and added while a value is undecided.
        seeds: most of them.
        resolution: ratio of two values between which a border is known well enough.
        split: that is examined.
    """

    accuracy: float
    replicas: int
    seeds: int
    resolution: float
    split: str

    @property
    def looks(self) -> int:
        """How often a value is looked at, at most."""
        return -(-self.seeds // self.replicas)


@dataclass(frozen=True)
class Point:
    """What is known of a value, or of a pair of them.

    Attributes:
        value: None: off.
        accuracy: of each seed.
        interval: of the mean over all seeds and chips of the kind.
        reason: why no chip can have it, where it is REFUSED.
        seconds: that computing it took;  kept: by an earlier command.
    """

    value: float | None
    verdict: str
    accuracy: Array = field(default_factory=lambda: np.empty(0))
    interval: tuple[float, float] = (math.nan, math.nan)
    reason: str = ""
    seconds: float = 0.0
    kept: bool = False

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        told: dict[str, Any] = {"value": self.value, "verdict": self.verdict}
        if self.verdict == REFUSED:
            return told | {"reason": self.reason}
        return told | {
            "seeds": len(self.accuracy),
            "mean": self.accuracy.mean(),
            "interval": list(self.interval),
            "accuracy": self.accuracy,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Border:
    """A search's end.

    Attributes:
        off: the network without the distortion.
        points: that were examined, by their value.
        enough: the worst value that is reached; None: not even the mildest that was tried.
        too_much: the mildest value that is not; None: everything was reached.
    """

    axis: Axis
    off: Point
    points: list[Point]
    enough: float | None
    too_much: float | None

    def told(self, repeats: str = "seeds") -> str:
        """In words; `repeats` are what there are several of at a value."""
        name = self.axis.name
        if self.off.verdict != REACHED:
            more = (
                ""
                if self.off.verdict == MISSED
                else f"; more than {len(self.off.accuracy)} {repeats} may settle it"
            )
            return f"{name}: not even without it is the accuracy {_known(self.off.verdict)}{more}"
        if self.points and all(_same(point, self.off) for point in self.points):
            return f"{name}: it changes nothing here, not a bit of the accuracy at {len(self.points)} values"
        if self.too_much is None:
            return f"{name}: {self.enough:g} is borne, and no value that is not has been found"
        beyond = next(p.verdict for p in self.points if p.value == self.too_much)
        missed = "too little" if self.axis.less_is_worse else "too much"
        words = {MISSED: missed, REFUSED: "no value that a chip can have"}.get(beyond, "undecided")
        if self.enough is None:
            return f"{name}: {self.too_much:g} is {words}, and no value that is borne has been found"
        return f"{name}: {self.enough:g} is borne, {self.too_much:g} is {words}"

    def rises(self, n_samples: int) -> str:
        """That a worse value has a higher accuracy, which the search does not believe; "" where none has.

        Args:
            n_samples: of the split, whose number alone moves an accuracy by so much: less is no rise.
        """
        seen = sorted(
            (point for point in self.points if len(point.accuracy)),
            key=lambda point: point.value or 0.0,
            reverse=self.axis.less_is_worse,
        )
        for milder, worse in itertools.combinations([self.off, *seen], 2):
            if worse.interval[0] > milder.interval[1] + NOISE * _by_chance(milder, n_samples):
                before = "off" if milder.value is None else f"{milder.value:g}"
                return (
                    f"; but accuracy does not only fall: {100 * milder.accuracy.mean():.2f} % at {before}, "
                    f"{100 * worse.accuracy.mean():.2f} % at {worse.value:g}: there may be other borders"
                )
        return ""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "distortion": self.axis.name,
            "keys": dict(self.axis.parts),
            "enough": self.enough,
            "too_much": self.too_much,
            "off": self.off.plain(),
            "points": [point.plain() for point in self.points],
        }


def _by_chance(point: Point, n_samples: int) -> float:
    """Deviation of an accuracy over other samples, as many."""
    mean = float(point.accuracy.mean())
    return math.sqrt(mean * (1.0 - mean) / max(n_samples, 1))


def _same(one: Point, other: Point) -> bool:
    """Whether every seed has the same accuracy, as far as both have been looked at."""
    n = min(len(one.accuracy), len(other.accuracy))
    return n > 0 and bool((one.accuracy[:n] == other.accuracy[:n]).all())


def _known(verdict: str) -> str:
    return "reached" if verdict == MISSED else "certainly reached"


def decide(accuracy: Array, question: Question, looks: int) -> tuple[str, tuple[float, float]]:
    """A verdict, and the interval of the mean that it is from.

    The interval is Student's, and so wide that CONFIDENCE holds of a value that is looked at again each time
    that seeds are added (Bonferroni).

    Args:
        looks: at the value, at most.
    """
    interval = mean_interval(accuracy, 1.0 - (1.0 - CONFIDENCE) / looks)
    assert interval is not None
    low, high = (min(max(end, 0.0), 1.0) for end in interval)  # Student knows of no share's ends
    verdict = REACHED if low > question.accuracy else MISSED if high < question.accuracy else UNDECIDED
    return verdict, (low, high)


def examine(
    bench: Bench,
    axes: Sequence[Axis],
    values: Sequence[float | None],
    question: Question,
    *,
    decided: bool = True,
) -> Point:
    """Looks at a value of an axis, or at one of each of several.

    Args:
        decided: more seeds are added while it is undecided.

    Raises:
        GpuspikeError: a folder that cannot be used.
    """
    changes: dict[str, Any] = {}
    for one, value in zip(axes, values, strict=True):
        changes |= one.changes(vars(bench.config.substrate) | changes, value)
    if all(value is None for value in values):
        bench.check(changes)
    else:
        try:
            bench.check(changes)
        except GpuspikeError as error:
            return Point(values[0], REFUSED, reason=str(error))
    label = ", ".join(f"{one.name} {one.told(value)}" for one, value in zip(axes, values, strict=True))
    n_seeds, kept = question.replicas, True
    while True:
        found = bench.examined(changes, n_seeds, question.split, label)
        kept = kept and found.kept
        verdict, interval = decide(found.accuracy, question, question.looks if decided else 1)
        if verdict != UNDECIDED or not decided or n_seeds >= question.seeds:
            return Point(values[0], verdict, found.accuracy, interval, seconds=found.seconds, kept=kept)
        n_seeds = min(n_seeds + question.replicas, question.seeds)


def search(bench: Bench, axis: Axis, question: Question, on_point: Callable[[Axis, Point], object]) -> Border:
    """The border of a distortion: bracketed by doubling and halving, then bisected on a logarithmic scale.

    It believes that accuracy falls as the distortion grows, and of an undecided value that it is too much.

    Args:
        on_point: called with each point.

    Raises:
        GpuspikeError: an experiment or a folder that cannot be used.
    """
    points: list[Point] = []

    def reached(value: float) -> bool:
        points.append(examine(bench, [axis], [value], question))
        on_point(axis, points[-1])
        return points[-1].verdict == REACHED

    off = examine(bench, [axis], [None], question)
    on_point(axis, off)
    if off.verdict != REACHED:
        return Border(axis, off, points, None, None)
    worse = 0.5 if axis.less_is_worse else 2.0
    value, enough, too_much = float(axis.start), None, None
    for _ in range(MOST_STEPS + 1):
        if reached(value):
            enough = value
            if too_much is not None:
                break
            further = _step(axis, value, worse)
        else:
            too_much = value
            if enough is not None:
                break
            further = _step(axis, value, 1.0 / worse)
        if further == value:  # there is none beyond
            break
        value = further
    while enough is not None and too_much is not None:
        value = _between(axis, enough, too_much)
        if value in (enough, too_much) or _ratio(enough, too_much) <= question.resolution:
            break
        if reached(value):
            enough = value
        else:
            too_much = value
    points.sort(key=lambda point: point.value or 0.0)
    return Border(axis, off, points, enough, too_much)


def _step(axis: Axis, value: float, factor: float) -> float:
    least, most = axis.ends
    value = min(max(value * factor, least), most)
    return float(round(value)) if axis.whole else float(f"{value:.3g}")


def _ratio(one: float, other: float) -> float:
    return max(one, other) / min(one, other)


def _between(axis: Axis, one: float, other: float) -> float:
    """The geometric mean, to three digits or a whole number."""
    mean = math.sqrt(one * other)
    if not axis.whole:
        return float(f"{mean:.3g}")
    inside = range(int(min(one, other)) + 1, int(max(one, other)))
    return float(min(inside, key=lambda number: abs(number - mean), default=int(one)))


@dataclass(frozen=True)
class Map:
    """Two distortions at once.

    Attributes:
        axes: across, and up.
        values: of each.
        points: a row for each value of the second, a point for each of the first.
    """

    axes: tuple[Axis, Axis]
    values: tuple[list[float], list[float]]
    points: list[list[Point]]

    def means(self) -> Array:
        """(n_second, n_first) mean accuracies; NaN where no chip can have the values."""
        return np.array(
            [[p.accuracy.mean() if len(p.accuracy) else np.nan for p in row] for row in self.points]
        )

    def undecided(self) -> NDArray[np.bool_]:
        """(n_second, n_first) where more seeds would have to tell."""
        return np.array([[point.verdict == UNDECIDED for point in row] for row in self.points])

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        cells = [
            point.plain() | {"value": [first, second]}
            for second, row in zip(self.values[1], self.points, strict=True)
            for first, point in zip(self.values[0], row, strict=True)
        ]
        return {"distortions": [one.name for one in self.axes], "values": list(self.values), "points": cells}


def draw_map(
    bench: Bench,
    axes: tuple[Axis, Axis],
    values: tuple[Sequence[float], Sequence[float]],
    question: Question,
    on_point: Callable[[Sequence[float], Point], object],
) -> Map:
    """Looks at each pair of values, with as many seeds as are looked at first.

    Args:
        values: of the axes.
        on_point: called with each pair and its point.

    Raises:
        GpuspikeError: an experiment or a folder that cannot be used.
    """
    bench.check({})
    ordered = sorted(map(float, values[0])), sorted(map(float, values[1]))
    rows: list[list[Point]] = []
    for second in ordered[1]:
        rows.append([])
        for first in ordered[0]:
            rows[-1].append(examine(bench, axes, [first, second], question, decided=False))
            on_point((first, second), rows[-1][-1])
    return Map(axes, ordered, rows)
