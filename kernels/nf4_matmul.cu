// nf4_matmul.cu - y = x W^T for a few tokens, W decoded from NF4 in registers (nf4_matmul.h).
//
// Tensor cores, on a GPU. A block makes 16 rows of W for 8 or 16 tokens, its warps sharing out K. Which k a fragment's
//   columns stand for is ours to choose as long as W and x agree, so lane t of a row's four takes the 16 neighbouring
//   weights 16 t .. of a block of 64: eight bytes of codes and 32 of x, one and two loads, and nothing passes through
//   shared memory. A table gives both values of a byte as a register of the fragment. Four products make a block of 64,
//   which is then scaled and added in fp32; warps' sums are added in their order.
// Plain, where K is no multiple of 64, in fp32 storage and on a CPU. A warp makes four rows for up to eight tokens, lane by
//   lane; lanes' sums are laid out in shared memory and added by one lane per result, in lane order.
//
// precision  sums in fp32. Tensor cores take map16 rounded to storage, as weights that were decoded first are rounded.
// work       as above. A part is one of several W that share x; blocks are counted through all parts.
// cost       reads W once per sixteen (plain: eight) tokens, N K / 2 bytes: bound by memory. Bytes under way and
//            instructions a weight are counted in kernels/README.md.
// checked    tests/ops/nf4.rs against tools/golden/nf4.py
#include "nf4_matmul.h"
#include "device/mma.cuh"
#include "device/nf4.cuh"

namespace {
// The part that a block works on, and the block's number in it, for blocks of `rows` rows.
LC_INLINE const lc_nf4_matmul_part& part_of(const lc_nf4_matmul_args& a, int rows, int& block) {
    int p = 0;
    for (; p + 1 < a.n_parts; p++) {
        const int n_blocks = ceil_div(a.part[p].w.N, rows);
        if (block < n_blocks) break;
        block -= n_blocks;
    }
    return a.part[p];
}

LC_INLINE void put(act* y, float sum, int write) { *y = from_f(write == LC_ADD ? to_f(*y) + sum : sum); }

#ifndef LC_FP32
namespace tensor {
constexpr int kWarps = 8, kRows = 16, kAhead = 2; // blocks of 64 whose codes are under way at once
static_assert(2 * kAhead == 4, "a scale a lane");

template <int kGroups> // of eight tokens
__global__ void __launch_bounds__(32 * kWarps) nf4_matmul_tensor(lc_nf4_matmul_args a) {
    constexpr int kTokens = 8 * kGroups;
    NF4_PAIRS(pair, act2);
    SHARED(float, sums, kWarps * kTokens * kRows);
    int block = blockIdx.x;
    const lc_nf4_matmul_part& part = part_of(a, kRows, block);
    const lc_nf4 w = part.w;
    const int warp = threadIdx.x / 32, lane = lane_id(), g = lane / 4, t = lane % 4;
    const int n0 = block * kRows, m0 = blockIdx.y * kTokens, n_blocks = w.K / LC_NF4_BLOCK;
    // Rows behind the last are made of it, and not stored.
    const uint8_t* rows[2];
    UNROLL
    for (int h = 0; h < 2; h++) rows[h] = w.packed + (size_t)min(n0 + g + 8 * h, w.N - 1) * (w.K / 2);
    const int row = min(n0 + g + t % 2 * 8, w.N - 1);

    float acc[kGroups][4] = {};
    for (int first = warp * kAhead; first < n_blocks; first += kWarps * kAhead) {
        uint2 codes[kAhead][2];
        float scale[kAhead][2];
        UNROLL
        for (int b = 0; b < kAhead; b++) {
            const size_t at = min(first + b, n_blocks - 1) * (LC_NF4_BLOCK / 2) + t * 8;
            UNROLL
            for (int h = 0; h < 2; h++) codes[b][h] = load8_once(rows[h] + at);
        }
        // The four lanes of a row decode one scale each: row g + 8 (t % 2), block first + t / 2.
        const int its = first + t / 2;
        const float mine = its < n_blocks ? nf4_scale(w, (size_t)row * n_blocks + its) : 0.f;
        UNROLL
        for (int b = 0; b < kAhead; b++) {
            UNROLL
            for (int h = 0; h < 2; h++) scale[b][h] = __shfl_sync(0xffffffffu, mine, g * 4 + 2 * b + h);
        }
        UNROLL
        for (int b = 0; b < kAhead; b++) {
            act2 x[kGroups][8];
            UNROLL
            for (int i = 0; i < kGroups; i++) {
                const int m = m0 + 8 * i + g;
                const act* from = a.x + (size_t)min(m, a.M - 1) * a.ldx + min(first + b, n_blocks - 1) * LC_NF4_BLOCK + t * 16;
                load8(from, x[i]);
                load8(from + 8, x[i] + 4);
            }
            float sum[kGroups][4] = {};
            UNROLL
            for (int s = 0; s < 4; s++) { // bytes 2s and 2s + 1 of the eight
                const int at = 2 * s % 4;
                const uint32_t low = s < 2 ? codes[b][0].x : codes[b][0].y, high = s < 2 ? codes[b][1].x : codes[b][1].y;
                const uint32_t fragment[4] = {pair(low, at), pair(high, at), pair(low, at + 1), pair(high, at + 1)};
                UNROLL
                for (int i = 0; i < kGroups; i++) mma_m16n8k16(sum[i], fragment, x[i][2 * s], x[i][2 * s + 1]);
            }
            UNROLL
            for (int i = 0; i < kGroups; i++) {
                UNROLL
                for (int r = 0; r < 4; r++) acc[i][r] += scale[b][r / 2] * sum[i][r];
            }
        }
    }
    UNROLL
    for (int i = 0; i < kGroups; i++) {
        UNROLL
        for (int r = 0; r < 4; r++) {
            const int token = 8 * i + acc_col(lane, 0, r);
            sums[(warp * kTokens + token) * kRows + acc_row(lane, 0, r)] = acc[i][r];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kTokens * kRows; i += 32 * kWarps) {
        const int m = m0 + i / kRows, n = n0 + i % kRows;
        if (m >= a.M || n >= w.N) continue;
        float sum = 0.f;
        for (int v = 0; v < kWarps; v++) sum += sums[v * kTokens * kRows + i];
        put(part.y + (size_t)m * part.ldy + n, sum, a.write);
    }
}
} // namespace tensor
#endif

namespace plain {
constexpr int kWarps = 4, kRows = 4, kMaxTokens = 8;

template <int kTokens>
__global__ void __launch_bounds__(32 * kWarps) nf4_matmul(lc_nf4_matmul_args a) {
    constexpr int kValues = kTokens * kRows;
    NF4_TABLE(table);
    SHARED(float, parts, kWarps * 32 * (kValues + 1));
    int block = blockIdx.x;
    const lc_nf4_matmul_part& part = part_of(a, kWarps * kRows, block);
    const lc_nf4 w = part.w;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, N = w.N, K = w.K;
    const int n0 = (block * kWarps + warp) * kRows, m0 = blockIdx.y * kTokens;
    if (n0 >= N) return; // a whole warp leaves

    float acc[kTokens][kRows];
    UNROLL
    for (int m = 0; m < kTokens; m++) {
        UNROLL
        for (int r = 0; r < kRows; r++) acc[m][r] = 0.f;
    }
    for (int k = lane * 8; k < K; k += 256) {
        uint32_t packed[kRows];
        float scale[kRows], value[kRows][8];
        UNROLL
        for (int r = 0; r < kRows; r++) {
            const size_t at = (size_t)min(n0 + r, N - 1) * K + k;
            packed[r] = load4(w.packed + at / 2);
            scale[r] = nf4_scale(w, at / LC_NF4_BLOCK);
        }
        UNROLL
        for (int r = 0; r < kRows; r++) nf4_decode8(table, packed[r], value[r]);
        UNROLL
        for (int m = 0; m < kTokens; m++) {
            if (m0 + m >= a.M) continue;
            const act8 x = load8(a.x + (size_t)(m0 + m) * a.ldx + k);
            UNROLL
            for (int r = 0; r < kRows; r++) {
                float part = 0.f;
                UNROLL
                for (int i = 0; i < 8; i++) part += to_f(x.v[i]) * value[r][i];
                acc[m][r] += scale[r] * part;
            }
        }
    }

    float* const mine = parts + warp * 32 * (kValues + 1);
    UNROLL
    for (int m = 0; m < kTokens; m++) {
        UNROLL
        for (int r = 0; r < kRows; r++) mine[lane * (kValues + 1) + m * kRows + r] = acc[m][r];
    }
    __syncwarp();
    if (lane >= kValues) return;
    const int m = m0 + lane / kRows, n = n0 + lane % kRows;
    if (m >= a.M || n >= N) return;
    float sum = 0.f;
    for (int l = 0; l < 32; l++) sum += mine[l * (kValues + 1) + lane];
    put(part.y + (size_t)m * part.ldy + n, sum, a.write);
}
} // namespace plain

template <auto K>
lc_status run(const lc_nf4_matmul_args& a, int rows, int tokens, int threads, lc_stream stream) {
    int n_blocks = 0;
    for (int p = 0; p < a.n_parts; p++) n_blocks += ceil_div(a.part[p].w.N, rows);
    return launch<K>(dim3(n_blocks, ceil_div(a.M, tokens)), dim3(threads), 0, stream, a);
}

template <int kTokens>
lc_status run_plain(const lc_nf4_matmul_args& a, lc_stream stream) {
    return run<plain::nf4_matmul<kTokens>>(a, plain::kWarps * plain::kRows, kTokens, 32 * plain::kWarps, stream);
}

bool on_tensor_cores(const lc_nf4_matmul_args& a) {
#if defined(LC_FP32)
    return false;
#elif defined(__CUDACC__) || LC_CHECKED || defined(LC_LANEWISE)
    return a.way != LC_NF4_MATMUL_PLAIN && a.part[0].w.K % LC_NF4_BLOCK == 0;
#else
    return a.way == LC_NF4_MATMUL_TENSOR; // lane by lane: for tests
#endif
}
} // namespace

LC_API lc_status LC(nf4_matmul)(const lc_nf4_matmul_args* a, lc_stream stream) {
    LC_REQUIRE(a->n_parts >= 1 && a->n_parts <= LC_NF4_MATMUL_PARTS, LC_BAD_SHAPE);
    for (int p = 0; p < a->n_parts; p++) {
        const lc_nf4_matmul_part& part = a->part[p];
        if (const char* fault = nf4_fault(part.w)) return lc_status{LC_BAD_SHAPE, 0, fault};
        LC_REQUIRE(part.w.K == a->part[0].w.K && part.w.K % 8 == 0 && part.ldy >= part.w.N, LC_BAD_SHAPE);
    }
    LC_REQUIRE(a->M > 0 && a->ldx % 8 == 0 && a->ldx >= a->part[0].w.K, LC_BAD_SHAPE);
    LC_REQUIRE(a->way != LC_NF4_MATMUL_TENSOR || a->part[0].w.K % LC_NF4_BLOCK == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x), LC_MISALIGNED);
#ifndef LC_FP32
    if (on_tensor_cores(*a)) {
        using namespace tensor;
        if (a->M <= 8) return run<nf4_matmul_tensor<1>>(*a, kRows, 8, 32 * kWarps, stream);
        return run<nf4_matmul_tensor<2>>(*a, kRows, 16, 32 * kWarps, stream);
    }
#endif
    if (a->M == 1) return run_plain<1>(*a, stream);
    if (a->M == 2) return run_plain<2>(*a, stream);
    if (a->M <= 4) return run_plain<4>(*a, stream);
    return run_plain<plain::kMaxTokens>(*a, stream);
}
