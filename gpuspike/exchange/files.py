"""Layers of neurons to NIR files and out of them; `gpuspike.api.nir` makes networks of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import DataError, OutputError
from gpuspike.exchange import dialects
from gpuspike.exchange.chain import Layer, chain
from gpuspike.exchange.graph import keep_others, library, read
from gpuspike.exchange.units import Scale, as_given
from gpuspike.neuron import LIF

Array = NDArray[Any]

SPIKE_TIMES = "spike_times"
"""Of an Input node of bias spikes, in its metadata."""
_UNIT, _DIALECT = "gpuspike_time_unit", "gpuspike_dialect"


@dataclass(frozen=True)
class PlainLayer:
    """A layer in a network's unit of time.

    Attributes:
        name: of its neurons' node.
        weights: (n_pre, n_post), the rows of bias spikes last.
        neuron: (n_post,) arrays or numbers.
        bias_times: of the bias spikes, in the order of their rows.
        axonal, dendritic: (n_pre,) and (n_post,) delays; None: none.
    """

    name: str
    weights: Array
    neuron: LIF
    bias_times: tuple[float, ...]
    axonal: Array | None = None
    dendritic: Array | None = None


def read_layers(
    source: Any,
    dialect: str,
    scale: Scale,
    bias_times: Mapping[str, Sequence[float]] | None = None,
    capacitance: float | None = None,
) -> list[PlainLayer]:
    """The layers of a NIR file, or of a nir.NIRGraph.

    Args:
        bias_times: of Input nodes that bring bias spikes, in the network's unit; None: as the file's metadata
            has them, if it does.
        capacitance: that all neurons shall have, weights scaled to it; None: weights as the file has them.

    Raises:
        DataError: a node that cannot be run, by its name.
    """
    dialects.check(dialect)
    graph = read(source)
    _agree(graph.metadata, _UNIT, scale.unit, graph.place)
    _agree(graph.metadata, _DIALECT, dialect, graph.place)
    given: dict[str, Any] = dict(bias_times or {})
    for node in graph.nodes.values():
        if node.kind == "Input" and node.name not in given and SPIKE_TIMES in node.metadata:
            given[node.name] = np.atleast_1d(node.metadata[SPIKE_TIMES]) / scale.one
    found = chain(graph, dialects.RUN, given)
    return [_plain(layer, dialect, scale, given, capacitance) for layer in found.layers]


def _agree(metadata: Mapping[str, Any], key: str, given: Any, place: str) -> None:
    """Refuses what contradicts a file's own words; a file need not have any."""
    said = metadata.get(key)
    if said is not None and said != given:
        before, now = (as_given(float(v)) if isinstance(v, Real) else v for v in (said, given))
        name = key.removeprefix("gpuspike_")
        raise DataError(f"{place} was written with {name}={before}, got {now}")


def _plain(
    layer: Layer,
    dialect: str,
    scale: Scale,
    bias_times: Mapping[str, Sequence[float]],
    capacitance: float | None,
) -> PlainLayer:
    signals = {None: layer.signal} | dict(layer.bias)
    axonal, dendritic = _delays(layer, list(signals.values()), scale)
    rows, times = [layer.signal.weights], []
    for name, signal in layer.bias.items():
        own = np.asarray(bias_times[name], np.float64).ravel()
        if own.size != signal.n_source or not np.isfinite(own).all():
            raise DataError(
                f"Input node {name!r} must have {signal.n_source} finite times of bias spikes, got {own.size}"
            )
        rows.append(signal.weights)
        times += own.tolist()
    weights = rows[0] if len(rows) == 1 else np.concatenate(rows)
    neuron = dialects.neuron_of(layer.node, layer.synapse, dialect, scale)
    if capacitance is not None:
        weights = weights * (capacitance / np.asarray(neuron.capacitance))
        neuron = LIF(neuron.tau_mem, neuron.tau_syn, neuron.threshold, neuron.leak, float(capacitance))
    weights = np.ascontiguousarray(weights)
    return PlainLayer(layer.node.name, weights, neuron, tuple(times), axonal, dendritic)


def _delays(layer: Layer, signals: Sequence[Any], scale: Scale) -> tuple[Array | None, Array | None]:
    """Delays of a layer's inputs and of its neurons, in the network's unit; None where all are 0."""

    def own(delay: Array | None, n: int) -> Array:
        return np.zeros(n) if delay is None else delay / scale.one

    axonal = np.concatenate([own(signal.axonal, signal.n_source) for signal in signals])
    behind = [own(signal.dendritic, signal.size) for signal in signals]
    if any((one != behind[0]).any() for one in behind):
        names = ", ".join(repr(name) for signal in signals for name in signal.delayed_by)
        raise DataError(
            f"Delay nodes behind the weights of {layer.node.name!r} must be the same for its spikes and its "
            f"bias spikes, got other delays from {names}"
        )
    return axonal if axonal.any() else None, behind[0] if behind[0].any() else None


def write_layers(path: Path, layers: Sequence[PlainLayer], dialect: str, scale: Scale) -> None:
    """Writes layers to a NIR file, which has its name once it is whole.

    Raises:
        ConfigError: neurons that the dialect has no words for.
        OutputError: the file cannot be written, or one of another kind would be lost.
    """
    keep_others(path)
    nir = library()
    graph = nir_graph(layers, dialect, scale)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.unlink(missing_ok=True)
        nir.write(partial, graph)
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise OutputError(f"cannot write {path}: {reason}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def nir_graph(layers: Sequence[PlainLayer], dialect: str, scale: Scale) -> Any:
    """Layers as a nir.NIRGraph.

    Raises:
        ConfigError: neurons that the dialect has no words for.
    """
    nir = library()
    dialects.check(dialect)
    n_in = len(layers[0].weights) - len(layers[0].bias_times)
    nodes: dict[str, Any] = {"input": nir.Input(input_type=np.array([n_in]))}
    edges, before = [], "input"
    for k, layer in enumerate(layers):
        n_pre, n = layer.weights.shape
        told = dialects.written(layer.neuron, n, dialect, scale, f"layer {k}")
        weights = layer.weights
        if (told.factor != 1.0).any():
            weights = (weights * told.factor).astype(weights.dtype)
        n_own, goal = n_pre - len(layer.bias_times), f"lif_{k}"
        nodes[f"linear_{k}"] = nir.Linear(weight=np.ascontiguousarray(weights[:n_own].T))
        ways = [(before, f"linear_{k}")]
        if layer.bias_times:
            times = np.array(layer.bias_times) * scale.one
            nodes[f"bias_{k}"] = nir.Input(input_type=np.array([len(times)]), metadata={SPIKE_TIMES: times})
            nodes[f"bias_linear_{k}"] = nir.Linear(weight=np.ascontiguousarray(weights[n_own:].T))
            ways.append((f"bias_{k}", f"bias_linear_{k}"))
        if told.synapse is not None:
            nodes[f"synapse_{k}"] = nir.LI(**told.synapse)
            edges.append((f"synapse_{k}", goal))
        nodes[goal] = nir.CubaLIF(**told.values) if told.synapse is None else nir.IF(**told.values)
        there = goal if told.synapse is None else f"synapse_{k}"
        axonal = [None] * 2 if layer.axonal is None else np.split(layer.axonal, [n_own])
        for (source, linear), before_it in zip(ways, axonal, strict=False):
            way = [source, linear, there]
            for place, delay in ((2, layer.dendritic), (1, before_it)):
                if delay is not None:
                    way.insert(place, f"delay_{'behind' if place == 2 else 'before'}_{linear}")
                    nodes[way[place]] = nir.Delay(np.asarray(delay, np.float64) * scale.one)
            edges += pairwise(way)
        before = goal
    nodes["output"] = nir.Output(output_type=np.array([layers[-1].weights.shape[1]]))
    edges.append((before, "output"))
    return nir.NIRGraph(nodes, edges, metadata={_UNIT: scale.unit, _DIALECT: dialect})
