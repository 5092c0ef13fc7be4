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

// When the membrane of a neuron is highest; where it never rises above the leak, when its last input is felt most.
//   column: the neuron's weights, n_post apart;  order: sorts the inputs' times.
template <typename Real>
GPUSPIKE_INLINE double highest(
    int n_pre, int n_post, const Membrane<double>& m, const Real* times, const Index* order, const Real* column) {
    double best = 0.0, found = infinity<double>(), last = infinity<double>();
    Start<double> now = {0.0, 0.0};
    bool rose = false;
    for (int k = 0; k < n_pre; ++k) {
        const double t = times[order[k]];
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
        now.p += double(column[order[k] * n_post]);
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
    if (awake[i] < infinity<Real>()) return;
    double over = 1.0;
    if (is_last) {
        if (labels[row / n_places] != row % n_places * n_post + j) return;
    } else {
        if (!(share[neuron] > limit)) return;
        over = (share[neuron] - limit) / (1.0 - limit);
    }
    const Membrane<double> m = mixed ? membrane(taus[2 * neuron], taus[2 * neuron + 1]) : shared;
    const Index inputs = ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const double at = highest(n_pre, n_post, m, t_in + inputs, order + inputs, weights + r * n_pre * n_post + j);
    if (!(at < infinity<double>())) return;
    seen[i] = Real(at);
    pull[i] = -Real(n_batch / n_places * spans[neuron] / (strength * over));
}

}  // namespace gpuspike
