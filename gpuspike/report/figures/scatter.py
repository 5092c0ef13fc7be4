"""Scatters of a sweep's jobs as SVG for a page: small, and each point tells what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gpuspike.report.page import readable

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 48
"""Margins of the drawing, in units of its view box."""


@dataclass(frozen=True)
class Point:
    """A job in a scatter.

    Attributes:
        job: its name.
        x: from low to high, equal unless it is a band.
        y: accuracy in 0..1; y_std: its deviation or None.
        told: what to say of it.
    """

    job: str
    x: tuple[float, float]
    y: float
    y_std: float | None
    told: str


def scatter(points: Sequence[Point], x_name: str, unit: str) -> str:
    """Accuracy of the points against some x.

    Args:
        points: one or more, x positive.
        x_name: what x is; unit: its SI unit, "J" or "s".
    """
    low, high = min(p.x[0] for p in points), max(p.x[1] for p in points)
    logarithmic = low > 0 and high > 10 * low
    # Over decades each tick has a prefix of its own.
    factor, prefix = (1.0, "") if logarithmic else _scale(high)
    xs = _Axis(low * factor, high * factor, LEFT, WIDTH - RIGHT, logarithmic)
    x_ticks = [(tick, readable(tick, unit) if logarithmic else f"{tick:.4g}") for tick in xs.ticks()]
    spreads = [(p.y - (p.y_std or 0.0), p.y + (p.y_std or 0.0)) for p in points]
    bottom, top = max(0.0, min(s[0] for s in spreads)), min(1.0, max(s[1] for s in spreads))
    ys = _Axis(100 * bottom, 100 * top, HEIGHT - BOTTOM, TOP, False)
    lines = [_grid(xs, x_ticks, ys, x_name if logarithmic else f"{x_name} ({prefix}{unit})")]
    for point, spread in zip(points, spreads, strict=True):
        left, right = (xs.at(value * factor) for value in point.x)
        middle, y = (left + right) / 2, ys.at(100 * point.y)
        bars = ""
        if right - left > 1:
            bars += f'<path d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
        if point.y_std:
            below, above = (ys.at(100 * min(max(value, 0.0), 1.0)) for value in spread)
            bars += f'<path d="M{middle:.1f} {below:.1f}V{above:.1f}"/>'
        lines.append(
            f'<g class="point" tabindex="0" data-job="{escape(point.job)}">'
            f'<title>{escape(point.told)}</title>{bars}<circle cx="{middle:.1f}" cy="{y:.1f}" r="4.5"/></g>'
        )
    name = escape(f"Test accuracy against {x_name}")
    return (
        f'<svg class="scatter" role="group" aria-label="{name}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(lines)}</svg>"
    )


class _Axis:
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


def _scale(value: float) -> tuple[float, str]:
    """What to multiply SI units with so that a value is 1 to 1000, and the prefix then."""
    scales = ((1.0, ""), (1e3, "m"), (1e6, "µ"), (1e9, "n"), (1e12, "p"))
    return next(((factor, prefix) for factor, prefix in scales if value * factor >= 1.0), scales[-1])


def _grid(xs: _Axis, x_ticks: Sequence[tuple[float, str]], ys: _Axis, x_name: str) -> str:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick, text in x_ticks:
        x = xs.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{escape(text)}</text>')
    for tick in ys.ticks():
        y = ys.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.5g}</text>')
    middle = (TOP + floor) / 2
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">test accuracy (%)</text>'
    )
    return "".join(parts)
