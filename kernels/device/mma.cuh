// mma.cuh - tensor-core products of a warp: D[m,n] += sum_k A[m,k] B[n,k], bf16 inputs, fp32 accumulation.
//
// A warp owns an accumulator of MT x NT tiles of 16 x 8. warp_mma multiplies whole k-tiles lying in shared memory:
//   A: [MT*16, KS*16] with k contiguous (kRows), or stored transposed, [KS*16, MT*16] with m contiguous (kCols)
//   B: [NT*8,  KS*16] with k contiguous (kRows), or [KS*16, NT*8] with n contiguous (kCols)
// a and b point at the warp's tile (the same in all lanes); lda, ldb are row strides in elements: multiples of 8, and
// with 16-byte units per row odd (e.g. 64 + 8) ldmatrix has no bank conflicts.
// `meanwhile` is called once, when the products of the first k16 step are under way: its instructions find room between them.
// warp_mma_ra takes A from registers, in the order accumulators come out (flash attention's P).
//
// The body in steps, loops of ldmatrix + mma.sync m16n8k16, is the CUDA implementation. On the host one call is one
// rendezvous computed by host/leaf.h (5 times faster); the machine's own tests hold it against the body in steps, and
// `--features lanewise` runs every kernel on the steps, lane by lane.
//
// Fragments (PTX ISA, mma.m16n8k16): lane = 4 g + t.  A: a0 (g, 2t) a1 (g+8, 2t) a2 (g, 2t+8) a3 (g+8, 2t+8), pairs
// along k.  B: b0 (k = 2t, n = g) b1 (k = 2t+8, n = g), pairs along k.  D: d0 d1 (g, 2t..2t+1), d2 d3 (g+8, 2t..2t+1).
#pragma once
#include "device/kernel.cuh"

enum class Major { kRows, kCols };

struct Nothing {
    LC_INLINE void operator()() const {}
};

// Row and column of accumulator element (i, j, r) of this lane inside the warp's tile.
LC_INLINE int acc_row(int lane, int i, int r) { return i * 16 + (lane >> 2) + (r >> 1) * 8; }
LC_INLINE int acc_col(int lane, int j, int r) { return j * 8 + (lane & 3) * 2 + (r & 1); }

template <int MT, int NT>
LC_INLINE void acc_zero(float (&acc)[MT][NT][4]) {
    UNROLL
    for (int i = 0; i < MT; i++) {
        UNROLL
        for (int j = 0; j < NT; j++) {
            UNROLL
            for (int r = 0; r < 4; r++) acc[i][j][r] = 0.f;
        }
    }
}

#if defined(__CUDACC__)
LC_INLINE void ldmatrix_x4(uint32_t (&r)[4], const act* row) {
    unsigned p = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p));
}
LC_INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], const act* row) {
    unsigned p = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p));
}
LC_INLINE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LC_INLINE int lane_id() { return threadIdx.x & 31; }
#else
#include "host/leaf.h"
#endif

// ldmatrix moves 16-bit elements: the fp32 build of the host has no steps.
#if defined(__CUDACC__) || !defined(LC_FP32)
// Where lane l points for the four 8x8 matrices of one ldmatrix.x4, so that registers come out in fragment order.
template <Major A>
LC_INLINE const act* a_row(const act* a, int lda, int i, int k, int l) {
    return A == Major::kRows ? a + (i * 16 + (l & 15)) * lda + k * 16 + (l >> 4) * 8
                             : a + (k * 16 + (l & 7) + (l >> 4) * 8) * lda + i * 16 + ((l >> 3) & 1) * 8;
}
template <Major B>
LC_INLINE const act* b_row(const act* b, int ldb, int j2, int k, int l) {
    return B == Major::kRows ? b + (j2 * 16 + (l & 7) + (l >> 4) * 8) * ldb + k * 16 + ((l >> 3) & 1) * 8
                             : b + (k * 16 + (l & 15)) * ldb + j2 * 16 + (l >> 4) * 8;
}

template <Major A>
LC_INLINE void load_a(uint32_t (&f)[4], const act* a, int lda, int i, int k) {
    A == Major::kRows ? ldmatrix_x4(f, a_row<A>(a, lda, i, k, lane_id()))
                      : ldmatrix_x4_trans(f, a_row<A>(a, lda, i, k, lane_id()));
}
template <Major B>
LC_INLINE void load_b(uint32_t (&f)[4], const act* b, int ldb, int j2, int k) {
    B == Major::kRows ? ldmatrix_x4(f, b_row<B>(b, ldb, j2, k, lane_id()))
                      : ldmatrix_x4_trans(f, b_row<B>(b, ldb, j2, k, lane_id()));
}
template <int MT, int NT>
LC_INLINE void mma_pair(float (&acc)[MT][NT][4], const uint32_t (&fa)[MT][4], const uint32_t (&fb)[4], int j2) {
#pragma unroll
    for (int i = 0; i < MT; i++) {
        mma_m16n8k16(acc[i][2 * j2], fa[i], fb[0], fb[1]);
        mma_m16n8k16(acc[i][2 * j2 + 1], fa[i], fb[2], fb[3]);
    }
}
// Fragments are loaded one pair of columns ahead of the products that take them, those of A spread over the products of
// the k16 step before: while ldmatrix is under way there is always a product to issue.
template <int KS, Major A, Major B, int MT, int NT, class Meanwhile = Nothing>
LC_INLINE void warp_mma_steps(float (&acc)[MT][NT][4], const act* a, int lda, const act* b, int ldb,
                              Meanwhile meanwhile = Meanwhile()) {
    constexpr int kPairs = NT / 2;
    uint32_t fa[2][MT][4], fb[2][4];
#pragma unroll
    for (int i = 0; i < MT; i++) load_a<A>(fa[0][i], a, lda, i, 0);
    load_b<B>(fb[0], b, ldb, 0, 0);
#pragma unroll
    for (int k = 0; k < KS; k++) {
#pragma unroll
        for (int j = 0; j < kPairs; j++) {
            const int n = k * kPairs + j;
            if (n + 1 < KS * kPairs) load_b<B>(fb[(n + 1) & 1], b, ldb, (j + 1) % kPairs, k + (j + 1) / kPairs);
            if (k + 1 < KS) {
#pragma unroll
                for (int i = j * MT / kPairs; i < (j + 1) * MT / kPairs; i++)
                    load_a<A>(fa[(k + 1) & 1][i], a, lda, i, k + 1);
            }
            mma_pair(acc, fa[k & 1], fb[n & 1], j);
        }
        if (k == 0) meanwhile();
    }
}
template <int KS, Major B, int MT, int NT>
LC_INLINE void warp_mma_ra_steps(float (&acc)[MT][NT][4], const act2 (&a)[KS][MT][4], const act* b, int ldb) {
    constexpr int kPairs = NT / 2;
    uint32_t fb[2][4];
    load_b<B>(fb[0], b, ldb, 0, 0);
#pragma unroll
    for (int n = 0; n < KS * kPairs; n++) {
        if (n + 1 < KS * kPairs) load_b<B>(fb[(n + 1) & 1], b, ldb, (n + 1) % kPairs, (n + 1) / kPairs);
        mma_pair(acc, a[n / kPairs], fb[n & 1], n % kPairs);
    }
}
#endif

template <int KS, Major A = Major::kRows, Major B = Major::kRows, int MT, int NT, class Meanwhile = Nothing>
LC_INLINE void warp_mma(float (&acc)[MT][NT][4], const act* a, int lda, const act* b, int ldb,
                        Meanwhile meanwhile = Meanwhile()) {
    static_assert(NT % 2 == 0, "one ldmatrix.x4 reads B for two tiles of 8 columns");
#if defined(__CUDACC__) || (defined(LC_LANEWISE) && !defined(LC_FP32))
    warp_mma_steps<KS, A, B>(acc, a, lda, b, ldb, meanwhile);
#else
    static_assert(MT * 16 <= lc_host::kMaxM && NT * 8 <= lc_host::kMaxN && KS * 16 <= lc_host::kMaxK,
                  "leaf.h: larger tiles");
    lc_host::MmaCall call{MT, NT, KS, A == Major::kCols, B == Major::kCols, a, lda, b, ldb, sizeof(act)};
    LC_ESCAPE(&acc[0][0][0]);
    meanwhile();
    lc_host::warp_mma_fused(call, &acc[0][0][0], nullptr);
#endif
}
template <int KS, Major B = Major::kRows, int MT, int NT>
LC_INLINE void warp_mma_ra(float (&acc)[MT][NT][4], const act2 (&a)[KS][MT][4], const act* b, int ldb) {
    static_assert(NT % 2 == 0, "one ldmatrix.x4 reads B for two tiles of 8 columns");
#if defined(__CUDACC__) || (defined(LC_LANEWISE) && !defined(LC_FP32))
    warp_mma_ra_steps<KS, B>(acc, a, b, ldb);
#else
    static_assert(MT * 16 <= lc_host::kMaxM && NT * 8 <= lc_host::kMaxN && KS * 16 <= lc_host::kMaxK,
                  "leaf.h: larger tiles");
    lc_host::MmaCall call{MT, NT, KS, false, B == Major::kCols, nullptr, 0, b, ldb, sizeof(act)};
    LC_ESCAPE(&acc[0][0][0]);
    LC_ESCAPE(&a[0][0][0]);
    lc_host::warp_mma_fused(call, &acc[0][0][0], &a[0][0][0]);
#endif
}

// The A operand of warp_mma_ra from shared memory, for a tile that is multiplied many times.
template <int KS, int MT>
LC_INLINE void warp_load_a(act2 (&a)[KS][MT][4], const act* tile, int lda) {
    const int l = lane_id();
    UNROLL
    for (int k = 0; k < KS; k++) {
        UNROLL
        for (int i = 0; i < MT; i++) {
#if defined(__CUDACC__) || !defined(LC_FP32)
            ldmatrix_x4(a[k][i], a_row<Major::kRows>(tile, lda, i, k, l));
#else
            for (int r = 0; r < 4; r++) {
                const act* p = tile + (i * 16 + l / 4 + r % 2 * 8) * lda + k * 16 + l % 4 * 2 + r / 2 * 8;
                a[k][i][r] = act2{p[0], p[1]};
            }
#endif
        }
    }
}

// The A operand of the next product from this one's accumulators: rows stay rows, columns become k.
template <int KS, int MT, int NT>
LC_INLINE void acc_to_a(act2 (&a)[KS][MT][4], const float (&acc)[MT][NT][4]) {
    static_assert(NT == 2 * KS, "16 columns of the accumulator make one k16 step");
    UNROLL
    for (int k = 0; k < KS; k++) {
        UNROLL
        for (int i = 0; i < MT; i++) {
            UNROLL
            for (int h = 0; h < 2; h++) {
                a[k][i][2 * h] = pack2(acc[i][2 * k + h][0], acc[i][2 * k + h][1]);
                a[k][i][2 * h + 1] = pack2(acc[i][2 * k + h][2], acc[i][2 * k + h][3]);
            }
        }
    }
}
