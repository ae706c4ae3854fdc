// cross_entropy.cu - loss and gradient of the softmax over the vocabulary, row by row.
//
// loss       log sum_v exp(x[v]) - x[target]
// gradient   dx[v] = (exp(x[v] - max) / sum - (v == target)) scale, zero in the padding columns V..Vp
//
// precision  logits come unrounded from the product's fp32 accumulators (near 20, bf16 would be 0.06 off); the gradient is
//            rounded once, when stored. A NaN or an infinite logit makes the row's loss NaN, so that it is reported.
// work       one block a row. Each thread keeps a running maximum and the sum of exponentials relative to it over its own
//            columns (Milakov and Gimelshein 2018), so the row is read once for the loss; the gradient reads it again,
//            from the cache (128 KB at V = 32000).
// cost       4 n Vp bytes read, 2 n Vp written: bound by memory. Only one chunk of logits ever exists (ops/lm_loss.rs).
// checked    tests/ops/cross_entropy.rs against tools/golden/cross_entropy.py
#include "cross_entropy.h"
#include "device/reduce.cuh"

namespace {
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps, kUnits = 4, kStep = kThreads * 4 * kUnits; // columns a block takes at a time
constexpr float kLowest = -3.0e38f; // finite, so that the difference of two such maxima is 0 and not NaN

// Four columns a unit, a thread's units a block apart: every access of a warp is contiguous, and all fly together. What lies
// outside the vocabulary counts as -inf.
struct Logits {
    float v[kUnits][4];
};
LC_INLINE int column(int from, int u) { return from + (u * kThreads + (int)threadIdx.x) * 4; }
LC_INLINE Logits read_logits(const float* row, int from, int V, int Vp) {
    Logits r;
    UNROLL
    for (int u = 0; u < kUnits; u++) {
        const int c = column(from, u);
        float4 x = make_float4(0.f, 0.f, 0.f, 0.f);
        if (c < Vp) x = *reinterpret_cast<const float4*>(row + c);
        const float all[4] = {x.x, x.y, x.z, x.w};
        UNROLL
        for (int i = 0; i < 4; i++) r.v[u][i] = c + i < V ? all[i] : -INFINITY;
    }
    return r;
}

__global__ void __launch_bounds__(kThreads) cross_entropy(lc_cross_entropy_args a) {
    SHARED(float, scratch, 32);
    const size_t at = (size_t)blockIdx.x * a.Vp;
    const float* row = a.logits + at;
    const int target = a.targets[blockIdx.x];
    const float hit = target >= 0 ? row[target] : 0.f;
    float top = kLowest, sum = 0.f;
    for (int from = 0; from < a.V; from += kStep) {
        const Logits x = read_logits(row, from, a.V, a.Vp);
        float high = top;
        UNROLL
        for (int u = 0; u < kUnits; u++) {
            UNROLL
            for (int i = 0; i < 4; i++) high = fmaxf(high, x.v[u][i]);
        }
        sum *= fast_exp(top - high);
        top = high;
        UNROLL
        for (int u = 0; u < kUnits; u++) {
            UNROLL
            for (int i = 0; i < 4; i++) sum += fast_exp(x.v[u][i] - top);
        }
    }
    const float highest = block_reduce<kWarps>(top, scratch, OpMax{});
    sum = block_reduce<kWarps>(sum * fast_exp(top - highest), scratch, OpSum{});
    if (threadIdx.x == 0) a.loss[blockIdx.x] = target >= 0 ? logf(sum) + (highest - hit) : 0.f;
    if (!a.dlogits) return;
    const float weight = target >= 0 ? a.scale / sum : 0.f;
    struct alignas(4 * sizeof(act)) Act4 {
        act v[4];
    };
    for (int from = 0; from < a.Vp; from += kStep) {
        const Logits x = read_logits(row, from, a.V, a.Vp);
        UNROLL
        for (int u = 0; u < kUnits; u++) {
            const int c = column(from, u);
            Act4 d;
            UNROLL
            for (int i = 0; i < 4; i++) {
                const float p = fast_exp(x.v[u][i] - highest) * weight;
                d.v[i] = from_f(c + i == target ? p - a.scale : p);
            }
            if (c < a.Vp) *reinterpret_cast<Act4*>(a.dlogits + at + c) = d;
        }
    }
}
} // namespace

LC_API lc_status LC(cross_entropy)(const lc_cross_entropy_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->V > 0 && a->V <= a->Vp && a->Vp % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->logits, a->dlogits), LC_MISALIGNED);
    return launch<cross_entropy>(dim3(a->n), dim3(kThreads), 0, stream, *a);
}
