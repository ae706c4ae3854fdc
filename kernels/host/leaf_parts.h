// leaf_parts.h - what the copies of the tensor core's arithmetic share: moving numbers between layouts.
#pragma once
#include "host/leaf.h"

namespace lc_host {
namespace {
typedef float v8f __attribute__((vector_size(32), may_alias, aligned(4)));
typedef float v4f __attribute__((vector_size(16), may_alias, aligned(4)));

// 8x8 block transpose in vector registers.
LC_INLINE void transpose8(float* dst, int ldd, const float* src, int lds) {
    v8f r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = *(const v8f*)(src + i * lds);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            r[4 * i + 2 * j] = __builtin_shufflevector(t[4 * i + j], t[4 * i + 2 + j], 0, 1, 8, 9, 4, 5, 12, 13);
            r[4 * i + 2 * j + 1] = __builtin_shufflevector(t[4 * i + j], t[4 * i + 2 + j], 2, 3, 10, 11, 6, 7, 14, 15);
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        *(v8f*)(dst + j * ldd) = __builtin_shufflevector(r[j], r[4 + j], 0, 1, 2, 3, 8, 9, 10, 11);
        *(v8f*)(dst + (4 + j) * ldd) = __builtin_shufflevector(r[j], r[4 + j], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// Lane 4g + t holds, per tile, columns 2t, 2t+1 of rows g (d0 d1) and g + 8 (d2 d3): four lanes make a row of 8.
// c: [mt * 16][n] floats, n columns apart.
LC_INLINE void gather_acc(float* c, int n, const float* const* acc, const MmaCall& call) {
    for (int i = 0; i < call.mt; i++)
        for (int j = 0; j < call.nt; j++)
            for (int g = 0; g < 8; g++) {
                const int at = (i * call.nt + j) * 4;
                v4f l0 = *(const v4f*)(acc[4 * g] + at), l1 = *(const v4f*)(acc[4 * g + 1] + at);
                v4f l2 = *(const v4f*)(acc[4 * g + 2] + at), l3 = *(const v4f*)(acc[4 * g + 3] + at);
                float* d = c + (i * 16 + g) * n + j * 8;
                *(v4f*)d = __builtin_shufflevector(l0, l1, 0, 1, 4, 5);
                *(v4f*)(d + 4) = __builtin_shufflevector(l2, l3, 0, 1, 4, 5);
                *(v4f*)(d + 8 * n) = __builtin_shufflevector(l0, l1, 2, 3, 6, 7);
                *(v4f*)(d + 8 * n + 4) = __builtin_shufflevector(l2, l3, 2, 3, 6, 7);
            }
}
LC_INLINE void scatter_acc(float* const* acc, const float* c, int n, const MmaCall& call) {
    for (int i = 0; i < call.mt; i++)
        for (int j = 0; j < call.nt; j++)
            for (int g = 0; g < 8; g++) {
                const int at = (i * call.nt + j) * 4;
                const float* d = c + (i * 16 + g) * n + j * 8;
                v4f x0 = *(const v4f*)d, x1 = *(const v4f*)(d + 4);
                v4f y0 = *(const v4f*)(d + 8 * n), y1 = *(const v4f*)(d + 8 * n + 4);
                *(v4f*)(acc[4 * g] + at) = __builtin_shufflevector(x0, y0, 0, 1, 4, 5);
                *(v4f*)(acc[4 * g + 1] + at) = __builtin_shufflevector(x0, y0, 2, 3, 6, 7);
                *(v4f*)(acc[4 * g + 2] + at) = __builtin_shufflevector(x1, y1, 0, 1, 4, 5);
                *(v4f*)(acc[4 * g + 3] + at) = __builtin_shufflevector(x1, y1, 2, 3, 6, 7);
            }
}
}  // namespace
}  // namespace lc_host
