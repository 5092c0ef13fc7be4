"""Checks of a configuration's values by the parts that use them, as far as they are known without data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np

from gpuspike.accountant import find, read_prices
from gpuspike.config.checks import n_layers_of
from gpuspike.config.schema import Config, SubstrateConfig, conf_folder
from gpuspike.datasets import DATASETS
from gpuspike.datasets import samples as data_sets
from gpuspike.datasets.encoding import pixel_latency
from gpuspike.errors import ConfigError, GpuspikeError, check_all, of_group, of_key
from gpuspike.network.delays import DelayRule, learnt
from gpuspike.network.parameters import trained_on_host
from gpuspike.neuron import LIF
from gpuspike.runs import dashboards as trackers
from gpuspike.runs.recipes import check_augmentation, frame_of, loss_of, optimizer_of
from gpuspike.substrate import Substrate
from gpuspike.training.augmentation import CHANGES
from gpuspike.training.fit import COUNTS, Recipe
from gpuspike.training.losses import LOSSES
from gpuspike.training.optimizers import OPTIMIZERS

_NEURON = ("tau_mem", "tau_syn", "threshold", "leak", "capacitance")
_DELAYS = {f"the {name} of delays": f"delay_{name}" for name in ("shift", "scale", "spread")}


@contextmanager
def by_keys(group: str, names: Iterable[str] | Mapping[str, str], key: str = "") -> Iterator[None]:
    """Lets the errors of a part name values as a user gives them.

    Args:
        names: of values as the part's errors have them, and as the group has them where that is another.
        key: of the group; the error is about it where it names none.
    """
    try:
        yield
    except GpuspikeError as error:
        known = names if isinstance(names, Mapping) else {name: name for name in names}
        told = of_group(group, known, error)
        raise of_key(f"{group}.{key}", told) if key and f"{group}." not in str(told) else told from None


def substrate_of(config: SubstrateConfig, tau_syn: float) -> Substrate:
    """What a kind of chip does to a network, in the network's unit of time."""
    return Substrate.from_values(vars(config), tau_syn)


def checked_substrate(config: Config) -> Substrate:
    """What a configuration's chip does to its network.

    Raises:
        GpuspikeError: a value that no chip can have, or a trial that ends before the inputs do.
    """
    unit = config.model.tau_syn
    substrate = substrate_of(config.substrate, unit)
    substrate.check_window((config.dataset.t_late - config.dataset.t_early) * unit, unit)
    return substrate


def delay_rule_of(config: Config) -> DelayRule:
    """Range and form of the delays that a configuration describes, in the network's unit of time."""
    model = config.model
    rule = DelayRule(model.delay_shift, model.delay_scale, model.delay_form, model.delay_spread)
    return rule.timed(model.tau_syn)


def check_values(config: Config, *, priced: bool = False) -> None:
    """Refuses values that a part or nobody can use, as far as they are known without data.

    Args:
        priced: prices are known already, and their file is not asked.

    Raises:
        GpuspikeError: what was expected, and what was got, of everything that is wrong, by the keys.
    """
    model, data = config.model, config.dataset

    def weights() -> None:
        stds, means = model.weight_std or (), model.weight_mean or ()
        if not all(std >= 0.0 and np.isfinite(std) for std in stds):
            raise ConfigError(f"model.weight_std must be 0 or more, got {model.weight_std}")
        if not np.isfinite(means).all():
            raise ConfigError(f"model.weight_mean must be finite, got {model.weight_mean}")

    def bias_times() -> None:
        if not all(0.0 <= time < np.inf for times in model.bias_times for time in times):
            words = "finite and 0 or later, when a trial begins"
            raise ConfigError(f"model.bias_times must be {words}, got {model.bias_times}")

    def neuron() -> None:
        with by_keys("model", _NEURON):
            LIF(model.tau_mem, model.tau_syn, model.threshold, model.leak, model.capacitance)

    def chip() -> None:
        if 0.0 < model.tau_syn < np.inf:  # in whose unit it is
            checked_substrate(config)

    def delays() -> None:
        with by_keys("model", ("delays",), "delays"):
            learnt((), model.delays)

    def trained() -> None:
        with by_keys("model", {"constants to be trained": "trained"}, "trained"):
            trained_on_host(learnt(model.trained, "none"))

    def delay_rule() -> None:
        with by_keys("model", _DELAYS, "delay_form"):
            DelayRule(model.delay_shift, model.delay_scale, model.delay_form, model.delay_spread)

    def spike_times() -> None:
        with by_keys("dataset", ("t_early", "t_late", "full_scale")):
            pixel_latency(data.full_scale, data.t_early, data.t_late, silent_black=data.silent_black)

    def prices() -> None:
        with by_keys("substrate", {"prices(?= must be)": "prices"}):
            read_prices(find(config.substrate.prices, conf_folder() / "prices"))

    rule = [item.name for item in fields(config.training)]

    def loss() -> None:
        if config.training.loss in LOSSES:
            with by_keys("training", rule):
                loss_of(config)

    def optimizer() -> None:
        if config.optimizer.name in OPTIMIZERS:
            with by_keys("optimizer", [item.name for item in fields(config.optimizer)]):
                optimizer_of(config)

    def frame() -> Recipe:  # with counts that can be: others are refused by their keys
        rule_of = config.training
        counts = {name: min(max(1, getattr(rule_of, name)), 2**63 - 1) for name in COUNTS}
        return frame_of(replace(config, training=replace(rule_of, **counts)))

    def schedule() -> None:
        with by_keys("optimizer", [item.name for item in fields(config.optimizer)]):
            frame().make_schedule()

    def bumping() -> None:
        with by_keys("training", {name: name for name in rule} | {"the bump value": "bump_value"}):
            frame().make_bumping(n_layers_of(model), config.replicas)

    def step() -> None:
        with by_keys("training", rule):
            frame().make_rule(1.0)

    def augmentation() -> None:
        if data.name in DATASETS:
            with by_keys("training", CHANGES):
                check_augmentation(config, data_sets.named(data.name, vars(data)).image_side)

    check_all(
        [
            *([] if priced else [prices]),
            spike_times,
            neuron,
            chip,
            weights,
            bias_times,
            delays,
            trained,
            delay_rule,
            loss,
            optimizer,
            schedule,
            bumping,
            step,
            augmentation,
            lambda: trackers.check(config),
        ]
    )
