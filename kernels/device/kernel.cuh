// kernel.cuh - what every .cu file includes: CUDA itself, or the CUDA machine in C++ that stands in for it on a CPU.
//
// House rules of a kernel file: the contract on top; kernels and helpers in an anonymous namespace; shared memory through
// SHARED or Arena; full warps in every collective; launches through launch<kernel>(...); no `static` device state.
#pragma once
#include "lc.h"

#ifdef __CUDACC__
#include <cstddef>
#define UNROLL _Pragma("unroll")
// SHARED(T, name, N): T name[N] in shared memory, at the top of a kernel.
#define SHARED(T, name, N) __shared__ __align__(16) T name[N]
// Arena: shared memory whose size the launcher chose; take<T>(n) in the same order in every thread, 128-byte steps.
struct Arena {
    unsigned char* at;
    __device__ Arena() {
        extern __shared__ __align__(128) unsigned char lc_arena[];
        at = lc_arena;
    }
    template <class T>
    __device__ T* take(size_t n) {
        T* p = reinterpret_cast<T*>(at);
        at += (n * sizeof(T) + 127) / 128 * 128;
        return p;
    }
};
LC_INLINE float fast_exp(float x) { return __expf(x); }
// 2^x in one instruction; results below 2^-126 are 0.
LC_INLINE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// launch<kernel>(grid, block, shared bytes, stream, args...): returns the launch error as a value.
template <auto K, class... A>
inline lc_status launch(dim3 grid, dim3 block, size_t smem, lc_stream stream, A... args) {
    if (smem > 48 * 1024) {
        cudaError_t e = cudaFuncSetAttribute(K, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
        if (e != cudaSuccess) return lc_status{LC_CUDA, (int32_t)e, "cudaFuncSetAttribute"};
    }
    K<<<grid, block, smem, reinterpret_cast<cudaStream_t>(stream)>>>(args...);
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? lc_status{LC_OK, 0, nullptr} : lc_status{LC_CUDA, (int32_t)e, "launch"};
}
#else
#include "host/machine.h"
#endif

// Bytes an Arena needs for n elements of T: what a launcher sums up.
template <class T>
constexpr size_t arena_bytes(size_t n) {
    return (n * sizeof(T) + 127) / 128 * 128;
}

// A launcher's checks, at the door. The text of the condition becomes part of the sentence.
#define LC_REQUIRE(condition, code_)                                       \
    do {                                                                   \
        if (!(condition)) return lc_status{code_, 0, #condition};          \
    } while (0)
#define LC_TRY(expression)                                                 \
    do {                                                                   \
        lc_status status_ = (expression);                                  \
        if (status_.code != LC_OK) return status_;                         \
    } while (0)
template <class... P>
inline bool aligned16(const P*... p) {
    return ((reinterpret_cast<uintptr_t>(p) % 16 == 0) && ...);
}
template <class I>
#ifdef __CUDACC__
__host__ __device__
#endif
    constexpr I ceil_div(I a, I b) {
    return (a + b - 1) / b;
}

// Eight floats: two accesses of 16 bytes.
struct Floats8 {
    float v[8];
};
LC_INLINE Floats8 load_floats8(const float* p) {
    const float4 lo = *reinterpret_cast<const float4*>(p), hi = *reinterpret_cast<const float4*>(p + 4);
    return Floats8{{lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}};
}

#ifdef __CUDACC__
LC_INLINE act8 load8(const act* p) {
    act8 r;
    *reinterpret_cast<uint4*>(&r) = *reinterpret_cast<const uint4*>(p);
    return r;
}
LC_INLINE void store8(act* p, const act8& v) { *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&v); }
#else
LC_INLINE act8 load8(const act* p) { return *reinterpret_cast<const act8*>(p); }
LC_INLINE void store8(act* p, const act8& v) { *reinterpret_cast<act8*>(p) = v; }
#endif
