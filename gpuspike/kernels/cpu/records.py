"""What the job of a training step is told, by names: Numba reads the fields of a NamedTuple as Python does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array


class When(NamedTuple):
    """Number of the batch in its epoch, its first sample in the epoch's order, and the epoch."""

    number: int
    first: int
    epoch: int


class Data(NamedTuple):
    """The data of an epoch.

    Attributes:
        source: (n_samples, n_pre) spike times of the data set.
        known: (n_samples, n_pre) what sorts them, (0, n_pre) where each step sorts.
        order: (n_replica, n_presented) which sample comes when;  labels: (n_samples,).
    """

    source: Array
    known: NDArray[np.int64]
    order: NDArray[np.int64]
    labels: NDArray[np.int64]


class Told(NamedTuple):
    """What becomes of an epoch's samples, in the order in which they come.

    Attributes:
        losses, correct: (n_replica, n_presented) of each sample.
        silent: (n_layer, n_replica, n_presented) silent neurons.
        chosen, sizes: (1 + n_batches, n_replica) which layer was bumped, and by how much; first before the epoch.
    """

    losses: Array
    correct: NDArray[np.bool_]
    silent: NDArray[np.int32]
    chosen: NDArray[np.int64]
    sizes: NDArray[np.float64]


class Room(NamedTuple):
    """Arrays for batches of one size, and the tables of their addresses.

    Attributes:
        t_in, order: of the first layer;  t_out_grad: of the last layer's spikes.
        heard: of each layer, its neurons and the address of their spikes as they are heard.
        backward, forward: tables, see `backward.tables_of` and `forward.table_row`.
    """

    t_in: Array
    order: NDArray[np.int64]
    t_out_grad: Array
    heard: NDArray[np.int64]
    backward: NDArray[np.int64]
    forward: NDArray[np.int64]


class Noise(NamedTuple):
    """Normal jitter of the first inputs' times; see `kernels.Kernels.jitter`.

    Attributes:
        n_jittered: inputs that jitter;  std: standard deviation, 0 for none.
        seeds: (n_replica,);  first_block: the address but for epoch and batch, see `rng.normals`.
    """

    n_jittered: int
    std: float
    seeds: NDArray[np.uint64]
    first_block: int


class Shift(NamedTuple):
    """Random shifts of images, see `training.augmentation`.

    Attributes:
        side, most: of the images and of the largest shift, in pixels;  background: what comes in from outside.
        corners: (n_replica, 2, n_batch) where a batch's images are cut out; (0, 0, 0) for no shifts.
    """

    side: int
    most: int
    background: float
    corners: NDArray[np.int64]


class Warp(NamedTuple):
    """Random warps of images, see `training.augmentation.RandomWarp`.

    Attributes:
        basis: (side, n_knots) share of each control point in a row or column.
        times: (256,) spike times of pixel levels;  dark, per_level: the level of a time is (dark - time) per_level.
        numbers: (n_replica, n_batch, n) of a batch's images.
    """

    basis: NDArray[np.float64]
    times: Array
    dark: float
    per_level: float
    numbers: NDArray[np.float64]


class Bumps(NamedTuple):
    """When and how silent neurons are woken; see `gpuspike.training.bumping`.

    Attributes:
        max_silent: silent share of each layer above which a replica is bumped.
        dead: (n_layer, n_replica) share that is dead and not counted.
        replaces_step: whether a bumped replica makes no step;  value, most: the first bump and the largest.
        exponential, targeted: whether bumps double, and go to silent neurons only.
    """

    max_silent: NDArray[np.float64]
    dead: NDArray[np.float64]
    replaces_step: bool
    value: float
    most: float
    exponential: bool
    targeted: bool


class Wakes(NamedTuple):
    """Which silent neurons are pulled to their thresholds, and how much; see `gpuspike.training.waking`.

    Attributes:
        limits: (n_layer,) silent share of a neuron above which it is pulled.
        strength: of the pull.
        share: of each layer, the address of (n_replica, n_post) shares of the last batch, kept up to date.
        neurons: (n_layer, 5) threshold - leak, tau_slow, tau_fast, 1/tau_fast - 1/tau_slow, delay of the kernel's peak.
        end: of a trial; a membrane that crosses the threshold by then is awake, though its spike be lost.
    """

    limits: NDArray[np.float64]
    strength: float
    share: NDArray[np.int64]
    neurons: NDArray[np.float64]
    end: float


class Rule(NamedTuple):
    """What stays the same from step to step.

    Attributes:
        loss, optimizer: numbers of these leaves, see `gpuspike.kernels.cpu.leaves`.
        max_weight_grad: see `kernels.first_spikes_vjp`.
        bumps: when and how silent neurons are woken.
        most_weight: of each layer, the largest weight that a step leaves; inf for none.
    """

    loss: Any
    optimizer: Any
    max_weight_grad: float
    bumps: Bumps
    most_weight: NDArray[np.float64]


class Drawn(NamedTuple):
    """What a job is told of chips that answer in the network's place.

    Attributes:
        trials: (n_layer, 3) grid, end and tolerance of the grid;  seeds: (n_replica,) of the chips.
        layers: of each layer addresses, see `LIFT` and the other columns below.
        jitter: standard deviation of the spikes' delays;  end: of the trial.
    """

    trials: NDArray[np.float64]
    seeds: NDArray[np.uint64]
    layers: NDArray[np.int64]
    jitter: float
    end: float


BASE, FACTOR, THRESHOLDS, DELAYS, NOMINAL, SPAN, CAPACITANCE = range(7)
"""Columns of `Drawn.layers`: a threshold's base and factor, the addresses of the thresholds' numbers and of the delays', the
nominal weights, and the neurons' spans and capacitances; 0 where there are none."""

WEIGHTS, VECTORS, TRANSPOSED, TOTALS, PULL, KEPT = range(6)
"""Columns of the update's table: the weights, their copies in other layouts, their sums over the inputs of each part, the chip's
derivatives, and from `KEPT` on what
the optimiser keeps."""
