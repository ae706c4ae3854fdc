// wgmma.cuh - tensor-core products of a warpgroup (sm_90a): D[64, 8 NT] += A[64, 16 KS] B[8 NT, 16 KS], bf16, fp32 sums.
//
// Four warps multiply together; warp w owns rows 16 w .. 16 w + 15 of D, in registers laid out as those of mma.cuh:
// element (j, r) of lane 4 g + t is row 16 w + g + 8 (r / 2), column 8 j + 2 t + r % 2.
// Operands lie in shared memory as bulk copies leave them, rows of 64 elements swizzled over 128 bytes, tiles on multiples
// of 1024 bytes:
//   kRows  [rows, 64], k contiguous: A, and B of x W^T. The next 16 of k are 32 bytes on.
//   kCols  boxes of [64 k, 64 n] one after another, n contiguous: B of dy W. The next 16 of k are 16 rows on.
// warpgroup_mma_ra takes A from registers, in the order accumulators come out.
//
// It is asynchronous: begin (registers are ready), products, commit, and wait<N> until at most N groups are under way; in
// between neither the accumulators nor the tiles may be touched. `acc` is passed to the wait so that no compiler moves a use of
// it ahead. The descriptor (PTX ISA, wgmma, matrix descriptor): bits 0-13 address / 16, 16-29 leading and 32-45 stride
// offset / 16, 62-63 swizzle (1: 128 bytes). kRows: stride = 8 rows = 1024 bytes. kCols: stride = 8 rows of k, leading = from
// one box to the next. The host reads operands through the very same descriptors (host/hopper.cpp).
#pragma once
#include "device/mma.cuh"
#include "device/sm90/bulk.cuh"

#ifndef LC_FP32
#ifdef __CUDACC__
LC_INLINE uint64_t wgmma_address(const act* tile) { return (uint64_t)(shared_address(tile) >> 4 & 0x3fff); }
#else
LC_INLINE uint64_t wgmma_address(const act* tile) { return lc_host::shared_offset(tile) >> 4 & 0x3fff; }
#endif

// box_rows: rows of a box of kCols, how far the next 64 columns lie.
template <Major M>
LC_INLINE uint64_t wgmma_descriptor(const act* tile, int box_rows = 64) {
    const uint64_t stride = 8 * kSwizzleBytes >> 4, leading = M == Major::kCols ? box_rows * kSwizzleBytes >> 4 : 1;
    return wgmma_address(tile) | leading << 16 | stride << 32 | (uint64_t)1 << 62;
}
// What is added to a descriptor for the next 16 of k.
template <Major M>
constexpr uint32_t kWgmmaStep = (M == Major::kCols ? 16 * kSwizzleBytes : 32) >> 4;

#ifdef __CUDACC__
#define LC_D4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define LC_D16(j) LC_D4(j), LC_D4(j + 1), LC_D4(j + 2), LC_D4(j + 3)
#define LC_D32(j) LC_D16(j), LC_D16(j + 4)
// 32 numbers each: %0 .. %31 and so on.
#define LC_NAMES_0 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LC_NAMES_1                                                                                                  \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,"  \
    "%59,%60,%61,%62,%63"
#define LC_NAMES_2                                                                                                  \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,"  \
    "%91,%92,%93,%94,%95"
#define LC_NAMES_3                                                                                                  \
    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,"    \
    "%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define LC_WGMMA(n, names, a, b, trans) \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names "}, %" a ", %" b ", 1, 1, 1, 0, %" trans ";"
#define LC_WGMMA_FP8(n, names, a, b) \
    "wgmma.mma_async.sync.aligned.m64n" n "k32.f32.e4m3.e4m3 {" names "}, %" a ", %" b ", 1, 1, 1;"
#define LC_WGMMA_RA(n, names, a0, a1, a2, a3, b, trans)                                               \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names "}, {%" a0 ",%" a1 ",%" a2 ",%" a3 \
    "}, %" b ", 1, 1, 1, %" trans ";"

template <int kTrans, int NT>
LC_INLINE void wgmma_k16(float (&d)[NT][4], uint64_t a, uint64_t b) {
    static_assert(NT == 8 || NT == 16 || NT == 24 || NT == 32, "64, 128, 192 or 256 columns");
    if constexpr (NT == 8)
        asm volatile(LC_WGMMA("64", LC_NAMES_0, "32", "33", "34") : LC_D32(0) : "l"(a), "l"(b), "n"(kTrans));
    if constexpr (NT == 16)
        asm volatile(LC_WGMMA("128", LC_NAMES_0 "," LC_NAMES_1, "64", "65", "66")
                     : LC_D32(0), LC_D32(8)
                     : "l"(a), "l"(b), "n"(kTrans));
    if constexpr (NT == 24)
        asm volatile(LC_WGMMA("192", LC_NAMES_0 "," LC_NAMES_1 "," LC_NAMES_2, "96", "97", "98")
                     : LC_D32(0), LC_D32(8), LC_D32(16)
                     : "l"(a), "l"(b), "n"(kTrans));
    if constexpr (NT == 32)
        asm volatile(LC_WGMMA("256", LC_NAMES_0 "," LC_NAMES_1 "," LC_NAMES_2 "," LC_NAMES_3, "128", "129", "130")
                     : LC_D32(0), LC_D32(8), LC_D32(16), LC_D32(24)
                     : "l"(a), "l"(b), "n"(kTrans));
}
template <int NT>
LC_INLINE void wgmma_fp8_k32(float (&d)[NT][4], uint64_t a, uint64_t b) {
    static_assert(NT == 16 || NT == 24, "128 or 192 columns");
    if constexpr (NT == 16)
        asm volatile(LC_WGMMA_FP8("128", LC_NAMES_0 "," LC_NAMES_1, "64", "65") : LC_D32(0), LC_D32(8) : "l"(a), "l"(b));
    if constexpr (NT == 24)
        asm volatile(LC_WGMMA_FP8("192", LC_NAMES_0 "," LC_NAMES_1 "," LC_NAMES_2, "96", "97")
                     : LC_D32(0), LC_D32(8), LC_D32(16)
                     : "l"(a), "l"(b));
}
template <int kTrans, int NT>
LC_INLINE void wgmma_ra_k16(float (&d)[NT][4], const uint32_t (&a)[4], uint64_t b) {
    static_assert(NT == 8 || NT == 16, "64 or 128 columns");
    if constexpr (NT == 8)
        asm volatile(LC_WGMMA_RA("64", LC_NAMES_0, "32", "33", "34", "35", "36", "37")
                     : LC_D32(0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kTrans));
    if constexpr (NT == 16)
        asm volatile(LC_WGMMA_RA("128", LC_NAMES_0 "," LC_NAMES_1, "64", "65", "66", "67", "68", "69")
                     : LC_D32(0), LC_D32(8)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kTrans));
}
LC_INLINE void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
LC_INLINE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N, int NT>
LC_INLINE void warpgroup_wait(float (&d)[NT][4]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    UNROLL
    for (int j = 0; j < NT; j++) asm volatile("" : LC_D4(j)::"memory");
}
#endif

template <int KS, Major B, int NT>
LC_INLINE void warpgroup_mma(float (&acc)[NT][4], const act* a, const act* b, int b_box_rows = 64) {
    const uint64_t da = wgmma_descriptor<Major::kRows>(a), db = wgmma_descriptor<B>(b, b_box_rows);
#ifdef __CUDACC__
    UNROLL
    for (int s = 0; s < KS; s++)
        wgmma_k16<B == Major::kCols>(acc, da + s * kWgmmaStep<Major::kRows>, db + s * kWgmmaStep<B>);
#else
    lc_host::WarpgroupCall call{da, db, kWgmmaStep<Major::kRows>, kWgmmaStep<B>, NT, KS, B == Major::kCols, false, nullptr};
    LC_ESCAPE(&acc[0][0]);
    lc_host::warpgroup_mma_fused(call, &acc[0][0], nullptr);
#endif
}
// On e4m3, 32 KS of k: bytes lie as 16-bit elements do, two in the place of one, k contiguous in both operands.
template <int KS, int NT>
LC_INLINE void warpgroup_mma_fp8(float (&acc)[NT][4], const act* a, const act* b) {
    const uint64_t da = wgmma_descriptor<Major::kRows>(a), db = wgmma_descriptor<Major::kRows>(b);
#ifdef __CUDACC__
    UNROLL
    for (int s = 0; s < KS; s++)
        wgmma_fp8_k32(acc, da + s * kWgmmaStep<Major::kRows>, db + s * kWgmmaStep<Major::kRows>);
#else
    lc_host::WarpgroupCall call{da, db, kWgmmaStep<Major::kRows>, kWgmmaStep<Major::kRows>, NT, KS, false, true, nullptr};
    LC_ESCAPE(&acc[0][0]);
    lc_host::warpgroup_mma_fused(call, &acc[0][0], nullptr);
#endif
}
template <int KS, Major B, int NT>
LC_INLINE void warpgroup_mma_ra(float (&acc)[NT][4], const act2 (&a)[KS][1][4], const act* b, int b_box_rows = 64) {
    const uint64_t db = wgmma_descriptor<B>(b, b_box_rows);
#ifdef __CUDACC__
    UNROLL
    for (int s = 0; s < KS; s++) wgmma_ra_k16<B == Major::kCols>(acc, a[s][0], db + s * kWgmmaStep<B>);
#else
    lc_host::WarpgroupCall call{0, db, 0, kWgmmaStep<B>, NT, KS, B == Major::kCols, false, nullptr};
    LC_ESCAPE(&acc[0][0]);
    LC_ESCAPE(&a[0][0][0]);
    lc_host::warpgroup_mma_fused(call, &acc[0][0], &a[0][0][0]);
#endif
}

#ifndef __CUDACC__
LC_INLINE void warpgroup_begin() {}
#if LC_CHECKED
LC_INLINE void warpgroup_commit() { lc_host::check_products_commit(); }
template <int N, int NT>
LC_INLINE void warpgroup_wait(float (&acc)[NT][4]) {
    LC_ESCAPE(&acc[0][0]);
    lc_host::check_products_wait(N);
    LC_ESCAPE(&acc[0][0]);
}
#else
LC_INLINE void warpgroup_commit() {}
template <int N, int NT>
LC_INLINE void warpgroup_wait(float (&)[NT][4]) {}
#endif
#endif
#endif
