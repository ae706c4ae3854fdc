// grad_norm.cu - sum of squares, count and first place of the non-finite values, clip factor: a tree of fixed shape.
//
// norm = sqrt(sum g^2)      clip = min(1, max_norm / (norm + 1e-6)), 0 when something is not finite
//
// precision  a span of 8192 is summed in fp32 by a fixed tree, the spans in double: the result depends on n alone, not on
//            the number of blocks or cores that happened to run.
//            Gradients kept as factors are formed again here, and by the optimiser: their norm from two Gram matrices
//            takes fewer operations, but is another sum, and the answer would depend on how a gradient is kept.
// work       one block a span, then one block over the spans of all parts. Counts and places travel through the float
//            reductions: below 2^24 they are exact.
// cost       reads n once: bound by memory.
// checked    tests/ops/grad_norm.rs against tools/golden/grad_norm.py
#include "grad_norm.h"
#include "device/gradient.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kSpan = LC_GRAD_NORM_SPAN;

LC_INLINE bool finite_bits(float v) { return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u; }

__global__ void __launch_bounds__(kThreads) grad_norm_spans(lc_grad_norm_part_args a) {
    SHARED(float, scratch, 32);
    const int64_t begin = (int64_t)blockIdx.x * kSpan;
    const int n = (int)(a.n - begin < kSpan ? a.n - begin : kSpan);
    float sum = 0.f, count = 0.f, first = -(float)kSpan; // first is kept negative, so that its maximum is the first
    for (int i = threadIdx.x; i < n; i += kThreads) {
        const float g = gradient_at(a.grad, begin + i);
        if (finite_bits(g)) {
            sum += g * g;
        } else {
            count += 1.f;
            first = fmaxf(first, -(float)i);
        }
    }
    sum = block_reduce<kWarps>(sum, scratch, OpSum{});
    count = block_reduce<kWarps>(count, scratch, OpSum{});
    first = block_reduce<kWarps>(first, scratch, OpMax{});
    if (threadIdx.x != 0) return;
    a.sums[blockIdx.x] = sum;
    a.bads[2 * blockIdx.x] = (int)count;
    a.bads[2 * blockIdx.x + 1] = (int)-first;
}

__global__ void __launch_bounds__(kThreads) grad_norm_total(lc_grad_norm_total_args a) {
    SHARED(double, sums, kThreads);
    SHARED(int, counts, kThreads);
    SHARED(int, firsts, kThreads);
    double sum = 0.;
    int count = 0, first = -1;
    for (int i = threadIdx.x; i < (int)a.n_spans; i += kThreads) {
        sum += (double)a.sums[i];
        const int bad = a.bads[2 * i];
        if (bad && first < 0) first = i * kSpan + a.bads[2 * i + 1];
        count += bad;
    }
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = count;
    firsts[threadIdx.x] = first;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < kThreads; i++) {
        sum += sums[i];
        count += counts[i];
        if (firsts[i] >= 0 && (first < 0 || firsts[i] < first)) first = firsts[i];
    }
    const float norm = (float)sqrt(sum), clip = a.max_norm / (norm + 1e-6f);
    a.norm[0] = norm;
    a.norm[1] = count || !finite_bits(norm) ? 0.f : (clip < 1.f ? clip : 1.f);
    a.bad[0] = count;
    a.bad[1] = first;
}
} // namespace

LC_API lc_status LC(grad_norm_part)(const lc_grad_norm_part_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n < 0x7fffffff, LC_BAD_SHAPE);
    LC_REQUIRE(is_gradient_of(a->grad, a->n), LC_BAD_SHAPE);
    return launch<grad_norm_spans>(dim3((unsigned)ceil_div<int64_t>(a->n, kSpan)), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(grad_norm_total)(const lc_grad_norm_total_args* a, lc_stream stream) {
    LC_REQUIRE(a->n_spans > 0 && a->n_spans * kSpan < 0x7fffffff, LC_BAD_SHAPE);
    LC_REQUIRE(a->max_norm > 0.f, LC_BAD_SHAPE);
    return launch<grad_norm_total>(dim3(1), dim3(kThreads), 0, stream, *a);
}
