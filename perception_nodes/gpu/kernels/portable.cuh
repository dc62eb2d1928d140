// Makes one source a CUDA kernel (nvcc, NVRTC) and a host function (g++) that gives the same bits.
//
// A kernel is a list of phases: functions of a job, a block's shared memory, a block and a thread,
// with a barrier after each. On the device a thread executes them with __syncthreads() between; on
// the host every thread of a block finishes a phase before any begins the next. If the order of
// threads mattered within a phase, that would be a race. To show that there is none, the host runs
// the threads forwards, backwards, or at once under ThreadSanitizer.
//
// No header is included on the device: NVRTC has none.

#pragma once

#ifdef __CUDACC__

#define INLINE __device__ __forceinline__
#define KERNEL(THREADS, BLOCKS_A_PROCESSOR) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_A_PROCESSOR)
// A job stays in constant memory even if it is indexed by a variable.
#define JOB(TYPE) const __grid_constant__ TYPE

#else

#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define INLINE inline
#define HOST extern "C" void

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct int2 {
    int x, y;
};

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline int __popc(unsigned word) { return __builtin_popcount(word); }
// The products of the four signed bytes of two words, and a sum to add them to.
inline int __dp4a(int a, int b, int sum) {
    for (int shift = 0; shift < 32; shift += 8)
        sum += (signed char)(a >> shift) * (signed char)(b >> shift);
    return sum;
}
inline unsigned atomicAdd(unsigned* target, unsigned value) {
    return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
}
inline void atomicOr(unsigned* target, unsigned value) {
    __atomic_fetch_or(target, value, __ATOMIC_RELAXED);
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

enum Order { FORWARDS, BACKWARDS, BLOCKS_AT_ONCE, THREADS_AT_ONCE };
constexpr int WORKERS = 3;  // so that thread numbers a power of two apart get different workers

template <typename Function>
inline void each(int count, int order, bool at_once, Function function) {
    auto run = [&](int first, int step) {
        for (int i = first; i < count; i += step) function(order == BACKWARDS ? count - 1 - i : i);
    };
    if (!at_once) return run(0, 1);
    std::vector<std::thread> workers;
    for (int i = 0; i < WORKERS; i++) workers.emplace_back(run, i, WORKERS);
    for (auto& worker : workers) worker.join();
}

// Calls function(block) for each block of a grid.
template <typename Function>
inline void each_block(int blocks, int order, Function function) {
    each(blocks, order, order == BLOCKS_AT_ONCE, function);
}

// Calls function(thread) for each thread of a block; a phase is over when it returns.
template <typename Function>
inline void each_thread(int threads, int order, Function function) {
    each(threads, order, order == THREADS_AT_ONCE, function);
}

#endif

// Numbers whose operations each round once, to nearest, as in IEEE 754 and NumPy: a compiler may
// not contract a multiplication and an addition of these into one operation.
struct Single {
    float value;
    INLINE Single(float v = 0) : value(v) {}
};
INLINE Single operator+(Single a, Single b) { return __fadd_rn(a.value, b.value); }
INLINE Single operator-(Single a, Single b) { return __fsub_rn(a.value, b.value); }
INLINE Single operator*(Single a, Single b) { return __fmul_rn(a.value, b.value); }
INLINE Single operator/(Single a, Single b) { return __fdiv_rn(a.value, b.value); }
INLINE bool operator<(Single a, Single b) { return a.value < b.value; }
INLINE bool operator>(Single a, Single b) { return a.value > b.value; }

struct Double {
    double value;
    INLINE Double(double v = 0) : value(v) {}
};
INLINE Double operator+(Double a, Double b) { return __dadd_rn(a.value, b.value); }
INLINE Double operator-(Double a, Double b) { return __dsub_rn(a.value, b.value); }
INLINE Double operator*(Double a, Double b) { return __dmul_rn(a.value, b.value); }
INLINE Double operator/(Double a, Double b) { return __ddiv_rn(a.value, b.value); }
INLINE bool operator<(Double a, Double b) { return a.value < b.value; }
INLINE bool operator>(Double a, Double b) { return a.value > b.value; }
INLINE Double root(Double a) { return __dsqrt_rn(a.value); }

template <typename T>
INLINE T lesser(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
INLINE T greater(T a, T b) {
    return b > a ? b : a;
}
