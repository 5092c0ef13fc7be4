"""How the device code for layers with delays is called: see `single.cu`, and `cuda.source` for the rest."""

from __future__ import annotations

from gpuspike.kernels.cuda.source import Elementwise

_LAYER = "int32 n_in_replicas, int32 n_batch, int32 n_pre, int32 n_post"
_LAYER_PASSED = "n_in_replicas, n_batch, n_pre, n_post"
_PAIRS = f"int64 n_pairs, {_LAYER}, int32 first_sample, int32 n_samples"
_PAIRS_PASSED = f"n_pairs, {_LAYER_PASSED}, first_sample, n_samples"
_ROOM, _ROOM_PASSED = "raw T times, raw T own_weights", "&times[0], &own_weights[0]"

WAKE_SINGLE = Elementwise(
    "gpuspike_wake_single",
    f"{_PAIRS}, int32 n_places, int32 is_last, float64 strength, float64 limit, raw float64 neurons, "
    "raw float64 spans, raw float64 share, raw int64 labels, raw T t_in, raw T weights, raw T delays, "
    "raw T awake, raw T t_cross, raw T slope",
    f"{_ROOM}, raw T seen, raw T pull",
    f"""gpuspike::wake_single<T>(
        i, {_PAIRS_PASSED}, n_places, is_last, strength, limit, &neurons[0], &spans[0], &share[0],
        &labels[0], &t_in[0], &weights[0], &delays[0], &awake[0], &t_cross[0], &slope[0], {_ROOM_PASSED},
        &seen[0], &pull[0])""",
)


def single_kernel(lifted: bool) -> Elementwise:
    """First spikes of neurons whose synapses have delays of their own."""
    name, parameter, lift = ("_lifted", ", raw T lift", "&lift[0]") if lifted else ("", "", "nullptr")
    return Elementwise(
        f"gpuspike_single_spike{name}",
        f"{_PAIRS}, float64 tangent, raw float64 neurons, raw T t_in, raw T weights, raw T delays{parameter}",
        f"{_ROOM}, raw T t_out, raw T slope",
        f"""gpuspike::first_spike_single<T>(
            i, {_PAIRS_PASSED}, tangent, &neurons[0], &t_in[0], &weights[0], &delays[0], {lift},
            {_ROOM_PASSED}, &t_out[0], &slope[0])""",
    )


def slope_kernel(at_crossing: bool) -> Elementwise:
    """Slopes at given spike times, or where their causal sets would cross."""
    return Elementwise(
        f"gpuspike_single_{'crossing_slope' if at_crossing else 'slope'}",
        f"{_LAYER}, float64 tangent, raw float64 neurons, raw T t_in, raw T weights, raw T delays, "
        "raw T t_out",
        "raw T slope",
        f"""gpuspike::single_slope<T, {str(at_crossing).lower()}>(
            i, {_LAYER_PASSED}, tangent, &neurons[0], &t_in[0], &weights[0], &delays[0], &t_out[0],
            &slope[0])""",
    )


def _delayed(name: str, delayed: bool) -> tuple[str, str, str]:
    """A kernel's name, the parameter for delays, and what is passed for it."""
    return (name, ", raw T delays", "&delays[0]") if delayed else (f"{name}_at_once", "", "nullptr")


def terms_kernel(delayed: bool) -> Elementwise:
    """What gradients need of each spike, with delays of synapses or without."""
    name, parameter, delays = _delayed("gpuspike_single_terms", delayed)
    return Elementwise(
        name,
        f"{_LAYER}, float64 limit, raw float64 neurons, raw bool active, raw T t_in{parameter}, "
        "raw T t_out, raw T slope, raw T t_out_grad",
        "raw float64 gate, raw float64 share, raw float64 kept",
        f"""gpuspike::single_terms<T>(
            i, {_LAYER_PASSED}, limit, &neurons[0], &active[0], &t_in[0], {delays}, &t_out[0], &slope[0],
            &t_out_grad[0], &gate[0], &share[0], &kept[0])""",
    )


def taus_kernel(delayed: bool) -> Elementwise:
    """Gradients of time constants, with delays of synapses or without."""
    name, parameter, delays = _delayed("gpuspike_single_taus", delayed)
    return Elementwise(
        name,
        f"int32 n_parts, int32 n_replica, {_LAYER}, raw float64 neurons, raw T t_in, raw T weights"
        f"{parameter}, raw float64 gate, raw float64 share",
        "raw float64 out",
        f"""gpuspike::single_taus<T>(
            i, n_parts, n_replica, {_LAYER_PASSED}, &neurons[0], &t_in[0], &weights[0], {delays}, &gate[0],
            &share[0], &out[0])""",
    )


SINGLE_LEARN = Elementwise(
    "gpuspike_single_learn",
    f"int32 n_parts, int32 n_replica, {_LAYER}, raw float64 neurons, raw T t_in, raw T weights, "
    "raw T delays, raw float64 gate, raw float64 share, raw float64 kept",
    "raw float64 of_weights, raw float64 of_delays",
    f"""gpuspike::single_learn<T>(
        i, n_parts, n_replica, {_LAYER_PASSED}, &neurons[0], &t_in[0], &weights[0], &delays[0], &gate[0],
        &share[0], &kept[0], &of_weights[0], &of_delays[0])""",
)

SINGLE_TIMES = Elementwise(
    "gpuspike_single_times",
    f"{_LAYER}, raw float64 neurons, raw T t_in, raw T weights, raw T delays, raw float64 gate, "
    "raw float64 share",
    "raw T out",
    f"""gpuspike::single_times<T>(
        i, {_LAYER_PASSED}, &neurons[0], &t_in[0], &weights[0], &delays[0], &gate[0], &share[0], &out[0])""",
)

SINGLE_SUM = Elementwise(
    "gpuspike_single_sum",
    "int32 n_parts, int64 size, raw float64 of_weights, raw float64 of_delays",
    "T weights_grad, float64 delays_grad",
    """double weight = 0.0, delay = 0.0;
    for (int part = 0; part < n_parts; ++part) {
        weight += of_weights[part * size + i];
        delay += of_delays[part * size + i];
    }
    weights_grad = T(weight);
    delays_grad = delay""",
)

OVER_SAMPLES = Elementwise(
    "gpuspike_over_samples",
    "int32 n_batch, int32 n, raw bool active, raw T times, raw T grad",
    "raw float64 total",
    """double sum = 0.0;
    for (long long b = 0, at = i / n * n_batch * n + i % n; active[i / n] && b < n_batch; ++b, at += n) {
        if (times[at] < gpuspike::infinity<T>()) sum += double(grad[at]);
    }
    total[i] = sum""",
)

OVER_PARTS = Elementwise(
    "gpuspike_over_parts",
    "int32 n_parts, int64 size, raw float64 parts",
    "float64 total",
    """double sum = 0.0;
    for (int part = 0; part < n_parts; ++part) sum += parts[part * size + i];
    total = sum""",
)

OVER_INPUTS = Elementwise(
    "gpuspike_over_inputs",
    "int32 n_pre, int32 n_post, raw T weights, raw T grad",
    "raw float64 total",
    """double sum = 0.0;
    for (long long k = 0, at = i / n_post * n_pre * n_post + i % n_post; k < n_pre; ++k, at += n_post) {
        sum += double(weights[at]) * double(grad[at]);
    }
    total[i] = sum""",
)

NEURONS = Elementwise(
    "gpuspike_neurons",
    "raw float64 tau_mem, raw float64 tau_syn, raw float64 span, raw float64 capacitance",
    "T per_drive, T spans, T capacitances, raw float64 taus, raw float64 rows",
    """per_drive = T(1.0 / (capacitance[i] * span[i]));
    spans = T(span[i]);
    capacitances = T(capacitance[i]);
    taus[2 * i] = rows[4 * i] = tau_mem[i];
    taus[2 * i + 1] = rows[4 * i + 1] = tau_syn[i];
    rows[4 * i + 2] = span[i];
    rows[4 * i + 3] = capacitance[i]""",
)

SINGLE = (
    *(
        make(flag)
        for make in (single_kernel, slope_kernel, terms_kernel, taus_kernel)
        for flag in (False, True)
    ),
    SINGLE_LEARN, SINGLE_SUM, SINGLE_TIMES, OVER_SAMPLES, OVER_PARTS, OVER_INPUTS, NEURONS, WAKE_SINGLE,
)  # fmt: skip
"""What layers with delays, or with constants that are learnt, need beside the kernels of any layer."""

PART_SAMPLES = 16
"""Fewest samples over which a thread sums the gradient of a synapse with a delay of its own."""

PART_SYNAPSES = 1 << 17
"""Threads that fill a large device with such sums."""

MOST_TAUS_PARTS = 64
"""Parts of a batch for the sums of time constants: all inputs of a sample are one thread's."""


def learnt_parts(n_pre: int, n_post: int, n_batch: int) -> int:
    """Parts that the batch is cut into for them; replicas have no say, as in `gradient_parts`."""
    return max(1, min(PART_SYNAPSES // max(n_pre * n_post, 1), n_batch // PART_SAMPLES))


def taus_parts(n_post: int, n_batch: int) -> int:
    """Parts that the batch is cut into for the gradients of time constants; likewise."""
    return max(1, min(MOST_TAUS_PARTS, n_batch, PART_SYNAPSES // max(n_post, 1)))
