"""Networks and the chips they are examined on, seed by seed: each is computed once, then found on disk."""

from __future__ import annotations

import enum
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from gpuspike.accountant import Prices
from gpuspike.config.schema import Config, NewChip, read_config, substrate_config
from gpuspike.errors import DataError, OutputError
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.reading import text_of
from gpuspike.runs.experiment import Experiment, build, new_trainer
from gpuspike.runs.memory import keep_freed_memory
from gpuspike.runs.population import accuracies
from gpuspike.runs.progress import TimeLeft
from gpuspike.runs.rehearsal import prepare_kernels
from gpuspike.runs.units import unit_note
from gpuspike.screen import clean
from gpuspike.store import checkpoint, own_data, own_prices
from gpuspike.store.identity import fingerprint
from gpuspike.store.run_folder import CHECKPOINT, CONFIG, replace_text
from gpuspike.training.evaluation import Labelled, evaluate

Array = NDArray[Any]

SPLITS = ("validation", "test")
"""What is examined; both at once, since training takes so much longer."""


class Training(enum.Enum):
    """What a network knows of the chip that it is examined on."""

    LOOP = "loop"  # it was trained on that chip
    POPULATION = "population"  # it was trained on others of the same kind, another one in each step
    NONE = "none"  # it was trained without a chip
    RUN = "run"  # it is a finished run's, whatever it was trained on


@dataclass(frozen=True)
class Reached:
    """Accuracies of some seeds.

    Attributes:
        accuracy: (n_seeds,) on the split that was asked for.
        seconds: that computing them took, whenever that was.
        kept: that was before: nothing had to be computed.
    """

    accuracy: Array
    seconds: float
    kept: bool = False


class Bench:
    """Examines the networks of a configuration on chips of any substrate.

    Seed i is a network of `config.seed + i` on chip `chip_seed + i`; of a run, the mean of its networks on
    that chip.

    Args:
        config: of the experiment, of which `examined` changes the substrate alone.
        training: see `Training`.
        folder: keeps what was computed.
        run: the finished run's folder, for `Training.RUN`.
        together: seeds that train at once; changes nothing but time and memory.

    Attributes:
        note: what has become of the run's data since it began, "" where they are as they were.

    Raises:
        GpuspikeError: a run that cannot be read.
    """

    def __init__(
        self,
        config: Config,
        training: Training,
        folder: Path,
        console: Console,
        *,
        run: Path | None = None,
        together: int = 5,
    ) -> None:
        self.config, self.training, self.console = config, training, console
        self._folder, self._run, self._together = folder, run, together
        self._weights = self.note = ""
        self._prices: Prices | None = None  # an accuracy has none, but a run without its file is one
        if run is not None:
            name = config.substrate.prices
            told = own_prices.kept(checkpoint.load(run / CHECKPOINT)[1], run, name)
            self._prices, _ = own_prices.of_run(name, told, "substrate.prices=FILE")
            self._finished(self._build(config))
            self._weights = hashlib.sha256((run / CHECKPOINT).read_bytes()).hexdigest()
        keep_freed_memory()

    def check(self, changes: Mapping[str, Any]) -> None:
        """Makes sure that a substrate can be had.

        Raises:
            GpuspikeError: what was expected and what was got.
        """
        config = self._examined(changes)
        self._build(config)
        if self.training is not Training.RUN:
            build(self._trained_on(config))

    def unit_note(self, overrides: Sequence[str], own: Sequence[str]) -> str:
        """Whether the chip of the configuration is in another unit than what is trained; "" where it is not.

        Args:
            overrides: that were typed;  own: values of the chip that are examined.
        """
        parts = build(self.config)
        return "" if parts.substrate.ideal else unit_note(parts, new_trainer(parts).weights, overrides, own)

    def examined(self, changes: Mapping[str, Any], count: int, split: str, label: str = "") -> Reached:
        """Accuracies of the first seeds on a split.

        Args:
            changes: values of the substrate, in place of the configuration's.
            count: of seeds.
            label: what is examined, for the screen.

        Raises:
            GpuspikeError: a substrate that cannot be had, or a folder that cannot be used.
        """
        config = self._examined(changes)
        path = self._folder / "points" / f"{self._name(config)}.json"
        point = _read(path)
        told = {"training": self.training.value, "changes": dict(changes)}
        kept = len(point["accuracy"]) >= count
        while (first := len(point["accuracy"])) < count:
            start = time.perf_counter()
            point["accuracy"] += self._compute(config, first, min(count - first, self._together), label)
            point["seconds"] += time.perf_counter() - start
            _write(path, told | point)
        return Reached(np.array([one[split] for one in point["accuracy"][:count]]), point["seconds"], kept)

    def n_samples(self, split: str) -> int:
        """Samples of a split."""
        return len(self._build(self.config).dataset.splits[split].labels)

    def _build(self, config: Config) -> Experiment:
        """Parts of what is examined."""
        return build(config, to_train=False, prices=self._prices)

    def _examined(self, changes: Mapping[str, Any]) -> Config:
        return replace(self.config, substrate=replace(self.config.substrate, **changes))

    def _trained_on(self, config: Config) -> Config:
        """What is trained for what is examined."""
        if self.training is Training.POPULATION:
            return replace(config, substrate=replace(config.substrate, new_chip=NewChip.step))
        if self.training is Training.NONE:
            ideal = replace(substrate_config(), name="ideal", prices=config.substrate.prices)
            return replace(config, substrate=ideal)
        return config

    def _name(self, config: Config) -> str:
        """Of a point: what it hangs on, but for seeds that were added."""
        of = [self.training.value, self._weights]
        of += [fingerprint(replace(each, replicas=1)) for each in (config, self._trained_on(config))]
        return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]

    def _compute(self, config: Config, first: int, count: int, label: str) -> list[dict[str, float]]:
        """Accuracies of seeds from `first` on, by split."""
        if self.training is Training.RUN:
            return self._of_run(config, first, count)
        config = _of_seeds(config, first, count)
        if self.training is Training.NONE:
            learnt = self._without_a_chip(self._trained_on(config), first)
            parts = build(config, to_train=False)
            prepare_kernels(parts, self.console, training=False)
            machine = parts.on_chip(parts.chip_seeds)
        else:
            parts = build(self._trained_on(config))
            learnt, machine = self._train(parts, label)
        parts, machine = parts.having(learnt, machine)
        size = parts.rule.evaluation_batch_size
        found = [evaluate(machine, learnt.weights, data, parts.loss, size) for data in _data(parts, SPLITS)]
        return _by_seed([result.accuracy for result in found])

    def _of_run(self, config: Config, first: int, count: int) -> list[dict[str, float]]:
        """A run's networks on chips: of each chip the mean over the networks."""
        parts = self._build(config)
        learnt = self._finished(parts)
        parts, machine = parts.having(learnt, parts.network)
        if parts.substrate.ideal:  # which is the same on any chip
            size = parts.rule.evaluation_batch_size
            found = [
                evaluate(machine, learnt.weights, data, parts.loss, size) for data in _data(parts, SPLITS)
            ]
            return _by_seed([np.full(count, result.accuracy.mean()) for result in found])
        seed = parts.chip_seeds[0] + first
        reached = [
            accuracies(parts, learnt.weights, data, seed, count).mean(axis=0) for data in _data(parts, SPLITS)
        ]
        return _by_seed(reached)

    def _finished(self, parts: Experiment) -> Parameters:
        assert self._run is not None
        place = self._run / CHECKPOINT
        arrays, header = checkpoint.load(place)
        layer, image = parts.network.layers[0], parts.dataset.image_shape
        own_data.refuse_other_inputs(parts.config, layer, image, (arrays, header), self._run)
        self.note = own_data.change(parts.config, own_data.kept(header), read_config(self._run / CONFIG))
        return _parameters(arrays, parts, f"{place} does not belong to {CONFIG} beside it")

    def _without_a_chip(self, config: Config, first: int) -> Parameters:
        """Networks that no chip has taught, trained once for all chips that they will be examined on."""
        parts = build(config)
        name = fingerprint(_of_seeds(config, -first, 1))
        paths = [self._folder / "networks" / f"{name}_{first + k}.npz" for k in range(config.replicas)]
        if not all(path.is_file() for path in paths):
            learnt, _ = self._train(parts, "without a chip")
            _make_folder(paths[0].parent)
            for k, path in enumerate(paths):
                arrays = learnt.map(lambda array, k=k: array[k : k + 1]).arrays()
                checkpoint.save(path, arrays, {}, keep_previous=False)
        each = [checkpoint.load(path)[0] for path in paths]
        arrays = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
        return _parameters(arrays, parts, str(paths[0]))

    def _train(self, parts: Experiment, label: str) -> tuple[Parameters, Machine]:
        """What networks have learnt after all epochs, and the machine that they are for."""
        prepare_kernels(parts, self.console)
        trainer = new_trainer(parts)
        (train,) = _data(parts, ("train",), again=parts.rule.keeps_inputs)
        n_epochs = parts.config.training.epochs
        left = TimeLeft(n_epochs)
        seeds = f"seeds {parts.seeds[0]} to {parts.seeds[-1]}" if len(parts.seeds) > 1 else "one seed"
        with self.console.status(Text(clean(f"{label}, {seeds}  begins"))) as status:
            for record in trainer.train(train, None, n_epochs):
                done = f"epoch {record.epoch}/{n_epochs}{left.after(record.epoch)}"
                status.update(Text(clean(f"{label}, {seeds}  {done}")))
        trainer.state()  # from a device
        return trainer.parameters, trainer.examined


def _of_seeds(config: Config, first: int, count: int) -> Config:
    """The same for other seeds, and so for other chips."""
    chips = None if config.chip_seed is None else config.chip_seed + first
    return replace(config, seed=config.seed + first, chip_seed=chips, replicas=count)


def _data(parts: Experiment, names: Sequence[str], *, again: bool = False) -> list[Labelled]:
    splits = [parts.dataset.splits[name] for name in names]
    return [Labelled(parts.receive(split.features, again=again), split.labels) for split in splits]


def _by_seed(accuracy: Sequence[Array]) -> list[dict[str, float]]:
    """A mapping a seed from an array a split."""
    return [dict(zip(SPLITS, map(float, one), strict=True)) for one in zip(*accuracy, strict=True)]


def _parameters(arrays: Mapping[str, Array], parts: Experiment, place: str) -> Parameters:
    config, layers = parts.config, parts.network.layers
    return Parameters.from_arrays(arrays, layers, config.replicas, config.dtype.value, place, parts.trained)


def _read(path: Path) -> dict[str, Any]:
    try:
        point = json.loads(text_of(path))
        if not all(0.0 <= one[name] <= 1.0 for one in point["accuracy"] for name in SPLITS):
            raise ValueError("an accuracy is no share")
        return point | {"seconds": float(point["seconds"])}
    except FileNotFoundError:
        return {"accuracy": [], "seconds": 0.0}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read, remove it to compute it again: {reason}") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None


def _write(path: Path, point: Mapping[str, Any]) -> None:
    _make_folder(path.parent)
    try:
        replace_text(path, json.dumps(point) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
