"""The configuration: a typed schema for Hydra, and how it becomes plain dataclasses.

The values stand in conf/. Below this module and the command line nobody sees Hydra or OmegaConf.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from gpuspike import plugins
from gpuspike.backend import ORACLE
from gpuspike.config import checks, fitting
from gpuspike.config.choices import (
    USUAL_PRICES,
    BackendName,
    Dtype,
    GradientName,
    NewChip,
    ScheduleName,
    SilenceName,
    TrackerName,
    TrackingMode,
)
from gpuspike.config.composition import beside, beside_chip, composed, typed
from gpuspike.config.composition import register as register_schema
from gpuspike.config.files import conf_folder, latest_within, not_a_run, read_yaml
from gpuspike.config.keys import key_of
from gpuspike.config.parts import group, offer, option
from gpuspike.datasets import DATASETS
from gpuspike.errors import ConfigError, DataError
from gpuspike.kinds import is_number
from gpuspike.strangers import no_interpolation
from gpuspike.substrate.distortions import DISTORTIONS
from gpuspike.training.losses import LOSSES, Loss
from gpuspike.training.optimizers import OPTIMIZERS, Optimizer

ENCODING = {"t_early": 0.15, "t_late": 2.0}
"""Times of a data set that has no YAML file, in tau_syn."""


@dataclass
class DatasetConfig:
    """Group `dataset`: which samples, and how they become spikes; `dataset_config` adds data sets' own."""

    name: str = MISSING  # in gpuspike.datasets.DATASETS
    n_train: int | None = None  # null: as many as the file of a data set of one's own has
    n_validation: int | None = None
    n_test: int | None = None
    t_early: float = MISSING  # spike time of the smallest value, or of the brightest pixel [tau_syn]
    t_late: float = MISSING  # spike time of the largest value, or of a black pixel [tau_syn]
    full_scale: float = 256.0  # pixel value that spikes at t_early; images
    silent_black: bool = False  # black pixels do not spike at all; images
    opposites: bool = (
        False  # each value v comes with 1 - v, and a pixel with its negative, as inputs of their own
    )


def _as_float(time: Any) -> Any:
    if type(time) is not int:
        return time
    return float(time) if is_number(time) else math.inf  # of a whole number that no float holds


@dataclass
class ModelConfig:
    """Group `model`: layers, initial weights and neurons."""

    hidden: list[int] = MISSING  # neurons of each hidden layer
    # Instead of it, all layers in a row: [{conv: 16, kernel: 5}, {pool: 2}, {dense: 10}]; docs/convolution.md
    layers: list[dict[str, Any]] = field(default_factory=list)
    # In the lists by layer one value stands for all layers.
    bias_times: list[list[Any]] = MISSING  # for each layer, the times of its bias spikes; numbers
    weight_mean: list[float] | None = MISSING  # initial, by layer; null: from the number of inputs
    weight_std: list[float] | None = MISSING
    # Instead of both, measured: the share of (sample, neuron) pairs of each layer that spike at first, and
    # how long after its inputs [tau_syn]; docs/silence.md
    fires: list[float] | None = None
    spikes_at: list[float] | None = None
    tau_mem: float = MISSING  # inf: no leak
    tau_syn: float = MISSING
    threshold: float = MISSING
    leak: float = MISSING
    capacitance: float = MISSING
    trained: list[str] = field(default_factory=list)  # constants that each neuron learns, beside the weights
    frozen: bool = False  # weights stay as they begin, and the constants alone are learnt
    delays: str = "none"  # that are learnt: axonal, dendritic, synaptic, or a sum: axonal+dendritic
    delay_shift: float = 0.0  # the least delay [tau_syn]
    delay_scale: float = 1.0  # how much longer the longest is [tau_syn]
    delay_form: str = "sigmoid"  # from free numbers to delays; or clipped
    delay_spread: float = 0.25  # standard deviation of the free numbers in the beginning
    input_repeats: int = 1  # inputs, each with weights of its own, that every value is sent to

    def __post_init__(self) -> None:
        # OmegaConf refuses [[1], [0.9]] as lists of lists of floats.
        if isinstance(self.bias_times, list) and all(isinstance(times, list) for times in self.bias_times):
            whole = [[_as_float(t) for t in times] for times in self.bias_times]
            self.bias_times = whole


@dataclass
class OptimizerConfig:
    """Group `optimizer`; `optimizer_config` adds optimisers' own values."""

    name: str = MISSING  # in gpuspike.training.optimizers.OPTIMIZERS
    learning_rate: float = MISSING
    schedule: ScheduleName = MISSING
    step_size: int = 20  # epochs; schedule=step
    gamma: float = 0.95  # schedule=step


@dataclass
class TrainingConfig:
    """Group `training`: length, loss, bumping and guards; `training_config` adds losses' own values."""

    epochs: int = MISSING
    batch_size: int = MISSING
    evaluation_batch_size: int = MISSING
    loss: str = MISSING  # in gpuspike.training.losses.LOSSES
    silence: SilenceName = SilenceName.bumping  # what wakes silent neurons
    waking: float = 1.0  # strength; silence=waking
    max_silent: list[float] | None = (
        MISSING  # silent fraction of each layer above which it is bumped; null: usual
    )
    bump_value: float = MISSING
    bump_exponential: bool = True
    bump_targeted: bool = True
    bump_replaces_step: bool = True
    max_weight_grad: float = MISSING  # inf: none
    input_noise: float = 0.0  # standard deviation [tau_syn]
    max_shift: int = 0  # of training images at random, docs/augmentation.md [pixels]
    max_turn: float = 0.0  # largest angle [degrees]
    max_zoom: float = 0.0  # largest change of height, and of width, as a share
    max_shear: float = 0.0  # largest shear, as a share
    elastic: float = 0.0  # root of the mean square of a smooth random displacement [pixels]
    mirror: bool = False  # half of the training images, left and right exchanged
    trials: int = 1  # times that a step presents each of its samples, with jitter and losses of their own
    match_noise: bool = False  # a loss no sharper than the chip's noise on spike times lets it be
    cuda_graph: bool = True  # replay a device's step as a CUDA graph; changes nothing but speed


@dataclass
class SubstrateConfig:
    """Group `substrate`: a kind of chip; `substrate_config` adds the keys of all distortions.

    Times in tau_syn, weights and thresholds in the model's units.
    """

    name: str = MISSING
    prices: str = ""  # of the accountant: a name in conf/prices, or a path to a YAML file; "": USUAL_PRICES
    max_fan_in: int = 0  # inputs of a neuron, bias spikes included; 0: no limit
    max_neurons: int = 0  # on one chip
    max_synapses: int = 0  # on one chip
    gradient: GradientName = GradientName.nominal
    new_chip: NewChip = NewChip.run  # step: each batch is trained on another chip
    population: int = 0  # chips that take turns in new_chip=step; 0: none comes again


def dataset_config() -> DatasetConfig:
    """The group `dataset` before any value is given, with those of the data sets registered by now."""
    return group(DatasetConfig, DATASETS)()


def dataset_values(name: str) -> dict[str, Any]:
    """What `dataset=NAME` stands for, a file in conf/dataset or a registered data set.

    Raises:
        ConfigError: there is none of that name.
    """
    return option("dataset", name, DATASETS, ENCODING)


def optimizer_config() -> OptimizerConfig:
    """The group `optimizer` before any value is given, with those of the optimisers registered by now."""
    return group(OptimizerConfig, OPTIMIZERS, Optimizer)()


def training_config() -> TrainingConfig:
    """The group `training` before any value is given, with those of the losses registered by now."""
    return group(TrainingConfig, LOSSES, Loss)()


def substrate_config() -> SubstrateConfig:
    """The group `substrate` before any value is given, with the distortions registered by now."""
    return group(SubstrateConfig, DISTORTIONS)()


@dataclass
class TrackingConfig:
    """Group `tracking`; all but the name and the uri is for wandb."""

    name: TrackerName = MISSING
    mode: TrackingMode = TrackingMode.online
    project: str = "gpuspike"
    entity: str | None = None  # account or team; null: the user's default
    group: str | None = None  # runs shown together; null: the experiment's name
    tags: list[str] = field(default_factory=list)
    uri: str | None = None  # of MLflow's server or store; null: MLFLOW_TRACKING_URI


@dataclass
class Config:
    """A whole run."""

    dataset: DatasetConfig = field(default_factory=dataset_config)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=optimizer_config)
    training: TrainingConfig = field(default_factory=training_config)
    substrate: SubstrateConfig = field(default_factory=substrate_config)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    name: str | None = None  # of the run; null: that of its experiment
    seed: int = 0
    replicas: int = 1
    chip_seed: int | None = None  # of the first replica's chip; null: seed
    backend: BackendName = BackendName.auto
    devices: Any = None  # CUDA devices that share the replicas: all, or numbers, [0,1]; null: the current one
    dtype: Dtype = Dtype.float64
    resume: str | None = None  # folder of a stopped run to go on with
    start: str | None = None  # folder of a run whose networks this one begins with
    plugin: list[str] = field(default_factory=list)  # files with a user's own parts, and their digests


def register() -> None:
    """Makes the schema known to Hydra, and parts without a YAML file of theirs."""
    register_schema("schema", Config)
    offer("dataset", DATASETS, ENCODING)
    offer("optimizer", OPTIMIZERS, {"learning_rate": 0.005, "schedule": ScheduleName.constant})


def parts_of(group: str) -> set[str]:
    """Names in a group that need no YAML file: parts that are registered, a user's own among them."""
    registries: dict[str, Any] = {"dataset": DATASETS, "optimizer": OPTIMIZERS}
    return set(registries.get(group, ()))


@dataclass(frozen=True)
class Job:
    """One run that a command line asks for; `folder` is its own, or that of the `sweep` it is part of.

    Attributes:
        notes: what may not be meant, each in one line.
    """

    config: Config
    experiment: str
    folder: Path
    overrides: Sequence[str] = ()
    sweep: bool = False
    notes: Sequence[str] = ()


def experiment_name(config: Config) -> str:
    """What the running Hydra job composes: an experiment, or its data, where that is made for others."""
    choices = HydraConfig.get().runtime.choices
    return fitting.title(choices, config.dataset.name, str(getattr(config.dataset, "path", "")))


def to_config(cfg: DictConfig, also: checks.Check | None = None) -> Config:
    """The composed configuration as plain dataclasses, without Hydra's own node.

    Args:
        also: checks what is known further up the house; its mistakes are told with the others.

    Raises:
        ConfigError: a missing or mistyped value, or one outside of its range.
    """
    return _checked(cfg, also)


def from_values(values: dict[str, Any]) -> Config:
    """A configuration from plain values, as `identity.to_values` gives them.

    Raises:
        ConfigError: a missing or mistyped value, one outside of its range, or an unknown key.
    """
    try:
        no_interpolation(values)
    except DataError as error:
        raise ConfigError(str(error)) from None
    return _checked(values)


def _checked(values: Any, also: checks.Check | None = None) -> Config:
    entries = values.get(plugins.KEY)
    # First, since plug-ins declare some of the values.
    found = plugins.require(entries) if isinstance(entries, (list, ListConfig)) else []
    config = typed(values, Config)
    config.plugin = found
    config.substrate = _priced(config.substrate)
    checks.complete(config)
    checks.check(config, also)
    return config


def _priced(substrate: SubstrateConfig) -> SubstrateConfig:
    substrate.prices = substrate.prices or USUAL_PRICES
    return substrate


def read_config(path: Path) -> Config:
    """The configuration that a run has left.

    Raises:
        ConfigError: no such file, or not one of a run.
    """
    if not path.is_file():
        why = not_a_run(path.parent) or f"which has no {path.name}{latest_within(path.parent)}"
        raise ConfigError(f"no run at {path.parent}, {why}")
    try:
        return to_config(read_yaml(path, plain=True))
    except plugins.NotGivenError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path} is not of a run of this version: {error}") from None


def read_substrate(path: Path) -> SubstrateConfig:
    """A chip's YAML file.

    Raises:
        ConfigError: no such file, or one that does not describe a chip.
    """
    if not path.is_file() and path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"substrate: there is no file {path}, seen from {Path.cwd()}")
    if not path.is_file():
        known = sorted(file.stem for file in (conf_folder() / "substrate").glob("*.yaml"))
        close = get_close_matches(str(path), known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"substrate must be one of {', '.join(known)}, or a YAML file, got {path}{hint}")
    try:
        substrate = _priced(typed(read_yaml(path, plain=True), type(substrate_config())))
    except ConfigError as error:
        raise ConfigError(f"{path} describes no chip: {error}") from None
    substrate.prices = beside(substrate.prices, path)
    return substrate


def to_yaml(config: Config) -> str:
    """The configuration as YAML that can be read back with Hydra."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def jobs(overrides: Sequence[str], multirun: bool, also: checks.Check | None = None) -> list[Job]:
    """What a command line asks for, checked before any work starts.

    Args:
        overrides: as given to Hydra, for example ["replicas=10", "seed=0,1"].
        multirun: expand comma-separated values, as Hydra's `-m` does; so does an experiment that is a sweep.
        also: as in `to_config`.

    Raises:
        ConfigError: a typo, a wrong type or an impossible value in any of the jobs.
    """
    register()
    made = functools.partial(_job, multirun=multirun, also=also)
    return composed(overrides, multirun, conf_folder(), "config", Config, made)


def _job(cfg: DictConfig, multirun: bool, also: checks.Check | None) -> Job:
    sweeps = multirun or cfg.hydra.mode is RunMode.MULTIRUN
    folder = Path(cfg.hydra.sweep.dir if sweeps else cfg.hydra.run.dir)
    config = to_config(beside_chip(cfg), also)
    checks.check_launcher(OmegaConf.to_container(cfg.hydra.launcher))
    notes = fitting.misfits(cfg.hydra.runtime.choices, suited=config.model.weight_mean is None)
    if not cfg.substrate.prices:
        notes.append(
            f"substrate={config.substrate.name} names no prices: time and energy are told as if it were "
            f"{USUAL_PRICES}; substrate.prices=NAME, or a file of yours, takes others"
        )
    if config.backend is BackendName.reference:
        notes.append(ORACLE)
    task = list(cfg.hydra.overrides.task)
    return Job(config, experiment_name(config), folder, task, sweeps, notes + notes_of(config, task))


def notes_of(config: Config, task: Sequence[str]) -> list[str]:
    """What nothing reads of a configuration, and of what was typed for it."""
    notes = [*fitting.aimless(config), *fitting.unread(task, config)]
    notes += fitting.undelayed(task, config.model.delays)
    own: dict[str, Any] = {}
    if config.resume is None:  # else the run has parts of its own
        own = {"optimizer": (OPTIMIZERS, config.optimizer.name)}
        own |= {"dataset": (DATASETS, config.dataset.name), "training": (LOSSES, config.training.loss)}
        notes += fitting.suited_to_unit(set(map(key_of, task)), config)
        notes += [*fitting.far_apart(set(map(key_of, task)), config.model), *fitting.sharper(config)]
    return notes + fitting.unused(task, **own)
