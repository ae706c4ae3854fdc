// leaf_bf16.cpp - the tensor core on processors that multiply bf16 themselves (AVX512_BF16: Zen 4, Cooper Lake and
// later).
//
// vdpbf16ps multiplies two pairs that lie along k and adds both products to an fp32 lane, each with one rounding: the
// chain of leaf.cpp at twice its rate, and nothing is widened. Operands stay pairs, 32 bits each: A as [M][K/2], which
// is how it lies in memory when k is contiguous, B as [K/2][N]. bf16 storage only.
#include "lc.h"
#include "host/leaf_parts.h"
#include <immintrin.h>

namespace lc_host {
namespace leaf_bf16 {
typedef uint32_t v16u __attribute__((vector_size(64), may_alias, aligned(4)));
typedef uint16_t v16h __attribute__((vector_size(32), may_alias, aligned(2)));

struct alignas(64) Scratch {
    uint32_t a[kMaxM * kMaxK / 2];
    uint32_t b[kMaxK / 2 * kMaxN];
    float c[kMaxM * kMaxN];
};
static __thread __attribute__((tls_model("initial-exec"))) Scratch scratch;

// A's pair p of row m is at[m * row + p * pair].
struct Pairs {
    const uint32_t* at;
    int row, pair;
};

// dst[k/2][n] from a tile that lies as [k][n]: rows 2p and 2p + 1 become pairs.
static void pair_rows(uint32_t* dst, const void* src, int ld, int k, int n) {
    const uint16_t* s = (const uint16_t*)src;
    for (int p = 0; p < k / 2; p++)
        for (int j = 0; j < n; j += 16) {
            v16u low = __builtin_convertvector(*(const v16h*)(s + 2 * p * ld + j), v16u);
            v16u high = __builtin_convertvector(*(const v16h*)(s + (2 * p + 1) * ld + j), v16u);
            *(v16u*)(dst + p * n + j) = low | high << 16;
        }
}

// A from registers: pair r of lane 4g + t is row g (+ 8 if r is odd), pair t (+ 4 if r >= 2) of its 16 x 16 tile.
static void pairs_of_registers(uint32_t* dst, const MmaCall& call, const void* const* regs) {
    const int row = call.ks * 8;
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < call.ks; k++)
            for (int i = 0; i < call.mt; i++)
                for (int r = 0; r < 4; r++)
                    dst[(i * 16 + (l >> 2) + (r & 1) * 8) * row + k * 8 + (l & 3) + (r >> 1) * 4] =
                        ((const uint32_t*)regs[l])[(k * call.mt + i) * 4 + r];
}

// c[8][16 NV] += A's rows times b.
template <int NV>
LC_INLINE void panel(float* c, int n, const Pairs& a, const uint32_t* b, int n_pairs) {
    __m512 acc[8][NV];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) acc[i][j] = _mm512_loadu_ps(c + i * n + j * 16);
    for (int p = 0; p < n_pairs; p++) {
        __m512i row[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) row[j] = _mm512_loadu_si512(b + p * n + j * 16);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m512i pair = _mm512_set1_epi32((int)a.at[i * a.row + p * a.pair]);
#pragma GCC unroll 2
            for (int j = 0; j < NV; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], (__m512bh)pair, (__m512bh)row[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) _mm512_storeu_ps(c + i * n + j * 16, acc[i][j]);
}

void mma_tile(const MmaCall& call, float* const* acc, const void* const* a_regs) {
    const int M = call.mt * 16, N = call.nt * 8, K = call.ks * 16;
    Pairs a{(const uint32_t*)call.a, call.lda / 2, 1};
    if (!call.a) {
        pairs_of_registers(scratch.a, call, a_regs);
        a = Pairs{scratch.a, K / 2, 1};
    } else if (call.a_cols) {
        pair_rows(scratch.a, call.a, call.lda, K, M);
        a = Pairs{scratch.a, 1, M};
    }
    if (call.b_cols)
        pair_rows(scratch.b, call.b, call.ldb, K, N);
    else
        for (int p = 0; p < K / 2; p += 8)
            for (int n = 0; n < N; n += 8)
                transpose8((float*)scratch.b + p * N + n, N, (const float*)call.b + n * (call.ldb / 2) + p,
                           call.ldb / 2);
    float* c = scratch.c;
    gather_acc(c, N, acc, call);
    for (int m = 0; m < M; m += 8) {
        Pairs rows{a.at + m * a.row, a.row, a.pair};
        int n = 0;
        for (; n + 32 <= N; n += 32) panel<2>(c + m * N + n, N, rows, scratch.b + n, K / 2);
        for (; n < N; n += 16) panel<1>(c + m * N + n, N, rows, scratch.b + n, K / 2);
    }
    scatter_acc(acc, c, N, call);
}
}  // namespace leaf_bf16
}  // namespace lc_host
