"""A split as a network sees it, and what one pass over it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import LayerState, host, on_host
from gpuspike.network.layers import LayerInput, Moment
from gpuspike.network.network import Machine
from gpuspike.training.losses import Loss, decide

Array = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """A split as the network sees it.

    Attributes:
        received: first layer's input, shared by the replicas: (1, n_samples, n_pre).
        labels: (n_samples,).
    """

    received: LayerInput
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Evaluation:
    """Result of one pass over a split.

    Attributes:
        loss, accuracy: (n_replica,).
        silent_fraction: (n_layer, n_replica) share of (sample, neuron) pairs without a spike.
        t_out: (n_replica, n_samples, n_classes) output spike times.
        seconds: wall time of the pass.
        never_spiking: of each layer (n_replica, n_post) neurons, or maps, that spiked for no sample.
    """

    loss: Array
    accuracy: Array
    silent_fraction: Array
    t_out: Array
    seconds: float
    never_spiking: Sequence[NDArray[np.bool_]] = ()


def silent_fraction(activities: Sequence[LayerState]) -> Array:
    """(n_layer, n_replica) share of (sample, neuron) pairs without a spike."""
    # Counted replica by replica: a sum over a mask would first turn it into numbers.
    silent = [np.isinf(activity.t_out) for activity in activities]
    return np.array([[np.count_nonzero(part) / part.size for part in mask] for mask in silent])


def evaluate(
    network: Machine,
    weights: Sequence[Array],
    data: Labelled,
    loss: Loss,
    batch_size: int,
    on_batch: Callable[[int, int, Sequence[LayerState]], None] | None = None,
) -> Evaluation:
    """Loss, accuracy and activity on a whole split, in batches.

    Args:
        on_batch: called after each batch with its first sample, the one after its last, the layers' states.
    """
    return begun(network, weights, data, loss, batch_size, on_batch)()


def begun(
    network: Machine,
    weights: Sequence[Array],
    data: Labelled,
    loss: Loss,
    batch_size: int,
    on_batch: Callable[[int, int, Sequence[LayerState]], None] | None = None,
) -> Callable[[], Evaluation]:
    """Asks for what `evaluate` returns; a device computes until the answer is called for."""
    start = time.perf_counter()
    kernels = network.kernels
    weights = [kernels.place(w) for w in weights]
    losses, outputs, counts, spiking = [], [], [], []
    for first in range(0, len(data), batch_size):
        last = min(first + batch_size, len(data))
        received = data.received.part(first, last).to(kernels.place)
        activities = network.forward(weights, received, Moment(first=first))
        outputs.append(activities[-1].t_out)
        losses.append(loss(outputs[-1], kernels.place(data.labels[None, first:last]))[0])
        counts.append([kernels.count_silent(activity.t_out) for activity in activities])
        spiking.append([(activity.t_out < np.inf).any(axis=1) for activity in activities])
        if on_batch is not None:
            on_batch(first, last, on_host(activities))
        del received, activities  # which would stand beside those of the next batch

    def answer() -> Evaluation:
        """Waits for a device, which nothing above has done."""
        t_out = np.concatenate([host(part) for part in outputs], axis=1)
        silent = np.zeros((len(network.layers), len(t_out)))
        for part, of_layers in zip(outputs, counts, strict=True):
            n_samples = part.shape[1]
            pairs = [n_samples * layer.n_out for layer in network.layers]
            silent += (
                np.array([host(c).sum(axis=1) / n for c, n in zip(of_layers, pairs, strict=True)]) * n_samples
            )
        never = [~np.any([host(part) for part in parts], axis=0) for parts in zip(*spiking, strict=True)]
        correct = decide(t_out) == host(data.labels)
        return Evaluation(
            loss=np.concatenate([host(part) for part in losses], axis=1).mean(axis=1),
            accuracy=correct.mean(axis=1),
            silent_fraction=silent / len(data),
            t_out=t_out,
            seconds=time.perf_counter() - start,
            never_spiking=[
                silent.reshape(len(silent), -1, layer.n_post).all(axis=1)
                for silent, layer in zip(never, network.layers, strict=True)
            ],
        )

    return answer
