// leaf.cpp - the arithmetic of the tensor core on a CPU, compiled once per instruction set (LC_LEAF names the copy).
//
// mma_tile: convert A to af[M][K] and B to bt[K][N] in fp32, gather the lanes' accumulators into c[M][N], multiply by
// panels of rows x vector width held in registers, scatter back. Sums run along k in order, in fp32, as a chain of
// fused multiply-adds; tensor cores round differently within a k-step, which is inside every tolerance we use.
#include "lc.h"
#include "host/leaf_parts.h"

namespace lc_host {
namespace LC_LEAF {

typedef float v16f __attribute__((vector_size(64), may_alias));
typedef uint32_t v8u __attribute__((vector_size(32), may_alias));
typedef uint16_t v8h __attribute__((vector_size(16), may_alias));

// The native vector: 64-byte vectors on an AVX2 build are lowered to scalars (6 instead of 27 GFLOP/s).
#ifdef __AVX512F__
typedef v16f Vec;
constexpr int kWidth = 16, kRows = 8;
LC_INLINE Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
#else
typedef v8f Vec;
constexpr int kWidth = 8, kRows = 4;
LC_INLINE Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x}; }
#endif

struct alignas(64) Scratch {
    float a[kMaxM * kMaxK];
    float b[kMaxK * kMaxN];
    float c[kMaxM * kMaxN];
    float t[kMaxN * kMaxK];
};
static __thread __attribute__((tls_model("initial-exec"))) Scratch scratch;

// c[rows][2 or 1 vectors] += af[rows][k] bt[k][.]
template <int NV>
LC_INLINE void panel(float* c, int ldc, const float* af, int lda, const float* bt, int ldb, int k_end) {
    Vec acc[kRows][NV];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) acc[i][j] = *(const Vec*)(c + i * ldc + j * kWidth);
    for (int k = 0; k < k_end; k++) {
        Vec b[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) b[j] = *(const Vec*)(bt + k * ldb + j * kWidth);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; i++) {
            Vec a = splat(af[i * lda + k]);
#pragma GCC unroll 2
            for (int j = 0; j < NV; j++) acc[i][j] += a * b[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < NV; j++) *(Vec*)(c + i * ldc + j * kWidth) = acc[i][j];
}

// n floats (a multiple of 8) from bf16 or float.
LC_INLINE void widen(float* dst, const void* src, int n, size_t elem_bytes) {
    if (elem_bytes == 4) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    const uint16_t* s = (const uint16_t*)src;
    for (int i = 0; i < n; i += 8) *(v8u*)(dst + i) = __builtin_convertvector(*(const v8h*)(s + i), v8u) << 16;
}

// dst[rows][cols] in fp32 from a tile that lies as [rows][cols], or transposed as [cols][rows].
static void load_tile(float* dst, const void* src, int ld, int rows, int cols, bool transposed, size_t elem_bytes) {
    const char* s = (const char*)src;
    if (!transposed) {
        for (int i = 0; i < rows; i++) widen(dst + i * cols, s + (size_t)i * ld * elem_bytes, cols, elem_bytes);
        return;
    }
    float* t = scratch.t;
    for (int i = 0; i < cols; i++) widen(t + i * rows, s + (size_t)i * ld * elem_bytes, rows, elem_bytes);
    for (int i = 0; i < rows; i += 8)
        for (int j = 0; j < cols; j += 8) transpose8(dst + i * cols + j, cols, t + j * rows + i, rows);
}

// A from registers, [ks][mt][4] pairs a lane: rows g and g + 8, columns 2t, 2t+1 and 2t+8, 2t+9.
static void load_registers(float* dst, const MmaCall& c, const void* const* regs) {
    const int K = c.ks * 16;
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < c.ks; k++)
            for (int i = 0; i < c.mt; i++)
                for (int r = 0; r < 4; r++) {
                    float* d = dst + (i * 16 + (l >> 2) + (r & 1) * 8) * K + k * 16 + (l & 3) * 2 + (r >> 1) * 8;
                    int at = (k * c.mt + i) * 4 + r;
                    if (c.elem_bytes == 4) {
                        memcpy(d, (const float*)regs[l] + at * 2, 8);
                    } else {
                        uint32_t pair = ((const uint32_t*)regs[l])[at], low = pair << 16, high = pair & 0xffff0000u;
                        memcpy(d, &low, 4);
                        memcpy(d + 1, &high, 4);
                    }
                }
}

void mma_tile(const MmaCall& call, float* const* acc, const void* const* a_regs) {
    const int M = call.mt * 16, N = call.nt * 8, K = call.ks * 16;
    float *af = scratch.a, *bt = scratch.b, *c = scratch.c;
    int lda = K;
    if (!call.a)
        load_registers(af, call, a_regs);
    else if (call.elem_bytes == 4 && !call.a_cols)
        af = (float*)call.a, lda = call.lda;
    else
        load_tile(af, call.a, call.lda, M, K, call.a_cols, call.elem_bytes);
    int ldb = N;
    if (call.elem_bytes == 4 && call.b_cols && call.ldb % kWidth == 0 && (uintptr_t)call.b % (kWidth * 4) == 0)
        bt = (float*)call.b, ldb = call.ldb;
    else
        load_tile(bt, call.b, call.ldb, K, N, !call.b_cols, call.elem_bytes);

    gather_acc(c, N, acc, call);
    int n = 0;
    for (; n + 2 * kWidth <= N; n += 2 * kWidth)
        for (int m = 0; m < M; m += kRows) panel<2>(c + m * N + n, N, af + m * lda, lda, bt + n, ldb, K);
    for (; n < N; n += kWidth)
        for (int m = 0; m < M; m += kRows) panel<1>(c + m * N + n, N, af + m * lda, lda, bt + n, ldb, K);
    scatter_acc(acc, c, N, call);
}
}  // namespace LC_LEAF
}  // namespace lc_host
