// Just enough of CUDA for g++ to build the device code as it is: a block's threads are fibers of one operating system
// thread, and a barrier hands over to another fiber. Between two barriers they run in an order that is another each
// time, as on a device: what depends on it is a race. Shared memory is static: blocks run one after another, and find
// there what the block before has left, as on a device.
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <numeric>
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

constexpr unsigned WARP = 32;

// What a launch tells the size of, and behind it what nobody may write to.
constexpr size_t ROOM = 48 << 10, GUARD = 4 << 10;
alignas(16) static char room[ROOM + GUARD];

enum State { READY, AT_BLOCK_BARRIER, AT_SHUFFLE, AT_VOTE, FINISHED };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    State state;
    unsigned long long shown;  // to the other lanes of its warp
};

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static unsigned current, n_threads, turns;
static std::function<void()> entry;

inline void fiber_main() {
    entry();
    fibers[current].state = FINISHED;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void wait(State state) {
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &scheduler);
}

// Lets threads [first, end) go on if all of them wait at a barrier.
inline bool released(unsigned first, unsigned end, State at) {
    for (unsigned t = first; t < end; ++t) {
        if (fibers[t].state != at) return false;
    }
    for (unsigned t = first; t < end; ++t) fibers[t].state = READY;
    return true;
}

// Runs a block; false if some threads met a barrier that others had left the kernel before.
inline bool run_block(unsigned size) {
    n_threads = size;
    if (fibers.size() < n_threads) fibers.resize(n_threads);
    for (unsigned t = 0; t < n_threads; ++t) {
        Fiber& fiber = fibers[t];
        fiber.state = READY;
        fiber.stack.resize(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (bool going_on = true; going_on;) {
        // Steps of a number without a factor in common with that of the threads meet each of them.
        unsigned step = ++turns * 2654435761u % n_threads;
        while (std::gcd(step, n_threads) != 1) ++step;
        for (unsigned n = 0, t = turns % n_threads; n < n_threads; ++n, t = (t + step) % n_threads) {
            if (fibers[t].state != READY) continue;
            current = threadIdx.x = t;
            swapcontext(&scheduler, &fibers[t].context);
        }
        going_on = released(0, n_threads, AT_BLOCK_BARRIER);
        for (unsigned first = 0; first + WARP <= n_threads; first += WARP) {
            for (State at : {AT_SHUFFLE, AT_VOTE}) going_on |= released(first, first + WARP, at);
        }
    }
    return released(0, n_threads, FINISHED);
}

// What a lane of the own warp shows; all lanes call it together.
template <typename T>
inline T of_lane(T value, unsigned lane) {
    static_assert(sizeof(T) <= sizeof(unsigned long long));
    __builtin_memcpy(&fibers[current].shown, &value, sizeof value);
    wait(AT_SHUFFLE);
    __builtin_memcpy(&value, &fibers[current / WARP * WARP + lane].shown, sizeof value);
    wait(AT_SHUFFLE);  // all have looked
    return value;
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
int launch(void (*kernel)(A...), unsigned grid, unsigned block, unsigned shared, void** args, const char* codes,
           std::index_sequence<I...>) {
    const char expected[] = {code<A>()..., 0};
    for (size_t n = 0; n <= sizeof...(A); ++n) {
        if (expected[n] != codes[n]) return 1;
    }
    if (shared > ROOM) return 3;
    memset(room, 0xff, sizeof room);
    entry = [=] { kernel(*static_cast<A*>(args[I])...); };
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
        if (!run_block(block)) return 2;
    }
    for (size_t n = shared; n < sizeof room; ++n) {
        if (room[n] != char(0xff)) return 3;
    }
    return 0;
}

template <typename... A>
int launch(void (*kernel)(A...), unsigned grid, unsigned block, unsigned shared, void** args, const char* codes) {
    return launch(kernel, grid, block, shared, args, codes, std::index_sequence_for<A...>());
}

}  // namespace shim

static inline void __syncthreads() {
    shim::wait(shim::AT_BLOCK_BARRIER);
}

static inline void __syncwarp() {
    shim::wait(shim::AT_VOTE);
}

template <typename T>
static inline T __shfl_sync(unsigned, T value, int lane) {
    return shim::of_lane(value, unsigned(lane));
}

template <typename T>
static inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return shim::of_lane(value, (threadIdx.x % shim::WARP) ^ unsigned(mask));
}

static inline unsigned __ballot_sync(unsigned, bool mine) {
    shim::fibers[shim::current].shown = mine;
    shim::wait(shim::AT_VOTE);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < shim::WARP; ++lane) {
        votes |= unsigned(shim::fibers[shim::current / shim::WARP * shim::WARP + lane].shown) << lane;
    }
    shim::wait(shim::AT_VOTE);
    return votes;
}

static inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}

static inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

static inline int atomicAdd(int* at, int more) {
    const int before = *at;
    *at += more;
    return before;
}
