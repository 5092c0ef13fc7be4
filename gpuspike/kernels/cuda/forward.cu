// Kernel shells: which thread does what, and where its numbers lie. The mathematics is in lif.cuh, which
// gpuspike/kernels/cuda/source.py puts in front of this text; gpuspike/kernels/cuda/__init__.py launches it.
//
// Arrays are contiguous with the axes (replica, sample, input or neuron). Forward passes go through `n_samples`
// samples from `first_sample` on; arrays of events hold these samples only. Where n_in_replicas is 1, all replicas
// share one input.

namespace gpuspike {

// First spike of one neuron with time constants of its own, weights in units of C (threshold - leak), slope of
// threshold - leak. `taus`: (n_replica, n_post, 2), tau_mem and tau_syn. `lift`: see `first_spikes`.
template <typename Real>
GPUSPIKE_INLINE void first_spike_mixed(
    Index i, int width, int n_in_replicas, int n_batch, int n_pre, int n_post, int first_sample, int n_samples,
    double tangent, const Real* weights, const double* taus, const Real* times, const int* rows, const Real* lift,
    Real* t_out, Real* slope) {
    const int n_tiles = (n_post + width - 1) / width;
    const Index group = i / width, b = group % n_samples, tile = group / n_samples % n_tiles;
    const Index r = group / n_samples / n_tiles;
    const int j = int(tile * width + i % width);
    if (j >= n_post) return;
    const Index row = ((n_in_replicas > 1 ? r : 0) * n_samples + b) * n_pre;
    const Index out = (r * n_batch + first_sample + b) * n_post + j;
    const Real* column = weights + r * n_pre * n_post + j;
    const double* tau = taus + 2 * (r * n_post + j);
    const Membrane<double> m = membrane(tau[0], tau[1]);
    const double high = lift == nullptr ? 1.0 : double(lift[out]), share = 1.0 / high;
    t_out[out] = high > 0.0 ? infinity<Real>() : Real(0);
    slope[out] = Real(0);
    if (!(high > 0.0)) return;
    Start<double> now = {0.0, 0.0};
    for (int k = 0; k < n_pre; ++k) {
        const double t = times[row + k], next = k + 1 < n_pre ? double(times[row + k + 1]) : infinity<double>();
        if (!(t < infinity<double>())) return;
        now.p += share * double(column[rows[row + k]]);
        if (next == t) continue;  // of simultaneous events only the last one closes a causal set
        const bool ends_here = !(next < infinity<double>());
        const Step step(ends_here ? 0.0 : next - t, m);
        if (ends_here || step.may_cross(now, m)) {
            const Crossing<double> crossing = solve<double, MIXED>(now, next - t, m);
            if (crossing.delay < infinity<double>()) {
                t_out[out] = Real(t + crossing.delay);
                if (crossing.slope * m.fast > tangent) slope[out] = Real(high * crossing.slope);
                return;
            }
        }
        now = step.after(now);
    }
}

// --- first spikes -----------------------------------------------------------------------------------------------

inline constexpr int FORWARD_THREADS = 128, LANES = 32;
inline constexpr unsigned ALL_LANES = 0xffffffffu;
inline constexpr int LOADED = 64;  // bytes of weights that a thread loads together, so that the latencies overlap

// A pointer that the compiler takes as it is. Else it adds its parts up anew for every weight: three instructions more.
template <typename T>
__device__ const T* whole(const T* pointer) {
#ifdef __CUDA_ARCH__
    asm("" : "+l"(pointer));
    __builtin_assume(__isGlobal(pointer));
#endif
    return pointer;
}

// A crossing behind the given event solved again, from sums in float64 that the lanes of a warp share. Each lane gets it.
template <typename Real, int REGIME>
__device__ Crossing<double> solve_together(
    int last, double room, double level, const Membrane<double>& m, const Real* column, const Real* times,
    const int* rows) {
    double pull = 0.0, potential = 0.0;
    const double now = times[last];
    for (int k = threadIdx.x % LANES; k <= last; k += LANES) {
        const double age = now - double(times[k]), w = column[rows[k]];
        pull += w * exp(-age / m.slow);
        potential += w * kernel<REGIME>(age, m);
    }
    for (int half = LANES / 2; half > 0; half /= 2) {
        pull += __shfl_xor_sync(ALL_LANES, pull, half);
        potential += __shfl_xor_sync(ALL_LANES, potential, half);
    }
    return solve<double, REGIME>({potential / level, pull / level}, room, m);
}

// The next events, and the thread's weights there: all loads, then their use, so that latencies overlap. Unless WHOLE,
// there are n; what would be behind adds nothing, and passes no test.
template <bool WHOLE, int AT_ONCE, int PER_THREAD, typename Real>
__device__ void load(
    int n, const Event<Real>* events, const int* rows, const Real* weights, Event<Real> (&event)[AT_ONCE],
    Real (&weight)[AT_ONCE][PER_THREAD]) {
#pragma unroll
    for (int a = 0; a < AT_ONCE; ++a) {
        const bool here = WHOLE || a < n;
        event[a] = here ? events[a] : Event<Real>{Real(0), Real(0), Real(0), infinity<Real>()};
        const Real* from = weights + (here ? rows[a] : 0);
#pragma unroll
        for (int m = 0; m < PER_THREAD; ++m) weight[a][m] = here ? from[m * LANES] : Real(0);
    }
}

// The neurons of a thread on their way through a sample's events. One that goes on no more has a sum that no test passes.
template <typename Real, int PER_THREAD>
struct Neurons {
    Sums<Real> sums[PER_THREAD];
    Sums<Real> held[PER_THREAD];  // where it came near the threshold, or where events ended
    int at[PER_THREAD];           // the event behind which it may cross, or -1
    unsigned going;               // a bit for each
    Real high[PER_THREAD], spike[PER_THREAD], rising[PER_THREAD];
    int flat[PER_THREAD];  // the event behind which a crossing is too flat for float32, or -1

    __device__ void begin(int n, bool may, const Sums<Real>& from, Real level, Real known) {
        sums[n] = may ? from : Sums<Real>{Real(0), infinity<Real>()};
        held[n] = from;
        at[n] = flat[n] = -1;
        high[n] = level, spike[n] = known, rising[n] = Real(0);
        if (may) going |= 1u << n;
    }
    __device__ void hold(int n, int event) {
        held[n] = sums[n];
        at[n] = event;
        sums[n].q = infinity<Real>();
        going &= ~(1u << n);
    }
};

// Through events from `begin` to `end`, which one anchor serves. A neuron that may cross is held there.
template <typename Real, int PER_THREAD>
__device__ __forceinline__ void walk(
    Neurons<Real, PER_THREAD>& own, int begin, int end, const Real* weight_at, const int* row_at,
    const Event<Real>* event_at) {
    constexpr int AT_ONCE = LOADED / int(sizeof(Real)) / PER_THREAD;
    for (int k = begin; own.going && k < end; k += AT_ONCE) {
        Event<Real> event[AT_ONCE];
        Real weight[AT_ONCE][PER_THREAD];
        if (end - k >= AT_ONCE) {
            load<true>(AT_ONCE, event_at + k, row_at + k, weight_at, event, weight);
        } else {
            load<false>(end - k, event_at + k, row_at + k, weight_at, event, weight);
        }
        bool crosses = false;
        Sums<Real> ahead[PER_THREAD];
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) ahead[n] = own.sums[n];
#pragma unroll
        for (int a = 0; a < AT_ONCE; ++a) {
#pragma unroll
            for (int n = 0; n < PER_THREAD; ++n) {
                ahead[n].add(weight[a][n], event[a]);
                crosses |= ahead[n].may_cross(event[a], own.high[n]);
            }
        }
        if (crosses) {
            // Once more, event by event: which one is it?
#pragma unroll
            for (int a = 0; a < AT_ONCE; ++a) {
#pragma unroll
                for (int n = 0; n < PER_THREAD; ++n) {
                    own.sums[n].add(weight[a][n], event[a]);
                    if (own.sums[n].may_cross(event[a], own.high[n])) own.hold(n, k + a);
                }
            }
        } else {
#pragma unroll
            for (int n = 0; n < PER_THREAD; ++n) own.sums[n] = ahead[n];
        }
    }
}

// The last inputs together, from `first` on: their weights are what those before leave of the sum over all.
//   last: event;  part_at: the parts of that sum for the thread's first neuron.
template <typename Real, int PER_THREAD>
__device__ __forceinline__ void fold(
    Neurons<Real, PER_THREAD>& own, int first, int last, const Real* part_at, const Real* weight_at, const int* row_at,
    const Event<Real>* event_at) {
    constexpr int AT_ONCE = LOADED / int(sizeof(Real)) / PER_THREAD;
    Real all[PER_THREAD] = {}, before[PER_THREAD] = {};
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) all[n] += part_at[n * LANES * PARTS + part];
    }
    for (int k = 0; k < first; k += AT_ONCE) {
        Event<Real> event[AT_ONCE];
        Real weight[AT_ONCE][PER_THREAD];
        if (first - k >= AT_ONCE) {
            load<true>(AT_ONCE, event_at + k, row_at + k, weight_at, event, weight);
        } else {
            load<false>(first - k, event_at + k, row_at + k, weight_at, event, weight);
        }
#pragma unroll
        for (int a = 0; a < AT_ONCE; ++a) {
#pragma unroll
            for (int n = 0; n < PER_THREAD; ++n) before[n] += weight[a][n];
        }
    }
    const Event<Real> together = event_at[last];
#pragma unroll
    for (int n = 0; n < PER_THREAD; ++n) {
        own.sums[n].add(all[n] - before[n], together);
        if (own.sums[n].may_cross(together, own.high[n])) own.hold(n, last);
    }
}

// Solves for neurons that are held. The first one that does not cross goes on, by itself: the others stay where they are.
// Returns the event that it goes on from, or -1.
template <typename Real, int REGIME, int PER_THREAD>
__device__ __forceinline__ int settle(
    Neurons<Real, PER_THREAD>& own, int n_pre, Real drive, const Membrane<Real>& near, const Real* time_at,
    const Event<Real>* event_at) {
#pragma unroll 1
    for (int n = 0; n < PER_THREAD; ++n) {  // the solution is there once
        Sums<Real> these = own.held[0];
        Real level = own.high[0] * drive;
        int last = own.at[0];
#pragma unroll
        for (int other = 1; other < PER_THREAD; ++other) {
            if (other == n) these = own.held[other], level = own.high[other] * drive, last = own.at[other];
        }
        if (last < 0) continue;
        const Real growth = event_at[last].growth, moment = event_at[last].moment, at = time_at[last];
        const Real room = (last + 1 < n_pre ? time_at[last + 1] : infinity<Real>()) - at;
        const Start<Real> from_here = start(these, growth, moment / growth, level, near);
        const Crossing<Real> found = solve<Real, REGIME>(from_here, room, near);
        const bool crosses = found.delay < infinity<Real>();
#pragma unroll
        for (int other = 0; other < PER_THREAD; ++other) {
            if (other != n) continue;
            own.at[other] = -1;
            if (crosses) {
                own.spike[other] = at + found.delay;
                own.rising[other] = found.slope;
                if (found.slope * near.fast < Real(FLAT)) own.flat[other] = last;
            } else {
                own.sums[other] = these;
                own.going |= 1u << other;
            }
        }
        if (!crosses) return last + 1;
    }
    return -1;
}

// Neurons through events from `begin` to `end`, until each has spiked or has met them all. Solutions wait until all
// neurons of the thread need one, so that lanes of a warp find theirs together; one of a hundred goes on after it.
//   n_pre: of the sample, whose times, events and so on these are;  weight_at: the thread's first neuron.
//   part_at: as for `fold`.
template <typename Real, int REGIME, int PER_THREAD>
__device__ __forceinline__ void meet(
    Neurons<Real, PER_THREAD>& own, int begin, int end, int n_pre, Real drive, const Membrane<Real>& near,
    const Real* part_at, const Real* weight_at, const Real* time_at, const int* row_at, const int* end_at,
    const Event<Real>* event_at, const Carry<Real>* carry_at) {
    for (int from = begin; from >= 0; from = settle<Real, REGIME>(own, n_pre, drive, near, time_at, event_at)) {
        for (int first = begin, next; own.going && first < end && time_at[first] < infinity<Real>(); first = next) {
            const bool folded = end_at[first] == FOLDED;
            next = folded ? end : smaller(end_at[first], end);
            if (next <= from) continue;
            if (folded) {
                fold(own, first, end - 1, part_at, weight_at, row_at, event_at);
                continue;
            }
#pragma unroll
            for (int n = 0; n < PER_THREAD; ++n) {
                if (first > 0 && first >= from) own.sums[n].move(carry_at[first]);
            }
            walk(own, first < from ? from : first, next, weight_at, row_at, event_at);
        }
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) {
            if (!(own.going >> n & 1u)) continue;
            own.held[n] = own.sums[n];
            own.sums[n].q = infinity<Real>();
        }
        own.going = 0;
    }
}

// Crossings too flat for float32, solved again by all lanes of a warp, which call this together.
//   apart: between a thread's neurons;  row, column: where its sample's events and its first neuron's weights begin.
template <typename Real, int REGIME, int PER_THREAD>
__device__ __forceinline__ void look_again(
    Neurons<Real, PER_THREAD>& own, int n_pre, int apart, Index row, Index column, double drive,
    const Membrane<double>& m, const Real* weights, const Real* times, const int* rows) {
    if constexpr (sizeof(Real) == 4) {
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) {
            for (unsigned asking = __ballot_sync(ALL_LANES, own.flat[n] >= 0); asking; asking &= asking - 1) {
                const int lane = __ffs(int(asking)) - 1, last = __shfl_sync(ALL_LANES, own.flat[n], lane);
                const double level = double(__shfl_sync(ALL_LANES, own.high[n], lane)) * drive;
                const Index its_row = __shfl_sync(ALL_LANES, row, lane);
                const Index its_column = __shfl_sync(ALL_LANES, column, lane) + n * apart;
                const Real at = times[its_row + last];
                const Real room = (last + 1 < n_pre ? times[its_row + last + 1] : infinity<Real>()) - at;
                const Crossing<double> again = solve_together<Real, REGIME>(
                    last, room, level, m, weights + its_column, times + its_row, rows + its_row);
                // Else float32 has the last word on whether there is a spike.
                if (int(threadIdx.x) % LANES == lane && again.delay < infinity<double>()) {
                    own.spike[n] = at + Real(again.delay);
                    own.rising[n] = Real(again.slope);
                }
            }
        }
    }
}

// First spikes of neurons that share their time constants. A thread has PER_THREAD neurons of a (replica, sample),
// `width` apart; `width` neighbouring neurons of a sample are neighbouring threads, and all samples meet one such tile of
// neurons before the next: its weights stay in the cache. The last tile reaches back where it would reach beyond the
// last neuron, and says the same of these as the tile before. What a neuron gets does not depend on PER_THREAD.
//   parts: (n_replica, n_post, PARTS) of `sum_part`, looked at where n_pre >= GROUPS_FROM.
//   events, carries: of `Event` and `Carry`;  lift: (n_replica, n_batch, n_post) factors of threshold - leak where LIFTED;
//   at 0 or below the neuron spikes at time 0.
template <typename Real, int REGIME, int PER_THREAD, bool LIFTED>
__global__ void __launch_bounds__(FORWARD_THREADS, 2) first_spikes(
    int width, int n_replica, int n_in_replicas, int n_batch, int n_pre, int n_post, int first_sample, int n_samples,
    double tau_slow, double tau_fast, double rate, double drive, double span, double tangent, const Real* weights,
    const Real* parts, const Real* times, const int* rows, const int* ends, const Real* events, const Real* carries,
    const Real* lift, Real* t_out, Real* slope) {
    const Membrane<double> m = {tau_slow, tau_fast, rate};
    const Membrane<Real> near = {Real(m.slow), Real(m.fast), Real(m.rate)};
    const int apart = PER_THREAD == 1 ? 0 : LANES;  // `width` where it matters, as known when compiling
    const Index i = Index(blockIdx.x) * FORWARD_THREADS + threadIdx.x;
    const int wide = width * PER_THREAD, n_tiles = (n_post + wide - 1) / wide;
    const Index group = i / width, b = group % n_samples, tile = group / n_samples % n_tiles;
    const Index r = group / n_samples / n_tiles;
    const int j = smaller(int(tile) * wide, n_post - wide) + int(i % width);
    const Index row = ((n_in_replicas > 1 ? r : 0) * n_samples + b) * n_pre, column = r * n_pre * n_post + j;
    const Index out = (r * n_batch + first_sample + b) * n_post + j;
    const Event<Real>* event_at = whole(reinterpret_cast<const Event<Real>*>(events) + row);
    const Carry<Real>* carry_at = reinterpret_cast<const Carry<Real>*>(carries) + row;
    const Real* weight_at = whole(weights + column);
    const int* row_at = whole(rows + row);
    const Real* time_at = times + row;

    Neurons<Real, PER_THREAD> own;
    own.going = 0;
#pragma unroll
    for (int n = 0; n < PER_THREAD; ++n) {
        const Real factor = LIFTED && r < n_replica ? lift[out + n * apart] : Real(1);
        const bool may = r < n_replica && factor > Real(0);
        own.begin(n, may, {Real(0), Real(0)}, may ? factor : Real(1), may ? infinity<Real>() : Real(0));
    }
    meet<Real, REGIME>(
        own, 0, n_pre, n_pre, Real(drive), near, parts + (r * n_post + j) * PARTS, weight_at, time_at, row_at, ends + row,
        event_at, carry_at);
    look_again<Real, REGIME>(own, n_pre, apart, row, column, drive, m, weights, times, rows);
    if (r >= n_replica) return;
#pragma unroll
    for (int n = 0; n < PER_THREAD; ++n) {
        t_out[out + n * apart] = own.spike[n];
        // Where the potential only touches the threshold, the slope is rounding: no gradient.
        const bool steep = own.rising[n] * near.fast > Real(tangent);
        slope[out + n * apart] = steep ? own.rising[n] * (own.high[n] * Real(span)) : Real(0);
    }
}

}  // namespace gpuspike
