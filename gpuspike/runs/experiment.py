"""From a configuration to the parts of a run, each checked before any work starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.accountant import Prices, find, read_prices
from gpuspike.backend import Backend, select, thread_count
from gpuspike.config.checks import batch_too_large, devices_of
from gpuspike.config.schema import (
    Config,
    GradientName,
    NewChip,
    SilenceName,
    conf_folder,
)
from gpuspike.datasets import Dataset
from gpuspike.errors import ConfigError
from gpuspike.kernels import load
from gpuspike.kernels.cuda import graph as cuda_graph
from gpuspike.kernels.limits import largest_sum
from gpuspike.network.calibration import SAMPLES, calibrated
from gpuspike.network.delays import kinds_of, learnt, name_of, shape
from gpuspike.network.initial import from_fan_in
from gpuspike.network.layers import LayerInput, Moment
from gpuspike.network.network import Architecture, Machine
from gpuspike.network.parameters import Parameters, trained_on_host
from gpuspike.network.plan import Plan, read_plan, timed
from gpuspike.neuron import LIF
from gpuspike.runs import memory
from gpuspike.runs.encoding import dataset_of, encoded, inputs_of_value
from gpuspike.runs.recipes import augmentation_of, recipe_of
from gpuspike.runs.start import begin_with, check_start
from gpuspike.runs.values import by_keys, check_values, checked_substrate, delay_rule_of
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.augmentation import RandomWarp, WithOpposites
from gpuspike.training.device import drawn_ahead
from gpuspike.training.devices import Share, shared
from gpuspike.training.fit import Recipe, make_trainer, step_kind
from gpuspike.training.losses import Loss
from gpuspike.training.optimizers import OPTIMIZERS
from gpuspike.training.step import StepKind, TrainingRule
from gpuspike.training.trainer import Trainer

Array = NDArray[Any]


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, built and checked; nothing computed yet."""

    config: Config
    backend: Backend
    dataset: Dataset
    network: Architecture
    substrate: Substrate
    loss: Loss
    rule: TrainingRule
    recipe: Recipe
    prices: Prices

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of all that the network learns beside its weights."""
        return learnt(self.config.model.trained, self.config.model.delays)

    @property
    def seeds(self) -> list[int]:
        """Seed of each replica."""
        return [self.config.seed + r for r in range(self.config.replicas)]

    @property
    def chip_seeds(self) -> list[int]:
        """Seed of each replica's chip."""
        first = self.config.seed if self.config.chip_seed is None else self.config.chip_seed
        return [(first + r) % 2**32 for r in range(self.config.replicas)]

    def chip(self, seeds: Sequence[int]) -> EmulatedChip:
        """Pieces of the silicon that the run is for, one a replica."""
        return EmulatedChip(self.substrate, self.network.layers, self.network.kernels, seeds)

    def on_chip(self, seeds: Sequence[int]) -> Machine:
        """The network as those chips answer for it; the network itself on an ideal substrate."""
        if self.substrate.ideal:
            return self.network
        gradient = self.config.substrate.gradient
        mode = "exact" if gradient is GradientName.exact else "nominal"
        return OnChip(self.network, self.chip(seeds), mode)

    def trained_machine(self) -> Machine:
        """What the gradient is taken of."""
        if self.substrate.ideal or self.config.substrate.gradient is GradientName.ideal:
            return self.network
        machine = self.on_chip(self.chip_seeds)
        if isinstance(machine, OnChip) and self.config.substrate.new_chip is NewChip.step:
            machine.fresh = self._fresh_chip
        return machine

    def having(self, parameters: Parameters, machine: Machine) -> tuple[Experiment, Machine]:
        """The same, and one of its machines, with the constants that the neurons have learnt."""
        after = replace(self, network=self.network.having(parameters))
        return after, after.network if machine is self.network else machine.having(parameters)

    def of_replica(self, replica: int) -> Experiment:
        """The same with the neurons of one replica."""
        return replace(self, network=self.network.of_replica(replica))

    def of_replicas(self, part: slice) -> Experiment:
        """The same for some of the replicas, and so with their chips."""
        config = self.config
        chips = None if config.chip_seed is None else config.chip_seed + part.start
        config = replace(
            config, seed=config.seed + part.start, chip_seed=chips, replicas=part.stop - part.start
        )
        return replace(self, config=config)

    def machines(self) -> tuple[Machine, Machine]:
        """What the gradient is taken of, and what is examined: always the chip that the run is for."""
        trained = self.trained_machine()
        new = trained is self.network or self.config.substrate.new_chip is NewChip.step
        return trained, self.on_chip(self.chip_seeds) if new else trained

    def step_kind(self) -> StepKind:
        """Which step its training has, told before there is one."""
        parts = (self.trained_machine(), self.loss, self.recipe.optimizer, self.rule, self.config.replicas)
        wakes = self.config.training.silence is SilenceName.waking
        return step_kind(*parts, self.trained, on_device=self.backend.name == "cuda", wakes=wakes)

    def receive(self, features: Array, *, again: bool = False) -> LayerInput:
        """What the first layer gets of (n_samples, n_features) features or pixels, on the host.

        Args:
            again: the same times will come more than once, so that a host had better keep their order.
        """
        return self.network.receive(self.encode(features), sort=again and self.backend.name != "cuda")

    def _fresh_chip(self, moment: Moment) -> EmulatedChip:
        """The chips of one training batch; each has an address of its own."""
        n_batches = -(-len(self.dataset.train.labels) // self.config.training.batch_size)
        step = moment.epoch * n_batches + moment.batch
        step = 1 + (step % self.config.substrate.population if self.config.substrate.population else step)
        return self.chip([seed + (step << 32) for seed in self.chip_seeds])

    def encode(self, features: Array) -> Array:
        """(n_samples, n_features) features or pixels as (1, n_samples, n_features) spike times."""
        config, times = self.config, self.dataset.spike_times
        unit, repeats = config.model.tau_syn, config.model.input_repeats
        return encoded(features, config.dataset, unit, config.dtype.value, times=times, repeats=repeats)[None]


def bytes_on_device(config: Config, dataset: Dataset, network: Architecture) -> int:
    """What a training keeps in a device's memory beside its step: data, shuffles, a validation's answers."""
    first, last = network.layers[0], network.layers[-1]
    item = np.dtype(config.dtype.value).itemsize
    n_train, n_validation = (len(dataset.splits[name].labels) for name in ("train", "validation"))
    labelled = first.n_received * item + 8
    augment = augmentation_of(config, dataset)
    changed = augment is not None or config.training.input_noise or first.convolution is not None
    order = 0 if changed else 8 * first.n_received
    answered = config.replicas * (last.n_out + 1) * item
    shuffled = 8 * config.replicas * config.training.trials
    change = augment.change if isinstance(augment, WithOpposites) else augment
    ahead = drawn_bytes(change, config, n_train) if isinstance(change, RandomWarp) else 0
    return ahead + n_train * (labelled + order + shuffled) + n_validation * (labelled + answered)


def drawn_bytes(warp: RandomWarp, config: Config, n_train: int) -> int:
    """What a device holds of numbers that images are warped by."""
    presented = config.training.batch_size * config.training.trials
    ahead = drawn_ahead(warp, config.replicas, presented, n_train * config.training.trials)
    return 8 * config.replicas * ahead * presented * warp.n_drawn


def chip_bytes_on_device(config: Config, network: Architecture, substrate: Substrate) -> int:
    """What emulated chips keep in a device's memory: all that they may have, whatever is on.

    Of a synapse error, gain, stuck weight and factor of the gradient, and the weight as it is held and as it
    comes, of a convolution for each use of one, by position twice more, with its gradient likewise; and what
    delays have been drawn to be off by. Where
    each step has a chip of its own, the one that is examined stands beside it.
    """
    if substrate.ideal:
        return 0
    real, n_bytes = np.dtype(config.dtype.value).itemsize, 0
    for layer in network.layers:
        copies = 2 if layer.convolution is None else 6
        n_bytes += config.replicas * layer.n_pre * layer.n_neurons * (4 * 8 + copies * real)
        sizes = config.replicas, layer.n_pre, layer.n_post
        n_bytes += sum(8 * math.prod(shape(kind, *sizes)) for kind in kinds_of(config.model.delays))
    return (2 if config.substrate.new_chip is NewChip.step else 1) * n_bytes


def own_inputs(substrate: Substrate, trained: Sequence[str]) -> bool:
    """Whether each replica gets the inputs of all at times of its own."""
    return bool(substrate.doing("arrive")) or name_of("axonal") in trained


def _evaluated_together(
    config: Config,
    dataset: Dataset,
    network: Architecture,
    substrate: Substrate,
    to_train: bool,
    devices: Sequence[int],
) -> int:
    """Samples of a forward pass in evaluations: as asked for, but no more than a device's memory holds.

    Each of several devices trains a share of the replicas; the first one evaluates all of them in the end.

    Raises:
        ConfigError: a training that a device's memory does not hold.
    """
    rule, dtype = config.training, config.dtype.value
    trained = learnt(config.model.trained, config.model.delays)

    def held(n_replica: int, training: bool, device: int | None = None) -> int:
        share = replace(config, replicas=n_replica)
        presented = rule.batch_size * rule.trials if training else 0
        passed = presented, rule.evaluation_batch_size, dtype, n_replica
        numbers = memory.learnt_bytes(network.layers, trained, *passed)
        return memory.fit_device(
            [(layer.n_pre, layer.n_post) for layer in network.layers],
            rule.batch_size,
            rule.evaluation_batch_size,
            bytes_on_device(share, dataset, network),
            cuda_graph.free_memory(device),
            chip_bytes=chip_bytes_on_device(share, network, substrate) + numbers,
            on_chip=not substrate.ideal,
            places=[layer.n_places for layer in network.layers],
            shared_input=not own_inputs(substrate, trained),
            training=training,
            trials=rule.trials,
            trained=trained,
            n_replica=n_replica,
            dtype=dtype,
            state_arrays=len(OPTIMIZERS[config.optimizer.name].STATE),
        )

    if len(devices) < 2:
        return held(config.replicas, to_train)
    each = [held(part.stop - part.start, to_train, one) for one, part in shared(devices, config.replicas)]
    return min([*each, held(config.replicas, False)])


def build(config: Config, *, to_train: bool = True, prices: Prices | None = None) -> Experiment:
    """Builds every part of a run, so that a value that cannot work is refused before any work.

    Args:
        to_train: False where only the network is asked: a device then need not hold a training.
        prices: those that a run has kept; None: those that the configuration names.

    Raises:
        GpuspikeError: what was expected, and what was got.
    """
    check_values(config, priced=prices is not None)
    model, training = config.model, config.training
    prices = prices or read_prices(find(config.substrate.prices, conf_folder() / "prices"))
    neuron = LIF(model.tau_mem, model.tau_syn, model.threshold, model.leak, model.capacitance)
    substrate = checked_substrate(config)
    trained = learnt(model.trained, model.delays)
    backend = select(
        config.backend.value,
        host_only=trained_on_host(trained, on_chip=not substrate.ideal) or substrate.host_only,
        devices=devices_of(config),
        most=config.replicas,
    )
    with by_keys("dataset", [item.name for item in fields(config.dataset)]):
        dataset = dataset_of(config.dataset)
    config = _with_sizes(config, dataset)
    bias_times = [[time * model.tau_syn for time in times] for times in model.bias_times]
    thread_count()
    sizes, image = _sizes(config, dataset)
    network = Architecture.build(sizes, bias_times, neuron, load(backend.name), image)
    for layer in network.layers:
        largest_sum(layer.neuron, config.dtype.value)  # refuses neurons that the dtype has no room for
    network = replace(network, delay_rule=delay_rule_of(config))
    if config.start is not None and to_train:
        check_start(config, network.layers)
    substrate.check_fit(network.layers, trained)
    EmulatedChip(substrate, network.layers, network.kernels, [0])  # refuses parameters that no chip can have
    recipe, on_chip = recipe_of(config), config.substrate.gradient is not GradientName.ideal
    noise = substrate.time_noise / model.tau_syn if on_chip else 0.0
    together = training.evaluation_batch_size
    with by_keys("training", [item.name for item in fields(training)]):
        augment = augmentation_of(config, dataset)
    if backend.name == "cuda":
        together = _evaluated_together(config, dataset, network, substrate, to_train, backend.devices)
    with by_keys("training", [item.name for item in fields(training)]):
        rule = replace(recipe, evaluation_batch_size=together).make_rule(model.tau_syn, augment)
    return Experiment(
        config=config,
        backend=backend,
        dataset=dataset,
        network=network,
        substrate=substrate,
        loss=recipe.make_loss(network.kernels, model.tau_syn, noise),
        rule=rule,
        recipe=recipe,
        prices=prices,
    )


def _sizes(config: Config, dataset: Dataset) -> tuple[Plan, tuple[int, int, int] | None]:
    """Inputs and layers of a network, and the image that the inputs are.

    Raises:
        ConfigError: layers that end with another number of neurons than there are classes.
    """
    model, n_classes = config.model, len(dataset.class_names)
    image = None if dataset.image_shape is None else (*dataset.image_shape, inputs_of_value(config))
    n_in = dataset.n_features * inputs_of_value(config)
    if not model.layers:
        return [n_in, *model.hidden, n_classes], image
    layers = timed(read_plan(model.layers), model.tau_syn)
    if layers[-1] != n_classes:
        raise ConfigError(
            f"model.layers must end with a dense layer of {n_classes} neurons, one for each class of "
            f"{dataset.name}, got {layers[-1]}"
        )
    return [n_in, *layers], image


def _with_sizes(config: Config, dataset: Dataset) -> Config:
    """The same with the sizes of a data set's own splits, where none are asked for.

    Raises:
        ConfigError: fewer samples than a batch has.
    """
    found = {f"n_{name}": len(split.labels) for name, split in dataset.splits.items()}
    sizes = {name: size for name, size in found.items() if getattr(config.dataset, name) is None}
    if not sizes:
        return config
    if found["n_train"] < config.training.batch_size:
        raise batch_too_large(config, found["n_train"])
    return replace(config, dataset=replace(config.dataset, **sizes))


def _calibrated(parts: Experiment, machine: Machine, fires: Sequence[float]) -> list[Array]:
    """Initial weights with which layers spike as is wished, found on the host."""
    model, network = parts.config.model, parts.network
    if parts.backend.name == "cuda":
        parts = replace(parts, network=replace(network, kernels=load("cpu")))
        network, machine = parts.network, parts.trained_machine()
    at = None if model.spikes_at is None else [model.tau_syn * delay for delay in model.spikes_at]
    received = network.receive(parts.encode(parts.dataset.train.features[:SAMPLES]), sort=False)
    return calibrated(machine, received, parts.seeds, fires, at, parts.config.dtype.value)


def new_trainer(parts: Experiment) -> Trainer:
    """A trainer with freshly drawn weights."""
    model = parts.config.model
    means, stds = model.weight_mean, model.weight_std
    if means is None or stds is None:
        suited_means, suited_stds = from_fan_in(parts.network.layers)
        means, stds = means or suited_means, stds or suited_stds
    trained, examined = parts.machines()
    if model.fires is not None and parts.config.start is None:
        weights = _calibrated(parts, trained, model.fires)
    else:
        weights = parts.network.initial_weights(parts.seeds, means, stds, parts.config.dtype.value)
    learnt = Parameters.of_weights(weights)
    learnt.check([layer.neuron for layer in parts.network.layers])
    parameters = learnt.training(parts.trained, parts.network.layers, parts.seeds, parts.network.delay_rule)
    if parts.config.start is not None:
        begin_with(parameters, parts.config, parts.network.layers)
    split = shared(parts.backend.devices, parts.config.replicas) if len(parts.backend.devices) > 1 else ()
    return make_trainer(
        parts.network,
        trained,
        examined,
        parameters,
        parts.recipe,
        parts.loss,
        parts.rule,
        parts.seeds,
        on_device=parts.backend.name == "cuda",
        frozen=model.frozen,
        shares=[Share(device, part, *parts.of_replicas(part).machines()) for device, part in split],
    )
