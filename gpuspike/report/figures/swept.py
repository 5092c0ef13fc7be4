"""Accuracy against the values of a sweep, as SVG for a page: lines with bands, and a heat map for two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gpuspike.report.figures.axes import (
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Values,
    accuracy_axis,
    are_numbers,
    grid,
    job_name,
    point,
    svg,
)
from gpuspike.report.sweep_results import SEEDS, Outcome, Typed

MOST_LINES = 6
"""Lines with a colour of their own; of more, the best alone has one."""

MOST_NAMES = 30
"""Points of a drawing with the names of their jobs beside them."""

MOST_CELLS = 12
"""Rows and columns of a heat map."""


def _values(found: Sequence[Outcome], key: str) -> Values:
    known: dict[str, Typed] = {outcome.values[key][0]: outcome.values[key] for outcome in found}
    return Values([value for _, value in known.values()], list(known))


def against(found: Sequence[Outcome], key: str, best: Outcome) -> tuple[str, list[tuple[str, str]]]:
    """Test accuracy against the values of a key: a line for each choice of the other keys.

    Bands go from the lowest to the highest replica. `best` is marked. Names are no quantities, nothing lies
    between them: their points stand alone. So do those of a seed, with a dashed line at their mean.

    Returns:
        The drawing, and its legend: classes of lines and what they stand for, none for a single line.
    """
    xs = _values(found, key)
    ys = accuracy_axis(min(o.low for o in found), max(o.high for o in found))
    order = {name: _in_order(found, name) for name in found[0].values if name != key}
    lines: dict[str, list[Outcome]] = {}
    for outcome in sorted(found, key=lambda o: [order[name].index(o.values[name]) for name in order]):
        others = ", ".join(f"{name}={text}" for name, (text, _) in outcome.values.items() if name != key)
        lines.setdefault(others, []).append(outcome)
    if len(lines) <= MOST_LINES:
        styles = {others: f"line{k}" for k, others in enumerate(lines)}
    else:
        styles = {others: "line0" if best in row else "line_other" for others, row in lines.items()}
    parts = [grid([(x, text) for x, text in xs.ticks()], ys, key, "test accuracy (%)")]
    marks = []
    for others, row in lines.items():
        places = sorted((xs.at(o.values[key][0]), o) for o in row)
        ends = [(x, ys.at(100 * o.low), ys.at(100 * o.high)) for x, o in places]
        if key in SEEDS:
            mean = ys.at(100 * sum(o.mean for o in row) / len(row))
            way = f"M{LEFT} {mean:.1f}H{WIDTH - RIGHT}"
            parts.append(f'<path class="line {styles[others]}" stroke-dasharray="5 4" d="{way}"/>')
        elif any(low - high > 1 for _, low, high in ends):
            way = [(x, high) for x, _, high in ends] + [(x, low) for x, low, _ in reversed(ends)]
            if len(ends) > 1 and xs.numeric:
                text = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
                parts.append(f'<polygon class="band {styles[others]}" points="{text}"/>')
            else:
                bars = "".join(f"M{x:.1f} {low:.1f}V{high:.1f}" for x, low, high in ends)
                parts.append(f'<path class="{styles[others]}" d="{bars}"/>')
        way = "".join(
            f"{'L' if k else 'M'}{x:.1f} {ys.at(100 * o.mean):.1f}" for k, (x, o) in enumerate(places)
        )
        if key not in SEEDS and xs.numeric:
            parts.append(f'<path class="line {styles[others]}" d="{way}"/>')
        for x, outcome in places:
            y = ys.at(100 * outcome.mean)
            mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            if len(found) <= MOST_NAMES or outcome is best:
                mark += job_name(outcome.name, x, y)
            style = styles[others] + (" winner" if outcome is best else "")
            marks.append(point(outcome.jobs, outcome.told, mark, style))
    legend = [(styles[others], others) for others in lines if others and styles[others] != "line_other"]
    return svg(f"Test accuracy against {key}", "".join(parts + marks)), legend


def heat_map(found: Sequence[Outcome], across: str, down: str, best: Outcome) -> str | None:
    """Mean test accuracy for two keys, a cell for each pair of values; None where too many or too few."""
    columns, rows = ([text for text, _ in _in_order(found, key)] for key in (across, down))
    sparse = 2 * len(found) <= len(columns) * len(rows)
    if sparse or max(len(columns), len(rows)) > MOST_CELLS or min(len(columns), len(rows)) < 2:
        return None
    left, cell = LEFT + 26, 30
    width = (WIDTH - RIGHT - left) / len(columns)
    cell = max(cell, math.ceil(7 * len(down) / len(rows)))  # its name goes up along all rows
    floor = TOP + cell * len(rows)
    low, high = (pick(o.mean for o in found) for pick in (min, max))
    parts = []
    for outcome in found:
        k, m = columns.index(outcome.values[across][0]), rows.index(outcome.values[down][0])
        x, y = left + k * width, TOP + (len(rows) - 1 - m) * cell
        share = (outcome.mean - low) / (high - low) if high > low else 1.0
        box = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{width - 2:.1f}" height="{cell - 2}" rx="3"'
        text = f"{100 * outcome.mean:.1f}" if width >= 30 else f"{100 * outcome.mean:.0f}"
        inside = (
            f'<rect {box} fill-opacity="{0.06 + 0.5 * share:.2f}"/>'
            f'<text class="cell" x="{x + width / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle">'
            f"{text}</text>"
        )
        parts.append(point(outcome.jobs, outcome.told, inside, "heat winner" if outcome is best else "heat"))
    for k, text in enumerate(columns):
        x = left + (k + 0.5) * width
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{escape(text)}</text>')
    for m, text in enumerate(rows):
        y = TOP + (len(rows) - 0.5 - m) * cell + 4
        parts.append(f'<text x="{left - 6}" y="{y:.1f}" text-anchor="end">{escape(text)}</text>')
    middle = (left + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{floor + 36}" text-anchor="middle">{escape(across)}</text>')
    height = max(floor + 46, 150)
    parts.append(
        f'<text transform="translate(13 {(TOP + floor) / 2:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(down)}</text>"
    )
    return svg(f"Test accuracy for {across} and {down}", "".join(parts), height)


def _in_order(found: Sequence[Outcome], key: str) -> list[Typed]:
    """Values of a key, numbers by size, others as they come."""
    known: dict[str, Typed] = {outcome.values[key][0]: outcome.values[key] for outcome in found}
    numeric = are_numbers(value for _, value in known.values())
    return sorted(known.values(), key=lambda typed: typed[1]) if numeric else list(known.values())
