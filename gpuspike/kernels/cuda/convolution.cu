// Layers whose neurons share weights: patches of images, and the earliest spikes of windows. What a patch's neurons answer
// is what those of any layer do: a patch is one more sample, see forward.cu. gpuspike/kernels/convolution.py is the oracle.
//
//   t_in: (n_images, rows columns channels + n_bias), pixel by pixel, bias spikes behind.
//   patches: (n_images, n_positions, kernel kernel channels + n_bias);  of all neurons: (n_images, n_positions, n_maps).

namespace gpuspike {

struct Image {
    int rows, columns, channels, kernel, stride, padding, grid_rows, grid_columns, n_bias;

    GPUSPIKE_INLINE int n_in() const { return rows * columns * channels; }
    GPUSPIKE_INLINE int n_seen() const { return kernel * kernel * channels; }
};

// An input of a patch; one thread each.
//   around: when the inputs of the padding spike.
template <typename Real>
GPUSPIKE_INLINE void take_patch(Index i, const Image& of, double around, const Real* t_in, Real* patches) {
    const int n_pre = of.n_seen() + of.n_bias, k = int(i % n_pre);
    const Index patch = i / n_pre, n_positions = Index(of.grid_rows) * of.grid_columns;
    const int position = int(patch % n_positions);
    const Real* image = t_in + patch / n_positions * (of.n_in() + of.n_bias);
    if (k >= of.n_seen()) {
        patches[i] = image[of.n_in() + k - of.n_seen()];
        return;
    }
    const int pixel = k / of.channels;
    const int y = position / of.grid_columns * of.stride + pixel / of.kernel - of.padding;
    const int x = position % of.grid_columns * of.stride + pixel % of.kernel - of.padding;
    const bool inside = y >= 0 && y < of.rows && x >= 0 && x < of.columns;
    patches[i] = inside ? image[(y * of.columns + x) * of.channels + k % of.channels] : Real(around);
}

// The gradient of an input's time, of those in the patches that have it, in one order; one thread each. Bias spikes learn none.
template <typename Real>
GPUSPIKE_INLINE void gather_patches(Index i, const Image& of, const Real* of_patches, Real* out) {
    const int n_received = of.n_in() + of.n_bias, k = int(i % n_received);
    const Index image = i / n_received;
    const int n_pre = of.n_seen() + of.n_bias, channel = k % of.channels;
    const int y = k / of.channels / of.columns + of.padding, x = k / of.channels % of.columns + of.padding;
    double sum = 0.0;
    for (int down = 0; k < of.n_in() && down < of.kernel; ++down) {
        const int row = (y - down) / of.stride;
        if (y < down || (y - down) % of.stride || row >= of.grid_rows) continue;
        for (int right = 0; right < of.kernel; ++right) {
            const int column = (x - right) / of.stride;
            if (x < right || (x - right) % of.stride || column >= of.grid_columns) continue;
            const Index patch = (image * of.grid_rows + row) * of.grid_columns + column;
            sum += double(of_patches[patch * n_pre + (down * of.kernel + right) * of.channels + channel]);
        }
    }
    out[i] = Real(sum);
}

struct Windows {
    int grid_rows, grid_columns, n_maps, pool;

    GPUSPIKE_INLINE int rows() const { return grid_rows / pool; }
    GPUSPIKE_INLINE int columns() const { return grid_columns / pool; }
    // Of the first neuron of a window's map.
    GPUSPIKE_INLINE Index corner(Index image, int y, int x, int map) const {
        return ((image * grid_rows + y * pool) * grid_columns + x * pool) * n_maps + map;
    }
    GPUSPIKE_INLINE Index inside(int n) const { return (Index(n / pool) * grid_columns + n % pool) * n_maps; }
};

// What is heard of a window of a map, its earliest spike; one thread each.
template <typename Real>
GPUSPIKE_INLINE void hear(Index i, const Windows& of, const Real* t_cross, Real* t_out) {
    const int map = int(i % of.n_maps), x = int(i / of.n_maps % of.columns());
    const Index line = i / of.n_maps / of.columns();
    const Real* times = t_cross + of.corner(line / of.rows(), int(line % of.rows()), x, map);
    Real first = infinity<Real>();
    for (int n = 0; n < of.pool * of.pool; ++n) first = smaller(first, times[of.inside(n)]);
    t_out[i] = first;
}

// The gradient of a neuron's spike: that of its window if it is the one that is heard, at a tie the first one; one thread each.
template <typename Real>
GPUSPIKE_INLINE void spread(Index i, const Windows& of, const Real* t_cross, const Real* of_heard, Real* out) {
    const int map = int(i % of.n_maps), column = int(i / of.n_maps % of.grid_columns);
    const Index line = i / of.n_maps / of.grid_columns, image = line / of.grid_rows;
    const int row = int(line % of.grid_rows), y = row / of.pool, x = column / of.pool;
    const Real t = t_cross[i];
    out[i] = Real(0);
    if (!(t < infinity<Real>()) || y >= of.rows() || x >= of.columns()) return;
    const int own = row % of.pool * of.pool + column % of.pool;
    const Real* times = t_cross + of.corner(image, y, x, map);
    for (int n = 0; n < of.pool * of.pool; ++n) {
        const Real other = times[of.inside(n)];
        if (n < own ? other <= t : other < t) return;
    }
    out[i] = of_heard[((image * of.rows() + y) * of.columns() + x) * of.n_maps + map];
}

// Neurons at each position, and positions on the replica axis: (N, n_b, n_a, n) of (N, n_a, n_b, n), where an entry was.
GPUSPIKE_INLINE Index before_swap(Index i, int n_a, int n_b, int n) {
    const Index k = i % n, a = i / n % n_a, b = i / n / n_a % n_b, outer = i / n / n_a / n_b;
    return ((outer * n_a + a) * n_b + b) * n + k;
}

// (N, n) sums of (N, n_tiles, n), in one order.
template <typename Real>
GPUSPIKE_INLINE Real sum_of_tiles(Index i, int n_tiles, int n, const Real* array) {
    double sum = 0.0;
    for (int tile = 0; tile < n_tiles; ++tile) sum += double(array[(i / n * n_tiles + tile) * n + i % n]);
    return Real(sum);
}

}  // namespace gpuspike
