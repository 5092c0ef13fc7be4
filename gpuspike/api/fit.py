"""Training a network on arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuspike.api.checks import class_labels, n_classes, spike_times
from gpuspike.api.decide import require_network
from gpuspike.api.history import History
from gpuspike.api.kept import ALONE
from gpuspike.api.network import Network
from gpuspike.backend import ORACLE
from gpuspike.datasets.splits import too_few, unlikely
from gpuspike.errors import ConfigError, ShapeError
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training import when_read
from gpuspike.training.evaluation import Labelled
from gpuspike.training.fit import Recipe, end_of_trial, leaf_name, make_trainer, with_values
from gpuspike.training.trainer import EpochRecord

Array = NDArray[Any]

Samples = tuple[ArrayLike, ArrayLike]


def fit(
    net: Network,
    t_in: ArrayLike,
    labels: ArrayLike,
    validation: Samples | None = None,
    *,
    epochs: int | None = None,
    recipe: Recipe | None = None,
    on_epoch: Callable[[EpochRecord], object] | None = None,
    **values: Any,
) -> History:
    """Trains a network in place, on the chip under it if there is one, with the fastest step that there is.

    A network that was trained goes on: the optimiser keeps its state (unless another one is asked for),
    shuffles and noise are those of the epochs to come. At a constant learning rate and temperature, 20 epochs
    and then 30 are bit for bit 50 at once; schedules (`schedule`, `xi_start`) begin anew. Whatever interrupts
    it leaves the network as it was after the last whole epoch.

    Args:
        t_in: (n_samples, n_inputs) spike times, inf = no spike.
        labels: (n_samples,) integers from 0.
        validation: spike times and labels of samples that are looked at after each epoch.
        epochs: to train, in place of the recipe's.
        recipe: how; None: `gs.Recipe()`. `net.recipe` is that of the last training, or of a loaded run; its
            loss is made anew in the network's unit of time.
        on_epoch: called after each epoch with its record.
        values: of the recipe, in place of its own: learning_rate, batch_size, loss, xi, ...; see `gs.Recipe`.

    Returns:
        The course of these epochs; `net.history` has all. Its `step` says what made the steps: "compiled",
        "device", or "piecewise", slower, for what neither has: `step_reason` says why.

    Warns:
        UserWarning: a value was given that nothing reads, since another one has it so; what the run did that
            this network comes from, and no recipe has; spikes that are not there, or that come so late that
            another unit was meant perhaps; a batch that was asked for and is of more samples than there are;
            backend="reference", which is slow.
        RuntimeWarning: every step was bumped, in vain; what to change.

    Raises:
        ConfigError: a value that the recipe does not know, or that cannot be used; a network that ends with a
            convolution, whose neurons are no classes.
        ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
    """
    require_network(net)
    if not isinstance(recipe, Recipe | None):
        raise ConfigError(f"recipe must be a gs.Recipe, got {recipe!r:.80}")
    if not (on_epoch is None or callable(on_epoch)):
        raise ConfigError(f"on_epoch must be a function of a record, got {on_epoch!r:.80}")
    net.check()
    recipe = with_values(Recipe() if recipe is None else recipe, values)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    recipe = recipe.suited(net.neuron)
    notes = [*when_read.notes(values, vars(recipe)), *_aimless(net, recipe, values)]
    if alone := net.provenance.get(ALONE):
        notes.append(f"gs.fit does not go on with {', '.join(alone)} of the run that this network comes from")
    if net.backend.name == "reference":
        notes.append(ORACLE)
    for text in notes:
        warnings.warn(text, stacklevel=2)
    train = _labelled(net, "t_in", "labels", (t_in, labels), sort=recipe.input_noise == 0.0)
    asked = "batch_size" in values or recipe.batch_size != Recipe.batch_size
    if asked and recipe.batch_size > len(train):
        words = too_few(len(train), recipe.batch_size)
        warnings.warn(f"batch_size {words}: each step takes all of them", stacklevel=2)
    if strange := unlikely(np.asarray(t_in), net.tau_syn, end_of_trial(net.machine)):
        warnings.warn(f"{strange}; tau_syn of the network is {net.tau_syn:g}", stacklevel=2)
    examined = None
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            kind = type(validation).__name__
            got = f"a {kind} of {len(validation)}" if isinstance(validation, (tuple, list)) else kind
            raise ShapeError(f"validation must be two arrays, spike times and labels, got {got}")
        examined = _labelled(net, "validation times", "validation labels", (validation[0], validation[1]))
    learnt = net.parameters.map(np.copy)
    trainer = make_trainer(
        net.architecture,
        net.architecture if net.gradient == "ideal" else net.machine,
        net.machine,
        learnt,
        recipe,
        recipe.make_loss(net.architecture.kernels, net.tau_syn, _noise(net)),
        recipe.make_rule(net.tau_syn),
        net.seeds,
        on_device=net.backend.name == "cuda",
        first_epoch=net.epoch,
    )
    own, names = trainer.state(), set(learnt.arrays())
    going_on = _same_optimizer(net, recipe) and set(net.state) == set(own) - names
    trainer.restore(own | (net.state if going_on else {}), net.epoch)
    records: list[EpochRecord] = []
    before = net.history
    try:
        for record in trainer.train(train, examined, net.epoch + recipe.epochs):
            # Whatever ends the training, Ctrl-C too, leaves the network of the last whole epoch.
            state = {name: array.copy() for name, array in trainer.state().items()}
            net.parameters = learnt.map(np.copy)
            net.state = {name: array for name, array in state.items() if name not in names}
            net.epoch, net.recipe = trainer.epoch, recipe
            records.append(record)
            if record.warning:
                warnings.warn(record.warning, RuntimeWarning, stacklevel=2)
            if on_epoch is not None:
                on_epoch(record)
    finally:
        history = History.of_records(records, len(learnt), net.replicas, trainer.step.kind)
        net.history = before + history
    return history


def _aimless(net: Network, recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
    """What was asked of a chip's randomness where there is none."""
    notes = []
    if values.get("match_noise") and not _noise(net):
        notes.append("match_noise has no noise to match: no chip makes spike times uncertain")
    chip = isinstance(net.machine, OnChip) and net.gradient != "ideal"
    if "trials" in values and recipe.trials > 1 and not (chip or recipe.input_noise):
        notes.append(
            f"trials={recipe.trials} presents each sample {recipe.trials} times alike: nothing is random "
            "without a chip or input_noise"
        )
    return notes


def _same_optimizer(net: Network, recipe: Recipe) -> bool:
    """Whether the state that a network has kept of its optimiser, if any, is of a recipe's."""
    before = net.told_recipe
    if isinstance(before, Mapping):
        told = before["optimizer"]
        return (told if isinstance(told, str) else told["name"]) == leaf_name(recipe.optimizer)
    return before is None or type(before.optimizer) is type(recipe.optimizer)


def _noise(net: Network) -> float:
    """Standard deviation of what nobody can know of spike times on the chip that it learns on, in tau_syn."""
    chip = getattr(net.machine, "chip", None)
    if net.gradient == "ideal" or not isinstance(chip, EmulatedChip):
        return 0.0
    return chip.substrate.time_noise / net.tau_syn


def _labelled(net: Network, times: str, labels: str, samples: Samples, *, sort: bool = False) -> Labelled:
    t_in = spike_times(times, samples[0], net.sizes[0], net.dtype)
    known = class_labels(labels, samples[1], len(t_in), n_classes(net.architecture.layers))
    received = net.architecture.receive(t_in[None], sort=sort and net.backend.name != "cuda")
    return Labelled(received, known)
