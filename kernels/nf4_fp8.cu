// nf4_fp8.cu - an NF4 weight to e4m3, in either orientation, and the scales of its rows and columns (nf4_fp8.h).
//
// precision  a product for the weight, a product by the inverse of the row's scale, one rounding to e4m3. Maxima are exact and
//            do not depend on their order.
// work       scales: a warp a row; for columns a block takes 64 of them, 32 bytes of a row at a time, down all rows.
//            Rows: a unit is sixteen weights, eight bytes in, sixteen out; a thread loads two units before it decodes any.
//            Transposed: tiles of 64 k x 128 n. A lane decodes eight k of four n, so that eight lanes read a whole sector, and
//            turns them into eight words of four n in shared memory; rows leave 16 bytes a lane, 128 contiguous.
// cost       N K / 2 bytes and the scales read, N K written: bound by memory, 0.6 of what decoding to bf16 moves.
// checked    tests/ops/fp8.rs against tools/golden/fp8.py, bit for bit
#include "nf4_fp8.h"
#include "device/fp8.cuh"
#include "device/nf4.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kThreads = 256, kUnits = 2, kRows = 8;

LC_INLINE float top_of8(const float* table, uint32_t packed, float scale) {
    float v[8], top = 0.f;
    nf4_decode8(table, packed, v);
    UNROLL
    for (int i = 0; i < 8; i++) top = fmaxf(top, fabsf(v[i] * scale));
    return top;
}

__global__ void __launch_bounds__(32 * kRows) row_scales(lc_nf4_fp8_scales_args a) {
    NF4_TABLE(table);
    const int n = blockIdx.x * kRows + threadIdx.x / 32, lane = threadIdx.x % 32, K = a.w.K;
    if (n >= a.w.N) return;
    float top = 0.f;
    for (int k = lane * 8; k < K; k += 256) {
        const size_t at = (size_t)n * K + k;
        top = fmaxf(top, top_of8(table, load4(a.w.packed + at / 2), nf4_scale(a.w, at / LC_NF4_BLOCK)));
    }
    top = warp_max(top);
    if (lane == 0) a.row_scales[n] = e4m3_scale(top);
}

// Thread (row, unit): eight columns, every 32nd row.
__global__ void __launch_bounds__(kThreads) column_scales(lc_nf4_fp8_scales_args a) {
    NF4_TABLE(table);
    SHARED(float, tops, 32 * 64);
    const int unit = threadIdx.x % 8, row = threadIdx.x / 8, k = blockIdx.x * 64 + unit * 8, K = a.w.K;
    float top[8] = {};
    for (int n = row; n < a.w.N && k < K; n += 32) {
        const size_t at = (size_t)n * K + k;
        const float scale = nf4_scale(a.w, at / LC_NF4_BLOCK);
        float v[8];
        nf4_decode8(table, load4(a.w.packed + at / 2), v);
        UNROLL
        for (int i = 0; i < 8; i++) top[i] = fmaxf(top[i], fabsf(v[i] * scale));
    }
    UNROLL
    for (int i = 0; i < 8; i++) tops[row * 64 + unit * 8 + i] = top[i];
    __syncthreads();
    const int nth = threadIdx.x, column = blockIdx.x * 64 + nth;
    if (nth >= 64 || column >= K) return;
    float most = 0.f;
    for (int r = 0; r < 32; r++) most = fmaxf(most, tops[r * 64 + nth]);
    a.column_scales[column] = e4m3_scale(most);
}

struct alignas(8) Packed16 {
    uint32_t v[2];
};

__global__ void __launch_bounds__(kThreads) rows(lc_nf4_fp8_args a) {
    NF4_TABLE(table);
    const int units_a_row = a.w.K / 16, n_units = a.w.N * units_a_row;
    const int first = blockIdx.x * kThreads * kUnits + threadIdx.x;
    Packed16 packed[kUnits];
    float scale[kUnits], inverse[kUnits];
    UNROLL
    for (int u = 0; u < kUnits; u++) {
        const int at = first + u * kThreads;
        if (at >= n_units) continue;
        packed[u] = *reinterpret_cast<const Packed16*>(a.w.packed + (size_t)at * 8);
        scale[u] = nf4_scale(a.w, at / (LC_NF4_BLOCK / 16));
        inverse[u] = 1.f / a.scales[at / units_a_row];
    }
    UNROLL
    for (int u = 0; u < kUnits; u++) {
        const int at = first + u * kThreads;
        if (at >= n_units) continue;
        Codes16 y;
        UNROLL
        for (int h = 0; h < 2; h++) {
            float v[8];
            nf4_decode8(table, packed[u].v[h], v);
            UNROLL
            for (int i = 0; i < 8; i++) v[i] = v[i] * scale[u] * inverse[u];
            y.v[2 * h] = e4m3_pack4(v[0], v[1], v[2], v[3]);
            y.v[2 * h + 1] = e4m3_pack4(v[4], v[5], v[6], v[7]);
        }
        *reinterpret_cast<Codes16*>(a.y + (size_t)at * 16) = y;
    }
}

constexpr int kTileK = 64, kTileN = 128, kLd = kTileN + 16;
static_assert(kThreads / 32 * 16 == kTileN, "a warp turns 16 rows of the weight");

__global__ void __launch_bounds__(kThreads) transposed(lc_nf4_fp8_args a) {
    NF4_TABLE(table);
    SHARED(uint8_t, tile, kTileK * kLd); // [k][n]
    SHARED(float, inverse, kTileK);      // of the scales
    const int N = a.w.N, K = a.w.K, n0 = blockIdx.y * kTileN, k0 = blockIdx.x * kTileK;
    const int lane = threadIdx.x % 32, k = lane % 8 * 8, n = threadIdx.x / 32 * 16 + lane / 8 * 4;
    const bool inside = n0 + n < N && k0 + k < K;
    uint32_t packed[4];
    float scale[4];
    if (inside) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            const size_t at = (size_t)(n0 + n + j) * K + k0 + k;
            packed[j] = load4(a.w.packed + at / 2);
            scale[j] = nf4_scale(a.w, at / LC_NF4_BLOCK);
        }
    }
    const int nth = threadIdx.x;
    if (nth < kTileK && k0 + nth < K) inverse[nth] = 1.f / a.scales[k0 + nth];
    __syncthreads();
    if (inside) {
        float v[4][8];
        const Floats8 of_k = load_floats8(inverse + k);
        UNROLL
        for (int j = 0; j < 4; j++) nf4_decode8(table, packed[j], v[j]);
        UNROLL
        for (int i = 0; i < 8; i++) {
            const uint32_t word = e4m3_pack4(v[0][i] * scale[0] * of_k.v[i], v[1][i] * scale[1] * of_k.v[i],
                                             v[2][i] * scale[2] * of_k.v[i], v[3][i] * scale[3] * of_k.v[i]);
            *reinterpret_cast<uint32_t*>(tile + (k + i) * kLd + n) = word;
        }
    }
    __syncthreads();
    for (int u = threadIdx.x; u < kTileK * kTileN / 16; u += kThreads) {
        const int row = u / (kTileN / 16), c = u % (kTileN / 16) * 16;
        if (k0 + row < K && n0 + c < N)
            *reinterpret_cast<Codes16*>(a.y + (size_t)(k0 + row) * N + n0 + c) =
                *reinterpret_cast<const Codes16*>(tile + row * kLd + c);
    }
}

const char* fault_of(const lc_nf4& w) {
    if (const char* fault = nf4_fault(w)) return fault;
    if (w.N % 16 != 0 || w.K % 16 != 0) return "N % 16 == 0 && K % 16 == 0";
    return (int64_t)w.N * w.K < (int64_t)1 << 34 ? nullptr : "N K < 2^34";
}
} // namespace

LC_API lc_status LC(nf4_fp8_scales)(const lc_nf4_fp8_scales_args* a, lc_stream stream) {
    if (const char* fault = fault_of(a->w)) return lc_status{LC_BAD_SHAPE, 0, fault};
    LC_REQUIRE(aligned16(a->row_scales, a->column_scales), LC_MISALIGNED);
    LC_TRY(launch<row_scales>(dim3(ceil_div(a->w.N, kRows)), dim3(32 * kRows), 0, stream, *a));
    return launch<column_scales>(dim3(ceil_div(a->w.K, 64)), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(nf4_fp8)(const lc_nf4_fp8_args* a, lc_stream stream) {
    if (const char* fault = fault_of(a->w)) return lc_status{LC_BAD_SHAPE, 0, fault};
    LC_REQUIRE(aligned16(a->scales, a->y), LC_MISALIGNED);
    if (a->transposed) {
        const dim3 grid(ceil_div(a->w.K, kTileK), ceil_div(a->w.N, kTileN));
        return launch<transposed>(grid, dim3(kThreads), 0, stream, *a);
    }
    const int n_units = (int)((int64_t)a->w.N * a->w.K / 16);
    return launch<rows>(dim3(ceil_div(n_units, kThreads * kUnits)), dim3(kThreads), 0, stream, *a);
}
