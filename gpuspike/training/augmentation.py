"""Changes of training samples that keep their class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError
from gpuspike.rng import Purpose, stream

Array = NDArray[Any]


@dataclass(frozen=True)
class RandomShift:
    """Shifts every image by a whole number of pixels, drawn anew for each sample and direction.

    Attributes:
        side: pixels a side of the square images.
        most: largest shift, each shift from -most to most alike.
        background: spike time of the pixels that come in from outside.
    """

    side: int
    most: int
    background: float

    def __post_init__(self) -> None:
        if not 0 < self.most < self.side:
            raise ValueRangeError(
                f"the largest shift must be between 1 and {self.side - 1} pixels, got {self.most}"
            )

    def corners(self, n_batch: int, streams: Iterable[np.random.Generator]) -> NDArray[np.int64]:
        """Where each image is cut out of a canvas that has `most` more pixels on each side.

        Args:
            streams: of each replica, at the batch's address; see `rng.stream`.

        Returns:
            (n_replica, 2, n_batch) row and column, 0 to 2 most.
        """
        return np.stack([own.integers(2 * self.most + 1, size=(2, n_batch)) for own in streams])

    def __call__(self, t_in: Array, seeds: Sequence[int], epoch: int, batch: int) -> None:
        """Shifts in place.

        Args:
            t_in: (n_replica, n_batch, n_pre) spike times of the pixels, row by row; bias spikes behind
                them stay.
            seeds: of the replicas;  epoch, batch: the rest of the draw's address.
        """
        n_replica, n_batch = t_in.shape[:2]
        side, most = self.side, self.most
        outer = side + 2 * most
        canvas = np.full((n_replica, n_batch, outer, outer), self.background, t_in.dtype)
        images = t_in[:, :, : side * side].reshape(n_replica, n_batch, side, side)
        canvas[:, :, most : most + side, most : most + side] = images
        windows = sliding_window_view(canvas, (side, side), axis=(2, 3))
        streams = (stream(seed, Purpose.AUGMENTATION, epoch, batch) for seed in seeds)
        for r, corner in enumerate(self.corners(n_batch, streams)):
            shifted = windows[r, np.arange(n_batch), corner[0], corner[1]]
            t_in[r, :, : side * side] = shifted.reshape(n_batch, side * side)
