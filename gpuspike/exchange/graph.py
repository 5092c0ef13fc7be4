"""A NIR graph as plain arrays: out of a file or the nir package's objects, graphs within it laid flat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import BackendError, DataError, OutputError

Array = NDArray[Any]

MOST_BYTES = 1 << 31
"""Of one array, in a file or unrolled: a larger one is a mistake, or meant to fill the memory."""

_BEGINS = b"\x89HDF"
"""A NIR file, and any other of HDF5."""

DEEPEST = 50
"""Graphs within graphs."""


@dataclass(frozen=True)
class Node:
    """A node that is no graph.

    Attributes:
        name: with the names of the graphs around it, "block.lif".
        kind: as NIR calls it: "CubaLIF", "Linear", "Input".
        values: its parameters;  metadata: what else stands there.
    """

    name: str
    kind: str
    values: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} node {self.name!r}"

    def array(self, name: str, *, usual: float | None = None) -> Array:
        """A parameter as finite or infinite numbers, float32 or float64.

        Args:
            usual: where the file lacks it; None: refused.

        Raises:
            DataError: it is missing, no numbers, or not a number.
        """
        value = self.values.get(name)
        if value is None:
            if usual is None:
                raise DataError(f"{self} must have {name}, got {', '.join(self.values) or 'nothing'}")
            return np.asarray(usual, np.float64)
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "iufb":
            raise DataError(f"{self}: {name} must be numbers, got {array.dtype}")
        if array.dtype != np.float32:
            array = array.astype(np.float64)
        if np.isnan(array).any():
            raise DataError(f"{self}: {name} must not hold NaN")
        return array

    def whole(self, name: str) -> NDArray[np.int64]:
        """A parameter as whole numbers.

        Raises:
            DataError: as for `array`, or with a fraction.
        """
        array = self.array(name)
        if not (np.isfinite(array).all() and (array % 1 == 0).all() and (np.abs(array) < 2**53).all()):
            raise DataError(f"{self}: {name} must be whole numbers, got {str(array.tolist())[:60]}")
        return array.astype(np.int64)

    def shape(self, name: str = "shape") -> tuple[int, ...]:
        """A parameter as the shape of a signal.

        Raises:
            DataError: as for `whole`, or a size below 1.
        """
        shape = tuple(int(n) for n in self.whole(name).ravel())
        if not shape or min(shape) < 1:
            raise DataError(f"{self}: {name} must be one or more positive sizes, got {shape}")
        return shape


@dataclass(frozen=True)
class Graph:
    """Nodes by name, none of them a graph, and edges between them.

    Attributes:
        metadata: of the outermost graph.
        place: where it is from, for errors.
    """

    nodes: Mapping[str, Node]
    edges: Sequence[tuple[str, str]]
    metadata: Mapping[str, Any]
    place: str

    def after(self, name: str) -> Iterator[Node]:
        """The nodes that a node leads to."""
        return (self.nodes[target] for source, target in self.edges if source == name)

    def before(self, name: str) -> Iterator[Node]:
        """The nodes that lead to a node."""
        return (self.nodes[source] for source, target in self.edges if target == name)


def library() -> ModuleType:
    """The nir package.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise BackendError(
            f"NIR needs the nir package, pip install 'gpuspike[nir]' brings it, got {error}"
        ) from None
    return nir


def read(source: Any) -> Graph:
    """A graph out of a file, or of the nir package's NIRGraph.

    Raises:
        DataError: no such file, a damaged one, or one that holds no graph.
        BackendError: the nir package is not installed.
    """
    if isinstance(source, (str, Path)):
        library()
        place = str(source)
        content = _content(Path(source))
    else:
        place = "the graph"
        try:
            content = source.to_dict()
        except Exception as error:  # an object of another kind, or a graph that its own package cannot tell
            reason = " ".join(str(error).split())
            raise DataError(
                f"a NIR file or a nir.NIRGraph is expected, got {source!r:.60}: {reason}"
            ) from None
    try:
        return _graph(content, place)
    except RecursionError:
        raise DataError(f"{place}: its graphs contain each other") from None


def _content(path: Path) -> dict[str, Any]:
    """The group "node" of a file, as nested dictionaries."""
    import h5py

    if not path.is_file():
        raise DataError(f"no NIR file at {path}")
    try:
        with h5py.File(path, "r") as file:
            if "node" not in file:
                raise DataError(f"{path} must hold a NIR graph, got an HDF5 file without the group 'node'")
            return _entries(file["node"], path, 0)
    except DataError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable NIR file: {reason}") from None


def _entries(group: Any, path: Path, depth: int) -> dict[str, Any]:
    if depth > 3 * DEEPEST:  # a group may link to one around it
        raise DataError(f"{path}: its groups lie more than {3 * DEEPEST} deep")
    entries: dict[str, Any] = {}
    for name, item in group.items():
        if hasattr(item, "items"):
            entries[name] = _entries(item, path, depth + 1)
            continue
        size = item.size or 0
        if size * max(item.dtype.itemsize, 1) > MOST_BYTES:
            raise DataError(
                f"{path}: {item.name} must have at most {MOST_BYTES} bytes, got shape {item.shape}"
            )
        entries[name] = _plain(item[()])
    return entries


def _plain(value: Any) -> Any:
    """Text where a file has bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _graph(content: Any, place: str) -> Graph:
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    if not isinstance(content, Mapping) or _plain(content.get("type")) != "NIRGraph":
        kind = _plain(content.get("type")) if isinstance(content, Mapping) else content
        raise DataError(f"{place} must hold a NIRGraph, got {kind!r:.60}")
    _lay_flat(content, "", nodes, edges, place, 0)
    metadata = content.get("metadata")
    return Graph(nodes, list(dict.fromkeys(edges)), metadata if isinstance(metadata, Mapping) else {}, place)


def _lay_flat(
    content: Mapping[str, Any],
    prefix: str,
    nodes: dict[str, Node],
    edges: list[tuple[str, str]],
    place: str,
    depth: int,
) -> None:
    """Adds a graph's nodes and edges, those of graphs within it under their own graph's name.

    An edge to a graph leads to its Input, one from it comes from its Output.
    """
    own = content.get("nodes")
    if not isinstance(own, Mapping) or depth > DEEPEST:
        where = f"the graph {prefix[:-1]!r:.60}" if prefix else "the graph"
        raise DataError(f"{place}: {where} must have nodes, at most {DEEPEST} graphs deep")
    doors: dict[str, tuple[str, str]] = {}
    for name, node in own.items():
        if not isinstance(node, Mapping) or not isinstance(_plain(node.get("type")), str):
            raise DataError(f"{place}: node {prefix + name!r} must have a type, got none")
        kind = _plain(node["type"])
        if kind == "NIRGraph":
            _lay_flat(node, f"{prefix}{name}.", nodes, edges, place, depth + 1)
            into, out = (_door(node, f"{prefix}{name}", kind, place) for kind in ("Input", "Output"))
            doors[name] = into, out
            continue
        values = {key: _plain(value) for key, value in node.items() if key not in ("type", "metadata")}
        metadata = node.get("metadata")
        inner = prefix and kind in ("Input", "Output")
        nodes[prefix + name] = Node(
            prefix + name,
            "Door" if inner else kind,
            values,
            metadata if isinstance(metadata, Mapping) else {},
        )
        doors[name] = prefix + name, prefix + name
    for source, target in _edges(content.get("edges"), prefix, place):
        for end in (source, target):
            if end not in doors:
                raise DataError(
                    f"{place}: an edge from {source!r} to {target!r} has no node {prefix + end!r}; there are "
                    f"{', '.join(own)}"
                )
        edges.append((doors[source][1], doors[target][0]))


def _edges(content: Any, prefix: str, place: str) -> list[tuple[str, str]]:
    pairs = []
    if content is None:
        content = []
    if isinstance(content, np.ndarray):
        content = content.tolist()
    try:
        for source, target in content:
            pairs.append((_plain(source), _plain(target)))
    except (TypeError, ValueError):
        raise DataError(f"{place}: edges of {prefix[:-1] or 'the graph'!r} must be pairs of names") from None
    if not all(isinstance(end, str) for pair in pairs for end in pair):
        raise DataError(f"{place}: edges of {prefix[:-1] or 'the graph'!r} must be pairs of names")
    return pairs


def _door(content: Mapping[str, Any], name: str, kind: str, place: str) -> str:
    """The one Input, or Output, of a graph within a graph."""
    nodes = content["nodes"]
    found = [key for key, node in nodes.items() if _plain(node.get("type")) == kind]
    if len(found) != 1:
        raise DataError(f"{place}: the graph {name!r} must have one {kind}, got {len(found)}")
    return f"{name}.{found[0]}"


def keep_others(path: Path) -> None:
    """Refuses to write over a file that is not a NIR file.

    Raises:
        OutputError: it would be lost.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        found = file.read(len(_BEGINS))
    if found not in (_BEGINS, b""):
        raise OutputError(
            f"{path} is there already and is not a NIR file: it would be lost; take another name"
        )
