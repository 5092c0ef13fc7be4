// What all neurons of a sample need of its events. Axes of arrays, samples of a pass and replicas that share an input:
// see forward.cu. Of simultaneous inputs, the last of all may be met together, see `Sorted::folded_from`.

namespace gpuspike {

typedef long long Index;

inline constexpr int GROUPS_FROM = 32;  // inputs from which their last ones are looked at, as in gpuspike/kernels/constants.py
inline constexpr double FOLD_WITHIN = 3.0;  // as in gpuspike/kernels/cpu/events.py
inline constexpr int FOLDED = -1;           // in place of an event's end: the last inputs together begin here
inline constexpr int PARTS = 16;            // of the sum over all inputs, added up by as many threads

// A sample's spikes in the order of time.
template <typename Real>
struct Sorted {
    const Real* times;
    const Index* order;  // none where they lie in it
    double width;  // of the cells into which time is cut from the first spike on; each cell has one anchor

    GPUSPIKE_INLINE double operator()(int k) const { return times[order == nullptr ? k : order[k]]; }
    GPUSPIKE_INLINE double cell(int k) const {
        const double first = (*this)(0), t = (*this)(k);
        return t < infinity<double>() ? floor((t - first) / width) : t;
    }
    // First event in [low, high) whose cell is at least the given one (strictly behind it), else high.
    GPUSPIKE_INLINE int first_in(double cell_wanted, bool behind, int low, int high) const {
        while (low < high) {
            const int middle = low + (high - low) / 2;
            const double here = cell(middle);
            if (here < cell_wanted || (behind && here == cell_wanted)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low;
    }
    // First of the last spikes where these have the weights that the others leave of the sum over all `n_all` inputs: more
    // than half of all, which all spike, and within FOLD_WITHIN tau_slow and one cell of the first; else n.
    GPUSPIKE_INLINE int folded_from(int n, int n_all, double slow) const {
        if (n < GROUPS_FROM || n < n_all) return n;
        const double last = (*this)(n - 1);
        if (!(last < infinity<double>()) || (*this)((n - 1) / 2) < last) return n;
        if (cell(n - 1) > 0.0 || last - (*this)(0) > FOLD_WITHIN * slow) return n;
        int low = 0;
        for (int high = (n - 1) / 2; low < high;) {
            const int middle = (low + high) / 2;
            if ((*this)(middle) < last) low = middle + 1;
            else high = middle;
        }
        return low;
    }
};

// What all neurons of a sample need of one event at a finite time.
//   n_all: inputs, of which n_pre are known;  end: for the first event of each anchor, the first event behind it or, before
//   that, where the last inputs are folded, whose own is FOLDED; else not written, nor is `by`. `first_asked`: an event
//   whose sums go on from the event before, which is to have both in any case.
template <typename Real, int REGIME>
GPUSPIKE_INLINE void prepare(
    int k, int n_pre, int n_all, int first_asked, const Sorted<Real>& sorted, const Membrane<double>& m, double drive, int* end,
    Event<Real>* coefficients, Carry<Real>* by) {
    const double t = sorted(k), cell = sorted.cell(k);
    const int first = cell == 0.0 ? 0 : sorted.first_in(cell, false, 0, k);
    const double anchor = sorted(first), next = k + 1 < n_pre ? sorted(k + 1) : infinity<double>();
    *coefficients = event<Real, REGIME>(t - anchor, next - anchor, next == t, drive, m);
    if (first != k && k != first_asked) return;
    *end = sorted.first_in(cell, true, k + 1, n_pre);
    const int folded = sorted.folded_from(n_pre, n_all, m.slow);
    if (folded < n_pre) *end = folded, end[folded - k] = FOLDED;
    if (first != k) {
        *by = {Real(1), Real(1), Real(0)};  // the anchor stays
    } else if (k > 0) {
        const int before = sorted.first_in(sorted.cell(k - 1), false, 0, k - 1);
        *by = carry<Real, REGIME>(anchor - sorted(before), m);
    }
}

// The same for samples of a batch; one thread an event. MIXED needs times and rows only.
//   rows: where the input's row of weights begins.
template <typename Real, int REGIME>
GPUSPIKE_INLINE void prepare_event(
    Index i, int n_batch, int n_pre, int n_post, int first_sample, int n_samples, Membrane<double> m, double drive,
    double reach, const Real* t_in, const Index* order, Real* times, int* rows, int* ends, Event<Real>* events,
    Carry<Real>* carries) {
    const int k = int(i % n_pre);
    const Index row = i / n_pre, r = row / n_samples, b = first_sample + row % n_samples;
    const Index source = (r * n_batch + b) * n_pre;
    const Sorted<Real> sorted = {t_in + source, order + source, reach * m.fast};
    const double t = sorted(k);
    times[i] = Real(t);
    rows[i] = int(order[source + k]) * n_post;
    if constexpr (REGIME != MIXED) {
        if (!(t < infinity<double>())) return;
        prepare<Real, REGIME>(k, n_pre, n_pre, 0, sorted, m, drive, ends + i, events + i, carries + i);
    }
}

// The sum over one of PARTS parts of a layer's inputs; one thread a (replica, part, neuron).
//   parts: (n_replica, n_post, PARTS)
template <typename Real>
GPUSPIKE_INLINE void sum_part(Index i, int n_pre, int n_post, const Real* weights, Real* parts) {
    const Index j = i % n_post, part = i / n_post % PARTS, r = i / n_post / PARTS;
    const int rows = (n_pre + PARTS - 1) / PARTS, begin = int(part) * rows, end = smaller(begin + rows, n_pre);
    const Real* column = weights + r * n_pre * n_post + j;
    Real sum = Real(0);
#pragma unroll 8
    for (int row = begin; row < end; ++row) sum += column[Index(row) * n_post];
    parts[(r * n_post + j) * PARTS + part] = sum;
}

}  // namespace gpuspike
