"""What the CUDA backend compiles: the text of its device code, and how each kernel of the neurons calls it.

Its files (mathematics, the neurons' indexing, the rest of a step) are put together into one text, so that
CuPy's cache of compiled kernels sees every edit of any. An elementwise kernel calls one device function a
thread; kernels whose threads work together are templates in that text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuspike.kernels.constants import MIXED

OPTIONS = ("--std=c++17",)

DRAWS = "draws.cuh"
"""Of which kernels that are written as the program runs are made, see `cuda.lazy`."""

FILES = (
    DRAWS, "lif.cuh", "events.cu", "forward.cu", "ttfs.cu", "convolution.cu", "single.cu", "waking.cu",
    "step.cu", "deciding.cu",
)  # fmt: skip


@cache
def source() -> str:
    """Text of all device code."""
    return "\n".join(map(_text, FILES))


@cache
def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Elementwise:
    """Arguments of a CuPy ElementwiseKernel; `operation` runs once for every `i`.

    Attributes:
        written: while the program runs, by `cuda.lazy`: it calls functions of `DRAWS` alone.
    """

    name: str
    in_params: str
    out_params: str
    operation: str
    written: bool = False

    @property
    def preamble(self) -> str:
        """The text that it is compiled with."""
        return _text(DRAWS) if self.written else source()


_SIZES = "int32 n_in_replicas, int32 n_batch, int32 n_pre, int32 n_post, int32 first_sample, int32 n_samples"
_TAUS = "float64 tau_slow, float64 tau_fast, float64 rate"
_MEMBRANE = "gpuspike::Membrane<double>{tau_slow, tau_fast, rate}"
_SIZES_PASSED = "n_in_replicas, n_batch, n_pre, n_post, first_sample, n_samples"


def prepare_kernel(regime: int) -> Elementwise:
    """What all neurons of a sample need of each of `n_events`; behind them, the parts of sums over inputs."""
    return Elementwise(
        f"gpuspike_prepare_{regime}",
        "int64 n_events, int32 n_batch, int32 n_pre, int32 n_post, int32 first_sample, int32 n_samples, "
        f"{_TAUS}, float64 drive, "
        "float64 reach, raw T t_in, raw int64 order, raw T weights",
        "raw T times, raw int32 rows, raw int32 ends, raw T events, raw T carries, raw T parts",
        f"""if (i >= n_events) gpuspike::sum_part(i - n_events, n_pre, n_post, &weights[0], &parts[0]);
        else gpuspike::prepare_event<T, {regime}>(
            i, n_batch, n_pre, n_post, first_sample, n_samples, {_MEMBRANE}, drive, reach,
            &t_in[0], &order[0],
            &times[0], &rows[0], &ends[0], reinterpret_cast<gpuspike::Event<T>*>(&events[0]),
            reinterpret_cast<gpuspike::Carry<T>*>(&carries[0]))""",
    )


def mixed_kernel(lifted: bool = False) -> Elementwise:
    """First spikes of neurons with time constants of their own."""
    name, parameter, lift = ("_lifted", ", raw T lift", "&lift[0]") if lifted else ("", "", "nullptr")
    return Elementwise(
        f"gpuspike_first_spike_mixed{name}",
        f"int32 width, {_SIZES}, float64 tangent, raw T weights, raw float64 taus, raw T times, "
        f"raw int32 rows{parameter}",
        "raw T t_out, raw T slope",
        f"""gpuspike::first_spike_mixed<T>(
            i, width, {_SIZES_PASSED}, tangent, &weights[0], &taus[0], &times[0], &rows[0], {lift},
            &t_out[0], &slope[0])""",
    )


def slopes_kernel(regime: int, at_crossing: bool = False) -> Elementwise:
    """Slopes at given spike times, or at the crossing of the membrane that the inputs before them make.

    The latter goes with every step of a training on a chip: its sums are of the working type.
    """
    name, real, sums = ("crossing_slope", "T", "T, T") if at_crossing else ("slope", "float64", "T, double")
    return Elementwise(
        f"gpuspike_{name}_{regime}",
        f"{_SIZES}, {_TAUS}, float64 drive, float64 span, float64 tangent, raw T t_in, raw T weights, "
        f"raw float64 taus, raw T t_out, raw float64 anchors, raw bool wide, raw {real} a1, raw {real} a2",
        "raw T slope",
        f"""gpuspike::slope_at<{sums}, {regime}, {str(at_crossing).lower()}>(
            i, {_SIZES_PASSED}, {_MEMBRANE}, drive, span, tangent, &t_in[0], &weights[0], &taus[0], &t_out[0],
            &anchors[0], &wide[0], &a1[0], &a2[0], &slope[0])""",
    )


def sum_kernel() -> Elementwise:
    """Adds the parts of a weight gradient up, first to last."""
    return Elementwise(
        "gpuspike_sum_parts",
        "raw T parts, int32 n_parts, int64 size",
        "T total",
        "T sum = T(0); for (int n = 0; n < n_parts; ++n) sum += parts[n * size + i]; total = sum",
    )


_IMAGE = ("rows", "columns", "channels", "kernel", "stride", "padding", "grid_rows", "grid_columns", "n_bias")
_IMAGE_SIZES, _IMAGE_PASSED = ", ".join(f"int32 {name}" for name in _IMAGE), f"{{{', '.join(_IMAGE)}}}"
_WINDOWS = "int32 grid_rows, int32 grid_columns, int32 n_maps, int32 pool"

PATCHES = Elementwise(
    "gpuspike_patches",
    f"{_IMAGE_SIZES}, float64 around, raw T t_in",
    "raw T patches",
    f"gpuspike::take_patch<T>(i, {_IMAGE_PASSED}, around, &t_in[0], &patches[0])",
)

GATHERED = Elementwise(
    "gpuspike_gathered",
    f"{_IMAGE_SIZES}, raw T of_patches",
    "raw T out",
    f"gpuspike::gather_patches<T>(i, {_IMAGE_PASSED}, &of_patches[0], &out[0])",
)

HEARD = Elementwise(
    "gpuspike_heard",
    f"{_WINDOWS}, raw T t_cross",
    "raw T t_out",
    "gpuspike::hear<T>(i, {grid_rows, grid_columns, n_maps, pool}, &t_cross[0], &t_out[0])",
)

SPREAD = Elementwise(
    "gpuspike_spread",
    f"{_WINDOWS}, raw T t_cross, raw T of_heard",
    "raw T out",
    "gpuspike::spread<T>(i, {grid_rows, grid_columns, n_maps, pool}, &t_cross[0], &of_heard[0], &out[0])",
)

SWAPPED = Elementwise(
    "gpuspike_swapped",
    "int32 n_a, int32 n_b, int32 n, raw T array",
    "raw T out",
    "out[i] = array[gpuspike::before_swap(i, n_a, n_b, n)]",
)

TILED = Elementwise(
    "gpuspike_tiled",
    "int32 n_tiles, int32 n, raw T array",
    "raw T out",
    "out[i] = array[i / n / n_tiles * n + i % n]",
)

SUMMED = Elementwise(
    "gpuspike_summed",
    "int32 n_tiles, int32 n, raw T array",
    "raw T out",
    "out[i] = gpuspike::sum_of_tiles<T>(i, n_tiles, n, &array[0])",
)

MAPS = (PATCHES, GATHERED, HEARD, SPREAD, SWAPPED, TILED, SUMMED)
"""What convolutional layers need beside the kernels of any layer."""


WAKE = Elementwise(
    "gpuspike_wake",
    "int32 n_in_replicas, int32 n_batch, int32 n_pre, int32 n_post, int32 n_places, int32 is_last, "
    f"int32 mixed, {_TAUS}, float64 strength, float64 limit, raw float64 taus, raw float64 spans, "
    "raw float64 share, raw int64 labels, raw T t_in, raw int64 order, raw T weights, raw T awake, "
    "raw T t_cross, raw T slope",
    "raw T seen, raw T pull",
    f"""gpuspike::wake<T>(
        i, n_in_replicas, n_batch, n_pre, n_post, n_places, is_last, mixed, {_MEMBRANE}, strength, limit,
        &taus[0], &spans[0], &share[0], &labels[0], &t_in[0], &order[0], &weights[0], &awake[0], &t_cross[0],
        &slope[0], &seen[0], &pull[0])""",
)

SHARE = Elementwise(
    "gpuspike_share",
    "int32 n_post, int32 first, int32 n_all, int32 n_batch, raw int32 alive, raw int32 silent",
    "float64 share",
    """const double n = double(n_batch) * alive[i];
    share = double(silent[i / n_post * n_all + first + i % n_post]) / (n > 1.0 ? n : 1.0)""",
)


def normals_kernel(jitter: bool) -> Elementwise:
    """Normal numbers, or jitter of input times by them."""
    return Elementwise(
        "gpuspike_jitter" if jitter else "gpuspike_normals",
        "int32 n_batch, int32 n_row, int32 n, float64 std, raw int64 seeds, int64 first_block, "
        "int64 first_sample, int64 epoch, int64 batch",
        "raw T out",
        f"""gpuspike::normal_block<T, {str(jitter).lower()}>(
            i, n_batch, n_row, n, std, &seeds[0], first_block, first_sample, epoch, batch, &out[0])""",
    )


def _real(dtype: np.dtype[Any]) -> str:
    return "float" if dtype == np.float32 else "double"


def forward_instance(dtype: np.dtype[Any], regime: int, per_thread: int, lifted: bool) -> str:
    """The kernel of first spikes of neurons that share their time constants, so many of them a thread."""
    return f"gpuspike::first_spikes<{_real(dtype)}, {regime}, {per_thread}, {str(lifted).lower()}>"


def decision_instance(dtype: np.dtype[Any], regime: int) -> str:
    """The kernel of decisions of a network of one such regime."""
    return f"gpuspike::first_decisions<{_real(dtype)}, {regime}>"


NO_REGIME = -1
"""Stands for the regime of kernels that know no neurons."""


def block_kernels(dtype: np.dtype[Any], regime: int) -> dict[str, str]:
    """Names of the kernels whose threads work together, and of their instances."""
    real = _real(dtype)
    if regime == NO_REGIME:
        generic = {name: f"gpuspike::{name}<{real}>" for name in ("sort_row", "count_silent", "judge")}
        return generic | {"draw_corners": "gpuspike::draw_corners"}
    names = ("gradient_terms", "weights_gradient", "times_gradient")
    kernels = {name: f"gpuspike::{name}<{real}, {regime}>" for name in names}
    for factor in dict.fromkeys(("double", real)) if regime != MIXED else ():
        kernels[f"sample_windows_{factor}"] = f"gpuspike::sample_windows<{real}, {factor}, {regime}>"
    return kernels


TILE = 64
"""Weights, samples or inputs a side of a block's tile, as in `ttfs.cu`."""

SPLIT_SAMPLES = 64
"""Fewest samples a block of the weight gradient sums; shorter sums gain nothing."""

SPLIT_BLOCKS = 512
"""Blocks that fill a large device: where weights give fewer, the batch is cut and its parts are added up."""


LANES = 32
"""Neurons of a tile, or half of them, as in `forward.cu`."""

NEURONS_A_THREAD = 2
"""Of a forward pass that fills a device with half as many threads."""

MANY = 1 << 17
"""Pairs (sample, neuron) from which it does: on 132 multiprocessors four warps for each scheduler."""


PARTS = 16
"""Of the sum over all inputs, which the last ones together need, as in `events.cu`."""

PARTS_OF_LAYERS = Elementwise(
    "gpuspike_parts",
    "int32 n_layer, int32 n_replica, raw int64 places, raw T weights",
    "raw T parts",
    "gpuspike::sum_parts<T>(i, n_layer, n_replica, &places[0], &weights[0], &parts[0])",
)


def event_bytes(itemsize: int) -> int:
    """Workspace of a forward pass for each event, for numbers of so many bytes."""
    return 8 * itemsize + 8


def neurons_a_thread(n_post: int, n_pairs: int) -> int:
    """How many neurons a thread of a forward pass has; it changes no bit of what they get."""
    few, many = (-(-n_post // tile) * tile for tile in (LANES, NEURONS_A_THREAD * LANES))
    # A pair takes 8.1 instructions in place of 9.4; the last tile's neurons may be met twice.
    pays = n_post >= NEURONS_A_THREAD * LANES and many < 1.17 * few
    return NEURONS_A_THREAD if pays and n_pairs >= MANY else 1


def gradient_parts(n_pre: int, n_post: int, n_batch: int) -> int:
    """Parts that the batch is cut into for the weight gradient; one array of weights each.

    The number of replicas has no say: a replica's sums must be those that it would have alone.
    """
    blocks = -(-n_pre // TILE) * -(-n_post // TILE)
    return max(1, min(SPLIT_BLOCKS // max(blocks, 1), n_batch // SPLIT_SAMPLES))


BESIDE_BLOCKS = 64
"""Most blocks of a kernel that runs beside others: it leaves half of a large device, or more, to them."""


def goes_beside(n_replica: int, n_pre: int, n_post: int, n_batch: int) -> bool:
    """Whether a layer's weight gradient runs beside what the layers before it need."""
    blocks = n_replica * -(-n_pre // TILE) * -(-n_post // TILE)
    return blocks * gradient_parts(n_pre, n_post, n_batch) <= BESIDE_BLOCKS
