// What kernels that are written while the program runs need, beside all others: products, and random numbers by address.
// See gpuspike/kernels/cuda/lazy.py: nothing else of the device code is compiled with those.

namespace gpuspike {

#define GPUSPIKE_INLINE __host__ __device__ __forceinline__

// A product that is rounded by itself. Where the compiler may fuse it with an addition in one kernel and not in another,
// a neuron's bits would depend on which kernel it is in; sums that may be fused say so by fma.
template <typename Real>
GPUSPIKE_INLINE Real product(Real a, Real b) {
#ifdef __CUDA_ARCH__
    if constexpr (sizeof(Real) == 4) return __fmul_rn(a, b);
    else return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

struct Normals {
    float at[4];
};

// Philox 4x32-10 of a key and a counter, and Box and Muller's normal numbers; see gpuspike.rng.normals.
GPUSPIKE_INLINE Normals normals(unsigned key0, unsigned key1, unsigned c0, unsigned c1, unsigned c2, unsigned c3) {
    for (int turn = 0; turn < 10; ++turn) {
        const unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = unsigned(p1 >> 32) ^ c1 ^ key0;
        c1 = unsigned(p1);
        c2 = unsigned(p0 >> 32) ^ c3 ^ key1;
        c3 = unsigned(p0);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    const unsigned radii[2] = {c0, c2}, angles[2] = {c1, c3};
    Normals out;
    for (int pair = 0; pair < 2; ++pair) {
        const float log_u = log((float(radii[pair]) + 0.5f) * 2.3283064e-10f);
        const float radius = sqrt(log_u < 0.0f ? -2.0f * log_u : 0.0f);
        // Of the word as a signed number, which is the same angle and nearer to 0.
        const float angle = 1.4629180e-9f * float(int(angles[pair]));
        out.at[2 * pair] = radius * cos(angle);
        out.at[2 * pair + 1] = radius * sin(angle);
    }
    return out;
}

// One of them: number `i` of rows of n, as `normal_block` has them.
template <typename Real>
GPUSPIKE_INLINE Real normal_at(
    long long i, int n_batch, int n, const long long* seeds, long long first_block, long long first_sample,
    long long epoch, long long batch) {
    const int k = int(i % n), n_blocks = (n + 3) / 4;
    const long long row = i / n, seed = seeds[row / n_batch];
    const Normals numbers = normals(unsigned(seed), unsigned(seed >> 32), unsigned(first_block + k % n_blocks),
                                    unsigned(first_sample + row % n_batch), unsigned(batch), unsigned(epoch));
    const int word = k / n_blocks;
    return Real(word == 0 ? numbers.at[0] : word == 1 ? numbers.at[1] : word == 2 ? numbers.at[2] : numbers.at[3]);
}

}  // namespace gpuspike
