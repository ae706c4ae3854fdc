// lanes.cpp - ldmatrix and mma.sync m16n8k16 as the PTX manual defines them, and the choice of the fused leaf's copy.
#include "lc.h"
#include "host/leaf.h"

namespace lc_host {
namespace leaf_base {
void mma_tile(const MmaCall&, float* const*, const void* const*);
}
namespace leaf_avx512 {
void mma_tile(const MmaCall&, float* const*, const void* const*);
}

static bool use_avx512() {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
#else
    return false;
#endif
}

void mma_tile(const MmaCall& call, float* const* acc, const void* const* a_regs) {
#if LC_CHECKED
    // What ldmatrix would read: lane l reads rows of the A and B tiles, 8 elements at a time.
    if (call.a) {
        int rows = (call.a_cols ? call.ks : call.mt) * 16, chunks = (call.a_cols ? call.mt : call.ks) * 2;
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < chunks; c++)
                check_read((i + 16 * (c & 1)) & 31, (const char*)call.a + ((size_t)i * call.lda + c * 8) * call.elem_bytes,
                           8 * call.elem_bytes);
    }
    int rows = call.b_cols ? call.ks * 16 : call.nt * 8, chunks = call.b_cols ? call.nt : call.ks * 2;
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < chunks; c++)
            check_read((i + 16 * (c & 1)) & 31, (const char*)call.b + ((size_t)i * call.ldb + c * 8) * call.elem_bytes,
                       8 * call.elem_bytes);
#endif
#ifdef __x86_64__
    static const bool wide = use_avx512();
    if (wide) {
        leaf_avx512::mma_tile(call, acc, a_regs);
        return;
    }
#endif
    leaf_base::mma_tile(call, acc, a_regs);
}

// Matrix j's rows are at lanes 8j .. 8j+7; lane 4g + t receives elements 2t, 2t+1 of row g (trans: of column g).
void ldmatrix_leaf(uint32_t* const* r, const void* const* row, bool trans) {
#if LC_CHECKED
    check_rows(row, 16);
#endif
    uint16_t m[4][8][8];
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 8; i++) memcpy(m[j][i], row[j * 8 + i], 16);
    for (int l = 0; l < 32; l++)
        for (int j = 0; j < 4; j++) {
            int g = l >> 2, t = l & 3;
            uint32_t low = trans ? m[j][2 * t][g] : m[j][g][2 * t], high = trans ? m[j][2 * t + 1][g] : m[j][g][2 * t + 1];
            r[l][j] = low | high << 16;
        }
}

static float low(uint32_t pair) {
    pair <<= 16;
    float f;
    memcpy(&f, &pair, 4);
    return f;
}
static float high(uint32_t pair) {
    pair &= 0xffff0000u;
    float f;
    memcpy(&f, &pair, 4);
    return f;
}

void mma_leaf(float* const* d, const uint32_t* const* a, const uint32_t* const* b) {
    float A[16][16], B[8][16];
    for (int l = 0; l < 32; l++) {
        int g = l >> 2, t = l & 3;
        for (int r = 0; r < 4; r++) {
            int m = g + (r & 1) * 8, k = t * 2 + (r >> 1) * 8;
            A[m][k] = low(a[l][r]);
            A[m][k + 1] = high(a[l][r]);
        }
        for (int r = 0; r < 2; r++) {
            int k = t * 2 + r * 8;
            B[g][k] = low(b[l][r]);
            B[g][k + 1] = high(b[l][r]);
        }
    }
    for (int l = 0; l < 32; l++)
        for (int r = 0; r < 4; r++) {
            int m = (l >> 2) + (r >> 1) * 8, n = (l & 3) * 2 + (r & 1);
            float c = d[l][r];
            for (int k = 0; k < 16; k++) c = __builtin_fmaf(A[m][k], B[n][k], c);
            d[l][r] = c;
        }
}
} // namespace lc_host
