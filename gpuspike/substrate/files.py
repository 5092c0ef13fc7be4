"""A laboratory's chip, or a recording of it: spike times that come as files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets.arrays import read_npz
from gpuspike.errors import ConfigError, DataError, OutputError
from gpuspike.network.layers import Layer, LayerInput, Moment
from gpuspike.strangers import write_new
from gpuspike.substrate.spec import Substrate

Array = NDArray[Any]

LOOK_EVERY_S = 0.01


class FileChip:
    """Asks for spike times in one file and finds them in another; a `Chip`.

    Presentation n (from 0) of a run writes `folder/request_<n>.npz` and waits for `folder/answer_<n>.npz`:

        request: weights_0, weights_1, ...  (n_pre, n_post) as the chip can hold them, bias spikes' rows last
                 t_in                       (n_batch, n_pre) input spike times, bias spikes last
        answer:  t_out_0, t_out_1, ...      (n_batch, n_post) spike times of every layer, inf = no spike

    Both are complete when they carry that name: write under another one, then rename. Answers that are there
    already are a recording, and used if their request, which must be there too, asked for the same.

    Args:
        folder: of the files; made if need be.
        layers: of the network.
        substrate: what the chip can hold; its distortions are the hardware's own business.
        patience: seconds to wait for an answer.

    Raises:
        DataError: an answer that does not come, cannot be read, does not fit, or answered something else.
        OutputError: a request cannot be written.
        ConfigError: a patience that is not positive.
    """

    def __init__(
        self, folder: Path, layers: Sequence[Layer], substrate: Substrate, patience: float = 60.0
    ) -> None:
        if not patience > 0.0:
            raise ConfigError(f"the patience of a chip in files must be positive, got {patience!r}")
        self.folder, self.patience, self.presented = Path(folder), patience, 0
        self._layers, self._substrate = tuple(layers), substrate

    def program(self, weights: Sequence[Array]) -> list[Array]:
        """Weights as the chip can hold them."""
        return [self._substrate.programmed(w, number) for number, w in enumerate(weights)]

    def limit(self, weights: Sequence[Array]) -> None:
        """Keeps weights in the range that the chip can hold."""
        self._substrate.limit(weights)

    def __call__(self, weights: Sequence[Array], received: LayerInput, moment: Moment) -> list[Array]:
        """Spike times of every layer; see `Chip`. There is one replica: one chip."""
        del moment  # hardware draws its own noise
        if len(weights[0]) != 1:
            raise DataError(f"a chip in files has one network, got {len(weights[0])} replicas")
        request = {f"weights_{n}": w[0] for n, w in enumerate(self.program(weights))}
        request["t_in"] = received.t_in[0]
        question = self.folder / f"request_{self.presented}.npz"
        answer = self.folder / f"answer_{self.presented}.npz"
        if answer.exists():
            self._check_same(question, request)
        else:
            self._write(question, request)
            self._wait(answer)
        self.presented += 1
        found = read_npz(answer)
        times = []
        for number, layer in enumerate(self._layers):
            name, shape = f"t_out_{number}", (received.t_in.shape[1], layer.n_out)
            if name not in found or found[name].shape != shape or found[name].dtype.kind != "f":
                got = f"{found[name].shape} {found[name].dtype}" if name in found else f"only {sorted(found)}"
                raise DataError(f"{answer} must hold {name}, {shape} floats, got {got}")
            if np.isnan(found[name]).any() or (found[name] == -np.inf).any():
                raise DataError(f"{answer} must not hold NaN or -inf in {name}; no spike is +inf")
            times.append(np.ascontiguousarray(found[name][None], weights[0].dtype))
        return times

    def _write(self, path: Path, arrays: dict[str, Array]) -> None:
        partial = path.with_name(path.name + ".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_new(partial, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"cannot write the request {path}: {error.strerror or error}") from None

    def _wait(self, answer: Path) -> None:
        end = time.monotonic() + self.patience
        while not answer.exists():
            if time.monotonic() > end:
                raise DataError(f"no {answer} came within {self.patience:g} s of its request")
            time.sleep(LOOK_EVERY_S)

    def _check_same(self, question: Path, request: dict[str, Array]) -> None:
        recorded = read_npz(question)
        for name, array in request.items():
            if name not in recorded or not np.array_equal(recorded[name], array):
                raise DataError(
                    f"the recording {self.folder} answers another question: {name} of presentation "
                    f"{self.presented} differs from {question.name}"
                )
