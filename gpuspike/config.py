"""The configuration: a typed schema for Hydra, and how it becomes plain dataclasses.

The values stand in conf/. Below this module and the command line nobody sees Hydra or OmegaConf.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpuspike.errors import ConfigError

MOST_SAMPLES = 1_000_000
"""Samples of a generated split: drawing more would take minutes before the run could be checked."""


MOST_REPLICAS = 100_000
"""Networks side by side: more would have filled the memory before the run could be checked."""

MOST_NEURONS = 1_000_000
"""Neurons of a hidden layer: a larger number is a mistake."""

MOST_JOBS = 10_000
"""Jobs of a sweep: each is checked before the first one starts."""


class BackendName(enum.Enum):
    """What computes."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"
    reference = "reference"


class Dtype(enum.Enum):
    """Type of times and weights."""

    float32 = "float32"
    float64 = "float64"


class DatasetName(enum.Enum):
    """Data sets that exist."""

    yin_yang = "yin_yang"
    mnist = "mnist"
    fashion_mnist = "fashion_mnist"


class OptimizerName(enum.Enum):
    """Optimisers that exist."""

    adam = "adam"
    sgd = "sgd"


class ScheduleName(enum.Enum):
    """Courses of the learning rate."""

    constant = "constant"
    step = "step"
    cosine = "cosine"


class LossName(enum.Enum):
    """Losses that exist."""

    ttfs_cross_entropy = "ttfs_cross_entropy"
    time_mse = "time_mse"


class SubstrateName(enum.Enum):
    """Chips that can be emulated."""

    ideal = "ideal"


class TrackerName(enum.Enum):
    """Where a run can be watched, beside its own folder."""

    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"


class TrackingMode(enum.Enum):
    """Whether Weights & Biases sends what it has, or keeps it in the run's folder."""

    online = "online"
    offline = "offline"


@dataclass
class DatasetConfig:
    """Group `dataset`: which samples, and how they become spike times."""

    name: DatasetName = MISSING
    n_train: int = MISSING
    n_validation: int = MISSING
    n_test: int = MISSING
    t_early: float = MISSING  # spike time of the smallest value, or of the brightest pixel [tau_syn]
    t_late: float = MISSING  # spike time of the largest value, or of a black pixel [tau_syn]
    image_size: int = 28  # pixels a side: 28, or 16 shrunk from the central 24; images
    full_scale: float = 256.0  # pixel value that spikes at t_early; images
    silent_black: bool = False  # black pixels do not spike at all; images


@dataclass
class ModelConfig:
    """Group `model`: layers, initial weights and neurons."""

    hidden: list[int] = MISSING  # neurons of each hidden layer
    bias_times: list[list[float]] = MISSING  # for each layer, the times of its bias spikes
    weight_mean: list[float] = MISSING  # of the initial weights, by layer
    weight_std: list[float] = MISSING
    tau_mem: float = MISSING  # inf: no leak
    tau_syn: float = MISSING
    threshold: float = MISSING
    leak: float = MISSING
    capacitance: float = MISSING


@dataclass
class OptimizerConfig:
    """Group `optimizer`."""

    name: OptimizerName = MISSING
    learning_rate: float = MISSING
    schedule: ScheduleName = MISSING
    step_size: int = 20  # epochs; schedule=step
    gamma: float = 0.95  # schedule=step
    beta1: float = 0.9  # adam
    beta2: float = 0.999  # adam
    epsilon: float = 1e-8  # adam
    momentum: float = 0.0  # sgd


@dataclass
class TrainingConfig:
    """Group `training`: length, loss, bumping and guards."""

    epochs: int = MISSING
    batch_size: int = MISSING
    evaluation_batch_size: int = MISSING
    loss: LossName = MISSING
    xi: float = 0.2  # softmax temperature [tau_syn]; ttfs_cross_entropy
    alpha: float = 0.005  # weight of the early-spike term; ttfs_cross_entropy
    beta: float = 1.0  # its time scale [tau_syn]; ttfs_cross_entropy
    t_correct: float = 0.5  # target of the label's neuron [tau_syn]; time_mse
    t_wrong: float = 1.5  # target of the others [tau_syn]; time_mse
    max_silent: list[float] = MISSING  # silent fraction of each layer above which it is bumped
    bump_value: float = MISSING
    bump_exponential: bool = True
    bump_targeted: bool = True
    bump_replaces_step: bool = True
    max_weight_grad: float = MISSING  # inf: none
    input_noise: float = 0.0  # standard deviation [tau_syn]
    max_shift: int = 0  # largest random shift of training images [pixels]; 0: none


@dataclass
class SubstrateConfig:
    """Group `substrate`; the one choice, `ideal`, changes nothing."""

    name: SubstrateName = MISSING


@dataclass
class TrackingConfig:
    """Group `tracking`; all but the name is for wandb."""

    name: TrackerName = MISSING
    mode: TrackingMode = TrackingMode.online
    project: str = "gpuspike"
    entity: str | None = None  # account or team; null: the user's default
    group: str | None = None  # runs shown together; null: the experiment's name
    tags: list[str] = field(default_factory=list)


@dataclass
class Config:
    """A whole run."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    substrate: SubstrateConfig = field(default_factory=SubstrateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    replicas: int = 1
    backend: BackendName = BackendName.auto
    dtype: Dtype = Dtype.float64
    resume: str | None = None  # folder of a stopped run to go on with


@dataclass(frozen=True)
class Job:
    """One run that a command line asks for; `folder` is the run's, or the whole sweep's."""

    config: Config
    experiment: str
    folder: Path
    overrides: Sequence[str] = ()


def conf_folder() -> Path:
    """Where the YAML files are: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def register() -> None:
    """Makes the schema known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)


def experiment_name() -> str:
    """Name of the experiment file that the running Hydra job composes; "custom" without one."""
    return str(HydraConfig.get().runtime.choices.get("experiment") or "custom")


def to_config(cfg: DictConfig) -> Config:
    """The composed configuration as plain dataclasses, without Hydra's own node.

    Raises:
        ConfigError: a missing or mistyped value, or one outside of its range.
    """
    try:
        # As plain values, so that keys that "+" has added meet the schema again.
        values = OmegaConf.to_container(cfg, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    assert isinstance(values, dict)
    return from_values({str(key): value for key, value in values.items() if key != "hydra"})


def from_values(values: dict[str, Any]) -> Config:
    """A configuration from plain values, as `identity.to_values` gives them.

    Raises:
        ConfigError: a missing or mistyped value, one outside of its range, or an unknown key.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), values))
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    assert isinstance(config, Config)
    _check(config)
    return config


def to_yaml(config: Config) -> str:
    """The configuration as YAML that can be read back with Hydra."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(path: Path) -> Config:
    """Reads a run's config.yaml.

    Raises:
        ConfigError: it cannot be read, or a value in it cannot be used.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(values, dict):
            raise ValueError("it holds no keys")
        return from_values({str(key): value for key, value in values.items()})
    except Exception as error:  # the YAML reader has errors of its own
        raise ConfigError(f"cannot use {path}: {one_line(error)}") from None


def jobs(overrides: Sequence[str], multirun: bool) -> list[Job]:
    """What a command line asks for, checked before any work starts.

    Args:
        overrides: as given to Hydra, for example ["replicas=10", "seed=0,1"].
        multirun: expand comma-separated values, as Hydra's `-m` does.

    Raises:
        ConfigError: a typo, a wrong type or an impossible value in any of the jobs.
    """
    register()
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            # The loader knows the options that glob(*) stands for.
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            parsed = parser.parse_overrides(list(overrides))
            choices = [_alternatives(o) if multirun else [o.input_line or ""] for o in parsed]
            for override, alternatives in zip(parsed, choices, strict=True):
                if not alternatives:
                    raise ConfigError(f"{override.input_line} stands for no option at all")
            if (count := math.prod(len(alternatives) for alternatives in choices)) > MOST_JOBS:
                raise ConfigError(f"a sweep has at most {MOST_JOBS} jobs, got {count} or more")
            return [_job(list(combination), multirun) for combination in itertools.product(*choices)]
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        hint = "; pip install 'gpuspike[sweep]' has them all" if "hydra/launcher" in str(error) else ""
        raise ConfigError(one_line(error) + hint) from None
    except (ValueError, TypeError, AttributeError) as error:
        # Hydra lets some mistakes through as plain errors of Python that do not say where.
        raise ConfigError(f"cannot use {' '.join(overrides)}: {one_line(error)}") from None


def _alternatives(override: Override) -> list[str]:
    if not override.is_sweep_override() or not override.is_discrete_sweep():
        return [override.input_line or ""]
    key = override.get_key_element()
    values = itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1)  # a range may have no end
    return [f"{key}={value}" for value in values]


def _job(overrides: list[str], multirun: bool) -> Job:
    cfg = compose("config", overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # what the folder's ${hydra:...} reads
    folder = Path(cfg.hydra.sweep.dir if multirun else cfg.hydra.run.dir)
    return Job(to_config(cfg), experiment_name(), folder, overrides)


_NOISE = ("full_key:", "object_type=", "reference_type=", "See https://", "Config search path:", "provider=")


def one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's words on one line, with the keys that would have been valid."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines()]
    if cause is not error:
        lines.insert(0, str(error).splitlines()[0].strip())
    node_type = getattr(cause, "object_type", None)
    if any(" not in " in line for line in lines) and is_dataclass(node_type):
        lines.append(f"valid keys: {', '.join(item.name for item in fields(node_type))}")
    lines = [line.rstrip(".") for line in lines if line and not line.startswith(_NOISE)]
    return "; ".join(lines).replace(":; ", ": ").replace("\t", " ")


def _check(config: Config) -> None:
    """Ranges that no constructor further down the house checks, and lists whose lengths must agree."""
    training, dataset = config.training, config.dataset
    for key, value, least in (
        ("replicas", config.replicas, 1),
        ("seed", config.seed, 0),
        ("training.epochs", training.epochs, 1),
        ("training.batch_size", training.batch_size, 1),
        ("training.evaluation_batch_size", training.evaluation_batch_size, 1),
        ("dataset.n_train", dataset.n_train, 1),
        ("dataset.n_validation", dataset.n_validation, 1),
        ("dataset.n_test", dataset.n_test, 1),
    ):
        if value < least:
            raise ConfigError(f"{key} must be at least {least}, got {value}")
        if key.startswith("dataset.") and value > MOST_SAMPLES:
            raise ConfigError(f"{key} must be at most {MOST_SAMPLES}, got {value}")
    if config.replicas > MOST_REPLICAS:
        raise ConfigError(f"replicas must be at most {MOST_REPLICAS}, got {config.replicas}")
    if max(config.model.hidden, default=0) > MOST_NEURONS:
        raise ConfigError(f"model.hidden must be at most {MOST_NEURONS} a layer, got {config.model.hidden}")
    if config.seed + config.replicas > 2**63:
        raise ConfigError(f"seed + replicas must stay below 2**63, got seed={config.seed}")
    if training.batch_size > dataset.n_train:
        raise ConfigError(
            f"training.batch_size must not exceed the {dataset.n_train} training samples, "
            f"got {training.batch_size}"
        )
    n_layers = len(config.model.hidden) + 1
    lists: tuple[tuple[str, Sequence[Any]], ...] = (
        ("model.bias_times", config.model.bias_times),
        ("model.weight_mean", config.model.weight_mean),
        ("model.weight_std", config.model.weight_std),
        ("training.max_silent", training.max_silent),
    )
    for key, values in lists:
        if len(values) != n_layers:
            raise ConfigError(
                f"{key} needs one entry for each of the {n_layers} layers after the inputs, got {len(values)}"
            )
