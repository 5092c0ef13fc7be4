"""How the kernels of a training step that know no neurons call the device code; see `cuda.source`."""

from __future__ import annotations

from gpuspike.kernels.cuda.source import Elementwise

TAKE = Elementwise(
    "gpuspike_take",
    "int32 n_train, int32 full, int32 n_batch, int32 n_pre, int32 side, int32 most, float64 background, "
    "int32 known, raw int64 clock, raw int64 order, raw int32 corners, raw T data, raw int64 data_sorted, "
    "raw int64 data_labels",
    "raw T t_in, raw int64 sorted, raw int64 labels",
    """gpuspike::take_input<T>(
        i, n_train, full, n_batch, n_pre, side, most, background, known, &clock[0], &order[0], &corners[0],
        &data[0], &data_sorted[0], &data_labels[0], &t_in[0], &sorted[0], &labels[0])""",
)

JITTER = Elementwise(
    "gpuspike_jitter_now",
    "int32 n_batch, int32 n_pre, int32 n_jittered, float64 std, raw int64 seeds, int64 first_block, "
    "raw int64 clock",
    "raw T times",
    """gpuspike::normal_block<T, true>(
        i, n_batch, n_pre, n_jittered, std, &seeds[0], first_block, 0, clock[0], clock[1], &times[0])""",
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

CROSS_ENTROPY = Elementwise(
    "gpuspike_cross_entropy",
    "int32 n_batch, int32 n_class, int64 n_labels, float64 unit, float64 late, float64 alpha, "
    "float64 penalty, float64 last, raw int64 labels, raw T t_out",
    "raw T loss, raw T grad",
    """gpuspike::cross_entropy<T>(
        i, n_batch, n_class, n_labels, unit, late, alpha, penalty, last, &labels[0], &t_out[0], &loss[0],
        &grad[0])""",
)

TIME_MSE = Elementwise(
    "gpuspike_time_mse",
    "int32 n_batch, int32 n_class, int64 n_labels, float64 tau_syn, float64 correct, float64 wrong, "
    "float64 penalty, raw int64 labels, raw T t_out",
    "raw T loss, raw T grad",
    """gpuspike::time_mse<T>(
        i, n_batch, n_class, n_labels, tau_syn, correct, wrong, penalty, &labels[0], &t_out[0], &loss[0],
        &grad[0])""",
)

BUMP = Elementwise(
    "gpuspike_bump",
    "int32 number, int32 n_pre, int32 n_post, int32 targeted, int32 first, int32 n_all, raw int64 layer, "
    "raw float64 size, raw int32 silent",
    "raw T weights",
    """gpuspike::bump<T>(
        i, number, n_pre, n_post, targeted, first, n_all, &layer[0], &size[0], &silent[0], &weights[0])""",
)

ADAM_RATES = Elementwise(
    "gpuspike_adam_rates",
    "float64 keep_mean, float64 keep_square, raw float64 learning_rate, raw bool active",
    "int64 steps, float64 rate, float64 correction",
    """steps += active[i];
    rate = learning_rate[0] / (1.0 - pow(keep_mean, double(steps)));
    correction = 1.0 / sqrt(1.0 - pow(keep_square, double(steps)))""",
)

ADAM_ACTIVE = Elementwise(
    "gpuspike_adam_active",
    "int64 n_weights, float64 keep_mean, float64 keep_square, float64 epsilon, raw bool active, "
    "raw float64 rate, raw float64 correction, raw T grad",
    "T weights, T mean, T square",
    """const long long r = i / n_weights;
    if (active[r]) {
        gpuspike::adam<T>(
            grad[i], keep_mean, keep_square, rate[r], correction[r], epsilon, weights, mean, square);
    }""",
)

SGD_ACTIVE = Elementwise(
    "gpuspike_sgd_active",
    "int64 n_weights, float64 momentum, raw float64 learning_rate, raw bool active, raw T grad",
    "T weights, T velocity",
    """if (active[i / n_weights]) {
        velocity = T(momentum) * velocity + grad[i];
        weights -= T(learning_rate[0]) * velocity;
    }""",
)

ALL = (
    TAKE, JITTER, APPEND, CUT, CROSS_ENTROPY, TIME_MSE, BUMP, ADAM_RATES, ADAM_ACTIVE, SGD_ACTIVE,
)  # fmt: skip
