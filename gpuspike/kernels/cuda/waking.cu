// Silent neurons that are pulled to their thresholds, from where their membranes were highest: the rule is that of
// gpuspike/training/waking.py, the mathematics that of gpuspike/kernels/cpu/peaks.py.

namespace gpuspike {

struct Top {
    double delay, potential;
};

// From an event to the maximum of a membrane that rises there, if that comes before `longest`.
GPUSPIKE_INLINE Top top(const Start<double>& from, const Membrane<double>& m, double longest) {
    double s = longest;
    if (from.p > 0.0 && m.slow < infinity<double>()) {
        const double x = m.slow * (1.0 - from.v / (m.fast * from.p));
        s = smaller(longest, m.rate == 0.0 ? x : log1p(m.rate * x) / m.rate);
    }
    return {s, Step(s, m).after(from).v};
}

// What a neuron hears of a sample whose inputs are sorted by an order that all neurons share.
//   column: the neuron's weights, n_post apart.
template <typename Real>
struct Heard {
    const Real* times;
    const Index* order;
    const Real* column;
    int n_post, n;

    GPUSPIKE_INLINE double time(int k) const { return times[order[k]]; }
    GPUSPIKE_INLINE double weight(int k) const { return column[order[k] * n_post]; }
};

// When the membrane of a neuron is highest; where it never rises above the leak, when its last input is felt most.
template <typename Events>
GPUSPIKE_INLINE double highest(const Events& events, const Membrane<double>& m) {
    double best = 0.0, found = infinity<double>(), last = infinity<double>();
    Start<double> now = {0.0, 0.0};
    bool rose = false;
    for (int k = 0; k < events.n; ++k) {
        const double t = events.time(k);
        if (!(t < infinity<double>())) break;
        if (k > 0) {
            const Start<double> after = Step(t - last, m).after(now);
            if (rose && !(after.p - after.v / m.fast > 0.0)) {  // it came down again before this event
                const Top highest_there = top(now, m, t - last);
                if (highest_there.potential > best) {
                    best = highest_there.potential;
                    found = last + highest_there.delay;
                }
            }
            now = after;
        }
        const bool rising = now.p - now.v / m.fast > 0.0;
        now.p += events.weight(k);
        rose = now.p - now.v / m.fast > 0.0;
        if (rising && !rose && now.v > best) {
            best = now.v;
            found = t;
        }
        last = t;
    }
    if (!(last < infinity<double>())) return last;
    if (rose) {  // a membrane without a leak never comes down
        const Top highest_there = top(now, m, FAR * m.fast);
        if (highest_there.potential > best) {
            best = highest_there.potential;
            found = last + highest_there.delay;
        }
    }
    return best > 0.0 ? found : last + smaller(peak_delay<MIXED>(m), FAR * m.fast);
}

// Which share of its strength pulls a neuron that is asleep; 0: none. Of the arguments see `wake`.
template <typename Real>
GPUSPIKE_INLINE double pulled_by(
    Index i, int n_batch, int n_post, int n_places, int is_last, double limit, const double* share, const Index* labels,
    const Real* awake) {
    if (awake[i] < infinity<Real>()) return 0.0;
    const Index j = i % n_post, row = i / n_post, neuron = row / n_batch * n_post + j;
    if (is_last) return labels[row / n_places] == row % n_places * n_post + j ? 1.0 : 0.0;
    return share[neuron] > limit ? (share[neuron] - limit) / (1.0 - limit) : 0.0;
}

// A layer's spikes as its gradient is to see them: pulled neurons spike at their peaks, with a slope that is negative,
// which `gradient_terms` takes for a pull; one thread a (replica, sample, neuron).
//   share: (n_replica, n_post) of the last batch for which each neuron was silent; spans: threshold - leak of each.
//   awake: inf of neurons that may be pulled;  t_cross, slope: of all others.
//   n_places: at which its neurons share their weights, each with a row of its own;  labels: (n_replica, n_batch / n_places).
//   is_last, mixed: 0 or 1;  taus: where mixed, of each neuron.
template <typename Real>
GPUSPIKE_INLINE void wake(
    Index i, int n_in_replicas, int n_batch, int n_pre, int n_post, int n_places, int is_last, int mixed,
    const Membrane<double>& shared, double strength, double limit, const double* taus, const double* spans,
    const double* share, const Index* labels, const Real* t_in, const Index* order, const Real* weights, const Real* awake,
    const Real* t_cross, const Real* slope, Real* seen, Real* pull) {
    const int j = int(i % n_post);
    const Index row = i / n_post, r = row / n_batch, b = row % n_batch, neuron = r * n_post + j;
    seen[i] = t_cross[i];
    pull[i] = slope[i];
    const double over = pulled_by(i, n_batch, n_post, n_places, is_last, limit, share, labels, awake);
    if (!(over > 0.0)) return;
    const Membrane<double> m = mixed ? membrane(taus[2 * neuron], taus[2 * neuron + 1]) : shared;
    const Index inputs = ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const Heard<Real> events = {t_in + inputs, order + inputs, weights + r * n_pre * n_post + j, n_post, n_pre};
    const double at = highest(events, m);
    if (!(at < infinity<double>())) return;
    seen[i] = Real(at);
    pull[i] = -Real(n_batch / n_places * spans[neuron] / (strength * over));
}

// The same of neurons whose synapses have delays of their own, n_samples from first_sample on; see `first_spike_single`.
template <typename Real>
GPUSPIKE_INLINE void wake_single(
    Index i, Index n_pairs, int n_in_replicas, int n_batch, int n_pre, int n_post, int first_sample, int n_samples,
    int n_places, int is_last, double strength, double limit, const double* neurons, const double* spans,
    const double* share, const Index* labels, const Real* t_in, const Real* weights, const Real* delays,
    const Real* awake, const Real* t_cross, const Real* slope, Real* times, Real* own_weights, Real* seen, Real* pull) {
    const Index r = i / (Index(n_samples) * n_post), b = first_sample + i / n_post % n_samples;
    const Index j = i % n_post, out = (r * n_batch + b) * n_post + j, column = r * n_pre * n_post + j;
    seen[out] = t_cross[out];
    pull[out] = slope[out];
    const double over = pulled_by(out, n_batch, n_post, n_places, is_last, limit, share, labels, awake);
    if (!(over > 0.0)) return;
    const Real* inputs = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const Arrivals<Real> own =
        arrivals(n_pre, n_post, inputs, weights + column, delays + column, times, own_weights, i, n_pairs);
    const double at = highest(own, Neuron(neurons + 4 * (r * n_post + j)).m);
    if (!(at < infinity<double>())) return;
    seen[out] = Real(at);
    pull[out] = -Real(n_batch / n_places * spans[r * n_post + j] / (strength * over));
}

}  // namespace gpuspike
