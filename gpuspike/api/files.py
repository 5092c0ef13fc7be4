"""Networks out of files: those that were saved, and those of runs."""

from __future__ import annotations

import enum
import json
import warnings
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gpuspike import plugins
from gpuspike.api.kept import ALONE, KEPT_PRICES, PRICES, revived
from gpuspike.api.network import Network
from gpuspike.config.checks import n_layers_of
from gpuspike.config.schema import Config
from gpuspike.errors import DataError
from gpuspike.network.delays import learnt
from gpuspike.network.plan import Maps, read_plan, timed, told_plan
from gpuspike.reading import text_of
from gpuspike.runs.encoding import dataset_of, inputs_of_value
from gpuspike.runs.recipes import recipe_of
from gpuspike.runs.values import delay_rule_of, substrate_of
from gpuspike.store import checkpoint, own_data, own_prices, resume
from gpuspike.store.resume import Stopped
from gpuspike.store.run_folder import CHECKPOINT, CONFIG, SUMMARY
from gpuspike.training.augmentation import CHANGES

Array = NDArray[Any]


def load(path: str | Path, *, backend: str | None = None) -> Network:
    """A network that `net.save` has written, or that of a run, finished or stopped.

    That of a run stands on the run's chip if it had one. It has the run's weights, seeds, optimiser and
    history; `net.recipe` is the run's training, `net.provenance` what it was made with, and
    `gs.dataset(folder)` gives the samples as the run saw them. What a command adds to a recipe, shifted
    images, frozen weights and a new chip for each step, is not part of it: `gs.fit` warns of what it does not
    go on with. Nothing in the folder changes.

    Args:
        path: of an .npz file, or of a run's folder.
        backend: what computes from now on; None: what it was made for.

    Warns:
        UserWarning: a file's training had a loss or an optimiser that nobody has registered here: which, and
            how to get it. Until then `net.recipe` raises NotGivenError.

    Raises:
        NotGivenError: of a run, whose plug-ins nobody has given.
        DataError: no such file, a damaged one, another content, or a run without a checkpoint.
        ConfigError: a run's configuration that this version cannot read.
        BackendError: a backend that is not there.
    """
    if not isinstance(path, str | PathLike):
        raise DataError(f"path must be that of a network's file or of a run's folder, got {path!r:.80}")
    path = Path(path)
    if path.is_dir():
        return _of_run(path, backend)
    if not path.exists():
        raise DataError(
            f"path must be a network's file or the folder of a run, got {path}, which does not exist"
        )
    arrays, header = checkpoint.load(path)
    if header.get("kind") != "network":
        kind = header.get("kind", "checkpoint of a run: load its folder")
        raise DataError(f"{path} must hold a network, got a {kind}")
    return revived(arrays, header | ({} if backend is None else {"backend": backend}), str(path))


def _of_run(folder: Path, backend: str | None) -> Network:
    if not (folder / CONFIG).is_file() and not (folder / CHECKPOINT).exists():
        raise DataError(
            f"path must be a network's file or the folder of a run, got {folder}, which holds none"
        )
    try:
        stopped = resume.read(folder)
    except plugins.NotGivenError as error:
        raise plugins.NotGivenError(f"{error}, in Python gpuspike.plugins.load(FILE) before") from None
    if stopped.arrays is None:
        raise DataError(f"{folder} must have a {CHECKPOINT}: that run was stopped before its first one")
    if stopped.damaged:
        warnings.warn(stopped.damaged, stacklevel=3)
    config, arrays, model = stopped.config, dict(stopped.arrays), stopped.config.model
    place = str(folder / CHECKPOINT)
    try:
        sizes = _sizes(arrays, stopped, folder)
    except (KeyError, IndexError) as error:
        raise DataError(f"{place} does not belong to its configuration: {error!r}") from None
    provenance = _provenance(folder, config, stopped.code)
    provenance[PRICES] = config.substrate.prices
    if stopped.prices and own_prices.is_file(config.substrate.prices):
        provenance[KEPT_PRICES] = stopped.prices
    if alone := _alone(config):
        provenance[ALONE] = alone
    lines = [{**line, "silent_fraction": line["silent_fraction"]} for line in stopped.records]
    return revived(
        arrays | _history(lines, config),
        {
            "sizes": sizes,
            "bias_times": [[time * model.tau_syn for time in times] for times in model.bias_times],
            "neuron": {
                k: getattr(model, k) for k in ("tau_mem", "tau_syn", "threshold", "leak", "capacitance")
            },
            "trained": learnt(model.trained, model.delays),
            "delay_rule": asdict(delay_rule_of(config)),
            "seed": config.seed,
            "replicas": config.replicas,
            "dtype": config.dtype.value,
            "backend": backend or config.backend.value,
            "epoch": stopped.epoch,
            "recipe": recipe_of(config).plain(),
            "step": "",
            "chip": _chip(config),
            "gradient": config.substrate.gradient.value,
            "provenance": provenance,
        },
        place,
    )


def _sizes(arrays: dict[str, Array], stopped: Stopped, folder: Path) -> list[Any]:
    """As `gs.Network` takes them; a convolutional run of before images were kept asks its data set."""
    config, model, shape = stopped.config, stopped.config.model, stopped.image
    layers = timed(read_plan(model.layers), model.tau_syn) if model.layers else []
    if not any(isinstance(layer, Maps) for layer in layers):
        n_in = arrays["weights_0"].shape[1] - len(model.bias_times[0])
        hidden = [*model.hidden, arrays[f"weights_{len(model.hidden)}"].shape[2]]
        return [n_in, *(told_plan(layers) if layers else hidden)]
    if shape is None:

        def way(name: str) -> str:
            return (
                f"dataset.{name} in {folder / CONFIG} says where they are now, for the size of their images"
            )

        own_data.require(config, folder, way)
        shape = dataset_of(config.dataset).image_shape
    return [[*(shape or ()), inputs_of_value(config)], *told_plan(layers)]


def _history(lines: list[dict[str, Any]], config: Config) -> dict[str, Array]:
    from gpuspike.api.history import History

    history = History.of_lines(lines, n_layers_of(config.model), config.replicas)
    return {f"history_{name}": array for name, array in history.arrays().items()}


def _chip(config: Config) -> dict[str, Any] | None:
    if substrate_of(config.substrate, 1.0).ideal:
        return None
    values = asdict(config.substrate) | {"new_chip": "run", "population": 0}
    plain = {name: v.value if isinstance(v, enum.Enum) else v for name, v in values.items()}
    return {"values": plain, "seed": config.seed if config.chip_seed is None else config.chip_seed}


def _alone(config: Config) -> list[str]:
    """Values of a run that `gs.fit` has nothing for, as they are typed."""
    values = {f"training.{name}": getattr(config.training, name) for name in CHANGES}
    values |= {"model.frozen": config.model.frozen}
    told = [f"{key}={str(value).lower()}" for key, value in values.items() if value]
    if config.substrate.new_chip.value != "run" and not substrate_of(config.substrate, 1.0).ideal:
        told.append(f"substrate.new_chip={config.substrate.new_chip.value}")
    return told


def _provenance(folder: Path, config: Config, code: list[Any] | None) -> dict[str, Any]:
    """Of summary.json; of a run that was stopped before it, what the checkpoint knows."""
    try:
        return dict(json.loads(text_of(folder / SUMMARY))["provenance"])
    except FileNotFoundError:
        version, git = code or (None, None)
        return {"gpuspike": version, "git": git, "seed": config.seed, "replicas": config.replicas}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / SUMMARY} cannot be read: {' '.join(str(error).split())}") from None
