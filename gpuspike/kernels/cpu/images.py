"""Images that a training step shifts or warps, on their way from the data set."""

from __future__ import annotations

import math

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


@njit(error_model="numpy")
def _field_line(first, of_row, of_column, y, middle, field, basis, line, origins):
    """Rows or columns that the pixels of row y come from."""
    side, knots = basis.shape
    start = first + of_row * (y - middle)
    for x in range(side):
        origins[x] = start + of_column * (x - middle)
    for j in range(knots):
        line[j] = 0.0
    for i in range(knots):
        for j in range(knots):
            line[j] += basis[y, i] * field[i * knots + j]
    for j in range(knots):
        for x in range(side):
            origins[x] += basis[x, j] * line[j]


@njit(error_model="numpy")
def warp_room(warp):
    """What `warp_image` needs beside the images, once for many of them; nothing where there is no warp."""
    if warp is None:
        return np.zeros((0, 0)), np.empty((3, 0))
    side, knots = warp.basis.shape
    return np.zeros((side + 2, side + 2)), np.empty((3, max(side, knots)))


@njit(error_model="numpy")
def warp_image(image, warp, numbers, levels, lines, out):
    """An image, warped, see `training.augmentation.RandomWarp`; what stands behind it stays.

    Args:
        numbers: of this image, as `RandomWarp.draw` says.
        levels: (side + 2, side + 2), with a frame of zeros, and lines: (3, max(side, knots)): see `warp_room`.
    """
    basis, times, dark, per_level = warp.basis, warp.times, warp.dark, warp.per_level
    side, knots = basis.shape
    middle, n_knots = (side - 1) / 2, knots * knots
    for y in range(side):
        for x in range(side):
            t = np.float64(image[y * side + x])
            levels[y + 1, x + 1] = (dark - t) * per_level if t < math.inf else 0.0
    of_rows, of_columns = numbers[6 : 6 + n_knots], numbers[6 + n_knots : 6 + 2 * n_knots]
    line, rows, columns = lines[0], lines[1], lines[2]
    for y in range(side):
        _field_line(numbers[0], numbers[2], numbers[3], y, middle, of_rows, basis, line, rows)
        _field_line(numbers[1], numbers[4], numbers[5], y, middle, of_columns, basis, line, columns)
        for x in range(side):
            row, column = rows[x], columns[x]
            if not (-1.0 < row < side and -1.0 < column < side):
                out[y * side + x] = times[0]
                continue
            above, before = math.floor(row), math.floor(column)
            down, right = row - above, column - before
            i, j = int(above) + 1, int(before) + 1
            upper = levels[i, j] + right * (levels[i, j + 1] - levels[i, j])
            lower = levels[i + 1, j] + right * (levels[i + 1, j + 1] - levels[i + 1, j])
            level = math.floor(upper + down * (lower - upper) + 0.5)
            out[y * side + x] = times[min(max(level, 0), 255)]
    for i in range(side * side, out.size):
        out[i] = image[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _warp_job(control, is_caller, n_tasks, n_pieces, t_in, warp, every):
    """`warp_image` of all samples, in place; see `warp`."""
    enter(control, is_caller)
    n_batch, n_pixels = t_in.shape[1], len(warp.basis) ** 2
    levels, lines = warp_room(warp)
    room = np.empty((2, n_pixels), t_in.dtype)
    old, new = bare(room)[0], bare(room)[1]
    for task in tasks(control, n_tasks, n_pieces):
        r, b = task // n_batch, task % n_batch
        image = t_in[r, b]
        for i in range(n_pixels):
            old[i] = image[every * i]
        warp_image(old, warp, warp.numbers[r, b], levels, lines, new)
        for i in range(n_pixels):
            image[every * i] = new[i]
        if every == 2:
            for i in range(n_pixels):
                t = np.float64(new[i])
                level = math.floor((warp.dark - t) * warp.per_level + 0.5) if t < math.inf else 0
                image[2 * i + 1] = warp.times[255 - min(max(level, 0), 255)]
    keep(room)
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
