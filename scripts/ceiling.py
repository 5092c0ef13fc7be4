"""What no classifier of Yin-Yang can exceed whose inputs are seen on a time grid.

    python scripts/ceiling.py

Points whose four inputs fall on the same ticks are one to it: of each such set it can at best get the
commonest class right. Counted on a fine lattice, each class as often as the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from gpuspike.config.schema import dataset_values
from gpuspike.datasets.encoding import latency
from gpuspike.datasets.yin_yang import YIN_YANG_CLASSES, yin_yang_class
from gpuspike.kernels.trials import seen

GRIDS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Ticks in tau_syn: those of the atlas."""

FINE = 2000
"""Points of the lattice on a side."""


def ceilings() -> Iterator[tuple[float, int, float]]:
    """Of each grid, how many sets of points it leaves, and the share of points that the best classifier
    of these sets gets right."""
    x, y = np.meshgrid(*[(np.arange(FINE) + 0.5) / FINE] * 2)
    inside = np.hypot(x - 0.5, y - 0.5) <= 0.5
    x, y = x[inside], y[inside]
    labels = yin_yang_class(x, y)
    share = 1.0 / (len(YIN_YANG_CLASSES) * np.bincount(labels))
    values = dataset_values("yin_yang")
    times = latency(np.stack([x, y, 1.0 - x, 1.0 - y], axis=1), values["t_early"], values["t_late"])
    for grid in GRIDS:
        ticks = np.rint(seen(times, grid, np.inf) / grid).astype(np.int64)
        sets, of = np.unique(ticks @ (1000 ** np.arange(4)), return_inverse=True)
        weights = np.bincount(
            len(YIN_YANG_CLASSES) * of + labels, share[labels], len(YIN_YANG_CLASSES) * len(sets)
        )
        yield grid, len(sets), float(weights.reshape(len(sets), -1).max(axis=1).sum())


def main() -> int:
    """Prints a row for each grid."""
    print("| ticks [tau_syn] | sets of points | at most [%] |\n| --- | --- | --- |")
    for grid, sets, reached in ceilings():
        print(f"| {grid} | {sets:,} | {100 * reached:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
