// nf4_dequantize.cu - an NF4 weight to dense storage (nf4_dequantize.h).
//
// precision  map16[code] scale in fp32, rounded once; nested scales are decoded here, in the same kernel.
// work       a warp makes 2048 weights at a time: eight units of eight a lane, four bytes in and sixteen out, both
//            contiguous over the warp (128 and 512 bytes). All eight are loaded before any is decoded, and the 32 scales of
//            those weights are decoded once, one a lane, and handed round. A table gives both values of a byte.
// cost       reads N K / 2 bytes and the scales (1.6 or 6 %), writes 2 N K: bound by memory. kernels/README.md counts the
//            instructions.
// checked    tests/ops/nf4.rs against tools/golden/nf4.py
#include "nf4_dequantize.h"
#include "device/nf4.cuh"

namespace {
constexpr int kWarps = 8, kUnits = 8, kChunk = 32 * 8 * kUnits; // weights a warp makes at a time
constexpr int kChunks = 2;                                      // of a warp, so that the table pays
static_assert(kChunk == 32 * LC_NF4_BLOCK, "a scale a lane");

__global__ void __launch_bounds__(32 * kWarps) dequantize(lc_nf4_dequantize_args a) {
    NF4_PAIRS(pair, float2);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const size_t n = (size_t)a.w.N * a.w.K;
    size_t first = ((size_t)blockIdx.x * kWarps + warp) * kChunks * kChunk;
    const size_t end = min(first + kChunks * kChunk, n);
    for (; first + kChunk <= end; first += kChunk) {
        const uint8_t* from = a.w.packed + first / 2 + lane * 4;
        act* to = a.y + first + lane * 8;
        uint32_t packed[kUnits];
        UNROLL
        for (int u = 0; u < kUnits; u++) packed[u] = load4_once(from + u * 128);
        const Nf4Scales scales(a.w, first / LC_NF4_BLOCK);
        UNROLL
        for (int u = 0; u < kUnits; u++) {
            const float scale = scales(u * 4 + lane / 8);
            act2 y[4];
            UNROLL
            for (int i = 0; i < 4; i++) {
                const float2 both = pair(packed[u], i);
                y[i] = pack2(both.x * scale, both.y * scale);
            }
            store8(to + u * 256, y);
        }
    }
    for (size_t e = first + lane; e < end; e += 32) { // the end of the weight, element by element
        const float2 both = pair(a.w.packed[e / 2], 0);
        a.y[e] = from_f((e % 2 ? both.y : both.x) * nf4_scale(a.w, e / LC_NF4_BLOCK));
    }
}
} // namespace

LC_API lc_status LC(nf4_dequantize)(const lc_nf4_dequantize_args* a, lc_stream stream) {
    if (const char* fault = nf4_fault(a->w)) return lc_status{LC_BAD_SHAPE, 0, fault};
    LC_REQUIRE(aligned16(a->y), LC_MISALIGNED);
    const unsigned n_grid = (unsigned)ceil_div<size_t>((size_t)a->w.N * a->w.K, (size_t)kChunk * kChunks * kWarps);
    return launch<dequantize>(dim3(n_grid), dim3(32 * kWarps), 0, stream, *a);
}
