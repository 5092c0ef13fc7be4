"""From a configuration to the parts of a run, each checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.accountant import Prices, find, read_prices
from gpuspike.backend import Backend, select, thread_count
from gpuspike.config.schema import (
    BackendName,
    Config,
    DatasetConfig,
    DatasetName,
    GradientName,
    LossName,
    NewChip,
    OptimizerName,
    conf_folder,
)
from gpuspike.datasets import FASHION_MNIST, MNIST, Dataset, load_arrays, load_images, yin_yang
from gpuspike.datasets.encoding import latency, pixel_latency
from gpuspike.errors import BackendError, ConfigError
from gpuspike.kernels import load
from gpuspike.kernels.cuda import graph as cuda_graph
from gpuspike.network.layers import LayerInput, Moment
from gpuspike.network.network import Machine, Network
from gpuspike.neuron import LIF
from gpuspike.runs import dashboards as trackers
from gpuspike.runs import memory
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.augmentation import RandomShift
from gpuspike.training.bumping import Bumping
from gpuspike.training.compiled import compiled_step
from gpuspike.training.device import DeviceStep
from gpuspike.training.losses import Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.training.optim import SGD, Adam, Optimizer, Schedule
from gpuspike.training.trainer import Trainer, TrainingRule

Array = NDArray[Any]


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, built and checked; nothing computed yet."""

    config: Config
    backend: Backend
    dataset: Dataset
    network: Network
    substrate: Substrate
    loss: Loss
    rule: TrainingRule
    schedule: Schedule
    prices: Prices
    make_optimizer: Callable[[list[Array]], Optimizer]
    make_bumping: Callable[[], Bumping]

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

    def receive(self, features: Array, *, again: bool = False) -> LayerInput:
        """What the first layer gets of (n_samples, n_features) features or pixels, on the host.

        Args:
            again: the same times will come more than once, so that a host had better keep their order.
        """
        return self.network.receive(self.encode(features), sort=again and self.backend.name != "cuda")

    def _fresh_chip(self, moment: Moment) -> EmulatedChip:
        """The chips of one training batch; each has an address of its own."""
        n_batches = -(-self.config.dataset.n_train // self.config.training.batch_size)
        step = 1 + moment.epoch * n_batches + moment.batch
        return self.chip([seed + (step << 32) for seed in self.chip_seeds])

    def encode(self, features: Array) -> Array:
        """(n_samples, n_features) features or pixels as (1, n_samples, n_features) spike times."""
        data, unit, dtype = self.config.dataset, self.config.model.tau_syn, self.config.dtype.value
        early, late = data.t_early * unit, data.t_late * unit
        features = np.repeat(features, self.config.model.input_repeats, axis=1)
        if self.dataset.spike_times:
            return (features * unit)[None].astype(dtype)
        if features.dtype == np.uint8:
            table = pixel_latency(data.full_scale, early, late, silent_black=data.silent_black)
            return table.astype(dtype)[features][None]
        return latency(features, early, late)[None].astype(dtype)


def _dataset(config: DatasetConfig) -> Dataset:
    sizes = (config.n_train, config.n_validation, config.n_test)
    if config.name is DatasetName.npz:
        if not config.path:
            raise ConfigError("dataset=npz needs dataset.path, an .npz file, got none")
        return load_arrays(Path(config.path), *sizes)
    return _load(config.name, config.image_size, *sizes)


@lru_cache(maxsize=4)
def _load(name: DatasetName, image_size: int, n_train: int, n_validation: int, n_test: int) -> Dataset:
    if name is DatasetName.yin_yang:
        return yin_yang(n_train, n_validation, n_test)
    source = MNIST if name is DatasetName.mnist else FASHION_MNIST
    return load_images(source, image_size, n_train, n_validation, n_test)


def _augmentation(config: Config) -> RandomShift | None:
    data, most = config.dataset, config.training.max_shift
    if most == 0:
        return None
    if data.name not in (DatasetName.mnist, DatasetName.fashion_mnist):
        raise ConfigError(
            f"training.max_shift needs images, got dataset.name={data.name.value} and {most} pixels"
        )
    if config.model.input_repeats > 1:
        raise ConfigError(
            f"training.max_shift moves inputs that are pixels, got model.input_repeats="
            f"{config.model.input_repeats}"
        )
    black = np.inf if data.silent_black else data.t_late * config.model.tau_syn
    return RandomShift(data.image_size, most, black)


_TIMES = (
    "tau_mem_shift", "tau_mem_std", "tau_syn_shift", "tau_syn_std", "input_jitter", "spike_jitter",
    "time_grid", "trial_end",
)  # fmt: skip
"""What the configuration gives in tau_syn."""


def _substrate(config: Config) -> Substrate:
    values: dict[str, Any] = {f.name: getattr(config.substrate, f.name) for f in fields(Substrate)}
    values |= {name: values[name] * config.model.tau_syn for name in _TIMES}
    values["weight_max"] = tuple(values["weight_max"])
    substrate = Substrate(**values)
    window = (config.dataset.t_late - config.dataset.t_early) * config.model.tau_syn
    if substrate.time_grid > window:
        raise ConfigError(
            "substrate.time_grid must not be coarser than the window of the inputs, "
            f"{window / config.model.tau_syn:g} tau_syn, got {config.substrate.time_grid:g}"
        )
    return substrate


def _backend(name: BackendName, substrate: Substrate) -> Backend:
    """What computes: a device knows no chips, and `auto` asks none for one.

    Raises:
        BackendError: a backend that this machine does not have, or a chip on a device.
    """
    if name is BackendName.auto and not substrate.ideal:
        return select("cpu")
    backend = select(name.value)
    if backend.name == "cuda" and not substrate.ideal:
        raise BackendError(
            "an emulated chip needs backend=cpu or reference, got cuda: the device's step knows no chips yet"
        )
    return backend


def bytes_on_device(config: Config, dataset: Dataset, network: Network) -> int:
    """What a training keeps in a device's memory beside its step: data, shuffles, a validation's answers."""
    first, last = network.layers[0], network.layers[-1]
    item = np.dtype(config.dtype.value).itemsize
    n_train, n_validation = (len(dataset.splits[name].labels) for name in ("train", "validation"))
    labelled = first.n_pre * item + 8
    unchanged = config.training.max_shift == 0 and config.training.input_noise == 0.0
    order = 8 * first.n_pre if unchanged else 0
    answered = config.replicas * (last.n_out + 1) * item
    return n_train * (labelled + order + 8 * config.replicas) + n_validation * (labelled + answered)


def _evaluated_together(config: Config, dataset: Dataset, network: Network, to_train: bool) -> int:
    """Samples of a forward pass in evaluations: as asked for, but no more than a device's memory holds.

    Raises:
        ConfigError: a training that the device's memory does not hold.
    """
    return memory.fit_device(
        [(layer.n_pre, layer.n_out) for layer in network.layers],
        config.training.batch_size,
        config.training.evaluation_batch_size,
        bytes_on_device(config, dataset, network),
        cuda_graph.free_memory(),
        training=to_train,
        n_replica=config.replicas,
        dtype=config.dtype.value,
        state_arrays=2 if config.optimizer.name is OptimizerName.adam else 1,
    )


def build(config: Config, *, to_train: bool = True) -> Experiment:
    """Builds every part of a run, so that a value that cannot work is refused before any work.

    Args:
        to_train: False where only the network is asked: a device then need not hold a training.

    Raises:
        GpuspikeError: what was expected, and what was got.
    """
    model, training, optimizer, data = config.model, config.training, config.optimizer, config.dataset
    prices = read_prices(find(config.substrate.prices, conf_folder() / "prices"))
    pixel_latency(data.full_scale, data.t_early, data.t_late, silent_black=data.silent_black)
    neuron = LIF(model.tau_mem, model.tau_syn, model.threshold, model.leak, model.capacitance)
    substrate = _substrate(config)
    backend = _backend(config.backend, substrate)
    if not all(std >= 0.0 and np.isfinite(std) for std in model.weight_std):
        raise ConfigError(f"model.weight_std must be 0 or more, got {model.weight_std}")
    if not np.isfinite(model.weight_mean).all():
        raise ConfigError(f"model.weight_mean must be finite, got {model.weight_mean}")
    if not all(np.isfinite(times).all() for times in model.bias_times):
        raise ConfigError(f"model.bias_times must be finite, got {model.bias_times}")
    dataset = _dataset(data)
    sizes = (dataset.n_features * model.input_repeats, *model.hidden, len(dataset.class_names))
    bias_times = [[time * model.tau_syn for time in times] for times in model.bias_times]
    thread_count()
    trackers.check(config)
    network = Network.build(sizes, bias_times, neuron, load(backend.name))
    substrate.check_fit(network.layers)
    EmulatedChip(substrate, network.layers, network.kernels, [0])  # refuses parameters that no chip can have
    loss: Loss
    if training.loss is LossName.time_mse:
        loss = TimeMSE(model.tau_syn, training.t_correct, training.t_wrong, kernel=network.kernels.time_mse)
    else:
        loss = TTFSCrossEntropy(
            model.tau_syn, training.xi, training.alpha, training.beta, kernel=network.kernels.cross_entropy
        )

    def make_optimizer(weights: list[Array]) -> Optimizer:
        if optimizer.name is OptimizerName.sgd:
            return SGD(weights, optimizer.momentum)
        return Adam(weights, network.kernels, optimizer.beta1, optimizer.beta2, optimizer.epsilon)

    def make_bumping() -> Bumping:
        return Bumping(
            training.max_silent,
            training.bump_value,
            config.replicas,
            training.bump_exponential,
            training.bump_targeted,
        )

    together = training.evaluation_batch_size
    if backend.name == "cuda":
        together = _evaluated_together(config, dataset, network, to_train)
    make_bumping()
    make_optimizer([np.zeros((1, 1, 1))])
    return Experiment(
        config=config,
        backend=backend,
        dataset=dataset,
        network=network,
        substrate=substrate,
        loss=loss,
        rule=TrainingRule(
            batch_size=training.batch_size,
            evaluation_batch_size=together,
            max_weight_grad=training.max_weight_grad,
            bump_replaces_step=training.bump_replaces_step,
            input_noise=training.input_noise * model.tau_syn,
            augment=_augmentation(config),
        ),
        schedule=Schedule(
            optimizer.learning_rate,
            optimizer.schedule.value,
            optimizer.step_size,
            optimizer.gamma,
            training.epochs,
        ),
        prices=prices,
        make_optimizer=make_optimizer,
        make_bumping=make_bumping,
    )


def new_trainer(parts: Experiment) -> Trainer:
    """A trainer with freshly drawn weights."""
    model = parts.config.model
    weights = parts.network.initial_weights(
        parts.seeds, model.weight_mean, model.weight_std, parts.config.dtype.value
    )
    trained = parts.trained_machine()
    # Examined is always the chip that the run is for.
    new = trained is parts.network or parts.config.substrate.new_chip is NewChip.step
    optimizer, bumping = parts.make_optimizer(weights), parts.make_bumping()
    examined = parts.on_chip(parts.chip_seeds) if new else trained
    if parts.backend.name == "cuda":
        step = DeviceStep(
            parts.network,
            weights,
            parts.loss,
            optimizer,
            bumping,
            parts.rule,
            parts.seeds,
            graph=parts.config.training.cuda_graph,
        )
    else:
        step = compiled_step(
            trained, examined, weights, parts.loss, optimizer, bumping, parts.rule, parts.seeds
        )
    return Trainer(
        trained,
        weights,
        parts.loss,
        optimizer,
        parts.schedule,
        bumping,
        parts.rule,
        parts.seeds,
        examined,
        step,
    )
