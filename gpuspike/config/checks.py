"""Ranges of a configuration that no constructor further down the house checks, told all at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuspike.config.hints import named
from gpuspike.datasets import DATASETS
from gpuspike.datasets.splits import too_few
from gpuspike.errors import ConfigError, GpuspikeError, errors_of, of_key, together
from gpuspike.network.plan import NO_CLASSES, Maps, read_plan
from gpuspike.training.losses import LOSSES
from gpuspike.training.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from gpuspike.config.schema import Config, DatasetConfig, ModelConfig

MOST_SAMPLES = 1_000_000
"""Samples of a generated split: drawing more would take minutes before the run could be checked."""

MOST_REPLICAS = 100_000
"""Networks side by side: more would have filled the memory before the run could be checked."""

MOST_NEURONS = 1_000_000
"""Neurons of a hidden layer: a larger number is a mistake."""

SPLITS = ("n_train", "n_validation", "n_test")


def complete(config: Config) -> None:
    """Makes one value of a list by layer stand for all layers, and paths hold wherever one is."""
    model, training = config.model, config.training
    n_layers = n_layers_of(model)
    for place, name in _BY_LAYER:
        values = getattr(model if place == "model" else training, name)
        if values is not None and len(values) == 1:
            setattr(model if place == "model" else training, name, values * n_layers)
    if config.dataset.name in DATASETS:
        for name in DATASETS[config.dataset.name].files:
            if path := getattr(config.dataset, name):
                setattr(config.dataset, name, str(Path(path).absolute()))
    if config.start is not None:
        config.start = str(Path(config.start).absolute())
    if config.substrate.prices.endswith((".yaml", ".yml")):
        config.substrate.prices = str(Path(config.substrate.prices).absolute())


_BY_LAYER = (
    ("model", "bias_times"),
    ("model", "weight_mean"),
    ("model", "weight_std"),
    ("model", "fires"),
    ("model", "spikes_at"),
    ("training", "max_silent"),
)


Check = Callable[["Config"], None]
"""Of a configuration; raises a GpuspikeError."""


def check(config: Config, also: Check | None = None) -> None:
    """Refuses what cannot be, and lists whose lengths do not agree.

    Args:
        also: a further check. Where a key is wrong already, it is not asked about that key.

    Raises:
        ConfigError: what was expected, and what was got, of everything that is wrong.
    """
    mistakes = list(_mistakes(config))
    if also is not None:
        mistakes += _further(config, also, mistakes)
    if mistakes:
        raise together(mistakes)


def _further(config: Config, also: Check, mistakes: Sequence[GpuspikeError]) -> list[GpuspikeError]:
    """What another check finds that is not about the same keys."""
    known = {key for mistake in mistakes for key in named(str(mistake), type(config))}
    try:
        also(config)
    except GpuspikeError as error:
        return [each for each in errors_of(error) if not known & named(str(each), type(config))]
    except (TypeError, ValueError, ArithmeticError):
        if not mistakes:
            raise
    return []


def _mistakes(config: Config) -> Iterator[GpuspikeError]:
    training, dataset = config.training, config.dataset
    if config.name is not None and not re.fullmatch(r"[\w.-]{1,80}", config.name):
        words = "letters, digits, '.', '_' and '-', 80 at most"
        yield ConfigError(f"name must be {words}, got {config.name!r}")
    for key, parts, name in (
        ("dataset.name", DATASETS, dataset.name),
        ("optimizer.name", OPTIMIZERS, config.optimizer.name),
        ("training.loss", LOSSES, training.loss),
    ):
        try:
            parts[name]
        except ConfigError as error:
            own = "" if "did you mean" in str(error) else "; yours come with plugin=FILE.py"
            yield of_key(key, ConfigError(f"{error}{own}"))
    sizes = [(f"dataset.{name}", getattr(dataset, name), 1) for name in SPLITS]
    for key, value, least in (
        ("replicas", config.replicas, 1),
        ("seed", config.seed, 0),
        ("chip_seed", config.chip_seed or 0, 0),
        ("model.input_repeats", config.model.input_repeats, 1),
        ("training.epochs", training.epochs, 1),
        ("training.batch_size", training.batch_size, 1),
        ("training.trials", training.trials, 1),
        ("training.evaluation_batch_size", training.evaluation_batch_size, 1),
        *sizes,
    ):
        if value is None:
            yield from _no_size(dataset.name, key.removeprefix("dataset."))
        elif value < least:
            yield ConfigError(f"{key} must be at least {least}, got {value}")
        elif key.startswith("dataset.") and value > MOST_SAMPLES:
            yield ConfigError(f"{key} must be at most {MOST_SAMPLES}, got {value}")
    if config.replicas > MOST_REPLICAS:
        yield ConfigError(f"replicas must be at most {MOST_REPLICAS}, got {config.replicas}")
    if not all(isinstance(t, float) for times in config.model.bias_times for t in times):
        given = config.model.bias_times
        yield ConfigError(f"model.bias_times must be a list of lists of numbers, got {given}")
    if dataset.t_early < 0.0:
        yield ConfigError(f"dataset.t_early must be 0 or later, when a trial begins, got {dataset.t_early}")
    if min(config.model.hidden, default=1) < 1:
        yield ConfigError(f"model.hidden must be 1 or more a layer, got {config.model.hidden}")
    if max(config.model.hidden, default=0) > MOST_NEURONS:
        yield ConfigError(f"model.hidden must be at most {MOST_NEURONS} a layer, got {config.model.hidden}")
    if config.seed + config.replicas > 2**63:
        yield ConfigError(f"seed + replicas must stay below 2**63, got seed={config.seed}")
    if (config.chip_seed or 0) + config.replicas > 2**32:
        yield ConfigError(f"chip_seed + replicas must stay below 2**32, got chip_seed={config.chip_seed}")
    n_train = trained_on(config)
    if n_train is not None and 1 <= n_train < training.batch_size:
        yield batch_too_large(config, n_train)
    yield from _population(config)
    yield from _devices(config)
    if config.model.frozen and not config.model.trained and config.model.delays in ("", "none"):
        yield ConfigError(
            "model.frozen=true leaves the weights as they are, so that model.trained or model.delays must "
            "name something to be learnt, got neither"
        )
    model = config.model
    if model.spikes_at is not None and model.fires is None:
        yield ConfigError("model.spikes_at needs model.fires beside it, got none")
    if model.fires is not None:
        if model.weight_mean is not None or model.weight_std is not None:
            yield ConfigError(
                "model.fires finds the initial weights itself: model.weight_mean=null model.weight_std=null "
                f"beside it, got {model.weight_mean} and {model.weight_std}"
            )
        if not all(0.0 < share < 1.0 for share in model.fires):
            yield ConfigError(f"model.fires must lie between 0 and 1, got {model.fires}")
    if config.model.layers:
        if config.model.hidden:
            yield ConfigError(
                f"model.layers has all layers, got model.hidden={config.model.hidden} beside it: "
                "model.hidden=[] leaves it out, model.layers=[] the other"
            )
        try:
            plan = read_plan(config.model.layers)
        except GpuspikeError as error:
            yield ConfigError(f"model.layers: {error}")
            return
        if isinstance(plan[-1], Maps):
            yield ConfigError(f"model.layers {NO_CLASSES}")
    yield from _lengths(config)


def _population(config: Config) -> Iterator[GpuspikeError]:
    population, new_chip = config.substrate.population, config.substrate.new_chip.value
    if population < 0:
        yield ConfigError(f"substrate.population must be 0 (no chip comes again) or more, got {population}")
    elif population and new_chip != "step":
        yield ConfigError(
            f"substrate.population={population} chips take turns where substrate.new_chip=step, "
            f"got substrate.new_chip={new_chip}"
        )


def devices_of(config: Config) -> str | list[int] | None:
    """The CUDA devices that are asked for, as `backend.select` takes them."""
    asked = config.devices
    return [asked] if isinstance(asked, int) else asked


def _devices(config: Config) -> Iterator[GpuspikeError]:
    asked = devices_of(config)
    if asked is not None and config.backend.value in ("cpu", "reference"):
        got = f"got {config.backend.value}; devices=null leaves them out"
        yield ConfigError(f"devices={config.devices} needs backend=cuda, {got}")
    if asked is None or asked == "all":
        return
    numbers = isinstance(asked, list) and all(type(number) is int and number >= 0 for number in asked)
    if not numbers or not asked or len(set(asked)) < len(asked):
        yield ConfigError(f"devices must be all, or different numbers, [0,1], got {config.devices}")
    elif len(asked) > config.replicas:
        yield ConfigError(
            f"devices share the replicas: at most {config.replicas} of them, or more replicas, got {asked}"
        )


def n_layers_of(model: ModelConfig) -> int:
    """Layers with weights: a pool is none of its own."""
    if model.layers:
        return sum("pool" not in entry for entry in model.layers)
    return len(model.hidden) + 1


def check_sizes(dataset: DatasetConfig) -> None:
    """Refuses a split without a size of a data set that has as many samples as are asked for."""
    if wrong := [
        e for name in SPLITS if getattr(dataset, name) is None for e in _no_size(dataset.name, name)
    ]:
        raise together(wrong)


def _no_size(name: str, split: str) -> Iterator[GpuspikeError]:
    known = name not in DATASETS or any(
        item.name == split and item.default is None for item in fields(DATASETS[name])
    )
    if not known:
        words = f"the data set {name} has as many samples as are asked for"
        yield ConfigError(f"dataset.{split} must be given: {words}")


def trained_on(config: Config) -> int | None:
    """Samples of an epoch; None where a file says how many there are."""
    n_train, turned = config.dataset.n_train, getattr(config.dataset, "turned", False)
    return 2 * n_train if n_train is not None and turned else n_train


def batch_too_large(config: Config, n_train: int) -> ConfigError:
    """What is wrong with a batch of more samples than there are."""
    words = too_few(n_train, config.training.batch_size)
    return ConfigError(
        f"training.batch_size {words} with dataset.n_train={config.dataset.n_train or n_train}"
    )


def _lengths(config: Config) -> Iterator[GpuspikeError]:
    n_layers = n_layers_of(config.model)
    wrong: dict[str, Any] = {}
    for place, name in _BY_LAYER:
        values = getattr(getattr(config, place), name)
        if values is not None and len(values) != n_layers:
            wrong[f"{place}.{name}"] = values
    if not wrong:
        return
    got = ", ".join(f"{len(values)} for {key}" for key, values in wrong.items())
    key = "layers" if config.model.layers else "hidden"
    one = " ".join(f"{key}={_one_for_all(key, values)}" for key, values in wrong.items())
    yield ConfigError(
        f"lists need one entry for each of the {n_layers} layers after the inputs, got {got}, and "
        f"model.{key}={getattr(config.model, key)}; one entry stands for all layers, and null for what suits "
        f"them: {one}"
    )


def _one_for_all(key: str, values: list[Any]) -> str:
    """A value that fits any number of layers."""
    return f"[{values[0]}]".replace(" ", "") if key == "model.bias_times" and values else "null"


TIME_TO_BEGIN = 60
"""Seconds that a job on a cluster needs before its first epoch, at least."""


def check_launcher(values: Any) -> None:
    """Makes sure that a job on a cluster can begin before it is told to end.

    Raises:
        ConfigError: its time is up too early.
    """
    minutes, delay = values.get("timeout_min"), values.get("signal_delay_s")
    if isinstance(minutes, int) and isinstance(delay, int) and 60 * minutes < delay + TIME_TO_BEGIN:
        least = -(-(delay + TIME_TO_BEGIN) // 60)
        raise ConfigError(
            f"hydra.launcher.timeout_min must be at least {least}, for a job to begin before SLURM's warning "
            f"of hydra.launcher.signal_delay_s={delay}, got {minutes}"
        )
