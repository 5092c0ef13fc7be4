"""What a network needs of memory, array by array, before any work starts; and the largest batch that fits.

Counted are the arrays whose size goes with the batch, the weights or the replicas. What the process takes
besides (the interpreter, libraries, the CUDA context, what the pool keeps) is not: budgets leave it room.
"""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.kernels import cuda
from gpuspike.kernels.constants import GROUPS_FROM
from gpuspike.kernels.cuda import single as cuda_single
from gpuspike.kernels.cuda import source as cuda_source
from gpuspike.kernels.cuda import step as cuda_step
from gpuspike.kernels.cuda.single_source import MOST_TAUS_PARTS, learnt_parts
from gpuspike.network.constants import TRAINED
from gpuspike.network.delays import DELAYS, shape
from gpuspike.network.layers import Layer
from gpuspike.network.parameters import LayerParameters

ORDER_BYTES = 8
"""An index of a sorted input, int64 as the libraries' sorts return it."""

GROUP_BYTES = 4
"""A group's end in the order, int32."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK, _MOST_KEPT = 32 << 20, 1 << 30
"""What glibc keeps for the next step: arrays of up to 32 MiB, the most it allows, and 1 GiB in all."""


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed arrays for the next ones; does nothing outside of glibc.

    A training step frees and takes the same few MiB again. glibc would give them back to the system each
    time and take a page fault for each 4 KiB of the next step: a quarter to a third of the time of ten
    Yin-Yang replicas.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


@contextmanager
def uncollected(*, lasting: bool = False) -> Iterator[None]:
    """Without Python's search for garbage in circles, for code that makes much and drops little of it.

    Looking through what Numba holds on to takes a seventh of its time; not looking, 25 MiB.

    Args:
        lasting: what is made will stay, and is looked through later, with all else that is old.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if lasting:
            gc.freeze()  # everything is young no more,
            gc.unfreeze()  # and only old
        if searching:
            gc.enable()


@dataclass(frozen=True)
class Plan:
    """Bytes of a step, by array.

    Attributes:
        arrays: alive during the whole step: weights, their gradients and the optimiser's state, and each
            layer's input, order, spike times, slopes and gradients.
        passing: alive during one kernel's work only; no two of them at once.
    """

    arrays: dict[str, int]
    passing: dict[str, int]

    @property
    def total(self) -> int:
        """The peak: everything that lasts and the largest of what passes."""
        return sum(self.arrays.values()) + max(self.passing.values(), default=0)


def plan(
    layers: Sequence[tuple[int, int]],
    n_batch: int,
    n_replica: int = 1,
    dtype: DTypeLike = np.float32,
    backend: str = "cuda",
    *,
    training: bool = True,
    state_arrays: int = 2,
    shared_input: bool = False,
    on_chip: bool = False,
    trained: Sequence[str] = (),
    weights_of: Sequence[int] = (),
    places: Sequence[int] = (),
) -> Plan:
    """Bytes that one step takes.

    Args:
        layers: (n_pre, n_post) of each layer, bias spikes counted among its inputs.
        n_batch: samples of the step, for each replica.
        n_replica: networks side by side.
        dtype: float32 or float64.
        backend: "cuda", "cpu" or "reference"; the last is planned as "cpu".
        training: with gradients and the optimiser; else a forward pass alone.
        state_arrays: the optimiser's arrays of the weights' size: 2 for Adam, 1 for momentum, 0 for SGD.
        shared_input: the first layer's input is the same for all replicas.
        on_chip: each trial lifts thresholds and delays spikes, which are heard later than membranes cross.
        trained: what is learnt beside the weights, by name, counted with them.
        weights_of: weights of each layer, where neurons share them; else n_pre n_post.
        places: of each layer, at which its neurons share them, if the patch at each is one more sample.

    Raises:
        ValueRangeError: no layer, or a size below 1.
    """
    if not layers or min(n_batch, n_replica, *(n for layer in layers for n in layer)) < 1:
        raise ValueRangeError(
            f"layers, n_batch and n_replica must be 1 or more, got {list(layers)}, {n_batch} and {n_replica}"
        )
    real = np.dtype(dtype).itemsize
    arrays: dict[str, int] = {}
    passing: dict[str, int] = {}
    for number, (n_pre, n_post) in enumerate(layers, start=1):
        name = f"layer {number} "
        n_in_replicas = 1 if shared_input and number == 1 else n_replica
        n_samples = n_batch * (places[number - 1] if places else 1)
        inputs, outputs = n_in_replicas * n_samples * n_pre, n_replica * n_samples * n_post
        weights = n_replica * (weights_of[number - 1] if weights_of else n_pre * n_post) * real
        free = LayerParameters.sizes(n_replica, n_pre, n_post, trained)
        learnt = weights + sum(math.prod(shape) for shape in free.values()) * real
        arrays[name + "weights"] = learnt
        patches = 0
        if places and places[number - 1] > 1:  # gathered and sorted by a pass, and again by the one back
            patches = inputs * (real + ORDER_BYTES)
            if on_chip:  # positions on the replica axis: inputs, spikes and slopes are there once more
                patches = n_replica * n_samples * n_pre * (2 * real + ORDER_BYTES) + 2 * outputs * real
        else:
            arrays[name + "input times"] = inputs * real
            arrays[name + "order"] = inputs * ORDER_BYTES
        arrays[name + "output times and slopes"] = 2 * outputs * real
        if on_chip:
            arrays[name + "trials"] = 3 * outputs * real
        if backend == "cuda":
            if not cuda_step.sorts_by_itself(n_pre):
                # A copy of the times, a key for the row, and as much again with the order for a merge.
                passing[name + "sort"] = inputs * (2 * real + 3 * ORDER_BYTES)
            sample = n_in_replicas * n_pre * cuda_source.event_bytes(real)
            own = n_samples // n_batch if on_chip else 1  # weights of each place
            sums = n_replica * own * cuda_source.PARTS * n_post * real if n_pre >= GROUPS_FROM else 0
            passing[name + "forward"] = patches + sums + min(n_samples * sample, max(cuda.WORKSPACE, sample))
        if training:
            arrays[name + "weights' gradient"] = learnt
            arrays[name + "optimiser"] = state_arrays * learnt
            arrays[name + "output times' gradient"] = outputs * real
            factors = n_replica * n_samples * (2 * n_pre + (5 if backend == "cuda" else 6) * n_post) * real
            parts = cuda_source.gradient_parts(n_pre, n_post, n_samples) if backend == "cuda" else 0
            down = 0
            if number > 1:  # the input times' gradient, that of the bias spikes too, and weights transposed
                down = n_replica * n_samples * n_pre * real + (weights if backend != "cuda" else 0)
            # On the CPU one job takes all layers back, so that the factors of all are there at once; on a
            # device those of layers whose weights' gradient may run beside what the layers before need: of
            # one sample, so that a larger batch is never planned to need less.
            beside = number > 1 and cuda_source.goes_beside(n_replica, n_pre, n_post, 1)
            held = passing if backend == "cuda" and not beside else arrays
            held[name + "backward"] = patches + factors + down + (parts * weights if parts > 1 else 0)
            if backend != "cuda" and number == 1 and n_pre >= GROUPS_FROM:  # inputs that spike together
                arrays[name + "groups"] = n_replica * n_batch * n_pre * (real + GROUP_BYTES) + weights
    return Plan(arrays, passing)


def largest_batch(layers: Sequence[tuple[int, int]], budget: int, **options: Any) -> int:
    """The most samples a step may have within a budget; 0 where not even one fits.

    Args:
        layers: as for `plan`.
        budget: bytes.
        options: what else `plan` takes, but `n_batch`.
    """

    def fits(n_batch: int) -> bool:
        return plan(layers, n_batch, **options).total <= budget

    if not fits(1):
        return 0
    low = 1
    while fits(2 * low):
        low *= 2
    high = 2 * low  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def evaluation_chunk(layers: Sequence[tuple[int, int]], n_samples: int, budget: int, **options: Any) -> int:
    """Samples of each forward pass when `n_samples` are evaluated within a budget.

    Raises:
        ConfigError: not even one sample fits.
    """
    most = largest_batch(layers, budget, training=False, **options)
    if most == 0:
        needed = plan(layers, 1, training=False, **options).total
        raise ConfigError(
            f"one sample's forward pass needs {in_words(needed)}, got {in_words(max(budget, 0))} of memory"
        )
    return max(1, min(n_samples, most))


def require(
    layers: Sequence[tuple[int, int]], n_batch: int, budget: int, *, trials: int = 1, **options: Any
) -> Plan:
    """The plan of a training step that fits into a budget.

    Args:
        trials: times that it presents each of its samples.

    Raises:
        ConfigError: it does not fit; the message names the largest batch that does.
    """
    planned = plan(layers, n_batch * trials, **options)
    if planned.total <= budget:
        return planned
    most = largest_batch(layers, budget, **options) // trials
    advice = (
        f"the largest that fits is {most}" if most else "no batch fits: use fewer replicas or smaller layers"
    )
    raise ConfigError(
        f"training.batch_size={n_batch} needs {in_words(planned.total)} of memory, got "
        f"{in_words(max(budget, 0))}: "
        f"{advice}"
    )


ROOM = 0.9
"""Share of a device's free memory that is planned with: its pools cut blocks, and kernels take some."""


def learnt_bytes(
    layers: Sequence[Layer],
    trained: Sequence[str],
    presented: int,
    n_evaluated: int,
    dtype: DTypeLike,
    n_replica: int,
) -> int:
    """What layers that learn more than weights keep in a device's memory, or take there for a while, for it.

    Of a delay, beside its free number and what the optimiser keeps, itself and two gradients; of axonal ones
    inputs as they arrive, and as the first layer's they have a gradient; where synapses have delays also sums
    over parts of a batch, what the gradients need of each spike, and room for events. Of constants the
    weights over the threshold, and for time constants as much of each spike.

    Args:
        trained: names of constants and of delays.
        presented: samples of a step, 0 where nothing is trained;  n_evaluated: of a pass of an evaluation.
    """
    real, n_bytes = np.dtype(dtype).itemsize, 0
    kinds = [DELAYS[name] for name in trained if name in DELAYS]
    constants = [TRAINED[name] for name in trained if name not in DELAYS]
    for number, layer in enumerate(layers if trained else ()):
        sizes = n_replica, layer.n_pre, layer.n_post
        n_synapses, n_batch = n_replica * layer.n_pre * layer.n_post, presented * layer.n_places
        n_bytes += sum((2 * real + 8) * math.prod(shape(kind, *sizes)) for kind in kinds)
        if "axonal" in kinds:
            n_bytes += n_replica * n_batch * layer.n_pre * (real if number else 2 * real)
        if "synaptic" in kinds:
            of_a_sample, longest = 2 * real * n_synapses, max(n_batch, n_evaluated * layer.n_places)
            n_bytes += min(max(cuda_single.WORKSPACE, of_a_sample), longest * of_a_sample)
            if presented:
                n_bytes += 16 * n_synapses * learnt_parts(layer.n_pre, layer.n_post, n_batch)
        if "synaptic" in kinds or any(kind.NEEDS_TAUS for kind in constants):
            n_bytes += 24 * n_replica * presented * layer.n_neurons
        if constants:
            n_bytes += real * n_synapses + 16 * n_replica * MOST_TAUS_PARTS * layer.n_post
    return n_bytes


def fit_device(
    layers: Sequence[tuple[int, int]],
    n_batch: int,
    n_evaluated: int,
    data_bytes: int,
    free: int,
    *,
    chip_bytes: int = 0,
    training: bool = True,
    shared_input: bool = True,
    state_arrays: int = 2,
    trials: int = 1,
    **options: Any,
) -> int:
    """Samples of each forward pass of an evaluation, beside a training that fits into a device's memory.

    Args:
        layers: as for `plan`;  n_batch: samples of a step;  n_evaluated: most samples of a forward pass.
        data_bytes: of what a training keeps there beside its step.
        free: bytes that the device still has.
        chip_bytes: of emulated chips and of what is learnt, there whether or not anything is trained.
        training: False where nothing is trained.
        shared_input: all replicas are evaluated on the same input times.
        trials: times that a step presents each of its samples.
        options: what else `plan` takes.

    Raises:
        ConfigError: a batch that does not fit, with the largest one that does, or not even one sample does.
    """
    budget = int(ROOM * free) - chip_bytes
    if training:
        budget -= data_bytes
        needed = require(layers, n_batch, budget, trials=trials, state_arrays=state_arrays, **options)
        budget -= needed.total
    return evaluation_chunk(layers, n_evaluated, budget, shared_input=shared_input, **options)


def in_words(n_bytes: int) -> str:
    """A number of bytes to read: 1536 -> "1.5 KiB"."""
    size, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024.0:
            break
        size, unit = size / 1024.0, larger
    return f"{n_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
