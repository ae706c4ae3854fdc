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
constexpr int kStep = 32 * kWarps * 8;
constexpr float kLowest = -3.0e38f; // finite, so that the difference of two such maxima is 0 and not NaN

struct Logits8 {
    float v[8];
};
LC_INLINE Logits8 read_logits(const float* row, int c, int V) {
    const float4 lo = *reinterpret_cast<const float4*>(row + c), hi = *reinterpret_cast<const float4*>(row + c + 4);
    Logits8 r = {{lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}};
    UNROLL
    for (int i = 0; i < 8; i++) r.v[i] = c + i < V ? r.v[i] : -INFINITY;
    return r;
}

__global__ void __launch_bounds__(32 * kWarps) cross_entropy(lc_cross_entropy_args a) {
    SHARED(float, scratch, 32);
    const size_t at = (size_t)blockIdx.x * a.Vp;
    const float* row = a.logits + at;
    const int target = a.targets[blockIdx.x];
    const float hit = target >= 0 ? row[target] : 0.f;
    float top = kLowest, sum = 0.f;
    for (int c = threadIdx.x * 8; c < a.V; c += kStep) {
        const Logits8 x = read_logits(row, c, a.V);
        float high = top;
        UNROLL
        for (int i = 0; i < 8; i++) high = fmaxf(high, x.v[i]);
        sum *= fast_exp(top - high);
        top = high;
        UNROLL
        for (int i = 0; i < 8; i++) sum += fast_exp(x.v[i] - top);
    }
    const float highest = block_reduce<kWarps>(top, scratch, OpMax{});
    sum = block_reduce<kWarps>(sum * fast_exp(top - highest), scratch, OpSum{});
    if (threadIdx.x == 0) a.loss[blockIdx.x] = target >= 0 ? logf(sum) + (highest - hit) : 0.f;
    if (!a.dlogits) return;
    const float weight = target >= 0 ? a.scale / sum : 0.f;
    for (int c = threadIdx.x * 8; c < a.Vp; c += kStep) {
        const Logits8 x = read_logits(row, c, a.V);
        act8 d;
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float p = fast_exp(x.v[i] - highest) * weight;
            d.v[i] = from_f(c + i == target ? p - a.scale : p);
        }
        store8(a.dlogits + at + c, d);
    }
}
} // namespace

LC_API lc_status LC(cross_entropy)(const lc_cross_entropy_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->V > 0 && a->V <= a->Vp && a->Vp % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->logits, a->dlogits), LC_MISALIGNED);
    return launch<cross_entropy>(dim3(a->n), dim3(32 * kWarps), 0, stream, *a);
}
