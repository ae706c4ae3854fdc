// token_pool.cu - mean, last or maximum over the first tokens of each sequence, and the way back.
//
// forward   y[q,c] = mean | last | max over p < n_keep[q] of h[begin(q) + p, c]
// backward  dh (=|+=) dy / n_keep | dy at the last kept token | dy at the first token that held the maximum
//
// precision  sums run over the tokens in order, in fp32, and the result stays fp32. A NaN wins a maximum.
// work       forward one thread 8 columns of a sequence, tokens in turn: S C/8 threads are few, but a step has one such
//            call. Backward one thread 8 columns of a token.
// cost       forward reads sum(n_keep) C, backward writes T C (with LC_ADD reads it too): bound by memory.
// checked    tests/ops/token_pool.rs against tools/golden/token_pool.py
#include "token_pool.h"
#include "device/packed.cuh"

namespace {
constexpr int kThreads = 64;

struct Best8 {
    float v[8];
    int t[8];
};

__global__ void __launch_bounds__(kThreads) token_pool_fwd(lc_token_pool_fwd_args a) {
    const int q = blockIdx.y, c = (blockIdx.x * kThreads + threadIdx.x) * 8;
    if (c >= a.C) return;
    const int begin = a.cu_seqlens[q], end = begin + a.n_keep[q];
    const int from = a.kind == LC_POOL_LAST ? end - 1 : begin;
    Best8 r;
    const act8 first = load8(a.h + (size_t)from * a.C + c);
    UNROLL
    for (int i = 0; i < 8; i++) {
        r.v[i] = to_f(first.v[i]);
        r.t[i] = from;
    }
    for (int t = from + 1; t < end; t++) {
        const act8 x = load8(a.h + (size_t)t * a.C + c);
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float v = to_f(x.v[i]);
            const bool greater = v > r.v[i] || (v != v && r.v[i] == r.v[i]);
            r.t[i] = greater ? t : r.t[i];
            r.v[i] = a.kind == LC_POOL_MEAN ? r.v[i] + v : (greater ? v : r.v[i]);
        }
    }
    const size_t to = (size_t)q * a.C + c;
    if (a.kind == LC_POOL_MEAN) {
        for (int i = 0; i < 8; i++) r.v[i] /= (float)a.n_keep[q];
    }
    float4* y = reinterpret_cast<float4*>(a.y + to);
    y[0] = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
    y[1] = make_float4(r.v[4], r.v[5], r.v[6], r.v[7]);
    if (a.kind != LC_POOL_MAX) return;
    int4* best = reinterpret_cast<int4*>(a.best + to);
    best[0] = make_int4(r.t[0], r.t[1], r.t[2], r.t[3]);
    best[1] = make_int4(r.t[4], r.t[5], r.t[6], r.t[7]);
}

__global__ void __launch_bounds__(kThreads) token_pool_bwd(lc_token_pool_bwd_args a) {
    const int t = blockIdx.y, c = (blockIdx.x * kThreads + threadIdx.x) * 8;
    if (c >= a.C) return;
    const int q = sequence_of(a.cu_seqlens, a.S, t), p = t - a.cu_seqlens[q], n = a.n_keep[q];
    const bool add = a.write == LC_ADD;
    const size_t from = (size_t)q * a.C + c, to = (size_t)t * a.C + c;
    const bool may = p < n && (a.kind != LC_POOL_LAST || p == n - 1);
    if (!may && add) return;
    act8 dh;
    if (add) dh = load8(a.dh + to);
    Floats8 dy = {};
    int best[8] = {t, t, t, t, t, t, t, t}; // whom the gradient goes to
    if (may) dy = load_floats8(a.dy + from);
    if (may && a.kind == LC_POOL_MAX) {
        const int4 low = *reinterpret_cast<const int4*>(a.best + from), high = *reinterpret_cast<const int4*>(a.best + from + 4);
        best[0] = low.x, best[1] = low.y, best[2] = low.z, best[3] = low.w;
        best[4] = high.x, best[5] = high.y, best[6] = high.z, best[7] = high.w;
    }
    UNROLL
    for (int i = 0; i < 8; i++) {
        float d = best[i] == t ? dy.v[i] : 0.f;
        if (a.kind == LC_POOL_MEAN) d /= (float)n;
        dh.v[i] = from_f(add ? to_f(dh.v[i]) + d : d);
    }
    store8(a.dh + to, dh);
}
} // namespace

LC_API lc_status LC(token_pool_fwd)(const lc_token_pool_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->S > 0 && a->S < 65536 && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->kind >= LC_POOL_MEAN && a->kind <= LC_POOL_MAX, LC_UNSUPPORTED);
    LC_REQUIRE((a->kind == LC_POOL_MAX) == (a->best != nullptr), LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->h, a->y) && aligned16(a->best), LC_MISALIGNED);
    return launch<token_pool_fwd>(dim3(ceil_div(a->C, 8 * kThreads), a->S), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(token_pool_bwd)(const lc_token_pool_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->T < 65536 && a->S > 0 && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->kind >= LC_POOL_MEAN && a->kind <= LC_POOL_MAX, LC_UNSUPPORTED);
    LC_REQUIRE((a->kind == LC_POOL_MAX) == (a->best != nullptr), LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->dh, a->dy) && aligned16(a->best), LC_MISALIGNED);
    return launch<token_pool_bwd>(dim3(ceil_div(a->C, 8 * kThreads), a->T), dim3(kThreads), 0, stream, *a);
}
