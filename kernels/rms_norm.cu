// rms_norm.cu - RMSNorm over the hidden axis, with the residual sum, and the gradient to its input.
//
// forward   h = x + residual     r = 1/sqrt(mean_c h[t,c]^2 + eps)     y[t,c] = h[t,c] r w[c]
// backward  dh[t,c] (=|+=) r (dy[t,c] w[c] - h[t,c] r^2 mean_c(dy w h))      frozen w: no dw
//
// precision  storage in, storage out, fp32 inside; h is rounded before it is squared, so that the backward, which reads
//            the stored h, differentiates exactly what the forward did.
// work       one warp per row, four rows per block, 16-byte accesses; the second pass over the row hits the cache.
// cost       forward reads 2 T C (3 with h written), writes T C (2 T C): bound by memory.
// checked    tests/ops/rms_norm.rs against tools/golden/rms_norm.py
#include "rms_norm.h"
#include "device/reduce.cuh"

namespace {
constexpr int kRowsPerBlock = 4;

__global__ void __launch_bounds__(32 * kRowsPerBlock) rms_norm_fwd(lc_rms_norm_fwd_args a) {
    const int row = blockIdx.x * kRowsPerBlock + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= a.T) return; // a whole warp leaves
    const size_t at = (size_t)row * a.C;
    float sum = 0.f;
    for (int c = lane * 8; c < a.C; c += 256) {
        act8 x = load8(a.x + at + c);
        if (a.residual) {
            act8 s = load8(a.residual + at + c);
            UNROLL
            for (int i = 0; i < 8; i++) x.v[i] = from_f(to_f(x.v[i]) + to_f(s.v[i]));
            store8(a.h + at + c, x);
        }
        float part = 0.f;
        UNROLL
        for (int i = 0; i < 8; i++) part += to_f(x.v[i]) * to_f(x.v[i]);
        sum += part;
    }
    const float r = rsqrtf(warp_sum(sum) / (float)a.C + a.eps);
    const act* h = a.residual ? a.h : a.x; // each lane reads back what it wrote itself
    for (int c = lane * 8; c < a.C; c += 256) {
        act8 x = load8(h + at + c), w = load8(a.w + c), y;
        UNROLL
        for (int i = 0; i < 8; i++) y.v[i] = from_f(to_f(x.v[i]) * r * to_f(w.v[i]));
        store8(a.y + at + c, y);
    }
    if (lane == 0) a.rstd[row] = r;
}

__global__ void __launch_bounds__(32 * kRowsPerBlock) rms_norm_bwd(lc_rms_norm_bwd_args a) {
    const int row = blockIdx.x * kRowsPerBlock + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= a.T) return;
    const size_t at = (size_t)row * a.C;
    float sum = 0.f;
    for (int c = lane * 8; c < a.C; c += 256) {
        act8 dy = load8(a.dy + at + c), h = load8(a.h + at + c), w = load8(a.w + c);
        float part = 0.f;
        UNROLL
        for (int i = 0; i < 8; i++) part += to_f(dy.v[i]) * to_f(w.v[i]) * to_f(h.v[i]);
        sum += part;
    }
    const float r = a.rstd[row], m = warp_sum(sum) / (float)a.C * r * r;
    for (int c = lane * 8; c < a.C; c += 256) {
        act8 dy = load8(a.dy + at + c), h = load8(a.h + at + c), w = load8(a.w + c), dh;
        if (a.write == LC_ADD) dh = load8(a.dh + at + c);
        UNROLL
        for (int i = 0; i < 8; i++) {
            float d = r * (to_f(dy.v[i]) * to_f(w.v[i]) - to_f(h.v[i]) * m);
            dh.v[i] = from_f(a.write == LC_ADD ? to_f(dh.v[i]) + d : d);
        }
        store8(a.dh + at + c, dh);
    }
}
} // namespace

LC_API lc_status LC(rms_norm_fwd)(const lc_rms_norm_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x, a->residual, a->w, a->h, a->y), LC_MISALIGNED);
    return launch<rms_norm_fwd>(dim3(ceil_div(a->T, kRowsPerBlock)), dim3(32 * kRowsPerBlock), 0, stream, *a);
}

LC_API lc_status LC(rms_norm_bwd)(const lc_rms_norm_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->dy, a->h, a->w, a->dh), LC_MISALIGNED);
    return launch<rms_norm_bwd>(dim3(ceil_div(a->T, kRowsPerBlock)), dim3(32 * kRowsPerBlock), 0, stream, *a);
}
