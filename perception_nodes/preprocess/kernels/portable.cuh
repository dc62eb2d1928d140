// What lets one source be a CUDA kernel (nvcc, NVRTC) and a host function (g++) of the same bits.
//
// A kernel is a list of phases: functions of a job, a block's shared memory, a block and a thread,
// with a barrier after each. On the device a thread walks through them with __syncthreads()
// between; on the host every thread of a block ends a phase before any begins the next. A phase in
// which the order of threads mattered would be a race; the host runs them forwards or backwards to
// show that none is.
//
// No header is included on the device: NVRTC has none.

#pragma once

#ifdef __CUDACC__

#define INLINE __device__ __forceinline__
// As many registers a thread as let a multiprocessor hold all the threads it can.
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
#define PROCESSOR_THREADS 1536
#else
#define PROCESSOR_THREADS 2048
#endif
#define KERNEL(THREADS) \
    extern "C" __global__ void __launch_bounds__(THREADS, PROCESSOR_THREADS / THREADS)
// A job stays in constant memory also where it is indexed by a variable.
#define JOB(TYPE) const __grid_constant__ TYPE

#else

#include <cmath>
#include <cstring>

#define INLINE inline

struct uint4 {
    unsigned x, y, z, w;
};

// Calls function(thread) for each thread of a block.
template <typename Function>
inline void each_thread(int threads, int backwards, Function function) {
    for (int i = 0; i < threads; i++) function(backwards ? threads - 1 - i : i);
}

#endif
