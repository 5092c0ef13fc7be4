"""Named data sets as arrays of spike times and labels."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuspike.config.checks import check_sizes
from gpuspike.config.composition import typed
from gpuspike.config.fitting import unused
from gpuspike.config.hints import texts
from gpuspike.config.schema import Config, dataset_config, dataset_values, read_config
from gpuspike.datasets import DATASETS
from gpuspike.errors import ConfigError, DataError, DtypeError
from gpuspike.kinds import plain
from gpuspike.registry import one_of
from gpuspike.runs.encoding import dataset_of, encoded
from gpuspike.store import checkpoint, own_data
from gpuspike.store.run_folder import CHECKPOINT


class Spikes(NamedTuple):
    """One split of a data set.

    Attributes:
        t_in: (n_samples, n_inputs) spike times, inf = no spike.
        labels: (n_samples,) class of each sample.
    """

    t_in: NDArray[Any]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set as a network sees it: `gs.fit(net, *data.train, validation=data.validation)`.

    Attributes:
        name: of the data set.
        train, validation, test: spike times and labels.
        class_names: in the order of the labels.
    """

    name: str
    train: Spikes
    validation: Spikes
    test: Spikes
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        sizes = " + ".join(str(len(split.labels)) for split in (self.train, self.validation, self.test))
        n_in, n_class = self.train.t_in.shape[1], len(self.class_names)
        return f"Data({self.name}: {sizes} samples, {n_in} inputs, {n_class} classes)"


def dataset(name: str | Path, *, dtype: DTypeLike = "float64", **values: Any) -> Data:
    """A named data set, encoded as the experiments do; or that of a run, as the run saw it.

    Args:
        name: "yin_yang", "mnist", "mnist16", "fashion_mnist", "patterns", "npz" (with path="my.npz",
            docs/own_data.md), one that is registered (docs/extend.md), or the folder of a run.
        dtype: of the spike times.
        values: in place of the data set's own, as conf/dataset has them: n_train=1000, t_late=1.5. In
            tau_syn.

    Warns:
        UserWarning: files of a run's data hold other data than when it began; a value that nothing reads.

    Raises:
        ConfigError: an unknown data set or value.
        DataError: files that are missing or damaged. path=FILE says where those of a run have gone.
        ValueRangeError: a split without samples, or times that cannot be.
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise DtypeError(f"dtype must be float32 or float64, got {dtype!r}")
    if not isinstance(name, str | PathLike):
        raise ConfigError(f"name must be that of a data set, or a run's folder, got {name!r:.80}")
    kind = type(dataset_config())
    unit, repeats = 1.0, 1
    run = None
    if Path(name).is_dir():
        run = read_config(Path(name) / "config.yaml")
        unit, repeats = run.model.tau_syn, run.model.input_repeats
        known: dict[str, Any] = vars(run.dataset)
    else:
        known = dataset_values(str(name))
    own = str(known.get("name", name))
    names = [field.name for field in fields(kind)]
    read = [key for key in names if key != "name" and not unused([f"dataset.{key}"], dataset=(DATASETS, own))]
    for key in values:
        if key not in names:
            one_of(f"value of the data set {own}", key, read)
    values = {key: plain(value) for key, value in values.items()}
    if wrong := "; ".join(texts(values, kind)):
        raise ConfigError(wrong)
    config = typed(known | values, kind)
    if strange := unused([f"dataset.{key}" for key in values], dataset=(DATASETS, config.name)):
        raise ConfigError("; ".join(strange))
    check_sizes(config)
    if run is not None:
        _look(Path(name), run, config)
    found = dataset_of(config)
    for text in found.unread(values):
        warnings.warn(text, stacklevel=2)

    def split(part: Any) -> Spikes:
        in_dtype = np.dtype(dtype).name
        times = encoded(part.features, config, unit, in_dtype, times=found.spike_times, repeats=repeats)
        return Spikes(times, part.labels)

    return Data(found.name, split(found.train), split(found.validation), split(found.test), found.class_names)


def _look(folder: Path, run: Config, config: Any) -> None:
    """Makes sure that the files of a run's data are there, and warns where they hold others.

    Args:
        config: of the data set, with the values that were given.
    """
    now = replace(run, dataset=config)
    if not own_data.files_of(now):
        return
    own_data.require(now, folder, lambda name: f"{name}=FILE says where they are now")
    kept = {}
    with suppress(FileNotFoundError, DataError):  # a run that was stopped before it kept anything
        kept = own_data.kept(checkpoint.recover(folder / CHECKPOINT)[1])
    if words := own_data.change(now, kept, run):
        warnings.warn(words.removeprefix("dataset."), stacklevel=3)
