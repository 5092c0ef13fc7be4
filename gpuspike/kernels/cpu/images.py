"""Images that a training step shifts or warps, on their way from the data set."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels import Array
from gpuspike.kernels.cpu.arrays import bare, keep
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.records import Warp
from gpuspike.kernels.cpu.team import enter, leave, run, tasks


@njit(error_model="numpy")
def shift_image(image, shift, row, column, out):
    """An image, shifted: cut at a corner out of a canvas around it; what stands behind it stays."""
    side, most, background = shift.side, shift.most, shift.background
    for y in range(side):
        above = y + row - most
        line = out[y * side : (y + 1) * side]
        if not 0 <= above < side:
            line[:] = background
            continue
        first = column - most  # of the line's first pixel
        there = image[above * side : (above + 1) * side]
        for x in range(side):
            line[x] = there[x + first] if 0 <= x + first < side else background
    for i in range(side * side, out.size):
        out[i] = image[i]


LINE = 32
"""Pixels of a row are computed so many at a time, with nobody's behind them: what is left of fewer would go one by one."""


class WarpRoom(NamedTuple):
    """What `warp_image` needs beside the images, once for many of them. A line has room for whole times `LINE` pixels.

    Attributes:
        levels: ((side + 2)^2,) of the pixels, with a frame of zeros.
        basis: (n_knots, n_line) share of each control point in a row or column;  lines: of the same shape.
        origins: (2, n) rows and columns that pixels come from, then how far these are behind whole ones.
        corners: (4, n) levels around each;  where: (n,) numbers of the first of them, then pixel levels.
    """

    levels: NDArray[np.float64]
    basis: NDArray[np.float64]
    lines: NDArray[np.float64]
    origins: NDArray[np.float64]
    corners: NDArray[np.float64]
    where: NDArray[np.int32]


@njit(error_model="numpy")
def warp_room(warp):
    """The room for a warp; nothing where there is none."""
    side, knots = (0, 0) if warp is None else warp.basis.shape
    n_line = (side + LINE - 1) // LINE * LINE
    n = side * side + n_line
    room = WarpRoom(
        np.zeros((side + 2) * (side + 2)), np.zeros((knots, n_line)), np.empty((knots, n_line)), np.empty((2, n)),
        np.empty((4, n)), np.empty(n, np.int32),
    )  # fmt: skip
    if warp is not None:
        for j in range(knots):
            for x in range(side):
                room.basis[j, x] = warp.basis[x, j]
    return room


@njit(error_model="numpy")
def _origins(first, of_row, of_column, field, side, basis, lines, origins):
    """Rows or columns that pixels come from."""
    knots, n_line = basis.shape
    middle = (side - 1) / 2
    for j in range(knots):
        line = lines[j]
        line[:] = 0.0
        for i in range(knots):
            share, row = field[i * knots + j], basis[i]
            for y in range(n_line):
                line[y] += row[y] * share
    for y in range(side):
        own = origins[y * side : y * side + n_line]
        start = first + of_row * (y - middle)
        for x in range(n_line):
            own[x] = start + of_column * (x - middle)
        j = 0
        while j + 4 <= knots:  # what is added waits for what was: so many at a time, in their order
            a, b, c, d = lines[j, y], lines[j + 1, y], lines[j + 2, y], lines[j + 3, y]
            by_a, by_b, by_c, by_d = basis[j], basis[j + 1], basis[j + 2], basis[j + 3]
            for x in range(n_line):
                own[x] = (((own[x] + by_a[x] * a) + by_b[x] * b) + by_c[x] * c) + by_d[x] * d
            j += 4
        for k in range(j, knots):
            share, row = lines[k, y], basis[k]
            for x in range(n_line):
                own[x] += row[x] * share


@njit(error_model="numpy")
def warp_image(image, warp, numbers, room, out):
    """An image, warped, see `training.augmentation.RandomWarp`; what stands behind it stays.

    Args:
        numbers: of this image, as `RandomWarp.draw` says;  room: `WarpRoom`.
    """
    times, dark, per_level = warp.times, warp.dark, warp.per_level
    side, knots = warp.basis.shape
    n, n_knots, frame = side * side, knots * knots, side + 2
    levels, basis, lines, where = bare(room.levels), bare(room.basis), bare(room.lines), bare(room.where)
    origins, corners = bare(room.origins), bare(room.corners)
    for y in range(side):
        row, own = image[y * side : (y + 1) * side], levels[(y + 1) * frame + 1 : (y + 2) * frame - 1]
        for x in range(side):
            t = np.float64(row[x])
            own[x] = (dark - t) * per_level if t < math.inf else 0.0
    of_rows, of_columns = numbers[6 : 6 + n_knots], numbers[6 + n_knots : 6 + 2 * n_knots]
    rows, columns = origins[0], origins[1]
    _origins(numbers[0], numbers[2], numbers[3], of_rows, side, basis, lines, rows)
    _origins(numbers[1], numbers[4], numbers[5], of_columns, side, basis, lines, columns)
    for m in range(n):
        row, column = rows[m], columns[m]
        is_inside = (row > -1.0) & (row < side) & (column > -1.0) & (column < side)
        row, column = row if is_inside else -1.0, column if is_inside else -1.0  # the frame's first corner
        above, before = np.floor(row), np.floor(column)
        rows[m], columns[m] = row - above, column - before
        where[m] = np.int32((above + 1.0) * frame + (before + 1.0))
    for m in range(n):
        k = np.uint64(where[m])
        below = k + np.uint64(frame)
        corners[0, m], corners[1, m] = levels[k], levels[k + np.uint64(1)]
        corners[2, m], corners[3, m] = levels[below], levels[below + np.uint64(1)]
    a, b, c, d = corners[0], corners[1], corners[2], corners[3]
    for m in range(n):
        upper, lower = a[m] + columns[m] * (b[m] - a[m]), c[m] + columns[m] * (d[m] - c[m])
        level = np.floor(upper + rows[m] * (lower - upper) + 0.5)
        where[m] = np.int32(min(max(level, 0.0), 255.0))
    for m in range(n):
        out[m] = times[np.uint64(where[m])]
    for i in range(n, out.size):
        out[i] = image[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _warp_job(control, is_caller, n_tasks, n_pieces, t_in, warp, every):
    """`warp_image` of all samples, in place; see `warp`."""
    enter(control, is_caller)
    n_batch, n_pixels = t_in.shape[1], len(warp.basis) ** 2
    room, images = warp_room(warp), np.empty((2, n_pixels), t_in.dtype)
    old, new = bare(images)[0], bare(images)[1]
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        image = t_in[r, b]
        for i in range(n_pixels):
            old[i] = image[every * i]
        warp_image(old, warp, warp.numbers[r, b], room, new)
        for i in range(n_pixels):
            image[every * i] = new[i]
        if every == 2:
            for i in range(n_pixels):
                t = np.float64(new[i])
                level = math.floor((warp.dark - t) * warp.per_level + 0.5) if t < math.inf else 0
                image[2 * i + 1] = warp.times[255 - min(max(level, 0), 255)]
    keep((room, images))
    return leave(control, is_caller, n_pieces)


def warp(
    t_in: Array,
    basis: NDArray[np.float64],
    times: NDArray[np.float64],
    dark: float,
    per_level: float,
    numbers: NDArray[np.float64],
    *,
    negatives: bool = False,
) -> None:
    """Warps images in place, with the bits of `training.augmentation.RandomWarp` where levels have times of their own.

    Args:
        t_in: (n_replica, n_batch, n_pre) spike times of the pixels, row by row; bias spikes behind them stay.
        basis, times, dark, per_level, numbers: see `records.Warp`.
        negatives: each pixel is followed by its negative.
    """
    n_tasks = t_in.shape[0] * t_in.shape[1]
    if n_tasks:
        record = Warp(basis, times.astype(t_in.dtype), dark, per_level, numbers)
        run(_warp_job, (n_tasks, n_tasks, t_in, record, 2 if negatives else 1))
