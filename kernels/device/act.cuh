// act.cuh - the storage type of activations: bf16 (CUDA and the CPU device), or float (the CPU device's fp32 build).
//
// to_f is exact; from_f rounds to nearest even, as __float2bfloat16_rn does, so that both devices store the same bits.
// act2 is a pair as tensor-core registers hold it: the lower column in the low half.
#pragma once
#include <stdint.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define LC_INLINE __device__ __forceinline__
#else
#include <string.h>
#define LC_INLINE inline __attribute__((always_inline))
#endif

#ifdef LC_FP32
typedef float lc_act;
struct act2 {
    float x, y;
};
LC_INLINE float to_f(lc_act a) { return a; }
LC_INLINE lc_act from_f(float f) { return f; }
LC_INLINE act2 pack2(float lo, float hi) { return act2{lo, hi}; }
#elif defined(__CUDACC__)
typedef __nv_bfloat16 lc_act;
typedef uint32_t act2;
LC_INLINE float to_f(lc_act a) { return __bfloat162float(a); }
LC_INLINE lc_act from_f(float f) { return __float2bfloat16_rn(f); }
LC_INLINE act2 pack2(float lo, float hi) {
    __nv_bfloat162 p = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<act2*>(&p);
}
#else
struct lc_act {
    uint16_t bits;
};
typedef uint32_t act2;
LC_INLINE float to_f(lc_act a) {
    uint32_t u = (uint32_t)a.bits << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
// Branch-free, so that loops over it vectorise. A NaN keeps its top bits and gets a quiet bit, never an infinity.
LC_INLINE lc_act from_f(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40;
    return lc_act{(uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}
LC_INLINE act2 pack2(float lo, float hi) { return (uint32_t)from_f(lo).bits | ((uint32_t)from_f(hi).bits << 16); }
#endif

typedef lc_act act;

// Eight elements: one 16-byte access in bf16. The unit of every vector load, store and asynchronous copy.
struct alignas(16) act8 {
    act v[8];
};
