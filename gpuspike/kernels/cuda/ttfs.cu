// Slopes at given spike times, and gradients. Arrays are as in forward.cu.

namespace gpuspike {

// Slope of the membrane that the inputs before given spike times make: at these times, or where it meets the threshold.
// One thread a (replica, sample, neuron), n_samples from first_sample on. Within a narrow window sums are of type Sum.
//   anchors (n_replica, n_samples), wide likewise, a1, a2 (n_replica, n_samples, n_pre): of `window`.
//   taus: as above where REGIME is MIXED, else not looked at.
template <typename Real, typename Sum, int REGIME, bool AT_CROSSING>
GPUSPIKE_INLINE void slope_at(
    Index i, int n_in_replicas, int n_batch, int n_pre, int n_post, int first_sample, int n_samples,
    Membrane<double> shared, double drive, double span, double tangent, const Real* t_in, const Real* weights,
    const double* taus, const Real* t_out, const double* anchors, const bool* wide, const Sum* a1, const Sum* a2,
    Real* slope) {
    const Index r = i / (Index(n_samples) * n_post), b = i / n_post % n_samples;
    const int j = int(i % n_post);
    const Index row = r * n_samples + b;
    const Index out = (r * n_batch + first_sample + b) * n_post + j;
    slope[out] = Real(0);
    const double spike = t_out[out];
    if (!(spike < infinity<double>())) return;
    const Membrane<double> m =
        REGIME == MIXED ? membrane(taus[2 * (r * n_post + j)], taus[2 * (r * n_post + j) + 1]) : shared;
    const Real* times = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + first_sample + b) * n_pre;
    const Real* column = weights + r * n_pre * n_post + j;
    double pull = 0.0, potential = 0.0;  // at the spike, see `steepness`
    if (REGIME == MIXED || wide[row]) {
        for (int k = 0; k < n_pre; ++k) {
            const double delay = spike - double(times[k]);
            if (!(delay > 0.0)) continue;
            const double w = column[Index(k) * n_post];
            pull += w * exp(-delay / m.slow);
            potential += w * kernel<REGIME>(delay, m);
        }
    } else {
        a1 += row * n_pre, a2 += row * n_pre;
        Sums<Sum> sums = {Sum(0), Sum(0)};
        for (int k = 0; k < n_pre; ++k) {
            if (!(times[k] < t_out[out])) continue;
            const Sum w = column[Index(k) * n_post];
            sums.p += w * a1[k];
            sums.q += w * a2[k];
        }
        const double t = spike - anchors[row], p = sums.p;
        pull = p * exp(-t / m.slow);
        potential = exp(-t / m.fast) * (rise<REGIME>(t, m) * p - double(sums.q));
    }
    const double rising = AT_CROSSING
        ? steepness_at_crossing<REGIME>({potential / drive, pull / drive}, tangent, m)
        : steepness(pull, potential, drive, tangent, m);
    slope[out] = Real(rising * span / m.fast);
}

// The first n of each row's n_row numbers: normal ones, or times to which such jitter is added, reflected at 0. One
// thread a (replica, sample, block of four numbers). From `first_block` on: the address, see gpuspike.rng.normals.
template <typename Real, bool JITTER>
GPUSPIKE_INLINE void normal_block(
    Index i, int n_batch, int n_row, int n, double std, const Index* seeds, Index first_block, Index first_sample,
    Index epoch, Index batch, Real* out) {
    const int n_blocks = (n + 3) / 4, block = int(i % n_blocks);
    const Index row = i / n_blocks, r = row / n_batch, b = row % n_batch;
    const Normals numbers = normals(unsigned(seeds[r]), unsigned(seeds[r] >> 32), unsigned(first_block + block),
                                    unsigned(first_sample + b), unsigned(batch), unsigned(epoch));
    for (int word = 0; word < 4; ++word) {
        const int k = word * n_blocks + block;
        if (k >= n) return;
        Real number = Real(std) * Real(numbers.at[word]);
        if (JITTER) number += out[row * n_row + k];
        out[row * n_row + k] = JITTER && number < Real(0) ? -number : number;
    }
}

// --- one block a sample -----------------------------------------------------------------------------------------

inline constexpr int SAMPLE_THREADS = 128;

inline constexpr double WINDOW = 16.0;  // longest window, in tau_fast, that one anchor serves: e^16 costs no digits

struct Window {
    double anchor;  // the first input
    double end;     // inputs from here on are behind every spike
    bool wide;      // too wide for one anchor: every pair is then taken by itself
};

// Called by all threads of a block together.
template <typename Real>
__device__ Window window(int n_pre, int n_post, double fast, const Real* times, const Real* spikes) {
    __shared__ double earliest[SAMPLE_THREADS], latest[SAMPLE_THREADS];
    double low = infinity<double>(), high = -infinity<double>();
    for (int k = threadIdx.x; k < n_pre; k += SAMPLE_THREADS) low = smaller(low, double(times[k]));
    for (int j = threadIdx.x; j < n_post; j += SAMPLE_THREADS) {
        const double spike = spikes[j];
        if (spike < infinity<double>() && spike > high) high = spike;
    }
    earliest[threadIdx.x] = low;
    latest[threadIdx.x] = high;
    for (int half = SAMPLE_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < half) {
            earliest[threadIdx.x] = smaller(earliest[threadIdx.x], earliest[threadIdx.x + half]);
            latest[threadIdx.x] = -smaller(-latest[threadIdx.x], -latest[threadIdx.x + half]);
        }
    }
    __syncthreads();
    const double anchor = earliest[0], last = latest[0];
    return {anchor, last, last - anchor > WINDOW * fast};
}

template <typename Real, typename Factor, int REGIME>
__device__ void input_factors(
    int n_pre, const Window& w, const Membrane<double>& m, const Real* times, Factor* a1, Factor* a2) {
    for (int k = threadIdx.x; k < n_pre; k += SAMPLE_THREADS) {
        // Inputs behind every spike are in no causal set; 0 keeps their terms finite.
        const double t = !w.wide && double(times[k]) < w.end ? double(times[k]) - w.anchor : 0.0;
        const double a = exp(t / m.slow);
        a1[k] = Factor(a);
        a2[k] = Factor(a * rise<REGIME>(t, m));
    }
}

// For `slope_at`: block x is the sample n = r n_samples + b.
template <typename Real, typename Factor, int REGIME>
__global__ void __launch_bounds__(SAMPLE_THREADS) sample_windows(
    int n_in_replicas, int n_batch, int n_pre, int n_post, int first_sample, int n_samples, double tau_slow,
    double tau_fast, double rate, const Real* t_in, const Real* t_out, double* anchors, bool* wide, Factor* a1,
    Factor* a2) {
    const Membrane<double> m = {tau_slow, tau_fast, rate};
    const Index row = blockIdx.x, r = row / n_samples, b = first_sample + row % n_samples;
    const Real* times = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const Window w = window(n_pre, n_post, m.fast, times, t_out + (r * n_batch + b) * n_post);
    input_factors<Real, Factor, REGIME>(n_pre, w, m, times, a1 + row * n_pre, a2 + row * n_pre);
    if (threadIdx.x == 0) {
        anchors[row] = w.anchor;
        wide[row] = w.wide;
    }
}

// Factors of the rank-2 products, and the zeroing of exploding rows; block x is the sample n = r n_batch + b.
//   gate: t_out where a gradient passes, else -inf.
//   p1, p2, q1, q2: as in `factors`; where the window is wide, p1 = -scale, q1 = scale, the others 0.
//   limit: of |dL/dw|;  capacitance: of all neurons (1 where the launcher has put it into the slope).
template <typename Real, int REGIME>
__global__ void __launch_bounds__(SAMPLE_THREADS) gradient_terms(
    int n_in_replicas, int n_batch, int n_pre, int n_post, double tau_slow, double tau_fast, double rate,
    double capacitance, double limit, const double* taus, const bool* active, const Real* t_in, const Real* t_out,
    const Real* slope, const Real* t_out_grad, bool* wide, Real* a1, Real* a2, Real* gate, Real* p1, Real* p2, Real* q1,
    Real* q2) {
    const Index row = blockIdx.x, r = row / n_batch, b = row % n_batch;
    if (!active[r]) return;
    const Membrane<double> shared = {tau_slow, tau_fast, rate};
    const Real* times = t_in + ((n_in_replicas > 1 ? r : 0) * n_batch + b) * n_pre;
    const Index first = row * n_post;
    Window w = {0.0, 0.0, true};
    if constexpr (REGIME != MIXED) {
        w = window(n_pre, n_post, shared.fast, times, t_out + first);
        input_factors<Real, Real, REGIME>(n_pre, w, shared, times, a1 + row * n_pre, a2 + row * n_pre);
    }
    if (threadIdx.x == 0) wide[row] = w.wide;
    for (int j = threadIdx.x; j < n_post; j += SAMPLE_THREADS) {
        const Index n = first + j;
        const Membrane<double> m =
            REGIME == MIXED ? membrane(taus[2 * (r * n_post + j)], taus[2 * (r * n_post + j) + 1]) : shared;
        const double spike = t_out[n];
        const bool pulled = slope[n] < Real(0);  // towards the threshold, see `wake`: as a spike of gradient 1 would be
        const double grad = pulled ? 1.0 : double(t_out_grad[n]), rising = pulled ? -double(slope[n]) : double(slope[n]);
        const bool heard = rising > 0.0 && spike < infinity<double>() && grad != 0.0;
        const double scale = heard ? grad / (rising * capacitance) : 0.0;
        Factors f = {-scale, 0.0, scale, 0.0};
        if (!w.wide && heard) f = factors<REGIME>(spike - w.anchor, scale, m);
        const double peak = peak_delay<REGIME>(m), size = scale < 0.0 ? -scale : scale;
        if (size * (peak < infinity<double>() ? kernel<REGIME>(peak, m) : m.fast) > limit) {
            // The kernel's peak bounds every |dL/dw|. The largest one itself is next to the peak, on either side.
            double before = 0.0, behind = infinity<double>();
            for (int k = 0; k < n_pre; ++k) {
                const double delay = spike - double(times[k]);
                if (!(delay > 0.0)) continue;
                if (delay <= peak) before = delay > before ? delay : before;
                else behind = smaller(behind, delay);
            }
            double steepest = before > 0.0 ? kernel<REGIME>(before, m) : 0.0;
            if (behind < infinity<double>()) steepest = -smaller(-steepest, -kernel<REGIME>(behind, m));
            if (size * steepest > limit) f.p1 = f.p2 = 0.0;
        }
        gate[n] = heard ? Real(spike) : -infinity<Real>();
        p1[n] = Real(f.p1), p2[n] = Real(f.p2), q1[n] = Real(f.q1), q2[n] = Real(f.q2);
    }
}

// --- masked rank-2 products -------------------------------------------------------------------------------------

// Blocks that a multiprocessor should hold at least are chosen so that no instance spills a register.
inline constexpr int TILE = 64, PER_THREAD = 4, SIDE = TILE / PER_THREAD, TILE_THREADS = SIDE * SIDE;

// Four neighbours, read from shared memory at once.
template <typename Real>
struct alignas(16) Four {
    Real at[PER_THREAD];
};

// dL/dw[i, j] = sum_b [t_bi < gate_bj] (p1_bj a1_bi + p2_bj a2_bi), over one of `n_splits` ranges of the batch.
// A block is a tile of 64 inputs and 64 neurons; the batch passes through shared memory, 8 samples at a time. Each sum
// is one thread's, in the order of the batch: the same bits every time.
//   out: (n_splits, n_replica, n_pre, n_post)
template <typename Real, int REGIME>
__global__ void __launch_bounds__(TILE_THREADS, sizeof(Real) == 4 ? 2 : 1) weights_gradient(
    int n_replica, int n_in_replicas, int n_batch, int n_pre, int n_post, int n_splits, double tau_slow,
    double tau_fast, double rate, const double* taus, const bool* active, const Real* t_in, const bool* wide,
    const Real* a1, const Real* a2, const Real* gate, const Real* p1, const Real* p2, Real* out) {
    constexpr int DEPTH = 8;
    const int tiles_j = (n_post + TILE - 1) / TILE, tiles_i = (n_pre + TILE - 1) / TILE;
    const int j0 = int(blockIdx.x % tiles_j) * TILE, i0 = int(blockIdx.x / tiles_j % tiles_i) * TILE;
    const Index layer = Index(blockIdx.x) / tiles_j / tiles_i, split = layer / n_replica, r = layer % n_replica;
    const int b0 = int(Index(n_batch) * split / n_splits), b1 = int(Index(n_batch) * (split + 1) / n_splits);
    const int x = PER_THREAD * (threadIdx.x % SIDE), y = PER_THREAD * (threadIdx.x / SIDE);
    const Index inputs = (n_in_replicas > 1 ? r : 0) * n_batch, rows = r * n_batch;
    Real sum[PER_THREAD][PER_THREAD] = {};
    bool any_wide = REGIME == MIXED;
    if constexpr (REGIME != MIXED) {
        __shared__ Four<Real> t_tile[DEPTH][SIDE], a1_tile[DEPTH][SIDE], a2_tile[DEPTH][SIDE];
        __shared__ Four<Real> gate_tile[DEPTH][SIDE], p1_tile[DEPTH][SIDE], p2_tile[DEPTH][SIDE];
        __shared__ bool wide_seen;
        if (threadIdx.x == 0) wide_seen = false;
        for (int b = b0; active[r] && b < b1; b += DEPTH) {
            __syncthreads();
            for (int n = threadIdx.x; n < DEPTH * TILE; n += TILE_THREADS) {
                const int d = n / TILE, c = n % TILE, lane = c % PER_THREAD, four = c / PER_THREAD;
                const bool here = b + d < b1, is_wide = here && wide[rows + b + d];
                const bool has_i = here && i0 + c < n_pre, has_j = here && !is_wide && j0 + c < n_post;
                const Index at_i = (rows + b + d) * n_pre + i0 + c, at_j = (rows + b + d) * n_post + j0 + c;
                t_tile[d][four].at[lane] = has_i ? t_in[(inputs + b + d) * n_pre + i0 + c] : infinity<Real>();
                a1_tile[d][four].at[lane] = has_i ? a1[at_i] : Real(0);
                a2_tile[d][four].at[lane] = has_i ? a2[at_i] : Real(0);
                gate_tile[d][four].at[lane] = has_j ? gate[at_j] : -infinity<Real>();
                p1_tile[d][four].at[lane] = has_j ? p1[at_j] : Real(0);
                p2_tile[d][four].at[lane] = has_j ? p2[at_j] : Real(0);
                if (is_wide) wide_seen = true;
            }
            __syncthreads();
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                const Four<Real> t = t_tile[d][y / PER_THREAD], u = a1_tile[d][y / PER_THREAD];
                const Four<Real> v = a2_tile[d][y / PER_THREAD], g = gate_tile[d][x / PER_THREAD];
                const Four<Real> p = p1_tile[d][x / PER_THREAD], q = p2_tile[d][x / PER_THREAD];
#pragma unroll
                for (int m = 0; m < PER_THREAD; ++m) {
#pragma unroll
                    for (int n = 0; n < PER_THREAD; ++n) {
                        if (t.at[m] < g.at[n]) sum[m][n] += p.at[n] * u.at[m] + q.at[n] * v.at[m];
                    }
                }
            }
        }
        __syncthreads();
        any_wide = active[r] && wide_seen;
    }
    const Index base = (split * n_replica + r) * n_pre;
#pragma unroll
    for (int m = 0; m < PER_THREAD; ++m) {
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) {
            if (i0 + y + m < n_pre && j0 + x + n < n_post) out[(base + i0 + y + m) * n_post + j0 + x + n] = sum[m][n];
        }
    }
    if (!any_wide || !active[r]) return;
    for (int n = 0; n < PER_THREAD * PER_THREAD; ++n) {  // pair by pair, in float64
        const int i = i0 + y + n / PER_THREAD, j = j0 + x + n % PER_THREAD;
        if (i >= n_pre || j >= n_post) continue;
        Membrane<double> m = {tau_slow, tau_fast, rate};
        if (REGIME == MIXED) m = membrane(taus[2 * (r * n_post + j)], taus[2 * (r * n_post + j) + 1]);
        double total = out[(base + i) * n_post + j];
        for (int b = b0; b < b1; ++b) {
            if (!wide[rows + b]) continue;
            const double delay = double(gate[(rows + b) * n_post + j]) - double(t_in[(inputs + b) * n_pre + i]);
            if (delay > 0.0) total += double(p1[(rows + b) * n_post + j]) * kernel<REGIME>(delay, m);
        }
        out[(base + i) * n_post + j] = Real(total);
    }
}

// dL/dt[b, i] = sum_j [t_bi < gate_bj] w_ij (q1_bj a1_bi + q2_bj a2_bi). A block is a tile of 64 samples and 64
// inputs; the neurons pass through shared memory, 16 at a time.
template <typename Real, int REGIME>
__global__ void __launch_bounds__(TILE_THREADS, sizeof(Real) == 4 ? 2 : 1) times_gradient(
    int n_in_replicas, int n_batch, int n_pre, int n_post, double tau_slow, double tau_fast, double rate,
    const double* taus, const bool* active, const Real* t_in, const Real* weights, const bool* wide, const Real* a1,
    const Real* a2, const Real* gate, const Real* q1, const Real* q2, Real* out) {
    constexpr int DEPTH = 16, PAD = 1;  // a row of padding spreads the transposed stores over the banks
    const int tiles_i = (n_pre + TILE - 1) / TILE, tiles_b = (n_batch + TILE - 1) / TILE;
    const int i0 = int(blockIdx.x % tiles_i) * TILE, b0 = int(blockIdx.x / tiles_i % tiles_b) * TILE;
    const Index r = Index(blockIdx.x) / tiles_i / tiles_b;
    const int x = PER_THREAD * (threadIdx.x % SIDE), y = PER_THREAD * (threadIdx.x / SIDE);
    const Index inputs = (n_in_replicas > 1 ? r : 0) * n_batch, rows = r * n_batch, columns = r * n_pre;
    const Real zero = Real(0);
    Real sum1[PER_THREAD][PER_THREAD] = {}, sum2[PER_THREAD][PER_THREAD] = {};
    if constexpr (REGIME != MIXED) {
        __shared__ Four<Real> w_tile[DEPTH][SIDE + PAD], gate_tile[DEPTH][SIDE + PAD];
        __shared__ Four<Real> q1_tile[DEPTH][SIDE + PAD], q2_tile[DEPTH][SIDE + PAD];
        Real t[PER_THREAD][PER_THREAD];
#pragma unroll
        for (int m = 0; m < PER_THREAD; ++m) {
#pragma unroll
            for (int n = 0; n < PER_THREAD; ++n) {
                const bool here = b0 + y + m < n_batch && i0 + x + n < n_pre;
                t[m][n] = here ? t_in[(inputs + b0 + y + m) * n_pre + i0 + x + n] : infinity<Real>();
            }
        }
        for (int j = 0; active[r] && j < n_post; j += DEPTH) {
            __syncthreads();
            for (int n = threadIdx.x; n < DEPTH * TILE; n += TILE_THREADS) {
                const int c = n / DEPTH, d = n % DEPTH, lane = c % PER_THREAD, four = c / PER_THREAD;
                const bool has_i = j + d < n_post && i0 + c < n_pre, has_b = j + d < n_post && b0 + c < n_batch;
                const Index at_b = (rows + b0 + c) * n_post + j + d;
                w_tile[d][four].at[lane] = has_i ? weights[(columns + i0 + c) * n_post + j + d] : zero;
                gate_tile[d][four].at[lane] = has_b ? gate[at_b] : -infinity<Real>();
                q1_tile[d][four].at[lane] = has_b ? q1[at_b] : zero;
                q2_tile[d][four].at[lane] = has_b ? q2[at_b] : zero;
            }
            __syncthreads();
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                const Four<Real> w = w_tile[d][x / PER_THREAD], g = gate_tile[d][y / PER_THREAD];
                const Four<Real> u = q1_tile[d][y / PER_THREAD], v = q2_tile[d][y / PER_THREAD];
#pragma unroll
                for (int m = 0; m < PER_THREAD; ++m) {
#pragma unroll
                    for (int n = 0; n < PER_THREAD; ++n) {
                        const Real heard = t[m][n] < g.at[m] ? w.at[n] : zero;
                        sum1[m][n] += heard * u.at[m];
                        sum2[m][n] += heard * v.at[m];
                    }
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < PER_THREAD; ++m) {
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) {
            if (b0 + y + m >= n_batch || i0 + x + n >= n_pre) continue;
            const Index at = (rows + b0 + y + m) * n_pre + i0 + x + n;
            const bool here = REGIME != MIXED && active[r];
            out[at] = here ? sum1[m][n] * a1[at] + sum2[m][n] * a2[at] : zero;
        }
    }
    if (!active[r]) return;
    for (int n = 0; n < PER_THREAD * PER_THREAD; ++n) {  // pair by pair, in float64
        const int b = b0 + y + n / PER_THREAD, i = i0 + x + n % PER_THREAD;
        if (b >= n_batch || i >= n_pre || !(REGIME == MIXED || wide[rows + b])) continue;
        Membrane<double> m = {tau_slow, tau_fast, rate};
        const double t = t_in[(inputs + b) * n_pre + i];
        double total = 0.0;
        for (int j = 0; j < n_post; ++j) {
            const double delay = double(gate[(rows + b) * n_post + j]) - t;
            if (!(delay > 0.0)) continue;
            if (REGIME == MIXED) m = membrane(taus[2 * (r * n_post + j)], taus[2 * (r * n_post + j) + 1]);
            const double scale = q1[(rows + b) * n_post + j];
            total += double(weights[(columns + i) * n_post + j]) * scale * kernel_slope<REGIME>(delay, m);
        }
        out[(rows + b) * n_pre + i] = Real(total);
    }
}

}  // namespace gpuspike
