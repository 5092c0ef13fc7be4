// Kernel shells of what a training step does beside the neurons: its batch, the order of spikes, figures and bumping.
// gpuspike/kernels/cuda/step.py launches them; loss and optimiser bring their own text, see step_source.py. Nothing here
// is asked by the host before an epoch is over: the number of the batch, the learning rate and what is decided on the way
// lie in the device's memory.
//
// Arrays are as in forward.cu; `clock` holds the epoch and the number of the batch. Every sum has one fixed order.

namespace gpuspike {

// --- the batch --------------------------------------------------------------------------------------------------

// 32-bit word n of NumPy's generator Philox(key=[seed, purpose], counter=[0, 0, batch, epoch]); see gpuspike.rng.stream.
struct Stream {
    unsigned long long seed, purpose, batch, epoch;

    GPUSPIKE_INLINE unsigned operator()(unsigned long long n) const {
        unsigned long long c0 = 1 + n / 8, c1 = 0, c2 = batch, c3 = epoch, k0 = seed, k1 = purpose;
        for (int turn = 0; turn < 10; ++turn) {
            const unsigned long long m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
            const unsigned long long h0 = __umul64hi(m0, c0), h1 = __umul64hi(m1, c2);
            const unsigned long long l0 = m0 * c0, l1 = m1 * c2;
            c0 = h1 ^ c1 ^ k0;
            c1 = l1;
            c2 = h0 ^ c3 ^ k1;
            c3 = l0;
            k0 += 0x9E3779B97F4A7C15ull;
            k1 += 0xBB67AE8584CAA73Bull;
        }
        const unsigned at = unsigned(n / 2 % 4);
        const unsigned long long word = at == 0 ? c0 : at == 1 ? c1 : at == 2 ? c2 : c3;
        return unsigned(n % 2 ? word >> 32 : word);
    }
};

inline constexpr int STEP_THREADS = 128;

// Where the shifted images begin, as NumPy's `integers(n_choices, size=(2, n_batch))` draws it; block x is the replica.
//   corners: (n_replica, 2, n_batch), rows and columns
__global__ void __launch_bounds__(STEP_THREADS) draw_corners(
    int n_batch, int n_choices, int purpose, const Index* seeds, const Index* clock, int* corners) {
    typedef unsigned long long Wide;
    const Stream words = {Wide(seeds[blockIdx.x]), Wide(purpose), Wide(clock[1]), Wide(clock[0])};
    const unsigned least = (0u - unsigned(n_choices)) % unsigned(n_choices);  // a smaller remainder favours some
    __shared__ bool rejected;
    corners += Index(blockIdx.x) * 2 * n_batch;
    if (threadIdx.x == 0) rejected = false;
    __syncthreads();
    for (int n = threadIdx.x; n < 2 * n_batch; n += STEP_THREADS) {
        const Wide product = Wide(words(n)) * unsigned(n_choices);
        corners[n] = int(product >> 32);
        if (unsigned(product) < least) rejected = true;
    }
    __syncthreads();
    if (!rejected || threadIdx.x != 0) return;
    // A word that is not taken, one in some 10^8, moves all that come after it.
    for (int n = 0, word = 0; n < 2 * n_batch; ++word) {
        const Wide product = Wide(words(word)) * unsigned(n_choices);
        if (unsigned(product) >= least) corners[n++] = int(product >> 32);
    }
}

// A replica's samples of the batch with their labels; one thread a (replica, sample, input).
//   order: (n_replica, n_presented) of the epoch;  full: presentations in a full batch, of which this one may have fewer.
//   side: pixels a side where images are shifted, by corners - most; else 0.
//   channels: inputs of a pixel, 2 where its negative follows it.  background, opposite: their times outside of the image.
//   known: whether the order that sorts the data's rows goes along, from data_sorted to sorted.
//   n_noisy: inputs that jitter by std, at an address as of `normal_block`.
template <typename Real>
GPUSPIKE_INLINE void take_input(
    Index i, int n_presented, int full, int n_batch, int n_pre, int side, int channels, int most, double background,
    double opposite, int known, int n_noisy, double std, Index first_block, const Index* seeds, const Index* clock,
    const Index* order, const int* corners, const Real* data, const Index* data_sorted, const Index* data_labels, Real* t_in, Index* sorted, Index* labels) {
    const int k = int(i % n_pre);
    const Index row = i / n_pre, r = row / n_batch, b = row % n_batch;
    const Index sample = order[r * n_presented + clock[1] * full + b];
    if (k == 0) labels[row] = data_labels[sample];
    if (known) sorted[i] = data_sorted[sample * n_pre + k];
    int from = k;
    if (k < side * side * channels) {
        const int pixel = k / channels;
        const int y = pixel / side + corners[2 * r * n_batch + b] - most;
        const int x = pixel % side + corners[(2 * r + 1) * n_batch + b] - most;
        from = y >= 0 && y < side && x >= 0 && x < side ? (y * side + x) * channels + k % channels : -1;
    }
    const Real t = from >= 0 ? data[sample * n_pre + from] : Real(k % channels == 0 ? background : opposite);
    if (k >= n_noisy) {
        t_in[i] = t;
        return;
    }
    Real noisy = Real(std) * normal_at<Real>(row * n_noisy + k, n_batch, n_noisy, seeds, first_block, 0, clock[0], clock[1]);
    noisy += t;
    t_in[i] = noisy < Real(0) ? -noisy : noisy;
}

// The same where images are warped, see training/augmentation.py, RandomWarp.
//   knots: control points a side of a field. n_numbers: of an image, drawn for `ahead` batches at a time, of which this is
//   one: (n_replica, ahead full, n_numbers). dark, per_level: the level of a time is (dark - time) per_level.
//   basis: (side, knots);  levels: (256,) the time of each;  channels: as above, a negative has the level 255 - level.
template <typename Real>
GPUSPIKE_INLINE void take_warped(
    Index i, int n_presented, int full, int n_batch, int n_pre, int side, int channels, int knots, int n_numbers, int ahead,
    double dark, double per_level, const Index* clock, const Index* order, const double* numbers, const double* basis, const Real* levels,
    const Real* data, const Index* data_labels, Real* t_in, Index* labels) {
    const int k = int(i % n_pre);
    const Index row = i / n_pre, r = row / n_batch, b = row % n_batch;
    const Index sample = order[r * n_presented + clock[1] * full + b];
    const Real* image = data + sample * n_pre;
    if (k == 0) labels[row] = data_labels[sample];
    if (k >= side * side * channels) {
        t_in[i] = image[k];
        return;
    }
    const bool negative = k % channels != 0;
    const int y = k / channels / side, x = k / channels % side;
    const double* own = numbers + ((r * ahead + clock[1] % ahead) * full + b) * n_numbers;
    const double middle = (side - 1) / 2.0;
    double from[2];  // row and column
    for (int axis = 0; axis < 2; ++axis) {
        const double* field = own + 6 + axis * knots * knots;
        from[axis] = own[axis] + own[2 + 2 * axis] * (y - middle);
        from[axis] += own[3 + 2 * axis] * (x - middle);
        for (int j = 0; j < knots; ++j) {
            double line = 0.0;
            for (int m = 0; m < knots; ++m) line += basis[y * knots + m] * field[m * knots + j];
            from[axis] += basis[x * knots + j] * line;
        }
    }
    t_in[i] = levels[negative ? 255 : 0];  // black beyond the frame
    if (!(from[0] > -1.0 && from[0] < side && from[1] > -1.0 && from[1] < side)) return;
    const int above = int(floor(from[0])), before = int(floor(from[1]));
    const double down = from[0] - above, right = from[1] - before;
    double line[2];  // the levels above and below, between left and right
    for (int n = 0; n < 2; ++n) {
        double level[2];
        for (int m = 0; m < 2; ++m) {
            const int v = above + n, h = before + m;
            const bool inside = v >= 0 && v < side && h >= 0 && h < side;
            const Real t = inside ? image[(v * side + h) * channels] : infinity<Real>();
            level[m] = t < infinity<Real>() ? (dark - double(t)) * per_level : 0.0;
        }
        line[n] = level[0] + right * (level[1] - level[0]);
    }
    int level = int(floor(line[0] + down * (line[1] - line[0]) + 0.5));
    level = level < 0 ? 0 : level > 255 ? 255 : level;
    t_in[i] = levels[negative ? 255 - level : level];
}

// --- the order of spikes ----------------------------------------------------------------------------------------

inline constexpr int MOST_SORTED = 2048;  // inputs of a row that shared memory holds

// Sorts `padded` spikes in shared memory, a power of two, with the numbers of their inputs: by time, ties by number. All
// threads of a block call it together, and must wait for each other before they look. A bitonic sort. Pairs that are 32 or
// fewer apart are within 64 spikes that a warp has to itself, and need not wait for the others.
template <typename Real>
__device__ void sort_block(int padded, Real* times, int* inputs) {
    int before = padded;
    for (int size = 2; size <= padded; size *= 2) {
        for (int stride = size / 2; stride > 0; before = stride, stride /= 2) {
            if (stride > LANES || before > LANES || size == 2) __syncthreads();
            else __syncwarp();
            for (int n = threadIdx.x; n < padded / 2; n += blockDim.x) {
                const int low = 2 * n - (n & (stride - 1)), high = low + stride;
                const Real a = times[low], b = times[high];
                const int i = inputs[low], j = inputs[high];
                const bool falls = b < a || (a == b && j < i), wanted = (low & size) != 0;
                if (falls == wanted) continue;
                times[low] = b, times[high] = a;
                inputs[low] = j, inputs[high] = i;
            }
        }
    }
}

// The order of a row's spikes by time, ties by number; block x is the row, filled up to `padded` inputs.
template <typename Real>
__global__ void __launch_bounds__(256) sort_row(int n_pre, int padded, const Real* t_in, Index* order) {
    __shared__ Real times[MOST_SORTED];
    __shared__ int inputs[MOST_SORTED];
    const Index row = Index(blockIdx.x) * n_pre;
    for (int k = threadIdx.x; k < padded; k += blockDim.x) {
        const Real t = k < n_pre ? t_in[row + k] : infinity<Real>();
        times[k] = t < infinity<Real>() ? t : infinity<Real>();  // NaN would leave no order
        inputs[k] = k;
    }
    sort_block(padded, times, inputs);
    __syncthreads();
    for (int k = threadIdx.x; k < n_pre; k += blockDim.x) order[row + k] = inputs[k];
}

// --- figures and bumping ----------------------------------------------------------------------------------------

// Samples in which each neuron is silent, of one layer and of another one behind it, which may have no neurons. A block
// is 32 neurons of a replica, with four warps for the samples.
//   silent: (n_replica, n_all), the neurons of the first layer from `first` on.
template <typename Real>
__global__ void __launch_bounds__(STEP_THREADS) count_silent(
    int n_batch, int n_one, int n_other, int first, int n_all, const Real* one, const Real* other, int* silent) {
    constexpr int WIDTH = 32, LANES = STEP_THREADS / WIDTH;
    __shared__ int counts[LANES][WIDTH];
    const int before = (n_one + WIDTH - 1) / WIDTH, tiles = before + (n_other + WIDTH - 1) / WIDTH;
    const int tile = int(blockIdx.x % tiles), x = threadIdx.x % WIDTH, lane = threadIdx.x / WIDTH;
    const bool is_one = tile < before;
    const int n_post = is_one ? n_one : n_other, j = (is_one ? tile : tile - before) * WIDTH + x;
    const Real* t_out = is_one ? one : other;
    if (!is_one) first += n_one;
    const Index r = blockIdx.x / tiles;
    int count = 0;
    for (int b = lane; j < n_post && b < n_batch; b += LANES) {
        count += t_out[(r * n_batch + b) * n_post + j] == infinity<Real>();
    }
    counts[lane][x] = count;
    __syncthreads();
    if (lane > 0 || j >= n_post) return;
    for (int other = 1; other < LANES; ++other) count += counts[other][x];
    silent[r * n_all + first + j] = count;
}

// The sum of all threads' numbers, for all of them.
__device__ inline double block_sum(double mine) {
    __shared__ double sums[STEP_THREADS];
    __syncthreads();
    sums[threadIdx.x] = mine;
    for (int half = STEP_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    return sums[0];
}

// A batch's figures, added to the epoch's, and what follows from them: which layer is bumped, by how much, and whether
// the weights take a step; see gpuspike.training.bumping. Block x is the replica.
//   share: of the epoch's samples;  value, most: first and largest bump;  exponential, replaces: 0 or 1.
//   ends: (n_layer,) first neuron behind each layer;  silent: (n_replica, n_all), of `count_silent`.
//   dead: (n_layer, n_replica) share of pairs that can never spike, which no bump would wake.
//   layer, size, active: (n_replica,);  totals: (3 + n_layer, n_replica) loss, accuracy, bumps, silent fractions.
//   clock: goes on to the next batch.
template <typename Real>
__global__ void __launch_bounds__(STEP_THREADS) judge(
    int n_replica, int n_batch, int n_class, int n_layer, int n_all, double share, double value, double most,
    int exponential, int replaces, const int* ends, const double* max_silent, const double* dead, const int* silent,
    const Index* labels, const Real* t_out, const Real* losses, Index* layer, double* size, bool* active,
    double* totals, Index* clock) {
    const Index r = blockIdx.x, rows = r * n_batch;
    double loss = 0.0, correct = 0.0;
    for (int b = threadIdx.x; b < n_batch; b += STEP_THREADS) {
        const Real* t = t_out + (rows + b) * n_class;
        int first = 0;
        for (int n = 1; n < n_class; ++n) first = t[n] < t[first] ? n : first;
        correct += t[first] < infinity<Real>() && first == labels[rows + b];
        loss += double(losses[rows + b]);
    }
    loss = block_sum(loss);
    correct = block_sum(correct);
    int chosen = -1;
    for (int number = 0, begin = 0; number < n_layer; begin = ends[number++]) {
        double count = 0.0;
        for (int j = begin + int(threadIdx.x); j < ends[number]; j += STEP_THREADS) count += silent[r * n_all + j];
        const double fraction = block_sum(count) / (double(n_batch) * (ends[number] - begin));
        if (chosen < 0 && fraction - dead[number * n_replica + r] > max_silent[number]) chosen = number;
        if (threadIdx.x == 0) totals[(3 + number) * n_replica + r] += fraction * share;
    }
    if (threadIdx.x != 0) return;
    const bool bumped = chosen >= 0, again = exponential && bumped && layer[r] == chosen;
    size[r] = again ? smaller(2.0 * size[r], most) : value;
    layer[r] = chosen;
    active[r] = !(bumped && replaces);
    totals[r] += loss / n_batch * share;
    totals[n_replica + r] += correct / n_batch * share;
    totals[2 * n_replica + r] += bumped ? share : 0.0;
    if (r == 0) ++clock[1];  // all that is drawn for this batch has been
}

// A weight's bump, if its layer is the bumped one; one thread a weight.
//   n_pre, n_post: of the layer `number`, and n_places at which its neurons share their weights;  targeted: 0 or 1.
//   first, n_all, silent: as above.
template <typename Real>
GPUSPIKE_INLINE void bump(
    Index i, int number, int n_pre, int n_post, int n_places, int targeted, int first, int n_all, const Index* layer,
    const double* size, const int* silent, Real* weights) {
    const Index r = i / (Index(n_pre) * n_post);
    if (layer[r] != number) return;
    const int* own = silent + r * n_all + first + i % n_post;
    bool wanted = !targeted;
    for (int place = 0; !wanted && place < n_places; ++place) wanted = own[Index(place) * n_post] > 0;
    if (wanted) weights[i] += Real(size[r]);
}

// What a chip can hold of a weight, as NumPy clips it.
template <typename Real>
GPUSPIKE_INLINE void limit(Real& weight, double most) {
    if (!(most < infinity<double>())) return;
    weight = weight < -Real(most) ? -Real(most) : weight > Real(most) ? Real(most) : weight;
}

}  // namespace gpuspike
