// nf4_dequantize.cu - an NF4 weight to dense storage, in either orientation (nf4_dequantize.h).
//
// precision  map16[code] scale in fp32, rounded once; nested scales are decoded here, in the same kernel.
// work       a unit is eight weights: four bytes in, sixteen out, both contiguous over a warp (128 and 512 bytes). A thread
//            makes four units and loads all four before it decodes any. A unit never crosses a block of 64, so it has
//            one scale. Transposed: tiles of 64 x 64 turned in shared memory.
// cost       reads N K / 2 bytes and the scales (1.6 or 6 %), writes 2 N K: bound by memory.
// checked    tests/ops/nf4.rs against tools/golden/nf4.py
#include "nf4_dequantize.h"
#include "device/nf4.cuh"

namespace {
constexpr int kThreads = 256, kUnits = 4;

LC_INLINE act8 decode8(const float* table, uint32_t packed, float scale) {
    float v[8];
    act8 y;
    nf4_decode8(table, packed, v);
    UNROLL
    for (int i = 0; i < 8; i++) y.v[i] = from_f(v[i] * scale);
    return y;
}

__global__ void __launch_bounds__(kThreads) dequantize(lc_nf4_dequantize_args a) {
    NF4_TABLE(table);
    const size_t n = (size_t)a.w.N * a.w.K, first = (size_t)blockIdx.x * kThreads * kUnits + threadIdx.x;
    uint32_t packed[kUnits];
    float scale[kUnits];
    UNROLL
    for (int u = 0; u < kUnits; u++) {
        const size_t at = (first + u * kThreads) * 8;
        if (at < n) scale[u] = nf4_scale(a.w, at / LC_NF4_BLOCK);
        if (at + 8 <= n) packed[u] = load4(a.w.packed + at / 2);
    }
    UNROLL
    for (int u = 0; u < kUnits; u++) {
        const size_t at = (first + u * kThreads) * 8;
        if (at + 8 <= n) {
            store8(a.y + at, decode8(table, packed[u], scale[u]));
        } else {
            for (size_t e = at; e < n; e++) { // the last unit of a weight whose size is no multiple of 8
                const int byte = a.w.packed[e / 2];
                a.y[e] = from_f(table[e % 2 ? byte & 15 : byte >> 4] * scale[u]);
            }
        }
    }
}

constexpr int kTile = 64, kLd = kTile + 8;

__global__ void __launch_bounds__(kThreads) dequantize_transposed(lc_nf4_dequantize_args a) {
    NF4_TABLE(table);
    SHARED(act, tile, kTile * kLd); // [k][n]
    const int n0 = blockIdx.y * kTile, k0 = blockIdx.x * kTile, N = a.w.N, K = a.w.K;
    for (int u = threadIdx.x; u < kTile * kTile / 8; u += kThreads) {
        const int n = u % kTile, k = u / kTile * 8; // neighbouring lanes write neighbouring n
        if (n0 + n >= N || k0 + k >= K) continue;
        const size_t at = (size_t)(n0 + n) * K + k0 + k;
        const act8 y = decode8(table, load4(a.w.packed + at / 2), nf4_scale(a.w, at / LC_NF4_BLOCK));
        UNROLL
        for (int i = 0; i < 8; i++) tile[(k + i) * kLd + n] = y.v[i];
    }
    __syncthreads();
    for (int u = threadIdx.x; u < kTile * kTile / 8; u += kThreads) {
        const int k = u / (kTile / 8), n = u % (kTile / 8) * 8;
        if (n0 + n < N && k0 + k < K) store8(a.y + (size_t)(k0 + k) * N + n0 + n, load8(tile + k * kLd + n));
    }
}
} // namespace

LC_API lc_status LC(nf4_dequantize)(const lc_nf4_dequantize_args* a, lc_stream stream) {
    if (const char* fault = nf4_fault(a->w)) return lc_status{LC_BAD_SHAPE, 0, fault};
    LC_REQUIRE(aligned16(a->y), LC_MISALIGNED);
    const size_t n = (size_t)a->w.N * a->w.K;
    if (!a->transposed) {
        const unsigned n_grid = (unsigned)ceil_div<size_t>(n, (size_t)8 * kUnits * kThreads);
        return launch<dequantize>(dim3(n_grid), dim3(kThreads), 0, stream, *a);
    }
    LC_REQUIRE(a->w.N % 8 == 0 && a->w.K % 8 == 0, LC_BAD_SHAPE);
    const dim3 grid(ceil_div(a->w.K, kTile), ceil_div(a->w.N, kTile));
    return launch<dequantize_transposed>(grid, dim3(kThreads), 0, stream, *a);
}
