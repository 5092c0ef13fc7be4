// Just enough of CUDA for g++ to build the device code as it is: a block's threads are fibers of one operating system
// thread, and a barrier hands over to the next fiber. Shared memory is static: blocks run one after another, and find
// there what the block before has left, as on a device.
#pragma once
#include <math.h>
#include <stddef.h>
#include <ucontext.h>

#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

static inline double __longlong_as_double(long long bits) {
    double number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ typedef unsigned __int128 Wide;
    return static_cast<unsigned long long>(Wide(a) * b >> 64);
}

struct Dim {
    unsigned x, y, z;
};
static Dim threadIdx, blockIdx, blockDim;

namespace shim {

constexpr size_t STACK = 256 << 10;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool finished;
};

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static unsigned current;
static bool at_barrier;
static std::function<void()> entry;

inline void fiber_main() {
    entry();
    fibers[current].finished = true;
    swapcontext(&fibers[current].context, &scheduler);
}

// Runs a block; false if some threads met a barrier that others had left the kernel before.
inline bool run_block(unsigned n_threads) {
    if (fibers.size() < n_threads) fibers.resize(n_threads);
    for (unsigned t = 0; t < n_threads; ++t) {
        Fiber& fiber = fibers[t];
        fiber.finished = false;
        fiber.stack.resize(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (unsigned running = n_threads; running > 0;) {
        unsigned waiting = 0;
        for (current = 0; current < n_threads; ++current) {
            threadIdx.x = current;
            at_barrier = false;
            swapcontext(&scheduler, &fibers[current].context);
            waiting += at_barrier;
        }
        if (waiting != 0 && waiting != n_threads) return false;
        running = waiting;
    }
    return true;
}

// What a kernel takes, a letter an argument: pointers to f d ? i q, numbers I D.
template <typename A>
constexpr char code() {
    using P = std::remove_const_t<std::remove_pointer_t<A>>;
    if (!std::is_pointer_v<A>) return std::is_same_v<A, int> ? 'I' : std::is_same_v<A, double> ? 'D' : '#';
    return std::is_same_v<P, float>       ? 'f'
           : std::is_same_v<P, double>    ? 'd'
           : std::is_same_v<P, bool>      ? '?'
           : std::is_same_v<P, int>       ? 'i'
           : std::is_same_v<P, long long> ? 'q'
                                          : '#';
}

template <typename... A, size_t... I>
int launch(void (*kernel)(A...), unsigned grid, unsigned block, void** args, const char* codes,
           std::index_sequence<I...>) {
    const char expected[] = {code<A>()..., 0};
    for (size_t n = 0; n <= sizeof...(A); ++n) {
        if (expected[n] != codes[n]) return 1;
    }
    entry = [=] { kernel(*static_cast<A*>(args[I])...); };
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
        if (!run_block(block)) return 2;
    }
    return 0;
}

template <typename... A>
int launch(void (*kernel)(A...), unsigned grid, unsigned block, void** args, const char* codes) {
    return launch(kernel, grid, block, args, codes, std::index_sequence_for<A...>());
}

}  // namespace shim

static inline void __syncthreads() {
    shim::at_barrier = true;
    swapcontext(&shim::fibers[shim::current].context, &shim::scheduler);
}
