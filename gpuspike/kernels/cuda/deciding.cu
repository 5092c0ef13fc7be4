// Decisions: a sample goes through all layers of a network in one block, with its events in shared memory. Sums,
// crossings and the order of spikes are those of the forward pass: forward.cu, step.cu. deciding.py launches it.
//
// Nothing that is known changes when more is presented. Say all spikes before a time h, its horizon, are known to a
// layer. Then it can take each event whose next one is before h: that one's time goes into the tangent test. What its
// neurons then say is known up to the first event that was not taken, which is the horizon of the layer behind. An output
// spike before the last horizon is the decision, to the bit that of a full forward pass. Without one, all layers go
// on from where they are.

namespace gpuspike {

inline constexpr int MOST_DECIDING = 128;  // threads of a block

// Shared memory whose size the launch tells.
__device__ inline char* told_room() {
#ifdef __CUDA_ARCH__
    extern __shared__ Event<double> gpuspike_room[];
    return reinterpret_cast<char*>(gpuspike_room);
#else
    return shim::room;
#endif
}

// A layer's neurons through events from `begin` to `end`; a warp has the same tiles each time.
//   fresh: nothing was kept yet;  spikes, sums: what is kept of each neuron;  parts: of `sum_part`.
template <typename Real, int REGIME, int PER_THREAD>
__device__ __forceinline__ void pass_by(
    int begin, int end, int n_events, int n_post, bool fresh, double drive, const Membrane<double>& m, const Real* parts,
    const Real* weights, const Real* times, const int* rows, const int* ends, const Event<Real>* events,
    const Carry<Real>* carries, Real* spikes, Sums<Real>* sums) {
    const Membrane<Real> near = {Real(m.slow), Real(m.fast), Real(m.rate)};
    const int n_warps = int(blockDim.x) / LANES, lane = int(threadIdx.x) % LANES;
    // Each block has another first warp, else narrow layers would be one scheduler's work.
    const int warp = (int(threadIdx.x) / LANES + int(blockIdx.x % n_warps)) % n_warps;
    for (int tile = warp; tile * LANES * PER_THREAD < n_post; tile += n_warps) {
        const int j = tile * LANES * PER_THREAD + lane;
        Neurons<Real, PER_THREAD> own;
        own.going = 0;
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) {
            const int neuron = j + n * LANES;
            const bool here = neuron < n_post, again = here && !fresh;
            const Real known = again ? spikes[neuron] : infinity<Real>();
            const Sums<Real> from = again ? sums[neuron] : Sums<Real>{Real(0), Real(0)};
            own.begin(n, here && !(known < infinity<Real>()), from, Real(1), known);
        }
        const Real* weight_at = whole(weights + j);
        meet<Real, REGIME>(
            own, begin, end, n_events, Real(drive), near, parts + j * PARTS, weight_at, times, rows, ends, events, carries);
        look_again<Real, REGIME>(own, n_events, LANES, 0, j, drive, m, weights, times, rows);
#pragma unroll
        for (int n = 0; n < PER_THREAD; ++n) {
            const int neuron = j + n * LANES;
            if (neuron >= n_post) continue;
            spikes[neuron] = own.spike[n];
            sums[neuron] = own.held[n];
        }
    }
}

// A layer: sizes, and where its numbers begin among those of all layers.
struct Place {
    int n_received, n_bias, n_post, per_thread;
    int first_bias, first_neuron;
    Index first_weight, first_part;  // of all replicas

    __device__ Place(const Index* told)
        : n_received(int(told[0])),
          n_bias(int(told[1])),
          n_post(int(told[2])),
          per_thread(int(told[3])),
          first_bias(int(told[4])),
          first_neuron(int(told[5])),
          first_weight(told[6]),
          first_part(told[7]) {}
    static constexpr int NUMBERS = 8;
};

// `sum_part` of all layers, one behind the other, and zeros behind them.
template <typename Real>
GPUSPIKE_INLINE void sum_parts(
    Index i, int n_layer, int n_replica, const Index* places, const Real* weights, Real* parts) {
    for (int layer = 0; layer < n_layer; ++layer) {
        const Place at(places + Place::NUMBERS * layer);
        const Index own = i - at.first_part;
        if (own >= Index(n_replica) * PARTS * at.n_post) continue;
        return sum_part(own, at.n_received + at.n_bias, at.n_post, weights + at.first_weight, parts + at.first_part);
    }
    parts[i] = Real(0);
}

// A sample's decision; block x is (replica, sample).
//   n_inputs: of the first layer, without its bias spikes, which t_in (n_samples, n_pre) has.
//   most, padded: events of a layer at most, and that number filled up to a power of two;  n_all: neurons of all layers.
//   before: the first layer takes events before this time first, and the others only where these do not decide.
//   places: of each layer a Place;  constants: its Membrane, drive and reach.
//   bias: times of all layers behind the first;  weights: of all layers (n_replica, n_pre, n_post), and 64 numbers behind;
//   parts: their sums likewise, (n_replica, n_post, PARTS), and PARTS as many behind.
//   told: (n_replica, n_samples, 3) class or -1, input spikes presented, pair-events met;  decided_at: when, or inf.
template <typename Real, int REGIME>
__global__ void __launch_bounds__(MOST_DECIDING, sizeof(Real) == 4 ? 3 : 2) first_decisions(
    int n_samples, int n_layer, int n_inputs, int most, int padded, int n_all, double before, const Index* places,
    const double* constants, const Real* bias, const Real* t_in, const Real* weights, const Real* parts, Index* told,
    Real* decided_at) {
    Event<Real>* events = reinterpret_cast<Event<Real>*>(told_room());
    Carry<Real>* carries = reinterpret_cast<Carry<Real>*>(events + most);
    Sums<Real>* sums = reinterpret_cast<Sums<Real>*>(carries + most);
    Real* spikes = reinterpret_cast<Real*>(sums + n_all);
    Real* times = spikes + n_all;
    int* rows = reinterpret_cast<int*>(times + padded);
    int* ends = rows + padded;
    int* begins = ends + most;  // of each layer, the first event that it has not taken
    __shared__ double known_to;  // the horizon of the layer that comes
    __shared__ Real first_spike, of_warps[MOST_DECIDING / LANES];
    __shared__ int winner, n_kept;

    // The second time, all that there is.
    for (bool fresh = true, all = !(before < infinity<double>());; fresh = false, all = true) {
        for (int layer = 0; layer < n_layer; ++layer) {
            const Place at(places + Place::NUMBERS * layer);
            const double* c = constants + 5 * layer;
            const Membrane<double> m = {c[0], c[1], c[2]};
            const double drive = c[3];
            const int n_pre = at.n_received + at.n_bias;
            const Real* received =
                layer == 0 ? t_in + Index(blockIdx.x % n_samples) * n_pre : spikes + at.first_neuron - at.n_received;
            if (threadIdx.x == 0) n_kept = 0;
            __syncthreads();  // all are through the layer before
            // The spikes before the horizon, in any order; and when the first input behind it comes.
            const double horizon = layer > 0 ? known_to : all ? infinity<double>() : before;
            Real behind = infinity<Real>();
            for (int first = 0; first < n_pre; first += blockDim.x) {
                const int k = first + int(threadIdx.x);
                Real t = infinity<Real>();
                if (k < at.n_received) t = received[k];
                else if (k < n_pre) t = bias[at.first_bias + k - at.n_received];
                const bool kept = double(t) < horizon;
                const unsigned votes = __ballot_sync(ALL_LANES, kept), lane = threadIdx.x % LANES;
                int place = lane == 0 ? atomicAdd(&n_kept, __popc(votes)) : 0;
                place = __shfl_sync(ALL_LANES, place, 0) + __popc(votes & ((1u << lane) - 1u));
                if (kept) times[place] = t, rows[place] = k;
                else if (layer == 0) behind = smaller(t, behind);
            }
            for (int half = LANES / 2; half > 0; half /= 2) {
                behind = smaller(behind, __shfl_xor_sync(ALL_LANES, behind, half));
            }
            if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = behind;
            __syncthreads();
            for (int warp = 0; warp < int(blockDim.x) / LANES; ++warp) behind = smaller(behind, of_warps[warp]);
            const int n_known = n_kept, n = n_known + (behind < infinity<Real>()), begin = fresh ? 0 : begins[layer];
            int filled = 1;
            while (filled < n_known) filled *= 2;
            for (int k = n_known + int(threadIdx.x); k < filled || k < n; k += blockDim.x) {
                times[k] = k < n ? behind : infinity<Real>();
                rows[k] = 0;
            }
            sort_block(filled, times, rows);
            __syncthreads();
            const Sorted<Real> sorted = {times, nullptr, c[4] * m.fast};
            int end = n_known;  // the last known waits for the next one, and so do all that are folded with it
            if (layer > 0 && horizon < infinity<double>() && n_known > 0) {
                end = smaller(n_known - 1, sorted.folded_from(n_known, n_pre, m.slow));
            }
            for (int k = threadIdx.x; k < end; k += blockDim.x) {
                rows[k] *= at.n_post;
                if (k < begin) continue;
                prepare<Real, REGIME>(k, n, n_pre, begin, sorted, m, drive, ends + k, events + k, carries + k);
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                known_to = layer == 0 ? double(behind) : end < n_known ? double(times[end]) : horizon;
                begins[layer] = end;
            }
            const Index r = blockIdx.x / n_samples;
            const Real* own = weights + at.first_weight + r * n_pre * at.n_post;
            const Real* own_parts = parts + at.first_part + r * at.n_post * PARTS;
            Real* own_spikes = spikes + at.first_neuron;
            Sums<Real>* own_sums = sums + at.first_neuron;
            if (at.per_thread == 1) {
                pass_by<Real, REGIME, 1>(
                    begin, end, n, at.n_post, fresh, drive, m, own_parts, own, times, rows, ends, events, carries, own_spikes,
                    own_sums);
            } else {
                pass_by<Real, REGIME, 2>(
                    begin, end, n, at.n_post, fresh, drive, m, own_parts, own, times, rows, ends, events, carries, own_spikes,
                    own_sums);
            }
        }
        __syncthreads();
        if (threadIdx.x < LANES) {
            const Place at(places + Place::NUMBERS * (n_layer - 1));
            Real best = infinity<Real>();
            int first = at.n_post;
            for (int j = threadIdx.x; j < at.n_post; j += LANES) {
                const Real t = spikes[at.first_neuron + j];
                if (t < best) best = t, first = j;
            }
            for (int half = LANES / 2; half > 0; half /= 2) {
                const Real other = __shfl_xor_sync(ALL_LANES, best, half);
                const int its = __shfl_xor_sync(ALL_LANES, first, half);
                if (other < best || (other == best && its < first)) best = other, first = its;
            }
            if (threadIdx.x == 0) first_spike = best, winner = first;
        }
        __syncthreads();
        // No spike is known behind the horizon; at it, a lower class may spike as well.
        if (!all && !(double(first_spike) < known_to)) continue;
        if (threadIdx.x != 0) return;
        int presented = begins[0];
        const int n_first = int(places[0]);
        const Real* given = t_in + Index(blockIdx.x % n_samples) * n_first;
        for (int k = n_inputs; k < n_first; ++k) {  // the first layer's bias spikes are no input
            const double t = given[k];
            presented -= t < infinity<double>() && (all || t < before);
        }
        Index pairs = 0;
        for (int layer = 0; layer < n_layer; ++layer) pairs += begins[layer] * places[Place::NUMBERS * layer + 2];
        Index* out = told + Index(blockIdx.x) * 3;
        out[0] = first_spike < infinity<Real>() ? winner : -1;
        out[1] = presented;
        out[2] = pairs;
        decided_at[blockIdx.x] = first_spike;
        return;
    }
}

}  // namespace gpuspike
