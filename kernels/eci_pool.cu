// eci_pool.cu - MaxPool 8 then AvgPool 8 over the hidden axis, scattered into one slab a sequence, and the way back.
//
// forward   f[q, p C/64 + j] = mean over 8 windows of the maximum of their 8 values, 0 where position p is not kept
// backward  df/8 goes to the first maximum of each window: PyTorch's rule for ties. In bf16 ties are common.
//
// precision  maxima are exact; their mean is taken in fp32 and stays fp32, as the whole head does. A NaN wins its window.
// work       forward one thread a feature, backward one thread a window of 8 columns: no two meet. (Forward a lane's loads
//            are half a sector each, and the other half the next one: read once, asked for twice.)
// cost       T C read (backward: and written), a 32nd of it in features: bound by memory, once a step.
// checked    tests/ops/eci_pool.rs against tools/golden/eci_pool.py
#include "eci_pool.h"
#include "device/packed.cuh"

namespace {
constexpr int kThreads = 128;
constexpr int kPool = 8; // both windows

// The place of the first maximum of a window; a NaN counts as the greatest.
LC_INLINE int first_max(const act8& x) {
    int best = 0;
    float top = to_f(x.v[0]);
    UNROLL
    for (int i = 1; i < 8; i++) {
        const float v = to_f(x.v[i]);
        if (v > top || (v != v && top == top)) {
            top = v;
            best = i;
        }
    }
    return best;
}

__global__ void __launch_bounds__(kThreads) eci_pool_fwd(lc_eci_pool_fwd_args a) {
    const size_t at = (size_t)blockIdx.x * kThreads + threadIdx.x;
    const int per_token = a.C / 64;
    if (at >= (size_t)a.S * a.s * per_token) return;
    const int j = (int)(at % per_token), p = (int)(at / per_token % a.s), q = (int)(at / per_token / a.s);
    float sum = 0.f;
    if (p < a.n_keep[q]) {
        const act* x = a.h + (size_t)(a.cu_seqlens[q] + p) * a.C + j * 64;
        UNROLL
        for (int w = 0; w < kPool; w++) {
            const act8 window = load8(x + w * 8);
            float top = to_f(window.v[0]);
            UNROLL
            for (int i = 1; i < 8; i++) {
                const float v = to_f(window.v[i]);
                top = v > top || v != v ? v : top;
            }
            sum += top;
        }
    }
    a.features[at] = sum / kPool;
}

__global__ void __launch_bounds__(kThreads) eci_pool_bwd(lc_eci_pool_bwd_args a) {
    const size_t at = (size_t)blockIdx.x * kThreads + threadIdx.x;
    const int per_token = a.C / 64, windows = a.C / kPool;
    if (at >= (size_t)a.T * windows) return;
    const int w = (int)(at % windows), j = w / kPool, t = (int)(at / windows);
    const int q = sequence_of(a.cu_seqlens, a.S, t), p = t - a.cu_seqlens[q];
    const bool kept = p < a.n_keep[q], add = a.write == LC_ADD;
    if (!kept && add) return;
    const float d = kept ? a.dfeatures[((size_t)q * a.s + p) * per_token + j] / kPool : 0.f;
    const size_t x = (size_t)t * a.C + w * 8;
    const int best = first_max(load8(a.h + x));
    act8 dh;
    if (add) dh = load8(a.dh + x);
    UNROLL
    for (int i = 0; i < 8; i++) {
        const float mine = i == best ? d : 0.f;
        dh.v[i] = from_f(add ? to_f(dh.v[i]) + mine : mine);
    }
    store8(a.dh + x, dh);
}
} // namespace

LC_API lc_status LC(eci_pool_fwd)(const lc_eci_pool_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->S > 0 && a->s > 0 && a->C > 0 && a->C % 64 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->h), LC_MISALIGNED);
    const int64_t n = (int64_t)a->S * a->s * (a->C / 64);
    return launch<eci_pool_fwd>(dim3((unsigned)ceil_div<int64_t>(n, kThreads)), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(eci_pool_bwd)(const lc_eci_pool_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->S > 0 && a->s > 0 && a->C > 0 && a->C % 64 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->h, a->dh), LC_MISALIGNED);
    const int64_t n = (int64_t)a->T * (a->C / kPool);
    return launch<eci_pool_bwd>(dim3((unsigned)ceil_div<int64_t>(n, kThreads)), dim3(kThreads), 0, stream, *a);
}
