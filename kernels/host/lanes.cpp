// lanes.cpp - ldmatrix and mma.sync m16n8k16 as the PTX manual defines them, and the choice of the fused leaf's copy.
#include "lc.h"
#include "host/leaf.h"

namespace lc_host {
#ifdef __x86_64__
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

static bool has_base() {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
    return true;
#endif
}

#if LC_CHECKED
// The ldmatrix.x4 of this call's body in steps (device/mma.cuh: a_row, b_row), one after another.
static void count_steps(const MmaCall& call, const void* pc) {
    // Matrices along the rows first, or along the columns: the two orders in which lanes 8-15 and 16-31 come.
    auto matrices = [&](const void* tile, int ld, int row0, int col0, bool rows_first) {
        const void* row[32];
        for (int l = 0; l < 32; l++) {
            const int low = l >> 3 & 1, high = l >> 4, r = l & 7;
            row[l] = (const uint16_t*)tile + (row0 + r + 8 * (rows_first ? low : high)) * ld + col0 +
                     8 * (rows_first ? high : low);
        }
        check_matrices(row, pc);
    };
    for (int k = 0; k < call.ks; k++) {
        for (int i = 0; i < call.mt && call.a; i++)
            call.a_cols ? matrices(call.a, call.lda, k * 16, i * 16, false)
                        : matrices(call.a, call.lda, i * 16, k * 16, true);
        for (int j = 0; j < call.nt / 2; j++)
            call.b_cols ? matrices(call.b, call.ldb, k * 16, j * 16, true)
                        : matrices(call.b, call.ldb, j * 16, k * 16, false);
    }
}
#endif

void mma_tile(const MmaCall& call, float* const* acc, const void* const* a_regs) {
#if LC_CHECKED
    // What ldmatrix would read: rows of the tiles, 8 elements at a time, by changing lanes.
    const void* pc = __builtin_return_address(0);
    auto read_tile = [&](const void* tile, int ld, int rows, int columns) {
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < columns; c += 8)
                check_read((i + 2 * c) & 31, (const char*)tile + ((size_t)i * ld + c) * call.elem_bytes,
                           8 * call.elem_bytes, pc);
    };
    const int m = call.mt * 16, n = call.nt * 8, k = call.ks * 16;
    if (call.a) read_tile(call.a, call.lda, call.a_cols ? k : m, call.a_cols ? m : k);
    read_tile(call.b, call.ldb, call.b_cols ? k : n, call.b_cols ? n : k);
    if (call.elem_bytes == 2) count_steps(call, pc);
#endif
    leaf_tile(call, acc, a_regs);
}

void leaf_tile(const MmaCall& call, float* const* acc, const void* const* a_regs) {
#ifdef __x86_64__
    static const bool wide = has_avx512(), pairs = has_avx512_bf16();
    if (pairs && call.elem_bytes == 2) return leaf_bf16::mma_tile(call, acc, a_regs);
    if (wide) return leaf_avx512::mma_tile(call, acc, a_regs);
#endif
    leaf_base::mma_tile(call, acc, a_regs);
}

// Matrix j's rows are at lanes 8j .. 8j+7; lane 4g + t receives elements 2t, 2t+1 of row g (trans: of column g).
void ldmatrix_leaf(uint32_t* const* r, const void* const* row, bool trans) {
#if LC_CHECKED
    for (uint32_t l = 0; l < 32; l++) check_read(l, row[l], 16, __builtin_return_address(0));
    check_matrices(row, __builtin_return_address(0));
#endif
    uint16_t m[4][8][8];
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 8; i++) memcpy(m[j][i], row[j * 8 + i], 16);
    for (int l = 0; l < 32; l++)
        for (int j = 0; j < 4; j++) {
            int g = l >> 2, t = l & 3;
            uint32_t low = trans ? m[j][2 * t][g] : m[j][g][2 * t],
                     high = trans ? m[j][2 * t + 1][g] : m[j][g][2 * t + 1];
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
}  // namespace lc_host

// Kernels are compiled for x86-64-v3 (2013 and later); asked before the first of them runs.
extern "C" int lc_host_cpu_ok() { return lc_host::has_base(); }
