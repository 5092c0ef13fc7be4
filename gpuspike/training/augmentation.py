"""Changes of training samples that keep their class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gpuspike.errors import ValueRangeError, together
from gpuspike.rng import Purpose, restart, stream

Array = NDArray[Any]

KNOTS = 7
"""Control points a side of an elastic field: four intervals of a cubic spline."""
WARPS = ("max_turn", "max_zoom", "max_shear", "elastic", "mirror")
"""Values of a `RandomWarp`, and of a training, that change images by more than a shift."""
CHANGES = ("max_shift", *WARPS)
"""Those that change images at all."""
N_AFFINE = 6
"""Numbers of an image's affine map, before those of its elastic field."""


def out_of_range(changes: Mapping[str, Any], side: int | None = None) -> Iterator[ValueRangeError]:
    """What is too large of changes, or negative.

    Args:
        changes: values of `CHANGES`, by name;  side: pixels a side of the images, None where not known.
    """
    bounds = {"max_shift": np.inf if side is None else side - 1, "max_turn": 180.0, "max_zoom": 0.9}
    bounds |= {"max_shear": 1.0, "elastic": np.inf if side is None else side}
    for name, bound in bounds.items():
        got = changes.get(name, 0)
        if not 0.0 <= got <= bound:
            wanted = "0 or more" if bound == np.inf else f"between 0 and {bound:g}"
            pixels = " pixels" if name == "max_shift" else ""
            yield ValueRangeError(f"{name} must be {wanted}{pixels}, got {got!r}")


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
            raise ValueRangeError(f"max_shift must be between 1 and {self.side - 1} pixels, got {self.most}")

    def draw(self, n_batch: int, streams: Iterable[np.random.Generator]) -> NDArray[np.int64]:
        """Where each image is cut out of a canvas that has `most` more pixels on each side.

        Args:
            streams: of each replica, at the batch's address; see `rng.stream`.

        Returns:
            (n_replica, 2, n_batch) row and column, 0 to 2 most.
        """
        return np.stack([own.integers(2 * self.most + 1, size=(2, n_batch)) for own in streams])

    def __call__(
        self, t_in: Array, seeds: Sequence[int], epoch: int, batch: int, kernels: Any = None
    ) -> None:
        """Shifts in place.

        Args:
            t_in: (n_replica, n_batch, n_pre) spike times of the pixels, row by row; bias spikes behind
                them stay.
            seeds: of the replicas;  epoch, batch: the rest of the draw's address.
            kernels: of a backend, which warp images if they have a `warp`, to the same bits; None: NumPy.
        """
        n_replica, n_batch = t_in.shape[:2]
        side, most = self.side, self.most
        outer = side + 2 * most
        canvas = np.full((n_replica, n_batch, outer, outer), self.background, t_in.dtype)
        images = t_in[:, :, : side * side].reshape(n_replica, n_batch, side, side)
        canvas[:, :, most : most + side, most : most + side] = images
        windows = sliding_window_view(canvas, (side, side), axis=(2, 3))
        streams = (stream(seed, Purpose.AUGMENTATION, epoch, batch) for seed in seeds)
        for r, corner in enumerate(self.draw(n_batch, streams)):
            shifted = windows[r, np.arange(n_batch), corner[0], corner[1]]
            t_in[r, :, : side * side] = shifted.reshape(n_batch, side * side)


@dataclass(frozen=True, eq=False)
class RandomWarp:
    """Turns, zooms, shears, bends, mirrors and shifts every image, drawn anew for each sample.

    Where a pixel of the new image comes from: its place about the centre is sheared, zoomed (rows and columns
    each by a factor of its own), turned, shifted by whole pixels, and moved by a smooth random field, a cubic
    spline of normal numbers at `KNOTS` times `KNOTS` control points. The pixel is interpolated there
    between its four neighbours and rounded to a whole level, as a picture of the same camera, so that dark
    pixels stay dark and pixels of one level spike together.

    Attributes:
        side: pixels a side of the square images.
        times: (256,) spike times of the pixel levels, see `datasets.encoding.pixel_latency`.
        max_shift: largest shift [pixels], each whole number from -most to most alike.
        max_turn: largest angle [degrees];  max_zoom, max_shear: largest share of a side.
        elastic: root of the mean square of the field, in each direction [pixels].
        mirror: half of the images have left and right exchanged.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual
    document analysis", ICDAR 2003, for elastic fields; theirs are filtered noise, ours a spline.
    """

    side: int
    times: NDArray[np.float64]
    max_shift: int = 0
    max_turn: float = 0.0
    max_zoom: float = 0.0
    max_shear: float = 0.0
    elastic: float = 0.0
    mirror: bool = False
    basis: NDArray[np.float64] = field(init=False, repr=False)
    """(side, KNOTS) share of each control point in a pixel's row or column; (side, 0) without a field."""

    def __post_init__(self) -> None:
        if wrong := list(out_of_range(vars(self), self.side)):
            raise together(wrong)
        object.__setattr__(self, "basis", _spline(self.side)[:, : KNOTS if self.elastic else 0])

    def scale(self) -> tuple[float, float]:
        """(first, second), where the level of a time is (first - time) second."""
        brightest = float(self.times[255])
        per_level = 254.0 / (float(self.times[1]) - brightest)  # pixels of level 0 may have no spike
        return brightest + 255.0 / per_level, per_level

    @property
    def n_drawn(self) -> int:
        """Numbers of an image."""
        return N_AFFINE + 2 * self.basis.shape[1] ** 2

    def draw(self, n_batch: int, streams: Iterable[np.random.Generator]) -> NDArray[np.float64]:
        """Where the pixels of each image come from.

        Args:
            streams: of each replica, at the batch's address; see `rng.stream`.

        Returns:
            (n_replica, n_batch, N_AFFINE + 2 n_knots) row and column that the centre comes from; change of
            the row with a row and with a column, of the column likewise; the field's rows, and its columns.
        """
        return np.stack([self._draw(n_batch, own) for own in streams])

    def _draw(self, n_batch: int, own: np.random.Generator) -> NDArray[np.float64]:
        most, n_knots = self.max_shift, self.basis.shape[1] ** 2
        out = np.empty((n_batch, self.n_drawn))
        out[:, :2] = (self.side - 1) / 2 + own.integers(-most, most + 1, size=(n_batch, 2))
        turn, *zooms, shear = own.uniform(-1.0, 1.0, size=(4, n_batch))
        angle, shear = np.deg2rad(self.max_turn) * turn, self.max_shear * shear
        rows, columns = (1.0 + self.max_zoom * zoom for zoom in zooms)
        cos, sin = np.cos(angle), np.sin(angle)
        out[:, 2], out[:, 3] = sin * shear + cos * rows, sin * columns
        out[:, 4], out[:, 5] = cos * shear - sin * rows, cos * columns
        if self.mirror:  # drawn last of these: without it the others are what they always were
            out[:, (3, 5)] *= np.where(own.random(n_batch) < 0.5, -1.0, 1.0)[:, None]
        if n_knots:
            out[:, N_AFFINE:] = self.elastic / _MEAN_SQUARE * own.standard_normal((n_batch, 2 * n_knots))
        return out

    def __call__(
        self,
        t_in: Array,
        seeds: Sequence[int],
        epoch: int,
        batch: int,
        kernels: Any = None,
        *,
        negatives: bool = False,
    ) -> None:
        """Warps in place; arguments as for `RandomShift`.

        Args:
            negatives: each pixel is followed by its negative, which follows it; of kernels alone.
        """
        n_batch, side = t_in.shape[1], self.side
        dark, per_level = self.scale()
        streams = (stream(seed, Purpose.AUGMENTATION, epoch, batch) for seed in seeds)
        drawn = self.draw(n_batch, streams)
        if _warps(kernels):
            kernels.warp(t_in, self.basis, self.times, dark, per_level, drawn, negatives=negatives)
            return
        times = self.times.astype(t_in.dtype)
        for r, numbers in enumerate(drawn):
            old = t_in[r, :, : side * side].astype(np.float64)
            levels = np.zeros((n_batch, side + 2, side + 2))  # black all around
            inner = np.where(old < np.inf, (dark - old) * per_level, 0.0)
            levels[:, 1:-1, 1:-1] = inner.reshape(n_batch, side, side)
            new = self._interpolated(levels, *self._origins(numbers))
            level = np.clip(np.floor(new + 0.5), 0, 255).astype(np.int64)
            t_in[r, :, : side * side] = times[level].reshape(n_batch, -1)

    def _origins(self, numbers: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """(n_batch, side, side) rows and columns that pixels come from."""
        place = np.arange(self.side) - (self.side - 1) / 2
        down, right = place[:, None], place[None, :]
        n_batch, knots = len(numbers), self.basis.shape[1]
        fields = numbers[:, N_AFFINE:].reshape(n_batch, 2, knots, knots)
        found = []
        for axis, (first, with_row, with_column) in enumerate(((0, 2, 3), (1, 4, 5))):
            start, of_row, of_column = (numbers[:, n, None, None] for n in (first, with_row, with_column))
            origin = start + of_row * down + of_column * right
            lines = np.zeros((n_batch, self.side, knots))
            for i in range(knots):  # sums in the order of the compiled step
                lines += self.basis[:, i, None] * fields[:, axis, None, i, :]
            for j in range(knots):
                origin = origin + self.basis[:, j] * lines[:, :, j, None]
            found.append(origin)
        return found

    def _interpolated(
        self, levels: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Levels at places of images that have a black frame, and are black beyond it."""
        inside = (rows > -1.0) & (rows < self.side) & (columns > -1.0) & (columns < self.side)
        rows, columns = np.where(inside, rows, -1.0), np.where(inside, columns, -1.0)
        above, before = np.floor(rows), np.floor(columns)
        down, right = rows - above, columns - before
        y, x, image = (
            above.astype(np.int64) + 1,
            before.astype(np.int64) + 1,
            np.arange(len(levels))[:, None, None],
        )
        below, behind = y + 1, x + 1
        upper = levels[image, y, x] + right * (levels[image, y, behind] - levels[image, y, x])
        lower = levels[image, below, x] + right * (levels[image, below, behind] - levels[image, below, x])
        return upper + down * (lower - upper)


@dataclass(frozen=True, eq=False)
class WithOpposites:
    """Changes images of which each pixel is followed by its negative, which then follows.

    Attributes:
        change: of the pixels.
        times: (256,) spike times of the pixel levels, falling.
    """

    change: RandomShift | RandomWarp
    times: NDArray[np.float64]

    def __call__(
        self, t_in: Array, seeds: Sequence[int], epoch: int, batch: int, kernels: Any = None
    ) -> None:
        """Changes in place; arguments as for `RandomShift`."""
        if isinstance(self.change, RandomWarp) and _warps(kernels):
            self.change(t_in, seeds, epoch, batch, kernels, negatives=True)
            return
        n_both = 2 * self.change.side**2
        pixels = np.ascontiguousarray(t_in[:, :, :n_both:2])
        self.change(pixels, seeds, epoch, batch)
        rising = self.times.astype(t_in.dtype)[::-1]
        t_in[:, :, :n_both:2] = pixels
        t_in[:, :, 1:n_both:2] = rising[255 - np.searchsorted(rising, pixels)]


def _warps(kernels: Any) -> bool:
    """Whether a backend's kernels warp images."""
    return getattr(kernels, "warp", None) is not None


def drawn(
    augment: RandomShift | RandomWarp, seeds: Sequence[int], epoch: int, first: int, sizes: Iterable[int]
) -> list[Array]:
    """What changes the images of some batches of an epoch; one by one they would take thrice as long.

    Args:
        seeds: of the replicas;  first: number of the first batch;  sizes: samples of each.
    """
    streams = [stream(seed, Purpose.AUGMENTATION) for seed in seeds]
    return [
        augment.draw(int(n), [restart(own, epoch, number) for own in streams])
        for number, n in enumerate(sizes, first)
    ]


_MEAN_SQUARE = 151.0 / 315.0
"""Of a cubic spline of unit normal numbers in one dimension, over its places."""


def _spline(side: int) -> NDArray[np.float64]:
    """(side, KNOTS) uniform cubic B-splines, at the middles of the pixels of a side."""
    place = (np.arange(side) + 0.5) * ((KNOTS - 3) / side)
    first = np.floor(place).astype(np.int64)
    t = place - first
    shares = np.stack(
        [
            (1.0 - t) ** 3 / 6.0,
            (3.0 * t**3 - 6.0 * t**2 + 4.0) / 6.0,
            (-3.0 * t**3 + 3.0 * t**2 + 3.0 * t + 1.0) / 6.0,
            t**3 / 6.0,
        ]
    )
    basis = np.zeros((side, KNOTS))
    for number, share in enumerate(shares):
        basis[np.arange(side), first + number] = share
    return basis
