"""Patches of an image and the order of their spikes, from the image sorted once (Numba).

A band is what the positions of one row see: some rows of the padded image, and the bias spikes. Each of its spikes has
a rank there, and of a patch a bit a rank says whether the patch has it. From one position to the next a few columns
leave and a few come in; the bits, read from the lowest, tell the patch's inputs in order. Simultaneous spikes stay in
the order of their inputs, as they do where each patch is sorted by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gpuspike.kernels.convolution import Convolution
from gpuspike.kernels.cpu.compiler import njit


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


@njit(error_model="numpy")
def gather(times, of, first, patch):
    """The inputs of the patch that begins at `first`.

    Returns:
        Whether all spike at one time, or none does; and how many spike.
    """
    pack(times, of, first, patch)
    same, n_spikes = True, np.int32(0)
    for i in range(patch.size):
        same &= patch[i] == patch[0]
        n_spikes += np.int32(patch[i] < np.inf)
    return same, n_spikes


def _make_lowest_bit(typingctx: Any, word: Any) -> Any:
    """Which is the lowest bit of a word that is not 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


_lowest_bit: Any = intrinsic(_make_lowest_bit)


class Band(NamedTuple):
    """Room for a band, and for the patch of it at hand.

    Attributes:
        rank: (n_image + n_bias,) of each spike of the sample, counted from the padded image's first.
        source: (n_image + n_bias,) the spike of each rank.
        rows: a bit for each of these ranks: whether the band has the spike.
        rank_within: (n_band + n_bias,) of each spike of the band among them, counted from the band's first.
        place: (n_band + n_bias,) which input of the patch at the left end a spike is, or would be further right;
            ~ that of a bias spike, which is the same everywhere.
        told: (n_band + n_bias,) `place` of each of these ranks.
        columns: a bit for each of these ranks: whether the patch has the spike.
    """

    rank: NDArray[np.int32]
    source: NDArray[np.int32]
    rows: NDArray[np.uint64]
    rank_within: NDArray[np.int32]
    place: NDArray[np.int32]
    told: NDArray[np.int32]
    columns: NDArray[np.uint64]


@njit(error_model="numpy")
def band_space(of, n_bias):
    """A `Band`, with its places."""
    n_all, n_band = n_padded(of) + n_bias, of.kernel * wide(of)
    band = Band(
        np.empty(n_all, np.int32), np.empty(n_all, np.int32), np.empty((n_all + 63) // 64, np.uint64),
        np.empty(n_band + n_bias, np.int32), np.empty(n_band + n_bias, np.int32),
        np.empty(n_band + n_bias, np.int32), np.empty((n_band + n_bias + 63) // 64, np.uint64),
    )  # fmt: skip
    for i in range(n_band):
        band.place[i] = i // wide(of) * of.kernel * of.channels + i % wide(of)
    for i in range(n_bias):
        band.place[n_band + i] = ~(of.kernel * of.kernel * of.channels + i)
    return band


@njit(error_model="numpy")
def _toggle(bits, rank, first, end):
    """Spikes come in, or leave."""
    for i in range(first, end):
        k = np.uint64(rank[np.uint64(i)])
        bits[k >> np.uint64(6)] ^= np.uint64(1) << (k & np.uint64(63))


@njit(error_model="numpy")
def new_sample(order, band):
    """Ranks of a sample's spikes, from the `order` that sorts them."""
    band.rows[:] = 0
    for k in range(order.size):
        i = order[k]
        band.rank[i], band.source[k] = k, i


@njit(error_model="numpy")
def new_row(of, y, band):
    """The band that positions of row y see, the rows coming in their order, and an empty patch."""
    n_image, n_band, down = n_padded(of), of.kernel * wide(of), of.stride * wide(of)
    first, new = y * down, min(down, n_band)
    if y == 0:
        _toggle(band.rows, band.rank, 0, n_band)
        _toggle(band.rows, band.rank, n_image, band.rank.size)
    else:
        _toggle(band.rows, band.rank, first - down, first - down + new)
        _toggle(band.rows, band.rank, first + n_band - new, first + n_band)
    n = np.uint64(0)
    for m in range(band.rows.size):
        word, base = band.rows[m], np.uint64(m * 64)
        while word != np.uint64(0):
            i = np.int64(band.source[base + _lowest_bit(word)])
            i = np.uint64(i - first if i < n_image else i - n_image + n_band)
            band.rank_within[i], band.told[n] = n, band.place[i]
            word &= word - np.uint64(1)
            n += np.uint64(1)
    band.columns[:] = 0


@njit(error_model="numpy")
def move(of, before, x, band):
    """From the patch at column `before` of positions to that at x, further right; -1 is the empty patch."""
    run, step, n_band = of.kernel * of.channels, of.stride * of.channels, of.kernel * wide(of)
    way = (x - before) * step
    if before < 0:
        _toggle(band.columns, band.rank_within, n_band, band.rank_within.size)
    for y in range(of.kernel):
        at = y * wide(of) + x * step
        new = run
        if before >= 0:
            new = min(way, run)
            _toggle(band.columns, band.rank_within, at - way, at - way + new)
        _toggle(band.columns, band.rank_within, at + run - new, at + run)


@njit(error_model="numpy")
def tell(of, x, n_spikes, band, order):
    """The order that sorts the present patch, at column x of positions.

    Args:
        n_spikes: inputs that spike. Of the others the first stands for all, which have no order to speak of.
    """
    left = x * of.stride * of.channels
    m = np.uint64(0)
    word, base, i = band.columns[m], np.uint64(0), np.int64(0)
    for n in range(min(n_spikes + 1, order.size)):
        while word == np.uint64(0):
            m += np.uint64(1)
            word, base = band.columns[m], base + np.uint64(64)
        i = np.int64(band.told[base + _lowest_bit(word)])
        i = i - left if i >= 0 else ~i
        order[n] = i
        word &= word - np.uint64(1)
    for n in range(n_spikes + 1, order.size):
        order[n] = i
