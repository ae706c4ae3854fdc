// mma_fp8.cuh - tensor-core products of a warp on e4m3: D[m,n] += sum_k A[m,k] B[n,k], fp32 accumulation.
//
// warp_mma_fp8 multiplies whole k-tiles of shared memory, both operands with k contiguous (8-bit fragments know no transpose):
// A [MT*16, KS*32], B [NT*8, KS*32] bytes; lda, ldb in bytes, an odd number of 16-byte units. Accumulators are those of mma.cuh.
//
// Fragments (PTX ISA, mma.m16n8k32, 8-bit): lane = 4 g + t.  A: a0 (g, 4t..4t+3) a1 (g+8, same) a2 (g, 4t+16..) a3 (g+8, same).
// B: b0 (k = 4t.., n = g) b1 (k = 4t+16.., n = g).  D as m16n8k16. These are the fragments of m16n8k16 with each pair of bytes in
// the place of one 16-bit element, so ldmatrix and its addresses are mma.cuh's, on pairs.
//
// A GPU adds with less than fp32 inside one instruction (Hopper about 14 bits, as published by those who measured it): 2^-13 of a
// partial sum, far below e4m3's own 2^-4 an element. The host adds in fp32. sm_89 and sm_120 have the instruction (QMMA); for
// sm_90 the compiler unpacks to fp16 and multiplies that (two HMMA and their unpacking), which is right but no faster than bf16.
#pragma once
#include "device/mma.cuh"

#if defined(__CUDACC__)
LC_INLINE void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
#elif !defined(LC_FP32)
#include "host/leaf_fp8.h"
#endif

#if defined(__CUDACC__) || !defined(LC_FP32)
// As warp_mma_steps: fragments are loaded one pair of columns ahead of the products that take them.
template <int KS, int MT, int NT>
LC_INLINE void warp_mma_fp8_steps(float (&acc)[MT][NT][4], const uint8_t* a, int lda, const uint8_t* b, int ldb) {
    constexpr int kPairs = NT / 2;
    const act *pairs_a = reinterpret_cast<const act*>(a), *pairs_b = reinterpret_cast<const act*>(b);
    uint32_t fa[2][MT][4], fb[2][4];
#pragma unroll
    for (int i = 0; i < MT; i++) load_a<Major::kRows>(fa[0][i], pairs_a, lda / 2, i, 0);
    load_b<Major::kRows>(fb[0], pairs_b, ldb / 2, 0, 0);
#pragma unroll
    for (int k = 0; k < KS; k++) {
#pragma unroll
        for (int j = 0; j < kPairs; j++) {
            const int n = k * kPairs + j;
            if (n + 1 < KS * kPairs)
                load_b<Major::kRows>(fb[(n + 1) & 1], pairs_b, ldb / 2, (j + 1) % kPairs, k + (j + 1) / kPairs);
            if (k + 1 < KS) {
#pragma unroll
                for (int i = j * MT / kPairs; i < (j + 1) * MT / kPairs; i++)
                    load_a<Major::kRows>(fa[(k + 1) & 1][i], pairs_a, lda / 2, i, k + 1);
            }
#pragma unroll
            for (int i = 0; i < MT; i++) {
                mma_m16n8k32_e4m3(acc[i][2 * j], fa[k & 1][i], fb[n & 1][0], fb[n & 1][1]);
                mma_m16n8k32_e4m3(acc[i][2 * j + 1], fa[k & 1][i], fb[n & 1][2], fb[n & 1][3]);
            }
        }
    }
}

template <int KS, int MT, int NT>
LC_INLINE void warp_mma_fp8(float (&acc)[MT][NT][4], const uint8_t* a, int lda, const uint8_t* b, int ldb) {
    static_assert(NT % 2 == 0, "one ldmatrix.x4 reads B for two tiles of 8 columns");
#if defined(__CUDACC__) || defined(LC_LANEWISE)
    warp_mma_fp8_steps<KS>(acc, a, lda, b, ldb);
#else
    static_assert(MT * 16 <= lc_host::kMaxM && NT * 8 <= lc_host::kMaxN && KS * 32 <= lc_host::kMaxK,
                  "leaf.h: larger tiles");
    lc_host::Fp8Call call{MT, NT, KS, a, lda, b, ldb};
    LC_ESCAPE(&acc[0][0][0]);
    lc_host::warp_mma_fp8_fused(call, &acc[0][0][0]);
#endif
}
#endif
