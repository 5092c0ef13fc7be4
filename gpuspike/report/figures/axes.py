"""Axes of the drawings of a sweep: where a value stands, and the lines behind the points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from gpuspike.report.page import is_number

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 48
"""Margins of a drawing, in units of its view box."""

MOST_TICKS = 9


class Axis:
    """From values to places in the drawing, with a little room at the ends."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool) -> None:
        self._map = math.log10 if logarithmic else float
        self._logarithmic, self._start, self._end = logarithmic, start, end
        first, last = self._map(low), self._map(high)
        span = last - first or abs(first) * 0.2 or 1.0
        self._low = first - (0.06 * span if last > first else span / 2)
        self._high = last + (0.06 * span if last > first else span / 2)

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (self._map(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round numbers, about five."""
        if self._logarithmic:
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            steps = (1, 2, 5) if self._high - self._low < 2 else (1,)
            every = max(1, len(decades) // 6) if len(steps) == 1 else 1
            values = [step * 10.0**decade for decade in decades[::every] for step in steps]
            return [value for value in values if self._low <= math.log10(value) <= self._high]
        rough = (self._high - self._low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
        first = math.ceil(self._low / step)
        return [k * step for k in range(first, math.floor(self._high / step) + 1)]


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether values are quantities, inf among them; truth values, words and lists are none."""
    return all(isinstance(value, float | int) and not isinstance(value, bool) for value in values)


class Values:
    """The values that a sweep gave to a key, along the lower edge: as numbers where they are some.

    Numbers stand on a logarithmic axis where their ratios are more even than their differences, inf beyond
    them and, on such an axis, 0 before them. Words and lists stand side by side.

    Args:
        values: each once.
        texts: of each, as its user would type it.

    Attributes:
        numeric: they are quantities.
    """

    def __init__(self, values: Sequence[Any], texts: Sequence[str]) -> None:
        self._places: dict[str, float] = {}
        self.numeric = numeric = are_numbers(values)
        order = list(zip(values, texts, strict=True))
        if numeric:
            order.sort(key=lambda pair: pair[0])
        finite = [float(value) for value, _ in order if numeric and is_number(value)]
        self.logarithmic = _even_in_ratios([value for value in finite if value > 0])
        scaled = [value for value in finite if value > 0 or not self.logarithmic]
        if len(scaled) < 2:
            scaled = []
        start, end = float(LEFT), float(WIDTH - RIGHT)
        room = (end - start) / (len(order) + 1)
        axis = None
        if scaled:
            before = sum(1 for value, _ in order if value < scaled[0])
            after = sum(1 for value, _ in order if value > scaled[-1])
            axis = Axis(scaled[0], scaled[-1], start + before * room, end - after * room, self.logarithmic)
        for k, (value, text) in enumerate(order):
            if axis is None:
                self._places[text] = start + (k + 1) * room
            elif scaled[0] <= value <= scaled[-1]:
                self._places[text] = axis.at(float(value))
            else:
                self._places[text] = start + room / 2 if value < scaled[0] else end - room / 2

    def at(self, text: str) -> float:
        """The place of a value, by its text."""
        return self._places[text]

    def ticks(self) -> list[tuple[float, str]]:
        """Values with room for their texts, from left to right."""
        shown: list[tuple[float, str]] = []
        for text, place in sorted(self._places.items(), key=lambda item: item[1]):
            half = 3.4 * len(text) + 2
            if not shown or place - half > shown[-1][0] + 3.4 * len(shown[-1][1]) + 2:
                shown.append((place, text))
        return shown


def _even_in_ratios(values: Sequence[float]) -> bool:
    """Whether positive numbers in ascending order look like steps of a logarithmic scale."""
    if len(values) < 2:
        return False
    if len(values) == 2:
        return values[1] >= 10 * values[0]
    steps = [after - before for before, after in pairwise(values)]
    ratios = [math.log(after / before) for before, after in pairwise(values)]
    return max(ratios) / min(ratios) < max(steps) / min(steps) and values[-1] >= 4 * values[0]


def grid(x_ticks: Sequence[tuple[float, str]], ys: Axis, x_name: str, y_name: str) -> str:
    """Lines, ticks and names of a drawing.

    Args:
        x_ticks: places and texts along the lower edge.
    """
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for x, text in x_ticks:
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{escape(text)}</text>')
    for tick in ys.ticks():
        y = ys.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.5g}</text>')
    middle = (TOP + floor) / 2
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>'
    )
    return "".join(parts)


def accuracy_axis(low: float, high: float) -> Axis:
    """The vertical axis of accuracies in 0..1, counted in per cent."""
    return Axis(100 * max(0.0, low), 100 * min(1.0, high), HEIGHT - BOTTOM, TOP, False)


def svg(name: str, inside: str, height: float = HEIGHT) -> str:
    """A drawing as wide as its place."""
    return (
        f'<svg class="drawing" role="group" aria-label="{escape(name)}" viewBox="0 0 {WIDTH} {height:g}">'
        f"{inside}</svg>"
    )


NAME_WIDTH = 5.6
"""Of a letter of a job's name, about."""


def job_name(name: str, x: float, y: float) -> str:
    """A job's name beside its mark: right of it where it has room there, else left."""
    side, shift = ("end", -6) if x + 6 + NAME_WIDTH * len(name) > WIDTH else ("start", 6)
    return (
        f'<text class="name" x="{x + shift:.1f}" y="{y - 5:.1f}" text-anchor="{side}">{escape(name)}</text>'
    )


def point(jobs: Sequence[str], told: str, inside: str, style: str = "") -> str:
    """Marks that tell what they are, and whose rows of the table they belong to."""
    names = escape("/".join(jobs))  # which no folder has in its name
    return (
        f'<g class="point {style}" tabindex="0" data-jobs="{names}"><title>{escape(told)}</title>{inside}</g>'
    )
