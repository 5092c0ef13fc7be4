// Neurons whose synapses have delays of their own, and so an order of events of their own: as
// gpuspike/kernels/cpu/single.py has them, pair by pair in float64. An input arrives at t_in + delay, rounded to `Real`.
//
// Arrays are as in forward.cu, and
//   delays: (n_replica, n_pre, n_post);  neurons: (n_replica, n_post, 4), tau_mem, tau_syn, threshold - leak and C.

namespace gpuspike {

struct Neuron {
    Membrane<double> m;
    double span, capacitance;

    GPUSPIKE_INLINE explicit Neuron(const double* at) : m(membrane(at[0], at[1])), span(at[2]), capacitance(at[3]) {}
};

// What reaches one neuron of a sample: the events of neighbouring threads lie side by side.
template <typename Real>
struct Arrivals {
    Real *times, *weights;
    Index stride;  // from one event of a thread to its next
    int n;

    GPUSPIKE_INLINE double time(int k) const { return k < n ? double(times[k * stride]) : infinity<double>(); }
    GPUSPIKE_INLINE double weight(int k) const { return weights[k * stride]; }

    // Puts the earlier of two events first.
    GPUSPIKE_INLINE void exchange(int one, int other) {
        const Index a = one * stride, b = other * stride;
        const Real early = times[b], late = times[a], of_early = weights[b], of_late = weights[a];
        if (!(late > early)) return;
        times[a] = early, times[b] = late;
        weights[a] = of_early, weights[b] = of_late;
    }

    // Batcher's merge exchange: every thread compares the same places.
    // Source: Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M.
    GPUSPIKE_INLINE void sort() {
        int top = 1;
        while (2 * top < n) top *= 2;
        for (int p = n > 1 ? top : 0; p > 0; p /= 2) {
            int q = top, r = 0, d = p;
            while (true) {
                for (int i = 0; i < n - d; ++i) {
                    if ((i & p) == r) exchange(i, i + d);
                }
                if (q == p) break;
                d = q - p;
                q /= 2;
                r = p;
            }
        }
    }
};

// The events of a neuron, sorted. `column`, `later`: its weights and delays, n_post apart; `place`, `stride`: where in
// `times` and `own_weights` a thread writes.
template <typename Real>
GPUSPIKE_INLINE Arrivals<Real> arrivals(
    int n_pre, int n_post, const Real* t_in, const Real* column, const Real* later, Real* times, Real* own_weights,
    Index place, Index stride) {
    Arrivals<Real> own = {times + place, own_weights + place, stride, 0};
    for (int k = 0; k < n_pre; ++k) {
        if (!(t_in[k] < infinity<Real>())) continue;
        own.times[own.n * stride] = t_in[k] + later[Index(k) * n_post];
        own.weights[own.n * stride] = column[Index(k) * n_post];
        ++own.n;
    }
    own.sort();
    return own;
}

// First spike of one neuron, and the membrane's slope there; one thread a (replica, sample, neuron), n_samples from
// first_sample on.
//   times, own_weights: room for n_pre events of each of the n_pairs threads;  lift: see `first_spikes`.
template <typename Real>
GPUSPIKE_INLINE void first_spike_single(
    Index i, Index n_pairs, int n_in_replicas, int n_batch, int n_pre, int n_post, int first_sample, int n_samples,
    double tangent, const double* neurons, const Real* t_in, const Real* weights, const Real* delays, const Real* lift,
    Real* times, Real* own_weights, Real* t_out, Real* slope) {
    const Index r = i / (Index(n_samples) * n_post), b = first_sample + i / n_post % n_samples;
    const Index j = i % n_post, out = (r * n_batch + b) * n_post + j, column = r * n_pre * n_post + j;
    const Neuron neuron(neurons + 4 * (r * n_post + j));
    const double span = neuron.span * (lift == nullptr ? 1.0 : double(lift[out]));
    t_out[out] = span > 0.0 ? infinity<Real>() : Real(0);
    slope[out] = Real(0);
    if (!(span > 0.0)) return;
    const Real* inputs = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const Arrivals<Real> own =
        arrivals(n_pre, n_post, inputs, weights + column, delays + column, times, own_weights, i, n_pairs);
    const double scale = 1.0 / (neuron.capacitance * span);
    Start<double> now = {0.0, 0.0};
    for (int k = 0; k < own.n; ++k) {
        const double t = own.time(k), next = own.time(k + 1);
        now.p += scale * own.weight(k);
        if (next == t) continue;  // of simultaneous events only the last one closes a causal set
        const bool ends_here = k + 1 == own.n;
        const Step step(ends_here ? 0.0 : next - t, neuron.m);
        if (ends_here || step.may_cross(now, neuron.m)) {
            const Crossing<double> crossing = solve<double, MIXED>(now, next - t, neuron.m);
            if (crossing.delay < infinity<double>()) {
                t_out[out] = Real(t + crossing.delay);
                const bool rises = crossing.slope * neuron.m.fast > tangent && t_out[out] < infinity<Real>();
                if (rises) slope[out] = Real(crossing.slope * span);
                return;
            }
        }
        now = step.after(now);
    }
}

// How long before a spike an input arrived; 0 or less, or -inf, where it did not matter.
template <typename Real>
GPUSPIKE_INLINE double age(double spike, Real t_in, Real delay) {
    return t_in < infinity<Real>() ? spike - double(Real(t_in + delay)) : -infinity<double>();
}

// A neuron's delay of an input, of n_post neurons; none where `delays` is null.
template <typename Real>
GPUSPIKE_INLINE Real delay_of(const Real* delays, Index at) {
    return delays == nullptr ? Real(0) : delays[at];
}

// Slope of the membrane at a given spike time, or where it meets the threshold of itself, as `slope_at` has them; one
// thread a (replica, sample, neuron).
template <typename Real, bool AT_CROSSING>
GPUSPIKE_INLINE void single_slope(
    Index i, int n_in_replicas, int n_batch, int n_pre, int n_post, double tangent, const double* neurons,
    const Real* t_in, const Real* weights, const Real* delays, const Real* t_out, Real* slope) {
    const Index j = i % n_post, row = i / n_post, r = row / n_batch, b = row % n_batch;
    slope[i] = Real(0);
    if (!(t_out[i] < infinity<Real>())) return;
    const Neuron neuron(neurons + 4 * (r * n_post + j));
    const double drive = neuron.capacitance * neuron.span;
    const Real* inputs = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const Index column = r * n_pre * n_post + j;
    double pull = 0.0, potential = 0.0;
    for (int k = 0; k < n_pre; ++k) {
        const Index at = column + Index(k) * n_post;
        const double past = age(double(t_out[i]), inputs[k], delays[at]);
        if (!(past > 0.0)) continue;
        pull += double(weights[at]) * exp(-past / neuron.m.slow);
        potential += double(weights[at]) * kernel<MIXED>(past, neuron.m);
    }
    const double rising = AT_CROSSING ? steepness_at_crossing<MIXED>({potential / drive, pull / drive}, tangent, neuron.m)
                                      : steepness(pull, potential, drive, tangent, neuron.m);
    const Real steep = Real(rising * neuron.span / neuron.m.fast);
    slope[i] = steep < infinity<Real>() ? steep : Real(0);
}

// What the gradients need of a spike: one thread a (replica, sample, neuron).
//   gate: t_out where a gradient passes, else -inf;  share: dL/dt_out/(C u');  kept: the same, 0 where |dL/dw| of any
//   input is beyond the limit.
template <typename Real>
GPUSPIKE_INLINE void single_terms(
    Index i, int n_in_replicas, int n_batch, int n_pre, int n_post, double limit, const double* neurons,
    const bool* active, const Real* t_in, const Real* delays, const Real* t_out, const Real* slope,
    const Real* t_out_grad, double* gate, double* share, double* kept) {
    const Index j = i % n_post, row = i / n_post, r = row / n_batch, b = row % n_batch;
    gate[i] = -infinity<double>();
    share[i] = kept[i] = 0.0;
    if (!active[r]) return;
    const bool pulled = slope[i] < Real(0);  // towards the threshold, see `wake`: as a spike of gradient 1 would be
    const double grad = pulled ? 1.0 : double(t_out_grad[i]), rising = pulled ? -double(slope[i]) : double(slope[i]);
    if (!(rising > 0.0 && t_out[i] < infinity<Real>() && grad != 0.0)) return;
    const Neuron neuron(neurons + 4 * (r * n_post + j));
    const double spike = t_out[i], scale = grad / (rising * neuron.capacitance), size = fabs(scale);
    gate[i] = spike;
    share[i] = kept[i] = scale;
    const double peak = peak_delay<MIXED>(neuron.m);
    if (!(size * (peak < infinity<double>() ? kernel<MIXED>(peak, neuron.m) : neuron.m.fast) > limit)) return;
    const Real* inputs = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    for (int k = 0; k < n_pre; ++k) {
        const double past = age(spike, inputs[k], delay_of(delays, (r * n_pre + k) * n_post + j));
        if (past > 0.0 && size * kernel<MIXED>(past, neuron.m) > limit) {
            kept[i] = 0.0;
            return;
        }
    }
}

// Gradients of the weights and the delays, over one of n_parts ranges of the batch: one thread a (range, replica, input,
// neuron).
template <typename Real>
GPUSPIKE_INLINE void single_learn(
    Index i, int n_parts, int n_replica, int n_in_replicas, int n_batch, int n_pre, int n_post, const double* neurons,
    const Real* t_in, const Real* weights, const Real* delays, const double* gate, const double* share,
    const double* kept, double* of_weights, double* of_delays) {
    const Index j = i % n_post, k = i / n_post % n_pre, own = i % (Index(n_replica) * n_pre * n_post);
    const Index r = own / n_post / n_pre, part = i / (Index(n_replica) * n_pre * n_post);
    const Index first = n_batch * part / n_parts, end = n_batch * (part + 1) / n_parts;
    const Membrane<double> m = Neuron(neurons + 4 * (r * n_post + j)).m;
    double by_weight = 0.0, by_delay = 0.0;
    for (Index b = first; b < end; ++b) {
        const Index out = (r * n_batch + b) * n_post + j;
        const double past = age(gate[out], t_in[((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre + k], delays[own]);
        if (!(past > 0.0)) continue;
        by_weight -= kept[out] * kernel<MIXED>(past, m);
        by_delay += share[out] * kernel_slope<MIXED>(past, m);
    }
    of_weights[i] = by_weight;
    of_delays[i] = by_delay * double(weights[own]);
}

// dK/d(own) of C k = K = (exp(-own s) - exp(-other s))/(other - own), with the two rates, for s > 0: see
// gpuspike/kernels/cpu/single.py.
GPUSPIKE_INLINE double bend(double s, double own, double other) {
    const double apart = other - own, z = apart * s, mine = exp(-own * s);
    if (fabs(z) > 0.5) return ((mine - exp(-other * s)) / apart - s * mine) / apart;
    double term = 0.5, total = 0.5;  // f(z) = sum_n (-z)^n/(n + 2)!
    for (int n = 3; n < 18; ++n) {
        term *= -z / n;
        total += term;
    }
    return -s * s * mine * total;
}

// Gradients by ln(tau_mem) and ln(tau_syn), over one of n_parts ranges of the batch: one thread a (range, replica, neuron).
//   gate, share: of `single_terms`;  out: (n_parts, 2, n_replica, n_post).
template <typename Real>
GPUSPIKE_INLINE void single_taus(
    Index i, int n_parts, int n_replica, int n_in_replicas, int n_batch, int n_pre, int n_post, const double* neurons,
    const Real* t_in, const Real* weights, const Real* delays, const double* gate, const double* share, double* out) {
    const Index own = i % (Index(n_replica) * n_post), r = own / n_post, j = own % n_post;
    const Index part = i / (Index(n_replica) * n_post);
    const Index first = n_batch * part / n_parts, end = n_batch * (part + 1) / n_parts;
    const double mem = 1.0 / neurons[4 * own], syn = 1.0 / neurons[4 * own + 1];
    double by_mem = 0.0, by_syn = 0.0;
    for (Index b = first; b < end; ++b) {
        const Index spike = (r * n_batch + b) * n_post + j;
        if (!(gate[spike] > -infinity<double>())) continue;
        const Real* inputs = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
        for (int k = 0; k < n_pre; ++k) {
            const Index at = (r * n_pre + k) * n_post + j;
            const double past = age(gate[spike], inputs[k], delay_of(delays, at));
            if (!(past > 0.0)) continue;
            const double pull = share[spike] * double(weights[at]);
            by_mem += pull * bend(past, mem, syn);
            by_syn += pull * bend(past, syn, mem);
        }
    }
    out[2 * part * n_replica * n_post + own] = mem * by_mem;
    out[(2 * part + 1) * n_replica * n_post + own] = syn * by_syn;
}

// Gradient of the time at which an input leaves; one thread a (replica, sample, input).
template <typename Real>
GPUSPIKE_INLINE void single_times(
    Index i, int n_in_replicas, int n_batch, int n_pre, int n_post, const double* neurons, const Real* t_in,
    const Real* weights, const Real* delays, const double* gate, const double* share, Real* out) {
    const Index k = i % n_pre, row = i / n_pre, r = row / n_batch, b = row % n_batch;
    const Real time = t_in[((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre + k];
    const Index synapses = (r * n_pre + k) * n_post;
    double total = 0.0;
    for (int j = 0; j < n_post; ++j) {
        const double past = age(gate[row * n_post + j], time, delays[synapses + j]);
        if (!(past > 0.0)) continue;
        const Membrane<double> m = Neuron(neurons + 4 * (r * n_post + j)).m;
        total += share[row * n_post + j] * double(weights[synapses + j]) * kernel_slope<MIXED>(past, m);
    }
    out[i] = Real(total);
}

}  // namespace gpuspike
