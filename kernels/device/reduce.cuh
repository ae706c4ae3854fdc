// reduce.cuh - sums and maxima over a warp, a quad or octet of lanes and a block, always in the same order.
//
// The warp tree is the butterfly of five xor shuffles; on the host the same tree runs in one rendezvous (bit-equal).
#pragma once
#include "device/kernel.cuh"

#ifdef __CUDACC__
template <class Op>
__device__ __forceinline__ float warp_reduce(float v, Op op) {
#pragma unroll
    for (int d = 16; d; d >>= 1) v = op(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
// Over the four lanes that share a row of an mma accumulator; two values at once.
template <class Op>
__device__ __forceinline__ void quad_reduce2(float& x, float& y, Op op) {
#pragma unroll
    for (int d = 1; d < 4; d <<= 1) {
        x = op(x, __shfl_xor_sync(0xffffffffu, x, d));
        y = op(y, __shfl_xor_sync(0xffffffffu, y, d));
    }
}
// Whether any lane of the warp says so.
__device__ __forceinline__ bool warp_any(bool v) { return __any_sync(0xffffffffu, v); }
// The maximum over eight neighbouring lanes.
__device__ __forceinline__ float octet_max(float v) {
#pragma unroll
    for (int d = 1; d < 8; d <<= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
#else
template <class Op>
LC_INLINE float warp_reduce(float v, Op op) {
    using namespace lc_host;
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    s.f[f->lane] = v;
    rendezvous(f, w, g, [&] {
        for (int d = 16; d; d >>= 1)
            for (int i = 0; i < d; i++) s.f[i] = op(s.f[i], s.f[i + d]);
    });
    return s.f[0];
}
template <class Op>
LC_INLINE void quad_reduce2(float& x, float& y, Op op) {
    using namespace lc_host;
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation, lane = f->lane;
    Slot& s = w->slot[g & 1];
    s.f[lane * 2] = x;
    s.f[lane * 2 + 1] = y;
    rendezvous(f, w, g, [&] {
        for (int q = 0; q < 64; q += 8) {
            float* u = s.f + q;
            float a = op(op(u[0], u[2]), op(u[4], u[6])), b = op(op(u[1], u[3]), op(u[5], u[7]));
            u[0] = u[2] = u[4] = u[6] = a;
            u[1] = u[3] = u[5] = u[7] = b;
        }
    });
    x = s.f[lane * 2];
    y = s.f[lane * 2 + 1];
}
LC_INLINE bool warp_any(bool v) {
    return warp_reduce(v ? 1.f : 0.f, [](float a, float b) { return a > b ? a : b; }) > 0.f;
}
LC_INLINE float octet_max(float v) {
    using namespace lc_host;
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation, lane = f->lane;
    Slot& s = w->slot[g & 1];
    s.f[lane] = v;
    rendezvous(f, w, g, [&] {
        for (int o = 0; o < 32; o += 8)
            for (int i = 1; i < 8; i++) s.f[o] = fmaxf(s.f[o], s.f[o + i]);
    });
    return s.f[lane / 8 * 8];
}
#endif

struct OpSum {
    LC_INLINE float operator()(float a, float b) const { return a + b; }
};
struct OpMax {
    LC_INLINE float operator()(float a, float b) const { return fmaxf(a, b); }
};
LC_INLINE float warp_sum(float v) { return warp_reduce(v, OpSum{}); }
LC_INLINE float warp_max(float v) { return warp_reduce(v, OpMax{}); }

// Over a block of kWarps full warps; `scratch` is SHARED(float, scratch, 32). Every thread gets the result.
template <int kWarps, class Op>
LC_INLINE float block_reduce(float v, float* scratch, Op op) {
    v = warp_reduce(v, op);
    if (kWarps == 1) return v;
    __syncthreads(); // the scratch may still be read from an earlier call
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    float r = scratch[0];
    for (int w = 1; w < kWarps; w++) r = op(r, scratch[w]);
    return r;
}
