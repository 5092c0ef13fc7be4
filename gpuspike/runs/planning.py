"""What a run is going to need: bytes by array, and a time estimated from some steps of its trainer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from gpuspike.runs import memory
from gpuspike.runs.experiment import (
    Experiment,
    bytes_on_device,
    chip_bytes_on_device,
    new_trainer,
    own_inputs,
)
from gpuspike.runs.rehearsal import prepare_kernels
from gpuspike.substrate import OnChip
from gpuspike.training.augmentation import RandomWarp, WithOpposites
from gpuspike.training.evaluation import Labelled

WARM_UP_STEPS, LEAST_STEPS, SECONDS = 2, 3, 2.0
"""Steps before the clock runs, and how many are timed: as many as fit into that time."""
LEAST_SAMPLES = 256
"""Validation samples that are timed, if there are as many."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run.

    Attributes:
        parts: by what they are for.
        peak: the most at any one time; the interpreter and its libraries come on top.
    """

    parts: dict[str, int]
    peak: int


@dataclass(frozen=True)
class Timing:
    """Seconds of a run, estimated.

    Attributes:
        step: a training step, all replicas;  n_timed: how many of them were timed.
        n_steps: of an epoch.
        validation: of a whole pass over the validation samples.
        epochs: of the run.
        rest: encoding the data, and the evaluation of all splits at the end; no figures.
    """

    step: float
    n_timed: int
    n_steps: int
    validation: float
    epochs: int
    rest: float

    @property
    def epoch(self) -> float:
        """Seconds of an epoch with its validation."""
        return self.n_steps * self.step + self.validation

    @property
    def total(self) -> float:
        """Seconds of the run."""
        return self.epochs * self.epoch + self.rest


def memory_of(parts: Experiment) -> Memory:
    """Bytes of the arrays that a run keeps, and of those that its steps take; on a device, of those there."""
    config, network = parts.config, parts.network
    on_device = parts.backend.name == "cuda"
    real, replicas = config.dtype.value, config.replicas
    sizes = [(layer.n_received, layer.n_neurons) for layer in network.layers]
    n_optimiser = len(parts.recipe.optimizer.STATE)
    options = {"n_replica": replicas, "dtype": real, "state_arrays": n_optimiser}
    options |= {"trained": parts.trained, "backend": "cuda" if on_device else "cpu"}
    own = [(layer.n_pre, layer.n_post) for layer in network.layers]
    if on_device:  # where a patch is one more sample
        options |= {"on_chip": not parts.substrate.ideal}
        options |= {"places": [layer.n_places for layer in network.layers]}
    else:
        options |= {"weights_of": [n_pre * n_post for n_pre, n_post in own]}
    shared = not (on_device and own_inputs(parts.substrate, parts.trained))
    planned = own if on_device else sizes
    step = memory.plan(planned, parts.rule.presented, **options)
    longest = max(len(split.labels) for split in parts.dataset.splits.values())
    n_chunk = min(longest, parts.rule.evaluation_batch_size)
    forward = memory.plan(planned, n_chunk, training=False, shared_input=shared, **options)
    item = 8 if real == "float64" else 4
    n_samples = {name: len(split.labels) for name, split in parts.dataset.splits.items()}
    data = sum(n_samples.values()) * sizes[0][0] * item
    if parts.rule.keeps_inputs:
        data += n_samples["train"] * sizes[0][0] * memory.ORDER_BYTES
    augment = parts.rule.augment
    change = augment.change if isinstance(augment, WithOpposites) else augment
    if isinstance(change, RandomWarp):  # drawn an epoch at a time
        data += 8 * change.n_drawn * n_samples["train"] * replicas * parts.rule.trials
    presented = replicas * n_samples["train"] * parts.rule.trials
    outputs = replicas * sum(n_samples.values()) * sizes[-1][1] * item
    machine = parts.on_chip(parts.chip_seeds)
    drawn = 0
    if isinstance(machine, OnChip):
        chip = parts.chip(parts.chip_seeds)
        held = [np.zeros((replicas, layer.n_pre, layer.n_post), real) for layer in parts.network.layers]
        # Of a convolution, whose neurons share nothing there, beside the weights that it is programmed with.
        come = [own for own, w in zip(chip.effective(held), held, strict=True) if own.shape != w.shape]
        drawn = sum(array.nbytes for array in (*chip.arrays().values(), *come))

    def total(planned: memory.Plan, *names: str) -> int:
        return sum(size for array, size in planned.arrays.items() if array.endswith(names))

    weights, optimiser = total(step, "weights"), total(step, "optimiser")
    gradients = total(step, "gradient", "backward")
    if on_device:  # a step and an evaluation have pools of their own there
        kept = bytes_on_device(config, parts.dataset, network)
        told = {
            "data: training and validation samples, shuffles, answers, what warps images": kept,
            "weights": weights,
            "optimiser": optimiser,
            "emulated chip": chip_bytes_on_device(config, network, parts.substrate),
            "delays and constants, and room for their gradients": memory.learnt_bytes(
                network.layers, parts.trained, parts.rule.presented, n_chunk, real, replicas
            ),
            "activations of a step": step.total - weights - optimiser - gradients,
            "gradients of a step": gradients,
            "activations of an evaluation": forward.total - weights,
        }
        return Memory({name: size for name, size in told.items() if size}, sum(told.values()))
    told = {
        "data: spike times of all splits, the order of the training ones": data,
        "an epoch: which sample comes when, and what becomes of it": presented
        * (8 + item + 1 + 4 * len(sizes)),
        "weights": weights,
        "optimiser": optimiser,
        "emulated chip": drawn,
        "activations of a step": step.total - weights - optimiser - gradients,
        "gradients of a step": gradients,
        "activations of an evaluation": forward.total - weights,
        "output spike times of all splits": outputs,
    }
    # Activations and gradients of a step are gone while the network is evaluated.
    working = max(step.total - weights - optimiser, forward.total - weights + outputs)
    return Memory(
        {name: size for name, size in told.items() if size}, data + weights + optimiser + drawn + working
    )


def time_of(parts: Experiment, console: Console, seconds: float = SECONDS) -> Timing:
    """Times some steps of the run's own trainer on the first samples; keeps and writes nothing.

    Args:
        seconds: how long the timed steps should take together.
    """
    # A batch whose gradient step is skipped for raised weights would be cheaper than what comes later.
    parts = replace(parts, rule=replace(parts.rule, bump_replaces_step=False))
    config, splits = parts.config, parts.dataset.splits
    prepare_kernels(parts, console)
    trainer = new_trainer(parts)
    batch, n_train = config.training.batch_size, len(splits["train"].labels)
    n_validation = min(
        len(splits["validation"].labels), max(LEAST_SAMPLES, config.training.evaluation_batch_size)
    )
    started = time.perf_counter()
    validation = _first(parts, "validation", n_validation)
    encoding = (time.perf_counter() - started) / n_validation

    def timed(n_steps: int, n_epochs: int = 1) -> tuple[float, float]:
        """Seconds of a step and of the validation, from short epochs."""
        train = _first(parts, "train", min(n_steps * batch, n_train))
        trainer.epoch = 0
        first = 2 if parts.backend.name == "cuda" else 0  # the data are sent, the step is captured
        records = list(trainer.train(train, validation, first + n_epochs))[first:]
        step = sum(record.train_seconds for record in records) / n_epochs / -(-len(train) // batch)
        return step, sum(r.validation.seconds for r in records if r.validation) / n_epochs

    n_steps = -(-n_train // batch)
    timed(WARM_UP_STEPS)
    guess, _ = timed(WARM_UP_STEPS)
    wanted = max(LEAST_STEPS, int(seconds / guess))
    n_epochs = min(max(1, wanted // n_steps), config.training.epochs)
    short = min(n_steps, wanted)
    step, validating = timed(short, n_epochs)
    each, n_timed = validating / n_validation, short * n_epochs
    n_all = sum(len(split.labels) for split in splits.values())
    return Timing(
        step=step,
        n_timed=n_timed,
        n_steps=n_steps,
        validation=each * len(splits["validation"].labels),
        epochs=config.training.epochs,
        rest=n_all * (encoding + each),
    )


def _first(parts: Experiment, name: str, n_samples: int) -> Labelled:
    """The first samples of a split, as a run prepares them."""
    split = parts.dataset.splits[name]
    again = name == "train" and parts.rule.keeps_inputs
    received = parts.receive(split.features[:n_samples], again=again)
    return Labelled(received, split.labels[:n_samples])
