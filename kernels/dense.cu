// dense.cu - the fp32 linear layers of the ECI head, batches of a few rows.
//
// forward   y = x W^T + bias      dx (=|+=) dy W      dW (=|+=) dy^T x      dbias (=|+=) sum_b dy
//
// precision  fp32 throughout; sums run in a fixed order, so the same inputs give the same bits.
// work       forward: a block makes kOut x kBatch results; its threads share out the inputs and meet in one reduction.
//            dx: a thread makes one input's gradient for kBatch rows, going down the outputs. dW: a thread makes kOut
//            weights' gradients of one input, going down the batch. Neighbouring threads read neighbouring inputs.
// order      dW and dbias take row after row on top of what is stored, one fused multiply-add each: however a step's rows
//            are cut into batches, and whether dW is stored or kept as factors (gradient.h), the bits are the same.
// cost       W (393 MB in the paper's first layer) is read once for every kBatch rows, and dW written once: bound by memory.
// checked    tests/ops/dense.rs against tools/golden/dense.py
#include "dense.h"
#include "device/reduce.cuh"
#include <math.h>

namespace {
constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kBatch = 8; // rows that share one reading of W
constexpr int kOut = 4;   // outputs a forward block, and weights a dW thread, takes at once

__global__ void __launch_bounds__(kThreads) dense_fwd(lc_dense_fwd_args a) {
    SHARED(float, part, kWarps * kOut * kBatch);
    const int o0 = blockIdx.x * kOut, b0 = blockIdx.y * kBatch;
    float acc[kOut][kBatch];
    UNROLL
    for (int o = 0; o < kOut; o++) {
        UNROLL
        for (int b = 0; b < kBatch; b++) acc[o][b] = 0.f;
    }
    for (int i = threadIdx.x; i < a.n_in; i += kThreads) {
        float w[kOut], x[kBatch];
        UNROLL
        for (int o = 0; o < kOut; o++) w[o] = o0 + o < a.n_out ? a.W[(size_t)(o0 + o) * a.n_in + i] : 0.f;
        UNROLL
        for (int b = 0; b < kBatch; b++) x[b] = b0 + b < a.B ? a.x[(size_t)(b0 + b) * a.n_in + i] : 0.f;
        UNROLL
        for (int o = 0; o < kOut; o++) {
            UNROLL
            for (int b = 0; b < kBatch; b++) acc[o][b] += w[o] * x[b];
        }
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    UNROLL
    for (int o = 0; o < kOut; o++) {
        UNROLL
        for (int b = 0; b < kBatch; b++) {
            const float sum = warp_sum(acc[o][b]);
            if (lane == 0) part[(warp * kOut + o) * kBatch + b] = sum;
        }
    }
    __syncthreads();
    const int o = threadIdx.x / kBatch, b = threadIdx.x % kBatch;
    if (o >= kOut || o0 + o >= a.n_out || b0 + b >= a.B) return;
    float y = a.bias[o0 + o];
    for (int w = 0; w < kWarps; w++) y += part[(w * kOut + o) * kBatch + b];
    a.y[(size_t)(b0 + b) * a.n_out + o0 + o] = y;
}

__global__ void __launch_bounds__(kThreads) dense_dx(lc_dense_bwd_args a) {
    const int i = blockIdx.x * kThreads + threadIdx.x, b0 = blockIdx.y * kBatch;
    if (i >= a.n_in) return;
    float acc[kBatch];
    UNROLL
    for (int b = 0; b < kBatch; b++) acc[b] = 0.f;
#pragma unroll 4
    for (int o = 0; o < a.n_out; o++) {
        const float w = a.W[(size_t)o * a.n_in + i];
        UNROLL
        for (int b = 0; b < kBatch; b++) {
            if (b0 + b < a.B) acc[b] += w * a.dy[(size_t)(b0 + b) * a.n_out + o];
        }
    }
    UNROLL
    for (int b = 0; b < kBatch; b++) {
        if (b0 + b >= a.B) continue;
        float* dx = a.dx + (size_t)(b0 + b) * a.n_in + i;
        *dx = a.write_dx == LC_ADD ? *dx + acc[b] : acc[b];
    }
}

__global__ void __launch_bounds__(kThreads) dense_dw(lc_dense_bwd_args a) {
    const int i = blockIdx.x * kThreads + threadIdx.x, o0 = blockIdx.y * kOut;
    if (i >= a.n_in) return;
    float dw[kOut];
    UNROLL
    for (int o = 0; o < kOut; o++) {
        const bool stored = a.write_dw == LC_ADD && o0 + o < a.n_out;
        dw[o] = stored ? a.dW[(size_t)(o0 + o) * a.n_in + i] : 0.f;
    }
    for (int b = 0; b < a.B; b++) {
        const float x = a.x[(size_t)b * a.n_in + i];
        UNROLL
        for (int o = 0; o < kOut; o++) {
            if (o0 + o < a.n_out) dw[o] = fmaf(a.dy[(size_t)b * a.n_out + o0 + o], x, dw[o]);
        }
    }
    UNROLL
    for (int o = 0; o < kOut; o++) {
        if (o0 + o < a.n_out) a.dW[(size_t)(o0 + o) * a.n_in + i] = dw[o];
    }
}

__global__ void __launch_bounds__(kThreads) dense_dbias(lc_dense_bwd_args a) {
    const int o = blockIdx.x * kThreads + threadIdx.x;
    if (o >= a.n_out) return;
    float db = a.write_dbias == LC_ADD ? a.dbias[o] : 0.f;
    for (int b = 0; b < a.B; b++) db += a.dy[(size_t)b * a.n_out + o];
    a.dbias[o] = db;
}
} // namespace

LC_API lc_status LC(dense_fwd)(const lc_dense_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->B > 0 && a->n_in > 0 && a->n_out > 0, LC_BAD_SHAPE);
    const dim3 grid(ceil_div(a->n_out, kOut), ceil_div(a->B, kBatch));
    return launch<dense_fwd>(grid, dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(dense_bwd)(const lc_dense_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->B > 0 && a->n_in > 0 && a->n_out > 0, LC_BAD_SHAPE);
    const unsigned columns = ceil_div(a->n_in, kThreads);
    if (a->dx) LC_TRY((launch<dense_dx>(dim3(columns, ceil_div(a->B, kBatch)), dim3(kThreads), 0, stream, *a)));
    if (a->dW) LC_TRY((launch<dense_dw>(dim3(columns, ceil_div(a->n_out, kOut)), dim3(kThreads), 0, stream, *a)));
    return launch<dense_dbias>(dim3(ceil_div(a->n_out, kThreads)), dim3(kThreads), 0, stream, *a);
}
