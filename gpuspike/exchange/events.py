"""Spike times as NIRData holds them: event lists, in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.errors import DataError, OutputError, ShapeError, ValueRangeError
from gpuspike.exchange.graph import keep_others, library
from gpuspike.exchange.units import Unit, seconds
from gpuspike.kinds import is_number

Array = NDArray[Any]

OBSERVABLE = "spikes"


def write_nir_spikes(
    path: str | Path, spikes: Mapping[str, ArrayLike], *, time_unit: Unit, t_max: float | None = None
) -> None:
    """Writes first spike times to a NIRData file, an event list a node.

    Args:
        spikes: by the node's name in the graph (n_samples, n_neurons) times; inf = no spike, and no event.
        time_unit: of these times: "s", "ms", "us", "ns" or seconds. The file has seconds.
        t_max: end of the recording, in the same unit; None: the last spike.

    Raises:
        BackendError: the nir package is not installed.
        ShapeError, ValueRangeError: what was expected and what was got.
        OutputError: the file cannot be written, or one of another kind would be lost.
    """
    keep_others(Path(path))
    nir, unit = library(), seconds("time_unit", time_unit)
    if t_max is not None and not (is_number(t_max) and 0.0 <= t_max < np.inf):
        raise ValueRangeError(f"t_max must be 0 or more and finite, got {t_max!r}")
    if not isinstance(spikes, Mapping) or not spikes:
        raise ShapeError(f"spikes must be times by a node's name, got {spikes!r:.80}")
    nodes = {}
    for name, given in spikes.items():
        if "/" in str(name):
            raise ValueRangeError(f"the name of a node must not have a /, got {name!r}")
        if isinstance(given, np.ma.MaskedArray) or np.asarray(given).dtype.kind not in "fiu":
            raise ShapeError(f"spikes of {name!r} must be (n_samples, n_neurons) numbers, got {given!r:.80}")
        times = np.asarray(given, np.float64)
        if times.ndim != 2 or not times.size:
            raise ShapeError(f"spikes of {name!r} must be (n_samples, n_neurons), got {times.shape}")
        if np.isnan(times).any() or (times < 0).any():
            raise ValueRangeError(f"spikes of {name!r} must be 0 or later, or inf for none")
        last = times[np.isfinite(times)].max(initial=0.0)
        if t_max is not None and last > t_max:
            raise ValueRangeError(f"t_max must not come before a spike of {name!r} at {last}, got {t_max}")
        idx, time = _events(times)
        end = float(last if t_max is None else t_max)
        data = nir.EventData(idx=idx, time=time * unit, n_neurons=times.shape[1], t_max=end * unit)
        nodes[str(name)] = nir.NIRNodeData(observables={OBSERVABLE: data})
    try:
        nir.write_data(path, nir.NIRGraphData(nodes=nodes))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def _events(times: Array) -> tuple[NDArray[np.int64], Array]:
    """(n_samples, n_events) neurons and times in their order; -1 and inf fill up."""
    order = np.argsort(times, axis=1, kind="stable")
    ordered = np.take_along_axis(times, order, axis=1)
    n_events = max(int(np.isfinite(ordered).sum(axis=1).max()), 1)
    order, ordered = order[:, :n_events], ordered[:, :n_events]
    return np.where(np.isfinite(ordered), order, -1), ordered


def read_nir_spikes(
    path: str | Path, *, time_unit: Unit, first: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Reads spike times out of a NIRData file.

    What is later than the recording's end is no event: some tools fill up their lists so.

    Args:
        time_unit: that the times shall have: "s", "ms", "us", "ns" or seconds. The file has seconds.
        first: keep the first spike of a neuron in a sample where there are more, which are refused otherwise.

    Returns:
        By the node's name (n_samples, n_neurons) times, inf = no spike. Nodes of graphs within the graph have
        their graph's name before their own, with a dot.

    Raises:
        BackendError: the nir package is not installed.
        DataError: no such file, a damaged one, or events that are no single spikes, by the node's name.
    """
    nir, unit = library(), seconds("time_unit", time_unit)
    if not Path(path).is_file():
        raise DataError(f"no NIRData file at {path}")
    try:
        data = nir.read_data(str(path))
    except Exception as error:  # a damaged file raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable NIRData file: {reason}") from None
    found: dict[str, NDArray[np.float64]] = {}
    _collect(nir, data, "", found, unit, first)
    if not found:
        raise DataError(f"{path} must have spikes of at least one node, got none")
    return found


def _collect(
    nir: Any, data: Any, prefix: str, found: dict[str, NDArray[np.float64]], unit: float, first: bool
) -> None:
    for name, node in data.nodes.items():
        if isinstance(node, nir.NIRGraphData):
            _collect(nir, node, f"{prefix}{name}.", found, unit, first)
        elif OBSERVABLE in node.observables:
            told = f"node {prefix + name!r}"
            found[prefix + name] = _times(nir, node.observables[OBSERVABLE], told, first) / unit


def _times(nir: Any, events: Any, told: str, first: bool) -> NDArray[np.float64]:
    """(n_samples, n_neurons) seconds."""
    if isinstance(events, nir.TimeGriddedData):
        on = np.asarray(events.data) != 0
        if not first and (on.sum(axis=1) > 1).any():
            raise DataError(
                f"{told}: a neuron spikes more than once in a sample; first=True keeps its first spike"
            )
        return np.where(on.any(axis=1), on.argmax(axis=1) * float(events.dt), np.inf)
    if isinstance(events, nir.ValuedEventData):
        raise DataError(f"{told} must have spikes, got events with values")
    idx, time = np.asarray(events.idx), np.asarray(events.time, np.float64)
    n = events.n_neurons
    if idx.ndim != 2 or idx.dtype.kind not in "iu" or n < 1 or np.isnan(time).any():
        raise DataError(
            f"{told} must have (n_samples, n_events) whole numbers and times, got {idx.shape} {idx.dtype}"
        )
    real = (idx >= 0) & np.isfinite(time) & (time <= events.t_max)
    if (idx[real] >= n).any() or (time[real] < 0).any():
        raise DataError(f"{told} must have events of its {n} neurons from 0 on, got another")
    samples = np.broadcast_to(np.arange(len(idx))[:, None], idx.shape)[real]
    times = np.full((len(idx), n), np.inf)
    np.minimum.at(times, (samples, idx[real]), time[real])
    if not first and np.isfinite(times).sum() < real.sum():
        raise DataError(
            f"{told}: a neuron spikes more than once in a sample; first=True keeps its first spike"
        )
    return times
