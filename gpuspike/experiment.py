"""From a configuration to the parts of a run, each checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike import trackers
from gpuspike.accountant import Prices, find, read_prices
from gpuspike.augmentation import RandomShift
from gpuspike.backend import Backend, select
from gpuspike.bumping import Bumping
from gpuspike.config import (
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
from gpuspike.encoding import latency, pixel_latency
from gpuspike.errors import BackendError, ConfigError
from gpuspike.kernels import load
from gpuspike.kernels.threads import thread_count
from gpuspike.layers import Moment
from gpuspike.losses import Loss, TimeMSE, TTFSCrossEntropy
from gpuspike.network import Machine, Network
from gpuspike.neuron import LIF
from gpuspike.optim import SGD, Adam, Optimizer, Schedule
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.trainer import Trainer, TrainingRule

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


def build(config: Config) -> Experiment:
    """Builds every part of a run, so that a value that cannot work is refused before any work.

    Raises:
        GpuspikeError: what was expected, and what was got.
    """
    model, training, optimizer, data = config.model, config.training, config.optimizer, config.dataset
    if config.backend is BackendName.cuda:  # the kernels exist, the trainer keeps to the CPU
        raise BackendError("training runs on backend=cpu or reference, got cuda")
    backend = select("reference" if config.backend is BackendName.reference else "cpu")
    prices = read_prices(find(config.substrate.prices, conf_folder() / "prices"))
    pixel_latency(data.full_scale, data.t_early, data.t_late, silent_black=data.silent_black)
    neuron = LIF(model.tau_mem, model.tau_syn, model.threshold, model.leak, model.capacitance)
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
    substrate = _substrate(config)
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
            evaluation_batch_size=training.evaluation_batch_size,
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
    return Trainer(
        trained,
        weights,
        parts.loss,
        parts.make_optimizer(weights),
        parts.schedule,
        parts.make_bumping(),
        parts.rule,
        parts.seeds,
        parts.on_chip(parts.chip_seeds) if new else trained,
    )
