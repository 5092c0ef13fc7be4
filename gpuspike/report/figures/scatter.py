"""Scatters of a sweep's jobs as SVG for a page: small, and each point tells what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuspike.report.figures.axes import LEFT, RIGHT, WIDTH, Axis, accuracy_axis, grid, job_name, point, svg
from gpuspike.report.page import readable

MOST_NAMES = 30
"""Points of a drawing that have their job's name beside them; of more, those on the front."""


@dataclass(frozen=True)
class Point:
    """A job in a scatter.

    Attributes:
        job: its name.
        x: from low to high, equal unless it is a band.
        y: accuracy in 0..1; y_std: its deviation or None.
        told: what to say of it.
        chip: whose prices x comes from.
    """

    job: str
    x: tuple[float, float]
    y: float
    y_std: float | None
    told: str
    chip: str = ""


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both: a higher accuracy for less, bands by their middles; by x."""
    best: list[Point] = []
    for one in sorted(points, key=lambda point: (sum(point.x), -point.y)):
        if not best or one.y > best[-1].y:
            best.append(one)
    return best


def scatter(points: Sequence[Point], x_name: str, unit: str) -> str:
    """Accuracy of the points against some x, with the front between the two: one for each chip.

    Args:
        points: one or more, x positive.
        x_name: what x is; unit: its SI unit, "J" or "s".
    """
    low, high = min(p.x[0] for p in points), max(p.x[1] for p in points)
    logarithmic = low > 0 and high > 10 * low
    # Over decades each tick has a prefix of its own.
    factor, prefix = (1.0, "") if logarithmic else _scale(high)
    xs = Axis(low * factor, high * factor, LEFT, WIDTH - RIGHT, logarithmic)
    ticks = xs.ticks()
    digits = next((n for n in range(4, 12) if len({f"{tick:.{n}g}" for tick in ticks}) == len(ticks)), 12)
    x_ticks = [(xs.at(tick), readable(tick, unit) if logarithmic else f"{tick:.{digits}g}") for tick in ticks]
    spreads = [(p.y - (p.y_std or 0.0), p.y + (p.y_std or 0.0)) for p in points]
    ys = accuracy_axis(min(s[0] for s in spreads), max(s[1] for s in spreads))
    name = x_name if logarithmic else f"{x_name} ({prefix}{unit})"
    chips = dict.fromkeys(one.chip for one in points)
    fronts = [front([one for one in points if one.chip == chip]) for chip in chips]
    lines, first = [grid(x_ticks, ys, name, "test accuracy (%)")], [one for own in fronts for one in own]

    def place(one: Point) -> tuple[float, float]:
        left, right = (xs.at(value * factor) for value in one.x)
        return (left + right) / 2, ys.at(100 * one.y)

    for own in (own for own in fronts if len(own) > 1):
        way = "".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(map(place, own)))
        lines.append(f'<path class="front" d="{way}"/>')
    for one, spread in zip(points, spreads, strict=True):
        left, right = (xs.at(value * factor) for value in one.x)
        middle, y = place(one)
        bars = ""
        if right - left > 1:
            bars += f'<path d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
        if one.y_std:
            below, above = (ys.at(100 * min(max(value, 0.0), 1.0)) for value in spread)
            bars += f'<path d="M{middle:.1f} {below:.1f}V{above:.1f}"/>'
        bars += f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4.5"/>'
        if len(points) <= MOST_NAMES or one in first:
            bars += job_name(one.job, middle, y)
        lines.append(point([one.job], one.told, bars, "best" if one in first else "beaten"))
    return svg(f"Test accuracy against {x_name}", "".join(lines))


def _scale(value: float) -> tuple[float, str]:
    """What to multiply SI units with so that a value is 1 to 1000, and the prefix then."""
    scales = ((1.0, ""), (1e3, "m"), (1e6, "µ"), (1e9, "n"), (1e12, "p"))
    return next(((factor, prefix) for factor, prefix in scales if value * factor >= 1.0), scales[-1])
