"""The layers of a NIR graph, one behind the other: populations of neurons, and what connects them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from gpuspike.errors import DataError
from gpuspike.exchange.graph import Graph, Node
from gpuspike.exchange.maps import MAPS, Signal

MOST_WAYS = 100_000
"""Nodes met on all ways through a graph: more are a mistake, or a file that is meant to take for ever."""


@dataclass(frozen=True)
class Layer:
    """A population of neurons and what it receives.

    Attributes:
        node: its neurons;  synapse: the LI node before them, None where they have synapses of their own.
        size: how many neurons.
        signal: from the layer before, or from the inputs;  bias: from further Input nodes, by their names.
    """

    node: Node
    synapse: Node | None
    size: int
    signal: Signal
    bias: Mapping[str, Signal]


@dataclass(frozen=True)
class Chain:
    """Layers in their order.

    Attributes:
        input: the network's Input node;  n_in: its neurons.
        output: name of the Output node, None without one.
    """

    input: Node
    n_in: int
    layers: tuple[Layer, ...]
    output: str | None


def chain(graph: Graph, neurons: Collection[str], bias: Collection[str] = ()) -> Chain:
    """The layers of a graph.

    Args:
        neurons: kinds of nodes that are neurons.
        bias: names of the Input nodes that bring bias spikes.

    Raises:
        DataError: a node that is none of a chain, by its name.
    """
    walk = _Walk(graph, neurons)
    for node in graph.nodes.values():
        if node.kind == "Input":
            walk.start(node, node.shape())
    for name in graph.nodes:
        if name not in walk.met:
            raise DataError(f"{graph.nodes[name]} must get something from an Input node, got nothing")
    order = _in_order(walk)
    inputs = {node.name for node in graph.nodes.values() if node.kind == "Input"}
    for name in bias:
        if name not in inputs:
            raise DataError(
                f"bias spikes must be those of Input nodes, {', '.join(sorted(inputs))}, got {name!r}"
            )
    for name in sorted(inputs):
        fed = [target for source, target in walk.signals if source == name]
        if len(fed) != 1:
            raise DataError(f"{graph.nodes[name]} must lead to one layer, got {' and '.join(fed) or 'none'}")
    layers, main = [], None
    for number, name in enumerate(order):
        sources = [source for source, target in walk.signals if target == name]
        own = [s for s in sources if s in inputs and s not in bias]
        before = own[:1] if number == 0 else order[number - 1 : number]
        if not before:
            raise DataError(f"{graph.nodes[name]} must get an input beside bias spikes, got none")
        if further := [s for s in own if s not in before]:
            raise DataError(
                f"{graph.nodes[name]}: of its Input nodes {', '.join(map(repr, own))} only the first layer's "
                "first is the network's; "
                f"bias_times must have the times of the others, got none for {further[0]!r}"
            )
        main = before[0] if number == 0 else main
        signal = walk.signals[before[0], name]
        synapses = {walk.signals[source, name].synapse for source in sources}
        if len(synapses) != 1:
            raise DataError(
                f"{graph.nodes[name]} must get all its input by one LI node, got {len(synapses)} ways"
            )
        synapse = synapses.pop()
        layers.append(
            Layer(
                graph.nodes[name],
                None if synapse is None else graph.nodes[synapse],
                signal.size,
                signal,
                {s: walk.signals[s, name] for s in sources if s in bias},
            )
        )
    assert main is not None
    output = _output(graph, walk, order[-1])
    return Chain(graph.nodes[main], layers[0].signal.n_source, tuple(layers), output)


class _Walk:
    """All ways from each population to the next ones.

    Attributes:
        signals: by the names of source and target;  outputs: of the Output nodes, and who leads there.
        met: names of all nodes that something reaches.
    """

    def __init__(self, graph: Graph, neurons: Collection[str]) -> None:
        self.graph, self.neurons = graph, neurons
        self.signals: dict[tuple[str, str], Signal] = {}
        self.outputs: list[tuple[str, str]] = []
        self.met: set[str] = set()
        self._started: set[str] = set()
        self._ways = 0

    def start(self, node: Node, shape: tuple[int, ...]) -> None:
        """Follows the spikes of a population, and of those that it reaches first."""
        waiting = [(node, shape)]
        while waiting:
            source, own = waiting.pop(0)
            if source.name in self._started:
                continue
            self._started.add(source.name)
            size = 1
            for n in own:
                size *= n
            waiting += self._follow(source, Signal(size, own))

    def _follow(self, source: Node, signal: Signal) -> list[tuple[Node, tuple[int, ...]]]:
        self.met.add(source.name)
        reached: list[tuple[Node, tuple[int, ...]]] = []
        stack: list[tuple[Node, Signal, tuple[str, ...]]] = [(source, signal, (source.name,))]
        while stack:
            here, signal, way = stack.pop()
            after = list(self.graph.after(here.name))
            if not after and here.kind not in self.neurons:
                raise DataError(f"{here} must lead somewhere, got no edge from it")
            for node in after:
                self._ways += 1
                if self._ways > MOST_WAYS:
                    raise DataError(f"{self.graph.place} has more than {MOST_WAYS} ways through its nodes")
                self.met.add(node.name)
                if signal.synapse is not None and node.kind != "IF":
                    raise DataError(f"{here} must lead to IF neurons alone, got {node}")
                if node.kind in self.neurons and not self._is_synapse(node):
                    reached.append((node, self._arrive(source, node, signal)))
                elif node.kind == "Output":
                    self._leave(source, here, node, signal)
                elif node.name in way:
                    raise DataError(
                        f"{node} is in a circle without a neuron: {' to '.join((*way, node.name))}"
                    )
                elif self._is_synapse(node):
                    _size(node, signal)
                    stack.append((node, replace(signal, synapse=node.name), (*way, node.name)))
                elif node.kind in MAPS:
                    stack.append((node, MAPS[node.kind](node, signal), (*way, node.name)))
                else:
                    raise DataError(f"{node} cannot be run: {_why(node, self.neurons)}")
        return reached

    def _is_synapse(self, node: Node) -> bool:
        """Whether an LI node is the synapses of IF neurons."""
        return node.kind == "LI" and any(after.kind == "IF" for after in self.graph.after(node.name))

    def _arrive(self, source: Node, node: Node, signal: Signal) -> tuple[int, ...]:
        shape = _size(node, signal)
        known = self.signals.get((source.name, node.name))
        if known is not None:
            if signal.delayed_by or known.delayed_by or signal.synapse != known.synapse:
                raise DataError(f"{node} must get the spikes of {source.name!r} once, got them by two ways")
            signal = replace(signal, matrix=known.weights + signal.weights)
        others = [s.size for (_, target), s in self.signals.items() if target == node.name]
        if others and others[0] != signal.size:
            raise DataError(f"{node} must get as much from all sides, got {others[0]} and {signal.size}")
        self.signals[source.name, node.name] = signal
        return shape

    def _leave(self, source: Node, here: Node, node: Node, signal: Signal) -> None:
        if signal.matrix is not None or source.kind == "Input":
            raise DataError(f"{here} must lead to neurons, got {node}: what leaves are spikes")
        if signal.delayed_by:
            raise DataError(f"Delay node {signal.delayed_by[-1]!r} must lead to neurons, got {node}")
        self.outputs.append((source.name, node.name))


def _size(node: Node, signal: Signal) -> tuple[int, ...]:
    """The shape of a population; that of its input where its parameters are single numbers.

    Raises:
        DataError: parameters for another number of neurons.
    """
    largest: tuple[int, ...] = ()
    for name in node.values:
        array = node.array(name)
        if array.size == 0:
            raise DataError(f"{node}: {name} must be one or {signal.size} numbers, got none")
        if array.size > 1:
            if array.size != signal.size:
                raise DataError(
                    f"{node}: {name} must be one or {signal.size} numbers, got shape {array.shape}"
                )
            largest = array.shape
    return largest or signal.shape


def _why(node: Node, neurons: Collection[str]) -> str:
    known = f"neurons are {', '.join(neurons)}, maps {', '.join(kind for kind in MAPS if kind != 'Door')}"
    if node.kind in ("LIF", "IF", "I"):
        return f"it has no synapse, where a spike's current decays; {known}"
    if node.kind in ("LI", "CubaLI"):
        return f"it never spikes; {known}"
    return known


def _in_order(walk: _Walk) -> list[str]:
    """Names of the populations, from the inputs on.

    Raises:
        DataError: spikes that come back, or a population that is not in one row with the others.
    """
    nodes = walk.graph.nodes
    between = [(s, t) for s, t in walk.signals if nodes[s].kind != "Input"]
    names = list(dict.fromkeys(target for _, target in walk.signals))
    if not names:
        raise DataError(f"{walk.graph.place} must have neurons, got none")
    left = list(names)
    while True:  # what neither begins nor ends a way is on a circle
        gone = [n for n in left if not any(t == n and s in left for s, t in between)]
        gone += [n for n in left if not any(s == n and t in left for s, t in between)]
        if not gone:
            break
        left = [n for n in left if n not in gone]
    if left:
        raise DataError(
            f"{nodes[left[0]]} must not be recurrent, got spikes of {' and '.join(left)} that come back"
        )
    for name in names:
        after = [t for s, t in between if s == name]
        before = [s for s, t in between if t == name]
        for many, where in ((after, "behind"), (before, "before")):
            if len(many) > 1:
                told = " and ".join(many)
                raise DataError(f"{nodes[name]} must stand in one row of layers, got {told} {where} it")
    first = [n for n in names if all(t != n for _, t in between)]
    if len(first) > 1:
        raise DataError(f"the layers must stand in one row, got two that begin one, {' and '.join(first)}")
    order = first[:1]
    while after := [t for s, t in between if s == order[-1]]:
        order.append(after[0])
    return order


def _output(graph: Graph, walk: _Walk, last: str) -> str | None:
    for source, target in walk.outputs:
        if source != last:
            raise DataError(f"{graph.nodes[target]} must follow the last layer, {last!r}, got {source!r}")
    if len(walk.outputs) > 1:
        raise DataError(
            f"there must be one Output node, got {' and '.join(name for _, name in walk.outputs)}"
        )
    return walk.outputs[0][1] if walk.outputs else None
