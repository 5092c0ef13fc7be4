"""Networks to NIR files and out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuspike.api.decide import require_network
from gpuspike.api.network import Network
from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.exchange.files import PlainLayer, read_layers, write_layers
from gpuspike.exchange.units import Scale, Unit
from gpuspike.kinds import whole
from gpuspike.network.delays import DelayRule, Delays, name_of
from gpuspike.network.parameters import LayerParameters, Parameters


def import_nir(
    source: Any,
    *,
    time_unit: Unit,
    model_unit: Unit | None = None,
    dialect: str = "strict",
    bias_times: Mapping[str, Sequence[float]] | None = None,
    capacitance: float | None = None,
    dtype: DTypeLike | None = None,
    seed: int = 0,
    backend: str = "auto",
) -> Network:
    """A network out of a NIR file: one that answers, is trained on, put on a chip and priced like any other.

    Its neurons speak once, whatever the file says of a reset. Weights are the file's to the bit, transposed,
    and what stands before them in the equations is in the neurons' capacitance. Convolutions become the
    matrices that they stand for. docs/exchange.md has what is read, and what is refused.

    Args:
        source: path of a file, or a nir.NIRGraph.
        time_unit: of the file: "s", "ms", "us", "ns" or seconds. No file says it, and nobody guesses.
        model_unit: of the network's time, given likewise; None: the file's, so that its numbers are kept.
        dialect: what a spike does to a current there: "strict" (the equation), "jaxsnn", "hxtorch" or
            "snntorch".
        bias_times: by the name of an Input node, the times of the bias spikes that it brings, in the
            network's unit; None: as files of `export_nir` say them.
        capacitance: that all neurons shall have, which scales the weights; None: weights as in the file.
        dtype: of times and weights; None: float32 if all weights of the file are, else float64.
        seed, backend: of the network.

    Raises:
        DataError: no such file, a damaged one, or a node that cannot be run, by its name.
        ConfigError: an unknown dialect.
        ValueRangeError: an unknown unit, or a value that means nothing.
        BackendError: the nir package is not installed, or a backend that is not there.
    """
    if capacitance is not None and not 0.0 < capacitance < np.inf:
        raise ValueRangeError(f"capacitance must be positive and finite, got {capacitance!r}")
    layers = read_layers(source, dialect, Scale.of(time_unit, model_unit), bias_times, capacitance)
    if dtype is None:
        single = all(layer.weights.dtype == np.float32 for layer in layers)
        dtype = np.float32 if single else np.float64
    delayed = {kind: [getattr(layer, kind) for layer in layers] for kind in ("axonal", "dendritic")}
    kinds = [kind for kind, own in delayed.items() if any(delays is not None for delays in own)]
    known = [delays.max() for own in delayed.values() for delays in own if delays is not None]
    rule = DelayRule(
        0.0, 2.0 * float(max(known, default=0.5)), "clipped"
    )  # training may make them twice as long
    n_in = len(layers[0].weights) - len(layers[0].bias_times)
    net = Network(
        [n_in, *(layer.weights.shape[1] for layer in layers)],
        [layer.bias_times for layer in layers],
        neuron=[layer.neuron for layer in layers],
        seed=seed,
        dtype=dtype,
        backend=backend,
        delays=kinds,
        delay_rule=rule if kinds else None,
    )
    made = []
    for layer in layers:
        free = {}
        for kind in kinds:
            n = layer.weights.shape[0 if kind == "axonal" else 1]
            delays = np.zeros(n) if getattr(layer, kind) is None else getattr(layer, kind)
            free[name_of(kind)] = rule.free(delays)[None].astype(net.dtype)
        made.append(LayerParameters(layer.weights[None].astype(net.dtype), free))
    net.parameters = Parameters(made)
    net.parameters.check([layer.neuron for layer in layers])
    return net


def export_nir(
    net: Network,
    path: str | Path,
    *,
    time_unit: Unit,
    model_unit: Unit | None = None,
    dialect: str = "strict",
    replica: int | None = None,
) -> list[str]:
    """Writes a network to a NIR file: a Linear and a CubaLIF node a layer, an Input node for its bias spikes.

    Nodes are called input, linear_0, lif_0, bias_0, bias_linear_0 and so on, and output.

    Args:
        time_unit: of the file: "s", "ms", "us", "ns" or seconds.
        model_unit: of the network's time, given likewise; None: the file's, so that numbers are kept.
        dialect: what a spike does to a current there; see `import_nir`. "strict" writes weights as they are.
        replica: which network, where there are several side by side.

    Returns:
        What the file cannot say, in sentences: who reads it has to know it.

    Raises:
        ConfigError: an unknown dialect, one that has no words for these neurons, delays of synapses, or
            several replicas.
        ValueRangeError: an unknown unit or replica.
        BackendError: the nir package is not installed.
        OutputError: the file cannot be written, or one of another kind would be lost.
    """
    require_network(net)
    net.check()
    if replica is None and net.replicas > 1:
        raise ConfigError(
            f"replica must say which of {net.replicas} networks to write: a file has one, got none"
        )
    r = whole("replica", replica or 0, 0)
    if r >= net.replicas:
        raise ValueRangeError(f"replica must be below {net.replicas}, got {r}")
    if name_of("synaptic") in net.parameters.trained:
        raise ConfigError(
            "NIR has delays of inputs and of neurons, got a network with delays of its synapses"
        )
    for layer in net.architecture.layers:
        if (maps := layer.convolution) is not None and (maps.pool > 1 or np.isfinite(maps.pad_time)):
            raise ConfigError(
                f"NIR has no pooling by the earliest spike and no padding that spikes, got a layer of {maps}"
            )
    layers = [
        PlainLayer(
            f"lif_{k}",
            weights[r] if (maps := layer.convolution) is None else maps.unrolled(weights[r : r + 1])[0],
            layer.neuron.of_replica(r),
            layer.bias_times,
            **{kind: delays[r] for kind, delays in (layer.delays or Delays()).items()},
        )
        for k, (layer, weights) in enumerate(
            zip(net.architecture.layers, net.parameters.weights, strict=True)
        )
    ]
    write_layers(Path(path), layers, dialect, Scale.of(time_unit, model_unit))
    notes = ["NIR has no neuron that speaks once: a reader must silence each neuron after its first spike"]
    with_bias = [f"bias_{k}" for k, layer in enumerate(layers) if layer.bias_times]
    if with_bias:
        notes.append(
            f"bias spikes come from the Input nodes {', '.join(with_bias)}: a reader must send them in every "
            "sample, at the times in the nodes' metadata"
        )
        if dialect in ("jaxsnn", "hxtorch"):
            notes.append(f"{dialect} reads one Input node alone: it refuses a network with bias spikes")
    if net.chip is not None:
        notes.append("the file has the network, not the chip under it")
    return notes
