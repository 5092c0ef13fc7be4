"""Which neurons do not spike, on which classes, and since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.names import BESIDE, as_texts, letters
from gpuspike.report.figures.run import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 5
"""Layers that are shown, the first ones."""

NO_SAMPLE = "#f3d9c4"
"""Colour of a class that no sample is of."""

NAMED, SHORT = 20, 8
"""Classes that are named one by one; letters of a name that leave a title its line."""


def silent_since(records: Sequence[Mapping[str, Any]], replica: int = 0) -> list[dict[int, int]]:
    """Of each layer, the epoch since which neurons spike for no validation sample, by their number.

    Args:
        records: lines of metrics.jsonl, with "never_spiking"; older ones have none.
    """
    known = [record for record in records if record.get("never_spiking")]
    if not known:
        return []
    going = [set(of_layer[replica]) for of_layer in known[-1]["never_spiking"]]
    found: list[dict[int, int]] = [{} for _ in going]
    for record in reversed(known):
        epoch = int(record["epoch"])
        for since, still, of_layer in zip(found, going, record["never_spiking"], strict=True):
            still &= set(of_layer[replica])
            since.update({neuron: epoch for neuron in still})
        if not any(going):
            break
    return found


def in_words(never: Mapping[int, int], n: int) -> str:
    """How many of n neurons never spike, and since when."""
    if not never:
        return f"each of {n} spikes for some sample"
    epochs = sorted(never.values())
    when = (
        f"since epoch {epochs[0]}" if epochs[0] == epochs[-1] else f"since epochs {epochs[0]} to {epochs[-1]}"
    )
    return f"{len(never)} of {n} never spike, {when}"


@styled()
def silence(
    shares: Sequence[NDArray[np.float64]], class_names: Sequence[str], never: Sequence[Mapping[int, int]]
) -> Figure:
    """The share of samples of each class for which each neuron is silent, a panel a layer.

    Args:
        shares: of each layer (n_class, n_neuron), in 0..1; NaN, coloured, for a class without samples.
        never: of each layer as `silent_since` tells; empty where nobody knows.
    """
    shares = shares[:PANELS]
    n_class, names = len(class_names), as_texts(class_names, BESIDE)
    # Beside long names a title has less room.
    narrow = n_class <= NAMED and max(map(letters, names), default=0) > SHORT
    height = 0.65 + 0.055 * min(n_class, NAMED) + (0.12 if narrow else 0)
    figure = new_figure(height=0.5 + len(shares) * height)
    panels: Any = np.atleast_1d(figure.subplots(len(shares), 1)) if shares else []
    for number, (axes, share) in enumerate(zip(panels, shares, strict=True)):
        order = np.argsort(np.nanmean(share, axis=0), kind="stable")
        picture = axes.imshow(
            share[:, order], cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        axes.set_facecolor(NO_SAMPLE)
        title = f"hidden {number + 1}"
        if number < len(never):
            title += (":\n" if narrow else ": ") + in_words(never[number], share.shape[1])
        axes.set_title(title, loc="left", pad=3, fontsize=6.5 if narrow else None)
        axes.set_xticks([])
        if n_class <= NAMED:
            axes.set_yticks(range(n_class), names)
        else:
            axes.yaxis.set_major_locator(lazy_matplotlib().ticker.MaxNLocator(integer=True))
            axes.set_ylabel("class")
        axes.tick_params(length=0)
        if number + 1 == len(shares):
            empty = any(np.isnan(each).any() for each in shares)
            usual = "neurons, from the busiest to the most silent"
            axes.set_xlabel("neurons, the busiest first; coloured: no sample" if empty else usual)
            figure.colorbar(picture, ax=list(panels), label="silent", shrink=0.9)
    return figure
