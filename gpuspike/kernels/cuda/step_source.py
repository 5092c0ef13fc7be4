"""How the kernels of a training step that know no neurons call the device code; see `cuda.source`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from gpuspike.errors import BackendError
from gpuspike.kernels.cuda.source import Elementwise

TAKE = Elementwise(
    "gpuspike_take",
    "int32 n_presented, int32 full, int32 n_batch, int32 n_pre, int32 side, int32 channels, int32 most, "
    "float64 background, float64 opposite, int32 known, int32 n_noisy, float64 std, int64 first_block, "
    "raw int64 seeds, raw int64 clock, raw int64 order, raw int32 corners, raw T data, "
    "raw int64 data_sorted, raw int64 data_labels",
    "raw T t_in, raw int64 sorted, raw int64 labels",
    """gpuspike::take_input<T>(
        i, n_presented, full, n_batch, n_pre, side, channels, most, background, opposite, known, n_noisy, std,
        first_block, &seeds[0], &clock[0], &order[0], &corners[0], &data[0], &data_sorted[0],
        &data_labels[0], &t_in[0], &sorted[0], &labels[0])""",
)

TAKE_WARPED = Elementwise(
    "gpuspike_take_warped",
    "int32 n_presented, int32 full, int32 n_batch, int32 n_pre, int32 side, int32 channels, int32 knots, "
    "int32 n_numbers, int32 ahead, float64 dark, float64 per_level, raw int64 clock, raw int64 order, "
    "raw float64 numbers, raw float64 basis, raw T levels, raw T data, raw int64 data_labels",
    "raw T t_in, raw int64 labels",
    """gpuspike::take_warped<T>(
        i, n_presented, full, n_batch, n_pre, side, channels, knots, n_numbers, ahead, dark, per_level,
        &clock[0], &order[0], &numbers[0], &basis[0], &levels[0], &data[0], &data_labels[0], &t_in[0],
        &labels[0])""",
)

JITTER, NORMALS = (
    Elementwise(
        f"gpuspike_{name}_now",
        "int32 n_batch, int32 n_row, int32 n, float64 std, raw int64 seeds, int64 first_block, "
        "raw int64 clock",
        "raw T out",
        f"""gpuspike::normal_block<T, {jitter}>(
            i, n_batch, n_row, n, std, &seeds[0], first_block, 0, clock[0], clock[1], &out[0])""",
    )
    for name, jitter in (("jitter", "true"), ("normals", "false"))
)

APPEND = Elementwise(
    "gpuspike_append",
    "int32 n_spikes, int32 n_all, raw T spikes, raw T bias",
    "T all",
    """const long long row = i / n_all, k = i % n_all;
    all = k < n_spikes ? spikes[row * n_spikes + k] : bias[k - n_spikes]""",
)

CUT = Elementwise(
    "gpuspike_cut",
    "int32 n_all, int32 n_first, raw T all",
    "T first",
    "first = all[i / n_first * n_all + i % n_first]",
)

SPARED = Elementwise(
    "gpuspike_spared", "raw int32 silent, raw bool gone", "int32 rest", "rest = gone[i] ? 0 : silent[i]"
)

ALL = (TAKE, TAKE_WARPED, JITTER, NORMALS, APPEND, CUT, SPARED)


# --- leaves: a loss or an optimiser, of which these files know no more than it says -------------------------


def device_text(kind: str, leaf: type[Any]) -> str:
    """The formula of a leaf in CUDA C++.

    Args:
        kind: what it is, as errors call it.

    Raises:
        BackendError: it has none.
    """
    if leaf.device is None:
        raise BackendError(f"the {kind} {leaf.__name__} has no device text: it needs backend=cpu")
    return leaf.device


def _told(names: Iterable[str]) -> str:
    """Numbers as a kernel's parameters, by names that no text of a leaf has."""
    return "".join(f"float64 told_{name}, " for name in names)


def _known(kind: str, names: Iterable[str], index: str = "") -> str:
    """The same numbers by their own names, in a type of C++."""
    return " ".join(f"[[maybe_unused]] const {kind} {name} = {kind}(told_{name}{index});" for name in names)


@cache
def loss_kernel(leaf: type[Any], numbers: tuple[str, ...]) -> Elementwise:
    """A loss by its device text, one thread a (replica, sample); see `gpuspike.training.losses.Loss`.

    Args:
        numbers: names of what it is told.

    Raises:
        BackendError: it has no device text.
    """
    # n_labels: fewer than samples where replicas share them.
    return Elementwise(
        f"gpuspike_loss_{leaf.__name__}",
        f"int32 n_batch, int32 n_class, int64 n_labels, {_told(numbers)}raw int64 labels, raw T t_outs",
        "raw T losses, raw T grads",
        f"""using namespace gpuspike;
        [[maybe_unused]] const T* const t_out = &t_outs[i * n_class];
        [[maybe_unused]] T* const grad = &grads[i * n_class];
        [[maybe_unused]] const long long label = labels[i % n_labels];
        {_known("double", numbers)}
        const auto formula = [&]() -> double {{ {device_text("loss", leaf)} }};
        losses[i] = T(formula())""",
    )


def _own_rates(leaf: type[Any]) -> bool:
    """Whether replicas have rates of an optimiser each; else there is the learning rate alone."""
    return leaf.COUNTS or leaf.device_rates is not None


@cache
def rates_kernel(leaf: type[Any], values: tuple[str, ...]) -> Elementwise | None:
    """What the next step of each replica needs of an optimiser; None: the learning rate, which is there.

    Args:
        values: names of the optimiser's own.
    """
    if not _own_rates(leaf):
        return None
    counted = "steps += active[i]; [[maybe_unused]] const double count = double(steps);" * leaf.COUNTS
    return Elementwise(
        f"gpuspike_rates_{leaf.__name__}",
        f"{_told(values)}raw float64 told_learning_rate, raw bool active",
        "int64 steps, " * leaf.COUNTS + ", ".join(f"float64 {name}" for name in leaf.RATES),
        f"""using namespace gpuspike;
        [[maybe_unused]] const double learning_rate = told_learning_rate[0];
        {_known("double", values)} {counted}
        {{ {leaf.device_rates or "rate = learning_rate;"} }}""",
    )


LAYERS_AT_ONCE = 2
"""Layers that one launch updates."""


@cache
def update_kernel(leaf: type[Any], numbers: tuple[str, ...], n_layers: int) -> Elementwise:
    """All that a step does to the weights of some layers, one behind the other, one thread a weight.

    The optimiser's step by its text, see `gpuspike.training.optimizers.Optimizer`; a bump; and what a chip
    can hold of it.

    Args:
        numbers: names of what the optimiser is told.

    Raises:
        BackendError: it has no device text.
    """
    replica = "[r]" if _own_rates(leaf) else "[0]"
    rates = "".join(f"raw float64 told_{name}, " for name in leaf.RATES)
    sizes = "n_pre", "n_post", "n_places", "first"
    arrays = "weight", *leaf.STATE
    in_params = (
        f"{_told(numbers)}raw bool active, {rates}int32 number, int32 targeted, int32 n_all, "
        "raw int64 layer, raw float64 size, raw int32 silent"
    )
    branches, out_params = [], []
    for n in range(n_layers):
        in_params += f", int64 end_{n}, {''.join(f'int32 {name}_{n}, ' for name in sizes)}float64 most_{n}"
        in_params += f", raw T grads_{n}"
        out_params += [f"raw T all_{name}_{n}" for name in arrays]
        given = [f"number + {n}", *(f"{name}_{n}" for name in (*sizes, "most"))]
        given += [f"&{name}_{n}[0]" for name in ("grads", *(f"all_{name}" for name in arrays))]
        begin = f" - end_{n - 1}" if n else ""
        branches.append(f"if (i < end_{n}) update(i{begin}, {', '.join(given)});")
    pointers = ", ".join(f"T* all_{name}" for name in arrays)
    entries = " ".join(f"[[maybe_unused]] T& {name} = all_{name}[at];" for name in arrays)
    return Elementwise(
        f"gpuspike_update_{leaf.__name__}_{n_layers}",
        in_params,
        ", ".join(out_params),
        f"""using namespace gpuspike;
        const auto update = [&](long long at, int own, {"".join(f"int {name}, " for name in sizes)}
                                double most, const T* grads, {pointers}) {{
            const long long r = at / (static_cast<long long>(n_pre) * n_post);
            if (active[r]) {{
                {entries}
                const T grad = grads[at];
                {_known("T", leaf.RATES, replica)}
                {_known("T", numbers)}
                {device_text("optimiser", leaf)}
            }}
            bump<T>(
                at, own, n_pre, n_post, n_places, targeted, first, n_all, &layer[0], &size[0], &silent[0],
                all_weight);
            limit(all_weight[at], most);
        }};
        {" else ".join(branches)}""",
    )
