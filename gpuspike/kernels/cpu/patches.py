"""Patches of an image and their spikes in order, from the image sorted once (Numba).

A patch's spikes are picked from those around it: from a slab of the padded image, which some rows of positions see,
those of a band, which one row sees; from the band those of a strip, which some positions next to each other see; and
from the strip the patch's. So none looks through the whole image, nor through all of its row. They stay in their order, and
bias spikes are of all. Simultaneous spikes stay in the order of their inputs, as they do where each patch is sorted by itself. What a spike
brings along is picked with it: its place in the patch, its time, and how much it has grown.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cpu.arrays import bare
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.simd_patches import LANES, pick_order, pick_spikes
from gpuspike.kernels.cpu.simd_picks import PICKS
from gpuspike.kernels.cpu.solve import exp_vectorised


class Sizes(NamedTuple):
    """Of a layer, as compiled jobs take them."""

    rows: int
    columns: int
    channels: int
    kernel: int
    stride: int
    padding: int
    grid_rows: int
    grid_columns: int
    pool: int


def sizes(layer: Convolution) -> Sizes:
    """Those of a layer."""
    return Sizes(*layer.shape, layer.kernel, layer.stride, layer.padding, *layer.grid, layer.pool)


@njit()
def wide(of):
    """Inputs in a row of the padded image."""
    return (of.columns + 2 * of.padding) * of.channels


@njit()
def n_padded(of):
    """Inputs of the padded image."""
    return (of.rows + 2 * of.padding) * wide(of)


@njit()
def corner(of, place):
    """Where in the padded image the patch of a position begins."""
    y, x = place // of.grid_columns, place % of.grid_columns
    return of.stride * (y * wide(of) + x * of.channels)


@njit(error_model="numpy")
def pad(received, around, of, times):
    """A sample's spikes, the padding around them, then the bias spikes.

    Args:
        received: (n_in + n_bias,);  around: the time of the padding;  times: (n_padded + n_bias,) out.
    """
    row = of.columns * of.channels
    if of.padding > 0:
        times[:] = around
    for y in range(of.rows):
        at = (y + of.padding) * wide(of) + of.padding * of.channels
        for i in range(row):
            times[at + i] = received[y * row + i]
    for i in range(times.size - n_padded(of)):
        times[n_padded(of) + i] = received[of.rows * row + i]


@njit(error_model="numpy")
def crop(values, of, out):
    """What of the padded image is the image."""
    row = of.columns * of.channels
    for y in range(of.rows):
        at = (y + of.padding) * wide(of) + of.padding * of.channels
        for i in range(row):
            out[y * row + i] = values[at + i]


@njit(error_model="numpy")
def pack(values, of, first, patch):
    """What a padded image, and the bias spikes behind it, have for the patch that begins at `first`."""
    run, n_seen = of.kernel * of.channels, of.kernel * of.kernel * of.channels
    for y in range(of.kernel):
        for i in range(run):
            patch[y * run + i] = values[first + y * wide(of) + i]
    for i in range(patch.size - n_seen):
        patch[n_seen + i] = values[n_padded(of) + i]


FARTHEST = 64.0
"""Times, in tau_slow, within which a spike's growth is taken from time 0: beyond, that would cost digits."""


class Spikes(NamedTuple):
    """Spikes in their order.

    Attributes:
        where: (n,) which input of the padded image; -1 for a bias spike.
        right: (n,) how far right in it, counted in inputs; -1 for a bias spike.
        place: (n,) which input it is of the patch in the corner, or would be further right and lower: of the image, and of a
            slab, in the image's corner, of a band, and of a strip, at the band's left end. Of a bias spike of all patches.
        time: (n,);  growth: (n,) exp(time/tau_slow).
    """

    where: NDArray[np.int32]
    right: NDArray[np.int32]
    place: NDArray[np.int32]
    time: NDArray[np.float64]
    growth: NDArray[np.float64]


@njit(error_model="numpy")
def room_for_spikes(n):
    """`Spikes` of up to n, and a whole vector behind them."""
    n += LANES
    return Spikes(
        np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n), np.empty(n)
    )


@njit(error_model="numpy")
def bared(spikes):
    """The same of bare arrays."""
    return Spikes(
        bare(spikes.where), bare(spikes.right), bare(spikes.place), bare(spikes.time), bare(spikes.growth)
    )


@njit(error_model="numpy")
def layout(of, n_bias):
    """(3, n_padded + n_bias) `where`, `right` and `place` of each input of an image."""
    n_image, run = n_padded(of), of.kernel * of.channels
    told = np.empty((3, n_image + n_bias), np.int32)
    for i in range(n_image + n_bias):
        if i < n_image:
            told[0, i], told[1, i], told[2, i] = i, i % wide(of), i // wide(of) * run + i % wide(of)
        else:
            told[0, i], told[1, i], told[2, i] = -1, -1, of.kernel * run + i - n_image
    return told


@njit(error_model="numpy")
def image_spikes(times, order, told, tau_slow, spikes):
    """The spikes of a padded image, and the bias spikes behind it.

    Args:
        times, order: (n_padded + n_bias,) spike times and the order that sorts them;  told: `layout`.
        spikes: out, but for `growth` where the spikes are too far from 0.

    Returns:
        How many there are, and whether their growth is known: one spike far from 0 rounds all of the sample otherwise.
    """
    n, inf = 0, times.dtype.type(math.inf)
    while n < order.size and times[order[n]] < inf:
        i = order[n]
        spikes.where[n], spikes.right[n], spikes.place[n] = told[0, i], told[1, i], told[2, i]
        spikes.time[n] = times[i]
        n += 1
    far = FARTHEST * tau_slow
    known = n > 0 and -far < spikes.time[0] and spikes.time[max(n - 1, 0)] < far
    if known:
        rate = 1.0 / tau_slow
        for k in range(n):
            spikes.growth[k] = exp_vectorised(spikes.time[k] * rate)
    return n, known


@njit()
def together(n, of):
    """Positions of a row, or rows of these, for which strips, or slabs, are picked: of n inputs of the padded image a side.

    Each position looks through its strip and its share of the picking of that: little of both where these are alike.
    """
    return math.ceil(math.sqrt(n / of.stride))


@njit(error_model="numpy")
def rows_together(of):
    """Rows of positions that share a slab."""
    return together(of.rows + 2 * of.padding, of)


@njit(error_model="numpy")
def columns_together(of):
    """Positions of a row that share a strip."""
    return together(of.columns + 2 * of.padding, of)


@njit(error_model="numpy")
def _among(spikes, key, n, first, span, lower, out):
    """Of n spikes those whose key lies in [first, first + span), and bias spikes. Returns how many.

    Args:
        key: `where` or `right` of the spikes;  lower: what the places of others than bias spikes lose.
    """
    m, begun = 0, 0
    if PICKS:
        begun = n // LANES * LANES
        arrays = (
            key.ctypes.data, spikes.where.ctypes.data, spikes.right.ctypes.data, spikes.place.ctypes.data,
            spikes.time.ctypes.data, spikes.growth.ctypes.data,
        )  # fmt: skip
        outs = (
            out.where.ctypes.data, out.right.ctypes.data, out.place.ctypes.data, out.time.ctypes.data,
            out.growth.ctypes.data,
        )  # fmt: skip
        m = pick_spikes(arrays, begun // LANES, first, span, lower, outs)
    for k in range(begun, n):
        i = key[k]
        out.where[m], out.right[m] = spikes.where[k], spikes.right[k]
        out.place[m] = spikes.place[k] - (0 if i < 0 else lower)
        out.time[m], out.growth[m] = spikes.time[k], spikes.growth[k]
        m += 1 if i < 0 or 0 <= i - first < span else 0
    return m


@njit(error_model="numpy")
def slab_spikes(image, n, of, y, slab):
    """The spikes that rows of positions from y on see, of the n of an image. Returns how many."""
    span = (of.kernel + (rows_together(of) - 1) * of.stride) * wide(of)
    return _among(image, image.where, n, of.stride * y * wide(of), span, 0, slab)


@njit(error_model="numpy")
def band_spikes(slab, n, of, y, band):
    """The spikes that positions of row y see, of the n of a slab. Returns how many."""
    lower = of.stride * y * of.kernel * of.channels
    return _among(slab, slab.where, n, of.stride * y * wide(of), of.kernel * wide(of), lower, band)


@njit(error_model="numpy")
def strip_spikes(band, n, of, x, strip):
    """The spikes that positions from column x on see, of the n of their band. Returns how many."""
    span = (of.kernel + (columns_together(of) - 1) * of.stride) * of.channels
    return _among(band, band.right, n, of.stride * x * of.channels, span, 0, strip)


@njit(error_model="numpy")
def patch_spikes(strip, n, of, x, order, times, growth):
    """The spikes of the patch at column x of positions, of the n of its strip. Returns how many.

    Args:
        order: (n_pre + LANES,) the inputs of the patch in their order, out;  times, growth: of each, out.
    """
    left, run = of.stride * x * of.channels, of.kernel * of.channels
    m, begun = 0, 0
    if PICKS:
        begun = n // LANES * LANES
        arrays = (
            strip.right.ctypes.data, strip.place.ctypes.data, strip.time.ctypes.data, strip.growth.ctypes.data,
        )  # fmt: skip
        out = order.ctypes.data, times.ctypes.data, growth.ctypes.data
        m = pick_order(arrays, begun // LANES, left, run, left, out)
    for k in range(begun, n):
        i = strip.right[k]
        order[m] = strip.place[k] - (0 if i < 0 else left)
        times[m], growth[m] = strip.time[k], strip.growth[k]
        m += 1 if i < 0 or 0 <= i - left < run else 0
    return m


@njit(error_model="numpy")
def room_for_patches(of, n_bias):
    """`Spikes` of an image, a slab, a band and a strip."""
    n_image, across = n_padded(of), (of.kernel + (columns_together(of) - 1) * of.stride) * of.channels
    tall = (of.kernel + (rows_together(of) - 1) * of.stride) * wide(of)
    return (
        room_for_spikes(n_image + n_bias), room_for_spikes(min(tall, n_image) + n_bias),
        room_for_spikes(of.kernel * wide(of) + n_bias), room_for_spikes(of.kernel * min(across, wide(of)) + n_bias),
    )  # fmt: skip
