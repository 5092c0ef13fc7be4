"""Who is connected to whom in a NIR graph of any neurons: what the accountant needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from gpuspike.exchange.chain import chain
from gpuspike.exchange.files import SPIKE_TIMES
from gpuspike.exchange.graph import read

Array = NDArray[Any]

ANY = ("CubaLIF", "LIF", "IF", "CubaLI", "LI", "I")
"""Kinds of neurons: all that NIR has, those without spikes too."""


@dataclass(frozen=True)
class Row:
    """Populations one behind the other.

    Attributes:
        names: of their nodes, the Input first.
        matrices: (n_pre, n_post) from each to the next.
        bias: of each layer, matrices of further Input nodes by their names.
    """

    names: list[str]
    matrices: list[Array]
    bias: list[Mapping[str, Array]]


def populations(source: Any) -> Row:
    """The populations of a NIR file, or of a nir.NIRGraph; further Input nodes as `export_nir` writes them.

    Raises:
        DataError: a graph that is not one row of layers, by the name of a node.
    """
    graph = read(source)
    # A constant current is the neurons' own business: here it only matters where spikes go.
    nodes = {name: replace(node, values=_without(node.values, "bias")) for name, node in graph.nodes.items()}
    graph = replace(graph, nodes=nodes)
    bias = [n.name for n in graph.nodes.values() if n.kind == "Input" and SPIKE_TIMES in n.metadata]
    found = chain(graph, ANY, bias)
    return Row(
        [found.input.name, *(layer.node.name for layer in found.layers)],
        [layer.signal.weights for layer in found.layers],
        [{name: signal.weights for name, signal in layer.bias.items()} for layer in found.layers],
    )


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
